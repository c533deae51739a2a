//! The activation functions of feed-forward layers: a table by name.

use super::CHUNK;
use crate::error::{Error, Result};
use crate::kernel::{Compute, Kernels, Tile, View};
use std::prelude::v1::*;

/// An activation function: of `up` alone, or of `gate` with `up` as a factor.
pub struct Act {
    /// Its name.
    pub name: &'static str,
    /// Whether there is a gate (arXiv:2002.05202): `out = f(gate) · up`; else `out = f(up)`, and the gate is empty.
    pub gated: bool,
    /// Forward, for one row: gate, up, out.
    forward: fn(&Kernels, &[f32], &[f32], &mut [f32]),
    /// Backward, for one row: gate and up, which are overwritten by their gradients, and the gradient of the output.
    backward: fn(&Kernels, &mut [f32], &mut [f32], &[f32]),
}

/// Every activation function.
pub const ACTS: &[Act] = &[
    Act {
        name: "silu",
        gated: true,
        forward: |k, gate, up, out| (k.silu_mul)(gate, up, out),
        backward: |k, gate, up, d| (k.silu_mul_backward)(gate, up, d),
    },
    Act {
        name: "gelu_tanh",
        gated: true,
        forward: |k, gate, up, out| {
            gelu(k, gate, out);
            out.iter_mut().zip(up).for_each(|(out, up)| *out *= up);
        },
        backward: gelu_mul_backward,
    },
    Act {
        name: "gelu_tanh_plain",
        gated: false,
        forward: |k, _, up, out| gelu(k, up, out),
        backward: |k, _, up, d| gelu_backward(k, up, d),
    },
];

impl core::fmt::Debug for Act {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name)
    }
}

impl Act {
    /// The row of that name.
    ///
    /// # Errors
    /// `Unsupported` for a name that is not in it.
    pub fn by_name(name: &str) -> Result<&'static Act> {
        ACTS.iter().find(|act| act.name == name).ok_or_else(|| Error::unsupported("activation function", name))
    }
}

/// `out = f(gate) · up`, or `f(up)`. gate: `[N, F]`, or `[N, 0]` where there is none; up, out: `[N, F]`; out is
/// overwritten.
pub fn forward(cx: &Compute, act: &Act, gate: View, up: View, out: &mut Tile) {
    let (n, c) = (out.n(), out.c());
    cx.pool.rows([out.part(0..n, 0..c)], [1], &|i, [mut out], _| {
        let gate = if act.gated { gate.row(i) } else { &[] };
        (act.forward)(cx.kernels, gate, up.row(i), out.row(0));
    });
}

/// From `d = ∂L/∂out`: `dgate = d · up · f′(gate)` and `dup = d · f(gate)`, or `dup = d · f′(up)`. gate and up are
/// overwritten by their gradients. gate: `[N, F]`, or `[N, 0]` where there is none; up, d: `[N, F]`.
pub fn backward(cx: &Compute, act: &Act, gate: &mut Tile, up: &mut Tile, d: View) {
    let (n, c, gates) = (up.n(), up.c(), if act.gated { up.c() } else { 0 });
    let tiles = [up.part(0..n, 0..c), gate.part(0..n, 0..gates)];
    cx.pool.rows(tiles, [1; 2], &|i, [mut up, mut gate], _| {
        (act.backward)(cx.kernels, gate.row(0), up.row(0), d.row(i));
    });
}

/// `2u` of [`gelu`] and its derivative. Beyond ±30 the function is 0 or `x` to the last bit, and a third power could
/// overflow.
#[inline(always)]
fn bend(x: f32) -> (f32, f32) {
    /// `2 · √(2 / π)`.
    const A: f32 = 1.595_769;
    const B: f32 = 0.044_715;
    let x = x.clamp(-30.0, 30.0);
    let square = x * x;
    (A * (x + B * square * x), A * (1.0 + 3.0 * B * square))
}

/// `out = x · σ(2u)` with `u = √(2 / π) · (x + 0.044715 x³)`, which is `x / 2 · (1 + tanh u)` (arXiv:1606.08415).
fn gelu(k: &Kernels, x: &[f32], out: &mut [f32]) {
    out.iter_mut().zip(x).for_each(|(out, x)| *out = -bend(*x).0);
    (k.exp)(out);
    out.iter_mut().zip(x).for_each(|(out, x)| *out = x / (1.0 + *out));
}

/// `σ(2u)` and the derivative of [`gelu`] at `x`, from `e = exp(−2u)`.
#[inline(always)]
fn slope(x: f32, e: f32) -> (f32, f32) {
    let s = 1.0 / (1.0 + e);
    (s, s + x * s * (1.0 - s) * bend(x).1)
}

/// Calls `f(exp(−2u(x)), i)` for every `x[i]` before it changes.
fn with_exp(k: &Kernels, x: &mut [f32], mut f: impl FnMut(usize, &mut f32, f32)) {
    let mut e = [0.0; CHUNK];
    for (part, x) in x.chunks_mut(CHUNK).enumerate() {
        let e = &mut e[..x.len()];
        e.iter_mut().zip(&*x).for_each(|(e, x)| *e = -bend(*x).0);
        (k.exp)(e);
        for (i, (x, e)) in x.iter_mut().zip(e).enumerate() {
            f(part * CHUNK + i, x, *e);
        }
    }
}

fn gelu_mul_backward(k: &Kernels, gate: &mut [f32], up: &mut [f32], d: &[f32]) {
    with_exp(k, gate, |i, gate, e| {
        let (s, slope) = slope(*gate, e);
        let gelu = *gate * s;
        *gate = d[i] * up[i] * slope;
        up[i] = d[i] * gelu;
    });
}

fn gelu_backward(k: &Kernels, up: &mut [f32], d: &[f32]) {
    with_exp(k, up, |i, up, e| *up = d[i] * slope(*up, e).1);
}
