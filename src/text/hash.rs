//! Open addressing over a flat array of numbers. The hash is keyed by the fingerprint of the whole vocabulary, so no
//! file can be constructed to collide: every change of the file changes the key.

use std::prelude::v1::*;

/// The key of the hash.
#[derive(Clone, Copy)]
pub(super) struct Key(u64, u64);

/// The 128-bit product of both, with its halves xored.
fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

/// Fewer than 8 bytes as a number, different for different texts of the same length.
fn tail_word(tail: &[u8]) -> u64 {
    if let (Some(first), Some(last)) = (tail.first_chunk::<4>(), tail.last_chunk::<4>()) {
        return u32::from_le_bytes(*first) as u64 | (u32::from_le_bytes(*last) as u64) << 32;
    }
    match *tail {
        [a, b, c] => a as u64 | (b as u64) << 8 | (c as u64) << 16,
        [a, b] => a as u64 | (b as u64) << 8,
        [a] => a as u64,
        _ => 0,
    }
}

impl Key {
    pub fn new(fingerprint: &[u8; 32]) -> Self {
        let (words, _) = fingerprint.as_chunks::<8>();
        // Multiplication by odd factors is invertible.
        Key(u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1]) | 1)
    }

    pub fn of_bytes(self, bytes: &[u8]) -> u64 {
        let (words, tail) = bytes.as_chunks::<8>();
        let mut hash = self.0 ^ bytes.len() as u64;
        for word in words {
            hash = fold(hash ^ u64::from_le_bytes(*word), self.1);
        }
        fold(fold(hash ^ tail_word(tail), self.1) ^ self.0, self.1)
    }
}

/// Numbers below `u32::MAX`, found by hash; the caller defines their meaning.
pub(super) struct Slots {
    /// A number plus one; zero is free. At most half of the slots are taken, since every further probe costs a cache miss.
    slots: Vec<u32>,
}

impl Slots {
    pub fn with_capacity(n: usize) -> Self {
        Slots { slots: vec![0; (2 * n).next_power_of_two().max(2)] }
    }

    /// The slot of the number with that hash for which `is` holds, or a free slot for it.
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
