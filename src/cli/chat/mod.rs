//! `mynah chat`: a conversation, and what can be done about its answers.
//!
//! This page reads lines and does what they say; `input.rs` is where they come from, `attach.rs` changes adapters, `learn.rs` shows
//! what is learnt from marks and asks whether to keep it. The conversation and the learning are the library's.

mod attach;
mod input;
mod learn;

use crate::args::{Chat, ModelArgs, setting};
use crate::run::{hear, show};
use crate::{Outcome, load, meter, out};
use attach::Adapters;
use input::Input;
use learn::Learner;
use mynah::app::{Mark, Reply, Talk};
use mynah::text::chat::Message;
use std::path::{Path, PathBuf};

/// What can be typed, and what it does.
const COMMANDS: &[(&str, &str)] = &[
    ("/regenerate", "ask for another answer to the last question"),
    ("/clear", "begin a new conversation"),
    ("/system TEXT", "tell the model how to behave; alone it shows what it was told"),
    ("/adapter FILE:S", "attach an adapter with strength S, or change its strength; alone it lists them"),
    ("/detach FILE", "take an adapter off; alone all of them"),
    ("/save FILE", "write the conversation into a file that `mynah train` reads"),
    ("/help", "show this list"),
    ("/exit", "leave, as Ctrl-D does"),
];

/// The same where it learns.
const MARKS: &[(&str, &str)] = &[
    ("/good", "the last answer was good; after /regenerate: better than the earlier ones"),
    ("/bad", "the last answer was bad"),
    ("/fix TEXT", "it should have said TEXT"),
    ("/marks", "list what you marked, with numbers"),
    ("/forget N", "take mark N away"),
    ("/learn", "learn from the marks; shows what changed and asks whether to keep it"),
    ("/undo", "go back to before the last /learn that was kept; once more: forward again"),
];

/// A conversation that is running.
struct Room<'a> {
    talk: Talk,
    learner: Option<Learner<'a>>,
    adapters: Adapters<'a>,
    json: bool,
    /// Whether something that was asked for was not done.
    failed: bool,
    merge_system: bool,
    /// The file that the conversation was saved in.
    saved: Option<PathBuf>,
}

/// The file of a conversation where none is named.
const SAVED: &str = "conversation.jsonl";

/// The conversation that the options ask for; what learns is attached by who teaches it.
fn open(args: &Chat) -> anyhow::Result<Talk> {
    let mynah = load::model(&args.model)?;
    let mut adapters = args.model.adapters.clone();
    if args.learn {
        adapters.pop();
    }
    let generation = load::generation(&mynah, &ModelArgs { adapters, ..args.model.clone() })?;
    let generation = generation.sampling(args.sampling.0.clone()).limit(args.n as usize).stop(meter::stop());
    let generation = match args.ctx {
        Some(ctx) => generation.context(ctx as usize),
        None => generation,
    };
    let talk = setting(generation.talk())?.at(load::now()).merge_system(args.merge_system);
    load::say_ropes(talk.mynah(), &args.model.adapters, talk.context())?;
    let Some(text) = &args.system else { return Ok(talk) };
    setting(talk.template().check_system())?;
    Ok(talk.system(text))
}

pub fn chat(args: &Chat, json: bool) -> anyhow::Result<Outcome> {
    args.lesson.method.check()?;
    if args.learn {
        Learner::check(args)?;
    }
    let mut talk = open(args)?;
    let learner = args.learn.then(|| Learner::open(args, &mut talk, json)).transpose()?;
    let adapters = Adapters::open(args, &mut talk, json)?;
    let mut room = Room { talk, learner, adapters, json, failed: false, merge_system: args.merge_system, saved: None };
    let mut input = Input::open()?;
    if !room.talk.has_template() {
        out::say("the model file has no chat template: turns are lines that begin with User: and Assistant:");
    }
    if input.terminal() {
        out::say("Say something; /help shows what else can be typed, Ctrl-D ends.");
    }
    meter::catch_interrupt("stopping")?;
    while let Some(line) = input.line("> ")? {
        meter::forget_interrupt();
        if line.trim().is_empty() {
            continue;
        }
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((&line, ""));
        match word {
            "/exit" | "/quit" | "/bye" => break,
            "/help" | "/?" => room.help(),
            "/clear" => room.talk.clear(),
            "/regenerate" => room.again()?,
            "/system" | "/save" => {
                let rest = rest.trim();
                let done = if word == "/save" { room.save(rest) } else { room.system(rest) };
                room.goes_on(done)?;
            }
            "/adapter" | "/detach" => {
                let done = room.attach(word, rest.trim());
                room.goes_on(done)?;
            }
            "/good" | "/bad" | "/fix" | "/marks" | "/forget" | "/learn" | "/undo" => {
                let done = room.teach(word, rest.trim(), &mut input);
                room.goes_on(done)?;
            }
            _ if line.starts_with('/') && !line.starts_with("//") => {
                room.failed = true;
                out::say(&format!("{word}: no such command; /help shows them"));
            }
            _ => room.say(line.strip_prefix('/').unwrap_or(&line))?,
        }
    }
    if let Some((_, new @ 1..)) = room.learner.as_ref().map(Learner::marks) {
        out::say(&format!("{} kept for the next /learn", out::count(new as u64, "mark")));
    }
    // A person has seen it and gone on; a program sees the exit status.
    anyhow::ensure!(!room.failed || input.terminal(), "some commands failed; the reasons are above");
    Ok(Outcome::Done)
}

/// A conversation as a row of data, in a file of its own.
fn write(path: &Path, messages: &[Message]) -> anyhow::Result<()> {
    let turns: Vec<_> = messages.iter().map(|m| serde_json::json!({ "role": m.role, "content": m.content })).collect();
    let row = serde_json::json!({ "messages": turns });
    Ok(mynah::bytes::map::replace(path, format!("{row}\n").as_bytes())?)
}

/// Shows an answer as it comes, and how it ended.
fn answer(mut reply: Reply, json: bool) -> anyhow::Result<()> {
    let times = hear(&mut reply, &mut show(json))?;
    meter::forget_interrupt();
    let said = reply.end()?;
    let summary = times.summary(&said);
    if json {
        return out::print_json(&summary);
    }
    out::print("\n")?;
    match summary.stop {
        "end" => {}
        "length" => out::say("(cut off; -n gives longer answers)"),
        "context" => out::say("(cut off: no room for more of it; --ctx gives more)"),
        why => out::say(&format!("({why})")),
    }
    Ok(())
}

impl Room<'_> {
    fn help(&self) {
        let marks = if self.learner.is_some() { MARKS } else { &[] };
        for (word, what) in COMMANDS.iter().chain(marks) {
            out::say(&format!("  {word:16} {what}"));
        }
    }

    /// A mark, or what is made of marks.
    fn teach(&mut self, word: &str, rest: &str, input: &mut Input) -> anyhow::Result<()> {
        let Some(learner) = &mut self.learner else {
            out::say("start with -a MINE.mynah --learn to teach");
            return Ok(());
        };
        match word {
            "/learn" => return learner.learn(&mut self.talk, input),
            "/undo" => return learner.undo(&mut self.talk),
            "/marks" => return learner.list(),
            "/forget" => return learner.forget(rest),
            _ => {}
        }
        if self.talk.last().is_none() {
            out::say("there is no answer yet");
            return Ok(());
        }
        let mark = match word {
            "/fix" if rest.is_empty() => {
                out::say("what should it have said? /fix TEXT");
                return Ok(());
            }
            "/fix" => Mark::Better(rest),
            "/bad" => Mark::Bad,
            _ => Mark::Good,
        };
        learner.mark(&mut self.talk, mark)
    }

    /// Shows or changes what is attached.
    fn attach(&mut self, word: &str, name: &str) -> anyhow::Result<()> {
        match (word, name) {
            ("/adapter", "") => self.adapters.list(),
            _ if self.learner.is_some() => {
                out::say("adapters stay as they are while one of them learns; start without --learn to change them");
                Ok(())
            }
            ("/adapter", name) => self.adapters.attach(&mut self.talk, name),
            (_, name) => self.adapters.detach(&mut self.talk, name),
        }
    }

    /// Shows or sets what the system says.
    fn system(&mut self, text: &str) -> anyhow::Result<()> {
        if text.is_empty() {
            let system = self.talk.messages().iter().find(|m| m.role == "system");
            out::say(&system.map_or("nothing was said: /system TEXT".into(), |m| out::harmless(&m.content)));
            return Ok(());
        }
        if !self.merge_system {
            self.talk.template().check_system()?;
        }
        self.talk.set_system(Some(text));
        out::say("(from the next answer on; /clear begins a new conversation with it)");
        Ok(())
    }

    /// Writes the conversation as a row of data. A file that something else has written stays.
    fn save(&mut self, name: &str) -> anyhow::Result<()> {
        if self.talk.last().is_none() {
            out::say("there is no answer yet");
            return Ok(());
        }
        let path = match (name, &self.saved) {
            ("", Some(saved)) => saved.clone(),
            ("", None) => PathBuf::from(SAVED),
            (name, _) => PathBuf::from(name),
        };
        if self.saved.as_deref() != Some(&*path) && path.symlink_metadata().is_ok() {
            out::say(&format!("{} exists: /save FILE writes into another", out::name(&path)));
            return Ok(());
        }
        write(&path, self.talk.messages())?;
        if self.json {
            out::print_json(&serde_json::json!({ "saved": path.to_string_lossy() }))?;
        } else {
            out::say(&format!("saved in {}", out::name(&path)));
        }
        self.saved = Some(path);
        Ok(())
    }

    fn say(&mut self, text: &str) -> anyhow::Result<()> {
        let done = match self.talk.say(text) {
            Ok(reply) => {
                let turns = reply.dropped().iter().filter(|m| m.role == "user").count();
                if turns > 0 {
                    let what = if turns == 1 { "turn is" } else { "turns are" };
                    out::say(&format!("(no room for all of it: the oldest {turns} {what} forgotten)"));
                }
                answer(reply, self.json)
            }
            Err(mynah::Error::Limit { what, asked, allowed }) if what == "tokens of the conversation" => {
                let why = format!("{asked} tokens, and there is room for {allowed}: say less, or give more --ctx");
                Err(anyhow::Error::msg(why))
            }
            Err(e) => Err(e.into()),
        };
        self.goes_on(done)
    }

    fn again(&mut self) -> anyhow::Result<()> {
        if self.talk.last().is_none() {
            out::say("there is no answer yet");
            return Ok(());
        }
        let done = self.talk.regenerate().map_err(Into::into).and_then(|reply| answer(reply, self.json));
        self.goes_on(done)
    }

    /// Prints what went wrong and continues the conversation, unless nobody reads the output any more.
    fn goes_on(&mut self, done: anyhow::Result<()>) -> anyhow::Result<()> {
        match done {
            Err(e) if out::is_unwritten(&e) => Err(e),
            Err(e) => {
                self.failed = true;
                out::say(&out::why(&e));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}
