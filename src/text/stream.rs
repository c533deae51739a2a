//! Text from a stream of tokens, in whole characters.

use super::Tokenizer;
use std::prelude::v1::*;

/// Collects the bytes of tokens and returns them as soon as they are whole characters.
#[derive(Clone)]
pub struct TextStream {
    tokenizer: Tokenizer,
    special: bool,
    /// The beginning of a character.
    pending: Vec<u8>,
}

impl TextStream {
    /// A stream that continues a text. With `special`, control tokens are spelled out; otherwise they are omitted.
    pub fn new(tokenizer: &Tokenizer, special: bool) -> Self {
        TextStream { tokenizer: tokenizer.clone(), special, pending: Vec::new() }
    }

    /// Adds a token and returns the characters that are now complete. A token that does not exist adds nothing. Bytes
    /// that cannot become a character become U+FFFD.
    pub fn push(&mut self, id: u32) -> String {
        if !self.special && self.tokenizer.is_hidden(id) {
            return String::new();
        }
        self.pending.extend_from_slice(self.tokenizer.token_bytes(id));
        let mut out = String::new();
        let mut start = 0;
        for chunk in self.pending.utf8_chunks() {
            let cut = start + chunk.valid().len();
            out.push_str(chunk.valid());
            // The beginning of a character, and nothing after it yet.
            let more = core::str::from_utf8(&self.pending[cut..])
                .is_err_and(|e| e.valid_up_to() == 0 && e.error_len().is_none());
            if more {
                start = cut;
                break;
            }
            if !chunk.invalid().is_empty() {
                out.push(char::REPLACEMENT_CHARACTER);
            }
            start = cut + chunk.invalid().len();
        }
        self.pending.drain(..start);
        out
    }

    /// The rest: U+FFFD if the text ends inside a character, otherwise nothing.
    pub fn finish(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        rest
    }
}
