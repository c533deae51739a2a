//! The hyper-parameters of a model and of each layer, read from metadata and checked.

use super::Arch;
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::nn::attention::{Heads, Sees};
use crate::nn::ffn::Act;
use crate::nn::head::Finish;
use crate::nn::norm::{self, Norm};
use crate::role::{Roles, Sizes};
use std::prelude::v1::*;

/// Longest context.
const MAX_CONTEXT: u64 = 1 << 20;

/// The hyper-parameters of a model.
#[derive(Debug)]
pub struct HParams {
    /// Its architecture.
    pub arch: &'static Arch,
    /// Number of blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// The blocks.
    pub blocks: Vec<Layer>,
    /// Its norms.
    pub norm: Norm,
    /// The context length that the model was trained for.
    pub context: usize,
    /// The rotary embeddings of queries and keys: layers name one of these.
    pub ropes: Vec<RopeParams>,
    /// The factor of embedded tokens.
    pub embed_scale: f32,
    /// Scale and cap of logits.
    pub finish: Finish,
}

/// One layer of a model.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Its heads, with the scale and the cap of their scores.
    pub heads: Heads,
    /// Which keys a query sees.
    pub sees: Sees,
    /// Which of [`HParams::ropes`] rotates queries and keys, if one does.
    pub rope: Option<usize>,
    /// Width of the feed-forward layer.
    pub ff: usize,
    /// Its activation.
    pub act: &'static Act,
    /// The factor of the outputs of attention and of the feed-forward layer before they are added to the stream.
    pub residual: f32,
    /// The tensors it has.
    pub has: Roles,
}

impl Layer {
    /// Width of all query heads.
    pub fn q_width(&self) -> usize {
        self.heads.q * self.heads.dim
    }

    /// Width of all key heads.
    pub fn kv_width(&self) -> usize {
        self.heads.kv * self.heads.dim
    }

    /// The widths that determine the shapes of its tensors.
    pub fn sizes(&self, width: usize) -> Sizes {
        Sizes { width, queries: self.q_width(), keys: self.kv_width(), ff: self.ff, head: self.heads.dim }
    }
}

/// The angles of a rotary embedding.
#[derive(Clone, Debug)]
pub struct RopeParams {
    /// Channels of a head that are rotated.
    pub dims: usize,
    /// Base of the rotation frequencies.
    pub base: f32,
    /// The factor of positions: 1, or 1 / factor for linear scaling.
    pub scale: f32,
    /// Whether the frequency divisors of the file, if it has any, apply.
    pub factors: bool,
}

/// The metadata of a model under the prefix of its architecture.
pub struct Keys<'a> {
    gguf: &'a Gguf,
    prefix: &'static str,
}

impl Keys<'_> {
    /// The full name of a key.
    pub fn name(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    /// A size from 1 to `max`, if it exists.
    ///
    /// # Errors
    /// `Invalid` for another value.
    pub fn size(&self, name: &str, max: u64) -> Result<Option<usize>> {
        let key = self.name(name);
        match self.gguf.u64(&key)? {
            None => Ok(None),
            Some(v) if v == 0 || v > max => Err(Error::invalid(key, format!("{v} is not between 1 and {max}"))),
            Some(v) => Ok(Some(v as usize)),
        }
    }

    /// A required size.
    fn required(&self, name: &str, max: u64) -> Result<usize> {
        let key = self.name(name);
        let v = self.gguf.require_u64(&key)?;
        if v == 0 || v > max {
            return Err(Error::invalid(key, format!("{v} is not between 1 and {max}")));
        }
        Ok(v as usize)
    }

    /// A number that passes `ok`, if it exists.
    ///
    /// # Errors
    /// `Invalid` for another value.
    pub fn number(&self, name: &str, ok: fn(f32) -> bool) -> Result<Option<f32>> {
        let key = self.name(name);
        match self.gguf.f32(&key)? {
            Some(v) if !ok(v) => Err(Error::invalid(key, format!("{v} cannot be used"))),
            v => Ok(v),
        }
    }

    /// A text, if it exists.
    ///
    /// # Errors
    /// Those of the file.
    pub fn text(&self, name: &str) -> Result<Option<&str>> {
        self.gguf.string(&self.name(name))
    }
}

/// Keys of features that change what a model computes. A file with such a key is refused unless its architecture reads
/// the key.
const FEATURES: [&str; 2] = ["expert_count", "attention.sliding_window"];

impl HParams {
    /// # Errors
    /// `Unsupported` for an architecture or a rope scaling that this build does not support; `Invalid` naming a key
    /// with an impossible value; those of the file for keys that are missing or have another type.
    pub fn read(gguf: &Gguf) -> Result<HParams> {
        Self::read_as(gguf, Arch::by_name(gguf.require_string("general.architecture")?)?)
    }

    /// Reads with a row that need not be in the table, for tests of features.
    ///
    /// # Errors
    /// Those of [`HParams::read`].
    #[doc(hidden)]
    pub fn read_as(gguf: &Gguf, arch: &'static Arch) -> Result<HParams> {
        let keys = Keys { gguf, prefix: arch.name };
        let layers = keys.required("block_count", 10_000)?;
        let width = keys.required("embedding_length", 1 << 20)?;
        let ff = keys.required("feed_forward_length", 1 << 22)?;
        let context = keys.required("context_length", u32::MAX as u64)?.min(MAX_CONTEXT as usize);
        let heads = heads(&keys, width)?;
        let dims = keys.size("rope.dimension_count", heads.dim as u64)?.unwrap_or(heads.dim);
        if dims % 2 != 0 {
            return Err(Error::invalid(keys.name("rope.dimension_count"), format!("{dims} is odd")));
        }
        for feature in FEATURES.iter().filter(|f| !arch.reads.contains(f)) {
            let key = keys.name(feature);
            if gguf.u64(&key)?.is_some_and(|v| v != 0) {
                return Err(Error::unsupported("model feature", key));
            }
        }
        let positive = |v: f32| v > 0.0 && v.is_finite();
        let factor = match keys.text("rope.scaling.type")? {
            None | Some("none") => keys.number("rope.scale_linear", positive)?,
            Some("linear") => keys.number("rope.scaling.factor", positive)?,
            Some(other) => return Err(Error::unsupported("rope scaling", other)),
        };
        let eps = match arch.norm {
            norm::Kind::Rms => "attention.layer_norm_rms_epsilon",
            norm::Kind::Layer => "attention.layer_norm_epsilon",
        };
        let found = keys.number(eps, |v| v > 0.0 && v < 1.0)?;
        let eps = found.ok_or_else(|| gguf.missing(&keys.name(eps)))?;
        let base = keys.number("rope.freq_base", |v| v > 0.0 && v <= 1e12)?.unwrap_or(10_000.0);
        let layer = Layer {
            heads,
            sees: Sees::Causal,
            rope: Some(0),
            ff,
            act: Act::by_name(arch.act)?,
            residual: 1.0,
            has: Roles::default(),
        };
        let mut h = HParams {
            arch,
            layers,
            width,
            blocks: vec![layer; layers],
            norm: Norm { kind: arch.norm, eps },
            context,
            ropes: vec![RopeParams { dims, base, scale: 1.0 / factor.unwrap_or(1.0), factors: true }],
            embed_scale: 1.0,
            finish: Finish::NONE,
        };
        (arch.model)(&keys, &mut h)?;
        for (i, layer) in h.blocks.iter_mut().enumerate() {
            (arch.layer)(&keys, i, layer)?;
        }
        Ok(h)
    }

    /// The largest value of `of` over all layers.
    pub fn most(&self, of: impl Fn(&Layer) -> usize) -> usize {
        self.blocks.iter().map(of).max().unwrap_or(0)
    }
}

/// The heads of all layers, from the keys of most architectures.
fn heads(keys: &Keys, width: usize) -> Result<Heads> {
    let q = keys.required("attention.head_count", 1 << 16)?;
    let kv = keys.size("attention.head_count_kv", q as u64)?.unwrap_or(q);
    if q % kv != 0 {
        let why = format!("{kv} does not divide the {q} query heads");
        return Err(Error::invalid(keys.name("attention.head_count_kv"), why));
    }
    let dim = match keys.size("attention.key_length", 1 << 16)? {
        Some(dim) => dim,
        None if width.is_multiple_of(q) => width / q,
        None => {
            let why = format!("{q} heads do not divide the width {width}");
            return Err(Error::invalid(keys.name("attention.head_count"), why));
        }
    };
    if let Some(v) = keys.gguf.u64(&keys.name("attention.value_length"))?
        && v != dim as u64
    {
        return Err(Error::unsupported("value head width", format!("{v} beside keys of {dim}")));
    }
    Ok(Heads { q, kv, dim, scale: 1.0 / libm::sqrtf(dim as f32), cap: None })
}
