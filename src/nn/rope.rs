//! Rotary position embedding (arXiv:2104.09864): each pair of a head's channels turns by an angle that grows with the
//! position.

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

/// How the channels of a head turn.
#[derive(Clone, Debug)]
pub struct Rope {
    pairing: Pairing,
    /// Channels of a head that turn, the first of it; the rest stays.
    dims: usize,
    /// Angle of each pair at position 1, `[dims / 2]`.
    rates: Vec<f64>,
    /// What turned channels are multiplied with.
    magnitude: f32,
}

/// Cosines and sines of some rows' pairs: a buffer that grows to the most rows once.
#[derive(Default)]
pub struct Turns {
    /// `[N, dims / 2]` of cosine and sine.
    values: Buffer,
    n: usize,
}

impl Turns {
    /// Bytes for `n` rows of heads of which `dims` channels turn.
    pub fn bytes(dims: usize, n: usize) -> usize {
        4 * n * (dims / 2 * 2)
    }
}

impl Rope {
    /// The angle of pair `i` at position `p` is `p · scale · base^(−2i / dims) / factors[i]`. Turned channels are
    /// multiplied with `magnitude`, 1 but for some ways to stretch a context (arXiv:2309.00071). factors: `[dims / 2]`.
    pub fn new(pairing: Pairing, dims: usize, base: f32, scale: f32, factors: Option<&[f32]>, magnitude: f32) -> Self {
        let rates = (0..dims / 2)
            .map(|i| {
                let rate = libm::pow(base as f64, -2.0 * i as f64 / dims as f64) * scale as f64;
                rate / factors.map_or(1.0, |f| f[i] as f64)
            })
            .collect();
        Rope { pairing, dims, rates, magnitude }
    }

    /// Channels of a head that turn.
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// Cosines and sines of every row's pairs, once for all blocks of a pass. positions: `[N]`.
    pub fn turns(&self, cx: &Compute, positions: &[u32], out: &mut Turns) {
        let (n, c) = (positions.len(), 2 * self.rates.len());
        out.n = n;
        cx.pool.rows([Tile::new(out.values.room(n * c), n, c)], [ROWS], &|part, [mut out], _| {
            for i in 0..out.n() {
                let p = positions[part * ROWS + i] as f64;
                for (turn, rate) in out.row(i).as_chunks_mut::<2>().0.iter_mut().zip(&self.rates) {
                    let (sin, cos) = libm::sincos(p * rate);
                    *turn = [cos as f32 * self.magnitude, sin as f32 * self.magnitude];
                }
            }
        });
    }

    /// Turns the heads of `x`, of `head` channels each, forward, or back when `inverse`, which is the backward pass:
    /// that multiplies with the magnitude too. x: `[N, H·D]`; turns: those of its rows.
    pub fn apply(&self, cx: &Compute, x: &mut Tile, head: usize, turns: &Turns, inverse: bool) {
        let (n, c, half) = (x.n(), x.c(), self.rates.len());
        assert!(turns.n == n, "turns of {} rows for {n}", turns.n);
        cx.pool.rows([x.part(0..n, 0..c)], [ROWS], &|part, [mut x], _| {
            for i in 0..x.n() {
                let at = (part * ROWS + i) * 2 * half;
                let turns = turns.values[at..at + 2 * half].as_chunks::<2>().0;
                for head in x.row(i).chunks_exact_mut(head) {
                    for (j, &[cos, sin]) in turns.iter().enumerate() {
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
