//! Where the shared reference data and models are.

pub use needs_shared::needs_shared;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join(std::env::var_os("MYNAH_SHARED").unwrap_or("../shared".into()))
}

/// The folder of shared data: `MYNAH_SHARED`, or `shared` beside the checkout. For tests with `#[needs_shared]`, which are
/// ignored where it is absent. Under `CI=true` they run, and fail here, so that no run passes by ignoring them.
pub fn shared() -> PathBuf {
    let path = folder();
    assert!(path.is_dir(), "no shared data at {}", path.display());
    path
}

/// The tests that are ignored were chosen when the suite was built.
#[test]
fn tests_are_ignored_only_while_there_are_no_shared_data() {
    let missed = folder().is_dir() && !needs_shared::found!();
    assert!(!missed, "{} has come since: `cargo clean -p needs_shared`, then test again", folder().display());
}

/// A function of the suite, and whether it is a test, and a marked one.
struct Function {
    name: String,
    test: bool,
    marked: bool,
    body: String,
}

/// The functions of a source, as rustfmt writes them: the brace that closes a body stands below the beginning.
fn functions(text: &str) -> Vec<Function> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let Some(rest) = code.strip_prefix("fn ").or_else(|| code.strip_prefix("pub fn ")) else { continue };
        let end = format!("{}}}", &line[..line.len() - code.len()]);
        let len = lines[at..].iter().position(|line| *line == end).unwrap_or(0);
        let above: Vec<&str> = lines[..at].iter().rev().map(|l| l.trim()).take_while(|l| l.starts_with("#[")).collect();
        found.push(Function {
            name: rest.split(|c: char| c != '_' && !c.is_alphanumeric()).next().unwrap().into(),
            test: above.contains(&"#[test]"),
            marked: above.contains(&"#[needs_shared]"),
            body: lines[at + 1..=at + len].join("\n"),
        });
    }
    found
}

/// Exactly the tests that call [`shared`], themselves or through functions of their file, are marked.
#[test]
fn tests_that_need_shared_data_are_marked() {
    let (mut tests, mut marked) = (0, 0);
    let files = |folder: &str| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite").join(folder);
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path())
    };
    for path in files("").chain(files("liar")) {
        if path.ends_with("shared.rs") || path.is_dir() {
            continue;
        }
        let all = functions(&std::fs::read_to_string(&path).unwrap());
        // What stands in a body that calls one.
        let mut needing = vec!["shared()".to_string()];
        let calls = |function: &Function, needing: &[String]| {
            needing.iter().any(|call| {
                function.body.match_indices(call).any(|(at, _)| {
                    let before = function.body[..at].chars().next_back();
                    before.is_none_or(|c| c != '_' && c != '.' && !c.is_alphanumeric())
                })
            })
        };
        loop {
            let call = |f: &Function| format!("{}(", f.name);
            let more = all.iter().filter(|f| !f.test && !needing.contains(&call(f)) && calls(f, &needing));
            let more: Vec<String> = more.map(call).collect();
            if more.is_empty() {
                break;
            }
            needing.extend(more);
        }
        for function in all.iter().filter(|f| f.test) {
            // A marked test may run in a process that another one starts.
            let starts = |f: &Function| f.marked && function.body.contains(&format!("\"{}\"", f.name));
            let (name, needs) = (&function.name, calls(function, &needing) || all.iter().any(starts));
            assert_eq!(
                function.marked,
                needs,
                "{}: {name} needs #[needs_shared], or has it for nothing",
                path.display()
            );
            tests += 1;
            marked += usize::from(needs);
        }
    }
    assert!(marked > 60 && tests > 2 * marked, "{marked} of {tests}: are tests found?");
}
