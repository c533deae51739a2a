//! Section B: models whose file is whole and that are not what they seem.

use super::gguf::{format, parse};
use super::{Entry, Parser, allowed, check, refuses, takes};
use crate::alloc::largest;
use crate::shared::{needs_shared, shared};
use crate::tiny::{self, Rng, Sketch};
use mynah::adapter::{Adapter, At, Into, KINDS, Kind, Needs, NewPart, Place, Ready, Seen, Shape, Site, Start};
use mynah::bytes::Bytes;
use mynah::container::head::Head;
use mynah::error::Result;
use mynah::gguf::{Gguf, Value, Writer};
use mynah::kernel::{Buffer, Compute, PLAIN, Pool, Tile, View};
use mynah::model::{Arch, Model, Session, SessionConfig};
use mynah::nn::linear::Precision;
use mynah::quant::Format;
use mynah::role::Role;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub static MODEL: Parser = Parser { name: "model", read: |bytes| read(bytes).map(drop) };

fn read(bytes: Vec<u8>) -> Result<Model> {
    let file = parse(bytes)?;
    file.check_model()?;
    Model::load(&file, Compute { kernels: mynah::kernel::best(), pool: Pool::new(1) })
}

/// A whole file, to be changed: its pairs and its tensors.
#[derive(Clone)]
pub struct Whole {
    pairs: Vec<(String, Value)>,
    tensors: Vec<(String, Vec<u64>, &'static Format, Bytes)>,
}

impl Whole {
    pub fn new(bytes: Vec<u8>) -> Whole {
        let file = parse(bytes).unwrap();
        let pairs = file.pairs().map(|(key, value)| (key.into(), value.clone())).collect();
        let tensor = |t: &mynah::gguf::Tensor| (t.name.to_string(), t.dims().to_vec(), t.format, file.data(t).unwrap());
        Whole { pairs, tensors: file.tensors().iter().map(tensor).collect() }
    }

    /// The tiny model of the tests, with an output matrix of its own.
    pub fn llama() -> Whole {
        Whole::new(tiny::file("llama", 3, false))
    }

    fn of(arch: &str) -> Whole {
        Whole::new(Sketch::new(Arch::by_name(arch).unwrap(), 3, false).file())
    }

    pub fn set(mut self, key: &str, value: impl std::convert::Into<Value>) -> Whole {
        self.pairs.retain(|(name, _)| name != key);
        self.pairs.push((key.into(), value.into()));
        self
    }

    fn without(mut self, name: &str) -> Whole {
        self.pairs.retain(|(key, _)| key != name);
        self.tensors.retain(|(tensor, ..)| tensor != name);
        self
    }

    /// With a tensor of zeros, in the place of one of this name.
    fn tensor(mut self, name: &str, dims: &[u64]) -> Whole {
        let bytes = Bytes::from(vec![0; 4 * dims.iter().product::<u64>() as usize]);
        self.tensors.retain(|(tensor, ..)| tensor != name);
        self.tensors.push((name.into(), dims.to_vec(), format(0), bytes));
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut w = Writer::new();
        self.pairs.iter().for_each(|(key, value)| _ = w.set(key.as_str(), value.clone()));
        for (name, dims, format, bytes) in &self.tensors {
            w.tensor(name.as_str(), dims, format, bytes.clone());
        }
        w.finish().unwrap()
    }
}

fn entries() -> Vec<Entry> {
    let w = Whole::llama;
    let set = |key: &str, value: Value| w().set(&format!("llama.{key}"), value);
    let moe = |key: &str, value: u32| Whole::of("qwen2moe").set(&format!("qwen2moe.{key}"), value);
    let gemma = |value: Value| Whole::of("gemma2").set("gemma2.attention.sliding_window", value);
    let tokens = |n: usize| vec!["a"; n];
    let only = |key: &str, value: &str| Whole { pairs: vec![(key.into(), value.into())], tensors: vec![] };
    let refused: Vec<(&str, Whole, &'static str, &str)> = vec![
        ("B1 no architecture", w().without("general.architecture"), "Mismatch", "general.architecture"),
        ("B1 no blocks", w().without("llama.block_count"), "Mismatch", "llama.block_count"),
        ("B1 no width", w().without("llama.embedding_length"), "Mismatch", "llama.embedding_length"),
        ("B2 0", set("block_count", 0u32.into()), "Invalid", "llama.block_count: 0"),
        ("B2 10^6", set("block_count", 1_000_000u32.into()), "Invalid", "llama.block_count: 1000000"),
        ("B3 0", set("attention.head_count", 0u32.into()), "Invalid", "head_count: 0"),
        (
            "B3 not dividing the width",
            set("attention.head_count", 5u32.into()).set("llama.attention.head_count_kv", 5u32),
            "Invalid",
            "5 heads do not divide the width 32",
        ),
        ("B3 more keys", set("attention.head_count_kv", 8u32.into()), "Invalid", "8 does not divide the 4"),
        ("B3 keys not dividing", set("attention.head_count_kv", 3u32.into()), "Invalid", "3 does not divide the 4"),
        ("B3 no keys", set("attention.head_count_kv", 0u32.into()), "Invalid", "none in layer 0"),
        ("B3 a list too short", set("attention.head_count_kv", (&[2u32][..]).into()), "Mismatch", "head_count_kv"),
        ("B4 0", set("context_length", 0u32.into()), "Invalid", "llama.context_length: 0"),
        (
            "B5 more tokens",
            w().set("tokenizer.ggml.tokens", &tokens(41)[..]),
            "Mismatch",
            "expected 41 tokens, found 40",
        ),
        (
            "B5 fewer tokens",
            w().set("tokenizer.ggml.tokens", &tokens(39)[..]),
            "Mismatch",
            "expected 39 tokens, found 40",
        ),
        ("B5 fewer outputs", w().tensor("output.weight", &[32, 39]), "Mismatch", "shape of output.weight: expected 40"),
        ("B6 no tensor", w().without("blk.1.ffn_up.weight"), "Mismatch", "blk.1.ffn_up.weight"),
        ("B6 no embeddings", w().without("token_embd.weight"), "Mismatch", "token_embd.weight"),
        ("B6 one more", w().tensor("blk.0.mystery.weight", &[32]), "Unsupported", "blk.0.mystery.weight"),
        ("B6 of one more block", w().tensor("blk.2.attn_q.weight", &[32, 32]), "Mismatch", "blk.2.attn_q.weight"),
        ("B7 transposed", w().tensor("blk.0.ffn_up.weight", &[48, 32]), "Mismatch", "shape of blk.0.ffn_up.weight"),
        ("B7 flat", w().tensor("blk.0.ffn_up.weight", &[32 * 48]), "Mismatch", "shape of blk.0.ffn_up.weight"),
        ("B7 three dimensions", w().tensor("blk.0.ffn_up.weight", &[32, 24, 2]), "Mismatch", "blk.0.ffn_up.weight"),
        ("B7 a norm", w().tensor("blk.0.attn_norm.weight", &[31]), "Mismatch", "shape of blk.0.attn_norm.weight"),
        ("B8 0", set("attention.layer_norm_rms_epsilon", 0f32.into()), "Invalid", "epsilon: 0 cannot be used"),
        ("B8 negative", set("attention.layer_norm_rms_epsilon", (-1e-5f32).into()), "Invalid", "epsilon: -0.00001"),
        ("B8 NaN", set("attention.layer_norm_rms_epsilon", f32::NAN.into()), "Mismatch", "NaN"),
        ("B8 missing", w().without("llama.attention.layer_norm_rms_epsilon"), "Mismatch", "layer_norm_rms_epsilon"),
        ("B9 odd", set("rope.dimension_count", 7u32.into()), "Invalid", "rope.dimension_count: 7 is odd"),
        ("B9 0", set("rope.dimension_count", 0u32.into()), "Invalid", "rope.dimension_count: 0"),
        ("B9 more than a head", set("rope.dimension_count", 10u32.into()), "Invalid", "rope.dimension_count: 10"),
        ("B9 base 0", set("rope.freq_base", 0f32.into()), "Invalid", "rope.freq_base: 0"),
        ("B9 base NaN", set("rope.freq_base", f32::NAN.into()), "Mismatch", "rope.freq_base"),
        ("B9 base 1e308", set("rope.freq_base", 1e308f64.into()), "Mismatch", "rope.freq_base"),
        ("B9 base 1e38", set("rope.freq_base", 1e38f32.into()), "Invalid", "rope.freq_base: 1"),
        ("B9 factor negative", set("rope.scaling.factor", (-2f32).into()), "Invalid", "rope.scaling.factor: -2"),
        ("B9 scaling unknown", set("rope.scaling.type", "spiral".into()), "Unsupported", "rope scaling: spiral"),
        ("B10 none", moe("expert_count", 0), "Invalid", "qwen2moe.expert_count: 0"),
        ("B10 none used", moe("expert_used_count", 0), "Invalid", "qwen2moe.expert_used_count: 0"),
        ("B10 more used", moe("expert_used_count", 5), "Invalid", "qwen2moe.expert_used_count: 5"),
        ("B10 of a dense model", set("expert_count", 8u32.into()), "Unsupported", "llama.expert_count"),
        ("B11 negative", gemma((-1i32).into()), "Mismatch", "gemma2.attention.sliding_window"),
        (
            "B11 of a model without",
            Whole::of("qwen2").set("qwen2.attention.sliding_window", 8u32),
            "Unsupported",
            "window",
        ),
        ("B14", w().set("general.architecture", "mystery\u{1b}[2J"), "Unsupported", "mystery\\u{1b}[2J"),
        ("B15 adapter", only("general.type", "adapter"), "Unsupported", "an adapter, not a model"),
        ("B15 optimizer", only("optimizer.type", "adam"), "Unsupported", "the state of a training run"),
        ("B15 projector", only("general.architecture", "clip"), "Unsupported", "a projector for images"),
        ("B15 imatrix", only("general.type", "imatrix"), "Unsupported", "an importance matrix"),
        (
            "B15 vocabulary",
            only("general.architecture", "llama").set("tokenizer.ggml.tokens", &["a"][..]),
            "Unsupported",
            "a vocabulary without weights",
        ),
    ];
    let mut all: Vec<Entry> = refused
        .into_iter()
        .map(|(name, whole, variant, word)| MODEL.refuses(name, whole.bytes(), variant, word))
        .collect();
    all.push(MODEL.takes("B5 another vocab_size, by which nothing is sized", set("vocab_size", 7u32.into()).bytes()));
    all.push(MODEL.takes("B6 harmless", w().tensor("blk.0.attn_rot_embd.weight", &[4]).bytes()));
    all.push(MODEL.takes("B11 0, which is none", gemma(0u32.into()).bytes()));
    all.push(MODEL.takes("B12 both", w().bytes()));
    all.push(MODEL.takes("B12 tied", w().without("output.weight").bytes()));
    all.push(refuses("B4 a session of all of it", "Invalid", "the model was made for 1 to 1048576", || {
        let model = read(Whole::llama().set("llama.context_length", u32::MAX).bytes())?;
        Session::new(&model, SessionConfig { context: u32::MAX as usize, ..SessionConfig::default() }).map(drop)
    }));
    for (name, scale, format) in [
        ("B13 NaN", 0x7e00u16, "blk.1.ffn_up.weight"),
        ("B13 infinite", 0x7c00, "blk.1.ffn_up.weight"),
        ("B13 negative infinite", 0xfc00, "blk.1.ffn_down.weight"),
    ] {
        all.push(refuses(name, "Invalid", format, move || scaled(format, scale)));
    }
    for (name, scale) in [("B13 subnormal", 1), ("B13 zero", 0), ("B13 negative", 0xbc00)] {
        all.push(takes(name, move || scaled("blk.1.ffn_up.weight", scale)));
    }
    all.push(takes("B16", || {
        let sketch = Sketch { layers: 1000, ..Sketch::new(Arch::by_name("llama").unwrap(), 3, true) };
        let begin = Instant::now();
        let e = read(Whole::new(sketch.bare()).tensor("token_embd.weight", &[1, 1]).bytes()).err().unwrap().to_string();
        assert!(e.contains("blk.0."), "{e}");
        let mut ones = Whole::new(sketch.bare());
        for layer in 0..1000 {
            for role in ["attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up"] {
                ones.tensors.push((format!("blk.{layer}.{role}.weight"), vec![1], format(0), vec![0; 4].into()));
            }
        }
        let e = read(ones.bytes()).err().unwrap().to_string();
        assert!(e.contains("blk.0.") && begin.elapsed() < Duration::from_secs(2), "{e}, {:?}", begin.elapsed());
        Ok(())
    }));
    all
}

/// Feeds the built-in model, in which the scale of a block of this tensor is another.
fn scaled(tensor: &str, scale: u16) -> Result<()> {
    let compute = Compute { kernels: &PLAIN, pool: Pool::new(1) };
    let good = parse(mynah::base::MODEL.to_vec()).unwrap();
    let matrix = good.matrix(tensor).unwrap();
    // The scale in the first bytes of the first block of row 2.
    let at = matrix.data().as_ptr() as usize - good.files()[0].as_ptr() as usize + 2 * matrix.row_bytes();
    let mut file = mynah::base::MODEL.to_vec();
    file[at..at + 2].copy_from_slice(&scale.to_le_bytes());
    let model = Model::load(&parse(file)?, compute)?;
    let config = SessionConfig { context: 16, ..SessionConfig::default() };
    let mut session = Session::new(&model, config)?;
    let fed = session.feed(&[1, 2, 3]).map(drop);
    if let Err(e) = &fed {
        assert!(e.to_string().contains(&format!("{tensor}: row 2, column")) && session.position() == 0, "{e}");
    }
    fed
}

#[test]
fn section_b() {
    check('B', 16, entries(), &[]);
}

/// The file with other tensors: those of it that `stays` leaves, then `more`, vectors.
fn other(file: &Gguf, stays: impl Fn(&str) -> bool, more: &[(String, Vec<f32>)]) -> Vec<u8> {
    let mut w = Writer::new();
    file.pairs().for_each(|(key, value)| _ = w.set(key, value.clone()));
    for t in file.tensors().iter().filter(|t| stays(&t.name)) {
        w.tensor(&*t.name, t.dims(), t.format, file.data(t).unwrap());
    }
    for (name, values) in more {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        w.tensor(name.as_str(), &[values.len() as u64], Format::by_id(0).unwrap(), bytes);
    }
    w.finish().unwrap()
}

fn open(bytes: &[u8]) -> Result<Model> {
    let bytes = bytes.to_vec();
    let bound = allowed(bytes.len());
    let (model, most) = largest(|| read(bytes));
    assert!(most <= bound, "{most} bytes reserved at once");
    model
}

fn logits(model: &Model, precision: Precision, adapter: Option<Arc<Ready>>) -> Vec<u32> {
    let config = SessionConfig { context: 16, precision, ..SessionConfig::default() };
    let mut session = Session::new(model, config).unwrap();
    adapter.into_iter().for_each(|a| session.attach(a, 1.0).unwrap());
    session.feed(&[5, 7, 6]).unwrap().iter().map(|v| v.to_bits()).collect()
}

/// Adds a vector to what products make.
struct Added {
    shape: Shape,
    values: Vec<f32>,
}

impl Added {
    fn new(mut biases: Vec<(Site, Vec<f32>)>) -> Added {
        biases.sort_by_key(|b| b.0);
        let places = biases.iter().map(|(site, v)| (Place::Site(*site), [v.len(); 2])).collect();
        let part = |_, [_, len]: [usize; 2]| vec![NewPart::new("bias", 1, len, Start::Zero)];
        let values = biases.into_iter().flat_map(|b| b.1).collect();
        Added { shape: Shape::build(places, |_| Needs::default(), part), values }
    }
}

impl Adapter for Added {
    fn kind(&self) -> &'static Kind {
        KINDS[0]
    }

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn params(&self) -> &[f32] {
        &self.values
    }

    fn params_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    fn forward(&self, at: &At, _: View, y: &mut Tile, _: &mut Buffer) {
        let bias = &self.values[self.shape.parts[at.slot].range.clone()];
        (0..y.n()).for_each(|i| y.row(i).iter_mut().zip(bias).for_each(|(y, b)| *y += b));
    }

    fn backward(&self, _: &At, _: &Seen, _: &mut [f32], _: Into, _: &mut Buffer) {
        unreachable!("it is not trained");
    }

    fn record(&self, _: &mut Head) -> Vec<(&'static str, Vec<u8>)> {
        unreachable!("it is not saved");
    }
}

/// Holds a file with biases to the same file without them, where they are added by hand.
#[track_caller]
fn biases_are_added(bytes: &[u8]) {
    let file = parse(bytes.to_vec()).unwrap();
    let is_bias = |name: &str| name.starts_with("blk.") && name.ends_with(".bias");
    let names = file.tensors().iter().map(|t| &*t.name).filter(|n| is_bias(n));
    let site = |name: &str| Site::by_gguf(&name.replace(".bias", ".weight")).unwrap();
    let biases: Vec<(Site, Vec<f32>)> = names.map(|n| (site(n), file.vector(n).unwrap())).collect();
    assert!(!biases.is_empty() && biases.iter().all(|b| b.1.iter().any(|v| *v != 0.0)));
    let plain = open(&other(&file, |name| !is_bias(name), &[])).unwrap();
    let added = plain.ready(Box::new(Added::new(biases))).unwrap();
    for precision in [Precision::F32, Precision::Int8] {
        let got = logits(&open(bytes).unwrap(), precision, None);
        assert_ne!(got, logits(&plain, precision, None), "without them");
        assert_eq!(got, logits(&plain, precision, Some(added.clone())), "added by hand");
    }
}

#[test]
fn biases_of_all_products_are_added() {
    let file = parse(tiny::file("llama", 3, false)).unwrap();
    let mut rng = Rng(9);
    let mut bias = |layer: usize, role: Role| {
        let weight = file.matrix(&format!("blk.{layer}.{}.weight", role.gguf())).unwrap();
        (format!("blk.{layer}.{}.bias", role.gguf()), (0..weight.rows).map(|_| rng.unit()).collect::<Vec<f32>>())
    };
    // Those of an attention layer and a dense feed-forward layer.
    let there = |role: &Role| file.tensor(&format!("blk.1.{}.weight", role.gguf())).is_some();
    let roles: Vec<Role> = Role::LINEAR.into_iter().filter(there).collect();
    assert_eq!(roles.len(), 7);
    for &role in &roles {
        biases_are_added(&other(&file, |_| true, &[bias(1, role)]));
    }
    let all: Vec<_> = (0..tiny::LAYERS).flat_map(|l| roles.iter().map(move |&role| (l, role))).collect();
    let all: Vec<_> = all.into_iter().map(|(layer, role)| bias(layer, role)).collect();
    biases_are_added(&other(&file, |_| true, &all));
}

#[needs_shared]
#[test]
fn biases_of_the_shared_cases_are_added() {
    for name in ["ffn_bias", "out_bias"] {
        biases_are_added(&std::fs::read(shared().join(format!("cases/17/{name}.gguf"))).unwrap());
    }
}

#[track_caller]
fn refused(bytes: &[u8], tensor: &str) {
    let e = open(bytes).err().unwrap_or_else(|| panic!("{tensor} was accepted")).to_string();
    assert!(e.contains(tensor), "wanted `{tensor}` in: {e}");
}

#[test]
fn tensors_that_nobody_would_read_are_named() {
    let file = parse(tiny::file("llama", 3, true)).unwrap();
    for name in [
        "blk.0.mystery.weight",
        "mystery.weight",
        "output.bias",
        "output_norm.bias",
        "blk.0.attn_norm.bias",
        "blk.0.attn_q.scale",
        "blk.00.attn_q.bias",
        "blk.x.attn_q.bias",
        "blk.2.attn_q.bias",
        "blk.18446744073709551615.attn_q.weight",
        "blk.18446744073709551616.attn_q.bias",
        "attn_q.weight",
    ] {
        refused(&other(&file, |_| true, &[(name.into(), vec![0.0; 32])]), name);
    }
    for missing in ["blk.1.ffn_up.weight", "blk.0.attn_norm.weight", "output_norm.weight", "token_embd.weight"] {
        refused(&other(&file, |name| name != missing, &[]), missing);
    }
    refused(&other(&file, |_| true, &[("blk.1.attn_k.bias".into(), vec![0.0; 32])]), "blk.1.attn_k.bias");
    refused(&other(&file, |_| true, &[("blk.1.attn_q.bias".into(), vec![f32::NAN; 32])]), "blk.1.attn_q.bias");
}

#[needs_shared]
#[test]
fn tensors_of_the_shared_cases_are_named() {
    for (name, tensor) in [("blocks4", "blk.4."), ("unknown_tensor", "blk.0.mystery.weight")] {
        refused(&std::fs::read(shared().join(format!("cases/17/{name}.gguf"))).unwrap(), tensor);
    }
}

/// Loads, feeds a little, and holds both to a bound on time and memory.
#[track_caller]
fn is_light(bytes: &[u8]) {
    let file = parse(bytes.to_vec()).unwrap();
    let begin = Instant::now();
    let (model, most) = largest(|| {
        let compute = Compute { kernels: mynah::kernel::best(), pool: Pool::new(1) };
        let model = Model::load(&file, compute).unwrap();
        logits(&model, Precision::F32, None);
        model
    });
    let (took, context) = (begin.elapsed(), model.hparams.context);
    eprintln!("{context} positions: {took:?}, at most {most} bytes at once");
    assert!(context >= 1 << 20 && most <= 1 << 20, "{context} positions, {most} bytes at once");
    assert!(took < Duration::from_millis(500), "{took:?}");
}

#[test]
fn a_long_context_costs_nothing_before_it_is_used() {
    let file = parse(tiny::file("llama", 3, true)).unwrap();
    for context in [1 << 20, u32::MAX] {
        let mut w = Writer::new();
        let pairs = file.pairs().filter(|p| p.0 != "llama.context_length");
        pairs.for_each(|(key, value)| _ = w.set(key, value.clone()));
        w.set("llama.context_length", context);
        file.tensors().iter().for_each(|t| _ = w.tensor(&*t.name, t.dims(), t.format, file.data(t).unwrap()));
        is_light(&w.finish().unwrap());
    }
}

#[needs_shared]
#[test]
fn a_long_context_of_the_shared_cases_costs_nothing() {
    for name in ["rope-128", "rope-1k"] {
        is_light(&std::fs::read(shared().join(format!("cases/hostile/02/{name}.gguf"))).unwrap());
    }
}
