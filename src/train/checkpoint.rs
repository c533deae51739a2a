//! Checkpoints: everything that a run needs to continue as if it had never stopped, to the last bit.
//!
//! ```text
//! mynah's container, kind `train`
//! head      facts that determine what a run computes; a run with a different one is refused
//! state     facts: `step`; `epoch` and `left`, position in the data of the next step
//! adapter   an adapter file, its parameters in f32; or
//! weights   all weights, f32
//! unrounded the parameters before they went through the codec of training, f32; only where there is one
//! exchange  the adapter's statistics for the next exchange of its values; only where it exchanges any
//! o.NAME    a piece of the optimiser's state: u64 kind (0 floats, 1 bytes, 2 counter, 3 number), then the values
//! g.NAME    a piece of the objective's state, likewise
//! n.NAME    sections of the caller; optional
//! ```
//!
//! The schedule is a function of the step, and every random choice one of a seed and a position: the facts and the
//! state hold both. The caller stores the bytes; [`super::folder`] keeps them in a folder.

use super::data::Order;
use super::state::State;
use super::{Config, Dropout, Gradient, Recompute, Trained, Trainer, Zeroth};
use crate::adapter::{self, Adapter, Base, Provenance, Stack};
use crate::bytes::{Bytes, Cursor, Limits};
use crate::container::head::{Field, Head};
use crate::container::{Builder, Container};
use crate::error::{Change, Error, Result};
use crate::model::ActType;
use crate::nn::linear::Precision;
use std::borrow::Cow;
use std::prelude::v1::*;
use std::sync::Arc;

const KIND: &str = "train";

/// The fact that says how many blocks save their activations, where these are rounded.
pub const SAVED_BLOCKS: &str = "blocks that keep activations";

/// The facts of `config`: everything that determines the result, and nothing else.
fn describe(config: &Config, facts: &mut Head) {
    // Every field is listed, so that a new one cannot be forgotten here. Slices change no bit.
    let Config {
        lr,
        steps,
        schedule,
        warmup,
        clip,
        objective,
        gradient,
        optimizer,
        precision,
        recompute,
        act_type,
        slice: _,
        dropout,
        codec,
    } = config;
    if let Some(codec) = codec {
        // What cannot be used was refused before the run began.
        _ = codec.facts(facts);
    }
    objective.facts(facts);
    if let Gradient::Zeroth(Zeroth { eps, directions, seed }) = gradient {
        facts.set("gradients estimated along", u64::from(*directions)).set("seed of directions", *seed);
        facts.set("moved by", eps.to_string());
    }
    optimizer.facts(facts);
    facts.set("steps", *steps).set("schedule", format!("{schedule:?}").to_lowercase()).set("warm-up", *warmup);
    facts.set("activations kept as", format!("{act_type:?}").to_lowercase());
    if let Some(Dropout { rate, seed }) = dropout {
        facts.set("dropout", rate.to_string()).set("seed of dropout", *seed);
    }
    if *precision == Precision::Int8 {
        facts.set("products", "in 8 bits");
    }
    if *act_type != ActType::F32 {
        // A recomputed block starts from a rounded input; saved activations are rounded themselves. So the choice decides
        // bits.
        let blocks = match recompute {
            Recompute::None => "all".into(),
            Recompute::All => "inputs".into(),
            Recompute::AllBut(n) => n.to_string(),
            Recompute::Auto => "auto".into(),
        };
        facts.set(SAVED_BLOCKS, blocks);
    }
    // The shortest texts that read back as the same numbers.
    facts.set("learning rate", lr.to_string()).set("gradient clip", clip.to_string());
}

/// A checkpoint whose every byte was checked.
pub struct Checkpoint {
    container: Container,
    facts: Head,
    step: u64,
    position: (u64, u64),
    limits: Limits,
}

impl Checkpoint {
    /// # Errors
    /// `Corrupt`, `Limit` and `Unsupported` for such bytes; `Mismatch` if they hold something else.
    pub fn read(bytes: Bytes, limits: &Limits) -> Result<Checkpoint> {
        let container = Container::read(bytes, limits)?;
        container.require_kind(KIND)?;
        let head = |name| Head::decode(&container.require(name)?, limits);
        let (facts, state) = (head("head")?, head("state")?);
        let integer = |key| state.integer(key);
        Ok(Checkpoint {
            step: integer("step")?,
            position: (integer("epoch")?, integer("left")?),
            facts,
            container,
            limits: limits.clone(),
        })
    }

    /// Number of steps done.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The facts that determine the run's result.
    pub fn facts(&self) -> &Head {
        &self.facts
    }

    /// A section of the caller.
    ///
    /// # Errors
    /// `Corrupt` if there is none.
    pub fn note(&self, name: &str) -> Result<Bytes> {
        self.container.require(&format!("n.{name}"))
    }

    /// The saved adapter, as the bytes of a file.
    ///
    /// # Errors
    /// `Corrupt` if there is none: all weights are trained.
    pub fn adapter(&self) -> Result<Bytes> {
        self.container.require("adapter")
    }

    /// All differences between `now` and the facts of this run.
    fn changes(&self, now: &Head) -> Vec<Change> {
        let show = |field: Option<&Field>| field.map_or("nothing".into(), Field::to_string);
        let mut keys: Vec<&str> = self.facts.fields().chain(now.fields()).map(|(key, _)| key).collect();
        keys.sort_unstable();
        keys.dedup();
        let differ = keys.into_iter().filter(|key| self.facts.get(key) != now.get(key));
        let change = |key| Change {
            what: crate::error::printable(key),
            was: show(self.facts.get(key)),
            now: show(now.get(key)),
        };
        differ.map(change).collect()
    }
}

/// A piece of state, owned.
enum Piece {
    F32(Vec<f32>),
    U8(Bytes),
    U64(u64),
    F64(f64),
}

impl Piece {
    fn read(name: &str, bytes: &Bytes) -> Result<Piece> {
        let mut cursor = Cursor::new(bytes);
        let bad = |what: &str| Error::corrupt(format!("section {name}: {what}"), 0);
        let kind = cursor.u64()?;
        let rest = bytes.slice(8..bytes.len())?;
        Ok(match kind {
            0 => Piece::F32(read_floats(&rest).ok_or_else(|| bad("no whole number of floats"))?),
            1 => Piece::U8(rest),
            2 | 3 if rest.len() != 8 => return Err(bad("8 bytes wanted")),
            2 => Piece::U64(cursor.u64()?),
            3 => Piece::F64(cursor.f64()?),
            other => return Err(bad(&format!("kind {other}"))),
        })
    }

    fn state(&self) -> State<'_> {
        match self {
            Piece::F32(v) => State::F32(v),
            Piece::U8(v) => State::U8(v),
            Piece::U64(v) => State::U64(*v),
            Piece::F64(v) => State::F64(*v),
        }
    }
}

/// Its kind, and its values without a copy.
fn spell(state: State) -> Vec<Cow<[u8]>> {
    let (kind, values): (u64, Cow<[u8]>) = match state {
        State::F32(v) => (0, floats(v)),
        State::U8(v) => (1, v.into()),
        State::U64(v) => (2, v.to_le_bytes().to_vec().into()),
        State::F64(v) => (3, v.to_le_bytes().to_vec().into()),
    };
    vec![kind.to_le_bytes().to_vec().into(), values]
}

/// Little-endian bytes.
fn floats(values: &[f32]) -> Cow<'_, [u8]> {
    match cfg!(target_endian = "little") {
        true => bytemuck::cast_slice(values).into(),
        false => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

fn read_floats(bytes: &[u8]) -> Option<Vec<f32>> {
    let (chunks, rest) = bytes.as_chunks::<4>();
    rest.is_empty().then(|| chunks.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

/// A digest of the attached adapters with their strengths, settings and parameters; `None` if there are none.
fn digest(stack: &Stack, base: &Base) -> Option<blake3::Hash> {
    let mut hash = blake3::Hasher::new();
    for attached in stack.all() {
        hash.update(&attached.strength.to_le_bytes()).update(&adapter::file::facts(&**attached.adapter, base).encode());
        attached.adapter.params().iter().for_each(|v| _ = hash.update(&v.to_le_bytes()));
    }
    (!stack.is_empty()).then(|| hash.finalize())
}

impl Trainer {
    /// The identity of the reference: the base, the adapters beneath, and the precision of products. Files of reference
    /// log-probabilities are bound to it.
    pub fn reference(&self, base: &Base) -> [u8; 32] {
        let own = match self.config.precision {
            Precision::F32 => base.file(),
            // At another precision the reference differs.
            Precision::Int8 => *blake3::keyed_hash(&base.file(), b"products in 8 bits").as_bytes(),
        };
        digest(self.trained.beneath(), base).map_or(own, |d| *blake3::keyed_hash(&own, d.as_bytes()).as_bytes())
    }

    /// All facts that determine what this trainer computes with these rows, independent of its progress.
    fn facts(&self, base: &Base, order: &Order, more: &Head) -> Head {
        let mut facts = match &self.trained {
            Trained::Adapter { stack, beneath, which } => {
                let attached = &stack.all()[*which];
                let mut facts = adapter::file::facts(&**attached.adapter, base);
                if let Some(digest) = digest(beneath, base) {
                    facts.set("attached beneath", digest.to_hex().as_str());
                }
                facts
            }
            Trained::Weights { .. } => {
                let mut facts = Head::new();
                facts.set("kind", "full").set("base.fingerprint", blake3::Hash::from(base.file()).to_hex().as_str());
                facts
            }
        };
        describe(&self.config, &mut facts);
        let cached = self.backprop.cache.is_some();
        facts.set("outputs of frozen blocks as", if cached { "f16" } else { "f32" });
        order.facts(&mut facts);
        for (key, value) in more.fields() {
            facts.set(key, value.clone());
        }
        facts
    }

    /// The bytes of a checkpoint after the last step. `base` describes the model at the start of the run; `order` is
    /// positioned at the next step. `more` are further facts that determine the result, under readable names, above all
    /// the [digest](super::data::digest) of the rows. `notes` are sections of the caller, for its counters and logs.
    ///
    /// # Errors
    /// `Invalid` if a parameter is not finite; `Altered` if the model's file is no longer what it was.
    ///
    /// # Panics
    /// If the name of a note is not one to fourteen characters of `a-z 0-9 . _ -`, or occurs twice.
    pub fn checkpoint(&self, base: &Base, order: &Order, more: &Head, notes: &[(&str, &[u8])]) -> Result<Vec<u8>> {
        self.model.check()?;
        let (epoch, left) = order.position();
        let mut state = Head::new();
        state.set("step", self.step).set("epoch", epoch).set("left", left);
        let mut file = Builder::new(KIND).section("head", true, self.facts(base, order, more).encode()).section(
            "state",
            true,
            state.encode(),
        );
        match &self.trained {
            Trained::Adapter { stack, which, .. } => {
                let adapter = &stack.all()[*which].adapter;
                let bytes = adapter::to_bytes_as(&***adapter, base, &Provenance::default(), "f32")?;
                file = file.section("adapter", true, bytes);
                if adapter.exchanges() {
                    file = file.section("exchange", true, adapter.exchange_state());
                }
                if self.config.codec.is_some() {
                    file = file.section("unrounded", true, floats(&self.unrounded));
                }
            }
            Trained::Weights { flat, .. } => {
                if let Some(i) = flat.iter().position(|v| !v.is_finite()) {
                    return Err(Error::invalid("weights", format!("value {i} is not finite")));
                }
                file = file.section("weights", true, floats(flat));
            }
        }
        for (name, piece) in self.optimizer.state() {
            file = file.pieces(&format!("o.{name}"), true, spell(piece));
        }
        for (name, piece) in self.objective.state() {
            file = file.pieces(&format!("g.{name}"), true, spell(piece));
        }
        for (name, bytes) in notes {
            file = file.section(&format!("n.{name}"), false, *bytes);
        }
        Ok(file.finish())
    }

    /// Resumes from a checkpoint: restores the state of this trainer and of `order`. The trainer must have been created
    /// like the one that wrote the checkpoint. On an error nothing has changed.
    ///
    /// # Errors
    /// `Changed` with every difference if base, data or a setting that determines the result has changed; `Corrupt`,
    /// `Limit`, `Unsupported` and `Mismatch` if the checkpoint is inconsistent.
    pub fn resume(&mut self, saved: &Checkpoint, base: &Base, order: &mut Order, more: &Head) -> Result<()> {
        let changes = saved.changes(&self.facts(base, order, more));
        if !changes.is_empty() {
            return Err(Error::Changed(changes));
        }
        let names = |state: Vec<(&'static str, State)>| state.iter().map(|(name, _)| *name).collect::<Vec<_>>();
        let (wanted, objective) = (names(self.optimizer.state()), names(self.objective.state()));
        let sections = wanted.iter().map(|name| format!("o.{name}"));
        let sections: Vec<String> = sections.chain(objective.iter().map(|name| format!("g.{name}"))).collect();
        let target = match &self.trained {
            Trained::Adapter { .. } => "adapter",
            Trained::Weights { .. } => "weights",
        };
        let unrounded = self.config.codec.as_ref().map(|_| "unrounded");
        let exchange = self.trained.adapter().filter(|adapter| adapter.exchanges()).map(|_| "exchange");
        let known = ["head", "state", target].into_iter().chain(unrounded).chain(exchange);
        let known: Vec<&str> = known.chain(sections.iter().map(String::as_str)).collect();
        saved.container.refuse_unknown(&known)?;
        let read = |name: &String| Piece::read(name, &saved.container.require(name)?);
        let pieces = sections.iter().map(read).collect::<Result<Vec<_>>>()?;
        let (optimizer_pieces, objective_pieces) = pieces.split_at(wanted.len());
        let optimizer_state: Vec<(&str, State)> =
            wanted.iter().copied().zip(optimizer_pieces.iter().map(Piece::state)).collect();
        let objective_state: Vec<(&str, State)> =
            objective.iter().copied().zip(objective_pieces.iter().map(Piece::state)).collect();
        let mut grown = None;
        let params = match &self.trained {
            Trained::Adapter { stack, which, .. } => {
                let now = &stack.all()[*which].adapter;
                let mut held = adapter::file::restore_as(now.kind(), saved.adapter()?, base, &saved.limits)?;
                if let Some(name) = exchange {
                    held.restore_exchange(&saved.container.require(name)?)?;
                }
                let differs = held.params().len() != now.params().len();
                if differs && now.kind().grown.is_empty() {
                    let say = |a: &dyn Adapter| format!("{} of {} parameters", a.kind().name, a.params().len());
                    return Err(Error::mismatch("saved adapter", say(&***now), say(&*held)));
                }
                let params = held.params().to_vec();
                if differs || exchange.is_some() || !now.kind().grown.is_empty() {
                    // The adapter may not be the one that was created, and the optimiser's state is that of its values.
                    let (kind, settings) = self.config.optimizer.row()?;
                    let mut optimizer = (kind.create)(&settings, held.shape().parts.clone());
                    if exchange.is_some() {
                        optimizer.keep_ages();
                    }
                    optimizer.restore(&optimizer_state)?;
                    grown = Some((self.model.ready(held)?, optimizer));
                }
                params
            }
            Trained::Weights { flat, .. } => {
                let held = read_floats(&saved.container.require("weights")?).unwrap_or_default();
                if held.len() != flat.len() || held.iter().any(|v| !v.is_finite()) {
                    let why = format!("section weights: {} finite values wanted", flat.len());
                    return Err(Error::corrupt(why, 0));
                }
                held
            }
        };
        let unrounded = match unrounded {
            Some(name) => {
                let held = read_floats(&saved.container.require(name)?).unwrap_or_default();
                if held.len() != params.len() || held.iter().any(|v| !v.is_finite()) {
                    return Err(Error::corrupt(format!("section {name}: {} finite values wanted", params.len()), 0));
                }
                held
            }
            None => Vec::new(),
        };
        if saved.step > self.config.steps {
            let why = format!("{} steps done of {}", saved.step, self.config.steps);
            return Err(Error::corrupt(why, 0));
        }
        let (before, old_objective) = (order.position(), self.objective.copy());
        order.seek(saved.position)?;
        let moved =
            |trainer: &mut Trainer| if grown.is_some() { Ok(()) } else { trainer.optimizer.restore(&optimizer_state) };
        if let Err(e) = self.objective.restore(&objective_state).and_then(|()| moved(self)) {
            self.objective = old_objective;
            order.seek(before)?;
            return Err(e);
        }
        if let Some((adapter, optimizer)) = grown {
            let shape = adapter.shape().clone();
            if let Trained::Adapter { stack, which, .. } = &mut self.trained {
                stack.swap(*which, adapter, 1.0)?;
            }
            self.optimizer = optimizer;
            self.unrounded = unrounded;
            self.resize(&shape);
            self.step = saved.step;
            return Ok(());
        }
        match &mut self.trained {
            Trained::Adapter { .. } => {
                let Some(adapter) = self.trained.adapter_mut() else { unreachable!("an adapter is trained") };
                adapter.params_mut().copy_from_slice(&params);
                adapter.prepare(&self.model.compute, &self.model)?;
                self.unrounded = unrounded;
            }
            Trained::Weights { offsets, flat, .. } => {
                *flat = Arc::new(params);
                self.model = self.model.with_weights(self.model.weights.from_flat(offsets, flat.clone())?);
            }
        }
        self.step = saved.step;
        Ok(())
    }
}
