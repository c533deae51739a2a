//! Integer dots by the relaxed instruction. Its second operand has 7 bits, and where it has no more, and no sum of two
//! products needs more than 16, all engines agree. The instruction that also adds to lanes of 32 bits is not used: that
//! of V8 11 (node 20) loses what it should add to. The compiler would make it of an addition of neighbouring pairs, so
//! that is a product with ones.

use super::lanes::*;
use super::{by_four, by_halves, by_two, finish};
use crate::kernel::ints::{NARROW, WHOLE};
use core::arch::wasm32::*;

/// Adds to each lane the dot product of its 16 codes, below 128 or with a sign, with 16 signed bytes above −128.
#[inline]
#[target_feature(enable = "simd128,relaxed-simd")]
pub(super) fn dot_w<const BITS: u8>(acc: I4, codes: [I4; 4], x: I4) -> I4 {
    let [a, b, c, d] = codes;
    let x = [lane::<0>(x), lane::<1>(x), lane::<2>(x), lane::<3>(x)];
    if BITS == NARROW {
        // Eight products of narrow codes fit 16 bits.
        let ab = i16x8_add(i16x8_relaxed_dot_i8x16_i7x16(x[0], a), i16x8_relaxed_dot_i8x16_i7x16(x[1], b));
        let cd = i16x8_add(i16x8_relaxed_dot_i8x16_i7x16(x[2], c), i16x8_relaxed_dot_i8x16_i7x16(x[3], d));
        return i32x4_add(acc, i32x4_dot_i16x8(i16x8_add(ab, cd), i16x8_splat(1)));
    }
    let dots = if BITS == WHOLE {
        [signed(a, x[0]), signed(b, x[1]), signed(c, x[2]), signed(d, x[3])]
    } else {
        [four(x[0], a), four(x[1], b), four(x[2], c), four(x[3], d)]
    };
    let [a, b, c, d] = dots;
    i32x4_add(acc, i32x4_add(i32x4_add(a, b), i32x4_add(c, d)))
}

by_halves!("simd128,relaxed-simd");

/// 16 activations in the form that `block_w` takes; where codes have a sign, which of them are below 0, and their sizes.
pub(super) fn spread_w<const BITS: u8>(x: &[i8; 16], _part: usize) -> [i32; 8] {
    let four = |i: usize, f: fn(i8) -> u8| i32::from_le_bytes(core::array::from_fn(|k| f(x[i % 4 * 4 + k])));
    core::array::from_fn(|i| match (BITS, i / 4) {
        (WHOLE, 0) => four(i, |x| (x >> 7) as u8),
        (WHOLE, _) => four(i, |x| x.unsigned_abs()),
        _ => four(i, |x| x as u8),
    })
}

/// The correction of the sums of `block_w`: the codes' zero times the sum of the activations, or what `signed` adds.
pub(super) fn start_w<const BITS: u8>(x: &[i8; 16], zero: i32) -> i32 {
    if BITS == WHOLE { x.iter().map(|&x| -(x.min(0) as i32)).sum() } else { -zero }
}

/// The dot products of 32 codes of each of 4 rows with 16 and 16 activations.
///
/// # Safety
/// There are an f16 scale and 32 codes at each of `blocks`, and the result of `spread_w` at each of `x`.
#[inline]
#[target_feature(enable = "simd128,relaxed-simd")]
pub(super) unsafe fn block_w<const BITS: u8>(blocks: Rows, x: [*const i32; 2], start: [i32; 2]) -> [I4; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let (low, high) = (load_w(x[0].cast()), load_w(x[1].cast()));
        let sums = if BITS == WHOLE {
            let sizes = [load_w(x[0].add(4).cast()), load_w(x[1].add(4).cast())];
            let row = |r: usize| {
                let seven = |k: usize, below| v128_xor(load_w(blocks.at(r).add(2 + 16 * k)), below);
                [four(seven(0, low), sizes[0]), four(seven(1, high), sizes[1])]
            };
            let two = |[a, b]: [I4; 2], [c, d]: [I4; 2]| [by_two(a, c), by_two(b, d)];
            let ab = two(row(0), row(1));
            finish(ab);
            let cd = two(row(2), row(3));
            [by_four(ab[0], cd[0]), by_four(ab[1], cd[1])]
        } else {
            // All 16 products fit 16 bits, so that these stay pairs of sums up to the end.
            let row = |r: usize| {
                let (w, nibble) = (load_w(blocks.at(r).add(2)), i8x16_splat(15));
                let dot = i16x8_relaxed_dot_i8x16_i7x16;
                [dot(low, v128_and(w, nibble)), dot(high, v128_and(u16x8_shr(w, 4), nibble))]
            };
            let two = |[a, b]: [I4; 2], [c, d]: [I4; 2]| [by_two_16(a, c), by_two_16(b, d)];
            let ab = two(row(0), row(1));
            finish(ab);
            let cd = two(row(2), row(3));
            [by_four_16(ab[0], cd[0]), by_four_16(ab[1], cd[1])].map(|sums| i32x4_dot_i16x8(sums, i16x8_splat(1)))
        };
        [i32x4_add(sums[0], splat_w(start[0])), i32x4_add(sums[1], splat_w(start[1]))]
    }
}

/// 16 activations in the form that `block_t` takes; where codes have a sign, of each 4 which are below 0, and their sizes.
pub(super) fn spread_t<const BITS: u8>(x: &[i8; 16], _part: usize) -> [i32; 8] {
    let four = |at: usize, f: &dyn Fn(i8) -> u8| i32::from_le_bytes(core::array::from_fn(|i| f(x[at + i])));
    core::array::from_fn(|i| match (BITS == WHOLE, i % 2) {
        (true, 0) => four(i / 2 * 4, &|x| (x >> 7) as u8),
        (true, _) => four(i / 2 * 4, &|x| x.unsigned_abs()),
        (false, _) => four(i % 4 * 4, &|x| x as u8),
    })
}

/// The dot products of 16 rows of 32 codes, interleaved, with 16 and 16 activations.
///
/// # Safety
/// There are 16 rows of codes, and the result of `spread_t` at each of `x`.
#[inline]
#[target_feature(enable = "simd128,relaxed-simd")]
pub(super) unsafe fn block_t<const BITS: u8>(codes: *const u8, x: [*const i32; 2], start: [i32; 2]) -> [[I4; 4]; 2] {
    let ones = i16x8_splat(1);
    let mut sums = [[splat_w(0); 4]; 2];
    for k in 0..4 {
        // SAFETY: the caller's promise.
        unsafe {
            let x = |part: usize, i: usize| v128_load32_splat(x[part].add(i).cast());
            for q in 0..4 {
                let four_codes = |k: usize| load_w(codes.add(64 * k + 16 * q));
                if BITS == WHOLE {
                    for part in 0..2 {
                        let seven = v128_xor(four_codes(4 * part + k), x(part, 2 * k));
                        sums[part][q] = i32x4_add(sums[part][q], four(seven, x(part, 2 * k + 1)));
                    }
                } else {
                    // Eight products of narrow codes fit 16 bits.
                    let w = four_codes(k);
                    let (low, high) = (v128_and(w, i8x16_splat(15)), v128_and(u16x8_shr(w, 4), i8x16_splat(15)));
                    sums[0][q] = i16x8_add(sums[0][q], i16x8_relaxed_dot_i8x16_i7x16(x(0, k), low));
                    sums[1][q] = i16x8_add(sums[1][q], i16x8_relaxed_dot_i8x16_i7x16(x(1, k), high));
                }
            }
        }
    }
    for part in 0..2 {
        for q in 0..4 {
            let sum = if BITS == WHOLE { sums[part][q] } else { i32x4_dot_i16x8(sums[part][q], ones) };
            sums[part][q] = i32x4_add(sum, splat_w(start[part]));
        }
    }
    sums
}

/// `by_two` of pairs of 16 bits.
#[inline]
#[target_feature(enable = "simd128")]
fn by_two_16(a: I4, b: I4) -> I4 {
    i16x8_add(i32x4_shuffle::<0, 4, 1, 5>(a, b), i32x4_shuffle::<2, 6, 3, 7>(a, b))
}

/// `by_four` of pairs of 16 bits.
#[inline]
#[target_feature(enable = "simd128")]
fn by_four_16(ab: I4, cd: I4) -> I4 {
    i16x8_add(i64x2_shuffle::<0, 2>(ab, cd), i64x2_shuffle::<1, 3>(ab, cd))
}

pub(super) use super::{arrange, bits_to_16};
/// Whether the sums of signed codes have a starting value.
pub(super) const SIGNS_START: bool = true;

/// 16 activations; where codes have a sign, which of them are below 0, and their sizes.
#[inline]
#[target_feature(enable = "simd128")]
pub(super) fn spread_r(zero: u8, x: I4) -> [I4; 2] {
    if zero == 128 { [i8x16_shr(x, 7), i8x16_abs(x)] } else { [x; 2] }
}

/// The correction of the sums of `rows_r`: the codes' zero times the sum of the activations, or what `signed` adds.
pub(super) fn start_r(zero: u8, x: &[i8; 16], sum: i32) -> [i32; 4] {
    [if zero == 128 { start_w::<WHOLE>(x, 0) } else { -(zero as i32) * sum }; 4]
}

/// The dot products of 16 codes, below 128 or with a sign, of each of 4 rows with 16 activations.
#[inline]
#[target_feature(enable = "simd128,relaxed-simd")]
pub(super) fn rows_r<const BITS: u8, const START: bool>(codes: [I4; 4], x: [I4; 2], start: I4) -> I4 {
    let ones = i16x8_splat(1);
    let mut sums = codes;
    for r in 0..4 {
        sums[r] = if BITS == WHOLE {
            four(v128_xor(codes[r], x[0]), x[1])
        } else if BITS == NARROW {
            i16x8_relaxed_dot_i8x16_i7x16(x[0], codes[r])
        } else {
            four(x[0], codes[r])
        };
    }
    let sums = if BITS == NARROW {
        // Eight products of narrow codes fit 16 bits.
        i32x4_dot_i16x8(by_four_16(by_two_16(sums[0], sums[1]), by_two_16(sums[2], sums[3])), ones)
    } else {
        by_four(by_two(sums[0], sums[1]), by_two(sums[2], sums[3]))
    };
    if START { i32x4_add(sums, start) } else { sums }
}

#[inline]
#[target_feature(enable = "simd128")]
fn lane<const K: usize>(a: I4) -> I4 {
    i32x4_shuffle::<K, K, K, K>(a, a)
}

/// In each lane the dot product of 4 signed bytes with 4 others of 7 bits.
#[inline]
#[target_feature(enable = "simd128,relaxed-simd")]
fn four(signed: I4, seven: I4) -> I4 {
    i32x4_dot_i16x8(i16x8_relaxed_dot_i8x16_i7x16(signed, seven), i16x8_splat(1))
}

/// In each lane the dot product of 4 signed bytes with 4 others above −128.
#[inline]
#[target_feature(enable = "simd128,relaxed-simd")]
fn signed(codes: I4, x: I4) -> I4 {
    // code · x = (−1 − code) · |x| + |x| where x < 0, and −1 − code is the code with its bits inverted.
    let (below, size) = (i8x16_shr(x, 7), i8x16_abs(x));
    i32x4_sub(four(v128_xor(codes, below), size), four(below, size))
}
