//! Objectives of pairs without a reference.

use super::{Case, LossTerm, Totals, Values, log_sigmoid, sigmoid};

/// Highest mean log-probability whose odds are computed: above, `1 − eˡ` has no significant digits.
const HIGHEST: f64 = -1e-7;

/// Both `ℓ̄` and lengths.
fn means(case: &Case) -> ([f64; 2], [f64; 2]) {
    let other = case.other.unwrap_or_default();
    ([case.answer.mean(), other.mean()], [case.answer.len, other.len])
}

/// `ln(p/(1 − p))` of `p = eˡ`, and its derivative by `l`, `1/(1 − p)`.
fn log_odds(l: f64) -> (f64, f64) {
    let l = l.min(HIGHEST);
    let rest = -libm::expm1(l);
    (l - libm::log(rest), 1.0 / rest)
}

/// SimPO: `L = −ln σ(β·(ℓ̄_w − ℓ̄_l) − γ)`.
pub(super) fn simpo(s: &Values, totals: &Totals, case: &Case) -> LossTerm {
    let ([w, l], [nw, nl]) = means(case);
    let z = s.real("beta") * (w - l) - s.real("gamma");
    let slope = -s.real("beta") * sigmoid(-z);
    LossTerm::mean(totals, case, -log_sigmoid(z), slope / nw, -slope / nl)
        .likelihood(totals, case, s.real("nll"))
        .rewards(s.real("beta") * w, s.real("beta") * l)
}

/// CPO: `L = −ln σ(β·(ℓ_w − ℓ_l))`, and likelihood.
pub(super) fn cpo(s: &Values, totals: &Totals, case: &Case) -> LossTerm {
    let (w, l) = (case.answer.logp, case.other.unwrap_or_default().logp);
    let z = s.real("beta") * (w - l);
    let slope = -s.real("beta") * sigmoid(-z);
    LossTerm::mean(totals, case, -log_sigmoid(z), slope, -slope)
        .likelihood(totals, case, s.real("nll"))
        .rewards(s.real("beta") * w, s.real("beta") * l)
}

/// ORPO: `L = −β·ln σ(log-odds of ℓ̄_w − log-odds of ℓ̄_l)`, and the likelihood of prompt and completion, a mean over all
/// of both.
pub(super) fn orpo(s: &Values, totals: &Totals, case: &Case) -> LossTerm {
    let ([w, l], [nw, nl]) = means(case);
    let ((ow, dw), (ol, dl)) = (log_odds(w), log_odds(l));
    let slope = -s.real("beta") * sigmoid(ol - ow);
    let mut term =
        LossTerm::mean(totals, case, -s.real("beta") * log_sigmoid(ow - ol), slope * dw / nw, -slope * dl / nl);
    let share = s.real("nll") * case.weight / (totals.tokens + totals.prompt_tokens);
    term.loss -= share * (case.answer.logp + case.prompt.logp);
    term.answer -= share;
    term.prompt -= share;
    term.rewards(s.real("beta") * w, s.real("beta") * l)
}

/// ASFT: `L = −κ·ℓ̄_w − λ·ln σ(β·log-odds of ℓ̄_w) − λ·ln σ(−β·log-odds of ℓ̄_l)`, κ being `nll`.
pub(super) fn asft(s: &Values, totals: &Totals, case: &Case) -> LossTerm {
    let ([w, l], [nw, nl]) = means(case);
    let ((ow, dw), (ol, dl)) = (log_odds(w), log_odds(l));
    let loss =
        -s.real("nll") * w - s.real("lambda") * (log_sigmoid(s.real("beta") * ow) + log_sigmoid(-s.real("beta") * ol));
    let by_w = -s.real("nll") - s.real("lambda") * s.real("beta") * sigmoid(-s.real("beta") * ow) * dw;
    let by_l = s.real("lambda") * s.real("beta") * sigmoid(s.real("beta") * ol) * dl;
    LossTerm::mean(totals, case, loss, by_w / nw, by_l / nl).rewards(s.real("beta") * w, s.real("beta") * l)
}
