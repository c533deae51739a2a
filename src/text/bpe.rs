//! Byte-level merging (`tokenizer.ggml.model` = `gpt2`): words of bytes, a list of merges, earlier merges first.

use super::merge::Merger;
use super::split::Splitter;
use super::vocab::{NONE, TokenKind, Vocab};
use crate::error::{Error, Result, printable};
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

/// The token that two neighbours merge into is found by the bytes of both, like any token. So a merge into a token is
/// identified by the length of its left piece.
struct Merge {
    left: u32,
    /// The rank of another merge into the same token, or [`NONE`].
    other: u32,
}

pub(super) struct Bpe {
    splitter: &'static Splitter,
    /// By rank.
    merges: Vec<Merge>,
    /// The rank of a merge into each token, or [`NONE`].
    into: Vec<u32>,
    bytes: [u32; 256],
}

impl Bpe {
    /// `merges`: lines of two spellings in UTF-8 with a space between, best first. A merge whose pieces are no tokens
    /// can never happen and is ignored.
    pub fn new<'a>(
        splitter: &'static Splitter,
        vocab: &Vocab,
        merges: impl ExactSizeIterator<Item = &'a [u8]>,
    ) -> Result<Self> {
        let n = merges.len();
        let bytes = core::array::from_fn(|b| vocab.find_text(&[b as u8]).unwrap_or(NONE));
        let mut bpe = Bpe { splitter, merges: Vec::with_capacity(n), into: vec![NONE; vocab.len()], bytes };
        let mut pair = Vec::new();
        // Tokens are mostly in the order of the merges that create them.
        let mut next = 0;
        for (rank, line) in merges.enumerate() {
            let wrong = |what| {
                let line = String::from_utf8_lossy(line);
                Error::corrupt(format!("merge {rank}, {:?}, {what}", printable(&line)), 0)
            };
            pair.clear();
            let left = write_pair(line, &mut pair).ok_or_else(|| wrong("is not two pieces"))? as u32;
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
    pub fn encode(&self, vocab: &Vocab, mut text: &str, merger: &mut Merger, out: &mut Vec<u32>) {
        while !text.is_empty() {
            let (word, rest) = text.split_at((self.splitter.first)(text));
            text = rest;
            if self.splitter.ignore_merges
                && let Some(id) = vocab.find_text(word.as_bytes())
            {
                out.push(id);
                continue;
            }
            merger.begin(word.len());
            for (i, &byte) in word.as_bytes().iter().enumerate() {
                merger.push(i..i + 1, self.bytes[byte as usize]);
            }
            merger.run(|left, right| {
                if left.id == NONE || right.id == NONE {
                    return None;
                }
                let into = vocab.find(&word.as_bytes()[left.range.start..right.range.end])?;
                Some((self.rank(into, left.range.len() as u32)?, into))
            });
            out.extend(merger.spans().map(|span| span.id).filter(|&id| id != NONE));
        }
    }
}
