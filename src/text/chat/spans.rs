//! Conversations as tokens with a loss mask.
//!
//! The targets of a turn are what the model has to generate: from where generation begins to the token that ends the turn.
//! Where the template only adds to a conversation as it goes on, both places are the ends of renderings of its beginning.
//! Where it does not (it adds marks of thought to the last turn, say, or leaves out thoughts of earlier ones), they are
//! found around what the assistant says, whose place [`Trace`] knows, in text that is the template's own.

use super::trace::Trace;
use super::{ASSISTANT, Conversation, Message, Template};
use crate::error::{Error, Result};
use crate::text::{Json, Tokenizer};
use core::ops::Range;
use std::prelude::v1::*;

/// A conversation for training.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spans {
    /// The whole conversation.
    pub ids: Vec<u32>,
    /// One entry a token: 1 for targets, which are the assistant's words and the ends of its turns.
    pub mask: Vec<u8>,
}

impl Template {
    /// The tokens of a conversation. Control tokens are those of the template; their spellings in messages are text, unless
    /// the conversation says otherwise.
    ///
    /// # Errors
    /// As [`Template::render`] and [`Tokenizer::encode`]; `Invalid` if a message spells a control token and the
    /// template changes messages in such a way that the origin of the spelling cannot be determined.
    pub fn tokens<'a>(
        &self,
        tokenizer: &Tokenizer,
        conversation: impl Into<Conversation<'a>>,
        add_generation_prompt: bool,
    ) -> Result<Vec<u32>> {
        let conversation = conversation.into();
        let messages = self.merged(conversation.messages)?;
        let conversation = Conversation { messages: &messages, ..conversation };
        let text = self.draw(&conversation, add_generation_prompt)?;
        let trace = match conversation.parse_special {
            true => None,
            false => self.trace(tokenizer, &conversation, add_generation_prompt, &text)?,
        };
        let mut writer = Writer::new(tokenizer, &text, said(tokenizer, &conversation, trace.as_ref())?);
        writer.write(0..text.len())?;
        Ok(writer.finish().0)
    }

    /// The tokens of a conversation with a loss mask of the assistant's turns. The text is split where generation would
    /// begin, so that the tokens are those that the model reads and generates in use.
    ///
    /// # Errors
    /// Those of [`Template::spans_of`]; `Invalid` if there are no targets.
    pub fn spans<'a>(&self, tokenizer: &Tokenizer, conversation: impl Into<Conversation<'a>>) -> Result<Spans> {
        self.spans_from(tokenizer, conversation, 0)
    }

    /// [`Template::spans`] with targets only from message `first` on.
    ///
    /// # Errors
    /// Those of [`Template::spans`].
    pub fn spans_from<'a>(
        &self,
        tokenizer: &Tokenizer,
        conversation: impl Into<Conversation<'a>>,
        first: usize,
    ) -> Result<Spans> {
        let spans = self.spans_of(tokenizer, conversation, |i| i >= first)?;
        if !spans.mask.contains(&1) {
            return Err(Error::invalid("conversation", "no assistant says anything"));
        }
        Ok(spans)
    }

    /// [`Template::spans`] with targets in those of the assistant's turns whose numbers `learn` accepts; perhaps there are
    /// none. Where the template has tags of what is generated (`{% generation %}`), these decide.
    ///
    /// # Errors
    /// As [`Template::tokens`]; `Invalid` with the number of a message that the template does not show, or if it cannot be
    /// told which part of the text is an assistant's turn.
    pub fn spans_of<'a>(
        &self,
        tokenizer: &Tokenizer,
        conversation: impl Into<Conversation<'a>>,
        learn: impl Fn(usize) -> bool,
    ) -> Result<Spans> {
        let conversation = conversation.into();
        let messages = self.merged(conversation.messages)?;
        let skipped = conversation.messages.len() - messages.len();
        let conversation = Conversation { messages: &messages, ..conversation };
        let page = Page::new(self, tokenizer, conversation, skipped)?;
        let mut turns = Vec::new();
        for (i, message) in messages.iter().enumerate() {
            if message.role == ASSISTANT && learn(i + skipped) {
                turns.extend(page.turn(i)?.map(|turn| (i, turn)));
            }
        }
        turns.sort_by_key(|(_, turn)| turn.start);
        page.write(turns)
    }
}

impl Template {
    /// The assistant's turn that says what the model wrote: `text`, behind the prompt of generation after `before`. Some
    /// templates open a thought there (`<think>`) and do not write that before the text of a turn: then the turn begins with
    /// it, so that the template shows what the model read and wrote. Where the template leaves thoughts out, or the prompt ends
    /// with control tokens, the turn is the text alone.
    pub fn answer(&self, tokenizer: &Tokenizer, before: &[Message], text: &str) -> Message {
        let turn = |text: &str| Message::new(ASSISTANT, text);
        let shown = |turn: Message| self.render(&[before, &[turn]].concat(), false);
        let (Ok(prompt), Ok(other)) = (self.render(before, true), shown(turn("…"))) else { return turn(text) };
        let opened = &prompt[common(&prompt, &other)..];
        let whole = turn(&format!("{opened}{text}"));
        let fits = !opened.is_empty() && !tokenizer.spells_control(opened);
        match fits && shown(whole.clone()).is_ok_and(|shown| shown.starts_with(&prompt)) {
            true => whole,
            false => turn(text),
        }
    }
}

/// How many bytes two texts have in common at the beginning.
fn common(a: &str, b: &str) -> usize {
    let other = a.char_indices().zip(b.chars()).find(|((_, a), b)| a != b);
    other.map_or(a.len().min(b.len()), |((at, _), _)| at)
}

/// The parts of a text in which control tokens are not looked for.
fn said(tokenizer: &Tokenizer, conversation: &Conversation, trace: Option<&Trace>) -> Result<Vec<Range<usize>>> {
    match trace {
        _ if conversation.parse_special => return Ok(Vec::new()),
        Some(trace) => return Ok(trace.parts.iter().map(|(_, part)| part.clone()).collect()),
        None => {}
    }
    for (i, message) in conversation.messages.iter().enumerate() {
        if message.texts().any(|text| tokenizer.spells_control(text)) {
            let why = "spells a control token, and the template does not show which part of its text that is";
            return Err(Error::invalid(format!("message {i}"), why));
        }
    }
    let rest = conversation.tools.into_iter().chain(conversation.variables.iter().map(|(_, json)| json));
    if rest.flat_map(Json::texts).any(|text| tokenizer.spells_control(text)) {
        let why = "they spell a control token, and the template does not show which part of its text that is";
        return Err(Error::invalid("tools or variables", why));
    }
    Ok(Vec::new())
}

/// A rendered conversation.
struct Page<'a> {
    template: &'a Template,
    tokenizer: &'a Tokenizer,
    conversation: Conversation<'a>,
    /// Messages before the first of these, which were merged.
    skipped: usize,
    text: String,
    trace: Option<Trace>,
}

impl<'a> Page<'a> {
    fn new(
        template: &'a Template,
        tokenizer: &'a Tokenizer,
        conversation: Conversation<'a>,
        skipped: usize,
    ) -> Result<Page<'a>> {
        let text = template.draw(&conversation, false)?;
        let trace = template.trace(tokenizer, &conversation, false, &text)?;
        let page = Page { template, tokenizer, conversation, skipped, text, trace };
        page.shows()?;
        Ok(page)
    }

    /// # Errors
    /// `Invalid` if something that was said to the model is not shown.
    fn shows(&self) -> Result<()> {
        let Some(trace) = &self.trace else { return Ok(()) };
        for (i, message) in self.conversation.messages.iter().enumerate() {
            // What an assistant says may have nothing but thoughts, which are left out.
            if message.role == ASSISTANT || message.content.trim().is_empty() || trace.first(i).is_some() {
                continue;
            }
            // Of nothing but tags there is no trace.
            if self.text.contains(message.content.trim()) {
                continue;
            }
            return Err(match message.role == super::SYSTEM {
                true => self.template.hides_system(),
                false => self.error(i, "the chat template does not show it"),
            });
        }
        Ok(())
    }

    fn error(&self, message: usize, why: &str) -> Error {
        Error::invalid(format!("message {}", message + self.skipped), why)
    }

    /// The beginning of the conversation, rendered.
    fn beginning(&self, messages: usize, prompt: bool) -> Result<String> {
        let messages = &self.conversation.messages[..messages];
        self.template.draw(&Conversation { messages, ..self.conversation }, prompt)
    }

    /// Where the targets of an assistant's turn are; `None` if the template's author does not want it learnt.
    fn turn(&self, i: usize) -> Result<Option<Range<usize>>> {
        if let Some(trace) = self.trace.as_ref().filter(|trace| !trace.generated.is_empty()) {
            let (_, at) = self.place(i)?;
            let part = trace.generated.iter().find(|part| part.contains(&at));
            return Ok(part.map(|part| part.start..self.ending(part.end, part.end, true).unwrap_or(part.end)));
        }
        let start = self.start(i)?;
        let end = self.end(i, start)?;
        if self.text[start..end].is_empty() && !self.conversation.messages[i].content.trim().is_empty() {
            return Err(self.error(i, "the chat template does not show it"));
        }
        Ok(Some(start..end))
    }

    /// Where the generation of a turn begins.
    fn start(&self, i: usize) -> Result<usize> {
        if let Ok(before) = self.beginning(i, true)
            && self.text.starts_with(&before)
            // Some templates show where generation begins only behind a first turn.
            && (i > 0 || self.beginning(0, false).is_ok_and(|without| without != before) || self.prompt(i).is_empty())
        {
            return Ok(before.len());
        }
        let (trace, at) = self.place(i)?;
        let from = trace.before(i, at);
        Ok(from + behind(&self.text[from..at], &self.prompt(i)))
    }

    /// Where a turn ends.
    fn end(&self, i: usize, start: usize) -> Result<usize> {
        let other = self.trace.as_ref().and_then(|trace| trace.after(i, trace.first(i)?));
        if let Ok(until) = self.beginning(i + 1, false)
            && self.text.starts_with(&until)
            && until.len() >= start
            // Some templates write earlier messages behind it.
            && other.is_none_or(|other| until.len() <= other)
        {
            return Ok(self.ending(until.len(), until.len(), true).unwrap_or(until.len()));
        }
        let (trace, at) = self.place(i)?;
        let next = trace.after(i, at).unwrap_or(self.text.len());
        let last = trace.last(i, next).unwrap_or(at);
        if let Some(end) = self.ending(last, next, false) {
            return Ok(end);
        }
        // Without a token that ends it, a turn ends with what follows the last one of a conversation.
        let tail = || {
            let until = self.beginning(i + 1, false).ok()?;
            let messages = &self.conversation.messages[..=i];
            let conversation = Conversation { messages, ..self.conversation };
            let trace = self.template.trace(self.tokenizer, &conversation, false, &until).ok()??;
            Some(until[trace.last(i, until.len())?..].to_string())
        };
        let tail = tail().filter(|tail| self.text[last..next].starts_with(tail.as_str()));
        Ok(last + tail.map_or(0, |tail| tail.len()))
    }

    /// The end of the first spelling of a token that ends a generation: at `from`, or anywhere from there to `to`.
    fn ending(&self, from: usize, to: usize, here: bool) -> Option<usize> {
        let most = if here { from } else { to };
        let spellings = || self.tokenizer.eos_ids().iter().map(|&id| self.tokenizer.token_bytes(id));
        let bytes = self.text.as_bytes();
        (from..=most).find_map(|at| {
            let longest = spellings().filter(|s| !s.is_empty() && bytes[at..].starts_with(s)).map(<[u8]>::len).max();
            let end = at + longest?;
            let trace = self.trace.as_ref();
            (here || end <= to).then_some(end).filter(|end| trace.is_none_or(|t| t.is_template_s(&(at..*end))))
        })
    }

    /// The origins of the text, and where a turn's words begin.
    fn place(&self, i: usize) -> Result<(&Trace, usize)> {
        let why =
            "the chat template renders it differently when more follows, and changes it so that its place is not seen";
        let trace = self.trace.as_ref().ok_or_else(|| self.error(i, why))?;
        let at = trace.first(i).ok_or_else(|| self.error(i, "the chat template does not show it"))?;
        Ok((trace, at))
    }

    /// What the template writes where the generation of a turn begins; empty if it writes nothing.
    fn prompt(&self, i: usize) -> String {
        let added = |conversation: &Conversation| {
            let with = self.template.draw(conversation, true).ok()?;
            let without = self.template.draw(conversation, false).ok()?;
            Some(with[common(&with, &without)..].to_string()).filter(|added| !added.is_empty())
        };
        let of = |messages| added(&Conversation { messages, ..self.conversation });
        let plain = [Message::new(super::USER, "Hello.")];
        of(&self.conversation.messages[..i]).or_else(|| of(&plain)).unwrap_or_default()
    }

    /// The token that ends the last turn, where the template writes it only once more follows.
    fn unwritten_end(&self, turn: &[u32]) -> Option<u32> {
        if turn.iter().any(|&id| self.tokenizer.is_eos(id)) {
            return None;
        }
        let mut messages = self.conversation.messages.to_vec();
        messages.push(Message::new(super::USER, "Hello."));
        let more = self.template.draw(&Conversation { messages: &messages, ..self.conversation }, false).ok()?;
        let next = more.strip_prefix(self.text.as_str())?.as_bytes();
        let ids = self.tokenizer.eos_ids().iter().copied();
        let spelled = ids.filter(|&id| next.starts_with(self.tokenizer.token_bytes(id)));
        spelled
            .max_by_key(|&id| self.tokenizer.token_bytes(id).len())
            .filter(|&id| !self.tokenizer.token_bytes(id).is_empty())
    }

    /// The tokens, with those of the turns as targets up to the first that ends one.
    fn write(&self, turns: Vec<(usize, Range<usize>)>) -> Result<Spans> {
        let said = said(self.tokenizer, &self.conversation, self.trace.as_ref())?;
        let mut writer = Writer::new(self.tokenizer, &self.text, said);
        let mut done = 0;
        let mut learned: Vec<Range<usize>> = Vec::new();
        for (i, Range { start, end }) in turns {
            if start < done || end < start {
                return Err(self.error(i, "it does not follow the one before it in the chat template's text"));
            }
            writer.write(done..start)?;
            let begin = writer.ids.len();
            writer.write(start..end)?;
            // The turn ends with the first token that ends one: control tokens are the template's.
            let turn = &writer.ids[begin..];
            let len = turn.iter().position(|&id| self.tokenizer.is_eos(id)).map_or(turn.len(), |at| at + 1);
            learned.push(begin..begin + len);
            done = end;
        }
        writer.write(done..self.text.len())?;
        if let Some(last) = learned.last_mut().filter(|last| last.end == writer.ids.len())
            && let Some(end) = self.unwritten_end(&writer.ids[last.clone()])
        {
            writer.ids.push(end);
            last.end += 1;
        }
        let (ids, shift) = writer.finish();
        let mut mask = vec![0; ids.len()];
        for range in learned {
            mask[range.start + shift..range.end + shift].fill(1);
        }
        Ok(Spans { ids, mask })
    }
}

/// Where `text`, which a template writes before an assistant's words, has the prompt of generation behind it: all of that or,
/// where it ends with marks of thought which the turn does not have, as much as comes first. Without it, at the end.
fn behind(text: &str, prompt: &str) -> usize {
    let same = |at: usize| {
        let (rest, mut len) = (&text[at..], 0);
        for (a, b) in rest.chars().zip(prompt.chars()) {
            if a != b {
                // Half a tag has only its first letters in common with another.
                let whole = |c: char| c.is_whitespace() || matches!(c, '>' | ']' | ')' | '}' | ':');
                let mut back = prompt[..len].char_indices().rev();
                return back.find(|(_, c)| whole(*c)).map_or(0, |(last, c)| last + c.len_utf8());
            }
            len += a.len_utf8();
        }
        len
    };
    let starts = text.char_indices().map(|(at, _)| (same(at), at));
    match starts.max() {
        Some((len, at)) if len > 0 => at + len,
        _ => text.len(),
    }
}

/// Encodes a rendered conversation part by part.
struct Writer<'a> {
    tokenizer: &'a Tokenizer,
    text: &'a str,
    /// Sorted, disjoint parts in which control tokens are not looked for.
    said: Vec<Range<usize>>,
    fresh: bool,
    ids: Vec<u32>,
}

impl<'a> Writer<'a> {
    fn new(tokenizer: &'a Tokenizer, text: &'a str, said: Vec<Range<usize>>) -> Self {
        Writer { tokenizer, text, said, fresh: true, ids: Vec::new() }
    }

    fn write(&mut self, part: Range<usize>) -> Result<()> {
        let tokenizer = self.tokenizer;
        let outside = |at: Range<usize>| {
            let (from, to) = (part.start + at.start, part.start + at.end);
            let next = self.said.partition_point(|said| said.end <= from);
            self.said.get(next).is_none_or(|said| to <= said.start)
        };
        let allowed = |id: u32, at: Range<usize>| !tokenizer.is_hidden(id) || outside(at);
        let text = &self.text[part.clone()];
        tokenizer.encode_into(text, &tokenizer.inner.special, allowed, &mut self.fresh, &mut self.ids)
    }

    /// The tokens, and how many were put in front: the beginning of the text, if the model wants it and the template
    /// did not write it.
    fn finish(mut self) -> (Vec<u32>, usize) {
        match self.tokenizer.bos() {
            Some(bos) if self.tokenizer.adds_bos() && self.ids.first() != Some(&bos) => {
                self.ids.insert(0, bos);
                (self.ids, 1)
            }
            _ => (self.ids, 0),
        }
    }
}
