//! What happens to logits before one token is drawn: each stage is a function over candidates.

use crate::math;
use std::prelude::v1::*;

/// A token that may come next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The token.
    pub id: u32,
    /// How much the model wants it.
    pub logit: f32,
}

/// Higher logits first, lower ids first among equals. Logits are finite, so the order is total.
fn before(a: &Candidate, b: &Candidate) -> core::cmp::Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

/// Divides the positive logits of `recent` tokens by `penalty` and multiplies the others with it: once a token, however
/// often it came. Candidates are in the order of ids, all of them.
pub fn repetition(candidates: &mut [Candidate], recent: &[u32], penalty: f32) {
    for (i, &id) in recent.iter().enumerate() {
        let Some(c) = candidates.get_mut(id as usize).filter(|_| !recent[..i].contains(&id)) else { continue };
        c.logit = if c.logit <= 0.0 { c.logit * penalty } else { c.logit / penalty };
    }
}

/// Keeps the `k` best, best first; all of them if `k` is 0.
pub fn top_k(candidates: &mut Vec<Candidate>, k: usize) {
    if k > 0 && k < candidates.len() {
        candidates.select_nth_unstable_by(k - 1, before);
        candidates.truncate(k);
    }
    candidates.sort_unstable_by(before);
}

/// Keeps the fewest best candidates whose probabilities together reach `p`. Candidates come best first.
pub fn top_p(candidates: &mut Vec<Candidate>, p: f32) {
    if p >= 1.0 {
        return;
    }
    let total: f64 = weights(candidates).sum();
    let mut sum = 0.0;
    let keep = weights(candidates).position(|w| {
        sum += w;
        sum >= f64::from(p) * total
    });
    candidates.truncate(keep.map_or(candidates.len(), |last| last + 1));
}

/// Keeps candidates at least `p` times as likely as the best. Candidates come best first.
pub fn min_p(candidates: &mut Vec<Candidate>, p: f32) {
    let keep = weights(candidates).take_while(|w| *w >= f64::from(p)).count();
    candidates.truncate(keep.max(1));
}

/// Divides logits by the temperature.
pub fn temperature(candidates: &mut [Candidate], t: f32) {
    for c in candidates {
        c.logit /= t;
    }
}

/// Probabilities relative to the best candidate, which comes first.
pub fn weights(candidates: &[Candidate]) -> impl Iterator<Item = f64> + '_ {
    let best = candidates.first().map_or(0.0, |c| c.logit);
    candidates.iter().map(move |c| f64::from(math::exp(c.logit - best)))
}
