//! Small typed facts: hyper-parameters, fingerprints, the origin of an adapter.
//!
//! ```text
//! fields u32, then for each, strictly ascending by key:
//!   key (u8 length, UTF-8) · type u8 · value
//!   type 1 text     u32 length, UTF-8
//!        2 integer  u64
//!        3 real     f64, finite
//!        4 list     u32 count (at most 32768), then that many texts
//! ```
//! Nothing nests and nothing follows, so a set of facts has exactly one encoding.

use crate::bytes::{Cursor, Limits};
use crate::error::{Error, Result, printable};
use std::collections::BTreeMap;
use std::prelude::v1::*;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Field {
    /// UTF-8.
    Text(String),
    /// Unsigned.
    Integer(u64),
    /// Finite.
    Real(f64),
    /// Texts.
    List(Vec<String>),
}

/// Facts by key, sorted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Head {
    fields: BTreeMap<String, Field>,
}

impl Head {
    /// An empty head.
    pub fn new() -> Self {
        Head::default()
    }

    /// Sets a fact.
    ///
    /// # Panics
    /// If the key is empty or longer than 255 bytes, a real is not finite, or a list has more than 32768 texts.
    pub fn set(&mut self, key: &str, value: impl Into<Field>) -> &mut Self {
        let value = value.into();
        assert!((1..=255).contains(&key.len()), "key of {} bytes", key.len());
        assert!(!matches!(value, Field::Real(x) if !x.is_finite()), "key {key}: a finite number");
        let most = Limits::DEFAULT.list;
        assert!(!matches!(&value, Field::List(v) if v.len() as u64 > most), "key {key}: at most {most} texts");
        self.fields.insert(key.into(), value);
        self
    }

    /// All facts, sorted by key.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &Field)> {
        self.fields.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// The fact of that key.
    pub fn get(&self, key: &str) -> Option<&Field> {
        self.fields.get(key)
    }

    /// A text that is required.
    ///
    /// # Errors
    /// `Mismatch` naming the key if it is missing or has another type. All getters below have this error.
    pub fn text(&self, key: &str) -> Result<&str> {
        self.typed(key, "text", |f| if let Field::Text(v) = f { Some(v.as_str()) } else { None })
    }

    /// An integer that is required.
    pub fn integer(&self, key: &str) -> Result<u64> {
        self.typed(key, "integer", |f| if let Field::Integer(v) = f { Some(*v) } else { None })
    }

    /// A real that is required.
    pub fn real(&self, key: &str) -> Result<f64> {
        self.typed(key, "real", |f| if let Field::Real(v) = f { Some(*v) } else { None })
    }

    /// A list that is required.
    pub fn list(&self, key: &str) -> Result<&[String]> {
        self.typed(key, "list", |f| if let Field::List(v) = f { Some(v.as_slice()) } else { None })
    }

    fn typed<'a, T>(&'a self, key: &str, wanted: &str, read: impl Fn(&'a Field) -> Option<T>) -> Result<T> {
        let field = self.get(key);
        field.and_then(read).ok_or_else(|| {
            let found = field.map_or("nothing", Field::kind);
            Error::mismatch(format!("head: {}", printable(key)), wanted, found)
        })
    }

    /// The bytes of a section.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend((self.fields.len() as u32).to_le_bytes());
        for (key, field) in &self.fields {
            out.push(key.len() as u8); // at most 255, see `set`
            out.extend_from_slice(key.as_bytes());
            match field {
                Field::Text(v) => {
                    out.push(1);
                    write_text(v, &mut out);
                }
                Field::Integer(v) => {
                    out.push(2);
                    out.extend(v.to_le_bytes());
                }
                Field::Real(v) => {
                    out.push(3);
                    out.extend(v.to_le_bytes());
                }
                Field::List(v) => {
                    out.push(4);
                    out.extend((v.len() as u32).to_le_bytes());
                    v.iter().for_each(|text| write_text(text, &mut out));
                }
            }
        }
        out
    }

    /// Decodes a section. Offsets in errors are relative to its start.
    ///
    /// # Errors
    /// `Corrupt` for bytes that violate the specification; `Limit` for more bytes than `limits.head`.
    pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Head> {
        Limits::check("bytes of a head", bytes.len() as u64, limits.head)?;
        let mut cursor = Cursor::new(bytes);
        let mut fields: BTreeMap<String, Field> = BTreeMap::new();
        for _ in 0..cursor.u32()? {
            let at = cursor.offset();
            let len = cursor.u8()?;
            let key = utf8(cursor.take(len.into())?, at)?;
            if len == 0 || fields.last_key_value().is_some_and(|(before, _)| before.as_str() >= key) {
                return Err(Error::corrupt(format!("head: key `{}` empty or out of order", printable(key)), at));
            }
            let field = match cursor.u8()? {
                1 => Field::Text(read_text(&mut cursor)?),
                2 => Field::Integer(cursor.u64()?),
                3 => match cursor.f64()? {
                    x if x.is_finite() => Field::Real(x),
                    x => return Err(Error::corrupt(format!("head: {} is {x}", printable(key)), at)),
                },
                4 => {
                    let count = cursor.u32()?;
                    Limits::check("texts of a list", count.into(), limits.list)?;
                    let texts: Result<Vec<String>> = (0..count).map(|_| read_text(&mut cursor)).collect();
                    Field::List(texts?)
                }
                other => return Err(Error::corrupt(format!("head: {} of type {other}", printable(key)), at)),
            };
            fields.insert(key.into(), field);
        }
        if cursor.remaining() != 0 {
            return Err(Error::corrupt(format!("head: {} bytes too many", cursor.remaining()), cursor.offset()));
        }
        Ok(Head { fields })
    }
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn read_text(cursor: &mut Cursor<'_>) -> Result<String> {
    let at = cursor.offset();
    let len = usize::try_from(cursor.u32()?).unwrap_or(usize::MAX);
    utf8(cursor.take(len)?, at).map(String::from)
}

fn utf8(bytes: &[u8], at: usize) -> Result<&str> {
    core::str::from_utf8(bytes).map_err(|e| Error::corrupt(format!("head: not UTF-8: {e}"), at))
}

impl Field {
    fn kind(&self) -> &'static str {
        match self {
            Field::Text(_) => "text",
            Field::Integer(_) => "integer",
            Field::Real(_) => "real",
            Field::List(_) => "list",
        }
    }
}

/// For a terminal: control characters escaped, long texts cut.
impl core::fmt::Display for Field {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Field::Text(v) => f.write_str(&printable(v)),
            Field::Integer(v) => write!(f, "{v}"),
            Field::Real(v) => write!(f, "{v:?}"), // with an exponent where there would be hundreds of zeros
            Field::List(v) => f.write_str(&printable(&v.join(", "))),
        }
    }
}

impl From<&str> for Field {
    fn from(v: &str) -> Self {
        Field::Text(v.into())
    }
}

impl From<String> for Field {
    fn from(v: String) -> Self {
        Field::Text(v)
    }
}

impl From<u64> for Field {
    fn from(v: u64) -> Self {
        Field::Integer(v)
    }
}

impl From<f64> for Field {
    fn from(v: f64) -> Self {
        Field::Real(v)
    }
}

impl From<Vec<String>> for Field {
    fn from(v: Vec<String>) -> Self {
        Field::List(v)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Head {
        let mut head = Head::new();
        head.set("rank", 8u64).set("alpha", 0.1f64).set("base", "é\n").set("targets", vec!["q".into(), String::new()]);
        head
    }

    #[test]
    fn facts_survive() {
        let bytes = sample().encode();
        let head = Head::decode(&bytes, &Limits::default()).unwrap();
        assert_eq!(head, sample());
        assert_eq!(head.encode(), bytes);
        assert_eq!((head.integer("rank").unwrap(), head.real("alpha").unwrap()), (8, 0.1));
        assert_eq!((head.text("base").unwrap(), head.list("targets").unwrap().len()), ("é\n", 2));
        assert_eq!(head.get("base").unwrap().to_string(), "é\\n");
        assert_eq!(head.text("rank").unwrap_err().to_string(), "head: rank: expected text, found integer");
        assert_eq!(head.text("x").unwrap_err().to_string(), "head: x: expected text, found nothing");
    }

    #[test]
    fn damage_is_an_error_or_another_head() {
        let good = sample().encode();
        let decode = |b: &[u8]| Head::decode(b, &Limits::default());
        for n in 0..good.len() {
            assert!(decode(&good[..n]).is_err(), "cut to {n}");
        }
        for at in 0..good.len() {
            for value in 0..=255 {
                let mut bad = good.clone();
                bad[at] = value;
                if let Ok(head) = decode(&bad) {
                    assert_eq!(head.encode(), bad, "one spelling only: byte {at} = {value}");
                }
            }
        }
        assert!(decode(&[good, vec![0]].concat()).is_err());
        assert!(decode(&[255; 4]).is_err());
        let twice = b"\x02\0\0\0\x01a\x02\0\0\0\0\0\0\0\0\x01a\x02\0\0\0\0\0\0\0\0";
        assert!(decode(twice).unwrap_err().to_string().contains("out of order"));
        let nan = [b"\x01\0\0\0\x01a\x03".as_slice(), &f64::NAN.to_le_bytes()].concat();
        assert!(decode(&nan).unwrap_err().to_string().contains("NaN"));
        assert!(matches!(decode(&vec![0; (1 << 20) + 1]), Err(Error::Limit { .. })));
    }
}
