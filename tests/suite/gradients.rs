//! Every backward pass and every kind of adapter against differences of a double-precision forward, for every architecture
//! and for rows of the test's own that together switch on every feature that a row can have.

use crate::doubles::double;
use crate::tiny::{self, FF, Rng, Sketch, VOCAB, WIDTH, bases};
use crate::twin::{Twin, slope};
use mynah::adapter::{self, Adapter, Base, Kind, Spec};
use mynah::bytes::{Bytes, Limits};
use mynah::error::Error;
use mynah::gguf::Gguf;
use mynah::kernel::{Compute, Pool};
use mynah::knob::Value;
use mynah::model::arch::{BIASES, DENSE, PLAIN, UNGATED};
use mynah::model::hparams::RopeParams;
use mynah::model::{ARCHES, Arch, Model, Session, SessionConfig};
use mynah::nn::attention::Sees;
use mynah::nn::head::Finish;
use mynah::nn::norm;
use mynah::nn::rope::{Pairing, Scaling, Yarn};
use mynah::role::Role;
use mynah::train::{Config, Example, Recompute, Schedule, Trainer};

/// Norms of heads and behind sub-layers, windows, two rotary embeddings of a part of a head, scales and bounds
/// everywhere; one layer has none.
static BOUNDED: Arch = Arch {
    name: "test-bounded",
    act: "gelu_tanh",
    may: &[Role::QNorm, Role::KNorm, Role::PostAttnNorm, Role::PostFfnNorm],
    model: |_, h| {
        h.embed_scale = (h.width as f32).sqrt();
        h.finish = Finish { scale: 0.6, cap: Some(4.0) };
        h.ropes[0].dims = 8;
        let yarn = Yarn { original: 20.0, fast: 2.0, slow: 0.3, share: 0.8 };
        let scaling = Scaling { scale: 0.5, yarn: Some(yarn), magnitude: 1.2 };
        h.ropes.push(RopeParams { dims: 6, base: 50.0, scaling, factors: false });
        Ok(())
    },
    layer: |_, i, layer| {
        layer.heads.cap = (i != 1).then_some(2.5);
        layer.heads.scale = 0.4;
        layer.residual = 0.7;
        (layer.sees, layer.rope) =
            [(Sees::Window(3), Some(1)), (Sees::Causal, Some(0)), (Sees::Window(5), None)][i % 3];
        Ok(())
    },
    ..PLAIN
};

/// Norms by mean and variance, biases everywhere, no gate, and queries that see what follows.
static PLAINER: Arch = Arch {
    name: "test-plainer",
    pairing: Pairing::Neighbours,
    norm: norm::Kind::Layer,
    act: "gelu_tanh_plain",
    needs: UNGATED,
    layer: |_, i, layer| {
        layer.sees = [Sees::Around(4), Sees::All, Sees::Causal][i % 3];
        Ok(())
    },
    ..PLAIN
};

/// Tensors that hold several; other names in its files; layers that differ in width and heads.
static FUSED: Arch = FUSED_ROW;
const FUSED_ROW: Arch = Arch {
    name: "test-fused",
    bind: &[("norm_in", Role::AttnNorm), ("wqkv", Role::Qkv), ("wqkv", Role::QkvBias)],
    needs: DENSE,
    may: BIASES,
    layer: |_, i, layer| {
        layer.ff += 16 * i;
        layer.heads.kv = [2, 4, 1][i % 3];
        Ok(())
    },
    ..PLAIN
};

/// The same, but for a bias that its files then have of the queries alone.
static STRAY: Arch =
    Arch { bind: &[("norm_in", Role::AttnNorm), ("wqkv", Role::Qkv), ("wqkv", Role::QBias)], ..FUSED_ROW };

/// Every row of the table, with what it needs and with all that it allows, and the test's own.
pub fn sketches() -> Vec<Sketch> {
    let mut all: Vec<Sketch> = Vec::new();
    for arch in ARCHES {
        all.extend([Sketch::new(arch, 11, true), Sketch::new(arch, 11, false).full()]);
    }
    let own = |arch, tied| Sketch { layers: 3, ..Sketch::new(arch, 11, tied).full() };
    let heads = vec![("attention.key_length", 12u32.into())];
    let fused = vec![Role::Qkv, Role::GateUp];
    let scaled = vec![("rope.scaling.type", "linear".into()), ("rope.scaling.factor", 4.0f32.into())];
    all.push(Sketch { keys: heads, ..own(&BOUNDED, true) });
    all.push(own(&PLAINER, false));
    let mixture = ARCHES.iter().find(|arch| arch.name == "qwen3moe").unwrap();
    all.push(Sketch { fused: vec![Role::ExpertGateUp], ..Sketch::new(mixture, 11, true) });
    all.push(Sketch { fused, factors: true, keys: scaled, ..own(&FUSED, true) });
    all
}

pub fn examples() -> Vec<Example> {
    let mut rng = Rng(5);
    [9, 14, 5]
        .map(|len| {
            let tokens: Vec<u32> = (0..len).map(|_| rng.below(VOCAB) as u32).collect();
            // The second's first half and its last token do not count.
            let mask = (0..len).map(|t| len != 14 || (t >= 7 && t != 13)).collect();
            Example::new(tokens, mask)
        })
        .into()
}

pub fn config(recompute: Recompute) -> Config {
    Config { lr: 1e-3, steps: 1, schedule: Schedule::Constant, clip: 0.0, recompute, ..Config::default() }
}

/// Together they have every tensor, every activation function and every way to see that there is.
#[test]
fn every_feature_is_on_somewhere() {
    let models: Vec<Model> = sketches().iter().map(|s| s.model(1)).collect();
    let layers = || models.iter().flat_map(|m| &m.hparams.blocks);
    for role in Role::all() {
        assert!(layers().any(|l| l.has.has(role)), "no model has {}", role.row().short);
    }
    for act in mynah::nn::ffn::ACTS {
        assert!(layers().any(|l| l.act.name == act.name), "no model has {}", act.name);
    }
    let sees: [fn(&Sees) -> bool; 4] = [
        |s| matches!(s, Sees::Causal),
        |s| matches!(s, Sees::Window(_)),
        |s| matches!(s, Sees::Around(_)),
        |s| matches!(s, Sees::All),
    ];
    assert!(sees.iter().all(|is| layers().any(|l| is(&l.sees))));
    assert!(layers().any(|l| l.rope.is_none()) && layers().any(|l| l.rope == Some(1)));
    assert!(models.iter().any(|m| m.weights.rope_factors.any.is_some() && m.weights.output.is_none()));
}

#[test]
fn a_bias_that_nothing_would_add_is_refused() {
    let sketch = sketches().pop().unwrap();
    let gguf = Gguf::parse(Bytes::from(sketch.file()), &Limits::default()).unwrap();
    let compute = || Compute { kernels: mynah::kernel::best(), pool: Pool::new(1) };
    assert!(Model::load_as(&gguf, &FUSED, compute()).is_ok());
    let e = Model::load_as(&gguf, &STRAY, compute()).err().unwrap().to_string();
    assert!(e.contains("blk.0.wqkv.bias") && e.contains("without the tensor"), "{e}");
}

/// Where positions have embeddings, rows before the text take some of them.
#[test]
fn rows_beyond_the_last_position_are_refused() {
    let sketch = Sketch::new(Arch::by_name("gpt2").unwrap(), 11, true);
    let (model, n) = (sketch.model(1), sketch.context);
    let base = model.base([0; 32]);
    let prompt = || adapter::create(&Spec::new("prompt").with("length", 3), &base).unwrap();
    let mut trainer = Trainer::adapter(&model, prompt(), config(Recompute::None)).unwrap();
    let row = |len: usize| Example::new(vec![1; len], vec![true; len]);
    assert!(trainer.step(&[&[row(n - 2)]]).is_ok());
    let e = trainer.step(&[&[row(n - 1)]]).unwrap_err().to_string();
    assert!(e.contains("positions of example 0, 3 of them"), "{e}");
    let mut session = Session::new(&model, SessionConfig { context: n, ..Default::default() }).unwrap();
    let e = session.attach(model.ready(prompt()).unwrap(), 1.0).unwrap_err().to_string();
    assert!(e.contains("positions"), "{e}");
    session.feed(&vec![1; n]).unwrap();
    let mut session = Session::new(&model, SessionConfig { context: n - 3, ..Default::default() }).unwrap();
    session.attach(model.ready(prompt()).unwrap(), 1.0).unwrap();
    session.feed(&vec![1; n - 3]).unwrap();
}

#[test]
fn every_weight_of_the_model() {
    let examples = examples();
    for (i, sketch) in sketches().iter().enumerate() {
        let (name, recompute) = (sketch.arch.name, [Recompute::None, Recompute::All][i % 2]);
        let model = sketch.model(2);
        if model.hparams.blocks.iter().any(|l| l.mixture.is_some()) {
            let why = Trainer::full(&model, config(recompute)).err().unwrap().to_string();
            assert!(why.contains("experts are frozen"), "{why}");
            continue;
        }
        let twin = Twin::new(&model);
        let w = twin.weights();
        let mut trainer = Trainer::full(&model, config(recompute)).unwrap();
        let report = trainer.step(&[&examples[..1], &examples[1..]]).unwrap();
        let want = twin.base_loss(&w, &examples);
        assert!((report.loss - want).abs() < 1e-5, "{name}: loss {} for {want}", report.loss);
        let mut rng = Rng(3);
        for (tensor, at) in twin.offsets.names(&model.hparams) {
            let largest = trainer.grads()[at.clone()].iter().fold(0.0f32, |m, g| m.max(g.abs()));
            assert!(largest > 0.0, "{name}: {tensor} has no gradient");
            for _ in 0..if sketch.layers > 2 { 5 } else { 12 } {
                let i = at.start + rng.below(at.len());
                let moved = |by: f64| {
                    let mut w = w.clone();
                    w[i] += by;
                    twin.base_loss(&w, &examples)
                };
                let (want, got) = (slope(moved, 1e-4), f64::from(trainer.grads()[i]));
                let bound = 1e-4 * f64::from(largest) + 1e-7;
                assert!((want - got).abs() <= bound, "{name}: {} of {tensor}: {got} for {want}", i - at.start);
            }
        }
    }
}

/// One of a kind, away from the start, where half of the gradients are zero.
fn moved(spec: &Spec, base: &Base, rng: &mut Rng) -> Box<dyn Adapter> {
    let mut a = adapter::create(spec, base).unwrap();
    a.params_mut().iter_mut().for_each(|v| *v += rng.unit() * 0.3);
    a
}

/// A spec of that kind in every block, for the usual targets that the base has. A part of a fused product has no input of
/// its own: where a kind needs that, the whole product stands for it. None if the base has no target of the kind.
pub fn spec_of(kind: &Kind, base: &Base) -> Option<Spec> {
    let spec = Spec { seed: 9, layers: Some((0..base.layers()).collect()), ..Spec::new(kind.name) };
    let only = |role: Role| adapter::create(&Spec { targets: vec![role], ..bases(spec.clone(), [5, 4]) }, base);
    let usable = |role: &Role| match (only(*role), role.fused()) {
        (Err(Error::Mismatch { .. }), Some((whole, _))) => whole,
        _ => *role,
    };
    let there = |role: &&Role| base.shapes.iter().any(|shapes| shapes[**role].is_some());
    let targets: Vec<Role> = kind.targets.iter().filter(there).map(usable).collect();
    if targets.is_empty() && !kind.targets.is_empty() {
        assert!(adapter::create(&spec, base).is_err(), "{} stands nowhere on {base:?}", kind.name);
        return None;
    }
    let spec = bases(Spec { targets, ..spec }, [5, 4]);
    // A penalty is no part of what the twin computes.
    let has = |name: &str| kind.knobs.iter().any(|u| u.knob.name == name);
    Some(if has("orthogonality") { spec.with("orthogonality", 0) } else { spec })
}

/// What a kind that has such a setting is also tested with, each alone.
fn settings() -> [(&'static str, Value); 6] {
    [
        ("rank stabilised", true.into()),
        ("offset", 3.into()),
        ("share", 2.into()),
        ("activation", "silu".into()),
        ("gate", "large".into()),
        ("gate", "small".into()),
    ]
}

/// Kinds that together stand at every place.
const EVERYWHERE: [&str; 8] = ["lora", "dora", "ia3", "parallel", "invertible", "prefix", "prompt", "unlock"];

#[test]
fn every_kind_of_adapter() {
    let examples = examples();
    for (s, sketch) in sketches().into_iter().enumerate() {
        let model = sketch.model(2);
        let base = model.base([0; 32]);
        for (k, kind) in adapter::KINDS.iter().enumerate() {
            // Some stand at all places there are; each of the others is on every third of the models.
            if !EVERYWHERE.contains(&kind.name) && (s + k) % 3 != 0 {
                continue;
            }
            let has = |name: &str| kind.knobs.iter().any(|u| u.knob.name == name);
            let small = [
                ("rank", 3.into()),
                ("alpha", 5.into()),
                ("length", 3.into()),
                ("size", 5.into()),
                ("hidden", 5.into()),
            ];
            let small: Vec<(&str, Value)> = small.into_iter().filter(|(name, _)| has(name)).collect();
            let Some(spec) = spec_of(kind, &base) else { continue };
            let usual = small.into_iter().fold(spec, |spec, (name, value)| spec.with(name, value));
            let others = settings().into_iter().filter(|(name, _)| has(name));
            let others = others.map(|(name, value)| usual.clone().with(name, value));
            for spec in [usual.clone()].into_iter().chain(others) {
                let mut rng = Rng(7);
                let a = moved(&spec, &base, &mut rng);
                let params: Vec<f64> = a.params().iter().map(|v| f64::from(*v)).collect();
                let (needs, does) = (a.shape().needs, double(kind.name)(&spec, &base, &model));
                let twin = Twin { lead: needs.rows, state: needs.state, ..Twin::new(&model) };
                let w = twin.weights();
                let what = format!("{} on {}", kind.name, sketch.arch.name);
                let mut checked: Vec<usize> = (0..40).map(|_| rng.below(params.len())).collect();
                // Of small parts too.
                let first = &a.shape().slots[0];
                for part in &a.shape().parts[first.parts.clone()] {
                    checked.push(part.range.start + rng.below(part.range.len()));
                }
                let loss = |i: usize, by: f64| {
                    let mut params = params.clone();
                    params[i] += by;
                    twin.loss(&w, &examples, &*does(&params))
                };
                // A step so small that no rectifier turns on or off within it.
                let (want, slopes): (f64, Vec<f64>) =
                    (loss(0, 0.0), checked.iter().map(|i| slope(|by| loss(*i, by), 1e-6)).collect());
                for recompute in [Recompute::None, Recompute::All] {
                    let mut trainer =
                        Trainer::adapter(&model, moved(&spec, &base, &mut Rng(7)), config(recompute)).unwrap();
                    let report = trainer.step(&[&examples]).unwrap();
                    assert!((report.loss - want).abs() < 1e-5, "{what}: loss {} for {want}", report.loss);
                    let largest = trainer.grads().iter().fold(0.0f32, |m, g| m.max(g.abs()));
                    for (i, want) in checked.iter().zip(&slopes) {
                        let got = f64::from(trainer.grads()[*i]);
                        let bound = 1e-4 * f64::from(largest) + 1e-7;
                        assert!((want - got).abs() <= bound, "{what}, parameter {i}: {got} for {want}");
                    }
                }
            }
        }
    }
}

#[test]
fn threads_and_kept_activations_change_no_bit() {
    let examples = examples();
    assert_eq!((FF % 16, WIDTH % 16), (0, 0));
    let run = |arch: &str, threads: usize, recompute: Recompute, full: bool| -> Vec<u32> {
        let model = tiny::model(arch, 13, true, threads);
        let config = Config { steps: 3, ..config(recompute) };
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
    let cases =
        [("llama", false), ("llama", true), ("lfm2", false), ("lfm2", true), ("qwen35", true), ("qwen2moe", false)];
    for (arch, full) in cases {
        let want = run(arch, 1, Recompute::None, full);
        for (threads, recompute) in
            [(1, Recompute::All), (2, Recompute::None), (3, Recompute::AllBut(1)), (4, Recompute::Auto)]
        {
            assert!(run(arch, threads, recompute, full) == want, "{arch}, {threads} threads, {recompute:?}");
        }
    }
}
