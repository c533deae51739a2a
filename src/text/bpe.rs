//! Byte-level merging (`tokenizer.ggml.model` = `gpt2`): words of bytes, a list of merges, earlier merges first.

use super::hash::{Key, Slots};
use super::merge::Merger;
use super::split::Splitter;
use super::vocab::{NONE, TokenKind, Vocab};
use crate::error::{Error, Result, printable};
use std::prelude::v1::*;

/// No byte.
const NO_BYTE: u16 = u16::MAX;

/// The byte that a character of a spelling stands for. The printable ones of Latin-1 stand for themselves; the others
/// are spelled, in order, by the characters from 256 on.
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

/// What the first character of a spelling in UTF-8 stands for, if that is a byte, and the rest. Only characters of one or
/// two bytes of UTF-8 stand for any.
fn first_byte(spelling: &[u8]) -> Option<(u8, &[u8])> {
    let (c, rest) = match spelling {
        [a @ 0..0x80, rest @ ..] => (*a as usize, rest),
        [a @ 0xc2..0xe0, b @ 0x80..0xc0, rest @ ..] => ((*a as usize & 31) << 6 | *b as usize & 63, rest),
        _ => return None,
    };
    let byte = BYTES.get(c).and_then(|&byte| u8::try_from(byte).ok())?;
    Some((byte, rest))
}

/// Appends the bytes that `spelling` stands for; if a character stands for none, appends nothing and says so.
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

/// Appends the bytes of two spellings with a space between, and gives where the second begins.
fn write_pair(mut line: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    let mut middle = None;
    while let [first, after @ ..] = line {
        match first_byte(line) {
            Some((byte, rest)) => {
                out.push(byte);
                line = rest;
            }
            // No byte is spelled by a space.
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
    // The others are spelled as they are, and known to merges only if that is the same.
    let same = spelled && &out[start..] == spelling;
    out.truncate(start);
    out.extend_from_slice(spelling);
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
    /// `merges`: lines of two spellings in UTF-8 with a space between, best first.
    pub fn new<'a>(
        splitter: &'static Splitter,
        vocab: &Vocab,
        merges: impl ExactSizeIterator<Item = &'a [u8]>,
    ) -> Result<Self> {
        let (n, key) = (merges.len(), vocab.key);
        let bytes = core::array::from_fn(|b| vocab.find_text(&[b as u8]).unwrap_or(NONE));
        let mut bpe = Bpe { splitter, merges: Vec::with_capacity(n), slots: Slots::with_capacity(n), bytes, key };
        let mut pair = Vec::new();
        for (rank, line) in merges.enumerate() {
            let wrong = |what| {
                let line = String::from_utf8_lossy(line);
                Error::corrupt(format!("merge {rank}, {:?}, {what}", printable(&line)), 0)
            };
            pair.clear();
            let middle = write_pair(line, &mut pair).ok_or_else(|| wrong("is not two pieces"))?;
            let find = |piece: &[u8]| vocab.find(piece).ok_or_else(|| wrong("names a piece that is no token"));
            let (left, right, into) = (find(&pair[..middle])?, find(&pair[middle..])?, find(&pair)?);
            // A merge that makes a control token would let text spell it.
            if [left, right, into].iter().all(|&id| vocab.kind(id).is_text()) {
                let Bpe { merges, slots, .. } = &mut bpe;
                let same = |rank: u32| merges[rank as usize].left == left && merges[rank as usize].right == right;
                if slots.insert(key.of_pair(left, right), merges.len() as u32, same).is_none() {
                    merges.push(Merge { left, right, into });
                }
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
