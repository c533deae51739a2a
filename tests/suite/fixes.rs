//! Five corrections reach fresh conversations, and ordinary answers stay what they were.

#[path = "../../examples/manners.rs"]
mod measure;

use crate::shared::{needs_shared, shared};
use measure::{MANNERS, ordinary, teach};
use mynah::Mynah;
use mynah::app::LearnSettings;

#[needs_shared]
#[test]
fn five_corrections_reach_fresh_conversations() {
    let shared = shared();
    let mynah = Mynah::open(shared.join("models/SmolLM2-135M-Instruct.Q4_0.gguf")).unwrap();
    let ordinary = ordinary(&mynah, 48).unwrap();
    let outcome = teach(&mynah, &MANNERS[0], &LearnSettings::default(), &ordinary).unwrap();
    let [before, after] = outcome.loss;
    eprintln!("{} of 8, loss {before:.4} to {after:.4}, {:?}: {:?}", outcome.followed, outcome.took, outcome.said);
    assert!(outcome.followed >= 6, "{:?}", outcome.said);
    assert!(after < 1.03 * before, "{before} to {after}");
}
