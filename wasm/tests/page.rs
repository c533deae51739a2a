//! What holds on every target, in a WebAssembly engine. What a page does is tested from JavaScript, beside this file.

#![cfg(target_arch = "wasm32")]

#[path = "../../tests/suite/digest.rs"]
mod digest;
#[path = "../../tests/suite/kernels.rs"]
mod kernels;

use wasm_bindgen_test::wasm_bindgen_test;

#[wasm_bindgen_test]
fn a_seed_expands_to_the_same_bits() {
    assert_eq!((digest::digests(1), digest::uni(1)), (digest::WANTED.to_vec(), digest::UNI));
    assert_eq!(digest::starts(1), digest::STARTS);
    let (words, hash) = digest::stream();
    assert_eq!((&words[..], &*hash), (&digest::WORDS[..], digest::HASH));
}
