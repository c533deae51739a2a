//! Sparse changes: where their positions are, what they take in a file, and how they are exchanged in training.

use crate::tiny;
use mynah::adapter::{self, Adapter, At, Base, Known, Origin, Place, Site, Spec, Step};
use mynah::bytes::Limits;
use mynah::container::head::Head;
use mynah::kernel::{self, Compute, Pool, Tile};
use mynah::model::Model;
use mynah::nn::attention::Heads;
use mynah::role::Role;
use mynah::train::data::Order;
use mynah::train::optim::{self, OPTIMIZERS};
use mynah::train::{Checkpoint, Config, Example, Trainer, Zeroth};

/// The change of a slot, dense: a matrix of zeros that it was baked into.
fn dense(adapter: &dyn Adapter, slot: usize) -> Vec<f32> {
    let [n_in, n_out] = adapter.shape().slots[slot].shape;
    let cx = Compute { kernels: kernel::best(), pool: Pool::new(1) };
    let heads = Heads { q: 1, kv: 1, dim: 1, scale: 1.0, cap: None };
    let at = At { cx: &cx, place: adapter.shape().slots[slot].place, slot, strength: 1.0, heads, lse: None };
    let mut w = vec![0.0; n_in * n_out];
    adapter.bake(&at, 0..n_out, &mut Tile::new(&mut w, n_out, n_in));
    w
}

/// The flat positions of every slot: where a change of ones is not zero. None is there twice.
fn positions(adapter: &mut dyn Adapter) -> Vec<Vec<usize>> {
    let before = adapter.params().to_vec();
    adapter.params_mut().fill(1.0);
    let of = |slot: usize| {
        let w = dense(adapter, slot);
        assert!(w.iter().all(|v| [0.0, 1.0].contains(v)), "a position is there twice");
        (0..w.len()).filter(|i| w[*i] != 0.0).collect()
    };
    let all: Vec<Vec<usize>> = (0..adapter.shape().slots.len()).map(of).collect();
    adapter.params_mut().copy_from_slice(&before);
    let counts = adapter.shape().slots.iter().map(|s| adapter.shape().parts[s.parts.start].range.len());
    assert!(counts.eq(all.iter().map(Vec::len)));
    all
}

fn spec(values: usize) -> Spec {
    Spec { seed: 3, ..Spec::new("sparse") }.with("values", values)
}

fn model() -> (Model, Base) {
    let model = tiny::model("llama", 7, true, 2);
    let base = model.base([9; 32]);
    (model, base)
}

/// The same numbers on every target and in every version.
#[test]
fn positions_follow_from_the_seed() {
    let (_, base) = model();
    let one = Spec { targets: vec![Role::Q], layers: Some(vec![1]), ..spec(6) };
    let of = |spec: &Spec| positions(&mut *adapter::create(spec, &base).unwrap()).remove(0);
    assert_eq!(of(&one), [34, 172, 281, 348, 372, 526]);
    assert_eq!(of(&one.clone().with("mask", "strided")).len(), 6);
    // Few are among those of more.
    let more = of(&one.clone().with("values", 40));
    assert!(of(&one).iter().all(|at| more.contains(at)));
    // The largest of a matrix.
    let w = base.matrix(Site { layer: 1, role: Role::Q }).unwrap();
    let mut all: Vec<(f32, usize)> = Vec::new();
    let mut row = vec![0.0; w.cols];
    for i in 0..w.rows {
        w.decode(i, 0..w.cols, &mut row);
        all.extend(row.iter().enumerate().map(|(j, v)| (v.abs(), i * w.cols + j)));
    }
    all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let mut want: Vec<usize> = all[..6].iter().map(|(_, at)| *at).collect();
    want.sort();
    assert_eq!(of(&one.with("mask", "magnitude")), want);
}

#[test]
fn values_are_shared_out_as_the_setting_says() {
    let (_, base) = model();
    for (spread, weight) in [
        ("size", (|[n_in, n_out]| n_in * n_out) as fn([usize; 2]) -> usize),
        ("sides", |[n_in, n_out]| n_in + n_out),
        ("even", |_| 1),
    ] {
        let adapter = adapter::create(&spec(1000).with("spread", spread), &base).unwrap();
        let (shape, n) = (adapter.shape(), adapter.params().len());
        assert_eq!(n, 1000);
        let all: usize = shape.slots.iter().map(|s| weight(s.shape)).sum();
        for slot in &shape.slots {
            let (got, want) =
                (shape.parts[slot.parts.start].range.len(), 1000.0 * weight(slot.shape) as f64 / all as f64);
            assert!((got as f64 - want).abs() < 1.0, "{spread} {}: {got} for {want}", slot.place);
        }
    }
    // More than there are.
    let all = adapter::create(&spec(1 << 20), &base).unwrap();
    assert_eq!(all.params().len(), all.shape().slots.iter().map(|s| s.shape[0] * s.shape[1]).sum::<usize>());
}

#[test]
fn a_hundred_numbers_make_a_file() {
    let (model, base) = model();
    let save = |spec: &Spec| {
        let mut adapter = adapter::create(spec, &base).unwrap();
        adapter.params_mut().iter_mut().enumerate().for_each(|(i, v)| *v = 0.25 + i as f32 / 64.0);
        let bytes = adapter::to_bytes_as(&*adapter, &base, &Default::default(), "f16").unwrap();
        let mut back = adapter::from_bytes(bytes.clone().into(), &base, &Limits::default()).unwrap();
        assert_eq!(positions(&mut *back), positions(&mut *adapter));
        model.ready(back).unwrap();
        bytes.len() - 2 * adapter.params().len()
    };
    // A seed and the values.
    assert!(save(&spec(100)) <= 120, "{}", save(&spec(100)));
    // Positions that follow from the base are stored, in their entropy and little more.
    let (few, all) = (100.0, 20_000.0f64);
    let most = few * ((all / few).log2() + 2.5) / 8.0 + 2.0 * 14.0 + 160.0;
    assert!((save(&spec(100).with("mask", "magnitude")) as f64) < most);
}

/// Wherever a file claims positions that its layers do not have.
#[test]
fn positions_that_do_not_fit_are_refused() {
    let (_, base) = model();
    let one = Spec { targets: vec![Role::Q], layers: Some(vec![1]), ..spec(3) };
    let [n_in, n_out] = base.shape(Site { layer: 1, role: Role::Q }).unwrap().map(|n| n as u32);
    let why = |positions: Vec<Vec<[u32; 2]>>| {
        adapter::kinds::sparse::at(&one, &base, positions).err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert_eq!(why(vec![vec![[1, 2], [0, 0], [0, 5]]]), "");
    for (bad, word) in [
        (vec![], "0 layers for 1"),
        (vec![vec![[0, 0], [0, 1]]], "2 at"),
        (vec![vec![[0, 0], [0, 1], [0, 1]]], "twice"),
        (vec![vec![[0, 0], [0, 1], [0, n_in]]], "of"),
        (vec![vec![[0, 0], [0, 1], [n_out, 0]]], "of"),
    ] {
        assert!(why(bad).contains(word), "{word}");
    }
}

const STEPS: u64 = 12;

fn exchanging(how: &str) -> Spec {
    spec(200).with("reselect", how).with("reselect every", 4).with("reselect samples", 2).with("reselect share", 0.5)
}

struct Run {
    trainer: Trainer,
    order: Order,
    rows: Vec<Example>,
    base: Base,
}

impl Run {
    fn new(spec: &Spec, config: Config, threads: usize) -> Run {
        Run::on(tiny::model("llama", 7, true, threads), spec, config)
    }

    fn on(model: Model, spec: &Spec, config: Config) -> Run {
        Run::for_steps(model, spec, Config { lr: 1e-2, ..config }, STEPS)
    }

    fn for_steps(model: Model, spec: &Spec, config: Config, steps: u64) -> Run {
        let base = model.base([9; 32]);
        let config = Config { steps, ..config };
        let trainer = Trainer::adapter(&model, adapter::create(spec, &base).unwrap(), config).unwrap();
        let row = |i: u32| Example::all((0..9).map(|t| (i * 5 + t * 3) % tiny::VOCAB as u32).collect());
        Run { trainer, order: Order::new(7, 2, 2, Some(5)).unwrap(), rows: (0..7).map(row).collect(), base }
    }

    fn step(&mut self) -> f64 {
        let batches: Vec<Vec<Example>> =
            self.order.next_step().iter().map(|rows| rows.iter().map(|&i| self.rows[i].clone()).collect()).collect();
        self.trainer.step(&batches.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap().loss
    }

    fn save(&self) -> Vec<u8> {
        self.trainer.checkpoint(&self.base, &self.order, &Head::new(), &[]).unwrap()
    }

    fn go_on(&mut self, bytes: Vec<u8>) {
        let saved = Checkpoint::read(bytes.into(), &Limits::default()).unwrap();
        self.trainer.resume(&saved, &self.base, &mut self.order, &Head::new()).unwrap();
    }

    fn file(&self) -> Vec<u8> {
        adapter::to_bytes_as(self.trainer.adapter_ref().unwrap(), &self.base, &Default::default(), "f32").unwrap()
    }

    fn positions(&self) -> Vec<Vec<usize>> {
        let limits = Limits::default();
        positions(&mut *adapter::restore(self.file().into(), &self.base, &limits, adapter::Fit::Same).unwrap())
    }
}

#[test]
fn exchanges_keep_the_number_of_values() {
    for how in ["ag", "ma"] {
        let mut run = Run::new(&exchanging(how), Config::default(), 1);
        let (first, n) = (run.positions(), run.trainer.parameters());
        let mut before = first.clone();
        for step in 1..=STEPS {
            run.step();
            let now = run.positions();
            assert_eq!(run.trainer.parameters(), n);
            // The last step is no time for an exchange: what is new would not be trained.
            assert_eq!(now != before, step % 4 == 0 && step < STEPS, "{how} {step}");
            if how == "ag" && step == 4 {
                let stay = first.iter().zip(&now).map(|(a, b)| a.iter().filter(|at| b.contains(at)).count());
                assert!(stay.sum::<usize>() < n / 4, "at first nearly all are exchanged");
            }
            before = now;
        }
    }
}

#[test]
fn a_share_of_nothing_is_a_fixed_mask() {
    let run = |spec: &Spec| {
        let mut run = Run::new(spec, Config::default(), 1);
        let losses: Vec<f64> = (0..STEPS).map(|_| run.step()).collect();
        (losses, run.trainer.adapter_ref().unwrap().params().to_vec(), run.positions())
    };
    let fixed = run(&spec(200));
    for how in ["ag", "ma"] {
        assert!(run(&exchanging(how).with("reselect share", 0.0)) == fixed, "{how}");
    }
}

/// Where gradients are largest more is learnt than where chance says, each at the same rate.
#[cfg(feature = "base")]
#[test]
fn gradients_choose_better_than_chance() {
    let model = embedded();
    let last = |spec: &Spec| {
        let config = Config { lr: 3e-3, ..Config::default() };
        let mut run = Run::for_steps(model.clone(), &spec.clone().with("reselect every", 8), config, 24);
        (0..24).map(|_| run.step()).last().unwrap()
    };
    let fixed = last(&spec(500));
    for how in ["ag", "ma"] {
        let grown = last(&spec(500).with("reselect", how).with("reselect moments", "corrected"));
        assert!(grown < fixed, "{how}: {grown} after exchanges, {fixed} without");
    }
}

#[test]
fn a_run_goes_on_across_exchanges_in_every_bit() {
    let optimizers = OPTIMIZERS.iter().map(|row| ("ag", row.name, None));
    let codec = Some(adapter::compress::Spec::new("levels"));
    let others = [("ma", "adamw", None), ("ag", "adamw", codec)];
    for (how, optimizer, codec) in optimizers.chain(others) {
        let what = format!("{how} {optimizer}");
        let new = |threads| {
            let config = Config { optimizer: optim::Spec::new(optimizer), codec: codec.clone(), ..Config::default() };
            Run::new(&exchanging(how), config, threads)
        };
        let mut whole = new(1);
        let mut saved = vec![whole.save()];
        for _ in 0..STEPS {
            whole.step();
            saved.push(whole.save());
        }
        for step in [0, 2, 3, 4, 5, 7, 11] {
            let mut run = new(3);
            (0..step % 3).for_each(|_| _ = run.step());
            run.go_on(saved[step].clone());
            assert!(run.save() == saved[step], "{what}: saved again after step {step}");
            (step as u64..STEPS).for_each(|_| _ = run.step());
            assert!(run.save() == saved[STEPS as usize], "{what}: from step {step}");
        }
        // Statistics are of the run alone.
        let mut file = Run::new(&exchanging(how), Config::default(), 1);
        let other = whole.file();
        file.step();
        assert!(other.len() < saved[5].len(), "{what}");
        assert!(!other.windows(8).any(|w| w == b"exchange"), "{what}");
    }
}

/// Which positions are chosen is tested by what the sums of a step say.
#[test]
fn what_goes_and_comes_back_stays_as_it_is() {
    let (_, base) = model();
    let one = Spec { targets: vec![Role::Q], layers: Some(vec![1]), ..spec(4) };
    let one = one.with("reselect", "ag").with("reselect every", 1).with("reselect samples", 1);
    let mut adapter = adapter::create(&one, &base).unwrap();
    adapter.params_mut().copy_from_slice(&[0.5, -0.25, 2.0, 1.0]);
    let [n_in, _] = adapter.shape().slots[0].shape;
    assert!(matches!(adapter.shape().slots[0].place, Place::Site(_)));
    let at = positions(&mut *adapter).remove(0);
    let free = (0..).find(|flat| !at.contains(flat)).unwrap();
    // Of the four that may go one is no candidate; a new one is. Positions stay sorted.
    let mut sums = vec![0.0; 4];
    for (flat, g) in [(at[0], 3.0), (at[2], -2.0), (free, 4.0), (at[3], 1.0)] {
        sums.extend([(flat / n_in) as f32, (flat % n_in) as f32, g]);
    }
    let origins = adapter.exchange(Step { number: 1, last: 10 }, &[0.0; 4], &sums).unwrap();
    let known = Known { mean: 4.0, square: 16.0, samples: 1, corrected: false };
    let mut want = vec![(at[0], Origin::Kept(0)), (at[2], Origin::Kept(2)), (at[3], Origin::Kept(3))];
    want.push((free, Origin::New(known)));
    want.sort_by_key(|(at, _)| *at);
    assert_eq!(origins, want.iter().map(|(_, origin)| *origin).collect::<Vec<_>>());
    assert_eq!(positions(&mut *adapter)[0], want.iter().map(|(at, _)| *at).collect::<Vec<_>>());
    let old = [0.5, -0.25, 2.0, 1.0];
    let value = |origin: &Origin| if let Origin::Kept(i) = origin { old[*i] } else { 0.0 };
    assert_eq!(adapter.params(), origins.iter().map(value).collect::<Vec<_>>());
}

#[test]
fn estimated_gradients_exchange_nothing() {
    let (model, base) = model();
    let zeroth = Config { gradient: mynah::train::Gradient::Zeroth(Zeroth::default()), ..Config::default() };
    let why = |spec: &Spec| Trainer::adapter(&model, adapter::create(spec, &base).unwrap(), zeroth.clone()).err();
    assert!(why(&spec(200)).is_none());
    assert!(why(&exchanging("ag")).unwrap().to_string().contains("sparse could exchange"));
}

#[cfg(feature = "base")]
fn embedded() -> Model {
    use mynah::bytes::Bytes;
    use mynah::gguf::Gguf;
    let gguf = Gguf::parse(Bytes::from_static(mynah::base::MODEL), &Limits::default()).unwrap();
    Model::load(&gguf, Compute { kernels: kernel::best(), pool: Pool::new(2) }).unwrap()
}

/// Positions are chosen by gradients, which do not depend on how the base is stored.
#[cfg(feature = "base")]
#[test]
fn a_base_of_four_bits_learns() {
    let model = embedded();
    assert_eq!(model.base([0; 32]).format, "Q4_0");
    for how in ["ag", "ma"] {
        let mut run = Run::on(model.clone(), &exchanging(how), Config::default());
        let losses: Vec<f64> = (0..STEPS).map(|_| run.step()).collect();
        assert!(losses[STEPS as usize - 1] < losses[0] - 0.2, "{how}: {losses:?}");
    }
}
