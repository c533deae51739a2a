//! Whole models against llama.cpp's numbers (`golden/llamacpp/model`).

use crate::shared::shared;
use mynah::bytes::{Limits, map};
use mynah::gguf::Gguf;
use mynah::kernel::{Compute, Pool};
use mynah::model::{CacheType, Model, Session, SessionConfig};
use mynah::nn::linear::Path as Precision;
use mynah::text::{Encode, Tokenizer};
use serde_json::Value;
use std::path::{Path, PathBuf};

fn open(path: &Path) -> (Model, Tokenizer) {
    let gguf = Gguf::parse(map::open(path).unwrap(), &Limits::default()).unwrap();
    let compute = Compute { kernels: mynah::kernel::best(), pool: Pool::new(2) };
    (Model::load(&gguf, compute).unwrap(), Tokenizer::from_gguf(&gguf).unwrap())
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

/// Largest logit and nll differences over the prompts of a golden file; checks greedy ids up to the first narrow margin.
fn compare(
    model: &Model,
    tokenizer: &Tokenizer,
    golden: &Path,
    config: &SessionConfig,
    margin: f64,
    greedy: bool,
) -> [f64; 2] {
    let prompts: Value = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    let mut worst = [0.0f64; 2];
    for p in prompts.as_array().unwrap() {
        let flag = |key: &str| p[key].as_bool().unwrap();
        let options = Encode { add_special: flag("add_special"), parse_special: flag("parse_special") };
        let tokens = tokenizer.encode(p["text"].as_str().unwrap(), &options).unwrap();
        let want: Vec<u32> = p["tokens"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect();
        assert_eq!(tokens, want, "tokens of {}", p["name"]);
        let context = (tokens.len() + 40).min(model.hparams.context);
        let mut session = Session::new(model, SessionConfig { context, ..config.clone() }).unwrap();
        let nll = p["nll"].as_array().unwrap();
        let mut last = Vec::new();
        session
            .feed_each(
                &tokens,
                Some(&mut |i, logits| {
                    if i + 1 < tokens.len() {
                        let max = logits.iter().copied().fold(f32::MIN, f32::max) as f64;
                        let sum: f64 = logits.iter().map(|v| (*v as f64 - max).exp()).sum();
                        let got = max + sum.ln() - logits[tokens[i + 1] as usize] as f64;
                        worst[1] = worst[1].max((got - nll[i].as_f64().unwrap()).abs());
                    } else {
                        last = logits.to_vec();
                    }
                }),
            )
            .unwrap();
        for pair in ["top10", "probe32"].iter().flat_map(|k| p[k].as_array().unwrap()) {
            let got = last[pair[0].as_u64().unwrap() as usize] as f64;
            worst[0] = worst[0].max((got - pair[1].as_f64().unwrap()).abs());
        }
        if !greedy {
            continue;
        }
        let mut next = argmax(&last);
        for (step, want) in p["greedy32"].as_array().unwrap().iter().enumerate() {
            if p["greedy_margin"][step].as_f64().unwrap() < margin || session.position() == session.context() {
                break;
            }
            assert_eq!(next as u64, want.as_u64().unwrap(), "greedy id {step} of {}", p["name"]);
            next = argmax(session.feed(&[next]).unwrap());
        }
    }
    worst
}

#[test]
fn exact_path_equals_the_oracle() {
    let Some(shared) = shared() else { return };
    let config = SessionConfig { path: Precision::Exact, cache: CacheType::F32, ..Default::default() };
    for (path, name) in models(&shared) {
        let (model, tokenizer) = open(&path);
        let golden = shared.join(format!("golden/llamacpp/model/{name}.f32ref.json"));
        let [logit, nll] = compare(&model, &tokenizer, &golden, &config, 5e-3, true);
        eprintln!("{name}: exact path, largest logit difference {logit:.2e}, nll {nll:.2e}");
        assert!(logit <= 5e-3 && nll <= 5e-3, "{name}: {logit} {nll}");
    }
}

/// Largest distance of llama.cpp's default mode from the oracle over the logits both list.
fn native_distance(dir: &Path, name: &str) -> f64 {
    let read = |mode: &str| -> Value {
        serde_json::from_slice(&std::fs::read(dir.join(format!("{name}.{mode}.json"))).unwrap()).unwrap()
    };
    let (native, oracle) = (read("native"), read("f32ref"));
    let mut worst = 0.0f64;
    for (a, b) in native.as_array().unwrap().iter().zip(oracle.as_array().unwrap()) {
        for key in ["top10", "probe32"] {
            for want in b[key].as_array().unwrap() {
                let same = a[key].as_array().unwrap().iter().find(|got| got[0] == want[0]);
                if let Some(got) = same {
                    worst = worst.max((got[1].as_f64().unwrap() - want[1].as_f64().unwrap()).abs());
                }
            }
        }
    }
    worst
}

#[test]
fn fast_path_is_about_as_close_as_llama_cpp() {
    let Some(shared) = shared() else { return };
    let dir = shared.join("golden/llamacpp/model");
    let mut farther = Vec::new();
    for (path, name) in models(&shared) {
        let (model, tokenizer) = open(&path);
        let golden = dir.join(format!("{name}.f32ref.json"));
        let [logit, nll] = compare(&model, &tokenizer, &golden, &SessionConfig::default(), 0.0, false);
        let native = native_distance(&dir, &name);
        eprintln!("{name}: fast path, largest logit difference {logit:.4} (nll {nll:.4}), llama.cpp's {native:.4}");
        // Both round activations to 8 bits in blocks of 32; which rounding hurts more is chance.
        if logit > 1.3 * native {
            farther.push(format!("{name}: {logit:.4} > 1.3 · {native:.4}"));
        }
    }
    assert!(farther.is_empty(), "{farther:?}");
}
