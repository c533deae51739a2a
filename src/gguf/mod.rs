//! GGUF, the file format of llama.cpp's models: metadata, then a table of tensors, then their bytes.
//!
//! [`Gguf::parse`] reads the first two once and checks every count, length and range. It copies no tensor and no array.
//! This module knows nothing about models: it gives keys, names, shapes and slices.
//!
//! ```text
//! "GGUF" · version u32 · tensors u64 · pairs u64
//! pairs:   key (u64 length, UTF-8) · type u32 · value
//! tensors: name (u64 length, UTF-8) · rank u32 · dims u64 each, row length first · format u32 · offset u64
//! padding to general.alignment (32 if absent) · data, each tensor padded to the alignment
//! ```
//!
//! Like llama.cpp, this parser requires tensor data in the order of the table, without gaps. Trailing bytes are accepted
//! and reported by [`Gguf::trailing`].
//!
//! A model may be split over several files. The first one holds the metadata, and each of them a table and the bytes of
//! some tensors; `split.no` (from 0), `split.count` and `split.tensors.count` (of all files) say how they belong together.
//! A set of them reads like one file: see [`Gguf::parse_parts`].
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

mod content;
#[cfg(feature = "std")]
mod open;
mod parts;
mod read;
mod value;
mod write;

pub use value::{Array, Kind, Pieces, Strings, Value};
pub use write::Writer;

use crate::bytes::{Bytes, Cursor, Limits};
use crate::error::{Error, Result, printable};
use crate::quant::{Format, Matrix};
use core::ops::Range;
use parts::Part;
use read::{PAIR_BYTES, Pairs, ROW_BYTES, alignment, fits, read_pairs, read_tensors, read_version};
use std::prelude::v1::*;
use value::inside;

const MAGIC: &[u8; 4] = b"GGUF";
const ALIGNMENT_KEY: &str = "general.alignment";
const DEFAULT_ALIGNMENT: usize = 32;
const MAX_RANK: usize = 4;

/// One row of the tensor table.
#[derive(Clone)]
pub struct Tensor {
    /// Its name in the file.
    pub name: Box<str>,
    /// How the values are stored.
    pub format: &'static Format,
    /// Which of the files holds it, counted from 0.
    pub part: u16,
    /// Offset of its bytes in that file.
    pub offset: u64,
    /// Number of its bytes.
    pub bytes: u64,
    dims: [u64; MAX_RANK],
    rank: u8,
}

impl Tensor {
    /// One to four dimensions; the first is the length of a row.
    pub fn dims(&self) -> &[u64] {
        self.dims.get(..usize::from(self.rank)).unwrap_or_default()
    }

    /// The number of values.
    pub fn elements(&self) -> u64 {
        // The product was checked when the table was read.
        self.dims().iter().fold(1, |n: u64, &d| n.saturating_mul(d))
    }
}

impl core::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} {:?} {}", printable(&self.name), self.dims(), self.format.name)
    }
}

/// A parsed file, or a set of files that one model was split into. Cloning it copies the tables, not the data.
#[derive(Clone)]
pub struct Gguf {
    files: Vec<Bytes>,
    version: u32,
    pairs: Pairs,
    /// Where the pairs of the first file lie in it, in its order, without those that tell of the splitting.
    kept: Vec<Range<usize>>,
    /// Their keys.
    order: Vec<Box<str>>,
    alignment: u64,
    tensors: Vec<Tensor>,
    /// Indices into `tensors`, sorted by name.
    by_name: Vec<u32>,
    trailing: usize,
}

impl Gguf {
    /// Reads metadata and tensor table, and checks that every range lies in the file.
    ///
    /// # Errors
    /// `Corrupt` with key or tensor and offset; `Limit`; `Unsupported` for version 1, big-endian files, tensor formats
    /// this build does not know, and one part of a model split over several files.
    pub fn parse(bytes: Bytes, limits: &Limits) -> Result<Gguf> {
        let gguf = Gguf::read(bytes, limits)?;
        match Part::of(&gguf, limits)? {
            None => Ok(gguf),
            Some(part) => Err(Error::unsupported("model file", format!("{part}; all parts are needed together"))),
        }
    }

    /// A file, which may be one part of several.
    fn read(bytes: Bytes, limits: &Limits) -> Result<Gguf> {
        Limits::check("bytes of a file", bytes.len() as u64, limits.file)?;
        let file = &bytes;
        let mut cursor = Cursor::new(file);
        let version = read_version(&mut cursor)?;
        let at = cursor.offset();
        let tensors = cursor.u64()?;
        Limits::check("tensors", tensors, limits.tensors)?;
        let pairs = cursor.u64()?;
        Limits::check("metadata pairs", pairs, limits.pairs)?;
        fits("metadata pairs", pairs, PAIR_BYTES, 0, cursor.remaining(), at)?;

        let (pairs, (order, kept)) = read_pairs(&mut cursor, pairs, file, limits)?;
        let alignment = alignment(&pairs, limits)?;
        // Each tensor but the last also takes at least one alignment of data, so the table is bounded by the file.
        let each = ROW_BYTES.saturating_add(alignment);
        fits("tensors", tensors, each, alignment, cursor.remaining(), at)?;
        let (tensors, end) = read_tensors(&mut cursor, tensors, file, alignment, limits)?;
        let by_name = by_name(&tensors).map_err(|twice| Error::corrupt(twice, at))?;
        let trailing = usize::try_from((file.len() as u64).saturating_sub(end)).unwrap_or(usize::MAX);
        Ok(Gguf { version, pairs, kept, order, alignment, tensors, by_name, trailing, files: vec![bytes] })
    }

    /// The bytes of the file, or of all parts in order.
    pub fn files(&self) -> &[Bytes] {
        &self.files
    }

    /// Version of the format, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Bytes after the last tensor, of all parts, that nothing refers to.
    pub fn trailing(&self) -> usize {
        self.trailing
    }

    /// All metadata, sorted by key.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.pairs.iter().map(|(key, value)| (&**key, value))
    }

    /// The metadata in the order of the file, without what tells of its splitting.
    pub fn ordered_pairs(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.order.iter().filter_map(|key| Some((&**key, self.get(key)?)))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.pairs.get(key)
    }

    /// A string.
    ///
    /// # Errors
    /// `Mismatch` naming the key if the value has another type. All getters below have this error.
    pub fn string(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "string", |v| match v {
            Value::String(s) => Some(s.as_str()),
            _ => None,
        })
    }

    /// An integer of any width that fits.
    pub fn u32(&self, key: &str) -> Result<Option<u32>> {
        self.typed(key, "u32", |v| v.integer()?.try_into().ok())
    }

    /// An integer of any width that fits.
    pub fn u64(&self, key: &str) -> Result<Option<u64>> {
        self.typed(key, "u64", |v| v.integer()?.try_into().ok())
    }

    /// A finite number stored as `f32` or `f64`.
    pub fn f32(&self, key: &str) -> Result<Option<f32>> {
        self.typed(key, "finite f32", Value::finite)
    }

    /// A bool.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "bool", |v| match v {
            Value::Bool(b) => Some(*b),
            _ => None,
        })
    }

    /// An array of anything.
    pub fn array(&self, key: &str) -> Result<Option<&Array>> {
        self.typed(key, "array", |v| match v {
            Value::Array(a) => Some(a),
            _ => None,
        })
    }

    /// An array of strings.
    pub fn strings(&self, key: &str) -> Result<Option<Strings<'_>>> {
        self.elements(key, Array::strings)
    }

    /// An array of `f32`.
    pub fn f32s(&self, key: &str) -> Result<Option<impl ExactSizeIterator<Item = f32> + '_>> {
        self.elements(key, Array::f32s)
    }

    /// An array of integers of any width that all fit.
    pub fn i32s(&self, key: &str) -> Result<Option<impl Iterator<Item = i32> + '_>> {
        self.elements(key, Array::i32s)
    }

    /// An array of integers of any width that all fit.
    pub fn u32s(&self, key: &str) -> Result<Option<impl Iterator<Item = u32> + '_>> {
        self.elements(key, Array::u32s)
    }

    /// A value for each of `n` layers: one integer for all of them, or an array of `n`. A bool counts as 0 or 1.
    ///
    /// # Errors
    /// Also `Mismatch` if the array has another length, or an element another type. The two getters below have this
    /// error too.
    pub fn each_u64(&self, key: &str, n: usize) -> Result<Option<Vec<u64>>> {
        self.each(key, n, "u64", |v| v.whole()?.try_into().ok())
    }

    /// A value for each of `n` layers: one finite `f32` or `f64` for all of them, or an array of `n`.
    pub fn each_f32(&self, key: &str, n: usize) -> Result<Option<Vec<f32>>> {
        self.each(key, n, "finite f32", Value::finite)
    }

    /// A bool for each of `n` layers: one for all of them, or an array of `n`. The integers 0 and 1 are bools here.
    pub fn each_bool(&self, key: &str, n: usize) -> Result<Option<Vec<bool>>> {
        self.each(key, n, "bool", |v| match v.whole()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        })
    }

    /// As [`Self::string`], for a required key.
    ///
    /// # Errors
    /// Also [`Self::missing`]. All getters below have this error.
    pub fn require_string(&self, key: &str) -> Result<&str> {
        self.string(key)?.ok_or_else(|| self.missing(key))
    }

    /// As [`Self::u32`], for a required key.
    pub fn require_u32(&self, key: &str) -> Result<u32> {
        self.u32(key)?.ok_or_else(|| self.missing(key))
    }

    /// As [`Self::u64`], for a required key.
    pub fn require_u64(&self, key: &str) -> Result<u64> {
        self.u64(key)?.ok_or_else(|| self.missing(key))
    }

    /// As [`Self::f32`], for a required key.
    pub fn require_f32(&self, key: &str) -> Result<f32> {
        self.f32(key)?.ok_or_else(|| self.missing(key))
    }

    /// As [`Self::array`], for a required key.
    pub fn require_array(&self, key: &str) -> Result<&Array> {
        self.array(key)?.ok_or_else(|| self.missing(key))
    }

    /// The error for a required key that is missing. It says what the file looks like.
    pub fn missing(&self, key: &str) -> Error {
        Error::mismatch("metadata", format!("key {}", printable(key)), format!("none; this is {}", self.looks_like()))
    }

    /// A description of what the file seems to be.
    pub fn looks_like(&self) -> String {
        match (self.other(), self.get("general.architecture")) {
            (Some((what, _)), _) => what.into(),
            (None, Some(Value::String(name))) if !name.is_empty() => {
                format!("a file of architecture {}", printable(name))
            }
            _ => "a file that names no architecture".into(),
        }
    }

    /// Whether this may be a language model.
    ///
    /// # Errors
    /// `Unsupported` for the other kinds of GGUF files that often lie beside models. It says which, and what to do with it.
    pub fn check_model(&self) -> Result<()> {
        match self.other() {
            None => Ok(()),
            Some((what, next)) => Err(Error::unsupported("model file", format!("{what}; {next}"))),
        }
    }

    /// What a file is that is no model, and what to do with it.
    fn other(&self) -> Option<(&'static str, &'static str)> {
        let text = |key| match self.get(key) {
            Some(Value::String(s)) => s.as_str(),
            _ => "",
        };
        let has = |key| self.get(key).is_some();
        let kind = text("general.type");
        let rows = [
            (
                kind == "adapter" || has("adapter.type"),
                "an adapter, not a model",
                "open its base model and attach the adapter to it (-m BASE -a ADAPTER)",
            ),
            (
                kind == "mmproj" || text("general.architecture") == "clip",
                "a projector for images or sound, not a language model",
                "open the language model that it belongs to",
            ),
            (
                kind == "imatrix" || has("imatrix.datasets"),
                "an importance matrix, not a model",
                "open the model that it was measured on",
            ),
            (
                has("optimizer.type") || has("training.type"),
                "the state of a training run, not a model",
                "open the model that was trained",
            ),
            (
                self.tensors.is_empty() && has("tokenizer.ggml.tokens"),
                "a vocabulary without weights",
                "it turns text into tokens, but only a model continues them",
            ),
        ];
        rows.iter().find(|row| row.0).map(|row| (row.1, row.2))
    }

    /// All tensors, in the order of the file.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        let of = |i: &u32| self.tensors.get(*i as usize);
        let place = self.by_name.binary_search_by(|i| of(i).map_or("", |t| &t.name).cmp(name)).ok()?;
        of(self.by_name.get(place)?)
    }

    /// The stored bytes of a tensor of this file.
    ///
    /// # Errors
    /// `Corrupt` for a tensor of another, longer file.
    pub fn data(&self, tensor: &Tensor) -> Result<Bytes> {
        let place = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let none = || Error::corrupt(format!("tensor `{}` of another file", printable(&tensor.name)), 0);
        let file = self.files.get(usize::from(tensor.part)).ok_or_else(none)?;
        file.slice(place(tensor.offset)..place(tensor.offset.saturating_add(tensor.bytes)))
    }

    /// A tensor of one or two dimensions as a matrix over the file's bytes; one dimension is one row.
    ///
    /// # Errors
    /// `Mismatch` if it is not there or has more dimensions; `Unsupported` if the format cannot be decoded.
    pub fn matrix(&self, name: &str) -> Result<Matrix> {
        let tensor = self.wanted(name)?;
        let (cols, rows) = match *tensor.dims() {
            [cols] => (cols, 1),
            [cols, rows] => (cols, rows),
            ref dims => return Err(Error::mismatch(shape_of(name), "one or two dimensions", format!("{dims:?}"))),
        };
        self.rows_of(tensor, rows, cols)
    }

    /// All rows of a tensor, whatever its dimensions.
    ///
    /// # Errors
    /// As [`Self::matrix`].
    pub fn rows(&self, tensor: &Tensor) -> Result<Matrix> {
        let cols = tensor.dims().first().copied().unwrap_or(1);
        self.rows_of(tensor, tensor.elements().checked_div(cols).unwrap_or(0), cols)
    }

    /// The tensor of which `part` is a piece, and where in it that begins: for matrices that were made of this file.
    pub fn holder(&self, part: &Bytes) -> Option<(&Tensor, usize)> {
        let at = part.as_ptr() as usize;
        self.tensors.iter().find_map(|tensor| {
            let data = self.data(tensor).ok()?;
            let start = at.checked_sub(data.as_ptr() as usize)?;
            (start.checked_add(part.len())? <= data.len()).then_some((tensor, start))
        })
    }

    fn rows_of(&self, tensor: &Tensor, rows: u64, cols: u64) -> Result<Matrix> {
        let name = &*tensor.name;
        if tensor.format.decode.is_none() {
            return Err(unknown_format(tensor.format.name, name));
        }
        let size = |n: u64| usize::try_from(n).map_err(|_| Error::limit("address space", n, usize::MAX as u64));
        Matrix::new(tensor.format, size(rows)?, size(cols)?, self.data(tensor)?)
            .map_err(|e| inside(e, format_args!("tensor `{}`", printable(name))))
    }

    /// A tensor of three dimensions: matrices of one shape, their rows one after the other.
    ///
    /// # Errors
    /// As [`Self::matrix`].
    pub fn matrices(&self, name: &str) -> Result<Matrix> {
        let tensor = self.wanted(name)?;
        let [cols, rows, count] = *tensor.dims() else {
            return Err(Error::mismatch(shape_of(name), "three dimensions", format!("{:?}", tensor.dims())));
        };
        let rows = rows.checked_mul(count).ok_or_else(|| Error::limit("address space", u64::MAX, usize::MAX as u64))?;
        self.rows_of(tensor, rows, cols)
    }

    /// The values of a tensor of one dimension, stored as floats of any width.
    ///
    /// # Errors
    /// As [`Self::matrix`], and `Unsupported` for a block format: no file stores a bias or a norm in such a format.
    pub fn vector(&self, name: &str) -> Result<Vec<f32>> {
        let matrix = self.matrix(name)?;
        if matrix.rows != 1 {
            return Err(Error::mismatch(shape_of(name), "one row", format!("{} rows", matrix.rows)));
        }
        if matrix.format.block != 1 {
            return Err(unknown_format(matrix.format.name, name));
        }
        let mut out = vec![0.0; matrix.cols];
        matrix.decode(0, 0..matrix.cols, &mut out);
        Ok(out)
    }

    fn wanted(&self, name: &str) -> Result<&Tensor> {
        self.tensor(name).ok_or_else(|| {
            let found = format!("none among {}; this is {}", self.tensors.len(), self.looks_like());
            Error::mismatch("tensors", format!("`{}`", printable(name)), found)
        })
    }

    fn typed<'a, T>(&'a self, key: &str, wanted: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| {
            Error::mismatch(format!("key {}", printable(key)), wanted, format!("{} {value}", value.kind().name()))
        })
    }

    fn each<T: Clone>(
        &self,
        key: &str,
        n: usize,
        wanted: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>> {
        let Some(Value::Array(array)) = self.get(key) else {
            return Ok(self.typed(key, wanted, read)?.map(|one| vec![one; n]));
        };
        let what = || format!("key {}", printable(key));
        if array.len() != n {
            return Err(Error::mismatch(what(), format!("{n} values, one for each layer"), array.len()));
        }
        let read = |(i, v): (usize, Value)| {
            read(&v).ok_or_else(|| {
                Error::mismatch(format!("{}, element {i}", what()), wanted, format!("{} {v}", v.kind().name()))
            })
        };
        array.values().enumerate().map(read).collect::<Result<_>>().map(Some)
    }

    fn elements<'a, T>(&'a self, key: &str, read: impl Fn(&'a Array) -> Result<T>) -> Result<Option<T>> {
        let array = self.array(key)?;
        array.map(read).transpose().map_err(|e| inside(e, format_args!("key {}", printable(key))))
    }
}

impl core::fmt::Debug for Gguf {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let bytes: usize = self.files.iter().map(|file| file.len()).sum();
        write!(f, "Gguf({} pairs, {} tensors, {bytes} bytes)", self.pairs.len(), self.tensors.len())
    }
}

/// Indices of tensors, sorted by name, or what is wrong with the names.
fn by_name(tensors: &[Tensor]) -> core::result::Result<Vec<u32>, String> {
    let mut by_name: Vec<u32> = (0..tensors.len() as u32).collect();
    let name = |i: &u32| tensors.get(*i as usize).map_or("", |t: &Tensor| &t.name);
    by_name.sort_unstable_by(|a, b| name(a).cmp(name(b)));
    let twice = by_name.windows(2).find_map(|w| match w {
        [a, b] if name(a) == name(b) => Some(name(a)),
        _ => None,
    });
    match twice {
        Some(name) => Err(format!("tensor `{}` comes twice", printable(name))),
        None => Ok(by_name),
    }
}

fn shape_of(name: &str) -> String {
    format!("shape of tensor `{}`", printable(name))
}

fn unknown_format(format: impl core::fmt::Display, tensor: &str) -> Error {
    Error::unsupported("tensor format", format!("{format} of tensor `{tensor}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let f32 = Format::by_id(0).unwrap();
        let values: Vec<u8> = [1f32, 2.0, 3.0, -4.0, 5.0, 6.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let mut w = Writer::new();
        w.set("general.architecture", "llama").set("a.u8", 7u8).set("a.i64", -7i64).set("a.eps", 1e-5f32);
        w.set("general.alignment", 8u32).set("a.flag", true).set("a.big", u64::MAX);
        w.set("a.tokens", &["x", "", "é"][..]).set("a.types", &[1i32, -2][..]).set("a.scores", &[0.5f32][..]);
        w.set("a.heads", &[0i32, 2, 0][..]).set("a.window", &[true, false][..]);
        w.tensor("w", &[3, 2], f32, values.clone()).tensor("b", &[3], f32, values[..12].to_vec());
        let bytes = w.finish().unwrap();
        assert_eq!(bytes, w.finish().unwrap());

        let g = Gguf::parse(bytes.into(), &Limits::default()).unwrap();
        assert_eq!((g.version(), g.trailing(), g.pairs().count()), (3, 0, 11));
        assert_eq!(g.require_string("general.architecture").unwrap(), "llama");
        assert_eq!(g.u32("a.u8").unwrap(), Some(7));
        assert_eq!(g.f32("a.eps").unwrap(), Some(1e-5));
        assert_eq!(g.bool("a.flag").unwrap(), Some(true));
        assert_eq!(g.u64("a.big").unwrap(), Some(u64::MAX));
        assert_eq!(g.u32("none").unwrap(), None);
        assert!(g.strings("a.tokens").unwrap().unwrap().eq(["x", "", "é"]));
        assert!(g.i32s("a.types").unwrap().unwrap().eq([1, -2]));
        assert!(g.f32s("a.scores").unwrap().unwrap().eq([0.5]));
        // One value for every layer, or an array of them.
        assert_eq!(g.each_u64("a.u8", 3).unwrap(), Some(vec![7; 3]));
        assert_eq!(g.each_u64("a.heads", 3).unwrap(), Some(vec![0, 2, 0]));
        assert_eq!(g.each_u64("a.window", 2).unwrap(), Some(vec![1, 0]));
        assert_eq!(g.each_bool("a.window", 2).unwrap(), Some(vec![true, false]));
        assert_eq!(g.each_bool("a.flag", 2).unwrap(), Some(vec![true; 2]));
        assert_eq!(g.each_f32("a.eps", 2).unwrap(), Some(vec![1e-5; 2]));
        assert_eq!(g.each_f32("a.scores", 1).unwrap(), Some(vec![0.5]));
        assert_eq!(g.each_u64("none", 2).unwrap(), None);
        assert_eq!(g.tensor("w").unwrap().dims(), [3, 2]);
        let m = g.matrix("w").unwrap();
        assert_eq!((m.rows, m.cols, &m.data()[..]), (2, 3, &values[..]));
        assert_eq!(g.vector("b").unwrap(), [1.0, 2.0, 3.0]);

        for (e, want) in [
            (g.u32("a.i64").unwrap_err(), "key a.i64: expected u32, found i64 -7"),
            (g.u32("a.big").unwrap_err(), "key a.big: expected u32, found u64 18446744073709551615"),
            (g.string("a.types").unwrap_err(), "key a.types: expected string, found array [2 × i32]"),
            (g.each_u64("a.types", 3).unwrap_err(), "key a.types: expected 3 values, one for each layer, found 2"),
            (g.each_u64("a.types", 2).unwrap_err(), "key a.types, element 1: expected u64, found i32 -2"),
            (g.each_bool("a.heads", 3).unwrap_err(), "key a.heads, element 1: expected bool, found i32 2"),
            (g.each_f32("a.flag", 2).unwrap_err(), "key a.flag: expected finite f32, found bool true"),
            (g.u32s("a.types").map(|_| ()).unwrap_err(), "key a.types: element of an array: expected u32, found -2"),
            (
                g.f32s("a.types").map(|_| ()).unwrap_err(),
                "key a.types: type of an array's elements: expected f32, found i32",
            ),
            (
                g.require_u32("x.y").unwrap_err(),
                "metadata: expected key x.y, found none; this is a file of architecture llama",
            ),
            (g.vector("w").unwrap_err(), "shape of tensor `w`: expected one row, found 2 rows"),
        ] {
            assert_eq!(e.to_string(), want);
        }
        assert!(g.matrix("v").is_err_and(|e| e.to_string().contains("`v`")));
    }

    #[test]
    fn the_writer_refuses_what_the_parser_would() {
        let f32 = Format::by_id(0).unwrap();
        let q4 = Format::by_id(2).unwrap();
        let four = || vec![0u8; 4];
        for (w, word) in [
            (Writer::new().set("", 1u32).finish(), "empty"),
            (Writer::new().set("a", 1u32).set("a", 1u32).finish(), "twice"),
            (Writer::new().tensor("a", &[1], f32, four()).tensor("a", &[1], f32, four()).finish(), "twice"),
            (Writer::new().tensor("", &[1], f32, four()).finish(), "empty"),
            (Writer::new().tensor("a", &[], f32, four()).finish(), "dimensions"),
            (Writer::new().tensor("a", &[1, 1, 1, 1, 1], f32, four()).finish(), "dimensions"),
            (Writer::new().tensor("a", &[1, 0], f32, vec![]).finish(), "dimensions"),
            (Writer::new().tensor("a", &[2], f32, four()).finish(), "takes 8"),
            (Writer::new().tensor("a", &[31], q4, vec![0; 18]).finish(), "multiple of the 32"),
            (Writer::new().tensor("a", &[u64::MAX, 2], f32, four()).finish(), "overflow"),
        ] {
            assert!(w.unwrap_err().to_string().contains(word), "{word}");
        }
    }
}
