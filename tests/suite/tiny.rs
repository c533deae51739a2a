//! A model of every architecture from a seed, small enough for a double-precision twin. What it is made of is read off the
//! tables that the library reads: rows of architectures, roles and their shapes.

use mynah::adapter::{Kind, Spec};
use mynah::bytes::{Bytes, Limits};
use mynah::gguf::{Gguf, Value, Writer};
use mynah::kernel::{Compute, Pool};
use mynah::model::hparams::{CONVOLUTION, DELTA, HeadNorm};
use mynah::model::weights::Key;
use mynah::model::{Arch, HParams, Model};
use mynah::nn::norm;
use mynah::quant::Format;
use mynah::role::{Role, TensorKind};

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

/// What a file is made of.
#[derive(Clone)]
pub struct Sketch {
    /// The row, of the table or of a test.
    pub arch: &'static Arch,
    pub seed: u64,
    /// Whether there is no output matrix of its own.
    pub tied: bool,
    /// The format of matrices.
    pub format: String,
    pub layers: usize,
    /// Positions it is made for.
    pub context: usize,
    /// Tensors of every block beside those that the row needs.
    pub more: Vec<Role>,
    /// Tensors that stand in the place of several.
    pub fused: Vec<Role>,
    /// Whether the file has divisors of rotary rates.
    pub factors: bool,
    /// Metadata beside the usual, without prefix.
    pub keys: Vec<(&'static str, Value)>,
}

impl Sketch {
    /// What the row needs, and no more.
    pub fn new(arch: &'static Arch, seed: u64, tied: bool) -> Sketch {
        let format = String::from("F32");
        let (mut more, mut keys) = (Vec::new(), Vec::new());
        // Some rows must have an output matrix, and some store several tensors as one.
        let tied = tied && !arch.globals.contains(&Key::Output);
        let fused = arch.bind.iter().map(|(_, role)| *role).filter(|role| !role.row().holds.is_empty()).collect();
        if arch.name == "granite" {
            keys.push(("logit_scale", 2.5f32.into()));
        }
        if arch.may.contains(&Role::ConvIn) {
            keys.push(("shortconv.l_cache", 3u32.into()));
            more.extend_from_slice(CONVOLUTION);
        }
        if arch.may.contains(&Role::DeltaIn) {
            let sizes = [
                ("ssm.conv_kernel", 3u32),
                ("ssm.state_size", 6),
                ("ssm.group_count", 2),
                ("ssm.time_step_rank", 4),
                ("ssm.inner_size", 24),
            ];
            keys.extend(sizes.map(|(name, size)| (name, size.into())));
            keys.push(("full_attention_interval", 2u32.into()));
            more.extend_from_slice(DELTA);
        }
        if arch.needs.contains(&Role::Router) {
            let sizes = [("expert_count", 4u32), ("expert_used_count", 2), ("expert_feed_forward_length", 32)];
            keys.extend(sizes.map(|(name, size)| (name, size.into())));
        }
        if arch.reads.contains(&"attention.sliding_window") && arch.encoder {
            keys.push(("attention.sliding_window", 6u32.into()));
        }
        Sketch { arch, seed, tied, format, layers: LAYERS, context: 64, more, fused, factors: false, keys }
    }

    /// With every tensor that the row allows.
    pub fn full(self) -> Sketch {
        Sketch { more: self.arch.may.to_vec(), ..self }
    }

    fn metadata(&self) -> Writer {
        let mut w = Writer::new();
        let key = |name: &str| format!("{}.{name}", self.arch.name);
        w.set("general.architecture", self.arch.name);
        for (name, value) in [
            ("block_count", self.layers),
            ("context_length", self.context),
            ("embedding_length", WIDTH),
            ("feed_forward_length", FF),
            ("attention.head_count", HEADS),
        ] {
            w.set(key(name), value as u32);
        }
        // Where a layer may have a convolution, every second has attention.
        let kv: Vec<u32> = (0..self.layers).map(|i| if i % 2 == 0 { 0 } else { KV_HEADS as u32 }).collect();
        match self.arch.may.contains(&Role::ConvIn) {
            true => w.set(key("attention.head_count_kv"), &kv[..]),
            false => w.set(key("attention.head_count_kv"), KV_HEADS as u32),
        };
        let eps = match self.arch.norm {
            norm::Kind::Rms => "attention.layer_norm_rms_epsilon",
            norm::Kind::Layer => "attention.layer_norm_epsilon",
        };
        w.set(key(eps), 1e-5f32);
        for (name, value) in &self.keys {
            w.set(key(name), value.clone());
        }
        w
    }

    /// The tensors of a block in the order in which they are drawn.
    fn roles(&self) -> Vec<Role> {
        let mut roles: Vec<Role> = self.arch.needs.iter().chain(self.arch.also).chain(&self.more).copied().collect();
        for fused in &self.fused {
            let first = roles.iter().position(|r| fused.row().holds.contains(r)).unwrap();
            roles[first] = *fused;
            roles.retain(|r| !fused.row().holds.contains(r));
        }
        let all = roles.clone();
        // A bias stands beside its matrix or norm.
        roles.retain(|r| if let TensorKind::Bias(of) = r.row().kind { all.contains(&of) } else { true });
        // One tensor or its parts.
        let all = roles.clone();
        roles.retain(|r| !r.row().holds.iter().any(|part| all.contains(part)));
        let mut once: Vec<Role> = Vec::new();
        roles.into_iter().for_each(|r| {
            if !once.contains(&r) {
                once.push(r)
            }
        });
        once
    }

    /// The bytes of a file without tensors.
    pub fn bare(&self) -> Vec<u8> {
        self.metadata().finish().unwrap()
    }

    /// The bytes of the file.
    pub fn file(&self) -> Vec<u8> {
        let bare = Gguf::parse(Bytes::from(self.bare()), &Limits::default()).unwrap();
        let h = HParams::read_as(&bare, self.arch).unwrap();
        let (mut rng, mut w) = (Rng(self.seed), self.metadata());
        let mut tensor = |name: String, dims: &[usize], base: f32, spread: f32| {
            let n = dims.iter().product();
            let values: Vec<f32> = (0..n).map(|_| base + rng.unit() * spread).collect();
            let gain = dims.len() == 1 || name.contains("_norm.") || name.contains("conv") || name.contains("_inp");
            let format = Format::by_name(if gain { "F32" } else { &self.format }).unwrap();
            let mut bytes = vec![0; format.row_bytes(values.len()).unwrap()];
            format.encode.unwrap()(&values, &mut bytes);
            let dims: Vec<u64> = dims.iter().map(|d| *d as u64).collect();
            w.tensor(name, &dims, format, bytes);
        };
        tensor("token_embd.weight".into(), &[WIDTH, VOCAB], 0.0, 1.0);
        for key in self.arch.globals {
            match key {
                Key::Positions => {
                    tensor(key.name(&h), &[WIDTH, self.context], 0.0, 0.5);
                    tensor(Key::Types.name(&h), &[WIDTH, 2], 0.0, 0.5);
                }
                Key::EmbedNorm => tensor(key.name(&h), &[WIDTH], 1.0, 0.3),
                Key::EmbedNormBias => tensor(key.name(&h), &[WIDTH], 0.0, 0.3),
                _ => {}
            }
        }
        for (l, layer) in h.blocks.iter().enumerate() {
            let sizes = layer.sizes(WIDTH);
            for role in self.roles().into_iter().filter(|role| !layer.foreign(*role)) {
                let (name, [cols, rows]) = (format!("blk.{l}.{}", self.arch.gguf(role)), (role.row().shape)(&sizes));
                let heads = layer.head_norm == HeadNorm::Each && [Role::QNorm, Role::KNorm].contains(&role);
                match role.row().kind {
                    TensorKind::Gain if heads => {
                        tensor(name, &[layer.heads.dim, rows / layer.heads.dim], 1.0, 0.3);
                    }
                    TensorKind::Gain => tensor(name, &[rows], 1.0, 0.3),
                    TensorKind::Numbers(_) => {
                        let base = if role == Role::DecayRate { -1.0 } else { 0.0 };
                        tensor(name, &[rows], base, 0.5);
                    }
                    TensorKind::Bias(_) => tensor(name, &[rows], 0.0, 0.3),
                    TensorKind::Taps => tensor(name, &[cols, rows], 0.0, 0.6),
                    TensorKind::Experts => tensor(name, &[cols, rows, sizes.experts], 0.0, 0.3),
                    TensorKind::Matrix => {
                        let spread = if [Role::Q, Role::K].contains(&role) { 0.4 } else { 0.3 };
                        tensor(name, &[cols, rows], 0.0, spread);
                    }
                }
            }
        }
        if !self.arch.last_norm.is_empty() {
            tensor(Key::Norm.name(&h), &[WIDTH], 1.0, 0.3);
            if self.arch.norm == norm::Kind::Layer {
                tensor(Key::NormBias.name(&h), &[WIDTH], 0.0, 0.3);
            }
        }
        if !self.tied {
            tensor("output.weight".into(), &[WIDTH, VOCAB], 0.0, 0.5);
        }
        for l in h.layers..h.layers + h.skipped {
            tensor(format!("blk.{l}.nextn.eh_proj.weight"), &[2 * WIDTH, WIDTH], 0.0, 0.3);
        }
        if self.factors {
            tensor("rope_freqs.weight".into(), &[h.ropes[0].dims / 2], 1.5, 0.5);
        }
        w.finish().unwrap()
    }

    /// The model over that file.
    pub fn model(&self, threads: usize) -> Model {
        self.model_on(Compute { kernels: mynah::kernel::best(), pool: Pool::new(threads) })
    }

    /// The same on a backend of the caller's.
    pub fn model_on(&self, compute: Compute) -> Model {
        let gguf = Gguf::parse(Bytes::from(self.file()), &Limits::default()).unwrap();
        Model::load_as(&gguf, self.arch, compute).unwrap()
    }
}

/// A file of format `F32` with random weights; `tied` leaves the output matrix out.
pub fn file(arch: &str, seed: u64, tied: bool) -> Vec<u8> {
    file_in(arch, seed, tied, "F32")
}

/// The same with matrices of another format.
pub fn file_in(arch: &str, seed: u64, tied: bool, matrices: &str) -> Vec<u8> {
    Sketch { format: matrices.into(), ..Sketch::new(Arch::by_name(arch).unwrap(), seed, tied) }.file()
}

/// The model of [`file`].
pub fn model(arch: &str, seed: u64, tied: bool, threads: usize) -> Model {
    Sketch::new(Arch::by_name(arch).unwrap(), seed, tied).model(threads)
}

/// The spec with so many bases for A and for B, if its kind has any.
pub fn bases(spec: Spec, [a, b]: [usize; 2]) -> Spec {
    match Kind::by_name(&spec.kind) {
        Ok(kind) if kind.knobs.iter().any(|u| u.knob.name == "basis") => spec.with("basis", a).with("basis b", b),
        Ok(kind) if kind.knobs.iter().any(|u| u.knob.name == "values") => spec.with("values", 60 * (a + b)),
        _ => spec,
    }
}
