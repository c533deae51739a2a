//! 4-bit floats (sign, 2 bits of exponent, 1 of mantissa) with a scale that is a float of 8 bits.
//!
//! | format | values | bytes | layout |
//! | --- | --- | --- | --- |
//! | MXFP4 | 32 | 17 | a power of two for all values, 16 bytes of nibbles, the lower ones first |
//! | NVFP4 | 64 | 36 | 4 scales of 4 bits exponent and 3 bits mantissa, then for each 16 values 8 bytes of nibbles |
//!
//! The table holds twice the values (0, 1, 2, 3, 4, 6, 8, 12 and their negatives), so the scales are halved.

use super::iq::look_up;
use super::legacy::nibbles;

/// Twice the value, plus 12.
const VALUES: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

/// Half of 2^(e − 127); the two smallest are subnormal.
#[inline(always)]
fn half_power(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 0x20_0000 << e } else { (e as u32 - 1) << 23 })
}

/// Half of an unsigned float with 4 bits of exponent, bias 7, and 3 bits of mantissa. 0x7f would be a NaN and is 0.
#[inline(always)]
fn half_scale(s: u8) -> f32 {
    let (exponent, mantissa) = (s >> 3 & 15, s & 7);
    if s == 0x7f {
        0.0
    } else if exponent == 0 {
        mantissa as f32 / 1024.0
    } else {
        f32::from_bits((exponent as u32 + 119) << 23 | (mantissa as u32) << 20)
    }
}

/// MXFP4; zero is 12.
#[inline(always)]
pub(crate) fn mxfp4(b: &[u8; 17], q: &mut [u8; 32], d: &mut [f32; 1], _: &mut [f32; 0]) {
    *d = [half_power(b[0])];
    nibbles::<16>(&b[1..], q);
    look_up(&VALUES, q);
}

/// NVFP4; zero is 12.
#[inline(always)]
pub(crate) fn nvfp4(b: &[u8; 36], q: &mut [u8; 64], scales: &mut [f32; 4], _: &mut [f32; 0]) {
    for i in 0..4 {
        scales[i] = half_scale(b[i]);
    }
    nibbles::<8>(&b[4..], q);
    look_up(&VALUES, q);
}
