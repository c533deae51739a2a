//! What must be known of rows before the first step: weights that follow from their prompts, and reference log-probabilities.

use crate::error::Result;
use crate::train::density::{self, Classifier};
use crate::train::{Example, Trainer};
use std::prelude::v1::*;

/// The weights of rows that were not liked, after density ratios.
///
/// ```
/// # fn main() -> mynah::Result<()> {
/// # #[cfg(feature = "base")] {
/// use mynah::{Event, Mynah, train::objective};
///
/// let mynah = Mynah::embedded()?;
/// let rows = r#"{"prompt": "Tea?", "completion": " Tea.", "label": true}
/// {"prompt": "A walk?", "completion": " Soup.", "label": false}"#;
/// let setup = mynah.lesson("lora").steps(1).objective(objective::Spec::new("bco"));
/// let lesson = setup.settings(|s| s.density_ratios = true).lines(rows)?;
/// for event in lesson {
///     if let Event::Weighed(ratios) = event? {
///         assert_eq!(ratios.rows, 1); // the one that was not liked
///         assert!(ratios.least <= ratios.mean && ratios.mean <= ratios.most);
///     }
/// }
/// # }
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratios {
    /// Rows that were not liked.
    pub rows: usize,
    /// The least ratio that a weight was multiplied by.
    pub least: f32,
    /// The greatest.
    pub most: f32,
    /// Their mean.
    pub mean: f32,
}

/// Multiplies the weights of rows that were not liked by their density ratio, as a classifier has it that is fitted to the
/// rows to learn; what is held out is weighed by the same.
pub(super) struct Weighing {
    /// Rows to learn that the classifier is fitted to.
    fitted: Vec<usize>,
    /// Rows whose embedding is needed.
    wanted: Vec<usize>,
    /// The embeddings of all rows, as far as they are needed and known.
    known: Vec<Vec<f32>>,
    done: usize,
}

impl Weighing {
    /// Of rows of which the first `learnt` are learnt.
    pub fn new(rows: &[Example], learnt: usize) -> Weighing {
        let fitted: Vec<usize> = density::sample(learnt).collect();
        let wanted = |i: &usize| rows[*i].good != Some(true) || fitted.binary_search(i).is_ok();
        let wanted = (0..rows.len()).filter(wanted).collect();
        Weighing { wanted, fitted, known: vec![Vec::new(); rows.len()], done: 0 }
    }

    /// Rows done, and all.
    pub fn progress(&self) -> (u64, u64) {
        (self.done as u64, self.wanted.len() as u64)
    }

    /// One more row; `false` if there is none.
    pub fn next(&mut self, trainer: &mut Trainer, rows: &[Example]) -> Result<bool> {
        let Some(&i) = self.wanted.get(self.done) else { return Ok(false) };
        self.known[i] = trainer.embed(&rows[i])?;
        self.done += 1;
        Ok(true)
    }

    /// Weighs the rows.
    pub fn finish(self, rows: &mut [Example]) -> Result<Ratios> {
        let liked = |i: usize| rows[i].good == Some(true);
        let samples: Vec<(&[f32], bool)> = self.fitted.iter().map(|&i| (&*self.known[i], liked(i))).collect();
        let classifier = Classifier::fit(&samples)?;
        let mut ratios = Vec::new();
        for (row, embedding) in rows.iter_mut().zip(&self.known).filter(|(row, _)| row.good != Some(true)) {
            let ratio = classifier.ratio(embedding);
            row.weight = Some(row.weight.unwrap_or(1.0) * ratio);
            ratios.push(ratio);
        }
        let (least, most) = ratios.iter().fold((f32::MAX, 0f32), |(least, most), r| (least.min(*r), most.max(*r)));
        let mean = ratios.iter().sum::<f32>() / ratios.len() as f32;
        Ok(Ratios { rows: ratios.len(), least, most, mean })
    }
}

/// Whether the log-probability under the reference is missing of a row or of its other completion.
pub(super) fn lacks_reference(row: &Example) -> bool {
    row.sequences().any(|e| e.reference.is_none())
}
