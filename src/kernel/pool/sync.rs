//! What worker threads are made of. `tests/loom` has another page of this name, with which all orders are tried in which
//! the threads may run.
#![allow(unsafe_code)]

pub use core::hint::spin_loop;
pub use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
pub use std::sync::{Arc, Mutex, mpsc};
pub use std::thread::{self, JoinHandle, Thread};

use core::cell::UnsafeCell;

/// Checks of the gate before a thread goes to sleep: some 20 µs, longer than the pauses inside one token. WebAssembly has no
/// instruction that makes a check longer.
pub const SPINS: usize = if cfg!(target_family = "wasm") { 30_000 } else { 1500 };

/// A value that threads share. Whoever reads or writes it knows why no other thread writes at that time.
pub struct Slot<T>(UnsafeCell<T>);

impl<T> Slot<T> {
    pub fn new(value: T) -> Self {
        Slot(UnsafeCell::new(value))
    }

    /// # Safety
    /// No other thread writes or reads the value at this time.
    pub unsafe fn set(&self, value: T) {
        // SAFETY: the caller's promise.
        unsafe { *self.0.get() = value };
    }

    /// # Safety
    /// No other thread writes the value at this time.
    pub unsafe fn get<R>(&self, read: impl FnOnce(&T) -> R) -> R {
        // SAFETY: the caller's promise.
        read(unsafe { &*self.0.get() })
    }
}
