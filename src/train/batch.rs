//! Examples, laid end to end: ragged, never padded.

use crate::error::{Error, Result};
use crate::model::{Model, Rows};
use std::prelude::v1::*;

/// A sequence of tokens, which of them are to be learnt, and what the data say about them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Example {
    /// The tokens.
    pub tokens: Vec<u32>,
    /// Whether the prediction of each counts: those of the completion. The first has none, so its entry is ignored.
    pub counts: Vec<bool>,
    /// Factor of its loss; `None` is 1.
    pub weight: Option<f32>,
    /// Whether the completion was liked, where somebody said so.
    pub good: Option<bool>,
    /// Another completion: in a pair the one that is worse, for [`super::objective`]s that estimate a divergence one that
    /// belongs to another prompt.
    pub other: Option<Box<Example>>,
    /// `ln p` of the completion under the reference model, in nats, once it is known.
    pub reference: Option<f64>,
    /// The line of the file that it was read from, from 1, where files have lines.
    pub line: Option<usize>,
}

impl Example {
    /// These tokens, of which some count.
    pub fn new(tokens: Vec<u32>, counts: Vec<bool>) -> Self {
        Example { tokens, counts, ..Example::default() }
    }

    /// Every token counts.
    pub fn all(tokens: Vec<u32>) -> Self {
        Example::new(tokens.clone(), vec![true; tokens.len()])
    }

    /// A prompt and a completion, which counts.
    pub fn completion(prompt: &[u32], completion: &[u32]) -> Self {
        let counts = (0..prompt.len() + completion.len()).map(|i| i >= prompt.len()).collect();
        Example::new([prompt, completion].concat(), counts)
    }

    /// The same, liked or not.
    pub fn judged(self, good: bool) -> Self {
        Example { good: Some(good), ..self }
    }

    /// The same, better than `worse`.
    pub fn over(self, worse: Example) -> Self {
        Example { other: Some(Box::new(worse)), ..self }
    }

    /// The same, its loss times `weight`.
    pub fn weighted(self, weight: f32) -> Self {
        Example { weight: Some(weight), ..self }
    }

    /// Tokens whose prediction counts.
    pub fn counted(&self) -> usize {
        self.counts.iter().skip(1).filter(|c| **c).count()
    }

    /// Tokens before the last that counts whose prediction does not: those of the prompt.
    pub fn prompt(&self) -> usize {
        (1..self.counts.len()).rev().find(|t| self.counts[*t]).map_or(0, |last| last - self.counted())
    }

    /// Itself and, if there is one, the other.
    pub fn sequences(&self) -> impl Iterator<Item = &Example> {
        core::iter::once(self).chain(self.other.as_deref())
    }
}

/// What goes through the model together.
pub struct Batch {
    /// Inputs of all sequences, `[N]`; of rows that adapters write any token.
    pub tokens: Vec<u32>,
    /// Where each row stands.
    pub rows: Rows,
    /// Rows whose prediction counts, ascending.
    pub counted: Vec<usize>,
    /// What they should predict.
    pub targets: Vec<u32>,
    /// Which sum each of their log-probabilities belongs to: `2i` is the completion of sequence `i`, `2i + 1` its prompt.
    pub owners: Vec<usize>,
    /// Sums: two a sequence.
    pub sums: usize,
}

impl Batch {
    /// Lays sequences end to end; of those marked with `true` the predictions of prompts are wanted too. A sequence of
    /// `T` tokens gives at most `T − 1` rows: its last token is only predicted, and rows behind the last one that
    /// counts change nothing and are left out. Before each come `lead` rows that adapters write. `first` is the number of
    /// the first row among those of a step.
    ///
    /// # Errors
    /// `Invalid` for a sequence that does not fit the model.
    pub fn pack<'a>(
        sequences: impl IntoIterator<Item = (&'a Example, bool)>,
        model: &Model,
        lead: usize,
        first: u64,
    ) -> Result<Batch> {
        let (vocab, context) = (model.weights.vocab(), model.hparams.context);
        let mut b = Batch {
            tokens: Vec::new(),
            rows: Rows::new(lead, first),
            counted: Vec::new(),
            targets: Vec::new(),
            owners: Vec::new(),
            sums: 0,
        };
        for (i, (e, prompts)) in sequences.into_iter().enumerate() {
            b.sums = 2 * (i + 1);
            if e.counts.len() != e.tokens.len() {
                let why = format!("{} tokens but {} marks", e.tokens.len(), e.counts.len());
                return Err(Error::invalid(format!("example {i}"), why));
            }
            if let Some(t) = e.tokens.iter().find(|t| **t as usize >= vocab) {
                return Err(Error::invalid(format!("example {i}"), format!("token {t} of a vocabulary of {vocab}")));
            }
            // Rows before the text are beside the context, as in sessions.
            if e.tokens.len() > context + 1 {
                let why = format!("{} tokens, the model's context is {context}", e.tokens.len());
                return Err(Error::invalid(format!("example {i}"), why));
            }
            let Some(last) = (1..e.tokens.len()).rev().find(|t| e.counts[*t]) else { continue };
            let start = b.tokens.len();
            b.tokens.extend(core::iter::repeat_n(0, lead).chain(e.tokens[..last].iter().copied()));
            b.rows.positions.extend((0..lead + last).map(|p| p as u32));
            b.rows.segments.push(start..start + lead + last);
            for t in (1..=last).filter(|t| e.counts[*t] || prompts) {
                b.counted.push(start + lead + t - 1);
                b.targets.push(e.tokens[t]);
                b.owners.push(2 * i + usize::from(!e.counts[t]));
            }
        }
        b.rows.rotate(model);
        Ok(b)
    }

    /// The sums of the rows' log-probabilities, in order, in `f64`.
    pub fn sum(&self, logp: &[f32]) -> Vec<f64> {
        let mut sums = vec![0.0; self.sums];
        for (owner, logp) in self.owners.iter().zip(logp) {
            sums[*owner] += *logp as f64;
        }
        sums
    }
}
