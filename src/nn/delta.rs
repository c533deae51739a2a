//! The gated delta rule (arXiv:2412.06464): each head has a matrix `S` that maps keys to values. A row decays it, corrects
//! what it answers to the row's key, and asks it with the row's query:
//!
//! ```text
//! d = β · (v − e^g · S k)      S ← e^g · S + d kᵀ      o = S q / √D
//! ```
//!
//! with `β = σ(b)`, `g = a · ln(1 + e^(α + dt))`, and queries and keys of length 1. Rows are taken one after the other, so a
//! row's result does not depend on where a sequence is cut. Heads are independent and share the threads.

use super::ROWS;
use crate::kernel::{Buffer, Compute, Kernels, Tile, View};
use crate::math;
use std::prelude::v1::*;

/// The sizes of a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    /// Heads of queries and keys.
    pub keys: usize,
    /// Heads of values; head `h` has the queries and keys of head `h mod keys`.
    pub values: usize,
    /// Width of a head.
    pub dim: usize,
    /// What is added to the square of a query's or key's length before its root is taken.
    pub eps: f32,
}

impl Heads {
    /// Width of all queries, keys and values.
    pub fn width(&self) -> usize {
        (2 * self.keys + self.values) * self.dim
    }

    /// Values of a state: `[values, D, D]`, a row for each channel of a value.
    pub fn state(&self) -> usize {
        self.values * self.dim * self.dim
    }
}

/// What a sequence's rows decay by, for each head of values.
#[derive(Clone, Copy)]
pub struct Decay<'a> {
    /// `a`, negative.
    pub a: &'a [f32],
    /// `dt`.
    pub dt: &'a [f32],
}

/// `ln(1 + eˣ)`.
fn softplus(x: f32) -> f32 {
    if x > 20.0 { x } else { libm::log1pf(math::exp(x)) }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + math::exp(-x))
}

impl Decay<'_> {
    /// `e^g` of head `h`.
    fn factor(&self, h: usize, alpha: f32) -> f32 {
        math::exp(self.a[h] * softplus(alpha + self.dt[h]))
    }
}

/// `1 / √(Σx² + ε)`.
fn shorten(k: &Kernels, x: &[f32], eps: f32) -> f32 {
    let mut square = [0.0];
    (k.dots)(row(x), row(x), &mut Tile::new(&mut square, 1, 1));
    1.0 / math::sqrt(square[0] + eps)
}

/// One head of values: where its rows are and what is made of them.
#[derive(Clone, Copy)]
struct Head<'a> {
    k: &'a Kernels,
    heads: Heads,
    h: usize,
    decay: Decay<'a>,
    x: View<'a>,
    alpha: View<'a>,
    beta: View<'a>,
}

impl Head<'_> {
    /// Query, times `1 / √D`, and key of row `t`, and its two gates: `e^g` and `β`.
    fn row(&self, t: usize, q: &mut [f32], key: &mut [f32]) -> [f32; 2] {
        let Heads { keys, dim, eps, .. } = self.heads;
        let from = self.h % keys;
        let scale = 1.0 / math::sqrt(dim as f32);
        for (to, head, scale) in [(q, from, scale), (key, keys + from, 1.0)] {
            let x = &self.x.row(t)[head * dim..(head + 1) * dim];
            let r = shorten(self.k, x, eps) * scale;
            to.iter_mut().zip(x).for_each(|(to, x)| *to = x * r);
        }
        [self.decay.factor(self.h, self.alpha.row(t)[self.h]), sigmoid(self.beta.row(t)[self.h])]
    }

    fn value(&self, t: usize) -> &[f32] {
        let Heads { keys, dim, .. } = self.heads;
        &self.x.row(t)[(2 * keys + self.h) * dim..][..dim]
    }

    /// `v − e^g · S k`.
    fn missed(&self, t: usize, s: &[f32], key: &[f32], decay: f32, out: &mut [f32]) {
        let dim = self.heads.dim;
        (self.k.dots)(row(key), View::new(s, dim, dim), &mut Tile::new(out, 1, dim));
        for (out, v) in out.iter_mut().zip(self.value(t)) {
            *out = v - decay * *out;
        }
    }

    /// Takes `s` from before row `t` to after it. q, key, d: `[D]`, overwritten.
    fn step(&self, t: usize, s: &mut [f32], [q, key, d]: [&mut [f32]; 3]) {
        let dim = self.heads.dim;
        let [decay, beta] = self.row(t, q, key);
        self.missed(t, s, key, decay, d);
        d.iter_mut().for_each(|d| *d *= beta);
        s.iter_mut().for_each(|s| *s *= decay);
        (self.k.outer)(row(d), row(key), &mut Tile::new(s, dim, dim));
    }
}

fn row(x: &[f32]) -> View<'_> {
    View::new(x, 1, x.len())
}

/// A row's three small pieces at the front of a thread's scratch, and the rest.
fn pieces(scratch: &mut [f32], dim: usize) -> ([&mut [f32]; 3], &mut [f32]) {
    let (q, rest) = scratch.split_at_mut(dim);
    let (key, rest) = rest.split_at_mut(dim);
    let (d, rest) = rest.split_at_mut(dim);
    ([q, key, d], rest)
}

/// What the rows of one sequence read. x: `[N, (2·keys + values)·D]`, queries, keys, values; alpha, beta: `[N, values]`;
/// out: `[N, values·D]`, overwritten. state: `[values, D, D]`, from before row 0 to after the last; without one the
/// sequence starts with zeros.
pub fn forward(
    cx: &Compute,
    heads: Heads,
    decay: Decay,
    x: View,
    [alpha, beta]: [View; 2],
    state: Option<&mut [f32]>,
    out: &mut Tile,
) {
    let (n, c, dim) = (out.n(), out.c(), heads.dim);
    let size = dim * dim;
    let state = state.map_or(Tile::new(&mut [], 0, 0), |state| Tile::new(state, 1, heads.state()));
    cx.pool.columns([out.part(0..n, 0..c), state], [dim, size], &|h, [mut out, mut state], scratch| {
        let head = Head { k: cx.kernels, heads, h, decay, x, alpha, beta };
        let ([q, key, d], rest) = pieces(scratch.floats(3 * dim + size), dim);
        let s = if state.n() > 0 {
            state.row(0)
        } else {
            rest.fill(0.0);
            rest
        };
        for t in 0..n {
            head.step(t, s, [&mut *q, &mut *key, &mut *d]);
            let o = out.row(t);
            (head.k.dots)(row(q), View::new(s, dim, dim), &mut Tile::new(o, 1, dim));
        }
    });
}

/// Rows between two states that [`backward`] holds: as many states inside as outside.
fn stride(n: usize) -> usize {
    let mut k = 1;
    while k * k < n {
        k += 1;
    }
    k
}

/// Values that the passes over `n` rows hold for each thread.
pub fn scratch(heads: Heads, n: usize, backward: bool) -> usize {
    let (size, k) = (heads.dim * heads.dim, stride(n));
    let states = if backward { n.div_ceil(k) + k + 2 } else { 1 };
    states * size + 6 * heads.dim
}

/// Values that [`backward`] holds beside its arguments for `n` rows: what each head of values adds to the queries and keys
/// that several share.
pub fn shared(heads: Heads, n: usize) -> usize {
    2 * n * heads.values * heads.dim
}

/// Gradients of [`forward`] from zeros. With `D = ∂L/∂S` after a row, from the last to the first, `r = S k` with the `S`
/// before it and `m = v − e^g r`:
///
/// ```text
/// D += do qᵀ     dq = Sᵀ do     dd = D k     dβ = dd·m     dv = β dd
/// dk = Dᵀ d − β e^g Sᵀ dd       D −= β dd kᵀ               dg = e^g Σ D∘S     D ← e^g D
/// ```
///
/// The states are computed again, of one stretch of rows at a time. dx, like `x`, and dbeta are overwritten, and so is dg,
/// `[N, values]`, from which [`decay_backward`] makes the gradient of alpha. spare: grows once to [`shared`].
pub fn backward(
    cx: &Compute,
    heads: Heads,
    decay: Decay,
    x: View,
    [alpha, beta]: [View; 2],
    dout: View,
    dx: &mut Tile,
    [dg, dbeta]: [&mut Tile; 2],
    spare: &mut Buffer,
) {
    let Heads { keys, values, dim, .. } = heads;
    let (n, size, every, first) = (dout.n, dim * dim, stride(dout.n), 2 * keys * dim);
    let spare = spare.room(shared(heads, n));
    let dv = dx.part(0..n, first..heads.width());
    let gates = [dg, dbeta].map(|d| d.part(0..n, 0..values));
    let [dg, dbeta] = gates;
    let tiles = [dv, Tile::new(&mut *spare, n, 2 * values * dim), dg, dbeta];
    cx.pool.columns(tiles, [dim, 2 * dim, 1, 1], &|h, [mut dv, mut dqk, mut dg, mut dbeta], scratch| {
        let head = Head { k: cx.kernels, heads, h, decay, x, alpha, beta };
        let ([q, key, d], rest) = pieces(scratch.floats(self::scratch(heads, n, true)), dim);
        let ([m, dd, _], rest) = pieces(rest, dim);
        let (ds, rest) = rest.split_at_mut(size);
        let (marks, inside) = rest.split_at_mut(n.div_ceil(every) * size);
        // The states before each stretch.
        inside[..size].fill(0.0);
        for t in 0..n {
            if t % every == 0 {
                marks[t / every * size..][..size].copy_from_slice(&inside[..size]);
            }
            if t / every + 1 < n.div_ceil(every) {
                head.step(t, &mut inside[..size], [&mut *q, &mut *key, &mut *d]);
            }
        }
        ds.fill(0.0);
        for start in (0..n).step_by(every).rev() {
            let end = (start + every).min(n);
            inside[..size].copy_from_slice(&marks[start / every * size..][..size]);
            for t in start..end {
                let (before, after) = inside[(t - start) * size..].split_at_mut(size);
                after[..size].copy_from_slice(before);
                head.step(t, &mut after[..size], [&mut *q, &mut *key, &mut *d]);
            }
            for t in (start..end).rev() {
                let (before, after) = inside[(t - start) * size..][..2 * size].split_at(size);
                let (before, after) = (View::new(before, dim, dim), View::new(after, dim, dim));
                let h_out = &dout.row(t)[h * dim..(h + 1) * dim];
                let [decay, beta] = head.row(t, q, key);
                head.missed(t, before.data, key, decay, m);
                d.iter_mut().zip(&*m).for_each(|(d, m)| *d = beta * m);
                let (dq, dk) = dqk.row(t).split_at_mut(dim);
                dq.fill(0.0);
                dk.fill(0.0);
                (head.k.outer)(row(h_out), row(q), &mut Tile::new(ds, dim, dim));
                (head.k.sums)(row(h_out), after, &mut Tile::new(dq, 1, dim));
                (head.k.dots)(row(key), View::new(ds, dim, dim), &mut Tile::new(dd, 1, dim));
                (head.k.sums)(row(d), View::new(ds, dim, dim), &mut Tile::new(dk, 1, dim));
                let missed: f32 = dd.iter().zip(&*m).map(|(dd, m)| dd * m).sum();
                dbeta.row(t)[0] = missed * beta * (1.0 - beta);
                dv.row(t).iter_mut().zip(&*dd).for_each(|(dv, dd)| *dv = beta * dd);
                dd.iter_mut().for_each(|dd| *dd *= -beta);
                (head.k.outer)(row(dd), row(key), &mut Tile::new(ds, dim, dim));
                d.iter_mut().zip(&*dd).for_each(|(d, dd)| *d = decay * dd);
                (head.k.sums)(row(d), before, &mut Tile::new(dk, 1, dim));
                let (all, mut sum) = (View::new(ds, 1, size), [0.0]);
                (head.k.dots)(all, View::new(before.data, 1, size), &mut Tile::new(&mut sum, 1, 1));
                dg.row(t)[0] = decay * sum[0];
                ds.iter_mut().for_each(|ds| *ds *= decay);
            }
        }
    });
    // What the heads of values add to their queries and keys, and through the lengths of these.
    let (dqk, scale) = (View::new(spare, n, 2 * values * dim), 1.0 / math::sqrt(dim as f32));
    cx.pool.rows([dx.part(0..n, 0..first)], [ROWS], &|part, [mut dx], _| {
        for i in 0..dx.n() {
            let t = part * ROWS + i;
            for (j, dx) in dx.row(i).chunks_exact_mut(dim).enumerate() {
                let (side, factor) = if j < keys { (0, scale) } else { (dim, 1.0) };
                dx.fill(0.0);
                for h in (j % keys..values).step_by(keys) {
                    super::add(&dqk.row(t)[2 * h * dim + side..][..dim], dx);
                }
                let x = &x.row(t)[j * dim..(j + 1) * dim];
                let r = shorten(cx.kernels, x, heads.eps);
                let along: f32 = dx.iter().zip(x).map(|(dx, x)| dx * x).sum::<f32>() * r * r;
                dx.iter_mut().zip(x).for_each(|(dx, x)| *dx = factor * r * (*dx - x * along));
            }
        }
    });
}

/// From `dg`, `[N, values]`, makes the gradient of alpha in place, `dα = dg · a · σ(α + dt)`; with trained decays `ddt += Σ
/// dα` and `da += Σ dg · ln(1 + e^(α + dt))`. alpha: `[N, values]`; da, ddt: `[values]`.
pub fn decay_backward(decay: Decay, alpha: View, dg: &mut Tile, mut trained: Option<[&mut [f32]; 2]>) {
    for t in 0..alpha.n {
        for (h, (dg, alpha)) in dg.row(t).iter_mut().zip(alpha.row(t)).enumerate() {
            let (at, slope) = (alpha + decay.dt[h], *dg);
            *dg = slope * decay.a[h] * sigmoid(at);
            if let Some([da, ddt]) = &mut trained {
                da[h] += slope * softplus(at);
                ddt[h] += *dg;
            }
        }
    }
}
