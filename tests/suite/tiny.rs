//! A model of every architecture from a seed, small enough for a double-precision twin.

use mynah::adapter::{Kind, Spec};
use mynah::bytes::{Bytes, Limits};
use mynah::gguf::Gguf;
use mynah::gguf::Writer;
use mynah::kernel::{Compute, Pool};
use mynah::model::Model;
use mynah::quant::Format;

/// Whole numbers from a seed (SplitMix64).
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Uniform in −1..1.
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

pub const WIDTH: usize = 32;
pub const LAYERS: usize = 2;
pub const HEADS: usize = 4;
pub const KV_HEADS: usize = 2;
pub const FF: usize = 48;
pub const VOCAB: usize = 40;

/// A file of format `F32` with random weights; `tied` leaves the output matrix out.
pub fn file(arch: &str, seed: u64, tied: bool) -> Vec<u8> {
    file_in(arch, seed, tied, "F32")
}

/// The same with matrices of another format.
pub fn file_in(arch: &str, seed: u64, tied: bool, matrices: &str) -> Vec<u8> {
    let mut rng = Rng(seed);
    let mut w = Writer::new();
    let key = |name: &str| format!("{arch}.{name}");
    w.set("general.architecture", arch);
    for (name, value) in [
        ("block_count", LAYERS),
        ("context_length", 64),
        ("embedding_length", WIDTH),
        ("feed_forward_length", FF),
        ("attention.head_count", HEADS),
        ("attention.head_count_kv", KV_HEADS),
    ] {
        w.set(key(name), value as u32);
    }
    w.set(key("attention.layer_norm_rms_epsilon"), 1e-5f32);
    let mut tensor = |name: String, dims: &[u64], base: f32, spread: f32| {
        let n: u64 = dims.iter().product();
        let values: Vec<f32> = (0..n).map(|_| base + rng.unit() * spread).collect();
        let format = Format::by_name(if dims.len() == 1 { "F32" } else { matrices }).unwrap();
        let mut bytes = vec![0; format.row_bytes(values.len()).unwrap()];
        format.encode.unwrap()(&values, &mut bytes);
        w.tensor(name, dims, format, bytes);
    };
    let (d, kv, ff, v) = (WIDTH as u64, (WIDTH / HEADS * KV_HEADS) as u64, FF as u64, VOCAB as u64);
    tensor("token_embd.weight".into(), &[d, v], 0.0, 1.0);
    for l in 0..LAYERS {
        let name = |part: &str| format!("blk.{l}.{part}.weight");
        tensor(name("attn_norm"), &[d], 1.0, 0.3);
        tensor(name("attn_q"), &[d, d], 0.0, 0.4);
        tensor(name("attn_k"), &[d, kv], 0.0, 0.4);
        tensor(name("attn_v"), &[d, kv], 0.0, 0.3);
        tensor(name("attn_output"), &[d, d], 0.0, 0.3);
        tensor(name("ffn_norm"), &[d], 1.0, 0.3);
        tensor(name("ffn_gate"), &[d, ff], 0.0, 0.3);
        tensor(name("ffn_up"), &[d, ff], 0.0, 0.3);
        tensor(name("ffn_down"), &[ff, d], 0.0, 0.3);
    }
    tensor("output_norm.weight".into(), &[d], 1.0, 0.3);
    if !tied {
        tensor("output.weight".into(), &[d, v], 0.0, 0.5);
    }
    w.finish().unwrap()
}

/// The model of [`file`].
pub fn model(arch: &str, seed: u64, tied: bool, threads: usize) -> Model {
    let gguf = Gguf::parse(Bytes::from(file(arch, seed, tied)), &Limits::default()).unwrap();
    Model::load(&gguf, Compute { kernels: mynah::kernel::best(), pool: Pool::new(threads) }).unwrap()
}

/// The spec with so many bases for A and for B, if its kind has any.
pub fn bases(spec: Spec, [a, b]: [usize; 2]) -> Spec {
    match Kind::by_name(&spec.kind) {
        Ok(kind) if kind.knobs.iter().any(|u| u.knob.name == "basis") => spec.with("basis", a).with("basis b", b),
        _ => spec,
    }
}
