//! Bytes and the checked ways to read them. The caller decides where they live (a mapped file, a browser buffer, flash):
//! the modules above see one slice.
//!
//! Input is hostile here and in the parsers above ([`crate::gguf`], `container`): counts and lengths are
//! checked against what remains and against [`Limits`] before anything is reserved.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::todo,
        clippy::arithmetic_side_effects
    )
)]

mod limits;
#[cfg(feature = "std")]
pub(crate) mod lock;
#[cfg(feature = "std")]
pub mod map;

pub use limits::Limits;

use crate::error::{Error, Result};
use core::ops::{Deref, Range};
use std::prelude::v1::*;
use std::sync::Arc;

/// How the text begins that Git keeps in the place of a large file.
pub(crate) const LFS_POINTER: &[u8] = b"version https://git-lfs";
/// What such a file is, and what to do about it.
pub(crate) const FETCH: &str = "it is a Git LFS pointer, not the file itself; fetch that (git lfs pull)";

/// Looks whether the system gives that many bytes at once, and gives them back: before work that takes them in pieces, so
/// that what does not fit ends in an error and not in the middle.
///
/// # Errors
/// `Memory` for `what` if it does not.
pub fn room(what: &str, bytes: usize) -> Result<()> {
    // Without a system memory is a heap whose free pieces are enough together and not one by one.
    if cfg!(not(feature = "std")) {
        return Ok(());
    }
    let mut probe: Vec<u8> = Vec::new();
    let got = probe.try_reserve_exact(bytes).map_err(|_| Error::memory(what, bytes as u64));
    // Without this the compiler may leave the reservation out, as nothing is written to it.
    core::hint::black_box(&mut probe);
    got
}

/// `n` zeros.
///
/// # Errors
/// `Memory` for `what` if there is not enough.
pub fn zeros(what: &str, n: usize) -> Result<Vec<f32>> {
    let mut out = Vec::new();
    let refused = |_| Error::memory(what, (n as u64).saturating_mul(4));
    out.try_reserve_exact(n).map_err(refused)?;
    out.resize(n, 0.0);
    Ok(out)
}

/// Where bytes go that are written piece by piece, such as a file too large to be held.
pub trait Sink {
    /// Appends bytes.
    ///
    /// # Errors
    /// `Io` from the system.
    fn put(&mut self, bytes: &[u8]) -> Result<()>;
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }
}

/// A slice together with its owner. Cloning and slicing copy no bytes.
#[derive(Clone)]
pub struct Bytes {
    owner: Owner,
    range: Range<usize>,
}

#[derive(Clone)]
enum Owner {
    Static(&'static [u8]),
    Owned(Arc<Vec<u8>>),
    Floats(Arc<Vec<f32>>),
    #[cfg(feature = "std")]
    Memory(Arc<memmap2::Mmap>),
    #[cfg(feature = "std")]
    Mapped(Arc<map::Mapped>),
}

impl Bytes {
    /// Bytes that live as long as the program, for example from `include_bytes!`.
    pub fn from_static(slice: &'static [u8]) -> Self {
        Bytes { range: 0..slice.len(), owner: Owner::Static(slice) }
    }

    /// The bytes of native `f32` values, shared with other owners of the `Arc`.
    pub fn from_floats(values: Arc<Vec<f32>>) -> Self {
        Bytes { range: 0..size_of_val(values.as_slice()), owner: Owner::Floats(values) }
    }

    /// `len` bytes in newly allocated memory, written by `fill`. With the standard library they are aligned to 64 bytes and
    /// lie in large pages where the system provides them; otherwise they are aligned to 4 bytes.
    ///
    /// # Errors
    /// `Memory` if there is not enough memory.
    pub fn filled(len: usize, fill: impl FnOnce(&mut [u8])) -> Result<Self> {
        #[cfg(feature = "std")]
        return map::filled(len, fill);
        #[cfg(not(feature = "std"))]
        {
            let mut values: Vec<f32> = Vec::new();
            let words = len.div_ceil(4);
            values.try_reserve_exact(words).map_err(|_| Error::memory("a copy of weights", len as u64))?;
            values.resize(words, 0.0);
            fill(&mut bytemuck::cast_slice_mut(&mut values)[..len]);
            Bytes::from_floats(std::sync::Arc::new(values)).slice(0..len)
        }
    }

    #[cfg(feature = "std")]
    fn from_memory(map: memmap2::Mmap) -> Self {
        Bytes { range: 0..map.len(), owner: Owner::Memory(Arc::new(map)) }
    }

    #[cfg(feature = "std")]
    fn from_map(map: map::Mapped) -> Self {
        Bytes { range: 0..map.len(), owner: Owner::Mapped(Arc::new(map)) }
    }

    /// Looks whether the file that these bytes are mapped from is still what it was. Bytes in memory always are. It costs
    /// two system calls, so that it can be asked before each piece of work.
    ///
    /// # Errors
    /// `Altered` naming the file if it was cut, written to or replaced; `Io` from the system.
    pub fn check(&self) -> Result<()> {
        match &self.owner {
            #[cfg(feature = "std")]
            Owner::Mapped(map) => map.check(),
            _ => Ok(()),
        }
    }

    /// A part of these bytes. `range` is relative to them.
    ///
    /// # Errors
    /// `Corrupt` if the range does not lie inside.
    pub fn slice(&self, range: Range<usize>) -> Result<Self> {
        let inside = range.start <= range.end && range.end <= self.len();
        let start = self.range.start.checked_add(range.start).filter(|_| inside);
        let end = self.range.start.checked_add(range.end);
        match (start, end) {
            (Some(start), Some(end)) => Ok(Bytes { owner: self.owner.clone(), range: start..end }),
            _ => Err(Error::corrupt(
                format!("range {}..{} leaves the {} bytes there are", range.start, range.end, self.len()),
                range.start,
            )),
        }
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let all: &[u8] = match &self.owner {
            Owner::Static(s) => s,
            Owner::Owned(v) => v,
            Owner::Floats(v) => bytemuck::cast_slice(v),
            #[cfg(feature = "std")]
            Owner::Memory(m) => m,
            #[cfg(feature = "std")]
            Owner::Mapped(m) => m,
        };
        // Every constructor keeps the range inside.
        all.get(self.range.clone()).unwrap_or_default()
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(v: Vec<u8>) -> Self {
        Bytes { range: 0..v.len(), owner: Owner::Owned(Arc::new(v)) }
    }
}

impl core::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Bytes({} bytes)", self.len())
    }
}

/// A position in a slice that moves forward. Numbers are little-endian. Every read is checked; an error carries the file
/// offset at which the value begins that did not fit.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Cursor<'a> {
    /// At the first byte of `bytes`, which is offset 0.
    pub fn new(bytes: &'a [u8]) -> Self {
        Cursor { rest: bytes, offset: 0 }
    }

    /// At the first byte of `bytes`, which begins at `offset` of its file. Offsets are counted from the start of the file.
    pub fn at(bytes: &'a [u8], offset: usize) -> Self {
        Cursor { rest: bytes, offset }
    }

    /// Offset of the next byte.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Bytes not yet read.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// `Corrupt` if fewer remain. All reads below have this error.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let Some((head, rest)) = self.rest.split_at_checked(n) else {
            let what = format!("ends early: {n} bytes wanted, {} remain", self.rest.len());
            return Err(Error::corrupt(what, self.offset));
        };
        self.rest = rest;
        // This cannot exceed the length of the slice.
        self.offset = self.offset.saturating_add(n);
        Ok(head)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    /// A byte.
    pub fn u8(&mut self) -> Result<u8> {
        self.array().map(u8::from_le_bytes)
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A signed byte.
    pub fn i8(&mut self) -> Result<i8> {
        self.array().map(i8::from_le_bytes)
    }

    /// Two bytes, signed.
    pub fn i16(&mut self) -> Result<i16> {
        self.array().map(i16::from_le_bytes)
    }

    /// Four bytes, signed.
    pub fn i32(&mut self) -> Result<i32> {
        self.array().map(i32::from_le_bytes)
    }

    /// Eight bytes, signed.
    pub fn i64(&mut self) -> Result<i64> {
        self.array().map(i64::from_le_bytes)
    }

    /// Four bytes of IEEE 754.
    pub fn f32(&mut self) -> Result<f32> {
        self.array().map(f32::from_le_bytes)
    }

    /// Eight bytes of IEEE 754.
    pub fn f64(&mut self) -> Result<f64> {
        self.array().map(f64::from_le_bytes)
    }

    /// Reads a number of things as eight bytes. Each thing takes at least `each` bytes, and all must still follow, so the
    /// caller may reserve room for them: the result is bounded by the file.
    ///
    /// # Errors
    /// `Corrupt` naming `what` if that many cannot follow.
    pub fn count(&mut self, what: &str, each: usize) -> Result<usize> {
        let offset = self.offset;
        let n = self.u64()?;
        let most = self.rest.len().checked_div(each).unwrap_or(usize::MAX);
        usize::try_from(n).ok().filter(|&n| n <= most).ok_or_else(|| {
            Error::corrupt(format!("{what}: {n} of at least {each} bytes, {} remain", self.rest.len()), offset)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_share_and_stay_inside() {
        let all = Bytes::from(vec![0, 1, 2, 3, 4, 5, 6, 7]);
        let part = all.slice(2..6).unwrap();
        assert_eq!(&part[..], &[2, 3, 4, 5]);
        assert_eq!(&part.slice(1..4).unwrap()[..], &[3, 4, 5]);
        assert!(part.slice(4..4).unwrap().is_empty());
        for bad in [0..5, 5..5, 3..usize::MAX, Range { start: 3, end: 2 }] {
            assert!(matches!(part.slice(bad), Err(Error::Corrupt { .. })));
        }
        let floats = Bytes::from_floats(Arc::new(vec![1.0, 2.0]));
        assert_eq!(floats.len(), 8);
    }

    #[test]
    fn filled_bytes_are_what_was_written() {
        for len in [0, 1, 63, 64, (5 << 20) + 3] {
            let bytes = Bytes::filled(len, |memory| {
                assert!(memory.len() == len && memory.iter().all(|b| *b == 0));
                memory.iter_mut().enumerate().for_each(|(i, b)| *b = (i % 251) as u8);
            });
            let bytes = bytes.unwrap();
            assert!(bytes.len() == len && bytes.iter().enumerate().all(|(i, b)| *b == (i % 251) as u8));
        }
        let most = usize::MAX / 2;
        assert!(matches!(Bytes::filled(most, |_| panic!("no such memory")), Err(Error::Memory { .. })));
    }

    #[test]
    fn cursor_reads_little_endian_and_stops_at_the_end() {
        let bytes = [1, 2, 0, 3, 0, 0, 0, 0xff, 0xff];
        let mut c = Cursor::at(&bytes, 100);
        assert_eq!((c.u8().unwrap(), c.u16().unwrap(), c.u32().unwrap(), c.i16().unwrap()), (1, 2, 3, -1));
        assert_eq!((c.offset(), c.remaining()), (109, 0));
        assert!(matches!(c.u64(), Err(Error::Corrupt { offset: 109, .. })));
        assert!(c.take(0).unwrap().is_empty());
    }

    #[test]
    fn counts_are_bounded_by_what_follows() {
        let mut bytes = 3u64.to_le_bytes().to_vec();
        bytes.extend([0; 12]);
        assert_eq!(Cursor::new(&bytes).count("things", 4).unwrap(), 3);
        assert!(matches!(Cursor::new(&bytes).count("things", 5), Err(Error::Corrupt { offset: 0, .. })));
        let huge = u64::MAX.to_le_bytes();
        assert!(Cursor::new(&huge).count("things", 1).is_err());
    }
}
