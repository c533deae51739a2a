//! Lion (arXiv:2302.06675): every value moves by the rate, in the direction of a momentum's sign.

use super::{Optimizer, Part, Settings, State, StateMut, values};
use std::prelude::v1::*;

/// The momentum and its decays.
pub struct Lion {
    settings: Settings,
    parts: Vec<Part>,
    m: Vec<f32>,
}

impl Lion {
    /// No momentum.
    pub fn new(settings: Settings, parts: Vec<Part>) -> Self {
        Lion { settings, m: vec![0.0; values(&parts)], parts }
    }
}

impl Optimizer for Lion {
    /// `p ← p·(1 − lr·λ) − lr · sign(β₁·m + (1 − β₁)·g)`, then `m ← β₂·m + (1 − β₂)·g`; the sign of 0 is 0.
    fn step(&mut self, params: &mut [f32], grads: &[f32], lr: f32) {
        let Settings { beta1, beta2, decay, .. } = self.settings;
        for part in &self.parts {
            let (lr, at) = (self.settings.rate(lr, part), part.range.clone());
            let shrink = 1.0 - lr * decay;
            for ((p, g), m) in params[at.clone()].iter_mut().zip(&grads[at.clone()]).zip(&mut self.m[at]) {
                let u = beta1 * *m + (1.0 - beta1) * g;
                let sign = if u == 0.0 { 0.0 } else { u.signum() };
                *p = *p * shrink - lr * sign;
                *m = beta2 * *m + (1.0 - beta2) * g;
            }
        }
    }

    fn state(&self) -> Vec<(&'static str, State<'_>)> {
        vec![("m", State::F32(&self.m))]
    }

    fn state_mut(&mut self) -> Vec<(&'static str, StateMut<'_>)> {
        vec![("m", StateMut::F32(&mut self.m))]
    }
}
