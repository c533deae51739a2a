//! What mixes the rows of a sequence where a block has no attention: from the normed rows to the input of the last
//! projection, and back. A session's cache carries the states of its text; without a cache every sequence begins anew.

use super::Acts;
use super::acts::Slot;
use super::block::Grads;
use super::doors::{self, Out, Workspace};
use super::hparams::{HParams, Layer, Mixer};
use super::pass::{Caches, Pass, Target};
use crate::kernel::{Tile, View};
use crate::nn::conv::{self, Taps};
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
    }
}

/// What of [`forward`] takes no matrix product, once more, with every sequence beginning anew.
pub fn again(p: &Pass, layer: usize, a: &mut Acts) {
    match p.model.hparams.blocks[layer].mixer {
        Mixer::Attention => {}
        Mixer::Convolution { .. } => convolved(p, layer, None, a),
    }
}

fn taps<'a>(p: &'a Pass, layer: usize) -> Taps<'a> {
    let [len, _] = p.model.hparams.blocks[layer].sizes(p.model.hparams.width).taps;
    Taps { w: p.model.weights.blocks[layer].vector(Role::Taps).expect("the taps of a convolution"), len }
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

/// The backward pass: from `datt`, the gradient of `Att`, `[N, mixed]`, makes that of the normed rows, `dn`, as `into` says,
/// if it is wanted.
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
    let (n, d, cx) = (a.n, p.model.hparams.width, &p.model.compute);
    let ([n1, rows], extras) = a.parts([Slot::N1, Slot::In]);
    let taps = taps(p, layer);
    let (rows, datt, drows) = (View::new(rows, n, 3 * d), View::new(&g.wide, n, d), g.mixer[0].room(3 * n * d));
    let mut tile = Tile::new(drows, n, 3 * d);
    for s in &p.rows.segments {
        let (rows, datt) = (rows.rows(s.clone()), datt.rows(s.clone()));
        conv::gated_backward(cx, taps, rows, datt, &mut tile.part(s.clone(), 0..3 * d));
        if let Target::Weights(offsets, grads) = target {
            let at = offsets.block(layer, Role::Taps).expect("a place for the taps");
            conv::gated_backward_weights(taps.len, rows, datt, &mut grads[at]);
        }
    }
    let outs = [Out { role: Role::ConvIn, y: drows }];
    doors::project_backward(p, layer, View::new(n1, n, d), outs, into, dn, extras, target, work);
}

/// Values of the gradient buffers of a layer for `n` rows, those of the mixer.
pub fn grads(h: &HParams, l: &Layer, n: usize) -> usize {
    match l.mixer {
        Mixer::Attention => 0,
        Mixer::Convolution { .. } => 3 * n * h.width,
    }
}
