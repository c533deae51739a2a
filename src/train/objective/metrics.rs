//! From the log-probabilities of a batch to its loss and its metrics.

use super::{Case, Kind, LossTerm, Objective, Score, Shape, Totals};
use crate::train::Example;
use std::prelude::v1::*;

/// Statistics of the rewards of the examples of a step or an evaluation. A reward should be above its baseline, or below
/// it if the completion was not liked.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rewards {
    /// Examples.
    pub cases: u64,
    /// Mean reward of better or liked completions, 0 if there are none.
    pub good: f64,
    /// Of worse or disliked ones.
    pub bad: f64,
    /// The fraction of examples whose reward is on the right side of its baseline.
    pub accuracy: f64,
    /// The mean distance to the baseline, positive on the right side.
    pub margin: f64,
}

/// Sums of the loss and of the [`Rewards`], example by example, so that the split into micro-batches changes no bit.
#[derive(Clone, Copy, Default)]
pub(in crate::train) struct Metrics {
    pub loss: f64,
    sums: [f64; 2],
    counts: [u64; 2],
    cases: u64,
    right: f64,
    margin: f64,
}

impl Metrics {
    fn add(&mut self, shape: Shape, case: &Case, term: &LossTerm) {
        self.loss += term.loss;
        if case.own {
            return;
        }
        let judged = shape == Shape::Verdict || shape == Shape::Mixed && case.other.is_none();
        let sign = if judged && !case.good { -1.0 } else { 1.0 };
        let margin = sign * (term.reward - term.against);
        self.cases += 1;
        self.margin += margin;
        self.right += if margin > 0.0 {
            1.0
        } else if margin == 0.0 {
            0.5
        } else {
            0.0
        };
        let mut reward = |bad: usize, reward: f64| {
            self.sums[bad] += reward;
            self.counts[bad] += 1;
        };
        reward(usize::from(sign < 0.0), term.reward);
        if matches!(shape, Shape::Pair | Shape::Contrast) || shape == Shape::Mixed && !judged {
            reward(1, term.against);
        }
    }

    pub(in crate::train) fn rewards(&self) -> Rewards {
        let mean = |sum: f64, n: u64| if n == 0 { 0.0 } else { sum / n as f64 };
        Rewards {
            cases: self.cases,
            good: mean(self.sums[0], self.counts[0]),
            bad: mean(self.sums[1], self.counts[1]),
            accuracy: mean(self.right, self.cases),
            margin: mean(self.margin, self.cases),
        }
    }
}

/// From the sums of a batch to the loss so far; `slopes` receives the derivatives by the sums. The batch's sequences are
/// the examples and, of a pair, its other behind it; `others` are the sums of the mismatched completions. Of queries the
/// sums are those of [`super::Choice`].
pub(in crate::train) fn apply(
    objective: &mut dyn Objective,
    kind: &Kind,
    totals: &Totals,
    examples: &[&Example],
    [sums, others]: [&[f64]; 2],
    slopes: &mut [f32],
    metrics: &mut Metrics,
) -> f64 {
    let pairs = kind.shape.pairs();
    // Two sums a sequence.
    let starts: Vec<usize> = examples
        .iter()
        .scan(0, |next, e| {
            let start = *next;
            *next += if pairs && e.other.is_some() { 4 } else { 2 };
            Some(start)
        })
        .collect();
    let score = |e: &Example, logp: f64| Score {
        logp,
        len: e.targets() as f64,
        reference: if kind.reference { e.reference.unwrap_or(0.0) } else { 0.0 },
    };
    let case = |(i, e): (usize, &&Example)| {
        let start = starts[i];
        let wrong = (kind.shape == Shape::Contrast).then(|| score(e, sums[start + 1]));
        let other = e.other.as_deref().filter(|_| pairs || kind.mismatched);
        let other = other.map(|o| score(o, if pairs { sums[start + 2] } else { others[2 * i] }));
        Case {
            weight: e.weight.unwrap_or(1.0) as f64,
            answer: score(e, sums[start]),
            other: other.or(wrong),
            good: e.good.unwrap_or(true),
            own: kind.shape == Shape::Mixed && e.other.is_none() && e.good.is_none(),
            prompt: Score {
                logp: if wrong.is_some() { 0.0 } else { sums[start + 1] },
                len: e.prompt() as f64,
                reference: 0.0,
            },
        }
    };
    let cases: Vec<Case> = examples.iter().enumerate().map(case).collect();
    for (i, (case, term)) in cases.iter().zip(objective.evaluate(totals, &cases)).enumerate() {
        metrics.add(kind.shape, case, &term);
        let slopes = &mut slopes[starts[i]..];
        (slopes[0], slopes[1]) = (term.answer as f32, term.prompt as f32);
        if pairs && case.other.is_some() {
            (slopes[2], slopes[3]) = (term.other as f32, 0.0);
        }
    }
    metrics.loss
}
