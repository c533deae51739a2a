//! A run that was stopped at any moment and went on ends with the same bytes as one that was not.

use crate::alloc::largest;
use crate::liar::seal;
use crate::tiny::{self, bases};
use mynah::adapter::{self, Base, Spec, compress};
use mynah::bytes::Limits;
use mynah::container::head::Head;
use mynah::error::{Error, Result};
use mynah::model::Model;
use mynah::nn::linear::Precision;
use mynah::role::Role;
use mynah::train::data::{self, Order};
use mynah::train::optim::{self, OPTIMIZERS};
use mynah::train::{Checkpoint, Config, Example, Schedule, Trainer};

const STEPS: u64 = 6;

/// A run on the tiny model, with a log of its own.
pub struct Run {
    trainer: Trainer,
    order: Order,
    rows: Vec<Example>,
    base: Base,
    log: Vec<u8>,
}

#[derive(Clone)]
pub struct Plan {
    pub kind: &'static str,
    pub rank: usize,
    pub config: Config,
    pub batch: usize,
    pub seed: u64,
    pub salt: u32,
    pub model: Model,
    /// Whether the adapter stands on one matrix alone.
    pub small: bool,
}

impl Plan {
    pub fn new(kind: &'static str, optimizer: &str) -> Plan {
        let config = Config {
            lr: 1e-2,
            steps: STEPS,
            schedule: Schedule::Cosine,
            warmup: 2,
            optimizer: optim::Spec::new(optimizer).with("weight decay", 0.01f32),
            ..Config::default()
        };
        Plan {
            kind,
            rank: 4,
            config,
            batch: 2,
            seed: 5,
            salt: 0,
            model: tiny::model("llama", 7, true, 1),
            small: false,
        }
    }

    pub fn start(&self) -> Run {
        let base = self.model.base([9; 32]);
        let trainer = match self.kind {
            "full" => Trainer::full(&self.model, self.config.clone()),
            kind => {
                let mut spec = bases(Spec::new(kind).with("rank", self.rank), [3, 3]);
                if self.small {
                    (spec.layers, spec.targets) = (Some(vec![1]), vec![Role::K]);
                }
                Trainer::adapter(&self.model, adapter::create(&spec, &base).unwrap(), self.config.clone())
            }
        };
        let row = |i: u32| Example::all((0..9).map(|t| (i * 5 + t * 3 + self.salt) % tiny::VOCAB as u32).collect());
        let order = Order::new(7, self.batch, 1, Some(self.seed)).unwrap();
        Run { trainer: trainer.unwrap(), order, rows: (0..7).map(row).collect(), base, log: Vec::new() }
    }
}

impl Run {
    pub fn step(&mut self) {
        let rows = self.order.next_step();
        let batches: Vec<Vec<Example>> =
            rows.iter().map(|rows| rows.iter().map(|&i| self.rows[i].clone()).collect()).collect();
        let report = self.trainer.step(&batches.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
        self.log.extend(format!("{report:?}\n").bytes());
    }

    fn facts(&self) -> Head {
        let mut facts = Head::new();
        facts.set("rows to learn", blake3::Hash::from(data::digest(&self.rows)).to_hex().as_str());
        facts
    }

    pub fn save(&self) -> Vec<u8> {
        self.trainer.checkpoint(&self.base, &self.order, &self.facts(), &[("log", &self.log)]).unwrap()
    }

    pub fn go_on(&mut self, bytes: Vec<u8>) -> Result<()> {
        let saved = Checkpoint::read(bytes.into(), &Limits::default())?;
        let facts = self.facts();
        self.trainer.resume(&saved, &self.base, &mut self.order, &facts)?;
        self.log = saved.note("log")?.to_vec();
        Ok(())
    }
}

#[test]
fn every_kind_and_optimiser_goes_on_from_every_step_in_every_bit() {
    let kinds = ["lora", "nola", "full"].map(|kind| (kind, "adamw"));
    let optimizers = OPTIMIZERS.iter().map(|row| ("lora", row.name));
    let plain = kinds.into_iter().chain(optimizers).map(|(kind, optimizer)| (kind, optimizer, None));
    let through = [("uni", "levels"), ("nola", "levels"), ("lora", "ternary"), ("lora", "q4"), ("dora", "sparse-q8")];
    let through = through.map(|(kind, codec)| (kind, "adamw", Some(compress::Spec::new(codec))));
    for (kind, optimizer, codec) in plain.chain(through) {
        let mut plan = Plan::new(kind, optimizer);
        plan.config.codec = codec;
        let mut whole = plan.start();
        let mut saved = vec![whole.save()];
        for _ in 0..STEPS {
            whole.step();
            saved.push(whole.save());
        }
        for (step, bytes) in saved.iter().enumerate() {
            let mut run = plan.start();
            // What the trainer did before does not matter.
            (0..step % 3).for_each(|_| run.step());
            run.go_on(bytes.clone()).unwrap();
            assert_eq!(run.trainer.steps(), step as u64);
            assert!(run.save() == *bytes, "{kind} {optimizer}: saved again after step {step}");
            (step as u64..STEPS).for_each(|_| run.step());
            assert!(run.save() == saved[STEPS as usize], "{kind} {optimizer}: from step {step}");
        }
    }
}

#[test]
fn what_changed_is_refused_with_a_list_of_all() {
    let mut run = Plan::new("lora", "adamw").start();
    run.step();
    let saved = run.save();
    type Edit = fn(&mut Plan);
    let edits: [(Edit, &[&str]); 13] = [
        (
            |p| p.config.codec = Some(compress::Spec::new("levels").with("bits", 3)),
            &["codec of training was nothing, now levels", "codec bits was nothing, now 3"],
        ),
        (|p| p.rank = 8, &["rank was 4, now 8"]),
        (|p| p.kind = "nola", &["kind was lora, now nola", "bases.a was nothing, now 3"]),
        (|p| p.kind = "full", &["kind was lora, now full"]),
        (|p| p.config.precision = Precision::Int8, &["products was nothing, now in 8 bits"]),
        (|p| p.config.lr = 2e-2, &["learning rate was 0.01, now 0.02"]),
        (|p| p.config.steps = 9, &["steps was 6, now 9"]),
        (|p| p.config.optimizer.kind = "lion".into(), &["optimizer was adamw, now lion"]),
        (|p| p.config.schedule = Schedule::Linear, &["schedule was cosine, now linear"]),
        (|p| p.batch = 3, &["rows of a batch was 2, now 3"]),
        (|p| p.salt = 1, &["rows to learn was "]),
        (|p| p.model = tiny::model("llama", 8, true, 1), &["base.fingerprint was "]),
        (
            |p| (p.batch, p.seed, p.salt, p.config.clip) = (1, 6, 2, 0.5),
            &[
                "rows of a batch was 2, now 1",
                "seed 5, now shuffled by seed 6",
                "gradient clip was 1, now 0.5",
                "rows to l",
            ],
        ),
    ];
    for (edit, words) in edits {
        let mut plan = Plan::new("lora", "adamw");
        edit(&mut plan);
        let mut other = plan.start();
        let before = other.save();
        let e = other.go_on(saved.clone()).unwrap_err();
        assert!(matches!(&e, Error::Changed(list) if list.len() >= words.len()), "{e}");
        words.iter().for_each(|word| assert!(e.to_string().contains(word), "{word}: {e}"));
        assert!(other.save() == before, "a refused checkpoint changed something");
    }
    // Neither threads nor what stays in memory decide the result.
    let mut plan = Plan::new("lora", "adamw");
    plan.model = tiny::model("llama", 7, true, 3);
    plan.config.recompute = mynah::train::Recompute::All;
    let mut other = plan.start();
    other.go_on(saved).unwrap();
    run.step();
    other.step();
    assert!(run.save() == other.save());
}

#[test]
fn hostile_checkpoints_are_errors_or_other_runs() {
    let mut plan = Plan::new("nola", "adamw_8bit");
    plan.model = tiny::model("llama", 7, true, 1);
    let mut run = plan.start();
    run.step();
    let good = run.save();
    assert!(good.len() < 16_000, "{} bytes", good.len());
    let mut other = plan.start();
    let mut held = |bytes: Vec<u8>| {
        let allowed = (1 << 20).max(2 * bytes.len());
        let (result, most) = largest(|| other.go_on(bytes));
        assert!(most <= allowed, "{most} bytes reserved at once");
        result
    };
    for n in 0..good.len() {
        assert!(held(good[..n].to_vec()).is_err(), "cut to {n}");
    }
    let (mut loads, mut refused) = (0, 0);
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        assert!(held(bad.clone()).is_err(), "byte {at}");
        // With checksums made right again it is a lie that only its meaning can betray.
        match held(seal(bad)) {
            Ok(()) => loads += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(loads > 100 && refused > 1000, "{loads} load, {refused} are refused");
    held(good).unwrap();
}

#[test]
fn pieces_that_do_not_fit_are_refused() {
    use mynah::container::{Builder, Container};
    let mut run = Plan::new("lora", "adamw").start();
    (0..2).for_each(|_| run.step());
    let good = run.save();
    let edit = |skip: &str, more: &[(&str, bool, Vec<u8>)]| {
        let c = Container::read(good.clone().into(), &Limits::default()).unwrap();
        let mut file = Builder::new("train");
        for (name, required, _) in c.sections().filter(|(name, ..)| *name != skip) {
            file = file.section(name, required, c.section(name).unwrap().to_vec());
        }
        for (name, required, bytes) in more {
            file = file.section(name, *required, bytes.clone());
        }
        file.finish()
    };
    let mut state = Head::new();
    state.set("step", 7u64).set("epoch", 1u64).set("left", 5u64);
    let lost = |epoch: u64, left: u64| Head::new().set("step", 1u64).set("epoch", epoch).set("left", left).encode();
    let mut fresh = Plan::new("lora", "adamw").start();
    for (bytes, word) in [
        (edit("o.m", &[]), "o.m"),
        (edit("o.m", &[("o.m", true, vec![0; 12])]), "saved state"),
        (edit("o.m", &[("o.m", true, vec![0; 11])]), "whole number"),
        (edit("o.m", &[("o.m", true, vec![9; 12])]), "kind"),
        (edit("o.m", &[("o.m", true, vec![0; 3])]), "ends early"),
        (edit("adapter", &[("adapter", true, vec![])]), "empty"),
        (edit("adapter", &[]), "adapter"),
        (edit("state", &[("state", true, state.encode())]), "7 steps done of 6"),
        (edit("state", &[("state", true, lost(1, 8))]), "8 rows left"),
        (edit("state", &[("state", true, lost(0, 1))]), "1 rows left"),
        (edit("", &[("x", true, vec![])]), "`x`"),
    ] {
        let before = fresh.save();
        let e = fresh.go_on(bytes).unwrap_err().to_string();
        assert!(e.contains(word), "{word}: {e}");
        assert!(fresh.save() == before, "{word}: a refused checkpoint changed something");
    }
    fresh.go_on(edit("", &[("x", false, vec![])])).unwrap();
    let adapter = Checkpoint::read(good.into(), &Limits::default()).unwrap().adapter().unwrap();
    adapter::from_bytes(adapter, &run.base, &Limits::default()).unwrap();
}
