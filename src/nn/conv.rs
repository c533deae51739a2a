//! Short causal convolutions, each channel with taps of its own: `v_t = Σ_j w_j · u_{t−L+1+j}` over the last `L` rows.
//!
//! What comes before the first row of a call is a state, `L − 1` rows, or nothing at the start of a sequence. A row's
//! result does not depend on where a sequence is cut. Two layers are made of this: [`gated_forward`] is that of LFM2, whose
//! rows are `[b, c, z]` with `u = b ∘ z` and `y = c ∘ v`; [`silu_forward`] has `u` itself as its rows and `y = silu(v)`, as
//! in gated delta networks (arXiv:2412.06464).

use super::ROWS;
use crate::kernel::{Compute, Tile, View};
use core::ops::Range;
use std::prelude::v1::*;

/// Channels that are computed together, so that their sums fit on the stack.
const PART: usize = 64;

/// The taps of all channels.
#[derive(Clone, Copy)]
pub struct Taps<'a> {
    /// `[C, L]`; the last one of a channel meets the row itself.
    pub w: &'a [f32],
    /// `L`.
    pub len: usize,
}

impl Taps<'_> {
    /// `v_t` for channels `cols`. `u(s, out)` writes these channels of row `s`.
    fn forward(
        &self,
        t: usize,
        cols: &Range<usize>,
        state: Option<&[f32]>,
        u: impl Fn(usize, &mut [f32]),
        v: &mut [f32],
    ) {
        let (c, before) = (self.w.len() / self.len, self.len - 1);
        let mut own = [0.0; PART];
        v.fill(0.0);
        for j in 0..self.len {
            // Row t − L + 1 + j, which may lie before the first.
            let row = match ((t + j).checked_sub(before), state) {
                (Some(s), _) => {
                    u(s, &mut own[..v.len()]);
                    &own[..v.len()]
                }
                (None, Some(state)) => &state[(t + j) * c + cols.start..(t + j) * c + cols.end],
                (None, None) => continue,
            };
            let taps = self.w[cols.start * self.len + j..].iter().step_by(self.len);
            for ((v, u), w) in v.iter_mut().zip(row).zip(taps) {
                *v += w * u;
            }
        }
    }

    /// `du_s = Σ_j w_j · dv_{s+L−1−j}` for channels `cols` of `n` rows. `dv(t, out)` writes these channels of row `t`.
    fn backward(&self, s: usize, n: usize, cols: &Range<usize>, dv: impl Fn(usize, &mut [f32]), du: &mut [f32]) {
        let mut own = [0.0; PART];
        let own = &mut own[..du.len()];
        du.fill(0.0);
        for t in s..(s + self.len).min(n) {
            dv(t, own);
            let taps = self.w[cols.start * self.len + s + self.len - 1 - t..].iter().step_by(self.len);
            for ((du, dv), w) in du.iter_mut().zip(&*own).zip(taps) {
                *du += w * dv;
            }
        }
    }

    /// `dw[i, j] += Σ_t dv(t, i) · u(t−L+1+j, i)` over `n` rows.
    fn backward_weights(
        len: usize,
        n: usize,
        dv: impl Fn(usize, usize) -> f32,
        u: impl Fn(usize, usize) -> f32,
        dw: &mut [f32],
    ) {
        for (i, dw) in dw.chunks_exact_mut(len).enumerate() {
            for (j, dw) in dw.iter_mut().enumerate() {
                let off = len - 1 - j;
                (off..n).for_each(|t| *dw += dv(t, i) * u(t - off, i));
            }
        }
    }
}

/// Ranges of [`PART`] channels.
fn parts(c: usize) -> impl Iterator<Item = Range<usize>> {
    (0..c).step_by(PART).map(move |first| first..(first + PART).min(c))
}

/// `state`, `[L − 1, C]`, becomes what comes before the row after these `n`. `u(s, out)` writes row `s`.
fn carry(state: &mut [f32], c: usize, n: usize, u: impl Fn(usize, &mut [f32])) {
    let rows = state.len() / c;
    let new = n.min(rows);
    state.copy_within(new * c.., 0);
    for (i, row) in state.chunks_exact_mut(c).skip(rows - new).enumerate() {
        u(n - new + i, row);
    }
}

/// `u_s = b_s ∘ z_s` for channels `cols`.
fn product(x: View, s: usize, cols: &Range<usize>, u: &mut [f32]) {
    let (b, z) = (&x.row(s)[cols.clone()], &x.row(s)[2 * x.c / 3..][cols.clone()]);
    for ((u, b), z) in u.iter_mut().zip(b).zip(z) {
        *u = b * z;
    }
}

/// `y = c ∘ v` with `u = b ∘ z`. x: `[N, 3·C]`, each row `b`, `c`, `z`; y: `[N, C]`, overwritten. state: the `u` of the
/// rows before, `[L − 1, C]`.
pub fn gated_forward(cx: &Compute, taps: Taps, x: View, state: Option<&[f32]>, y: &mut Tile) {
    let (n, c) = (y.n(), y.c());
    cx.pool.rows([y.part(0..n, 0..c)], [ROWS], &|part, [mut y], _| {
        for i in 0..y.n() {
            let t = part * ROWS + i;
            for cols in parts(c) {
                let y = &mut y.row(i)[cols.clone()];
                taps.forward(t, &cols, state, |s, u| product(x, s, &cols, u), y);
                y.iter_mut().zip(&x.row(t)[c..][cols]).for_each(|(y, gate)| *y *= gate);
            }
        }
    });
}

/// The state after the rows of [`gated_forward`]. x: `[N, 3·C]`, state: `[L − 1, C]`, overwritten.
pub fn gated_carry(x: View, state: &mut [f32]) {
    let c = x.c / 3;
    carry(state, c, x.n, |s, u| product(x, s, &(0..c), u));
}

/// The gradient of [`gated_forward`] where nothing comes before row 0: `dc = dy ∘ v`, `dv = dy ∘ c`, `du` by the taps,
/// `db = du ∘ z`, `dz = du ∘ b`. x, dx: `[N, 3·C]`, dy: `[N, C]`; dx is overwritten.
pub fn gated_backward(cx: &Compute, taps: Taps, x: View, dy: View, dx: &mut Tile) {
    let (n, c, width) = (dy.n, dy.c, dx.c());
    cx.pool.rows([dx.part(0..n, 0..width)], [ROWS], &|part, [mut dx], _| {
        for i in 0..dx.n() {
            let t = part * ROWS + i;
            let (db, rest) = dx.row(i).split_at_mut(c);
            let (dc, dz) = rest.split_at_mut(c);
            for cols in parts(c) {
                let (db, dc, dz) = (&mut db[cols.clone()], &mut dc[cols.clone()], &mut dz[cols.clone()]);
                taps.forward(t, &cols, None, |s, u| product(x, s, &cols, u), dc);
                dc.iter_mut().zip(&dy.row(t)[cols.clone()]).for_each(|(dc, dy)| *dc *= dy);
                let dv = |t: usize, dv: &mut [f32]| {
                    let (gate, dy) = (&x.row(t)[c..][cols.clone()], &dy.row(t)[cols.clone()]);
                    dv.iter_mut().zip(gate).zip(dy).for_each(|((dv, gate), dy)| *dv = gate * dy);
                };
                taps.backward(t, n, &cols, dv, db);
                let (b, z) = (&x.row(t)[cols.clone()], &x.row(t)[2 * c..][cols]);
                for (((db, dz), b), z) in db.iter_mut().zip(dz).zip(b).zip(z) {
                    (*db, *dz) = (*db * z, *db * b);
                }
            }
        }
    });
}

/// `dw += Σ_t dv_t ∘ u_{t−L+1+j}` of [`gated_backward`], for trained taps. x: `[N, 3·C]`, dy: `[N, C]`, dw: `[C, L]`.
pub fn gated_backward_weights(len: usize, x: View, dy: View, dw: &mut [f32]) {
    let c = dy.c;
    let dv = |t: usize, i: usize| dy.row(t)[i] * x.row(t)[c + i];
    Taps::backward_weights(len, dy.n, dv, |s, i| x.row(s)[i] * x.row(s)[2 * c + i], dw);
}

/// `y = silu(v)`. x: `[N, C]`, the rows `u`; y: `[N, C]`, overwritten. state: the rows before, `[L − 1, C]`.
pub fn silu_forward(cx: &Compute, taps: Taps, x: View, state: Option<&[f32]>, y: &mut Tile) {
    let (n, c) = (y.n(), y.c());
    cx.pool.rows([y.part(0..n, 0..c)], [ROWS], &|part, [mut y], _| {
        for i in 0..y.n() {
            for cols in parts(c) {
                let (mut v, y) = ([0.0; PART], &mut y.row(i)[cols.clone()]);
                let (v, row) = (&mut v[..y.len()], |s: usize, u: &mut [f32]| u.copy_from_slice(&x.row(s)[cols.clone()]));
                taps.forward(part * ROWS + i, &cols, state, row, v);
                y.iter_mut().zip(&*v).for_each(|(y, v)| *y = -v);
                (cx.kernels.exp)(y);
                y.iter_mut().zip(v).for_each(|(y, v)| *y = *v / (1.0 + *y));
            }
        }
    });
}

/// The state after the rows of [`silu_forward`]. x: `[N, C]`, state: `[L − 1, C]`, overwritten.
pub fn silu_carry(x: View, state: &mut [f32]) {
    carry(state, x.c, x.n, |s, u| u.copy_from_slice(x.row(s)));
}

/// The gradient of [`silu_forward`] where nothing comes before row 0: `dv = dy ∘ silu′(v)`, which dy becomes, and `du` by
/// the taps. x, dy, dx: `[N, C]`; dx is overwritten.
pub fn silu_backward(cx: &Compute, taps: Taps, x: View, dy: &mut [f32], dx: &mut Tile) {
    let (n, c) = (dx.n(), dx.c());
    cx.pool.rows([Tile::new(&mut *dy, n, c)], [ROWS], &|part, [mut dy], _| {
        for i in 0..dy.n() {
            for cols in parts(c) {
                let (mut v, mut e, dy) = ([0.0; PART], [0.0; PART], &mut dy.row(i)[cols.clone()]);
                let (v, e) = (&mut v[..dy.len()], &mut e[..dy.len()]);
                let row = |s: usize, u: &mut [f32]| u.copy_from_slice(&x.row(s)[cols.clone()]);
                taps.forward(part * ROWS + i, &cols, None, row, v);
                e.iter_mut().zip(&*v).for_each(|(e, v)| *e = -v);
                (cx.kernels.exp)(e);
                for ((dy, v), e) in dy.iter_mut().zip(v).zip(e) {
                    let s = 1.0 / (1.0 + *e);
                    *dy *= s + *v * s * (1.0 - s);
                }
            }
        }
    });
    let dv = View::new(dy, n, c);
    cx.pool.rows([dx.part(0..n, 0..c)], [ROWS], &|part, [mut dx], _| {
        for i in 0..dx.n() {
            for cols in parts(c) {
                let row = |t: usize, out: &mut [f32]| out.copy_from_slice(&dv.row(t)[cols.clone()]);
                taps.backward(part * ROWS + i, n, &cols, row, &mut dx.row(i)[cols.clone()]);
            }
        }
    });
}

/// `dw += Σ_t dv_t ∘ u_{t−L+1+j}`, for trained taps. x, dv: `[N, C]`, dv from [`silu_backward`]; dw: `[C, L]`.
pub fn silu_backward_weights(len: usize, x: View, dv: View, dw: &mut [f32]) {
    Taps::backward_weights(len, dv.n, |t, i| dv.row(t)[i], |s, i| x.row(s)[i], dw);
}
