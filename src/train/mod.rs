//! Training: an adapter on a frozen base, or all weights of a small model.
//!
//! [`Trainer::step`] does one optimiser step and returns; the caller owns the loop, the clock and the files. `batch.rs`
//! concatenates examples; `backprop.rs` computes gradients and `zeroth.rs` estimates them; `objective` has the losses,
//! `optim` the optimizers, `schedule.rs` the learning-rate schedules. `checkpoint.rs` saves and resumes runs,
//! `folder.rs` manages checkpoint files. In `groups.rs` several adapters of one stack take turns, each with its own data.
//! `feedback.rs` trains on a user's feedback, `journal.rs` stores that. Training
//! runs at f32 precision, with exact gradients, or at int8 precision ([`Config::precision`]), with rounded ones.
//!
//! A step on answers that a user liked and disliked:
//! ```
//! # use mynah::{Result, adapter, model::Model, train::{Config, Example, Trainer, objective}};
//! # fn learn(model: &Model, base: &adapter::Base, liked: &Example, not: &Example) -> Result<()> {
//! let adapter = adapter::create(&adapter::Spec::default(), base)?;
//! let config = Config { objective: objective::Spec::new("bco"), ..Config::default() };
//! let mut trainer = Trainer::adapter(model, adapter, config)?;
//! let mut rows = [liked.clone().judged(true), not.clone().judged(false)];
//! trainer.fill_reference_logps(&mut rows)?; // once for each row, under the base alone
//! let report = trainer.step(&[&rows])?;
//! # let _ = report; Ok(()) }
//! ```

mod backprop;
pub mod batch;
pub mod checkpoint;
pub mod data;
pub mod density;
#[cfg(feature = "chat")]
pub mod feedback;
#[cfg(feature = "std")]
pub mod folder;
mod groups;
#[cfg(feature = "std")]
pub mod journal;
pub mod activation_cache;
pub mod objective;
pub mod optim;
pub mod plan;
pub mod reference;
pub mod schedule;
mod state;
mod zeroth;

pub use backprop::Recompute;
pub use batch::Example;
pub use checkpoint::Checkpoint;
pub use groups::{Group, Groups};
pub use schedule::Schedule;
pub use zeroth::Zeroth;

use crate::adapter::{Adapter, Ready, Shape, Stack, Step, compress, file};
use crate::bytes::zeros;
use crate::error::{Error, Result};
use crate::model::weights::Offsets;
use crate::model::{self, ActType, Model};
use crate::nn::head;
use crate::nn::linear::Precision;
use activation_cache::ActivationCache;
use backprop::{Attached, Backprop, LossFn};
use batch::Batch;
use objective::{Choice, Contrast, Metrics, Objective, Rewards, Shape as Rows, Totals};
use optim::{Optimizer, Part};
use std::prelude::v1::*;
use std::sync::Arc;

/// The settings of a training run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Peak learning rate.
    pub lr: f32,
    /// Optimiser steps of the whole schedule.
    pub steps: u64,
    /// The decay of the rate after the warm-up.
    pub schedule: Schedule,
    /// Warm-up steps, over which the rate rises from 0.
    pub warmup: u64,
    /// Gradient clipping: largest norm of all gradients together; 0 is off.
    pub clip: f32,
    /// The objective.
    pub objective: objective::Spec,
    /// How gradients are computed.
    pub gradient: Gradient,
    /// The optimizer.
    pub optimizer: optim::Spec,
    /// The precision of products with the base. Int8 is for adapters only: losses are those of generation, and
    /// gradients are off by a few percent.
    pub precision: Precision,
    /// Activation checkpointing: which blocks recompute their activations in the backward pass.
    pub recompute: Recompute,
    /// The type of saved activations. 16-bit types round what the backward pass reads, so gradients are rounded; losses are
    /// not.
    pub act_type: ActType,
    /// Rows that are multiplied with the output matrix together, one of `nn::head::SLICES`: fewer need less memory and
    /// more time.
    pub slice: usize,
    /// Dropout on the adapter's input, if any.
    pub dropout: Option<Dropout>,
    /// The values of few bits through which an adapter is trained, from the step on that its row says: the gradients of the
    /// rounded values are those of the unrounded ones.
    pub codec: Option<compress::Spec>,
}

/// Dropout on an adapter's input, in training only. The dropped values follow from the seed, the step, the row and the
/// place, so that neither threads nor a resumed run change a bit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// The fraction of dropped values, above 0 and below 1; the others are multiplied by `1 / (1 − rate)`.
    pub rate: f32,
    /// The seed.
    pub seed: u64,
}

/// How gradients are computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gradient {
    /// By backpropagation.
    Backward,
    /// From forward passes only, for adapters.
    Zeroth(Zeroth),
}

impl Default for Config {
    fn default() -> Self {
        Config {
            lr: 1e-3,
            steps: 100,
            schedule: Schedule::Cosine,
            warmup: 0,
            clip: 1.0,
            objective: objective::Spec::default(),
            gradient: Gradient::Backward,
            optimizer: optim::Spec::default(),
            precision: Precision::F32,
            recompute: Recompute::Auto,
            act_type: ActType::F32,
            slice: head::SLICES[0],
            dropout: None,
            codec: None,
        }
    }
}

impl Config {
    /// The step from which on passes go through the codec; 0 if there is none.
    pub fn codec_from(&self) -> u64 {
        let row = self.codec.as_ref().and_then(|codec| codec.row().ok());
        row.map_or(0, |(kind, _)| libm::ceil(f64::from(kind.from) * self.steps as f64) as u64)
    }

    fn check(&self) -> Result<()> {
        let finite = |name: &str, v: f32, ok: bool| {
            if ok && v.is_finite() { Ok(()) } else { Err(Error::invalid(name, format!("{v} cannot be used"))) }
        };
        finite("learning rate", self.lr, self.lr > 0.0 && self.lr <= 1e3)?;
        finite("gradient clip", self.clip, self.clip >= 0.0)?;
        if let Gradient::Zeroth(zeroth) = &self.gradient {
            zeroth.check()?;
        }
        if let Some(Dropout { rate, .. }) = self.dropout {
            finite("dropout", rate, rate > 0.0 && rate < 1.0)?;
            if self.gradient != Gradient::Backward {
                return Err(Error::invalid("dropout", "estimated gradients have none"));
            }
        }
        if !head::SLICES.contains(&self.slice) {
            let why = format!("{} at a time; one of {:?} can be used", self.slice, head::SLICES);
            return Err(Error::invalid("rows multiplied with the output matrix", why));
        }
        if self.steps == 0 {
            return Err(Error::invalid("steps", "0 steps train nothing"));
        }
        if self.warmup > self.steps {
            return Err(Error::invalid("warm-up", format!("{} steps of {}", self.warmup, self.steps)));
        }
        Ok(())
    }

    /// Whether an adapter can be trained with these settings.
    fn check_adapter(&self, adapter: &dyn Adapter) -> Result<()> {
        let (shape, kind) = (adapter.shape(), adapter.kind().name);
        if adapter.params().is_empty() {
            return Err(Error::invalid("adapter", "it has no parameters to train"));
        }
        if self.dropout.is_some() && !shape.drops() {
            return Err(Error::invalid("dropout", format!("{kind} has no input to apply dropout to")));
        }
        if let Some(codec) = &self.codec {
            codec.row()?;
            if shape.size.params > adapter.params().len() {
                return Err(Error::unsupported("codec of training", format!("{kind}, whose number of values grows")));
            }
        }
        if adapter.exchanges() && self.gradient != Gradient::Backward {
            let message = format!("estimates without a backward pass say nothing of values that {kind} could exchange");
            return Err(Error::invalid("gradient", message));
        }
        Ok(())
    }
}

/// What is trained.
enum Trained {
    /// The adapter `which` of a stack. `beneath` are those that are never trained, the first ones.
    Adapter { stack: Stack, beneath: Stack, which: usize },
    /// All weights, flat.
    Weights { offsets: Offsets, flat: Arc<Vec<f32>>, none: Stack },
}

impl Trained {
    /// All attached adapters.
    fn stack(&self) -> &Stack {
        match self {
            Trained::Adapter { stack, .. } => stack,
            Trained::Weights { none, .. } => none,
        }
    }

    /// The adapters that are never trained: the reference.
    fn beneath(&self) -> &Stack {
        match self {
            Trained::Adapter { beneath, .. } => beneath,
            Trained::Weights { none, .. } => none,
        }
    }

    /// The adapter, if one is trained.
    fn adapter(&self) -> Option<&dyn Adapter> {
        match self {
            Trained::Adapter { stack, which, .. } => stack.all().get(*which).map(|a| &**a.adapter as &dyn Adapter),
            Trained::Weights { .. } => None,
        }
    }

    /// The adapter, for changes. Call [`Adapter::prepare`] afterwards.
    fn adapter_mut(&mut self) -> Option<&mut dyn Adapter> {
        let Trained::Adapter { stack, which, .. } = self else { return None };
        let Some(adapter) = stack.get_mut(*which).and_then(Arc::get_mut) else {
            unreachable!("the trainer alone holds its adapter")
        };
        Some(adapter.adapter_mut())
    }

    /// The adapters of a pass: all that are attached, or those beneath the trained one.
    fn attached<'a>(&'a self, m: &Model, stack: &'a Stack, dropout: Option<(Dropout, u64)>) -> Attached<'a> {
        let (frozen, which) = match self {
            // Cached outputs of frozen blocks belong to the whole stack.
            Trained::Adapter { which, .. } => (self.stack().lowest(m.hparams.layers), *which),
            Trained::Weights { .. } => (0, usize::MAX),
        };
        let dropout = dropout.map(|(d, step)| model::Dropout { rate: d.rate, seed: d.seed, step, which });
        Attached { stack, frozen, dropout }
    }
}

/// The report of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// Steps done, including this one.
    pub step: u64,
    /// The objective's loss before the update; of plain text the mean over the target tokens, in nats.
    pub loss: f64,
    /// A term that the adapter adds to the loss, which `loss` leaves out: [`Adapter::penalty`].
    pub penalty: f64,
    /// Norm of all gradients before clipping.
    pub grad_norm: f64,
    /// The learning rate of this step.
    pub lr: f32,
    /// Tokens read.
    pub tokens: u64,
    /// Target tokens.
    pub targets: u64,
    /// Statistics of rewards, if the objective has rewards.
    pub rewards: Option<Rewards>,
}

/// The evaluation of examples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Assessment {
    /// The objective's loss, a mean over `n`.
    pub loss: f64,
    /// Number of target tokens for plain text, of examples otherwise.
    pub n: u64,
    /// Statistics of rewards, if the objective has rewards.
    pub rewards: Option<Rewards>,
}

/// What of a trainer belongs to what is trained, of which there may be several in [turns](Groups).
struct Turn {
    /// The number of the adapter in its stack.
    which: usize,
    optimizer: Box<dyn Optimizer>,
    objective: Box<dyn Objective>,
    grads: Vec<f32>,
    acc: Vec<f32>,
    unrounded: Vec<f32>,
    lr: f32,
    step: u64,
}

impl Turn {
    /// At the first step. `acc`: [`crate::adapter::Size::gathered`].
    fn new(config: &Config, which: usize, parts: Vec<Part>, acc: usize) -> Result<Turn> {
        let (optimizer, optimizer_values) = config.optimizer.row()?;
        let (objective, objective_values) = config.objective.row()?;
        let params = parts.last().map_or(0, |p| p.range.end);
        Ok(Turn {
            which,
            objective: (objective.create)(&objective_values),
            optimizer: (optimizer.create)(&optimizer_values, parts),
            grads: zeros("gradients", params)?,
            acc: zeros("gradients", if config.gradient == Gradient::Backward { acc } else { 0 })?,
            unrounded: Vec::new(),
            lr: config.lr,
            step: 0,
        })
    }

    fn of_adapter(config: &Config, which: usize, adapter: &dyn Adapter) -> Result<Turn> {
        let shape = adapter.shape();
        let mut turn = Turn::new(config, which, shape.parts.clone(), shape.size.gathered)?;
        if config.codec.is_some() {
            turn.unrounded = zeros("unrounded parameters", adapter.params().len())?;
            turn.unrounded.copy_from_slice(adapter.params());
        }
        if adapter.exchanges() {
            turn.optimizer.keep_ages();
        }
        Ok(turn)
    }
}

/// A training run in memory.
pub struct Trainer {
    model: Model,
    trained: Trained,
    config: Config,
    kind: &'static objective::Kind,
    objective: Box<dyn Objective>,
    /// How texts are compared, if queries should find passages.
    contrast: Option<Contrast>,
    optimizer: Box<dyn Optimizer>,
    backprop: Backprop,
    grads: Vec<f32>,
    /// Sums from which the gradients follow; empty if these are the gradients themselves.
    acc: Vec<f32>,
    /// The unrounded parameters, if the adapter is trained through a codec; else empty.
    unrounded: Vec<f32>,
    step: u64,
    /// Rows of the step that went through the model so far.
    rows: u64,
}

impl Trainer {
    /// Trains `adapter` on the frozen `model`.
    ///
    /// # Errors
    /// `Invalid` for settings that cannot be used.
    pub fn adapter(model: &Model, adapter: Box<dyn Adapter>, config: Config) -> Result<Trainer> {
        Self::on(model, Stack::new(), adapter, config)
    }

    /// Trains `adapter` on top of the adapters `beneath`, which stay frozen like the model.
    ///
    /// # Errors
    /// `Invalid` for settings that cannot be used.
    pub fn on(model: &Model, beneath: Stack, adapter: Box<dyn Adapter>, config: Config) -> Result<Trainer> {
        config.check()?;
        config.check_adapter(&*adapter)?;
        let (mut stack, which) = (beneath.clone(), beneath.all().len());
        let own = Turn::of_adapter(&config, which, &*adapter)?;
        stack.push(model.ready(adapter)?, 1.0)?;
        Self::new(model.clone(), Trained::Adapter { stack, beneath, which }, config, own)
    }

    /// Trains every weight of `model`, in `f32`.
    ///
    /// # Errors
    /// `Invalid` for settings that cannot be used; `Unsupported` for a mixture, whose experts are frozen.
    pub fn full(model: &Model, config: Config) -> Result<Trainer> {
        config.check()?;
        if config.gradient != Gradient::Backward {
            return Err(Error::invalid(
                "gradient",
                "estimates without a backward pass are for adapters, not for all weights",
            ));
        }
        if config.precision == Precision::Int8 {
            return Err(Error::invalid(
                "precision",
                "products in 8 bits are for adapters on a frozen base, not for all weights",
            ));
        }
        if config.dropout.is_some() {
            return Err(Error::invalid("dropout", "it is for adapters, not for all weights"));
        }
        if config.codec.is_some() {
            return Err(Error::invalid("codec", "it is for adapters, not for all weights"));
        }
        if model.hparams.blocks.iter().any(|l| l.mixture.is_some()) {
            return Err(Error::unsupported("training of all weights", "a mixture: its experts are frozen"));
        }
        let offsets = Offsets::of(&model.weights);
        let flat = Arc::new(model.weights.flatten(&offsets)?);
        let model = model.with_weights(model.weights.from_flat(&offsets, flat.clone())?);
        let own = Turn::new(&config, 0, offsets.parts(), 0)?;
        Self::new(model, Trained::Weights { offsets, flat, none: Stack::new() }, config, own)
    }

    fn new(model: Model, trained: Trained, config: Config, own: Turn) -> Result<Trainer> {
        let (kind, objective_values) = config.objective.row()?;
        let contrast = (kind.shape == Rows::Contrast).then(|| Contrast::new(&objective_values, &model.hparams));
        let Turn { optimizer, objective, grads, acc, unrounded, step, .. } = own;
        Ok(Trainer {
            contrast: contrast.transpose()?,
            backprop: Backprop::new(&config),
            rows: 0,
            kind,
            objective,
            optimizer,
            grads,
            acc,
            unrounded,
            step,
            model,
            trained,
            config,
        })
    }

    /// One optimiser step over micro-batches, whose gradients are accumulated. The loss is that of all of them
    /// together; for plain text it is the mean over all target tokens. An objective that estimates a value from other
    /// examples uses those of the same micro-batch. Queries choose among the passages of the whole step: several
    /// micro-batches go through the model twice, first for all embeddings and then for the gradients.
    ///
    /// # Errors
    /// `Invalid` if there is no target token, a token is outside the vocabulary, an example is longer than the model's
    /// context or lacks what the objective needs, and if the loss or a gradient is not finite, or all gradients are
    /// zero although the loss depends on log-probabilities; `Altered` if the model's file is no longer what it was.
    /// Parameters and the objective's state are unchanged then.
    pub fn step(&mut self, micro: &[&[Example]]) -> Result<Report> {
        let before = self.objective.copy();
        let report = self.attempt(micro);
        if report.is_err() {
            self.objective = before;
        }
        report
    }

    fn attempt(&mut self, micro: &[&[Example]]) -> Result<Report> {
        let examples = || micro.iter().flat_map(|m| m.iter());
        self.model.check()?;
        self.check(examples())?;
        let totals = Totals::of(examples());
        self.acc.fill(0.0);
        self.grads.fill(0.0);
        self.rows = 0;
        let (mut metrics, mut flat) = (Metrics::default(), true);
        let loss = match self.config.gradient {
            Gradient::Backward if self.contrast.is_some() => {
                self.contrast(micro, &totals, &mut metrics, &mut flat)?;
                metrics.loss
            }
            Gradient::Backward => {
                for examples in micro {
                    self.descend(examples, &totals, &mut metrics, &mut flat)?;
                }
                metrics.loss
            }
            Gradient::Zeroth(zeroth) => {
                flat = false;
                self.estimate(zeroth, micro, &totals, &mut metrics)?
            }
        };
        if !loss.is_finite() {
            return Err(Error::invalid("loss", format!("{loss} in step {}: the step was discarded", self.step + 1)));
        }
        if let (Some(adapter), false) = (self.trained.adapter(), self.acc.is_empty()) {
            adapter.reduce(&self.model.compute, &self.model, &self.acc, &mut self.grads);
        }
        let cx = &self.model.compute;
        let penalty = self.trained.adapter().map_or(0.0, |adapter| adapter.penalty(cx, &mut self.grads));
        let norm = optim::norm(&self.grads);
        if !norm.is_finite() || (norm == 0.0 && !flat) {
            let why = format!("norm {norm} in step {}: the step was discarded", self.step + 1);
            return Err(Error::invalid("gradients", why));
        }
        if self.config.clip > 0.0 {
            optim::clip(&mut self.grads, norm, self.config.clip);
        }
        let lr = self.config.lr * self.config.schedule.factor(self.step, self.config.warmup, self.config.steps);
        match &mut self.trained {
            Trained::Adapter { .. } => self.move_adapter(lr)?,
            Trained::Weights { offsets, flat, .. } => {
                // The model's matrices are slices of `flat`, so the new values go to a copy.
                let mut values = zeros("the weights after a step", flat.len())?;
                values.copy_from_slice(flat);
                self.optimizer.step(&mut values, &self.grads, lr);
                *flat = Arc::new(values);
                self.model = self.model.with_weights(self.model.weights.from_flat(offsets, flat.clone())?);
            }
        }
        self.step += 1;
        let tokens = examples().flat_map(Example::sequences).map(|e| e.tokens.len() as u64).sum();
        let targets = match self.kind.shape {
            Rows::Pair | Rows::Mixed => examples().flat_map(Example::sequences).map(|e| e.targets() as u64).sum(),
            _ => totals.tokens as u64,
        };
        Ok(Report {
            step: self.step,
            loss,
            penalty,
            grad_norm: norm,
            lr,
            tokens,
            targets,
            rewards: self.rewards(&metrics),
        })
    }

    /// Updates the adapter's parameters and lets it exchange values and change its shape.
    fn move_adapter(&mut self, lr: f32) -> Result<()> {
        let Some(adapter) = self.trained.adapter_mut() else { unreachable!("an adapter is trained") };
        let step = Step { number: self.step + 1, last: self.config.steps };
        if self.config.codec.is_some() {
            adapter.params_mut().copy_from_slice(&self.unrounded);
        }
        self.optimizer.step(adapter.params_mut(), &self.grads, lr);
        if let Some(origins) = adapter.exchange(step, &self.grads, &self.acc) {
            self.optimizer.exchange(&origins);
        }
        let grown = adapter.grow(step.number, &self.grads);
        if let Some(codec) = self.config.codec.clone() {
            // Of what is trained through a codec the number of values stays: `Config::check_adapter`.
            self.unrounded.copy_from_slice(adapter.params());
            return self.round(&codec, step.number);
        }
        adapter.prepare(&self.model.compute, &self.model)?;
        if grown {
            let shape = adapter.shape().clone();
            self.optimizer.grow(shape.parts.clone());
            self.resize(&shape);
        }
        Ok(())
    }

    /// Gives the adapter the unrounded parameters after a step, through the codec once its time has come.
    fn round(&mut self, codec: &compress::Spec, step: u64) -> Result<()> {
        let rounds = step >= self.config.codec_from();
        let Some(adapter) = self.trained.adapter_mut() else { unreachable!("an adapter is trained") };
        let mut values = zeros("rounded parameters", self.unrounded.len())?;
        values.copy_from_slice(&self.unrounded);
        if rounds {
            file::with_params(adapter, |params| codec.round(&mut values, params))?;
        }
        adapter.params_mut().copy_from_slice(&values);
        adapter.prepare(&self.model.compute, &self.model)
    }

    /// Resizes the buffers after an adapter has changed its shape.
    fn resize(&mut self, shape: &Shape) {
        // The size in the shape is the largest possible one.
        self.grads.resize(shape.parts.last().map_or(0, |p| p.range.end), 0.0);
        let acc = if self.config.gradient == Gradient::Backward { shape.size.gathered } else { 0 };
        self.acc.resize(acc, 0.0);
        if let Trained::Adapter { stack, .. } = &mut self.trained {
            stack.index();
        }
    }

    fn rewards(&self, metrics: &Metrics) -> Option<Rewards> {
        (self.kind.shape != Rows::Completion || self.kind.reference).then(|| metrics.rewards())
    }

    fn check<'a>(&self, examples: impl Iterator<Item = &'a Example>) -> Result<()> {
        let mut targets = 0;
        for (i, example) in examples.enumerate() {
            self.kind.check(i, example)?;
            targets += example.targets();
        }
        match targets {
            0 if self.contrast.is_none() => Err(Error::invalid("batch", "it has no target token")),
            _ => Ok(()),
        }
    }

    /// The sequences of examples that the objective needs, as a batch.
    fn pack(&self, examples: &[Example]) -> Result<Batch> {
        let pairs = self.kind.shape.pairs();
        let sequences = examples.iter().flat_map(|e| {
            let other = e.other.as_deref().filter(|_| pairs).map(|o| (o, false));
            core::iter::once((e, self.kind.prompts)).chain(other)
        });
        Batch::pack(sequences, &self.model, self.trained.stack().needs().rows, self.rows)
    }

    /// The sums of log-probabilities of a batch under all attached adapters.
    fn sums(&mut self, batch: &Batch) -> Vec<f64> {
        let stack = self.trained.stack();
        self.backprop.sums(&self.model, self.trained.attached(&self.model, stack, None), batch)
    }

    /// Log-probabilities of completions of other prompts, if the objective needs them.
    fn mismatched(&mut self, examples: &[Example]) -> Result<Vec<f64>> {
        if !self.kind.mismatched {
            return Ok(Vec::new());
        }
        let others = examples.iter().filter_map(|e| e.other.as_deref()).map(|o| (o, false));
        let batch = Batch::pack(others, &self.model, self.trained.stack().needs().rows, 0)?;
        Ok(self.sums(&batch))
    }

    /// A forward and a backward pass, which adds gradients. `flat` stays true if no log-probability changes the loss.
    fn descend(&mut self, examples: &[Example], totals: &Totals, metrics: &mut Metrics, flat: &mut bool) -> Result<()> {
        let (batch, others) = (self.pack(examples)?, self.mismatched(examples)?);
        let (kind, mut objective, examples) = (self.kind, self.objective.copy(), refs(examples));
        let mut loss_fn = |sums: &[f64], slopes: &mut [f32]| {
            let loss = objective::apply(&mut *objective, kind, totals, &examples, [sums, &others], slopes, metrics);
            *flat &= slopes.iter().all(|c| *c == 0.0);
            loss
        };
        self.through(&batch, LossFn::LogProbs(&mut loss_fn));
        self.objective = objective;
        Ok(())
    }

    /// A forward and a backward pass over a batch, which adds gradients.
    fn through(&mut self, batch: &Batch, loss_fn: LossFn) {
        let (m, stack) = (&self.model, self.trained.stack());
        let dropout = self.config.dropout.map(|d| (d, self.step));
        let attached = self.trained.attached(m, stack, dropout);
        let acc = if self.acc.is_empty() { &mut self.grads } else { &mut self.acc };
        let (mut target, from) = match &self.trained {
            Trained::Adapter { stack, which, .. } => {
                let shape = stack.all()[*which].adapter.shape();
                (model::Target::Adapter(*which, acc), (shape.lowest(m.hparams.layers), shape.embeds()))
            }
            Trained::Weights { offsets, .. } => (model::Target::Weights(offsets, acc), (0, true)),
        };
        let saved = self.backprop.saved_blocks(&m.hparams, stack, batch.tokens.len(), from.0);
        self.backprop.pass(m, attached, batch, loss_fn, from, saved, &mut target);
        self.rows += batch.tokens.len() as u64;
    }

    /// The texts of examples as a batch whose first row has this number in its step.
    fn texts(&self, contrast: Contrast, examples: &[Example], first: u64) -> Result<Batch> {
        let (texts, lead) = (examples.iter().flat_map(Example::sequences), self.trained.stack().needs().rows);
        Batch::texts(texts, &self.model, contrast.pooling, lead, first)
    }

    /// The embeddings of all texts of micro-batches, by forward passes. `[texts, Model::embedding_width]`
    fn vectors(&mut self, contrast: Contrast, micro: &[&[Example]], dropout: Option<Dropout>) -> Result<Vec<f32>> {
        let (mut vectors, mut rows) = (Vec::new(), 0);
        for examples in micro {
            let batch = self.texts(contrast, examples, rows)?;
            let attached = self.trained.attached(&self.model, self.trained.stack(), dropout.map(|d| (d, self.step)));
            vectors.extend(self.backprop.vectors(&self.model, attached, &batch));
            rows += batch.tokens.len() as u64;
        }
        Ok(vectors)
    }

    /// Forward and backward passes where queries should find their passages, which add gradients. One micro-batch goes
    /// through once. Of several the embeddings come first, since every query chooses among the passages of all; then each
    /// goes through again, with the gradients by its embeddings (arXiv:2101.06983). The bits are the same.
    fn contrast(
        &mut self,
        micro: &[&[Example]],
        totals: &Totals,
        metrics: &mut Metrics,
        flat: &mut bool,
    ) -> Result<()> {
        let Some(contrast) = self.contrast else { unreachable!("an objective of embeddings") };
        let all: Vec<&Example> = micro.iter().flat_map(|m| m.iter()).collect();
        let (choice, width) = (Choice::of(all.iter().copied()), self.model.embedding_width());
        let (kind, mut objective) = (self.kind, self.objective.copy());
        let mut loss_fn = |vectors: &[f32]| {
            let sums = choice.log_probs(vectors, width, contrast.temperature);
            let mut slopes = vec![0.0; sums.len()];
            let loss = objective::apply(&mut *objective, kind, totals, &all, [&sums, &[]], &mut slopes, metrics);
            let grads = choice.backward(vectors, width, contrast.temperature, &slopes);
            *flat &= grads.iter().all(|g| *g == 0.0);
            (loss, grads)
        };
        if let [examples] = micro {
            let batch = self.texts(contrast, examples, self.rows)?;
            let mut whole = |vectors: &[f32], slopes: &mut [f32]| {
                let (loss, grads) = loss_fn(vectors);
                slopes.copy_from_slice(&grads);
                loss
            };
            self.through(&batch, LossFn::Embeddings(&mut whole));
            return Ok(());
        }
        let vectors = self.vectors(contrast, micro, self.config.dropout)?;
        let (loss, grads) = loss_fn(&vectors);
        drop(vectors);
        let mut left = &grads[..];
        for examples in micro {
            let batch = self.texts(contrast, examples, self.rows)?;
            let mut own = |vectors: &[f32], slopes: &mut [f32]| {
                let (mine, rest) = left.split_at(vectors.len());
                slopes.copy_from_slice(mine);
                left = rest;
                loss
            };
            self.through(&batch, LossFn::Embeddings(&mut own));
        }
        Ok(())
    }

    /// What queries choose, by forward passes: the sums of [`Choice::log_probs`], and the derivatives of the loss by them.
    fn choose(&mut self, micro: &[&[Example]], totals: &Totals, metrics: &mut Metrics) -> Result<(Vec<f64>, Vec<f32>)> {
        let Some(contrast) = self.contrast else { unreachable!("an objective of embeddings") };
        let all: Vec<&Example> = micro.iter().flat_map(|m| m.iter()).collect();
        let vectors = self.vectors(contrast, micro, None)?;
        let choice = Choice::of(all.iter().copied());
        let sums = choice.log_probs(&vectors, self.model.embedding_width(), contrast.temperature);
        let mut slopes = vec![0.0; sums.len()];
        objective::apply(self.objective.as_mut(), self.kind, totals, &all, [&sums, &[]], &mut slopes, metrics);
        Ok((sums, slopes))
    }

    /// A forward pass: the sums, and the derivatives of the loss by them.
    fn evaluate_batch(
        &mut self,
        examples: &[Example],
        totals: &Totals,
        metrics: &mut Metrics,
    ) -> Result<(Vec<f64>, Vec<f32>)> {
        let (batch, others) = (self.pack(examples)?, self.mismatched(examples)?);
        let sums = self.sums(&batch);
        let mut slopes = vec![0.0; sums.len()];
        let (kind, objective) = (self.kind, self.objective.as_mut());
        objective::apply(objective, kind, totals, &refs(examples), [&sums, &others], &mut slopes, metrics);
        Ok((sums, slopes))
    }

    /// Evaluates `examples` with the present parameters. Does not change the objective's state. Queries choose among the
    /// passages of all `examples`; the accuracy of their [`Rewards`] is the recall at 1, how many find theirs first.
    ///
    /// # Errors
    /// Those of [`Trainer::step`] about examples.
    pub fn assess(&mut self, examples: &[Example]) -> Result<Assessment> {
        self.check(examples.iter())?;
        let (totals, mut metrics) = (Totals::of(examples), Metrics::default());
        let before = self.objective.copy();
        let evaluated = match self.contrast {
            Some(_) => self.choose(&examples.chunks(1).collect::<Vec<_>>(), &totals, &mut metrics),
            None => self.evaluate_batch(examples, &totals, &mut metrics),
        };
        self.objective = before;
        let plain = self.kind.shape == Rows::Completion && !self.kind.reference;
        let n = if plain { totals.tokens as u64 } else { examples.len() as u64 };
        evaluated?;
        Ok(Assessment { loss: metrics.loss, n, rewards: self.rewards(&metrics) })
    }

    /// The sum of the losses of `examples` with the present parameters, and their number: tokens and nats of plain
    /// text, examples of other objectives.
    ///
    /// # Errors
    /// Those of [`Trainer::step`] about examples.
    pub fn evaluate(&mut self, examples: &[Example]) -> Result<(f64, u64)> {
        let assessment = self.assess(examples)?;
        Ok((assessment.loss * assessment.n as f64, assessment.n))
    }

    /// `ln p` of the completions of examples and, after each, of its other one, in nats, with the present parameters.
    ///
    /// # Errors
    /// Those of [`Trainer::step`] about the fit of examples.
    pub fn log_probs(&mut self, examples: &[Example]) -> Result<Vec<f64>> {
        let sequences = examples.iter().flat_map(Example::sequences).map(|e| (e, false));
        let batch = Batch::pack(sequences, &self.model, self.trained.stack().needs().rows, 0)?;
        let sums = self.sums(&batch);
        Ok(sums.into_iter().step_by(2).collect())
    }

    /// Computes the reference log-probabilities of examples, and of their other completions, that lack them. The
    /// reference is the model without the trained adapter. Does nothing if the objective needs no reference.
    ///
    /// # Errors
    /// Those of [`Trainer::step`] about the fit of examples; `Invalid` if all weights are trained and have changed,
    /// since then the reference is lost.
    pub fn fill_reference_logps(&mut self, examples: &mut [Example]) -> Result<()> {
        if !self.kind.reference {
            return Ok(());
        }
        if matches!(self.trained, Trained::Weights { .. }) && self.step > 0 {
            return Err(Error::invalid("reference", "all weights are trained, so the reference weights are lost"));
        }
        let wanted = examples.iter().flat_map(Example::sequences).filter(|e| e.reference.is_none());
        let beneath = self.trained.beneath();
        let batch = Batch::pack(wanted.map(|e| (e, false)), &self.model, beneath.needs().rows, 0)?;
        if batch.sums == 0 {
            return Ok(());
        }
        let sums = self.backprop.sums(&self.model, self.trained.attached(&self.model, beneath, None), &batch);
        let mut known = sums.iter().step_by(2);
        for example in examples {
            let Example { reference, other, .. } = example;
            for reference in [Some(reference), other.as_mut().map(|o| &mut o.reference)].into_iter().flatten() {
                if reference.is_none() {
                    *reference = known.next().copied();
                }
            }
        }
        Ok(())
    }

    /// The embedding of the prompt of an example under the model without the adapter: the mean of the last hidden states
    /// after the norm, scaled to length 1. `[C]`
    ///
    /// # Errors
    /// `Invalid` if there is no prompt, or it does not fit the model, or all weights are trained and have changed.
    pub fn embed(&mut self, example: &Example) -> Result<Vec<f32>> {
        if matches!(self.trained, Trained::Weights { .. }) && self.step > 0 {
            return Err(Error::invalid("embedding", "all weights are trained, so the base's weights are lost"));
        }
        let start = example.mask.iter().skip(1).position(|c| *c).map_or(example.tokens.len(), |i| i + 1);
        // The tokens before the first target go through the model to predict it.
        let Some(upto) = example.tokens.get(..=start) else {
            return Err(Error::invalid("embedding", "the example has no target token, so it has no prompt"));
        };
        let prompt = Example::completion(&upto[..start], &upto[start..]);
        let batch = Batch::pack([(&prompt, false)], &self.model, 0, 0)?;
        let frozen = self.frozen_blocks();
        Ok(self.backprop.embed(&self.model, &batch, frozen))
    }

    /// From now on the outputs of the frozen blocks below the lowest adapted one are cached in `store`. They are rounded to
    /// f16, so losses differ a little from those without a cache. The cache has no effect if the first block is trained.
    pub fn cache_activations(&mut self, store: Box<dyn activation_cache::Store>) {
        self.backprop.cache = Some(ActivationCache::new(store));
    }

    /// Blocks below the lowest adapted one, whose outputs can be cached.
    pub fn frozen_blocks(&self) -> usize {
        self.trained.attached(&self.model, self.trained.stack(), None).frozen
    }

    /// The adapter in its present state, if one is trained.
    pub fn adapter_ref(&self) -> Option<&dyn Adapter> {
        self.trained.adapter()
    }

    /// The trained adapter, ready to be attached.
    pub fn into_adapter(self) -> Option<Arc<Ready>> {
        match self.trained {
            Trained::Adapter { mut stack, .. } => stack.pop(),
            Trained::Weights { .. } => None,
        }
    }

    /// The model, with the trained weights if all weights are trained.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Gradients of the last step after clipping, in the order of the parameters.
    pub fn grads(&self) -> &[f32] {
        &self.grads
    }

    /// Number of trained parameters.
    pub fn parameters(&self) -> usize {
        self.grads.len()
    }

    /// Its settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The objective's row.
    pub fn kind(&self) -> &'static objective::Kind {
        self.kind
    }

    /// The objective, with its state.
    pub fn objective(&self) -> &dyn Objective {
        self.objective.as_ref()
    }

    /// The same for changes, to restore its state.
    pub fn objective_mut(&mut self) -> &mut dyn Objective {
        self.objective.as_mut()
    }

    /// The optimizer, with its state.
    pub fn optimizer(&self) -> &dyn Optimizer {
        self.optimizer.as_ref()
    }

    /// The same for changes, to restore its state.
    pub fn optimizer_mut(&mut self) -> &mut dyn Optimizer {
        self.optimizer.as_mut()
    }

    /// Number of steps done.
    pub fn steps(&self) -> u64 {
        self.step
    }
}

fn refs(examples: &[Example]) -> Vec<&Example> {
    examples.iter().collect()
}
