//! Model files from model files: quantised, with adapters baked in, or from a folder of Hugging Face's.
//!
//! All go through a file tensor by tensor and rows by rows, so that memory is bounded by a few rows and not by the model.
//! `mixes.rs` is the table of types and says which format each tensor gets, as llama.cpp does; `importance.rs` measures how
//! much the columns of each matrix matter; `quantise.rs`, `bake.rs` and the room `folder` are the ways to write.
//!
//! No result depends on the number of threads: they share rows, and a row is computed by one of them.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable, clippy::todo)
)]

pub mod bake;
pub mod folder;
pub mod importance;
pub mod mixes;
pub mod quantise;

pub use bake::{Bake, Baked, bake};
pub use importance::Importance;
pub use mixes::{MIXES, Mix};
pub use quantise::{Quantise, Quantised, quantise};

use crate::bytes::{Bytes, Sink, zeros};
use crate::error::{Error, Result, printable};
use crate::gguf::{Gguf, Tensor, Writer};
use crate::kernel::{Compute, Tile};
use crate::quant::{Format, Matrix};
use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::borrow::Cow;
use std::prelude::v1::*;

/// Values of the rows that are worked on at a time.
const SLAB: usize = 1 << 19;
/// Values of the rows that a thread takes at a time.
const PART: usize = 1 << 14;

/// How far a file has got, in bytes of the file that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// Read so far.
    pub done: u64,
    /// All of them.
    pub total: u64,
    /// The tensor that is next.
    pub tensor: &'a str,
}

/// Where the rows of a tensor are.
struct Source {
    format: &'static Format,
    /// Their bytes, which may be several matrices of one size behind each other.
    parts: Vec<Bytes>,
    /// Whether its columns are the rows. It is one matrix then.
    turned: bool,
}

impl Source {
    fn new(format: &'static Format, bytes: Bytes) -> Source {
        Source { format, parts: vec![bytes], turned: false }
    }

    fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.len() as u64).sum()
    }
}

/// The same, to be read.
struct Rows {
    parts: Vec<Matrix>,
    turned: bool,
}

impl Rows {
    /// `n` rows of `cols` values, or more.
    fn new(source: &Source, n: usize, cols: usize) -> Result<Rows> {
        let cols = if source.turned { n } else { cols };
        let bytes = source.format.row_bytes(cols).unwrap_or(0);
        let part =
            |part: &Bytes| Matrix::new(source.format, part.len().checked_div(bytes).unwrap_or(0), cols, part.clone());
        let parts = source.parts.iter().map(part).collect::<Result<Vec<_>>>()?;
        Ok(Rows { parts, turned: source.turned })
    }

    /// Decodes row `i`.
    fn read(&self, i: usize, out: &mut [f32]) {
        let Some(first) = self.parts.first() else { return };
        if self.turned {
            out.iter_mut().enumerate().for_each(|(row, v)| first.decode(row, i..i + 1, core::slice::from_mut(v)));
            return;
        }
        let per = first.rows.max(1);
        self.parts[i / per].decode(i % per, 0..out.len(), out);
    }
}

/// What becomes of one tensor.
struct Step<'a> {
    name: Cow<'a, str>,
    /// Its dimensions in the file to write, row length first.
    dims: Vec<u64>,
    from: Source,
    /// Values of a row of them.
    cols: usize,
    to: &'static Format,
    /// Which row there becomes row `i`, if they are in another order or not all.
    order: Option<Box<dyn Fn(usize) -> usize + Sync + 'a>>,
    /// Changes the decoded rows `rows`, `[rows, cols]`.
    change: Option<Change<'a>>,
    /// How much errors count by column, for each matrix of the tensor.
    importance: Option<&'a [f32]>,
}

impl<'a> Step<'a> {
    /// The tensor of a file, as it is.
    fn new(gguf: &Gguf, tensor: &'a Tensor, to: &'static Format) -> Result<Step<'a>> {
        let cols = tensor.dims().first().copied().unwrap_or(1);
        usize::try_from(cols).map_err(|_| Error::limit("address space", cols, usize::MAX as u64))?;
        let from = Source::new(tensor.format, gguf.data(tensor)?);
        Ok(Step::of(Cow::Borrowed(&tensor.name), tensor.dims().to_vec(), from, to))
    }

    /// A tensor of these dimensions, row by row.
    fn of(name: Cow<'a, str>, dims: Vec<u64>, from: Source, to: &'static Format) -> Step<'a> {
        let cols = dims.first().map_or(1, |n| *n as usize);
        Step { name, dims, from, cols, to, order: None, change: None, importance: None }
    }

    /// Rows that will be written.
    fn rows(&self) -> usize {
        self.dims.iter().product::<u64>().checked_div(self.cols as u64).unwrap_or(0) as usize
    }

    /// Bytes that will be written.
    fn bytes(&self) -> u64 {
        let values: u64 = self.dims.iter().product();
        let row = self.to.row_bytes(self.cols).unwrap_or(0) as u64;
        row * values.checked_div(self.cols as u64).unwrap_or(0)
    }
}

/// See [`Step::change`].
type Change<'a> = Box<dyn Fn(Range<usize>, &mut Tile) + Sync + 'a>;

/// Writes a file of these pairs and tensors. `check` looks whether what is read is still what it was.
fn write(
    mut head: Writer,
    steps: &[Step],
    cx: &Compute,
    check: &dyn Fn() -> Result<()>,
    sink: &mut dyn Sink,
    progress: &mut dyn FnMut(Progress),
) -> Result<()> {
    for step in steps {
        head.declare(&*step.name, &step.dims, step.to);
    }
    sink.put(&head.head()?)?;
    let (mut done, total) = (0, steps.iter().map(|step| step.from.bytes()).sum());
    for step in steps {
        progress(Progress { done, total, tensor: &step.name });
        let len = tensor(step, cx, sink)?;
        sink.put(Writer::padding(len))?;
        done += step.from.bytes();
        // What was read of a file that changes says nothing about it.
        check()?;
    }
    progress(Progress { done, total, tensor: "" });
    Ok(())
}

/// Writes one tensor; returns the number of its bytes.
fn tensor(step: &Step, cx: &Compute, sink: &mut dyn Sink) -> Result<u64> {
    let format = step.from.format;
    let copied = step.change.is_none() && core::ptr::eq(step.to, format);
    if copied && (format.is_quantised() || format.decode.is_none()) {
        // Nothing of it is computed, so nothing of it need be known.
        step.from.parts.iter().try_for_each(|part| sink.put(part))?;
        return Ok(step.from.bytes());
    }
    let (all, cols) = (step.rows(), step.cols);
    let from = Rows::new(&step.from, all, cols)?;
    let Some(row_bytes) = step.to.row_bytes(cols) else {
        let what = format!("columns of tensor `{}`", printable(&step.name));
        return Err(Error::mismatch(what, format!("a multiple of {}", step.to.block), cols));
    };
    // Rows of the file to write lie in a tile of floats, whose rows are whole words.
    let (words, rows) = (row_bytes.div_ceil(4), (SLAB / cols.max(1)).clamp(1, all.max(1)));
    let granule = (PART / cols.max(1)).max(1);
    let (mut values, mut encoded) = (zeros("rows of a tensor", rows * cols)?, zeros("rows", rows * words)?);
    let mut out = Vec::with_capacity(rows * row_bytes);
    let source = |row: usize| step.order.as_ref().map_or(row, |order| order(row));
    for first in (0..all).step_by(rows) {
        let n = rows.min(all - first);
        let bad = AtomicUsize::new(usize::MAX);
        let tiles = [Tile::new(&mut values, n, cols), Tile::new(&mut encoded, n, words)];
        cx.pool.rows(tiles, [granule; 2], &|part, [mut values, mut encoded], _| {
            let start = first + part * granule;
            for i in 0..values.n() {
                from.read(source(start + i), values.row(i));
            }
            if let Some(change) = &step.change {
                change(start..start + values.n(), &mut values);
            }
            for i in 0..values.n() {
                let bytes = bytemuck::cast_slice_mut(encoded.row(i)).split_at_mut(row_bytes).0;
                if !row(step, start + i, values.row(i), bytes) {
                    bad.fetch_min(start + i, Ordering::Relaxed);
                }
            }
        });
        let bad = bad.into_inner();
        if bad != usize::MAX {
            return Err(not_finite(step, &from, source(bad)));
        }
        out.clear();
        for row in encoded.chunks_exact(words.max(1)).take(n) {
            out.extend_from_slice(bytemuck::cast_slice(row).split_at(row_bytes).0);
        }
        sink.put(&out)?;
    }
    Ok(row_bytes as u64 * all as u64)
}

/// Encodes a row; `false` if it holds what no number can be made of, or makes such.
fn row(step: &Step, row: usize, values: &mut [f32], bytes: &mut [u8]) -> bool {
    if !values.iter().all(|v| v.is_finite()) {
        return false;
    }
    let (Some(encode), Some(decode)) = (step.to.encode, step.to.decode) else { return false };
    let (cols, per) = (step.cols, step.dims.get(1).map_or(1, |n| *n as usize));
    match (step.to.weighted, step.importance) {
        (Some(weighted), Some(importance)) => {
            let which = row.checked_div(per).unwrap_or(0) % (importance.len() / cols).max(1);
            weighted(values, &importance[which * cols..][..cols], bytes);
        }
        _ => encode(values, bytes),
    }
    // A scale may be too large for its 16 bits.
    decode(bytes, values);
    values.iter().all(|v| v.is_finite())
}

/// Where the first value is of which no number can be made.
fn not_finite(step: &Step, from: &Rows, row: usize) -> Error {
    let mut values = vec![0.0; step.cols];
    from.read(row, &mut values);
    let name = printable(&step.name);
    match values.iter().position(|v| !v.is_finite()) {
        Some(at) => Error::corrupt(format!("tensor `{name}`, row {row}, column {at}: {}", values[at]), 0),
        None => Error::invalid(
            format!("tensor `{name}`, row {row}"),
            format!("its values are too large for {}; take a type with more bits, such as F32", step.to.name),
        ),
    }
}

/// Looks whether the files of a model are what they were.
fn check(gguf: &Gguf) -> Result<()> {
    gguf.files().iter().try_for_each(Bytes::check)
}

/// The metadata of a file, without `left_out`, to be written again.
fn pairs_of(gguf: &Gguf, left_out: &[&str]) -> Writer {
    let mut head = Writer::new();
    for (key, value) in gguf.ordered_pairs().filter(|(key, _)| !left_out.contains(key)) {
        head.set(key, value.clone());
    }
    head
}

/// The tensors in the order in which llama.cpp writes them: those outside of blocks first, then block by block, by name.
fn sorted(gguf: &Gguf) -> Vec<&Tensor> {
    let mut all: Vec<&Tensor> = gguf.tensors().iter().collect();
    all.sort_by_key(|tensor| (block(&tensor.name).map_or(-1, |n| n as i64), &*tensor.name));
    all
}

/// The block that a tensor belongs to.
fn block(name: &str) -> Option<u32> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}
