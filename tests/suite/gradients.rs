//! Every backward pass and every kind of adapter against differences of a double-precision forward.

use crate::tiny::{self, FF, HEADS, KV_HEADS, LAYERS, Rng, VOCAB, WIDTH, bases};
use mynah::adapter::{self, Linear, Site, Spec};
use mynah::model::weights::Places;
use mynah::model::{ARCHES, Model};
use mynah::nn::rope::Pairing;
use mynah::train::{Config, Example, Keep, Schedule, Trainer};

/// The mean loss of `examples` under the flat weights `w`, all in `f64`, written plainly from the definitions.
fn loss(model: &Model, places: &Places, w: &[f64], examples: &[Example]) -> f64 {
    let h = &model.hparams;
    let (d, dim, group) = (WIDTH, WIDTH / HEADS, HEADS / KV_HEADS);
    let mul = |at: std::ops::Range<usize>, x: &[f64]| -> Vec<f64> {
        w[at].chunks_exact(x.len()).map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum()).collect()
    };
    let norm = |at: std::ops::Range<usize>, x: &[f64]| -> Vec<f64> {
        let r = 1.0 / (x.iter().map(|v| v * v).sum::<f64>() / d as f64 + h.eps as f64).sqrt();
        x.iter().zip(&w[at]).map(|(x, g)| x * r * g).collect()
    };
    let turn = |x: &mut [f64], p: usize| {
        for head in x.chunks_exact_mut(dim) {
            for i in 0..dim / 2 {
                let angle = p as f64 * (h.rope_base as f64).powf(-2.0 * i as f64 / dim as f64);
                let (a, b) = match h.arch.pairing {
                    Pairing::Neighbours => (2 * i, 2 * i + 1),
                    Pairing::Halves => (i, i + dim / 2),
                };
                let (x0, x1) = (head[a], head[b]);
                head[a] = x0 * angle.cos() - x1 * angle.sin();
                head[b] = x0 * angle.sin() + x1 * angle.cos();
            }
        }
    };
    let (mut total, mut counted) = (0.0, 0);
    for e in examples {
        let mut rows: Vec<Vec<f64>> =
            e.tokens.iter().map(|t| w[places.embed.clone()][*t as usize * d..][..d].to_vec()).collect();
        for at in &places.blocks {
            let lin = |l: Linear| at.linears[l as usize].clone();
            let (mut keys, mut values): (Vec<Vec<f64>>, Vec<Vec<f64>>) = (vec![], vec![]);
            for (p, row) in rows.iter_mut().enumerate() {
                let x = norm(at.attn_norm.clone(), row);
                let (mut q, mut k) = (mul(lin(Linear::Q), &x), mul(lin(Linear::K), &x));
                turn(&mut q, p);
                turn(&mut k, p);
                keys.push(k);
                values.push(mul(lin(Linear::V), &x));
                let mut att = vec![0.0; d];
                for head in 0..HEADS {
                    let (kv, q) = (head / group * dim, &q[head * dim..][..dim]);
                    let scores: Vec<f64> = keys
                        .iter()
                        .map(|k| q.iter().zip(&k[kv..]).map(|(a, b)| a * b).sum::<f64>() / (dim as f64).sqrt())
                        .map(f64::exp)
                        .collect();
                    let sum: f64 = scores.iter().sum();
                    for (s, v) in scores.iter().zip(&values) {
                        for i in 0..dim {
                            att[head * dim + i] += s / sum * v[kv + i];
                        }
                    }
                }
                for (x, o) in row.iter_mut().zip(mul(lin(Linear::O), &att)) {
                    *x += o;
                }
                let x = norm(at.ffn_norm.clone(), row);
                let (gate, up) = (mul(lin(Linear::Gate), &x), mul(lin(Linear::Up), &x));
                let hidden: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                for (x, o) in row.iter_mut().zip(mul(lin(Linear::Down), &hidden)) {
                    *x += o;
                }
            }
        }
        let head = places.output.clone().unwrap_or(places.embed.clone());
        for t in (1..e.tokens.len()).filter(|t| e.counts[*t]) {
            let logits = mul(head.clone(), &norm(places.norm.clone(), &rows[t - 1]));
            total += logits.iter().map(|z| z.exp()).sum::<f64>().ln() - logits[e.tokens[t] as usize];
            counted += 1;
        }
    }
    total / counted as f64
}

fn examples() -> Vec<Example> {
    let mut rng = Rng(5);
    [9, 14, 5]
        .map(|len| {
            let tokens: Vec<u32> = (0..len).map(|_| rng.below(VOCAB) as u32).collect();
            // The second's first half and its last token do not count.
            let counts = (0..len).map(|t| len != 14 || (t >= 7 && t != 13)).collect();
            Example::new(tokens, counts)
        })
        .into()
}

fn config(keep: Keep) -> Config {
    Config { lr: 1e-3, steps: 1, schedule: Schedule::Constant, clip: 0.0, keep, ..Config::default() }
}

/// Central difference of `loss` along `direction`, which is added to the weights.
fn slope(model: &Model, places: &Places, w: &[f64], direction: &[(usize, f64)], examples: &[Example]) -> f64 {
    let step = 1e-4 / direction.iter().map(|(_, v)| v.abs()).fold(1e-9, f64::max);
    let at = |sign: f64| {
        let mut w = w.to_vec();
        for (i, v) in direction {
            w[*i] += sign * step * v;
        }
        loss(model, places, &w, examples)
    };
    (at(1.0) - at(-1.0)) / (2.0 * step)
}

#[test]
fn every_weight_of_the_model() {
    let examples = examples();
    for arch in ARCHES {
        for (tied, keep) in [(true, Keep::All), (false, Keep::Inputs)] {
            let model = tiny::model(arch.name, 11, tied, 2);
            let places = Places::of(&model.weights);
            let w: Vec<f64> = model.weights.flatten(&places).iter().map(|v| *v as f64).collect();
            let mut trainer = Trainer::full(&model, config(keep)).unwrap();
            let report = trainer.step(&[&examples[..1], &examples[1..]]).unwrap();
            let want = loss(&model, &places, &w, &examples);
            assert!((report.loss - want).abs() < 1e-5, "loss {} for {want}", report.loss);
            let mut rng = Rng(3);
            for (name, at) in places.names() {
                let largest = trainer.grads()[at.clone()].iter().fold(0.0f32, |m, g| m.max(g.abs()));
                for _ in 0..12 {
                    let i = at.start + rng.below(at.len());
                    let (want, got) = (slope(&model, &places, &w, &[(i, 1.0)], &examples), trainer.grads()[i] as f64);
                    let bound = 1e-4 * largest as f64 + 1e-7;
                    assert!((want - got).abs() <= bound, "{} of {name}: {got} for {want}", i - at.start);
                }
            }
        }
    }
}

#[test]
fn every_kind_of_adapter() {
    let examples = examples();
    let model = tiny::model("llama", 12, true, 2);
    let base = model.base([0; 32]);
    let places = Places::of(&model.weights);
    let frozen: Vec<f64> = model.weights.flatten(&places).iter().map(|v| *v as f64).collect();
    for kind in adapter::KINDS {
        for rank_stabilised in [false, true] {
            let spec = Spec { seed: 9, ..Spec::new(kind.name) };
            let spec = bases(spec.with("rank", 3).with("alpha", 5).with("rank stabilised", rank_stabilised), [5, 4]);
            let mut a = adapter::create(&spec, &base).unwrap();
            let mut rng = Rng(7);
            // Away from the start, where half of the gradients are zero.
            for v in a.params_mut() {
                *v += rng.unit() * 0.3;
            }
            let cx = model.compute.clone();
            // Factors at chosen parameters: [site][A or Bᵀ] in f64.
            let mut factors = |change: Option<(usize, f32)>| -> Vec<[Vec<f64>; 2]> {
                let kept = a.params().to_vec();
                if let Some((i, v)) = change {
                    a.params_mut()[i] += v;
                }
                a.prepare(&cx);
                let out = sites()
                    .map(|site| {
                        let (fa, fb, _) = a.factors(site).unwrap();
                        [fa, fb].map(|f| (0..f.n).flat_map(|i| f.row(i).iter().map(|v| *v as f64)).collect())
                    })
                    .collect();
                a.params_mut().copy_from_slice(&kept);
                a.prepare(&cx);
                out
            };
            let here = factors(None);
            // The factors are affine in the parameters, so a unit step gives their derivative.
            let n = spec_params(&spec, &model);
            let checked: Vec<usize> = (0..60).map(|_| rng.below(n)).collect();
            let moved: Vec<Vec<[Vec<f64>; 2]>> = checked.iter().map(|i| factors(Some((*i, 1.0)))).collect();
            let scales: Vec<f64> = sites().map(|s| a.factors(s).unwrap().2 as f64).collect();
            let dense = |f: &[[Vec<f64>; 2]]| -> Vec<f64> {
                let mut w = frozen.clone();
                for ((site, [fa, fb]), s) in sites().zip(f).zip(&scales) {
                    let at = places.blocks[site.layer].linears[site.linear as usize].clone();
                    let [cols, rows] = base.shape(site).unwrap();
                    for o in 0..rows {
                        for i in 0..cols {
                            let delta: f64 = (0..3).map(|r| fb[r * rows + o] * fa[r * cols + i]).sum();
                            w[at.start + o * cols + i] += s * delta;
                        }
                    }
                }
                w
            };
            assert_eq!(a.params().len(), n);
            for keep in [Keep::All, Keep::Inputs] {
                let mut fresh = adapter::create(&spec, &base).unwrap();
                fresh.params_mut().copy_from_slice(a.params());
                let mut trainer = Trainer::adapter(&model, fresh, config(keep)).unwrap();
                let report = trainer.step(&[&examples]).unwrap();
                let want = loss(&model, &places, &dense(&here), &examples);
                assert!((report.loss - want).abs() < 1e-5, "{}: loss {} for {want}", kind.name, report.loss);
                let largest = trainer.grads().iter().fold(0.0f32, |m, g| m.max(g.abs())) as f64;
                for (i, there) in checked.iter().zip(&moved) {
                    let step = 1e-4;
                    let at = |sign: f64| {
                        let f: Vec<[Vec<f64>; 2]> = here
                            .iter()
                            .zip(there)
                            .map(|(h, t)| {
                                [0, 1].map(|k| h[k].iter().zip(&t[k]).map(|(h, t)| h + sign * step * (t - h)).collect())
                            })
                            .collect();
                        loss(&model, &places, &dense(&f), &examples)
                    };
                    let (want, got) = ((at(1.0) - at(-1.0)) / (2.0 * step), trainer.grads()[*i] as f64);
                    assert!(
                        (want - got).abs() <= 1e-4 * largest + 1e-7,
                        "{} parameter {i}: {got} for {want}",
                        kind.name
                    );
                }
            }
        }
    }
}

fn sites() -> impl Iterator<Item = Site> {
    (0..LAYERS).flat_map(|layer| Linear::ALL.map(|linear| Site { layer, linear }))
}

fn spec_params(spec: &Spec, model: &Model) -> usize {
    adapter::create(spec, &model.base([0; 32])).unwrap().params().len()
}

#[test]
fn threads_and_kept_activations_change_no_bit() {
    let examples = examples();
    assert_eq!(FF % 16, 0);
    let run = |threads: usize, keep: Keep, full: bool| -> Vec<u32> {
        let model = tiny::model("llama", 13, true, threads);
        let config = Config { steps: 3, ..config(keep) };
        let mut trainer = if full {
            Trainer::full(&model, config).unwrap()
        } else {
            let spec = Spec::new("nola").with("rank", 4).with("basis", 6);
            Trainer::adapter(&model, adapter::create(&spec, &model.base([0; 32])).unwrap(), config).unwrap()
        };
        let losses: Vec<u64> = (0..3).map(|_| trainer.step(&[&examples]).unwrap().loss.to_bits()).collect();
        let mut bits: Vec<u32> = losses.iter().flat_map(|l| [*l as u32, (*l >> 32) as u32]).collect();
        bits.extend(trainer.grads().iter().map(|g| g.to_bits()));
        bits
    };
    for full in [false, true] {
        let want = run(1, Keep::All, full);
        for (threads, keep) in [(1, Keep::Inputs), (2, Keep::All), (3, Keep::Blocks(1)), (4, Keep::Auto)] {
            assert!(run(threads, keep, full) == want, "{threads} threads, {keep:?}");
        }
    }
}
