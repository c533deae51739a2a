//! One pass forward and one back over a batch: from examples to a loss and gradients.

use super::batch::Batch;
use crate::adapter::{Adapter, Linear, Site};
use crate::kernel::{Tile, View};
use crate::model::block::{self, Grads};
use crate::model::project::{Sink, Workspace};
use crate::model::weights::Places;
use crate::model::{Acts, Model};
use crate::nn::linear::Path;
use crate::nn::{embed, head, norm};
use std::prelude::v1::*;
use std::sync::Arc;

/// Which activations stay in memory between the passes. The bits are the same either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Everything a block remembers: most memory, no work twice.
    All,
    /// Each block's input; the rest is computed again, a third more work.
    Inputs,
    /// [`Keep::All`] where that takes at most [`AUTO_BYTES`], else [`Keep::Inputs`].
    Auto,
}

/// Activations that [`Keep::Auto`] keeps.
pub const AUTO_BYTES: usize = 48 << 20;

/// The buffers of a pass; they grow to the largest batch once.
pub(super) struct Backprop {
    keep: Keep,
    inputs: Vec<f32>,
    x: Vec<f32>,
    dx: Vec<f32>,
    gathered: Vec<f32>,
    normed: Vec<f32>,
    dnormed: Vec<f32>,
    dgathered: Vec<f32>,
    logp: Vec<f32>,
    norms: Vec<f32>,
    acts: Vec<Acts>,
    grads: Grads,
    work: Workspace,
}

fn room(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

impl Backprop {
    pub(super) fn new(keep: Keep) -> Self {
        Backprop {
            keep,
            inputs: Vec::new(),
            x: Vec::new(),
            dx: Vec::new(),
            gathered: Vec::new(),
            normed: Vec::new(),
            dnormed: Vec::new(),
            dgathered: Vec::new(),
            logp: Vec::new(),
            norms: Vec::new(),
            acts: Vec::new(),
            grads: Grads::default(),
            work: Workspace::default(),
        }
    }

    /// Adds what `adapter` wants of `coefficient · Σ ln p(target)` into `acc`; returns `−Σ ln p(target)`.
    pub(super) fn adapter(
        &mut self,
        m: &Model,
        adapter: &[Arc<dyn Adapter>; 1],
        batch: &Batch,
        coefficient: f32,
        acc: &mut [f32],
    ) -> f64 {
        let covered =
            |layer: &usize| Linear::ALL.iter().any(|&linear| adapter[0].covers(Site { layer: *layer, linear }));
        let lowest = (0..m.hparams.layers).find(covered).unwrap_or(m.hparams.layers);
        let mut sink = Sink::Adapter(adapter[0].as_ref(), acc);
        self.pass(m, adapter, batch, coefficient, lowest, &mut sink)
    }

    /// The same for every weight of the model.
    pub(super) fn weights(&mut self, m: &Model, places: &Places, batch: &Batch, c: f32, grads: &mut [f32]) -> f64 {
        let mut sink = Sink::Weights(places, grads);
        self.pass(m, &[], batch, c, 0, &mut sink)
    }

    /// `−Σ ln p(target)`, without gradients.
    pub(super) fn loss(&mut self, m: &Model, adapters: &[Arc<dyn Adapter>], batch: &Batch) -> f64 {
        self.forward(m, adapters, batch, m.hparams.layers, false);
        self.score(m, batch, false)
    }

    /// Through all blocks, `self.x` the last one's output; remembers from block `lowest` on.
    fn forward(&mut self, m: &Model, adapters: &[Arc<dyn Adapter>], batch: &Batch, lowest: usize, all: bool) {
        let (n, d, layers) = (batch.tokens.len(), m.hparams.width, m.hparams.layers);
        room(&mut self.inputs, (layers - lowest) * n * d);
        let keep = if all { layers - lowest } else { 1 };
        self.acts.resize_with(keep.max(1), Acts::default);
        let x = room(&mut self.x, n * d);
        embed::forward(&m.compute, &m.weights.embed, &batch.tokens, &mut Tile::new(x, n, d));
        for layer in 0..layers {
            if layer >= lowest {
                self.inputs[(layer - lowest) * n * d..][..n * d].copy_from_slice(x);
            }
            let a = &mut self.acts[if all { layer.saturating_sub(lowest) } else { 0 }];
            block::forward(m, adapters, Path::Exact, layer, &batch.layout, None, x, a, &mut self.work);
        }
    }

    /// Log-probabilities of the targets and, if wanted, their gradients by the normed rows, in `self.dnormed`.
    fn score(&mut self, m: &Model, batch: &Batch, grad: bool) -> f64 {
        let (n, d) = (batch.rows.len(), m.hparams.width);
        let gathered = room(&mut self.gathered, n * d);
        for (out, &row) in gathered.chunks_exact_mut(d).zip(&batch.rows) {
            out.copy_from_slice(&self.x[row * d..][..d]);
        }
        let normed = room(&mut self.normed, n * d);
        norm::forward(
            &m.compute,
            View::new(gathered, n, d),
            &m.weights.norm,
            m.hparams.eps,
            &mut Tile::new(normed, n, d),
        );
        let (logp, norms) = (room(&mut self.logp, n), room(&mut self.norms, n));
        let g = if grad { Some(room(&mut self.dnormed, n * d)) } else { None };
        head::log_probs(&m.compute, m.weights.head(), View::new(normed, n, d), &batch.targets, logp, norms, g);
        -logp.iter().map(|v| *v as f64).sum::<f64>()
    }

    fn pass(
        &mut self,
        m: &Model,
        adapters: &[Arc<dyn Adapter>],
        batch: &Batch,
        c: f32,
        lowest: usize,
        sink: &mut Sink,
    ) -> f64 {
        let (h, cx) = (&m.hparams, &m.compute);
        let (n, d, layers) = (batch.tokens.len(), h.width, h.layers);
        let all = match self.keep {
            Keep::All => true,
            Keep::Inputs => false,
            Keep::Auto => (layers - lowest) * Acts::bytes(h, n) <= AUTO_BYTES,
        };
        self.forward(m, adapters, batch, lowest, all);
        let loss = self.score(m, batch, true);
        if !loss.is_finite() {
            return loss;
        }

        let counted = batch.rows.len();
        let dnormed = &mut self.dnormed[..counted * d];
        for v in dnormed.iter_mut() {
            *v *= c;
        }
        let (gathered, dnormed) = (View::new(&self.gathered, counted, d), View::new(dnormed, counted, d));
        if let Sink::Weights(places, grads) = sink {
            let at = places.output.clone().unwrap_or(places.embed.clone());
            let (x, weights) = (View::new(&self.normed, counted, d), vec![c; counted]);
            let (head, norms) = (m.weights.head(), &self.norms[..counted]);
            head::backward_weights(cx, head, x, &batch.targets, &weights, norms, &mut grads[at]);
            norm::backward_weights(cx, gathered, h.eps, dnormed, &mut grads[places.norm.clone()]);
        }
        let dgathered = room(&mut self.dgathered, counted * d);
        dgathered.fill(0.0);
        norm::backward(cx, gathered, &m.weights.norm, h.eps, dnormed, &mut Tile::new(dgathered, counted, d));
        let dx = room(&mut self.dx, n * d);
        dx.fill(0.0);
        for (row, g) in batch.rows.iter().zip(dgathered.chunks_exact(d)) {
            dx[row * d..][..d].copy_from_slice(g);
        }

        for layer in (lowest..layers).rev() {
            let x = &self.inputs[(layer - lowest) * n * d..][..n * d];
            let a = &mut self.acts[if all { layer - lowest } else { 0 }];
            if !all && layer + 1 < layers {
                block::hidden(m, adapters, Path::Exact, layer, &batch.layout, None, x, a, &mut self.work);
            }
            block::backward(m, layer, &batch.layout, x, a, dx, sink, &mut self.grads, &mut self.work);
        }
        if let Sink::Weights(places, grads) = sink {
            embed::backward_weights(&batch.tokens, View::new(dx, n, d), &mut grads[places.embed.clone()]);
        }
        loss
    }
}
