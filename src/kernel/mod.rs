//! The arithmetic, for each instruction set.
//!
//! [`Kernels`] is a table of function pointers, one table per backend. [`best`] picks one for this machine and
//! [`available`] lists all that run here. `body.rs` has every kernel in plain Rust over a fixed number of lanes;
//! `backend.rs` compiles these bodies for each instruction set; `x86.rs`, `arm.rs` and `wasm.rs` have the kernels that
//! are written by hand. `pool.rs` divides an output among threads.
//!
//! # Numeric contract
//! A result depends on the inputs only: not on the backend, the number of threads, or which rows are computed together.
//!
//! * [`Kernels::dots`]: 16 lanes; lane `l` starts at 0 and adds `x[k]·w[k]` for `k = l, l+16, …` by fused multiply-add;
//!   the lanes are summed as a tree: `l` with `l+8`, then `+4`, `+2`, `+1`.
//! * [`Kernels::sums`], [`Kernels::outer`]: for each output one chain of fused multiply-adds in the order of the inner
//!   index, starting from the value that the output has.
//! * [`Kernels::int_dots`]: for each block of weights that share a scale, in order: `t = Σ d · sum` over its parts that
//!   share a scale of activations, each `sum` an exact integer, the first a product and the next by fused multiply-add;
//!   then `acc = fma(scale, t, acc)` and, for formats with a minimum, `low = fma(min, Σ d · Σ q, low)` with the inner
//!   sum computed likewise; the output is `acc`, or `acc + low` with a minimum.
//! * [`Kernels::int16_dots`]: 16 lanes; lane `l` starts at 0; for each piece of [`Int16Layout`] in order `acc = fma(d,
//!   sum, acc)` with the exact integer sum of the products of columns `l` and `l + 16` of each 32; the lanes are summed
//!   as above, and the output is this sum times `u`. A row with a weight that is not finite, or of 2¹¹⁸ or more, gives
//!   NaN.
//! * WebAssembly has no fused multiply-add: there `fma(a, b, c)` rounds twice. Its relaxed one, which may round once or
//!   twice, is not used. A scale of Q4_0 or Q8_0 that is NaN is treated as an infinity.

#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
mod arm;
mod backend;
pub mod body;
#[allow(unused, reason = "some targets have the plain backend alone")]
mod floats;
#[allow(unused, reason = "some targets have the plain backend alone")]
mod floats16;
#[cfg(any(
    all(target_arch = "aarch64", target_feature = "neon"),
    all(target_arch = "wasm32", target_feature = "simd128")
))]
mod four;
#[allow(unused, reason = "some targets have the plain backend alone")]
mod ints;
#[cfg(target_arch = "x86_64")]
mod levels;
#[allow(unused, reason = "some targets have the plain backend alone")]
mod unpack;
#[allow(unused, reason = "some targets have the plain backend alone")]
mod int16;
pub mod peak;
pub mod pool;
#[allow(unused, reason = "some targets have the plain backend alone")]
mod stored;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::quant::{Floats16, Matrix};
use core::ops::Range;
use core::sync::atomic::AtomicU8;
use std::prelude::v1::*;

#[cfg(feature = "std")]
pub use backend::from_env;
pub use backend::best;
#[cfg(feature = "internals")]
pub use backend::{available, by_name};
#[cfg(feature = "std")]
pub use pool::Seat;
pub use pool::{Buffer, Pool, Scratch, Tile};

/// A read-only matrix of `f32`: `n` rows of `c` values, `stride` apart.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The values; row `i` starts at `i · stride`.
    pub data: &'a [f32],
    /// Rows.
    pub n: usize,
    /// Columns.
    pub c: usize,
    /// Distance of rows.
    pub stride: usize,
}

impl<'a> View<'a> {
    /// `n` rows of `c` values without gaps.
    pub fn new(data: &'a [f32], n: usize, c: usize) -> Self {
        Self::strided(data, n, c, c)
    }

    /// # Panics
    /// If `data` is too short.
    pub fn strided(data: &'a [f32], n: usize, c: usize, stride: usize) -> Self {
        assert!(
            n == 0 || (n - 1) * stride + c <= data.len(),
            "view of {n} × {c}, stride {stride}, in {} values",
            data.len()
        );
        View { data, n, c, stride }
    }

    /// Row `i`.
    #[inline(always)]
    pub fn row(&self, i: usize) -> &'a [f32] {
        &self.data[i * self.stride..i * self.stride + self.c]
    }

    /// Rows `range`.
    pub fn rows(&self, range: Range<usize>) -> Self {
        View { data: &self.data[range.start * self.stride..], n: range.len(), ..*self }
    }

    /// Columns `range` of every row.
    pub fn cols(&self, range: Range<usize>) -> Self {
        View { data: &self.data[range.start..], c: range.len(), ..*self }
    }
}

/// Rows rounded to integers, `x ≈ d · q`: the inputs of a linear layer at int8 precision. Narrow codes have 8
/// bits in blocks of 16, half as long as ggml's. Their scales minimise the rounding error, which is smaller than
/// ggml's. Wide codes have 12 bits in blocks of 32 and nearly no error. A wide code is `16 · high + low`; both parts
/// are stored as bytes, so that byte instructions multiply them.
#[derive(Default, Clone)]
pub struct QActs {
    /// Rows.
    pub n: usize,
    /// Columns, a multiple of 32.
    pub c: usize,
    /// Whether codes have 12 bits.
    pub wide: bool,
    /// Codes −127..127, `[n, c]`, or `high` −120..120 and then `low` −8..7 of codes −1927..1927, `[2, n, c]`.
    pub q: Vec<i8>,
    /// Scales, `[n, c / 16]`; two neighbouring ones of wide codes are equal.
    pub d: Vec<f32>,
    /// Sums of 16 neighbouring codes, `[n, c / 16]`.
    pub s: Vec<i32>,
    /// Sums of 32 neighbouring rounded values, `Σ d · s` in order, or `d · Σ s` for wide codes, `[n, c / 32]`.
    pub low: Vec<f32>,
}

impl QActs {
    /// Room for `n` rows of `c` values, narrow or wide.
    pub fn resize(&mut self, n: usize, c: usize, wide: bool) {
        assert!(c.is_multiple_of(32), "columns {c} in blocks of 32");
        /// Grows to exactly this length if it is shorter.
        fn fit<T: Clone + Default>(all: &mut Vec<T>, len: usize) {
            if all.capacity() < len {
                *all = Vec::new();
                all.reserve_exact(len);
            }
            all.resize(len, T::default());
        }
        (self.n, self.c, self.wide) = (n, c, wide);
        fit(&mut self.q, if wide { 2 * n * c } else { n * c });
        fit(&mut self.d, n * c / 16);
        fit(&mut self.s, n * c / 16);
        fit(&mut self.low, n * c / 32);
    }

    /// Bytes of `n` rows of `c` values, narrow or wide.
    pub fn bytes(n: usize, c: usize, wide: bool) -> usize {
        n * (if wide { 2 * c } else { c } + 2 * (c / 4) + c / 8)
    }

    /// Row `i`, to be written.
    pub fn row(&mut self, i: usize) -> QRow<'_> {
        let (n, c) = (self.n, self.c);
        let (first, second) = self.q.split_at_mut(n * c);
        QRow {
            q: &mut first[i * c..][..c],
            low_q: second.get_mut(i * c..i * c + c).unwrap_or_default(),
            d: &mut self.d[i * c / 16..][..c / 16],
            s: &mut self.s[i * c / 16..][..c / 16],
            low: &mut self.low[i * c / 32..][..c / 32],
        }
    }

    /// Code `k` of row `i`.
    #[inline(always)]
    pub fn code(&self, i: usize, k: usize) -> i32 {
        let q = self.q[i * self.c + k] as i32;
        if self.wide { 16 * q + self.q[(self.n + i) * self.c + k] as i32 } else { q }
    }
}

/// One row of [`QActs`].
pub struct QRow<'a> {
    /// Codes, or their high parts, `[c]`.
    pub q: &'a mut [i8],
    /// Low parts of wide codes, `[c]`, or nothing.
    pub low_q: &'a mut [i8],
    /// Scales, `[c / 16]`.
    pub d: &'a mut [f32],
    /// Sums of codes, `[c / 16]`.
    pub s: &'a mut [i32],
    /// Sums of values, `[c / 32]`.
    pub low: &'a mut [f32],
}

impl QRow<'_> {
    /// Whether codes have 12 bits.
    pub fn wide(&self) -> bool {
        !self.low_q.is_empty()
    }
}

/// Values that share a scale in [`Stored::Q8`].
pub const CODES: usize = 32;

/// Rows of a cache of keys or values, without gaps.
#[derive(Clone, Copy)]
pub enum Stored<'a> {
    /// F16 bits.
    F16(&'a [u16]),
    /// Codes −127..127, and a scale as f16 bits for each [`CODES`] values of a row, the last group may be shorter. A
    /// value is the product of both, which is exact.
    Q8 {
        /// `[n, c]`.
        codes: &'a [i8],
        /// `[n, ⌈c / 32⌉]`.
        scales: &'a [u16],
    },
}

impl<'a> Stored<'a> {
    /// Whether there are `n` rows of `c` values.
    pub fn holds(&self, n: usize, c: usize) -> bool {
        match self {
            Stored::F16(data) => data.len() >= n * c,
            Stored::Q8 { codes, scales } => codes.len() >= n * c && scales.len() >= n * c.div_ceil(CODES),
        }
    }

    /// Rows `range` of those with `c` values.
    pub fn rows(&self, range: Range<usize>, c: usize) -> Self {
        let per = c.div_ceil(CODES);
        match *self {
            Stored::F16(data) => Stored::F16(&data[range.start * c..range.end * c]),
            Stored::Q8 { codes, scales } => Stored::Q8 {
                codes: &codes[range.start * c..range.end * c],
                scales: &scales[range.start * per..range.end * per],
            },
        }
    }
}

/// Prefetches the cache line at `p`, which need not be valid, into the nearest cache or the next one. Does nothing
/// where there is no such instruction.
#[inline(always)]
#[allow(unused, reason = "some targets have the plain backend alone")]
fn prefetch(p: *const u8, near: bool) {
    #[cfg(target_arch = "x86_64")]
    x86::prefetch(p, near);
    #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
    arm::lanes::prefetch(p, near);
}

/// The layout of a row of activations as 16-bit integers: 16 scales for each piece of its columns, then the codes, 32
/// at a time. Column `k` has scale `k mod 16`. Of each 32 columns, the two that share a scale are neighbours, unless a
/// backend has its own order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Int16Layout {
    /// Groups of 32 columns.
    pub count: usize,
    /// Pieces: as few and as equal as 32-bit sums allow.
    pub pieces: usize,
    /// Groups in a piece; the last piece may have fewer.
    pub each: usize,
}

impl Int16Layout {
    /// The layout of `c` columns.
    pub fn of(c: usize) -> Self {
        /// Most groups in a piece.
        const MOST: usize = 24;
        let count = c.div_ceil(32);
        let each = count.div_ceil(count.div_ceil(MOST).max(1));
        Int16Layout { count, pieces: count.div_ceil(each.max(1)), each }
    }

    /// Size of a row in floats.
    pub fn floats(&self) -> usize {
        16 * (self.pieces + self.count)
    }

    /// The groups of a piece.
    pub fn units(&self, piece: usize) -> Range<usize> {
        self.each * piece..(self.each * piece + self.each).min(self.count)
    }

    /// The largest code of activations. With it, and weights up to 2¹⁴, the sums of a lane over the longest piece, two
    /// products for each group, stay below 2³¹.
    pub fn level(&self) -> f32 {
        (0xffff / self.each.max(1)).min(0x7fff) as f32
    }
}

/// Every kernel of one backend.
pub struct Kernels {
    /// Its name, as in the environment variable `MYNAH_BACKEND`.
    pub name: &'static str,
    /// `y = x · wᵀ`. x: `[n, c]`, w: `[f, c]`, y: `[n, f]`.
    pub dots: fn(x: View, w: View, y: &mut Tile),
    /// [`Kernels::dots`] with 16-bit floats. w: `[f, c]`.
    pub float16_dots: fn(x: View, w: Floats16, y: &mut Tile),
    /// Up to this number of rows of activations, `float16_dots` is faster than decoding first.
    pub float16_rows: usize,
    /// Rounds a row to integers of up to 16 bits in the order of the same backend's `int16_dots`: `q = x / d` to the
    /// nearest, ties to even, with `d = max|x| / level`. Values that are not finite or too small for a scale are
    /// treated as in `quantize`. x: `[c]`, out: the [`Int16Layout`] of `c`.
    pub round_int16: fn(x: &[f32], out: &mut [f32]),
    /// `y = x · wᵀ` with 16-bit floats that are rounded to integers: `w / u` to the nearest, ties to even, with `u =
    /// 2^(e − 13)`, where `2^e` is below the largest magnitude of a row. `tops`: a number for each row that encodes
    /// `e`, or 0 where it is unknown; it is then computed and stored. x: rows from `round_int16`, w: `[f, c]`, y: `[n,
    /// f]`.
    pub int16_dots: fn(x: View, w: Floats16, c: usize, tops: &[AtomicU8], y: &mut Tile, scratch: &mut Scratch),
    /// `y += a · w`. a: `[n, k]`, w: `[k, c]`, y: `[n, c]`.
    pub sums: fn(a: View, w: View, y: &mut Tile),
    /// `y += aᵀ · b`. a: `[t, f]`, b: `[t, c]`, y: `[f, c]`.
    pub outer: fn(a: View, b: View, y: &mut Tile),
    /// [`Kernels::dots`] with rows of a cache. w: `[f, c]`.
    pub row_dots: fn(x: View, w: Stored, y: &mut Tile),
    /// [`Kernels::sums`] with rows of a cache. w: `[k, c]`.
    pub row_sums: fn(a: View, w: Stored, y: &mut Tile),
    /// Decodes columns `cols` (on block edges) of rows `rows` of a frozen matrix. out: `[rows, cols]` without gaps.
    pub decode: fn(w: &Matrix, rows: Range<usize>, cols: Range<usize>, out: &mut [f32]),
    /// Rounds a row to integers: `q = x / d` to the nearest, ties to even, with the scale `d = max|x| / level` of those
    /// levels in `body::LEVELS` that leaves the smallest squared error, or `d = max|x| / 1927` for wide codes. A block
    /// that is not finite has its largest magnitude as `d` and codes 0; one too small for a scale has scale and codes
    /// 0. x: `[c]`.
    pub quantize: fn(x: &[f32], out: QRow),
    /// Whether activations are always rounded to wide codes, because products with these are as fast.
    pub wide: bool,
    /// Rounds the columns of 32 rows to blocks of Q8_0, one a column: `d = max|x| / 127`, codes to the nearest, ties to
    /// even. x: `[32, c]`, `c` a multiple of 16, out: `[c, 34]`.
    pub round_columns: fn(x: View, out: &mut [u8]),
    /// `y = x · wᵀ` for rows `rows` of a matrix whose format has integer codes. x: `[n, c]`, y: `[n, rows]`. The bytes
    /// `next` are those that will probably be multiplied next; they may be prefetched and are not read.
    pub int_dots: fn(w: &Matrix, rows: Range<usize>, next: &[u8], x: &QActs, y: &mut Tile, scratch: &mut Scratch),
    /// `x = exp(x)`.
    pub exp: fn(x: &mut [f32]),
    /// `x = softmax(x)`; returns `ln Σ exp(x)`.
    pub softmax: fn(x: &mut [f32]) -> f32,
    /// `out = silu(gate) · up`.
    pub silu_mul: fn(gate: &[f32], up: &[f32], out: &mut [f32]),
    /// From `d = ∂L/∂out`: `dgate = d · up · silu′(gate)`, `dup = d · silu(gate)`. `gate` and `up` are overwritten by
    /// their gradients.
    pub silu_mul_backward: fn(gate: &mut [f32], up: &mut [f32], d: &[f32]),
    /// F16 bits to `f32`.
    pub widen: fn(x: &[u16], out: &mut [f32]),
    /// `f32` to the bits of the nearest f16, ties to even.
    pub narrow: fn(x: &[f32], out: &mut [u16]),
    /// A row of [`Stored::Q8`]: for each [`CODES`] values the scale `max|x| / 127` as f16, and codes to the nearest,
    /// ties to even. Values that are not finite give a scale that is not finite.
    pub code: fn(x: &[f32], codes: &mut [i8], scales: &mut [u16]),
    /// The values of a row that [`Kernels::code`] made.
    pub decode_codes: fn(codes: &[i8], scales: &[u16], out: &mut [f32]),
}

impl Kernels {
    /// The values of the first `n` rows of `w`. out: `[n, c]` without gaps.
    pub fn decode_stored(&self, w: Stored, c: usize, out: &mut [f32]) {
        match w {
            Stored::F16(data) => (self.widen)(&data[..out.len()], out),
            Stored::Q8 { codes, scales } => {
                let rows = codes.chunks_exact(c).zip(scales.chunks_exact(c.div_ceil(CODES)));
                for ((codes, scales), out) in rows.zip(out.chunks_exact_mut(c)) {
                    (self.decode_codes)(codes, scales, out);
                }
            }
        }
    }
}

/// The kernels of one backend and the threads that share the work.
#[derive(Clone)]
pub struct Compute {
    /// The backend.
    pub kernels: &'static Kernels,
    /// The threads.
    pub pool: Pool,
}

impl Compute {
    /// The fastest kernels of this machine and so many threads, the caller's own among them; 0 is one thread for each core
    /// that the process may use.
    ///
    /// ```
    /// let compute = mynah::Compute::best(2);
    /// assert!(!compute.kernels.name.is_empty());
    /// ```
    pub fn best(threads: usize) -> Compute {
        #[cfg(feature = "std")]
        let cores = || std::thread::available_parallelism().map_or(1, |n| n.get());
        #[cfg(not(feature = "std"))]
        let cores = || 1;
        Compute { kernels: best(), pool: Pool::new(if threads == 0 { cores() } else { threads }) }
    }

    /// Rounds every row of `x` to integers. `out` has room for them.
    pub fn quantize(&self, x: View, out: &mut QActs) {
        assert!(x.n == out.n && x.c == out.c, "shapes of rounded rows");
        self.pool.acts(out, &|i, row| (self.kernels.quantize)(x.row(i), row));
    }
}

/// The plain backend: the reference for all others.
pub static PLAIN: Kernels = body::PLAIN;
