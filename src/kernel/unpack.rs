//! Unpacking of quantised weights, written once over lanes, 16 or 4 of them: `unpacking!`.
//!
//! A lane is a row of weights. Each format has one function that unpacks blocks of `ROWS` rows, 32 columns at a time.
//! The operations on lanes are those that `ints.rs` lists. Those on codes are the same for every byte, so that with 4
//! lanes `arrange` may leave the bytes of 4 rows in another order than `transpose`.

/// A loop that is unrolled where 4 rows are unpacked, so that shifts and offsets are constants. With 16 rows the
/// compiler does better with a loop.
macro_rules! unrolled {
    ($i:ident in $n:literal: $($at:literal)+ => $body:block) => {
        if ROWS == 16 {
            for $i in 0..$n $body
        } else {
            $({
                let $i = $at;
                $body
            })+
        }
    };
}
pub(super) use unrolled;

/// The same offset in each of several rows. One distance between rows needs fewer registers than a pointer per row.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub(super) first: *const u8,
    /// Bytes from one row to the next.
    pub(super) apart: usize,
}

impl Rows {
    /// The pointer of row `r`.
    #[inline(always)]
    pub(super) fn at(self, r: usize) -> *const u8 {
        self.first.wrapping_add(r * self.apart)
    }
}

macro_rules! unpacking {
    ($($feature:tt)+) => {
        use crate::kernel::unpack::Rows;

        /// The blocks of `ROWS` rows.
        ///
        /// With `INTERLEAVED` the rows are interleaved, as in [`crate::quant::interleaved`].
        struct Blocks<'a, const INTERLEAVED: bool> {
            data: &'a [u8],
            /// Where the blocks of the first row begin, and the distance of the next row.
            start: usize,
            apart: usize,
            /// Where the bytes to prefetch begin, from `data` on and around the end of all addresses, if there are any.
            ahead: Option<usize>,
            /// Whether they are prefetched into the nearest cache, or into the next one.
            near: bool,
            count: usize,
        }

        impl<'a, const INTERLEAVED: bool> Blocks<'a, INTERLEAVED> {
            /// Columns `cols` of row `rows.start` and of the rows `apart` from it, all below `rows.end`; or of that row
            /// alone, in all lanes, if `apart` is 0. An equal number of rows is prefetched: those from `ahead` to
            /// `end`, and then the bytes `next`.
            fn new(
                w: &'a Matrix,
                rows: Range<usize>,
                apart: usize,
                cols: Range<usize>,
                ahead: usize,
                end: usize,
                next: &[u8],
            ) -> Self {
                let (format, row_bytes) = (w.format, w.row_bytes());
                let first = cols.start / format.block * format.bytes;
                let count = cols.len() / format.block;
                assert!(first + count * format.bytes <= row_bytes, "columns of a matrix");
                assert!(count > 0 && rows.len() > (ROWS - 1) * apart, "rows of a matrix");
                let reads_ahead = crate::kernel::peak::reads_ahead();
                let data = bytes::<INTERLEAVED>(w, rows.clone());
                let ahead = if ahead < end {
                    Some((ahead - rows.start) * row_bytes)
                } else {
                    let from = (ahead - end) * row_bytes;
                    (from < next.len()).then(|| next[from..].as_ptr().addr().wrapping_sub(data.as_ptr().addr()))
                };
                Blocks {
                    data,
                    start: if INTERLEAVED { 16 * first } else { first },
                    apart: apart * row_bytes,
                    // Interleaved rows are one stream, which some machines prefetch by themselves.
                    ahead: ahead.filter(|_| !(INTERLEAVED && reads_ahead)).map(|ahead| ahead.wrapping_add(16 * first)),
                    near: !reads_ahead,
                    count,
                }
            }

            /// The same, known not to be interleaved.
            #[allow(dead_code, reason = "where no rows are interleaved")]
            #[inline(always)]
            fn plain(&self) -> Blocks<'a, false> {
                let Blocks { data, start, apart, ahead, near, count } = *self;
                Blocks { data, start, apart, ahead, near, count }
            }

            /// The block after `b`, or the last one.
            #[inline(always)]
            fn next_block(&self, b: usize) -> usize {
                (b + 1).min(self.count - 1)
            }

            /// The bytes from `at` on in each row.
            ///
            /// # Safety
            /// 16 bytes are read there.
            #[inline(always)]
            unsafe fn from(&self, at: usize) -> Rows {
                // SAFETY: the caller's promise.
                Rows { first: unsafe { self.data.as_ptr().add(self.start + at) }, apart: self.apart }
            }

            /// Prefetches as many bytes as are worked on now: piece `i` of `parts` of a block `bytes` long of
            /// 16 rows. Hardware prefetchers do not follow 16 rows at once. Interleaved rows have one part.
            #[inline(always)]
            fn fetch(&self, i: usize, parts: usize, bytes: usize) {
                if let Some(ahead) = self.ahead {
                    let piece = 16 * bytes / parts;
                    fetch(self.data, ahead.wrapping_add(i * piece), piece, self.near);
                }
                if self.near {
                    return;
                }
                if INTERLEAVED {
                    // Vectors here begin in the middle of lines. Hardware prefetching works better if each line is
                    // first touched by itself, in order.
                    let at = self.start + 16 * i * bytes;
                    for line in self.data[at..at + 16 * bytes].iter().step_by(64) {
                        // SAFETY: a reference.
                        unsafe { core::ptr::read_volatile(line) };
                    }
                    core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::SeqCst);
                }
                if parts > 1 {
                    // From the second-level cache: the next blocks of some rows.
                    let rows = Rows { first: self.data.as_ptr().wrapping_add(self.start), apart: self.apart };
                    for r in i % parts * ROWS / parts..(i % parts + 1) * ROWS / parts {
                        for line in (0..bytes).step_by(64) {
                            prefetch(rows.at(r).wrapping_add((i / parts + 1) * bytes + line), true);
                        }
                    }
                }
            }
        }

        /// The bytes of rows of a matrix, interleaved or not.
        fn bytes<const INTERLEAVED: bool>(w: &Matrix, rows: Range<usize>) -> &[u8] {
            if !INTERLEAVED {
                return w.rows_bytes(rows);
            }
            let interleaved = w.interleaved().expect("an interleaved matrix");
            assert!(rows.start % 16 == 0 && rows.len() % 16 == 0, "16 rows side by side");
            &interleaved[rows.start * w.row_bytes()..rows.end * w.row_bytes()]
        }

        /// The 16 bytes at `at` of a block of each row, as 4 vectors.
        ///
        /// # Safety
        /// They lie in the blocks.
        $(#[target_feature(enable = $feature)])+
        #[inline]
        unsafe fn four<const T: bool>(blocks: &Blocks<T>, at: usize) -> [I; 4] {
            // SAFETY: the caller's promise; interleaved, the field at `at` of 16 rows begins at 16 · `at`.
            unsafe {
                if T {
                    let p = blocks.data.as_ptr().add(blocks.start + 16 * at).cast::<[u8; 64]>();
                    [load_i(p), load_i(p.add(1)), load_i(p.add(2)), load_i(p.add(3))]
                } else {
                    arrange(blocks.from(at))
                }
            }
        }

        /// The dword at `at` of a block of each row.
        ///
        /// # Safety
        /// It lies in the blocks.
        $(#[target_feature(enable = $feature)])+
        #[inline]
        unsafe fn dword<const T: bool>(blocks: &Blocks<T>, at: usize) -> I {
            // SAFETY: as in `four`.
            unsafe {
                if T {
                    load_i(blocks.data.as_ptr().add(blocks.start + 16 * at).cast())
                } else {
                    dwords(blocks.from(at))
                }
            }
        }

        /// The f16 scales that blocks begin with, read two blocks before they are needed. A cache line of each row is
        /// thus fetched while the blocks before it are computed.
        struct Early<'a, const INTERLEAVED: bool> {
            blocks: &'a Blocks<'a, INTERLEAVED>,
            bytes: usize,
            next: [[u16; ROWS]; 2],
        }

        impl<'a, const INTERLEAVED: bool> Early<'a, INTERLEAVED> {
            /// # Safety
            /// Blocks are `bytes` long.
            $(#[target_feature(enable = $feature)])+
            #[inline]
            unsafe fn new(blocks: &'a Blocks<'a, INTERLEAVED>, bytes: usize) -> Self {
                let mut early = Early { blocks, bytes, next: [[0; ROWS]; 2] };
                if !INTERLEAVED {
                    // SAFETY: the caller's promise.
                    early.next = unsafe { [early.read(0), early.read(1)] };
                }
                early
            }

            /// The scales of block `b`, or of the last one.
            ///
            /// # Safety
            /// As of `new`.
            $(#[target_feature(enable = $feature)])+
            #[inline]
            unsafe fn read(&self, b: usize) -> [u16; ROWS] {
                // SAFETY: the caller's promise.
                unsafe { heads(self.blocks.from(b.min(self.blocks.count - 1) * self.bytes)) }
            }

            /// The scales of block `b`; blocks are read in order.
            ///
            /// # Safety
            /// As of `new`.
            $(#[target_feature(enable = $feature)])+
            #[inline]
            unsafe fn next(&mut self, b: usize) -> F {
                // SAFETY: the promise; interleaved, the f16 scales of 16 rows are where a block begins.
                unsafe {
                    if INTERLEAVED {
                        return load_f16(self.blocks.data.as_ptr().add(self.blocks.start + 16 * b * self.bytes).cast());
                    }
                    let [now, next] = self.next;
                    self.next = [next, self.read(b + 2)];
                    load_f16(now.as_ptr())
                }
            }
        }

        /// Prefetches `count` bytes from `at` on, which need not lie inside, into the nearest cache or into the next
        /// one.
        #[inline(always)]
        fn fetch(data: &[u8], at: usize, count: usize, near: bool) {
            for line in (0..count).step_by(64) {
                prefetch(data.as_ptr().wrapping_add(at).wrapping_add(line), near);
            }
        }

        /// 32 columns of 16 rows: codes in panel order, and a scale and a min for each 16 columns. Where 32 columns
        /// share them, the first ones are used.
        struct Columns {
            codes: [I; 8],
            scales: [F; 2],
            mins: [F; 2],
        }

        impl Columns {
            $(#[target_feature(enable = $feature)])+
            #[inline]
            fn new(codes: [I; 8], scale: F) -> Self {
                Columns { codes, scales: [scale; 2], mins: [splat(0.0); 2] }
            }
        }

        /// Bit `j` of each byte, as bit `to`.
        $(#[target_feature(enable = $feature)])+
        #[inline]
        fn bit(x: I, j: usize, to: usize) -> I {
            and(if j < to { shl(x, to - j) } else { shr(x, j - to) }, splat_i(0x0101_0101 << to))
        }

        /// 32 bytes of 16 rows in panel order.
        ///
        /// # Safety
        /// They stand from byte `at` on in each row.
        $(#[target_feature(enable = $feature)])+
        #[inline]
        unsafe fn bytes32<const T: bool>(blocks: &Blocks<T>, at: usize) -> [I; 8] {
            // SAFETY: the caller's promise.
            let [[a, b, c, d], [e, f, g, h]] = unsafe { [four(blocks, at), four(blocks, at + 16)] };
            [a, b, c, d, e, f, g, h]
        }

        /// The values of IQ4 codes.
        const IQ4: [u8; 16] = {
            let mut table = quant::IQ4;
            let mut i = 0;
            while SIGNED_CODES && i < 16 {
                table[i] ^= 0x80;
                i += 1;
            }
            table
        };

        /// Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL. With `PRELOAD`, codes are loaded a block before they are used. Otherwise the
        /// machine's queues are full of operations that wait for one block before the loads of the next are issued.
        /// Interleaved rows are one stream, which hardware prefetches better in order.
        $(#[target_feature(enable = $feature)])+
        #[inline]
        fn unpack_nibbles<const MIN: bool, const FIVE: bool, const TABLE: bool, const T: bool, const PRELOAD: bool>(
            blocks: &Blocks<T>,
            out: &mut impl FnMut(usize, Columns),
        ) {
            let bits_at = if MIN { 4 } else { 2 };
            let packed_at = bits_at + if FIVE { 4 } else { 0 };
            let bytes = packed_at + 16;
            // SAFETY: a block of these formats has so many bytes.
            let mut early = unsafe { Early::new(blocks, bytes) };
            // SAFETY: a block has 16 bytes of nibbles, and there is one.
            let mut loaded = if PRELOAD && !T { unsafe { four(blocks, packed_at) } } else { [splat_i(0); 4] };
            for b in 0..blocks.count {
                blocks.fetch(b, 1, bytes);
                let at = b * bytes;
                // SAFETY: these formats have a dword with the scale, one with the bits, and 16 bytes of nibbles inside
                // a block, and `count` blocks lie in each row.
                let (packed, scale, head, bits) = unsafe {
                    let packed = if PRELOAD && !T { loaded } else { four(blocks, at + packed_at) };
                    if PRELOAD && !T {
                        loaded = four(blocks, blocks.next_block(b) * bytes + packed_at);
                    }
                    let head = if MIN { dword(blocks, at) } else { splat_i(0) };
                    (
                        packed,
                        if MIN { low_f16(head) } else { early.next(b) },
                        head,
                        if FIVE { dword(blocks, at + bits_at) } else { splat_i(0) },
                    )
                };
                let codes = array!(bits; k => {
                    let q = if k < 4 { low_nibbles(packed[k]) } else { high_nibbles(packed[k - 4]) };
                    if FIVE {
                        or(q, bits_to_16(bits, k))
                    } else if TABLE {
                        look_up(&IQ4, q)
                    } else {
                        q
                    }
                });
                let mut columns = Columns::new(codes, scale);
                if MIN {
                    columns.mins[0] = high_f16(head);
                }
                out(b, columns);
            }
        }

        $(#[target_feature(enable = $feature)])+
        #[inline]
        fn unpack_q8_0<const T: bool, const PRELOAD: bool>(blocks: &Blocks<T>, out: &mut impl FnMut(usize, Columns)) {
            // SAFETY: a block has 34 bytes.
            let mut early = unsafe { Early::new(blocks, 34) };
            // SAFETY: likewise, and there is one.
            let mut loaded = if PRELOAD && !T { unsafe { bytes32(blocks, 2) } } else { [splat_i(0); 8] };
            for b in 0..blocks.count {
                blocks.fetch(b, 1, 34);
                // SAFETY: a block has 34 bytes, and `count` of them lie in each row.
                let (scale, q) = unsafe {
                    let q = if PRELOAD && !T { loaded } else { bytes32(blocks, b * 34 + 2) };
                    if PRELOAD && !T {
                        loaded = bytes32(blocks, blocks.next_block(b) * 34 + 2);
                    }
                    (early.next(b), q)
                };
                let codes = array!(q[0]; k => if SIGNED_CODES { q[k] } else { flip(q[k]) });
                out(b, Columns::new(codes, scale));
            }
        }

        /// Q4_K, Q5_K.
        $(#[target_feature(enable = $feature)])+
        #[inline]
        fn unpack_k<const FIVE: bool, const PRELOAD: bool>(blocks: &Blocks<false>, out: &mut impl FnMut(usize, Columns)) {
            let (bytes, packed_at) = if FIVE { (176, 48) } else { (144, 16) };
            // SAFETY: a block ends with 128 bytes of nibbles, and there is one.
            let mut loaded = if PRELOAD { unsafe { bytes32(blocks, packed_at) } } else { [splat_i(0); 8] };
            for b in 0..blocks.count {
                let at = b * bytes;
                // SAFETY: a block begins with 16 bytes of scales, and `count` of them lie in each row.
                let [head, s, m, both] = unsafe { transpose(blocks.from(at)) };
                let (d, dmin) = (low_f16(head), mul(high_f16(head), splat(-1.0)));
                let (six, two) = (splat_i(0x3f3f_3f3f), splat_i(0x3030_3030));
                let scales = [and(s, six), or(low_nibbles(both), and(shr(s, 2), two))];
                let mins = [and(m, six), or(high_nibbles(both), and(shr(m, 2), two))];
                let bits = if FIVE {
                    // SAFETY: in Q5_K 32 bytes of fifth bits follow the scales.
                    unsafe { bytes32(blocks, at + 16) }
                } else {
                    [splat_i(0); 8]
                };
                crate::kernel::unpack::unrolled!(j in 4: 0 1 2 3 => {
                    blocks.fetch(4 * b + j, 4, bytes);
                    // SAFETY: the block ends with 128 bytes of nibbles.
                    let packed = unsafe {
                        let packed = if PRELOAD { loaded } else { bytes32(blocks, at + packed_at + 32 * j) };
                        if PRELOAD {
                            let next = if j < 3 { at } else { blocks.next_block(b) * bytes };
                            loaded = bytes32(blocks, next + packed_at + 32 * ((j + 1) % 4));
                        }
                        packed
                    };
                    crate::kernel::unpack::unrolled!(high in 2: 0 1 => {
                        let i = 2 * j + high;
                        let codes = array!(splat_i(0); k => {
                            let q = if high == 0 { low_nibbles(packed[k]) } else { high_nibbles(packed[k]) };
                            if FIVE { or(q, bit(bits[k], i, 4)) } else { q }
                        });
                        let mut columns = Columns::new(codes, mul(d, to_float(byte(scales[i / 4], i % 4))));
                        columns.mins[0] = mul(dmin, to_float(byte(mins[i / 4], i % 4)));
                        out(8 * b + i, columns);
                    });
                });
            }
        }

        $(#[target_feature(enable = $feature)])+
        #[inline]
        fn unpack_q6_k(blocks: &Blocks<false>, out: &mut impl FnMut(usize, Columns)) {
            for b in 0..blocks.count {
                let at = b * 210;
                // SAFETY: bytes 192..208 of a block of 210 are scales, the last two the f16 that scales them, and
                // `count` blocks lie in each row.
                let (scales, last) = unsafe { (transpose(blocks.from(at + 192)), dwords(blocks.from(at + 206))) };
                let d = high_f16(last);
                let upper = splat_i(0x3030_3030);
                for half in 0..2 {
                    // SAFETY: 64 bytes of nibbles for each half of the block, then 32 bytes of upper bits for each.
                    let (nibbles, bits) = unsafe {
                        (
                            [bytes32(blocks, at + 64 * half), bytes32(blocks, at + 64 * half + 32)],
                            bytes32(blocks, at + 128 + 32 * half),
                        )
                    };
                    crate::kernel::unpack::unrolled!(i in 4: 0 1 2 3 => {
                        blocks.fetch(8 * b + 4 * half + i, 8, 210);
                        let packed = &nibbles[i % 2];
                        let codes = array!(splat_i(0); k => {
                            if i < 2 {
                                or(low_nibbles(packed[k]), and(shl(bits[k], 4 - 2 * i), upper))
                            } else {
                                or(high_nibbles(packed[k]), and(shr(bits[k], 2 * i - 4), upper))
                            }
                        });
                        let scales = array!(d; part => {
                            let s = 8 * half + 2 * i + part;
                            mul(d, to_float(signed_byte(scales[s / 4], s % 4)))
                        });
                        out(8 * b + 4 * half + i, Columns { codes, scales, mins: [splat(0.0); 2] });
                    });
                }
            }
        }

        $(#[target_feature(enable = $feature)])+
        #[inline]
        fn unpack_q3_k(blocks: &Blocks<false>, out: &mut impl FnMut(usize, Columns)) {
            for b in 0..blocks.count {
                let at = b * 110;
                // SAFETY: a block has 110 bytes: 32 of third bits, 64 of lower bits, 12 of scales, and the f16 that
                // scales them; `count` of them lie in each row.
                let (bits, packed, heads) = unsafe {
                    (
                        bytes32(blocks, at),
                        [bytes32(blocks, at + 32), bytes32(blocks, at + 64)],
                        [
                            dwords(blocks.from(at + 96)),
                            dwords(blocks.from(at + 100)),
                            dwords(blocks.from(at + 104)),
                            dwords(blocks.from(at + 106)),
                        ],
                    )
                };
                let d = high_f16(heads[3]);
                let (three, upper) = (splat_i(0x0303_0303), splat_i(0x3030_3030));
                let scales: [I; 4] = array!(three; i => {
                    let low = if i < 2 { low_nibbles(heads[i]) } else { high_nibbles(heads[i - 2]) };
                    let high = [shl(heads[2], 4), shl(heads[2], 2), heads[2], shr(heads[2], 2)][i];
                    or(low, and(high, upper))
                });
                crate::kernel::unpack::unrolled!(i in 8: 0 1 2 3 4 5 6 7 => {
                    blocks.fetch(8 * b + i, 8, 110);
                    let codes = array!(splat_i(0); k => {
                        or(and(shr(packed[i / 4][k], 2 * (i % 4)), three), bit(bits[k], i, 2))
                    });
                    let scales = array!(d; part => {
                        let s = 2 * i + part;
                        let s = to_float(byte(scales[s / 4], s % 4));
                        mul(d, fma(s, splat(1.0), splat(-32.0)))
                    });
                    out(8 * b + i, Columns { codes, scales, mins: [splat(0.0); 2] });
                });
            }
        }

        $(#[target_feature(enable = $feature)])+
        #[inline]
        fn unpack_q2_k(blocks: &Blocks<false>, out: &mut impl FnMut(usize, Columns)) {
            for b in 0..blocks.count {
                let at = b * 84;
                // SAFETY: a block has 84 bytes: 16 of scales and mins, 64 of codes, two f16 values that scale these;
                // `count` of them lie in each row.
                let (both, packed, head) = unsafe {
                    (
                        transpose(blocks.from(at)),
                        [bytes32(blocks, at + 16), bytes32(blocks, at + 48)],
                        dwords(blocks.from(at + 80)),
                    )
                };
                let (d, dmin) = (low_f16(head), mul(high_f16(head), splat(-1.0)));
                crate::kernel::unpack::unrolled!(i in 8: 0 1 2 3 4 5 6 7 => {
                    blocks.fetch(8 * b + i, 8, 84);
                    let codes = array!(splat_i(0); k => and(shr(packed[i / 4][k], 2 * (i % 4)), splat_i(0x0303_0303)));
                    let scales = array!(d; s => {
                        mul(d, to_float(byte(low_nibbles(both[(2 * i + s) / 4]), (2 * i + s) % 4)))
                    });
                    let mins = array!(d; s => {
                        mul(dmin, to_float(byte(high_nibbles(both[(2 * i + s) / 4]), (2 * i + s) % 4)))
                    });
                    out(8 * b + i, Columns { codes, scales, mins });
                });
            }
        }

        $(#[target_feature(enable = $feature)])+
        #[inline]
        fn unpack_iq4_xs(blocks: &Blocks<false>, out: &mut impl FnMut(usize, Columns)) {
            for b in 0..blocks.count {
                let at = b * 136;
                // SAFETY: a block has 136 bytes: an f16, the upper and lower bits of 8 scales, 128 bytes of nibbles;
                // `count` of them lie in each row.
                let (head, lower) = unsafe { (dwords(blocks.from(at)), dwords(blocks.from(at + 4))) };
                let d = low_f16(head);
                crate::kernel::unpack::unrolled!(i in 8: 0 1 2 3 4 5 6 7 => {
                    blocks.fetch(8 * b + i, 8, 136);
                    // SAFETY: as above.
                    let packed = unsafe { four(blocks, at + 8 + 16 * i) };
                    let codes = array!(splat_i(0); k => {
                        look_up(&IQ4, if k < 4 { low_nibbles(packed[k]) } else { high_nibbles(packed[k - 4]) })
                    });
                    let high = shl(and(shr(head, 16 + 2 * i), splat_i(3)), 4);
                    let s = to_float(or(and(shr(lower, 4 * i), splat_i(15)), high));
                    out(8 * b + i, Columns::new(codes, mul(d, fma(s, splat(1.0), splat(-32.0)))));
                });
            }
        }

        /// Any format, block by block through its codes.
        $(#[target_feature(enable = $feature)])+
        fn unpack_any(w: &Matrix, blocks: &Blocks<false>, out: &mut impl FnMut(usize, Columns)) {
            let format = w.format;
            let codes = format.codes.as_ref().expect("a format with codes");
            let (block, per) = (format.block, format.block / codes.sub);
            let min = if codes.min { per } else { 0 };
            let mut q = [0; ROWS * 256];
            let (mut scales, mut mins) = ([[0.0; ROWS]; 16], [[0.0; ROWS]; 16]);
            for b in 0..blocks.count {
                blocks.fetch(b, 1, format.bytes);
                for r in 0..ROWS {
                    let (mut s, mut m) = ([0.0; 16], [0.0; 16]);
                    let bytes = &blocks.data[blocks.start + r * blocks.apart + b * format.bytes..][..format.bytes];
                    let q = &mut q[r * block..][..block];
                    quant::unpack_inline(format.id, bytes, q, &mut s[..per], &mut m[..min]);
                    for i in 0..16 {
                        (scales[i][r], mins[i][r]) = (s[i], m[i]);
                    }
                }
                for i in 0..block / 32 {
                    let halves: [[I; 4]; 2] = array!([splat_i(0); 4]; half => {
                        let first = q[32 * i + 16 * half..][..(ROWS - 1) * block + 16].as_ptr();
                        // SAFETY: 16 codes of each row stand there, by the slice above.
                        unsafe { arrange(Rows { first, apart: block }) }
                    });
                    let signed = SIGNED_CODES && codes.zero == 128;
                    let at = |part: usize| if codes.sub == 16 { 2 * i + part } else { i };
                    out(b * block / 32 + i, Columns {
                        codes: array!(splat_i(0); k => if signed { flip(halves[k / 4][k % 4]) } else { halves[k / 4][k % 4] }),
                        scales: [load_from(&scales[at(0)]), load_from(&scales[at(1)])],
                        mins: [load_from(&mins[at(0)]), load_from(&mins[at(1)])],
                    });
                }
            }
        }

        /// All blocks of format `ID`, 32 columns at a time; `ANY` is a format without a function of its own.
        $(#[target_feature(enable = $feature)])+
        #[inline]
        fn unpack<const ID: u32, const PRELOAD: bool>(w: &Matrix, blocks: &Blocks<false>, out: &mut impl FnMut(usize, Columns)) {
            match ID {
                10 => unpack_q2_k(blocks, out),
                11 => unpack_q3_k(blocks, out),
                12 => unpack_k::<false, PRELOAD>(blocks, out),
                // Its fifth bits occupy the registers.
                13 => unpack_k::<true, false>(blocks, out),
                14 => unpack_q6_k(blocks, out),
                23 => unpack_iq4_xs(blocks, out),
                ANY => unpack_any(w, blocks, out),
                _ => unpack_simple::<ID, false, PRELOAD>(blocks, out),
            }
        }

        /// The formats whose rows can be interleaved.
        $(#[target_feature(enable = $feature)])+
        #[inline]
        fn unpack_simple<const ID: u32, const T: bool, const PRELOAD: bool>(blocks: &Blocks<T>, out: &mut impl FnMut(usize, Columns)) {
            match ID {
                2 => unpack_nibbles::<false, false, false, T, PRELOAD>(blocks, out),
                3 => unpack_nibbles::<true, false, false, T, PRELOAD>(blocks, out),
                6 => unpack_nibbles::<false, true, false, T, PRELOAD>(blocks, out),
                7 => unpack_nibbles::<true, true, false, T, PRELOAD>(blocks, out),
                8 => unpack_q8_0::<T, PRELOAD>(blocks, out),
                20 => unpack_nibbles::<false, false, true, T, PRELOAD>(blocks, out),
                _ => unreachable!("a format of its own"),
            }
        }

        const ANY: u32 = u32::MAX;
    };
}
pub(super) use unpacking;
