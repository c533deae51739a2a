//! Attention with grouped queries over one source of keys and values: `out_h = softmax(q_h · Kᵀ · scale) · V` over the
//! keys that a row sees.
//!
//! Scores exist for a few query rows at a time; there is no rows × positions matrix. A row's result does not depend on
//! which rows are computed with it: its softmax begins at the first key it sees. Many query rows of a head meet blocks
//! of keys that are decoded for them; for a few the query heads that share keys go together, and a cache is read where
//! it lies. Attention over several sources, such as a prefix and a text, is joined by [`combine`].

use super::ROWS;
use crate::kernel::{Buffer, Compute, Kernels, Scratch, Stored, Tile, View};
use crate::math;
use core::ops::Range;
use std::prelude::v1::*;

/// Query rows that share the passes over keys and values.
const QUERIES: usize = 16;
/// Keys that are decoded together.
const KEYS: usize = 64;
/// Query rows for which nothing is decoded beforehand.
const FEW: usize = 4;
/// Scores of few rows are reserved for a multiple of this number of positions, so that most tokens reserve nothing.
const STEP: usize = 512;

/// The sizes of a layer's heads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    /// Query heads.
    pub q: usize,
    /// Key and value heads; divides `q`.
    pub kv: usize,
    /// Width of a head.
    pub dim: usize,
    /// What scores are multiplied with, usually `1 / √dim`.
    pub scale: f32,
    /// A bound `c` of the scores: `s` becomes `c · tanh(s / c)` after the scale (arXiv:2408.00118).
    pub cap: Option<f32>,
}

/// Which keys a query sees, by their positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sees {
    /// Those up to its own.
    Causal,
    /// The last of those, as many as the number says, its own among them.
    Window(usize),
    /// Those at most half that number of positions before or after its own, as in encoders.
    Around(usize),
    /// All.
    All,
}

impl Sees {
    /// The keys, of `n`, that a query at position `p` sees. Both ends grow with `p`.
    fn keys(self, p: usize, n: usize) -> Range<usize> {
        let (start, end) = match self {
            Sees::Causal => (0, p + 1),
            Sees::Window(w) => ((p + 1).saturating_sub(w), p + 1),
            Sees::Around(w) => (p.saturating_sub(w / 2), p + w / 2 + 1),
            Sees::All => (0, n),
        };
        start.min(n)..end.min(n)
    }
}

/// What attention reads.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// Keys.
    pub keys: Memory<'a>,
    /// Values, one for each key.
    pub values: Memory<'a>,
    /// How many there are.
    pub n: usize,
    /// The position of query row 0 among them.
    pub first: usize,
    /// Which of them a query sees.
    pub sees: Sees,
}

impl Source<'_> {
    /// The keys that row `i` sees.
    fn seen(&self, i: usize) -> Range<usize> {
        self.sees.keys(self.first + i, self.n)
    }

    /// From the first key that one of `rows` sees to the last.
    fn span(&self, rows: &Range<usize>) -> Range<usize> {
        self.seen(rows.start).start..self.seen(rows.end - 1).end
    }
}

/// Keys or values of the positions so far.
#[derive(Clone, Copy)]
pub enum Memory<'a> {
    /// Full precision, `[T, KV · D]`.
    Rows(View<'a>),
    /// Keys or values of one layer of a cache.
    Cache {
        /// All of it.
        pages: &'a dyn Pages,
        /// The layer.
        layer: usize,
        /// Keys or values.
        side: Side,
    },
}

/// Keys or values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Keys.
    Keys,
    /// Values.
    Values,
}

/// A cache whose positions lie in pages, one after the other.
pub trait Pages: Sync {
    /// Positions of a page.
    fn page_len(&self) -> usize;

    /// Rows of key/value head `kv` at positions `range` of page `page`.
    fn rows(&self, layer: usize, side: Side, kv: usize, page: usize, range: Range<usize>) -> Head<'_>;
}

/// Keys or values of one layer that lie in one piece, `[KV, positions, D]`, as if in pages of `len`: for tests and benchmarks.
#[doc(hidden)]
pub struct OnePiece<'a> {
    pub data: Stored<'a>,
    pub positions: usize,
    pub dim: usize,
    pub len: usize,
}

impl Pages for OnePiece<'_> {
    fn page_len(&self) -> usize {
        self.len
    }

    fn rows(&self, _: usize, _: Side, kv: usize, page: usize, range: Range<usize>) -> Head<'_> {
        let at = kv * self.positions + page * self.len;
        Head::Stored(self.data.rows(at + range.start..at + range.end, self.dim))
    }
}

/// Rows of one head, `[n, D]`.
#[derive(Clone, Copy)]
pub enum Head<'a> {
    /// Full precision.
    Rows(View<'a>),
    /// As a cache stores them.
    Stored(Stored<'a>),
}

impl<'a> Memory<'a> {
    /// Calls `f(first, rows)` for the rows `range` of head `kv`, which lie in pieces: `first` counts from the range's start.
    /// Products of single rows and chains of sums do not depend on where they are cut.
    fn pieces(&self, heads: Heads, kv: usize, range: Range<usize>, mut f: impl FnMut(Range<usize>, Head<'a>)) {
        let d = heads.dim;
        match *self {
            Memory::Rows(view) => f(0..range.len(), Head::Rows(view.rows(range).cols(kv * d..kv * d + d))),
            Memory::Cache { pages, layer, side } => {
                let (len, mut at) = (pages.page_len(), range.start);
                while at < range.end {
                    let (page, first) = (at / len, at % len);
                    let n = (len - first).min(range.end - at);
                    f(at - range.start..at - range.start + n, pages.rows(layer, side, kv, page, first..first + n));
                    at += n;
                }
            }
        }
    }

    /// Calls `f(first row, rows)` for decoded blocks of the rows `range` of head `kv`.
    fn blocks(
        &self,
        k: &Kernels,
        heads: Heads,
        kv: usize,
        range: Range<usize>,
        tmp: &mut [f32],
        mut f: impl FnMut(usize, View),
    ) {
        let d = heads.dim;
        self.pieces(heads, kv, range, |piece, rows| match rows {
            Head::Rows(view) => f(piece.start, view),
            Head::Stored(data) => {
                for first in (0..piece.len()).step_by(KEYS) {
                    let rows = KEYS.min(piece.len() - first);
                    let tmp = &mut tmp[..rows * d];
                    k.decode_stored(data.rows(first..first + rows, d), d, tmp);
                    f(piece.start + first, View::new(tmp, rows, d));
                }
            }
        });
    }

    /// `y = x · wᵀ` with the rows `range` of head `kv`. x: `[m, D]`, y: `[m, range]`.
    fn dots(&self, k: &Kernels, heads: Heads, kv: usize, range: Range<usize>, x: View, y: &mut Tile) {
        self.pieces(heads, kv, range, |piece, rows| {
            let mut y = y.part(0..x.n, piece);
            match rows {
                Head::Rows(view) => (k.dots)(x, view, &mut y),
                Head::Stored(data) => (k.row_dots)(x, data, &mut y),
            }
        });
    }

    /// `y += a · w` with the rows `range` of head `kv`. a: `[m, range]`, y: `[m, D]`.
    fn sums(&self, k: &Kernels, heads: Heads, kv: usize, range: Range<usize>, a: View, y: &mut Tile) {
        self.pieces(heads, kv, range, |piece, rows| match rows {
            Head::Rows(view) => (k.sums)(a.cols(piece), view, y),
            Head::Stored(data) => (k.row_sums)(a.cols(piece), data, y),
        });
    }
}

/// Attention weights of query rows `rows` of head `h` over the keys of `span`, into `p`, `[rows, span]`, and the
/// logarithms of their sums into column 0 of `lse`, if it has rows. q: `[rows, D]`. `capped`: where the bounded scores
/// go too, or empty.
fn weights(
    k: &Kernels,
    heads: Heads,
    q: View,
    source: &Source,
    rows: Range<usize>,
    span: Range<usize>,
    h: usize,
    p: &mut [f32],
    capped: &mut [f32],
    lse: &mut Tile,
    tmp: &mut [f32],
) {
    let (n, kv, count) = (rows.len(), h / (heads.q / heads.kv), span.len());
    let mut scores = Tile::new(p, n, count);
    source.keys.blocks(k, heads, kv, span.clone(), tmp, |at, block| {
        (k.dots)(q, block, &mut scores.part(0..n, at..at + block.n));
    });
    for i in 0..n {
        let seen = source.seen(rows.start + i);
        let (before, rest) = scores.row(i).split_at_mut(seen.start - span.start);
        let (seen, after) = rest.split_at_mut(seen.len());
        before.fill(0.0);
        after.fill(0.0);
        finish(k, heads, seen);
        if !capped.is_empty() {
            capped[i * count..][before.len()..][..seen.len()].copy_from_slice(seen);
        }
        let sum = (k.softmax)(seen);
        if lse.n() > 0 {
            lse.row(i)[0] = sum;
        }
    }
}

/// Products of a query with keys become scores.
fn finish(k: &Kernels, heads: Heads, scores: &mut [f32]) {
    scores.iter_mut().for_each(|s| *s *= heads.scale);
    if let Some(cap) = heads.cap {
        super::cap(k, scores, cap);
    }
}

/// A tile for those who want no sums, and its granule in a grid.
fn no_lse<'a>() -> (Tile<'a>, (usize, usize)) {
    (Tile::new(&mut [], 0, 0), (0, 0))
}

/// Row `i` of `q` stands at position `first + i` of the source. What sees no key becomes 0, with a sum of −∞.
/// q: `[N, H·D]`, keys and values: `[n, KV·D]`, out: `[N, H·D]`, lse: `[N, H]`, `ln Σ exp(score)`; both overwritten.
pub fn forward(cx: &Compute, heads: Heads, q: View, source: &Source, out: &mut Tile, lse: Option<&mut Tile>) {
    let (k, d) = (cx.kernels, heads.dim);
    let (n, c) = (out.n(), out.c());
    if n <= FEW {
        return few(cx, heads, q, &|i| (*source, i), out, lse);
    }
    let (lse, granule) = lse.map_or_else(no_lse, |lse| (lse.part(0..n, 0..heads.q), (QUERIES, 1)));
    // A part is one tile of query rows of one head; the later, longer tiles first, so threads finish together.
    let (tiles, granules) = ([out.part(0..n, 0..c), lse], [(QUERIES, d), granule]);
    cx.pool.grid(tiles, granules, &|row_part, h, [mut out, mut lse], scratch| {
        let rows = row_part * QUERIES..row_part * QUERIES + out.n();
        let span = source.span(&rows);
        for i in 0..out.n() {
            out.row(i).fill(0.0);
        }
        if span.is_empty() {
            return (0..lse.n()).for_each(|i| lse.row(i)[0] = f32::NEG_INFINITY);
        }
        let count = span.len();
        let [p, tmp] = scratch.two(out.n() * count, KEYS * d);
        let q = q.rows(rows.clone()).cols(h * d..h * d + d);
        weights(k, heads, q, source, rows, span.clone(), h, p, &mut [], &mut lse, tmp);
        let kv = h / (heads.q / heads.kv);
        source.values.blocks(k, heads, kv, span, tmp, |at, block| {
            let p = View::strided(p, out.n(), count, count).cols(at..at + block.n);
            (k.sums)(p, block, &mut out);
        });
    });
}

/// [`forward`] of several sequences: `segments` are the rows of each, in order, and `source(i)` is what those of sequence `i`
/// read. Short ones next to each other are computed together.
pub fn sequences<'a>(
    cx: &Compute,
    heads: Heads,
    q: View,
    segments: &[Range<usize>],
    source: &(dyn Fn(usize) -> Source<'a> + Sync),
    out: &mut Tile,
    mut lse: Option<&mut Tile>,
) {
    let (c, mut i) = (out.c(), 0);
    while i < segments.len() {
        let short = segments[i..].iter().take_while(|s| s.len() <= FEW).count();
        let last = i + short.max(1);
        let rows = segments[i].start..segments[last - 1].end;
        let (q, mut out) = (q.rows(rows.clone()), out.part(rows.clone(), 0..c));
        let mut lse = lse.as_mut().map(|lse| lse.part(rows.clone(), 0..heads.q));
        if short < 2 {
            forward(cx, heads, q, &source(i), &mut out, lse.as_mut());
        } else {
            let here = &segments[i..last];
            let of = |row: usize| {
                let row = rows.start + row;
                let j = here.partition_point(|s| s.end <= row);
                (source(i + j), row - here[j].start)
            };
            few(cx, heads, q, &of, &mut out, lse.as_mut());
        }
        i = last;
    }
}

/// [`forward`] row by row: the query heads that share keys together. `source(i)`: what row `i` reads, and its number among
/// the rows of that source.
fn few<'a>(
    cx: &Compute,
    heads: Heads,
    q: View,
    source: &(dyn Fn(usize) -> (Source<'a>, usize) + Sync),
    out: &mut Tile,
    lse: Option<&mut Tile>,
) {
    let (k, d, group) = (cx.kernels, heads.dim, heads.q / heads.kv);
    let (n, c) = (out.n(), out.c());
    // As many heads for each thread, even where a group is then read by two.
    let each = heads.q.div_ceil(cx.pool.threads());
    let (lse, granule) = lse.map_or_else(no_lse, |lse| (lse.part(0..n, 0..heads.q), (1, each)));
    let (tiles, granules) = ([out.part(0..n, 0..c), lse], [(1, each * d), granule]);
    cx.pool.grid(tiles, granules, &|i, part, [mut out, mut lse], scratch| {
        let (out, (source, row)) = (out.row(0), source(i));
        let seen = source.seen(row);
        let lse = if lse.n() > 0 { lse.row(0) } else { &mut [] };
        if seen.is_empty() {
            out.fill(0.0);
            return lse.fill(f32::NEG_INFINITY);
        }
        let count = seen.len();
        let end = part * each + out.len() / d;
        let mut h = part * each;
        while h < end {
            let (kv, heads_here) = (h / group, (group - h % group).min(end - h));
            let first = h - part * each;
            let out = &mut out[first * d..(first + heads_here) * d];
            let q = View::strided(&q.row(i)[h * d..(h + heads_here) * d], heads_here, d, d);
            let p = &mut scratch.floats(heads_here * count.next_multiple_of(STEP))[..heads_here * count];
            source.keys.dots(k, heads, kv, seen.clone(), q, &mut Tile::new(p, heads_here, count));
            for (j, p) in p.chunks_exact_mut(count).enumerate() {
                finish(k, heads, p);
                let sum = (k.softmax)(p);
                if let Some(lse) = lse.get_mut(first + j) {
                    *lse = sum;
                }
            }
            out.fill(0.0);
            let p = View::new(p, heads_here, count);
            source.values.sums(k, heads, kv, seen.clone(), p, &mut Tile::new(out, heads_here, d));
            h += heads_here;
        }
    });
}

/// Values that the passes over `n` positions hold for each thread. Where the numbers of queries and keys differ, `n` is the
/// larger number.
pub fn scratch(heads: Heads, n: usize) -> usize {
    if heads.q == 0 {
        return 0;
    }
    let few = if n <= FEW { heads.q / heads.kv * STEP } else { 0 };
    let tile = QUERIES.min(n) * n;
    let capped = if heads.cap.is_some() { tile } else { 0 };
    few.max(tile + (tile + capped).max(KEYS * heads.dim))
}

/// Values that [`backward`] holds beside its arguments for `n` keys: what each query head adds to the keys and values
/// that several share.
pub fn shared(heads: Heads, n: usize) -> usize {
    if heads.q == heads.kv { 0 } else { 2 * n * heads.q * heads.dim }
}

/// Gradients of [`forward`] where query `i` stands at position `i`, with the weights computed again:
/// `dV = pᵀ·do`, `ds = p ∘ (do·Vᵀ − Σ p∘(do·Vᵀ) + dlse) · (1 − (s / cap)²) · scale`, `dq = ds·K`, `dK = dsᵀ·q`, where `s`
/// are the bounded scores; without a bound that factor is not there.
/// Every query head is a part of its own; what heads of one group add to their keys and values is summed afterwards, in
/// order. q, dout, dq: `[N, H·D]`; keys, values, dk, dv: `[n, KV·D]`; dlse: `[N, H]`; spare: grows once to [`shared`].
/// dq, dk and dv are overwritten.
pub fn backward(
    cx: &Compute,
    heads: Heads,
    q: View,
    keys: View,
    values: View,
    sees: Sees,
    dout: View,
    dlse: Option<View>,
    dq: &mut Tile,
    dk: &mut Tile,
    dv: &mut Tile,
    spare: &mut Buffer,
) {
    let (d, group) = (heads.dim, heads.q / heads.kv);
    let (n, count, qc, kc) = (q.n, keys.n, dq.c(), dk.c());
    let wide = spare.room(shared(heads, count));
    let (wide_k, wide_v) = wide.split_at_mut(wide.len() / 2);
    let (each_k, each_v) = match group {
        1 => (dk.part(0..count, 0..kc), dv.part(0..count, 0..kc)),
        _ => (Tile::new(wide_k, count, qc), Tile::new(wide_v, count, qc)),
    };
    cx.pool.columns([dq.part(0..n, 0..qc), each_k, each_v], [d; 3], &|h, [mut dq, mut dk, mut dv], scratch| {
        let grads = [&mut dq, &mut dk, &mut dv];
        head_backward(cx.kernels, heads, h, q, [keys, values], sees, dout, dlse, grads, scratch);
    });
    if group == 1 {
        return;
    }
    for (sum, wide) in [(dk.part(0..count, 0..kc), wide_k), (dv.part(0..count, 0..kc), wide_v)] {
        let wide = View::new(wide, count, qc);
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

/// The part of query head `h`. dq: `[N, D]`, dk, dv: `[n, D]`, this head's.
fn head_backward(
    k: &Kernels,
    heads: Heads,
    h: usize,
    q: View,
    [keys, values]: [View; 2],
    sees: Sees,
    dout: View,
    dlse: Option<View>,
    [dq, dk, dv]: [&mut Tile; 3],
    scratch: &mut Scratch,
) {
    let (n, d, kv) = (q.n, heads.dim, h / (heads.q / heads.kv));
    let source = Source { keys: Memory::Rows(keys), values: Memory::Rows(values), n: keys.n, first: 0, sees };
    for tile in [&mut *dq, &mut *dk, &mut *dv] {
        (0..tile.n()).for_each(|i| tile.row(i).fill(0.0));
    }
    for start in (0..n).step_by(QUERIES) {
        let rows = start..(start + QUERIES).min(n);
        let span = source.span(&rows);
        if span.is_empty() {
            continue;
        }
        let (m, count) = (rows.len(), span.len());
        let [p, ds, capped] = scratch.three(m * count, m * count, if heads.cap.is_some() { m * count } else { 0 });
        // Keys that a row does not see have a weight of 0; their bounded scores only have to be numbers.
        capped.fill(0.0);
        let q = q.rows(rows.clone()).cols(h * d..h * d + d);
        let dout = dout.rows(rows.clone()).cols(h * d..h * d + d);
        weights(k, heads, q, &source, rows.clone(), span.clone(), h, p, capped, &mut no_lse().0, &mut []);
        let value = values.rows(span.clone()).cols(kv * d..kv * d + d);
        (k.dots)(dout, value, &mut Tile::new(ds, m, count));
        for (i, (p, ds)) in p.chunks_exact(count).zip(ds.chunks_exact_mut(count)).enumerate() {
            let mut mean = [0.0];
            let (pv, dv) = (View::new(p, 1, count), View::new(ds, 1, count));
            (k.dots)(pv, dv, &mut Tile::new(&mut mean, 1, 1));
            if let Some(dlse) = dlse {
                mean[0] -= dlse.row(rows.start + i)[h];
            }
            for (ds, p) in ds.iter_mut().zip(p) {
                *ds = p * (*ds - mean[0]) * heads.scale;
            }
        }
        if let Some(cap) = heads.cap {
            for (ds, capped) in ds.iter_mut().zip(capped) {
                *ds *= super::cap_slope(*capped, cap);
            }
        }
        let (p, ds) = (View::new(p, m, count), View::new(ds, m, count));
        let key = keys.rows(span.clone()).cols(kv * d..kv * d + d);
        (k.sums)(ds, key, &mut dq.part(rows, 0..d));
        (k.outer)(ds, q, &mut dk.part(span.clone(), 0..d));
        (k.outer)(p, dout, &mut dv.part(span, 0..d));
    }
}

/// Shares `e^a / (e^a + e^b)` and `e^b / (e^a + e^b)`, and `ln (e^a + e^b)`; all shares are 0 where both sums are.
fn shares(a: f32, b: f32) -> ([f32; 2], f32) {
    let max = a.max(b);
    if max == f32::NEG_INFINITY {
        return ([0.0; 2], max);
    }
    let (a, b) = (math::exp(a - max), math::exp(b - max));
    ([a / (a + b), b / (a + b)], max + libm::logf(a + b))
}

/// [`backward`] of a source that every row sees, row after row: dk and dv, `[T, KV·D]`, are **added** to in the order of the
/// rows, so that their bits do not depend on how rows are split into batches. dq is overwritten. room: `[2, T, KV·D]`.
pub fn backward_each(
    cx: &Compute,
    heads: Heads,
    q: View,
    keys: View,
    values: View,
    dout: View,
    dlse: Option<View>,
    dq: &mut Tile,
    [dk, dv]: [&mut [f32]; 2],
    room: &mut [f32],
    spare: &mut Buffer,
) {
    let (n, c, width) = (keys.n, dq.c(), keys.c);
    let (tk, tv) = room.split_at_mut(n * width);
    for i in 0..q.n {
        let row = i..i + 1;
        let (q, dout, dlse) = (q.rows(row.clone()), dout.rows(row.clone()), dlse.map(|d| d.rows(row.clone())));
        let (mut dq, mut k, mut v) = (dq.part(row, 0..c), Tile::new(tk, n, width), Tile::new(tv, n, width));
        backward(cx, heads, q, keys, values, Sees::All, dout, dlse, &mut dq, &mut k, &mut v, spare);
        super::add(tk, dk);
        super::add(tv, dv);
    }
}

/// Joins what two sources gave: `o = Σ o_i e^{l_i} / Σ e^{l_i}` with their sums `l`, and `lse` becomes `ln Σ e^{l_i}`.
/// out, more: `[N, H·D]`, lse, more_lse: `[N, H]`; out and lse are the first source's and then the joined.
pub fn combine(cx: &Compute, heads: Heads, out: &mut Tile, lse: &mut Tile, more: View, more_lse: View) {
    let (n, c, h) = (out.n(), out.c(), heads.q);
    cx.pool.rows([out.part(0..n, 0..c), lse.part(0..n, 0..h)], [ROWS; 2], &|part, [mut out, mut lse], _| {
        for i in 0..out.n() {
            let (more, more_lse) = (more.row(part * ROWS + i), more_lse.row(part * ROWS + i));
            let outs = out.row(i).chunks_exact_mut(heads.dim).zip(more.chunks_exact(heads.dim));
            for ((out, more), (l, more_l)) in outs.zip(lse.row(i).iter_mut().zip(more_lse)) {
                let ([a, b], joined) = shares(*l, *more_l);
                for (out, more) in out.iter_mut().zip(more) {
                    *out = a * *out + b * more;
                }
                *l = joined;
            }
        }
    });
}

/// Gradients of [`combine`]: with the shares `a_i = e^{l_i} / Σ e^{l_j}` of the two sources `do_i = a_i · do` and
/// `dl_i = a_0 a_1 · do·(o_i − o_j) + a_i · dlse`. `parts`: out, `[N, H·D]`, and lse, `[N, H]`, of each source before
/// they were joined; dout, dlse: those of the joined, dlse if something reads it; `grads`: like `parts`, overwritten.
pub fn combine_backward(
    cx: &Compute,
    heads: Heads,
    parts: [(View, View); 2],
    dout: View,
    dlse: Option<View>,
    grads: [(&mut Tile, &mut Tile); 2],
) {
    let (n, d, [(out, lse), (more, more_lse)]) = (dout.n, heads.dim, parts);
    let [(dout_a, dlse_a), (dout_b, dlse_b)] = grads;
    let (c, h) = (dout_a.c(), heads.q);
    let tiles = [dout_a.part(0..n, 0..c), dlse_a.part(0..n, 0..h), dout_b.part(0..n, 0..c), dlse_b.part(0..n, 0..h)];
    cx.pool.rows(tiles, [ROWS; 4], &|part, [mut da, mut la, mut db, mut lb], scratch| {
        let apart = scratch.floats(d);
        for i in 0..da.n() {
            let row = part * ROWS + i;
            for h in 0..heads.q {
                let at = h * d..h * d + d;
                let ([a, b], _) = shares(lse.row(row)[h], more_lse.row(row)[h]);
                let dout = &dout.row(row)[at.clone()];
                let both = out.row(row)[at.clone()].iter().zip(&more.row(row)[at.clone()]);
                apart.iter_mut().zip(both).for_each(|(apart, (out, more))| *apart = out - more);
                let mut slope = [0.0];
                (cx.kernels.dots)(View::new(dout, 1, d), View::new(apart, 1, d), &mut Tile::new(&mut slope, 1, 1));
                let (slope, dlse) = (a * b * slope[0], dlse.map_or(0.0, |dlse| dlse.row(row)[h]));
                la.row(i)[h] = a * dlse + slope;
                lb.row(i)[h] = b * dlse - slope;
                for ((da, db), dout) in da.row(i)[at.clone()].iter_mut().zip(&mut db.row(i)[at]).zip(dout) {
                    (*da, *db) = (a * dout, b * dout);
                }
            }
        }
    });
}
