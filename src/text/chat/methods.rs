//! The methods of Python's strings and dictionaries that templates call.
//!
//! The template engine charges a method for its result afterwards. Here the work is charged before, so that a short
//! template cannot cause a lot of work.

use super::guard::PER_UNIT;
use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind, State};
use std::prelude::v1::*;

fn size(value: &Value) -> u64 {
    value.as_str().map_or_else(|| value.len().unwrap_or(0), str::len) as u64
}

/// The approximate number of bytes that a method of the string `text` reads and writes.
fn work(text: &str, method: &str, args: &[Value]) -> u64 {
    let len = text.len() as u64;
    let all = args.iter().map(size).fold(len, u64::saturating_add);
    match (method, args) {
        ("replace", [old, new, ..]) => {
            let found = old.as_str().map_or(0, |old| text.matches(old).count());
            all.saturating_add((found as u64).saturating_mul(size(new)))
        }
        ("strip" | "lstrip" | "rstrip" | "startswith" | "endswith", [chars]) => {
            all.saturating_add(len.saturating_mul(size(chars)))
        }
        // Each byte may become an item.
        ("split" | "rsplit" | "splitlines", _) => all.saturating_mul(32),
        _ => all,
    }
}

fn join(state: &State, separator: &str, args: &[Value]) -> Result<Value, Error> {
    let [items] = args else { return Err(ErrorKind::MissingArgument.into()) };
    let mut out = String::new();
    for (i, item) in items.try_iter()?.enumerate() {
        let not_text = || Error::new(ErrorKind::InvalidOperation, "join takes strings");
        let item = item.as_str().ok_or_else(not_text)?.to_string();
        state.consume_fuel(1 + (separator.len() + item.len()) as u64 / PER_UNIT)?;
        if i > 0 {
            out.push_str(separator);
        }
        out.push_str(&item);
    }
    Ok(Value::from(out))
}

/// Whether a format has, or may have by an argument, so much padding or so many digits that they are a lot of work.
fn is_wide(format: &str) -> bool {
    let mut inside = false;
    let nested = format.chars().any(|c| match c {
        '{' => core::mem::replace(&mut inside, true),
        '}' => {
            inside = false;
            false
        }
        _ => false,
    });
    nested || format.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.len() > 3)
}

/// Calls a method that the engine does not have.
pub(super) fn call(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    match (value.kind(), value.as_str()) {
        (ValueKind::String, Some(separator)) if method == "join" => return join(state, separator, args),
        (ValueKind::String, Some(text)) => {
            if method == "format" && is_wide(text) {
                return Err(Error::new(ErrorKind::InvalidOperation, "format: too wide"));
            }
            // Searching the text is work too.
            state.consume_fuel(text.len() as u64 / PER_UNIT)?;
            state.consume_fuel(work(text, method, args) / PER_UNIT)?;
        }
        (ValueKind::Map, _) => {
            state.consume_fuel(args.iter().map(size).fold(size(value) / 2, u64::saturating_add))?;
        }
        _ => return Err(ErrorKind::UnknownMethod.into()),
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}
