//! The cache of keys and values: what its precisions cost and save.

use crate::shared::{needs_shared, shared};
use mynah::bytes::{Limits, map};
use mynah::gguf::Gguf;
use mynah::kernel::{Compute, Pool, available};
use mynah::model::{CacheType, Model, Session, SessionConfig};
use mynah::nn::linear::Precision;
use mynah::text::{Encode, Tokenizer};
use std::path::Path;

fn open(path: &Path, compute: Compute) -> (Model, Tokenizer) {
    let gguf = Gguf::parse(map::open(path).unwrap(), &Limits::default()).unwrap();
    (Model::load(&gguf, compute).unwrap(), Tokenizer::from_gguf(&gguf).unwrap())
}

fn config(cache: CacheType, context: usize) -> SessionConfig {
    SessionConfig { cache, context, ..Default::default() }
}

/// The logits after every token, read in pieces of `step`.
fn logits(model: &Model, config: SessionConfig, tokens: &[u32], step: usize) -> Vec<f32> {
    let mut session = Session::new(model, config).unwrap();
    let mut all = Vec::new();
    for tokens in tokens.chunks(step) {
        session.feed_each(tokens, &mut |_, logits| all.extend_from_slice(logits)).unwrap();
    }
    all
}

/// Mean loss in nats of each token after the first.
fn loss(logits: &[f32], tokens: &[u32], vocab: usize) -> f64 {
    let rows = logits.chunks_exact(vocab).zip(&tokens[1..]);
    let losses = rows.map(|(row, &next)| {
        let most = row.iter().copied().fold(f32::MIN, f32::max) as f64;
        let sum: f64 = row.iter().map(|v| (*v as f64 - most).exp()).sum();
        most + sum.ln() - row[next as usize] as f64
    });
    losses.sum::<f64>() / (tokens.len() - 1) as f64
}

/// Any tokens, always the same.
fn some_tokens(n: usize, vocab: usize) -> Vec<u32> {
    (0..n as u64).map(|i| (i * i * 7919 + 31 * i + 1) as u32 % vocab as u32).collect()
}

#[needs_shared]
#[test]
fn bits_do_not_depend_on_pieces_threads_or_backend() {
    let shared = shared();
    // One with heads of 8, each with its own keys, and one with several query heads to a key.
    for name in ["stories260K-q4_0.gguf", "stories260K-h192-q4_0.gguf"] {
        for cache in [CacheType::F16, CacheType::Q8, CacheType::F32] {
            let mut first: Option<Vec<f32>> = None;
            for kernels in available() {
                for threads in [1, 3] {
                    let compute = Compute { kernels, pool: Pool::new(threads) };
                    let (model, _) = open(&shared.join("models").join(name), compute);
                    let tokens = some_tokens(70, model.weights.vocab());
                    for step in [1, 3, 7, 70] {
                        let got = logits(&model, config(cache, 70), &tokens, step);
                        let what = format!("{name} {cache:?} {} {threads} threads, {step} at a time", kernels.name);
                        let want = first.get_or_insert_with(|| got.clone());
                        assert!(got.iter().zip(&*want).all(|(a, b)| a.to_bits() == b.to_bits()), "{what}");
                    }
                }
            }
        }
    }
}

#[needs_shared]
#[test]
fn eight_bits_take_half_the_memory_and_hardly_change_the_loss() {
    let shared = shared();
    let compute = Compute { kernels: mynah::kernel::best(), pool: Pool::new(2) };
    let (model, tokenizer) = open(&shared.join("models/SmolLM2-135M-Instruct.Q4_0.gguf"), compute);
    let text = std::fs::read_to_string(shared.join("golden/llamacpp/ppl/text.txt")).unwrap();
    let mut tokens = tokenizer.encode(&text[..4000], &Encode::default()).unwrap();
    tokens.truncate(512);
    let (context, vocab) = (tokens.len(), model.weights.vocab());
    let bytes = |cache| Session::new(&model, config(cache, context)).unwrap().cache_bytes();
    let per = 2 * model.hparams.layers * model.hparams.blocks[0].kv_width() * context;
    assert_eq!(bytes(CacheType::F32), 4 * per);
    assert_eq!(bytes(CacheType::F16), 2 * per);
    assert_eq!(bytes(CacheType::Q8), per + per / 16);
    assert_eq!(bytes(CacheType::Q8), CacheType::Q8.bytes(&model.hparams) * context);

    let far = |a: &[f32], b: &[f32]| {
        let squares: f64 = a.iter().zip(b).map(|(a, b)| ((a - b) as f64).powi(2)).sum();
        (squares / a.len() as f64).sqrt()
    };
    // At int8 precision any change, however small, changes how activations are rounded; f32 precision shows the cache's alone.
    for (precision, most, farthest) in [(Precision::Int8, 0.01, 0.25), (Precision::F32, 0.003, 0.1)] {
        let of = |cache| logits(&model, SessionConfig { precision, ..config(cache, context) }, &tokens, 64);
        let all = [CacheType::F32, CacheType::F16, CacheType::Q8].map(of);
        let losses = all.each_ref().map(|l| loss(l, &tokens, vocab));
        let (f16, q8) = (far(&all[1], &all[0]), far(&all[2], &all[0]));
        eprintln!("{precision:?}: loss with f32 {:.5}, f16 {:.5}, q8_0 {:.5}", losses[0], losses[1], losses[2]);
        eprintln!("{precision:?}: logits beside f32, root mean square: f16 {f16:.5}, q8_0 {q8:.5}");
        assert!((losses[2] - losses[1]).abs() < most, "{losses:?}");
        assert!(f16 < farthest && q8 < farthest, "{f16} {q8}");
    }
}
