//! Integer dots by products of 16 bits.

use super::lanes::*;
use super::{by_four, by_two, finish};
use crate::kernel::ints::WHOLE;
use core::arch::wasm32::*;

/// Adds to each lane the dot product of its 16 codes with 16 activations.
#[inline]
#[target_feature(enable = "simd128")]
pub(super) fn dot_w<const BITS: u8>(acc: I4, codes: [I4; 4], x: I4) -> I4 {
    let [even, odd] = spread_r(0, x);
    sixteen::<BITS>(acc, codes, even, odd)
}

/// Adds to each lane the dot product of its 16 codes with 16 activations, of which these are the even and the odd ones.
#[inline]
#[target_feature(enable = "simd128")]
fn sixteen<const BITS: u8>(mut acc: I4, codes: [I4; 4], xe: I4, xo: I4) -> I4 {
    // Even and odd bytes of both sides; even ones of codes that are positive need no sign.
    let even = |x| i16x8_shr(i16x8_shl(x, 8), 8);
    for (k, x) in [lane::<0>(xe, xo), lane::<1>(xe, xo), lane::<2>(xe, xo), lane::<3>(xe, xo)].into_iter().enumerate() {
        let e = if BITS == WHOLE { even(codes[k]) } else { v128_and(codes[k], i16x8_splat(0xff)) };
        acc = i32x4_add(acc, i32x4_add(i32x4_dot_i16x8(e, x[0]), i32x4_dot_i16x8(i16x8_shr(codes[k], 8), x[1])));
    }
    acc
}

/// 16 activations in the form that `block_w` takes, as 16 bits: the even and the odd ones, with factors as in
/// `spread_t`; with codes of 8 bits as they come.
pub(super) fn spread_w<const BITS: u8>(x: &[i8; 16], part: usize) -> [i32; 8] {
    let pair = |a: usize, b: usize, by: i32| (x[a] as i32 * by) & 0xffff | (x[b] as i32 * by) << 16;
    let factors = [[256, 1], [1, 16]][part];
    core::array::from_fn(|i| match BITS {
        WHOLE => pair(2 * i, 2 * i + 1, 1),
        _ => pair(i % 4 * 4 + i / 4, i % 4 * 4 + i / 4 + 2, factors[i / 4]),
    })
}

/// The correction of the sums of `block_w`: the codes' zero times the sum of the activations.
pub(super) fn start_w<const BITS: u8>(_: &[i8; 16], zero: i32) -> i32 {
    -zero
}

/// The dot products of 32 codes of each of 4 rows with 16 and 16 activations.
///
/// # Safety
/// There are an f16 scale and 32 codes at each of `blocks`, and the result of `spread_w` at each of `x`.
#[inline]
#[target_feature(enable = "simd128")]
pub(super) unsafe fn block_w<const BITS: u8>(blocks: Rows, x: [*const i32; 2], start: [i32; 2]) -> [I4; 2] {
    let dots = |a, x, b, y| i32x4_add(i32x4_dot_i16x8(a, x), i32x4_dot_i16x8(b, y));
    // SAFETY: the caller's promise.
    unsafe {
        let x = [load_w(x[0].cast()), load_w(x[0].add(4).cast()), load_w(x[1].cast()), load_w(x[1].add(4).cast())];
        let row = |r: usize| {
            if BITS == WHOLE {
                let eight = |k: usize| i16x8_load_extend_i8x8(blocks.at(r).add(2 + 8 * k).cast());
                return [dots(eight(0), x[0], eight(1), x[1]), dots(eight(2), x[2], eight(3), x[3])];
            }
            let w = load_w(blocks.at(r).add(2));
            let bits = |mask| v128_and(w, i16x8_splat(mask));
            [dots(bits(15), x[0], bits(15 << 8), x[1]), dots(bits(15 << 4), x[2], u16x8_shr(w, 12), x[3])]
        };
        let two = |[a, b]: [I4; 2], [c, d]: [I4; 2]| [by_two(a, c), by_two(b, d)];
        let ab = two(row(0), row(1));
        finish(ab);
        let cd = two(row(2), row(3));
        let sums = [by_four(ab[0], cd[0]), by_four(ab[1], cd[1])];
        if BITS == WHOLE {
            return sums;
        }
        [i32x4_add(i32x4_shr(sums[0], 8), splat_w(start[0])), i32x4_add(i32x4_shr(sums[1], 4), splat_w(start[1]))]
    }
}

/// Adds to each lane the dot product of its 16 codes with 16 wide activations, their high bytes and their low ones.
#[inline]
#[target_feature(enable = "simd128")]
pub(super) fn dot_wide<const BITS: u8>(acc: I4, codes: [I4; 4], x: [I4; 2]) -> I4 {
    let [even, odd] = join(x[0], x[1]);
    sixteen::<BITS>(acc, codes, even, odd)
}

/// The even and the odd ones of 16 wide activations, as 16 bits.
#[inline]
#[target_feature(enable = "simd128")]
fn join(high: I4, low: I4) -> [I4; 2] {
    let even = i16x8_add(i16x8_shr(i16x8_shl(high, 8), 4), i16x8_shr(i16x8_shl(low, 8), 8));
    [even, i16x8_add(i16x8_shl(i16x8_shr(high, 8), 4), i16x8_shr(low, 8))]
}

/// The unit of the results of `wide_w`.
pub(super) const fn unit<const BITS: u8>() -> i32 {
    if BITS == WHOLE { 1 } else { 16 }
}

/// 32 wide activations as 16 bits: the even and the odd ones of the first half and of the second, as codes of 8 bits
/// meet them. A byte `a + 16 b` of narrow codes is multiplied as it stands and then `a` again, since `16 (a x + b y) =
/// (a + 16 b) y + a (16 x − y)`: so for these the first half is 16 times itself less the second.
fn factors<const BITS: u8>(high: &[i8; 32], low: &[i8; 32]) -> [I4; 4] {
    // SAFETY: 16 bytes each.
    let half = |x: &[i8; 32], at: usize| unsafe { load_w(x[at..at + 16].as_ptr().cast()) };
    let [[a, b], [c, d]] = [0, 16].map(|at| join(half(high, at), half(low, at)));
    if BITS == WHOLE {
        return [a, b, c, d];
    }
    [i16x8_sub(i16x8_shl(a, 4), c), i16x8_sub(i16x8_shl(b, 4), d), c, d]
}

/// These registers, and nothing.
fn stored(x: [I4; 4]) -> [i32; 32] {
    let mut out = [0; 32];
    for (out, x) in out.as_chunks_mut::<4>().0.iter_mut().zip(x) {
        // SAFETY: 16 bytes.
        unsafe { store_w(out.as_mut_ptr().cast(), x) };
    }
    out
}

/// 32 wide activations in the form that `wide_w` takes: with narrow codes what `factors` gives, with others in their order.
pub(super) fn spread_wide_w<const BITS: u8>(high: &[i8; 32], low: &[i8; 32]) -> [i32; 32] {
    let [a, b, c, d] = factors::<BITS>(high, low);
    let first = |a, b| i16x8_shuffle::<0, 8, 1, 9, 2, 10, 3, 11>(a, b);
    let second = |a, b| i16x8_shuffle::<4, 12, 5, 13, 6, 14, 7, 15>(a, b);
    stored(if BITS == WHOLE { [first(a, b), second(a, b), first(c, d), second(c, d)] } else { [a, b, c, d] })
}

/// The factors of the bytes of narrow codes: lower nibbles of the even and of the odd ones, and these bytes themselves.
#[inline]
#[target_feature(enable = "simd128")]
fn nibbles(bytes: I4) -> [I4; 4] {
    let (low, odd) = (i16x8_splat(15), u16x8_shr(bytes, 8));
    [v128_and(bytes, low), v128_and(odd, low), v128_and(bytes, i16x8_splat(255)), odd]
}

/// The dot products of 32 codes of each of 4 rows with 32 wide activations, `unit` times.
///
/// # Safety
/// There are an f16 scale and 32 codes at each of `blocks`, and the result of `spread_wide_w` at `x`.
#[inline]
#[target_feature(enable = "simd128")]
pub(super) unsafe fn wide_w<const BITS: u8>(blocks: Rows, x: *const i32, start: i32) -> I4 {
    // SAFETY: the caller's promise.
    unsafe {
        let x = [load_w(x.cast()), load_w(x.add(4).cast()), load_w(x.add(8).cast()), load_w(x.add(12).cast())];
        let row = |r: usize| {
            let at = blocks.at(r).add(2);
            let [a, b, c, d] = if BITS == WHOLE {
                let eight = |k: usize| i16x8_load_extend_i8x8(at.add(8 * k).cast());
                [eight(0), eight(1), eight(2), eight(3)]
            } else {
                nibbles(load_w(at))
            };
            i32x4_add(
                i32x4_add(i32x4_dot_i16x8(a, x[0]), i32x4_dot_i16x8(b, x[1])),
                i32x4_add(i32x4_dot_i16x8(c, x[2]), i32x4_dot_i16x8(d, x[3])),
            )
        };
        let ab = by_two(row(0), row(1));
        finish([ab]);
        i32x4_add(by_four(ab, by_two(row(2), row(3))), splat_w(start))
    }
}

/// 32 wide activations in the form that `wide_t` takes: of each 4 the even and the odd ones, as 16 bits.
pub(super) fn spread_wide_t<const BITS: u8>(high: &[i8; 32], low: &[i8; 32]) -> [i32; 32] {
    let [a, b, c, d] = factors::<BITS>(high, low);
    let first = |a, b| i32x4_shuffle::<0, 4, 1, 5>(a, b);
    let second = |a, b| i32x4_shuffle::<2, 6, 3, 7>(a, b);
    stored([first(a, b), second(a, b), first(c, d), second(c, d)])
}

/// The dot products of 16 rows of 32 codes, interleaved, with 32 wide activations.
///
/// # Safety
/// There are 16 rows of codes, and the result of `spread_wide_t` at `x`.
#[inline]
#[target_feature(enable = "simd128")]
pub(super) unsafe fn wide_t<const BITS: u8>(codes: *const u8, x: *const i32, start: i32) -> [I4; 4] {
    let mut sums = [splat_w(0); 4];
    let pairs = |a, x: I4, b, y: I4| i32x4_add(i32x4_dot_i16x8(a, x), i32x4_dot_i16x8(b, y));
    for k in 0..4 {
        // SAFETY: the caller's promise.
        unsafe {
            let x = |i: usize| v128_load32_splat(x.add(2 * k + i).cast());
            let (low, high) = ([x(0), x(1)], [x(8), x(9)]);
            for q in 0..4 {
                let four = |k: usize| load_w(codes.add(64 * k + 16 * q));
                let (a, b) = if BITS == WHOLE {
                    // 256 times: no sum of 32 such products leaves 32 bits.
                    let bytes =
                        |w, [even, odd]: [I4; 2]| pairs(i16x8_shl(w, 8), even, v128_and(w, i16x8_splat(-256)), odd);
                    (bytes(four(k), low), bytes(four(4 + k), high))
                } else {
                    let [a, b, c, d] = nibbles(four(k));
                    (pairs(a, low[0], b, low[1]), pairs(c, high[0], d, high[1]))
                };
                sums[q] = i32x4_add(sums[q], i32x4_add(a, b));
            }
        }
    }
    let units = if BITS == WHOLE { 8 } else { 4 };
    sums.map(|sum| i32x4_add(i32x4_shr(sum, units), splat_w(start)))
}

/// 16 wide activations in the form that `wide_r` takes.
#[inline]
#[target_feature(enable = "simd128")]
pub(super) fn spread_wide_r(_zero: u8, high: I4, low: I4) -> [I4; 4] {
    let [even, odd] = join(high, low);
    [even, odd, splat_w(0), splat_w(0)]
}

/// The dot products of 16 codes of each of 4 rows with 16 wide activations.
#[inline]
#[target_feature(enable = "simd128")]
pub(super) fn wide_r<const BITS: u8, const START: bool>(codes: [I4; 4], x: [I4; 4], start: I4) -> I4 {
    rows_r::<BITS, START>(codes, [x[0], x[1]], start)
}

/// [`wide_r`] of 32 codes, those of the second 16 columns behind the others.
#[inline]
#[target_feature(enable = "simd128")]
pub(super) fn pair_r<const BITS: u8, const START: bool>(codes: [I4; 8], x: [[I4; 4]; 2], start: I4) -> I4 {
    let row = |r: usize| {
        let part = |part: usize| of_row::<BITS>(codes[4 * part + r], [x[part][0], x[part][1]]);
        i32x4_add(part(0), part(1))
    };
    let sums = by_four(by_two(row(0), row(1)), by_two(row(2), row(3)));
    if START { i32x4_add(sums, start) } else { sums }
}

/// 16 activations in the form that `block_t` takes: of each 4 the even and the odd ones, as 16 bits. Narrow codes are
/// multiplied where they stand in their 16 bits, and activations by what makes the products' units the same.
pub(super) fn spread_t<const BITS: u8>(x: &[i8; 16], part: usize) -> [i32; 8] {
    let [even, odd] = if BITS == WHOLE { [1; 2] } else { [[256, 1], [1, 16]][part] };
    let pair = |a: i8, b: i8, by: i32| (a as i32 * by) & 0xffff | (b as i32 * by) << 16;
    core::array::from_fn(|i| {
        let x = &x[i / 2 * 4..];
        if i % 2 == 0 { pair(x[0], x[2], even) } else { pair(x[1], x[3], odd) }
    })
}

/// The dot products of 16 rows of 32 codes, interleaved, with 16 and 16 activations.
///
/// # Safety
/// There are 16 rows of codes, and the result of `spread_t` at each of `x`.
#[inline]
#[target_feature(enable = "simd128")]
pub(super) unsafe fn block_t<const BITS: u8>(codes: *const u8, x: [*const i32; 2], start: [i32; 2]) -> [[I4; 4]; 2] {
    let mut sums = [[splat_w(0); 4]; 2];
    let pairs = |a, x: I4, b, y: I4| i32x4_add(i32x4_dot_i16x8(a, x), i32x4_dot_i16x8(b, y));
    for k in 0..4 {
        // SAFETY: the caller's promise.
        unsafe {
            let x = |part: usize, i: usize| v128_load32_splat(x[part].add(2 * k + i).cast());
            let (low, high) = ([x(0, 0), x(0, 1)], [x(1, 0), x(1, 1)]);
            for q in 0..4 {
                let four = |k: usize| load_w(codes.add(64 * k + 16 * q));
                let (a, b) = if BITS == WHOLE {
                    let bytes =
                        |w, [even, odd]: [I4; 2]| pairs(i16x8_shl(w, 8), even, v128_and(w, i16x8_splat(-256)), odd);
                    (bytes(four(k), low), bytes(four(4 + k), high))
                } else {
                    let w = four(k);
                    let bits = |mask| v128_and(w, i16x8_splat(mask));
                    (
                        pairs(bits(15), low[0], bits(15 << 8), low[1]),
                        pairs(bits(15 << 4), high[0], u16x8_shr(w, 12), high[1]),
                    )
                };
                sums[0][q] = i32x4_add(sums[0][q], a);
                sums[1][q] = i32x4_add(sums[1][q], b);
            }
        }
    }
    let units = [8, if BITS == WHOLE { 8 } else { 4 }];
    for part in 0..2 {
        for q in 0..4 {
            sums[part][q] = i32x4_add(i32x4_shr(sums[part][q], units[part]), splat_w(start[part]));
        }
    }
    sums
}

pub(super) use super::{arrange, bits_to_16};
/// Whether the sums of signed codes have a starting value.
pub(super) const SIGNS_START: bool = false;

/// The even and the odd ones of 16 activations, as 16 bits.
#[inline]
#[target_feature(enable = "simd128")]
pub(super) fn spread_r(_zero: u8, x: I4) -> [I4; 2] {
    [i16x8_shr(i16x8_shl(x, 8), 8), i16x8_shr(x, 8)]
}

/// The correction of the sums of `rows_r`: the codes' zero times the sum of the activations.
pub(super) fn start_r(zero: u8, _: &[i8; 16], sum: i32) -> [i32; 4] {
    [-(zero as i32) * sum; 4]
}

/// The dot products of 16 codes of each of 4 rows with 16 activations.
#[inline]
#[target_feature(enable = "simd128")]
pub(super) fn rows_r<const BITS: u8, const START: bool>(codes: [I4; 4], x: [I4; 2], start: I4) -> I4 {
    let sums = codes.map(|codes| of_row::<BITS>(codes, x));
    let sums = by_four(by_two(sums[0], sums[1]), by_two(sums[2], sums[3]));
    if START { i32x4_add(sums, start) } else { sums }
}

/// Parts of the dot product of 16 codes with 16 activations.
#[inline]
#[target_feature(enable = "simd128")]
fn of_row<const BITS: u8>(codes: I4, x: [I4; 2]) -> I4 {
    let (even, odd) = if BITS == WHOLE {
        (i16x8_shr(i16x8_shl(codes, 8), 8), i16x8_shr(codes, 8))
    } else {
        (v128_and(codes, i16x8_splat(0xff)), u16x8_shr(codes, 8))
    };
    i32x4_add(i32x4_dot_i16x8(even, x[0]), i32x4_dot_i16x8(odd, x[1]))
}

#[inline]
#[target_feature(enable = "simd128")]
fn lane<const K: usize>(a: I4, b: I4) -> [I4; 2] {
    [i32x4_shuffle::<K, K, K, K>(a, a), i32x4_shuffle::<K, K, K, K>(b, b)]
}
