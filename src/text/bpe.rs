//! Byte-level merging (`tokenizer.ggml.model` = `gpt2`): words of bytes, a list of merges, earlier merges first.

use super::hash::{Key, Slots};
use super::merge::Merger;
use super::split::Splitter;
use super::vocab::{NONE, TokenKind, Vocab};
use crate::error::{Error, Result, printable};
use std::prelude::v1::*;

/// Code points from here on stand for the bytes that are no printable Latin-1 character, in order.
const SHIFTED: u32 = 256;

/// Whether a byte is spelled as the character of its own number.
const fn is_plain(byte: u32) -> bool {
    matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)
}

/// The bytes that are spelled by a shifted character, in order.
const SHIFTED_BYTES: [u8; 68] = {
    let (mut out, mut n, mut byte) = ([0; 68], 0, 0);
    while byte < 256 {
        if !is_plain(byte) {
            out[n] = byte as u8;
            n += 1;
        }
        byte += 1;
    }
    out
};

/// The byte that a character of a token's spelling stands for.
fn byte_of(c: char) -> Option<u8> {
    let code = c as u32;
    if is_plain(code) {
        return Some(code as u8);
    }
    SHIFTED_BYTES.get(code.checked_sub(SHIFTED)? as usize).copied()
}

/// Appends the bytes that `spelling` stands for; if a character stands for none, appends nothing and says so.
pub(super) fn write_bytes(spelling: &str, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    for c in spelling.chars() {
        match byte_of(c) {
            Some(byte) => out.push(byte),
            None => {
                out.truncate(start);
                return false;
            }
        }
    }
    true
}

/// Appends a token's bytes; says whether its bytes are what text is made of.
pub(super) fn write_token(spelling: &str, kind: TokenKind, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let spelled = write_bytes(spelling, out);
    if matches!(kind, TokenKind::Normal | TokenKind::Unused) && spelled {
        return true;
    }
    // The others are spelled as they are, and known to merges only if that is the same.
    let same = spelled && &out[start..] == spelling.as_bytes();
    out.truncate(start);
    out.extend_from_slice(spelling.as_bytes());
    same
}

struct Merge {
    left: u32,
    right: u32,
    into: u32,
}

pub(super) struct Bpe {
    splitter: &'static Splitter,
    /// A merge's place is its rank.
    merges: Vec<Merge>,
    slots: Slots,
    bytes: [u32; 256],
    key: Key,
}

impl Bpe {
    /// `merges`: lines of two spellings with a space between, best first.
    pub fn new<'a>(
        splitter: &'static Splitter,
        vocab: &Vocab,
        merges: impl ExactSizeIterator<Item = &'a str>,
    ) -> Result<Self> {
        let (n, key) = (merges.len(), vocab.key);
        let bytes = core::array::from_fn(|b| vocab.find_text(&[b as u8]).unwrap_or(NONE));
        let mut bpe = Bpe { splitter, merges: Vec::with_capacity(n), slots: Slots::with_capacity(n), bytes, key };
        let mut pair = Vec::new();
        for (rank, line) in merges.enumerate() {
            let wrong = |what| Error::corrupt(format!("merge {rank}, {:?}, {what}", printable(line)), 0);
            // The first character may be a space itself.
            let second = line.char_indices().nth(1).map_or(0, |(i, _)| i);
            let space = line[second..].find(' ').map(|i| second + i);
            let (left, right) = match space {
                Some(at) if at > 0 && at + 1 < line.len() => (&line[..at], &line[at + 1..]),
                _ => return Err(wrong("is not two pieces")),
            };
            pair.clear();
            let spelled = write_bytes(left, &mut pair);
            let middle = pair.len();
            let spelled = spelled && write_bytes(right, &mut pair);
            let ids = [&pair[..middle], &pair[middle..], &pair[..]].map(|piece| vocab.find(piece).unwrap_or(NONE));
            if !spelled || ids.contains(&NONE) {
                return Err(wrong("names a piece that is no token"));
            }
            // A merge that makes a control token would let text spell it.
            if ids.iter().all(|&id| vocab.kind(id).is_text()) && bpe.find(ids[0], ids[1]).is_none() {
                bpe.slots.insert(key.of_pair(ids[0], ids[1]), bpe.merges.len() as u32);
                bpe.merges.push(Merge { left: ids[0], right: ids[1], into: ids[2] });
            }
        }
        Ok(bpe)
    }

    fn find(&self, left: u32, right: u32) -> Option<u32> {
        self.slots.find(self.key.of_pair(left, right), |rank| {
            let merge = &self.merges[rank as usize];
            merge.left == left && merge.right == right
        })
    }

    /// Appends the tokens of `text`. A byte that no token stands for is left out, as llama.cpp does.
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
                let rank = self.find(left.id, right.id)?;
                Some((rank, self.merges[rank as usize].into))
            });
            out.extend(merger.spans().map(|span| span.id).filter(|&id| id != NONE));
        }
    }
}
