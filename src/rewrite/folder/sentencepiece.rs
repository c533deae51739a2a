//! `tokenizer.model`: a vocabulary of SentencePiece, in the encoding of protocol buffers. Of its fields the pieces are read,
//! and how they were found.

use crate::bytes::Limits;
use crate::error::{Error, Result};
use std::prelude::v1::*;

/// One token.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Piece {
    /// Its spelling; U+2581 stands for a space.
    pub text: String,
    /// The higher, the sooner parts are merged to it.
    pub score: f32,
    /// 1 normal, 2 unknown, 3 control, 4 defined by the user, 5 unused, 6 a byte: the numbers of GGUF files.
    pub kind: u64,
}

// Fields of the file, of a piece, and of how it was made.
const PIECE: u64 = 1;
const TRAINER: u64 = 2;
const TEXT: u64 = 1;
const SCORE: u64 = 2;
const KIND: u64 = 3;
const METHOD: u64 = 3;

/// The methods, by their numbers.
const METHODS: [&str; 5] = ["none", "unigram", "bpe", "word", "char"];

/// The value of a field.
enum Value<'a> {
    Number(u64),
    Float(f32),
    Bytes(&'a [u8]),
    /// 64 bits that nothing here has.
    Other,
}

/// The fields of a message.
struct Fields<'a> {
    bytes: &'a [u8],
    /// Where they begin in the file.
    start: usize,
    at: usize,
}

impl<'a> Fields<'a> {
    fn corrupt(&self, what: &str) -> Error {
        Error::corrupt(what, self.start.saturating_add(self.at))
    }

    fn take(&mut self, n: u64) -> Result<&'a [u8]> {
        let end = usize::try_from(n).ok().and_then(|n| self.at.checked_add(n));
        let found =
            end.and_then(|end| self.bytes.get(self.at..end)).ok_or_else(|| self.corrupt("a field is cut off"))?;
        self.at = self.at.saturating_add(found.len());
        Ok(found)
    }

    /// A number in groups of seven bits, the lowest first.
    fn number(&mut self) -> Result<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = u64::from(self.take(1)?.first().copied().unwrap_or_default());
            let bits = byte & 0x7f;
            if bits.checked_shl(shift).and_then(|v| v.checked_shr(shift)) != Some(bits) {
                break;
            }
            value |= bits.wrapping_shl(shift);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.corrupt("a number of more than 64 bits"))
    }

    /// The next field: its number, its value, and where that begins.
    fn next(&mut self) -> Result<Option<(u64, Value<'a>, usize)>> {
        if self.at >= self.bytes.len() {
            return Ok(None);
        }
        let tag = self.number()?;
        let mut start = self.start.saturating_add(self.at);
        let value = match tag & 7 {
            0 => Value::Number(self.number()?),
            1 => self.take(8).map(|_| Value::Other)?,
            2 => {
                let n = self.number()?;
                start = self.start.saturating_add(self.at);
                Value::Bytes(self.take(n)?)
            }
            5 => Value::Float(self.take(4)?.try_into().map_or(0.0, f32::from_le_bytes)),
            other => return Err(self.corrupt(&format!("a field of kind {other}"))),
        };
        Ok(Some((tag.wrapping_shr(3), value, start)))
    }
}

/// Reads the pieces of a vocabulary, in the order of their numbers.
///
/// # Errors
/// `Corrupt` with the offset for a file that is cut off or is none of these; `Limit` for too many pieces; `Unsupported`
/// for a vocabulary that is not made of pairs (BPE), which no GGUF file of this kind can say.
pub(super) fn parse(bytes: &[u8], limits: &Limits) -> Result<Vec<Piece>> {
    let mut fields = Fields { bytes, start: 0, at: 0 };
    let (mut pieces, mut method) = (Vec::new(), 1);
    while let Some((field, value, start)) = fields.next()? {
        match (field, value) {
            (PIECE, Value::Bytes(bytes)) => {
                Limits::check("tokens", (pieces.len() as u64).saturating_add(1), limits.array)?;
                pieces.push(piece(Fields { bytes, start, at: 0 })?);
            }
            (TRAINER, Value::Bytes(bytes)) => {
                let mut fields = Fields { bytes, start, at: 0 };
                while let Some((field, value, _)) = fields.next()? {
                    if let (METHOD, Value::Number(number)) = (field, value) {
                        method = number;
                    }
                }
            }
            _ => {}
        }
    }
    if pieces.is_empty() {
        return Err(Error::corrupt("no vocabulary of SentencePiece: it has no pieces", 0));
    }
    match METHODS.get(usize::try_from(method).unwrap_or(usize::MAX)) {
        Some(&"bpe") => Ok(pieces),
        name => {
            let name = name.copied().unwrap_or("another method");
            Err(Error::unsupported("tokenizer", format!("SentencePiece with {name}; bpe is known")))
        }
    }
}

fn piece(mut fields: Fields) -> Result<Piece> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: 1 };
    while let Some((field, value, start)) = fields.next()? {
        match (field, value) {
            (TEXT, Value::Bytes(bytes)) => {
                let text = core::str::from_utf8(bytes);
                piece.text = text.map_err(|_| Error::corrupt("a piece that is no text", start))?.into();
            }
            (SCORE, Value::Float(score)) if score.is_finite() => piece.score = score,
            (SCORE, Value::Float(_)) => return Err(Error::corrupt("a score that is no number", start)),
            (KIND, Value::Number(kind @ 1..=6)) => piece.kind = kind,
            (KIND, Value::Number(kind)) => return Err(Error::corrupt(format!("a piece of kind {kind}"), start)),
            _ => {}
        }
    }
    Ok(piece)
}
