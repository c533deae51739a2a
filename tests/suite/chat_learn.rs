//! `mynah chat` as a process, driven from a script: the conversation, and what is learnt from it.

use serde_json::Value;
use std::io::Write;
use std::process::{Child, Command, Stdio};

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
        // A pipe holds more than these scripts.
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
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
    let heard = place.chat("--seed 5", &lines).done();
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
    let heard = place.chat("--temp 0 --ctx 128 -n 40", &[BEAR, BEAR, BEAR, &long, "Who is it?"]).done();
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
    for _ in 0..8 {
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

#[test]
fn models_talk_by_their_template_or_without_one() {
    let Some(shared) = crate::shared::shared() else { return };
    let place = Place::new();
    let model = |name: &str| shared.join("models").join(name).canonicalize().unwrap().display().to_string();
    let options = format!("-m {} -n 4 --temp 0", model("SmolLM2-135M-Instruct.Q4_0.gguf"));
    let heard = place.chat(&options, &["Hello!", "And now?"]).done();
    assert_eq!(heard.answers().len(), 2);
    let heard = place.chat(&format!("-m {} -n 4", model("stories260K.gguf")), &["Hello!"]).done();
    assert!(heard.answers().len() == 1 && heard.errors.contains("no chat template"), "{}", heard.errors);
}
