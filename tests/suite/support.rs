//! The table of what is supported: a row for every architecture, with the proofs that the reference files give.

use crate::shared::{needs_shared, shared};
use mynah::model::support::{PLATFORMS, SUPPORT, Support};
use mynah::model::{ARCHES, Arch};
use mynah::train::objective::{OBJECTIVES, Shape};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn every_architecture_has_a_row() {
    for arch in ARCHES {
        let rows: Vec<&Support> = SUPPORT.iter().filter(|row| row.arch == arch.name).collect();
        assert_eq!(rows.len(), 1, "rows of {} in src/model/support.rs", arch.name);
        assert!(!rows[0].models.is_empty(), "{}", arch.name);
    }
}

/// The table as README shows it.
fn markdown() -> String {
    let mut text =
        String::from("| `general.architecture` | models | run | train | chat templates compared | proof |\n");
    text += "| --- | --- | --- | --- | --- | --- |\n";
    for row in SUPPORT {
        let [run, train] = [row.run, row.train].map(|cell| if cell.is_empty() { "no" } else { cell });
        let (chat, proof) = (row.chat_cell(), row.proof_cell());
        text += &format!("| `{}` | {} | {run} | {train} | {chat} | {proof} |\n", row.arch, row.models);
    }
    text
}

#[test]
fn the_readme_shows_the_table() {
    let (readme, table) = (include_str!("../../README.md"), markdown());
    assert!(readme.contains(&table), "README.md lacks this table:\n{table}");
}

/// Kinds, objectives by the rows they learn from, and systems are those of the code.
#[test]
fn the_readme_shows_kinds_objectives_and_systems() {
    let readme = include_str!("../../README.md");
    for kind in mynah::adapter::KINDS {
        assert!(readme.contains(&format!("`{}`", kind.name)), "README.md lacks {}", kind.name);
    }
    for shape in [Shape::Completion, Shape::Pair, Shape::Verdict, Shape::Mixed, Shape::Contrast] {
        let of = OBJECTIVES.iter().filter(|kind| kind.shape == shape);
        let cell = of.map(|kind| format!("`{}`", kind.name)).collect::<Vec<_>>().join(", ");
        assert!(readme.contains(&format!("| {cell} |")), "README.md lacks this cell:\n| {cell} |");
    }
    for platform in PLATFORMS {
        let row = format!("| {} | {} |", platform.name, platform.state);
        assert!(readme.contains(&row), "README.md lacks this row:\n{row}");
    }
}

#[test]
fn the_command_prints_the_table() {
    let print = |args: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_mynah")).args(args).output().unwrap();
        assert!(out.status.success());
        String::from_utf8(out.stdout).unwrap()
    };
    let printed: Value = serde_json::from_str(&print(&["models", "--json"])).unwrap();
    let names: Vec<&str> =
        printed["architectures"].as_array().unwrap().iter().map(|row| row["architecture"].as_str().unwrap()).collect();
    assert_eq!(names, SUPPORT.iter().map(|row| row.arch).collect::<Vec<_>>());
    assert!(printed["formats"].as_array().unwrap().contains(&"IQ2_XXS".into()));
    let text = print(&["models"]);
    assert!(ARCHES.iter().all(|arch| text.lines().any(|line| line.trim_start().starts_with(arch.name))), "{text}");
}

/// Names without size and format.
fn short(name: &str) -> String {
    let name = name.split_once('-').map_or(name, |(_, rest)| rest);
    ["-f32", "-q4_k_m"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name).to_string()
}

#[needs_shared]
#[test]
fn proofs_are_those_of_the_reference_files() {
    let shared = shared();
    let dir = shared.join("golden/llamacpp/arch");
    let manifest = json(&dir.join("manifest.json"));
    let arch_of =
        |name: &str| manifest[format!("models/arch/{name}.gguf")]["architecture"].as_str().map(str::to_string);
    let mut logits = BTreeSet::new();
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap();
        let Some(name) = file.strip_suffix(".f32ref.json") else { continue };
        let name = name.trim_end_matches("-ctx256").trim_end_matches("-ctx512");
        let arch = arch_of(name).unwrap_or_else(|| panic!("{name} is in no manifest"));
        let encoder = Arch::by_name(&arch).is_ok_and(|arch| arch.encoder);
        assert_eq!(json(&path)[0].get("embedding").is_some(), encoder, "{name}");
        logits.insert((arch, short(name)));
    }
    let mut training = BTreeSet::new();
    for entry in std::fs::read_dir(shared.join("golden/peft/g_arch")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            let name = path.file_name().unwrap().to_str().unwrap().to_string();
            training.insert((arch_of(&format!("tiny64-{name}-f32")).unwrap(), name));
        }
    }
    let of = |all: &BTreeSet<(String, String)>, arch: &str| -> Vec<String> {
        all.iter().filter(|(a, _)| a == arch).map(|(_, name)| name.clone()).collect()
    };
    for row in SUPPORT {
        assert_eq!(row.logits, of(&logits, row.arch), "logits of {}", row.arch);
        assert_eq!(row.training, of(&training, row.arch), "training of {}", row.arch);
    }
    // No reference is left out.
    let refused: BTreeSet<&str> = logits.iter().chain(&training).map(|(arch, _)| arch.as_str()).collect();
    let refused: Vec<&str> = refused.into_iter().filter(|arch| SUPPORT.iter().all(|row| row.arch != *arch)).collect();
    assert!(refused.is_empty(), "{refused:?}");

    // Templates of models whose architectures are refused.
    const OTHERS: [&str; 3] = ["apertus", "gemma-4", "gpt-oss"];
    let index = json(&shared.join("golden/chat/index.json"));
    let mut listed: Vec<&str> = SUPPORT.iter().flat_map(|row| row.chat).copied().chain(OTHERS).collect();
    listed.sort();
    let mut found: Vec<&str> = index.as_object().unwrap().keys().map(String::as_str).collect();
    found.sort();
    assert_eq!(listed, found, "each template of the references once");
}
