//! The small feed-forward layer of bottleneck adapters in the residual stream, shared by their kinds.
//!
//! ```text
//! f(z) = U·φ(D·z + d) + u     D [b, in], U [out, b] stored transposed, φ = ReLU
//! ```
//! D starts uniform in ±1/√in and the rest at zero, so that a new adapter adds nothing.

use super::direct::Own;
use super::lowrank::{add_outer, add_products, kaiming, products};
use super::place::Shaped;
use super::{At, Base, Needs, NewPart, Place, Shape, Site, Spec, Spot, Start};
use crate::error::{Error, Result};
use crate::kernel::{Tile, View};
use crate::knob::{Domain, Knob, Values};
use crate::rng::Stream;
use crate::role::Role;
use std::prelude::v1::*;

/// Width of the small layer.
pub static SIZE: Knob = Knob {
    name: "size",
    about: "Width of the small layer",
    metavar: "B",
    domain: Domain::Whole { low: 1, high: 65_536 },
};

/// The factor of its output.
pub static FACTOR: Knob = Knob {
    name: "factor",
    about: "Factor of the adapter's change",
    metavar: "S",
    domain: Domain::Real { low: 1e-6, high: 1e6 },
};

/// The outputs of the sub-layers whose last products are named.
pub fn places(spec: &Spec, base: &Base) -> Result<Vec<Place>> {
    let place = |site: Site| match site.role {
        Role::O | Role::ConvOut | Role::DeltaOut => Ok(Place::Stream(site.layer, Spot::Attention)),
        Role::Down => Ok(Place::Stream(site.layer, Spot::FeedForward)),
        other => {
            let why = format!("{}; o, conv_out and down can be used, the last products of sub-layers", other.row().short);
            Err(Error::invalid("targets", why))
        }
    };
    spec.sites(base)?.into_iter().map(place).collect()
}

/// The small layer's parts, and its needs in the passes.
pub fn shape(places: Vec<Shaped>, values: &Values, needs: Needs) -> Shape {
    let b = values.whole(SIZE.name) as usize;
    let mut shape = Shape::build(
        places,
        |_| needs,
        |_, [n_in, n_out]| {
            vec![
                NewPart::new("down", b, n_in, Start::Given),
                NewPart::new("down bias", 1, b, Start::Zero),
                NewPart::new("up", b, n_out, Start::Zero),
                NewPart::new("up bias", 1, n_out, Start::Zero),
            ]
        },
    );
    shape.size.row = 2 * b;
    shape
}

/// `φ(D·z + d)` into `h`. z: `[N, in]`, h: `[N, b]`.
fn layer(own: &Own, at: &At, z: View, h: &mut [f32]) {
    let (down, bias) = (own.part(at.slot, 0), own.part(at.slot, 1));
    let b = bias.len();
    products(at.cx, z, View::new(down, b, z.c), 1.0, h);
    for h in h.chunks_exact_mut(b) {
        h.iter_mut().zip(bias).for_each(|(h, d)| *h = (*h + d).max(0.0));
    }
}

/// Width of the small layer.
pub fn width(own: &Own) -> usize {
    own.values.whole(SIZE.name) as usize
}

/// `y += t s f(z)`. h: `[N, b]`, scratch.
pub fn add(own: &Own, at: &At, z: View, y: &mut Tile, h: &mut [f32]) {
    let (up, bias) = (own.part(at.slot, 2), own.part(at.slot, 3));
    let (n, b, s) = (z.n, width(own), factor(own, at));
    layer(own, at, z, h);
    h.iter_mut().for_each(|h| *h *= s);
    add_products(at.cx, View::new(h, n, b), View::new(up, b, bias.len()), y);
    for i in 0..n {
        y.row(i).iter_mut().zip(bias).for_each(|(y, u)| *y += s * u);
    }
}

/// `t s`.
fn factor(own: &Own, at: &At) -> f32 {
    at.strength * own.values.real(FACTOR.name) as f32
}

/// The backward pass through [`add`]: adds to `dz`, if it is given, and to the gradients. dy: `[N, out]`, room: `[2, N,
/// b]`, scratch.
pub fn add_backward(
    own: &Own,
    at: &At,
    z: View,
    dy: View,
    dz: Option<&mut Tile>,
    acc: Option<&mut [f32]>,
    room: &mut [f32],
) {
    let (down, up) = (own.part(at.slot, 0), own.part(at.slot, 2));
    let (n, b, s) = (z.n, width(own), factor(own, at));
    let (h, dh) = room.split_at_mut(n * b);
    layer(own, at, z, h);
    products(at.cx, dy, View::new(up, b, dy.c), s, dh);
    let mut acc = acc;
    if let Some(acc) = &mut acc {
        let at_up = own.range(at.slot, 2);
        let bias = &mut acc[own.range(at.slot, 3)];
        for i in 0..n {
            bias.iter_mut().zip(dy.row(i)).for_each(|(g, dy)| *g += s * dy);
        }
        h.iter_mut().for_each(|h| *h *= s);
        add_outer(at.cx, View::new(h, n, b), dy, &mut acc[at_up]);
    }
    // The ReLU passes no gradient where its output is zero.
    dh.iter_mut().zip(&*h).filter(|(_, h)| **h == 0.0).for_each(|(dh, _)| *dh = 0.0);
    let dh = View::new(dh, n, b);
    if let Some(acc) = acc {
        add_outer(at.cx, dh, z, &mut acc[own.range(at.slot, 0)]);
        let bias = &mut acc[own.range(at.slot, 1)];
        for i in 0..n {
            bias.iter_mut().zip(dh.row(i)).for_each(|(g, dh)| *g += dh);
        }
    }
    if let Some(dz) = dz {
        add_products(at.cx, dh, View::new(down, b, z.c), dz);
    }
}

/// Whether it adds anything; the random start alone does not.
pub fn changes_something(own: &Own) -> bool {
    let any = |slot, i| own.part(slot, i).iter().any(|v: &f32| *v != 0.0);
    (0..own.shape.slots.len()).any(|slot| any(slot, 2) || any(slot, 3))
}

/// The random start of D.
pub fn start(own: &Own, part: usize, out: &mut [f32]) {
    let (place, which) = own.slot_of(part);
    if which != 0 {
        return own.constant(part, out);
    }
    Stream::new(own.seed, &place.to_string(), "small layer").fill_uniform(0, out);
    let bound = kaiming(own.shape.parts[part].cols);
    out.iter_mut().for_each(|v| *v *= bound);
}
