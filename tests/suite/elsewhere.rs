//! Adapters that go to other programs and come back: PEFT, llama.cpp, MLX. That what PEFT computes is computed here is held
//! to its own logits; what is written is held to what PEFT writes.

use crate::peft::{floats, golden, ints};
use crate::shared::{needs_shared, shared};
use crate::tiny::{Rng, Sketch, bases};
use mynah::adapter::lowrank::Layout;
use mynah::adapter::{self, Adapter, Base, Place, Site, Spec, folder, gguf_adapter, mlx, parse_targets, peft};
use mynah::bytes::{Limits, map};
use mynah::gguf::Gguf;
use mynah::model::{ARCHES, Arch, CacheType, Model, Session, SessionConfig};
use mynah::nn::linear::Precision;
use mynah::role::Role;
use mynah::train::{Config, Example, Trainer, optim};
use mynah::{Error, Result};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output, Stdio};

const LIMITS: Limits = Limits::DEFAULT;

/// Logits of all tokens with an adapter attached.
fn logits(model: &Model, adapter: Option<Box<dyn Adapter>>, tokens: &[u32]) -> Vec<f32> {
    let context = tokens.len() + 16;
    let config = SessionConfig { precision: Precision::F32, cache: CacheType::F32, context, ..Default::default() };
    let mut session = Session::new(model, config).unwrap();
    if let Some(adapter) = adapter {
        session.attach(model.ready(adapter).unwrap(), 1.0).unwrap();
    }
    let mut all = Vec::new();
    session.feed_each(tokens, &mut |_, logits| all.extend_from_slice(logits)).unwrap();
    all
}

fn farthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

const TOKENS: [u32; 9] = [1, 7, 3, 22, 9, 9, 30, 2, 17];

/// PEFT's logits with adapters that it wrote, and its files again from what was read.
#[needs_shared]
#[test]
fn adapters_of_peft_compute_what_they_compute_there() {
    let shared = shared();
    let (dir, model) = golden(&shared);
    let base = model.base([0; 32]);
    let batch = std::fs::read(dir.join("b_peft/batch.safetensors")).unwrap();
    let ids = ints(&SafeTensors::deserialize(&batch).unwrap(), "probe.ids");
    let ids: Vec<u32> = ids.iter().map(|v| *v as u32).collect();
    for (method, kind) in
        [("lora", "lora"), ("dora", "dora"), ("ia3", "ia3"), ("prompt", "prompt"), ("prefix", "prefix")]
    {
        let at = dir.join("b_peft").join(method);
        let read = || folder::open(&at.join("init"), &base, &LIMITS).unwrap();
        assert_eq!(read().kind().name, kind);
        let theirs = std::fs::read(at.join("grads.safetensors")).unwrap();
        let wanted = floats(&SafeTensors::deserialize(&theirs).unwrap(), "probe.logits");
        let got = logits(&model, Some(read()), &ids);
        let rows = &wanted[wanted.len() - got.len()..];
        let worst = farthest(&got, rows);
        eprintln!("{method}: logits within {worst:.1e} of PEFT's");
        assert!(worst < 1e-4, "{method}: logits differ by {worst}");
        assert!(farthest(&logits(&model, None, &ids), rows) > 0.01, "{method} changes nothing");

        let written = peft::write(&*read(), &base).unwrap();
        let [ours, theirs] = [written[1].1.clone(), std::fs::read(at.join("init").join(written[1].0)).unwrap()];
        let [ours, theirs] = [&ours, &theirs].map(|bytes| SafeTensors::deserialize(bytes).unwrap());
        let [mut names, mut wanted] = [ours.names(), theirs.names()];
        names.sort();
        wanted.sort();
        assert_eq!(names, wanted, "{method}");
        for name in names {
            let [a, b] = [&ours, &theirs].map(|t| t.tensor(name).unwrap());
            assert_eq!((a.shape(), a.data()), (b.shape(), b.data()), "{method} {name}");
        }
        let ours: Value = serde_json::from_slice(&written[0].1).unwrap();
        let theirs: Value =
            serde_json::from_slice(&std::fs::read(at.join("init").join(written[0].0)).unwrap()).unwrap();
        for (key, value) in ours.as_object().unwrap() {
            let Some(theirs) = theirs.get(key) else { panic!("{method}: PEFT writes no {key}") };
            match key.as_str() {
                "base_model_name_or_path" | "encoder_hidden_size" => {}
                // Theirs are names, ours paths, of the same modules.
                "target_modules" | "feedforward_modules" => {
                    let names = |list: &Value| -> Vec<String> {
                        let list = list.as_array().unwrap().iter().map(|v| v.as_str().unwrap());
                        let mut names: Vec<String> = list.map(|p| p.rsplit('.').next().unwrap().into()).collect();
                        names.sort();
                        names
                    };
                    assert_eq!(names(value), names(theirs), "{method} {key}");
                }
                _ => assert_eq!(value, theirs, "{method} {key}"),
            }
        }
    }
}

/// An adapter of random values.
fn random(spec: &Spec, base: &Base, seed: u64) -> Box<dyn Adapter> {
    let (mut adapter, mut rng) = (adapter::create(spec, base).unwrap(), Rng(seed));
    let parts: Vec<_> = adapter.shape().parts.iter().map(|p| (p.name, p.range.clone())).collect();
    for (name, range) in parts {
        for v in &mut adapter.params_mut()[range] {
            match name {
                "length" | "scale" => *v *= 1.0 + 0.2 * rng.unit(),
                _ => *v += 0.2 * rng.unit(),
            }
        }
    }
    adapter
}

/// A form: its name, and an adapter written in it and read again.
type Form = (&'static str, fn(&dyn Adapter, &Base) -> Result<Box<dyn Adapter>>);

const FORMS: [Form; 3] = [
    ("PEFT", |adapter, base| {
        let [(_, config), (_, tensors)] = peft::write(adapter, base)?;
        peft::read(&config, tensors.into(), base, &LIMITS)
    }),
    ("GGUF", |adapter, base| {
        let file = gguf_adapter::write(adapter, base)?;
        gguf_adapter::read(&Gguf::parse(file.into(), &LIMITS)?, base, &LIMITS)
    }),
    ("MLX", |adapter, base| {
        let [(_, config), (_, tensors)] = mlx::write(adapter, base)?;
        mlx::read(&config, tensors.into(), base, &LIMITS)
    }),
];

/// Kinds, and the forms that have them.
const KINDS: &[(&str, &[&str])] = &[
    ("lora", &["PEFT", "GGUF", "MLX"]),
    ("nola", &["PEFT", "GGUF", "MLX"]),
    ("uni", &["PEFT", "GGUF", "MLX"]),
    ("dora", &["PEFT", "MLX"]),
    ("ia3", &["PEFT"]),
    ("prompt", &["PEFT"]),
    ("prefix", &["PEFT"]),
    ("bottleneck", &[]),
    ("parallel", &[]),
    ("llama-adapter", &[]),
    ("unlock", &[]),
    ("sparse", &[]),
    ("loha", &["PEFT", "GGUF", "MLX"]),
    ("lokr", &[]),
    ("oft", &[]),
    ("fourierft", &[]),
    ("lora-fa", &["PEFT", "GGUF", "MLX"]),
    ("adalora", &["PEFT", "GGUF", "MLX"]),
    ("increlora", &["PEFT", "GGUF", "MLX"]),
    ("side", &[]),
];

/// Whether the layers of a model that an adapter changes are as this form has them, and its positions: a text behind a prefix has
/// others in PEFT, which is no matter only where they are turned.
fn fits(form: &str, adapter: &dyn Adapter, arch: &Arch) -> bool {
    let turned = [Role::DeltaIn, Role::DeltaGate, Role::DeltaOut];
    let other = |place: Place| matches!(place, Place::Site(site) if turned.contains(&site.role));
    if form != "GGUF" && adapter.shape().slots.iter().any(|slot| other(slot.place)) {
        return false;
    }
    match (form, adapter.kind().name, arch.name) {
        ("MLX", _, _) => arch.hf_blocks == "model.layers",
        ("PEFT", "prompt", "granite") | (_, "prefix", "lfm2" | "qwen35" | "gpt2") => false,
        _ => true,
    }
}

#[test]
fn what_goes_elsewhere_comes_back() {
    for row in ARCHES.iter().filter(|arch| !arch.encoder) {
        let mut sketch = Sketch::new(row, 5, true);
        if ["gpt2", "phi3"].contains(&row.name) {
            sketch.fused.push(Role::Qkv);
        }
        let model = sketch.model(1);
        let base = model.base([0; 32]);
        let plain = logits(&model, None, &TOKENS);
        for (kind, has) in KINDS {
            let spec = bases(Spec::new(kind), [5, 4]);
            let spec = match *kind {
                "loha" => spec.with("rank", 2),
                "lora" | "nola" | "uni" | "dora" | "lora-fa" | "adalora" | "increlora" => {
                    spec.with("rank", 3).with("alpha", 5.0)
                }
                "prompt" | "prefix" => spec.with("length", 3),
                _ => spec,
            };
            let mut specs = vec![spec.clone()];
            if *kind == "lora" {
                let targets = parse_targets("q,v,down,conv_in").unwrap();
                let has = |role: &Role| base.shapes.iter().any(|block| block[*role].is_some());
                let targets: Vec<Role> = targets.into_iter().filter(has).collect();
                specs.push(Spec { targets, layers: Some(vec![1]), ..spec.clone() }.with("rank stabilised", true));
            }
            // Experts and what shares their input have no place for some kinds.
            for spec in specs.into_iter().filter(|spec| adapter::create(spec, &base).is_ok()) {
                let adapter = || random(&spec, &base, 11);
                let ours = logits(&model, Some(adapter()), &TOKENS);
                assert!(farthest(&ours, &plain) > 1e-3, "{} {kind} changes nothing", row.name);
                let ready = model.ready(adapter()).unwrap();
                for (form, through) in FORMS {
                    let name = format!("{} {kind} as {form}", row.name);
                    match through(&**ready.as_ref(), &base) {
                        Ok(back) => {
                            assert!(has.contains(&form) && fits(form, &**ready.as_ref(), row), "{name} was written");
                            let theirs = logits(&model, Some(back), &TOKENS);
                            let (worst, fused) = (farthest(&ours, &theirs), !sketch.fused.is_empty());
                            // Factors beside each other, turned keys and alphas that are no quotients round once more.
                            let exact =
                                !fused && *kind != "prefix" && (form == "PEFT" || *kind == "lora" && !spec_root(&spec));
                            assert!(worst <= if exact { 0.0 } else { 2e-5 }, "{name}: logits differ by {worst}");
                        }
                        Err(e) => {
                            let lacks = !has.contains(&form) || !fits(form, &**ready.as_ref(), row);
                            assert!(lacks && matches!(e.inner(), Error::Unsupported { .. }), "{name}: {e}");
                        }
                    }
                }
            }
        }
    }
}

fn spec_root(spec: &Spec) -> bool {
    spec.values.get("rank stabilised").is_some()
}

/// Names as the other programs have them.
#[test]
fn names_are_those_of_the_other_programs() {
    for (arch, fused, q, peft_name, gguf_name) in [
        ("llama", None, "q", "base_model.model.model.layers.1.self_attn.q_proj", "blk.1.attn_q.weight"),
        ("phi3", None, "q", "base_model.model.model.layers.1.self_attn.qkv_proj", "blk.1.attn_qkv.weight"),
        ("phi3", None, "up", "base_model.model.model.layers.1.mlp.gate_up_proj", "blk.1.ffn_up.weight"),
        ("gpt2", Some(Role::Qkv), "v", "base_model.model.transformer.h.1.attn.c_attn", "blk.1.attn_qkv.weight"),
        ("bert", None, "down", "base_model.model.encoder.layer.1.output.dense", "blk.1.ffn_down.weight"),
        ("bert", None, "o", "base_model.model.encoder.layer.1.attention.output.dense", "blk.1.attn_output.weight"),
        ("gemma-embedding", None, "gate", "base_model.model.layers.1.mlp.gate_proj", "blk.1.ffn_gate.weight"),
    ] {
        let mut sketch = Sketch::new(Arch::by_name(arch).unwrap(), 5, true);
        if arch == "phi3" {
            sketch.fused.push(Role::Qkv);
        }
        sketch.fused.extend(fused);
        let model = sketch.model(1);
        let base = model.base([0; 32]);
        let spec = Spec { targets: parse_targets(q).unwrap(), ..Spec::new("lora").with("rank", 2) };
        let adapter = random(&spec, &base, 3);
        let [(_, config), (_, tensors)] = peft::write(&*adapter, &base).unwrap();
        let tensors = SafeTensors::deserialize(&tensors).unwrap();
        let mut names = tensors.names();
        names.retain(|name| name.contains(".1."));
        names.sort();
        assert_eq!(names, [format!("{peft_name}.lora_A.weight"), format!("{peft_name}.lora_B.weight")]);
        let config: Value = serde_json::from_slice(&config).unwrap();
        assert!(peft_name.ends_with(config["target_modules"][0].as_str().unwrap()), "{config}");
        assert_eq!(config["fan_in_fan_out"], json!(arch == "gpt2"));
        let file = Gguf::parse(gguf_adapter::write(&*adapter, &base).unwrap().into(), &LIMITS).unwrap();
        let mut names: Vec<&str> = file.tensors().iter().map(|t| &*t.name).filter(|n| n.contains(".1.")).collect();
        names.sort();
        assert_eq!(names, [format!("{gguf_name}.lora_a"), format!("{gguf_name}.lora_b")]);
        assert_eq!(file.string("general.type").unwrap(), Some("adapter"));
        assert_eq!(file.string("general.architecture").unwrap(), Some(arch));
        assert_eq!(file.string("adapter.type").unwrap(), Some("lora"));
    }
}

/// A model, and PEFT's tensors of rank 2 for these modules: A of 0.1, B of 0.2.
fn llama() -> Model {
    Sketch::new(Arch::by_name("llama").unwrap(), 5, false).model(1)
}

type Tensor = (String, Vec<usize>, Vec<f32>);

fn file(tensors: &[Tensor]) -> Vec<u8> {
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(_, _, v)| v.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let views = tensors.iter().zip(&bytes);
    let views = views.map(|((name, shape, _), b)| (name, TensorView::new(Dtype::F32, shape.clone(), b).unwrap()));
    safetensors::serialize(views, None).unwrap()
}

fn pair(base: &Base, module: &str) -> [Tensor; 2] {
    let [n_in, n_out] = base.shape(Site::by_hf(module, base).unwrap()).unwrap();
    let name = |half: &str| format!("base_model.model.{module}.lora_{half}.weight");
    [(name("A"), vec![2, n_in], vec![0.1; 2 * n_in]), (name("B"), vec![n_out, 2], vec![0.2; n_out * 2])]
}

const Q0: &str = "model.layers.0.self_attn.q_proj";
const Q1: &str = "model.layers.1.self_attn.q_proj";
const UP1: &str = "model.layers.1.mlp.up_proj";

/// Ranks, alphas and targets as PEFT's rules have them: a configuration, and the factor of `Q0`, `Q1` and `UP1`, or a word of
/// the error.
#[test]
fn patterns_and_targets_are_peft_s() {
    let model = llama();
    let base = model.base([0; 32]);
    let tensors: Vec<Tensor> = [Q0, Q1, UP1].iter().flat_map(|module| pair(&base, module)).collect();
    let root = 2f32.sqrt();
    let taken: &[(&str, [f32; 3])] = &[
        (r#""alpha_pattern":{}"#, [2.0; 3]),
        (r#""use_rslora":true"#, [4.0 / root; 3]),
        (r#""alpha_pattern":{"q_proj":6}"#, [3.0, 3.0, 2.0]),
        (r#""alpha_pattern":{"^model\\.layers\\.1\\..*":6}"#, [2.0, 3.0, 3.0]),
        (r#""alpha_pattern":{"layers.0.self_attn.q_proj":6,"q_proj":8}"#, [3.0, 4.0, 2.0]),
        (r#""alpha_pattern":{"(q|k)_proj":6,"q_proj":8}"#, [3.0, 3.0, 2.0]),
        (r#""alpha_pattern":{".*\\.mlp\\.(?!down).*":6}"#, [2.0, 2.0, 3.0]),
        (r#""r":3,"rank_pattern":{".*_proj":2}"#, [2.0; 3]),
        (r#""target_modules":["q_proj","up_proj"]"#, [2.0; 3]),
        (r#""target_modules":"all-linear""#, [2.0; 3]),
        (r#""target_modules":".*\\.(q|up)_proj""#, [2.0; 3]),
        (r#""target_modules":["q_proj","mlp.up_proj"],"exclude_modules":["k_proj","layers.0.mlp.up_proj"]"#, [2.0; 3]),
        (r#""target_modules":["q_proj","up_proj"],"layers_to_transform":[0,1]"#, [2.0; 3]),
        (r#""target_modules":["q_proj","up_proj"],"layers_to_transform":[0,1],"layers_pattern":"layers""#, [2.0; 3]),
        (
            r#""lora_dropout":0.1,"fan_in_fan_out":true,"base_model_name_or_path":"x","init_lora_weights":"eva""#,
            [2.0; 3],
        ),
    ];
    let config = |more: &str| {
        let r = if more.contains(r#""r":"#) { "" } else { r#""r":2,"# };
        format!(r#"{{"peft_type":"LORA",{r}"lora_alpha":4,{more}}}"#)
    };
    let read = |more: &str| peft::read(config(more).as_bytes(), file(&tensors).into(), &base, &LIMITS);
    for (more, factors) in taken {
        let lora = read(more).unwrap_or_else(|e| panic!("{more}: {e}"));
        let (layout, _): (&Layout, _) = lora.low_rank().unwrap();
        for (module, factor) in [Q0, Q1, UP1].iter().zip(factors) {
            let slot = layout.slot(Site::by_hf(module, &base).unwrap()).unwrap();
            assert!((slot.factor - factor).abs() < 1e-6, "{more}: {module} {} for {factor}", slot.factor);
        }
    }
    let refused: &[(&str, &str, &str)] = &[
        (r#""rank_pattern":{"^model\\.layers\\.0\\..*":4}"#, "Mismatch", "rank of blk.0"),
        (r#""target_modules":["q_proj"]"#, "Mismatch", "layers.1.mlp.up_proj"),
        (r#""target_modules":"q_proj""#, "Mismatch", Q0),
        (r#""target_modules":["q_proj","up_proj"],"exclude_modules":".*layers\\.0.*""#, "Mismatch", Q0),
        (r#""target_modules":["q_proj","up_proj"],"exclude_modules":["up_proj"]"#, "Mismatch", UP1),
        (r#""target_modules":["q_proj","up_proj"],"layers_to_transform":1"#, "Mismatch", Q0),
        (r#""target_modules":["q_proj","up_proj"],"layers_to_transform":[0,1],"layers_pattern":"h""#, "Mismatch", Q0),
        (r#""target_modules":"(q_proj""#, "Unsupported", "regular expression: (q_proj"),
        (r#""alpha_pattern":{"(.*)*\\1!":6}"#, "Limit", "steps of a regular expression"),
        (r#""alpha_pattern":{"(((a{999}){999}){999}){999}":6}"#, "Unsupported", "regular expression"),
        (r#""use_wonders":true,"and_more":[1]"#, "Unsupported", "`use_wonders`, `and_more`"),
        (r#""bias":"all","layer_replication":[[0,1]]"#, "Unsupported", "`bias`, `layer_replication` is set"),
        (r#""lora_bias":true"#, "Mismatch", "no lora_B bias"),
        (r#""use_dora":true,"lora_bias":true"#, "Unsupported", "`lora_bias` is set with `use_dora`"),
        (r#""modules_to_save":["lm_head"]"#, "Unsupported", "`modules_to_save` is set: lm_head"),
    ];
    for (more, variant, word) in refused {
        let e = read(more).err().unwrap_or_else(|| panic!("{more} was taken"));
        let found = match e.inner() {
            Error::Mismatch { .. } => "Mismatch",
            Error::Unsupported { .. } => "Unsupported",
            Error::Limit { .. } => "Limit",
            _ => "another",
        };
        assert!(found == *variant && e.to_string().contains(word), "{more}: {e}");
    }
    // Many patterns that are to be compiled.
    let many = (0..300).map(|i| format!(r#""(q|k{i})_proj":6"#)).collect::<Vec<_>>().join(",");
    let e = read(&format!(r#""alpha_pattern":{{{many}}}"#)).err().unwrap();
    assert!(e.to_string().contains("regular expressions: 257; at most 256"), "{e}");
}

/// A bias beside B·A adds, times the factor, what a trained bias adds; and it learns.
#[test]
fn biases_of_lora_add_and_learn() {
    let model = llama();
    let base = model.base([0; 32]);
    let site = Site::by_hf(Q1, &base).unwrap();
    let [_, n_out] = base.shape(site).unwrap();
    let values: Vec<f32> = (0..n_out).map(|i| 0.3 - 0.02 * i as f32).collect();
    let mut tensors = pair(&base, Q1).to_vec();
    tensors[1].2.fill(0.0);
    tensors.push((format!("base_model.model.{Q1}.lora_B.bias"), vec![n_out], values.clone()));
    let config = r#"{"peft_type":"LORA","r":2,"lora_alpha":4,"lora_bias":true}"#;
    let read = |tensors: &[Tensor]| peft::read(config.as_bytes(), file(tensors).into(), &base, &LIMITS).unwrap();
    let spec = Spec { targets: vec![Role::Q], layers: Some(vec![1]), ..Spec::new("unlock").with("part", "biases") };
    let mut bias = adapter::create(&spec, &base).unwrap();
    for (row, v) in values.iter().enumerate() {
        bias.params_mut()[base.row(site, row)] = 2.0 * v;
    }
    let ours = logits(&model, Some(read(&tensors)), &TOKENS);
    assert!(farthest(&ours, &logits(&model, Some(bias), &TOKENS)) < 1e-6);
    assert!(farthest(&ours, &logits(&model, None, &TOKENS)) > 0.01);

    // There and back, and through a file.
    tensors[1].2.iter_mut().enumerate().for_each(|(i, v)| *v = 0.1 * (i as f32).sin());
    let adapter = read(&tensors);
    let ours = logits(&model, Some(read(&tensors)), &TOKENS);
    let back = FORMS[0].1(&*adapter, &base).unwrap();
    let kept = adapter::to_bytes_as(&*adapter, &base, &Default::default(), "f32").unwrap();
    let kept = adapter::from_bytes(kept.into(), &base, &LIMITS).unwrap();
    for other in [back, kept] {
        assert_eq!(other.params(), adapter.params());
        assert_eq!(logits(&model, Some(other), &TOKENS), ours);
    }
    for (form, through) in &FORMS[1..] {
        let e = through(&*adapter, &base).err().unwrap();
        assert!(matches!(e.inner(), Error::Unsupported { .. }) && e.to_string().contains("biases"), "{form}: {e}");
    }

    let example = [Example::all(TOKENS.to_vec())];
    let plain = || Config { optimizer: optim::Spec::new("adamw"), lr: 1e-3, steps: 1, clip: 0.0, ..Config::default() };
    let start = adapter.low_rank().unwrap().0.slots()[0].bias().start;
    let mut trainer = Trainer::adapter(&model, read(&tensors), plain()).unwrap();
    trainer.step(&[&example]).unwrap();
    for i in [start, start + 5, start + n_out - 1] {
        let loss = |by: f32| {
            let mut moved = read(&tensors);
            moved.params_mut()[i] += by;
            let (sum, n) = Trainer::adapter(&model, moved, plain()).unwrap().evaluate(&example).unwrap();
            sum / n as f64
        };
        let wanted = (loss(1e-2) - loss(-1e-2)) / 2e-2;
        let got = f64::from(trainer.grads()[i]);
        assert!((got - wanted).abs() < 1e-4 + 0.02 * wanted.abs(), "bias {i}: {got} for {wanted}");
    }
}

/// Modules of the base that are saved with an adapter are taken if they are the base's.
#[test]
fn saved_modules_must_be_the_base_s() {
    let model = llama();
    let base = model.base([0; 32]);
    let frozen = base.frozen.clone().unwrap();
    let matrix = |m: mynah::quant::Matrix| {
        let mut all = vec![0.0; m.rows * m.cols];
        all.chunks_exact_mut(m.cols).enumerate().for_each(|(i, row)| m.decode(i, 0..m.cols, row));
        (vec![m.rows, m.cols], all)
    };
    let k = Site { layer: 0, role: Role::K };
    let (shape, stored) = matrix(base.matrix(k).unwrap());
    let mut theirs = stored.clone();
    for i in 0..shape[0] {
        theirs[i * shape[1]..][..shape[1]].copy_from_slice(&stored[base.row(k, i) * shape[1]..][..shape[1]]);
    }
    assert_ne!(stored, theirs);
    for (saved, name, (shape, values)) in [
        ("lm_head", "lm_head.weight", matrix(frozen.vocabulary(true).unwrap())),
        ("lm_head", "lm_head.modules_to_save.default.weight", matrix(frozen.vocabulary(true).unwrap())),
        ("embed_tokens", "model.embed_tokens.weight", matrix(frozen.vocabulary(false).unwrap())),
        ("layers.0.self_attn.k_proj", "model.layers.0.self_attn.k_proj.modules_to_save.weight", (shape, theirs)),
    ] {
        let config = format!(r#"{{"peft_type":"LORA","r":2,"lora_alpha":4,"modules_to_save":["{saved}"]}}"#);
        let mut tensors = pair(&base, Q1).to_vec();
        tensors.push((format!("base_model.model.{name}"), shape, values));
        let read = |tensors: &[Tensor]| peft::read(config.as_bytes(), file(tensors).into(), &base, &LIMITS);
        read(&tensors).unwrap_or_else(|e| panic!("{name}: {e}"));
        tensors[2].2[3] += 0.5;
        let e = read(&tensors).err().unwrap();
        let said = e.to_string();
        assert!(
            matches!(e.inner(), Error::Unsupported { .. }) && said.contains(name) && said.contains("differs"),
            "{e}"
        );
    }
}

/// Old spellings, and models of text within others.
#[test]
fn old_names_are_read() {
    let model = llama();
    let base = model.base([0; 32]);
    let config = br#"{"peft_type":"LORA","r":2,"lora_alpha":4,"merge_weights":false,"enable_lora":null}"#;
    let site = Site::by_hf(Q1, &base).unwrap();
    for (from, to) in [
        (".weight", ".default.weight"),
        ("base_model.model.", ""),
        ("base_model.model.model.", "base_model.model.model.language_model."),
        ("base_model.model.model.", "base_model.model.language_model.model."),
    ] {
        let mut tensors = pair(&base, Q1);
        tensors.iter_mut().for_each(|t| t.0 = t.0.replace(from, to));
        let lora = peft::read(config, file(&tensors).into(), &base, &LIMITS).unwrap_or_else(|e| panic!("{to}: {e}"));
        assert_eq!(lora.shape().slots[0].place, Place::Site(site));
    }
    // A path that merely ends in one.
    let mut tensors = pair(&base, Q1);
    tensors.iter_mut().for_each(|t| t.0 = t.0.replace("model.layers", "model.layers.0.layers"));
    assert!(peft::read(config, file(&tensors).into(), &base, &LIMITS).is_err());
}

/// What MLX writes, by hand: early and late configurations, and what is refused.
#[test]
fn adapters_of_mlx_are_read() {
    let model = llama();
    let base = model.base([0; 32]);
    let site = Site::by_hf(Q1, &base).unwrap();
    let [n_in, n_out] = base.shape(site).unwrap();
    let a: Vec<f32> = (0..2 * n_in).map(|i| i as f32).collect();
    let b: Vec<f32> = (0..2 * n_out).map(|i| i as f32).collect();
    let tensors =
        [(format!("{Q1}.lora_a"), vec![n_in, 2], a.clone()), (format!("{Q1}.lora_b"), vec![2, n_out], b.clone())];
    let read = |config: &str, tensors: &[Tensor]| mlx::read(config.as_bytes(), file(tensors).into(), &base, &LIMITS);
    for (config, factor) in [
        (r#"{"fine_tune_type":"lora","num_layers":1,"lora_parameters":{"rank":2,"scale":20.0,"dropout":0.0}}"#, 20.0),
        (
            r#"{"lora_layers":16,"lora_parameters":{"rank":2,"alpha":16,"scale":10.0,"keys":["self_attn.q_proj"]}}"#,
            80.0,
        ),
    ] {
        let lora = read(config, &tensors).unwrap();
        let (layout, factors) = lora.low_rank().unwrap();
        let slot = layout.slot(site).unwrap();
        assert_eq!(slot.factor, factor);
        for i in 0..n_in {
            assert_eq!(factors[slot.a()][n_in + i], a[2 * i + 1]);
        }
        for i in 0..n_out {
            assert_eq!(factors[slot.b()][n_out + base.row(site, i)], b[n_out + i]);
        }
    }
    let good = r#"{"fine_tune_type":"lora","lora_parameters":{"rank":2,"scale":20.0}}"#;
    let change = |from: &str, to: &str| tensors.clone().map(|(name, shape, v)| (name.replace(from, to), shape, v));
    let turned = [(tensors[0].0.clone(), vec![2, n_in], a.clone()), tensors[1].clone()];
    let refused: &[(&str, &[Tensor], &str)] = &[
        (r#"{"fine_tune_type":"full"}"#, &tensors, "fine_tune_type: full"),
        (r#"{"fine_tune_type":"lora"}"#, &tensors, "lora_parameters with a scale"),
        (&good.replace("\"lora\"", "\"dora\""), &tensors, "lora_a, lora_b and m"),
        (&good.replace("2,", "4,"), &tensors, "rank of blk.1.attn_q.weight: expected 4, found 2"),
        (good, &tensors[..1], "lora_a and lora_b"),
        (good, &turned, "shape of"),
        (good, &change("q_proj", "w_proj"), "w_proj.lora_a"),
        (good, &change("model.layers.1", "model.layers.9"), "blk.9"),
        (
            good,
            &[tensors.as_slice(), &[("model.norm.weight".into(), vec![1], vec![1.0])]].concat(),
            "model.norm.weight",
        ),
    ];
    for (config, tensors, word) in refused {
        let e = read(config, tensors).err().unwrap_or_else(|| panic!("{config} was taken"));
        assert!(e.to_string().contains(word), "{config}: {e}");
    }
}

/// Files that an index names, beside it.
#[test]
fn split_weights_are_one() {
    let model = llama();
    let base = model.base([0; 32]);
    let parts = [Q0, UP1].map(|module| pair(&base, module));
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    write("adapter_config.json", br#"{"peft_type":"LORA","r":2,"lora_alpha":4}"#);
    write("a.safetensors", &file(&parts[0]));
    write("b.safetensors", &file(&parts[1]));
    let index = |change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
        let mut map = serde_json::Map::new();
        for (part, name) in parts.iter().zip(["a.safetensors", "b.safetensors"]) {
            part.iter().for_each(|t| _ = map.insert(t.0.clone(), name.into()));
        }
        change(&mut map);
        let text = json!({ "metadata": { "total_size": 1 }, "weight_map": map }).to_string();
        write("adapter_model.safetensors.index.json", text.as_bytes());
        folder::open(dir.path(), &base, &LIMITS)
    };
    let whole = index(&|_| {}).unwrap();
    assert_eq!(whole.low_rank().unwrap().0.slots().len(), 2);
    assert_eq!(folder::contents(dir.path(), &LIMITS).unwrap().tensors.len(), 4);
    let first = parts[0][0].0.clone();
    type Change<'a> = &'a dyn Fn(&mut serde_json::Map<String, Value>);
    let refused: [(&str, Change, &str); 7] = [
        ("a file elsewhere", &|map| _ = map.insert(first.clone(), "../a.safetensors".into()), "is no file beside it"),
        ("a whole path", &|map| _ = map.insert(first.clone(), "/a.safetensors".into()), "is no file beside it"),
        ("another kind of file", &|map| _ = map.insert(first.clone(), "a.bin".into()), "is no file beside it"),
        ("a file that is not there", &|map| _ = map.insert(first.clone(), "0.safetensors".into()), "no such file"),
        ("another shard", &|map| _ = map.insert(first.clone(), "b.safetensors".into()), "its tensors"),
        ("a tensor too few", &|map| _ = map.remove(&first), "its tensors"),
        ("a tensor too many", &|map| _ = map.insert("x".into(), "a.safetensors".into()), "expected x, found none"),
    ];
    for (what, change, word) in refused {
        let e = index(change).err().unwrap_or_else(|| panic!("{what} was taken"));
        assert!(e.to_string().contains(word), "{what}: {e}");
    }
}

/// A folder is there whole or not at all, and nothing of others is lost.
#[test]
fn folders_are_replaced_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    let names = |at: &Path| {
        let mut names: Vec<_> = at.read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let files = |text: &str| [("a", text.as_bytes().to_vec()), ("b", b"same".to_vec())];
    map::replace_folder(&path, &files("one")).unwrap();
    map::replace_folder(&path, &files("two")).unwrap();
    assert_eq!((names(&path), names(dir.path())), (vec!["a".into(), "b".into()], vec!["out".to_string()]));
    assert_eq!(std::fs::read(path.join("a")).unwrap(), b"two");
    std::fs::write(path.join("thesis.txt"), "").unwrap();
    let e = map::replace_folder(&path, &files("three")).unwrap_err();
    assert!(e.to_string().contains("thesis.txt"), "{e}");
    assert_eq!(std::fs::read(path.join("a")).unwrap(), b"two");
    std::fs::write(dir.path().join("file"), "").unwrap();
    assert!(map::replace_folder(&dir.path().join("file"), &files("four")).is_err());
    assert!(map::replace_folder(&dir.path().join("none/out"), &files("five")).is_err());
    // What cannot be written leaves nothing behind.
    assert!(map::replace_folder(&dir.path().join("other"), &[("no/such", Vec::new())]).is_err());
    assert_eq!(names(dir.path()), ["file", "out"]);
}

#[cfg(feature = "base")]
fn run(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mynah"));
    command.current_dir(dir).args(args).stdin(Stdio::null()).output().unwrap()
}

#[cfg(feature = "base")]
#[test]
fn the_command_converts_there_and_back() {
    let (mynah, dir) = (mynah::Mynah::embedded().unwrap(), tempfile::tempdir().unwrap());
    let dir = dir.path();
    let spec = bases(Spec { targets: parse_targets("q,up").unwrap(), ..Spec::new("nola").with("rank", 4) }, [8, 8]);
    let adapter = random(&spec, mynah.base(), 3);
    let bytes = adapter::to_bytes_as(&*adapter, mynah.base(), &Default::default(), "f32").unwrap();
    std::fs::write(dir.join("a.mynah"), bytes).unwrap();
    let ok = |args: &[&str]| {
        let out = run(dir, args);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{args:?}: {said}");
        (String::from_utf8(out.stdout).unwrap(), said)
    };
    let logits = |adapter: &str| ok(&["logits", "-a", adapter, "-p", "The lamp", "--exact", "--json", "--top", "0"]).0;
    let wanted = logits("a.mynah");
    for (out, to, said, form) in [
        ("peft", None, "lora_alpha", "peft"),
        ("a.gguf", None, "adapter.lora.alpha", "gguf"),
        ("mlx/", Some("mlx"), "lora_parameters", "mlx"),
    ] {
        let mut args = vec!["convert", "a.mynah", out];
        args.extend(to.iter().flat_map(|to| ["--to", to]));
        let (_, note) = ok(&args);
        assert!(note.contains("other programs have no nola"), "{note}");
        assert_eq!(logits(out), wanted, "{out}");
        assert!(ok(&["inspect", out]).0.contains(said));
        let shown: Value = serde_json::from_str(&ok(&["inspect", out, "--json"]).0).unwrap();
        assert_eq!(shown["tensors"].as_array().unwrap().len(), 2 * adapter.shape().slots.len(), "{out}");
        // It is not replaced unless that is asked for.
        let refused = run(dir, &args);
        assert_eq!(refused.status.code(), Some(2), "{out}");
        args.extend(["--force", "--json"]);
        let report: Value = serde_json::from_str(&ok(&args).0).unwrap();
        assert_eq!(
            (&report["to"], &report["kind"], &report["written_as"]),
            (&json!(form), &json!("nola"), &json!("lora"))
        );
        // And back.
        ok(&["convert", out, "back.mynah", "--force"]);
        assert_eq!(logits("back.mynah"), wanted, "{out}");
    }
    for (args, status, word) in [
        (&["convert", "a.mynah", "x.safetensors"][..], 2, "name one without .safetensors"),
        (&["convert", "a.mynah", "a.mynah", "--force"], 2, "would overwrite"),
        (&["convert", "nothing.mynah", "x"], 1, "no such file"),
        (&["convert", "peft", "none/x"], 1, "no such folder"),
        (&["convert", "a.mynah", "a.gguf", "--to", "peft", "--force"], 1, "it is a file"),
    ] {
        let out = run(dir, args);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code() == Some(status) && said.contains(word), "{args:?}: {:?} {said}", out.status);
    }
    let parallel = random(&Spec::new("parallel"), mynah.base(), 3);
    let bytes = adapter::to_bytes(&*parallel, mynah.base(), &Default::default()).unwrap();
    std::fs::write(dir.join("p.mynah"), bytes).unwrap();
    let out = run(dir, &["convert", "p.mynah", "p"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() == Some(1) && said.contains("parallel") && !dir.join("p").exists(), "{said}");
}
