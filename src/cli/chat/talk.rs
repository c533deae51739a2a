//! A conversation: its turns, the session that has read them, and the answers.

use crate::args::{Chat, ModelArgs, SamplingArgs, Usage, setting};
use crate::load::Loaded;
use crate::meter;
use crate::run::{Said, generate};
use mynah::adapter::{Ready, Stack};
use mynah::model::Session;
use mynah::text::chat::{ASSISTANT, Message, Template};
use mynah::train::feedback::Answer;
use std::sync::Arc;

/// Positions of a session where nothing is said.
const CONTEXT: usize = 4096;
/// This part of the context, at most, is kept free for an answer.
const ROOM: usize = 4;

/// Gets each token and the text that may be shown with it.
pub type Show<'a> = &'a mut dyn FnMut(u32, &str) -> anyhow::Result<()>;

/// A conversation with a model.
pub struct Talk<'a> {
    loaded: &'a Loaded,
    pub template: Template,
    session: Session,
    /// What is attached and does not learn.
    pub beneath: Stack,
    /// All turns, the system's first if there is one.
    pub messages: Vec<Message>,
    /// What the session has read, so that only what is new is read.
    read: Vec<u32>,
    sampling: SamplingArgs,
    /// Most tokens of an answer.
    most: usize,
    /// Questions asked, and answers to the last of them: what is drawn follows from both.
    asked: u64,
    answered: u64,
    /// Whether the last answer came to an end by itself.
    ended: bool,
}

impl<'a> Talk<'a> {
    pub fn new(args: &Chat, loaded: &'a Loaded) -> anyhow::Result<Talk<'a>> {
        let most = loaded.model.hparams.context;
        let context = args.ctx.map_or(CONTEXT.min(most), |c| (c as usize).min(most));
        let mut adapters = args.model.adapters.clone();
        if args.learn {
            adapters.pop();
        }
        let beneath = loaded.stack(&adapters)?;
        let template = match loaded.template()? {
            Some(template) => template,
            None => Template::plain(&loaded.tokenizer)?,
        };
        Ok(Talk {
            // What learns is attached by who teaches it.
            session: loaded.session(&ModelArgs { adapters, ..args.model.clone() }, context)?,
            beneath,
            messages: args.system.iter().map(|s| Message::new("system", s.as_str())).collect(),
            read: Vec::new(),
            sampling: args.sampling.clone(),
            most: args.n as usize,
            asked: 0,
            answered: 0,
            ended: true,
            template,
            loaded,
        })
    }

    /// Most tokens of the conversation.
    pub fn context(&self) -> usize {
        self.session.context()
    }

    /// Forgets all turns but the system's.
    pub fn clear(&mut self) {
        self.messages.retain(|m| m.role == "system");
        (self.asked, self.answered) = (0, 0);
    }

    /// From now on this adapter speaks, on top of those that were there at first.
    pub fn attach(&mut self, adapter: Arc<Ready>) -> anyhow::Result<()> {
        self.session.detach()?;
        for below in self.beneath.all() {
            self.session.attach(below.adapter.clone(), below.strength)?;
        }
        self.session.attach(adapter, 1.0)?;
        self.read.clear();
        Ok(())
    }

    /// The last answer.
    pub fn last(&self) -> Option<Answer<'_>> {
        let last = self.messages.last().filter(|m| m.role == ASSISTANT)?;
        Some(Answer { text: &last.content, ended: self.ended })
    }

    /// What was said before the last answer.
    pub fn before(&self) -> &[Message] {
        self.messages.split_last().map_or(&[], |(_, before)| before)
    }

    /// Puts `text` in the place of the last answer.
    pub fn correct(&mut self, text: &str) {
        if let Some(last) = self.messages.last_mut().filter(|m| m.role == ASSISTANT) {
            last.content = text.into();
            self.ended = true;
        }
    }

    /// Says `text`; the answer. `forgot` is told of turns that have to go. On an error it is as if nothing was said.
    pub fn say(&mut self, text: &str, forgot: impl Fn(usize), show: Show) -> anyhow::Result<Said> {
        let mut messages = self.messages.clone();
        messages.push(Message::new("user", text));
        let turns = self.fit(&mut messages)?;
        if turns > 0 {
            forgot(turns);
        }
        self.asked += 1;
        self.answered = 0;
        self.answer(messages, show)
    }

    /// Another answer to what was said last.
    pub fn again(&mut self, show: Show) -> anyhow::Result<Said> {
        self.answered += 1;
        self.answer(self.before().to_vec(), show)
    }

    /// The answer to `messages`, which become the conversation with it.
    fn answer(&mut self, messages: Vec<Message>, show: Show) -> anyhow::Result<Said> {
        let seed = self.sampling.0.seed.wrapping_add(self.asked.wrapping_sub(1)).wrapping_add(self.answered << 32);
        let said = self.draw(&messages, seed, self.most, show)?;
        self.ended = said.stop == "end";
        self.messages = messages;
        self.messages.push(Message::new(ASSISTANT, said.text.as_str()));
        Ok(said)
    }

    /// An answer to other messages, which is no part of the conversation.
    pub fn aside(&mut self, messages: &[Message], most: usize) -> anyhow::Result<Said> {
        let mut messages = messages.to_vec();
        self.fit(&mut messages)?;
        self.draw(&messages, self.sampling.0.seed, most.min(self.most), &mut |_, _| Ok(()))
    }

    fn draw(&mut self, messages: &[Message], seed: u64, most: usize, show: Show) -> anyhow::Result<Said> {
        let tokens = self.template.tokens(&self.loaded.tokenizer, messages, true)?;
        // The last token is always read again: its logits are wanted.
        let same = self.read.iter().zip(&tokens).take_while(|(a, b)| a == b).count().min(tokens.len() - 1);
        self.session.truncate(same);
        self.read.truncate(same);
        let sampler = SamplingArgs(self.sampling.0.clone().seed(seed)).sampler()?;
        let mut speech = Speech::new(self.template.stop());
        let ends = self.loaded.tokenizer.eos_ids();
        let mut each = |id: u32, text: &str| {
            show(id, speech.hear(text))?;
            Ok(if speech.over {
                Some("end")
            } else if meter::interrupted() {
                Some("interrupted")
            } else {
                None
            })
        };
        let mut said = generate(self.loaded, &mut self.session, sampler, &tokens[same..], most, ends, &mut each)?;
        meter::forget_interrupt();
        self.read = tokens;
        self.read.extend(&said.ids);
        self.read.truncate(self.session.position());
        if self.template.stop().is_some() {
            speech.end(&mut said.text);
        }
        Ok(said)
    }

    /// Leaves the oldest turns out until the conversation has room for an answer; how many.
    fn fit(&self, messages: &mut Vec<Message>) -> anyhow::Result<usize> {
        let context = self.context();
        let free = self.most.min(context / ROOM).max(1);
        let first = messages.iter().take_while(|m| m.role == "system").count();
        let mut turns = 0;
        loop {
            let tokens = setting(self.template.tokens(&self.loaded.tokenizer, messages, true))?.len();
            if tokens + free <= context {
                return Ok(turns);
            }
            // A turn is a question and its answer.
            let next = messages.iter().skip(first + 1).position(|m| m.role == "user");
            let Some(next) = next else {
                let why =
                    format!("{tokens} tokens, and there is room for {}: say less, or give more --ctx", context - free);
                return Err(Usage::error(why));
            };
            messages.drain(first..=first + next);
            turns += 1;
        }
    }
}

/// Text of an answer as it comes, up to what ends it.
struct Speech {
    stop: Option<&'static str>,
    text: String,
    shown: usize,
    over: bool,
    /// What the last token let be shown.
    now: String,
}

impl Speech {
    fn new(stop: Option<&'static str>) -> Speech {
        Speech { stop, text: String::new(), shown: 0, over: false, now: String::new() }
    }

    /// Adds what a token says; what may be shown of it. The beginning of what would end the answer waits.
    fn hear(&mut self, text: &str) -> &str {
        let Some(stop) = self.stop else {
            self.now = text.into();
            return &self.now;
        };
        self.text += text;
        if self.shown == 0 {
            self.text = self.text.trim_start().into();
        }
        let end = match self.text.find(stop) {
            Some(at) => {
                self.over = true;
                at
            }
            None => {
                let begun = (1..stop.len()).rev().find(|&n| self.text.ends_with(&stop[..n]));
                self.text.len() - begun.unwrap_or(0)
            }
        };
        self.now = self.text[self.shown.min(end)..end].into();
        self.shown = end.max(self.shown);
        &self.now
    }

    /// Leaves of an answer's text what belongs to it.
    fn end(&self, text: &mut String) {
        if let Some(at) = self.stop.and_then(|stop| text.find(stop)) {
            text.truncate(at);
        }
        *text = text.trim().into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_before_the_next_turn() {
        let mut speech = Speech::new(Some("\nUser:"));
        let shown: Vec<String> = [" Yes", ".\n", "U", "Boat\nUs", "er: and"].map(|t| speech.hear(t).to_string()).into();
        assert_eq!(shown, ["Yes", ".", "", "\nUBoat", ""]);
        let mut text = String::from(" Yes.\nUBoat\nUser: and");
        speech.end(&mut text);
        assert!(speech.over && text == "Yes.\nUBoat");
        assert_eq!(Speech::new(None).hear(" \nUser:"), " \nUser:");
    }
}
