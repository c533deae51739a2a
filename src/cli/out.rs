//! Standard output for results, standard error for messages.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use mynah::error::{escaped, is_unseen};
use serde::Serialize;
use std::borrow::Cow;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::Path;

/// Prints a message, which may hold what a file, a model or a person says. It is no error if nobody reads it.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{}", harmless(line));
}

/// Standard output cannot be written to.
#[derive(Debug)]
struct Unwritten(io::Error);

impl std::fmt::Display for Unwritten {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "standard output cannot be written: {}", self.0)
    }
}

impl std::error::Error for Unwritten {}

/// The error for standard output.
pub fn unwritten(e: io::Error) -> anyhow::Error {
    Unwritten(e).into()
}

/// Prints the text of a result, or a piece of one, and flushes it. A terminal gets nothing to act on, others the text as it is.
pub fn print(text: &str) -> anyhow::Result<()> {
    print_bytes(text.as_bytes())
}

/// The same of bytes that may be no text.
pub fn print_bytes(bytes: &[u8]) -> anyhow::Result<()> {
    print_own(&shown(bytes, io::stdout().is_terminal()))
}

/// Bytes as they are written.
fn shown(bytes: &[u8], terminal: bool) -> Cow<'_, [u8]> {
    match terminal {
        true => harmless(&String::from_utf8_lossy(bytes)).into_bytes().into(),
        false => bytes.into(),
    }
}

/// Writes bytes, of which no part is foreign that was not made harmless, and flushes them.
pub fn print_own(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(unwritten)
}

/// Prints a result as one line of JSON.
pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print_own((json(value)? + "\n").as_bytes())
}

/// JSON in which a terminal finds nothing to act on, wherever it goes: its own way of escaping changes no value.
fn json(value: &impl Serialize) -> anyhow::Result<String> {
    let text = serde_json::to_string(value)?;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match is_unseen(c) {
            true => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out += &format!("\\u{unit:04x}")),
            false => out.push(c),
        }
    }
    Ok(out)
}

/// The name of a file, for eyes: in one line.
pub fn name(path: &Path) -> String {
    escaped(&path.to_string_lossy(), is_unseen)
}

/// A table without lines; the columns `right` hold numbers.
pub fn table(head: &[&str], right: impl IntoIterator<Item = usize>) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(head);
    for column in right {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Whether the error means that standard output cannot be written, so that there is no point in going on.
pub fn is_unwritten(e: &anyhow::Error) -> bool {
    e.is::<Unwritten>()
}

/// Whether the error means that the reader of the output has gone.
pub fn is_closed_pipe(e: &anyhow::Error) -> bool {
    e.downcast_ref::<Unwritten>().is_some_and(|e| e.0.kind() == ErrorKind::BrokenPipe)
}

/// An error and its causes on one line. The library's errors, and some others, say their causes themselves.
pub fn why(e: &anyhow::Error) -> String {
    let mut all = String::new();
    for cause in e.chain() {
        let text = cause.to_string();
        if !all.is_empty() && !all.ends_with(&text) {
            all += ": ";
        }
        if !all.ends_with(&text) {
            all += &text;
        }
        if let Some(e) = cause.downcast_ref::<mynah::Error>() {
            all += advice(e.inner());
            break;
        }
    }
    all
}

/// What an option can do about an error of the library, which knows no options.
fn advice(e: &mynah::Error) -> &'static str {
    match e {
        mynah::Error::Altered { .. } => "; of a model, --io read takes a copy in memory",
        mynah::Error::Memory { .. } => {
            "; a smaller --ctx, --batch or --rank takes less, and so does a smaller model: `mynah plan` says how much"
        }
        mynah::Error::Mismatch { what, .. } if what == "weights of the base" => {
            "; --allow-other-base attaches it where this is another quantisation of the same model"
        }
        _ => "",
    }
}

/// Foreign text for a terminal: all on which a terminal acts is escaped, but line ends and tabs.
pub fn harmless(text: &str) -> String {
    escaped(text, |c| is_unseen(c) && c != '\n' && c != '\t')
}

/// A number of things, as in "1 row" and "2 rows".
pub fn count(n: u64, what: &str) -> String {
    format!("{} {what}{}", number(n), if n == 1 { "" } else { "s" })
}

/// A number with commas between thousands.
pub fn number(n: u64) -> String {
    let digits = n.to_string();
    let comma = |i: usize| i > 0 && (digits.len() - i).is_multiple_of(3);
    digits
        .char_indices()
        .fold(String::new(), |out, (i, digit)| if comma(i) { out + "," } else { out } + &digit.to_string())
}

/// Bytes in readable units: `1 234 B`, `56.7 KiB`.
pub fn bytes(n: u64) -> String {
    let units = [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 10 << 10)];
    match units.iter().find(|(_, size)| n >= *size) {
        Some((unit, _)) if *unit == "KiB" => format!("{:.1} KiB", n as f64 / 1024.0),
        Some((unit, size)) => format!("{:.1} {unit}", n as f64 / *size as f64),
        None => format!("{n} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a model, a file or a person may say, and what of it a terminal may see.
    const SAID: [(&str, &str); 8] = [
        ("a\tb\nc", "a\tb\nc"),
        ("\x1b]0;owned\x07\x1b[2J", "\\u{1b}]0;owned\\u{7}\\u{1b}[2J"),
        ("over\rwritten\x08", "over\\rwritten\\u{8}"),
        ("\u{9b}31m\u{7f}", "\\u{9b}31m\\u{7f}"),
        ("gp\u{202e}4.exe", "gp\\u{202e}4.exe"),
        ("\u{2066}\u{2069}\u{200f}", "\\u{2066}\\u{2069}\\u{200f}"),
        ("\u{feff}x\0", "\\u{feff}x\\u{0}"),
        ("né 日本 👩\u{200d}👧 ×", "né 日本 👩\u{200d}👧 ×"),
    ];

    #[test]
    fn a_terminal_gets_nothing_to_act_on_and_a_pipe_all_bytes() {
        for (said, seen) in SAID {
            assert_eq!(harmless(said), seen);
            assert_eq!(&*shown(said.as_bytes(), true), seen.as_bytes());
            assert_eq!(&*shown(said.as_bytes(), false), said.as_bytes());
            let json = json(&said).unwrap();
            assert!(!json.chars().any(is_unseen), "{json}");
            assert_eq!(serde_json::from_str::<String>(&json).unwrap(), said);
            assert!(!name(Path::new(said)).chars().any(is_unseen));
        }
        assert_eq!(&*shown(b"\xff\x1b", true), "\u{fffd}\\u{1b}".as_bytes());
        assert_eq!(&*shown(b"\xff\x1b", false), b"\xff\x1b");
    }
}
