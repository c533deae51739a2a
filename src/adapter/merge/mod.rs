//! Merging adapters: one that does what several do, as far as they let each other. [`MERGES`] has the methods; a [`Spec`]
//! names one with its settings.
//!
//! All of it is about the changes `ΔWₜ = s·B·A` of each layer, times a weight `wₜ`, never about the factors themselves.
//!
//! ```text
//! sum      Σ wₜ·ΔWₜ, with the factors side by side: exact; its rank is the sum of ranks
//! linear   λ·Σ wₜ·ΔWₜ as the nearest matrix of a smaller rank (task arithmetic, arXiv:2212.04089)
//! ties     each ΔWₜ keeps its largest entries; every entry elects a sign, and those that have it are averaged
//! dare     entries are dropped at random, the others grow by as much; then the sum or the vote
//! tsvm     singular vectors of all side by side, replaced by the nearest orthogonal ones: U·diag(σ)·Vᵀ
//! r-tsvm   the same with σₜ weighted by outliers, oₜ / mean(o), and fewer triples where entries are near zero
//! ```
//! What is not of low rank is refactored by its largest singular triples. A kind whose parameters are vectors, such as
//! factors of channels, has the weighted mean of them, with `linear`. Other kinds are refused by name.
//!
//! `elementwise.rs` has the methods by entries, `conflict.rs` the report.

internal!(elementwise conflict);

pub use conflict::{Advice, Conflict};

use super::algebra::{Dense, Factors, Linear, Triples, triples, whitened};
use super::file::{self, Fit};
use super::kinds::lora::Lora;
use super::lowrank::{Layout, Slot};
use super::{Adapter, Base, MAX_RANK, Provenance, Ready, Shape, Site};
use crate::bytes::Limits;
use crate::error::{Error, Result, printable};
use crate::knob::{Domain, Knob, Setting, Value, Values, resolve};
use crate::rng::Stream;
use conflict::{Look, Survey};
use elementwise::{Ballot, VOTES, Vote, fill, rescale, weighted};
use std::prelude::v1::*;
use std::sync::Arc;

/// Rank of the result.
pub static RANK: Knob = Knob {
    name: "rank",
    about: "Rank of the merged change; 0: the least that keeps --energy, and at most the sum of all ranks",
    metavar: "R",
    domain: Domain::Whole { low: 0, high: MAX_RANK as u64 },
};

/// What the rank keeps.
pub static ENERGY: Knob = Knob {
    name: "energy",
    about: "Part of the energy (squares of the entries) that is kept where no --rank is given; 1: all",
    metavar: "E",
    domain: Domain::Real { low: 1e-3, high: 1.0 },
};

/// λ.
pub static SCALE: Knob = Knob {
    name: "scale",
    about: "Factor of the merged change",
    metavar: "S",
    domain: Domain::Real { low: -100.0, high: 100.0 },
};

/// What is kept of each change.
pub static DENSITY: Knob = Knob {
    name: "density",
    about: "Part of the entries of each change that is kept: the largest, or any where they are drawn",
    metavar: "D",
    domain: Domain::Real { low: 1e-6, high: 1.0 },
};

/// Whose arithmetic of TIES.
pub static VOTE: Knob = Knob {
    name: "vote",
    about: "Whose arithmetic: with all weights 1, they differ between mean and sum",
    metavar: "NAME",
    domain: Domain::Word(|| VOTES.iter().map(|vote| vote.name).collect()),
};

/// What follows dropping.
pub static THEN: Knob =
    Knob { name: "then", about: "What follows", metavar: "NAME", domain: Domain::Word(|| vec!["ties", "linear"]) };

/// The seed of what is dropped.
pub static SEED: Knob = Knob {
    name: "seed",
    about: "Seed of what is dropped",
    metavar: "N",
    domain: Domain::Whole { low: 0, high: u32::MAX as u64 },
};

/// Triples of a task.
pub static KEEP: Knob = Knob {
    name: "keep",
    about: "Leading singular triples of each adapter; 0: all while they fit beside each other",
    metavar: "K",
    domain: Domain::Whole { low: 0, high: MAX_RANK as u64 },
};

/// One row of [`MERGES`].
pub struct Method {
    /// Its name.
    pub name: &'static str,
    /// A short description.
    pub about: &'static str,
    /// Its settings, with their defaults.
    pub knobs: &'static [Setting],
    /// Whether it needs a look at all layers first: [`Plan::look`].
    pub looks: bool,
    /// Whether kinds of vectors have it too: the weighted mean.
    mean: bool,
    /// The merged change of a layer.
    merge: fn(&Joint, &Values) -> Result<Change>,
}

const AUTO: Setting = Setting::whole(&RANK, 0);
const MOST: Setting = Setting::real(&ENERGY, 0.99);
const ALL: Setting = Setting::real(&ENERGY, 1.0);
const AS_IS: Setting = Setting::real(&SCALE, 1.0);
const ALL_TRIPLES: Setting = Setting::whole(&KEEP, 0);
const USUAL_VOTE: Setting = Setting::word(&VOTE, "mergekit");

/// Every method.
pub static MERGES: &[Method] = &[
    Method {
        name: "sum",
        about: "the weighted sum, exactly; the ranks add up",
        knobs: &[AUTO, ALL, AS_IS],
        looks: false,
        mean: false,
        merge: |joint, _| Ok(Change::Factors(joint.sum())),
    },
    Method {
        name: "linear",
        about: "the weighted sum in a smaller rank (task arithmetic); of kinds that are vectors the weighted mean",
        // 0.3 to 0.5 is usual where whole tasks are added.
        knobs: &[AUTO, MOST, Setting::real(&SCALE, 0.4)],
        looks: false,
        mean: true,
        merge: |joint, _| Ok(Change::Factors(joint.sum())),
    },
    Method {
        name: "ties",
        about: "the largest entries, with the sign that most of them have",
        knobs: &[AUTO, MOST, AS_IS, Setting::real(&DENSITY, 0.2), USUAL_VOTE],
        looks: false,
        mean: false,
        merge: |joint, values| {
            let vote = Vote::by_name(values.word(VOTE.name))?;
            let ballot = joint.ballot(vote, joint.thresholds(vote, values.real(DENSITY.name)));
            Ok(Change::Dense(joint.entries(|_, rows, out| ballot.elect(rows, out))))
        },
    },
    Method {
        name: "dare",
        about: "entries dropped at random, the others enlarged; then ties or the sum",
        knobs: &[
            AUTO,
            MOST,
            AS_IS,
            Setting::real(&DENSITY, 0.5),
            Setting::word(&THEN, "ties"),
            USUAL_VOTE,
            Setting::whole(&SEED, 0),
        ],
        looks: false,
        mean: false,
        merge: dare,
    },
    Method {
        name: "tsvm",
        about: "singular vectors of all, made orthogonal to each other (TSV-M)",
        knobs: &[AUTO, ALL, AS_IS, ALL_TRIPLES],
        looks: false,
        mean: false,
        merge: |joint, values| Ok(Change::Factors(whitened(joint.leading(values, |_| (1.0, 1.0))))),
    },
    Method {
        name: "r-tsvm",
        about: "the same, with weights by outliers and ranks by sparsity",
        knobs: &[AUTO, ALL, AS_IS, ALL_TRIPLES],
        looks: true,
        mean: false,
        merge: |joint, values| Ok(Change::Factors(whitened(joint.leading(values, |task| task.share)))),
    },
];

fn dare(joint: &Joint, values: &Values) -> Result<Change> {
    let (density, seed) = (values.real(DENSITY.name), values.whole(SEED.name));
    let vote = Vote::by_name(values.word(VOTE.name))?;
    let (ties, weights) = (values.word(THEN.name) == "ties", joint.weights());
    // What was dropped at random is not trimmed once more, and 0 elects nobody.
    let ballot = Ballot { vote, least: vec![0.0; joint.tasks.len()], weights: weights.clone(), most: true };
    let streams: Vec<Stream> = joint
        .tasks
        .iter()
        .map(|task| Stream::new(seed, &joint.site.to_string(), &format!("dare {}", task.which)))
        .collect();
    let [_, cols] = joint.size;
    // A word is kept if it is below this part of all.
    let below = (density * 4_294_967_296.0) as u64;
    let dense = joint.entries(|i, rows, out| {
        for (row, stream) in rows.iter_mut().zip(&streams) {
            let mut keep = vec![false; cols];
            stream.words((i * cols) as u64, cols, |at, words| {
                keep[at..].iter_mut().zip(words).for_each(|(keep, w)| *keep = u64::from(*w) < below);
            });
            rescale(row, density, |j| keep[j]);
        }
        match ties {
            true => ballot.elect(rows, out),
            false => weighted(rows, &weights, out),
        }
    });
    Ok(Change::Dense(dense))
}

/// A method with its settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// A name of [`MERGES`].
    pub kind: String,
    /// Values that differ from the defaults of its row, [`Method::knobs`].
    pub values: Values,
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

    /// The row, and the values of all its settings.
    ///
    /// # Errors
    /// `Unsupported` for an unknown name; `Invalid` for a setting that cannot be used or that it does not have.
    pub fn row(&self) -> Result<(&'static Method, Values)> {
        let row = MERGES.iter().find(|m| m.name == self.kind);
        let row = row.ok_or_else(|| Error::unsupported("method of merging", &*self.kind))?;
        Ok((row, resolve(row.name, row.knobs, &self.values)?))
    }

    /// What it is, for people: `ties, density 0.3`; settings that are the usual ones are left out.
    ///
    /// # Errors
    /// Those of [`Spec::row`].
    pub fn words(&self) -> Result<String> {
        let (row, values) = self.row()?;
        let usual = |name: &str, value: &Value| row.knobs.iter().any(|s| s.knob.name == name && s.value == *value);
        let said = values.iter().filter(|(name, value)| !usual(name, value));
        Ok(said.fold(row.name.into(), |text, (name, value)| format!("{text}, {name} {value}")))
    }
}

/// An adapter that is merged.
#[derive(Clone)]
pub struct Source {
    /// What it is called, for errors and for the file.
    pub name: String,
    /// It.
    pub adapter: Arc<Ready>,
    /// Its weight.
    pub weight: f64,
}

/// The change of one adapter at a place.
struct Task {
    which: usize,
    weight: f64,
    change: Factors,
    /// Of its singular values, and of its rank, by the survey.
    share: (f64, f64),
}

/// All that is merged at a place.
struct Joint {
    site: Site,
    /// Output and input.
    size: [usize; 2],
    tasks: Vec<Task>,
}

/// A merged change.
enum Change {
    Factors(Factors),
    Dense(Dense),
}

impl Change {
    fn linear(&self) -> &dyn Linear {
        match self {
            Change::Factors(factors) => factors,
            Change::Dense(dense) => dense,
        }
    }
}

impl Joint {
    fn weights(&self) -> Vec<f64> {
        self.tasks.iter().map(|task| task.weight).collect()
    }

    fn sum(&self) -> Factors {
        let mut sum = Factors { size: self.size, ..Factors::default() };
        self.tasks.iter().for_each(|task| sum.append(task.weight, &task.change));
        sum
    }

    /// Room for a row of each task.
    fn rows(&self) -> Vec<Vec<f32>> {
        vec![vec![0.0; self.size[1]]; self.tasks.len()]
    }

    /// Row `i` of each task. wide: `[cols]`.
    fn read(&self, i: usize, rows: &mut [Vec<f32>], wide: &mut [f64]) {
        for (task, row) in self.tasks.iter().zip(rows) {
            task.change.row(i, wide);
            row.iter_mut().zip(&*wide).for_each(|(out, v)| *out = *v as f32);
        }
    }

    /// The whole merged matrix: `merge(i, rows of the tasks, out)`.
    fn entries(&self, merge: impl Fn(usize, &mut [Vec<f32>], &mut [f32])) -> Dense {
        let (mut rows, mut wide) = (self.rows(), vec![0.0; self.size[1]]);
        fill(self.size, |i, out| {
            self.read(i, &mut rows, &mut wide);
            merge(i, &mut rows, out);
        })
    }

    /// The vote of the tasks, trimmed at `least`.
    fn ballot<'a>(&self, vote: &'a Vote, least: Vec<f32>) -> Ballot<'a> {
        let mut ballot = Ballot { vote, least, weights: self.weights(), most: true };
        if vote.asks() {
            let (mut rows, mut wide) = (self.rows(), vec![0.0; self.size[1]]);
            let lead = (0..self.size[0]).map(|i| {
                self.read(i, &mut rows, &mut wide);
                ballot.lead(&rows)
            });
            ballot.most = lead.sum::<i64>() >= 0;
        }
        ballot
    }

    /// The size below which each task's entries are trimmed.
    fn thresholds(&self, vote: &Vote, density: f64) -> Vec<f32> {
        let [_, cols] = self.size;
        let mut wide = vec![0.0; cols];
        let mut of = |task: &Task| {
            let mut all = fill(self.size, |i, out| {
                task.change.row(i, &mut wide);
                out.iter_mut().zip(&wide).for_each(|(out, v)| *out = (*v as f32).abs());
            });
            vote.threshold(&mut all.values, density)
        };
        self.tasks.iter().map(&mut of).collect()
    }

    /// The leading triples of each task, with its weight. `share`: factors of the singular values and of their number.
    fn leading(&self, values: &Values, share: impl Fn(&Task) -> (f64, f64)) -> Vec<Triples> {
        let least = self.size[0].min(self.size[1]);
        let ranks: usize = self.tasks.iter().map(|task| task.change.rank()).sum();
        let fit = if ranks <= least { least } else { (least / self.tasks.len()).max(1) };
        let of = |task: &Task| {
            let (gain, part) = share(task);
            let all = match values.whole(KEEP.name) as usize {
                0 => task.change.rank().min(fit),
                keep => keep,
            };
            let keep = (libm::round(all as f64 * part) as usize).clamp(1, task.change.rank());
            let mut found = triples(&task.change, keep);
            found.values.iter_mut().for_each(|value| *value *= gain * task.weight);
            found
        };
        self.tasks.iter().map(of).collect()
    }
}

/// A place that was merged.
#[derive(Clone, Debug)]
pub struct Part {
    site: Option<Site>,
    change: Factors,
    /// Energy before, and of what its rank holds.
    energy: f64,
    kept: f64,
    /// Energy of what was merged.
    sources: f64,
    /// The mean, of kinds that are vectors.
    params: Vec<f32>,
}

/// What became of a merge.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// The part of the energy that the ranks hold.
    pub kept: f64,
    /// The layer that holds the least part of its own, and that part.
    pub least: Option<(Site, f64)>,
    /// The smallest and the largest rank; 0 of kinds without.
    pub ranks: [usize; 2],
}

/// A merge: its places, each of which can be looked at and merged by itself, in any order and on any thread.
pub struct Plan {
    sources: Vec<Source>,
    spec: Spec,
    method: &'static Method,
    values: Values,
    /// Of low-rank kinds the layers; nothing of kinds that are vectors.
    places: Vec<Slot>,
    surveys: Vec<Look>,
}

impl Plan {
    /// # Errors
    /// `Invalid` without adapters, and for a weight that is no number or 0; `Unsupported` for kinds that cannot be merged,
    /// naming them, or not by this method; `Mismatch` for kinds or shapes that do not fit each other; those of
    /// [`Spec::row`].
    pub fn new(spec: &Spec, sources: Vec<Source>) -> Result<Plan> {
        let (method, values) = spec.row()?;
        let Some(first) = sources.first() else { return Err(Error::invalid("adapters to merge", "none")) };
        for source in &sources {
            let fits = source.weight.is_finite() && source.weight != 0.0 && source.weight.abs() <= 1e6;
            if !fits {
                let why = format!("{}; a number other than 0 can be used", source.weight);
                return Err(Error::invalid(format!("weight of {}", printable(&source.name)), why));
            }
        }
        let mut places: Vec<Slot> = Vec::new();
        if first.adapter.low_rank().is_some() || !vectors(first.adapter.shape()) {
            for source in &sources {
                let (layout, _) = source.adapter.low_rank().ok_or_else(|| refused(source))?;
                for slot in layout.slots() {
                    match places.iter().find(|place| place.site == slot.site) {
                        Some(place) if place.shape != slot.shape => return Err(other_shape(source, place, slot)),
                        Some(_) => {}
                        None => places.push(slot.clone()),
                    }
                }
            }
            places.sort_by_key(|place| place.site);
        } else {
            for source in &sources {
                same(first, source)?;
            }
            if !method.mean {
                let name = format!("{} by {}; linear takes the weighted mean", first.adapter.kind().name, method.name);
                return Err(Error::unsupported("merging of", name));
            }
        }
        Ok(Plan { sources, spec: spec.clone(), method, values, places, surveys: Vec::new() })
    }

    /// Its places.
    #[allow(clippy::len_without_is_empty, reason = "there is always one")]
    pub fn len(&self) -> usize {
        self.places.len().max(1)
    }

    /// Values of the largest matrix that is there as a whole while a place is looked at or merged.
    pub fn largest(&self) -> usize {
        self.places.iter().map(|place| place.shape[0] * place.shape[1]).max().unwrap_or(0)
    }

    /// Whether [`Plan::learn`] must come before [`Plan::merge`].
    pub fn looks(&self) -> bool {
        self.method.looks
    }

    /// Looks at a place.
    pub fn look(&self, place: usize) -> Look {
        let change = |source: &Source| self.change(source, place).map(|change| (change, source.weight));
        conflict::look(&self.sources.iter().map(change).collect::<Vec<_>>())
    }

    /// What the adapters do to each other, from looks at all places.
    pub fn conflicts(&self, looks: &[Look]) -> Vec<Conflict> {
        conflict::conflicts(self.sources.len(), looks)
    }

    /// Takes the looks for methods that need them.
    pub fn learn(&mut self, looks: Vec<Look>) {
        self.surveys = looks;
    }

    /// What an adapter changes at a place, if it does.
    fn change(&self, source: &Source, place: usize) -> Option<Factors> {
        let Some(place) = self.places.get(place) else {
            // A change of vectors is a matrix of one row.
            let (adapter, mut start) = (&*source.adapter, vec![0.0; source.adapter.params().len()]);
            let parts = adapter.shape().parts.iter().enumerate();
            parts.for_each(|(i, part)| adapter.start(i, &mut start[part.range.clone()]));
            let change = adapter.params().iter().zip(&start).map(|(v, s)| f64::from(*v) - f64::from(*s));
            let change = Factors { size: [1, start.len()], u: vec![1.0], v: change.collect() };
            return (change.energy() != 0.0).then_some(change);
        };
        let (layout, factors) = source.adapter.low_rank()?;
        let slot = layout.slot(place.site)?;
        let wide = |range: core::ops::Range<usize>, s: f64| factors[range].iter().map(move |v| s * f64::from(*v));
        let [n_in, n_out] = slot.shape;
        let (u, v) = (wide(slot.b(), f64::from(slot.factor)).collect(), wide(slot.a(), 1.0).collect());
        let change = Factors { size: [n_out, n_in], u, v };
        // What is no number is no zero: it is refused later.
        (change.energy() != 0.0).then_some(change)
    }

    /// Factors of the singular values and of the rank of an adapter at a place (R-TSVM): its outliers over the mean of all
    /// adapters', and how much of it is not near zero over the mean of all places.
    fn share(&self, which: usize, place: usize) -> (f64, f64) {
        let at = |place: usize, t: usize| self.surveys.get(place).and_then(|look| look.surveys[t]);
        let here: Vec<Survey> = (0..self.sources.len()).filter_map(|t| at(place, t)).collect();
        let Some(own) = at(place, which).filter(|_| here.len() > 1) else { return (1.0, 1.0) };
        let all: Vec<Survey> = (0..self.surveys.len()).filter_map(|p| at(p, which)).collect();
        let mean = |of: &[Survey], f: fn(&Survey) -> f64| of.iter().map(f).sum::<f64>() / of.len() as f64;
        let over = |x: f64, mean: f64| if mean > 0.0 { x / mean } else { 1.0 };
        (over(own.outliers, mean(&here, |s| s.outliers)), over(own.busy, mean(&all, |s| s.busy)))
    }

    /// Merges a place.
    ///
    /// # Errors
    /// `Invalid` if values of an adapter are too large to be merged, or are no numbers.
    pub fn merge(&self, place: usize) -> Result<Part> {
        let Some(slot) = self.places.get(place) else { return Ok(self.mean()) };
        let (site, [n_in, n_out]) = (slot.site, slot.shape);
        let mut joint = Joint { site, size: [n_out, n_in], tasks: Vec::new() };
        for (which, source) in self.sources.iter().enumerate() {
            if let Some(change) = self.change(source, place) {
                let share = self.share(which, place);
                joint.tasks.push(Task { which, weight: source.weight, change, share });
            }
        }
        let energies = joint.tasks.iter().map(|task| task.weight * task.weight * task.change.energy());
        let mut part = Part {
            site: Some(site),
            change: Factors::default(),
            energy: 0.0,
            kept: 0.0,
            sources: energies.sum(),
            params: Vec::new(),
        };
        if joint.tasks.is_empty() {
            return Ok(part);
        }
        if !part.sources.is_finite() {
            return Err(Error::invalid(format!("change of {site}"), "a value is not finite, or too large"));
        }
        let change = (self.method.merge)(&joint, &self.values)?;
        part.energy = change.linear().energy();
        if !part.energy.is_finite() {
            return Err(Error::invalid(format!("merged change of {site}"), "it is not finite"));
        }
        // What cancels leaves rounding behind, which is nothing to keep.
        if part.energy <= 1e-13 * part.sources {
            part.energy = 0.0;
            return Ok(part);
        }
        let ranks: usize = joint.tasks.iter().map(|task| task.change.rank()).sum();
        (part.change, part.kept) = self.refactor(change, part.energy, ranks.min(n_in).min(n_out).min(MAX_RANK));
        let scale = self.values.real(SCALE.name);
        part.change.u.iter_mut().for_each(|u| *u *= scale);
        Ok(part)
    }

    /// The factors of a change of this energy, of at most `most` triples, and the energy that they hold.
    fn refactor(&self, change: Change, energy: f64, most: usize) -> (Factors, f64) {
        let (rank, part) = (self.values.whole(RANK.name) as usize, self.values.real(ENERGY.name));
        let all = rank == 0 && part >= 1.0;
        let change = match change {
            Change::Factors(factors) if all && factors.rank() <= most => return (factors, energy),
            change => change,
        };
        let found = triples(change.linear(), if rank == 0 { most } else { most.min(rank) });
        let (mut kept, mut n) = (0.0, 0);
        for value in &found.values {
            if rank == 0 && !all && kept >= part * energy {
                break;
            }
            kept += value * value;
            n += 1;
        }
        (found.first(n).factors(), kept.min(energy))
    }

    /// The weighted mean of vectors.
    fn mean(&self) -> Part {
        let over: f64 = self.sources.iter().map(|source| source.weight).sum();
        let first = self.sources[0].adapter.params();
        let value = |i: usize| {
            let sum: f64 = self.sources.iter().map(|s| s.weight * f64::from(s.adapter.params()[i])).sum();
            (sum / over) as f32
        };
        let params = (0..first.len()).map(value).collect();
        Part { site: None, change: Factors::default(), energy: 1.0, kept: 1.0, sources: 1.0, params }
    }

    /// The merged adapter, from all places in their order.
    ///
    /// # Errors
    /// `Invalid` if nothing is left, or if a value is not finite; those of a new slot.
    pub fn finish(&self, parts: Vec<Part>, base: &Base) -> Result<(Box<dyn Adapter>, Summary)> {
        if let [Part { site: None, params, .. }] = &parts[..] {
            return Ok((self.vectors(params, base)?, Summary { kept: 1.0, least: None, ranks: [0; 2] }));
        }
        let (mut slots, mut factors) = (Vec::new(), Vec::new());
        let mut least: Option<(Site, f64)> = None;
        let (mut energy, mut kept) = (0.0, 0.0);
        for part in parts {
            let Some(site) = part.site.filter(|_| part.change.rank() > 0) else { continue };
            (energy, kept) = (energy + part.energy, kept + part.kept);
            let own = part.kept / part.energy;
            if least.is_none_or(|(_, least)| own < least) {
                least = Some((site, own));
            }
            let rank = part.change.rank();
            // Alpha is the rank, so that the factor is 1.
            slots.push(Slot::new(site, base, rank, rank as f32, false)?);
            factors.push(part.change);
        }
        if slots.is_empty() {
            return Err(Error::invalid("merged adapter", "nothing is left: the adapters cancel each other"));
        }
        let ranks = slots.iter().map(|slot| slot.rank);
        let ranks = [ranks.clone().min().unwrap_or(0), ranks.max().unwrap_or(0)];
        let layout = Layout::new(slots, false);
        let mut params = vec![0.0f32; layout.len()];
        for (slot, change) in layout.slots().iter().zip(&factors) {
            let (a, b) = params[slot.a().start..slot.b().end].split_at_mut(slot.a().len());
            a.iter_mut().zip(&change.v).for_each(|(a, v)| *a = *v as f32);
            b.iter_mut().zip(&change.u).for_each(|(b, u)| *b = *u as f32);
            if a.iter().chain(&*b).any(|v| !v.is_finite()) {
                return Err(Error::invalid(format!("merged change of {}", slot.site), "a value is too large"));
            }
        }
        let lora = file::refuse_idle(Box::new(Lora::from_params(layout, params, None)))?;
        Ok((lora, Summary { kept: kept / energy, least, ranks }))
    }

    /// An adapter of the first one's kind with other parameters.
    fn vectors(&self, params: &[f32], base: &Base) -> Result<Box<dyn Adapter>> {
        if params.iter().any(|v| !v.is_finite()) {
            return Err(Error::invalid("weights", "they add up to 0, and a mean is divided by their sum"));
        }
        let bytes = file::to_bytes_as(&**self.sources[0].adapter, base, &Provenance::default(), "f32")?;
        let mut adapter = file::restore(bytes.into(), base, &Limits::default(), Fit::Same)?;
        adapter.params_mut().copy_from_slice(params);
        file::refuse_idle(adapter)
    }

    /// What is written down of the merge: the method, its settings, and every adapter with its weight.
    ///
    /// # Errors
    /// None after [`Plan::new`].
    pub fn words(&self) -> Result<String> {
        let names: Vec<String> =
            self.sources.iter().map(|s| format!("{} × {}", Value::Real(s.weight), printable(&s.name))).collect();
        Ok(format!("merged by {}: {}", self.spec.words()?, names.join(" + ")))
    }
}

/// Whether all parts are vectors, which a weighted mean is defined for.
fn vectors(shape: &Shape) -> bool {
    shape.parts.iter().all(|part| part.rows() == 1)
}

fn refused(source: &Source) -> Error {
    let kind = source.adapter.kind().name;
    Error::unsupported("merging of", format!("{kind}, which is no low-rank change")).in_file(&source.name)
}

fn other_shape(source: &Source, place: &Slot, found: &Slot) -> Error {
    let size = |[n_in, n_out]: [usize; 2]| format!("{n_in} to {n_out}");
    Error::mismatch(format!("shape of {}", place.site), size(place.shape), size(found.shape)).in_file(&source.name)
}

/// Whether an adapter has the kind and the places of the first.
fn same(first: &Source, other: &Source) -> Result<()> {
    let (a, b) = (&first.adapter, &other.adapter);
    if a.kind().name != b.kind().name {
        return Err(Error::mismatch("adapter kind", a.kind().name, b.kind().name).in_file(&other.name));
    }
    if a.shape().places() != b.shape().places() || a.shape().parts != b.shape().parts {
        let n = |s: &Source| format!("{} values at {} places", s.adapter.params().len(), s.adapter.shape().slots.len());
        return Err(Error::mismatch("places of the adapters", n(first), n(other)).in_file(&other.name));
    }
    Ok(())
}
