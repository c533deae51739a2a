//! Errors, as JavaScript's `Error` with a `code`.

use js_sys::{Error as JsError, Reflect};
use wasm_bindgen::JsValue;

/// An `Error` whose `code` is the name of the variant: `"memory"`, `"corrupt"`, `"mismatch"` …
pub fn error(e: mynah::Error) -> JsValue {
    coded(e.code(), &e.to_string())
}

/// One of the caller's own mistakes: text that is not the JSON that was expected.
pub fn options(e: serde_json::Error) -> JsValue {
    coded("invalid", &format!("options: {e}"))
}

fn coded(code: &str, message: &str) -> JsValue {
    let error = JsError::new(message);
    // Fails for objects that cannot be extended, which a new one can.
    Reflect::set(&error, &"code".into(), &code.into()).ok();
    error.into()
}
