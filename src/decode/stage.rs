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

/// Keeps the `k` best, best first. Candidates come in the order of ids, and `k` is not 0.
pub fn top_k(candidates: &mut Vec<Candidate>, k: usize) {
    // Twice as many are held, and what is no better than the last of the best so far is passed over: of equals the first
    // counts.
    let room = 2 * k.max(64);
    let (mut held, mut least) = (0, f32::NEG_INFINITY);
    for i in 0..candidates.len() {
        let c = candidates[i];
        if c.logit > least {
            candidates[held] = c;
            held += 1;
            if held == room {
                candidates[..held].select_nth_unstable_by(k - 1, before);
                (held, least) = (k, candidates[k - 1].logit);
            }
        }
    }
    candidates.truncate(held);
    candidates.sort_unstable_by(before);
    candidates.truncate(k);
}

/// Keeps the fewest best candidates whose probabilities together reach `p`, best first.
pub fn top_p(candidates: &mut Vec<Candidate>, p: f32) {
    let best = candidates.iter().map(|c| c.logit).fold(f32::NEG_INFINITY, f32::max);
    let weight = |c: &Candidate| f64::from(math::exp(c.logit - best));
    let enough = if p < 1.0 { f64::from(p) * candidates.iter().map(weight).sum::<f64>() } else { f64::INFINITY };
    let (mut sorted, mut sum) = (0, 0.0);
    while sorted < candidates.len() {
        // Mostly the first piece is enough, so that not all need be in order.
        let rest = &mut candidates[sorted..];
        let piece = if p < 1.0 { (7 * sorted).max(512).min(rest.len()) } else { rest.len() };
        if piece < rest.len() {
            rest.select_nth_unstable_by(piece - 1, before);
        }
        rest[..piece].sort_unstable_by(before);
        for (i, c) in rest[..piece].iter().enumerate() {
            sum += weight(c);
            if sum >= enough {
                return candidates.truncate(sorted + i + 1);
            }
        }
        sorted += piece;
    }
}

/// Keeps candidates at least `p` times as likely as the best, in whatever order they are.
pub fn likely(candidates: &mut Vec<Candidate>, p: f32) {
    let best = candidates.iter().map(|c| c.logit).fold(f32::NEG_INFINITY, f32::max);
    candidates.retain(|c| c.logit == best || f64::from(math::exp(c.logit - best)) >= f64::from(p));
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
