//! The unit that multiplies pairs of BF16.

#![allow(unsafe_code)]

use super::*;

/// The sums of the products of pairs and what was there: the second of each pair first, each by a fused multiply-add.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
fn dot(a: F, b: F, acc: F) -> F {
    // SAFETY: the same bits.
    let [a, b]: [__m512bh; 2] = unsafe { core::mem::transmute([a, b]) };
    _mm512_dpbf16_ps(acc, a, b)
}

/// 32 values.
///
/// # Safety
/// They are there.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn pairs(p: *const u16, _step: usize) -> F {
    // SAFETY: the caller's promise.
    unsafe { load(p.cast()) }
}

/// [`Kernels::round_brains`](crate::kernel::Kernels::round_brains): 32 values as they stand in the bits of 16 floats.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
pub(in crate::kernel) fn round_brains(x: &[f32], out: &mut [f32]) {
    let ((xs, rest), outs) = (x.as_chunks::<32>(), out.as_chunks_mut::<16>().0);
    let mut last = [0.0; 32];
    last[..rest.len()].copy_from_slice(rest);
    for (x, out) in xs.iter().chain((!rest.is_empty()).then_some(&last)).zip(outs) {
        // SAFETY: `x` has 32 values, and `out` room for as many bits.
        unsafe {
            let all = _mm512_cvtne2ps_pbh(load(x.as_ptr().add(16)), load(x.as_ptr()));
            _mm512_storeu_si512(out.as_mut_ptr().cast(), core::mem::transmute::<__m512bh, __m512i>(all));
        }
    }
}

crate::kernel::halves::halves!(dot in 1, "avx2" "fma" "f16c" "avx512f" "avx512bw" "avx512vl" "avx512dq" "avx512vnni" "avx512bf16");
