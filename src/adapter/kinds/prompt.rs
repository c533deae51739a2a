//! Soft prompts (Lester et al., arXiv:2104.08691): trained rows before the text, in place of token embeddings.
//!
//! They start as small random rows. The strength multiplies them; with strength 0 there are no such rows.

use crate::adapter::direct::{self, Direct, Own, Plan, Rule};
use crate::adapter::{At, Into, Kind, Needs, NewPart, Place, Seen, Shape, Start};
use crate::kernel::{Buffer, Tile, View};
use crate::knob::{Domain, Knob, Setting};
use crate::rng::Stream;
use std::prelude::v1::*;

/// Number of rows.
pub(in crate::adapter) static LENGTH: Knob =
    Knob { name: "length", about: "Rows before the text", metavar: "L", domain: Domain::Whole { low: 1, high: 4096 } };

/// The size of the random start, similar to that of token embeddings.
const SPREAD: f32 = 0.05;

/// Its row.
pub static KIND: Kind = Kind {
    name: "prompt",
    about: "trained virtual tokens before the text",
    rate: 3e-2,
    knobs: &[Setting::whole(&LENGTH, 16)],
    targets: &[],
    shape: |spec, base| direct::shape(spec, base, &PLAN),
    create: |spec, base| Direct::create(spec, base, &PLAN, Prompt),
    read: |stored| Direct::read(stored, &PLAN, Prompt),
    sections: &[],
    grown: &[],
    codec: None,
    size: Some(&LENGTH),
};

static PLAN: Plan = Plan {
    kind: &KIND,
    places: |_, _, _| Ok(vec![Place::Rows]),
    stands: |place| place == Place::Rows,
    shape: |places, values, _| {
        let length = values.whole(LENGTH.name) as usize;
        let needs = Needs { rows: length, rescales: true, ..Needs::default() };
        Ok(Shape::build(places, |_| needs, |_, [_, width]| vec![NewPart::new("rows", length, width, Start::Given)]))
    },
};

struct Prompt;

impl Rule for Prompt {
    fn forward(&self, own: &Own, at: &At, _x: View, y: &mut Tile, _scratch: &mut Buffer) {
        let (rows, c) = (own.part(at.slot, 0), y.c());
        for (i, row) in rows.chunks_exact(c).enumerate() {
            y.row(i).iter_mut().zip(row).for_each(|(y, v)| *y = at.strength * v);
        }
    }

    fn backward(&self, own: &Own, at: &At, _seen: &Seen, dy: &mut [f32], into: Into, _scratch: &mut Buffer) {
        if let Some(acc) = into.acc {
            let grads = &mut acc[own.range(at.slot, 0)];
            grads.iter_mut().zip(&*dy).for_each(|(g, dy)| *g += at.strength * dy);
        }
        // The old rows are overwritten, so they have no gradient.
        dy.fill(0.0);
    }

    fn start(&self, own: &Own, _part: usize, out: &mut [f32]) {
        Stream::new(own.seed, "rows", "prompt").fill_uniform(0, out);
        out.iter_mut().for_each(|v| *v *= SPREAD);
    }

    /// Rows before the text change its attention, whatever their values.
    fn changes_something(&self, _own: &Own) -> bool {
        true
    }
}
