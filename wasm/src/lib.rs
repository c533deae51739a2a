//! JavaScript in, library calls out. Conversions only: whatever is missing belongs into `mynah`.
//!
//! `js/` makes a package of this: a worker calls what is here, and a page calls the worker. Settings, messages and reports are
//! JSON; what each holds is written in `js/mynah.d.ts`.

mod error;
#[cfg(feature = "tests")]
mod fault;
mod file;
mod lesson;
mod model;
mod options;
mod speech;

pub use file::File;
pub use lesson::Lesson;
pub use model::Model;
pub use speech::{Talk, Text};

use mynah::Pool;
use std::sync::OnceLock;
use wasm_bindgen::prelude::*;

/// The threads of this memory, which is one for all instances that share it.
static POOL: OnceLock<Pool> = OnceLock::new();

pub(crate) fn pool() -> &'static Pool {
    POOL.get_or_init(|| Pool::new(1))
}

/// Makes the calling instance, one of several in the same memory, a helper of the others. It does not return, and its worker
/// hears nothing any more.
#[wasm_bindgen]
pub fn serve() {
    pool().seat().serve();
}

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = globalThis, js_name = mynahPanicked)]
    fn panicked(message: &str);
}

/// Once, before anything else: a panic tells `globalThis.mynahPanicked` what has happened before it ends the instance.
#[wasm_bindgen]
pub fn start() {
    std::panic::set_hook(Box::new(|info| panicked(&info.to_string())));
}

/// Bytes of memory that the instance has, used or not.
#[wasm_bindgen]
pub fn size() -> usize {
    #[cfg(target_arch = "wasm32")]
    return core::arch::wasm32::memory_size(0) << 16;
    #[cfg(not(target_arch = "wasm32"))]
    0
}
