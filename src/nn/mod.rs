//! The layers, one file each, forward and backward side by side. They are functions over rows, with the shapes in the
//! first line; they do not depend on adapters or models.
//!
//! Every backward function **adds** to the gradients that it is given, except for those of attention and of activation
//! functions, and except where [`linear::Accumulate`] says otherwise. Outside the kernels no fused multiply-add is
//! used, so these loops give the same bits on every target.

pub mod attention;
pub mod conv;
pub mod delta;
pub mod embed;
pub mod experts;
pub mod ffn;
pub mod gate;
pub mod head;
pub mod linear;
pub mod norm;
pub mod rope;

use crate::kernel::{Compute, Kernels, Tile};
use crate::math;

/// Rows a thread takes at a time where rows are independent.
pub(crate) const ROWS: usize = 8;

/// Values that are copied at a time for a kernel call.
const CHUNK: usize = 64;

/// `x = cap · tanh(x / cap)`.
fn cap(k: &Kernels, x: &mut [f32], cap: f32) {
    let mut e = [0.0; CHUNK];
    for x in x.chunks_mut(CHUNK) {
        let e = &mut e[..x.len()];
        for (e, x) in e.iter_mut().zip(x.iter_mut()) {
            *x /= cap;
            *e = -2.0 * x.abs();
        }
        (k.exp)(e);
        for (x, e) in x.iter_mut().zip(e) {
            *x = cap * math::tanh(*x, *e);
        }
    }
}

/// The derivative of [`cap`], from its result: `1 − (y / cap)²`.
#[inline(always)]
fn cap_slope(y: f32, cap: f32) -> f32 {
    1.0 - (y / cap) * (y / cap)
}

/// `out = a + b`, on all threads. Each `[N, C]`.
pub fn sum(cx: &Compute, a: &[f32], b: &[f32], c: usize, out: &mut [f32]) {
    let n = out.len() / c;
    cx.pool.rows([Tile::new(out, n, c)], [ROWS], &|part, [mut out], _| {
        for i in 0..out.n() {
            let at = (part * ROWS + i) * c;
            for ((out, a), b) in out.row(i).iter_mut().zip(&a[at..at + c]).zip(&b[at..at + c]) {
                *out = a + b;
            }
        }
    });
}

/// `y += x`.
pub fn add(x: &[f32], y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += x;
    }
}

#[cfg(all(test, feature = "std"))]
mod tests;
