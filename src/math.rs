//! Functions of one number that give the same bits on every target: fixed operations in a fixed order, never the
//! platform's library. The kernels compile these same bodies for vectors.

/// `a·b + c`, fused where the target has it. WebAssembly has no fused form, so it rounds twice there.
#[inline(always)]
pub fn fma(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(target_arch = "wasm32") { a * b + c } else { libm_free_fma(a, b, c) }
}

#[cfg(feature = "std")]
#[inline(always)]
fn libm_free_fma(a: f32, b: f32, c: f32) -> f32 {
    a.mul_add(b, c)
}

#[cfg(not(feature = "std"))]
#[inline(always)]
fn libm_free_fma(a: f32, b: f32, c: f32) -> f32 {
    libm::fmaf(a, b, c)
}
