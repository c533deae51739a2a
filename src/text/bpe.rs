//! Merging by a list of merges, earlier merges first (`tokenizer.ggml.model` = `gpt2`, `gemma4`). A word begins as its
//! bytes, or as its characters where tokens are spelled raw.

use super::merge::{Merger, Pairs, Span};
use super::split::{Cutter, Rule, Whole};
use super::spm::{SPACE, first_char, pieces};
use super::vocab::{NONE, TokenKind, Vocab};
use crate::error::{Error, Result, printable};
use core::cell::RefCell;
use std::collections::BTreeMap;
use std::prelude::v1::*;

/// No byte.
const NO_BYTE: u16 = u16::MAX;

/// The byte that a character of a spelling represents. Printable characters of Latin-1 represent themselves; the other
/// bytes are spelled, in order, by the characters from 256 on.
const BYTES: [u16; 256 + 68] = {
    let mut table = [NO_BYTE; 256 + 68];
    let (mut byte, mut shifted) = (0, 256);
    while byte < 256 {
        if matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) {
            table[byte] = byte as u16;
        } else {
            table[shifted] = byte as u16;
            shifted += 1;
        }
        byte += 1;
    }
    table
};

/// The byte that the first character of a UTF-8 spelling represents, if it does, and the rest. Only characters of one
/// or two bytes of UTF-8 represent bytes.
fn first_byte(spelling: &[u8]) -> Option<(u8, &[u8])> {
    let (c, rest) = match spelling {
        [a @ 0..0x80, rest @ ..] => (*a as usize, rest),
        [a @ 0xc2..0xe0, b @ 0x80..0xc0, rest @ ..] => ((*a as usize & 31) << 6 | *b as usize & 63, rest),
        _ => return None,
    };
    let byte = BYTES.get(c).and_then(|&byte| u8::try_from(byte).ok())?;
    Some((byte, rest))
}

/// Appends the bytes that `spelling` represents. If a character represents none, appends nothing and returns `false`.
fn write_bytes(mut spelling: &[u8], out: &mut Vec<u8>) -> bool {
    let start = out.len();
    while !spelling.is_empty() {
        let Some((byte, rest)) = first_byte(spelling) else {
            out.truncate(start);
            return false;
        };
        out.push(byte);
        spelling = rest;
    }
    true
}

/// Appends the bytes of two spellings with a space between and returns where the second begins.
fn write_pair(mut line: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    let mut middle = None;
    while let [first, after @ ..] = line {
        match first_byte(line) {
            Some((byte, rest)) => {
                out.push(byte);
                line = rest;
            }
            // No byte is spelled as a space.
            None if *first == b' ' && middle.is_none() => {
                middle = Some(out.len());
                line = after;
            }
            None => return None,
        }
    }
    middle.filter(|&at| 0 < at && at < out.len())
}

/// Appends a token's bytes; says whether its bytes are what text is made of.
pub(super) fn write_token(spelling: &[u8], kind: TokenKind, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let spelled = write_bytes(spelling, out);
    if matches!(kind, TokenKind::Normal | TokenKind::Unused) && spelled {
        return true;
    }
    // The other kinds are spelled literally; merges find them only if the byte spelling is the same.
    let same = spelled && &out[start..] == spelling;
    out.truncate(start);
    out.extend_from_slice(spelling);
    same
}

/// [`write_pair`] of raw spellings, which have U+2581 for a space.
fn write_raw_pair(line: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    let line = core::str::from_utf8(line).ok()?;
    // The first piece has a character, whatever that is.
    let cut = line.char_indices().skip(1).find(|(_, c)| *c == ' ')?.0;
    let write = |out: &mut Vec<u8>, piece: &str| {
        piece.split(SPACE).enumerate().for_each(|(i, part)| {
            out.extend((i > 0).then_some(b' '));
            out.extend_from_slice(part.as_bytes());
        });
    };
    write(out, &line[..cut]);
    let middle = out.len();
    write(out, &line[cut + 1..]);
    Some(middle).filter(|&at| at < out.len())
}

/// The token that two neighbours merge into is found by the bytes of both, like any token. So a merge into a token is
/// identified by the length of its left piece.
struct Merge {
    left: u32,
    /// The rank of another merge into the same token, or [`NONE`].
    other: u32,
}

pub(super) struct Bpe {
    cutter: Cutter,
    whole: Whole,
    raw: bool,
    /// By rank.
    merges: Vec<Merge>,
    /// The rank of a merge into each token, or [`NONE`].
    into: Vec<u32>,
    /// The token of each byte.
    bytes: [u32; 256],
}

impl Bpe {
    /// `merges`: lines of two spellings in UTF-8 with a space between, best first. A merge whose pieces are no tokens
    /// can never happen and is ignored. `bytes`: the byte tokens of the file, where tokens are spelled raw.
    pub fn new<'a>(
        rule: &Rule,
        vocab: &Vocab,
        merges: impl ExactSizeIterator<Item = &'a [u8]>,
        mut bytes: [u32; 256],
    ) -> Result<Self> {
        if !rule.raw {
            bytes = core::array::from_fn(|b| vocab.find_text(&[b as u8]).unwrap_or(NONE));
        }
        let mut bpe = Bpe {
            cutter: Cutter::new(rule),
            whole: rule.whole,
            raw: rule.raw,
            merges: Vec::with_capacity(merges.len()),
            into: vec![NONE; vocab.len()],
            bytes,
        };
        let write = if rule.raw { write_raw_pair } else { write_pair };
        let mut pair = Vec::new();
        // Tokens are mostly in the order of the merges that create them.
        let mut next = 0;
        for (rank, line) in merges.enumerate() {
            let wrong = |what| {
                let line = String::from_utf8_lossy(line);
                Error::corrupt(format!("merge {rank}, {:?}, {what}", printable(&line)), 0)
            };
            pair.clear();
            let left = write(line, &mut pair).ok_or_else(|| wrong("is not two pieces"))? as u32;
            let into = vocab.find_near(&pair, next).ok_or_else(|| wrong("makes what is no token"))?;
            next = into + 1;
            // A merge into a control token would let text spell it. Of two merges of the same pieces the first is used.
            if vocab.kind(into).is_text() && bpe.rank(into, left).is_none() {
                let other = core::mem::replace(&mut bpe.into[into as usize], bpe.merges.len() as u32);
                bpe.merges.push(Merge { left, other });
            }
        }
        Ok(bpe)
    }

    /// The rank of the merge into that token whose left piece has `left` bytes.
    fn rank(&self, into: u32, left: u32) -> Option<u32> {
        let mut rank = self.into[into as usize];
        while let Some(merge) = self.merges.get(rank as usize) {
            if merge.left == left {
                return Some(rank);
            }
            rank = merge.other;
        }
        None
    }

    /// Appends the tokens of `text`. A byte without a token is left out, as in llama.cpp.
    pub fn encode(&self, vocab: &Vocab, text: &str, merger: &mut Merger, out: &mut Vec<u32>) {
        self.cutter.words(text, &mut |word| self.word(vocab, word, merger, out));
    }

    fn word(&self, vocab: &Vocab, word: &str, merger: &mut Merger, out: &mut Vec<u32>) {
        let bytes = word.as_bytes();
        let whole = match self.whole {
            Whole::Never => false,
            Whole::Lines => bytes[0] == b'\n',
            Whole::Always => true,
        };
        if whole && let Some(id) = vocab.find_text(bytes) {
            out.push(id);
            return;
        }
        let symbol = |text: &[u8]| match self.raw {
            true => first_char(vocab, text),
            false => (1, text.first().map_or(NONE, |&byte| self.bytes[byte as usize])),
        };
        let mut pieces = pieces(word, self.raw);
        let done: core::result::Result<(), core::convert::Infallible> =
            merger.each(&mut pieces, symbol, &InVocab::new(self, vocab), |text, span| {
                if span.id != NONE {
                    out.push(span.id);
                } else if self.raw {
                    out.extend(text[span.range].iter().map(|&b| self.bytes[b as usize]).filter(|&id| id != NONE));
                }
                Ok(())
            });
        let Ok(()) = done;
    }
}

/// Merges of a vocabulary.
struct InVocab<'a> {
    bpe: &'a Bpe,
    vocab: &'a Vocab,
    /// [`InVocab::turn`] of tokens, as far as it was asked.
    turns: RefCell<BTreeMap<u32, u32>>,
}

impl<'a> InVocab<'a> {
    fn new(bpe: &'a Bpe, vocab: &'a Vocab) -> Self {
        InVocab { bpe, vocab, turns: RefCell::default() }
    }

    /// One more than the lowest rank up to which merges must have come to make this token of single symbols; 0 for a single
    /// symbol, and the highest number if none make it. The depth is at most a token's length.
    fn turn(&self, token: &[u8]) -> u32 {
        let single = if self.bpe.raw { first_char(self.vocab, token).0 } else { 1 };
        if single >= token.len() {
            return 0;
        }
        let Some(id) = self.vocab.find(token) else { return u32::MAX };
        if let Some(turn) = self.turns.borrow().get(&id) {
            return *turn;
        }
        let by = |cut: usize| {
            let rank = self.bpe.rank(id, cut as u32)?;
            Some((rank + 1).max(self.turn(&token[..cut])).max(self.turn(&token[cut..])))
        };
        let turn = (1..token.len()).filter_map(by).min().unwrap_or(u32::MAX);
        self.turns.borrow_mut().insert(id, turn);
        turn
    }
}

impl Pairs for InVocab<'_> {
    fn pair(&self, text: &[u8], left: &Span, right: &Span) -> Option<(u32, u32)> {
        if left.id == NONE || right.id == NONE {
            return None;
        }
        let into = self.vocab.find(&text[left.range.start..right.range.end])?;
        Some((self.bpe.rank(into, left.range.len() as u32)?, into))
    }

    fn lowest(&self, text: &[u8], left: &Span, least: usize, below: Option<u32>) -> Option<u32> {
        if left.id == NONE {
            return None;
        }
        let (from, own) = (&text[left.range.start..], left.range.len());
        let stands = |right: &[u8]| below.is_none_or(|below| self.turn(right) <= below);
        let rank = |end: usize| self.bpe.rank(self.vocab.find(&from[..end])?, own as u32);
        let ends = own + least..=self.longest().min(from.len());
        ends.filter_map(|end| rank(end).filter(|_| stands(&from[own..end]))).min()
    }

    fn longest(&self) -> usize {
        self.vocab.longest()
    }
}
