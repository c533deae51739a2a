//! Operations on 16 lanes for x86-64, and the products made of them.

#![allow(unsafe_code)]

pub(super) mod avx512;

pub(super) use avx2::quantize;

use super::body;
use super::floats::products;
use super::floats16::floats16;
use super::int16::int16;
use super::ints::{int_wide, integers};
use super::levels::levels;
use super::stored::stored;
use super::unpack::Rows;
use crate::quant;
use crate::quant::{Floats16, Matrix};
use core::arch::x86_64::*;
use core::ops::Range;

/// F16 bits to `f32`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn widen(x: &[u16], out: &mut [f32]) {
    let ((xs, x), (outs, out)) = (x.as_chunks::<8>(), out.as_chunks_mut::<8>());
    for (x, out) in xs.iter().zip(outs) {
        // SAFETY: the arrays have 8 f16 values and 8 floats.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast()))) };
    }
    for (x, out) in x.iter().zip(out) {
        *out = quant::f16_to_f32(*x);
    }
}

/// [`Kernels::decode`](super::Kernels::decode): f16 by its conversion instruction.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn decode(w: &Matrix, rows: Range<usize>, cols: Range<usize>, out: &mut [f32]) {
    let Some(Floats16::F16(bits)) = w.floats16() else { return body::decode(w, rows, cols, out) };
    for (row, out) in rows.zip(out.chunks_exact_mut(cols.len().max(1))) {
        widen(&bits[row * w.cols + cols.start..row * w.cols + cols.end], out);
    }
}

/// Prefetches the cache line at `p`, which need not be valid, into the nearest cache or the next one.
#[inline(always)]
pub(in crate::kernel) fn prefetch(p: *const u8, near: bool) {
    // SAFETY: every x86-64 machine has SSE, and a prefetch touches no memory.
    unsafe { if near { _mm_prefetch::<_MM_HINT_T0>(p.cast()) } else { _mm_prefetch::<_MM_HINT_T1>(p.cast()) } }
}

/// 2 bytes of each row. Assembly: the compiler would collect them in vector registers, but vector loads and shuffles are
/// the bottleneck where this is used.
///
/// # Safety
/// They exist.
#[inline(always)]
unsafe fn heads(rows: Rows) -> [u16; 16] {
    let mut out = [0u64; 4];
    for i in 0..4 {
        // SAFETY: reads 2 bytes of each row: the caller's promise.
        unsafe {
            core::arch::asm!(
                "movzx {a:e}, word ptr [{p}]",
                "movzx {b:e}, word ptr [{p} + {s}]",
                "movzx {c:e}, word ptr [{p} + 2*{s}]",
                "movzx {d:e}, word ptr [{p} + {t}]",
                "shl {b:e}, 16",
                "shl {d:e}, 16",
                "or {a}, {b}",
                "or {c}, {d}",
                "shl {c}, 32",
                "or {a}, {c}",
                p = in(reg) rows.at(4 * i), s = in(reg) rows.apart, t = in(reg) 3 * rows.apart,
                a = out(reg) out[i], b = out(reg) _, c = out(reg) _, d = out(reg) _,
                options(pure, readonly, nostack),
            );
        }
    }
    bytemuck::cast(out)
}

/// The products of a tile, from those of one row.
macro_rules! int_part {
    ($feature:literal) => {
        /// Adds to each lane the dot products of 16 codes with 16 activations, for `M` rows of these and `P` panels.
        ///
        /// # Safety
        /// There are 16 activations at each of `x`, and 4 vectors at each of `codes`.
        #[inline]
        #[target_feature(enable = $feature)]
        unsafe fn int_part<const M: usize, const P: usize, const BITS: u8>(
            sums: &mut [[I; P]; M],
            codes: [*const [u8; 64]; P],
            x: [*const i8; M],
        ) {
            for p in 0..P {
                // SAFETY: the caller's promise.
                let codes = array!(splat_i(0); k => unsafe { load_i(codes[p].add(k)) });
                for m in 0..M {
                    // SAFETY: the caller's promise.
                    sums[m][p] = unsafe { int_four::<BITS>(sums[m][p], codes, x[m]) };
                }
            }
        }
    };
}
use int_part;

/// AVX2 with fused multiply-add: 16 lanes are two registers.
pub(super) mod avx2 {
    use super::{heads, prefetch};
    use core::arch::x86_64::*;

    pub(super) type F = [__m256; 2];
    pub(super) type I = [__m256i; 2];

    /// Rows of activations and of weights in a tile of dot products.
    const DOT_X: usize = 3;
    const DOT_W: usize = 2;
    /// Rows of activations and of weights in a tile of products of 16-bit integers.
    const INT16_X: usize = 4;
    const INT16_W: usize = 1;
    /// Rows and vectors in a tile of sums.
    const SUM_R: usize = 6;
    const SUM_V: usize = 1;
    /// Vectors in a tile of sums of a cache's rows.
    const STORED_V: usize = 2;
    /// Rows of activations in a tile of integer dot products, and of those with codes of 8 bits.
    const INT_X: usize = 2;
    const WHOLE_X: usize = 3;
    /// Panels of weights that such a tile spans.
    const PANELS: usize = 1;
    /// Two products of a full unsigned byte do not fit 16 bits, so such codes are taken as signed.
    const SIGNED_CODES: bool = true;
    /// There are no registers for the codes of two blocks.
    const PRELOAD: bool = false;
    /// There are registers for the sums of 8 rows of activations.
    const MANY_REGISTERS: bool = false;

    macro_rules! op {
        ($name:ident($($arg:ident: $type:ty),*) -> $result:ty $body:block) => {
            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            pub(super) fn $name($($arg: $type),*) -> $result $body
        };
        (unsafe $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)? $body:block) => {
            /// # Safety
            /// The pointer is good for 16 lanes.
            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            pub(super) unsafe fn $name($($arg: $type),*) $(-> $result)? {
                // SAFETY: the caller's promise.
                unsafe { $body }
            }
        };
    }

    op!(unsafe load(p: *const f32) -> F { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] });
    op!(unsafe store(p: *mut f32, x: F) { _mm256_storeu_ps(p, x[0]); _mm256_storeu_ps(p.add(8), x[1]) });
    op!(unsafe load_i(p: *const [u8; 64]) -> I { [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.cast::<__m256i>().add(1))] });
    op!(splat(x: f32) -> F { [_mm256_set1_ps(x); 2] });
    op!(splat_i(x: i32) -> I { [_mm256_set1_epi32(x); 2] });
    op!(fma(a: F, b: F, c: F) -> F { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] });
    op!(mul(a: F, b: F) -> F { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] });
    op!(add(a: F, b: F) -> F { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] });
    op!(sub(a: F, b: F) -> F { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] });
    op!(div(a: F, b: F) -> F { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] });
    op!(nearest(x: F) -> F {
        array!(x[0]; i => _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x[i]))
    });
    op!(size(x: F) -> F { array!(x[0]; i => _mm256_andnot_ps(_mm256_set1_ps(-0.0), x[i])) });
    op!(most(a: F, b: F) -> F {
        array!(a[0]; i => {
            _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a[i]), _mm256_castps_si256(b[i])))
        })
    });
    op!(less(a: F, b: F) -> F { array!(a[0]; i => _mm256_cmp_ps::<_CMP_LT_OQ>(a[i], b[i])) });
    op!(pick(which: F, a: F, b: F) -> F { array!(a[0]; i => _mm256_blendv_ps(b[i], a[i], which[i])) });
    op!(code(out: &mut [i8; 16], x: F) -> () {
        let q: I = array!(splat_i(0)[0]; i => _mm256_cvtps_epi32(x[i]));
        let words = _mm256_permute4x64_epi64::<0xd8>(_mm256_packs_epi32(q[0], q[1]));
        let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
        // SAFETY: the array has 16 bytes.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), bytes) }
    });
    op!(to_float(x: I) -> F { [_mm256_cvtepi32_ps(x[0]), _mm256_cvtepi32_ps(x[1])] });
    op!(low_nibbles(x: I) -> I { let m = _mm256_set1_epi8(15); [_mm256_and_si256(x[0], m), _mm256_and_si256(x[1], m)] });
    op!(high_nibbles(x: I) -> I { low_nibbles([_mm256_srli_epi16::<4>(x[0]), _mm256_srli_epi16::<4>(x[1])]) });
    op!(flip(x: I) -> I { let m = _mm256_set1_epi8(-128); [_mm256_xor_si256(x[0], m), _mm256_xor_si256(x[1], m)] });
    op!(load_from(x: &[f32; 16]) -> F {
        // SAFETY: the array has 16 lanes.
        unsafe { load(x.as_ptr()) }
    });
    op!(store_to(p: &mut [f32; 16], x: F) -> () {
        // SAFETY: the array has 16 lanes.
        unsafe { store(p.as_mut_ptr(), x) }
    });
    op!(store_i(p: &mut [u8; 64], x: I) -> () {
        let p = p.as_mut_ptr().cast::<__m256i>();
        // SAFETY: the array has 64 bytes.
        unsafe { _mm256_storeu_si256(p, x[0]); _mm256_storeu_si256(p.add(1), x[1]) }
    });
    op!(plus(a: I, b: I) -> I { [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])] });
    op!(and(a: I, b: I) -> I { [_mm256_and_si256(a[0], b[0]), _mm256_and_si256(a[1], b[1])] });
    op!(or(a: I, b: I) -> I { [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])] });
    op!(shl(a: I, n: usize) -> I { let n = _mm_cvtsi32_si128(n as i32); [_mm256_sll_epi32(a[0], n), _mm256_sll_epi32(a[1], n)] });
    op!(shr(a: I, n: usize) -> I { let n = _mm_cvtsi32_si128(n as i32); [_mm256_srl_epi32(a[0], n), _mm256_srl_epi32(a[1], n)] });
    op!(byte(a: I, n: usize) -> I { and(shr(a, 8 * n), splat_i(255)) });
    op!(signed_byte(a: I, n: usize) -> I { let a = shl(a, 24 - 8 * n); [_mm256_srai_epi32::<24>(a[0]), _mm256_srai_epi32::<24>(a[1])] });
    op!(look_up(table: &[u8; 16], x: I) -> I {
        // SAFETY: the table has 16 bytes.
        let table = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(table.as_ptr().cast()) });
        [_mm256_shuffle_epi8(table, x[0]), _mm256_shuffle_epi8(table, x[1])]
    });
    op!(low_f16(a: I) -> F {
        let [low, high] = and(a, splat_i(0xffff));
        // Packing works in the two halves of a register; the permutation puts its quarters in order.
        let packed = _mm256_permute4x64_epi64::<0xd8>(_mm256_packus_epi32(low, high));
        [_mm256_cvtph_ps(_mm256_castsi256_si128(packed)), _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(packed))]
    });
    op!(high_f16(a: I) -> F { low_f16(shr(a, 16)) });
    op!(unsafe load_f16(p: *const u16) -> F {
        [_mm256_cvtph_ps(_mm_loadu_si128(p.cast())), _mm256_cvtph_ps(_mm_loadu_si128(p.add(8).cast()))]
    });
    op!(unsafe load_bf16(p: *const u16) -> F {
        let eight = |p: *const u16| _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())));
        [_mm256_castsi256_ps(eight(p)), _mm256_castsi256_ps(eight(p.add(8)))]
    });
    op!(low_int16(low: F, high: F) -> I {
        array!(_mm256_setzero_si256(); i => {
            let (low, high) = (_mm256_castps_si256(low[i]), _mm256_castps_si256(high[i]));
            _mm256_blend_epi16::<0b1010_1010>(low, _mm256_slli_epi32::<16>(high))
        })
    });
    op!(int16_dot(acc: I, a: I, b: I) -> I {
        array!(acc[0]; i => _mm256_add_epi32(acc[i], _mm256_madd_epi16(a[i], b[i])))
    });
    op!(unsafe scale(p: *const u16) -> F { [_mm256_cvtph_ps(_mm_set1_epi16(*p as i16)); 2] });
    op!(unsafe codes(p: *const i8) -> F {
        let eight = |at: usize| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.add(at).cast())));
        [eight(0), eight(8)]
    });

    /// 16 where bits `4k..4k + 4` of a row's dword are set, in panel order.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn bits_to_16(bits: I, k: usize) -> I {
        let row = _mm256_set_epi64x(
            0x0c0c_0c0c_0808_0808,
            0x0404_0404_0000_0000,
            0x0c0c_0c0c_0808_0808,
            0x0404_0404_0000_0000,
        );
        let row = _mm256_add_epi8(row, _mm256_set1_epi8(k as i8 / 2));
        let one = _mm256_set1_epi32(if k.is_multiple_of(2) { 0x0804_0201 } else { 0x8040_2010u32 as i32 });
        array!(row; i => {
            let set = _mm256_and_si256(_mm256_shuffle_epi8(bits[i], row), one);
            _mm256_and_si256(_mm256_cmpeq_epi8(set, one), _mm256_set1_epi8(16))
        })
    }

    /// 4 bytes of each row.
    ///
    /// # Safety
    /// They exist.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn dwords(rows: Rows) -> I {
        // SAFETY: the caller's promise.
        let at = |r: usize| unsafe { rows.at(r).cast::<i32>().read_unaligned() };
        array!(_mm256_setzero_si256(); i => {
            let r = 8 * i;
            _mm256_setr_epi32(at(r), at(r + 1), at(r + 2), at(r + 3), at(r + 4), at(r + 5), at(r + 6), at(r + 7))
        })
    }

    /// Adds to each lane the dot product of 16 codes with 16 activations. Unsigned codes are below 128, so a pair of
    /// products fits 16 bits, and four such pairs if the codes are below 32; so does a pair of signed codes, taken as
    /// magnitude times activation with the code's sign.
    ///
    /// # Safety
    /// There are 16 activations at `x`.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn int_four<const BITS: u8>(mut acc: I, codes: [I; 4], x: *const i8) -> I {
        let mut four = [_mm256_setzero_si256(); 4];
        for k in 0..4 {
            // SAFETY: the caller's promise.
            four[k] = _mm256_set1_epi32(unsafe { x.cast::<i32>().add(k).read_unaligned() });
        }
        let x = four;
        let ones = _mm256_set1_epi16(1);
        for half in 0..2 {
            let pairs: [__m256i; 4] = array!(ones; k => {
                if BITS == WHOLE {
                    _mm256_maddubs_epi16(_mm256_abs_epi8(codes[k][half]), _mm256_sign_epi8(x[k], codes[k][half]))
                } else {
                    _mm256_maddubs_epi16(codes[k][half], x[k])
                }
            });
            let [a, b] = [_mm256_add_epi16(pairs[0], pairs[1]), _mm256_add_epi16(pairs[2], pairs[3])];
            let four = if BITS == NARROW {
                _mm256_madd_epi16(_mm256_add_epi16(a, b), ones)
            } else if BITS == MIDDLE {
                _mm256_add_epi32(_mm256_madd_epi16(a, ones), _mm256_madd_epi16(b, ones))
            } else {
                let [a, b, c, d] = array!(ones; k => _mm256_madd_epi16(pairs[k], ones));
                _mm256_add_epi32(_mm256_add_epi32(a, b), _mm256_add_epi32(c, d))
            };
            acc[half] = _mm256_add_epi32(acc[half], four);
        }
        acc
    }

    /// Returns `x` and forces the compiler to compute it here. Otherwise it would process one row of activations after the
    /// other and spill all codes and their magnitudes for the next row.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn in_turn(mut x: __m256i) -> __m256i {
        // SAFETY: no instruction.
        unsafe { core::arch::asm!("/* {} */", inout(ymm_reg) x, options(nomem, nostack, preserves_flags)) };
        x
    }

    /// Adds to each lane the dot products of 16 codes with 16 activations, for `M` rows of these and `P` panels.
    ///
    /// # Safety
    /// There are 16 activations at each of `x`, and 4 vectors at each of `codes`.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn int_part<const M: usize, const P: usize, const BITS: u8>(
        sums: &mut [[I; P]; M],
        codes: [*const [u8; 64]; P],
        x: [*const i8; M],
    ) {
        for p in 0..P {
            // SAFETY: the caller's promise.
            let codes = |k: usize| unsafe { load_i(codes[p].add(k)) };
            if BITS == WHOLE {
                for k in 0..4 {
                    let codes = codes(k);
                    for half in 0..2 {
                        let size = _mm256_abs_epi8(codes[half]);
                        for m in 0..M {
                            // SAFETY: the caller's promise.
                            let x = _mm256_set1_epi32(unsafe { x[m].cast::<i32>().add(k).read_unaligned() });
                            let pairs = _mm256_maddubs_epi16(size, _mm256_sign_epi8(x, codes[half]));
                            let four = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
                            sums[m][p][half] = in_turn(_mm256_add_epi32(sums[m][p][half], four));
                        }
                    }
                }
                continue;
            }
            let codes = array!(splat_i(0); k => codes(k));
            for m in 0..M {
                // SAFETY: the caller's promise.
                sums[m][p] = unsafe { int_four::<BITS>(sums[m][p], codes, x[m]) };
            }
        }
    }

    /// The lanes of each register summed as a tree: `l` with `l + 8`, then `+ 4`, `+ 2`, `+ 1`.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn sum<const N: usize>(a: [F; N]) -> [f32; N] {
        array!(0.0; n => {
            let [low, high] = a[n];
            let eight = _mm256_add_ps(low, high);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        })
    }

    /// Bytes `4k..4k + 4` of 16 rows, row after row, for `k` from 0 to 3.
    ///
    /// # Safety
    /// They exist.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn transpose(rows: Rows) -> [I; 4] {
        let half = |first: usize| {
            // Row e and 4 + e in the halves of register e. Assembly: the compiler would keep 16 pointers, most of them
            // in memory.
            let mut z = [_mm256_setzero_si256(); 4];
            // SAFETY: reads 16 bytes of each row: the caller's promise.
            unsafe {
                core::arch::asm!(
                    "vbroadcasti128 {a}, [{p}]",
                    "vbroadcasti128 {b}, [{p} + {s}]",
                    "vbroadcasti128 {c}, [{p} + 2*{s}]",
                    "vbroadcasti128 {d}, [{p} + {t}]",
                    "lea {p}, [{p} + 4*{s}]",
                    "vinserti128 {a}, {a}, [{p}], 1",
                    "vinserti128 {b}, {b}, [{p} + {s}], 1",
                    "vinserti128 {c}, {c}, [{p} + 2*{s}], 1",
                    "vinserti128 {d}, {d}, [{p} + {t}], 1",
                    p = inout(reg) rows.at(first) => _, s = in(reg) rows.apart, t = in(reg) 3 * rows.apart,
                    a = out(ymm_reg) z[0], b = out(ymm_reg) z[1], c = out(ymm_reg) z[2], d = out(ymm_reg) z[3],
                    options(pure, readonly, nostack, preserves_flags),
                );
            }
            let (a, b) = (_mm256_unpacklo_epi32(z[0], z[1]), _mm256_unpackhi_epi32(z[0], z[1]));
            let (c, d) = (_mm256_unpacklo_epi32(z[2], z[3]), _mm256_unpackhi_epi32(z[2], z[3]));
            [
                _mm256_unpacklo_epi64(a, c),
                _mm256_unpackhi_epi64(a, c),
                _mm256_unpacklo_epi64(b, d),
                _mm256_unpackhi_epi64(b, d),
            ]
        };
        let (top, bottom) = (half(0), half(8));
        array!([top[0]; 2]; k => [top[k], bottom[k]])
    }

    /// 16 rows of 16 values to columns.
    #[target_feature(enable = "avx2,fma,f16c")]
    fn to_columns(rows: &[[f32; 16]; 16]) -> [[f32; 16]; 16] {
        let mut out = [[0.0; 16]; 16];
        for (down, along) in [(0, 0), (0, 8), (8, 0), (8, 8)] {
            // Rows r and r + 4 in the halves of a register.
            let two = |r: usize, at: usize| {
                let (a, b) = (&rows[down + r][along + at..][..4], &rows[down + r + 4][along + at..][..4]);
                // SAFETY: 4 values each.
                unsafe { _mm256_set_m128(_mm_loadu_ps(b.as_ptr()), _mm_loadu_ps(a.as_ptr())) }
            };
            for at in [0, 4] {
                let r: [__m256; 4] = array!(_mm256_setzero_ps(); r => two(r, at));
                let (a, b) = (_mm256_unpacklo_ps(r[0], r[1]), _mm256_unpackhi_ps(r[0], r[1]));
                let (c, d) = (_mm256_unpacklo_ps(r[2], r[3]), _mm256_unpackhi_ps(r[2], r[3]));
                let columns = [
                    _mm256_shuffle_ps::<0b01_00_01_00>(a, c),
                    _mm256_shuffle_ps::<0b11_10_11_10>(a, c),
                    _mm256_shuffle_ps::<0b01_00_01_00>(b, d),
                    _mm256_shuffle_ps::<0b11_10_11_10>(b, d),
                ];
                for (k, column) in columns.into_iter().enumerate() {
                    let out = &mut out[along + at + k][down..][..8];
                    // SAFETY: 8 values.
                    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), column) };
                }
            }
        }
        out
    }

    /// Levels that are tried at a time.
    const LEVELS_TRIED: usize = 2;

    super::levels!("avx2" "fma" "f16c");
    super::products!("avx2" "fma" "f16c");
    super::floats16!("avx2" "fma" "f16c");
    super::int16!("avx2" "fma" "f16c");
    super::stored!("avx2" "fma" "f16c");
    super::int_wide!("avx2" "fma" "f16c");
    super::integers!("avx2" "fma" "f16c");
}

/// AVX2 with 256-bit VNNI: the operations of AVX2, except for the products of integers.
pub(super) mod avxvnni {
    use super::avx2::*;
    use super::{heads, prefetch};
    use crate::kernel::Tile;
    use core::arch::x86_64::*;
    use core::ops::Range;

    /// Rows of activations in a tile of integer dot products, for all codes.
    const INT_X: usize = 2;
    const WHOLE_X: usize = INT_X;
    /// Panels of weights that such a tile spans.
    const PANELS: usize = 1;
    /// The instruction takes unsigned codes of 8 bits as they are.
    const SIGNED_CODES: bool = false;
    /// There are no registers for the codes of two blocks.
    const PRELOAD: bool = false;
    /// There are registers for the sums of 8 rows of activations.
    const MANY_REGISTERS: bool = false;

    /// Adds to each lane the dot product of 16 codes with 16 activations.
    ///
    /// # Safety
    /// There are 16 activations at `x`.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
    unsafe fn int_four<const BITS: u8>(mut acc: I, codes: [I; 4], x: *const i8) -> I {
        for k in 0..4 {
            // SAFETY: the caller's promise.
            let four = _mm256_set1_epi32(unsafe { x.cast::<i32>().add(k).read_unaligned() });
            acc = [
                _mm256_dpbusd_avx_epi32(acc[0], codes[k][0], four),
                _mm256_dpbusd_avx_epi32(acc[1], codes[k][1], four),
            ];
        }
        acc
    }

    super::int_part!("avx2,fma,f16c,avxvnni");
    super::int_wide!("avx2" "fma" "f16c" "avxvnni");
    super::integers!("avx2" "fma" "f16c" "avxvnni");
}
