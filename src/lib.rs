//! mynah teaches a language model on the device it runs on.
//!
//! It maps a quantised GGUF model, runs it, trains a small adapter on the frozen weights and keeps what was learnt in
//! kilobytes. A program needs about ten lines for that:
//!
//! ```
//! # fn main() -> mynah::Result<()> {
//! # #[cfg(all(feature = "base", feature = "chat", feature = "std"))] {
//! use mynah::{Event, Mynah};
//!
//! let mynah = Mynah::embedded()?; // or Mynah::open("smollm2.gguf")?
//! # let folder = tempfile::tempdir().unwrap();
//! # let file = folder.path().join("notes.mynah");
//! # let file = file.to_str().unwrap();
//! # /*
//! let file = "notes.mynah";
//! # */
//! let mut lesson = mynah.lesson("nola").steps(6).text(mynah::base::NOTES)?;
//! for event in &mut lesson {
//!     if let Event::Step(step) = event? {
//!         println!("step {} of 6  loss {:.3}", step.step, step.loss);
//!     }
//! }
//! lesson.save(file)?;
//!
//! let mut talk = mynah.talk()?;
//! talk.attach(file, 1.0)?;
//! for piece in talk.say("Tell me a story about a parrot.")? {
//!     print!("{}", piece?);
//! }
//! # }
//! # Ok(()) }
//! ```
//!
//! The page [`app`] has more of this: a [`Lesson`] can be paused, cancelled from another thread, and resumed from a checkpoint
//! to the same bytes; a `Talk` drops its oldest turns, regenerates answers and learns from what somebody thinks of them; a
//! [`Completion`] continues a text. What is made from a [`Mynah`] borrows nothing and can live in a struct of yours.
//!
//! # In your program
//!
//! ```toml
//! [dependencies]
//! mynah = { version = "0.1", default-features = false, features = ["std", "chat"] }
//!
//! # For debug builds: unoptimised kernels would take minutes.
//! [profile.dev.package.mynah]
//! opt-level = 3
//!
//! # The same for those that train `nola`, whose bases are random streams.
//! [profile.dev.package.rand_chacha]
//! opt-level = 3
//! ```
//!
//! | feature | what it adds |
//! | --- | --- |
//! | `std` | mapped files, threads, run-time choice of the kernels, checkpoints in a folder |
//! | `chat` | the chat template of a model's file, conversations; with `std` learning from marks |
//! | `base` | the embedded model of 1 MB, and notes to try a lesson with |
//! | `pictures` | adapters as QR codes: PNG and JPEG files, read and written |
//! | `codes` | adapters as QR codes, for a program that draws them itself |
//! | `cli` | the command `mynah`, and all of the above but `base` |
//!
//! `cli` and `base` are on unless they are switched off. Without any of them the crate is `no_std` with `alloc`: it loads models
//! from bytes, continues texts and trains.
//!
//! # Below that page
//!
//! [`gguf::Gguf`] reads a file, [`model::Model`] is what it holds, [`model::Session`] runs it, [`decode`] draws tokens,
//! [`train::Trainer`] teaches it an [`adapter`], and [`adapter::file`] keeps that. The core speaks bytes: where they live (a
//! mapped file, a browser buffer, flash) is the caller's business. The caller also owns every loop: a session reads tokens, a
//! trainer does one step, and both return.
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
#[cfg(feature = "codes")]
pub mod picture;
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
#[cfg(feature = "std")]
pub mod rewrite;
#[cfg(feature = "base")]
pub mod base;
pub mod app;

pub use app::{Completion, Event, Lesson, Mynah};
#[cfg(feature = "chat")]
pub use app::{Reply, Talk};
pub use error::{Error, Result};
#[cfg(feature = "std")]
pub use kernel::Seat;
pub use kernel::{Compute, Pool};
pub use nn::linear::Precision;
