//! Block formats of matrices, as ggml defines them, and the frozen matrix that uses them.

use crate::bytes::Bytes;
use crate::error::{Error, Result};
use core::ops::Range;
use std::prelude::v1::*;

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
    pub decode: Option<fn(&[u8], &mut [f32])>,
    /// Values to whole blocks, byte for byte as ggml's reference.
    pub encode: Option<fn(&[f32], &mut [u8])>,
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
}

impl Matrix {
    /// # Errors
    /// `Unsupported` if the format cannot be decoded; `Mismatch` if `cols` is no multiple of the block or the
    /// bytes are not `rows · cols` values.
    pub fn new(format: &'static Format, rows: usize, cols: usize, data: Bytes) -> Result<Self> {
        if format.decode.is_none() {
            return Err(Error::unsupported("tensor format", format.name));
        }
        if cols % format.block != 0 {
            return Err(Error::mismatch("matrix columns", format!("a multiple of {}", format.block), cols));
        }
        let want = (cols / format.block).checked_mul(format.bytes).and_then(|b| b.checked_mul(rows));
        if want != Some(data.len()) {
            return Err(Error::mismatch(
                format!("bytes of a {rows} × {cols} {} matrix", format.name),
                want.unwrap_or(usize::MAX),
                data.len(),
            ));
        }
        Ok(Matrix { format, rows, cols, data })
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

    /// Decodes columns `cols` of row `row` into `out`. `cols` starts and ends on block edges.
    ///
    /// # Panics
    /// If `cols` does not lie on block edges or `out` has another length.
    pub fn decode(&self, row: usize, cols: Range<usize>, out: &mut [f32]) {
        let Format { block, bytes, decode: Some(decode), .. } = self.format else { unreachable!("checked in new") };
        assert!(cols.start % block == 0 && cols.end % block == 0 && cols.len() == out.len(), "columns on block edges");
        let start = row * self.row_bytes();
        decode(&self.data[start + cols.start / block * bytes..start + cols.end / block * bytes], out);
    }
}

/// Every format this build knows.
pub static FORMATS: &[Format] = &[];
