//! 4-bit codes that look a value up in a table, close together around zero.
//!
//! | format | values | bytes | layout | value |
//! | --- | --- | --- | --- | --- |
//! | IQ4_NL | 32 | 18 | d: f16, 16 bytes of nibbles | d · table\[q\] |
//! | IQ4_XS | 256 | 136 | d: f16, 8 × upper 2 bits and 8 × lower 4 bits of scales, 128 bytes of nibbles | d · (s − 32) · table\[q\] |
//!
//! Each 16 bytes hold 32 values, the lower nibbles first.

use super::float::half_at;

/// The table, plus 128.
const VALUES: [u8; 16] = [1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241];

/// `table[nibble]` for the 32 nibbles of 16 bytes. Adds the table's steps one after another up to the index, since
/// compilers turn that into vector code and a look-up not.
#[inline(always)]
pub(crate) fn look_up(table: &[u8; 16], packed: &[u8], q: &mut [u8]) {
    let mut nibbles = [0; 32];
    for j in 0..16 {
        nibbles[j] = packed[j] & 15;
        nibbles[j + 16] = packed[j] >> 4;
    }
    let mut found = [table[0]; 32];
    for i in 1..16 {
        let step = table[i].wrapping_sub(table[i - 1]);
        for j in 0..32 {
            found[j] = found[j].wrapping_add(if nibbles[j] >= i as u8 { step } else { 0 });
        }
    }
    q.copy_from_slice(&found);
}

/// IQ4_NL; zero is 128.
#[inline(always)]
pub(crate) fn iq4_nl(b: &[u8; 18], q: &mut [u8; 32], d: &mut [f32; 1], _: &mut [f32; 0]) {
    *d = [half_at(b, 0)];
    look_up(&VALUES, &b[2..], q);
}

/// IQ4_XS; zero is 128.
#[inline(always)]
pub(crate) fn iq4_xs(b: &[u8; 136], q: &mut [u8; 256], scales: &mut [f32; 8], _: &mut [f32; 0]) {
    let (d, high) = (half_at(b, 0), u16::from_le_bytes([b[2], b[3]]));
    for i in 0..8 {
        let low = b[4 + i / 2] >> (i % 2 * 4) & 15;
        scales[i] = d * ((low as u16 | (high >> (2 * i) & 3) << 4) as i32 - 32) as f32;
        look_up(&VALUES, &b[8 + 16 * i..24 + 16 * i], &mut q[32 * i..32 * i + 32]);
    }
}
