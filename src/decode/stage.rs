//! What happens to candidates before one of them is drawn: a stage a row of [`STAGES`], which says what can be set.
//!
//! The rows stand in llama.cpp's order, in which [`Sampler::new`](super::Sampler::new) chains them.

use super::candidates::{reach, total};
use super::{Candidate, Candidates};
use crate::error::{Error, Result};
use crate::knob::{self, Domain, Knob, Setting, Values};
use std::prelude::v1::*;

/// Changes candidates before the draw.
///
/// ```
/// use mynah::decode::{Candidates, Sampler, Sampling, Stage};
///
/// /// Never says one token.
/// #[derive(Clone)]
/// struct Without(u32);
///
/// impl Stage for Without {
///     fn apply(&mut self, candidates: &mut Candidates, _seen: &[u32]) {
///         candidates.list().retain(|c| c.id != self.0);
///     }
/// }
///
/// let kernels = mynah::Compute::best(1).kernels;
/// let mut sampler = Sampler::new(&Sampling::greedy())?.then(Box::new(Without(1)));
/// assert_eq!(sampler.pick(kernels, &[0.5, 9.0, 2.0])?, 2);
/// # Ok::<(), mynah::Error>(())
/// ```
pub trait Stage: CopyStage + Send {
    /// Changes or removes candidates. `seen` are the tokens so far, those of the prompt among them.
    fn apply(&mut self, candidates: &mut Candidates, seen: &[u32]);
}

/// What a text that branches needs of its stages. Every [`Stage`] that is `Clone` has it.
pub trait CopyStage {
    /// A copy with its state.
    fn copy(&self) -> Box<dyn Stage>;
}

impl<S: Stage + Clone + 'static> CopyStage for S {
    fn copy(&self) -> Box<dyn Stage> {
        Box::new(self.clone())
    }
}

/// One row of [`STAGES`].
///
/// ```
/// use mynah::decode::STAGES;
///
/// for stage in STAGES {
///     for setting in stage.knobs {
///         println!("{}: {}", stage.name, setting.knob.about);
///     }
/// }
/// assert!(STAGES.iter().any(|stage| stage.name == "top-k" && stage.narrows));
/// ```
pub struct Row {
    /// As people call it.
    pub name: &'static str,
    /// Its settings, with their defaults.
    pub knobs: &'static [Setting],
    /// Whether it only removes candidates that are not the likeliest: a greedy choice does without it.
    pub narrows: bool,
    /// The stage, from all settings of the row; `None` if with these it would do nothing.
    pub create: fn(&Values) -> Option<Box<dyn Stage>>,
}

macro_rules! knob {
    ($id:ident, $name:literal, $metavar:literal, $domain:expr, $about:literal) => {
        #[doc = $about]
        pub static $id: Knob = Knob { name: $name, about: $about, metavar: $metavar, domain: $domain };
    };
}

knob!(
    PENALTY,
    "repeat penalty",
    "R",
    Domain::Real { low: 0.01, high: 100.0 },
    "Make recent tokens less likely; 1: do not"
);
knob!(
    LAST,
    "repeat last n",
    "N",
    Domain::Whole { low: 0, high: 1 << 20 },
    "Tokens back that --repeat-penalty looks; 0: none"
);
knob!(TOP_K, "top k", "K", Domain::Whole { low: 0, high: u64::MAX }, "Choose among the K likeliest tokens; 0: all");
knob!(
    TOP_P,
    "top p",
    "P",
    Domain::Real { low: 1e-6, high: 1.0 },
    "Choose among the likeliest tokens that together have probability P; 1: all"
);
knob!(
    MIN_P,
    "min p",
    "P",
    Domain::Real { low: 0.0, high: 1.0 },
    "Choose among tokens at least P times as likely as the likeliest; 0: all"
);
knob!(TEMP, "temp", "T", Domain::Real { low: 0.0, high: 100.0 }, "Randomness; 0 always takes the likeliest token");

/// Every stage, in the order in which they are chained.
pub static STAGES: &[Row] = &[
    Row {
        name: "repetition penalty",
        knobs: &[Setting::real(&PENALTY, 1.0), Setting::whole(&LAST, 64)],
        narrows: false,
        create: |v| {
            let (penalty, last) = (v.real("repeat penalty") as f32, v.whole("repeat last n") as usize);
            (penalty != 1.0 && last > 0).then(|| Box::new(Repetition { penalty, last }) as Box<dyn Stage>)
        },
    },
    Row {
        name: "top-k",
        knobs: &[Setting::whole(&TOP_K, 40)],
        narrows: true,
        create: |v| {
            let k = usize::try_from(v.whole("top k")).unwrap_or(usize::MAX);
            (k > 0).then(|| Box::new(TopK(k)) as Box<dyn Stage>)
        },
    },
    Row {
        name: "top-p",
        knobs: &[Setting::real(&TOP_P, 0.95)],
        narrows: true,
        create: |v| {
            let p = v.real("top p") as f32;
            (p < 1.0).then(|| Box::new(TopP(p)) as Box<dyn Stage>)
        },
    },
    Row {
        name: "min-p",
        knobs: &[Setting::real(&MIN_P, 0.05)],
        narrows: true,
        create: |v| {
            let p = v.real("min p") as f32;
            (p > 0.0).then(|| Box::new(MinP(p)) as Box<dyn Stage>)
        },
    },
    Row {
        name: "temperature",
        knobs: &[Setting::real(&TEMP, 0.8)],
        narrows: false,
        create: |v| {
            let t = v.real("temp") as f32;
            (t > 0.0 && t != 1.0).then(|| Box::new(Temperature(t)) as Box<dyn Stage>)
        },
    },
];

/// The stages that these settings ask for, and whether the choice after them is greedy.
///
/// # Errors
/// `Invalid` naming a setting that cannot be used, or that no row has.
pub(super) fn chain(given: &Values) -> Result<(Vec<Box<dyn Stage>>, bool)> {
    let known = |name: &str| STAGES.iter().any(|row| row.knobs.iter().any(|u| u.knob.name == name));
    if let Some((name, value)) = given.iter().find(|(name, _)| !known(name)) {
        return Err(Error::invalid(name, format!("{value}, and no stage of sampling has it")));
    }
    let mut rows = Vec::new();
    for row in STAGES {
        let mut own = Values::new();
        for (name, value) in given.iter().filter(|(name, _)| row.knobs.iter().any(|u| u.knob.name == *name)) {
            own.set(name, value.clone());
        }
        rows.push((row, knob::resolve(row.name, row.knobs, &own)?));
    }
    let greedy = rows.iter().any(|(_, values)| values.get(TEMP.name).is_some() && values.real(TEMP.name) == 0.0);
    let wanted = rows.iter().filter(|(row, _)| !(greedy && row.narrows));
    Ok((wanted.filter_map(|(row, values)| (row.create)(values)).collect(), greedy))
}

/// Divides positive logits of recent tokens by `penalty` and multiplies the others by it: each token once, however often
/// it came.
#[derive(Clone)]
struct Repetition {
    penalty: f32,
    /// Tokens back that it looks.
    last: usize,
}

impl Stage for Repetition {
    fn apply(&mut self, candidates: &mut Candidates, seen: &[u32]) {
        let recent = &seen[seen.len().saturating_sub(self.last)..];
        for (i, &id) in recent.iter().enumerate() {
            if !recent[..i].contains(&id) {
                candidates.change(id, |x| if x <= 0.0 { x * self.penalty } else { x / self.penalty });
            }
        }
    }
}

/// Keeps the likeliest tokens, the likeliest first.
#[derive(Clone)]
struct TopK(usize);

impl Stage for TopK {
    fn apply(&mut self, candidates: &mut Candidates, _: &[u32]) {
        candidates.keep_best(self.0);
    }
}

/// Keeps the fewest best candidates whose probabilities together reach `p`, in any order.
#[derive(Clone)]
struct TopP(f32);

impl Stage for TopP {
    fn apply(&mut self, candidates: &mut Candidates, _: &[u32]) {
        let list = candidates.weighted();
        let goal = f64::from(self.0) * total(list);
        let count = reach(list, |sum| sum >= goal);
        list.truncate(count);
    }
}

/// Keeps candidates at least `p` times as likely as the best, in the order they have.
#[derive(Clone)]
struct MinP(f32);

impl Stage for MinP {
    fn apply(&mut self, candidates: &mut Candidates, _: &[u32]) {
        let p = self.0;
        candidates.weighted().retain(|c: &Candidate| c.weight >= p);
    }
}

/// Divides logits by the temperature.
#[derive(Clone)]
struct Temperature(f32);

impl Stage for Temperature {
    fn apply(&mut self, candidates: &mut Candidates, _: &[u32]) {
        let t = self.0;
        candidates.change_all(|logit| logit / t);
    }
}
