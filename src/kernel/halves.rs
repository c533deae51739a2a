//! Products with floats of 16 bits as they stand, in tiles, written once over 16 lanes: `halves!`.
//!
//! An instruction set gives it, beside what `floats.rs` names, `halves` and `brains` (16 of F16, of BF16) and `pairs` with
//! the operation that adds its products: 32 values of BF16 in one step or in two, the second values of all pairs first;
//! and the rows of activations in a tile of those and up to which it takes less time than decoding, `PAIR_X` and `PAIR_ROWS`.

macro_rules! halves {
    ($join:ident in $steps:literal, $($feature:tt)+) => {
        use crate::quant::Halves;

        /// BF16 with activations as they are; 0 is F16.
        const BRAINS: u8 = 1;
        /// BF16 with activations that are rounded.
        const PAIRS: u8 = 2;

        /// Columns that are taken together, and the steps in which they are.
        const fn taken(kind: u8) -> (usize, usize) {
            if kind == PAIRS { (32, $steps) } else { (16, 1) }
        }

        /// The weights of a step.
        ///
        /// # Safety
        /// The columns that are taken together begin at `p`.
        $(#[target_feature(enable = $feature)])+
        #[inline]
        unsafe fn weights<const KIND: u8>(p: *const u16, step: usize) -> F {
            // SAFETY: the caller's promise.
            unsafe {
                match KIND {
                    PAIRS => pairs(p, step),
                    BRAINS => brains(p),
                    _ => halves(p),
                }
            }
        }

        /// Adds the products of a step.
        $(#[target_feature(enable = $feature)])+
        #[inline]
        fn join<const KIND: u8>(a: F, b: F, acc: F) -> F {
            if KIND == PAIRS { $join(a, b, acc) } else { fma(a, b, acc) }
        }

        /// The lanes of `M` rows of `x` with `N` rows of `w`, over columns `0..c`, whole units. Halves `ahead` of those worked
        /// on are asked for, if there are any.
        ///
        /// # Safety
        /// The columns are there.
        $(#[target_feature(enable = $feature)])+
        #[inline]
        unsafe fn half_tile<const M: usize, const N: usize, const KIND: u8>(
            x: [*const f32; M],
            w: [*const u16; N],
            c: usize,
            ahead: Option<usize>,
        ) -> [[F; N]; M] {
            let (unit, steps) = taken(KIND);
            let mut acc = [[splat(0.0); N]; M];
            for k in (0..c).step_by(unit) {
                if let Some(ahead) = ahead {
                    let soon = w[0].wrapping_add(N * k + ahead);
                    for line in 0..(N * unit).div_ceil(32) {
                        prefetch(soon.wrapping_add(32 * line).cast(), true);
                    }
                }
                for step in 0..steps {
                    // SAFETY: the caller's promise.
                    unsafe {
                        let b: [F; N] = array!(splat(0.0); n => weights::<KIND>(w[n].add(k), step));
                        for m in 0..M {
                            let a = load(x[m].byte_add(k * (64 * steps / unit) + 64 * step));
                            for n in 0..N {
                                acc[m][n] = join::<KIND>(a, b[n], acc[m][n]);
                            }
                        }
                    }
                }
            }
            acc
        }

        /// [`dots`] with floats of 16 bits, which become wider as they come. `M` rows of `x` with `N` rows of `w`, each of `c`
        /// values, row `j` and those `apart`: one row's chain of sums would take longer than its values take to come.
        $(#[target_feature(enable = $feature)])+
        #[inline]
        fn half_rows<const M: usize, const N: usize, const KIND: u8>(
            x: View,
            i: usize,
            (w, c): (&[u16], usize),
            j: usize,
            apart: usize,
            ahead: Option<usize>,
            y: &mut Tile,
        ) {
            let (unit, steps) = taken(KIND);
            let rest = c / unit * unit;
            assert!(x.c == if KIND == PAIRS { c.next_multiple_of(32) } else { c }, "{} activations for {c}", x.c);
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
                // By itself, so that the lanes never leave their registers.
                // SAFETY: the slices have `c` values.
                let acc = unsafe { half_tile::<M, N, KIND>(x, w, c, ahead) };
                for m in 0..M {
                    put(m, acc[m]);
                }
                return;
            }
            // SAFETY: the slices have more than `rest` values.
            let mut acc = unsafe { half_tile::<M, N, KIND>(x, w, rest, ahead) };
            for m in 0..M {
                for n in 0..N {
                    if KIND == PAIRS {
                        let mut last = [0; 32];
                        last[..c - rest].copy_from_slice(&right[n][rest..]);
                        for step in 0..steps {
                            // SAFETY: `last` has 32 values, and rows of `x` a whole number of those.
                            unsafe {
                                let a = load(x[m].add((rest / unit * steps + step) * 16));
                                acc[m][n] = join::<KIND>(a, weights::<KIND>(last.as_ptr(), step), acc[m][n]);
                            }
                        }
                        continue;
                    }
                    let mut lanes = [0.0; 16];
                    store_to(&mut lanes, acc[m][n]);
                    for (lane, (x, w)) in lanes.iter_mut().zip(left[m][rest..].iter().zip(&right[n][rest..])) {
                        let w = if KIND == BRAINS { crate::quant::brain(*w) } else { crate::quant::half(*w) };
                        *lane = math::fma(*x, w, *lane);
                    }
                    acc[m][n] = load_from(&lanes);
                }
                put(m, acc[m]);
            }
        }

        /// [`half_rows`] for rows `js` of `w`.
        $(#[target_feature(enable = $feature)])+
        fn half_block<const M: usize, const KIND: u8>(
            x: View,
            i: usize,
            (w, c): (&[u16], usize),
            js: Range<usize>,
            ahead: usize,
            y: &mut Tile,
        ) {
            assert!(w.len() >= js.end * c, "halves of {} rows of {c}", js.end);
            let count = js.len() / DOT_W;
            if M == 1 && crate::kernel::peak::reads_ahead() {
                // A few long streams, which the machine follows best by itself.
                for j in js.start..js.start + count {
                    half_rows::<M, DOT_W, KIND>(x, i, (w, c), j, count, None, y);
                }
            } else {
                for j in (js.start..js.start + count * DOT_W).step_by(DOT_W) {
                    half_rows::<M, DOT_W, KIND>(x, i, (w, c), j, 1, Some(ahead), y);
                }
            }
            for j in js.start + count * DOT_W..js.end {
                half_rows::<M, 1, KIND>(x, i, (w, c), j, 1, Some(ahead), y);
            }
        }

        /// `y = x · wᵀ` with floats of 16 bits. x: `[n, c]`, w: `[f, c]`, y: `[n, f]`.
        $(#[target_feature(enable = $feature)])+
        #[allow(dead_code, reason = "a unit of BF16 has no others")]
        pub(in crate::kernel) fn half_dots(x: View, w: Halves, y: &mut Tile) {
            match w {
                Halves::F16(w) => half_all::<0>(x, (w, x.c), y),
                Halves::Bf16(w) => half_all::<BRAINS>(x, (w, x.c), y),
            }
        }

        /// `y = x · wᵀ` with BF16. x: `[n, c]`, rounded, w: `[f, c]`, y: `[n, f]`.
        $(#[target_feature(enable = $feature)])+
        pub(in crate::kernel) fn brain_dots(x: View, w: &[u16], c: usize, y: &mut Tile, scratch: &mut crate::kernel::Scratch) {
            if x.n <= PAIR_ROWS || $steps == 1 {
                return half_all::<PAIRS>(x, (w, c), y);
            }
            let values = scratch.floats(y.c() * x.c);
            for (values, w) in values.chunks_exact_mut(x.c.max(1)).zip(w.chunks_exact(c.max(1))) {
                let (ws, rest) = w.as_chunks::<32>();
                let mut last = [0; 32];
                last[..rest.len()].copy_from_slice(rest);
                for (values, w) in values.as_chunks_mut::<32>().0.iter_mut().zip(ws.iter().chain([&last])) {
                    for step in 0..2 {
                        // SAFETY: both have 32 values.
                        unsafe { store(values.as_mut_ptr().add(16 * step), pairs(w.as_ptr(), step)) };
                    }
                }
            }
            dots(x, View::new(values, y.c(), x.c), y);
        }

        $(#[target_feature(enable = $feature)])+
        fn half_all<const KIND: u8>(x: View, w: (&[u16], usize), y: &mut Tile) {
            /// Halves asked for ahead of those worked on.
            const AHEAD: usize = 4096;
            /// Halves that stay in the L2 cache while rows of `x` pass over them.
            const KEPT: usize = 1 << 16;
            let kept = (KEPT / x.c.max(1)).max(1).next_multiple_of(DOT_W);
            let (f, step) = (y.c(), if x.n == 1 { y.c().max(1) } else { kept });
            let most = if KIND == PAIRS { PAIR_X } else { DOT_X };
            for j in (0..f).step_by(step) {
                let js = j..(j + step).min(f);
                for i in (0..x.n).step_by(most) {
                    let (js, ahead) = (js.clone(), if i == 0 { AHEAD } else { 0 });
                    match (x.n - i).min(most) {
                        1 => half_block::<1, KIND>(x, i, w, js, ahead, y),
                        2 => half_block::<2, KIND>(x, i, w, js, ahead, y),
                        3 => half_block::<3, KIND>(x, i, w, js, ahead, y),
                        4 => half_block::<4, KIND>(x, i, w, js, ahead, y),
                        5 => half_block::<5, KIND>(x, i, w, js, ahead, y),
                        _ => half_block::<6, KIND>(x, i, w, js, ahead, y),
                    }
                }
            }
        }
    };
}
pub(super) use halves;
