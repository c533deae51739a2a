//! Adapters: small trained changes of a frozen model.
//!
//! An adapter changes rows `y` given rows `x` at a [`Place`]. Everything that other code must know about it (places,
//! parts, sizes, needs) is data, its [`Shape`]. A kind of adapter implements [`Adapter`]; [`KINDS`] lists the kinds,
//! one file each. An adapter knows the model by its description, [`Base`], and nothing about the layers around its
//! places.
//!
//! `place.rs` has the places, `base.rs` the description of a model, `shape.rs` that of an adapter, and `stack.rs` the
//! attached adapters. Kinds build on one of two adapters, `lowrank.rs` or `direct.rs`; `settled.rs` has low-rank kinds whose
//! layout follows from their settings, `frame.rs` those that use the frozen rows, `triplet.rs` those with a factor for each
//! rank, `small.rs` the layers of bottlenecks, and `net.rs` kinds that end as another one. `profile.rs` shares ranks out over
//! the depth, and `budget.rs` chooses a kind and its size for a file. `file.rs` reads and writes mynah's container, and
//! `probe.rs` what it may hold as a proof of effect; `changes.rs` has what other programs can have of an adapter, and `peft`,
//! `mlx.rs` and `gguf_adapter.rs` read and write their formats; `folder.rs` tells folders apart; `merge/` makes one adapter of
//! several.
//!
//! # Laws
//! Tested for every row of [`KINDS`]: with strength 0 the model is the base to the bit; the backward pass agrees with
//! finite differences, alone and in a stack; saving and loading gives an equal adapter, and saving that gives the same
//! bytes; another base is refused; neither threads nor tiling change a bit.

mod base;
mod changes;
internal!(algebra basis direct);
pub mod budget;
pub mod compress;
pub mod file;
#[cfg(feature = "std")]
pub mod folder;
mod foreign;
pub mod gguf_adapter;
mod json;
pub mod kinds;
internal!(frame lowrank);
pub mod merge;
pub mod mlx;
internal!(net);
mod pattern;
pub mod peft;
pub mod place;
pub mod probe;
pub mod profile;
internal!(safetensors);
mod shape;
internal!(settled small);
pub mod spec;
mod stack;
mod triplet;

pub use base::{Base, Frozen, Shapes, gguf_row};
pub use file::{Fit, Info, Provenance, from_bytes, from_bytes_for_shapes, info, restore, to_bytes, to_bytes_as};
pub use kinds::{FOR_SIZE, KINDS, lora, nola};
pub use place::{Place, Site, Spot, parse_layers, parse_targets};
pub use probe::Probe;
pub use shape::{Group, Needs, NewPart, Part, Shape, Size, Slot, Start};
pub use spec::Spec;
pub use stack::{Attached, Member, Ready, Stack};

use crate::container::head::Head;
use crate::error::{Error, Result};
use crate::kernel::{Buffer, Compute, Tile, View};
use crate::knob::{Knob, Setting};
use crate::nn::attention::Heads;
use crate::role::Role;
use core::ops::Range;
use std::prelude::v1::*;

/// Largest rank.
pub const MAX_RANK: usize = crate::bytes::Limits::DEFAULT.rank as usize;

/// A change of a frozen model.
///
/// Its strength belongs to the attachment ([`At::strength`]): with 1 it acts as trained, with 0 it is never called, and
/// the page of each kind defines the other values. After any change of the parameters, [`Adapter::prepare`] must run
/// before the adapter is used; [`Ready`] and the trainer ensure this.
pub trait Adapter: Send + Sync {
    /// Its row of [`KINDS`].
    fn kind(&self) -> &'static Kind;

    /// Its description: everything except for the values of its parameters.
    fn shape(&self) -> &Shape;

    /// The trained parameters, as one slice.
    fn params(&self) -> &[f32];

    /// The trained parameters, for changes.
    fn params_mut(&mut self) -> &mut [f32];

    /// Updates everything that is derived from the parameters and the frozen weights.
    ///
    /// # Errors
    /// `Mismatch` if the frozen model lacks something that the adapter needs.
    fn prepare(&mut self, _cx: &Compute, _frozen: &dyn Frozen) -> Result<()> {
        Ok(())
    }

    /// Changes `y`, which holds the result of the frozen model and of the adapters before this one for `x`. Shapes are
    /// those of the place. `scratch` grows once and is shared by all calls.
    fn forward(&self, at: &At, x: View, y: &mut Tile, scratch: &mut Buffer);

    /// The backward pass: adds to the gradients in `into`. On entry `dy`, `[N, out]`, is the gradient of the `y` after
    /// [`Adapter::forward`]; on return it is that of the `y` before. Only kinds with [`Needs::rescales`] may change it.
    /// `into.acc` has [`Size::gathered`] values, or one for each parameter if that is 0, and is zero at the start of a
    /// step.
    ///
    /// At a state, [`Seen::y`] has the rows after the change. Where a kind with [`Needs::aside`] is trained, it is called
    /// twice: last layer to first with rows `x` of no width, when it may only change `dy`, and then first to last with `x`
    /// and the gradient of the state after that layer.
    fn backward(&self, at: &At, seen: &Seen, dy: &mut [f32], into: Into, scratch: &mut Buffer);

    /// The gradients of the parameters, from the sums in `acc`; called once a step. `grads` is overwritten.
    fn reduce(&self, _cx: &Compute, _frozen: &dyn Frozen, acc: &[f32], grads: &mut [f32]) {
        grads.copy_from_slice(acc);
    }

    /// A term of the loss that depends on the parameters alone; called once a step, after [`Adapter::reduce`]. Adds its
    /// gradient to `grads` and returns its value.
    fn penalty(&self, _cx: &Compute, _grads: &mut [f32]) -> f64 {
        0.0
    }

    /// The values of a part before the first step.
    fn start(&self, part: usize, out: &mut [f32]) {
        out.fill(if self.shape().parts[part].start == Start::One { 1.0 } else { 0.0 });
    }

    /// Whether it changes any output.
    fn changes_something(&self) -> bool {
        let shape = self.shape();
        let mut start = Vec::new();
        shape.parts.iter().enumerate().any(|(i, part)| {
            start.resize(part.range.len(), 0.0);
            self.start(i, &mut start);
            self.params()[part.range.clone()] != start[..]
        })
    }

    /// Its factors, prepared, where it is a low-rank change of linear layers: what other programs can have of it.
    fn low_rank(&self) -> Option<(&lowrank::Layout, &[f32])> {
        None
    }

    /// Whether its change at a place can be made part of the frozen weights there.
    fn bakes(&self, _place: Place) -> bool {
        false
    }

    /// Makes its change part of rows `rows` of the matrix of a place: `w`, `[rows, in]`. Called only where it
    /// [bakes](Adapter::bakes), on one thread at a time for the same rows.
    fn bake(&self, _at: &At, _rows: Range<usize>, _w: &mut Tile) {}

    /// The same of the bias that is added to that matrix's product, `[out]`.
    fn bake_bias(&self, _at: &At, _bias: &mut [f32]) {}

    /// Its record in a file, beside base and parameters: facts of the head, and sections.
    fn record(&self, head: &mut Head) -> Vec<(&'static str, Vec<u8>)>;

    /// The adapter that is left once training is over, where that is another one: with the same effect and fewer parameters.
    /// It is prepared when this one is.
    fn outcome(&self) -> Option<&dyn Adapter> {
        None
    }

    /// May change its parameters after a step. If it changes its shape too, it returns `true`. A part keeps its index among the parts, and its old
    /// values in its upper left corner. The optimiser's state of old values is kept; that of new ones starts at zero.
    /// `grads` are those of the step.
    fn grow(&mut self, _step: u64, _grads: &[f32]) -> bool {
        false
    }

    /// Whether some of its values may become those of other places while it is trained: [`Adapter::exchange`].
    fn exchanges(&self) -> bool {
        false
    }

    /// May exchange values after a step, and then says what each value was before; there are as many as before. `grads` are
    /// the gradients of the step, `acc` the sums of `backward`.
    fn exchange(&mut self, _step: Step, _grads: &[f32], _acc: &[f32]) -> Option<Vec<Origin>> {
        None
    }

    /// Its statistics for the next exchange. This belongs to a training run: checkpoints hold it, and adapter files do not.
    fn exchange_state(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Continues with what [`Adapter::exchange_state`] returned for the same parameters.
    ///
    /// # Errors
    /// `Corrupt` if that is of another adapter.
    fn restore_exchange(&mut self, bytes: &[u8]) -> Result<()> {
        match bytes.is_empty() {
            true => Ok(()),
            false => Err(Error::corrupt(
                format!("{} bytes for an exchange, and {} has none", bytes.len(), self.kind().name),
                0,
            )),
        }
    }
}

/// A step of a training run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its number, from 1.
    pub number: u64,
    /// The number of the last one.
    pub last: u64,
}

/// What a value was before an [exchange](Adapter::exchange).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Origin {
    /// The value of that index.
    Kept(usize),
    /// A new one, and what is known of its gradients.
    New(Known),
}

/// What is known of the gradients of a value that was not trained before.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Known {
    /// Their mean.
    pub mean: f32,
    /// The mean of their squares.
    pub square: f32,
    /// How many there were: the age that the value begins with.
    pub samples: u32,
    /// Whether an optimiser that corrects its moments by age should find these means after the correction; else it begins with
    /// the means themselves.
    pub corrected: bool,
}

/// Where and how an adapter acts in one call.
pub struct At<'a> {
    /// Kernels and threads.
    pub cx: &'a Compute,
    /// The place.
    pub place: Place,
    /// The index of that place among [`Shape::slots`].
    pub slot: usize,
    /// The strength of the attachment.
    pub strength: f32,
    /// The heads of the block; outside of blocks, those of the first block.
    pub heads: Heads,
    /// The log-sum-exp of the attention scores, `[N, H]`, for adapters that need it.
    pub lse: Option<View<'a>>,
}

/// Rows of the forward pass, for the backward pass.
pub struct Seen<'a> {
    /// The rows `x`.
    pub x: View<'a>,
    /// The rows `y` before they were changed, if [`Needs::output`] is set.
    pub y0: Option<View<'a>>,
    /// The rows `y` after they were changed, at a state whose rows before are needed.
    pub y: Option<View<'a>>,
}

impl<'a> Seen<'a> {
    /// The rows `y` before they were changed.
    ///
    /// # Panics
    /// If the shape does not need them.
    pub fn output(&self) -> View<'a> {
        self.y0.expect("the shape says that the output is needed")
    }

    /// The rows `y` after they were changed.
    ///
    /// # Panics
    /// If this is no state, or the shape does not need its rows.
    pub fn changed(&self) -> View<'a> {
        self.y.expect("the shape says that a state is needed")
    }
}

/// The buffers to which a backward pass adds gradients.
pub struct Into<'a, 'x, 'l> {
    /// The gradient of the rows `x`.
    pub dx: Option<&'a mut Tile<'x>>,
    /// The gradient of the log-sum-exp, `[N, H]`, for adapters that need it.
    pub dlse: Option<&'a mut Tile<'l>>,
    /// The sums from which [`Adapter::reduce`] computes the parameters' gradients, if the adapter is trained.
    pub acc: Option<&'a mut [f32]>,
}

/// One row of [`KINDS`].
pub struct Kind {
    /// Its name in files and on command lines.
    pub name: &'static str,
    /// A short description.
    pub about: &'static str,
    /// The default peak learning rate.
    pub rate: f32,
    /// Its settings, with their defaults.
    pub knobs: &'static [Setting],
    /// The linear layers that it changes by default; empty for a kind with other places.
    pub targets: &'static [Role],
    /// The description of a new adapter.
    pub shape: fn(&Spec, &Base) -> Result<Shape>,
    /// Creates a new adapter.
    pub create: fn(&Spec, &Base) -> Result<Box<dyn Adapter>>,
    /// Reads an adapter from a file.
    pub read: fn(file::Stored) -> Result<Box<dyn Adapter>>,
    /// Names of the sections that [`Adapter::record`] may write.
    pub sections: &'static [&'static str],
    /// Those of them that describe the growth of an adapter: [`Adapter::grow`].
    pub grown: &'static [&'static str],
    /// The codec through whose values it is trained where nothing else is said: a name of [`compress::COMPRESSORS`].
    pub codec: Option<&'static str>,
    /// The setting that its number of parameters follows, if it has one: [`budget`].
    pub size: Option<&'static Knob>,
}

impl Kind {
    /// # Errors
    /// `Unsupported` if this build does not know it.
    pub fn by_name(name: &str) -> Result<&'static Kind> {
        KINDS.iter().find(|k| k.name == name).copied().ok_or_else(|| Error::unsupported("adapter kind", name))
    }
}

/// Creates a new adapter.
///
/// # Errors
/// `Unsupported` for an unknown kind; those of [`Spec::layout`].
pub fn create(spec: &Spec, base: &Base) -> Result<Box<dyn Adapter>> {
    (Kind::by_name(&spec.kind)?.create)(spec, base)
}
