//! Every kind of adapter in double precision, written plainly from the definition on its page: it knows where the kind's
//! parts lie, and shares none of the library's loops.

use crate::twin::{Change, Seen, Twin, turn};
use mynah::adapter::{self, Base, Kind, Place, Shape, Site, Spec};
use mynah::model::Model;
use mynah::nn::attention::Heads;
use mynah::nn::rope::Pairing;
use mynah::rng::{Permutation, Random};
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
    ("nola", affine),
    ("uni", uni),
    ("dora", dora),
    ("ia3", ia3),
    ("bottleneck", bottleneck),
    ("parallel", parallel),
    ("gated-bottleneck", gated),
    ("invertible", invertible),
    ("prefix", prefix),
    ("prefix-mlp", prefix_mlp),
    ("mam", mam),
    ("prompt", prompt),
    ("p-tuning", p_tuning),
    ("llama-adapter", llama_adapter),
    ("unlock", unlock),
    ("vera", vera),
    ("lora-xs", affine),
    ("tinylora", affine),
    ("mos", mos),
    ("randlora", randlora),
    ("vblora", vblora),
    ("lora-shared", lora_shared),
    ("sparse", sparse),
    ("loha", loha),
    ("lokr", lokr),
    ("oft", oft),
    ("fourierft", fourierft),
    ("lora-fa", lora_fa),
    ("adalora", triplets),
    ("increlora", triplets),
    ("side", side),
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

/// Factors that are affine in the parameters, so that a unit step gives their derivative: those of bases that are drawn, and
/// of frames, whose signs no definition says.
fn affine(spec: &Spec, base: &Base, model: &Model) -> Does {
    let mut a = adapter::create(spec, base).unwrap();
    let n = a.params().len();
    let mut at = |unit: Option<usize>| -> Vec<f64> {
        a.params_mut().iter_mut().enumerate().for_each(|(i, v)| *v = f32::from(u8::from(Some(i) == unit)));
        a.prepare(&model.compute, model).unwrap();
        a.low_rank().unwrap().1.iter().map(|v| f64::from(*v)).collect()
    };
    let start = at(None);
    let bases: Vec<Vec<f64>> =
        (0..n).map(|i| at(Some(i)).iter().zip(&start).map(|(there, here)| there - here).collect()).collect();
    let layout = a.low_rank().unwrap().0.clone();
    Box::new(move |params| {
        let mut factors = start.clone();
        for (p, basis) in params.iter().zip(&bases) {
            factors.iter_mut().zip(basis).for_each(|(f, b)| *f += p * b);
        }
        low_rank(layout.clone(), factors)
    })
}

/// Values of a stream, uniform in ±bound.
fn drawn(spec: &Spec, name: &str, role: &str, n: usize, bound: f64) -> Vec<f64> {
    let mut random = Random::new(spec.seed, name, role);
    (0..n).map(|_| (f64::from(random.next_u32() >> 9) / 4_194_304.0 - 1.0) * bound).collect()
}

/// `y += diag(λ_b)·B·diag(λ_d)·A·x` with slices of one pair; rows of B are in Hugging Face's order.
fn vera(spec: &Spec, base: &Base, _: &Model) -> Does {
    let (shape, rank) = (shape(spec, base), spec.values().unwrap().whole("rank") as usize);
    let [cols, rows] = [0, 1].map(|side| shape.slots.iter().map(|s| s.shape[side]).max().unwrap());
    let a = drawn(spec, "all", "vera_a", rank * cols, (6.0 / cols as f64).sqrt());
    let b = drawn(spec, "all", "vera_b", rows * rank, (6.0 / rank as f64).sqrt());
    let base_again = base.clone();
    acting(spec, base, move |own, seen| {
        let Place::Site(site) = seen.place else { panic!("vera at {}", seen.place) };
        let paired = base_again.paired(site);
        for (x, y) in seen.x.iter().zip(seen.y) {
            let u: Vec<f64> = (0..rank).map(|r| own[0][r] * dot(&a[r * cols..][..x.len()], x)).collect();
            for row in 0..y.len() {
                let to = paired.map_or(row, |width| adapter::gguf_row(row, width));
                y[to] += own[1][to] * dot(&b[row * rank..][..rank], &u);
            }
        }
    })
}

/// Rows of shards of two pools for all blocks with a product of that role and shape.
fn mos(spec: &Spec, base: &Base, _: &Model) -> Does {
    let (shape, values) = (shape(spec, base), spec.values().unwrap());
    let [rank, e, private, q] = ["rank", "pool", "private", "pieces"].map(|name| values.whole(name) as usize);
    let alpha = values.real("alpha");
    let site = |place: Place| match place {
        Place::Site(site) => site,
        other => panic!("mos at {other}"),
    };
    let mut tables = BTreeMap::new();
    for slot in &shape.slots {
        let like =
            |other: &&adapter::Slot| site(other.place).role == site(slot.place).role && other.shape == slot.shape;
        let blocks: Vec<Place> = shape.slots.iter().filter(like).map(|s| s.place).collect();
        let block = blocks.iter().position(|place| *place == slot.place).unwrap();
        let (public, rank) = ((e - private) * blocks.len(), rank.min(private + (e - private) * blocks.len()));
        let lists = ["mos_a", "mos_b"].map(|role| {
            let mut list: Vec<usize> = (0..public * q).collect();
            Random::new(spec.seed, &site(slot.place).to_string(), role).shuffle(&mut list);
            let own = (public + block * private) * q;
            let list: Vec<usize> = list.into_iter().take((rank - private) * q).chain(own..own + private * q).collect();
            list
        });
        tables.insert(slot.place, lists);
    }
    acting(spec, base, move |own, seen| {
        let lists = &tables[&seen.place];
        let row = |side: usize, k: usize, n: usize| -> Vec<f64> {
            let width = n.div_ceil(q);
            let shards = lists[side][k * q..(k + 1) * q].iter();
            shards.flat_map(|shard| own[side][shard * width..][..width].to_vec()).take(n).collect()
        };
        let rank = lists[0].len() / q;
        for (x, y) in seen.x.iter().zip(seen.y) {
            for k in 0..rank {
                let u = dot(&row(0, k, x.len()), x) * alpha / rank as f64;
                let b = row(1, k, y.len());
                y.iter_mut().zip(b).for_each(|(y, b)| *y += u * b);
            }
        }
    })
}

/// `ΔW = s·Σ Bⱼ·diag(λⱼ)·A·diag(γⱼ)`, or its transpose where there are more inputs than outputs.
fn randlora(spec: &Spec, base: &Base, _: &Model) -> Does {
    let (shape, values) = (shape(spec, base), spec.values().unwrap());
    let [rank, bases] = ["rank", "bases"].map(|name| values.whole(name) as usize);
    let s = values.real("alpha") / rank as f64;
    let narrow = shape.slots.iter().map(|s| s.shape[0].min(s.shape[1])).max().unwrap();
    let wide = shape.slots.iter().map(|s| s.shape[0].max(s.shape[1])).max().unwrap();
    let a = drawn(spec, "all", "randlora_a", rank * narrow, 3f64.sqrt());
    let b = drawn(spec, "all", "randlora_b", bases * rank * wide, 3f64.sqrt());
    acting(spec, base, move |own, seen| {
        for (x, y) in seen.x.iter().zip(seen.y) {
            let least = x.len().min(y.len());
            for k in 0..bases * rank {
                let (a, gamma) = (&a[k % rank * narrow..], &own[1][k / rank * least..]);
                let inner: Vec<f64> = (0..least).map(|i| own[0][k] * a[i] * gamma[i]).collect();
                let outer = &b[k * wide..];
                let [first, last] = if x.len() <= y.len() { [&inner[..], outer] } else { [outer, &inner] };
                let u: f64 = s * x.iter().zip(first).map(|(x, v)| x * v).sum::<f64>();
                y.iter_mut().zip(last).for_each(|(y, v)| *y += u * v);
            }
        }
    })
}

/// Pieces of `w·v[i] + (1 − w)·v[j]`; which two stays as it is at the first parameters.
fn vblora(spec: &Spec, base: &Base, model: &Model) -> Does {
    let mut a = adapter::create(spec, base).unwrap();
    a.prepare(&model.compute, model).unwrap();
    let layout = a.low_rank().unwrap().0.clone();
    let [n, len] = ["vectors", "vector length"].map(|name| spec.values().unwrap().whole(name) as usize);
    let chosen: OnceCell<Vec<(usize, usize)>> = OnceCell::new();
    Box::new(move |params| {
        let (bank, logits) = params.split_at(n * len);
        let two = chosen.get_or_init(|| {
            let of = |logits: &[f64]| {
                let mut order: Vec<usize> = (0..n).collect();
                order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
                (order[0], order[1])
            };
            logits.chunks_exact(n).map(of).collect()
        });
        let mut pieces = logits.chunks_exact(n).zip(two).map(|(logits, (i, j))| -> Vec<f64> {
            let [x, y] = [i, j].map(|k| logits[*k].exp());
            let [v, w] = [i, j].map(|k| &bank[k * len..][..len]);
            v.iter().zip(w).map(|(v, w)| (x * v + y * w) / (x + y)).collect()
        });
        let mut factors = vec![0.0; layout.len()];
        for slot in layout.slots() {
            for (range, n) in [(slot.a(), slot.shape[0]), (slot.b(), slot.shape[1])] {
                for row in factors[range].chunks_exact_mut(n) {
                    for out in row.chunks_mut(len) {
                        out.copy_from_slice(&pieces.next().unwrap()[..out.len()]);
                    }
                }
            }
        }
        low_rank(layout.clone(), factors)
    })
}

/// `y += s·f·B·A·(g ∘ x)`: parts are those of the group, A, Bᵀ, and f and g of each of its blocks.
fn lora_shared(spec: &Spec, base: &Base, _: &Model) -> Does {
    let (shape, values) = (shape(spec, base), spec.values().unwrap());
    let rank = values.whole("rank") as usize;
    let s = values.real("alpha") / if values.switch("rank stabilised") { (rank as f64).sqrt() } else { rank as f64 };
    let nth: BTreeMap<Place, usize> = shape
        .slots
        .iter()
        .map(|slot| (slot.place, shape.slots.iter().filter(|o| o.parts == slot.parts && o.place < slot.place).count()))
        .collect();
    acting(spec, base, move |own, seen| {
        let nth = nth[&seen.place];
        for (x, y) in seen.x.iter().zip(seen.y) {
            let (factor, x): (f64, Vec<f64>) = match own.get(2 + 2 * nth) {
                Some(f) => (f[0], x.iter().zip(own[3 + 2 * nth]).map(|(x, g)| x * g).collect()),
                None => (1.0, x.clone()),
            };
            for r in 0..rank {
                let u = s * factor * dot(&own[0][r * x.len()..][..x.len()], &x);
                let n_out = y.len();
                y.iter_mut().zip(&own[1][r * n_out..]).for_each(|(y, b)| *y += u * b);
            }
        }
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

/// Dense changes of matrices, of which only the entries at the positions are other than zero. Shares are differences of
/// rounded sums of sizes.
fn sparse(spec: &Spec, base: &Base, _: &Model) -> Does {
    let sites = shape(spec, base).places();
    let size = |[n_in, n_out]: [usize; 2]| (n_in * n_out) as u128;
    let all: u128 = sites.iter().map(|(_, shape)| size(*shape)).sum();
    let wanted = u128::from(spec.values().unwrap().whole("values")).min(all);
    let (mut before, mut places) = (0, Vec::new());
    for (place, shape) in sites {
        let k = wanted * (before + size(shape)) / all - wanted * before / all;
        before += size(shape);
        let order = Permutation::new(spec.seed, &place.to_string(), "sparse", size(shape) as u64);
        let mut flat: Vec<usize> = (0..k as u64).map(|i| order.at(i) as usize).collect();
        flat.sort();
        places.push((place, shape[0], flat));
    }
    Box::new(move |params| {
        let mut changes = BTreeMap::new();
        let mut params = params.iter();
        for (place, n_in, flat) in &places {
            let entry = |flat: &usize| (flat / n_in, flat % n_in, *params.next().unwrap());
            changes.insert(*place, flat.iter().map(entry).collect::<Vec<_>>());
        }
        Box::new(move |seen: Seen| {
            let Some(change) = changes.get(&seen.place) else { return };
            for (x, y) in seen.x.iter().zip(seen.y) {
                change.iter().for_each(|(row, col, v)| y[*row] += v * x[*col]);
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

/// φ by its name.
fn bend(act: &str, z: f64) -> f64 {
    match act {
        "relu" => z.max(0.0),
        "silu" => z / (1.0 + (-z).exp()),
        other => panic!("{other} has no twin in double precision"),
    }
}

/// `U·φ(D·z + d) + u` of parts D, d, Uᵀ, u.
fn small(act: &str, own: &[&[f64]], z: &[f64]) -> Vec<f64> {
    let hidden = own[0].chunks_exact(z.len()).zip(own[1]).map(|(row, d)| bend(act, dot(row, z) + d));
    let mut out = own[3].to_vec();
    for (h, up) in hidden.zip(own[2].chunks_exact(own[3].len())) {
        out.iter_mut().zip(up).for_each(|(out, up)| *out += h * up);
    }
    out
}

/// The factor and φ of a small layer.
fn small_settings(spec: &Spec) -> (f64, String) {
    let values = spec.values().unwrap();
    (values.real("factor"), values.word("activation").into())
}

/// `h ← h + s f(h)`
fn bottleneck(spec: &Spec, base: &Base, _: &Model) -> Does {
    let (s, act) = small_settings(spec);
    acting(spec, base, move |own, seen| {
        for y in seen.y {
            let f = small(&act, own, y);
            y.iter_mut().zip(f).for_each(|(y, f)| *y += s * f);
        }
    })
}

/// `h ← h + s f(x)`
fn beside(spec: &Spec) -> impl Fn(&[&[f64]], Seen) + use<> {
    let (s, act) = small_settings(spec);
    move |own, seen| {
        for (x, y) in seen.x.iter().zip(seen.y) {
            y.iter_mut().zip(small(&act, own, x)).for_each(|(y, f)| *y += s * f);
        }
    }
}

fn parallel(spec: &Spec, base: &Base, _: &Model) -> Does {
    acting(spec, base, beside(spec))
}

/// `h' = h + s f(h)`, `h ← h' ∘ G`.
fn gated(spec: &Spec, base: &Base, _: &Model) -> Does {
    let ((s, act), gate) = (small_settings(spec), spec.values().unwrap().word("gate").to_string());
    let open = |u: f64| 2.0 / (1.0 + (-u).exp());
    acting(spec, base, move |own, seen| {
        for (x, y) in seen.x.iter().zip(seen.y) {
            let f = small(&act, own, y);
            y.iter_mut().zip(f).for_each(|(y, f)| *y += s * f);
            let g: Vec<f64> = match &*gate {
                "large" => {
                    let a: Vec<f64> = own[4].chunks_exact(x.len()).map(|row| bend(&act, dot(row, x))).collect();
                    let u = |o: usize| a.iter().enumerate().map(|(i, a)| a * own[5][i * y.len() + o]).sum();
                    (0..y.len()).map(|o| open(u(o))).collect()
                }
                "middle-x" => vec![open(dot(own[4], x) + dot(own[4], y)); y.len()],
                "middle-y" => own[4].to_vec(),
                _ => vec![open(dot(own[4], &[&x[..], &y[..]].concat())); y.len()],
            };
            y.iter_mut().zip(g).for_each(|(y, g)| *y *= g);
        }
    })
}

/// `e1 += s F(e2)`, `e2 += s H(e1)`; before the output the inverse.
fn invertible(spec: &Spec, base: &Base, _: &Model) -> Does {
    let ((s, act), shape) = (small_settings(spec), Rc::new(shape(spec, base)));
    Box::new(move |params| {
        let (shape, params, act) = (Rc::clone(&shape), params.to_vec(), act.clone());
        Box::new(move |seen| {
            if shape.slot(seen.place).is_none() {
                return;
            }
            let own = parts(&shape, 0, &params);
            // F adds to the first half.
            let half = own[3].len();
            for y in seen.y {
                let (low, high) = y.split_at_mut(half);
                let add = |to: &mut [f64], f: Vec<f64>, s: f64| to.iter_mut().zip(f).for_each(|(to, f)| *to += s * f);
                match seen.place {
                    Place::Embedding => {
                        add(low, small(&act, &own[..4], high), s);
                        add(high, small(&act, &own[4..], low), s);
                    }
                    _ => {
                        add(high, small(&act, &own[4..], low), -s);
                        add(low, small(&act, &own[..4], high), -s);
                    }
                }
            }
        })
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
fn before(spec: &Spec, model: &Model) -> impl Fn(&[&[f64]], Seen) + use<> {
    let (pairs, offset) = (pairs(model), spec.values().unwrap().whole("offset") as f64);
    move |own, seen| {
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
    }
}

fn prefix(spec: &Spec, base: &Base, model: &Model) -> Does {
    acting(spec, base, before(spec, model))
}

/// A prefix at attention, a parallel layer in the stream.
fn mam(spec: &Spec, base: &Base, model: &Model) -> Does {
    let (before, beside) = (before(spec, model), beside(spec));
    acting(spec, base, move |own, seen| match seen.place {
        Place::Attention(_) => before(own, seen),
        _ => beside(own, seen),
    })
}

/// Rows before the text.
fn rows(own: &[&[f64]], seen: Seen) {
    let width = own[0].len() / seen.y.len();
    seen.y.iter_mut().zip(own[0].chunks_exact(width)).for_each(|(y, row)| y.copy_from_slice(row));
}

fn prompt(spec: &Spec, base: &Base, _: &Model) -> Does {
    acting(spec, base, rows)
}

/// What `act` does with rows `tanh(E·Wᵀ + c)·U + u`: E, W and c are parts of the first slot, U and u of every part that `act`
/// knows come behind.
fn network(spec: &Spec, base: &Base, act: impl Fn(&[&[f64]], Seen) + 'static) -> Does {
    let shared = Rc::new((shape(spec, base), act));
    Box::new(move |params| {
        let (shared, params) = (Rc::clone(&shared), params.to_vec());
        Box::new(move |seen| {
            let (shape, act) = &*shared;
            let Some(slot) = shape.slot(seen.place) else { return };
            let (first, own) = (parts(shape, 0, &params), parts(shape, slot, &params));
            let (b, own) = (first[2].len(), if slot == 0 { &own[3..] } else { &own[..] });
            let hidden = |e: &[f64]| -> Vec<f64> {
                first[1].chunks_exact(b).zip(first[2]).map(|(w, c)| (dot(w, e) + c).tanh()).collect()
            };
            let hidden: Vec<Vec<f64>> = first[0].chunks_exact(b).map(hidden).collect();
            let made = |pair: &[&[f64]]| -> Vec<f64> {
                let c = pair[1].len();
                let value = |h: &Vec<f64>, o: usize| {
                    h.iter().enumerate().map(|(i, h)| h * pair[0][i * c + o]).sum::<f64>() + pair[1][o]
                };
                hidden.iter().flat_map(|h| (0..c).map(|o| value(h, o)).collect::<Vec<_>>()).collect()
            };
            let made: Vec<Vec<f64>> = own.chunks_exact(2).map(made).collect();
            act(&made.iter().map(|m| &m[..]).collect::<Vec<_>>(), seen);
        })
    })
}

fn prefix_mlp(spec: &Spec, base: &Base, model: &Model) -> Does {
    network(spec, base, before(spec, model))
}

fn p_tuning(spec: &Spec, base: &Base, _: &Model) -> Does {
    network(spec, base, rows)
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

/// `y += ΔW·x` for a change whose entry `[o, i]` is `weight(o, i)`.
fn dense(seen: Seen, weight: impl Fn(usize, usize) -> f64) {
    let (n_in, n_out) = (seen.x[0].len(), seen.y[0].len());
    let rows: Vec<Vec<f64>> = (0..n_out).map(|o| (0..n_in).map(|i| weight(o, i)).collect()).collect();
    for (x, y) in seen.x.iter().zip(seen.y) {
        y.iter_mut().zip(&rows).for_each(|(y, row)| *y += dot(row, x));
    }
}

/// `y += (s·(W1a·W1b) ∘ (W2a·W2b))·x`
fn loha(spec: &Spec, base: &Base, _: &Model) -> Does {
    let values = spec.values().unwrap();
    let (r, alpha) = (values.whole("rank") as usize, values.real("alpha"));
    acting(spec, base, move |own, seen| {
        let (n_out, n_in) = (own[0].len() / r, own[1].len() / r);
        // Entry `[o, i]` of the product of two of the four.
        let entry = |a: &[f64], b: &[f64], o: usize, i: usize| -> f64 {
            (0..r).map(|k| a[k * n_out + o] * b[k * n_in + i]).sum()
        };
        dense(seen, |o, i| entry(own[0], own[1], o, i) * entry(own[2], own[3], o, i) * alpha / r as f64);
    })
}

/// `y += (s·W1 ⊗ (W2a·W2b))·x`
fn lokr(spec: &Spec, base: &Base, _: &Model) -> Does {
    let values = spec.values().unwrap();
    let (r, alpha) = (values.whole("rank") as usize, values.real("alpha"));
    acting(spec, base, move |own, seen| {
        let (n2, m2, m1) = (own[1].len() / r, own[2].len() / r, seen.x[0].len() * r / own[2].len());
        dense(seen, |o, i| {
            let second: f64 = (0..r).map(|k| own[1][k * n2 + o % n2] * own[2][k * m2 + i % m2]).sum();
            own[0][o / n2 * m1 + i / m2] * second * alpha / r as f64
        });
    })
}

/// The inverse of a matrix, by elimination with the largest pivots.
fn inverse(mut m: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let n = m.len();
    for (i, row) in m.iter_mut().enumerate() {
        row.extend((0..n).map(|j| f64::from(u8::from(i == j))));
    }
    for k in 0..n {
        let most = (k..n).max_by(|a, b| m[*a][k].abs().total_cmp(&m[*b][k].abs())).unwrap();
        m.swap(k, most);
        let pivot = m[k].clone();
        for (i, row) in m.iter_mut().enumerate() {
            let factor = row[k] / pivot[k];
            row.iter_mut().zip(&pivot).for_each(|(v, p)| *v = if i == k { p / pivot[k] } else { *v - factor * p });
        }
    }
    m.into_iter().map(|row| row[n..].to_vec()).collect()
}

/// `x ← x·(I − S)·(I + S)⁻¹`, block by block.
fn oft(spec: &Spec, base: &Base, _: &Model) -> Does {
    let block = spec.values().unwrap().whole("block") as usize;
    acting(spec, base, move |own, seen| {
        assert!(matches!(seen.place, Place::Input(_)));
        let width = seen.y[0].len();
        let mut skew = own[0].iter();
        for start in (0..width).step_by(block) {
            let w = block.min(width - start);
            let (mut plus, mut minus) = (vec![vec![0.0; w]; w], vec![vec![0.0; w]; w]);
            for i in 0..w {
                (plus[i][i], minus[i][i]) = (1.0, 1.0);
                for j in i + 1..w {
                    let s = *skew.next().unwrap();
                    (plus[i][j], plus[j][i], minus[i][j], minus[j][i]) = (s, -s, -s, s);
                }
            }
            let inverse = inverse(plus);
            for y in seen.y.iter_mut() {
                let x = y[start..start + w].to_vec();
                let half: Vec<f64> = (0..w).map(|j| (0..w).map(|i| x[i] * minus[i][j]).sum()).collect();
                (0..w).for_each(|j| y[start + j] = (0..w).map(|i| half[i] * inverse[i][j]).sum());
            }
        }
        assert!(skew.next().is_none());
    })
}

/// `y += s·Re(ifft2(F))·x`
fn fourierft(spec: &Spec, base: &Base, _: &Model) -> Does {
    let (scale, seed) = (spec.values().unwrap().real("factor"), spec.seed);
    // Matrices of the same shape have the same waves: `[out, in, coefficient]`.
    let known: std::cell::RefCell<BTreeMap<[usize; 2], Rc<Vec<f64>>>> = Default::default();
    acting(spec, base, move |own, seen| {
        let (n_in, n_out) = (seen.x[0].len(), seen.y[0].len());
        let k = own[0].len();
        let waves = Rc::clone(known.borrow_mut().entry([n_in, n_out]).or_insert_with(|| {
            let mut random = Random::new(seed, &format!("{n_out} × {n_in}"), "fourierft");
            let mut drawn: Vec<u64> = Vec::new();
            while drawn.len() < k {
                let at = random.below((n_in * n_out) as u64);
                if !drawn.contains(&at) {
                    drawn.push(at);
                }
            }
            let mut waves = Vec::new();
            for o in 0..n_out {
                for i in 0..n_in {
                    waves.extend(drawn.iter().map(|at| {
                        let (p, q) = (*at as usize / n_in, *at as usize % n_in);
                        let turns = (p * o) as f64 / n_out as f64 + (q * i) as f64 / n_in as f64;
                        (2.0 * std::f64::consts::PI * turns).cos() * scale / (n_in * n_out) as f64
                    }));
                }
            }
            Rc::new(waves)
        }));
        dense(seen, |o, i| dot(&waves[(o * n_in + i) * k..][..k], own[0]));
    })
}

/// LoRA with an A that follows from the seed.
fn lora_fa(spec: &Spec, base: &Base, _: &Model) -> Does {
    let layout = spec.layout(base).unwrap();
    let seed = spec.seed;
    Box::new(move |params| {
        let (mut factors, mut params) = (vec![0.0; layout.len()], params.iter());
        for slot in layout.slots() {
            let mut random = Random::new(seed, &slot.site.to_string(), "lora_fa_a");
            let bound = f64::from((slot.shape[0] as f32).sqrt().recip());
            for a in &mut factors[slot.a()] {
                *a = (f64::from(random.next_u32() >> 9) / 4_194_304.0 - 1.0) * bound;
            }
            factors[slot.b()].iter_mut().zip(&mut params).for_each(|(b, p)| *b = *p);
        }
        low_rank(layout.clone(), factors)
    })
}

/// `y += alpha / r·B·(e ∘ (A·x))`
fn triplets(spec: &Spec, base: &Base, _: &Model) -> Does {
    let values = spec.values().unwrap();
    let (alpha, root) = (values.real("alpha"), values.get("rank stabilised") == Some(&true.into()));
    acting(spec, base, move |own, seen| {
        let [a, b, e] = own else { panic!("three parts") };
        let r = e.len() as f64;
        for (x, y) in seen.x.iter().zip(seen.y) {
            for ((a, b), e) in a.chunks_exact(x.len()).zip(b.chunks_exact(y.len())).zip(*e) {
                let u = dot(a, x) * e * alpha / if root { r.sqrt() } else { r };
                y.iter_mut().zip(b).for_each(|(y, b)| *y += u * b);
            }
        }
    })
}

/// `z ← z + W·max(D·h + B·z + c, 0) + e`, and `h_L + U·z` at the end; the state is z and the rectified values.
fn side(spec: &Spec, base: &Base, _: &Model) -> Does {
    acting(spec, base, |own, seen| {
        for (x, y) in seen.x.iter().zip(seen.y) {
            if seen.place == Place::Join {
                for (z, u) in x.iter().zip(own[0].chunks_exact(y.len())) {
                    y.iter_mut().zip(u).for_each(|(y, u)| *y += z * u);
                }
                continue;
            }
            let b = own[2].len();
            let row = |i: usize| own[0][i * x.len()..(i + 1) * x.len()].to_vec();
            let along = |i: usize, z: &[f64]| (0..b).map(|j| z[j] * own[1][j * b + i]).sum::<f64>();
            let g: Vec<f64> = (0..b).map(|i| (dot(&row(i), x) + along(i, y) + own[2][i]).max(0.0)).collect();
            for o in 0..b {
                y[o] += own[4][o] + (0..b).map(|i| g[i] * own[3][i * b + o]).sum::<f64>();
            }
            y[b..2 * b].copy_from_slice(&g);
        }
    })
}
