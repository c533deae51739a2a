//! What mixes the rows of a sequence where a block has no attention: from the normed rows to the input of the last
//! projection, and back. A session's cache carries the states of its text; without a cache every sequence begins anew.

use super::Acts;
use super::acts::Slot;
use super::block::Grads;
use super::doors::{self, Out, Workspace};
use super::hparams::{HParams, Layer, Mixer};
use super::pass::{Caches, Pass, Target};
use super::weights::Offsets;
use crate::kernel::{Tile, View};
use crate::nn::conv::{self, Taps};
use crate::nn::delta::{self, Decay, Heads};
use crate::nn::ffn::{self, Act};
use crate::nn::linear::Accumulate;
use crate::role::Role;
use std::prelude::v1::*;

/// From `N1` to `Att`.
pub fn forward(p: &Pass, layer: usize, caches: Option<&mut (dyn Caches + '_)>, a: &mut Acts, work: &mut Workspace) {
    let (n, d, l) = (a.n, p.model.hparams.width, &p.model.hparams.blocks[layer]);
    match l.mixer {
        Mixer::Attention => unreachable!("the block's own"),
        Mixer::Convolution { .. } => {
            let ([n1, rows], extras) = a.parts([Slot::N1, Slot::In]);
            let outs = [Out { role: Role::ConvIn, y: rows }];
            doors::project(p, layer, View::new(n1, n, d), outs, extras, work);
            convolved(p, layer, caches, a);
        }
        Mixer::Delta { heads, .. } => {
            let slots = [Slot::N1, Slot::In, Slot::MixerGate, Slot::Alpha, Slot::Beta];
            let ([n1, rows, gate, alpha, beta], extras) = a.parts(slots);
            let outs = [(Role::DeltaIn, rows), (Role::DeltaGate, gate), (Role::Alpha, alpha), (Role::Beta, beta)];
            let outs = outs.map(|(role, y)| Out { role, y });
            doors::project(p, layer, View::new(n1, n, d), outs, extras, work);
            recalled(p, layer, heads, caches, a);
            opened(p, layer, heads, a, work);
        }
    }
}

/// What of [`forward`] takes no matrix product, once more, with every sequence beginning anew.
pub fn again(p: &Pass, layer: usize, a: &mut Acts, work: &mut Workspace) {
    match p.model.hparams.blocks[layer].mixer {
        Mixer::Attention => {}
        Mixer::Convolution { .. } => convolved(p, layer, None, a),
        Mixer::Delta { heads, .. } => {
            let (n, w, taps) = (a.n, heads.width(), taps(p, layer));
            let ([rows, out], _) = a.parts([Slot::In, Slot::Convolved]);
            let (rows, mut out) = (View::new(rows, n, w), Tile::new(out, n, w));
            for s in &p.rows.segments {
                conv::silu_forward(&p.model.compute, taps, rows.rows(s.clone()), None, &mut out.part(s.clone(), 0..w));
            }
            opened(p, layer, heads, a, work);
        }
    }
}

fn taps<'a>(p: &'a Pass, layer: usize) -> Taps<'a> {
    let [len, _] = p.model.hparams.blocks[layer].sizes(p.model.hparams.width).taps;
    Taps { w: p.model.weights.blocks[layer].vector(Role::Taps).expect("the taps of a convolution"), len }
}

fn decay<'a>(p: &'a Pass, layer: usize) -> Decay<'a> {
    let of = |role| p.model.weights.blocks[layer].vector(role).expect("the decay of a delta rule");
    Decay { a: of(Role::DecayRate), dt: of(Role::DecayBias) }
}

fn silu() -> &'static Act {
    &ffn::ACTS[0]
}

fn convolved(p: &Pass, layer: usize, mut caches: Option<&mut (dyn Caches + '_)>, a: &mut Acts) {
    let (n, d, cx) = (a.n, p.model.hparams.width, &p.model.compute);
    let (taps, ([rows, att], _)) = (taps(p, layer), a.parts([Slot::In, Slot::Att]));
    let (rows, mut att) = (View::new(rows, n, 3 * d), Tile::new(att, n, d));
    for (i, s) in p.rows.segments.iter().enumerate() {
        let (rows, mut att) = (rows.rows(s.clone()), att.part(s.clone(), 0..d));
        let state = caches.as_mut().map(|caches| caches.cache_mut(i).state_mut(layer));
        conv::gated_forward(cx, taps, rows, state.as_deref(), &mut att);
        if let Some(state) = state {
            conv::gated_carry(rows, state);
        }
    }
}

/// What the heads of a delta rule read: from `In` and the numbers of the heads to `Read`.
fn recalled(p: &Pass, layer: usize, heads: Heads, mut caches: Option<&mut (dyn Caches + '_)>, a: &mut Acts) {
    let (n, w, v, cx) = (a.n, heads.width(), heads.values, &p.model.compute);
    let (taps, decay, c) = (taps(p, layer), decay(p, layer), heads.values * heads.dim);
    let ([rows, out, alpha, beta, read], _) =
        a.parts([Slot::In, Slot::Convolved, Slot::Alpha, Slot::Beta, Slot::Read]);
    let rows = View::new(rows, n, w);
    let gates = [alpha, beta].map(|x| View::new(x, n, v));
    for (i, s) in p.rows.segments.iter().enumerate() {
        let state = caches.as_mut().map(|caches| caches.cache_mut(i).state_mut(layer));
        let (before, state) = match state.map(|state| state.split_at_mut((taps.len - 1) * w)) {
            Some((before, state)) => (Some(before), Some(state)),
            None => (None, None),
        };
        let own = rows.rows(s.clone());
        conv::silu_forward(cx, taps, own, before.as_deref(), &mut Tile::new(out, n, w).part(s.clone(), 0..w));
        if let Some(before) = before {
            conv::silu_carry(own, before);
        }
        let x = View::new(out, n, w).rows(s.clone());
        let gates = gates.map(|gate| gate.rows(s.clone()));
        delta::forward(cx, heads, decay, x, gates, state, &mut Tile::new(read, n, c).part(s.clone(), 0..c));
    }
}

/// From `Read` to `Att`: the norm of each head, and the gate.
fn opened(p: &Pass, layer: usize, heads: Heads, a: &mut Acts, work: &mut Workspace) {
    let (n, rows, c) = (a.n, a.n * heads.values, heads.values * heads.dim);
    let ([gate, read, normed, att], _) = a.parts([Slot::MixerGate, Slot::Read, Slot::Normed, Slot::Att]);
    doors::norm(p, layer, Role::DeltaNorm, View::new(read, rows, heads.dim), normed, work);
    let (gate, normed) = (View::new(gate, n, c), View::new(normed, n, c));
    ffn::forward(&p.model.compute, silu(), gate, normed, &mut Tile::new(att, n, c));
}

/// The backward pass: from `datt`, the gradient of `Att`, `[N, mixed]`, makes that of the normed rows, `dn`, as `into` says,
/// if it is wanted. What of the activations it needs no more is overwritten.
pub fn backward(
    p: &Pass,
    layer: usize,
    a: &mut Acts,
    into: Accumulate,
    dn: Option<&mut [f32]>,
    target: &mut Target,
    g: &mut Grads,
    work: &mut Workspace,
) {
    let (n, d) = (a.n, p.model.hparams.width);
    if let Mixer::Delta { heads, .. } = p.model.hparams.blocks[layer].mixer {
        delta_backward(p, layer, heads, a, target, g, work);
        let ([n1, gate], extras) = a.parts([Slot::N1, Slot::MixerGate]);
        let [drows, _, _, dgates, _] = &mut g.mixer;
        let (dalpha, dbeta) = dgates[..2 * n * heads.values].split_at_mut(n * heads.values);
        let outs = [
            Out { role: Role::DeltaIn, y: drows },
            Out { role: Role::DeltaGate, y: gate },
            Out { role: Role::Alpha, y: dalpha },
            Out { role: Role::Beta, y: dbeta },
        ];
        return doors::project_backward(p, layer, View::new(n1, n, d), outs, into, dn, extras, target, work);
    }
    let cx = &p.model.compute;
    let ([n1, rows], extras) = a.parts([Slot::N1, Slot::In]);
    let taps = taps(p, layer);
    let (rows, datt, drows) = (View::new(rows, n, 3 * d), View::new(&g.wide, n, d), g.mixer[0].room(3 * n * d));
    let mut tile = Tile::new(drows, n, 3 * d);
    for s in &p.rows.segments {
        let (rows, datt) = (rows.rows(s.clone()), datt.rows(s.clone()));
        conv::gated_backward(cx, taps, rows, datt, &mut tile.part(s.clone(), 0..3 * d));
        if let Target::Weights(offsets, grads) = target {
            conv::gated_backward_weights(taps.len, rows, datt, &mut grads[place(offsets, layer, Role::Taps)]);
        }
    }
    let outs = [Out { role: Role::ConvIn, y: drows }];
    doors::project_backward(p, layer, View::new(n1, n, d), outs, into, dn, extras, target, work);
}

fn place(offsets: &Offsets, layer: usize, role: Role) -> core::ops::Range<usize> {
    offsets.block(layer, role).expect("a place for every tensor of a mixer")
}

/// From `datt` to the gradients of the products: of `In` in `g.mixer[0]`, of the gate in its own slot, of the numbers of the
/// heads in `g.mixer[3]`.
fn delta_backward(
    p: &Pass,
    layer: usize,
    heads: Heads,
    a: &mut Acts,
    target: &mut Target,
    g: &mut Grads,
    work: &mut Workspace,
) {
    let (n, w, v, cx) = (a.n, heads.width(), heads.values, &p.model.compute);
    let (taps, decay, c, dim) = (taps(p, layer), decay(p, layer), v * heads.dim, heads.dim);
    let slots = [Slot::In, Slot::Convolved, Slot::MixerGate, Slot::Alpha, Slot::Beta, Slot::Read, Slot::Normed];
    let ([rows, x, gate, alpha, beta, read, normed], _) = a.parts(slots);
    let [drows, dx, dread, dgates, spare] = &mut g.mixer;
    let mut tiles = (Tile::new(gate, n, c), Tile::new(normed, n, c));
    ffn::backward(cx, silu(), &mut tiles.0, &mut tiles.1, View::new(&g.wide, n, c));
    let dread = dread.room(n * c);
    dread.fill(0.0);
    doors::norm_backward(p, layer, Role::DeltaNorm, View::new(read, n * v, dim), normed, dread, target, work);
    let (drows, dx, dread) = (drows.room(n * w), dx.room(n * w), View::new(dread, n, c));
    let (dalpha, dbeta) = dgates.room(2 * n * v).split_at_mut(n * v);
    let (rows, x, alpha, beta) = (View::new(rows, n, w), View::new(x, n, w), View::new(alpha, n, v), View::new(beta, n, v));
    let mut numbers = (Tile::new(dalpha, n, v), Tile::new(dbeta, n, v));
    for s in &p.rows.segments {
        let (rows, gates) = (rows.rows(s.clone()), [alpha, beta].map(|x| x.rows(s.clone())));
        let (mut dalpha, mut dbeta) = (numbers.0.part(s.clone(), 0..v), numbers.1.part(s.clone(), 0..v));
        let (dout, own) = (dread.rows(s.clone()), x.rows(s.clone()));
        let dx = &mut dx[s.start * w..s.end * w];
        let mut tile = Tile::new(dx, s.len(), w);
        delta::backward(cx, heads, decay, own, gates, dout, &mut tile, [&mut dalpha, &mut dbeta], spare);
        conv::silu_backward(cx, taps, rows, dx, &mut Tile::new(drows, n, w).part(s.clone(), 0..w));
        let trained = match target {
            Target::Weights(offsets, grads) => {
                let at = place(offsets, layer, Role::Taps);
                conv::silu_backward_weights(taps.len, rows, View::new(dx, s.len(), w), &mut grads[at]);
                // The one stands behind the other.
                let [rate, bias] = [Role::DecayRate, Role::DecayBias].map(|role| place(offsets, layer, role));
                let (before, after) = grads.split_at_mut(bias.start);
                Some([&mut before[rate], &mut after[..bias.len()]])
            }
            _ => None,
        };
        delta::decay_backward(decay, gates[0], &mut dalpha, trained);
    }
}

/// Gradient buffers of a mixer.
pub const GRADS: usize = 5;

/// Values of these for `n` rows, the longest sequence of them `longest`.
pub fn grads(h: &HParams, l: &Layer, n: usize, longest: usize) -> [usize; GRADS] {
    let rows = n * l.mixer_input(h.width);
    match l.mixer {
        Mixer::Attention | Mixer::Convolution { .. } => [rows, 0, 0, 0, 0],
        Mixer::Delta { heads, .. } => {
            [rows, rows, n * l.mixed(h.width), 2 * n * heads.values, delta::shared(heads, longest)]
        }
    }
}

/// Values that a thread works in, in the backward pass over sequences of at most `longest` rows.
pub fn scratch(l: &Layer, longest: usize) -> usize {
    if let Mixer::Delta { heads, .. } = l.mixer { delta::scratch(heads, longest, true) } else { 0 }
}
