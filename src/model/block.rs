//! One transformer block. [`backward`] mirrors [`forward`] from bottom to top.

use super::cache::Cache;
use super::project::{self, Out, Sink, Workspace};
use super::{Acts, Attached, HParams, Model};
use crate::adapter::Linear;
use crate::kernel::{Buffer, Tile, View};
use crate::nn::attention::{self, Memory, Sees, Source};
use crate::nn::linear::{Accumulate, Path};
use crate::nn::norm::{self, Kind, Norm};
use crate::nn::rope::Turns;
use crate::nn::{ffn, sum};
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
    sum(&m.compute, &a.mid[..n * d], &a.out[..n * d], d, &mut x[..n * d]);
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
    let (h, cx) = (&m.hparams, &m.compute);
    let n = rows.positions.len();
    a.resize(h, n);
    let (d, qw, kw) = (h.width, h.q_width(), h.kv_width());

    normed_input(m, layer, x, a);
    let outs = [
        Out { linear: Linear::Q, y: &mut a.q },
        Out { linear: Linear::K, y: &mut a.k },
        Out { linear: Linear::V, y: &mut a.v },
    ];
    project::forward(m, adapters, path, layer, View::new(&a.n1, n, d), outs, work);
    m.rope.turns(cx, &rows.positions, &mut work.turns);
    m.rope.apply(cx, &mut Tile::new(&mut a.q, n, qw), h.heads.dim, &work.turns, false);
    m.rope.apply(cx, &mut Tile::new(&mut a.k, n, kw), h.heads.dim, &work.turns, false);
    let (q, mut att) = (View::new(&a.q, n, qw), Tile::new(&mut a.att, n, qw));
    if let Some(cache) = &mut cache {
        let first = rows.positions[0] as usize;
        cache.write(cx.kernels, layer, first, &a.k[..n * kw], &a.v[..n * kw]);
        let (keys, values) = cache.memory(layer, first + n);
        let source = Source { keys, values, n: first + n, first, sees: Sees::Causal };
        attention::forward(cx, h.heads, q, &source, &mut att, None);
    } else {
        for s in &rows.segments {
            let keys = Memory::Rows(View::new(&a.k, n, kw).rows(s.clone()));
            let values = Memory::Rows(View::new(&a.v, n, kw).rows(s.clone()));
            let source = Source { keys, values, n: s.len(), first: 0, sees: Sees::Causal };
            attention::forward(cx, h.heads, q.rows(s.clone()), &source, &mut att.part(s.clone(), 0..qw), None);
        }
    }
    let outs = [Out { linear: Linear::O, y: &mut a.out }];
    project::forward(m, adapters, path, layer, View::new(&a.att, n, qw), outs, work);
    sum(cx, &x[..n * d], &a.out[..n * d], d, &mut a.mid[..n * d]);

    normed_middle(m, layer, a);
    let outs = [Out { linear: Linear::Gate, y: &mut a.gate }, Out { linear: Linear::Up, y: &mut a.up }];
    project::forward(m, adapters, path, layer, View::new(&a.n2, n, d), outs, work);
    gated(m, a);
}

/// What [`hidden`] leaves, from `x` and what a [`super::Kept`] brought back into `a`: no matrix product is done again.
pub fn refresh(m: &Model, layer: usize, x: &[f32], a: &mut Acts) {
    normed_input(m, layer, x, a);
    normed_middle(m, layer, a);
    gated(m, a);
}

fn normed_input(m: &Model, layer: usize, x: &[f32], a: &mut Acts) {
    let (h, gain, n) = (&m.hparams, &m.weights.blocks[layer].attn_norm, a.n);
    norm::forward(&m.compute, rms(h), View::new(x, n, h.width), gain, None, &mut Tile::new(&mut a.n1, n, h.width));
}

fn normed_middle(m: &Model, layer: usize, a: &mut Acts) {
    let (h, gain, n) = (&m.hparams, &m.weights.blocks[layer].ffn_norm, a.n);
    norm::forward(&m.compute, rms(h), View::new(&a.mid, n, h.width), gain, None, &mut Tile::new(&mut a.n2, n, h.width));
}

fn gated(m: &Model, a: &mut Acts) {
    let (cx, n, ff) = (&m.compute, a.n, m.hparams.ff);
    let (gate, up) = (View::new(&a.gate, n, ff), View::new(&a.up, n, ff));
    ffn::forward(cx, &ffn::ACTS[0], gate, up, &mut Tile::new(&mut a.h, n, ff));
}

/// The norm of all layers.
pub fn rms(h: &HParams) -> Norm {
    Norm { kind: Kind::Rms, eps: h.eps }
}

/// Gradient buffers of a block.
#[derive(Default)]
pub struct Grads {
    wide: Buffer,
    q: Buffer,
    k: Buffer,
    v: Buffer,
    width: Buffer,
    heads: Buffer,
}

impl Grads {
    /// Bytes of the buffers for `n` rows, the longest sequence of them `longest`.
    pub fn bytes(h: &HParams, n: usize, longest: usize) -> usize {
        let rows = h.ff.max(h.q_width()) + h.q_width() + 2 * h.kv_width() + h.width;
        4 * (n * rows + attention::shared(h.heads, longest))
    }
}

/// From `dx`, the gradient of the block's output, makes that of its input, `[N, width]`, in place, and adds what the
/// sink wants. `x` is the block's input and `a` what [`forward`] left; `gate` and `up` are overwritten. If `below` is
/// false, no block below learns anything: the input's gradient is not made, and `dx` is left as it happens to be.
pub fn backward(
    m: &Model,
    path: Path,
    layer: usize,
    rows: &Layout,
    x: &[f32],
    a: &mut Acts,
    dx: &mut [f32],
    sink: &mut Sink,
    below: bool,
    g: &mut Grads,
    work: &mut Workspace,
) {
    let (h, w, cx) = (&m.hparams, &m.weights.blocks[layer], &m.compute);
    let n = rows.positions.len();
    let (d, qw, kw, ff) = (h.width, h.q_width(), h.kv_width(), h.ff);

    let mut back = |linear, x: View, dy: View, dx: Option<(Accumulate, &mut [f32])>, sink: &mut Sink| {
        project::backward(m, path, layer, linear, x, dy, dx, sink, work)
    };

    let dh = g.wide.room(n * ff);
    back(Linear::Down, View::new(&a.h, n, ff), View::new(dx, n, d), Some((Accumulate::Set, &mut *dh)), sink);
    let dh = View::new(dh, n, ff);
    let (mut gate, mut up) = (Tile::new(&mut a.gate, n, ff), Tile::new(&mut a.up, n, ff));
    ffn::backward(cx, &ffn::ACTS[0], &mut gate, &mut up, dh);
    let dn = g.width.room(n * d);
    let n2 = View::new(&a.n2, n, d);
    back(Linear::Gate, n2, View::new(&a.gate, n, ff), Some((Accumulate::Set, &mut *dn)), sink);
    back(Linear::Up, n2, View::new(&a.up, n, ff), Some((Accumulate::Add, &mut *dn)), sink);
    let (mid, dn) = (View::new(&a.mid, n, d), View::new(dn, n, d));
    norm::backward(cx, rms(h), mid, &w.ffn_norm, dn, &mut Tile::new(dx, n, d));
    if let Sink::Weights(places, grads) = sink {
        norm::backward_weights(cx, rms(h), mid, dn, &mut grads[places.blocks[layer].ffn_norm.clone()], None);
    }

    let datt = g.wide.room(n * qw);
    back(Linear::O, View::new(&a.att, n, qw), View::new(dx, n, d), Some((Accumulate::Set, &mut *datt)), sink);
    let datt = View::new(datt, n, qw);
    let (dq, dk, dv) = (g.q.room(n * qw), g.k.room(n * kw), g.v.room(n * kw));
    let (q, k, v) = (View::new(&a.q, n, qw), View::new(&a.k, n, kw), View::new(&a.v, n, kw));
    let (mut tq, mut tk, mut tv) = (Tile::new(dq, n, qw), Tile::new(dk, n, kw), Tile::new(dv, n, kw));
    for s in &rows.segments {
        attention::backward(
            cx,
            h.heads,
            q.rows(s.clone()),
            k.rows(s.clone()),
            v.rows(s.clone()),
            Sees::Causal,
            datt.rows(s.clone()),
            None,
            &mut tq.part(s.clone(), 0..qw),
            &mut tk.part(s.clone(), 0..kw),
            &mut tv.part(s.clone(), 0..kw),
            &mut g.heads,
        );
    }
    let mut turns = Turns::default();
    m.rope.turns(cx, &rows.positions, &mut turns);
    m.rope.apply(cx, &mut tq, h.heads.dim, &turns, true);
    m.rope.apply(cx, &mut tk, h.heads.dim, &turns, true);
    let dn = g.width.room(n * d);
    let n1 = View::new(&a.n1, n, d);
    let each = [
        (Linear::Q, &*dq, qw, Accumulate::Set),
        (Linear::K, &*dk, kw, Accumulate::Add),
        (Linear::V, &*dv, kw, Accumulate::Add),
    ];
    for (linear, dy, width, place) in each {
        let dn = if below { Some((place, &mut *dn)) } else { None };
        back(linear, n1, View::new(dy, n, width), dn, sink);
    }
    if !below {
        return;
    }
    let (x, dn) = (View::new(x, n, d), View::new(dn, n, d));
    norm::backward(cx, rms(h), x, &w.attn_norm, dn, &mut Tile::new(dx, n, d));
    if let Sink::Weights(places, grads) = sink {
        norm::backward_weights(cx, rms(h), x, dn, &mut grads[places.blocks[layer].attn_norm.clone()], None);
    }
}
