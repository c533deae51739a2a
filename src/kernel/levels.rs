//! Rounding of activations, written once over 16 lanes for x86-64: `levels!`. A lane is a block of 16 values, so that
//! its sums stay in one lane, and the scales of 16 blocks are searched with the same few operations.
//!
//! An instruction set provides `load_from`, `store_to`, `splat`, `fma`, `mul`, `add`, `sub`, `div` and `nearest` (the
//! integer, ties to even); `size` and `most` (magnitudes, and the larger of two of them, by their bits), `less` (a
//! mask) and `pick` (by it), `to_columns` (16 rows of 16 values to columns), `code` (16 integers as bytes), and
//! `LEVELS_TRIED`, the number of levels that it tries at a time.

macro_rules! levels {
    ($($feature:tt)+) => {
        use crate::kernel::QRow;
        use crate::kernel::body::{self, LEVELS};

        /// Blocks that are rounded together, and their values.
        const BLOCKS: usize = 16;

        /// The best of [`LEVELS`] for each block, from its values and their largest magnitude.
        $(#[target_feature(enable = $feature)])+
        #[inline]
        fn best_levels(values: &[[f32; BLOCKS]; 16], largest: F) -> F {
            let (mut best, mut least) = (splat(LEVELS[0]), splat(f32::INFINITY));
            for some in LEVELS.as_chunks::<LEVELS_TRIED>().0 {
                let inverses: [F; LEVELS_TRIED] = array!(splat(0.0); k => div(splat(some[k]), largest));
                let mut errors = [splat(0.0); LEVELS_TRIED];
                for value in values {
                    let value = load_from(value);
                    for k in 0..LEVELS_TRIED {
                        let v = mul(value, inverses[k]);
                        let off = sub(v, nearest(v));
                        errors[k] = add(errors[k], mul(off, off));
                    }
                }
                for k in 0..LEVELS_TRIED {
                    let level = splat(some[k]);
                    let error = div(errors[k], mul(level, level));
                    let better = less(error, least);
                    (best, least) = (pick(better, level, best), pick(better, error, least));
                }
            }
            best
        }

        /// [`Kernels::quantize`](crate::kernel::Kernels::quantize).
        $(#[target_feature(enable = $feature)])+
        pub(in crate::kernel) fn quantize(x: &[f32], mut out: QRow) {
            assert!(x.len() == out.q.len() && x.len().is_multiple_of(32), "columns in blocks of 32");
            if out.wide() {
                return body::quantize_wide(x, out);
            }
            for (group, x) in x.as_chunks::<16>().0.chunks(BLOCKS).enumerate() {
                let blocks = BLOCKS * group..BLOCKS * group + x.len();
                let mut rows = [[0.0; 16]; BLOCKS];
                rows[..x.len()].copy_from_slice(x);
                // Lanes without a block round the value 1.
                rows[x.len()..].fill([1.0; 16]);
                let columns = to_columns(&rows);
                let mut largest = size(load_from(&columns[0]));
                for column in &columns[1..] {
                    largest = most(largest, size(load_from(column)));
                }
                let mut sizes = [0.0; BLOCKS];
                store_to(&mut sizes, largest);
                if !sizes.iter().fold(true, |all, most| all & body::has_scale(*most)) {
                    for (b, row) in blocks.zip(&rows) {
                        body::quantize_block(row, b, &mut out);
                    }
                    continue;
                }
                let level = best_levels(&columns, largest);
                let (scale, inverse) = (div(largest, level), div(level, largest));
                let mut sum = splat(0.0);
                for column in &columns {
                    sum = add(sum, nearest(mul(load_from(column), inverse)));
                }
                let [mut scales, mut inverses, mut sums] = [[0.0; BLOCKS]; 3];
                store_to(&mut scales, scale);
                store_to(&mut inverses, inverse);
                store_to(&mut sums, sum);
                let codes = &mut out.q.as_chunks_mut::<16>().0[blocks.clone()];
                for ((codes, row), inverse) in codes.iter_mut().zip(&rows).zip(inverses) {
                    code(codes, nearest(mul(load_from(row), splat(inverse))));
                }
                out.d[blocks.clone()].copy_from_slice(&scales[..x.len()]);
                for (out, sum) in out.s[blocks.clone()].iter_mut().zip(sums) {
                    // The low bits of a float near 1.5·2²³ are those of the integer.
                    *out = (sum + body::MAGIC).to_bits().wrapping_sub(body::MAGIC.to_bits()) as i32;
                }
                let low = &mut out.low[blocks.start / 2..blocks.end / 2];
                for ((low, d), s) in low.iter_mut().zip(scales.as_chunks::<2>().0).zip(sums.as_chunks::<2>().0) {
                    *low = crate::math::fma(d[1], s[1], crate::math::fma(d[0], s[0], 0.0));
                }
            }
        }
    };
}
pub(super) use levels;
