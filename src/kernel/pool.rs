//! The thread pool: threads that share the parts of an output.
//!
//! Work is divided into parts that do not depend on the number of threads. Every part writes its own rows or columns, and
//! no sum is split. So a result has the same bits with any pool.

use super::{QActs, QRow};
#[cfg(feature = "std")]
use crate::error::{Error, Result};
use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut, Range};
use core::sync::atomic::{AtomicBool, Ordering};
use std::prelude::v1::*;
use std::sync::Arc;

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

/// Values in a cache line.
const LINE: usize = 16;

/// Values aligned to a cache line, so that no vector of a row of whole lines touches two lines. The buffer grows to exactly
/// the length that is needed and never shrinks.
#[derive(Default)]
pub struct Buffer {
    values: Vec<f32>,
    start: usize,
}

impl Buffer {
    /// `n` values, all 0.
    pub fn new(n: usize) -> Self {
        let mut buffer = Buffer::default();
        buffer.room(n);
        buffer
    }

    /// The first `n` values. Their contents are unspecified: when the buffer grows, the old memory is freed first.
    pub fn room(&mut self, n: usize) -> &mut [f32] {
        if self.len() < n {
            self.values = Vec::new();
            self.values = vec![0.0; n + LINE];
            self.start = self.values.as_ptr().align_offset(4 * LINE).min(LINE);
            self.values.truncate(self.start + n);
        }
        &mut self.values[self.start..self.start + n]
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values[self.start..]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[self.start..]
    }
}

/// Scratch memory of one worker. It grows to the largest size that is needed and is then kept.
#[derive(Default)]
pub struct Scratch {
    /// Values.
    pub f: Buffer,
    /// Codes.
    pub b: Vec<u8>,
}

impl Scratch {
    /// `n` values, their contents unspecified.
    pub fn floats(&mut self, n: usize) -> &mut [f32] {
        self.f.room(n)
    }

    /// Two pieces of `a` and `b` values, their contents unspecified.
    pub fn two(&mut self, a: usize, b: usize) -> [&mut [f32]; 2] {
        let (x, y) = self.floats(a + b).split_at_mut(a);
        [x, y]
    }

    /// `n` codes, and two pieces of `a` and `b` values, their contents unspecified.
    pub fn codes(&mut self, n: usize, a: usize, b: usize) -> (&mut [u8], [&mut [f32]; 2]) {
        if self.b.len() < n {
            self.b.resize(n, 0);
        }
        let (x, y) = self.f.room(a + b).split_at_mut(a);
        (&mut self.b[..n], [x, y])
    }

    /// Three pieces of values, their contents unspecified.
    pub fn three(&mut self, a: usize, b: usize, c: usize) -> [&mut [f32]; 3] {
        let (x, rest) = self.floats(a + b + c).split_at_mut(a);
        let (y, z) = rest.split_at_mut(b);
        [x, y, z]
    }
}

/// Threads that share the parts of one piece of work at a time. Clones share them; they end with the last clone.
#[derive(Clone)]
pub struct Pool {
    crew: Arc<Crew>,
}

/// The threads of a pool, and the caller's state between calls of `run`.
struct Crew {
    /// Whether a `run` is in progress. Another call, from a part or from another thread, then works alone.
    busy: AtomicBool,
    /// The caller's scratch, for the thread that set `busy`.
    scratch: UnsafeCell<Scratch>,
    #[cfg(feature = "std")]
    workers: threads::Workers,
}

// SAFETY: `scratch` is touched only by the thread that changed `busy` from false to true.
#[allow(unsafe_code)]
unsafe impl Sync for Crew {}

/// Ends a `run`, also when a part panics.
struct Busy<'a>(&'a AtomicBool);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

type Work<'a> = dyn Fn(usize, &mut Scratch) + Sync + 'a;

/// What [`Pool::grid`] calls: row part, column part, tiles.
pub type GridWork<'a, const K: usize> = dyn Fn(usize, usize, [Tile; K], &mut Scratch) + Sync + 'a;

impl Pool {
    /// A pool of `threads` workers, including the caller; fewer if the system refuses more. Without the standard
    /// library the caller works alone.
    pub fn new(threads: usize) -> Self {
        let _ = threads;
        Pool {
            crew: Arc::new(Crew {
                busy: AtomicBool::new(false),
                scratch: UnsafeCell::default(),
                #[cfg(feature = "std")]
                workers: threads::Workers::new(threads.saturating_sub(1)),
            }),
        }
    }

    /// A pool with a worker on each of `cores`, with the system's numbers. The calling thread, which also works in
    /// [`Pool::run`], is bound to the first core.
    ///
    /// # Errors
    /// `Invalid` for no core, or one that this process may not use; `Unsupported` where threads cannot be bound;
    /// `Limit` if the system provides fewer threads.
    #[cfg(feature = "std")]
    pub fn pinned(cores: &[usize]) -> Result<Self> {
        let Some((&first, others)) = cores.split_first() else {
            return Err(Error::invalid("cores", "none to work on"));
        };
        bind(first)?;
        let workers = threads::Workers::bound(others)?;
        let (busy, scratch) = (AtomicBool::new(false), UnsafeCell::default());
        Ok(Pool { crew: Arc::new(Crew { busy, scratch, workers }) })
    }

    /// A place for a thread that somebody else has started: see [`Seat::serve`].
    #[cfg(feature = "std")]
    pub fn seat(&self) -> Seat {
        self.crew.workers.seat()
    }

    /// Number of workers that are there, including the caller.
    pub fn threads(&self) -> usize {
        #[cfg(feature = "std")]
        return 1 + self.crew.workers.count();
        #[cfg(not(feature = "std"))]
        return 1;
    }

    /// From the next [`Pool::run`] on no more than `threads` workers share the work, including the caller, which always
    /// works; the others sleep. The limit holds for all clones until another one is set.
    pub fn limit(&self, threads: usize) {
        let _ = threads;
        #[cfg(feature = "std")]
        self.crew.workers.limit(threads.saturating_sub(1));
    }

    /// The bytes that the next products will read, in parts of `part` bytes. An idle worker prefetches the beginning of its
    /// own part; the first part is the caller's.
    pub fn prefetch(&self, data: &[u8], part: usize) {
        let _ = (data, part);
        #[cfg(feature = "std")]
        self.crew.workers.prefetch(data, part);
    }

    /// Calls `f(part, scratch)` once for each part `0..parts`, in any order, on any worker; returns when all are done.
    /// A call from inside a part, or while another thread is in `run`, does all its parts on its own thread.
    ///
    /// # Panics
    /// With the panic of a part, after every worker has stopped; parts not yet begun are dropped.
    #[allow(unsafe_code)]
    pub fn run(&self, parts: usize, f: &Work) {
        let crew = &*self.crew;
        if crew.busy.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            let mut scratch = Scratch::default();
            return (0..parts).for_each(|part| f(part, &mut scratch));
        }
        let _busy = Busy(&crew.busy);
        // SAFETY: this call made `busy` true, so no other holds the scratch.
        let scratch = unsafe { &mut *crew.scratch.get() };
        #[cfg(feature = "std")]
        if parts > 1 && crew.workers.count() > 0 {
            // SAFETY: `busy` keeps other calls out.
            return unsafe { crew.workers.run(parts, f, scratch) };
        }
        (0..parts).for_each(|part| f(part, scratch));
    }

    /// Divides each of `tiles` into ranges of columns, `granules[i]` wide for tile `i` (the last may be narrower), and
    /// calls `f(part, tiles)` for each part. Tiles must all give the same number of parts.
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

    /// Divides each of `tiles` into ranges of rows, like [`Pool::columns`].
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

    /// Divides each of `tiles` into rectangles of `granules[i]` rows and columns and calls `f(row part, column part,
    /// tiles)` for each. Tiles must all give the same grid.
    pub fn grid<const K: usize>(&self, tiles: [Tile; K], granules: [(usize, usize); K], f: &GridWork<K>) {
        let (down, across) = (tiles[0].n.div_ceil(granules[0].0), tiles[0].c.div_ceil(granules[0].1));
        let tiles = Cut(tiles);
        self.run(down * across, &|part, scratch| {
            // From the last row part to the first: where later rows take longer, the long parts start first.
            let (i, j) = (down - 1 - part / across, part % across);
            f(i, j, tiles.rectangle(i, j, granules), scratch);
        });
    }
}

impl Pool {
    /// Calls `f(i, row)` once for each row of quantized activations.
    #[allow(unsafe_code)]
    pub fn acts(&self, acts: &mut QActs, f: &(dyn Fn(usize, QRow) + Sync)) {
        /// Rows of a part.
        const ROWS: usize = 8;
        let n = acts.n;
        if n <= ROWS {
            return (0..n).for_each(|i| f(i, acts.row(i)));
        }
        let rows = &Loose::new(acts);
        self.run(n.div_ceil(ROWS), &|part, _| {
            for i in part * ROWS..(part * ROWS + ROWS).min(n) {
                // SAFETY: `run` calls each part once and parts have different rows, so this row is borrowed once; a row
                // touches no other row's values, and nothing else touches them or the vectors before `run` returns.
                f(i, unsafe { rows.row(i) });
            }
        });
    }
}

/// Quantized activations whose rows are lent one by one.
struct Loose<'a> {
    q: *mut i8,
    d: *mut f32,
    s: *mut i32,
    low: *mut f32,
    n: usize,
    c: usize,
    wide: bool,
    life: PhantomData<&'a mut QActs>,
}

// SAFETY: threads get different rows, as `row` demands.
#[allow(unsafe_code)]
unsafe impl Sync for Loose<'_> {}

impl<'a> Loose<'a> {
    fn new(acts: &'a mut QActs) -> Self {
        let QActs { n, c, wide, .. } = *acts;
        let codes = if wide { 2 * n * c } else { n * c };
        assert!(acts.q.len() >= codes && acts.d.len() >= n * c / 16, "room for rounded rows");
        assert!(acts.s.len() >= n * c / 16 && acts.low.len() >= n * c / 32, "room for their sums");
        let (q, d) = (acts.q.as_mut_ptr(), acts.d.as_mut_ptr());
        Loose { q, d, s: acts.s.as_mut_ptr(), low: acts.low.as_mut_ptr(), n, c, wide, life: PhantomData }
    }

    /// # Safety
    /// No row is borrowed twice at a time.
    #[allow(unsafe_code)]
    unsafe fn row(&self, i: usize) -> QRow<'a> {
        assert!(i < self.n, "row {i} of {}", self.n);
        /// # Safety
        /// `len` values from `i · len` are borrowed by nobody else.
        unsafe fn of<'b, T>(all: *mut T, len: usize, i: usize) -> &'b mut [T] {
            // SAFETY: the caller's promise.
            unsafe { core::slice::from_raw_parts_mut(all.add(i * len), len) }
        }
        let (n, c) = (self.n, self.c);
        // SAFETY: `new` checked that the vectors hold all rows, and the caller promises the rest.
        unsafe {
            QRow {
                q: of(self.q, c, i),
                low_q: if self.wide { of(self.q, c, n + i) } else { &mut [] },
                d: of(self.d, c / 16, i),
                s: of(self.s, c / 16, i),
                low: of(self.low, c / 32, i),
            }
        }
    }
}

/// Tiles that are lent in disjoint parts.
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

/// Binds the calling thread, and threads that it starts later, to a core.
///
/// # Errors
/// `Invalid` for a core that this process may not use; `Unsupported` where threads cannot be bound.
#[cfg(all(feature = "std", any(target_os = "linux", target_os = "android")))]
#[allow(unsafe_code)]
pub fn bind(core: usize) -> Result<()> {
    let refused = |why: &dyn core::fmt::Display| Err(Error::invalid("core", format!("{core}: {why}")));
    if core >= libc::CPU_SETSIZE as usize {
        return refused(&"there is none with such a number");
    }
    // SAFETY: no bit set is an empty set, the core fits into it, and the call reads a set of that size.
    let result = unsafe {
        let mut set: libc::cpu_set_t = core::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    if result == 0 { Ok(()) } else { refused(&std::io::Error::last_os_error()) }
}

/// Binds the calling thread, and threads that it starts later, to a core.
///
/// # Errors
/// `Unsupported`: this system does not let threads be bound.
#[cfg(all(feature = "std", not(any(target_os = "linux", target_os = "android"))))]
pub fn bind(_core: usize) -> Result<()> {
    Err(Error::unsupported("binding of threads to cores", std::env::consts::OS))
}

#[cfg(feature = "std")]
mod sync;
#[cfg(feature = "std")]
mod threads;
#[cfg(feature = "std")]
pub use threads::Seat;

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::{Pool, Tile};
    use core::sync::atomic::{AtomicUsize, Ordering};
    use std::prelude::v1::*;

    #[test]
    fn every_part_runs_once() {
        for threads in 1..=4 {
            let pool = Pool::new(threads);
            for parts in (0..40).chain([1000]) {
                let counts: Vec<AtomicUsize> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
                pool.run(parts, &|part, _| {
                    counts[part].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "{threads} threads, {parts} parts");
            }
        }
    }

    #[test]
    fn nested_and_concurrent_runs_finish() {
        let pool = Pool::new(3);
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        pool.run(5, &|_, _| {
                            pool.clone().run(3, &|_, _| {
                                total.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 4 * 200 * 15);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        for threads in 1..=3 {
            let pool = Pool::new(threads);
            for round in 0..50 {
                let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    pool.run(20, &|part, _| assert!(part != round % 20, "part {part} fails"));
                }));
                let text = *caught.unwrap_err().downcast::<String>().unwrap();
                assert!(text.contains("fails"), "{text}");
                let done = AtomicUsize::new(0);
                pool.run(20, &|_, _| {
                    done.fetch_add(1, Ordering::Relaxed);
                });
                assert_eq!(done.into_inner(), 20);
            }
        }
    }

    #[test]
    fn threads_that_come_of_themselves_work_from_then_on_until_the_pool_ends() {
        let pool = Pool::new(2);
        let done = |pool: &Pool| {
            let workers = std::sync::Mutex::new(std::collections::HashSet::new());
            let all = std::sync::Barrier::new(pool.threads());
            pool.run(pool.threads(), &|_, _| {
                // No worker does two parts.
                all.wait();
                workers.lock().unwrap().insert(std::thread::current().id());
            });
            workers.into_inner().unwrap()
        };
        let empty = pool.seat();
        assert_eq!(done(&pool).len(), 2);
        let others: Vec<_> = [pool.seat(), pool.seat()].map(|seat| std::thread::spawn(|| seat.serve())).into();
        while pool.threads() < 4 {
            // Also while they come.
            let total = AtomicUsize::new(0);
            pool.run(50, &|part, _| _ = total.fetch_add(part, Ordering::Relaxed));
            assert_eq!(total.into_inner(), 49 * 25);
        }
        let workers = done(&pool);
        assert!(workers.len() == 4 && others.iter().all(|other| workers.contains(&other.thread().id())));
        drop(pool);
        others.into_iter().for_each(|other| other.join().unwrap());
        // Too late: it returns.
        empty.serve();
    }

    #[test]
    fn a_limit_keeps_workers_out() {
        let pool = Pool::new(4);
        let workers = |pool: &Pool| {
            let seen = std::sync::Mutex::new(std::collections::HashSet::new());
            for _ in 0..50 {
                pool.run(100, &|_, _| {
                    seen.lock().unwrap().insert(std::thread::current().id());
                });
            }
            seen.into_inner().unwrap().len()
        };
        for limit in [2, 1, 0, 3] {
            pool.clone().limit(limit);
            assert_eq!(pool.threads(), limit.max(1));
            assert!(workers(&pool) <= limit.max(1), "limit {limit}");
        }
        pool.limit(100);
        assert_eq!(pool.threads(), 4);
    }

    /// The cores that this thread may run on, as the system lists them.
    #[cfg(target_os = "linux")]
    fn allowed() -> String {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:")).unwrap().trim().to_string()
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn workers_stay_on_their_cores() {
        let list = allowed();
        let ends = list.split([',', '-']).map(|core| core.parse::<usize>().unwrap());
        let cores: Vec<usize> = ends.collect();
        // In a separate thread, since it stays bound.
        let test = move || {
            assert!(Pool::pinned(&[]).is_err());
            for bad in [usize::MAX, 1023] {
                let message = Pool::pinned(&[cores[0], bad]).err().unwrap().to_string();
                assert!(message.contains(&bad.to_string()), "{message}");
            }
            let pool = Pool::pinned(&cores).unwrap();
            assert_eq!((pool.threads(), allowed()), (cores.len(), cores[0].to_string()));
            let seen = std::sync::Mutex::new(std::collections::BTreeSet::new());
            let all = std::sync::Barrier::new(cores.len());
            pool.run(cores.len(), &|_, _| {
                // No worker does two parts.
                all.wait();
                seen.lock().unwrap().insert(allowed());
            });
            assert_eq!(seen.into_inner().unwrap(), cores.iter().map(usize::to_string).collect());
        };
        std::thread::spawn(test).join().unwrap();
    }

    #[test]
    fn scratch_is_kept_between_runs() {
        let pool = Pool::new(1);
        pool.run(1, &|_, scratch| scratch.floats(100)[99] = 7.0);
        pool.run(1, &|_, scratch| assert_eq!(scratch.floats(100)[99], 7.0));
    }

    #[test]
    fn parts_of_tiles_cover_them() {
        let pool = Pool::new(2);
        let (mut a, mut b) = (vec![0.0; 7 * 10], vec![0.0; 7 * 10]);
        pool.columns([Tile::new(&mut a, 7, 10)], [3], &|part, [mut t], _| {
            for i in 0..t.n() {
                t.row(i).iter_mut().for_each(|v| *v += 1.0 + part as f32);
            }
        });
        pool.grid([Tile::new(&mut b, 7, 10)], [(2, 4)], &|_, j, [mut t], _| {
            for i in 0..t.n() {
                t.row(i).iter_mut().for_each(|v| *v += 1.0 + j as f32);
            }
        });
        for i in 0..70 {
            assert_eq!(a[i], 1.0 + (i % 10 / 3) as f32);
            assert_eq!(b[i], 1.0 + (i % 10 / 4) as f32);
        }
    }
}
