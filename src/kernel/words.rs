//! Products with floats of 16 bits as integers of as many, in tiles, written once over 16 lanes: `words!`.
//!
//! An instruction set gives it, beside what `floats.rs` and `halves.rs` name: `words` (the low words of 32 lanes of floats),
//! `word_dot` (adds to each lane the products of two words), `to_float`, `splat_i`, `load_i` and `store_i`; and the rows of both
//! sides in a tile, `WORD_X` and `WORD_W`.

macro_rules! words {
    ($($feature:tt)+) => {
        use crate::kernel::Words;
        use crate::kernel::body::{MAGIC, word_tops, word_unit};
        use core::sync::atomic::{AtomicU8, Ordering};

        /// Weights that are codes already; 0 is F16, 1 BF16.
        const CODES: u8 = 2;

        /// The codes of 32 weights.
        ///
        /// # Safety
        /// They are there.
        $(#[target_feature(enable = $feature)])+
        #[inline]
        unsafe fn coded<const KIND: u8>(p: *const u16, inverse: F) -> I {
            // SAFETY: the caller's promise.
            unsafe {
                if KIND == CODES {
                    return load_i(p.cast());
                }
                let sixteen = |p: *const u16| if KIND == 1 { brains(p) } else { halves(p) };
                let magic = splat(MAGIC);
                words(fma(sixteen(p), inverse, magic), fma(sixteen(p.add(16)), inverse, magic))
            }
        }

        /// The lanes of `M` rows of activations with `N` rows of weights, whose last columns are in `last` if they are no whole
        /// 32. Weights `ahead` of those worked on are asked for, if there are any.
        ///
        /// # Safety
        /// Rows of activations are of `shape`, and those of weights have `whole` times 32 columns.
        $(#[target_feature(enable = $feature)])+
        #[inline]
        unsafe fn word_tile<const M: usize, const N: usize, const KIND: u8>(
            x: [*const f32; M],
            (w, inverse, last): ([*const u16; N], [F; N], [*const u16; N]),
            (shape, whole): (Words, usize),
            ahead: Option<usize>,
        ) -> [[F; N]; M] {
            let piece = |piece: usize, acc: &mut [[F; N]; M]| {
                let mut ints = [[splat_i(0); N]; M];
                let mut step = |unit: usize, w: [*const u16; N]| {
                    // SAFETY: the caller's promise.
                    unsafe {
                        let b: [I; N] = array!(splat_i(0); n => coded::<KIND>(w[n], inverse[n]));
                        for m in 0..M {
                            let a = load_i(x[m].add(16 * (shape.pieces + unit)).cast());
                            for n in 0..N {
                                ints[m][n] = word_dot(ints[m][n], a, b[n]);
                            }
                        }
                    }
                };
                let units = shape.units(piece);
                for unit in units.start..units.end.min(whole) {
                    if let Some(ahead) = ahead {
                        for line in 0..N {
                            prefetch(w[0].wrapping_add(32 * (N * unit + line) + ahead).cast(), true);
                        }
                    }
                    step(unit, array!(core::ptr::null(); n => w[n].wrapping_add(32 * unit)));
                }
                if units.end > whole {
                    step(whole, last);
                }
                for m in 0..M {
                    // SAFETY: the caller's promise.
                    let d = unsafe { load(x[m].add(16 * piece)) };
                    for n in 0..N {
                        acc[m][n] = fma(d, to_float(ints[m][n]), acc[m][n]);
                    }
                }
            };
            let mut acc = [[splat(0.0); N]; M];
            if shape.pieces == 1 {
                // By itself, so that the lanes never leave their registers.
                piece(0, &mut acc);
                return acc;
            }
            for i in 0..shape.pieces {
                piece(i, &mut acc);
            }
            acc
        }

        /// Rows `i..i + M` of `x` with rows `j`, `j + apart`, … of `w`, `N` of them, each of `c` columns.
        $(#[target_feature(enable = $feature)])+
        #[inline]
        fn word_rows<const M: usize, const N: usize, const KIND: u8>(
            (x, i): (View, usize),
            (w, c, tops): (&[u16], usize, &[AtomicU8]),
            (j, apart): (usize, usize),
            ahead: Option<usize>,
            y: &mut Tile,
        ) {
            let (shape, whole) = (Words::of(c), c / 32);
            assert!(x.c == shape.floats(), "{} floats for {c} columns", x.c);
            let right: [&[u16]; N] = array!(&[][..]; n => &w[(j + n * apart) * c..][..c]);
            let mut last = [[0; 32]; N];
            let (mut inverse, mut units) = ([splat(0.0); N], [0.0; N]);
            for n in 0..N {
                if !c.is_multiple_of(32) {
                    last[n][..c % 32].copy_from_slice(&right[n][32 * whole..]);
                }
                let (unit, by) = word_unit(tops[j + n * apart].load(Ordering::Relaxed));
                (units[n], inverse[n]) = (unit, splat(by));
            }
            let x: [*const f32; M] = array!(core::ptr::null(); m => x.row(i + m).as_ptr());
            let w = array!(core::ptr::null(); n => right[n].as_ptr());
            let last = array!(core::ptr::null(); n => last[n].as_ptr());
            // SAFETY: compared above.
            let acc = unsafe { word_tile::<M, N, KIND>(x, (w, inverse, last), (shape, whole), ahead) };
            for m in 0..M {
                let (y, sums) = (y.row(i + m), sum::<N>(acc[m]));
                for n in 0..N {
                    y[j + n * apart] = sums[n] * units[n];
                }
            }
        }

        /// Rows `i..i + M` of `x` with all of `w`.
        $(#[target_feature(enable = $feature)])+
        fn word_block<const M: usize, const KIND: u8>(
            x: (View, usize),
            w: (&[u16], usize, &[AtomicU8]),
            y: &mut Tile,
        ) {
            /// Halves asked for ahead of those worked on.
            const AHEAD: usize = 4096;
            let (f, ahead) = (w.2.len(), (KIND != CODES).then_some(AHEAD));
            let count = f / WORD_W;
            if M == 1 && KIND != CODES && crate::kernel::peak::reads_ahead() {
                // A few long streams, which the machine follows best by itself.
                for j in 0..count {
                    word_rows::<M, WORD_W, KIND>(x, w, (j, count), None, y);
                }
            } else {
                for j in (0..count * WORD_W).step_by(WORD_W) {
                    word_rows::<M, WORD_W, KIND>(x, w, (j, 1), ahead, y);
                }
            }
            for j in count * WORD_W..f {
                word_rows::<M, 1, KIND>(x, w, (j, 1), ahead, y);
            }
        }

        $(#[target_feature(enable = $feature)])+
        fn word_all<const KIND: u8>(x: View, w: (&[u16], usize, &[AtomicU8]), y: &mut Tile) {
            for i in (0..x.n).step_by(WORD_X) {
                match (x.n - i).min(WORD_X) {
                    1 => word_block::<1, KIND>((x, i), w, y),
                    2 => word_block::<2, KIND>((x, i), w, y),
                    3 => word_block::<3, KIND>((x, i), w, y),
                    4 => word_block::<4, KIND>((x, i), w, y),
                    5 => word_block::<5, KIND>((x, i), w, y),
                    _ => word_block::<6, KIND>((x, i), w, y),
                }
            }
        }

        /// [`Kernels::word_dots`](crate::kernel::Kernels::word_dots).
        $(#[target_feature(enable = $feature)])+
        pub(in crate::kernel) fn word_dots(
            x: View,
            w: Halves,
            c: usize,
            tops: &[AtomicU8],
            y: &mut Tile,
            scratch: &mut crate::kernel::Scratch,
        ) {
            match w {
                Halves::F16(w) => word_kind::<0>(x, w, c, tops, y, scratch),
                Halves::Bf16(w) => word_kind::<1>(x, w, c, tops, y, scratch),
            }
        }

        $(#[target_feature(enable = $feature)])+
        fn word_kind<const KIND: u8>(
            x: View,
            w: &[u16],
            c: usize,
            tops: &[AtomicU8],
            y: &mut Tile,
            scratch: &mut crate::kernel::Scratch,
        ) {
            let f = y.c();
            assert!(w.len() == f * c && tops.len() == f && x.n == y.n() && c > 0, "shapes of words");
            word_tops(if KIND == 1 { Halves::Bf16(w) } else { Halves::F16(w) }, c, tops);
            if x.n <= WORD_X {
                return word_all::<KIND>(x, (w, c, tops), y);
            }
            // The second cache holds the codes while the activations pass over them.
            let wide = c.next_multiple_of(32);
            let codes: &mut [u16] = bytemuck::cast_slice_mut(scratch.floats(f * wide / 2));
            for ((w, top), codes) in w.chunks_exact(c).zip(tops).zip(codes.chunks_exact_mut(wide)) {
                let inverse = splat(word_unit(top.load(Ordering::Relaxed)).1);
                let (ws, rest) = w.as_chunks::<32>();
                let mut last = [0; 32];
                last[..rest.len()].copy_from_slice(rest);
                for (w, codes) in ws.iter().chain([&last]).zip(codes.as_chunks_mut::<32>().0) {
                    // SAFETY: 32 weights.
                    store_i(bytemuck::cast_mut(codes), unsafe { coded::<KIND>(w.as_ptr(), inverse) });
                }
            }
            word_all::<CODES>(x, (codes, wide, tops), y);
        }
    };
}
pub(super) use words;
