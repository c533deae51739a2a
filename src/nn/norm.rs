//! Norms of rows, by their root mean square or by their mean and variance.
//!
//! Norms of the heads of a row are the same functions on a view of `[N·H, D]`. Gains may be several, `[G, C]`: row `i`
//! takes gain `i mod G`, so that every head may have its own.

use super::ROWS;
use crate::kernel::{Compute, Tile, View};
use crate::math;
use std::prelude::v1::*;

/// The kind of norm: what a row is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Its root mean square: `y = x · r · w + b` with `r = 1 / √(mean(x²) + ε)` (arXiv:1910.07467).
    Rms,
    /// Its standard deviation, after its mean `m` is subtracted: `y = (x − m) · r · w + b` with
    /// `r = 1 / √(mean((x − m)²) + ε)` (arXiv:1607.06450).
    Layer,
}

/// A norm.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// Its kind.
    pub kind: Kind,
    /// ε.
    pub eps: f32,
}

impl Norm {
    /// The mean that is subtracted from a row and the factor that is then applied: `(m, r)`, with `m = 0` for
    /// [`Kind::Rms`].
    fn of(self, cx: &Compute, x: &[f32]) -> (f32, f32) {
        let c = x.len() as f32;
        let (mean, square) = match self.kind {
            Kind::Rms => (0.0, dot(cx, x, x) / c),
            Kind::Layer => {
                let mean = total(x, |v| v) / c;
                (mean, total(x, |v| (v - mean) * (v - mean)) / c)
            }
        };
        (mean, 1.0 / math::sqrt(square + self.eps))
    }
}

fn dot(cx: &Compute, x: &[f32], y: &[f32]) -> f32 {
    let mut out = [0.0];
    (cx.kernels.dots)(View::new(x, 1, x.len()), View::new(y, 1, y.len()), &mut Tile::new(&mut out, 1, 1));
    out[0]
}

/// The sum of `f(x)`, in lanes: shorter sums are more exact, and loops over lanes vectorise.
fn total(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; 16];
    for x in x.chunks(16) {
        for (lane, &v) in lanes.iter_mut().zip(x) {
            *lane += f(v);
        }
    }
    lanes.iter().sum()
}

/// Where the gain of row `i` begins among `len` values of gains of rows of `c`.
fn gain_at(i: usize, c: usize, len: usize) -> usize {
    if len == c { 0 } else { i % (len / c) * c }
}

/// x, y: `[N, C]`, gain: `[G, C]`, bias: `[C]`; y is overwritten.
pub fn forward(cx: &Compute, norm: Norm, x: View, gain: &[f32], bias: Option<&[f32]>, y: &mut Tile) {
    let (n, c) = (y.n(), y.c());
    cx.pool.rows([y.part(0..n, 0..c)], [ROWS], &|part, [mut y], _| {
        for i in 0..y.n() {
            let row = part * ROWS + i;
            let (x, gain) = (x.row(row), &gain[gain_at(row, c, gain.len())..]);
            let (mean, r) = norm.of(cx, x);
            for ((y, x), w) in y.row(i).iter_mut().zip(x).zip(gain) {
                *y = (x - mean) * r * w;
            }
            if let Some(bias) = bias {
                super::add(bias, y.row(i));
            }
        }
    });
}

/// `dx += r · (g − h · mean(g ∘ h))` with `g = gain ∘ dy` and the normed row `h = (x − m) · r`; [`Kind::Layer`] also
/// subtracts `mean(g)` in the bracket. x, dy, dx: `[N, C]`, gain: `[G, C]`.
pub fn backward(cx: &Compute, norm: Norm, x: View, gain: &[f32], dy: View, dx: &mut Tile) {
    let (n, c) = (dx.n(), dx.c());
    cx.pool.rows([dx.part(0..n, 0..c)], [ROWS], &|part, [mut dx], scratch| {
        let [wdy, centred] = scratch.two(c, c);
        for i in 0..dx.n() {
            let row = part * ROWS + i;
            let (x, dy, gain) = (x.row(row), dy.row(row), &gain[gain_at(row, c, gain.len())..]);
            let (mean, r) = norm.of(cx, x);
            for ((t, w), dy) in wdy.iter_mut().zip(gain).zip(dy) {
                *t = w * dy;
            }
            let x = match norm.kind {
                Kind::Rms => x,
                Kind::Layer => {
                    let off = total(wdy, |v| v) / c as f32;
                    wdy.iter_mut().for_each(|v| *v -= off);
                    centred.iter_mut().zip(x).for_each(|(h, x)| *h = x - mean);
                    &*centred
                }
            };
            let back = dot(cx, wdy, x) * r * r * r / c as f32;
            for ((dx, t), x) in dx.row(i).iter_mut().zip(wdy.iter()).zip(x) {
                *dx += t * r - x * back;
            }
        }
    });
}

/// `dgain += Σ_rows dy ∘ (x − m) · r` and `dbias += Σ_rows dy`, for trained gains and biases. x,
/// dy: `[N, C]`, dgain: `[G, C]`, dbias: `[C]`.
pub fn backward_weights(cx: &Compute, norm: Norm, x: View, dy: View, dgain: &mut [f32], mut dbias: Option<&mut [f32]>) {
    for i in 0..x.n {
        let (mean, r) = norm.of(cx, x.row(i));
        let at = gain_at(i, x.c, dgain.len());
        let dgain = &mut dgain[at..];
        for ((dgain, x), dy) in dgain.iter_mut().zip(x.row(i)).zip(dy.row(i)) {
            *dgain += dy * ((x - mean) * r);
        }
        if let Some(dbias) = &mut dbias {
            super::add(dy.row(i), dbias);
        }
    }
}
