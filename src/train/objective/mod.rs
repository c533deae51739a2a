//! Objectives: what is to become of the log-probabilities of completions. [`OBJECTIVES`] lists them; a [`Spec`] names one
//! with its settings.
//!
//! A trainer turns examples into [`Case`]s, sums of log-probabilities in nats, and an objective turns these into
//! [`Grade`]s: the loss and its derivatives by the sums. Nothing more is needed: the gradient at the logits of a row is
//! its sum's derivative times `onehot − softmax`. `ℓ` is the sum over a completion, `ℓ̄ = ℓ / |y|`, `h = ℓ − ℓ_ref`; the
//! reference is the base without the adapter. All of it is in double precision.

mod bco;
mod dpo;
mod kinds;
mod kto;
mod odds;
mod rows;
mod sft;
mod tally;

pub use super::state::{State, StateMut};
pub use kinds::{BETA, DESIRABLE, GAMMA, Kind, LAMBDA, NLL, OBJECTIVES, SMOOTHING, Spec, UNDESIRABLE};
pub use rows::{mismatch, unpair};
pub use tally::Rewards;
pub(super) use tally::{Tally, apply};

use super::Example;
use super::state;
use crate::error::Result;
use crate::knob::Values;
use std::prelude::v1::*;

/// What an objective learns from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Completions.
    Completion,
    /// A completion and a worse one, [`Example::other`].
    Pair,
    /// Completions that were liked or not, [`Example::good`].
    Verdict,
}

impl Shape {
    /// As it is in a file.
    pub fn describe(self) -> &'static str {
        match self {
            Shape::Completion => r#"{"prompt", "completion"}, {"messages"} or {"text"}"#,
            Shape::Pair => r#"{"prompt", "chosen", "rejected"}"#,
            Shape::Verdict => r#"{"prompt", "completion", "label"} with a label of true or false"#,
        }
    }
}

/// Log-probabilities of a completion.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// `ℓ`, in nats.
    pub logp: f64,
    /// `|y|`, in tokens.
    pub len: f64,
    /// `ℓ_ref`; 0 where the objective needs none.
    pub reference: f64,
}

impl Score {
    /// `h`.
    fn ratio(&self) -> f64 {
        self.logp - self.reference
    }

    /// `ℓ̄`.
    fn mean(&self) -> f64 {
        self.logp / self.len
    }

    /// `h / |y|`.
    fn mean_ratio(&self) -> f64 {
        self.ratio() / self.len
    }
}

/// What an objective sees of an example.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Case {
    /// Factor of its loss.
    pub weight: f64,
    /// The completion; in a pair the better one.
    pub answer: Score,
    /// The worse completion of a pair; for KTO one that belongs to another prompt.
    pub other: Option<Score>,
    /// Whether the completion was liked.
    pub good: bool,
    /// `ℓ` and tokens of the prompt, where the objective wants them.
    pub prompt: Score,
}

/// Over all examples of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// Examples.
    pub cases: f64,
    /// Tokens of completions; of pairs those of the better ones.
    pub tokens: f64,
    /// Tokens of the prompts before them.
    pub prompt_tokens: f64,
}

impl Totals {
    /// Of these examples.
    pub fn of<'a>(examples: impl IntoIterator<Item = &'a Example>) -> Totals {
        examples.into_iter().fold(Totals::default(), |t, e| Totals {
            cases: t.cases + 1.0,
            tokens: t.tokens + e.counted() as f64,
            prompt_tokens: t.prompt_tokens + e.prompt() as f64,
        })
    }
}

/// What an example adds to the loss of its step, and the derivatives of that.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Grade {
    /// To the loss; the sum over a step's examples is the step's loss.
    pub loss: f64,
    /// By `ℓ` of the completion.
    pub answer: f64,
    /// By `ℓ` of the other.
    pub other: f64,
    /// By `ℓ` of the prompt.
    pub prompt: f64,
    /// The implicit reward of the completion.
    pub reward: f64,
    /// What it should be above or, if the completion was not liked, below: the reward of the worse one of a pair, or the
    /// objective's threshold.
    pub against: f64,
}

impl Grade {
    /// A mean over examples: `loss` and its derivatives, weighed and divided by their number.
    fn mean(totals: &Totals, case: &Case, loss: f64, answer: f64, other: f64) -> Grade {
        let share = case.weight / totals.cases;
        Grade { loss: share * loss, answer: share * answer, other: share * other, ..Grade::default() }
    }

    /// Adds `factor` times the negative log-likelihood of the completions, a mean over the tokens of the step.
    fn likelihood(mut self, totals: &Totals, case: &Case, factor: f64) -> Grade {
        let share = factor * case.weight / totals.tokens;
        self.loss -= share * case.answer.logp;
        self.answer -= share;
        self
    }

    fn rewards(self, reward: f64, against: f64) -> Grade {
        Grade { reward, against, ..self }
    }
}

/// Turns log-probabilities into a loss and its derivatives.
pub trait Objective: Send {
    /// Grades what went through the model together, which may be a part of what `totals` tell of. May move its state.
    fn grade(&mut self, totals: &Totals, cases: &[Case]) -> Vec<Grade>;

    /// The same with the same state.
    fn copy(&self) -> Box<dyn Objective>;

    /// What it remembers from step to step: with these pieces back, the next steps are the same in every bit.
    fn state(&self) -> Vec<(&'static str, State<'_>)> {
        Vec::new()
    }

    /// The same pieces in the same order, to write.
    fn state_mut(&mut self) -> Vec<(&'static str, StateMut<'_>)> {
        Vec::new()
    }

    /// Takes back what [`Objective::state`] gave; nothing changes on an error.
    ///
    /// # Errors
    /// `Mismatch` if it is the state of another objective.
    fn restore(&mut self, saved: &[(&str, State)]) -> Result<()> {
        state::restore(self.state_mut(), saved)
    }
}

/// One that grades each example by itself and remembers nothing.
#[derive(Clone)]
struct Each {
    values: Values,
    rule: fn(&Values, &Totals, &Case) -> Grade,
}

impl Objective for Each {
    fn grade(&mut self, totals: &Totals, cases: &[Case]) -> Vec<Grade> {
        cases.iter().map(|case| (self.rule)(&self.values, totals, case)).collect()
    }

    fn copy(&self) -> Box<dyn Objective> {
        Box::new(self.clone())
    }
}

/// `ln σ(z)`, without overflow.
pub(in crate::train) fn log_sigmoid(z: f64) -> f64 {
    z.min(0.0) - libm::log1p(libm::exp(-z.abs()))
}

/// `σ(z)`.
pub(in crate::train) fn sigmoid(z: f64) -> f64 {
    let e = libm::exp(-z.abs());
    if z >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) }
}
