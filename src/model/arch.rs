//! The table of architectures. A row holds everything that follows neither from the metadata nor from the presence of
//! tensors.

use super::hparams::{HParams, Keys, Layer, RopeParams};
use crate::error::{Error, Result};
use crate::nn::attention::Sees;
use crate::nn::norm;
use crate::nn::rope::Pairing;
use crate::role::Role;
use std::prelude::v1::*;

/// One row of [`ARCHES`].
pub struct Arch {
    /// `general.architecture`, which is also the prefix of its metadata keys.
    pub name: &'static str,
    /// The layout of rotary pairs in q and k.
    pub pairing: Pairing,
    /// The kind of its norms.
    pub norm: norm::Kind,
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

/// Biases of all of its products.
pub const BIASES: &[Role] =
    &[Role::QBias, Role::KBias, Role::VBias, Role::OBias, Role::GateBias, Role::UpBias, Role::DownBias, Role::QkvBias];

/// The defaults of a dense decoder: rotary halves, RMS norms, gated SiLU.
pub const PLAIN: Arch = Arch {
    name: "",
    pairing: Pairing::Halves,
    norm: norm::Kind::Rms,
    act: "silu",
    needs: DENSE,
    also: &[],
    may: BIASES,
    bind: &[],
    reads: &[],
    model: |_, _| Ok(()),
    layer: |_, _, _| Ok(()),
};

/// Every architecture this build runs.
pub static ARCHES: &[Arch] = &[
    Arch { name: "llama", pairing: Pairing::Neighbours, ..PLAIN },
    Arch { name: "qwen2", ..PLAIN },
    Arch { name: "qwen3", also: &[Role::QNorm, Role::KNorm], ..PLAIN },
    Arch {
        name: "gemma3",
        act: "gelu_tanh",
        also: &[Role::QNorm, Role::KNorm, Role::PostAttnNorm, Role::PostFfnNorm],
        reads: &["attention.sliding_window"],
        // Embeddings are scaled, and layers with a window have another rotary base, to which no scaling factor applies.
        model: |keys, h| {
            h.embed_scale = libm::sqrtf(h.width as f32);
            let base = keys.number("rope.freq_base_swa", |v| v > 0.0 && v <= 1e12)?.unwrap_or(10_000.0);
            h.ropes.push(RopeParams { base, scale: 1.0, factors: false, ..h.ropes[0].clone() });
            h.finish.cap = keys.number("final_logit_softcapping", |v| v > 0.0 && v.is_finite())?;
            // The largest scales scores by its width for each head; this is not in the file.
            if h.layers == 62 {
                let width = h.width as f32;
                h.blocks.iter_mut().for_each(|b| b.heads.scale = 1.0 / libm::sqrtf(width / b.heads.q as f32));
            }
            Ok(())
        },
        // Every sixth layer has full attention; this number is not in the file.
        layer: |keys, i, layer| {
            if let Some(window) = keys.size("attention.sliding_window", 1 << 20)?
                && (i + 1) % 6 != 0
            {
                (layer.sees, layer.rope) = (Sees::Window(window), Some(1));
            }
            Ok(())
        },
        ..PLAIN
    },
];

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
        let (gguf, suffix) = name.rsplit_once('.')?;
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
        format!("{}.{}", bound.unwrap_or(role.gguf()), role.suffix())
    }
}

impl core::fmt::Debug for Arch {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name)
    }
}
