//! Operations on 4 lanes for WebAssembly, and the products made of them.

#![allow(unsafe_code)]

#[cfg(target_feature = "relaxed-simd")]
use super::four::by_halves;
use super::four::unit;
use super::{Kernels, Row8, body};
use core::arch::wasm32::*;

/// One register of 4 lanes.
pub(super) mod lanes {
    pub(in crate::kernel) use crate::kernel::unpack::Rows;
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
    pub(in crate::kernel) fn prefetch(_: *const u8, _: bool) {}

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
    op!(mul_w(a: I4, b: I4) -> I4 { i32x4_mul(a, b) });
    op!(add_w(a: I4, b: I4) -> I4 { i32x4_add(a, b) });
    op!(and_w(a: I4, b: I4) -> I4 { v128_and(a, b) });
    op!(or_w(a: I4, b: I4) -> I4 { v128_or(a, b) });
    op!(xor_w(a: I4, b: I4) -> I4 { v128_xor(a, b) });
    op!(shl_w(a: I4, n: usize) -> I4 { i32x4_shl(a, n as u32) });
    op!(shr_w(a: I4, n: usize) -> I4 { u32x4_shr(a, n as u32) });
    op!(
        /// The upper nibble of each byte.
        upper_w(a: I4) -> I4 { v128_and(u16x8_shr(a, 4), i8x16_splat(15)) }
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
        /// The BF16 in the lower half of each lane.
        brain_v(a: I4) -> F4 { i32x4_shl(a, 16) }
    );
    op!(
        /// The low words of the lanes of two registers, in turn.
        words_w(a: F4, b: F4) -> I4 { i16x8_shuffle::<0, 8, 2, 10, 4, 12, 6, 14>(a, b) }
    );
    op!(
        /// Adds to each lane the products of two words.
        word_dot_w(acc: I4, a: I4, b: I4) -> I4 { i32x4_add(acc, i32x4_dot_i16x8(a, b)) }
    );
    op!(
        /// The half in the lower half of each lane.
        half_v(a: I4) -> F4 {
            // The magnitude, as bits of a single of another bias, below copies of the sign; exact for subnormal halves too.
            // That of an infinity or a NaN lacks some bits of its exponent.
            let bits = v128_and(i32x4_shr(i32x4_shl(a, 16), 3), i32x4_splat(0x8fff_e000_u32 as i32));
            let most = i32x4_splat(0x7c00);
            let special = v128_and(i32x4_eq(v128_and(a, most), most), i32x4_splat(0x7f80_0000));
            v128_or(f32x4_mul(bits, f32x4_splat(f32::from_bits(239 << 23))), special)
        }
    );
    op!(
        /// The same but for a NaN, which becomes an infinity: what is too large to be a half then overflows.
        scale_v(a: I4) -> F4 {
            let bits = v128_and(i32x4_shr(i32x4_shl(a, 16), 3), i32x4_splat(0x8fff_e000_u32 as i32));
            let up = f32x4_splat(f32::from_bits(239 << 23));
            f32x4_mul(f32x4_mul(f32x4_mul(bits, up), up), f32x4_splat(f32::from_bits(15 << 23)))
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

/// Sees that these are computed before what is loaded later: V8 would work on all rows at once and have too few registers
/// for them.
#[inline]
#[target_feature(enable = "simd128")]
fn finish<const N: usize>(sums: [v128; N]) {
    for mut sum in sums {
        // SAFETY: a place of its own. A store keeps its place among loads, which nothing else does.
        unsafe { core::ptr::write_volatile(&mut sum, sum) };
    }
}

/// [`Kernels::quantize`](super::Kernels::quantize) with a lane a level.
fn quantize(x: &[f32], mut out: Row8) {
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
/// They are there.
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

/// Integer dots by products of 16 bits.
mod wide_dots {
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
        for (k, x) in
            [lane::<0>(xe, xo), lane::<1>(xe, xo), lane::<2>(xe, xo), lane::<3>(xe, xo)].into_iter().enumerate()
        {
            let e = if BITS == WHOLE { even(codes[k]) } else { v128_and(codes[k], i16x8_splat(0xff)) };
            acc = i32x4_add(acc, i32x4_add(i32x4_dot_i16x8(e, x[0]), i32x4_dot_i16x8(i16x8_shr(codes[k], 8), x[1])));
        }
        acc
    }

    /// 16 activations as `block_w` takes them, as 16 bits: the even and the odd ones, with factors as in `spread_t`; with
    /// codes of 8 bits as they come.
    pub(super) fn spread_w<const BITS: u8>(x: &[i8; 16], part: usize) -> [i32; 8] {
        let pair = |a: usize, b: usize, by: i32| (x[a] as i32 * by) & 0xffff | (x[b] as i32 * by) << 16;
        let factors = [[256, 1], [1, 16]][part];
        core::array::from_fn(|i| match BITS {
            WHOLE => pair(2 * i, 2 * i + 1, 1),
            _ => pair(i % 4 * 4 + i / 4, i % 4 * 4 + i / 4 + 2, factors[i / 4]),
        })
    }

    /// What the sums of `block_w` lack: the codes' zero times the sum of the activations.
    pub(super) fn start_w<const BITS: u8>(_: &[i8; 16], zero: i32) -> i32 {
        -zero
    }

    /// The dot products of 32 codes of each of 4 rows with 16 and 16 activations.
    ///
    /// # Safety
    /// There are a half and 32 codes at each of `blocks`, and what `spread_w` gives at each of `x`.
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

    /// What `wide_w` gives, in units of the sums.
    pub(super) const fn unit<const BITS: u8>() -> i32 {
        if BITS == WHOLE { 1 } else { 16 }
    }

    /// 32 wide activations as 16 bits: the even and the odd ones of the first half and of the second, as codes of 8 bits meet
    /// them. A byte `a + 16 b` of narrow codes is multiplied as it stands and then `a` again, since `16 (a x + b y) = (a + 16
    /// b) y + a (16 x − y)`: so for these the first half is 16 times itself less the second.
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

    /// 32 wide activations as `wide_w` takes them: with narrow codes what `factors` gives, with others in their order.
    pub(super) fn spread_wide_w<const BITS: u8>(high: &[i8; 32], low: &[i8; 32]) -> [i32; 32] {
        let [a, b, c, d] = factors::<BITS>(high, low);
        let first = |a, b| i16x8_shuffle::<0, 8, 1, 9, 2, 10, 3, 11>(a, b);
        let second = |a, b| i16x8_shuffle::<4, 12, 5, 13, 6, 14, 7, 15>(a, b);
        stored(if BITS == WHOLE { [first(a, b), second(a, b), first(c, d), second(c, d)] } else { [a, b, c, d] })
    }

    /// Of the bytes of narrow codes what is multiplied: lower nibbles of even and of odd ones, and these themselves.
    #[inline]
    #[target_feature(enable = "simd128")]
    fn nibbles(bytes: I4) -> [I4; 4] {
        let (low, odd) = (i16x8_splat(15), u16x8_shr(bytes, 8));
        [v128_and(bytes, low), v128_and(odd, low), v128_and(bytes, i16x8_splat(255)), odd]
    }

    /// The dot products of 32 codes of each of 4 rows with 32 wide activations, `unit` times.
    ///
    /// # Safety
    /// There are a half and 32 codes at each of `blocks`, and what `spread_wide_w` gives at `x`.
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

    /// 32 wide activations as `wide_t` takes them: of each 4 the even and the odd ones, as 16 bits.
    pub(super) fn spread_wide_t<const BITS: u8>(high: &[i8; 32], low: &[i8; 32]) -> [i32; 32] {
        let [a, b, c, d] = factors::<BITS>(high, low);
        let first = |a, b| i32x4_shuffle::<0, 4, 1, 5>(a, b);
        let second = |a, b| i32x4_shuffle::<2, 6, 3, 7>(a, b);
        stored([first(a, b), second(a, b), first(c, d), second(c, d)])
    }

    /// The dot products of 16 rows of 32 codes, which stand side by side, with 32 wide activations.
    ///
    /// # Safety
    /// There are 16 rows of codes, and what `spread_wide_t` gives at `x`.
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

    /// 16 wide activations as `wide_r` takes them.
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

    pub(super) use super::{arrange, bits_to_16};
    /// Whether the sums of signed codes start from something.
    pub(super) const SIGNS_START: bool = false;

    /// The even and the odd ones of 16 activations, as 16 bits.
    #[inline]
    #[target_feature(enable = "simd128")]
    pub(super) fn spread_r(_zero: u8, x: I4) -> [I4; 2] {
        [i16x8_shr(i16x8_shl(x, 8), 8), i16x8_shr(x, 8)]
    }

    /// What the sums of `rows_r` lack: the codes' zero times the sum of the activations.
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
}

/// Integer dots by the relaxed instruction. Its second operand has 7 bits, and where it has no more, and no sum of two
/// products needs more than 16, all engines agree. The instruction that also adds to lanes of 32 bits is not used: that of
/// V8 11 (node 20) loses what it should add to. The compiler would make it of an addition of neighbouring pairs, so that is
/// a product with ones.
#[cfg(target_feature = "relaxed-simd")]
mod relaxed_dots {
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

    /// 16 activations as `block_w` takes them; where codes have a sign, which of them are below 0, and their sizes.
    pub(super) fn spread_w<const BITS: u8>(x: &[i8; 16], _part: usize) -> [i32; 8] {
        let four = |i: usize, f: fn(i8) -> u8| i32::from_le_bytes(core::array::from_fn(|k| f(x[i % 4 * 4 + k])));
        core::array::from_fn(|i| match (BITS, i / 4) {
            (WHOLE, 0) => four(i, |x| (x >> 7) as u8),
            (WHOLE, _) => four(i, |x| x.unsigned_abs()),
            _ => four(i, |x| x as u8),
        })
    }

    /// What the sums of `block_w` lack: the codes' zero times the sum of the activations, or what `signed` adds.
    pub(super) fn start_w<const BITS: u8>(x: &[i8; 16], zero: i32) -> i32 {
        if BITS == WHOLE { x.iter().map(|&x| -(x.min(0) as i32)).sum() } else { -zero }
    }

    /// The dot products of 32 codes of each of 4 rows with 16 and 16 activations.
    ///
    /// # Safety
    /// There are a half and 32 codes at each of `blocks`, and what `spread_w` gives at each of `x`.
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
    /// Whether the sums of signed codes start from something.
    pub(super) const SIGNS_START: bool = true;

    /// 16 activations; where codes have a sign, which of them are below 0, and their sizes.
    #[inline]
    #[target_feature(enable = "simd128")]
    pub(super) fn spread_r(zero: u8, x: I4) -> [I4; 2] {
        if zero == 128 { [i8x16_shr(x, 7), i8x16_abs(x)] } else { [x; 2] }
    }

    /// What the sums of `rows_r` lack: the codes' zero times the sum of the activations, or what `signed` adds.
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
}

unit!(simd128 ["simd128"] super::wide_dots);
#[cfg(target_feature = "relaxed-simd")]
unit!(relaxed ["simd128" "relaxed-simd"] super::relaxed_dots);
