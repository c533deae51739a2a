//! One register of 4 lanes.

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
op!(unsafe load_u16(p: *const u16) -> I4 { i32x4_load_extend_u16x4(p) });
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
    /// The bf16 in the lower half of each lane.
    bf16_v(a: I4) -> F4 { i32x4_shl(a, 16) }
);
op!(
    /// The low 16 bits of the lanes of two registers, in turn.
    low_int16_w(a: F4, b: F4) -> I4 { i16x8_shuffle::<0, 8, 2, 10, 4, 12, 6, 14>(a, b) }
);
op!(
    /// Adds to each lane the products of two 16-bit integers.
    int16_dot_w(acc: I4, a: I4, b: I4) -> I4 { i32x4_add(acc, i32x4_dot_i16x8(a, b)) }
);
op!(
    /// The f16 in the lower half of each lane.
    f16_v(a: I4) -> F4 {
        // The magnitude, as bits of a single of another bias, below copies of the sign; exact for subnormal halves too.
        // That of an infinity or a NaN lacks some bits of its exponent.
        let bits = v128_and(i32x4_shr(i32x4_shl(a, 16), 3), i32x4_splat(0x8fff_e000_u32 as i32));
        let most = i32x4_splat(0x7c00);
        let special = v128_and(i32x4_eq(v128_and(a, most), most), i32x4_splat(0x7f80_0000));
        v128_or(f32x4_mul(bits, f32x4_splat(f32::from_bits(239 << 23))), special)
    }
);
op!(
    /// The same, except that a NaN becomes an infinity: values too large for f16 then overflow.
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
