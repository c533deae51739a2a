//! The memory plan of a training run, computed before memory is reserved, and settings that fit a limit.
//!
//! A [`Run`] describes a run; [`Run::plan`] adds up the memory of the trainer and its passes, with the same functions
//! that size their buffers. [`Run::fit`] chooses settings that change no bit of the result: the number of blocks that
//! save their activations, the rows of a micro-batch, and how many rows are multiplied with the output matrix together.
//! If that is not enough, it proposes changes that are.

use super::activation_cache::ActivationCache;
use super::backprop;
use super::backprop::Recompute;
use super::batch::Example;
use super::objective::{Choice, Contrast, Shape};
use super::{Config, Gradient};
use crate::adapter::spec::RANK;
use crate::adapter::{Adapter, KINDS, Kind, Size, Spec, Stack, parse_targets};
use crate::error::Result;
use crate::knob::Value;
use crate::model::block::Grads;
use crate::model::doors::Workspace;
use crate::model::weights::Offsets;
use crate::model::{self, ActType, Acts, Model, Pooling};
use crate::nn::{head, linear};
use std::prelude::v1::*;

/// What is trained.
#[derive(Clone, Copy)]
pub enum Subject<'a> {
    /// A new adapter for a model of these shapes.
    Fresh(&'a Spec, &'a crate::adapter::Base),
    /// This adapter.
    Adapter(&'a dyn Adapter),
    /// All weights of a model that adapters see so.
    Weights(&'a crate::adapter::Base),
}

/// The lengths of the rows that a run reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Of each row: tokens that go through the model, targets, and sequences.
    pub rows: Vec<(usize, usize, usize)>,
    /// Tokens of the longest example; shorter than a row if rows are packed.
    pub longest: usize,
    /// Whether sequences are whole texts to be embedded, so that all tokens go through the model.
    pub texts: bool,
}

impl Rows {
    /// Any number of rows of `ctx` tokens, all of them targets.
    pub fn full(ctx: usize, rows: usize) -> Rows {
        let n = ctx.saturating_sub(1);
        Rows { rows: vec![(n, n, 1); rows], longest: n, texts: false }
    }

    /// Any number of queries with one passage each, texts of `ctx` tokens.
    pub fn texts(ctx: usize, rows: usize) -> Rows {
        Rows { rows: vec![(2 * ctx, 2 * ctx, 2); rows], longest: ctx, texts: true }
    }

    /// These rows, each of one example or several, given by their indices.
    pub fn of(rows: &[Vec<usize>], examples: &[Example]) -> Rows {
        let texts = examples.iter().any(|e| !e.passages.is_empty());
        let mut out = Rows { rows: Vec::new(), longest: 0, texts };
        for row in rows {
            // Both completions of a pair go through the model together.
            let sequences = || row.iter().flat_map(|&i| examples[i].sequences());
            let sizes = || {
                sequences().map(|e| match texts {
                    true => (e.tokens.len(), e.tokens.len()),
                    false => (e.tokens.len().saturating_sub(1), e.targets()),
                })
            };
            out.longest = sizes().map(|s| s.0).fold(out.longest, usize::max);
            out.rows.push(sizes().fold((0, 0, 0), |sum, s| (sum.0 + s.0, sum.1 + s.1, sum.2 + 1)));
        }
        out
    }

    /// These rows cut at `ctx` tokens.
    fn cut(&self, ctx: usize) -> Rows {
        let n = if self.texts { ctx } else { ctx.saturating_sub(1) };
        let cut = |r: &(usize, usize, usize)| {
            let n = if self.texts { n * r.2 } else { n };
            (r.0.min(n), r.1.min(n), r.2)
        };
        Rows { rows: self.rows.iter().map(cut).collect(), longest: self.longest.min(n), texts: self.texts }
    }

    /// The most sequences of `count` rows.
    fn sequences(&self, count: usize) -> usize {
        let mut sizes: Vec<usize> = self.rows.iter().map(|r| r.2).collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        sizes.iter().take(count).sum()
    }

    /// The largest possible numbers of tokens and targets in `count` rows, with `lead` rows before each sequence.
    fn worst(&self, count: usize, lead: usize) -> (usize, usize) {
        let most = |of: &dyn Fn(&(usize, usize, usize)) -> usize| {
            let mut sizes: Vec<usize> = self.rows.iter().map(of).collect();
            sizes.sort_unstable_by(|a, b| b.cmp(a));
            sizes.iter().take(count).sum()
        };
        (most(&|r| r.0 + lead * r.2), most(&|r| r.1))
    }
}

/// A planned training run.
#[derive(Clone)]
pub struct Run<'a> {
    /// The base.
    pub model: &'a Model,
    /// What is trained.
    pub subject: Subject<'a>,
    /// The adapters attached beneath. Their own memory is part of [`Run::held`].
    pub beneath: &'a Stack,
    /// The settings.
    pub config: Config,
    /// The rows.
    pub rows: Rows,
    /// Rows that go through the model together.
    pub batch: usize,
    /// Rows of a step.
    pub step: usize,
    /// Whether checkpoints are written, which include the optimiser's state.
    pub checkpoints: bool,
    /// Whether the file of the best state is kept until the end.
    pub best: bool,
    /// Whether outputs of frozen blocks are cached; its contents are not part of the plan.
    pub activation_cache: bool,
    /// Bytes that the process already holds: the program, the tokenizer, the data.
    pub held: usize,
}

/// Bytes at the peak of a run, by purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The mapped model file; the system may evict its pages when memory is short.
    pub mapped: usize,
    /// Bytes that the process held before.
    pub held: usize,
    /// Trained weights, if all are trained.
    pub weights: usize,
    /// The adapter's parameters and what is derived from them.
    pub adapter: usize,
    /// Gradients, and the sums from which they follow.
    pub gradients: usize,
    /// The optimiser's state.
    pub moments: usize,
    /// The buffers of the passes: rows between blocks, one block's activations and gradients, saved inputs and activations.
    pub activations: usize,
    /// The part of these that is saved between the passes.
    pub saved: usize,
    /// The logits of all rows for a slice of the vocabulary.
    pub logits: usize,
    /// Rounded rows and columns, at int8 precision.
    pub rounded: usize,
    /// Scratch memory of the threads: for each the larger of the next two.
    pub scratch: usize,
    /// A thread's tiles of attention, or states of a delta rule.
    pub attention: usize,
    /// A thread's decoded rows, or the adapter's scratch for its factors.
    pub decoded: usize,
    /// The rows of a step.
    pub batch: usize,
    /// The larger of a checkpoint and the output file, while it is assembled.
    pub file: usize,
    /// Rows that go through the model together.
    pub micro: usize,
    /// Rows that are multiplied with the output matrix together.
    pub slice: usize,
    /// Upper blocks that are not recomputed, including the last one.
    pub saved_blocks: usize,
    /// Blocks of the backward pass.
    pub blocks: usize,
}

impl Plan {
    /// Bytes of the whole process at its peak.
    pub fn total(&self) -> usize {
        self.mapped + self.held + self.reserved()
    }

    /// Bytes that the run itself reserves.
    pub fn reserved(&self) -> usize {
        let passes = self.activations + self.logits + self.rounded + self.scratch + self.batch;
        self.weights + self.adapter + self.gradients + self.moments + passes + self.file
    }
}

/// A change of the settings that makes a run fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Rows of at most this number of tokens.
    Context(usize),
    /// An adapter of this kind, with what the present one has of its settings.
    Kind(&'static str),
    /// An adapter of this rank.
    Rank(usize),
    /// An adapter of these linear layers, a list for [`parse_targets`].
    Targets(&'static str),
    /// An adapter in the blocks from this one on.
    Layers(usize),
    /// Saved activations of this type.
    ActType(ActType),
    /// 8-bit moments: the optimiser of this name.
    Moments(&'static str),
}

/// The result if nothing fits: the smallest plan, and changes that would fit.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The smallest plan with the present settings.
    pub least: Plan,
    /// Changes that would fit, with the resulting plans; the changes of a list are made together.
    pub would_fit: Vec<(Vec<Change>, Plan)>,
}

/// With fewer proposals a refusal combines changes.
const WAYS: usize = 3;

impl Run<'_> {
    /// Computes the plan.
    ///
    /// # Errors
    /// Those of creating what is trained.
    pub fn plan(&self) -> Result<Plan> {
        let (m, h) = (self.model, &self.model.hparams);
        let (threads, f) = (m.compute.pool.threads(), size_of::<f32>());
        let shape = match self.subject {
            Subject::Fresh(spec, base) => Some((Kind::by_name(&spec.kind)?.shape)(spec, base)?),
            Subject::Adapter(adapter) => Some(adapter.shape().clone()),
            Subject::Weights(_) => None,
        };
        let shape = shape.as_ref();
        let (size, parts) = match shape {
            Some(shape) => (shape.size, shape.parts.clone()),
            None => {
                let offsets = Offsets::of(&m.weights);
                (Size { params: offsets.len, ..Size::default() }, offsets.parts())
            }
        };
        let lowest = shape.map_or(0, |shape| shape.lowest(h.layers));
        let full = matches!(self.subject, Subject::Weights(_));
        // An adapter that grows is planned at its largest.
        let now = parts.last().map_or(0, |p| p.range.end).max(1);
        let held = (self.config.optimizer.row()?.0.bytes)(&parts) as u128;
        // The product has more bits than an address of 32.
        let moments = (held * size.params.max(now) as u128).div_ceil(now as u128);
        let moments = usize::try_from(moments).unwrap_or(usize::MAX);
        let zeroth = self.config.gradient != Gradient::Backward;
        // Beside the blocks there is no backward pass through them.
        let aside = shape.is_some_and(|shape| shape.needs.aside) && !zeroth;
        let blocks = if aside { 0 } else { h.layers - lowest };
        let lead = shape.map_or(0, |shape| shape.needs.rows) + self.beneath.needs().rows;
        let (n, completions) = self.rows.worst(self.batch, lead);
        let (objective, values) = self.config.objective.row()?;
        let texts = objective.shape == Shape::Contrast;
        let targets = match () {
            () if texts && Contrast::new(&values, h)?.pooling != Pooling::Mean => self.rows.sequences(self.batch),
            () if texts => n,
            () if objective.prompts => n,
            () => completions,
        };
        let vectors = if texts { Choice::bytes(self.rows.sequences(self.step), m.embedding_width()) } else { 0 };
        let (all, _) = self.rows.worst(self.step, lead);
        let longest = self.rows.longest + lead;
        let act_type = self.config.act_type;
        // Without a backward pass nothing is saved for it; instead there are a copy of the parameters and a direction.
        let wants = |layer| backprop::extras(h, shape, self.beneath, layer);
        let stores =
            if zeroth || aside { 0 } else { self.config.recompute.saved_blocks(h, &wants, n, lowest, act_type) };
        let stays = |layer| backprop::saved_bytes(h, &wants, layer, n, act_type);
        let stays: usize = (h.layers - 1 - stores..h.layers - 1).map(stays).sum();
        let saved = blocks * act_type.bytes(n * h.width) + stays;
        let saved = if zeroth { 0 } else { saved };
        let back = match () {
            () if zeroth => 2 * f * size.params,
            () if aside => f * n * h.width,
            () => f * n * h.width + Grads::bytes(h, shape, n, longest),
        };
        let head_rows = if zeroth { backprop::HEAD_ROWS / 2 } else { backprop::HEAD_ROWS };
        let adapted = shape.map_or(0, |shape| Workspace::adapter_bytes(h, shape, self.config.dropout.is_some(), n));
        let state = shape.map_or(0, |shape| shape.needs.state);
        let states = match () {
            () if state == 0 => 0,
            () if aside => 2 * n * (h.layers + 1) * state,
            () => n * ((h.layers + 2) * state + h.width),
        };
        let ends =
            f * (n * h.width + targets * (head_rows * h.width + 2) + states) + adapted + model::Rows::bytes(m, n);

        let remembered = if zeroth { 0 } else { (0..h.layers).map(wants).max().unwrap_or(0) };
        let store = if self.activation_cache && lowest > 0 { ActivationCache::bytes(h.width, n) } else { 0 };

        let (precision, meeting) = (self.config.precision, if texts { 0 } else { targets.min(self.config.slice) });
        let attention = f * Grads::scratch(h, longest);
        let products = m.weights.blocks[lowest.min(h.layers - 1)..].iter().flat_map(|block| block.products());
        let of = |w| linear::scratch(precision, w, n, threads);
        let head = match texts {
            true => m.weights.projections.iter().map(|w| linear::scratch(precision, w, n, threads)).max().unwrap_or(0),
            false => linear::scratch(precision, &head::slice(m.weights.head()), meeting, threads),
        };
        let decoded = f * products.map(of).fold(head.max(size.scratch), usize::max);
        // Bytes of a parameter in the file of the best state: adapters are saved in f16, models in f32.
        let best = if self.best { if full { 4 } else { 2 } } else { 0 };
        Ok(Plan {
            mapped: m.file_len(),
            held: self.held,
            // A step creates new values beside the old ones.
            weights: if full { 2 * f * size.params } else { 0 },
            // Trained through a codec, there are the unrounded values, those of a step, what they started from, how far they
            // went, and which are kept.
            adapter: match (full, self.config.codec.is_some()) {
                (true, _) => 0,
                (false, false) => f * (size.params + size.derived),
                (false, true) => f * (5 * size.params + size.derived) + size.params,
            },
            gradients: f * (size.params + if zeroth { 0 } else { size.gathered }),
            moments,
            activations: saved + Acts::bytes(h, remembered, n) + ends + back + store + vectors,
            saved,
            logits: head::Logits::bytes(meeting),
            rounded: Workspace::bytes(m, precision, n, meeting),
            scratch: threads * attention.max(decoded),
            attention,
            decoded,
            // Tokens, positions, rows, targets and owners, some of them in vectors with twice the capacity.
            batch: 64 * all,
            // An adapter in f16 and its file; a model in f32 and its file; an adapter in f32, its file and its checkpoint,
            // since an allocator may keep the first while the last is made; or the checkpoint of all weights, with the
            // optimiser's state. The file of the best state lies beside, and is in the checkpoint once more.
            file: match (full, self.checkpoints) {
                (false, false) => (4 + best) * size.params,
                (false, true) => (12 + 2 * best) * size.params + moments,
                (true, false) => (8 + best) * size.params,
                (true, true) => (4 + 2 * best) * size.params + moments.max(4 * size.params),
            },
            micro: self.batch.min(self.step),
            slice: self.config.slice,
            saved_blocks: (stores + 1).min(blocks),
            blocks,
        })
    }

    /// This run with the fastest micro-batch and number of saved blocks that fit `bytes`, and with narrower slices of
    /// the output matrix if nothing else fits. Results are the same in every bit, unless saved activations are rounded.
    ///
    /// # Errors
    /// Those of [`Run::plan`].
    pub fn fit(&self, bytes: usize) -> Result<core::result::Result<(Self, Plan), Refusal>> {
        if let Some(fitting) = self.widest(bytes)? {
            return Ok(Ok(fitting));
        }
        let mut least = self.with(self.least_batch()?, 0);
        least.config.slice = least.config.slice.min(head::SLICES[head::SLICES.len() - 1]);
        Ok(Err(Refusal { least: least.plan()?, would_fit: self.ways(bytes)? }))
    }

    /// The fastest run that fits, with the widest slices that fit.
    fn widest(&self, bytes: usize) -> Result<Option<(Self, Plan)>> {
        for slice in head::SLICES.into_iter().filter(|s| *s <= self.config.slice) {
            let mut run = self.clone();
            run.config.slice = slice;
            if let Some(fitting) = run.fastest(bytes)? {
                return Ok(Some(fitting));
            }
        }
        Ok(None)
    }

    /// The smallest allowed micro-batch. Objectives of verdicts estimate a threshold from a micro-batch, so it must not
    /// be split.
    fn least_batch(&self) -> Result<usize> {
        let together = matches!(self.config.objective.row()?.0.shape, Shape::Verdict | Shape::Mixed);
        Ok(if together { self.batch.min(self.step) } else { 1 })
    }

    fn with(&self, batch: usize, saved_blocks: usize) -> Self {
        let mut run = self.clone();
        run.batch = batch;
        run.config.recompute = Recompute::AllBut(saved_blocks);
        run
    }

    /// Of all micro-batches and numbers of saved blocks that fit, those with the least work.
    fn fastest(&self, bytes: usize) -> Result<Option<(Self, Plan)>> {
        let mut best: Option<(f64, Self, Plan)> = None;
        let mut batch = self.batch.min(self.step).max(1);
        let least = self.least_batch()?;
        loop {
            // A run that fits with some saved blocks also fits with fewer.
            let blocks = self.with(batch, 0).plan()?.blocks;
            let (mut low, mut high) = (0, blocks);
            while low < high {
                let middle = (low + high).div_ceil(2);
                if self.with(batch, middle).plan()?.total() <= bytes { low = middle } else { high = middle - 1 }
            }
            let run = self.with(batch, low);
            let plan = run.plan()?;
            if plan.total() <= bytes {
                let rows = self.rows.worst(batch, 0).0.max(1);
                // A block's passes cost one product forward and one backward, and another one if it is recomputed. Each
                // micro-batch decodes every matrix once a pass, which costs as much as some rows.
                let recomputed = plan.blocks.saturating_sub(plan.saved_blocks) as f64 / plan.blocks.max(1) as f64;
                // Queries choose among the passages of the whole step: of several micro-batches these are embedded before.
                let again = if self.rows.texts && batch < self.step { 1.0 } else { 0.0 };
                let work = (2.0 + recomputed + again) * (1.0 + DECODE_ROWS / rows as f64);
                if best.as_ref().is_none_or(|b| work < b.0) {
                    best = Some((work, run, plan));
                }
            }
            if batch <= least {
                return Ok(best.map(|b| (b.1, b.2)));
            }
            batch = batch.div_ceil(2);
        }
    }

    /// Changes that make it fit: single ones, then combinations, until there are enough.
    fn ways(&self, bytes: usize) -> Result<Vec<(Vec<Change>, Plan)>> {
        let spec = if let Subject::Fresh(spec, _) = self.subject { Some(spec.clone()) } else { None };
        let mut now = Variant { spec, rows: self.rows.clone(), config: self.config.clone() };
        let (mut found, mut before) = (Vec::new(), Vec::new());
        loop {
            let kinds = now.changes(self);
            for kind in &kinds {
                // Not every kind of adapter fits every model.
                let fits = |variant: &Variant| Some(variant.run(self).widest(bytes).ok()??.1);
                if let Some((change, plan)) = kind.iter().find_map(|(change, v)| Some((*change, fits(v)?))) {
                    found.push(([&before[..], &[change]].concat(), plan));
                }
            }
            // Not enough: continue with a run that is considerably smaller in one more setting.
            let smaller = kinds.into_iter().rev().find_map(|kind| {
                let middle = kind.len() / 2;
                kind.into_iter().nth(middle)
            });
            match smaller {
                Some((change, next)) if found.len() < WAYS && before.len() < TOGETHER => {
                    before.push(change);
                    now = next;
                }
                _ => return Ok(found),
            }
        }
    }
}

/// What may differ from a run that does not fit.
#[derive(Clone)]
struct Variant {
    /// The new adapter, if one is created.
    spec: Option<Spec>,
    rows: Rows,
    config: Config,
}

impl Variant {
    fn run<'a>(&'a self, from: &Run<'a>) -> Run<'a> {
        let subject = match (&self.spec, from.subject) {
            (Some(spec), Subject::Fresh(_, base) | Subject::Weights(base)) => Subject::Fresh(spec, base),
            (_, subject) => subject,
        };
        Run { subject, rows: self.rows.clone(), config: self.config.clone(), ..from.clone() }
    }

    /// Variants that differ in one more setting, grouped by setting, smallest change first; the settings that cost least come
    /// last.
    fn changes(&self, from: &Run) -> Vec<Vec<(Change, Variant)>> {
        let mut contexts = Vec::new();
        let mut ctx = self.rows.longest + 1;
        while ctx > SHORTEST {
            ctx = (ctx * 7 / 8).max(SHORTEST);
            contexts.push((Change::Context(ctx), Variant { rows: self.rows.cut(ctx), ..self.clone() }));
        }
        let with = |spec| Variant { spec: Some(spec), ..self.clone() };
        let kinds = self.kinds(from.subject).into_iter().map(|(name, spec)| (Change::Kind(name), with(spec))).collect();
        let (mut layers, mut targets, mut ranks) = (Vec::new(), Vec::new(), Vec::new());
        if let (Some(spec), Subject::Fresh(_, base)) = (&self.spec, from.subject) {
            let upper = |first: usize| Spec { layers: Some((first..base.layers()).collect()), ..spec.clone() };
            let first = if spec.layers.is_none() { 1 } else { base.layers() };
            layers = (first..base.layers()).map(|first| (Change::Layers(first), with(upper(first)))).collect();
            let fewer = NARROWER.iter().filter_map(|list| Some((*list, parse_targets(list).ok()?)));
            let fewer = fewer.filter(|(_, roles)| {
                roles.len() < spec.targets.len() && roles.iter().all(|role| spec.targets.contains(role))
            });
            targets = fewer
                .map(|(list, roles)| (Change::Targets(list), with(Spec { targets: roles, ..spec.clone() })))
                .collect();
            let lower =
                core::iter::successors(Some(rank(spec) / 2), |rank| Some(rank / 2)).take_while(|rank| *rank > 0);
            ranks = lower.map(|rank| (Change::Rank(rank), with(spec.clone().with(RANK.name, rank)))).collect();
        }
        let (mut act_types, mut moments) = (Vec::new(), Vec::new());
        if self.config.act_type == ActType::F32 {
            let config = Config { act_type: ActType::Bf16, ..self.config.clone() };
            act_types.push((Change::ActType(ActType::Bf16), Variant { config, ..self.clone() }));
        }
        if self.config.optimizer.kind == "adamw" {
            let name = "adamw_8bit";
            let mut next = self.clone();
            next.config.optimizer.kind = name.into();
            moments.push((Change::Moments(name), next));
        }
        vec![contexts, kinds, layers, targets, ranks, moments, act_types]
    }

    /// Adapters of other kinds that change linear layers, with what the present one has of their settings.
    fn kinds(&self, subject: Subject) -> Vec<(&'static str, Spec)> {
        let now = match (&self.spec, subject) {
            (Some(spec), _) => spec.clone(),
            (None, Subject::Weights(_)) => Spec { kind: String::new(), targets: Vec::new(), ..Spec::default() },
            _ => return Vec::new(),
        };
        let usual = Kind::by_name(&now.kind).is_ok_and(|kind| kind.targets == now.targets);
        let others = KINDS.iter().filter(|kind| kind.name != now.kind && !kind.targets.is_empty());
        others
            .map(|kind| {
                let mut spec = Spec { layers: now.layers.clone(), seed: now.seed, ..Spec::new(kind.name) };
                if !usual && !now.targets.is_empty() {
                    spec.targets = now.targets.clone();
                }
                let known = now.values.iter().filter(|(name, _)| kind.knobs.iter().any(|set| set.knob.name == *name));
                known.for_each(|(name, value)| _ = spec.values.set(name, value.clone()));
                (kind.name, spec)
            })
            .collect()
    }
}

/// Lists of linear layers that a refusal proposes, as `parse_targets` reads them.
const NARROWER: [&str; 3] = ["mlp", "attn", "q,v"];
/// Rows whose products cost about what decoding a matrix does.
const DECODE_ROWS: f64 = 24.0;
/// The shortest context that a refusal proposes.
const SHORTEST: usize = 16;
/// Most changes that are combined with a further one.
const TOGETHER: usize = 3;

/// The rank of a new adapter; 0 if its kind has none, or its settings cannot be used.
fn rank(spec: &Spec) -> usize {
    match spec.values().ok().as_ref().and_then(|values| values.get(RANK.name)) {
        Some(Value::Whole(rank)) => *rank as usize,
        _ => 0,
    }
}
