//! Lion (arXiv:2302.06675): every value changes by the learning rate, in the direction of the momentum's sign.

use super::{BETA1, BETA2, Common, Optimizer, Origin, Part, State, StateMut, exchanged, grown, single, values};
use crate::knob::Values;
use std::prelude::v1::*;

/// The momentum and its decays.
pub struct Lion {
    common: Common,
    beta1: f32,
    beta2: f32,
    parts: Vec<Part>,
    m: Vec<f32>,
}

impl Lion {
    /// The initial state: no momentum.
    pub fn new(settings: &Values, parts: Vec<Part>) -> Self {
        Lion {
            common: Common::of(settings),
            beta1: single(settings, &BETA1),
            beta2: single(settings, &BETA2),
            m: vec![0.0; values(&parts)],
            parts,
        }
    }
}

impl Optimizer for Lion {
    /// `p ← p·(1 − lr·λ) − lr · sign(β₁·m + (1 − β₁)·g)`, then `m ← β₂·m + (1 − β₂)·g`; the sign of 0 is 0.
    fn step(&mut self, params: &mut [f32], grads: &[f32], lr: f32) {
        let (beta1, beta2) = (self.beta1, self.beta2);
        for part in &self.parts {
            let ((lr, shrink), at) = (self.common.rate(lr, part), part.range.clone());
            for ((p, g), m) in params[at.clone()].iter_mut().zip(&grads[at.clone()]).zip(&mut self.m[at]) {
                let u = beta1 * *m + (1.0 - beta1) * g;
                let sign = if u == 0.0 { 0.0 } else { u.signum() };
                *p = *p * shrink - lr * sign;
                *m = beta2 * *m + (1.0 - beta2) * g;
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
