//! Prefix tuning (Li and Liang, arXiv:2101.00190): trained keys and values before those of the text, in every block.
//!
//! ```text
//! o = Σ over text and prefix of e^{s} v / Σ e^{s}        joined with the base's attention by its log-sum-exp
//! ```
//! Keys of the prefix are not rotated, and the text keeps positions from 0. With `offset` n the prefix is at the
//! positions before a text that starts at position n: its keys are rotated by −n. The offset of PEFT's prefixes is
//! their length. The strength multiplies the prefix's part of both sums: with 0 attention is the base's. Several
//! prefixes are joined one after the other, each with the log-sum-exp of the text alone, so their order matters.

use crate::adapter::direct::{self, Direct, Own, Plan, Rule};
use crate::adapter::{At, Base, Frozen, Into, Kind, Needs, NewPart, Place, Seen, Shape, Start};
use crate::error::{Error, Result};
use crate::kernel::{self, Buffer, Compute, Pool, Tile, View};
use crate::knob::{Domain, Knob, Setting};
use crate::nn::attention::{self, Memory, Sees, Source};
use crate::nn::rope::Rotations;
use crate::rng::Stream;
use std::prelude::v1::*;

/// How many keys and values.
pub(in crate::adapter) static LENGTH: Knob =
    Knob { name: "length", about: "Rows before the text", metavar: "L", domain: Domain::Whole { low: 1, high: 4096 } };

/// The position of the text relative to the prefix.
pub(in crate::adapter) static OFFSET: Knob = Knob {
    name: "offset",
    about: "Position of the text's first token as seen by the prefix; in PEFT the prefix's length",
    metavar: "N",
    domain: Domain::Whole { low: 0, high: 65_536 },
};

/// The size of the random start of values.
const SPREAD: f32 = 0.1;

/// Its row.
pub static KIND: Kind = Kind {
    name: "prefix",
    about: "trained keys and values before the text, in every block",
    rate: 3e-2,
    knobs: &[Setting::whole(&LENGTH, 16), Setting::whole(&OFFSET, 0)],
    targets: &[],
    shape: |spec, base| direct::shape(spec, base, &PLAN),
    create: |spec, base| Direct::create(spec, base, &PLAN, Prefix::default()),
    read: |stored| Direct::read(stored, &PLAN, Prefix::default()),
    sections: &[],
    grown: &[],
    codec: None,
    size: Some(&LENGTH),
};

pub(super) static PLAN: Plan = Plan {
    kind: &KIND,
    places: |spec, _, base| Ok(spec.attending(spec.blocks(base)?, base)?.into_iter().map(Place::Attention).collect()),
    stands: |place| matches!(place, Place::Attention(_)),
    shape: |places, values, base| {
        let length = values.whole(LENGTH.name) as usize;
        let heads = |place: Place| base.shapes[place.layer().unwrap_or(0)].heads;
        let needs = Needs { output: true, lse: true, rescales: true, input: true, positive: true, ..Needs::default() };
        let mut shape = Shape::build(
            places,
            |_| needs,
            |place, _| {
                let width = heads(place).kv * heads(place).dim;
                vec![
                    NewPart::new("keys", length, width, Start::Given),
                    NewPart::new("values", length, width, Start::Given),
                ]
            },
        );
        let most = |of: &dyn Fn(Place) -> usize| shape.slots.iter().map(|s| of(s.place)).max().unwrap_or(0);
        let (q, h) = (most(&|p| heads(p).q * heads(p).dim), most(&|p| heads(p).q));
        let shared = most(&|p| attention::shared(heads(p), length));
        // Outputs and log-sum-exps of both sources and their gradients.
        (shape.size.row, shape.size.scratch) = (5 * q + 5 * h, shared);
        if values.whole(OFFSET.name) > 0 {
            // Rotated keys, and gradients that are rotated back.
            (shape.size.derived, shape.size.gathered) = (shape.size.params / 2, shape.size.params);
        }
        Ok(shape)
    },
};

/// Keys for attention, if they differ from the parameters: a list for each slot.
#[derive(Default)]
pub(super) struct Prefix {
    rotated: Vec<Buffer>,
}

impl Prefix {
    fn keys<'a>(&'a self, own: &'a Own, slot: usize) -> &'a [f32] {
        self.rotated.get(slot).map_or(own.part(slot, 0), |rotated| rotated)
    }
}

/// The slots with keys and values: a kind that builds on this one may have others.
fn attentions(own: &Own) -> impl Iterator<Item = usize> + '_ {
    (0..own.shape.slots.len()).filter(|slot| matches!(own.shape.slots[*slot].place, Place::Attention(_)))
}

/// Rotates keys by −n, or back. keys: `[L, KV·D]`.
fn rotate(own: &Own, cx: &Compute, frozen: &dyn Frozen, slot: usize, keys: &mut [f32], back: bool) {
    let place = own.shape.slots[slot].place;
    let (length, offset) = (own.values.whole(LENGTH.name) as usize, own.values.whole(OFFSET.name));
    turn(cx, frozen, place.layer().unwrap_or(0), length, offset, keys, back);
}

/// Keys before a text that begins at position `from`, for a text that begins at `to`.
///
/// # Errors
/// `Unsupported` if they must be turned and the base is without its weights.
pub(in crate::adapter) fn turned(base: &Base, layer: usize, keys: &[f32], from: u64, to: u64) -> Result<Vec<f32>> {
    let mut keys = keys.to_vec();
    if from == to {
        return Ok(keys);
    }
    let frozen = base.frozen.as_ref().ok_or_else(|| Error::unsupported("base", "one without its weights"))?;
    let cx = Compute { kernels: kernel::best(), pool: Pool::new(1) };
    let heads = base.shapes[layer].heads;
    let length = keys.len() / (heads.kv * heads.dim).max(1);
    for (offset, back) in [(from, false), (to, true)] {
        if offset > 0 {
            turn(&cx, &**frozen, layer, length, offset, &mut keys, back);
        }
    }
    Ok(keys)
}

fn turn(cx: &Compute, frozen: &dyn Frozen, layer: usize, length: usize, offset: u64, keys: &mut [f32], back: bool) {
    let Some(rope) = frozen.rope(layer) else { return };
    // Keys are turned alone: what a longer context multiplies is not theirs.
    let rope = rope.unscaled();
    let (mut rotations, width) = (Rotations::default(), keys.len() / length);
    rope.rotations(cx, &vec![offset as u32; length], &mut rotations);
    let heads = frozen.heads(layer).expect("heads of a block with a rotary embedding");
    rope.apply(cx, &mut Tile::new(keys, length, width), heads.dim, &rotations, !back);
}

impl Rule for Prefix {
    fn prepare(&mut self, own: &Own, cx: &Compute, frozen: &dyn Frozen) -> Result<()> {
        if own.values.whole(OFFSET.name) == 0 {
            return Ok(());
        }
        self.rotated.resize_with(own.shape.slots.len(), Buffer::default);
        for slot in attentions(own) {
            let keys = own.part(slot, 0);
            let rotated = self.rotated[slot].room(keys.len());
            rotated.copy_from_slice(keys);
            rotate(own, cx, frozen, slot, rotated, false);
        }
        Ok(())
    }

    fn forward(&self, own: &Own, at: &At, x: View, y: &mut Tile, scratch: &mut Buffer) {
        let (n, c, h) = (x.n, x.c, at.heads.q);
        let (out, lse) = scratch.room(n * (c + 2 * h)).split_at_mut(n * c);
        let (more, joined) = lse.split_at_mut(n * h);
        self.attend(own, at, x, out, more);
        let base = at.lse.expect("the shape asks for it");
        joined.chunks_exact_mut(h).enumerate().for_each(|(i, row)| row.copy_from_slice(base.row(i)));
        let mut joined = Tile::new(joined, n, h);
        attention::combine(at.cx, at.heads, y, &mut joined, View::new(out, n, c), View::new(more, n, h));
    }

    fn backward(&self, own: &Own, at: &At, seen: &Seen, dy: &mut [f32], into: Into, scratch: &mut Buffer) {
        let (x, y0) = (seen.x, seen.output());
        let (n, c, h, length) = (x.n, x.c, at.heads.q, own.values.whole(LENGTH.name) as usize);
        let width = at.heads.kv * at.heads.dim;
        let room = scratch.room(n * (4 * c + 3 * h) + 2 * length * width);
        let (out, rest) = room.split_at_mut(n * c);
        let (given, rest) = rest.split_at_mut(n * c);
        let (dout, rest) = rest.split_at_mut(n * c);
        let (dq, rest) = rest.split_at_mut(n * c);
        let (lse, rest) = rest.split_at_mut(n * h);
        let (dlse, rest) = rest.split_at_mut(n * h);
        let (dbase, room) = rest.split_at_mut(n * h);
        self.attend(own, at, x, out, lse);
        given.copy_from_slice(dy);
        let base = at.lse.expect("the shape asks for it");
        let parts = [(y0, base), (View::new(out, n, c), View::new(lse, n, h))];
        {
            let (mut d0, mut l0) = (Tile::new(dy, n, c), Tile::new(dbase, n, h));
            let (mut d1, mut l1) = (Tile::new(dout, n, c), Tile::new(dlse, n, h));
            let grads = [(&mut d0, &mut l0), (&mut d1, &mut l1)];
            attention::combine_backward(at.cx, at.heads, parts, View::new(given, n, c), None, grads);
        }
        if let Some(all) = into.dlse {
            dbase.chunks_exact(h).enumerate().for_each(|(i, d)| crate::nn::add(d, all.row(i)));
        }
        let keys = View::new(self.keys(own, at.slot), length, width);
        let values = View::new(own.part(at.slot, 1), length, width);
        let (dout, dlse, mut tq) = (View::new(dout, n, c), View::new(dlse, n, h), Tile::new(dq, n, c));
        let (mut spare, mut unwanted) = (Buffer::default(), Vec::new());
        let grads = match into.acc {
            Some(acc) => acc.get_disjoint_mut([0, 1].map(|i| own.range(at.slot, i))).expect("parts apart"),
            None => {
                unwanted.resize(2 * length * width, 0.0);
                unwanted.split_at_mut(length * width).into()
            }
        };
        attention::backward_each(at.cx, at.heads, x, keys, values, dout, Some(dlse), &mut tq, grads, room, &mut spare);
        if let Some(dx) = into.dx {
            dq.chunks_exact(c).enumerate().for_each(|(i, d)| crate::nn::add(d, dx.row(i)));
        }
    }

    fn reduce(&self, own: &Own, cx: &Compute, frozen: &dyn Frozen, acc: &[f32], grads: &mut [f32]) {
        grads.copy_from_slice(acc);
        if own.values.whole(OFFSET.name) > 0 {
            for slot in attentions(own) {
                rotate(own, cx, frozen, slot, &mut grads[own.range(slot, 0)], true);
            }
        }
    }

    fn start(&self, own: &Own, part: usize, out: &mut [f32]) {
        let (place, which) = own.slot_of(part);
        Stream::new(own.seed, &place.to_string(), ["prefix_k", "prefix_v"][which]).fill_uniform(0, out);
        out.iter_mut().for_each(|v| *v *= SPREAD);
    }

    /// A prefix changes attention, whatever its values.
    fn changes_something(&self, _own: &Own) -> bool {
        true
    }
}

impl Prefix {
    /// Attention over the prefix alone, and its log-sum-exp with the strength.
    fn attend(&self, own: &Own, at: &At, q: View, out: &mut [f32], lse: &mut [f32]) {
        let (length, width) = (own.values.whole(LENGTH.name) as usize, at.heads.kv * at.heads.dim);
        let keys = Memory::Rows(View::new(self.keys(own, at.slot), length, width));
        let values = Memory::Rows(View::new(own.part(at.slot, 1), length, width));
        let source = Source { keys, values, n: length, first: 0, sees: Sees::All };
        let (n, c, h) = (q.n, q.c, at.heads.q);
        attention::forward(at.cx, at.heads, q, &source, &mut Tile::new(out, n, c), Some(&mut Tile::new(lse, n, h)));
        if at.strength != 1.0 {
            let more = libm::logf(at.strength);
            lse.iter_mut().for_each(|l| *l += more);
        }
    }
}
