//! Operations on 4 lanes for WebAssembly, and the products made of them.

#![allow(unsafe_code)]

pub(super) mod lanes;
#[cfg(target_feature = "relaxed-simd")]
mod relaxed_dots;
mod wide_dots;

#[cfg(target_feature = "relaxed-simd")]
use super::four::by_halves;
use super::four::unit;
use super::{Kernels, QRow, body};
use core::arch::wasm32::*;

/// Sums of neighbouring lanes but one: of `a` in the even lanes, of `b` in the odd ones.
#[inline]
#[target_feature(enable = "simd128")]
fn by_two(a: v128, b: v128) -> v128 {
    i32x4_add(i32x4_shuffle::<0, 4, 1, 5>(a, b), i32x4_shuffle::<2, 6, 3, 7>(a, b))
}

/// The sums of the lanes of 4 registers, of which `by_two` has made these two.
#[inline]
#[target_feature(enable = "simd128")]
fn by_four(ab: v128, cd: v128) -> v128 {
    i32x4_add(i64x2_shuffle::<0, 2>(ab, cd), i64x2_shuffle::<1, 3>(ab, cd))
}

/// Forces these to be computed before later loads. Otherwise V8 computes all rows at once and has too few registers for
/// them.
#[inline]
#[target_feature(enable = "simd128")]
fn finish<const N: usize>(sums: [v128; N]) {
    for mut sum in sums {
        // SAFETY: a place of its own. A store keeps its place among loads, which nothing else does.
        unsafe { core::ptr::write_volatile(&mut sum, sum) };
    }
}

/// [`Kernels::quantize`](super::Kernels::quantize) with a lane a level.
fn quantize(x: &[f32], mut out: QRow) {
    assert!(x.len() == out.q.len() && x.len().is_multiple_of(32), "columns in blocks of 32");
    if out.wide() {
        return body::quantize_wide(x, out);
    }
    let load = |x: &[f32; 16], i: usize| f32x4(x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]);
    let [a, b, c, d, e, f, g, h] = body::LEVELS;
    let levels = [f32x4(a, b, c, d), f32x4(e, f, g, h)];
    for (b, block) in x.as_chunks::<16>().0.iter().enumerate() {
        let most = body::largest(block);
        if !body::has_scale(most) {
            body::quantize_block(block, b, &mut out);
            continue;
        }
        let inverse = levels.map(|level| f32x4_div(level, f32x4_splat(most)));
        let mut errors = [f32x4_splat(0.0); 2];
        for v in block {
            for i in 0..2 {
                let v = f32x4_mul(f32x4_splat(*v), inverse[i]);
                let off = f32x4_sub(v, f32x4_nearest(v));
                errors[i] = f32x4_add(errors[i], f32x4_mul(off, off));
            }
        }
        for i in 0..2 {
            errors[i] = f32x4_div(errors[i], f32x4_mul(levels[i], levels[i]));
        }
        let least = f32x4_pmin(errors[0], errors[1]);
        let least = f32x4_pmin(least, i64x2_shuffle::<1, 0>(least, least));
        let least = f32x4_pmin(least, i32x4_shuffle::<1, 0, 3, 2>(least, least));
        let found = errors.map(|errors| u32::from(i32x4_bitmask(f32x4_eq(errors, least))));
        let level = body::LEVELS[(found[0] | found[1] << 4).trailing_zeros() as usize % 8];
        let (d, inverse) = (most / level, f32x4_splat(level / most));
        // The low bits of a number near 1.5·2²³ are those of the integer.
        let magic = f32x4_splat(body::MAGIC);
        let code = |i: usize| i32x4_sub(f32x4_add(f32x4_mul(load(block, i), inverse), magic), magic);
        let q = [code(0), code(1), code(2), code(3)];
        let words = [i16x8_narrow_i32x4(q[0], q[1]), i16x8_narrow_i32x4(q[2], q[3])];
        // SAFETY: 16 codes.
        unsafe {
            let codes = out.q[16 * b..16 * b + 16].as_mut_ptr();
            v128_store(codes.cast(), i8x16_narrow_i16x8(words[0], words[1]));
        }
        let sums = i32x4_dot_i16x8(i16x8_add(words[0], words[1]), i16x8_splat(1));
        let sums = i32x4_add(sums, i64x2_shuffle::<1, 0>(sums, sums));
        body::store_scale(d, i32x4_extract_lane::<0>(sums) + i32x4_extract_lane::<1>(sums), b, &mut out);
    }
}

/// The plain kernels, which are compiled for these lanes like all else, but for the search of a scale.
pub(super) const OTHERS: Kernels = Kernels { quantize, ..body::PLAIN };

/// The same beside products of 16 bits, which take wide activations as they are.
pub(super) const OTHERS_WIDE: Kernels = Kernels { wide: true, ..OTHERS };

/// 16 bytes of each of 4 rows: as they are.
///
/// # Safety
/// They exist.
#[inline]
#[target_feature(enable = "simd128")]
unsafe fn arrange(rows: lanes::Rows) -> [v128; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        [lanes::load_w(rows.at(0)), lanes::load_w(rows.at(1)), lanes::load_w(rows.at(2)), lanes::load_w(rows.at(3))]
    }
}

/// 16 where a bit of a number is set. Masks from comparisons take three times as long: engines make their constants anew.
static SIXTEENS: [u64; 256] = {
    let mut all = [0; 256];
    let mut i = 0;
    while i < 256 * 8 {
        all[i / 8] |= ((i / 8 >> (i % 8) & 1) as u64) << (8 * (i % 8) + 4);
        i += 1;
    }
    all
};

/// 16 where the bits of 16 columns of row `k % 4`, a dword a row, are set; the second 16 from `k = 4` on.
#[inline]
#[target_feature(enable = "simd128")]
fn bits_to_16(bits: v128, k: usize) -> v128 {
    let row = match k % 4 {
        0 => i32x4_extract_lane::<0>(bits),
        1 => i32x4_extract_lane::<1>(bits),
        2 => i32x4_extract_lane::<2>(bits),
        _ => i32x4_extract_lane::<3>(bits),
    } as u32;
    let eight = |at: usize| &raw const SIXTEENS[(row >> (16 * (k / 4) + at)) as usize & 255];
    // SAFETY: entries of the table.
    unsafe { v128_load64_lane::<1>(v128_load64_zero(eight(0)), eight(8)) }
}

unit!(simd128 ["simd128"] super::wide_dots);
#[cfg(target_feature = "relaxed-simd")]
unit!(relaxed ["simd128" "relaxed-simd"] super::relaxed_dots);
