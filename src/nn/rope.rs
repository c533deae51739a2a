//! Rotary position embedding (arXiv:2104.09864): each pair of channels of a head is rotated by an angle that is
//! proportional to the position.

use super::ROWS;
use crate::kernel::{Buffer, Compute, Tile};
use std::prelude::v1::*;

/// Which channels form a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// Neighbours `2i`, `2i+1`: GGUF files of the llama architecture.
    Neighbours,
    /// Halves `i`, `i + dims / 2`: files of most other architectures.
    Halves,
}

/// The rotary embedding of the channels of a head.
#[derive(Clone, Debug)]
pub struct Rope {
    pairing: Pairing,
    /// Channels of a head that are rotated, the first ones; the others stay as they are.
    dims: usize,
    /// Angle of each pair at position 1, `[dims / 2]`.
    rates: Vec<f64>,
    /// The factor of rotated channels.
    magnitude: f32,
}

/// Cosines and sines of the pairs of some rows: a buffer that grows to the largest number of rows once.
#[derive(Default)]
pub struct Rotations {
    /// `[N, dims / 2]` of cosine and sine.
    values: Buffer,
    n: usize,
}

impl Rotations {
    /// Bytes for `n` rows of heads of which `dims` channels are rotated.
    pub fn bytes(dims: usize, n: usize) -> usize {
        4 * n * (dims / 2 * 2)
    }
}

impl Rope {
    /// The angle of pair `i` at position `p` is `p · scale · base^(−2i / dims) / factors[i]`. Rotated channels are
    /// multiplied by `magnitude`. It is 1, except for some methods of context extension (arXiv:2309.00071). factors:
    /// `[dims / 2]`.
    pub fn new(pairing: Pairing, dims: usize, base: f32, scale: f32, factors: Option<&[f32]>, magnitude: f32) -> Self {
        let rates = (0..dims / 2)
            .map(|i| {
                let rate = libm::pow(base as f64, -2.0 * i as f64 / dims as f64) * scale as f64;
                rate / factors.map_or(1.0, |f| f[i] as f64)
            })
            .collect();
        Rope { pairing, dims, rates, magnitude }
    }

    /// Channels of a head that are rotated.
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// Computes the cosines and sines of the pairs of every row, once for all blocks of a pass. positions: `[N]`.
    pub fn rotations(&self, cx: &Compute, positions: &[u32], out: &mut Rotations) {
        let (n, c) = (positions.len(), 2 * self.rates.len());
        out.n = n;
        cx.pool.rows([Tile::new(out.values.room(n * c), n, c)], [ROWS], &|part, [mut out], _| {
            for i in 0..out.n() {
                let p = positions[part * ROWS + i] as f64;
                for (angle, rate) in out.row(i).as_chunks_mut::<2>().0.iter_mut().zip(&self.rates) {
                    let (sin, cos) = libm::sincos(p * rate);
                    *angle = [cos as f32 * self.magnitude, sin as f32 * self.magnitude];
                }
            }
        });
    }

    /// Rotates the heads of `x`, of `head` channels each; with `inverse`, which is the backward pass, by the opposite
    /// angle. Both multiply by the magnitude. x: `[N, H·D]`; rotations: those of its rows.
    pub fn apply(&self, cx: &Compute, x: &mut Tile, head: usize, rotations: &Rotations, inverse: bool) {
        let (n, c, half) = (x.n(), x.c(), self.rates.len());
        assert!(rotations.n == n, "rotations of {} rows for {n}", rotations.n);
        cx.pool.rows([x.part(0..n, 0..c)], [ROWS], &|part, [mut x], _| {
            for i in 0..x.n() {
                let at = (part * ROWS + i) * 2 * half;
                let rotations = rotations.values[at..at + 2 * half].as_chunks::<2>().0;
                for head in x.row(i).chunks_exact_mut(head) {
                    for (j, &[cos, sin]) in rotations.iter().enumerate() {
                        let (a, b) = match self.pairing {
                            Pairing::Neighbours => (2 * j, 2 * j + 1),
                            Pairing::Halves => (j, j + half),
                        };
                        let sin = if inverse { -sin } else { sin };
                        let (x0, x1) = (head[a], head[b]);
                        head[a] = x0 * cos - x1 * sin;
                        head[b] = x0 * sin + x1 * cos;
                    }
                }
            }
        });
    }
}
