//! What the README and its pages tell a newcomer to type works as it stands.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const README: &str = include_str!("../../README.md");
/// Pages with commands.
const PAGES: [&str; 14] = [
    include_str!("../../docs/DESIGN.md"),
    include_str!("../../docs/adapters.md"),
    include_str!("../../docs/boards.md"),
    include_str!("../../docs/browser.md"),
    include_str!("../../docs/chat.md"),
    include_str!("../../docs/commands.md"),
    include_str!("../../docs/comparison.md"),
    include_str!("../../docs/data.md"),
    include_str!("../../docs/embedding.md"),
    include_str!("../../docs/embeddings.md"),
    include_str!("../../docs/guarantees.md"),
    include_str!("../../docs/model-files.md"),
    include_str!("../../docs/models.md"),
    include_str!("../../docs/training.md"),
];

/// An example that `cargo test` built, beside this test.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let build = test.parent().and_then(Path::parent).unwrap();
    let path = build.join("examples").join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    assert!(path.exists(), "no {}: `cargo test --workspace` builds the examples", path.display());
    path
}

/// The commands of a text: lines of its `sh` blocks, and what stands between backticks and begins like a command. A
/// name that is only mentioned has no arguments or stands for others in capitals.
fn commands(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (i, piece) in text.split("```").enumerate() {
        match piece.strip_prefix("sh\n") {
            Some(block) => found.extend(block.lines().map(str::to_string)),
            None if i % 2 == 0 => found.extend(piece.split('`').skip(1).step_by(2).map(str::to_string)),
            None => {}
        }
    }
    let command = |line: &str| Some(line.split(" #").next()?.trim().to_string());
    let kept = |c: &String| (c.starts_with("cargo ") || c.starts_with("mynah ")) && !c.contains("COMMAND");
    found.iter().filter_map(|l| command(l)).filter(kept).collect()
}

/// Words as a shell splits them, with single quotes only.
fn words(command: &str) -> Vec<String> {
    let mut out = Vec::new();
    for (i, piece) in command.split('\'').enumerate() {
        if i % 2 == 1 {
            out.push(piece.to_string());
        } else {
            out.extend(piece.split_whitespace().map(str::to_string));
        }
    }
    out
}

#[test]
fn every_command_runs() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("model.gguf"), mynah::base::MODEL).unwrap();
    for name in ["notes.txt", "other.txt"] {
        std::fs::write(dir.path().join(name), mynah::base::NOTES).unwrap();
    }
    std::fs::write(dir.path().join("notes.jsonl"), "{\"text\": \"The papers lie in the boat.\"}\n").unwrap();
    let chat = "[5.3.24, 10:00:00] Ben: Tea?\n[5.3.24, 10:01:00] Ann: At four.\n";
    std::fs::write(dir.path().join("chat.txt"), chat).unwrap();
    std::fs::write(dir.path().join("answers.csv"), "question,answer\nWhere is the key?,On the hook.\n").unwrap();
    let row = |i: usize| format!("{{\"query\": \"What came on day {i}?\", \"positive\": \"Ship number {i} came.\"}}\n");
    std::fs::write(dir.path().join("queries.jsonl"), (0..8).map(row).collect::<String>()).unwrap();
    let other =
        "{\"model_filename\": \"model.gguf\", \"n_prompt\": 512, \"n_gen\": 0, \"n_threads\": 1, \"avg_ts\": 9.0}\n";
    std::fs::write(dir.path().join("llama-bench.jsonl"), other).unwrap();
    let run = |program: &Path, args: &[String]| {
        let out = Command::new(program).args(args).current_dir(dir.path()).stdin(Stdio::null()).output().unwrap();
        assert!(out.status.success(), "{program:?} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        assert!(!out.stdout.is_empty() || ["train", "chat"].contains(&args[0].as_str()), "{args:?} prints nothing");
    };
    let mynah = Path::new(env!("CARGO_BIN_EXE_mynah"));
    let (mut ran, mut built) = (0, 0);
    let mut written = BTreeSet::new();
    for (page, command) in [&[README], &PAGES[..]]
        .concat()
        .into_iter()
        .enumerate()
        .flat_map(|(i, page)| commands(page).into_iter().map(move |c| (i, c)))
    {
        eprintln!("{command}");
        let words = words(&command);
        // Who reads a page may not have read another: what that wrote is not in the way.
        let quantised = words.get(1).is_some_and(|word| word == "quantize").then(|| words.get(3)).flatten();
        if let Some(out) = words.iter().position(|word| word == "-o").and_then(|i| words.get(i + 1)).or(quantised)
            && written.insert((page, out.clone()))
        {
            std::fs::remove_file(dir.path().join(out)).ok();
        }
        match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["mynah", ..] => run(mynah, &words[1..]),
            ["cargo", "run", "--release", "--", ..] => run(mynah, &words[4..]),
            // The whole of it takes a quarter of an hour: here its first steps.
            ["cargo", "run", "--release", "--example", "make_base", "--", ..] => {
                run(&example("make_base"), &[&words[6..], &["--steps".into(), "2".into()]].concat());
            }
            // With a model it takes minutes; the small one learns the same way.
            ["cargo", "run", "--release", "--example", name @ "manners", "--", ..] => run(&example(name), &words[6..]),
            ["cargo", "run", "--release", "--example", name] => run(&example(name), &[]),
            // This test is part of the first, and the second built what the others here ran.
            ["cargo", "test", "--workspace"] | ["cargo", "install", "--path", "."] => built += 1,
            _ => panic!("a command that no test runs: {command}"),
        }
        ran += 1;
    }
    assert!(ran >= 10 && built == 2, "{ran} commands, {built} of cargo's own");
    assert!(dir.path().join("facts.mynah").exists());
}

#[test]
fn the_example_is_a_page() {
    let source = include_str!("../../examples/finetune.rs");
    assert!(source.lines().count() < 60);
}
