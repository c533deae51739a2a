//! The sizes of a model, read and checked.

use super::Arch;
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::nn::attention::Heads;
use std::prelude::v1::*;

/// Longest context whose rotary table is built.
const MAX_CONTEXT: u64 = 1 << 20;

/// What a model's metadata says.
#[derive(Debug)]
pub struct HParams {
    /// Its row of the table.
    pub arch: &'static Arch,
    /// Blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Width of the feed-forward layer.
    pub ff: usize,
    /// Attention heads.
    pub heads: Heads,
    /// ε of the norms.
    pub eps: f32,
    /// Positions the model was made for.
    pub context: usize,
    /// Channels of a head that turn.
    pub rope_dims: usize,
    /// Base of the rotary angles.
    pub rope_base: f32,
    /// What positions are multiplied with: 1, or 1 / factor for linear scaling.
    pub rope_scale: f32,
}

impl HParams {
    /// # Errors
    /// `Unsupported` for an architecture or a rope scaling this build does not know; `Invalid` naming a key whose value
    /// cannot be; the file's own errors for keys that are missing or have another type.
    pub fn read(gguf: &Gguf) -> Result<HParams> {
        let arch = Arch::by_name(gguf.require_string("general.architecture")?)?;
        let key = |name: &str| format!("{}.{name}", arch.name);
        let size = |name: &str, max: u64| -> Result<usize> {
            let key = key(name);
            let v = gguf.require_u64(&key)?;
            if v == 0 || v > max {
                return Err(Error::invalid(key, format!("{v} is not between 1 and {max}")));
            }
            Ok(v as usize)
        };
        let number = |name: &str, default: Option<f32>, ok: fn(f32) -> bool| -> Result<f32> {
            let key = key(name);
            let v = match (gguf.f32(&key)?, default) {
                (Some(v), _) => v,
                (None, Some(v)) => v,
                (None, None) => return Err(gguf.missing(&key)),
            };
            if ok(v) { Ok(v) } else { Err(Error::invalid(key, format!("{v} cannot be"))) }
        };
        let layers = size("block_count", 10_000)?;
        let width = size("embedding_length", 1 << 20)?;
        let ff = size("feed_forward_length", 1 << 22)?;
        let context = size("context_length", u32::MAX as u64)?.min(MAX_CONTEXT as usize);
        let q = size("attention.head_count", 1 << 16)?;
        let kv = match gguf.u64(&key("attention.head_count_kv"))? {
            None => q,
            Some(_) => size("attention.head_count_kv", q as u64)?,
        };
        if q % kv != 0 {
            let why = format!("{kv} does not divide the {q} query heads");
            return Err(Error::invalid(key("attention.head_count_kv"), why));
        }
        let dim = match gguf.u64(&key("attention.key_length"))? {
            None if width % q == 0 => width / q,
            None => {
                let why = format!("{q} heads do not divide the width {width}");
                return Err(Error::invalid(key("attention.head_count"), why));
            }
            Some(_) => size("attention.key_length", 1 << 16)?,
        };
        if let Some(v) = gguf.u64(&key("attention.value_length"))?
            && v != dim as u64
        {
            return Err(Error::unsupported("value head width", format!("{v} beside keys of {dim}")));
        }
        let rope_dims = match gguf.u64(&key("rope.dimension_count"))? {
            None => dim,
            Some(_) => size("rope.dimension_count", dim as u64)?,
        };
        if rope_dims % 2 != 0 {
            return Err(Error::invalid(key("rope.dimension_count"), format!("{rope_dims} is odd")));
        }
        for feature in ["expert_count", "attention.sliding_window"] {
            if gguf.u64(&key(feature))?.is_some_and(|v| v != 0) {
                return Err(Error::unsupported("model feature", key(feature)));
            }
        }
        let rope_scale = match gguf.string(&key("rope.scaling.type"))? {
            None | Some("none") => number("rope.scale_linear", Some(1.0), |v| v > 0.0 && v.is_finite())?,
            Some("linear") => number("rope.scaling.factor", Some(1.0), |v| v > 0.0 && v.is_finite())?,
            Some(other) => return Err(Error::unsupported("rope scaling", other)),
        };
        Ok(HParams {
            arch,
            layers,
            width,
            ff,
            heads: Heads { q, kv, dim, scale: 1.0 / libm::sqrtf(dim as f32), cap: None },
            eps: number("attention.layer_norm_rms_epsilon", None, |v| v > 0.0 && v < 1.0)?,
            context,
            rope_dims,
            rope_base: number("rope.freq_base", Some(10_000.0), |v| v > 0.0 && v <= 1e12)?,
            rope_scale: 1.0 / rope_scale,
        })
    }

    /// Width of all query heads.
    pub fn q_width(&self) -> usize {
        self.heads.q * self.heads.dim
    }

    /// Width of all key heads.
    pub fn kv_width(&self) -> usize {
        self.heads.kv * self.heads.dim
    }
}
