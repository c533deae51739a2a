//! Settings of generation, and plain continuation of a text.

use super::{IntoReady, Mynah};
use crate::adapter::Stack;
use crate::decode::{Cost, Finish, Generator, Sample, Sampler, Sampling, Stop};
use crate::error::{Error, Result};
use crate::model::{CacheType, Model, Session, SessionConfig};
use crate::nn::linear::Precision;
use core::fmt;
use std::prelude::v1::*;

/// Most tokens of a continuation where nothing is said.
const LIMIT: usize = 128;

/// What came with one token.
///
/// ```
/// # fn main() -> mynah::Result<()> {
/// # #[cfg(feature = "base")] {
/// # let mynah = mynah::Mynah::embedded()?;
/// let mut text = mynah.generation().limit(5).complete("The lighthouse")?;
/// let mut shown = String::new();
/// for piece in &mut text {
///     let piece = piece?;
///     shown += &piece.text; // or print!("{piece}")
/// }
/// assert_eq!(shown, text.said().text);
/// # }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The token; none for what is left of a text at its end.
    pub id: Option<u32>,
    /// The characters that it completes: none if it ends inside one, or is a control token.
    pub text: String,
}

/// Its text.
impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What was said, as a whole.
///
/// ```
/// # fn main() -> mynah::Result<()> {
/// # #[cfg(feature = "base")] {
/// # use mynah::{Mynah, decode::Finish};
/// # let mynah = Mynah::embedded()?;
/// let said = mynah.generation().limit(5).ignore_eos(true).complete("The lighthouse")?.finish()?;
/// assert_eq!((said.ids.len(), said.finish), (5, Finish::Length));
/// assert!(!said.ended()); // it was cut
/// # }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Its tokens, without an end-of-generation token.
    pub ids: Vec<u32>,
    /// Its text.
    pub text: String,
    /// Tokens that were to be read before the first one of the answer.
    pub prompt_tokens: usize,
    /// Why it ended.
    pub finish: Finish,
}

impl Said {
    /// Whether it came to an end by itself.
    pub fn ended(&self) -> bool {
        matches!(self.finish, Finish::Eos(_) | Finish::StopText)
    }
}

/// How a model speaks: what is attached, how tokens are drawn, how many. Made by [`Mynah::generation`]; ends in
/// [`Generation::complete`] or, with feature `chat`, in [`Generation::talk`].
///
/// ```
/// # fn main() -> mynah::Result<()> {
/// # #[cfg(feature = "base")] {
/// use mynah::{Mynah, decode::Sampling};
///
/// let mynah = Mynah::embedded()?;
/// let warm = Sampling::default().with("temp", 1.2).seed(7);
/// let text = mynah.generation().sampling(warm).limit(12).complete("Once upon a time")?.finish()?;
/// assert!(text.ids.len() <= 12);
/// # }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Generation {
    pub(super) mynah: Mynah,
    model: Model,
    pub(super) stack: Stack,
    config: SessionConfig,
    pub(super) context: Option<usize>,
    pub(super) limit: Option<usize>,
    pub(super) sampling: Sampling,
    pub(super) stop: Stop,
    ignore_eos: bool,
    parse_special: bool,
}

impl Generation {
    pub(super) fn new(mynah: &Mynah) -> Generation {
        Generation {
            mynah: mynah.clone(),
            model: mynah.model.clone(),
            stack: Stack::new(),
            config: SessionConfig::default(),
            context: None,
            limit: None,
            sampling: Sampling::default(),
            stop: Stop::new(),
            ignore_eos: false,
            parse_special: false,
        }
    }

    /// Attaches an adapter on top of those that are attached: a path, bytes, or one that is ready. 1 is its strength as
    /// trained, 0 changes nothing.
    ///
    /// # Errors
    /// Those of [`Mynah::ready`] and [`Stack::push`].
    ///
    /// ```no_run
    /// # let mynah = mynah::Mynah::open("smollm2.gguf")?;
    /// let text = mynah.generation().attach("notes.mynah", 1.0)?.attach("style.mynah", 0.5)?.complete("The key is")?;
    /// # let _ = text; Ok::<(), mynah::Error>(())
    /// ```
    pub fn attach(mut self, adapter: impl IntoReady, strength: f32) -> Result<Generation> {
        self.stack.push(adapter.into_ready(&self.mynah)?, strength)?;
        Ok(self)
    }

    /// Attaches what a stack holds in the place of what is attached.
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # let mynah = mynah::Mynah::embedded()?;
    /// let mut lesson = mynah.lesson("lora").held_out(0.0).steps(1).context(32).text(mynah::base::NOTES)?;
    /// lesson.next().transpose()?;
    /// let mut stack = mynah::adapter::Stack::new();
    /// stack.push(mynah.ready(lesson.to_bytes()?)?, 0.5)?;
    /// let half = mynah.generation().stack(stack).limit(4);
    /// assert!(half.complete("Rain")?.finish()?.ids.len() <= 4);
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn stack(self, stack: Stack) -> Generation {
        Generation { stack, ..self }
    }

    /// Computes with another form of the same model: weights repacked by [`Model::repacked`], for example.
    pub fn model(self, model: Model) -> Generation {
        Generation { model, ..self }
    }

    /// Most tokens of a text or a conversation; more than the model was made for are cut to that. Usual are a prompt and its
    /// continuation, and 4096 for a conversation.
    pub fn context(self, tokens: usize) -> Generation {
        Generation { context: Some(tokens), ..self }
    }

    /// Most tokens of a continuation or an answer: usually 128 and 512.
    pub fn limit(self, tokens: usize) -> Generation {
        Generation { limit: Some(tokens), ..self }
    }

    /// How tokens are drawn.
    pub fn sampling(self, sampling: Sampling) -> Generation {
        Generation { sampling, ..self }
    }

    /// How products are computed: usually at int8 precision.
    pub fn precision(mut self, precision: Precision) -> Generation {
        self.config.precision = precision;
        self
    }

    /// How keys and values are stored: usually as f16.
    pub fn cache(mut self, cache: CacheType) -> Generation {
        self.config.cache = cache;
        self
    }

    /// A handle that ends what is said, from any thread. Who asks for none can have one from what is made.
    pub fn stop(self, stop: Stop) -> Generation {
        Generation { stop, ..self }
    }

    /// Whether a continuation ignores the model's end tokens. Conversations never do.
    pub fn ignore_eos(self, ignore: bool) -> Generation {
        Generation { ignore_eos: ignore, ..self }
    }

    /// Whether spellings of control tokens in a prompt, such as `<|im_start|>`, are read as those tokens. Conversations do
    /// not look at it: there they are text.
    pub fn parse_special(self, parse: bool) -> Generation {
        Generation { parse_special: parse, ..self }
    }

    /// A session of `context` positions with these settings and the attached adapters.
    ///
    /// # Errors
    /// Those of [`Session::new`] and [`Session::replace`].
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # let mynah = mynah::Mynah::embedded()?;
    /// let mut session = mynah.generation().session(16)?; // for a program that chooses tokens itself
    /// session.feed(&[1, 2, 3])?;
    /// assert_eq!((session.position(), session.context()), (3, 16));
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn session(&self, context: usize) -> Result<Session> {
        let mut session = Session::new(&self.model, SessionConfig { context, ..self.config.clone() })?;
        if !self.stack.is_empty() {
            session.replace(self.stack.clone())?;
        }
        Ok(session)
    }

    /// Continues a text. Nothing is computed before the first piece is asked for.
    ///
    /// # Errors
    /// `Invalid` for a prompt without tokens and for settings that cannot be used; `Limit` if the prompt is longer than the
    /// context; those of [`Session::new`].
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// let mynah = mynah::Mynah::embedded()?;
    /// let mut text = String::from("The lighthouse");
    /// for piece in mynah.generation().limit(8).complete(&text)? {
    ///     text += &piece?.text;
    /// }
    /// assert!(text.len() > "The lighthouse".len());
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn complete(&self, prompt: &str) -> Result<Completion> {
        self.complete_tokens(&self.mynah.tokenizer.prompt(prompt, self.parse_special)?)
    }

    /// The same for a prompt that is tokens already.
    ///
    /// # Errors
    /// Those of [`Generation::complete`]; a token outside of the vocabulary is one of the first piece.
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # let mynah = mynah::Mynah::embedded()?;
    /// let ids = mynah.tokenizer().prompt("Once upon a time", false)?;
    /// let from_tokens = mynah.generation().limit(6).complete_tokens(&ids)?.finish()?;
    /// let from_text = mynah.generation().limit(6).complete("Once upon a time")?.finish()?;
    /// assert_eq!(from_tokens, from_text);
    /// assert_eq!(from_text.prompt_tokens, ids.len());
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn complete_tokens(&self, prompt: &[u32]) -> Result<Completion> {
        if prompt.is_empty() {
            return Err(Error::invalid(
                "text to continue",
                "it is empty, and this model has no token to begin a text with",
            ));
        }
        let limit = self.limit.unwrap_or(LIMIT);
        let most = self.mynah.model.hparams.context.min(self.context.unwrap_or(usize::MAX));
        if prompt.len() > most {
            return Err(Error::limit("tokens of the prompt", prompt.len() as u64, most as u64));
        }
        let context = most.min(prompt.len().saturating_add(limit));
        let sampler = Sampler::new(&self.sampling)?;
        let session = self.session(context)?;
        let tokenizer = &self.mynah.tokenizer;
        let eos = if self.ignore_eos { &[] } else { tokenizer.eos_ids() };
        let sample = Sample::new(session, sampler, prompt, eos, self.stop.clone());
        Ok(Completion {
            generator: Generator::over(sample, tokenizer).limit(limit),
            said: Said { ids: Vec::new(), text: String::new(), prompt_tokens: prompt.len(), finish: Finish::Stopped },
            stop: self.stop.clone(),
            over: false,
        })
    }
}

impl Mynah {
    /// Settings of what the model says, to be changed.
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # use mynah::decode::Sampling;
    /// # let mynah = mynah::Mynah::embedded()?;
    /// let greedy = mynah.generation().sampling(Sampling::greedy()).limit(6);
    /// assert_eq!(greedy.complete("Rain")?.finish()?, greedy.complete("Rain")?.finish()?);
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn generation(&self) -> Generation {
        Generation::new(self)
    }

    /// Continues a text with the usual settings, as `mynah run` does.
    ///
    /// # Errors
    /// Those of [`Generation::complete`].
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// let mynah = mynah::Mynah::embedded()?;
    /// for piece in mynah.complete("Once upon a time")? {
    ///     print!("{}", piece?);
    /// }
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn complete(&self, prompt: &str) -> Result<Completion> {
        self.generation().complete(prompt)
    }
}

/// A text that is being continued: an iterator of its pieces, each computed when it is asked for. It owns all it needs, so it
/// can live in a struct and move to another thread; to drop it is to end it.
///
/// ```
/// # fn main() -> mynah::Result<()> {
/// # #[cfg(feature = "base")] {
/// # let mynah = mynah::Mynah::embedded()?;
/// let mut text = mynah.generation().limit(8).ignore_eos(true).complete("Once upon a time")?;
/// let first = text.next().transpose()?.expect("there is a token");
/// assert_eq!(text.said().ids, [first.id.unwrap()]); // no other token is computed yet
/// let whole = text.finish()?;
/// assert_eq!(whole.ids.len(), 8);
/// # }
/// # Ok(()) }
/// ```
pub struct Completion {
    generator: Generator<Sample<Session>>,
    said: Said,
    stop: Stop,
    over: bool,
}

impl Completion {
    /// Tokens there is room for, the prompt's among them.
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// let text = mynah::Mynah::embedded()?.generation().limit(8).complete("Once upon a time")?;
    /// assert_eq!(text.context(), text.said().prompt_tokens + 8);
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn context(&self) -> usize {
        self.generator.decoder().predictor().context()
    }

    /// What was said so far.
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # let mynah = mynah::Mynah::embedded()?;
    /// let mut text = mynah.generation().limit(8).ignore_eos(true).complete("Once upon a time")?;
    /// while text.said().ids.len() < 3 {
    ///     text.next().transpose()?;
    /// }
    /// println!("so far: {}", text.said().text);
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn said(&self) -> &Said {
        &self.said
    }

    /// What it has taken so far.
    pub fn cost(&self) -> Cost {
        self.generator.cost()
    }

    /// A handle that ends it from any thread.
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// let mynah = mynah::Mynah::embedded()?;
    /// let mut text = mynah.complete("Once upon a time")?;
    /// text.next();
    /// text.stopper().pull(); // for a button, a signal, another thread
    /// assert_eq!(text.finish()?.finish, mynah::decode::Finish::Stopped);
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn stopper(&self) -> Stop {
        self.stop.clone()
    }

    /// The rest at once; all that was said.
    ///
    /// # Errors
    /// Those of [`Session::feed`] and [`Sampler::pick`].
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # let mynah = mynah::Mynah::embedded()?;
    /// let said = mynah.generation().limit(8).complete("Once upon a time")?.finish()?;
    /// assert!(said.ids.len() <= 8 && said.prompt_tokens > 0);
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn finish(mut self) -> Result<Said> {
        for piece in &mut self {
            piece?;
        }
        Ok(self.said)
    }
}

impl Iterator for Completion {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Result<Piece>> {
        if self.over {
            return None;
        }
        match self.generator.next_token() {
            Ok(Some(id)) => {
                let text = self.generator.text(id);
                self.said.ids.push(id);
                self.said.text += &text;
                Some(Ok(Piece { id: Some(id), text }))
            }
            Ok(None) => {
                self.over = true;
                self.said.finish = self.generator.finish().unwrap_or(Finish::Stopped);
                let text = self.generator.rest();
                self.said.text += &text;
                (!text.is_empty()).then_some(Ok(Piece { id: None, text }))
            }
            Err(e) => {
                self.over = true;
                Some(Err(e))
            }
        }
    }
}
