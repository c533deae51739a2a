//! Standard output for results, standard error for messages.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;
use std::io::{self, ErrorKind, Write};

/// Prints a message. It is no error if nobody reads it.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
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

/// Prints the text of a result and flushes it.
pub fn print(text: &str) -> anyhow::Result<()> {
    print_bytes(text.as_bytes())
}

/// Writes the bytes of a result and flushes them.
pub fn print_bytes(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(unwritten)
}

/// Prints a result as one line of JSON.
pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&(serde_json::to_string(value)? + "\n"))
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
        _ => "",
    }
}

/// Model text for a terminal: control characters but line ends and tabs are escaped.
pub fn harmless(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        if c.is_control() && c != '\n' && c != '\t' {
            out.extend(c.escape_default())
        } else {
            out.push(c)
        }
        out
    })
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
