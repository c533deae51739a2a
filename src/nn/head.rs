//! The output head: logits, and log-probabilities streamed over slices of the vocabulary.

use crate::kernel::{Compute, Tile, View};
use crate::math;
use crate::quant::Matrix;
use core::ops::Range;
use std::prelude::v1::*;

/// Vocabulary rows whose logits are held at once.
const LOGITS: usize = 128;

/// Of these, how many may be decoded together: with fewer than the first a thread holds less and, for gradients, decodes
/// them twice. The bits are the same.
pub const SLICES: [usize; 4] = [LOGITS, 64, 32, 16];

/// Rows of one part of the work: rows are independent, so how many a thread takes changes no bit; fewer parts decode the
/// vocabulary less often.
fn part_rows(n: usize, threads: usize) -> usize {
    n.div_ceil(threads).clamp(1, 128)
}

/// Values that [`log_probs`] holds for each thread, for `n` rows of `width` values, with a slice of [`SLICES`].
pub fn scratch(width: usize, n: usize, threads: usize, slice: usize) -> usize {
    slice * width + part_rows(n, threads) * (LOGITS + 3)
}

/// `logp[i] = ln softmax(x[i] · Wᵀ)[targets[i]]`, and its gradient with respect to the input,
/// `g[i] = W[targets[i]] − Σ_v softmax_v · W[v]`, if `g` is there. One pass: the sum over the vocabulary is kept under a
/// running maximum and rescaled when that rises, so neither logits nor a second product is needed, and an objective may
/// weigh the rows afterwards. `norm[i]` becomes `ln Σ_v exp(z_v)`.
/// x, g: `[N, C]`, W: `[V, C]`, logp, norm: `[N]`, overwritten. `slice` is one of [`SLICES`].
#[allow(clippy::too_many_arguments)]
pub fn log_probs(
    cx: &Compute,
    w: &Matrix,
    x: View,
    targets: &[u32],
    logp: &mut [f32],
    norm: &mut [f32],
    g: Option<&mut [f32]>,
    slice: usize,
) {
    let (n, c, k) = (x.n, w.cols, cx.kernels);
    let with_grad = g.is_some();
    let mut none = [];
    let g = g.unwrap_or(&mut none);
    let width = if with_grad { c } else { 0 };
    let granule = part_rows(n, cx.pool.threads());
    let tiles = [Tile::new(logp, n, 1), Tile::new(norm, n, 1), Tile::new(g, n, width)];
    cx.pool.rows(tiles, [granule; 3], &|part, [mut logp, mut norm, mut g], scratch| {
        let m = logp.n();
        let first = part * granule;
        let x = x.rows(first..first + m);
        let [tile, z, state] = scratch.three(slice * c, m * LOGITS, 3 * m);
        let (max, rest) = state.split_at_mut(m);
        let (sum, hit) = rest.split_at_mut(m);
        max.fill(f32::NEG_INFINITY);
        sum.fill(0.0);
        for i in 0..m {
            g.row(i).fill(0.0);
        }
        for start in (0..w.rows).step_by(LOGITS) {
            let count = LOGITS.min(w.rows - start);
            let z = &mut z[..m * count];
            for piece in pieces(count, slice) {
                let rows = decode(cx, w, start, &piece, tile);
                (k.dots)(x, rows, &mut Tile::new(z, m, count).part(0..m, piece));
            }
            for (i, z) in z.chunks_exact_mut(count).enumerate() {
                let target = targets[first + i] as usize;
                if (start..start + count).contains(&target) {
                    hit[i] = z[target - start];
                }
                let top = z.iter().copied().fold(max[i], f32::max);
                if top > max[i] {
                    let shrink = math::exp(max[i] - top);
                    sum[i] *= shrink;
                    for v in g.row(i) {
                        *v *= shrink;
                    }
                    max[i] = top;
                }
                for v in z.iter_mut() {
                    *v -= top;
                }
                (k.exp)(z);
                let mut part = 0.0;
                for v in z.iter() {
                    part += v;
                }
                sum[i] += part;
            }
            if with_grad {
                let z = View::new(z, m, count);
                for piece in pieces(count, slice) {
                    // One piece is still there.
                    let rows =
                        if count <= slice { View::new(tile, count, c) } else { decode(cx, w, start, &piece, tile) };
                    (k.sums)(z.cols(piece), rows, &mut g);
                }
            }
        }
        for i in 0..m {
            norm.row(i)[0] = max[i] + libm::logf(sum[i]);
            logp.row(i)[0] = hit[i] - norm.row(i)[0];
            if with_grad {
                let scale = -1.0 / sum[i];
                let target = targets[first + i] as usize;
                let row = &mut tile[..c];
                (k.decode)(w, target..target + 1, 0..c, row);
                for (g, w) in g.row(i).iter_mut().zip(row) {
                    *g = *g * scale + *w;
                }
            }
        }
    });
}

/// Ranges of at most `size` that make up `0..count`.
fn pieces(count: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..count).step_by(size).map(move |at| at..(at + size).min(count))
}

/// Rows `piece` of those from `start` on, decoded into `tile`.
fn decode<'a>(cx: &Compute, w: &Matrix, start: usize, piece: &Range<usize>, tile: &'a mut [f32]) -> View<'a> {
    let tile = &mut tile[..piece.len() * w.cols];
    (cx.kernels.decode)(w, start + piece.start..start + piece.end, 0..w.cols, tile);
    View::new(tile, piece.len(), w.cols)
}

/// `dW += dlogitsᵀ · x` for an output matrix that is trained itself, with `dlogits[i] = c[i] · (onehot − softmax)`
/// computed again slice by slice under the `norm` of [`log_probs`]. x: `[N, C]`, c, norm: `[N]`, dw: `[V, C]`.
pub fn backward_weights(cx: &Compute, w: &Matrix, x: View, targets: &[u32], c: &[f32], norm: &[f32], dw: &mut [f32]) {
    let (n, k) = (x.n, cx.kernels);
    cx.pool.rows([Tile::new(dw, w.rows, w.cols)], [LOGITS], &|part, [mut dw], scratch| {
        let (start, count) = (part * LOGITS, dw.n());
        let [tile, z] = scratch.two(count * w.cols, n * count);
        (k.decode)(w, start..start + count, 0..w.cols, tile);
        (k.dots)(x, View::new(tile, count, w.cols), &mut Tile::new(z, n, count));
        for (i, z) in z.chunks_exact_mut(count).enumerate() {
            for v in z.iter_mut() {
                *v -= norm[i];
            }
            (k.exp)(z);
            for v in z.iter_mut() {
                *v *= -c[i];
            }
            let target = targets[i] as usize;
            if (start..start + count).contains(&target) {
                z[target - start] += c[i];
            }
        }
        (k.outer)(View::new(z, n, count), x, &mut dw);
    });
}
