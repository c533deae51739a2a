//! What a file holds: by its name, and by its first bytes.

use super::{table, talk};
use crate::error::{Error, Result, printable};
use std::prelude::v1::*;

/// What a file of data holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A text.
    Text,
    /// Rows of JSON.
    Json,
    /// A table: its first row names the columns.
    Table {
        /// Whether tabs separate the columns; otherwise that is guessed.
        tabs: bool,
    },
    /// An export of a chat.
    Chat,
    /// Mails.
    Mail,
}

/// Bytes by which a file is recognised.
const SAMPLE: usize = 4096;

/// Endings of names.
const ENDINGS: [(&str, Format); 14] = [
    ("txt", Format::Text),
    ("text", Format::Text),
    ("md", Format::Text),
    ("markdown", Format::Text),
    ("jsonl", Format::Json),
    ("ndjson", Format::Json),
    ("json", Format::Json),
    ("jsonlines", Format::Json),
    ("csv", Format::Table { tabs: false }),
    ("tsv", Format::Table { tabs: true }),
    ("tab", Format::Table { tabs: true }),
    ("mbox", Format::Mail),
    ("mbx", Format::Mail),
    ("eml", Format::Mail),
];

/// What other files begin with, and what they are.
const FOREIGN: [(&[u8], &str); 22] = [
    (b"%PDF", "a PDF; save its text as .txt"),
    (b"PK\x03\x04", "a ZIP archive, or an office document; save its text as .txt, a table as .csv"),
    (b"\xd0\xcf\x11\xe0", "an old office document; save its text as .txt, a table as .csv"),
    (b"{\\rtf", "an RTF document; save its text as .txt"),
    (b"\x1f\x8b", "a gzip file; unpack it first"),
    (b"BZh", "a bzip2 file; unpack it first"),
    (b"\xfd7zXZ\0", "an xz file; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd file; unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it first"),
    (b"Rar!", "a RAR archive; unpack it first"),
    (b"PAR1", "a Parquet file; save its rows as JSON Lines"),
    (b"ARROW1", "an Arrow file; save its rows as JSON Lines"),
    (b"SQLite format 3", "a SQLite database; save its rows as .csv or JSON Lines"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"GIF8", "a picture"),
    (b"RIFF", "a sound or a picture"),
    (b"OggS", "a sound"),
    (b"ID3", "a sound"),
    (b"\x7fELF", "a program"),
    (b"GGUF", "a model"),
    (b"<?xml", "XML; save its text as .txt"),
];
/// Beginnings of pages.
const PAGES: [&str; 2] = ["<!doctype html", "<html"];

/// Office documents are archives, which their endings tell apart.
const DOCUMENTS: [(&str, &str); 6] = [
    ("docx", "a Word document; save its text as .txt"),
    ("odt", "a text document; save its text as .txt"),
    ("xlsx", "a spreadsheet; save it as .csv"),
    ("ods", "a spreadsheet; save it as .csv"),
    ("pptx", "a presentation; save its text as .txt"),
    ("epub", "a book; save its text as .txt"),
];

impl Format {
    /// What a file holds, and what is to be said of how that was found.
    ///
    /// # Errors
    /// `Unsupported` with what it is, if it is something else.
    pub fn of(name: &str, bytes: &[u8]) -> Result<(Format, Option<String>)> {
        let ending = ending(name);
        let is = |what: &str| Err(Error::unsupported("data", format!("this is {what}")));
        let begin = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
        if let Some((_, what)) = FOREIGN.iter().find(|(magic, _)| bytes.starts_with(magic) || begin.starts_with(magic))
        {
            let document = DOCUMENTS.iter().find(|(end, _)| bytes.starts_with(b"PK") && *end == ending);
            return is(document.map_or(what, |(_, what)| what));
        }
        let page =
            |start: &&str| begin.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start.as_bytes()));
        if PAGES.iter().any(page) {
            return is("a web page; save its text as .txt");
        }
        let known = ENDINGS.iter().find(|(end, _)| *end == ending).map(|(_, format)| *format);
        if let Some(format) = known.filter(|format| *format != Format::Text) {
            return Ok((format, None));
        }
        let sample = sample(bytes);
        if talk::looks_like(&sample) {
            return Ok((Format::Chat, None)); // the reader says so
        }
        let looks = LOOKS.iter().find(|(_, _, is)| is(&sample));
        Ok(match (known, looks) {
            (Some(format), None) => (format, None),
            (Some(format), Some((what, ..))) => {
                (format, Some(format!("it looks like {what}, and is read as text, since its name ends in .{ending}")))
            }
            (None, Some((what, format, _))) => {
                (*format, Some(format!("its name has no known ending; it looks like {what}, and is read so")))
            }
            (None, None) if has_columns(&sample) => {
                let why = "columns with tabs between them, of no known names; call it .tsv, or .txt if it is a text";
                return Err(Error::unsupported("data", why));
            }
            (None, None) => (Format::Text, Some("its name has no known ending; it is read as plain text".into())),
        })
    }
}

/// Whether a text looks like something.
type Looks = fn(&str) -> bool;
/// What texts look like that are more than that.
const LOOKS: [(&str, Format, Looks); 3] = [
    ("JSON", Format::Json, |text| {
        let mut marks = text.chars().filter(|c| !c.is_whitespace());
        let (first, second) = (marks.next(), marks.next());
        matches!(first, Some('{' | '[')) && matches!(second, None | Some('"' | '{' | '[' | '}' | ']'))
    }),
    ("a table", Format::Table { tabs: false }, table::looks_like),
    ("mails", Format::Mail, |text| {
        text.starts_with("From ") && ["\nFrom: ", "\nSubject: "].iter().any(|line| text.contains(line))
    }),
];

/// Whether the first lines have as many tabs each.
fn has_columns(text: &str) -> bool {
    let tabs: Vec<usize> = text.lines().take(4).map(|line| line.trim_end().matches('\t').count()).collect();
    matches!(tabs[..], [a, b, c, ..] if a > 0 && a == b && b == c)
}

/// The beginning of a text, also of one in UTF-16.
fn sample(bytes: &[u8]) -> String {
    let begin: Vec<u8> = bytes.iter().take(SAMPLE).copied().filter(|byte| !matches!(byte, 0 | 0xfe | 0xff)).collect();
    String::from_utf8_lossy(begin.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&begin)).into_owned()
}

/// Whether the ending of a name is known.
pub fn is_known(name: &str) -> bool {
    let ending = ending(name);
    ENDINGS.iter().any(|(end, _)| *end == ending)
}

/// All known endings.
pub fn endings() -> String {
    ENDINGS.map(|(end, _)| format!(".{end}")).join(", ")
}

/// What follows the last full stop of a file's name.
pub fn ending(name: &str) -> String {
    let name = name.rsplit(['/', '\\']).next().unwrap_or_default();
    name.rsplit_once('.').map(|(_, end)| printable(&end.to_ascii_lowercase())).unwrap_or_default()
}
