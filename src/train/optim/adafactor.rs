//! Adafactor (arXiv:1804.04235) with a given learning rate, like Hugging Face's `Adafactor` with
//! `relative_step=False, scale_parameter=False`: a matrix's second moments are the product of the means of its rows and
//! of its columns, there is no first moment, and a step's root mean square is at most 1 before the rate.

use super::{Common, EPS, Optimizer, Origin, Part, State, StateMut, exchanged, single};
use crate::knob::Values;
use std::prelude::v1::*;

/// Largest root mean square of a part's step.
const CLIP: f64 = 1.0;
/// The decay of step t is `1 − t^POWER`.
const POWER: f64 = -0.8;

/// Numbers stored for a part: the means of rows and columns, or all values of a vector.
pub(super) fn values(part: &Part) -> usize {
    if factored(part) { part.rows() + part.cols } else { part.range.len() }
}

fn factored(part: &Part) -> bool {
    part.rows() > 1 && part.cols > 1
}

/// Means of squares.
pub struct Adafactor {
    common: Common,
    eps: f32,
    parts: Vec<Part>,
    /// For each part its rows' means, then its columns'; or its squares.
    means: Vec<f32>,
    steps: u64,
    update: Vec<f32>,
}

impl Adafactor {
    /// The initial state: all means 0.
    pub fn new(settings: &Values, parts: Vec<Part>) -> Self {
        let means = vec![0.0; parts.iter().map(values).sum()];
        let longest = parts.iter().map(|p| p.range.len()).max().unwrap_or(0);
        Adafactor {
            common: Common::of(settings),
            eps: single(settings, &EPS),
            parts,
            means,
            steps: 0,
            update: vec![0.0; longest],
        }
    }
}

impl Optimizer for Adafactor {
    /// With `q = g² + ε`: rows' means `R`, columns' means `C` decay towards those of `q`;
    /// `u = g / √(R·C / mean R)`, or `g / √V` for a vector; `p ← p·(1 − lr·λ) − lr · u / max(1, rms(u))`.
    fn step(&mut self, params: &mut [f32], grads: &[f32], lr: f32) {
        self.steps += 1;
        let keep = (1.0 - libm::pow(self.steps as f64, POWER)) as f32;
        let eps = self.eps;
        let mut rest = &mut self.means[..];
        for part in &self.parts {
            let (means, tail) = rest.split_at_mut(values(part));
            rest = tail;
            let ((lr, shrink), g) = (self.common.rate(lr, part), &grads[part.range.clone()]);
            let update = &mut self.update[..g.len()];
            let towards = |mean: &mut f32, now: f64| *mean = keep * *mean + (1.0 - keep) * now as f32;
            let square = |g: f32| (g * g + eps) as f64;
            if factored(part) {
                let (n, c) = (part.rows(), part.cols);
                let (rows, columns) = means.split_at_mut(n);
                for (mean, g) in rows.iter_mut().zip(g.chunks_exact(c)) {
                    towards(mean, g.iter().map(|g| square(*g)).sum::<f64>() / c as f64);
                }
                for (j, mean) in columns.iter_mut().enumerate() {
                    towards(mean, (0..n).map(|i| square(g[i * c + j])).sum::<f64>() / n as f64);
                }
                let mean = rows.iter().map(|r| *r as f64).sum::<f64>() / n as f64;
                for (i, (u, g)) in update.iter_mut().zip(g).enumerate() {
                    let v = rows[i / c] as f64 / mean * columns[i % c] as f64;
                    *u = (*g as f64 / libm::sqrt(v)) as f32;
                }
            } else {
                for ((u, g), mean) in update.iter_mut().zip(g).zip(means) {
                    towards(mean, square(*g));
                    *u = (*g as f64 / libm::sqrt(*mean as f64)) as f32;
                }
            }
            let rms = libm::sqrt(update.iter().map(|u| *u as f64 * *u as f64).sum::<f64>() / update.len() as f64);
            let rate = (lr as f64 / (rms / CLIP).max(1.0)) as f32;
            for (p, u) in params[part.range.clone()].iter_mut().zip(update) {
                *p = *p * shrink - rate * *u;
            }
        }
    }

    fn grow(&mut self, parts: Vec<Part>) {
        let (mut means, mut rest) = (Vec::new(), &self.means[..]);
        for (old, new) in self.parts.iter().zip(&parts) {
            let (known, tail) = rest.split_at(values(old));
            rest = tail;
            let (rows, columns) = known.split_at(if factored(old) { old.rows() } else { 0 });
            let mut fit = |known: &[f32], n: usize| means.extend((0..n).map(|i| known.get(i).copied().unwrap_or(0.0)));
            match factored(new) {
                true => {
                    // For a part that was a vector: the means of its values.
                    let mean = columns.iter().map(|v| *v as f64).sum::<f64>() / columns.len().max(1) as f64;
                    let mean = [mean as f32];
                    fit(if factored(old) { rows } else { &mean }, new.rows());
                    fit(columns, new.cols);
                }
                false => fit(known, new.range.len()),
            }
        }
        (self.means, self.parts) = (means, parts);
        self.update = vec![0.0; self.parts.iter().map(|p| p.range.len()).max().unwrap_or(0)];
    }

    /// Only vectors have a mean for each value; the sums of rows and columns stay as they are.
    fn exchange(&mut self, origins: &[Origin]) {
        if !self.parts.iter().any(factored) {
            self.means = exchanged(origins, &self.means, |known| known.square + self.eps);
        }
    }

    fn state(&self) -> Vec<(&'static str, State<'_>)> {
        vec![("means", State::F32(&self.means)), ("steps", State::U64(self.steps))]
    }

    fn state_mut(&mut self) -> Vec<(&'static str, StateMut<'_>)> {
        vec![("means", StateMut::F32(&mut self.means)), ("steps", StateMut::U64(&mut self.steps))]
    }
}
