//! The small feed-forward layer of bottleneck adapters, shared by their kinds.
//!
//! ```text
//! f(z) = U·φ(D·z + d) + u     D [b, in], U [out, b] stored transposed, φ = ReLU or SiLU
//! ```
//! D starts uniform in ±1/√in and the rest at zero, so that a new adapter adds nothing.

use super::direct::Own;
use super::lowrank::{add_outer, add_products, kaiming, products};
use super::place::Shaped;
use super::{At, Base, Needs, NewPart, Place, Shape, Site, Spec, Spot, Start};
use crate::error::{Error, Result};
use crate::kernel::{Compute, Tile, View};
use crate::knob::{Domain, Knob, Values};
use crate::math;
use crate::rng::Stream;
use crate::role::Role;
use core::ops::Range;
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

/// The function φ.
pub static ACTIVATION: Knob = Knob {
    name: "activation",
    about: "Function of the small layer",
    metavar: "F",
    domain: Domain::Word(|| vec![RELU, SILU]),
};

/// `max(z, 0)`.
pub const RELU: &str = "relu";
/// `z σ(z)`.
pub const SILU: &str = "silu";

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

/// The parts of a small layer from `n_in` to `n_out`.
pub fn parts(b: usize, n_in: usize, n_out: usize) -> Vec<NewPart> {
    vec![
        NewPart::new("down", b, n_in, Start::Given),
        NewPart::new("down bias", 1, b, Start::Zero),
        NewPart::new("up", b, n_out, Start::Zero),
        NewPart::new("up bias", 1, n_out, Start::Zero),
    ]
}

/// The description of a kind with a small layer at each place, and its needs in the passes.
pub fn shape(places: Vec<Shaped>, values: &Values, needs: Needs) -> Shape {
    let b = values.whole(SIZE.name) as usize;
    let mut shape = Shape::build(places, |_| needs, |_, [n_in, n_out]| parts(b, n_in, n_out));
    shape.size.row = 2 * b;
    shape
}

/// Width of the small layer.
pub fn width(own: &Own) -> usize {
    own.values.whole(SIZE.name) as usize
}

/// `t s`.
pub fn factor(own: &Own, at: &At) -> f32 {
    at.strength * own.values.real(FACTOR.name) as f32
}

/// φ.
#[derive(Clone, Copy)]
pub enum Activation {
    /// `max(z, 0)`.
    Relu,
    /// `z σ(z)`.
    Silu,
}

impl Activation {
    /// That of an adapter.
    pub fn of(own: &Own) -> Activation {
        if own.values.word(ACTIVATION.name) == SILU { Activation::Silu } else { Activation::Relu }
    }

    /// `φ(z)` and `φ′(z)`. The ReLU passes no gradient where its output is zero.
    #[inline(always)]
    pub fn at(self, z: f32) -> (f32, f32) {
        match self {
            Activation::Relu => (z.max(0.0), if z > 0.0 { 1.0 } else { 0.0 }),
            Activation::Silu => {
                let sigma = 1.0 / (1.0 + math::exp(-z));
                (z * sigma, sigma * (1.0 + z * (1.0 - sigma)))
            }
        }
    }
}

/// One small layer: a slot, and which of the slot's parts is its D. The other three follow.
#[derive(Clone, Copy)]
pub struct Layer {
    /// The slot.
    pub slot: usize,
    /// The part.
    pub first: usize,
}

impl Layer {
    /// The only one of a slot.
    pub fn of(slot: usize) -> Layer {
        Layer { slot, first: 0 }
    }

    fn part(self, own: &Own, i: usize) -> &[f32] {
        own.part(self.slot, self.first + i)
    }

    fn range(self, own: &Own, i: usize) -> Range<usize> {
        own.range(self.slot, self.first + i)
    }

    /// `D·z + d` into `h`. z: `[N, in]`, h: `[N, b]`.
    fn hidden(self, own: &Own, cx: &Compute, z: View, h: &mut [f32]) {
        let (down, bias) = (self.part(own, 0), self.part(own, 1));
        let b = bias.len();
        products(cx, z, View::new(down, b, z.c), 1.0, h);
        for h in h.chunks_exact_mut(b) {
            h.iter_mut().zip(bias).for_each(|(h, d)| *h += d);
        }
    }

    /// `y += s f(z)`. h: `[N, b]`, scratch.
    pub fn add(self, own: &Own, cx: &Compute, s: f32, z: View, y: &mut Tile, h: &mut [f32]) {
        let (up, bias, act) = (self.part(own, 2), self.part(own, 3), Activation::of(own));
        let (n, b) = (z.n, width(own));
        self.hidden(own, cx, z, h);
        h.iter_mut().for_each(|h| *h = s * act.at(*h).0);
        add_products(cx, View::new(h, n, b), View::new(up, b, bias.len()), y);
        for i in 0..n {
            y.row(i).iter_mut().zip(bias).for_each(|(y, u)| *y += s * u);
        }
    }

    /// The backward pass through [`Layer::add`]: adds to `dz`, if it is given, and to the gradients. dy: `[N, out]`, room:
    /// `[2, N, b]`, scratch.
    pub fn backward(
        self,
        own: &Own,
        cx: &Compute,
        s: f32,
        z: View,
        dy: View,
        dz: Option<&mut Tile>,
        acc: Option<&mut [f32]>,
        room: &mut [f32],
    ) {
        let (down, up, act) = (self.part(own, 0), self.part(own, 2), Activation::of(own));
        let (n, b) = (z.n, width(own));
        let (h, dh) = room[..2 * n * b].split_at_mut(n * b);
        self.hidden(own, cx, z, h);
        products(cx, dy, View::new(up, b, dy.c), s, dh);
        for (h, dh) in h.iter_mut().zip(&mut *dh) {
            let (value, slope) = act.at(*h);
            (*h, *dh) = (s * value, *dh * slope);
        }
        let dh = View::new(dh, n, b);
        if let Some(acc) = acc {
            let bias = &mut acc[self.range(own, 3)];
            for i in 0..n {
                bias.iter_mut().zip(dy.row(i)).for_each(|(g, dy)| *g += s * dy);
            }
            add_outer(cx, View::new(h, n, b), dy, &mut acc[self.range(own, 2)]);
            add_outer(cx, dh, z, &mut acc[self.range(own, 0)]);
            let bias = &mut acc[self.range(own, 1)];
            for i in 0..n {
                bias.iter_mut().zip(dh.row(i)).for_each(|(g, dh)| *g += dh);
            }
        }
        if let Some(dz) = dz {
            add_products(cx, dh, View::new(down, b, z.c), dz);
        }
    }
}

/// Whether any of its layers adds anything; the random start of D alone does not.
pub fn changes_something(own: &Own) -> bool {
    let added = |part: &crate::adapter::Part| part.name.starts_with("up");
    own.shape.parts.iter().filter(|part| added(part)).any(|part| own.params[part.range.clone()].iter().any(|v| *v != 0.0))
}

/// The start of a part: that of D is random, from a stream of its place.
pub fn start(own: &Own, part: usize, stream: &str, out: &mut [f32]) {
    let (place, _) = own.slot_of(part);
    if own.shape.parts[part].start != Start::Given {
        return own.constant(part, out);
    }
    Stream::new(own.seed, &place.to_string(), stream).fill_uniform(0, out);
    let bound = kaiming(own.shape.parts[part].cols);
    out.iter_mut().for_each(|v| *v *= bound);
}

/// The random stream of the D of a place that has one.
pub const STREAM: &str = "small layer";
