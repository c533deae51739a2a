//! mynah teaches a language model on the device it runs on.
//!
//! It maps a quantised GGUF model, runs it, trains a small adapter on the frozen weights and keeps what was learnt in
//! kilobytes. The core speaks bytes: where they live (a mapped file, a browser buffer, flash) is the caller's business.
//! The caller also owns every loop: a session reads tokens, a trainer does one step, and both return.
//!
//! Where to begin: [`gguf::Gguf`] reads a file, [`model::Model`] is what it holds, [`model::Session`] runs it,
//! [`train::Trainer`] teaches it an [`adapter`], and [`adapter::file`] keeps that. `examples/finetune.rs` goes this way
//! in one page.
//!
//! Features: `std` (mapped files, threads, run-time choice of the kernels), `chat` (the model file's own chat template),
//! `base` (the embedded model), `cli` (the command). Without any of them the crate is `no_std` with `alloc`.
#![cfg_attr(not(feature = "std"), no_std)]
#[cfg(not(feature = "std"))]
extern crate no_std_compat as std;
#[cfg(all(feature = "chat", not(feature = "std")))]
extern crate std as real_std;

// A module imports only from the modules above it; `tests/suite/layers.rs` keeps it so.
pub mod error;
pub mod math;
pub mod rng;
pub mod bytes;
pub mod quant;
pub mod gguf;
pub mod container;
pub mod knob;
pub mod kernel;
pub mod nn;
pub mod text;
pub mod role;
pub mod adapter;
pub mod model;
pub mod decode;
pub mod train;
#[cfg(feature = "base")]
pub mod base;
pub mod app;

pub use app::{Completion, Event, Lesson, Mynah};
#[cfg(feature = "chat")]
pub use app::{Reply, Talk};
pub use error::{Error, Result};
