//! The activation cache: outputs of the frozen blocks below the lowest adapted one, one entry an example. Where adapters
//! sit in the upper blocks only, these outputs never change, and later epochs need not compute them again.
//!
//! Outputs are rounded to f16 whether they come from the cache or were just computed, so the cache changes no bit of a
//! run. Outputs that overflow f16 are neither cached nor rounded.

use super::batch::Batch;
use crate::adapter::Stack;
use crate::kernel::Buffer;
use crate::model::doors::Workspace;
use crate::model::pass::{self, Pass};
use crate::model::{Acts, Model, Rows};
use crate::nn::linear::Precision;
use std::collections::BTreeMap;
use std::prelude::v1::*;

/// The first bytes of the BLAKE3 hash of an example's tokens, each in four little-endian bytes.
pub type Key = [u8; 16];

/// Where outputs are stored. The owner must use one store for each base, number of frozen blocks and data set.
pub trait Store: Send {
    /// Copies the output for `key` to `out`, as bits of f16, `[rows, width]`, and returns whether it was there. An
    /// entry that is damaged or has another length counts as absent.
    fn load(&mut self, key: &Key, out: &mut [u16]) -> bool;

    /// Stores an output. A bounded store may drop it.
    fn save(&mut self, key: &Key, values: &[u16]);
}

/// A store in memory of at most `bytes` bytes.
#[derive(Default)]
pub struct Memory {
    /// The bound.
    pub bytes: usize,
    held: usize,
    outputs: BTreeMap<Key, Vec<u16>>,
}

impl Memory {
    /// An empty store.
    pub fn new(bytes: usize) -> Memory {
        Memory { bytes, ..Memory::default() }
    }
}

impl Store for Memory {
    fn load(&mut self, key: &Key, out: &mut [u16]) -> bool {
        let found = self.outputs.get(key).filter(|values| values.len() == out.len());
        found.map(|values| out.copy_from_slice(values)).is_some()
    }

    fn save(&mut self, key: &Key, values: &[u16]) {
        let held = self.held + size_of_val(values);
        if held <= self.bytes && self.outputs.insert(*key, values.to_vec()).is_none() {
            self.held = held;
        }
    }
}

/// A store with the buffers that compute missing outputs.
pub(super) struct ActivationCache {
    store: Box<dyn Store>,
    x: Buffer,
    bits: Vec<u16>,
}

fn key(tokens: &[u32]) -> Key {
    let mut hash = blake3::Hasher::new();
    tokens.iter().for_each(|t| _ = hash.update(&t.to_le_bytes()));
    let mut key = Key::default();
    key.copy_from_slice(&hash.finalize().as_bytes()[..16]);
    key
}

impl ActivationCache {
    pub(super) fn new(store: Box<dyn Store>) -> ActivationCache {
        ActivationCache { store, x: Buffer::default(), bits: Vec::new() }
    }

    /// Bytes it holds for `n` rows.
    pub(super) fn bytes(width: usize, n: usize) -> usize {
        6 * n * width
    }

    /// The outputs of the first `blocks` blocks, which no adapter changes, into `x`, `[N, width]`.
    pub(super) fn forward(
        &mut self,
        m: &Model,
        batch: &Batch,
        blocks: usize,
        x: &mut [f32],
        acts: &mut Acts,
        work: &mut Workspace,
    ) {
        let (k, d) = (m.compute.kernels, m.hparams.width);
        if self.bits.len() < batch.tokens.len() * d {
            self.bits = Vec::new();
            self.bits = vec![0; batch.tokens.len() * d];
        }
        let (mut tokens, mut layout, mut places) = (Vec::new(), Rows::default(), Vec::new());
        for rows in &batch.rows.segments {
            let values = rows.start * d..rows.end * d;
            let bits = &mut self.bits[..values.len()];
            if self.store.load(&key(&batch.tokens[rows.clone()]), bits) {
                (k.widen)(bits, &mut x[values]);
                continue;
            }
            let first = tokens.len();
            tokens.extend_from_slice(&batch.tokens[rows.clone()]);
            layout.positions.extend_from_slice(&batch.rows.positions[rows.clone()]);
            layout.segments.push(first..tokens.len());
            places.push(values);
        }
        if tokens.is_empty() {
            return;
        }
        let made = self.x.room(tokens.len() * d);
        layout.rotate(m);
        let stack = Stack::new();
        let p = Pass::new(m, &stack, Precision::F32, &layout);
        pass::embed(&p, &tokens, made, work);
        pass::blocks(&p, 0..blocks, None, made, acts, &mut Buffer::default(), work, &mut |_, _, _, _| ());
        for (rows, place) in layout.segments.iter().zip(places) {
            let made = &made[rows.start * d..rows.end * d];
            let bits = &mut self.bits[..made.len()];
            (k.narrow)(made, bits);
            (k.widen)(bits, &mut x[place.clone()]);
            if x[place.clone()].iter().all(|v| v.is_finite()) {
                self.store.save(&key(&tokens[rows.clone()]), bits);
            } else {
                x[place].copy_from_slice(made);
            }
        }
    }
}
