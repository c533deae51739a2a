//! The output head: logits, and log-probabilities streamed over slices of the vocabulary.

use super::ROWS;
use super::linear::{self, Accumulate, Back, Input, Precision, Quantized};
use crate::kernel::{Buffer, Compute, Kernels, Scratch, Tile, View};
use crate::math;
use crate::quant::Matrix;
use std::prelude::v1::*;

/// Vocabulary entries whose logits exist at a time.
const SLICE: usize = 512;
/// Vocabulary entries that are decoded together where the matrix is trained.
const TRAINED: usize = 128;

/// Possible numbers of rows of activations that are multiplied with the output matrix together. Smaller ones need less
/// memory but decode the output matrix more often. The bits are the same.
pub const SLICES: [usize; 4] = [1024, 256, 64, 16];

/// Buffers of [`log_probs`]; they grow to the largest batch once.
#[derive(Default)]
pub struct Logits {
    /// `[N, SLICE]`, and behind them two numbers a row.
    z: Buffer,
}

impl Logits {
    /// Bytes for `n` rows of logits.
    pub fn bytes(n: usize) -> usize {
        4 * n * (SLICE + 2)
    }
}

/// Rows of a matrix that a pass over the vocabulary works on together.
pub fn slice(w: &Matrix) -> Matrix {
    w.part(0..SLICE.min(w.rows))
}

/// How products with the output matrix become logits: `z · scale`, and with a cap `c`
/// `c · tanh(z · scale / c)` (arXiv:2408.00118).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Finish {
    /// The factor of products.
    pub scale: f32,
    /// The cap.
    pub cap: Option<f32>,
}

impl Finish {
    /// Products are logits.
    pub const NONE: Finish = Finish { scale: 1.0, cap: None };

    /// Turns products into logits in place. logits: any number of rows, `[…, V]`.
    pub fn apply(&self, cx: &Compute, logits: &mut [f32]) {
        /// Values of a part.
        const PART: usize = 4096;
        if *self == Finish::NONE {
            return;
        }
        let n = logits.len();
        let part = |_, [mut z]: [Tile; 1], _: &mut Scratch| self.row(cx.kernels, z.row(0));
        cx.pool.columns([Tile::new(logits, 1, n)], [PART], &part);
    }

    fn row(&self, k: &Kernels, z: &mut [f32]) {
        if self.scale != 1.0 {
            z.iter_mut().for_each(|z| *z *= self.scale);
        }
        if let Some(cap) = self.cap {
            super::cap(k, z, cap);
        }
    }

    /// The derivative of a logit by its product.
    #[inline(always)]
    fn slope(&self, logit: f32) -> f32 {
        self.cap.map_or(self.scale, |cap| self.scale * super::cap_slope(logit, cap))
    }

    /// `d *= slope`, for the derivatives of some logits.
    fn back(&self, logits: &[f32], d: &mut [f32]) {
        d.iter_mut().zip(logits).for_each(|(d, z)| *d *= self.slope(*z));
    }
}

/// `logp[i] = ln softmax(z[i])[targets[i]]` with the logits `z[i] = f(x[i] · Wᵀ)` of `finish`, and its gradient with
/// respect to the input, `g[i] = f′_t · W[t] − Σ_v softmax_v · f′_v · W[v]` with `t = targets[i]`, if `g` is given. It
/// is one pass over slices of the vocabulary: the running sum is relative to a running maximum and rescaled when that
/// rises. So only the logits of one slice exist at a time, and an objective may weight the rows afterwards. `norm[i]`
/// becomes `ln Σ_v exp(z_v)`. The term of the target in `g` is computed from its row, `(1 − softmax) · f′ · W[target]`,
/// so that there is no cancellation. x, g: `[N, C]`, W: `[V, C]`, logp, norm: `[N]`, overwritten. `slice`: rows that
/// are computed together, one of [`SLICES`].
pub fn log_probs(
    cx: &Compute,
    precision: Precision,
    w: &Matrix,
    finish: Finish,
    x: View,
    targets: &[u32],
    logp: &mut [f32],
    norm: &mut [f32],
    mut g: Option<&mut [f32]>,
    slice: usize,
    logits: &mut Logits,
    quantized: &mut Quantized,
    back: &mut Back,
) {
    for first in (0..x.n).step_by(slice) {
        let rows = first..(first + slice).min(x.n);
        let g = g.as_deref_mut().map(|g| &mut g[rows.start * x.c..rows.end * x.c]);
        let (logp, norm) = (&mut logp[rows.clone()], &mut norm[rows.clone()]);
        some_log_probs(
            cx,
            precision,
            w,
            finish,
            x.rows(rows.clone()),
            &targets[rows],
            logp,
            norm,
            g,
            logits,
            quantized,
            back,
        );
    }
}

fn some_log_probs(
    cx: &Compute,
    precision: Precision,
    w: &Matrix,
    finish: Finish,
    x: View,
    targets: &[u32],
    logp: &mut [f32],
    norm: &mut [f32],
    mut g: Option<&mut [f32]>,
    logits: &mut Logits,
    quantized: &mut Quantized,
    back: &mut Back,
) {
    let (n, c, k) = (x.n, w.cols, cx.kernels);
    let (z, state) = logits.z.room(n * (SLICE + 2)).split_at_mut(n * SLICE);
    if let Some(g) = &mut g {
        g[..n * c].fill(0.0);
    }
    for state in state.as_chunks_mut::<2>().0 {
        *state = [f32::NEG_INFINITY, 0.0];
    }
    let input = Input::new(cx, precision, x, &[w], false, quantized);
    for start in (0..w.rows).step_by(SLICE) {
        let slice = start..(start + SLICE).min(w.rows);
        let (count, part) = (slice.len(), w.part(slice.clone()));
        linear::forward(cx, &part, input, &mut Tile::new(z, n, count));
        let width = if g.is_some() { c } else { 0 };
        let tiles = [
            Tile::new(z, n, count),
            Tile::new(state, n, 2),
            Tile::new(logp, n, 1),
            Tile::new(g.as_deref_mut().unwrap_or_default(), n, width),
        ];
        cx.pool.rows(tiles, [ROWS; 4], &|part, [mut z, mut state, mut logp, mut g], scratch| {
            for i in 0..z.n() {
                let target = (targets[part * ROWS + i] as usize).checked_sub(start).filter(|t| *t < count);
                let ([top, sum], z) = (state.row(i).as_chunks_mut::<2>().0[0].each_mut(), z.row(i));
                finish.row(k, z);
                if let Some(target) = target {
                    logp.row(i)[0] = z[target];
                }
                let kept = scratch.floats(if width > 0 && finish != Finish::NONE { count } else { 0 });
                kept.iter_mut().zip(&*z).for_each(|(kept, z)| *kept = *z);
                let here = (k.softmax)(z);
                if here > *top {
                    let shrink = math::exp(*top - here);
                    *sum *= shrink;
                    g.row(i).iter_mut().for_each(|v| *v *= shrink);
                    *top = here;
                }
                let weight = math::exp(here - *top);
                *sum += weight;
                if width > 0 {
                    z.iter_mut().for_each(|v| *v *= -weight);
                    finish.back(kept, z);
                    if let Some(target) = target {
                        z[target] = 0.0;
                    }
                }
            }
        });
        if let Some(g) = &mut g {
            linear::backward(
                cx,
                precision,
                &part,
                View::new(z, n, count),
                Accumulate::Add,
                &mut Tile::new(g, n, c),
                back,
            );
        }
    }
    let width = if g.is_some() { c } else { 0 };
    let tiles = [
        Tile::new(state, n, 2),
        Tile::new(logp, n, 1),
        Tile::new(norm, n, 1),
        Tile::new(g.unwrap_or_default(), n, width),
    ];
    cx.pool.rows(tiles, [ROWS; 4], &|part, [mut state, mut logp, mut norm, mut g], scratch| {
        for i in 0..logp.n() {
            let [top, sum] = state.row(i).as_chunks::<2>().0[0];
            let slope = finish.slope(logp.row(i)[0]);
            norm.row(i)[0] = top + libm::logf(sum);
            logp.row(i)[0] -= norm.row(i)[0];
            if width > 0 {
                let target = targets[part * ROWS + i] as usize;
                let row = scratch.floats(c);
                (k.decode)(w, target..target + 1, 0..c, row);
                let (scale, rest) = (1.0 / sum, -libm::expm1f(logp.row(i)[0]) * slope);
                for (g, w) in g.row(i).iter_mut().zip(row) {
                    *g = *g * scale + rest * *w;
                }
            }
        }
    });
}

/// `dW += dzᵀ · x` for a trained output matrix, with `dz[i] = c[i] · (onehot − softmax) ∘ f′`
/// recomputed slice by slice with the `norm` of [`log_probs`]. x: `[N, C]`, c, norm: `[N]`, dw: `[V, C]`.
pub fn backward_weights(
    cx: &Compute,
    w: &Matrix,
    finish: Finish,
    x: View,
    targets: &[u32],
    c: &[f32],
    norm: &[f32],
    dw: &mut [f32],
) {
    let (n, k) = (x.n, cx.kernels);
    cx.pool.rows([Tile::new(dw, w.rows, w.cols)], [TRAINED], &|part, [mut dw], scratch| {
        let (start, count) = (part * TRAINED, dw.n());
        let kept = if finish == Finish::NONE { 0 } else { count };
        let [tile, z, kept] = scratch.three(count * w.cols, n * count, kept);
        (k.decode)(w, start..start + count, 0..w.cols, tile);
        (k.dots)(x, View::new(tile, count, w.cols), &mut Tile::new(z, n, count));
        for (i, z) in z.chunks_exact_mut(count).enumerate() {
            finish.row(k, z);
            kept.iter_mut().zip(&*z).for_each(|(kept, z)| *kept = *z);
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
            finish.back(kept, z);
        }
        (k.outer)(View::new(z, n, count), x, &mut dw);
    });
}
