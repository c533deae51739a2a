//! One way through a model: embedding → blocks → last norm → head. Sessions, training, reference scores, the cache of
//! frozen blocks and evaluation all use it.

use super::acts::Extra;
use super::cache::Cache;
use super::doors::{self, Workspace};
use super::weights::{Key, NormWeights, Offsets};
use super::{Acts, Model, block};
use crate::adapter::{Member, Needs, Place, Stack};
use crate::kernel::{Buffer, Tile, View};
use crate::nn::linear::{self, Input, Precision, Quantized};
use crate::nn::rope::{Rope, Rotations};
use crate::nn::{embed, norm};
use crate::rng;
use core::ops::Range;
use std::prelude::v1::*;
use std::sync::Arc;

/// The rows of a pass: which sequence and which position each stands at.
#[derive(Default)]
pub struct Rows {
    /// Position of every row, `[N]`.
    pub positions: Vec<u32>,
    /// Ranges of rows that are one sequence each; attention sees only its own.
    pub segments: Vec<Range<usize>>,
    /// Rows before the text at the start of each sequence, which adapters write.
    pub lead: usize,
    /// The number of the first row among those of a training step.
    pub first: u64,
    /// Cosines and sines of every row, a table for each of the model's ropes.
    rotations: Vec<Rotations>,
}

impl Rows {
    /// No rows yet; `lead` of them will come before each sequence, and the first has the number `first` in its step.
    pub fn new(lead: usize, first: u64) -> Rows {
        Rows { lead, first, ..Rows::default() }
    }

    /// Removes all rows.
    pub fn clear(&mut self) {
        self.positions.clear();
        self.segments.clear();
    }

    /// Adds a sequence, whose rows stand at these positions.
    pub fn push(&mut self, positions: Range<usize>) {
        let first = self.positions.len();
        self.segments.push(first..first + positions.len());
        self.positions.extend(positions.map(|p| p as u32));
    }

    /// Computes the rotations of the positions, once for all layers.
    pub fn rotate(&mut self, m: &Model) {
        self.rotations.resize_with(m.ropes.len(), Rotations::default);
        for (rope, rotations) in m.ropes.iter().zip(&mut self.rotations) {
            rope.rotations(&m.compute, &self.positions, rotations);
        }
    }

    /// Bytes of the rotations of `n` rows.
    pub fn bytes(m: &Model, n: usize) -> usize {
        m.ropes.iter().map(|rope| Rotations::bytes(rope.dims(), n)).sum()
    }
}

/// Rows of a pass, and the adapters that change them.
pub type RowStack = (Range<usize>, Arc<Stack>);

/// The caches of a pass, one for each of its sequences.
pub trait Caches: Sync {
    /// That of sequence `i`.
    fn cache(&self, i: usize) -> &Cache;

    /// The same, to write to.
    fn cache_mut(&mut self, i: usize) -> &mut Cache;
}

/// What a pass goes through, and how.
pub struct Pass<'a> {
    /// The model.
    pub model: &'a Model,
    /// The adapters.
    pub stack: &'a Stack,
    /// Where several sessions go through together: the adapters of their rows, instead of `stack`.
    pub row_stacks: &'a [RowStack],
    /// How products are computed.
    pub precision: Precision,
    /// The rows.
    pub rows: &'a Rows,
    /// Whether the activations that adapters need are saved for a backward pass.
    pub save: bool,
    /// Dropout, if there is any.
    pub dropout: Option<Dropout>,
    extras: Vec<Vec<Extra>>,
}

impl<'a> Pass<'a> {
    /// A forward pass.
    pub fn new(model: &'a Model, stack: &'a Stack, precision: Precision, rows: &'a Rows) -> Pass<'a> {
        Pass { model, stack, row_stacks: &[], precision, rows, save: false, dropout: None, extras: Vec::new() }
    }

    /// A forward pass of rows of several sessions, each with its own adapters.
    pub fn together(model: &'a Model, row_stacks: &'a [RowStack], precision: Precision, rows: &'a Rows) -> Pass<'a> {
        static NONE: Stack = Stack::new();
        Pass { row_stacks, ..Pass::new(model, &NONE, precision, rows) }
    }

    /// The adapters, and the rows of `n` that they change: all rows, or those of each session. A row of the pass may be
    /// several of them, one a head.
    pub fn stacks(&self, n: usize) -> impl Iterator<Item = (Range<usize>, &'a Stack)> {
        let (one, per) = (self.row_stacks.is_empty().then_some((0..n, self.stack)), n / self.rows.positions.len().max(1));
        let each = self.row_stacks.iter().map(move |(rows, stack)| (rows.start * per..rows.end * per, &**stack));
        one.into_iter().chain(each)
    }

    /// Whether any adapter stands at a place.
    pub fn any_at(&self, place: Place) -> bool {
        self.stacks(0).any(|(_, stack)| !stack.at(place).is_empty())
    }

    /// What all adapters together want.
    pub fn needs(&self) -> Needs {
        self.stacks(0).fold(Needs::NONE, |all, (_, stack)| all.and(stack.needs()))
    }

    /// What those at a place want.
    pub fn needs_at(&self, place: Place) -> Needs {
        self.stacks(0).fold(Needs::NONE, |all, (_, stack)| all.and(stack.needs_at(place)))
    }

    /// A pass that saves what its backward pass needs.
    pub fn saving(self) -> Pass<'a> {
        let h = &self.model.hparams;
        let needs = self.stack.needs();
        let any = needs.output || needs.lse;
        let layers = if any { h.layers } else { 0 };
        let extras = (0..layers).map(|layer| doors::extras(self.stack, h, layer)).collect();
        Pass { save: true, extras, ..self }
    }

    /// The same, with dropout.
    pub fn dropping(self, dropout: Option<Dropout>) -> Pass<'a> {
        Pass { dropout, ..self }
    }

    /// Activations that adapters need saved in a layer.
    pub fn extras(&self, layer: usize) -> &[Extra] {
        self.extras.get(layer).map_or(&[], |extras| extras)
    }

    /// The rotary embedding of a layer, if it has one, and the rotations of the rows.
    pub fn rotations(&self, layer: usize) -> Option<(&'a Rope, &'a Rotations)> {
        let rope = self.model.hparams.blocks[layer].rope?;
        Some((&self.model.ropes[rope], &self.rows.rotations[rope]))
    }

    /// The dropout of a member at a place.
    pub fn dropout_of(&self, place: Place, member: &Member) -> Option<Dropout> {
        let inside = matches!(place, Place::Site(_) | Place::Stream(..));
        self.dropout.filter(|d| inside && d.which == member.which)
    }
}

/// Who receives the gradients of a backward pass.
pub enum Target<'a> {
    /// One of the attached adapters, by its number; the base is frozen.
    Adapter(usize, &'a mut [f32]),
    /// The weights themselves, flat.
    Weights(&'a Offsets, &'a mut [f32]),
}

impl Target<'_> {
    /// What an attached adapter adds to, if it is the one that is trained.
    pub fn acc(&mut self, which: usize) -> Option<&mut [f32]> {
        match self {
            Target::Adapter(trained, acc) if *trained == which => Some(acc),
            _ => None,
        }
    }
}

/// Dropout on the input of the adapter that is trained: each value of `x` is left out with probability `rate`, the others
/// are multiplied by `1 / (1 − rate)`. Which ones follows from seed, step, row and place alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// How many are left out.
    pub rate: f32,
    /// What the draws follow from.
    pub seed: u64,
    /// Steps done.
    pub step: u64,
    /// The adapter.
    pub which: usize,
}

impl Dropout {
    /// Calls `f(value, whether it stays)` for every value of rows of `c`.
    fn draw(
        &self,
        p: &Pass,
        place: Place,
        rows: &mut [f32],
        c: usize,
        f: &(dyn Fn(usize, usize, &mut f32, bool) + Sync),
    ) {
        /// Rows of a part.
        const ROWS: usize = 8;
        let stream = rng::Stream::new(self.seed, &format!("step {}", self.step), &format!("dropout {place}"));
        let bound = (f64::from(self.rate) * 4_294_967_296.0) as u64;
        let n = rows.len() / c.max(1);
        // A row of the step may be several here, one a head.
        let first = p.rows.first * (n / p.rows.positions.len().max(1)) as u64;
        p.model.compute.pool.rows([Tile::new(rows, n, c)], [ROWS], &|part, [mut tile], _| {
            for i in 0..tile.n() {
                let row = part * ROWS + i;
                let values = tile.row(i);
                stream.words((first + row as u64) * c as u64, c, |at, words| {
                    for (j, &word) in words.iter().enumerate() {
                        f(row, at + j, &mut values[at + j], u64::from(word) >= bound);
                    }
                });
            }
        });
    }

    fn factor(&self) -> f32 {
        1.0 / (1.0 - self.rate)
    }

    /// What is left of `x`.
    pub fn apply<'b>(&self, p: &Pass, place: Place, x: View, to: &'b mut Buffer) -> View<'b> {
        let (rows, factor) = (to.room(x.n * x.c), self.factor());
        self.draw(p, place, rows, x.c, &|i, j, v, stays| *v = if stays { x.row(i)[j] * factor } else { 0.0 });
        View::new(rows, x.n, x.c)
    }

    /// `dx += ` the gradient `d` of what was left.
    pub fn add(&self, p: &Pass, place: Place, d: &mut [f32], dx: &mut Tile) {
        let (c, factor) = (dx.c(), self.factor());
        self.draw(p, place, d, c, &|_, _, v, stays| *v = if stays { *v * factor } else { 0.0 });
        for (i, d) in d.chunks_exact(c).enumerate() {
            crate::nn::add(d, dx.row(i));
        }
    }
}

/// Embeds tokens, and rows before the text where a sequence begins. x: `[N, width]`, overwritten.
pub fn embed(p: &Pass, tokens: &[u32], x: &mut [f32], work: &mut Workspace) {
    let (n, d) = (tokens.len(), p.model.hparams.width);
    frozen_embeddings(p, tokens, x, work);
    doors::pass_through(p, Place::Embedding, View::new(&[], n, 0), &mut Tile::new(x, n, d), None, work);
}

/// Embeddings before the adapters of [`Place::Embedding`].
fn frozen_embeddings(p: &Pass, tokens: &[u32], x: &mut [f32], work: &mut Workspace) {
    let (m, n, d) = (p.model, tokens.len(), p.model.hparams.width);
    summed_embeddings(p, tokens, x, work);
    if let Some(NormWeights { gain, bias }) = &m.weights.embed_norm {
        let mut sums = core::mem::take(&mut work.embedded);
        sums.room(n * d).copy_from_slice(&x[..n * d]);
        let rows = View::new(&sums, n, d);
        norm::forward(&m.compute, m.hparams.norm, rows, gain, bias.as_deref(), &mut Tile::new(x, n, d));
        work.embedded = sums;
    }
}

/// Embeddings of tokens, of positions and of the type of token, before their norm.
fn summed_embeddings(p: &Pass, tokens: &[u32], x: &mut [f32], work: &mut Workspace) {
    let (m, n, d) = (p.model, tokens.len(), p.model.hparams.width);
    embed::forward(&m.compute, &m.weights.embed, tokens, m.hparams.embed_scale, &mut Tile::new(x, n, d));
    if p.rows.lead > 0 {
        for s in &p.rows.segments {
            let lead = &mut x[s.start * d..(s.start + p.rows.lead) * d];
            let mut tile = Tile::new(lead, p.rows.lead, d);
            doors::pass_through(p, Place::Rows, View::new(&[], p.rows.lead, 0), &mut tile, None, work);
        }
    }
    if let Some(table) = &m.weights.positions {
        embed::add(&m.compute, table, &|i| p.rows.positions[i] as usize, &mut Tile::new(x, n, d));
    }
    if let Some(table) = &m.weights.types {
        embed::add(&m.compute, table, &|_| 0, &mut Tile::new(x, n, d));
    }
}

/// The backward pass through [`embed`](fn@embed): `dx` becomes the gradient of what was summed.
pub fn embed_backward(p: &Pass, tokens: &[u32], dx: &mut [f32], target: &mut Target, work: &mut Workspace) {
    let (m, n, d) = (p.model, p.rows.positions.len(), p.model.hparams.width);
    let dx = &mut dx[..n * d];
    // Where an adapter needs the embeddings, they are made again.
    let mut made = core::mem::take(&mut work.frozen_embedded);
    let kept = p.stack.needs_at(Place::Embedding).output.then(|| {
        let rows = made.room(n * d);
        frozen_embeddings(p, tokens, rows, work);
        View::new(rows, n, d)
    });
    doors::pass_back(p, Place::Embedding, View::new(&[], n, 0), kept, &mut *dx, None, target, work);
    work.frozen_embedded = made;
    if let Some(NormWeights { gain, .. }) = &m.weights.embed_norm {
        // The sums are made again.
        let mut sums = core::mem::take(&mut work.embedded);
        let (x, dy) = sums.room(2 * n * d).split_at_mut(n * d);
        summed_embeddings(p, tokens, x, work);
        dy.copy_from_slice(dx);
        dx.fill(0.0);
        let (x, dy) = (View::new(x, n, d), View::new(dy, n, d));
        norm::backward(&m.compute, m.hparams.norm, x, gain, dy, &mut Tile::new(dx, n, d));
        if let Target::Weights(offsets, grads) = target {
            norm_weights_backward(m, [Key::EmbedNorm, Key::EmbedNormBias], x, dy, offsets, grads);
        }
        work.embedded = sums;
    }
    if p.rows.lead > 0 {
        for s in &p.rows.segments {
            let lead = &mut dx[s.start * d..(s.start + p.rows.lead) * d];
            doors::pass_back(p, Place::Rows, View::new(&[], p.rows.lead, 0), None, lead, None, target, work);
        }
    }
    if let Target::Weights(offsets, grads) = target {
        let dx = View::new(dx, n, d);
        let at = |key| offsets.find(key);
        embed::backward_weights(tokens, dx, m.hparams.embed_scale, &mut grads[at(Key::Embed).unwrap_or_default()]);
        if let Some(at) = at(Key::Positions) {
            embed::backward_weights(&p.rows.positions, dx, 1.0, &mut grads[at]);
        }
        if let Some(at) = at(Key::Types) {
            (0..n).for_each(|i| crate::nn::add(dx.row(i), &mut grads[at.start..at.start + d]));
        }
    }
}

/// When [`blocks`] lets its caller look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before a block: the rows are its input.
    Before,
    /// After it: the activations are its own.
    After,
}

/// Takes a moment, a layer, the rows there, and activations.
pub type Each<'a> = dyn FnMut(Moment, usize, &[f32], &mut Acts) + 'a;

/// Through blocks, `x`, `[N, width]`, in place. `state` holds the state along the layers, if an adapter has one: with a
/// backward pass to follow, what it was before each layer and at the end, `[layers + 1, N, S]`, else the state alone.
pub fn blocks(
    p: &Pass,
    layers: Range<usize>,
    mut caches: Option<&mut (dyn Caches + '_)>,
    x: &mut [f32],
    a: &mut Acts,
    state: &mut Buffer,
    work: &mut Workspace,
    each: &mut Each,
) {
    let (n, d, width) = (p.rows.positions.len(), p.model.hparams.width, p.needs().state);
    let all = p.model.hparams.layers;
    let (last, size) = (layers.end == all, n * width);
    let state = state.room(if p.save { (all + 1) * size } else { size });
    state.fill(0.0);
    let mut now = 0;
    for layer in layers {
        each(Moment::Before, layer, x, a);
        block::forward(p, layer, caches.as_deref_mut(), x, a, work);
        if width > 0 {
            if p.save {
                state.copy_within(layer * size..(layer + 1) * size, (layer + 1) * size);
                now = (layer + 1) * size;
            }
            let mut tile = Tile::new(&mut state[now..now + size], n, width);
            doors::pass_through(p, Place::State(layer), View::new(x, n, d), &mut tile, None, work);
        }
        each(Moment::After, layer, x, a);
    }
    if last && width > 0 {
        let state = View::new(&state[now..], n, width);
        doors::pass_through(p, Place::Join, state, &mut Tile::new(x, n, d), None, work);
    }
}

/// The backward pass through the last norm: `dx += …`. x, dy, dx: `[N, width]`.
pub fn finish_backward(p: &Pass, x: View, dy: View, dx: &mut Tile, target: &mut Target) {
    let (m, h) = (p.model, &p.model.hparams);
    let Some(NormWeights { gain, .. }) = &m.weights.norm else {
        return (0..x.n).for_each(|i| crate::nn::add(dy.row(i), dx.row(i)));
    };
    if let Target::Weights(offsets, grads) = target {
        norm_weights_backward(m, [Key::Norm, Key::NormBias], x, dy, offsets, grads);
    }
    norm::backward(&m.compute, h.norm, x, gain, dy, dx);
}

/// Gradients of the gain and of the bias of a norm outside the blocks.
fn norm_weights_backward(m: &Model, keys: [Key; 2], x: View, dy: View, offsets: &Offsets, grads: &mut [f32]) {
    let [gain, bias] = keys.map(|key| offsets.find(key));
    let gain = gain.unwrap_or_default();
    // The bias is stored after the gain.
    let (before, after) = grads.split_at_mut(gain.end);
    let bias = bias.map(|at| &mut after[at.start - gain.end..at.end - gain.end]);
    norm::backward_weights(&m.compute, m.hparams.norm, x, dy, &mut before[gain], bias);
}

/// The last norm of some rows. x: `[N, width]`, y: `[N, width]`, overwritten. `kept` remembers what the norm made, where an
/// adapter wants it.
pub fn finish(p: &Pass, x: View, y: &mut [f32], kept: Option<&mut [f32]>, work: &mut Workspace) {
    let (m, w) = (p.model, &p.model.weights);
    let mut tile = Tile::new(y, x.n, x.c);
    match &w.norm {
        Some(NormWeights { gain, bias }) => {
            norm::forward(&m.compute, m.hparams.norm, x, gain, bias.as_deref(), &mut tile);
        }
        None => (0..x.n).for_each(|i| tile.row(i).copy_from_slice(x.row(i))),
    }
    doors::pass_through(p, Place::Final, x, &mut tile, kept, work);
}

/// What the head makes of rows that [`finish`] made; [`HParams::finish`](super::HParams) is yet to be applied, since a
/// bound would hide what is not finite. y: `[N, width]`, z: `[N, V]`, overwritten.
pub fn logits(p: &Pass, y: View, z: &mut [f32], quantized: &mut Quantized) {
    let (m, head) = (p.model, p.model.weights.head());
    let input = Input::new(&m.compute, p.precision, y, &[head], false, quantized);
    // The next token begins with the first block.
    let first = m.weights.blocks.first().and_then(|b| b.matrices().next());
    let input = first.map_or(input, |(_, w)| input.prefetch(w));
    linear::forward(&m.compute, head, input, &mut Tile::new(z, y.n, head.rows));
}
