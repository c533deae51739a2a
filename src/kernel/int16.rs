//! Products with 16-bit floats that are converted to 16-bit integers on the fly, in tiles, written once over 16 lanes:
//! `int16!`.
//!
//! An instruction set provides, beside the operations of `floats.rs` and `floats16.rs`: `low_int16` (the low 16 bits of
//! 32 lanes of floats), `int16_dot` (adds to each lane the products of two 16-bit integers), `to_float`, `splat_i`,
//! `load_i` and `store_i`; and the rows of both sides in a tile, `INT16_X` and `INT16_W`. A single row of activations
//! is multiplied with `DOT_W` rows of weights.

macro_rules! int16 {
    ($($feature:tt)+) => {
        use crate::kernel::Int16Layout;
        use crate::kernel::body::{MAGIC, int16_tops, int16_unit};
        use core::sync::atomic::{AtomicU8, Ordering};

        /// Kinds of weights: 0 is F16, 1 is BF16, and this one is codes already.
        const CODES: u8 = 2;

        /// The codes of 32 weights.
        ///
        /// # Safety
        /// The weights exist.
        $(#[target_feature(enable = $feature)])+
        #[inline]
        unsafe fn coded<const KIND: u8>(p: *const u16, magic: F) -> I {
            // SAFETY: the caller's promise.
            unsafe {
                if KIND == CODES {
                    return load_i(p.cast());
                }
                let sixteen = |p: *const u16| if KIND == 1 { load_bf16(p) } else { load_f16(p) };
                low_int16(add(sixteen(p), magic), add(sixteen(p.add(16)), magic))
            }
        }

        /// Adds a piece of the columns to the lanes of `M` rows of activations with `N` rows of weights, which stand at
        /// the first of `w` up to column `32 · whole`, and at the second after it. Weights `ahead` of those worked on
        /// are prefetched, if there are any.
        ///
        /// # Safety
        /// The columns exist.
        $(#[target_feature(enable = $feature)])+
        #[inline]
        unsafe fn int16_piece<const M: usize, const N: usize, const KIND: u8>(
            x: [*const f32; M],
            (w, magic): ([[*const u16; N]; 2], [F; N]),
            (shape, whole, piece): (Int16Layout, usize, usize),
            ahead: Option<usize>,
            mut acc: [[F; N]; M],
        ) -> [[F; N]; M] {
            let mut ints = [[splat_i(0); N]; M];
            let units = shape.units(piece);
            for (w, units) in w.iter().zip([units.start..units.end.min(whole), units.start.max(whole)..units.end]) {
                for unit in units {
                    if let Some(ahead) = ahead {
                        for line in 0..N {
                            prefetch(w[0].wrapping_add(32 * (N * unit + line) + ahead).cast(), true);
                        }
                    }
                    // SAFETY: the caller's promise.
                    unsafe {
                        let b: [I; N] = array!(splat_i(0); n => coded::<KIND>(w[n].wrapping_add(32 * unit), magic[n]));
                        for m in 0..M {
                            let a = load_i(x[m].add(16 * (shape.pieces + unit)).cast());
                            for n in 0..N {
                                ints[m][n] = int16_dot(ints[m][n], a, b[n]);
                            }
                        }
                    }
                }
            }
            for m in 0..M {
                // SAFETY: the caller's promise.
                let d = unsafe { load(x[m].add(16 * piece)) };
                for n in 0..N {
                    acc[m][n] = fma(d, to_float(ints[m][n]), acc[m][n]);
                }
            }
            acc
        }

        /// The lanes of all pieces.
        ///
        /// # Safety
        /// The columns exist.
        $(#[target_feature(enable = $feature)])+
        #[inline]
        unsafe fn int16_tile<const M: usize, const N: usize, const KIND: u8>(
            x: [*const f32; M],
            w: ([[*const u16; N]; 2], [F; N]),
            (shape, whole): (Int16Layout, usize),
            ahead: Option<usize>,
        ) -> [[F; N]; M] {
            let mut acc = [[splat(0.0); N]; M];
            // SAFETY: the caller's promise.
            unsafe {
                if shape.pieces == 1 {
                    // A separate call, so that the lanes never leave their registers.
                    return int16_piece::<M, N, KIND>(x, w, (shape, whole, 0), ahead, acc);
                }
                for piece in 0..shape.pieces {
                    acc = int16_piece::<M, N, KIND>(x, w, (shape, whole, piece), ahead, acc);
                }
            }
            acc
        }

        /// Rows `i..i + M` of `x` with rows `j`, `j + apart`, … of `w`, `N` of them, each of `c` columns.
        $(#[target_feature(enable = $feature)])+
        #[inline]
        fn int16_rows<const M: usize, const N: usize, const KIND: u8>(
            (x, i): (View, usize),
            (w, c, tops): (&[u16], usize, &[AtomicU8]),
            shape: Int16Layout,
            (j, apart): (usize, usize),
            ahead: Option<usize>,
            y: &mut Tile,
        ) {
            let whole = c / 32;
            assert!(shape.count == c.div_ceil(32) && x.c == shape.floats(), "{} floats for {c} columns", x.c);
            let right: [&[u16]; N] = array!(&[][..]; n => &w[(j + n * apart) * c..][..c]);
            // The columns after the last whole 32; where there are none, nothing is read.
            let mut rest = [[0; 32]; N];
            let (mut magic, mut units) = ([splat(0.0); N], [0.0; N]);
            for n in 0..N {
                if shape.count > whole {
                    rest[n][..c % 32].copy_from_slice(&right[n][32 * whole..]);
                }
                units[n] = int16_unit(tops[j + n * apart].load(Ordering::Relaxed));
                magic[n] = splat(MAGIC * units[n]);
            }
            let x: [*const f32; M] = array!(core::ptr::null(); m => x.row(i + m).as_ptr());
            let w = [
                array!(core::ptr::null(); n => right[n].as_ptr()),
                array!(core::ptr::null(); n => rest[n].as_ptr().wrapping_sub(32 * whole)),
            ];
            // SAFETY: compared above.
            let acc = unsafe { int16_tile::<M, N, KIND>(x, (w, magic), (shape, whole), ahead) };
            for m in 0..M {
                let (y, sums) = (y.row(i + m), sum::<N>(acc[m]));
                for n in 0..N {
                    y[j + n * apart] = sums[n] * units[n];
                }
            }
        }

        /// Rows `i..i + M` of `x` with all of `w`.
        $(#[target_feature(enable = $feature)])+
        fn int16_block<const M: usize, const N: usize, const KIND: u8>(
            x: (View, usize),
            w: (&[u16], usize, &[AtomicU8]),
            y: &mut Tile,
        ) {
            /// Values between those that are worked on and those that are prefetched.
            const AHEAD: usize = 4096;
            let (f, ahead) = (w.2.len(), (KIND != CODES).then_some(AHEAD));
            let count = f / N;
            let shape = Int16Layout::of(w.1);
            if M == 1 && KIND != CODES && crate::kernel::peak::reads_ahead() {
                // A few long streams, which the hardware prefetches best by itself.
                for j in 0..count {
                    int16_rows::<M, N, KIND>(x, w, shape, (j, count), None, y);
                }
            } else {
                for j in (0..count * N).step_by(N) {
                    int16_rows::<M, N, KIND>(x, w, shape, (j, 1), ahead, y);
                }
            }
            for j in count * N..f {
                int16_rows::<M, 1, KIND>(x, w, shape, (j, 1), ahead, y);
            }
        }

        $(#[target_feature(enable = $feature)])+
        fn int16_all<const KIND: u8>(x: View, w: (&[u16], usize, &[AtomicU8]), y: &mut Tile) {
            for i in (0..x.n).step_by(INT16_X) {
                match (x.n - i).min(INT16_X) {
                    1 => int16_block::<1, DOT_W, KIND>((x, i), w, y),
                    2 => int16_block::<2, INT16_W, KIND>((x, i), w, y),
                    3 => int16_block::<3, INT16_W, KIND>((x, i), w, y),
                    4 => int16_block::<4, INT16_W, KIND>((x, i), w, y),
                    5 => int16_block::<5, INT16_W, KIND>((x, i), w, y),
                    _ => int16_block::<6, INT16_W, KIND>((x, i), w, y),
                }
            }
        }

        /// [`Kernels::int16_dots`](crate::kernel::Kernels::int16_dots).
        $(#[target_feature(enable = $feature)])+
        pub(in crate::kernel) fn int16_dots(
            x: View,
            w: Floats16,
            c: usize,
            tops: &[AtomicU8],
            y: &mut Tile,
            scratch: &mut crate::kernel::Scratch,
        ) {
            match w {
                Floats16::F16(w) => int16_kind::<0>(x, w, c, tops, y, scratch),
                Floats16::Bf16(w) => int16_kind::<1>(x, w, c, tops, y, scratch),
            }
        }

        $(#[target_feature(enable = $feature)])+
        fn int16_kind<const KIND: u8>(
            x: View,
            w: &[u16],
            c: usize,
            tops: &[AtomicU8],
            y: &mut Tile,
            scratch: &mut crate::kernel::Scratch,
        ) {
            let f = y.c();
            assert!(w.len() == f * c && tops.len() == f && x.n == y.n() && c > 0, "shapes of 16-bit products");
            int16_tops(if KIND == 1 { Floats16::Bf16(w) } else { Floats16::F16(w) }, c, tops);
            if x.n <= INT16_X {
                return int16_all::<KIND>(x, (w, c, tops), y);
            }
            // The second-level cache holds the codes while they are multiplied with all activations.
            let wide = c.next_multiple_of(32);
            let codes: &mut [u16] = bytemuck::cast_slice_mut(scratch.floats(f * wide / 2));
            for ((w, top), codes) in w.chunks_exact(c).zip(tops).zip(codes.chunks_exact_mut(wide)) {
                let magic = splat(MAGIC * int16_unit(top.load(Ordering::Relaxed)));
                let (ws, rest) = w.as_chunks::<32>();
                let mut last = [0; 32];
                last[..rest.len()].copy_from_slice(rest);
                for (w, codes) in ws.iter().chain([&last]).zip(codes.as_chunks_mut::<32>().0) {
                    // SAFETY: 32 weights.
                    store_i(bytemuck::cast_mut(codes), unsafe { coded::<KIND>(w.as_ptr(), magic) });
                }
            }
            int16_all::<CODES>(x, (codes, wide, tops), y);
        }
    };
}
pub(super) use int16;
