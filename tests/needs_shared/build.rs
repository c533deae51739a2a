//! Looks for the shared data: the folder `MYNAH_SHARED`, or `shared` beside the checkout.

use std::env;
use std::path::Path;

fn main() {
    println!("cargo::rustc-check-cfg=cfg(shared)");
    println!("cargo::rerun-if-env-changed=MYNAH_SHARED");
    println!("cargo::rerun-if-env-changed=CI");
    // Names from the root of the checkout, where tests run too.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = root.join(env::var_os("MYNAH_SHARED").unwrap_or("../shared".into()));
    // The folder itself is not watched: cargo would look at all of its files each time, and would build everything anew as
    // long as there is none. The suite notices when it comes.
    println!("cargo::rerun-if-changed=build.rs");
    let watched = folder.join("models/README.md");
    if watched.exists() {
        println!("cargo::rerun-if-changed={}", watched.display());
    }
    // No run of CI passes because data are missing.
    if folder.is_dir() || env::var("CI").as_deref() == Ok("true") {
        println!("cargo::rustc-cfg=shared");
    }
}
