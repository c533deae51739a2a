//! Tables: CSV and its kin, whose first row names the columns.

use super::shape::{self, quoted};
use crate::bytes::Limits;
use crate::error::{Error, Result};
use crate::text::Json;
use csv_core::{ReadRecordResult, ReaderBuilder};
use std::prelude::v1::*;

/// What may separate columns.
const SEPARATORS: [(u8, &str); 4] = [(b',', "commas"), (b';', "semicolons"), (b'\t', "tabs"), (b'|', "bars")];
/// Columns whose cells are JSON, since they hold no text.
const TYPED: [&str; 12] = [
    "label",
    "weight",
    "tokens",
    "mask",
    "messages",
    "conversations",
    "aligned",
    "tools",
    "history",
    "data",
    "preferred_output",
    "non_preferred_output",
];

/// Gives every row to `row`, with the line where it begins, from 1. `columns` are keys that columns of other names stand for.
/// Returns what was guessed.
///
/// # Errors
/// `Invalid` if the columns make no shape that is known.
pub fn rows(
    text: &str,
    tabs: bool,
    columns: &[(String, String)],
    limits: &Limits,
    row: &mut dyn FnMut(usize, Result<Json>),
) -> Result<String> {
    let separator = if tabs { b'\t' } else { separator(text) };
    let mut records = Records::new(text, separator);
    let Some((_, header)) = records.next().transpose_line()? else { return Err(Error::invalid("data", "no rows")) };
    let keys = keys(&header, columns)?;
    for (line, cells) in records {
        row(line, cells.and_then(|cells| object(&keys, cells, limits)));
    }
    let name = SEPARATORS.iter().find(|(byte, _)| *byte == separator).map_or("", |(_, name)| name);
    let by = if keys.len() > 1 { format!(", separated by {name}") } else { String::new() };
    Ok(format!("a table with the columns {}{by}", quoted(header.iter().map(String::as_str))))
}

/// Whether the first line of a text names columns that make a shape.
pub fn looks_like(text: &str) -> bool {
    let line = text.lines().next().unwrap_or_default();
    let header = Records::new(line, separator(line)).next().and_then(|(_, cells)| cells.ok()).unwrap_or_default();
    header.len() > 1 && keys(&header, &[]).is_ok()
}

trait TransposeLine {
    fn transpose_line(self) -> Result<Option<(usize, Vec<String>)>>;
}

impl TransposeLine for Option<(usize, Result<Vec<String>>)> {
    fn transpose_line(self) -> Result<Option<(usize, Vec<String>)>> {
        self.map(|(line, cells)| Ok((line, cells.map_err(|e| e.in_file(format!("line {line}")))?))).transpose()
    }
}

/// What separates the columns of the first line.
fn separator(text: &str) -> u8 {
    let line = text.trim_start().lines().next().unwrap_or_default();
    let outside: Vec<&str> = line.split('"').step_by(2).collect();
    let count = |byte: u8| outside.iter().map(|part| part.matches(byte as char).count()).sum::<usize>();
    // Of equals the first.
    SEPARATORS.iter().rev().map(|(byte, _)| *byte).max_by_key(|byte| count(*byte)).unwrap_or(b',')
}

/// The keys of the columns.
fn keys(header: &[String], columns: &[(String, String)]) -> Result<Vec<String>> {
    let names = || quoted(header.iter().map(String::as_str));
    if let Some((_, name)) = columns.iter().find(|(_, name)| !header.iter().any(|cell| same(cell, name))) {
        return Err(Error::invalid("columns", format!("there is no {name:?}, but {}", names())));
    }
    let key = |cell: &String| match columns.iter().find(|(_, name)| same(cell, name)) {
        Some((key, _)) => key.clone(),
        None => cell.trim().to_lowercase().replace([' ', '-'], "_"),
    };
    let keys: Vec<String> = header.iter().map(key).collect();
    if let Some((i, key)) =
        keys.iter().enumerate().find(|(i, key)| !key.is_empty() && keys.iter().take(*i).any(|k| k == *key))
    {
        return Err(Error::invalid(
            "columns",
            format!("{key:?} comes twice, the second time as column {}", i.saturating_add(1)),
        ));
    }
    let found: Vec<&str> = keys.iter().map(String::as_str).collect();
    shape::of(&found).map_err(|why| {
        let known = shape::known();
        let name = "name them (--columns prompt=FIRST,completion=SECOND); the first line of a table names its columns";
        Error::invalid("columns", format!("{}: {why}; {known}; or {name}", names()))
    })?;
    Ok(keys)
}

fn same(cell: &str, name: &str) -> bool {
    cell.trim().to_lowercase() == name.trim().to_lowercase()
}

/// A row as an object.
fn object(keys: &[String], cells: Vec<String>, limits: &Limits) -> Result<Json> {
    if cells.len() != keys.len() {
        let why = format!("{} cells, but the first line names {} columns", cells.len(), keys.len());
        return Err(Error::invalid("row", why));
    }
    let value = |key: &str, cell: String| match TYPED.contains(&key) {
        true if cell.trim().is_empty() => Json::Null,
        true => {
            let small = cell.trim().to_lowercase();
            let text = if ["true", "false"].contains(&small.as_str()) { &small } else { &cell };
            Json::parse(text.as_bytes(), limits.json_depth).unwrap_or(Json::Text(cell))
        }
        false => Json::Text(cell),
    };
    Ok(Json::Object(keys.iter().zip(cells).map(|(key, cell)| (key.clone(), value(key, cell))).collect()))
}

/// The records of a text, with the lines where they begin.
struct Records<'a> {
    reader: csv_core::Reader,
    rest: &'a str,
    line: usize,
}

impl<'a> Records<'a> {
    fn new(text: &'a str, separator: u8) -> Records<'a> {
        Records { reader: ReaderBuilder::new().delimiter(separator).build(), rest: text, line: 1 }
    }
}

impl Iterator for Records<'_> {
    type Item = (usize, Result<Vec<String>>);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest.trim_start_matches(['\r', '\n']);
        let between = self.rest.strip_suffix(rest).unwrap_or_default();
        self.line = self.line.saturating_add(between.matches('\n').count());
        if rest.is_empty() {
            return None;
        }
        let (mut bytes, mut ends) = (vec![0; 256], vec![0; 16]);
        let (mut read, mut written, mut cells) = (0usize, 0usize, 0usize);
        let whole = loop {
            let input = rest.as_bytes().get(read..).unwrap_or_default();
            let (out, marks) = (bytes.get_mut(written..), ends.get_mut(cells..));
            let (result, r, w, c) = self.reader.read_record(input, out.unwrap_or_default(), marks.unwrap_or_default());
            (read, written, cells) = (read.saturating_add(r), written.saturating_add(w), cells.saturating_add(c));
            match result {
                ReadRecordResult::InputEmpty => {} // the next call says that there is no more
                ReadRecordResult::OutputFull => bytes.resize(bytes.len().saturating_mul(2), 0),
                ReadRecordResult::OutputEndsFull => ends.resize(ends.len().saturating_mul(2), 0),
                ReadRecordResult::Record => break true,
                ReadRecordResult::End => break false,
            }
        };
        let ((raw, after), line) = (rest.split_at_checked(read).unwrap_or((rest, "")), self.line);
        (self.rest, self.line) = (after, line.saturating_add(raw.matches('\n').count()));
        if self.rest.is_empty() && raw.trim_end().contains('\n') && raw.matches('"').count() % 2 == 1 {
            return Some((
                line,
                Err(Error::invalid("row", "a quote is opened, and not closed up to the end of the file")),
            ));
        }
        let mut start = 0;
        let cell = |end: &usize| {
            let cell = bytes.get(core::mem::replace(&mut start, *end)..*end).unwrap_or_default();
            String::from_utf8_lossy(cell).into_owned()
        };
        whole.then(|| (line, Ok(ends.iter().take(cells).map(cell).collect())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, columns: &[(&str, &str)]) -> Result<(Vec<(usize, String)>, String)> {
        let mut found = Vec::new();
        let columns: Vec<_> = columns.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
        let note = rows(text, false, &columns, &Limits::DEFAULT, &mut |line, row| {
            found.push((line, row.map_or_else(|e| e.to_string(), |json| json.to_string())));
        })?;
        Ok((found, note))
    }

    #[test]
    fn tables_become_rows() {
        for (text, wanted) in [
            (
                "prompt,completion\n\"a, b\",c\n\n\"d\ne\",\"f \"\"g\"\"\"\n",
                vec![(2, r#"{"prompt":"a, b","completion":"c"}"#), (4, r#"{"prompt":"d\ne","completion":"f \"g\""}"#)],
            ),
            (
                "Prompt;Completion;Label\r\na;b;TRUE\r\nc;d;\r\n",
                vec![
                    (2, r#"{"prompt":"a","completion":"b","label":true}"#),
                    (3, r#"{"prompt":"c","completion":"d","label":null}"#),
                ],
            ),
            ("text\tweight\nhello, you\t0.5", vec![(2, r#"{"text":"hello, you","weight":0.5}"#)]),
            ("text\na,b\nc", vec![(2, "row: 2 cells, but the first line names 1 columns"), (3, r#"{"text":"c"}"#)]),
            ("text\n\"a\nb\nc", vec![(2, "row: a quote is opened, and not closed up to the end of the file")]),
        ] {
            let found = read(text, &[]).unwrap().0;
            let found: Vec<(usize, &str)> = found.iter().map(|(line, row)| (*line, row.as_str())).collect();
            assert_eq!(found, wanted, "{text}");
        }
    }

    #[test]
    fn columns_are_named() {
        let text = "Frage,Antwort\na,b\n";
        let why = |columns: &[(&str, &str)]| read(text, columns).unwrap_err().to_string();
        assert!(why(&[]).contains("\"Frage\", \"Antwort\"") && why(&[]).contains("known are"), "{}", why(&[]));
        assert!(why(&[("prompt", "Frag")]).contains("there is no \"Frag\""));
        assert!(why(&[("prompt", "Frage")]).contains("known are"));
        let (rows, note) = read(text, &[("prompt", "frage"), ("completion", "Antwort")]).unwrap();
        assert_eq!(rows[0].1, r#"{"prompt":"a","completion":"b"}"#);
        assert!(note.contains("commas"), "{note}");
        assert!(read("text,text\n", &[]).unwrap_err().to_string().contains("comes twice"));
        assert!(looks_like("question,answer\n") && !looks_like("Dear diary, today, rain\n"));
    }
}
