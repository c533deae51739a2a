//! Products of rounded activations: near f32 precision, and the same bits everywhere.

use crate::shared::{needs_shared, shared};
use crate::tiny::{self, Rng};
use mynah::adapter::{self, Spec};
use mynah::bytes::{Bytes, Limits, map};
use mynah::error::Error;
use mynah::gguf::Gguf;
use mynah::kernel::{self, Compute, Kernels, Pool, Tile, View};
use mynah::model::{Model, Session, SessionConfig};
use mynah::nn::linear::{self, Input, Precision, Quantized};
use mynah::quant::{Format, Matrix, encode_matrix};
use mynah::text::{Encode, Tokenizer};
use mynah::train::{Config, Example, Recompute, Trainer};

const NOTES: &str = include_str!("../../src/base/notes.txt");

fn model(bytes: Bytes, kernels: &'static Kernels, threads: usize) -> (Model, Tokenizer) {
    let gguf = Gguf::parse(bytes, &Limits::default()).unwrap();
    let model = Model::load(&gguf, Compute { kernels, pool: Pool::new(threads) }).unwrap();
    (model, Tokenizer::from_gguf(&gguf).unwrap())
}

fn embedded(kernels: &'static Kernels, threads: usize) -> (Model, Tokenizer) {
    model(Bytes::from_static(mynah::base::MODEL), kernels, threads)
}

/// Rows of `len` tokens of a text.
fn rows(tokenizer: &Tokenizer, text: &str, len: usize) -> Vec<Example> {
    let tokens = tokenizer.encode(text, &Encode::default()).unwrap();
    tokens.chunks_exact(len).map(|tokens| Example::all(tokens.to_vec())).collect()
}

/// A trainer whose adapter changes something: B is zero in a fresh one, and A then has no gradient.
fn trainer(model: &Model, config: Config) -> Trainer {
    let mut adapter = adapter::create(&Spec::default().with("rank", 8), &model.base([0; 32])).unwrap();
    let mut rng = Rng(7);
    adapter.params_mut().iter_mut().for_each(|v| *v += rng.unit() * 0.01);
    Trainer::adapter(model, adapter, config).unwrap()
}

fn config(precision: Precision) -> Config {
    Config { precision, clip: 0.0, recompute: Recompute::None, ..Config::default() }
}

/// Losses at both precisions, and the norm of the difference of their gradients over that of the exact ones.
fn compared(model: &Model, rows: &[Example]) -> ([f64; 2], f64) {
    let of = |precision| {
        let mut trainer = trainer(model, config(precision));
        let loss = trainer.step(&[rows]).unwrap().loss;
        (loss, trainer.grads().to_vec())
    };
    let ((exact, want), (fast, got)) = (of(Precision::F32), of(Precision::Int8));
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|v| v * v).sum::<f64>().sqrt();
    let off = norm(&mut got.iter().zip(&want).map(|(g, w)| f64::from(g - w)));
    ([exact, fast], off / norm(&mut want.iter().map(|w| f64::from(*w))))
}

#[test]
fn gradients_are_within_a_few_percent() {
    let (model, tokenizer) = embedded(kernel::best(), 2);
    let ([exact, fast], off) = compared(&model, &rows(&tokenizer, NOTES, 128)[..4]);
    eprintln!("the embedded model: losses {exact:.5} and {fast:.5}, gradients {off:.4} off");
    assert!(fast != exact && (fast - exact).abs() < 0.005 * exact, "losses {exact} and {fast}");
    assert!(off > 0.0 && off < 0.03, "gradients are {off} off");
}

#[needs_shared]
#[test]
fn gradients_of_a_larger_model_are_within_a_few_percent() {
    let shared = shared();
    let text = std::fs::read_to_string(shared.join("golden/llamacpp/ppl/text.txt")).unwrap();
    let bytes = map::open(&shared.join("models/SmolLM2-135M-Instruct.Q4_0.gguf")).unwrap();
    let (model, tokenizer) = model(bytes, kernel::best(), 2);
    let ([exact, fast], off) = compared(&model, &rows(&tokenizer, &text[..3000], 128)[..2]);
    eprintln!("SmolLM2-135M: losses {exact:.5} and {fast:.5}, gradients {off:.4} off");
    assert!((fast - exact).abs() < 0.005 * exact, "losses {exact} and {fast}");
    assert!(off > 0.0 && off < 0.10, "gradients are {off} off");
}

#[test]
fn backends_threads_and_kept_activations_change_no_bit() {
    let of = |kernels, threads, recompute| {
        let (model, tokenizer) = embedded(kernels, threads);
        let rows = rows(&tokenizer, NOTES, 40);
        let mut trainer = trainer(&model, Config { recompute, ..config(Precision::Int8) });
        let losses: Vec<u64> = (0..2)
            .map(|i| trainer.step(&[&rows[3 * i..3 * i + 2], &rows[3 * i + 2..3 * i + 3]]).unwrap().loss.to_bits())
            .collect();
        (losses, trainer.grads().iter().map(|g| g.to_bits()).collect::<Vec<_>>())
    };
    let want = of(kernel::best(), 1, Recompute::None);
    for (threads, recompute) in [(2, Recompute::All), (4, Recompute::AllBut(3))] {
        assert!(of(kernel::best(), threads, recompute) == want, "{threads} threads, {recompute:?}");
    }
    for kernels in kernel::available() {
        assert!(of(kernels, 2, Recompute::None) == want, "{}", kernels.name);
    }
}

/// Formats of floats of 16 bits.
const HALVES: [&str; 2] = ["F16", "BF16"];

/// A small model with such weights and rows that are no whole number of what is multiplied together.
fn halves(format: &str, kernels: &'static Kernels, threads: usize) -> Model {
    let gguf = Gguf::parse(Bytes::from(tiny::file_in("llama", 3, false, format)), &Limits::default()).unwrap();
    Model::load(&gguf, Compute { kernels, pool: Pool::new(threads) }).unwrap()
}

#[test]
fn floats_of_16_bits_meet_activations_of_as_many() {
    let tokens: Vec<u32> = (0..24).map(|t| t * 7 % tiny::VOCAB as u32).collect();
    for format in HALVES {
        // Logits after each token, fed so many at a time.
        let logits = |kernels, threads, precision, step: usize| {
            let model = halves(format, kernels, threads);
            let config = SessionConfig { context: 32, precision, ..SessionConfig::default() };
            let mut session = Session::new(&model, config).unwrap();
            let mut all = Vec::new();
            for tokens in tokens.chunks(step) {
                session.feed_each(tokens, &mut |_, logits| all.extend_from_slice(logits)).unwrap();
            }
            all
        };
        let bits = |all: &[f32]| all.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let want = logits(&kernel::PLAIN, 1, Precision::Int8, 1);
        for kernels in kernel::available() {
            for (threads, step) in [(1, 1), (2, 3), (3, 24)] {
                let got = logits(kernels, threads, Precision::Int8, step);
                assert!(bits(&got) == bits(&want), "{format}, {}, {threads} threads, {step} at a time", kernels.name);
            }
        }
        let exact = logits(kernel::best(), 1, Precision::F32, 24);
        let off = want.iter().zip(&exact).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let most = exact.iter().map(|v| v.abs()).fold(0.0, f32::max);
        eprintln!("{format}: logits up to {most:.3}, {off:.6} off");
        assert!(off > 0.0 && off < 1e-3 * most, "{format}: {off} of {most}");
    }
}

#[test]
fn floats_of_16_bits_at_odd_addresses_give_the_same() {
    let (rows, cols, n) = (50, 48, 3);
    for format in HALVES {
        let format = Format::by_name(format).unwrap();
        let mut rng = Rng(5);
        let values: Vec<f32> = (0..rows * cols).map(|_| rng.unit()).collect();
        let mut bytes = encode_matrix(format, rows, cols, &values).unwrap().data().to_vec();
        let x: Vec<f32> = (0..n * cols).map(|_| rng.unit()).collect();
        let product = |data: Bytes| {
            let w = Matrix::new(format, rows, cols, data).unwrap();
            let odd = w.floats16().is_none();
            let cx = Compute { kernels: kernel::best(), pool: Pool::new(2) };
            let (mut quantized, mut y) = (Quantized::default(), vec![0.0; n * rows]);
            let input = Input::new(&cx, Precision::Int8, View::new(&x, n, cols), &[&w], false, &mut quantized);
            linear::forward(&cx, &w, input, &mut Tile::new(&mut y, n, rows));
            (odd, y)
        };
        let whole = bytes.len();
        let (one, want) = product(Bytes::from(bytes.clone()));
        bytes.insert(0, 0);
        let (other, got) = product(Bytes::from(bytes).slice(1..whole + 1).unwrap());
        assert!(one != other, "one of them is odd");
        assert_eq!(got, want);
    }
}

#[test]
fn training_on_floats_of_16_bits_is_near_the_exact_path() {
    let rows: Vec<Example> =
        (0..3).map(|r| Example::all((0..20).map(|t| (t * 5 + r) % tiny::VOCAB as u32).collect())).collect();
    for format in HALVES {
        let ([exact, fast], off) = compared(&halves(format, kernel::best(), 2), &rows);
        eprintln!("a model of {format}: losses {exact:.5} and {fast:.5}, gradients {off:.4} off");
        assert!(fast != exact && (fast - exact).abs() < 0.0005 * exact, "losses {exact} and {fast}");
        assert!(off > 0.0 && off < 0.05, "gradients are {off} off");
    }
}

#[test]
fn as_much_is_learnt() {
    let of = |precision| {
        let (model, tokenizer) = embedded(kernel::best(), 2);
        let rows = rows(&tokenizer, NOTES, 64);
        let (held, learnt) = rows.split_at(4);
        let mut trainer = trainer(&model, Config { steps: 40, lr: 2e-3, ..config(precision) });
        let before = trainer.assess(held).unwrap().loss;
        for i in 0..40 {
            let row = i * 2 % (learnt.len() - 1);
            trainer.step(&[&learnt[row..row + 2]]).unwrap();
        }
        (before, trainer.assess(held).unwrap().loss)
    };
    let (exact, fast) = (of(Precision::F32), of(Precision::Int8));
    eprintln!("held-out losses from {:.4} to {:.4}; in 8 bits from {:.4} to {:.4}", exact.0, exact.1, fast.0, fast.1);
    assert!(exact.1 < 0.7 * exact.0, "{exact:?}");
    assert!((fast.1 - exact.1).abs() < 0.02 * exact.1, "{exact:?} {fast:?}");
}

#[test]
fn all_weights_are_not_trained_so() {
    let (model, _) = embedded(kernel::best(), 1);
    let refused = Trainer::full(&model, config(Precision::Int8)).err().unwrap();
    assert!(matches!(refused, Error::Invalid { .. }), "{refused}");
}
