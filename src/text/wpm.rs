//! Words as their longest pieces (`tokenizer.ggml.model` = `bert`). Files spell a piece that begins a word with U+2581
//! before it, which here is a space.

use super::pattern::is_class;
use super::special::Finder;
use super::vocab::{MAX_PIECE, TokenKind, Vocab};
use std::prelude::v1::*;
use unicode_normalization::char::decompose_canonical;

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
        let mut word = String::from(" ");
        for c in text.chars() {
            let c = if self.strip_accents { first_part(c) } else { c };
            if c.is_whitespace() {
                self.word(vocab, &mut word, out);
                continue;
            }
            let control = c == char::REPLACEMENT_CHARACTER || is_class(c, 'C');
            if control || (self.strip_accents && is_class(c, 'M')) {
                continue;
            }
            let alone = is_class(c, 'P') || (c.is_ascii() && is_class(c, 'S')) || is_ideograph(c);
            if alone {
                self.word(vocab, &mut word, out);
            }
            word.push(if self.lowercase { c.to_lowercase().next().unwrap_or(c) } else { c });
            if alone {
                self.word(vocab, &mut word, out);
            }
        }
        self.word(vocab, &mut word, out);
    }

    /// Appends the pieces of a word with a space before it, or the unknown token, and leaves the space.
    fn word(&self, vocab: &Vocab, word: &mut String, out: &mut Vec<u32>) {
        let start = out.len();
        let mut rest = word.as_bytes();
        if rest.len() == 1 {
            return;
        }
        while !rest.is_empty() {
            let Some((len, id)) = self.pieces.longest(vocab, rest, MAX_PIECE) else {
                out.truncate(start);
                out.extend(self.unknown);
                break;
            };
            out.push(id);
            rest = &rest[len..];
        }
        word.truncate(1);
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
