//! Interleaved rows: the fields of 16 rows of a matrix alternate, so that 16 lanes read them at once.
//!
//! For each 16 rows and each block: the first field of row 0, of row 1, …, then the next field of each. A field is the f16
//! scale of a block or 4 bytes. The bytes are the same in another order: field `at` of block `b` begins at
//! `16 · (b · block bytes + at)`.

use super::Matrix;
use crate::bytes::Bytes;
use core::ops::Range;
use std::prelude::v1::*;

/// Formats that gain by it. The others are unpacked as fast as memory delivers them.
const FORMATS: [u32; 6] = [2, 3, 6, 7, 8, 20];

impl Matrix {
    /// Whether the rows of this matrix can be interleaved.
    pub fn interleaves(&self) -> bool {
        FORMATS.contains(&self.format.id) && self.rows.is_multiple_of(16) && self.rows > 0
    }

    /// The interleaved rows, if they were given with [`Matrix::with_interleaved`].
    pub fn interleaved(&self) -> Option<&[u8]> {
        self.interleaved.as_deref()
    }

    /// Writes rows `rows`, whole groups of 16, interleaved.
    ///
    /// # Panics
    /// If the matrix does not interleave, or `out` has another length than the rows.
    pub fn interleave(&self, rows: Range<usize>, out: &mut [u8]) {
        assert!(
            self.interleaves() && rows.start.is_multiple_of(16) && rows.len().is_multiple_of(16),
            "groups of 16 rows"
        );
        let (row_bytes, bytes) = (self.row_bytes(), self.format.bytes);
        assert!(out.len() == rows.len() * row_bytes, "bytes of interleaved rows");
        // The rest beyond a multiple of 4 is the f16 scale in front.
        let head = bytes % 4;
        for (first, out) in rows.step_by(16).zip(out.chunks_exact_mut(16 * row_bytes)) {
            let data = self.rows_bytes(first..first + 16);
            for (r, row) in data.chunks_exact(row_bytes).enumerate() {
                for (block, out) in row.chunks_exact(bytes).zip(out.chunks_exact_mut(16 * bytes)) {
                    out[r * head..][..head].copy_from_slice(&block[..head]);
                    for (field, out) in block[head..].chunks_exact(4).zip(out[16 * head..].chunks_exact_mut(64)) {
                        out[4 * r..][..4].copy_from_slice(field);
                    }
                }
            }
        }
    }

    /// The matrix with its rows interleaved as well.
    ///
    /// # Panics
    /// If the matrix does not interleave or `interleaved` has another length.
    pub fn with_interleaved(&self, interleaved: Bytes) -> Matrix {
        assert!(self.interleaves() && interleaved.len() == self.data.len(), "bytes of interleaved rows");
        Matrix { interleaved: Some(interleaved), ..self.clone() }
    }
}
