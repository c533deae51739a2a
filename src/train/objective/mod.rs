//! Objectives: what is to become of the log-probabilities of completions. [`OBJECTIVES`] lists them; a [`Spec`] names one
//! with its settings.
//!
//! A trainer turns examples into [`Case`]s, sums of log-probabilities in nats, and an objective turns these into
//! [`Grade`]s: the loss and its derivatives by the sums. Nothing more is needed: the gradient at the logits of a row is
//! its sum's derivative times `onehot − softmax`. `ℓ` is the sum over a completion, `ℓ̄ = ℓ / |y|`, `h = ℓ − ℓ_ref`; the
//! reference is the base without the adapter. All of it is in double precision.

mod bco;
mod dpo;
mod kto;
mod odds;
mod sft;

pub use super::state::{State, StateMut};

use super::Example;
use super::state;
use crate::container::head::Head;
use crate::error::{Error, Result};
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
#[derive(Clone, Copy)]
struct Each {
    settings: Settings,
    rule: fn(&Settings, &Totals, &Case) -> Grade,
}

impl Objective for Each {
    fn grade(&mut self, totals: &Totals, cases: &[Case]) -> Vec<Grade> {
        cases.iter().map(|case| (self.rule)(&self.settings, totals, case)).collect()
    }

    fn copy(&self) -> Box<dyn Objective> {
        Box::new(*self)
    }
}

/// Numbers that objectives have; `None` where there is nothing to set, or where the usual value is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Options {
    /// β: how strongly rewards follow log-probabilities; IPO's τ, ORPO's λ.
    pub beta: Option<f64>,
    /// ε: the part of the pairs that is the wrong way round.
    pub label_smoothing: Option<f64>,
    /// γ: the margin by which a reward should be higher.
    pub gamma: Option<f64>,
    /// Factor of the negative log-likelihood of the better completion, added to the loss.
    pub nll: Option<f64>,
    /// ASFT's λ: factor of the odds' terms.
    pub lambda: Option<f64>,
    /// KTO's factor of completions that were liked.
    pub desirable_weight: Option<f64>,
    /// KTO's factor of completions that were not.
    pub undesirable_weight: Option<f64>,
}

/// Nothing to set.
const NONE: Options = Options {
    beta: None,
    label_smoothing: None,
    gamma: None,
    nll: None,
    lambda: None,
    desirable_weight: None,
    undesirable_weight: None,
};

/// β alone.
const fn beta(beta: f64) -> Options {
    Options { beta: Some(beta), ..NONE }
}

/// β, and a likelihood term that is off unless it is wanted.
const fn pair(beta: f64) -> Options {
    Options { beta: Some(beta), nll: Some(0.0), ..NONE }
}

/// The same numbers, resolved; 0 where an objective has no use for one.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    beta: f64,
    label_smoothing: f64,
    gamma: f64,
    nll: f64,
    lambda: f64,
    desirable_weight: f64,
    undesirable_weight: f64,
}

/// One row of [`OBJECTIVES`].
pub struct Kind {
    /// As people call it.
    pub name: &'static str,
    /// What it is, in a few words.
    pub about: &'static str,
    /// What it learns from.
    pub shape: Shape,
    /// Whether it compares with a reference model.
    pub reference: bool,
    /// Whether it wants the log-probabilities of prompts too.
    pub prompts: bool,
    /// Whether it estimates a divergence from completions that belong to other prompts.
    pub mismatched: bool,
    /// What can be set, with the usual values.
    pub usual: Options,
    /// A fresh one.
    pub create: fn(Settings) -> Box<dyn Objective>,
}

macro_rules! each {
    ($name:literal, $about:literal, $shape:ident, $reference:literal, $usual:expr, $rule:path) => {
        Kind {
            name: $name,
            about: $about,
            shape: Shape::$shape,
            reference: $reference,
            prompts: false,
            mismatched: false,
            usual: $usual,
            create: |settings| Box::new(Each { settings, rule: $rule }),
        }
    };
}

/// Every objective.
pub static OBJECTIVES: &[Kind] = &[
    each!("sft", "likely completions", Completion, false, NONE, sft::sft),
    each!(
        "poft",
        "likelier than under aligned models (arXiv:2412.12865)",
        Completion,
        true,
        Options { beta: Some(1.0), gamma: Some(0.0), ..NONE },
        sft::poft
    ),
    each!("dpo", "pairs, against the reference (arXiv:2305.18290)", Pair, true, pair(0.1), dpo::dpo),
    each!(
        "cdpo",
        "dpo where some pairs are the wrong way round",
        Pair,
        true,
        Options { label_smoothing: Some(0.1), ..pair(0.1) },
        dpo::cdpo
    ),
    each!(
        "robust",
        "the same without bias (arXiv:2403.00409)",
        Pair,
        true,
        Options { label_smoothing: Some(0.1), ..pair(0.1) },
        dpo::robust
    ),
    each!("hinge", "pairs, until the margin is 1 (arXiv:2305.10425)", Pair, true, pair(0.1), dpo::hinge),
    each!("ipo", "pairs, to a margin of 1/2β a token, as in TRL", Pair, true, pair(0.1), dpo::ipo),
    each!("ipo_sum", "pairs, to a margin of 1/2β (arXiv:2310.12036)", Pair, true, pair(0.1), dpo::ipo_sum),
    each!("ln_dpo", "dpo by the token (arXiv:2407.15229)", Pair, true, pair(2.0), dpo::ln_dpo),
    each!("nca_pair", "pairs, each noise-contrasted (arXiv:2402.05369)", Pair, true, pair(0.1), dpo::nca_pair),
    each!("apo_zero", "better ones up, worse ones down (arXiv:2408.06266)", Pair, true, pair(0.1), dpo::apo_zero),
    each!("apo_down", "both down, the worse further", Pair, true, pair(0.1), dpo::apo_down),
    each!("sppo_hard", "both to a margin of 1/2β (arXiv:2405.00675)", Pair, true, pair(0.1), dpo::sppo_hard),
    each!(
        "exo_pair",
        "pairs, by a reverse divergence (arXiv:2402.00856)",
        Pair,
        true,
        Options { label_smoothing: Some(1e-3), ..pair(0.1) },
        dpo::exo_pair
    ),
    each!(
        "discopop",
        "pairs, logistic and exponential (arXiv:2406.08414)",
        Pair,
        true,
        Options { gamma: Some(0.05), ..pair(0.1) },
        dpo::discopop
    ),
    Kind {
        name: "aot",
        about: "pairs, the whole distributions apart (arXiv:2406.05882)",
        shape: Shape::Pair,
        reference: true,
        prompts: false,
        mismatched: false,
        usual: beta(0.1),
        create: |settings| Box::new(dpo::Aot { settings, paired: false }),
    },
    Kind {
        name: "aot_pair",
        about: "the same, of better ones and of worse ones",
        shape: Shape::Pair,
        reference: true,
        prompts: false,
        mismatched: false,
        usual: beta(0.1),
        create: |settings| Box::new(dpo::Aot { settings, paired: true }),
    },
    each!(
        "simpo",
        "pairs by the token, no reference (arXiv:2405.14734)",
        Pair,
        false,
        Options { gamma: Some(0.5), ..pair(2.0) },
        odds::simpo
    ),
    each!(
        "cpo",
        "pairs and likelihood, no reference (arXiv:2401.08417)",
        Pair,
        false,
        Options { nll: Some(1.0), ..beta(0.1) },
        odds::cpo
    ),
    Kind {
        name: "orpo",
        about: "likelihood and odds, no reference (arXiv:2403.07691)",
        shape: Shape::Pair,
        reference: false,
        prompts: true,
        mismatched: false,
        usual: Options { nll: Some(1.0), ..beta(0.1) },
        create: |settings| Box::new(Each { settings, rule: odds::orpo }),
    },
    each!(
        "asft",
        "likelihood and absolute odds, no reference (arXiv:2409.10571)",
        Pair,
        false,
        Options { nll: Some(1.0), lambda: Some(1.0), ..beta(1.0) },
        odds::asft
    ),
    Kind {
        name: "kto",
        about: "liked or not, against a divergence (arXiv:2402.01306)",
        shape: Shape::Verdict,
        reference: true,
        prompts: false,
        mismatched: true,
        usual: Options { desirable_weight: Some(1.0), undesirable_weight: Some(1.0), ..beta(0.1) },
        create: |settings| Box::new(kto::Kto { settings }),
    },
    Kind {
        name: "bco",
        about: "liked or not, against the mean reward of all (arXiv:2404.04656)",
        shape: Shape::Verdict,
        reference: true,
        prompts: false,
        mismatched: false,
        usual: beta(0.1),
        create: |settings| Box::new(bco::Bco::new(settings.beta, false)),
    },
    Kind {
        name: "bco_balanced",
        about: "the same, halfway between the means of liked and not: for skewed feedback",
        shape: Shape::Verdict,
        reference: true,
        prompts: false,
        mismatched: false,
        usual: beta(0.1),
        create: |settings| Box::new(bco::Bco::new(settings.beta, true)),
    },
    Kind {
        name: "bco_pair",
        about: "bco on pairs",
        shape: Shape::Pair,
        reference: true,
        prompts: false,
        mismatched: false,
        usual: beta(0.1),
        create: |settings| Box::new(bco::Bco::new(settings.beta, false)),
    },
];

impl Kind {
    /// # Errors
    /// `Unsupported` if this build does not know it.
    pub fn by_name(name: &str) -> Result<&'static Kind> {
        OBJECTIVES.iter().find(|k| k.name == name).ok_or_else(|| Error::unsupported("objective", name))
    }

    /// Whether it can learn from an example, the `place`-th, counted from 0.
    ///
    /// # Errors
    /// `Invalid`, saying what is missing.
    pub fn check(&self, place: usize, example: &Example) -> Result<()> {
        let fails = |why: String| Err(Error::invalid(format!("example {place}"), why));
        let lacks =
            |what: &str| fails(format!("{what}; {} learns from rows like {}", self.name, self.shape.describe()));
        if self.shape == Shape::Pair && example.other.as_ref().is_none_or(|o| o.counted() == 0) {
            return lacks("it has no rejected completion");
        }
        if self.shape == Shape::Verdict && example.good.is_none() {
            return lacks("it does not say whether it was liked");
        }
        if self.shape == Shape::Completion && (example.other.is_some() || example.good == Some(false)) {
            return lacks("it has a completion that is not to be learnt");
        }
        if self.mismatched && example.other.as_ref().is_none_or(|o| o.counted() == 0) {
            return fails("it has no completion of another prompt, see `objective::mismatch`".into());
        }
        if example.counted() == 0 && self.shape != Shape::Completion {
            return fails("its completion has no token".into());
        }
        if self.reference && !example.sequences().all(|e| e.reference.is_some_and(f64::is_finite)) {
            return fails("its log-probability under the reference is not known, see `Trainer::refer`".into());
        }
        match example.weight {
            Some(w) if !(w.is_finite() && w >= 0.0) => {
                fails(format!("its weight is {w}; a finite number from 0 can be used"))
            }
            _ => Ok(()),
        }
    }
}

/// Which objective, with its settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// A name of [`OBJECTIVES`].
    pub kind: String,
    /// What differs from the usual.
    pub options: Options,
}

impl Default for Spec {
    fn default() -> Self {
        Spec { kind: "sft".into(), options: NONE }
    }
}

impl Spec {
    /// One with its usual settings.
    pub fn new(kind: &str) -> Spec {
        Spec { kind: kind.into(), options: NONE }
    }

    /// All that decides what it computes, for checkpoints.
    pub fn facts(&self, facts: &mut Head) {
        let Options { beta, label_smoothing, gamma, nll, lambda, desirable_weight, undesirable_weight } = self.options;
        facts.set("objective", self.kind.as_str());
        for (name, value) in [
            ("objective beta", beta),
            ("objective label smoothing", label_smoothing),
            ("objective gamma", gamma),
            ("objective nll", nll),
            ("objective lambda", lambda),
            ("objective desirable weight", desirable_weight),
            ("objective undesirable weight", undesirable_weight),
        ] {
            if let Some(value) = value {
                facts.set(name, value.to_string());
            }
        }
    }

    /// The row and what it is to be made with.
    ///
    /// # Errors
    /// `Unsupported` for an unknown name; `Invalid` for a setting that cannot be used or that this objective lacks.
    pub fn settings(&self) -> Result<(&'static Kind, Settings)> {
        let kind = Kind::by_name(&self.kind)?;
        let pick = |name: &str, get: fn(&Options) -> Option<f64>, low: f64, high: f64| {
            let (given, usual) = (get(&self.options), get(&kind.usual));
            match given {
                Some(v) if usual.is_none() => Err(Error::invalid(name, format!("{v}, and {} has none", kind.name))),
                Some(v) if !(low..=high).contains(&v) => {
                    Err(Error::invalid(name, format!("{v}; {low} to {high} can be used")))
                }
                _ => Ok(given.or(usual).unwrap_or(0.0)),
            }
        };
        let settings = Settings {
            beta: pick("beta", |o| o.beta, 1e-6, 1e3)?,
            label_smoothing: pick("label smoothing", |o| o.label_smoothing, 0.0, 0.499)?,
            gamma: pick("gamma", |o| o.gamma, -1e3, 1e3)?,
            nll: pick("nll", |o| o.nll, 0.0, 1e3)?,
            lambda: pick("lambda", |o| o.lambda, 0.0, 1e3)?,
            desirable_weight: pick("desirable weight", |o| o.desirable_weight, 0.0, 1e3)?,
            undesirable_weight: pick("undesirable weight", |o| o.undesirable_weight, 0.0, 1e3)?,
        };
        Ok((kind, settings))
    }
}

/// Two examples from each pair: the better one liked, the worse one not. Others are left as they are.
pub fn unpair(examples: Vec<Example>) -> Vec<Example> {
    let mut out = Vec::new();
    for mut e in examples {
        match (e.good, e.other.take()) {
            (None, Some(worse)) => {
                let Example { weight, line, .. } = e;
                out.push(e.judged(true));
                out.push(Example { weight, line, ..worse.judged(false) });
            }
            (_, other) => out.push(Example { other, ..e }),
        }
    }
    out
}

/// Gives each example the completion of the next one's prompt as its [`Example::other`], the last that of the first:
/// what KTO estimates a divergence from. Rows of more than `context` tokens lose their end.
///
/// # Errors
/// `Invalid` if there are not two examples, or a completion does not fit behind a prompt.
pub fn mismatch(examples: &mut [Example], context: usize) -> Result<()> {
    if examples.len() < 2 {
        return Err(Error::invalid("examples", "a completion of another prompt is needed, so at least two"));
    }
    let parts: Vec<(usize, Vec<u32>)> = examples
        .iter()
        .map(|e| {
            let start = e.counts.iter().position(|c| *c).unwrap_or(e.tokens.len());
            let said = e.tokens.iter().zip(&e.counts).skip(start);
            (start, said.filter(|(_, c)| **c).map(|(t, _)| *t).collect())
        })
        .collect();
    let n = examples.len();
    for (i, e) in examples.iter_mut().enumerate() {
        let prompt = &e.tokens[..parts[i].0];
        let mut other = Example::completion(prompt, &parts[(i + 1) % n].1);
        other.tokens.truncate(context);
        other.counts.truncate(context);
        if other.counted() == 0 {
            return Err(Error::invalid(format!("example {i}"), "its prompt leaves no room for a completion"));
        }
        e.other = Some(Box::new(other));
    }
    Ok(())
}

/// How rewards stand to what they should be above or below, over the examples of a step or of a test.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rewards {
    /// Examples.
    pub cases: u64,
    /// Mean reward of better or liked completions, 0 if there are none.
    pub good: f64,
    /// Of worse or disliked ones.
    pub bad: f64,
    /// The part of the examples whose reward is on the right side.
    pub accuracy: f64,
    /// By how much it is, on average.
    pub margin: f64,
}

/// Collects the loss and [`Rewards`], example by example, so that how they were split changes no bit.
#[derive(Clone, Copy, Default)]
pub(super) struct Tally {
    pub loss: f64,
    sums: [f64; 2],
    counts: [u64; 2],
    cases: u64,
    right: f64,
    margin: f64,
}

impl Tally {
    fn add(&mut self, shape: Shape, case: &Case, grade: &Grade) {
        let sign = if shape == Shape::Verdict && !case.good { -1.0 } else { 1.0 };
        let margin = sign * (grade.reward - grade.against);
        self.loss += grade.loss;
        self.cases += 1;
        self.margin += margin;
        self.right += if margin > 0.0 {
            1.0
        } else if margin == 0.0 {
            0.5
        } else {
            0.0
        };
        let mut reward = |bad: usize, reward: f64| {
            self.sums[bad] += reward;
            self.counts[bad] += 1;
        };
        reward(usize::from(sign < 0.0), grade.reward);
        if shape == Shape::Pair {
            reward(1, grade.against);
        }
    }

    pub(super) fn rewards(&self) -> Rewards {
        let mean = |sum: f64, n: u64| if n == 0 { 0.0 } else { sum / n as f64 };
        Rewards {
            cases: self.cases,
            good: mean(self.sums[0], self.counts[0]),
            bad: mean(self.sums[1], self.counts[1]),
            accuracy: mean(self.right, self.cases),
            margin: mean(self.margin, self.cases),
        }
    }
}

/// From the sums of a batch to the loss so far; `slopes` are the derivatives by the sums. The batch's sequences are
/// the examples and, of pairs, each one's other behind it; `others` are the sums of mismatched ones.
pub(super) fn apply(
    objective: &mut dyn Objective,
    kind: &Kind,
    totals: &Totals,
    examples: &[Example],
    [sums, others]: [&[f64]; 2],
    slopes: &mut [f32],
    tally: &mut Tally,
) -> f64 {
    let width = if kind.shape == Shape::Pair { 4 } else { 2 };
    let score = |e: &Example, logp: f64| Score {
        logp,
        len: e.counted() as f64,
        reference: if kind.reference { e.reference.unwrap_or(0.0) } else { 0.0 },
    };
    let case = |(i, e): (usize, &Example)| {
        let other = e.other.as_deref().map(|o| score(o, if width == 4 { sums[4 * i + 2] } else { others[2 * i] }));
        Case {
            weight: e.weight.unwrap_or(1.0) as f64,
            answer: score(e, sums[width * i]),
            other: other.filter(|_| width == 4 || kind.mismatched),
            good: e.good.unwrap_or(true),
            prompt: Score { logp: sums[width * i + 1], len: e.prompt() as f64, reference: 0.0 },
        }
    };
    let cases: Vec<Case> = examples.iter().enumerate().map(case).collect();
    for (i, (case, grade)) in cases.iter().zip(objective.grade(totals, &cases)).enumerate() {
        tally.add(kind.shape, case, &grade);
        let slopes = &mut slopes[width * i..][..width];
        (slopes[0], slopes[1]) = (grade.answer as f32, grade.prompt as f32);
        if width == 4 {
            (slopes[2], slopes[3]) = (grade.other as f32, 0.0);
        }
    }
    tally.loss
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
