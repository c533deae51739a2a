//! Adapters that use their parameters directly, shared by all kinds that differ only in what they do at their places.
//!
//! A kind defines its places and parts ([`Plan`]) and its computation ([`Rule`]); [`Direct`] is the adapter. Its file
//! holds the places, the values of its settings, and the seed.

use super::file::{self, Stored};
use super::place::Shaped;
use super::{Adapter, At, Base, Frozen, Into, Kind, Origin, Place, Seen, Shape, Spec, Start, Step};
use crate::container::head::Head;
use crate::error::{Error, Result};
use crate::kernel::{Buffer, Compute, Tile, View};
use crate::knob::Values;
use crate::rng::GENERATOR;
use core::ops::Range;
use std::prelude::v1::*;

/// The places and parts of a kind.
pub struct Plan {
    /// Its row.
    pub kind: &'static Kind,
    /// Its places for a specification; the base defines the widths.
    pub places: fn(&Spec, &Values, &Base) -> Result<Vec<Place>>,
    /// Whether the kind supports a place: files are not trusted.
    pub stands: fn(Place) -> bool,
    /// Its description at given places.
    pub shape: fn(Vec<Shaped>, &Values, &Base) -> Result<Shape>,
}

/// The data of an adapter that its rule uses.
pub struct Own {
    /// The description of the adapter.
    pub shape: Shape,
    /// Its parameters.
    pub params: Vec<f32>,
    /// Its settings.
    pub values: Values,
    /// The seed of all random values.
    pub seed: u64,
    kind: &'static Kind,
}

impl Own {
    /// Part `i` of the parameters at a slot.
    pub fn part(&self, slot: usize, i: usize) -> &[f32] {
        &self.params[self.range(slot, i)]
    }

    /// The range of part `i` at a slot.
    pub fn range(&self, slot: usize, i: usize) -> core::ops::Range<usize> {
        self.shape.parts[self.shape.slots[slot].parts.start + i].range.clone()
    }

    /// The place of a part, and which of the place's parts it is.
    pub fn slot_of(&self, part: usize) -> (Place, usize) {
        let slot = self.shape.slots.iter().find(|s| s.parts.contains(&part)).expect("a part of a slot");
        (slot.place, part - slot.parts.start)
    }

    /// The values before the first step of a part that starts with a constant.
    pub fn constant(&self, part: usize, out: &mut [f32]) {
        out.fill(if self.shape.parts[part].start == Start::One { 1.0 } else { 0.0 });
    }
}

/// The computation of a kind at its places; the methods are those of [`Adapter`].
pub trait Rule: Send + Sync + 'static {
    /// Updates its derived values.
    fn prepare(&mut self, _own: &Own, _cx: &Compute, _frozen: &dyn Frozen) -> Result<()> {
        Ok(())
    }

    /// Changes `y`.
    fn forward(&self, own: &Own, at: &At, x: View, y: &mut Tile, scratch: &mut Buffer);

    /// The backward pass.
    fn backward(&self, own: &Own, at: &At, seen: &Seen, dy: &mut [f32], into: Into, scratch: &mut Buffer);

    /// Gradients from the sums of `backward`.
    fn reduce(&self, _own: &Own, _cx: &Compute, _frozen: &dyn Frozen, acc: &[f32], grads: &mut [f32]) {
        grads.copy_from_slice(acc);
    }

    /// What a part held before the first step.
    fn start(&self, own: &Own, part: usize, out: &mut [f32]) {
        own.constant(part, out);
    }

    /// Whether its change at a place can be made part of the frozen weights.
    fn bakes(&self, _place: Place) -> bool {
        false
    }

    /// Makes it part of rows of a matrix.
    fn bake(&self, _own: &Own, _at: &At, _rows: Range<usize>, _w: &mut Tile) {}

    /// Makes it part of a bias.
    fn bake_bias(&self, _own: &Own, _at: &At, _bias: &mut [f32]) {}

    /// Its settings in a file, and its sections.
    fn record(&self, own: &Own, head: &mut Head) -> Vec<(&'static str, Vec<u8>)> {
        own.values.write(head);
        Vec::new()
    }

    /// Whether its values may be exchanged.
    fn exchanges(&self) -> bool {
        false
    }

    /// Exchanges values of `own`.
    fn exchange(&mut self, _own: &mut Own, _step: Step, _grads: &[f32], _acc: &[f32]) -> Option<Vec<Origin>> {
        None
    }

    /// Its statistics for that.
    fn exchange_state(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Continues with these.
    fn restore_exchange(&mut self, own: &Own, bytes: &[u8]) -> Result<()> {
        match bytes.is_empty() {
            true => Ok(()),
            false => Err(Error::corrupt(format!("{} bytes for an exchange, and {} has none", bytes.len(), own.kind.name), 0)),
        }
    }

    /// Whether it changes any output.
    fn changes_something(&self, own: &Own) -> bool {
        let mut start = Vec::new();
        own.shape.parts.iter().enumerate().any(|(i, part)| {
            start.resize(part.range.len(), 0.0);
            self.start(own, i, &mut start);
            own.params[part.range.clone()] != start[..]
        })
    }
}

/// An adapter that does as `R` says.
pub struct Direct<R> {
    own: Own,
    rule: R,
}

impl<R: Rule> Direct<R> {
    /// A fresh one.
    ///
    /// # Errors
    /// Those of the plan.
    pub fn create(spec: &Spec, base: &Base, plan: &Plan, rule: R) -> Result<Box<dyn Adapter>> {
        let shape = shape(spec, base, plan)?;
        let params = vec![0.0; shape.size.params];
        let mut own = Own { shape, params, values: spec.values()?, seed: spec.seed, kind: plan.kind };
        for i in 0..own.shape.parts.len() {
            let range = own.shape.parts[i].range.clone();
            let mut start = core::mem::take(&mut own.params);
            rule.start(&own, i, &mut start[range]);
            own.params = start;
        }
        Ok(Box::new(Direct { own, rule }))
    }

    /// One from a file.
    ///
    /// # Errors
    /// Those of the file, of its settings and of the plan; `Mismatch` if such settings stand elsewhere.
    pub fn read(stored: Stored, plan: &Plan, rule: R) -> Result<Box<dyn Adapter>> {
        let seed = stored.seed()?;
        let values = Values::read(plan.kind.name, plan.kind.knobs, stored.head)?;
        if let Some((place, _)) = stored.places.iter().find(|(place, _)| !(plan.stands)(*place)) {
            return Err(Error::unsupported("target of an adapter", format!("{place} for {}", plan.kind.name)));
        }
        let shape = (plan.shape)(stored.places.clone(), &values, stored.base)?;
        let mut own = Own { shape, params: Vec::new(), values, seed, kind: plan.kind };
        own.params = stored.params(&own.shape.parts, |part, out| rule.start(&own, part, out))?;
        Ok(Box::new(Direct { own, rule }))
    }
}

/// The description of a new adapter.
///
/// # Errors
/// Those of the plan.
pub fn shape(spec: &Spec, base: &Base, plan: &Plan) -> Result<Shape> {
    let values = spec.values()?;
    let places = (plan.places)(spec, &values, base)?;
    let shaped: Result<Vec<Shaped>> = places.into_iter().map(|place| Ok((place, base.place(place)?))).collect();
    (plan.shape)(shaped?, &values, base)
}

impl<R: Rule> Adapter for Direct<R> {
    fn kind(&self) -> &'static Kind {
        self.own.kind
    }

    fn shape(&self) -> &Shape {
        &self.own.shape
    }

    fn params(&self) -> &[f32] {
        &self.own.params
    }

    fn params_mut(&mut self) -> &mut [f32] {
        &mut self.own.params
    }

    fn prepare(&mut self, cx: &Compute, frozen: &dyn Frozen) -> Result<()> {
        self.rule.prepare(&self.own, cx, frozen)
    }

    fn forward(&self, at: &At, x: View, y: &mut Tile, scratch: &mut Buffer) {
        self.rule.forward(&self.own, at, x, y, scratch);
    }

    fn backward(&self, at: &At, seen: &Seen, dy: &mut [f32], into: Into, scratch: &mut Buffer) {
        self.rule.backward(&self.own, at, seen, dy, into, scratch);
    }

    fn reduce(&self, cx: &Compute, frozen: &dyn Frozen, acc: &[f32], grads: &mut [f32]) {
        self.rule.reduce(&self.own, cx, frozen, acc, grads);
    }

    fn start(&self, part: usize, out: &mut [f32]) {
        self.rule.start(&self.own, part, out);
    }

    fn bakes(&self, place: Place) -> bool {
        self.rule.bakes(place)
    }

    fn bake(&self, at: &At, rows: Range<usize>, w: &mut Tile) {
        self.rule.bake(&self.own, at, rows, w);
    }

    fn bake_bias(&self, at: &At, bias: &mut [f32]) {
        self.rule.bake_bias(&self.own, at, bias);
    }

    fn changes_something(&self) -> bool {
        self.rule.changes_something(&self.own)
    }

    fn record(&self, head: &mut Head) -> Vec<(&'static str, Vec<u8>)> {
        file::set_places(head, &self.own.shape.places());
        head.set("seed", self.own.seed).set("generator", GENERATOR);
        self.rule.record(&self.own, head)
    }

    fn exchanges(&self) -> bool {
        self.rule.exchanges()
    }

    fn exchange(&mut self, step: Step, grads: &[f32], acc: &[f32]) -> Option<Vec<Origin>> {
        self.rule.exchange(&mut self.own, step, grads, acc)
    }

    fn exchange_state(&self) -> Vec<u8> {
        self.rule.exchange_state()
    }

    fn restore_exchange(&mut self, bytes: &[u8]) -> Result<()> {
        self.rule.restore_exchange(&self.own, bytes)
    }
}

/// `y ← y ∘ (1 + t (g − 1))` for every row: a scaling by `g` with strength `t`. g: `[C]`.
pub fn scale(g: &[f32], t: f32, y: &mut Tile) {
    for i in 0..y.n() {
        y.row(i).iter_mut().zip(g).for_each(|(y, g)| *y *= 1.0 + t * (g - 1.0));
    }
}

/// The backward pass through [`scale`]: `dg += t Σ dy ∘ y0`, if it is wanted, and `dy ← dy ∘ (1 + t (g − 1))`.
pub fn scale_backward(g: &[f32], t: f32, y0: View, dy: &mut [f32], dg: Option<&mut [f32]>) {
    if let Some(dg) = dg {
        for (i, dy) in dy.chunks_exact(g.len()).enumerate() {
            dg.iter_mut().zip(dy).zip(y0.row(i)).for_each(|((dg, dy), y0)| *dg += t * dy * y0);
        }
    }
    for dy in dy.chunks_exact_mut(g.len()) {
        dy.iter_mut().zip(g).for_each(|(dy, g)| *dy *= 1.0 + t * (g - 1.0));
    }
}
