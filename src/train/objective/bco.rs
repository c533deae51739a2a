//! BCO: completions with verdicts, against a shift that follows the rewards.

use super::{Case, LossTerm, Objective, State, StateMut, Totals, log_sigmoid, sigmoid};
use std::prelude::v1::*;

/// Decay of the means from one batch to the next.
const KEEP: f64 = 0.9;

/// With `ρ = βh` and the shift `δ`, without a gradient: liked `−ln σ(ρ − δ)`, disliked `−ln σ(δ − ρ)`; of a pair both.
///
/// `δ` is the mean over all batches so far, with equal weights, of their mean rewards, including this batch, as in TRL.
/// Balanced, it is halfway between decaying means of liked and of disliked completions, as in the paper, so that
/// feedback of mostly one kind does not dominate it.
#[derive(Clone, Copy)]
pub(super) struct Bco {
    beta: f64,
    balanced: bool,
    /// Mean reward of all, or of liked completions.
    mean: f64,
    /// Number of batches in it.
    count: u64,
    /// Mean reward of disliked completions, if balanced.
    bad: f64,
    bad_count: u64,
}

impl Bco {
    pub(super) fn new(beta: f64, balanced: bool) -> Bco {
        Bco { beta, balanced, mean: 0.0, count: 0, bad: 0.0, bad_count: 0 }
    }

    fn shift(&self) -> f64 {
        match (self.count, self.bad_count) {
            (_, 0) => self.mean,
            (0, _) => self.bad,
            _ => (self.mean + self.bad) / 2.0,
        }
    }

    fn update(&mut self, cases: &[Case]) {
        let mean = |of: &dyn Fn(&Case) -> bool| {
            let scores = cases.iter().filter(|c| of(c)).flat_map(|c| [Some(c.answer), c.other]).flatten();
            let (sum, n) = scores.fold((0.0, 0u32), |(sum, n), s| (sum + self.beta * s.ratio(), n + 1));
            (n > 0).then(|| sum / n as f64)
        };
        if !self.balanced {
            if let Some(now) = mean(&|_| true) {
                self.count += 1;
                self.mean += (now - self.mean) / self.count as f64;
            }
            return;
        }
        let (good, bad) = (mean(&|c| c.good), mean(&|c| !c.good));
        let follow = |mean: &mut f64, count: &mut u64, now: Option<f64>| {
            if let Some(now) = now {
                *mean = if *count == 0 { now } else { KEEP * *mean + (1.0 - KEEP) * now };
                *count += 1;
            }
        };
        follow(&mut self.mean, &mut self.count, good);
        follow(&mut self.bad, &mut self.bad_count, bad);
    }
}

impl Objective for Bco {
    fn evaluate(&mut self, totals: &Totals, cases: &[Case]) -> Vec<LossTerm> {
        self.update(cases);
        let shift = self.shift();
        // Above the shift or below: loss, derivative by ℓ.
        let side = |reward: f64, good: bool| {
            let sign = if good { 1.0 } else { -1.0 };
            let z = sign * (reward - shift);
            (-log_sigmoid(z), -sign * self.beta * sigmoid(-z))
        };
        let term = |case: &Case| {
            let reward = self.beta * case.answer.ratio();
            let (loss, slope) = side(reward, case.good);
            match case.other {
                Some(other) => {
                    let worse = self.beta * other.ratio();
                    let (more, other) = side(worse, false);
                    LossTerm::mean(totals, case, loss + more, slope, other).rewards(reward, worse)
                }
                None => LossTerm::mean(totals, case, loss, slope, 0.0).rewards(reward, shift),
            }
        };
        cases.iter().map(term).collect()
    }

    fn copy(&self) -> Box<dyn Objective> {
        Box::new(*self)
    }

    fn state(&self) -> Vec<(&'static str, State<'_>)> {
        vec![
            ("mean", State::F64(self.mean)),
            ("count", State::U64(self.count)),
            ("bad", State::F64(self.bad)),
            ("bad_count", State::U64(self.bad_count)),
        ]
    }

    fn state_mut(&mut self) -> Vec<(&'static str, StateMut<'_>)> {
        vec![
            ("mean", StateMut::F64(&mut self.mean)),
            ("count", StateMut::U64(&mut self.count)),
            ("bad", StateMut::F64(&mut self.bad)),
            ("bad_count", StateMut::U64(&mut self.bad_count)),
        ]
    }
}
