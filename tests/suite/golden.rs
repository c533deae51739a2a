//! Whole models against llama.cpp's numbers (`golden/llamacpp/model`).

use crate::shared::{needs_shared, shared};
use mynah::adapter::{Ready, gguf_adapter};
use mynah::bytes::{Limits, map};
use mynah::gguf::Gguf;
use mynah::kernel::{Compute, Pool};
use mynah::model::{CacheType, Model, Session, SessionConfig};
use mynah::nn::linear::Precision;
use mynah::text::{Encode, Tokenizer};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub fn open(path: &Path) -> (Model, Tokenizer) {
    let gguf = Gguf::parse(map::open(path).unwrap(), &Limits::default()).unwrap();
    let compute = Compute { kernels: mynah::kernel::best(), pool: Pool::new(2) };
    (Model::load(&gguf, compute).unwrap(), Tokenizer::from_gguf(&gguf).unwrap())
}

/// An adapter of `golden/llamacpp/lora`, ready to attach.
fn adapter(shared: &Path, file: &str, model: &Model, tokenizer: &Tokenizer) -> Arc<Ready> {
    let bytes = map::open(&shared.join("golden/llamacpp/lora").join(file)).unwrap();
    let gguf = Gguf::parse(bytes, &Limits::default()).unwrap();
    let lora = gguf_adapter::read(&gguf, &model.base(tokenizer.fingerprint()), &Limits::default()).unwrap();
    model.ready(lora).unwrap()
}

/// Each model file with the name of its goldens.
fn models(shared: &Path) -> Vec<(PathBuf, String)> {
    let dir = shared.join("models");
    let mut out = vec![
        (dir.join("stories260K.gguf"), "stories260K-f32".to_string()),
        (dir.join("stories260K-q8_0.gguf"), "stories260K-q8_0".into()),
        (dir.join("stories260K-q4_0.gguf"), "stories260K-q4_0".into()),
        (dir.join("stories260K-h192-q4_0.gguf"), "stories260K-h192-q4_0".into()),
        (dir.join("SmolLM2-135M-Instruct.Q4_0.gguf"), "smollm2-Q4_0".into()),
    ];
    for entry in std::fs::read_dir(dir.join("tiny256")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_string();
        out.push((path, name));
    }
    out.sort();
    out
}

fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, v) in logits.iter().enumerate() {
        if *v > logits[best] {
            best = i;
        }
    }
    best as u32
}

/// The largest differences of logits and nll over the prompts of a golden file, and the root of the mean square of logits'; checks greedy ids up to the first narrow margin.
pub fn compare(
    model: &Model,
    tokenizer: &Tokenizer,
    adapter: Option<&Arc<Ready>>,
    golden: &Path,
    config: &SessionConfig,
    greedy: bool,
) -> [f64; 3] {
    let prompts: Value = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    let (mut worst, mut squares, mut count) = ([0.0f64; 2], 0.0, 0.0);
    for p in prompts.as_array().unwrap() {
        let flag = |key: &str| p[key].as_bool().unwrap();
        let options = Encode { add_special: flag("add_special"), parse_special: flag("parse_special") };
        let tokens = tokenizer.encode(p["text"].as_str().unwrap(), &options).unwrap();
        let want: Vec<u32> = p["tokens"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect();
        assert_eq!(tokens, want, "tokens of {}", p["name"]);
        // Some goldens are of one context, which their name says.
        let stem = golden.file_stem().unwrap().to_str().unwrap();
        let fixed = stem.split_once("-ctx").and_then(|(_, rest)| rest.split('.').next()?.parse().ok());
        let context = fixed.unwrap_or_else(|| (tokens.len() + 40).min(model.hparams.context));
        let mut session = Session::new(model, SessionConfig { context, ..config.clone() }).unwrap();
        adapter.into_iter().for_each(|a| session.attach(a.clone(), 1.0).unwrap());
        let nll = p["nll"].as_array().unwrap();
        let mut last = Vec::new();
        session
            .feed_each(&tokens, &mut |i, logits| {
                if i + 1 < tokens.len() {
                    let max = logits.iter().copied().fold(f32::MIN, f32::max) as f64;
                    let sum: f64 = logits.iter().map(|v| (*v as f64 - max).exp()).sum();
                    let got = max + sum.ln() - logits[tokens[i + 1] as usize] as f64;
                    worst[1] = worst[1].max((got - nll[i].as_f64().unwrap()).abs());
                } else {
                    last = logits.to_vec();
                }
            })
            .unwrap();
        for pair in ["top10", "probe32"].iter().flat_map(|k| p[k].as_array().unwrap()) {
            let got = last[pair[0].as_u64().unwrap() as usize] as f64;
            let off = got - pair[1].as_f64().unwrap();
            worst[0] = worst[0].max(off.abs());
            (squares, count) = (squares + off * off, count + 1.0);
        }
        if !greedy {
            continue;
        }
        let mut next = argmax(&last);
        for (step, want) in p["greedy32"].as_array().unwrap().iter().enumerate() {
            if p["greedy_margin"][step].as_f64().unwrap() < MOST || session.position() == session.context() {
                break;
            }
            assert_eq!(next as u64, want.as_u64().unwrap(), "greedy id {step} of {}", p["name"]);
            next = argmax(session.feed(&[next]).unwrap());
        }
    }
    [worst[0], worst[1], f64::sqrt(squares / count)]
}

/// What the f32 precision may differ by from the oracle.
const MOST: f64 = 5e-3;

#[track_caller]
fn assert_exact(model: &Model, tokenizer: &Tokenizer, adapter: Option<&Arc<Ready>>, shared: &Path, name: &str) {
    let config = SessionConfig { precision: Precision::F32, cache: CacheType::F32, ..Default::default() };
    let golden = shared.join(format!("golden/llamacpp/model/{name}.f32ref.json"));
    let [logit, nll, _] = compare(model, tokenizer, adapter, &golden, &config, true);
    eprintln!("{name}: f32 precision, largest logit difference {logit:.2e}, nll {nll:.2e}");
    assert!(logit <= MOST && nll <= MOST, "{name}: {logit} {nll}");
}

#[needs_shared]
#[test]
fn exact_path_equals_the_oracle() {
    let shared = shared();
    for (path, name) in models(&shared) {
        let (model, tokenizer) = open(&path);
        assert_exact(&model, &tokenizer, None, &shared, &name);
    }
}

/// Models with the GGUF adapters of the goldens: model file, adapter, name of the goldens.
const LORAS: [(&str, &str, &str); 2] = [
    ("stories260K.gguf", "lora-stories-public.gguf", "stories260K-f32-lora"),
    ("SmolLM2-135M-Instruct.Q4_0.gguf", "lora-smol-public.gguf", "smollm2-Q4_0-lora"),
];

#[needs_shared]
#[test]
fn attached_adapters_equal_the_oracle() {
    let shared = shared();
    for (model, lora, name) in LORAS {
        let (model, tokenizer) = open(&shared.join("models").join(model));
        let lora = adapter(&shared, lora, &model, &tokenizer);
        assert_exact(&model, &tokenizer, Some(&lora), &shared, name);
    }
}

/// Largest distance of llama.cpp's default mode from the oracle over the logits both list, and the root of the mean square.
pub fn native_distance(dir: &Path, name: &str) -> [f64; 2] {
    let read = |mode: &str| -> Value {
        serde_json::from_slice(&std::fs::read(dir.join(format!("{name}.{mode}.json"))).unwrap()).unwrap()
    };
    let (native, oracle) = (read("native"), read("f32ref"));
    let (mut worst, mut squares, mut count) = (0.0f64, 0.0, 0.0);
    for (a, b) in native.as_array().unwrap().iter().zip(oracle.as_array().unwrap()) {
        for key in ["top10", "probe32"] {
            for want in b[key].as_array().unwrap() {
                let same = a[key].as_array().unwrap().iter().find(|got| got[0] == want[0]);
                if let Some(got) = same {
                    let off = got[1].as_f64().unwrap() - want[1].as_f64().unwrap();
                    worst = worst.max(off.abs());
                    (squares, count) = (squares + off * off, count + 1.0);
                }
            }
        }
    }
    [worst, f64::sqrt(squares / count)]
}

#[needs_shared]
#[test]
fn fast_path_is_no_farther_than_llama_cpp() {
    let shared = shared();
    let dir = shared.join("golden/llamacpp/model");
    let mut farther = Vec::new();
    let mut check = |model: &Model, tokenizer: &Tokenizer, adapter: Option<&Arc<Ready>>, name: &str| {
        let golden = dir.join(format!("{name}.f32ref.json"));
        let [logit, nll, mean] = compare(model, tokenizer, adapter, &golden, &SessionConfig::default(), false);
        let [largest, native] = native_distance(&dir, name);
        let line =
            format!("{name}: logits off by {mean:.4}, at most {logit:.4}; llama.cpp's {native:.4}, {largest:.4}");
        eprintln!("{line}; nll by at most {nll:.4}");
        // The largest of a few hundred is a matter of luck, the mean is not.
        if mean > native || logit > 1.25 * largest {
            farther.push(line);
        }
    };
    for (path, name) in models(&shared) {
        let (model, tokenizer) = open(&path);
        check(&model, &tokenizer, None, &name);
    }
    let (file, lora, name) = LORAS[1];
    let (model, tokenizer) = open(&shared.join("models").join(file));
    let lora = adapter(&shared, lora, &model, &tokenizer);
    check(&model, &tokenizer, Some(&lora), name);
    assert!(farther.is_empty(), "{farther:?}");
}
