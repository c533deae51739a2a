//! What the model says before and after a run, and what to type next.

use super::resume::{quote, word};
use crate::args::{Train, setting};
use crate::load;
use crate::{meter, out};
use mynah::adapter::Stack;
use mynah::app::Lesson;
use mynah::decode::Sampling;
use mynah::text::{Decode, TokenKind};
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
            let own = &row.tokens[first - own..first];
            let control = |id: &u32| matches!(t.kind(*id), Some(TokenKind::Control));
            let parts: mynah::Result<Vec<String>> = own.split(control).map(|part| read(part, false)).collect();
            let text = match &parts?[..] {
                [text] => text.clone(),
                parts => asked(parts).into(),
            };
            return Ok(Some(Prompt { tokens, chat: own.iter().any(control), text }));
        }
        let all = read(&row.tokens, false)?;
        let words: Vec<&str> = all.split_whitespace().collect();
        let text = words[..GIVEN.min(words.len().div_ceil(2))].join(" ");
        Ok(Some(Prompt { tokens: t.prompt(&text, false)?, text, chat: false }))
    }

    /// The model's continuations without and with what was learnt, which is in `file`.
    pub fn sample(&self, mynah: &Mynah, options: &Train, file: Vec<u8>) -> anyhow::Result<Sample> {
        let mut stack = load::stack_saying(mynah, &options.teach.adapters, &options.teach.other, |_| ())?;
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

/// The last question among the parts of a conversation that control tokens separate. After it only the name of who answers
/// can stand; before its words, in a line of their own or in a part, the name of who asks.
fn asked(parts: &[String]) -> &str {
    let parts: Vec<&str> = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty()).collect();
    let last = &parts[parts.len().saturating_sub(2)..];
    let part = last.iter().copied().max_by_key(|part| part.len()).unwrap_or_default();
    match part.split_once('\n') {
        Some((name, words)) if !name.trim().contains(' ') => words.trim(),
        _ => part,
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

#[cfg(test)]
mod tests {
    use super::asked;

    #[test]
    fn the_question_is_shown_without_the_template() {
        let asked_of = |parts: &[&str]| asked(&parts.iter().map(|p| p.to_string()).collect::<Vec<_>>()).to_string();
        let wanted = "Which cable does the lamp need?";
        assert_eq!(
            asked_of(&["", "system\nYou are kind.", "\n", &format!("user\n{wanted}"), "\n", "assistant\n"]),
            wanted
        );
        assert_eq!(asked_of(&["", "user", &format!("\n\n{wanted}"), "", "assistant", "\n\n"]), wanted);
        assert_eq!(asked_of(&["", &format!(" {wanted} "), ""]), wanted);
        assert_eq!(asked_of(&[]), "");
    }
}
