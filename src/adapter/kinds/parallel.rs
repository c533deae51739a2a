//! A parallel bottleneck (He et al., arXiv:2110.04366): a small layer beside a sub-layer. It has the same input; its
//! output, times a factor, is added to that of the sub-layer.
//!
//! ```text
//! h ← h + t s f(x)
//! ```
//! `f` is `adapter::small`'s layer with ReLU or SiLU (`activation`), `s` a factor, 4 by default as in the paper, `t` the strength.

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
    name: "parallel",
    about: "small layers beside the feed-forward layer, added with a factor",
    rate: 1e-3,
    knobs: &[Setting::whole(&SIZE, 16), Setting::real(&FACTOR, 4.0), Setting::word(&ACTIVATION, RELU).later()],
    targets: &[Role::Down],
    shape: |spec, base| direct::shape(spec, base, &PLAN),
    create: |spec, base| Direct::create(spec, base, &PLAN, Parallel),
    read: |stored| Direct::read(stored, &PLAN, Parallel),
    sections: &[],
    grown: &[],
    codec: None,
    size: Some(&SIZE),
};

pub(super) static PLAN: Plan = Plan {
    kind: &KIND,
    places: |spec, _, base| places(spec, base),
    stands: |place| matches!(place, Place::Stream(..)),
    shape: |places, values, _| Ok(shape(places, values, Needs { input: true, ..Needs::default() })),
};

pub(super) struct Parallel;

impl Rule for Parallel {
    fn forward(&self, own: &Own, at: &At, x: View, y: &mut Tile, scratch: &mut Buffer) {
        Layer::of(at.slot).add(own, at.cx, factor(own, at), x, y, scratch.room(x.n * width(own)));
    }

    fn backward(&self, own: &Own, at: &At, seen: &Seen, dy: &mut [f32], into: Into, scratch: &mut Buffer) {
        let (x, room) = (seen.x, scratch.room(2 * seen.x.n * width(own)));
        let dy = View::new(dy, x.n, dy.len() / x.n);
        Layer::of(at.slot).backward(own, at.cx, factor(own, at), x, dy, into.dx, into.acc, room);
    }

    fn start(&self, own: &Own, part: usize, out: &mut [f32]) {
        start(own, part, STREAM, out);
    }

    fn changes_something(&self, own: &Own) -> bool {
        changes_something(own)
    }
}
