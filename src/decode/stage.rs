//! What happens to logits before one token is drawn: each stage is a function over candidates.

use crate::kernel::Kernels;
use std::prelude::v1::*;

/// A token that may come next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The token.
    pub id: u32,
    /// How much the model wants it.
    pub logit: f32,
    /// Its probability relative to the best, once [`weigh`] has been there.
    pub weight: f32,
}

/// Gives each its weight. `room` is for the work.
pub fn weigh(k: &Kernels, candidates: &mut [Candidate], room: &mut Vec<f32>) {
    let best = candidates.iter().map(|c| c.logit).fold(f32::NEG_INFINITY, f32::max);
    room.clear();
    room.extend(candidates.iter().map(|c| c.logit - best));
    (k.exp)(room);
    for (c, weight) in candidates.iter_mut().zip(room) {
        c.weight = *weight;
    }
}

/// The sum of the weights.
pub fn total(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|c| f64::from(c.weight)).sum()
}

/// Higher logits first, lower ids first among equals. Logits are finite, so the order is total.
fn before(a: &Candidate, b: &Candidate) -> core::cmp::Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

/// Divides the positive logits of `recent` tokens by `penalty` and multiplies the others with it: once a token, however
/// often it came.
pub fn repetition(logits: &mut [f32], recent: &[u32], penalty: f32) {
    for (i, &id) in recent.iter().enumerate() {
        let Some(x) = logits.get_mut(id as usize).filter(|_| !recent[..i].contains(&id)) else { continue };
        *x = if *x <= 0.0 { *x * penalty } else { *x / penalty };
    }
}

/// Makes the `k` best tokens the candidates, best first, or all in the order of ids if there are no more. `k` is not 0.
pub fn top_k(logits: &[f32], k: usize, candidates: &mut Vec<Candidate>) {
    candidates.clear();
    let new = |id: usize| Candidate { id: id as u32, logit: logits[id], weight: 0.0 };
    if k >= logits.len() {
        return candidates.extend((0..logits.len()).map(new));
    }
    // Twice as many are held, and what is no better than the last of the best so far is passed over: of equals the first
    // counts.
    let room = 2 * k.max(64);
    let mut least = f32::NEG_INFINITY;
    for (i, part) in logits.chunks(64).enumerate() {
        // Whole parts are looked at together, which goes in vectors.
        if !part.iter().fold(false, |any, x| any | (*x > least)) {
            continue;
        }
        for id in 64 * i..64 * i + part.len() {
            if logits[id] > least {
                candidates.push(new(id));
            }
            if candidates.len() == room {
                candidates.select_nth_unstable_by(k - 1, before);
                candidates.truncate(k);
                least = candidates[k - 1].logit;
            }
        }
    }
    candidates.sort_unstable_by(before);
    candidates.truncate(k);
}

/// Puts the best candidates first, as many as it takes until the sum of their weights is `enough`, and returns how many they
/// are: all, if it never is. Not all need be in order for that: the best quarter is put apart, and it or the rest looked at.
pub fn reach(candidates: &mut [Candidate], enough: impl Fn(f64) -> bool) -> usize {
    let (mut low, mut high, mut sum) = (0, candidates.len(), 0.0);
    while high - low > 64 {
        let quarter = (high - low) / 4;
        candidates[low..high].select_nth_unstable_by(quarter, before);
        let with = sum + total(&candidates[low..low + quarter]);
        if enough(with) {
            high = low + quarter;
        } else {
            (low, sum) = (low + quarter, with);
        }
    }
    candidates[low..high].sort_unstable_by(before);
    for (i, c) in candidates[..high].iter().enumerate().skip(low) {
        sum += f64::from(c.weight);
        if enough(sum) {
            return i + 1;
        }
    }
    high
}

/// Keeps the fewest best candidates whose probabilities together reach `p`, in whatever order. They have their weights.
pub fn top_p(candidates: &mut Vec<Candidate>, p: f32) {
    let goal = f64::from(p) * total(candidates);
    let count = reach(candidates, |sum| sum >= goal);
    candidates.truncate(count);
}

/// Keeps candidates at least `p` times as likely as the best, in whatever order they are. They have their weights.
pub fn min_p(candidates: &mut Vec<Candidate>, p: f32) {
    candidates.retain(|c| c.weight >= p);
}

/// Divides logits by the temperature.
pub fn temperature(candidates: &mut [Candidate], t: f32) {
    for c in candidates {
        c.logit /= t;
    }
}
