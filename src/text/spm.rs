//! Merging by score with a fall-back to bytes, as in SentencePiece (`tokenizer.ggml.model` = `llama`).
//!
//! Files spell a space as U+2581. Here both characters are a space, in tokens and in text, so that the spellings match.

use super::merge::Merger;
use super::vocab::{NONE, TokenKind, Vocab};
use crate::error::{Error, Result, printable};
use std::borrow::Cow;
use std::prelude::v1::*;

pub(super) const SPACE: char = '\u{2581}';

/// The byte that the spelling `<0xHH>` stands for.
pub(super) fn byte_token(spelling: &str) -> Option<u8> {
    let digits = spelling.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

/// The text with spaces for U+2581.
pub(super) fn with_spaces(text: &str) -> Cow<'_, str> {
    if text.contains(SPACE) { text.chars().map(|c| if c == SPACE { ' ' } else { c }).collect() } else { text.into() }
}

/// Appends a token's bytes; says whether its bytes are what text is made of.
pub(super) fn write_token(spelling: &str, kind: TokenKind, out: &mut Vec<u8>) -> Result<bool> {
    match kind {
        TokenKind::Normal | TokenKind::Unused => {
            for (i, part) in spelling.split(SPACE).enumerate() {
                if i > 0 {
                    out.push(b' ');
                }
                out.extend_from_slice(part.as_bytes());
            }
            // llama.cpp reads spellings as strings of C, so that it never finds one with a NUL.
            Ok(!spelling.contains([' ', '\0']))
        }
        TokenKind::Byte => {
            let wrong = || Error::corrupt(format!("byte token {:?} is not spelled <0xHH>", printable(spelling)), 0);
            out.push(byte_token(spelling).ok_or_else(wrong)?);
            Ok(false)
        }
        TokenKind::Unknown | TokenKind::Control | TokenKind::UserDefined => {
            out.extend_from_slice(spelling.as_bytes());
            Ok(!spelling.contains([' ', SPACE]))
        }
    }
}

pub(super) struct Spm {
    /// Of each token; a lower rank is a higher score.
    ranks: Vec<u32>,
    /// The token of each byte that no other token covers.
    bytes: [u32; 256],
    add_space_prefix: bool,
    remove_extra_whitespaces: bool,
}

/// A number that falls as the score rises, equal for equal scores. Not for NaN.
fn rank(score: f32) -> u32 {
    // Both zeros are the same score.
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 1 { bits } else { !bits & (u32::MAX >> 1) }
}

impl Spm {
    /// `scores`: one a token, none NaN. `bytes`: the byte tokens of the file.
    pub fn new(
        vocab: &Vocab,
        scores: &[f32],
        mut bytes: [u32; 256],
        unknown: Option<u32>,
        add_space_prefix: bool,
        remove_extra_whitespaces: bool,
    ) -> Self {
        for (byte, id) in bytes.iter_mut().enumerate() {
            if *id == NONE {
                *id = vocab.find_text(&[byte as u8]).or(unknown).unwrap_or(NONE);
            }
        }
        let ranks = scores.iter().map(|&score| rank(score)).collect();
        Spm { ranks, bytes, add_space_prefix, remove_extra_whitespaces }
    }

    /// Whether a space precedes text at the start and after a special token.
    pub fn add_space_prefix(&self) -> bool {
        self.add_space_prefix
    }

    /// Appends the tokens of `text`; `fresh` if it is first or follows a special token.
    ///
    /// # Errors
    /// `Unsupported` if neither a character nor its bytes are tokens and there is no token for unknown text.
    pub fn encode(
        &self,
        vocab: &Vocab,
        text: &str,
        fresh: bool,
        merger: &mut Merger,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        let mut spaced = String::with_capacity(text.len() + 1);
        if fresh && self.add_space_prefix {
            spaced.push(' ');
        }
        if self.remove_extra_whitespaces {
            let words = text.split([' ', SPACE]).filter(|word| !word.is_empty());
            for (i, word) in words.enumerate() {
                if i > 0 {
                    spaced.push(' ');
                }
                spaced.push_str(word);
            }
        } else {
            spaced.push_str(&with_spaces(text));
        }
        let bytes = spaced.as_bytes();
        merger.begin(bytes.len());
        for (i, c) in spaced.char_indices() {
            let range = i..i + c.len_utf8();
            merger.push(range.clone(), vocab.find_text(&bytes[range]).unwrap_or(NONE));
        }
        merger.run(|left, right| {
            let id = vocab.find_text(&bytes[left.range.start..right.range.end])?;
            Some((self.ranks[id as usize], id))
        });
        for span in merger.spans() {
            if span.id != NONE {
                out.push(span.id);
                continue;
            }
            for &byte in &bytes[span.range] {
                match self.bytes[byte as usize] {
                    NONE => return Err(Error::unsupported("byte, for this vocabulary", format!("0x{byte:02X}"))),
                    id => out.push(id),
                }
            }
        }
        Ok(())
    }
}
