//! Adapters: small trained changes of a frozen model.
//!
//! An adapter changes rows `y` given rows `x` at a [`Place`]. Everything about it that others must know (where it stands,
//! parts, sizes, what it needs) is data, its [`Shape`]. [`Adapter`] is what a kind must do, [`KINDS`] lists the kinds, a
//! file each. An adapter knows the model by what that tells of itself ([`Base`]); it knows nothing of the layers around it.
//!
//! `place.rs` are the places, `base.rs` is what a model tells, `shape.rs` the description; `stack.rs` says who stands where
//! once adapters are attached. Kinds fill in one of two adapters, `lowrank.rs` or `direct.rs`. `file.rs` is the way to
//! and from our container, `peft.rs` and `gguf_adapter.rs` read what other programs trained.
//!
//! # Laws
//! Tested for every row of [`KINDS`]: with strength 0 the model is the base to the bit; the backward pass agrees with
//! finite differences, alone and in a stack; saved and loaded is equal, and saved again is the same bytes; another base is
//! refused; neither threads nor tiling change a bit.

mod base;
pub mod basis;
pub mod direct;
pub mod file;
pub mod gguf_adapter;
mod json;
pub mod kinds;
pub mod lowrank;
pub mod peft;
pub mod place;
pub mod safetensors;
mod shape;
pub mod small;
pub mod spec;
mod stack;

pub use base::{Base, Frozen, Shapes, gguf_row};
pub use file::{Fit, Info, Provenance, from_bytes, from_bytes_for_shapes, info, restore, to_bytes, to_bytes_as};
pub use kinds::{KINDS, lora, nola};
pub use place::{Place, Site, Spot, parse_layers, parse_targets};
pub use shape::{Group, Needs, NewPart, Part, Shape, Size, Slot, Start};
pub use spec::Spec;
pub use stack::{Attached, Member, Ready, Stack};

use crate::container::head::Head;
use crate::error::{Error, Result};
use crate::kernel::{Buffer, Compute, Tile, View};
use crate::knob::Setting;
use crate::nn::attention::Heads;
use crate::role::Role;
use std::prelude::v1::*;

/// Largest rank.
pub const MAX_RANK: usize = 1024;

/// A change of a frozen model.
///
/// Its strength belongs to the attachment ([`At::strength`]): with 1 it acts as it was trained, with 0 it is never called,
/// and every kind's page says what lies between. After any change of the parameters [`Adapter::prepare`] must run before
/// the adapter is used; [`Ready`] and the trainer see to that.
pub trait Adapter: Send + Sync {
    /// Its row of [`KINDS`].
    fn kind(&self) -> &'static Kind;

    /// What it is but for the values of its parameters.
    fn shape(&self) -> &Shape;

    /// What is trained, in one piece.
    fn params(&self) -> &[f32];

    /// The same, to change.
    fn params_mut(&mut self) -> &mut [f32];

    /// Brings what is derived from the parameters and the frozen weights up to date.
    ///
    /// # Errors
    /// `Mismatch` if the frozen model lacks something that it needs.
    fn prepare(&mut self, _cx: &Compute, _frozen: &dyn Frozen) -> Result<()> {
        Ok(())
    }

    /// Changes `y`, which holds what the frozen model and the adapters before this one made of `x`. Shapes are those of the
    /// place. `scratch` grows once and is shared by all calls.
    fn forward(&self, at: &At, x: View, y: &mut Tile, scratch: &mut Buffer);

    /// The backward pass: adds to what `into` holds. `dy`, `[N, out]`, enters as the gradient of what [`Adapter::forward`] left in
    /// `y`, and leaves as that of what it was given; only kinds whose [`Needs::rescales`] is set may change it. `into.acc` has
    /// as many values as [`Size::gathered`] says, or as there are parameters, and starts as zeros.
    fn backward(&self, at: &At, seen: &Seen, dy: &mut [f32], into: Into, scratch: &mut Buffer);

    /// The gradients of the parameters from what `backward` gathered: once a step. `grads` is overwritten.
    fn reduce(&self, _cx: &Compute, _frozen: &dyn Frozen, acc: &[f32], grads: &mut [f32]) {
        grads.copy_from_slice(acc);
    }

    /// The values that a part held before the first step.
    fn start(&self, part: usize, out: &mut [f32]) {
        out.fill(if self.shape().parts[part].start == Start::One { 1.0 } else { 0.0 });
    }

    /// Whether it would change any output at all.
    fn changes_something(&self) -> bool {
        let shape = self.shape();
        let mut start = Vec::new();
        shape.parts.iter().enumerate().any(|(i, part)| {
            start.resize(part.range.len(), 0.0);
            self.start(i, &mut start);
            self.params()[part.range.clone()] != start[..]
        })
    }

    /// What a file says of it beside base and parameters: facts of the head, and sections.
    fn record(&self, head: &mut Head) -> Vec<(&'static str, Vec<u8>)>;

    /// Changes its shape after a step, if it wants to: says so by `true`. A part keeps its place among the parts and its
    /// old values in its upper left corner; what optimisers remember of them stays, and of new ones it is zero. `grads` are
    /// those of the step.
    fn grow(&mut self, _step: u64, _grads: &[f32]) -> bool {
        false
    }
}

/// Where and how an adapter acts in one call.
pub struct At<'a> {
    /// What computes.
    pub cx: &'a Compute,
    /// Where.
    pub place: Place,
    /// The number of that place among [`Shape::slots`].
    pub slot: usize,
    /// The strength of the attachment.
    pub strength: f32,
    /// The heads of the block; outside of blocks those of the first.
    pub heads: Heads,
    /// The log-sum-exp of attention's scores, `[N, H]`, for those that need it.
    pub lse: Option<View<'a>>,
}

/// What the forward pass saw, for the backward pass.
pub struct Seen<'a> {
    /// The rows that came in.
    pub x: View<'a>,
    /// The rows that it changed, as they were before, if [`Needs::output`] is set.
    pub y0: Option<View<'a>>,
}

impl<'a> Seen<'a> {
    /// The rows that were changed, as they were.
    ///
    /// # Panics
    /// If the shape did not ask for them.
    pub fn output(&self) -> View<'a> {
        self.y0.expect("the shape says that the output is needed")
    }
}

/// Where the gradients of a backward pass go; all of them are added to.
pub struct Into<'a, 'x, 'l> {
    /// Of the rows that came in.
    pub dx: Option<&'a mut Tile<'x>>,
    /// Of the log-sum-exp, `[N, H]`, for those that need it.
    pub dlse: Option<&'a mut Tile<'l>>,
    /// What the parameters' gradients are made of, if the adapter is trained.
    pub acc: Option<&'a mut [f32]>,
}

/// One row of [`KINDS`].
pub struct Kind {
    /// As files and people call it.
    pub name: &'static str,
    /// What it is, in a few words.
    pub about: &'static str,
    /// The highest learning rate that suits it, where nothing is said.
    pub rate: f32,
    /// Its settings, with their defaults.
    pub knobs: &'static [Setting],
    /// The linear layers that it usually changes; empty for one that stands elsewhere.
    pub targets: &'static [Role],
    /// What a fresh one would be.
    pub shape: fn(&Spec, &Base) -> Result<Shape>,
    /// A fresh one.
    pub create: fn(&Spec, &Base) -> Result<Box<dyn Adapter>>,
    /// One from a file.
    pub read: fn(file::Stored) -> Result<Box<dyn Adapter>>,
    /// Names of the sections that [`Adapter::record`] may write.
    pub sections: &'static [&'static str],
    /// Those of them that say how far one has grown: [`Adapter::grow`].
    pub grown: &'static [&'static str],
}

impl Kind {
    /// # Errors
    /// `Unsupported` if this build does not know it.
    pub fn by_name(name: &str) -> Result<&'static Kind> {
        KINDS.iter().find(|k| k.name == name).copied().ok_or_else(|| Error::unsupported("adapter kind", name))
    }
}

/// A fresh adapter.
///
/// # Errors
/// `Unsupported` for an unknown kind; those of [`Spec::layout`].
pub fn create(spec: &Spec, base: &Base) -> Result<Box<dyn Adapter>> {
    (Kind::by_name(&spec.kind)?.create)(spec, base)
}
