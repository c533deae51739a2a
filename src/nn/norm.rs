//! Root-mean-square norm: `y = x · r · w` with `r = 1 / √(mean(x²) + ε)` (arXiv:1910.07467).

use super::ROWS;
use crate::kernel::{Compute, Tile, View};
use crate::math;
use std::prelude::v1::*;

fn dot(cx: &Compute, x: &[f32], y: &[f32]) -> f32 {
    let mut out = [0.0];
    (cx.kernels.dots)(View::new(x, 1, x.len()), View::new(y, 1, y.len()), &mut Tile::new(&mut out, 1, 1));
    out[0]
}

fn scale(cx: &Compute, x: &[f32], eps: f32) -> f32 {
    1.0 / math::sqrt(dot(cx, x, x) / x.len() as f32 + eps)
}

/// x: `[N, C]`, w: `[C]`, y: `[N, C]`, overwritten.
pub fn forward(cx: &Compute, x: View, w: &[f32], eps: f32, y: &mut Tile) {
    let (n, c) = (y.n(), y.c());
    cx.pool.rows([y.part(0..n, 0..c)], [ROWS], &|part, [mut y], _| {
        for i in 0..y.n() {
            let x = x.row(part * ROWS + i);
            let r = scale(cx, x, eps);
            for ((y, x), w) in y.row(i).iter_mut().zip(x).zip(w) {
                *y = x * r * w;
            }
        }
    });
}

/// `dx += r · (w ∘ dy) − x · r³ / C · Σ(w ∘ dy ∘ x)`. x, dy, dx: `[N, C]`, w: `[C]`.
pub fn backward(cx: &Compute, x: View, w: &[f32], eps: f32, dy: View, dx: &mut Tile) {
    let (n, c) = (dx.n(), dx.c());
    cx.pool.rows([dx.part(0..n, 0..c)], [ROWS], &|part, [mut dx], scratch| {
        let wdy = scratch.floats(c);
        for i in 0..dx.n() {
            let (x, dy) = (x.row(part * ROWS + i), dy.row(part * ROWS + i));
            let r = scale(cx, x, eps);
            for ((t, w), dy) in wdy.iter_mut().zip(w).zip(dy) {
                *t = w * dy;
            }
            let back = dot(cx, wdy, x) * r * r * r / c as f32;
            for ((dx, t), x) in dx.row(i).iter_mut().zip(wdy.iter()).zip(x) {
                *dx += t * r - x * back;
            }
        }
    });
}

/// `dw += Σ_rows dy ∘ x · r`, for gains that are trained themselves. x, dy: `[N, C]`, dw: `[C]`.
pub fn backward_weights(cx: &Compute, x: View, eps: f32, dy: View, dw: &mut [f32]) {
    for i in 0..x.n {
        let r = scale(cx, x.row(i), eps);
        for ((dw, x), dy) in dw.iter_mut().zip(x.row(i)).zip(dy.row(i)) {
            *dw += dy * (x * r);
        }
    }
}
