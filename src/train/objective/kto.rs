//! KTO: completions with verdicts, against an estimate of the divergence from the reference.

use super::{Case, LossTerm, Objective, Totals, Values, sigmoid};
use std::prelude::v1::*;

/// With `z₀ = max(0, mean h)` of completions of other prompts, over the micro-batch and without a gradient: liked
/// `λ_D·(1 − σ(β·(h − z₀)))`, disliked `λ_U·(1 − σ(β·(z₀ − h)))`.
#[derive(Clone)]
pub(super) struct Kto {
    pub values: Values,
}

impl Objective for Kto {
    fn evaluate(&mut self, totals: &Totals, cases: &[Case]) -> Vec<LossTerm> {
        let others: Vec<f64> = cases.iter().filter_map(|c| c.other).map(|o| o.ratio()).collect();
        let zero = (others.iter().sum::<f64>() / others.len().max(1) as f64).max(0.0);
        let s = &self.values;
        let term = |case: &Case| {
            let (factor, sign) =
                if case.good { (s.real("desirable weight"), 1.0) } else { (s.real("undesirable weight"), -1.0) };
            let z = sign * s.real("beta") * (case.answer.ratio() - zero);
            let slope = -sign * s.real("beta") * factor * sigmoid(z) * sigmoid(-z);
            LossTerm::mean(totals, case, factor * sigmoid(-z), slope, 0.0)
                .rewards(s.real("beta") * case.answer.ratio(), s.real("beta") * zero)
        };
        cases.iter().map(term).collect()
    }

    fn copy(&self) -> Box<dyn Objective> {
        Box::new(self.clone())
    }
}
