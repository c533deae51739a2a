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

use super::fit::{self, TINY, Tries, WEIGHTED, nearest, positive, ranged, symmetric, weigh};
use super::float::{f16_at, f16_to_f32, to_f16};
use super::legacy::nibbles;
use crate::math::sqrt;

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

/// What a value counts in a block of Q4_K or Q5_K that was given no importance: its size, and the mean one.
fn sizes(x: &[f32; 32]) -> [f32; 32] {
    let mean = sqrt(fit::squares(x) / 32.0);
    x.map(|v| mean + v.abs())
}

/// The head of a block of Q4_K or Q5_K, `d`, `dmin` and the scales, and its codes up to `top`.
fn encode_ranged(
    top: i32,
    tries: &Tries,
    x: &[f32; 256],
    importance: Option<&[f32; 256]>,
    head: &mut [u8],
    codes: &mut [u8; 256],
) {
    let (mut scales, mut mins, mut weight) = ([0.0; 8], [0.0; 8], [0.0; 8]);
    let mean = 2.0 * fit::squares(x) / 256.0;
    for j in 0..8 {
        let own = part::<32>(x, j);
        let (weights, tries) = match importance {
            Some(importance) => (weigh(mean, own, part(importance, j)), &WEIGHTED),
            None => (sizes(own), tries),
        };
        for w in weights {
            weight[j] += w;
        }
        (scales[j], mins[j]) = ranged(top, own, &weights, part_mut(codes, j), tries);
    }
    let (mut s, mut m) = ([0; 8], [0; 8]);
    let [d, dmin] = match importance {
        Some(_) => [positive(&scales, &weight, &mut s), positive(&mins, &weight, &mut m)],
        None => [rounded(&scales, &mut s), rounded(&mins, &mut m)],
    };
    let (d, dmin) = (to_f16(d), to_f16(dmin));
    head[..2].copy_from_slice(&d);
    head[2..4].copy_from_slice(&dmin);
    // Six bits each; codes are never larger.
    let (s, m) = (s.map(|s| s.min(63)), m.map(|m| m.min(63)));
    for i in 0..4 {
        head[4 + i] = s[i] | s[i + 4] >> 4 << 6;
        head[8 + i] = m[i] | m[i + 4] >> 4 << 6;
        head[12 + i] = s[i + 4] & 15 | (m[i + 4] & 15) << 4;
    }
    let value = |bytes: [u8; 2]| f16_to_f32(u16::from_le_bytes(bytes));
    for j in 0..8 {
        let scale = value(d) * f32::from(s[j]);
        // A scale of zero leaves the codes of the search, which say nothing then.
        if scale != 0.0 {
            let min = value(dmin) * f32::from(m[j]);
            *part_mut(codes, j) = part::<32>(x, j).map(|v| nearest((v + min) / scale).min(top).max(0) as u8);
        }
    }
}

/// Scales or minima in 63 steps to the largest one; the value of a step.
fn rounded(values: &[f32; 8], codes: &mut [u8; 8]) -> f32 {
    let max = values.iter().fold(0.0, |max: f32, &v| if v > max { v } else { max });
    let inverse = if max > 0.0 { 63.0 / max } else { 0.0 };
    *codes = values.map(|v| (nearest(inverse * v) as u8).min(63));
    max / 63.0
}

/// Part `i` of a block, of `N` values.
fn part<const N: usize>(x: &[f32; 256], i: usize) -> &[f32; N] {
    &x.as_chunks().0[i]
}

fn part_mut<const N: usize>(codes: &mut [u8; 256], i: usize) -> &mut [u8; N] {
    &mut codes.as_chunks_mut().0[i]
}

/// 4-bit codes: the lower nibbles of `RUN` bytes hold `RUN` codes, the upper ones the next `RUN`.
fn pack_nibbles<const RUN: usize>(codes: &[u8; 256], packed: &mut [u8]) {
    for (q, part) in codes.chunks_exact(2 * RUN).zip(packed.chunks_exact_mut(RUN)) {
        for l in 0..RUN {
            part[l] = q[l] & 15 | q[l + RUN] << 4;
        }
    }
}

const Q4_K: Tries = Tries { first: -1.0, step: 0.1, last: 20 };
const Q5_K: Tries = Tries { first: -0.5, step: 0.1, last: 15 };

/// Q4_K.
pub(crate) fn encode_q4_k(x: &[f32; 256], importance: Option<&[f32; 256]>, b: &mut [u8; 144]) {
    let mut codes = [0; 256];
    let (head, packed) = b.split_at_mut(16);
    encode_ranged(15, &Q4_K, x, importance, head, &mut codes);
    pack_nibbles::<32>(&codes, packed);
}

/// Q5_K.
pub(crate) fn encode_q5_k(x: &[f32; 256], importance: Option<&[f32; 256]>, b: &mut [u8; 176]) {
    let mut codes = [0; 256];
    let (head, packed) = b.split_at_mut(16);
    encode_ranged(31, &Q5_K, x, importance, head, &mut codes);
    let (high, low) = packed.split_at_mut(32);
    for l in 0..32 {
        high[l] = (0..8).fold(0, |bits, j| bits | (codes[32 * j + l] >> 4 & 1) << j);
    }
    pack_nibbles::<32>(&codes, low);
}

/// Q6_K.
pub(crate) fn encode_q6_k(x: &[f32; 256], importance: Option<&[f32; 256]>, b: &mut [u8; 210]) {
    let (mut codes, mut scales) = ([0; 256], [0.0; 16]);
    let mut extreme: f32 = 0.0;
    for j in 0..16 {
        let weights = importance.map(|importance| part::<16>(importance, j));
        scales[j] = symmetric(32, part::<16>(x, j), weights, part_mut(&mut codes, j));
        if scales[j].abs() > extreme.abs() {
            extreme = scales[j];
        }
    }
    b.fill(0);
    if extreme.abs() < TINY {
        return;
    }
    let inverse = -128.0 / extreme;
    let d = to_f16(1.0 / inverse);
    b[208..].copy_from_slice(&d);
    for j in 0..16 {
        let s = nearest(inverse * scales[j]).min(127) as i8;
        b[192 + j] = s as u8;
        let scale = f16_to_f32(u16::from_le_bytes(d)) * f32::from(s);
        if scale != 0.0 {
            *part_mut(&mut codes, j) = part::<16>(x, j).map(|v| (nearest(v / scale).clamp(-32, 31) + 32) as u8);
        }
    }
    pack_nibbles::<64>(&codes, &mut b[..128]);
    for (half, q) in codes.chunks_exact(128).enumerate() {
        for l in 0..32 {
            b[128 + 32 * half + l] = (0..4).fold(0, |bits, j| bits | (q[32 * j + l] >> 4 & 3) << (2 * j));
        }
    }
}
