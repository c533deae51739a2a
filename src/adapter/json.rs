//! A strict reader of JSON (RFC 8259) that builds no tree: callers read what they know and skip the rest. Duplicate
//! keys, deep nesting and anything after the end are errors.
//!
//! It is used beside `serde_json` for untrusted files: the caller limits the depth, duplicate keys are refused, and
//! skipped values take no memory.

use crate::bytes::Limits;
use crate::error::{Error, Result, printable};
use std::borrow::Cow;
use std::prelude::v1::*;

/// A position in a text that moves forward.
pub(super) struct Json<'a> {
    text: &'a str,
    at: usize,
    depth: u64,
    most_depth: u64,
}

impl<'a> Json<'a> {
    /// # Errors
    /// `Corrupt` if the bytes are not UTF-8.
    pub fn new(bytes: &'a [u8], limits: &Limits) -> Result<Self> {
        let text = core::str::from_utf8(bytes)
            .map_err(|e| Error::corrupt(format!("JSON is not UTF-8: {e}"), e.valid_up_to()))?;
        Ok(Json { text, at: 0, depth: 0, most_depth: limits.json_depth })
    }

    fn bad<T>(&self, what: &str) -> Result<T> {
        Err(Error::corrupt(format!("JSON: {what}"), self.at))
    }

    fn space(&mut self) {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest.iter().position(|b| !matches!(b, b' ' | b'\t' | b'\n' | b'\r')).unwrap_or(rest.len());
    }

    /// The first byte of the next value or mark.
    pub fn peek(&mut self) -> Option<u8> {
        self.space();
        self.text.as_bytes().get(self.at).copied()
    }

    fn mark(&mut self, mark: u8) -> bool {
        let found = self.peek() == Some(mark);
        self.at += usize::from(found);
        found
    }

    fn deeper(&mut self) -> Result<()> {
        self.depth += 1;
        Limits::check("nesting of JSON", self.depth, self.most_depth)
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
            member(self, &key)?;
            keys.push(key);
            more = self.next(b'}')?;
        }
        self.depth -= 1;
        keys.sort_unstable();
        match keys.windows(2).find(|w| w[0] == w[1]) {
            Some(twice) => self.bad(&format!("key `{}` comes twice", printable(&twice[0]))),
            None => Ok(()),
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
        self.depth -= 1;
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
        let text = self.text;
        let start = self.at;
        let mut owned: Option<String> = None;
        loop {
            let run = self.at;
            let rest = &text.as_bytes()[run..];
            let Some(n) = rest.iter().position(|b| matches!(b, b'"' | b'\\' | 0..=0x1f)) else {
                return self.bad("a string without end");
            };
            self.at += n;
            if let Some(owned) = &mut owned {
                owned.push_str(&text[run..self.at]);
            }
            self.at += 1;
            match rest[n] {
                b'"' => return Ok(owned.map_or(Cow::Borrowed(&text[start..self.at - 1]), Cow::Owned)),
                b'\\' => {
                    let c = self.escape()?;
                    owned.get_or_insert_with(|| text[start..run + n].into()).push(c);
                }
                _ => return self.bad("a control character in a string"),
            }
        }
    }

    fn escape(&mut self) -> Result<char> {
        let byte = self.text.as_bytes().get(self.at).copied();
        self.at += 1;
        let c = match byte {
            Some(b @ (b'"' | b'\\' | b'/')) => b as char,
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let high = self.unit()?;
                let code = if (0xd800..0xdc00).contains(&high) && self.text[self.at..].starts_with("\\u") {
                    self.at += 2;
                    match self.unit()? {
                        low @ 0xdc00..0xe000 => 0x10000 + ((high - 0xd800) << 10 | (low - 0xdc00)),
                        _ => high,
                    }
                } else {
                    high
                };
                return char::from_u32(code).map_or_else(|| self.bad("half a surrogate pair"), Ok);
            }
            _ => {
                self.at = (self.at - 1).min(self.text.len());
                return self.bad("an unknown escape");
            }
        };
        Ok(c)
    }

    fn unit(&mut self) -> Result<u32> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4).unwrap_or_default();
        let mut code = 0;
        for &d in digits {
            match (d as char).to_digit(16) {
                Some(d) => code = code << 4 | d,
                None => return self.bad("a hexadecimal digit is wanted"),
            }
        }
        if digits.len() < 4 {
            return self.bad("four hexadecimal digits are wanted");
        }
        self.at += 4;
        Ok(code)
    }

    /// A number in the grammar of JSON: no `NaN`, no leading zeros. Its text.
    pub fn number(&mut self) -> Result<&'a str> {
        self.space();
        let (text, start) = (self.text, self.at);
        self.at += usize::from(text.as_bytes().get(self.at) == Some(&b'-'));
        let whole = self.digits();
        let zero = text.as_bytes().get(self.at - whole) == Some(&b'0');
        let mut fine = whole == 1 || whole > 1 && !zero;
        if text.as_bytes().get(self.at) == Some(&b'.') {
            self.at += 1;
            fine &= self.digits() > 0;
        }
        if matches!(text.as_bytes().get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(text.as_bytes().get(self.at), Some(b'+' | b'-')));
            fine &= self.digits() > 0;
        }
        if fine { Ok(&text[start..self.at]) } else { self.bad("a number is wanted") }
    }

    fn digits(&mut self) -> usize {
        let rest = &self.text.as_bytes()[self.at..];
        let n = rest.iter().position(|b| !b.is_ascii_digit()).unwrap_or(rest.len());
        self.at += n;
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
            if self.text[self.at..].starts_with(word) {
                self.at += word.len();
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
        let mut json = Json::new(text.as_bytes(), &Limits::default())?;
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
