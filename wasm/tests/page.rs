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
fn steps_and_pieces_are_those_of_the_whole() {
    fn ok<T>(r: Result<T, wasm_bindgen::JsError>) -> T {
        r.unwrap_or_else(|_| panic!("it works"))
    }
    let mut m = ok(Mynah::embedded());
    let losses = ok(m.teach(mynah::base::NOTES, 4, 3, 2e-2));
    let mut page = ok(Mynah::embedded());
    let mut lesson = ok(page.lesson(mynah::base::NOTES, 4, 3, 2e-2));
    assert_eq!(lesson.steps(), 3);
    let steps: Vec<f64> = std::iter::from_fn(|| ok(lesson.step())).collect();
    assert_eq!(steps, losses);
    page.learn(lesson);
    assert_eq!(ok(page.save()), ok(m.save()));
    let (whole, ids) = (ok(page.generate("Up at four", 12)), ok(page.ids("Up at four", 12)));
    let mut text = ok(page.stream("Up at four", 12));
    let pieces: Vec<String> = std::iter::from_fn(|| ok(text.piece())).collect();
    assert_eq!(pieces.concat(), whole);
    assert!(!text.ids().is_empty() && ids.starts_with(&text.ids()));
    // A lesson that is left early has taught what it has taught.
    let mut lesson = ok(page.lesson(mynah::base::NOTES, 4, 3, 2e-2));
    ok(lesson.step());
    page.learn(lesson);
    assert_ne!(ok(page.save()), ok(m.save()));
    assert!(page.generate(&"far too long ".repeat(400), 1).is_err() && page.lesson("", 4, 3, 2e-2).is_err());
}

#[wasm_bindgen_test]
fn a_seed_expands_to_the_same_bits() {
    assert_eq!((digest::digests(1), digest::uni(1)), (digest::WANTED.to_vec(), digest::UNI));
    let (words, hash) = digest::stream();
    assert_eq!((&words[..], &*hash), (&digest::WORDS[..], digest::HASH));
}
