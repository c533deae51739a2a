//! The worker threads beside the caller.

#![allow(unsafe_code)]

use super::sync::{
    Arc, AtomicBool, AtomicUsize, JoinHandle, Mutex, Ordering, SPINS, Slot, Thread, mpsc, spin_loop, thread,
};
use super::{Scratch, Work, bind};
use crate::bytes::room;
use crate::error::{Error, Result};
use crate::kernel::prefetch;
use core::any::Any;
use core::ptr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::prelude::v1::*;

/// Bits of the gate: number of workers inside the job, whether more may enter, and the number of the job.
const INSIDE: usize = OPEN - 1;
const OPEN: usize = 1 << 10;
const NUMBER: usize = 1 << 11;
const MOST: usize = 512;
/// Bytes of a worker's stack, which is what the standard library gives where nothing is said.
const STACK: usize = 2 << 20;
/// Bytes that must be there beside it, for what the system puts around a thread.
const ROOM: usize = 1 << 20;
/// Bytes that an idle worker prefetches at most, so that its second-level cache has room left.
const PREFETCH: usize = 256 << 10;
/// Bytes that it prefetches between two checks of the gate.
const STEP: usize = 512;

pub(super) struct Workers {
    shared: Arc<Shared>,
    /// The threads that were started here; those that came of themselves are not waited for at the end.
    handles: Vec<JoinHandle<()>>,
}

/// A place at the work of a pool, for a thread that the pool has not started: where threads cannot be started from here, as
/// in WebAssembly, somebody else starts one and lets it take the place.
pub struct Seat(Arc<Shared>);

struct Shared {
    /// A worker that has not seen the number of an open gate enters by adding one, and leaves by subtracting one. A worker
    /// that sleeps through a job is not waited for.
    gate: AtomicUsize,
    /// The part to do next.
    next: AtomicUsize,
    /// Changed only while the gate is closed and no worker is inside.
    job: Slot<Option<Job>>,
    /// Where the bytes to be read next begin, and the size of a worker's part of them.
    ahead: [AtomicUsize; 2],
    /// Workers from this number on do not enter.
    most: AtomicUsize,
    /// The workers that are there, in the order in which they came, to be woken.
    seated: Mutex<Vec<Thread>>,
    /// How many these are.
    count: AtomicUsize,
    panicked: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    quit: AtomicBool,
}

#[derive(Clone)]
struct Job {
    parts: usize,
    work: *const Work<'static>,
    caller: Thread,
}

// SAFETY: `job` is written by the one caller of `run` while the gate is closed and empty, and read by workers inside
// the gate; entering and leaving order these. `work` points to a `Sync` closure that outlives the open gate.
unsafe impl Sync for Shared {}
// SAFETY: as above; nothing in it belongs to one thread.
unsafe impl Send for Shared {}

impl Shared {
    /// Does parts until none is left. A panic ends the job for all workers and is stored for the caller.
    fn work(&self, parts: usize, work: &Work, scratch: &mut Scratch) {
        let result = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let part = self.next.fetch_add(1, Ordering::Relaxed);
                if part >= parts {
                    return;
                }
                work(part, scratch);
            }
        }));
        if let Err(panic) = result {
            self.next.store(parts, Ordering::Relaxed);
            self.panic.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(panic);
            self.panicked.store(true, Ordering::Release);
        }
    }

    /// The calling thread's number as a worker, if there is one left.
    fn sit(&self) -> Option<usize> {
        let mut seated = self.seated.lock().unwrap_or_else(|e| e.into_inner());
        let i = seated.len();
        if i == MOST {
            return None;
        }
        seated.push(thread::current());
        self.count.store(i + 1, Ordering::Relaxed);
        Some(i)
    }

    /// Wakes the first `n` workers. One that comes later looks at the gate before it sleeps: the lock puts its coming after
    /// what was written before this call.
    fn wake(&self, n: usize) {
        self.seated.lock().unwrap_or_else(|e| e.into_inner()).iter().take(n).for_each(Thread::unpark);
    }

    /// The loop of worker `i`, which ends with the pool.
    fn serve(&self, i: usize) {
        let mut scratch = Scratch::default();
        let mut seen = 0;
        let mut idle = 0;
        // Addresses still to be prefetched, and where they began.
        let (mut ahead, mut first) = (0..0, 0);
        while !self.quit.load(Ordering::Acquire) {
            let gate = self.gate.load(Ordering::Relaxed);
            let fresh = gate & OPEN != 0 && gate / NUMBER != seen && i < self.most.load(Ordering::Relaxed);
            if !fresh || self.gate.compare_exchange(gate, gate + 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
                if !fresh && !ahead.is_empty() {
                    (0..STEP).step_by(64).for_each(|line| prefetch(ptr::without_provenance(ahead.start + line), false));
                    ahead.start += STEP;
                    continue;
                }
                idle += 1;
                if fresh || idle < SPINS {
                    spin_loop();
                } else {
                    thread::park();
                    idle = 0;
                }
                continue;
            }
            (seen, idle) = (gate / NUMBER, 0);
            // SAFETY: the gate was open when this worker entered, so `job` holds until it leaves.
            let job = unsafe { self.job.get(Clone::clone) };
            let Job { parts, work, caller } = job.expect("an open gate has a job");
            let [start, part] = [0, 1].map(|k| self.ahead[k].load(Ordering::Relaxed));
            let start = start + (i + 1) * part;
            if start != first {
                (ahead, first) = (start..start + part.min(PREFETCH), start);
            }
            // SAFETY: the caller does not return from `run` before this worker leaves the gate.
            self.work(parts, unsafe { &*work }, &mut scratch);
            if self.gate.fetch_sub(1, Ordering::Release) & (OPEN | INSIDE) == 1 {
                caller.unpark();
            }
        }
    }
}

impl Default for Shared {
    fn default() -> Self {
        Shared {
            gate: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            job: Slot::new(None),
            ahead: Default::default(),
            most: AtomicUsize::new(MOST),
            seated: Mutex::new(Vec::new()),
            count: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            panic: Mutex::new(None),
            quit: AtomicBool::new(false),
        }
    }
}

impl Seat {
    /// Makes the calling thread a worker of the pool until the pool ends. Nobody waits for it to come: work is shared by
    /// those who are there. Returns at once if the pool has ended, or has as many workers as it can have. In a page neither
    /// this thread nor the one that calls [`Pool::run`](super::Pool::run) can be the page's own, which may not wait.
    ///
    /// ```
    /// let pool = mynah::Pool::new(1); // the caller alone
    /// let seat = pool.seat();
    /// let other = std::thread::spawn(|| seat.serve());
    /// pool.run(100, &|part, _| { /* on either thread */ });
    /// drop(pool);
    /// other.join().unwrap();
    /// ```
    pub fn serve(self) {
        if let Some(i) = self.0.sit() {
            self.0.serve(i);
        }
    }
}

impl Workers {
    pub(super) fn new(count: usize) -> Self {
        let mut workers = Workers { shared: Arc::default(), handles: Vec::new() };
        while workers.handles.len() < count.min(MOST) && matches!(workers.start(None), Ok(true)) {}
        workers
    }

    /// One worker on each core.
    pub(super) fn bound(cores: &[usize]) -> Result<Self> {
        let mut workers = Workers { shared: Arc::default(), handles: Vec::new() };
        for (i, &core) in cores.iter().enumerate() {
            if !workers.start(Some(core))? {
                return Err(Error::limit("threads", 1 + cores.len() as u64, 1 + i as u64));
            }
        }
        Ok(workers)
    }

    pub(super) fn seat(&self) -> Seat {
        Seat(self.shared.clone())
    }

    /// Starts a worker, on a core if one is named, and waits until it is there, so that the next one sees what this one has
    /// taken. `false` if there is no thread for it.
    fn start(&mut self, core: Option<usize>) -> Result<bool> {
        // The standard library panics in a new thread that finds no memory, so it is looked for here.
        if room("a thread", STACK + ROOM).is_err() {
            return Ok(false);
        }
        let (send, receive) = mpsc::channel();
        let shared = self.shared.clone();
        let life = move || {
            let bound = core.map_or(Ok(()), bind);
            let seat = bound.as_ref().ok().and_then(|()| shared.sit());
            if send.send(bound.map(|()| seat.is_some())).is_ok() {
                seat.into_iter().for_each(|i| shared.serve(i));
            }
        };
        let builder = thread::Builder::new().name(format!("mynah-{}", self.handles.len())).stack_size(STACK);
        let Ok(handle) = builder.spawn(life) else { return Ok(false) };
        self.handles.push(handle);
        receive.recv().unwrap_or(Ok(false))
    }

    /// Workers that take part.
    pub(super) fn count(&self) -> usize {
        self.shared.count.load(Ordering::Relaxed).min(self.shared.most.load(Ordering::Relaxed))
    }

    pub(super) fn limit(&self, most: usize) {
        self.shared.most.store(most, Ordering::Relaxed);
    }

    pub(super) fn prefetch(&self, data: &[u8], part: usize) {
        self.shared.ahead[0].store(data.as_ptr().addr(), Ordering::Relaxed);
        self.shared.ahead[1].store(part, Ordering::Relaxed);
    }

    /// # Safety
    /// One call at a time.
    pub(super) unsafe fn run(&self, parts: usize, f: &Work, scratch: &mut Scratch) {
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes, and this function returns after the last use by a worker.
        let work = unsafe { core::mem::transmute::<*const Work<'_>, *const Work<'static>>(f) };
        // SAFETY: the gate is closed and empty between calls, so no worker reads `job`.
        unsafe { shared.job.set(Some(Job { parts, work, caller: thread::current() })) };
        shared.next.store(0, Ordering::Relaxed);
        let number = (shared.gate.load(Ordering::Relaxed) / NUMBER).wrapping_add(1);
        shared.gate.store(number.wrapping_mul(NUMBER) | OPEN, Ordering::Release);
        shared.wake(self.count().min(parts - 1));
        shared.work(parts, f, scratch);
        let mut gate = shared.gate.fetch_and(!OPEN, Ordering::Acquire);
        let mut spins = 0;
        while gate & INSIDE != 0 {
            spins += 1;
            if spins < SPINS {
                spin_loop();
            } else {
                thread::park();
            }
            gate = shared.gate.load(Ordering::Acquire);
        }
        if shared.panicked.swap(false, Ordering::Acquire) {
            let panic = shared.panic.lock().unwrap_or_else(|e| e.into_inner()).take();
            resume_unwind(panic.unwrap_or_else(|| Box::new("a part panicked")));
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.quit.store(true, Ordering::Release);
        self.shared.wake(MOST);
        for handle in self.handles.drain(..) {
            // A worker catches the panics of its parts, so it does not panic itself.
            let _ = handle.join();
        }
    }
}
