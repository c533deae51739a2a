//! Block formats of matrices, as ggml defines them, and the frozen matrix that uses them.
//!
//! A format is a row of [`FORMATS`]; its functions for one block are in the file of its family. A float format has a
//! decoder. A quantised one has a function that unpacks a block into unsigned codes, scales and mins. Integer dot products
//! use these directly, and the decoder computes scale · (code − zero) + min, which equals ggml's value bit for bit.
//! `encode` gives the bytes of ggml's reference.

mod book;
mod fit;
pub(crate) mod float;
mod iq;
mod k;
mod legacy;
mod micro;
mod table;
mod ternary;
pub mod interleaved;

pub(crate) use float::{bf16_to_f32, f16_to_f32};
#[allow(unused_imports, reason = "where no backend works in vectors")]
pub(crate) use iq::VALUES as IQ4;
pub use table::FORMATS;
#[allow(unused_imports, reason = "for units of 4 lanes alone")]
pub(crate) use table::codes;
pub(crate) use table::{decode_inline, unpack_inline};

use crate::bytes::Bytes;
use crate::error::{Error, Result};
use core::ops::Range;
use core::sync::atomic::AtomicU8;
use std::prelude::v1::*;
use std::sync::Arc;

/// Whole blocks to their values.
pub type Decode = fn(blocks: &[u8], values: &mut [f32]);
/// Values to whole blocks.
pub type Encode = fn(values: &[f32], blocks: &mut [u8]);
/// Rows of values to whole blocks. `importance`: how much an error in each column counts, as many as a row has values.
pub type EncodeWeighted = fn(values: &[f32], importance: &[f32], blocks: &mut [u8]);
/// One block to codes, scales and mins.
pub type Unpack = fn(block: &[u8], codes: &mut [u8], scales: &mut [f32], mins: &mut [f32]);

/// One row of [`FORMATS`].
pub struct Format {
    /// ggml's type id, as GGUF stores it.
    pub id: u32,
    /// ggml's name, for example `Q4_0`.
    pub name: &'static str,
    /// Values in a block.
    pub block: usize,
    /// Bytes of a block.
    pub bytes: usize,
    /// Whole blocks to values, bit for bit as ggml. `None`: known to exist, not decoded by this build.
    pub decode: Option<Decode>,
    /// Values to whole blocks, byte for byte as ggml's reference.
    pub encode: Option<Encode>,
    /// The same where errors count by column, byte for byte as ggml with an importance matrix. `None`: they make no
    /// difference.
    pub weighted: Option<EncodeWeighted>,
    /// How a block is read as small integers with scales, for quantised formats.
    pub codes: Option<Codes>,
}

/// How a block is read as unsigned codes: value = scale · (code − `zero`) + min, with a scale and a min for every
/// `sub` values.
pub struct Codes {
    /// The code of the value 0, before the min is added.
    pub zero: u8,
    /// Values that share a scale: 16 or 32.
    pub sub: usize,
    /// Whether there are mins.
    pub min: bool,
    /// Unpacks one block to its codes `[block]`, scales `[block / sub]` and mins (as many as scales, or none).
    pub unpack: Unpack,
}

impl Format {
    /// The format of ggml's type `id`.
    pub fn by_id(id: u32) -> Option<&'static Format> {
        FORMATS.iter().find(|format| format.id == id)
    }

    /// The format of that name; case does not matter.
    pub fn by_name(name: &str) -> Option<&'static Format> {
        FORMATS.iter().find(|format| format.name.eq_ignore_ascii_case(name))
    }

    /// Whether values are rounded together in blocks; the others are plain numbers.
    pub fn is_quantised(&self) -> bool {
        self.block > 1
    }

    /// Bytes of a row of `cols` values; `None` if it does not end on a block edge or overflows.
    pub fn row_bytes(&self, cols: usize) -> Option<usize> {
        if cols.is_multiple_of(self.block) { (cols / self.block).checked_mul(self.bytes) } else { None }
    }
}

/// Bits of 16-bit floats.
#[derive(Clone, Copy)]
pub enum Floats16<'a> {
    /// IEEE half precision.
    F16(&'a [u16]),
    /// The upper 16 bits of an f32.
    Bf16(&'a [u16]),
}

impl<'a> Floats16<'a> {
    /// The values at `range`.
    pub fn part(self, range: Range<usize>) -> Floats16<'a> {
        match self {
            Floats16::F16(bits) => Floats16::F16(&bits[range]),
            Floats16::Bf16(bits) => Floats16::Bf16(&bits[range]),
        }
    }
}

/// A frozen matrix of a file: `rows` outputs, `cols` inputs, each row a run of blocks along the input side.
#[derive(Clone)]
pub struct Matrix {
    /// How the rows are stored.
    pub format: &'static Format,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    data: Bytes,
    /// The rows interleaved, as well.
    interleaved: Option<Bytes>,
    /// See [`Matrix::tops`].
    tops: Arc<[AtomicU8]>,
}

impl Matrix {
    /// # Errors
    /// `Unsupported` if the format cannot be decoded; `Mismatch` if `cols` is no multiple of the block or the
    /// bytes are not `rows · cols` values.
    pub fn new(format: &'static Format, rows: usize, cols: usize, data: Bytes) -> Result<Self> {
        if format.decode.is_none() {
            return Err(Error::unsupported("tensor format", format.name));
        }
        if !cols.is_multiple_of(format.block) {
            return Err(Error::mismatch("matrix columns", format!("a multiple of {}", format.block), cols));
        }
        let want = format.row_bytes(cols).and_then(|bytes| bytes.checked_mul(rows));
        if want != Some(data.len()) {
            return Err(Error::mismatch(
                format!("bytes of a {rows} × {cols} {} matrix", format.name),
                want.unwrap_or(usize::MAX),
                data.len(),
            ));
        }
        Ok(Matrix { format, rows, cols, data, interleaved: None, tops: unknown(format, rows) })
    }

    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        self.cols / self.format.block * self.format.bytes
    }

    /// The stored bytes of rows `range`.
    pub fn rows_bytes(&self, range: Range<usize>) -> &[u8] {
        let n = self.row_bytes();
        &self.data[range.start * n..range.end * n]
    }

    /// All stored bytes.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// Rows `range` as a matrix of its own.
    ///
    /// # Panics
    /// If the range leaves this matrix.
    pub fn part(&self, range: Range<usize>) -> Matrix {
        let n = self.row_bytes();
        let data = self.data.slice(range.start * n..range.end * n).expect("rows of a matrix");
        let tops = unknown(self.format, range.len());
        Matrix { format: self.format, rows: range.len(), cols: self.cols, data, interleaved: None, tops }
    }

    /// The values themselves, `[rows, cols]`, where they are stored as aligned native `f32`.
    pub fn floats(&self) -> Option<&[f32]> {
        if self.format.id == 0 && cfg!(target_endian = "little") {
            bytemuck::try_cast_slice(&self.data).ok()
        } else {
            None
        }
    }

    /// The values, `[rows, cols]`, where they are stored as aligned 16-bit floats in this machine's byte order.
    pub fn floats16(&self) -> Option<Floats16<'_>> {
        let kind = match self.format.id {
            1 => Floats16::F16,
            30 => Floats16::Bf16,
            _ => return None,
        };
        if cfg!(target_endian = "little") { bytemuck::try_cast_slice(&self.data).ok().map(kind) } else { None }
    }

    /// For each row of 16-bit floats a number in which kernels remember its largest exponent; 0 at first.
    pub(crate) fn tops(&self) -> &[AtomicU8] {
        &self.tops
    }

    /// Decodes columns `cols` of row `row` into `out`. `cols` starts and ends on block edges.
    ///
    /// # Panics
    /// If `cols` does not lie on block edges or `out` has another length.
    pub fn decode(&self, row: usize, cols: Range<usize>, out: &mut [f32]) {
        let Format { block, bytes, decode: Some(decode), .. } = self.format else { unreachable!("checked in new") };
        let on_edges = cols.start.is_multiple_of(*block) && cols.end.is_multiple_of(*block);
        assert!(on_edges && cols.len() == out.len(), "columns on block edges");
        let start = row * self.row_bytes();
        decode(&self.data[start + cols.start / block * bytes..start + cols.end / block * bytes], out);
    }
}

fn unknown(format: &Format, rows: usize) -> Arc<[AtomicU8]> {
    let count = if matches!(format.id, 1 | 30) { rows } else { 0 };
    (0..count).map(|_| AtomicU8::new(0)).collect()
}

/// Stores `values`, `[rows, cols]` row-major, in `format`.
///
/// # Errors
/// `Unsupported` if this build cannot write the format; `Mismatch` if `cols` is no multiple of the block or there are
/// not `rows · cols` values.
pub fn encode_matrix(format: &'static Format, rows: usize, cols: usize, values: &[f32]) -> Result<Matrix> {
    let Some(encode) = format.encode else {
        return Err(Error::unsupported("tensor format to write", format.name));
    };
    if rows.checked_mul(cols) != Some(values.len()) {
        return Err(Error::mismatch(
            format!("values of a {rows} × {cols} matrix"),
            rows.saturating_mul(cols),
            values.len(),
        ));
    }
    let Some(row_bytes) = format.row_bytes(cols) else {
        return Err(Error::mismatch("matrix columns", format!("a multiple of {}", format.block), cols));
    };
    let mut bytes = vec![0; rows * row_bytes];
    encode(values, &mut bytes);
    Matrix::new(format, rows, cols, Bytes::from(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_is_encoded_row_by_row_and_read_in_parts() {
        let format = Format::by_name("q8_0").unwrap();
        let values: Vec<f32> = (0..3 * 64).map(|i| (i % 64) as f32 - 32.0 + (i / 64) as f32).collect();
        let matrix = encode_matrix(format, 3, 64, &values).unwrap();
        assert_eq!(matrix.row_bytes(), 68);
        assert_eq!(matrix.data().len(), 204);
        let mut row = [0.0; 32];
        matrix.decode(2, 32..64, &mut row);
        for (got, want) in row.iter().zip(&values[2 * 64 + 32..]) {
            assert!((got - want).abs() < 0.2, "{got} for {want}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let q8 = Format::by_name("Q8_0").unwrap();
        assert!(matches!(encode_matrix(q8, 1, 33, &[0.0; 33]), Err(Error::Mismatch { .. })));
        assert!(matches!(encode_matrix(q8, 2, 32, &[0.0; 32]), Err(Error::Mismatch { .. })));
        assert!(matches!(encode_matrix(q8, usize::MAX, 32, &[0.0; 32]), Err(Error::Mismatch { .. })));
        let q2_k = Format::by_name("Q2_K").unwrap();
        assert!(matches!(encode_matrix(q2_k, 1, 256, &[0.0; 256]), Err(Error::Unsupported { .. })));
        let q8_k = Format::by_name("Q8_K").unwrap();
        let refused = Matrix::new(q8_k, 1, 256, Bytes::from(vec![0; 292])).err().unwrap();
        assert_eq!(refused.to_string(), "unsupported tensor format: Q8_K");
    }
}
