//! The parts of a file in the order they are read, each checked before anything is reserved for it.

use super::value::{self, Kind, Value, inside};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, MAX_RANK, Tensor, unknown_format};
use crate::bytes::{Bytes, Cursor, Limits};
use crate::error::{Error, Result, printable};
use crate::quant::{FORMATS, Format};
use std::collections::BTreeMap;
use std::prelude::v1::*;

/// Minimum size of a pair: a key of one byte, its type, a value of one byte.
pub(super) const PAIR_BYTES: u64 = 8 + 1 + 4 + 1;
/// Minimum size of a row of the tensor table: a name of one byte, one dimension.
pub(super) const ROW_BYTES: u64 = 8 + 1 + 4 + 8 + 4 + 8;

/// Files that are often mistaken for a model: their first bytes, and the message.
const NOT_GGUF: &[(&[u8], &str)] = &[
    (b"FUGG", "GGUF of a big-endian machine; convert it to little-endian"),
    (b"ggml", "GGML, older than GGUF; convert the original model again"),
    (b"GGML", "GGML, older than GGUF; convert the original model again"),
    (b"lmgg", "GGML, older than GGUF; convert the original model again"),
    (b"fmgg", "GGMF, older than GGUF; convert the original model again"),
    (b"GGMF", "GGMF, older than GGUF; convert the original model again"),
    (b"tjgg", "GGJT, older than GGUF; convert the original model again"),
    (b"GGJT", "GGJT, older than GGUF; convert the original model again"),
    (b"algg", "GGLA, an adapter older than GGUF; convert the original adapter again"),
    (b"ggla", "GGLA, an adapter older than GGUF; convert the original adapter again"),
    (b"GGLA", "GGLA, an adapter older than GGUF; convert the original adapter again"),
    (b"PK\x03\x04", "a zip archive, perhaps a PyTorch checkpoint; convert it to GGUF"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself"),
    (b"<", "HTML or XML, perhaps the error page of a download"),
    (b"{", "JSON"),
];

/// Checks that `n` things of at least `each` bytes, the last of which may lack `spare`, can still follow.
pub(super) fn fits(what: &str, n: u64, each: u64, spare: u64, remaining: usize, offset: usize) -> Result<()> {
    let need = n.checked_mul(each).map(|need| need.saturating_sub(spare));
    if need.is_some_and(|need| need <= remaining as u64) {
        return Ok(());
    }
    Err(Error::corrupt(format!("{n} {what} cannot lie in the {remaining} bytes that follow"), offset))
}

pub(super) fn read_version(cursor: &mut Cursor<'_>) -> Result<u32> {
    let start = cursor.clone().take(cursor.remaining())?;
    if start.is_empty() {
        return Err(Error::corrupt("the file is empty", 0));
    }
    if let Some((_, found)) = NOT_GGUF.iter().find(|(magic, _)| start.starts_with(magic)) {
        return Err(Error::unsupported("file format", found));
    }
    if start.get(8) == Some(&b'{') {
        return Err(Error::unsupported("file format", "perhaps safetensors; convert it to GGUF"));
    }
    let magic = cursor.array::<4>()?;
    if &magic != MAGIC {
        return Err(Error::corrupt(format!("first bytes {magic:02x?}, those of GGUF are {MAGIC:02x?}"), 0));
    }
    let version = cursor.u32()?;
    match version {
        2 | 3 => Ok(version),
        1 => Err(Error::unsupported("GGUF version", "1; convert the original model again")),
        _ if version.swap_bytes() <= 3 && version != 0 => Err(Error::unsupported(
            "GGUF version",
            format!("{version:#010x}, perhaps a big-endian file; convert it to little-endian"),
        )),
        _ => Err(Error::unsupported("GGUF version", format!("{version}; this build reads 2 and 3"))),
    }
}

/// A key or a tensor's name.
fn read_name<'a>(what: &str, cursor: &mut Cursor<'a>, limit: u64) -> Result<&'a str> {
    let offset = cursor.offset();
    let name = value::read_string(cursor, limit).map_err(|e| inside(e, what))?;
    if name.is_empty() {
        return Err(Error::corrupt(format!("{what} is empty"), offset));
    }
    if name.chars().any(char::is_control) {
        return Err(Error::corrupt(format!("{what} has a control character: `{}`", printable(name)), offset));
    }
    Ok(name)
}

pub(super) fn read_pairs(
    cursor: &mut Cursor<'_>,
    n: u64,
    file: &Bytes,
    limits: &Limits,
) -> Result<BTreeMap<Box<str>, Value>> {
    let mut pairs = BTreeMap::new();
    for i in 0..n {
        let offset = cursor.offset();
        let key = read_name("key", cursor, limits.key).map_err(|e| inside(e, format_args!("pair {i} of {n}")))?;
        let kind = Kind::read(cursor);
        let value = kind.and_then(|kind| Value::read(kind, cursor, file, limits));
        let value = value.map_err(|e| inside(e, format_args!("key {}", printable(key))))?;
        if pairs.insert(key.into(), value).is_some() {
            return Err(Error::corrupt(format!("key {} comes twice", printable(key)), offset));
        }
    }
    Ok(pairs)
}

pub(super) fn alignment(pairs: &BTreeMap<Box<str>, Value>, limits: &Limits) -> Result<u64> {
    let found = match pairs.get(ALIGNMENT_KEY) {
        None => return Ok(DEFAULT_ALIGNMENT as u64),
        Some(Value::U32(n)) => u64::from(*n),
        Some(other) => return Err(Error::mismatch(format!("key {ALIGNMENT_KEY}"), "u32", other.kind().name())),
    };
    if !found.is_power_of_two() || found < 8 {
        return Err(Error::mismatch(format!("key {ALIGNMENT_KEY}"), "a power of two of at least 8", found));
    }
    Limits::check(ALIGNMENT_KEY, found, limits.alignment)?;
    Ok(found)
}

/// Refuses one part of a split model. Tools mark a merged file by a count of 0 or 1.
pub(super) fn refuse_parts(pairs: &BTreeMap<Box<str>, Value>) -> Result<()> {
    let number = |key: &str| match pairs.get(key) {
        None => Ok(None),
        Some(v) => v
            .integer()
            .map(Some)
            .ok_or_else(|| Error::mismatch(format!("key {key}"), "an integer", format!("{} {v}", v.kind().name()))),
    };
    let (count, part) = (number("split.count")?, number("split.no")?);
    match count {
        Some(count) if count > 1 => {
            let part = part.map_or_else(|| "one part".into(), |n| format!("part {}", n.saturating_add(1)));
            let what = format!("{part} of {count}; merge the parts with llama-gguf-split --merge");
            Err(Error::unsupported("split model file", what))
        }
        Some(count) if count < 0 => Err(Error::mismatch("key split.count", "a count", count)),
        _ => Ok(()),
    }
}

/// Bytes of a tensor, or what is wrong with its dimensions.
pub(super) fn tensor_bytes(format: &Format, dims: &[u64]) -> core::result::Result<u64, String> {
    let Some((&cols, rest)) = dims.split_first() else { return Err("no dimensions".into()) };
    let blocks = cols.checked_div(format.block as u64).filter(|n| n.checked_mul(format.block as u64) == Some(cols));
    let Some(blocks) = blocks else {
        return Err(format!(
            "rows of {cols} values are no multiple of the {} in a block of {}",
            format.block, format.name
        ));
    };
    let bytes = rest.iter().try_fold(blocks, |n, &d| n.checked_mul(d)).and_then(|n| n.checked_mul(format.bytes as u64));
    bytes.ok_or_else(|| format!("dimensions {dims:?} overflow"))
}

/// The tensor table, and the padded end of the data in the file.
pub(super) fn read_tensors(
    cursor: &mut Cursor<'_>,
    n: u64,
    file: &Bytes,
    alignment: u64,
    limits: &Limits,
) -> Result<(Vec<Tensor>, u64)> {
    let mut tensors = Vec::with_capacity(usize::try_from(n).unwrap_or(0));
    let mut next = 0u64; // where the data of the next tensor begins, from the start of the data
    for i in 0..n {
        let name = read_name("name", cursor, limits.name).map_err(|e| inside(e, format_args!("tensor {i} of {n}")))?;
        let tensor = read_tensor(cursor, name, next, alignment, limits)
            .map_err(|e| inside(e, format_args!("tensor `{}`", printable(name))))?;
        next = (tensor.offset.checked_add(tensor.bytes))
            .and_then(|end| end.checked_next_multiple_of(alignment))
            .ok_or_else(|| Error::corrupt(format!("tensor `{}` ends past 2^64", printable(name)), cursor.offset()))?;
        tensors.push(tensor);
    }
    // Offsets so far are relative to the data, whose start is only known at the end of the table.
    let start = (cursor.offset() as u64).checked_next_multiple_of(alignment);
    let len = file.len() as u64;
    for tensor in &mut tensors {
        let begin = start.and_then(|start| start.checked_add(tensor.offset));
        let end = begin.and_then(|begin| begin.checked_add(tensor.bytes));
        match (begin, end) {
            (Some(begin), Some(end)) if end <= len => tensor.offset = begin,
            _ => {
                let whole = start.and_then(|start| start.checked_add(next)).unwrap_or(u64::MAX);
                let what =
                    format!("incomplete: {len} of {whole} bytes; tensor `{}` is cut off", printable(&tensor.name));
                return Err(Error::corrupt(what, file.len()));
            }
        }
    }
    let end = if tensors.is_empty() { None } else { start.and_then(|start| start.checked_add(next)) };
    Ok((tensors, end.unwrap_or(cursor.offset() as u64)))
}

/// A row of the table after its name. `next` is where its data must begin.
fn read_tensor(cursor: &mut Cursor<'_>, name: &str, next: u64, alignment: u64, limits: &Limits) -> Result<Tensor> {
    let at = cursor.offset();
    let rank = cursor.u32()?;
    if rank == 0 || rank > MAX_RANK as u32 {
        return Err(Error::corrupt(format!("{rank} dimensions, wanted 1 to {MAX_RANK}"), at));
    }
    let mut dims = [1u64; MAX_RANK];
    for dim in dims.iter_mut().take(rank as usize) {
        *dim = cursor.u64()?;
    }
    let elements = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
    if dims.contains(&0) {
        return Err(Error::corrupt(format!("dimensions {dims:?} with a zero"), at));
    }
    Limits::check("values of a tensor", elements.unwrap_or(u64::MAX), limits.elements)?;
    let id = cursor.u32()?;
    let format = FORMATS.iter().find(|f| f.id == id).ok_or_else(|| unknown_format(format_args!("id {id}"), name))?;
    let mut tensor = Tensor { name: name.into(), format, offset: 0, bytes: 0, dims, rank: rank as u8 };
    tensor.bytes = tensor_bytes(format, tensor.dims()).map_err(|why| Error::corrupt(why, at))?;
    let at = cursor.offset();
    tensor.offset = cursor.u64()?;
    if tensor.offset != next {
        let why = match tensor.offset {
            o if !o.is_multiple_of(alignment) => format!("no multiple of the alignment {alignment}"),
            o if o < next => "inside the tensor before it".into(),
            _ => "a hole before it".into(),
        };
        return Err(Error::corrupt(format!("offset {}, wanted {next}: {why}", tensor.offset), at));
    }
    Ok(tensor)
}
