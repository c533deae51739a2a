//! Lends parts of outputs to threads.
//!
//! Work is cut into parts that do not depend on the number of threads, every part writes its own rows or columns, and
//! no sum is split: so a result has the same bits for any pool.

use core::marker::PhantomData;
use core::ops::Range;
use std::prelude::v1::*;

/// A rectangle of `f32` that may be written: `n` rows of `c` values, `stride` apart in memory that others may share.
pub struct Tile<'a> {
    ptr: *mut f32,
    n: usize,
    c: usize,
    stride: usize,
    life: PhantomData<&'a mut [f32]>,
}

// SAFETY: a tile is an exclusive borrow of its own rectangle, as a `&mut [f32]` is of its slice.
#[allow(unsafe_code)]
unsafe impl Send for Tile<'_> {}

impl<'a> Tile<'a> {
    /// `n` rows of `c` values without gaps.
    ///
    /// # Panics
    /// If `data` is too short.
    pub fn new(data: &'a mut [f32], n: usize, c: usize) -> Self {
        assert!(n * c <= data.len(), "tile of {n} × {c} in {} values", data.len());
        Tile { ptr: data.as_mut_ptr(), n, c, stride: c, life: PhantomData }
    }

    /// Rows.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Columns.
    pub fn c(&self) -> usize {
        self.c
    }

    /// Row `i`.
    ///
    /// # Panics
    /// If `i` is out of range.
    #[inline(always)]
    #[allow(unsafe_code)]
    pub fn row(&mut self, i: usize) -> &mut [f32] {
        assert!(i < self.n, "row {i} of {}", self.n);
        // SAFETY: `new` checked that all rows lie inside the borrowed slice, parts only ever shrink the rectangle, and
        // this tile alone may touch it while it is borrowed.
        unsafe { core::slice::from_raw_parts_mut(self.ptr.add(i * self.stride), self.c) }
    }

    /// The rectangle of rows `rows` and columns `cols`, borrowed from this one.
    ///
    /// # Panics
    /// If it leaves this tile.
    pub fn part(&mut self, rows: Range<usize>, cols: Range<usize>) -> Tile<'_> {
        self.shared_part(rows, cols)
    }

    #[allow(unsafe_code)]
    fn shared_part<'b>(&self, rows: Range<usize>, cols: Range<usize>) -> Tile<'b> {
        assert!(
            rows.start <= rows.end && rows.end <= self.n && cols.start <= cols.end && cols.end <= self.c,
            "part of a tile"
        );
        // SAFETY: the corner lies inside the rectangle, checked above.
        let ptr = unsafe { self.ptr.add(rows.start * self.stride + cols.start) };
        Tile { ptr, n: rows.len(), c: cols.len(), stride: self.stride, life: PhantomData }
    }
}

/// What one worker may write to while it works; grows to what is asked once and is then kept.
#[derive(Default)]
pub struct Scratch {
    /// Values.
    pub f: Vec<f32>,
    /// Codes.
    pub b: Vec<u8>,
}

impl Scratch {
    /// `n` values, their contents unspecified.
    pub fn floats(&mut self, n: usize) -> &mut [f32] {
        if self.f.len() < n {
            self.f.resize(n, 0.0);
        }
        &mut self.f[..n]
    }

    /// Two pieces of `a` and `b` values, their contents unspecified.
    pub fn two(&mut self, a: usize, b: usize) -> [&mut [f32]; 2] {
        let (x, y) = self.floats(a + b).split_at_mut(a);
        [x, y]
    }

    /// Three pieces, likewise.
    pub fn three(&mut self, a: usize, b: usize, c: usize) -> [&mut [f32]; 3] {
        let (x, rest) = self.floats(a + b + c).split_at_mut(a);
        let (y, z) = rest.split_at_mut(b);
        [x, y, z]
    }
}

/// Threads that share the parts of one piece of work at a time.
#[derive(Clone)]
pub struct Pool {
    threads: usize,
}

impl Pool {
    /// A pool of `threads` workers, the caller among them.
    pub fn new(threads: usize) -> Self {
        Pool { threads: threads.max(1) }
    }

    /// Workers.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Calls `f(part, scratch)` once for each part `0..parts`, in any order, on any worker; returns when all are done.
    pub fn run(&self, parts: usize, f: &(dyn Fn(usize, &mut Scratch) + Sync)) {
        let mut scratch = Scratch::default();
        for part in 0..parts {
            f(part, &mut scratch);
        }
    }

    /// Cuts each of `tiles` into ranges of columns, `granules[i]` wide for tile `i` (the last may be narrower), and calls
    /// `f(part, tiles)` for each part. Tiles must all give the same number of parts.
    pub fn columns<const K: usize>(
        &self,
        tiles: [Tile; K],
        granules: [usize; K],
        f: &(dyn Fn(usize, [Tile; K], &mut Scratch) + Sync),
    ) {
        let parts = tiles[0].c.div_ceil(granules[0]);
        let tiles = Cut(tiles);
        self.run(parts, &|part, scratch| f(part, tiles.columns(part, granules), scratch));
    }

    /// The same by rows.
    pub fn rows<const K: usize>(
        &self,
        tiles: [Tile; K],
        granules: [usize; K],
        f: &(dyn Fn(usize, [Tile; K], &mut Scratch) + Sync),
    ) {
        let parts = tiles[0].n.div_ceil(granules[0]);
        let tiles = Cut(tiles);
        self.run(parts, &|part, scratch| f(part, tiles.rows(part, granules), scratch));
    }

    /// Cuts each of `tiles` into rectangles of `granules[i]` rows and columns and calls `f(row part, column part, tiles)`
    /// for each. Tiles must all give the same grid.
    pub fn grid<const K: usize>(
        &self,
        tiles: [Tile; K],
        granules: [(usize, usize); K],
        f: &(dyn Fn(usize, usize, [Tile; K], &mut Scratch) + Sync),
    ) {
        let (down, across) = (tiles[0].n.div_ceil(granules[0].0), tiles[0].c.div_ceil(granules[0].1));
        let tiles = Cut(tiles);
        self.run(down * across, &|part, scratch| {
            // From the last row part to the first: where later rows cost more, the large parts go first.
            let (i, j) = (down - 1 - part / across, part % across);
            f(i, j, tiles.rectangle(i, j, granules), scratch);
        });
    }
}

/// Tiles that are only handed out in parts that do not touch.
struct Cut<'a, const K: usize>([Tile<'a>; K]);

// SAFETY: workers get disjoint parts: `run` calls each part once, and different parts have different ranges.
#[allow(unsafe_code)]
unsafe impl<const K: usize> Sync for Cut<'_, K> {}

impl<const K: usize> Cut<'_, K> {
    fn columns<'b>(&self, part: usize, granules: [usize; K]) -> [Tile<'b>; K] {
        core::array::from_fn(|i| {
            let (t, g) = (&self.0[i], granules[i]);
            t.shared_part(0..t.n, (part * g).min(t.c)..((part + 1) * g).min(t.c))
        })
    }

    fn rows<'b>(&self, part: usize, granules: [usize; K]) -> [Tile<'b>; K] {
        core::array::from_fn(|i| {
            let (t, g) = (&self.0[i], granules[i]);
            t.shared_part((part * g).min(t.n)..((part + 1) * g).min(t.n), 0..t.c)
        })
    }

    fn rectangle<'b>(&self, down: usize, across: usize, granules: [(usize, usize); K]) -> [Tile<'b>; K] {
        core::array::from_fn(|i| {
            let (t, (n, c)) = (&self.0[i], granules[i]);
            t.shared_part(down * n..(down * n + n).min(t.n), across * c..(across * c + c).min(t.c))
        })
    }
}
