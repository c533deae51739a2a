//! One pass forward and one back over a batch: from examples to a loss and gradients.

use super::Config;
use super::batch::Batch;
use super::lower::Lower;
use crate::adapter::{Adapter, Linear, Site};
use crate::kernel::{Buffer, Tile, View};
use crate::model::block::{self, Grads};
use crate::model::project::{Sink, Workspace};
use crate::model::weights::Places;
use crate::model::{Acts, HParams, Kept, Model, Precision, Stored};
use crate::nn::linear::Path;
use crate::nn::{embed, head, norm};
use std::prelude::v1::*;
use std::sync::Arc;

/// Which activations stay in memory between the passes. Every block's input does; the bits are the same either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// What every block remembers: most memory, no product twice.
    All,
    /// Inputs alone; the products of a block's forward pass are done again.
    Inputs,
    /// What the upper so many blocks remember, and inputs below. The last block's costs nothing: it is still there.
    Blocks(usize),
    /// As many blocks as [`AUTO_BYTES`] have room for.
    Auto,
}

/// Activations that [`Keep::Auto`] keeps beside the inputs.
pub const AUTO_BYTES: usize = 48 << 20;

/// Buffers of a row whose prediction counts, each as wide as the model.
pub(super) const HEAD_ROWS: usize = 4;

impl Keep {
    /// How many of `blocks` blocks, the last not counted, are kept for `n` rows.
    pub(super) fn blocks(self, h: &HParams, n: usize, blocks: usize, precision: Precision) -> usize {
        let most = blocks.saturating_sub(1);
        match self {
            Keep::All => most,
            Keep::Inputs => 0,
            Keep::Blocks(blocks) => blocks.saturating_sub(1).min(most),
            Keep::Auto => most.min(AUTO_BYTES / Kept::bytes(h, n, precision).max(1)),
        }
    }
}

/// The lowest block that `adapter` changes; the number of blocks if it changes none.
pub(super) fn lowest(m: &Model, adapter: &dyn Adapter) -> usize {
    let covered = |layer: &usize| Linear::ALL.iter().any(|&linear| adapter.covers(Site { layer: *layer, linear }));
    (0..m.hparams.layers).find(covered).unwrap_or(m.hparams.layers)
}

/// From the sums of log-probabilities of a batch, [`Batch::sums`] of them, to a loss and its derivatives by the sums.
pub(super) type Grading<'a> = dyn FnMut(&[f64], &mut [f32]) -> f64 + 'a;

/// The buffers of a pass; they grow to the largest batch once.
pub(super) struct Backprop {
    path: Path,
    keep: Keep,
    precision: Precision,
    slice: usize,
    /// Where outputs of frozen blocks are kept.
    pub(super) lower: Option<Lower>,
    inputs: Vec<Stored>,
    kept: Vec<Kept>,
    x: Buffer,
    dx: Buffer,
    gathered: Buffer,
    normed: Buffer,
    dnormed: Buffer,
    dgathered: Buffer,
    logp: Buffer,
    norms: Buffer,
    logits: head::Logits,
    acts: Acts,
    grads: Grads,
    work: Workspace,
}

impl Backprop {
    pub(super) fn new(config: &Config) -> Self {
        Backprop {
            path: config.path,
            keep: config.keep,
            precision: config.precision,
            slice: config.slice,
            lower: None,
            inputs: Vec::new(),
            kept: Vec::new(),
            x: Buffer::default(),
            dx: Buffer::default(),
            gathered: Buffer::default(),
            normed: Buffer::default(),
            dnormed: Buffer::default(),
            dgathered: Buffer::default(),
            logp: Buffer::default(),
            norms: Buffer::default(),
            logits: head::Logits::default(),
            acts: Acts::default(),
            grads: Grads::default(),
            work: Workspace::default(),
        }
    }

    /// Adds what `adapter` wants of the gradient of a loss into `acc`; returns the loss.
    pub(super) fn adapter(
        &mut self,
        m: &Model,
        adapter: &[Arc<dyn Adapter>; 1],
        batch: &Batch,
        grading: &mut Grading,
        acc: &mut [f32],
    ) -> f64 {
        let lowest = lowest(m, adapter[0].as_ref());
        let mut sink = Sink::Adapter(adapter[0].as_ref(), acc);
        self.pass(m, adapter, batch, grading, lowest, &mut sink)
    }

    /// The same for every weight of the model.
    pub(super) fn weights(
        &mut self,
        m: &Model,
        places: &Places,
        batch: &Batch,
        grading: &mut Grading,
        grads: &mut [f32],
    ) -> f64 {
        let mut sink = Sink::Weights(places, grads);
        self.pass(m, &[], batch, grading, 0, &mut sink)
    }

    /// The sums of log-probabilities, without gradients. No adapter changes the first `frozen` blocks.
    pub(super) fn sums(&mut self, m: &Model, adapters: &[Arc<dyn Adapter>], batch: &Batch, frozen: usize) -> Vec<f64> {
        self.forward(m, adapters, batch, frozen, None);
        self.score(m, batch, false)
    }

    /// The mean over the rows of a batch of what the base makes of them, after the last norm; scaled to length 1.
    pub(super) fn embed(&mut self, m: &Model, batch: &Batch, frozen: usize) -> Vec<f32> {
        self.forward(m, &[], batch, frozen, None);
        let (n, d) = (batch.tokens.len(), m.hparams.width);
        let (mut sums, mut normed) = (vec![0.0; d], vec![0.0; d]);
        for row in self.x[..n * d].chunks_exact(d) {
            let mut y = Tile::new(&mut normed, 1, d);
            norm::forward(&m.compute, block::rms(&m.hparams), View::new(row, 1, d), &m.weights.norm, None, &mut y);
            sums.iter_mut().zip(&normed).for_each(|(sum, v)| *sum += f64::from(*v));
        }
        let length = libm::sqrt(sums.iter().map(|v| v * v).sum::<f64>());
        sums.iter().map(|v| (v / length) as f32).collect()
    }

    /// Through all blocks, `self.x` the last one's output. With `keep`, the way back can follow: inputs are kept from block
    /// `lowest` on, the first that an adapter changes, and what so many blocks below the last remember.
    fn forward(&mut self, m: &Model, adapters: &[Arc<dyn Adapter>], batch: &Batch, lowest: usize, keep: Option<usize>) {
        let (h, cx) = (&m.hparams, &m.compute);
        let (n, d, layers) = (batch.tokens.len(), h.width, h.layers);
        if let Some(kept) = keep {
            self.inputs.resize_with(layers - lowest, Stored::default);
            if self.kept.len() != kept {
                // Other numbers of blocks come with other numbers of rows: both together could pass what was allowed.
                self.kept.clear();
                self.kept.resize_with(kept, Kept::default);
            }
        }
        let x = self.x.room(n * d);
        let first = match &mut self.lower {
            Some(lower) if lowest > 0 => {
                lower.forward(m, batch, lowest, x, &mut self.acts, &mut self.work);
                lowest
            }
            _ => {
                embed::forward(cx, &m.weights.embed, &batch.tokens, 1.0, &mut Tile::new(x, n, d));
                0
            }
        };
        for layer in first..layers {
            if layer >= lowest && keep.is_some() {
                self.inputs[layer - lowest].put(cx, self.precision, x);
            }
            block::forward(m, adapters, self.path, layer, &batch.layout, None, x, &mut self.acts, &mut self.work);
            if let Some(kept) = keep
                && layer + 1 < layers
                && layer + 1 + kept >= layers
            {
                self.kept[layer + 1 + kept - layers].put(cx, h, self.precision, &mut self.acts);
            }
        }
    }

    /// Sums of the targets' log-probabilities and, if wanted, each one's gradient by its normed row, in `self.dnormed`.
    fn score(&mut self, m: &Model, batch: &Batch, grad: bool) -> Vec<f64> {
        let (n, d) = (batch.rows.len(), m.hparams.width);
        let gathered = self.gathered.room(n * d);
        for (out, &row) in gathered.chunks_exact_mut(d).zip(&batch.rows) {
            out.copy_from_slice(&self.x[row * d..][..d]);
        }
        let normed = self.normed.room(n * d);
        norm::forward(
            &m.compute,
            block::rms(&m.hparams),
            View::new(gathered, n, d),
            &m.weights.norm,
            None,
            &mut Tile::new(normed, n, d),
        );
        let (logp, norms) = (self.logp.room(n), self.norms.room(n));
        let g = if grad { Some(self.dnormed.room(n * d)) } else { None };
        let Workspace { rounded, back, .. } = &mut self.work;
        let (x, head) = (View::new(normed, n, d), m.weights.head());
        let (slice, logits) = (self.slice, &mut self.logits);
        let none = head::Finish::NONE;
        head::log_probs(
            &m.compute,
            self.path,
            head,
            none,
            x,
            &batch.targets,
            logp,
            norms,
            g,
            slice,
            logits,
            rounded,
            back,
        );
        batch.sum(logp)
    }

    fn pass(
        &mut self,
        m: &Model,
        adapters: &[Arc<dyn Adapter>],
        batch: &Batch,
        grading: &mut Grading,
        lowest: usize,
        sink: &mut Sink,
    ) -> f64 {
        let (h, cx) = (&m.hparams, &m.compute);
        let (n, d, layers) = (batch.tokens.len(), h.width, h.layers);
        let kept = self.keep.blocks(h, n, layers - lowest, self.precision);
        self.forward(m, adapters, batch, lowest, Some(kept));
        let sums = self.score(m, batch, true);
        let mut slopes = vec![0.0; sums.len()];
        let loss = grading(&sums, &mut slopes);
        // What is not finite is discarded, and what has no slope changes nothing.
        if !loss.is_finite() || slopes.iter().all(|c| *c == 0.0) {
            return loss;
        }

        let counted = batch.rows.len();
        let dnormed = &mut self.dnormed[..counted * d];
        for (row, owner) in dnormed.chunks_exact_mut(d).zip(&batch.owners) {
            row.iter_mut().for_each(|v| *v *= slopes[*owner]);
        }
        let (gathered, dnormed) = (View::new(&self.gathered, counted, d), View::new(dnormed, counted, d));
        if let Sink::Weights(places, grads) = sink {
            let at = places.output.clone().unwrap_or(places.embed.clone());
            let x = View::new(&self.normed, counted, d);
            let weights: Vec<f32> = batch.owners.iter().map(|owner| slopes[*owner]).collect();
            let (head, norms) = (m.weights.head(), &self.norms[..counted]);
            head::backward_weights(cx, head, head::Finish::NONE, x, &batch.targets, &weights, norms, &mut grads[at]);
            norm::backward_weights(cx, block::rms(h), gathered, dnormed, &mut grads[places.norm.clone()], None);
        }
        let dgathered = self.dgathered.room(counted * d);
        dgathered.fill(0.0);
        norm::backward(cx, block::rms(h), gathered, &m.weights.norm, dnormed, &mut Tile::new(dgathered, counted, d));
        let dx = self.dx.room(n * d);
        dx.fill(0.0);
        for (row, g) in batch.rows.iter().zip(dgathered.chunks_exact(d)) {
            dx[row * d..][..d].copy_from_slice(g);
        }

        let (x, a) = (&mut self.x[..n * d], &mut self.acts);
        for layer in (lowest..layers).rev() {
            self.inputs[layer - lowest].get(cx, self.precision, x);
            // The last block's are still there.
            if layer + 1 + kept < layers {
                block::hidden(m, adapters, self.path, layer, &batch.layout, None, x, a, &mut self.work);
            } else if layer + 1 < layers {
                self.kept[layer + 1 + kept - layers].get(cx, h, self.precision, a);
                block::refresh(m, layer, x, a);
            }
            let below = layer > lowest || matches!(sink, Sink::Weights(..));
            block::backward(m, self.path, layer, &batch.layout, x, a, dx, sink, below, &mut self.grads, &mut self.work);
        }
        if let Sink::Weights(places, grads) = sink {
            embed::backward_weights(&batch.tokens, View::new(dx, n, d), 1.0, &mut grads[places.embed.clone()]);
        }
        loss
    }
}
