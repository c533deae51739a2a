//! `mynah train` looks after a person: steps that teach, rows to measure on, the best state, nothing lost, and what to type next.

use crate::survive::Place;
use mynah::app::{Settings, Source};
use mynah::train::Schedule;
use mynah::{Lesson, Mynah};
use serde_json::Value;
use std::fs;
use std::process::{Command, Stdio};

/// Answers of one voice, 40 conversations.
const SUPPORT: &str = include_str!("../../examples/data/support.jsonl");
/// A diary of twenty entries.
const DIARY: &str = include_str!("../../examples/data/diary.txt");
/// A run that soon memorises.
const MEMORISES: &str =
    "train -d diary.txt --ctx 64 --batch 2 --held-out 0.3 --eval-every 4 --schedule constant --lr 5e-3";

/// What a command prints.
fn prints(place: &Place, words: &[String]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mynah"));
    let out = command.args(words).current_dir(place.path("")).stdin(Stdio::null()).output().unwrap();
    assert!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// What the command that a run shows at its end prints.
fn try_it(place: &Place, said: &str) -> String {
    let line = after(said, "Try it: mynah ");
    // Words as a shell splits them, with single quotes only.
    let words = line.split('\'').enumerate().flat_map(|(i, piece)| match i % 2 {
        1 => vec![piece.to_string()],
        _ => piece.split_whitespace().map(str::to_string).collect(),
    });
    prints(place, &words.collect::<Vec<_>>())
}

/// The rest of the line that begins so.
fn after<'a>(said: &'a str, begin: &str) -> &'a str {
    said.lines().find_map(|line| line.strip_prefix(begin)).unwrap_or_else(|| panic!("{begin}: {said}"))
}

#[test]
fn nothing_need_be_said() {
    let place = Place::new();
    let said = place.says("train -d notes.txt -o mine.mynah --ctx 64", 0);
    assert!(said.lines().next().unwrap().contains("the built-in model"), "{said}");
    let first = said.lines().find(|line| line.contains("rows")).unwrap();
    let rows: usize = first.split(' ').next().unwrap().parse().unwrap();
    let held_out = Settings::usual_held_out(rows);
    assert!(first.starts_with(&format!("{rows} rows, {held_out} of them held out")), "{first}");
    let steps = Settings::usual_steps(1, (rows - held_out) as u64);
    assert!(first.contains(&format!(" tokens to learn: {steps} steps, ")), "{first}");
    let losses: Vec<&str> = said.split("; held-out loss ").nth(1).unwrap().split([' ', ';']).take(3).collect();
    let [before, now] = [losses[0], losses[2]].map(|loss| loss.parse::<f64>().unwrap());
    assert!(now < before - 1.0, "{said}");
    assert_ne!(after(&said, "  before "), after(&said, "  after "), "{said}");
    // What it says now is what the sample showed.
    let prompt = after(&said, "  given  ");
    let greedy = ["run", "-a", "mine.mynah", "-p", prompt, "--temp", "0", "-n", "40"].map(String::from);
    assert_eq!(prints(&place, &greedy).trim().replace('\n', " "), after(&said, "  after  "));
    assert!(!try_it(&place, &said).is_empty());
    // The same model is planned and measured where none is named.
    assert!(place.json("plan -d notes.txt --ctx 64")["total"].as_u64().unwrap() > 1 << 20);
    let loss = |more: &str| place.json(&format!("eval -d notes.txt --ctx 64{more}"))["loss"].as_f64().unwrap();
    assert!(loss(" -a mine.mynah") < loss("") - 1.0);
}

#[test]
fn conversations_are_sampled_through_the_template() {
    let place = Place::new();
    fs::write(place.path("support.jsonl"), SUPPORT).unwrap();
    let line = "train -d support.jsonl --steps 30 --batch 4 --lr 5e-3 -o";
    let said = place.says(&format!("{line} one"), 0);
    assert!(said.contains("40 rows, 4 of them held out"), "{said}");
    assert!(said.contains("\nTry it: mynah chat -a one\n"), "{said}");
    let got = place.json(&format!("{line} two"));
    let questions: Vec<Value> = SUPPORT.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let prompt = got["sample"]["prompt"].as_str().unwrap();
    let asked = |row: &&Value| prompt.contains(row["messages"][0]["content"].as_str().unwrap());
    assert_eq!(questions.iter().filter(asked).count(), 1, "{prompt}");
    assert_ne!(got["sample"]["before"], got["sample"]["after"]);
    // A trained model speaks for itself.
    let said = place.says("train -d notes.txt --method full --steps 2 --ctx 32 -o whole.gguf", 0);
    assert!(said.contains("Try it: mynah run -m whole.gguf -p "), "{said}");
    try_it(&place, &said);
}

#[test]
fn the_best_is_saved_and_it_is_said_when_it_got_worse() {
    let place = Place::new();
    fs::write(place.path("diary.txt"), DIARY).unwrap();
    let line = format!("{MEMORISES} --steps 60");
    let got = place.json(&format!("{line} -o whole"));
    let saved = got["saved_step"].as_u64().unwrap();
    assert!(got["best_step"] == saved && saved < 56, "{got}");
    assert_eq!(place.json("inspect whole")["provenance"]["steps"], saved);
    assert!(got["eval_after"].as_f64() < got["eval_before"].as_f64());
    // It is the state that a run has which pauses there.
    place.says(&format!("{line} --max-steps {saved} -o there"), 0);
    assert!(place.read("whole") == place.read("there"));

    // Interrupted after the best, it still ends with it, and says so.
    place.says(&format!("{line} -o parts --max-steps {}", saved + 3), 0);
    assert!(place.read("parts") == place.read("whole"));
    let said = place.says("train --resume parts.checkpoints", 0);
    assert!(place.read("parts") == place.read("whole"), "resumed");
    assert!(said.contains(&format!("after step {saved} the held-out loss got worse")), "{said}");
    assert!(said.contains(&format!("step {saved} was saved")), "{said}");

    // With none held out it is the last.
    let got = place.json(&format!("{} -o last", line.replace("--held-out 0.3", "--held-out 0")));
    assert_eq!((&got["saved_step"], &got["eval_after"]), (&60.into(), &Value::Null));
    assert_eq!(place.json("inspect last")["provenance"]["steps"], 60);
}

#[test]
fn the_page_keeps_the_best_too() {
    let mynah = Mynah::embedded().unwrap();
    let constant = |s: &mut Settings| (s.eval_every, s.schedule) = (Some(4), Schedule::Constant);
    let setup = || mynah.lesson("lora").context(64).batch(2).steps(60).rate(5e-3);
    let mut whole = setup().settings(constant).text(DIARY).unwrap();
    let rows = whole.rows().len() + whole.held_out().len();
    assert_eq!(whole.held_out().len(), Settings::usual_held_out(rows));
    let mut part = None;
    while whole.next().transpose().unwrap().is_some() {
        if whole.history().steps() == 40 && part.is_none() {
            part = Some(whole.checkpoint().unwrap());
        }
    }
    let (best, saved) = (whole.history().best().unwrap(), whole.history().saved());
    assert!(best.0 == saved && saved < 56, "{:?}", whole.history().held_out);
    let learnt = mynah.adapter(whole.to_bytes().unwrap()).unwrap();
    assert!(learnt.params() != whole.adapter().unwrap().params(), "the last state is another");
    assert!(whole.encode().unwrap() != whole.to_bytes().unwrap());

    let resume = mynah.resume(Source::Bytes(part.unwrap().into())).unwrap().context(64).batch(2).rate(5e-3);
    let mut resumed = resume.settings(constant).text(DIARY).unwrap();
    assert_eq!(resumed.steps(), 60, "as many as it had");
    let finish = |lesson: &mut Lesson| lesson.for_each(|event| _ = event.unwrap());
    finish(&mut resumed);
    assert!(resumed.to_bytes().unwrap() == whole.to_bytes().unwrap());
    assert!(resumed.history().held_out == whole.history().held_out);
}

#[test]
fn an_output_is_not_replaced_unasked() {
    let place = Place::new();
    fs::write(place.path("mine"), "dear").unwrap();
    let line = "train -d notes.txt --ctx 64 --steps 4 -o mine";
    let said = place.says(line, 2);
    assert!(said.contains("-o mine exists: --force replaces it") && !said.contains("rows"), "{said}");
    assert_eq!(place.read("mine"), b"dear");
    // The same run may replace what it wrote.
    place.says(&format!("{line} --force --max-steps 2"), 0);
    let first = place.read("mine");
    place.says("train --resume mine.checkpoints", 0);
    assert!(place.read("mine") != first);
    // But nothing else.
    fs::write(place.path("other"), "dear").unwrap();
    place.says("train -d notes.txt --ctx 64 --steps 4 -o new --max-steps 2", 0);
    assert!(place.says("train --resume new.checkpoints -o other", 2).contains("other exists: --force"));
    // What cannot be written is found before work begins.
    for out in ["none/mine", "/dev/full", "."] {
        let said = place.says(&format!("train -d notes.txt --steps 4 --force -o {out}"), 1);
        assert!(said.contains(out.split("/mine").next().unwrap()) && !said.contains("rows"), "{said}");
    }
    let left: Vec<_> = fs::read_dir(place.path("")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("tmp")), "{left:?}");
}

#[test]
fn a_run_that_diverges_leaves_the_earlier_file() {
    let place = Place::new();
    fs::write(place.path("mine"), "dear").unwrap();
    // A text that the model knows: its own.
    let own = |seed: usize| {
        ["run", "-p", "Once upon a time", "-n", "100", "--ignore-end", "--seed", &seed.to_string()].map(String::from)
    };
    fs::write(place.path("known.txt"), (1..7).map(|seed| prints(&place, &own(seed))).collect::<String>()).unwrap();
    for (options, rate) in [
        // Not finite.
        ("--method full --lr 1000 --clip 0", "--lr 2e2"),
        // Finite, and much worse than before.
        ("--lr 3 --steps 20 --eval-every 10 --held-out 0.3", "--lr 6e-1"),
        ("--lr 3 --steps 20 --held-out 0", "--lr 6e-1"),
    ] {
        let line = format!("train -d known.txt --ctx 32 --batch 2 --schedule constant -o mine --force {options}");
        let said = place.says(&line, 1);
        assert!(said.contains(rate) && said.contains("mine is as it was"), "{options}: {said}");
        assert_eq!(place.read("mine"), b"dear", "{options}");
        assert!(!said.contains("Try it"), "{said}");
        fs::remove_dir_all(place.path("mine.checkpoints")).ok();
    }
}
