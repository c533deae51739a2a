//! Operations on 16 lanes as four registers of 4, from the operations on one register that `arm.rs` and `wasm.rs` have.

#![allow(unsafe_code)]

mod units;

#[cfg(target_arch = "aarch64")]
pub(super) use super::arm::lanes::*;
use super::ints::array;
#[cfg(target_arch = "wasm32")]
pub(super) use super::wasm::lanes::*;
#[cfg(any(target_arch = "aarch64", target_feature = "relaxed-simd"))]
pub(super) use units::by_halves;
pub(super) use units::unit;

/// 16 floats.
pub(super) type F = [F4; 4];
/// 16 integers, or 64 bytes.
pub(super) type I = [I4; 4];

macro_rules! op {
    ($(#[doc = $doc:literal])* $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)? $body:block) => {
        $(#[doc = $doc])*
        #[inline]
        #[cfg_attr(target_arch = "aarch64", target_feature(enable = "neon"))]
        #[cfg_attr(target_arch = "wasm32", target_feature(enable = "simd128"))]
        pub(in crate::kernel) fn $name($($arg: $type),*) $(-> $result)? $body
    };
    ($(#[doc = $doc:literal])* unsafe $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)? $body:block) => {
        $(#[doc = $doc])*
        /// # Safety
        /// Every pointer is valid for the reads or writes there.
        #[inline]
        #[cfg_attr(target_arch = "aarch64", target_feature(enable = "neon"))]
        #[cfg_attr(target_arch = "wasm32", target_feature(enable = "simd128"))]
        pub(in crate::kernel) unsafe fn $name($($arg: $type),*) $(-> $result)? {
            // SAFETY: the caller's promise.
            unsafe { $body }
        }
    };
}

op!(unsafe load(p: *const f32) -> F { [load_v(p), load_v(p.add(4)), load_v(p.add(8)), load_v(p.add(12))] });
op!(unsafe store(p: *mut f32, x: F) { for q in 0..4 { store_v(p.add(4 * q), x[q]) } });
op!(unsafe load_i(p: *const [u8; 64]) -> I {
    let p = p.cast::<u8>();
    [load_w(p), load_w(p.add(16)), load_w(p.add(32)), load_w(p.add(48))]
});
op!(load_from(x: &[f32; 16]) -> F {
    // SAFETY: the array has 16 lanes.
    unsafe { load(x.as_ptr()) }
});
op!(store_to(p: &mut [f32; 16], x: F) {
    // SAFETY: the array has 16 lanes.
    unsafe { store(p.as_mut_ptr(), x) }
});
op!(store_i(p: &mut [u8; 64], x: I) {
    for (p, x) in p.as_chunks_mut::<16>().0.iter_mut().zip(x) {
        // SAFETY: the array has 16 bytes.
        unsafe { store_w(p.as_mut_ptr(), x) }
    }
});
op!(unsafe load_f16(p: *const u16) -> F {
    [
        f16_v(load_u16(p)),
        f16_v(load_u16(p.add(4))),
        f16_v(load_u16(p.add(8))),
        f16_v(load_u16(p.add(12))),
    ]
});
op!(unsafe load_bf16(p: *const u16) -> F {
    [
        bf16_v(load_u16(p)),
        bf16_v(load_u16(p.add(4))),
        bf16_v(load_u16(p.add(8))),
        bf16_v(load_u16(p.add(12))),
    ]
});
op!(low_int16(low: F, high: F) -> I {
    [low_int16_w(low[0], high[0]), low_int16_w(low[1], high[1]), low_int16_w(low[2], high[2]), low_int16_w(low[3], high[3])]
});
op!(int16_dot(acc: I, a: I, b: I) -> I {
    [
        int16_dot_w(acc[0], a[0], b[0]),
        int16_dot_w(acc[1], a[1], b[1]),
        int16_dot_w(acc[2], a[2], b[2]),
        int16_dot_w(acc[3], a[3], b[3]),
    ]
});
op!(unsafe scale(p: *const u16) -> F { [f16_v(splat_w(*p as i32)); 4] });
op!(unsafe codes(p: *const i8) -> F { to_float(load_codes(p)) });
op!(splat(x: f32) -> F { [splat_v(x); 4] });
op!(splat_i(x: i32) -> I { [splat_w(x); 4] });
op!(fma(a: F, b: F, c: F) -> F {
    [fma_v(a[0], b[0], c[0]), fma_v(a[1], b[1], c[1]), fma_v(a[2], b[2], c[2]), fma_v(a[3], b[3], c[3])]
});
op!(add(a: F, b: F) -> F { [add_v(a[0], b[0]), add_v(a[1], b[1]), add_v(a[2], b[2]), add_v(a[3], b[3])] });
op!(mul(a: F, b: F) -> F { [mul_v(a[0], b[0]), mul_v(a[1], b[1]), mul_v(a[2], b[2]), mul_v(a[3], b[3])] });
op!(and(a: I, b: I) -> I { [and_w(a[0], b[0]), and_w(a[1], b[1]), and_w(a[2], b[2]), and_w(a[3], b[3])] });
op!(or(a: I, b: I) -> I { [or_w(a[0], b[0]), or_w(a[1], b[1]), or_w(a[2], b[2]), or_w(a[3], b[3])] });
op!(to_float(a: I) -> F { [float_v(a[0]), float_v(a[1]), float_v(a[2]), float_v(a[3])] });
op!(plus(a: I, b: I) -> I { [add_w(a[0], b[0]), add_w(a[1], b[1]), add_w(a[2], b[2]), add_w(a[3], b[3])] });
op!(shl(a: I, n: usize) -> I { [shl_w(a[0], n), shl_w(a[1], n), shl_w(a[2], n), shl_w(a[3], n)] });
op!(shr(a: I, n: usize) -> I { [shr_w(a[0], n), shr_w(a[1], n), shr_w(a[2], n), shr_w(a[3], n)] });
op!(low_nibbles(a: I) -> I { and(a, splat_i(0x0f0f_0f0f)) });
op!(high_nibbles(a: I) -> I { [upper_w(a[0]), upper_w(a[1]), upper_w(a[2]), upper_w(a[3])] });
op!(flip(a: I) -> I {
    let m = splat_w(0x8080_8080_u32 as i32);
    [xor_w(a[0], m), xor_w(a[1], m), xor_w(a[2], m), xor_w(a[3], m)]
});
op!(look_up(table: &[u8; 16], a: I) -> I {
    // SAFETY: the table has 16 bytes.
    let table = unsafe { load_w(table.as_ptr()) };
    [look_w(table, a[0]), look_w(table, a[1]), look_w(table, a[2]), look_w(table, a[3])]
});
op!(byte(a: I, n: usize) -> I { and(shr(a, 8 * n), splat_i(255)) });
op!(signed_byte(a: I, n: usize) -> I {
    let a = shl(a, 24 - 8 * n);
    [top_w(a[0]), top_w(a[1]), top_w(a[2]), top_w(a[3])]
});
op!(low_f16(a: I) -> F { [f16_v(a[0]), f16_v(a[1]), f16_v(a[2]), f16_v(a[3])] });
op!(high_f16(a: I) -> F { low_f16(shr(a, 16)) });
op!(
    /// 16 where bits `4k..4k + 4` of a row's dword are set, in panel order.
    bits_to_16(bits: I, k: usize) -> I {
        // The product puts the four bits at the bottom of the four bytes, and no two of its terms meet.
        let four = and(shr(bits, 4 * k), splat_i(15));
        let spread = [fifths_w(four[0]), fifths_w(four[1]), fifths_w(four[2]), fifths_w(four[3])];
        shl(and(spread, splat_i(0x0101_0101)), 4)
    }
);
op!(fifths_w(four: I4) -> I4 { mul_w(four, splat_w(0x0020_4081)) });
op!(
    /// 4 bytes of each row.
    unsafe dwords_w(rows: Rows) -> I4 {
        let mut at = [0; 4];
        for r in 0..4 {
            at[r] = rows.at(r).cast::<i32>().read_unaligned();
        }
        load_w(at.as_ptr().cast())
    }
);
op!(
    /// 4 bytes of each row.
    unsafe dwords(rows: Rows) -> I {
        let mut at = [0; 16];
        for r in 0..16 {
            at[r] = rows.at(r).cast::<i32>().read_unaligned();
        }
        load_i(at.as_ptr().cast())
    }
);
op!(unsafe heads(rows: Rows) -> [u16; 16] { array!(0; r => rows.at(r).cast::<u16>().read_unaligned()) });
op!(
    /// Bytes `4k..4k + 4` of 16 rows, row after row, for `k` from 0 to 3.
    unsafe transpose(rows: Rows) -> [I; 4] {
        let mut out = [[splat_w(0); 4]; 4];
        for q in 0..4 {
            let four = transpose_w([
                load_w(rows.at(4 * q)),
                load_w(rows.at(4 * q + 1)),
                load_w(rows.at(4 * q + 2)),
                load_w(rows.at(4 * q + 3)),
            ]);
            for k in 0..4 {
                out[k][q] = four[k];
            }
        }
        out
    }
);
/// 4 of `n` rows at a time, one of each quarter: the first of them, and how far they are apart. The rows that are left
/// over come alone, in all lanes, 0 apart.
pub(super) fn quarters(n: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n / 4).map(move |first| (first, n / 4)).chain((n / 4 * 4..n).map(|row| (row, 0)))
}

/// The operations of `unpack.rs` on one register: a lane is a row of 4. Codes are 4 registers of 16 columns, in
/// whatever order a unit's `arrange` leaves them.
pub(super) mod one {
    use super::*;
    pub(in crate::kernel) use super::{
        F4 as F, I4 as I, add_v as add, add_w as plus, and_w as and, dwords_w as dwords, f16_v as low_f16,
        float_v as to_float, fma_v as fma, load_w, mul_v as mul, or_w as or, prefetch, shl_w as shl, shr_w as shr,
        splat_v as splat, splat_w as splat_i, store_w, upper_w as high_nibbles,
    };

    op!(unsafe load_i(p: *const [u8; 64]) -> I { load_w(p.cast()) });
    op!(unsafe load_f16(p: *const u16) -> F { f16_v(load_u16(p)) });
    op!(unsafe heads(rows: Rows) -> [u16; 4] { array!(0; r => rows.at(r).cast::<u16>().read_unaligned()) });
    op!(unsafe transpose(rows: Rows) -> [I; 4] {
        transpose_w([load_w(rows.at(0)), load_w(rows.at(1)), load_w(rows.at(2)), load_w(rows.at(3))])
    });
    op!(load_from(x: &[f32; 4]) -> F {
        // SAFETY: the array has 4 lanes.
        unsafe { load_v(x.as_ptr()) }
    });
    op!(store_to(p: &mut [f32; 4], x: F) {
        // SAFETY: the array has 4 lanes.
        unsafe { store_v(p.as_mut_ptr(), x) }
    });
    op!(low_nibbles(a: I) -> I { and(a, splat_i(0x0f0f_0f0f)) });
    op!(high_f16(a: I) -> F { low_f16(shr(a, 16)) });
    op!(flip(a: I) -> I { xor_w(a, splat_i(0x8080_8080_u32 as i32)) });
    op!(byte(a: I, n: usize) -> I { and(shr(a, 8 * n), splat_i(255)) });
    op!(signed_byte(a: I, n: usize) -> I { top_w(shl(a, 24 - 8 * n)) });
    op!(look_up(table: &[u8; 16], a: I) -> I {
        // SAFETY: the table has 16 bytes.
        look_w(unsafe { load_w(table.as_ptr()) }, a)
    });
}

/// The lanes of each 16 summed as a tree: `l` with `l + 8`, then `+ 4`, `+ 2`, `+ 1`.
#[inline]
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "neon"))]
#[cfg_attr(target_arch = "wasm32", target_feature(enable = "simd128"))]
pub(super) fn sum<const N: usize>(a: [F; N]) -> [f32; N] {
    array!(0.0; n => {
        let [a, b, c, d] = a[n];
        total_v(add_v(add_v(a, c), add_v(b, d)))
    })
}

/// The products of floats.
pub(super) mod floats {
    use super::*;

    /// Rows of activations and of weights in a tile of dot products.
    const DOT_X: usize = 2;
    const DOT_W: usize = 2;
    /// The same of products of 16-bit integers.
    const INT16_X: usize = 2;
    const INT16_W: usize = 2;
    /// Rows and vectors in a tile of sums.
    const SUM_R: usize = 6;
    const SUM_V: usize = 1;

    /// Vectors in a tile of sums of a cache's rows.
    const STORED_V: usize = 1;

    #[cfg(target_arch = "aarch64")]
    crate::kernel::floats::products!("neon");
    #[cfg(target_arch = "aarch64")]
    crate::kernel::floats16::floats16!("neon");
    #[cfg(target_arch = "aarch64")]
    crate::kernel::int16::int16!("neon");
    #[cfg(target_arch = "aarch64")]
    crate::kernel::stored::stored!("neon");
    #[cfg(target_arch = "wasm32")]
    crate::kernel::floats::products!("simd128");
    #[cfg(target_arch = "wasm32")]
    crate::kernel::floats16::floats16!("simd128");
    #[cfg(target_arch = "wasm32")]
    crate::kernel::int16::int16!("simd128");
    #[cfg(target_arch = "wasm32")]
    crate::kernel::stored::stored!("simd128");
}
