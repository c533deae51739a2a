//! The seeds of the fuzzer, and every input that ever failed.

#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::panic::catch_unwind;
use std::path::Path;
use std::time::Instant;

#[test]
fn seeds_and_inputs_that_failed_are_survived() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let mut failed = Vec::new();
    for (name, target) in targets::TARGETS {
        assert!(fuzz.join(format!("fuzz_targets/{name}.rs")).is_file(), "{name} has no program");
        let mut tried = 0;
        for folder in ["seeds", "failed"] {
            let Ok(files) = std::fs::read_dir(fuzz.join(folder).join(name)) else { continue };
            for file in files {
                let path = file.unwrap().path();
                let (bytes, start) = (std::fs::read(&path).unwrap(), Instant::now());
                if catch_unwind(|| target(&bytes)).is_err() {
                    failed.push(path.display().to_string());
                }
                // Generous: a debug build on a busy machine.
                assert!(start.elapsed().as_secs() < 60, "{} takes {:?}", path.display(), start.elapsed());
                tried += 1;
            }
        }
        assert!(tried > 0, "{name} has no seeds");
    }
    assert!(failed.is_empty(), "{failed:#?}");
    let programs = std::fs::read_dir(fuzz.join("fuzz_targets")).unwrap().count();
    assert_eq!(programs, targets::TARGETS.len(), "a program without a row, or a row without a program");
}
