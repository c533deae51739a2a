//! The pages of `docs`: what they point at is there, and their tables are complete.

use mynah::adapter::KINDS;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[allow(dead_code, reason = "its `main` is the example's")]
#[path = "../../examples/picture.rs"]
mod picture;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README and the pages of `docs`: path and text.
fn pages() -> Vec<(PathBuf, String)> {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = docs.filter(|path| path.extension().is_some_and(|e| e == "md")).collect();
    paths.push(root().join("README.md"));
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn links_lead_somewhere() {
    let mut followed = 0;
    for (page, text) in pages() {
        let folder = page.parent().unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap();
            if !path.is_empty() && !path.contains("://") {
                assert!(folder.join(path).exists(), "{}: {link} is not there", page.display());
                followed += 1;
            }
        }
    }
    assert!(followed > 20, "{followed} links");
}

/// Names between backticks like `room::name`, where `room` is a file of the suite.
#[test]
fn tests_that_are_named_exist() {
    let mut named = BTreeSet::new();
    for (page, text) in pages() {
        for name in text.split('`').skip(1).step_by(2) {
            let Some((file, test)) = name.rsplit_once("::") else { continue };
            let file = file.replace("::", "/");
            let Ok(source) = fs::read_to_string(root().join(format!("tests/suite/{file}.rs"))) else { continue };
            let word = test.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            if word {
                assert!(source.contains(&format!("fn {test}(")), "{}: no test {name}", page.display());
                named.insert(name.to_string());
            }
        }
    }
    assert!(named.len() > 30, "{named:?}");
}

#[test]
fn every_kind_of_adapter_has_its_row() {
    let page = include_str!("../../docs/adapters.md");
    for kind in KINDS {
        assert!(page.contains(&format!("| `{}` |", kind.name)), "docs/adapters.md has no row of {}", kind.name);
    }
}

#[test]
fn the_picture_is_what_its_program_draws() {
    let drawn = picture::svg();
    let kept = include_str!("../../docs/picture.svg");
    assert!(drawn == kept, "cargo run --release --example picture -- docs/picture.svg");
    assert!(kept.len() <= 8000, "{} bytes", kept.len());
}
