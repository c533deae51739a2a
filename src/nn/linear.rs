//! Products with a frozen matrix: `y = x · Wᵀ`, and `dx += dy · W`.

use crate::kernel::{Acts8, Compute, Tile, View};
use crate::quant::Matrix;
use std::prelude::v1::*;

/// How the products of a forward pass are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// `f32` activations against decoded rows; what training differentiates.
    Exact,
    /// Activations rounded to 8 bits, integer dot products, where the matrix's format has integer codes.
    Fast,
}

/// Rows of a matrix that are decoded and multiplied together: an L2 cache holds them.
const TILE: usize = 64;

/// Rows of a part at most when one row of activations streams over them: long pieces, so that what the hardware reads
/// ahead is what the same core needs next.
const STREAM: usize = 1024;

/// Rows of activations for which half floats are not decoded first.
const FEW: usize = 8;

/// The input of a linear layer, rounded to 8 bits if one of its matrices wants that.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// The values, `[N, C]`.
    pub x: View<'a>,
    acts: Option<&'a Acts8>,
}

impl<'a> Input<'a> {
    /// For the exact path.
    pub fn exact(x: View<'a>) -> Self {
        Input { x, acts: None }
    }

    /// Rounds `x` into `acts`, in one part or two, if `path` and one of `matrices` call for it.
    pub fn new(cx: &Compute, path: Path, x: View<'a>, matrices: &[&Matrix], parts: usize, acts: &'a mut Acts8) -> Self {
        if path == Path::Exact || !matrices.iter().any(|m| m.format.codes.is_some()) {
            return Input::exact(x);
        }
        acts.resize(x.n, x.c, parts);
        cx.quantize(x, acts);
        Input { x, acts: Some(acts) }
    }
}

/// `y = x · Wᵀ`. x: `[N, C]`, W: `[F, C]`, y: `[N, F]`, overwritten.
pub fn forward(cx: &Compute, w: &Matrix, input: Input, y: &mut Tile) {
    assert!(input.x.c == w.cols && y.c() == w.rows && y.n() == input.x.n, "shapes of a linear layer");
    let k = cx.kernels;
    let (n, f) = (y.n(), y.c());
    let streamed = n == 1 && (input.acts.is_some() && w.format.codes.is_some() || w.halves().is_some());
    let tile = if streamed { f.div_ceil(cx.pool.threads()).next_multiple_of(16).clamp(TILE, STREAM) } else { TILE };
    cx.pool.columns([y.part(0..n, 0..f)], [tile], &|part, [mut y], scratch| {
        let rows = part * tile..(part * tile + tile).min(f);
        match input.acts {
            Some(acts) if w.format.codes.is_some() => (k.int_dots)(w, rows, acts, &mut y, scratch),
            _ => {
                if let Some(halves) = w.halves().filter(|_| n <= FEW) {
                    (k.half_dots)(input.x, &halves[rows.start * w.cols..rows.end * w.cols], &mut y);
                } else if let Some(values) = w.floats() {
                    let w = View::new(&values[rows.start * w.cols..rows.end * w.cols], rows.len(), w.cols);
                    (k.dots)(input.x, w, &mut y);
                } else {
                    let tile = scratch.floats(rows.len() * w.cols);
                    (k.decode)(w, rows.clone(), 0..w.cols, tile);
                    (k.dots)(input.x, View::new(tile, rows.len(), w.cols), &mut y);
                }
            }
        }
    });
}

/// Columns of a part of [`backward`].
fn granule(w: &Matrix) -> usize {
    w.format.block.next_multiple_of(64)
}

/// Values that [`forward`] on the exact path and [`backward`] hold for each thread.
pub fn scratch(w: &Matrix) -> usize {
    match w.floats() {
        Some(_) => 0,
        None => (TILE * w.cols).max(2 * TILE * granule(w)),
    }
}

/// `dx += dy · W`. dy: `[N, F]`, W: `[F, C]`, dx: `[N, C]`.
pub fn backward(cx: &Compute, w: &Matrix, dy: View, dx: &mut Tile) {
    assert!(dy.c == w.rows && dx.c() == w.cols && dx.n() == dy.n, "shapes of a linear layer");
    let k = cx.kernels;
    let (n, c) = (dx.n(), dx.c());
    let granule = granule(w);
    cx.pool.columns([dx.part(0..n, 0..c)], [granule], &|part, [mut dx], scratch| {
        let cols = part * granule..(part * granule + granule).min(c);
        if let Some(values) = w.floats() {
            return (k.sums)(dy, View::new(values, w.rows, w.cols).cols(cols), &mut dx);
        }
        let tile = scratch.floats(2 * TILE * cols.len());
        for start in (0..w.rows).step_by(2 * TILE) {
            let rows = start..(start + 2 * TILE).min(w.rows);
            let tile = &mut tile[..rows.len() * cols.len()];
            (k.decode)(w, rows.clone(), cols.clone(), tile);
            (k.sums)(dy.cols(rows.clone()), View::new(tile, rows.len(), cols.len()), &mut dx);
        }
    });
}

/// `dW += dyᵀ · x`, for weights that are trained themselves. x: `[N, C]`, dy: `[N, F]`, dw: `[F, C]`.
pub fn backward_weights(cx: &Compute, x: View, dy: View, dw: &mut Tile) {
    let (n, c) = (dw.n(), dw.c());
    cx.pool.rows([dw.part(0..n, 0..c)], [TILE], &|part, [mut dw], _| {
        let rows = part * TILE..part * TILE + dw.n();
        (cx.kernels.outer)(dy.cols(rows), x, &mut dw);
    });
}
