//! What people think of answers, beside own answers that should stay: pairs, verdicts and completions in one step.

use super::{Case, LossTerm, Objective, State, StateMut, Totals, Values, bco::Bco, dpo};
use std::prelude::v1::*;

/// Of pairs [`dpo`], of verdicts balanced [`Bco`]. To both comes `nll` times the negative log-likelihood of what should be
/// said, a mean over the tokens of the step: of better and of liked completions, and of own answers, of which nothing else
/// is wanted.
#[derive(Clone)]
pub(super) struct Marks {
    values: Values,
    verdicts: Bco,
}

impl Marks {
    pub(super) fn new(values: &Values) -> Marks {
        Marks { values: values.clone(), verdicts: Bco::new(values.real("beta"), true) }
    }
}

impl Objective for Marks {
    fn evaluate(&mut self, totals: &Totals, cases: &[Case]) -> Vec<LossTerm> {
        let judged: Vec<Case> = cases.iter().filter(|c| !c.own && c.other.is_none()).copied().collect();
        let mut judged = self.verdicts.evaluate(totals, &judged).into_iter();
        let nll = self.values.real("nll");
        let term = |case: &Case| match (case.own, case.other) {
            (true, _) => LossTerm::default().likelihood(totals, case, nll),
            (_, Some(_)) => dpo::dpo(&self.values, totals, case),
            (_, None) => {
                let term = judged.next().unwrap_or_default();
                if case.good { term.likelihood(totals, case, nll) } else { term }
            }
        };
        cases.iter().map(term).collect()
    }

    fn copy(&self) -> Box<dyn Objective> {
        Box::new(self.clone())
    }

    fn state(&self) -> Vec<(&'static str, State<'_>)> {
        self.verdicts.state()
    }

    fn state_mut(&mut self) -> Vec<(&'static str, StateMut<'_>)> {
        self.verdicts.state_mut()
    }
}
