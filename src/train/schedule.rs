//! Learning rates over the steps, as Hugging Face's `get_scheduler` defines them.

use std::prelude::v1::*;

/// The decay of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// Half a cosine to 0.
    Cosine,
    /// A straight line to 0.
    Linear,
    /// No decay.
    Constant,
}

impl Schedule {
    /// The factor of step `step`, counted from 0: `step / warmup` while that is below 1, then the decay over the rest.
    pub fn factor(self, step: u64, warmup: u64, steps: u64) -> f32 {
        if step < warmup {
            return (step as f64 / warmup as f64) as f32;
        }
        let done = (step - warmup) as f64 / (steps - warmup).max(1) as f64;
        (match self {
            Schedule::Cosine => 0.5 * (1.0 + libm::cos(core::f64::consts::PI * done.min(1.0))),
            Schedule::Linear => (1.0 - done).max(0.0),
            Schedule::Constant => 1.0,
        }) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_definition() {
        let at = |s: Schedule| [0, 1, 2, 11, 19].map(|t| s.factor(t, 2, 20));
        assert_eq!(at(Schedule::Constant), [0.0, 0.5, 1.0, 1.0, 1.0]);
        let close = |got: [f32; 5], want: [f64; 5]| got.iter().zip(want).all(|(g, w)| (*g as f64 - w).abs() < 1e-7);
        assert!(close(at(Schedule::Linear), [0.0, 0.5, 1.0, 0.5, 1.0 / 18.0]));
        assert!(close(at(Schedule::Cosine), [0.0, 0.5, 1.0, 0.5, 0.007_596_123_493_895_97]));
    }
}
