use super::{Scratch, threads::Workers};
use loom::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Tries all orders of a caller and `workers` workers, with at most `preemptions` of a thread that could go on.
fn explore(workers: usize, preemptions: usize, test: impl Fn(&Workers) + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(move || test(&Workers::new(workers)));
}

/// A caller's work.
fn run(workers: &Workers, parts: usize, work: impl Fn(usize) + Sync) {
    // SAFETY: the test calls it from one thread.
    unsafe { workers.run(parts, &|part, _: &mut Scratch| work(part), &mut Scratch) };
}

#[test]
fn every_part_is_done_once_and_before_the_caller_goes_on() {
    explore(2, 2, |workers| {
        // Two jobs, so that a worker may come late to the first one.
        for parts in [2, 3] {
            // What parts write without a lock, the caller reads: loom sees it if nothing orders these.
            let written: Vec<_> = (0..parts).map(|_| loom::cell::UnsafeCell::new(0)).collect();
            let written = Shared(written);
            // SAFETY: each part has a value of its own.
            run(workers, parts, |part| written.get(part).with_mut(|n| unsafe { *n += 1 }));
            for part in 0..parts {
                // SAFETY: the parts are done.
                assert_eq!(written.get(part).with(|n| unsafe { *n }), 1);
            }
        }
    });
}

struct Shared(Vec<loom::cell::UnsafeCell<usize>>);

// SAFETY: parts touch different values, which loom checks.
unsafe impl Sync for Shared {}

impl Shared {
    fn get(&self, i: usize) -> &loom::cell::UnsafeCell<usize> {
        &self.0[i]
    }
}

#[test]
fn a_panic_of_a_part_reaches_the_caller_and_the_next_job_is_done() {
    explore(1, 3, |workers| {
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            run(workers, 2, |part| assert!(part != 1, "part 1 fails"));
        }));
        assert!(caught.is_err());
        let done = AtomicUsize::new(0);
        run(workers, 2, |_| _ = done.fetch_add(1, Relaxed));
        assert_eq!(done.load(Relaxed), 2);
    });
}

#[test]
fn a_worker_that_may_not_enter_is_not_waited_for() {
    explore(2, 2, |workers| {
        workers.limit(1);
        let done = AtomicUsize::new(0);
        run(workers, 3, |_| _ = done.fetch_add(1, Relaxed));
        assert_eq!(done.load(Relaxed), 3);
    });
}

#[test]
fn a_thread_that_comes_of_itself_may_come_at_any_time_and_goes_with_the_pool() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let workers = Workers::new(0);
        let seat = workers.seat();
        let other = loom::thread::spawn(move || seat.serve());
        for parts in [2, 3] {
            let written = Shared((0..parts).map(|_| loom::cell::UnsafeCell::new(0)).collect());
            // SAFETY: each part has a value of its own.
            run(&workers, parts, |part| written.get(part).with_mut(|n| unsafe { *n += 1 }));
            for part in 0..parts {
                // SAFETY: the parts are done.
                assert_eq!(written.get(part).with(|n| unsafe { *n }), 1);
            }
        }
        drop(workers);
        // In time, too late, or asleep when the pool ended: it comes back.
        other.join().unwrap();
    });
}
