//! Which file may use which, where kinds and architectures may be named, and the places of `unsafe`, read off the sources.

use mynah::adapter::KINDS;
use mynah::model::ARCHES;
use std::path::{Path, PathBuf};

/// Files with `unsafe` code, and what for.
const UNSAFE: &[(&str, &str)] = &[
    ("bytes/map.rs", "a mapped file, and the question whether a process lives"),
    ("cli/memory.rs", "the system's allocator, with a look at what it returns"),
    ("cli/signals.rs", "the question whether a signal is ignored, and the handler of faults in mapped files"),
    ("kernel/arm.rs", "instructions of NEON and of its extensions, loads by pointer"),
    ("kernel/backend.rs", "calls of functions that need features of the processor, once these were found"),
    ("kernel/floats.rs", "loads of 16 lanes inside a tile of floats, unchecked"),
    ("kernel/four.rs", "operations on four registers from pointers"),
    ("kernel/four/units.rs", "loads of integers in the tiles of four registers, unchecked"),
    ("kernel/floats16.rs", "loads of 16 lanes inside a tile of half floats, unchecked"),
    ("kernel/ints.rs", "loads of quantised blocks and rounded rows inside a tile, unchecked"),
    ("kernel/peak.rs", "instructions that are timed, once their features were found"),
    ("kernel/pool.rs", "rectangles of one slice that several threads write"),
    ("kernel/pool/sync.rs", "a value that threads share under the gate"),
    ("kernel/pool/threads.rs", "work that is lent to threads for as long as the caller waits"),
    ("kernel/stored.rs", "loads of a cache's rows inside a tile, unchecked"),
    ("kernel/unpack.rs", "loads of quantised blocks of rows apart, unchecked"),
    ("kernel/wasm.rs", "instructions of WebAssembly, loads by pointer"),
    ("kernel/wasm/lanes.rs", "loads and stores of a register by pointer"),
    ("kernel/wasm/relaxed_dots.rs", "products of integers with relaxed instructions, loads by pointer"),
    ("kernel/wasm/wide_dots.rs", "products of integers with the instructions that all engines have, loads by pointer"),
    ("kernel/int16.rs", "loads of 16 lanes inside a tile of half floats as integers, unchecked"),
    ("kernel/x86.rs", "instructions of AVX2, loads by pointer"),
    ("kernel/x86/avx512.rs", "instructions of AVX-512 and of its extensions, loads by pointer"),
];

/// Files of a room from top to bottom: one imports from those of its own line and of the lines above. `mod.rs` holds what
/// all of them share.
const INSIDE: &[(&str, &[&[&str]])] = &[
    ("picture", &[&["parts"], &["code"], &["page"], &["finder"], &["grid"], &["look"]]),
    (
        "model",
        &[
            &["arch", "hparams"],
            &["support", "identity"],
            &["weights"],
            &["acts"],
            &["cache"],
            &["pass", "doors", "block", "mixer", "mixture"],
            &["session", "embedding"],
        ],
    ),
    (
        "adapter",
        &[
            &["json", "basis", "compress", "pattern", "algebra", "profile"],
            &["place", "base"],
            &["shape"],
            &["stack"],
            &["safetensors", "foreign", "file"],
            &["probe"],
            &["lowrank"],
            &["spec", "triplet"],
            &["direct", "settled", "frame"],
            &["small", "net"],
            &["kinds"],
            &["changes", "budget", "merge"],
            &["peft", "gguf_adapter"],
            &["mlx"],
            &["folder"],
        ],
    ),
    ("decode", &[&["stop"], &["candidates"], &["stage"], &["sampler"], &["sample"], &["generator"]]),
    (
        "train",
        &[
            &["schedule", "state", "batch", "data"],
            &["optim", "objective"],
            &["density", "reference", "activation_cache"],
            &["backprop"],
            &["zeroth", "checkpoint", "plan"],
            &["folder", "journal", "feedback", "groups"],
        ],
    ),
    ("rewrite", &[&["mixes"], &["importance"], &["quantise"], &["bake", "folder"]]),
    (
        "app",
        &[
            &["history"],
            &["settings", "method"],
            &["data"],
            &["prepare", "output"],
            &["lesson"],
            &["setup", "draft"],
            &["checkpoints"],
            &["complete"],
            &["verify"],
            &["embed", "merge", "shelf"],
            &["talk"],
            &["feedback"],
        ],
    ),
];

/// Words that the code of a room does not have, and why.
const SILENT: &[(&str, &[&str], &str)] = &[
    ("nn/", &["Adapter", "Stack", "Model", "HParams", "Role", "Place"], "layers know neither adapters nor models"),
    ("train/", &["ARCHES", "Arch", "arch"], "training is the same for every architecture"),
    ("train/", &["LowRank", "Layout"], "training knows adapters by their shapes alone"),
    ("model/", &["LowRank", "Layout", "KINDS", "kinds"], "a model knows adapters by their places alone"),
    ("adapter/", &["ARCHES", "Arch", "HParams"], "an adapter knows a model by what that tells of itself"),
];

/// Where the name of a kind or of an architecture may stand beside its own file and its row, and why.
const NAMED: &[(&str, &str, &str)] = &[
    ("adapter/spec.rs", "lora", "the usual kind of a library's caller"),
    ("adapter/changes.rs", "lora", "what other programs hold is one of these kinds"),
    ("adapter/changes.rs", "dora", "the same"),
    ("adapter/changes.rs", "ia3", "the same"),
    ("adapter/changes.rs", "prompt", "the same"),
    ("adapter/changes.rs", "prefix", "the same"),
    ("adapter/kinds/mam.rs", "prefix", "it is made of these kinds"),
    ("adapter/kinds/mam.rs", "parallel", "the same"),
    ("adapter/kinds/prefix_mlp.rs", "prefix", "what it makes is of this kind"),
    ("adapter/kinds/p_tuning.rs", "prompt", "the same"),
    ("adapter/peft/mod.rs", "granite", "its virtual tokens are others there, which nothing here can know"),
    ("adapter/peft/write.rs", "gpt2", "its matrices lie otherwise there, which nothing here can know"),
    ("adapter/kinds/shifted.rs", "lora", "what follows from other starts is this kind too"),
    ("adapter/merge/mod.rs", "lora", "what low-rank changes are merged into"),
    ("adapter/gguf_adapter.rs", "lora", "what that program's files hold is this kind, and they say so"),
    ("adapter/mlx.rs", "lora", "a word of its files"),
    ("adapter/mlx.rs", "dora", "the same"),
    ("cli/convert.rs", "lora", "what kinds are elsewhere that other programs do not have"),
    ("container/codec.rs", "sparse", "a codec of that name"),
    ("adapter/compress.rs", "sparse", "the same"),
    ("train/data/shape.rs", "prompt", "a key of rows of data"),
    ("train/data/turns.rs", "prompt", "a key of rows of data"),
    ("train/feedback.rs", "prompt", "a key of rows of data"),
    ("app/feedback/mod.rs", "prompt", "a key of rows of data"),
    ("text/split.rs", "qwen2", "the name of a pre-tokenizer in files"),
    ("text/split.rs", "lfm2", "the same"),
    ("text/split.rs", "qwen35", "the same"),
    ("text/load.rs", "llama", "the name of a tokenizer in files, not of an architecture"),
    ("text/load.rs", "gpt2", "the same"),
    ("text/load.rs", "bert", "the same"),
    ("text/load.rs", "phi3", "a part of the name of models whose special tokens are followed by space"),
    ("rewrite/mixes.rs", "llama", "a rule of llama.cpp's quantiser for its largest models"),
    ("rewrite/mixes.rs", "qwen2", "the same"),
    ("rewrite/folder/families.rs", "bert", "the architecture of a class of another program, as those that follow"),
    ("rewrite/folder/families.rs", "gemma", "the same"),
    ("rewrite/folder/families.rs", "gemma-embedding", "the same"),
    ("rewrite/folder/families.rs", "gemma2", "the same"),
    ("rewrite/folder/families.rs", "gemma3", "the same"),
    ("rewrite/folder/families.rs", "gpt2", "the same"),
    ("rewrite/folder/families.rs", "granite", "the same"),
    ("rewrite/folder/families.rs", "lfm2", "the same"),
    ("rewrite/folder/families.rs", "llama", "the same"),
    ("rewrite/folder/families.rs", "olmo2", "the same"),
    ("rewrite/folder/families.rs", "olmoe", "the same"),
    ("rewrite/folder/families.rs", "phi3", "the same"),
    ("rewrite/folder/families.rs", "qwen2", "the same"),
    ("rewrite/folder/families.rs", "qwen2moe", "the same"),
    ("rewrite/folder/families.rs", "qwen3", "the same"),
    ("rewrite/folder/families.rs", "qwen35", "the same"),
    ("rewrite/folder/families.rs", "qwen3moe", "the same"),
    ("rewrite/folder/families.rs", "smollm3", "the same"),
    ("rewrite/folder/families.rs", "stablelm", "the same"),
    ("rewrite/folder/families.rs", "starcoder2", "the same"),
    ("rewrite/folder/vocabulary.rs", "bert", "the name of a tokenizer in files, not of an architecture"),
    ("rewrite/folder/vocabulary.rs", "gpt2", "the same"),
    ("rewrite/folder/vocabulary.rs", "llama", "the same"),
    ("rewrite/folder/vocabulary.rs", "qwen2", "the name of a pre-tokenizer in files"),
    ("rewrite/folder/vocabulary.rs", "qwen35", "the same"),
    ("cli/args/look.rs", "prompt", "an option of the command"),
    ("cli/demo.rs", "nola", "the demonstration shows the smallest files"),
    ("cli/bench/report.rs", "lora", "the kind that its page compares"),
    ("cli/args/knobs.rs", "lora", "the usual kind of the command"),
];

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Mark(char),
}

use Token::{Mark, Text, Word};

/// The words, texts and marks of a source, without comments and without what only tests compile.
fn code(source: &str) -> Vec<Token> {
    let c: Vec<char> = source.chars().collect();
    let (mut i, mut out) = (0, Vec::new());
    let ends =
        |from: usize, what: &str| (from..c.len()).find(|&i| c[i..].iter().take(what.len()).collect::<String>() == what);
    while i < c.len() {
        let next = c.get(i + 1).copied().unwrap_or(' ');
        if c[i] == '/' && next == '/' {
            i = ends(i, "\n").unwrap_or(c.len());
        } else if c[i] == '/' && next == '*' {
            i = ends(i, "*/").unwrap_or(c.len()) + 2;
        } else if c[i] == 'r' && (next == '"' || next == '#' && c.get(i + 2).is_some_and(|c| "#\"".contains(*c))) {
            let hashes = c[i + 1..].iter().take_while(|c| **c == '#').count();
            let start = i + hashes + 2;
            let end = ends(start, &format!("\"{}", "#".repeat(hashes))).unwrap();
            out.push(Text(c[start..end].iter().collect()));
            i = end + 1 + hashes;
        } else if c[i] == '"' {
            let start = i + 1;
            i = start;
            while c[i] != '"' {
                i += if c[i] == '\\' { 2 } else { 1 };
            }
            out.push(Text(c[start..i].iter().collect()));
            i += 1;
        } else if c[i] == '\'' && next == '\\' {
            i = ends(i + 3, "'").unwrap() + 1;
        } else if c[i] == '\'' && c.get(i + 2) == Some(&'\'') {
            i += 3;
        } else if c[i].is_alphanumeric() || c[i] == '_' {
            let end = (i..c.len()).find(|&i| !(c[i].is_alphanumeric() || c[i] == '_')).unwrap_or(c.len());
            out.push(Word(c[i..end].iter().collect()));
            i = end;
        } else {
            if !c[i].is_whitespace() {
                out.push(Mark(c[i]));
            }
            i += 1;
        }
    }
    without_tests(out)
}

fn without_tests(mut tokens: Vec<Token>) -> Vec<Token> {
    let word = |w: &str| Word(w.into());
    let tag = [Mark('#'), Mark('['), word("cfg"), Mark('('), word("test"), Mark(')'), Mark(']')];
    while let Some(start) = tokens.windows(tag.len()).position(|w| w == tag) {
        let (mut end, mut depth) = (start + tag.len(), 0);
        // An item ends with `;` or with the brace that closes its body.
        loop {
            match tokens[end] {
                Mark('{') => depth += 1,
                Mark('}') => depth -= 1,
                _ => {}
            }
            end += 1;
            if depth == 0 && matches!(tokens[end - 1], Mark('}' | ';')) {
                break;
            }
        }
        tokens.drain(start..end);
    }
    tokens
}

/// The names that follow `path::` in code, one or a group in braces: `crate::{kernel::Tile, math}` has two.
fn after<'a>(tokens: &'a [Token], path: &[&str]) -> Vec<&'a str> {
    let mut wanted = Vec::new();
    path.iter().for_each(|p| wanted.extend([Word((*p).into()), Mark(':'), Mark(':')]));
    let mut out = Vec::new();
    for at in 0..tokens.len().saturating_sub(wanted.len()) {
        if tokens[at..at + wanted.len()] != wanted[..] {
            continue;
        }
        match &tokens[at + wanted.len()] {
            Word(name) => out.push(name.as_str()),
            Mark('{') => {
                let (mut depth, mut first) = (1, true);
                for token in &tokens[at + wanted.len() + 1..] {
                    match token {
                        Mark('{') => depth += 1,
                        Mark('}') => depth -= 1,
                        Mark(',') if depth == 1 => first = true,
                        Word(name) if depth == 1 && first => {
                            out.push(name);
                            first = false;
                        }
                        _ => {}
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
            _ => {}
        }
    }
    out
}

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

/// Every source file but those of tests: its path below `src`, and its code.
fn all() -> Vec<(String, Vec<Token>)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    files.sort();
    let name = |p: &PathBuf| p.strip_prefix(&src).unwrap().to_string_lossy().replace('\\', "/");
    let all = files.iter().map(|p| (name(p), code(&std::fs::read_to_string(p).unwrap())));
    all.filter(|(name, _)| !name.ends_with("tests.rs")).collect()
}

/// Those of the library.
fn library() -> Vec<(String, Vec<Token>)> {
    all().into_iter().filter(|(name, _)| !name.starts_with("cli/")).collect()
}

#[test]
fn comments_tests_and_texts_are_told_apart() {
    let source = r##"
        use crate::{a::{b, c}, d}; // crate::e
        /* crate::f */ let x = ('"', '\'', 'q', r#"crate::"g"#, "h \" i"); fn j<'a>(k: &'a str) { crate::l::m() }
        #[cfg(test)] mod tests { fn n() { "{" } }
        #[cfg(test)] use crate::o;
        const P: u8 = 1;
    "##;
    let tokens = code(source);
    assert_eq!(after(&tokens, &["crate"]), ["a", "d", "l"]);
    let texts: Vec<&Token> = tokens.iter().filter(|t| matches!(t, Text(_))).collect();
    assert_eq!(texts, [&Text("crate::\"g".into()), &Text("h \\\" i".into())]);
    let has = |word: &str| tokens.contains(&Word(word.into()));
    assert!(has("j") && has("P") && !has("q") && !has("n") && !has("o") && !has("f"));
}

#[test]
fn imports_point_up() {
    let files = library();
    let root = &files.iter().find(|(name, _)| name == "lib.rs").unwrap().1;
    // `mod room;`, or several rooms as the arguments of `internal!`.
    let (mut order, mut listed): (Vec<&Token>, bool) = (Vec::new(), false);
    for w in root.windows(3) {
        match w {
            [Word(word), name, Mark(';')] if word == "mod" => order.push(name),
            [Word(word), Mark('!'), Mark('(')] if word == "internal" => listed = true,
            [Mark(')'), ..] => listed = false,
            [name @ Word(word), ..] if listed && word != "internal" => order.push(name),
            _ => {}
        }
    }
    let place = |room: &str| order.iter().position(|r| **r == Word(room.into()));
    for room in ["error", "knob", "kernel", "nn", "role", "train", "app"] {
        assert!(place(room).is_some(), "the mod lines of lib.rs: {order:?}");
    }
    for (name, code) in &files {
        let room = name.split(['/', '.']).next().unwrap();
        let Some(here) = place(room) else { continue };
        for used in after(code, &["crate"]) {
            if let Some(there) = place(used) {
                assert!(there <= here, "{name} imports {used} which stands below {room}");
            }
        }
    }
}

#[test]
fn files_of_a_room_import_from_those_above() {
    let files = library();
    for (room, lines) in INSIDE {
        let line = |file: &str| lines.iter().position(|line| line.contains(&file));
        for (name, code) in files.iter().filter(|(name, _)| name.starts_with(&format!("{room}/"))) {
            let rest = &name[room.len() + 1..];
            let file = rest.split(['/', '.']).next().unwrap();
            if file == "mod" {
                continue;
            }
            let here = line(file).unwrap_or_else(|| panic!("say on which line of {room} {name} stands"));
            let siblings = if rest.contains('/') { Vec::new() } else { after(code, &["super"]) };
            for used in siblings.into_iter().chain(after(code, &["crate", room])) {
                if let Some(there) = line(used) {
                    assert!(there <= here, "{name} imports {used} which stands below it");
                }
            }
        }
        for file in lines.iter().copied().flatten() {
            let found = files.iter().any(|(name, _)| name.starts_with(&format!("{room}/{file}")));
            assert!(found, "{room}/{file} is gone");
        }
    }
}

#[test]
fn adapters_are_called_at_the_doors_alone() {
    let calls = |code: &[Token]| -> Vec<String> {
        let of = |w: &[Token]| match w {
            [Word(whose), Mark('.'), Word(what), Mark('(')] if whose == "adapter" => Some(what.clone()),
            _ => None,
        };
        code.windows(4).filter_map(of).collect()
    };
    for (name, code) in all() {
        let calls = calls(&code);
        let has = |what: &[&str]| calls.iter().any(|call| what.contains(&call.as_str()));
        assert_eq!(has(&["forward", "backward"]), name == "model/doors.rs", "{name}");
        assert_eq!(has(&["reduce"]), name == "train/mod.rs", "{name}");
    }
}

#[test]
fn rooms_do_not_name_what_they_must_not_know() {
    for (room, words, why) in SILENT {
        let files: Vec<_> = library().into_iter().filter(|(name, _)| name.starts_with(room)).collect();
        assert!(!files.is_empty());
        for (name, code) in files {
            for word in *words {
                assert!(!code.contains(&Word((*word).into())), "{name} names {word}, but {why}");
            }
        }
    }
}

/// Whether a name stands in code as a text or in a path.
fn names_it(code: &[Token], name: &str) -> bool {
    let path = |w: &[Token]| {
        let [a, b, c] = w else { return false };
        let word = |t: &Token| *t == Word(name.into());
        word(a) && (b, c) == (&Mark(':'), &Mark(':')) || (a, b) == (&Mark(':'), &Mark(':')) && word(c)
    };
    code.contains(&Text(name.into())) || code.windows(3).any(path)
}

#[test]
fn kinds_and_architectures_are_named_in_their_files_alone() {
    let names: Vec<&str> = KINDS.iter().map(|k| k.name).chain(ARCHES.iter().map(|a| a.name)).collect();
    let mut used = vec![false; NAMED.len()];
    for (file, code) in all() {
        for name in names.iter().filter(|name| names_it(&code, name)) {
            let kind = KINDS.iter().any(|k| k.name == *name);
            let own = [format!("adapter/kinds/{}.rs", name.replace('-', "_")), "adapter/kinds/mod.rs".into()];
            // Words that have a number in files; the list is frozen.
            if file == "container/packed.rs" {
                continue;
            }
            if kind && own.contains(&file) || !kind && ["model/arch.rs", "model/support.rs"].contains(&file.as_str()) {
                continue;
            }
            match NAMED.iter().position(|(at, what, _)| *at == file && what == name) {
                Some(row) => used[row] = true,
                None => panic!("{file} names {name}: what it needs to know belongs in a row"),
            }
        }
    }
    for (row, used) in NAMED.iter().zip(used) {
        assert!(used, "{} no longer names {}", row.0, row.1);
    }
}

/// The command is a shell over the library: what takes long to read belongs there.
#[test]
fn functions_of_the_command_are_short() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut longest = 0;
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (start, line) in lines.iter().enumerate() {
            let code = line.trim_start();
            if !["fn ", "pub fn ", "pub(super) fn "].iter().any(|begin| code.starts_with(begin)) {
                continue;
            }
            // rustfmt puts the brace that closes a body below where the function begins.
            let end = format!("{}}}", &line[..line.len() - code.len()]);
            let len = lines[start..].iter().position(|line| *line == end).map_or(1, |n| n + 1);
            assert!(len < 80, "{}, line {}: {len} lines", path.display(), start + 1);
            longest = longest.max(len);
        }
    }
    assert!(longest > 40, "{longest}: are functions found?");
}

/// Public types of files of the page and of decoding, with their doc comments.
fn documented_types() -> Vec<(String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut files, mut found) = (Vec::new(), Vec::new());
    ["app", "decode"].iter().for_each(|room| sources(&src.join(room), &mut files));
    for path in files {
        let mut docs = String::new();
        let text = std::fs::read_to_string(path).unwrap();
        for line in text.split("#[cfg(test)]").next().unwrap().lines() {
            let word = ["pub struct ", "pub enum ", "pub trait "].iter().find_map(|begin| line.strip_prefix(begin));
            if let Some(rest) = word {
                let name = rest.split(|c: char| !c.is_alphanumeric()).next().unwrap();
                found.push((name.to_string(), docs.clone()));
            }
            match line {
                _ if line.starts_with("///") => docs += line,
                // Attributes stand between a comment and its type.
                _ if line.starts_with("#[") => {}
                _ => docs.clear(),
            }
        }
    }
    found
}

#[test]
fn public_types_of_the_page_have_examples() {
    let types = documented_types();
    let shown: Vec<&String> = types.iter().filter(|(_, docs)| docs.contains("```")).map(|(name, _)| name).collect();
    assert!(shown.len() > 30, "are types found? {shown:?}");
    for (name, docs) in &types {
        let links = |to: &&String| ["`", "::"].iter().any(|end| docs.contains(&format!("[`{to}{end}")));
        let has = docs.contains("```") || shown.iter().any(links);
        assert!(has, "{name} has no example, and links to no type that has one");
    }
}

#[test]
fn unsafe_code_stays_in_its_files() {
    for (name, code) in all() {
        let uses = ["unsafe", "unsafe_code"].iter().any(|word| code.contains(&Word((*word).into())));
        let listed = UNSAFE.iter().any(|(file, _)| *file == name);
        assert_eq!(uses, listed, "{name}: unsafe code, and its place in the list");
    }
}

/// Files, and rooms with all that is in them, that read what strangers wrote.
const READERS: &[&str] = &[
    "bytes/mod.rs",
    "picture/mod.rs",
    "gguf/mod.rs",
    "container/mod.rs",
    "adapter/safetensors.rs",
    "adapter/json.rs",
    "adapter/pattern.rs",
    "adapter/peft/mod.rs",
    "adapter/mlx.rs",
    "adapter/gguf_adapter.rs",
    "adapter/foreign.rs",
    "adapter/file.rs",
    "adapter/probe.rs",
    "rewrite/folder/mod.rs",
    "text/json.rs",
    "text/load.rs",
    "train/data/mod.rs",
    "train/folder.rs",
    "train/journal.rs",
];

#[test]
fn readers_of_files_cannot_panic() {
    const LINTS: [&str; 7] =
        ["indexing_slicing", "unwrap_used", "expect_used", "panic", "unreachable", "todo", "arithmetic_side_effects"];
    for file in READERS {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file);
        let source = std::fs::read_to_string(&path).unwrap();
        let denied = source.split("deny(").nth(1).and_then(|rest| rest.split(')').next()).unwrap_or_default();
        for lint in LINTS {
            assert!(denied.contains(&format!("clippy::{lint}")), "{file} does not deny {lint}");
        }
        let room = if file.ends_with("mod.rs") { path.parent().unwrap() } else { &path };
        let allowed = sources_of(room)
            .into_iter()
            .find(|(_, text)| LINTS.iter().any(|l| text.contains(&format!("allow(clippy::{l}"))));
        assert!(allowed.is_none(), "{:?} allows what its room denies", allowed.map(|(path, _)| path));
    }
}

/// A file, or all files below a folder.
fn sources_of(path: &Path) -> Vec<(PathBuf, String)> {
    match path.is_dir() {
        true => std::fs::read_dir(path).unwrap().flat_map(|entry| sources_of(&entry.unwrap().path())).collect(),
        false => vec![(path.into(), std::fs::read_to_string(path).unwrap())],
    }
}
