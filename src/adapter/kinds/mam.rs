//! Mix-and-match (He et al., arXiv:2110.04366): a [`super::prefix`] at attention and a scaled
//! [`super::parallel`] bottleneck beside the feed-forward layer, as one adapter.
//!
//! ```text
//! o ← Σ over text and prefix of e^{s} v / Σ e^{s}        P [L, width of keys] for keys and for values, in every block
//! h ← h + t s f(x)                                       s = 4, f of width b
//! ```
//! The paper has L = 30 and b = 512 for a width of 1024; the defaults are smaller, since L and b follow the width. The
//! strength is that of both kinds.

use super::{parallel, prefix};
use crate::adapter::direct::{self, Direct, Own, Plan, Rule};
use crate::adapter::small::{self, ACTIVATION, FACTOR, RELU, SIZE};
use crate::adapter::{At, Frozen, Into, Kind, Place, Seen};
use crate::error::Result;
use crate::kernel::{Buffer, Compute, Tile, View};
use crate::knob::Setting;
use crate::role::Role;
use std::prelude::v1::*;

/// Its row.
pub static KIND: Kind = Kind {
    name: "mam",
    about: "a prefix in every block, and small layers beside the feed-forward layer",
    rate: 3e-3,
    knobs: &[
        Setting::whole(&prefix::LENGTH, 8),
        Setting::whole(&prefix::OFFSET, 0),
        Setting::whole(&SIZE, 16),
        Setting::real(&FACTOR, 4.0),
        Setting::word(&ACTIVATION, RELU),
    ],
    targets: &[Role::Down],
    shape: |spec, base| direct::shape(spec, base, &PLAN),
    create: |spec, base| Direct::create(spec, base, &PLAN, Both::default()),
    read: |stored| Direct::read(stored, &PLAN, Both::default()),
    sections: &[],
    grown: &[],
    codec: None,
    size: Some(&SIZE),
};

static PLAN: Plan = Plan {
    kind: &KIND,
    places: |spec, values, base| {
        let mut places = (prefix::PLAN.places)(spec, values, base)?;
        places.extend((parallel::PLAN.places)(spec, values, base)?);
        Ok(places)
    },
    stands: |place| (prefix::PLAN.stands)(place) || (parallel::PLAN.stands)(place),
    shape: |places, values, base| {
        // Places of attention sort before those of the stream.
        let (attention, stream) = places.into_iter().partition(|(place, _)| (prefix::PLAN.stands)(*place));
        let prefix = (prefix::PLAN.shape)(attention, values, base)?;
        Ok(prefix.followed_by((parallel::PLAN.shape)(stream, values, base)?))
    },
};

#[derive(Default)]
struct Both {
    prefix: prefix::Prefix,
}

impl Both {
    /// The rule of a place.
    fn rule(&self, place: Place) -> &dyn Rule {
        if (prefix::PLAN.stands)(place) { &self.prefix } else { &parallel::Parallel }
    }
}

impl Rule for Both {
    fn prepare(&mut self, own: &Own, cx: &Compute, frozen: &dyn Frozen) -> Result<()> {
        self.prefix.prepare(own, cx, frozen)
    }

    fn forward(&self, own: &Own, at: &At, x: View, y: &mut Tile, scratch: &mut Buffer) {
        self.rule(at.place).forward(own, at, x, y, scratch);
    }

    fn backward(&self, own: &Own, at: &At, seen: &Seen, dy: &mut [f32], into: Into, scratch: &mut Buffer) {
        self.rule(at.place).backward(own, at, seen, dy, into, scratch);
    }

    fn reduce(&self, own: &Own, cx: &Compute, frozen: &dyn Frozen, acc: &[f32], grads: &mut [f32]) {
        self.prefix.reduce(own, cx, frozen, acc, grads);
    }

    fn start(&self, own: &Own, part: usize, out: &mut [f32]) {
        self.rule(own.slot_of(part).0).start(own, part, out);
    }

    /// A prefix changes attention, whatever its values; a file may have small layers alone.
    fn changes_something(&self, own: &Own) -> bool {
        own.shape.slots.iter().any(|slot| (prefix::PLAN.stands)(slot.place)) || small::changes_something(own)
    }
}
