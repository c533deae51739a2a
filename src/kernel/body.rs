//! Every kernel once, in plain Rust.

use super::{Acts8, Kernels, Scratch, Tile, View};
use crate::math::{self, fma};
use crate::quant::Matrix;
use core::ops::Range;

/// Lanes of a dot product.
pub const LANES: usize = 16;

pub(super) const PLAIN: Kernels = Kernels {
    name: "plain",
    dots,
    sums,
    outer,
    decode,
    quantize,
    int_dots,
    exp,
    softmax,
    silu_mul,
    silu_mul_backward,
    widen,
    narrow,
};

#[inline(always)]
fn lane_sum(mut a: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            a[l] += a[l + half];
        }
        half /= 2;
    }
    a[0]
}

#[inline(always)]
fn dot(x: &[f32], w: &[f32]) -> f32 {
    let mut acc = [0.0; LANES];
    for (x, w) in x.chunks(LANES).zip(w.chunks(LANES)) {
        for l in 0..x.len() {
            acc[l] = fma(x[l], w[l], acc[l]);
        }
    }
    lane_sum(acc)
}

fn dots(x: View, w: View, y: &mut Tile) {
    for i in 0..x.n {
        let out = y.row(i);
        for j in 0..w.n {
            out[j] = dot(x.row(i), w.row(j));
        }
    }
}

fn sums(a: View, w: View, y: &mut Tile) {
    for i in 0..a.n {
        let out = y.row(i);
        for (k, &a) in a.row(i).iter().enumerate() {
            for (o, &w) in out.iter_mut().zip(w.row(k)) {
                *o = fma(a, w, *o);
            }
        }
    }
}

fn outer(a: View, b: View, y: &mut Tile) {
    for f in 0..a.c {
        let out = y.row(f);
        for t in 0..a.n {
            let a = a.row(t)[f];
            for (o, &b) in out.iter_mut().zip(b.row(t)) {
                *o = fma(a, b, *o);
            }
        }
    }
}

fn decode(w: &Matrix, rows: Range<usize>, cols: Range<usize>, out: &mut [f32]) {
    for (row, out) in rows.zip(out.chunks_exact_mut(cols.len())) {
        w.decode(row, cols.clone(), out);
    }
}

fn quantize(_x: View, _row: usize, _out: &mut Acts8) {
    unreachable!("integer path lands with the formats' codes")
}

fn int_dots(_w: &Matrix, _rows: Range<usize>, _x: &Acts8, _y: &mut Tile, _scratch: &mut Scratch) {
    unreachable!("integer path lands with the formats' codes")
}

fn exp(x: &mut [f32]) {
    for v in x {
        *v = math::exp(*v);
    }
}

fn softmax(x: &mut [f32]) -> f32 {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut lanes = [0.0; LANES];
    for chunk in x.chunks_mut(LANES) {
        for (l, v) in chunk.iter_mut().enumerate() {
            *v = math::exp(*v - max);
            lanes[l] += *v;
        }
    }
    let sum = lane_sum(lanes);
    let scale = 1.0 / sum;
    for v in x.iter_mut() {
        *v *= scale;
    }
    max + libm::logf(sum)
}

fn silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((o, &g), &u) in out.iter_mut().zip(gate).zip(up) {
        *o = g / (1.0 + math::exp(-g)) * u;
    }
}

fn silu_mul_backward(gate: &mut [f32], up: &mut [f32], d: &[f32]) {
    for ((g, u), &d) in gate.iter_mut().zip(up).zip(d) {
        let s = 1.0 / (1.0 + math::exp(-*g));
        let silu = *g * s;
        let dgate = d * *u * (s + silu * (1.0 - s));
        *u = d * silu;
        *g = dgate;
    }
}

fn widen(x: &[u16], out: &mut [f32]) {
    for (o, &h) in out.iter_mut().zip(x) {
        *o = half::f16::from_bits(h).to_f32();
    }
}

fn narrow(x: &[f32], out: &mut [u16]) {
    for (o, &v) in out.iter_mut().zip(x) {
        *o = half::f16::from_f32(v).to_bits();
    }
}
