//! mynah's own file format, for adapters and checkpoints: named sections, every byte covered by a checksum.
//!
//! [`head`] has small typed facts, [`codec`] long runs of parameters, [`packed`] the spelling of small files that are sent.
//!
#![doc = include_str!("../../docs/format.md")]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::todo,
        clippy::arithmetic_side_effects
    )
)]

pub mod codec;
pub mod head;
pub mod packed;

use self::head::Head;
use crate::bytes::{Bytes, Cursor, Limits};
use crate::error::{Error, Result, printable};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::prelude::v1::*;

const MAGIC: [u8; 8] = [0x8d, b'M', b'Y', b'N', b'\r', b'\n', 0x1a, b'\n'];
const END: [u8; 8] = *b"MYNAHEND";
const MAJOR: u16 = 1;
const MINOR: u16 = 0;
const HEADER: usize = 32;
const ROW: usize = 48;
const KIND: usize = 8;
const NAME: usize = 16;
const HASH: usize = 32;
const TRAILER: usize = HASH + END.len();

/// A file whose every byte was checked.
#[derive(Clone)]
pub struct Container {
    bytes: Bytes,
    kind: [u8; KIND],
    minor: u16,
    sections: Vec<Section>,
    packed: bool,
}

#[derive(Clone)]
struct Section {
    name: [u8; NAME],
    start: usize,
    end: usize,
    required: bool,
}

impl Container {
    /// # Errors
    /// `Corrupt` for everything that violates the specification, naming the damaged section if there is one;
    /// `Unsupported` for another file format or major version; `Limit` for too many sections or bytes.
    pub fn read(bytes: Bytes, limits: &Limits) -> Result<Container> {
        Limits::check("bytes of a file", bytes.len() as u64, limits.file)?;
        if bytes.starts_with(&packed::START) {
            return packed::read(bytes, limits);
        }
        let mut cursor = Cursor::new(&bytes);
        read_magic(&mut cursor)?;
        let (major, minor) = (cursor.u16()?, cursor.u16()?);
        if major != MAJOR {
            let found = format!("{major}.{minor}; this build reads {MAJOR}");
            return Err(Error::unsupported("container version", found));
        }
        let at = cursor.offset();
        let count = cursor.u32()?;
        let length = cursor.u64()?;
        check_length(length, bytes.len())?;
        let kind = cursor.array()?;
        word(&kind).ok_or_else(|| Error::corrupt("kind is not a valid name", at))?;

        Limits::check("sections", count.into(), limits.sections)?;
        let room = cursor.remaining().saturating_sub(TRAILER);
        let count = usize::try_from(count).ok().filter(|n| n.checked_mul(ROW).is_some_and(|need| need <= room));
        let Some(count) = count else {
            return Err(Error::corrupt(
                format!("the table of sections is longer than the {room} bytes that follow"),
                at,
            ));
        };
        let sections = read_table(&mut cursor, count, &bytes)?;
        check_trailer(&bytes, cursor.offset(), &sections)?;
        Ok(Container { kind, minor, sections, bytes, packed: false })
    }

    /// What the file holds, for example `adapter`.
    pub fn kind(&self) -> &str {
        word(&self.kind).unwrap_or_default()
    }

    /// Major and minor version of the file.
    pub fn version(&self) -> (u16, u16) {
        (MAJOR, self.minor)
    }

    /// The sections in the order of the file: name, whether a reader must know it, bytes.
    pub fn sections(&self) -> impl Iterator<Item = (&str, bool, usize)> {
        self.sections.iter().map(|s| (s.name(), s.required, s.end.saturating_sub(s.start)))
    }

    /// The section of that name, if there is one.
    pub fn section(&self, name: &str) -> Option<Bytes> {
        let place = self.sections.binary_search_by(|s| s.name().cmp(name)).ok()?;
        let section = self.sections.get(place)?;
        self.bytes.slice(section.start..section.end).ok()
    }

    /// The section of that name.
    ///
    /// # Errors
    /// `Corrupt` if there is none.
    pub fn require(&self, name: &str) -> Result<Bytes> {
        self.section(name).ok_or_else(|| Error::corrupt(format!("no section `{}`", printable(name)), 0))
    }

    /// The facts of a section, in the spelling of this file.
    ///
    /// # Errors
    /// `Corrupt` if there is no such section, or its bytes violate the specification; `Limit` for too many.
    pub fn facts(&self, name: &str, limits: &Limits) -> Result<Head> {
        let bytes = self.require(name)?;
        if self.packed { packed::read_facts(&bytes, limits) } else { Head::decode(&bytes, limits) }
    }

    /// The bytes of this file, in its spelling, with a section that readers may skip in the place of one of that name.
    ///
    /// # Panics
    /// As [`Builder::section`].
    pub fn with(&self, name: &str, bytes: &[u8]) -> Vec<u8> {
        let mut out = Builder::new(self.kind()).section(name, false, bytes);
        for section in self.sections.iter().filter(|section| section.name() != name) {
            let held = self.bytes.get(section.start..section.end).unwrap_or_default();
            out = out.section(section.name(), section.required, held);
        }
        if self.packed { out.finish_packed() } else { out.finish() }
    }

    /// # Errors
    /// `Mismatch` unless the file holds `kind`.
    pub fn require_kind(&self, kind: &str) -> Result<()> {
        if self.kind() == kind { Ok(()) } else { Err(Error::mismatch("kind of file", kind, self.kind())) }
    }

    /// # Errors
    /// `Unsupported` if a required section is not among the `known`.
    pub fn refuse_unknown(&self, known: &[&str]) -> Result<()> {
        let stranger = self.sections.iter().find(|s| s.required && !known.contains(&s.name()));
        stranger.map_or(Ok(()), |s| {
            let (major, minor) = self.version();
            Err(Error::unsupported(
                "section",
                format!("`{}`, required by this file of version {major}.{minor}", s.name()),
            ))
        })
    }
}

impl Section {
    fn name(&self) -> &str {
        word(&self.name).unwrap_or_default()
    }
}

/// Collects sections and writes the file.
pub struct Builder<'a> {
    kind: String,
    sections: BTreeMap<String, (bool, Pieces<'a>)>,
}

/// The bytes of a section, piece by piece.
type Pieces<'a> = Vec<Cow<'a, [u8]>>;

impl<'a> Builder<'a> {
    /// For a file that holds `kind`.
    ///
    /// # Panics
    /// If `kind` is not one to eight characters of `a-z 0-9 . _ -`.
    pub fn new(kind: &str) -> Self {
        assert!(spell::<KIND>(kind).is_some(), "`{kind}` is no kind");
        Builder { kind: kind.into(), sections: BTreeMap::new() }
    }

    /// Adds a section. `required`: a reader that does not know it must refuse the file.
    ///
    /// # Panics
    /// If `name` is not one to sixteen characters of `a-z 0-9 . _ -`, or was added before.
    pub fn section(self, name: &str, required: bool, bytes: impl Into<Cow<'a, [u8]>>) -> Self {
        self.pieces(name, required, vec![bytes.into()])
    }

    /// Adds a section whose bytes lie in several slices.
    ///
    /// # Panics
    /// As [`Builder::section`].
    pub fn pieces(mut self, name: &str, required: bool, pieces: Vec<Cow<'a, [u8]>>) -> Self {
        assert!(spell::<NAME>(name).is_some(), "`{name}` is no section name");
        let before = self.sections.insert(name.into(), (required, pieces));
        assert!(before.is_none(), "section `{name}` comes twice");
        self
    }

    /// Adds a section of facts, in the packed spelling: for [`Builder::finish_packed`].
    ///
    /// # Panics
    /// As [`Builder::section`].
    pub fn packed_facts(self, name: &str, required: bool, head: &Head) -> Self {
        self.section(name, required, packed::write_facts(head))
    }

    /// The bytes of the packed file: see [`packed`].
    pub fn finish_packed(&self) -> Vec<u8> {
        packed::write(&self.kind, self.sections.iter().map(|(name, (required, p))| (name.as_str(), *required, p)))
    }

    /// The bytes of the file. The same content gives the same bytes, in whatever order it was added.
    pub fn finish(&self) -> Vec<u8> {
        // Sums of sizes of existing vectors do not overflow.
        let table_end = HEADER.saturating_add(ROW.saturating_mul(self.sections.len()));
        let data: usize = self.sections.values().fold(0, |n, (_, pieces)| n.saturating_add(padded(len(pieces))));
        let length = table_end.saturating_add(data).saturating_add(TRAILER);
        let mut out = Vec::with_capacity(length);
        out.extend(MAGIC);
        out.extend(MAJOR.to_le_bytes());
        out.extend(MINOR.to_le_bytes());
        out.extend((self.sections.len() as u32).to_le_bytes());
        out.extend((length as u64).to_le_bytes());
        out.extend(spell::<KIND>(&self.kind).unwrap_or_default());
        let mut offset = table_end;
        for (name, (required, pieces)) in &self.sections {
            out.extend(spell::<NAME>(name).unwrap_or_default());
            out.extend((offset as u64).to_le_bytes());
            out.extend((len(pieces) as u64).to_le_bytes());
            out.extend(checksum(pieces.iter().map(|piece| &**piece)));
            out.extend(u32::from(*required).to_le_bytes());
            out.extend(0u32.to_le_bytes());
            offset = offset.saturating_add(padded(len(pieces)));
        }
        for (_, pieces) in self.sections.values() {
            pieces.iter().for_each(|piece| out.extend_from_slice(piece));
            out.resize(padded(out.len()), 0);
        }
        out.extend(blake3::hash(&out).as_bytes());
        out.extend(END);
        out
    }
}

/// # Errors
/// `Corrupt` if a file that names its length has another.
fn check_length(length: u64, found: usize) -> Result<()> {
    let what = match length.cmp(&(found as u64)) {
        core::cmp::Ordering::Equal => return Ok(()),
        core::cmp::Ordering::Greater => format!("incomplete: {found} of {length} bytes; copy it again"),
        core::cmp::Ordering::Less => format!("{found} bytes, of which only {length} belong to it"),
    };
    Err(Error::corrupt(what, found))
}

/// `n` rounded up to a multiple of 8.
fn padded(n: usize) -> usize {
    n.checked_next_multiple_of(8).unwrap_or(usize::MAX)
}

fn len(pieces: &[Cow<[u8]>]) -> usize {
    pieces.iter().fold(0, |n, piece| n.saturating_add(piece.len()))
}

fn checksum<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> [u8; 8] {
    let mut hash = blake3::Hasher::new();
    pieces.for_each(|piece| _ = hash.update(piece));
    let mut out = [0; 8];
    out.iter_mut().zip(hash.finalize().as_bytes()).for_each(|(o, h)| *o = *h);
    out
}

/// A kind or name, padded with zeros; `None` if it is not a valid name or too long.
fn spell<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut out = [0; N];
    out.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
    word(&out).filter(|w| *w == text).map(|_| out)
}

/// A name that was padded with zeros; `None` if it is empty, has other characters, or zeros inside.
fn word(padded: &[u8]) -> Option<&str> {
    let len = padded.iter().position(|&b| b == 0).unwrap_or(padded.len());
    let (text, rest) = padded.split_at_checked(len)?;
    let fits = !text.is_empty()
        && text.iter().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
        && rest.iter().all(|&b| b == 0);
    core::str::from_utf8(text).ok().filter(|_| fits)
}

fn read_magic(cursor: &mut Cursor<'_>) -> Result<()> {
    let no = |why: String| Err(Error::invalid("not a file of mynah's", why));
    let Ok(magic) = cursor.array::<8>() else {
        return no(match cursor.remaining() {
            0 => "it is empty; copy or make it again".into(),
            n => format!("it has {n} bytes"),
        });
    };
    if magic == MAGIC {
        return Ok(());
    }
    if packed::was_text(&magic) {
        return Err(Error::corrupt("damaged by a transfer that took it for text; send it as binary", 0));
    }
    if magic.starts_with(b"GGUF") {
        return no("it is a GGUF file".into());
    }
    // 8D M Y N survives partly: the high byte is cut to 0D or spelt in UTF-8, or line ends were rewritten.
    if magic.get(1..4) == Some(b"MYN") || magic.get(2..5) == Some(b"MYN") {
        return Err(Error::corrupt("damaged by a transfer that took it for text; send it as binary", 0));
    }
    no(format!("it begins with the bytes {magic:02x?}"))
}

fn read_table(cursor: &mut Cursor<'_>, count: usize, bytes: &[u8]) -> Result<Vec<Section>> {
    let mut sections: Vec<Section> = Vec::with_capacity(count);
    // This does not overflow: the caller has checked the table.
    let mut next = HEADER.saturating_add(ROW.saturating_mul(count));
    let last = bytes.len().saturating_sub(TRAILER);
    for _ in 0..count {
        let at = cursor.offset();
        let name: [u8; NAME] = cursor.array()?;
        let text = word(&name).ok_or_else(|| Error::corrupt("section name is not valid", at))?;
        let bad = |what: String| Err(Error::corrupt(format!("section `{text}`: {what}"), at));
        if sections.last().is_some_and(|before| before.name() >= text) {
            return bad("out of order or twice".into());
        }
        let (offset, length) = (cursor.u64()?, cursor.u64()?);
        let sum: [u8; 8] = cursor.array()?;
        let (required, reserved) = (cursor.u32()?, cursor.u32()?);
        if required > 1 || reserved != 0 {
            return bad(format!("flags {required:#x} {reserved:#x}"));
        }
        if offset != next as u64 {
            return bad(format!("offset {offset}, wanted {next}"));
        }
        let range = usize::try_from(length)
            .ok()
            .and_then(|n| Some((next.checked_add(n)?, next.checked_add(n.checked_next_multiple_of(8)?)?)))
            .filter(|(_, after)| *after <= last);
        let Some((end, after)) = range else {
            return bad(format!("{length} bytes at {offset} exceed the end of the data at {last}"));
        };
        if bytes.get(next..end).map(|bytes| checksum([bytes].into_iter())) != Some(sum) {
            return bad("its checksum differs, the file is damaged".into());
        }
        if !bytes.get(end..after).is_some_and(|pad| pad.iter().all(|&b| b == 0)) {
            return bad("its padding is not zero".into());
        }
        sections.push(Section { name, start: next, end, required: required == 1 });
        next = after;
    }
    Ok(sections)
}

/// The sections must reach the trailer, and the trailer must agree with everything before it.
fn check_trailer(bytes: &[u8], table_end: usize, sections: &[Section]) -> Result<()> {
    let data_end = sections.last().map_or(table_end, |s| padded(s.end));
    let body = bytes.get(..data_end).unwrap_or_default();
    let mut cursor = Cursor::at(bytes.get(data_end..).unwrap_or_default(), data_end);
    if cursor.remaining() != TRAILER {
        let what = format!("{} bytes after the last section, wanted {TRAILER}", cursor.remaining());
        return Err(Error::corrupt(what, data_end));
    }
    let hash: [u8; HASH] = cursor.array()?;
    if blake3::hash(body) != hash {
        return Err(Error::corrupt("the hash of the file differs, it is damaged", data_end));
    }
    if cursor.array()? != END {
        return Err(Error::corrupt("the end mark is missing", cursor.offset()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        Builder::new("adapter").section("head", true, b"abc".as_slice()).section("data", true, vec![7; 20]).finish()
    }

    fn read(bytes: Vec<u8>) -> Result<Container> {
        Container::read(bytes.into(), &Limits::default())
    }

    /// Puts a right hash under bytes that were changed.
    fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
        let end = bytes.len() - TRAILER;
        let hash = blake3::hash(&bytes[..end]);
        bytes[end..end + HASH].copy_from_slice(hash.as_bytes());
        bytes
    }

    #[test]
    fn one_content_one_spelling() {
        let other = Builder::new("adapter")
            .section("data", true, vec![7; 20])
            .section("head", true, b"abc".as_slice())
            .finish();
        assert_eq!(sample(), other);
        let c = read(other).unwrap();
        assert_eq!((c.kind(), c.version()), ("adapter", (1, 0)));
        assert_eq!(c.section("head").unwrap()[..], *b"abc");
        assert_eq!(c.require("data").unwrap()[..], [7; 20]);
        assert!(c.section("none").is_none() && c.require("none").is_err());
        assert!(c.sections().eq([("data", true, 20), ("head", true, 3)]));
        c.require_kind("adapter").unwrap();
        assert!(matches!(c.require_kind("train"), Err(Error::Mismatch { .. })));
        assert_eq!(read(Builder::new("a").finish()).unwrap().sections().count(), 0);
    }

    #[test]
    fn every_byte_counts() {
        let good = sample();
        for n in 0..good.len() {
            assert!(read(good[..n].to_vec()).is_err(), "cut to {n}");
        }
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert!(read(bad.clone()).is_err(), "bit {bit} of byte {at}");
                // With the hash made right again only what the specification leaves free may change: the minor
                // version, kind and names, and the required mark. It must not panic.
                read(seal(bad)).ok();
            }
        }
        for extra in [vec![0], vec![0; 8], good.clone()] {
            let e = read([good.clone(), extra].concat()).err().unwrap();
            assert!(e.to_string().contains("belong to it"), "{e}");
        }
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let change = |at: usize, to: &[u8]| {
            let mut b = sample();
            b[at..at + to.len()].copy_from_slice(to);
            read(seal(b)).err().unwrap().to_string()
        };
        let row = HEADER + ROW;
        for (e, word) in [
            (read(vec![]).err().unwrap().to_string(), "empty"),
            (read(b"GGUF\x03\0\0\0".to_vec()).err().unwrap().to_string(), "GGUF"),
            (change(0, &[0x0d]), "took it for text"),
            (change(4, b"\n\x1a\n"), "took it for text"),
            (change(8, &[2]), "container version: 2.0"),
            (change(12, &[255; 4]), "sections: "),
            (change(12, &[255, 255, 0, 0]), "longer than the"),
            (change(16, &[255; 8]), "incomplete"),
            (change(24, b"A"), "kind"),
            (change(HEADER, b"z"), "out of order"),
            (change(row, b"data"), "out of order"),
            (change(row, b"../x"), "section name is not valid"),
            (change(row + 16, &[0; 8]), "offset 0"),
            (change(row + 24, &[255; 8]), "exceed"),
            (change(row + 24, &[4]), "checksum"),
            (change(HEADER + ROW * 2, &[8]), "section `data`: its checksum"),
            (change(row + 40, &[2]), "flags"),
            (change(row + 44, &[1]), "flags"),
            (change(HEADER + ROW * 2 + 20, &[1]), "padding"),
        ] {
            assert!(e.contains(word), "{word}: {e}");
        }
    }

    #[test]
    fn newer_minor_versions_are_read() {
        let newer = |required| {
            let mut b = Builder::new("adapter")
                .section("data", true, b"x".as_slice())
                .section("new", required, b"y".as_slice())
                .finish();
            b[10] = 9;
            read(seal(b)).unwrap()
        };
        newer(false).refuse_unknown(&["data"]).unwrap();
        let e = newer(true).refuse_unknown(&["data"]).unwrap_err();
        assert_eq!(e.to_string(), "unsupported section: `new`, required by this file of version 1.9");
        newer(true).refuse_unknown(&["data", "new"]).unwrap();
    }
}
