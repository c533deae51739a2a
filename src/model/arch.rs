//! The table of architectures. A row holds everything that follows neither from the metadata nor from the presence of
//! tensors.

use super::hparams::{CONVOLUTION, DELTA, HParams, HeadNorm, Keys, Layer, Mixer, Mixture, RopeParams};
use crate::error::{Error, Result};
use crate::nn::attention::Sees;
use crate::nn::delta;
use crate::nn::experts::Router;
use crate::nn::norm;
use crate::nn::rope::{Pairing, Scaling};
use crate::role::Role;
use std::prelude::v1::*;

/// The identity of a tensor of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// Token embeddings.
    Embed,
    /// Embeddings of positions.
    Positions,
    /// Embeddings of types of tokens.
    Types,
    /// Gain of the norm of embeddings.
    EmbedNorm,
    /// Its bias.
    EmbedNormBias,
    /// A tensor of a block.
    Block(usize, Role),
    /// Gain of the last norm.
    Norm,
    /// Its bias.
    NormBias,
    /// The output matrix, if it is not the embedding.
    Output,
}

impl Key {
    /// Its name in a file of this model.
    pub fn name(self, h: &HParams) -> String {
        match self {
            Key::Embed => "token_embd.weight".into(),
            Key::Positions => "position_embd.weight".into(),
            Key::Types => "token_types.weight".into(),
            Key::EmbedNorm => "token_embd_norm.weight".into(),
            Key::EmbedNormBias => "token_embd_norm.bias".into(),
            Key::Block(layer, role) => format!("blk.{layer}.{}", h.arch.gguf(role)),
            Key::Norm => format!("{}.weight", h.arch.last_norm),
            Key::NormBias => format!("{}.bias", h.arch.last_norm),
            Key::Output => "output.weight".into(),
        }
    }
}

/// One row of [`ARCHES`].
pub struct Arch {
    /// `general.architecture`, which is also the prefix of its metadata keys.
    pub name: &'static str,
    /// The layout of rotary pairs in q and k.
    pub pairing: Pairing,
    /// The kind of its norms.
    pub norm: norm::Kind,
    /// What norms of queries and keys go over, where a block has them.
    pub head_norm: HeadNorm,
    /// The activation of its feed-forward layers, a name of `nn::ffn::ACTS`.
    pub act: &'static str,
    /// Tensors that every block has. A fused tensor may replace several of them.
    pub needs: &'static [Role],
    /// More tensors that every block has.
    pub also: &'static [Role],
    /// Optional tensors of a block.
    pub may: &'static [Role],
    /// Names in its files that have another role than in the table of roles.
    pub bind: &'static [(&'static str, Role)],
    /// Paths of matrices in its Hugging Face blocks that are other than in the table of roles.
    pub hf: &'static [(&'static str, Role)],
    /// The path of the list of blocks in its Hugging Face models.
    pub hf_blocks: &'static str,
    /// Tensors outside the blocks that every file has, beside the token embeddings and the last norm.
    pub globals: &'static [Key],
    /// Whether its files may have projections of pooled embeddings.
    pub projections: bool,
    /// The name of the last norm, without suffix; empty if there is none.
    pub last_norm: &'static str,
    /// Whether rows read what follows them: the model makes embeddings of whole texts and predicts no token.
    pub encoder: bool,
    /// Keys of features that `model` and `layer` read. Other architectures with such a key are refused.
    pub reads: &'static [&'static str],
    /// Sets what differs from a plain model: scales, caps, rotary embeddings.
    pub model: fn(&Keys, &mut HParams) -> Result<()>,
    /// Sets what differs from a plain layer: window, rotary embedding, heads, feed-forward layer.
    pub layer: fn(&Keys, usize, &mut Layer) -> Result<()>,
}

/// The tensors of a dense decoder with norms before attention and feed-forward layer, and a gate.
pub const DENSE: &[Role] =
    &[Role::AttnNorm, Role::Q, Role::K, Role::V, Role::O, Role::FfnNorm, Role::Gate, Role::Up, Role::Down];

/// The tensors of a decoder with attention and a mixture of experts.
const MIXTURE: &[Role] = &[
    Role::AttnNorm,
    Role::Q,
    Role::K,
    Role::V,
    Role::O,
    Role::FfnNorm,
    Role::Router,
    Role::ExpertGate,
    Role::ExpertUp,
    Role::ExpertDown,
];

/// The same as [`DENSE`] without a gate, and with norms by mean and variance.
pub const UNGATED: &[Role] = &[
    Role::AttnNorm,
    Role::AttnNormBias,
    Role::Q,
    Role::K,
    Role::V,
    Role::O,
    Role::FfnNorm,
    Role::FfnNormBias,
    Role::Up,
    Role::Down,
];

/// Attention and a gated feed-forward layer, without norms.
const BARE: &[Role] = &[Role::Q, Role::K, Role::V, Role::O, Role::Gate, Role::Up, Role::Down];

/// Norms of heads and behind sub-layers.
const ALL_NORMS: &[Role] = &[Role::QNorm, Role::KNorm, Role::PostAttnNorm, Role::PostFfnNorm];

/// Biases of all of its products.
pub const BIASES: &[Role] =
    &[Role::QBias, Role::KBias, Role::VBias, Role::OBias, Role::GateBias, Role::UpBias, Role::DownBias, Role::QkvBias];

/// The defaults of a dense decoder: rotary halves, RMS norms, gated SiLU.
pub const PLAIN: Arch = Arch {
    name: "",
    pairing: Pairing::Halves,
    norm: norm::Kind::Rms,
    head_norm: HeadNorm::Shared,
    act: "silu",
    needs: DENSE,
    also: &[],
    may: BIASES,
    bind: &[],
    hf: &[],
    hf_blocks: "model.layers",
    globals: &[],
    projections: false,
    last_norm: "output_norm",
    encoder: false,
    reads: &[],
    model: |_, _| Ok(()),
    layer: |_, _, _| Ok(()),
};

/// Every architecture this build runs.
pub static ARCHES: &[Arch] = &[
    // llama.cpp does not read the key of a window here, and models that have it run without.
    Arch { name: "llama", pairing: Pairing::Neighbours, reads: &[WINDOW], ..PLAIN },
    Arch { name: "qwen2", ..PLAIN },
    Arch { name: "qwen3", also: &[Role::QNorm, Role::KNorm], ..PLAIN },
    Arch { name: "gemma", act: "gelu_tanh", model: |_, h| scaled_embedding(h), ..PLAIN },
    Arch {
        name: "gemma2",
        act: "gelu_tanh",
        also: &[Role::PostAttnNorm, Role::PostFfnNorm],
        reads: &[WINDOW],
        model: |keys, h| {
            let (positive, scores) = (|v: f32| v > 0.0 && v.is_finite(), "attn_logit_softcapping");
            let cap = keys.number(scores, positive)?.unwrap_or(50.0);
            h.finish.cap = Some(keys.number("final_logit_softcapping", positive)?.unwrap_or(30.0));
            h.blocks.iter_mut().for_each(|b| b.heads.cap = Some(cap));
            let base = keys.number("rope.freq_base_swa", |v| v > 0.0 && v <= 1e12)?;
            h.ropes.push(RopeParams { base: base.unwrap_or(h.ropes[0].base), ..h.ropes[0].clone() });
            // The largest scales scores by its width for each head; this is not in the file.
            if h.layers == 46 {
                scaled_by_width(h);
            }
            scaled_embedding(h)
        },
        layer: |keys, i, layer| windowed(keys, i, layer, Some(4096), 2, Sees::Window),
        ..PLAIN
    },
    Arch {
        name: "gemma3",
        act: "gelu_tanh",
        also: ALL_NORMS,
        reads: &[WINDOW],
        model: |keys, h| {
            second_rope(keys, h)?;
            h.finish.cap = keys.number("final_logit_softcapping", |v| v > 0.0 && v.is_finite())?;
            if h.layers == 62 {
                scaled_by_width(h);
            }
            scaled_embedding(h)
        },
        layer: |keys, i, layer| windowed(keys, i, layer, None, 6, Sees::Window),
        ..PLAIN
    },
    Arch {
        name: "gemma-embedding",
        hf_blocks: "layers",
        act: "gelu_tanh",
        also: ALL_NORMS,
        projections: true,
        encoder: true,
        reads: &[WINDOW],
        model: |keys, h| {
            second_rope(keys, h)?;
            scaled_embedding(h)
        },
        layer: |keys, i, layer| {
            layer.sees = Sees::All;
            windowed(keys, i, layer, None, 6, Sees::Around)
        },
        ..PLAIN
    },
    Arch {
        name: "phi3",
        bind: &[("ffn_up", Role::GateUp)],
        // llama.cpp reads the key and does not use it.
        reads: &[WINDOW],
        ..PLAIN
    },
    Arch {
        name: "smollm3",
        pairing: Pairing::Neighbours,
        // Every fourth layer has no rotary embedding; this number is not in the file.
        layer: |_, i, layer| {
            layer.rope = layer.rope.filter(|_| (i + 1) % 4 != 0);
            Ok(())
        },
        ..PLAIN
    },
    Arch {
        name: "granite",
        pairing: Pairing::Neighbours,
        model: |keys, h| {
            let factor = |name| keys.number(name, |v| v > 0.0 && v.is_finite());
            h.embed_scale = factor("embedding_scale")?.unwrap_or(1.0);
            h.finish.scale = 1.0 / factor("logit_scale")?.ok_or_else(|| keys.missing("logit_scale"))?;
            let (residual, scores) = (factor("residual_scale")?, factor("attention.scale")?);
            let turned = keys.switch("rope.scaling.finetuned")?.unwrap_or(true);
            for block in &mut h.blocks {
                block.residual = residual.unwrap_or(1.0);
                block.heads.scale = scores.unwrap_or(block.heads.scale);
                block.rope = block.rope.filter(|_| turned);
            }
            Ok(())
        },
        ..PLAIN
    },
    Arch {
        name: "olmo2",
        needs: BARE,
        also: ALL_NORMS,
        head_norm: HeadNorm::Row,
        globals: &[Key::Output],
        reads: &[WINDOW],
        // Layers with a window have angles without scaling.
        model: |keys, h| {
            let base = keys.number("rope.freq_base_swa", |v| v > 0.0 && v <= 1e12)?.unwrap_or(h.ropes[0].base);
            h.ropes.push(RopeParams { base, scaling: Scaling::NONE, ..h.ropes[0].clone() });
            Ok(())
        },
        layer: |keys, i, layer| windowed(keys, i, layer, None, 4, Sees::Window),
        ..PLAIN
    },
    Arch {
        name: "stablelm",
        norm: norm::Kind::Layer,
        needs: BARE,
        also: &[Role::AttnNorm, Role::AttnNormBias],
        // Without the second norm both sub-layers read the first.
        may: &[Role::FfnNorm, Role::FfnNormBias, Role::QNorm, Role::KNorm, Role::QBias, Role::KBias, Role::VBias],
        head_norm: HeadNorm::Each,
        globals: &[Key::Output],
        ..PLAIN
    },
    Arch {
        name: "starcoder2",
        norm: norm::Kind::Layer,
        act: "gelu_tanh_plain",
        needs: UNGATED,
        hf: &[("mlp.c_fc", Role::Up), ("mlp.c_proj", Role::Down)],
        ..PLAIN
    },
    Arch {
        name: "gpt2",
        norm: norm::Kind::Layer,
        act: "gelu_tanh_plain",
        needs: UNGATED,
        hf: &[("attn.c_attn", Role::Qkv), ("attn.c_proj", Role::O), ("mlp.c_fc", Role::Up), ("mlp.c_proj", Role::Down)],
        hf_blocks: "transformer.h",
        globals: &[Key::Positions],
        layer: |_, _, layer| {
            layer.rope = None;
            Ok(())
        },
        ..PLAIN
    },
    Arch {
        name: "lfm2",
        also: &[Role::QNorm, Role::KNorm],
        may: CONVOLUTION,
        hf: &[
            ("self_attn.out_proj", Role::O),
            ("feed_forward.w1", Role::Gate),
            ("feed_forward.w3", Role::Up),
            ("feed_forward.w2", Role::Down),
        ],
        last_norm: "token_embd_norm",
        reads: &[WINDOW],
        // A layer without key heads has a short convolution.
        layer: |keys, _, layer| {
            if layer.heads.kv > 0 {
                let window = keys.whole(WINDOW, 1 << 20)?.filter(|size| *size > 0);
                layer.sees = window.map_or(layer.sees, Sees::Window);
                return Ok(());
            }
            let taps = keys.required("shortconv.l_cache", 64)?;
            if taps < 2 {
                return Err(Error::invalid(keys.name("shortconv.l_cache"), "a convolution of one row"));
            }
            layer.without_heads(Mixer::Convolution { taps });
            Ok(())
        },
        ..PLAIN
    },
    Arch {
        name: "qwen35",
        also: &[Role::QNorm, Role::KNorm],
        may: DELTA,
        bind: &[("attn_qkv", Role::DeltaIn), ("ssm_conv1d", Role::Taps), ("post_attention_norm", Role::FfnNorm)],
        reads: &[NEXT],
        model: delta_rules,
        ..PLAIN
    },
    Arch {
        name: "qwen3moe",
        needs: MIXTURE,
        also: &[Role::QNorm, Role::KNorm],
        reads: &[EXPERTS],
        model: |keys, h| mixture(keys, h, true),
        ..PLAIN
    },
    Arch {
        name: "qwen2moe",
        needs: MIXTURE,
        // An expert that all rows have.
        also: &[Role::Gate, Role::Up, Role::Down, Role::SharedGate],
        bind: &[("ffn_gate_shexp", Role::Gate), ("ffn_up_shexp", Role::Up), ("ffn_down_shexp", Role::Down)],
        hf: &[
            ("mlp.shared_expert.gate_proj", Role::Gate),
            ("mlp.shared_expert.up_proj", Role::Up),
            ("mlp.shared_expert.down_proj", Role::Down),
        ],
        reads: &[EXPERTS],
        model: |keys, h| {
            let own = keys.size("expert_shared_feed_forward_length", 1 << 22)?;
            let usual: Vec<usize> = h.blocks.iter().map(|b| own.unwrap_or(b.ff)).collect();
            mixture(keys, h, false)?;
            h.blocks.iter_mut().zip(usual).for_each(|(b, ff)| b.ff = ff);
            Ok(())
        },
        ..PLAIN
    },
    Arch {
        name: "olmoe",
        needs: MIXTURE,
        also: &[Role::QNorm, Role::KNorm],
        head_norm: HeadNorm::Row,
        reads: &[EXPERTS],
        model: |keys, h| mixture(keys, h, false),
        ..PLAIN
    },
    Arch {
        name: "bert",
        norm: norm::Kind::Layer,
        act: "gelu_tanh_plain",
        needs: &[Role::Q, Role::K, Role::V, Role::O, Role::Up, Role::Down],
        also: &[Role::FfnNorm, Role::FfnNormBias, Role::OutNorm, Role::OutNormBias],
        bind: &[("attn_output_norm", Role::FfnNorm), ("attn_output_norm", Role::FfnNormBias)],
        hf: &[
            ("attention.self.query", Role::Q),
            ("attention.self.key", Role::K),
            ("attention.self.value", Role::V),
            ("attention.output.dense", Role::O),
            ("intermediate.dense", Role::Up),
            ("output.dense", Role::Down),
        ],
        hf_blocks: "encoder.layer",
        globals: &[Key::Positions, Key::EmbedNorm, Key::EmbedNormBias],
        last_norm: "",
        encoder: true,
        layer: |_, _, layer| {
            (layer.rope, layer.sees) = (None, Sees::All);
            Ok(())
        },
        ..PLAIN
    },
];

/// The key of a window's size.
const WINDOW: &str = "attention.sliding_window";

/// The key of the number of experts.
const EXPERTS: &str = "expert_count";

/// The key of blocks at the end that guess further tokens.
pub(super) const NEXT: &str = "nextn_predict_layers";

/// Of each four layers three have a gated delta rule, unless the file has another period or names the layers. The queries of
/// the others have gates.
fn delta_rules(keys: &Keys, h: &mut HParams) -> Result<()> {
    let most = 1 << 16;
    let taps = keys.required("ssm.conv_kernel", 64)?;
    let [dim, groups, values] =
        ["ssm.state_size", "ssm.group_count", "ssm.time_step_rank"].map(|name| keys.required(name, most));
    let heads = delta::Heads { keys: groups?, values: values?, dim: dim?, eps: h.norm.eps };
    let wrong = |name: &str, why: String| Err(Error::invalid(keys.name(name), why));
    if taps < 2 {
        return wrong("ssm.conv_kernel", "a convolution of one row".into());
    }
    if !heads.values.is_multiple_of(heads.keys) {
        return wrong(
            "ssm.group_count",
            format!("{} does not divide the {} heads of values", heads.keys, heads.values),
        );
    }
    let (inner, width) = (keys.required("ssm.inner_size", most * most)?, heads.values * heads.dim);
    if inner != width {
        return wrong("ssm.inner_size", format!("{inner}; {} heads of {} make {width}", heads.values, heads.dim));
    }
    let period = keys.size("full_attention_interval", 1 << 20)?.unwrap_or(4);
    for (i, block) in h.blocks.iter_mut().enumerate() {
        match keys.every("attention.recurrent_layers", i, period)? {
            true => block.without_heads(Mixer::Delta { taps, heads }),
            false => block.gated = true,
        }
    }
    Ok(())
}

/// Makes every feed-forward layer a mixture. Weights of a row's experts are divided by their sum or not; this is not in the
/// file. The width of an expert is, or it is that of the feed-forward layer: whole for olmoe, a share for each expert of a row
/// for the others.
fn mixture(keys: &Keys, h: &mut HParams, normalised: bool) -> Result<()> {
    let experts = keys.required(EXPERTS, 1 << 10)?;
    let used = keys.required("expert_used_count", experts as u64)?;
    let own = keys.each("expert_feed_forward_length", 1, 1 << 22)?;
    let parts = if h.arch.name == "olmoe" { 1 } else { used };
    for (i, block) in h.blocks.iter_mut().enumerate() {
        let ff = own.as_ref().map_or(block.ff / parts, |own| own[i]);
        block.mixture = Some(Mixture { router: Router { experts, used, normalised }, ff });
        block.ff = 0;
    }
    Ok(())
}

/// Embeddings are multiplied by the root of their width.
fn scaled_embedding(h: &mut HParams) -> Result<()> {
    h.embed_scale = libm::sqrtf(h.width as f32);
    Ok(())
}

/// Scores are scaled by the width for each head instead of that of a head.
fn scaled_by_width(h: &mut HParams) {
    let width = h.width as f32;
    h.blocks.iter_mut().for_each(|b| b.heads.scale = 1.0 / libm::sqrtf(width / b.heads.q as f32));
}

/// Layers with a window have another rotary base, to which no scaling applies.
fn second_rope(keys: &Keys, h: &mut HParams) -> Result<()> {
    let base = keys.number("rope.freq_base_swa", |v| v > 0.0 && v <= 1e12)?.unwrap_or(10_000.0);
    h.ropes.push(RopeParams { base, scaling: Scaling::NONE, factors: false, ..h.ropes[0].clone() });
    Ok(())
}

/// Gives layer `i` a window and the second rotary embedding, if it is one of those: of each `period` layers all but the last,
/// unless the file has another period or names the layers. `usual` is the size where the file has none.
fn windowed(
    keys: &Keys,
    i: usize,
    layer: &mut Layer,
    usual: Option<usize>,
    period: usize,
    sees: fn(usize) -> Sees,
) -> Result<()> {
    // A window of 0 is none.
    let size = keys.whole(WINDOW, 1 << 20)?.or(usual).filter(|size| *size > 0);
    if let Some(size) = size
        && keys.every("attention.sliding_window_pattern", i, period)?
    {
        (layer.sees, layer.rope) = (sees(size), Some(1));
    }
    Ok(())
}

impl Arch {
    /// # Errors
    /// `Unsupported`, with the names that this build supports.
    pub fn by_name(name: &str) -> Result<&'static Arch> {
        ARCHES.iter().find(|a| a.name == name).ok_or_else(|| {
            let known: Vec<&str> = ARCHES.iter().map(|a| a.name).collect();
            Error::unsupported("architecture", format!("{name} (this build runs {})", known.join(", ")))
        })
    }

    /// The role of a tensor by its name without the block, `attn_q.weight`, if this architecture has it.
    pub fn role(&self, name: &str) -> Option<Role> {
        let (gguf, suffix) = name.rsplit_once('.').unwrap_or((name, ""));
        let bound = self.bind.iter().find(|(name, role)| *name == gguf && role.suffix() == suffix);
        let role =
            bound.map(|(_, role)| *role).or_else(|| Role::all().find(|r| r.gguf() == gguf && r.suffix() == suffix))?;
        let known = |role: &Role| [self.needs, self.also, self.may].iter().any(|roles| roles.contains(role));
        let fused = || !role.row().holds.is_empty() && role.row().holds.iter().all(known);
        (known(&role) || fused()).then_some(role)
    }

    /// The name of a role in its files, without the block.
    pub fn gguf(&self, role: Role) -> String {
        let bound = self.bind.iter().find(|(_, r)| *r == role).map(|(name, _)| *name);
        let name = bound.unwrap_or(role.gguf());
        if role.suffix().is_empty() { name.into() } else { format!("{name}.{}", role.suffix()) }
    }
}

impl core::fmt::Debug for Arch {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name)
    }
}
