//! Plain floats: one value a block.
//!
//! F16 is converted to f32 by integer arithmetic and selects, which compilers vectorise. The results equal those of the
//! crate `half` on every input.

use half::{bf16, f16};

/// The value of f16 bits; a signalling NaN becomes quiet.
#[inline(always)]
pub(crate) fn f16_to_f32(bits: u16) -> f32 {
    let sign = (bits as u32 & 0x8000) << 16;
    let magnitude = (bits as u32 & 0x7fff) << 13;
    // Exponents move from bias 15 to bias 127. A subnormal is its mantissa read as a fraction of 2^-14, less 2^-14.
    let normal = magnitude + (112 << 23);
    let subnormal = (f32::from_bits(magnitude | 113 << 23) - f32::from_bits(113 << 23)).to_bits();
    let special = magnitude + (224 << 23) + if magnitude > 0x7c00 << 13 { (!magnitude) & 0x40_0000 } else { 0 };
    let finite = if magnitude < 0x400 << 13 { subnormal } else { normal };
    f32::from_bits(sign | if magnitude < 0x7c00 << 13 { finite } else { special })
}

/// The f16 value at byte `at` of a block.
#[inline(always)]
pub(crate) fn f16_at(block: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// The nearest f16, ties to even, as bytes in file order.
#[inline(always)]
pub(crate) fn to_f16(x: f32) -> [u8; 2] {
    f16::from_f32(x).to_le_bytes()
}

/// F32.
#[inline(always)]
pub(crate) fn f32(b: &[u8; 4], y: &mut [f32; 1]) {
    y[0] = f32::from_le_bytes(*b);
}

/// F16.
#[inline(always)]
pub(crate) fn f16(b: &[u8; 2], y: &mut [f32; 1]) {
    y[0] = f16_to_f32(u16::from_le_bytes(*b));
}

/// The value of bf16 bits.
#[inline(always)]
pub(crate) fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits((bits as u32) << 16)
}

/// BF16: the upper half of an f32.
#[inline(always)]
pub(crate) fn bf16(b: &[u8; 2], y: &mut [f32; 1]) {
    y[0] = bf16_to_f32(u16::from_le_bytes(*b));
}

/// The bits of the nearest bf16, ties to even; a NaN stays a NaN.
#[inline(always)]
pub(crate) fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    if x.is_nan() { (bits >> 16) as u16 | 0x40 } else { rounded }
}

/// The bits of the nearest bf16 values.
pub(crate) fn narrow_bf16(x: &[f32], out: &mut [u16]) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = to_bf16(x);
    }
}

/// Bf16 bits to f32.
pub(crate) fn widen_bf16(x: &[u16], out: &mut [f32]) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = f32::from_bits((x as u32) << 16);
    }
}

/// F32.
pub(crate) fn encode_f32(x: &[f32; 1], b: &mut [u8; 4]) {
    *b = x[0].to_le_bytes();
}

/// F16, ties to even.
pub(crate) fn encode_f16(x: &[f32; 1], b: &mut [u8; 2]) {
    *b = to_f16(x[0]);
}

/// BF16, ties to even.
pub(crate) fn encode_bf16(x: &[f32; 1], b: &mut [u8; 2]) {
    *b = bf16::from_f32(x[0]).to_le_bytes();
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_f16_has_the_value_that_the_crate_half_gives_it() {
        for bits in 0..=u16::MAX {
            assert_eq!(super::f16_to_f32(bits).to_bits(), half::f16::from_bits(bits).to_f32().to_bits(), "{bits:#06x}");
        }
    }
}
