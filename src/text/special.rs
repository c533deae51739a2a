//! Tokens with a role: those that end a generation, and those that are recognised in the text before it is encoded.

use super::vocab::{MAX_PIECE, TokenKind, Vocab};
use core::cmp::Reverse;
use core::ops::Range;
use std::collections::BinaryHeap;
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

/// Finds the spellings of some tokens in a text.
pub(super) struct Finder {
    /// The tokens, sorted by their bytes.
    sorted: Vec<u32>,
    /// Where the tokens with a first byte begin in `sorted`.
    first: Box<[u32; 257]>,
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
        Finder { sorted, first }
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
    /// `allowed` accepts its token and position.
    pub fn cut(&self, vocab: &Vocab, text: &[u8], allowed: impl Fn(u32, Range<usize>) -> bool) -> Vec<Fragment> {
        let longest = |at: usize, mut most: usize| {
            loop {
                let (len, id) = self.longest(vocab, &text[at..], most)?;
                if allowed(id, at..at + len) {
                    return Some((len, id));
                }
                most = len - 1;
            }
        };
        let mut queue = BinaryHeap::new();
        if !self.sorted.is_empty() {
            for at in 0..text.len() {
                if let Some((len, id)) = longest(at, MAX_PIECE) {
                    queue.push((len, Reverse(id), Reverse(at)));
                }
            }
        }
        if queue.is_empty() {
            return if text.is_empty() { Vec::new() } else { vec![Fragment::Text(0..text.len())] };
        }
        let mut taken = vec![false; text.len()];
        let mut found = Vec::new();
        while let Some((len, Reverse(id), Reverse(at))) = queue.pop() {
            // Spellings that were found before are not shorter, so an overlap covers one of this one's ends.
            if taken[at] {
                continue;
            }
            if taken[at + len - 1] {
                if let Some((len, id)) = longest(at, len - 1) {
                    queue.push((len, Reverse(id), Reverse(at)));
                }
                continue;
            }
            taken[at..at + len].fill(true);
            found.push((at, len, id));
        }
        found.sort_unstable();
        let (mut out, mut start) = (Vec::new(), 0);
        for (at, len, id) in found {
            if start < at {
                out.push(Fragment::Text(start..at));
            }
            out.push(Fragment::Token(id));
            start = at + len;
        }
        if start < text.len() {
            out.push(Fragment::Text(start..text.len()));
        }
        out
    }
}
