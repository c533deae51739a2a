//! Which instruction sets there are, and what compiles the kernels for each.
//!
//! `backend!` compiles kernels with the features of one instruction set and makes the check that they are there from
//! the same list; `others!` compiles bodies of `body.rs` again. `products!` is the one source of the tiled products over 16 lanes; an
//! instruction set gives it the operations on those lanes.

#[cfg(target_arch = "x86_64")]
use super::{Acts8, Scratch, Tile, View, body};
use super::{Kernels, PLAIN};
use crate::error::{Error, Result};
#[cfg(target_arch = "x86_64")]
use crate::quant::Matrix;
#[cfg(target_arch = "x86_64")]
use core::ops::Range;
use std::prelude::v1::*;

/// A safe function around one compiled with target features.
#[cfg(target_arch = "x86_64")]
macro_rules! compiled {
    ([$($feature:tt)+] $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)? = $body:path) => {
        fn $name($($arg: $type),*) $(-> $result)? {
            $(#[target_feature(enable = $feature)])+
            fn inner($($arg: $type),*) $(-> $result)? {
                $body($($arg),*)
            }
            // SAFETY: the table that holds this function is handed out only where `runs` found the features.
            unsafe { inner($($arg),*) }
        }
    };
}

/// One instruction set: its name, its features, the module with its products, and the table of the other kernels.
#[cfg(target_arch = "x86_64")]
macro_rules! backend {
    ($module:ident $name:literal [$($feature:tt)+] $hand:path, $others:path) => {
        backend!(@ $module $name [$($feature)+] [$($feature)+] $hand, $others);
    };
    (@ $module:ident $name:literal $features:tt [$($feature:tt)+] $hand:path, $others:path) => {
        #[allow(unsafe_code)]
        mod $module {
            use super::*;
            use $hand as hand;

            pub(super) static KERNELS: Kernels = Kernels { name: $name, dots, sums, outer, int_dots, ..$others };

            /// Whether this machine (without the standard library: this build) has the features.
            pub(super) fn runs() -> bool {
                #[cfg(feature = "std")]
                return true $(&& std::arch::is_x86_feature_detected!($feature))+;
                #[cfg(not(feature = "std"))]
                return true $(&& cfg!(target_feature = $feature))+;
            }

            compiled!($features dots(x: View, w: View, y: &mut Tile) = hand::dots);
            compiled!($features sums(a: View, w: View, y: &mut Tile) = hand::sums);
            compiled!($features outer(a: View, b: View, y: &mut Tile) = hand::outer);
            compiled!($features int_dots(w: &Matrix, rows: Range<usize>, x: &Acts8, y: &mut Tile, s: &mut Scratch) = hand::int_dots);
        }
    };
}

/// The kernels that are not products, compiled from `body.rs` with the features.
#[cfg(target_arch = "x86_64")]
macro_rules! others {
    ($module:ident $features:tt) => {
        #[allow(unsafe_code)]
        mod $module {
            use super::*;

            pub(super) const TABLE: Kernels = Kernels {
                decode,
                quantize,
                exp,
                softmax,
                silu_mul,
                silu_mul_backward,
                widen,
                narrow,
                ..body::PLAIN
            };

            compiled!($features decode(w: &Matrix, rows: Range<usize>, cols: Range<usize>, out: &mut [f32]) = body::decode);
            compiled!($features quantize(x: View, row: usize, out: &mut Acts8) = body::quantize);
            compiled!($features exp(x: &mut [f32]) = body::exp);
            compiled!($features softmax(x: &mut [f32]) -> f32 = body::softmax);
            compiled!($features silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) = body::silu_mul);
            compiled!($features silu_mul_backward(gate: &mut [f32], up: &mut [f32], d: &[f32]) = body::silu_mul_backward);
            compiled!($features widen(x: &[u16], out: &mut [f32]) = crate::kernel::x86::widen);
            compiled!($features narrow(x: &[f32], out: &mut [u16]) = body::narrow);
        }
    };
}

// The compiler's vectors of 256 bits serve both: with 512 some decoders came out at half the speed.
#[cfg(target_arch = "x86_64")]
others!(avx2_others ["avx2" "fma" "f16c"]);
#[cfg(target_arch = "x86_64")]
backend!(avx2 "avx2" ["avx2" "fma" "f16c"] crate::kernel::x86::avx2, avx2_others::TABLE);
#[cfg(target_arch = "x86_64")]
backend!(avx512 "avx512" ["avx2" "fma" "f16c" "avx512f" "avx512bw" "avx512vl" "avx512dq" "avx512vnni"]
    crate::kernel::x86::avx512, avx2_others::TABLE);

/// Every backend that runs on this machine, plain first and the fastest last. Without the standard library: what this
/// build was compiled for.
pub fn available() -> Vec<&'static Kernels> {
    #[allow(unused_mut, reason = "some targets have the plain backend alone")]
    let mut all = vec![&PLAIN];
    #[cfg(target_arch = "x86_64")]
    for (runs, kernels) in [(avx2::runs(), &avx2::KERNELS), (avx512::runs(), &avx512::KERNELS)] {
        if runs {
            all.push(kernels);
        }
    }
    all
}

/// The fastest backend of this machine.
pub fn best() -> &'static Kernels {
    available().last().copied().unwrap_or(&PLAIN)
}

/// The backend of that name.
///
/// # Errors
/// `Invalid` if there is none or it does not run here; the message lists those that do.
pub fn by_name(name: &str) -> Result<&'static Kernels> {
    let all = available();
    all.iter().copied().find(|k| k.name == name).ok_or_else(|| {
        let names: Vec<&str> = all.iter().map(|k| k.name).collect();
        Error::invalid("backend", format!("{}; this machine runs {}", crate::error::printable(name), names.join(", ")))
    })
}

/// The backend that the environment variable `MYNAH_BACKEND` names, or the fastest.
///
/// # Errors
/// As [`by_name`].
#[cfg(feature = "std")]
pub fn from_env() -> Result<&'static Kernels> {
    match std::env::var_os("MYNAH_BACKEND") {
        Some(name) => by_name(&name.to_string_lossy()),
        None => Ok(best()),
    }
}

/// Columns that `products!` unpacks at a time: their codes, scales and mins stay in the L1 cache.
#[cfg(target_arch = "x86_64")]
pub(super) const CHUNK: usize = 512;

/// 16 rows of integer weights: 4 neighbouring codes of row 0, of row 1, …, then the next 4; a scale and a min a row.
#[cfg(target_arch = "x86_64")]
#[repr(align(64))]
pub(super) struct Panel {
    pub(super) codes: [[u8; 64]; CHUNK / 4],
    pub(super) scales: [[f32; 16]; CHUNK / 16],
    pub(super) mins: [[f32; 16]; CHUNK / 16],
}

/// The products over 16 lanes, from these operations of the surrounding module: types `F` (16 floats) and `I` (16 `i32`,
/// or 64 bytes), `load`, `store`, `splat`, `fma`, `mul`, `add`, `sum` (the lanes of `DOT_W` registers), `load_i`,
/// `store_i`, `splat_i`, `to_float`, `int_dot` (adds 4 products a lane), `transpose` (16 bytes of 16 rows to panel order),
/// `dwords` (4 bytes of 16 rows), `and`, `or`, `shl`, `shr`, `byte`, `signed_byte`, `low_nibbles`, `high_nibbles`, `flip`
/// (bytes with their top bit inverted), `bits_to_16`, `low_halves` and `high_halves` (of each lane, to float), `few` (products of few rows without a panel);
/// and the sizes of register tiles.
#[cfg(target_arch = "x86_64")]
macro_rules! products {
    ($($feature:tt)+) => {
        use crate::kernel::backend::{CHUNK, Panel};
        use crate::kernel::{Acts8, Scratch, Tile, View};
        use crate::math;
        use crate::quant::{self, Matrix};
        use core::ops::Range;

        /// Rows `i..i + M` of `x` with rows `j..j + N` of `w`.
        $(#[target_feature(enable = $feature)])+
        fn dot_tile<const M: usize, const N: usize>(x: View, i: usize, w: View, j: usize, y: &mut Tile) {
            let (xs, ws): ([&[f32]; M], [&[f32]; N]) =
                (core::array::from_fn(|m| x.row(i + m)), core::array::from_fn(|n| w.row(j + n)));
            let c = x.c;
            assert!(w.c == c, "rows of {c} with rows of {}", w.c);
            let mut acc = [[splat(0.0); N]; M];
            let mut k = 0;
            while k + 16 <= c {
                // SAFETY: every row has `c` values.
                unsafe {
                    let b: [F; N] = core::array::from_fn(|n| load(ws[n].as_ptr().add(k)));
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
            let rows: [*mut f32; R] = core::array::from_fn(|r| y.row(i + r)[at..].as_mut_ptr());
            // SAFETY: `16 · V` columns from `at` lie in `w` and `y`, and the last left factor in its data; checked above.
            unsafe {
                let mut acc: [[F; V]; R] =
                    core::array::from_fn(|r| core::array::from_fn(|v| load(rows[r].add(16 * v))));
                for k in ks {
                    let right = w.data.as_ptr().add(k * w.stride + at);
                    let b: [F; V] = core::array::from_fn(|v| load(right.add(16 * v)));
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

        /// Where 16 rows of blocks stand; rows past the last repeat it.
        struct Blocks<'a> {
            data: &'a [u8],
            starts: [usize; 16],
        }

        impl Blocks<'_> {
            /// The bytes from `at` on in each row.
            ///
            /// # Safety
            /// 16 bytes are read there.
            #[inline(always)]
            unsafe fn from(&self, at: usize) -> [*const u8; 16] {
                // SAFETY: the caller's promise.
                unsafe { self.starts.map(|start| self.data.as_ptr().add(start + at)) }
            }
        }

        /// Bit `j` of each byte, as bit 4.
        $(#[target_feature(enable = $feature)])+
        #[inline]
        fn fifth(x: I, j: usize) -> I {
            and(if j < 4 { shl(x, 4 - j) } else { shr(x, j - 4) }, splat_i(0x1010_1010))
        }

        /// 32 bytes of 16 rows in panel order.
        ///
        /// # Safety
        /// They stand from byte `at` on in each row.
        $(#[target_feature(enable = $feature)])+
        #[inline]
        unsafe fn bytes32(blocks: &Blocks, at: usize) -> [I; 8] {
            // SAFETY: the caller's promise.
            let halves = unsafe { [transpose(blocks.from(at)), transpose(blocks.from(at + 16))] };
            let [[a, b, c, d], [e, f, g, h]] = halves;
            [a, b, c, d, e, f, g, h]
        }

        /// Q4_0, Q4_1, Q5_0, Q5_1.
        $(#[target_feature(enable = $feature)])+
        fn fill_nibbles(blocks: &Blocks, count: usize, bytes: usize, min: bool, five: bool, panel: &mut Panel) {
            let bits_at = if min { 4 } else { 2 };
            let packed_at = bits_at + if five { 4 } else { 0 };
            for (b, codes) in panel.codes.as_chunks_mut::<8>().0.iter_mut().take(count).enumerate() {
                let at = b * bytes;
                // SAFETY: these formats have a dword with the scale, one with the bits, and 16 bytes of nibbles inside a
                // block, and `fill` checked that `count` blocks lie in each row.
                let (head, bits, packed) = unsafe {
                    (
                        dwords(blocks.from(at)),
                        dwords(blocks.from(at + bits_at)),
                        transpose(blocks.from(at + packed_at)),
                    )
                };
                store_to(&mut panel.scales[b], low_halves(head));
                if min {
                    store_to(&mut panel.mins[b], high_halves(head));
                }
                for k in 0..8 {
                    let q = if k < 4 { low_nibbles(packed[k]) } else { high_nibbles(packed[k - 4]) };
                    store_i(&mut codes[k], if five { or(q, bits_to_16(bits, k)) } else { q });
                }
            }
        }

        $(#[target_feature(enable = $feature)])+
        fn fill_q8_0(blocks: &Blocks, count: usize, signed: bool, panel: &mut Panel) {
            for (b, codes) in panel.codes.as_chunks_mut::<8>().0.iter_mut().take(count).enumerate() {
                // SAFETY: a block has 34 bytes, and `fill` checked that `count` of them lie in each row.
                let (head, q) = unsafe { (dwords(blocks.from(b * 34)), bytes32(blocks, b * 34 + 2)) };
                store_to(&mut panel.scales[b], low_halves(head));
                for k in 0..8 {
                    store_i(&mut codes[k], if signed { q[k] } else { flip(q[k]) });
                }
            }
        }

        /// Q4_K, Q5_K.
        $(#[target_feature(enable = $feature)])+
        fn fill_k<const FIVE: bool>(blocks: &Blocks, count: usize, panel: &mut Panel) {
            let (bytes, packed_at) = if FIVE { (176, 48) } else { (144, 16) };
            for b in 0..count {
                let at = b * bytes;
                // SAFETY: a block begins with 16 bytes of scales, and `fill` checked that `count` of them lie in each row.
                let [head, s, m, both] = unsafe { transpose(blocks.from(at)) };
                let (d, dmin) = (low_halves(head), mul(high_halves(head), splat(-1.0)));
                let (six, two) = (splat_i(0x3f3f_3f3f), splat_i(0x3030_3030));
                let scales = [and(s, six), or(low_nibbles(both), and(shr(s, 2), two))];
                let mins = [and(m, six), or(high_nibbles(both), and(shr(m, 2), two))];
                for i in 0..8 {
                    store_to(&mut panel.scales[8 * b + i], mul(d, to_float(byte(scales[i / 4], i % 4))));
                    store_to(&mut panel.mins[8 * b + i], mul(dmin, to_float(byte(mins[i / 4], i % 4))));
                }
                let bits = if FIVE {
                    // SAFETY: in Q5_K 32 bytes of fifth bits follow the scales.
                    unsafe { bytes32(blocks, at + 16) }
                } else {
                    [splat_i(0); 8]
                };
                let codes: &mut [[u8; 64]; 64] = (&mut panel.codes[64 * b..64 * b + 64]).try_into().expect("64 rows");
                for j in 0..4 {
                    // SAFETY: the block ends with 128 bytes of nibbles.
                    let packed = unsafe { bytes32(blocks, at + packed_at + 32 * j) };
                    for k in 0..8 {
                        let (mut low, mut high) = (low_nibbles(packed[k]), high_nibbles(packed[k]));
                        if FIVE {
                            (low, high) = (or(low, fifth(bits[k], 2 * j)), or(high, fifth(bits[k], 2 * j + 1)));
                        }
                        store_i(&mut codes[16 * j + k], low);
                        store_i(&mut codes[16 * j + 8 + k], high);
                    }
                }
            }
        }

        $(#[target_feature(enable = $feature)])+
        fn fill_q6_k(blocks: &Blocks, count: usize, panel: &mut Panel) {
            for b in 0..count {
                let at = b * 210;
                // SAFETY: bytes 192..208 of a block of 210 are scales, the last two the half that scales them, and `fill`
                // checked that `count` blocks lie in each row.
                let (scales, last) = unsafe { (transpose(blocks.from(at + 192)), dwords(blocks.from(at + 206))) };
                let d = high_halves(last);
                for i in 0..16 {
                    store_to(&mut panel.scales[16 * b + i], mul(d, to_float(signed_byte(scales[i / 4], i % 4))));
                }
                let codes: &mut [[u8; 64]; 64] = (&mut panel.codes[64 * b..64 * b + 64]).try_into().expect("64 rows");
                for half in 0..2 {
                    // SAFETY: 64 bytes of nibbles for each half of the block, then 32 bytes of upper bits for each.
                    let (first, second, bits) = unsafe {
                        (
                            bytes32(blocks, at + 64 * half),
                            bytes32(blocks, at + 64 * half + 32),
                            bytes32(blocks, at + 128 + 32 * half),
                        )
                    };
                    let upper = splat_i(0x3030_3030);
                    for k in 0..8 {
                        let at = 32 * half + k;
                        store_i(&mut codes[at], or(low_nibbles(first[k]), and(shl(bits[k], 4), upper)));
                        store_i(&mut codes[at + 8], or(low_nibbles(second[k]), and(shl(bits[k], 2), upper)));
                        store_i(&mut codes[at + 16], or(high_nibbles(first[k]), and(bits[k], upper)));
                        store_i(&mut codes[at + 24], or(high_nibbles(second[k]), and(shr(bits[k], 2), upper)));
                    }
                }
            }
        }

        /// Any format, block by block through its codes.
        $(#[target_feature(enable = $feature)])+
        fn fill_any(w: &Matrix, blocks: &Blocks, count: usize, signed: bool, panel: &mut Panel) {
            let format = w.format;
            let codes = format.codes.as_ref().expect("a format with codes");
            let (block, per) = (format.block, format.block / codes.sub);
            let min = if codes.min { per } else { 0 };
            let mut q = [0; 16 * 256];
            for b in 0..count {
                for r in 0..16 {
                    let (mut scales, mut mins) = ([0.0; 16], [0.0; 16]);
                    let bytes = &blocks.data[blocks.starts[r] + b * format.bytes..][..format.bytes];
                    let q = &mut q[r * block..][..block];
                    quant::unpack_inline(format.id, bytes, q, &mut scales[..per], &mut mins[..min]);
                    for s in 0..per {
                        panel.scales[b * per + s][r] = scales[s];
                    }
                    for s in 0..min {
                        panel.mins[b * per + s][r] = mins[s];
                    }
                }
                let out = panel.codes[b * block / 4..][..block / 4].as_chunks_mut::<4>().0;
                for (part, out) in out.iter_mut().enumerate() {
                    let rows = core::array::from_fn(|r| q[r * block + 16 * part..][..16].as_ptr());
                    // SAFETY: 16 codes stand there, by the slice above.
                    let codes = unsafe { transpose(rows) };
                    for k in 0..4 {
                        store_i(&mut out[k], if signed { flip(codes[k]) } else { codes[k] });
                    }
                }
            }
        }

        /// Fills the panel with columns `cols` of 16 rows. `signed`: as signed codes, their zero at 0.
        $(#[target_feature(enable = $feature)])+
        fn fill(w: &Matrix, rows: Range<usize>, cols: Range<usize>, signed: bool, panel: &mut Panel) {
            let format = w.format;
            let (data, row_bytes) = (w.rows_bytes(rows.clone()), w.row_bytes());
            let first = cols.start / format.block * format.bytes;
            let count = cols.len() / format.block;
            assert!(first + count * format.bytes <= row_bytes, "columns of a matrix");
            let starts = core::array::from_fn(|r| r.min(rows.len() - 1) * row_bytes + first);
            let blocks = Blocks { data, starts };
            match format.name {
                "Q4_0" => fill_nibbles(&blocks, count, 18, false, false, panel),
                "Q4_1" => fill_nibbles(&blocks, count, 20, true, false, panel),
                "Q5_0" => fill_nibbles(&blocks, count, 22, false, true, panel),
                "Q5_1" => fill_nibbles(&blocks, count, 24, true, true, panel),
                "Q8_0" => fill_q8_0(&blocks, count, signed, panel),
                "Q4_K" => fill_k::<false>(&blocks, count, panel),
                "Q5_K" => fill_k::<true>(&blocks, count, panel),
                "Q6_K" => fill_q6_k(&blocks, count, panel),
                _ => fill_any(w, &blocks, count, signed, panel),
            }
        }

        /// Sums so far of one row of activations with 16 rows of weights: scaled, and those of the mins.
        type Sums = [[f32; 16]; 2];

        /// Goes on with rows `i..i + M` of the activations over the panel, which holds columns `cols`.
        $(#[target_feature(enable = $feature)])+
        fn int_tile<const M: usize, const SUB: usize, const MIN: bool, const SIGNED: bool>(
            panel: &Panel,
            cols: Range<usize>,
            zero: i32,
            x: &Acts8,
            i: usize,
            sums: &mut [Sums],
        ) {
            let sums: &mut [Sums; M] = (&mut sums[i..i + M]).try_into().expect("M rows");
            let parts = cols.start / 16..cols.end / 16;
            let q: [&[i8]; M] = core::array::from_fn(|m| &x.q[(i + m) * x.c..][cols.clone()]);
            let d: [&[f32]; M] = core::array::from_fn(|m| &x.d[(i + m) * x.c / 16..][parts.clone()]);
            let s: [&[i32]; M] = core::array::from_fn(|m| &x.s[(i + m) * x.c / 16..][parts.clone()]);
            let mut acc: [F; M] = core::array::from_fn(|m| load_from(&sums[m][0]));
            let mut low: [F; M] = core::array::from_fn(|m| load_from(&sums[m][1]));
            let count = cols.len() / SUB;
            assert!(count * SUB <= CHUNK && cols.len() % 32 == 0, "columns of a panel");
            for b in 0..count {
                let mut scaled = [splat(0.0); M];
                let mut totals = [0.0; M];
                for part in b * (SUB / 16)..(b + 1) * (SUB / 16) {
                    // SAFETY: `b` is below `count`, and the slices above hold that many blocks, scales and sums.
                    unsafe {
                        let total: [i32; M] = core::array::from_fn(|m| *s[m].as_ptr().add(part));
                        let mut ints: [I; M] =
                            core::array::from_fn(|m| splat_i(if SIGNED { 0 } else { -zero * total[m] }));
                        for k in 4 * part..4 * part + 4 {
                            let codes = load_i(panel.codes.as_ptr().add(k));
                            for m in 0..M {
                                let four = q[m].as_ptr().add(4 * k).cast::<i32>().read_unaligned();
                                ints[m] = int_dot::<SIGNED>(ints[m], codes, four);
                            }
                        }
                        for m in 0..M {
                            let d = *d[m].as_ptr().add(part);
                            scaled[m] = fma(splat(d), to_float(ints[m]), scaled[m]);
                            if MIN {
                                totals[m] = math::fma(d, total[m] as f32, totals[m]);
                            }
                        }
                    }
                }
                let scale = load_from(&panel.scales[b]);
                for m in 0..M {
                    acc[m] = fma(scale, scaled[m], acc[m]);
                    if MIN {
                        low[m] = fma(load_from(&panel.mins[b]), splat(totals[m]), low[m]);
                    }
                }
            }
            for m in 0..M {
                store_to(&mut sums[m][0], acc[m]);
                store_to(&mut sums[m][1], low[m]);
            }
        }

        $(#[target_feature(enable = $feature)])+
        fn int_rows<const SUB: usize, const MIN: bool, const SIGNED: bool>(
            panel: &Panel,
            cols: Range<usize>,
            zero: i32,
            x: &Acts8,
            sums: &mut [Sums],
        ) {
            let mut i = 0;
            while i < x.rows() {
                let left = x.rows() - i;
                i += if left >= INT_X {
                    int_tile::<INT_X, SUB, MIN, SIGNED>(panel, cols.clone(), zero, x, i, sums);
                    INT_X
                } else if left >= 2 {
                    int_tile::<2, SUB, MIN, SIGNED>(panel, cols.clone(), zero, x, i, sums);
                    2
                } else {
                    int_tile::<1, SUB, MIN, SIGNED>(panel, cols.clone(), zero, x, i, sums);
                    1
                };
            }
        }

        $(#[target_feature(enable = $feature)])+
        pub(in crate::kernel) fn int_dots(w: &Matrix, rows: Range<usize>, x: &Acts8, y: &mut Tile, scratch: &mut Scratch) {
            let codes = w.format.codes.as_ref().expect("a format with codes");
            assert!(x.c == w.cols && w.cols % 32 == 0, "activations of {} columns for {}", x.c, w.cols);
            assert!(CHUNK.is_multiple_of(w.format.block), "blocks in a panel");
            if few(w, rows.clone(), x, y) {
                return;
            }
            let signed = SIGNED_CODES && codes.zero == 128;
            let zero = codes.zero as i32;
            let mut panel =
                Panel { codes: [[0; 64]; CHUNK / 4], scales: [[0.0; 16]; CHUNK / 16], mins: [[0.0; 16]; CHUNK / 16] };
            let sums = scratch.floats(32 * x.rows()).as_chunks_mut::<16>().0.as_chunks_mut::<2>().0;
            for first in rows.clone().step_by(16) {
                let group = first..(first + 16).min(rows.end);
                sums.fill([[0.0; 16]; 2]);
                for start in (0..w.cols).step_by(CHUNK) {
                    let cols = start..(start + CHUNK).min(w.cols);
                    fill(w, group.clone(), cols.clone(), signed, &mut panel);
                    match (codes.sub, codes.min, signed) {
                        (32, false, false) => int_rows::<32, false, false>(&panel, cols, zero, x, sums),
                        (32, true, _) => int_rows::<32, true, false>(&panel, cols, zero, x, sums),
                        (32, false, true) => int_rows::<32, false, SIGNED_CODES>(&panel, cols, zero, x, sums),
                        (_, false, _) => int_rows::<16, false, false>(&panel, cols, zero, x, sums),
                        (_, true, _) => int_rows::<16, true, false>(&panel, cols, zero, x, sums),
                    }
                }
                let at = first - rows.start;
                for (i, [acc, low]) in sums.iter().enumerate() {
                    let out = &mut y.row(i % x.n)[at..at + group.len()];
                    for (r, out) in out.iter_mut().enumerate() {
                        *out = if i < x.n { acc[r] + low[r] } else { *out + (acc[r] + low[r]) };
                    }
                }
            }
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(super) use products;
