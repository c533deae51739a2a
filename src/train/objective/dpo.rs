//! Objectives of pairs against a reference. `x = h_w − h_l` unless stated otherwise.

use super::{Case, LossTerm, Objective, Score, Totals, Values, log_sigmoid, sigmoid};
use std::prelude::v1::*;

fn scores(case: &Case) -> [Score; 2] {
    [case.answer, case.other.unwrap_or_default()]
}

/// A loss of `x`: its value, its derivative by `x`, and the weight of each completion in `x`.
fn term(s: &Values, totals: &Totals, case: &Case, (loss, slope): (f64, f64), by: [f64; 2]) -> LossTerm {
    let [w, l] = scores(case);
    LossTerm::mean(totals, case, loss, slope * by[0], -slope * by[1])
        .likelihood(totals, case, s.real("nll"))
        .rewards(s.real("beta") * w.ratio() * by[0], s.real("beta") * l.ratio() * by[1])
}

fn summed(s: &Values, totals: &Totals, case: &Case, loss: impl Fn(f64) -> (f64, f64)) -> LossTerm {
    let [w, l] = scores(case);
    term(s, totals, case, loss(w.ratio() - l.ratio()), [1.0, 1.0])
}

fn averaged(s: &Values, totals: &Totals, case: &Case, loss: impl Fn(f64) -> (f64, f64)) -> LossTerm {
    let [w, l] = scores(case);
    term(s, totals, case, loss(w.mean_ratio() - l.mean_ratio()), [1.0 / w.len, 1.0 / l.len])
}

/// `−ln σ(βx)`.
fn logistic(s: &Values, x: f64) -> (f64, f64) {
    let z = s.real("beta") * x;
    (-log_sigmoid(z), -s.real("beta") * sigmoid(-z))
}

/// `(x − 1/2β)²`.
fn square(s: &Values, x: f64) -> (f64, f64) {
    let d = x - 0.5 / s.real("beta");
    (d * d, 2.0 * d)
}

/// `L = −ln σ(βx)`.
pub(super) fn dpo(s: &Values, totals: &Totals, case: &Case) -> LossTerm {
    summed(s, totals, case, |x| logistic(s, x))
}

/// `x = h_w/|y_w| − h_l/|y_l|`.
pub(super) fn ln_dpo(s: &Values, totals: &Totals, case: &Case) -> LossTerm {
    averaged(s, totals, case, |x| logistic(s, x))
}

/// `L = −(1 − ε)·ln σ(βx) − ε·ln σ(−βx)`.
pub(super) fn cdpo(s: &Values, totals: &Totals, case: &Case) -> LossTerm {
    let e = s.real("label smoothing");
    summed(s, totals, case, |x| {
        let z = s.real("beta") * x;
        let loss = -(1.0 - e) * log_sigmoid(z) - e * log_sigmoid(-z);
        (loss, -s.real("beta") * ((1.0 - e) * sigmoid(-z) - e * sigmoid(z)))
    })
}

/// `L = (−(1 − ε)·ln σ(βx) + ε·ln σ(−βx)) / (1 − 2ε)`.
pub(super) fn robust(s: &Values, totals: &Totals, case: &Case) -> LossTerm {
    let e = s.real("label smoothing");
    summed(s, totals, case, |x| {
        let z = s.real("beta") * x;
        let loss = -(1.0 - e) * log_sigmoid(z) + e * log_sigmoid(-z);
        (loss / (1.0 - 2.0 * e), -s.real("beta") * ((1.0 - e) * sigmoid(-z) + e * sigmoid(z)) / (1.0 - 2.0 * e))
    })
}

/// `L = max(0, 1 − βx)`.
pub(super) fn hinge(s: &Values, totals: &Totals, case: &Case) -> LossTerm {
    summed(s, totals, case, |x| {
        let room = 1.0 - s.real("beta") * x;
        if room > 0.0 { (room, -s.real("beta")) } else { (0.0, 0.0) }
    })
}

/// `L = (x − 1/2β)²` with `x = h_w/|y_w| − h_l/|y_l|`.
pub(super) fn ipo(s: &Values, totals: &Totals, case: &Case) -> LossTerm {
    averaged(s, totals, case, |x| square(s, x))
}

/// `L = (x − 1/2β)²`.
pub(super) fn ipo_sum(s: &Values, totals: &Totals, case: &Case) -> LossTerm {
    summed(s, totals, case, |x| square(s, x))
}

/// A loss of the two rewards `ρ = βh`: its value, and its derivatives by them.
fn of_rewards(s: &Values, totals: &Totals, case: &Case, loss: fn(f64, f64) -> (f64, f64, f64)) -> LossTerm {
    let [w, l] = scores(case).map(|score| s.real("beta") * score.ratio());
    let (loss, by_w, by_l) = loss(w, l);
    LossTerm::mean(totals, case, loss, s.real("beta") * by_w, s.real("beta") * by_l)
        .likelihood(totals, case, s.real("nll"))
        .rewards(w, l)
}

/// `L = −ln σ(ρ_w) − ½·ln σ(−ρ_w) − ½·ln σ(−ρ_l)`.
pub(super) fn nca_pair(s: &Values, totals: &Totals, case: &Case) -> LossTerm {
    of_rewards(s, totals, case, |w, l| {
        let loss = -log_sigmoid(w) - 0.5 * log_sigmoid(-w) - 0.5 * log_sigmoid(-l);
        (loss, -sigmoid(-w) + 0.5 * sigmoid(w), 0.5 * sigmoid(l))
    })
}

/// `σ′`.
fn bump(z: f64) -> f64 {
    sigmoid(z) * sigmoid(-z)
}

/// `L = 1 − σ(ρ_w) + σ(ρ_l)`.
pub(super) fn apo_zero(s: &Values, totals: &Totals, case: &Case) -> LossTerm {
    of_rewards(s, totals, case, |w, l| (sigmoid(-w) + sigmoid(l), -bump(w), bump(l)))
}

/// `L = σ(ρ_w) + 1 − σ(ρ_w − ρ_l)`.
pub(super) fn apo_down(s: &Values, totals: &Totals, case: &Case) -> LossTerm {
    of_rewards(s, totals, case, |w, l| (sigmoid(w) + sigmoid(l - w), bump(w) - bump(w - l), bump(w - l)))
}

/// `L = (h_w − 1/2β)² + (h_l + 1/2β)²`.
pub(super) fn sppo_hard(s: &Values, totals: &Totals, case: &Case) -> LossTerm {
    let [w, l] = scores(case).map(|score| score.ratio());
    let (a, b) = (w - 0.5 / s.real("beta"), l + 0.5 / s.real("beta"));
    LossTerm::mean(totals, case, a * a + b * b, 2.0 * a, 2.0 * b)
        .likelihood(totals, case, s.real("nll"))
        .rewards(s.real("beta") * w, s.real("beta") * l)
}

/// With `p = σ(βx)` the divergence of `(p, 1 − p)` from `(1 − ε, ε)`.
pub(super) fn exo_pair(s: &Values, totals: &Totals, case: &Case) -> LossTerm {
    // ε must not be 0; TRL replaces 0 by this value.
    let e = s.real("label smoothing").max(1e-3);
    summed(s, totals, case, |x| {
        let z = s.real("beta") * x;
        let (up, down) = (log_sigmoid(z) - libm::log(1.0 - e), log_sigmoid(-z) - libm::log(e));
        (sigmoid(z) * up + sigmoid(-z) * down, s.real("beta") * bump(z) * (up - down))
    })
}

/// With `z = βx` and `m = σ(z/γ)`: `L = −(1 − m)·ln σ(z) + m·e⁻ᶻ`.
pub(super) fn discopop(s: &Values, totals: &Totals, case: &Case) -> LossTerm {
    summed(s, totals, case, |x| {
        let z = s.real("beta") * x;
        let (m, by) = (sigmoid(z / s.real("gamma")), bump(z / s.real("gamma")) / s.real("gamma"));
        // m·e⁻ᶻ as one power: for z far below 0 the second factor alone overflows.
        let tail = libm::exp(log_sigmoid(z / s.real("gamma")) - z);
        let loss = -(1.0 - m) * log_sigmoid(z) + tail;
        let steep = tail * (sigmoid(-z / s.real("gamma")) / s.real("gamma") - 1.0);
        (loss, s.real("beta") * (by * log_sigmoid(z) - (1.0 - m) * sigmoid(-z) + steep))
    })
}

/// AOT (arXiv:2406.05882): `L = −ln σ(β·d)` where `d` is a difference of values that are sorted over the pairs of a
/// micro-batch. `paired`: sorted `h_w` less sorted `h_l`; else sorted `ℓ_w − ℓ_l` less sorted `ℓ_ref,w − ℓ_ref,l`.
#[derive(Clone)]
pub(super) struct Aot {
    pub values: Values,
    pub paired: bool,
}

impl Objective for Aot {
    fn evaluate(&mut self, totals: &Totals, cases: &[Case]) -> Vec<LossTerm> {
        let order = |value: &dyn Fn(&Case) -> f64| -> Vec<(usize, f64)> {
            let mut values: Vec<(usize, f64)> = cases.iter().map(value).enumerate().collect();
            values.sort_by(|a, b| a.1.total_cmp(&b.1));
            values
        };
        let worse = |c: &Case| c.other.unwrap_or_default();
        let [upper, lower] = match self.paired {
            true => [order(&|c| c.answer.ratio()), order(&|c| worse(c).ratio())],
            false => [order(&|c| c.answer.logp - worse(c).logp), order(&|c| c.answer.reference - worse(c).reference)],
        };
        let mut terms = vec![LossTerm::default(); cases.len()];
        for ((u, high), (l, low)) in upper.into_iter().zip(lower) {
            let (loss, slope) = logistic(&self.values, high - low);
            let (more, last) = (if self.paired { 0.0 } else { -slope }, if self.paired { -slope } else { 0.0 });
            let term = LossTerm::mean(totals, &cases[u], loss, slope, more);
            terms[u].loss += term.loss;
            terms[u].answer += term.answer;
            terms[u].other += term.other;
            terms[l].other += LossTerm::mean(totals, &cases[u], 0.0, 0.0, last).other;
        }
        let beta = self.values.real("beta");
        let terms = terms.into_iter().zip(cases);
        terms.map(|(g, c)| g.rewards(beta * c.answer.ratio(), beta * worse(c).ratio())).collect()
    }

    fn copy(&self) -> Box<dyn Objective> {
        Box::new(self.clone())
    }
}
