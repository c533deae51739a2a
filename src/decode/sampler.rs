//! Draws a token from logits.

use super::candidates::{Candidates, Room, reach, total};
use super::stage::{self, Stage};
use crate::error::{Error, Result};
use crate::kernel::Kernels;
use crate::knob::{Value, Values};
use crate::rng::Random;
use std::prelude::v1::*;

/// How tokens are drawn: settings of the stages of [`STAGES`](super::STAGES), and a seed. What is not set has its usual
/// value.
///
/// ```
/// use mynah::decode::{Sampler, Sampling};
/// let warm = Sampling::default().with("temp", 1.2).with("top k", 0).seed(7);
/// assert!(Sampler::new(&warm).is_ok());
/// assert!(Sampler::new(&warm.with("temp", -1.0)).is_err());
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampling {
    /// What is set, by the names of the knobs.
    pub values: Values,
    /// Every draw follows from it.
    pub seed: u64,
}

impl Sampling {
    /// Always the likeliest token, the lower id among equals.
    pub fn greedy() -> Sampling {
        Sampling::default().with("temp", 0.0)
    }

    /// Draws from the probabilities as the model gives them.
    pub fn plain() -> Sampling {
        Sampling::default().with("temp", 1.0).with("top k", 0).with("top p", 1.0).with("min p", 0.0)
    }

    /// The same with one setting more, or with another value of it.
    pub fn with(self, name: &'static str, value: impl Into<Value>) -> Sampling {
        Sampling { values: self.values.with(name, value), ..self }
    }

    /// The same with another seed.
    pub fn seed(self, seed: u64) -> Sampling {
        Sampling { seed, ..self }
    }
}

/// Draws tokens.
///
/// ```
/// # fn main() -> mynah::Result<()> {
/// use mynah::decode::{Sampler, Sampling};
///
/// let kernels = mynah::Compute::best(1).kernels;
/// let logits = [0.5, 2.0, 1.9, -3.0];
/// assert_eq!(Sampler::new(&Sampling::greedy())?.pick(kernels, &logits)?, 1);
///
/// // The same seed draws the same tokens.
/// let two = Sampling::plain().with("top k", 2).seed(7);
/// let (mut a, mut b) = (Sampler::new(&two)?, Sampler::new(&two)?);
/// for _ in 0..10 {
///     let id = a.pick(kernels, &logits)?;
///     assert!(id == b.pick(kernels, &logits)? && [1, 2].contains(&id));
/// }
/// # Ok(()) }
/// ```
pub struct Sampler {
    stages: Vec<Box<dyn Stage>>,
    greedy: bool,
    random: Random,
    /// The tokens so far.
    seen: Vec<u32>,
    room: Room,
}

impl Clone for Sampler {
    fn clone(&self) -> Sampler {
        Sampler {
            stages: self.stages.iter().map(|stage| stage.copy()).collect(),
            greedy: self.greedy,
            random: self.random.clone(),
            seen: self.seen.clone(),
            room: Room::default(),
        }
    }
}

impl Sampler {
    /// With the stages that the settings ask for.
    ///
    /// # Errors
    /// `Invalid` naming the setting that cannot be used.
    pub fn new(sampling: &Sampling) -> Result<Sampler> {
        let (stages, greedy) = stage::chain(&sampling.values)?;
        Ok(Sampler { greedy, ..Sampler::chain(stages, sampling.seed) })
    }

    /// With stages of the caller's, in this order, and a draw after them.
    pub fn chain(stages: Vec<Box<dyn Stage>>, seed: u64) -> Sampler {
        let random = Random::new(seed, "sampler", "draw");
        Sampler { stages, greedy: false, random, seen: Vec::new(), room: Room::default() }
    }

    /// The same with one stage more, behind the others.
    pub fn then(mut self, stage: Box<dyn Stage>) -> Sampler {
        self.stages.push(stage);
        self
    }

    /// Reserves memory for a text of `tokens`, so that [`Sampler::accept`] takes none.
    pub fn reserve(&mut self, tokens: usize) {
        self.seen.reserve(tokens.saturating_sub(self.seen.len()));
    }

    /// Adds a token to those that stages have seen.
    pub fn accept(&mut self, id: u32) {
        self.seen.push(id);
    }

    /// The token that comes next. Takes memory on the first call only.
    ///
    /// # Errors
    /// `Invalid` if there are no logits, one is not finite, or the stages leave no candidate.
    pub fn pick(&mut self, kernels: &'static Kernels, logits: &[f32]) -> Result<u32> {
        // A part is tested as a whole first, which the compiler turns into vectors.
        if logits.chunks(4096).any(|part| part.iter().fold(false, |any, x| any | !x.is_finite()))
            && let Some(i) = logits.iter().position(|x| !x.is_finite())
        {
            return Err(Error::invalid("logits", format!("that of token {i} is {}", logits[i])));
        }
        let mut candidates = Candidates::new(kernels, logits, &mut self.room);
        self.stages.iter_mut().for_each(|stage| stage.apply(&mut candidates, &self.seen));
        let none = || Error::invalid("logits", "there are none to draw from");
        if self.greedy {
            return candidates.likeliest().ok_or_else(none);
        }
        let list = candidates.weighted();
        let drawn = f64::from(self.random.next_f32()) * total(list);
        // Rounding may leave a little over: that is the last one's.
        let count = reach(list, |sum| sum > drawn);
        list[..count].last().map(|c| c.id).ok_or_else(none)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Candidates;
    use super::*;
    use crate::kernel;

    fn sampler(change: impl FnOnce(Sampling) -> Sampling) -> Sampler {
        Sampler::new(&change(Sampling::plain())).unwrap()
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
        let mut s = Sampler::new(&Sampling::greedy()).unwrap();
        assert_eq!(s.pick(kernel::best(), &[0.0, 3.0, 3.0, -1.0]).unwrap(), 1);
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let logits = [0.5f32.ln(), 0.25f32.ln(), 0.125f32.ln(), 0.125f32.ln()];
        let seen = counts(&mut sampler(|s| s), &logits, 20_000);
        for (seen, wanted) in seen.iter().zip([0.5, 0.25, 0.125, 0.125]) {
            assert!((seen - wanted).abs() < 0.02, "{seen} {wanted}");
        }
        // At half the temperature probabilities are squared.
        let seen = counts(&mut sampler(|s| s.with("temp", 0.5)), &logits, 20_000);
        assert!((seen[0] - 0.25 / 0.34375).abs() < 0.02);
    }

    #[test]
    fn bounds_leave_out_what_they_should() {
        let logits = [0.1f32.ln(), 0.5f32.ln(), 0.1f32.ln(), 0.3f32.ln()];
        let alive = |s: &mut Sampler| counts(s, &logits, 2000).iter().map(|p| *p > 0.0).collect::<Vec<_>>();
        assert_eq!(alive(&mut sampler(|s| s.with("top k", 2))), [false, true, false, true]);
        assert_eq!(alive(&mut sampler(|s| s.with("top k", 3))), [true, true, false, true]);
        assert_eq!(alive(&mut sampler(|s| s.with("top p", 0.75))), [false, true, false, true]);
        assert_eq!(alive(&mut sampler(|s| s.with("top p", 0.3))), [false, true, false, false]);
        assert_eq!(alive(&mut sampler(|s| s.with("min p", 0.5))), [false, true, false, true]);
        assert_eq!(alive(&mut sampler(|s| s.with("min p", 1.0))), [false, true, false, false]);
        assert_eq!(alive(&mut sampler(|s| s.with("top k", 1))), [false, true, false, false]);
    }

    #[test]
    fn top_p_is_the_shortest_prefix_of_the_sorted() {
        let mut random = Random::new(5, "test", "logits");
        for n in [1usize, 40, 129, 3000] {
            let logits: Vec<f32> = (0..n).map(|_| (random.next_f32() * 200.0).floor() / 8.0).collect();
            let best = logits.iter().copied().fold(f32::MIN, f32::max);
            let mut shares: Vec<f64> = logits.iter().map(|l| f64::from(l - best).exp()).collect();
            shares.sort_by(|a, b| b.total_cmp(a));
            let total: f64 = shares.iter().sum();
            for p in [0.01, 0.5, 0.95, 0.9999] {
                let mut room = Room::default();
                let mut c = Candidates::new(kernel::best(), &logits, &mut room);
                let (mut chain, _) = stage::chain(&Sampling::plain().with("top p", p).values).unwrap();
                assert_eq!(chain.len(), 1);
                chain[0].apply(&mut c, &[]);
                let kept = c.list().len();
                let reached = |count: usize| shares[..count].iter().sum::<f64>() / total;
                assert!(reached(kept) >= p - 1e-6, "{p} of {n}");
                assert!(kept == 1 || reached(kept - 1) < p + 1e-6, "{p} of {n}");
            }
        }
    }

    #[test]
    fn penalty_looks_back_over_its_window() {
        let penalised = Sampling::greedy().with("repeat penalty", 2.0).with("repeat last n", 2);
        let mut s = Sampler::new(&penalised).unwrap();
        let logits = [4.0, 3.0, -1.0];
        s.accept(0);
        s.accept(0);
        assert_eq!(s.pick(kernel::best(), &logits).unwrap(), 1);
        s.accept(1);
        assert_eq!(s.pick(kernel::best(), &logits).unwrap(), 0); // 2.0 and 1.5
        s.accept(1);
        assert_eq!(s.pick(kernel::best(), &logits).unwrap(), 0); // the zeros have left the window
        let (mut chain, _) = stage::chain(&penalised.with("repeat last n", 9).values).unwrap();
        let mut room = Room::default();
        let mut c = Candidates::new(kernel::best(), &[1.0, -1.0], &mut room);
        chain[0].apply(&mut c, &[0, 1, 1, 9]);
        assert_eq!(c.list().iter().map(|c| c.logit).collect::<Vec<_>>(), [0.5, -2.0]);
    }

    #[test]
    fn a_seed_decides_everything() {
        let logits: Vec<f32> = (0..100).map(|i| (i as f32 * 0.37).sin()).collect();
        let draw = |seed| -> Vec<u32> {
            let mut s = sampler(|s| s.seed(seed));
            (0..32).map(|_| s.pick(kernel::best(), &logits).unwrap()).collect()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        // A copy draws what the original would have drawn.
        let mut one = sampler(|s| s.seed(3));
        one.pick(kernel::best(), &logits).unwrap();
        let mut two = one.clone();
        for _ in 0..8 {
            assert_eq!(one.pick(kernel::best(), &logits).unwrap(), two.pick(kernel::best(), &logits).unwrap());
        }
    }

    /// Forbids one token.
    #[derive(Clone)]
    struct Never(u32);

    impl Stage for Never {
        fn apply(&mut self, candidates: &mut Candidates, _: &[u32]) {
            candidates.list().retain(|c| c.id != self.0);
        }
    }

    #[test]
    fn stages_of_the_caller_stand_behind_the_others() {
        let logits = [1.0, 5.0, 4.0];
        let mut greedy = Sampler::new(&Sampling::greedy()).unwrap().then(Box::new(Never(1)));
        assert_eq!(greedy.pick(kernel::best(), &logits).unwrap(), 2);
        let mut chained = Sampler::chain(vec![Box::new(Never(1)), Box::new(Never(2))], 0);
        assert_eq!(chained.pick(kernel::best(), &logits).unwrap(), 0);
        assert!(chained.then(Box::new(Never(0))).pick(kernel::best(), &logits).is_err());
    }

    #[test]
    fn refuses_what_is_no_number() {
        let mut s = sampler(|s| s);
        assert!(
            s.pick(kernel::best(), &[0.0, f32::NAN]).is_err()
                && s.pick(kernel::best(), &[f32::INFINITY]).is_err()
                && s.pick(kernel::best(), &[]).is_err()
        );
        for (name, value) in
            [("temp", -1.0), ("temp", f64::NAN), ("top p", 0.0), ("min p", 1.5), ("repeat penalty", 0.0), ("beta", 1.0)]
        {
            let refused = Sampler::new(&Sampling::default().with(name, value));
            assert!(refused.is_err_and(|e| e.to_string().starts_with(name)), "{name} {value}");
        }
    }
}
