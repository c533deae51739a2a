//! Where the shared reference data and models are.

use std::path::{Path, PathBuf};

/// The folder of shared data: `MYNAH_SHARED`, or `shared` beside the checkout. `None` (said on stderr) when it is
/// not there; under `CI=true` that is a failure, so that no run passes by skipping.
pub fn shared() -> Option<PathBuf> {
    let path = std::env::var_os("MYNAH_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    if path.is_dir() {
        return Some(path);
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "no shared data at {}", path.display());
    eprintln!("skipped: no shared data at {}", path.display());
    None
}
