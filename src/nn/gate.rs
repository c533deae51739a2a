//! Gates that let a part of a row through: `y = σ(g) ∘ x`. A value of the gate is for one channel or for several.

use super::CHUNK;
use crate::kernel::{Compute, Kernels, Tile, View};

/// Calls `f(σ(g), channels)` for each value of a row's gate.
fn open(k: &Kernels, gate: &[f32], c: usize, mut f: impl FnMut(usize, f32, core::ops::Range<usize>)) {
    let (mut e, each) = ([0.0; CHUNK], c / gate.len());
    for (part, gate) in gate.chunks(CHUNK).enumerate() {
        let e = &mut e[..gate.len()];
        e.iter_mut().zip(gate).for_each(|(e, g)| *e = -g);
        (k.exp)(e);
        for (i, e) in e.iter().enumerate() {
            let i = part * CHUNK + i;
            f(i, 1.0 / (1.0 + e), i * each..(i + 1) * each);
        }
    }
}

/// `y = σ(g) ∘ x`. gate: `[N, G]`, each value for `C / G` neighbouring channels; x, y: `[N, C]`; y is overwritten.
pub fn forward(cx: &Compute, gate: View, x: View, y: &mut Tile) {
    let (n, c) = (y.n(), y.c());
    cx.pool.rows([y.part(0..n, 0..c)], [1], &|i, [mut y], _| {
        let (x, y) = (x.row(i), y.row(0));
        open(cx.kernels, gate.row(i), c, |_, s, cols| {
            y[cols.clone()].iter_mut().zip(&x[cols]).for_each(|(y, x)| *y = s * x);
        });
    });
}

/// `dx = σ(g) ∘ dy` and `dg = σ(g) · (1 − σ(g)) · Σ x ∘ dy` over the channels of a value. gate, dgate: `[N, G]`; x, dy, dx:
/// `[N, C]`; dgate and dx are overwritten.
pub fn backward(cx: &Compute, gate: View, x: View, dy: View, dgate: &mut Tile, dx: &mut Tile) {
    let (n, c, g) = (dx.n(), dx.c(), dgate.c());
    let tiles = [dx.part(0..n, 0..c), dgate.part(0..n, 0..g)];
    cx.pool.rows(tiles, [1; 2], &|i, [mut dx, mut dgate], _| {
        let (x, dy, dx, dgate) = (x.row(i), dy.row(i), dx.row(0), dgate.row(0));
        open(cx.kernels, gate.row(i), c, |j, s, cols| {
            let mut sum = 0.0;
            for i in cols {
                sum += x[i] * dy[i];
                dx[i] = s * dy[i];
            }
            dgate[j] = s * (1.0 - s) * sum;
        });
    });
}
