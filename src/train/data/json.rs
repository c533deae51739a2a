//! JSON values without duplicate keys, and their fields.

use crate::error::{Error, Result};
use core::fmt;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::prelude::v1::*;

pub fn list<'a>(row: &'a Map<String, Value>, key: &str) -> Result<&'a Vec<Value>> {
    row.get(key).and_then(Value::as_array).ok_or_else(|| Error::invalid(key, "not a list"))
}

pub fn string<'a>(row: &'a Map<String, Value>, key: &str) -> Result<&'a str> {
    row.get(key).and_then(Value::as_str).ok_or_else(|| Error::invalid(key, "missing or not a text"))
}

/// A JSON value in which no object has a duplicate key.
pub struct Strict {
    pub depth: u64,
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
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> core::result::Result<Value, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, v: bool) -> core::result::Result<Value, E> {
        Ok(v.into())
    }
    fn visit_i64<E>(self, v: i64) -> core::result::Result<Value, E> {
        Ok(v.into())
    }
    fn visit_u64<E>(self, v: u64) -> core::result::Result<Value, E> {
        Ok(v.into())
    }
    fn visit_f64<E>(self, v: f64) -> core::result::Result<Value, E> {
        Ok(v.into())
    }
    fn visit_str<E>(self, v: &str) -> core::result::Result<Value, E> {
        Ok(v.into())
    }
    fn visit_string<E>(self, v: String) -> core::result::Result<Value, E> {
        Ok(v.into())
    }
    fn visit_unit<E>(self) -> core::result::Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut a: A) -> core::result::Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = a.next_element_seed(self.inner()?)? {
            list.push(value);
        }
        Ok(list.into())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut a: A) -> core::result::Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = a.next_key::<String>()? {
            let value = a.next_value_seed(self.inner()?)?;
            if map.contains_key(&key) {
                return Err(de::Error::custom(format!("key {key:?} comes twice")));
            }
            map.insert(key, value);
        }
        Ok(map.into())
    }
}
