//! The activations of a block, each once, and how they are saved until the backward pass.

use super::hparams::{Layer, Mixer};
use super::HParams;
use crate::adapter::Place;
use crate::kernel::{Buffer, Compute, Tile, View};
use crate::quant::float;
use crate::role::Role;
use std::prelude::v1::*;

/// An activation of a block: an index into [`SLOTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// After the first norm.
    N1,
    /// What a mixer other than attention goes over, or queries with their gates.
    In,
    /// The gate of what a delta rule reads.
    MixerGate,
    /// What the state of a delta rule decays by.
    Alpha,
    /// How much of a row it takes up.
    Beta,
    /// What a delta rule goes over, after its convolution.
    Convolved,
    /// Queries before the norm of their heads.
    RawQ,
    /// Keys before the norm of their heads.
    RawK,
    /// Queries after the rotary embedding.
    Q,
    /// Keys after the rotary embedding.
    K,
    /// Values.
    V,
    /// What a gated mixer read, before its gate.
    Read,
    /// The same after the norm that a delta rule has there.
    Normed,
    /// What the mixer put out, before the last projection.
    Att,
    /// The output of the o projection before its norm.
    AttOut,
    /// The residual stream between attention and the feed-forward layer.
    Mid,
    /// After the second norm.
    N2,
    /// Gate before its activation.
    Gate,
    /// Up, which the activated gate multiplies.
    Up,
    /// The input of the down projection.
    Hidden,
    /// The logits of experts.
    Logits,
    /// Gates of pairs of a row and an expert.
    ExpertGate,
    /// What these multiply.
    ExpertUp,
    /// Their products, after the activation.
    ExpertHidden,
    /// What the expert that all rows have puts out, before its gate.
    Shared,
    /// That gate, one number for a row.
    SharedGate,
    /// The output of the down projection before its norm.
    FfnOut,
    /// The output of attention, then that of the feed-forward layer.
    Out,
    /// The stream after the feed-forward layer, before the norm that stands there.
    Sum,
}

/// One row of [`SLOTS`].
pub struct SlotRow {
    /// The slot.
    pub slot: Slot,
    /// Its width; 0 where a layer has no such activation.
    pub width: fn(&HParams, &Layer) -> usize,
    /// Whether it takes matrix products to compute, so that it is saved. The cheap ones follow from the saved ones and the
    /// block's input by a few operations a value.
    pub costly: fn(&Layer) -> bool,
    /// Whether it is saved unrounded, since something is chosen by it.
    pub exact: bool,
}

const fn slot(slot: Slot, width: fn(&HParams, &Layer) -> usize, costly: fn(&Layer) -> bool) -> SlotRow {
    SlotRow { slot, width, costly, exact: false }
}

const fn exact(row: SlotRow) -> SlotRow {
    SlotRow { exact: true, ..row }
}

impl SlotRow {
    /// The type that it is saved in where that of the others is `usual`.
    fn saved_as(&self, usual: ActType) -> ActType {
        if self.exact { ActType::F32 } else { usual }
    }
}

/// `width` where the layer has a tensor of that role.
fn only(l: &Layer, role: Role, width: usize) -> usize {
    if l.has.has(role) { width } else { 0 }
}

/// Every activation of a block, in the order of [`Slot`].
pub static SLOTS: [SlotRow; Slot::COUNT] = [
    slot(Slot::N1, |h, _| h.width, |_| false),
    slot(Slot::In, |h, l| l.mixer_input(h.width), |_| true),
    slot(Slot::MixerGate, |h, l| only(l, Role::DeltaGate, l.mixed(h.width)), |_| true),
    slot(Slot::Alpha, |_, l| l.delta_heads(), |_| true),
    slot(Slot::Beta, |_, l| l.delta_heads(), |_| true),
    slot(Slot::Convolved, |h, l| only(l, Role::DeltaIn, l.mixer_input(h.width)), |_| false),
    slot(Slot::RawQ, |_, l| if l.gated { 0 } else { only(l, Role::QNorm, l.q_width()) }, |_| true),
    slot(Slot::RawK, |_, l| only(l, Role::KNorm, l.kv_width()), |_| true),
    slot(Slot::Q, |_, l| l.q_width(), |l| !l.has.has(Role::QNorm) && !l.gated),
    slot(Slot::K, |_, l| l.kv_width(), |l| !l.has.has(Role::KNorm)),
    slot(Slot::V, |_, l| l.kv_width(), |_| true),
    slot(Slot::Read, |h, l| if l.opens() { l.mixed(h.width) } else { 0 }, |_| true),
    slot(Slot::Normed, |h, l| only(l, Role::DeltaNorm, l.mixed(h.width)), |_| false),
    slot(Slot::Att, |h, l| l.mixed(h.width), |l| l.mixer == Mixer::Attention && !l.gated),
    slot(Slot::AttOut, |h, l| only(l, Role::PostAttnNorm, h.width), |_| true),
    slot(Slot::Mid, |h, _| h.width, |_| true),
    slot(Slot::N2, |h, _| h.width, |_| false),
    slot(Slot::Gate, |_, l| if l.act.gated { l.ff } else { 0 }, |_| true),
    slot(Slot::Up, |_, l| l.ff, |_| true),
    slot(Slot::Hidden, |_, l| l.ff, |_| false),
    exact(slot(Slot::Logits, |_, l| l.mixture.map_or(0, |m| m.router.experts), |_| true)),
    slot(Slot::ExpertGate, |_, l| l.expert_sizes().iter().product(), |_| true),
    slot(Slot::ExpertUp, |_, l| l.expert_sizes().iter().product(), |_| true),
    slot(Slot::ExpertHidden, |_, l| l.expert_sizes().iter().product(), |_| false),
    slot(Slot::Shared, |h, l| only(l, Role::SharedGate, h.width), |_| true),
    slot(Slot::SharedGate, |_, l| only(l, Role::SharedGate, 1), |_| true),
    slot(Slot::FfnOut, |h, l| only(l, Role::PostFfnNorm, h.width), |_| true),
    slot(Slot::Out, |h, _| h.width, |_| false),
    slot(Slot::Sum, |h, l| only(l, Role::OutNorm, h.width), |_| true),
];

impl Slot {
    /// Number of slots.
    pub const COUNT: usize = Slot::Sum as usize + 1;
}

/// Number of the extra that holds the log-sum-exp of attention. Extras are activations that adapters need beside [`SLOTS`];
/// the others hold the output of a place before its adapters, under the place's number in its block.
pub const LSE: usize = Place::DOORS;

/// One extra: its number and its width.
pub type Extra = (usize, usize);

/// The buffers of one block for `n` rows. Generation and training work in one of these; training saves the activations of
/// a block in a [`SavedActs`].
pub struct Acts {
    /// Rows.
    pub n: usize,
    slots: [Buffer; Slot::COUNT],
    /// Activations that adapters need saved.
    pub extras: [Buffer; LSE + 1],
}

impl Default for Acts {
    fn default() -> Acts {
        Acts { n: 0, slots: Default::default(), extras: core::array::from_fn(|_| Buffer::default()) }
    }
}

impl Acts {
    /// Makes room for `n` rows of a layer; never shrinks.
    pub fn resize(&mut self, h: &HParams, layer: &Layer, extras: &[Extra], n: usize) {
        self.n = n;
        for (buffer, row) in self.slots.iter_mut().zip(&SLOTS) {
            buffer.room(n * (row.width)(h, layer));
        }
        for &(door, width) in extras {
            self.extras[door].room(n * width);
        }
    }

    /// Bytes of the buffers for `n` rows of any layer; `extras` is the largest sum of widths that adapters need in a layer.
    pub fn bytes(h: &HParams, extras: usize, n: usize) -> usize {
        let slots: usize = SLOTS.iter().map(|row| h.most(|l| (row.width)(h, l))).sum();
        4 * n * (slots + extras)
    }

    /// An activation, with the width it has in a layer.
    pub fn view(&self, slot: Slot, width: usize) -> View<'_> {
        View::new(&self.slots[slot as usize], self.n, width)
    }

    /// The values of some activations, to be written, with the extras of adapters.
    pub fn parts<const K: usize>(&mut self, slots: [Slot; K]) -> ([&mut [f32]; K], &mut [Buffer; LSE + 1]) {
        let slots = self.slots.get_disjoint_mut(slots.map(|s| s as usize)).expect("different activations");
        (slots.map(|buffer| &mut buffer[..]), &mut self.extras)
    }

    /// The costly activations that a layer has: buffers, widths, and the types that they are saved in.
    fn costly<'a>(
        &'a mut self,
        h: &'a HParams,
        layer: &'a Layer,
        extras: &'a [Extra],
        act_type: ActType,
    ) -> impl Iterator<Item = (&'a mut Buffer, usize, ActType)> {
        // Buffers of other layers stay where they are.
        let has = move |row: &SlotRow| (row.costly)(layer) && (row.width)(h, layer) > 0;
        let slots = self.slots.iter_mut().zip(&SLOTS).filter(move |(_, row)| has(row));
        let all = self.extras.iter_mut().enumerate();
        let more = all.filter_map(move |(door, b)| Some((b, extras.iter().find(|e| e.0 == door)?.1, act_type)));
        slots.map(move |(b, row)| (b, (row.width)(h, layer), row.saved_as(act_type))).chain(more)
    }
}

/// The number type of saved activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActType {
    /// Unchanged.
    F32,
    /// f16, rounded to the nearest; values above 65504 become infinite.
    F16,
    /// bf16, rounded to the nearest.
    Bf16,
}

impl ActType {
    /// All types with their names.
    pub const ALL: [(&'static str, ActType); 3] =
        [("f32", ActType::F32), ("f16", ActType::F16), ("bf16", ActType::Bf16)];

    /// Bytes that `n` values take.
    pub fn bytes(self, n: usize) -> usize {
        match self {
            ActType::F32 => 4 * n,
            _ => 4 * n.div_ceil(2),
        }
    }
}

/// Values that a worker converts at a time.
const PART: usize = 4096;

/// Saved values, in the type they were saved with.
#[derive(Default)]
pub struct SavedValues {
    /// `f32` values, or two 16-bit ones in each, low bits first.
    words: Buffer,
}

impl SavedValues {
    /// Saves `x`.
    pub fn put(&mut self, cx: &Compute, act_type: ActType, x: &[f32]) {
        let words = self.words.room(act_type.bytes(x.len()) / 4);
        match act_type {
            ActType::F32 => words.copy_from_slice(x),
            ActType::F16 => narrow(cx, words, x, cx.kernels.narrow),
            ActType::Bf16 => narrow(cx, words, x, float::narrow_bf16),
        }
    }

    /// Copies the saved values to `x`.
    pub fn get(&self, cx: &Compute, act_type: ActType, x: &mut [f32]) {
        let words = &self.words[..act_type.bytes(x.len()) / 4];
        match act_type {
            ActType::F32 => x.copy_from_slice(words),
            ActType::F16 => widen(cx, words, x, cx.kernels.widen),
            ActType::Bf16 => widen(cx, words, x, float::widen_bf16),
        }
    }
}

fn narrow(cx: &Compute, words: &mut [f32], x: &[f32], convert: fn(&[f32], &mut [u16])) {
    let n = words.len();
    cx.pool.columns([Tile::new(words, 1, n)], [PART / 2], &|part, [mut words], _| {
        let x = &x[part * PART..(part * PART + PART).min(x.len())];
        convert(x, &mut bytemuck::cast_slice_mut(words.row(0))[..x.len()]);
    });
}

fn widen(cx: &Compute, words: &[f32], x: &mut [f32], convert: fn(&[u16], &mut [f32])) {
    let (n, all) = (x.len(), bytemuck::cast_slice::<f32, u16>(words));
    cx.pool.columns([Tile::new(x, 1, n)], [PART], &|part, [mut x], _| {
        let x = x.row(0);
        convert(&all[part * PART..][..x.len()], x);
    });
}

/// Saved activations of one block: all costly ones, kept between the forward and the backward pass beside its input.
#[derive(Default)]
pub struct SavedActs {
    parts: Vec<SavedValues>,
}

impl SavedActs {
    /// Bytes for `n` rows of a layer; `extras` is the sum of the widths that adapters need.
    pub fn bytes(h: &HParams, layer: &Layer, extras: usize, n: usize, act_type: ActType) -> usize {
        let slots = SLOTS.iter().filter(|row| (row.costly)(layer));
        let bytes = slots.map(|row| row.saved_as(act_type).bytes(n * (row.width)(h, layer)));
        bytes.sum::<usize>() + act_type.bytes(n * extras)
    }

    /// Saves the costly activations of `a`. `f32` values are not copied: the buffers are swapped, so `a` then holds other
    /// values.
    pub fn put(&mut self, cx: &Compute, h: &HParams, layer: &Layer, extras: &[Extra], act_type: ActType, a: &mut Acts) {
        let n = a.n;
        for (i, (buffer, width, act_type)) in a.costly(h, layer, extras, act_type).enumerate() {
            if self.parts.len() == i {
                self.parts.push(SavedValues::default());
            }
            let part = &mut self.parts[i];
            match act_type {
                ActType::F32 => core::mem::swap(&mut part.words, buffer),
                _ => part.put(cx, act_type, &buffer[..n * width]),
            }
        }
    }

    /// Moves the saved activations back into `a`, which has room for them.
    pub fn get(&mut self, cx: &Compute, h: &HParams, layer: &Layer, extras: &[Extra], act_type: ActType, a: &mut Acts) {
        let n = a.n;
        for (part, (buffer, width, act_type)) in self.parts.iter_mut().zip(a.costly(h, layer, extras, act_type)) {
            match act_type {
                ActType::F32 => core::mem::swap(&mut part.words, buffer),
                _ => part.get(cx, act_type, &mut buffer[..n * width]),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{PLAIN, Pool};

    #[test]
    fn rows_stand_where_their_slots_say() {
        for (i, row) in SLOTS.iter().enumerate() {
            assert_eq!(row.slot as usize, i);
        }
    }

    #[test]
    fn stored_values_come_back_rounded_once() {
        let cx = Compute { kernels: &PLAIN, pool: Pool::new(2) };
        let x: Vec<f32> = (0..2 * PART + 7).map(|i| (i as f32 - 5000.0) * 0.37).collect();
        for (name, act_type) in ActType::ALL {
            let mut stored = SavedValues::default();
            stored.put(&cx, act_type, &x);
            let mut back = vec![0.0; x.len()];
            stored.get(&cx, act_type, &mut back);
            let want = |v: f32| match act_type {
                ActType::F32 => v,
                ActType::F16 => half::f16::from_f32(v).to_f32(),
                ActType::Bf16 => half::bf16::from_f32(v).to_f32(),
            };
            assert!(back.iter().zip(&x).all(|(b, v)| b.to_bits() == want(*v).to_bits()), "{name}");
            assert_eq!(stored.words.len() * 4, act_type.bytes(x.len()));
        }
    }
}
