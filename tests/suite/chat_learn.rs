//! `mynah chat` as a process, driven from a script: the conversation, and what is learnt from it.

use crate::shared::{needs_shared, shared};
use crate::tiny::Rng;
use mynah::bytes::Limits;
use mynah::train::data::Reader;
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// A folder to talk in.
struct Place(tempfile::TempDir);

/// What a conversation put out.
struct Heard {
    status: Option<i32>,
    events: Vec<Value>,
    errors: String,
}

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn start(&self, options: &str) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mynah"));
        command.args(["chat", "--json"]).args(options.split_whitespace()).current_dir(self.0.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Types lines and listens to the end.
    fn chat(&self, options: &str, lines: &[impl AsRef<str>]) -> Heard {
        let mut child = self.start(options);
        let text: String = lines.iter().map(|l| l.as_ref().to_string() + "\n").collect();
        // A pipe holds more than these scripts; who was called wrongly has gone before it reads any.
        child.stdin.take().unwrap().write_all(text.as_bytes()).ok();
        let out = child.wait_with_output().unwrap();
        let events = String::from_utf8(out.stdout).unwrap();
        Heard {
            status: out.status.code(),
            events: events.lines().map(|l| serde_json::from_str(l).unwrap()).collect(),
            errors: String::from_utf8(out.stderr).unwrap(),
        }
    }
}

impl Heard {
    fn done(self) -> Heard {
        assert_eq!(self.status, Some(0), "{}", self.errors);
        self
    }

    /// The same where a line could not be done.
    fn done_but_one(self) -> Heard {
        assert_eq!(self.status, Some(1), "{}", self.errors);
        self
    }

    /// The answers, in order.
    fn answers(&self) -> Vec<&Value> {
        self.events.iter().filter(|e| e.get("ids").is_some()).collect()
    }

    fn texts(&self) -> Vec<&str> {
        self.answers().into_iter().map(|a| a["text"].as_str().unwrap()).collect()
    }
}

const BEAR: &str = "Tell me a story about a bear.";

#[test]
fn only_what_is_new_is_read() {
    let place = Place::new();
    let heard = place.chat("--temp 0", &[BEAR, "Tell me a story about an owl.", "/clear", BEAR]).done();
    let read: Vec<u64> = heard.answers().iter().map(|a| a["prompt_tokens"].as_u64().unwrap()).collect();
    let said = heard.answers()[0]["ids"].as_array().unwrap().len() as u64;
    assert!(read[1] < said && said > 40, "{read:?} {said}");
    let texts = heard.texts();
    assert_eq!(texts[0], texts[2], "a new conversation begins as the first did");
    assert!(heard.events.iter().filter(|e| e.get("id").is_some()).count() > 100, "every token is an event");
    // What was read before changes no answer: the same conversation with all of it read at once.
    let turns = place.chat("--temp 0 --exact --cache f32", &[BEAR, "And then?"]).done();
    let again = place.chat("--temp 0 --exact --cache f32", &[BEAR, "And then?", "/regenerate"]).done();
    assert_eq!(turns.texts()[1], again.texts()[2]);
}

#[test]
fn commands_do_what_they_say() {
    let place = Place::new();
    let lines = ["/regenerate", "", "/nonsense", "/help", "Who is\\", "there?", BEAR, "/regenerate", "/exit", BEAR];
    let heard = place.chat("--seed 5", &lines).done_but_one();
    assert_eq!(heard.answers().len(), 3, "{}", heard.errors);
    assert_ne!(heard.texts()[1], heard.texts()[2]);
    for word in ["no answer yet", "/nonsense: no such command", "/regenerate", "built-in model"] {
        assert!(heard.errors.contains(word), "{word}: {}", heard.errors);
    }
    let closed = place.chat("", &[""; 0]).done();
    assert!(closed.events.is_empty());
}

#[test]
fn old_turns_go_openly_and_what_is_too_long_is_refused() {
    let place = Place::new();
    let long = "a bear and an owl and ".repeat(60);
    let heard = place.chat("--temp 0 --ctx 128 -n 40", &[BEAR, BEAR, BEAR, &long, "Who is it?"]).done_but_one();
    assert_eq!(heard.answers().len(), 4, "{}", heard.errors);
    assert!(heard.errors.contains("forgotten"), "{}", heard.errors);
    assert!(heard.errors.contains("there is room for 96"), "{}", heard.errors);
}

#[cfg(unix)]
#[test]
fn an_interrupt_stops_the_answer_and_not_the_program() {
    use std::io::{BufRead, BufReader};
    let place = Place::new();
    // Nothing ends this answer: a temperature at which the end is as likely as any token.
    let mut child = place.start("--temp 100 --top-k 0 --top-p 1 --min-p 0 --ctx 512");
    let (mut stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut lines = BufReader::new(stdout).lines().map(|l| serde_json::from_str::<Value>(&l.unwrap()).unwrap());
    let mut stopped = 0;
    // On a busy machine an answer may be complete before the signal arrives.
    for _ in 0..64 {
        if stopped == 4 {
            break;
        }
        writeln!(stdin, "{BEAR}").unwrap();
        lines.next().unwrap();
        let kill = ["-INT", &child.id().to_string()];
        assert!(Command::new("kill").args(kill).status().unwrap().success());
        let end = lines.find(|e| e.get("ids").is_some()).unwrap();
        stopped += u32::from(end["stop"] == "interrupted");
        writeln!(stdin, "/clear").unwrap();
    }
    drop(stdin);
    assert!(child.wait().unwrap().success() && stopped > 0, "{stopped}");
}

#[needs_shared]
#[test]
fn models_talk_by_their_template_or_without_one() {
    let shared = shared();
    let place = Place::new();
    let model = |name: &str| shared.join("models").join(name).canonicalize().unwrap().display().to_string();
    let options = format!("-m {} -n 4 --temp 0", model("SmolLM2-135M-Instruct.Q4_0.gguf"));
    let heard = place.chat(&options, &["Hello!", "And now?"]).done();
    assert_eq!(heard.answers().len(), 2);
    let heard = place.chat(&format!("-m {} -n 4", model("stories260K.gguf")), &["Hello!"]).done();
    assert!(heard.answers().len() == 1 && heard.errors.contains("no chat template"), "{}", heard.errors);
}

/// Whom the marks are about, and whom the answers before and after.
const MARKED: [&str; 10] =
    ["a bear", "a fox", "Fern", "an owl", "Romy", "a badger", "Otto", "a hare", "a mole", "Simon"];
const ASKED: [&str; 8] = ["a hedgehog", "Paul", "a robin", "Judith", "an otter", "Emil", "a toad", "Cole"];
const LEARN: &str = "--seed 3 -a mine.mynah --learn";

/// A conversation for each, and what is said to the answer.
fn about<'a>(names: &[&str], say: impl Fn(usize) -> Option<&'a str>) -> Vec<String> {
    let turns = |(i, name): (usize, &&str)| {
        [Some("/clear".into()), Some(format!("Tell me a story about {name}.")), say(i).map(Into::into)]
    };
    names.iter().enumerate().flat_map(turns).flatten().collect()
}

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// What is said to all of them, with what the adapter has learnt.
    fn answers(&self, names: &[&str]) -> Vec<String> {
        let heard = self.chat(LEARN, &about(names, |_| None)).done();
        heard.texts().into_iter().map(Into::into).collect()
    }

    fn mynah(&self, line: &str) -> (Option<i32>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mynah"));
        let out = command.args(line.split(' ')).current_dir(self.0.path()).stdin(Stdio::null()).output().unwrap();
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    }

    /// Stories whose first sentence would have been enough.
    fn first_sentences(&self) -> Vec<String> {
        let first = |text: &String| format!("/fix {}.", text.split('.').next().unwrap());
        self.answers(&MARKED).iter().map(first).collect()
    }
}

impl Heard {
    fn learnt(&self) -> &Value {
        self.events.iter().find_map(|e| e.get("learnt")).unwrap_or_else(|| panic!("{}", self.errors))
    }

    fn keep(&self, key: &str) -> bool {
        self.events
            .iter()
            .find_map(|e| e.get(key))
            .and_then(Value::as_bool)
            .unwrap_or_else(|| panic!("{}", self.errors))
    }
}

fn pair(value: &Value) -> [f64; 2] {
    [value[0].as_f64().unwrap(), value[1].as_f64().unwrap()]
}

fn words(texts: &[String]) -> f64 {
    texts.iter().map(|t| t.split_whitespace().count()).sum::<usize>() as f64 / texts.len() as f64
}

#[test]
fn ten_marks_change_the_next_answers_and_undo_restores_the_bytes() {
    let place = Place::new();
    let before = place.answers(&ASKED);
    let fresh = place.read("mine.mynah");
    let fixes = place.first_sentences();
    let mut script = about(&MARKED, |i| Some(&fixes[i]));
    script.extend(["/learn".into(), "keep".into()]);
    let heard = place.chat(LEARN, &script).done();
    let learnt = heard.learnt();
    assert_eq!((&learnt["objective"], &learnt["marks"]), (&"marks".into(), &10.into()));
    let ([loss, then], [_, agrees]) = (pair(&learnt["loss"]), pair(&learnt["agreement"]));
    assert!(then < loss && agrees == 1.0, "{learnt}");
    let [own, still] = pair(&learnt["ordinary"]);
    // Stories are all that this model tells, so that shorter ones touch every answer of its own.
    assert!(own > 0.0 && still < 1.3 * own, "{learnt}");
    let [near, far] = pair(&learnt["divergence"]);
    assert!(near == 0.0 && far > 0.05 && far < 1.2, "{learnt}");
    assert!(heard.keep("kept") && learnt["sample"]["before"] != learnt["sample"]["after"]);

    // Of those that nothing was said about.
    let after = place.answers(&ASKED);
    eprintln!("{:.1} words before, {:.1} after, {far:.2} nats a token away: {after:?}", words(&before), words(&after));
    assert!(words(&before) > 30.0 && words(&after) < 0.4 * words(&before), "{before:?} {after:?}");
    assert!(after.iter().all(|t| t.ends_with('.') && t.split(' ').count() > 3), "whole sentences: {after:?}");
    // They are those of the file, wherever it is used.
    let (kept, marks) = (place.read("mine.mynah"), place.read("mine.mynah.feedback.jsonl"));
    assert!(kept != fresh && place.read("mine.mynah.before") == fresh);
    let plain = place.chat("--seed 3 -a mine.mynah", &about(&ASKED, |_| None)).done();
    assert_eq!(plain.texts(), after);

    let undone = place.chat(LEARN, &[vec!["/undo".into()], about(&ASKED, |_| None)].concat()).done();
    assert!(undone.keep("undone") && undone.texts() == before);
    assert!(place.read("mine.mynah") == fresh && place.read("mine.mynah.feedback.jsonl") == marks);
    assert!(place.chat(LEARN, &["/undo"]).done().keep("undone") && place.read("mine.mynah") == kept);

    // What is not kept leaves no trace: bytes, answers, and the marks that are still to be learnt.
    let mut script = about(&MARKED[..2], |i| Some(&fixes[i]));
    script.extend(["/learn".into(), "what?".into(), "undo".into()]);
    let tried = place.chat(LEARN, &[script, about(&ASKED, |_| None)].concat()).done();
    assert!(!tried.keep("kept") && tried.texts()[2..] == after[..], "{:?}", tried.texts());
    assert!(place.read("mine.mynah") == kept && place.read("mine.mynah.before") == fresh);
    assert!(tried.errors.contains("2 marks kept for the next /learn"), "{}", tried.errors);
    let replayed = place.chat(LEARN, &["/learn"]).done();
    assert_eq!(replayed.learnt()["marks"], 12, "two that are new and ten that are not");
    assert!(!replayed.keep("kept") && place.read("mine.mynah") == kept, "the end of the script keeps nothing");

    // One new mark among many that are known is learnt all the same, and they are not forgotten.
    let other = ["Tell me a story about Nils.", "/fix Nils sat by the river all day long and sang.", "/learn", "keep"];
    let learnt = place.chat(LEARN, &other).done().learnt().clone();
    assert!(learnt["steps"].as_u64().unwrap() > 3 && pair(&learnt["agreement"])[1] == 1.0, "{learnt}");
    assert!(words(&place.answers(&ASKED)) < 0.5 * words(&before));
}

#[test]
fn thumbs_alone_turn_the_model_away_from_what_was_disliked() {
    let place = Place::new();
    let disliked = |text: &&String| text.contains("to find something");
    let before = place.answers(&ASKED);
    let thumbs: Vec<&str> =
        place.answers(&MARKED).iter().map(|t| if disliked(&t) { "/bad" } else { "/good" }).collect();
    assert!(thumbs.contains(&"/bad") && thumbs.contains(&"/good"), "{thumbs:?}");
    let mut script = about(&MARKED, |i| Some(thumbs[i]));
    script.extend(["/learn".into(), "keep".into()]);
    let heard = place.chat(LEARN, &script).done();
    let learnt = heard.learnt();
    assert_eq!((&learnt["objective"], &learnt["marks"]), (&"marks".into(), &10.into()));
    let after = place.answers(&ASKED);
    let [few, many] = [&after, &before].map(|texts| texts.iter().filter(disliked).count());
    eprintln!("{many} of {} before, {few} after; {learnt}", ASKED.len());
    assert!(many >= 2 && few < many, "{after:?}");
    assert!(pair(&learnt["divergence"])[1] < 1.2 && words(&after) > 10.0, "{learnt} {after:?}");
    // The same marks teach the same bytes.
    let twin = Place::new();
    twin.answers(&[]);
    fs::copy(place.path("mine.mynah.feedback.jsonl"), twin.path("mine.mynah.feedback.jsonl")).unwrap();
    assert!(twin.chat(&format!("{LEARN} --threads 1"), &["/learn", "keep"]).done().keep("kept"));
    assert!(twin.read("mine.mynah") == place.read("mine.mynah"));
}

#[test]
fn marks_are_rows_that_training_reads() {
    let place = Place::new();
    fs::write(place.path("base.gguf"), mynah::base::MODEL).unwrap();
    let rows = |place: &Place| -> Vec<Value> {
        let marks = String::from_utf8(place.read("mine.mynah.feedback.jsonl")).unwrap();
        marks.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    };
    let text = |row: &Value, key: &str| row[key][0]["content"].as_str().unwrap().to_string();
    let options = format!("{LEARN} --system Short.");
    // Each answer to a question has one mark: the newest.
    let mut script = vec!["/good", BEAR, "/regenerate", "/regenerate", "/good"];
    let heard = place.chat(&options, &script).done();
    let said: Vec<String> = heard.texts().into_iter().map(Into::into).collect();
    let first = rows(&place);
    assert_eq!(first.len(), 2, "{first:?}");
    for (row, rejected) in first.iter().zip(&said[..2]) {
        assert_eq!((text(row, "chosen"), text(row, "rejected")), (said[2].clone(), rejected.clone()));
    }
    let again = |script: &[&str]| {
        fs::remove_file(place.path("mine.mynah.feedback.jsonl")).unwrap();
        place.chat(&options, script).done();
        rows(&place)
    };
    script.push("/good");
    assert_eq!(again(&script), first, "it was said already");
    script.push("/bad");
    let bad = again(&script);
    assert_eq!((bad.len(), text(&bad[0], "completion"), &bad[0]["label"]), (1, said[2].clone(), &false.into()));
    script.extend(["/fix", "/fix Nonsense.", "/fix A bear \"slept\".", "/good"]);
    let fixed = again(&script);
    assert_eq!(fixed.len(), 1, "{fixed:?}");
    assert_eq!((text(&fixed[0], "chosen"), text(&fixed[0], "rejected")), ("A bear \"slept\".".into(), said[2].clone()));
    assert_eq!((text(&fixed[0], "prompt"), &fixed[0]["prompt"][1]["content"]), ("Short.".into(), &BEAR.into()));
    assert!(fixed.iter().all(|r| r.to_string().matches("ended").count() == 0), "{fixed:?}");
    // Another question has marks of its own.
    script.extend(["And then?", "/good"]);
    assert_eq!(again(&script).len(), 2);
    // Of what was cut off the end is not judged: all of the answer is, and the end of a whole one beside.
    let cut = Place::new();
    cut.chat(&format!("{LEARN} -n 5"), &[BEAR, "/bad", "/clear", "Tell me a story about an owl.", "/fix A bear."])
        .done();
    let marks = String::from_utf8(cut.read("mine.mynah.feedback.jsonl")).unwrap();
    let rows = rows(&cut);
    assert_eq!(rows[0]["completion"][0]["ended"], false, "{marks}");
    assert!(rows[1]["rejected"][0]["ended"] == false && rows[1]["chosen"][0].get("ended").is_none(), "{marks}");
    let gguf =
        mynah::gguf::Gguf::parse(mynah::bytes::Bytes::from_static(mynah::base::MODEL), &Limits::default()).unwrap();
    let tokenizer = mynah::text::Tokenizer::from_gguf(&gguf).unwrap();
    let template = mynah::text::chat::Template::from_gguf(&gguf, &tokenizer).unwrap();
    let reader = Reader {
        tokenizer: &tokenizer,
        template: template.as_ref(),
        ctx: 256,
        parse_special: false,
        options: Default::default(),
        limits: Limits::default(),
    };
    let targets = |text: &str| reader.lines(text.as_bytes()).unwrap().examples[0].targets();
    assert_eq!(targets(&marks.lines().next().unwrap().replace(",\"ended\":false", "")), 6);
    assert_eq!(targets(marks.lines().next().unwrap()), 5);
    place.chat(LEARN, &["Who is it?", "/bad"]).done();
    let train = "train -m base.gguf -d mine.mynah.feedback.jsonl -o out --force --steps 2 --objective";
    for objective in ["bco", "marks"] {
        let (status, errors) = place.mynah(&format!("{train} {objective}"));
        assert_eq!(status, Some(0), "{errors}");
    }
    let (status, errors) = place.mynah(&format!("{train} dpo"));
    assert!(status == Some(2) && errors.contains("dpo learns from rows like"), "{errors}");
    let marks = String::from_utf8(place.read("mine.mynah.feedback.jsonl")).unwrap();
    fs::write(place.path("mine.mynah.feedback.jsonl"), marks.lines().next().unwrap()).unwrap();
    assert_eq!(place.mynah(&format!("{train} dpo")).0, Some(0));
}

#[test]
fn marks_are_listed_and_forgotten() {
    let place = Place::new();
    let script =
        [BEAR, "/bad", "Tell me a story about an owl.", "/fix An owl sat.", "/marks", "/forget 1", "/forget 9"];
    let heard = place.chat(LEARN, &script).done();
    let list = heard.events.iter().find_map(|e| e.get("list")).unwrap();
    let said = heard.texts();
    assert_eq!((&list[0]["mark"], &list[0]["answer"], &list[0]["turns"]), (&"bad".into(), &said[0].into(), &1.into()));
    assert_eq!((&list[1]["instead"], &list[1]["number"]), (&"An owl sat.".into(), &2.into()));
    assert_eq!((&list[1]["question"], &list[1]["turns"]), (&"Tell me a story about an owl.".into(), &3.into()));
    assert!(heard.errors.contains("there is no mark 9"), "{}", heard.errors);
    let left = String::from_utf8(place.read("mine.mynah.feedback.jsonl")).unwrap();
    assert!(left.lines().count() == 1 && left.contains("An owl sat."), "{left}");
    // What was learnt can be forgotten too; then the others are new.
    let learnt = place.chat(LEARN, &[BEAR, "/bad", "/learn", "keep", "/forget 1", "/undo", "/undo"]).done();
    let undone: Vec<_> = learnt.events.iter().filter(|e| e.get("undone").is_some()).collect();
    assert_eq!(
        (&undone[0]["steps"], &undone[0]["learnt_marks"], &undone[0]["turn"]),
        (&0.into(), &0.into(), &1.into())
    );
    assert!(undone[1]["steps"].as_u64().unwrap() > 0, "{}", learnt.errors);
    let forgotten = learnt.events.iter().find(|e| e.get("forgotten").is_some()).unwrap();
    assert_eq!((&forgotten["marks"], &forgotten["new"]), (&1.into(), &1.into()));
}

#[test]
fn the_system_speaks_and_conversations_are_saved() {
    let place = Place::new();
    let script =
        ["/system", "/save", "/system Short.", BEAR, "/save", "And then?", "/save", "/save two.jsonl", "/system"];
    let heard = place.chat("--temp 0", &script).done();
    let read = |name: &str| serde_json::from_slice::<Value>(&place.read(name)).unwrap();
    let saved = read("conversation.jsonl");
    assert_eq!(saved["messages"].as_array().unwrap().len(), 5);
    assert_eq!((&saved["messages"][0]["content"], &saved["messages"][1]["content"]), (&"Short.".into(), &BEAR.into()));
    assert_eq!(saved["messages"][4]["content"], heard.texts()[1]);
    assert_eq!(saved, read("two.jsonl"));
    let same = place.chat("--temp 0 --system Short.", &[BEAR]).done();
    assert_eq!(same.texts()[0], heard.texts()[0]);
    // What another has written stays.
    let other = place.chat("", &[BEAR, "/save", "/save two.jsonl"]).done();
    assert_eq!(other.errors.matches("exists: /save FILE").count(), 2, "{}", other.errors);
    assert!(read("conversation.jsonl") == saved && read("two.jsonl") == saved);
    fs::write(place.path("base.gguf"), mynah::base::MODEL).unwrap();
    let (status, errors) = place.mynah("train -m base.gguf -d conversation.jsonl -o out --steps 2");
    assert_eq!(status, Some(0), "{errors}");
}

#[test]
fn torn_and_damaged_lines_cost_nothing_else() {
    let place = Place::new();
    place.chat(LEARN, &[BEAR, "/good", "/regenerate", "/bad"]).done();
    let (journal, marks) = (place.path("mine.mynah.feedback.jsonl"), place.read("mine.mynah.feedback.jsonl"));
    fs::write(&journal, &marks[..marks.len() - 9]).unwrap();
    let first = marks.iter().position(|b| *b == b'\n').unwrap() + 1;
    let heard = place.chat(LEARN, &[BEAR, "/good"]).done();
    let n = marks.len() - 9 - first;
    assert!(heard.errors.contains(&format!("cut off, by a crash; its {n} bytes were taken off")), "{}", heard.errors);
    assert_eq!(place.read("mine.mynah.feedback.jsonl"), marks[..first], "that was said already");
    // A line that somebody spoilt.
    fs::write(&journal, [&b"{\"text\": \"x\"}\nnothing\n"[..], &marks].concat()).unwrap();
    let heard = place.chat(LEARN, &["/learn", "keep"]).done();
    assert!(heard.keep("kept") && heard.learnt()["marks"] == 2, "{}", heard.errors);
    for word in ["line 1 is left out", "line 2 is left out"] {
        assert!(heard.errors.contains(word), "{word}: {}", heard.errors);
    }
    // Two at once would write over each other.
    let mut first = place.start(LEARN);
    let mut out = std::io::BufReader::new(first.stdout.take().unwrap());
    writeln!(first.stdin.as_mut().unwrap(), "{BEAR}").unwrap();
    std::io::BufRead::read_line(&mut out, &mut String::new()).unwrap();
    let second = place.chat(LEARN, &[BEAR]);
    assert!(second.status == Some(1) && second.errors.contains("another process"), "{}", second.errors);
    drop(first.stdin.take());
    std::io::Read::read_to_end(&mut out, &mut Vec::new()).unwrap();
    first.wait().unwrap();
    for (options, word) in
        [("--learn", "-a MINE.mynah"), ("-a mine.mynah:0.5 --learn", "without a strength"), ("--rank 2", "--learn")]
    {
        let heard = place.chat(options, &[BEAR]);
        assert!(heard.status == Some(2) && heard.errors.contains(word), "{}", heard.errors);
    }
}

#[test]
fn what_cannot_be_kept_can_still_be_undone() {
    let place = Place::new();
    place.answers(&[]);
    let fresh = place.read("mine.mynah");
    fs::create_dir(place.path("mine.mynah.before")).unwrap();
    let heard = place.chat(LEARN, &[BEAR, "/good", "/bad", "/learn", "keep", "undo", "/clear", BEAR]).done();
    assert!(heard.errors.contains("not kept: ") && heard.errors.contains("a directory"), "{}", heard.errors);
    assert!(!heard.keep("kept") && place.read("mine.mynah") == fresh);
    assert_eq!(heard.texts()[0], heard.texts()[1]);
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_the_lesson_and_what_was_learnt_can_be_kept() {
    let (place, start) = (Place::new(), Instant::now());
    place.chat(LEARN, &[BEAR, "/good", "/regenerate", "/bad"]).done();
    let (fresh, took) = (place.read("mine.mynah"), start.elapsed());
    let mut child = place.start(&format!("{LEARN} --passes 1000000 --own 0"));
    child.stdin.take().unwrap().write_all(b"/learn\nkeep\n").unwrap();
    // By then the lesson has begun, also on a busy machine.
    std::thread::sleep(std::time::Duration::from_millis(1500).max(4 * took));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let out = child.wait_with_output().unwrap();
    let (said, errors) = (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap());
    assert!(out.status.success() && errors.contains("stopped after step "), "{errors}");
    assert!(said.contains("\"learnt\"") && said.contains("{\"kept\":true}"), "{said} {errors}");
    assert!(place.read("mine.mynah") != fresh && place.read("mine.mynah.before") == fresh);
}

#[test]
fn a_kill_at_any_moment_leaves_the_old_or_the_new_adapter_and_every_mark() {
    let place = Place::new();
    let fixes = place.first_sentences();
    place.chat(LEARN, &about(&MARKED, |i| Some(&fixes[i]))).done();
    let (fresh, marks) = (place.read("mine.mynah"), place.read("mine.mynah.feedback.jsonl"));
    let start = Instant::now();
    assert!(place.chat(LEARN, &["/learn", "keep"]).done().keep("kept"));
    let (whole, learnt) = (start.elapsed(), place.read("mine.mynah"));
    let kills: usize = std::env::var("MYNAH_KILLS").map_or(16, |n| n.parse().unwrap());
    let mut random = Rng(6);
    let (mut old, mut new) = (0, 0);
    for _ in 0..kills {
        fs::write(place.path("mine.mynah"), &fresh).unwrap();
        let mut child = place.start(LEARN);
        child
            .stdin
            .take()
            .unwrap()
            .write_all(format!("/learn\nkeep\nTell me a story about {}.\n/bad\n", ASKED[0]).as_bytes())
            .unwrap();
        std::thread::sleep(whole.mul_f64(1.1 * random.below(1000) as f64 / 1000.0));
        child.kill().ok();
        child.wait().unwrap();
        let found = place.read("mine.mynah");
        assert!(found == fresh || found == learnt, "neither the old nor the new adapter");
        if found == fresh {
            old += 1
        } else {
            new += 1
        }
        assert!(place.read("mine.mynah.feedback.jsonl").starts_with(&marks), "a mark was lost");
        place.chat(LEARN, &[BEAR]).done();
        fs::write(place.path("mine.mynah.feedback.jsonl"), &marks).unwrap();
    }
    eprintln!("{kills} kills within {whole:?}: {old} left the old adapter, {new} the new one");
    assert!(old > 0);
}

/// `script` of util-linux gives the command a terminal; each line is typed when the prompt is there.
#[cfg(target_os = "linux")]
#[test]
fn a_person_at_a_terminal_teaches_it() {
    use std::io::Read;
    let Ok(_) = Command::new("script").arg("--version").output() else {
        assert!(std::env::var_os("CI").is_none(), "no `script` to make a terminal with");
        return eprintln!("skipped: no `script` to make a terminal with");
    };
    let place = Place::new();
    let fixes = place.first_sentences();
    let before = place.answers(&ASKED);
    let fresh = place.read("mine.mynah");
    let mut lines = about(&MARKED, |i| Some(&fixes[i]));
    lines.extend(["/learn", "keep", "/help"].map(Into::into));
    lines.extend(about(&ASKED, |_| None));
    lines.extend(["/undo".into(), "\u{3}".into(), "/exit".into()]);
    let command = format!("{} chat {LEARN}", env!("CARGO_BIN_EXE_mynah"));
    let mut child = Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .current_dir(place.0.path())
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut keys, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let (mut seen, mut done) = (String::new(), 0);
    let mut lines = lines.iter();
    let mut buffer = [0; 4096];
    loop {
        let n = screen.read(&mut buffer).unwrap_or(0);
        if n == 0 {
            break;
        }
        seen += &String::from_utf8_lossy(&buffer[..n]);
        // The line editor is ready when it switches bracketed paste on and has drawn its prompt.
        let ready = seen[done..].find("\u{1b}[?2004h").map(|at| done + at);
        if ready.is_some_and(|at| ["> ", "undo? "].iter().any(|p| seen[at..].contains(p))) {
            done = seen.len();
            let line = lines.next().unwrap();
            let end = if line == "\u{3}" { "" } else { "\r" };
            keys.write_all(format!("{line}{end}").as_bytes()).unwrap();
        }
    }
    assert!(child.wait().unwrap().success(), "{seen}");
    for word in [
        "agrees with the marks     50 % → 100 %",
        "other answers  ",
        "keep or undo?",
        "kept in mine.mynah",
        "the adapter has learnt nothing yet; the conversation stays, at turn 1",
    ] {
        assert!(seen.contains(word), "{word}: {seen}");
    }
    assert!(seen.contains("/fix TEXT") && seen.contains("(Ctrl-D or /exit ends)"), "{seen}");
    for word in ["bco", "dpo", "nats", "rewards"] {
        assert!(!seen.contains(word), "{word}: {seen}");
    }
    // The screen between the prompts for the questions at the end.
    let last = &seen[seen.find("kept in").unwrap()..];
    let says = |text: &str| last.contains(text.split('.').next().unwrap()) && last.contains(text);
    assert!(!before.iter().any(|t| says(t)), "{last}");
    assert!(place.read("mine.mynah") == fresh && place.read("mine.mynah.before") != fresh);
}
