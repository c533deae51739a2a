//! The table of architectures. A row holds what neither the metadata nor the presence of tensors tells.

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
    /// How rotary pairs lie in q and k.
    pub pairing: Pairing,
    /// What its norms are.
    pub norm: norm::Kind,
    /// The activation of its feed-forward layers, a name of [`crate::nn::ffn::ACTS`].
    pub act: &'static str,
    /// Tensors that every block has. One that holds several of them may stand in their place.
    pub needs: &'static [Role],
    /// More of them.
    pub also: &'static [Role],
    /// Tensors that a block may have besides.
    pub may: &'static [Role],
    /// Names in its files that mean another role than in the table of roles.
    pub bind: &'static [(&'static str, Role)],
    /// Keys of features that `model` and `layer` read. Other architectures with such a key are refused.
    pub reads: &'static [&'static str],
    /// What differs from a plain model: scales, caps, rotary tables.
    pub model: fn(&Keys, &mut HParams) -> Result<()>,
    /// What differs from a plain layer: window, rotary table, heads, feed-forward layer.
    pub layer: fn(&Keys, usize, &mut Layer) -> Result<()>,
}

/// The tensors of a dense decoder with norms before attention and feed-forward layer, and a gate.
pub const DENSE: &[Role] =
    &[Role::AttnNorm, Role::Q, Role::K, Role::V, Role::O, Role::FfnNorm, Role::Gate, Role::Up, Role::Down];

/// Biases of all of its products.
pub const BIASES: &[Role] =
    &[Role::QBias, Role::KBias, Role::VBias, Role::OBias, Role::GateBias, Role::UpBias, Role::DownBias, Role::QkvBias];

/// What a dense decoder is where nothing else is said: rotary halves, RMS norms, gated SiLU.
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
        // Embeddings are scaled, and layers with a window have another rotary base, which no factor stretches.
        model: |keys, h| {
            h.embed_scale = libm::sqrtf(h.width as f32);
            let base = keys.number("rope.freq_base_swa", |v| v > 0.0 && v <= 1e12)?.unwrap_or(10_000.0);
            h.ropes.push(RopeParams { base, scale: 1.0, factors: false, ..h.ropes[0].clone() });
            h.finish.cap = keys.number("final_logit_softcapping", |v| v > 0.0 && v.is_finite())?;
            // The largest scales scores by its width for each head; that stands in no file.
            if h.layers == 62 {
                let width = h.width as f32;
                h.blocks.iter_mut().for_each(|b| b.heads.scale = 1.0 / libm::sqrtf(width / b.heads.q as f32));
            }
            Ok(())
        },
        // Of six layers the last one sees everything; the number stands in no file.
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
    /// `Unsupported`, with the names this build knows.
    pub fn by_name(name: &str) -> Result<&'static Arch> {
        ARCHES.iter().find(|a| a.name == name).ok_or_else(|| {
            let known: Vec<&str> = ARCHES.iter().map(|a| a.name).collect();
            Error::unsupported("architecture", format!("{name} (this build runs {})", known.join(", ")))
        })
    }

    /// The role of a tensor by what follows the block in its name, `attn_q.weight`, if this architecture has it.
    pub fn role(&self, name: &str) -> Option<Role> {
        let (gguf, suffix) = name.rsplit_once('.')?;
        let bound = self.bind.iter().find(|(name, role)| *name == gguf && role.suffix() == suffix);
        let role =
            bound.map(|(_, role)| *role).or_else(|| Role::all().find(|r| r.gguf() == gguf && r.suffix() == suffix))?;
        let known = |role: &Role| [self.needs, self.also, self.may].iter().any(|roles| roles.contains(role));
        let fused = || !role.row().holds.is_empty() && role.row().holds.iter().all(known);
        (known(&role) || fused()).then_some(role)
    }

    /// How its files call a role, without the block.
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
