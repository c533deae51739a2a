//! Ranks that are shared out, pruned and grown: profiles over the depth, `adalora` and `increlora`.

use crate::tiny;
use mynah::adapter::profile::PROFILES;
use mynah::adapter::{self, Adapter, Base, Spec, compress};
use mynah::bytes::Limits;
use mynah::container::head::Head;
use mynah::kernel::Compute;
use mynah::model::Model;
use mynah::train::data::Order;
use mynah::train::{Checkpoint, Config, Example, Schedule, Trainer, optim};

#[test]
fn shares_sum_to_the_total() {
    for profile in PROFILES {
        for layers in 1..40 {
            for total in [0, 1, layers - 1, layers, 3 * layers + 1, 8 * layers, 65_536] {
                let sum: usize = (0..layers).map(|layer| profile.share(layer, layers, total)).sum();
                assert_eq!(sum, total, "{} over {layers}", profile.name);
            }
        }
    }
}

#[test]
fn shares_have_their_shapes() {
    let of = |name: &str| -> Vec<usize> {
        let profile = PROFILES.iter().find(|p| p.name == name).unwrap();
        (0..8).map(|layer| profile.share(layer, 8, 40)).collect()
    };
    assert_eq!(of("uniform"), [5; 8]);
    assert_eq!(of("increasing"), [2, 2, 4, 4, 6, 6, 8, 8]);
    assert_eq!(of("decreasing"), [8, 8, 6, 6, 4, 4, 2, 2]);
    assert_eq!(of("diamond"), [2, 4, 6, 8, 8, 6, 4, 2]);
    assert_eq!(of("hourglass"), [8, 6, 4, 2, 2, 4, 6, 8]);
    // What is left goes to the largest remainders, and of equal ones to the lower blocks.
    let uniform = PROFILES.iter().find(|p| p.name == "uniform").unwrap();
    assert_eq!((0..4).map(|layer| uniform.share(layer, 4, 6)).collect::<Vec<_>>(), [2, 2, 1, 1]);
}

#[test]
fn a_profile_shares_out_the_ranks_of_a_lora() {
    let base = tiny::model("llama", 3, true, 1).base([0; 32]);
    let ranks = |spec: Spec| -> Vec<usize> {
        let a = adapter::create(&spec, &base).unwrap();
        let slots = a.low_rank().unwrap().0.slots().iter();
        let of = |layer: usize| move |s: &&adapter::lowrank::Slot| s.site.layer == layer;
        (0..2).map(|layer| slots.clone().find(of(layer)).map_or(0, |s| s.rank)).collect()
    };
    assert_eq!(ranks(Spec::new("lora").with("profile", "increasing")), [4, 12]);
    assert_eq!(ranks(Spec::new("lora").with("profile", "decreasing").with("rank", 2)), [3, 1]);
    assert_eq!(ranks(Spec::new("lora").with("profile", "increasing").with("rank", 1)), [1, 1]);
}

fn config(optimizer: &str, steps: u64) -> Config {
    let spec = optim::Spec::new(optimizer);
    let optimizer = if optimizer == "sgd" { spec.with("beta1", 0) } else { spec };
    Config { lr: 1e-2, steps, schedule: Schedule::Constant, warmup: 0, optimizer, ..Config::default() }
}

struct Run {
    trainer: Trainer,
    order: Order,
    rows: Vec<Example>,
    base: Base,
}

impl Run {
    fn new(spec: &Spec, optimizer: &str, steps: u64) -> Run {
        let model: Model = tiny::model("llama", 7, true, 2);
        let base = model.base([9; 32]);
        let adapter = adapter::create(spec, &base).unwrap();
        let trainer = Trainer::adapter(&model, adapter, config(optimizer, steps)).unwrap();
        let row = |i: u32| Example::all((0..9).map(|t| (i * 5 + t * 3) % tiny::VOCAB as u32).collect());
        Run { trainer, order: Order::new(7, 2, 1, Some(5)).unwrap(), rows: (0..7).map(row).collect(), base }
    }

    fn step(&mut self) -> f64 {
        let batches: Vec<Vec<Example>> =
            self.order.next_step().iter().map(|rows| rows.iter().map(|&i| self.rows[i].clone()).collect()).collect();
        self.trainer.step(&batches.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap().loss
    }

    fn adapter(&self) -> &dyn Adapter {
        self.trainer.adapter_ref().unwrap()
    }

    fn ranks(&self) -> Vec<usize> {
        self.adapter().low_rank().unwrap().0.slots().iter().map(|slot| slot.rank).collect()
    }

    /// Values of `e` that are not zero.
    fn kept(&self) -> usize {
        let a = self.adapter();
        let parts = a.shape().parts.iter().filter(|part| part.name == "e");
        parts.map(|part| a.params()[part.range.clone()].iter().filter(|e| **e != 0.0).count()).sum()
    }

    fn loss(&mut self) -> f64 {
        let (sum, n) = self.trainer.evaluate(&self.rows).unwrap();
        sum / n as f64
    }

    fn save(&self) -> Vec<u8> {
        self.trainer.checkpoint(&self.base, &self.order, &Head::new(), &[]).unwrap()
    }
}

fn growing() -> Spec {
    Spec { seed: 4, ..Spec::new("increlora") }.with("rank", 4).with("grow from", 2).with("grow every", 2)
}

fn pruned() -> Spec {
    let spec = Spec { seed: 4, ..Spec::new("adalora") }.with("rank", 4).with("target rank", 2);
    spec.with("prune from", 2).with("prune until", 8).with("prune every", 2)
}

#[test]
fn ranks_grow_to_the_budget_and_not_beyond() {
    for layers in [0, 3, 5, 100] {
        let mut run = Run::new(&growing().with("grow layers", layers), "adamw", 40);
        let n = run.ranks().len();
        assert_eq!(run.ranks(), vec![1; n]);
        let mut before = n;
        for _ in 0..40 {
            run.step();
            let now: usize = run.ranks().iter().sum();
            assert!(now >= before && now <= 4 * n, "{now} ranks of {}", 4 * n);
            before = now;
        }
        assert_eq!(before, 4 * n);
        // Layers that gain in different rounds end at different ranks.
        assert!(layers != 3 || run.ranks().iter().any(|rank| *rank != 4));
    }
}

#[test]
fn growth_leaves_the_loss() {
    let mut run = Run::new(&growing().with("grow from", 3), "adamw", 9);
    let mut same = Run::new(&growing().with("grow from", 1000), "adamw", 9);
    for _ in 0..3 {
        assert_eq!(run.step(), same.step());
    }
    assert!(run.ranks() != same.ranks());
    let (grown, plain) = (run.loss(), same.loss());
    assert!((grown - plain).abs() < 1e-5, "{grown} {plain}");
}

/// Without a state of the optimiser, all that counts is where the parameters are.
#[test]
fn all_layers_in_one_round_are_plain_from_then_on() {
    let spec = growing().with("rank", 2).with("grow layers", 1000);
    let mut run = Run::new(&spec, "sgd", 9);
    (0..2).for_each(|_| _ = run.step());
    assert!(run.ranks().iter().all(|rank| *rank == 2));
    let mut plain = Run::new(&spec.clone().with("start rank", 2), "sgd", 9);
    let mut fresh = adapter::create(&spec.with("start rank", 2), &plain.base).unwrap();
    fresh.params_mut().copy_from_slice(run.adapter().params());
    // A plain one of rank 2, from the same values.
    let config = config("sgd", 9);
    plain.trainer = Trainer::adapter(&tiny::model("llama", 7, true, 1), fresh, config).unwrap();
    (0..2).for_each(|_| _ = plain.order.next_step());
    for _ in 0..4 {
        assert_eq!(run.step(), plain.step());
        assert!(run.adapter().params() == plain.adapter().params());
    }
}

#[test]
fn directions_are_pruned_to_the_budget() {
    let mut run = Run::new(&pruned(), "adamw", 12);
    let n = run.ranks().len();
    let kept: Vec<usize> = (0..12)
        .map(|_| {
            run.step();
            run.kept()
        })
        .collect();
    assert_eq!(kept[0], 4 * n);
    // 2n + 2n·(4 / 6)³ after step 4; what was pruned may come back before step 8.
    assert_eq!(kept[3], 2 * n + 2 * n * 64 / 216);
    assert!(kept[7..].iter().all(|kept| *kept == 2 * n), "{kept:?} of {n} layers");
    // Layers differ in what they keep.
    let a = run.adapter();
    let of = |part: &adapter::Part| a.params()[part.range.clone()].iter().filter(|e| **e != 0.0).count();
    let each: Vec<usize> = a.shape().parts.iter().filter(|part| part.name == "e").map(of).collect();
    assert!(each.iter().any(|kept| *kept != 2), "{each:?}");
}

/// Values that are trained through a codec are pruned too.
#[test]
fn directions_are_pruned_through_a_codec() {
    let mut run = Run::new(&pruned(), "adamw", 12);
    let model = tiny::model("llama", 7, true, 2);
    let config = Config { codec: Some(compress::Spec::new("q8")), ..config("adamw", 12) };
    run.trainer = Trainer::adapter(&model, adapter::create(&pruned(), &run.base).unwrap(), config).unwrap();
    let n = run.ranks().len();
    (0..12).for_each(|_| _ = run.step());
    assert!(run.kept() <= 2 * n, "{} of {n} layers", run.kept());
    // What grows is refused.
    let config = Config { codec: Some(compress::Spec::new("q8")), ..Config::default() };
    let e = Trainer::adapter(&model, adapter::create(&growing(), &run.base).unwrap(), config).err().unwrap();
    assert!(e.to_string().contains("increlora"), "{e}");
}

#[test]
fn runs_go_on_to_the_byte_from_any_step() {
    const STEPS: u64 = 9;
    for spec in [growing(), pruned()] {
        let new = || Run::new(&spec, "adamw", STEPS);
        let mut whole = new();
        let mut saved = vec![whole.save()];
        for _ in 0..STEPS {
            whole.step();
            saved.push(whole.save());
        }
        for (step, bytes) in saved.iter().enumerate() {
            let mut run = new();
            (0..(step + 4) % STEPS as usize).for_each(|_| _ = run.step());
            let checkpoint = Checkpoint::read(bytes.clone().into(), &Limits::default()).unwrap();
            run.trainer.resume(&checkpoint, &run.base, &mut run.order, &Head::new()).unwrap();
            assert!(run.save() == *bytes, "{}: saved again after step {step}", spec.kind);
            (step as u64..STEPS).for_each(|_| _ = run.step());
            assert!(run.save() == saved[STEPS as usize], "{}: from step {step}", spec.kind);
        }
    }
}

#[test]
fn penalties_have_their_gradients() {
    let base = tiny::model("llama", 7, true, 1).base([9; 32]);
    for kind in ["adalora", "increlora"] {
        let spec = Spec::new(kind).with("rank", 3).with("orthogonality", 2);
        let spec = if kind == "increlora" { spec.with("start rank", 3) } else { spec };
        let mut a = adapter::create(&spec, &base).unwrap();
        let mut rng = tiny::Rng(3);
        a.params_mut().iter_mut().for_each(|p| *p += 0.3 * rng.unit());
        let cx = Compute::best(1);
        let value = |a: &dyn Adapter| a.penalty(&cx, &mut vec![0.0; a.params().len()]);
        // The same from the definition.
        let shape = a.shape().clone();
        let norms: Vec<f64> = shape
            .parts
            .iter()
            .filter(|part| part.name != "e")
            .map(|part| {
                let rows: Vec<&[f32]> = a.params()[part.range.clone()].chunks_exact(part.cols).collect();
                let inner = |i: usize, j: usize| -> f64 {
                    let product: f64 = rows[i].iter().zip(rows[j]).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    product - f64::from(u8::from(i == j))
                };
                (0..9).map(|k| inner(k / 3, k % 3).powi(2)).sum::<f64>().sqrt()
            })
            .collect();
        let want = 2.0 * norms.iter().sum::<f64>() / norms.len() as f64;
        assert!((value(&*a) - want).abs() < 1e-5 * want, "{kind}");
        let mut grads = vec![0.0; a.params().len()];
        a.penalty(&cx, &mut grads);
        let most = grads.iter().fold(0.0f32, |m, g| m.max(g.abs()));
        for i in (0..grads.len()).step_by(53) {
            let at = a.params()[i];
            let mut side = |by: f32| {
                a.params_mut()[i] = at + by;
                value(&*a)
            };
            let slope = (side(0.01) - side(-0.01)) / 0.02;
            side(0.0);
            assert!((slope as f32 - grads[i]).abs() < 1e-2 * most, "{kind} {i}: {slope} {}", grads[i]);
        }
    }
}

/// A file of `lora-fa` has one factor; the other follows from the seed.
#[test]
fn a_frozen_factor_is_not_stored() {
    let base = tiny::model("llama", 7, true, 1).base([9; 32]);
    let create = |seed| adapter::create(&Spec { seed, ..Spec::new("lora-fa") }, &base).unwrap();
    let mut a = create(3);
    let out: usize = a.shape().slots.iter().map(|slot| slot.shape[1]).sum();
    assert_eq!(a.params().len(), 8 * out);
    a.params_mut().fill(0.5);
    let bytes = adapter::to_bytes(&*a, &base, &Default::default()).unwrap();
    let mut again = adapter::from_bytes(bytes.into(), &base, &Limits::default()).unwrap();
    let mut other = create(4);
    let model = tiny::model("llama", 7, true, 1);
    for a in [&mut a, &mut again, &mut other] {
        a.prepare(&model.compute, &model).unwrap();
    }
    let first = |a: &dyn Adapter| {
        let (layout, factors) = a.low_rank().unwrap();
        factors[layout.slots()[0].a()].to_vec()
    };
    assert!(first(&*a) == first(&*again) && first(&*a) != first(&*other));
}
