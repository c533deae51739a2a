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

/// The square root, correctly rounded on every target.
#[inline(always)]
pub fn sqrt(x: f32) -> f32 {
    #[cfg(feature = "std")]
    return x.sqrt();
    #[cfg(not(feature = "std"))]
    return libm::sqrtf(x);
}

/// `eˣ` within 2 units of the last place; 0 below −87.3, infinite above 88.7, NaN for NaN.
///
/// `x = n·ln 2 + r` with `|r| ≤ ln 2 / 2`; a polynomial of degree 7 (coefficients of Cephes `expf`) gives `eʳ`, and `2ⁿ` goes
/// into the exponent bits. There is no branch and no table, so loops over it vectorise.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding 1.5·2²³ leaves the nearest integer in the low mantissa bits.
    const MAGIC: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.4, 88.8);
    let shifted = fma(clamped, core::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = fma(n, -0.693_359_4, clamped);
    let r = fma(n, 2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4;
    p = fma(p, r, 1.398_2e-3);
    p = fma(p, r, 8.333_452e-3);
    p = fma(p, r, 4.166_579_6e-2);
    p = fma(p, r, 1.666_666_5e-1);
    p = fma(p, r, 0.5);
    p = fma(p * r, r, r) + 1.0;
    // 2ⁿ in two factors, so that n = 128 and subnormal results need no special case.
    // Wrapping operations, though nothing wraps: overflow checks would keep loops from vectorising.
    let n = (shifted.to_bits() as i32).wrapping_sub(MAGIC.to_bits() as i32);
    let half = n >> 1;
    let pow = |n: i32| f32::from_bits((n.wrapping_add(127) << 23) as u32);
    let y = p * pow(half) * pow(n.wrapping_sub(half));
    if x < -87.4 { 0.0 } else { y }
}

/// `tanh x`, from `e = exp(−2|x|)`, which the kernels compute for many values at once: `(1 − e) / (1 + e)` with the sign of
/// `x`. Near 0, where this cancels, a polynomial (coefficients of Cephes `tanhf`) is used. The result is within 4 units of
/// the last place.
#[inline(always)]
pub fn tanh(x: f32, e: f32) -> f32 {
    let z = x * x;
    let mut p = -5.704_988_7e-3;
    p = p * z + 2.063_908_8e-2;
    p = p * z - 5.373_971_6e-2;
    p = p * z + 1.333_144_2e-1;
    p = p * z - 3.333_328e-1;
    let far = ((1.0 - e) / (1.0 + e)).copysign(x);
    if x.abs() < 0.625 { p * z * x + x } else { far }
}

#[cfg(test)]
mod tests {
    use super::{exp, tanh};

    #[test]
    fn tanh_is_within_four_units_of_the_last_place() {
        for i in -200_000..=200_000 {
            let x = i as f32 * 5.3e-5;
            let want = (x as f64).tanh();
            let ulp =
                f32::from_bits((want as f32).to_bits() + 1) as f64 - f32::from_bits((want as f32).to_bits()) as f64;
            let got = tanh(x, exp(-2.0 * x.abs()));
            assert!((got as f64 - want).abs() <= 4.0 * ulp.abs(), "tanh({x}) = {got} for {want}");
        }
        let of = |x: f32| tanh(x, exp(-2.0 * x.abs()));
        assert_eq!((of(f32::INFINITY), of(-100.0)), (1.0, -1.0));
        assert!(of(f32::NAN).is_nan());
    }

    #[test]
    fn exp_is_within_two_units_of_the_last_place() {
        for i in -1_200_000..1_249_000 {
            let x = i as f32 * 7.1e-5;
            let want = (x as f64).exp();
            let step = (want as f32).to_bits();
            let ulp = f32::from_bits(step + 1) as f64 - f32::from_bits(step) as f64;
            assert!(((exp(x) as f64) - want).abs() <= 2.0 * ulp, "exp({x}) = {} for {want}", exp(x));
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-1e9), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(1e9), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }
}
