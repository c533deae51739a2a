//! 4-bit codes that look a value up in a table, close together around zero.
//!
//! | format | values | bytes | layout | value |
//! | --- | --- | --- | --- | --- |
//! | IQ4_NL | 32 | 18 | d: f16, 16 bytes of nibbles | d · table\[q\] |
//! | IQ4_XS | 256 | 136 | d: f16, 8 × upper 2 bits and 8 × lower 4 bits of scales, 128 bytes of nibbles | d · (s − 32) · table\[q\] |
//!
//! Each 16 bytes hold 32 values, the lower nibbles first.

use super::float::f16_at;
use super::legacy::nibbles;

/// The table, plus 128.
pub(crate) const VALUES: [u8; 16] = [1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241];

/// Replaces each 4-bit code by its value in `table`. Adds up the steps of the table to the code, since
/// compilers vectorise this and not a look-up.
#[inline(always)]
pub(super) fn look_up(table: &[u8; 16], q: &mut [u8]) {
    for q in q {
        let mut found = table[0];
        for i in 1..16 {
            let step = table[i].wrapping_sub(table[i - 1]);
            found = found.wrapping_add(if *q >= i as u8 { step } else { 0 });
        }
        *q = found;
    }
}

/// IQ4_NL; zero is 128.
#[inline(always)]
pub(crate) fn iq4_nl(b: &[u8; 18], q: &mut [u8; 32], d: &mut [f32; 1], _: &mut [f32; 0]) {
    *d = [f16_at(b, 0)];
    nibbles::<16>(&b[2..], q);
    look_up(&VALUES, q);
}

/// IQ4_XS; zero is 128.
#[inline(always)]
pub(crate) fn iq4_xs(b: &[u8; 136], q: &mut [u8; 256], scales: &mut [f32; 8], _: &mut [f32; 0]) {
    let (d, high) = (f16_at(b, 0), u16::from_le_bytes([b[2], b[3]]));
    for i in 0..8 {
        let low = b[4 + i / 2] >> (i % 2 * 4) & 15;
        scales[i] = d * ((low as u16 | (high >> (2 * i) & 3) << 4) as i32 - 32) as f32;
    }
    nibbles::<16>(&b[8..], q);
    look_up(&VALUES, q);
}
