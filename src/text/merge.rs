//! Merging neighbours, best pair first. The caller ranks the pairs; this is the queue, O(n log n).
//!
//! A long text is merged window by window. What stands behind a window could change what is merged before its end, so
//! only that is used which nothing behind it can reach: a symbol stays certain as long as no merge of it with whatever
//! may follow has a better rank than the pair that is merged next. What may follow is itself the work of merges, and none
//! of a worse rank than the worst so far was its turn yet. What is left is merged again with what follows.

use super::vocab::NONE;
use core::cmp::Reverse;
use core::ops::Range;
use std::collections::BinaryHeap;
use std::prelude::v1::*;

/// A symbol lives at the index of its first byte; the indices inside it are dead.
#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    prev: u32,
    /// Where it ends and the next one starts. Zero: dead.
    next: u32,
}

const DEAD: Symbol = Symbol { id: NONE, prev: NONE, next: 0 };

/// A pair that may merge: rank and left index (the lowest first), the end of the pair, the token it becomes.
type Candidate = Reverse<(u64, u32, u32)>;

/// A part of the text and its token, or [`NONE`].
pub(super) struct Span {
    pub range: Range<usize>,
    pub id: u32,
}

/// What a vocabulary says of pairs.
pub(super) trait Pairs {
    /// The rank of merging two neighbours (lower first; the leftmost of equals) and the token that they become.
    fn pair(&self, text: &[u8], left: &Span, right: &Span) -> Option<(u32, u32)>;

    /// The lowest rank of merging `left` with what may stand behind it: at least `least` bytes of the text. With `below`
    /// that is what merges of lower ranks than this one make of single symbols; a vocabulary may count more.
    fn lowest(&self, text: &[u8], left: &Span, least: usize, below: Option<u32>) -> Option<u32>;

    /// The most bytes of a token that merges make.
    fn longest(&self) -> usize;
}

/// Of a vocabulary with longer tokens each text is one window: what may follow could not be looked at in little time.
const LONGEST: usize = 512;

/// The workspace, reused between words.
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Candidate>,
    last: u32,
    /// Bytes that are merged at once, to begin with.
    window: usize,
}

impl Default for Merger {
    fn default() -> Self {
        Merger::with_window(1 << 16)
    }
}

impl Merger {
    pub fn with_window(window: usize) -> Self {
        Merger { symbols: Vec::new(), queue: BinaryHeap::new(), last: NONE, window }
    }

    /// Begins a text of `len` bytes, fewer than `u32::MAX`.
    fn begin(&mut self, len: usize) {
        self.symbols.clear();
        self.symbols.resize(len, DEAD);
        self.queue.clear();
        self.last = NONE;
    }

    /// Adds the next symbol: the bytes `range`, right after the one before.
    fn push(&mut self, range: Range<usize>, id: u32) {
        self.symbols[range.start] = Symbol { id, prev: self.last, next: range.end as u32 };
        self.last = range.start as u32;
    }

    fn span(&self, at: u32) -> Span {
        let symbol = &self.symbols[at as usize];
        Span { range: at as usize..symbol.next as usize, id: symbol.id }
    }

    /// Merges a text that comes in pieces of whole symbols, and hands out each final symbol with the text that it is in.
    /// `symbol`: the bytes and the token of the first symbol of a text.
    pub fn each<E>(
        &mut self,
        pieces: &mut dyn Iterator<Item = &[u8]>,
        symbol: impl Fn(&[u8]) -> (usize, u32),
        pairs: &impl Pairs,
        mut out: impl FnMut(&[u8], Span) -> core::result::Result<(), E>,
    ) -> core::result::Result<(), E> {
        let longest = pairs.longest();
        let mut window = if longest <= LONGEST { self.window.max(2 * longest + 8) } else { usize::MAX };
        let (mut text, mut ended) = (Vec::new(), false);
        while !ended {
            while text.len() < window && !ended {
                match pieces.next() {
                    Some(piece) => text.extend_from_slice(piece),
                    None => ended = true,
                }
            }
            // A symbol of four bytes may stand across the border.
            let open = if ended { 0 } else { longest + 4 };
            let done = self.merge(&text, open, &symbol, pairs);
            let mut at = 0;
            while at < done {
                let span = self.span(at as u32);
                at = span.range.end;
                out(&text, span)?;
            }
            // Where a window decides little, a larger one does not cost more than what it decides.
            if done < text.len() / 2 {
                window = window.saturating_mul(2);
            }
            text.drain(..done);
        }
        Ok(())
    }

    /// Merges until no pair is left, and returns up to where that is final. Of the last `open` bytes nothing is.
    fn merge(
        &mut self,
        text: &[u8],
        open: usize,
        symbol: &impl Fn(&[u8]) -> (usize, u32),
        pairs: &impl Pairs,
    ) -> usize {
        self.begin(text.len());
        let (mut at, mut border) = (0, text.len() as u32);
        while at < text.len() {
            let (len, id) = symbol(&text[at..]);
            if open > 0 && at + open >= text.len() {
                border = border.min(at as u32);
            }
            self.push(at..at + len, id);
            at += len;
        }
        let end = text.len() as u32;
        let pair = |left: &Span, right: &Span| pairs.pair(text, left, right);
        let mut at = 0;
        while at < border {
            self.consider(at, &pair);
            at = self.symbols[at as usize].next;
        }
        // The rank from which on the symbol before the border is uncertain too, and of what that was asked: whatever may
        // follow, and what may follow by now.
        let mut reaches = [None; 2];
        let mut asked = [None; 2];
        // The highest rank so far.
        let mut turn = 0;
        while let Some(Reverse((key, pair_end, id))) = self.queue.pop() {
            let left = key as u32;
            // Either side may have merged elsewhere since. A pair with the same end is still the same pair.
            let stale = |m: &Self, border: u32| {
                let right = m.symbols[left as usize].next;
                right == 0 || right >= border || m.symbols[right as usize].next != pair_end
            };
            if stale(self, border) {
                continue;
            }
            let rank = (key >> 32) as u32;
            turn = turn.max(rank);
            while border < end {
                let edge = self.symbols[border as usize].prev;
                if edge == NONE {
                    break;
                }
                let least = self.span(border).range.len();
                // Of a symbol that was merged, only its length is known of what stands there.
                let single = symbol(&text[border as usize..]).0 == least;
                let mut reached = |i: usize, below: Option<u32>| {
                    let now = Some((edge, border, below));
                    if asked[i] != now {
                        asked[i] = now;
                        reaches[i] = pairs.lowest(text, &self.span(edge), least, below);
                    }
                    reaches[i].is_some_and(|reach| reach < rank)
                };
                if !reached(0, None) || single && !reached(1, Some(turn)) {
                    break;
                }
                border = edge;
            }
            if stale(self, border) {
                continue;
            }
            let right = self.symbols[left as usize].next;
            self.symbols[right as usize] = DEAD;
            self.symbols[left as usize].next = pair_end;
            self.symbols[left as usize].id = id;
            if pair_end < end {
                self.symbols[pair_end as usize].prev = left;
            }
            let prev = self.symbols[left as usize].prev;
            if prev != NONE {
                self.consider(prev, &pair);
            }
            self.consider(left, &pair);
        }
        while border < end {
            let edge = self.symbols[border as usize].prev;
            let least = self.span(border).range.len();
            if edge == NONE || pairs.lowest(text, &self.span(edge), least, None).is_none() {
                break;
            }
            border = edge;
        }
        border as usize
    }

    fn consider(&mut self, left: u32, pair: &impl Fn(&Span, &Span) -> Option<(u32, u32)>) {
        let first = self.span(left);
        if first.range.end == self.symbols.len() {
            return;
        }
        let second = self.span(first.range.end as u32);
        if let Some((rank, id)) = pair(&first, &second) {
            self.queue.push(Reverse(((rank as u64) << 32 | left as u64, second.range.end as u32, id)));
        }
    }
}
