//! Memory: what a plan says against what is reserved, what is chosen under a bound, and what is never kept.

use crate::alloc;
use crate::shared::{needs_shared, shared};
use crate::tiny::{self, Rng, bases};
use mynah::adapter::{self, Provenance, Spec, Stack, compress, file};
use mynah::bytes::{Bytes, Limits, map};
use mynah::container::head::Head;
use mynah::gguf::Gguf;
use mynah::kernel::{Buffer, Compute, Pool, Tile, View};
use mynah::model::{ActType, Model};
use mynah::nn::attention::{self, Heads, Sees};
use mynah::nn::linear::Precision;
use mynah::train::data::Order;
use mynah::train::plan::{Change, Refusal, Rows, Run, Subject};
use mynah::train::{Config, Example, Recompute, Trainer, objective, optim};

/// Nothing beneath.
static NONE: Stack = Stack::new();

/// The embedded model, its pool fresh.
fn model(threads: usize) -> Model {
    loaded(Bytes::from_static(mynah::base::MODEL), threads)
}

fn loaded(bytes: Bytes, threads: usize) -> Model {
    let gguf = Gguf::parse(bytes, &Limits::default()).unwrap();
    Model::load(&gguf, Compute { kernels: mynah::kernel::best(), pool: Pool::new(threads) }).unwrap()
}

/// `count` examples of `len` tokens, of which the last `targets` are targets.
fn examples(model: &Model, count: usize, len: usize, targets: usize) -> Vec<Example> {
    let mut rng = Rng(1);
    let vocab = model.weights.vocab();
    let tokens = |_| {
        let tokens = (0..len).map(|_| rng.below(vocab) as u32).collect();
        Example::new(tokens, (0..len).map(|t| t >= len - targets).collect())
    };
    (0..count).map(tokens).collect()
}

#[derive(Clone)]
struct Case {
    /// A miniature of the shared models; empty for the embedded model.
    arch: &'static str,
    kind: &'static str,
    threads: usize,
    batch: usize,
    accumulate: usize,
    ctx: usize,
    targets: usize,
    precision: Precision,
    recompute: Recompute,
    act_type: ActType,
    slice: usize,
    layers: Option<Vec<usize>>,
    optimizer: &'static str,
    checkpoints: bool,
    objective: &'static str,
    /// The codec of training; empty for none.
    codec: &'static str,
    /// How a sparse change exchanges its values after each step; empty for never.
    reselect: &'static str,
}

const SIMPLE: Case = Case {
    arch: "",
    kind: "lora",
    threads: 2,
    batch: 1,
    accumulate: 1,
    ctx: 128,
    targets: 127,
    precision: Precision::F32,
    recompute: Recompute::Auto,
    act_type: ActType::F32,
    slice: 1024,
    layers: None,
    optimizer: "adamw",
    checkpoints: false,
    objective: "sft",
    codec: "",
    reselect: "",
};

fn cases() -> Vec<Case> {
    let kinds = adapter::KINDS.iter().flat_map(|kind| {
        [
            Case { kind: kind.name, recompute: Recompute::None, ..SIMPLE },
            Case { kind: kind.name, recompute: Recompute::All, ctx: 256, targets: 40, ..SIMPLE },
        ]
    });
    let mut all = vec![
        Case { recompute: Recompute::None, ..SIMPLE },
        Case { recompute: Recompute::All, ..SIMPLE },
        Case { recompute: Recompute::AllBut(2), batch: 2, ..SIMPLE },
        Case { recompute: Recompute::None, act_type: ActType::F16, batch: 4, threads: 1, ..SIMPLE },
        Case { recompute: Recompute::None, act_type: ActType::Bf16, ctx: 256, targets: 40, ..SIMPLE },
        Case { recompute: Recompute::All, slice: 16, ctx: 256, targets: 255, ..SIMPLE },
        Case { kind: "nola", ..SIMPLE },
        Case { kind: "nola", ctx: 32, targets: 31, threads: 3, ..SIMPLE },
        Case { recompute: Recompute::All, ctx: 256, targets: 255, batch: 4, accumulate: 3, ..SIMPLE },
        Case { targets: 10, batch: 8, accumulate: 2, ..SIMPLE },
        Case { layers: Some(vec![3]), recompute: Recompute::None, batch: 4, ..SIMPLE },
        Case { optimizer: "adamw_8bit", ..SIMPLE },
        Case { optimizer: "adafactor", kind: "nola", ..SIMPLE },
        Case { optimizer: "sgd", ..SIMPLE },
        Case { codec: "ternary", ..SIMPLE },
        Case { codec: "q8", ..SIMPLE },
        Case { codec: "levels", kind: "uni", ..SIMPLE },
        Case { reselect: "ag", kind: "sparse", ..SIMPLE },
        Case { reselect: "ma", kind: "sparse", threads: 1, ..SIMPLE },
        Case { precision: Precision::Int8, recompute: Recompute::All, ..SIMPLE },
        Case { precision: Precision::Int8, recompute: Recompute::None, batch: 4, threads: 1, ..SIMPLE },
        Case { precision: Precision::Int8, ctx: 256, targets: 40, threads: 3, ..SIMPLE },
        Case { checkpoints: true, ..SIMPLE },
        Case { checkpoints: true, kind: "full", ..SIMPLE },
        Case { kind: "full", ..SIMPLE },
        Case { objective: "infonce", recompute: Recompute::All, batch: 2, ..SIMPLE },
        Case { objective: "infonce", recompute: Recompute::None, batch: 2, accumulate: 3, ctx: 64, ..SIMPLE },
    ];
    all.extend(kinds);
    all
}

/// Convolutions and mixtures of experts, which have scratch of their own.
fn miniatures() -> Vec<Case> {
    let adapters = ["lfm2", "qwen3moe", "qwen2moe"].into_iter().flat_map(|arch| {
        let of = Case { arch, ..SIMPLE };
        [
            Case { recompute: Recompute::None, ..of.clone() },
            Case { recompute: Recompute::All, ctx: 256, targets: 40, batch: 4, threads: 3, ..of.clone() },
            Case { recompute: Recompute::All, precision: Precision::Int8, batch: 2, accumulate: 2, ..of.clone() },
            Case { act_type: ActType::Bf16, recompute: Recompute::AllBut(1), threads: 1, ..of.clone() },
            Case { kind: "nola", batch: 4, ..of.clone() },
            Case { kind: "bottleneck", recompute: Recompute::None, ..of },
        ]
    });
    let full = [Recompute::None, Recompute::All].map(|recompute| Case { kind: "full", recompute, ..SIMPLE });
    let full = full.map(|case| Case { arch: "lfm2", ..case });
    adapters.chain(full).collect()
}

/// What the plan says and what was reserved at the peak of two steps and a save.
fn measured(case: &Case, model: &Model) -> (usize, usize) {
    let base = model.base([0; 32]);
    let spec = Spec { layers: case.layers.clone(), ..Spec::new(case.kind) };
    let spec = match case.reselect {
        "" => spec,
        how => spec.with("reselect", how).with("reselect every", 1).with("reselect samples", 1),
    };
    let optimizer = optim::Spec::new(case.optimizer);
    let Case { precision, recompute, act_type, slice, .. } = *case;
    let objective = objective::Spec::new(case.objective);
    let codec = (!case.codec.is_empty()).then(|| compress::Spec::new(case.codec));
    let usual = Config { steps: 2, optimizer, objective, codec, ..Config::default() };
    let config = Config { precision, recompute, act_type, slice, ..usual };
    let mut data = examples(model, case.batch * case.accumulate, case.ctx, case.targets.min(case.ctx));
    if case.objective == "infonce" {
        // Queries, each with a passage of the same length.
        data.iter_mut().for_each(|e| e.passages = examples(model, 1, case.ctx, 0));
    }
    let run = Run {
        beneath: &NONE,
        model,
        subject: if case.kind == "full" { Subject::Weights(&base) } else { Subject::Fresh(&spec, &base) },
        config: config.clone(),
        rows: Rows::of(&(0..data.len()).map(|i| vec![i]).collect::<Vec<_>>(), &data),
        batch: case.batch,
        step: case.batch * case.accumulate,
        checkpoints: case.checkpoints,
        best: false,
        activation_cache: false,
        held: 0,
    };
    let plan = run.plan().unwrap();
    let ((), peak) = alloc::peak(|| {
        let mut trainer = match case.kind {
            "full" => Trainer::full(model, config).unwrap(),
            _ => Trainer::adapter(model, adapter::create(&spec, &base).unwrap(), config).unwrap(),
        };
        let micro: Vec<&[Example]> = data.chunks(case.batch).collect();
        trainer.step(&micro).unwrap();
        trainer.evaluate(&data[..1]).unwrap();
        trainer.step(&micro).unwrap();
        if let Some(adapter) = trainer.adapter_ref() {
            let codec = if case.codec.is_empty() { "f16" } else { case.codec };
            file::to_bytes_as(adapter, &base, &Provenance::default(), codec).unwrap();
        }
        if case.checkpoints {
            let order = Order::new(data.len(), case.batch, case.accumulate, None).unwrap();
            trainer.checkpoint(&base, &order, &Head::new(), &[]).unwrap();
        }
    });
    // The file of a whole model is the command's to write.
    let file = if case.kind == "full" && !case.checkpoints { plan.file } else { 0 };
    (plan.reserved() - file, peak)
}

/// Measures the cases, each with its model.
fn all_are_planned(cases: &[Case], model: impl Fn(&Case) -> Model) {
    for (i, case) in cases.iter().enumerate() {
        let (planned, peak) = measured(case, &model(case));
        let ratio = peak as f64 / planned as f64;
        let arch = case.arch;
        eprintln!("case {i} {arch}: {planned} bytes planned, {peak} reserved at the peak, {ratio:.3}");
        assert!(ratio <= 1.1, "case {i}: {peak} bytes reserved, {planned} planned");
        let grows = adapter::Kind::by_name(case.kind).is_ok_and(|kind| !kind.grown.is_empty());
        assert!(ratio >= 0.75 || grows, "case {i}: {peak} bytes reserved, {planned} planned: the plan says too much");
    }
}

#[test]
#[ignore = "counts the whole process's memory; a test below runs it alone"]
fn reserved_is_planned_alone() {
    all_are_planned(&cases(), |case| model(case.threads));
}

#[needs_shared]
#[test]
#[ignore = "counts the whole process's memory; a test below runs it alone"]
fn reserved_of_miniatures_is_planned_alone() {
    all_are_planned(&miniatures(), |case| {
        let path = shared().join(format!("models/arch/tiny64-{}-f32.gguf", case.arch));
        loaded(map::open(&path).unwrap(), case.threads)
    });
}

#[test]
#[ignore = "counts the whole process's memory; a test below runs it alone"]
fn attention_holds_no_square_of_positions_alone() {
    let heads = Heads { q: 4, kv: 2, dim: 16, scale: 0.25, cap: None };
    let mut held = Vec::new();
    for n in [512, 2048] {
        let cx = Compute { kernels: mynah::kernel::best(), pool: Pool::new(1) };
        let rows = |width: usize| (0..n * width).map(|i| (i % 97) as f32 * 0.01 - 0.5).collect::<Vec<f32>>();
        let (q, k, v, dout) = (rows(64), rows(32), rows(32), rows(64));
        let (mut dq, mut dk, mut dv) = (rows(64), rows(32), rows(32));
        let mut spare = Buffer::default();
        let ((), peak) = alloc::peak(|| {
            attention::backward(
                &cx,
                heads,
                View::new(&q, n, 64),
                View::new(&k, n, 32),
                View::new(&v, n, 32),
                Sees::Causal,
                View::new(&dout, n, 64),
                None,
                &mut Tile::new(&mut dq, n, 64),
                &mut Tile::new(&mut dk, n, 32),
                &mut Tile::new(&mut dv, n, 32),
                &mut spare,
            );
        });
        assert!(peak <= 4 * (attention::scratch(heads, n) + attention::shared(heads, n)) * 11 / 10, "{n}: {peak}");
        held.push(peak);
    }
    eprintln!("attention: {held:?} bytes planned and held");
    assert!(held[1] <= held[0] * 9 / 2, "four times the positions: {held:?}");
}

#[test]
fn turns_of_rows_are_planned() {
    let model = model(1);
    for n in [1, 100, 1000] {
        let mut rows = mynah::model::Rows::new(0, 0);
        rows.positions = (0..n as u32).collect();
        let ((), held) = alloc::largest(|| rows.rotate(&model));
        let planned = mynah::model::Rows::bytes(&model, n);
        assert!((planned..=planned + 256).contains(&held), "{n} rows: {held} bytes held, {planned} planned");
    }
}

/// Runs a test in a process of its own. How many figures it printed.
fn alone(test: &str) -> usize {
    let out = std::process::Command::new(std::env::current_exe().unwrap())
        .args([&format!("plan::{test}"), "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stderr);
    eprintln!("{text}");
    assert!(out.status.success(), "{text}");
    text.matches("bytes planned").count()
}

#[test]
fn reserved_is_planned() {
    assert_eq!(alone("reserved_is_planned_alone"), cases().len());
    assert_eq!(alone("attention_holds_no_square_of_positions_alone"), 1);
}

#[needs_shared]
#[test]
fn reserved_of_miniatures_is_planned() {
    assert_eq!(alone("reserved_of_miniatures_is_planned_alone"), miniatures().len());
}

fn run<'a>(model: &'a Model, subject: Subject<'a>, rows: Rows, batch: usize) -> Run<'a> {
    Run {
        beneath: &NONE,
        model,
        subject,
        config: Config::default(),
        rows,
        batch,
        step: batch,
        checkpoints: false,
        best: false,
        activation_cache: false,
        held: 0,
    }
}

fn refused(run: &Run, bytes: usize) -> Refusal {
    match run.fit(bytes).unwrap() {
        Ok((_, plan)) => panic!("{} bytes fit {bytes}", plan.total()),
        Err(refusal) => refusal,
    }
}

#[test]
fn slices_of_the_output_matrix_change_no_bit() {
    let model = model(2);
    let base = model.base([0; 32]);
    let data = examples(&model, 2, 64, 40);
    let after = |precision, slice| {
        let adapter = adapter::create(&Spec::default(), &base).unwrap();
        let config = Config { precision, slice, steps: 2, ..Config::default() };
        let mut trainer = Trainer::adapter(&model, adapter, config).unwrap();
        let reports = [trainer.step(&[&data]).unwrap(), trainer.step(&[&data]).unwrap()];
        (reports.map(|r| (r.loss.to_bits(), r.grad_norm.to_bits())), trainer.grads().to_vec())
    };
    for precision in [Precision::F32, Precision::Int8] {
        let whole = after(precision, 1024);
        for slice in [64, 16] {
            assert!(after(precision, slice) == whole, "slices of {slice}, {precision:?}");
        }
    }
    let config = Config { slice: 17, ..Config::default() };
    let error = Trainer::adapter(&model, adapter::create(&Spec::default(), &base).unwrap(), config).err().unwrap();
    assert!(error.to_string().contains("17 at a time"), "{error}");
}

#[test]
fn the_least_bound_is_met_with_narrow_slices() {
    let model = model(1);
    let base = model.base([0; 32]);
    let spec = Spec::default().with("rank", 1);
    let run = run(&model, Subject::Fresh(&spec, &base), Rows::full(256, 8), 1);
    let least = refused(&run, 0).least.total();
    let plan = run.fit(least).unwrap().ok().unwrap().1;
    assert!(plan.slice < 1024 && plan.total() <= least, "{plan:?}");
}

#[test]
fn a_bound_is_kept_or_refused_with_ways_out() {
    let model = model(2);
    let base = model.base([0; 32]);
    let spec = Spec::default();
    let run = run(&model, Subject::Fresh(&spec, &base), Rows::full(256, 64), 16);
    let most = run.fit(usize::MAX).unwrap().ok().unwrap().1;
    assert_eq!((most.micro, most.saved_blocks), (16, most.blocks));
    let mut refused = 0;
    for bytes in (1..=40).rev().map(|i| most.total() * i / 40) {
        match run.fit(bytes).unwrap() {
            Ok((chosen, plan)) => {
                assert!(plan.total() <= bytes && plan == chosen.plan().unwrap());
                assert_eq!(refused, 0, "a smaller bound fits where a larger did not");
            }
            Err(refusal) => {
                refused += 1;
                assert!(refusal.least.total() > bytes);
                if bytes > refusal.least.mapped * 3 / 2 {
                    assert!(refusal.would_fit.len() >= 3, "{bytes}: {:?}", refusal.would_fit);
                }
                for (changes, plan) in &refusal.would_fit {
                    assert!(!changes.is_empty() && plan.total() <= bytes, "{changes:?}");
                }
            }
        }
    }
    assert!(refused > 0 && refused < 39, "{refused} of 40 refused");
}

#[test]
fn what_a_refusal_names_does_fit() {
    let model = model(1);
    let base = model.base([0; 32]);
    let spec = Spec::default().with("rank", 32);
    let run = run(&model, Subject::Fresh(&spec, &base), Rows::full(256, 8), 1);
    let bytes = refused(&run, 0).least.total() * 9 / 10;
    let refusal = refused(&run, bytes);
    // A change of each setting is among them.
    type Is = fn(&Change) -> bool;
    let settings: [Is; 4] = [
        |c| matches!(c, Change::Context(_)),
        |c| matches!(c, Change::Kind(_)),
        |c| matches!(c, Change::Rank(_)),
        |c| matches!(c, Change::Targets(_)),
    ];
    for (i, is) in settings.iter().enumerate() {
        let alone = |(changes, _): &(Vec<Change>, _)| changes.len() == 1 && is(&changes[0]);
        assert!(refusal.would_fit.iter().any(alone), "setting {i}: {refusal:?}");
    }
    for (changes, plan) in &refusal.would_fit {
        let (mut spec, mut run) = (spec.clone(), run.clone());
        for change in changes {
            match change {
                Change::Context(ctx) => run.rows = Rows::full(*ctx, 8),
                Change::Rank(rank) => _ = spec.values.set("rank", *rank),
                Change::Layers(first) => spec.layers = Some((*first..base.layers()).collect()),
                Change::Kind(name) => spec = Spec { values: spec.values.clone(), ..Spec::new(name) },
                Change::Targets(list) => spec.targets = adapter::parse_targets(list).unwrap(),
                Change::ActType(act_type) => run.config.act_type = *act_type,
                Change::Moments(name) => run.config.optimizer.kind = (*name).into(),
            }
        }
        run.subject = Subject::Fresh(&spec, &base);
        let (_, found) = run.fit(bytes).unwrap().ok().unwrap();
        assert_eq!(found.total(), plan.total(), "{changes:?}");
    }
}

#[test]
fn sizes_of_kinds_are_those_of_their_adapters() {
    let model = tiny::model("llama", 1, true, 1);
    let base = model.base([0; 32]);
    for kind in adapter::KINDS {
        let mut spec = Spec { layers: Some(vec![1]), ..bases(Spec::new(kind.name), [5, 4]) };
        if kind.knobs.iter().any(|u| u.knob.name == "rank") {
            spec = spec.with("rank", 3);
        }
        let fresh = adapter::create(&spec, &base).unwrap();
        let (said, shape) = ((kind.shape)(&spec, &base).unwrap(), fresh.shape());
        assert_eq!((&said.slots, &said.parts), (&shape.slots, &shape.parts), "{}", kind.name);
        assert_eq!((said.size, said.needs), (shape.size, shape.needs), "{}", kind.name);
        // What grows says what it will be.
        assert!(shape.size.params == fresh.params().len() || !kind.grown.is_empty(), "{}", kind.name);
        assert_eq!(shape.parts.last().unwrap().range.end, fresh.params().len());
    }
}

/// Examples of several lengths for the tiny models.
fn mixed(seed: u64) -> Vec<Example> {
    let mut rng = Rng(seed);
    let lens = [9, 14, 5, 21, 3, 17, 2, 30];
    lens.map(|len| {
        let tokens: Vec<u32> = (0..len).map(|_| rng.below(tiny::VOCAB) as u32).collect();
        Example::new(tokens, (0..len).map(|t| len < 10 || t > len / 2).collect())
    })
    .into()
}

fn trainer(model: &Model, spec: &Spec, config: Config) -> Trainer {
    let mut adapter = adapter::create(spec, &model.base([0; 32])).unwrap();
    let mut rng = Rng(7);
    adapter.params_mut().iter_mut().for_each(|v| *v += rng.unit() * 0.3);
    Trainer::adapter(model, adapter, config).unwrap()
}

#[test]
fn packed_rows_teach_what_their_examples_teach() {
    let data = mixed(3);
    let lens: Vec<usize> = data.iter().map(|e| e.tokens.len()).collect();
    let rows = mynah::train::data::pack(&lens, 40);
    assert!(rows.iter().any(|r| r.len() > 2) && rows.len() < data.len());
    let order: Vec<Example> = rows.concat().iter().map(|&i| data[i].clone()).collect();
    let packed: Vec<Vec<Example>> = rows.iter().map(|row| row.iter().map(|&i| data[i].clone()).collect()).collect();
    for kind in adapter::KINDS {
        let model = tiny::model("llama", 4, true, 2);
        let mut spec = bases(Spec::new(kind.name), [6, 6]);
        if kind.knobs.iter().any(|u| u.knob.name == "rank") {
            spec = spec.with("rank", 4);
        }
        let config = Config { clip: 0.0, ..Config::default() };
        let mut one_by_one = trainer(&model, &spec, config.clone());
        let alone: Vec<&[Example]> = order.iter().map(std::slice::from_ref).collect();
        let want = one_by_one.step(&alone).unwrap();
        let mut together = trainer(&model, &spec, config);
        let micro: Vec<&[Example]> = packed.iter().map(Vec::as_slice).collect();
        let got = together.step(&micro).unwrap();
        assert!((got.loss - want.loss).abs() < 1e-12, "{} {}", got.loss, want.loss);
        assert_eq!((got.tokens, got.targets), (want.tokens, want.targets));
        assert!(one_by_one.grads() == together.grads(), "{}: gradients of packed rows", kind.name);
    }
}

mod counted {
    //! Kernels that count the passes of a block, forward and backward.

    use mynah::kernel::{Kernels, PLAIN};
    use std::sync::atomic::{AtomicUsize, Ordering};

    pub static BACK: AtomicUsize = AtomicUsize::new(0);
    pub static OUT: AtomicUsize = AtomicUsize::new(0);

    fn back(gate: &mut [f32], up: &mut [f32], d: &[f32]) {
        BACK.fetch_add(1, Ordering::Relaxed);
        (PLAIN.silu_mul_backward)(gate, up, d);
    }

    fn out(gate: &[f32], up: &[f32], h: &mut [f32]) {
        OUT.fetch_add(1, Ordering::Relaxed);
        (PLAIN.silu_mul)(gate, up, h);
    }

    pub static KERNELS: Kernels = Kernels { silu_mul: out, silu_mul_backward: back, ..PLAIN };

    /// Rows times blocks that went forward and back since it was last asked.
    pub fn take() -> (usize, usize) {
        (OUT.swap(0, Ordering::Relaxed), BACK.swap(0, Ordering::Relaxed))
    }
}

#[test]
fn nothing_below_the_lowest_adapted_block_is_differentiated_or_computed_twice() {
    let gguf = Gguf::parse(Bytes::from(tiny::file("llama", 5, true)), &Limits::default()).unwrap();
    let model = Model::load(&gguf, Compute { kernels: &counted::KERNELS, pool: Pool::new(2) }).unwrap();
    let data = mixed(8);
    // Inputs: the last token of an example, and those behind the last target, are not read.
    let rows: usize = data.iter().map(|e| (1..e.tokens.len()).rev().find(|t| e.mask[*t]).unwrap()).sum();
    let spec = |layers: &[usize]| Spec { layers: Some(layers.to_vec()), ..Spec::default().with("rank", 2) };
    let config = Config { recompute: Recompute::All, steps: 9, ..Config::default() };

    // A forward pass through both blocks; the lower one's hidden part is recomputed in the backward pass.
    let mut all = trainer(&model, &spec(&[0, 1]), config.clone());
    all.step(&[&data]).unwrap();
    assert_eq!(counted::take(), (3 * rows, 2 * rows));
    let mut upper = trainer(&model, &spec(&[1]), config.clone());
    let plain = upper.step(&[&data]).unwrap().loss;
    assert_eq!(counted::take(), (2 * rows, rows));

    // With a store the lower block runs once for each example.
    let mut stored = trainer(&model, &spec(&[1]), config.clone());
    assert_eq!(stored.frozen_blocks(), 1);
    stored.cache_activations(Box::new(mynah::train::activation_cache::Memory::new(1 << 20)));
    let first = stored.step(&[&data[..5], &data[5..]]).unwrap().loss;
    assert_eq!(counted::take(), (2 * rows, rows));
    assert!((first / plain - 1.0).abs() < 1e-3, "{first} for {plain}");
    let second = stored.step(&[&data]).unwrap();
    assert_eq!(counted::take(), (rows, rows));
    stored.evaluate(&data).unwrap();
    assert_eq!(counted::take(), (rows, 0));

    // What was stored changes no bit.
    let mut empty = trainer(&model, &spec(&[1]), config);
    empty.cache_activations(Box::new(mynah::train::activation_cache::Memory::new(0)));
    assert_eq!(empty.step(&[&data[..5], &data[5..]]).unwrap().loss.to_bits(), first.to_bits());
    let again = empty.step(&[&data]).unwrap();
    assert_eq!(again.loss.to_bits(), second.loss.to_bits());
    assert!(empty.grads() == stored.grads());
}

#[test]
fn halves_round_gradients_and_nothing_else() {
    let data = mixed(6);
    let model = tiny::model("llama", 6, false, 2);
    let spec = Spec::default().with("rank", 4);
    let step = |recompute: Recompute, act_type: ActType| {
        let mut trainer = trainer(&model, &spec, Config { recompute, act_type, clip: 0.0, ..Config::default() });
        let loss = trainer.step(&[&data]).unwrap().loss;
        (loss, trainer.grads().to_vec())
    };
    let (loss, exact) = step(Recompute::None, ActType::F32);
    let norm = |g: &[f32]| g.iter().map(|v| (*v as f64).powi(2)).sum::<f64>().sqrt();
    for (act_type, most) in [(ActType::F16, 1e-3), (ActType::Bf16, 1e-2)] {
        for recompute in [Recompute::None, Recompute::All] {
            let (rounded_loss, rounded) = step(recompute, act_type);
            assert_eq!(loss.to_bits(), rounded_loss.to_bits());
            let off: Vec<f32> = rounded.iter().zip(&exact).map(|(a, b)| a - b).collect();
            let off = norm(&off) / norm(&exact);
            eprintln!("{act_type:?} {recompute:?}: gradients {off:.2e} off");
            assert!(off > 0.0 && off < most, "{act_type:?} {recompute:?}: {off}");
        }
    }
}

mod command {
    //! The same through the command, on real models.

    use crate::shared::{needs_shared, shared};
    use serde_json::Value;
    use std::path::Path;
    use std::process::{Command, Output, Stdio};

    fn mynah(args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_mynah")).args(args).stdin(Stdio::null()).output().unwrap()
    }

    fn json(args: &[&str]) -> Value {
        let out = mynah(args);
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_str(String::from_utf8(out.stdout).unwrap().lines().last().unwrap()).unwrap()
    }

    fn text(shared: &Path, dir: &Path, bytes: usize) -> String {
        let all = std::fs::read(shared.join("golden/llamacpp/ppl/text.txt")).unwrap();
        let path = dir.join("text.txt");
        std::fs::write(&path, &all[..bytes]).unwrap();
        path.to_str().unwrap().into()
    }

    #[needs_shared]
    #[test]
    fn resident_memory_is_planned() {
        let shared = shared();
        let dir = tempfile::tempdir().unwrap();
        let data = text(&shared, dir.path(), 9000);
        let model = shared.join("models/SmolLM2-135M-Instruct.Q4_0.gguf");
        let out = dir.path().join("out.mynah");
        let saved = dir.path().join("saved").to_str().unwrap().to_string();
        let common = [
            "-m",
            model.to_str().unwrap(),
            "-d",
            &data,
            "-o",
            out.to_str().unwrap(),
            "--steps",
            "2",
            "--json",
            "--force",
        ];
        for options in [
            &["--recompute", "all"] as &[&str],
            &["--recompute", "none", "--act-type", "f16", "--ctx", "128"],
            &["--method", "nola", "--ctx", "64"],
            &["--memory", "220M", "--batch", "8", "--ctx", "64"],
            &["--fast"],
            // The best state beside the last.
            &["--ctx", "64", "--held-out", "0.4", "--eval-every", "1"],
        ] {
            // With a checkpoint after every step, which plans count.
            let options = [options, &["--checkpoints", &saved, "--save-every", "1"]].concat();
            let planned = json(&[&["plan"], &common[..], &options].concat());
            let total = planned["total"].as_u64().unwrap();
            let peak = json(&[&["train"], &common[..], &options].concat())["peak_rss_bytes"].as_u64().unwrap();
            std::fs::remove_dir_all(&saved).unwrap();
            let ratio = peak as f64 / total as f64;
            eprintln!("{options:?}: {total} bytes planned, {peak} resident at the peak, {ratio:.3}");
            assert!(ratio <= 1.0, "{options:?}: {peak} bytes resident, {total} planned");
            assert!(ratio >= 0.75, "{options:?}: {peak} bytes resident, {total} planned: the plan says too much");
        }
        let refused = mynah(&[&["train"], &common[..], &["--memory", "155M"]].concat());
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{said}");
        for option in ["--method ", "--rank ", "--layers "] {
            let single = |line: &str| line.starts_with(&format!("  {option}"));
            assert!(said.lines().any(single), "{option}: {said}");
        }
    }

    #[needs_shared]
    #[test]
    fn a_bound_changes_no_bit_and_neither_does_a_file_of_lower_outputs() {
        let shared = shared();
        let dir = tempfile::tempdir().unwrap();
        let data = text(&shared, dir.path(), 20000);
        let model = shared.join("models/stories260K-q8_0.gguf");
        let name = |n: &str| dir.path().join(n).to_str().unwrap().to_string();
        let common = [
            "train",
            "-m",
            model.to_str().unwrap(),
            "-d",
            &data,
            "--ctx",
            "64",
            "--batch",
            "8",
            "--steps",
            "4",
            "--split",
            "whole",
            "--json",
        ];
        let adapter = |n: &str, options: &[&str]| {
            let got = json(&[&common[..], &["-o", &name(n)], options].concat());
            (std::fs::read(name(n)).unwrap(), got)
        };
        let (want, free) = adapter("free", &[]);
        let plan = json(&[&["plan"], &common[1..], &["--memory", "1G"]].concat());
        let bound = (plan["total"].as_u64().unwrap() - plan["kept"].as_u64().unwrap()) * 95 / 100;
        let (bytes, _) = adapter("bound", &["--memory", &bound.to_string()]);
        assert!(bytes == want, "under {bound} bytes");
        let (packed, _) = adapter("packed", &["--pack"]);
        assert!(packed == want, "whole rows cannot be packed closer");

        let cache = name("lower");
        let options = ["--layers", "3-", "--activation-cache", &cache];
        let (first, made) = adapter("first", &options);
        let size = std::fs::metadata(&cache).unwrap().len();
        assert!(size > 64 * 64 * 2 * 8);
        let (again, taken) = adapter("again", &options);
        assert!(first == again && size == std::fs::metadata(&cache).unwrap().len());
        assert_eq!(made["loss_last"], taken["loss_last"]);
        assert!((made["loss_first"].as_f64().unwrap() - free["loss_first"].as_f64().unwrap()).abs() < 1e-3);
        // A damaged byte, a torn end and a bound too small for all are made good by computing.
        let mut bytes = std::fs::read(&cache).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        bytes.truncate(size as usize - 3);
        std::fs::write(&cache, &bytes).unwrap();
        assert!(first == adapter("damaged", &options).0);
        assert!(first == adapter("small", &[&options[..], &["--activation-cache-size", "20K"]].concat()).0);
        // Other blocks: begun anew.
        adapter("other", &["--layers", "4-", "--activation-cache", &cache]);
        // A file of something else stays as it is.
        let other = name("other.txt");
        std::fs::copy(&data, &other).unwrap();
        let foreign =
            mynah(&[&common[..], &["-o", &name("x"), "--layers", "3-", "--activation-cache", &other]].concat());
        assert_eq!(foreign.status.code(), Some(1));
        assert!(std::fs::read(&other).unwrap() == std::fs::read(&data).unwrap());
        let idle = mynah(&[&common[..], &["-o", &name("x"), "--activation-cache", &cache]].concat());
        assert_eq!(idle.status.code(), Some(2));
    }
}
