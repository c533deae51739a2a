//! JSON values that keep the order of keys, which chat templates show, and in which no key comes twice.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::todo,
        clippy::arithmetic_side_effects
    )
)]

use crate::error::{Error, Result, printable};
use core::fmt;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use std::prelude::v1::*;

/// A JSON value: tools, tool calls and variables of a chat template, and the rows of training data.
///
/// ```
/// use mynah::text::Json;
///
/// let tools = Json::parse(br#"[{"name": "add", "parameters": {}}]"#, 64)?;
/// assert_eq!(tools.list().unwrap()[0].get("name").and_then(Json::text), Some("add"));
/// assert!(Json::parse(br#"{"a": 1, "a": 2}"#, 64).is_err());
/// # Ok::<(), mynah::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Json {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(serde_json::Number),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Json>),
    /// Keys and values, in the order in which they are written.
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Reads one value, nested at most `depth` deep.
    ///
    /// # Errors
    /// `Invalid` if the bytes are no JSON, if a key comes twice in an object, or if it is nested more deeply.
    pub fn parse(bytes: &[u8], depth: u64) -> Result<Json> {
        // What is read is mostly one line of a file, whose number the caller says.
        let place = |e: serde_json::Error| e.to_string().replace(" at line 1 column ", " at column ");
        let bad = |e: serde_json::Error| Error::invalid("JSON", printable(&place(e)));
        let mut json = serde_json::Deserializer::from_slice(bytes);
        let value = Strict { depth }.deserialize(&mut json).map_err(bad)?;
        json.end().map_err(bad)?;
        Ok(value)
    }

    /// The value of a key, if this is an object that has it.
    pub fn get(&self, key: &str) -> Option<&Json> {
        self.object()?.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// The keys and values, if this is an object.
    pub fn object(&self) -> Option<&[(String, Json)]> {
        if let Json::Object(pairs) = self { Some(pairs) } else { None }
    }

    /// The values, if this is a list.
    pub fn list(&self) -> Option<&[Json]> {
        if let Json::List(values) = self { Some(values) } else { None }
    }

    /// The text, if this is one.
    pub fn text(&self) -> Option<&str> {
        if let Json::Text(text) = self { Some(text) } else { None }
    }

    /// The number, if this is one.
    pub fn number(&self) -> Option<f64> {
        if let Json::Number(number) = self { number.as_f64() } else { None }
    }

    /// All texts and keys in it.
    pub fn texts(&self) -> Vec<&str> {
        match self {
            Json::Text(text) => vec![text],
            Json::List(values) => values.iter().flat_map(Json::texts).collect(),
            Json::Object(pairs) => pairs.iter().flat_map(|(k, v)| [vec![k.as_str()], v.texts()].concat()).collect(),
            _ => Vec::new(),
        }
    }

    /// The whole number from 0, if this is one.
    pub fn whole(&self) -> Option<u64> {
        if let Json::Number(number) = self { number.as_u64() } else { None }
    }
}

/// As JSON, on one line.
impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |text: &str| serde_json::Value::from(text).to_string();
        match self {
            Json::Null => f.write_str("null"),
            Json::Bool(value) => write!(f, "{value}"),
            Json::Number(number) => write!(f, "{number}"),
            Json::Text(value) => f.write_str(&text(value)),
            Json::List(values) => {
                f.write_str("[")?;
                for (i, value) in values.iter().enumerate() {
                    write!(f, "{}{value}", if i > 0 { "," } else { "" })?;
                }
                f.write_str("]")
            }
            Json::Object(pairs) => {
                f.write_str("{")?;
                for (i, (key, value)) in pairs.iter().enumerate() {
                    write!(f, "{}{}:{value}", if i > 0 { "," } else { "" }, text(key))?;
                }
                f.write_str("}")
            }
        }
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Json {
        Json::Text(text.into())
    }
}

impl From<bool> for Json {
    fn from(value: bool) -> Json {
        Json::Bool(value)
    }
}

/// Reads a value in which no object has a key twice.
struct Strict {
    depth: u64,
}

impl Strict {
    fn inner<E: de::Error>(&self) -> core::result::Result<Strict, E> {
        match self.depth.checked_sub(1) {
            Some(depth) => Ok(Strict { depth }),
            None => Err(E::custom("nested too deeply")),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Json;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> core::result::Result<Json, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Json;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, v: bool) -> core::result::Result<Json, E> {
        Ok(Json::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> core::result::Result<Json, E> {
        Ok(Json::Number(v.into()))
    }
    fn visit_u64<E>(self, v: u64) -> core::result::Result<Json, E> {
        Ok(Json::Number(v.into()))
    }
    fn visit_f64<E: de::Error>(self, v: f64) -> core::result::Result<Json, E> {
        serde_json::Number::from_f64(v).map(Json::Number).ok_or_else(|| E::custom("a number that is not finite"))
    }
    fn visit_str<E>(self, v: &str) -> core::result::Result<Json, E> {
        Ok(Json::Text(v.into()))
    }
    fn visit_string<E>(self, v: String) -> core::result::Result<Json, E> {
        Ok(Json::Text(v))
    }
    fn visit_unit<E>(self) -> core::result::Result<Json, E> {
        Ok(Json::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut a: A) -> core::result::Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = a.next_element_seed(self.inner()?)? {
            list.push(value);
        }
        Ok(Json::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut a: A) -> core::result::Result<Json, A::Error> {
        let mut pairs: Vec<(String, Json)> = Vec::new();
        while let Some(key) = a.next_key::<String>()? {
            pairs.push((key, a.next_value_seed(self.inner()?)?));
        }
        // Sorted once: looking each key up would take quadratic time for a line of many.
        let mut keys: Vec<&str> = pairs.iter().map(|(key, _)| key.as_str()).collect();
        keys.sort_unstable();
        if let Some([key, ..]) = keys.windows(2).find(|w| matches!(w, [a, b] if a == b)) {
            return Err(de::Error::custom(format!("key {key:?} comes twice")));
        }
        Ok(Json::Object(pairs))
    }
}
