//! Adam with decoupled weight decay (arXiv:1711.05101), in the form of PyTorch's `AdamW`.

use super::Optimizer;
use crate::math;
use std::prelude::v1::*;

/// Moments and their decays.
pub struct AdamW {
    m: Vec<f32>,
    v: Vec<f32>,
    beta1: f32,
    beta2: f32,
    eps: f32,
    decay: f32,
    steps: i32,
}

impl AdamW {
    /// For `len` parameters; all moments 0.
    pub fn new(len: usize, beta1: f32, beta2: f32, eps: f32, decay: f32) -> Self {
        AdamW { m: vec![0.0; len], v: vec![0.0; len], beta1, beta2, eps, decay, steps: 0 }
    }
}

impl Optimizer for AdamW {
    /// `p ← p·(1 − lr·λ) − lr · m̂ / (√v̂ + ε)` with bias-corrected `m̂`, `v̂`.
    fn step(&mut self, params: &mut [f32], grads: &[f32], lr: f32) {
        self.steps += 1;
        let (b1, b2) = (self.beta1, self.beta2);
        let correct = |b: f32| 1.0 - libm::pow(b as f64, self.steps as f64);
        let rate = (lr as f64 / correct(b1)) as f32;
        let root = (1.0 / libm::sqrt(correct(b2))) as f32;
        let shrink = 1.0 - lr * self.decay;
        for (((p, g), m), v) in params.iter_mut().zip(grads).zip(&mut self.m).zip(&mut self.v) {
            *m = b1 * *m + (1.0 - b1) * g;
            *v = b2 * *v + (1.0 - b2) * g * g;
            *p = *p * shrink - rate * (*m / (math::sqrt(*v) * root + self.eps));
        }
    }
}
