//! A side path (Sung et al., arXiv:2206.06522; connected as in arXiv:2208.09847): a small network that runs beside the
//! frozen blocks, reads what each of them makes, and joins the stream behind the last.
//!
//! ```text
//! g_l = φ(D_l·h_l + B_l·z_{l-1} + c_l)        h_l [N, width] the output of block l, D [b, width], B [b, b]
//! z_l = z_{l-1} + W_l·g_l + e_l               z [N, b], W [b, b]
//! h_L ← h_L + t U·z_L                         U [width, b]
//! ```
//! `φ` is ReLU, `t` the strength, z before the first block 0. That start is this project's: the path may also begin with the
//! embedded tokens. D, B and W start uniform in ±1/√in, the rest at zero, so that a new adapter adds nothing. D·h and B·z
//! together are a layer's input [D·h ; z] through the first matrix of its bottleneck; that matrix times D is one D here.
//!
//! No block depends on its parameters, so training has no backward pass through blocks and keeps none of their activations:
//! it keeps z and g of every block, and runs the blocks twice. B, W and U are stored transposed.

use crate::adapter::direct::{self, Direct, Own, Plan, Rule};
use crate::adapter::lowrank::{add_outer, add_products, kaiming, products};
use crate::adapter::place::Shaped;
use crate::adapter::small::SIZE;
use crate::adapter::{At, Into, Kind, Needs, NewPart, Place, Seen, Shape, Start};
use crate::kernel::{Buffer, Tile, View};
use crate::knob::{Setting, Values};
use crate::rng::Stream;
use std::prelude::v1::*;

/// Its row.
pub static KIND: Kind = Kind {
    name: "side",
    about: "a small network beside the frozen blocks, trained without a backward pass through them",
    rate: 3e-3,
    knobs: &[Setting::whole(&SIZE, 16)],
    targets: &[],
    shape: |spec, base| direct::shape(spec, base, &PLAN),
    create: |spec, base| Direct::create(spec, base, &PLAN, Side),
    read: |stored| Direct::read(stored, &PLAN, Side),
    sections: &[],
    grown: &[],
    codec: None,
    size: Some(&SIZE),
};

static PLAN: Plan = Plan {
    kind: &KIND,
    places: |spec, _, base| Ok(spec.blocks(base)?.into_iter().map(Place::State).chain([Place::Join]).collect()),
    stands: |place| matches!(place, Place::State(_) | Place::Join),
    shape: |places, values, _| Ok(shape(places, values)),
};

/// A state is z and, behind it, g of the last block.
fn shape(places: Vec<Shaped>, values: &Values) -> Shape {
    let b = values.whole(SIZE.name) as usize;
    let widths = |(place, [n_in, n_out]): Shaped| match place {
        Place::Join => (place, [2 * b, n_out]),
        _ => (place, [n_in, 2 * b]),
    };
    let needs = |place| match place {
        Place::Join => Needs { input: true, aside: true, ..Needs::default() },
        _ => Needs { input: true, output: true, rescales: true, aside: true, state: 2 * b, ..Needs::default() },
    };
    let parts = |place, [n_in, n_out]: [usize; 2]| match place {
        Place::Join => vec![NewPart::new("join", b, n_out, Start::Zero)],
        _ => vec![
            NewPart::new("down", b, n_in, Start::Given),
            NewPart::new("along", b, b, Start::Given),
            NewPart::new("down bias", 1, b, Start::Zero),
            NewPart::new("up", b, b, Start::Given),
            NewPart::new("up bias", 1, b, Start::Zero),
        ],
    };
    let mut shape = Shape::build(places.into_iter().map(widths).collect(), needs, parts);
    shape.size.row = 2 * b;
    shape
}

struct Side;

/// The width of z.
fn width(own: &Own) -> usize {
    own.values.whole(SIZE.name) as usize
}

/// `sums += Σ rows`
fn add_rows(rows: View, sums: &mut [f32]) {
    (0..rows.n).for_each(|i| crate::nn::add(rows.row(i), sums));
}

/// The strength times z, of states.
fn scaled(x: View, b: usize, t: f32, z: &mut [f32]) {
    for (i, z) in z.chunks_exact_mut(b).enumerate() {
        z.iter_mut().zip(x.row(i)).for_each(|(z, x)| *z = t * x);
    }
}

impl Rule for Side {
    fn forward(&self, own: &Own, at: &At, x: View, y: &mut Tile, scratch: &mut Buffer) {
        let (n, b) = (y.n(), width(own));
        let part = |i| own.part(at.slot, i);
        let (z, g) = scratch.room(2 * n * b).split_at_mut(n * b);
        if at.place == Place::Join {
            scaled(x, b, at.strength, z);
            return add_products(at.cx, View::new(z, n, b), View::new(part(0), b, y.c()), y);
        }
        z.chunks_exact_mut(b).enumerate().for_each(|(i, z)| z.copy_from_slice(&y.row(i)[..b]));
        products(at.cx, x, View::new(part(0), b, x.c), 1.0, g);
        add_products(at.cx, View::new(z, n, b), View::new(part(1), b, b), &mut Tile::new(g, n, b));
        for (i, g) in g.chunks_exact_mut(b).enumerate() {
            g.iter_mut().zip(part(2)).for_each(|(g, c)| *g = (*g + c).max(0.0));
            let (z, last) = y.row(i).split_at_mut(b);
            crate::nn::add(part(4), z);
            last[..b].copy_from_slice(g);
        }
        add_products(at.cx, View::new(g, n, b), View::new(part(3), b, b), &mut y.part(0..n, 0..b));
    }

    fn backward(&self, own: &Own, at: &At, seen: &Seen, dy: &mut [f32], into: Into, scratch: &mut Buffer) {
        let (x, n, b) = (seen.x, seen.x.n, width(own));
        let part = |i| View::new(own.part(at.slot, i), b, own.part(at.slot, i).len() / b);
        let range = |i| own.range(at.slot, i);
        let c = dy.len() / n.max(1);
        let (dg, more) = scratch.room(2 * n * b).split_at_mut(n * b);
        if at.place == Place::Join {
            let dy = View::new(dy, n, c);
            if let Some(acc) = into.acc {
                scaled(x, b, at.strength, more);
                add_outer(at.cx, View::new(more, n, b), dy, &mut acc[range(0)]);
            }
            if let Some(dx) = into.dx {
                products(at.cx, dy, part(0), at.strength, more);
                more.chunks_exact(b).enumerate().for_each(|(i, dz)| crate::nn::add(dz, &mut dx.row(i)[..b]));
            }
            return;
        }
        let dz = View::strided(dy, n, b, c);
        let g = seen.changed().cols(b..2 * b);
        products(at.cx, dz, part(3), 1.0, dg);
        for (i, dg) in dg.chunks_exact_mut(b).enumerate() {
            crate::nn::add(&dy[i * c + b..][..b], dg);
            // The ReLU passes no gradient where its output is zero.
            dg.iter_mut().zip(g.row(i)).filter(|(_, g)| **g == 0.0).for_each(|(dg, _)| *dg = 0.0);
        }
        let dg = View::new(dg, n, b);
        if let Some(acc) = into.acc.filter(|_| x.c > 0) {
            add_outer(at.cx, dg, x, &mut acc[range(0)]);
            add_outer(at.cx, seen.output().cols(0..b), dg, &mut acc[range(1)]);
            add_rows(dg, &mut acc[range(2)]);
            add_outer(at.cx, g, dz, &mut acc[range(3)]);
            add_rows(dz, &mut acc[range(4)]);
        }
        if let Some(dx) = into.dx {
            add_products(at.cx, dg, part(0), dx);
        }
        products(at.cx, dg, part(1), 1.0, more);
        for (dy, more) in dy.chunks_exact_mut(c).zip(more.chunks_exact(b)) {
            crate::nn::add(more, &mut dy[..b]);
            // g is made anew in every block.
            dy[b..].fill(0.0);
        }
    }

    fn start(&self, own: &Own, part: usize, out: &mut [f32]) {
        let (place, which) = own.slot_of(part);
        let of = &own.shape.parts[part];
        if of.start != Start::Given {
            return own.constant(part, out);
        }
        // B and W are square, so that a row stored has as many values as one of the matrix.
        Stream::new(own.seed, &place.to_string(), ["side down", "side along", "", "side up"][which])
            .fill_uniform(0, out);
        let bound = kaiming(of.cols);
        out.iter_mut().for_each(|v| *v *= bound);
    }

    fn changes_something(&self, own: &Own) -> bool {
        let joins = |slot: &usize| own.shape.slots[*slot].place == Place::Join;
        (0..own.shape.slots.len()).filter(joins).any(|slot| own.part(slot, 0).iter().any(|v| *v != 0.0))
    }
}
