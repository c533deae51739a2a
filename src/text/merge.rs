//! Merging neighbours, best pair first. The caller ranks the pairs; this is the queue, O(n log n).

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

/// The workspace, reused between words.
#[derive(Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Candidate>,
    last: u32,
}

impl Merger {
    /// Begins a text of `len` bytes, fewer than `u32::MAX`.
    pub fn begin(&mut self, len: usize) {
        self.symbols.clear();
        self.symbols.resize(len, DEAD);
        self.queue.clear();
        self.last = NONE;
    }

    /// Adds the next symbol: the bytes `range`, right after the one before.
    pub fn push(&mut self, range: Range<usize>, id: u32) {
        self.symbols[range.start] = Symbol { id, prev: self.last, next: range.end as u32 };
        self.last = range.start as u32;
    }

    fn span(&self, at: u32) -> Span {
        let symbol = &self.symbols[at as usize];
        Span { range: at as usize..symbol.next as usize, id: symbol.id }
    }

    /// Merges until no pair is left. `pair` gives a pair's rank (lower first; the leftmost of equals) and the token it
    /// becomes.
    pub fn run(&mut self, pair: impl Fn(&Span, &Span) -> Option<(u32, u32)>) {
        let end = self.symbols.len() as u32;
        let mut at = 0;
        while at < end {
            self.consider(at, &pair);
            at = self.symbols[at as usize].next;
        }
        while let Some(Reverse((key, pair_end, id))) = self.queue.pop() {
            let left = key as u32;
            let right = self.symbols[left as usize].next;
            // Either side may have merged elsewhere since. A pair with the same end is still the same pair.
            if right == 0 || right == end || self.symbols[right as usize].next != pair_end {
                continue;
            }
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

    /// The remaining symbols, in order.
    pub fn spans(&self) -> impl Iterator<Item = Span> + '_ {
        let mut at = 0;
        core::iter::from_fn(move || {
            (at < self.symbols.len()).then(|| {
                let span = self.span(at as u32);
                at = span.range.end;
                span
            })
        })
    }
}
