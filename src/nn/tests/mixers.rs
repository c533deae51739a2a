//! Short convolutions, gates, the delta rule and mixtures of experts.

use super::*;
use crate::nn::conv::{self, Taps};
use crate::nn::delta::{self, Decay};
use crate::nn::experts::{self, Choice, Experts, Router, Work};
use crate::nn::gate;
use crate::quant::encode_matrix;

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `v_t` of a convolution from zeros, `[N, C]`.
fn plain_conv(u: &[f64], w: &[f64], c: usize) -> Vec<f64> {
    let (len, n) = (w.len() / c, u.len() / c);
    let at = |t: usize, i: usize| -> f64 {
        (0..len).filter(|j| t + j + 1 >= len).map(|j| w[i * len + j] * u[(t + j + 1 - len) * c + i]).sum()
    };
    (0..n * c).map(|i| at(i / c, i % c)).collect()
}

/// `c ∘ v` of rows `[b, c, z]`.
fn plain_gated(x: &[f64], w: &[f64], c: usize) -> Vec<f64> {
    let u: Vec<f64> = x.chunks_exact(3 * c).flat_map(|x| (0..c).map(|i| x[i] * x[2 * c + i])).collect();
    let v = plain_conv(&u, w, c);
    (0..v.len()).map(|i| v[i] * x[i / c * 3 * c + c + i % c]).collect()
}

fn plain_silu(x: &[f64], w: &[f64], c: usize) -> Vec<f64> {
    plain_conv(x, w, c).into_iter().map(|v| v * sigmoid(v)).collect()
}

/// Ways to cut `n` rows: all at once, one by one, in pieces.
fn cuts(n: usize) -> [Vec<usize>; 3] {
    [vec![n], vec![1; n], vec![2, n - 5, 3]]
}

#[test]
fn convolutions_and_their_gradients_are_those_of_the_definition() {
    // Channels on both sides of those that are computed together, rows on both sides of a part, taps from one to four.
    for (n, c, len) in [(19, 7, 3), (9, 70, 4), (11, 64, 1), (6, 5, 2)] {
        let (x, w, dy) = (values(1, n * 3 * c), values(2, c * len), values(3, n * c));
        let taps = Taps { w: &w, len };
        let (wx, ww, wdy) = (wide(&x), wide(&w), wide(&dy));
        let y = any_threads(|cx| {
            let mut y = vec![f32::NAN; n * c];
            conv::gated_forward(cx, taps, View::new(&x, n, 3 * c), None, &mut Tile::new(&mut y, n, c));
            y
        });
        near(&y, &plain_gated(&wx, &ww, c), 1e-6, "gated convolution");
        let dx = any_threads(|cx| {
            let mut dx = vec![f32::NAN; n * 3 * c];
            let (x, dy) = (View::new(&x, n, 3 * c), View::new(&dy, n, c));
            conv::gated_backward(cx, taps, x, dy, &mut Tile::new(&mut dx, n, 3 * c));
            dx
        });
        differences(&x, &dx, "dx", |x| dot(&plain_gated(x, &ww, c), &wdy));
        let mut dw = vec![0.5; c * len];
        conv::gated_backward_weights(len, View::new(&x, n, 3 * c), View::new(&dy, n, c), &mut dw);
        dw.iter_mut().for_each(|v| *v -= 0.5);
        differences(&w, &dw, "dw", |w| dot(&plain_gated(&wx, w, c), &wdy));

        let (x, wx) = (&x[..n * c], &wx[..n * c]);
        let y = any_threads(|cx| {
            let mut y = vec![f32::NAN; n * c];
            conv::silu_forward(cx, taps, View::new(x, n, c), None, &mut Tile::new(&mut y, n, c));
            y
        });
        near(&y, &plain_silu(wx, &ww, c), 1e-6, "convolution");
        let both = any_threads(|cx| {
            let (mut dv, mut dx) = (dy.clone(), vec![f32::NAN; n * c]);
            conv::silu_backward(cx, taps, View::new(x, n, c), &mut dv, &mut Tile::new(&mut dx, n, c));
            [dx, dv].concat()
        });
        let (dx, dv) = both.split_at(n * c);
        differences(x, dx, "dx", |x| dot(&plain_silu(x, &ww, c), &wdy));
        let mut dw = vec![0.25; c * len];
        conv::silu_backward_weights(len, View::new(x, n, c), View::new(dv, n, c), &mut dw);
        dw.iter_mut().for_each(|v| *v -= 0.25);
        differences(&w, &dw, "dw", |w| dot(&plain_silu(wx, w, c), &wdy));
    }
}

#[test]
fn a_convolution_does_not_see_where_a_sequence_is_cut() {
    let (n, c, len) = (17, 70, 4);
    let (x, w) = (values(1, n * 3 * c), values(2, c * len));
    let taps = Taps { w: &w, len };
    for gated in [true, false] {
        let width = if gated { 3 * c } else { c };
        let run = |cut: &[usize]| {
            let (cx, mut state, mut y, mut at) = (compute(2), vec![0.0; (len - 1) * c], vec![f32::NAN; n * c], 0);
            for rows in cut {
                let x = View::new(&x[at * width..], *rows, width);
                let mut tile = Tile::new(&mut y[at * c..], *rows, c);
                if gated {
                    conv::gated_forward(&cx, taps, x, Some(&state), &mut tile);
                    conv::gated_carry(x, &mut state);
                } else {
                    conv::silu_forward(&cx, taps, x, Some(&state), &mut tile);
                    conv::silu_carry(x, &mut state);
                }
                at += rows;
            }
            bits(&[y, state].concat())
        };
        let [whole, others @ ..] = cuts(n).map(|cut| run(&cut));
        assert!(others.iter().all(|other| *other == whole));
        // And zeros before the first row are nothing before it.
        let mut y = vec![f32::NAN; n * c];
        let (x, mut tile) = (View::new(&x, n, width), Tile::new(&mut y, n, c));
        if gated {
            conv::gated_forward(&compute(1), taps, x, None, &mut tile);
        } else {
            conv::silu_forward(&compute(1), taps, x, None, &mut tile);
        }
        assert_eq!(bits(&y), whole[..n * c]);
    }
}

#[test]
fn gates_and_their_gradients_are_those_of_the_definition() {
    for (n, c, g) in [(3, 150, 150), (5, 90, 1), (2, 12, 4)] {
        let (gate, x, dy) = (values(1, n * g), values(2, n * c), values(3, n * c));
        let gate: Vec<f32> = gate.iter().map(|g| g * 4.0).collect();
        let all = |gate: &[f64], x: &[f64]| -> Vec<f64> {
            (0..n * c).map(|i| sigmoid(gate[i / c * g + i % c / (c / g)]) * x[i]).collect()
        };
        let y = any_threads(|cx| {
            let mut y = vec![f32::NAN; n * c];
            gate::forward(cx, View::new(&gate, n, g), View::new(&x, n, c), &mut Tile::new(&mut y, n, c));
            y
        });
        near(&y, &all(&wide(&gate), &wide(&x)), 1e-6, "gate");
        let grads = any_threads(|cx| {
            let (mut dg, mut dx) = (vec![f32::NAN; n * g], vec![f32::NAN; n * c]);
            let (gate, x, dy) = (View::new(&gate, n, g), View::new(&x, n, c), View::new(&dy, n, c));
            gate::backward(cx, gate, x, dy, &mut Tile::new(&mut dg, n, g), &mut Tile::new(&mut dx, n, c));
            [dg, dx].concat()
        });
        differences(&[gate, x].concat(), &grads, "gate", |both| {
            let (gate, x) = both.split_at(n * g);
            dot(&all(gate, x), &wide(&dy))
        });
    }
}

/// What the delta rule makes of its rows, from zeros: `[N, values·D]`, and the last state. a, dt: `[values]`.
fn plain_delta(heads: delta::Heads, x: &[f64], gates: [&[f64]; 2], decay: [&[f64]; 2]) -> (Vec<f64>, Vec<f64>) {
    let delta::Heads { keys, values, dim, eps } = heads;
    let n = x.len() / heads.width();
    let (mut out, mut all) = (vec![0.0; n * values * dim], Vec::new());
    let unit = |x: &[f64]| -> Vec<f64> {
        let length = (dot(x, x) + eps as f64).sqrt();
        x.iter().map(|v| v / length).collect()
    };
    for h in 0..values {
        let mut s = vec![vec![0.0; dim]; dim];
        for t in 0..n {
            let head = |i: usize| &x[t * heads.width() + i * dim..][..dim];
            let (q, k, v) = (unit(head(h % keys)), unit(head(keys + h % keys)), head(2 * keys + h));
            let at = t * values + h;
            let factor = (decay[0][h] * (1.0 + (gates[0][at] + decay[1][h]).exp()).ln()).exp();
            let beta = sigmoid(gates[1][at]);
            for (s, v) in s.iter_mut().zip(v) {
                s.iter_mut().for_each(|s| *s *= factor);
                let d = beta * (v - dot(s, &k));
                s.iter_mut().zip(&k).for_each(|(s, k)| *s += d * k);
            }
            let out = &mut out[(t * values + h) * dim..][..dim];
            out.iter_mut().zip(&s).for_each(|(o, s)| *o = dot(s, &q) / (dim as f64).sqrt());
        }
        all.extend(s.concat());
    }
    (out, all)
}

const DELTAS: [delta::Heads; 3] = [
    delta::Heads { keys: 2, values: 4, dim: 5, eps: 1e-3 },
    delta::Heads { keys: 3, values: 3, dim: 8, eps: 1e-6 },
    delta::Heads { keys: 1, values: 2, dim: 16, eps: 1e-6 },
];

/// Rows, gates and decays of a layer.
fn delta_inputs(heads: delta::Heads, n: usize) -> [Vec<f32>; 5] {
    let v = heads.values;
    let gates = [2, 3].map(|seed| values(seed, n * v).iter().map(|v| v * 2.0).collect::<Vec<f32>>());
    let [alpha, beta] = gates;
    let a = values(4, v).iter().map(|a| -1.2 - a).collect();
    [values(1, n * heads.width()), alpha, beta, a, values(5, v)]
}

#[test]
fn the_delta_rule_and_its_gradients_are_those_of_the_definition() {
    // Rows of one stretch, of several, and of a last one that is shorter.
    for (heads, n) in DELTAS.into_iter().flat_map(|heads| [(heads, 1), (heads, 9), (heads, 12)]) {
        let [x, alpha, beta, a, dt] = delta_inputs(heads, n);
        let (v, c) = (heads.values, heads.values * heads.dim);
        let dout = values(6, n * c);
        let decay = Decay { a: &a, dt: &dt };
        let views = (View::new(&x, n, heads.width()), [View::new(&alpha, n, v), View::new(&beta, n, v)]);
        let all = any_threads(|cx| {
            let (mut out, mut state) = (vec![f32::NAN; n * c], vec![0.0; heads.state()]);
            delta::forward(cx, heads, decay, views.0, views.1, Some(&mut state), &mut Tile::new(&mut out, n, c));
            let mut again = vec![f32::NAN; n * c];
            delta::forward(cx, heads, decay, views.0, views.1, None, &mut Tile::new(&mut again, n, c));
            assert_eq!(bits(&out), bits(&again), "a state of zeros is none");
            [out, state].concat()
        });
        let wides = [&x, &alpha, &beta, &a, &dt].map(|x| wide(x));
        let plain = |parts: [&[f64]; 5]| plain_delta(heads, parts[0], [parts[1], parts[2]], [parts[3], parts[4]]);
        let (out, state) = plain(wides.each_ref().map(|x| &x[..]));
        near(&all, &[out, state].concat(), 3e-6, "delta rule");

        let grads = any_threads(|cx| {
            let (mut dx, mut dg, mut db) = (vec![f32::NAN; x.len()], vec![f32::NAN; n * v], vec![f32::NAN; n * v]);
            let (mut da, mut ddt, mut spare) = (vec![0.5; v], vec![0.25; v], Buffer::default());
            let mut tiles = (Tile::new(&mut dg, n, v), Tile::new(&mut db, n, v));
            let (dout, mut tile) = (View::new(&dout, n, c), Tile::new(&mut dx, n, heads.width()));
            let gates = [&mut tiles.0, &mut tiles.1];
            delta::backward(cx, heads, decay, views.0, views.1, dout, &mut tile, gates, &mut spare);
            assert_eq!(spare.len(), delta::shared(heads, n));
            delta::decay_backward(decay, views.1[0], &mut tiles.0, Some([&mut da, &mut ddt]));
            da.iter_mut().for_each(|v| *v -= 0.5);
            ddt.iter_mut().for_each(|v| *v -= 0.25);
            [dx, dg, db, da, ddt].concat()
        });
        let mut at = 0;
        for (i, name) in ["dx", "dalpha", "dbeta", "da", "ddt"].into_iter().enumerate() {
            let input = [&x, &alpha, &beta, &a, &dt][i];
            let what = format!("{name} of {heads:?}, {n} rows");
            differences(input, &grads[at..at + input.len()], &what, |x| {
                let mut parts = wides.each_ref().map(|x| &x[..]);
                parts[i] = x;
                dot(&plain(parts).0, &wide(&dout))
            });
            at += input.len();
        }
    }
}

#[test]
fn the_delta_rule_does_not_see_where_a_sequence_is_cut() {
    for heads in DELTAS {
        let n = 17;
        let [x, alpha, beta, a, dt] = delta_inputs(heads, n);
        let (v, c, width) = (heads.values, heads.values * heads.dim, heads.width());
        let run = |cut: &[usize]| {
            let (cx, mut state, mut out, mut at) = (compute(2), vec![0.0; heads.state()], vec![f32::NAN; n * c], 0);
            for &rows in cut {
                let gates = [&alpha, &beta].map(|g| View::new(&g[at * v..], rows, v));
                let (x, mut tile) = (View::new(&x[at * width..], rows, width), Tile::new(&mut out[at * c..], rows, c));
                delta::forward(&cx, heads, Decay { a: &a, dt: &dt }, x, gates, Some(&mut state), &mut tile);
                at += rows;
            }
            bits(&[out, state].concat())
        };
        let [whole, others @ ..] = cuts(n).map(|cut| run(&cut));
        assert!(others.iter().all(|other| *other == whole));
    }
}

/// The experts of each row and their weights, and what the mixture makes of the rows. `chosen`: the experts, if they are
/// not to be chosen anew. Matrices of expert `e` at `e·F·C` of each.
fn plain_mixture(
    router: Router,
    x: &[f64],
    logits: &[f64],
    [gate, up, down]: [&[f64]; 3],
    [c, f]: [usize; 2],
    chosen: Option<&[Vec<usize>]>,
) -> (Vec<f64>, Vec<Vec<usize>>) {
    let (mut out, mut all) = (Vec::new(), Vec::new());
    for (i, (x, z)) in x.chunks_exact(c).zip(logits.chunks_exact(router.experts)).enumerate() {
        let sum: f64 = z.iter().map(|z| z.exp()).sum();
        let p: Vec<f64> = z.iter().map(|z| z.exp() / sum).collect();
        let own = chosen.map_or_else(
            || {
                let mut order: Vec<usize> = (0..router.experts).collect();
                order.sort_by(|a, b| z[*b].total_cmp(&z[*a]));
                order[..router.used].to_vec()
            },
            |chosen| chosen[i].clone(),
        );
        let sum = if router.normalised { own.iter().map(|e| p[*e]).sum() } else { 1.0 };
        let mut y = vec![0.0; c];
        for &e in &own {
            let of = |w: &'_ [f64], x: &[f64]| -> Vec<f64> {
                w[e * f * c..(e + 1) * f * c].chunks_exact(x.len()).map(|w| dot(w, x)).collect()
            };
            let h: Vec<f64> = of(gate, x).iter().zip(of(up, x)).map(|(g, u)| g * sigmoid(*g) * u).collect();
            y.iter_mut().zip(of(down, &h)).for_each(|(y, v)| *y += p[e] / sum * v);
        }
        out.extend(y);
        all.push(own);
    }
    (out, all)
}

/// `experts` matrices of `[rows, cols]`.
fn expert_matrices(seed: u64, format: &str, experts: usize, rows: usize, cols: usize) -> Vec<Matrix> {
    let format = Format::by_name(format).unwrap();
    let of = |e: usize| {
        let x: Vec<f32> = values(seed + e as u64, rows * cols).iter().map(|v| v * 0.5).collect();
        encode_matrix(format, rows, cols, &x).unwrap()
    };
    (0..experts).map(of).collect()
}

fn decoded(all: &[Matrix]) -> Vec<f64> {
    let row = |m: &Matrix, i: usize| {
        let mut out = vec![0.0; m.cols];
        m.decode(i, 0..m.cols, &mut out);
        wide(&out)
    };
    all.iter().flat_map(|m| (0..m.rows).flat_map(move |i| row(m, i))).collect()
}

const ROUTERS: [Router; 3] = [
    Router { experts: 6, used: 2, normalised: true },
    Router { experts: 6, used: 3, normalised: false },
    Router { experts: 3, used: 3, normalised: false },
];

#[test]
fn mixtures_and_their_gradients_are_those_of_the_definition() {
    let (n, c, f) = (11, 12, 10);
    for router in ROUTERS {
        let e = router.experts;
        let [gate, up] = [10, 20].map(|seed| expert_matrices(seed, "F32", e, f, c));
        let down = expert_matrices(30, "F32", e, c, f);
        let of = Experts { gate: &gate, up: &up, down: &down, act: Act::by_name("silu").unwrap() };
        let plain = [&gate, &up, &down].map(|w| decoded(w));
        let plain = plain.each_ref().map(|w| &w[..]);
        let (x, dy) = (values(1, n * c), values(3, n * c));
        // One expert that no row has, if not all have all.
        let logits: Vec<f32> = values(2, n * e).iter().enumerate().map(|(i, z)| z * 2.0 - if i % e == 1 { 9.0 } else { 0.0 }).collect();
        let pairs = n * router.used;
        let all = any_threads(|cx| {
            let (mut choice, mut work, mut back) = (Choice::default(), Work::default(), Back::default());
            let (z, rows) = (View::new(&logits, n, e), View::new(&x, n, c));
            experts::choose(cx, router, z, &mut choice);
            let mut hidden = [(); 3].map(|()| vec![f32::NAN; pairs * f]);
            let [g, u, h] = &mut hidden;
            // The mixture is added to what is there.
            let mut y = vec![0.5; n * c];
            let mut tile = Tile::new(&mut y, n, c);
            experts::forward(cx, Precision::F32, of, &choice, rows, [g, u, h], Some(&mut tile), &mut work);
            let (mut dw, mut dx, mut dz) = (vec![f32::NAN; pairs], vec![0.25; n * c], vec![f32::NAN; n * e]);
            let (dy, mut tile) = (View::new(&dy, n, c), Tile::new(&mut dx, n, c));
            experts::backward(cx, Precision::F32, of, &choice, [g, u], h, dy, &mut dw, &mut tile, &mut work, &mut back);
            experts::choose_backward(cx, router, z, &choice, &dw, &mut Tile::new(&mut dz, n, e));
            y.iter_mut().for_each(|v| *v -= 0.5);
            dx.iter_mut().for_each(|v| *v -= 0.25);
            [y, dx, dz].concat()
        });
        let (wx, wz, wdy) = (wide(&x), wide(&logits), wide(&dy));
        let (y, chosen) = plain_mixture(router, &wx, &wz, plain, [c, f], None);
        assert!(e == router.used || chosen.iter().flatten().all(|e| *e != 1));
        let (got, grads) = all.split_at(n * c);
        near(got, &y, 2e-6, "mixture");
        let (dx, dz) = grads.split_at(n * c);
        let loss = |x: &[f64], z: &[f64]| dot(&plain_mixture(router, x, z, plain, [c, f], Some(&chosen)).0, &wdy);
        differences(&x, dx, &format!("dx, {router:?}"), |x| loss(x, &wz));
        differences(&logits, dz, &format!("dlogits, {router:?}"), |z| loss(&wx, z));
    }
}

/// A row's bits do not depend on its company, at any precision, and equal logits choose the lower numbers.
#[test]
fn a_mixture_does_not_see_which_rows_are_together() {
    let (n, c, f) = (13, 64, 32);
    let router = ROUTERS[0];
    let e = router.experts;
    let (x, mut logits) = (values(1, n * c), values(2, n * e));
    logits[..e].fill(0.5);
    for format in ["F32", "F16", "Q8_0", "Q4_0"] {
        let [gate, up] = [10, 20].map(|seed| expert_matrices(seed, format, e, f, c));
        let down = expert_matrices(30, format, e, c, f);
        let of = Experts { gate: &gate, up: &up, down: &down, act: Act::by_name("silu").unwrap() };
        for precision in [Precision::F32, Precision::Int8] {
            let run = |cx: &Compute, cut: &[usize]| {
                let (mut choice, mut work, mut y, mut at) = (Choice::default(), Work::default(), vec![0.0; n * c], 0);
                for &rows in cut {
                    experts::choose(cx, router, View::new(&logits[at * e..], rows, e), &mut choice);
                    let mut hidden = [(); 3].map(|()| vec![f32::NAN; rows * router.used * f]);
                    let (x, mut tile) = (View::new(&x[at * c..], rows, c), Tile::new(&mut y[at * c..], rows, c));
                    let hidden = hidden.each_mut().map(|h| &mut h[..]);
                    experts::forward(cx, precision, of, &choice, x, hidden, Some(&mut tile), &mut work);
                    at += rows;
                }
                y
            };
            let [whole, others @ ..] = cuts(n).map(|cut| any_threads(|cx| run(cx, &cut)));
            assert!(others.iter().all(|other| bits(other) == bits(&whole)), "{format} {precision:?}");
            // The first row has experts 0 and 1, half of each.
            let (x, z, w) = (wide(&x[..c]), wide(&logits[..e]), [&gate, &up, &down].map(|w| decoded(w)));
            let w = w.each_ref().map(|w| &w[..]);
            let want = plain_mixture(router, &x, &z, w, [c, f], Some(&[vec![0, 1]])).0;
            near(&whole[..c], &want, if precision == Precision::F32 { 1e-5 } else { 0.05 }, format);
        }
    }
}

#[test]
fn a_choice_takes_its_memory_once_and_as_much_as_it_says() {
    let n = 9;
    for router in ROUTERS {
        let mut choice = Choice::default();
        let logits = values(2, n * router.experts);
        experts::choose(&compute(1), router, View::new(&logits, n, router.experts), &mut choice);
        let (bytes, rows) = (Choice::bytes(router, n), View::new(&logits, n - 3, router.experts));
        assert_eq!(choice.capacity(), bytes, "{router:?}");
        experts::choose(&compute(1), router, rows, &mut choice);
        experts::choose(&compute(1), router, View::new(&logits, n, router.experts), &mut choice);
        assert_eq!(choice.capacity(), bytes, "{router:?}");
    }
}
