//! Which parts of a rendered conversation come out of which message.
//!
//! The conversation is rendered once more with marks around what messages say; what stands between marks comes from them.
//! Marks are characters that neither the template nor the conversation has, and the text without them must be the text that
//! was rendered before, so nothing that a message says can be taken for a mark. A template that looks for tags in messages
//! (`</think>`, say) would be led astray by marks around all that is said: then each piece between such tags is marked.

use super::{Conversation, Json, Message, Template};
use crate::error::Result;
use crate::text::Tokenizer;
use core::ops::Range;
use std::collections::BTreeSet;
use std::prelude::v1::*;

/// Range of characters used as marks: private use, so that templates have no rules for them.
const MARKS: Range<u32> = 0xf_0000..0xf_fffe;

/// What does not come from a message: tools and variables.
pub(super) const NOBODY: usize = usize::MAX;

/// The origin of parts of a text.
#[derive(Debug, Default)]
pub(super) struct Trace {
    /// Sorted, disjoint, not empty: parts, and the number of the message that each comes from.
    pub parts: Vec<(usize, Range<usize>)>,
    /// Parts that the template's tags say the model writes, sorted.
    pub generated: Vec<Range<usize>>,
}

impl Trace {
    /// Where the first part of a message begins.
    pub fn first(&self, message: usize) -> Option<usize> {
        self.parts.iter().find(|(from, _)| *from == message).map(|(_, part)| part.start)
    }

    /// Where the last part of any other message ends that begins before `at`.
    pub fn before(&self, message: usize, at: usize) -> usize {
        let other = self.parts.iter().rev().find(|(from, part)| *from != message && part.start < at);
        other.map_or(0, |(_, part)| part.end)
    }

    /// Where the first part of any other message begins behind `at`.
    pub fn after(&self, message: usize, at: usize) -> Option<usize> {
        self.parts.iter().find(|(from, part)| *from != message && part.start > at).map(|(_, part)| part.start)
    }

    /// Where the last part of a message ends that begins before `most`.
    pub fn last(&self, message: usize, most: usize) -> Option<usize> {
        let own = self.parts.iter().rev().find(|(from, part)| *from == message && part.start < most);
        own.map(|(_, part)| part.end)
    }

    /// Whether a range has nothing in common with what messages say.
    pub fn is_template_s(&self, range: &Range<usize>) -> bool {
        let next = self.parts.partition_point(|(_, part)| part.end <= range.start);
        self.parts.get(next).is_none_or(|(_, part)| range.end <= part.start)
    }
}

/// How finely messages are marked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Grain {
    /// All that is said, but white space at the ends, since templates trim it.
    Whole,
    /// Each piece between tags that the template knows.
    Pieces,
}

impl Template {
    /// The origin of the parts of `text`, the rendering of a conversation; `None` if the template does not show it. Tools
    /// and other fields are marked where they spell control tokens or where a turn has nothing else.
    pub(super) fn trace(
        &self,
        tokenizer: &Tokenizer,
        conversation: &Conversation,
        prompt: bool,
        text: &str,
    ) -> Result<Option<Trace>> {
        for grain in [Grain::Whole, Grain::Pieces] {
            let Some(marker) = Marker::new(self, tokenizer, conversation, grain) else { return Ok(None) };
            let messages: Vec<Message> =
                conversation.messages.iter().enumerate().map(|(i, m)| marker.message(m, i)).collect();
            let tools = conversation.tools.map(|tools| marker.json(tools, NOBODY, false));
            let variables: Vec<_> =
                conversation.variables.iter().map(|(key, v)| (key.clone(), marker.json(v, NOBODY, false))).collect();
            let marked =
                Conversation { messages: &messages, tools: tools.as_ref(), variables: &variables, ..*conversation };
            let tags: String = [marker.generated, marker.close].iter().collect();
            if let Ok(marked) = self.run(&marked, prompt, self.tagged.then_some(&*tags))
                && let Some((plain, trace)) = marker.unmark(&marked)
                && plain == text
                && (grain == Grain::Whole || marker.is_safe(conversation))
            {
                return Ok(Some(trace));
            }
        }
        Ok(None)
    }
}

/// The marks of one rendering.
struct Marker<'a> {
    tokenizer: &'a Tokenizer,
    grain: Grain,
    /// Tags that the template may look for.
    tags: BTreeSet<&'a str>,
    /// Ends a part, or what is generated.
    close: char,
    /// Begins what is generated.
    generated: char,
    /// Begin parts: of tools and variables, then of each message.
    open: Vec<char>,
}

impl<'a> Marker<'a> {
    /// `None` if there are not enough characters.
    fn new(template: &'a Template, tokenizer: &'a Tokenizer, of: &Conversation, grain: Grain) -> Option<Marker<'a>> {
        let mut used = BTreeSet::new();
        let texts = of.messages.iter().flat_map(Message::texts);
        let others = of.tools.into_iter().chain(of.variables.iter().map(|(_, json)| json)).flat_map(Json::texts);
        for text in texts.chain(others).chain([template.source.as_str()]) {
            used.extend(text.chars().filter(|&c| MARKS.contains(&(c as u32))));
        }
        let mut free = MARKS.filter_map(char::from_u32).filter(|mark| !used.contains(mark));
        let (close, generated) = (free.next()?, free.next()?);
        let open: Vec<char> = free.take(of.messages.len() + 1).collect();
        let tags = match grain {
            Grain::Whole => BTreeSet::new(),
            Grain::Pieces => tags(&template.source).map(|(_, tag)| tag).collect(),
        };
        (open.len() > of.messages.len()).then_some(Marker { tokenizer, grain, tags, close, generated, open })
    }

    /// Adds a text of message `of` with marks around it.
    fn wrap(&self, text: &str, of: usize, out: &mut String) {
        let said = text.trim();
        if said.is_empty() {
            return out.push_str(text);
        }
        let start = text.len() - text.trim_start().len();
        out.push_str(&text[..start]);
        out.push(self.open[of.wrapping_add(1)]);
        out.push_str(said);
        out.push(self.close);
        out.push_str(&text[start + said.len()..]);
    }

    /// A text of message `of` with marks, as finely as they are.
    fn text(&self, text: &str, of: usize) -> String {
        let mut out = String::with_capacity(text.len() + 16);
        let mut rest = text;
        if self.grain == Grain::Pieces {
            while let Some((before, tag, after)) = self.tag(rest) {
                self.wrap(before, of, &mut out);
                out.push_str(tag);
                rest = after;
            }
        }
        self.wrap(rest, of, &mut out);
        out
    }

    /// The text before the first tag that the template knows, the tag, and the text behind it.
    fn tag<'t>(&self, text: &'t str) -> Option<(&'t str, &'t str, &'t str)> {
        let (at, tag) = tags(text).find(|(_, tag)| self.tags.contains(tag))?;
        Some((&text[..at], tag, &text[at + tag.len()..]))
    }

    /// Whether what stays without marks spells no control token.
    fn is_safe(&self, conversation: &Conversation) -> bool {
        conversation.messages.iter().all(|message| {
            let mut rest = message.content.as_str();
            while let Some((_, tag, after)) = self.tag(rest) {
                if self.tokenizer.spells_control(tag) {
                    return false;
                }
                rest = after;
            }
            true
        })
    }

    fn message(&self, message: &Message, of: usize) -> Message {
        let silent = message.content.trim().is_empty();
        let field = |(key, json): &(String, Json)| {
            (key.clone(), self.json(json, of, silent && matches!(key.as_str(), "tool_calls" | "function_call")))
        };
        Message {
            role: message.role.clone(),
            content: self.text(&message.content, of),
            fields: message.fields.iter().map(field).collect(),
        }
    }

    /// A value with marks around texts and keys that spell control tokens; with `all`, around all texts but those by which
    /// templates tell calls apart.
    fn json(&self, json: &Json, of: usize, all: bool) -> Json {
        let text = |text: &str, all: bool| -> String {
            let mut out = String::new();
            match all || self.tokenizer.spells_control(text) {
                true => self.wrap(text, of, &mut out),
                false => out.push_str(text),
            }
            out
        };
        match json {
            Json::Text(value) => Json::Text(text(value, all)),
            Json::List(values) => Json::List(values.iter().map(|v| self.json(v, of, all)).collect()),
            Json::Object(pairs) => {
                let pair = |(key, v): &(String, Json)| {
                    (text(key, false), self.json(v, of, all && !matches!(key.as_str(), "id" | "type")))
                };
                Json::Object(pairs.iter().map(pair).collect())
            }
            other => other.clone(),
        }
    }

    /// The text without marks, and where they were; `None` if they do not pair.
    fn unmark(&self, marked: &str) -> Option<(String, Trace)> {
        let mut plain = String::with_capacity(marked.len());
        let (mut trace, mut part, mut generated) = (Trace::default(), None, None);
        let opens = |c: char| self.open.binary_search(&c).ok().map(|i| i.wrapping_sub(1));
        for c in marked.chars() {
            if !MARKS.contains(&(c as u32)) {
                plain.push(c);
            } else if let Some(of) = opens(c) {
                if part.replace((of, plain.len())).is_some() {
                    return None;
                }
            } else if c == self.generated {
                if part.is_some() || generated.replace(plain.len()).is_some() {
                    return None;
                }
            } else if c == self.close {
                match (part.take(), generated) {
                    (Some((of, from)), _) => trace.parts.push((of, from..plain.len())),
                    (None, Some(from)) => {
                        trace.generated.push(from..plain.len());
                        generated = None;
                    }
                    (None, None) => return None,
                }
            } else {
                plain.push(c);
            }
        }
        trace.parts.retain(|(_, part)| !part.is_empty());
        (part.is_none() && generated.is_none()).then_some((plain, trace))
    }
}

/// What looks like a tag: `<think>`, `[INST]`, `{name}` or `/no_think`, and where it is.
fn tags(text: &str) -> impl Iterator<Item = (usize, &str)> {
    // No tag is longer, so that a text of nothing but beginnings takes no time.
    const LONGEST: usize = 64;
    text.match_indices(['<', '[', '{', '/']).filter_map(move |(at, open)| {
        let inside = &text[at + 1..];
        let is_end: fn(char) -> bool = match open {
            "<" => |c| c == '>',
            "[" => |c| c == ']',
            "{" => |c| c == '}',
            _ => |c| !(c.is_alphanumeric() || c == '_'),
        };
        let end = inside.char_indices().take(LONGEST).find(|(_, c)| is_end(*c)).map(|(end, _)| end);
        let len = match (open, end) {
            ("/", end) => end.or((inside.len() < LONGEST).then_some(inside.len())).filter(|len| *len > 0)?,
            (_, end) => end? + 1,
        };
        Some((at, &text[at..at + 1 + len]))
    })
}
