//! What a block remembers of its forward pass, every buffer by name.

use super::HParams;
use std::prelude::v1::*;

/// The buffers of one block for `n` rows. Generation overwrites one of these; training keeps or recomputes them.
#[derive(Default)]
pub struct Acts {
    /// Rows.
    pub n: usize,
    /// After the first norm, `[n, width]`.
    pub n1: Vec<f32>,
    /// Queries after the rotary turn, `[n, H·D]`.
    pub q: Vec<f32>,
    /// Keys after the rotary turn, `[n, KV·D]`.
    pub k: Vec<f32>,
    /// Values, `[n, KV·D]`.
    pub v: Vec<f32>,
    /// What attention gathered, `[n, H·D]`.
    pub att: Vec<f32>,
    /// The residual stream between attention and the feed-forward layer, `[n, width]`.
    pub mid: Vec<f32>,
    /// After the second norm, `[n, width]`.
    pub n2: Vec<f32>,
    /// Gate before its activation, `[n, ff]`.
    pub gate: Vec<f32>,
    /// Its partner, `[n, ff]`.
    pub up: Vec<f32>,
    /// `silu(gate) · up`, `[n, ff]`.
    pub h: Vec<f32>,
    /// The output of the o and the down projection in turn, `[n, width]`.
    pub out: Vec<f32>,
}

impl Acts {
    /// Makes room for `n` rows; never shrinks.
    pub fn resize(&mut self, h: &HParams, n: usize) {
        self.n = n;
        let (q, kv) = (h.q_width(), h.kv_width());
        for (buffer, width) in [
            (&mut self.n1, h.width),
            (&mut self.q, q),
            (&mut self.k, kv),
            (&mut self.v, kv),
            (&mut self.att, q),
            (&mut self.mid, h.width),
            (&mut self.n2, h.width),
            (&mut self.gate, h.ff),
            (&mut self.up, h.ff),
            (&mut self.h, h.ff),
            (&mut self.out, h.width),
        ] {
            if buffer.len() < n * width {
                buffer.resize(n * width, 0.0);
            }
        }
    }

    /// Bytes of the buffers for `n` rows.
    pub fn bytes(h: &HParams, n: usize) -> usize {
        4 * n * (4 * h.width + 2 * h.q_width() + 2 * h.kv_width() + 3 * h.ff)
    }
}
