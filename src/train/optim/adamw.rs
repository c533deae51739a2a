//! Adam with decoupled weight decay (arXiv:1711.05101), in the form of PyTorch's `AdamW`.

use super::{
    BETA1, BETA2, Common, EPS, Known, Optimizer, Origin, Part, State, StateMut, exchanged, grown, single, values,
};
use crate::knob::Values;
use crate::math;
use std::prelude::v1::*;

/// The state: moments and their decays.
pub struct AdamW {
    common: Common,
    decays: Decays,
    parts: Vec<Part>,
    m: Vec<f32>,
    v: Vec<f32>,
    /// Steps before each value was there, if values are exchanged; else empty.
    lags: Vec<f32>,
    steps: u64,
}

impl AdamW {
    /// The initial state: all moments 0.
    pub fn new(settings: &Values, parts: Vec<Part>) -> Self {
        let n = values(&parts);
        let (common, decays) = (Common::of(settings), Decays::of(settings));
        AdamW { common, decays, parts, m: vec![0.0; n], v: vec![0.0; n], lags: Vec::new(), steps: 0 }
    }
}

/// The moments' decays, and ε.
#[derive(Clone, Copy)]
pub(super) struct Decays {
    beta1: f32,
    beta2: f32,
    eps: f32,
}

impl Decays {
    pub(super) fn of(settings: &Values) -> Decays {
        let [beta1, beta2, eps] = [&BETA1, &BETA2, &EPS].map(|knob| single(settings, knob));
        Decays { beta1, beta2, eps }
    }

    /// The moments that a value with known gradients begins with.
    pub(super) fn moments(&self, known: &Known) -> [f32; 2] {
        let share = |beta: f32| match known.corrected {
            true => (1.0 - libm::pow(f64::from(beta), f64::from(known.samples))) as f32,
            false => 1.0,
        };
        [known.mean * share(self.beta1), known.square * share(self.beta2)]
    }
}

/// The update of a value: the decays, their bias corrections, ε.
pub(super) struct Rule {
    beta1: f32,
    beta2: f32,
    first: f64,
    root: f32,
    eps: f32,
}

impl Rule {
    /// The update of step `steps`, counted from 1.
    pub(super) fn new(s: &Decays, steps: u64) -> Rule {
        let correct = |b: f32| 1.0 - libm::pow(b as f64, steps as f64);
        let root = (1.0 / libm::sqrt(correct(s.beta2))) as f32;
        Rule { beta1: s.beta1, beta2: s.beta2, first: correct(s.beta1), root, eps: s.eps }
    }

    /// The rate over the first moment's bias correction.
    pub(super) fn rate(&self, lr: f32) -> f32 {
        (lr as f64 / self.first) as f32
    }

    /// Updates one value: `p ← p·shrink − rate · m / (√v̂ + ε)` with `rate` of [`Rule::rate`].
    #[inline(always)]
    pub(super) fn apply(&self, p: &mut f32, g: f32, m: &mut f32, v: &mut f32, rate: f32, shrink: f32) {
        *m = self.beta1 * *m + (1.0 - self.beta1) * g;
        *v = self.beta2 * *v + (1.0 - self.beta2) * g * g;
        *p = *p * shrink - rate * (*m / (math::sqrt(*v) * self.root + self.eps));
    }
}

impl Optimizer for AdamW {
    /// `p ← p·(1 − lr·λ) − lr · m̂ / (√v̂ + ε)` with bias-corrected `m̂`, `v̂`.
    fn step(&mut self, params: &mut [f32], grads: &[f32], lr: f32) {
        self.steps += 1;
        let rule = Rule::new(&self.decays, self.steps);
        for part in &self.parts {
            let ((lr, shrink), at) = (self.common.rate(lr, part), part.range.clone());
            let rate = rule.rate(lr);
            if !self.lags.is_empty() {
                let (mut own, mut lag) = (Rule::new(&self.decays, self.steps), 0.0);
                for i in at {
                    if self.lags[i] != lag {
                        lag = self.lags[i];
                        own = Rule::new(&self.decays, self.steps - lag as u64);
                    }
                    own.apply(&mut params[i], grads[i], &mut self.m[i], &mut self.v[i], own.rate(lr), shrink);
                }
                continue;
            }
            let moments = self.m[at.clone()].iter_mut().zip(&mut self.v[at.clone()]);
            for ((p, g), (m, v)) in params[at.clone()].iter_mut().zip(&grads[at]).zip(moments) {
                rule.apply(p, *g, m, v, rate, shrink);
            }
        }
    }

    fn grow(&mut self, parts: Vec<Part>) {
        for moment in [&mut self.m, &mut self.v] {
            *moment = grown(&self.parts, &parts, moment);
        }
        self.parts = parts;
    }

    fn keep_ages(&mut self) {
        self.lags = vec![0.0; self.m.len()];
    }

    fn exchange(&mut self, origins: &[Origin]) {
        self.m = exchanged(origins, &self.m, |known| self.decays.moments(known)[0]);
        self.v = exchanged(origins, &self.v, |known| self.decays.moments(known)[1]);
        if !self.lags.is_empty() {
            let steps = self.steps;
            self.lags = exchanged(origins, &self.lags, |known| steps.saturating_sub(known.samples.into()) as f32);
        }
    }

    fn state(&self) -> Vec<(&'static str, State<'_>)> {
        let mut all = vec![("m", State::F32(&self.m)), ("v", State::F32(&self.v)), ("steps", State::U64(self.steps))];
        if !self.lags.is_empty() {
            all.push(("lags", State::F32(&self.lags)));
        }
        all
    }

    fn state_mut(&mut self) -> Vec<(&'static str, StateMut<'_>)> {
        let mut all = vec![
            ("m", StateMut::F32(&mut self.m)),
            ("v", StateMut::F32(&mut self.v)),
            ("steps", StateMut::U64(&mut self.steps)),
        ];
        if !self.lags.is_empty() {
            all.push(("lags", StateMut::F32(&mut self.lags)));
        }
        all
    }
}
