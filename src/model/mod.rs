//! A model from a file: hyper-parameters, matrices, and one pass forward and backward through its blocks.
//!
//! `arch.rs` is the table of architectures, `hparams.rs` reads the numbers, `weights.rs` the tensors. `project.rs` is
//! the one place where a frozen matrix and its adapters meet; `block.rs` is one transformer block in both directions;
//! `acts.rs` what a block remembers, `cache.rs` keys and values of earlier positions, `session.rs` a running text.
//!
//! Not here: sampling (`decode`), losses and optimisers (`train`).

pub mod acts;
pub mod arch;
pub mod block;
pub mod cache;
pub mod hparams;
pub mod project;
pub mod session;
pub mod weights;

pub use acts::{Acts, Kept, Precision, Stored};
pub use arch::{ARCHES, Arch};
pub use cache::CacheType;
pub use hparams::HParams;
pub use project::Attached;
pub use session::{Session, SessionConfig};
pub use weights::Weights;

use crate::adapter::{Base, Linear};
use crate::bytes::Bytes;
use crate::error::Result;
use crate::gguf::Gguf;
use crate::kernel::Compute;
use crate::nn::rope;
use std::prelude::v1::*;
use std::sync::Arc;

/// A model: immutable, cheap to clone, shared by sessions and trainers.
#[derive(Clone)]
pub struct Model {
    /// Its sizes.
    pub hparams: Arc<HParams>,
    /// Its matrices.
    pub weights: Arc<Weights>,
    /// How its heads turn.
    pub rope: Arc<rope::Rope>,
    /// What computes.
    pub compute: Compute,
    file: Bytes,
}

impl Model {
    /// A model over the tensors of a file; matrices stay where they are.
    ///
    /// # Errors
    /// `Unsupported` for an unknown architecture or format; `Corrupt`, `Mismatch`, `Invalid` where metadata or tensors do
    /// not make a model, naming the key or tensor.
    pub fn load(gguf: &Gguf, compute: Compute) -> Result<Model> {
        let hparams = HParams::read(gguf)?;
        let weights = Weights::read(gguf, &hparams)?;
        Ok(Model {
            rope: Arc::new(rope::Rope::new(
                hparams.arch.pairing,
                hparams.rope_dims,
                hparams.rope_base,
                hparams.rope_scale,
                weights.rope_factors.as_deref(),
                1.0,
            )),
            hparams: Arc::new(hparams),
            weights: Arc::new(weights),
            compute,
            file: gguf.bytes().clone(),
        })
    }

    /// The same model with other weights: what full-parameter training makes after each step.
    pub fn with_weights(&self, weights: Weights) -> Model {
        Model { weights: Arc::new(weights), ..self.clone() }
    }

    /// The same model with copies of its matrices that are read faster, as far as `budget` bytes reach, and the bytes
    /// taken: see [`Weights::turn`].
    ///
    /// # Errors
    /// `Memory` if the memory is not there.
    pub fn turned(&self, budget: usize) -> Result<(Model, usize)> {
        let mut weights = Weights::clone(&self.weights);
        let taken = weights.turn(&self.compute, budget)?;
        Ok((self.with_weights(weights), taken))
    }

    /// Bytes of the file.
    pub fn file_len(&self) -> usize {
        self.file.len()
    }

    /// The BLAKE3 hash of the file: what an adapter is bound to. Reads the whole file.
    pub fn fingerprint(&self) -> [u8; 32] {
        *blake3::hash(&self.file).as_bytes()
    }

    /// What adapters see of the model. `tokenizer` is the tokenizer's fingerprint.
    pub fn base(&self, tokenizer: [u8; 32]) -> Base {
        let h = &self.hparams;
        let shapes = self
            .weights
            .blocks
            .iter()
            .map(|block| Linear::ALL.map(|linear| Some([block.linear(linear).cols, block.linear(linear).rows])))
            .collect();
        Base {
            architecture: h.arch.name.into(),
            shapes,
            heads: h.heads.q,
            kv_heads: h.heads.kv,
            paired_rows: h.arch.pairing == rope::Pairing::Neighbours,
            fingerprint: self.fingerprint(),
            tokenizer,
        }
    }
}
