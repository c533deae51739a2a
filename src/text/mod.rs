//! Text to tokens and back, and conversations to text.
//!
//! A [`Tokenizer`] is read from a model file and behaves like llama.cpp with the same file. The differences: text never
//! becomes a control token unless this is requested, even if merges would spell it; a pre-tokenizer that is not in
//! [`SPLITTERS`] is an error, not a guess; decoding does not move spaces.
//!
//! Encoding takes O(n log n) time for any text and any file.

mod bpe;
#[cfg(feature = "chat")]
pub mod chat;
mod hash;
mod load;
mod merge;
mod special;
mod split;
mod spm;
mod stream;
mod vocab;

#[cfg(test)]
mod tests;

pub use split::{SPLITTERS, Splitter, splitter};
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

/// Options of encoding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Encode {
    /// Add the tokens that the model expects at the beginning and the end.
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
    add_bos: bool,
    add_eos: bool,
    /// Sorted.
    eos_ids: Vec<u32>,
    fingerprint: [u8; 32],
}

enum Method {
    Bpe(Box<Bpe>),
    Spm(Box<Spm>),
}

impl Tokenizer {
    /// The tokens of a text.
    ///
    /// # Errors
    /// `Limit` for a text of 4 GiB, `Unsupported` for a byte that no token covers if the model has no token for unknown
    /// bytes.
    pub fn encode(&self, text: &str, options: &Encode) -> Result<Vec<u32>> {
        let inner = &*self.inner;
        let mut out = Vec::new();
        if options.add_special && inner.add_bos {
            out.extend(inner.bos);
        }
        let finder = if options.parse_special { &inner.special } else { &inner.always };
        self.encode_into(text, finder, |_, _| true, &mut true, &mut out)?;
        if options.add_special && inner.add_eos {
            out.extend(inner.eos);
        }
        Ok(out)
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
        for fragment in finder.cut(&inner.vocab, text.as_bytes(), allowed) {
            *fresh = match fragment {
                Fragment::Token(id) => {
                    out.push(id);
                    true
                }
                Fragment::Text(range) => {
                    match &inner.method {
                        Method::Bpe(bpe) => bpe.encode(&inner.vocab, &text[range], &mut merger, out),
                        Method::Spm(spm) => spm.encode(&inner.vocab, &text[range], *fresh, &mut merger, out)?,
                    }
                    false
                }
            };
        }
        Ok(())
    }

    /// The bytes of some tokens; not always UTF-8, since a token may end inside a character.
    ///
    /// # Errors
    /// `Invalid` for a token that does not exist.
    pub fn decode(&self, mut ids: &[u32], options: &Decode) -> Result<Vec<u8>> {
        let inner = &*self.inner;
        let mut strip_space = matches!(&inner.method, Method::Spm(spm) if spm.add_space_prefix());
        if options.remove_special && inner.add_bos && inner.bos.is_some() && ids.first().copied() == inner.bos {
            // The space that encoding added follows the beginning token; llama.cpp keeps it there.
            strip_space = false;
            ids = &ids[1..];
        }
        if options.remove_special && inner.add_eos && inner.eos.is_some() && ids.last().copied() == inner.eos {
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
        Ok(out)
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
