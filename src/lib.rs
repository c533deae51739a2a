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
// A part of what internal rooms hold is for the command, the tests and the benchmarks alone.
#![cfg_attr(not(feature = "internals"), allow(dead_code))]
#[cfg(not(feature = "std"))]
extern crate no_std_compat as std;
#[cfg(all(feature = "chat", not(feature = "std")))]
extern crate std as real_std;

/// Rooms that only the command, the tests and the benchmarks of this repository name: what they hold may change in any
/// version.
macro_rules! internal {
    ($($room:ident)*) => {$(
        #[cfg(feature = "internals")]
        pub mod $room;
        #[cfg(not(feature = "internals"))]
        pub(crate) mod $room;
    )*};
}

// A module imports only from the modules above it; `tests/suite/layers.rs` keeps it so.
pub mod error;
internal!(math rng);
pub mod bytes;
internal!(quant);
pub mod gguf;
internal!(container);
pub mod knob;
internal!(kernel nn);
pub mod text;
internal!(role);
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
pub use kernel::{Compute, Pool};
pub use nn::linear::Precision;
