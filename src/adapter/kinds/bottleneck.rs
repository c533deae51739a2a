//! A serial bottleneck (Houlsby et al., arXiv:1902.00751): the output of a sub-layer goes through a small layer, whose
//! output is added to it.
//!
//! ```text
//! h ← h + t s f(h)
//! ```
//! `f` is `adapter::small`'s layer with ReLU or SiLU (`activation`), `s` a factor, `t` the strength.

use crate::adapter::direct::{self, Direct, Own, Plan, Rule};
use crate::adapter::small::{
    ACTIVATION, FACTOR, Layer, RELU, SIZE, STREAM, changes_something, factor, places, shape, start, width,
};
use crate::adapter::{At, Into, Kind, Needs, Place, Seen};
use crate::kernel::{Buffer, Tile, View};
use crate::knob::Setting;
use crate::role::Role;
use std::prelude::v1::*;

/// Its row.
pub static KIND: Kind = Kind {
    name: "bottleneck",
    about: "small layers after attention and the feed-forward layer",
    rate: 1e-3,
    knobs: &[Setting::whole(&SIZE, 16), Setting::real(&FACTOR, 1.0), Setting::word(&ACTIVATION, RELU).later()],
    targets: &[Role::ConvOut, Role::DeltaOut, Role::O, Role::Down],
    shape: |spec, base| direct::shape(spec, base, &PLAN),
    create: |spec, base| Direct::create(spec, base, &PLAN, Serial),
    read: |stored| Direct::read(stored, &PLAN, Serial),
    sections: &[],
    grown: &[],
    codec: None,
    size: Some(&SIZE),
};

static PLAN: Plan = Plan {
    kind: &KIND,
    places: |spec, _, base| places(spec, base),
    stands: |place| matches!(place, Place::Stream(..)),
    shape: |places, values, _| {
        let needs = Needs { output: true, rescales: true, ..Needs::default() };
        let mut shape = shape(places, values, needs);
        // A copy of the rows that it changes.
        shape.size.row += shape.slots.first().map_or(0, |s| s.shape[1]);
        Ok(shape)
    },
};

struct Serial;

impl Rule for Serial {
    fn forward(&self, own: &Own, at: &At, _x: View, y: &mut Tile, scratch: &mut Buffer) {
        let (n, c) = (y.n(), y.c());
        let (before, h) = scratch.room(n * (c + width(own))).split_at_mut(n * c);
        before.chunks_exact_mut(c).enumerate().for_each(|(i, row)| row.copy_from_slice(y.row(i)));
        Layer::of(at.slot).add(own, at.cx, factor(own, at), View::new(before, n, c), y, h);
    }

    fn backward(&self, own: &Own, at: &At, seen: &Seen, dy: &mut [f32], into: Into, scratch: &mut Buffer) {
        let z = seen.output();
        let (n, c) = (z.n, z.c);
        let (left, room) = scratch.room(n * (c + 2 * width(own))).split_at_mut(n * c);
        left.copy_from_slice(dy);
        let dz = &mut Tile::new(dy, n, c);
        let left = View::new(left, n, c);
        Layer::of(at.slot).backward(own, at.cx, factor(own, at), z, left, Some(dz), into.acc, room);
    }

    fn start(&self, own: &Own, part: usize, out: &mut [f32]) {
        start(own, part, STREAM, out);
    }

    fn changes_something(&self, own: &Own) -> bool {
        changes_something(own)
    }
}
