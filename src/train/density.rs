//! Density ratios: how much more likely a prompt is among those of liked completions than among those of disliked ones.
//!
//! In feedback from users, the prompts of liked and of disliked completions may come from different distributions. An
//! objective then learns to tell prompts apart instead of answers. The weight of a disliked completion is therefore
//! `u(x) = clip(p / (1 − p), 0.5, 10)`, with `p` the probability that a completion of this prompt is liked (Binary
//! Classifier Optimization, arXiv:2404.04656, section 4.3). `p` is a logistic regression on [`super::Trainer::embed`]
//! of prompts.

use super::objective::{log_sigmoid, sigmoid};
use crate::error::{Error, Result};
use std::prelude::v1::*;

/// Most prompts that a classifier is fitted to.
pub const MOST: usize = 1024;

/// Bounds of a ratio.
pub const BOUNDS: [f64; 2] = [0.5, 10.0];

/// Most steps of Newton's method; about ten are enough for a regression.
const STEPS: usize = 50;

/// Tolerance: the fit ends when the norm of the gradient is below this part of the first one.
const DONE: f64 = 1e-9;

/// A classifier of prompts: those of liked completions against those of disliked ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Classifier {
    /// A weight for each entry of an embedding, then the intercept.
    weights: Vec<f64>,
}

impl Classifier {
    /// Fits `½‖w‖² + Σᵢ sᵢ · −ln σ(±(w·xᵢ + b))` by Newton's method. `sᵢ` are class weights, which make both classes
    /// count as half of the rows. The result depends on the rows and their order only.
    ///
    /// # Errors
    /// `Invalid` without a row of either class; `Mismatch` for embeddings of different lengths.
    pub fn fit(rows: &[(&[f32], bool)]) -> Result<Classifier> {
        let liked = rows.iter().filter(|row| row.1).count();
        if liked == 0 || liked == rows.len() {
            let why = format!("{liked} of {} are of liked completions; some of both are needed", rows.len());
            return Err(Error::invalid("prompts to tell apart", why));
        }
        let width = rows[0].0.len();
        if let Some(other) = rows.iter().find(|row| row.0.len() != width) {
            return Err(Error::mismatch("length of an embedding", width, other.0.len()));
        }
        let share = |n: usize| rows.len() as f64 / (2 * n) as f64;
        let shares = [share(rows.len() - liked), share(liked)];
        let fit = Fit { rows, shares };
        let mut found = Classifier { weights: vec![0.0; width + 1] };
        let (mut loss, mut grad, mut curves) = fit.at(&found);
        let enough = DONE * libm::sqrt(dot(&grad, &grad));
        for _ in 0..STEPS {
            if libm::sqrt(dot(&grad, &grad)) <= enough {
                break;
            }
            let step = fit.solve(&curves, &grad);
            let fall = dot(&step, &grad);
            // Backtracking line search: far from the minimum a full step may overshoot.
            let mut factor = 1.0;
            let next = loop {
                let weights = found.weights.iter().zip(&step).map(|(w, s)| w - factor * s).collect();
                let next = Classifier { weights };
                let at = fit.at(&next);
                if at.0 <= loss - 1e-4 * factor * fall {
                    break Some((next, at));
                }
                factor /= 2.0;
                if factor < 1e-6 {
                    break None;
                }
            };
            // No descent: the minimum, up to rounding.
            let Some((next, at)) = next else { break };
            found = next;
            (loss, grad, curves) = at;
        }
        Ok(found)
    }

    /// The probability that a completion of the prompt with this embedding is liked, if both classes are equally frequent.
    pub fn probability(&self, embedding: &[f32]) -> f64 {
        sigmoid(self.score(embedding))
    }

    /// `u(x)`: the factor of the loss of a disliked completion of this prompt.
    pub fn ratio(&self, embedding: &[f32]) -> f32 {
        // p / (1 − p)
        libm::exp(self.score(embedding)).clamp(BOUNDS[0], BOUNDS[1]) as f32
    }

    fn score(&self, embedding: &[f32]) -> f64 {
        let (weights, constant) = self.weights.split_at(self.weights.len() - 1);
        embedding.iter().zip(weights).fold(constant[0], |sum, (x, w)| sum + f64::from(*x) * w)
    }
}

/// Which of `n` rows a classifier is fitted to: all, or [`MOST`] of them, evenly spread.
pub fn sample(n: usize) -> impl Iterator<Item = usize> {
    let most = n.min(MOST);
    (0..most).map(move |i| i * n / most)
}

struct Fit<'a> {
    rows: &'a [(&'a [f32], bool)],
    /// Class weights: of a disliked row and of a liked one.
    shares: [f64; 2],
}

impl Fit<'_> {
    /// The loss, its gradient, and each row's second derivative by its score.
    fn at(&self, found: &Classifier) -> (f64, Vec<f64>, Vec<f64>) {
        let last = found.weights.len() - 1;
        let mut grad = found.weights.clone();
        grad[last] = 0.0;
        let mut loss = dot(&grad, &grad) / 2.0;
        let mut curves = Vec::with_capacity(self.rows.len());
        for (x, liked) in self.rows {
            let (score, share) = (found.score(x), self.shares[usize::from(*liked)]);
            let (sign, p) = (if *liked { 1.0 } else { -1.0 }, sigmoid(score));
            loss -= share * log_sigmoid(sign * score);
            add(&mut grad, share * (p - f64::from(u8::from(*liked))), x);
            curves.push(share * p * (1.0 - p));
        }
        (loss, grad, curves)
    }

    /// `H⁻¹ · grad`, by conjugate gradients; `H = I + Σᵢ curveᵢ · xᵢ xᵢᵀ` is never formed.
    fn solve(&self, curves: &[f64], grad: &[f64]) -> Vec<f64> {
        let product = |v: &[f64]| {
            let last = v.len() - 1;
            let mut out = v.to_vec();
            // The intercept is not regularised; a tiny penalty keeps `H` regular if all rows are classified with certainty.
            out[last] *= 1e-9;
            for ((x, _), curve) in self.rows.iter().zip(curves) {
                let along = x.iter().zip(v).fold(v[last], |sum, (x, v)| sum + f64::from(*x) * v);
                add(&mut out, curve * along, x);
            }
            out
        };
        let mut found = vec![0.0; grad.len()];
        let (mut rest, mut along) = (grad.to_vec(), grad.to_vec());
        let mut size = dot(&rest, &rest);
        let enough = size * 1e-16;
        for _ in 0..2 * grad.len() {
            if size <= enough {
                break;
            }
            let bent = product(&along);
            let factor = size / dot(&along, &bent);
            for i in 0..found.len() {
                found[i] += factor * along[i];
                rest[i] -= factor * bent[i];
            }
            let next = dot(&rest, &rest);
            for (a, r) in along.iter_mut().zip(&rest) {
                *a = r + next / size * *a;
            }
            size = next;
        }
        found
    }
}

/// Adds `factor · (x, 1)`.
fn add(out: &mut [f64], factor: f64, x: &[f32]) {
    let last = out.len() - 1;
    for (out, x) in out.iter_mut().zip(x) {
        *out += factor * f64::from(*x);
    }
    out[last] += factor;
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Twelve rows of three numbers, four of them liked.
    fn rows() -> Vec<([f32; 3], bool)> {
        let value = |i: usize, j: usize| ((7 * i + 5 * j * j + 3) % 11) as f32 / 8.0 - 0.5;
        (0..12).map(|i| ([0, 1, 2].map(|j| value(i, j)), (5 * i + 1) % 7 < 2)).collect()
    }

    #[test]
    fn a_fit_is_that_of_scikit_learn() {
        let rows = rows();
        let rows: Vec<(&[f32], bool)> = rows.iter().map(|(x, liked)| (&x[..], *liked)).collect();
        let found = Classifier::fit(&rows).unwrap();
        // LogisticRegression(class_weight="balanced", tol=1e-14, solver="newton-cholesky") of 1.9.1.
        let wanted = [0.40012012828806887, 0.006128741476622332, -0.39021745677105163, -0.033835442042575846];
        for (found, wanted) in found.weights.iter().zip(wanted) {
            assert!((found - wanted).abs() < 1e-8, "{found} for {wanted}");
        }
        let p = found.probability(rows[0].0);
        assert!((p - 0.5163805006550376).abs() < 1e-8, "{p}");
        assert!((found.ratio(rows[0].0) as f64 - p / (1.0 - p)).abs() < 1e-6);
    }

    #[test]
    fn classes_apart_end_at_the_bounds() {
        let rows: Vec<([f32; 2], bool)> = (0..40).map(|i| ([i as f32 - 19.5, 1.0], i >= 20)).collect();
        let rows: Vec<(&[f32], bool)> = rows.iter().map(|(x, liked)| (&x[..], *liked)).collect();
        let found = Classifier::fit(&rows).unwrap();
        assert_eq!([found.ratio(&[-19.5, 1.0]), found.ratio(&[19.5, 1.0])], [0.5, 10.0]);
        let near = found.ratio(&[0.0, 1.0]);
        assert!((near - 1.0).abs() < 1e-3, "{near} halfway");
    }

    #[test]
    fn what_cannot_be_told_apart_is_an_error() {
        let x = [1.0f32, 2.0];
        let text = Classifier::fit(&[(&x, true), (&x, true)]).unwrap_err().to_string();
        assert!(text.contains("2 of 2 are of liked completions"), "{text}");
        assert!(Classifier::fit(&[(&x, true), (&x[..1], false)]).is_err());
        assert!(Classifier::fit(&[]).is_err());
        assert_eq!(sample(3).collect::<Vec<_>>(), [0, 1, 2]);
        let many: Vec<usize> = sample(10_000).collect();
        assert!(many.len() == MOST && many.is_sorted() && *many.last().unwrap() < 10_000);
    }
}
