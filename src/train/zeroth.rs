//! Gradients without a backward pass: two forward passes with the adapter's parameters perturbed along a random direction
//! and against it (SPSA, Spall 1992; for language models MeZO, arXiv:2305.17333). Memory is that of running the model.
//!
//! A direction is a sign for every parameter, drawn from the seed and the number of the step, so it is not stored,
//! and an interrupted run continues with the same bits. With `ℓ⁺`, `ℓ⁻` the completions' log-probabilities at either end
//! and `c⁺`, `c⁻` the objective's derivatives by them, the slope along the direction is `Σ ½(c⁺ + c⁻)·(ℓ⁺ − ℓ⁻) / 2ε`:
//! what an objective holds fixed stays fixed, and for a likelihood it is `(L⁺ − L⁻) / 2ε`.

use super::objective::{Metrics, Totals};
use super::{Example, Trainer};
use crate::error::{Error, Result};
use crate::rng::Stream;
use std::prelude::v1::*;

/// Zeroth-order gradient estimates: settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Zeroth {
    /// Size of the perturbation, ε.
    pub eps: f32,
    /// Directions of a step, whose estimates are averaged; two forward passes each.
    pub directions: u32,
    /// Seed of the directions.
    pub seed: u64,
}

impl Default for Zeroth {
    fn default() -> Self {
        Zeroth { eps: 1e-3, directions: 1, seed: 0 }
    }
}

impl Zeroth {
    pub(super) fn check(&self) -> Result<()> {
        if !(self.eps > 0.0 && self.eps <= 1.0) {
            return Err(Error::invalid("epsilon", format!("{}; above 0 and at most 1 can be used", self.eps)));
        }
        if self.directions == 0 {
            return Err(Error::invalid("directions", "0 give no gradient"));
        }
        Ok(())
    }

    fn direction(&self, step: u64, number: u32, out: &mut [f32]) {
        Stream::new(self.seed, &format!("step {step}"), "zeroth").fill_signs(number as u64 * out.len() as u64, out);
    }
}

impl Trainer {
    /// Estimates the gradients of a step into `self.grads`; the loss is the mean over both ends of all directions.
    pub(super) fn estimate(
        &mut self,
        z: Zeroth,
        micro: &[&[Example]],
        totals: &Totals,
        metrics: &mut Metrics,
    ) -> Result<f64> {
        let Some(adapter) = self.trained.adapter() else { unreachable!("checked where the trainer was made") };
        let start = adapter.params().to_vec();
        let (mut direction, mut loss) = (vec![0.0; start.len()], 0.0);
        let before = self.objective.copy();
        for number in 0..z.directions {
            z.direction(self.step, number, &mut direction);
            let ends = [z.eps, -z.eps].map(|eps| {
                self.objective = before.copy();
                self.set_params(|i| start[i] + eps * direction[i])?;
                self.forward(micro, totals)
            });
            self.set_params(|i| start[i])?;
            let [up, down] = ends;
            let ((up, there), (down, here)) = (up?, down?);
            loss += (up.loss + down.loss) / (2.0 * z.directions as f64);
            *metrics = up;
            let along: f64 = there.iter().zip(&here).map(|(a, b)| 0.5 * (a.1 + b.1) as f64 * (a.0 - b.0)).sum();
            let slope = (along / (2.0 * z.eps as f64 * z.directions as f64)) as f32;
            for (g, sign) in self.grads.iter_mut().zip(&direction) {
                *g += slope * sign;
            }
        }
        Ok(loss)
    }

    /// Sets the adapter's parameters.
    fn set_params(&mut self, value: impl Fn(usize) -> f32) -> Result<()> {
        let Some(adapter) = self.trained.adapter_mut() else { unreachable!("an adapter is trained") };
        adapter.params_mut().iter_mut().enumerate().for_each(|(i, p)| *p = value(i));
        adapter.prepare(&self.model.compute, &self.model)
    }

    /// One forward pass over all examples: each sum with the derivative of the loss by it.
    fn forward(&mut self, micro: &[&[Example]], totals: &Totals) -> Result<(Metrics, Vec<(f64, f32)>)> {
        let (mut metrics, mut pairs) = (Metrics::default(), Vec::new());
        if self.contrast.is_some() {
            let (sums, slopes) = self.choose(micro, totals, &mut metrics)?;
            return Ok((metrics, sums.into_iter().zip(slopes).collect()));
        }
        for examples in micro {
            let (sums, slopes) = self.evaluate_batch(examples, totals, &mut metrics)?;
            pairs.extend(sums.into_iter().zip(slopes));
        }
        Ok((metrics, pairs))
    }
}
