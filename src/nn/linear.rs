//! Products with a frozen matrix, `y = x · Wᵀ` and `dx += dy · W`, and biases.

use crate::kernel::{Buffer, Compute, Int16Layout, Kernels, QActs, Tile, View};
use crate::quant::{Floats16, Format, Matrix};
use core::ops::Range;
use std::prelude::v1::*;
use std::sync::Arc;

/// The precision of products with a frozen matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// `f32` activations times decoded rows. Gradients of a pass at this precision are exact.
    F32,
    /// Integer products, where the format of the matrix allows them. Forward: activations are rounded to 8 or 12 bits and
    /// multiplied with the integer codes of the matrix; for an f16 or bf16 matrix both sides become 16-bit integers.
    /// Backward: gradients are rounded to 8 bits, and so are the columns of a matrix with integer codes.
    Int8,
}

/// Most rows of a matrix that are decoded and multiplied together; an L2 cache holds them.
const TILE: usize = 96;

/// Sizes of parts, largest first: multiples of the tiles of the kernels.
const DECODED: [usize; 3] = [TILE, 64, 48];
const COLUMNS: [usize; 3] = [128, 96, 64];

/// The size of parts of `n` with which all threads finish first; the largest such size.
pub(crate) fn even(n: usize, threads: usize, sizes: [usize; 3]) -> usize {
    let most = |size: usize| n.div_ceil(size).div_ceil(threads) * size;
    sizes.into_iter().reduce(|best, size| if most(size) < most(best) { size } else { best }).unwrap_or(TILE)
}

/// Most rows of a part for one row of activations. Parts are long, so that the hardware prefetches bytes that the same
/// core needs next.
const STREAM: usize = 1024;

/// The number type of the product with a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Products {
    /// `f32`.
    F32,
    /// 16-bit integers: 16-bit floats and the activations are rounded to these.
    Int16,
    /// Integer codes, with activations of 8 or 12 bits.
    Int8,
}

impl Products {
    /// The number type of products with `w`.
    pub fn of(precision: Precision, w: &Matrix) -> Self {
        match (precision, &w.format.codes, w.format.id) {
            (Precision::Int8, Some(_), _) => Products::Int8,
            (Precision::Int8, None, F16 | BF16) => Products::Int16,
            _ => Products::F32,
        }
    }
}

/// Inputs rounded for [`Precision::Int8`]: buffers that grow to the largest once.
#[derive(Default)]
pub struct Quantized {
    acts: QActs,
    int16: Buffer,
}

impl Quantized {
    /// Bytes of these buffers for the given inputs: for each the matrix, the number of rows and whether they should be
    /// wide.
    pub fn bytes<'a>(k: &Kernels, inputs: impl Iterator<Item = (&'a Matrix, usize, bool)>) -> usize {
        let (mut acts, mut int16) = (0, 0);
        for (w, n, wide) in inputs {
            match Products::of(Precision::Int8, w) {
                Products::Int8 => acts = acts.max(QActs::bytes(n, w.cols, wide || k.wide)),
                Products::Int16 => int16 = int16.max(4 * n * Int16Layout::of(w.cols).floats()),
                Products::F32 => (),
            }
        }
        acts + int16
    }
}

/// Type ids of ggml's 16-bit floats.
const F16: u32 = 1;
const BF16: u32 = 30;

/// The input of a linear layer, rounded as its matrices need it.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// The values, `[N, C]`.
    pub x: View<'a>,
    acts: Option<&'a QActs>,
    int16: Option<View<'a>>,
    next: Option<&'a Matrix>,
}

impl<'a> Input<'a> {
    /// For [`Precision::F32`].
    pub fn exact(x: View<'a>) -> Self {
        Input { x, acts: None, int16: None, next: None }
    }

    /// Rounds `x` if `precision` and one of `matrices` require it: to 16-bit integers, or to 8 bits, or to 12 bits if
    /// `wide` is set or the backend's wide products are as fast.
    pub fn new(
        cx: &Compute,
        precision: Precision,
        x: View<'a>,
        matrices: &[&Matrix],
        wide: bool,
        quantized: &'a mut Quantized,
    ) -> Self {
        let mut input = Input::exact(x);
        let Quantized { acts, int16 } = quantized;
        let any = |products| matrices.iter().any(|w| Products::of(precision, w) == products);
        if any(Products::Int8) {
            acts.resize(x.n, x.c, wide || cx.kernels.wide);
            cx.quantize(x, acts);
            input.acts = Some(acts);
        }
        if any(Products::Int16) {
            /// Rows of a part.
            const ROWS: usize = 8;
            let c = Int16Layout::of(x.c).floats();
            let int16 = int16.room(x.n * c);
            cx.pool.rows([Tile::new(int16, x.n, c)], [ROWS], &|part, [mut out], _| {
                (0..out.n()).for_each(|i| (cx.kernels.round_int16)(x.row(part * ROWS + i), out.row(i)));
            });
            input.int16 = Some(View::new(int16, x.n, c));
        }
        input
    }

    /// The input, with the matrix of the next product, which is prefetched during this one.
    pub fn prefetch(self, w: &'a Matrix) -> Self {
        Input { next: Some(w), ..self }
    }
}

/// Rows of a part when many rows of activations are multiplied with `f` rows of integer weights. Rows of a part share
/// some preparation, so parts are as long as lets all threads finish together.
fn share(f: usize, threads: usize) -> usize {
    /// Most rows that a kernel computes at once.
    const UNIT: usize = 32;
    let units = f.div_ceil(UNIT);
    let sizes = (1..=4).map(|rounds| (rounds, units.div_ceil(rounds * threads)));
    sizes.min_by_key(|(rounds, size)| rounds * size).map_or(UNIT, |(_, size)| size * UNIT)
}

/// Rows of `w` in a part of its product with `n` rows of activations.
fn part_rows(n: usize, w: &Matrix, ints: bool, threads: usize) -> usize {
    match n {
        1 if ints || w.floats16().is_some() => w.rows.div_ceil(threads).next_multiple_of(16).clamp(TILE, STREAM),
        2.. if ints => share(w.rows, threads),
        _ => even(w.rows, threads, DECODED),
    }
}

/// The bytes that part `part` of `rows` rows reads.
fn bytes_of(w: &Matrix, part: usize, rows: usize) -> &[u8] {
    let at = |row: usize| row.min(w.rows) * w.row_bytes();
    &w.interleaved().unwrap_or(w.data())[at(part * rows)..at(part * rows + rows)]
}

/// `y = x · Wᵀ`. x: `[N, C]`, W: `[F, C]`, y: `[N, F]`, overwritten.
pub fn forward(cx: &Compute, w: &Matrix, input: Input, y: &mut Tile) {
    assert!(input.x.c == w.cols && y.c() == w.rows && y.n() == input.x.n, "shapes of a linear layer");
    let k = cx.kernels;
    let (n, f) = (y.n(), y.c());
    let (ints, threads) = (input.acts.is_some() && w.format.codes.is_some(), cx.pool.threads());
    let tile = part_rows(n, w, ints, threads);
    // The bytes that this thread will probably read next: a later part, or one of the next matrix.
    let parts = f.div_ceil(tile);
    let next = |part: usize| match (part + threads).checked_sub(parts) {
        None => bytes_of(w, part + threads, tile),
        Some(part) => input.next.map_or(&[][..], |w| bytes_of(w, part, part_rows(n, w, ints, threads))),
    };
    if let Some(w) = input.next {
        cx.pool.prefetch(bytes_of(w, 0, w.rows), part_rows(n, w, ints, threads) * w.row_bytes());
    }
    cx.pool.columns([y.part(0..n, 0..f)], [tile], &|part, [mut y], scratch| {
        let rows = part * tile..(part * tile + tile).min(f);
        match (input.acts, input.int16) {
            (Some(acts), _) if w.format.codes.is_some() => (k.int_dots)(w, rows, next(part), acts, &mut y, scratch),
            (_, Some(x)) if matches!(w.format.id, F16 | BF16) => {
                let (c, tops) = (w.cols, &w.tops()[rows.clone()]);
                if let Some(w) = w.floats16() {
                    let part = w.part(rows.start * c..rows.end * c);
                    return (k.int16_dots)(x, part, c, tops, &mut y, scratch);
                }
                // In a file they may be unaligned. That must not change the result.
                let bytes = w.rows_bytes(rows).as_chunks::<2>().0;
                let bits: Vec<u16> = bytes.iter().map(|&bits| u16::from_le_bytes(bits)).collect();
                let part = if w.format.id == F16 { Floats16::F16(&bits) } else { Floats16::Bf16(&bits) };
                (k.int16_dots)(x, part, c, tops, &mut y, scratch);
            }
            _ => {
                if let Some(values) = w.floats16().filter(|_| n <= k.float16_rows) {
                    (k.float16_dots)(input.x, values.part(rows.start * w.cols..rows.end * w.cols), &mut y);
                } else if let Some(values) = w.floats() {
                    let w = View::new(&values[rows.start * w.cols..rows.end * w.cols], rows.len(), w.cols);
                    (k.dots)(input.x, w, &mut y);
                } else {
                    let tile = scratch.floats(rows.len() * w.cols);
                    (k.decode)(w, rows.clone(), 0..w.cols, tile);
                    (k.dots)(input.x, View::new(tile, rows.len(), w.cols), &mut y);
                }
            }
        }
    });
}

/// Columns of a part of [`backward`]: whole blocks.
fn granule(w: &Matrix, threads: usize) -> usize {
    if w.format.block > 32 { w.format.block } else { even(w.cols, threads, COLUMNS) }
}

/// Scratch values of each thread in [`forward`] and [`backward`] for `n` rows.
pub fn scratch(precision: Precision, w: &Matrix, n: usize, threads: usize) -> usize {
    let exact = match w.floats() {
        Some(_) => 0,
        None => (TILE * w.cols).max(2 * TILE * granule(w, threads)),
    };
    // Integer products hold the sums of two panels of 16 rows, and a number for each 16 columns.
    let whole = |rows: usize, cols: usize| rows * (64 + cols / 16);
    let ahead = match Products::of(precision, w) {
        Products::Int8 => whole(n, w.cols),
        Products::Int16 => TILE * w.cols.next_multiple_of(32) / 2,
        Products::F32 => exact,
    };
    let back = if Back::takes(w) { whole(n, w.rows).max((DEEP + 9) * granule(w, threads)) } else { exact };
    if precision == Precision::Int8 { ahead.max(back) } else { exact }
}

/// Whether a gradient replaces the value in its buffer or is added to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accumulate {
    /// The old value is overwritten.
    Set,
    /// The gradient is added to the old value.
    Add,
}

/// `dx = dy · W`, or `dx += dy · W`. dy: `[N, F]`, W: `[F, C]`, dx: `[N, C]`.
pub fn backward(
    cx: &Compute,
    precision: Precision,
    w: &Matrix,
    dy: View,
    into: Accumulate,
    dx: &mut Tile,
    back: &mut Back,
) {
    assert!(dy.c == w.rows && dx.c() == w.cols && dx.n() == dy.n, "shapes of a linear layer");
    match precision {
        Precision::Int8 if Back::takes(w) => back.product(cx, w, dy, into, dx),
        _ => backward_exact(cx, w, dy, into, dx),
    }
}

fn backward_exact(cx: &Compute, w: &Matrix, dy: View, into: Accumulate, dx: &mut Tile) {
    let k = cx.kernels;
    let (n, c) = (dx.n(), dx.c());
    let granule = granule(w, cx.pool.threads());
    cx.pool.columns([dx.part(0..n, 0..c)], [granule], &|part, [mut dx], scratch| {
        let cols = part * granule..(part * granule + granule).min(c);
        if into == Accumulate::Set {
            (0..n).for_each(|i| dx.row(i).fill(0.0));
        }
        if let Some(values) = w.floats() {
            return (k.sums)(dy, View::new(values, w.rows, w.cols).cols(cols), &mut dx);
        }
        let tile = scratch.floats(2 * TILE * cols.len());
        for start in (0..w.rows).step_by(2 * TILE) {
            let rows = start..(start + 2 * TILE).min(w.rows);
            let tile = &mut tile[..rows.len() * cols.len()];
            (k.decode)(w, rows.clone(), cols.clone(), tile);
            (k.sums)(dy.cols(rows.clone()), View::new(tile, rows.len(), cols.len()), &mut dx);
        }
    });
}

/// The backward pass in 8 bits: buffers that grow to the largest product once.
///
/// The product sums over the outputs of W, so W's columns, the rows of Wᵀ, are rounded to Q8_0 blocks along the
/// outputs. Then the product is an integer one like those of the forward pass. Integer sums are exact, so the result is
/// the same on every backend.
#[derive(Default)]
pub struct Back {
    /// `dy`, rounded.
    dy: QActs,
    /// Columns of W as rows of Q8_0.
    columns: Arc<Vec<f32>>,
    /// Their products with `dy`.
    sums: Buffer,
}

/// Bytes of rounded columns at a time.
const BYTES: usize = 1 << 20;
/// Rows of a block.
const DEEP: usize = 32;
/// ggml's Q8_0.
const Q8_0: u32 = 8;

impl Back {
    /// Whether the columns of a matrix can be rounded: whole blocks both ways.
    fn takes(w: &Matrix) -> bool {
        w.rows > 0 && w.rows.is_multiple_of(2 * DEEP) && w.cols.is_multiple_of(16)
    }

    /// Columns of `w` that are rounded together.
    fn together(w: &Matrix) -> usize {
        let granule = if w.format.block > 32 { w.format.block } else { 192 };
        (BYTES / (w.rows / DEEP * 34) / granule * granule).clamp(granule, w.cols.max(granule)).min(w.cols)
    }

    /// Bytes of these buffers for products with the given matrices and numbers of rows.
    pub fn bytes<'a>(products: impl Iterator<Item = (&'a Matrix, usize)>) -> usize {
        let (mut dy, mut columns, mut sums) = (0, 0, 0);
        for (w, n) in products.filter(|(w, _)| Self::takes(w)) {
            dy = dy.max(QActs::bytes(n, w.rows, false));
            columns = columns.max(Self::together(w) * (w.rows / DEEP * 34));
            sums = sums.max(4 * n * Self::together(w));
        }
        dy + columns + sums
    }

    fn product(&mut self, cx: &Compute, w: &Matrix, dy: View, into: Accumulate, dx: &mut Tile) {
        let (n, k) = (dy.n, cx.kernels);
        self.dy.resize(n, w.rows, false);
        cx.quantize(dy, &mut self.dy);
        for first in (0..w.cols).step_by(Self::together(w)) {
            let cols = first..(first + Self::together(w)).min(w.cols);
            let columns = self.columns(cx, w, cols.clone());
            let (count, acts) = (cols.len(), &self.dy);
            let granule = share(count, cx.pool.threads());
            if into == Accumulate::Set {
                cx.pool.columns([dx.part(0..n, cols)], [granule], &|part, [mut dx], scratch| {
                    let rows = part * granule..part * granule + dx.c();
                    (k.int_dots)(&columns, rows, &[], acts, &mut dx, scratch);
                });
                continue;
            }
            let sums = Tile::new(self.sums.room(n * count), n, count);
            cx.pool.columns([dx.part(0..n, cols), sums], [granule; 2], &|part, [mut dx, mut sums], scratch| {
                let rows = part * granule..part * granule + dx.c();
                (k.int_dots)(&columns, rows, &[], acts, &mut sums, scratch);
                for i in 0..n {
                    super::add(sums.row(i), dx.row(i));
                }
            });
        }
    }

    /// Columns `cols` of a matrix as rows of another one, rounded.
    fn columns(&mut self, cx: &Compute, w: &Matrix, cols: Range<usize>) -> Matrix {
        let (k, granule, words) = (cx.kernels, granule(w, cx.pool.threads()), w.rows / DEEP * 34 / 4);
        if self.columns.len() < cols.len() * words {
            self.columns = Arc::default();
            self.columns = Arc::new(vec![0.0; cols.len() * words]);
        }
        let out = Arc::get_mut(&mut self.columns).expect("matrices of earlier products are gone");
        cx.pool.rows([Tile::new(out, cols.len(), words)], [granule], &|part, [mut out], scratch| {
            let first = cols.start + part * granule;
            let cols = first..first + out.n();
            let (blocks, [tile, _]) = scratch.codes(34 * cols.len(), DEEP * cols.len(), 0);
            for b in 0..w.rows / DEEP {
                (k.decode)(w, b * DEEP..(b + 1) * DEEP, cols.clone(), tile);
                (k.round_columns)(View::new(tile, DEEP, cols.len()), blocks);
                for (i, block) in blocks.chunks_exact(34).enumerate() {
                    bytemuck::cast_slice_mut::<f32, u8>(out.row(i))[34 * b..][..34].copy_from_slice(block);
                }
            }
        });
        let bytes = crate::bytes::Bytes::from_floats(self.columns.clone()).slice(0..4 * words * cols.len());
        let format = Format::by_id(Q8_0).expect("a row of the table");
        let matrix = bytes.and_then(|bytes| Matrix::new(format, cols.len(), w.rows, bytes));
        matrix.expect("as many bytes as the rows have")
    }
}

/// `dW += dyᵀ · x`, for trained weights. x: `[N, C]`, dy: `[N, F]`, dw: `[F, C]`.
pub fn backward_weights(cx: &Compute, x: View, dy: View, dw: &mut Tile) {
    let (n, c) = (dw.n(), dw.c());
    cx.pool.rows([dw.part(0..n, 0..c)], [TILE], &|part, [mut dw], _| {
        let rows = part * TILE..part * TILE + dw.n();
        (cx.kernels.outer)(dy.cols(rows), x, &mut dw);
    });
}

/// `y += bias` in every row. y: `[N, F]`, bias: `[F]`.
pub fn add_bias(cx: &Compute, y: &mut Tile, bias: &[f32]) {
    let (n, f) = (y.n(), y.c());
    cx.pool.rows([y.part(0..n, 0..f)], [super::ROWS], &|_, [mut y], _| {
        (0..y.n()).for_each(|i| super::add(bias, y.row(i)));
    });
}

/// `dbias += Σ_rows dy`, in the order of rows, for trained biases. dy: `[N, F]`, dbias: `[F]`.
pub fn backward_bias(cx: &Compute, dy: View, dbias: &mut [f32]) {
    let granule = COLUMNS[0];
    cx.pool.columns([Tile::new(dbias, 1, dy.c)], [granule], &|part, [mut dbias], _| {
        let dy = dy.cols(part * granule..part * granule + dbias.c());
        (0..dy.n).for_each(|i| super::add(dy.row(i), dbias.row(0)));
    });
}
