//! Emits a model file: version 3, alignment 32, as llama.cpp loads it.

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
    data: Bytes,
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
        self.tensors.push(Entry { name: name.into(), dims: dims.to_vec(), format, data: data.into() });
        self
    }

    /// The bytes of the file. The same input gives the same bytes.
    ///
    /// # Errors
    /// `Invalid` for an empty or repeated key or name, no or more than four dimensions, or bytes that do not fit
    /// the dimensions.
    pub fn finish(&self) -> Result<Vec<u8>> {
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
        let mut offset = 0usize;
        for tensor in &self.tensors {
            tensor.check()?;
            if !names.insert(&tensor.name) {
                return Err(tensor.invalid("the name comes twice"));
            }
            write_row(&tensor.name, &tensor.dims, tensor.format, offset as u64, &mut out);
            offset = padded(tensor.data.len())
                .and_then(|n| offset.checked_add(n))
                .ok_or_else(|| tensor.invalid("the file would not fit the address space"))?;
        }
        let start = padded(out.len()).unwrap_or(out.len());
        out.reserve_exact(start.saturating_sub(out.len()).saturating_add(offset));
        out.resize(start, 0);
        for tensor in &self.tensors {
            out.extend_from_slice(&tensor.data);
            out.resize(padded(out.len()).unwrap_or(out.len()), 0);
        }
        Ok(out)
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

/// `n` rounded up to the alignment; `None` if that overflows.
fn padded(n: usize) -> Option<usize> {
    n.checked_next_multiple_of(DEFAULT_ALIGNMENT)
}

impl Entry {
    fn check(&self) -> Result<()> {
        if self.name.is_empty() {
            return Err(self.invalid("the name is empty"));
        }
        if self.dims.is_empty() || self.dims.len() > MAX_RANK || self.dims.contains(&0) {
            return Err(self.invalid(format!("dimensions {:?}", self.dims)));
        }
        let want = super::read::tensor_bytes(self.format, &self.dims).map_err(|why| self.invalid(why))?;
        if want != self.data.len() as u64 {
            return Err(self.invalid(format!(
                "{} bytes, {:?} of {} takes {want}",
                self.data.len(),
                self.dims,
                self.format.name
            )));
        }
        Ok(())
    }

    fn invalid(&self, why: impl Into<String>) -> Error {
        Error::invalid(format!("tensor `{}`", printable(&self.name)), why)
    }
}
