//! Objectives of completions alone.

use super::{Case, Grade, Settings, Totals, log_sigmoid, sigmoid};

/// `L = −Σ ℓ / Σ |y|`.
pub(super) fn sft(_: &Settings, totals: &Totals, case: &Case) -> Grade {
    Grade::default().likelihood(totals, case, 1.0)
}

/// PoFT: `L = −ln σ(β·(ℓ̄ − ℓ̄_ref) + γ)`, where `ℓ̄_ref` is the mean of what aligned models say.
pub(super) fn poft(s: &Settings, totals: &Totals, case: &Case) -> Grade {
    let (mean, reference) = (case.answer.mean(), case.answer.reference / case.answer.len);
    let z = s.beta * (mean - reference) + s.gamma;
    let slope = -s.beta * sigmoid(-z) / case.answer.len;
    Grade::mean(totals, case, -log_sigmoid(z), slope, 0.0).rewards(s.beta * mean, s.beta * reference)
}
