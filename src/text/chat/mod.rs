//! Conversations to text and tokens, by the chat template of the model file.
//!
//! A template is untrusted code: it runs without files, clock or network, and with bounded work, depth and output.
//! Templates are written for Jinja in Hugging Face's configuration, so the same functions and filters are provided.
//!
//! The text of a message never becomes a control token: [`Template::tokens`] knows which parts of the rendered text
//! come from messages and treats spellings in them as text.

mod clock;
mod methods;
mod spans;

pub use spans::Spans;

use super::Tokenizer;
use crate::error::{Error, Result, printable};
use crate::gguf::Gguf;
use clock::format_time;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, ErrorKind, context};
#[cfg(not(feature = "std"))]
use real_std::io;
#[cfg(feature = "std")]
use std::io;
use std::prelude::v1::*;

const KEY: &str = "tokenizer.chat_template";

/// Most bytes of a template.
const MAX_SOURCE: usize = 256 << 10;
/// Most bytes that a template writes.
const MAX_OUTPUT: usize = 4 << 20;
/// Most work of one rendering, in the engine's unit: an instruction, or 64 bytes of output.
const FUEL: u64 = 1_000_000;
/// Deepest nesting of a rendering.
const DEPTH: usize = 200;
/// Longest name of a role.
const MAX_ROLE: usize = 64;

/// The role whose turns the model writes.
pub const ASSISTANT: &str = "assistant";

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, or another role that the template knows.
    pub role: String,
    /// What they say.
    pub content: String,
}

impl Message {
    /// A turn of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Message { role: role.into(), content: content.into() }
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
}

impl Template {
    /// The template of a model file, if it has one.
    ///
    /// # Errors
    /// As [`Template::new`].
    pub fn from_gguf(gguf: &Gguf, tokenizer: &Tokenizer) -> Result<Option<Template>> {
        gguf.string(KEY)?.map(|source| Template::new(source, tokenizer)).transpose()
    }

    /// Reads a template. The tokenizer provides `bos_token` and similar variables.
    ///
    /// # Errors
    /// `Limit` above 256 KiB, `Corrupt` if it is no template.
    pub fn new(source: &str, tokenizer: &Tokenizer) -> Result<Template> {
        if source.len() > MAX_SOURCE {
            return Err(Error::limit("bytes of a chat template", source.len() as u64, MAX_SOURCE as u64));
        }
        let mut engine = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(refused)?;
        engine.set_syntax(syntax);
        engine.set_fuel(Some(FUEL));
        engine.set_recursion_limit(DEPTH);
        engine.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        engine.set_unknown_method_callback(methods::call);
        engine.add_filter("tojson", to_json);
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
        let source = without_generation_tags(source);
        engine.add_template_owned("chat", source.clone()).map_err(refused)?;
        Ok(Template { engine, source, stop: None })
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

    /// The conversation as the model was trained to see it; with `add_generation_prompt`, up to where its next turn
    /// begins.
    ///
    /// # Errors
    /// `Invalid` if the template refuses the messages or fails on them, `Limit` if it exceeds the work or output limit.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        for Message { role, .. } in messages {
            let plain = role.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
            if !plain || role.is_empty() || role.len() > MAX_ROLE {
                return Err(Error::invalid("role", format!("{:?} is not a word", printable(role))));
            }
        }
        let message = |m: &Message| context! { role => m.role.as_str(), content => m.content.as_str() };
        let context = context! {
            messages => messages.iter().map(message).collect::<Value>(),
            add_generation_prompt,
            // Defined and empty, as in Hugging Face's library.
            tools => (),
            documents => (),
        };
        let mut page = Page::default();
        let done = self.engine.get_template("chat").and_then(|chat| chat.render_captured_to(context, &mut page));
        match done {
            Err(_) if page.full => {
                Err(Error::limit("bytes of a rendered conversation", MAX_OUTPUT as u64 + 1, MAX_OUTPUT as u64))
            }
            Err(error) => Err(failed(error)),
            Ok(_) => String::from_utf8(page.bytes).map_err(|_| Error::invalid("chat template", "does not make text")),
        }
    }
}

/// The output of a template. It is limited while it is written, since a list may be cheap to create and long to print.
#[derive(Default)]
struct Page {
    bytes: Vec<u8>,
    full: bool,
}

impl io::Write for &mut Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.full |= self.bytes.len() + bytes.len() > MAX_OUTPUT;
        if self.full {
            return Err(io::ErrorKind::Other.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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

/// The template cannot be run on these messages.
fn failed(error: minijinja::Error) -> Error {
    match error.kind() {
        ErrorKind::OutOfFuel => Error::limit("work of the chat template", FUEL + 1, FUEL),
        _ => Error::invalid("chat template", describe(&error)),
    }
}

/// `{% generation %}` marks what the model writes. Here that is found by other means, so the tags have no effect.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
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
                out.push_str(" if true ");
                end
            }
            "endgeneration" if closes(end) => {
                out.push_str(" endif ");
                end
            }
            _ => body,
        };
    }
    out + rest
}

/// JSON as Python writes it with `ensure_ascii=False`.
fn to_json(value: &Value, options: Kwargs) -> core::result::Result<Value, minijinja::Error> {
    if value.is_undefined() {
        return Err(ErrorKind::UndefinedError.into());
    }
    // This is the default.
    options.get::<Option<bool>>("ensure_ascii")?;
    let indent = options.get::<Option<Value>>("indent")?.filter(|indent| !indent.is_none());
    options.assert_all_used()?;
    let safe = minijinja::filters::tojson(value, indent, Kwargs::from_iter(core::iter::empty::<(&str, Value)>()))?;
    let safe = safe.to_string();
    // The engine escapes four characters for HTML.
    let mut out = String::with_capacity(safe.len());
    let mut rest = safe.as_str();
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        let (plain, len) = match escape.get(..6) {
            Some("\\u003c") => ("<", 6),
            Some("\\u003e") => (">", 6),
            Some("\\u0026") => ("&", 6),
            Some("\\u0027") => ("'", 6),
            _ => (&escape[..2], 2),
        };
        out.push_str(plain);
        rest = &escape[len..];
    }
    out.push_str(rest);
    Ok(Value::from(out))
}
