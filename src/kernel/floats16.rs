//! Products with 16-bit floats, widened on the fly, in tiles, written once over 16 lanes: `floats16!`.
//!
//! An instruction set provides the operations that `floats.rs` lists, and `load_f16` and `load_bf16` (16 values from
//! memory, to float).

macro_rules! floats16 {
    ($($feature:tt)+) => {
        use crate::quant::Floats16;

        /// The lanes of `M` rows of `x` with `N` rows of `w`, over columns `0..c`, whole sixteens. Values `ahead` of
        /// those worked on are prefetched, if there are any.
        ///
        /// # Safety
        /// The columns exist.
        $(#[target_feature(enable = $feature)])+
        #[inline]
        unsafe fn float16_tile<const M: usize, const N: usize, const BF16: bool>(
            x: [*const f32; M],
            w: [*const u16; N],
            c: usize,
            ahead: Option<usize>,
        ) -> [[F; N]; M] {
            let mut acc = [[splat(0.0); N]; M];
            for k in (0..c).step_by(16) {
                if let Some(ahead) = ahead {
                    let line_ahead = w[0].wrapping_add(N * k + ahead);
                    for line in 0..N.div_ceil(2) {
                        prefetch(line_ahead.wrapping_add(32 * line).cast(), true);
                    }
                }
                // SAFETY: the caller's promise.
                unsafe {
                    let b: [F; N] = array!(splat(0.0); n => if BF16 { load_bf16(w[n].add(k)) } else { load_f16(w[n].add(k)) });
                    for m in 0..M {
                        let a = load(x[m].add(k));
                        for n in 0..N {
                            acc[m][n] = fma(a, b[n], acc[m][n]);
                        }
                    }
                }
            }
            acc
        }

        /// [`dots`] with 16-bit floats, which are widened on the fly. `M` rows of `x` with `N` rows of `w`, each of `c`
        /// values: row `j` and the rows `apart` from it. The chain of sums of a single row would take longer than its
        /// values take to arrive.
        $(#[target_feature(enable = $feature)])+
        #[inline]
        fn float16_rows<const M: usize, const N: usize, const BF16: bool>(
            x: View,
            i: usize,
            (w, c): (&[u16], usize),
            j: usize,
            apart: usize,
            ahead: Option<usize>,
            y: &mut Tile,
        ) {
            let rest = c / 16 * 16;
            assert!(x.c == c, "{} activations for {c}", x.c);
            let right: [&[u16]; N] = array!(&[][..]; n => &w[(j + n * apart) * c..][..c]);
            let left: [&[f32]; M] = array!(&[][..]; m => x.row(i + m));
            let (x, w) = (
                array!(core::ptr::null(); m => left[m].as_ptr()),
                array!(core::ptr::null(); n => right[n].as_ptr()),
            );
            let mut put = |m: usize, lanes: [F; N]| {
                let (y, sums) = (y.row(i + m), sum::<N>(lanes));
                for n in 0..N {
                    y[j + n * apart] = sums[n];
                }
            };
            if rest == c {
                // A separate call, so that the lanes never leave their registers.
                // SAFETY: the slices have `c` values.
                let acc = unsafe { float16_tile::<M, N, BF16>(x, w, c, ahead) };
                for m in 0..M {
                    put(m, acc[m]);
                }
                return;
            }
            // SAFETY: the slices have more than `rest` values.
            let mut acc = unsafe { float16_tile::<M, N, BF16>(x, w, rest, ahead) };
            for m in 0..M {
                for n in 0..N {
                    let mut lanes = [0.0; 16];
                    store_to(&mut lanes, acc[m][n]);
                    for (lane, (x, w)) in lanes.iter_mut().zip(left[m][rest..].iter().zip(&right[n][rest..])) {
                        let w = if BF16 { crate::quant::bf16_to_f32(*w) } else { crate::quant::f16_to_f32(*w) };
                        *lane = math::fma(*x, w, *lane);
                    }
                    acc[m][n] = load_from(&lanes);
                }
                put(m, acc[m]);
            }
        }

        /// [`float16_rows`] for rows `js` of `w`.
        $(#[target_feature(enable = $feature)])+
        fn float16_block<const M: usize, const BF16: bool>(
            x: View,
            i: usize,
            (w, c): (&[u16], usize),
            js: Range<usize>,
            ahead: usize,
            y: &mut Tile,
        ) {
            assert!(w.len() >= js.end * c, "values of {} rows of {c}", js.end);
            let count = js.len() / DOT_W;
            if M == 1 && crate::kernel::peak::reads_ahead() {
                // A few long streams, which the hardware prefetches best by itself.
                for j in js.start..js.start + count {
                    float16_rows::<M, DOT_W, BF16>(x, i, (w, c), j, count, None, y);
                }
            } else {
                for j in (js.start..js.start + count * DOT_W).step_by(DOT_W) {
                    float16_rows::<M, DOT_W, BF16>(x, i, (w, c), j, 1, Some(ahead), y);
                }
            }
            for j in js.start + count * DOT_W..js.end {
                float16_rows::<M, 1, BF16>(x, i, (w, c), j, 1, Some(ahead), y);
            }
        }

        /// `y = x · wᵀ` with 16-bit floats. x: `[n, c]`, w: `[f, c]`, y: `[n, f]`.
        $(#[target_feature(enable = $feature)])+
        pub(in crate::kernel) fn float16_dots(x: View, w: Floats16, y: &mut Tile) {
            match w {
                Floats16::F16(w) => float16_all::<false>(x, (w, x.c), y),
                Floats16::Bf16(w) => float16_all::<true>(x, (w, x.c), y),
            }
        }

        $(#[target_feature(enable = $feature)])+
        fn float16_all<const BF16: bool>(x: View, w: (&[u16], usize), y: &mut Tile) {
            /// Values between those that are worked on and those that are prefetched.
            const AHEAD: usize = 4096;
            /// Values that stay in the L2 cache while rows of `x` pass over them.
            const KEPT: usize = 1 << 16;
            let kept = (KEPT / x.c.max(1)).max(1).next_multiple_of(DOT_W);
            let (f, step) = (y.c(), if x.n == 1 { y.c().max(1) } else { kept });
            for j in (0..f).step_by(step) {
                let js = j..(j + step).min(f);
                for i in (0..x.n).step_by(DOT_X) {
                    let (js, ahead) = (js.clone(), if i == 0 { AHEAD } else { 0 });
                    match (x.n - i).min(DOT_X) {
                        1 => float16_block::<1, BF16>(x, i, w, js, ahead, y),
                        2 => float16_block::<2, BF16>(x, i, w, js, ahead, y),
                        3 => float16_block::<3, BF16>(x, i, w, js, ahead, y),
                        4 => float16_block::<4, BF16>(x, i, w, js, ahead, y),
                        5 => float16_block::<5, BF16>(x, i, w, js, ahead, y),
                        _ => float16_block::<6, BF16>(x, i, w, js, ahead, y),
                    }
                }
            }
        }
    };
}
pub(super) use floats16;
