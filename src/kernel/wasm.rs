//! Operations on 4 lanes for WebAssembly, and the products made of them.

#![allow(unsafe_code)]

use super::four::unit;
use core::arch::wasm32::{i32x4_shuffle, i64x2_shuffle, v128};

/// One register of 4 lanes.
pub(super) mod lanes {
    use core::arch::wasm32::*;

    pub(in crate::kernel) type F4 = v128;
    pub(in crate::kernel) type I4 = v128;

    macro_rules! op {
        ($(#[doc = $doc:literal])* $name:ident($($arg:ident: $type:ty),*) -> $result:ty $body:block) => {
            $(#[doc = $doc])*
            #[inline]
            #[target_feature(enable = "simd128")]
            pub(in crate::kernel) fn $name($($arg: $type),*) -> $result $body
        };
        (unsafe $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)? $body:block) => {
            /// # Safety
            /// The pointer is good for 16 bytes.
            #[inline]
            #[target_feature(enable = "simd128")]
            pub(in crate::kernel) unsafe fn $name($($arg: $type),*) $(-> $result)? {
                // SAFETY: the caller's promise.
                unsafe { $body }
            }
        };
    }

    /// There is no instruction to ask for memory.
    pub(in crate::kernel) fn prefetch(_: *const u8) {}

    op!(unsafe load_v(p: *const f32) -> F4 { v128_load(p.cast()) });
    op!(unsafe store_v(p: *mut f32, x: F4) { v128_store(p.cast(), x) });
    op!(unsafe load_w(p: *const u8) -> I4 { v128_load(p.cast()) });
    op!(unsafe store_w(p: *mut u8, x: I4) { v128_store(p.cast(), x) });
    op!(unsafe load_halves(p: *const u16) -> I4 { i32x4_load_extend_u16x4(p) });
    op!(unsafe load_codes(p: *const i8) -> [I4; 4] {
        let (low, high) = (i16x8_load_extend_i8x8(p), i16x8_load_extend_i8x8(p.add(8)));
        [
            i32x4_extend_low_i16x8(low),
            i32x4_extend_high_i16x8(low),
            i32x4_extend_low_i16x8(high),
            i32x4_extend_high_i16x8(high),
        ]
    });
    op!(splat_v(x: f32) -> F4 { f32x4_splat(x) });
    op!(splat_w(x: i32) -> I4 { i32x4_splat(x) });
    op!(add_v(a: F4, b: F4) -> F4 { f32x4_add(a, b) });
    op!(mul_v(a: F4, b: F4) -> F4 { f32x4_mul(a, b) });
    op!(
        /// Rounds twice, as the contract has it.
        fma_v(a: F4, b: F4, c: F4) -> F4 { f32x4_add(f32x4_mul(a, b), c) }
    );
    op!(float_v(a: I4) -> F4 { f32x4_convert_i32x4(a) });
    op!(add_w(a: I4, b: I4) -> I4 { i32x4_add(a, b) });
    op!(mul_w(a: I4, b: I4) -> I4 { i32x4_mul(a, b) });
    op!(and_w(a: I4, b: I4) -> I4 { v128_and(a, b) });
    op!(or_w(a: I4, b: I4) -> I4 { v128_or(a, b) });
    op!(xor_w(a: I4, b: I4) -> I4 { v128_xor(a, b) });
    op!(shl_w(a: I4, n: usize) -> I4 { i32x4_shl(a, n as u32) });
    op!(shr_w(a: I4, n: usize) -> I4 { u32x4_shr(a, n as u32) });
    op!(
        /// The upper nibble of each byte.
        upper_w(a: I4) -> I4 { u8x16_shr(a, 4) }
    );
    op!(
        /// The bytes of a table, by their numbers.
        look_w(table: I4, a: I4) -> I4 { i8x16_swizzle(table, a) }
    );
    op!(
        /// The top byte of each lane, with its sign.
        top_w(a: I4) -> I4 { i32x4_shr(a, 24) }
    );
    op!(
        /// The half in the lower half of each lane.
        half_v(a: I4) -> F4 {
            // The magnitude, as bits of a single of another bias; exact for subnormal halves too. That of an infinity or a
            // NaN lacks some bits of its exponent.
            let magnitude = v128_and(i32x4_shl(a, 13), i32x4_splat(0x7fff << 13));
            let special = v128_and(i32x4_gt(magnitude, i32x4_splat((0x7c00 << 13) - 1)), i32x4_splat(0x7f80_0000));
            let sign = v128_and(i32x4_shl(a, 16), i32x4_splat(i32::MIN));
            v128_or(v128_or(f32x4_mul(magnitude, f32x4_splat(f32::from_bits(239 << 23))), special), sign)
        }
    );
    op!(
        /// Lane `l` with `l + 2`, then with `l + 1`.
        total_v(a: F4) -> f32 {
            let two = f32x4_add(a, i32x4_shuffle::<2, 3, 2, 3>(a, a));
            f32x4_extract_lane::<0>(two) + f32x4_extract_lane::<1>(two)
        }
    );
    op!(
        /// Lane `k` of every register, as register `k`.
        transpose_w(rows: [I4; 4]) -> [I4; 4] {
            let [a, b, c, d] = rows;
            let (ab, cd) = (i32x4_shuffle::<0, 4, 1, 5>(a, b), i32x4_shuffle::<0, 4, 1, 5>(c, d));
            let (ef, gh) = (i32x4_shuffle::<2, 6, 3, 7>(a, b), i32x4_shuffle::<2, 6, 3, 7>(c, d));
            [
                i64x2_shuffle::<0, 2>(ab, cd),
                i64x2_shuffle::<1, 3>(ab, cd),
                i64x2_shuffle::<0, 2>(ef, gh),
                i64x2_shuffle::<1, 3>(ef, gh),
            ]
        }
    );
}

/// The sums of the 32-bit lanes of 4 registers, a lane a register, by this addition.
#[inline]
#[target_feature(enable = "simd128")]
fn across(sums: [v128; 4], add: impl Fn(v128, v128) -> v128) -> v128 {
    let two = |a, b| add(i32x4_shuffle::<0, 4, 1, 5>(a, b), i32x4_shuffle::<2, 6, 3, 7>(a, b));
    let (ab, cd) = (two(sums[0], sums[1]), two(sums[2], sums[3]));
    add(i64x2_shuffle::<0, 2>(ab, cd), i64x2_shuffle::<1, 3>(ab, cd))
}

/// Integer dots by products of 16 bits.
mod wide_dots {
    use super::across;
    use super::lanes::*;
    use crate::kernel::ints::WHOLE;
    use core::arch::wasm32::*;

    /// Adds to each lane the dot product of its 16 codes with 16 activations.
    #[inline]
    #[target_feature(enable = "simd128")]
    pub(super) fn dot_w<const BITS: u8>(mut acc: I4, codes: [I4; 4], x: I4) -> I4 {
        // Even and odd bytes of both sides; even ones of codes that are positive need no sign.
        let even = |x| i16x8_shr(i16x8_shl(x, 8), 8);
        let (xe, xo) = (even(x), i16x8_shr(x, 8));
        for (k, x) in
            [lane::<0>(xe, xo), lane::<1>(xe, xo), lane::<2>(xe, xo), lane::<3>(xe, xo)].into_iter().enumerate()
        {
            let e = if BITS == WHOLE { even(codes[k]) } else { v128_and(codes[k], i16x8_splat(0xff)) };
            acc = i32x4_add(acc, i32x4_add(i32x4_dot_i16x8(e, x[0]), i32x4_dot_i16x8(i16x8_shr(codes[k], 8), x[1])));
        }
        acc
    }

    /// The even and the odd ones of 16 activations, as 16 bits.
    #[inline]
    #[target_feature(enable = "simd128")]
    pub(super) fn spread_w<const BITS: u8>(x: I4) -> [I4; 2] {
        bytes_w(x)
    }

    /// What the sums of `rows_w` lack: the codes' zero times the sum of the activations.
    pub(super) fn start_w<const BITS: u8>(_: &[i8; 16], zero: i32) -> i32 {
        -zero
    }

    /// The lower and the upper nibbles of 16 bytes, even and odd ones.
    #[inline]
    #[target_feature(enable = "simd128")]
    pub(super) fn nibbles_w(packed: I4) -> [[I4; 2]; 2] {
        let four = |x| v128_and(x, i16x8_splat(15));
        [[four(packed), four(u16x8_shr(packed, 8))], [four(u16x8_shr(packed, 4)), u16x8_shr(packed, 12)]]
    }

    /// The even and the odd ones of 16 signed codes.
    #[inline]
    #[target_feature(enable = "simd128")]
    pub(super) fn bytes_w(codes: I4) -> [I4; 2] {
        [i16x8_shr(i16x8_shl(codes, 8), 8), i16x8_shr(codes, 8)]
    }

    /// The dot products of 16 codes of each of 4 rows with 16 activations.
    #[inline]
    #[target_feature(enable = "simd128")]
    pub(super) fn rows_w<const BITS: u8>(codes: [[I4; 2]; 4], x: [I4; 2]) -> I4 {
        let mut sums = [x[0]; 4];
        for r in 0..4 {
            sums[r] = i32x4_add(i32x4_dot_i16x8(codes[r][0], x[0]), i32x4_dot_i16x8(codes[r][1], x[1]));
        }
        across(sums, |a, b| i32x4_add(a, b))
    }

    /// 16 activations as `block_t` takes them: of each 4 the even and the odd ones, as 16 bits. Narrow codes are multiplied
    /// where they stand in their 16 bits, and activations by what makes the products' units the same.
    pub(super) fn spread_t<const BITS: u8>(x: &[i8; 16], part: usize) -> [i32; 8] {
        let [even, odd] = if BITS == WHOLE { [1; 2] } else { [[256, 1], [1, 16]][part] };
        let pair = |a: i8, b: i8, by: i32| (a as i32 * by) & 0xffff | (b as i32 * by) << 16;
        core::array::from_fn(|i| {
            let x = &x[i / 2 * 4..];
            if i % 2 == 0 { pair(x[0], x[2], even) } else { pair(x[1], x[3], odd) }
        })
    }

    /// The dot products of 16 rows of 32 codes, which stand side by side, with 16 and 16 activations.
    ///
    /// # Safety
    /// There are 16 rows of codes, and what `spread_t` gives at each of `x`.
    #[inline]
    #[target_feature(enable = "simd128")]
    pub(super) unsafe fn block_t<const BITS: u8>(
        codes: *const u8,
        x: [*const i32; 2],
        start: [i32; 2],
    ) -> [[I4; 4]; 2] {
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

    #[inline]
    #[target_feature(enable = "simd128")]
    fn lane<const K: usize>(a: I4, b: I4) -> [I4; 2] {
        [i32x4_shuffle::<K, K, K, K>(a, a), i32x4_shuffle::<K, K, K, K>(b, b)]
    }
}

/// Integer dots by the relaxed instruction. Its second operand has 7 bits, and where it has no more, and no sum of two
/// products needs more than 16, all engines agree. The instruction that also adds to lanes of 32 bits is not used: that of
/// V8 11 (node 20) loses what it should add to. The compiler would make it of an addition of neighbouring pairs, so that is
/// a product with ones.
#[cfg(target_feature = "relaxed-simd")]
mod relaxed_dots {
    use super::across;
    use super::lanes::*;
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

    /// 16 activations; where codes have a sign, which of them are below 0, and their sizes.
    #[inline]
    #[target_feature(enable = "simd128")]
    pub(super) fn spread_w<const BITS: u8>(x: I4) -> [I4; 2] {
        if BITS == WHOLE { [i8x16_shr(x, 7), i8x16_abs(x)] } else { [x; 2] }
    }

    /// What the sums of `rows_w` lack: the codes' zero times the sum of the activations, or what `signed` adds.
    pub(super) fn start_w<const BITS: u8>(x: &[i8; 16], zero: i32) -> i32 {
        if BITS == WHOLE { x.iter().map(|&x| -(x.min(0) as i32)).sum() } else { -zero }
    }

    /// The lower and the upper nibbles of 16 bytes.
    #[inline]
    #[target_feature(enable = "simd128")]
    pub(super) fn nibbles_w(packed: I4) -> [[I4; 2]; 2] {
        let four = |x| v128_and(x, i8x16_splat(15));
        [[four(packed); 2], [four(u16x8_shr(packed, 4)); 2]]
    }

    /// 16 signed codes.
    #[inline]
    #[target_feature(enable = "simd128")]
    pub(super) fn bytes_w(codes: I4) -> [I4; 2] {
        [codes; 2]
    }

    /// The dot products of 16 codes, below 16 or with a sign, of each of 4 rows with 16 activations.
    #[inline]
    #[target_feature(enable = "simd128,relaxed-simd")]
    pub(super) fn rows_w<const BITS: u8>(codes: [[I4; 2]; 4], x: [I4; 2]) -> I4 {
        let ones = i16x8_splat(1);
        let mut sums = [ones; 4];
        if BITS == WHOLE {
            for r in 0..4 {
                sums[r] = four(v128_xor(codes[r][0], x[0]), x[1]);
            }
            return across(sums, |a, b| i32x4_add(a, b));
        }
        // All 16 products fit 16 bits.
        for r in 0..4 {
            sums[r] = i16x8_relaxed_dot_i8x16_i7x16(x[0], codes[r][0]);
        }
        i32x4_dot_i16x8(across(sums, |a, b| i16x8_add(a, b)), ones)
    }

    /// 16 activations as `block_t` takes them; where codes have a sign, of each 4 which are below 0, and their sizes.
    pub(super) fn spread_t<const BITS: u8>(x: &[i8; 16], _part: usize) -> [i32; 8] {
        let four = |at: usize, f: &dyn Fn(i8) -> u8| i32::from_le_bytes(core::array::from_fn(|i| f(x[at + i])));
        core::array::from_fn(|i| match (BITS == WHOLE, i % 2) {
            (true, 0) => four(i / 2 * 4, &|x| (x >> 7) as u8),
            (true, _) => four(i / 2 * 4, &|x| x.unsigned_abs()),
            (false, _) => four(i % 4 * 4, &|x| x as u8),
        })
    }

    /// The dot products of 16 rows of 32 codes, which stand side by side, with 16 and 16 activations.
    ///
    /// # Safety
    /// There are 16 rows of codes, and what `spread_t` gives at each of `x`.
    #[inline]
    #[target_feature(enable = "simd128,relaxed-simd")]
    pub(super) unsafe fn block_t<const BITS: u8>(
        codes: *const u8,
        x: [*const i32; 2],
        start: [i32; 2],
    ) -> [[I4; 4]; 2] {
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
}

unit!(simd128 ["simd128"] super::wide_dots);
#[cfg(target_feature = "relaxed-simd")]
unit!(relaxed ["simd128" "relaxed-simd"] super::relaxed_dots);
