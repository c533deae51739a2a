//! What a model is, whatever file it lies in.

use super::{Gguf, Tensor};
use crate::bytes::Bytes;
use crate::error::Result;
use std::prelude::v1::*;

/// The version of the content; it changes whenever the bytes do.
const DOMAIN: &[u8] = b"mynah tensors 1";

impl Gguf {
    /// Bytes that say everything about the tensors and nothing about the file, in pieces: metadata, alignment, padding, the
    /// order of tensors and the splitting into files do not matter. Their BLAKE3 hash is the identity of the weights. Weights
    /// are not copied.
    ///
    /// ```text
    /// "mynah tensors 1" · tensors u64
    /// for each tensor, ascending by the bytes of its name:
    ///   name (u64 length, UTF-8) · format u32 · rank u32 · dims u64 each, row length first · bytes u64
    /// then the data of each, in the same order, without padding
    /// ```
    /// Numbers are little-endian. Lengths come before what they are of, so two models never give the same bytes.
    ///
    /// # Errors
    /// Those of [`Gguf::data`], which do not happen with tensors of this file.
    pub fn content(&self) -> Result<Vec<Bytes>> {
        let sorted = || self.by_name.iter().filter_map(|i| self.tensors.get(*i as usize));
        let mut head = DOMAIN.to_vec();
        head.extend((self.tensors.len() as u64).to_le_bytes());
        sorted().for_each(|tensor| describe(tensor, &mut head));
        let mut pieces = vec![Bytes::from(head)];
        for tensor in sorted() {
            pieces.push(self.data(tensor)?);
        }
        Ok(pieces)
    }
}

fn describe(tensor: &Tensor, out: &mut Vec<u8>) {
    out.extend((tensor.name.len() as u64).to_le_bytes());
    out.extend_from_slice(tensor.name.as_bytes());
    out.extend(tensor.format.id.to_le_bytes());
    out.extend(u32::from(tensor.rank).to_le_bytes());
    tensor.dims().iter().for_each(|dim| out.extend(dim.to_le_bytes()));
    out.extend(tensor.bytes.to_le_bytes());
}
