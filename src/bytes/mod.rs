//! Bytes and the checked ways to read them. Where they live (a mapped file, a browser buffer, flash) is the
//! caller's business: everything above this room sees one slice.

#[cfg(feature = "std")]
pub mod map;

use crate::error::{Error, Result};
use core::ops::{Deref, Range};
use std::prelude::v1::*;
use std::sync::Arc;

/// A slice and whatever keeps it alive. Cloning and slicing copy no byte.
#[derive(Clone)]
pub struct Bytes {
    keep: Keep,
    range: Range<usize>,
}

#[derive(Clone)]
enum Keep {
    Static(&'static [u8]),
    Owned(Arc<Vec<u8>>),
    Floats(Arc<Vec<f32>>),
    #[cfg(feature = "std")]
    Mapped(Arc<memmap2::Mmap>),
}

impl Bytes {
    /// Bytes that live as long as the program, for example from `include_bytes!`.
    pub fn from_static(slice: &'static [u8]) -> Self {
        Bytes { range: 0..slice.len(), keep: Keep::Static(slice) }
    }

    /// The bytes of native `f32` values, shared with whoever else holds the `Arc`.
    pub fn from_floats(values: Arc<Vec<f32>>) -> Self {
        Bytes { range: 0..values.len() * 4, keep: Keep::Floats(values) }
    }

    #[cfg(feature = "std")]
    pub(crate) fn from_map(map: memmap2::Mmap) -> Self {
        Bytes { range: 0..map.len(), keep: Keep::Mapped(Arc::new(map)) }
    }

    /// A part of these bytes. `range` is relative to them.
    ///
    /// # Errors
    /// `Corrupt` if the range does not lie inside.
    pub fn slice(&self, range: Range<usize>) -> Result<Self> {
        if range.start > range.end || range.end > self.len() {
            return Err(Error::corrupt(
                format!("range {}..{} leaves the {} bytes there are", range.start, range.end, self.len()),
                range.start,
            ));
        }
        Ok(Bytes { keep: self.keep.clone(), range: self.range.start + range.start..self.range.start + range.end })
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let all: &[u8] = match &self.keep {
            Keep::Static(s) => s,
            Keep::Owned(v) => v,
            Keep::Floats(v) => bytemuck::cast_slice(v),
            #[cfg(feature = "std")]
            Keep::Mapped(m) => m,
        };
        &all[self.range.clone()]
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(v: Vec<u8>) -> Self {
        Bytes { range: 0..v.len(), keep: Keep::Owned(Arc::new(v)) }
    }
}

impl core::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Bytes({} bytes)", self.len())
    }
}
