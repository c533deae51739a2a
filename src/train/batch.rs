//! Examples, laid end to end: ragged, never padded.

use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::block::Layout;
use std::prelude::v1::*;

/// A sequence of tokens, and which of them are to be learnt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// The tokens.
    pub tokens: Vec<u32>,
    /// Whether the prediction of each counts; the first has none, so its entry is ignored.
    pub counts: Vec<bool>,
}

impl Example {
    /// Every token counts.
    pub fn all(tokens: Vec<u32>) -> Self {
        Example { counts: vec![true; tokens.len()], tokens }
    }

    /// Tokens whose prediction counts.
    pub fn counted(&self) -> usize {
        self.counts.iter().skip(1).filter(|c| **c).count()
    }
}

/// What goes through the model together.
pub struct Batch {
    /// Inputs of all sequences, `[N]`.
    pub tokens: Vec<u32>,
    /// Where each row stands.
    pub layout: Layout,
    /// Rows whose prediction counts, ascending.
    pub rows: Vec<usize>,
    /// What they should predict.
    pub targets: Vec<u32>,
}

impl Batch {
    /// A sequence of `T` tokens gives at most `T − 1` rows: its last token is only predicted, and rows behind the last
    /// one that counts change nothing and are left out.
    ///
    /// # Errors
    /// `Invalid` for an example that does not fit the model.
    pub fn pack(examples: &[Example], model: &Model) -> Result<Batch> {
        let (vocab, context) = (model.weights.vocab(), model.hparams.context);
        let mut b = Batch { tokens: Vec::new(), layout: Layout::default(), rows: Vec::new(), targets: Vec::new() };
        for (i, e) in examples.iter().enumerate() {
            if e.counts.len() != e.tokens.len() {
                let why = format!("{} tokens but {} marks", e.tokens.len(), e.counts.len());
                return Err(Error::invalid(format!("example {i}"), why));
            }
            if let Some(t) = e.tokens.iter().find(|t| **t as usize >= vocab) {
                return Err(Error::invalid(format!("example {i}"), format!("token {t} of a vocabulary of {vocab}")));
            }
            if e.tokens.len() > context + 1 {
                let why = format!("{} tokens, the model's context is {context}", e.tokens.len());
                return Err(Error::invalid(format!("example {i}"), why));
            }
            let Some(last) = (1..e.tokens.len()).rev().find(|t| e.counts[*t]) else { continue };
            let start = b.tokens.len();
            b.tokens.extend(&e.tokens[..last]);
            b.layout.positions.extend((0..last).map(|p| p as u32));
            b.layout.segments.push(start..start + last);
            for t in (1..=last).filter(|t| e.counts[*t]) {
                b.rows.push(start + t - 1);
                b.targets.push(e.tokens[t]);
            }
        }
        Ok(b)
    }
}
