//! Words as their longest pieces (`tokenizer.ggml.model` = `bert`). Files spell a piece that begins a word with U+2581
//! before it, which here is a space.

use super::pattern::is_class;
use super::special::Finder;
use super::vocab::{MAX_PIECE, TokenKind, Vocab};
use std::prelude::v1::*;
use unicode_normalization::char::decompose_canonical;

/// Bytes of a word that is looked at twice.
const LONG: usize = 1 << 12;

pub(super) struct Wpm {
    /// Of the tokens that text may become.
    pieces: Finder,
    /// The token of a word that pieces do not cover.
    unknown: Option<u32>,
    lowercase: bool,
    strip_accents: bool,
}

impl Wpm {
    pub fn new(vocab: &Vocab, unknown: Option<u32>, lowercase: bool, strip_accents: bool) -> Self {
        Wpm { pieces: Finder::new(vocab, TokenKind::is_text), unknown, lowercase, strip_accents }
    }

    /// Appends the tokens of `text`.
    pub fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<u32>) {
        let mut buffer = Vec::new();
        let mut start = 0;
        for (at, c) in text.char_indices() {
            let seen = self.seen(c);
            let alone = !self.is_left_out(seen)
                && (is_class(seen, 'P') || (seen.is_ascii() && is_class(seen, 'S')) || is_ideograph(seen));
            if !alone && !seen.is_whitespace() {
                continue;
            }
            self.word(vocab, &text[start..at], &mut buffer, out);
            start = at + c.len_utf8();
            if alone {
                self.word(vocab, &text[at..start], &mut buffer, out);
            }
        }
        self.word(vocab, &text[start..], &mut buffer, out);
    }

    /// A character, but for the case of letters, as pieces spell it.
    fn seen(&self, c: char) -> char {
        if self.strip_accents { first_part(c) } else { c }
    }

    /// Whether pieces spell nothing for such a character.
    fn is_left_out(&self, c: char) -> bool {
        c == char::REPLACEMENT_CHARACTER || is_class(c, 'C') || (self.strip_accents && is_class(c, 'M'))
    }

    /// Appends the pieces of a word, or the unknown token.
    fn word(&self, vocab: &Vocab, word: &str, buffer: &mut Vec<u8>, out: &mut Vec<u32>) {
        let start = out.len();
        // Of a long word that pieces do not cover none are kept until that is seen.
        let covered = (word.len() <= LONG || self.pieces(vocab, word, buffer, |_| {}))
            && self.pieces(vocab, word, buffer, |id| out.push(id));
        if !covered {
            out.truncate(start);
            out.extend(self.unknown);
        }
    }

    /// Hands out the pieces of a word with a space before it, each the longest that fits. Says whether they cover it.
    fn pieces(&self, vocab: &Vocab, word: &str, buffer: &mut Vec<u8>, mut each: impl FnMut(u32)) -> bool {
        let mut chars = word.chars().map(|c| self.seen(c)).filter(|&c| !self.is_left_out(c));
        let lower = |c: char| if self.lowercase { c.to_lowercase().next().unwrap_or(c) } else { c };
        // Where nothing is left of a word, the space is no piece.
        let Some(first) = chars.next() else { return true };
        buffer.clear();
        buffer.push(b' ');
        buffer.extend_from_slice(lower(first).encode_utf8(&mut [0; 4]).as_bytes());
        let mut at = 0;
        loop {
            if buffer.len() - at < MAX_PIECE {
                buffer.drain(..core::mem::take(&mut at));
                // More than a piece, so that this is done now and then.
                while buffer.len() < 2 * MAX_PIECE
                    && let Some(c) = chars.next()
                {
                    buffer.extend_from_slice(lower(c).encode_utf8(&mut [0; 4]).as_bytes());
                }
            }
            let rest = &buffer[at..];
            if rest.is_empty() {
                return true;
            }
            let Some((len, id)) = self.pieces.longest(vocab, rest, MAX_PIECE) else { return false };
            each(id);
            at += len;
        }
    }
}

/// The first character of the canonical decomposition, which is the letter without its accents.
fn first_part(c: char) -> char {
    let mut first = None;
    decompose_canonical(c, |part| first = first.or(Some(part)));
    first.unwrap_or(c)
}

/// The characters that Hugging Face's tokenizers take for words of their own.
fn is_ideograph(c: char) -> bool {
    const RANGES: [(u32, u32); 8] = [
        (0x4e00, 0x9fff),
        (0x3400, 0x4dbf),
        (0x20000, 0x2a6df),
        (0x2a700, 0x2b73f),
        (0x2b740, 0x2b81f),
        (0x2b920, 0x2ceaf),
        (0xf900, 0xfaff),
        (0x2f800, 0x2fa1f),
    ];
    RANGES.iter().any(|range| (range.0..=range.1).contains(&(c as u32)))
}
