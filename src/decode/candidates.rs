//! The tokens that may come next, while stages change them.

use crate::kernel::Kernels;
use std::prelude::v1::*;

/// A token that may come next: an entry of [`Candidates::list`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The token.
    pub id: u32,
    /// Its logit.
    pub logit: f32,
    /// Its probability divided by that of the likeliest; see [`Candidates::weighted`].
    pub weight: f32,
}

/// Higher logits first, lower ids first among equals. Logits are finite, so the order is total.
fn order(a: &Candidate, b: &Candidate) -> core::cmp::Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

/// The memory of [`Candidates`], used again for every token.
#[derive(Clone, Debug, Default)]
pub(super) struct Room {
    logits: Vec<f32>,
    list: Vec<Candidate>,
    exps: Vec<f32>,
}

/// The logits of all tokens, until a stage makes a list of fewer. They are copied only if a stage writes.
///
/// ```
/// # fn main() -> mynah::Result<()> {
/// use mynah::decode::{Candidates, Sampler, Stage};
///
/// /// Never says the same token twice, and draws from the three likeliest others.
/// #[derive(Clone)]
/// struct Fresh;
///
/// impl Stage for Fresh {
///     fn apply(&mut self, candidates: &mut Candidates, seen: &[u32]) {
///         seen.iter().for_each(|&id| candidates.change(id, |_| -1e9));
///         candidates.keep_best(3);
///         assert_eq!(candidates.weighted()[0].weight, 1.0); // that of the likeliest
///     }
/// }
///
/// let kernels = mynah::Compute::best(1).kernels;
/// let mut sampler = Sampler::chain(vec![Box::new(Fresh)], 1);
/// sampler.accept(2);
/// let id = sampler.pick(kernels, &[0.5, 0.7, 9.0, 0.6, -30.0])?;
/// assert!([0, 1, 3].contains(&id));
/// # Ok(()) }
/// ```
pub struct Candidates<'a> {
    kernels: &'static Kernels,
    given: &'a [f32],
    room: &'a mut Room,
    /// Whether `room.logits` stands for `given`.
    copied: bool,
    /// Whether `room.list` stands for both.
    listed: bool,
    /// Whether the weights of the list are those of its logits.
    weighted: bool,
}

impl<'a> Candidates<'a> {
    /// All tokens. Their logits are finite.
    pub(super) fn new(kernels: &'static Kernels, logits: &'a [f32], room: &'a mut Room) -> Candidates<'a> {
        Candidates { kernels, given: logits, room, copied: false, listed: false, weighted: false }
    }

    fn dense(&self) -> &[f32] {
        if self.copied { &self.room.logits } else { self.given }
    }

    /// Changes the logit of one token, if it is still a candidate.
    pub fn change(&mut self, id: u32, f: impl FnOnce(f32) -> f32) {
        self.weighted = false;
        if self.listed {
            if let Some(c) = self.room.list.iter_mut().find(|c| c.id == id) {
                c.logit = f(c.logit);
            }
            return;
        }
        if !self.copied {
            self.room.logits.clear();
            self.room.logits.extend_from_slice(self.given);
            self.copied = true;
        }
        if let Some(logit) = self.room.logits.get_mut(id as usize) {
            *logit = f(*logit);
        }
    }

    /// Changes the logits of all candidates.
    pub fn change_all(&mut self, mut f: impl FnMut(f32) -> f32) {
        self.weighted = false;
        self.list().iter_mut().for_each(|c| c.logit = f(c.logit));
    }

    /// The candidates, in the order of their ids if no stage has ordered them. Weights may be out of date.
    pub fn list(&mut self) -> &mut Vec<Candidate> {
        if !self.listed {
            let Room { logits, list, .. } = &mut *self.room;
            let dense = if self.copied { &logits[..] } else { self.given };
            list.clear();
            list.extend((0..).zip(dense).map(|(id, &logit)| Candidate { id, logit, weight: 0.0 }));
            self.listed = true;
        }
        &mut self.room.list
    }

    /// The same with their weights. Who changes a logit here must not rely on them.
    pub fn weighted(&mut self) -> &mut Vec<Candidate> {
        self.list();
        if !self.weighted {
            let Room { list, exps, .. } = &mut *self.room;
            let best = list.iter().map(|c| c.logit).fold(f32::NEG_INFINITY, f32::max);
            exps.clear();
            exps.extend(list.iter().map(|c| c.logit - best));
            (self.kernels.exp)(exps);
            list.iter_mut().zip(exps).for_each(|(c, exp)| c.weight = *exp);
            self.weighted = true;
        }
        &mut self.room.list
    }

    /// Keeps the `k` likeliest tokens, the likeliest first, if there are more; `k` is not 0.
    pub fn keep_best(&mut self, k: usize) {
        if self.listed {
            if k < self.room.list.len() {
                self.room.list.sort_unstable_by(order);
                self.room.list.truncate(k);
            }
            return;
        }
        if k >= self.dense().len() {
            self.list();
            return;
        }
        let Room { logits, list, .. } = &mut *self.room;
        top_k(if self.copied { logits } else { self.given }, k, list);
        self.listed = true;
    }

    /// The likeliest candidate, the lowest id among equals.
    pub(super) fn likeliest(&self) -> Option<u32> {
        match self.listed {
            true => self.room.list.iter().min_by(|a, b| order(a, b)).map(|c| c.id),
            false => likeliest(self.dense()),
        }
    }
}

/// The sum of the weights.
pub(super) fn total(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|c| f64::from(c.weight)).sum()
}

/// Makes the `k` best tokens the candidates, best first. There are more than `k`, which is not 0.
fn top_k(logits: &[f32], k: usize, candidates: &mut Vec<Candidate>) {
    candidates.clear();
    let new = |id: usize| Candidate { id: id as u32, logit: logits[id], weight: 0.0 };
    // Twice the number is held, and what is no better than the last of the best so far is passed over: of equals the first
    // is taken.
    let room = 2 * k.max(64);
    let mut least = f32::NEG_INFINITY;
    for (i, part) in logits.chunks(64).enumerate() {
        // A part is compared as a whole first, which the compiler turns into vectors.
        if !part.iter().fold(false, |any, x| any | (*x > least)) {
            continue;
        }
        for id in 64 * i..64 * i + part.len() {
            if logits[id] > least {
                candidates.push(new(id));
            }
            if candidates.len() == room {
                candidates.select_nth_unstable_by(k - 1, order);
                candidates.truncate(k);
                least = candidates[k - 1].logit;
            }
        }
    }
    candidates.sort_unstable_by(order);
    candidates.truncate(k);
}

/// Puts the best candidates first until the sum of their weights is `enough`, and returns how many these are: all, if it
/// never is. Not all need be in order for that: the best quarter is split off, and either it or the rest is searched.
pub(super) fn reach(candidates: &mut [Candidate], enough: impl Fn(f64) -> bool) -> usize {
    let (mut low, mut high, mut sum) = (0, candidates.len(), 0.0);
    while high - low > 64 {
        let quarter = (high - low) / 4;
        candidates[low..high].select_nth_unstable_by(quarter, order);
        let with = sum + total(&candidates[low..low + quarter]);
        if enough(with) {
            high = low + quarter;
        } else {
            (low, sum) = (low + quarter, with);
        }
    }
    candidates[low..high].sort_unstable_by(order);
    for (i, c) in candidates[..high].iter().enumerate().skip(low) {
        sum += f64::from(c.weight);
        if enough(sum) {
            return i + 1;
        }
    }
    high
}

/// The token with the largest logit, the first of equals.
fn likeliest(logits: &[f32]) -> Option<u32> {
    const LANES: usize = 16;
    let (chunks, rest) = logits.as_chunks::<LANES>();
    let mut tops = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for l in 0..LANES {
            tops[l] = if chunk[l] > tops[l] { chunk[l] } else { tops[l] };
        }
    }
    let top = tops.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|x| *x == top).map(|id| id as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel;
    use crate::rng::Random;

    #[test]
    fn the_best_are_those_of_a_full_sort() {
        let sorted = |all: &[Candidate]| {
            let mut all = all.to_vec();
            all.sort_by(|a, b| b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id)));
            all
        };
        let mut random = Random::new(3, "test", "logits");
        for n in [1usize, 2, 40, 127, 128, 129, 3000, 20_000] {
            // Many are equal.
            let logits: Vec<f32> = (0..n).map(|_| (random.next_f32() * 200.0).floor() / 8.0).collect();
            let mut room = Room::default();
            let all = Candidates::new(kernel::best(), &logits, &mut room).weighted().clone();
            let best = sorted(&all);
            let bare = |all: &[Candidate]| all.iter().map(|c| (c.id, c.logit)).collect::<Vec<_>>();
            for k in [1, 2, 40, 64, 65, 128, 1000, n] {
                let mut c = Candidates::new(kernel::best(), &logits, &mut room);
                c.keep_best(k);
                let kept = c.list().clone();
                assert_eq!(bare(&if k < n { kept } else { sorted(&kept) }), bare(&best[..k.min(n)]), "{k} of {n}");
                // From a list it is the same.
                let mut c = Candidates::new(kernel::best(), &logits, &mut room);
                c.list();
                c.keep_best(k);
                assert_eq!(bare(&sorted(c.list())), bare(&best[..k.min(n)]), "{k} of a list of {n}");
                assert_eq!(c.likeliest(), Some(best[0].id));
            }
            let total = total(&all);
            for share in [0.0, 0.3, 0.77, 0.999, 2.0] {
                let enough = |sum: f64| sum > share * total;
                let mut sum = 0.0;
                let wanted = best.iter().position(|c| {
                    sum += f64::from(c.weight);
                    enough(sum)
                });
                let mut found = all.clone();
                let count = reach(&mut found, enough);
                assert_eq!(count, wanted.map_or(n, |i| i + 1), "{share} of {n}");
                assert_eq!(found[count - 1], best[count - 1], "{share} of {n}");
            }
            assert_eq!(likeliest(&logits), Some(best[0].id));
        }
        assert_eq!(likeliest(&[]), None);
    }

    #[test]
    fn logits_are_copied_only_to_be_changed() {
        let (logits, mut room) = ([1.0, 4.0, 2.0], Room::default());
        let mut c = Candidates::new(kernel::best(), &logits, &mut room);
        assert_eq!(c.likeliest(), Some(1));
        assert!(!c.copied && !c.listed);
        c.change(1, |l| l - 3.5);
        c.change(7, |l| l + 100.0);
        assert_eq!(c.likeliest(), Some(2));
        c.keep_best(2);
        c.change(1, |l| l + 100.0); // no candidate any more
        c.change(0, |l| l + 4.0);
        assert_eq!(c.likeliest(), Some(0));
        assert_eq!(c.weighted().iter().find(|c| c.id == 0).map(|c| c.weight), Some(1.0));
        c.change_all(|l| -l);
        assert_eq!(c.likeliest(), Some(2));
    }
}
