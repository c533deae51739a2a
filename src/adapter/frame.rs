//! Frames: for each matrix a pair A `[rank, in]` and B `[out, rank]` that is computed from its frozen rows.
//!
//! Nothing of a frame is stored. The rows are decoded to the same bits everywhere and all sums have one order, so every
//! target computes the same frame; that takes less time than reading as much from a file would save.

use super::algebra::{Dense, Triples, triples_within};
use super::lowrank::{Layout, Slot};
use super::{Frozen, Group, Part, Start};
use crate::error::{Error, Result};
use crate::kernel::{Compute, Tile, View};
use crate::quant::Matrix;
use std::prelude::v1::*;

/// How well directions are known, as a part of their values. More would not make a better frame.
const EXACT: f64 = 1e-3;
/// Steps for a wanted direction, and those for all: values that lie close together would take many more.
const STEPS: [usize; 2] = [6, 32];

/// The frames of all slots of a layout.
#[derive(Clone, Debug, Default)]
pub struct Frame {
    rank: usize,
    /// Values of a slot: A, Bᵀ, and room to the largest.
    width: usize,
    values: Vec<f32>,
}

/// What makes a frame of decoded rows: A `[rank, in]` and Bᵀ `[rank, out]`, which hold zeros before.
pub type Make<'a> = dyn Fn(Dense, &mut [f32], &mut [f32]) + Sync + 'a;

impl Frame {
    /// The frames of rank `rank` of all slots, a slot on each thread of the pool at a time.
    ///
    /// # Errors
    /// `Mismatch` if the frozen model lacks a matrix; those of `check`.
    pub fn of(
        cx: &Compute,
        layout: &Layout,
        rank: usize,
        frozen: &dyn Frozen,
        check: &dyn Fn(&Slot, &Matrix) -> Result<()>,
        make: &Make,
    ) -> Result<Frame> {
        let (slots, width) = (layout.slots(), width(layout, rank));
        let mut matrices = Vec::with_capacity(slots.len());
        for slot in slots {
            let lacks = || Error::mismatch(slot.site.to_string(), "a matrix", "none");
            let matrix = frozen.matrix(slot.site).ok_or_else(lacks)?;
            check(slot, &matrix)?;
            matrices.push(matrix);
        }
        let mut values = vec![0.0; slots.len() * width];
        cx.pool.rows([Tile::new(&mut values, slots.len(), width)], [1], &|slot, [mut out], _| {
            let w = &matrices[slot];
            let mut dense = Dense { size: [w.rows, w.cols], values: vec![0.0; w.rows * w.cols] };
            for (row, out) in dense.values.chunks_exact_mut(w.cols).enumerate() {
                w.decode(row, 0..w.cols, out);
            }
            let (a, rest) = out.row(0).split_at_mut(rank * w.cols);
            make(dense, a, &mut rest[..rank * w.rows]);
        });
        Ok(Frame { rank, width, values })
    }

    /// From given pairs A and Bᵀ of all slots.
    #[cfg(feature = "internals")]
    pub fn given(layout: &Layout, rank: usize, pairs: &[[Vec<f32>; 2]]) -> Frame {
        let width = width(layout, rank);
        let mut values = vec![0.0; pairs.len() * width];
        for (out, [a, b]) in values.chunks_exact_mut(width).zip(pairs) {
            out[..a.len()].copy_from_slice(a);
            out[a.len()..a.len() + b.len()].copy_from_slice(b);
        }
        Frame { rank, width, values }
    }

    /// Whether it was made.
    pub fn is_made(&self) -> bool {
        !self.values.is_empty()
    }

    /// A `[rank, in]` and Bᵀ `[rank, out]` of a slot.
    pub fn pair(&self, slot: usize, [n_in, n_out]: [usize; 2]) -> [View<'_>; 2] {
        let (a, b) = self.values[slot * self.width..][..self.rank * (n_in + n_out)].split_at(self.rank * n_in);
        [View::new(a, self.rank, n_in), View::new(b, self.rank, n_out)]
    }

    /// The factors of `B·R·A`: `R·A` and B. cores: R of each slot, `[rank, rank]`.
    pub fn turn(&self, layout: &Layout, cores: &[f32], factors: &mut [f32]) {
        for (i, (slot, core)) in layout.slots().iter().zip(cores.chunks_exact(self.rank * self.rank)).enumerate() {
            let [a, b] = self.pair(i, slot.shape);
            let out = &mut factors[slot.a()];
            out.fill(0.0);
            for (out, core) in out.chunks_exact_mut(a.c).zip(core.chunks_exact(self.rank)) {
                for (k, r) in core.iter().enumerate() {
                    out.iter_mut().zip(a.row(k)).for_each(|(o, a)| *o += r * a);
                }
            }
            for (k, out) in factors[slot.b()].chunks_exact_mut(b.c).enumerate() {
                out.copy_from_slice(b.row(k));
            }
        }
    }

    /// The gradients of the cores from those of the factors: `dR = d(R·A)·Aᵀ`. grads is overwritten.
    pub fn turn_back(&self, layout: &Layout, acc: &[f32], grads: &mut [f32]) {
        for (i, (slot, grads)) in layout.slots().iter().zip(grads.chunks_exact_mut(self.rank * self.rank)).enumerate() {
            let [a, _] = self.pair(i, slot.shape);
            for (g, grads) in acc[slot.a()].chunks_exact(a.c).zip(grads.chunks_exact_mut(self.rank)) {
                grads.iter_mut().enumerate().for_each(|(k, grad)| *grad = dot(g, a.row(k)));
            }
        }
    }
}

fn width(layout: &Layout, rank: usize) -> usize {
    layout.slots().iter().map(|s| rank * (s.shape[0] + s.shape[1])).max().unwrap_or(0)
}

/// Values that the frames of a layout take, and the scratch of a thread that makes them.
pub fn size(layout: &Layout, rank: usize) -> [usize; 2] {
    let most = |of: fn([usize; 2]) -> usize| layout.slots().iter().map(|s| of(s.shape)).max().unwrap_or(0);
    // Vectors are in double precision.
    let vectors = 2 * steps(rank).min(most(|[a, b]| a.min(b))) * most(|[a, b]| a + b);
    [layout.slots().len() * width(layout, rank), most(|[a, b]| a * b) + vectors]
}

fn steps(rank: usize) -> usize {
    STEPS[0] * rank + STEPS[1]
}

/// The leading triples of a matrix, so well as a frame needs them.
pub fn leading(of: &Dense, rank: usize) -> Triples {
    triples_within(of, rank, EXACT, steps(rank))
}

/// `A = f(σ)·Vᵀ` and `B = U·g(σ)` of the leading triples, where `share(σ)` is f and g.
pub fn spread(of: &Dense, share: impl Fn(f64) -> [f64; 2], a: &mut [f32], b: &mut [f32]) {
    let [rows, cols] = of.size;
    let found = leading(of, a.len() / cols.max(1));
    for (k, sigma) in found.values.iter().enumerate() {
        let [f, g] = share(*sigma);
        let write = |out: &mut [f32], x: &[f64], by: f64| out.iter_mut().zip(x).for_each(|(o, x)| *o = (by * x) as f32);
        write(&mut a[k * cols..(k + 1) * cols], &found.vectors.v[k * cols..], f);
        write(&mut b[k * rows..(k + 1) * rows], &found.vectors.u[k * rows..], g);
    }
}

/// A part of `rows` by `cols` for each slot, from zero.
pub fn parts(layout: &Layout, name: &'static str, rows: usize, cols: usize) -> Vec<Part> {
    let n = rows * cols;
    let of = |i: usize| Part { name, range: i * n..(i + 1) * n, cols, start: Start::Zero, group: Group::Main };
    (0..layout.slots().len()).map(of).collect()
}

/// Sums of eight lanes, then their sum in order.
fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 8];
    for (x, y) in x.chunks(8).zip(y.chunks(8)) {
        lanes.iter_mut().zip(x.iter().zip(y)).for_each(|(lane, (x, y))| *lane += x * y);
    }
    lanes.iter().sum()
}
