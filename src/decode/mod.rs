//! From logits to text: which token comes next, and one after another.
//!
//! [`Sampler`] picks a token from logits by the stages of `stage.rs`, in llama.cpp's order: repetition penalty, top-k,
//! top-p, min-p, temperature, draw. [`Generator`] runs a session: the caller calls [`Generator::next`] for each token
//! and stops when it likes.

pub mod stage;

use crate::error::{Error, Result};
use crate::kernel::Kernels;
use crate::model::Session;
use crate::rng::Random;
use stage::Candidate;
use std::prelude::v1::*;

/// How tokens are picked. The default is greedy.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits before the draw; 0 takes the best token, the lower id among equals.
    pub temperature: f32,
    /// Draws from the best so many; 0 is no bound.
    pub top_k: usize,
    /// Draws from the fewest best tokens that have this probability together; 1 is no bound.
    pub top_p: f32,
    /// Draws from tokens at least so many times as likely as the best; 0 is no bound.
    pub min_p: f32,
    /// Makes tokens of the last [`Sampling::window`] less likely; 1 does nothing.
    pub repeat_penalty: f32,
    /// How many tokens back the penalty looks, those of the prompt included.
    pub window: usize,
    /// Every draw follows from it.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repeat_penalty: 1.0, window: 64, seed: 0 }
    }
}

impl Sampling {
    fn check(&self) -> Result<()> {
        let rows = [
            ("temperature", self.temperature, self.temperature >= 0.0, "0 or more"),
            ("top-p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0, at most 1"),
            ("min-p", self.min_p, (0.0..=1.0).contains(&self.min_p), "0 to 1"),
            ("repetition penalty", self.repeat_penalty, self.repeat_penalty > 0.0, "above 0"),
        ];
        for (name, value, good, wanted) in rows {
            if !good || !value.is_finite() {
                return Err(Error::invalid(name, format!("{value}; it must be {wanted}")));
            }
        }
        Ok(())
    }
}

/// Picks tokens.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    random: Random,
    /// A ring; the oldest is at `oldest` once it is full.
    recent: Vec<u32>,
    oldest: usize,
    candidates: Vec<Candidate>,
    room: Vec<f32>,
}

impl Sampler {
    /// # Errors
    /// `Invalid` naming the setting that cannot be used.
    pub fn new(sampling: Sampling) -> Result<Sampler> {
        sampling.check()?;
        Ok(Sampler {
            random: Random::new(sampling.seed, "sampler", "draw"),
            recent: Vec::new(),
            oldest: 0,
            candidates: Vec::new(),
            room: Vec::new(),
            sampling,
        })
    }

    /// Tells of a token of the text, for the repetition penalty.
    pub fn accept(&mut self, id: u32) {
        if self.recent.len() < self.sampling.window {
            self.recent.push(id);
        } else if let Some(place) = self.recent.get_mut(self.oldest) {
            *place = id;
            self.oldest = (self.oldest + 1) % self.sampling.window;
        }
    }

    /// The token that comes next, as the kernels of a session compute it. Takes memory on the first call only.
    ///
    /// # Errors
    /// `Invalid` if there are no logits or one is not finite.
    pub fn pick(&mut self, k: &Kernels, logits: &[f32]) -> Result<u32> {
        let s = &self.sampling;
        // Whole parts are looked at together, which goes in vectors.
        if logits.chunks(4096).any(|part| part.iter().fold(false, |any, x| any | !x.is_finite()))
            && let Some(i) = logits.iter().position(|x| !x.is_finite())
        {
            return Err(Error::invalid("logits", format!("that of token {i} is {}", logits[i])));
        }
        let (c, room) = (&mut self.candidates, &mut self.room);
        let logits = if s.repeat_penalty == 1.0 {
            logits
        } else {
            room.clear();
            room.extend_from_slice(logits);
            stage::repetition(room, &self.recent, s.repeat_penalty);
            &*room
        };
        if s.temperature == 0.0 {
            return likeliest(logits).ok_or_else(|| Error::invalid("logits", "there are none"));
        }
        stage::top_k(logits, if s.top_k > 0 { s.top_k } else { logits.len() }, c);
        if s.top_p < 1.0 || s.min_p > 0.0 {
            stage::weigh(k, c, room);
            if s.top_p < 1.0 {
                stage::top_p(c, s.top_p);
            }
            stage::min_p(c, s.min_p);
        }
        stage::temperature(c, s.temperature);
        stage::weigh(k, c, room);
        let drawn = f64::from(self.random.next_f32()) * stage::total(c);
        // Rounding may leave a little over: that is the last one's.
        let count = stage::reach(c, |sum| sum > drawn);
        c[..count].last().map(|c| c.id).ok_or_else(|| Error::invalid("logits", "there are none"))
    }
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

/// Why a generation ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The model said one of the ends.
    End(u32),
    /// There is no room left.
    Context,
}

/// Tokens one after another.
pub struct Generator<'a> {
    session: &'a mut Session,
    sampler: Sampler,
    ends: &'a [u32],
    /// What the session has not read yet: the prompt, then the last token.
    unread: Vec<u32>,
    stop: Option<Stop>,
}

impl<'a> Generator<'a> {
    /// Continues what `session` has read with `prompt`. Tokens of `ends` (sorted) end it.
    pub fn new(session: &'a mut Session, mut sampler: Sampler, prompt: &[u32], ends: &'a [u32]) -> Self {
        prompt.iter().for_each(|&id| sampler.accept(id));
        Generator { session, sampler, ends, unread: prompt.to_vec(), stop: None }
    }

    /// The next token; `None` at the end, which [`Generator::stopped`] explains. The first call reads the prompt.
    ///
    /// # Errors
    /// Those of [`Session::feed`] and [`Sampler::pick`].
    #[allow(clippy::should_implement_trait)] // an iterator would hide that each step can fail
    pub fn next(&mut self) -> Result<Option<u32>> {
        if self.stop.is_some() {
            return Ok(None);
        }
        if self.session.position() == self.session.context() {
            self.stop = Some(Stop::Context);
            return Ok(None);
        }
        let kernels = self.session.model().compute.kernels;
        let id = self.sampler.pick(kernels, self.session.feed(&self.unread)?)?;
        if self.ends.binary_search(&id).is_ok() {
            self.stop = Some(Stop::End(id));
            self.unread.clear();
            return Ok(None);
        }
        self.sampler.accept(id);
        self.unread.clear();
        self.unread.push(id);
        Ok(Some(id))
    }

    /// Why it ended, if it did.
    pub fn stopped(&self) -> Option<Stop> {
        self.stop
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel;

    fn sampler(change: impl FnOnce(&mut Sampling)) -> Sampler {
        let mut s = Sampling { temperature: 1.0, ..Sampling::default() };
        change(&mut s);
        Sampler::new(s).unwrap()
    }

    fn counts(sampler: &mut Sampler, logits: &[f32], n: usize) -> Vec<f64> {
        let mut out = vec![0.0; logits.len()];
        for _ in 0..n {
            out[sampler.pick(kernel::best(), logits).unwrap() as usize] += 1.0 / n as f64;
        }
        out
    }

    #[test]
    fn greedy_takes_the_lower_id_among_equals() {
        let mut s = Sampler::new(Sampling::default()).unwrap();
        assert_eq!(s.pick(kernel::best(), &[0.0, 3.0, 3.0, -1.0]).unwrap(), 1);
    }

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
            let mut all: Vec<Candidate> =
                (0..).zip(&logits).map(|(id, &logit)| Candidate { id, logit, weight: 0.0 }).collect();
            let mut kept = Vec::new();
            for k in [1, 2, 40, 64, 65, 128, 1000, n] {
                stage::top_k(&logits, k, &mut kept);
                assert_eq!(if k < n { kept.clone() } else { sorted(&kept) }, sorted(&all)[..k.min(n)], "{k} of {n}");
            }
            stage::weigh(kernel::best(), &mut all, &mut Vec::new());
            let best = sorted(&all);
            for p in [0.01, 0.5, 0.95, 0.9999] {
                let mut kept = all.clone();
                stage::top_p(&mut kept, p);
                let total: f64 = all.iter().map(|c| ((c.logit - best[0].logit) as f64).exp()).sum();
                let reached = |count: usize| {
                    best[..count].iter().map(|c| ((c.logit - best[0].logit) as f64).exp()).sum::<f64>() / total
                };
                assert_eq!(sorted(&kept), best[..kept.len()], "{p} of {n}");
                assert!(reached(kept.len()) >= p as f64 - 1e-6, "{p} of {n}");
                assert!(kept.len() == 1 || reached(kept.len() - 1) < p as f64 + 1e-6, "{p} of {n}");
            }
            let total = stage::total(&all);
            for share in [0.0, 0.3, 0.77, 0.999, 2.0] {
                let enough = |sum: f64| sum > share * total;
                let mut sum = 0.0;
                let wanted = best.iter().position(|c| {
                    sum += f64::from(c.weight);
                    enough(sum)
                });
                let mut found = all.clone();
                let count = stage::reach(&mut found, enough);
                assert_eq!(count, wanted.map_or(n, |i| i + 1), "{share} of {n}");
                assert_eq!(found[count - 1], best[count - 1], "{share} of {n}");
            }
            assert_eq!(likeliest(&logits), Some(best[0].id));
        }
        assert_eq!(likeliest(&[]), None);
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let logits = [0.5f32.ln(), 0.25f32.ln(), 0.125f32.ln(), 0.125f32.ln()];
        let seen = counts(&mut sampler(|_| ()), &logits, 20_000);
        for (seen, wanted) in seen.iter().zip([0.5, 0.25, 0.125, 0.125]) {
            assert!((seen - wanted).abs() < 0.02, "{seen} {wanted}");
        }
        // At half the temperature probabilities are squared.
        let seen = counts(&mut sampler(|s| s.temperature = 0.5), &logits, 20_000);
        assert!((seen[0] - 0.25 / 0.34375).abs() < 0.02);
    }

    #[test]
    fn bounds_leave_out_what_they_should() {
        let logits = [0.1f32.ln(), 0.5f32.ln(), 0.1f32.ln(), 0.3f32.ln()];
        let alive = |s: &mut Sampler| counts(s, &logits, 2000).iter().map(|p| *p > 0.0).collect::<Vec<_>>();
        assert_eq!(alive(&mut sampler(|s| s.top_k = 2)), [false, true, false, true]);
        assert_eq!(alive(&mut sampler(|s| s.top_k = 3)), [true, true, false, true]);
        assert_eq!(alive(&mut sampler(|s| s.top_p = 0.75)), [false, true, false, true]);
        assert_eq!(alive(&mut sampler(|s| s.top_p = 0.3)), [false, true, false, false]);
        assert_eq!(alive(&mut sampler(|s| s.min_p = 0.5)), [false, true, false, true]);
        assert_eq!(alive(&mut sampler(|s| s.min_p = 1.0)), [false, true, false, false]);
        assert_eq!(alive(&mut sampler(|s| s.top_k = 1)), [false, true, false, false]);
    }

    #[test]
    fn penalty_looks_back_over_its_window() {
        let mut s = Sampler::new(Sampling { repeat_penalty: 2.0, window: 2, ..Sampling::default() }).unwrap();
        let logits = [4.0, 3.0, -1.0];
        s.accept(0);
        s.accept(0);
        assert_eq!(s.pick(kernel::best(), &logits).unwrap(), 1);
        s.accept(1);
        assert_eq!(s.pick(kernel::best(), &logits).unwrap(), 0); // 2.0 and 1.5
        s.accept(1);
        assert_eq!(s.pick(kernel::best(), &logits).unwrap(), 0); // the zeros have left the window
        let mut logits = [1.0, -1.0];
        stage::repetition(&mut logits, &[0, 1, 1, 9], 2.0);
        assert_eq!(logits, [0.5, -2.0]);
    }

    #[test]
    fn a_seed_decides_everything() {
        let logits: Vec<f32> = (0..100).map(|i| (i as f32 * 0.37).sin()).collect();
        let draw = |seed| -> Vec<u32> {
            let mut s = sampler(|s| s.seed = seed);
            (0..32).map(|_| s.pick(kernel::best(), &logits).unwrap()).collect()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn refuses_what_is_no_number() {
        let mut s = sampler(|_| ());
        assert!(
            s.pick(kernel::best(), &[0.0, f32::NAN]).is_err()
                && s.pick(kernel::best(), &[f32::INFINITY]).is_err()
                && s.pick(kernel::best(), &[]).is_err()
        );
        for change in [
            (|s| s.temperature = -1.0) as fn(&mut Sampling),
            |s| s.temperature = f32::NAN,
            |s| s.top_p = 0.0,
            |s| s.min_p = 1.5,
            |s| s.repeat_penalty = 0.0,
        ] {
            let mut s = Sampling::default();
            change(&mut s);
            assert!(Sampler::new(s).is_err());
        }
    }
}
