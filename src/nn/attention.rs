//! Causal attention with grouped queries: `out_h = softmax(q_h · Kᵀ / √D) · V` over the keys up to each row's position.
//!
//! Scores exist for a few query rows at a time; there is no rows × positions matrix. A row's result does not depend on
//! which rows are computed with it. Many query rows of a head meet blocks of keys that are decoded for them; for a few
//! the query heads that share keys go together, and a cache is read where it lies.

use super::ROWS;
use crate::kernel::{Buffer, Compute, Kernels, Scratch, Stored, Tile, View};
use std::prelude::v1::*;

/// Query rows that share the passes over keys and values.
const QUERIES: usize = 16;
/// Keys that are decoded together.
const KEYS: usize = 64;
/// Query rows for which nothing is decoded beforehand.
const FEW: usize = 4;
/// Scores of few rows are reserved for a multiple of so many positions, so that not every token asks for more.
const STEP: usize = 512;

/// The sizes of a layer's heads.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Query heads.
    pub q: usize,
    /// Key and value heads; divides `q`.
    pub kv: usize,
    /// Width of a head.
    pub dim: usize,
    /// What scores are multiplied with, usually `1 / √dim`.
    pub scale: f32,
}

/// Keys or values of the positions so far.
#[derive(Clone, Copy)]
pub enum Memory<'a> {
    /// Full precision, `[T, KV · D]`.
    Rows(View<'a>),
    /// A cache, `[KV, positions, D]`.
    Cache {
        /// All rows.
        data: Stored<'a>,
        /// Rows of a head.
        positions: usize,
    },
}

impl<'a> Memory<'a> {
    /// The first `n` rows of head `kv`.
    fn head(&self, heads: Heads, kv: usize, n: usize) -> Head<'a> {
        let d = heads.dim;
        match *self {
            Memory::Rows(view) => Head::Rows(view.rows(0..n).cols(kv * d..kv * d + d)),
            Memory::Cache { data, positions } => Head::Cache(data.rows(kv * positions..kv * positions + n, d)),
        }
    }
}

/// The rows of one head, `[n, D]`.
#[derive(Clone, Copy)]
enum Head<'a> {
    Rows(View<'a>),
    Cache(Stored<'a>),
}

impl Head<'_> {
    /// Calls `f(first row, rows)` for blocks of the `n` rows.
    fn blocks(&self, k: &Kernels, n: usize, dim: usize, tmp: &mut [f32], mut f: impl FnMut(usize, View)) {
        match *self {
            Head::Rows(view) => f(0, view),
            Head::Cache(data) => {
                for first in (0..n).step_by(KEYS) {
                    let rows = KEYS.min(n - first);
                    let tmp = &mut tmp[..rows * dim];
                    k.decode_stored(data.rows(first..first + rows, dim), dim, tmp);
                    f(first, View::new(tmp, rows, dim));
                }
            }
        }
    }

    /// `y = x · wᵀ`.
    fn dots(&self, k: &Kernels, x: View, y: &mut Tile) {
        match *self {
            Head::Rows(view) => (k.dots)(x, view, y),
            Head::Cache(data) => (k.row_dots)(x, data, y),
        }
    }

    /// `y += a · w`.
    fn sums(&self, k: &Kernels, a: View, y: &mut Tile) {
        match *self {
            Head::Rows(view) => (k.sums)(a, view, y),
            Head::Cache(data) => (k.row_sums)(a, data, y),
        }
    }
}

/// Query rows `rows` of head `h`: their attention weights into `p`, `[rows, keys]`.
fn weights(k: &Kernels, heads: Heads, q: View, keys: &Memory, first: usize, h: usize, p: &mut [f32], tmp: &mut [f32]) {
    let (n, kv) = (q.n, h / (heads.q / heads.kv));
    let count = first + n;
    let mut scores = Tile::new(p, n, count);
    keys.head(heads, kv, count).blocks(k, count, heads.dim, tmp, |at, block| {
        (k.dots)(q, block, &mut scores.part(0..n, at..at + block.n));
    });
    for i in 0..n {
        let (seen, future) = scores.row(i).split_at_mut(first + i + 1);
        for s in seen.iter_mut() {
            *s *= heads.scale;
        }
        (k.softmax)(seen);
        future.fill(0.0);
    }
}

/// Row `i` of `q` stands at position `first + i` and sees keys `0..=first + i`.
/// q: `[N, H·D]`, keys and values: `[first + N, KV·D]`, out: `[N, H·D]`, overwritten.
pub fn forward(cx: &Compute, heads: Heads, q: View, keys: Memory, values: Memory, first: usize, out: &mut Tile) {
    let (k, d) = (cx.kernels, heads.dim);
    let (n, c) = (out.n(), out.c());
    if n <= FEW {
        return few(cx, heads, q, keys, values, first, out);
    }
    let tiles = n.div_ceil(QUERIES);
    // A part is one tile of query rows of one head; the later, longer tiles first, so threads finish together.
    cx.pool.grid([out.part(0..n, 0..c)], [(QUERIES, d)], &|row_part, h, [mut out], scratch| {
        debug_assert!(row_part < tiles);
        let rows = row_part * QUERIES..row_part * QUERIES + out.n();
        let (at, count) = (first + rows.start, first + rows.end);
        let [p, tmp] = scratch.two(out.n() * count, KEYS * d);
        weights(k, heads, q.rows(rows).cols(h * d..h * d + d), &keys, at, h, p, tmp);
        for i in 0..out.n() {
            out.row(i).fill(0.0);
        }
        let kv = h / (heads.q / heads.kv);
        values.head(heads, kv, count).blocks(k, count, d, tmp, |at, block| {
            let p = View::strided(p, out.n(), count, count).cols(at..at + block.n);
            (k.sums)(p, block, &mut out);
        });
    });
}

/// [`forward`] row by row: the query heads that share keys together.
fn few(cx: &Compute, heads: Heads, q: View, keys: Memory, values: Memory, first: usize, out: &mut Tile) {
    let (k, d, group) = (cx.kernels, heads.dim, heads.q / heads.kv);
    let (n, c) = (out.n(), out.c());
    // As many heads for each thread, even where a group is then read by two.
    let each = heads.q.div_ceil(cx.pool.threads());
    cx.pool.grid([out.part(0..n, 0..c)], [(1, each * d)], &|i, part, [mut out], scratch| {
        let (out, count) = (out.row(0), first + i + 1);
        let end = part * each + out.len() / d;
        let mut h = part * each;
        while h < end {
            let (kv, heads_here) = (h / group, (group - h % group).min(end - h));
            let at = (h - part * each) * d;
            let out = &mut out[at..at + heads_here * d];
            let q = View::strided(&q.row(i)[h * d..(h + heads_here) * d], heads_here, d, d);
            let p = &mut scratch.floats(heads_here * count.next_multiple_of(STEP))[..heads_here * count];
            keys.head(heads, kv, count).dots(k, q, &mut Tile::new(p, heads_here, count));
            for p in p.chunks_exact_mut(count) {
                p.iter_mut().for_each(|s| *s *= heads.scale);
                (k.softmax)(p);
            }
            out.fill(0.0);
            let p = View::new(p, heads_here, count);
            values.head(heads, kv, count).sums(k, p, &mut Tile::new(out, heads_here, d));
            h += heads_here;
        }
    });
}

/// Values that the passes over `n` positions hold for each thread.
pub fn scratch(heads: Heads, n: usize) -> usize {
    let few = if n <= FEW { heads.q / heads.kv * STEP } else { 0 };
    few.max(QUERIES.min(n) * n + (QUERIES.min(n) * n).max(KEYS * heads.dim))
}

/// Values that [`backward`] holds beside its arguments for `n` positions: what each query head adds to the keys and
/// values that several share.
pub fn shared(heads: Heads, n: usize) -> usize {
    if heads.q == heads.kv { 0 } else { 2 * n * heads.q * heads.dim }
}

/// Gradients of [`forward`] for one sequence that starts at position 0, with the weights computed again:
/// `dV = pᵀ·do`, `ds = p ∘ (do·Vᵀ − Σ p∘(do·Vᵀ)) · scale`, `dq = ds·K`, `dK = dsᵀ·q`.
/// Every query head is a part of its own; what heads of one group add to their keys and values is summed afterwards, in
/// order. q, dout, dq: `[N, H·D]`; keys, values, dk, dv: `[N, KV·D]`; spare: grows once to [`shared`]. dq, dk and dv are
/// overwritten.
pub fn backward(
    cx: &Compute,
    heads: Heads,
    q: View,
    keys: View,
    values: View,
    dout: View,
    dq: &mut Tile,
    dk: &mut Tile,
    dv: &mut Tile,
    spare: &mut Buffer,
) {
    let (d, group) = (heads.dim, heads.q / heads.kv);
    let (n, qc, kc) = (q.n, dq.c(), dk.c());
    let wide = spare.room(shared(heads, n));
    let (wide_k, wide_v) = wide.split_at_mut(wide.len() / 2);
    let (each_k, each_v) = match group {
        1 => (dk.part(0..n, 0..kc), dv.part(0..n, 0..kc)),
        _ => (Tile::new(wide_k, n, qc), Tile::new(wide_v, n, qc)),
    };
    cx.pool.columns([dq.part(0..n, 0..qc), each_k, each_v], [d; 3], &|h, [mut dq, mut dk, mut dv], scratch| {
        head_backward(cx.kernels, heads, h, q, keys, values, dout, [&mut dq, &mut dk, &mut dv], scratch);
    });
    if group == 1 {
        return;
    }
    for (sum, wide) in [(dk.part(0..n, 0..kc), wide_k), (dv.part(0..n, 0..kc), wide_v)] {
        let wide = View::new(wide, n, qc);
        cx.pool.rows([sum], [ROWS], &|part, [mut sum], _| {
            for i in 0..sum.n() {
                let groups = wide.row(part * ROWS + i).chunks_exact(group * d);
                for (sum, heads) in sum.row(i).chunks_exact_mut(d).zip(groups) {
                    sum.copy_from_slice(&heads[..d]);
                    heads.chunks_exact(d).skip(1).for_each(|add| super::add(add, sum));
                }
            }
        });
    }
}

/// The part of query head `h`. dq, dk, dv: `[N, D]`, this head's.
fn head_backward(
    k: &Kernels,
    heads: Heads,
    h: usize,
    q: View,
    keys: View,
    values: View,
    dout: View,
    [dq, dk, dv]: [&mut Tile; 3],
    scratch: &mut Scratch,
) {
    let (n, d, kv) = (q.n, heads.dim, h / (heads.q / heads.kv));
    let (key, value) = (keys.cols(kv * d..kv * d + d), values.cols(kv * d..kv * d + d));
    for i in 0..n {
        for tile in [&mut *dq, &mut *dk, &mut *dv] {
            tile.row(i).fill(0.0);
        }
    }
    for start in (0..n).step_by(QUERIES) {
        let rows = start..(start + QUERIES).min(n);
        let (m, count) = (rows.len(), rows.end);
        let [p, ds] = scratch.two(m * count, m * count);
        let q = q.rows(rows.clone()).cols(h * d..h * d + d);
        let dout = dout.rows(rows.clone()).cols(h * d..h * d + d);
        weights(k, heads, q, &Memory::Rows(keys), start, h, p, &mut []);
        (k.dots)(dout, value.rows(0..count), &mut Tile::new(ds, m, count));
        for (p, ds) in p.chunks_exact(count).zip(ds.chunks_exact_mut(count)) {
            let mut mean = [0.0];
            let (pv, dv) = (View::new(p, 1, count), View::new(ds, 1, count));
            (k.dots)(pv, dv, &mut Tile::new(&mut mean, 1, 1));
            for (ds, p) in ds.iter_mut().zip(p) {
                *ds = p * (*ds - mean[0]) * heads.scale;
            }
        }
        let (p, ds) = (View::new(p, m, count), View::new(ds, m, count));
        (k.sums)(ds, key.rows(0..count), &mut dq.part(rows, 0..d));
        (k.outer)(ds, q, &mut dk.part(0..count, 0..d));
        (k.outer)(p, dout, &mut dv.part(0..count, 0..d));
    }
}
