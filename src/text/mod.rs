//! Text to tokens and back, and conversations to text.
//!
//! A [`Tokenizer`] is read from a model file and behaves like llama.cpp with the same file. The differences: text never
//! becomes a control token unless this is requested, even if merges would spell it; a pre-tokenizer that is not in
//! [`SPLITTERS`] is an error, not a guess; decoding removes spaces before marks only if that is asked for; extra spaces
//! are removed from text where a SentencePiece file says so, which llama.cpp does not read.
//!
//! Encoding takes O(n log n) time for any text and any file.

mod bpe;
#[cfg(feature = "chat")]
pub mod chat;
mod clean;
mod hash;
mod json;
mod load;
mod merge;
mod pattern;
mod special;
mod split;
mod spm;
mod stream;
mod vocab;
mod wpm;

#[cfg(test)]
mod tests;

pub use json::Json;
pub use split::{Cut, CutFunction, Rule, SPLITTERS, Splitter, Whole, splitter};
pub use stream::TextStream;
pub use vocab::TokenKind;

use crate::error::{Error, Result};
use bpe::Bpe;
use core::ops::Range;
use merge::Merger;
use special::{Finder, Fragment};
use spm::Spm;
use std::prelude::v1::*;
use std::sync::Arc;
use vocab::Vocab;
use wpm::Wpm;

/// Options of encoding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Encode {
    /// Add the tokens that the model expects at the beginning and the end of a complete text. For a text that is to be
    /// continued, see [`Tokenizer::prompt`].
    pub add_special: bool,
    /// Let spellings of control tokens become those tokens. Not for text that a user wrote.
    pub parse_special: bool,
}

/// Options of decoding, for tokens that are not text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decode {
    /// Omit the tokens that [`Encode::add_special`] added.
    pub remove_special: bool,
    /// Spell out control tokens; otherwise they are omitted.
    pub unparse_special: bool,
    /// Remove spaces before marks, as llama.cpp does, if the pre-tokenizer asks for it: then text does not always come
    /// back as it was.
    pub clean_spaces: bool,
}

/// Turns text into tokens and back. A clone shares everything.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

struct Inner {
    vocab: Vocab,
    method: Method,
    /// The finder of user-defined tokens, and that of all special ones.
    always: Finder,
    special: Finder,
    bos: Option<u32>,
    eos: Option<u32>,
    eot: Option<u32>,
    eom: Option<u32>,
    unknown: Option<u32>,
    padding: Option<u32>,
    separator: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    add_separator: bool,
    clean_spaces: bool,
    /// Whether white space after special tokens is no text.
    strip_after: bool,
    /// Sorted.
    eos_ids: Vec<u32>,
    fingerprint: [u8; 32],
}

enum Method {
    Bpe(Box<Bpe>),
    Spm(Box<Spm>),
    Wpm(Box<Wpm>),
}

/// The special tokens of Phi-3 after which white space is text.
const NOT_STRIPPED: [&[u8]; 3] = [b"<unk>", b"<s>", b"<|endoftext|>"];

impl Tokenizer {
    /// The tokens of a text.
    ///
    /// # Errors
    /// `Limit` for a text of 4 GiB, `Unsupported` for a byte that no token covers if the model has no token for unknown
    /// bytes.
    pub fn encode(&self, text: &str, options: &Encode) -> Result<Vec<u32>> {
        let inner = &*self.inner;
        let mut out = Vec::new();
        if options.add_special {
            out.extend(self.before_text());
        }
        let finder = if options.parse_special { &inner.special } else { &inner.always };
        self.encode_into(text, finder, |_, _| true, &mut true, &mut out)?;
        if options.add_special {
            out.extend(self.after_text());
        }
        Ok(out)
    }

    /// The tokens of a text that is to be continued: [`Tokenizer::encode`] with what the model expects at the beginning
    /// but nothing at the end.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode`].
    pub fn prompt(&self, text: &str, parse_special: bool) -> Result<Vec<u32>> {
        let mut ids: Vec<u32> = self.before_text().into_iter().collect();
        ids.extend(self.encode(text, &Encode { add_special: false, parse_special })?);
        Ok(ids)
    }

    /// Whether the text spells a control token, which [`Encode::parse_special`] would make of it.
    pub fn spells_control(&self, text: &str) -> bool {
        let Inner { vocab, special, .. } = &*self.inner;
        let hidden = |id: u32, _| vocab.kind(id).is_hidden();
        let found = special.each(vocab, text.as_bytes(), hidden, |part| match part {
            Fragment::Token(_) => Err(()),
            Fragment::Text(_) => Ok(()),
        });
        found.is_err()
    }

    /// What [`Encode::add_special`] puts first.
    fn before_text(&self) -> Option<u32> {
        self.inner.bos.filter(|_| self.inner.add_bos)
    }

    /// What [`Encode::add_special`] puts last.
    fn after_text(&self) -> Option<u32> {
        match self.inner.method {
            Method::Wpm(_) => self.inner.separator,
            _ => self.inner.eos.filter(|_| self.inner.add_eos),
        }
    }

    /// Appends the tokens of a text. Spellings of `finder` are recognised if `allowed` accepts them. `fresh`: whether
    /// the text is at the beginning or follows a special token; updated for the text that comes next.
    fn encode_into(
        &self,
        text: &str,
        finder: &Finder,
        allowed: impl Fn(u32, Range<usize>) -> bool,
        fresh: &mut bool,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        let inner = &*self.inner;
        let most = u32::MAX as usize - 2;
        if text.len() > most {
            return Err(Error::limit("bytes of a text", text.len() as u64, most as u64));
        }
        let mut merger = Merger::default();
        let mut strip = false;
        finder.each(&inner.vocab, text.as_bytes(), allowed, |fragment| {
            *fresh = match fragment {
                Fragment::Token(id) => {
                    out.push(id);
                    strip = inner.strip_after && !NOT_STRIPPED.contains(&inner.vocab.bytes(id));
                    true
                }
                Fragment::Text(range) => {
                    let mut text = &text[range];
                    if core::mem::take(&mut strip) {
                        text = text.trim_start_matches([' ', '\t', '\n', '\u{b}', '\u{c}', '\r']);
                        if text.is_empty() {
                            return Ok(());
                        }
                    }
                    match &inner.method {
                        Method::Bpe(bpe) => bpe.encode(&inner.vocab, text, &mut merger, out),
                        Method::Spm(spm) => spm.encode(&inner.vocab, text, *fresh, &mut merger, out)?,
                        Method::Wpm(wpm) => wpm.encode(&inner.vocab, text, out),
                    }
                    false
                }
            };
            Ok(())
        })
    }

    /// The bytes of some tokens; not always UTF-8, since a token may end inside a character.
    ///
    /// # Errors
    /// `Invalid` for a token that does not exist.
    pub fn decode(&self, mut ids: &[u32], options: &Decode) -> Result<Vec<u8>> {
        let inner = &*self.inner;
        let mut strip_space = matches!(&inner.method, Method::Spm(spm) if spm.add_space_prefix());
        let (before, after) = (self.before_text(), self.after_text());
        if options.remove_special && before.is_some() && ids.first().copied() == before {
            // The space that encoding added follows the beginning token; llama.cpp keeps it there.
            strip_space = false;
            ids = &ids[1..];
        }
        if options.remove_special && after.is_some() && ids.last().copied() == after {
            ids = &ids[..ids.len() - 1];
        }
        let mut out = Vec::new();
        for &id in ids {
            if id as usize >= self.vocab_len() {
                let why = format!("{id} is not below the vocabulary's size, {}", self.vocab_len());
                return Err(Error::invalid("token", why));
            }
            if options.unparse_special || !self.is_hidden(id) {
                let bytes = self.token_bytes(id);
                out.extend_from_slice(bytes.strip_prefix(b" ").filter(|_| strip_space).unwrap_or(bytes));
            }
            strip_space = false;
        }
        Ok(if options.clean_spaces && inner.clean_spaces { clean::clean(&out) } else { out })
    }

    /// The bytes of a token, of control tokens their spelling; empty for a token that does not exist.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.inner.vocab.bytes(id)
    }

    /// The kind of a token that exists.
    pub fn kind(&self, id: u32) -> Option<TokenKind> {
        ((id as usize) < self.vocab_len()).then(|| self.inner.vocab.kind(id))
    }

    /// Whether decoding omits the token by default.
    fn is_hidden(&self, id: u32) -> bool {
        self.kind(id).is_some_and(TokenKind::is_hidden)
    }

    /// The token of that spelling, of any kind.
    pub fn token(&self, spelling: &str) -> Option<u32> {
        self.inner.vocab.find(spelling.as_bytes())
    }

    /// How many tokens there are.
    pub fn vocab_len(&self) -> usize {
        self.inner.vocab.len()
    }

    /// Begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.inner.bos
    }

    /// Ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.inner.eos
    }

    /// Ends a turn of a conversation.
    pub fn eot(&self) -> Option<u32> {
        self.inner.eot
    }

    /// Ends a message to a tool.
    pub fn eom(&self) -> Option<u32> {
        self.inner.eom
    }

    /// Represents text that no token covers.
    pub fn unknown(&self) -> Option<u32> {
        self.inner.unknown
    }

    /// Padding; never seen by the model.
    pub fn padding(&self) -> Option<u32> {
        self.inner.padding
    }

    /// Separates the texts of a pair; the end of a text for WordPiece.
    pub fn separator(&self) -> Option<u32> {
        self.inner.separator
    }

    /// Whether [`Tokenizer::separator`] belongs between the texts of a pair.
    pub fn adds_separator(&self) -> bool {
        self.inner.add_separator
    }

    /// Whether [`Encode::add_special`] puts [`Tokenizer::bos`] first.
    pub fn adds_bos(&self) -> bool {
        self.inner.add_bos
    }

    /// Whether [`Encode::add_special`] puts [`Tokenizer::eos`] last.
    pub fn adds_eos(&self) -> bool {
        self.inner.add_eos
    }

    /// Whether the token ends a generation: ends of text, turn or message, by role or by a well-known spelling.
    pub fn is_eos(&self, id: u32) -> bool {
        self.inner.eos_ids.binary_search(&id).is_ok()
    }

    /// All tokens for which [`Tokenizer::is_eos`] holds, in order.
    pub fn eos_ids(&self) -> &[u32] {
        &self.inner.eos_ids
    }

    /// BLAKE3 of everything that determines the encoding of text: the method and pre-tokenizer by name, tokens, kinds,
    /// scores and merges, in this order.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.inner.fingerprint
    }
}

impl core::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_len", &self.vocab_len()).finish_non_exhaustive()
    }
}
