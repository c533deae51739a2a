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
use std::io;
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
    handles: Vec<JoinHandle<()>>,
}

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

    /// The loop of worker `i`.
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
            panicked: AtomicBool::new(false),
            panic: Mutex::new(None),
            quit: AtomicBool::new(false),
        }
    }
}

impl Workers {
    pub(super) fn new(count: usize) -> Self {
        let mut workers = Workers { shared: Arc::default(), handles: Vec::new() };
        let (send, receive) = mpsc::channel();
        while workers.handles.len() < count.min(MOST) {
            let send = send.clone();
            // One after the other, so that the next one sees what this one has taken.
            if workers.start(move || send.send(()).is_ok()).is_err() || receive.recv().is_err() {
                break;
            }
        }
        workers
    }

    /// One worker on each core.
    pub(super) fn bound(cores: &[usize]) -> Result<Self> {
        let mut workers = Workers { shared: Arc::default(), handles: Vec::new() };
        let (send, receive) = mpsc::channel();
        for (i, &core) in cores.iter().enumerate() {
            let send = send.clone();
            let bound = move || {
                let result = bind(core);
                let good = result.is_ok();
                send.send(result).is_ok() && good
            };
            let started = if i < MOST { workers.start(bound) } else { Err(io::ErrorKind::Unsupported.into()) };
            started.map_err(|_| Error::limit("threads", 1 + cores.len() as u64, 1 + i as u64))?;
            receive.recv().unwrap_or_else(|_| unreachable!("this function holds a sender"))?;
        }
        Ok(workers)
    }

    /// A thread that becomes a worker if `ready` returns true in it.
    fn start(&mut self, ready: impl FnOnce() -> bool + Send + 'static) -> io::Result<()> {
        // The standard library panics in a new thread that finds no memory, so it is looked for here.
        room("a thread", STACK + ROOM).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let (shared, i) = (self.shared.clone(), self.handles.len());
        let life = move || {
            if ready() {
                shared.serve(i);
            }
        };
        self.handles.push(thread::Builder::new().name(format!("mynah-{i}")).stack_size(STACK).spawn(life)?);
        Ok(())
    }

    /// Workers that take part.
    pub(super) fn count(&self) -> usize {
        self.handles.len().min(self.shared.most.load(Ordering::Relaxed))
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
        for handle in self.handles.iter().take(self.count().min(parts - 1)) {
            handle.thread().unpark();
        }
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
        for handle in self.handles.drain(..) {
            handle.thread().unpark();
            // A worker catches the panics of its parts, so it does not panic itself.
            let _ = handle.join();
        }
    }
}
