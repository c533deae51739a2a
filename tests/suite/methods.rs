//! Every kind of adapter from the command: trained with its usual settings, paused and resumed, loaded, inspected, run; and
//! what it learns of the demo's notes beside LoRA.

use mynah::adapter::KINDS;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn mynah(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mynah")).args(args).current_dir(dir).output().unwrap()
}

#[track_caller]
fn good(dir: &Path, args: &[&str]) -> String {
    let out = mynah(dir, args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// The built-in model and the demo's notes, a row a line.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("model.gguf"), mynah::base::MODEL).unwrap();
    let rows = mynah::base::NOTES.lines().filter(|l| !l.is_empty());
    let rows: String = rows.map(|l| format!("{}\n", serde_json::json!({ "text": l }))).collect();
    std::fs::write(dir.path().join("notes.jsonl"), rows).unwrap();
    dir
}

#[test]
fn every_kind_saves_loads_resumes_and_is_inspected() {
    let dir = folder();
    let dir = dir.path();
    for kind in KINDS.iter().map(|k| k.name) {
        let [whole, parts, saved] = ["whole", "parts", "saved"].map(|part| format!("{kind}.{part}"));
        let train =
            ["train", "-m", "model.gguf", "-d", "notes.jsonl", "--method", kind, "--steps", "6", "--batch", "4"];
        good(dir, &[&train[..], &["-o", &whole]].concat());
        good(dir, &[&train[..], &["-o", &parts, "--checkpoints", &saved, "--max-steps", "3"]].concat());
        good(dir, &["train", "--resume", &saved]);
        let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
        assert!(read(&whole) == read(&parts), "{kind}: a resumed run ends in the same bytes");
        let told: Value = serde_json::from_str(&good(dir, &["inspect", &whole, "--json"])).unwrap();
        // A network is gone when it has made its rows.
        let left = match kind {
            "prefix-mlp" => "prefix",
            "p-tuning" => "prompt",
            kind => kind,
        };
        assert_eq!(told["kind"], left, "{told}");
        let said = good(dir, &["run", "-m", "model.gguf", "-a", &whole, "-p", "The lamp", "-n", "4", "--temp", "0"]);
        assert!(!said.is_empty());
        // With strength 0 it is not there.
        let logits = |more: &[&str]| {
            good(dir, &[&["logits", "-m", "model.gguf", "-p", "The lamp was lit", "--json"], more].concat())
        };
        let (base, zero, one) = (logits(&[]), logits(&["-a", &format!("{whole}:0")]), logits(&["-a", &whole]));
        assert_eq!(base, zero, "{kind}");
        assert_ne!(base, one, "{kind}");
        let more = [
            "train",
            "-m",
            "model.gguf",
            "-d",
            "notes.jsonl",
            "--steps",
            "1",
            "--init",
            &whole,
            "-o",
            "more",
            "--force",
        ];
        good(dir, &more);
    }
}

/// What a method would not use is refused.
#[test]
fn options_that_a_kind_does_not_use_are_refused() {
    let dir = folder();
    for (options, words) in [
        ("--method prompt --layers 0", "--layers: prompt is in no block"),
        ("--method prompt --targets q", "prompt changes no linear layers"),
        ("--method full --targets q", "--method full trains all weights"),
        ("--method full --layers 0", "--method full trains all weights"),
        ("--method prefix --dropout 0.1", "prefix has no input"),
    ] {
        let train = ["train", "-m", "model.gguf", "-d", "notes.jsonl", "-o", "out", "--steps", "1"];
        let out = mynah(dir.path(), &[&train[..], &options.split(' ').collect::<Vec<_>>()].concat());
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && said.contains(words), "{options}: {said}");
        assert!(!dir.path().join("out").exists());
    }
}

/// Rows before the text are beside the context: a text as long as that is still learnt.
#[test]
fn a_whole_context_is_learnt_behind_a_prompt() {
    let dir = folder();
    let dir = dir.path();
    std::fs::write(dir.join("long.txt"), mynah::base::NOTES.repeat(2)).unwrap();
    let args = ["train", "-m", "model.gguf", "-d", "long.txt", "--method", "prompt", "-o", "long.mynah", "--json"];
    let told: Value =
        serde_json::from_str(good(dir, &[&args[..], &["--steps", "2"]].concat()).lines().last().unwrap()).unwrap();
    assert_eq!(told["steps"], 2, "{told}");
}

/// A short training at its usual rate lowers the held-out loss of the demo's notes at least half as far as LoRA of rank 8.
#[test]
fn every_kind_learns_half_of_what_lora_does() {
    let dir = folder();
    let dir = dir.path();
    let losses = |kind: &str| {
        let out = format!("{kind}.mynah");
        let args = ["train", "-m", "model.gguf", "-d", "notes.jsonl", "--method", kind, "-o", &out, "--json"];
        let more = ["--batch", "8", "--epochs", "6", "--eval-fraction", "0.1", "--eval-every", "100", "--threads", "1"];
        let told: Value =
            serde_json::from_str(good(dir, &[&args[..], &more].concat()).lines().last().unwrap()).unwrap();
        ["eval_before", "eval_after"].map(|key| told[key].as_f64().unwrap())
    };
    // A fresh LoRA changes nothing: its loss is the base's.
    let [base, lora] = losses("lora");
    assert!(lora < base - 1.0, "{base} -> {lora}");
    for kind in KINDS.iter().map(|k| k.name).filter(|k| *k != "lora") {
        let [_, after] = losses(kind);
        eprintln!("{kind}: held-out loss {base:.3} -> {after:.3}, lora {lora:.3}");
        assert!(base - after >= (base - lora) / 2.0, "{kind}: {base} -> {after}, lora {lora}");
    }
}
