//! Optimisers over one flat slice of parameters.

mod adamw;

pub use adamw::AdamW;

use std::prelude::v1::*;

/// Moves parameters against their gradients.
pub trait Optimizer {
    /// One step. All slices have the length the optimiser was made for.
    fn step(&mut self, params: &mut [f32], grads: &[f32], lr: f32);
}

/// `√Σ g²`, summed in order in `f64`.
pub fn norm(grads: &[f32]) -> f64 {
    libm::sqrt(grads.iter().map(|g| *g as f64 * *g as f64).sum())
}

/// Scales gradients of norm `norm` by `min(1, max / (norm + 10⁻⁶))`, as PyTorch's `clip_grad_norm_` does.
pub fn clip(grads: &mut [f32], norm: f64, max: f32) {
    let factor = max as f64 / (norm + 1e-6);
    if factor < 1.0 {
        for g in grads {
            *g *= factor as f32;
        }
    }
}
