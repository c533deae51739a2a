//! One forward and one backward pass over a batch: from examples to a loss and gradients.

use super::Config;
use super::activation_cache::ActivationCache;
use super::batch::Batch;
use crate::adapter::{Place, Shape, Stack};
use crate::kernel::{Buffer, Tile, View};
use crate::model::block::{self, Grads};
use crate::model::doors::{self, Workspace};
use crate::model::pass::{self, Moment, Pass};
use crate::model::weights::Key;
use crate::model::{ActType, Acts, Dropout, HParams, Model, SavedActs, SavedValues, Target, embedding};
use crate::nn::head;
use crate::nn::linear::Precision;
use std::prelude::v1::*;

/// Activation checkpointing: which blocks recompute their activations in the backward pass. The input of every block is
/// saved. The bits of the result do not depend on this choice, unless saved activations are rounded ([`ActType`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recompute {
    /// No block: the activations of all blocks are saved. Most memory, no product is computed twice.
    None,
    /// All blocks: their inputs alone are saved. The last block is free, since its activations are still there.
    All,
    /// All but this number of the upper blocks, including the last one.
    AllBut(usize),
    /// As few blocks as 48 MiB of saved activations allow.
    Auto,
}

/// Bytes of activations that [`Recompute::Auto`] saves beside the inputs.
pub const AUTO_BYTES: usize = 48 << 20;

/// Buffers of a row that predicts a target, each as wide as the model.
pub(super) const HEAD_ROWS: usize = 4;

impl Recompute {
    /// Blocks from `lowest` on, without the last one, whose activations are saved in a pass over `n` rows. `wants`: the
    /// values of a row that adapters need saved in a layer.
    pub(super) fn saved_blocks(
        self,
        h: &HParams,
        wants: &dyn Fn(usize) -> usize,
        n: usize,
        lowest: usize,
        act_type: ActType,
    ) -> usize {
        let most = (h.layers - lowest).saturating_sub(1);
        match self {
            Recompute::None => most,
            Recompute::All => 0,
            Recompute::AllBut(blocks) => blocks.saturating_sub(1).min(most),
            Recompute::Auto => {
                let largest = (0..h.layers).map(|layer| saved_bytes(h, wants, layer, n, act_type)).max().unwrap_or(0);
                most.min(AUTO_BYTES / largest.max(1))
            }
        }
    }
}

/// Bytes of the saved activations of a block.
pub(super) fn saved_bytes(
    h: &HParams,
    wants: &dyn Fn(usize) -> usize,
    layer: usize,
    n: usize,
    act_type: ActType,
) -> usize {
    SavedActs::bytes(h, &h.blocks[layer], wants(layer), n, act_type)
}

/// Values of a row that an adapter of that shape, and those beneath it, need saved in a layer.
pub(super) fn extras(h: &HParams, shape: Option<&Shape>, beneath: &Stack, layer: usize) -> usize {
    doors::extras_of(shape, beneath, h, layer).iter().map(|e| e.1).sum()
}

/// What is read off a batch, and a function of it: it returns a loss and writes its derivatives.
pub(super) enum LossFn<'a> {
    /// The sums of log-probabilities, [`Batch::sums`] of them.
    LogProbs(&'a mut dyn FnMut(&[f64], &mut [f32]) -> f64),
    /// The embeddings of its texts, `[texts, Model::embedding_width]`.
    Embeddings(&'a mut dyn FnMut(&[f32], &mut [f32]) -> f64),
}

/// The buffers of a pass; they grow to the largest batch once.
pub(super) struct Backprop {
    precision: Precision,
    recompute: Recompute,
    act_type: ActType,
    slice: usize,
    /// The outputs of frozen blocks, if they are cached.
    pub(super) cache: Option<ActivationCache>,
    inputs: Vec<SavedValues>,
    saved: Vec<SavedActs>,
    x: Buffer,
    dx: Buffer,
    gathered: Buffer,
    normed: Buffer,
    dnormed: Buffer,
    dgathered: Buffer,
    logp: Buffer,
    norms: Buffer,
    /// The state along the layers, and its gradient.
    state: [Buffer; 2],
    /// The last block's output, if that state changes it.
    joined: Buffer,
    /// The output of the last norm, if an adapter after it needs it.
    last: Buffer,
    logits: head::Logits,
    acts: Acts,
    grads: Grads,
    work: Workspace,
}

/// The adapters of a pass, with what follows from them.
#[derive(Clone, Copy)]
pub(super) struct Attached<'a> {
    /// The adapters.
    pub stack: &'a Stack,
    /// The lowest block that any of them changes.
    pub frozen: usize,
    /// Dropout, if there is any.
    pub dropout: Option<Dropout>,
}

impl Backprop {
    pub(super) fn new(config: &Config) -> Self {
        Backprop {
            precision: config.precision,
            recompute: config.recompute,
            act_type: config.act_type,
            slice: config.slice,
            cache: None,
            inputs: Vec::new(),
            saved: Vec::new(),
            x: Buffer::default(),
            dx: Buffer::default(),
            gathered: Buffer::default(),
            normed: Buffer::default(),
            dnormed: Buffer::default(),
            dgathered: Buffer::default(),
            logp: Buffer::default(),
            norms: Buffer::default(),
            state: Default::default(),
            joined: Buffer::default(),
            last: Buffer::default(),
            logits: head::Logits::default(),
            acts: Acts::default(),
            grads: Grads::default(),
            work: Workspace::default(),
        }
    }

    /// Blocks below the last one whose activations are saved in a pass over `n` rows.
    pub(super) fn saved_blocks(&self, h: &HParams, stack: &Stack, n: usize, lowest: usize) -> usize {
        let wants = |layer| extras(h, None, stack, layer);
        self.recompute.saved_blocks(h, &wants, n, lowest, self.act_type)
    }

    /// The sums of log-probabilities, without gradients.
    pub(super) fn sums(&mut self, m: &Model, attached: Attached, batch: &Batch) -> Vec<f64> {
        let p = Pass::new(m, attached.stack, self.precision, &batch.rows);
        self.forward(&p, batch, attached.frozen, attached.frozen, None);
        self.score(&p, batch, false)
    }

    /// The embeddings of the texts of a batch, without gradients. `[texts, Model::embedding_width]`
    pub(super) fn vectors(&mut self, m: &Model, attached: Attached, batch: &Batch) -> Vec<f32> {
        let p = Pass::new(m, attached.stack, self.precision, &batch.rows).dropping(attached.dropout);
        self.forward(&p, batch, attached.frozen, attached.frozen, None);
        self.finish(&p, batch);
        self.pool(&p, batch)
    }

    /// The mean over the rows of a batch of the base's last hidden states, after the last norm, scaled to length 1. No
    /// adapter is attached; the outputs of the first `frozen` blocks may come from the cache.
    pub(super) fn embed(&mut self, m: &Model, batch: &Batch, frozen: usize) -> Vec<f32> {
        let (stack, d) = (Stack::new(), m.hparams.width);
        let p = Pass::new(m, &stack, self.precision, &batch.rows);
        self.forward(&p, batch, frozen, frozen, None);
        let n = batch.tokens.len();
        let (mut sums, mut normed) = (vec![0.0; d], vec![0.0; d]);
        for row in self.x[..n * d].chunks_exact(d) {
            pass::finish(&p, View::new(row, 1, d), &mut normed, None, &mut self.work);
            sums.iter_mut().zip(&normed).for_each(|(sum, v)| *sum += f64::from(*v));
        }
        let length = libm::sqrt(sums.iter().map(|v| v * v).sum::<f64>());
        sums.iter().map(|v| (v / length) as f32).collect()
    }

    /// `self.x` becomes the input of a block, the first one that is not cached: returns its number.
    fn begin(&mut self, p: &Pass, batch: &Batch, frozen: usize) -> usize {
        let x = self.x.room(batch.tokens.len() * p.model.hparams.width);
        match &mut self.cache {
            Some(cache) if frozen > 0 => {
                cache.forward(p.model, batch, frozen, x, &mut self.acts, &mut self.work);
                frozen
            }
            _ => {
                pass::embed(p, &batch.tokens, x, &mut self.work);
                0
            }
        }
    }

    /// Through all blocks; `self.x` becomes the output of the last one. With `save`, a backward pass can follow: the inputs
    /// of all blocks from `lowest` on are saved, and the activations of `save` blocks below the last one. `lowest` is the
    /// first block that is trained. No adapter changes the first `frozen` blocks.
    fn forward(&mut self, p: &Pass, batch: &Batch, frozen: usize, lowest: usize, save: Option<usize>) {
        let (h, cx) = (&p.model.hparams, &p.model.compute);
        let (n, d, layers) = (batch.tokens.len(), h.width, h.layers);
        if let Some(saved) = save {
            self.inputs.resize_with(layers - lowest, SavedValues::default);
            if self.saved.len() != saved {
                // Another number of blocks comes with another number of rows: the old buffers and the new ones together
                // could exceed the memory limit.
                self.saved.clear();
                self.saved.resize_with(saved, SavedActs::default);
            }
        }
        let first = self.begin(p, batch, frozen);
        let x = &mut self.x[..n * d];
        let (inputs, acts, act_type) = (&mut self.inputs, &mut self.saved, self.act_type);
        let (joined, states) = (&mut self.joined, p.stack.needs().state > 0);
        let mut each = |moment: Moment, layer: usize, x: &[f32], a: &mut Acts| {
            let Some(saved) = save else { return };
            if moment == Moment::Before && layer >= lowest {
                inputs[layer - lowest].put(cx, act_type, &x[..n * d]);
            }
            if moment == Moment::After && layer + 1 == layers && states {
                joined.room(n * d).copy_from_slice(&x[..n * d]);
            }
            if moment == Moment::After && layer + 1 < layers && layer + 1 + saved >= layers {
                acts[layer + 1 + saved - layers].put(cx, h, &h.blocks[layer], p.extras(layer), act_type, a);
            }
        };
        let (a, state, work) = (&mut self.acts, &mut self.state[0], &mut self.work);
        pass::blocks(p, first..layers, None, x, a, state, work, &mut each);
    }

    /// The last norm of the rows that are read, in `self.normed`.
    fn finish(&mut self, p: &Pass, batch: &Batch) {
        let (n, d) = (batch.target_rows.len(), p.model.hparams.width);
        let gathered = self.gathered.room(n * d);
        for (out, &row) in gathered.chunks_exact_mut(d).zip(&batch.target_rows) {
            out.copy_from_slice(&self.x[row * d..][..d]);
        }
        let normed = self.normed.room(n * d);
        let last = if p.stack.needs_at(Place::Final).output { Some(self.last.room(n * d)) } else { None };
        pass::finish(p, View::new(gathered, n, d), normed, last, &mut self.work);
    }

    /// The embeddings of the texts, from the rows of [`Backprop::finish`].
    fn pool(&mut self, p: &Pass, batch: &Batch) -> Vec<f32> {
        let (d, texts) = (p.model.hparams.width, batch.groups.len());
        let mut pooled = vec![0.0; texts * d];
        embedding::pool(View::new(&self.normed, batch.target_rows.len(), d), &batch.groups, &mut pooled);
        embedding::project(p.model, self.precision, &pooled, texts, &mut self.work)
    }

    /// The gradient by the rows of [`Backprop::finish`], in `self.dnormed`, from that by embeddings.
    fn pool_backward(&mut self, p: &Pass, batch: &Batch, slopes: &[f32]) {
        let (d, texts) = (p.model.hparams.width, batch.groups.len());
        let pooled = embedding::project_backward(p.model, self.precision, slopes, texts, &mut self.work);
        let dnormed = self.dnormed.room(batch.target_rows.len() * d);
        embedding::pool_backward(View::new(&pooled, texts, d), &batch.groups, dnormed);
    }

    /// Sums of the targets' log-probabilities. With `grad`, also the gradient of each by its normed row, in `self.dnormed`.
    fn score(&mut self, p: &Pass, batch: &Batch, grad: bool) -> Vec<f64> {
        let (m, n, d) = (p.model, batch.target_rows.len(), p.model.hparams.width);
        self.finish(p, batch);
        let normed = &self.normed[..n * d];
        let (logp, norms) = (self.logp.room(n), self.norms.room(n));
        let g = if grad { Some(self.dnormed.room(n * d)) } else { None };
        let Workspace { quantized, back, .. } = &mut self.work;
        let (x, head, finish) = (View::new(normed, n, d), m.weights.head(), m.hparams.finish);
        let (slice, logits) = (self.slice, &mut self.logits);
        let targets = &batch.targets;
        head::log_probs(
            &m.compute,
            self.precision,
            head,
            finish,
            x,
            targets,
            logp,
            norms,
            g,
            slice,
            logits,
            quantized,
            back,
        );
        batch.sum(logp)
    }

    /// A forward and a backward pass: adds the gradient of a loss to `target` and returns the loss. `lowest` is the first
    /// block that is trained; with `embeds` the embeddings are trained too.
    pub(super) fn pass(
        &mut self,
        m: &Model,
        attached: Attached,
        batch: &Batch,
        loss_fn: LossFn,
        (lowest, embeds): (usize, bool),
        saved: usize,
        target: &mut Target,
    ) -> f64 {
        let (h, cx) = (&m.hparams, &m.compute);
        let (n, d, layers) = (batch.tokens.len(), h.width, h.layers);
        let p = Pass::new(m, attached.stack, self.precision, &batch.rows).saving().dropping(attached.dropout);
        let aside = match target {
            Target::Adapter(which, _) => attached.stack.all()[*which].adapter.shape().needs.aside,
            Target::Weights(..) => false,
        };
        self.forward(&p, batch, attached.frozen, lowest, (!aside).then_some(saved));
        // A loss that is not finite is discarded; without derivatives there is nothing to propagate.
        let done = |loss: f64, slopes: &[f32]| !loss.is_finite() || slopes.iter().all(|c| *c == 0.0);
        let targets = batch.target_rows.len();
        let (loss, weights) = match loss_fn {
            LossFn::LogProbs(loss_fn) => {
                let sums = self.score(&p, batch, true);
                let mut slopes = vec![0.0; sums.len()];
                let loss = loss_fn(&sums, &mut slopes);
                if done(loss, &slopes) {
                    return loss;
                }
                for (row, owner) in self.dnormed[..targets * d].chunks_exact_mut(d).zip(&batch.owners) {
                    row.iter_mut().for_each(|v| *v *= slopes[*owner]);
                }
                (loss, Some(slopes))
            }
            LossFn::Embeddings(loss_fn) => {
                self.finish(&p, batch);
                let vectors = self.pool(&p, batch);
                let mut slopes = vec![0.0; vectors.len()];
                let loss = loss_fn(&vectors, &mut slopes);
                if done(loss, &slopes) {
                    return loss;
                }
                self.pool_backward(&p, batch, &slopes);
                (loss, None)
            }
        };
        let dnormed = &mut self.dnormed[..targets * d];
        let gathered = View::new(&self.gathered, targets, d);
        let dgathered = self.dgathered.room(targets * d);
        dgathered.fill(0.0);
        let last = Some(&self.last).filter(|_| p.stack.needs_at(Place::Final).output);
        let last = last.map(|last| View::new(last, targets, d));
        let mut tile = Tile::new(dgathered, targets, d);
        doors::pass_back(&p, Place::Final, gathered, last, &mut *dnormed, Some(&mut tile), target, &mut self.work);
        let dnormed = View::new(dnormed, targets, d);
        if let (Target::Weights(offsets, grads), Some(slopes)) = (&mut *target, weights) {
            let at = offsets.find(Key::Output).or_else(|| offsets.find(Key::Embed)).unwrap_or_default();
            let x = View::new(&self.normed, targets, d);
            let weights: Vec<f32> = batch.owners.iter().map(|owner| slopes[*owner]).collect();
            let (head, norms) = (m.weights.head(), &self.norms[..targets]);
            head::backward_weights(cx, head, h.finish, x, &batch.targets, &weights, norms, &mut grads[at]);
        }
        pass::finish_backward(&p, gathered, dnormed, &mut tile, target);
        let dx = self.dx.room(n * d);
        dx.fill(0.0);
        for (row, g) in batch.target_rows.iter().zip(dgathered.chunks_exact(d)) {
            dx[row * d..][..d].copy_from_slice(g);
        }

        let (x, a, width) = (&mut self.x[..n * d], &mut self.acts, p.stack.needs().state);
        let [state, dstate] = &mut self.state;
        if width > 0 {
            // Beside the blocks, the gradient of the state after each of them is kept.
            let first = if aside { layers * n * width } else { 0 };
            let ds = &mut dstate.room(first + n * width)[first..];
            ds.fill(0.0);
            let mut tile = Tile::new(ds, n, width);
            let seen = View::new(&state[layers * n * width..], n, width);
            doors::pass_back(&p, Place::Join, seen, None, &mut *dx, Some(&mut tile), target, &mut self.work);
        }
        if aside {
            self.beside(&p, batch, attached.frozen, lowest, target);
            return loss;
        }
        for layer in (lowest..layers).rev() {
            let place = Place::State(layer);
            if !p.stack.at(place).is_empty() {
                // The rows are still the output of this block, unless the state has changed them at the end.
                let out = if layer + 1 == layers { &self.joined[..n * d] } else { &*x };
                let kept = View::new(&state[layer * n * width..], 2 * n, width);
                let (mut tile, ds) = (Tile::new(dx, n, d), &mut dstate[..n * width]);
                let out = View::new(out, n, d);
                doors::pass_back(&p, place, out, Some(kept), ds, Some(&mut tile), target, &mut self.work);
            }
            self.inputs[layer - lowest].get(cx, self.act_type, x);
            // The activations of the last block are still in `a`.
            if layer + 1 + saved < layers {
                block::recompute(&p, layer, x, a, &mut self.work);
            } else if layer + 1 < layers {
                let acts = &mut self.saved[layer + 1 + saved - layers];
                acts.get(cx, h, &h.blocks[layer], p.extras(layer), self.act_type, a);
                block::recompute_cheap(&p, layer, x, a, &mut self.work);
            }
            let below = layer > lowest || embeds;
            block::backward(&p, layer, x, a, dx, target, below, &mut self.grads, &mut self.work);
        }
        if embeds || matches!(target, Target::Weights(..)) {
            pass::embed_backward(&p, &batch.tokens, dx, target, &mut self.work);
        }
        loss
    }

    /// The backward pass of an adapter beside the blocks, none of which depends on it: first down the states alone, which
    /// are kept, then through the blocks once more, for what it read of them.
    fn beside(&mut self, p: &Pass, batch: &Batch, frozen: usize, lowest: usize, target: &mut Target) {
        let (n, d, width) = (batch.tokens.len(), p.model.hparams.width, p.stack.needs().state);
        let (layers, size) = (p.model.hparams.layers, n * width);
        let first = self.begin(p, batch, frozen);
        let [state, dstate] = &mut self.state;
        let (x, a, work) = (&mut self.x[..n * d], &mut self.acts, &mut self.work);
        let kept = |layer: usize| Some(View::new(&state[layer * size..], 2 * n, width));
        for layer in (lowest..layers).rev() {
            let (below, above) = dstate.split_at_mut((layer + 1) * size);
            let ds = &mut below[layer * size..];
            ds.copy_from_slice(&above[..size]);
            doors::pass_back(p, Place::State(layer), View::new(&[], n, 0), kept(layer), ds, None, target, work);
        }
        for layer in first..layers {
            block::forward(p, layer, None, x, a, work);
            let ds = &mut dstate[(layer + 1) * size..(layer + 2) * size];
            doors::pass_back(p, Place::State(layer), View::new(x, n, d), kept(layer), ds, None, target, work);
        }
    }
}
