//! Proof of effect: what an adapter did where it was made, in a section `probe` of its file, which is optional.
//!
//! ```text
//! version  u8      1
//! loss     f32     mean of −ln of the probability of a token of the adapted answer, under the adapted model; 0 or more
//! prompt   tokens  what is continued
//! plain    answer  of the base
//! adapted  answer  of the base with the adapter, at strength 1
//!
//! answer   tokens · scores
//! tokens   count varint, 1 or more, then a token each, varint
//! scores   count varint, 1 or more, then of each: token varint, logit f32; higher logits first, lower tokens first among equals
//! varint   a number below 2³²: seven bits a byte, the lowest first, the top bit set in every byte but the last; as short as it
//!          can be
//! ```
//! The tokens of an answer are the likeliest ones, one after the other (the lowest among equals), until one that ends a
//! text, or as many as its maker chose. The scores are the largest logits after the prompt; their first is of the first token
//! of the answer. All of it comes from the exact path: 32-bit activations and a 32-bit cache, in a context of prompt and
//! answer. Floats are little-endian and finite, and nothing follows, so a probe has exactly one encoding.
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

use super::file::open;
use crate::bytes::{Bytes, Cursor, Limits};
use crate::container::Builder;
use crate::error::{Error, Result};
use std::prelude::v1::*;

/// The name of the section.
pub(super) const SECTION: &str = "probe";
const VERSION: u8 = 1;

/// What an adapter did where it was made.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// What is continued, at least one token.
    pub prompt: Vec<u32>,
    /// How the base continues it.
    pub plain: Answer,
    /// How the base with the adapter does.
    pub adapted: Answer,
    /// Mean negative log-likelihood of the adapted answer under the adapted model, in nats a token.
    pub loss: f32,
}

/// How a model continues a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The likeliest token, and so on.
    pub tokens: Vec<u32>,
    /// The tokens with the largest logits after the prompt, and these.
    pub scores: Vec<(u32, f32)>,
}

impl Probe {
    /// The bytes of the section.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend(self.loss.to_le_bytes());
        write_tokens(&self.prompt, &mut out);
        for answer in [&self.plain, &self.adapted] {
            write_tokens(&answer.tokens, &mut out);
            write_varint(answer.scores.len() as u32, &mut out);
            for (token, logit) in &answer.scores {
                write_varint(*token, &mut out);
                out.extend(logit.to_le_bytes());
            }
        }
        out
    }

    /// A probe from the bytes of its section.
    ///
    /// # Errors
    /// `Corrupt` for bytes that violate the specification, `Limit` for more than `limits.probe`, `Unsupported` for another
    /// version.
    pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Probe> {
        Limits::check("bytes of a probe", bytes.len() as u64, limits.probe)?;
        let mut cursor = Cursor::new(bytes);
        match cursor.u8()? {
            VERSION => {}
            other => return Err(Error::unsupported("probe", format!("version {other}; this build reads {VERSION}"))),
        }
        let loss = cursor.f32()?;
        if !loss.is_finite() || loss.is_sign_negative() {
            return Err(Error::corrupt(format!("probe: a loss of {loss}"), 0));
        }
        let prompt = read_tokens(&mut cursor)?;
        let (plain, adapted) = (read_answer(&mut cursor)?, read_answer(&mut cursor)?);
        match cursor.remaining() {
            0 => Ok(Probe { prompt, plain, adapted, loss }),
            more => Err(Error::corrupt(format!("probe: {more} bytes too many"), cursor.offset())),
        }
    }
}

/// The probe that an adapter's file carries, if it carries one.
///
/// # Errors
/// Those of [`Probe::decode`], and of reading the file.
pub fn read(file: Bytes, limits: &Limits) -> Result<Option<Probe>> {
    let (container, _) = open(file, limits)?;
    container.section(SECTION).map(|bytes| Probe::decode(&bytes, limits)).transpose()
}

/// The bytes of an adapter's file with this probe in the place of the one that it may carry. Nothing else changes.
///
/// # Errors
/// `Limit` for a longer probe than readers take; those of reading the file.
pub fn with(file: Bytes, probe: &Probe, limits: &Limits) -> Result<Vec<u8>> {
    let (container, _) = open(file, limits)?;
    let bytes = probe.encode();
    Limits::check("bytes of a probe", bytes.len() as u64, limits.probe)?;
    let mut out = Builder::new(container.kind()).section(SECTION, false, bytes);
    for (name, required, _) in container.sections().filter(|(name, ..)| *name != SECTION) {
        out = out.section(name, required, container.require(name)?.to_vec());
    }
    Ok(out.finish())
}

fn write_tokens(tokens: &[u32], out: &mut Vec<u8>) {
    write_varint(tokens.len() as u32, out);
    tokens.iter().for_each(|token| write_varint(*token, out));
}

fn write_varint(mut value: u32, out: &mut Vec<u8>) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn read_varint(cursor: &mut Cursor) -> Result<u32> {
    let at = cursor.offset();
    let mut value = 0u64;
    for shift in [0, 7, 14, 21, 28] {
        let byte = cursor.u8()?;
        value |= u64::from(byte & 0x7f).wrapping_shl(shift);
        if byte & 0x80 == 0 {
            let padded = byte == 0 && shift > 0;
            let fits = u32::try_from(value).ok().filter(|_| !padded);
            return fits.ok_or_else(|| Error::corrupt("probe: a number that is not as short as it can be", at));
        }
    }
    Err(Error::corrupt("probe: a number of more than 32 bits", at))
}

/// How many of at least `each` bytes follow, one at least. What is not there is not reserved.
fn read_count(cursor: &mut Cursor, each: usize) -> Result<usize> {
    let at = cursor.offset();
    let count = read_varint(cursor)? as usize;
    let fits = count.checked_mul(each).is_some_and(|bytes| bytes <= cursor.remaining());
    match count > 0 && fits {
        true => Ok(count),
        false => Err(Error::corrupt(format!("probe: {count} entries in {} bytes", cursor.remaining()), at)),
    }
}

fn read_tokens(cursor: &mut Cursor) -> Result<Vec<u32>> {
    (0..read_count(cursor, 1)?).map(|_| read_varint(cursor)).collect()
}

fn read_answer(cursor: &mut Cursor) -> Result<Answer> {
    let tokens = read_tokens(cursor)?;
    let at = cursor.offset();
    let one = |cursor: &mut Cursor| -> Result<(u32, f32)> { Ok((read_varint(cursor)?, cursor.f32()?)) };
    let scores: Vec<(u32, f32)> = (0..read_count(cursor, 5)?).map(|_| one(cursor)).collect::<Result<_>>()?;
    let falls = |pair: &[(u32, f32)]| match pair {
        [a, b] => a.1 > b.1 || a.1 == b.1 && a.0 < b.0,
        _ => true,
    };
    if !scores.iter().all(|(_, logit)| logit.is_finite()) || !scores.windows(2).all(falls) {
        return Err(Error::corrupt("probe: logits that do not fall", at));
    }
    match scores.first().map(|(token, _)| token) == tokens.first() {
        true => Ok(Answer { tokens, scores }),
        false => Err(Error::corrupt("probe: an answer that does not begin with the likeliest token", at)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_one_spelling() {
        for (value, bytes) in [
            (0, &[0u8][..]),
            (127, &[0x7f]),
            (128, &[0x80, 1]),
            (16_384, &[0x80, 0x80, 1]),
            (u32::MAX, &[255, 255, 255, 255, 15]),
        ] {
            let mut out = Vec::new();
            write_varint(value, &mut out);
            assert_eq!(out, bytes);
            assert_eq!(read_varint(&mut Cursor::new(bytes)).unwrap(), value);
        }
        for bad in [&[0x80, 0][..], &[0xff, 0x80, 0], &[255, 255, 255, 255, 16], &[255; 5], &[0x80], &[]] {
            assert!(read_varint(&mut Cursor::new(bad)).is_err(), "{bad:?}");
        }
    }
}
