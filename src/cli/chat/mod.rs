//! `mynah chat`: a conversation, and what can be done about its answers.
//!
//! This page reads lines and does what they say; `input.rs` is where they come from, `learn.rs` shows what is learnt from
//! marks and asks whether to keep it. The conversation and the learning are the library's.

mod input;
mod learn;

use crate::args::{Chat, ModelArgs, setting};
use crate::run::{hear, show};
use crate::{Outcome, load, meter, out};
use input::Input;
use learn::Learner;
use mynah::app::{Mark, Reply, Talk};

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
    talk: Talk,
    learner: Option<Learner<'a>>,
    json: bool,
    /// Whether something that was asked for was not done.
    failed: bool,
}

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
    let mut room = Room { talk, learner, json, failed: false };
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
            "/good" | "/bad" | "/fix" | "/learn" | "/undo" => {
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
        out::say(&format!("{new} marks are kept for the next /learn"));
    }
    // A person has seen it and gone on; a program sees the exit status.
    anyhow::ensure!(!room.failed || input.terminal(), "not all that was asked for was done; the reasons are above");
    Ok(Outcome::Done)
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
            out::say(&format!("  {word:14} {what}"));
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
