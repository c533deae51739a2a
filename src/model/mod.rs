//! A model from a file: hyper-parameters, matrices, and one pass forward and backward through its blocks.
//!
//! `arch.rs` is the table of architectures; `hparams.rs` reads the metadata and describes each layer; `weights.rs`
//! reads the tensors by the table of `role`. `acts.rs` is the table of activations. `doors.rs` applies
//! adapters at their places, and nothing else does; `block.rs` is one transformer block, forward and backward;
//! `pass.rs` is a pass through the whole model; `cache.rs` stores the keys and values of earlier positions;
//! `session.rs` is a running text, `embedding.rs` makes vectors of whole ones; `identity.rs` tells one model from another.
//!
//! `support.rs` is the table of what works and what proves it.
//!
//! Not here: sampling (`decode`), losses and optimisers (`train`).

internal!(acts);
pub mod arch;
internal!(block cache doors embedding mixer mixture);
pub mod hparams;
mod identity;
internal!(pass session weights);
pub mod support;

pub use acts::{ActType, Acts, SavedActs, SavedValues};
pub use arch::{ARCHES, Arch};
pub use cache::CacheType;
pub use embedding::{Embedder, Pooling};
pub use hparams::HParams;
use hparams::HeadNorm;
use identity::Identity;
pub use identity::{Digest, Digests};
pub use pass::{Dropout, Pass, Rows, Target};
pub use session::{Session, SessionConfig, Snapshot};
pub use support::{SUPPORT, Support};
pub use weights::Weights;

use crate::adapter::{Adapter, Base, Frozen, Ready, Shapes, Site};
use crate::bytes::Bytes;
use crate::error::Result;
use crate::gguf::Gguf;
use crate::kernel::Compute;
use crate::nn::attention::Heads;
use crate::nn::rope::{self, Rope};
use crate::quant::Matrix;
use crate::role::{Role, TensorKind};
use std::prelude::v1::*;
use std::sync::Arc;

/// A model: immutable, cheap to clone, shared by sessions and trainers.
#[derive(Clone)]
pub struct Model {
    /// Its sizes and the description of its layers.
    pub hparams: Arc<HParams>,
    /// Its matrices.
    pub weights: Arc<Weights>,
    /// The rotary embeddings of queries and keys, by [`hparams::Layer::rope`].
    pub ropes: Arc<[Rope]>,
    /// Kernels and threads.
    pub compute: Compute,
    /// Whether the rotary embeddings are those of long contexts.
    long: bool,
    identity: Arc<Identity>,
    /// What it lies in: a file a part.
    parts: Arc<[Bytes]>,
}

impl Model {
    /// A model over the tensors of a file; matrices are not copied.
    ///
    /// # Errors
    /// Those of [`Gguf::check_model`]; `Unsupported` for an unknown architecture or format; `Corrupt`, `Mismatch`, `Invalid` where metadata or tensors
    /// are inconsistent, naming the key or tensor.
    pub fn load(gguf: &Gguf, compute: Compute) -> Result<Model> {
        gguf.check_model()?;
        Self::make(gguf, HParams::read(gguf)?, compute)
    }

    /// Loads a model with a row that need not be in the table of architectures, for tests of features.
    ///
    /// # Errors
    /// Those of [`Model::load`].
    #[doc(hidden)]
    pub fn load_as(gguf: &Gguf, arch: &'static Arch, compute: Compute) -> Result<Model> {
        Self::make(gguf, HParams::read_as(gguf, arch)?, compute)
    }

    fn make(gguf: &Gguf, mut hparams: HParams, compute: Compute) -> Result<Model> {
        let weights = Weights::read(gguf, &mut hparams)?;
        Ok(Model {
            ropes: ropes(&hparams, &weights, false),
            hparams: Arc::new(hparams),
            weights: Arc::new(weights),
            compute,
            long: false,
            identity: Arc::new(Identity::read(gguf)?),
            parts: gguf.files().into(),
        })
    }

    /// The model as it is for contexts of that many positions: where its file has long and short divisors of rotary
    /// frequencies, those of this length. Like llama.cpp this goes by the whole context and not by the text in it, with the
    /// context rounded up to a multiple of 256.
    pub fn at_context(&self, positions: usize) -> Model {
        let long = positions.next_multiple_of(256) > self.hparams.original_context;
        match self.weights.rope_factors.by_length() && long != self.long {
            true => Model { ropes: ropes(&self.hparams, &self.weights, long), long, ..self.clone() },
            false => self.clone(),
        }
    }

    /// Which divisors of rotary frequencies it has, `long` or `short`, if its file has both.
    pub fn rope_length(&self) -> Option<&'static str> {
        self.weights.rope_factors.by_length().then_some(if self.long { "long" } else { "short" })
    }

    /// An adapter, ready to be attached to this model.
    ///
    /// # Errors
    /// Those of [`Adapter::prepare`].
    pub fn ready(&self, adapter: Box<dyn Adapter>) -> Result<Arc<Ready>> {
        Ready::new(adapter, &self.compute, self)
    }

    /// The model with other weights; full-parameter training replaces them after each step.
    pub fn with_weights(&self, weights: Weights) -> Model {
        Model { weights: Arc::new(weights), ..self.clone() }
    }

    /// The model with copies of its matrices that are read faster, in at most `budget` bytes, and the bytes used: see
    /// [`Weights::repack`].
    ///
    /// # Errors
    /// `Memory` if there is not enough memory.
    pub fn repacked(&self, budget: usize) -> Result<(Model, usize)> {
        let mut weights = Weights::clone(&self.weights);
        let taken = weights.repack(&self.compute, budget)?;
        Ok((self.with_weights(weights), taken))
    }

    /// Width of embeddings: that of the model, or of the last projection behind the pooling.
    pub fn embedding_width(&self) -> usize {
        self.weights.projections.last().map_or(self.hparams.width, |w| w.rows)
    }

    /// Looks whether the files of the model are still what they were when they were opened: see [`Bytes::check`].
    ///
    /// # Errors
    /// Those of [`Bytes::check`], which name the file.
    pub fn check(&self) -> Result<()> {
        self.parts.iter().try_for_each(Bytes::check)
    }

    /// Bytes of the file; of a model in parts, those of the file that merging gives.
    pub fn file_len(&self) -> usize {
        self.identity.len(Digest::File)
    }

    /// What people call it, as its file says: `SmolLM2 135M Instruct`.
    pub fn name(&self) -> &str {
        &self.identity.name
    }

    /// How most of it is stored, in a word: `Q4_0`, `Q4_K_M`.
    pub fn format(&self) -> &'static str {
        self.identity.format
    }

    /// The BLAKE3 hash of its tensors, which adapters are bound to, or of its whole file. It is computed when it is first
    /// asked for, which reads all of that.
    pub fn digest(&self, of: Digest) -> [u8; 32] {
        self.identity.digest(of)
    }

    /// The model with digests that are kept between runs: those that are known are not computed.
    pub fn keeping(&self, digests: Arc<dyn Digests>) -> Model {
        Model { identity: Arc::new(self.identity.keeping(digests)), ..self.clone() }
    }

    /// The description of the model for adapters. `tokenizer` is the tokenizer's fingerprint. Reads all weights, for their
    /// digest.
    pub fn base(&self, tokenizer: [u8; 32]) -> Base {
        let h = &self.hparams;
        let shapes = |layer: &hparams::Layer| {
            let sizes = layer.sizes(h.width);
            let mut shapes = Shapes::new(layer.heads);
            for row in &crate::role::ROLES {
                let held = row.role.fused().is_some_and(|(whole, _)| layer.has.has(whole));
                // Nothing of an adapter stands on norms with a gain for each head.
                let own = layer.head_norm == HeadNorm::Each && [Role::QNorm, Role::KNorm].contains(&row.role);
                if own {
                    continue;
                }
                let adaptable = matches!(row.kind, TensorKind::Matrix | TensorKind::Gain);
                if adaptable && (held || layer.has.has(row.role)) {
                    shapes[row.role] = Some((row.shape)(&sizes));
                }
            }
            shapes
        };
        Base {
            architecture: h.arch.name.into(),
            width: h.width,
            shapes: h.blocks.iter().map(shapes).collect(),
            hf: h.arch.hf,
            hf_blocks: h.arch.hf_blocks,
            bind: h.arch.bind,
            paired_rows: h.arch.pairing == rope::Pairing::Neighbours,
            name: self.name().into(),
            format: self.format().into(),
            content: self.digest(Digest::Content),
            tokenizer,
            frozen: Some(Arc::new(self.clone())),
        }
    }
}

/// The rotary embeddings of a model, for long contexts or for others.
fn ropes(h: &HParams, weights: &Weights, long: bool) -> Arc<[Rope]> {
    let factors = weights.rope_factors.of(long);
    let rope =
        |t: &hparams::RopeParams| Rope::new(h.arch.pairing, t.dims, t.base, t.scaling, factors.filter(|_| t.factors));
    h.ropes.iter().map(rope).collect()
}

impl Frozen for Model {
    fn check(&self) -> Result<()> {
        Model::check(self)
    }

    fn file(&self) -> Option<[u8; 32]> {
        Some(self.digest(Digest::File))
    }

    fn matrix(&self, site: Site) -> Option<Matrix> {
        let layer = self.hparams.blocks.get(site.layer)?;
        self.weights.blocks.get(site.layer)?.matrix(site.role, layer, self.hparams.width)
    }

    fn bias(&self, site: Site) -> Option<&[f32]> {
        let layer = self.hparams.blocks.get(site.layer)?;
        self.weights.blocks.get(site.layer)?.bias(site.role, layer, self.hparams.width)
    }

    fn heads(&self, layer: usize) -> Option<Heads> {
        self.hparams.blocks.get(layer).map(|l| l.heads)
    }

    fn vocabulary(&self, head: bool) -> Option<Matrix> {
        let own = self.weights.output.as_ref().filter(|_| head);
        Some(own.unwrap_or(&self.weights.embed).clone())
    }

    fn rope(&self, layer: usize) -> Option<&Rope> {
        self.ropes.get(self.hparams.blocks.get(layer)?.rope?)
    }
}
