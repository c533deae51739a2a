//! A request to end that any thread may make.

use core::sync::atomic::{AtomicBool, Ordering};
use std::prelude::v1::*;
use std::sync::Arc;

/// A handle that ends a generation, or other long work: clones of it are one. It is looked at between tokens, and between
/// the chunks of a prompt.
///
/// ```
/// let stop = mynah::decode::Stop::new();
/// let handle = stop.clone(); // for a button, a signal, another thread
/// handle.pull();
/// assert!(stop.pulled());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// One that nobody has pulled.
    pub fn new() -> Stop {
        Stop::default()
    }

    /// Asks to end. What has begun ends at its next look.
    pub fn pull(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Takes the request back, for the next piece of work.
    pub fn reset(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Whether somebody has asked.
    pub fn pulled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
