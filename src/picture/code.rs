//! Bytes to codes, and codes to PNG and to text.

use super::parts::split;
use crate::bytes::Limits;
use crate::error::{Error, Result};
#[cfg(feature = "pictures")]
use image::{GrayImage, ImageFormat, Luma};
use qrcodegen::{QrCode, QrCodeEcc};
#[cfg(feature = "pictures")]
use std::io::Cursor;
use std::prelude::v1::*;

/// Most bytes of one code: version 40, the lowest level of error correction.
pub const MOST: usize = 2953;
/// Light modules around a code, as its standard asks for.
const QUIET: i32 = 4;
/// The side of a picture in pixels that the size of a module aims at, and the bounds of that size. A code of the largest
/// version is 1,480 pixels wide: each module has 5 or more pixels on a screen that shows it scaled to 1,000.
const SIDE: u32 = 1000;
const MODULE: std::ops::RangeInclusive<u32> = 8..=16;

/// A QR code.
pub struct Code(QrCode);

/// The code of a file, or the codes of its set. Each has the smallest version that holds its bytes, and the highest level of
/// error correction of that version that does.
///
/// # Errors
/// `Invalid` for an empty file, `Limit` for one that takes more codes than `limits` allow.
pub fn codes(file: &[u8], limits: &Limits) -> Result<Vec<Code>> {
    let code = |payload: Vec<u8>| {
        let code = QrCode::encode_binary(&payload, QrCodeEcc::Low);
        code.map(Code).map_err(|_| Error::limit("bytes of a QR code", payload.len() as u64, MOST as u64))
    };
    split(file, limits)?.into_iter().map(code).collect()
}

impl Code {
    /// The version, 1 to 40.
    pub fn version(&self) -> u8 {
        self.0.version().value()
    }

    /// The level of error correction: `L`, `M`, `Q` or `H`.
    pub fn correction(&self) -> &'static str {
        match self.0.error_correction_level() {
            QrCodeEcc::Low => "L",
            QrCodeEcc::Medium => "M",
            QrCodeEcc::Quartile => "Q",
            QrCodeEcc::High => "H",
        }
    }

    /// Modules of a side, those of the quiet zone included.
    pub fn side(&self) -> u32 {
        self.0.size().unsigned_abs().saturating_add(QUIET.unsigned_abs().saturating_mul(2))
    }

    /// Pixels of a module in [`Code::png`].
    pub fn module(&self) -> u32 {
        SIDE.checked_div(self.side()).unwrap_or_default().clamp(*MODULE.start(), *MODULE.end())
    }

    /// Whether a module is dark, counted from the corner of the quiet zone.
    fn dark(&self, x: u32, y: u32) -> bool {
        let at = |n: u32| i32::try_from(n).map_or(-1, |n| n.saturating_sub(QUIET));
        self.0.get_module(at(x), at(y))
    }

    /// Its modules, row by row without the quiet zone: whether each is dark.
    pub fn modules(&self) -> impl Iterator<Item = bool> {
        let side = self.0.size();
        (0..side).flat_map(move |y| (0..side).map(move |x| self.0.get_module(x, y)))
    }

    /// A PNG file.
    ///
    /// # Errors
    /// `Memory` if there is not enough.
    #[cfg(feature = "pictures")]
    pub fn png(&self) -> Result<Vec<u8>> {
        let module = self.module();
        let side = self.side().saturating_mul(module);
        let of = |n: u32| n.checked_div(module).unwrap_or_default();
        let picture = GrayImage::from_fn(side, side, |x, y| Luma([if self.dark(of(x), of(y)) { 0 } else { 255 }]));
        let mut file = Cursor::new(Vec::new());
        let written = picture.write_to(&mut file, ImageFormat::Png);
        written.map_err(|_| Error::memory("a picture", u64::from(side).saturating_pow(2)))?;
        Ok(file.into_inner())
    }

    /// Columns and lines of [`Code::text`].
    pub fn cells(&self) -> [u32; 2] {
        [self.side(), self.side().div_ceil(2)]
    }

    /// The code for a terminal: two modules a character, one above the other, black on white whatever its colours are.
    pub fn text(&self) -> String {
        let side = self.side();
        let mut out = String::new();
        for y in (0..side).step_by(2) {
            out += "\x1b[38;5;16;48;5;231m";
            out.extend((0..side).map(|x| match [self.dark(x, y), self.dark(x, y.saturating_add(1))] {
                [false, false] => ' ',
                [true, false] => '▀',
                [false, true] => '▄',
                [true, true] => '█',
            }));
            out += "\x1b[0m\n";
        }
        out
    }
}
