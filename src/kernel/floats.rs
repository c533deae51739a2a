//! Products of floats in tiles, written once over 16 lanes: `products!`.
//!
//! An instruction set provides the operations on these lanes, as functions of the module around it: the type `F` (16
//! floats), `load`, `store`, `prefetch`, `load_from`, `store_to`, `splat`, `fma`, and `sum` (the lanes of `DOT_W`
//! registers); and the sizes of its register tiles: rows of both sides of dot products, `DOT_X` and `DOT_W`; rows and
//! vectors of sums, `SUM_R` and `SUM_V`.

macro_rules! products {
    ($($feature:tt)+) => {
        use crate::kernel::{Tile, View};
        use crate::math;
        use core::ops::Range;

        /// Columns and values of the piece of `x` that stays in the L1 cache while rows of `w` pass over it.
        const PIECE: usize = 768;
        const VALUES: usize = 8192;
        /// Rows of `w` whose lanes are kept from one piece of columns to the next.
        const KEPT: usize = 64;

        /// Number of products from which on `x` is copied if its rows are not aligned to cache lines.
        const WORTH: usize = 1 << 20;

        /// Aligned to a cache line, so that no load touches two.
        #[repr(align(64))]
        struct Aligned<T>(T);

        /// The lanes of `M` rows of `x` with `N` rows of `w`, over columns `0..c`, whole sixteens. The rows of `w` that
        /// begin `next` values on are prefetched.
        ///
        /// # Safety
        /// The columns exist.
        $(#[target_feature(enable = $feature)])+
        #[inline]
        unsafe fn dot_tile<const M: usize, const N: usize>(
            x: [*const f32; M],
            w: [*const f32; N],
            c: usize,
            next: usize,
            mut acc: [[F; N]; M],
        ) -> [[F; N]; M] {
            for k in (0..c).step_by(16) {
                // SAFETY: the caller's promise.
                unsafe {
                    let b: [F; N] = array!(splat(0.0); n => load(w[n].add(k)));
                    for n in 0..N {
                        prefetch(w[n].wrapping_add(next + k).cast(), true);
                    }
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

        /// Rows `i..i + M` of `y`, columns `j..j + N`, from `M` rows of `x`, which are columns `at..at + x.c`, and rows
        /// of `w`. `lanes` holds the sums of earlier columns and receives those of these, unless they are the first or
        /// the last ones.
        $(#[target_feature(enable = $feature)])+
        fn dot_rows<const M: usize, const N: usize>(
            x: View,
            i: usize,
            w: View,
            j: usize,
            at: usize,
            lanes: &mut [[f32; 16]],
            y: &mut Tile,
        ) {
            let (first, last, all, c) = (at == 0, at + x.c == w.c, x.c, x.c / 16 * 16);
            assert!(x.n == M && j + N <= w.n && at + x.c <= w.c && (last || c == x.c), "columns of dots");
            let left: [&[f32]; M] = array!(&[][..]; m => x.row(m));
            let right: [&[f32]; N] = array!(&[][..]; n => &w.row(j + n)[at..at + x.c]);
            let (x, w, next) = (
                array!(core::ptr::null(); m => left[m].as_ptr()),
                array!(core::ptr::null(); n => right[n].as_ptr()),
                N * w.stride,
            );
            if first && last && c == all {
                // A separate call, so that the lanes never leave their registers.
                // SAFETY: the slices have `c` values.
                let acc = unsafe { dot_tile::<M, N>(x, w, c, next, [[splat(0.0); N]; M]) };
                for m in 0..M {
                    y.row(i + m)[j..j + N].copy_from_slice(&sum(acc[m]));
                }
                return;
            }
            let mut acc = [[splat(0.0); N]; M];
            if !first {
                acc = array!([splat(0.0); N]; m => array!(splat(0.0); n => load_from(&lanes[m * N + n])));
            }
            // SAFETY: the slices have at least `c` values.
            let mut acc = unsafe { dot_tile::<M, N>(x, w, c, next, acc) };
            for m in 0..M {
                for n in 0..N {
                    let mut lane = [0.0; 16];
                    store_to(&mut lane, acc[m][n]);
                    if !last {
                        lanes[m * N + n] = lane;
                        continue;
                    }
                    for (lane, (x, w)) in lane.iter_mut().zip(left[m][c..].iter().zip(&right[n][c..])) {
                        *lane = math::fma(*x, *w, *lane);
                    }
                    acc[m][n] = load_from(&lane);
                }
                if last {
                    y.row(i + m)[j..j + N].copy_from_slice(&sum(acc[m]));
                }
            }
        }

        /// The rows of `x`, of which `i` is the first, with rows `js` of `w`: as [`dot_rows`] for each.
        $(#[target_feature(enable = $feature)])+
        fn dot_block(x: View, i: usize, w: View, js: Range<usize>, at: usize, lanes: &mut [[f32; 16]], y: &mut Tile) {
            let (mut j, mut used) = (js.start, 0);
            while j < js.end {
                let n = if j + DOT_W <= js.end { DOT_W } else { 1 };
                for first in (0..x.n).step_by(DOT_X) {
                    let x = x.rows(first..(first + DOT_X).min(x.n));
                    let (i, lanes) = (i + first, lanes.get_mut(used..).unwrap_or_default());
                    match (x.n, n == 1) {
                        (1, false) => dot_rows::<1, DOT_W>(x, i, w, j, at, lanes, y),
                        (2, false) => dot_rows::<2, DOT_W>(x, i, w, j, at, lanes, y),
                        (3, false) => dot_rows::<3, DOT_W>(x, i, w, j, at, lanes, y),
                        (4, false) => dot_rows::<4, DOT_W>(x, i, w, j, at, lanes, y),
                        (5, false) => dot_rows::<5, DOT_W>(x, i, w, j, at, lanes, y),
                        (_, false) => dot_rows::<6, DOT_W>(x, i, w, j, at, lanes, y),
                        (1, true) => dot_rows::<1, 1>(x, i, w, j, at, lanes, y),
                        (2, true) => dot_rows::<2, 1>(x, i, w, j, at, lanes, y),
                        (3, true) => dot_rows::<3, 1>(x, i, w, j, at, lanes, y),
                        (4, true) => dot_rows::<4, 1>(x, i, w, j, at, lanes, y),
                        (5, true) => dot_rows::<5, 1>(x, i, w, j, at, lanes, y),
                        (_, true) => dot_rows::<6, 1>(x, i, w, j, at, lanes, y),
                    }
                    used += x.n * n;
                }
                j += n;
            }
        }

        $(#[target_feature(enable = $feature)])+
        pub(in crate::kernel) fn dots(x: View, w: View, y: &mut Tile) {
            assert!(x.c == w.c && y.c() >= w.n, "shapes of dots");
            match x.c {
                0..=4 => return short_dots::<4>(x, w, y),
                5..=8 => return short_dots::<8>(x, w, y),
                9..=16 => return short_dots::<16>(x, w, y),
                _ => (),
            }
            let c = x.c;
            let even = c <= PIECE && x.stride % 16 == 0 && x.data.as_ptr().align_offset(64) == 0;
            if even || x.n * w.n * c < WORTH {
                let step = (VALUES / c / DOT_X).max(1) * DOT_X;
                for i in (0..x.n).step_by(step) {
                    dot_block(x.rows(i..(i + step).min(x.n)), i, w, 0..w.n, 0, &mut [], y);
                }
                return;
            }
            let pieces = c.div_ceil(PIECE);
            let piece = c.div_ceil(pieces).next_multiple_of(16);
            let (step, kept) = match pieces {
                1 => ((VALUES / piece / DOT_X).max(1) * DOT_X, w.n),
                _ => (DOT_X, KEPT),
            };
            let mut block = Aligned([0.0; VALUES]);
            let mut lanes = Aligned([[0.0; 16]; DOT_X * KEPT]);
            for j in (0..w.n).step_by(kept) {
                for i in (0..x.n).step_by(step) {
                    let x = x.rows(i..(i + step).min(x.n));
                    for at in (0..c).step_by(piece) {
                        let cols = piece.min(c - at);
                        for (r, row) in block.0.chunks_exact_mut(piece).take(x.n).enumerate() {
                            row[..cols].copy_from_slice(&x.row(r)[at..at + cols]);
                        }
                        let x = View::strided(&block.0, x.n, cols, piece);
                        dot_block(x, i, w, j..(j + kept).min(w.n), at, &mut lanes.0, y);
                    }
                }
            }
        }

        /// The same for rows of at most `C`: a lane is a row of `w`, and the lanes of the contract are registers.
        $(#[target_feature(enable = $feature)])+
        fn short_dots<const C: usize>(x: View, w: View, y: &mut Tile) {
            assert!(w.c == x.c && x.c <= C && C <= 16, "rows of {} with rows of {}", w.c, x.c);
            for j in (0..w.n).step_by(16) {
                let rows = (w.n - j).min(16);
                let mut transposed = [[0.0; 16]; C];
                for r in 0..rows {
                    for (transposed, w) in transposed.iter_mut().zip(w.row(j + r)) {
                        transposed[r] = *w;
                    }
                }
                for i in 0..x.n {
                    let mut left = [0.0; C];
                    left[..x.c].copy_from_slice(x.row(i));
                    let mut lanes = [splat(0.0); 16];
                    for l in 0..C {
                        lanes[l] = fma(splat(left[l]), load_from(&transposed[l]), splat(0.0));
                    }
                    for half in [8, 4, 2, 1] {
                        for l in 0..half.min(C) {
                            lanes[l] = fma(splat(1.0), lanes[l], lanes[l + half]);
                        }
                    }
                    let mut out = [0.0; 16];
                    store_to(&mut out, lanes[0]);
                    y.row(i)[j..j + rows].copy_from_slice(&out[..rows]);
                }
            }
        }

        /// Left factors of one tile: row `m`, inner index `k` stands at `m · down + k · along`.
        #[derive(Clone, Copy)]
        struct Left<'a> {
            data: &'a [f32],
            down: usize,
            along: usize,
        }

        /// Adds to `R` rows × `V` vectors of `y`, at row `i` and column `at`, the products of inner indices `ks`.
        $(#[target_feature(enable = $feature)])+
        fn sum_tile<const R: usize, const V: usize>(a: Left, w: View, ks: Range<usize>, y: &mut Tile, i: usize, at: usize) {
            assert!(ks.is_empty() || ks.end <= w.n && at + 16 * V <= w.c.min(y.c()), "columns of a tile");
            assert!(ks.is_empty() || (i + R - 1) * a.down + (ks.end - 1) * a.along < a.data.len(), "left factors");
            let rows: [*mut f32; R] = array!(core::ptr::null_mut(); r => y.row(i + r)[at..].as_mut_ptr());
            // SAFETY: `16 · V` columns from `at` lie in `w` and `y`, and the last left factor in its data; checked
            // above.
            unsafe {
                let mut acc: [[F; V]; R] =
                    array!([splat(0.0); V]; r => array!(splat(0.0); v => load(rows[r].add(16 * v))));
                for k in ks {
                    let right = w.data.as_ptr().add(k * w.stride + at);
                    let b: [F; V] = array!(splat(0.0); v => load(right.add(16 * v)));
                    for r in 0..R {
                        let left = splat(*a.data.as_ptr().add((i + r) * a.down + k * a.along));
                        for v in 0..V {
                            acc[r][v] = fma(left, b[v], acc[r][v]);
                        }
                    }
                }
                for r in 0..R {
                    for v in 0..V {
                        store(rows[r].add(16 * v), acc[r][v]);
                    }
                }
            }
        }

        $(#[target_feature(enable = $feature)])+
        fn sum_columns<const V: usize>(a: Left, w: View, ks: Range<usize>, y: &mut Tile, at: usize) {
            let mut i = 0;
            while i < y.n() {
                let r = (y.n() - i).min(SUM_R);
                match r {
                    1 => sum_tile::<1, V>(a, w, ks.clone(), y, i, at),
                    2 => sum_tile::<2, V>(a, w, ks.clone(), y, i, at),
                    3 => sum_tile::<3, V>(a, w, ks.clone(), y, i, at),
                    4 => sum_tile::<4, V>(a, w, ks.clone(), y, i, at),
                    5 => sum_tile::<5, V>(a, w, ks.clone(), y, i, at),
                    _ => sum_tile::<6, V>(a, w, ks.clone(), y, i, at),
                }
                i += r;
            }
        }

        /// Inner indices whose rows of `w` stay in the L1 cache.
        const INNER: usize = 96;

        /// `y += a · w`, piece by piece of the inner index.
        $(#[target_feature(enable = $feature)])+
        fn sum_all(a: Left, w: View, y: &mut Tile) {
            let (c, wide) = (w.c, 16 * SUM_V);
            for first in (0..w.n).step_by(INNER) {
                let ks = first..(first + INNER).min(w.n);
                let mut at = 0;
                while at + wide <= c {
                    sum_columns::<SUM_V>(a, w, ks.clone(), y, at);
                    at += wide;
                }
                while SUM_V > 2 && at + 32 <= c {
                    sum_columns::<2>(a, w, ks.clone(), y, at);
                    at += 32;
                }
                while at + 16 <= c {
                    sum_columns::<1>(a, w, ks.clone(), y, at);
                    at += 16;
                }
                if at < c {
                    sum_rest(a, w, ks, y, at);
                }
            }
        }

        /// The columns from `at` on, fewer than 16, through copies that have 16.
        $(#[target_feature(enable = $feature)])+
        fn sum_rest(a: Left, w: View, ks: Range<usize>, y: &mut Tile, at: usize) {
            let (mut rest, count) = ([[0.0; 16]; INNER], w.c - at);
            for (rest, k) in rest.iter_mut().zip(ks.clone()) {
                rest[..count].copy_from_slice(&w.row(k)[at..]);
            }
            let rest = View::new(rest.as_flattened(), ks.len(), 16);
            for i in (0..y.n()).step_by(SUM_R) {
                let rows = (y.n() - i).min(SUM_R);
                let mut out = [[0.0; 16]; SUM_R];
                for r in 0..rows {
                    out[r][..count].copy_from_slice(&y.row(i + r)[at..]);
                }
                let a = Left { data: &a.data[i * a.down + ks.start * a.along..], ..a };
                sum_columns::<1>(a, rest, 0..ks.len(), &mut Tile::new(out.as_flattened_mut(), rows, 16), 0);
                for r in 0..rows {
                    y.row(i + r)[at..].copy_from_slice(&out[r][..count]);
                }
            }
        }

        $(#[target_feature(enable = $feature)])+
        pub(in crate::kernel) fn sums(a: View, w: View, y: &mut Tile) {
            assert!(a.c == w.n && a.n == y.n() && w.c == y.c(), "shapes of sums");
            sum_all(Left { data: a.data, down: a.stride, along: 1 }, w, y);
        }

        $(#[target_feature(enable = $feature)])+
        pub(in crate::kernel) fn outer(a: View, b: View, y: &mut Tile) {
            assert!(a.n == b.n && a.c == y.n() && b.c == y.c(), "shapes of outer");
            sum_all(Left { data: a.data, down: 1, along: a.stride }, b, y);
        }
    };
}
pub(super) use products;
