//! DoRA (arXiv:2402.09353): a low-rank change of a matrix's direction, and a trained magnitude for each of its rows.
//!
//! ```text
//! y = m / ‖W + s·B·A‖ ∘ (W·x + s·B·A·x)      the norm is of each row, and held fixed within a step (section 4.3)
//! ```
//! A bias of the base is added to this unchanged. `m` starts at `‖W‖`. With strength `t`, `s` is multiplied by `t` and `m`
//! becomes `‖W‖ + t (m − ‖W‖)`: 0 is the base.
//! `‖w + s·b·A‖² = ‖w‖² + 2s·b·(A·w) + s²·b·(A·Aᵀ)·bᵀ`, so the same terms work for every strength.

use crate::adapter::direct::{self, Direct, Own, Plan, Rule};
use crate::adapter::lowrank::{self, Slot};
use crate::adapter::spec::{ALPHA, LOW_RANK, RANK, STABILISED};
use crate::adapter::{At, Base, Frozen, Group, Into, Kind, Needs, NewPart, Place, Seen, Shape, Site, Start};
use crate::bytes::Limits;
use crate::error::{Error, Result};
use crate::kernel::{Buffer, Compute, Tile, View};
use crate::knob::Values;
use crate::math;
use crate::quant::Matrix;
use crate::rng::Stream;
use crate::role::Role;
use core::ops::Range;
use std::prelude::v1::*;

/// Its row.
pub static KIND: Kind = Kind {
    name: "dora",
    about: "a low-rank change of directions and a magnitude for every row; learns a little better than lora",
    rate: 5e-4,
    knobs: &LOW_RANK,
    targets: &Role::LINEAR,
    shape: |spec, base| direct::shape(spec, base, &PLAN),
    create: |spec, base| {
        let lengths = lengths(&direct::shape(spec, base, &PLAN)?, base)?;
        Direct::create(spec, base, &PLAN, Decomposed { lengths, ..Decomposed::default() })
    },
    read: |stored| {
        let values = Values::read(KIND.name, KIND.knobs, stored.head)?;
        Limits::check("rank", values.whole(RANK.name), stored.limits.rank)?;
        // Refuses places that are no products.
        let lengths = lengths(&(PLAN.shape)(stored.places.clone(), &values, stored.base)?, stored.base)?;
        Direct::read(stored, &PLAN, Decomposed { lengths, ..Decomposed::default() })
    },
    sections: &[],
    grown: &[],
    codec: None,
    size: Some(&crate::adapter::spec::RANK),
};

static PLAN: Plan = Plan {
    kind: &KIND,
    places: |spec, _, base| Ok(spec.sites(base)?.into_iter().map(Place::Site).collect()),
    stands: |place| matches!(place, Place::Site(_)),
    shape: |places, values, base| {
        for (place, _) in &places {
            slot(*place, base, values)?;
        }
        let rank = values.whole(RANK.name) as usize;
        let needs = Needs { output: true, rescales: true, input: true, ..Needs::default() };
        let mut shape = Shape::build(
            places,
            |_| needs,
            |_, [n_in, n_out]| {
                let b = NewPart { group: Group::Fast, ..NewPart::new("b", rank, n_out, Start::Zero) };
                vec![NewPart::new("a", rank, n_in, Start::Given), b, NewPart::new("length", 1, n_out, Start::Given)]
            },
        );
        let rows: usize = shape.slots.iter().map(|s| s.shape[1]).sum();
        let widest = |side: usize| shape.slots.iter().map(|s| s.shape[side]).max().unwrap_or(0);
        shape.size.derived = 4 * rows;
        shape.size.scratch = widest(0) + rank * (rank + 1);
        shape.size.row = rank + widest(1);
        Ok(shape)
    },
};

/// The low-rank part at a place, with its factors at offset 0.
fn slot(place: Place, base: &Base, values: &Values) -> Result<Slot> {
    let Place::Site(site) = place else { return Err(Error::unsupported("target of dora", place.to_string())) };
    let (rank, alpha) = (values.whole(RANK.name) as usize, values.real(ALPHA.name) as f32);
    Slot::new(site, base, rank, alpha, values.switch(STABILISED.name))
}

/// Squares of the lengths of the rows of a frozen matrix.
fn squares(w: &Matrix) -> Vec<f32> {
    let mut row = vec![0.0; w.cols];
    let square = |i: usize| {
        w.decode(i, 0..w.cols, &mut row);
        row.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>() as f32
    };
    (0..w.rows).map(square).collect()
}

/// The lengths of the rows of a frozen matrix.
pub(in crate::adapter) fn lengths_of(w: &Matrix) -> Vec<f32> {
    squares(w).into_iter().map(math::sqrt).collect()
}

fn lengths(shape: &Shape, base: &Base) -> Result<Vec<Vec<f32>>> {
    shape.slots.iter().map(|s| Ok(squares(&base.matrix(site(s.place))?))).collect()
}

fn site(place: Place) -> Site {
    match place {
        Place::Site(site) => site,
        other => unreachable!("{other} is no product"),
    }
}

/// Values derived from the frozen rows and the parameters, a list for each slot.
#[derive(Default)]
struct Decomposed {
    /// `‖w‖²` of every row.
    lengths: Vec<Vec<f32>>,
    /// `2 b·(A·w)` and `b·(A·Aᵀ)·bᵀ` of every row.
    terms: Vec<Vec<[f32; 2]>>,
    /// The base's bias of the product; empty if it has none.
    biases: Vec<Vec<f32>>,
}

impl Decomposed {
    /// `‖W + s·B·A‖` of row `j`, and `m` at this strength.
    fn row(&self, own: &Own, at: &At, s: f32, j: usize) -> (f32, f32) {
        let (square, [cross, own_square]) = (self.lengths[at.slot][j], self.terms[at.slot][j]);
        let length = math::sqrt(square);
        let m = length + at.strength * (own.part(at.slot, 2)[j] - length);
        // A row may be zero, and then its `m` is zero too. The minimum length prevents 0 / 0.
        (math::sqrt((square + s * cross + s * s * own_square).max(f32::MIN_POSITIVE)), m)
    }

    /// `m / ‖W + s·B·A‖` of every row.
    fn factors(&self, own: &Own, at: &At, s: f32, out: &mut [f32]) {
        for (j, out) in out.iter_mut().enumerate() {
            let (norm, m) = self.row(own, at, s, j);
            *out = m / norm;
        }
    }

    /// The low-rank part of a slot, over the parameters.
    fn low(&self, own: &Own, slot: usize) -> Slot {
        let shape = own.shape.slots[slot].shape;
        let (rank, alpha) = (own.values.whole(RANK.name) as usize, own.values.real(ALPHA.name) as f32);
        let divisor = if own.values.switch(STABILISED.name) { libm::sqrtf(rank as f32) } else { rank as f32 };
        let start = own.range(slot, 0).start;
        Slot {
            site: site(own.shape.slots[slot].place),
            shape,
            rank,
            alpha,
            factor: alpha / divisor,
            start,
            biased: false,
        }
    }
}

impl Rule for Decomposed {
    fn prepare(&mut self, own: &Own, cx: &Compute, frozen: &dyn Frozen) -> Result<()> {
        self.terms.resize(own.shape.slots.len(), Vec::new());
        self.biases.resize(own.shape.slots.len(), Vec::new());
        for (slot, biases) in own.shape.slots.iter().zip(&mut self.biases) {
            biases.clear();
            biases.extend_from_slice(frozen.bias(site(slot.place)).unwrap_or_default());
        }
        for (i, slot) in own.shape.slots.iter().enumerate() {
            let site = site(slot.place);
            let w = frozen.matrix(site).ok_or_else(|| Error::mismatch(site.to_string(), "a matrix", "none"))?;
            let ([n_in, n_out], rank) = (slot.shape, own.values.whole(RANK.name) as usize);
            let (a, b) = (View::new(own.part(i, 0), rank, n_in), View::new(own.part(i, 1), rank, n_out));
            let mut square = vec![0.0; rank * rank];
            (cx.kernels.dots)(a, a, &mut Tile::new(&mut square, rank, rank));
            let terms = &mut self.terms[i];
            terms.resize(n_out, [0.0; 2]);
            let terms = terms.as_flattened_mut();
            /// Rows of a part.
            const ROWS: usize = 32;
            cx.pool.rows([Tile::new(terms, n_out, 2)], [ROWS], &|part, [mut terms], scratch| {
                let (row, aw) = scratch.floats(n_in + rank).split_at_mut(n_in);
                for k in 0..terms.n() {
                    let j = part * ROWS + k;
                    (cx.kernels.decode)(&w, j..j + 1, 0..n_in, row);
                    (cx.kernels.dots)(View::new(row, 1, n_in), a, &mut Tile::new(aw, 1, rank));
                    let (mut cross, mut own_square) = (0.0, 0.0);
                    for r in 0..rank {
                        cross += 2.0 * b.row(r)[j] * aw[r];
                        let inner: f32 = (0..rank).map(|q| square[r * rank + q] * b.row(q)[j]).sum();
                        own_square += b.row(r)[j] * inner;
                    }
                    terms.row(k).copy_from_slice(&[cross, own_square]);
                }
            });
        }
        Ok(())
    }

    fn forward(&self, own: &Own, at: &At, x: View, y: &mut Tile, scratch: &mut Buffer) {
        let low = self.low(own, at.slot);
        low.forward(&own.params, at, x, y, scratch);
        let s = low.factor * at.strength;
        let factors = scratch.room(low.shape[1]);
        self.factors(own, at, s, factors);
        let bias = &self.biases[at.slot];
        for i in 0..y.n() {
            let row = y.row(i);
            row.iter_mut().zip(bias).for_each(|(y, b)| *y -= b);
            row.iter_mut().zip(&*factors).for_each(|(y, f)| *y *= f);
            crate::nn::add(bias, row);
        }
    }

    fn bakes(&self, place: Place) -> bool {
        matches!(place, Place::Site(_))
    }

    fn bake(&self, own: &Own, at: &At, rows: Range<usize>, w: &mut Tile) {
        let low = self.low(own, at.slot);
        low.bake(&own.params, at, rows.clone(), w);
        for (i, j) in rows.enumerate() {
            let (norm, m) = self.row(own, at, low.factor * at.strength, j);
            w.row(i).iter_mut().for_each(|w| *w *= m / norm);
        }
    }

    /// The bias of the base stays; what adapters before this one made of it is scaled.
    fn bake_bias(&self, own: &Own, at: &At, bias: &mut [f32]) {
        let s = self.low(own, at.slot).factor * at.strength;
        for (j, (bias, base)) in bias.iter_mut().zip(&self.biases[at.slot]).enumerate() {
            let (norm, m) = self.row(own, at, s, j);
            *bias = (*bias - base) * (m / norm) + base;
        }
    }

    fn backward(&self, own: &Own, at: &At, seen: &Seen, dy: &mut [f32], into: Into, scratch: &mut Buffer) {
        let (low, y0) = (self.low(own, at.slot), seen.output());
        let (s, n_out, n) = (low.factor * at.strength, low.shape[1], seen.x.n);
        let mut acc = into.acc;
        if let Some(acc) = &mut acc {
            // W·x + s·B·A·x is recomputed; its product with dy is the gradient of m.
            let mut made = vec![0.0; n * n_out];
            for (i, row) in made.chunks_exact_mut(n_out).enumerate() {
                row.copy_from_slice(y0.row(i));
                row.iter_mut().zip(&self.biases[at.slot]).for_each(|(y, b)| *y -= b);
            }
            low.forward(&own.params, at, seen.x, &mut Tile::new(&mut made, n, n_out), scratch);
            let grads = &mut acc[own.range(at.slot, 2)];
            let inverse = scratch.room(n_out);
            inverse.iter_mut().enumerate().for_each(|(j, v)| *v = at.strength / self.row(own, at, s, j).0);
            for (dy, made) in dy.chunks_exact(n_out).zip(made.chunks_exact(n_out)) {
                grads.iter_mut().zip(dy).zip(made).zip(&*inverse).for_each(|(((g, dy), v), i)| *g += dy * v * i);
            }
        }
        let factors = scratch.room(n_out);
        self.factors(own, at, s, factors);
        for dy in dy.chunks_exact_mut(n_out) {
            dy.iter_mut().zip(&*factors).for_each(|(dy, f)| *dy *= f);
        }
        low.backward(&own.params, at, seen.x, dy, into.dx, acc, scratch);
    }

    /// Lengths that differ only by f16 rounding have not changed.
    fn changes_something(&self, own: &Own) -> bool {
        (0..own.shape.slots.len()).any(|slot| {
            let lengths = own.part(slot, 2).iter().zip(&self.lengths[slot]);
            let moved = |(m, square): (&f32, &f32)| (m - math::sqrt(*square)).abs() > math::sqrt(*square) / 1024.0;
            own.part(slot, 1).iter().any(|b| *b != 0.0) || lengths.into_iter().any(moved)
        })
    }

    fn start(&self, own: &Own, part: usize, out: &mut [f32]) {
        let (place, which) = own.slot_of(part);
        match which {
            0 => {
                Stream::new(own.seed, &place.to_string(), "lora_a").fill_uniform(0, out);
                let bound = lowrank::kaiming(own.shape.parts[part].cols);
                out.iter_mut().for_each(|v| *v *= bound);
            }
            1 => out.fill(0.0),
            _ => {
                let slot = own.shape.slot(place).expect("a place of this adapter");
                out.iter_mut().zip(&self.lengths[slot]).for_each(|(o, square)| *o = math::sqrt(*square));
            }
        }
    }
}
