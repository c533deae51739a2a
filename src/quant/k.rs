//! Blocks of 256 values in sub-blocks of 16 or 32, whose scales are themselves quantised.
//!
//! | format | bytes | layout | value |
//! | --- | --- | --- | --- |
//! | Q2_K | 84 | 16 × (4-bit scale, 4-bit min), 64 bytes of 2 bits, d, dmin: f16 | d · s · q − dmin · m |
//! | Q3_K | 110 | 32 bytes of third bits, 64 bytes of 2 bits, 16 × 6-bit scale, d: f16 | d · (s − 32) · (q − 4) |
//! | Q4_K | 144 | d, dmin: f16, 8 × (6-bit scale, 6-bit min), 128 bytes of nibbles | d · s · q − dmin · m |
//! | Q5_K | 176 | as Q4_K, with 32 bytes of fifth bits before the nibbles | d · s · q − dmin · m |
//! | Q6_K | 210 | 128 bytes of nibbles, 64 bytes of upper 2 bits, 16 × signed scale, d: f16 | d · s · (q − 32) |
//!
//! Codes are packed across the block: the first 32 values take the lowest bits of 32 consecutive bytes, the next 32
//! the bits above. Every product of d and a scale is exact in f32, so a value is rounded as ggml rounds it.

use super::float::f16_at;
use super::legacy::nibbles;

/// 2-bit codes: each 32 bytes hold 128 values.
#[inline(always)]
fn pairs(packed: &[u8], q: &mut [u8; 256]) {
    for (part, q) in packed.chunks_exact(32).zip(q.chunks_exact_mut(128)) {
        for (j, q) in q.chunks_exact_mut(32).enumerate() {
            for l in 0..32 {
                q[l] = part[l] >> (2 * j) & 3;
            }
        }
    }
}

/// Q2_K.
#[inline(always)]
pub(crate) fn q2_k(b: &[u8; 84], q: &mut [u8; 256], scales: &mut [f32; 16], mins: &mut [f32; 16]) {
    let (d, dmin) = (f16_at(b, 80), f16_at(b, 82));
    for i in 0..16 {
        scales[i] = d * (b[i] & 15) as f32;
        mins[i] = -(dmin * (b[i] >> 4) as f32);
    }
    pairs(&b[16..80], q);
}

/// Q3_K; zero is 4.
#[inline(always)]
pub(crate) fn q3_k(b: &[u8; 110], q: &mut [u8; 256], scales: &mut [f32; 16], _: &mut [f32; 0]) {
    let (d, packed) = (f16_at(b, 108), &b[96..108]);
    for i in 0..16 {
        // The lower 4 bits of 16 scales in 8 bytes, their upper 2 bits in 4 bytes.
        let low = packed[i % 8] >> (i / 8 * 4) & 15;
        let high = packed[8 + i % 4] >> (i / 4 * 2) & 3;
        scales[i] = d * ((low | high << 4) as i32 - 32) as f32;
    }
    pairs(&b[32..96], q);
    for (j, q) in q.chunks_exact_mut(32).enumerate() {
        for l in 0..32 {
            q[l] |= (b[l] >> j & 1) << 2;
        }
    }
}

/// The scales and mins of Q4_K and Q5_K: 6 bits each in 12 bytes. The first four of each lie in the lower bits of 4 bytes; the
/// last four take nibbles of the last 4 bytes and the upper 2 bits of the first 8.
#[inline(always)]
fn scales_and_mins(b: &[u8], scales: &mut [f32; 8], mins: &mut [f32; 8]) {
    let (d, dmin, packed) = (f16_at(b, 0), f16_at(b, 2), &b[4..16]);
    for i in 0..4 {
        let [s, m, both] = [packed[i], packed[i + 4], packed[i + 8]];
        scales[i] = d * (s & 63) as f32;
        mins[i] = -(dmin * (m & 63) as f32);
        scales[i + 4] = d * (both & 15 | s >> 6 << 4) as f32;
        mins[i + 4] = -(dmin * (both >> 4 | m >> 6 << 4) as f32);
    }
}

/// Q4_K.
#[inline(always)]
pub(crate) fn q4_k(b: &[u8; 144], q: &mut [u8; 256], scales: &mut [f32; 8], mins: &mut [f32; 8]) {
    scales_and_mins(b, scales, mins);
    nibbles::<32>(&b[16..], q);
}

/// Q5_K.
#[inline(always)]
pub(crate) fn q5_k(b: &[u8; 176], q: &mut [u8; 256], scales: &mut [f32; 8], mins: &mut [f32; 8]) {
    scales_and_mins(b, scales, mins);
    nibbles::<32>(&b[48..], q);
    for (j, q) in q.chunks_exact_mut(32).enumerate() {
        for l in 0..32 {
            q[l] |= (b[16 + l] >> j & 1) << 4;
        }
    }
}

/// Q6_K; zero is 32.
#[inline(always)]
pub(crate) fn q6_k(b: &[u8; 210], q: &mut [u8; 256], scales: &mut [f32; 16], _: &mut [f32; 0]) {
    let d = f16_at(b, 208);
    for i in 0..16 {
        scales[i] = d * b[192 + i] as i8 as f32;
    }
    let mut high = [0; 256];
    pairs(&b[128..192], &mut high);
    nibbles::<64>(&b[..128], q);
    for j in 0..256 {
        q[j] |= high[j] << 4;
    }
}
