//! Gradient descent with momentum, in the form of PyTorch's `SGD` without dampening.

use super::{BETA1, Common, Optimizer, Origin, Part, State, StateMut, exchanged, grown, single, values};
use crate::knob::Values;
use std::prelude::v1::*;

/// The velocity.
pub struct Sgd {
    common: Common,
    beta1: f32,
    parts: Vec<Part>,
    m: Vec<f32>,
}

impl Sgd {
    /// The initial state: velocity 0.
    pub fn new(settings: &Values, parts: Vec<Part>) -> Self {
        Sgd { common: Common::of(settings), beta1: single(settings, &BETA1), m: vec![0.0; values(&parts)], parts }
    }
}

impl Optimizer for Sgd {
    /// `m ← β₁·m + g`, `p ← p·(1 − lr·λ) − lr·m`.
    fn step(&mut self, params: &mut [f32], grads: &[f32], lr: f32) {
        let beta1 = self.beta1;
        for part in &self.parts {
            let ((lr, shrink), at) = (self.common.rate(lr, part), part.range.clone());
            for ((p, g), m) in params[at.clone()].iter_mut().zip(&grads[at.clone()]).zip(&mut self.m[at]) {
                *m = beta1 * *m + g;
                *p = *p * shrink - lr * *m;
            }
        }
    }

    fn grow(&mut self, parts: Vec<Part>) {
        self.m = grown(&self.parts, &parts, &self.m);
        self.parts = parts;
    }

    fn exchange(&mut self, origins: &[Origin]) {
        self.m = exchanged(origins, &self.m, |known| known.mean);
    }

    fn state(&self) -> Vec<(&'static str, State<'_>)> {
        vec![("m", State::F32(&self.m))]
    }

    fn state_mut(&mut self) -> Vec<(&'static str, StateMut<'_>)> {
        vec![("m", StateMut::F32(&mut self.m))]
    }
}
