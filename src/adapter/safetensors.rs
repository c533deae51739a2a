//! safetensors files: a JSON table of tensors, then their bytes, without holes.
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

use super::json::Json;
use crate::bytes::{Bytes, Cursor, FETCH, LFS_POINTER, Limits};
use crate::error::{Error, Result, printable};
use crate::quant::{Format, Matrix};
use core::ops::Range;
use std::prelude::v1::*;

/// Name, bits of a value, and the block format that decodes it.
type Dtype = (&'static str, u64, Option<&'static str>);

/// Types that a table may name. Only those with a format can be read.
const DTYPES: &[Dtype] = &[
    ("F32", 32, Some("F32")),
    ("F16", 16, Some("F16")),
    ("BF16", 16, Some("BF16")),
    ("F64", 64, None),
    ("F8_E4M3", 8, None),
    ("F8_E5M2", 8, None),
    ("F8_E8M0", 8, None),
    ("C64", 64, None),
    ("I64", 64, None),
    ("I32", 32, None),
    ("I16", 16, None),
    ("I8", 8, None),
    ("U64", 64, None),
    ("U32", 32, None),
    ("U16", 16, None),
    ("U8", 8, None),
    ("BOOL", 8, None),
];

/// Bytes of the shortest entry of a table.
const LEAST: usize = br#""":{"dtype":"U8","shape":[],"data_offsets":[0,0]}"#.len();

/// How files of PyTorch begin: zip archives, and pickles of several versions.
const PICKLES: &[&[u8]] = &[b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"];

/// Whether a file is a pickle. The length of a header can begin with the same bytes, but its upper half is zero and a brace
/// follows.
pub(super) fn is_pickle(bytes: &[u8]) -> bool {
    PICKLES.iter().any(|magic| bytes.starts_with(magic)) && bytes.get(4..9) != Some(b"\0\0\0\0{")
}

/// One row of the table.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Its name in the file.
    pub name: Box<str>,
    /// Dimensions, the slowest first.
    pub shape: Vec<u64>,
    dtype: &'static Dtype,
    range: Range<usize>,
    /// The file that it lies in.
    shard: usize,
}

impl Tensor {
    /// The type of its values: `F32`.
    pub fn dtype(&self) -> &'static str {
        self.dtype.0
    }

    /// Its bytes.
    pub fn bytes(&self) -> usize {
        self.range.len()
    }
}

/// A parsed file, or several that are one: its tensors sorted by name.
#[derive(Clone)]
pub struct Safetensors {
    files: Vec<Bytes>,
    tensors: Vec<Tensor>,
}

impl Safetensors {
    /// # Errors
    /// `Corrupt` with the tensor and the offset; `Limit`; `Unsupported` for other files and unknown types.
    pub fn parse(file: Bytes, limits: &Limits) -> Result<Safetensors> {
        Limits::check("bytes of a file", file.len() as u64, limits.file)?;
        if is_pickle(&file) {
            return Err(pickled());
        }
        if file.starts_with(LFS_POINTER) {
            return Err(Error::invalid("not a safetensors file", FETCH));
        }
        let mut cursor = Cursor::new(&file);
        let length = cursor.u64()?;
        Limits::check("bytes of a safetensors header", length, limits.safetensors_header)?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let header = cursor.take(length)?;
        if header.first() != Some(&b'{') {
            return Err(Error::invalid("not a safetensors file", "no table of tensors follows its first 8 bytes"));
        }
        let data = cursor.offset();
        // What the table can hold of them: growing, a list would take twice as much for a moment.
        let most = (length.div_euclid(LEAST) as u64).min(limits.tensors);
        let mut tensors: Vec<Tensor> = Vec::with_capacity(most as usize);
        let mut json = Json::new(header, limits)?;
        json.object(|json, name| {
            if name == "__metadata__" {
                return json.object(|json, _| json.string().map(|_| ()));
            }
            Limits::check("tensors", (tensors.len() as u64).saturating_add(1), limits.tensors)?;
            Limits::check("bytes of a tensor name", name.len() as u64, limits.name)?;
            tensors.push(read_tensor(json, name, data, file.len(), limits)?);
            Ok(())
        })?;
        json.end()?;

        tensors.sort_unstable_by_key(|t| (t.range.start, t.range.end));
        let mut next = data;
        for t in &tensors {
            if t.range.start != next {
                let what = format!("tensor `{}` begins at {}, wanted {next}", printable(&t.name), t.range.start);
                return Err(Error::corrupt(what, t.range.start));
            }
            next = t.range.end;
        }
        match file.len().saturating_sub(next) {
            0 => {}
            more => return Err(Error::corrupt(format!("{more} bytes belong to no tensor"), next)),
        }
        tensors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(Safetensors { files: vec![file], tensors })
    }

    /// Several files as one. No two of them have a tensor of one name.
    pub fn join(shards: Vec<Safetensors>) -> Safetensors {
        let mut all = Safetensors { files: Vec::new(), tensors: Vec::new() };
        for shard in shards {
            let first = all.files.len();
            all.files.extend(shard.files);
            let moved = |t: Tensor| Tensor { shard: t.shard.saturating_add(first), ..t };
            all.tensors.extend(shard.tensors.into_iter().map(moved));
        }
        all.tensors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// All tensors, sorted by name.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(self.tensors.binary_search_by(|t| (*t.name).cmp(name)).ok()?)
    }

    /// The values of a tensor of two dimensions as rows.
    ///
    /// # Errors
    /// `Unsupported` if its type is not a float of 16 or 32 bits; `Mismatch` if it does not have two dimensions.
    pub fn matrix(&self, tensor: &Tensor) -> Result<Matrix> {
        let &[rows, cols] = tensor.shape.as_slice() else {
            let what = format!("shape of {}", printable(&tensor.name));
            return Err(Error::mismatch(what, "two dimensions", format!("{:?}", tensor.shape)));
        };
        // Their product was checked against the number of bytes, unless one is zero.
        let size = |n: u64| usize::try_from(n).map_err(|_| Error::limit("address space", n, usize::MAX as u64));
        self.rows(tensor, size(rows)?, size(cols)?)
    }

    /// The values of a tensor of any shape that has `n` of them.
    ///
    /// # Errors
    /// `Unsupported` if its type is not a float of 16 or 32 bits; `Mismatch` for another number of values; `Corrupt` if
    /// one is not finite.
    pub fn vector(&self, tensor: &Tensor, n: usize) -> Result<Vec<f32>> {
        let found = tensor.shape.iter().try_fold(1, |n: u64, d| n.checked_mul(*d));
        if found != Some(n as u64) {
            let what = format!("shape of {}", printable(&tensor.name));
            return Err(Error::mismatch(what, format!("{n} values"), format!("{:?}", tensor.shape)));
        }
        let mut values = vec![0.0; n];
        self.rows(tensor, 1, n)?.decode(0, 0..n, &mut values);
        match values.iter().all(|v| v.is_finite()) {
            true => Ok(values),
            false => Err(Error::corrupt(format!("a value of {} is not finite", printable(&tensor.name)), tensor.range.start)),
        }
    }

    fn rows(&self, tensor: &Tensor, rows: usize, cols: usize) -> Result<Matrix> {
        let (format, data) = self.values(tensor)?;
        Matrix::new(format, rows, cols, data)
    }

    /// How the values of a tensor are stored, and their bytes.
    ///
    /// # Errors
    /// `Unsupported` if its type is not a float of 16 or 32 bits.
    pub fn values(&self, tensor: &Tensor) -> Result<(&'static Format, Bytes)> {
        let unknown = || Error::unsupported("type of tensor", format!("{}: {}", printable(&tensor.name), tensor.dtype.0));
        let format = tensor.dtype.2.and_then(Format::by_name).ok_or_else(unknown)?;
        let file = self.files.get(tensor.shard).cloned().unwrap_or_else(|| Bytes::from(Vec::new()));
        Ok((format, file.slice(tensor.range.clone())?))
    }
}

/// A tensor to write: its name, its shape, its values.
pub(super) type New = (String, Vec<usize>, Vec<f32>);

/// The bytes of a file with these tensors as `f32`, sorted by name. The header is padded so that values are aligned.
pub(super) fn write(mut tensors: Vec<New>) -> Vec<u8> {
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let mut table = serde_json::Map::new();
    table.insert("__metadata__".into(), serde_json::json!({ "format": "pt" }));
    let mut end = 0usize;
    for (name, shape, values) in &tensors {
        let start = end;
        end = end.saturating_add(values.len().saturating_mul(4));
        table.insert(
            name.clone(),
            serde_json::json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, end] }),
        );
    }
    let mut header = serde_json::Value::from(table).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.append(&mut header);
    out.extend(tensors.iter().flat_map(|(_, _, values)| values).flat_map(|v| v.to_le_bytes()));
    out
}

/// The error for a pickle. It is never read, since reading one runs the program in it.
pub(super) fn pickled() -> Error {
    let why = "a pickle, which could run any program; convert it to safetensors, as PEFT's save_pretrained writes them";
    Error::unsupported("file format", why)
}

fn read_tensor(json: &mut Json, name: &str, data: usize, len: usize, limits: &Limits) -> Result<Tensor> {
    let bad = |what: String| Error::corrupt(format!("tensor `{}`: {what}", printable(name)), 8);
    let (mut dtype, mut shape, mut offsets) = (None, None, None);
    json.object(|json, key| {
        match key {
            "dtype" => {
                let found = json.string()?;
                let row = DTYPES.iter().find(|d| d.0 == found);
                dtype = Some(row.ok_or_else(|| Error::unsupported("type of tensor", format!("{name}: {found}")))?);
            }
            "shape" => shape = Some(wholes(json, 8)?),
            "data_offsets" => offsets = Some(wholes(json, 2)?),
            _ => return Err(bad(format!("unknown key `{}`", printable(key)))),
        }
        Ok(())
    })?;
    let (Some(dtype), Some(shape), Some(offsets)) = (dtype, shape, offsets) else {
        return Err(bad("dtype, shape and data_offsets are wanted".into()));
    };
    let bits = shape.iter().try_fold(dtype.1, |n: u64, &d: &u64| n.checked_mul(d));
    let bytes = bits.filter(|b| b.div_euclid(dtype.1) <= limits.elements).map(|b| b / 8);
    let place = |n: u64| usize::try_from(n).ok()?.checked_add(data).filter(|end| *end <= len);
    let range = match offsets[..] {
        [from, to] if from <= to && to.checked_sub(from) == bytes && bytes.is_some() => place(from).zip(place(to)),
        _ => None,
    };
    let (start, end) =
        range.ok_or_else(|| bad(format!("shape {shape:?} of {} at {offsets:?} of {} bytes", dtype.0, len.saturating_sub(data))))?;
    Ok(Tensor { name: name.into(), shape, dtype, range: start..end, shard: 0 })
}

fn wholes(json: &mut Json, most: usize) -> Result<Vec<u64>> {
    let mut out = Vec::new();
    json.array(|json| {
        Limits::check("numbers of a tensor", (out.len() as u64).saturating_add(1), most as u64)?;
        out.push(json.whole()?);
        Ok(())
    })?;
    Ok(out)
}
