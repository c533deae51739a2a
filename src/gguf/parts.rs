//! Models that are split over several files.

use super::read::padding;
use super::value::{Value, inside};
use super::write::write_row;
use super::{Gguf, MAGIC, by_name};
use crate::bytes::{Bytes, Limits};
use crate::error::{Error, Result, printable};
use core::fmt;
use std::prelude::v1::*;

/// What the keys begin with that tell of the splitting.
pub(super) const SPLIT_KEYS: &str = "split.";

/// What a file says about the set that it belongs to.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Part {
    /// From 0.
    pub(super) no: usize,
    /// Files of the set.
    pub(super) count: usize,
    /// Tensors of all of them.
    tensors: u64,
}

/// Counted from 1, as the files are named.
impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", part(self.no, self.count))
    }
}

fn part(no: usize, count: usize) -> String {
    format!("part {} of {count}", no.saturating_add(1))
}

impl Part {
    /// `None` for a whole file: tools mark one by a count of 0 or 1.
    pub(super) fn of(gguf: &Gguf, limits: &Limits) -> Result<Option<Part>> {
        let Some(count) = gguf.u64("split.count")?.filter(|&count| count > 1) else { return Ok(None) };
        Limits::check("split.count", count, limits.parts)?;
        let no = gguf.require_u64("split.no")?;
        if no >= count {
            return Err(Error::mismatch("key split.no", format!("a number below the count {count}"), no));
        }
        Ok(Some(Part { no: no as usize, count: count as usize, tensors: gguf.require_u64("split.tensors.count")? }))
    }
}

impl Gguf {
    /// The files that a model was split into, in order. One whole file is taken too.
    ///
    /// # Errors
    /// Those of [`Gguf::parse`], and `Mismatch` if a file is missing or belongs to another set; they name the part.
    pub fn parse_parts(files: Vec<Bytes>, limits: &Limits) -> Result<Gguf> {
        let count = files.len();
        let named = |i: usize, e: Error| if count == 1 { e } else { inside(e, part(i, count)) };
        let read = |(i, file)| Gguf::read(file, limits).map_err(|e| named(i, e));
        let parts: Vec<Gguf> = files.into_iter().enumerate().map(read).collect::<Result<_>>()?;
        Gguf::join(parts, limits).map_err(|(i, e)| named(i, e))
    }

    /// Joins files that were read; the index of the file that does not fit comes with an error.
    pub(super) fn join(parts: Vec<Gguf>, limits: &Limits) -> core::result::Result<Gguf, (usize, Error)> {
        let count = parts.len();
        let found = parts.iter().map(|p| p.tensors.len() as u64).sum::<u64>();
        Limits::check("tensors", found, limits.tensors).map_err(|e| (0, e))?;
        for (i, file) in parts.iter().enumerate() {
            file.check_part(i, count, parts.first().unwrap_or(file), limits).map_err(|e| (i, e))?;
        }
        if let Some(said) =
            parts.first().map_or(Ok(None), |first| first.u64("split.tensors.count")).map_err(|e| (0, e))?
            && count > 1
            && said != found
        {
            let said = format!("{said} as key split.tensors.count says");
            return Err((0, Error::mismatch("tensors of all parts", said, found)));
        }
        let mut parts = parts.into_iter();
        let mut all = parts.next().ok_or_else(|| (0, Error::mismatch("files of a model", "one at least", "none")))?;
        for (i, file) in parts.enumerate() {
            let no = i.saturating_add(1);
            // `split.count` has 16 bits.
            let part = u16::try_from(no).unwrap_or(u16::MAX);
            all.files.extend(file.files);
            all.trailing = all.trailing.saturating_add(file.trailing);
            all.tensors.extend(file.tensors.into_iter().map(|tensor| super::Tensor { part, ..tensor }));
            // Checked after each file, so that the error names the one whose tensor is there already.
            all.by_name = by_name(&all.tensors).map_err(|twice| (no, Error::corrupt(twice, 0)))?;
        }
        Ok(all)
    }

    /// Whether this is file `i` of `count`, and of the set of the first one.
    fn check_part(&self, i: usize, count: usize, first: &Gguf, limits: &Limits) -> Result<()> {
        let part = match Part::of(self, limits)? {
            Some(part) => part,
            None if count == 1 => return Ok(()),
            None => return Err(Error::mismatch("key split.count", count, "a whole file")),
        };
        let check = |key: &str, wanted: u64, found: u64| match wanted == found {
            true => Ok(()),
            false => Err(Error::mismatch(format!("key {key}"), wanted, found)),
        };
        check("split.count", count as u64, part.count as u64)?;
        check("split.no", i as u64, part.no as u64)?;
        if let Some(Part { tensors, .. }) = Part::of(first, limits)? {
            check("split.tensors.count", tensors, part.tensors)?;
        }
        let arch = |gguf: &Gguf| match gguf.get("general.architecture") {
            Some(Value::String(name)) => Some(printable(name)),
            _ => None,
        };
        match (arch(first), arch(self)) {
            (Some(first), Some(here)) if first != here => {
                Err(Error::mismatch("key general.architecture", format!("{first} as in part 1"), here))
            }
            _ => Ok(()),
        }
    }

    /// The bytes of the model as one file, in pieces: those of the file, or those that merging the parts gives. Weights
    /// are not copied.
    ///
    /// llama.cpp's tool for splitting keeps the order of pairs and tensors and adds pairs of its own to the first file, so
    /// these bytes are those of the file that was split.
    ///
    /// # Errors
    /// Those of [`Gguf::data`], which do not happen with tensors of this file.
    pub fn merged(&self) -> Result<Vec<Bytes>> {
        static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
        let [first, _, ..] = &self.files[..] else { return Ok(self.files.clone()) };
        let pairs = self.pairs.keys().filter(|key| !key.starts_with(SPLIT_KEYS)).count();
        let mut head = Vec::new();
        head.extend_from_slice(MAGIC);
        head.extend(self.version.to_le_bytes());
        head.extend((self.tensors.len() as u64).to_le_bytes());
        head.extend((pairs as u64).to_le_bytes());
        for kept in &self.kept {
            head.extend_from_slice(&first.slice(kept.clone())?);
        }
        let mut offset = 0u64;
        for tensor in &self.tensors {
            write_row(&tensor.name, tensor.dims(), tensor.format, offset, &mut head);
            offset = offset.saturating_add(tensor.bytes).saturating_add(padding(tensor.bytes, self.alignment));
        }
        let zeros = |len: u64| Bytes::from_static(&ZEROS).slice(0..padding(len, self.alignment) as usize);
        let filling = zeros(head.len() as u64)?;
        let mut pieces = vec![Bytes::from(head), filling];
        for tensor in &self.tensors {
            pieces.extend([self.data(tensor)?, zeros(tensor.bytes)?]);
        }
        Ok(pieces)
    }
}
