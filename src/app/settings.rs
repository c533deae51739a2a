//! Everything that can be set of a lesson, beside what is trained.

use super::method::Method;
use crate::adapter::compress;
use crate::error::{Error, Result};
use crate::model::{ActType, Model};
use crate::nn::linear::Precision;
use crate::train::data;
use crate::train::objective::{OBJECTIVES, Shape};
use crate::train::{Config, Dropout, Gradient, Recompute, Schedule, Zeroth, objective, optim};
use std::prelude::v1::*;

/// Steps of a lesson where nothing is said, if that is a sensible number of epochs.
const ENOUGH: u64 = 80;
/// The fewest and the most epochs for that.
const EPOCHS: [u64; 2] = [3, 12];
/// The most tokens that a lesson reads where nothing is said.
const MOST_READ: u128 = 300_000;
/// Of fewer rows none are put aside where nothing is said.
const FEW_ROWS: usize = 16;

/// Everything that can be set of a lesson, beside what is trained.
///
/// ```
/// # fn main() -> mynah::Result<()> {
/// # #[cfg(feature = "base")] {
/// use mynah::{Mynah, app::Settings, train::{Schedule, optim}};
///
/// let mynah = Mynah::embedded()?;
/// assert_eq!(Settings::default().epochs, None);
/// let setup = mynah.lesson("lora").held_out(0.0).context(32).settings(|s| {
///     s.steps = Some(1);
///     (s.batch, s.accumulate) = (2, 2); // four rows a step
///     s.optimizer = optim::Spec::new("adamw_8bit");
///     s.schedule = Schedule::Constant;
/// });
/// let mut lesson = setup.text(mynah::base::NOTES)?;
/// lesson.next().transpose()?;
/// assert!(lesson.history().tokens <= 4 * 32);
/// # }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Settings {
    /// Highest learning rate; without it what suits the method.
    pub lr: Option<f32>,
    /// Optimiser steps; without them `epochs` decides.
    pub steps: Option<u64>,
    /// How often every row is seen; without it and `steps`, as often as suits the data: [`Settings::usual_steps`].
    pub epochs: Option<u64>,
    /// Rows that go through the model together.
    pub batch: usize,
    /// Batches of one step.
    pub accumulate: usize,
    /// Tokens of a row, longer rows are cut; without it 256, or less if the model was made for less.
    pub context: Option<usize>,
    /// Whether rows are filled with whole short ones; each is learnt as if it were alone.
    pub pack: bool,
    /// Whether rows come in an order that is drawn anew each epoch, or as they are given.
    pub shuffle: bool,
    /// Everything random follows from it but a fresh adapter's start, which follows from [`Spec::seed`](crate::adapter::Spec::seed).
    pub seed: u64,
    /// Part of the rows that is put aside to measure on, from 0 and below 1; without it what suits their number:
    /// [`Settings::usual_held_out`]. Where rows are held out, the best state by their loss is what a lesson leaves.
    pub held_out: Option<f64>,
    /// Steps between evaluations on the held-out rows, of which another follows the last step; without it an eighth of
    /// all steps.
    pub eval_every: Option<u64>,
    /// So many evaluations in a row that were no better than the best one end the lesson, with what was best.
    pub patience: Option<u64>,
    /// What is to become of completions.
    pub objective: objective::Spec,
    /// Whether rows that were not liked are weighed by how often such prompts have liked completions:
    /// [`crate::train::density`].
    pub density_ratios: bool,
    /// What moves the parameters.
    pub optimizer: optim::Spec,
    /// The values of few bits that an adapter is trained through, and that its file holds; without it what its kind says:
    /// [`Kind::codec`](crate::adapter::Kind::codec). `f32` is none.
    pub codec: Option<compress::Spec>,
    /// How the rate falls after the warm-up.
    pub schedule: Schedule,
    /// Steps over which the rate rises from 0.
    pub warmup: u64,
    /// Largest norm of all gradients together; 0 leaves them alone.
    pub clip: f32,
    /// Gradients estimated from forward passes along random directions: how many, and how far parameters are moved.
    pub zeroth: Option<(u32, f32)>,
    /// Part of the adapter's input that is left out at random in each step, below 1.
    pub dropout: Option<f32>,
    /// How products with the base are computed; int8 is for adapters.
    pub precision: Precision,
    /// Which blocks recompute their activations in the backward pass; with `memory` that decides.
    pub recompute: Recompute,
    /// Number type of saved activations.
    pub act_type: ActType,
    /// Most bytes of the whole process: micro-batches become smaller and activations are recomputed, as far as that
    /// is needed, with the same result.
    pub memory: Option<usize>,
    /// Seconds since 1970 that chat templates take for now; templates that show the date need it.
    pub clock: Option<i64>,
    /// Whether what the system says is put in front of the first user's turn, for chat templates that refuse it.
    pub merge_system: bool,
    /// Whether control tokens that the data spells become those tokens; otherwise such spellings are text.
    pub parse_special: bool,
    /// What the caller says of the data: encoding, columns, speaker, how texts become rows.
    pub data: data::Options,
}

impl Default for Settings {
    fn default() -> Self {
        let Config { schedule, warmup, clip, objective, optimizer, precision, recompute, act_type, .. } =
            Config::default();
        Settings {
            lr: None,
            steps: None,
            epochs: None,
            batch: 1,
            accumulate: 1,
            context: None,
            pack: false,
            shuffle: true,
            seed: 0,
            held_out: None,
            eval_every: None,
            patience: None,
            objective,
            density_ratios: false,
            optimizer,
            codec: None,
            schedule,
            warmup,
            clip,
            zeroth: None,
            dropout: None,
            precision,
            recompute,
            act_type,
            memory: None,
            clock: None,
            merge_system: false,
            parse_special: false,
            data: data::Options::default(),
        }
    }
}

impl Settings {
    /// How to train `method` for `steps` steps.
    pub(super) fn config(&self, method: &Method, steps: u64) -> Config {
        let gradient = match self.zeroth {
            Some((directions, eps)) => Gradient::Zeroth(Zeroth { directions, eps, seed: self.seed }),
            None => Gradient::Backward,
        };
        Config {
            lr: self.lr.unwrap_or_else(|| Method::rate(method.name())),
            steps,
            schedule: self.schedule,
            warmup: self.warmup,
            clip: self.clip,
            optimizer: self.optimizer.clone(),
            codec: self.codec.clone().or_else(|| method.codec()).filter(|codec| codec.kind != "f32"),
            precision: self.precision,
            recompute: self.recompute,
            act_type: self.act_type,
            objective: self.objective.clone(),
            gradient,
            dropout: self.dropout.filter(|rate| *rate > 0.0).map(|rate| Dropout { rate, seed: self.seed }),
            ..Config::default()
        }
    }

    /// # Errors
    /// `Unsupported` if the model predicts no token, and the objective is of tokens; those of
    /// [`objective::Contrast::new`].
    pub(super) fn check_objective(&self, model: &Model) -> Result<()> {
        let (kind, values) = self.objective.row()?;
        if kind.shape == Shape::Contrast {
            return objective::Contrast::new(&values, &model.hparams).map(|_| ());
        }
        if !model.hparams.causal() {
            let names = OBJECTIVES.iter().filter(|k| k.shape == Shape::Contrast).map(|k| k.name);
            let (name, usable) = (model.hparams.arch.name, names.collect::<Vec<_>>().join(" or "));
            let what = format!(
                "{}: {name} makes embeddings (mynah embed) and predicts no token; it learns with --objective {usable}",
                kind.name
            );
            return Err(Error::unsupported("objective of this model", what));
        }
        Ok(())
    }

    /// Optimiser steps where nothing is said: the epochs that have 80 steps, but 3 at least and 12 at most, and never more
    /// steps than read 300,000 tokens. `tokens` and `steps` are those of one epoch.
    ///
    /// A small adapter takes some 80 steps at the usual rates until it predicts texts of a kind, however many of them there
    /// are. More than 12 passes over a few rows only memorise them; fewer than 3 over many waste what they could teach. The
    /// bound keeps a lesson of a small model under an hour or two on two cores.
    ///
    /// ```
    /// use mynah::app::Settings;
    ///
    /// assert_eq!(Settings::usual_steps(300, 5), 12 * 5);
    /// assert_eq!(Settings::usual_steps(1_500, 18), 5 * 18); // a diary of twenty entries
    /// assert_eq!(Settings::usual_steps(50_000, 200), 3 * 200);
    /// assert_eq!(Settings::usual_steps(3_000_000, 10_000), 1_000); // a tenth of the rows
    /// ```
    pub fn usual_steps(tokens: usize, steps: u64) -> u64 {
        let (tokens, steps) = (tokens.max(1) as u128, steps.max(1));
        let epochs = ENOUGH.div_ceil(steps).clamp(EPOCHS[0], EPOCHS[1]);
        let bound = (MOST_READ * u128::from(steps)).div_ceil(tokens);
        epochs.saturating_mul(steps).min(u64::try_from(bound).unwrap_or(u64::MAX))
    }

    /// Rows put aside where nothing is said: a tenth, but 2 at least and 64 at most; none of fewer than 16.
    ///
    /// Fewer rows are too dear to give up, and one row alone measures little. More than 64 would cost time and tell the same.
    ///
    /// ```
    /// use mynah::app::Settings;
    ///
    /// assert_eq!([8, 16, 40, 5_000].map(Settings::usual_held_out), [0, 2, 4, 64]);
    /// ```
    pub fn usual_held_out(rows: usize) -> usize {
        if rows < FEW_ROWS { 0 } else { rows.div_ceil(10).clamp(2, 64) }
    }

    /// The part of `rows` that is put aside.
    pub(super) fn held_out(&self, rows: usize) -> f64 {
        self.held_out.unwrap_or_else(|| Settings::usual_held_out(rows) as f64 / rows.max(1) as f64)
    }

    /// Rows of a step.
    pub(super) fn step(&self) -> Result<usize> {
        let Settings { batch, accumulate, .. } = self;
        let why = || Error::invalid("batch", format!("{batch} rows {accumulate} times are too many"));
        batch.checked_mul(*accumulate).ok_or_else(why)
    }

    /// Steps between evaluations.
    pub(super) fn eval_every(&self, steps: u64) -> u64 {
        self.eval_every.unwrap_or(steps / 8).max(1)
    }
}
