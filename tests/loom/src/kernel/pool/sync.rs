//! loom's threads and atomics, under the names that the pool uses.

pub use loom::hint::spin_loop;
pub use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
pub use loom::sync::{Arc, Mutex, mpsc};
pub use loom::thread::{self, JoinHandle, Thread};

/// A thread looks once more before it sleeps, so that it also goes on without having slept.
pub const SPINS: usize = 2;

/// A value that threads share; loom sees who reads and writes it.
pub struct Slot<T>(loom::cell::UnsafeCell<T>);

impl<T> Slot<T> {
    pub fn new(value: T) -> Self {
        Slot(loom::cell::UnsafeCell::new(value))
    }

    /// # Safety
    /// No other thread writes or reads the value at this time.
    pub unsafe fn set(&self, value: T) {
        // SAFETY: the caller's promise, which loom checks.
        self.0.with_mut(|slot| unsafe { *slot = value });
    }

    /// # Safety
    /// No other thread writes the value at this time.
    pub unsafe fn get<R>(&self, read: impl FnOnce(&T) -> R) -> R {
        // SAFETY: the caller's promise, which loom checks.
        self.0.with(|slot| read(unsafe { &*slot }))
    }
}
