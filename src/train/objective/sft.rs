//! Objectives of completions alone.

use super::{Case, LossTerm, Totals, Values, log_sigmoid, sigmoid};

/// `L = −Σ ℓ / Σ |y|`.
pub(super) fn sft(_: &Values, totals: &Totals, case: &Case) -> LossTerm {
    LossTerm::default().likelihood(totals, case, 1.0)
}

/// PoFT: `L = −ln σ(β·(ℓ̄ − ℓ̄_ref) + γ)`, where `ℓ̄_ref` is the mean over aligned models.
pub(super) fn poft(s: &Values, totals: &Totals, case: &Case) -> LossTerm {
    let (mean, reference) = (case.answer.mean(), case.answer.reference / case.answer.len);
    let z = s.real("beta") * (mean - reference) + s.real("gamma");
    let slope = -s.real("beta") * sigmoid(-z) / case.answer.len;
    LossTerm::mean(totals, case, -log_sigmoid(z), slope, 0.0).rewards(s.real("beta") * mean, s.real("beta") * reference)
}
