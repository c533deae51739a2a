//! From the sums of a batch to its loss, and how rewards stand.

use super::{Case, Grade, Kind, Objective, Score, Shape, Totals};
use crate::train::Example;
use std::prelude::v1::*;

/// How rewards stand to what they should be above or below, over the examples of a step or of a test.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rewards {
    /// Examples.
    pub cases: u64,
    /// Mean reward of better or liked completions, 0 if there are none.
    pub good: f64,
    /// Of worse or disliked ones.
    pub bad: f64,
    /// The part of the examples whose reward is on the right side.
    pub accuracy: f64,
    /// By how much it is, on average.
    pub margin: f64,
}

/// Collects the loss and [`Rewards`], example by example, so that how they were split changes no bit.
#[derive(Clone, Copy, Default)]
pub(in crate::train) struct Tally {
    pub loss: f64,
    sums: [f64; 2],
    counts: [u64; 2],
    cases: u64,
    right: f64,
    margin: f64,
}

impl Tally {
    fn add(&mut self, shape: Shape, case: &Case, grade: &Grade) {
        let sign = if shape == Shape::Verdict && !case.good { -1.0 } else { 1.0 };
        let margin = sign * (grade.reward - grade.against);
        self.loss += grade.loss;
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
        reward(usize::from(sign < 0.0), grade.reward);
        if shape == Shape::Pair {
            reward(1, grade.against);
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

/// From the sums of a batch to the loss so far; `slopes` are the derivatives by the sums. The batch's sequences are
/// the examples and, of pairs, each one's other behind it; `others` are the sums of mismatched ones.
pub(in crate::train) fn apply(
    objective: &mut dyn Objective,
    kind: &Kind,
    totals: &Totals,
    examples: &[Example],
    [sums, others]: [&[f64]; 2],
    slopes: &mut [f32],
    tally: &mut Tally,
) -> f64 {
    let width = if kind.shape == Shape::Pair { 4 } else { 2 };
    let score = |e: &Example, logp: f64| Score {
        logp,
        len: e.counted() as f64,
        reference: if kind.reference { e.reference.unwrap_or(0.0) } else { 0.0 },
    };
    let case = |(i, e): (usize, &Example)| {
        let other = e.other.as_deref().map(|o| score(o, if width == 4 { sums[4 * i + 2] } else { others[2 * i] }));
        Case {
            weight: e.weight.unwrap_or(1.0) as f64,
            answer: score(e, sums[width * i]),
            other: other.filter(|_| width == 4 || kind.mismatched),
            good: e.good.unwrap_or(true),
            prompt: Score { logp: sums[width * i + 1], len: e.prompt() as f64, reference: 0.0 },
        }
    };
    let cases: Vec<Case> = examples.iter().enumerate().map(case).collect();
    for (i, (case, grade)) in cases.iter().zip(objective.grade(totals, &cases)).enumerate() {
        tally.add(kind.shape, case, &grade);
        let slopes = &mut slopes[width * i..][..width];
        (slopes[0], slopes[1]) = (grade.answer as f32, grade.prompt as f32);
        if width == 4 {
            (slopes[2], slopes[3]) = (grade.other as f32, 0.0);
        }
    }
    tally.loss
}
