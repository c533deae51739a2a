//! Merging by score with a fall-back to bytes, as in SentencePiece (`tokenizer.ggml.model` = `llama`).
//!
//! Files spell a space as U+2581. Here both characters are a space, in tokens and in text, so that the spellings match.

use super::merge::{Merger, Pairs, Span};
use super::vocab::{NONE, TokenKind, Vocab};
use crate::error::{Error, Result, printable};
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

/// Bytes of a text that are handed on at once.
const PIECE: usize = 1 << 12;

/// The text in pieces of whole characters, if `spaced` with spaces for U+2581.
pub(super) fn pieces(text: &str, spaced: bool) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    core::iter::from_fn(move || {
        if spaced && let Some(after) = rest.strip_prefix(SPACE) {
            rest = after;
            return Some(&b" "[..]);
        }
        let mut len = (0..=PIECE.min(rest.len())).rev().find(|&at| rest.is_char_boundary(at)).unwrap_or(0);
        if spaced {
            len = rest[..len].find(SPACE).unwrap_or(len);
        }
        let (piece, after) = rest.split_at(len);
        rest = after;
        Some(piece.as_bytes()).filter(|piece| !piece.is_empty())
    })
}

/// The length of the first character of a text, and its token.
pub(super) fn first_char(vocab: &Vocab, text: &[u8]) -> (usize, u32) {
    let len = match text.first() {
        Some(0..0x80) => 1,
        Some(0x80..0xe0) => 2,
        Some(0xe0..0xf0) => 3,
        _ => 4,
    };
    let len = len.min(text.len());
    (len, vocab.find_text(&text[..len]).unwrap_or(NONE))
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
        let first = (fresh && self.add_space_prefix).then_some(&b" "[..]);
        let words = text.split([' ', SPACE]).filter(|word| self.remove_extra_whitespaces && !word.is_empty());
        let words =
            words.enumerate().flat_map(|(i, word)| (i > 0).then_some(&b" "[..]).into_iter().chain(pieces(word, false)));
        let whole = if self.remove_extra_whitespaces { "" } else { text };
        let mut all = first.into_iter().chain(words).chain(pieces(whole, true));
        let pairs = InVocab { spm: self, vocab };
        merger.each(
            &mut all,
            |text| first_char(vocab, text),
            &pairs,
            |text, span| {
                if span.id != NONE {
                    out.push(span.id);
                    return Ok(());
                }
                for &byte in &text[span.range] {
                    match self.bytes[byte as usize] {
                        NONE => return Err(Error::unsupported("byte, for this vocabulary", format!("0x{byte:02X}"))),
                        id => out.push(id),
                    }
                }
                Ok(())
            },
        )
    }
}

/// Scores of a vocabulary.
struct InVocab<'a> {
    spm: &'a Spm,
    vocab: &'a Vocab,
}

impl Pairs for InVocab<'_> {
    fn pair(&self, text: &[u8], left: &Span, right: &Span) -> Option<(u32, u32)> {
        let id = self.vocab.find_text(&text[left.range.start..right.range.end])?;
        Some((self.spm.ranks[id as usize], id))
    }

    fn lowest(&self, text: &[u8], left: &Span, least: usize, _below: Option<u32>) -> Option<u32> {
        let from = &text[left.range.start..];
        let ends = left.range.len() + least..=self.longest().min(from.len());
        ends.filter_map(|end| Some(self.spm.ranks[self.vocab.find_text(&from[..end])? as usize])).min()
    }

    fn longest(&self) -> usize {
        self.vocab.longest()
    }
}
