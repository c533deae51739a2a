//! Open addressing over a flat array of numbers. The hash is keyed by the fingerprint of the whole vocabulary, so
//! a file cannot be written to collide: every attempt at one changes the key.

use std::prelude::v1::*;

/// The key of the hash.
#[derive(Clone, Copy)]
pub(super) struct Key(u64, u64);

/// The product of both, its halves folded together.
fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

impl Key {
    pub fn new(fingerprint: &[u8; 32]) -> Self {
        let (words, _) = fingerprint.as_chunks::<8>();
        // Odd factors lose no bit.
        Key(u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1]) | 1)
    }

    pub fn of_bytes(self, bytes: &[u8]) -> u64 {
        let (words, tail) = bytes.as_chunks::<8>();
        let mut hash = self.0 ^ bytes.len() as u64;
        for word in words {
            hash = fold(hash ^ u64::from_le_bytes(*word), self.1);
        }
        let last = tail.iter().rev().fold(0, |word, &b| word << 8 | b as u64);
        fold(fold(hash ^ last, self.1) ^ self.0, self.1)
    }

    pub fn of_pair(self, left: u32, right: u32) -> u64 {
        fold(fold(((left as u64) << 32 | right as u64) ^ self.0, self.1) ^ self.0, self.1)
    }
}

/// Numbers below `u32::MAX`, found by hash; what they stand for is the caller's.
pub(super) struct Slots {
    /// A number plus one; zero is free. At most four fifths are taken.
    slots: Vec<u32>,
}

impl Slots {
    pub fn with_capacity(n: usize) -> Self {
        Slots { slots: vec![0; (n + n / 4 + 1).next_power_of_two()] }
    }

    /// Where a number with that hash for which `is` holds stands, or where it would.
    fn place(&self, hash: u64, is: impl Fn(u32) -> bool) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        while self.slots[at] != 0 && !is(self.slots[at] - 1) {
            at = (at + 1) & mask;
        }
        at
    }

    /// The number with that hash for which `is` holds.
    pub fn find(&self, hash: u64, is: impl Fn(u32) -> bool) -> Option<u32> {
        self.slots[self.place(hash, is)].checked_sub(1)
    }

    /// Adds a number unless there is one with that hash for which `is` holds, which is returned then. There must be
    /// room by [`Slots::with_capacity`].
    pub fn insert(&mut self, hash: u64, number: u32, is: impl Fn(u32) -> bool) -> Option<u32> {
        let at = self.place(hash, is);
        let there = self.slots[at].checked_sub(1);
        if there.is_none() {
            self.slots[at] = number + 1;
        }
        there
    }
}
