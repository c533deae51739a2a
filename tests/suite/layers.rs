//! The import rule and the places of `unsafe`, read off the sources.

use std::path::{Path, PathBuf};

const UNSAFE: &[&str] = &[
    "bytes/map.rs",
    "kernel/arm.rs",
    "kernel/backend.rs",
    "kernel/floats.rs",
    "kernel/four.rs",
    "kernel/four/units.rs",
    "kernel/halves.rs",
    "kernel/ints.rs",
    "kernel/peak.rs",
    "kernel/pool.rs",
    "kernel/pool/threads.rs",
    "kernel/stored.rs",
    "kernel/unpack.rs",
    "kernel/wasm.rs",
    "kernel/wasm/lanes.rs",
    "kernel/wasm/relaxed_dots.rs",
    "kernel/wasm/wide_dots.rs",
    "kernel/words.rs",
    "kernel/x86.rs",
    "kernel/x86/avx512.rs",
];

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// Every source file of the library: its path below `src`, and its text.
fn library() -> Vec<(String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let name = |p: &PathBuf| p.strip_prefix(&src).unwrap().to_string_lossy().replace('\\', "/");
    let all = files.iter().map(|p| (name(p), std::fs::read_to_string(p).unwrap()));
    all.filter(|(name, _)| !name.starts_with("cli/")).collect()
}

#[test]
fn imports_point_up() {
    let files = library();
    let root = &files.iter().find(|(name, _)| name == "lib.rs").unwrap().1;
    let order: Vec<&str> =
        root.lines().filter_map(|l| l.strip_prefix("pub mod ")).map(|l| l.trim_end_matches(';')).collect();
    assert!(order.len() > 10, "the mod lines of lib.rs: {order:?}");
    let place = |room: &str| order.iter().position(|r| *r == room);
    for (name, text) in &files {
        let room = name.split(['/', '.']).next().unwrap();
        let Some(here) = place(room) else { continue };
        let code = text.split("#[cfg(test)]").next().unwrap();
        let code: String = code.lines().filter(|l| !l.trim_start().starts_with("//")).collect();
        for part in code.split("crate::").skip(1) {
            let end = part.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(part.len());
            if let Some(there) = place(&part[..end]) {
                assert!(there <= here, "{name} imports {} which stands below {room}", &part[..end]);
            }
        }
    }
}

#[test]
fn unsafe_code_stays_in_its_files() {
    for (name, text) in library() {
        let code = text.lines().filter(|l| !l.trim_start().starts_with("//"));
        let uses = code.filter(|l| l.contains("unsafe ") || l.contains("allow(unsafe_code)")).count();
        assert!(uses == 0 || UNSAFE.contains(&name.as_str()), "{name} has unsafe code");
    }
}
