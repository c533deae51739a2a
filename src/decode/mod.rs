//! From logits to text.
//!
//! A [`Predictor`] reads tokens and holds the logits of the next one: a [`Session`], or anything else that can. A
//! [`Sampler`] draws a token from logits after a chain of [`Stage`]s; the stages are the rows of [`STAGES`]. A [`Decoder`]
//! makes one token after another: [`Sample`] by sampling. A [`Generator`] owns a decoder and gives out text.
//! [`Stop`] ends any of them from another thread.
//!
//! ```
//! # use mynah::{Result, model::Session, text::Tokenizer};
//! # use mynah::decode::{Generator, Sampler, Sampling, Stop};
//! # fn tell(session: Session, tokenizer: &Tokenizer, prompt: &[u32]) -> Result<()> {
//! let sampler = Sampler::new(&Sampling::default().with("temp", 0.7).seed(1))?;
//! for piece in Generator::new(session, sampler, prompt, tokenizer, Stop::new()).limit(64) {
//!     print!("{}", piece?);
//! }
//! # Ok(()) }
//! ```

mod candidates;
mod generator;
mod sample;
mod sampler;
pub mod stage;
mod stop;

pub use candidates::{Candidate, Candidates};
pub use generator::Generator;
pub use sample::Sample;
pub use sampler::{Sampler, Sampling};
pub use stage::{CopyStage, STAGES, Stage};
pub use stop::Stop;

use crate::error::Result;
use crate::kernel::{self, Kernels};
use crate::model::Session;

/// Where logits come from. Decoders are generic over it, so that a table of probabilities can stand in for a model.
///
/// ```
/// use mynah::decode::{Decoder, Predictor, Sample, Sampler, Sampling, Step, Stop};
///
/// /// Counts to 3 and begins again.
/// struct Counting(Vec<u32>);
///
/// impl Predictor for Counting {
///     fn read(&mut self, tokens: &[u32], _stop: &Stop) -> mynah::Result<usize> {
///         self.0.extend(tokens);
///         Ok(tokens.len())
///     }
///
///     fn logits(&self) -> &[f32] {
///         const NEXT: [[f32; 4]; 4] = [[0., 9., 0., 0.], [0., 0., 9., 0.], [0., 0., 0., 9.], [9., 0., 0., 0.]];
///         self.0.last().map_or(&[], |last| &NEXT[*last as usize])
///     }
///
///     fn position(&self) -> usize {
///         self.0.len()
///     }
///
///     fn context(&self) -> usize {
///         100
///     }
///
///     fn truncate(&mut self, position: usize) -> usize {
///         self.0.truncate(position);
///         self.0.len()
///     }
/// }
///
/// let greedy = Sampler::new(&Sampling::greedy())?;
/// let mut sample = Sample::new(Counting(Vec::new()), greedy, &[1], [].as_slice(), Stop::new());
/// assert_eq!([sample.next()?, sample.next()?, sample.next()?], [2, 3, 0].map(Step::Token));
/// # Ok::<(), mynah::Error>(())
/// ```
pub trait Predictor {
    /// Reads tokens until `stop` is pulled; how many were read. If all were, [`Predictor::logits`] are those after the last.
    ///
    /// # Errors
    /// Those of [`Session::feed`]. Nothing counts as read then.
    fn read(&mut self, tokens: &[u32], stop: &Stop) -> Result<usize>;

    /// The logits after the last token that was read, `[V]`; empty if there are none.
    fn logits(&self) -> &[f32];

    /// Tokens read so far.
    fn position(&self) -> usize;

    /// Tokens there is room for.
    fn context(&self) -> usize;

    /// Forgets all tokens from `position` on; their logits are gone. How many are left: `position`, or fewer if there is no
    /// way back to it.
    fn truncate(&mut self, position: usize) -> usize;

    /// The kernels that compute weights of candidates: the fastest, unless something else is known.
    fn kernels(&self) -> &'static Kernels {
        kernel::best()
    }
}

impl Predictor for Session {
    fn read(&mut self, tokens: &[u32], stop: &Stop) -> Result<usize> {
        self.feed_until(tokens, &|| stop.pulled())
    }

    fn logits(&self) -> &[f32] {
        Session::logits(self)
    }

    fn position(&self) -> usize {
        Session::position(self)
    }

    fn context(&self) -> usize {
        Session::context(self)
    }

    fn truncate(&mut self, position: usize) -> usize {
        Session::truncate(self, position)
    }

    fn kernels(&self) -> &'static Kernels {
        self.model().compute.kernels
    }
}

impl<P: Predictor + ?Sized> Predictor for &mut P {
    fn read(&mut self, tokens: &[u32], stop: &Stop) -> Result<usize> {
        (**self).read(tokens, stop)
    }

    fn logits(&self) -> &[f32] {
        (**self).logits()
    }

    fn position(&self) -> usize {
        (**self).position()
    }

    fn context(&self) -> usize {
        (**self).context()
    }

    fn truncate(&mut self, position: usize) -> usize {
        (**self).truncate(position)
    }

    fn kernels(&self) -> &'static Kernels {
        (**self).kernels()
    }
}

/// Why a text ended, as [`Generator::finish`] and the last [`Step`] of a [`Decoder`] say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model gave one of its end tokens.
    Eos(u32),
    /// The text came with which the template of a conversation ends an answer.
    StopText,
    /// As many tokens as were asked for.
    Length,
    /// The context is full.
    Context,
    /// Somebody pulled the [`Stop`].
    Stopped,
}

/// What a call of [`Decoder::next`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The next token.
    Token(u32),
    /// There is none.
    End(Finish),
}

/// What a [`Decoder`] has spent so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Tokens that went through a model, those of the prompt among them.
    pub tokens: u64,
    /// Passes through a model, each for one token or several.
    pub passes: u64,
}

/// Makes a text, a token at a time. Decoders that make several at once hand them out one by one.
///
/// ```
/// # #[cfg(feature = "base")] {
/// use mynah::decode::{Decoder, Sample, Sampler, Sampling, Step, Stop};
/// use mynah::model::{Session, SessionConfig};
///
/// let mynah = mynah::Mynah::embedded()?;
/// let session = Session::new(mynah.model(), SessionConfig { context: 64, ..Default::default() })?;
/// let sampler = Sampler::new(&Sampling::default().seed(1))?;
/// let mut sample = Sample::new(session, sampler, &[1, 2, 3], mynah.tokenizer().eos_ids(), Stop::new());
/// while let Step::Token(id) = sample.next()? {
///     print!("{id} ");
/// }
/// assert!(sample.cost().passes > 0);
/// # }
/// # Ok::<(), mynah::Error>(())
/// ```
pub trait Decoder {
    /// The next token, or why there is none. After an end it keeps saying so.
    ///
    /// # Errors
    /// Those of what it is made of.
    fn next(&mut self) -> Result<Step>;

    /// What it has spent.
    fn cost(&self) -> Cost;
}
