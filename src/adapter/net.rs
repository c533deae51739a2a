//! A small network that makes the rows of another adapter while that is trained: a prefix (Li and Liang, arXiv:2101.00190)
//! or virtual tokens (P-tuning, arXiv:2103.10385). Once it is trained its rows alone are left: [`Adapter::outcome`].
//!
//! ```text
//! H = tanh(E·Wᵀ + c)     E [L, b], W [b, b], c [b]: a row of E for each row before the text
//! P = H·U + u            U [b, C], u [C]: for each part [L, C] of the other adapter
//! ```
//! E starts uniform in ±1, W in ±1/√b, U in ±g/√b with a factor g of the kind, and c and u at zero.

use super::file::{self, Stored};
use super::lowrank::{add_outer, add_products, kaiming, products};
use super::{Adapter, At, Base, Frozen, Into, Kind, NewPart, Part, Seen, Shape, Slot, Spec, Start};
use crate::container::head::Head;
use crate::error::{Error, Result};
use crate::kernel::{Buffer, Compute, Tile, View};
use crate::knob::{Domain, Knob, Values};
use crate::math;
use crate::rng::{GENERATOR, Stream};
use std::prelude::v1::*;

/// Width of the network.
pub static HIDDEN: Knob = Knob {
    name: "hidden",
    about: "Width of the network that makes the rows while they are trained",
    metavar: "B",
    domain: Domain::Whole { low: 1, high: 4096 },
};

/// What a network makes.
pub struct Plan {
    /// Its own row.
    pub kind: &'static Kind,
    /// The kind whose parameters it makes; its settings are settings of `kind` too.
    pub makes: &'static Kind,
    /// The factor of U at the start.
    pub gain: f32,
}

/// Parts of the network that come before those of the rows.
const SHARED: usize = 3;

/// The adapter: a network, and what it makes.
pub struct Net {
    plan: &'static Plan,
    shape: Shape,
    params: Vec<f32>,
    values: Values,
    seed: u64,
    /// H.
    hidden: Vec<f32>,
    made: Box<dyn Adapter>,
}

impl Plan {
    /// The specification of what is made.
    fn made(&self, values: &Values, layers: Option<Vec<usize>>, seed: u64) -> Spec {
        let mut spec = Spec { layers, seed, ..Spec::new(self.makes.name) };
        for (name, value) in values.iter().filter(|(name, _)| self.makes.knobs.iter().any(|k| k.knob.name == *name)) {
            spec.values.set(name, value.clone());
        }
        spec
    }

    /// The description of a new one.
    ///
    /// # Errors
    /// Those of the kind that is made.
    pub fn shape(&self, spec: &Spec, base: &Base) -> Result<Shape> {
        let values = spec.values()?;
        Ok(shape((self.makes.shape)(&self.made(&values, spec.layers.clone(), spec.seed), base)?, &values))
    }

    /// A new one.
    ///
    /// # Errors
    /// Those of the kind that is made.
    pub fn create(&'static self, spec: &Spec, base: &Base) -> Result<Box<dyn Adapter>> {
        let values = spec.values()?;
        let made = (self.makes.create)(&self.made(&values, spec.layers.clone(), spec.seed), base)?;
        let mut net = Net::new(self, values, spec.seed, made);
        let mut params = vec![0.0; net.shape.size.params];
        for (i, part) in net.shape.parts.iter().enumerate() {
            net.start(i, &mut params[part.range.clone()]);
        }
        net.params = params;
        Ok(Box::new(net))
    }

    /// One from a file.
    ///
    /// # Errors
    /// Those of the file and of its settings; `Mismatch` for places where nothing of that kind would be.
    pub fn read(&'static self, stored: Stored) -> Result<Box<dyn Adapter>> {
        let generator = stored.head.text("generator")?;
        if generator != GENERATOR {
            return Err(Error::unsupported("generator", format!("{generator}; this build has {GENERATOR}")));
        }
        let values = Values::read(self.kind.name, self.kind.knobs, stored.head)?;
        let seed = stored.head.integer("seed")?;
        let layers: Vec<usize> = stored.places.iter().filter_map(|(place, _)| place.layer()).collect();
        let layers = Some(layers).filter(|layers| !layers.is_empty());
        let spec = self.made(&values, layers, seed);
        let made = (self.makes.shape)(&spec, stored.base)?;
        if made.places() != stored.places {
            return Err(Error::mismatch("targets of the adapter", self.makes.about, "other places"));
        }
        // The file has all parameters before there is room for what they make.
        let own = shape(made.clone(), &values);
        let params = stored.params(&own.parts, |part, out| self.start(&own, &made, seed, part, out))?;
        let made = (self.makes.create)(&spec, stored.base)?;
        Ok(Box::new(Net { params, ..Net::new(self, values, seed, made) }))
    }
}

impl Plan {
    /// What a part of a network holds before the first step. made: the description of what it makes.
    fn start(&self, shape: &Shape, made: &Shape, seed: u64, part: usize, out: &mut [f32]) {
        if shape.parts[part].start != Start::Given {
            return out.fill(0.0);
        }
        let (of, b) = (|place: &str, role: &str| Stream::new(seed, place, role), shape.parts[0].cols);
        let (stream, bound) = match part.checked_sub(SHARED) {
            None if part == 0 => (of("rows", "network embedding"), 1.0),
            None => (of("rows", "network in"), kaiming(b)),
            Some(i) => {
                let place = made.slots.iter().find(|slot| slot.parts.contains(&(i / 2))).map(|slot| slot.place);
                let place = place.map(|place| place.to_string()).unwrap_or_default();
                (of(&place, made.parts[i / 2].name), self.gain * kaiming(b))
            }
        };
        stream.fill_uniform(0, out);
        out.iter_mut().for_each(|v| *v *= bound);
    }
}

/// The description of a network for an adapter.
fn shape(made: Shape, values: &Values) -> Shape {
    let b = values.whole(HIDDEN.name) as usize;
    let mut shape = Shape { needs: made.needs, size: made.size, ..Shape::default() };
    let rows = made.parts.first().map_or(0, Part::rows);
    let mut add = |NewPart { name, rows, cols, start, group }: NewPart| {
        let first = shape.parts.last().map_or(0, |part: &Part| part.range.end);
        shape.parts.push(Part { name, range: first..first + rows * cols, cols, start, group });
    };
    add(NewPart::new("embedding", rows, b, Start::Given));
    add(NewPart::new("in", b, b, Start::Given));
    add(NewPart::new("in bias", 1, b, Start::Zero));
    for part in &made.parts {
        add(NewPart::new("out", b, part.cols, Start::Given));
        add(NewPart::new("out bias", 1, part.cols, Start::Zero));
    }
    for (i, slot) in made.slots.into_iter().enumerate() {
        // The first one has the network's own parts too.
        let first = if i == 0 { 0 } else { SHARED + 2 * slot.parts.start };
        shape.slots.push(Slot { parts: first..SHARED + 2 * slot.parts.end, ..slot });
    }
    let of = made.size;
    shape.size.params = shape.parts.last().map_or(0, |part| part.range.end);
    // What is made and its gradients, H and two gradients of it.
    shape.size.derived = of.derived + 2 * of.params + 3 * rows * b;
    shape.size.gathered = if of.gathered > 0 { of.gathered } else { of.params };
    shape
}

impl Net {
    fn new(plan: &'static Plan, values: Values, seed: u64, made: Box<dyn Adapter>) -> Net {
        let shape = shape(made.shape().clone(), &values);
        Net { plan, shape, params: Vec::new(), values, seed, hidden: Vec::new(), made }
    }

    fn part(&self, i: usize) -> &[f32] {
        &self.params[self.shape.parts[i].range.clone()]
    }

    /// Its width, and the rows that it makes.
    fn sizes(&self) -> [usize; 2] {
        [self.values.whole(HIDDEN.name) as usize, self.shape.parts[0].rows()]
    }
}

/// `g += Σ rows`. g: `[C]`.
fn add_rows(rows: View, g: &mut [f32]) {
    (0..rows.n).for_each(|i| crate::nn::add(rows.row(i), g));
}

impl Adapter for Net {
    fn kind(&self) -> &'static Kind {
        self.plan.kind
    }

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn params(&self) -> &[f32] {
        &self.params
    }

    fn params_mut(&mut self) -> &mut [f32] {
        &mut self.params
    }

    fn prepare(&mut self, cx: &Compute, frozen: &dyn Frozen) -> Result<()> {
        let [b, n] = self.sizes();
        let mut hidden = core::mem::take(&mut self.hidden);
        hidden.resize(n * b, 0.0);
        products(cx, View::new(self.part(0), n, b), View::new(self.part(1), b, b), 1.0, &mut hidden);
        for row in hidden.chunks_exact_mut(b) {
            row.iter_mut().zip(self.part(2)).for_each(|(h, c)| *h = math::tanh(*h + c, math::exp(-2.0 * (*h + c).abs())));
        }
        for j in 0..self.made.shape().parts.len() {
            let Part { range, cols, .. } = self.made.shape().parts[j].clone();
            let [up, bias] = [0, 1].map(|i| &self.params[self.shape.parts[SHARED + 2 * j + i].range.clone()]);
            let rows = &mut self.made.params_mut()[range];
            rows.chunks_exact_mut(cols).for_each(|row| row.copy_from_slice(bias));
            add_products(cx, View::new(&hidden, n, b), View::new(up, b, cols), &mut Tile::new(rows, n, cols));
        }
        self.hidden = hidden;
        self.made.prepare(cx, frozen)
    }

    fn forward(&self, at: &At, x: View, y: &mut Tile, scratch: &mut Buffer) {
        self.made.forward(at, x, y, scratch);
    }

    fn backward(&self, at: &At, seen: &Seen, dy: &mut [f32], into: Into, scratch: &mut Buffer) {
        self.made.backward(at, seen, dy, into, scratch);
    }

    fn reduce(&self, cx: &Compute, frozen: &dyn Frozen, acc: &[f32], grads: &mut [f32]) {
        let [b, n] = self.sizes();
        let (mut drows, mut dh, mut more) = (vec![0.0; self.made.params().len()], vec![0.0; n * b], vec![0.0; n * b]);
        self.made.reduce(cx, frozen, acc, &mut drows);
        grads.fill(0.0);
        let hidden = View::new(&self.hidden, n, b);
        for (j, part) in self.made.shape().parts.iter().enumerate() {
            let (i, drows) = (SHARED + 2 * j, View::new(&drows[part.range.clone()], n, part.cols));
            add_outer(cx, hidden, drows, &mut grads[self.shape.parts[i].range.clone()]);
            add_rows(drows, &mut grads[self.shape.parts[i + 1].range.clone()]);
            products(cx, drows, View::new(self.part(i), b, part.cols), 1.0, &mut more);
            crate::nn::add(&more, &mut dh);
        }
        dh.iter_mut().zip(&self.hidden).for_each(|(d, h)| *d *= 1.0 - h * h);
        let dh = View::new(&dh, n, b);
        let at = |i: usize| self.shape.parts[i].range.clone();
        add_products(cx, dh, View::new(self.part(1), b, b), &mut Tile::new(&mut grads[at(0)], n, b));
        add_outer(cx, dh, View::new(self.part(0), n, b), &mut grads[at(1)]);
        add_rows(dh, &mut grads[at(2)]);
    }

    fn start(&self, part: usize, out: &mut [f32]) {
        self.plan.start(&self.shape, self.made.shape(), self.seed, part, out);
    }

    fn changes_something(&self) -> bool {
        self.made.changes_something()
    }

    fn outcome(&self) -> Option<&dyn Adapter> {
        Some(&*self.made)
    }

    fn record(&self, head: &mut Head) -> Vec<(&'static str, Vec<u8>)> {
        file::set_places(head, &self.shape.places());
        self.values.write(head);
        head.set("seed", self.seed).set("generator", GENERATOR);
        Vec::new()
    }
}
