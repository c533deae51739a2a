//! Conversations of a row of data: from JSON, as other people's files have them, to what a template takes.

use super::{ASSISTANT, Conversation, Message, Template};
use crate::bytes::Limits;
use crate::error::{Error, Result, printable};
use crate::text::Json;
use std::prelude::v1::*;

/// Fields by which an assistant calls tools.
const CALLS: [&str; 2] = ["tool_calls", "function_call"];
/// Fields and columns with what this build cannot read.
const MEDIA: [&str; 6] = ["image", "images", "audio", "audios", "video", "videos"];
/// Nesting of JSON in a text, of a column of tools or of arguments.
const DEPTH: u64 = Limits::DEFAULT.json_depth;

/// The turns of a row of data.
///
/// Contents are texts, or lists of text parts, which are joined. `null` stands for absent. `weight` 0 or 1 of a message says
/// whether it is learnt; `ended` false says that it was cut off. Other keys are for the template.
///
/// ```
/// use mynah::text::{Json, chat::Turns};
///
/// let row = Json::parse(br#"[{"role": "user", "content": [{"type": "text", "text": "Hi"}]},
///     {"role": "assistant", "content": "Go away.", "weight": 0}]"#, 8)?;
/// let turns = Turns::new(row.list().unwrap())?;
/// assert_eq!((turns.messages[0].content.as_str(), &turns.learn[..]), ("Hi", &[true, false][..]));
/// # Ok::<(), mynah::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turns {
    /// The messages.
    pub messages: Vec<Message>,
    /// For each of them, whether it is learnt if it is an assistant's.
    pub learn: Vec<bool>,
    /// For each of them, whether it came to its end.
    pub ended: Vec<bool>,
    /// The tools that the model may call.
    pub tools: Option<Json>,
    /// Variables of the template.
    pub variables: Vec<(String, Json)>,
}

impl Turns {
    /// Reads a list of messages.
    ///
    /// # Errors
    /// `Invalid` with the number of a message, from 0, that is none, and what is wrong with it or in it.
    pub fn new(messages: &[Json]) -> Result<Turns> {
        Turns::default().and(messages)
    }

    /// These turns, and those of another list behind them.
    ///
    /// # Errors
    /// Those of [`Turns::new`].
    pub fn and(mut self, messages: &[Json]) -> Result<Turns> {
        for json in messages {
            let i = self.messages.len();
            self.push(json).map_err(|e| Error::invalid(format!("message {i}"), e.to_string()))?;
        }
        Ok(self)
    }

    /// The same with what a row has beside the messages: `tools`, a list or the text of one, and `chat_template_kwargs`.
    ///
    /// # Errors
    /// `Invalid` if one of them is nothing of the kind, `Unsupported` for columns of pictures and sounds.
    pub fn with_columns(mut self, row: &Json) -> Result<Turns> {
        if let Some(column) = MEDIA.into_iter().find(|name| row.get(name).is_some_and(|v| !is_empty(v))) {
            return Err(Error::unsupported("column of a row", column));
        }
        if let Some(tools) = row.get("tools").filter(|tools| !is_empty(tools)) {
            let read = match tools {
                Json::Text(text) => Json::parse(text.as_bytes(), DEPTH)?,
                other => other.clone(),
            };
            if read.list().is_none() {
                return Err(Error::invalid("tools", "neither a list nor the text of one"));
            }
            self.tools = Some(read).filter(|tools| !is_empty(tools));
        }
        if let Some(variables) = row.get("chat_template_kwargs").filter(|v| !is_empty(v)) {
            let pairs = variables.object().ok_or_else(|| Error::invalid("chat_template_kwargs", "not an object"))?;
            self.variables = pairs.to_vec();
        }
        Ok(self)
    }

    /// What a template is run on.
    pub fn conversation(&self) -> Conversation<'_> {
        Conversation {
            messages: &self.messages,
            tools: self.tools.as_ref(),
            variables: &self.variables,
            parse_special: false,
        }
    }

    fn push(&mut self, json: &Json) -> Result<()> {
        let keys = json.object().ok_or_else(|| Error::invalid("message", "not an object"))?;
        let get = |name: &str| json.get(name).filter(|value| **value != Json::Null);
        let Some(role) = get("role").and_then(Json::text) else {
            let keys: Vec<&str> = keys.iter().map(|(key, _)| key.as_str()).collect();
            let why = format!("missing or not a text; keys are {}", printable(&keys.join(", ")));
            return Err(Error::invalid("role", why));
        };
        if let Some(field) = MEDIA.into_iter().find(|name| get(name).is_some_and(|v| !is_empty(v))) {
            return Err(Error::unsupported("field of a message", field));
        }
        let mut message = Message::new(role, "");
        let kept = |(key, value): &&(String, Json)| {
            !matches!(key.as_str(), "role" | "content" | "weight" | "ended") && !is_empty(value)
        };
        message.fields.extend(keys.iter().filter(kept).cloned());
        match get("content") {
            Some(content) => message.content = text(content)?,
            None if CALLS.iter().any(|name| message.field(name).is_some()) => {
                message.fields.push(("content".into(), Json::Null));
            }
            None => return Err(Error::invalid("content", "there is none, and no call of a tool")),
        }
        self.learn.push(match get("weight").map(Json::number) {
            None => true,
            Some(Some(weight)) if weight == 0.0 || weight == 1.0 => weight == 1.0,
            Some(_) => return Err(Error::invalid("weight", "of a message it must be 0 or 1")),
        });
        self.ended.push(match get("ended") {
            None => true,
            Some(Json::Bool(ended)) => *ended,
            Some(_) => return Err(Error::invalid("ended", "neither true nor false")),
        });
        self.messages.push(message);
        Ok(())
    }
}

/// Whether a value says as much as an absent one.
fn is_empty(json: &Json) -> bool {
    match json {
        Json::Null => true,
        Json::List(values) => values.is_empty(),
        Json::Object(pairs) => pairs.is_empty(),
        _ => false,
    }
}

/// A content: a text, or a list of text parts.
fn text(content: &Json) -> Result<String> {
    let parts = match content {
        Json::Text(text) => return Ok(text.clone()),
        Json::List(parts) => parts,
        _ => return Err(Error::invalid("content", "neither a text nor a list of parts")),
    };
    fn part((k, part): (usize, &Json)) -> Result<&str> {
        match (part, part.get("type"), part.get("text")) {
            (Json::Text(text), _, _) => Ok(text.as_str()),
            (_, None | Some(Json::Null), Some(Json::Text(text))) => Ok(text.as_str()),
            (_, Some(Json::Text(kind)), Some(Json::Text(text))) if kind == "text" => Ok(text.as_str()),
            (_, Some(Json::Text(kind)), _) if kind != "text" => {
                let why = format!("part {k} is of type {}; only parts of type text can be used", printable(kind));
                Err(Error::invalid("content", why))
            }
            _ => Err(Error::invalid("content", format!("part {k} is neither a text nor a part of type text"))),
        }
    }
    parts.iter().enumerate().map(part).collect()
}

impl Template {
    /// The turns as the template takes them. Arguments of calls that are JSON in a text become what it says, and `null` for
    /// no content becomes an empty text, each where the template fails otherwise or writes the wrong thing.
    ///
    /// # Errors
    /// As [`Template::render`]; `Invalid` if the template does not show the tools, or a message's calls of tools: they would
    /// be learnt as an empty answer.
    pub fn settle(&self, turns: Turns) -> Result<Turns> {
        if turns.tools.is_none() && turns.messages.iter().all(|message| message.fields.is_empty()) {
            return Ok(turns);
        }
        let objects = changed(&turns, &|message| parsed_arguments(message));
        let null = |message: &Message| Message {
            fields: message.fields.iter().filter(|(key, _)| key != "content").cloned().collect(),
            ..message.clone()
        };
        let (mut best, mut refused) = (None, None);
        for turns in [&objects, &turns] {
            let empty = changed(turns, &null);
            match (self.render(turns.conversation(), false), self.render(empty.conversation(), false)) {
                (Ok(text), without) if without.as_ref().map_or(true, |w| nones(w) >= nones(&text)) => {
                    best = Some((turns.clone(), text));
                }
                (_, Ok(text)) => best = Some((empty, text)),
                (_, Err(e)) => refused = refused.or(Some(e)),
            }
            if best.is_some() {
                break;
            }
        }
        match (best, refused) {
            (Some((turns, text)), _) => self.shows_calls(&turns, &text).map(|()| turns),
            (None, Some(e)) => Err(e),
            (None, None) => unreachable!("it was rendered or refused"),
        }
    }

    /// Whether `text`, the rendering of turns, tells of their calls and tools.
    fn shows_calls(&self, turns: &Turns, text: &str) -> Result<()> {
        let same = |other: &Turns| self.render(other.conversation(), false).is_ok_and(|other| other == text);
        if turns.tools.is_some() && same(&Turns { tools: None, ..turns.clone() }) {
            return Err(Error::invalid("tools", "the chat template does not show them"));
        }
        for (i, message) in turns.messages.iter().enumerate() {
            let Some(name) = CALLS.into_iter().find(|name| message.field(name).is_some()) else { continue };
            if message.role != ASSISTANT {
                return Err(Error::invalid(format!("message {i}"), format!("{name} of {}", printable(&message.role))));
            }
            let mut other = turns.clone();
            for (_, value) in other.messages[i].fields.iter_mut().filter(|(key, _)| key == name) {
                rename(value);
            }
            if same(&other) {
                return Err(Error::invalid(format!("message {i}"), format!("the chat template does not show {name}")));
            }
        }
        Ok(())
    }
}

/// How often a template may have written a value that is none.
fn nones(text: &str) -> usize {
    text.matches("none").count() + text.matches("None").count()
}

fn changed(turns: &Turns, change: &dyn Fn(&Message) -> Message) -> Turns {
    Turns { messages: turns.messages.iter().map(change).collect(), ..turns.clone() }
}

/// Gives the functions in calls another name.
fn rename(json: &mut Json) {
    match json {
        Json::List(values) => values.iter_mut().for_each(rename),
        Json::Object(pairs) => pairs.iter_mut().for_each(|(key, value)| match value {
            Json::Text(name) if key == "name" => name.push('_'),
            Json::Object(_) if key == "function" => rename(value),
            _ => {}
        }),
        _ => {}
    }
}

/// The message with the arguments of its calls as objects where they are texts that say one.
fn parsed_arguments(message: &Message) -> Message {
    fn parse(json: &mut Json) {
        match json {
            Json::List(values) => values.iter_mut().for_each(parse),
            Json::Object(pairs) => pairs.iter_mut().for_each(|(key, value)| match value {
                Json::Text(text) if key == "arguments" => {
                    if let Ok(object @ Json::Object(_)) = Json::parse(text.as_bytes(), DEPTH) {
                        *value = object;
                    }
                }
                Json::Object(_) if key == "function" => parse(value),
                _ => {}
            }),
            _ => {}
        }
    }
    let mut message = message.clone();
    message.fields.iter_mut().filter(|(key, _)| CALLS.contains(&key.as_str())).for_each(|(_, value)| parse(value));
    message
}
