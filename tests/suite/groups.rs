//! Groups that take turns, and stacks of any two kinds.

use crate::adapters::{BENT, HELD};
use crate::gradients::spec_of;
use crate::tiny::{self, Rng};
use mynah::adapter::{self, Adapter, Base, KINDS, Kind, Spec, Stack};
use mynah::bytes::Limits;
use mynah::container::head::Head;
use mynah::model::Model;
use mynah::train::data::Order;
use mynah::train::{Config, Example, Group, Groups, Schedule, Trainer};

const STEPS: u64 = 4;

fn rows(salt: u32) -> Vec<Example> {
    let row = |i: u32| Example::all((0..9).map(|t| (i * 5 + t * 3 + salt) % tiny::VOCAB as u32).collect());
    (0..5).map(row).collect()
}

/// Two or more groups on the tiny model, each with rows of its own.
struct Run {
    groups: Groups,
    data: Vec<Vec<Example>>,
    base: Base,
}

fn order() -> Order {
    Order::new(5, 2, 1, Some(3)).unwrap()
}

impl Run {
    fn new(specs: &[Spec], threads: usize) -> Run {
        let model = tiny::model("llama", 7, true, threads);
        let base = model.base([9; 32]);
        let group = |(i, spec): (usize, &Spec)| Group {
            adapter: adapter::create(spec, &base).unwrap(),
            lr: 1e-2 / (i + 1) as f32,
            order: order(),
        };
        let all = specs.iter().enumerate().map(group).collect();
        let config = Config { steps: STEPS, ..Config::default() };
        let groups = Groups::new(&model, Stack::new(), all, config).unwrap();
        let data = (0..specs.len() as u32).map(|i| rows(11 * i)).collect();
        Run { groups, data, base }
    }

    fn step(&mut self) {
        let own = &self.data[self.groups.turn()];
        let batches: Vec<Vec<Example>> =
            self.groups.next_rows().iter().map(|rows| rows.iter().map(|&i| own[i].clone()).collect()).collect();
        self.groups.step(&batches.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
    }

    fn params(&self) -> Vec<Vec<f32>> {
        (0..self.data.len()).map(|i| self.groups.adapter(i).unwrap().params().to_vec()).collect()
    }

    fn facts(&self) -> Vec<Head> {
        vec![Head::new(); self.data.len()]
    }

    fn save(&mut self) -> Vec<u8> {
        let facts = self.facts();
        self.groups.checkpoint(&self.base, &facts).unwrap()
    }

    fn go_on(&mut self, bytes: Vec<u8>) {
        let facts = self.facts();
        self.groups.resume(bytes.into(), &self.base, &facts, &Limits::default()).unwrap();
    }
}

fn lora(seed: u64) -> Spec {
    Spec { seed, ..Spec::new("lora").with("rank", 2) }
}

fn exchanging() -> Spec {
    Spec::new("sparse").with("values", 100).with("reselect", "ag").with("reselect every", 2).with("reselect samples", 1)
}

#[test]
fn a_group_moves_on_its_own_batches_alone() {
    let mut run = Run::new(&[lora(1), exchanging(), Spec::new("unlock")], 1);
    let mut before = run.params();
    for step in 0..3 * STEPS as usize {
        assert_eq!(run.groups.turn(), step % 3);
        run.step();
        let now = run.params();
        for group in 0..3 {
            assert_eq!(now[group] != before[group], group == step % 3, "group {group} in step {step}");
        }
        before = now;
    }
    assert!(run.groups.adapter(3).is_none());
    assert_eq!(run.groups.steps(), 3 * STEPS);
}

/// What is trained together is attached together, and is what was measured.
#[test]
fn the_result_is_one_stack() {
    let mut run = Run::new(&[lora(1), Spec::new("ia3")], 1);
    (0..2 * STEPS).for_each(|_| run.step());
    let rows = rows(0);
    let measured = run.groups.assess(1, &rows).unwrap().loss;
    let (base, params) = (run.base.clone(), run.params());
    let stack = run.groups.into_stack();
    assert_eq!(stack.all().iter().map(|a| a.adapter.kind().name).collect::<Vec<_>>(), ["lora", "ia3"]);
    assert!(stack.all().iter().zip(&params).all(|(a, p)| a.adapter.params() == &p[..]));
    let model = tiny::model("llama", 7, true, 1);
    // One that changes nothing on top of them.
    let mut above = Trainer::on(&model, stack, adapter::create(&lora(9), &base).unwrap(), Config::default()).unwrap();
    assert_eq!(above.assess(&rows).unwrap().loss, measured);
}

/// A group without others is a trainer, to the bit.
#[test]
fn one_group_is_a_plain_run() {
    let mut run = Run::new(&[lora(1)], 1);
    let model = tiny::model("llama", 7, true, 1);
    let config = Config { steps: STEPS, lr: 1e-2, ..Config::default() };
    let mut plain = Trainer::adapter(&model, adapter::create(&lora(1), &run.base).unwrap(), config).unwrap();
    let (mut order, rows) = (order(), rows(0));
    for _ in 0..STEPS {
        run.step();
        let batch: Vec<Example> = order.next_step().concat().iter().map(|i| rows[*i].clone()).collect();
        plain.step(&[&batch]).unwrap();
        assert!(run.params()[0] == plain.adapter_ref().unwrap().params());
    }
}

#[test]
fn groups_go_on_from_every_step_in_every_bit() {
    let specs = [lora(1), exchanging(), Spec::new("dora").with("rank", 2)];
    let mut whole = Run::new(&specs, 1);
    let all = specs.len() * STEPS as usize;
    let mut saved = vec![whole.save()];
    for _ in 0..all {
        whole.step();
        saved.push(whole.save());
    }
    for (step, bytes) in saved.iter().enumerate() {
        let mut run = Run::new(&specs, 3);
        (0..step % 4).for_each(|_| run.step());
        run.go_on(bytes.clone());
        assert!(run.save() == *bytes, "saved again after step {step}");
        (step..all).for_each(|_| run.step());
        assert!(run.save() == saved[all], "from step {step}");
    }
    // Other groups, or these in another order, are other runs.
    let mut other = Run::new(&[exchanging(), lora(1), Spec::new("dora").with("rank", 2)], 1);
    let facts = other.facts();
    let e = other.groups.resume(saved[3].clone().into(), &other.base, &facts, &Limits::default()).unwrap_err();
    assert!(matches!(e, mynah::Error::Changed(_)), "{e}");
    let mut fewer = Run::new(&specs[..2], 1);
    let facts = fewer.facts();
    assert!(fewer.groups.resume(saved[3].clone().into(), &fewer.base, &facts, &Limits::default()).is_err());
}

#[test]
fn what_cannot_be_trained_is_refused() {
    let model = tiny::model("llama", 7, true, 1);
    let base = model.base([9; 32]);
    let group = |lr| Group { adapter: adapter::create(&lora(1), &base).unwrap(), lr, order: order() };
    let why = |groups| Groups::new(&model, Stack::new(), groups, Config::default()).err().unwrap().to_string();
    assert!(why(vec![]).contains("groups"));
    assert!(why(vec![group(1e-3), group(f32::NAN)]).contains("learning rate"));
}

fn moved(kind: &Kind, base: &Base, rng: &mut Rng) -> Option<Box<dyn Adapter>> {
    let mut a = adapter::create(&spec_of(kind, base)?, base).unwrap();
    a.params_mut().iter_mut().for_each(|p| *p += 0.1 * rng.unit());
    Some(a)
}

/// The loss of a pair along a direction in the parameters of one of them, and how steep it is by the gradients.
fn slopes(model: &Model, pair: [&Kind; 2], which: usize) -> Option<[f64; 2]> {
    let base = model.base([9; 32]);
    let config = Config { lr: 1e-30, clip: 0.0, schedule: Schedule::Constant, steps: 9, ..Config::default() };
    let loss = |by: f32| -> Option<(f64, f64)> {
        let mut rng = Rng(3);
        let mut groups = Vec::new();
        let mut direction = Vec::new();
        for (i, kind) in pair.into_iter().enumerate() {
            let mut adapter = moved(kind, &base, &mut rng)?;
            if i == which {
                direction = adapter.params().iter().map(|_| rng.unit()).collect();
                let length = direction.iter().map(|d| d * d).sum::<f32>().sqrt();
                direction.iter_mut().for_each(|d| *d /= length);
                adapter.params_mut().iter_mut().zip(&direction).for_each(|(p, d)| *p += by * d);
            }
            groups.push(Group { adapter, lr: 1e-30, order: Order::new(5, 5, 1, None).unwrap() });
        }
        let states = groups.iter().all(|group| group.adapter.shape().needs.state > 0);
        let mut groups = match Groups::new(model, Stack::new(), groups, config.clone()) {
            Ok(groups) => groups,
            Err(e) => {
                assert!(states && e.to_string().contains("a state along the layers"), "{e}");
                return None;
            }
        };
        let rows = rows(0);
        (0..which).for_each(|_| _ = groups.step(&[&rows]).unwrap());
        let loss = groups.step(&[&rows]).unwrap().loss;
        let steep = groups.grads(which).iter().zip(&direction).map(|(g, d)| f64::from(*g) * f64::from(*d)).sum();
        Some((loss, steep))
    };
    const BY: f32 = 0.02;
    let central = |(a, b): (f64, f64), by: f32| (a - b) / f64::from(2.0 * by);
    let both = |by: f32| Some((loss(by)?.0, loss(-by)?.0));
    let (wide, narrow) = (central(both(BY)?, BY), central(both(BY / 2.0)?, BY / 2.0));
    Some([(4.0 * narrow - wide) / 3.0, loss(0.0)?.1])
}

/// Kinds stand in one stack two by two and are trained in turn, or are refused by name. Of each two one is trained above the
/// other, and the other one below it. Kinds whose gradient is no derivative, of a bend or of what they hold fixed, stand
/// beside others only.
#[test]
fn kinds_learn_together_two_by_two() {
    let model = tiny::model("llama", 7, true, 1);
    let (mut tried, mut worst) = (0, 0.0f64);
    for (i, below) in KINDS.iter().enumerate() {
        for (j, above) in KINDS.iter().enumerate() {
            // Each kind with every fifth of the others, which meets all their places.
            if (i + j) % 5 != 0 {
                continue;
            }
            let (pair, which) = ([*below, *above], (i + j) / 5 % 2);
            let names = pair.map(|kind| kind.name);
            if HELD.contains(&names[which]) || BENT.contains(&names[which]) {
                continue;
            }
            let Some([want, got]) = slopes(&model, pair, which) else { continue };
            // Losses are sums in single precision, and the kinds are curved, or have bends.
            let apart = (want - got).abs() / (want.abs().max(got.abs()) + 0.02);
            let bent = names.iter().any(|name| BENT.contains(name));
            assert!(apart < if bent { 2e-1 } else { 5e-2 }, "{names:?}, number {which}: {got} for {want}");
            (tried, worst) = (tried + 1, worst.max(apart));
        }
    }
    eprintln!("{tried} pairs, at most {worst:.1e} apart");
    assert!(tried > 3 * KINDS.len(), "{tried} pairs");
}
