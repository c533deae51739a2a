//! A strict reader of JSON (RFC 8259) that builds no tree: callers read what they know and skip the rest. Duplicate
//! keys, deep nesting and anything after the end are errors.
//!
//! It is used beside `serde_json` for untrusted files: the caller limits the depth, duplicate keys are refused, and
//! skipped values take no memory.
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

use crate::bytes::Limits;
use crate::error::{Error, Result, printable};
use std::borrow::Cow;
use std::prelude::v1::*;

/// A position in a text that moves forward.
pub(super) struct Json<'a> {
    text: &'a str,
    at: usize,
    depth: u64,
    limits: &'a Limits,
}

impl<'a> Json<'a> {
    /// # Errors
    /// `Corrupt` if the bytes are not UTF-8.
    pub fn new(bytes: &'a [u8], limits: &'a Limits) -> Result<Self> {
        let text = core::str::from_utf8(bytes)
            .map_err(|e| Error::corrupt(format!("JSON is not UTF-8: {e}"), e.valid_up_to()))?;
        Ok(Json { text, at: 0, depth: 0, limits })
    }

    fn bad<T>(&self, what: &str) -> Result<T> {
        Err(Error::corrupt(format!("JSON: {what}"), self.at))
    }

    /// What was not yet read. It begins with a whole character: only ASCII is stepped over by bytes.
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip_bytes(&mut self, n: usize) {
        self.at = self.at.saturating_add(n);
    }

    fn space(&mut self) {
        let rest = self.rest().bytes();
        self.skip_bytes(rest.take_while(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r')).count());
    }

    /// The first byte of the next value or mark.
    pub fn peek(&mut self) -> Option<u8> {
        self.space();
        self.byte()
    }

    fn byte(&self) -> Option<u8> {
        self.rest().bytes().next()
    }

    fn mark(&mut self, mark: u8) -> bool {
        let found = self.peek() == Some(mark);
        self.skip_bytes(usize::from(found));
        found
    }

    fn deeper(&mut self) -> Result<()> {
        self.depth = self.depth.saturating_add(1);
        Limits::check("nesting of JSON", self.depth, self.limits.json_depth)
    }

    /// An object; `member` must read the value of each key.
    pub fn object(&mut self, mut member: impl FnMut(&mut Self, &str) -> Result<()>) -> Result<()> {
        if !self.mark(b'{') {
            return self.bad("an object is wanted");
        }
        self.deeper()?;
        let mut keys: Vec<Cow<'a, str>> = Vec::new();
        let mut more = !self.mark(b'}');
        while more {
            let key = self.string()?;
            if !self.mark(b':') {
                return self.bad("a colon is wanted");
            }
            let n = (keys.len() as u64).saturating_add(1);
            Limits::check("keys of a JSON object", n, self.limits.json_keys)?;
            member(self, &key)?;
            keys.push(key);
            more = self.next(b'}')?;
        }
        self.depth = self.depth.saturating_sub(1);
        keys.sort_unstable();
        match keys.windows(2).find(|w| matches!(w, [a, b] if a == b)) {
            Some([twice, ..]) => self.bad(&format!("key `{}` comes twice", printable(twice))),
            _ => Ok(()),
        }
    }

    /// An array; `item` must read each value.
    pub fn array(&mut self, mut item: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        if !self.mark(b'[') {
            return self.bad("an array is wanted");
        }
        self.deeper()?;
        let mut more = !self.mark(b']');
        while more {
            item(self)?;
            more = self.next(b']')?;
        }
        self.depth = self.depth.saturating_sub(1);
        Ok(())
    }

    /// After a member: whether another follows.
    fn next(&mut self, close: u8) -> Result<bool> {
        if self.mark(b',') {
            return Ok(true);
        }
        if self.mark(close) { Ok(false) } else { self.bad("a comma or the end is wanted") }
    }

    /// A string.
    pub fn string(&mut self) -> Result<Cow<'a, str>> {
        if !self.mark(b'"') {
            return self.bad("a string is wanted");
        }
        let mut text = Cow::Borrowed("");
        loop {
            let rest = self.rest();
            let end = rest.bytes().position(|b| matches!(b, b'"' | b'\\' | 0..=0x1f));
            let Some((run, after)) = end.and_then(|n| rest.split_at_checked(n)) else {
                return self.bad("a string without end");
            };
            match text.is_empty() {
                true => text = Cow::Borrowed(run),
                false => text.to_mut().push_str(run),
            }
            self.skip_bytes(run.len().saturating_add(1));
            match after.bytes().next() {
                Some(b'"') => return Ok(text),
                Some(b'\\') => {
                    let c = self.escape()?;
                    text.to_mut().push(c);
                }
                _ => return self.bad("a control character in a string"),
            }
        }
    }

    fn escape(&mut self) -> Result<char> {
        let byte = self.byte();
        if !matches!(byte, Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' | b'u')) {
            return self.bad("an unknown escape");
        }
        self.skip_bytes(1);
        Ok(match byte {
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let mut units = [self.unit()?, 0];
                if (0xd800..0xdc00).contains(&units[0]) && self.rest().starts_with("\\u") {
                    self.skip_bytes(2);
                    units[1] = self.unit()?;
                }
                // A unit of 0 behind one that stands alone is not there.
                let mut chars = char::decode_utf16(units);
                return match chars.next() {
                    Some(Ok(c)) => Ok(c),
                    _ => self.bad("half a surrogate pair"),
                };
            }
            Some(other) => other as char,
            None => return self.bad("an unknown escape"),
        })
    }

    fn unit(&mut self) -> Result<u16> {
        let Some(digits) = self.rest().get(..4) else {
            return self.bad("four hexadecimal digits are wanted");
        };
        // `from_str_radix` would take a sign.
        let code = u16::from_str_radix(digits, 16).ok().filter(|_| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(code) = code else { return self.bad("a hexadecimal digit is wanted") };
        self.skip_bytes(4);
        Ok(code)
    }

    /// A number in the grammar of JSON: no `NaN`, no leading zeros. Its text.
    pub fn number(&mut self) -> Result<&'a str> {
        self.space();
        let (text, start) = (self.text, self.at);
        self.one_of(b"-");
        let zero = self.byte() == Some(b'0');
        let whole = self.digits();
        let mut fine = whole == 1 || whole > 1 && !zero;
        if self.one_of(b".") {
            fine &= self.digits() > 0;
        }
        if self.one_of(b"eE") {
            self.one_of(b"+-");
            fine &= self.digits() > 0;
        }
        match text.get(start..self.at) {
            Some(number) if fine => Ok(number),
            _ => self.bad("a number is wanted"),
        }
    }

    /// Steps over one of these bytes, if it is the next.
    fn one_of(&mut self, bytes: &[u8]) -> bool {
        let found = self.byte().is_some_and(|b| bytes.contains(&b));
        self.skip_bytes(usize::from(found));
        found
    }

    fn digits(&mut self) -> usize {
        let n = self.rest().bytes().take_while(u8::is_ascii_digit).count();
        self.skip_bytes(n);
        n
    }

    /// A whole number from 0 to 2⁵³.
    pub fn whole(&mut self) -> Result<u64> {
        let text = self.number()?;
        match text.parse::<u64>().ok().filter(|n| *n <= 1 << 53) {
            Some(n) => Ok(n),
            None => self.bad(&format!("{} where a whole number up to 2^53 is needed", printable(text))),
        }
    }

    /// A finite number.
    pub fn real(&mut self) -> Result<f64> {
        let text = self.number()?;
        match text.parse::<f64>().ok().filter(|x| x.is_finite()) {
            Some(x) => Ok(x),
            None => self.bad(&format!("{} where a finite number is needed", printable(text))),
        }
    }

    /// `null`, `true` or `false`.
    pub fn word(&mut self) -> Result<Option<bool>> {
        self.space();
        for (word, value) in [("null", None), ("true", Some(true)), ("false", Some(false))] {
            if self.rest().starts_with(word) {
                self.skip_bytes(word.len());
                return Ok(value);
            }
        }
        self.bad("a value is wanted")
    }

    /// Checks and skips any value. Returns whether it is empty: `null`, `false`, `""`, `"none"`, `[]`, `{}`.
    pub fn skip(&mut self) -> Result<bool> {
        let mut empty = true;
        match self.peek() {
            Some(b'{') => self.object(|json, _| {
                empty = false;
                json.skip().map(|_| ())
            })?,
            Some(b'[') => self.array(|json| {
                empty = false;
                json.skip().map(|_| ())
            })?,
            Some(b'"') => empty = ["", "none"].contains(&&*self.string()?),
            Some(b'-' | b'0'..=b'9') => {
                self.number()?;
                empty = false;
            }
            _ => empty = self.word()? != Some(true),
        }
        Ok(empty)
    }

    /// # Errors
    /// `Corrupt` if anything but white space follows.
    pub fn end(&mut self) -> Result<()> {
        if self.peek().is_some() { self.bad("something after the end") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skip(text: &str) -> Result<bool> {
        let mut json = Json::new(text.as_bytes(), &Limits::DEFAULT)?;
        let empty = json.skip()?;
        json.end().map(|()| empty)
    }

    #[test]
    fn grammar() {
        for text in ["{}", " [ ] ", "null", "false", "\"none\"", "\"\""] {
            assert!(skip(text).unwrap(), "{text}");
        }
        for text in
            ["{\"a\":1,\"b\":[-0.5e+3,true,{}]}", "[0]", "-0", "10", "1E5", "\"\\u00e9\\ud83d\\ude00\\n\"", "true"]
        {
            assert!(!skip(text).unwrap(), "{text}");
        }
        for text in [
            "",
            "{",
            "[",
            "[1,]",
            "{,}",
            "{\"a\":1,}",
            "{\"a\"}",
            "{\"a\" 1}",
            "{a:1}",
            "01",
            "1.",
            ".5",
            "1e",
            "-",
            "+1",
            "NaN",
            "Infinity",
            "nul",
            "\"",
            "\"\\",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\ud800\"",
            "\"\\ud800\\u0041\"",
            "\"\n\"",
            "1 2",
            "{} x",
            "[1 2]",
            "{\"a\":1 \"b\":2}",
            "\u{feff}{}",
            "{\"a\":1,\"a\":2}",
            "{\"a\":1,\"\\u0061\":2}",
            "'a'",
            "// c\n1",
        ] {
            assert!(skip(text).is_err(), "{text}");
        }
        let deep = "[".repeat(100_000);
        assert!(matches!(skip(&deep), Err(Error::Limit { .. })));
        assert!(skip(&("[".repeat(64) + &"]".repeat(64))).is_ok());
    }

    #[test]
    fn values() {
        let limits = Limits::default();
        let mut json = Json::new(b"[\"a\\\"\\u00e9b\",12,-1.5,null]", &limits).unwrap();
        json.array(|j| match j.peek() {
            Some(b'"') => j.string().map(|s| assert_eq!(s, "a\"éb")),
            Some(b'1') => j.whole().map(|n| assert_eq!(n, 12)),
            Some(b'-') => j.real().map(|x| assert_eq!(x, -1.5)),
            _ => j.word().map(|w| assert_eq!(w, None)),
        })
        .unwrap();
        for bad in ["9007199254740993", "-1", "1.0", "1e3"] {
            assert!(Json::new(bad.as_bytes(), &limits).unwrap().whole().is_err(), "{bad}");
        }
        assert!(Json::new(b"1e999", &limits).unwrap().real().is_err());
    }
}
