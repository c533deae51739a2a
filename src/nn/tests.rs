//! Every layer against its definition in double precision, written plainly here, and every backward pass against
//! differences of that. Where bits are promised, against the plain kernels row by row.

use super::attention::{self, Heads, Memory, OnePiece, Sees, Side, Source};
use super::embed;
use super::ffn::{self, ACTS, Act};
use super::head::{self, Finish, Logits};
use super::linear::{self, Back, Precision, Quantized};
use super::norm::{self, Kind, Norm};
use super::rope::{Pairing, Rope, Rotations, Scaling};
use crate::bytes::Bytes;
use crate::kernel::{self, Buffer, CODES, Compute, PLAIN, Pool, Stored, Tile, View};
use crate::math;
use crate::quant::{Format, Matrix};
use core::ops::Range;
use std::prelude::v1::*;
use std::sync::Arc;

mod mixers;

/// Values between −1 and 1, the same for the same seed.
fn values(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(next).collect()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|v| *v as f64).collect()
}

fn compute(threads: usize) -> Compute {
    Compute { kernels: kernel::best(), pool: Pool::new(threads) }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}

/// What `f` gives with one thread, which it must give with three too.
fn any_threads(f: impl Fn(&Compute) -> Vec<f32>) -> Vec<f32> {
    let out = f(&compute(1));
    assert_eq!(bits(&out), bits(&f(&compute(3))), "threads change bits");
    out
}

fn near(got: &[f32], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let error = (*got as f64 - want).abs();
        assert!(error <= tolerance * want.abs().max(1.0), "{what} {i}: {got} for {want}");
    }
}

/// Checks a gradient by `x` against central differences of `loss`.
fn differences(x: &[f32], grad: &[f32], what: &str, loss: impl Fn(&[f64]) -> f64) {
    const STEP: f64 = 1e-5;
    let mut x = wide(x);
    let want: Vec<f64> = (0..x.len())
        .map(|i| {
            let at = x[i];
            let mut of = |step: f64| {
                x[i] = at + step;
                loss(&x)
            };
            let slope = (of(STEP) - of(-STEP)) / (2.0 * STEP);
            x[i] = at;
            slope
        })
        .collect();
    near(grad, &want, 2e-5, what);
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The keys, of `n`, that position `p` sees.
fn seen(sees: Sees, p: usize, n: usize) -> Range<usize> {
    let sees_key = |j: usize| match sees {
        Sees::Causal => j <= p,
        Sees::Window(w) => j <= p && p - j < w,
        Sees::Around(w) => p.abs_diff(j) <= w / 2,
        Sees::All => true,
    };
    let keys: Vec<usize> = (0..n).filter(|j| sees_key(*j)).collect();
    keys.first().map_or(0..0, |first| *first..keys[keys.len() - 1] + 1)
}

/// Keys or values `[n, KV·D]`, as a cache may hold them.
enum Kept {
    Rows(Vec<f32>),
    Half(Vec<u16>),
    Byte(Vec<i8>, Vec<u16>),
}

impl Kept {
    /// All kinds.
    fn all(heads: Heads, x: &[f32]) -> [Kept; 3] {
        let (d, width) = (heads.dim, heads.kv * heads.dim);
        let by_head = (0..heads.kv).flat_map(|h| x.chunks_exact(width).flat_map(move |x| &x[h * d..h * d + d]));
        let by_head: Vec<f32> = by_head.copied().collect();
        let mut half = vec![0; x.len()];
        (PLAIN.narrow)(&by_head, &mut half);
        let (mut codes, mut scales) = (vec![0; x.len()], vec![0; x.len() / d * d.div_ceil(CODES)]);
        let rows = by_head.chunks_exact(d).zip(codes.chunks_exact_mut(d));
        for ((x, codes), scales) in rows.zip(scales.chunks_exact_mut(d.div_ceil(CODES))) {
            (PLAIN.code)(x, codes, scales);
        }
        [Kept::Rows(x.to_vec()), Kept::Half(half), Kept::Byte(codes, scales)]
    }

    /// In pages of `len`, if it is no matrix of rows.
    fn pages(&self, heads: Heads, n: usize, len: usize) -> Option<OnePiece<'_>> {
        let data = match self {
            Kept::Rows(_) => return None,
            Kept::Half(x) => Stored::F16(x),
            Kept::Byte(codes, scales) => Stored::Q8 { codes, scales },
        };
        Some(OnePiece { data, positions: n, dim: heads.dim, len })
    }

    fn memory<'a>(&'a self, heads: Heads, n: usize, pages: &'a Option<OnePiece<'a>>) -> Memory<'a> {
        match (self, pages) {
            (Kept::Rows(x), _) => Memory::Rows(View::new(x, n, heads.kv * heads.dim)),
            (_, Some(pages)) => Memory::Cache { pages, layer: 0, side: Side::Keys },
            _ => unreachable!("only rows have no pages"),
        }
    }

    /// The rows of head `h`, decoded, `[n, D]`.
    fn head(&self, heads: Heads, n: usize, h: usize) -> Vec<f32> {
        let (d, mut out) = (heads.dim, vec![0.0; n * heads.dim]);
        match (self, self.pages(heads, n, n)) {
            (Kept::Rows(x), _) => {
                let x = View::new(x, n, heads.kv * d);
                (0..n).for_each(|i| out[i * d..i * d + d].copy_from_slice(&x.row(i)[h * d..h * d + d]));
            }
            (_, pages) => PLAIN.decode_stored(pages.unwrap().data.rows(h * n..h * n + n, d), d, &mut out),
        }
        out
    }
}

/// Row `q` of a head at position `p`, by the plain kernels: its output and the logarithm of its sum.
fn plain_row(heads: Heads, sees: Sees, p: usize, q: &[f32], keys: &[f32], values: &[f32]) -> (Vec<f32>, f32) {
    let d = heads.dim;
    let seen = seen(sees, p, keys.len() / d);
    let n = seen.len();
    let (mut scores, mut out) = (vec![0.0; n], vec![0.0; d]);
    let all = seen.start * d..seen.end * d;
    (PLAIN.dots)(View::new(q, 1, d), View::new(&keys[all.clone()], n, d), &mut Tile::new(&mut scores, 1, n));
    for s in &mut scores {
        *s *= heads.scale;
        if let Some(cap) = heads.cap {
            let x = *s / cap;
            *s = cap * math::tanh(x, math::exp(-2.0 * x.abs()));
        }
    }
    let lse = (PLAIN.softmax)(&mut scores);
    (PLAIN.sums)(View::new(&scores, 1, n), View::new(&values[all], n, d), &mut Tile::new(&mut out, 1, d));
    (out, lse)
}

const SEES: [Sees; 7] =
    [Sees::Causal, Sees::Window(1), Sees::Window(7), Sees::Window(64), Sees::Around(1), Sees::Around(10), Sees::All];

#[test]
fn rows_of_attention_have_their_bits_in_any_company() {
    const FIRST: usize = 30;
    for cap in [None, Some(1.5)] {
        let heads = Heads { q: 6, kv: 2, dim: 40, scale: 0.4, cap };
        let width = heads.q * heads.dim;
        for rows in [1, 4, 5, 16, 40] {
            let (n, q) = (FIRST + rows, values(rows as u64, rows * width));
            let keys = Kept::all(heads, &values(2, n * heads.kv * heads.dim));
            let all_values = Kept::all(heads, &values(3, n * heads.kv * heads.dim));
            for ((keys, values), sees) in keys.iter().zip(&all_values).flat_map(|m| SEES.map(|sees| (m, sees))) {
                // Cut into pages wherever.
                let len = [n, 7, 64, 1][(rows + heads.kv) % 4];
                let (key_pages, value_pages) = (keys.pages(heads, n, len), values.pages(heads, n, len));
                let (k, v) = (keys.memory(heads, n, &key_pages), values.memory(heads, n, &value_pages));
                let source = Source { keys: k, values: v, n, first: FIRST, sees };
                let got = any_threads(|cx| {
                    let (mut out, mut lse) = (vec![f32::NAN; rows * width], vec![f32::NAN; rows * heads.q]);
                    let q = View::new(&q, rows, width);
                    let mut tile = Tile::new(&mut out, rows, width);
                    attention::forward(cx, heads, q, &source, &mut tile, None);
                    let without = out.clone();
                    let (mut tile, mut sums) = (Tile::new(&mut out, rows, width), Tile::new(&mut lse, rows, heads.q));
                    attention::forward(cx, heads, q, &source, &mut tile, Some(&mut sums));
                    assert_eq!(bits(&out), bits(&without));
                    [out, lse].concat()
                });
                for h in 0..heads.q {
                    let kv = h / (heads.q / heads.kv);
                    let (keys, values) = (keys.head(heads, n, kv), values.head(heads, n, kv));
                    for i in 0..rows {
                        let at = i * width + h * heads.dim..i * width + (h + 1) * heads.dim;
                        let (out, lse) = plain_row(heads, sees, FIRST + i, &q[at.clone()], &keys, &values);
                        let what = format!("{sees:?}, cap {cap:?}, row {i} of {rows}, head {h}");
                        assert_eq!(bits(&got[at]), bits(&out), "{what}");
                        assert_eq!(got[rows * width + i * heads.q + h].to_bits(), lse.to_bits(), "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_that_sees_nothing_is_zero() {
    let heads = Heads { q: 2, kv: 1, dim: 8, scale: 1.0, cap: None };
    let (q, kv) = (values(1, 40 * 16), values(2, 3 * 8));
    for (rows, n, first, sees) in [(40, 0, 0, Sees::All), (3, 0, 0, Sees::All), (40, 3, 20, Sees::Window(4))] {
        let memory = Memory::Rows(View::new(&kv, n, 8));
        let source = Source { keys: memory, values: memory, n, first, sees };
        let (mut out, mut lse) = (vec![f32::NAN; rows * 16], vec![f32::NAN; rows * 2]);
        let (mut tile, mut sums) = (Tile::new(&mut out, rows, 16), Tile::new(&mut lse, rows, 2));
        attention::forward(&compute(2), heads, View::new(&q, rows, 16), &source, &mut tile, Some(&mut sums));
        assert!(out.iter().all(|v| *v == 0.0) && lse.iter().all(|v| *v == f32::NEG_INFINITY));
    }
}

/// Outputs and logarithms of sums, `[N, H·D]` and `[N, H]`.
fn plain_attention(heads: Heads, sees: Sees, q: &[f64], keys: &[f64], values: &[f64]) -> [Vec<f64>; 2] {
    let (d, group, width) = (heads.dim, heads.q / heads.kv, heads.kv * heads.dim);
    let (mut out, mut lse) = (vec![], vec![]);
    for (i, q) in q.chunks_exact(heads.q * d).enumerate() {
        let seen = seen(sees, i, keys.len() / width);
        for (h, q) in q.chunks_exact(d).enumerate() {
            let at = h / group * d;
            let weight = |j: usize| {
                let s = dot(q, &keys[j * width + at..][..d]) * heads.scale as f64;
                heads.cap.map_or(s, |cap| cap as f64 * (s / cap as f64).tanh()).exp()
            };
            let weights: Vec<f64> = seen.clone().map(weight).collect();
            let sum: f64 = weights.iter().sum();
            let value = |c: usize| {
                let all = weights.iter().zip(seen.clone());
                all.map(|(w, j)| w / sum * values[j * width + at + c]).sum::<f64>()
            };
            out.extend((0..d).map(value));
            lse.push(sum.ln());
        }
    }
    [out, lse]
}

/// dq, dk and dv, one after the other.
fn attention_grads(cx: &Compute, heads: Heads, sees: Sees, x: [&[f32]; 4], dlse: Option<&[f32]>) -> [Vec<f32>; 3] {
    let (qw, kw) = (heads.q * heads.dim, heads.kv * heads.dim);
    let [q, k, v, dout] = x;
    let (n, count) = (q.len() / qw, k.len() / kw);
    let mut grads = [q, k, v].map(|x| vec![f32::NAN; x.len()]);
    let [dq, dk, dv] = &mut grads;
    attention::backward(
        cx,
        heads,
        View::new(q, n, qw),
        View::new(k, count, kw),
        View::new(v, count, kw),
        sees,
        View::new(dout, n, qw),
        dlse.map(|dlse| View::new(dlse, n, heads.q)),
        &mut Tile::new(dq, n, qw),
        &mut Tile::new(dk, count, kw),
        &mut Tile::new(dv, count, kw),
        &mut Buffer::default(),
    );
    grads
}

#[test]
fn gradients_of_attention_are_differences() {
    for (i, sees) in SEES.into_iter().enumerate() {
        for (cap, kv, sums) in [(None, 2, false), (None, 4, true), (Some(0.8), 2, true)] {
            let heads = Heads { q: 4, kv, dim: 6, scale: 0.7, cap };
            let (n, count) = (20, if sees == Sees::All { 23 } else { 20 });
            let of = |seed: u64, len: usize| values(100 * i as u64 + seed, len);
            let (q, dout, dlse) = (of(1, n * 24), of(2, n * 24), of(3, n * 4));
            let (k, v) = (of(4, count * kv * 6), of(5, count * kv * 6));
            let dlse = if sums { Some(&dlse[..]) } else { None };
            let grads = any_threads(|cx| attention_grads(cx, heads, sees, [&q, &k, &v, &dout], dlse).concat());
            let loss = |q: &[f64], k: &[f64], v: &[f64]| {
                let [out, lse] = plain_attention(heads, sees, q, k, v);
                dot(&out, &wide(&dout)) + dlse.map_or(0.0, |dlse| dot(&lse, &wide(dlse)))
            };
            let (dq, rest) = grads.split_at(q.len());
            let (dk, dv) = rest.split_at(k.len());
            let (wq, wk, wv) = (wide(&q), wide(&k), wide(&v));
            let what = |of: &str| format!("{of}, {sees:?}, cap {cap:?}, {kv} heads of keys");
            differences(&q, dq, &what("dq"), |q| loss(q, &wk, &wv));
            differences(&k, dk, &what("dk"), |k| loss(&wq, k, &wv));
            differences(&v, dv, &what("dv"), |v| loss(&wq, &wk, v));
        }
    }
}

#[test]
fn a_window_over_everything_is_causal_backward_too() {
    let heads = Heads { q: 4, kv: 2, dim: 16, scale: 0.25, cap: None };
    let (q, dout) = (values(1, 40 * 64), values(2, 40 * 64));
    let (k, v) = (values(3, 40 * 32), values(4, 40 * 32));
    let grads = |sees| attention_grads(&compute(2), heads, sees, [&q, &k, &v, &dout], None).concat();
    assert_eq!(bits(&grads(Sees::Window(40))), bits(&grads(Sees::Causal)));
    assert_ne!(bits(&grads(Sees::Window(39))), bits(&grads(Sees::Causal)));
}

#[test]
fn two_sources_make_one_softmax() {
    let heads = Heads { q: 4, kv: 2, dim: 16, scale: 0.9, cap: Some(4.0) };
    for rows in [3, 21] {
        let (prefix, n) = (9, 9 + rows);
        let (q, k, v) = (values(1, rows * 64), values(2, n * 32), values(3, n * 32));
        let run = |cx: &Compute, range: Range<usize>, first, sees| {
            let memory = |x| Memory::Rows(View::new(x, n, 32).rows(range.clone()));
            let source = Source { keys: memory(&k), values: memory(&v), n: range.len(), first, sees };
            let (mut out, mut lse) = (vec![0.0; rows * 64], vec![0.0; rows * 4]);
            let (mut tile, mut sums) = (Tile::new(&mut out, rows, 64), Tile::new(&mut lse, rows, 4));
            attention::forward(cx, heads, View::new(&q, rows, 64), &source, &mut tile, Some(&mut sums));
            (out, lse)
        };
        let joined = |cx: &Compute, parts: [Range<usize>; 2]| {
            let [before, own] = parts;
            let (mut out, mut lse) = run(cx, own, 0, Sees::Causal);
            let (more, more_lse) = run(cx, before, 0, Sees::All);
            let (mut tile, mut sums) = (Tile::new(&mut out, rows, 64), Tile::new(&mut lse, rows, 4));
            attention::combine(
                cx,
                heads,
                &mut tile,
                &mut sums,
                View::new(&more, rows, 64),
                View::new(&more_lse, rows, 4),
            );
            [out, lse].concat()
        };
        let got = any_threads(|cx| joined(cx, [0..prefix, prefix..n]));
        let (out, lse) = run(&compute(1), 0..n, prefix, Sees::Causal);
        near(&got, &wide(&[out, lse].concat()), 1e-5, "joined");
        // A source without keys changes no bit.
        let (out, lse) = run(&compute(1), prefix..n, 0, Sees::Causal);
        assert_eq!(bits(&joined(&compute(1), [0..0, prefix..n])), bits(&[out, lse].concat()));
    }
}

#[test]
fn gradients_of_joining_are_differences() {
    let heads = Heads { q: 3, kv: 3, dim: 4, scale: 1.0, cap: None };
    let (n, width) = (11, 12);
    let parts = [values(1, n * 12), values(2, n * 3), values(3, n * 12), values(4, n * 3)];
    let (dout, dlse) = (values(5, n * 12), values(6, n * 3));
    let [out, lse, more, more_lse] = [0, 1, 2, 3].map(|i| View::new(&parts[i], n, parts[i].len() / n));
    for sums in [false, true] {
        let dl = if sums { Some(View::new(&dlse, n, 3)) } else { None };
        let grads = any_threads(|cx| {
            let mut grads = parts.clone().map(|x| vec![f32::NAN; x.len()]);
            let [mut a, mut b, mut c, mut d] = grads.each_mut().map(|g| {
                let c = g.len() / n;
                Tile::new(g, n, c)
            });
            let parts = [(out, lse), (more, more_lse)];
            let dout = View::new(&dout, n, width);
            attention::combine_backward(cx, heads, parts, dout, dl, [(&mut a, &mut b), (&mut c, &mut d)]);
            grads.concat()
        });
        differences(&parts.concat(), &grads, "joined", |x| {
            let (a, rest) = x.split_at(n * 12);
            let (la, rest) = rest.split_at(n * 3);
            let (b, lb) = rest.split_at(n * 12);
            let mut loss = 0.0;
            for j in 0..n * 3 {
                let (wa, wb) = (la[j].exp(), lb[j].exp());
                for c in 4 * j..4 * j + 4 {
                    loss += (a[c] * wa + b[c] * wb) / (wa + wb) * dout[c] as f64;
                }
                loss += if sums { (wa + wb).ln() * dlse[j] as f64 } else { 0.0 };
            }
            loss
        });
    }
    // Where neither has keys nothing flows.
    let (none, dout) = ([f32::NEG_INFINITY; 3], [1.0; 12]);
    let (mut out, mut lse, mut grads) = (vec![0.0; 12], none.to_vec(), [[f32::NAN; 12]; 4]);
    let (mut tile, mut sums) = (Tile::new(&mut out, 1, 12), Tile::new(&mut lse, 1, 3));
    let zero = View::new(&[0.0; 12], 1, 12);
    attention::combine(&compute(1), heads, &mut tile, &mut sums, zero, View::new(&none, 1, 3));
    assert!(out == [0.0; 12] && lse == none);
    let parts = [(zero, View::new(&none, 1, 3)); 2];
    let [a, b, c, d] = &mut grads;
    let (mut a, mut b) = (Tile::new(a, 1, 12), Tile::new(b, 1, 3));
    let (mut c, mut d) = (Tile::new(c, 1, 12), Tile::new(d, 1, 3));
    let grads_of = [(&mut a, &mut b), (&mut c, &mut d)];
    attention::combine_backward(&compute(1), heads, parts, View::new(&dout, 1, 12), None, grads_of);
    assert!(grads[0].iter().chain(&grads[2]).chain(&grads[1][..3]).chain(&grads[3][..3]).all(|v| *v == 0.0));
}

#[test]
fn heads_turn_by_their_positions() {
    let positions: Vec<u32> = (0..19).map(|i| i * i * 37).collect();
    let (n, heads, head, dims) = (positions.len(), 3, 10, 6);
    let factors = [1.0, 2.5, 8.0];
    let (x, dy) = (values(1, n * heads * head), values(2, n * heads * head));
    for pairing in [Pairing::Neighbours, Pairing::Halves] {
        for magnitude in [1.0, 1.25] {
            let rope = Rope::new(pairing, dims, 1e4, Scaling { scale: 0.5, magnitude, ..Scaling::NONE }, Some(&factors));
            let run = |cx: &Compute, x: &[f32], inverse| {
                let (mut y, mut rotations) = (x.to_vec(), Rotations::default());
                rope.rotations(cx, &[9; 40], &mut rotations);
                rope.rotations(cx, &positions, &mut rotations);
                rope.apply(cx, &mut Tile::new(&mut y, n, heads * head), head, &rotations, inverse);
                y
            };
            let mut want = x.clone();
            for (row, p) in want.chunks_exact_mut(heads * head).zip(&positions) {
                for (i, factor) in factors.iter().enumerate() {
                    let rate = libm::pow(1e4, -2.0 * i as f64 / dims as f64) * 0.5 / *factor as f64;
                    let (sin, cos) = libm::sincos(*p as f64 * rate);
                    let (a, b) = if pairing == Pairing::Halves { (i, i + dims / 2) } else { (2 * i, 2 * i + 1) };
                    for head in row.chunks_exact_mut(head) {
                        let (x0, x1) = (head[a], head[b]);
                        let mut angle = [cos as f32, sin as f32];
                        if magnitude != 1.0 {
                            angle = angle.map(|v| v * magnitude);
                        }
                        head[a] = x0 * angle[0] - x1 * angle[1];
                        head[b] = x0 * angle[1] + x1 * angle[0];
                    }
                }
            }
            let y = any_threads(|cx| run(cx, &x, false));
            assert_eq!(bits(&y), bits(&want), "{pairing:?}");
            // The backward pass is the transpose.
            let dx = any_threads(|cx| run(cx, &dy, true));
            let (through, back) = (dot(&wide(&y), &wide(&dy)), dot(&wide(&x), &wide(&dx)));
            assert!((through - back).abs() < 1e-5, "{pairing:?}: {through}, {back}");
        }
    }
    assert_eq!(Rotations::bytes(dims, n), 4 * n * dims);
}

/// The norm of each row, `[N, C]`.
fn plain_norm(norm: Norm, x: &[f64], gain: &[f64], bias: &[f64]) -> Vec<f64> {
    let c = gain.len() as f64;
    let row = |x: &[f64]| {
        let mean = if norm.kind == Kind::Layer { x.iter().sum::<f64>() / c } else { 0.0 };
        let square = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / c;
        let r = 1.0 / (square + norm.eps as f64).sqrt();
        x.iter().zip(gain).zip(bias).map(|((x, w), b)| (x - mean) * r * w + b).collect::<Vec<f64>>()
    };
    x.chunks_exact(gain.len()).flat_map(row).collect()
}

#[test]
fn norms_and_their_gradients_are_those_of_the_definition() {
    // Widths beside those of lanes, and rows beside those of parts; the latter also as heads.
    for (kind, n, c) in [Kind::Rms, Kind::Layer].into_iter().flat_map(|k| [(k, 11, 37), (k, 3, 8), (k, 48, 16)]) {
        let norm = Norm { kind, eps: 1e-3 };
        let x: Vec<f32> = values(1, n * c).iter().map(|v| v * 3.0 + 1.0).collect();
        let (gain, bias, dy) = (values(2, c), values(3, c), values(4, n * c));
        for bias in [None, Some(&bias[..])] {
            let y = any_threads(|cx| {
                let mut y = vec![f32::NAN; n * c];
                norm::forward(cx, norm, View::new(&x, n, c), &gain, bias, &mut Tile::new(&mut y, n, c));
                y
            });
            let plain = bias.map_or(vec![0.0; c], wide);
            near(&y, &plain_norm(norm, &wide(&x), &wide(&gain), &plain), 1e-6, "norm");
            if kind == Kind::Rms && bias.is_none() {
                let of = |x: &[f32]| {
                    let (row, mut square) = (View::new(x, 1, c), [0.0]);
                    (PLAIN.dots)(row, row, &mut Tile::new(&mut square, 1, 1));
                    let r = 1.0 / math::sqrt(square[0] / c as f32 + norm.eps);
                    x.iter().zip(&gain).map(|(x, w)| x * r * w).collect::<Vec<f32>>()
                };
                assert_eq!(bits(&y), bits(&x.chunks_exact(c).flat_map(of).collect::<Vec<f32>>()));
            }
        }
        // Gradients are added to what is there.
        let (mut dgain, mut dbias) = (vec![0.5; c], vec![0.25; c]);
        let rows = (View::new(&x, n, c), View::new(&dy, n, c));
        norm::backward_weights(&compute(1), norm, rows.0, rows.1, &mut dgain, Some(&mut dbias));
        let dx = any_threads(|cx| {
            let mut dx = vec![0.75; n * c];
            norm::backward(cx, norm, rows.0, &gain, rows.1, &mut Tile::new(&mut dx, n, c));
            dx
        });
        let off = |x: &[f32], by: f32| x.iter().map(|v| v - by).collect::<Vec<f32>>();
        let (wx, wg, wb) = (wide(&x), wide(&gain), wide(&bias));
        let loss = |x: &[f64], g: &[f64], b: &[f64]| dot(&plain_norm(norm, x, g, b), &wide(&dy));
        differences(&x, &off(&dx, 0.75), "dx", |x| loss(x, &wg, &wb));
        differences(&gain, &off(&dgain, 0.5), "dgain", |g| loss(&wx, g, &wb));
        differences(&bias, &off(&dbias, 0.25), "dbias", |b| loss(&wx, &wg, b));
    }
}

fn plain_act(name: &str, gate: f64, up: f64) -> f64 {
    let gelu = |x: f64| 0.5 * x * (1.0 + ((2.0 / core::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh());
    match name {
        "silu" => gate / (1.0 + (-gate).exp()) * up,
        "gelu_tanh" => gelu(gate) * up,
        "gelu_tanh_plain" => gelu(up),
        other => panic!("{other} has no definition here"),
    }
}

#[test]
fn activations_and_their_gradients_are_those_of_the_definition() {
    let (n, c) = (3, 150);
    let stretched = |seed| values(seed, n * c).iter().map(|v| v * 5.0).collect::<Vec<f32>>();
    let (gate, up, d) = (stretched(1), stretched(2), values(3, n * c));
    for act in ACTS {
        let (gate, gates) = if act.gated { (&gate[..], c) } else { (&[][..], 0) };
        let all = |gate: &[f64], up: &[f64]| -> Vec<f64> {
            (0..n * c).map(|i| plain_act(act.name, gate.get(i).copied().unwrap_or_default(), up[i])).collect()
        };
        let out = any_threads(|cx| {
            let mut out = vec![f32::NAN; n * c];
            ffn::forward(cx, act, View::new(gate, n, gates), View::new(&up, n, c), &mut Tile::new(&mut out, n, c));
            out
        });
        near(&out, &all(&wide(gate), &wide(&up)), 1e-6, act.name);
        let grads = any_threads(|cx| {
            let (mut gate, mut up) = (gate.to_vec(), up.clone());
            let (mut g, mut u) = (Tile::new(&mut gate, n, gates), Tile::new(&mut up, n, c));
            ffn::backward(cx, act, &mut g, &mut u, View::new(&d, n, c));
            [gate, up].concat()
        });
        let x = [gate, &up].concat();
        differences(&x, &grads, act.name, |x| {
            let (gate, up) = x.split_at(gate.len());
            dot(&all(gate, up), &wide(&d))
        });
        assert_eq!(Act::by_name(act.name).unwrap().name, act.name);
    }
    assert!(Act::by_name("relu").is_err());
}

#[test]
fn gelu_is_exact_to_a_millionth_and_has_no_holes() {
    let act = Act::by_name("gelu_tanh_plain").unwrap();
    let of = |x: &[f32]| {
        let (mut out, mut slope) = (vec![0.0; x.len()], x.to_vec());
        let none = View::new(&[], 1, 0);
        ffn::forward(&compute(1), act, none, View::new(x, 1, x.len()), &mut Tile::new(&mut out, 1, x.len()));
        let (ones, mut slopes) = (vec![1.0; x.len()], Tile::new(&mut slope, 1, x.len()));
        ffn::backward(&compute(1), act, &mut Tile::new(&mut [], 1, 0), &mut slopes, View::new(&ones, 1, x.len()));
        (out, slope)
    };
    let x: Vec<f32> = (-3000..10_000).map(|i| i as f32 * 1e-3).collect();
    for (x, y) in x.iter().zip(of(&x).0) {
        let want = plain_act(act.name, 0.0, *x as f64);
        assert!((y as f64 - want).abs() <= 1.5e-6 * want.abs(), "gelu({x}) = {y} for {want}");
    }
    let (out, slope) = of(&[-1e30, -1e9, -50.0, 50.0, 1e9, 1e30]);
    assert_eq!(out, [0.0, 0.0, 0.0, 50.0, 1e9, 1e30]);
    assert_eq!(slope, [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
}

fn matrix(x: Vec<f32>, rows: usize, cols: usize) -> Matrix {
    let bytes = Bytes::from_floats(Arc::new(x)).slice(0..4 * rows * cols).unwrap();
    Matrix::new(Format::by_id(0).unwrap(), rows, cols, bytes).unwrap()
}

const FINISHES: [Finish; 4] = [
    Finish::NONE,
    Finish { scale: 0.25, cap: None },
    Finish { scale: 1.0, cap: Some(2.0) },
    Finish { scale: 1.75, cap: Some(3.0) },
];

fn plain_finish(finish: Finish, z: f64) -> f64 {
    let z = z * finish.scale as f64;
    finish.cap.map_or(z, |cap| cap as f64 * (z / cap as f64).tanh())
}

#[test]
fn logits_are_finished_and_so_are_their_gradients() {
    // More rows than a slice of the vocabulary has.
    let (n, c, v) = (9, 6, 530);
    let (x, w, weights) = (values(1, n * c), values(2, v * c), values(3, n));
    let w: Vec<f32> = w.iter().map(|v| v * 3.0).collect();
    let targets: Vec<u32> = (0..n).map(|i| (i * 64 + 3) as u32).collect();
    let table = matrix(w.clone(), v, c);
    for finish in FINISHES {
        let logp = |x: &[f64], w: &[f64]| -> Vec<f64> {
            let row = |(x, t): (&[f64], &u32)| {
                let z: Vec<f64> = w.chunks_exact(c).map(|w| plain_finish(finish, dot(x, w))).collect();
                z[*t as usize] - z.iter().map(|z| z.exp()).sum::<f64>().ln()
            };
            x.chunks_exact(c).zip(&targets).map(row).collect()
        };
        let all = any_threads(|cx| {
            let (mut got, mut norm, mut g) = (vec![0.0; n], vec![0.0; n], vec![f32::NAN; n * c]);
            let (mut logits, mut quantized, mut back) = (Logits::default(), Quantized::default(), Back::default());
            head::log_probs(
                cx,
                Precision::F32,
                &table,
                finish,
                View::new(&x, n, c),
                &targets,
                &mut got,
                &mut norm,
                Some(&mut g),
                16,
                &mut logits,
                &mut quantized,
                &mut back,
            );
            let mut dw = vec![0.0; v * c];
            head::backward_weights(cx, &table, finish, View::new(&x, n, c), &targets, &weights, &norm, &mut dw);
            [got, g, dw].concat()
        });
        let (got, rest) = all.split_at(n);
        let (g, dw) = rest.split_at(n * c);
        let (wx, ww) = (wide(&x), wide(&w));
        near(got, &logp(&wx, &ww), 2e-6, "log-probabilities");
        differences(&x, g, &format!("g, {finish:?}"), |x| logp(x, &ww).iter().sum());
        // Rows of targets and some others.
        let (some, rows) = (64 * c * 2, &ww[64 * c * 2..]);
        differences(&w[..some], &dw[..some], &format!("dw, {finish:?}"), |w| {
            dot(&logp(&wx, &[w, rows].concat()), &wide(&weights))
        });
        let last = (v - 20) * c;
        differences(&w[last..], &dw[last..], &format!("dw, {finish:?}"), |w| {
            dot(&logp(&wx, &[&ww[..last], w].concat()), &wide(&weights))
        });
        let products: Vec<f32> = values(5, 9000).iter().map(|v| v * 10.0).collect();
        let logits = any_threads(|cx| {
            let mut logits = products.clone();
            finish.apply(cx, &mut logits);
            logits
        });
        let want: Vec<f64> = products.iter().map(|z| plain_finish(finish, *z as f64)).collect();
        near(&logits, &want, 1e-6, "logits");
        assert!(finish != Finish::NONE || bits(&logits) == bits(&products));
    }
}

#[test]
fn biases_and_scaled_embeddings() {
    let (n, f) = (21, 300);
    let (y, bias, dy) = (values(1, n * f), values(2, f), values(3, n * f));
    let with = any_threads(|cx| {
        let mut y = y.clone();
        linear::add_bias(cx, &mut Tile::new(&mut y, n, f), &bias);
        y
    });
    assert_eq!(bits(&with), bits(&(0..n * f).map(|i| y[i] + bias[i % f]).collect::<Vec<f32>>()));
    let dbias = any_threads(|cx| {
        let mut dbias = bias.clone();
        linear::backward_bias(cx, View::new(&dy, n, f), &mut dbias);
        dbias
    });
    let sum = |j: usize| (0..n).fold(bias[j], |sum, i| sum + dy[i * f + j]);
    assert_eq!(bits(&dbias), bits(&(0..f).map(sum).collect::<Vec<f32>>()));

    let (c, tokens) = (7, [4, 0, 4]);
    let (table, dx) = (values(4, 5 * c), values(5, 3 * c));
    for scale in [1.0, 2.5f32] {
        let mut x = vec![0.0; 3 * c];
        embed::forward(&compute(2), &matrix(table.clone(), 5, c), &tokens, scale, &mut Tile::new(&mut x, 3, c));
        let rows = tokens.iter().flat_map(|t| &table[*t as usize * c..][..c]);
        let want: Vec<f32> = rows.map(|v| if scale == 1.0 { *v } else { v * scale }).collect();
        assert_eq!(bits(&x), bits(&want));
        let mut de = vec![0.0; 5 * c];
        embed::backward_weights(&tokens, View::new(&dx, 3, c), scale, &mut de);
        differences(&table, &de, "de", |e| {
            let rows = tokens.iter().flat_map(|t| &e[*t as usize * c..][..c]);
            rows.zip(&dx).map(|(e, dx)| e * scale as f64 * *dx as f64).sum()
        });
    }
}
