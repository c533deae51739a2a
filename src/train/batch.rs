//! Examples and batches: sequences are concatenated, never padded.

use crate::error::{Error, Result};
use crate::model::{Model, Pooling, Rows, embedding};
use core::ops::Range;
use std::prelude::v1::*;

/// A sequence of tokens, the loss mask that says which of them are targets, and what the data set says about them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Example {
    /// The tokens.
    pub tokens: Vec<u32>,
    /// The loss mask: whether each token is a target, one whose prediction enters the loss. Those of the completion are.
    /// The first token is not predicted, so its entry is ignored.
    pub mask: Vec<bool>,
    /// Factor of its loss; `None` is 1.
    pub weight: Option<f32>,
    /// The verdict on the completion, liked or not, if there is one.
    pub good: Option<bool>,
    /// Another completion: in a pair the one that is worse, for [`super::objective`]s that estimate a divergence one that
    /// belongs to another prompt.
    pub other: Option<Box<Example>>,
    /// Where the tokens are a query: the passage that it should find, then those that it should not. Their loss masks, and
    /// that of the query, are not used.
    pub passages: Vec<Example>,
    /// `ln p` of the completion under the reference model, in nats, once it is computed.
    pub reference: Option<f64>,
    /// The line of the file that it was read from, from 1, if files have lines.
    pub line: Option<usize>,
}

impl Example {
    /// These tokens under this loss mask.
    pub fn new(tokens: Vec<u32>, mask: Vec<bool>) -> Self {
        Example { tokens, mask, ..Example::default() }
    }

    /// Every token is a target.
    pub fn all(tokens: Vec<u32>) -> Self {
        Example::new(tokens.clone(), vec![true; tokens.len()])
    }

    /// A prompt and a completion; the tokens of the completion are the targets.
    pub fn completion(prompt: &[u32], completion: &[u32]) -> Self {
        let mask = (0..prompt.len() + completion.len()).map(|i| i >= prompt.len()).collect();
        Example::new([prompt, completion].concat(), mask)
    }

    /// The example with a verdict: liked or not.
    pub fn judged(self, good: bool) -> Self {
        Example { good: Some(good), ..self }
    }

    /// The example as the better one of a pair.
    pub fn over(self, worse: Example) -> Self {
        Example { other: Some(Box::new(worse)), ..self }
    }

    /// The example as a query that should find the first of these passages.
    pub fn finding(self, passages: Vec<Example>) -> Self {
        Example { passages, ..self }
    }

    /// The example with a factor of its loss.
    pub fn weighted(self, weight: f32) -> Self {
        Example { weight: Some(weight), ..self }
    }

    /// Number of target tokens.
    pub fn targets(&self) -> usize {
        self.mask.iter().skip(1).filter(|c| **c).count()
    }

    /// Number of tokens before the last target that are predicted and are no targets: those of the prompt.
    pub fn prompt(&self) -> usize {
        (1..self.mask.len()).rev().find(|t| self.mask[*t]).map_or(0, |last| last - self.targets())
    }

    /// The example itself and its other completion, if there is one; of a query its passages.
    pub fn sequences(&self) -> impl Iterator<Item = &Example> {
        core::iter::once(self).chain(self.other.as_deref()).chain(&self.passages)
    }
}

/// A micro-batch: sequences that go through the model together.
pub struct Batch {
    /// Inputs of all sequences, `[N]`; arbitrary tokens at rows that adapters write.
    pub tokens: Vec<u32>,
    /// The positions and sequences of the rows.
    pub rows: Rows,
    /// Rows that predict a target, ascending.
    pub target_rows: Vec<usize>,
    /// The tokens that they should predict.
    pub targets: Vec<u32>,
    /// The sum to which each of their log-probabilities belongs: `2i` is the completion of sequence `i`, `2i + 1` its
    /// prompt.
    pub owners: Vec<usize>,
    /// Number of sums: two a sequence.
    pub sums: usize,
    /// Where texts are embedded: the pooled rows of each, by their places in `target_rows`.
    pub groups: Vec<Range<usize>>,
}

impl Batch {
    /// Lays sequences end to end; of those marked with `true` the prompt tokens are targets too. A sequence of `T`
    /// tokens gives at most `T − 1` rows: its last token is only predicted, and rows behind the last target are left
    /// out, since they change nothing. Before each come `lead` rows that adapters write. `first` is the number of the
    /// first row among those of a step.
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
            target_rows: Vec::new(),
            targets: Vec::new(),
            owners: Vec::new(),
            sums: 0,
            groups: Vec::new(),
        };
        for (i, (e, prompts)) in sequences.into_iter().enumerate() {
            b.sums = 2 * (i + 1);
            if e.mask.len() != e.tokens.len() {
                let why = format!("{} tokens but a loss mask of {}", e.tokens.len(), e.mask.len());
                return Err(Error::invalid(format!("example {i}"), why));
            }
            if let Some(t) = e.tokens.iter().find(|t| **t as usize >= vocab) {
                return Err(Error::invalid(format!("example {i}"), format!("token {t} of a vocabulary of {vocab}")));
            }
            // Rows before the text do not count against the context, as in sessions.
            if e.tokens.len() > context + 1 {
                let why = format!("{} tokens, the model's context is {context}", e.tokens.len());
                return Err(Error::invalid(format!("example {i}"), why));
            }
            let Some(last) = (1..e.tokens.len()).rev().find(|t| e.mask[*t]) else { continue };
            if let Some(most) = model.hparams.most_positions().filter(|most| lead + last > *most) {
                let what = format!("positions of example {i}, {lead} of them an adapter's");
                return Err(Error::limit(what, (lead + last) as u64, most as u64));
            }
            let start = b.tokens.len();
            b.tokens.extend(core::iter::repeat_n(0, lead).chain(e.tokens[..last].iter().copied()));
            b.rows.positions.extend((0..lead + last).map(|p| p as u32));
            b.rows.segments.push(start..start + lead + last);
            for t in (1..=last).filter(|t| e.mask[*t] || prompts) {
                b.target_rows.push(start + lead + t - 1);
                b.targets.push(e.tokens[t]);
                b.owners.push(2 * i + usize::from(!e.mask[t]));
            }
        }
        b.rows.rotate(model);
        Ok(b)
    }

    /// Lays whole texts end to end, to be embedded. Before each come `lead` rows that adapters write, which are not pooled.
    /// `first` is the number of the first row among those of a step.
    ///
    /// # Errors
    /// Those of the check of texts.
    pub fn texts<'a>(
        texts: impl IntoIterator<Item = &'a Example>,
        model: &Model,
        pooling: Pooling,
        lead: usize,
        first: u64,
    ) -> Result<Batch> {
        let mut b = Batch {
            tokens: Vec::new(),
            rows: Rows::new(lead, first),
            target_rows: Vec::new(),
            targets: Vec::new(),
            owners: Vec::new(),
            sums: 0,
            groups: Vec::new(),
        };
        for (i, text) in texts.into_iter().enumerate() {
            embedding::check(model, i, &text.tokens, lead)?;
            let start = b.tokens.len() + lead;
            b.tokens.extend(core::iter::repeat_n(0, lead).chain(text.tokens.iter().copied()));
            b.rows.push(0..lead + text.tokens.len());
            let place = b.target_rows.len();
            b.target_rows.extend(pooling.rows(start..b.tokens.len()));
            b.groups.push(place..b.target_rows.len());
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
