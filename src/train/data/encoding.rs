//! Bytes to text: UTF-8 and UTF-16 are recognised, other encodings are named by the caller.

use super::part_of;
use crate::error::{Error, Result, printable};
use std::borrow::Cow;
use std::prelude::v1::*;

/// The advice for bytes in another encoding.
const ADVICE: &str = "save the file as UTF-8, or name its encoding (--encoding windows-1252 or another)";
/// Bytes at the beginning of a file in which UTF-16 is looked for.
const SAMPLE: usize = 4096;

/// The text of a file: UTF-8, or UTF-16 with or without a byte order mark, or what `encoding` names. Marks of the byte order
/// are taken off, and `\r` alone becomes a line end. What was not plain UTF-8 is said in `notes`. `cut`: whether a last
/// character may be incomplete, as in a file that was cut off; it is dropped then.
///
/// # Errors
/// `Invalid` with line and column of a byte that is not in the encoding; `Unsupported` for an unknown encoding.
pub fn decode<'a>(bytes: &'a [u8], encoding: Option<&str>, cut: bool, notes: &mut Vec<String>) -> Result<Cow<'a, str>> {
    let text = match encoding {
        Some(name) => named(bytes, name)?,
        None => guessed(bytes, cut, notes)?,
    };
    if let Some(at) = text.find('\0') {
        return Err(Error::invalid(
            "data",
            format!("{}: a byte 0; this is no text", Place::in_text(part_of(&text, ..at))),
        ));
    }
    let mut text = match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.strip_prefix('\u{feff}').unwrap_or(text)),
        Cow::Owned(text) => Cow::Owned(text.strip_prefix('\u{feff}').map(String::from).unwrap_or(text)),
    };
    if text.contains('\r') && !text.contains('\n') {
        notes.push("lines end in CR alone".into());
        text = Cow::Owned(text.replace('\r', "\n"));
    }
    if let Some(at) = text.find("\n\u{feff}") {
        let line = Place::in_text(part_of(&text, ..=at)).line;
        notes.push(format!("a byte order mark begins line {line}, as when files are joined; it is left out"));
        text = Cow::Owned(text.replace("\n\u{feff}", "\n"));
    }
    Ok(text)
}

/// Where something is, both from 1.
struct Place {
    line: usize,
    column: usize,
}

impl Place {
    /// Behind a text.
    fn in_text(before: &str) -> Place {
        let line = before.rsplit('\n').next().unwrap_or_default();
        let next = |n: usize| n.saturating_add(1);
        Place { line: next(before.matches('\n').count()), column: next(line.chars().count()) }
    }
}

impl core::fmt::Display for Place {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

fn guessed<'a>(bytes: &'a [u8], cut: bool, notes: &mut Vec<String>) -> Result<Cow<'a, str>> {
    if bytes.starts_with(b"\xff\xfe\0\0") || bytes.starts_with(b"\0\0\xfe\xff") {
        return Err(Error::invalid("data", "UTF-32; save the file as UTF-8"));
    }
    if let Some(little) = utf16(bytes) {
        let name = if little { "UTF-16LE" } else { "UTF-16BE" };
        let text = from_utf16(bytes, little)?;
        notes.push(format!("read as {name}"));
        return Ok(text.into());
    }
    match core::str::from_utf8(bytes) {
        Ok(text) => Ok(text.into()),
        Err(e) => {
            let (good, bad) = bytes.split_at(e.valid_up_to());
            let good = core::str::from_utf8(good).unwrap_or_default();
            if cut && e.error_len().is_none() {
                return Ok(good.into());
            }
            let (place, byte) = (Place::in_text(good), bad.first().copied().unwrap_or(0));
            Err(Error::invalid("data", format!("{place}: byte 0x{byte:02x} is not UTF-8; {ADVICE}")))
        }
    }
}

/// Whether the bytes are UTF-16, and if so whether it is little-endian: by the byte order mark, or by the zeros that every
/// second byte of most texts has.
fn utf16(bytes: &[u8]) -> Option<bool> {
    if let [mark @ (0xff | 0xfe), other @ (0xff | 0xfe), ..] = bytes
        && mark != other
    {
        return Some(*mark == 0xff);
    }
    let pairs = bytes.get(..SAMPLE).unwrap_or(bytes).as_chunks::<2>().0;
    let zeros = |of: fn(&[u8; 2]) -> u8| pairs.iter().filter(|pair| of(pair) == 0).count();
    let many = |n: usize| n > pairs.len() / 2;
    match (many(zeros(|[first, _]| *first)), many(zeros(|[_, second]| *second))) {
        (true, false) => Some(false),
        (false, true) => Some(true),
        _ => None,
    }
}

fn from_utf16(bytes: &[u8], little: bool) -> Result<String> {
    let unit = |pair: &[u8; 2]| if little { u16::from_le_bytes(*pair) } else { u16::from_be_bytes(*pair) };
    let (pairs, rest) = bytes.as_chunks::<2>();
    let mut text = String::with_capacity(pairs.len());
    for c in char::decode_utf16(pairs.iter().map(unit)) {
        match c {
            Ok(c) => text.push(c),
            Err(e) => {
                let (place, unit) = (Place::in_text(&text), e.unpaired_surrogate());
                return Err(Error::invalid("data", format!("{place}: 0x{unit:04x} is not UTF-16; save it as UTF-8")));
            }
        }
    }
    if !rest.is_empty() {
        return Err(Error::invalid("data", format!("{}: half a unit of UTF-16", Place::in_text(&text))));
    }
    Ok(text)
}

#[cfg(feature = "imports")]
fn named<'a>(bytes: &'a [u8], name: &str) -> Result<Cow<'a, str>> {
    let unknown = || Error::unsupported("encoding", name);
    let encoding = encoding_rs::Encoding::for_label(name.as_bytes()).ok_or_else(unknown)?;
    let mut decoder = encoding.new_decoder_with_bom_removal();
    let size = decoder.max_utf8_buffer_length_without_replacement(bytes.len());
    let mut text = String::with_capacity(size.unwrap_or(bytes.len()));
    let (result, read) = decoder.decode_to_string_without_replacement(bytes, &mut text, true);
    match result {
        encoding_rs::DecoderResult::InputEmpty => Ok(text.into()),
        _ => {
            let (place, byte) = (Place::in_text(&text), bytes.get(read.saturating_sub(1)).copied().unwrap_or(0));
            let name = printable(encoding.name());
            Err(Error::invalid("data", format!("{place}: byte 0x{byte:02x} is not {name}; name another encoding")))
        }
    }
}

#[cfg(not(feature = "imports"))]
fn named<'a>(bytes: &'a [u8], name: &str) -> Result<Cow<'a, str>> {
    match name.to_ascii_lowercase().as_str() {
        "utf-8" | "utf8" => guessed(bytes, false, &mut Vec::new()),
        "utf-16" | "utf-16le" => from_utf16(bytes, true).map(Cow::Owned),
        "utf-16be" => from_utf16(bytes, false).map(Cow::Owned),
        _ => Err(Error::unsupported("encoding in this build", printable(name))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(text: &str, little: bool) -> Vec<u8> {
        text.encode_utf16().flat_map(|u| if little { u.to_le_bytes() } else { u.to_be_bytes() }).collect()
    }

    #[test]
    fn encodings_are_recognised() {
        let text = "Tea at four.\nSoup at eight.\n";
        let bom = format!("\u{feff}{text}");
        for (bytes, note) in [
            (text.as_bytes().to_vec(), None),
            (bom.as_bytes().to_vec(), None),
            (units(text, true), Some("UTF-16LE")),
            (units(text, false), Some("UTF-16BE")),
            (units(&bom, true), Some("UTF-16LE")),
            (units(&bom, false), Some("UTF-16BE")),
            (text.replace('\n', "\r").into_bytes(), Some("CR alone")),
            (bom.replace('\n', "\n\u{feff}").into_bytes(), Some("line 2")),
        ] {
            let mut notes = Vec::new();
            let got = decode(&bytes, None, false, &mut notes).unwrap();
            assert_eq!(got, text);
            assert_eq!(notes.len(), usize::from(note.is_some()), "{notes:?}");
            assert!(note.is_none_or(|note| notes[0].contains(note)), "{notes:?}");
        }
    }

    #[test]
    fn other_bytes_are_refused_with_their_place() {
        let why = |bytes: &[u8], name: Option<&str>| decode(bytes, name, false, &mut vec![]).unwrap_err().to_string();
        assert!(why(b"one\ntwo \x93three", None).contains("line 2, column 5: byte 0x93 is not UTF-8; save"));
        assert!(why("\u{e9}\u{e9}\x00".as_bytes(), None).contains("line 1, column 3: a byte 0"));
        assert!(why(b"\xff\xfe\0\0a\0\0\0", None).contains("UTF-32"));
        assert!(why(b"\xff\xfea\0\0\xd8", None).contains("column 3: 0xd800"));
        assert!(why(b"abc", Some("klingon")).contains("klingon"));
        // A file that was cut off inside a character.
        assert!(decode(b"caf\xc3", None, false, &mut vec![]).is_err());
        assert_eq!(decode(b"caf\xc3", None, true, &mut vec![]).unwrap(), "caf");
    }

    #[cfg(feature = "imports")]
    #[test]
    fn encodings_are_named() {
        let of = |bytes: &[u8], name: &str| decode(bytes, Some(name), false, &mut vec![]).map(|t| t.into_owned());
        assert_eq!(of(b"caf\xe9 \x93tea\x94", "latin1").unwrap(), "caf\u{e9} \u{201c}tea\u{201d}");
        assert_eq!(of(b"\xce\xca\xcc\xe2", "gbk").unwrap(), "\u{95ee}\u{9898}");
        assert!(of(b"a\nb\xff", "gbk").unwrap_err().to_string().contains("line 2, column 2: byte 0xff is not GBK"));
    }
}
