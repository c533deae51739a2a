//! The removal of spaces from decoded text that llama.cpp does for some vocabularies.

use std::prelude::v1::*;

/// Removes the space before `?`, `!`, `.`, `,`, then the spaces around a lone apostrophe, then the space before
/// `'s`, `'m`, `'re` and `'ve`.
pub(super) fn clean(text: &[u8]) -> Vec<u8> {
    let text = before(text, &[b"?", b"!", b".", b","]);
    before(&apostrophes(&text), &[b"'s", b"'m", b"'re", b"'ve"])
}

/// Without the spaces after which the text goes on with one of `ends`.
fn before(text: &[u8], ends: &[&[u8]]) -> Vec<u8> {
    let goes = |&i: &usize| text[i] == b' ' && ends.iter().any(|end| text[i + 1..].starts_with(end));
    (0..text.len()).filter(|i| !goes(i)).map(|i| text[i]).collect()
}

fn apostrophes(mut text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    while let [first, after @ ..] = text {
        let alone = text.strip_prefix(b" ' ");
        out.push(if alone.is_some() { b'\'' } else { *first });
        text = alone.unwrap_or(after);
    }
    out
}
