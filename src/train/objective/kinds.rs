//! The objectives that there are, a row each, and what can be set.

use super::{Each, Objective, Shape, bco, dpo, kto, odds, sft};
use crate::container::head::Head;
use crate::error::{Error, Result};
use crate::train::Example;
use std::prelude::v1::*;

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
    pub(super) beta: f64,
    pub(super) label_smoothing: f64,
    pub(super) gamma: f64,
    pub(super) nll: f64,
    pub(super) lambda: f64,
    pub(super) desirable_weight: f64,
    pub(super) undesirable_weight: f64,
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
