//! Texts to vectors.

use super::{IntoReady, Mynah};
use crate::adapter::Stack;
use crate::error::{Error, Result};
use crate::model::embedding::normalise;
use crate::model::{Embedder, Model, Pooling};
use crate::nn::linear::Precision;
use crate::train::data;
use std::prelude::v1::*;

/// How texts become vectors: adapters, pooling, precision. Made by [`Mynah::embedding`].
///
/// Pooling is what the model's file says ([`Pooling::of`]), or the mean where it says nothing, as of models that were made to
/// continue texts. Vectors are scaled to length 1, so that the product of two is the cosine of their angle.
///
/// ```
/// # fn main() -> mynah::Result<()> {
/// # #[cfg(feature = "base")] {
/// use mynah::{Mynah, Precision, model::Pooling};
///
/// let mynah = Mynah::embedded()?;
/// let embedding = mynah.embedding().pooling(Pooling::Last).precision(Precision::F32).normalise(false);
/// let vectors = embedding.embed(&["Rain at Gull Rock.", "Tea with the parrot."])?;
/// assert_eq!((vectors.len(), vectors[0].len()), (2, mynah.model().embedding_width()));
/// # }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Embedding {
    mynah: Mynah,
    stack: Stack,
    pooling: Option<Pooling>,
    precision: Precision,
    normalise: bool,
    context: Option<usize>,
}

impl Embedding {
    /// With an adapter; `strength` multiplies its effect. One more comes on top of those before.
    ///
    /// # Errors
    /// Those of [`Mynah::ready`] and [`Stack::push`].
    ///
    /// ```no_run
    /// # let mynah = mynah::Mynah::open("bge-small.gguf")?;
    /// let mine = mynah.embedding().attach("my-search.mynah", 1.0)?;
    /// let vectors = mine.embed(&["Where did I put the boat's papers?"])?;
    /// # Ok::<(), mynah::Error>(())
    /// ```
    pub fn attach(mut self, adapter: impl IntoReady, strength: f32) -> Result<Embedding> {
        self.stack.push(adapter.into_ready(&self.mynah)?, strength)?;
        Ok(self)
    }

    /// With these adapters, in place of those attached before.
    pub fn stack(self, stack: Stack) -> Embedding {
        Embedding { stack, ..self }
    }

    /// With another pooling than the file's.
    pub fn pooling(self, pooling: Pooling) -> Embedding {
        Embedding { pooling: Some(pooling), ..self }
    }

    /// How products are computed; without it at int8 precision.
    pub fn precision(self, precision: Precision) -> Embedding {
        Embedding { precision, ..self }
    }

    /// Whether vectors are scaled to length 1.
    pub fn normalise(self, normalise: bool) -> Embedding {
        Embedding { normalise, ..self }
    }

    /// Texts of more tokens are cut, and keep the token that ends them; without it a text that is longer than what the model
    /// was made for is an error.
    pub fn context(self, tokens: usize) -> Embedding {
        Embedding { context: Some(tokens), ..self }
    }

    /// The vectors of texts, `[`[`Model::embedding_width`]`]` each. Texts are encoded with the tokens that the model expects
    /// around them. Several go through the model together, which changes no bit.
    ///
    /// # Errors
    /// `Unsupported` for a model whose texts have no vector; `Limit` for a text that is too long, `Invalid` for one without a
    /// token, by its number in `texts`; `Invalid` for a context of 0 or beyond the model's, and for a vector that is not finite.
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # let mynah = mynah::Mynah::embedded()?;
    /// let notes = ["Rain at Gull Rock.", "The parrot likes tea.", "A storm came in the night."];
    /// let vectors = mynah.embedding().embed(&notes)?;
    /// let query = mynah.embedding().embed(&["Rain, and a storm."])?.remove(0);
    /// let cosine = |v: &[f32]| v.iter().zip(&query).map(|(a, b)| a * b).sum::<f32>();
    /// let nearest = (0..3).max_by(|&a, &b| cosine(&vectors[a]).total_cmp(&cosine(&vectors[b])));
    /// assert!(nearest.is_some());
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn embed(&self, texts: &[impl AsRef<str>]) -> Result<Vec<Vec<f32>>> {
        let (tokenizer, most) = (&self.mynah.tokenizer, self.tokens()?);
        let encode = |text: &_| {
            let text = <_ as AsRef<str>>::as_ref(text);
            data::whole(tokenizer, text, self.context.map_or(usize::MAX, |_| most))
        };
        let tokens = texts.iter().map(encode).collect::<Result<Vec<_>>>()?;
        self.embed_tokens(&tokens.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    /// The vectors of texts that are tokens already.
    ///
    /// # Errors
    /// Those of [`Embedding::embed`]; `Invalid` for a token outside the vocabulary.
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # let mynah = mynah::Mynah::embedded()?;
    /// let vectors = mynah.embedding().embed_tokens(&[&[1, 2, 3], &[4]])?;
    /// assert_eq!(vectors.len(), 2);
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn embed_tokens(&self, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
        let model = &self.mynah.model;
        let pooling = self.pooling.map_or_else(|| Pooling::of(&model.hparams), Ok)?;
        // Where a file has rotary divisors by length, they are those of the context that was asked for.
        let model: Model = self.context.map_or_else(|| model.clone(), |tokens| model.at_context(tokens));
        let mut vectors = Embedder::new(&model, self.stack.clone(), self.precision, pooling).embed(texts)?;
        if self.normalise {
            vectors.iter_mut().for_each(|vector| normalise(vector));
        }
        Ok(vectors)
    }

    /// Most tokens of a text.
    fn tokens(&self) -> Result<usize> {
        let most = self.mynah.model.hparams.context;
        match self.context {
            Some(tokens) if tokens == 0 || tokens > most => {
                Err(Error::invalid("context", format!("{tokens}; the model was made for 1 to {most} tokens")))
            }
            tokens => Ok(tokens.unwrap_or(most)),
        }
    }
}

impl Mynah {
    /// How texts become vectors, to be changed and used.
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # let mynah = mynah::Mynah::embedded()?;
    /// let exact = mynah.embedding().precision(mynah::Precision::F32).embed(&["Rain"])?;
    /// assert_eq!(exact.len(), 1);
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn embedding(&self) -> Embedding {
        Embedding {
            mynah: self.clone(),
            stack: Stack::new(),
            pooling: None,
            precision: Precision::Int8,
            normalise: true,
            context: None,
        }
    }

    /// The vectors of texts, of length 1: pooled as the file says, at int8 precision. [`Mynah::embedding`] changes that and
    /// attaches adapters.
    ///
    /// # Errors
    /// Those of [`Embedding::embed`].
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # let mynah = mynah::Mynah::embedded()?;
    /// let vectors = mynah.embed(&["Rain at Gull Rock.", "Tea with the parrot."])?;
    /// let length: f32 = vectors[0].iter().map(|v| v * v).sum();
    /// assert!((length - 1.0).abs() < 1e-5);
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn embed(&self, texts: &[impl AsRef<str>]) -> Result<Vec<Vec<f32>>> {
        self.embedding().embed(texts)
    }
}
