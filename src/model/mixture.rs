//! The feed-forward layer of a mixture: experts that rows choose, and beside them one that all rows have, if there is one.
//! The latter is the block's own feed-forward layer, behind a gate if it has one.

use super::Acts;
use super::acts::Slot;
use super::block::Grads;
use super::doors::{self, Out, Workspace};
use super::hparams::{HParams, Layer, Mixture};
use super::pass::{Pass, Target};
use crate::kernel::{Tile, View};
use crate::nn::experts::{self, Experts};
use crate::nn::gate;
use crate::nn::linear::Accumulate;
use crate::role::Role;
use std::prelude::v1::*;

fn of<'a>(p: &'a Pass, layer: usize) -> Option<(Mixture, Experts<'a>)> {
    let l = &p.model.hparams.blocks[layer];
    let w = p.model.weights.blocks[layer].experts.as_ref()?;
    Some((l.mixture?, w.of(l.act)))
}

/// The logits of experts, and of the gate of the one that all rows have.
pub fn route(p: &Pass, layer: usize, a: &mut Acts, work: &mut Workspace) {
    let (n, d, l) = (a.n, p.model.hparams.width, &p.model.hparams.blocks[layer]);
    if l.mixture.is_none() {
        return;
    }
    let ([n2, logits, open], extras) = a.parts([Slot::N2, Slot::Logits, Slot::SharedGate]);
    let n2 = View::new(n2, n, d);
    doors::project(p, layer, n2, [Out { role: Role::Router, y: logits }], extras, work);
    if l.has.has(Role::SharedGate) {
        doors::project(p, layer, n2, [Out { role: Role::SharedGate, y: open }], extras, work);
    }
}

/// Adds what the experts make of the rows to what all rows have, which stands in the slot of [`own`], or to nothing; the sum
/// is in `to`. With `hidden` alone the gates and products of the experts are made, and no sum.
pub fn add(p: &Pass, layer: usize, to: Slot, hidden: bool, a: &mut Acts, work: &mut Workspace) {
    let Some((mixture, experts)) = of(p, layer) else { return };
    let (n, d, cx, l) = (a.n, p.model.hparams.width, &p.model.compute, &p.model.hparams.blocks[layer]);
    if !hidden && l.has.has(Role::SharedGate) {
        let ([own, open, to], _) = a.parts([Slot::Shared, Slot::SharedGate, to]);
        gate::forward(cx, View::new(open, n, 1), View::new(own, n, d), &mut Tile::new(to, n, d));
    } else if !hidden && !l.dense() {
        a.parts([to]).0[0][..n * d].fill(0.0);
    }
    let slots = [Slot::N2, Slot::Logits, Slot::ExpertGate, Slot::ExpertUp, Slot::ExpertHidden, to];
    let ([n2, logits, gate, up, inner, to], _) = a.parts(slots);
    let (choice, work) = work.experts();
    experts::choose(cx, mixture.router, View::new(logits, n, mixture.router.experts), choice);
    let mut to = Tile::new(to, n, d);
    let to = if hidden { None } else { Some(&mut to) };
    experts::forward(cx, p.precision, experts, choice, View::new(n2, n, d), [gate, up, inner], to, work);
}

/// Where the product of the feed-forward layer that all rows have goes, in a block whose sum is wanted in `to`.
pub fn own(l: &Layer, to: Slot) -> Slot {
    if l.has.has(Role::SharedGate) { Slot::Shared } else { to }
}

/// What of the experts takes no matrix product, once more.
pub fn again(p: &Pass, layer: usize, a: &mut Acts) {
    let l = &p.model.hparams.blocks[layer];
    let Some(mixture) = l.mixture else { return };
    let (pairs, f) = (a.n * mixture.router.used, mixture.ff);
    let ([gate, up, hidden], _) = a.parts([Slot::ExpertGate, Slot::ExpertUp, Slot::ExpertHidden]);
    let (gate, up) = (View::new(gate, pairs, f), View::new(up, pairs, f));
    experts::activate(&p.model.compute, l.act, gate, up, &mut Tile::new(hidden, pairs, f));
}

/// The backward pass through the experts, the router and the gate: from `dy`, the gradient of the sum, adds to `dn`, that of
/// the normed rows. If there is a gate, `dy` becomes the gradient of what it lets through.
pub fn backward(
    p: &Pass,
    layer: usize,
    a: &mut Acts,
    dy: &mut [f32],
    dn: &mut [f32],
    target: &mut Target,
    g: &mut Grads,
    work: &mut Workspace,
) {
    let Some((Mixture { router, .. }, experts)) = of(p, layer) else { return };
    let (n, d, cx, l) = (a.n, p.model.hparams.width, &p.model.compute, &p.model.hparams.blocks[layer]);
    let slots = [Slot::N2, Slot::Logits, Slot::ExpertGate, Slot::ExpertUp, Slot::ExpertHidden];
    let ([n2, logits, gate, up, hidden], extras) = a.parts(slots);
    let (n2, logits) = (View::new(n2, n, d), View::new(logits, n, router.experts));
    let [dw, dz, dshared] = &mut g.mixture;
    let (dw, dz) = (dw.room(n * router.used), dz.room(n * router.experts.max(1)));
    let (choice, room, back) = work.experts_back();
    experts::choose(cx, router, logits, choice);
    let (rows, mut into) = (View::new(dy, n, d), Tile::new(dn, n, d));
    experts::backward(cx, p.precision, experts, choice, [gate, up], hidden, rows, dw, &mut into, room, back);
    experts::choose_backward(cx, router, logits, choice, dw, &mut Tile::new(dz, n, router.experts));
    let outs = [Out { role: Role::Router, y: dz }];
    doors::project_backward(p, layer, n2, outs, Accumulate::Add, Some(&mut *dn), extras, target, work);
    if l.has.has(Role::SharedGate) {
        let ([n2, own, open], extras) = a.parts([Slot::N2, Slot::Shared, Slot::SharedGate]);
        let (own, open) = (View::new(own, n, d), View::new(open, n, 1));
        let (through, dopen) = dshared.room(n * d + n).split_at_mut(n * d);
        let mut tiles = (Tile::new(dopen, n, 1), Tile::new(through, n, d));
        gate::backward(cx, open, own, View::new(dy, n, d), &mut tiles.0, &mut tiles.1);
        let outs = [Out { role: Role::SharedGate, y: dopen }];
        doors::project_backward(p, layer, View::new(n2, n, d), outs, Accumulate::Add, Some(dn), extras, target, work);
        dy[..n * d].copy_from_slice(through);
    }
}

/// Values of the gradient buffers of a layer for each row, those of the mixture.
pub fn grads(h: &HParams, l: &Layer) -> [usize; 3] {
    let router = l.mixture.map(|m| m.router);
    let shared = if l.has.has(Role::SharedGate) { h.width + 1 } else { 0 };
    [router.map_or(0, |r| r.used), router.map_or(0, |r| r.experts), shared]
}
