//! `mynah chat`: a conversation, and what can be done about its answers.
//!
//! This page reads lines and does what they say; `input.rs` is where they come from, `talk.rs` holds the conversation.

mod input;
mod talk;

use crate::args::Chat;
use crate::load::Loaded;
use crate::run::{Said, show};
use crate::{Outcome, meter, out};
use input::Input;
use talk::Talk;

/// What can be typed, and what it does.
const COMMANDS: &[(&str, &str)] = &[
    ("/regenerate", "another answer to the same"),
    ("/clear", "a new conversation"),
    ("/help", "this"),
    ("/exit", "the end, as Ctrl-D"),
];

/// One that is running.
struct Room<'a> {
    talk: Talk<'a>,
    json: bool,
}

pub fn chat(args: &Chat, json: bool) -> anyhow::Result<Outcome> {
    let loaded = Loaded::of(&args.model)?;
    let mut room = Room { talk: Talk::new(args, &loaded)?, json };
    let mut input = Input::open()?;
    if room.talk.template.stop().is_some() {
        out::say("the model file has no chat template: turns are lines that begin with User: and Assistant:");
    }
    if input.terminal() {
        out::say("Say something; /help shows what else can be typed, Ctrl-D ends.");
    }
    meter::catch_interrupt("the answer")?;
    while let Some(line) = input.line("> ")? {
        meter::forget_interrupt();
        if line.trim().is_empty() {
            continue;
        }
        let (word, _) = line.split_once(char::is_whitespace).unwrap_or((&line, ""));
        match word {
            "/exit" | "/quit" | "/bye" => break,
            "/help" | "/?" => help(),
            "/clear" => room.talk.clear(),
            "/regenerate" => room.again()?,
            _ if line.starts_with('/') && !line.starts_with("//") => {
                out::say(&format!("{word}: no such command; /help shows them"));
            }
            _ => room.say(line.strip_prefix('/').unwrap_or(&line))?,
        }
    }
    Ok(Outcome::Done)
}

fn help() {
    for (word, what) in COMMANDS {
        out::say(&format!("  {word:14} {what}"));
    }
}

impl Room<'_> {
    fn say(&mut self, text: &str) -> anyhow::Result<()> {
        let forgot = |turns: usize| {
            let what = if turns == 1 { "turn is" } else { "turns are" };
            out::say(&format!("(no room for all of it: the oldest {turns} {what} forgotten)"));
        };
        let said = self.talk.say(text, forgot, &mut show(self.json));
        self.said(said)
    }

    fn again(&mut self) -> anyhow::Result<()> {
        if self.talk.last().is_none() {
            out::say("there is no answer yet");
            return Ok(());
        }
        let said = self.talk.again(&mut show(self.json));
        self.said(said)
    }

    /// Ends an answer. What cannot be said is no reason to end the conversation; that nobody reads is.
    fn said(&mut self, said: anyhow::Result<Said>) -> anyhow::Result<()> {
        match said {
            Ok(said) if self.json => out::print_json(&said.summary()),
            Ok(said) => {
                out::print("\n")?;
                match said.stop {
                    "end" => {}
                    "length" => out::say("(cut off; -n gives longer answers)"),
                    "context" => out::say("(cut off: no room for more of it; --ctx gives more)"),
                    why => out::say(&format!("({why})")),
                }
                Ok(())
            }
            Err(e) if out::is_closed_pipe(&e) => Err(e),
            Err(e) => {
                out::say(&format!("{e:#}"));
                Ok(())
            }
        }
    }
}
