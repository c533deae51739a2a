//! Bottlenecks behind gates of four granularities (VL-PET, Hu et al., arXiv:2308.09804).
//!
//! ```text
//! h' = h + s f(h)          x: the sub-layer's input, h: its output, f: `adapter::small`'s layer, s: a factor
//! y  = h + t (h' ∘ G − h)
//!
//! gate       G                          its size      parameters
//! large      2 σ(U φ(D x))              [N, width]    2 b width
//! middle-x   2 σ(w·(x + h'))            [N, 1]        width
//! middle-y   g                          [1, width]    width, starting at 1
//! small      2 σ(w·[x; h'])             [N, 1]        2 width
//! ```
//! U and w start at zero, so that G is exactly 1 and a new adapter changes nothing; the paper's σ without the 2 would halve
//! every row. The paper's small gate is the mean over the sequence. In a model that must not see what follows this is the
//! gate of each token alone: a running mean would need a state over tokens, which adapters do not have. `t` is the
//! strength: it scales the change.

use crate::adapter::direct::{self, Direct, Own, Plan, Rule};
use crate::adapter::lowrank::{add_outer, add_products, products};
use crate::adapter::small::{
    ACTIVATION, Activation, FACTOR, Layer, SILU, SIZE, STREAM, changes_something, parts, places, start, width,
};
use crate::adapter::{At, Into, Kind, Needs, NewPart, Place, Seen, Shape, Start};
use crate::kernel::{Buffer, Tile, View};
use crate::knob::{Domain, Knob, Setting};
use crate::math;
use crate::role::Role;
use std::prelude::v1::*;

/// The granularity.
static GATE: Knob = Knob {
    name: "gate",
    about: "Values that share a factor",
    metavar: "G",
    domain: Domain::Word(|| vec![LARGE, MIDDLE_X, MIDDLE_Y, SMALL]),
};

const LARGE: &str = "large";
const MIDDLE_X: &str = "middle-x";
const MIDDLE_Y: &str = "middle-y";
const SMALL: &str = "small";

/// Its row.
pub static KIND: Kind = Kind {
    name: "gated-bottleneck",
    about: "small layers after attention and the feed-forward layer, behind gates",
    rate: 1e-3,
    knobs: &[
        Setting::word(&GATE, MIDDLE_X),
        Setting::whole(&SIZE, 16),
        Setting::real(&FACTOR, 1.0),
        Setting::word(&ACTIVATION, SILU),
    ],
    targets: &[Role::ConvOut, Role::DeltaOut, Role::O, Role::Down],
    shape: |spec, base| direct::shape(spec, base, &PLAN),
    create: |spec, base| Direct::create(spec, base, &PLAN, Gated),
    read: |stored| Direct::read(stored, &PLAN, Gated),
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
        let (b, gate) = (values.whole(SIZE.name) as usize, values.word(GATE.name));
        let needs = Needs { output: true, rescales: true, input: gate != MIDDLE_Y, ..Needs::default() };
        let gates = |[n_in, n_out]: [usize; 2]| match gate {
            LARGE => {
                vec![NewPart::new("gate down", b, n_in, Start::Given), NewPart::new("gate up", b, n_out, Start::Zero)]
            }
            MIDDLE_Y => vec![NewPart::new("gate", 1, n_out, Start::One)],
            SMALL => vec![NewPart::new("gate", 1, n_in + n_out, Start::Zero)],
            _ => vec![NewPart::new("gate", 1, n_out, Start::Zero)],
        };
        let mut shape = Shape::build(
            places,
            |_| needs,
            |_, widths| [parts(b, widths[0], widths[1]), gates(widths)].into_iter().flatten().collect(),
        );
        // Changed rows, their gradient, gates, and a small layer.
        shape.size.row = 3 * shape.slots.first().map_or(0, |s| s.shape[1]) + 2 * b;
        Ok(shape)
    },
};

struct Gated;

/// The gate's first part, behind those of the small layer.
const FIRST: usize = 4;

/// `2 σ(u)`: 1 at 0.
fn open(u: f32) -> f32 {
    2.0 / (1.0 + math::exp(-u))
}

/// Weights of `x` and of `h'` in a gate of one value a row.
fn weights<'a>(own: &'a Own, at: &At) -> [&'a [f32]; 2] {
    let w = own.part(at.slot, FIRST);
    if own.values.word(GATE.name) == SMALL { w.split_at(w.len() / 2).into() } else { [w, w] }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `D x` into `a` and `2 σ(U φ(D x))` into `g`. a: `[N, b]`, g: `[N, out]`.
fn large(own: &Own, at: &At, x: View, a: &mut [f32], g: &mut [f32]) {
    let (down, up) = (own.part(at.slot, FIRST), own.part(at.slot, FIRST + 1));
    let (b, act) = (width(own), Activation::of(own));
    products(at.cx, x, View::new(down, b, x.c), 1.0, a);
    a.iter_mut().for_each(|a| *a = act.at(*a).0);
    g.fill(0.0);
    let c = up.len() / b;
    add_products(at.cx, View::new(a, x.n, b), View::new(up, b, c), &mut Tile::new(g, x.n, c));
    g.iter_mut().for_each(|g| *g = open(*g));
}

/// The gate's part of the backward pass. changed: `h'`. g: for a large gate its values; they become `∂L/∂u`. dy: the gradient
/// of `h' ∘ G`; it becomes that of `h'`. room: `[2, N, b]`.
fn gate_backward(
    own: &Own,
    at: &At,
    x: View,
    changed: View,
    dy: &mut [f32],
    g: &mut [f32],
    into: Into,
    room: &mut [f32],
) {
    let (n, c) = (changed.n, changed.c);
    let (mut acc, mut dx) = (into.acc, into.dx);
    match own.values.word(GATE.name) {
        LARGE => {
            for (i, (dy, g)) in dy.chunks_exact_mut(c).zip(g.chunks_exact_mut(c)).enumerate() {
                for ((dy, g), h) in dy.iter_mut().zip(g).zip(changed.row(i)) {
                    (*dy, *g) = (*dy * *g, *dy * h * *g * (1.0 - *g / 2.0));
                }
            }
            let (down, up) = (own.part(at.slot, FIRST), own.part(at.slot, FIRST + 1));
            let (b, act, du) = (width(own), Activation::of(own), View::new(g, n, c));
            let (a, da) = room.split_at_mut(n * b);
            products(at.cx, x, View::new(down, b, x.c), 1.0, a);
            products(at.cx, du, View::new(up, b, c), 1.0, da);
            for (a, da) in a.iter_mut().zip(&mut *da) {
                let (value, slope) = act.at(*a);
                (*a, *da) = (value, *da * slope);
            }
            let da = View::new(da, n, b);
            if let Some(acc) = acc {
                add_outer(at.cx, View::new(a, n, b), du, &mut acc[own.range(at.slot, FIRST + 1)]);
                add_outer(at.cx, da, x, &mut acc[own.range(at.slot, FIRST)]);
            }
            if let Some(dx) = dx {
                add_products(at.cx, da, View::new(down, b, x.c), dx);
            }
        }
        MIDDLE_Y => {
            let g = own.part(at.slot, FIRST);
            for (i, dy) in dy.chunks_exact_mut(c).enumerate() {
                if let Some(acc) = acc.as_deref_mut() {
                    let dg = &mut acc[own.range(at.slot, FIRST)];
                    dg.iter_mut().zip(&*dy).zip(changed.row(i)).for_each(|((dg, dy), h)| *dg += dy * h);
                }
                dy.iter_mut().zip(g).for_each(|(dy, g)| *dy *= g);
            }
        }
        gate => {
            let [wx, wh] = weights(own, at);
            for (i, dy) in dy.chunks_exact_mut(c).enumerate() {
                let (x, h) = (x.row(i), changed.row(i));
                let g = open(dot(wx, x) + dot(wh, h));
                let du = dot(dy, h) * g * (1.0 - g / 2.0);
                dy.iter_mut().zip(wh).for_each(|(dy, w)| *dy = *dy * g + du * w);
                if let Some(dx) = dx.as_deref_mut() {
                    dx.row(i).iter_mut().zip(wx).for_each(|(dx, w)| *dx += du * w);
                }
                if let Some(acc) = acc.as_deref_mut() {
                    let dw = &mut acc[own.range(at.slot, FIRST)];
                    let behind = if gate == SMALL { wx.len() } else { 0 };
                    dw.iter_mut().zip(x).for_each(|(dw, x)| *dw += du * x);
                    dw[behind..].iter_mut().zip(h).for_each(|(dw, h)| *dw += du * h);
                }
            }
        }
    }
}

impl Rule for Gated {
    fn forward(&self, own: &Own, at: &At, x: View, y: &mut Tile, scratch: &mut Buffer) {
        let (n, c, b, t) = (y.n(), y.c(), width(own), at.strength);
        let (before, rest) = scratch.room(n * (2 * c + b)).split_at_mut(n * c);
        let (g, room) = rest.split_at_mut(n * c);
        before.chunks_exact_mut(c).enumerate().for_each(|(i, row)| row.copy_from_slice(y.row(i)));
        let s = own.values.real(FACTOR.name) as f32;
        Layer::of(at.slot).add(own, at.cx, s, View::new(before, n, c), y, room);
        let gate = own.values.word(GATE.name);
        if gate == LARGE {
            large(own, at, x, room, g);
        }
        let mix = |h: f32, y: f32, g: f32| h + t * (y * g - h);
        for (i, (h, g)) in before.chunks_exact(c).zip(g.chunks_exact(c)).enumerate() {
            let y = y.row(i);
            match gate {
                LARGE => y.iter_mut().zip(h).zip(g).for_each(|((y, h), g)| *y = mix(*h, *y, *g)),
                MIDDLE_Y => {
                    let g = own.part(at.slot, FIRST);
                    y.iter_mut().zip(h).zip(g).for_each(|((y, h), g)| *y = mix(*h, *y, *g));
                }
                _ => {
                    let [wx, wh] = weights(own, at);
                    let g = open(dot(wx, x.row(i)) + dot(wh, y));
                    y.iter_mut().zip(h).for_each(|(y, h)| *y = mix(*h, *y, g));
                }
            }
        }
    }

    fn backward(&self, own: &Own, at: &At, seen: &Seen, dy: &mut [f32], into: Into, scratch: &mut Buffer) {
        let (x, z, t) = (seen.x, seen.output(), at.strength);
        let (n, c, b) = (z.n, z.c, width(own));
        let (changed, rest) = scratch.room(n * (3 * c + 2 * b)).split_at_mut(n * c);
        let (dh, rest) = rest.split_at_mut(n * c);
        let (g, room) = rest.split_at_mut(n * c);
        let (s, layer) = (own.values.real(FACTOR.name) as f32, Layer::of(at.slot));
        changed.chunks_exact_mut(c).enumerate().for_each(|(i, row)| row.copy_from_slice(z.row(i)));
        layer.add(own, at.cx, s, z, &mut Tile::new(changed, n, c), &mut room[..n * b]);
        if own.values.word(GATE.name) == LARGE {
            large(own, at, x, &mut room[..n * b], g);
        }
        dh.iter_mut().zip(&*dy).for_each(|(dh, dy)| *dh = t * dy);
        let Into { dx, dlse, mut acc } = into;
        let gates = Into { dx, dlse, acc: acc.as_deref_mut() };
        gate_backward(own, at, x, View::new(changed, n, c), dh, g, gates, room);
        dy.iter_mut().zip(&*dh).for_each(|(dy, dh)| *dy = (1.0 - t) * *dy + dh);
        layer.backward(own, at.cx, s, z, View::new(dh, n, c), Some(&mut Tile::new(dy, n, c)), acc, room);
    }

    fn start(&self, own: &Own, part: usize, out: &mut [f32]) {
        let stream = if own.slot_of(part).1 < FIRST { STREAM } else { "gate" };
        start(own, part, stream, out);
    }

    /// A large gate starts with a random D, which does nothing alone.
    fn changes_something(&self, own: &Own) -> bool {
        let gates = own.shape.parts.iter().filter(|part| part.name.starts_with("gate") && part.start != Start::Given);
        let moved = |part: &crate::adapter::Part| {
            let still = if part.start == Start::One { 1.0 } else { 0.0 };
            own.params[part.range.clone()].iter().any(|v| *v != still)
        };
        changes_something(own) || gates.into_iter().any(moved)
    }
}
