//! AVX-512 with VNNI: 16 lanes are one register.

#![allow(unsafe_code)]

use super::{heads, prefetch};
use core::arch::x86_64::*;

type F = __m512;
type I = __m512i;

/// Rows of activations and of weights in a tile of dot products.
const DOT_X: usize = 6;
const DOT_W: usize = 4;
/// Rows of activations and of weights in a tile of products of 16-bit integers.
const INT16_X: usize = 6;
const INT16_W: usize = 4;
/// Rows and vectors in a tile of sums.
const SUM_R: usize = 6;
const SUM_V: usize = 4;
/// Vectors in a tile of sums of a cache's rows.
const STORED_V: usize = 4;
/// Rows of activations in a tile of integer dot products, for all codes.
const INT_X: usize = 4;
const WHOLE_X: usize = INT_X;
/// Panels of weights that such a tile spans.
const PANELS: usize = 2;
/// The instruction takes unsigned codes of 8 bits as they are.
const SIGNED_CODES: bool = false;
/// There are registers for the codes of two blocks.
const PRELOAD: bool = true;
/// There are registers for the sums of 8 rows of activations.
const MANY_REGISTERS: bool = true;

macro_rules! op {
    ($(#[doc = $doc:literal])* $name:ident($($arg:ident: $type:ty),*) -> $result:ty $body:block) => {
        $(#[doc = $doc])*
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
        fn $name($($arg: $type),*) -> $result $body
    };
    (unsafe $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)? $body:block) => {
        /// # Safety
        /// The pointer is good for 16 lanes.
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
        unsafe fn $name($($arg: $type),*) $(-> $result)? {
            // SAFETY: the caller's promise.
            unsafe { $body }
        }
    };
}

op!(unsafe load(p: *const f32) -> F { _mm512_loadu_ps(p) });
op!(unsafe store(p: *mut f32, x: F) { _mm512_storeu_ps(p, x) });
op!(unsafe load_i(p: *const [u8; 64]) -> I { _mm512_loadu_si512(p.cast()) });
op!(splat(x: f32) -> F { _mm512_set1_ps(x) });
op!(splat_i(x: i32) -> I { _mm512_set1_epi32(x) });
op!(fma(a: F, b: F, c: F) -> F { _mm512_fmadd_ps(a, b, c) });
op!(mul(a: F, b: F) -> F { _mm512_mul_ps(a, b) });
op!(add(a: F, b: F) -> F { _mm512_add_ps(a, b) });
op!(sub(a: F, b: F) -> F { _mm512_sub_ps(a, b) });
op!(div(a: F, b: F) -> F { _mm512_div_ps(a, b) });
op!(nearest(x: F) -> F { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) });
op!(size(x: F) -> F { _mm512_abs_ps(x) });
op!(most(a: F, b: F) -> F {
    _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)))
});
op!(less(a: F, b: F) -> __mmask16 { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b) });
op!(pick(which: __mmask16, a: F, b: F) -> F { _mm512_mask_blend_ps(which, b, a) });
op!(code(out: &mut [i8; 16], x: F) -> () {
    let bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x));
    // SAFETY: the array has 16 bytes.
    unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), bytes) }
});
op!(to_float(x: I) -> F { _mm512_cvtepi32_ps(x) });
op!(low_nibbles(x: I) -> I { _mm512_and_si512(x, _mm512_set1_epi8(15)) });
op!(high_nibbles(x: I) -> I { low_nibbles(_mm512_srli_epi16::<4>(x)) });
op!(flip(x: I) -> I { _mm512_xor_si512(x, _mm512_set1_epi8(-128)) });
op!(load_from(x: &[f32; 16]) -> F {
    // SAFETY: the array has 16 lanes.
    unsafe { load(x.as_ptr()) }
});
op!(store_to(p: &mut [f32; 16], x: F) -> () {
    // SAFETY: the array has 16 lanes.
    unsafe { store(p.as_mut_ptr(), x) }
});
op!(store_i(p: &mut [u8; 64], x: I) -> () {
    // SAFETY: the array has 64 bytes.
    unsafe { _mm512_storeu_si512(p.as_mut_ptr().cast(), x) }
});
op!(plus(a: I, b: I) -> I { _mm512_add_epi32(a, b) });
op!(and(a: I, b: I) -> I { _mm512_and_si512(a, b) });
op!(or(a: I, b: I) -> I { _mm512_or_si512(a, b) });
op!(shl(a: I, n: usize) -> I { _mm512_sll_epi32(a, _mm_cvtsi32_si128(n as i32)) });
op!(shr(a: I, n: usize) -> I { _mm512_srl_epi32(a, _mm_cvtsi32_si128(n as i32)) });
op!(byte(a: I, n: usize) -> I { and(shr(a, 8 * n), splat_i(255)) });
op!(signed_byte(a: I, n: usize) -> I { _mm512_srai_epi32::<24>(shl(a, 24 - 8 * n)) });
op!(look_up(table: &[u8; 16], x: I) -> I {
    // SAFETY: the table has 16 bytes.
    let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
    _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), x)
});
op!(low_f16(a: I) -> F { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a)) });
op!(unsafe load_f16(p: *const u16) -> F {
    // Not `_mm512_cvtph_ps`: it suppresses exceptions, which prevents the load from being folded into the instruction.
    _mm512_cvt_roundph_ps::<_MM_FROUND_CUR_DIRECTION>(_mm256_loadu_si256(p.cast()))
});
op!(unsafe load_bf16(p: *const u16) -> F {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()))))
});
/// The low 16 bits of the lanes of two registers, alternating.
const IN_TURN: [u16; 32] = {
    let mut out = [0; 32];
    let mut i = 0;
    while i < 32 {
        out[i] = (i / 2 * 2 + i % 2 * 32) as u16;
        i += 1;
    }
    out
};
op!(low_int16(low: F, high: F) -> I {
    // SAFETY: 64 bytes.
    let at = unsafe { _mm512_loadu_si512(IN_TURN.as_ptr().cast()) };
    _mm512_permutex2var_epi16(_mm512_castps_si512(low), at, _mm512_castps_si512(high))
});
op!(int16_dot(acc: I, a: I, b: I) -> I {
    let mut acc = acc;
    // SAFETY: it changes the register named. Assembly: the compiler would make two instructions of it.
    unsafe {
        core::arch::asm!("vpdpwssd {acc}, {a}, {b}", acc = inout(zmm_reg) acc, a = in(zmm_reg) a, b = in(zmm_reg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    acc
});
op!(unsafe scale(p: *const u16) -> F { _mm512_cvtph_ps(_mm256_set1_epi16(*p as i16)) });
op!(unsafe codes(p: *const i8) -> F { to_float(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))) });
op!(high_f16(a: I) -> F { low_f16(shr(a, 16)) });

/// 16 where bits `4k..4k + 4` of a row's dword are set, in panel order.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn bits_to_16(bits: I, k: usize) -> I {
    let row = _mm512_set_epi64(
        0x0c0c_0c0c_0808_0808,
        0x0404_0404_0000_0000,
        0x0c0c_0c0c_0808_0808,
        0x0404_0404_0000_0000,
        0x0c0c_0c0c_0808_0808,
        0x0404_0404_0000_0000,
        0x0c0c_0c0c_0808_0808,
        0x0404_0404_0000_0000,
    );
    let spread = _mm512_shuffle_epi8(bits, _mm512_add_epi8(row, _mm512_set1_epi8(k as i8 / 2)));
    let one = _mm512_set1_epi32(if k.is_multiple_of(2) { 0x0804_0201 } else { 0x8040_2010u32 as i32 });
    _mm512_maskz_set1_epi8(_mm512_test_epi8_mask(spread, one), 16)
}

/// 4 bytes of each row.
///
/// # Safety
/// They exist.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn dwords(rows: Rows) -> I {
    // SAFETY: the caller's promise.
    let at = |r: usize| unsafe { rows.at(r).cast::<i32>().read_unaligned() };
    _mm512_setr_epi32(
        at(0),
        at(1),
        at(2),
        at(3),
        at(4),
        at(5),
        at(6),
        at(7),
        at(8),
        at(9),
        at(10),
        at(11),
        at(12),
        at(13),
        at(14),
        at(15),
    )
}

/// Adds to each lane the dot product of 16 codes with 16 activations.
///
/// # Safety
/// There are 16 activations at `x`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn int_four<const BITS: u8>(mut acc: I, codes: [I; 4], x: *const i8) -> I {
    for k in 0..4 {
        // SAFETY: the caller's promise.
        let four = unsafe { x.cast::<i32>().add(k).read_unaligned() };
        acc = _mm512_dpbusd_epi32(acc, codes[k], _mm512_set1_epi32(four));
    }
    acc
}

/// Puts 32 columns of codes into a panel.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn store_codes(panel: &mut [[u8; 64]; 8], codes: [I; 8], _zero: u8) {
    for k in 0..8 {
        store_i(&mut panel[k], codes[k]);
    }
}

/// The scaled sums of `int_tile`. `min`: the format has mins, and its codes no zero.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn scaled_tile<const M: usize, const P: usize, const SUB: usize, const BITS: u8, const WIDE: bool>(
    panels: &[Panel; P],
    cols: Range<usize>,
    of: Sides,
    min: bool,
    i: usize,
    acc: &mut [[F; P]; M],
) {
    let (x, c) = (of.x, of.x.c);
    assert!(M > 0 && P > 0 && cols.end <= c && cols.len() <= CHUNK && cols.len().is_multiple_of(32), "columns");
    let [q, d] = [i * c..(i + M) * c, i * (c / 16)..(i + M) * (c / 16)];
    let s = if min { &[][..] } else { &of.start[d.clone()] };
    let low_q = if WIDE { &x.q[(x.n + i) * c..(x.n + i + M) * c] } else { &[] };
    let (q, d) = (&x.q[q], &x.d[d]);
    let mut at = Place {
        codes: panels[0].codes.as_ptr().cast(),
        scales: panels[0].scales.as_ptr().cast(),
        q: q[cols.start..].as_ptr(),
        low_q: if WIDE { low_q[cols.start..].as_ptr() } else { core::ptr::null() },
        d: d[cols.start / 16..].as_ptr(),
        s: if min { core::ptr::null() } else { s[cols.start / 16..].as_ptr() },
        down: c,
    };
    let mut y = *acc;
    for _ in 0..cols.len() / 32 {
        // SAFETY: the slices hold `M` rows of `c` columns, and the panels `cols`, of which 32 follow.
        unsafe {
            match (M, P, min) {
                (4, 2, false) => four_by_two::<SUB, false, WIDE>(at, y.as_flattened_mut()),
                (4, 2, true) => four_by_two::<SUB, true, WIDE>(at, y.as_flattened_mut()),
                _ if WIDE => wide_columns::<M, P, SUB>(at, min, &mut y),
                _ => columns::<M, P, SUB>(at, min, &mut y),
            }
        }
        at.codes = at.codes.wrapping_add(512);
        at.scales = at.scales.wrapping_add(16 * (32 / SUB));
        at.q = at.q.wrapping_add(32);
        at.low_q = at.low_q.wrapping_add(32);
        at.d = at.d.wrapping_add(2);
        at.s = at.s.wrapping_add(2);
    }
    *acc = y;
}

/// Where 32 columns of a tile begin in the first panel and in the first row of activations. The next panel lies behind
/// the first; the next row has its codes `down` bytes on, and its scales and starts `down / 16` values.
#[derive(Clone, Copy)]
struct Place {
    codes: *const u8,
    scales: *const f32,
    q: *const i8,
    /// The low bytes of wide codes.
    low_q: *const i8,
    d: *const f32,
    s: *const i32,
    down: usize,
}

/// 32 columns of `M` rows of activations with `P` panels.
///
/// # Safety
/// They exist.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn columns<const M: usize, const P: usize, const SUB: usize>(at: Place, min: bool, acc: &mut [[F; P]; M]) {
    let mut scaled = [[splat(0.0); P]; M];
    for part in 0..2 {
        // SAFETY: the caller's promise.
        unsafe {
            let mut ints: [[I; P]; M] = array!([splat_i(0); P]; m => {
                [splat_i(if min { 0 } else { *at.s.add(m * (at.down / 16) + part) }); P]
            });
            for k in 4 * part..4 * part + 4 {
                let codes: [I; P] = array!(splat_i(0); p => {
                    load_i(at.codes.add(p * size_of::<Panel>() + 64 * k).cast())
                });
                for m in 0..M {
                    let four = splat_i(at.q.add(m * at.down).cast::<i32>().add(k).read_unaligned());
                    for p in 0..P {
                        ints[m][p] = _mm512_dpbusd_epi32(ints[m][p], codes[p], four);
                    }
                }
            }
            let scale: [F; P] = array!(splat(0.0); p => {
                load(at.scales.byte_add(p * size_of::<Panel>() + 64 * if SUB == 16 { part } else { 0 }))
            });
            for m in 0..M {
                let d = splat(*at.d.add(m * (at.down / 16) + part));
                for p in 0..P {
                    scaled[m][p] = fma(d, to_float(ints[m][p]), scaled[m][p]);
                    if SUB == 16 || part == 1 {
                        acc[m][p] = fma(scale[p], scaled[m][p], acc[m][p]);
                    }
                    if SUB == 16 {
                        scaled[m][p] = splat(0.0);
                    }
                }
            }
        }
    }
}

/// The same with wide codes.
///
/// # Safety
/// They exist.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn wide_columns<const M: usize, const P: usize, const SUB: usize>(at: Place, min: bool, acc: &mut [[F; P]; M]) {
    for part in (0..2).step_by(SUB / 16) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut high = [[splat_i(0); P]; M];
            let mut ints: [[I; P]; M] = array!([splat_i(0); P]; m => {
                [splat_i(if min { 0 } else { *at.s.add(m * (at.down / 16) + part) }); P]
            });
            for k in 4 * part..4 * part + SUB / 4 {
                let codes: [I; P] = array!(splat_i(0); p => {
                    load_i(at.codes.add(p * size_of::<Panel>() + 64 * k).cast())
                });
                for m in 0..M {
                    let four = |q: *const i8| splat_i(q.add(m * at.down).cast::<i32>().add(k).read_unaligned());
                    let (upper, lower) = (four(at.q), four(at.low_q));
                    for p in 0..P {
                        high[m][p] = _mm512_dpbusd_epi32(high[m][p], codes[p], upper);
                        ints[m][p] = _mm512_dpbusd_epi32(ints[m][p], codes[p], lower);
                    }
                }
            }
            for p in 0..P {
                let scale = load(at.scales.byte_add(p * size_of::<Panel>() + 64 * part));
                for m in 0..M {
                    let d = splat(*at.d.add(m * (at.down / 16) + part));
                    let scaled = mul(d, to_float(plus(shl(high[m][p], 4), ints[m][p])));
                    acc[m][p] = fma(scale, scaled, acc[m][p]);
                }
            }
        }
    }
}

/// [`columns`], or [`wide_columns`], of 4 rows of activations with 2 panels. The integer sums of the first 16 columns
/// become floats between the products of the second.
///
/// Assembly: the compiler would load all codes before the first product, and spill.
///
/// # Safety
/// As there.
#[rustfmt::skip]
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn four_by_two<const SUB: usize, const MIN: bool, const WIDE: bool>(at: Place, acc: &mut [F]) {
    let acc: &mut [F; 8] = acc.try_into().expect("4 rows and 2 panels");
    // A row of activations: the registers of its sums, of the integer sums of its first part and of its second, each
    // for both panels; where its codes stand, and its scales and starts. zmm24 and 25 hold codes or scales of both
    // panels.
    macro_rules! rows {
        ($op:ident $($arg:tt)*) => { concat!(
            $op!(["0" "1" "8" "9" "16" "17" "" ""] $($arg)*),
            $op!(["2" "3" "10" "11" "18" "19" "+ {n}" "+ {k}"] $($arg)*),
            $op!(["4" "5" "12" "13" "20" "21" "+ 2*{n}" "+ 2*{k}"] $($arg)*),
            $op!(["6" "7" "14" "15" "22" "23" "+ {n3}" "+ {k3}"] $($arg)*),
        ) };
    }
    // Integer sums start from 0,
    macro_rules! zero {
        ([$y:tt $z:tt $a:tt $b:tt $c:tt $d:tt $x:tt $k:tt] first) => { concat!(
            "vpxord zmm", $a, ", zmm", $a, ", zmm", $a, "\n",
            "vpxord zmm", $b, ", zmm", $b, ", zmm", $b, "\n",
        ) };
        ([$y:tt $z:tt $a:tt $b:tt $c:tt $d:tt $x:tt $k:tt] second) => { concat!(
            "vpxord zmm", $c, ", zmm", $c, ", zmm", $c, "\n",
            "vpxord zmm", $d, ", zmm", $d, ", zmm", $d, "\n",
        ) };
    }
    // or from a number;
    macro_rules! start {
        ([$y:tt $z:tt $a:tt $b:tt $c:tt $d:tt $x:tt $k:tt] first) => { concat!(
            "vpbroadcastd zmm", $a, ", dword ptr [{s} ", $k, "]\n",
            "vmovdqa64 zmm", $b, ", zmm", $a, "\n",
        ) };
        ([$y:tt $z:tt $a:tt $b:tt $c:tt $d:tt $x:tt $k:tt] second) => { concat!(
            "vpbroadcastd zmm", $c, ", dword ptr [{s} ", $k, " + 4]\n",
            "vmovdqa64 zmm", $d, ", zmm", $c, "\n",
        ) };
    }
    // Of wide codes those of the high bytes start from 0, in the place of the first part, those of the low ones from
    // here.
    macro_rules! wide {
        ([$y:tt $z:tt $a:tt $b:tt $c:tt $d:tt $x:tt $k:tt] start $at:tt) => { concat!(
            "vpbroadcastd zmm", $c, ", dword ptr [{s} ", $k, " + ", $at, "]\n",
            "vmovdqa64 zmm", $d, ", zmm", $c, "\n",
        ) };
        // The products of 4 columns with both bytes;
        ([$y:tt $z:tt $a:tt $b:tt $c:tt $d:tt $x:tt $k:tt] product $at:tt) => { concat!(
            "vpbroadcastd zmm26, dword ptr [{x} ", $x, " + ", $at, "]\n",
            "vpbroadcastd zmm27, dword ptr [{l} ", $x, " + ", $at, "]\n",
            "vpdpbusd zmm", $a, ", zmm24, zmm26\n",
            "vpdpbusd zmm", $b, ", zmm25, zmm26\n",
            "vpdpbusd zmm", $c, ", zmm24, zmm27\n",
            "vpdpbusd zmm", $d, ", zmm25, zmm27\n",
        ) };
        // the sum of both as a float, scaled.
        ([$y:tt $z:tt $a:tt $b:tt $c:tt $d:tt $x:tt $k:tt] join $at:tt) => { concat!(
            "vpslld zmm", $a, ", zmm", $a, ", 4\n",
            "vpslld zmm", $b, ", zmm", $b, ", 4\n",
            "vpaddd zmm", $a, ", zmm", $a, ", zmm", $c, "\n",
            "vpaddd zmm", $b, ", zmm", $b, ", zmm", $d, "\n",
            "vcvtdq2ps zmm", $a, ", zmm", $a, "\n",
            "vcvtdq2ps zmm", $b, ", zmm", $b, "\n",
            "vbroadcastss zmm26, dword ptr [{d} ", $k, " + ", $at, "]\n",
            "vmulps zmm", $a, ", zmm", $a, ", zmm26\n",
            "vmulps zmm", $b, ", zmm", $b, ", zmm26\n",
        ) };
    }
    // get the products of 4 columns,
    macro_rules! product {
        ([$y:tt $z:tt $a:tt $b:tt $c:tt $d:tt $x:tt $k:tt] first $at:tt) => { concat!(
            "vpbroadcastd zmm26, dword ptr [{x} ", $x, " + ", $at, "]\n",
            "vpdpbusd zmm", $a, ", zmm24, zmm26\n",
            "vpdpbusd zmm", $b, ", zmm25, zmm26\n",
        ) };
        ([$y:tt $z:tt $a:tt $b:tt $c:tt $d:tt $x:tt $k:tt] second $at:tt) => { concat!(
            "vpbroadcastd zmm26, dword ptr [{x} ", $x, " + ", $at, "]\n",
            "vpdpbusd zmm", $c, ", zmm24, zmm26\n",
            "vpdpbusd zmm", $d, ", zmm25, zmm26\n",
        ) };
    }
    // become floats,
    macro_rules! float {
        ([$y:tt $z:tt $a:tt $b:tt $c:tt $d:tt $x:tt $k:tt] first) => { concat!(
            "vcvtdq2ps zmm", $a, ", zmm", $a, "\n",
            "vcvtdq2ps zmm", $b, ", zmm", $b, "\n",
        ) };
        ([$y:tt $z:tt $a:tt $b:tt $c:tt $d:tt $x:tt $k:tt] second) => { concat!(
            "vcvtdq2ps zmm", $c, ", zmm", $c, "\n",
            "vcvtdq2ps zmm", $d, ", zmm", $d, "\n",
        ) };
    }
    // and count with the scale of their activations.
    macro_rules! times {
        ([$y:tt $z:tt $a:tt $b:tt $c:tt $d:tt $x:tt $k:tt] first) => { concat!(
            "vbroadcastss zmm26, dword ptr [{d} ", $k, "]\n",
            "vmulps zmm", $a, ", zmm", $a, ", zmm26\n",
            "vmulps zmm", $b, ", zmm", $b, ", zmm26\n",
        ) };
        ([$y:tt $z:tt $a:tt $b:tt $c:tt $d:tt $x:tt $k:tt] second) => { concat!(
            "vbroadcastss zmm26, dword ptr [{d} ", $k, " + 4]\n",
            "vmulps zmm", $c, ", zmm", $c, ", zmm26\n",
            "vmulps zmm", $d, ", zmm", $d, ", zmm26\n",
        ) };
    }
    // The second part so, added to the first.
    macro_rules! plus {
        ([$y:tt $z:tt $a:tt $b:tt $c:tt $d:tt $x:tt $k:tt] ) => { concat!(
            "vbroadcastss zmm26, dword ptr [{d} ", $k, " + 4]\n",
            "vfmadd231ps zmm", $a, ", zmm", $c, ", zmm26\n",
            "vfmadd231ps zmm", $b, ", zmm", $d, ", zmm26\n",
        ) };
    }
    // A part, or both, with the scales of the weights.
    macro_rules! add {
        ([$y:tt $z:tt $a:tt $b:tt $c:tt $d:tt $x:tt $k:tt] first) => { concat!(
            "vfmadd231ps zmm", $y, ", zmm", $a, ", zmm24\n",
            "vfmadd231ps zmm", $z, ", zmm", $b, ", zmm25\n",
        ) };
        ([$y:tt $z:tt $a:tt $b:tt $c:tt $d:tt $x:tt $k:tt] second) => { concat!(
            "vfmadd231ps zmm", $y, ", zmm", $c, ", zmm24\n",
            "vfmadd231ps zmm", $z, ", zmm", $d, ", zmm25\n",
        ) };
    }
    // What both panels have at a place.
    macro_rules! load {
        ($from:tt $at:tt) => {
            concat!("vmovaps zmm24, [{", $from, "} + ", $at, "]\nvmovaps zmm25, [{", $from, "} + ", $at, " + {panel}]\n")
        };
    }
    // 4 columns of all rows.
    macro_rules! step {
        ($side:tt $at:tt $x:tt) => { concat!(load!("c" $at), rows!(product $side $x)) };
    }
    macro_rules! narrow {
        ($start:ident, [$($middle:expr),*], [$($end:expr),*]) => {
            assembly!(
                rows!($start first),
                step!(first "0" "0"), step!(first "64" "4"), step!(first "128" "8"), step!(first "192" "12"),
                rows!($start second),
                step!(second "256" "16"), rows!(float first),
                step!(second "320" "20"), rows!(times first),
                step!(second "384" "24"), $($middle,)*
                step!(second "448" "28"), rows!(float second),
                $($end,)*
            )
        };
    }
    macro_rules! sixteen {
        ($(($at:tt $x:tt)),*) => { concat!($(load!("c" $at), rows!(wide product $x)),*) };
    }
    macro_rules! assembly {
        ($($line:expr,)*) => {
            core::arch::asm!(
                $($line,)*
                "/* {s} {l} */",
                c = in(reg) at.codes, w = in(reg) at.scales, x = in(reg) at.q, d = in(reg) at.d, s = in(reg) at.s,
                l = in(reg) at.low_q,
                n = in(reg) at.down, n3 = in(reg) 3 * at.down, k = in(reg) at.down / 4, k3 = in(reg) at.down / 4 * 3,
                panel = const size_of::<Panel>(),
                inout("zmm0") acc[0], inout("zmm1") acc[1], inout("zmm2") acc[2], inout("zmm3") acc[3],
                inout("zmm4") acc[4], inout("zmm5") acc[5], inout("zmm6") acc[6], inout("zmm7") acc[7],
                out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _, out("zmm12") _, out("zmm13") _,
                out("zmm14") _, out("zmm15") _, out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _,
                out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _, out("zmm24") _, out("zmm25") _,
                out("zmm26") _, out("zmm27") _,
                options(readonly, nostack, preserves_flags),
            )
        };
    }
    macro_rules! shared {
        ($start:ident) => { narrow!($start, [], [rows!(plus), load!("w" "0"), rows!(add first)]) };
    }
    macro_rules! each {
        ($start:ident) => {
            narrow!($start, [load!("w" "0"), rows!(add first)],
                [rows!(times second), load!("w" "64"), rows!(add second)])
        };
    }
    macro_rules! wide_starts {
        (start $at:tt) => { concat!(rows!(zero first), rows!(wide start $at)) };
        (zero $at:tt) => { concat!(rows!(zero first), rows!(zero second)) };
    }
    macro_rules! wide_shared {
        ($start:ident) => {
            assembly!(
                wide_starts!($start "0"),
                sixteen!(("0" "0"), ("64" "4"), ("128" "8"), ("192" "12")),
                sixteen!(("256" "16"), ("320" "20"), ("384" "24"), ("448" "28")),
                rows!(wide join "0"), load!("w" "0"), rows!(add first),
            )
        };
    }
    macro_rules! wide_each {
        ($start:ident) => {
            assembly!(
                wide_starts!($start "0"),
                sixteen!(("0" "0"), ("64" "4"), ("128" "8"), ("192" "12")),
                rows!(wide join "0"), load!("w" "0"), rows!(add first),
                wide_starts!($start "4"),
                sixteen!(("256" "16"), ("320" "20"), ("384" "24"), ("448" "28")),
                rows!(wide join "4"), load!("w" "64"), rows!(add first),
            )
        };
    }
    // SAFETY: reads the 32 columns: the caller's promise.
    unsafe {
        match (SUB, MIN, WIDE) {
            (32, false, false) => shared!(start),
            (32, true, false) => shared!(zero),
            (_, false, false) => each!(start),
            (_, true, false) => each!(zero),
            (32, false, true) => wide_shared!(start),
            (32, true, true) => wide_shared!(zero),
            (_, false, true) => wide_each!(start),
            (_, true, true) => wide_each!(zero),
        }
    }
}

/// The lanes of each register summed as a tree: `l` with `l + 8`, then `+ 4`, `+ 2`, `+ 1`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn sum<const N: usize>(a: [F; N]) -> [f32; N] {
    let get = |n: usize| a[n.min(N - 1)];
    let eight = |a: F, b: F| _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xee>(a, b));
    let (ab, cd) = (eight(get(0), get(1)), eight(get(2), get(3)));
    let four = _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(ab, cd), _mm512_shuffle_f32x4::<0xdd>(ab, cd));
    let two = _mm512_add_ps(four, _mm512_permute_ps::<0b1110>(four));
    let one = _mm512_add_ps(two, _mm512_permute_ps::<1>(two));
    let first = _mm512_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12);
    let packed = _mm512_castps512_ps128(_mm512_permutexvar_ps(first, one));
    let mut out = [0.0; 4];
    // SAFETY: the array has 4 values.
    unsafe { _mm_storeu_ps(out.as_mut_ptr(), packed) };
    array!(0.0; n => out[n])
}

/// Bytes `4k..4k + 4` of 16 rows, row after row, for `k` from 0 to 3.
///
/// # Safety
/// They exist.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn transpose(rows: Rows) -> [I; 4] {
    // Row e, 4 + e, 8 + e and 12 + e in the quarters of register e. Assembly: the compiler would keep 16 pointers, most
    // of them in memory.
    let mut z = [splat_i(0); 4];
    // SAFETY: reads 16 bytes of each row: the caller's promise.
    unsafe {
        core::arch::asm!(
            "vbroadcasti32x4 {a}, [{p}]",
            "vbroadcasti32x4 {b}, [{p} + {s}]",
            "vbroadcasti32x4 {c}, [{p} + 2*{s}]",
            "vbroadcasti32x4 {d}, [{p} + {t}]",
            "lea {p}, [{p} + 4*{s}]",
            "vinserti32x4 {a}, {a}, [{p}], 1",
            "vinserti32x4 {b}, {b}, [{p} + {s}], 1",
            "vinserti32x4 {c}, {c}, [{p} + 2*{s}], 1",
            "vinserti32x4 {d}, {d}, [{p} + {t}], 1",
            "lea {p}, [{p} + 4*{s}]",
            "vinserti32x4 {a}, {a}, [{p}], 2",
            "vinserti32x4 {b}, {b}, [{p} + {s}], 2",
            "vinserti32x4 {c}, {c}, [{p} + 2*{s}], 2",
            "vinserti32x4 {d}, {d}, [{p} + {t}], 2",
            "lea {p}, [{p} + 4*{s}]",
            "vinserti32x4 {a}, {a}, [{p}], 3",
            "vinserti32x4 {b}, {b}, [{p} + {s}], 3",
            "vinserti32x4 {c}, {c}, [{p} + 2*{s}], 3",
            "vinserti32x4 {d}, {d}, [{p} + {t}], 3",
            p = inout(reg) rows.first => _, s = in(reg) rows.apart, t = in(reg) 3 * rows.apart,
            a = out(zmm_reg) z[0], b = out(zmm_reg) z[1], c = out(zmm_reg) z[2], d = out(zmm_reg) z[3],
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    let (a, b) = (_mm512_unpacklo_epi32(z[0], z[1]), _mm512_unpackhi_epi32(z[0], z[1]));
    let (c, d) = (_mm512_unpacklo_epi32(z[2], z[3]), _mm512_unpackhi_epi32(z[2], z[3]));
    [_mm512_unpacklo_epi64(a, c), _mm512_unpackhi_epi64(a, c), _mm512_unpacklo_epi64(b, d), _mm512_unpackhi_epi64(b, d)]
}

/// F16 bits to `f32`.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(in crate::kernel) fn widen(x: &[u16], out: &mut [f32]) {
    let ((xs, x), (outs, out)) = (x.as_chunks::<16>(), out.as_chunks_mut::<16>());
    for (x, out) in xs.iter().zip(outs) {
        // SAFETY: 16 f16 values.
        store_to(out, unsafe { load_f16(x.as_ptr()) });
    }
    for (x, out) in x.iter().zip(out) {
        *out = quant::f16_to_f32(*x);
    }
}

/// [`Kernels::decode`](crate::kernel::Kernels::decode): f16 by its conversion instruction. The others came out slower
/// with the compiler's vectors of 512 bits.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(in crate::kernel) fn decode(w: &Matrix, rows: Range<usize>, cols: Range<usize>, out: &mut [f32]) {
    let Some(Floats16::F16(bits)) = w.floats16() else { return super::decode(w, rows, cols, out) };
    for (row, out) in rows.zip(out.chunks_exact_mut(cols.len().max(1))) {
        widen(&bits[row * w.cols + cols.start..row * w.cols + cols.end], out);
    }
}

/// 16 rows of 16 values to columns.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn to_columns(rows: &[[f32; 16]; 16]) -> [[f32; 16]; 16] {
    let mut out = [[0.0; 16]; 16];
    let mut fours = [[splat(0.0); 4]; 4];
    for (i, fours) in fours.iter_mut().enumerate() {
        // Four columns each, of rows 4i to 4i + 3.
        let r: [__m512; 4] = array!(splat(0.0); k => load_from(&rows[4 * i + k]));
        let (a, b) = (_mm512_unpacklo_ps(r[0], r[1]), _mm512_unpackhi_ps(r[0], r[1]));
        let (c, d) = (_mm512_unpacklo_ps(r[2], r[3]), _mm512_unpackhi_ps(r[2], r[3]));
        let [a, b, c, d] = [a, b, c, d].map(|x| _mm512_castps_pd(x));
        *fours = [
            _mm512_castpd_ps(_mm512_unpacklo_pd(a, c)),
            _mm512_castpd_ps(_mm512_unpackhi_pd(a, c)),
            _mm512_castpd_ps(_mm512_unpacklo_pd(b, d)),
            _mm512_castpd_ps(_mm512_unpackhi_pd(b, d)),
        ];
    }
    for k in 0..4 {
        // Quarter q of each is column 4q + k.
        let [a, b, c, d] = [fours[0][k], fours[1][k], fours[2][k], fours[3][k]];
        let (low, high) = (_mm512_shuffle_f32x4::<0b01_00_01_00>(a, b), _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b));
        let (lower, upper) = (_mm512_shuffle_f32x4::<0b01_00_01_00>(c, d), _mm512_shuffle_f32x4::<0b11_10_11_10>(c, d));
        store_to(&mut out[k], _mm512_shuffle_f32x4::<0b10_00_10_00>(low, lower));
        store_to(&mut out[4 + k], _mm512_shuffle_f32x4::<0b11_01_11_01>(low, lower));
        store_to(&mut out[8 + k], _mm512_shuffle_f32x4::<0b10_00_10_00>(high, upper));
        store_to(&mut out[12 + k], _mm512_shuffle_f32x4::<0b11_01_11_01>(high, upper));
    }
    out
}

/// Levels that are tried at a time.
const LEVELS_TRIED: usize = 8;

super::levels!("avx2" "fma" "f16c" "avx512f" "avx512bw" "avx512vl" "avx512dq" "avx512vnni");
super::products!("avx2" "fma" "f16c" "avx512f" "avx512bw" "avx512vl" "avx512dq" "avx512vnni");
super::floats16!("avx2" "fma" "f16c" "avx512f" "avx512bw" "avx512vl" "avx512dq" "avx512vnni");
super::int16!("avx2" "fma" "f16c" "avx512f" "avx512bw" "avx512vl" "avx512dq" "avx512vnni");
super::stored!("avx2" "fma" "f16c" "avx512f" "avx512bw" "avx512vl" "avx512dq" "avx512vnni");
super::integers!(tile of its own, "avx2" "fma" "f16c" "avx512f" "avx512bw" "avx512vl" "avx512dq" "avx512vnni");
