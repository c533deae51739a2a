//! What a training run will hold in memory, known before anything of it is reserved; and settings that fit a bound.
//!
//! A [`Run`] says what is to be trained on what; [`Run::plan`] adds up what the trainer and its passes will reserve, from
//! the same sizes by which they reserve it. [`Run::fit`] chooses what changes no bit of the result: how many blocks keep
//! what they remember, how many rows go through the model together, and how many of them meet the output matrix together. Where that is not enough it says what would be.

use super::activation_cache::ActivationCache;
use super::backprop;
use super::backprop::Recompute;
use super::batch::Example;
use super::objective::Shape;
use super::{Config, Gradient};
use crate::adapter::spec::RANK;
use crate::adapter::{Adapter, Kind, Size, Spec, Stack};
use crate::error::Result;
use crate::knob::Value;
use crate::model::block::Grads;
use crate::model::doors::Workspace;
use crate::model::weights::Offsets;
use crate::model::{self, ActType, Acts, Model};
use crate::nn::{attention, head, linear};
use std::prelude::v1::*;

/// What is to be trained.
#[derive(Clone, Copy)]
pub enum Subject<'a> {
    /// A fresh adapter for a model of these shapes.
    Fresh(&'a Spec, &'a crate::adapter::Base),
    /// This one.
    Adapter(&'a dyn Adapter),
    /// All weights.
    Weights,
}

/// Tokens of the rows a run reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Of each row: tokens that go through the model, targets, and sequences.
    pub rows: Vec<(usize, usize, usize)>,
    /// Tokens of the longest example; shorter than a row where rows are packed.
    pub longest: usize,
}

impl Rows {
    /// Any number of rows that fill `ctx` tokens, all of which count.
    pub fn full(ctx: usize, rows: usize) -> Rows {
        let n = ctx.saturating_sub(1);
        Rows { rows: vec![(n, n, 1); rows], longest: n }
    }

    /// These rows, each of one example or several by their numbers.
    pub fn of(rows: &[Vec<usize>], examples: &[Example]) -> Rows {
        let mut out = Rows { rows: Vec::new(), longest: 0 };
        for row in rows {
            // Of a pair both completions go through together.
            let sequences = || row.iter().flat_map(|&i| examples[i].sequences());
            let sizes = || sequences().map(|e| (e.tokens.len().saturating_sub(1), e.targets()));
            out.longest = sizes().map(|s| s.0).fold(out.longest, usize::max);
            out.rows.push(sizes().fold((0, 0, 0), |sum, s| (sum.0 + s.0, sum.1 + s.1, sum.2 + 1)));
        }
        out
    }

    /// The same, cut at `ctx` tokens.
    fn cut(&self, ctx: usize) -> Rows {
        let n = ctx.saturating_sub(1);
        Rows { rows: self.rows.iter().map(|r| (r.0.min(n), r.1.min(n), r.2)).collect(), longest: self.longest.min(n) }
    }

    /// The most that `count` rows can come to, with `lead` rows before each sequence: tokens and targets.
    fn worst(&self, count: usize, lead: usize) -> (usize, usize) {
        let most = |of: &dyn Fn(&(usize, usize, usize)) -> usize| {
            let mut sizes: Vec<usize> = self.rows.iter().map(of).collect();
            sizes.sort_unstable_by(|a, b| b.cmp(a));
            sizes.iter().take(count).sum()
        };
        (most(&|r| r.0 + lead * r.2), most(&|r| r.1))
    }
}

/// A training run that has not begun.
#[derive(Clone)]
pub struct Run<'a> {
    /// The base.
    pub model: &'a Model,
    /// What is trained on it.
    pub subject: Subject<'a>,
    /// What is attached beneath it. What that holds itself is among [`Run::held`].
    pub beneath: &'a Stack,
    /// How.
    pub config: Config,
    /// On what.
    pub rows: Rows,
    /// Rows that go through the model together.
    pub batch: usize,
    /// Rows of a step.
    pub step: usize,
    /// Whether checkpoints are written, which hold the optimiser's state too.
    pub checkpoints: bool,
    /// Whether outputs of frozen blocks are cached; its contents are not part of the plan.
    pub activation_cache: bool,
    /// Bytes the process holds already: the program, the tokenizer, the data.
    pub held: usize,
}

/// Bytes at the peak of a run, by what they are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The model's file, mapped; the system may take its pages back when it is short of memory.
    pub mapped: usize,
    /// What the process held before.
    pub held: usize,
    /// Weights that are trained themselves.
    pub weights: usize,
    /// The adapter's parameters and what is derived from them.
    pub adapter: usize,
    /// Gradients, and what they are made of.
    pub gradients: usize,
    /// The optimiser's state.
    pub moments: usize,
    /// What the passes hold: rows between blocks, one block's activations and gradients, inputs and kept blocks.
    pub activations: usize,
    /// Of these, what is saved between the passes.
    pub saved: usize,
    /// A slice of the logits of all rows.
    pub logits: usize,
    /// Rounded rows and columns, at int8 precision.
    pub rounded: usize,
    /// What the threads hold while they work: the larger of the next two, for each.
    pub scratch: usize,
    /// A thread's tiles of attention.
    pub attention: usize,
    /// A thread's decoded rows, or what the adapter needs to derive its factors.
    pub decoded: usize,
    /// The rows of a step.
    pub batch: usize,
    /// A checkpoint, or the file at the end: what is larger as it is put together.
    pub file: usize,
    /// Rows that go through the model together.
    pub micro: usize,
    /// Rows that meet the output matrix together.
    pub slice: usize,
    /// Upper blocks that are not recomputed, the last one included.
    pub saved_blocks: usize,
    /// Blocks the way back goes through.
    pub blocks: usize,
}

impl Plan {
    /// Bytes of the whole process at its peak.
    pub fn total(&self) -> usize {
        self.mapped + self.held + self.reserved()
    }

    /// Bytes that the run itself will reserve.
    pub fn reserved(&self) -> usize {
        let passes = self.activations + self.logits + self.rounded + self.scratch + self.batch;
        self.weights + self.adapter + self.gradients + self.moments + passes + self.file
    }
}

/// A change of the settings that lets a run fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Rows of at most so many tokens.
    Context(usize),
    /// An adapter of this rank.
    Rank(usize),
    /// An adapter in the blocks from this one on.
    Layers(usize),
    /// Saved activations of this type.
    ActType(ActType),
    /// Moments of 8 bits: the optimiser of this name.
    Moments(&'static str),
}

/// Why nothing fits, and what would.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The smallest plan there is with the settings as they are.
    pub least: Plan,
    /// Changes that would do, and the plans they lead to; each is a list to be made together.
    pub would_fit: Vec<(Vec<Change>, Plan)>,
}

/// How many ways out a refusal names.
const WAYS: usize = 3;

impl Run<'_> {
    /// What it will hold.
    ///
    /// # Errors
    /// Those of making what is to be trained.
    pub fn plan(&self) -> Result<Plan> {
        let (m, h) = (self.model, &self.model.hparams);
        let (threads, f) = (m.compute.pool.threads(), size_of::<f32>());
        let shape = match self.subject {
            Subject::Fresh(spec, base) => Some((Kind::by_name(&spec.kind)?.shape)(spec, base)?),
            Subject::Adapter(adapter) => Some(adapter.shape().clone()),
            Subject::Weights => None,
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
        let full = matches!(self.subject, Subject::Weights);
        // What grows is planned at its largest.
        let now = parts.last().map_or(0, |p| p.range.end).max(1);
        let moments = ((self.config.optimizer.row()?.0.bytes)(&parts) * size.params.max(now)).div_ceil(now);
        let blocks = h.layers - lowest;
        let zeroth = self.config.gradient != Gradient::Backward;
        let lead = shape.map_or(0, |shape| shape.needs.rows) + self.beneath.needs().rows;
        let (n, completions) = self.rows.worst(self.batch, lead);
        let targets = if self.config.objective.row()?.0.prompts { n } else { completions };
        let (all, _) = self.rows.worst(self.step, lead);
        let longest = self.rows.longest + lead;
        let act_type = self.config.act_type;
        // Without a way back nothing stays for it; instead a copy of the parameters and a direction.
        let wants = |layer| backprop::extras(h, shape, self.beneath, layer);
        let stores = if zeroth { 0 } else { self.config.recompute.saved_blocks(h, &wants, n, lowest, act_type) };
        let stays = |layer| backprop::saved_bytes(h, &wants, layer, n, act_type);
        let stays: usize = (h.layers - 1 - stores..h.layers - 1).map(stays).sum();
        let saved = blocks * act_type.bytes(n * h.width) + stays;
        let saved = if zeroth { 0 } else { saved };
        let back = if zeroth { 2 * f * size.params } else { f * n * h.width + Grads::bytes(h, shape, n, longest) };
        let head_rows = if zeroth { backprop::HEAD_ROWS / 2 } else { backprop::HEAD_ROWS };
        let adapted = shape.map_or(0, |shape| Workspace::adapter_bytes(h, shape, self.config.dropout.is_some(), n));
        let state = shape.map_or(0, |shape| shape.needs.state);
        let states = if state == 0 { 0 } else { n * ((h.layers + 2) * state + h.width) };
        let ends =
            f * (n * h.width + targets * (head_rows * h.width + 2) + states) + adapted + model::Rows::bytes(m, n);

        let remembered = if zeroth { 0 } else { (0..h.layers).map(wants).max().unwrap_or(0) };
        let store = if self.activation_cache && lowest > 0 { ActivationCache::bytes(h.width, n) } else { 0 };

        let (precision, meeting) = (self.config.precision, targets.min(self.config.slice));
        let attention = f * h.most(|l| attention::scratch(l.heads, longest));
        let block = &m.weights.blocks[lowest.min(h.layers - 1)];
        let of = |(_, w)| linear::scratch(precision, w, n, threads);
        let head = linear::scratch(precision, &head::slice(m.weights.head()), meeting, threads);
        let decoded = f * block.matrices().map(of).fold(head.max(size.scratch), usize::max);
        Ok(Plan {
            mapped: m.file_len(),
            held: self.held,
            // A step makes new ones beside the old.
            weights: if full { 2 * f * size.params } else { 0 },
            adapter: if full { 0 } else { f * (size.params + size.derived) },
            gradients: f * (size.params + if zeroth { 0 } else { size.gathered }),
            moments,
            activations: saved + Acts::bytes(h, remembered, n) + ends + back + store,
            saved,
            logits: head::Logits::bytes(meeting),
            rounded: Workspace::bytes(m, precision, n, meeting),
            scratch: threads * attention.max(decoded),
            attention,
            decoded,
            // Tokens, positions, rows, targets and owners, some of them in vectors that were doubled to grow.
            batch: 64 * all,
            // An adapter's halves, and the file around them; a model's singles, and the file; an adapter's file in singles,
            // and a checkpoint of it, or of all weights, and of the optimiser's state.
            file: match (full, self.checkpoints) {
                (false, false) => 4 * size.params,
                (false, true) => 8 * size.params + moments,
                (true, false) => 8 * size.params,
                (true, true) => 4 * size.params + moments.max(4 * size.params),
            },
            micro: self.batch.min(self.step),
            slice: self.config.slice,
            saved_blocks: (stores + 1).min(blocks),
            blocks,
        })
    }

    /// The same run with the micro-batch and the kept blocks that fit `bytes` and are fastest, and the output matrix in
    /// narrower slices if nothing else fits; its results are the same in every bit unless activations are kept as halves.
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

    /// The fastest that fits with the widest slices that do.
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

    /// The fewest rows that may go through the model together. What learns from verdicts estimates a threshold from those
    /// that do: they stay together.
    fn least_batch(&self) -> Result<usize> {
        let together = self.config.objective.row()?.0.shape == Shape::Verdict;
        Ok(if together { self.batch.min(self.step) } else { 1 })
    }

    fn with(&self, batch: usize, saved_blocks: usize) -> Self {
        let mut run = self.clone();
        run.batch = batch;
        run.config.recompute = Recompute::AllBut(saved_blocks);
        run
    }

    /// Of all micro-batches and kept blocks that fit, those with the least work.
    fn fastest(&self, bytes: usize) -> Result<Option<(Self, Plan)>> {
        let mut best: Option<(f64, Self, Plan)> = None;
        let mut batch = self.batch.min(self.step).max(1);
        let least = self.least_batch()?;
        loop {
            // What fits with some saved blocks fits with fewer.
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
                // A block's passes cost one product forward and one back, another if it is computed again; and each
                // micro-batch decodes every matrix once a pass, which costs as much as some rows.
                let recomputed = plan.blocks.saturating_sub(plan.saved_blocks) as f64 / plan.blocks.max(1) as f64;
                let work = (2.0 + recomputed) * (1.0 + DECODE_ROWS / rows as f64);
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

    /// Changes that let it fit: one at a time, and then together until there are enough.
    fn ways(&self, bytes: usize) -> Result<Vec<(Vec<Change>, Plan)>> {
        let specs = match self.subject {
            Subject::Fresh(spec, base) => smaller(spec, base.layers()),
            _ => Vec::new(),
        };
        let (mut found, mut before, mut run) = (Vec::new(), Vec::new(), self.clone());
        loop {
            let kinds = changes(&run, &specs);
            for kind in &kinds {
                for (change, run) in kind {
                    if let Some((_, plan)) = run.widest(bytes)? {
                        found.push(([&before[..], &[*change]].concat(), plan));
                        break;
                    }
                }
            }
            found.truncate(WAYS);
            // Not enough: on from a run that is a good deal smaller in one more respect.
            let smaller = kinds.into_iter().rev().find_map(|kind| {
                let middle = kind.len() / 2;
                kind.into_iter().nth(middle)
            });
            match smaller {
                Some((change, next)) if found.len() < WAYS && before.len() < TOGETHER => {
                    before.push(change);
                    run = next;
                }
                _ => return Ok(found),
            }
        }
    }
}

/// Runs that differ from `run` in one setting, setting by setting, the least change first; last what costs least.
fn changes<'a>(run: &Run<'a>, specs: &'a [Spec]) -> Vec<Vec<(Change, Run<'a>)>> {
    let mut contexts = Vec::new();
    let mut ctx = run.rows.longest + 1;
    while ctx > SHORTEST {
        ctx = (ctx * 7 / 8).max(SHORTEST);
        contexts.push((Change::Context(ctx), Run { rows: run.rows.cut(ctx), ..run.clone() }));
    }
    let (mut layers, mut ranks) = (Vec::new(), Vec::new());
    if let Subject::Fresh(now, base) = run.subject {
        for spec in specs {
            let next = Run { subject: Subject::Fresh(spec, base), ..run.clone() };
            match &spec.layers {
                _ if spec.layers == now.layers && rank(spec) < rank(now) => {
                    ranks.push((Change::Rank(rank(spec)), next))
                }
                Some(upper) if now.layers.is_none() && rank(spec) == rank(now) => {
                    layers.push((Change::Layers(upper[0]), next));
                }
                _ => {}
            }
        }
    }
    let mut act_types = Vec::new();
    if run.config.act_type == ActType::F32 {
        let mut next = run.clone();
        next.config.act_type = ActType::Bf16;
        act_types.push((Change::ActType(ActType::Bf16), next));
    }
    let mut moments = Vec::new();
    if run.config.optimizer.kind == "adamw" {
        let name = "adamw_8bit";
        let mut next = run.clone();
        next.config.optimizer.kind = name.into();
        moments.push((Change::Moments(name), next));
    }
    vec![contexts, layers, ranks, moments, act_types]
}

/// Rows whose products cost about what decoding a matrix does.
const DECODE_ROWS: f64 = 24.0;
/// The shortest context a refusal names.
const SHORTEST: usize = 16;
/// The most changes that are made before the one that decides.
const TOGETHER: usize = 3;

/// The same adapter with lower ranks, and in fewer blocks from below, in all combinations; the least change first.
fn smaller(spec: &Spec, blocks: usize) -> Vec<Spec> {
    let ranks = core::iter::successors(Some(rank(spec)), |rank| Some(rank / 2)).take_while(|rank| *rank > 0);
    let upper = |first: usize| Some((first..blocks).collect::<Vec<_>>());
    let layers: Vec<_> = match &spec.layers {
        None => core::iter::once(None).chain((1..blocks).map(upper)).collect(),
        given => vec![given.clone()],
    };
    let smaller = |rank, layers: &Option<_>| Spec { layers: layers.clone(), ..spec.clone().with(RANK.name, rank) };
    ranks.flat_map(|rank| layers.iter().map(move |l| smaller(rank, l))).collect()
}

/// The rank of a fresh adapter; 0 if its kind has none, or its settings cannot be used.
fn rank(spec: &Spec) -> usize {
    match spec.values().ok().as_ref().and_then(|values| values.get(RANK.name)) {
        Some(Value::Whole(rank)) => *rank as usize,
        _ => 0,
    }
}
