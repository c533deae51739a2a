//! What a page does, in a WebAssembly engine.

#![cfg(target_arch = "wasm32")]

#[path = "../../tests/suite/digest.rs"]
mod digest;
#[path = "../../tests/suite/kernels.rs"]
mod kernels;

use mynah_wasm::Mynah;
use wasm_bindgen_test::wasm_bindgen_test;

#[wasm_bindgen_test]
fn teaches_saves_and_attaches() {
    let ok = |m: Result<Mynah, wasm_bindgen::JsError>| m.unwrap_or_else(|_| panic!("the embedded model opens"));
    let mut m = ok(Mynah::embedded());
    let say = |m: &Mynah| m.generate("Up at four", 8).unwrap_or_else(|_| panic!("it speaks"));
    let before = say(&m);
    let losses = m.teach(mynah::base::NOTES, 4, 3, 2e-2).unwrap_or_else(|_| panic!("it learns"));
    assert!(losses.len() == 3 && losses.iter().all(|l| l.is_finite()));
    let bytes = m.save().unwrap_or_else(|_| panic!("it is saved"));
    let mut again = ok(Mynah::embedded());
    assert_eq!(say(&again), before);
    again.attach(bytes.clone()).unwrap_or_else(|_| panic!("it attaches"));
    assert_eq!(again.save().unwrap_or_else(|_| panic!("it is saved again")), bytes);
}

#[wasm_bindgen_test]
fn a_seed_expands_to_the_same_bits() {
    assert_eq!(digest::digests(1), digest::WANTED);
}
