//! Where the frozen model and its adapters meet: for each place of a block a function forward and one backward. Nothing
//! else in this room calls an adapter.
//!
//! Forward, a place's rows pass through its adapters in the order of their attachment; backward in reverse, all of them,
//! trained or not. Where adapters only add, the frozen product's own gradient is made first; where one rescales `dy`, the
//! product sees what all of them left of it, and comes last.

use super::acts::{Extra, LSE};
use super::hparams::{Form, Layer};
use super::pass::{Pass, Target};
use super::{HParams, Model};
use crate::adapter::{At, Into, Member, Needs, Place, Seen, Shape, Site, Slot, Spot, Stack};
use crate::kernel::{Buffer, Tile, View};
use crate::nn::experts::{self, Choice};
use crate::nn::linear::{self, Accumulate, Back, Input, Precision, Quantized};
use crate::nn::{head, norm};
use crate::quant::Matrix;
use crate::role::{Role, TensorKind};
use core::ops::Range;
use std::prelude::v1::*;

/// Buffers that the doors share; each grows to the largest use once.
#[derive(Default)]
pub struct Workspace {
    /// Quantized inputs.
    pub quantized: Quantized,
    /// What the backward pass in 8 bits works in.
    pub back: Back,
    /// What adapters work in.
    pub scratch: Buffer,
    /// The same for rows of one product alone.
    apart_quantized: Quantized,
    /// The input of one product alone, and its gradient.
    apart: [Buffer; 2],
    /// Products of a tensor that holds several.
    fused: Buffer,
    /// Rows before an adapter of a stack.
    before: Buffer,
    /// Embeddings before their norm, and their gradient.
    pub embedded: Buffer,
    /// Embeddings before their adapters.
    pub frozen_embedded: Buffer,
    /// The rows that dropout leaves, and their gradient.
    dropped: [Buffer; 2],
    /// Which experts rows have, and what these work in.
    choice: Choice,
    experts: experts::Work,
}

impl Workspace {
    /// Bytes of the passes over `n` rows, of which `targets` are multiplied with the output matrix, without what adapters need.
    pub fn bytes(m: &Model, precision: Precision, n: usize, targets: usize) -> usize {
        let fused = m.weights.blocks.iter().flat_map(|b| b.matrices()).filter(|(r, _)| !r.row().holds.is_empty());
        let embedded = if m.weights.embed_norm.is_some() { 2 * m.hparams.width } else { 0 };
        let fused = 4 * n * (fused.map(|(_, w)| w.rows).max().unwrap_or(0) + embedded);
        let fused = fused + Self::expert_bytes(m, precision, n);
        if precision == Precision::F32 {
            return fused;
        }
        let slice = head::slice(m.weights.head());
        let linears = || m.weights.blocks.iter().flat_map(|block| block.matrices());
        let inputs = linears().map(|(role, w)| (w, n, role.row().wide)).chain([(&slice, targets, false)]);
        let products = m.weights.blocks.iter().flat_map(|block| block.products()).map(|w| (w, n));
        let products = products.chain([(&slice, targets)]);
        fused + Quantized::bytes(m.compute.kernels, inputs) + Back::bytes(products)
    }

    fn expert_bytes(m: &Model, precision: Precision, n: usize) -> usize {
        let layers = m.hparams.blocks.iter().zip(&m.weights.blocks);
        let mixtures = || layers.clone().filter_map(|(l, w)| Some((l.mixture?, w.experts.as_ref()?.of(l.act))));
        let choices = mixtures().map(|(m, _)| Choice::bytes(m.router, n)).max().unwrap_or(0);
        let work = mixtures().map(|(_, e)| experts::Work::bytes(&m.compute, precision, e, n, true)).max();
        choices + work.unwrap_or(0)
    }

    /// The choice of experts, and what they work in.
    pub fn experts(&mut self) -> (&mut Choice, &mut experts::Work) {
        (&mut self.choice, &mut self.experts)
    }

    /// The same, with what the backward pass in 8 bits works in.
    pub fn experts_back(&mut self) -> (&mut Choice, &mut experts::Work, &mut Back) {
        (&mut self.choice, &mut self.experts, &mut self.back)
    }

    /// Bytes that a trained adapter makes the doors hold for `n` rows, beside what is remembered of a block.
    pub fn adapter_bytes(h: &HParams, shape: &Shape, dropout: bool, n: usize) -> usize {
        let widest = |of: fn(&Place) -> bool, side: usize| {
            shape.slots.iter().filter(|s| of(&s.place)).map(|s| s.shape[side]).max().unwrap_or(0)
        };
        let apart = 2 * widest(|p| matches!(p, Place::Input(_)), 0);
        let dropped = if dropout { 2 * widest(|p| matches!(p, Place::Site(_) | Place::Stream(..)), 0) } else { 0 };
        let norms = |p: &Place| matches!(p, Place::Site(site) if site.role.row().kind == TensorKind::Gain);
        let before = if shape.needs.output { widest(norms, 1).min(h.width) } else { 0 };
        let remade = |s: &&Slot| s.place == Place::Embedding && s.needs.output;
        let embedded = shape.slots.iter().find(remade).map_or(0, |s| s.shape[1]);
        4 * n * (apart + dropped + before + embedded + shape.size.row)
    }
}

/// What adapters want remembered of a layer.
pub fn extras(stack: &Stack, h: &HParams, layer: usize) -> Vec<Extra> {
    if !stack.needs().output && !stack.needs().lse {
        return Vec::new();
    }
    listed(&|place| stack.needs_at(place), h, layer)
}

/// The same for an adapter of that shape on top of a stack.
pub fn extras_of(shape: Option<&Shape>, beneath: &Stack, h: &HParams, layer: usize) -> Vec<Extra> {
    let own = |shape: &Shape, place| shape.slot(place).map_or(Needs::default(), |slot| shape.slots[slot].needs);
    let needs = |place| shape.map_or(Needs::default(), |shape| own(shape, place)).and(beneath.needs_at(place));
    listed(&needs, h, layer)
}

fn listed(needs: &dyn Fn(Place) -> Needs, h: &HParams, layer: usize) -> Vec<Extra> {
    let (l, mut out) = (&h.blocks[layer], Vec::new());
    let sizes = l.sizes(h.width);
    let products = Role::matrices().map(|role| (Place::Site(Site { layer, role }), (role.row().shape)(&sizes)[1]));
    let others = [
        (Place::Attention(layer), l.q_width()),
        (Place::Stream(layer, Spot::Attention), h.width),
        (Place::Stream(layer, Spot::FeedForward), h.width),
    ];
    for (place, width) in products.chain(others) {
        if needs(place).output {
            out.push((place.door(), width));
        }
    }
    if needs(Place::Attention(layer)).lse {
        out.push((LSE, l.heads.q));
    }
    out
}

/// Whether the output of the down projection must be made again where a block's forward pass is.
pub fn needs_down(p: &Pass, layer: usize) -> bool {
    let down = Place::Site(Site { layer, role: Role::Down });
    let wants = |place| p.stack.needs_at(place).output;
    let l = &p.model.hparams.blocks[layer];
    l.has.has(Role::PostFfnNorm)
        || l.has.has(Role::SharedGate)
        || l.form() == Form::Post
        || wants(down)
        || wants(Place::Stream(layer, Spot::FeedForward))
}

fn at<'a>(p: &'a Pass, place: Place, stack: &Stack, member: &Member, lse: Option<View<'a>>) -> At<'a> {
    let heads = p.model.hparams.blocks[place.layer().unwrap_or(0)].heads;
    let strength = stack.adapter(member).strength;
    At { cx: &p.model.compute, place, slot: member.slot, strength, heads, lse }
}

/// Lets the adapters of a place change `y`: those of every row's own session. The shapes are those of the place.
fn apply(p: &Pass, place: Place, x: View, lse: Option<View>, y: &mut Tile, dropped: &mut Buffer, scratch: &mut Buffer) {
    let (n, c) = (y.n(), y.c());
    for (rows, stack) in p.stacks(n) {
        let members = stack.at(place);
        if !members.is_empty() {
            // There is no input where a place makes its rows of nothing.
            let x = if x.c > 0 { x.rows(rows.clone()) } else { x };
            let lse = lse.map(|lse| lse.rows(rows.clone()));
            apply_members(p, place, stack, members, x, lse, &mut y.part(rows, 0..c), dropped, scratch);
        }
    }
}

/// Lets some adapters of a place change `y`.
fn apply_members(
    p: &Pass,
    place: Place,
    stack: &Stack,
    members: &[Member],
    x: View,
    lse: Option<View>,
    y: &mut Tile,
    dropped: &mut Buffer,
    scratch: &mut Buffer,
) {
    let (n, c) = (y.n(), y.c());
    for member in members {
        let x = match p.dropout_of(place, member) {
            Some(dropout) => dropout.apply(p, place, x, dropped),
            None => x,
        };
        let mut y = y.part(own_rows(p, place, member, n), 0..c);
        stack.adapter(member).adapter.forward(&at(p, place, stack, member, lse), x, &mut y, scratch);
    }
}

/// The rows that a member of a place may change: all `n`, but of those before the text each its own.
fn own_rows(p: &Pass, place: Place, member: &Member, n: usize) -> Range<usize> {
    if place != Place::Rows {
        return 0..n;
    }
    let rows = |member: &Member| p.stack.adapter(member).adapter.shape().needs.rows;
    let before = p.stack.at(place).iter().take_while(|m| m.which != member.which);
    let first = before.map(rows).sum();
    first..first + rows(member)
}

/// The backward pass through the adapters of a place, last to first. `product`: what the frozen model made, where it is needed.
/// `dy`, `[N, out]`, becomes the gradient of that; `dx` and `dlse` are added to.
fn unapply(
    p: &Pass,
    place: Place,
    x: View,
    lse: Option<View>,
    product: Option<View>,
    dy: &mut [f32],
    mut dx: Option<&mut Tile>,
    mut dlse: Option<&mut Tile>,
    target: &mut Target,
    work: &mut Workspace,
) {
    let members = p.stack.at(place);
    // Of a state there are the rows before and, behind them, those after.
    let (product, after) = match (place, product) {
        (Place::State(_), Some(both)) => (Some(both.rows(0..x.n)), Some(both.rows(x.n..2 * x.n))),
        (_, product) => (product, None),
    };
    let Workspace { scratch, before, dropped: [dropped, ddropped], .. } = work;
    for (i, member) in members.iter().enumerate().rev() {
        let adapter = &p.stack.adapter(member).adapter;
        let y0 = match (adapter.shape().slots[member.slot].needs.output, product, i) {
            (false, ..) | (_, None, _) => None,
            (true, product, 0) => product,
            (true, Some(product), _) => {
                let y0 = before.room(product.n * product.c);
                copy(product, y0);
                let mut tile = Tile::new(y0, product.n, product.c);
                apply_members(p, place, p.stack, &members[..i], x, lse, &mut tile, dropped, scratch);
                Some(View::new(y0, product.n, product.c))
            }
        };
        let at = at(p, place, p.stack, member, lse);
        let dropout = p.dropout_of(place, member);
        let x = match &dropout {
            Some(dropout) => dropout.apply(p, place, x, dropped),
            None => x,
        };
        let seen = Seen { x, y0, y: after };
        let (all, width) = (p.rows.lead, p.model.hparams.width);
        let dy = match place {
            Place::Rows => {
                let own = own_rows(p, place, member, all);
                &mut dy[own.start * width..own.end * width]
            }
            _ => &mut dy[..],
        };
        match (&dropout, &mut dx) {
            (Some(dropout), Some(dx)) => {
                let own = ddropped.room(x.n * x.c);
                own.fill(0.0);
                let mut tile = Tile::new(own, x.n, x.c);
                let into = Into { dx: Some(&mut tile), dlse: dlse.as_deref_mut(), acc: target.acc(member.which) };
                adapter.backward(&at, &seen, dy, into, scratch);
                dropout.add(p, place, &mut own[..x.n * x.c], dx);
            }
            (_, dx) => {
                let into = Into { dx: dx.as_deref_mut(), dlse: dlse.as_deref_mut(), acc: target.acc(member.which) };
                adapter.backward(&at, &seen, dy, into, scratch);
            }
        }
    }
}

fn keep(y: &mut Tile, to: &mut [f32]) {
    let c = y.c();
    (0..y.n()).for_each(|i| to[i * c..(i + 1) * c].copy_from_slice(y.row(i)));
}

fn copy(from: View, to: &mut [f32]) {
    for (i, to) in to.chunks_exact_mut(from.c.max(1)).take(from.n).enumerate() {
        to.copy_from_slice(from.row(i));
    }
}

/// One frozen product to make, and where it goes.
pub struct Out<'a> {
    /// Which.
    pub role: Role,
    /// `[N, F]`.
    pub y: &'a mut [f32],
}

/// `y = x · Wᵀ (+ bias)`, and what adapters make of it, for products of one block that share their input. x: `[N, C]`.
/// `extras` remember what adapters want.
pub fn project<const K: usize>(
    p: &Pass,
    layer: usize,
    x: View,
    outs: [Out; K],
    extras: &mut [Buffer],
    work: &mut Workspace,
) {
    let (m, first) = (p.model, outs[0].role);
    let block = &m.weights.blocks[layer];
    if block.stored(first).is_none() {
        return project_fused(p, layer, x, outs, extras, work);
    }
    let matrices =
        outs.each_ref().map(|out| block.stored(out.role).expect("one product of a group is stored as all are"));
    let Workspace { quantized, apart_quantized, apart: [apart, _], dropped: [dropped, _], scratch, .. } = work;
    let input = Input::new(&m.compute, p.precision, x, &matrices, first.row().wide, quantized);
    for (out, w) in outs.into_iter().zip(matrices) {
        let site = Site { layer, role: out.role };
        let next = m.weights.next(layer, out.role);
        if !p.any_at(Place::Input(site)) {
            product(p, site, w, x, input.prefetch(next), out.y, extras, dropped, scratch);
            continue;
        }
        let own = apart.room(x.n * x.c);
        copy(x, own);
        apply(p, Place::Input(site), x, None, &mut Tile::new(own, x.n, x.c), dropped, scratch);
        let own = View::new(own, x.n, x.c);
        let input = Input::new(&m.compute, p.precision, own, &[w], first.row().wide, apart_quantized);
        product(p, site, w, own, input.prefetch(next), out.y, extras, dropped, scratch);
    }
}

/// One product with its bias, and its adapters.
fn product(
    p: &Pass,
    site: Site,
    w: &Matrix,
    x: View,
    input: Input,
    y: &mut [f32],
    extras: &mut [Buffer],
    dropped: &mut Buffer,
    scratch: &mut Buffer,
) {
    let cx = &p.model.compute;
    let mut y = Tile::new(y, x.n, w.rows);
    linear::forward(cx, w, input, &mut y);
    let block = &p.model.weights.blocks[site.layer];
    if let Some(bias) = site.role.bias().and_then(|role| block.vector(role)) {
        linear::add_bias(cx, &mut y, bias);
    }
    changed(p, Place::Site(site), x, &mut y, extras, dropped, scratch);
}

/// Lets adapters change what a frozen product or a sub-layer put out; remembers it for them first.
fn changed(
    p: &Pass,
    place: Place,
    x: View,
    y: &mut Tile,
    extras: &mut [Buffer],
    dropped: &mut Buffer,
    scratch: &mut Buffer,
) {
    if !p.any_at(place) {
        return;
    }
    if p.save && p.stack.needs_at(place).output {
        keep(y, &mut extras[place.door()]);
    }
    apply(p, place, x, None, y, dropped, scratch);
}

/// [`project`] where one tensor holds the rows of all: adapters may stand on it, or on the roles it holds.
fn project_fused<const K: usize>(
    p: &Pass,
    layer: usize,
    x: View,
    outs: [Out; K],
    extras: &mut [Buffer],
    work: &mut Workspace,
) {
    let (m, role) = (p.model, holder(&outs.each_ref().map(|o| o.role)));
    let w = m.weights.blocks[layer].stored(role).expect("the tensor that holds the others");
    let Workspace { quantized, fused, apart: [apart, _], dropped: [dropped, _], scratch, .. } = work;
    let site = Site { layer, role };
    let met = match p.any_at(Place::Input(site)) {
        false => x,
        true => {
            let own = apart.room(x.n * x.c);
            copy(x, own);
            apply(p, Place::Input(site), x, None, &mut Tile::new(own, x.n, x.c), dropped, scratch);
            View::new(own, x.n, x.c)
        }
    };
    let input = Input::new(&m.compute, p.precision, met, &[w], role.row().wide, quantized);
    let y = fused.room(x.n * w.rows);
    let next = m.weights.next(layer, role);
    product(p, site, w, met, input.prefetch(next), y, extras, dropped, scratch);
    let mut first = 0;
    for out in outs {
        let width = width(m, layer, out.role);
        for (y, whole) in out.y.chunks_exact_mut(width).zip(y.chunks_exact(w.rows)).take(x.n) {
            y.copy_from_slice(&whole[first..first + width]);
        }
        first += width;
        let place = Place::Site(Site { layer, role: out.role });
        changed(p, place, x, &mut Tile::new(out.y, x.n, width), extras, dropped, scratch);
    }
}

/// The tensor that holds exactly these roles.
fn holder(roles: &[Role]) -> Role {
    let (role, _) = roles[0].fused().expect("a matrix that is not stored is held by another");
    assert_eq!(role.row().holds, roles, "products of a group");
    role
}

fn width(m: &Model, layer: usize, role: Role) -> usize {
    (role.row().shape)(&m.hparams.blocks[layer].sizes(m.hparams.width))[1]
}

/// `dx = Σ dy · W`, or `dx += …`, if it is wanted, for products of one block that share their input, with what adapters
/// add, and gradients. x: `[N, C]`, dx: `[N, C]`; each `dy`, `[N, F]`, may be overwritten where an adapter rescales.
pub fn project_backward<const K: usize>(
    p: &Pass,
    layer: usize,
    x: View,
    outs: [Out; K],
    mut into: Accumulate,
    mut dx: Option<&mut [f32]>,
    extras: &[Buffer],
    target: &mut Target,
    work: &mut Workspace,
) {
    let block = &p.model.weights.blocks[layer];
    if block.stored(outs[0].role).is_some() {
        for out in outs {
            let w = block.stored(out.role).expect("one product of a group is stored as all are");
            let site = Site { layer, role: out.role };
            product_backward(p, site, w, x, out.y, into, dx.as_deref_mut(), extras, target, work);
            into = Accumulate::Add;
        }
        return;
    }
    let role = holder(&outs.each_ref().map(|o| o.role));
    let w = block.stored(role).expect("the tensor that holds the others");
    let mut whole = core::mem::take(&mut work.fused);
    let dy = whole.room(x.n * w.rows);
    let mut first = 0;
    for out in outs {
        let (width, place) = (width(p.model, layer, out.role), Place::Site(Site { layer, role: out.role }));
        if !p.stack.at(place).is_empty() {
            if let (Some(dx), Accumulate::Set) = (&mut dx, into) {
                dx[..x.n * x.c].fill(0.0);
                into = Accumulate::Add;
            }
            let product = Some(&extras[place.door()]).filter(|_| p.stack.needs_at(place).output);
            let product = product.map(|b| View::new(b, x.n, width));
            let mut dx = dx.as_deref_mut().map(|dx| Tile::new(dx, x.n, x.c));
            let dy = &mut out.y[..x.n * width];
            unapply(p, place, x, None, product, dy, dx.as_mut(), None, target, work);
        }
        for (whole, dy) in dy.chunks_exact_mut(w.rows).zip(out.y.chunks_exact(width)) {
            whole[first..first + width].copy_from_slice(dy);
        }
        first += width;
    }
    product_backward(p, Site { layer, role }, w, x, dy, into, dx, extras, target, work);
    work.fused = whole;
}

/// The backward pass through one product: its adapters, the matrix, and adapters of its input.
fn product_backward(
    p: &Pass,
    site: Site,
    w: &Matrix,
    x: View,
    dy: &mut [f32],
    into: Accumulate,
    dx: Option<&mut [f32]>,
    extras: &[Buffer],
    target: &mut Target,
    work: &mut Workspace,
) {
    let n = x.n;
    let inputs = p.stack.at(Place::Input(site));
    if inputs.is_empty() {
        let mut dx = dx.map(|dx| Tile::new(dx, n, w.cols));
        return matrix_backward(p, site, w, x, dy, into, dx.as_mut(), extras, target, work);
    }
    // What met the matrix is made again, and its gradient goes through the adapters of the input.
    let [mut own, mut down] = core::mem::take(&mut work.apart);
    let rows = own.room(n * x.c);
    copy(x, rows);
    {
        let Workspace { scratch, dropped: [dropped, _], .. } = work;
        apply(p, Place::Input(site), x, None, &mut Tile::new(rows, n, x.c), dropped, scratch);
    }
    let drows = down.room(n * x.c);
    let mut tile = Tile::new(drows, n, x.c);
    let met = View::new(rows, n, x.c);
    matrix_backward(p, site, w, met, dy, Accumulate::Set, Some(&mut tile), extras, target, work);
    unapply(p, Place::Input(site), x, None, Some(x), &mut drows[..n * x.c], None, None, target, work);
    if let Some(dx) = dx {
        match into {
            Accumulate::Set => dx[..n * x.c].copy_from_slice(&drows[..n * x.c]),
            Accumulate::Add => crate::nn::add(&drows[..n * x.c], dx),
        }
    }
    work.apart = [own, down];
}

fn matrix_backward(
    p: &Pass,
    site: Site,
    w: &Matrix,
    x: View,
    dy: &mut [f32],
    into: Accumulate,
    mut dx: Option<&mut Tile>,
    extras: &[Buffer],
    target: &mut Target,
    work: &mut Workspace,
) {
    let (cx, n, place) = (&p.model.compute, x.n, Place::Site(site));
    let needs = p.stack.needs_at(place);
    let product = Some(&extras[place.door()]).filter(|_| needs.output).map(|b| View::new(b, n, w.rows));
    let dy = &mut dy[..n * w.rows];
    if needs.rescales {
        if let (Some(dx), Accumulate::Set) = (&mut dx, into) {
            (0..n).for_each(|i| dx.row(i).fill(0.0));
        }
        unapply(p, place, x, None, product, dy, dx.as_deref_mut(), None, target, work);
        if let Some(dx) = dx {
            linear::backward(cx, p.precision, w, View::new(dy, n, w.rows), Accumulate::Add, dx, &mut work.back);
        }
    } else {
        if let Some(dx) = &mut dx {
            linear::backward(cx, p.precision, w, View::new(dy, n, w.rows), into, dx, &mut work.back);
        }
        unapply(p, place, x, None, product, dy, dx, None, target, work);
    }
    if let Target::Weights(offsets, grads) = target {
        let dy = View::new(dy, n, w.rows);
        let at = offsets.block(site.layer, site.role).expect("a place for every matrix");
        linear::backward_weights(cx, x, dy, &mut Tile::new(&mut grads[at], w.rows, w.cols));
        if let Some(at) = site.role.bias().and_then(|role| offsets.block(site.layer, role)) {
            linear::backward_bias(cx, dy, &mut grads[at]);
        }
    }
}

/// A norm of a block, and what adapters make of it. x: `[N, C]`, y: `[N, C]`, overwritten.
pub fn norm(p: &Pass, layer: usize, role: Role, x: View, y: &mut [f32], work: &mut Workspace) {
    let (m, place) = (p.model, Place::Site(Site { layer, role }));
    let block = &m.weights.blocks[layer];
    let bias = role.bias().and_then(|role| block.vector(role));
    let mut y = Tile::new(y, x.n, x.c);
    norm::forward(&m.compute, m.hparams.norm, x, block.gain(role), bias, &mut y);
    let Workspace { scratch, dropped: [dropped, _], .. } = work;
    apply(p, place, x, None, &mut y, dropped, scratch);
}

/// The backward pass: `dx += …`, and gradients. `dy`, `[N, C]`, may be overwritten where an adapter rescales.
pub fn norm_backward(
    p: &Pass,
    layer: usize,
    role: Role,
    x: View,
    dy: &mut [f32],
    dx: &mut [f32],
    target: &mut Target,
    work: &mut Workspace,
) {
    let (m, place) = (p.model, Place::Site(Site { layer, role }));
    let (block, cx, of) = (&m.weights.blocks[layer], &m.compute, m.hparams.norm);
    let (n, c) = (x.n, x.c);
    let mut dx = Tile::new(dx, n, c);
    if !p.stack.at(place).is_empty() {
        // What the norm made is made again: it takes a few operations a value.
        let mut made = core::mem::take(&mut work.apart);
        let y = made[0].room(n * c);
        let bias = role.bias().and_then(|role| block.vector(role));
        norm::forward(cx, of, x, block.gain(role), bias, &mut Tile::new(y, n, c));
        let product = Some(View::new(y, n, c));
        unapply(p, place, x, None, product, &mut dy[..n * c], Some(&mut dx), None, target, work);
        work.apart = made;
    }
    let dy = View::new(dy, n, c);
    norm::backward(cx, of, x, block.gain(role), dy, &mut dx);
    if let Target::Weights(offsets, grads) = target {
        let gain = offsets.block(layer, role).expect("a place for every norm");
        let bias = role.bias().and_then(|role| offsets.block(layer, role));
        // The bias lies behind the gain.
        let (before, after) = grads.split_at_mut(gain.end);
        let bias = bias.map(|at| &mut after[at.start - gain.end..at.end - gain.end]);
        norm::backward_weights(cx, of, x, dy, &mut before[gain], bias);
    }
}

/// What adapters make of what attention gathered. q: queries after the rotary embedding, `[N, H·D]`, y: `[N, H·D]`.
pub fn attend(p: &Pass, layer: usize, q: View, y: &mut [f32], extras: &mut [Buffer], work: &mut Workspace) {
    let place = Place::Attention(layer);
    if !p.any_at(place) {
        return;
    }
    let needs = p.needs_at(place);
    if p.save && needs.output {
        extras[place.door()][..q.n * q.c].copy_from_slice(&y[..q.n * q.c]);
    }
    let lse = Some(&extras[LSE]).filter(|_| needs.lse);
    let lse = lse.map(|lse| View::new(lse, q.n, p.model.hparams.blocks[layer].heads.q));
    let Workspace { scratch, dropped: [dropped, _], .. } = work;
    apply(p, place, q, lse, &mut Tile::new(y, q.n, q.c), dropped, scratch);
}

/// The backward pass: `dy` becomes the gradient of what attention itself gathered; dq and dlse are added to.
pub fn attend_backward(
    p: &Pass,
    layer: usize,
    q: View,
    dy: &mut [f32],
    dq: &mut Tile,
    dlse: Option<&mut Tile>,
    extras: &[Buffer],
    target: &mut Target,
    work: &mut Workspace,
) {
    let place = Place::Attention(layer);
    let needs = p.stack.needs_at(place);
    let product = Some(&extras[place.door()]).filter(|_| needs.output).map(|b| View::new(b, q.n, q.c));
    let lse = Some(&extras[LSE]).filter(|_| needs.lse);
    let lse = lse.map(|lse| View::new(lse, q.n, p.model.hparams.blocks[layer].heads.q));
    unapply(p, place, q, lse, product, &mut dy[..q.n * q.c], Some(dq), dlse, target, work);
}

/// What adapters make of the output of a sub-layer. x: its normed input, y: the output, `[N, width]`.
pub fn stream(p: &Pass, layer: usize, spot: Spot, x: View, y: &mut [f32], extras: &mut [Buffer], work: &mut Workspace) {
    let Workspace { scratch, dropped: [dropped, _], .. } = work;
    changed(p, Place::Stream(layer, spot), x, &mut Tile::new(y, x.n, x.c), extras, dropped, scratch);
}

/// The backward pass: `dy` becomes the gradient of the output itself; dx is added to.
pub fn stream_backward(
    p: &Pass,
    layer: usize,
    spot: Spot,
    x: View,
    dy: &mut [f32],
    dx: Option<&mut [f32]>,
    extras: &[Buffer],
    target: &mut Target,
    work: &mut Workspace,
) {
    let place = Place::Stream(layer, spot);
    let product = Some(&extras[place.door()]).filter(|_| p.stack.needs_at(place).output);
    let product = product.map(|b| View::new(b, x.n, x.c));
    let mut dx = dx.map(|dx| Tile::new(dx, x.n, x.c));
    unapply(p, place, x, None, product, &mut dy[..x.n * x.c], dx.as_mut(), None, target, work);
}

/// What adapters make of rows at a place that is not inside a sub-layer: the embedding, a state, its end, the last rows.
/// x: `[N, in]`, y: `[N, out]`. `kept` remembers y as it was, where it is wanted.
pub fn pass_through(p: &Pass, place: Place, x: View, y: &mut Tile, kept: Option<&mut [f32]>, work: &mut Workspace) {
    if !p.any_at(place) {
        return;
    }
    if let Some(kept) = kept.filter(|_| p.stack.needs_at(place).output) {
        keep(y, kept);
    }
    let Workspace { scratch, dropped: [dropped, _], .. } = work;
    apply(p, place, x, None, y, dropped, scratch);
}

/// The backward pass through such a place. `kept` at a state: the rows before, and behind them those after.
pub fn pass_back(
    p: &Pass,
    place: Place,
    x: View,
    kept: Option<View>,
    dy: &mut [f32],
    dx: Option<&mut Tile>,
    target: &mut Target,
    work: &mut Workspace,
) {
    if !p.stack.at(place).is_empty() {
        unapply(p, place, x, None, kept, dy, dx, None, target, work);
    }
}

/// Whether the gradient of a sub-layer's output must be a copy of the stream's, since it is changed on its way.
pub fn own_branch(p: &Pass, l: &Layer, layer: usize, spot: Spot) -> bool {
    let (role, post) = match spot {
        Spot::Attention => (l.mixer.out(), Role::PostAttnNorm),
        Spot::FeedForward => (Role::Down, Role::PostFfnNorm),
    };
    let rescales = |place| p.stack.needs_at(place).rescales;
    l.has.has(post)
        || spot == Spot::FeedForward && l.has.has(Role::SharedGate)
        || l.residual != 1.0
        || rescales(Place::Stream(layer, spot))
        || rescales(Place::Site(Site { layer, role }))
}
