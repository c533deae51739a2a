//! The parts of a file in the order they are read, each checked before anything is reserved for it.

use super::parts::SPLIT_KEYS;
use super::value::{self, Kind, Value, inside};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, MAX_RANK, Tensor, unknown_format};
use crate::bytes::{Bytes, Cursor, FETCH, LFS_POINTER, Limits};
use crate::error::{Error, Result, printable};
use crate::quant::{FORMATS, Format};
use core::ops::Range;
use std::collections::BTreeMap;
use std::prelude::v1::*;

/// Values by key.
pub(super) type Pairs = BTreeMap<Box<str>, Value>;

/// Minimum size of a pair: a key of one byte, its type, a value of one byte.
pub(super) const PAIR_BYTES: u64 = 8 + 1 + 4 + 1;
/// Minimum size of a row of the tensor table: a name of one byte, one dimension.
pub(super) const ROW_BYTES: u64 = 8 + 1 + 4 + 8 + 4 + 8;

const NO_GGUF: &str = "not a GGUF file";

/// Files that are often mistaken for a model: bytes, where they stand, and the message.
const NOT_GGUF: &[(usize, &[u8], &str)] = &[
    (0, b"FUGG", "GGUF of a big-endian machine; convert it to little-endian"),
    (0, b"ggml", GGML),
    (0, b"GGML", GGML),
    (0, b"lmgg", GGML),
    (0, b"fmgg", GGMF),
    (0, b"GGMF", GGMF),
    (0, b"tjgg", GGJT),
    (0, b"GGJT", GGJT),
    (0, b"algg", GGLA),
    (0, b"ggla", GGLA),
    (0, b"GGLA", GGLA),
    (
        0,
        b"\x8dMYN",
        "an adapter or a checkpoint of mynah; open its base model and attach it to that (-m BASE -a ADAPTER)",
    ),
    (0, b"PK\x03\x04", "a zip archive, perhaps a PyTorch checkpoint; convert the model to GGUF"),
    (0, b"\x80\x02", PICKLE),
    (0, b"\x80\x03", PICKLE),
    (0, b"\x80\x04", PICKLE),
    (0, b"\x1f\x8b", "a gzip archive; unpack it"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive; unpack it"),
    (0, LFS_POINTER, FETCH),
    (4, b"TFL3", "TensorFlow Lite; get the model as GGUF"),
    // A number of entries, the length of a name, a tensor's name.
    (8, b"blk.", IMATRIX),
    (8, b"output.weight", IMATRIX),
    (8, b"token_embd.weight", IMATRIX),
];
const GGML: &str = "GGML, older than GGUF; convert the original model again";
const GGMF: &str = "GGMF, older than GGUF; convert the original model again";
const GGJT: &str = "GGJT, older than GGUF; convert the original model again";
const GGLA: &str = "GGLA, an adapter older than GGUF; convert the original adapter again";
const PICKLE: &str = "a pickle, perhaps a PyTorch checkpoint; convert the model to GGUF";
const IMATRIX: &str = "perhaps an importance matrix in its old form; open the model that it was measured on";

/// What a file without the magic of GGUF seems to be, and what to do with it.
fn other_format(file: &[u8]) -> Option<String> {
    /// Bytes of a file that are looked at.
    const LOOK: usize = 4096;
    let start = file.get(..LOOK).unwrap_or(file);
    let holds = |text: &[u8]| start.windows(text.len()).any(|w| w == text);
    // The length of its header comes first, which can begin as a pickle does.
    if start.get(4..9) == Some(b"\0\0\0\0{") {
        return Some(if holds(b"lora_A") || holds(b"lora_embedding") {
            "an adapter as safetensors; attach the folder that it lies in to its base model (-m BASE -a FOLDER)".into()
        } else {
            "safetensors; convert the folder that it lies in to GGUF".into()
        });
    }
    let stands = |row: &&(usize, &[u8], &str)| start.get(row.0..).is_some_and(|rest| rest.starts_with(row.1));
    if let Some((_, _, what)) = NOT_GGUF.iter().find(stands) {
        return Some((*what).into());
    }
    // Text: what a server said instead of the file. A cut character at the end of the part looked at is not its fault.
    let text = match core::str::from_utf8(start) {
        Ok(text) => text,
        Err(e) if e.error_len().is_none() => core::str::from_utf8(start.get(..e.valid_up_to())?).ok()?,
        Err(_) => return None,
    };
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.chars().any(|c| c.is_control() && !c.is_whitespace()) || text.len() < 8 {
        return None;
    }
    let line = text.lines().next().unwrap_or_default();
    let line: String = line.chars().take(60).collect();
    Some(match text.chars().next() {
        Some('<') => format!("HTML or XML, perhaps the error page of a download; download it again: {line}"),
        Some('{' | '[') => format!("JSON, not a model: {line}"),
        _ => format!("text, perhaps the error message of a download: {line}"),
    })
}

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
        return Err(Error::invalid(NO_GGUF, "it is empty; copy or download it again"));
    }
    if !start.starts_with(MAGIC)
        && let Some(found) = other_format(start)
    {
        return Err(Error::invalid(NO_GGUF, found));
    }
    let Ok(magic) = cursor.array::<4>() else {
        return Err(Error::invalid(NO_GGUF, format!("it has {} bytes", start.len())));
    };
    if &magic != MAGIC {
        return Err(Error::invalid(NO_GGUF, format!("it begins with the bytes {magic:02x?}; models are GGUF files")));
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

/// The keys in the order of the file, and where their pairs lie, without those that tell of splitting.
pub(super) type Order = (Vec<Box<str>>, Vec<Range<usize>>);

/// The metadata, and its order.
pub(super) fn read_pairs(cursor: &mut Cursor<'_>, n: u64, file: &Bytes, limits: &Limits) -> Result<(Pairs, Order)> {
    let (mut pairs, mut order, mut kept) = (BTreeMap::new(), Vec::new(), Vec::<Range<usize>>::new());
    for i in 0..n {
        let offset = cursor.offset();
        let key = read_name("key", cursor, limits.key).map_err(|e| inside(e, format_args!("pair {i} of {n}")))?;
        let kind = Kind::read(cursor);
        let value = kind.and_then(|kind| Value::read(kind, cursor, file, limits));
        let value = value.map_err(|e| inside(e, format_args!("key {}", printable(key))))?;
        if pairs.insert(key.into(), value).is_some() {
            return Err(Error::corrupt(format!("key {} comes twice", printable(key)), offset));
        }
        if key.starts_with(SPLIT_KEYS) {
            continue;
        }
        order.push(key.into());
        match kept.last_mut() {
            Some(last) if last.end == offset => last.end = cursor.offset(),
            _ => kept.push(offset..cursor.offset()),
        }
    }
    Ok((pairs, (order, kept)))
}

pub(super) fn alignment(pairs: &Pairs, limits: &Limits) -> Result<u64> {
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

/// Bytes between the end of `len` and the next multiple of the alignment.
pub(super) fn padding(len: u64, alignment: u64) -> u64 {
    len.checked_next_multiple_of(alignment).map_or(0, |end| end.saturating_sub(len))
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
                let name = printable(&tensor.name);
                let what = format!(
                    "incomplete: {} of {} MB ({len} of {whole} bytes); tensor `{name}` is cut off; let the download end, or \
                     copy the file again",
                    megabytes(len, whole),
                    megabytes(whole, whole)
                );
                return Err(Error::corrupt(what, file.len()));
            }
        }
    }
    let end = if tensors.is_empty() { None } else { start.and_then(|start| start.checked_add(next)) };
    Ok((tensors, end.unwrap_or(cursor.offset() as u64)))
}

/// A part of `whole` bytes in megabytes, with a decimal where there are few.
fn megabytes(part: u64, whole: u64) -> String {
    match whole {
        0..10_000_000 => format!("{:.1}", part as f64 / 1e6),
        _ => format!("{}", part / 1_000_000),
    }
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
    let mut tensor = Tensor { name: name.into(), format, part: 0, offset: 0, bytes: 0, dims, rank: rank as u8 };
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
