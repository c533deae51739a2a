//! The decoder that samples.

use super::{Cost, Decoder, Finish, Predictor, Sampler, Step, Stop};
use crate::error::Result;
use std::prelude::v1::*;
use std::sync::Arc;

/// Draws one token after another.
///
/// ```
/// # fn main() -> mynah::Result<()> {
/// # #[cfg(feature = "base")] {
/// use mynah::decode::{Decoder, Finish, Sample, Sampler, Sampling, Step, Stop};
/// use mynah::model::{Session, SessionConfig};
///
/// let mynah = mynah::Mynah::embedded()?;
/// let session = Session::new(mynah.model(), SessionConfig { context: 5, ..Default::default() })?;
/// let sampler = Sampler::new(&Sampling::default().seed(1))?;
/// let mut sample = Sample::new(session, sampler, &[1, 2, 3], [].as_slice(), Stop::new()); // no token ends it
/// let mut drawn = 0;
/// while let Step::Token(_) = sample.next()? {
///     drawn += 1;
/// }
/// assert_eq!(drawn, 3); // the last one needs no room: nobody reads it
/// assert_eq!(sample.next()?, Step::End(Finish::Context));
/// assert_eq!(sample.cost().tokens, 5);
/// # }
/// # Ok(()) }
/// ```
pub struct Sample<P> {
    predictor: P,
    sampler: Sampler,
    eos: Arc<[u32]>,
    stop: Stop,
    /// What the predictor has not read yet: the prompt, then the last token.
    unread: Vec<u32>,
    end: Option<Finish>,
    cost: Cost,
}

impl<P: Predictor> Sample<P> {
    /// Continues what `predictor` has read with `prompt`; with an empty one, from its logits. Tokens of `eos`, sorted, end
    /// it, and so does `stop`.
    pub fn new(
        predictor: P,
        mut sampler: Sampler,
        prompt: &[u32],
        eos: impl Into<Arc<[u32]>>,
        stop: Stop,
    ) -> Sample<P> {
        sampler.reserve(predictor.context());
        prompt.iter().for_each(|&id| sampler.accept(id));
        let (eos, unread) = (eos.into(), prompt.to_vec());
        Sample { predictor, sampler, eos, stop, unread, end: None, cost: Cost::default() }
    }

    /// What it reads from.
    pub fn predictor(&self) -> &P {
        &self.predictor
    }

    /// The same, back from the decoder. The last token that was drawn may not have been read.
    pub fn into_predictor(self) -> P {
        self.predictor
    }

    /// The next token, or why there is none.
    fn step(&mut self) -> Result<Step> {
        let full = self.predictor.position() == self.predictor.context();
        if self.stop.pulled() || full && !self.unread.is_empty() {
            return Ok(Step::End(if self.stop.pulled() { Finish::Stopped } else { Finish::Context }));
        }
        if !self.unread.is_empty() {
            let read = self.predictor.read(&self.unread, &self.stop)?;
            self.cost.tokens += read as u64;
            self.cost.passes += 1;
            self.unread.drain(..read);
            if !self.unread.is_empty() {
                return Ok(Step::End(Finish::Stopped));
            }
        }
        let id = self.sampler.pick(self.predictor.kernels(), self.predictor.logits())?;
        if self.eos.binary_search(&id).is_ok() {
            return Ok(Step::End(Finish::Eos(id)));
        }
        self.sampler.accept(id);
        self.unread.push(id);
        Ok(Step::Token(id))
    }
}

impl<P: Predictor> Decoder for Sample<P> {
    fn next(&mut self) -> Result<Step> {
        if let Some(end) = self.end {
            return Ok(Step::End(end));
        }
        let step = self.step()?;
        if let Step::End(end) = step {
            self.end = Some(end);
        }
        Ok(step)
    }

    fn cost(&self) -> Cost {
        self.cost
    }
}
