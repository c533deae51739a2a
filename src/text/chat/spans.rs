//! Conversations as tokens with a loss mask.

use super::{ASSISTANT, Message, Template};
use crate::error::{Error, Result};
use crate::text::{Encode, Tokenizer};
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

/// Range of characters used as marks: private use, so that templates have no rules for them.
const MARKS: Range<u32> = 0xf_0000..0xf_fffe;

impl Template {
    /// The tokens of a conversation. Control tokens are those of the template; their spellings in messages are text.
    ///
    /// # Errors
    /// As [`Template::render`] and [`Tokenizer::encode`]; `Invalid` if a message spells a control token and the
    /// template changes messages in such a way that the origin of the spelling cannot be determined.
    pub fn tokens(&self, tokenizer: &Tokenizer, messages: &[Message], add_generation_prompt: bool) -> Result<Vec<u32>> {
        let text = self.render(messages, add_generation_prompt)?;
        let said = self.said(tokenizer, messages, add_generation_prompt, &text)?;
        let mut writer = Writer::new(tokenizer, &text, &said);
        writer.write(0..text.len())?;
        Ok(writer.finish().0)
    }

    /// The tokens of a conversation with a loss mask of the assistant's turns. The text is split where generation would
    /// begin, so that the tokens are those that the model reads and generates in use.
    ///
    /// # Errors
    /// As [`Template::tokens`]; `Invalid` if the text before a turn is rendered differently when the turn follows, or
    /// if there are no targets.
    pub fn spans(&self, tokenizer: &Tokenizer, messages: &[Message]) -> Result<Spans> {
        self.spans_from(tokenizer, messages, 0)
    }

    /// [`Template::spans`] with targets only from message `first` on.
    ///
    /// # Errors
    /// Those of [`Template::spans`].
    pub fn spans_from(&self, tokenizer: &Tokenizer, messages: &[Message], first: usize) -> Result<Spans> {
        let text = self.render(messages, false)?;
        let said = self.said(tokenizer, messages, false, &text)?;
        let mut writer = Writer::new(tokenizer, &text, &said);
        let mut done = 0;
        let mut learned: Vec<Range<usize>> = Vec::new();
        for (i, message) in messages.iter().enumerate() {
            if message.role != ASSISTANT || i < first {
                continue;
            }
            let start = self.prefix(&text, &messages[..i], true)?;
            let end = self.prefix(&text, &messages[..=i], false)?;
            if start < done || end < start {
                return Err(Error::invalid("chat template", format!("message {i} does not follow the one before it")));
            }
            writer.write(done..start)?;
            let begin = writer.ids.len();
            writer.write(start..end)?;
            // The turn ends with the first token that ends one: control tokens are the template's.
            let turn = &writer.ids[begin..];
            let len = turn.iter().position(|&id| tokenizer.is_eos(id)).map_or(turn.len(), |at| at + 1);
            learned.push(begin..begin + len);
            done = end;
        }
        writer.write(done..text.len())?;
        let (ids, shift) = writer.finish();
        let mut mask = vec![0; ids.len()];
        for range in learned {
            mask[range.start + shift..range.end + shift].fill(1);
        }
        if !mask.contains(&1) {
            return Err(Error::invalid("conversation", "no assistant says anything"));
        }
        Ok(Spans { ids, mask })
    }

    /// Where the rendering of the first messages ends in that of all.
    fn prefix(&self, text: &str, messages: &[Message], add_generation_prompt: bool) -> Result<usize> {
        let prefix = self.render(messages, add_generation_prompt)?;
        if text.starts_with(&prefix) {
            return Ok(prefix.len());
        }
        let why = format!("the first {} messages are rendered differently when more follow", messages.len());
        Err(Error::invalid("chat template", why))
    }

    /// The parts of `text`, the rendering of `messages`, that come out of messages.
    ///
    /// Renders the messages once more with marks around their contents; text between marks comes from them. A template
    /// that looks into messages may be led astray by the marks: then this works only if no message spells a control
    /// token, and nothing needs to be told apart.
    fn said(&self, tokenizer: &Tokenizer, messages: &[Message], prompt: bool, text: &str) -> Result<Vec<Range<usize>>> {
        let used = |mark: char| self.source.contains(mark) || messages.iter().any(|m| m.content.contains(mark));
        let mut free = MARKS.filter_map(char::from_u32).filter(|&mark| !used(mark));
        let (Some(open), Some(close)) = (free.next(), free.next()) else {
            return Err(Error::invalid("conversation", "no character is left to mark with"));
        };
        let marked: Vec<Message> = messages.iter().map(|message| mark(message, open, close)).collect();
        if let Ok(marked) = self.render(&marked, prompt)
            && let Some((plain, ranges)) = unmark(&marked, open, close)
            && plain == text
        {
            return Ok(ranges);
        }
        for (i, message) in messages.iter().enumerate() {
            let parsed = tokenizer.encode(&message.content, &Encode { add_special: false, parse_special: true })?;
            let plain = tokenizer.encode(&message.content, &Encode { add_special: false, parse_special: false })?;
            if parsed != plain {
                let why = "spells a control token, and the template does not show which part of its text that is";
                return Err(Error::invalid(format!("message {i}"), why));
            }
        }
        Ok(Vec::new())
    }
}

/// The message with marks around its content; white space at the ends stays outside, since templates trim it.
fn mark(message: &Message, open: char, close: char) -> Message {
    let said = message.content.trim();
    if said.is_empty() {
        return message.clone();
    }
    let start = message.content.len() - message.content.trim_start().len();
    let (before, after) = (&message.content[..start], &message.content[start + said.len()..]);
    Message::new(message.role.as_str(), format!("{before}{open}{said}{close}{after}"))
}

/// The text without marks, and the parts between them; `None` if they do not pair.
fn unmark(marked: &str, open: char, close: char) -> Option<(String, Vec<Range<usize>>)> {
    let mut plain = String::with_capacity(marked.len());
    let (mut ranges, mut start) = (Vec::new(), None);
    for c in marked.chars() {
        match (c == open, c == close, start) {
            (true, _, None) => start = Some(plain.len()),
            (_, true, Some(from)) => {
                ranges.push(from..plain.len());
                start = None;
            }
            (false, false, _) => plain.push(c),
            _ => return None,
        }
    }
    start.is_none().then_some((plain, ranges))
}

/// Encodes a rendered conversation part by part.
struct Writer<'a> {
    tokenizer: &'a Tokenizer,
    text: &'a str,
    /// Sorted, disjoint parts in which control tokens are not looked for.
    said: &'a [Range<usize>],
    fresh: bool,
    ids: Vec<u32>,
}

impl<'a> Writer<'a> {
    fn new(tokenizer: &'a Tokenizer, text: &'a str, said: &'a [Range<usize>]) -> Self {
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
