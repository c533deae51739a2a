//! Teaching: an adapter on a frozen base, or all weights of a small model.
//!
//! [`Trainer::step`] does one optimiser step and returns; the caller owns the loop, the clock and the files. `batch.rs`
//! lays examples end to end, `backprop.rs` makes the gradients, `optim` moves the parameters, `schedule.rs` says how far. `checkpoint.rs`
//! holds a run so that it can go on, `folder.rs` keeps such files.
//! Training runs on the exact path, so gradients are the gradients of what is computed.

mod backprop;
pub mod batch;
pub mod checkpoint;
pub mod data;
#[cfg(feature = "std")]
pub mod folder;
pub mod lower;
pub mod optim;
pub mod plan;
pub mod schedule;
mod state;

pub use backprop::Keep;
pub use batch::Example;
pub use checkpoint::Checkpoint;
pub use schedule::Schedule;

use crate::adapter::Adapter;
use crate::error::{Error, Result};
use crate::model::weights::Places;
use crate::model::{Model, Precision};
use backprop::Backprop;
use batch::Batch;
use optim::{Optimizer, Part};
use std::prelude::v1::*;
use std::sync::Arc;

/// How to train.
#[derive(Clone, Debug)]
pub struct Config {
    /// Highest learning rate.
    pub lr: f32,
    /// Optimiser steps the schedule is made for.
    pub steps: u64,
    /// How the rate falls after the warm-up.
    pub schedule: Schedule,
    /// Steps over which the rate rises from 0.
    pub warmup: u64,
    /// Largest norm of all gradients together; 0 leaves them alone.
    pub clip: f32,
    /// What moves the parameters.
    pub optimizer: optim::Spec,
    /// Which activations stay in memory.
    pub keep: Keep,
    /// How they are stored. Halves round what the way back reads, so gradients are rounded; losses are not.
    pub precision: Precision,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            lr: 1e-3,
            steps: 100,
            schedule: Schedule::Cosine,
            warmup: 0,
            clip: 1.0,
            optimizer: optim::Spec::default(),
            keep: Keep::Auto,
            precision: Precision::F32,
        }
    }
}

impl Config {
    fn check(&self) -> Result<()> {
        let finite = |name: &str, v: f32, ok: bool| {
            if ok && v.is_finite() { Ok(()) } else { Err(Error::invalid(name, format!("{v} cannot be used"))) }
        };
        finite("learning rate", self.lr, self.lr > 0.0 && self.lr <= 1e3)?;
        finite("gradient clip", self.clip, self.clip >= 0.0)?;
        if self.steps == 0 {
            return Err(Error::invalid("steps", "0 steps train nothing"));
        }
        if self.warmup > self.steps {
            return Err(Error::invalid("warm-up", format!("{} steps of {}", self.warmup, self.steps)));
        }
        Ok(())
    }
}

/// What is trained.
enum Target {
    Adapter([Arc<dyn Adapter>; 1]),
    Weights { places: Places, flat: Arc<Vec<f32>> },
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// Steps done, this one included.
    pub step: u64,
    /// Mean loss of the counted tokens, in nats, before the update.
    pub loss: f64,
    /// Norm of all gradients before clipping.
    pub grad_norm: f64,
    /// The rate this step used.
    pub lr: f32,
    /// Tokens read.
    pub tokens: u64,
    /// Tokens whose prediction counted.
    pub counted: u64,
}

/// A training run in memory.
pub struct Trainer {
    model: Model,
    target: Target,
    config: Config,
    optimizer: Box<dyn Optimizer>,
    backprop: Backprop,
    grads: Vec<f32>,
    /// What gradients are made of; empty if that is the gradients themselves.
    acc: Vec<f32>,
    step: u64,
}

impl Trainer {
    /// Trains `adapter` on the frozen `model`.
    ///
    /// # Errors
    /// `Invalid` for settings that cannot be used.
    pub fn adapter(model: &Model, mut adapter: Box<dyn Adapter>, config: Config) -> Result<Trainer> {
        config.check()?;
        adapter.prepare(&model.compute);
        let (parts, acc) = (adapter.parts(), adapter.size().gathered);
        if adapter.params().is_empty() {
            return Err(Error::invalid("adapter", "it has no parameters to train"));
        }
        let target = Target::Adapter([adapter.into()]);
        Self::new(model.clone(), target, config, parts, acc)
    }

    /// Trains every weight of `model`, in `f32`.
    ///
    /// # Errors
    /// `Invalid` for settings that cannot be used.
    pub fn full(model: &Model, config: Config) -> Result<Trainer> {
        config.check()?;
        let places = Places::of(&model.weights);
        let flat = Arc::new(model.weights.flatten(&places));
        let model = model.with_weights(model.weights.from_flat(&places, flat.clone())?);
        let parts = places.parts(&model.weights);
        Self::new(model, Target::Weights { places, flat }, config, parts, 0)
    }

    fn new(model: Model, target: Target, config: Config, parts: Vec<Part>, acc: usize) -> Result<Trainer> {
        let (kind, settings) = config.optimizer.settings()?;
        let params = parts.last().map_or(0, |p| p.range.end);
        Ok(Trainer {
            optimizer: (kind.create)(settings, parts),
            backprop: Backprop::new(config.keep, config.precision),
            grads: vec![0.0; params],
            acc: vec![0.0; acc],
            step: 0,
            model,
            target,
            config,
        })
    }

    /// One optimiser step over micro-batches, whose gradients are accumulated. The loss is the mean over all counted
    /// tokens of all of them.
    ///
    /// # Errors
    /// `Invalid` if nothing counts, a token is outside the vocabulary or an example is longer than the model's context,
    /// and if the loss or a gradient is not finite or all gradients are zero; no parameter has moved then.
    pub fn step(&mut self, micro: &[&[Example]]) -> Result<Report> {
        let batches: Vec<Batch> =
            micro.iter().map(|examples| Batch::pack(examples, &self.model)).collect::<Result<_>>()?;
        let counted: usize = batches.iter().map(|b| b.targets.len()).sum();
        if counted == 0 {
            return Err(Error::invalid("batch", "no token's prediction counts"));
        }
        self.acc.fill(0.0);
        self.grads.fill(0.0);
        let mut loss = 0.0;
        for batch in &batches {
            loss += match &self.target {
                Target::Adapter(adapter) => {
                    let acc = if self.acc.is_empty() { &mut self.grads } else { &mut self.acc };
                    self.backprop.adapter(&self.model, adapter, batch, -1.0 / counted as f32, acc)
                }
                Target::Weights { places, .. } => {
                    self.backprop.weights(&self.model, places, batch, -1.0 / counted as f32, &mut self.grads)
                }
            };
        }
        let loss = loss / counted as f64;
        if !loss.is_finite() {
            return Err(Error::invalid("loss", format!("{loss} in step {}: the step was discarded", self.step + 1)));
        }
        if let (Target::Adapter([adapter]), false) = (&self.target, self.acc.is_empty()) {
            adapter.reduce(&self.model.compute, &self.acc, &mut self.grads);
        }
        let norm = optim::norm(&self.grads);
        if !norm.is_finite() || norm == 0.0 {
            let why = format!("norm {norm} in step {}: the step was discarded", self.step + 1);
            return Err(Error::invalid("gradients", why));
        }
        if self.config.clip > 0.0 {
            optim::clip(&mut self.grads, norm, self.config.clip);
        }
        let lr = self.config.lr * self.config.schedule.factor(self.step, self.config.warmup, self.config.steps);
        match &mut self.target {
            Target::Adapter([adapter]) => {
                let Some(adapter) = Arc::get_mut(adapter) else { unreachable!("the trainer alone holds its adapter") };
                self.optimizer.step(adapter.params_mut(), &self.grads, lr);
                adapter.prepare(&self.model.compute);
            }
            Target::Weights { places, flat } => {
                // The model's matrices are slices of `flat`; a model of the old values keeps shapes and places.
                let mut values = Vec::clone(flat);
                self.optimizer.step(&mut values, &self.grads, lr);
                *flat = Arc::new(values);
                self.model = self.model.with_weights(self.model.weights.from_flat(places, flat.clone())?);
            }
        }
        self.step += 1;
        let tokens = micro.iter().flat_map(|m| m.iter()).map(|e| e.tokens.len() as u64).sum();
        Ok(Report { step: self.step, loss, grad_norm: norm, lr, tokens, counted: counted as u64 })
    }

    /// The sum of the losses, in nats, and the number of counted tokens of `examples` with the parameters as they are.
    ///
    /// # Errors
    /// Those of [`Trainer::step`] about examples.
    pub fn evaluate(&mut self, examples: &[Example]) -> Result<(f64, u64)> {
        let batch = Batch::pack(examples, &self.model)?;
        let adapters: &[Arc<dyn Adapter>] = match &self.target {
            Target::Adapter(adapter) => adapter,
            Target::Weights { .. } => &[],
        };
        let loss = self.backprop.loss(&self.model, adapters, &batch, self.frozen_blocks());
        Ok((loss, batch.targets.len() as u64))
    }

    /// From now on the outputs of the frozen blocks below the lowest adapted one are kept in `store` and taken from there.
    /// They are rounded to half floats, so losses differ a little from those without a store; where all blocks learn, or
    /// the first does, a store is never asked.
    pub fn keep_lower(&mut self, store: Box<dyn lower::Store>) {
        self.backprop.lower = Some(lower::Lower::new(store));
    }

    /// Blocks below the lowest adapted one: what their outputs are kept under, with the base and the data.
    pub fn frozen_blocks(&self) -> usize {
        match &self.target {
            Target::Adapter([adapter]) => backprop::lowest(&self.model, adapter.as_ref()),
            Target::Weights { .. } => 0,
        }
    }

    /// The adapter as it is, if one is trained.
    pub fn adapter_ref(&self) -> Option<&dyn Adapter> {
        match &self.target {
            Target::Adapter([adapter]) => Some(adapter.as_ref()),
            Target::Weights { .. } => None,
        }
    }

    /// The trained adapter, ready to be attached.
    pub fn into_adapter(self) -> Option<Arc<dyn Adapter>> {
        match self.target {
            Target::Adapter([adapter]) => Some(adapter),
            Target::Weights { .. } => None,
        }
    }

    /// The model; with trained weights if all of them are trained.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Gradients of the last step after clipping, in the order of the parameters.
    pub fn grads(&self) -> &[f32] {
        &self.grads
    }

    /// Parameters that are trained.
    pub fn parameters(&self) -> usize {
        self.grads.len()
    }

    /// What moves the parameters, with its state.
    pub fn optimizer(&self) -> &dyn Optimizer {
        self.optimizer.as_ref()
    }

    /// The same, to restore its state.
    pub fn optimizer_mut(&mut self) -> &mut dyn Optimizer {
        self.optimizer.as_mut()
    }

    /// Steps done.
    pub fn steps(&self) -> u64 {
        self.step
    }
}
