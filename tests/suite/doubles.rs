//! Every kind of adapter in double precision, written plainly from the definition on its page: it knows where the kind's
//! parts lie, and shares none of the library's loops.

use crate::twin::{Change, Seen, Twin, turn};
use mynah::adapter::{self, Adapter, Base, Kind, Place, Shape, Site, Spec, nola};
use mynah::model::Model;
use mynah::nn::attention::Heads;
use mynah::nn::rope::Pairing;
use mynah::rng::Random;
use mynah::role::{Role, TensorKind};
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What a kind does: from parameters to a change of rows. Derivatives are taken at the first parameters that it is called
/// with: what a kind holds fixed in the backward pass stays as it is there.
pub type Does = Box<dyn Fn(&[f64]) -> Box<Change<'static>>>;
type Double = fn(&Spec, &Base, &Model) -> Does;

/// The twin of every kind.
const DOUBLES: &[(&str, Double)] = &[
    ("lora", lora),
    ("nola", nola),
    ("uni", uni),
    ("dora", dora),
    ("ia3", ia3),
    ("bottleneck", bottleneck),
    ("parallel", parallel),
    ("prefix", prefix),
    ("prompt", prompt),
    ("llama-adapter", llama_adapter),
    ("unlock", unlock),
];

pub fn double(kind: &str) -> Double {
    let found = DOUBLES.iter().find(|(name, _)| *name == kind);
    found.unwrap_or_else(|| panic!("{kind} has no twin in double precision")).1
}

/// `y += s·B·A·x` for factors in one piece.
fn low_rank(layout: adapter::lowrank::Layout, factors: Vec<f64>) -> Box<Change<'static>> {
    Box::new(move |seen: Seen| {
        let Place::Site(site) = seen.place else { return };
        let Some(slot) = layout.slot(site) else { return };
        let [cols, rows] = slot.shape;
        let (a, b) = (&factors[slot.a()], &factors[slot.b()]);
        for (x, y) in seen.x.iter().zip(seen.y) {
            for r in 0..slot.rank {
                let u: f64 = (0..cols).map(|i| a[r * cols + i] * x[i]).sum::<f64>() * f64::from(slot.factor);
                (0..rows).for_each(|o| y[o] += u * b[r * rows + o]);
            }
        }
    })
}

fn lora(spec: &Spec, base: &Base, _: &Model) -> Does {
    let layout = spec.layout(base).unwrap();
    Box::new(move |params| low_rank(layout.clone(), params.to_vec()))
}

/// Factors are affine in the coefficients, so that a unit step gives their derivative.
fn nola(spec: &Spec, base: &Base, model: &Model) -> Does {
    let mut nola = nola::Nola::create(spec, base).unwrap();
    let layout = nola.layout().clone();
    let mut at = |unit: Option<usize>| -> Vec<f64> {
        nola.params_mut().iter_mut().enumerate().for_each(|(i, v)| *v = f32::from(u8::from(Some(i) == unit)));
        nola.prepare(&model.compute, model).unwrap();
        nola.factors().iter().map(|v| f64::from(*v)).collect()
    };
    let start = at(None);
    let n = adapter::create(spec, base).unwrap().params().len();
    let bases: Vec<Vec<f64>> =
        (0..n).map(|i| at(Some(i)).iter().zip(&start).map(|(there, here)| there - here).collect()).collect();
    Box::new(move |params| {
        let mut factors = start.clone();
        for (p, basis) in params.iter().zip(&bases) {
            factors.iter_mut().zip(basis).for_each(|(f, b)| *f += p * b);
        }
        low_rank(layout.clone(), factors)
    })
}

/// Every entry of a factor is a start, and an entry of the vector with a sign.
fn uni(spec: &Spec, base: &Base, _: &Model) -> Does {
    let layout = spec.layout(base).unwrap();
    let len = spec.values().unwrap().whole("vector");
    let mut start = vec![0.0; layout.len()];
    let mut from = vec![(0usize, 0.0); layout.len()];
    for slot in layout.slots() {
        let words = |role: &str, n: usize| {
            let mut random = Random::new(spec.seed, &slot.site.to_string(), role);
            (0..n).map(|_| u64::from(random.next_u32())).collect::<Vec<u64>>()
        };
        let bound = f64::from((slot.shape[0] as f32).sqrt().recip());
        let starts = words("uni_start", slot.a().len());
        for (to, word) in start[slot.a()].iter_mut().zip(starts) {
            *to = ((word >> 9) as f64 / 4_194_304.0 - 1.0) * bound;
        }
        for (range, role) in [(slot.a(), "uni_a"), (slot.b(), "uni_b")] {
            for (to, word) in from[range.clone()].iter_mut().zip(words(role, range.len())) {
                *to = ((word * len / (1 << 32)) as usize, if word % 2 == 1 { 1.0 } else { -1.0 });
            }
        }
    }
    Box::new(move |v| {
        let factors = start.iter().zip(&from).map(|(start, (at, sign))| start + sign * v[*at]).collect();
        low_rank(layout.clone(), factors)
    })
}

fn shape(spec: &Spec, base: &Base) -> Shape {
    (Kind::by_name(&spec.kind).unwrap().shape)(spec, base).unwrap()
}

/// The parts of a slot.
fn parts<'a>(shape: &Shape, slot: usize, params: &'a [f64]) -> Vec<&'a [f64]> {
    shape.parts[shape.slots[slot].parts.clone()].iter().map(|part| &params[part.range.clone()]).collect()
}

/// A kind that does `act` at each of its places, with its parts there.
fn acting(spec: &Spec, base: &Base, act: impl Fn(&[&[f64]], Seen) + 'static) -> Does {
    let shared = Rc::new((shape(spec, base), act));
    Box::new(move |params| {
        let (shared, params) = (Rc::clone(&shared), params.to_vec());
        Box::new(move |seen| {
            let (shape, act) = &*shared;
            if let Some(slot) = shape.slot(seen.place) {
                act(&parts(shape, slot, &params), seen);
            }
        })
    })
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The rows of a frozen matrix.
fn matrix(base: &Base, layer: usize, role: Role) -> Vec<Vec<f64>> {
    let w = base.matrix(Site { layer, role }).unwrap();
    let mut row = vec![0.0; w.cols];
    let decoded = |i| {
        w.decode(i, 0..w.cols, &mut row);
        row.iter().map(|v| f64::from(*v)).collect()
    };
    (0..w.rows).map(decoded).collect()
}

/// What the base adds to the product of a site, which may be held by another.
fn bias(base: &Base, model: &Model, Site { layer, role }: Site) -> Vec<f64> {
    let shapes = &base.shapes[layer];
    let width = |role: Role| shapes[role].unwrap()[1];
    let (stored, first) = match role.fused() {
        Some((whole, nth)) if shapes[whole].is_some() => {
            (whole, whole.row().holds[..nth].iter().map(|before| width(*before)).sum())
        }
        _ => (role, 0),
    };
    let twin = Twin::new(model);
    match stored.bias().and_then(|bias| twin.offsets.block(layer, bias)) {
        Some(at) => twin.weights()[at][first..first + width(role)].to_vec(),
        None => vec![0.0; width(role)],
    }
}

/// `y = m / ‖W + s·B·A‖ ∘ (W·x + s·B·A·x)`, the norms fixed, and the base's bias as it was.
fn dora(spec: &Spec, base: &Base, model: &Model) -> Does {
    let (shape, values) = (Rc::new(shape(spec, base)), spec.values().unwrap());
    let (rank, alpha) = (values.whole("rank") as usize, values.real("alpha"));
    let s = alpha / if values.switch("rank stabilised") { (rank as f64).sqrt() } else { rank as f64 };
    // The change of row `o`'s weight of input `i`.
    let change = move |a: &[f64], b: &[f64], [n_in, n_out]: [usize; 2], o: usize, i: usize| -> f64 {
        (0..rank).map(|r| b[r * n_out + o] * a[r * n_in + i]).sum::<f64>() * s
    };
    let frozen: Vec<(Vec<Vec<f64>>, Vec<f64>)> = shape
        .slots
        .iter()
        .map(|slot| {
            let Place::Site(site) = slot.place else { panic!("dora at {}", slot.place) };
            (matrix(base, site.layer, site.role), bias(base, model, site))
        })
        .collect();
    let biases: Rc<Vec<Vec<f64>>> = Rc::new(frozen.iter().map(|(_, bias)| bias.clone()).collect());
    let lengths: OnceCell<Rc<Vec<Vec<f64>>>> = OnceCell::new();
    Box::new(move |params| {
        let all = lengths.get_or_init(|| {
            let of_slot = |(slot, (w, _)): (usize, &(Vec<Vec<f64>>, Vec<f64>))| {
                let (own, widths) = (parts(&shape, slot, params), shape.slots[slot].shape);
                let square = |(o, w): (usize, &Vec<f64>)| -> f64 {
                    (0..widths[0]).map(|i| (w[i] + change(own[0], own[1], widths, o, i)).powi(2)).sum()
                };
                w.iter().enumerate().map(|row| square(row).sqrt()).collect()
            };
            Rc::new(frozen.iter().enumerate().map(of_slot).collect())
        });
        let (shape, lengths, biases) = (Rc::clone(&shape), Rc::clone(all), Rc::clone(&biases));
        let params = params.to_vec();
        Box::new(move |seen| {
            let Some(slot) = shape.slot(seen.place) else { return };
            let (own, widths) = (parts(&shape, slot, &params), shape.slots[slot].shape);
            let (a, b, length) = (own[0], own[1], own[2]);
            for (x, y) in seen.x.iter().zip(seen.y) {
                let u: Vec<f64> = a.chunks_exact(widths[0]).map(|a| s * dot(a, x)).collect();
                for (o, y) in y.iter_mut().enumerate() {
                    let low: f64 = u.iter().enumerate().map(|(r, u)| u * b[r * widths[1] + o]).sum();
                    let bias = biases[slot][o];
                    *y = length[o] / lengths[slot][o] * (*y - bias + low) + bias;
                }
            }
        })
    })
}

/// `y ← l ∘ y`: of keys and values, and of what the products back into the stream are given.
fn ia3(spec: &Spec, base: &Base, _: &Model) -> Does {
    acting(spec, base, |own, seen| {
        match seen.place {
            Place::Input(site) => assert!([Role::O, Role::Down].contains(&site.role)),
            place => assert!(matches!(place, Place::Site(site) if ![Role::O, Role::Down].contains(&site.role))),
        }
        for y in seen.y {
            y.iter_mut().zip(own[0]).for_each(|(y, l)| *y *= l);
        }
    })
}

/// `U·max(D·z + d, 0) + u` of parts D, d, Uᵀ, u.
fn small(own: &[&[f64]], z: &[f64]) -> Vec<f64> {
    let hidden = own[0].chunks_exact(z.len()).zip(own[1]).map(|(row, d)| (dot(row, z) + d).max(0.0));
    let mut out = own[3].to_vec();
    for (h, up) in hidden.zip(own[2].chunks_exact(own[3].len())) {
        out.iter_mut().zip(up).for_each(|(out, up)| *out += h * up);
    }
    out
}

/// `h ← h + s f(h)`
fn bottleneck(spec: &Spec, base: &Base, _: &Model) -> Does {
    let s = spec.values().unwrap().real("factor");
    acting(spec, base, move |own, seen| {
        for y in seen.y {
            let f = small(own, y);
            y.iter_mut().zip(f).for_each(|(y, f)| *y += s * f);
        }
    })
}

/// `h ← h + s f(x)`
fn parallel(spec: &Spec, base: &Base, _: &Model) -> Does {
    let s = spec.values().unwrap().real("factor");
    acting(spec, base, move |own, seen| {
        for (x, y) in seen.x.iter().zip(seen.y) {
            y.iter_mut().zip(small(own, x)).for_each(|(y, f)| *y += s * f);
        }
    })
}

/// `Σ e^s v` and `Σ e^s` of head `h` of a row of queries, over rows of keys and values.
fn gather(heads: Heads, h: usize, q: &[f64], keys: &[&[f64]], values: &[&[f64]]) -> (Vec<f64>, f64) {
    let Heads { q: count, kv, dim, scale, cap } = heads;
    let (own, shared) = (h * dim..(h + 1) * dim, h / (count / kv) * dim);
    let (mut out, mut sum) = (vec![0.0; dim], 0.0);
    for (k, v) in keys.iter().zip(values) {
        let s = dot(&q[own.clone()], &k[shared..shared + dim]) * f64::from(scale);
        let weight = cap.map_or(s, |c| f64::from(c) * (s / f64::from(c)).tanh()).exp();
        out.iter_mut().zip(&v[shared..shared + dim]).for_each(|(o, v)| *o += weight * v);
        sum += weight;
    }
    (out, sum)
}

/// The angle by which each pair of a head's channels is rotated at position 1, and the pair, for every layer.
fn pairs(model: &Model) -> Vec<Vec<(usize, usize, f64)>> {
    let h = &model.hparams;
    let of_layer = |rope: Option<usize>| {
        let Some(rope) = rope.map(|i| &h.ropes[i]) else { return Vec::new() };
        let pair = |i: usize| {
            let angle = turn(model, rope, i);
            match h.arch.pairing {
                Pairing::Neighbours => (2 * i, 2 * i + 1, angle),
                Pairing::Halves => (i, rope.dims / 2 + i, angle),
            }
        };
        (0..rope.dims / 2).map(pair).collect()
    };
    h.blocks.iter().map(|block| of_layer(block.rope)).collect()
}

/// `o = Σ over text and prefix of e^s v / Σ e^s`, with keys of the prefix rotated by −offset.
fn prefix(spec: &Spec, base: &Base, model: &Model) -> Does {
    let (pairs, offset) = (pairs(model), spec.values().unwrap().whole("offset") as f64);
    acting(spec, base, move |own, seen| {
        let Place::Attention(layer) = seen.place else { panic!("prefix at {}", seen.place) };
        let (dim, width) = (seen.heads.dim, seen.heads.kv * seen.heads.dim);
        let mut keys = own[0].to_vec();
        for head in keys.chunks_exact_mut(dim) {
            for &(a, b, angle) in &pairs[layer] {
                let (sin, cos) = (-offset * angle).sin_cos();
                (head[a], head[b]) = (cos * head[a] - sin * head[b], sin * head[a] + cos * head[b]);
            }
        }
        let keys: Vec<&[f64]> = keys.chunks_exact(width).collect();
        let values: Vec<&[f64]> = own[1].chunks_exact(width).collect();
        for ((q, y), lse) in seen.x.iter().zip(seen.y).zip(seen.lse) {
            for (h, y) in y.chunks_exact_mut(dim).enumerate() {
                let (more, sum) = gather(seen.heads, h, q, &keys, &values);
                let text = lse[h].exp();
                y.iter_mut().zip(more).for_each(|(y, more)| *y = (text * *y + more) / (text + sum));
            }
        }
    })
}

/// Rows before the text.
fn prompt(spec: &Spec, base: &Base, _: &Model) -> Does {
    acting(spec, base, |own, seen| {
        let width = own[0].len() / seen.y.len();
        seen.y.iter_mut().zip(own[0].chunks_exact(width)).for_each(|(y, row)| y.copy_from_slice(row));
    })
}

/// `o ← o + tanh(g_h) softmax(q K_pᵀ · scale) V_p`
fn llama_adapter(spec: &Spec, base: &Base, _: &Model) -> Does {
    let frozen: BTreeMap<Place, [Vec<Vec<f64>>; 2]> = (0..base.layers())
        .filter(|layer| base.shapes[*layer].heads.q > 0)
        .map(|layer| (Place::Attention(layer), [Role::K, Role::V].map(|role| matrix(base, layer, role))))
        .collect();
    let width = base.width;
    acting(spec, base, move |own, seen| {
        let [keys, values] = frozen[&seen.place].each_ref().map(|w| -> Vec<Vec<f64>> {
            own[0].chunks_exact(width).map(|p| w.iter().map(|w| dot(w, p)).collect()).collect()
        });
        let keys: Vec<&[f64]> = keys.iter().map(|k| &k[..]).collect();
        let values: Vec<&[f64]> = values.iter().map(|v| &v[..]).collect();
        for (q, y) in seen.x.iter().zip(seen.y) {
            for (h, y) in y.chunks_exact_mut(seen.heads.dim).enumerate() {
                let (more, sum) = gather(seen.heads, h, q, &keys, &values);
                y.iter_mut().zip(more).for_each(|(y, more)| *y += own[1][h].tanh() * more / sum);
            }
        }
    })
}

/// `W·(x ∘ γ) + β`, and γ of what a norm puts out.
fn unlock(spec: &Spec, base: &Base, _: &Model) -> Does {
    acting(spec, base, |own, seen| {
        let adds = matches!(seen.place, Place::Site(site) if site.role.row().kind == TensorKind::Matrix);
        for y in seen.y {
            y.iter_mut().zip(own[0]).for_each(|(y, v)| *y = if adds { *y + v } else { *y * v });
        }
    })
}
