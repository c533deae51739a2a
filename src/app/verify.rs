//! Proof of effect: a probe of what an adapter does, the look whether it still does that, and adapters of another base.

use super::{Mynah, Source};
use crate::adapter::probe::{Answer, Probe};
use crate::adapter::{self, Fit, Ready, Stack, file};
use crate::bytes::{Bytes, Limits};
use crate::error::{Error, Result};
use crate::model::CacheType;
use crate::nn::linear::Precision;
use core::fmt;
use std::prelude::v1::*;
use std::sync::Arc;

/// Most tokens of a prompt in a probe: the first ones of a longer text.
const PROMPT: usize = 64;
/// Most tokens of an answer.
const ANSWER: usize = 16;
/// Logits of an answer.
const SCORES: usize = 8;
/// How far logits may be apart. On processors with a fused multiply-add they are the same to the bit.
pub const TOLERANCE: f32 = 1e-3;

/// Something that a probe says otherwise.
///
/// ```
/// use mynah::app::{Difference, Whose};
///
/// let logit = Difference::Logit { whose: Whose::Adapted, token: 7, was: 1.5, now: 1.25 };
/// assert_eq!(logit.to_string(), "adapted model: the logit of token 7 was 1.5, now 1.25, 0.25 apart");
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Difference {
    /// The first token of an answer that is another.
    Token {
        /// Whose answer.
        whose: Whose,
        /// Which token of it, from 1.
        place: usize,
        /// The recorded one.
        was: u32,
        /// The likeliest one here.
        now: u32,
    },
    /// A logit after the prompt that is further away than [`TOLERANCE`].
    Logit {
        /// Whose.
        whose: Whose,
        /// Of which token.
        token: u32,
        /// The recorded one.
        was: f32,
        /// The one here.
        now: f32,
    },
}

/// Whose answer: see [`Difference`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// That of the base.
    Plain,
    /// That of the base with the adapter.
    Adapted,
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Whose::Plain => "base",
            Whose::Adapted => "adapted model",
        })
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Token { whose, place, was, now } => {
                write!(f, "{whose}: token {place} of the answer was {was}, now {now}")
            }
            Difference::Logit { whose, token, was, now } => {
                write!(f, "{whose}: the logit of token {token} was {was}, now {now}, {} apart", (was - now).abs())
            }
        }
    }
}

/// What a look at a probe found: [`Mynah::verify`].
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Everything that is not as it was; nothing if the adapter does what it did.
    pub differences: Vec<Difference>,
    /// Tokens and logits that were compared.
    pub compared: [usize; 2],
    /// The largest distance of two logits.
    pub distance: f32,
    /// The loss of the adapted answer, as recorded and here: see [`Probe::loss`].
    pub loss: [f32; 2],
}

/// An adapter that was trained on another base with the same shapes and tokenizer: [`Mynah::ready_from_other_base`].
pub struct Foreign {
    /// It, ready for this model.
    pub adapter: Arc<Ready>,
    /// Name and format of the base that it was trained on; empty if its file does not say.
    pub base: String,
    /// The loss of its probe, as recorded and on this model, if it carries one: see [`Probe::loss`].
    pub loss: Option<[f32; 2]>,
}

/// How a model goes through an answer.
struct Seen {
    /// The likeliest token at every place.
    tokens: Vec<u32>,
    /// The logits after the prompt.
    first: Vec<f32>,
    /// Mean negative log-likelihood of what was read.
    loss: f64,
}

impl Mynah {
    /// A probe of an adapter: how the model continues a prompt without and with it, on the exact path. Of a longer prompt the
    /// first 64 tokens are taken. [`adapter::probe::with`] puts it into a file.
    ///
    /// # Errors
    /// `Invalid` for a prompt without tokens; those of [`Stack::push`] and [`Session::feed`](crate::model::Session::feed).
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// use mynah::{adapter::probe, bytes::Limits};
    ///
    /// # let mynah = mynah::Mynah::embedded()?;
    /// let mut lesson = mynah.lesson("lora").held_out(0.0).steps(1).context(32).text(mynah::base::NOTES)?;
    /// lesson.next().transpose()?;
    /// let file = lesson.to_bytes()?;
    /// let adapter = mynah.ready(file.clone())?; // what the file holds is what is probed
    /// let probe = mynah.probe(&adapter, &mynah.tokenizer().prompt("Dear diary,", false)?)?;
    /// let file = probe::with(file.into(), &probe, &Limits::default())?;
    ///
    /// let held = probe::read(file.into(), &Limits::default())?.unwrap();
    /// assert!(mynah.verify(&adapter, &held)?.differences.is_empty()); // it does what it did
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn probe(&self, adapter: &Arc<Ready>, prompt: &[u32]) -> Result<Probe> {
        let prompt = &prompt[..prompt.len().min(PROMPT).min(self.model.hparams.context.saturating_sub(ANSWER))];
        if prompt.is_empty() {
            return Err(Error::invalid("prompt of a probe", "it has no tokens"));
        }
        let plain = self.follow(None, prompt, None)?;
        let adapted = self.follow(Some(adapter), prompt, None)?;
        let loss = adapted.loss as f32;
        Ok(Probe { prompt: prompt.into(), plain: plain.answer(), adapted: adapted.answer(), loss })
    }

    /// Whether an adapter does what its probe says, on the exact path: every token, and every logit within [`TOLERANCE`].
    ///
    /// # Errors
    /// `Mismatch` for a probe with tokens or positions that the model does not have; those of [`Mynah::probe`].
    pub fn verify(&self, adapter: &Arc<Ready>, probe: &Probe) -> Result<Verdict> {
        let mut verdict = Verdict { differences: Vec::new(), compared: [0; 2], distance: 0.0, loss: [probe.loss; 2] };
        let both = [(Whose::Plain, None, &probe.plain), (Whose::Adapted, Some(adapter), &probe.adapted)];
        for (whose, adapter, recorded) in both {
            let seen = self.follow(adapter, &probe.prompt, Some(&recorded.tokens))?;
            verdict.compare(whose, recorded, &seen)?;
            verdict.loss[1] = seen.loss as f32;
        }
        Ok(verdict)
    }

    /// An adapter that may have been trained on another base, at the caller's risk: shapes and tokenizer must be the same, as
    /// for another quantisation of one model. Its probe shows what it costs.
    ///
    /// # Errors
    /// Those of [`Mynah::ready`] for our own files and checkpoints; `Mismatch` where shapes or tokenizer differ; those of
    /// [`adapter::probe::read`] and [`Mynah::verify`].
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # let mynah = mynah::Mynah::embedded()?;
    /// # let mut lesson = mynah.lesson("lora").held_out(0.0).steps(1).context(32).text(mynah::base::NOTES)?;
    /// # lesson.next().transpose()?;
    /// # let file = lesson.to_bytes()?;
    /// let foreign = mynah.ready_from_other_base(file)?;
    /// if let Some([there, here]) = foreign.loss {
    ///     println!("trained on {}: loss {there:.3} there, {here:.3} here", foreign.base);
    /// }
    /// let text = mynah.generation().attach(foreign.adapter, 1.0)?.limit(4).complete("Rain")?;
    /// # let _ = text;
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn ready_from_other_base(&self, from: impl Into<Source>) -> Result<Foreign> {
        let (from, limits) = (from.into(), Limits::default());
        let path = from.path();
        let read = |bytes: Bytes| {
            let adapter = adapter::restore(bytes.clone(), self.base(), &limits, Fit::Shapes)?;
            let adapter = self.model.ready(file::refuse_idle(adapter)?)?;
            let base = adapter::info(bytes.clone(), &limits)?.provenance.unwrap_or_default().title();
            let probe = adapter::probe::read(bytes, &limits)?;
            let loss = probe.map(|probe| self.verify(&adapter, &probe)).transpose()?.map(|verdict| verdict.loss);
            Ok(Foreign { adapter, base, loss })
        };
        from.bytes().map(super::held).and_then(read).map_err(|e| match path {
            Some(path) => e.in_file(path),
            None => e,
        })
    }

    /// Continues a prompt on the exact path, by an answer that is given or else by the likeliest tokens.
    fn follow(&self, adapter: Option<&Arc<Ready>>, prompt: &[u32], given: Option<&[u32]>) -> Result<Seen> {
        let most = given.map_or(ANSWER, <[u32]>::len);
        let (context, vocab) = (self.model.hparams.context, self.model.weights.vocab());
        if let Some(stranger) = prompt.iter().chain(given.unwrap_or_default()).find(|id| **id as usize >= vocab) {
            return Err(Error::mismatch("tokens of a probe", format!("tokens below {vocab}"), stranger));
        }
        let positions = prompt.len().saturating_add(most);
        if positions > context {
            return Err(Error::mismatch("positions of a probe", format!("at most {context}"), positions));
        }
        let mut stack = Stack::new();
        adapter.map_or(Ok(()), |adapter| stack.push(adapter.clone(), 1.0))?;
        let generation = self.generation().stack(stack).precision(Precision::F32).cache(CacheType::F32);
        let mut session = generation.session(positions)?;
        let mut seen = Seen { tokens: Vec::new(), first: Vec::new(), loss: 0.0 };
        let mut logits = session.feed(prompt)?;
        seen.first = logits.to_vec();
        loop {
            let likeliest = best(logits);
            seen.tokens.push(likeliest);
            let token = given.map_or(likeliest, |given| given[seen.tokens.len() - 1]);
            seen.loss += loss(logits, token);
            if seen.tokens.len() == most || given.is_none() && self.tokenizer.is_eos(token) {
                seen.loss /= seen.tokens.len() as f64;
                return Ok(seen);
            }
            logits = session.feed(&[token])?;
        }
    }
}

impl Seen {
    /// As it is recorded.
    fn answer(self) -> Answer {
        let mut scores: Vec<(u32, f32)> = (0..).zip(self.first).collect();
        scores.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        scores.truncate(SCORES);
        Answer { tokens: self.tokens, scores }
    }
}

impl Verdict {
    fn compare(&mut self, whose: Whose, recorded: &Answer, seen: &Seen) -> Result<()> {
        let pairs = recorded.tokens.iter().zip(&seen.tokens);
        let other = pairs.zip(1..).find(|((was, now), _)| was != now);
        // What follows another token shows nothing new.
        self.differences.extend(other.map(|((&was, &now), place)| Difference::Token { whose, place, was, now }));
        for &(token, was) in &recorded.scores {
            let of = || Error::mismatch("tokens of a probe", format!("tokens below {}", seen.first.len()), token);
            let now = *seen.first.get(token as usize).ok_or_else(of)?;
            let distance = (was - now).abs();
            self.distance = self.distance.max(distance);
            if distance > TOLERANCE {
                self.differences.push(Difference::Logit { whose, token, was, now });
            }
        }
        self.compared[0] += recorded.tokens.len();
        self.compared[1] += recorded.scores.len();
        Ok(())
    }
}

/// The likeliest token, the lowest among equals.
fn best(logits: &[f32]) -> u32 {
    let better = |best: (u32, f32), next: (u32, f32)| if next.1.total_cmp(&best.1).is_gt() { next } else { best };
    (0..).zip(logits.iter().copied()).reduce(better).map_or(0, |(id, _)| id)
}

/// −ln of the probability of a token.
fn loss(logits: &[f32], token: u32) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| libm::exp(f64::from(x - most))).sum();
    // Rounding must not make it negative.
    (libm::log(sum) + f64::from(most) - f64::from(logits[token as usize])).max(0.0)
}
