//! Training objectives: losses of the log-probabilities of completions. [`OBJECTIVES`] lists them; a [`Spec`] names one
//! with its settings.
//!
//! A trainer turns examples into [`Case`]s, sums of log-probabilities in nats, and an objective turns these into
//! [`LossTerm`]s: the loss and its derivatives by the sums. Where queries should find passages, the sum is the log-probability
//! of the right choice, [`Choice`], read off embeddings. The rest follows: the gradient at the logits of a row is its
//! sum's derivative times `onehot − softmax`. `ℓ` is the sum over a completion, `ℓ̄ = ℓ / |y|`, `h = ℓ − ℓ_ref`; the
//! reference is the base without the adapter. Everything is computed in double precision.

mod bco;
mod contrast;
mod dpo;
mod kinds;
mod kto;
mod marks;
mod odds;
mod rows;
mod sft;
mod metrics;

pub use super::state::{State, StateMut};
pub use contrast::{Choice, Contrast};
use kinds::FILE;
pub use kinds::{
    BETA, DESIRABLE, GAMMA, Kind, LAMBDA, NLL, OBJECTIVES, POOLING, SMOOTHING, Spec, TEMPERATURE, UNDESIRABLE,
};
pub use metrics::Rewards;
pub(super) use metrics::{Metrics, apply};
pub use rows::{mismatch, unpair};

use super::Example;
use super::state;
use crate::error::Result;
use crate::knob::Values;
use std::prelude::v1::*;

/// The kind of data that an objective learns from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Completions.
    Completion,
    /// A completion and a worse one, [`Example::other`].
    Pair,
    /// Completions that were liked or not, [`Example::good`].
    Verdict,
    /// Pairs, verdicts and completions without either, which are own answers that should stay as likely as they are.
    Mixed,
    /// Queries and the passages that they should find and not find, [`Example::passages`]. Embeddings are read, not
    /// log-probabilities of tokens.
    Contrast,
}

impl Shape {
    /// Whether the other completion of an example is the worse one of a pair.
    pub(in crate::train) fn pairs(self) -> bool {
        matches!(self, Shape::Pair | Shape::Mixed)
    }

    /// The fields of such rows in a data file.
    pub fn describe(self) -> &'static str {
        match self {
            Shape::Completion => r#"{"prompt", "completion"}, {"messages"} or {"text"}"#,
            Shape::Pair => r#"{"prompt", "chosen", "rejected"}"#,
            Shape::Verdict => r#"{"prompt", "completion", "label"} with a label of true or false"#,
            Shape::Mixed => {
                r#"{"prompt", "chosen", "rejected"}, {"prompt", "completion", "label"} or {"prompt", "completion"}"#
            }
            Shape::Contrast => r#"{"query", "positive"} or {"query", "positive", "negative"}"#,
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

/// One example as an objective sees it.
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
    /// Whether it is an own answer, neither one of a pair nor judged, where the objective takes these too.
    pub own: bool,
    /// `ℓ` and tokens of the prompt, where the objective wants them.
    pub prompt: Score,
}

/// Counts over all examples of a step.
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
    /// The counts of these examples.
    pub fn of<'a>(examples: impl IntoIterator<Item = &'a Example>) -> Totals {
        examples.into_iter().fold(Totals::default(), |t, e| Totals {
            cases: t.cases + 1.0,
            tokens: t.tokens + e.targets() as f64,
            prompt_tokens: t.prompt_tokens + e.prompt() as f64,
        })
    }
}

/// The term of one example in the loss of its step, and the derivatives of this term.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossTerm {
    /// The term; the sum over a step's examples is the step's loss.
    pub loss: f64,
    /// The derivative by `ℓ` of the completion.
    pub answer: f64,
    /// The derivative by `ℓ` of the other completion.
    pub other: f64,
    /// The derivative by `ℓ` of the prompt.
    pub prompt: f64,
    /// The implicit reward of the completion.
    pub reward: f64,
    /// The baseline that the reward should be above, or below if the completion was not liked: the reward of the worse one
    /// of a pair, or the objective's threshold.
    pub against: f64,
}

impl LossTerm {
    /// A term of a mean over examples: `loss` and its derivatives, weighted and divided by the number of examples.
    fn mean(totals: &Totals, case: &Case, loss: f64, answer: f64, other: f64) -> LossTerm {
        let share = case.weight / totals.cases;
        LossTerm { loss: share * loss, answer: share * answer, other: share * other, ..LossTerm::default() }
    }

    /// Adds `factor` times the negative log-likelihood of the completions, a mean over the tokens of the step.
    fn likelihood(mut self, totals: &Totals, case: &Case, factor: f64) -> LossTerm {
        let share = factor * case.weight / totals.tokens;
        self.loss -= share * case.answer.logp;
        self.answer -= share;
        self
    }

    fn rewards(self, reward: f64, against: f64) -> LossTerm {
        LossTerm { reward, against, ..self }
    }
}

/// Turns log-probabilities into a loss and its derivatives.
pub trait Objective: Send {
    /// The loss terms of one micro-batch; `totals` covers the whole step. May change the objective's state.
    fn evaluate(&mut self, totals: &Totals, cases: &[Case]) -> Vec<LossTerm>;

    /// A copy with the same state.
    fn copy(&self) -> Box<dyn Objective>;

    /// Its state between steps: after [`Objective::restore`], the next steps are the same in every bit.
    fn state(&self) -> Vec<(&'static str, State<'_>)> {
        Vec::new()
    }

    /// The state to be written, the same pieces in the same order.
    fn state_mut(&mut self) -> Vec<(&'static str, StateMut<'_>)> {
        Vec::new()
    }

    /// Restores what [`Objective::state`] returned; nothing changes on an error.
    ///
    /// # Errors
    /// `Mismatch` if it is the state of another objective.
    fn restore(&mut self, saved: &[(&str, State)]) -> Result<()> {
        state::restore(self.state_mut(), saved)
    }
}

/// An objective without state whose terms depend on one example each.
#[derive(Clone)]
struct Each {
    values: Values,
    rule: fn(&Values, &Totals, &Case) -> LossTerm,
}

impl Objective for Each {
    fn evaluate(&mut self, totals: &Totals, cases: &[Case]) -> Vec<LossTerm> {
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
