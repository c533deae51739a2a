//! Tokens with a role: those that end a generation, and those that are recognised in the text before it is encoded.

use super::vocab::{MAX_PIECE, TokenKind, Vocab};
use core::cmp::Reverse;
use core::ops::Range;
use std::collections::{BTreeSet, BinaryHeap};
use std::prelude::v1::*;

/// Spellings that end a turn, the most common first; one of them is the end of turn if the file names none.
pub(super) const END_OF_TURN: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
];

/// The spelling of the end of a message to a tool.
pub(super) const END_OF_MESSAGE: &str = "<|eom_id|>";

/// Further spellings that end a generation.
pub(super) const OTHER_ENDS: &[&str] = &[
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "</s>",
    "<|eom_id|>",
    "[EOS]",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "[e~[",
];

/// Spellings of padding, repository and file separators of code models; they end a generation too.
pub(super) const FILL_ENDS: &[&[&str]] = &[
    &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"],
    &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"],
    &["<|file_sep|>"],
];

/// Spellings of the parts of a text with a gap, which code models are given; structure too.
pub(super) const FILL_PARTS: &[&str] = &[
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|code_prefix|>",
    "<|prefix|>",
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|code_suffix|>",
    "<|suffix|>",
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
    "<|code_middle|>",
    "<|middle|>",
];

/// Control spellings that are shown when decoding.
pub(super) const SHOWN: &[&str] = &["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

/// A piece of a text: a text to be encoded, or a token.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fragment {
    Text(Range<usize>),
    Token(u32),
}

/// Places of a text at which spellings are looked for together.
const WINDOW: usize = 1 << 14;

/// Finds the spellings of some tokens in a text.
pub(super) struct Finder {
    /// The tokens, sorted by their bytes.
    sorted: Vec<u32>,
    /// Where the tokens with a first byte begin in `sorted`.
    first: Box<[u32; 257]>,
    /// Places that are looked at together, at least.
    window: usize,
}

impl Finder {
    /// A finder of the tokens whose kinds `wanted` accepts.
    pub fn new(vocab: &Vocab, wanted: impl Fn(TokenKind) -> bool) -> Self {
        let all = 0..vocab.len() as u32;
        let mut sorted: Vec<u32> =
            all.filter(|&id| wanted(vocab.kind(id)) && (1..=MAX_PIECE).contains(&vocab.bytes(id).len())).collect();
        sorted.sort_by_key(|&id| (vocab.bytes(id), id));
        sorted.dedup_by_key(|id| vocab.bytes(*id));
        let starts = |b: usize| sorted.partition_point(|&id| (vocab.bytes(id)[0] as usize) < b) as u32;
        let first = Box::new(core::array::from_fn(starts));
        Finder { sorted, first, window: WINDOW }
    }

    #[cfg(test)]
    pub fn with_window(self, window: usize) -> Self {
        Finder { window, ..self }
    }

    /// The longest spelling of at most `most` bytes that `text` begins with: length and token.
    pub fn longest(&self, vocab: &Vocab, text: &[u8], most: usize) -> Option<(usize, u32)> {
        let head = *text.first()? as usize;
        let mut range = &self.sorted[self.first[head] as usize..self.first[head + 1] as usize];
        let mut best = None;
        for depth in 1..=text.len().min(most) {
            // The tokens in range agree with the text in `depth` bytes; one that ends here sorts first.
            let Some(&id) = range.first() else { break };
            if vocab.bytes(id).len() == depth {
                best = Some((depth, id));
                range = &range[1..];
            }
            let Some(&next) = text.get(depth) else { break };
            let from = range.partition_point(|&id| vocab.bytes(id)[depth] < next);
            let to = range.partition_point(|&id| vocab.bytes(id)[depth] <= next);
            range = &range[from..to];
        }
        best
    }

    /// Cuts the text: longer spellings first anywhere in it, then from left to right. A spelling is recognised if
    /// `allowed` accepts its token and position. Hands out the parts in order, and stops at the first error of `out`.
    ///
    /// What a spelling loses to overlaps it, so spellings that do not touch are nothing to each other: one group of those
    /// that overlap is looked at after the other. Of a long group only its beginning is. A spelling there can lose to one on
    /// its right, which may have lost to another, and so on; but each of these is longer or comes before in the order of
    /// tokens, so that all of them reach no further than the sum of the spellings that are there.
    pub fn each<E>(
        &self,
        vocab: &Vocab,
        text: &[u8],
        allowed: impl Fn(u32, Range<usize>) -> bool,
        mut out: impl FnMut(Fragment) -> core::result::Result<(), E>,
    ) -> core::result::Result<(), E> {
        let longest = |at: usize, mut most: usize| {
            loop {
                let (len, id) = self.longest(vocab, &text[at..], most)?;
                if allowed(id, at..at + len) {
                    return Some((len, id));
                }
                most = len - 1;
            }
        };
        let (mut queue, mut taken, mut found) = (BinaryHeap::new(), Vec::new(), Vec::new());
        let mut there = BTreeSet::new();
        // Where the text begins that is not handed out yet, and where to look.
        let (mut start, mut at) = (0, if self.sorted.is_empty() { text.len() } else { 0 });
        while at < text.len() {
            if longest(at, MAX_PIECE).is_none() {
                at += 1;
                continue;
            }
            let (begin, mut end) = (at, at + 1);
            // The spellings that are there, and their sum.
            let mut reach = 0;
            there.clear();
            while at < end && at - begin < self.window.max(2 * reach) {
                if let Some((len, id)) = longest(at, MAX_PIECE) {
                    queue.push((len, Reverse(id), Reverse(at)));
                    end = end.max(at + len);
                }
                let mut next = self.longest(vocab, &text[at..], MAX_PIECE);
                while let Some((len, _)) = next.filter(|(_, id)| there.insert(*id)) {
                    reach += len;
                    next = self.longest(vocab, &text[at..], len - 1);
                }
                at += 1;
            }
            taken.clear();
            taken.resize(end - begin, false);
            while let Some((len, Reverse(id), Reverse(at))) = queue.pop() {
                let place = at - begin;
                // Spellings that were found before are not shorter, so an overlap covers one of this one's ends.
                if taken[place] {
                    continue;
                }
                if taken[place + len - 1] {
                    if let Some((len, id)) = longest(at, len - 1) {
                        queue.push((len, Reverse(id), Reverse(at)));
                    }
                    continue;
                }
                taken[place..place + len].fill(true);
                found.push((at, len, id));
            }
            if at < end {
                at -= reach;
            }
            found.sort_unstable();
            for (place, len, id) in found.drain(..).take_while(|&(place, ..)| place < at) {
                if start < place {
                    out(Fragment::Text(start..place))?;
                }
                out(Fragment::Token(id))?;
                start = place + len;
            }
            at = at.max(start);
        }
        if start < text.len() { out(Fragment::Text(start..text.len())) } else { Ok(()) }
    }
}
