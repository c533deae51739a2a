//! Emits a model file: version 3, alignment 32, as llama.cpp loads it.

use super::read::padding;
use super::value::{Value, write_string};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, MAX_RANK};
use crate::bytes::Bytes;
use crate::error::{Error, Result, printable};
use crate::quant::Format;
use std::collections::BTreeSet;
use std::prelude::v1::*;

/// Collects metadata and tensors, then writes them in the order in which they were added.
#[derive(Default)]
pub struct Writer {
    pairs: Vec<(String, Value)>,
    tensors: Vec<Entry>,
}

struct Entry {
    name: String,
    dims: Vec<u64>,
    format: &'static Format,
    /// `None`: its bytes follow the head, written by the caller.
    data: Option<Bytes>,
}

impl Writer {
    /// An empty one.
    pub fn new() -> Self {
        Writer::default()
    }

    /// Adds a metadata pair. `general.alignment` is left out: this writer's alignment is the format's default.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) -> &mut Self {
        let key = key.into();
        if key != ALIGNMENT_KEY {
            self.pairs.push((key, value.into()));
        }
        self
    }

    /// Adds a tensor. `dims`: the length of a row first, then the number of rows.
    pub fn tensor(
        &mut self,
        name: impl Into<String>,
        dims: &[u64],
        format: &'static Format,
        data: impl Into<Bytes>,
    ) -> &mut Self {
        self.tensors.push(Entry { name: name.into(), dims: dims.to_vec(), format, data: Some(data.into()) });
        self
    }

    /// Adds a tensor whose bytes the caller writes: see [`Writer::head`].
    pub fn declare(&mut self, name: impl Into<String>, dims: &[u64], format: &'static Format) -> &mut Self {
        self.tensors.push(Entry { name: name.into(), dims: dims.to_vec(), format, data: None });
        self
    }

    /// The bytes of the file. The same input gives the same bytes.
    ///
    /// # Errors
    /// `Invalid` for an empty or repeated key or name, no or more than four dimensions, bytes that do not fit
    /// the dimensions, or none.
    pub fn finish(&self) -> Result<Vec<u8>> {
        let mut out = self.head()?;
        let data = self.tensors.iter().map(|t| t.data.as_ref().map_or(0, |data| data.len().saturating_add(31)));
        out.reserve_exact(data.fold(0, usize::saturating_add));
        for tensor in &self.tensors {
            let data = tensor.data.as_ref().ok_or_else(|| tensor.invalid("its bytes are missing"))?;
            out.extend_from_slice(data);
            out.extend_from_slice(Writer::padding(data.len() as u64));
        }
        Ok(out)
    }

    /// The bytes of the file up to those of the first tensor. The bytes of each tensor follow in the order in which they were
    /// added, and after each its [`Writer::padding`].
    ///
    /// # Errors
    /// Those of [`Writer::finish`].
    pub fn head(&self) -> Result<Vec<u8>> {
        let mut keys = BTreeSet::new();
        for (key, _) in &self.pairs {
            if key.is_empty() || !keys.insert(key) {
                return Err(Error::invalid("metadata", format!("key `{}` is empty or comes twice", printable(key))));
            }
        }
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.pairs.len() as u64).to_le_bytes());
        for (key, value) in &self.pairs {
            write_string(key, &mut out);
            out.extend((value.kind() as u32).to_le_bytes());
            value.write(&mut out);
        }

        let mut names = BTreeSet::new();
        let mut offset = 0u64;
        for tensor in &self.tensors {
            let bytes = tensor.check()?;
            if !names.insert(&tensor.name) {
                return Err(tensor.invalid("the name comes twice"));
            }
            write_row(&tensor.name, &tensor.dims, tensor.format, offset, &mut out);
            offset = bytes
                .checked_next_multiple_of(DEFAULT_ALIGNMENT as u64)
                .and_then(|n| offset.checked_add(n))
                .ok_or_else(|| tensor.invalid("the file would not fit the address space"))?;
        }
        out.extend_from_slice(Writer::padding(out.len() as u64));
        Ok(out)
    }

    /// The zeros that follow `len` bytes of a tensor.
    pub fn padding(len: u64) -> &'static [u8] {
        static ZEROS: [u8; DEFAULT_ALIGNMENT] = [0; DEFAULT_ALIGNMENT];
        let n = padding(len, DEFAULT_ALIGNMENT as u64);
        ZEROS.get(..usize::try_from(n).unwrap_or(0)).unwrap_or_default()
    }
}

/// A row of the tensor table.
pub(super) fn write_row(name: &str, dims: &[u64], format: &Format, offset: u64, out: &mut Vec<u8>) {
    write_string(name, out);
    out.extend((dims.len() as u32).to_le_bytes());
    dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
    out.extend(format.id.to_le_bytes());
    out.extend(offset.to_le_bytes());
}

impl Entry {
    /// The number of its bytes.
    fn check(&self) -> Result<u64> {
        if self.name.is_empty() {
            return Err(self.invalid("the name is empty"));
        }
        if self.dims.is_empty() || self.dims.len() > MAX_RANK || self.dims.contains(&0) {
            return Err(self.invalid(format!("dimensions {:?}", self.dims)));
        }
        let want = super::read::tensor_bytes(self.format, &self.dims).map_err(|why| self.invalid(why))?;
        let len = self.data.as_ref().map_or(want, |data| data.len() as u64);
        if want != len {
            return Err(self.invalid(format!("{len} bytes, {:?} of {} takes {want}", self.dims, self.format.name)));
        }
        Ok(want)
    }

    fn invalid(&self, why: impl Into<String>) -> Error {
        Error::invalid(format!("tensor `{}`", printable(&self.name)), why)
    }
}
