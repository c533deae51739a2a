//! OFT (arXiv:2306.07280): the inputs of a linear layer are turned, block by block, by trained rotations.
//!
//! ```text
//! y = W·x',  x' = x·Q in each block of b inputs     Q = (I − S)·(I + S)⁻¹, the Cayley transform
//! S[i, j] = −S[j, i] = the trained numbers of the block, i < j by rows; they start at zero, and Q at I
//! dQ = −2 M·dS·M with M = (I + S)⁻¹, and Q = 2M − I
//! ```
//!
//! Lengths of inputs and angles between them stay as they are. With strength `t`, `x'` is `x + t (x·Q − x)`: 0 is the base, 1
//! the rotation, and what lies between is the mean of both, which shortens what is turned. It bakes as `W·((1 − t)·I + t·Qᵀ)`.
//! The last block of a width that `b` does not divide is narrower.

use crate::adapter::direct::{self, Direct, Own, Plan, Rule};
use crate::adapter::{At, Frozen, Into, Kind, Needs, NewPart, Place, Seen, Shape, Start};
use crate::error::{Error, Result};
use crate::kernel::{Buffer, Compute, Tile, View};
use crate::knob::{Domain, Knob, Setting};
use crate::role::Role;
use core::ops::Range;
use std::prelude::v1::*;

/// Width of a block.
pub static BLOCK: Knob = Knob {
    name: "block",
    about: "Inputs that are turned together",
    metavar: "B",
    domain: Domain::Whole { low: 2, high: 256 },
};

/// Its row.
pub static KIND: Kind = Kind {
    name: "oft",
    about: "rotations of the inputs of linear layers, in blocks",
    rate: 5e-3,
    knobs: &[Setting::whole(&BLOCK, 8)],
    targets: &Role::LINEAR,
    shape: |spec, base| direct::shape(spec, base, &PLAN),
    create: |spec, base| Direct::create(spec, base, &PLAN, Turned::default()),
    read: |stored| Direct::read(stored, &PLAN, Turned::default()),
    sections: &[],
    grown: &[],
    codec: None,
    size: Some(&BLOCK),
};

static PLAN: Plan = Plan {
    kind: &KIND,
    places: |spec, _, base| Ok(spec.sites(base)?.into_iter().map(Place::Input).collect()),
    stands: |place| matches!(place, Place::Input(_)),
    shape: |places, values, _| {
        let b = values.whole(BLOCK.name) as usize;
        if let Some((place, [width, _])) = places.iter().find(|(_, [width, _])| *width < 2) {
            return Err(Error::invalid("targets", format!("{place} of width {width}; at least 2 can be turned")));
        }
        let needs = Needs { output: true, rescales: true, ..Needs::default() };
        let numbers = |width: usize| width / b * pairs(b) + pairs(width % b);
        let mut shape =
            Shape::build(places, |_| needs, |_, [width, _]| vec![NewPart::new("skew", 1, numbers(width), Start::Zero)]);
        let blocks: usize = shape.slots.iter().map(|s| s.shape[0].div_ceil(b)).sum();
        let widest = shape.slots.iter().map(|s| s.shape[0]).max().unwrap_or(0);
        shape.size.derived = blocks * b * b;
        shape.size.gathered = blocks * b * b;
        shape.size.scratch = (ROWS * widest).max(2 * b * b);
        Ok(shape)
    },
};

/// Rows of a part.
const ROWS: usize = 16;

/// Numbers above the diagonal.
fn pairs(b: usize) -> usize {
    b * b.saturating_sub(1) / 2
}

/// The rotations of each slot, `[blocks, b·b]`; of a narrower block the first `w·w` values.
#[derive(Default)]
struct Turned(Vec<Vec<f32>>);

fn block(own: &Own) -> usize {
    own.values.whole(BLOCK.name) as usize
}

/// The columns of each block of a width.
fn blocks(width: usize, b: usize) -> impl Iterator<Item = Range<usize>> {
    (0..width).step_by(b).map(move |start| start..width.min(start + b))
}

/// Where the sums of a slot begin.
fn sums_of(own: &Own, slot: usize) -> Range<usize> {
    let b = block(own);
    let len = |slot: &crate::adapter::Slot| slot.shape[0].div_ceil(b) * b * b;
    let start = own.shape.slots.iter().take(slot).map(len).sum();
    start..start + own.shape.slots.get(slot).map_or(0, len)
}

/// `(I − S)·(I + S)⁻¹` of a block of width `w`. room: `[w, 2w]`.
fn cayley(skew: &[f32], w: usize, room: &mut [f32], q: &mut [f32]) {
    room.fill(0.0);
    let mut skew = skew.iter();
    for i in 0..w {
        room[i * 2 * w + i] = 1.0;
        room[i * 2 * w + w + i] = 1.0;
        for (j, s) in (i + 1..w).zip(&mut skew) {
            room[i * 2 * w + j] = *s;
            room[j * 2 * w + i] = -s;
        }
    }
    // The symmetric part of I + S is I, and that of what is left after each column is no smaller: no pivot is below 1.
    for k in 0..w {
        let inverse = 1.0 / room[k * 2 * w + k];
        room[k * 2 * w..(k + 1) * 2 * w].iter_mut().for_each(|v| *v *= inverse);
        for i in (0..w).filter(|i| *i != k) {
            let factor = room[i * 2 * w + k];
            for j in 0..2 * w {
                room[i * 2 * w + j] -= factor * room[k * 2 * w + j];
            }
        }
    }
    for (i, q) in q.chunks_exact_mut(w).enumerate() {
        q.copy_from_slice(&room[i * 2 * w + w..][..w]);
        q.iter_mut().for_each(|v| *v *= 2.0);
        q[i] -= 1.0;
    }
}

/// The gradient of a block's numbers from that of its rotation. room: `[w, w]`.
fn cayley_backward(q: &[f32], g: &[f32], w: usize, room: &mut [f32], grads: &mut [f32]) {
    let m = |i: usize, j: usize| 0.5 * (q[i * w + j] + if i == j { 1.0 } else { 0.0 });
    for (i, out) in room.chunks_exact_mut(w).enumerate() {
        out.fill(0.0);
        for (a, g) in g.chunks_exact(w).enumerate() {
            out.iter_mut().zip(g).for_each(|(out, g)| *out += m(a, i) * g);
        }
    }
    let of = |i: usize, j: usize| -> f32 { (0..w).map(|k| room[i * w + k] * m(j, k)).sum() };
    let mut grads = grads.iter_mut();
    for i in 0..w {
        for (j, grad) in (i + 1..w).zip(&mut grads) {
            *grad = -2.0 * (of(i, j) - of(j, i));
        }
    }
}

impl Turned {
    /// `y ← (1 − t)·y + t·y·Q` in each block, or with `Qᵀ` on the way back. room: of `y`.
    fn turn(&self, own: &Own, at: &At, back: bool, y: &mut Tile, room: &mut [f32]) {
        let (n, width, b, t) = (y.n(), y.c(), block(own), at.strength);
        for (i, room) in room.chunks_exact_mut(width).enumerate() {
            room.copy_from_slice(y.row(i));
        }
        let before = View::new(room, n, width);
        for (cols, q) in blocks(width, b).zip(self.0[at.slot].chunks_exact(b * b)) {
            let (w, before) = (cols.len(), before.cols(cols.clone()));
            let (q, mut y) = (View::new(q, w, w), y.part(0..n, cols));
            if back {
                (at.cx.kernels.dots)(before, q, &mut y);
            } else {
                (0..n).for_each(|i| y.row(i).fill(0.0));
                (at.cx.kernels.sums)(before, q, &mut y);
            }
        }
        if t != 1.0 {
            for i in 0..n {
                y.row(i).iter_mut().zip(before.row(i)).for_each(|(y, before)| *y = before + t * (*y - before));
            }
        }
    }

    fn turn_all(&self, own: &Own, at: &At, back: bool, y: &mut Tile) {
        let (n, c) = (y.n(), y.c());
        at.cx.pool.rows([y.part(0..n, 0..c)], [ROWS], &|_, [mut y], scratch| {
            let room = scratch.floats(y.n() * c);
            self.turn(own, at, back, &mut y, room);
        });
    }
}

impl Rule for Turned {
    fn prepare(&mut self, own: &Own, cx: &Compute, _frozen: &dyn Frozen) -> Result<()> {
        let b = block(own);
        self.0.resize(own.shape.slots.len(), Vec::new());
        for (i, (slot, all)) in own.shape.slots.iter().zip(&mut self.0).enumerate() {
            let (width, skew) = (slot.shape[0], own.part(i, 0));
            let n = width.div_ceil(b);
            all.resize(n * b * b, 0.0);
            cx.pool.rows([Tile::new(all, n, b * b)], [ROWS], &|part, [mut all], scratch| {
                for k in 0..all.n() {
                    let first = part * ROWS + k;
                    let w = b.min(width - first * b);
                    let skew = &skew[first * pairs(b)..][..pairs(w)];
                    cayley(skew, w, scratch.floats(2 * w * w), &mut all.row(k)[..w * w]);
                }
            });
        }
        Ok(())
    }

    fn forward(&self, own: &Own, at: &At, _x: View, y: &mut Tile, _scratch: &mut Buffer) {
        self.turn_all(own, at, false, y);
    }

    fn backward(&self, own: &Own, at: &At, seen: &Seen, dy: &mut [f32], into: Into, _scratch: &mut Buffer) {
        let (y0, b) = (seen.output(), block(own));
        let (n, width) = (y0.n, y0.c);
        if let Some(acc) = into.acc {
            let after = View::new(dy, n, width);
            let sums = &mut acc[sums_of(own, at.slot)];
            at.cx.pool.rows([Tile::new(sums, width.div_ceil(b), b * b)], [ROWS], &|part, [mut sums], scratch| {
                for k in 0..sums.n() {
                    let start = (part * ROWS + k) * b;
                    let cols = start..width.min(start + b);
                    let w = cols.len();
                    let sum = &mut sums.row(k)[..w * w];
                    // Row after row onto what is there: which rows are together changes no bit.
                    for first in (0..n).step_by(ROWS) {
                        let rows = first..n.min(first + ROWS);
                        let before = scratch.floats(rows.len() * w);
                        for (i, before) in rows.clone().zip(before.chunks_exact_mut(w)) {
                            let own = &y0.row(i)[cols.clone()];
                            before.iter_mut().zip(own).for_each(|(before, y)| *before = at.strength * y);
                        }
                        let (before, after) = (View::new(before, rows.len(), w), after.rows(rows).cols(cols.clone()));
                        (at.cx.kernels.outer)(before, after, &mut Tile::new(sum, w, w));
                    }
                }
            });
        }
        self.turn_all(own, at, true, &mut Tile::new(dy, n, width));
    }

    fn reduce(&self, own: &Own, cx: &Compute, _frozen: &dyn Frozen, acc: &[f32], grads: &mut [f32]) {
        let b = block(own);
        for (i, (slot, all)) in own.shape.slots.iter().zip(&self.0).enumerate() {
            let (width, acc) = (slot.shape[0], &acc[sums_of(own, i)]);
            let (whole, rest) = grads[own.range(i, 0)].split_at_mut(width / b * pairs(b));
            let one = |k: usize, w: usize, room: &mut [f32], grads: &mut [f32]| {
                let own = k * b * b..k * b * b + w * w;
                cayley_backward(&all[own.clone()], &acc[own], w, room, grads);
            };
            cx.pool.rows([Tile::new(whole, width / b, pairs(b))], [ROWS], &|part, [mut grads], scratch| {
                (0..grads.n()).for_each(|k| one(part * ROWS + k, b, scratch.floats(b * b), grads.row(k)));
            });
            let w = width % b;
            if w > 1 {
                one(width / b, w, &mut vec![0.0; w * w], rest);
            }
        }
    }

    fn bakes(&self, _place: Place) -> bool {
        true
    }

    fn bake(&self, own: &Own, at: &At, _rows: Range<usize>, w: &mut Tile) {
        let mut room = vec![0.0; w.n() * w.c()];
        self.turn(own, at, true, w, &mut room);
    }
}
