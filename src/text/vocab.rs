//! The vocabulary: the bytes and the kind of each token, and the token of given bytes.

use super::hash::{Key, Slots};
use crate::bytes::Limits;
use crate::error::{Error, Result, printable};
use std::prelude::v1::*;

/// No token.
pub(super) const NONE: u32 = u32::MAX;

/// The longest token, in bytes, that text is searched for; longer ones are never produced.
pub(super) const MAX_PIECE: usize = Limits::DEFAULT.token as usize;

/// The kind of a token; the numbers are those of `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// A piece of text.
    Normal,
    /// Represents text that no token covers.
    Unknown,
    /// Structure, never text: for example the begin or end of a turn.
    Control,
    /// A piece of text that is recognised before anything else happens to the text.
    UserDefined,
    /// A piece of text that the model was not trained on.
    Unused,
    /// One byte.
    Byte,
}

impl TokenKind {
    pub(super) fn from_file(number: i32) -> Self {
        match number {
            2 => TokenKind::Unknown,
            3 => TokenKind::Control,
            4 => TokenKind::UserDefined,
            5 => TokenKind::Unused,
            6 => TokenKind::Byte,
            _ => TokenKind::Normal,
        }
    }

    /// Whether text may become such a token by default.
    pub(super) fn is_text(self) -> bool {
        matches!(self, TokenKind::Normal | TokenKind::UserDefined | TokenKind::Unused)
    }

    /// Whether decoding omits it by default.
    pub(super) fn is_hidden(self) -> bool {
        matches!(self, TokenKind::Control | TokenKind::Unknown)
    }
}

pub(super) struct Vocab {
    /// The bytes of all tokens, concatenated.
    bytes: Vec<u8>,
    /// Where each token's bytes end.
    ends: Vec<u32>,
    kinds: Vec<TokenKind>,
    /// The tokens that are found by their bytes.
    known: Vec<bool>,
    slots: Slots,
    /// The most bytes of a token that is found.
    longest: usize,
    pub key: Key,
}

/// The bytes of a token, given the ends of all; empty if there is no such token.
fn piece<'a>(ends: &[u32], bytes: &'a [u8], id: u32) -> &'a [u8] {
    let id = id as usize;
    let Some(&end) = ends.get(id) else { return &[] };
    let start = if id == 0 { 0 } else { ends[id - 1] };
    &bytes[start as usize..end as usize]
}

impl Vocab {
    /// Room for `n` tokens of about `size` bytes in all.
    pub fn with_capacity(n: usize, size: usize, key: Key) -> Self {
        Vocab {
            bytes: Vec::with_capacity(size),
            ends: Vec::with_capacity(n),
            kinds: Vec::with_capacity(n),
            known: Vec::with_capacity(n),
            slots: Slots::with_capacity(n),
            longest: 0,
            key,
        }
    }

    /// Adds the next token. `write` appends its bytes and returns whether [`Vocab::find`] should find it by them.
    pub fn push(&mut self, kind: TokenKind, write: impl FnOnce(&mut Vec<u8>) -> Result<bool>) -> Result<()> {
        let (id, start) = (self.ends.len() as u32, self.bytes.len());
        let findable = write(&mut self.bytes)?;
        let end = u32::try_from(self.bytes.len())
            .map_err(|_| Error::limit("bytes of the vocabulary", self.bytes.len() as u64, u32::MAX as u64))?;
        self.ends.push(end);
        self.kinds.push(kind);
        let bytes = &self.bytes[start..];
        let known = findable && !bytes.is_empty() && bytes.len() <= MAX_PIECE;
        self.known.push(known);
        if known {
            self.longest = self.longest.max(bytes.len());
            let (ends, all) = (&self.ends, &self.bytes);
            let same = |other: u32| piece(ends, all, other) == bytes;
            if let Some(first) = self.slots.insert(self.key.of_bytes(bytes), id, same) {
                let text = String::from_utf8_lossy(bytes);
                return Err(Error::corrupt(format!("tokens {first} and {id} are both {:?}", printable(&text)), 0));
            }
        }
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The most bytes of a token that [`Vocab::find`] finds.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// The token's bytes; empty if there is no such token.
    pub fn bytes(&self, id: u32) -> &[u8] {
        piece(&self.ends, &self.bytes, id)
    }

    /// The kind of a token that exists.
    pub fn kind(&self, id: u32) -> TokenKind {
        self.kinds[id as usize]
    }

    pub fn set_kind(&mut self, id: u32, kind: TokenKind) {
        self.kinds[id as usize] = kind;
    }

    /// The token of any kind with these bytes.
    pub fn find(&self, bytes: &[u8]) -> Option<u32> {
        if bytes.len() > MAX_PIECE {
            return None;
        }
        self.slots.find(self.key.of_bytes(bytes), |id| self.bytes(id) == bytes)
    }

    /// [`Vocab::find`], which checks token `guess` first.
    pub fn find_near(&self, bytes: &[u8], guess: u32) -> Option<u32> {
        let there = self.known.get(guess as usize) == Some(&true) && self.bytes(guess) == bytes;
        if there { Some(guess) } else { self.find(bytes) }
    }

    /// The token that text of these bytes may become.
    pub fn find_text(&self, bytes: &[u8]) -> Option<u32> {
        self.find(bytes).filter(|&id| self.kind(id).is_text())
    }
}
