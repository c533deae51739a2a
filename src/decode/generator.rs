//! Text from a decoder, piece by piece.

use super::{Cost, Decoder, Finish, Predictor, Sample, Sampler, Step, Stop};
use crate::error::Result;
use crate::text::{TextStream, Tokenizer};
use std::prelude::v1::*;

/// Owns a decoder and gives out its text: an iterator of pieces, each whole characters and never empty. Or take
/// [`Generator::next_token`], which takes no memory, and [`Generator::text`].
///
/// ```
/// # fn main() -> mynah::Result<()> {
/// # #[cfg(feature = "base")] {
/// use mynah::decode::{Finish, Generator, Sampler, Sampling, Stop};
/// use mynah::model::{Session, SessionConfig};
///
/// let mynah = mynah::Mynah::embedded()?;
/// let session = Session::new(mynah.model(), SessionConfig { context: 64, ..Default::default() })?;
/// let sampler = Sampler::new(&Sampling::greedy())?;
/// let prompt = mynah.tokenizer().encode("The lighthouse", &Default::default())?;
/// let mut text = Generator::new(session, sampler, &prompt, mynah.tokenizer(), Stop::new()).limit(4);
/// let pieces: Vec<String> = text.by_ref().collect::<mynah::Result<_>>()?;
/// println!("The lighthouse{}", pieces.concat());
/// assert!(matches!(text.finish(), Some(Finish::Length | Finish::Eos(_))));
/// # }
/// # Ok(()) }
/// ```
pub struct Generator<D> {
    decoder: D,
    stream: TextStream,
    /// Tokens that may still come.
    left: usize,
    finish: Option<Finish>,
    /// Whether the last piece was given out.
    done: bool,
}

impl<P: Predictor> Generator<Sample<P>> {
    /// Samples what comes after `prompt`; the tokenizer's end tokens end it, and so does `stop`.
    pub fn new(predictor: P, sampler: Sampler, prompt: &[u32], tokenizer: &Tokenizer, stop: Stop) -> Self {
        Generator::over(Sample::new(predictor, sampler, prompt, tokenizer.eos_ids(), stop), tokenizer)
    }
}

impl<D: Decoder> Generator<D> {
    /// The text of any decoder's tokens. Control tokens are left out of it.
    pub fn over(decoder: D, tokenizer: &Tokenizer) -> Generator<D> {
        Generator { decoder, stream: TextStream::new(tokenizer, false), left: usize::MAX, finish: None, done: false }
    }

    /// The same with at most `n` tokens more.
    pub fn limit(self, n: usize) -> Generator<D> {
        Generator { left: n, ..self }
    }

    /// The next token; `None` at the end, which [`Generator::finish`] explains.
    ///
    /// # Errors
    /// Those of the decoder.
    pub fn next_token(&mut self) -> Result<Option<u32>> {
        if self.finish.is_some() {
            return Ok(None);
        }
        if self.left == 0 {
            self.finish = Some(Finish::Length);
            return Ok(None);
        }
        Ok(match self.decoder.next()? {
            Step::Token(id) => {
                self.left -= 1;
                Some(id)
            }
            Step::End(finish) => {
                self.finish = Some(finish);
                None
            }
        })
    }

    /// The characters that `id`, which [`Generator::next_token`] gave, completes; none if it ends inside one.
    pub fn text(&mut self, id: u32) -> String {
        self.stream.push(id)
    }

    /// What is left of the text at its end: U+FFFD if it ends inside a character.
    pub fn rest(&mut self) -> String {
        self.stream.finish()
    }

    /// Why it ended, if it did.
    pub fn finish(&self) -> Option<Finish> {
        self.finish
    }

    /// What the decoder has spent.
    pub fn cost(&self) -> Cost {
        self.decoder.cost()
    }

    /// The decoder.
    pub fn decoder(&self) -> &D {
        &self.decoder
    }

    /// The same, back from the generator.
    pub fn into_decoder(self) -> D {
        self.decoder
    }
}

impl<D: Decoder> Iterator for Generator<D> {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.done {
            let piece = match self.next_token() {
                Ok(Some(id)) => self.text(id),
                Ok(None) => {
                    self.done = true;
                    self.rest()
                }
                Err(e) => {
                    self.done = true;
                    return Some(Err(e));
                }
            };
            if !piece.is_empty() {
                return Some(Ok(piece));
            }
        }
        None
    }
}
