//! The table of objectives, and their settings.

use super::{Each, Objective, Shape, bco, contrast, dpo, kto, marks, odds, sft};
use crate::container::head::Head;
use crate::error::{Error, Result};
use crate::knob::{Domain, Knob, Setting, Value, Values, resolve};
use crate::model::Pooling;
use crate::train::Example;
use std::prelude::v1::*;

macro_rules! knob {
    ($id:ident, $name:literal, $metavar:literal, $low:literal to $high:literal, $about:literal) => {
        #[doc = $about]
        pub static $id: Knob =
            Knob { name: $name, about: $about, metavar: $metavar, domain: Domain::Real { low: $low, high: $high } };
    };
}

knob!(BETA, "beta", "B", 1e-6 to 1e3, "How strongly rewards follow log-probabilities; of ipo its τ, of orpo its λ");
knob!(SMOOTHING, "label smoothing", "E", 0.0 to 0.499, "Fraction of pairs whose order is wrong");
knob!(GAMMA, "gamma", "G", -1e3 to 1e3, "Margin by which a reward should be higher; of discopop its τ");
knob!(NLL, "nll", "N", 0.0 to 1e3, "Weight of the negative log-likelihood of better completions in the loss");
knob!(LAMBDA, "lambda", "L", 0.0 to 1e3, "Factor of the odds terms");
knob!(DESIRABLE, "desirable weight", "W", 0.0 to 1e3, "Factor of the loss of liked completions");
knob!(UNDESIRABLE, "undesirable weight", "W", 0.0 to 1e3, "Factor of the loss of disliked completions");

knob!(TEMPERATURE, "contrast temperature", "T", 1e-3 to 1e3, "What cosines are divided by before the softmax over passages");

/// The word for the pooling that a model's file says.
pub(super) const FILE: &str = "file";

/// How texts become vectors.
pub static POOLING: Knob = Knob {
    name: "pooling",
    about: "How the rows of a text become its vector: as the model's file says, or in this way",
    metavar: "NAME",
    domain: Domain::Word(|| core::iter::once(FILE).chain(Pooling::named().map(|(name, _)| name)).collect()),
};

/// β alone.
const fn beta(beta: f64) -> [Setting; 1] {
    [Setting::real(&BETA, beta)]
}

/// β, and a likelihood term that is off by default.
const fn pair(beta: f64) -> [Setting; 2] {
    [Setting::real(&BETA, beta), Setting::real(&NLL, 0.0)]
}

/// These and another setting.
const fn pair_and(beta: f64, more: Setting) -> [Setting; 3] {
    [Setting::real(&BETA, beta), Setting::real(&NLL, 0.0), more]
}

/// One row of [`OBJECTIVES`].
pub struct Kind {
    /// Its name.
    pub name: &'static str,
    /// A short description.
    pub about: &'static str,
    /// The kind of data that it learns from.
    pub shape: Shape,
    /// Whether it compares with a reference model.
    pub reference: bool,
    /// Whether it needs the log-probabilities of prompts too.
    pub prompts: bool,
    /// Whether it estimates a divergence from completions of other prompts.
    pub mismatched: bool,
    /// Its settings, with their defaults.
    pub knobs: &'static [Setting],
    /// Creates one with all settings of the row.
    pub create: fn(&Values) -> Box<dyn Objective>,
}

macro_rules! each {
    ($name:literal, $about:literal, $shape:ident, $reference:literal, $knobs:expr, $rule:path) => {
        Kind {
            name: $name,
            about: $about,
            shape: Shape::$shape,
            reference: $reference,
            prompts: false,
            mismatched: false,
            knobs: &$knobs,
            create: |values| Box::new(Each { values: values.clone(), rule: $rule }),
        }
    };
}

/// Every objective.
pub static OBJECTIVES: &[Kind] = &[
    each!("sft", "maximum likelihood of completions", Completion, false, [], sft::sft),
    each!(
        "poft",
        "completions more likely than under aligned models (arXiv:2412.12865)",
        Completion,
        true,
        [Setting::real(&BETA, 1.0), Setting::real(&GAMMA, 0.0)],
        sft::poft
    ),
    each!("dpo", "pairs, against the reference (arXiv:2305.18290)", Pair, true, pair(0.1), dpo::dpo),
    each!(
        "cdpo",
        "dpo for data in which some pairs have the wrong order",
        Pair,
        true,
        pair_and(0.1, Setting::real(&SMOOTHING, 0.1)),
        dpo::cdpo
    ),
    each!(
        "robust",
        "cdpo without bias (arXiv:2403.00409)",
        Pair,
        true,
        pair_and(0.1, Setting::real(&SMOOTHING, 0.1)),
        dpo::robust
    ),
    each!("hinge", "pairs, until the margin is 1 (arXiv:2305.10425)", Pair, true, pair(0.1), dpo::hinge),
    each!("ipo", "pairs, to a margin of 1/2β a token, as in TRL", Pair, true, pair(0.1), dpo::ipo),
    each!("ipo_sum", "pairs, to a margin of 1/2β (arXiv:2310.12036)", Pair, true, pair(0.1), dpo::ipo_sum),
    each!("ln_dpo", "dpo normalised by length (arXiv:2407.15229)", Pair, true, pair(2.0), dpo::ln_dpo),
    each!("nca_pair", "pairs, each noise-contrasted (arXiv:2402.05369)", Pair, true, pair(0.1), dpo::nca_pair),
    each!("apo_zero", "better ones up, worse ones down (arXiv:2408.06266)", Pair, true, pair(0.1), dpo::apo_zero),
    each!("apo_down", "makes both less likely, the worse one more", Pair, true, pair(0.1), dpo::apo_down),
    each!("sppo_hard", "both to a margin of 1/2β (arXiv:2405.00675)", Pair, true, pair(0.1), dpo::sppo_hard),
    each!(
        "exo_pair",
        "pairs, by a reverse divergence (arXiv:2402.00856)",
        Pair,
        true,
        pair_and(0.1, Setting::real(&SMOOTHING, 1e-3)),
        dpo::exo_pair
    ),
    each!(
        "discopop",
        "pairs, logistic and exponential (arXiv:2406.08414)",
        Pair,
        true,
        pair_and(0.1, Setting::real(&GAMMA, 0.05)),
        dpo::discopop
    ),
    Kind {
        name: "aot",
        about: "pairs, compared as distributions (arXiv:2406.05882)",
        shape: Shape::Pair,
        reference: true,
        prompts: false,
        mismatched: false,
        knobs: &beta(0.1),
        create: |values| Box::new(dpo::Aot { values: values.clone(), paired: false }),
    },
    Kind {
        name: "aot_pair",
        about: "aot on the rewards of better and of worse completions",
        shape: Shape::Pair,
        reference: true,
        prompts: false,
        mismatched: false,
        knobs: &beta(0.1),
        create: |values| Box::new(dpo::Aot { values: values.clone(), paired: true }),
    },
    each!(
        "simpo",
        "pairs by the token, no reference (arXiv:2405.14734)",
        Pair,
        false,
        pair_and(2.0, Setting::real(&GAMMA, 0.5)),
        odds::simpo
    ),
    each!(
        "cpo",
        "pairs and likelihood, no reference (arXiv:2401.08417)",
        Pair,
        false,
        [Setting::real(&BETA, 0.1), Setting::real(&NLL, 1.0)],
        odds::cpo
    ),
    Kind {
        name: "orpo",
        about: "likelihood and odds, no reference (arXiv:2403.07691)",
        shape: Shape::Pair,
        reference: false,
        prompts: true,
        mismatched: false,
        knobs: &[Setting::real(&BETA, 0.1), Setting::real(&NLL, 1.0)],
        create: |values| Box::new(Each { values: values.clone(), rule: odds::orpo }),
    },
    each!(
        "asft",
        "likelihood and absolute odds, no reference (arXiv:2409.10571)",
        Pair,
        false,
        [Setting::real(&BETA, 1.0), Setting::real(&NLL, 1.0), Setting::real(&LAMBDA, 1.0)],
        odds::asft
    ),
    Kind {
        name: "kto",
        about: "verdicts, against a divergence (arXiv:2402.01306)",
        shape: Shape::Verdict,
        reference: true,
        prompts: false,
        mismatched: true,
        knobs: &[Setting::real(&BETA, 0.1), Setting::real(&DESIRABLE, 1.0), Setting::real(&UNDESIRABLE, 1.0)],
        create: |values| Box::new(kto::Kto { values: values.clone() }),
    },
    Kind {
        name: "bco",
        about: "verdicts, against the mean reward of all (arXiv:2404.04656)",
        shape: Shape::Verdict,
        reference: true,
        prompts: false,
        mismatched: false,
        knobs: &beta(0.1),
        create: |values| Box::new(bco::Bco::new(values.real(BETA.name), false)),
    },
    Kind {
        name: "bco_balanced",
        about: "bco against the middle of the mean rewards of liked and disliked: for skewed feedback",
        shape: Shape::Verdict,
        reference: true,
        prompts: false,
        mismatched: false,
        knobs: &beta(0.1),
        create: |values| Box::new(bco::Bco::new(values.real(BETA.name), true)),
    },
    Kind {
        name: "bco_pair",
        about: "bco on pairs",
        shape: Shape::Pair,
        reference: true,
        prompts: false,
        mismatched: false,
        knobs: &beta(0.1),
        create: |values| Box::new(bco::Bco::new(values.real(BETA.name), false)),
    },
    Kind {
        name: "marks",
        about: "the marks of `mynah chat --learn`: pairs by dpo, verdicts by bco_balanced, likelihood of what should be said",
        shape: Shape::Mixed,
        reference: true,
        prompts: false,
        mismatched: false,
        knobs: &[Setting::real(&BETA, 0.1), Setting::real(&NLL, 5.0)],
        create: |values| Box::new(marks::Marks::new(values)),
    },
    each!(
        "infonce",
        "embeddings: queries find their passages among those of the step (arXiv:1807.03748)",
        Contrast,
        false,
        [Setting::real(&TEMPERATURE, 0.05), Setting::word(&POOLING, FILE)],
        contrast::infonce
    ),
];

impl Kind {
    /// # Errors
    /// `Unsupported` if this build does not know it.
    pub fn by_name(name: &str) -> Result<&'static Kind> {
        OBJECTIVES.iter().find(|k| k.name == name).ok_or_else(|| Error::unsupported("objective", name))
    }

    /// Checks that it can learn from an example, the `place`-th, counted from 0.
    ///
    /// # Errors
    /// `Invalid`, saying what is missing.
    pub fn check(&self, place: usize, example: &Example) -> Result<()> {
        let fails = |why: String| Err(Error::invalid(format!("example {place}"), why));
        let lacks =
            |what: &str| fails(format!("{what}; {} learns from rows like {}", self.name, self.shape.describe()));
        if self.shape == Shape::Pair && example.other.as_ref().is_none_or(|o| o.targets() == 0) {
            return lacks("it has no rejected completion");
        }
        if self.shape == Shape::Verdict && example.good.is_none() {
            return lacks("it does not say whether it was liked");
        }
        if self.shape == Shape::Contrast {
            if example.passages.is_empty() {
                return lacks("it has no passage that its query should find");
            }
        } else if !example.passages.is_empty() {
            return lacks("it is a query with passages");
        }
        if self.shape == Shape::Completion && (example.other.is_some() || example.good == Some(false)) {
            return lacks("it has a completion that is not to be learnt");
        }
        if self.mismatched && example.other.as_ref().is_none_or(|o| o.targets() == 0) {
            return fails("it has no completion of another prompt, see `objective::mismatch`".into());
        }
        if example.targets() == 0 && !matches!(self.shape, Shape::Completion | Shape::Contrast) {
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

/// An objective with its settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// A name of [`OBJECTIVES`].
    pub kind: String,
    /// Values that differ from the defaults of its row, [`Kind::knobs`].
    pub values: Values,
}

impl Default for Spec {
    fn default() -> Self {
        Spec::new("sft")
    }
}

impl Spec {
    /// The row with its default settings.
    pub fn new(kind: &str) -> Spec {
        Spec { kind: kind.into(), values: Values::new() }
    }

    /// This specification with a setting changed.
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Spec {
        self.values.set(name, value);
        self
    }

    /// All facts that determine what it computes, for checkpoints.
    pub fn facts(&self, facts: &mut Head) {
        facts.set("objective", self.kind.as_str());
        self.values.facts("objective ", facts);
    }

    /// The row, and the values of all its settings.
    ///
    /// # Errors
    /// `Unsupported` for an unknown name; `Invalid` for a setting that cannot be used or that this objective does not have.
    pub fn row(&self) -> Result<(&'static Kind, Values)> {
        let kind = Kind::by_name(&self.kind)?;
        Ok((kind, resolve(kind.name, kind.knobs, &self.values)?))
    }
}
