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

/// How angles and magnitudes differ from those of positions that are counted one by one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scaling {
    /// The factor of positions: 1, or 1 / factor where a context is extended.
    pub scale: f32,
    /// Which pairs keep their angles though positions are scaled, if some do.
    pub yarn: Option<Yarn>,
    /// The factor of rotated channels.
    pub magnitude: f32,
}

impl Scaling {
    /// None.
    pub const NONE: Scaling = Scaling { scale: 1.0, yarn: None, magnitude: 1.0 };
}

/// YaRN (arXiv:2309.00071): pairs that turn often within the original context keep their angles, those that turn seldom
/// get scaled ones, and between the two a ramp over the index of the pair blends both.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Yarn {
    /// Positions of the original context.
    pub original: f32,
    /// Turns within it from which on a pair keeps its angles: β_fast.
    pub fast: f32,
    /// Turns within it up to which a pair gets scaled ones: β_slow.
    pub slow: f32,
    /// The share of the unscaled angles where a pair keeps them, usually 1.
    pub share: f32,
}

impl Yarn {
    /// The share of the unscaled angle of pair `i` of `dims / 2`.
    fn kept(&self, i: usize, dims: usize, base: f32) -> f64 {
        let (base, last) = (base as f64, dims as f64 - 1.0);
        // The pair that turns so often: its wavelength 2π · base^(2i / dims) fits into the original context so many times.
        let pair = |turns: f32| {
            let wavelength = self.original as f64 / turns as f64;
            dims as f64 * libm::log(wavelength / (2.0 * core::f64::consts::PI)) / (2.0 * libm::log(base))
        };
        let (low, high) = (libm::floor(pair(self.fast)).max(0.0), libm::ceil(pair(self.slow)).min(last));
        let ramp = ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
        (1.0 - ramp) * self.share as f64
    }
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
    /// The angle of pair `i` at position `p` is `p · scale · base^(−2i / dims) / factors[i]`; with YaRN a share of it is
    /// that without the scale. Rotated channels are multiplied by the magnitude. factors: `[dims / 2]`.
    pub fn new(pairing: Pairing, dims: usize, base: f32, scaling: Scaling, factors: Option<&[f32]>) -> Self {
        let scale = scaling.scale as f64;
        let rates = (0..dims / 2)
            .map(|i| {
                let kept = scaling.yarn.map_or(0.0, |yarn| yarn.kept(i, dims, base));
                let rate = libm::pow(base as f64, -2.0 * i as f64 / dims as f64) * (scale * (1.0 - kept) + kept);
                rate / factors.map_or(1.0, |f| f[i] as f64)
            })
            .collect();
        Rope { pairing, dims, rates, magnitude: scaling.magnitude }
    }

    /// Channels of a head that are rotated.
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// The same rotations without the factor of rotated channels.
    pub fn unscaled(&self) -> Rope {
        Rope { magnitude: 1.0, ..self.clone() }
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
