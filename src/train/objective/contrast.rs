//! A query should find its own passage: `ℓ = ln softmax(cos(q, p) / τ)` at its positive, over the passages of the whole step.
//!
//! The passages of a step are the positives and the negatives of all its rows, as in sentence-transformers'
//! MultipleNegativesRankingLoss. For a row, those are left out that it cannot count as wrong: copies of its positive, and
//! positives of rows with the same query. So `ℓ` is the log-probability of a choice, and the objective is its likelihood.

use super::{Case, LossTerm, Totals, Values};
use crate::error::Result;
use crate::model::{HParams, Pooling};
use crate::train::Example;
use core::ops::Range;
use std::collections::{BTreeMap, BTreeSet};
use std::prelude::v1::*;

/// InfoNCE: `L = −Σ w·ℓ / n`. The other completion's place holds the most likely wrong passage, for recall.
pub(super) fn infonce(_: &Values, totals: &Totals, case: &Case) -> LossTerm {
    let wrong = case.other.map_or(0.0, |other| other.logp);
    LossTerm::mean(totals, case, -case.answer.logp, -1.0, 0.0).rewards(case.answer.logp, wrong)
}

/// How texts are compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Contrast {
    /// `τ`.
    pub temperature: f64,
    /// How a text becomes a vector.
    pub pooling: Pooling,
}

impl Contrast {
    /// From the settings of an objective of [`super::Shape::Contrast`].
    ///
    /// # Errors
    /// Those of [`Pooling::of`].
    pub fn new(values: &Values, h: &HParams) -> Result<Contrast> {
        let pooling = match values.word(super::POOLING.name) {
            super::FILE => Pooling::of(h)?,
            name => Pooling::by_name(name)?,
        };
        Ok(Contrast { temperature: values.real(super::TEMPERATURE.name), pooling })
    }
}

/// A row of a step: its texts by their numbers.
struct Row {
    /// The query, and its positive behind it.
    query: usize,
    /// Which of the queries and which of the positives it is.
    ids: usize,
}

/// Who may choose what: the rows of a step, whose texts stand in order, each query before its passages, positive first.
pub struct Choice {
    rows: Vec<Row>,
    /// The passages: texts that are no query.
    passages: Vec<usize>,
    /// The number of each passage's text among different ones.
    ids: Vec<usize>,
    /// Of each query that is different from others, the texts that are right.
    right: Vec<BTreeSet<usize>>,
    texts: usize,
}

impl Choice {
    /// Of these rows.
    pub fn of<'a>(examples: impl IntoIterator<Item = &'a Example>) -> Choice {
        let (mut queries, mut texts) = (BTreeMap::<&[u32], usize>::new(), BTreeMap::<&[u32], usize>::new());
        let mut out = Choice { rows: Vec::new(), passages: Vec::new(), ids: Vec::new(), right: Vec::new(), texts: 0 };
        for e in examples {
            let next = queries.len();
            let ids = *queries.entry(&e.tokens).or_insert(next);
            out.rows.push(Row { query: out.texts, ids });
            out.right.resize_with(queries.len(), BTreeSet::new);
            for (i, passage) in e.passages.iter().enumerate() {
                let next = texts.len();
                let id = *texts.entry(&passage.tokens).or_insert(next);
                out.passages.push(out.texts + 1 + i);
                out.ids.push(id);
                if i == 0 {
                    out.right[ids].insert(id);
                }
            }
            out.texts += 1 + e.passages.len();
        }
        out
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Texts of all rows.
    pub fn texts(&self) -> usize {
        self.texts
    }

    /// Bytes that `texts` texts of a step take here, with vectors of `width` and their gradients.
    pub fn bytes(texts: usize, width: usize) -> usize {
        // Vectors and their gradients in f32, the step's and a pass's; units and theirs in f64; tables.
        texts * (width * (4 * 4 + 2 * 8) + 256)
    }

    /// The passages that a row chooses among, its own first: `(number of the text, cosine / τ)`.
    fn scores(&self, row: &Row, units: &[f64], width: usize, temperature: f64, out: &mut Vec<(usize, f64)>) {
        let at = |i: usize| -> &[f64] { &units[i * width..(i + 1) * width] };
        let (query, own) = (at(row.query), row.query + 1);
        let score = |i: usize| query.iter().zip(at(i)).map(|(a, b)| a * b).sum::<f64>() / temperature;
        out.clear();
        out.push((own, score(own)));
        let wrong = |(_, id): &(&usize, &usize)| !self.right[row.ids].contains(id);
        out.extend(self.passages.iter().zip(&self.ids).filter(wrong).map(|(&i, _)| (i, score(i))));
    }

    /// For each row `ℓ` of its positive and of the most likely wrong passage; where there is none, that of the positive, 0, which
    /// counts as half right. vectors: `[texts, width]`.
    pub fn log_probs(&self, vectors: &[f32], width: usize, temperature: f64) -> Vec<f64> {
        let (units, mut scores, mut out) = (units(vectors, width).0, Vec::new(), Vec::with_capacity(2 * self.len()));
        for row in &self.rows {
            self.scores(row, &units, width, temperature, &mut scores);
            let total = log_sum(&scores);
            let wrong = scores[1..].iter().map(|s| s.1).reduce(f64::max).unwrap_or(scores[0].1);
            out.extend([scores[0].1 - total, wrong - total]);
        }
        out
    }

    /// Gradients by the vectors of a loss whose derivatives by the numbers of [`Choice::log_probs`] are `slopes`, of which
    /// those of positives count.
    pub fn backward(&self, vectors: &[f32], width: usize, temperature: f64, slopes: &[f32]) -> Vec<f32> {
        let (units, lengths) = units(vectors, width);
        let (mut grads, mut scores) = (vec![0.0f64; units.len()], Vec::new());
        for (row, slope) in self.rows.iter().zip(slopes.iter().step_by(2)) {
            self.scores(row, &units, width, temperature, &mut scores);
            let total = log_sum(&scores);
            let at = |i: usize| i * width..(i + 1) * width;
            for (j, &(i, score)) in scores.iter().enumerate() {
                let chosen = if j == 0 { 1.0 } else { 0.0 };
                let g = f64::from(*slope) * (chosen - libm::exp(score - total)) / temperature;
                let mut add = |to: Range<usize>, from: Range<usize>| {
                    grads[to].iter_mut().zip(&units[from]).for_each(|(d, u)| *d += g * u);
                };
                add(at(row.query), at(i));
                add(at(i), at(row.query));
            }
        }
        let each = grads.chunks_exact(width).zip(units.chunks_exact(width)).zip(lengths);
        each.flat_map(|((grad, unit), length)| {
            let along: f64 = grad.iter().zip(unit).map(|(g, u)| g * u).sum();
            let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
            grad.iter().zip(unit).map(move |(g, u)| ((g - along * u) * scale) as f32)
        })
        .collect()
    }
}

/// `ln Σ eˢ`.
fn log_sum(scores: &[(usize, f64)]) -> f64 {
    let most = scores.iter().map(|s| s.1).fold(f64::NEG_INFINITY, f64::max);
    most + libm::log(scores.iter().map(|s| libm::exp(s.1 - most)).sum())
}

/// Vectors scaled to length 1, and their lengths; one of zeros stays as it is.
fn units(vectors: &[f32], width: usize) -> (Vec<f64>, Vec<f64>) {
    let mut units: Vec<f64> = vectors.iter().map(|v| f64::from(*v)).collect();
    let scale = |unit: &mut [f64]| {
        let length = libm::sqrt(unit.iter().map(|v| v * v).sum());
        if length != 0.0 {
            unit.iter_mut().for_each(|v| *v /= length);
        }
        length
    };
    let lengths = units.chunks_exact_mut(width).map(scale).collect();
    (units, lengths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(query: u32, passages: &[u32]) -> Example {
        let text = |t: u32| Example::new(vec![t], vec![false]);
        text(query).finding(passages.iter().map(|p| text(*p)).collect())
    }

    #[test]
    fn the_passages_of_a_step_are_those_of_all_rows() {
        // The third row has the query of the first, the fourth the positive of the first.
        let rows = [row(1, &[10, 11]), row(2, &[12]), row(1, &[13]), row(3, &[10, 14])];
        let choice = Choice::of(&rows);
        assert_eq!((choice.len(), choice.texts()), (4, 10));
        let vectors = vec![1.0; 2 * 10];
        let mut scores = Vec::new();
        let mut seen = |i: usize| {
            choice.scores(&choice.rows[i], &units(&vectors, 2).0, 2, 1.0, &mut scores);
            scores.iter().map(|s| s.0).collect::<Vec<_>>()
        };
        assert_eq!(seen(0), [1, 2, 4, 9]);
        assert_eq!(seen(1), [4, 1, 2, 6, 8, 9]);
        assert_eq!(seen(2), [6, 2, 4, 9]);
        assert_eq!(seen(3), [8, 2, 4, 6, 9]);
    }

    #[test]
    fn the_loss_is_that_of_a_softmax_of_cosines() {
        let rows = [row(1, &[10]), row(2, &[11])];
        // Lengths do not matter.
        let vectors = [3.0, 0.0, 0.5, 0.0, 0.0, 2.0, 0.6, 0.8];
        let got = Choice::of(&rows).log_probs(&vectors, 2, 0.5);
        let ln = |a: f64, b: f64| a - (a.exp() + b.exp()).ln();
        let want = [ln(2.0, 1.2), ln(1.2, 2.0), ln(1.6, 0.0), ln(0.0, 1.6)];
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() < 1e-6, "{got} for {want}");
        }
        // A row alone has nothing to choose from.
        assert_eq!(Choice::of(&rows[..1]).log_probs(&vectors[..4], 2, 0.5), [0.0, 0.0]);
    }

    #[test]
    fn gradients_agree_with_differences() {
        let rows = [row(1, &[10, 11]), row(2, &[12]), row(1, &[13, 15, 16])];
        let (choice, width, temperature) = (Choice::of(&rows), 3, 0.3);
        let vectors: Vec<f32> = (0..choice.texts() * width).map(|i| ((i * 7 + 3) % 11) as f32 / 4.0 - 1.2).collect();
        let slopes = [-0.4f32, 0.0, -0.3, 0.0, 0.2, 0.0];
        let loss = |vectors: &[f32]| -> f64 {
            let sums = choice.log_probs(vectors, width, temperature);
            sums.iter().zip(&slopes).map(|(s, c)| s * f64::from(*c)).sum()
        };
        let grads = choice.backward(&vectors, width, temperature, &slopes);
        for i in 0..vectors.len() {
            let moved = |by: f32| {
                let mut v = vectors.clone();
                v[i] += by;
                loss(&v)
            };
            let step = 1.0 / 256.0;
            let want = (moved(step) - moved(-step)) / (2.0 * f64::from(step));
            assert!((want - f64::from(grads[i])).abs() < 2e-4, "{i}: {} for {want}", grads[i]);
        }
    }
}
