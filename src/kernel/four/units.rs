//! Backends over four registers of 4 lanes, and what their units lack: `unit!`, `by_halves!`.

/// One backend over these lanes: its features and its module of integer dots.
///
/// There `dot_w` adds to each lane of the first register the dot product of 16 codes, 4 in each of the second's
/// registers, with 16 activations. Where one or two rows of activations meet weights in the order of the file, 4 rows
/// are unpacked at a time, which needs fewer registers than 16 and no transposition. For Q4_0 and Q8_0 `block_w`
/// gives the sums of 4 rows of 32 codes, with activations as `spread_w` has prepared them, from the results of `start_w`.
/// For the others `arrange` loads 16 bytes of each row and may move them so that `rows_r` is short: the sums of 4 rows
/// of 16 codes with 16 activations as `spread_r` has prepared them, from the results of `start_r`; bits that stand in a
/// dword a row go there by `bits_to_16`. Where rows are interleaved, `block_t` gives the sums of 16 rows of 32
/// codes, with activations as `spread_t` has prepared them. For wide activations there are `dot_wide`, `wide_w` (the
/// sum of both halves, `unit` times), `wide_t`, `wide_r` and `pair_r`, and what prepares for them; `by_halves!` makes
/// these of the others.
macro_rules! unit {
    ($module:ident [$($feature:tt)+] $dots:path) => {
        pub(super) mod $module {
            use $dots as dots16;
            use crate::kernel::four::*;
            use crate::kernel::ints::{NARROW, WHOLE};
            use crate::kernel::{QActs, Scratch, Tile};
            use crate::quant::Matrix;
            use core::ops::Range;
            use rows::few as by_rows;

            #[allow(unused_imports, reason = "for a backend that adds to this one")]
            pub(super) use all::int_four;

            mod all {
                use super::dots16;
                use crate::kernel::Tile;
                use crate::kernel::four::*;
                use core::ops::Range;

                /// Rows of activations in a tile of integer dot products, for all codes.
                const INT_X: usize = 2;
                const WHOLE_X: usize = INT_X;
                /// Panels of weights that such a tile spans.
                const PANELS: usize = 1;
                /// Bytes are multiplied as signed ones.
                const SIGNED_CODES: bool = true;
                /// Codes are loaded when they are used.
                const PRELOAD: bool = false;
                /// There are registers for the sums of 8 rows of activations.
                const MANY_REGISTERS: bool = false;

                /// Adds to each lane the dot product of 16 codes with 16 activations.
                ///
                /// # Safety
                /// There are 16 activations at `x`.
                $(#[target_feature(enable = $feature)])+
                #[inline]
                pub(in crate::kernel) unsafe fn int_four<const BITS: u8>(mut acc: I, codes: [I; 4], x: *const i8) -> I {
                    // SAFETY: the caller's promise.
                    let x = unsafe { load_w(x.cast()) };
                    for q in 0..4 {
                        acc[q] = dots16::dot_w::<BITS>(acc[q], [codes[0][q], codes[1][q], codes[2][q], codes[3][q]], x);
                    }
                    acc
                }

                /// Adds to each lane the dot products of 16 codes with 16 activations, for `M` rows of these and `P`
                /// panels.
                ///
                /// # Safety
                /// There are 16 activations at each of `x`, and 4 vectors at each of `codes`.
                $(#[target_feature(enable = $feature)])+
                #[inline]
                unsafe fn int_part<const M: usize, const P: usize, const BITS: u8>(
                    sums: &mut [[I; P]; M],
                    codes: [*const [u8; 64]; P],
                    x: [*const i8; M],
                ) {
                    for p in 0..P {
                        for q in 0..4 {
                            // SAFETY: the caller's promise.
                            let at = |k| unsafe { codes[p].add(k).cast::<u8>().add(16 * q) };
                            // SAFETY: likewise.
                            let codes = unsafe { [load_w(at(0)), load_w(at(1)), load_w(at(2)), load_w(at(3))] };
                            for m in 0..M {
                                // SAFETY: likewise.
                                let x = unsafe { load_w(x[m].cast()) };
                                sums[m][p][q] = dots16::dot_w::<BITS>(sums[m][p][q], codes, x);
                            }
                        }
                    }
                }

                /// Adds to each lane the dot products of `count` times 16 codes with wide activations, for `M` rows of
                /// these and `P` panels.
                ///
                /// # Safety
                /// There are so many activations at each of `high` and `low`, and 4 vectors for each 16 at each of
                /// `codes`.
                $(#[target_feature(enable = $feature)])+
                #[inline]
                unsafe fn int_wide<const M: usize, const P: usize, const BITS: u8>(
                    sums: &mut [[I; P]; M],
                    codes: [*const [u8; 64]; P],
                    high: [*const i8; M],
                    low: [*const i8; M],
                    count: usize,
                ) {
                    for (k, p) in (0..count).flat_map(|k| (0..P).map(move |p| (k, p))) {
                        for q in 0..4 {
                            // SAFETY: the caller's promise.
                            let at = |i| unsafe { codes[p].add(4 * k + i).cast::<u8>().add(16 * q) };
                            // SAFETY: likewise.
                            let codes = unsafe { [load_w(at(0)), load_w(at(1)), load_w(at(2)), load_w(at(3))] };
                            for m in 0..M {
                                // SAFETY: likewise.
                                let x = unsafe { [load_w(high[m].add(16 * k).cast()), load_w(low[m].add(16 * k).cast())] };
                                sums[m][p][q] = dots16::dot_wide::<BITS>(sums[m][p][q], codes, x);
                            }
                        }
                    }
                }

                crate::kernel::ints::integers!($($feature)+);
            }

            $(#[target_feature(enable = $feature)])+
            pub(in crate::kernel) fn int_dots(
                w: &Matrix,
                rows: Range<usize>,
                next: &[u8],
                x: &QActs,
                y: &mut Tile,
                scratch: &mut Scratch,
            ) {
                let sixteens = rows.start.is_multiple_of(16) && rows.len().is_multiple_of(16);
                let interleaved = sixteens && w.interleaved().is_some();
                macro_rules! one_or_two {
                    ($few:ident, $kind:tt) => {
                        match (x.n, x.wide) {
                            (1, false) => $few::<$kind, 1, false>(w, rows, x, y, scratch),
                            (1, true) => $few::<$kind, 1, true>(w, rows, x, y, scratch),
                            (_, false) => $few::<$kind, 2, false>(w, rows, x, y, scratch),
                            (_, true) => $few::<$kind, 2, true>(w, rows, x, y, scratch),
                        }
                    };
                }
                // One or two rows of activations: an engine of WebAssembly has too few registers for 16 rows of
                // weights, and takes 4 in the order of the file in half the time where there is no function for those
                // side by side.
                let interleaved = interleaved && (matches!(w.format.id, 2 | 8) || x.n > 2 || cfg!(target_arch = "aarch64"));
                match (w.format.id, x.n, interleaved) {
                    (2, 1..=2, true) => one_or_two!(beside, NARROW),
                    (8, 1..=2, true) => one_or_two!(beside, WHOLE),
                    (2, 1..=2, false) => one_or_two!(few, NARROW),
                    (8, 1..=2, false) => one_or_two!(few, WHOLE),
                    (3, 1..=2, false) => one_or_two!(by_rows, 3),
                    (6, 1..=2, false) => one_or_two!(by_rows, 6),
                    (7, 1..=2, false) => one_or_two!(by_rows, 7),
                    (20, 1..=2, false) => one_or_two!(by_rows, 20),
                    (10, 1..=2, _) => one_or_two!(by_rows, 10),
                    (11, 1..=2, _) => one_or_two!(by_rows, 11),
                    (12, 1..=2, _) => one_or_two!(by_rows, 12),
                    (13, 1..=2, _) => one_or_two!(by_rows, 13),
                    (14, 1..=2, _) => one_or_two!(by_rows, 14),
                    (23, 1..=2, _) => one_or_two!(by_rows, 23),
                    _ => all::int_dots(w, rows, next, x, y, scratch),
                }
            }

            /// 32 activations in the form that products of Q4_0 and Q8_0 need: two prepared parts of 16, or one wide
            /// part; the starting values of the sums, 2 or 1; the scales, 2 or 1.
            const BLOCK: usize = 36;

            /// The prepared activations of all blocks of all rows.
            fn prepare<const BITS: u8, const WIDE: bool>(x: &QActs, beside: bool, of: &mut [i32]) {
                let zero = if BITS == NARROW { 8 } else { 0 };
                let sum = |q: &[i8; 16]| -> i32 { q.iter().map(|&q| q as i32).sum() };
                let (high, low) = x.q.as_chunks::<32>().0.split_at(x.n * x.c / 32);
                for (i, (of, high)) in of.chunks_exact_mut(BLOCK).zip(high).enumerate() {
                    let halves = |q: &'_ [i8; 32]| -> [[i8; 16]; 2] { bytemuck::cast(*q) };
                    let start = |q: [i8; 16]| dots16::start_w::<BITS>(&q, zero * sum(&q));
                    if WIDE {
                        let spread = if beside { dots16::spread_wide_t::<BITS> } else { dots16::spread_wide_w::<BITS> };
                        of[..32].copy_from_slice(&spread(high, &low[i]));
                        let starts = |q| halves(q).map(start).iter().sum::<i32>();
                        let unit = if beside { 1 } else { dots16::unit::<BITS>() };
                        of[32] = (16 * starts(high) + starts(&low[i])) * unit;
                        of[34] = (x.d[2 * i] / unit as f32).to_bits() as i32;
                        continue;
                    }
                    for (part, q) in halves(high).into_iter().enumerate() {
                        let spread = if beside { dots16::spread_t::<BITS> } else { dots16::spread_w::<BITS> };
                        of[8 * part..][..8].copy_from_slice(&spread(&q, part));
                        of[32 + part] = start(q);
                        of[34 + part] = x.d[2 * i + part].to_bits() as i32;
                    }
                }
            }

            /// `M` rows of activations with Q4_0 or Q8_0 whose rows are interleaved.
            $(#[target_feature(enable = $feature)])+
            #[inline(never)]
            fn beside<const BITS: u8, const M: usize, const WIDE: bool>(
                w: &Matrix,
                rows: Range<usize>,
                x: &QActs,
                y: &mut Tile,
                scratch: &mut Scratch,
            ) {
                let bytes = if BITS == NARROW { 18 } else { 34 };
                let (blocks, row_bytes) = (w.cols / 32, w.row_bytes());
                let data = &w.interleaved().expect("an interleaved matrix")[rows.start * row_bytes..rows.end * row_bytes];
                assert!(x.n == M && x.wide == WIDE && x.c == w.cols && w.cols == 32 * blocks, "shapes of few rows");
                assert!(row_bytes == blocks * bytes && rows.len().is_multiple_of(16), "bytes of rows side by side");
                let of: &mut [i32] = bytemuck::cast_slice_mut(scratch.floats(BLOCK * blocks * M));
                prepare::<BITS, WIDE>(x, true, of);
                for (group, data) in data.chunks_exact(16 * row_bytes).enumerate() {
                    let mut acc = [[splat_v(0.0); 4]; M];
                    for (b, block) in data.chunks_exact(16 * bytes).enumerate() {
                        for line in (0..16 * bytes).step_by(64) {
                            prefetch(block.as_ptr().wrapping_add(4096 + line), true);
                        }
                        // SAFETY: a block of 16 rows has 16 f16 scales and then 16 rows of codes, and what was prepared has
                        // as many blocks.
                        unsafe {
                            let scales = load_f16(block.as_ptr().cast());
                            let codes = block.as_ptr().add(32);
                            for m in 0..M {
                                let of = of.as_ptr().add(BLOCK * (m * blocks + b));
                                let d = |part: usize| splat_v(*of.add(34 + part).cast());
                                if WIDE {
                                    let sums = dots16::wide_t::<BITS>(codes, of, *of.add(32));
                                    for q in 0..4 {
                                        acc[m][q] = fma_v(scales[q], mul_v(d(0), float_v(sums[q])), acc[m][q]);
                                    }
                                } else {
                                    let sums = dots16::block_t::<BITS>(codes, [of, of.add(8)], [*of.add(32), *of.add(33)]);
                                    for q in 0..4 {
                                        let first = mul_v(d(0), float_v(sums[0][q]));
                                        acc[m][q] = fma_v(scales[q], fma_v(d(1), float_v(sums[1][q]), first), acc[m][q]);
                                    }
                                }
                            }
                        }
                    }
                    for m in 0..M {
                        let mut lanes = [0.0; 16];
                        store_to(&mut lanes, acc[m]);
                        let out = &mut y.row(m)[16 * group..16 * group + 16];
                        for (out, lane) in out.iter_mut().zip(lanes) {
                            *out = lane + 0.0;
                        }
                    }
                }
            }

            /// `M` rows of activations with Q4_0 or Q8_0.
            $(#[target_feature(enable = $feature)])+
            #[inline(never)]
            fn few<const BITS: u8, const M: usize, const WIDE: bool>(
                w: &Matrix,
                rows: Range<usize>,
                x: &QActs,
                y: &mut Tile,
                scratch: &mut Scratch,
            ) {
                let (bytes, blocks) = (if BITS == NARROW { 18 } else { 34 }, w.cols / 32);
                let (data, row_bytes) = (w.rows_bytes(rows.clone()), w.row_bytes());
                assert!(x.n == M && x.wide == WIDE && x.c == w.cols && w.cols == 32 * blocks, "shapes of few rows");
                assert!(row_bytes == blocks * bytes && data.len() == rows.len() * row_bytes, "bytes of few rows");
                let of: &mut [i32] = bytemuck::cast_slice_mut(scratch.floats(BLOCK * blocks * M));
                prepare::<BITS, WIDE>(x, false, of);
                // From the four quarters of the rows, so that memory is read in four streams: a single one would be
                // waited for.
                for (first, quarter) in quarters(rows.len()) {
                    let start = data[first * row_bytes..][..(3 * quarter + 1) * row_bytes].as_ptr();
                    let mut acc = [splat_v(0.0); M];
                    // Pointers that advance: a load in WebAssembly has a constant offset only.
                    let (mut at, mut of) = (Rows { first: start, apart: quarter * row_bytes }, of.as_ptr());
                    for _ in 0..blocks {
                        // SAFETY: as many blocks lie in each row, as checked above, and in what was prepared.
                        unsafe {
                            let scale = scale_v(dwords_w(at));
                            for m in 0..M {
                                let of = of.add(BLOCK * m * blocks);
                                let d = |part: usize| splat_v(*of.add(34 + part).cast());
                                let scaled = if WIDE {
                                    mul_v(d(0), float_v(dots16::wide_w::<BITS>(at, of, *of.add(32))))
                                } else {
                                    let sums = dots16::block_w::<BITS>(at, [of, of.add(8)], [*of.add(32), *of.add(33)]);
                                    fma_v(d(1), float_v(sums[1]), mul_v(d(0), float_v(sums[0])))
                                };
                                acc[m] = fma_v(scale, scaled, acc[m]);
                            }
                        }
                        at.first = at.first.wrapping_add(bytes);
                        of = of.wrapping_add(BLOCK);
                    }
                    for m in 0..M {
                        let mut lanes = [0.0; 4];
                        // SAFETY: 4 lanes.
                        unsafe { store_v(lanes.as_mut_ptr(), add_v(acc[m], splat_v(0.0))) };
                        let out = y.row(m);
                        for (r, lane) in lanes.into_iter().enumerate().take(if quarter > 0 { 4 } else { 1 }) {
                            out[first + r * quarter] = lane;
                        }
                    }
                }
            }

            /// One or two rows of activations with weights in the order of the file.
            mod rows {
                use super::dots16::{self, arrange, bits_to_16};
                use crate::kernel::four::one::*;
                use crate::kernel::four::quarters;
                use crate::kernel::ints::{MIDDLE, NARROW, WHOLE, array};
                use crate::kernel::{QActs, Scratch, Tile};
                use crate::quant::{self, Matrix};
                use core::ops::Range;

                /// Rows of weights in a vector of lanes.
                const ROWS: usize = 4;
                /// Bytes are multiplied as signed ones.
                const SIGNED_CODES: bool = true;

                crate::kernel::unpack::unpacking!($($feature)+);

                /// `M` rows of activations with 4 rows of weights at a time. Not inlined: WebAssembly engines
                /// allocate fewer registers in large functions.
                $(#[target_feature(enable = $feature)])+
                #[inline(never)]
                pub(super) fn few<const ID: u32, const M: usize, const WIDE: bool>(
                    w: &Matrix,
                    rows: Range<usize>,
                    x: &QActs,
                    y: &mut Tile,
                    scratch: &mut Scratch,
                ) {
                    /// Of 16 activations: 2 registers, or 4 of wide ones, what their sums start from, their scale, what
                    /// a min is multiplied by.
                    const PART: usize = 24;
                    let (zero, sub, min) = const { quant::codes(ID) };
                    let parts = w.cols / 16;
                    assert!(w.format.id == ID && w.cols % 32 == 0, "what these functions are for");
                    assert!(x.n == M && x.wide == WIDE && x.c == w.cols, "shapes of few rows");
                    let of = scratch.floats(PART * parts * M);
                    let (high, low) = x.q.as_chunks::<16>().0.split_at(parts * M);
                    for (i, (of, q)) in of.chunks_exact_mut(PART).zip(high).enumerate() {
                        let sum = |q: &[i8; 16]| -> i32 { q.iter().map(|&q| q as i32).sum() };
                        let start = |q: &[i8; 16]| dots16::start_r(zero, q, sum(q));
                        let (mut first, load) = (start(q), |q: &[i8; 16]| {
                            // SAFETY: 16 activations.
                            unsafe { load_w(q.as_ptr().cast()) }
                        });
                        let store = |of: &mut [f32], at: usize, x: I| {
                            let of = of[4 * at..4 * at + 4].as_mut_ptr();
                            // SAFETY: room for a register.
                            unsafe { store_w(of.cast(), x) }
                        };
                        if WIDE {
                            let spread = dots16::spread_wide_r(zero, load(q), load(&low[i]));
                            (0..4).for_each(|k| store(of, k, spread[k]));
                            let second = start(&low[i]);
                            first = array!(0; k => 16 * first[k] + second[k]);
                        } else {
                            let spread = dots16::spread_r(zero, load(q));
                            (0..2).for_each(|k| store(of, k, spread[k]));
                        }
                        of[16..20].copy_from_slice(bytemuck::cast_slice(&first));
                        of[20] = x.d[i];
                        of[21] = if sub == 16 { x.d[i] * x.s[i] as f32 } else { x.low[i / 2] };
                    }
                    // From the four quarters of the rows, so that memory is read in four streams: a single one would
                    // be waited for.
                    for (first, quarter) in quarters(rows.len()) {
                        let blocks = Blocks::new(w, rows.start + first..rows.end, quarter, 0..w.cols, 0, 0, &[]);
                        let (mut acc, mut low) = ([splat(0.0); M], [splat(0.0); M]);
                        let mut take = |b: usize, columns: Columns| {
                            for m in 0..M {
                                if WIDE && sub == 32 {
                                    debug_assert!(2 * b + 1 < parts);
                                    // SAFETY: `b` counts the 32 columns of a row, and the activations of all have been
                                    // prepared.
                                    let (x, start, d, total) = unsafe {
                                        let of = of.as_ptr().add(PART * (m * parts + 2 * b));
                                        let load = |at: usize| load_w(of.add(at).cast());
                                        let x = [
                                            [load(0), load(4), load(8), load(12)],
                                            [load(PART), load(PART + 4), load(PART + 8), load(PART + 12)],
                                        ];
                                        (x, plus(load(16), load(PART + 16)), splat(*of.add(20)), splat(*of.add(21)))
                                    };
                                    let codes = columns.codes;
                                    let sums = match zero {
                                        0 => dots16::pair_r::<NARROW, false>(codes, x, start),
                                        32 => dots16::pair_r::<MIDDLE, true>(codes, x, start),
                                        128 => dots16::pair_r::<WHOLE, { dots16::SIGNS_START }>(codes, x, start),
                                        _ => dots16::pair_r::<NARROW, true>(codes, x, start),
                                    };
                                    acc[m] = fma(columns.scales[0], mul(d, to_float(sums)), acc[m]);
                                    if min {
                                        low[m] = fma(columns.mins[0], total, low[m]);
                                    }
                                    continue;
                                }
                                let mut scaled = splat(0.0);
                                for part in 0..2 {
                                    debug_assert!(2 * b + part < parts);
                                    let codes = array!(splat_i(0); k => columns.codes[4 * part + k]);
                                    // SAFETY: `b` counts the 32 columns of a row, and the activations of all have been
                                    // prepared.
                                    let (of, start, d, total) = unsafe {
                                        let of = of.as_ptr().add(PART * (m * parts + 2 * b + part));
                                        (of, load_w(of.add(16).cast()), splat(*of.add(20)), *of.add(21))
                                    };
                                    // SAFETY: likewise.
                                    let x = |k: usize| unsafe { load_w(of.add(4 * k).cast()) };
                                    let sums = if WIDE {
                                        let x = [x(0), x(1), x(2), x(3)];
                                        match zero {
                                            0 => dots16::wide_r::<NARROW, false>(codes, x, start),
                                            32 => dots16::wide_r::<MIDDLE, true>(codes, x, start),
                                            128 => dots16::wide_r::<WHOLE, { dots16::SIGNS_START }>(codes, x, start),
                                            _ => dots16::wide_r::<NARROW, true>(codes, x, start),
                                        }
                                    } else {
                                        let x = [x(0), x(1)];
                                        match zero {
                                            0 => dots16::rows_r::<NARROW, false>(codes, x, start),
                                            32 => dots16::rows_r::<MIDDLE, true>(codes, x, start),
                                            128 => dots16::rows_r::<WHOLE, { dots16::SIGNS_START }>(codes, x, start),
                                            _ => dots16::rows_r::<NARROW, true>(codes, x, start),
                                        }
                                    };
                                    let (begins, last) = (part == 0 || sub == 16, part == 1 || sub == 16);
                                    if begins {
                                        scaled = mul(d, to_float(sums));
                                    } else {
                                        scaled = fma(d, to_float(sums), scaled);
                                    }
                                    if last {
                                        let at = if sub == 16 { part } else { 0 };
                                        acc[m] = fma(columns.scales[at], scaled, acc[m]);
                                        if min {
                                            low[m] = fma(columns.mins[at], splat(total), low[m]);
                                        }
                                    }
                                }
                            }
                        };
                        unpack::<ID, false>(w, &blocks, &mut take);
                        for m in 0..M {
                            let mut lanes = [0.0; 4];
                            store_to(&mut lanes, add(acc[m], low[m]));
                            let out = y.row(m);
                            for (r, lane) in lanes.into_iter().enumerate().take(if quarter > 0 { 4 } else { 1 }) {
                                out[first + r * quarter] = lane;
                            }
                        }
                    }
                }
            }
        }
    };
}
pub(in crate::kernel) use unit;

/// Products with wide activations where there are only those with bytes: of their high bytes, 16 times, and of their
/// low ones.
#[cfg(any(target_arch = "aarch64", target_feature = "relaxed-simd"))]
macro_rules! by_halves {
    ($feature:literal) => {
        /// [`dot_w`] with wide activations, their high bytes and their low ones.
        #[inline]
        #[target_feature(enable = $feature)]
        pub(super) fn dot_wide<const BITS: u8>(acc: I4, codes: [I4; 4], x: [I4; 2]) -> I4 {
            add_w(shl_w(dot_w::<BITS>(splat_w(0), codes, x[0]), 4), dot_w::<BITS>(acc, codes, x[1]))
        }

        /// The unit of the results of `wide_w`.
        pub(super) const fn unit<const BITS: u8>() -> i32 {
            1
        }

        /// 32 wide activations in the form that `wide_w` takes.
        pub(super) fn spread_wide_w<const BITS: u8>(high: &[i8; 32], low: &[i8; 32]) -> [i32; 32] {
            let parts: [[i8; 16]; 4] = bytemuck::cast([*high, *low]);
            bytemuck::cast([0, 1, 2, 3].map(|i| spread_w::<BITS>(&parts[i], i % 2)))
        }

        /// The dot products of 32 codes of each of 4 rows with 32 wide activations.
        ///
        /// # Safety
        /// There are an f16 scale and 32 codes at each of `blocks`, and the result of `spread_wide_w` at `x`.
        #[inline]
        #[target_feature(enable = $feature)]
        pub(super) unsafe fn wide_w<const BITS: u8>(blocks: Rows, x: *const i32, start: i32) -> I4 {
            // SAFETY: the caller's promise.
            let (high, low) = unsafe {
                let high = block_w::<BITS>(blocks, [x, x.add(8)], [0; 2]);
                (high, block_w::<BITS>(blocks, [x.add(16), x.add(24)], [start, 0]))
            };
            add_w(shl_w(add_w(high[0], high[1]), 4), add_w(low[0], low[1]))
        }

        /// 32 wide activations in the form that `wide_t` takes.
        pub(super) fn spread_wide_t<const BITS: u8>(high: &[i8; 32], low: &[i8; 32]) -> [i32; 32] {
            let parts: [[i8; 16]; 4] = bytemuck::cast([*high, *low]);
            bytemuck::cast([0, 1, 2, 3].map(|i| spread_t::<BITS>(&parts[i], i % 2)))
        }

        /// The dot products of 16 rows of 32 codes, interleaved, with 32 wide activations.
        ///
        /// # Safety
        /// There are 16 rows of codes, and the result of `spread_wide_t` at `x`.
        #[inline]
        #[target_feature(enable = $feature)]
        pub(super) unsafe fn wide_t<const BITS: u8>(codes: *const u8, x: *const i32, start: i32) -> [I4; 4] {
            // SAFETY: the caller's promise.
            let (high, low) = unsafe {
                let high = block_t::<BITS>(codes, [x, x.add(8)], [0; 2]);
                (high, block_t::<BITS>(codes, [x.add(16), x.add(24)], [start, 0]))
            };
            let join = |q: usize| add_w(shl_w(add_w(high[0][q], high[1][q]), 4), add_w(low[0][q], low[1][q]));
            [join(0), join(1), join(2), join(3)]
        }

        /// 16 wide activations in the form that `wide_r` takes.
        #[inline]
        #[target_feature(enable = $feature)]
        pub(super) fn spread_wide_r(zero: u8, high: I4, low: I4) -> [I4; 4] {
            let ([a, b], [c, d]) = (spread_r(zero, high), spread_r(zero, low));
            [a, b, c, d]
        }

        /// The dot products of 16 codes of each of 4 rows with 16 wide activations.
        #[inline]
        #[target_feature(enable = $feature)]
        pub(super) fn wide_r<const BITS: u8, const START: bool>(codes: [I4; 4], x: [I4; 4], start: I4) -> I4 {
            let high = rows_r::<BITS, false>(codes, [x[0], x[1]], start);
            add_w(shl_w(high, 4), rows_r::<BITS, START>(codes, [x[2], x[3]], start))
        }

        /// [`wide_r`] of 32 codes, those of the second 16 columns behind the others.
        #[inline]
        #[target_feature(enable = $feature)]
        pub(super) fn pair_r<const BITS: u8, const START: bool>(codes: [I4; 8], x: [[I4; 4]; 2], start: I4) -> I4 {
            let [a, b, c, d, e, f, g, h] = codes;
            let first = wide_r::<BITS, START>([a, b, c, d], x[0], start);
            add_w(first, wide_r::<BITS, false>([e, f, g, h], x[1], start))
        }
    };
}
#[cfg(any(target_arch = "aarch64", target_feature = "relaxed-simd"))]
pub(in crate::kernel) use by_halves;
