//! Turns of conversations in the forms of published sets, and what rows say twice.

use super::shape::{get, list, optional, quoted};
use crate::error::{Error, Result, printable};
use crate::text::Json;
use std::prelude::v1::*;

/// Other names of roles.
const ROLES: [(&str, &str); 8] = [
    ("human", "user"),
    ("gpt", "assistant"),
    ("chatgpt", "assistant"),
    ("bot", "assistant"),
    ("ai", "assistant"),
    ("model", "assistant"),
    ("observation", "tool"),
    ("function_response", "tool"),
];
/// The roles themselves.
const OWN: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// A message.
pub fn message(role: &str, content: &str) -> Json {
    Json::Object(vec![("role".into(), role.into()), ("content".into(), content.into())])
}

/// The system message that a column says, if it does.
pub fn system(row: &Json, key: &str) -> Result<Vec<Json>> {
    let said = optional(row, key)?.filter(|said| !said.trim().is_empty());
    Ok(said.map(|said| message("system", said)).into_iter().collect())
}

/// A role under its usual name.
fn role(name: &str) -> &str {
    ROLES.iter().find(|(other, _)| *other == name).map_or(name, |(_, role)| role)
}

/// Messages with the usual names of roles.
pub fn roles(messages: &[Json]) -> Vec<Json> {
    let pair = |(key, value): &(String, Json)| match value {
        Json::Text(name) if key == "role" => (key.clone(), role(name).into()),
        _ => (key.clone(), value.clone()),
    };
    let one = |message: &Json| match message {
        Json::Object(pairs) => Json::Object(pairs.iter().map(pair).collect()),
        other => other.clone(),
    };
    messages.iter().map(one).collect()
}

/// A turn of ShareGPT's form, `from` and `value`, as a message.
pub fn sharegpt((i, turn): (usize, &Json)) -> Result<Json> {
    let bad = |why: String| Error::invalid(format!("conversations[{i}]"), why);
    let pairs = turn.object().ok_or_else(|| bad("not an object".into()))?;
    let (Some(from), true) = (
        get(turn, "from").or_else(|| get(turn, "role")).and_then(Json::text),
        ["value", "content"].iter().any(|key| get(turn, key).is_some()),
    ) else {
        let keys = quoted(pairs.iter().map(|(key, _)| key.as_str()));
        return Err(bad(format!("keys {keys}; \"from\" and \"value\" are needed")));
    };
    let role = role(from);
    if !OWN.contains(&role) {
        return Err(bad(format!("from \"{}\"; known are system, human, gpt and observation", printable(from))));
    }
    let pair = |(key, value): &(String, Json)| match key.as_str() {
        "from" | "role" => ("role".into(), role.into()),
        "value" => ("content".into(), value.clone()),
        _ => (key.clone(), value.clone()),
    };
    Ok(Json::Object(pairs.iter().map(pair).collect()))
}

/// The turns of a text like `Human: …` and `Assistant: …`, each begun by an empty line.
pub fn transcript(text: &str) -> Result<Vec<Json>> {
    const SPEAKERS: [(&str, &str); 2] = [("Human:", "user"), ("Assistant:", "assistant")];
    let mut turns: Vec<(&str, String)> = Vec::new();
    for piece in text.trim_start().split("\n\n") {
        let begun = SPEAKERS.iter().find_map(|(name, role)| Some((*role, piece.strip_prefix(name)?)));
        match (begun, turns.last_mut()) {
            (Some((role, said)), _) => turns.push((role, said.trim_start().into())),
            (None, Some((_, said))) => *said = format!("{said}\n\n{piece}"),
            (None, None) => {
                let why = "a text without prompt must consist of turns that begin with Human: and Assistant:";
                return Err(Error::invalid("chosen", why));
            }
        }
    }
    Ok(turns.iter().map(|(role, said)| message(role, said)).collect())
}

/// What a message says, if it is the user's.
fn question(message: &Json) -> Option<&str> {
    message.get("role").filter(|name| name.text().map(role) == Some("user"))?;
    message.get("content")?.text()
}

/// Whether two messages are the same, in whatever order their keys are.
fn same(a: &Json, b: &Json) -> bool {
    match (a.object(), b.object()) {
        (Some(pairs), Some(others)) => {
            pairs.len() == others.len() && pairs.iter().all(|(key, value)| b.get(key) == Some(value))
        }
        _ => a == b,
    }
}

/// Leaves keys out of `found` that say again what others say, as published sets have them: a text `prompt` beside
/// conversations in which the user asks it first, and `messages` beside the same as `chosen`.
///
/// # Errors
/// `Invalid` if such a key says something else.
pub fn leave_out_copies(row: &Json, found: &mut Vec<&str>) -> Result<()> {
    let has = |found: &[&str], key: &str| found.contains(&key);
    let pair = has(found, "chosen") && has(found, "rejected");
    if pair && has(found, "messages") {
        let (messages, chosen) = (list(row, "messages")?, list(row, "chosen")?);
        if messages.len() != chosen.len() || !messages.iter().zip(chosen).all(|(a, b)| same(a, b)) {
            return Err(Error::invalid("messages", "neither the only shape of the row nor the same as chosen"));
        }
        found.retain(|key| *key != "messages");
    }
    let prompt = get(row, "prompt").and_then(Json::text);
    let said = ["messages", "chosen", "rejected"].into_iter().filter(|key| has(found, key));
    let said: Vec<(&str, &[Json])> = said.filter_map(|key| Some((key, get(row, key)?.list()?))).collect();
    if let Some(prompt) = prompt
        && !said.is_empty()
    {
        if let Some((key, _)) = said.iter().find(|(_, said)| said.is_empty()) {
            return Err(Error::invalid(*key, "no messages"));
        }
        let asked = |said: &[Json]| said.iter().find_map(question).is_some_and(|asked| asked.trim() == prompt.trim());
        if !said.iter().all(|(_, said)| asked(said)) {
            return Err(Error::invalid("prompt", "another text than what the user says first in the messages"));
        }
        found.retain(|key| *key != "prompt");
    }
    Ok(())
}

/// The number of messages that `chosen` and `rejected` have in common at the beginning, never their last ones.
pub fn common(row: &Json) -> Result<usize> {
    let (a, b) = (list(row, "chosen")?, list(row, "rejected")?);
    let most = a.len().min(b.len()).saturating_sub(1);
    Ok(a.iter().zip(b).take(most).take_while(|(a, b)| same(a, b)).count())
}
