//! Training against PyTorch's and PEFT's numbers (`golden/peft`: a_base, b_peft lora and rslora, c_nola).

use crate::shared::{needs_shared, shared};
use mynah::adapter::basis::Basis;
use mynah::adapter::lowrank::{Layout, Slot};
use mynah::adapter::nola::{Given, Nola};
use mynah::adapter::{Adapter, Site, peft};
use mynah::bytes::{Bytes, Limits, map};
use mynah::gguf::Gguf;
use mynah::kernel::{self, Compute, Pool};
use mynah::model::{CacheType, Model, Session, SessionConfig};
use mynah::nn::linear::Precision;
use mynah::role::Role;
use mynah::train::{Config, Example, Schedule, Trainer, optim};
use safetensors::SafeTensors;
use serde_json::Value;
use std::path::{Path, PathBuf};

pub fn golden(shared: &Path) -> (PathBuf, Model) {
    let dir = shared.join("golden/peft");
    let gguf =
        Gguf::parse(map::open(&dir.join("model/tinystories260k-f32.gguf")).unwrap(), &Limits::default()).unwrap();
    let compute = Compute { kernels: kernel::best(), pool: Pool::new(2) };
    (dir, Model::load(&gguf, compute).unwrap())
}

pub fn floats(t: &SafeTensors, name: &str) -> Vec<f32> {
    let bytes = t.tensor(name).unwrap_or_else(|_| panic!("no tensor {name}")).data();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

pub fn ints(t: &SafeTensors, name: &str) -> Vec<i32> {
    let bytes = t.tensor(name).unwrap_or_else(|_| panic!("no tensor {name}")).data();
    bytes.chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// A list of numbers.
pub fn numbers(list: &Value) -> Vec<f64> {
    list.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

/// The LoRA that every run of these goldens starts from.
pub fn open_lora(dir: &Path, model: &Model) -> Box<dyn Adapter> {
    let [config, tensors] = ["adapter_config.json", "adapter_model.safetensors"]
        .map(|name| std::fs::read(dir.join("b_peft/lora/init").join(name)).unwrap());
    peft::read(&config, Bytes::from(tensors), &model.base([0; 32]), &Limits::default()).unwrap()
}

pub fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Rows of `ids` without their padding; a token is a target where its label is not −100.
pub fn examples(ids: &[i32], mask: &[i32], labels: &[i32], width: usize) -> Vec<Example> {
    ids.chunks_exact(width)
        .zip(mask.chunks_exact(width))
        .zip(labels.chunks_exact(width))
        .map(|((ids, mask), labels)| {
            let len = mask.iter().filter(|m| **m == 1).count();
            let tokens = ids[..len].iter().map(|t| *t as u32).collect();
            Example::new(tokens, labels[..len].iter().map(|l| *l != -100).collect())
        })
        .collect()
}

/// The batch for gradients, masked or not, and the twenty batches of the trajectory.
pub fn batches(dir: &Path) -> ([Vec<Example>; 2], Vec<Vec<Example>>) {
    let file = std::fs::read(dir.join("b_peft/batch.safetensors")).unwrap();
    let t = SafeTensors::deserialize(&file).unwrap();
    let get = |name: &str| ints(&t, name);
    let grad = ["grad.labels_masked", "grad.labels_unmasked"]
        .map(|labels| examples(&get("grad.input_ids"), &get("grad.attention_mask"), &get(labels), 48));
    let width = t.tensor("train.input_ids").unwrap().shape()[2];
    let [ids, mask, labels] = ["train.input_ids", "train.attention_mask", "train.labels_masked"].map(get);
    let step = 3 * width;
    let train = (0..20)
        .map(|i| examples(&ids[i * step..][..step], &mask[i * step..][..step], &labels[i * step..][..step], width))
        .collect();
    (grad, train)
}

pub fn config(lr: f32, clip: f32, steps: u64) -> Config {
    Config {
        lr,
        steps,
        schedule: Schedule::Cosine,
        warmup: 2.min(steps - 1),
        clip,
        optimizer: optim::Spec::new("adamw").with("weight decay", 0.01f32),
        ..Config::default()
    }
}

/// Twenty steps, B moved at `ratio` times the rate of A: losses within 1e-4, gradient norms likewise relative, rates
/// equal. Returns the worst loss difference.
pub fn trajectory(
    model: &Model,
    adapter: Box<dyn Adapter>,
    train: &[Vec<Example>],
    want: &Value,
    lr: f32,
    ratio: f32,
) -> f64 {
    let mut config = config(lr, 1.0, 20);
    config.optimizer.values.set("loraplus ratio", ratio);
    let mut trainer = Trainer::adapter(model, adapter, config).unwrap();
    let mut worst = 0.0f64;
    for (i, batch) in train.iter().enumerate() {
        let report = trainer.step(&[batch]).unwrap();
        // Where rates are two, the first is that of A.
        let at = |key: &str| want[key][i].as_f64().or_else(|| want[key][i][0].as_f64()).unwrap();
        assert!(
            (report.lr as f64 - at("lr")).abs() < 1e-9 + 1e-6 * at("lr"),
            "rate of step {i}: {} for {}",
            report.lr,
            at("lr")
        );
        let norm = at("grad_norm_before_clip");
        assert!((report.grad_norm - norm).abs() < 1e-3 * norm, "norm of step {i}: {} for {norm}", report.grad_norm);
        worst = worst.max((report.loss + report.penalty - at("losses")).abs());
    }
    assert!(worst < 1e-4, "losses of the trajectory differ by {worst}");
    worst
}

/// `got` within 1e-4 of the largest of `want`.
pub fn close(name: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "length of {name}");
    let largest = want.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= 1e-4 * largest, "{name}[{i}]: {g} for {w}, largest {largest}");
    }
}

#[needs_shared]
#[test]
fn base_model() {
    let shared = shared();
    let (dir, model) = golden(&shared);
    let file = std::fs::read(dir.join("a_base/base.safetensors")).unwrap();
    let t = SafeTensors::deserialize(&file).unwrap();
    for name in ["s64", "s256", "text", "rand17"] {
        let ids: Vec<u32> = ints(&t, &format!("{name}.ids")).iter().map(|v| *v as u32).collect();
        let logits = floats(&t, &format!("{name}.logits"));
        let config = SessionConfig {
            precision: Precision::F32,
            cache: CacheType::F32,
            context: ids.len(),
            ..Default::default()
        };
        let mut session = Session::new(&model, config).unwrap();
        let mut worst = 0.0f32;
        let mut each = |i: usize, got: &[f32]| {
            for (g, w) in got.iter().zip(&logits[i * got.len()..]) {
                worst = worst.max((g - w).abs());
            }
        };
        session.feed_each(&ids, &mut each).unwrap();
        assert!(worst < 1e-3, "{name}: logits differ by {worst}");
        // The same loss through the trainer's streamed head.
        let places = Config { lr: 1e-3, steps: 1, ..Config::default() };
        let (sum, n) = Trainer::full(&model, places).unwrap().evaluate(&[Example::all(ids.clone())]).unwrap();
        let nll = floats(&t, &format!("{name}.token_nll"));
        let want = nll.iter().map(|v| *v as f64).sum::<f64>() / nll.len() as f64;
        assert!((sum / n as f64 - want).abs() < 1e-5, "{name}: mean loss {} for {want}", sum / n as f64);
    }
}

#[needs_shared]
#[test]
fn lora() {
    let shared = shared();
    let (dir, model) = golden(&shared);
    let base = model.base([0; 32]);
    let (grad, train) = batches(&dir);
    for method in ["lora", "rslora"] {
        let at = dir.join("b_peft").join(method);
        let tensors = std::fs::read(dir.join("b_peft/lora/init/adapter_model.safetensors")).unwrap();
        let config_json = std::fs::read(at.join("init/adapter_config.json")).unwrap();
        let open = || peft::read(&config_json, Bytes::from(tensors.clone()), &base, &Limits::default()).unwrap();
        let result = json(&at.join("result.json"));
        let file = std::fs::read(at.join("grads.safetensors")).unwrap();
        let t = SafeTensors::deserialize(&file).unwrap();
        for (kind, batch) in ["masked", "unmasked"].iter().zip(&grad) {
            let Some(want) = result[format!("loss_{kind}")].as_f64() else { continue };
            let adapter = open();
            let layout = adapter.low_rank().unwrap().0.clone();
            let mut trainer = Trainer::adapter(&model, adapter, config(1e-3, 0.0, 1)).unwrap();
            let report = trainer.step(&[batch]).unwrap();
            assert!((report.loss - want).abs() < 1e-5, "{method} {kind}: loss {} for {want}", report.loss);
            // rslora comes with the gradients of the masked batch alone.
            for slot in layout.slots().iter().filter(|_| *kind == "masked" || method == "lora") {
                let name = format!("{kind}/base_model.model.model.layers.{}.{}", slot.site.layer, slot.site.role.hf());
                close(&name, &trainer.grads()[slot.a()], &floats(&t, &format!("{name}.lora_A.weight")));
                let plain = format!("{name}.lora_B.weight");
                let gguf = format!("{plain}::gguf");
                let want = floats(&t, if t.tensor(&gguf).is_ok() { &gguf } else { &plain });
                // Ours is stored [rank, out].
                let (rank, out) = (slot.rank, slot.shape[1]);
                let transposed: Vec<f32> = (0..rank * out).map(|i| want[i % out * rank + i / out]).collect();
                close(&plain, &trainer.grads()[slot.b()], &transposed);
            }
        }
        let worst = trajectory(&model, open(), &train, &result["trajectory"], 1e-3, 1.0);
        eprintln!("{method}: twenty losses within {worst:.1e}");
        if method == "lora" {
            let plus = json(&dir.join("b_peft/loraplus/result.json"));
            let worst = trajectory(&model, open(), &train, &plus["trajectory"], 1e-3, 16.0);
            eprintln!("loraplus: twenty losses within {worst:.1e}");
        }
    }
}

#[needs_shared]
#[test]
fn nola() {
    let shared = shared();
    let (dir, model) = golden(&shared);
    let base = model.base([0; 32]);
    let (grad, train) = batches(&dir);
    let info = json(&dir.join("c_nola/nola.json"));
    let file = std::fs::read(dir.join("c_nola/nola_llm.safetensors")).unwrap();
    let t = SafeTensors::deserialize(&file).unwrap();
    let slots: Vec<Slot> = (0..5)
        .flat_map(|layer| [Role::Q, Role::V, Role::Gate, Role::Down].map(|role| Site { layer, role }))
        .map(|site| Slot::new(site, &base, 4, 8.0, false).unwrap())
        .collect();
    let layout = Layout::new(slots, false);
    let module = |site: Site| format!("layers.{}.{}", site.layer, site.role.hf());
    let names: Vec<String> = layout.slots().iter().map(|s| module(s.site)).collect();
    let given = Given {
        seeds: names.iter().map(|n| ["A", "B"].map(|f| info["basis_seeds"][n][f].as_u64().unwrap())).collect(),
        start: names.iter().flat_map(|n| floats(&t, &format!("{n}.A_frozen"))).collect(),
    };
    let basis = Basis::by_name("torch-uniform").unwrap();
    let open = |zero: bool| -> Box<dyn Adapter> {
        let params = names
            .iter()
            .flat_map(|n| ["alpha", "beta"].map(|p| floats(&t, &format!("{n}.{p}"))))
            .flatten()
            .map(|v| if zero { 0.0 } else { v })
            .collect();
        Box::new(Nola::from_params(layout.clone(), &base, [4, 4], basis, 0, Some(given.clone()), params).unwrap())
    };
    let runs =
        [("nola_llm", false, "nola_llm_grads"), ("nola_llm_official_init", true, "nola_llm_official_init_grads")];
    for (result, zero, grads) in runs {
        let result = &info["results"][result];
        assert!(result.is_object(), "results of {grads}");
        let file = std::fs::read(dir.join(format!("c_nola/{grads}.safetensors"))).unwrap();
        let t = SafeTensors::deserialize(&file).unwrap();
        for (kind, batch) in ["masked", "unmasked"].iter().zip(&grad) {
            let Some(want) = result[format!("loss_{kind}")].as_f64() else { continue };
            let mut trainer = Trainer::adapter(&model, open(zero), config(1e-3, 0.0, 1)).unwrap();
            let report = trainer.step(&[batch]).unwrap();
            assert!((report.loss - want).abs() < 1e-5, "{grads} {kind}: loss {} for {want}", report.loss);
            let all: Vec<f32> = names
                .iter()
                .flat_map(|n| ["alpha", "beta"].map(|p| floats(&t, &format!("{kind}/{n}.{p}"))))
                .flatten()
                .collect();
            close(&format!("{grads} {kind}"), trainer.grads(), &all);
        }
        let lr = result["trajectory"]["lr_peak"].as_f64().unwrap() as f32;
        let worst = trajectory(&model, open(zero), &train, &result["trajectory"], lr, 1.0);
        eprintln!("{grads}: twenty losses within {worst:.1e}");
    }
}
