//! Every architecture of the table against llama.cpp's logits (`golden/llamacpp/arch`) and PEFT's training
//! (`golden/peft/g_arch`): which files there are is read from the goldens' own lists, so that a row needs no test of its own.

use crate::golden::{compare, native_distance, open};
use crate::peft::{close, config, examples, floats, ints, json, numbers, trajectory};
use crate::shared::{needs_shared, shared};
use crate::tiny;
use mynah::adapter::{Stack, peft};
use mynah::bytes::{Bytes, Limits, map};
use mynah::gguf::Gguf;
use mynah::kernel::{Compute, Pool};
use mynah::model::{ARCHES, Arch, CacheType, Embedder, Model, Pooling, Session, SessionConfig};
use mynah::nn::linear::Precision;
use mynah::text::{Encode, Tokenizer};
use mynah::train::Trainer;
use safetensors::SafeTensors;
use serde_json::Value;
use std::path::Path;

/// What the f32 precision may differ by from the oracle: the goldens' own tolerance.
const MOST: f64 = 1e-3;

/// Name and architecture of every file of the list whose architecture this build runs.
fn files(shared: &Path) -> Vec<(String, String)> {
    let list = json(&shared.join("golden/llamacpp/arch/manifest.json"));
    let known = |name: &str| ARCHES.iter().any(|a| a.name == name);
    let mut out = Vec::new();
    for (path, facts) in list.as_object().unwrap() {
        let Some(architecture) = facts["architecture"].as_str() else { continue };
        let name = Path::new(path).file_stem().unwrap().to_str().unwrap();
        if known(architecture) && shared.join(path).exists() {
            out.push((name.to_string(), architecture.to_string()));
        }
    }
    out
}

#[needs_shared]
#[test]
fn logits_are_llama_cpps() {
    let shared = shared();
    let dir = shared.join("golden/llamacpp/arch");
    let (mut seen, mut farther) = (Vec::new(), Vec::new());
    for (name, architecture) in files(&shared) {
        let path = shared.join("models/arch").join(format!("{name}.gguf"));
        seen.push(architecture.clone());
        if Arch::by_name(&architecture).unwrap().encoder {
            embeddings_of(&dir, &path, &name, &mut farther);
            continue;
        }
        let (model, tokenizer) = open(&path);
        let of_context = |n| format!("{name}-ctx{n}");
        let goldens = [name.clone(), of_context(256), of_context(512)];
        let goldens: Vec<String> =
            goldens.into_iter().filter(|name| dir.join(format!("{name}.f32ref.json")).exists()).collect();
        assert!(!goldens.is_empty(), "no golden of {name}");
        for name in goldens {
            let golden = dir.join(format!("{name}.f32ref.json"));
            let exact = SessionConfig { precision: Precision::F32, cache: CacheType::F32, ..SessionConfig::default() };
            let [logit, nll, _] = compare(&model, &tokenizer, None, &golden, &exact, true);
            eprintln!("{name}: f32 precision, largest logit difference {logit:.2e}, nll {nll:.2e}");
            assert!(logit <= MOST && nll <= MOST, "{name}: {logit} {nll}");
            let [logit, _, mean] = compare(&model, &tokenizer, None, &golden, &SessionConfig::default(), false);
            let [largest, native] = native_distance(&dir, &name);
            let line =
                format!("{name}: logits off by {mean:.4}, at most {logit:.4}; llama.cpp's {native:.4}, {largest:.4}");
            eprintln!("{line}");
            // No farther than about twice llama.cpp, as the goldens have it; where nothing is rounded, no farther than the
            // exact. A near tie of a router may fall the other way, and all after it: there the usual position counts.
            if model.hparams.blocks.iter().any(|l| l.mixture.is_some()) {
                let got = median(nll_differences(&model, &tokenizer, &golden, &SessionConfig::default()));
                let native = median(native_nll_differences(&dir, &name));
                eprintln!("{name}: median of nll differences {got:.4}, llama.cpp's {native:.4}");
                if got > (2.0 * native).max(MOST) {
                    farther.push(line);
                }
            } else if logit > (2.0 * largest).max(MOST) {
                farther.push(line);
            }
        }
    }
    for arch in ARCHES {
        assert!(seen.iter().any(|s| s == arch.name), "no golden of {}", arch.name);
    }
    assert!(farther.is_empty(), "{farther:?}");
}

fn median(mut x: Vec<f64>) -> f64 {
    x.sort_by(f64::total_cmp);
    x[x.len() / 2]
}

/// How far each position's negative log-likelihood is from the golden's.
fn nll_differences(model: &Model, tokenizer: &Tokenizer, golden: &Path, config: &SessionConfig) -> Vec<f64> {
    let mut out = Vec::new();
    for p in json(golden).as_array().unwrap() {
        let flag = |key: &str| p[key].as_bool().unwrap();
        let options = Encode { add_special: flag("add_special"), parse_special: flag("parse_special") };
        let tokens = tokenizer.encode(p["text"].as_str().unwrap(), &options).unwrap();
        let mut session = Session::new(model, SessionConfig { context: tokens.len(), ..config.clone() }).unwrap();
        let each = &mut |i: usize, logits: &[f32]| {
            if let Some(want) = p["nll"][i].as_f64() {
                let max = logits.iter().copied().fold(f32::MIN, f32::max) as f64;
                let sum: f64 = logits.iter().map(|v| (*v as f64 - max).exp()).sum();
                out.push((max + sum.ln() - logits[tokens[i + 1] as usize] as f64 - want).abs());
            }
        };
        session.feed_each(&tokens, each).unwrap();
    }
    out
}

/// How far llama.cpp's default mode is.
fn native_nll_differences(dir: &Path, name: &str) -> Vec<f64> {
    let [a, b] = ["native", "f32ref"].map(|mode| {
        let prompts = json(&dir.join(format!("{name}.{mode}.json")));
        let nll = |p: &Value| p["nll"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect::<Vec<_>>();
        prompts.as_array().unwrap().iter().flat_map(nll).collect::<Vec<f64>>()
    });
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).collect()
}

/// The same of an encoder's golden: components of pooled embeddings, which are not normalised.
fn embeddings_of(dir: &Path, path: &Path, name: &str, farther: &mut Vec<String>) {
    let gguf = Gguf::parse(map::open(path).unwrap(), &Limits::default()).unwrap();
    let compute = Compute { kernels: mynah::kernel::best(), pool: Pool::new(2) };
    let model = Model::load(&gguf, compute).unwrap();
    let pooling = Pooling::of(&model.hparams).unwrap();
    let [oracle, native] = ["f32ref", "native"].map(|mode| json(&dir.join(format!("{name}.{mode}.json"))));
    let (mut texts, mut want, mut largest) = (Vec::new(), Vec::new(), 0.0f64);
    for (golden, native) in oracle.as_array().unwrap().iter().zip(native.as_array().unwrap()) {
        assert!(Pooling::named().any(|(name, p)| golden["pooling"] == name && p == pooling), "{name}");
        texts.push(numbers(&golden["tokens"]).iter().map(|t| *t as u32).collect::<Vec<u32>>());
        want.push(numbers(&golden["embedding"]));
        largest = largest.max(farthest(&numbers(&native["embedding"]), &numbers(&golden["embedding"])));
    }
    let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    for (precision, bound) in [(Precision::F32, MOST), (Precision::Int8, (2.0 * largest).max(MOST))] {
        let got = Embedder::new(&model, Stack::new(), precision, pooling).embed(&texts).unwrap();
        let off = got
            .iter()
            .zip(&want)
            .map(|(got, want)| farthest(&got.iter().map(|v| f64::from(*v)).collect::<Vec<_>>(), want));
        let off = off.fold(0.0, f64::max);
        let line = format!("{name}: embeddings at {precision:?} off by at most {off:.2e}; llama.cpp's {largest:.2e}");
        eprintln!("{line}");
        if off > bound {
            farther.push(line);
        }
    }
}

fn farthest(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// LoRA on each: gradients of a batch, and twenty steps.
#[needs_shared]
#[test]
fn training_is_pefts() {
    let shared = shared();
    let dir = shared.join("golden/peft/g_arch");
    let file = std::fs::read(dir.join("batch.safetensors")).unwrap();
    let batch = SafeTensors::deserialize(&file).unwrap();
    let get = |name: &str| ints(&batch, name);
    let width = |name: &str| *batch.tensor(name).unwrap().shape().last().unwrap();
    let grad = ["grad.labels_masked", "grad.labels_unmasked"].map(|labels| {
        examples(&get("grad.input_ids"), &get("grad.attention_mask"), &get(labels), width("grad.input_ids"))
    });
    let [ids, mask, labels] = ["train.input_ids", "train.attention_mask", "train.labels_masked"].map(get);
    let (columns, rows) = (width("train.input_ids"), batch.tensor("train.input_ids").unwrap().shape()[1]);
    let step = rows * columns;
    let part = |of: &[i32], i: usize| of[i * step..][..step].to_vec();
    let train: Vec<_> =
        (0..20).map(|i| examples(&part(&ids, i), &part(&mask, i), &part(&labels, i), columns)).collect();

    let mut tried = 0;
    for entry in std::fs::read_dir(&dir).unwrap() {
        let at = entry.unwrap().path();
        let name = at.file_name().unwrap().to_str().unwrap().to_string();
        let (path, result) = (shared.join(format!("models/arch/tiny64-{name}-f32.gguf")), at.join("result.json"));
        let known = result.exists() && {
            let gguf = Gguf::parse(map::open(&path).unwrap(), &Limits::default()).unwrap();
            let architecture = gguf.string("general.architecture").unwrap().unwrap().to_string();
            ARCHES.iter().any(|a| a.name == architecture)
        };
        if !known {
            continue;
        }
        tried += 1;
        let (model, _) = open(&path);
        let result = json(&result);
        let read = |name: &str| std::fs::read(at.join(name)).unwrap();
        let (config_json, tensors) = (read("init/adapter_config.json"), read("init/adapter_model.safetensors"));
        let open = || {
            let base = model.base([0; 32]);
            peft::read(&config_json, Bytes::from(tensors.clone()), &base, &Limits::default()).unwrap()
        };
        let file = read("grads.safetensors");
        let t = SafeTensors::deserialize(&file).unwrap();
        for (kind, batch) in ["masked", "unmasked"].iter().zip(&grad) {
            let mut trainer = Trainer::adapter(&model, open(), config(1e-3, 0.0, 1)).unwrap();
            let report = trainer.step(&[batch]).unwrap();
            let want = result[format!("loss_{kind}")].as_f64().unwrap();
            assert!((report.loss - want).abs() < 1e-5, "{name} {kind}: loss {} for {want}", report.loss);
            let (lora, lora_base) = (open(), model.base([0; 32]));
            for slot in lora.low_rank().unwrap().0.slots() {
                let module = format!("model.layers.{}.{}", slot.site.layer, lora_base.hf(slot.site.role));
                let key = |half: &str| {
                    let end = format!("{module}.lora_{half}.weight");
                    let found = |end: &str| t.names().into_iter().find(|n| n.starts_with(kind) && n.ends_with(end));
                    found(&format!("{end}::gguf")).or_else(|| found(&end)).unwrap_or_else(|| panic!("no {end}"))
                };
                close(&module, &trainer.grads()[slot.a()], &floats(&t, key("A")));
                let (want, rank, out) = (floats(&t, key("B")), slot.rank, slot.shape[1]);
                let transposed: Vec<f32> = (0..rank * out).map(|i| want[i % out * rank + i / out]).collect();
                close(&module, &trainer.grads()[slot.b()], &transposed);
            }
        }
        let worst = trajectory(&model, open(), &train, &result["trajectory"], 1e-3, 1.0);
        eprintln!("{name}: twenty losses within {worst:.1e}");
    }
    assert!(tried > 0, "no training of a known architecture among the goldens");
}

/// The largest gemma3 divides scores by the root of its width for each head, the others by that of their heads' width.
#[test]
fn gemma3_scales_scores_by_its_depth() {
    for (layers, divisor) in [(62, tiny::WIDTH / tiny::HEADS), (26, 16)] {
        let arch = ARCHES.iter().find(|a| a.name == "gemma3").unwrap();
        let keys = vec![("attention.key_length", 16u32.into()), ("attention.value_length", 16u32.into())];
        let model = tiny::Sketch { layers, keys, ..tiny::Sketch::new(arch, 1, true) }.model(1);
        let scales = model.hparams.blocks.iter().map(|b| b.heads.scale);
        assert!(scales.eq((0..layers).map(|_| 1.0 / (divisor as f32).sqrt())));
    }
}

/// What the file has beside the decoder, to guess further tokens, is no part of it; elsewhere it would be missed.
#[test]
fn blocks_that_guess_further_tokens_are_left_out() {
    let sketch = |arch: &str, more: usize| {
        let mut sketch = tiny::Sketch::new(Arch::by_name(arch).unwrap(), 5, true);
        sketch.keys.push(("nextn_predict_layers", (more as u32).into()));
        tiny::Sketch { layers: 2 + more, ..sketch }
    };
    let logits = |more: usize| {
        let model = sketch("qwen35", more).model(1);
        assert_eq!((model.hparams.layers, model.hparams.skipped), (2, more));
        let mut session = Session::new(&model, SessionConfig { context: 8, ..Default::default() }).unwrap();
        session.feed(&[3, 1, 4, 1, 5]).unwrap().to_vec()
    };
    assert_eq!(logits(1), logits(0));
    let refused = |sketch: tiny::Sketch| {
        let gguf = Gguf::parse(Bytes::from(sketch.bare()), &Limits::default()).unwrap();
        mynah::model::HParams::read(&gguf).err().unwrap().to_string()
    };
    assert!(refused(sketch("llama", 1)).contains("llama.nextn_predict_layers"));
    let with = |name: &'static str, value: u32| {
        let mut sketch = tiny::Sketch::new(Arch::by_name("qwen35").unwrap(), 5, true);
        sketch.keys.retain(|(key, _)| *key != name);
        sketch.keys.push((name, value.into()));
        refused(sketch)
    };
    for (name, value) in [
        ("nextn_predict_layers", 2),
        ("ssm.conv_kernel", 1),
        ("ssm.group_count", 3),
        ("ssm.inner_size", 25),
        ("ssm.state_size", 0),
        ("full_attention_interval", 0),
    ] {
        let why = with(name, value);
        assert!(why.contains(&format!("qwen35.{name}")), "{why}");
    }
}
