//! Adapters that are changed while a model runs: what is said is what a fresh process says, to the bit.

use mynah::Mynah;
use mynah::adapter::{self, Ready, Spec, Stack};
use mynah::app::Shelf;
use mynah::bytes::{Bytes, Limits};
use mynah::decode::Sampling;
use mynah::gguf::Gguf;
use mynah::kernel::{self, Compute, Pool};
use mynah::rng::Stream;
use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

fn embedded() -> Mynah {
    let file = Gguf::parse(Bytes::from_static(mynah::base::MODEL), &Limits::default()).unwrap();
    Mynah::with(file, Compute { kernels: kernel::best(), pool: Pool::new(2) }).unwrap()
}

/// The file of an adapter that changes a good deal.
fn file(mynah: &Mynah, kind: &str, seed: u64) -> Vec<u8> {
    let mut adapter = adapter::create(&Spec { seed, ..Spec::new(kind) }, mynah.base()).unwrap();
    let mut noise = vec![0.0; adapter.params().len()];
    Stream::new(seed, kind, "test").fill_uniform(0, &mut noise);
    adapter.params_mut().iter_mut().zip(&noise).for_each(|(p, n)| *p += 0.1 * n);
    adapter::to_bytes(&*adapter, mynah.base(), &Default::default()).unwrap()
}

fn stack(of: &[(&Arc<Ready>, f32)]) -> Stack {
    let mut stack = Stack::new();
    of.iter().for_each(|(adapter, strength)| stack.push((*adapter).clone(), *strength).unwrap());
    stack
}

/// One session goes through sets of adapters, forth and back, with a shared beginning and other ends.
#[test]
fn a_session_says_what_a_fresh_one_says() {
    let mynah = embedded();
    let mut shelf = mynah.shelf();
    let [a, b, rows] = ["lora", "nola", "prefix"].map(|kind| shelf.get(file(&mynah, kind, 1)).unwrap());
    let ids = mynah.tokenizer().prompt("The lighthouse keeper had two lamps and a parrot, and one day", false).unwrap();
    let course: Vec<Stack> = [
        &[][..],
        &[(&a, 1.0)],
        &[(&b, 1.0)],
        &[(&a, 0.5)],
        &[(&a, 1.0), (&b, 0.5)],
        &[(&b, 0.5), (&a, 1.0)],
        &[(&rows, 1.0)],
        &[(&a, 0.0)],
        &[],
        &[(&a, 1.0)],
    ]
    .map(stack)
    .into();
    let mut session = mynah.generation().session(64).unwrap();
    let mut seen: Vec<Vec<u32>> = Vec::new();
    for (i, stack) in course.iter().enumerate() {
        session.replace(stack.clone()).unwrap();
        assert!(session.position() == 0 && session.logits().is_empty());
        let ids = &ids[..ids.len() - i % 3];
        session.feed(&ids[..4]).unwrap();
        let fork = session.fork();
        session.feed(&ids[4..]).unwrap();
        let mut fresh = mynah.generation().stack(stack.clone()).session(64).unwrap();
        fresh.feed(&ids[..4]).unwrap();
        fresh.feed(&ids[4..]).unwrap();
        let bits = |logits: &[f32]| logits.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
        assert!(bits(session.logits()) == bits(fresh.logits()), "set {i}");
        // A fork keeps the adapters of its beginning.
        let mut fork = fork;
        fork.feed(&ids[4..]).unwrap();
        assert!(bits(fork.logits()) == bits(fresh.logits()), "fork {i}");
        seen.push(bits(session.logits()));
    }
    // Of one prompt, each set says something else.
    let same_prompt: Vec<&Vec<u32>> = seen.iter().step_by(3).collect();
    (0..same_prompt.len()).for_each(|i| assert!(same_prompt[..i].iter().all(|one| *one != same_prompt[i])));
}

/// A snapshot belongs to the very adapters and strengths that it was taken with.
#[test]
fn a_snapshot_of_other_adapters_is_refused() {
    let mynah = embedded();
    let mut shelf = mynah.shelf();
    let [a, b] = [1, 2].map(|seed| shelf.get(file(&mynah, "lora", seed)).unwrap());
    let again = mynah.ready(file(&mynah, "lora", 1)).unwrap();
    let mut session = mynah.generation().stack(stack(&[(&a, 1.0)])).session(32).unwrap();
    session.feed(&[1, 2, 3]).unwrap();
    let taken = session.snapshot();
    for (what, other) in [
        ("strength", stack(&[(&a, 0.5)])),
        ("another", stack(&[(&b, 1.0)])),
        ("none", Stack::new()),
        ("one more", stack(&[(&a, 1.0), (&b, 1.0)])),
        ("another version", stack(&[(&again, 1.0)])),
    ] {
        session.replace(other).unwrap();
        let e = session.restore(&taken).unwrap_err();
        assert!(e.to_string().contains("adapters of the snapshot"), "{what}: {e}");
    }
    session.replace(stack(&[(&a, 1.0)])).unwrap();
    session.restore(&taken).unwrap();
    assert_eq!(session.position(), 3);
}

/// Strengths change in place, adapters swap and go, and what a stack refuses leaves it as it was.
#[test]
fn a_stack_changes_in_place() {
    let mynah = embedded();
    let [a, b] = ["lora", "llama-adapter"].map(|kind| mynah.ready(file(&mynah, kind, 1)).unwrap());
    let mut own = stack(&[(&a, 1.0), (&b, 1.0)]);
    own.set_strength(0, 0.25).unwrap();
    assert!(own.same(&stack(&[(&a, 0.25), (&b, 1.0)])));
    own.swap(0, b.clone(), 0.0).unwrap();
    assert!(own.same(&stack(&[(&b, 0.0), (&b, 1.0)])));
    assert!(Arc::ptr_eq(&own.remove(0).unwrap(), &b) && own.same(&stack(&[(&b, 1.0)])));
    for refused in [own.set_strength(1, 1.0), own.set_strength(0, f32::NAN), own.swap(7, a.clone(), 1.0)] {
        assert!(matches!(refused, Err(mynah::Error::Invalid { .. })));
    }
    assert!(own.remove(1).is_err() && own.same(&stack(&[(&b, 1.0)])));
}

/// A shelf knows adapters by what they hold.
#[test]
fn a_file_of_the_same_name_is_another_adapter() {
    let mynah = embedded();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.mynah");
    let mut shelf: Shelf = mynah.shelf();
    std::fs::write(&path, file(&mynah, "lora", 1)).unwrap();
    let first = shelf.get(&path).unwrap();
    assert!(Arc::ptr_eq(&first, &shelf.get(&path).unwrap()));
    let copy = dir.path().join("copy.mynah");
    std::fs::copy(&path, &copy).unwrap();
    assert!(Arc::ptr_eq(&first, &shelf.get(&copy).unwrap()));
    std::fs::write(&path, file(&mynah, "lora", 2)).unwrap();
    let second = shelf.get(&path).unwrap();
    assert!(!Arc::ptr_eq(&first, &second) && first.params() != second.params());
    std::fs::write(&path, b"nothing").unwrap();
    let e = shelf.get(&path).err().unwrap().to_string();
    assert!(e.contains("a.mynah"), "{e}");
    let held = shelf.bytes();
    drop(first);
    shelf.tidy();
    assert_eq!(shelf.bytes(), held / 2);
}

/// A conversation that changes its adapters says what one says that has them from the start; who keeps what was read reads less,
/// and says the same.
#[test]
fn a_conversation_is_not_contaminated() {
    let mynah = embedded();
    let mut shelf = mynah.shelf();
    let [a, b] = ["lora", "nola"].map(|kind| shelf.get(file(&mynah, kind, 1)).unwrap());
    let generation =
        || mynah.generation().context(512).limit(12).sampling(Sampling::default().with("temp", 1.0).seed(5));
    let course = [
        stack(&[(&a, 1.0)]),
        stack(&[(&b, 1.0)]),
        stack(&[(&a, 1.0)]),
        stack(&[(&a, 0.5)]),
        stack(&[(&a, 1.0)]),
        Stack::new(),
        stack(&[(&b, 1.0)]),
        Stack::new(),
    ];
    let mut read = Vec::new();
    for keep in [0, 1, 3] {
        let (mut talk, mut tokens) = (generation().talk().unwrap(), 0);
        talk.keep_read(keep);
        for (i, stack) in course.iter().enumerate() {
            talk.replace(stack.clone()).unwrap();
            let before = talk.messages().to_vec();
            let question = format!("What did the parrot do on day {i}?");
            let said = talk.say(&question).unwrap().finish().unwrap();
            let mut fresh = generation().stack(stack.clone()).talk().unwrap();
            fresh.set_messages(before);
            let wanted = fresh.say(&question).unwrap().finish().unwrap();
            assert_eq!(said.ids, wanted.ids, "turn {i}, {keep} kept");
            assert!(said.prompt_tokens <= wanted.prompt_tokens);
            tokens += said.prompt_tokens;
        }
        read.push(tokens);
    }
    assert!(read[1] < read[0] && read[2] < read[1], "{read:?} tokens read");
    // The same set once more is no change.
    let mut talk = generation().stack(stack(&[(&a, 1.0)])).talk().unwrap();
    talk.say("Rain?").unwrap().finish().unwrap();
    talk.replace(stack(&[(&a, 1.0)])).unwrap();
    let next = talk.say("And tea?").unwrap().finish().unwrap();
    assert!(next.prompt_tokens < 30, "{}", next.prompt_tokens);
}

/// `mynah chat` in a folder, with lines to read: its JSON, and what it complains of.
fn chat(folder: &Path, options: &str, lines: &[&str]) -> (Vec<Value>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mynah"));
    command.args(["chat", "--json", "-n", "12", "--ctx", "256"]).args(options.split_whitespace()).current_dir(folder);
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let events = String::from_utf8(out.stdout).unwrap();
    let events = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (events, String::from_utf8(out.stderr).unwrap())
}

/// The first answer of a fresh process, and of one that had others before.
#[test]
fn the_command_swaps_adapters() {
    let mynah = embedded();
    let dir = tempfile::tempdir().unwrap();
    let write =
        |name: &str, kind: &str, seed: u64| std::fs::write(dir.path().join(name), file(&mynah, kind, seed)).unwrap();
    write("a.mynah", "lora", 1);
    write("b.mynah", "nola", 1);
    write("c.mynah", "lora", 2);
    const ASKED: &str = "Tell me a story about a bear.";
    let fresh = |options: &str| {
        let (events, said) = chat(dir.path(), options, &[ASKED]);
        let answers: Vec<&Value> = events.iter().filter_map(|event| event.get("ids")).collect();
        assert_eq!(answers.len(), 1, "{said}");
        answers[0].clone()
    };
    let script = [
        ("", ""),
        ("/adapter a.mynah", "-a a.mynah"),
        ("/adapter b.mynah:0.5", "-a a.mynah -a b.mynah:0.5"),
        ("/adapter a.mynah:0.25", "-a a.mynah:0.25 -a b.mynah:0.5"),
        ("/detach a.mynah", "-a b.mynah:0.5"),
        ("/adapter c.mynah", "-a b.mynah:0.5 -a c.mynah"),
        ("/detach", ""),
    ];
    let lines: Vec<&str> = script.iter().flat_map(|(change, _)| [*change, "/clear", ASKED]).collect();
    let (events, said) = chat(dir.path(), "", &lines);
    let answers: Vec<&Value> = events.iter().filter_map(|event| event.get("ids")).collect();
    assert_eq!(answers.len(), script.len(), "{said}");
    for ((change, options), answer) in script.iter().zip(answers) {
        assert_eq!(*answer, fresh(options), "{change}");
    }
    let listed: Vec<usize> = events.iter().filter_map(|e| Some(e.get("adapters")?.as_array()?.len())).collect();
    assert_eq!(listed, [1, 2, 2, 1, 2, 0]);

    // A file that is replaced while the process runs: it is the new one once it is named again.
    let mut command = Command::new(env!("CARGO_BIN_EXE_mynah"));
    command.args(["chat", "--json", "-n", "12", "--ctx", "256", "-a", "a.mynah"]).current_dir(dir.path());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), std::io::BufReader::new(child.stdout.take().unwrap()));
    let mut tell = |lines: &str| {
        input.write_all(lines.as_bytes()).unwrap();
        loop {
            let mut line = String::new();
            std::io::BufRead::read_line(&mut output, &mut line).unwrap();
            let event: Value = serde_json::from_str(&line).unwrap();
            // Tokens come before their answer.
            if event.get("ids").or(event.get("adapters")).is_some() {
                return event;
            }
        }
    };
    let old = tell(&format!("{ASKED}\n"));
    assert_eq!(old["ids"], fresh("-a a.mynah"));
    std::fs::copy(dir.path().join("c.mynah"), dir.path().join("a.mynah")).unwrap();
    assert_eq!(tell(&format!("/clear\n{ASKED}\n"))["ids"], old["ids"]);
    assert_eq!(tell("/adapter a.mynah\n")["adapters"][0]["file"], "a.mynah");
    let new = tell(&format!("/clear\n{ASKED}\n"));
    assert!(new["ids"] == fresh("-a a.mynah") && new["ids"] != old["ids"]);
    drop(input);
    child.wait().unwrap();

    for (line, why) in [
        ("/adapter nothing.mynah", "no such file"),
        ("/adapter a.mynah:nan", "no strength"),
        ("/detach b.mynah", "not attached"),
    ] {
        let (_, said) = chat(dir.path(), "", &[line]);
        assert!(said.contains(why) && said.contains("some commands failed"), "{line}: {said}");
    }
    let (events, said) = chat(dir.path(), "-a mine.mynah --learn", &["/adapter a.mynah", "/adapter"]);
    assert!(said.contains("without --learn") && events.len() == 1, "{said}");
}

/// `mynah bench` has a row for each adapter.
#[test]
fn the_bench_measures_adapters() {
    let mynah = embedded();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    std::fs::write(at("model.gguf"), mynah::base::MODEL).unwrap();
    for kind in ["lora", "nola"] {
        std::fs::write(at(kind), file(&mynah, kind, 1)).unwrap();
    }
    let args = [
        "bench",
        "-m",
        &at("model.gguf"),
        "-p",
        "4",
        "-n",
        "0",
        "-t",
        "1",
        "-r",
        "2",
        "-a",
        &at("nola"),
        "-a",
        &at("lora"),
    ];
    let run = |more: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_mynah")).args(args).args(more).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    let rows: Vec<Value> = run(&["--json"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |kind: &str| rows.iter().find(|row| row["kind"] == kind).unwrap();
    assert_eq!(rows.len(), 3);
    let number = |row: &Value, key: &str| row[key].as_f64().unwrap();
    for kind in ["lora", "nola"] {
        assert!(["read_ms", "expand_ms", "swap_ms"].iter().all(|key| number(of(kind), key) >= 0.0));
        assert_eq!(number(of(kind), "file_bytes"), std::fs::metadata(at(kind)).unwrap().len() as f64);
    }
    // The factors of NOLA take what LoRA takes, though its file is small.
    assert!(number(of("nola"), "memory_bytes") > number(of("lora"), "memory_bytes"));
    assert!(number(of("nola"), "file_bytes") < number(of("lora"), "file_bytes"));
    assert!(run(&[]).contains("expand ms") && run(&["--markdown"]).contains("| swap ms"));
}
