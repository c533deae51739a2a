//! The hyper-parameters of a model and of each layer, read from metadata and checked.

use super::Arch;
use super::arch::{Key, NEXT};
use crate::bytes::Limits;
use crate::error::{Error, Result};
use crate::gguf::{Gguf, Value};
use crate::nn::attention::{Heads, Sees};
use crate::nn::delta;
use crate::nn::experts::Router;
use crate::nn::ffn::Act;
use crate::nn::head::Finish;
use crate::nn::norm::{self, Norm};
use crate::nn::rope::{Scaling, Yarn};
use crate::role::{Role, Roles, Sizes};
use std::prelude::v1::*;

/// Longest context.
const MAX_CONTEXT: u64 = Limits::DEFAULT.context;

/// The hyper-parameters of a model.
#[derive(Debug)]
pub struct HParams {
    /// Its architecture.
    pub arch: &'static Arch,
    /// Number of blocks.
    pub layers: usize,
    /// Blocks of the file after these, which guess further tokens and are left out.
    pub skipped: usize,
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
    /// Positions that the model had been trained for before its context was extended. Where its file has long and short
    /// divisors of rotary frequencies, longer contexts get the long ones.
    pub original_context: usize,
    /// The factor of embedded tokens.
    pub embed_scale: f32,
    /// Scale and cap of logits.
    pub finish: Finish,
    /// The number of how rows of a text become one vector, if the file has one: see [`Pooling::of`](super::Pooling::of).
    pub pooling_type: Option<u64>,
}

/// Where the norms of a block stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Before attention and before the feed-forward layer, as far as the block has them.
    Pre,
    /// Attention and feed-forward layer read the same normed rows, and both outputs are added to the stream.
    Parallel,
    /// After each sum of the stream and an output.
    Post,
}

/// What a norm of queries or keys goes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadNorm {
    /// Each head, with one gain for all: `[D]`.
    Shared,
    /// Each head, with a gain of its own: `[H, D]`.
    Each,
    /// All heads of a row together: `[H·D]`.
    Row,
}

/// What lets the rows of a block see those before them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mixer {
    /// Attention over keys and values, which a cache keeps.
    Attention,
    /// A short convolution between two gates, whose state is that many rows.
    Convolution {
        /// Taps of a channel, the row's own among them.
        taps: usize,
    },
    /// A gated delta rule behind a short convolution, whose state is that of both.
    Delta {
        /// Taps of a channel, the row's own among them.
        taps: usize,
        /// Its heads.
        heads: delta::Heads,
    },
}

impl Mixer {
    /// The projection of what it puts out.
    pub fn out(self) -> Role {
        match self {
            Mixer::Attention => Role::O,
            Mixer::Convolution { .. } => Role::ConvOut,
            Mixer::Delta { .. } => Role::DeltaOut,
        }
    }

    /// The tensors that blocks with this mixer have and others have not.
    pub fn roles(self) -> &'static [Role] {
        match self {
            Mixer::Attention => &[
                Role::Q,
                Role::K,
                Role::V,
                Role::O,
                Role::Qkv,
                Role::QNorm,
                Role::KNorm,
                Role::QBias,
                Role::KBias,
                Role::VBias,
                Role::OBias,
                Role::QkvBias,
            ],
            Mixer::Convolution { .. } => CONVOLUTION,
            Mixer::Delta { .. } => DELTA,
        }
    }
}

/// The tensors of a short convolution.
pub const CONVOLUTION: &[Role] = &[Role::ConvIn, Role::Taps, Role::ConvOut];

/// The tensors of a gated delta rule.
pub const DELTA: &[Role] = &[
    Role::DeltaIn,
    Role::DeltaGate,
    Role::Alpha,
    Role::Beta,
    Role::Taps,
    Role::DecayRate,
    Role::DecayBias,
    Role::DeltaNorm,
    Role::DeltaOut,
];

/// The experts of a feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mixture {
    /// How rows choose.
    pub router: Router,
    /// Width of an expert.
    pub ff: usize,
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
    /// What norms of queries and keys go over, if it has any.
    pub head_norm: HeadNorm,
    /// Whether what its queries gather goes through gates, which the query projection makes: for each head its query, then
    /// its gate.
    pub gated: bool,
    /// What lets its rows see those before them. Without attention it has no heads.
    pub mixer: Mixer,
    /// Width of the feed-forward layer. In a mixture this is the expert that all rows have, or nothing.
    pub ff: usize,
    /// The experts, if it is a mixture.
    pub mixture: Option<Mixture>,
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
        let (queries, keys) = (self.q_width(), self.kv_width());
        let gains = match self.head_norm {
            HeadNorm::Shared => [self.heads.dim; 2],
            HeadNorm::Each | HeadNorm::Row => [queries, keys],
        };
        let (taps, delta) = match self.mixer {
            Mixer::Attention => ([0; 2], [0; 2]),
            Mixer::Convolution { taps } => ([taps, width], [0; 2]),
            Mixer::Delta { taps, heads } => ([taps, heads.width()], [heads.values, heads.dim]),
        };
        let asked = if self.gated { 2 * queries } else { queries };
        let (experts, expert_ff) = self.mixture.map_or((0, 0), |m| (m.router.experts, m.ff));
        Sizes { width, queries, asked, keys, ff: self.ff, gains, taps, delta, experts, expert_ff }
    }

    /// Width of what its mixer goes over, after the projection: queries with their gates, if attention has gates.
    pub fn mixer_input(&self, width: usize) -> usize {
        match self.mixer {
            Mixer::Attention if self.gated => 2 * self.q_width(),
            Mixer::Attention => 0,
            Mixer::Convolution { .. } => 3 * width,
            Mixer::Delta { heads, .. } => heads.width(),
        }
    }

    /// Heads of its delta rule, or none.
    pub fn delta_heads(&self) -> usize {
        if let Mixer::Delta { heads, .. } = self.mixer { heads.values } else { 0 }
    }

    /// Whether what its mixer reads goes through a gate behind it.
    pub fn opens(&self) -> bool {
        self.gated || matches!(self.mixer, Mixer::Delta { .. })
    }

    /// Width of what its mixer puts out, before the last projection.
    pub fn mixed(&self, width: usize) -> usize {
        match self.mixer {
            Mixer::Attention => self.q_width(),
            Mixer::Convolution { .. } => width,
            Mixer::Delta { heads, .. } => heads.values * heads.dim,
        }
    }

    /// Values of the state that its mixer carries along a sequence beside the cache.
    pub fn state(&self, width: usize) -> usize {
        match self.mixer {
            Mixer::Attention => 0,
            Mixer::Convolution { taps } => (taps - 1) * width,
            Mixer::Delta { taps, heads } => (taps - 1) * heads.width() + heads.state(),
        }
    }

    /// Whether it has a feed-forward layer that all rows go through.
    pub fn dense(&self) -> bool {
        self.ff > 0
    }

    /// Whether a tensor belongs to a mixer other than its own.
    pub fn foreign(&self, role: Role) -> bool {
        let none = delta::Heads { keys: 0, values: 0, dim: 0, eps: 0.0 };
        let all = [Mixer::Attention, Mixer::Convolution { taps: 0 }, Mixer::Delta { taps: 0, heads: none }];
        let of = |mixer: &Mixer| mixer.roles().contains(&role);
        !of(&self.mixer) && all.iter().any(of)
    }

    /// Pairs of a row and an expert for each row, and values of an expert's hidden row.
    pub fn expert_sizes(&self) -> [usize; 2] {
        self.mixture.map_or([0; 2], |m| [m.router.used, m.ff])
    }

    /// Makes its mixer another than attention: it has no heads then.
    pub fn without_heads(&mut self, mixer: Mixer) {
        (self.mixer, self.rope) = (mixer, None);
        (self.heads.q, self.heads.kv) = (0, 0);
    }

    /// Where its norms stand, which follows from the tensors it has.
    pub fn form(&self) -> Form {
        match (self.has.has(Role::OutNorm), self.has.has(Role::AttnNorm), self.has.has(Role::FfnNorm)) {
            (true, ..) => Form::Post,
            (false, true, false) => Form::Parallel,
            _ => Form::Pre,
        }
    }

    /// Whether a row reads no row after its own.
    pub fn causal(&self) -> bool {
        matches!(self.sees, Sees::Causal | Sees::Window(_))
    }
}

/// The angles of a rotary embedding.
#[derive(Clone, Debug)]
pub struct RopeParams {
    /// Channels of a head that are rotated.
    pub dims: usize,
    /// Base of the rotation frequencies.
    pub base: f32,
    /// How its angles are scaled.
    pub scaling: Scaling,
    /// Whether the frequency divisors of the file, if it has any, apply.
    pub factors: bool,
}

/// The metadata of a model under the prefix of its architecture.
pub struct Keys<'a> {
    gguf: &'a Gguf,
    prefix: &'static str,
    layers: usize,
}

impl Keys<'_> {
    /// The full name of a key.
    pub fn name(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    /// The error for a required key that the file lacks.
    pub fn missing(&self, name: &str) -> Error {
        self.gguf.missing(&self.name(name))
    }

    /// A size from 1 to `max`, if it exists.
    ///
    /// # Errors
    /// `Invalid` for another value.
    pub fn size(&self, name: &str, max: u64) -> Result<Option<usize>> {
        self.between(name, 1, max)
    }

    /// A number from 0 to `max`, if it exists.
    ///
    /// # Errors
    /// `Invalid` for another value.
    pub fn whole(&self, name: &str, max: u64) -> Result<Option<usize>> {
        self.between(name, 0, max)
    }

    fn between(&self, name: &str, min: u64, max: u64) -> Result<Option<usize>> {
        let key = self.name(name);
        let found = self.gguf.u64(&key)?;
        found.map(|v| checked(&key, v, min, max)).transpose()
    }

    /// A required size.
    ///
    /// # Errors
    /// `Invalid` for another value; that of the file if the key is missing.
    pub fn required(&self, name: &str, max: u64) -> Result<usize> {
        self.size(name, max)?.ok_or_else(|| self.missing(name))
    }

    /// A number from `min` to `max` for each layer, if the file has one for all or an array of them.
    ///
    /// # Errors
    /// `Invalid` for another value, `Mismatch` for an array of another length.
    pub fn each(&self, name: &str, min: u64, max: u64) -> Result<Option<Vec<usize>>> {
        let key = self.name(name);
        let found = self.gguf.each_u64(&key, self.layers)?;
        found.map(|all| all.into_iter().map(|v| checked(&key, v, min, max)).collect()).transpose()
    }

    /// Whether layer `i` is one of those that a pattern names: an array says so for each layer; a number is a period, of
    /// which the last layer is not.
    ///
    /// # Errors
    /// Those of the file.
    pub fn every(&self, name: &str, i: usize, usual: usize) -> Result<bool> {
        let key = self.name(name);
        if let Some(Value::Array(_)) = self.gguf.get(&key) {
            return Ok(self.gguf.each_bool(&key, self.layers)?.is_some_and(|all| all[i]));
        }
        let period = self.size(name, 1 << 20)?.unwrap_or(usual);
        Ok(!(i + 1).is_multiple_of(period))
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

    /// A switch, if it exists.
    ///
    /// # Errors
    /// Those of the file.
    pub fn switch(&self, name: &str) -> Result<Option<bool>> {
        self.gguf.bool(&self.name(name))
    }

    /// A text, if it exists.
    ///
    /// # Errors
    /// Those of the file.
    pub fn text(&self, name: &str) -> Result<Option<&str>> {
        self.gguf.string(&self.name(name))
    }
}

fn checked(key: &str, v: u64, min: u64, max: u64) -> Result<usize> {
    if !(min..=max).contains(&v) {
        return Err(Error::invalid(key, format!("{v} is not between {min} and {max}")));
    }
    Ok(v as usize)
}

/// Keys of features that change what a model computes. A file with such a key is refused unless its architecture reads
/// the key.
const FEATURES: [&str; 3] = ["expert_count", "attention.sliding_window", NEXT];

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
        let mut keys = Keys { gguf, prefix: arch.name, layers: 0 };
        // Arrays in metadata have an entry for the blocks that are left out, too.
        keys.layers = keys.required("block_count", 10_000)?;
        let skipped =
            if arch.reads.contains(&NEXT) { keys.whole(NEXT, keys.layers as u64 - 1)?.unwrap_or(0) } else { 0 };
        let layers = keys.layers - skipped;
        let width = keys.required("embedding_length", 1 << 20)?;
        let ff = keys.each("feed_forward_length", 1, 1 << 22)?.ok_or_else(|| keys.missing("feed_forward_length"))?;
        let context = keys.required("context_length", u32::MAX as u64)?.min(MAX_CONTEXT as usize);
        let heads = heads(&keys, width)?;
        let dim = heads[0].dim;
        let dims = keys.size("rope.dimension_count", dim as u64)?.unwrap_or(dim);
        if dims % 2 != 0 {
            return Err(Error::invalid(keys.name("rope.dimension_count"), format!("{dims} is odd")));
        }
        for feature in FEATURES.iter().filter(|f| !arch.reads.contains(f)) {
            let key = keys.name(feature);
            if gguf.u64(&key)?.is_some_and(|v| v != 0) {
                return Err(Error::unsupported("model feature", key));
            }
        }
        if !arch.encoder && keys.switch("attention.causal")? == Some(false) {
            return Err(Error::unsupported("model feature", format!("{} = false", keys.name("attention.causal"))));
        }
        let original_context = keys.size("rope.scaling.original_context_length", u32::MAX as u64)?.unwrap_or(context);
        let scaling = scaling(&keys, original_context)?;
        let eps = match arch.norm {
            norm::Kind::Rms => "attention.layer_norm_rms_epsilon",
            norm::Kind::Layer => "attention.layer_norm_epsilon",
        };
        let eps = keys.number(eps, |v| v > 0.0 && v < 1.0)?.ok_or_else(|| keys.missing(eps))?;
        let base = keys.number("rope.freq_base", |v| v > 0.0 && v <= 1e12)?.unwrap_or(10_000.0);
        let act = Act::by_name(arch.act)?;
        let layer = |(heads, ff)| Layer {
            heads,
            sees: Sees::Causal,
            rope: Some(0),
            head_norm: arch.head_norm,
            gated: false,
            mixer: Mixer::Attention,
            ff,
            mixture: None,
            act,
            residual: 1.0,
            has: Roles::default(),
        };
        let mut h = HParams {
            arch,
            layers,
            skipped,
            width,
            blocks: heads.into_iter().zip(ff).take(layers).map(layer).collect(),
            norm: Norm { kind: arch.norm, eps },
            context,
            ropes: vec![RopeParams { dims, base, scaling, factors: true }],
            original_context,
            embed_scale: 1.0,
            finish: Finish::NONE,
            pooling_type: gguf.u64(&keys.name("pooling_type"))?,
        };
        (arch.model)(&keys, &mut h)?;
        for (i, layer) in h.blocks.iter_mut().enumerate() {
            (arch.layer)(&keys, i, layer)?;
            if layer.mixer == Mixer::Attention && layer.heads.kv == 0 {
                return Err(Error::invalid(keys.name("attention.head_count_kv"), format!("none in layer {i}")));
            }
        }
        Ok(h)
    }

    /// Values of the states that mixers carry along a sequence, all layers together.
    pub fn state(&self) -> usize {
        self.blocks.iter().map(|l| l.state(self.width)).sum()
    }

    /// Whether the model predicts the next token: no row reads what follows it.
    pub fn causal(&self) -> bool {
        self.blocks.iter().all(Layer::causal)
    }

    /// How many positions have an embedding, if positions have embeddings.
    pub fn most_positions(&self) -> Option<usize> {
        self.arch.globals.contains(&Key::Positions).then_some(self.context)
    }

    /// The largest value of `of` over all layers.
    pub fn most(&self, of: impl Fn(&Layer) -> usize) -> usize {
        self.blocks.iter().map(of).max().unwrap_or(0)
    }
}

/// How the angles of queries and keys are scaled, for a model that was first trained for `original` positions.
fn scaling(keys: &Keys, original: usize) -> Result<Scaling> {
    let positive = |v: f32| v > 0.0 && v.is_finite();
    // 0 stands for no factor.
    let factor = match keys.number("rope.scaling.factor", |v| v >= 0.0 && v.is_finite())? {
        None => keys.number("rope.scale_linear", |v| v >= 0.0 && v.is_finite())?,
        factor => factor,
    };
    let factor = factor.filter(|v| *v != 0.0).unwrap_or(1.0);
    let magnitude = keys.number("rope.scaling.attn_factor", positive)?.unwrap_or(1.0);
    let scale = 1.0 / factor;
    // Without a type a factor is linear; longrope scales by the divisors of the file alone.
    match keys.text("rope.scaling.type")? {
        None | Some("linear") => Ok(Scaling { scale, yarn: None, magnitude }),
        Some("none") => Ok(Scaling { magnitude, ..Scaling::NONE }),
        Some("longrope") => Ok(Scaling { scale, yarn: None, magnitude }),
        Some("yarn") => {
            let [fast, slow] = [("yarn_beta_fast", 32.0), ("yarn_beta_slow", 1.0)]
                .map(|(name, usual)| Ok(keys.number(&format!("rope.scaling.{name}"), positive)?.unwrap_or(usual)));
            let share = keys.number("rope.scaling.yarn_ext_factor", f32::is_finite)?;
            let share = share.filter(|v| *v >= 0.0).unwrap_or(1.0);
            if share == 0.0 {
                let own = keys.number("rope.scaling.yarn_attn_factor", positive)?.unwrap_or(1.0);
                return Ok(Scaling { scale, yarn: None, magnitude: magnitude * own });
            }
            let yarn = Some(Yarn { original: original as f32, fast: fast?, slow: slow?, share });
            // What the longer context adds to the magnitude, of which a multiplier may take a part back.
            let grown = |by: f32| if factor > 1.0 { 1.0 + 0.1 * by * libm::logf(factor) } else { 1.0 };
            let back = keys.number("rope.scaling.yarn_log_multiplier", |v| v >= 0.0 && v.is_finite())?.unwrap_or(0.0);
            Ok(Scaling { scale, yarn, magnitude: magnitude * grown(1.0) / grown(back) })
        }
        Some(other) => Err(Error::unsupported("rope scaling", other)),
    }
}

/// The heads of each layer, from the keys of most architectures.
fn heads(keys: &Keys, width: usize) -> Result<Vec<Heads>> {
    let count = "attention.head_count";
    let q = keys.each(count, 1, 1 << 16)?.ok_or_else(|| keys.missing(count))?;
    let kv = keys.each("attention.head_count_kv", 0, 1 << 16)?.unwrap_or_else(|| q.clone());
    if let Some((q, kv)) = q.iter().zip(&kv).find(|(q, kv)| **kv != 0 && *q % *kv != 0) {
        let why = format!("{kv} does not divide the {q} query heads");
        return Err(Error::invalid(keys.name("attention.head_count_kv"), why));
    }
    let dim = match keys.size("attention.key_length", 1 << 16)? {
        Some(dim) => dim,
        None if width.is_multiple_of(q[0]) => width / q[0],
        None => {
            let why = format!("{} heads do not divide the width {width}", q[0]);
            return Err(Error::invalid(keys.name(count), why));
        }
    };
    if let Some(v) = keys.gguf.u64(&keys.name("attention.value_length"))?
        && v != dim as u64
    {
        return Err(Error::unsupported("value head width", format!("{v} beside keys of {dim}")));
    }
    let heads = |(q, kv)| Heads { q, kv, dim, scale: 1.0 / libm::sqrtf(dim as f32), cap: None };
    Ok(q.into_iter().zip(kv).map(heads).collect())
}
