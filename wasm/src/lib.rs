//! JavaScript in, library calls out. Conversions only: whatever is missing belongs into `mynah`.
//!
//! `js/` makes a package of this: a worker calls what is here, and a page calls the worker. Settings, messages and reports are
//! JSON; what each holds is written in `js/mynah.d.ts`.

mod error;
mod file;
mod lesson;
mod model;
mod options;
mod speech;

pub use file::File;
pub use lesson::Lesson;
pub use model::Model;
pub use speech::{Talk, Text};

use wasm_bindgen::prelude::*;

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
