//! Token embeddings: rows of a matrix.

use super::ROWS;
use crate::kernel::{Compute, Tile, View};
use crate::quant::Matrix;
use std::prelude::v1::*;

/// `x[i] = E[tokens[i]] · scale`. E: `[V, C]`, x: `[N, C]`, overwritten.
pub fn forward(cx: &Compute, table: &Matrix, tokens: &[u32], scale: f32, x: &mut Tile) {
    let (n, c) = (x.n(), x.c());
    cx.pool.rows([x.part(0..n, 0..c)], [ROWS], &|part, [mut x], _| {
        for i in 0..x.n() {
            let row = tokens[part * ROWS + i] as usize;
            (cx.kernels.decode)(table, row..row + 1, 0..c, x.row(i));
            if scale != 1.0 {
                x.row(i).iter_mut().for_each(|v| *v *= scale);
            }
        }
    });
}

/// `x[i] += E[row(i)]`: rows of positions, or of another table. E: `[T, C]`, x: `[N, C]`.
pub fn add(cx: &Compute, table: &Matrix, row: &(dyn Fn(usize) -> usize + Sync), x: &mut Tile) {
    let (n, c) = (x.n(), x.c());
    cx.pool.rows([x.part(0..n, 0..c)], [ROWS], &|part, [mut x], scratch| {
        let more = scratch.floats(c);
        for i in 0..x.n() {
            let row = row(part * ROWS + i);
            (cx.kernels.decode)(table, row..row + 1, 0..c, more);
            super::add(more, x.row(i));
        }
    });
}

/// `dE[tokens[i]] += dx[i] · scale`, for trained embeddings. dx: `[N, C]`, de: `[V, C]`.
pub fn backward_weights(tokens: &[u32], dx: View, scale: f32, de: &mut [f32]) {
    for (i, &token) in tokens.iter().enumerate() {
        for (de, dx) in de[token as usize * dx.c..][..dx.c].iter_mut().zip(dx.row(i)) {
            *de += dx * scale;
        }
    }
}
