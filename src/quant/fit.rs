//! The searches for scales that ggml's encoders make, in its order of operations: every sum is added value by value, so the
//! bytes are those of its reference.
//!
//! | function | ggml | what it finds |
//! | --- | --- | --- |
//! | [`symmetric`] | `make_qx_quants` | a scale for codes on both sides of zero |
//! | [`ranged`] | `make_qkx2_quants`, `make_qkx3_quants` | a scale and a minimum for codes from 0 |
//! | [`positive`] | `make_qp_quants` | a scale for the scales and minima of a block, which are not negative |
//!
//! The two of the second row are one: they differ only where no weights are given.

use crate::math::sqrt;

/// Blocks with no larger value are zero.
pub(super) const TINY: f32 = 1e-15;

/// The nearest whole number, ties to even, as ggml computes it: by adding 1.5 · 2²³. What is larger than 2²² wraps.
#[inline(always)]
pub(super) fn nearest(x: f32) -> i32 {
    ((x + 12_582_912.0).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

/// A scale for codes from 0 to 2 · `half` − 1, whose zero is `half`. `weights`: how much an error at each value counts; without
/// them the square of the value does.
pub(super) fn symmetric<const N: usize>(
    half: i32,
    x: &[f32; N],
    weights: Option<&[f32; N]>,
    codes: &mut [u8; N],
) -> f32 {
    let (mut most, mut extreme) = (0.0, 0.0);
    for &v in x {
        if v.abs() > most {
            (most, extreme) = (v.abs(), v);
        }
    }
    if most < TINY {
        codes.fill(0);
        return 0.0;
    }
    let code = |inverse: f32, v: f32| nearest(inverse * v).min(half - 1).max(-half);
    let sums = |inverse: f32| {
        let (mut lx, mut l2) = (0.0, 0.0);
        for i in 0..N {
            let l = code(inverse, x[i]) as f32;
            let w = weights.map_or(x[i] * x[i], |w| w[i]);
            lx += w * x[i] * l;
            l2 += w * l * l;
        }
        (lx, l2)
    };
    let mut fill = |inverse: f32| {
        for i in 0..N {
            codes[i] = (code(inverse, x[i]) + half) as u8;
        }
    };
    let inverse = -half as f32 / extreme;
    let (lx, l2) = sums(inverse);
    fill(inverse);
    let mut scale = if l2 != 0.0 { lx / l2 } else { 0.0 };
    let mut best = scale * lx;
    for step in (-9..=9).filter(|step| *step != 0) {
        let inverse = -(half as f32 + 0.1 * step as f32) / extreme;
        let (lx, l2) = sums(inverse);
        if l2 > 0.0 && lx * lx > best * l2 {
            fill(inverse);
            scale = lx / l2;
            best = scale * lx;
        }
    }
    scale
}

/// Which scales [`ranged`] tries: (`first` + i · `step` + largest code) over the range, for i from 0 to `last`.
pub(super) struct Tries {
    pub first: f32,
    pub step: f32,
    pub last: i32,
}

/// Those of weighted encoders.
pub(super) const WEIGHTED: Tries = Tries { first: -0.9, step: 0.05, last: 36 };

/// A scale and a minimum, negated, for codes from 0 to `top`: a value is scale · code − minimum.
pub(super) fn ranged(top: i32, x: &[f32; 32], weights: &[f32; 32], codes: &mut [u8; 32], tries: &Tries) -> (f32, f32) {
    let (mut min, mut max) = (x[0], x[0]);
    let (mut sum_w, mut sum_x) = (weights[0], weights[0] * x[0]);
    for i in 1..32 {
        if x[i] < min {
            min = x[i];
        }
        if x[i] > max {
            max = x[i];
        }
        sum_w += weights[i];
        sum_x += weights[i] * x[i];
    }
    if min > 0.0 {
        min = 0.0;
    }
    if max <= min {
        codes.fill(0);
        return (0.0, -min);
    }
    let code = |inverse: f32, min: f32, v: f32| nearest(inverse * (v - min)).min(top).max(0);
    let error = |scale: f32, min: f32, codes: &[u8; 32]| {
        let mut sum = 0.0;
        for i in 0..32 {
            let diff = scale * f32::from(codes[i]) + min - x[i];
            sum += weights[i] * (diff * diff);
        }
        sum
    };
    let inverse = top as f32 / (max - min);
    let mut scale = 1.0 / inverse;
    for i in 0..32 {
        codes[i] = code(inverse, min, x[i]) as u8;
    }
    let mut best = error(scale, min, codes);
    let mut tried = [0; 32];
    for i in 0..=tries.last {
        // The range begins at the best minimum so far, as in ggml.
        let inverse = (tries.first + tries.step * i as f32 + top as f32) / (max - min);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (0.0, 0.0, 0.0);
        for i in 0..32 {
            let l = code(inverse, min, x[i]);
            tried[i] = l as u8;
            let (l, w) = (l as f32, weights[i]);
            sum_l += w * l;
            sum_l2 += w * l * l;
            sum_xl += w * l * x[i];
        }
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        if determinant > 0.0 {
            let mut own_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
            let mut own_min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
            if own_min > 0.0 {
                own_min = 0.0;
                own_scale = sum_xl / sum_l2;
            }
            let own = error(own_scale, own_min, &tried);
            if own < best {
                *codes = tried;
                (best, scale, min) = (own, own_scale, own_min);
            }
        }
    }
    (scale, -min)
}

/// A scale for codes from 0 to 63 of eight values that are not negative.
pub(super) fn positive(x: &[f32; 8], weights: &[f32; 8], codes: &mut [u8; 8]) -> f32 {
    const TOP: i32 = 63;
    let max = x.iter().fold(0.0, |max: f32, &v| if max > v { max } else { v });
    if max < TINY {
        codes.fill(0);
        return 0.0;
    }
    let mut inverse = TOP as f32 / max;
    let first = 1.0 / inverse;
    let mut best = 0.0;
    for i in 0..8 {
        let diff = x[i] - first * f32::from(nearest(inverse * x[i]) as u8);
        best += weights[i] * diff * diff;
    }
    for step in (-4..=4).filter(|step| *step != 0) {
        let own = (0.1 * step as f32 + TOP as f32) / max;
        let scale = 1.0 / own;
        let mut error = 0.0;
        for i in 0..8 {
            let diff = x[i] - scale * nearest(own * x[i]).min(TOP) as f32;
            error += weights[i] * diff * diff;
        }
        if error < best {
            (best, inverse) = (error, own);
        }
    }
    let (mut lx, mut l2) = (0.0, 0.0);
    for i in 0..8 {
        codes[i] = nearest(inverse * x[i]).min(TOP) as u8;
        let (l, w) = (f32::from(codes[i]), weights[i]);
        lx += w * x[i] * l;
        l2 += w * l * l;
    }
    for _ in 0..5 {
        let mut changed = false;
        for i in 0..8 {
            let (l, w) = (f32::from(codes[i]), weights[i]);
            let (mut own_lx, mut own_l2) = (lx - w * x[i] * l, l2 - w * l * l);
            if own_lx > 0.0 && own_l2 > 0.0 {
                let new = nearest(x[i] * own_l2 / own_lx).min(TOP);
                if new != i32::from(codes[i]) {
                    own_lx += w * x[i] * new as f32;
                    own_l2 += w * new as f32 * new as f32;
                    if own_lx * own_lx * l2 > lx * lx * own_l2 {
                        codes[i] = new as u8;
                        (lx, l2, changed) = (own_lx, own_l2, true);
                    }
                }
            }
        }
        if !changed {
            break;
        }
    }
    if l2 > 0.0 { lx / l2 } else { 0.0 }
}

/// The weights of a block of 32: how much its inputs matter, times the root of `mean` and the square of each value.
pub(super) fn weigh(mean: f32, x: &[f32; 32], importance: &[f32; 32]) -> [f32; 32] {
    core::array::from_fn(|i| importance[i] * sqrt(mean + x[i] * x[i]))
}

/// The sum of squares, value by value.
pub(super) fn squares(x: &[f32]) -> f32 {
    let mut sum = 0.0;
    for &v in x {
        sum += v * v;
    }
    sum
}
