//! One transformer block. [`backward`] mirrors [`forward`] from bottom to top.

use super::acts::{LSE, Slot};
use super::doors::{self, Out, Workspace};
use super::hparams::{Form, HeadNorm, Layer, Mixer};
use super::pass::{Caches, Pass, Target};
use super::{Acts, HParams, mixer, mixture};
use crate::adapter::{Place, Shape, Site, Spot};
use crate::kernel::{Buffer, Tile, View};
use crate::nn::attention::{self, Memory, Source};
use crate::nn::linear::Accumulate;
use crate::nn::{ffn, gate, sum};
use crate::role::Role;
use core::ops::Range;
use std::prelude::v1::*;

/// Runs a block over `x`, `[N, width]`, in place. With caches, keys and values of every sequence are written to its own and
/// attention reads all earlier positions from there; without, every sequence starts at position 0 and reads its own rows.
pub fn forward(
    p: &Pass,
    layer: usize,
    caches: Option<&mut (dyn Caches + '_)>,
    x: &mut [f32],
    a: &mut Acts,
    work: &mut Workspace,
) {
    hidden(p, layer, caches, x, a, work);
    down(p, layer, a, work);
    let (n, d, cx) = (p.rows.positions.len(), p.model.hparams.width, &p.model.compute);
    let ([base, out], _) = a.parts([base(&p.model.hparams.blocks[layer]), Slot::Out]);
    if p.model.hparams.blocks[layer].form() != Form::Post {
        return sum(cx, &base[..n * d], &out[..n * d], d, &mut x[..n * d]);
    }
    summed(p, layer, a);
    doors::norm(p, layer, Role::OutNorm, a.view(Slot::Sum, d), x, work);
}

/// What the output of the feed-forward layer is added to.
fn base(l: &Layer) -> Slot {
    if l.form() == Form::Post { Slot::N2 } else { Slot::Mid }
}

/// The stream after the feed-forward layer, where a norm follows.
fn summed(p: &Pass, layer: usize, a: &mut Acts) {
    let (n, d) = (a.n, p.model.hparams.width);
    let ([base, out, to], _) = a.parts([base(&p.model.hparams.blocks[layer]), Slot::Out, Slot::Sum]);
    sum(&p.model.compute, &base[..n * d], &out[..n * d], d, &mut to[..n * d]);
}

/// Recomputes the activations that [`backward`] needs, from the block's input `x`, which stays as it is.
pub fn recompute(p: &Pass, layer: usize, x: &[f32], a: &mut Acts, work: &mut Workspace) {
    hidden(p, layer, None, x, a, work);
    if doors::needs_down(p, layer) {
        down(p, layer, a, work);
    } else {
        mixture::add(p, layer, Slot::Out, true, a, work);
    }
    if p.model.hparams.blocks[layer].form() == Form::Post {
        summed(p, layer, a);
    }
}

/// [`forward`] up to the input of the last projection.
fn hidden(
    p: &Pass,
    layer: usize,
    caches: Option<&mut (dyn Caches + '_)>,
    x: &[f32],
    a: &mut Acts,
    work: &mut Workspace,
) {
    let (h, cx) = (&p.model.hparams, &p.model.compute);
    let l = &h.blocks[layer];
    let n = p.rows.positions.len();
    let d = h.width;
    a.resize(h, l, p.extras(layer), n);

    normed_input(p, layer, x, a, work);
    match l.mixer {
        Mixer::Attention => attention(p, layer, caches, a, work),
        _ => mixer::forward(p, layer, caches, a, work),
    }
    let post = l.has.has(Role::PostAttnNorm);
    let ([att, out], extras) = a.parts([Slot::Att, if post { Slot::AttOut } else { Slot::Out }]);
    let outs = [Out { role: l.mixer.out(), y: out }];
    doors::project(p, layer, View::new(att, n, l.mixed(d)), outs, extras, work);
    branch(p, layer, Spot::Attention, a, work);
    let ([mid, out], _) = a.parts([Slot::Mid, Slot::Out]);
    sum(cx, &x[..n * d], &out[..n * d], d, &mut mid[..n * d]);

    normed_middle(p, layer, a, work);
    if l.dense() {
        let ([n2, gate, up], extras) = a.parts([Slot::N2, Slot::Gate, Slot::Up]);
        let (n2, up) = (View::new(n2, n, d), Out { role: Role::Up, y: up });
        match l.act.gated {
            true => doors::project(p, layer, n2, [Out { role: Role::Gate, y: gate }, up], extras, work),
            false => doors::project(p, layer, n2, [up], extras, work),
        }
    }
    mixture::route(p, layer, a, work);
    activated(p, layer, a);
}

/// From the normed rows to what attention gathers.
fn attention(p: &Pass, layer: usize, caches: Option<&mut (dyn Caches + '_)>, a: &mut Acts, work: &mut Workspace) {
    let (h, cx) = (&p.model.hparams, &p.model.compute);
    let (n, l) = (a.n, &h.blocks[layer]);
    let (d, qw, kw) = (h.width, l.q_width(), l.kv_width());
    // Norms of heads want queries and keys as they came.
    let raw = |(_, norm, raw, to): (usize, Role, Slot, Slot)| if l.has.has(norm) || raw == Slot::In { raw } else { to };
    let [queries, keys] = heads(l).map(raw);
    let slots = [Slot::N1, queries, keys, Slot::V];
    let ([n1, q, k, v], extras) = a.parts(slots);
    let outs = [Out { role: Role::Q, y: q }, Out { role: Role::K, y: k }, Out { role: Role::V, y: v }];
    doors::project(p, layer, View::new(n1, n, d), outs, extras, work);
    rotated(p, layer, a, work);

    let read = if l.gated { Slot::Read } else { Slot::Att };
    let ([q, k, v, att], extras) = a.parts([Slot::Q, Slot::K, Slot::V, read]);
    let wants_lse = p.needs_at(Place::Attention(layer)).lse;
    if wants_lse {
        extras[LSE].room(n * l.heads.q);
    }
    let (q, mut tile) = (View::new(q, n, qw), Tile::new(att, n, qw));
    let mut lse = wants_lse.then(|| Tile::new(&mut extras[LSE], n, l.heads.q));
    if let Some(caches) = caches {
        let first = |s: &Range<usize>| p.rows.positions[s.start] as usize;
        for (i, s) in p.rows.segments.iter().enumerate() {
            let (k, v) = (&k[s.start * kw..s.end * kw], &v[s.start * kw..s.end * kw]);
            caches.cache_mut(i).write(cx.kernels, layer, first(s), k, v);
        }
        let source = |i: usize| {
            let s = &p.rows.segments[i];
            let (keys, values) = caches.cache(i).memory(layer);
            Source { keys, values, n: first(s) + s.len(), first: first(s), sees: l.sees }
        };
        attention::sequences(cx, l.heads, q, &p.rows.segments, &source, &mut tile, lse.as_mut());
    } else {
        for s in &p.rows.segments {
            let keys = Memory::Rows(View::new(k, n, kw).rows(s.clone()));
            let values = Memory::Rows(View::new(v, n, kw).rows(s.clone()));
            let source = Source { keys, values, n: s.len(), first: 0, sees: l.sees };
            let mut lse = lse.as_mut().map(|lse| lse.part(s.clone(), 0..l.heads.q));
            attention::forward(cx, l.heads, q.rows(s.clone()), &source, &mut tile.part(s.clone(), 0..qw), lse.as_mut());
        }
    }
    doors::attend(p, layer, q, att, extras, work);
    opened(p, layer, a);
}

/// What goes through the gates of queries, if they have some.
fn opened(p: &Pass, layer: usize, a: &mut Acts) {
    let l = &p.model.hparams.blocks[layer];
    if l.gated {
        let (rows, d) = (a.n * l.heads.q, l.heads.dim);
        let ([both, read, att], _) = a.parts([Slot::In, Slot::Read, Slot::Att]);
        let gates = View::new(both, rows, 2 * d).cols(d..2 * d);
        gate::forward(&p.model.compute, gates, View::new(read, rows, d), &mut Tile::new(att, rows, d));
    }
}

/// The last projection, and what becomes of it before it is added to the stream.
fn down(p: &Pass, layer: usize, a: &mut Acts, work: &mut Workspace) {
    let l = &p.model.hparams.blocks[layer];
    let to = if l.has.has(Role::PostFfnNorm) { Slot::FfnOut } else { Slot::Out };
    let n = a.n;
    if l.dense() {
        let ([hidden, out], extras) = a.parts([Slot::Hidden, mixture::own(l, to)]);
        doors::project(p, layer, View::new(hidden, n, l.ff), [Out { role: Role::Down, y: out }], extras, work);
    }
    mixture::add(p, layer, to, false, a, work);
    branch(p, layer, Spot::FeedForward, a, work);
}

/// What a sub-layer puts out, from its product: norm, factor, adapters.
fn branch(p: &Pass, layer: usize, spot: Spot, a: &mut Acts, work: &mut Workspace) {
    let l = &p.model.hparams.blocks[layer];
    let (n, d) = (a.n, p.model.hparams.width);
    let (product, norm, input) = of(spot);
    let ([product, input, out], extras) = a.parts([product, input, Slot::Out]);
    if l.has.has(norm) {
        doors::norm(p, layer, norm, View::new(product, n, d), out, work);
    }
    if l.residual != 1.0 {
        out[..n * d].iter_mut().for_each(|v| *v *= l.residual);
    }
    doors::stream(p, layer, spot, View::new(input, n, d), out, extras, work);
}

/// Of a sub-layer: its product where a norm follows, that norm, and its input.
fn of(spot: Spot) -> (Slot, Role, Slot) {
    match spot {
        Spot::Attention => (Slot::AttOut, Role::PostAttnNorm, Slot::N1),
        Spot::FeedForward => (Slot::FfnOut, Role::PostFfnNorm, Slot::N2),
    }
}

/// Recomputes the cheap activations from `x` and the saved ones in `a`; the result equals that of [`recompute`]. No matrix
/// product is computed twice.
pub fn recompute_cheap(p: &Pass, layer: usize, x: &[f32], a: &mut Acts, work: &mut Workspace) {
    let (h, n) = (&p.model.hparams, a.n);
    let has = h.blocks[layer].has;
    // What is cheap here may have been saved in the block above, and its buffer be gone with that.
    a.resize(h, &h.blocks[layer], p.extras(layer), n);
    normed_input(p, layer, x, a, work);
    if has.has(Role::QNorm) || has.has(Role::KNorm) || h.blocks[layer].gated {
        rotated(p, layer, a, work);
    }
    opened(p, layer, a);
    mixer::again(p, layer, a, work);
    normed_middle(p, layer, a, work);
    activated(p, layer, a);
    mixture::again(p, layer, a);
}

fn normed_input(p: &Pass, layer: usize, x: &[f32], a: &mut Acts, work: &mut Workspace) {
    let (n, d) = (a.n, p.model.hparams.width);
    let n1 = &mut a.parts([Slot::N1]).0[0][..n * d];
    match p.model.hparams.blocks[layer].has.has(Role::AttnNorm) {
        true => doors::norm(p, layer, Role::AttnNorm, View::new(x, n, d), n1, work),
        false => n1.copy_from_slice(&x[..n * d]),
    }
}

/// The input of the feed-forward layer: the normed stream, the stream itself, or what attention read.
fn normed_middle(p: &Pass, layer: usize, a: &mut Acts, work: &mut Workspace) {
    let (n, d, l) = (a.n, p.model.hparams.width, &p.model.hparams.blocks[layer]);
    let ([n1, mid, n2], _) = a.parts([Slot::N1, Slot::Mid, Slot::N2]);
    match (l.has.has(Role::FfnNorm), l.form()) {
        (true, _) => doors::norm(p, layer, Role::FfnNorm, View::new(mid, n, d), n2, work),
        (false, Form::Parallel) => n2[..n * d].copy_from_slice(&n1[..n * d]),
        (false, _) => n2[..n * d].copy_from_slice(&mid[..n * d]),
    }
}

/// Queries and keys as attention meets them: after the norms of their heads, if there are any, and the rotary embedding.
fn rotated(p: &Pass, layer: usize, a: &mut Acts, work: &mut Workspace) {
    let l = &p.model.hparams.blocks[layer];
    let n = a.n;
    for (heads, norm, at, to) in heads(l) {
        let ([raw, to], _) = a.parts([at, to]);
        if l.has.has(norm) {
            doors::norm(p, layer, norm, by_heads(l, at, raw, n, heads), to, work);
        } else if at == Slot::In {
            let raw = by_heads(l, at, raw, n, heads);
            to.chunks_exact_mut(l.heads.dim).take(raw.n).enumerate().for_each(|(i, to)| to.copy_from_slice(raw.row(i)));
        }
        if let Some((rope, rotations)) = p.rotations(layer) {
            rope.apply(&p.model.compute, &mut Tile::new(to, n, heads * l.heads.dim), l.heads.dim, rotations, false);
        }
    }
}

/// Queries or keys of `n` rows, which stand in slot `at`, as their norm goes over them.
fn by_heads<'a>(l: &Layer, at: Slot, x: &'a [f32], n: usize, heads: usize) -> View<'a> {
    match l.head_norm {
        _ if at == Slot::In => View::new(x, n * heads, 2 * l.heads.dim).cols(0..l.heads.dim),
        HeadNorm::Row => View::new(x, n, heads * l.heads.dim),
        HeadNorm::Shared | HeadNorm::Each => View::new(x, n * heads, l.heads.dim),
    }
}

/// Of queries and of keys: heads, the norm of each, where they stand before it and after the rotary embedding.
fn heads(l: &Layer) -> [(usize, Role, Slot, Slot); 2] {
    let queries = if l.gated { Slot::In } else { Slot::RawQ };
    [(l.heads.q, Role::QNorm, queries, Slot::Q), (l.heads.kv, Role::KNorm, Slot::RawK, Slot::K)]
}

fn activated(p: &Pass, layer: usize, a: &mut Acts) {
    let (l, n) = (&p.model.hparams.blocks[layer], a.n);
    if !l.dense() {
        return;
    }
    let ([gate, up, hidden], _) = a.parts([Slot::Gate, Slot::Up, Slot::Hidden]);
    let gate = View::new(gate, n, if l.act.gated { l.ff } else { 0 });
    ffn::forward(&p.model.compute, l.act, gate, View::new(up, n, l.ff), &mut Tile::new(hidden, n, l.ff));
}

/// Gradient buffers of a block.
#[derive(Default)]
pub struct Grads {
    pub(super) wide: Buffer,
    q: Buffer,
    k: Buffer,
    v: Buffer,
    width: Buffer,
    heads: Buffer,
    /// The gradient of a sub-layer's output where it is not that of the stream, and of what it was made of.
    branch: [Buffer; 2],
    /// What adapters make of the gradient of queries, and of the log-sum-exp.
    spare: [Buffer; 2],
    /// Of a mixer other than attention, or of queries with their gates.
    pub(super) mixer: [Buffer; mixer::GRADS],
    /// Of a mixture: weights of experts, their logits, and what all rows have behind its gate.
    pub(super) mixture: [Buffer; 3],
    /// The gradient of the stream before the norm after a block, or that of rows which both sub-layers read.
    sum: Buffer,
}

impl Grads {
    /// Values that a thread works in between products, in the passes over sequences of at most `longest` rows.
    pub fn scratch(h: &HParams, longest: usize) -> usize {
        h.most(|l| attention::scratch(l.heads, longest).max(mixer::scratch(l, longest)))
    }

    /// Bytes of the buffers for `n` rows, the longest sequence of them `longest`, with an adapter of that shape.
    pub fn bytes(h: &HParams, shape: Option<&Shape>, n: usize, longest: usize) -> usize {
        let wide = h.most(|l| l.ff.max(l.mixed(h.width)));
        let rows = wide + h.most(Layer::q_width) + 2 * h.most(Layer::kv_width) + h.width;
        let post = h.most(|l| usize::from(l.has.has(Role::PostAttnNorm) || l.has.has(Role::PostFfnNorm)));
        let norms = h.most(|l| if l.has.has(Role::QNorm) || l.gated { l.q_width() } else { 0 });
        let at = |of: fn(&Place) -> bool| shape.is_some_and(|s| s.slots.iter().any(|slot| of(&slot.place)));
        let rescales = shape.is_some_and(|s| s.needs.rescales);
        let attends = at(|p| matches!(p, Place::Attention(_)));
        let own = post > 0 || h.blocks.iter().any(|l| l.residual != 1.0 || l.has.has(Role::SharedGate)) || rescales;
        let spare = norms.max(if attends { h.most(Layer::q_width) + h.most(|l| l.heads.q) } else { 0 });
        let heads = h.most(|l| attention::shared(l.heads, longest));
        let sum = h.most(|l| if l.form() == Form::Pre { 0 } else { h.width });
        let mixture: usize = (0..3).map(|i| h.most(|l| mixture::grads(h, l)[i])).sum();
        let mixer: usize = (0..mixer::GRADS).map(|i| h.most(|l| mixer::grads(h, l, n, longest)[i])).sum();
        4 * (n * (rows + usize::from(own) * h.width + post * h.width + spare + sum + mixture) + heads + mixer)
    }
}

/// From `dx`, the gradient of the block's output, makes that of its input, `[N, width]`, in place, and adds what the
/// target wants. `x` is the block's input and `a` what [`forward`] left; `gate` and `up` are overwritten. If `below` is
/// false, nothing below learns: the input's gradient is not made, and `dx` is left as it happens to be.
pub fn backward(
    p: &Pass,
    layer: usize,
    x: &[f32],
    a: &mut Acts,
    dx: &mut [f32],
    target: &mut Target,
    below: bool,
    g: &mut Grads,
    work: &mut Workspace,
) {
    let h = &p.model.hparams;
    let l = &h.blocks[layer];
    let n = a.n;
    let d = h.width;
    let dx = &mut dx[..n * d];
    let form = l.form();
    if form == Form::Post {
        // The norm after the block.
        let to = g.sum.room(n * d);
        to.fill(0.0);
        let sum = View::new(a.parts([Slot::Sum]).0[0], n, d);
        doors::norm_backward(p, layer, Role::OutNorm, sum, dx, to, target, work);
        dx.copy_from_slice(to);
    }

    // The feed-forward layer.
    let into = branch_backward(p, layer, Spot::FeedForward, a, dx, true, target, g, work);
    feed_backward(p, layer, a, dx, into, target, g, work);
    let ([mid], _) = a.parts([Slot::Mid]);
    let dn = g.width.room(n * d);
    match form {
        // The stream goes on from the normed rows.
        Form::Post => {
            crate::nn::add(dx, dn);
            dx.fill(0.0);
            doors::norm_backward(p, layer, Role::FfnNorm, View::new(mid, n, d), dn, dx, target, work);
        }
        Form::Parallel => g.sum.room(n * d).copy_from_slice(dn),
        Form::Pre if l.has.has(Role::FfnNorm) => {
            doors::norm_backward(p, layer, Role::FfnNorm, View::new(mid, n, d), dn, dx, target, work);
        }
        Form::Pre => crate::nn::add(dn, dx),
    }

    // Attention. What stands on its norm learns even where nothing below does.
    let below = below || !p.stack.at(Place::Site(Site { layer, role: Role::AttnNorm })).is_empty();
    let into = branch_backward(p, layer, Spot::Attention, a, dx, below, target, g, work);
    let dy = if into.own { &mut g.branch[0][..n * d] } else { &mut *dx };
    let mixed = l.mixed(d);
    let datt = g.wide.room(n * mixed);
    let ([att], extras) = a.parts([Slot::Att]);
    let att = View::new(att, n, mixed);
    let outs = [Out { role: l.mixer.out(), y: dy }];
    doors::project_backward(p, layer, att, outs, Accumulate::Set, Some(datt), extras, target, work);
    let mut width = core::mem::take(&mut g.width);
    let dn = width.room(n * d);
    let down = if below { Some(&mut *dn) } else { None };
    match l.mixer {
        Mixer::Attention => attention_backward(p, layer, a, into.place, down, target, g, work),
        _ => mixer::backward(p, layer, a, into.place, down, target, g, work),
    }
    if below && form == Form::Parallel {
        crate::nn::add(&g.sum[..n * d], dn);
    }
    match l.has.has(Role::AttnNorm) {
        _ if !below => {}
        true => doors::norm_backward(p, layer, Role::AttnNorm, View::new(x, n, d), dn, dx, target, work),
        false => crate::nn::add(dn, dx),
    }
    g.width = width;
}

/// The backward pass through the feed-forward layer: from `dx` or the branch's own gradient makes that of its input, in
/// `g.width`.
fn feed_backward(
    p: &Pass,
    layer: usize,
    a: &mut Acts,
    dx: &mut [f32],
    into: Branch,
    target: &mut Target,
    g: &mut Grads,
    work: &mut Workspace,
) {
    let (cx, l) = (&p.model.compute, &p.model.hparams.blocks[layer]);
    let (n, d, ff) = (a.n, p.model.hparams.width, l.ff);
    let [mut width, mut branch] = [&mut g.width, &mut g.branch[0]].map(core::mem::take);
    let dy = if into.own { &mut branch[..n * d] } else { dx };
    let (dn, mut place) = (width.room(n * d), into.place);
    if l.mixture.is_some() {
        if place == Accumulate::Set {
            dn.fill(0.0);
            place = Accumulate::Add;
        }
        mixture::backward(p, layer, a, dy, dn, target, g, work);
    }
    if l.dense() {
        let dh = g.wide.room(n * ff);
        let ([hidden], extras) = a.parts([Slot::Hidden]);
        let outs = [Out { role: Role::Down, y: dy }];
        let hidden = View::new(hidden, n, ff);
        doors::project_backward(p, layer, hidden, outs, Accumulate::Set, Some(dh), extras, target, work);
        let ([gate, up, n2], extras) = a.parts([Slot::Gate, Slot::Up, Slot::N2]);
        let gated = if l.act.gated { ff } else { 0 };
        let mut tiles = (Tile::new(gate, n, gated), Tile::new(up, n, ff));
        ffn::backward(cx, l.act, &mut tiles.0, &mut tiles.1, View::new(dh, n, ff));
        let (n2, up) = (View::new(n2, n, d), Out { role: Role::Up, y: up });
        match l.act.gated {
            true => {
                let outs = [Out { role: Role::Gate, y: gate }, up];
                doors::project_backward(p, layer, n2, outs, place, Some(dn), extras, target, work);
            }
            false => doors::project_backward(p, layer, n2, [up], place, Some(dn), extras, target, work),
        }
    }
    (g.width, g.branch[0]) = (width, branch);
}

/// The backward pass from what attention gathered, whose gradient is in `g.wide`, to the normed rows: makes `dn`, as `into`
/// says, if it is wanted.
fn attention_backward(
    p: &Pass,
    layer: usize,
    a: &mut Acts,
    into: Accumulate,
    dn: Option<&mut [f32]>,
    target: &mut Target,
    g: &mut Grads,
    work: &mut Workspace,
) {
    let (h, cx) = (&p.model.hparams, &p.model.compute);
    let (n, l) = (a.n, &h.blocks[layer]);
    let (d, qw, kw) = (h.width, l.q_width(), l.kv_width());
    let datt = &mut g.wide[..n * qw];
    if l.gated {
        let (rows, dim) = (n * l.heads.q, l.heads.dim);
        let ([both, read], _) = a.parts([Slot::In, Slot::Read]);
        let gates = View::new(both, rows, 2 * dim).cols(dim..2 * dim);
        let (dread, dboth) = (g.spare[0].room(n * qw), g.mixer[0].room(2 * n * qw));
        let mut tiles = (Tile::new(dboth, rows, 2 * dim), Tile::new(dread, rows, dim));
        let (read, dy) = (View::new(read, rows, dim), View::new(datt, rows, dim));
        gate::backward(cx, gates, read, dy, &mut tiles.0.part(0..rows, dim..2 * dim), &mut tiles.1);
        datt.copy_from_slice(dread);
    }
    let adapted = !p.stack.at(Place::Attention(layer)).is_empty();
    let wants_lse = p.stack.needs_at(Place::Attention(layer)).lse;
    let ([q, k, v], extras) = a.parts([Slot::Q, Slot::K, Slot::V]);
    let (q, k, v) = (View::new(q, n, qw), View::new(k, n, kw), View::new(v, n, kw));
    let [spare_q, spare_lse] = &mut g.spare;
    if adapted {
        let (dq, dlse) = (spare_q.room(n * qw), spare_lse.room(n * l.heads.q));
        dq.fill(0.0);
        dlse.fill(0.0);
        let (mut dq, mut dlse) = (Tile::new(dq, n, qw), Tile::new(dlse, n, l.heads.q));
        let dlse = wants_lse.then_some(&mut dlse);
        doors::attend_backward(p, layer, q, datt, &mut dq, dlse, extras, target, work);
    }
    let datt = View::new(datt, n, qw);
    let dlse = wants_lse.then(|| View::new(spare_lse, n, l.heads.q));
    let (dq, dk, dv) = (g.q.room(n * qw), g.k.room(n * kw), g.v.room(n * kw));
    let (mut tq, mut tk, mut tv) = (Tile::new(dq, n, qw), Tile::new(dk, n, kw), Tile::new(dv, n, kw));
    for s in &p.rows.segments {
        attention::backward(
            cx,
            l.heads,
            q.rows(s.clone()),
            k.rows(s.clone()),
            v.rows(s.clone()),
            l.sees,
            datt.rows(s.clone()),
            dlse.map(|dlse| dlse.rows(s.clone())),
            &mut tq.part(s.clone(), 0..qw),
            &mut tk.part(s.clone(), 0..kw),
            &mut tv.part(s.clone(), 0..kw),
            &mut g.heads,
        );
    }
    if adapted {
        crate::nn::add(&spare_q[..n * qw], dq);
    }
    if let Some((rope, rotations)) = p.rotations(layer) {
        rope.apply(cx, &mut Tile::new(dq, n, qw), l.heads.dim, rotations, true);
        rope.apply(cx, &mut Tile::new(dk, n, kw), l.heads.dim, rotations, true);
    }
    for ((heads, norm, raw, _), dy) in heads(l).into_iter().zip([&mut *dq, &mut *dk]) {
        if l.has.has(norm) {
            let draw = spare_q.room(n * heads * l.heads.dim);
            draw.fill(0.0);
            let raw = by_heads(l, raw, a.parts([raw]).0[0], n, heads);
            doors::norm_backward(p, layer, norm, raw, dy, draw, target, work);
            dy.copy_from_slice(&draw[..n * heads * l.heads.dim]);
        }
    }
    let dq = if l.gated {
        let (dim, both) = (l.heads.dim, g.mixer[0].room(2 * n * qw));
        both.chunks_exact_mut(2 * dim).zip(dq.chunks_exact(dim)).for_each(|(both, dq)| both[..dim].copy_from_slice(dq));
        both
    } else {
        dq
    };
    let ([n1], extras) = a.parts([Slot::N1]);
    let outs = [Out { role: Role::Q, y: dq }, Out { role: Role::K, y: dk }, Out { role: Role::V, y: dv }];
    doors::project_backward(p, layer, View::new(n1, n, d), outs, into, dn, extras, target, work);
}

/// Where the gradient of a sub-layer's output continues.
struct Branch {
    /// Whether it is in `g.branch[0]`, and not the stream's own.
    own: bool,
    /// What becomes of `g.width`, the gradient of the sub-layer's input.
    place: Accumulate,
}

/// The backward pass through [`branch`]: from `dx`, the gradient of the stream, that of the sub-layer's product. Adapters that
/// read the sub-layer's input add to `g.width`, unless that is not wanted.
fn branch_backward(
    p: &Pass,
    layer: usize,
    spot: Spot,
    a: &mut Acts,
    dx: &mut [f32],
    input_wanted: bool,
    target: &mut Target,
    g: &mut Grads,
    work: &mut Workspace,
) -> Branch {
    let l = &p.model.hparams.blocks[layer];
    let (n, d) = (a.n, p.model.hparams.width);
    let own = doors::own_branch(p, l, layer, spot);
    let adapted = !p.stack.at(Place::Stream(layer, spot)).is_empty();
    if !own && !adapted {
        return Branch { own, place: Accumulate::Set };
    }
    let (product, norm, input) = of(spot);
    let [branch, other] = &mut g.branch;
    let dy = if own {
        let dy = branch.room(n * d);
        dy.copy_from_slice(dx);
        dy
    } else {
        dx
    };
    let ([product, input], extras) = a.parts([product, input]);
    let mut place = Accumulate::Set;
    if adapted {
        let dn = g.width.room(n * d);
        dn.fill(0.0);
        place = Accumulate::Add;
        let dn = if input_wanted { Some(dn) } else { None };
        doors::stream_backward(p, layer, spot, View::new(input, n, d), dy, dn, extras, target, work);
    }
    if l.residual != 1.0 {
        dy.iter_mut().for_each(|v| *v *= l.residual);
    }
    if l.has.has(norm) {
        let to = other.room(n * d);
        to.fill(0.0);
        doors::norm_backward(p, layer, norm, View::new(product, n, d), dy, to, target, work);
        core::mem::swap(branch, other);
    }
    Branch { own, place }
}
