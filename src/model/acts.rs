//! What a block remembers of its forward pass, every buffer by name, and how that is kept until the way back.

use super::HParams;
use crate::kernel::{Buffer, Compute, Tile};
use crate::quant::float;
use std::prelude::v1::*;

/// The buffers of one block for `n` rows. Generation and training work in one of these; what training keeps of a block
/// is a [`Kept`].
#[derive(Default)]
pub struct Acts {
    /// Rows.
    pub n: usize,
    /// After the first norm, `[n, width]`.
    pub n1: Buffer,
    /// Queries after the rotary turn, `[n, H·D]`.
    pub q: Buffer,
    /// Keys after the rotary turn, `[n, KV·D]`.
    pub k: Buffer,
    /// Values, `[n, KV·D]`.
    pub v: Buffer,
    /// What attention gathered, `[n, H·D]`.
    pub att: Buffer,
    /// The residual stream between attention and the feed-forward layer, `[n, width]`.
    pub mid: Buffer,
    /// After the second norm, `[n, width]`.
    pub n2: Buffer,
    /// Gate before its activation, `[n, ff]`.
    pub gate: Buffer,
    /// Its partner, `[n, ff]`.
    pub up: Buffer,
    /// `silu(gate) · up`, `[n, ff]`.
    pub h: Buffer,
    /// The output of the o and the down projection in turn, `[n, width]`.
    pub out: Buffer,
}

impl Acts {
    /// Makes room for `n` rows; never shrinks.
    pub fn resize(&mut self, h: &HParams, n: usize) {
        self.n = n;
        let widths = [h.width, h.width, h.ff, h.width];
        for (buffer, width) in [&mut self.n1, &mut self.n2, &mut self.h, &mut self.out].into_iter().zip(widths) {
            buffer.room(n * width);
        }
        for (buffer, width) in self.costly().into_iter().zip(Kept::widths(h)) {
            buffer.room(n * width);
        }
    }

    /// Bytes of the buffers for `n` rows.
    pub fn bytes(h: &HParams, n: usize) -> usize {
        4 * n * (3 * h.width + h.ff + Kept::widths(h).iter().sum::<usize>())
    }

    /// What took matrix products to make: the rest follows from these and the block's input by a few operations a value.
    fn costly(&mut self) -> [&mut Buffer; 7] {
        [&mut self.q, &mut self.k, &mut self.v, &mut self.att, &mut self.mid, &mut self.gate, &mut self.up]
    }
}

/// How kept activations are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// As they were.
    F32,
    /// Half floats, to the nearest; values above 65504 become infinite.
    F16,
    /// The upper halves of floats, to the nearest.
    Bf16,
}

impl Precision {
    /// Each with its name.
    pub const ALL: [(&'static str, Precision); 3] =
        [("f32", Precision::F32), ("f16", Precision::F16), ("bf16", Precision::Bf16)];

    /// Bytes that `n` values take.
    pub fn bytes(self, n: usize) -> usize {
        match self {
            Precision::F32 => 4 * n,
            _ => 4 * n.div_ceil(2),
        }
    }
}

/// Values a worker rounds or widens at a time.
const PART: usize = 4096;

/// Values out of the way, in the precision they were stored with.
#[derive(Default)]
pub struct Stored {
    /// Singles; or two halves in each, low one first.
    words: Buffer,
}

impl Stored {
    /// Stores `x`.
    pub fn put(&mut self, cx: &Compute, precision: Precision, x: &[f32]) {
        let words = self.words.room(precision.bytes(x.len()) / 4);
        match precision {
            Precision::F32 => words.copy_from_slice(x),
            Precision::F16 => halves(cx, words, x, cx.kernels.narrow),
            Precision::Bf16 => halves(cx, words, x, float::narrow_bf16),
        }
    }

    /// What was stored, into `x`.
    pub fn get(&self, cx: &Compute, precision: Precision, x: &mut [f32]) {
        let words = &self.words[..precision.bytes(x.len()) / 4];
        match precision {
            Precision::F32 => x.copy_from_slice(words),
            Precision::F16 => singles(cx, words, x, cx.kernels.widen),
            Precision::Bf16 => singles(cx, words, x, float::widen_bf16),
        }
    }
}

fn halves(cx: &Compute, words: &mut [f32], x: &[f32], narrow: fn(&[f32], &mut [u16])) {
    let n = words.len();
    cx.pool.columns([Tile::new(words, 1, n)], [PART / 2], &|part, [mut words], _| {
        let x = &x[part * PART..(part * PART + PART).min(x.len())];
        narrow(x, &mut bytemuck::cast_slice_mut(words.row(0))[..x.len()]);
    });
}

fn singles(cx: &Compute, words: &[f32], x: &mut [f32], widen: fn(&[u16], &mut [f32])) {
    let (n, all) = (x.len(), bytemuck::cast_slice::<f32, u16>(words));
    cx.pool.columns([Tile::new(x, 1, n)], [PART], &|part, [mut x], _| {
        let x = x.row(0);
        widen(&all[part * PART..][..x.len()], x);
    });
}

/// What stays of a block between the passes beside its input.
#[derive(Default)]
pub struct Kept {
    parts: [Stored; 7],
}

impl Kept {
    /// Widths of the buffers that are kept.
    fn widths(h: &HParams) -> [usize; 7] {
        let (q, kv) = (h.q_width(), h.kv_width());
        [q, kv, kv, q, h.width, h.ff, h.ff]
    }

    /// Bytes for `n` rows.
    pub fn bytes(h: &HParams, n: usize, precision: Precision) -> usize {
        Self::widths(h).iter().map(|width| precision.bytes(n * width)).sum()
    }

    /// Keeps what is costly of `a`. Singles are not copied: the buffers change places, so `a` then holds other values.
    pub fn put(&mut self, cx: &Compute, h: &HParams, precision: Precision, a: &mut Acts) {
        let n = a.n;
        for ((part, buffer), width) in self.parts.iter_mut().zip(a.costly()).zip(Self::widths(h)) {
            match precision {
                Precision::F32 => core::mem::swap(&mut part.words, buffer),
                _ => part.put(cx, precision, &buffer[..n * width]),
            }
        }
    }

    /// Brings it back into `a`, which has room for it.
    pub fn get(&mut self, cx: &Compute, h: &HParams, precision: Precision, a: &mut Acts) {
        let n = a.n;
        for ((part, buffer), width) in self.parts.iter_mut().zip(a.costly()).zip(Self::widths(h)) {
            match precision {
                Precision::F32 => core::mem::swap(&mut part.words, buffer),
                _ => part.get(cx, precision, &mut buffer[..n * width]),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{PLAIN, Pool};

    #[test]
    fn stored_values_come_back_rounded_once() {
        let cx = Compute { kernels: &PLAIN, pool: Pool::new(2) };
        let x: Vec<f32> = (0..2 * PART + 7).map(|i| (i as f32 - 5000.0) * 0.37).collect();
        for (name, precision) in Precision::ALL {
            let mut stored = Stored::default();
            stored.put(&cx, precision, &x);
            let mut back = vec![0.0; x.len()];
            stored.get(&cx, precision, &mut back);
            let want = |v: f32| match precision {
                Precision::F32 => v,
                Precision::F16 => half::f16::from_f32(v).to_f32(),
                Precision::Bf16 => half::bf16::from_f32(v).to_f32(),
            };
            assert!(back.iter().zip(&x).all(|(b, v)| b.to_bits() == want(*v).to_bits()), "{name}");
            assert_eq!(stored.words.len() * 4, precision.bytes(x.len()));
        }
    }
}
