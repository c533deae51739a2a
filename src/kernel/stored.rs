//! Products with the stored rows of a key/value cache: `stored!`. It uses the operations that `floats.rs` lists and two
//! more, `codes` (16 signed bytes as floats) and `scale` (an f16 on all lanes), and `STORED_V`, the vectors of a tile
//! of sums. The results equal those of `dots` and `sums` with the decoded rows.

macro_rules! stored {
    ($($feature:tt)+) => {
        use crate::kernel::Stored;

        /// Rows of the other side that share a read.
        const STORED_M: usize = 4;
        /// Rows of a cache that stay in the L1 cache while all rows of the other side are multiplied with them.
        const STORED_ROWS: usize = 96;
        /// Bytes between those that are worked on and those that are prefetched.
        const STORED_AHEAD: usize = 3072;

        /// One row: f16 values, or codes and a scale for every 32.
        #[derive(Clone, Copy)]
        struct At {
            half: *const u16,
            code: *const i8,
            scale: *const u16,
        }

        /// Row `j` of those with `c` values.
        #[inline(always)]
        fn row_at(w: Stored, j: usize, c: usize) -> At {
            match w {
                Stored::F16(data) => At {
                    half: data[j * c..].as_ptr(),
                    code: core::ptr::null(),
                    scale: core::ptr::null(),
                },
                Stored::Q8 { codes, scales } => At {
                    half: core::ptr::null(),
                    code: codes[j * c..].as_ptr(),
                    scale: scales[j * c.div_ceil(32)..].as_ptr(),
                },
            }
        }

        /// Prefetches the bytes ahead of a row.
        #[inline(always)]
        fn row_ahead<const BYTES: bool>(row: At, c: usize) {
            let (start, bytes) = if BYTES { (row.code.cast::<u8>(), c) } else { (row.half.cast(), 2 * c) };
            for line in (0..bytes).step_by(64) {
                prefetch(start.wrapping_add(STORED_AHEAD + line), true);
            }
        }

        /// The scale of 32 values; anything for f16.
        ///
        /// # Safety
        /// `k` is a column of the row.
        #[inline]
        $(#[target_feature(enable = $feature)])+
        unsafe fn scale_at<const BYTES: bool>(row: At, k: usize) -> F {
            // SAFETY: the caller's promise.
            if BYTES { unsafe { scale(row.scale.add(k / 32)) } } else { splat(1.0) }
        }

        /// 16 values from `k` on, which share that scale.
        ///
        /// # Safety
        /// They are values of the row.
        #[inline]
        $(#[target_feature(enable = $feature)])+
        unsafe fn values_at<const BYTES: bool>(row: At, k: usize, scale: F) -> F {
            // SAFETY: the caller's promise.
            unsafe { if BYTES { mul(scale, codes(row.code.add(k))) } else { load_f16(row.half.add(k)) } }
        }

        /// One value.
        ///
        /// # Safety
        /// It is a value of the row.
        #[inline(always)]
        unsafe fn value_at<const BYTES: bool>(row: At, k: usize) -> f32 {
            // SAFETY: the caller's promise.
            unsafe {
                if BYTES {
                    crate::quant::f16_to_f32(*row.scale.add(k / 32)) * *row.code.add(k) as f32
                } else {
                    crate::quant::f16_to_f32(*row.half.add(k))
                }
            }
        }

        /// `M` rows of `x` with rows `js` of `w`, `N` at a time; `c` columns.
        ///
        /// # Safety
        /// There are `c` values at each of `x`, a place for every row of `w` at each of `y`, and `js` are rows of `w`,
        /// a multiple of `N`.
        $(#[target_feature(enable = $feature)])+
        unsafe fn stored_dots<const M: usize, const N: usize, const BYTES: bool>(
            x: [*const f32; M],
            w: Stored,
            c: usize,
            js: Range<usize>,
            y: [*mut f32; M],
            ahead: bool,
        ) {
            for j in js.step_by(N) {
                let rows: [At; N] = array!(row_at(w, j, c); n => row_at(w, j + n, c));
                if ahead {
                    rows.iter().for_each(|row| row_ahead::<BYTES>(*row, c));
                }
                let mut acc = [[splat(0.0); N]; M];
                let mut k = 0;
                // SAFETY: every row has `c` values.
                unsafe {
                    while k + 16 <= c {
                        let scales: [F; N] = array!(splat(1.0); n => scale_at::<BYTES>(rows[n], k));
                        for k in [k, k + 16] {
                            if k + 16 <= c {
                                let b: [F; N] = array!(splat(0.0); n => values_at::<BYTES>(rows[n], k, scales[n]));
                                for m in 0..M {
                                    let a = load(x[m].add(k));
                                    for n in 0..N {
                                        acc[m][n] = fma(a, b[n], acc[m][n]);
                                    }
                                }
                            }
                        }
                        k += 32;
                    }
                }
                let k = c / 16 * 16;
                for m in 0..M {
                    if k < c {
                        for n in 0..N {
                            let mut lanes = [0.0; 16];
                            store_to(&mut lanes, acc[m][n]);
                            for l in 0..c - k {
                                // SAFETY: as above.
                                let (a, b) = unsafe { (*x[m].add(k + l), value_at::<BYTES>(rows[n], k + l)) };
                                lanes[l] = math::fma(a, b, lanes[l]);
                            }
                            acc[m][n] = load_from(&lanes);
                        }
                    }
                    let sums = sum(acc[m]);
                    for n in 0..N {
                        // SAFETY: `j + n` is a row of `w`.
                        unsafe { *y[m].add(j + n) = sums[n] };
                    }
                }
            }
        }

        /// Rows `i..i + M` of `x` with rows `js` of `w`.
        $(#[target_feature(enable = $feature)])+
        fn stored_dot_rows<const M: usize, const BYTES: bool>(x: View, i: usize, w: Stored, js: Range<usize>, y: &mut Tile) {
            let c = x.c;
            assert!(js.end <= y.c() && w.holds(js.end, c), "shapes of products with a cache");
            let x: [*const f32; M] = array!(core::ptr::null(); m => x.row(i + m).as_ptr());
            let y: [*mut f32; M] = array!(core::ptr::null_mut(); m => y.row(i + m).as_mut_ptr());
            let whole = js.start + js.len() / DOT_W * DOT_W;
            // SAFETY: rows of a view and of a tile, with the rows and columns that the assert compared.
            unsafe {
                stored_dots::<M, DOT_W, BYTES>(x, w, c, js.start..whole, y, i == 0);
                stored_dots::<M, 1, BYTES>(x, w, c, whole..js.end, y, i == 0);
            }
        }

        /// `y = x · wᵀ`. x: `[n, c]`, w: `[f, c]`, y: `[n, f]`.
        $(#[target_feature(enable = $feature)])+
        pub(in crate::kernel) fn row_dots(x: View, w: Stored, y: &mut Tile) {
            let count = y.c();
            for j in (0..count).step_by(STORED_ROWS) {
                let js = j..(j + STORED_ROWS).min(count);
                for i in (0..x.n).step_by(STORED_M) {
                    match (x.n - i, matches!(w, Stored::Q8 { .. })) {
                        (1, false) => stored_dot_rows::<1, false>(x, i, w, js.clone(), y),
                        (2, false) => stored_dot_rows::<2, false>(x, i, w, js.clone(), y),
                        (3, false) => stored_dot_rows::<3, false>(x, i, w, js.clone(), y),
                        (_, false) => stored_dot_rows::<STORED_M, false>(x, i, w, js.clone(), y),
                        (1, true) => stored_dot_rows::<1, true>(x, i, w, js.clone(), y),
                        (2, true) => stored_dot_rows::<2, true>(x, i, w, js.clone(), y),
                        (3, true) => stored_dot_rows::<3, true>(x, i, w, js.clone(), y),
                        (_, true) => stored_dot_rows::<STORED_M, true>(x, i, w, js.clone(), y),
                    }
                }
            }
        }

        /// Adds to `M` rows × `V` vectors at column `at`, a multiple of 32 or `V` is 1, the products of rows `ks` of
        /// `w`.
        ///
        /// # Safety
        /// There are `ks.end` factors at each of `a`, `c` values at each of `y`, of which those of the vectors are
        /// some, and `ks` are rows of `w`.
        $(#[target_feature(enable = $feature)])+
        unsafe fn stored_sums<const M: usize, const V: usize, const BYTES: bool>(
            a: [*const f32; M],
            w: Stored,
            c: usize,
            ks: Range<usize>,
            y: [*mut f32; M],
            at: usize,
        ) {
            // SAFETY: the caller's promise.
            unsafe {
                let mut acc: [[F; V]; M] = array!([splat(0.0); V]; m => array!(splat(0.0); v => load(y[m].add(at + 16 * v))));
                for k in ks {
                    let row = row_at(w, k, c);
                    if at == 0 {
                        row_ahead::<BYTES>(row, c);
                    }
                    let mut scale = splat(1.0);
                    let b: [F; V] = array!(splat(0.0); v => {
                        if v.is_multiple_of(2) {
                            scale = scale_at::<BYTES>(row, at + 16 * v);
                        }
                        values_at::<BYTES>(row, at + 16 * v, scale)
                    });
                    for m in 0..M {
                        let left = splat(*a[m].add(k));
                        for v in 0..V {
                            acc[m][v] = fma(left, b[v], acc[m][v]);
                        }
                    }
                }
                for m in 0..M {
                    for v in 0..V {
                        store(y[m].add(at + 16 * v), acc[m][v]);
                    }
                }
            }
        }

        /// Rows `i..i + M` of `a` and of `y`, rows `ks` of `w`.
        $(#[target_feature(enable = $feature)])+
        fn stored_sum_rows<const M: usize, const BYTES: bool>(a: View, i: usize, w: Stored, ks: Range<usize>, y: &mut Tile) {
            let c = y.c();
            assert!(ks.end <= a.c && w.holds(ks.end, c), "shapes of sums of a cache");
            let a: [*const f32; M] = array!(core::ptr::null(); m => a.row(i + m).as_ptr());
            let y: [*mut f32; M] = array!(core::ptr::null_mut(); m => y.row(i + m).as_mut_ptr());
            let mut at = 0;
            // SAFETY: rows of a view and of a tile, with the rows and columns that the assert and the loops compare.
            unsafe {
                while at + 16 * STORED_V <= c {
                    stored_sums::<M, STORED_V, BYTES>(a, w, c, ks.clone(), y, at);
                    at += 16 * STORED_V;
                }
                while at + 16 <= c {
                    stored_sums::<M, 1, BYTES>(a, w, c, ks.clone(), y, at);
                    at += 16;
                }
                if at < c {
                    for k in ks {
                        let row = row_at(w, k, c);
                        for m in 0..M {
                            for l in at..c {
                                let y = y[m].add(l);
                                *y = math::fma(*a[m].add(k), value_at::<BYTES>(row, l), *y);
                            }
                        }
                    }
                }
            }
        }

        /// `y += a · w`. a: `[n, k]`, w: `[k, c]`, y: `[n, c]`.
        $(#[target_feature(enable = $feature)])+
        pub(in crate::kernel) fn row_sums(a: View, w: Stored, y: &mut Tile) {
            for k in (0..a.c).step_by(STORED_ROWS) {
                let ks = k..(k + STORED_ROWS).min(a.c);
                for i in (0..a.n).step_by(STORED_M) {
                    match (a.n - i, matches!(w, Stored::Q8 { .. })) {
                        (1, false) => stored_sum_rows::<1, false>(a, i, w, ks.clone(), y),
                        (2, false) => stored_sum_rows::<2, false>(a, i, w, ks.clone(), y),
                        (3, false) => stored_sum_rows::<3, false>(a, i, w, ks.clone(), y),
                        (_, false) => stored_sum_rows::<STORED_M, false>(a, i, w, ks.clone(), y),
                        (1, true) => stored_sum_rows::<1, true>(a, i, w, ks.clone(), y),
                        (2, true) => stored_sum_rows::<2, true>(a, i, w, ks.clone(), y),
                        (3, true) => stored_sum_rows::<3, true>(a, i, w, ks.clone(), y),
                        (_, true) => stored_sum_rows::<STORED_M, true>(a, i, w, ks.clone(), y),
                    }
                }
            }
        }
    };
}
pub(super) use stored;
