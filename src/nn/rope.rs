//! Rotary position embedding (arXiv:2104.09864): each pair of a head's channels turns by an angle that grows with the
//! position.

use super::ROWS;
use crate::kernel::{Compute, Tile};
use std::prelude::v1::*;

/// Which channels form a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// Neighbours `2i`, `2i+1`: GGUF files of the llama architecture.
    Neighbours,
    /// Halves `i`, `i + D/2`: files of most other architectures.
    Halves,
}

/// Cosines and sines of every position and pair.
#[derive(Clone)]
pub struct Table {
    pairing: Pairing,
    /// Channels of a head that turn; the rest stays.
    dims: usize,
    /// `[positions, dims / 2]` of (cos, sin).
    turns: Vec<(f32, f32)>,
}

impl Table {
    /// The angle of pair `i` at position `p` is `p · scale · base^(−2i / dims) / factors[i]`.
    pub fn new(
        pairing: Pairing,
        dims: usize,
        positions: usize,
        base: f32,
        scale: f32,
        factors: Option<&[f32]>,
    ) -> Self {
        let rates: Vec<f64> = (0..dims / 2)
            .map(|i| {
                let rate = libm::pow(base as f64, -2.0 * i as f64 / dims as f64) * scale as f64;
                rate / factors.map_or(1.0, |f| f[i] as f64)
            })
            .collect();
        let turns = (0..positions)
            .flat_map(|p| rates.iter().map(move |r| libm::sincos(p as f64 * r)))
            .map(|(sin, cos)| (cos as f32, sin as f32))
            .collect();
        Table { pairing, dims, turns }
    }

    /// Positions there are.
    pub fn positions(&self) -> usize {
        self.turns.len() / (self.dims / 2).max(1)
    }

    /// Turns the heads of `x` forward, or back when `inverse` (which is the backward pass). x: `[N, H·D]`;
    /// positions: `[N]`.
    pub fn apply(&self, cx: &Compute, x: &mut Tile, head: usize, positions: &[u32], inverse: bool) {
        let (n, c, half) = (x.n(), x.c(), self.dims / 2);
        cx.pool.rows([x.part(0..n, 0..c)], [ROWS], &|part, [mut x], _| {
            for i in 0..x.n() {
                let p = positions[part * ROWS + i] as usize;
                let turns = &self.turns[p * half..(p + 1) * half];
                for head in x.row(i).chunks_exact_mut(head) {
                    for (j, &(cos, sin)) in turns.iter().enumerate() {
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
