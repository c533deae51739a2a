//! Operations on 4 lanes for aarch64, and the products made of them.

#![allow(unsafe_code)]

use super::four::unit;
use super::{Kernels, body};
use crate::quant;
use core::arch::asm;

/// The plain kernels, which are compiled for NEON like all else, and halves by the instructions for them.
pub(super) const OTHERS: Kernels = Kernels { widen, narrow, ..body::PLAIN };

/// Half floats (bits) to `f32`.
fn widen(x: &[u16], out: &mut [f32]) {
    let ((xs, x), (outs, out)) = (x.as_chunks::<8>(), out.as_chunks_mut::<8>());
    for (x, out) in xs.iter().zip(outs) {
        // SAFETY: the arrays have 8 halves and 8 floats. The type of halves is unstable, so these lines are assembly.
        unsafe {
            asm!("ldr {x:q}, [{from}]", "fcvtl {low:v}.4s, {x:v}.4h", "fcvtl2 {x:v}.4s, {x:v}.8h", "stp {low:q}, {x:q}, [{to}]",
                x = out(vreg) _, low = out(vreg) _, from = in(reg) x.as_ptr(), to = in(reg) out.as_mut_ptr(), options(nostack, preserves_flags));
        }
    }
    for (x, out) in x.iter().zip(out) {
        *out = quant::half(*x);
    }
}

/// `f32` to the nearest half float (bits), ties to even.
fn narrow(x: &[f32], out: &mut [u16]) {
    let ((xs, x), (outs, out)) = (x.as_chunks::<8>(), out.as_chunks_mut::<8>());
    for (x, out) in xs.iter().zip(outs) {
        // SAFETY: the arrays have 8 floats and 8 halves.
        unsafe {
            asm!("ldp {x:q}, {y:q}, [{from}]", "fcvtn {x:v}.4h, {x:v}.4s", "fcvtn2 {x:v}.8h, {y:v}.4s", "str {x:q}, [{to}]",
                x = out(vreg) _, y = out(vreg) _, from = in(reg) x.as_ptr(), to = in(reg) out.as_mut_ptr(), options(nostack, preserves_flags));
        }
    }
    body::narrow(x, out);
}

/// One register of 4 lanes.
pub(super) mod lanes {
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

    /// Asks for a line of memory.
    #[inline]
    pub(in crate::kernel) fn prefetch(p: *const u8) {
        // SAFETY: a hint, whatever the address.
        unsafe { asm!("prfm pldl1keep, [{}]", in(reg) p, options(readonly, nostack, preserves_flags)) }
    }

    op!(unsafe load_v(p: *const f32) -> F4 { vld1q_f32(p) });
    op!(unsafe store_v(p: *mut f32, x: F4) { vst1q_f32(p, x) });
    op!(unsafe load_w(p: *const u8) -> I4 { vreinterpretq_s32_u8(vld1q_u8(p)) });
    op!(unsafe store_w(p: *mut u8, x: I4) { vst1q_u8(p, vreinterpretq_u8_s32(x)) });
    op!(splat_v(x: f32) -> F4 { vdupq_n_f32(x) });
    op!(splat_w(x: i32) -> I4 { vdupq_n_s32(x) });
    op!(add_v(a: F4, b: F4) -> F4 { vaddq_f32(a, b) });
    op!(mul_v(a: F4, b: F4) -> F4 { vmulq_f32(a, b) });
    op!(fma_v(a: F4, b: F4, c: F4) -> F4 { vfmaq_f32(c, a, b) });
    op!(float_v(a: I4) -> F4 { vcvtq_f32_s32(a) });
    op!(mul_w(a: I4, b: I4) -> I4 { vmulq_s32(a, b) });
    op!(and_w(a: I4, b: I4) -> I4 { vandq_s32(a, b) });
    op!(or_w(a: I4, b: I4) -> I4 { vorrq_s32(a, b) });
    op!(xor_w(a: I4, b: I4) -> I4 { veorq_s32(a, b) });
    op!(shl_w(a: I4, n: usize) -> I4 { vshlq_s32(a, vdupq_n_s32(n as i32)) });
    op!(shr_w(a: I4, n: usize) -> I4 { vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a), vdupq_n_s32(-(n as i32)))) });
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
        /// The half in the lower half of each lane.
        half_v(a: I4) -> F4 {
            let narrow = vmovn_s32(a);
            let wide: F4;
            // SAFETY: a conversion between registers. The type of halves is unstable, so this line is assembly.
            unsafe {
                asm!("fcvtl {:v}.4s, {:v}.4h", out(vreg) wide, in(vreg) narrow, options(pure, nomem, nostack, preserves_flags));
            }
            wide
        }
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
            [vtrn1q_s64(ab, cd), vtrn1q_s64(ef, gh), vtrn2q_s64(ab, cd), vtrn2q_s64(ef, gh)].map(|w| vreinterpretq_s32_s64(w))
        }
    );
}

/// Integer dots without an instruction for them.
mod wide_dots {
    use super::lanes::*;
    use crate::kernel::ints::NARROW;
    use core::arch::aarch64::*;

    /// Adds to each lane the dot product of its 16 codes with 16 activations. No product of activations with signed bytes
    /// is that of −128 and −128, so two fit 16 bits; of narrow codes eight do.
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
}

/// Integer dots of 4 bytes a lane.
mod four_dots {
    use super::lanes::*;
    use core::arch::asm;

    /// Adds to each lane the dot product of its 16 codes with 16 activations.
    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    pub(super) fn dot_w<const BITS: u8>(mut acc: I4, codes: [I4; 4], x: I4) -> I4 {
        macro_rules! dot {
            ($k:literal) => {
                // SAFETY: an operation on registers that the features of this function include. The intrinsic is unstable,
                // so this line is assembly.
                unsafe {
                    asm!(concat!("sdot {:v}.4s, {:v}.16b, {:v}.4b[", $k, "]"), inout(vreg) acc, in(vreg) codes[$k], in(vreg) x,
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
}

unit!(neon ["neon"] super::wide_dots);
unit!(dotprod ["neon" "dotprod"] super::four_dots);
