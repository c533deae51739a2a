//! The laws of adapters, over every kind at every place where it stands, and files of adapters under damage.

use crate::tiny::{self, bases};
use mynah::adapter::{
    self, Adapter, At, Base, Fit, Frozen, Into, KINDS, Place, Provenance, Seen, Shapes, Site, Spec, nola, parse_targets,
};
use mynah::bytes::{Bytes, Limits};
use mynah::kernel::{self, Buffer, Compute, Pool, Tile, View};
use mynah::knob::Domain;
use mynah::model::{Session, SessionConfig};
use mynah::nn::attention::Heads;
use mynah::nn::rope::Rope;
use mynah::quant::{Format, Matrix};
use mynah::rng::Random;
use mynah::role::Role;
use std::sync::Arc;

/// The frozen matrices of [`base`], drawn from their names.
struct Drawn(Vec<Shapes>);

impl Frozen for Drawn {
    fn heads(&self, layer: usize) -> Option<Heads> {
        base().shapes.get(layer).map(|shapes| shapes.heads)
    }

    fn matrix(&self, site: Site) -> Option<Matrix> {
        let [cols, rows] = self.0.get(site.layer)?[site.role]?;
        let bytes: Vec<u8> = values(rows * cols, &site.to_string()).iter().flat_map(|v| v.to_le_bytes()).collect();
        Some(Matrix::new(Format::by_name("F32")?, rows, cols, Bytes::from(bytes)).unwrap())
    }

    fn rope(&self, _layer: usize) -> Option<&Rope> {
        None
    }
}

/// A base of two blocks with these matrices, and the norms of a dense block.
fn base_of(width: usize, heads: Heads, matrices: &[(Role, [usize; 2])]) -> Base {
    let block = [Role::AttnNorm, Role::FfnNorm].map(|role| (role, [width; 2]));
    let block = block.iter().chain(matrices).fold(Shapes::new(heads), |all, (role, shape)| all.with(*role, *shape));
    let shapes = vec![block.clone(), block];
    Base {
        name: "any".into(),
        format: "F32".into(),
        architecture: "llama".into(),
        width,
        frozen: Some(Arc::new(Drawn(shapes.clone()))),
        shapes,
        hf: &[],
        hf_blocks: "model.layers",
        bind: &[],
        paired_rows: true,
        content: [1; 32],
        tokenizer: [2; 32],
    }
}

/// Two blocks of odd widths; the second has no gate.
fn base() -> Base {
    let heads = Heads { q: 4, kv: 2, dim: 6, scale: 0.4, cap: None };
    let square = [Role::Q, Role::O].map(|role| (role, [24, 24]));
    let keys = [Role::K, Role::V].map(|role| (role, [24, 12]));
    let ff = [(Role::Gate, [24, 37]), (Role::Up, [24, 37]), (Role::Down, [37, 24])];
    let mut base = base_of(24, heads, &[&square[..], &keys, &ff].concat());
    base.shapes[1][Role::Gate] = None;
    base
}

fn compute(threads: usize) -> Compute {
    Compute { kernels: kernel::best(), pool: Pool::new(threads) }
}

/// One of each kind, and one for every name and switch that can be set.
fn specs() -> Vec<Spec> {
    let mut all = Vec::new();
    for kind in KINDS {
        let mut targets = parse_targets("attn,up,down").unwrap();
        targets.retain(|role| kind.targets.contains(role));
        let has = |name: &str| kind.knobs.iter().any(|u| u.knob.name == name);
        let mut spec = bases(Spec { targets: targets.clone(), seed: 9, ..Spec::new(kind.name) }, [5, 4]);
        if has("rank") {
            spec = spec.with("rank", 3);
        }
        if has("alpha") {
            spec = spec.with("alpha", 6);
        }
        for small in ["size", "hidden"] {
            if has(small) {
                spec = spec.with(small, 5);
            }
        }
        all.push(spec.clone());
        if has("share") {
            all.push(spec.clone().with("share", 2));
        }
        for usual in kind.knobs {
            match usual.knob.domain {
                Domain::Word(names) => {
                    let others = names().into_iter().filter(|name| usual.value != (*name).into());
                    all.extend(others.map(|name| spec.clone().with(usual.knob.name, name)));
                }
                Domain::Switch => all.push(spec.clone().with(usual.knob.name, true)),
                Domain::Real { .. } | Domain::Whole { .. } => {}
            }
        }
    }
    all
}

fn prepare(a: &mut dyn Adapter, base: &Base, threads: usize) {
    a.prepare(&compute(threads), &**base.frozen.as_ref().unwrap()).unwrap();
}

fn fresh(spec: &Spec) -> Box<dyn Adapter> {
    let mut a = adapter::create(spec, &base()).unwrap();
    prepare(&mut *a, &base(), 1);
    a
}

/// One with random parameters that half floats hold exactly.
fn trained(spec: &Spec) -> Box<dyn Adapter> {
    let mut a = fresh(spec);
    let mut random = Random::new(5, &spec.kind, "trained");
    a.params_mut().iter_mut().for_each(|p| *p = (random.below(255) as f32 - 127.0) / 128.0);
    prepare(&mut *a, &base(), 1);
    a
}

fn values(n: usize, name: &str) -> Vec<f32> {
    let mut random = Random::new(3, name, "values");
    (0..n).map(|_| random.next_f32() * 2.0 - 1.0).collect()
}

/// Rows that meet an adapter at one of its slots.
#[derive(Clone)]
struct Met {
    slot: usize,
    place: Place,
    n: usize,
    c_in: usize,
    c_out: usize,
    heads: Heads,
    strength: f32,
    x: Vec<f32>,
    y: Vec<f32>,
    lse: Vec<f32>,
}

impl Met {
    fn new(a: &dyn Adapter, base: &Base, slot: usize, n: usize) -> Met {
        let at = &a.shape().slots[slot];
        let (place, [c_in, c_out]) = (at.place, at.shape);
        let heads = base.shapes[place.layer().unwrap_or(0)].heads;
        let nothing = matches!(place, Place::Rows | Place::Embedding | Place::Input(_));
        let n = if place == Place::Rows { a.shape().needs.rows } else { n };
        let c_in = if nothing { 0 } else { c_in };
        let [x, y, lse] = [(c_in, "x"), (c_out, "y"), (heads.q, "lse")].map(|(c, name)| values(n * c, name));
        Met { slot, place, n, c_in, c_out, heads, strength: 1.0, x, y, lse }
    }

    fn at<'a>(&'a self, cx: &'a Compute) -> At<'a> {
        let lse = matches!(self.place, Place::Attention(_)).then(|| View::new(&self.lse, self.n, self.heads.q));
        At { cx, place: self.place, slot: self.slot, strength: self.strength, heads: self.heads, lse }
    }

    /// What becomes of `y`.
    fn forward(&self, a: &dyn Adapter, cx: &Compute) -> Vec<f32> {
        let mut y = self.y.clone();
        let x = View::new(&self.x, self.n, self.c_in);
        a.forward(&self.at(cx), x, &mut Tile::new(&mut y, self.n, self.c_out), &mut Buffer::default());
        y
    }

    /// From the gradient of that those of `y`, of `x`, of the log-sum-exp and of the parameters; the second and third are
    /// added to ones.
    fn backward(&self, a: &dyn Adapter, base: &Base, cx: &Compute, dy: &[f32]) -> [Vec<f32>; 4] {
        let (mut dy, mut dx, mut dlse) = (dy.to_vec(), vec![1.0; self.x.len()], vec![1.0; self.lse.len()]);
        let size = a.shape().size;
        let n = a.params().len();
        let mut acc = vec![0.0; if size.gathered > 0 { size.gathered } else { n }];
        let (mut grads, mut scratch) = (vec![0.0; n], Buffer::default());
        let y0 = a.shape().needs.output.then(|| View::new(&self.y, self.n, self.c_out));
        let after = self.forward(a, cx);
        let y = y0.filter(|_| matches!(self.place, Place::State(_))).map(|_| View::new(&after, self.n, self.c_out));
        let seen = Seen { x: View::new(&self.x, self.n, self.c_in), y0, y };
        let at = self.at(cx);
        let (mut tx, mut tl) = (Tile::new(&mut dx, self.n, self.c_in), Tile::new(&mut dlse, self.n, self.heads.q));
        let dlse_wanted = a.shape().needs.lse && matches!(self.place, Place::Attention(_));
        let into = Into { dx: Some(&mut tx), dlse: dlse_wanted.then_some(&mut tl), acc: Some(&mut acc) };
        a.backward(&at, &seen, &mut dy, into, &mut scratch);
        a.reduce(cx, &**base.frozen.as_ref().unwrap(), &acc, &mut grads);
        [dy, dx, dlse, grads]
    }
}

/// Matrices of zeros.
struct Zeros(Vec<Shapes>);

impl Frozen for Zeros {
    fn heads(&self, layer: usize) -> Option<Heads> {
        self.0.get(layer).map(|shapes| shapes.heads)
    }

    fn matrix(&self, site: Site) -> Option<Matrix> {
        let [cols, rows] = self.0.get(site.layer)?[site.role]?;
        Some(Matrix::new(Format::by_name("F32")?, rows, cols, Bytes::from(vec![0; 4 * rows * cols])).unwrap())
    }

    fn rope(&self, _layer: usize) -> Option<&Rope> {
        None
    }
}

/// Pruned models have rows of zeros.
#[test]
fn rows_of_zeros_leave_numbers() {
    let mut base = base();
    base.frozen = Some(Arc::new(Zeros(base.shapes.clone())));
    let cx = compute(1);
    for spec in specs() {
        let mut a = adapter::create(&spec, &base).unwrap();
        for step in 0..2 {
            prepare(&mut *a, &base, 1);
            for slot in 0..a.shape().slots.len() {
                let mut met = Met::new(&*a, &base, slot, 3);
                if matches!(met.place, Place::Site(_)) {
                    met.y.fill(0.0);
                }
                let y = met.forward(&*a, &cx);
                let made = met.backward(&*a, &base, &cx, &values(met.y.len(), "dy"));
                let all = made.iter().flatten().chain(&y).all(|v| v.is_finite());
                assert!(all, "{} {} after {step} steps", spec.kind, met.place);
            }
            a.params_mut().iter_mut().for_each(|p| *p += 0.125);
        }
    }
}

/// Files can name any place; what nothing would call is refused.
#[test]
fn the_input_of_a_norm_is_no_place() {
    let base = base();
    let norm = Site { layer: 0, role: Role::AttnNorm };
    assert!(base.place(Place::Site(norm)).is_ok());
    let e = base.place(Place::Input(norm)).unwrap_err().to_string();
    assert!(e.contains("attn_norm"), "{e}");
    let e = adapter::create(&Spec { targets: vec![Role::AttnNorm], ..Spec::new("lora") }, &base).err().unwrap();
    assert!(e.to_string().contains("no linear layer"), "{e}");
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Kinds that put rows before the text: a fresh one changes it already.
#[rustfmt::skip]
const ROWS: &[&str] = &[
    "prefix",
    "prompt",
    "prefix-mlp",
    "p-tuning",
    "mam",
];

#[test]
fn fresh_ones_change_nothing_and_trained_ones_do() {
    let cx = compute(1);
    for spec in specs() {
        let (new, old) = (fresh(&spec), trained(&spec));
        assert!(old.changes_something());
        // Rows that are there at all change what follows, whatever they hold.
        assert_eq!(new.changes_something(), ROWS.contains(&&*spec.kind), "{}", spec.kind);
        assert!(!new.shape().slots.is_empty());
        for slot in 0..new.shape().slots.len() {
            let met = Met::new(&*new, &base(), slot, 5);
            let shown = format!("{} {}", spec.kind, met.place);
            // What runs beside the blocks is nothing to them: it changes them where it joins.
            if matches!(met.place, Place::State(_)) {
                continue;
            }
            let same = met.forward(&*new, &cx).iter().zip(&met.y).all(|(a, b)| a == b);
            // A kind with rows before the text may have other places too.
            let rows = new.changes_something() && !matches!(met.place, Place::Stream(..));
            assert_eq!(same, !rows, "{shown}");
            assert!(met.forward(&*old, &cx).iter().zip(&met.y).any(|(a, b)| a != b), "{shown}");
        }
    }
}

#[test]
fn shapes_are_what_they_say() {
    for spec in specs() {
        let (a, base) = (fresh(&spec), base());
        let shape = a.shape();
        let told = (adapter::Kind::by_name(&spec.kind).unwrap().shape)(&spec, &base).unwrap();
        assert_eq!((&told.slots, &told.parts, told.needs), (&shape.slots, &shape.parts, shape.needs), "{}", spec.kind);
        assert!(shape.slots.is_sorted_by_key(|s| s.place));
        // Parts lie end to end, and every slot has its own.
        let mut end = 0;
        for part in &shape.parts {
            assert_eq!((part.range.start, part.range.len() % part.cols), (end, 0));
            end = part.range.end;
        }
        assert_eq!(end, a.params().len());
        assert!(shape.size.params >= end);
        for slot in &shape.slots {
            assert!(slot.parts.end <= shape.parts.len());
            let widths = base.place(slot.place).unwrap();
            assert!(matches!(slot.place, Place::State(_) | Place::Join) || widths == slot.shape);
        }
        // What a fresh one holds is what its parts say they start with.
        for (i, part) in shape.parts.iter().enumerate() {
            let mut start = vec![7.0; part.range.len()];
            a.start(i, &mut start);
            assert_eq!(start, a.params()[part.range.clone()], "{} {}", spec.kind, part.name);
        }
    }
}

/// Kinds that hold what they derive from their parameters fixed within a step, and so for the gradient: PEFT's DoRA does so
/// with the lengths of rows.
pub const HELD: &[&str] = &["dora"];

/// Kinds with a small layer, whose function may bend: across a bend a difference is no derivative.
#[rustfmt::skip]
pub const BENT: &[&str] = &[
    "bottleneck",
    "parallel",
    "invertible",
    "mam",
    "vblora",
    "side",
];

/// Differences of two widths, by which the error of a curved function falls with the fourth power; and how far they are
/// apart.
fn difference(mut side: impl FnMut(f32) -> f64) -> (f32, f32) {
    let mut central = |step: f32| (side(step) - side(-step)) / f64::from(2.0 * step);
    let (wide, narrow) = (central(0.125), central(0.0625));
    (((4.0 * narrow - wide) / 3.0) as f32, (wide - narrow).abs() as f32)
}

#[test]
fn backward_agrees_with_differences() {
    let cx = compute(1);
    for spec in specs() {
        let (mut a, base) = (trained(&spec), base());
        let smooth = spec.values().unwrap().get("activation").is_some_and(|name| *name != "relu".into());
        if spec.kind == "gated-bottleneck" && spec.values().unwrap().word("gate") != "middle-y" {
            // Such a gate is too steep for differences this wide: `gradients.rs` has it in double precision.
            continue;
        }
        for slot in 0..a.shape().slots.len() {
            let met = Met { strength: 0.75, ..Met::new(&*a, &base, slot, 7) };
            let shown = format!("{} {}", spec.kind, met.place);
            let dy = values(met.y.len(), "dy");
            let [dy0, dx, dlse, grads] = met.backward(&*a, &base, &cx, &dy);
            let most = grads.iter().fold(0.0f32, |m, g| m.max(g.abs()));
            assert!(most > 0.0, "{shown} learns nothing");
            // Every parameter of the slot, some of the others, which it must not move.
            let own: Vec<std::ops::Range<usize>> =
                a.shape().slots[slot].parts.clone().map(|i| a.shape().parts[i].range.clone()).collect();
            let is_own = |i: usize| own.iter().any(|range| range.contains(&i));
            let step = 1 + own.iter().map(|r| r.len()).sum::<usize>() / 150;
            let (held, bent) = (HELD.contains(&&*spec.kind), BENT.contains(&&*spec.kind) && !smooth);
            let bent = bent && !matches!(met.place, Place::Attention(_));
            let (mut tried, mut passed_over) = (0, 0);
            // Whether a difference is a derivative: it is none across a bend.
            let mut counts = |apart: f32| {
                let over = bent && apart > 1e-6 * most;
                (tried, passed_over) = (tried + 1, passed_over + usize::from(over));
                !over
            };
            for i in (0..grads.len()).filter(|i| if is_own(*i) { i % step == 0 } else { i % 97 == 0 }) {
                let at = a.params()[i];
                let mut side = |by: f32| {
                    a.params_mut()[i] = at + by;
                    if !held {
                        prepare(&mut *a, &base, 1);
                    }
                    dot(&met.forward(&*a, &cx), &dy)
                };
                let (want, apart) = difference(&mut side);
                side(0.0);
                assert!(
                    !counts(apart) || (want - grads[i]).abs() < 2e-5 * most + 1e-5,
                    "{shown} {i}: {want} {}",
                    grads[i]
                );
            }
            type Moves = fn(&mut Met, usize, f32);
            let inputs: [(&str, &[f32], f32, Moves); 3] = [
                ("x", &dx, 1.0, |met, i, by| met.x[i] += by),
                ("y", &dy0, 0.0, |met, i, by| met.y[i] += by),
                ("lse", &dlse, 1.0, |met, i, by| met.lse[i] += by),
            ];
            for (name, got, before, moves) in inputs {
                for i in (0..got.len()).step_by(11) {
                    let (want, apart) = difference(|by| {
                        let mut met = met.clone();
                        moves(&mut met, i, by);
                        dot(&met.forward(&*a, &cx), &dy)
                    });
                    assert!(
                        !counts(apart) || (want - (got[i] - before)).abs() < 1e-4,
                        "{shown} d{name} {i}: {want} {}",
                        got[i]
                    );
                }
            }
            assert!(2 * passed_over < tried, "{shown}: {passed_over} of {tried} passed over");
        }
    }
}

/// Kinds whose change is the strength times that with strength 1, as their pages say.
#[rustfmt::skip]
const LINEAR: &[&str] = &[
    "lora",
    "nola",
    "uni",
    "ia3",
    "bottleneck",
    "parallel",
    "gated-bottleneck",
    "llama-adapter",
    "unlock",
    "vera",
    "lora-xs",
    "tinylora",
    "mos",
    "randlora",
    "vblora",
    "lora-shared",
    "sparse",
    "loha",
    "lokr",
    "oft",
    "fourierft",
    "lora-fa",
    "adalora",
    "increlora",
];

/// The others, and what their pages say.
const CURVED: &[(&str, &str)] = &[
    ("dora", "lengths of rows follow the strength by a root"),
    ("prefix", "the strength is a factor within a softmax"),
    ("prompt", "rows are multiplied, and the text attends to them"),
    ("prefix-mlp", "that of the prefix"),
    ("p-tuning", "that of the prompt"),
    ("mam", "that of the prefix"),
    ("invertible", "the second coupling sees the change of the first"),
    ("side", "the strength is a factor where the path joins, and none on its way"),
];

#[test]
fn strength_acts_as_the_pages_say() {
    let cx = compute(1);
    for spec in specs() {
        let a = trained(&spec);
        for slot in 0..a.shape().slots.len() {
            let met = Met::new(&*a, &base(), slot, 3);
            let by = |strength| -> Vec<f32> {
                let y = Met { strength, ..met.clone() }.forward(&*a, &cx);
                y.iter().zip(&met.y).map(|(y, y0)| y - y0).collect()
            };
            if CURVED.iter().any(|(kind, _)| *kind == spec.kind) {
                continue;
            }
            assert!(LINEAR.contains(&&*spec.kind), "say here what lies between for {}", spec.kind);
            let (one, half, minus) = (by(1.0), by(0.5), by(-1.0));
            assert!(one.iter().zip(&half).all(|(one, half)| (one * 0.5 - half).abs() < 1e-5), "{}", spec.kind);
            assert!(one.iter().zip(&minus).all(|(one, minus)| (one + minus).abs() < 1e-5), "{}", spec.kind);
        }
    }
}

#[test]
fn strength_0_is_the_base_to_the_bit() {
    let model = tiny::model("llama", 3, true, 2);
    let base = model.base([0; 32]);
    let tokens: Vec<u32> = (0..12).map(|t| t * 7 % tiny::VOCAB as u32).collect();
    for kind in KINDS {
        let mut a = adapter::create(&Spec::new(kind.name), &base).unwrap();
        let mut random = Random::new(5, kind.name, "trained");
        a.params_mut().iter_mut().for_each(|p| *p += random.next_f32() - 0.5);
        let ready = model.ready(a).unwrap();
        for precision in [mynah::nn::linear::Precision::F32, mynah::nn::linear::Precision::Int8] {
            let mut session =
                Session::new(&model, SessionConfig { context: 32, precision, chunk: 5, ..Default::default() }).unwrap();
            let plain = session.feed(&tokens).unwrap().to_vec();
            session.attach(ready.clone(), 0.0).unwrap();
            assert!(session.feed(&tokens).unwrap() == plain, "{} with strength 0", kind.name);
            session.attach(ready.clone(), 1.0).unwrap();
            assert!(session.feed(&tokens).unwrap() != plain, "{} changes nothing", kind.name);
            for strength in [f32::NAN, f32::INFINITY] {
                assert!(session.attach(ready.clone(), strength).is_err());
            }
        }
    }
}

#[test]
fn threads_and_tiles_change_no_bit() {
    let heads = Heads { q: 8, kv: 8, dim: 96, scale: 0.1, cap: None };
    let all: Vec<(Role, [usize; 2])> = Role::LINEAR.iter().map(|role| (*role, [512, 768])).collect();
    let wide = base_of(512, heads, &all);
    for mut spec in specs() {
        if spec.targets.contains(&Role::Up) {
            spec.targets = vec![Role::Up];
        }
        let mut a = adapter::create(&spec, &wide).unwrap();
        let mut random = Random::new(5, "x", "y");
        a.params_mut().iter_mut().for_each(|p| *p = random.next_f32() - 0.5);
        let slot = a.shape().slots.iter().position(|s| s.place.layer() == Some(1)).unwrap_or_default();
        let met = Met::new(&*a, &wide, slot, 200);
        let dy = values(met.y.len(), "dy");
        let mut run = |threads| {
            let cx = compute(threads);
            prepare(&mut *a, &wide, threads);
            let y = met.forward(&*a, &cx);
            if met.place == Place::Rows {
                return (y, met.backward(&*a, &wide, &cx, &dy));
            }
            // A row by itself is the same row.
            let row = |of: &[f32], c: usize| of[150 * c..151 * c].to_vec();
            let (x, y0, lse) = (row(&met.x, met.c_in), row(&met.y, met.c_out), row(&met.lse, met.heads.q));
            let single = Met { n: 1, x, y: y0, lse, ..met.clone() }.forward(&*a, &cx);
            assert_eq!(single, row(&y, met.c_out));
            (y, met.backward(&*a, &wide, &cx, &dy))
        };
        assert!(run(1) == run(3), "{}", spec.kind);
    }
}

#[test]
fn saved_and_loaded_is_equal_and_saved_again_the_same_bytes() {
    let limits = Limits::default();
    let provenance = Provenance {
        objective: "sft".into(),
        data: "d1".into(),
        steps: 12,
        first_loss: Some(2.5),
        last_loss: Some(1.25),
        rope: "long".into(),
        base: "a model".into(),
        format: "F32".into(),
    };
    for spec in specs() {
        let a = trained(&spec);
        for codec in ["f16", "f32"] {
            let bytes = adapter::to_bytes_as(&*a, &base(), &provenance, codec).unwrap();
            let b = adapter::from_bytes(bytes.clone().into(), &base(), &limits).unwrap();
            assert_eq!((b.kind().name, b.params()), (a.kind().name, a.params()));
            assert_eq!((&b.shape().slots, &b.shape().parts), (&a.shape().slots, &a.shape().parts));
            assert_eq!(adapter::to_bytes_as(&*b, &base(), &provenance, codec).unwrap(), bytes);
            let info = adapter::info(bytes.into(), &limits).unwrap();
            assert_eq!((info.kind(), info.provenance.as_ref()), (a.kind().name, Some(&provenance)));
        }
        let idle = adapter::to_bytes(&*fresh(&spec), &base(), &provenance).unwrap();
        if !ROWS.contains(&&*spec.kind) {
            let refused = adapter::from_bytes(idle.clone().into(), &base(), &limits).err().unwrap().to_string();
            assert!(refused.contains("changes nothing"), "{refused}");
        }
        assert!(adapter::restore(idle.into(), &base(), &limits, Fit::Same).is_ok());
    }
}

/// Blocks that share coefficients have one set a layer, and factors that differ, since their bases do.
#[test]
fn shared_coefficients_are_those_of_each_block() {
    let spec = |share: u64| {
        let spec = Spec { targets: parse_targets("attn,up,down").unwrap(), seed: 9, ..Spec::new("nola") };
        bases(spec.with("rank", 3).with("share", share), [5, 4])
    };
    let [mut alone, mut shared] = [1, 2].map(|share| nola::Nola::create(&spec(share), &base()).unwrap());
    let n = shared.params().len();
    assert_eq!(alone.params().len(), 2 * n);
    let coefficients = values(n, "coefficients");
    shared.params_mut().copy_from_slice(&coefficients);
    // The same, said for each block.
    let sites: Vec<Site> = alone.layout().slots().iter().map(|s| s.site).collect();
    let roles: Vec<Role> = sites.iter().filter(|s| s.layer == 0).map(|s| s.role).collect();
    for (i, site) in sites.iter().enumerate() {
        if let Some(set) = roles.iter().position(|role| *role == site.role) {
            alone.params_mut()[9 * i..9 * i + 9].copy_from_slice(&coefficients[9 * set..9 * set + 9]);
        }
    }
    prepare(&mut alone, &base(), 2);
    prepare(&mut shared, &base(), 3);
    assert!(alone.factors() == shared.factors());
    let [q0, q1] = [0, 1].map(|layer| shared.layout().slot(Site { layer, role: Role::Q }).unwrap().b());
    assert!(shared.factors()[q0] != shared.factors()[q1]);
}

#[test]
fn another_base_is_refused_by_name() {
    let limits = Limits::default();
    let other = |change: fn(&mut Base)| {
        let mut b = base();
        change(&mut b);
        b
    };
    for spec in specs() {
        let a = trained(&spec);
        let bytes = adapter::to_bytes(&*a, &base(), &Provenance::default()).unwrap();
        // Shapes matter where it stands.
        let on = |layer, role| a.shape().slot(Place::Site(Site { layer, role })).is_some();
        let above = a.shape().slots.iter().any(|s| s.place.layer() == Some(1));
        let stands = |word: &str| match word {
            "made for another model: blk.1.attn_q.weight" => on(1, Role::Q),
            "blk.0.attn_k.weight" => on(0, Role::K),
            "layers" => above,
            _ => true,
        };
        for (foreign, word) in [
            (other(|b| b.content[3] ^= 1), "weights"),
            (other(|b| b.tokenizer[3] ^= 1), "tokenizer"),
            (other(|b| b.architecture = "qwen2".into()), "architecture"),
            (other(|b| b.shapes[1][Role::Q] = Some([24, 28])), "made for another model: blk.1.attn_q.weight"),
            (other(|b| b.shapes.truncate(1)), "layers"),
            (other(|b| b.shapes[0][Role::K] = None), "blk.0.attn_k.weight"),
        ]
        .into_iter()
        .filter(|(_, word)| stands(word))
        {
            let e = adapter::from_bytes(bytes.clone().into(), &foreign, &limits).err().unwrap();
            assert!(matches!(e, mynah::Error::Mismatch { .. }) && e.to_string().contains(word), "{e}");
        }
        let requantised = other(|b| b.content[3] ^= 1);
        assert!(adapter::from_bytes_for_shapes(bytes.into(), &requantised, &limits).is_ok());
    }
}

#[test]
fn damaged_files_are_errors() {
    let limits = Limits::default();
    for spec in specs() {
        let good = adapter::to_bytes(&*trained(&spec), &base(), &Provenance::default()).unwrap();
        for n in (0..good.len()).step_by(1 + good.len() / 400) {
            assert!(adapter::from_bytes(good[..n].to_vec().into(), &base(), &limits).is_err(), "cut to {n}");
        }
        for at in (0..good.len()).step_by(1 + good.len() / 2000) {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            assert!(adapter::from_bytes(bad.into(), &base(), &limits).is_err(), "byte {at}");
        }
        assert!(adapter::from_bytes([good.clone(), good].concat().into(), &base(), &limits).is_err());
    }
}

/// Files whose checksums are right and whose facts are not.
#[test]
fn lying_heads_are_errors() {
    use mynah::container::{Builder, Container, head::Head};
    let limits = Limits::default();
    for spec in specs() {
        let good = adapter::to_bytes_as(&*trained(&spec), &base(), &Provenance::default(), "f16").unwrap();
        let file = Container::read(good.into(), &limits).unwrap();
        let lie = |change: &dyn Fn(&mut Head), params: &[u8]| {
            let mut head = file.facts("head", &limits).unwrap();
            change(&mut head);
            let mut bytes =
                Builder::new("adapter").section("head", true, head.encode()).section("params", true, params);
            for (name, required, _) in file.sections().filter(|(name, ..)| !["head", "params"].contains(name)) {
                bytes = bytes.section(name, required, file.section(name).unwrap().to_vec());
            }
            adapter::from_bytes(bytes.finish().into(), &base(), &limits)
        };
        let params = file.require("params").unwrap().to_vec();
        assert!(lie(&|_| {}, &params).is_ok());
        let list = |t: &str| vec![t.to_string()];
        type Change = Box<dyn Fn(&mut Head)>;
        let ranks: Vec<Change> = vec![
            Box::new(|h| _ = h.set("rank", 0u64)),
            Box::new(|h| _ = h.set("rank", u64::MAX)),
            Box::new(|h| _ = h.set("rank", 13u64)),
        ];
        let low_rank: Vec<Change> = vec![
            Box::new(|h| _ = h.set("alpha", 0.0)),
            Box::new(|h| _ = h.set("alpha", 1e300)),
            Box::new(|h| _ = h.set("scaling", "log")),
        ];
        let changes: Vec<Change> = vec![
            Box::new(|h| _ = h.set("kind", "no such kind")),
            Box::new(|h| _ = h.set("codec", "zip")),
            Box::new(|h| _ = h.set("codec", "f32")),
            Box::new(|h| _ = h.set("targets", Vec::new())),
            Box::new(move |h| _ = h.set("targets", list("attn_q 24 24 0-4294967295"))),
            Box::new(move |h| _ = h.set("targets", list("attn_q 24 24 0-1,0-1"))),
            Box::new(move |h| _ = h.set("targets", list("attn_q 24 24 0-1 x"))),
            Box::new(move |h| _ = h.set("targets", list("attn_z 24 24 0-1"))),
            Box::new(move |h| _ = h.set("targets", list("attn_q 24"))),
            Box::new(move |h| _ = h.set("targets", list("ffn_gate 24 37 0-1"))),
        ];
        let told = file.facts("head", &limits).unwrap();
        let low_rank = low_rank.into_iter().filter(|_| told.get("scaling").is_some());
        // Where sites differ, a section has the ranks.
        let ranks = ranks.into_iter().filter(|_| told.get("scaling").is_some() && told.get("rank").is_some());
        for (i, change) in changes.into_iter().chain(low_rank).chain(ranks).enumerate() {
            assert!(lie(&*change, &params).is_err(), "{} lie {i}", spec.kind);
        }
        if spec.kind == "lora" && told.get("rank").is_some() {
            assert!(lie(&|h| _ = h.set("rank", 2u64), &params).is_err());
        }
        if spec.kind == "uni" {
            for n in [0, 11_263, 11_265, (1 << 24) + 1, u64::MAX] {
                assert!(lie(&|h| _ = h.set("vector", n), &params).is_err());
            }
        }
        if ["nola", "uni"].contains(&&*spec.kind) {
            let e = lie(&|h| _ = h.set("generator", "blake3-chacha8/2"), &params).err().unwrap();
            assert!(matches!(e, mynah::Error::Unsupported { .. }), "{e}");
            let e = lie(&|h| _ = h.set("seed", 10u64), &params).err().unwrap();
            assert!(e.to_string().contains("canary"), "{e}");
        }
        if spec.kind == "nola" {
            // Another number of sets of coefficients than there are.
            for n in [0, if told.get("share").is_some() { 1 } else { 3 }] {
                assert!(lie(&|h| _ = h.set("share", n), &params).is_err());
            }
            for n in [0, 4097, u64::MAX] {
                assert!(lie(&|h| _ = h.set("bases.a", n), &params).is_err());
            }
            assert!(lie(&|h| _ = h.set("basis", "gauss"), &params).is_err());
        }
        let mut nan = params.clone();
        nan[..2].copy_from_slice(&0x7e00u16.to_le_bytes());
        assert!(lie(&|_| {}, &nan).is_err());
        assert!(lie(&|_| {}, &[]).is_err());
    }
}

#[test]
fn settings_that_cannot_be_used_are_named() {
    type Change = fn(&mut Spec);
    let cases: [(&str, Change); 8] = [
        ("rank", |s| _ = s.values.set("rank", 0)),
        ("rank", |s| _ = s.values.set("rank", 13)),
        ("alpha", |s| _ = s.values.set("alpha", f32::NAN)),
        ("layers", |s| s.layers = Some(vec![1, 2])),
        ("layers", |s| s.layers = Some(vec![])),
        ("targets", |s| s.targets.clear()),
        ("blk.1.ffn_gate.weight", |s| (s.targets, s.layers) = (vec![Role::Gate], Some(vec![1]))),
        ("adapter kind: no such kind", |s| s.kind = "no such kind".into()),
    ];
    for (word, change) in cases {
        let mut spec = specs().remove(0);
        change(&mut spec);
        let e = adapter::create(&spec, &base()).err().unwrap().to_string();
        assert!(e.contains(word), "{e}");
    }
}

/// Bounds of every setting of every kind, from the table.
#[test]
fn settings_out_of_bounds_are_named() {
    for kind in KINDS {
        let why = |spec: Spec| adapter::create(&spec, &base()).err().unwrap().to_string();
        let spec = Spec { targets: parse_targets("q,up").unwrap(), ..Spec::new(kind.name) };
        for usual in kind.knobs {
            let name = usual.knob.name;
            let bad: Vec<mynah::knob::Value> = match usual.knob.domain {
                Domain::Real { low, high } => {
                    vec![f64::NAN.into(), (low - 1.0).into(), (high * 2.0).into(), true.into()]
                }
                Domain::Whole { high, .. } => vec![(high + 1).into(), 1.5.into(), "many".into()],
                Domain::Switch => vec![1.into(), "on".into()],
                Domain::Word(_) => vec!["no such name".into(), 1.into()],
            };
            for value in bad {
                let e = why(spec.clone().with(name, value.clone()));
                assert!(e.starts_with(name) && e.contains("can be used"), "{} {name} {value}: {e}", kind.name);
            }
        }
        let e = why(spec.with("no such setting", 1));
        assert!(e.starts_with("no such setting") && e.contains(kind.name), "{e}");
    }
}
