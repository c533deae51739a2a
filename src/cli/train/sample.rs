//! What the model says before and after a run, and what to type next.

use super::resume::{quote, word};
use crate::args::{Train, setting};
use crate::load;
use crate::{meter, out};
use mynah::adapter::Stack;
use mynah::app::Lesson;
use mynah::decode::Sampling;
use mynah::text::Decode;
use mynah::train::objective::Shape;
use mynah::{Mynah, gguf::Gguf};
use serde::Serialize;
use std::path::Path;

/// Words of a text that are given where all of it was learnt.
const GIVEN: usize = 4;
/// Most tokens that the model says.
const SAYS: usize = 40;

/// How the same prompt is continued.
#[derive(Serialize)]
pub struct Sample {
    prompt: String,
    before: String,
    after: String,
}

/// The beginning of a row, and what kind of row that is.
pub struct Prompt {
    tokens: Vec<u32>,
    /// For eyes, without control tokens.
    text: String,
    /// Whether there are control tokens in it: a chat template made it.
    chat: bool,
}

impl Prompt {
    /// Of a row that is held out or, if there is none, of the first: all before its first target or, if all of it is
    /// learnt, its first words. None for objectives of embeddings.
    pub fn of(mynah: &Mynah, lesson: &Lesson) -> mynah::Result<Option<Prompt>> {
        if lesson.trainer().kind().shape == Shape::Contrast {
            return Ok(None);
        }
        let Some(row) = lesson.held_out().first().or(lesson.rows().first()) else { return Ok(None) };
        let t = mynah.tokenizer();
        let read = |tokens: &[u32], special: bool| -> mynah::Result<String> {
            let decode = Decode { unparse_special: special, ..Decode::default() };
            Ok(String::from_utf8_lossy(&t.decode(tokens, &decode)?).into_owned())
        };
        let first = row.mask.iter().position(|target| *target).unwrap_or(row.tokens.len());
        // What begins a text is there without a template, too.
        let own = first.saturating_sub(usize::from(row.tokens.first() == t.bos().as_ref()));
        if own > 1 {
            let tokens = row.tokens[..first].to_vec();
            let (text, all) = (read(&tokens, false)?, read(&row.tokens[first - own..first], true)?);
            return Ok(Some(Prompt { tokens, chat: all != text, text }));
        }
        let all = read(&row.tokens, false)?;
        let words: Vec<&str> = all.split_whitespace().collect();
        let text = words[..GIVEN.min(words.len().div_ceil(2))].join(" ");
        Ok(Some(Prompt { tokens: t.prompt(&text, false)?, text, chat: false }))
    }

    /// The model's continuations without and with what was learnt, which is in `file`.
    pub fn sample(&self, mynah: &Mynah, options: &Train, file: Vec<u8>) -> anyhow::Result<Sample> {
        let mut stack = load::stack(mynah, &options.teach.adapters)?;
        let before = self.say(mynah, stack.clone())?;
        let after = match file.starts_with(b"GGUF") {
            true => {
                let file = Gguf::parse(file.into(), &Default::default())?;
                self.say(&Mynah::with(file, mynah.model().compute.clone())?, Stack::new())?
            }
            false => {
                setting(stack.push(mynah.ready(file)?, 1.0))?;
                self.say(mynah, stack)?
            }
        };
        Ok(Sample { prompt: self.text.clone(), before, after })
    }

    fn say(&self, mynah: &Mynah, stack: Stack) -> mynah::Result<String> {
        let generation = mynah.generation().stack(stack).sampling(Sampling::greedy()).limit(SAYS).stop(meter::stop());
        Ok(generation.complete_tokens(&self.tokens)?.finish()?.text)
    }

    /// The command that uses what was learnt.
    fn command(&self) -> (&'static str, String) {
        match self.chat {
            true => ("chat", String::new()),
            false => ("run", format!(" -p {}", word(&self.text))),
        }
    }
}

impl Sample {
    /// For eyes.
    pub fn show(&self) {
        let line = |text: &str| out::harmless(text.trim()).replace('\n', " ");
        let line = |what: &str, text: &str| out::say(&format!("  {what:<7}{}", line(text)));
        out::say("");
        line("given", &self.prompt);
        line("before", &self.before);
        line("after", &self.after);
    }
}

/// Says which command uses the result.
pub fn show_next(prompt: Option<&Prompt>, options: &Train, full: bool) {
    let (command, rest) = prompt.map_or(("embed", " -p 'Some text'".into()), Prompt::command);
    let model = if full { Some(options.output.as_path()) } else { options.model.as_deref() };
    let model = model.map_or(String::new(), |path: &Path| format!(" -m {}", quote(path)));
    let beneath = options.teach.adapters.iter().map(|name| format!(" -a {}", word(name)));
    let own = (!full).then(|| format!(" -a {}", quote(&options.output)));
    let adapters: String = beneath.chain(own).collect();
    out::say(&format!("\nTry it: mynah {command}{model}{adapters}{rest}"));
}
