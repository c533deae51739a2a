//! Products of floats in tiles, written once over 16 lanes: `products!`.
//!
//! An instruction set gives it the operations on those lanes, as functions of the module around it: the type `F` (16
//! floats), `load`, `store`, `load_from`, `store_to`, `splat`, `fma`, and `sum` (the lanes of `DOT_W` registers); and the
//! sizes of its register tiles: rows of both sides of dot products, `DOT_X` and `DOT_W`; rows and vectors of sums, `SUM_R`
//! and `SUM_V`.

macro_rules! products {
    ($($feature:tt)+) => {
        use crate::kernel::{Tile, View};
        use crate::math;
        use core::ops::Range;

        /// Rows `i..i + M` of `x` with rows `j..j + N` of `w`.
        $(#[target_feature(enable = $feature)])+
        fn dot_tile<const M: usize, const N: usize>(x: View, i: usize, w: View, j: usize, y: &mut Tile) {
            let (xs, ws): ([&[f32]; M], [&[f32]; N]) =
                (array!(&[][..]; m => x.row(i + m)), array!(&[][..]; n => w.row(j + n)));
            let c = x.c;
            assert!(w.c == c, "rows of {c} with rows of {}", w.c);
            let mut acc = [[splat(0.0); N]; M];
            let mut k = 0;
            while k + 16 <= c {
                // SAFETY: every row has `c` values.
                unsafe {
                    let b: [F; N] = array!(splat(0.0); n => load(ws[n].as_ptr().add(k)));
                    for m in 0..M {
                        let a = load(xs[m].as_ptr().add(k));
                        for n in 0..N {
                            acc[m][n] = fma(a, b[n], acc[m][n]);
                        }
                    }
                }
                k += 16;
            }
            for m in 0..M {
                if k < c {
                    for n in 0..N {
                        let mut lanes = [0.0; 16];
                        store_to(&mut lanes, acc[m][n]);
                        for l in 0..c - k {
                            lanes[l] = math::fma(xs[m][k + l], ws[n][k + l], lanes[l]);
                        }
                        acc[m][n] = load_from(&lanes);
                    }
                }
                y.row(i + m)[j..j + N].copy_from_slice(&sum(acc[m]));
            }
        }

        $(#[target_feature(enable = $feature)])+
        fn dot_rows<const N: usize>(x: View, i: usize, m: usize, w: View, j: usize, y: &mut Tile) {
            match m {
                1 => dot_tile::<1, N>(x, i, w, j, y),
                2 => dot_tile::<2, N>(x, i, w, j, y),
                3 => dot_tile::<3, N>(x, i, w, j, y),
                4 => dot_tile::<4, N>(x, i, w, j, y),
                5 => dot_tile::<5, N>(x, i, w, j, y),
                _ => dot_tile::<6, N>(x, i, w, j, y),
            }
        }

        $(#[target_feature(enable = $feature)])+
        pub(in crate::kernel) fn dots(x: View, w: View, y: &mut Tile) {
            for i in (0..x.n).step_by(DOT_X) {
                let m = (x.n - i).min(DOT_X);
                let whole = w.n / DOT_W * DOT_W;
                for j in (0..whole).step_by(DOT_W) {
                    dot_rows::<DOT_W>(x, i, m, w, j, y);
                }
                for j in whole..w.n {
                    dot_rows::<1>(x, i, m, w, j, y);
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
            // SAFETY: `16 · V` columns from `at` lie in `w` and `y`, and the last left factor in its data; checked above.
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

        /// `y += a · w`, in pieces of the inner index whose rows of `w` stay in the L1 cache.
        $(#[target_feature(enable = $feature)])+
        fn sum_all(a: Left, w: View, y: &mut Tile) {
            const INNER: usize = 96;
            let (c, wide) = (w.c, 16 * SUM_V);
            for first in (0..w.n).step_by(INNER) {
                let ks = first..(first + INNER).min(w.n);
                let mut at = 0;
                while at + wide <= c {
                    sum_columns::<SUM_V>(a, w, ks.clone(), y, at);
                    at += wide;
                }
                while at + 16 <= c {
                    sum_columns::<1>(a, w, ks.clone(), y, at);
                    at += 16;
                }
                if at < c {
                    for i in 0..y.n() {
                        let out = &mut y.row(i)[at..c];
                        for k in ks.clone() {
                            let left = a.data[i * a.down + k * a.along];
                            for (o, &w) in out.iter_mut().zip(&w.row(k)[at..]) {
                                *o = math::fma(left, w, *o);
                            }
                        }
                    }
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
