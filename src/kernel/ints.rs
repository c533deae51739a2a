//! Integer products with quantised weights, written once over 16 lanes: `integers!`.
//!
//! A lane is a row of weights. Each format has one function that unpacks blocks of 16 rows, 32 columns at a time. With
//! few rows of activations the codes are multiplied at once (`few`); with many they go to a panel that is then
//! multiplied with all rows of activations (`many`).
//!
//! An instruction set provides these operations, as functions of the module around it: the types `F` (16 floats) and
//! `I` (16 `i32`, or 64 bytes: 4 neighbouring codes a row), `load_i`, `load_from`, `store_to`, `store_i`, `splat`,
//! `splat_i`, `fma`, `mul`, `to_float`, `plus` (of `I`), `and`, `or`, `shl`, `shr` (of 32 bits), `byte`, `signed_byte`,
//! `low_nibbles`, `high_nibbles`, `flip` (bytes with their top bit inverted), `look_up` (of codes below 16),
//! `bits_to_16`, `low_f16` and `high_f16` (of each lane, to float), `load_f16` (16 values from memory, to float),
//! `transpose` (16 bytes of 16 rows, to 4 vectors; codes by `arrange`, which is the same), `dwords` (4 bytes of 16
//! rows), `heads` (the first 2 bytes of each), `prefetch`, `int_four` (adds the products of 16 columns), `int_part`
//! (the same for a tile), `int_wide` (for wide codes of activations); and the size of its tile, rows of activations
//! `INT_X`, or `WHOLE_X` with codes of 8 bits, and panels `PANELS`. One with a tile of its own also provides
//! `store_codes` and `scaled_tile`.

/// Widths of codes, for instruction sets that distinguish them: at most 5 bits, at most 7, 8.
pub(super) const NARROW: u8 = 5;
pub(super) const MIDDLE: u8 = 7;
pub(super) const WHOLE: u8 = 8;

/// Columns that are unpacked at a time at most: their codes, scales and mins stay in the L1 cache.
pub(super) const CHUNK: usize = 576;

/// Bytes between those that are worked on and those that are prefetched, with few rows of activations.
pub(super) const AHEAD: usize = 12 << 10;
/// Rows of weights between these with many rows of activations: two parts of a linear layer, since another thread may have
/// the next one.
pub(super) const FAR: usize = 128;

/// 16 rows of integer weights: 4 neighbouring codes of row 0, of row 1, …, then the next 4; a scale and a min a row.
#[repr(align(64))]
pub(super) struct Panel {
    pub(super) codes: [[u8; 64]; CHUNK / 4],
    pub(super) scales: [[f32; 16]; CHUNK / 16],
    pub(super) mins: [[f32; 16]; CHUNK / 16],
}

impl Panel {
    pub(super) const EMPTY: Panel =
        Panel { codes: [[0; 64]; CHUNK / 4], scales: [[0.0; 16]; CHUNK / 16], mins: [[0.0; 16]; CHUNK / 16] };
}

/// Builds an array from its indices. `from_fn` would not have the target features that its closure has, so it would not
/// be inlined.
macro_rules! array {
    ($first:expr; $i:ident => $value:expr) => {{
        let mut out = [$first; _];
        for $i in 0..out.len() {
            out[$i] = $value;
        }
        out
    }};
}
pub(super) use array;

macro_rules! integers {
    (tile of its own, $($feature:tt)+) => {
        use crate::kernel::ints::{AHEAD, FAR, array, CHUNK, MIDDLE, NARROW, Panel, WHOLE};
        use crate::kernel::{QActs, Scratch};
        use crate::quant::{self, Codes, Matrix};

        /// Rows of weights in a vector of lanes.
        const ROWS: usize = 16;
        use self::transpose as arrange;
        crate::kernel::unpack::unpacking!($($feature)+);

        /// Rows ahead of those worked on that are prefetched: what arrives in the latency of the memory.
        fn ahead(w: &Matrix) -> usize {
            (AHEAD / w.row_bytes().max(1)).next_multiple_of(16).max(16)
        }

        /// The rows from `first` on, up to `end`, that are computed together, and their distance: 16 rows, or one row in
        /// all lanes.
        fn group(first: usize, end: usize) -> Option<(Range<usize>, usize)> {
            match end.checked_sub(first)? {
                0 => None,
                1..16 => Some((first..first + 1, 0)),
                _ => Some((first..first + 16, 1)),
            }
        }

        /// The zero of the codes of format `ID`, values that share a scale, and whether there are mins: known to the
        /// compiler, except for a format without a function of its own.
        #[inline(always)]
        fn codes_of<const ID: u32>(w: &Matrix) -> (u8, usize, bool) {
            if ID == ANY {
                let codes = w.format.codes.as_ref().expect("a format with codes");
                (codes.zero, codes.sub, codes.min)
            } else {
                const { if ID == ANY { (0, 0, false) } else { quant::codes(ID) } }
            }
        }

        /// Values of the activations that the products with all rows of weights share.
        #[derive(Clone, Copy)]
        struct Sides<'a> {
            x: &'a QActs,
            /// The starting value of the integer sum of each part of 16 columns, which accounts for the zero of the codes:
            /// `[rows, C / 16]`. For wide codes, where two parts share one, it is stored at the first.
            start: &'a [i32],
            /// `Σ d · Σ q` of each block of columns that share a min: `[rows, C / SUB]`.
            totals: &'a [f32],
        }

        /// The integer sums of 16 rows of 16 codes with the activations at `q`, from `start`.
        ///
        /// # Safety
        /// There are 16 activations.
        $(#[target_feature(enable = $feature)])+
        #[inline]
        unsafe fn sixteen(start: I, codes: [I; 4], q: *const i8, zero: u8) -> I {
            // SAFETY: the caller's promise.
            unsafe {
                match zero {
                    128 => int_four::<WHOLE>(start, codes, q),
                    32 => int_four::<MIDDLE>(start, codes, q),
                    _ => int_four::<NARROW>(start, codes, q),
                }
            }
        }

        /// Rows `rows` with `M` rows of activations, multiplied as the codes are unpacked. Not inlined: WebAssembly
        /// engines allocate fewer registers in large functions.
        $(#[target_feature(enable = $feature)])+
        #[inline(never)]
        fn few<const ID: u32, const M: usize, const WIDE: bool, const T: bool>(
            w: &Matrix,
            rows: Range<usize>,
            next: &[u8],
            of: Sides,
            y: &mut Tile,
        ) {
            let (zero, sub, min) = codes_of::<ID>(w);
            let (x, c, signed) = (of.x, of.x.c, SIGNED_CODES && zero == 128);
            assert!(x.n == M && x.wide == WIDE && x.q.len() >= if WIDE { 2 * M * c } else { M * c }, "activations");
            assert!(x.d.len() >= M * c / 16, "their scales");
            assert!(min || signed || of.start.len() >= M * c / 16, "starts");
            assert!(!min || of.totals.len() >= M * c / sub, "totals");
            let ahead = ahead(w);
            let data = bytes::<T>(w, rows.clone());
            fetch(data, 0, data.len().min(ahead * w.row_bytes()), true);
            let mut first = rows.start;
            while let Some((group, apart)) = group(first, rows.end) {
                let blocks = Blocks::<T>::new(w, group.clone(), apart, 0..w.cols, first + ahead, rows.end, next);
                first = group.end;
                let (mut acc, mut low) = ([splat(0.0); M], [splat(0.0); M]);
                let mut take = |b: usize, columns: Columns| {
                    debug_assert!(32 * b < c);
                    let codes = |part: usize| array!(splat_i(0); k => columns.codes[4 * part + k]);
                    for m in 0..M {
                        let mut scaled = splat(0.0);
                        // For wide codes: the sums of both bytes, over all parts of a block.
                        let (mut high, mut ints) = (splat_i(0), splat_i(0));
                        for part in 0..2 {
                            let at = m * (c / 16) + 2 * b + part;
                            // SAFETY: `b` counts the 32 columns of a row, and the asserts above cover all rows.
                            unsafe {
                                let q = x.q.as_ptr().add(16 * at);
                                let d = splat(*x.d.as_ptr().add(at));
                                let start = if min || signed { 0 } else { *of.start.as_ptr().add(at) };
                                if WIDE {
                                    if part == 0 || sub == 16 {
                                        (high, ints) = (splat_i(0), splat_i(start));
                                    }
                                    high = sixteen(high, codes(part), q, zero);
                                    ints = sixteen(ints, codes(part), q.add(M * c), zero);
                                    scaled = mul(d, to_float(plus(shl(high, 4), ints)));
                                } else {
                                    let ints = sixteen(splat_i(start), codes(part), q, zero);
                                    scaled = fma(d, to_float(ints), scaled);
                                }
                            }
                            if sub == 16 {
                                acc[m] = fma(columns.scales[part], scaled, acc[m]);
                                scaled = splat(0.0);
                                if min {
                                    low[m] = fma(columns.mins[part], splat(of.totals[at]), low[m]);
                                }
                            }
                        }
                        if sub == 32 {
                            acc[m] = fma(columns.scales[0], scaled, acc[m]);
                            if min {
                                low[m] = fma(columns.mins[0], splat(of.totals[m * (c / 32) + b]), low[m]);
                            }
                        }
                    }
                };
                if T {
                    unpack_simple::<ID, T, PRELOAD>(&blocks, &mut take);
                } else {
                    unpack::<ID, PRELOAD>(w, &blocks.plain(), &mut take);
                }
                for m in 0..M {
                    finish(m, acc[m], low[m], y, group.start - rows.start..group.end - rows.start);
                }
            }
        }

        /// Writes the sums of row `i` of the activations with the rows of weights `at`, at most 16.
        $(#[target_feature(enable = $feature)])+
        #[inline]
        fn finish(i: usize, acc: F, low: F, y: &mut Tile, at: Range<usize>) {
            let sum = fma(splat(1.0), acc, low);
            let out = &mut y.row(i)[at];
            match <&mut [f32; 16]>::try_from(&mut *out) {
                Ok(out) => store_to(out, sum),
                Err(_) => {
                    let mut lanes = [0.0; 16];
                    store_to(&mut lanes, sum);
                    let count = out.len();
                    out.copy_from_slice(&lanes[..count]);
                }
            }
        }

        /// Sums so far of one row of activations with 16 rows of weights: scaled, and those of the mins.
        type Sums = [[f32; 16]; 2];

        /// Which columns a panel holds, and where the sums of a tile are: between pieces of a row in `sums`, `[rows, P]`,
        /// and after the last in `y`.
        struct Piece<'a, 'b, const P: usize> {
            cols: Range<usize>,
            first: bool,
            last: bool,
            sums: &'a mut [[Sums; P]],
            y: &'a mut Tile<'b>,
            /// The columns of `y` of the rows of weights.
            at: Range<usize>,
        }

        /// Continues the sums of rows `i..i + M` of the activations.
        $(#[target_feature(enable = $feature)])+
        fn int_tile<const M: usize, const P: usize, const SUB: usize, const MIN: bool, const BITS: u8, const WIDE: bool>(
            panels: &[Panel; P],
            piece: &mut Piece<P>,
            of: Sides,
            i: usize,
        ) {
            let cols = piece.cols.clone();
            let count = cols.len() / SUB;
            assert!(count * SUB <= CHUNK && cols.len() % 32 == 0, "columns of a panel");
            let [mut acc, mut low]: [[[F; P]; M]; 2] = array!([[splat(0.0); P]; M]; min => {
                if piece.first || min == 1 && !MIN {
                    [[splat(0.0); P]; M]
                } else {
                    array!([splat(0.0); P]; m => array!(splat(0.0); p => load_from(&piece.sums[i + m][p][min])))
                }
            });
            scaled_tile::<M, P, SUB, BITS, WIDE>(panels, cols.clone(), of, MIN, i, &mut acc);
            if MIN {
                let (x, blocks) = (of.x, cols.start / SUB..cols.end / SUB);
                let totals: [&[f32]; M] = array!(&[][..]; m => &of.totals[(i + m) * x.c / SUB..][blocks.clone()]);
                for b in 0..count {
                    let mins: [F; P] = array!(splat(0.0); p => load_from(&panels[p].mins[b]));
                    for m in 0..M {
                        let total = splat(totals[m][b]);
                        for p in 0..P {
                            low[m][p] = fma(mins[p], total, low[m][p]);
                        }
                    }
                }
            }
            for m in 0..M {
                for p in 0..P {
                    if piece.last {
                        let at = piece.at.start + 16 * p;
                        finish(i + m, acc[m][p], low[m][p], piece.y, at..(at + 16).min(piece.at.end));
                        continue;
                    }
                    let sums = &mut piece.sums[i + m][p];
                    store_to(&mut sums[0], acc[m][p]);
                    if MIN {
                        store_to(&mut sums[1], low[m][p]);
                    }
                }
            }
        }

        $(#[target_feature(enable = $feature)])+
        fn int_rows<const P: usize, const SUB: usize, const MIN: bool, const BITS: u8, const WIDE: bool>(
            panels: &[Panel; P],
            mut piece: Piece<P>,
            of: Sides,
        ) {
            let mut i = 0;
            while i < of.x.n {
                let left = of.x.n - i;
                i += if BITS == WHOLE && left >= WHOLE_X {
                    int_tile::<WHOLE_X, P, SUB, MIN, BITS, WIDE>(panels, &mut piece, of, i);
                    WHOLE_X
                } else if BITS != WHOLE && left >= INT_X {
                    int_tile::<INT_X, P, SUB, MIN, BITS, WIDE>(panels, &mut piece, of, i);
                    INT_X
                } else if left >= 2 {
                    int_tile::<2, P, SUB, MIN, BITS, WIDE>(panels, &mut piece, of, i);
                    2
                } else {
                    int_tile::<1, P, SUB, MIN, BITS, WIDE>(panels, &mut piece, of, i);
                    1
                };
            }
        }

        /// Rows `rows` and those `apart` (see [`group`]) through `P` panels, to columns `at` of `y`.
        $(#[target_feature(enable = $feature)])+
        fn many<const ID: u32, const P: usize, const WIDE: bool, const T: bool>(
            w: &Matrix,
            rows: Range<usize>,
            apart: usize,
            of: Sides,
            panels: &mut [Panel],
            sums: &mut [f32],
            y: &mut Tile,
            at: Range<usize>,
        ) {
            let (zero, sub, min) = codes_of::<ID>(w);
            let panels: &mut [Panel; P] = (&mut panels[..P]).try_into().expect("P panels");
            let sums = sums.as_chunks_mut::<16>().0.as_chunks_mut::<2>().0.as_chunks_mut::<P>().0;
            let step = chunk(w);
            for start in (0..w.cols).step_by(step) {
                let cols = start..(start + step).min(w.cols);
                for (p, panel) in panels.iter_mut().enumerate() {
                    let first = rows.start + 16 * p;
                    let group = first..(first + 16).min(rows.end);
                    let blocks = Blocks::<T>::new(w, group, apart, cols.clone(), first + FAR, w.rows, &[]);
                    let mut take = |b: usize, columns: Columns| {
                        let codes = (&mut panel.codes[8 * b..8 * b + 8]).try_into().expect("8 vectors");
                        store_codes(codes, columns.codes, zero);
                        for part in 0..32 / sub {
                            store_to(&mut panel.scales[32 / sub * b + part], columns.scales[part]);
                            if min {
                                store_to(&mut panel.mins[32 / sub * b + part], columns.mins[part]);
                            }
                        }
                    };
                    if T {
                        unpack_simple::<ID, T, false>(&blocks, &mut take);
                    } else {
                        unpack::<ID, false>(w, &blocks.plain(), &mut take);
                    }
                }
                let piece = Piece {
                    first: start == 0,
                    last: cols.end == w.cols,
                    cols,
                    sums: &mut *sums,
                    y: &mut *y,
                    at: at.clone(),
                };
                match (sub, min, zero) {
                    (32, true, _) => int_rows::<P, 32, true, NARROW, WIDE>(panels, piece, of),
                    (32, false, 128) => int_rows::<P, 32, false, WHOLE, WIDE>(panels, piece, of),
                    (32, false, _) => int_rows::<P, 32, false, NARROW, WIDE>(panels, piece, of),
                    (_, false, 32) => int_rows::<P, 16, false, MIDDLE, WIDE>(panels, piece, of),
                    (_, false, 128) => int_rows::<P, 16, false, WHOLE, WIDE>(panels, piece, of),
                    (_, false, _) => int_rows::<P, 16, false, NARROW, WIDE>(panels, piece, of),
                    (_, true, _) => int_rows::<P, 16, true, NARROW, WIDE>(panels, piece, of),
                }
            }
        }

        /// Columns that are unpacked at a time: pieces of a row, as equal as its blocks allow.
        fn chunk(w: &Matrix) -> usize {
            let count = w.cols.div_ceil(CHUNK / w.format.block * w.format.block).max(1);
            w.cols.div_ceil(count).next_multiple_of(w.format.block.max(32))
        }

        $(#[target_feature(enable = $feature)])+
        fn with_format<const ID: u32, const T: bool>(w: &Matrix, rows: Range<usize>, next: &[u8], of: Sides, sums: &mut [f32], y: &mut Tile) {
            match (of.x.n, of.x.wide) {
                (1, false) => return few::<ID, 1, false, T>(w, rows, next, of, y),
                (1, true) => return few::<ID, 1, true, T>(w, rows, next, of, y),
                (2, false) => return few::<ID, 2, false, T>(w, rows, next, of, y),
                // The usual number of sequences that decode together; a panel costs more than it saves them.
                (8, false) if MANY_REGISTERS => return few::<ID, 8, false, T>(w, rows, next, of, y),
                (8, true) if MANY_REGISTERS => return few::<ID, 8, true, T>(w, rows, next, of, y),
                _ => (),
            }
            let data = bytes::<T>(w, rows.clone());
            fetch(data, 0, data.len(), true);
            let mut panels = [const { Panel::EMPTY }; PANELS];
            let mut first = rows.start;
            while let Some((one, apart)) = group(first, rows.end) {
                let all = first..first + 16 * PANELS;
                let fill = all.end <= rows.end;
                let taken = if fill { all } else { one };
                let at = first - rows.start..taken.end - rows.start;
                first = taken.end;
                // The last rows may not fill all panels.
                match (fill, of.x.wide) {
                    (true, false) => many::<ID, PANELS, false, T>(w, taken, apart, of, &mut panels, sums, y, at),
                    (true, true) => many::<ID, PANELS, true, T>(w, taken, apart, of, &mut panels, sums, y, at),
                    (false, false) => many::<ID, 1, false, T>(w, taken, apart, of, &mut panels, sums, y, at),
                    (false, true) => many::<ID, 1, true, T>(w, taken, apart, of, &mut panels, sums, y, at),
                }
            }
        }

        $(#[target_feature(enable = $feature)])+
        pub(in crate::kernel) fn int_dots(w: &Matrix, rows: Range<usize>, next: &[u8], x: &QActs, y: &mut Tile, scratch: &mut Scratch) {
            let Codes { zero, sub, min, .. } = *w.format.codes.as_ref().expect("a format with codes");
            assert!(x.c == w.cols && w.cols % 32 == 0, "activations of {} columns for {}", x.c, w.cols);
            assert!(chunk(w) <= CHUNK, "blocks in a panel");
            let parts = x.n * x.c / 16;
            let [sums, start, totals] = scratch.three(
                if chunk(w) < w.cols { 32 * PANELS * x.n } else { 0 },
                if min { 0 } else { parts },
                if min && sub == 16 { parts } else { 0 },
            );
            let start: &mut [i32] = bytemuck::cast_slice_mut(start);
            for (start, s) in start.iter_mut().zip(&x.s) {
                *start = -(zero as i32) * s;
            }
            if x.wide && sub == 32 {
                start.as_chunks_mut::<2>().0.iter_mut().for_each(|[a, b]| *a += core::mem::take(b));
            }
            for ((total, d), s) in totals.iter_mut().zip(&x.d).zip(&x.s) {
                *total = d * *s as f32;
            }
            let of = Sides { x, start, totals: if sub == 16 { totals } else { &x.low } };
            let sixteens = rows.start.is_multiple_of(16) && rows.len().is_multiple_of(16);
            match (w.format.id, sixteens && w.interleaved().is_some()) {
                (2, false) => with_format::<2, false>(w, rows, next, of, sums, y),
                (3, false) => with_format::<3, false>(w, rows, next, of, sums, y),
                (6, false) => with_format::<6, false>(w, rows, next, of, sums, y),
                (7, false) => with_format::<7, false>(w, rows, next, of, sums, y),
                (8, false) => with_format::<8, false>(w, rows, next, of, sums, y),
                (20, false) => with_format::<20, false>(w, rows, next, of, sums, y),
                (2, true) => with_format::<2, true>(w, rows, next, of, sums, y),
                (3, true) => with_format::<3, true>(w, rows, next, of, sums, y),
                (6, true) => with_format::<6, true>(w, rows, next, of, sums, y),
                (7, true) => with_format::<7, true>(w, rows, next, of, sums, y),
                (8, true) => with_format::<8, true>(w, rows, next, of, sums, y),
                (20, true) => with_format::<20, true>(w, rows, next, of, sums, y),
                (10, _) => with_format::<10, false>(w, rows, next, of, sums, y),
                (11, _) => with_format::<11, false>(w, rows, next, of, sums, y),
                (12, _) => with_format::<12, false>(w, rows, next, of, sums, y),
                (13, _) => with_format::<13, false>(w, rows, next, of, sums, y),
                (14, _) => with_format::<14, false>(w, rows, next, of, sums, y),
                (23, _) => with_format::<23, false>(w, rows, next, of, sums, y),
                _ => with_format::<ANY, false>(w, rows, next, of, sums, y),
            }
        }
    };
    ($($feature:tt)+) => {
        crate::kernel::ints::integers!(tile of its own, $($feature)+);

        /// Puts 32 columns of codes into a panel.
        $(#[target_feature(enable = $feature)])+
        #[inline]
        fn store_codes(panel: &mut [[u8; 64]; 8], codes: [I; 8], _zero: u8) {
            for k in 0..8 {
                store_i(&mut panel[k], codes[k]);
            }
        }

        /// The scaled sums of `int_tile`. `min`: the format has mins, and its codes no zero.
        $(#[target_feature(enable = $feature)])+
        fn scaled_tile<const M: usize, const P: usize, const SUB: usize, const BITS: u8, const WIDE: bool>(
            panels: &[Panel; P],
            cols: Range<usize>,
            of: Sides,
            min: bool,
            i: usize,
            acc: &mut [[F; P]; M],
        ) {
            let (x, free) = (of.x, min || SIGNED_CODES && BITS == WHOLE);
            // Columns that share a scale on both sides.
            let step = if WIDE { SUB } else { 16 };
            let parts = cols.start / 16..cols.end / 16;
            let row = |i: usize| &x.q[i * x.c..][cols.clone()];
            let q: [&[i8]; M] = array!(&[][..]; m => row(i + m));
            let low_q: [&[i8]; M] = array!(&[][..]; m => if WIDE { row(x.n + i + m) } else { &[] });
            let d: [&[f32]; M] = array!(&[][..]; m => &x.d[(i + m) * x.c / 16..][parts.clone()]);
            let s: [&[i32]; M] = array!(&[][..]; m => {
                if free { &[][..] } else { &of.start[(i + m) * x.c / 16..][parts.clone()] }
            });
            let count = cols.len() / SUB;
            for b in 0..count {
                let mut scaled = [[splat(0.0); P]; M];
                for at in (b * (SUB / 16)..(b + 1) * (SUB / 16)).step_by(step / 16) {
                    // SAFETY: `b` is below `count`, and the slices above hold that many blocks, scales and sums.
                    unsafe {
                        let mut ints: [[I; P]; M] = array!([splat_i(0); P]; m => {
                            [splat_i(if free { 0 } else { *s[m].as_ptr().add(at) }); P]
                        });
                        let codes = array!(core::ptr::null(); p => panels[p].codes.as_ptr().add(4 * at));
                        let q = array!(core::ptr::null(); m => q[m].as_ptr().add(16 * at));
                        if WIDE {
                            let low_q = array!(core::ptr::null(); m => low_q[m].as_ptr().add(16 * at));
                            int_wide::<M, P, BITS>(&mut ints, codes, q, low_q, SUB / 16);
                        } else {
                            int_part::<M, P, BITS>(&mut ints, codes, q);
                        }
                        for m in 0..M {
                            let d = splat(*d[m].as_ptr().add(at));
                            for p in 0..P {
                                scaled[m][p] = if WIDE {
                                    mul(d, to_float(ints[m][p]))
                                } else {
                                    fma(d, to_float(ints[m][p]), scaled[m][p])
                                };
                            }
                        }
                    }
                }
                for p in 0..P {
                    let scale = load_from(&panels[p].scales[b]);
                    for m in 0..M {
                        acc[m][p] = fma(scale, scaled[m][p], acc[m][p]);
                    }
                }
            }
        }
    };
}
pub(super) use integers;

/// The products of a tile with wide codes by those of their bytes.
macro_rules! int_wide {
    ($($feature:tt)+) => {
        /// Adds to each lane the dot products of `count` times 16 codes with wide activations, for `M` rows of these
        /// and `P` panels.
        ///
        /// # Safety
        /// There are so many activations at each of `high` and `low`, and 4 vectors for each 16 at each of `codes`.
        $(#[target_feature(enable = $feature)])+
        #[inline]
        unsafe fn int_wide<const M: usize, const P: usize, const BITS: u8>(
            sums: &mut [[I; P]; M],
            codes: [*const [u8; 64]; P],
            high: [*const i8; M],
            low: [*const i8; M],
            count: usize,
        ) {
            let codes = |k: usize| array!(codes[0]; p => codes[p].wrapping_add(4 * k));
            let at = |q: [*const i8; M], k: usize| array!(q[0]; m => q[m].wrapping_add(16 * k));
            let mut ints = [[splat_i(0); P]; M];
            for k in 0..count {
                // SAFETY: the caller's promise.
                unsafe { int_part::<M, P, BITS>(&mut ints, codes(k), at(high, k)) };
            }
            for m in 0..M {
                for p in 0..P {
                    sums[m][p] = plus(shl(ints[m][p], 4), sums[m][p]);
                }
            }
            for k in 0..count {
                // SAFETY: likewise.
                unsafe { int_part::<M, P, BITS>(sums, codes(k), at(low, k)) };
            }
        }
    };
}
pub(super) use int_wide;
