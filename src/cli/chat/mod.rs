//! `mynah chat`: a conversation, and what can be done about its answers.
//!
//! This page reads lines and does what they say; `input.rs` is where they come from, `talk.rs` holds the conversation,
//! `learn.rs` teaches from what is thought of it.

mod input;
mod learn;
mod talk;

use crate::args::Chat;
use crate::load::Loaded;
use crate::run::{Said, show};
use crate::{Outcome, meter, out};
use input::Input;
use learn::Learner;
use mynah::train::feedback::{Answer, Verdict};
use talk::Talk;

/// What can be typed, and what it does.
const COMMANDS: &[(&str, &str)] = &[
    ("/regenerate", "another answer to the same"),
    ("/clear", "a new conversation"),
    ("/help", "this"),
    ("/exit", "the end, as Ctrl-D"),
];

/// The same where it learns.
const MARKS: &[(&str, &str)] = &[
    ("/good", "the last answer was good; behind /regenerate, better than those before it"),
    ("/bad", "it was not"),
    ("/fix TEXT", "TEXT would have been better, and is what was said"),
    ("/learn", "learn from all marks, look at what changed, and keep it or not"),
    ("/undo", "back to the adapter before the last /learn that was kept"),
];

/// A conversation that is running.
struct Room<'a> {
    talk: Talk<'a>,
    learner: Option<Learner<'a>>,
    /// Answers to the last question that gave way to another, and whether they came to an end.
    refused: Vec<(String, bool)>,
    json: bool,
}

pub fn chat(args: &Chat, json: bool) -> anyhow::Result<Outcome> {
    args.lesson.method.check()?;
    if args.learn {
        Learner::check(args)?;
    }
    let loaded = Loaded::of(&args.model)?;
    let mut talk = Talk::new(args, &loaded)?;
    let learner = args.learn.then(|| Learner::open(args, &loaded, json)).transpose()?;
    if let Some(learner) = &learner {
        talk.attach(learner.adapter()?)?;
    }
    let mut room = Room { talk, learner, refused: Vec::new(), json };
    let mut input = Input::open()?;
    if room.talk.template.stop().is_some() {
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
            "/clear" => room.clear(),
            "/regenerate" => room.again()?,
            "/good" | "/bad" | "/fix" | "/learn" | "/undo" => {
                let done = room.teach(word, rest.trim(), &mut input);
                room.goes_on(done)?;
            }
            _ if line.starts_with('/') && !line.starts_with("//") => {
                out::say(&format!("{word}: no such command; /help shows them"));
            }
            _ => room.say(line.strip_prefix('/').unwrap_or(&line))?,
        }
    }
    if let Some((_, new @ 1..)) = room.learner.as_ref().map(Learner::marks) {
        out::say(&format!("{new} marks are kept for the next /learn"));
    }
    Ok(Outcome::Done)
}

impl Room<'_> {
    fn help(&self) {
        let marks = if self.learner.is_some() { MARKS } else { &[] };
        for (word, what) in COMMANDS.iter().chain(marks) {
            out::say(&format!("  {word:14} {what}"));
        }
    }

    fn clear(&mut self) {
        self.talk.clear();
        self.refused.clear();
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
            _ => {}
        }
        let Some(answer) = self.talk.last() else {
            out::say("there is no answer yet");
            return Ok(());
        };
        let (what, best) = match word {
            "/fix" if rest.is_empty() => {
                out::say("what should it have said? /fix TEXT");
                return Ok(());
            }
            "/fix" => ("better", Answer::new(rest)),
            word => (word.trim_start_matches('/'), answer),
        };
        // Whatever gave way to what is good now was worse than it.
        let refused = self.refused.iter().map(|(text, ended)| Answer { text, ended: *ended });
        let mut worse: Vec<Answer> = refused.chain([answer]).filter(|a| a.text != best.text).collect();
        worse.dedup();
        let verdicts: Vec<Verdict> = match (word, &worse[..]) {
            ("/bad", _) => vec![Verdict::Judged { answer, good: false }],
            (_, []) => vec![Verdict::Judged { answer: best, good: true }],
            (_, worse) => worse.iter().map(|&rejected| Verdict::Preferred { chosen: best, rejected }).collect(),
        };
        learner.mark(what, self.talk.before(), &verdicts)?;
        if word == "/fix" {
            self.talk.correct(rest);
        }
        if word != "/bad" {
            self.refused.clear();
        }
        Ok(())
    }

    fn say(&mut self, text: &str) -> anyhow::Result<()> {
        let forgot = |turns: usize| {
            let what = if turns == 1 { "turn is" } else { "turns are" };
            out::say(&format!("(no room for all of it: the oldest {turns} {what} forgotten)"));
        };
        let said = self.talk.say(text, forgot, &mut show(self.json));
        if said.is_ok() {
            self.refused.clear();
        }
        self.said(said)
    }

    fn again(&mut self) -> anyhow::Result<()> {
        let Some(last) = self.talk.last().map(|a| (a.text.to_string(), a.ended)) else {
            out::say("there is no answer yet");
            return Ok(());
        };
        let said = self.talk.again(&mut show(self.json));
        if said.is_ok() {
            self.refused.push(last);
        }
        self.said(said)
    }

    /// Ends an answer.
    fn said(&mut self, said: anyhow::Result<Said>) -> anyhow::Result<()> {
        let done = said.and_then(|said| {
            if self.json {
                return out::print_json(&said.summary());
            }
            out::print("\n")?;
            match said.stop {
                "end" => {}
                "length" => out::say("(cut off; -n gives longer answers)"),
                "context" => out::say("(cut off: no room for more of it; --ctx gives more)"),
                why => out::say(&format!("({why})")),
            }
            Ok(())
        });
        self.goes_on(done)
    }

    /// What went wrong is said, and the conversation goes on; not if nobody reads it any more.
    fn goes_on(&self, done: anyhow::Result<()>) -> anyhow::Result<()> {
        match done {
            Err(e) if out::is_closed_pipe(&e) => Err(e),
            Err(e) => {
                out::say(&out::why(&e));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}
