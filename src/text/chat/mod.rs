//! Conversations to text and tokens, by the chat template of the model file.
//!
//! A template is untrusted code: it runs without files, clock or network, and with bounded work, depth and output.
//! Templates are written for Jinja in Hugging Face's configuration, so the same functions and filters are provided.
//!
//! Templates of models that see pictures may take contents as lists of parts alone. [`Template::new`] finds out by rendering,
//! and such a template gets each text as a list of one part.
//!
//! The text of a message never becomes a control token: [`Template::tokens`] knows which parts of the rendered text
//! come from messages and treats spellings in them as text.

mod clock;
mod guard;
mod methods;
mod program;
mod spans;
mod trace;
mod turns;

pub use clock::format_time;
pub use spans::Spans;
pub use turns::Turns;

use super::{Json, Tokenizer};
use crate::bytes::Limits;
use crate::error::{Error, Result, printable};
use crate::gguf::Gguf;

use minijinja::value::Value;
use minijinja::{Environment, ErrorKind, State};
use std::borrow::Cow;
use std::prelude::v1::*;

const KEY: &str = "tokenizer.chat_template";

/// Deepest nesting of a rendering.
const DEPTH: usize = 200;

/// The role whose turns the model writes.
pub const ASSISTANT: &str = "assistant";

/// The role that says how to answer.
pub(crate) const SYSTEM: &str = "system";
/// The role of the person.
const USER: &str = "user";

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, or another role that the template knows.
    pub role: String,
    /// What they say.
    pub content: String,
    /// What else the template may look at: `tool_calls`, `tool_call_id`, `name`, `reasoning_content` and the like. A
    /// field `content` takes the place of the text above, for example `null` in a turn that only calls a tool.
    pub fields: Vec<(String, Json)>,
}

impl Message {
    /// A turn of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Message { role: role.into(), content: content.into(), fields: Vec::new() }
    }

    /// The same with another field.
    ///
    /// ```
    /// use mynah::text::{Json, chat::Message};
    ///
    /// let call = Json::parse(br#"[{"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}]"#, 8)?;
    /// let turn = Message::new("assistant", "").with("tool_calls", call);
    /// assert!(turn.field("tool_calls").is_some());
    /// # Ok::<(), mynah::Error>(())
    /// ```
    pub fn with(mut self, field: impl Into<String>, value: Json) -> Self {
        self.fields.push((field.into(), value));
        self
    }

    /// All that is said, and all texts and keys of the fields.
    fn texts(&self) -> impl Iterator<Item = &str> {
        let fields = self.fields.iter().flat_map(|(_, json)| json.texts());
        [self.content.as_str()].into_iter().chain(fields)
    }

    /// The value of a field.
    pub fn field(&self, name: &str) -> Option<&Json> {
        self.fields.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }
}

/// What a template is run on. Messages alone are one without tools and variables.
///
/// ```
/// # fn main() -> mynah::Result<()> {
/// # #[cfg(feature = "base")] {
/// use mynah::text::chat::{Conversation, Message};
///
/// # let mynah = mynah::Mynah::embedded()?;
/// let template = mynah.template()?.unwrap();
/// let messages = [Message::new("user", "Hello!")];
/// let quick = [("enable_thinking".into(), false.into())];
/// let conversation = Conversation { variables: &quick, ..Conversation::from(&messages) };
/// // This template looks at no variables.
/// assert_eq!(template.render(conversation, true)?, template.render(&messages, true)?);
/// # }
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Conversation<'a> {
    /// The turns.
    pub messages: &'a [Message],
    /// The tools that the model may call: a list.
    pub tools: Option<&'a Json>,
    /// Further variables that the template may look at, for example `enable_thinking`.
    pub variables: &'a [(String, Json)],
    /// Whether control tokens that the messages spell become those tokens. Not for text of people that are not trusted.
    pub parse_special: bool,
}

impl<'a> From<&'a [Message]> for Conversation<'a> {
    fn from(messages: &'a [Message]) -> Self {
        Conversation { messages, ..Conversation::default() }
    }
}

impl<'a> From<&'a Vec<Message>> for Conversation<'a> {
    fn from(messages: &'a Vec<Message>) -> Self {
        Conversation::from(messages.as_slice())
    }
}

impl<'a, const N: usize> From<&'a [Message; N]> for Conversation<'a> {
    fn from(messages: &'a [Message; N]) -> Self {
        Conversation::from(messages.as_slice())
    }
}

/// The turns of a conversation as lines, for models that have no template.
const PLAIN: &str = "{% for m in messages %}{{ m.role|capitalize }}: {{ m.content|trim }}\n{% endfor %}\
                     {% if add_generation_prompt %}Assistant:{% endif %}";
/// The text with which such a model begins the user's next turn instead of ending its own.
const PLAIN_STOP: &str = "\nUser:";

/// A chat template, ready to run.
#[derive(Clone)]
pub struct Template {
    engine: Environment<'static>,
    source: String,
    stop: Option<&'static str>,
    merge_system: bool,
    /// Whether the author says with tags what the model writes.
    tagged: bool,
    /// Roles whose contents it shows as lists of text parts alone.
    parts: Vec<&'static str>,
    limits: Limits,
}

impl Template {
    /// The template of a model file, if it has one.
    ///
    /// # Errors
    /// As [`Template::new`].
    pub fn from_gguf(gguf: &Gguf, tokenizer: &Tokenizer) -> Result<Option<Template>> {
        source(gguf)?.map(|source| Template::new(source, tokenizer)).transpose()
    }

    /// The same as [`Template::late`].
    ///
    /// # Errors
    /// `Mismatch` if the file has something else than a text in its place.
    pub fn late_from_gguf(gguf: &Gguf, tokenizer: &Tokenizer) -> Result<Option<Template>> {
        Ok(source(gguf)?.map(|source| Template::late(source, tokenizer)))
    }

    /// Reads a template. The tokenizer provides `bos_token` and similar variables.
    ///
    /// # Errors
    /// `Limit` above 256 KiB, `Corrupt` if it is no template.
    pub fn new(source: &str, tokenizer: &Tokenizer) -> Result<Template> {
        let template = Template::late(source, tokenizer);
        template.program()?;
        Ok(template)
    }

    /// The same, whose errors come when it is used: texts that need no template can be read beside one that is not good.
    pub fn late(source: &str, tokenizer: &Tokenizer) -> Template {
        let mut engine = Environment::new();
        let limits = Limits::DEFAULT;
        engine.set_fuel(Some(limits.template_steps));
        engine.set_recursion_limit(DEPTH);
        guard::install(&mut engine);
        engine.set_unknown_method_callback(methods::call);
        engine.add_function("raise_exception", |message: String| -> core::result::Result<Value, _> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        engine.add_function("strftime_now", |_: String| -> core::result::Result<Value, _> {
            let what = "the template asks for the time, and the caller gave none";
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, what))
        });
        let roles = [
            ("bos_token", tokenizer.bos()),
            ("eos_token", tokenizer.eos()),
            ("unk_token", tokenizer.unknown()),
            ("pad_token", tokenizer.padding()),
        ];
        for (name, id) in roles {
            if let Some(id) = id {
                engine.add_global(name, Value::from(String::from_utf8_lossy(tokenizer.token_bytes(id)).as_ref()));
            }
        }
        engine.add_filter(GENERATED, generated);
        let (source, tagged) = with_generation_filter(source);
        let template = Template { engine, source, stop: None, merge_system: false, tagged, parts: Vec::new(), limits };
        // A template that shows the date cannot be run without one.
        let parts = template.clone().at(0).roles_of_parts();
        Template { parts, ..template }
    }

    /// What is run.
    fn program(&self) -> Result<program::Program<'_>> {
        Limits::check("bytes of a chat template", self.source.len() as u64, self.limits.template)?;
        program::Program::new(&self.source)
    }

    /// Roles whose contents the template shows as lists of text parts, as templates of models that see do, and not as texts.
    fn roles_of_parts(mut self) -> Vec<&'static str> {
        const WORDS: &str = "How are you?";
        // The user comes first, since the other roles need a user's turn.
        for role in [USER, SYSTEM, ASSISTANT] {
            let (asked, said) = (Message::new(USER, "Hello."), Message::new(role, WORDS));
            let messages = match role {
                USER => vec![said],
                SYSTEM => vec![said, asked],
                _ => vec![asked, said],
            };
            let shows = |t: &Template| t.run(&(&messages).into(), false, None).is_ok_and(|text| text.contains(WORDS));
            if !shows(&self) {
                self.parts.push(role);
                if !shows(&self) {
                    self.parts.pop();
                }
            }
        }
        self.parts
    }

    /// What the template sees as the content of a message. Roles beyond the usual ones are like the user.
    fn content(&self, role: &str, text: &str) -> Value {
        let like = if [SYSTEM, ASSISTANT].contains(&role) { role } else { USER };
        match self.parts.contains(&like) {
            true => Value::from(vec![Value::from_pairs([("type", "text"), ("text", text)])]),
            false => Value::from(text),
        }
    }

    /// A message, as the template sees it.
    fn value_of_message(&self, message: &Message) -> Value {
        let mut pairs = vec![("role", Value::from(message.role.as_str()))];
        if message.field("content").is_none() {
            pairs.push(("content", self.content(&message.role, &message.content)));
        }
        pairs.extend(message.fields.iter().map(|(key, json)| (key.as_str(), value(json))));
        Value::from_pairs(pairs)
    }

    /// For models without a template: each turn is a line that begins with `User:`, `Assistant:` or another role.
    ///
    /// # Errors
    /// None in practice; those of [`Template::new`].
    pub fn plain(tokenizer: &Tokenizer) -> Result<Template> {
        Ok(Template { stop: Some(PLAIN_STOP), ..Template::new(PLAIN, tokenizer)? })
    }

    /// A text that ends an answer, beside the model's end-of-generation tokens. It is not part of the answer.
    pub fn stop(&self) -> Option<&'static str> {
        self.stop
    }

    /// The template with a date for templates that show one: `seconds` since 1970 in the time zone to show.
    pub fn at(mut self, seconds: i64) -> Template {
        self.engine.add_function("strftime_now", move |format: String| {
            format_time(&format, seconds).map_err(|what| minijinja::Error::new(ErrorKind::InvalidOperation, what))
        });
        self
    }

    /// The template with other limits on its size, its work, what it writes, and names of roles.
    pub fn limits(mut self, limits: &Limits) -> Template {
        self.engine.set_fuel(Some(limits.template_steps));
        self.limits = limits.clone();
        self
    }

    /// It cannot be run on these messages.
    fn failed(&self, error: minijinja::Error) -> Error {
        match error.kind() {
            ErrorKind::OutOfFuel => {
                let allowed = self.limits.template_steps;
                Error::limit("work of the chat template", allowed.saturating_add(1), allowed)
            }
            _ => Error::invalid("chat template", describe(&error)),
        }
    }

    /// The template with what the system says put in front of the first user's turn, for models whose template refuses
    /// a system role or does not show it.
    pub fn merge_system(mut self, merge: bool) -> Template {
        self.merge_system = merge;
        self
    }

    /// Whether the template shows what the system says.
    ///
    /// # Errors
    /// `Invalid` if it refuses the role or leaves its words out, with what can be done; `Limit` as [`Template::render`].
    pub fn check_system(&self) -> Result<()> {
        const WORDS: &str = "Answer in plain words.";
        let messages = [Message::new(SYSTEM, WORDS), Message::new(USER, "Hello.")];
        if self.render(&messages, true)?.contains(WORDS) { Ok(()) } else { Err(self.hides_system()) }
    }

    /// The error of a template that does not show what the system says.
    fn hides_system(&self) -> Error {
        Error::invalid("system message", format!("the chat template does not show it; {WITHOUT_SYSTEM}"))
    }

    /// The conversation as the model was trained to see it; with `add_generation_prompt`, up to where its next turn
    /// begins.
    ///
    /// # Errors
    /// `Invalid` if the template refuses the messages or fails on them, `Limit` if it exceeds the work or output limit.
    pub fn render<'a>(&self, conversation: impl Into<Conversation<'a>>, add_generation_prompt: bool) -> Result<String> {
        let conversation = conversation.into();
        let messages = self.merged(conversation.messages)?;
        self.draw(&Conversation { messages: &messages, ..conversation }, add_generation_prompt)
    }

    /// The messages that the template gets: all of them, or those without the system's, if these are merged.
    fn merged<'a>(&self, messages: &'a [Message]) -> Result<Cow<'a, [Message]>> {
        let system = messages.iter().take_while(|m| m.role == SYSTEM).count();
        if !self.merge_system || system == 0 {
            return Ok(messages.into());
        }
        let (system, rest) = messages.split_at(system);
        let mut rest = rest.to_vec();
        let Some(user) = rest.iter_mut().find(|m| m.role == USER) else {
            return Err(Error::invalid("system message", "there is no user's turn to put it in front of"));
        };
        let parts: Vec<&str> = system.iter().chain([&*user]).map(|m| m.content.as_str()).collect();
        user.content = parts.join("\n\n");
        Ok(rest.into())
    }

    /// [`Template::render`] of messages that are merged. The error of a template that refuses a system role says so.
    fn draw(&self, conversation: &Conversation, add_generation_prompt: bool) -> Result<String> {
        let done = self.run(conversation, add_generation_prompt, None);
        let messages = conversation.messages;
        let system = messages.iter().take_while(|m| m.role == SYSTEM).count();
        match done {
            Err(Error::Invalid { why, .. })
                if (1..messages.len()).contains(&system)
                    && self
                        .run(
                            &Conversation { messages: &messages[system..], ..*conversation },
                            add_generation_prompt,
                            None,
                        )
                        .is_ok() =>
            {
                let why = format!("the chat template refuses it: {why}; {WITHOUT_SYSTEM}");
                Err(Error::invalid("system message", why))
            }
            done => done,
        }
    }

    /// Runs the template; `generated` are marks around what its tags say is written by the model.
    fn run(&self, conversation: &Conversation, add_generation_prompt: bool, generated: Option<&str>) -> Result<String> {
        for Message { role, .. } in conversation.messages {
            let plain = role.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
            if !plain || role.is_empty() || role.len() as u64 > self.limits.role {
                return Err(Error::invalid("role", format!("{:?} is not a word", printable(role))));
            }
        }
        // Defined and empty, as in Hugging Face's library. Of two with one name the later counts.
        let mut pairs = vec![("documents", Value::from(()))];
        pairs.extend(conversation.variables.iter().map(|(name, json)| (name.as_str(), value(json))));
        pairs.extend([
            ("messages", conversation.messages.iter().map(|m| self.value_of_message(m)).collect::<Value>()),
            ("add_generation_prompt", add_generation_prompt.into()),
            ("tools", conversation.tools.map_or(Value::from(()), value)),
            (GENERATED, generated.unwrap_or_default().into()),
        ]);
        let context = Value::from_pairs(pairs);
        let text = self.program()?.run(&self.engine, context).map_err(|e| self.failed(e))?;
        Limits::check("bytes of a rendered conversation", text.len() as u64, self.limits.template_output)?;
        Ok(text)
    }
}

/// The source in a model file. Converters write an empty text where there is none.
fn source(gguf: &Gguf) -> Result<Option<&str>> {
    Ok(gguf.string(KEY)?.filter(|source| !source.trim().is_empty()))
}

/// What to do where a template does not take what the system says.
const WITHOUT_SYSTEM: &str =
    "leave it out, or let it be put in front of the first user's turn (--merge-system, Template::merge_system)";

/// A JSON value, as a template sees it.
fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
            (Some(n), _, _) => Value::from(n),
            (_, Some(n), _) => Value::from(n),
            (_, _, n) => Value::from(n.unwrap_or(f64::NAN)),
        },
        Json::Text(text) => Value::from(text.as_str()),
        Json::List(values) => values.iter().map(value).collect(),
        Json::Object(pairs) => Value::from_pairs(pairs.iter().map(|(key, json)| (key.as_str(), value(json)))),
    }
}

impl core::fmt::Debug for Template {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Template").field("bytes", &self.source.len()).finish_non_exhaustive()
    }
}

fn describe(error: &minijinja::Error) -> String {
    let what = error.detail().map_or_else(|| error.kind().to_string(), Into::into);
    let line = error.line().map_or_else(String::new, |line| format!(" (line {line})"));
    printable(&what) + &line
}

/// The template cannot be read.
fn refused(error: minijinja::Error) -> Error {
    Error::corrupt(format!("chat template: {}", describe(&error)), 0)
}

/// The name of the filter of what the model writes, and of the variable with the marks that it puts around that.
const GENERATED: &str = "mynah_generated";

/// Puts the marks of [`GENERATED`], if there are any, around a text.
fn generated(state: &State, text: String) -> String {
    let marks = state.lookup(GENERATED);
    let mut marks = marks.as_ref().and_then(Value::as_str).unwrap_or_default().chars();
    match (marks.next(), marks.next()) {
        (Some(open), Some(close)) => format!("{open}{text}{close}"),
        _ => text,
    }
}

/// `{% generation %}` marks what the model writes: here it is a filter. Says whether there are such tags.
fn with_generation_filter(source: &str) -> (String, bool) {
    let mut out = String::with_capacity(source.len());
    let (mut rest, mut tagged) = (source, false);
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        let body = tag.trim_start_matches(['-', '+']);
        out.push_str(&tag[..tag.len() - body.len()]);
        let word = body.trim_start();
        let end = word.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_');
        let closes = |tail: &str| tail.trim_start().trim_start_matches(['-', '+']).starts_with("%}");
        rest = match &word[..word.len() - end.len()] {
            "generation" if closes(end) => {
                tagged = true;
                out.push_str(" filter ");
                out.push_str(GENERATED);
                out.push(' ');
                end
            }
            "endgeneration" if closes(end) => {
                out.push_str(" endfilter ");
                end
            }
            _ => body,
        };
    }
    (out + rest, tagged)
}
