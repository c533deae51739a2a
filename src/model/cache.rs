//! Keys and values of the positions so far.

use super::HParams;
use crate::error::{Error, Result};
use crate::kernel::{Kernels, View};
use crate::nn::attention::Memory;
use std::prelude::v1::*;

/// Precision of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheType {
    /// Half floats.
    F16,
    /// Full precision.
    F32,
}

enum Store {
    F16(Vec<u16>),
    F32(Vec<f32>),
}

impl Store {
    fn new(kind: CacheType, len: usize) -> Result<Self> {
        fn zeros<T: Clone + Default>(len: usize) -> Result<Vec<T>> {
            let mut v = Vec::new();
            let bytes = (len * size_of::<T>()) as u64;
            v.try_reserve_exact(len).map_err(|_| Error::limit("memory of the key/value cache, bytes", bytes, 0))?;
            v.resize(len, T::default());
            Ok(v)
        }
        Ok(match kind {
            CacheType::F16 => Store::F16(zeros(len)?),
            CacheType::F32 => Store::F32(zeros(len)?),
        })
    }

    fn write(&mut self, k: &Kernels, at: usize, x: &[f32]) {
        match self {
            Store::F16(v) => (k.narrow)(x, &mut v[at..at + x.len()]),
            Store::F32(v) => v[at..at + x.len()].copy_from_slice(x),
        }
    }

    fn memory(&self, at: usize, n: usize, width: usize) -> Memory<'_> {
        match self {
            Store::F16(v) => Memory::F16 { data: &v[at..at + n * width], width },
            Store::F32(v) => Memory::F32(View::new(&v[at..at + n * width], n, width)),
        }
    }
}

/// `[layers, positions, KV·D]` of keys and of values.
pub struct Cache {
    keys: Store,
    values: Store,
    positions: usize,
    width: usize,
}

impl Cache {
    /// All memory is taken here.
    ///
    /// # Errors
    /// `Limit` if the memory is not there.
    pub fn new(h: &HParams, kind: CacheType, positions: usize) -> Result<Cache> {
        let width = h.kv_width();
        let len =
            h.layers.checked_mul(positions).and_then(|n| n.checked_mul(width)).filter(|n| *n < isize::MAX as usize / 8);
        let len = len.ok_or_else(|| Error::limit("positions of the cache", positions as u64, u32::MAX as u64))?;
        Ok(Cache { keys: Store::new(kind, len)?, values: Store::new(kind, len)?, positions, width })
    }

    /// Positions there is room for.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Writes rows `x` of keys and values of `layer` from position `at` on.
    pub(super) fn write(&mut self, k: &Kernels, layer: usize, at: usize, keys: &[f32], values: &[f32]) {
        let start = (layer * self.positions + at) * self.width;
        self.keys.write(k, start, keys);
        self.values.write(k, start, values);
    }

    /// The first `n` positions of `layer`.
    pub(super) fn memory(&self, layer: usize, n: usize) -> (Memory<'_>, Memory<'_>) {
        let start = layer * self.positions * self.width;
        (self.keys.memory(start, n, self.width), self.values.memory(start, n, self.width))
    }
}
