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
//! tokens   count number, 1 or more, then a token each, number below 2³²
//! scores   count number, 1 or more, then of each: token number, logit f32; higher logits first, lower tokens first among equals
//! number   seven bits a byte, the lowest first, the top bit set in every byte but the last; it does not end in a zero byte
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
use crate::bytes::{Bytes, Limits};
use crate::container::codec::{put_number, take, take_number};
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
            put_number(answer.scores.len() as u64, &mut out);
            for (token, logit) in &answer.scores {
                put_number((*token).into(), &mut out);
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
        let mut rest = bytes;
        match take(&mut rest)? {
            [VERSION] => {}
            [other] => {
                return Err(Error::unsupported("probe", format!("version {other}; this build reads {VERSION}")));
            }
        }
        let loss = f32::from_le_bytes(take(&mut rest)?);
        if !loss.is_finite() || loss.is_sign_negative() {
            return Err(Error::corrupt(format!("probe: a loss of {loss}"), 0));
        }
        let prompt = take_tokens(&mut rest)?;
        let (plain, adapted) = (take_answer(&mut rest)?, take_answer(&mut rest)?);
        match rest.len() {
            0 => Ok(Probe { prompt, plain, adapted, loss }),
            more => Err(Error::corrupt(format!("probe: {more} bytes too many"), 0)),
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
    Ok(container.with(SECTION, &bytes))
}

fn write_tokens(tokens: &[u32], out: &mut Vec<u8>) {
    put_number(tokens.len() as u64, out);
    tokens.iter().for_each(|token| put_number((*token).into(), out));
}

/// How many of at least `each` bytes follow, one at least. What is not there is not reserved.
fn take_count(rest: &mut &[u8], each: usize) -> Result<usize> {
    let count = take_number(rest)?;
    let fits = usize::try_from(count).ok().filter(|n| n.checked_mul(each).is_some_and(|bytes| bytes <= rest.len()));
    let fits = fits.filter(|n| *n > 0);
    fits.ok_or_else(|| Error::corrupt(format!("probe: {count} entries in {} bytes", rest.len()), 0))
}

fn take_token(rest: &mut &[u8]) -> Result<u32> {
    let token = take_number(rest)?;
    u32::try_from(token).map_err(|_| Error::corrupt(format!("probe: a token of number {token}"), 0))
}

fn take_tokens(rest: &mut &[u8]) -> Result<Vec<u32>> {
    (0..take_count(rest, 1)?).map(|_| take_token(rest)).collect()
}

fn take_answer(rest: &mut &[u8]) -> Result<Answer> {
    let tokens = take_tokens(rest)?;
    let one = |rest: &mut &[u8]| -> Result<(u32, f32)> { Ok((take_token(rest)?, f32::from_le_bytes(take(rest)?))) };
    let scores: Vec<(u32, f32)> = (0..take_count(rest, 5)?).map(|_| one(rest)).collect::<Result<_>>()?;
    let falls = |pair: &[(u32, f32)]| match pair {
        [a, b] => a.1 > b.1 || a.1 == b.1 && a.0 < b.0,
        _ => true,
    };
    if !scores.iter().all(|(_, logit)| logit.is_finite()) || !scores.windows(2).all(falls) {
        return Err(Error::corrupt("probe: logits that do not fall", 0));
    }
    match scores.first().map(|(token, _)| token) == tokens.first() {
        true => Ok(Answer { tokens, scores }),
        false => Err(Error::corrupt("probe: an answer that does not begin with the likeliest token", 0)),
    }
}
