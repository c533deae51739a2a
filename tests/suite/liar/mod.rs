//! A liar's toolbox, and what it makes: files that lie in one place at a time, each with the error that names the lie.
//!
//! A file a format: `gguf.rs`, `model.rs`, `tokenizer.rs`, `peft.rs`, `container.rs`, `data.rs` each have a writer and a table of
//! entries. An entry is called by the section and the number of the list it stands in and what is wrong, `A13 one too long`;
//! entries of a section that nothing here can meet are listed with the reason. `change.rs` changes whole files, byte by byte.
//!
//! Every entry is held to the same: the error's variant, a word of its message, no control character in it, and no reservation
//! larger than the larger of 1 MiB and twice the file. `cargo test --test suite liar:: -- --nocapture` prints the tables.

mod change;
mod container;
mod data;
mod gguf;
mod model;
mod peft;
mod text;
mod tokenizer;

pub use container::seal;
pub use peft::base;

use crate::alloc::largest;
use mynah::error::{Error, Result};
use std::collections::BTreeMap;
use std::ops::Range;

/// An input, and what must become of it.
pub struct Entry {
    /// Section and number, and what is wrong.
    name: String,
    /// Who reads it.
    parser: &'static str,
    /// Bytes of the file; `None` where there is none, and so no bound.
    len: Option<usize>,
    read: Box<dyn FnOnce() -> Result<()>>,
    wanted: Wanted,
}

/// What must become of an input.
enum Wanted {
    Loads,
    /// An error of this variant, with this in its message.
    Refused(&'static str, String),
}

/// A reader of bytes.
pub struct Parser {
    pub name: &'static str,
    pub read: fn(Vec<u8>) -> Result<()>,
}

impl Parser {
    /// A file that this reader refuses.
    pub fn refuses(&'static self, name: impl Into<String>, bytes: Vec<u8>, variant: &'static str, word: &str) -> Entry {
        Entry { wanted: Wanted::Refused(variant, word.into()), ..self.takes(name, bytes) }
    }

    /// A file that this reader takes.
    pub fn takes(&'static self, name: impl Into<String>, bytes: Vec<u8>) -> Entry {
        let len = Some(bytes.len());
        let read = Box::new(move || (self.read)(bytes));
        Entry { name: name.into(), parser: self.name, len, read, wanted: Wanted::Loads }
    }
}

/// An input that is no file.
pub fn refuses(
    name: impl Into<String>,
    variant: &'static str,
    word: &str,
    run: impl FnOnce() -> Result<()> + 'static,
) -> Entry {
    Entry { wanted: Wanted::Refused(variant, word.into()), ..takes(name, run) }
}

/// The same, where nothing is wrong.
pub fn takes(name: impl Into<String>, run: impl FnOnce() -> Result<()> + 'static) -> Entry {
    Entry { name: name.into(), parser: "", len: None, read: Box::new(run), wanted: Wanted::Loads }
}

/// The name of an error's variant, without the file around it.
fn variant(error: &Error) -> &'static str {
    match error.inner() {
        Error::Io { .. } => "Io",
        Error::Corrupt { .. } => "Corrupt",
        Error::Limit { .. } => "Limit",
        Error::Memory { .. } => "Memory",
        Error::Unsupported { .. } => "Unsupported",
        Error::Mismatch { .. } => "Mismatch",
        Error::Changed(_) => "Changed",
        Error::Invalid { .. } => "Invalid",
        _ => "another",
    }
}

/// The most that reading a file may reserve at once.
fn allowed(len: usize) -> usize {
    (1 << 20).max(2 * len)
}

/// Holds all entries of a section of `count` numbers to what they must do, and each number to an entry or a reason. Prints both,
/// and the largest reservation of each reader.
fn check(section: char, count: usize, entries: Vec<Entry>, skipped: &[(usize, &str)]) {
    let mut rows: BTreeMap<usize, usize> = BTreeMap::new();
    let mut most: BTreeMap<&str, (usize, usize, usize, String)> = BTreeMap::new();
    let mut wrong = Vec::new();
    for Entry { name, parser, len, read, wanted } in entries {
        let number = name.strip_prefix(section).and_then(|rest| rest.split(' ').next()?.parse::<usize>().ok());
        *rows.entry(number.unwrap_or_else(|| panic!("{name}: no number of section {section}"))).or_default() += 1;
        let (result, reserved) = largest(read);
        if let Some(len) = len {
            if reserved > allowed(len) {
                wrong.push(format!("{name}: {reserved} bytes reserved at once for a file of {len}"));
            }
            let (files, before, ..) = most.entry(parser).or_default();
            *files += 1;
            if reserved > *before {
                let files = *files;
                most.insert(parser, (files, reserved, len, name.clone()));
            }
        }
        match (result, wanted) {
            (Ok(()), Wanted::Loads) => {}
            (Ok(()), Wanted::Refused(..)) => wrong.push(format!("{name}: it was accepted")),
            (Err(e), Wanted::Loads) => wrong.push(format!("{name}: it was refused: {e}")),
            (Err(e), Wanted::Refused(kind, word)) => {
                let said = e.to_string();
                if variant(&e) != kind || !said.contains(&word) {
                    wrong.push(format!("{name}: wanted {kind} with `{word}`: {} {said}", variant(&e)));
                }
                if said.chars().any(char::is_control) || said.len() > 1000 {
                    wrong.push(format!("{name}: no line for a terminal: {said:?}"));
                }
            }
        }
    }
    for number in 1..=count {
        let (tested, reason) = (rows.contains_key(&number), skipped.iter().any(|(n, _)| *n == number));
        if tested == reason {
            wrong.push(format!("{section}{number}: one of an entry and a reason is wanted"));
        }
    }
    let all: usize = rows.values().sum();
    println!("section {section}: {} of {count} covered by {all} inputs", rows.len());
    skipped.iter().for_each(|(number, why)| println!("  {section}{number} does not apply: {why}"));
    for (parser, (files, reserved, len, name)) in most {
        println!("  {parser}: {files} files; at most {reserved} bytes at once, for {len} bytes of `{name}`");
    }
    assert!(wrong.is_empty(), "{} of section {section} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Bytes that know what they are made of: a writer of any binary format, every field of which can lie.
#[derive(Clone, Default)]
pub struct Fields {
    pub bytes: Vec<u8>,
    fields: Vec<(String, Range<usize>)>,
}

impl Fields {
    pub fn raw(mut self, name: impl Into<String>, value: &[u8]) -> Fields {
        let start = self.bytes.len();
        self.bytes.extend(value);
        self.fields.push((name.into(), start..self.bytes.len()));
        self
    }

    pub fn u16(self, name: impl Into<String>, value: u16) -> Fields {
        self.raw(name, &value.to_le_bytes())
    }

    pub fn u32(self, name: impl Into<String>, value: u32) -> Fields {
        self.raw(name, &value.to_le_bytes())
    }

    pub fn u64(self, name: impl Into<String>, value: u64) -> Fields {
        self.raw(name, &value.to_le_bytes())
    }

    /// The same bytes with another value of a field, of any length.
    pub fn with(&self, name: &str, value: &[u8]) -> Vec<u8> {
        let field = self.fields.iter().find(|(field, _)| field == name);
        let (_, range) = field.unwrap_or_else(|| panic!("no field {name}"));
        let mut bytes = self.bytes.clone();
        bytes.splice(range.clone(), value.iter().copied());
        bytes
    }

    /// Every field of up to eight bytes with every extreme value, and every longer one without its first and its last byte, with
    /// other bytes, and twice.
    pub fn lies(&self) -> impl Iterator<Item = (String, Vec<u8>)> + '_ {
        self.fields.iter().flat_map(move |(name, range)| {
            let held = &self.bytes[range.clone()];
            let values: Vec<Vec<u8>> = match held.len() {
                n @ (1 | 2 | 4 | 8) => extremes(n, held),
                _ => vec![
                    held.get(1..).unwrap_or_default().to_vec(),
                    held.split_last().map_or(&[][..], |(_, rest)| rest).to_vec(),
                    vec![0xff; held.len()],
                    vec![0; held.len()],
                    b"\x1b[2J\n".to_vec(),
                    "../x".into(),
                    [held, held].concat(),
                ],
            };
            let others = values.into_iter().filter(move |value| value != held);
            others.map(move |value| (format!("{name} = {value:02x?}"), self.with(name, &value)))
        })
    }
}

/// Numbers of so many bytes at which arithmetic goes wrong, and the neighbours of what is there.
fn extremes(n: usize, held: &[u8]) -> Vec<Vec<u8>> {
    let held = held.iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    let edges = [7, 8, 15, 16, 31, 32, 40, 53, 63].into_iter().flat_map(|bit| {
        let power = 1u64 << bit;
        [power - 1, power, power + 1]
    });
    let near = [held.wrapping_sub(1), held.wrapping_add(1), held.wrapping_mul(2), held.swap_bytes()];
    let all = edges.chain(near).chain([0, 1, 2, 3, 5, 9, 13, u64::MAX - 31, u64::MAX - 7, u64::MAX]);
    let mut all: Vec<Vec<u8>> = all.map(|value| value.to_le_bytes()[..n].to_vec()).collect();
    all.sort();
    all.dedup();
    all
}
