//! An invertible adapter (MAD-X, Pfeiffer et al., arXiv:2005.00052): embedded tokens go through two couplings, and the rows
//! before the output matrix through their inverse.
//!
//! ```text
//! e = [e1; e2]     e1' = e1 + t s F(e2),  e2' = e2 + t s H(e1')      after the embedding
//!                  e2 = e2' − t s H(e1'), e1 = e1' − t s F(e2)       before the output matrix
//! ```
//! `e1` is the first half of the channels, rounded down. `F` and `H` are `adapter::small`'s layers, `s` a factor, `t` the
//! strength. Both places have the same parameters. The second coupling sees what the first one did, so that the change is
//! not proportional to the strength; each strength has its exact inverse.

use crate::adapter::direct::{self, Direct, Own, Plan, Rule};
use crate::adapter::small::{ACTIVATION, FACTOR, Layer, RELU, SIZE, changes_something, factor, parts, start, width};
use crate::adapter::{At, Frozen, Into, Kind, Needs, Place, Seen, Shape};
use crate::error::Error;
use crate::kernel::{Buffer, Compute, Tile, View};
use crate::knob::Setting;
use core::ops::Range;
use std::prelude::v1::*;

/// Its row.
pub static KIND: Kind = Kind {
    name: "invertible",
    about: "an invertible change of embedded tokens, undone before the output",
    rate: 1e-3,
    knobs: &[Setting::whole(&SIZE, 64), Setting::real(&FACTOR, 1.0), Setting::word(&ACTIVATION, RELU)],
    targets: &[],
    shape: |spec, base| direct::shape(spec, base, &PLAN),
    create: |spec, base| Direct::create(spec, base, &PLAN, Couplings),
    read: |stored| Direct::read(stored, &PLAN, Couplings),
    sections: &[],
    grown: &[],
    codec: None,
    size: Some(&SIZE),
};

/// The places: the couplings, with their parameters, and the inverse.
const PLACES: [Place; 2] = [Place::Embedding, Place::Final];

static PLAN: Plan = Plan {
    kind: &KIND,
    places: |_, _, _| Ok(PLACES.into()),
    stands: |place| PLACES.contains(&place),
    shape: |places, values, base| {
        let (b, c) = (values.whole(SIZE.name) as usize, base.width);
        if places.len() != PLACES.len() {
            return Err(Error::mismatch("targets of an invertible adapter", "embedding and final", places.len()));
        }
        if c < 2 {
            return Err(Error::mismatch("width of the base of an invertible adapter", "2 or more", c));
        }
        let needs = Needs { output: true, rescales: true, ..Needs::default() };
        let two = |place, _: [usize; 2]| match place {
            Place::Embedding => {
                [parts(b, c - c / 2, c / 2), parts(b, c / 2, c - c / 2)].into_iter().flatten().collect()
            }
            _ => Vec::new(),
        };
        let mut shape = Shape::build(places, |_| needs, two);
        // The rows between the couplings, the gradient of a half, and the small layer.
        shape.size.row = c + c.div_ceil(2) + 2 * b;
        // Each place has sums of its own, whose order does not depend on which rows are together.
        shape.size.gathered = PLACES.len() * shape.size.params;
        Ok(shape)
    },
};

struct Couplings;

/// One coupling: a layer, the channels that it reads, and those that it adds to.
type Coupling = (Layer, Range<usize>, Range<usize>);

/// The couplings of a place in their order, and their sign.
fn couplings(place: Place, c: usize) -> ([Coupling; 2], f32) {
    let (low, high) = (0..c / 2, c / 2..c);
    let f = (Layer { slot: 0, first: 0 }, high.clone(), low.clone());
    let h = (Layer { slot: 0, first: 4 }, low, high);
    if place == Place::Embedding { ([f, h], 1.0) } else { ([h, f], -1.0) }
}

/// `y[to] += s f(y[from])`. z: `[N, half]`, h: `[N, b]`, scratch.
fn couple(own: &Own, at: &At, s: f32, (layer, from, to): &Coupling, y: &mut Tile, z: &mut [f32], h: &mut [f32]) {
    let (n, half) = (y.n(), from.len());
    let z = &mut z[..n * half];
    z.chunks_exact_mut(half).enumerate().for_each(|(i, z)| z.copy_from_slice(&y.row(i)[from.clone()]));
    layer.add(own, at.cx, s, View::new(z, n, half), &mut y.part(0..n, to.clone()), h);
}

impl Rule for Couplings {
    fn forward(&self, own: &Own, at: &At, _x: View, y: &mut Tile, scratch: &mut Buffer) {
        let (n, c) = (y.n(), y.c());
        let (couplings, sign) = couplings(at.place, c);
        let (z, h) = scratch.room(n * (c.div_ceil(2) + width(own))).split_at_mut(n * c.div_ceil(2));
        couplings.iter().for_each(|one| couple(own, at, sign * factor(own, at), one, y, z, h));
    }

    fn backward(&self, own: &Own, at: &At, seen: &Seen, dy: &mut [f32], into: Into, scratch: &mut Buffer) {
        let y0 = seen.output();
        let (n, c, b) = (y0.n, y0.c, width(own));
        let (couplings, sign) = couplings(at.place, c);
        let s = sign * factor(own, at);
        let (y, rest) = scratch.room(n * (c + c.div_ceil(2) + 2 * b)).split_at_mut(n * c);
        let (half, room) = rest.split_at_mut(n * c.div_ceil(2));
        y.chunks_exact_mut(c).enumerate().for_each(|(i, y)| y.copy_from_slice(y0.row(i)));
        couple(own, at, s, &couplings[0], &mut Tile::new(y, n, c), half, &mut room[..n * b]);
        let y = View::new(y, n, c);
        let each = own.params.len();
        let mut acc = into.acc.map(|acc| &mut acc[at.slot * each..][..each]);
        // What a coupling reads it leaves as it is: the second one's rows are still there, and so are the first one's.
        for (layer, from, to) in couplings.into_iter().rev() {
            let left = &mut half[..n * to.len()];
            for (left, dy) in left.chunks_exact_mut(to.len()).zip(dy.chunks_exact(c)) {
                left.copy_from_slice(&dy[to.clone()]);
            }
            let (z, left) = (y.cols(from.clone()), View::new(left, n, to.len()));
            let mut whole = Tile::new(dy, n, c);
            let mut dz = whole.part(0..n, from);
            layer.backward(own, at.cx, s, z, left, Some(&mut dz), acc.as_deref_mut(), room);
        }
    }

    fn reduce(&self, _own: &Own, _cx: &Compute, _frozen: &dyn Frozen, acc: &[f32], grads: &mut [f32]) {
        let (first, second) = acc.split_at(grads.len());
        grads.iter_mut().zip(first).zip(second).for_each(|((g, a), b)| *g = a + b);
    }

    fn start(&self, own: &Own, part: usize, out: &mut [f32]) {
        let stream = if own.slot_of(part).1 < 4 { "coupling f" } else { "coupling h" };
        start(own, part, stream, out);
    }

    fn changes_something(&self, own: &Own) -> bool {
        changes_something(own)
    }
}
