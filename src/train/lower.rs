//! Outputs of the frozen blocks below the lowest adapted one, kept example by example: where adapters sit in the upper
//! blocks only, these never change, and later epochs need not compute them again.
//!
//! They are rounded to half floats whether they come from the store or were just computed, so what was stored changes no
//! bit of a run. An output with a value that no half can hold is not stored, and not rounded either.

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

/// Where outputs are kept. Base, number of frozen blocks and data are the owner's to tell apart.
pub trait Store: Send {
    /// Whether it holds the output for `key`, which then is in `out`: bits of half floats, `[rows, width]`. What is damaged
    /// or has another length it does not hold.
    fn load(&mut self, key: &Key, out: &mut [u16]) -> bool;

    /// Keeps an output, or does not: it may be bounded.
    fn save(&mut self, key: &Key, values: &[u16]);
}

/// A store in memory, of at most so many bytes.
#[derive(Default)]
pub struct Memory {
    /// The bound.
    pub bytes: usize,
    held: usize,
    outputs: BTreeMap<Key, Vec<u16>>,
}

impl Memory {
    /// An empty one.
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

/// A store in use, with what it needs to make what is missing.
pub(super) struct Lower {
    store: Box<dyn Store>,
    x: Buffer,
    halves: Vec<u16>,
}

fn key(tokens: &[u32]) -> Key {
    let mut hash = blake3::Hasher::new();
    tokens.iter().for_each(|t| _ = hash.update(&t.to_le_bytes()));
    let mut key = Key::default();
    key.copy_from_slice(&hash.finalize().as_bytes()[..16]);
    key
}

impl Lower {
    pub(super) fn new(store: Box<dyn Store>) -> Lower {
        Lower { store, x: Buffer::default(), halves: Vec::new() }
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
        if self.halves.len() < batch.tokens.len() * d {
            self.halves = Vec::new();
            self.halves = vec![0; batch.tokens.len() * d];
        }
        let (mut tokens, mut layout, mut places) = (Vec::new(), Rows::default(), Vec::new());
        for rows in &batch.rows.segments {
            let values = rows.start * d..rows.end * d;
            let halves = &mut self.halves[..values.len()];
            if self.store.load(&key(&batch.tokens[rows.clone()]), halves) {
                (k.widen)(halves, &mut x[values]);
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
            let halves = &mut self.halves[..made.len()];
            (k.narrow)(made, halves);
            (k.widen)(halves, &mut x[place.clone()]);
            if x[place.clone()].iter().all(|v| v.is_finite()) {
                self.store.save(&key(&tokens[rows.clone()]), halves);
            } else {
                x[place].copy_from_slice(made);
            }
        }
    }
}
