//! Blocks of 32 values with a scale each and, in the `_1` formats, a minimum.
//!
//! | format | bytes | layout | value |
//! | --- | --- | --- | --- |
//! | Q4_0 | 18 | d: f16, 16 bytes of nibbles | (q − 8) · d |
//! | Q4_1 | 20 | d, m: f16, 16 bytes of nibbles | q · d + m |
//! | Q5_0 | 22 | d: f16, 32 fifth bits, 16 bytes of nibbles | (q − 16) · d |
//! | Q5_1 | 24 | d, m: f16, 32 fifth bits, 16 bytes of nibbles | q · d + m |
//! | Q8_0 | 34 | d: f16, 32 signed bytes | q · d |
//!
//! The low nibble of byte j is value j, the high nibble value j + 16; bit j of the fifth bits belongs to value j.

use super::fit::{WEIGHTED, ranged, symmetric, weigh};
use super::float::{f16_at, to_f16};

/// Unpacks 4-bit codes: `RUN` bytes hold `RUN` codes in their lower nibbles and the next `RUN` in the upper ones.
#[inline(always)]
pub(super) fn nibbles<const RUN: usize>(packed: &[u8], q: &mut [u8]) {
    for (part, q) in packed.chunks_exact(RUN).zip(q.chunks_exact_mut(2 * RUN)) {
        for l in 0..RUN {
            q[l] = part[l] & 15;
            q[l + RUN] = part[l] >> 4;
        }
    }
}

/// Unpacks 5-bit codes: 32 fifth bits, then 16 bytes of nibbles.
#[inline(always)]
fn five_bits(packed: &[u8], q: &mut [u8; 32]) {
    nibbles::<16>(&packed[4..], q);
    for j in 0..32 {
        // A mask instead of a shift by j: vector units cannot shift bytes by different counts.
        q[j] |= if packed[j / 8] & 1 << (j % 8) != 0 { 16 } else { 0 };
    }
}

/// Q4_0; zero is 8.
#[inline(always)]
pub(crate) fn q4_0(b: &[u8; 18], q: &mut [u8; 32], d: &mut [f32; 1], _: &mut [f32; 0]) {
    *d = [f16_at(b, 0)];
    nibbles::<16>(&b[2..], q);
}

/// Q4_1.
#[inline(always)]
pub(crate) fn q4_1(b: &[u8; 20], q: &mut [u8; 32], d: &mut [f32; 1], m: &mut [f32; 1]) {
    (*d, *m) = ([f16_at(b, 0)], [f16_at(b, 2)]);
    nibbles::<16>(&b[4..], q);
}

/// Q5_0; zero is 16.
#[inline(always)]
pub(crate) fn q5_0(b: &[u8; 22], q: &mut [u8; 32], d: &mut [f32; 1], _: &mut [f32; 0]) {
    *d = [f16_at(b, 0)];
    five_bits(&b[2..], q);
}

/// Q5_1.
#[inline(always)]
pub(crate) fn q5_1(b: &[u8; 24], q: &mut [u8; 32], d: &mut [f32; 1], m: &mut [f32; 1]) {
    (*d, *m) = ([f16_at(b, 0)], [f16_at(b, 2)]);
    five_bits(&b[4..], q);
}

/// Q8_0; zero is 128.
#[inline(always)]
pub(crate) fn q8_0(b: &[u8; 34], q: &mut [u8; 32], d: &mut [f32; 1], _: &mut [f32; 0]) {
    *d = [f16_at(b, 0)];
    for j in 0..32 {
        q[j] = b[2 + j] ^ 0x80;
    }
}

/// The value of largest magnitude with its sign; the first one among equals.
fn extreme(x: &[f32; 32]) -> f32 {
    x.iter().fold(0.0, |most: f32, &v| if v.abs() > most.abs() { v } else { most })
}

/// The smallest and the largest value.
fn range(x: &[f32; 32]) -> (f32, f32) {
    x.iter()
        .fold((f32::MAX, f32::MIN), |(low, high), &v| (if v < low { v } else { low }, if v > high { v } else { high }))
}

/// 1 / d, or 0 where there is no scale.
fn inverse(d: f32) -> f32 {
    if d != 0.0 { 1.0 / d } else { 0.0 }
}

fn pack_nibbles(q: &[u8; 32], b: &mut [u8]) {
    for j in 0..16 {
        b[j] = q[j] & 15 | q[j + 16] << 4;
    }
}

fn pack_fifth_bits(q: &[u8; 32], b: &mut [u8]) {
    let bits = (0..32).fold(0u32, |bits, j| bits | (q[j] as u32 >> 4 & 1) << j);
    b.copy_from_slice(&bits.to_le_bytes());
}

/// Q4_0: the value of largest magnitude becomes code 0, and the rest are rounded to the nearest step.
pub(crate) fn encode_q4_0(x: &[f32; 32], b: &mut [u8; 18]) {
    let d = extreme(x) / -8.0;
    let scale = inverse(d);
    b[..2].copy_from_slice(&to_f16(d));
    pack_nibbles(&x.map(|v| ((v * scale + 8.5) as u8).min(15)), &mut b[2..]);
}

/// Q4_1: steps from the smallest to the largest value.
pub(crate) fn encode_q4_1(x: &[f32; 32], b: &mut [u8; 20]) {
    let (low, high) = range(x);
    let d = (high - low) / 15.0;
    let scale = inverse(d);
    b[..2].copy_from_slice(&to_f16(d));
    b[2..4].copy_from_slice(&to_f16(low));
    pack_nibbles(&x.map(|v| (((v - low) * scale + 0.5) as u8).min(15)), &mut b[4..]);
}

/// Q5_0: the value of largest magnitude becomes code 0, and the rest are rounded to the nearest step.
pub(crate) fn encode_q5_0(x: &[f32; 32], b: &mut [u8; 22]) {
    let d = extreme(x) / -16.0;
    let scale = inverse(d);
    let q = x.map(|v| ((v * scale + 16.5) as u8).min(31));
    b[..2].copy_from_slice(&to_f16(d));
    pack_fifth_bits(&q, &mut b[2..6]);
    pack_nibbles(&q, &mut b[6..]);
}

/// Q5_1: steps from the smallest to the largest value.
pub(crate) fn encode_q5_1(x: &[f32; 32], b: &mut [u8; 24]) {
    let (low, high) = range(x);
    let d = (high - low) / 31.0;
    let scale = inverse(d);
    let q = x.map(|v| (((v - low) * scale + 0.5) as u8).min(31));
    b[..2].copy_from_slice(&to_f16(d));
    b[2..4].copy_from_slice(&to_f16(low));
    pack_fifth_bits(&q, &mut b[4..8]);
    pack_nibbles(&q, &mut b[8..]);
}

/// Q8_0: 127 steps to the largest magnitude, halves rounded away from zero.
pub(crate) fn encode_q8_0(x: &[f32; 32], b: &mut [u8; 34]) {
    let d = extreme(x).abs() / 127.0;
    let scale = inverse(d);
    b[..2].copy_from_slice(&to_f16(d));
    for j in 0..32 {
        b[2 + j] = libm::roundf(x[j] * scale) as i8 as u8;
    }
}

/// Q4_0 with weights. `mean`: of the squares of the row.
pub(crate) fn weighted_q4_0(x: &[f32; 32], importance: &[f32; 32], mean: f32, b: &mut [u8; 18]) {
    let mut q = [0; 32];
    let d = symmetric(8, x, Some(&weigh(mean, x, importance)), &mut q);
    b[..2].copy_from_slice(&to_f16(d));
    pack_nibbles(&q, &mut b[2..]);
}

/// Q4_1 with weights.
pub(crate) fn weighted_q4_1(x: &[f32; 32], importance: &[f32; 32], mean: f32, b: &mut [u8; 20]) {
    let mut q = [0; 32];
    let (d, min) = ranged(15, x, &weigh(mean, x, importance), &mut q, &WEIGHTED);
    b[..2].copy_from_slice(&to_f16(d));
    b[2..4].copy_from_slice(&to_f16(-min));
    pack_nibbles(&q, &mut b[4..]);
}

/// Q5_0 with weights.
pub(crate) fn weighted_q5_0(x: &[f32; 32], importance: &[f32; 32], mean: f32, b: &mut [u8; 22]) {
    let mut q = [0; 32];
    let d = symmetric(16, x, Some(&weigh(mean, x, importance)), &mut q);
    b[..2].copy_from_slice(&to_f16(d));
    pack_fifth_bits(&q, &mut b[2..6]);
    pack_nibbles(&q, &mut b[6..]);
}

/// Q5_1 with weights.
pub(crate) fn weighted_q5_1(x: &[f32; 32], importance: &[f32; 32], mean: f32, b: &mut [u8; 24]) {
    let mut q = [0; 32];
    let (d, min) = ranged(31, x, &weigh(mean, x, importance), &mut q, &WEIGHTED);
    b[..2].copy_from_slice(&to_f16(d));
    b[2..4].copy_from_slice(&to_f16(-min));
    pack_fifth_bits(&q, &mut b[4..8]);
    pack_nibbles(&q, &mut b[8..]);
}
