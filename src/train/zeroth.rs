//! Gradients without a way back: two passes forward with the adapter moved a little along a random direction and against
//! it (SPSA, Spall 1992; for language models MeZO, arXiv:2305.17333). Memory is that of running the model.
//!
//! A direction is a sign for every parameter, drawn from the seed and the number of the step, so nothing of it is kept
//! and an interrupted run goes on with the same bits. With `ℓ⁺`, `ℓ⁻` the completions' log-probabilities at either end
//! and `c⁺`, `c⁻` the objective's derivatives by them, the slope along the direction is `Σ ½(c⁺ + c⁻)·(ℓ⁺ − ℓ⁻) / 2ε`:
//! what an objective holds fixed stays fixed, and for a likelihood it is `(L⁺ − L⁻) / 2ε`.

use super::objective::{Tally, Totals};
use super::{Example, Trainer};
use crate::error::{Error, Result};
use crate::rng::Stream;
use std::prelude::v1::*;

/// How gradients are estimated without a way back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Zeroth {
    /// How far parameters are moved, ε.
    pub eps: f32,
    /// Directions of a step, whose estimates are averaged; two passes forward each.
    pub directions: u32,
    /// What directions are drawn from.
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
        tally: &mut Tally,
    ) -> Result<f64> {
        let Some(adapter) = self.trained.adapter() else { unreachable!("checked where the trainer was made") };
        let start = adapter.params().to_vec();
        let (mut direction, mut loss) = (vec![0.0; start.len()], 0.0);
        let before = self.objective.copy();
        for number in 0..z.directions {
            z.direction(self.step, number, &mut direction);
            let ends = [z.eps, -z.eps].map(|eps| {
                self.objective = before.copy();
                self.place(|i| start[i] + eps * direction[i])?;
                self.look(micro, totals)
            });
            self.place(|i| start[i])?;
            let [up, down] = ends;
            let ((up, there), (down, here)) = (up?, down?);
            loss += (up.loss + down.loss) / (2.0 * z.directions as f64);
            *tally = up;
            let along: f64 = there.iter().zip(&here).map(|(a, b)| 0.5 * (a.1 + b.1) as f64 * (a.0 - b.0)).sum();
            let slope = (along / (2.0 * z.eps as f64 * z.directions as f64)) as f32;
            for (g, sign) in self.grads.iter_mut().zip(&direction) {
                *g += slope * sign;
            }
        }
        Ok(loss)
    }

    /// Sets the adapter's parameters.
    fn place(&mut self, value: impl Fn(usize) -> f32) -> Result<()> {
        let Some(adapter) = self.trained.adapter_mut() else { unreachable!("an adapter is trained") };
        adapter.params_mut().iter_mut().enumerate().for_each(|(i, p)| *p = value(i));
        adapter.prepare(&self.model.compute, &self.model)
    }

    /// One pass forward over all examples: each sum with the derivative by it.
    fn look(&mut self, micro: &[&[Example]], totals: &Totals) -> Result<(Tally, Vec<(f64, f32)>)> {
        let (mut tally, mut pairs) = (Tally::default(), Vec::new());
        for examples in micro {
            let (sums, slopes) = self.graded(examples, totals, &mut tally)?;
            pairs.extend(sums.into_iter().zip(slopes));
        }
        Ok((tally, pairs))
    }
}
