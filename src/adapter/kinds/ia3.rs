//! (IA)³ (arXiv:2205.05638): keys, values and the input of the down projection are multiplied by trained vectors.
//!
//! ```text
//! k ← l_k ∘ k,  v ← l_v ∘ v,  h ← l_ff ∘ h      l starts at 1; strength t: 1 + t (l − 1)
//! ∂L/∂l = t Σ dy ∘ y0
//! ```

use crate::adapter::direct::{self, Direct, Own, Plan, Rule, scale, scale_backward};
use crate::adapter::{At, Into, Kind, Needs, NewPart, Place, Seen, Shape, Start};
use crate::kernel::{Buffer, Tile, View};
use crate::role::{Role, TensorKind};
use core::ops::Range;
use std::prelude::v1::*;

/// Its row.
pub static KIND: Kind = Kind {
    name: "ia3",
    about: "a factor for each channel of keys, values and the feed-forward layer; a few kilobytes",
    rate: 2e-2,
    knobs: &[],
    targets: &[Role::K, Role::V, Role::Down],
    shape: |spec, base| direct::shape(spec, base, &PLAN),
    create: |spec, base| Direct::create(spec, base, &PLAN, Scaling),
    read: |stored| Direct::read(stored, &PLAN, Scaling),
    sections: &[],
    grown: &[],
    codec: None,
    size: None,
};

static PLAN: Plan = Plan {
    kind: &KIND,
    // The output and down projections have their inputs scaled, as in the paper; the others their outputs.
    places: |spec, _, base| {
        let place = |site: crate::adapter::Site| match site.role {
            Role::O | Role::Down => Place::Input(site),
            _ => Place::Site(site),
        };
        Ok(spec.sites(base)?.into_iter().map(place).collect())
    },
    stands: |place| match place {
        Place::Site(site) => site.role.row().kind == TensorKind::Matrix,
        place => matches!(place, Place::Input(_)),
    },
    shape: |places, _, _| {
        let needs = Needs { output: true, rescales: true, ..Needs::default() };
        Ok(Shape::build(places, |_| needs, |_, [_, width]| vec![NewPart::new("scale", 1, width, Start::One)]))
    },
};

struct Scaling;

impl Rule for Scaling {
    fn forward(&self, own: &Own, at: &At, _x: View, y: &mut Tile, _scratch: &mut Buffer) {
        scale(own.part(at.slot, 0), at.strength, y);
    }

    fn bakes(&self, _place: Place) -> bool {
        true
    }

    fn bake(&self, own: &Own, at: &At, rows: Range<usize>, w: &mut Tile) {
        let (part, t) = (own.part(at.slot, 0), at.strength);
        if let Place::Input(_) = at.place {
            return scale(part, t, w);
        }
        for (i, g) in part[rows].iter().enumerate() {
            w.row(i).iter_mut().for_each(|w| *w *= 1.0 + t * (g - 1.0));
        }
    }

    fn bake_bias(&self, own: &Own, at: &At, bias: &mut [f32]) {
        let c = bias.len();
        scale(own.part(at.slot, 0), at.strength, &mut Tile::new(bias, 1, c));
    }

    fn backward(&self, own: &Own, at: &At, seen: &Seen, dy: &mut [f32], into: Into, _scratch: &mut Buffer) {
        let dg = into.acc.map(|acc| &mut acc[own.range(at.slot, 0)]);
        scale_backward(own.part(at.slot, 0), at.strength, seen.output(), dy, dg);
    }
}
