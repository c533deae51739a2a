//! The layers, a file each, forward and backward side by side. Nothing here knows of adapters or of a model: functions
//! over rows, with the shapes in their first line.
//!
//! Every `*_backward` **adds** into the gradients it is given, but for attention's and where [`linear::Place`] says so. Outside the kernels no fused multiply-add is used, so
//! these loops give the same bits on every target.

pub mod attention;
pub mod embed;
pub mod head;
pub mod linear;
pub mod norm;
pub mod rope;

use crate::kernel::{Compute, Tile};

/// Rows a thread takes at a time where rows are independent.
pub(crate) const ROWS: usize = 8;

/// `out = a + b`, all threads. Each `[N, C]`.
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
