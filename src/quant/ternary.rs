//! One or two bits a value: signs, and multiples −1, 0, 1 (and 2) of one scale.
//!
//! | format | values | bytes | layout | value |
//! | --- | --- | --- | --- | --- |
//! | Q1_0 | 128 | 18 | d: f16, 16 bytes of signs | ±d, + where the bit is set |
//! | Q2_0 | 64 | 18 | d: f16, 16 bytes of 2 bits | (q − 1) · d |
//! | TQ1_0 | 256 | 54 | 48 bytes of 5 ternary digits, 4 bytes of 4, d: f16 | (q − 1) · d |
//! | TQ2_0 | 256 | 66 | 64 bytes of 2 bits, d: f16 | (q − 1) · d |
//!
//! A byte of TQ1_0 is a fraction n / 256 in base 3, rounded up: multiplied by 3, its integer part is the first digit.

use super::float::f16_at;

/// Q1_0; codes 0 and 2 around zero 1.
#[inline(always)]
pub(crate) fn q1_0(b: &[u8; 18], q: &mut [u8; 128], d: &mut [f32; 4], _: &mut [f32; 0]) {
    *d = [f16_at(b, 0); 4];
    for j in 0..128 {
        q[j] = if b[2 + j / 8] & 1 << (j % 8) != 0 { 2 } else { 0 };
    }
}

/// Q2_0; zero is 1.
#[inline(always)]
pub(crate) fn q2_0(b: &[u8; 18], q: &mut [u8; 64], d: &mut [f32; 2], _: &mut [f32; 0]) {
    *d = [f16_at(b, 0); 2];
    let (groups, _) = q.as_chunks_mut();
    for i in 0..8 {
        // Eight codes are spread in three steps: bytes, nibbles, pairs of bits.
        let packed = u16::from_le_bytes([b[2 + 2 * i], b[3 + 2 * i]]) as u64;
        let bytes = (packed | packed << 24) & 0x0000_00ff_0000_00ff;
        let nibbles = (bytes | bytes << 12) & 0x000f_000f_000f_000f;
        groups[i] = ((nibbles | nibbles << 6) & 0x0303_0303_0303_0303).to_le_bytes();
    }
}

/// TQ1_0; zero is 1.
#[inline(always)]
pub(crate) fn tq1_0(b: &[u8; 54], q: &mut [u8; 256], d: &mut [f32; 8], _: &mut [f32; 0]) {
    *d = [f16_at(b, 52); 8];
    digits::<32>(&b[..32], &mut q[..160]);
    digits::<16>(&b[32..48], &mut q[160..240]);
    digits::<4>(&b[48..52], &mut q[240..]);
}

/// Ternary digits: the first digit of `RUN` bytes, then their second, and so on until `q` is full.
#[inline(always)]
fn digits<const RUN: usize>(packed: &[u8], q: &mut [u8]) {
    let mut power = 1u8;
    for q in q.chunks_exact_mut(RUN) {
        for l in 0..RUN {
            q[l] = ((packed[l].wrapping_mul(power) as u16 * 3) >> 8) as u8;
        }
        power = power.wrapping_mul(3);
    }
}

/// TQ2_0; zero is 1.
#[inline(always)]
pub(crate) fn tq2_0(b: &[u8; 66], q: &mut [u8; 256], d: &mut [f32; 8], _: &mut [f32; 0]) {
    *d = [f16_at(b, 64); 8];
    for (part, q) in b[..64].chunks_exact(32).zip(q.chunks_exact_mut(128)) {
        for (j, q) in q.chunks_exact_mut(32).enumerate() {
            for l in 0..32 {
                q[l] = part[l] >> (2 * j) & 3;
            }
        }
    }
}
