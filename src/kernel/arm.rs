//! Operations on 4 lanes for aarch64, and the products made of them.
//!
//! Instructions of the inner loops as a release build of an earlier version has them, with loads, conversions, scales
//! and the loop's own, for each multiply-add; in the last column those of the products alone.
//!
//! | loop | tile | instructions | multiply-adds | each | on paper |
//! | --- | --- | --- | --- | --- | --- |
//! | `neon`, codes of 5 bits: `smlal` | 16 × 2 × 16 | 138 | 512 | 0.27 | 0.125 |
//! | `neon`, codes of 6 to 8 bits: `smull`, `addp`, `sadalp` | 16 × 2 × 16 | 186 | 512 | 0.36 | 0.25 |
//! | `dotprod`: `sdot`, 2 a cycle on a Cortex-A76 | 16 × 2 × 16 | 76 | 512 | 0.15 | 0.063 |
//! | `i8mm`: `smmla` | 16 × 2 × 32 | 148 | 1024 | 0.14 | 0.031 |
//! | `f32` dot products: `fmla` | 2 × 2 × 16 | 28 | 64 | 0.44 | 0.25 |
//! | `f32` sums: `fmla` | 6 × 16 | 36 | 96 | 0.38 | 0.25 |
//!
//! Most of the overhead is for the scales of 16 columns: of the 76 instructions 16 convert and scale 32 sums.
//!
//! All instructions of a call for each multiply-add, with 64 rows of weights of 1536 columns, one row of activations
//! and 16; `examples/instructions` counts them. `i8mm` takes one row as `dotprod` does. On paper the products of one
//! row take `dotprod` 0.063, and `neon` 0.125, or 0.19 to 0.23 with the sums of pairs that they need.
//!
//! | format | `neon`, 1 | `dotprod`, 1 | `neon`, 16 | `dotprod`, 16 | `i8mm`, 16 |
//! | --- | --- | --- | --- | --- | --- |
//! | Q4_0 | 0.61 | 0.55 | 0.35 | 0.22 | 0.20 |
//! | Q4_1 | 0.55 | 0.50 | 0.36 | 0.23 | 0.21 |
//! | Q5_0 | 0.97 | 0.89 | 0.38 | 0.25 | 0.22 |
//! | Q5_1 | 0.91 | 0.84 | 0.39 | 0.26 | 0.24 |
//! | Q8_0 | 0.59 | 0.52 | 0.43 | 0.21 | 0.21 |
//! | Q2_K | 0.66 | 0.63 | 0.38 | 0.27 | 0.26 |
//! | Q3_K | 0.92 | 0.84 | 0.38 | 0.27 | 0.26 |
//! | Q4_K | 0.54 | 0.52 | 0.38 | 0.25 | 0.22 |
//! | Q5_K | 0.79 | 0.77 | 0.40 | 0.27 | 0.24 |
//! | Q6_K | 0.87 | 0.77 | 0.48 | 0.26 | 0.26 |
//! | IQ4_NL | 0.72 | 0.61 | 0.43 | 0.21 | 0.20 |
//! | IQ4_XS | 0.66 | 0.60 | 0.43 | 0.21 | 0.20 |
//!
//! One row with Q4_K and `dotprod`: of 256 multiply-adds 16 `sdot`, 12 instructions that clear sums and add pairs, 8
//! that interleave rows, 16 for nibbles, 12 for scales and mins, and loads, make 0.35 where the loop is not
//! unrolled; the rest is the head of a block, whose 16 scales and mins become floats for 4 rows at a time. Formats with
//! bits apart from the nibbles pay for joining them.
//!
//! F16 is widened exactly; f16 products are not used, since they round differently from the numeric contract.

#![allow(unsafe_code)]

use super::four::{by_halves, unit};
use super::{Int16Layout, Kernels, body};
use crate::quant::{self, Matrix};
use core::arch::asm;
use core::ops::Range;

/// The plain kernels, which are compiled for NEON like everything else, with the f16 conversion instructions.
pub(super) const OTHERS: Kernels = Kernels { round_int16, decode, widen, narrow, ..body::PLAIN };

/// As the plain one, with the codes in the order of `low_int16_w`.
fn round_int16(x: &[f32], out: &mut [f32]) {
    body::round_int16(x, out);
    let codes: &mut [i16] = bytemuck::cast_slice_mut(&mut out[16 * Int16Layout::of(x.len()).pieces..]);
    for eight in codes.as_chunks_mut::<8>().0 {
        let [a, b, c, d, e, f, g, h] = *eight;
        *eight = [a, c, e, g, b, d, f, h];
    }
}

/// As the plain one, except for F16.
fn decode(w: &Matrix, rows: Range<usize>, cols: Range<usize>, out: &mut [f32]) {
    if w.format.id != 1 {
        return body::decode(w, rows, cols, out);
    }
    for (row, out) in rows.zip(out.chunks_exact_mut(cols.len().max(1))) {
        let bytes = &w.rows_bytes(row..row + 1)[2 * cols.start..2 * cols.end];
        match bytemuck::try_cast_slice(bytes) {
            Ok(halves) => widen(halves, out),
            Err(_) => quant::decode_inline(w.format.id, bytes, out),
        }
    }
}

/// F16 bits to `f32`.
fn widen(x: &[u16], out: &mut [f32]) {
    let ((xs, x), (outs, out)) = (x.as_chunks::<8>(), out.as_chunks_mut::<8>());
    for (x, out) in xs.iter().zip(outs) {
        // SAFETY: the arrays have 8 f16 values and 8 floats. The type of f16 registers is unstable, so these lines are
        // assembly.
        unsafe {
            asm!(
                "ldr {x:q}, [{from}]",
                "fcvtl {low:v}.4s, {x:v}.4h",
                "fcvtl2 {x:v}.4s, {x:v}.8h",
                "stp {low:q}, {x:q}, [{to}]",
                x = out(vreg) _,
                low = out(vreg) _,
                from = in(reg) x.as_ptr(),
                to = in(reg) out.as_mut_ptr(),
                options(nostack, preserves_flags)
            );
        }
    }
    for (x, out) in x.iter().zip(out) {
        *out = quant::f16_to_f32(*x);
    }
}

/// `f32` to the bits of the nearest f16, ties to even.
fn narrow(x: &[f32], out: &mut [u16]) {
    let ((xs, x), (outs, out)) = (x.as_chunks::<8>(), out.as_chunks_mut::<8>());
    for (x, out) in xs.iter().zip(outs) {
        // SAFETY: the arrays have 8 floats and 8 f16 values.
        unsafe {
            asm!(
                "ldp {x:q}, {y:q}, [{from}]",
                "fcvtn {x:v}.4h, {x:v}.4s",
                "fcvtn2 {x:v}.8h, {y:v}.4s",
                "str {x:q}, [{to}]",
                x = out(vreg) _,
                y = out(vreg) _,
                from = in(reg) x.as_ptr(),
                to = in(reg) out.as_mut_ptr(),
                options(nostack, preserves_flags)
            );
        }
    }
    body::narrow(x, out);
}

/// One register of 4 lanes.
pub(super) mod lanes {
    use crate::kernel::ints::array;
    pub(in crate::kernel) use crate::kernel::unpack::Rows;
    use core::arch::aarch64::*;
    use core::arch::asm;

    pub(in crate::kernel) type F4 = float32x4_t;
    pub(in crate::kernel) type I4 = int32x4_t;

    macro_rules! op {
        ($(#[doc = $doc:literal])* $name:ident($($arg:ident: $type:ty),*) -> $result:ty $body:block) => {
            $(#[doc = $doc])*
            #[inline]
            #[target_feature(enable = "neon")]
            pub(in crate::kernel) fn $name($($arg: $type),*) -> $result $body
        };
        (unsafe $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)? $body:block) => {
            /// # Safety
            /// The pointer is good for 16 bytes.
            #[inline]
            #[target_feature(enable = "neon")]
            pub(in crate::kernel) unsafe fn $name($($arg: $type),*) $(-> $result)? {
                // SAFETY: the caller's promise.
                unsafe { $body }
            }
        };
    }

    /// Prefetches a line of memory into the nearest cache or the next one.
    #[inline]
    pub(in crate::kernel) fn prefetch(p: *const u8, near: bool) {
        // SAFETY: a hint, whatever the address.
        unsafe {
            if near {
                asm!("prfm pldl1keep, [{}]", in(reg) p, options(readonly, nostack, preserves_flags));
            } else {
                asm!("prfm pldl2keep, [{}]", in(reg) p, options(readonly, nostack, preserves_flags));
            }
        }
    }

    op!(unsafe load_v(p: *const f32) -> F4 { vld1q_f32(p) });
    op!(unsafe store_v(p: *mut f32, x: F4) { vst1q_f32(p, x) });
    op!(unsafe load_w(p: *const u8) -> I4 { vreinterpretq_s32_u8(vld1q_u8(p)) });
    op!(unsafe store_w(p: *mut u8, x: I4) { vst1q_u8(p, vreinterpretq_u8_s32(x)) });
    op!(unsafe load_u16(p: *const u16) -> I4 { vreinterpretq_s32_u32(vmovl_u16(vld1_u16(p))) });
    op!(unsafe load_codes(p: *const i8) -> [I4; 4] {
        let x = vld1q_s8(p);
        let (low, high) = (vmovl_s8(vget_low_s8(x)), vmovl_high_s8(x));
        [vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)), vmovl_high_s16(high)]
    });
    op!(splat_v(x: f32) -> F4 { vdupq_n_f32(x) });
    op!(splat_w(x: i32) -> I4 { vdupq_n_s32(x) });
    op!(add_v(a: F4, b: F4) -> F4 { vaddq_f32(a, b) });
    op!(mul_v(a: F4, b: F4) -> F4 { vmulq_f32(a, b) });
    op!(fma_v(a: F4, b: F4, c: F4) -> F4 { vfmaq_f32(c, a, b) });
    op!(float_v(a: I4) -> F4 { vcvtq_f32_s32(a) });
    op!(add_w(a: I4, b: I4) -> I4 { vaddq_s32(a, b) });
    op!(mul_w(a: I4, b: I4) -> I4 { vmulq_s32(a, b) });
    op!(and_w(a: I4, b: I4) -> I4 { vandq_s32(a, b) });
    op!(or_w(a: I4, b: I4) -> I4 { vorrq_s32(a, b) });
    op!(xor_w(a: I4, b: I4) -> I4 { veorq_s32(a, b) });
    op!(shl_w(a: I4, n: usize) -> I4 { vshlq_s32(a, vdupq_n_s32(n as i32)) });
    op!(shr_w(a: I4, n: usize) -> I4 {
        vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a), vdupq_n_s32(-(n as i32))))
    });
    op!(
        /// The upper nibble of each byte.
        upper_w(a: I4) -> I4 { vreinterpretq_s32_u8(vshrq_n_u8::<4>(vreinterpretq_u8_s32(a))) }
    );
    op!(
        /// The bytes of a table, by their numbers.
        look_w(table: I4, a: I4) -> I4 {
            vreinterpretq_s32_u8(vqtbl1q_u8(vreinterpretq_u8_s32(table), vreinterpretq_u8_s32(a)))
        }
    );
    op!(
        /// The top byte of each lane, with its sign.
        top_w(a: I4) -> I4 { vshrq_n_s32::<24>(a) }
    );
    op!(
        /// The bf16 in the lower half of each lane.
        bf16_v(a: I4) -> F4 { vreinterpretq_f32_s32(vshlq_n_s32::<16>(a)) }
    );
    op!(
        /// The low 16 bits of the lanes of one register, then those of the other.
        low_int16_w(a: F4, b: F4) -> I4 {
            vreinterpretq_s32_s16(vuzp1q_s16(vreinterpretq_s16_f32(a), vreinterpretq_s16_f32(b)))
        }
    );
    op!(
        /// Adds to each lane the products of two 16-bit integers, one of each half.
        int16_dot_w(acc: I4, a: I4, b: I4) -> I4 {
            let (a, b) = (vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b));
            vmlal_high_s16(vmlal_s16(acc, vget_low_s16(a), vget_low_s16(b)), a, b)
        }
    );
    op!(
        /// The f16 in the lower half of each lane.
        f16_v(a: I4) -> F4 {
            let narrow = vmovn_s32(a);
            let wide: F4;
            // SAFETY: a conversion between registers. The type of f16 registers is unstable, so this line is assembly.
            unsafe {
                asm!("fcvtl {:v}.4s, {:v}.4h", out(vreg) wide, in(vreg) narrow,
                    options(pure, nomem, nostack, preserves_flags));
            }
            wide
        }
    );
    op!(
        /// The same.
        scale_v(a: I4) -> F4 { f16_v(a) }
    );
    op!(
        /// Lane `l` with `l + 2`, then with `l + 1`.
        total_v(a: F4) -> f32 { vaddv_f32(vadd_f32(vget_low_f32(a), vget_high_f32(a))) }
    );
    op!(
        /// Lane `k` of every register, as register `k`.
        transpose_w(rows: [I4; 4]) -> [I4; 4] {
            let [a, b, c, d] = rows;
            let wide = |w| vreinterpretq_s64_s32(w);
            let (ab, cd) = (wide(vtrn1q_s32(a, b)), wide(vtrn1q_s32(c, d)));
            let (ef, gh) = (wide(vtrn2q_s32(a, b)), wide(vtrn2q_s32(c, d)));
            let wide = [vtrn1q_s64(ab, cd), vtrn1q_s64(ef, gh), vtrn2q_s64(ab, cd), vtrn2q_s64(ef, gh)];
            array!(splat_w(0); k => vreinterpretq_s32_s64(wide[k]))
        }
    );
}

/// The correction of the sums: the codes' zero times the sum of the activations.
fn start_w<const BITS: u8>(_: &[i8; 16], zero: i32) -> i32 {
    -zero
}

/// Whether the sums of signed codes have a starting value.
const SIGNS_START: bool = false;

/// `bits_to_16` with the order that `arrange` leaves: `at(k, h)` is the byte whose bits go to half `h` of register `k`.
macro_rules! bits {
    ($feature:literal, $at:ident) => {
        /// 16 where the bits of 32 columns of 4 rows, a dword a row, are set: register `k` of 8.
        #[inline]
        #[target_feature(enable = $feature)]
        pub(super) fn bits_to_16(bits: I4, k: usize) -> I4 {
            const AT: [[u8; 16]; 8] = {
                let mut at = [[0; 16]; 8];
                let mut i = 0;
                while i < 128 {
                    at[i / 16][i % 16] = $at(i / 16, i % 16 / 8);
                    i += 1;
                }
                at
            };
            const ONE: [u8; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128];
            // SAFETY: the tables have 16 bytes.
            let (at, one) = unsafe { (vld1q_u8(AT[k].as_ptr()), vld1q_u8(ONE.as_ptr())) };
            let set = vtstq_u8(vqtbl1q_u8(vreinterpretq_u8_s32(bits), at), one);
            vreinterpretq_s32_u8(vandq_u8(set, vdupq_n_u8(16)))
        }
    };
}

/// 16 activations in the form that `block_w` and `block_t` take.
fn spread_t<const BITS: u8>(x: &[i8; 16], _part: usize) -> [i32; 8] {
    core::array::from_fn(|i| i32::from_le_bytes(core::array::from_fn(|k| x[i % 4 * 4 + k] as u8)))
}

/// `block_w` by `rows_w`, and `block_t` by `dot_w`.
macro_rules! blocks {
    ($feature:literal) => {
        pub(super) use super::spread_t as spread_w;

        /// The dot products of 32 codes of each of 4 rows with 16 and 16 activations.
        ///
        /// # Safety
        /// There are an f16 scale and 32 codes at each of `blocks`, and the result of `spread_w` at each of `x`.
        #[inline]
        #[target_feature(enable = $feature)]
        pub(super) unsafe fn block_w<const BITS: u8>(
            blocks: Rows,
            x: [*const i32; 2],
            start: [i32; 2],
        ) -> [I4; 2] {
            // SAFETY: the caller's promise.
            unsafe {
                let four = |at: usize| array!(splat_w(0); r => load_w(blocks.at(r).add(2 + at)));
                let first = four(0);
                let [low, high] = if BITS == NARROW {
                    [first.map(|w| and_w(w, splat_w(0x0f0f_0f0f))), first.map(|w| upper_w(w))]
                } else {
                    [first, four(16)]
                };
                [
                    add_w(rows_w(low, load_w(x[0].cast())), splat_w(start[0])),
                    add_w(rows_w(high, load_w(x[1].cast())), splat_w(start[1])),
                ]
            }
        }

        /// The dot products of 16 rows of 32 codes, interleaved, with 16 and 16 activations.
        ///
        /// # Safety
        /// There are 16 rows of codes, and the result of `spread_t` at each of `x`.
        #[inline]
        #[target_feature(enable = $feature)]
        pub(super) unsafe fn block_t<const BITS: u8>(
            codes: *const u8,
            x: [*const i32; 2],
            start: [i32; 2],
        ) -> [[I4; 4]; 2] {
            // SAFETY: the caller's promise.
            unsafe {
                let x = [load_w(x[0].cast()), load_w(x[1].cast())];
                let mut sums = start.map(|start| [splat_w(start); 4]);
                for q in 0..4 {
                    let four = |k: usize| load_w(codes.add(64 * k + 16 * q));
                    let first = [four(0), four(1), four(2), four(3)];
                    let [low, high] = if BITS == NARROW {
                        [first.map(|w| and_w(w, splat_w(0x0f0f_0f0f))), first.map(|w| upper_w(w))]
                    } else {
                        [first, [four(4), four(5), four(6), four(7)]]
                    };
                    sums[0][q] = dot_w::<BITS>(sums[0][q], low, x[0]);
                    sums[1][q] = dot_w::<BITS>(sums[1][q], high, x[1]);
                }
                sums
            }
        }
    };
}

/// Integer dots without an instruction for them.
mod wide_dots {
    use super::by_halves;
    use super::lanes::*;
    use crate::kernel::ints::{MIDDLE, NARROW, array};
    use core::arch::aarch64::*;

    /// Adds to each lane the dot product of its 16 codes with 16 activations. No product of activations with signed
    /// bytes is that of −128 and −128, so two fit 16 bits; of narrow codes eight do.
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn dot_w<const BITS: u8>(mut acc: I4, codes: [I4; 4], x: I4) -> I4 {
        let c = codes.map(|c| vreinterpretq_s8_s32(c));
        let x = [vdupq_laneq_s32::<0>(x), vdupq_laneq_s32::<1>(x), vdupq_laneq_s32::<2>(x), vdupq_laneq_s32::<3>(x)];
        let x = x.map(|x| vreinterpretq_s8_s32(x));
        let low = |k: usize| vmull_s8(vget_low_s8(c[k]), vget_low_s8(x[k]));
        if BITS == NARROW {
            let (mut a, mut b) = (low(0), vmull_high_s8(c[0], x[0]));
            for k in 1..4 {
                a = vmlal_s8(a, vget_low_s8(c[k]), vget_low_s8(x[k]));
                b = vmlal_high_s8(b, c[k], x[k]);
            }
            return vpadalq_s16(acc, vpaddq_s16(a, b));
        }
        for k in 0..4 {
            acc = vpadalq_s16(acc, vpaddq_s16(low(k), vmull_high_s8(c[k], x[k])));
        }
        acc
    }

    pub(super) use super::{SIGNS_START, spread_t, start_w};
    blocks!("neon");
    by_halves!("neon");
    bits!("neon", at_of_rows);

    /// The dot products of 16 signed bytes of each of 4 rows with 16 others.
    #[inline]
    #[target_feature(enable = "neon")]
    fn rows_w(codes: [I4; 4], x: I4) -> I4 {
        let x = vreinterpretq_s8_s32(x);
        let mut sums = [splat_w(0); 4];
        for r in 0..4 {
            let c = vreinterpretq_s8_s32(codes[r]);
            sums[r] = vpaddlq_s16(vmlal_high_s8(vmull_s8(vget_low_s8(c), vget_low_s8(x)), c, x));
        }
        vpaddq_s32(vpaddq_s32(sums[0], sums[1]), vpaddq_s32(sums[2], sums[3]))
    }

    /// Byte `half` of the bits of 16 columns of row `k % 4`.
    const fn at_of_rows(k: usize, half: usize) -> u8 {
        (4 * (k % 4) + k / 4 * 2 + half) as u8
    }

    /// 16 bytes of each of 4 rows: as they are.
    ///
    /// # Safety
    /// They exist.
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) unsafe fn arrange(rows: Rows) -> [I4; 4] {
        // SAFETY: the caller's promise.
        unsafe { [load_w(rows.at(0)), load_w(rows.at(1)), load_w(rows.at(2)), load_w(rows.at(3))] }
    }

    /// 16 activations in the form that `rows_r` takes.
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn spread_r(_zero: u8, x: I4) -> [I4; 2] {
        [x; 2]
    }

    /// The starting value of its sums.
    pub(super) fn start_r(zero: u8, _: &[i8; 16], sum: i32) -> [i32; 4] {
        [-(zero as i32) * sum; 4]
    }

    /// The dot products of 16 codes of each of 4 rows with 16 activations. Of narrow codes 8 products fit 16 bits, of
    /// those of 7 bits 4, of others 2.
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn rows_r<const BITS: u8, const START: bool>(codes: [I4; 4], x: [I4; 2], start: I4) -> I4 {
        let x = vreinterpretq_s8_s32(x[0]);
        let [a, b, c, d] = array!(vdupq_n_s16(0); r => {
            let c = vreinterpretq_s8_s32(codes[r]);
            vmlal_high_s8(vmull_s8(vget_low_s8(c), vget_low_s8(x)), c, x)
        });
        let sums = match BITS {
            NARROW => vpaddlq_s16(vpaddq_s16(vpaddq_s16(a, b), vpaddq_s16(c, d))),
            MIDDLE => vpaddq_s32(vpaddlq_s16(vpaddq_s16(a, b)), vpaddlq_s16(vpaddq_s16(c, d))),
            _ => vpaddq_s32(vpaddq_s32(vpaddlq_s16(a), vpaddlq_s16(b)), vpaddq_s32(vpaddlq_s16(c), vpaddlq_s16(d))),
        };
        if START { add_w(sums, start) } else { sums }
    }
}

/// Integer dots of 4 bytes a lane.
mod four_dots {
    use super::by_halves;
    use super::lanes::*;
    use crate::kernel::ints::{NARROW, array};
    use core::arch::aarch64::*;
    use core::arch::asm;

    /// Adds to each lane the dot product of its 16 codes with 16 activations.
    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    pub(super) fn dot_w<const BITS: u8>(mut acc: I4, codes: [I4; 4], x: I4) -> I4 {
        macro_rules! dot {
            ($k:literal) => {
                // SAFETY: an operation on registers that the features of this function include. The intrinsic is
                // unstable, so this line is assembly.
                unsafe {
                    asm!(concat!("sdot {:v}.4s, {:v}.16b, {:v}.4b[", $k, "]"),
                        inout(vreg) acc, in(vreg) codes[$k], in(vreg) x,
                        options(pure, nomem, nostack, preserves_flags));
                }
            };
        }
        dot!(0);
        dot!(1);
        dot!(2);
        dot!(3);
        acc
    }

    pub(super) use super::{SIGNS_START, spread_t, start_w};
    blocks!("neon,dotprod");
    by_halves!("neon,dotprod");
    bits!("neon", at_of_pairs);

    /// The dot products of 16 signed bytes of each of 4 rows with 16 others.
    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    fn rows_w(codes: [I4; 4], x: I4) -> I4 {
        let mut sums = [splat_w(0); 4];
        for r in 0..4 {
            // SAFETY: as above.
            unsafe {
                asm!("sdot {:v}.4s, {:v}.16b, {:v}.16b", inout(vreg) sums[r], in(vreg) codes[r], in(vreg) x,
                    options(pure, nomem, nostack, preserves_flags));
            }
        }
        vpaddq_s32(vpaddq_s32(sums[0], sums[1]), vpaddq_s32(sums[2], sums[3]))
    }

    /// Byte 0 of the bits of 8 columns of the first or the second row of two.
    const fn at_of_pairs(k: usize, row: usize) -> u8 {
        (4 * (k % 4 / 2 * 2 + row) + k / 4 * 2 + k % 2) as u8
    }

    /// 16 bytes of each of 4 rows: 8 of two rows in a register, so that the sums of two need one addition of pairs.
    ///
    /// # Safety
    /// They exist.
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) unsafe fn arrange(rows: Rows) -> [I4; 4] {
        // SAFETY: the caller's promise.
        let [a, b, c, d] = unsafe { array!(vdupq_n_s64(0); r => vreinterpretq_s64_s32(load_w(rows.at(r)))) };
        let pairs = [vzip1q_s64(a, b), vzip2q_s64(a, b), vzip1q_s64(c, d), vzip2q_s64(c, d)];
        array!(splat_w(0); k => vreinterpretq_s32_s64(pairs[k]))
    }

    /// 16 activations in the form that `rows_r` takes.
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn spread_r(_zero: u8, x: I4) -> [I4; 2] {
        let x = vreinterpretq_s64_s32(x);
        [vreinterpretq_s32_s64(vdupq_laneq_s64::<0>(x)), vreinterpretq_s32_s64(vdupq_laneq_s64::<1>(x))]
    }

    /// The starting value of its sums.
    pub(super) fn start_r(zero: u8, _: &[i8; 16], sum: i32) -> [i32; 4] {
        [-(zero as i32) * sum, 0, -(zero as i32) * sum, 0]
    }

    /// The dot products of 16 codes of each of 4 rows with 16 activations.
    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    pub(super) fn rows_r<const BITS: u8, const START: bool>(codes: [I4; 4], x: [I4; 2], start: I4) -> I4 {
        let mut sums = [if START { start } else { splat_w(0) }; 2];
        for k in 0..4 {
            // SAFETY: as above.
            unsafe {
                asm!("sdot {:v}.4s, {:v}.16b, {:v}.16b", inout(vreg) sums[k / 2], in(vreg) codes[k], in(vreg) x[k % 2],
                    options(pure, nomem, nostack, preserves_flags));
            }
        }
        vpaddq_s32(sums[0], sums[1])
    }
}

unit!(neon ["neon"] super::wide_dots);
unit!(dotprod ["neon" "dotprod"] super::four_dots);

/// The backend with products of matrices of bytes.
pub(super) mod i8mm {
    use crate::kernel::{QActs, Scratch, Tile};
    use crate::quant::Matrix;
    use core::ops::Range;

    /// One or two rows by dot products, more by those of matrices.
    #[target_feature(enable = "neon,dotprod,i8mm")]
    pub(in crate::kernel) fn int_dots(
        w: &Matrix,
        rows: Range<usize>,
        next: &[u8],
        x: &QActs,
        y: &mut Tile,
        scratch: &mut Scratch,
    ) {
        if x.n > 2 {
            super::matrices::int_dots(w, rows, next, x, y, scratch)
        } else {
            super::dotprod::int_dots(w, rows, next, x, y, scratch)
        }
    }
}

/// Products of matrices of bytes, 2 rows with 2 rows at a time: in panels the codes of two rows of weights lie side by
/// side, and their sums with two rows of activations stay so up to the end.
mod matrices {
    use super::dotprod::int_four;
    use crate::kernel::Tile;
    use crate::kernel::four::*;
    use core::arch::aarch64::*;
    use core::arch::asm;
    use core::ops::Range;

    /// Rows of activations in a tile, for all codes.
    const INT_X: usize = 2;
    const WHOLE_X: usize = INT_X;
    /// Panels of weights that it spans.
    const PANELS: usize = 1;
    /// Bytes are multiplied as signed ones.
    const SIGNED_CODES: bool = true;
    /// Codes are loaded when they are used.
    const PRELOAD: bool = false;
    /// There are registers for the sums of 8 rows of activations.
    const MANY_REGISTERS: bool = false;

    /// Adds the dot products of the two halves of `a` with the two halves of `b`.
    #[inline]
    #[target_feature(enable = "neon,i8mm")]
    fn matrix(mut acc: I4, a: I4, b: I4) -> I4 {
        // SAFETY: an operation on registers that the features of this function include. The intrinsic is unstable, so
        // this line is assembly.
        unsafe {
            asm!("smmla {:v}.4s, {:v}.16b, {:v}.16b", inout(vreg) acc, in(vreg) a, in(vreg) b,
                options(pure, nomem, nostack, preserves_flags));
        }
        acc
    }

    /// Puts 32 columns of codes into a panel, counted from their zero: 8 columns of rows `4q` and `4q + 1` in the first
    /// vector of two, those of the next two rows in the other.
    #[inline]
    #[target_feature(enable = "neon")]
    fn store_codes(panel: &mut [[u8; 64]; 8], codes: [I; 8], zero: u8) {
        let zero = vdupq_n_u8(if zero == 128 { 0 } else { zero });
        let signed = |codes| vreinterpretq_s32_u8(vsubq_u8(vreinterpretq_u8_s32(codes), zero));
        for k in [0, 2, 4, 6] {
            let (mut first, mut second) = (codes[k], codes[k + 1]);
            for q in 0..4 {
                let (a, b) = (signed(codes[k][q]), signed(codes[k + 1][q]));
                (first[q], second[q]) = (vzip1q_s32(a, b), vzip2q_s32(a, b));
            }
            store_i(&mut panel[k], first);
            store_i(&mut panel[k + 1], second);
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn pair(a: f32, b: f32) -> F4 {
        let ab = vset_lane_f32::<1>(b, vdup_n_f32(a));
        vcombine_f32(ab, ab)
    }

    /// The scaled sums of a tile.
    #[target_feature(enable = "neon,dotprod,i8mm")]
    fn scaled_tile<const M: usize, const P: usize, const SUB: usize, const BITS: u8, const WIDE: bool>(
        panels: &[Panel; P],
        cols: Range<usize>,
        of: Sides,
        _min: bool,
        i: usize,
        sums: &mut [[F; P]; M],
    ) {
        const { assert!(P == 1 && M <= 2, "two rows of activations, or one, with one panel") };
        let (x, panel) = (of.x, &panels[0]);
        // A single row stands in for its neighbour, whose sums are not kept.
        let rows = [i, i + M - 1];
        let parts = cols.start / 16..cols.end / 16;
        let of = |row: usize| &x.q[row * x.c..][cols.clone()];
        let q: [&[i8]; 2] = array!(&[][..]; m => of(rows[m]));
        let low_q: [&[i8]; 2] = array!(&[][..]; m => of(if WIDE { x.n + rows[m] } else { rows[m] }));
        let d: [&[f32]; 2] = array!(&[][..]; m => &x.d[rows[m] * x.c / 16..][parts.clone()]);
        // Of rows 4r and 4r + 1 of the panel with both activations, and of the two rows after.
        let nothing = splat_v(0.0);
        let mut acc = [[nothing; 2]; 4];
        let [a, b]: [F; 2] = [sums[0][0], sums[M - 1][0]];
        for r in 0..4 {
            acc[r] = [vzip1q_f32(a[r], b[r]), vzip2q_f32(a[r], b[r])];
        }
        for b in 0..cols.len() / SUB {
            let mut scaled = [[nothing; 2]; 4];
            // Of wide codes: the sums of both bytes, through all parts of a block.
            let mut wide = [[[splat_w(0); 2]; 2]; 4];
            for part in b * (SUB / 16)..(b + 1) * (SUB / 16) {
                // SAFETY: `part` is below the parts of the columns, as many as the slices and the panel hold.
                let pairs = |q: [&[i8]; 2]| unsafe {
                    let x: [int64x2_t; 2] = array!(vdupq_n_s64(0); m => vld1q_s64(q[m].as_ptr().add(16 * part).cast()));
                    let x = [vtrn1q_s64(x[0], x[1]), vtrn2q_s64(x[0], x[1])];
                    [vreinterpretq_s32_s64(x[0]), vreinterpretq_s32_s64(x[1])]
                };
                // SAFETY: likewise.
                let d = unsafe { pair(*d[0].get_unchecked(part), *d[1].get_unchecked(part)) };
                let (x, low_x) = (pairs(q), pairs(low_q));
                for r in 0..4 {
                    for pair in 0..2 {
                        let (mut ints, mut low) = (splat_w(0), splat_w(0));
                        if WIDE {
                            [ints, low] = wide[r][pair];
                        }
                        for k in 0..2 {
                            // SAFETY: 4 vectors for each part.
                            let codes = unsafe {
                                load_w(panel.codes.as_ptr().add(4 * part + 2 * k + pair).cast::<u8>().add(16 * r))
                            };
                            ints = matrix(ints, codes, x[k]);
                            if WIDE {
                                low = matrix(low, codes, low_x[k]);
                            }
                        }
                        if WIDE {
                            wide[r][pair] = [ints, low];
                            scaled[r][pair] = mul_v(d, float_v(add_w(shl_w(ints, 4), low)));
                        } else {
                            scaled[r][pair] = fma_v(d, float_v(ints), scaled[r][pair]);
                        }
                    }
                }
            }
            let scales = load_from(&panel.scales[b]);
            for r in 0..4 {
                let both = [vzip1q_f32(scales[r], scales[r]), vzip2q_f32(scales[r], scales[r])];
                for pair in 0..2 {
                    acc[r][pair] = fma_v(both[pair], scaled[r][pair], acc[r][pair]);
                }
            }
        }
        let (mut a, mut b) = (a, b);
        for r in 0..4 {
            (a[r], b[r]) = (vuzp1q_f32(acc[r][0], acc[r][1]), vuzp2q_f32(acc[r][0], acc[r][1]));
        }
        sums[M - 1][0] = b;
        sums[0][0] = a;
    }

    crate::kernel::ints::integers!(tile of its own, "neon" "dotprod" "i8mm");
}
