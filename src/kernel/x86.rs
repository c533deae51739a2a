//! Operations on 16 lanes for x86-64, and the products made of them.

#![allow(unsafe_code)]

use super::backend::products;
use crate::quant;
use core::arch::x86_64::{_mm_loadu_si128, _mm256_cvtph_ps, _mm256_storeu_ps};

/// Half floats (bits) to `f32`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn widen(x: &[u16], out: &mut [f32]) {
    let ((xs, x), (outs, out)) = (x.as_chunks::<8>(), out.as_chunks_mut::<8>());
    for (x, out) in xs.iter().zip(outs) {
        // SAFETY: the arrays have 8 halves and 8 floats.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast()))) };
    }
    for (x, out) in x.iter().zip(out) {
        *out = quant::half(*x);
    }
}

/// AVX-512 with VNNI: 16 lanes are one register.
pub(super) mod avx512 {
    use core::arch::x86_64::*;

    type F = __m512;
    type I = __m512i;

    /// Rows of activations and of weights in a tile of dot products.
    const DOT_X: usize = 6;
    const DOT_W: usize = 4;
    /// Rows and vectors in a tile of sums.
    const SUM_R: usize = 6;
    const SUM_V: usize = 4;
    /// Rows of activations in a tile of integer dot products.
    const INT_X: usize = 8;
    /// The instruction takes unsigned codes of 8 bits as they are.
    const SIGNED_CODES: bool = false;

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
    op!(and(a: I, b: I) -> I { _mm512_and_si512(a, b) });
    op!(or(a: I, b: I) -> I { _mm512_or_si512(a, b) });
    op!(shl(a: I, n: usize) -> I { _mm512_sll_epi32(a, _mm_cvtsi32_si128(n as i32)) });
    op!(shr(a: I, n: usize) -> I { _mm512_srl_epi32(a, _mm_cvtsi32_si128(n as i32)) });
    op!(byte(a: I, n: usize) -> I { and(shr(a, 8 * n), splat_i(255)) });
    op!(signed_byte(a: I, n: usize) -> I { _mm512_srai_epi32::<24>(shl(a, 24 - 8 * n)) });
    op!(low_halves(a: I) -> F { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a)) });
    op!(high_halves(a: I) -> F { low_halves(shr(a, 16)) });

    /// 16 where bits `4k..4k + 4` of a row's dword are set, in panel order.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
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
    /// Every pointer is good for 4 bytes.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn dwords(rows: [*const u8; 16]) -> I {
        // SAFETY: the caller's promise.
        let at = |r: usize| unsafe { rows[r].cast::<i32>().read_unaligned() };
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

    /// Adds to each lane the dot product of its 4 codes with 4 activations.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vnni")]
    fn int_dot<const SIGNED: bool>(acc: I, codes: I, four: i32) -> I {
        const { assert!(!SIGNED, "codes are unsigned") };
        _mm512_dpbusd_epi32(acc, codes, _mm512_set1_epi32(four))
    }

    /// The lanes of each register summed as a tree: `l` with `l + 8`, then `+ 4`, `+ 2`, `+ 1`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
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
        core::array::from_fn(|n| out[n])
    }

    /// Bytes `4k..4k + 4` of 16 rows, row after row, for `k` from 0 to 3.
    ///
    /// # Safety
    /// Every pointer is good for 16 bytes.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn transpose(rows: [*const u8; 16]) -> [I; 4] {
        // SAFETY: the caller's promise.
        let load = |r: usize| unsafe { _mm_loadu_si128(rows[r].cast()) };
        // Row e, 4 + e, 8 + e and 12 + e in the quarters of register e.
        let z: [I; 4] = core::array::from_fn(|e| {
            let z = _mm512_castsi128_si512(load(e));
            let z = _mm512_inserti32x4::<1>(z, load(4 + e));
            let z = _mm512_inserti32x4::<2>(z, load(8 + e));
            _mm512_inserti32x4::<3>(z, load(12 + e))
        });
        let (a, b) = (_mm512_unpacklo_epi32(z[0], z[1]), _mm512_unpackhi_epi32(z[0], z[1]));
        let (c, d) = (_mm512_unpacklo_epi32(z[2], z[3]), _mm512_unpackhi_epi32(z[2], z[3]));
        [
            _mm512_unpacklo_epi64(a, c),
            _mm512_unpackhi_epi64(a, c),
            _mm512_unpacklo_epi64(b, d),
            _mm512_unpackhi_epi64(b, d),
        ]
    }

    /// The products of one or two rows with Q4_0 or Q8_0 weights, without a panel: with so few rows its making would
    /// cost more than the products. Whether this was such a case.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn few(w: &Matrix, rows: Range<usize>, x: &Acts8, y: &mut Tile) -> bool {
        if !w.cols.is_multiple_of(64) {
            return false;
        }
        match (w.format.name, x.rows()) {
            ("Q4_0", 1) => few_rows::<1, true>(w, rows, x, y),
            ("Q4_0", 2) => few_rows::<2, true>(w, rows, x, y),
            ("Q8_0", 1) => few_rows::<1, false>(w, rows, x, y),
            ("Q8_0", 2) => few_rows::<2, false>(w, rows, x, y),
            _ => return false,
        }
        true
    }

    /// Blocks whose scales are gathered at a time.
    const SCALES: usize = 64;

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn few_rows<const M: usize, const NIBBLES: bool>(w: &Matrix, rows: Range<usize>, x: &Acts8, y: &mut Tile) {
        let (bytes, zero) = if NIBBLES { (18, 8) } else { (34, 128) };
        let (data, row_bytes, blocks) = (w.rows_bytes(rows.clone()), w.row_bytes(), w.cols / 32);
        assert!(x.rows() == M && x.c == w.cols && blocks % 2 == 0 && row_bytes == blocks * bytes, "shapes of few rows");
        assert!(data.len() == rows.len() * row_bytes && w.format.bytes == bytes, "bytes of few rows");
        let q: [&[i8]; M] = core::array::from_fn(|m| &x.q[m * x.c..][..x.c]);
        let d: [&[f32]; M] = core::array::from_fn(|m| &x.d[m * x.c / 16..][..x.c / 16]);
        let s: [&[i32]; M] = core::array::from_fn(|m| &x.s[m * x.c / 16..][..x.c / 16]);
        let mut heads = [[0u16; 16]; SCALES];
        for first in (0..rows.len()).step_by(16) {
            let count = (rows.len() - first).min(16);
            let starts: [usize; 16] = core::array::from_fn(|r| (first + r.min(count - 1)) * row_bytes);
            let mut acc = [splat(0.0); M];
            for b in (0..blocks).step_by(2) {
                if b % SCALES == 0 {
                    for (r, start) in starts.iter().enumerate() {
                        let row = &data[start + b * bytes..start + row_bytes];
                        for (head, block) in heads.iter_mut().zip(row.chunks_exact(bytes)) {
                            head[r] = u16::from_le_bytes([block[0], block[1]]);
                        }
                    }
                }
                // SAFETY: blocks `b` and `b + 1` lie in each row, whose ends are checked above, and so do their 64
                // columns in the codes.
                let sums: [[I; 4]; M] = unsafe {
                    let x: [I; M] = core::array::from_fn(|m| load_i(q[m].as_ptr().add(32 * b).cast()));
                    let mut sums = [[splat_i(0); 4]; M];
                    for four in 0..4 {
                        let codes: [I; 4] = core::array::from_fn(|r| {
                            let block = data.as_ptr().add(starts[4 * four + r] + b * bytes + 2);
                            if NIBBLES {
                                nibbles_of_two(block, block.add(18))
                            } else {
                                bytes_of_two(block, block.add(34))
                            }
                        });
                        for m in 0..M {
                            let dots = codes.map(|codes| _mm512_dpbusd_epi32(splat_i(0), codes, x[m]));
                            sums[m][four] = quarter_sums(dots);
                        }
                    }
                    sums
                };
                for m in 0..M {
                    let parts = by_quarter(sums[m]);
                    for i in 0..2 {
                        let mut scaled = splat(0.0);
                        for part in [2 * i, 2 * i + 1] {
                            let total = splat_i(zero * s[m][2 * b + part]);
                            let sum = to_float(_mm512_sub_epi32(parts[part], total));
                            scaled = fma(splat(d[m][2 * b + part]), sum, scaled);
                        }
                        let head = &heads[(b + i) % SCALES];
                        // SAFETY: 16 halves are 32 bytes.
                        let scale = unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(head.as_ptr().cast())) };
                        acc[m] = fma(scale, scaled, acc[m]);
                    }
                }
            }
            for m in 0..M {
                let mut lanes = [0.0; 16];
                store_to(&mut lanes, _mm512_add_ps(acc[m], splat(0.0)));
                for (out, lane) in y.row(m % x.n)[first..first + count].iter_mut().zip(lanes) {
                    *out = if m < x.n { lane } else { *out + lane };
                }
            }
        }
    }

    /// The 32 codes of one block of nibbles, then of another.
    ///
    /// # Safety
    /// Both pointers are good for 16 bytes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn nibbles_of_two(a: *const u8, b: *const u8) -> I {
        // SAFETY: the caller's promise.
        let twice = |p: *const u8| unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(p.cast())) };
        let both = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(twice(a)), twice(b));
        let high = _mm512_set_epi64(
            0x4_0004_0004_0004,
            0x4_0004_0004_0004,
            0,
            0,
            0x4_0004_0004_0004,
            0x4_0004_0004_0004,
            0,
            0,
        );
        _mm512_and_si512(_mm512_srlv_epi16(both, high), _mm512_set1_epi8(15))
    }

    /// The 32 signed codes of one block, then of another, as unsigned ones above 128.
    ///
    /// # Safety
    /// Both pointers are good for 32 bytes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn bytes_of_two(a: *const u8, b: *const u8) -> I {
        // SAFETY: the caller's promise.
        let load = |p: *const u8| unsafe { _mm256_loadu_si256(p.cast()) };
        let both = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(load(a)), load(b));
        _mm512_xor_si512(both, _mm512_set1_epi8(-128))
    }

    /// The sums of the four lanes of each quarter: of register `r` in lane `r` of that quarter.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn quarter_sums([a, b, c, d]: [I; 4]) -> I {
        let two = |a, b| _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (ab, cd) = (two(a, b), two(c, d));
        _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd))
    }

    /// Quarter `p` of each register, as register `p`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn by_quarter([a, b, c, d]: [I; 4]) -> [I; 4] {
        let (ab, cd) = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0x44>(c, d));
        let (ef, gh) = (_mm512_shuffle_i32x4::<0xee>(a, b), _mm512_shuffle_i32x4::<0xee>(c, d));
        [
            _mm512_shuffle_i32x4::<0x88>(ab, cd),
            _mm512_shuffle_i32x4::<0xdd>(ab, cd),
            _mm512_shuffle_i32x4::<0x88>(ef, gh),
            _mm512_shuffle_i32x4::<0xdd>(ef, gh),
        ]
    }

    super::products!("avx2" "fma" "f16c" "avx512f" "avx512bw" "avx512vl" "avx512dq" "avx512vnni");
}

/// AVX2 with fused multiply-add: 16 lanes are two registers.
pub(super) mod avx2 {
    use core::arch::x86_64::*;

    type F = [__m256; 2];
    type I = [__m256i; 2];

    /// Rows of activations and of weights in a tile of dot products.
    const DOT_X: usize = 3;
    const DOT_W: usize = 2;
    /// Rows and vectors in a tile of sums.
    const SUM_R: usize = 6;
    const SUM_V: usize = 1;
    /// Rows of activations in a tile of integer dot products.
    const INT_X: usize = 2;
    /// Two products of a full unsigned byte do not fit 16 bits, so such codes are taken as signed.
    const SIGNED_CODES: bool = true;

    macro_rules! op {
        ($name:ident($($arg:ident: $type:ty),*) -> $result:ty $body:block) => {
            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn $name($($arg: $type),*) -> $result $body
        };
        (unsafe $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)? $body:block) => {
            /// # Safety
            /// The pointer is good for 16 lanes.
            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn $name($($arg: $type),*) $(-> $result)? {
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
    op!(and(a: I, b: I) -> I { [_mm256_and_si256(a[0], b[0]), _mm256_and_si256(a[1], b[1])] });
    op!(or(a: I, b: I) -> I { [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])] });
    op!(shl(a: I, n: usize) -> I { let n = _mm_cvtsi32_si128(n as i32); a.map(|a| _mm256_sll_epi32(a, n)) });
    op!(shr(a: I, n: usize) -> I { let n = _mm_cvtsi32_si128(n as i32); a.map(|a| _mm256_srl_epi32(a, n)) });
    op!(byte(a: I, n: usize) -> I { and(shr(a, 8 * n), splat_i(255)) });
    op!(signed_byte(a: I, n: usize) -> I { shl(a, 24 - 8 * n).map(|a| _mm256_srai_epi32::<24>(a)) });
    op!(low_halves(a: I) -> F {
        let [low, high] = and(a, splat_i(0xffff));
        // Packing works in the two halves of a register; the permutation puts its quarters in order.
        let packed = _mm256_permute4x64_epi64::<0xd8>(_mm256_packus_epi32(low, high));
        [_mm256_cvtph_ps(_mm256_castsi256_si128(packed)), _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(packed))]
    });
    op!(high_halves(a: I) -> F { low_halves(shr(a, 16)) });

    /// 16 where bits `4k..4k + 4` of a row's dword are set, in panel order.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn bits_to_16(bits: I, k: usize) -> I {
        let row = _mm256_set_epi64x(
            0x0c0c_0c0c_0808_0808,
            0x0404_0404_0000_0000,
            0x0c0c_0c0c_0808_0808,
            0x0404_0404_0000_0000,
        );
        let row = _mm256_add_epi8(row, _mm256_set1_epi8(k as i8 / 2));
        let one = _mm256_set1_epi32(if k.is_multiple_of(2) { 0x0804_0201 } else { 0x8040_2010u32 as i32 });
        bits.map(|bits| {
            let set = _mm256_and_si256(_mm256_shuffle_epi8(bits, row), one);
            _mm256_and_si256(_mm256_cmpeq_epi8(set, one), _mm256_set1_epi8(16))
        })
    }

    /// 4 bytes of each row.
    ///
    /// # Safety
    /// Every pointer is good for 4 bytes.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn dwords(rows: [*const u8; 16]) -> I {
        // SAFETY: the caller's promise.
        let at = |r: usize| unsafe { rows[r].cast::<i32>().read_unaligned() };
        [0, 8].map(|r| {
            _mm256_setr_epi32(at(r), at(r + 1), at(r + 2), at(r + 3), at(r + 4), at(r + 5), at(r + 6), at(r + 7))
        })
    }

    /// Adds to each lane the dot product of its 4 codes with 4 activations. Unsigned codes are below 128, so a pair of
    /// products fits 16 bits; so does one of signed codes, taken as magnitude times activation with the code's sign.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn int_dot<const SIGNED: bool>(acc: I, codes: I, four: i32) -> I {
        let (x, ones) = (_mm256_set1_epi32(four), _mm256_set1_epi16(1));
        let dot = |acc, codes| {
            let pairs = if SIGNED {
                _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(x, codes))
            } else {
                _mm256_maddubs_epi16(codes, x)
            };
            _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, ones))
        };
        [dot(acc[0], codes[0]), dot(acc[1], codes[1])]
    }

    /// The lanes of each register summed as a tree: `l` with `l + 8`, then `+ 4`, `+ 2`, `+ 1`.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn sum<const N: usize>(a: [F; N]) -> [f32; N] {
        a.map(|[low, high]| {
            let eight = _mm256_add_ps(low, high);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        })
    }

    /// Bytes `4k..4k + 4` of 16 rows, row after row, for `k` from 0 to 3.
    ///
    /// # Safety
    /// Every pointer is good for 16 bytes.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn transpose(rows: [*const u8; 16]) -> [I; 4] {
        // SAFETY: the caller's promise.
        let load = |r: usize| unsafe { _mm_loadu_si128(rows[r].cast()) };
        let half = |first: usize| {
            // Row e and 4 + e in the halves of register e.
            let z: [__m256i; 4] = core::array::from_fn(|e| _mm256_set_m128i(load(first + 4 + e), load(first + e)));
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
        core::array::from_fn(|k| [top[k], bottom[k]])
    }

    /// Without a horizontal product of four bytes the panel serves any number of rows.
    fn few(_: &Matrix, _: Range<usize>, _: &Acts8, _: &mut Tile) -> bool {
        false
    }

    super::products!("avx2" "fma" "f16c");
}
