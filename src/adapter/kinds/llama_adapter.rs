//! LLaMA-Adapter (arXiv:2303.16199): trained prompts in the upper blocks. Attention to them is computed separately from
//! the text and added through a gate per head that starts at zero.
//!
//! ```text
//! o ← o + t tanh(g_h) softmax(q K_pᵀ · scale) V_p,   K_p = p·W_kᵀ, V_p = p·W_vᵀ by the frozen matrices, without rotation
//! ```
//! Their keys have no bias and no head norm. Prompts start as random rows; in the first step only the gates have
//! gradients. `t` is the strength.

use crate::adapter::direct::{self, Direct, Own, Plan, Rule};
use crate::adapter::{At, Frozen, Into, Kind, Needs, NewPart, Place, Seen, Shape, Site, Start};
use crate::error::{Error, Result};
use crate::kernel::{Buffer, Compute, Tile, View};
use crate::knob::{Domain, Knob, Setting};
use crate::math;
use crate::nn::attention::{self, Memory, Sees, Source};
use crate::nn::linear::{self, Accumulate, Back, Input, Precision};
use crate::rng::Stream;
use crate::role::Role;
use std::prelude::v1::*;

/// Number of prompts of a block.
static LENGTH: Knob =
    Knob { name: "length", about: "Rows before the text", metavar: "L", domain: Domain::Whole { low: 1, high: 4096 } };

/// Number of lowest blocks without prompts by default, if the model has more.
const WITHOUT: usize = 2;

/// Its row.
pub static KIND: Kind = Kind {
    name: "llama-adapter",
    about: "trained prompts in the upper blocks; no effect at the start",
    rate: 2e-2,
    knobs: &[Setting::whole(&LENGTH, 10)],
    targets: &[],
    shape: |spec, base| direct::shape(spec, base, &PLAN),
    create: |spec, base| Direct::create(spec, base, &PLAN, Gated::default()),
    read: |stored| Direct::read(stored, &PLAN, Gated::default()),
    sections: &[],
    grown: &[],
    codec: None,
    size: Some(&LENGTH),
};

static PLAN: Plan = Plan {
    kind: &KIND,
    places: |spec, _, base| {
        let blocks = match &spec.layers {
            Some(_) => spec.blocks(base)?,
            None => (WITHOUT.min(base.layers().saturating_sub(1))..base.layers()).collect(),
        };
        Ok(spec.attending(blocks, base)?.into_iter().map(Place::Attention).collect())
    },
    stands: |place| matches!(place, Place::Attention(_)),
    shape: |places, values, base| {
        let length = values.whole(LENGTH.name) as usize;
        let heads = |place: Place| base.shapes[place.layer().unwrap_or(0)].heads;
        let needs = Needs { input: true, ..Needs::default() };
        let mut shape = Shape::build(
            places,
            |_| needs,
            |place, _| {
                vec![
                    NewPart::new("prompts", length, base.width, Start::Given),
                    NewPart::new("gates", 1, heads(place).q, Start::Zero),
                ]
            },
        );
        let each = |place: Place| 2 * length * heads(place).kv * heads(place).dim;
        let most = |of: &dyn Fn(Place) -> usize| shape.slots.iter().map(|s| of(s.place)).max().unwrap_or(0);
        let (q, h) = (most(&|p| heads(p).q * heads(p).dim), most(&|p| heads(p).q));
        (shape.size.row, shape.size.scratch) = (3 * q + h, most(&|p| attention::shared(heads(p), length)));
        shape.size.derived = shape.slots.iter().map(|s| each(s.place)).sum();
        shape.size.gathered = shape.slots.iter().map(|s| each(s.place) + heads(s.place).q).sum();
        Ok(shape)
    },
};

/// Keys and then values of every slot, `[L, KV·D]` each.
#[derive(Default)]
struct Gated {
    memories: Vec<[Vec<f32>; 2]>,
}

fn matrices(own: &Own, frozen: &dyn Frozen, slot: usize) -> Result<[crate::quant::Matrix; 2]> {
    let layer = own.shape.slots[slot].place.layer().unwrap_or(0);
    let of = |role| {
        let site = Site { layer, role };
        frozen.matrix(site).ok_or_else(|| Error::mismatch(site.to_string(), "a matrix", "none"))
    };
    Ok([of(Role::K)?, of(Role::V)?])
}

impl Gated {
    /// The range of a slot's gradients of keys, values and gates.
    fn gathered(&self, own: &Own, slot: usize) -> [core::ops::Range<usize>; 3] {
        let (sizes, gates) = (|i: usize| self.memories[i][0].len(), |i: usize| own.part(i, 1).len());
        let start: usize = (0..slot).map(|i| 2 * sizes(i) + gates(i)).sum();
        let (keys, values) = (start + sizes(slot), start + 2 * sizes(slot));
        [start..keys, keys..values, values..values + gates(slot)]
    }

    /// Attention over the prompts alone. q, out: `[N, H·D]`.
    fn attend(&self, own: &Own, at: &At, q: View, out: &mut [f32]) {
        let (length, width) = (own.values.whole(LENGTH.name) as usize, at.heads.kv * at.heads.dim);
        let [keys, values] = self.memories[at.slot].each_ref().map(|m| Memory::Rows(View::new(m, length, width)));
        let source = Source { keys, values, n: length, first: 0, sees: Sees::All };
        attention::forward(at.cx, at.heads, q, &source, &mut Tile::new(out, q.n, q.c), None);
    }
}

/// `tanh`, the same on every target.
fn tanh(x: f32) -> f32 {
    math::tanh(x, math::exp(-2.0 * x.abs()))
}

impl Rule for Gated {
    fn prepare(&mut self, own: &Own, cx: &Compute, frozen: &dyn Frozen) -> Result<()> {
        let length = own.values.whole(LENGTH.name) as usize;
        self.memories.resize_with(own.shape.slots.len(), Default::default);
        for slot in 0..self.memories.len() {
            let prompts = own.part(slot, 0);
            let prompts = View::new(prompts, length, prompts.len() / length);
            for (w, memory) in matrices(own, frozen, slot)?.iter().zip(&mut self.memories[slot]) {
                memory.resize(length * w.rows, 0.0);
                linear::forward(cx, w, Input::exact(prompts), &mut Tile::new(memory, length, w.rows));
            }
        }
        Ok(())
    }

    fn forward(&self, own: &Own, at: &At, x: View, y: &mut Tile, scratch: &mut Buffer) {
        let out = scratch.room(x.n * x.c);
        self.attend(own, at, x, out);
        let (gates, d) = (own.part(at.slot, 1), at.heads.dim);
        for (i, out) in out.chunks_exact(x.c).enumerate() {
            for ((y, out), gate) in y.row(i).chunks_exact_mut(d).zip(out.chunks_exact(d)).zip(gates) {
                let gate = at.strength * tanh(*gate);
                y.iter_mut().zip(out).for_each(|(y, o)| *y += gate * o);
            }
        }
    }

    fn backward(&self, own: &Own, at: &At, seen: &Seen, dy: &mut [f32], into: Into, scratch: &mut Buffer) {
        let (x, n, c, d) = (seen.x, seen.x.n, seen.x.c, at.heads.dim);
        let (length, width) = (own.values.whole(LENGTH.name) as usize, at.heads.kv * d);
        let room = scratch.room(3 * n * c + 2 * length * width);
        let (out, rest) = room.split_at_mut(n * c);
        let (dout, rest) = rest.split_at_mut(n * c);
        let (dq, room) = rest.split_at_mut(n * c);
        self.attend(own, at, x, out);
        let gates = own.part(at.slot, 1);
        let [at_keys, at_values, at_gates] = self.gathered(own, at.slot);
        let mut acc = into.acc;
        for ((dy, out), dout) in dy.chunks_exact(c).zip(out.chunks_exact(c)).zip(dout.chunks_exact_mut(c)) {
            let heads = dy.chunks_exact(d).zip(out.chunks_exact(d)).zip(dout.chunks_exact_mut(d));
            for (h, ((dy, out), dout)) in heads.enumerate() {
                let gate = tanh(gates[h]);
                dout.iter_mut().zip(dy).for_each(|(o, dy)| *o = at.strength * gate * dy);
                if let Some(acc) = &mut acc {
                    let along: f32 = dy.iter().zip(out).map(|(dy, o)| dy * o).sum();
                    acc[at_gates.start + h] += at.strength * (1.0 - gate * gate) * along;
                }
            }
        }
        let [keys, values] = self.memories[at.slot].each_ref().map(|m| View::new(m, length, width));
        let (dout, mut tq) = (View::new(dout, n, c), Tile::new(dq, n, c));
        let (mut spare, mut unwanted) = (Buffer::default(), Vec::new());
        let grads = match acc {
            Some(acc) => acc.get_disjoint_mut([at_keys, at_values]).expect("parts apart"),
            None => {
                unwanted.resize(2 * length * width, 0.0);
                unwanted.split_at_mut(length * width).into()
            }
        };
        attention::backward_each(at.cx, at.heads, x, keys, values, dout, None, &mut tq, grads, room, &mut spare);
        if let Some(dx) = into.dx {
            dq.chunks_exact(c).enumerate().for_each(|(i, d)| crate::nn::add(d, dx.row(i)));
        }
    }

    fn reduce(&self, own: &Own, cx: &Compute, frozen: &dyn Frozen, acc: &[f32], grads: &mut [f32]) {
        let length = own.values.whole(LENGTH.name) as usize;
        grads.fill(0.0);
        for slot in 0..own.shape.slots.len() {
            let Ok(matrices) = matrices(own, frozen, slot) else { unreachable!("found when it was prepared") };
            let [keys, values, gates] = self.gathered(own, slot);
            grads[own.range(slot, 1)].copy_from_slice(&acc[gates]);
            let prompts = &mut grads[own.range(slot, 0)];
            let width = prompts.len() / length;
            for (w, at) in matrices.iter().zip([keys, values]) {
                let (dy, mut dx) = (View::new(&acc[at], length, w.rows), Tile::new(prompts, length, width));
                linear::backward(cx, Precision::F32, w, dy, Accumulate::Add, &mut dx, &mut Back::default());
            }
        }
    }

    /// Uniform with the variance of a standard normal, which its authors draw from.
    fn start(&self, own: &Own, part: usize, out: &mut [f32]) {
        let (place, which) = own.slot_of(part);
        if which != 0 {
            return own.constant(part, out);
        }
        Stream::new(own.seed, &place.to_string(), "llama_adapter").fill_uniform(0, out);
        let bound = libm::sqrtf(3.0);
        out.iter_mut().for_each(|v| *v *= bound);
    }

    /// With closed gates it changes nothing.
    fn changes_something(&self, own: &Own) -> bool {
        (0..own.shape.slots.len()).any(|slot| own.part(slot, 1).iter().any(|g| *g != 0.0))
    }
}
