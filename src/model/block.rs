//! One transformer block. [`backward`] mirrors [`forward`] from bottom to top.

use super::cache::Cache;
use super::project::{self, Out, Sink, Workspace};
use super::{Acts, Attached, Model};
use crate::adapter::Linear;
use crate::kernel::{Tile, View};
use crate::nn::attention::{self, Memory};
use crate::nn::linear::Path;
use crate::nn::{add, norm};
use core::ops::Range;
use std::prelude::v1::*;

/// The rows of a pass: which sequence and which position each stands at.
#[derive(Clone, Default)]
pub struct Layout {
    /// Position of every row, `[N]`.
    pub positions: Vec<u32>,
    /// Ranges of rows that are one sequence each; attention sees only its own. With a cache there is one.
    pub segments: Vec<Range<usize>>,
}

/// Runs a block over `x`, `[N, width]`, in place. With a cache, keys and values are written to it and attention reads
/// all earlier positions from it; without one, every segment starts at position 0 and reads its own rows.
pub fn forward(
    m: &Model,
    adapters: &Attached,
    path: Path,
    layer: usize,
    rows: &Layout,
    cache: Option<&mut Cache>,
    x: &mut [f32],
    a: &mut Acts,
    work: &mut Workspace,
) {
    hidden(m, adapters, path, layer, rows, cache, x, a, work);
    let (n, d, ff) = (rows.positions.len(), m.hparams.width, m.hparams.ff);
    let outs = [Out { linear: Linear::Down, y: &mut a.out }];
    project::forward(m, adapters, path, layer, View::new(&a.h, n, ff), outs, work);
    x[..n * d].copy_from_slice(&a.mid[..n * d]);
    add(&a.out[..n * d], &mut x[..n * d]);
}

/// [`forward`] up to the input of the last projection: all that [`backward`] needs of a block. `x` is read only.
pub fn hidden(
    m: &Model,
    adapters: &Attached,
    path: Path,
    layer: usize,
    rows: &Layout,
    mut cache: Option<&mut Cache>,
    x: &[f32],
    a: &mut Acts,
    work: &mut Workspace,
) {
    let (h, w, cx) = (&m.hparams, &m.weights.blocks[layer], &m.compute);
    let n = rows.positions.len();
    a.resize(h, n);
    let (d, qw, kw, ff) = (h.width, h.q_width(), h.kv_width(), h.ff);

    norm::forward(cx, View::new(x, n, d), &w.attn_norm, h.eps, &mut Tile::new(&mut a.n1, n, d));
    let outs = [
        Out { linear: Linear::Q, y: &mut a.q },
        Out { linear: Linear::K, y: &mut a.k },
        Out { linear: Linear::V, y: &mut a.v },
    ];
    project::forward(m, adapters, path, layer, View::new(&a.n1, n, d), outs, work);
    m.rope.apply(cx, &mut Tile::new(&mut a.q, n, qw), h.heads.dim, &rows.positions, false);
    m.rope.apply(cx, &mut Tile::new(&mut a.k, n, kw), h.heads.dim, &rows.positions, false);
    let (q, mut att) = (View::new(&a.q, n, qw), Tile::new(&mut a.att, n, qw));
    if let Some(cache) = &mut cache {
        let first = rows.positions[0] as usize;
        cache.write(cx.kernels, layer, first, &a.k[..n * kw], &a.v[..n * kw]);
        let (keys, values) = cache.memory(layer, first + n);
        attention::forward(cx, h.heads, q, keys, values, first, &mut att);
    } else {
        for s in &rows.segments {
            let keys = Memory::F32(View::new(&a.k, n, kw).rows(s.clone()));
            let values = Memory::F32(View::new(&a.v, n, kw).rows(s.clone()));
            attention::forward(cx, h.heads, q.rows(s.clone()), keys, values, 0, &mut att.part(s.clone(), 0..qw));
        }
    }
    let outs = [Out { linear: Linear::O, y: &mut a.out }];
    project::forward(m, adapters, path, layer, View::new(&a.att, n, qw), outs, work);
    a.mid[..n * d].copy_from_slice(&x[..n * d]);
    add(&a.out[..n * d], &mut a.mid[..n * d]);

    norm::forward(cx, View::new(&a.mid, n, d), &w.ffn_norm, h.eps, &mut Tile::new(&mut a.n2, n, d));
    let outs = [Out { linear: Linear::Gate, y: &mut a.gate }, Out { linear: Linear::Up, y: &mut a.up }];
    project::forward(m, adapters, path, layer, View::new(&a.n2, n, d), outs, work);
    let (gate, up) = (View::new(&a.gate, n, ff), View::new(&a.up, n, ff));
    cx.pool.rows([Tile::new(&mut a.h, n, ff)], [1], &|i, [mut h], _| {
        (cx.kernels.silu_mul)(gate.row(i), up.row(i), h.row(0));
    });
}

/// Gradient buffers of a block.
#[derive(Default)]
pub struct Grads {
    wide: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    width: Vec<f32>,
}

fn zeros(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    let out = &mut buffer[..len];
    out.fill(0.0);
    out
}

/// From `dx`, the gradient of the block's output, makes that of its input, `[N, width]`, in place, and adds what the
/// sink wants. `x` is the block's input and `a` what [`forward`] left; `gate` and `up` are overwritten.
pub fn backward(
    m: &Model,
    layer: usize,
    rows: &Layout,
    x: &[f32],
    a: &mut Acts,
    dx: &mut [f32],
    sink: &mut Sink,
    g: &mut Grads,
    work: &mut Workspace,
) {
    let (h, w, cx) = (&m.hparams, &m.weights.blocks[layer], &m.compute);
    let n = rows.positions.len();
    let (d, qw, kw, ff) = (h.width, h.q_width(), h.kv_width(), h.ff);

    let dh = zeros(&mut g.wide, n * ff);
    project::backward(m, layer, Linear::Down, View::new(&a.h, n, ff), View::new(dx, n, d), dh, sink, work);
    let dh = View::new(dh, n, ff);
    let tiles = [Tile::new(&mut a.gate, n, ff), Tile::new(&mut a.up, n, ff)];
    cx.pool.rows(tiles, [1, 1], &|i, [mut gate, mut up], _| {
        (cx.kernels.silu_mul_backward)(gate.row(0), up.row(0), dh.row(i));
    });
    let dn = zeros(&mut g.width, n * d);
    project::backward(m, layer, Linear::Gate, View::new(&a.n2, n, d), View::new(&a.gate, n, ff), dn, sink, work);
    project::backward(m, layer, Linear::Up, View::new(&a.n2, n, d), View::new(&a.up, n, ff), dn, sink, work);
    let (mid, dn) = (View::new(&a.mid, n, d), View::new(dn, n, d));
    norm::backward(cx, mid, &w.ffn_norm, h.eps, dn, &mut Tile::new(dx, n, d));
    if let Sink::Weights(places, grads) = sink {
        norm::backward_weights(cx, mid, h.eps, dn, &mut grads[places.blocks[layer].ffn_norm.clone()]);
    }

    let datt = zeros(&mut g.wide, n * qw);
    project::backward(m, layer, Linear::O, View::new(&a.att, n, qw), View::new(dx, n, d), datt, sink, work);
    let datt = View::new(datt, n, qw);
    let (dq, dk, dv) = (zeros(&mut g.q, n * qw), zeros(&mut g.k, n * kw), zeros(&mut g.v, n * kw));
    let (q, k, v) = (View::new(&a.q, n, qw), View::new(&a.k, n, kw), View::new(&a.v, n, kw));
    let (mut tq, mut tk, mut tv) = (Tile::new(dq, n, qw), Tile::new(dk, n, kw), Tile::new(dv, n, kw));
    for s in &rows.segments {
        attention::backward(
            cx,
            h.heads,
            q.rows(s.clone()),
            k.rows(s.clone()),
            v.rows(s.clone()),
            datt.rows(s.clone()),
            &mut tq.part(s.clone(), 0..qw),
            &mut tk.part(s.clone(), 0..kw),
            &mut tv.part(s.clone(), 0..kw),
        );
    }
    m.rope.apply(cx, &mut tq, h.heads.dim, &rows.positions, true);
    m.rope.apply(cx, &mut tk, h.heads.dim, &rows.positions, true);
    let dn = zeros(&mut g.width, n * d);
    let n1 = View::new(&a.n1, n, d);
    project::backward(m, layer, Linear::Q, n1, View::new(dq, n, qw), dn, sink, work);
    project::backward(m, layer, Linear::K, n1, View::new(dk, n, kw), dn, sink, work);
    project::backward(m, layer, Linear::V, n1, View::new(dv, n, kw), dn, sink, work);
    let (x, dn) = (View::new(x, n, d), View::new(dn, n, d));
    norm::backward(cx, x, &w.attn_norm, h.eps, dn, &mut Tile::new(dx, n, d));
    if let Sink::Weights(places, grads) = sink {
        norm::backward_weights(cx, x, h.eps, dn, &mut grads[places.blocks[layer].attn_norm.clone()]);
    }
}
