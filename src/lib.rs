//! mynah teaches a language model on the device it runs on.
#![cfg_attr(not(feature = "std"), no_std)]
#[cfg(not(feature = "std"))]
extern crate no_std_compat as std;
#[cfg(all(feature = "chat", not(feature = "std")))]
extern crate std as real_std;

// A module imports only from the modules above it; `tests/suite/layers.rs` keeps it so.
pub mod adapter;
pub mod bytes;
pub mod container;
pub mod decode;
pub mod error;
pub mod gguf;
pub mod kernel;
pub mod math;
pub mod model;
pub mod nn;
pub mod quant;
pub mod rng;
pub mod text;
pub mod train;

pub use error::{Error, Result};
