//! Norms, biases and scales of the frozen model (LLaMA-Adapter V2, arXiv:2304.15010; BitFit, arXiv:2106.10199): these
//! are trained, the matrices stay frozen.
//!
//! ```text
//! y = W·(x ∘ γ) + β     γ starts at 1, β at 0, for every linear layer
//! y = norm(x) ∘ γ       γ starts at 1, for every norm; it also scales the norm's bias, if there is one
//! ```
//! Strength `t`: `1 + t (γ − 1)` and `t β`.

use crate::adapter::direct::{self, Direct, Own, Plan, Rule, scale, scale_backward};
use crate::adapter::{At, Into, Kind, Needs, NewPart, Place, Seen, Shape, Start};
use crate::kernel::{Buffer, Tile, View};
use crate::knob::{Domain, Knob, Setting};
use crate::role::{Role, TensorKind as Tensor};
use std::prelude::v1::*;

/// The trained tensors.
static PART: Knob = Knob {
    name: "part",
    about: "Tensors that are trained",
    metavar: "WHAT",
    domain: Domain::Word(|| vec!["all", "norms", "biases", "scales"]),
};

/// Its row.
pub static KIND: Kind = Kind {
    name: "unlock",
    about: "gains of norms, and biases and scales of linear layers",
    rate: 1e-2,
    knobs: &[Setting::word(&PART, "all")],
    targets: &Role::LINEAR,
    shape: |spec, base| direct::shape(spec, base, &PLAN),
    create: |spec, base| Direct::create(spec, base, &PLAN, Unlocked),
    read: |stored| Direct::read(stored, &PLAN, Unlocked),
    sections: &[],
    grown: &[],
    codec: None,
    size: None,
};

static PLAN: Plan = Plan {
    kind: &KIND,
    places: |spec, values, base| {
        let wanted = |part: &str| ["all", part].contains(&values.word(PART.name));
        let (sites, blocks, mut places) = (spec.sites(base)?, spec.blocks(base)?, Vec::new());
        if wanted("scales") {
            places.extend(sites.iter().map(|site| Place::Input(*site)));
        }
        if wanted("biases") {
            places.extend(sites.iter().map(|site| Place::Site(*site)));
        }
        if wanted("norms") {
            places.extend(base.norms().filter(|site| blocks.contains(&site.layer)).map(Place::Site));
        }
        Ok(places)
    },
    stands: |place| matches!(place, Place::Site(_) | Place::Input(_)),
    shape: |places, _, _| {
        let scales = Needs { output: true, rescales: true, ..Needs::default() };
        let needs = |place| if is_bias(place) { Needs::default() } else { scales };
        Ok(Shape::build(places, needs, |place, [_, width]| match is_bias(place) {
            true => vec![NewPart::new("bias", 1, width, Start::Zero)],
            false => vec![NewPart::new("scale", 1, width, Start::One)],
        }))
    },
};

fn is_bias(place: Place) -> bool {
    matches!(place, Place::Site(site) if site.role.row().kind == Tensor::Matrix)
}

struct Unlocked;

impl Rule for Unlocked {
    fn forward(&self, own: &Own, at: &At, _x: View, y: &mut Tile, _scratch: &mut Buffer) {
        let part = own.part(at.slot, 0);
        if !is_bias(at.place) {
            return scale(part, at.strength, y);
        }
        for i in 0..y.n() {
            y.row(i).iter_mut().zip(part).for_each(|(y, b)| *y += at.strength * b);
        }
    }

    fn backward(&self, own: &Own, at: &At, seen: &Seen, dy: &mut [f32], into: Into, _scratch: &mut Buffer) {
        let part = own.part(at.slot, 0);
        let grads = into.acc.map(|acc| &mut acc[own.range(at.slot, 0)]);
        if !is_bias(at.place) {
            return scale_backward(part, at.strength, seen.output(), dy, grads);
        }
        if let Some(grads) = grads {
            for dy in dy.chunks_exact(part.len()) {
                grads.iter_mut().zip(dy).for_each(|(g, dy)| *g += at.strength * dy);
            }
        }
    }
}
