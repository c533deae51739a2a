//! The table of architectures. A row holds what neither the metadata nor the presence of tensors tells.

use crate::error::{Error, Result};
use crate::nn::rope::Pairing;
use std::prelude::v1::*;

/// One row of [`ARCHES`].
#[derive(Debug)]
pub struct Arch {
    /// `general.architecture`, which is also the prefix of its metadata keys.
    pub name: &'static str,
    /// How rotary pairs lie in q and k.
    pub pairing: Pairing,
}

/// Every architecture this build runs: dense decoders with pre-norm blocks, grouped queries and gated SiLU.
pub static ARCHES: &[Arch] = &[Arch { name: "llama", pairing: Pairing::Neighbours }];

impl Arch {
    /// # Errors
    /// `Unsupported`, with the names this build knows.
    pub fn by_name(name: &str) -> Result<&'static Arch> {
        ARCHES.iter().find(|a| a.name == name).ok_or_else(|| {
            let known: Vec<&str> = ARCHES.iter().map(|a| a.name).collect();
            Error::unsupported("architecture", format!("{name} (this build runs {})", known.join(", ")))
        })
    }
}
