//! Queries that should find their passages: embeddings and their gradients against the double-precision twin, what a step
//! consists of, and a search that becomes better.

use crate::doubles::double;
use crate::tiny::{self, Rng, Sketch, VOCAB, WIDTH};
use crate::twin::{Twin, slope};
use mynah::adapter::{self, Adapter, Spec, Stack};
use mynah::bytes::{Bytes, Limits};
use mynah::container::head::Head;
use mynah::gguf::{Gguf, Writer};
use mynah::kernel::{Compute, Pool};
use mynah::model::{ARCHES, Arch, Embedder, Model, Pooling};
use mynah::nn::linear::Precision;
use mynah::quant::Format;
use mynah::train::data::Order;
use mynah::train::objective;
use mynah::train::{Checkpoint, Config, Dropout, Example, Gradient, Recompute, Schedule, Trainer, Zeroth};

fn text(rng: &mut Rng, len: usize) -> Example {
    let tokens: Vec<u32> = (0..len).map(|_| rng.below(VOCAB) as u32).collect();
    Example::new(tokens, vec![false; len])
}

/// Three queries; one with two negatives, one with a weight, one with the query of the first.
fn rows() -> Vec<Example> {
    let mut rng = Rng(5);
    let mut row = |lens: &[usize]| {
        let query = text(&mut rng, lens[0]);
        query.finding(lens[1..].iter().map(|len| text(&mut rng, *len)).collect())
    };
    let (first, second, third) = (row(&[5, 9, 4, 1]), row(&[3, 7]), row(&[1, 6, 8]));
    let third = Example { tokens: first.tokens.clone(), mask: first.mask.clone(), ..third };
    vec![first, second.weighted(0.5), third]
}

fn config(pooling: &str) -> Config {
    let objective = objective::Spec::new("infonce").with("pooling", pooling).with("contrast temperature", 0.2);
    Config { lr: 1e-2, steps: 6, schedule: Schedule::Constant, clip: 0.0, objective, ..Config::default() }
}

/// The same file with projections behind the pooling, not square.
fn projected(file: Vec<u8>) -> Model {
    let gguf = Gguf::parse(Bytes::from(file), &Limits::default()).unwrap();
    let (mut w, mut rng) = (Writer::new(), Rng(77));
    gguf.pairs().for_each(|(key, value)| _ = w.set(key, value.clone()));
    for t in gguf.tensors() {
        w.tensor(&*t.name, t.dims(), t.format, gguf.data(t).unwrap());
    }
    for (name, [cols, rows]) in [("dense_2", [WIDTH, 48]), ("dense_3", [48, WIDTH])] {
        let values: Vec<u8> = (0..cols * rows).flat_map(|_| (rng.unit() * 0.3).to_le_bytes()).collect();
        w.set(format!("gemma-embedding.{name}_feat_in"), cols as u32);
        w.set(format!("gemma-embedding.{name}_feat_out"), rows as u32);
        w.tensor(format!("{name}.weight"), &[cols as u64, rows as u64], Format::by_name("F32").unwrap(), values);
    }
    let gguf = Gguf::parse(Bytes::from(w.finish().unwrap()), &Limits::default()).unwrap();
    Model::load(&gguf, Compute { kernels: mynah::kernel::best(), pool: Pool::new(2) }).unwrap()
}

fn models() -> Vec<(String, Model)> {
    let mut all: Vec<(String, Model)> = ["bert", "gemma-embedding", "llama"]
        .map(|name| (name.to_string(), Sketch::new(Arch::by_name(name).unwrap(), 11, true).model(2)))
        .into();
    all.push(("projections".into(), projected(tiny::file("gemma-embedding", 11, true))));
    all
}

fn moved(kind: &str, model: &Model) -> (Spec, Box<dyn Adapter>) {
    let base = model.base([0; 32]);
    let kind = adapter::Kind::by_name(kind).unwrap();
    let spec = crate::gradients::spec_of(kind, &base).unwrap();
    let mut a = adapter::create(&spec, &base).unwrap();
    let mut rng = Rng(7);
    a.params_mut().iter_mut().for_each(|v| *v += rng.unit() * 0.3);
    (spec, a)
}

/// The loss by its definition: the softmax of cosines over all passages of the step but those that are right too.
fn loss(vectors: &[Vec<f64>], rows: &[Example]) -> f64 {
    let unit = |v: &Vec<f64>| {
        let length = v.iter().map(|v| v * v).sum::<f64>().sqrt();
        v.iter().map(|v| v / length).collect::<Vec<f64>>()
    };
    let starts: Vec<usize> = (0..rows.len()).map(|i| texts(&rows[..i]).len()).collect();
    let mut total = 0.0;
    for (i, row) in rows.iter().enumerate() {
        let query = unit(&vectors[starts[i]]);
        let cosine = |j: usize| unit(&vectors[j]).iter().zip(&query).map(|(a, b)| a * b).sum::<f64>() / 0.2;
        let own = cosine(starts[i] + 1);
        let mut sum = own.exp();
        for (k, other) in rows.iter().enumerate() {
            for j in 0..other.passages.len() {
                let right = j == 0 && other.tokens == row.tokens;
                if !right {
                    sum += cosine(starts[k] + 1 + j).exp();
                }
            }
        }
        total -= f64::from(row.weight.unwrap_or(1.0)) * (own - sum.ln());
    }
    total / rows.len() as f64
}

fn texts(rows: &[Example]) -> Vec<&[u32]> {
    rows.iter().flat_map(Example::sequences).map(|e| &*e.tokens).collect()
}

/// LoRA, a kind that writes rows before the text, and one behind the last norm or inside of norms.
#[test]
fn gradients_are_those_of_the_definition() {
    let rows = rows();
    for (name, model) in models() {
        for (kind, pooling) in
            [("lora", "mean"), ("lora", "cls"), ("lora", "last"), ("prompt", "mean"), ("unlock", "mean")]
        {
            let (spec, a) = moved(kind, &model);
            let what = format!("{kind} on {name}, {pooling}");
            let params: Vec<f64> = a.params().iter().map(|v| f64::from(*v)).collect();
            let (needs, does) = (a.shape().needs, double(kind)(&spec, &model.base([0; 32]), &model));
            let twin = Twin { lead: needs.rows, state: needs.state, ..Twin::new(&model) };
            let (w, by) = (twin.weights(), Pooling::by_name(pooling).unwrap());
            let moved_loss = |i: usize, by_how_much: f64| {
                let mut params = params.clone();
                params[i] += by_how_much;
                loss(&twin.vectors(&w, &texts(&rows), by, &*does(&params)), &rows)
            };
            let mut rng = Rng(3);
            let checked: Vec<usize> = (0..20).map(|_| rng.below(params.len())).collect();
            let want = moved_loss(0, 0.0);
            for recompute in [Recompute::None, Recompute::All] {
                let config = Config { recompute, ..config(pooling) };
                let mut trainer = Trainer::adapter(&model, moved(kind, &model).1, config).unwrap();
                let report = trainer.step(&[&rows]).unwrap();
                assert!((report.loss - want).abs() < 1e-5, "{what}: loss {} for {want}", report.loss);
                let largest = trainer.grads().iter().fold(0.0f32, |m, g| m.max(g.abs()));
                assert!(largest > 0.0, "{what}");
                for &i in &checked {
                    let (want, got) = (slope(|by| moved_loss(i, by), 1e-6), f64::from(trainer.grads()[i]));
                    let bound = 1e-4 * f64::from(largest) + 1e-7;
                    assert!((want - got).abs() <= bound, "{what}, parameter {i}: {got} for {want}");
                }
            }
        }
    }
}

/// All weights of an encoder, too.
#[test]
fn weights_get_the_gradients_of_the_definition() {
    let rows = rows();
    let model = Sketch::new(Arch::by_name("bert").unwrap(), 11, true).model(2);
    let (twin, mut rng) = (Twin::new(&model), Rng(3));
    let w = twin.weights();
    let mut trainer = Trainer::full(&model, config("cls")).unwrap();
    trainer.step(&[&rows[..1], &rows[1..]]).unwrap();
    for (tensor, at) in twin.offsets.names(&model.hparams) {
        let grads = &trainer.grads()[at.clone()];
        let largest = grads.iter().fold(0.0f32, |m, g| m.max(g.abs()));
        for _ in 0..4 {
            let i = at.start + rng.below(at.len());
            let moved = |by: f64| {
                let mut w = w.clone();
                w[i] += by;
                loss(&twin.vectors(&w, &texts(&rows), Pooling::Cls, &|_| ()), &rows)
            };
            let (want, got) = (slope(moved, 1e-4), f64::from(trainer.grads()[i]));
            assert!((want - got).abs() <= 1e-4 * f64::from(largest) + 1e-6, "{tensor}: {got} for {want}");
        }
    }
}

#[test]
fn embeddings_are_those_of_the_definition_whatever_their_company() {
    let rows = rows();
    for (name, model) in models() {
        let twin = Twin::new(&model);
        for (_, pooling) in Pooling::named() {
            let want = twin.vectors(&twin.weights(), &texts(&rows), pooling, &|_| ());
            for precision in [Precision::F32, Precision::Int8] {
                let mut embedder = Embedder::new(&model, Stack::new(), precision, pooling);
                let together = embedder.embed(&texts(&rows)).unwrap();
                let alone: Vec<Vec<f32>> =
                    texts(&rows).iter().map(|t| embedder.embed(&[t]).unwrap().remove(0)).collect();
                assert_eq!(together, alone, "{name}");
                if precision == Precision::F32 {
                    for (got, want) in together.iter().flatten().zip(want.iter().flatten()) {
                        assert!((f64::from(*got) - want).abs() < 1e-4, "{name} {pooling:?}: {got} for {want}");
                    }
                }
            }
        }
        // Every architecture of the table embeds, too; a long list takes several passes.
        let many: Vec<&[u32]> = (0..40).flat_map(|_| texts(&rows)).collect();
        assert!(many.iter().map(|t| t.len()).sum::<usize>() > 2 * Embedder::ROWS);
        let mut embedder = Embedder::new(&model, Stack::new(), Precision::Int8, Pooling::Mean);
        let (few, all) = (embedder.embed(&texts(&rows)).unwrap(), embedder.embed(&many).unwrap());
        assert!(all.chunks(few.len()).all(|some| some == few), "{name}");
    }
    for arch in ARCHES {
        let model = Sketch::new(arch, 11, true).model(1);
        let mut embedder = Embedder::new(&model, Stack::new(), Precision::F32, Pooling::of(&model.hparams).unwrap());
        let vectors = embedder.embed(&texts(&rows)).unwrap();
        assert!(vectors.iter().all(|v| v.len() == WIDTH && v.iter().all(|x| x.is_finite())), "{}", arch.name);
        let why = |texts: &[&[u32]]| Embedder::new(&model, Stack::new(), Precision::F32, Pooling::Mean).embed(texts);
        assert!(why(&[&[1], &[]]).unwrap_err().to_string().contains("text 1"));
        assert!(why(&[&[VOCAB as u32]]).unwrap_err().to_string().contains("vocabulary"));
        assert!(why(&[&[1; 65]]).unwrap_err().to_string().contains("tokens of text 0"));
    }
}

/// Every query chooses among the passages of the whole step, however it is cut; with dropout too.
#[test]
fn micro_batches_and_threads_change_no_bit() {
    let rows = rows();
    for dropout in [None, Some(Dropout { rate: 0.2, seed: 3 })] {
        let run = |threads: usize, cuts: &[usize], recompute: Recompute| {
            let model = tiny::model("bert", 13, true, threads);
            let config = Config { dropout, recompute, ..config("mean") };
            let mut trainer = Trainer::adapter(&model, moved("lora", &model).1, config).unwrap();
            let mut micro: Vec<&[Example]> = Vec::new();
            let mut left = &rows[..];
            for cut in cuts {
                let (some, rest) = left.split_at(*cut);
                micro.push(some);
                left = rest;
            }
            let losses: Vec<u64> = (0..3).map(|_| trainer.step(&micro).unwrap().loss.to_bits()).collect();
            (losses, trainer.grads().iter().map(|g| g.to_bits()).collect::<Vec<u32>>())
        };
        let want = run(1, &[3], Recompute::None);
        assert!(run(3, &[3], Recompute::All) == want);
        for cuts in [&[1, 1, 1][..], &[2, 1]] {
            assert!(run(2, cuts, Recompute::None) == want, "{cuts:?}");
        }
    }
}

#[test]
fn what_cannot_be_learnt_is_refused() {
    let model = tiny::model("bert", 13, true, 1);
    let rows = rows();
    let mut trainer = Trainer::adapter(&model, moved("lora", &model).1, config("mean")).unwrap();
    let lm = Example::all(vec![1, 2, 3]);
    let e = trainer.step(&[&[lm]]).unwrap_err().to_string();
    assert!(e.contains("infonce learns from rows like {\"query\""), "{e}");
    let llama = tiny::model("llama", 13, true, 1);
    let mut sft = Trainer::adapter(&llama, moved("lora", &llama).1, Config::default()).unwrap();
    let e = sft.step(&[&rows]).unwrap_err().to_string();
    assert!(e.contains("it is a query with passages"), "{e}");
    // One row without a negative changes nothing, and is no failure: an epoch may end with one.
    let alone = [rows[1].clone()];
    let report = trainer.step(&[&alone]).unwrap();
    assert_eq!((report.loss, report.grad_norm), (0.0, 0.0));
    // Pooling that gives no vector is named.
    for (number, word) in [(0u32, "none"), (4, "rank"), (9, "9")] {
        let sketch = Sketch { keys: vec![("pooling_type", number.into())], ..Sketch::new(model.hparams.arch, 1, true) };
        let e = Pooling::of(&sketch.model(1).hparams).unwrap_err().to_string();
        assert!(e.contains(&format!("bert.pooling_type = {number}")) && e.contains(word), "{e}");
    }
}

/// Rows of a search with words that the model does not know to be alike: queries of topic `i` have token `i`, their passages
/// token `20 + i`, three times among others.
fn searches(rng: &mut Rng, count: usize) -> Vec<Example> {
    let mut some = |token: usize| {
        let mut e = text(rng, 4);
        let other = e.tokens[0];
        e.tokens = vec![token as u32; 4];
        e.tokens[other as usize % 4] = other;
        e
    };
    (0..count).map(|i| some(i % 12).finding(vec![some(20 + i % 12)])).collect()
}

#[test]
fn a_search_becomes_better() {
    let held = searches(&mut Rng(9), 12);
    for name in ["bert", "gemma-embedding", "llama"] {
        let model = Sketch::new(Arch::by_name(name).unwrap(), 11, true).model(2);
        let spec = Spec { seed: 4, ..Spec::new("lora").with("rank", 8) };
        let lora = adapter::create(&spec, &model.base([0; 32])).unwrap();
        let mut trainer = Trainer::adapter(&model, lora, Config { steps: 150, ..config("mean") }).unwrap();
        let before = trainer.assess(&held).unwrap();
        let mut rng = Rng(21);
        (0..150).for_each(|_| _ = trainer.step(&[&searches(&mut rng, 12)]).unwrap());
        let after = trainer.assess(&held).unwrap();
        let recall = [before, after].map(|a| a.rewards.unwrap().accuracy);
        let losses = [before.loss, after.loss];
        eprintln!(
            "{name}: held-out recall@1 {:.2} → {:.2}, loss {:.2} → {:.2}",
            recall[0], recall[1], losses[0], losses[1]
        );
        assert!(recall[1] >= recall[0] + 0.25 && losses[1] < losses[0], "{name}: {recall:?} {losses:?}");
    }
}

/// Gradients along random directions of forward passes alone point down, too.
#[test]
fn estimates_lower_the_loss() {
    let rows = rows();
    let model = tiny::model("gemma-embedding", 13, true, 1);
    let zeroth = Gradient::Zeroth(Zeroth { eps: 1e-3, directions: 16, seed: 1 });
    let mut trainer =
        Trainer::adapter(&model, moved("lora", &model).1, Config { gradient: zeroth, ..config("mean") }).unwrap();
    let before = trainer.assess(&rows).unwrap().loss;
    (0..6).for_each(|_| _ = trainer.step(&[&rows[..2], &rows[2..]]).unwrap());
    assert!(trainer.assess(&rows).unwrap().loss < before);
}

#[test]
fn a_checkpoint_goes_on_byte_for_byte() {
    let learn = searches(&mut Rng(21), 24);
    let model = tiny::model("bert", 13, true, 1);
    let base = model.base([0; 32]);
    let start = || {
        let trainer = Trainer::adapter(&model, moved("lora", &model).1, config("cls")).unwrap();
        (trainer, Order::new(learn.len(), 4, 2, Some(9)).unwrap())
    };
    let step = |trainer: &mut Trainer, order: &mut Order| {
        let micro: Vec<Vec<Example>> =
            order.next_step().iter().map(|rows| rows.iter().map(|&i| learn[i].clone()).collect()).collect();
        trainer.step(&micro.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
    };
    let save = |trainer: &Trainer, order: &Order| trainer.checkpoint(&base, order, &Head::new(), &[]).unwrap();
    let (mut whole, mut order) = start();
    (0..2).for_each(|_| step(&mut whole, &mut order));
    let saved = Checkpoint::read(save(&whole, &order).into(), &Limits::default()).unwrap();
    (0..3).for_each(|_| step(&mut whole, &mut order));
    let (mut again, mut other) = start();
    again.resume(&saved, &base, &mut other, &Head::new()).unwrap();
    (0..3).for_each(|_| step(&mut again, &mut other));
    assert!(save(&whole, &order) == save(&again, &other));
    // Another temperature or pooling is another run.
    let (_, mut order) = start();
    let mut changed = Trainer::adapter(&model, moved("lora", &model).1, config("last")).unwrap();
    let e = changed.resume(&saved, &base, &mut order, &Head::new()).unwrap_err().to_string();
    assert!(e.contains("pooling"), "{e}");
}
