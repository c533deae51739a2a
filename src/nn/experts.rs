//! Mixtures of experts (arXiv:2101.03961, arXiv:2401.04088): a router gives every row a few feed-forward layers of many,
//! each with a weight, and the row gets the weighted sum of what these make of it.
//!
//! Rows are grouped by expert, so that a pass reads the matrices of an expert once, and those of an expert that no row
//! chose not at all. A row adds what its experts make in the order of their numbers, so its result does not depend on the
//! rows that are with it. The choice has no gradient; the weights have one, and so have the chosen experts' inputs.

use super::ffn::{self, Act};
use super::linear::{self, Accumulate, Back, Input, Precision, Quantized};
use crate::kernel::{Buffer, Compute, Tile, View};
use crate::quant::Matrix;
use core::ops::Range;
use std::prelude::v1::*;

/// How rows choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Router {
    /// Experts.
    pub experts: usize,
    /// How many of them each row has: those of the largest probabilities, of equal ones the lower number.
    pub used: usize,
    /// Whether their weights are divided by their sum. Else they are the probabilities among all experts.
    pub normalised: bool,
}

/// The matrices of the experts, as many of each as there are experts.
#[derive(Clone, Copy)]
pub struct Experts<'a> {
    /// Gates, each `[F, C]`.
    pub gate: &'a [Matrix],
    /// What gates multiply, each `[F, C]`.
    pub up: &'a [Matrix],
    /// Outputs, each `[C, F]`.
    pub down: &'a [Matrix],
    /// The activation, which has a gate.
    pub act: &'a Act,
}

/// Which experts rows have: pairs of a row and an expert, grouped by expert and inside that by row. Its memory grows to the
/// largest number of rows once.
#[derive(Default)]
pub struct Choice {
    /// The row of each pair.
    rows: Vec<u32>,
    /// Its weight.
    weights: Vec<f32>,
    /// The first pair of each expert, and the number of pairs.
    starts: Vec<usize>,
    /// The experts of each row, in the order of their numbers, `[N, used]`, and the probabilities of all, `[experts]`.
    chosen: Vec<u32>,
    probabilities: Vec<f32>,
}

impl Choice {
    /// Bytes for `n` rows.
    pub fn bytes(router: Router, n: usize) -> usize {
        12 * n * router.used + size_of::<usize>() * (router.experts + 1) + 4 * router.experts
    }

    /// Bytes that it holds.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        let Choice { rows, weights, starts, chosen, probabilities } = self;
        let words = rows.capacity() + weights.capacity() + chosen.capacity() + probabilities.capacity();
        4 * words + size_of::<usize>() * starts.capacity()
    }

    /// The pairs of expert `e`.
    fn pairs(&self, e: usize) -> Range<usize> {
        self.starts[e]..self.starts[e + 1]
    }

    /// The experts that any row has, with their pairs.
    fn used(&self) -> impl DoubleEndedIterator<Item = (usize, Range<usize>)> + '_ {
        (0..self.starts.len() - 1).map(|e| (e, self.pairs(e))).filter(|(_, pairs)| !pairs.is_empty())
    }
}

/// Grows to exactly this length if it is shorter.
fn fit<T: Clone + Default>(all: &mut Vec<T>, len: usize) {
    if all.capacity() < len {
        *all = Vec::new();
        all.reserve_exact(len);
    }
    all.resize(len, T::default());
}

/// Chooses. logits: `[N, experts]`.
pub fn choose(cx: &Compute, router: Router, logits: View, choice: &mut Choice) {
    let (n, Router { experts, used, normalised }) = (logits.n, router);
    assert!(logits.c == experts && used > 0 && used <= experts, "experts of a router");
    fit(&mut choice.rows, n * used);
    fit(&mut choice.weights, n * used);
    fit(&mut choice.chosen, n * used);
    fit(&mut choice.probabilities, experts);
    fit(&mut choice.starts, experts + 1);
    let Choice { rows, weights, starts, chosen, probabilities: p } = choice;
    starts.fill(0);
    for (i, chosen) in chosen.chunks_exact_mut(used).enumerate() {
        best(logits.row(i), chosen);
        chosen.sort_unstable();
        chosen.iter().for_each(|e| starts[*e as usize + 1] += 1);
    }
    for e in 0..experts {
        starts[e + 1] += starts[e];
    }
    for (i, chosen) in chosen.chunks_exact(used).enumerate() {
        p.copy_from_slice(logits.row(i));
        (cx.kernels.softmax)(p);
        let sum = if normalised { chosen.iter().map(|e| p[*e as usize]).sum() } else { 1.0 };
        for e in chosen {
            // The start of an expert moves on to its end, and back below.
            let at = &mut starts[*e as usize];
            (rows[*at], weights[*at]) = (i as u32, p[*e as usize] / sum);
            *at += 1;
        }
    }
    starts.copy_within(..experts, 1);
    starts[0] = 0;
}

/// The numbers of the largest values; of equal ones the lower, and one that is no number last.
fn best(x: &[f32], out: &mut [u32]) {
    let used = out.len();
    let before = |a: u32, b: u32| {
        let [a, b] = [a, b].map(|i| x[i as usize]);
        a > b || b.is_nan() && !a.is_nan()
    };
    let mut count = 0;
    for i in 0..x.len() as u32 {
        let at = out[..count].iter().position(|other| before(i, *other)).unwrap_or(count);
        if at < used {
            count = used.min(count + 1);
            out.copy_within(at..count - 1, at + 1);
            out[at] = i;
        }
    }
}

/// Buffers of the passes; they grow to the largest number of rows once.
#[derive(Default)]
pub struct Work {
    /// Rows of one expert, what it makes of them or their gradient, and the gradient of its hidden rows.
    rows: [Buffer; 3],
    /// Its inputs and its hidden rows, rounded.
    quantized: [Quantized; 2],
}

impl Work {
    /// Bytes for `n` rows, of which all may have the same expert; more with a backward pass.
    pub fn bytes(cx: &Compute, precision: Precision, experts: Experts, n: usize, backward: bool) -> usize {
        let [gate, up, down] = [experts.gate, experts.up, experts.down].map(|w| &w[0]);
        let rounded = |all: &[&Matrix]| match precision {
            Precision::Int8 => Quantized::bytes(cx.kernels, all.iter().map(|w| (*w, n, false))),
            Precision::F32 => 0,
        };
        let hidden = if backward { gate.rows } else { 0 };
        4 * n * (2 * gate.cols + hidden) + rounded(&[gate, up]) + rounded(&[down])
    }
}

fn gather(x: View, rows: &[u32], to: &mut [f32]) {
    for (to, row) in to.chunks_exact_mut(x.c).zip(rows) {
        to.copy_from_slice(x.row(*row as usize));
    }
}

/// `y += Σ w · down(f(gate x) ∘ up x)` over the experts of each row. x, y: `[N, C]`. gate, up, hidden: `[N · used, F]`, in
/// the order of pairs, overwritten; [`backward`] wants them. Without y these alone are made.
pub fn forward(
    cx: &Compute,
    precision: Precision,
    experts: Experts,
    choice: &Choice,
    x: View,
    hidden: [&mut [f32]; 3],
    y: Option<&mut Tile>,
    work: &mut Work,
) {
    let Work { rows: [own, made, _], quantized: [outer, inner] } = work;
    let mut one = One { cx, precision, experts, choice, hidden, y, made, inner };
    let mut next = choice.used().skip(1).map(|(e, _)| e);
    if x.n == 1 {
        // A single row is the input of all of its experts and is rounded once.
        let all = [&experts.gate[0], &experts.up[0]];
        let input = Input::new(cx, precision, x, &all, false, outer);
        return choice.used().for_each(|(e, pairs)| one.forward(e, pairs, input, next.next()));
    }
    for (e, pairs) in choice.used() {
        let rows = own.room(pairs.len() * x.c);
        gather(x, &choice.rows[pairs.clone()], rows);
        let (rows, all) = (View::new(rows, pairs.len(), x.c), [&experts.gate[e], &experts.up[e]]);
        let input = Input::new(cx, precision, rows, &all, false, outer);
        one.forward(e, pairs, input, next.next());
    }
}

/// The forward pass through one expert after the other.
struct One<'a, 'b, 'c> {
    cx: &'a Compute,
    precision: Precision,
    experts: Experts<'a>,
    choice: &'a Choice,
    hidden: [&'a mut [f32]; 3],
    y: Option<&'b mut Tile<'c>>,
    made: &'a mut Buffer,
    inner: &'a mut Quantized,
}

impl One<'_, '_, '_> {
    /// Through expert `e`; `next` comes after it.
    fn forward(&mut self, e: usize, pairs: Range<usize>, input: Input, next: Option<usize>) {
        let (cx, experts, n, c) = (self.cx, self.experts, pairs.len(), input.x.c);
        let f = experts.gate[e].rows;
        let [gate, up, hidden] = self.hidden.each_mut().map(|all| &mut all[pairs.start * f..pairs.end * f]);
        linear::forward(cx, &experts.gate[e], input.prefetch(&experts.up[e]), &mut Tile::new(gate, n, f));
        linear::forward(cx, &experts.up[e], input.prefetch(&experts.down[e]), &mut Tile::new(up, n, f));
        activate(cx, experts.act, View::new(gate, n, f), View::new(up, n, f), &mut Tile::new(hidden, n, f));
        let Some(y) = &mut self.y else { return };
        let (hidden, down) = (View::new(hidden, n, f), &experts.down[e]);
        let input = Input::new(cx, self.precision, hidden, &[down], false, self.inner);
        let input = next.map_or(input, |e| input.prefetch(&experts.gate[e]));
        let made = self.made.room(n * c);
        linear::forward(cx, down, input, &mut Tile::new(made, n, c));
        for (i, made) in pairs.zip(made.chunks_exact(c)) {
            let (y, weight) = (y.row(self.choice.rows[i] as usize), self.choice.weights[i]);
            y.iter_mut().zip(made).for_each(|(y, v)| *y += weight * v);
        }
    }
}

/// Hidden rows from gates and what they multiply, `[N · used, F]`, overwritten.
pub fn activate(cx: &Compute, act: &Act, gate: View, up: View, hidden: &mut Tile) {
    ffn::forward(cx, act, gate, up, hidden);
}

/// The gradient of [`forward`] by its rows and by the weights of the choice. With `t = dy · down` of a pair: `dw = t·h` and
/// `dh = w t`, then as in a feed-forward layer. dy, dx: `[N, C]`, dx is added to; gate, up, hidden: what [`forward`] left,
/// of which the first two become their gradients; dw: `[N · used]`, overwritten.
pub fn backward(
    cx: &Compute,
    precision: Precision,
    experts: Experts,
    choice: &Choice,
    [gate, up]: [&mut [f32]; 2],
    hidden: &[f32],
    dy: View,
    dw: &mut [f32],
    dx: &mut Tile,
    work: &mut Work,
    back: &mut Back,
) {
    let (f, c) = (experts.gate[0].rows, dy.c);
    let [own, made, dhidden] = &mut work.rows;
    for (e, pairs) in choice.used() {
        let (n, here) = (pairs.len(), pairs.start * f..pairs.end * f);
        let (rows, dh) = (own.room(n * c), dhidden.room(n * f));
        gather(dy, &choice.rows[pairs.clone()], rows);
        let rows = View::new(rows, n, c);
        linear::backward(cx, precision, &experts.down[e], rows, Accumulate::Set, &mut Tile::new(dh, n, f), back);
        for ((i, dh), h) in pairs.clone().zip(dh.chunks_exact_mut(f)).zip(hidden[here.clone()].chunks_exact(f)) {
            let out = &mut dw[i..i + 1];
            (cx.kernels.dots)(View::new(dh, 1, f), View::new(h, 1, f), &mut Tile::new(out, 1, 1));
            dh.iter_mut().for_each(|dh| *dh *= choice.weights[i]);
        }
        let (gate, up) = (&mut gate[here.clone()], &mut up[here]);
        let (mut dgate, mut dup) = (Tile::new(&mut *gate, n, f), Tile::new(&mut *up, n, f));
        ffn::backward(cx, experts.act, &mut dgate, &mut dup, View::new(dh, n, f));
        let made = made.room(n * c);
        let mut tile = Tile::new(&mut *made, n, c);
        linear::backward(cx, precision, &experts.gate[e], View::new(gate, n, f), Accumulate::Set, &mut tile, back);
        linear::backward(cx, precision, &experts.up[e], View::new(up, n, f), Accumulate::Add, &mut tile, back);
        for (row, made) in choice.rows[pairs].iter().zip(made.chunks_exact(c)) {
            super::add(made, dx.row(*row as usize));
        }
    }
}

/// The gradient of the weights by the router's logits: `dz_j = p_j (dw_j − Σ dw p)`, where an expert that a row does not
/// have has `dw = 0`; with normalised weights the same over the row's own experts and their weights. logits, dlogits:
/// `[N, experts]`, dlogits is overwritten; dw: `[N · used]`, in the order of pairs.
pub fn choose_backward(cx: &Compute, router: Router, logits: View, choice: &Choice, dw: &[f32], dlogits: &mut Tile) {
    let (n, Router { experts, used, normalised }) = (logits.n, router);
    (0..n).for_each(|i| dlogits.row(i).fill(0.0));
    for (e, pairs) in choice.used() {
        pairs.for_each(|i| dlogits.row(choice.rows[i] as usize)[e] = dw[i]);
    }
    cx.pool.rows([dlogits.part(0..n, 0..experts)], [1], &|i, [mut dz], scratch| {
        let (p, dz) = (scratch.floats(experts), dz.row(0));
        p.copy_from_slice(logits.row(i));
        (cx.kernels.softmax)(p);
        if normalised {
            // What is not the row's own has no weight and so no gradient.
            let own = &choice.chosen[i * used..(i + 1) * used];
            let sum: f32 = own.iter().map(|e| p[*e as usize]).sum();
            let mut at = own.iter().peekable();
            for (e, p) in p.iter_mut().enumerate() {
                *p = if at.next_if(|own| **own as usize == e).is_some() { *p / sum } else { 0.0 };
            }
        }
        let mean: f32 = dz.iter().zip(&*p).map(|(dz, p)| dz * p).sum();
        dz.iter_mut().zip(p).for_each(|(dz, p)| *dz = *p * (*dz - mean));
    });
}
