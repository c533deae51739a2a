//! Keys and values of the positions so far.

use super::HParams;
use crate::error::{Error, Result};
use crate::kernel::{CODES, Kernels, Stored, View};
use crate::nn::attention::{Heads, Memory};
use std::prelude::v1::*;

/// Precision of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheType {
    /// Half floats.
    F16,
    /// Full precision.
    F32,
    /// 8 bits, with a scale of 16 for each 32 values of a head's row, or for what is left of it.
    Q8,
}

impl CacheType {
    /// Its name, that of ggml's type.
    pub fn name(self) -> &'static str {
        match self {
            CacheType::F16 => "f16",
            CacheType::F32 => "f32",
            CacheType::Q8 => "q8_0",
        }
    }

    /// Bytes of the keys and values of one position, all layers together.
    pub fn bytes(self, h: &HParams) -> usize {
        let row = |dim: usize| match self {
            CacheType::F16 => 2 * dim,
            CacheType::F32 => 4 * dim,
            CacheType::Q8 => dim + 2 * dim.div_ceil(CODES),
        };
        h.blocks.iter().map(|l| 2 * l.heads.kv * row(l.heads.dim)).sum()
    }
}

/// One layer's. Those of halves and codes stand head by head, so that what a head reads has no gaps: `[KV, positions, D]`.
/// The others stand as they are computed: `[positions, KV·D]`.
enum Store {
    F16(Vec<u16>),
    F32(Vec<f32>),
    Q8 { codes: Vec<i8>, scales: Vec<u16> },
}

/// What does not fit is refused; systems that can give the memory when it is first written to.
fn zeros<T: bytemuck::Zeroable>(len: usize) -> Result<Vec<T>> {
    let bytes = (len * size_of::<T>()) as u64;
    bytemuck::allocation::try_zeroed_vec(len).map_err(|()| Error::memory("the key/value cache", bytes))
}

impl Store {
    fn new(kind: CacheType, rows: usize, dim: usize) -> Result<Self> {
        Ok(match kind {
            CacheType::F16 => Store::F16(zeros(rows * dim)?),
            CacheType::F32 => Store::F32(zeros(rows * dim)?),
            CacheType::Q8 => Store::Q8 { codes: zeros(rows * dim)?, scales: zeros(rows * dim.div_ceil(CODES))? },
        })
    }

    /// x: `[n, KV·D]`, for positions from `at` on.
    fn write(&mut self, k: &Kernels, heads: Heads, positions: usize, at: usize, x: &[f32]) {
        let (d, kv) = (heads.dim, heads.kv);
        if let Store::F32(v) = self {
            v[at * kv * d..][..x.len()].copy_from_slice(x);
            return;
        }
        for (i, x) in x.chunks_exact(kv * d).enumerate() {
            for (h, x) in x.chunks_exact(d).enumerate() {
                let row = h * positions + at + i;
                match self {
                    Store::F16(v) => (k.narrow)(x, &mut v[row * d..][..d]),
                    Store::Q8 { codes, scales } => {
                        let per = d.div_ceil(CODES);
                        (k.code)(x, &mut codes[row * d..][..d], &mut scales[row * per..][..per]);
                    }
                    Store::F32(_) => unreachable!("written above"),
                }
            }
        }
    }

    /// The first `n` positions.
    fn memory(&self, heads: Heads, positions: usize, n: usize) -> Memory<'_> {
        let (d, kv) = (heads.dim, heads.kv);
        let data = match self {
            Store::F16(v) => Stored::F16(v),
            Store::Q8 { codes, scales } => Stored::Q8 { codes, scales },
            Store::F32(v) => {
                let width = kv * d;
                return Memory::Rows(View::new(&v[..n * width], n, width));
            }
        };
        Memory::Cache { data, positions }
    }
}

/// Keys and values of all layers.
pub struct Cache {
    layers: Vec<Layer>,
    kind: CacheType,
    positions: usize,
}

struct Layer {
    keys: Store,
    values: Store,
    heads: Heads,
}

impl Cache {
    /// All memory is taken here.
    ///
    /// # Errors
    /// `Memory` if the memory is not there.
    pub fn new(h: &HParams, kind: CacheType, positions: usize) -> Result<Cache> {
        let layer = |l: &super::hparams::Layer| {
            let heads = l.heads;
            let rows = positions.checked_mul(heads.kv);
            let len = rows.and_then(|n| n.checked_mul(heads.dim)).filter(|n| *n < isize::MAX as usize / 8);
            let (Some(rows), Some(_)) = (rows, len) else {
                return Err(Error::limit("positions of the cache", positions as u64, u32::MAX as u64));
            };
            let store = || Store::new(kind, rows, heads.dim);
            Ok(Layer { keys: store()?, values: store()?, heads })
        };
        Ok(Cache { layers: h.blocks.iter().map(layer).collect::<Result<_>>()?, kind, positions })
    }

    /// Its precision.
    pub fn kind(&self) -> CacheType {
        self.kind
    }

    /// Positions there is room for.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Bytes of it.
    pub fn bytes(&self) -> usize {
        let of = |store: &Store| match store {
            Store::F16(v) => size_of_val(&v[..]),
            Store::F32(v) => size_of_val(&v[..]),
            Store::Q8 { codes, scales } => size_of_val(&codes[..]) + size_of_val(&scales[..]),
        };
        self.layers.iter().map(|l| of(&l.keys) + of(&l.values)).sum()
    }

    /// Writes rows `x` of keys and values of `layer` from position `at` on.
    pub(super) fn write(&mut self, k: &Kernels, layer: usize, at: usize, keys: &[f32], values: &[f32]) {
        let l = &mut self.layers[layer];
        l.keys.write(k, l.heads, self.positions, at, keys);
        l.values.write(k, l.heads, self.positions, at, values);
    }

    /// The first `n` positions of `layer`.
    pub(super) fn memory(&self, layer: usize, n: usize) -> (Memory<'_>, Memory<'_>) {
        let l = &self.layers[layer];
        (l.keys.memory(l.heads, self.positions, n), l.values.memory(l.heads, self.positions, n))
    }
}
