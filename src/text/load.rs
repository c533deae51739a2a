//! A tokenizer from the metadata of a model file.

use super::hash::Key;
use super::special::{END_OF_MESSAGE, END_OF_TURN, FILL_ENDS, Finder, OTHER_ENDS, SHOWN};
use super::vocab::{NONE, TokenKind, Vocab};
use super::{Bpe, Inner, Method, SPLITTERS, Splitter, Spm, Tokenizer, bpe, splitter, spm};
use crate::error::{Error, Result, printable};
use crate::gguf::{Array, Gguf};
use std::collections::BTreeMap;
use std::prelude::v1::*;
use std::sync::Arc;

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const KINDS: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";

/// The version of the fingerprint; it changes whenever the hashed bytes do.
const DOMAIN: &[u8] = b"mynah tokenizer 1";

/// Tokens by spelling, of the spellings that have a role.
type Named<'a> = BTreeMap<&'a str, u32>;

fn known_splitters() -> String {
    let names: Vec<&str> = SPLITTERS.iter().flat_map(|row| row.names).copied().collect();
    names.join(", ")
}

/// How the file splits text; `None` for a method that does not.
fn read_splitter(gguf: &Gguf) -> Result<&'static Splitter> {
    let name = gguf.require_string(PRE)?;
    splitter(name).ok_or_else(|| {
        Error::unsupported("pre-tokenizer", format!("{}; known: {}", printable(name), known_splitters()))
    })
}

/// `count` values a token, or the error that names the key.
fn fit<T>(key: &str, values: Vec<T>, tokens: usize) -> Result<Vec<T>> {
    if values.len() == tokens {
        return Ok(values);
    }
    Err(Error::mismatch(key, format!("{tokens} values, one a token"), values.len()))
}

fn read_kinds(gguf: &Gguf, tokens: usize) -> Result<Vec<i32>> {
    match gguf.i32s(KINDS)? {
        Some(kinds) => fit(KINDS, kinds.collect(), tokens),
        None => Ok(vec![1; tokens]),
    }
}

fn read_scores(gguf: &Gguf, tokens: usize) -> Result<Vec<f32>> {
    let Some(array) = gguf.array(SCORES)? else { return Ok(vec![0.0; tokens]) };
    let scores = match array.f32s() {
        Ok(scores) => scores.collect(),
        Err(_) => array.i32s()?.map(|score| score as f32).collect(),
    };
    let scores = fit(SCORES, scores, tokens)?;
    match scores.iter().position(|score| score.is_nan()) {
        Some(id) => Err(Error::corrupt(format!("{SCORES}: the score of token {id} is not a number"), 0)),
        None => Ok(scores),
    }
}

/// A token of a role; `default` where the file names none.
fn read_id(gguf: &Gguf, role: &str, tokens: usize, default: Option<u32>) -> Result<Option<u32>> {
    let key = format!("tokenizer.ggml.{role}_token_id");
    match gguf.u32(&key)? {
        Some(id) if id as usize >= tokens => Err(Error::mismatch(key, format!("a token below {tokens}"), id)),
        Some(id) => Ok(Some(id)),
        None => Ok(default.filter(|&id| (id as usize) < tokens)),
    }
}

fn fingerprint(names: [&str; 2], tokens: &Array, kinds: &[i32], scores: &[f32], merges: Option<&Array>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(DOMAIN);
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    names.iter().for_each(|name| part(name.as_bytes()));
    // An array of strings is its lengths and bytes in the file already.
    part(tokens.data());
    part(&kinds.iter().flat_map(|kind| kind.to_le_bytes()).collect::<Vec<u8>>());
    part(&scores.iter().flat_map(|score| score.to_bits().to_le_bytes()).collect::<Vec<u8>>());
    part(merges.map_or(&[], |merges| merges.data()));
    hasher.finalize().into()
}

impl Tokenizer {
    /// Reads the tokenizer of a model file.
    ///
    /// # Errors
    /// `Unsupported` for a method or a pre-tokenizer that this build does not know, `Mismatch` where arrays have
    /// different lengths or a token does not exist, `Corrupt` where tokens or merges are inconsistent.
    pub fn from_gguf(gguf: &Gguf) -> Result<Tokenizer> {
        let model = gguf.require_string(MODEL)?;
        let splitter = match model {
            "gpt2" => Some(read_splitter(gguf)?),
            "llama" => None,
            other => return Err(Error::unsupported("tokenizer", format!("{}; known: gpt2, llama", printable(other)))),
        };
        let tokens = gguf.require_array(TOKENS)?;
        let n = tokens.len();
        if n == 0 {
            return Err(Error::corrupt(format!("{TOKENS} is empty"), 0));
        }
        let kinds = read_kinds(gguf, n)?;
        // Scores mean nothing to byte-level merging.
        let scores = if splitter.is_none() { read_scores(gguf, n)? } else { Vec::new() };
        let merges = if splitter.is_some() { Some(gguf.require_array(MERGES)?) } else { None };
        let pre = splitter.map_or("", |row| row.names[0]);
        let fingerprint = fingerprint([model, pre], tokens, &kinds, &scores, merges);

        let mut vocab = Vocab::with_capacity(n, tokens.data().len() - 8 * n, Key::new(&fingerprint));
        let mut named = Named::new();
        let mut bytes = [NONE; 256];
        for (id, (piece, &kind)) in tokens.pieces()?.zip(&kinds).enumerate() {
            let mut kind = TokenKind::from_file(kind);
            let spelling = || core::str::from_utf8(piece).unwrap_or_default();
            if matches!(piece, [b'<' | b'[' | b'_', ..])
                && let Some(forced) = role_kind(spelling())
            {
                named.entry(spelling()).or_insert(id as u32);
                kind = forced;
            }
            vocab.push(kind, |out| match splitter {
                Some(_) => Ok(bpe::write_token(piece, kind, out)),
                None => spm::write_token(spelling(), kind, out),
            })?;
            if splitter.is_none()
                && let Some(byte) = spm::byte_token(spelling())
            {
                bytes[byte as usize] = id as u32;
            }
        }

        let id = |role, default| read_id(gguf, role, n, default);
        let spm_default = |id| splitter.is_none().then_some(id);
        let bos = id("bos", spm_default(1))?;
        let eos = id("eos", spm_default(2))?;
        let unknown = id("unknown", spm_default(0))?;
        let padding = id("padding", None)?;
        let eot = id("eot", None)?.or_else(|| first_named(&named, END_OF_TURN));
        let eom = id("eom", None)?.or_else(|| first_named(&named, &[END_OF_MESSAGE]));
        let fill = ["fim_pad", "fim_rep", "fim_sep"];
        let mut ends = vec![eos, eot, eom];
        for (role, spellings) in fill.into_iter().zip(FILL_ENDS) {
            ends.push(id(role, None)?.or_else(|| first_named(&named, spellings)));
        }
        let mut ends: Vec<u32> = ends.into_iter().flatten().collect();
        ends.extend(END_OF_TURN.iter().chain(OTHER_ENDS).filter_map(|spelling| named.get(spelling)));
        ends.sort_unstable();
        ends.dedup();
        correct_ends(&named, &mut ends, &mut vocab);

        let flag = |name, default| Ok(gguf.bool(&format!("tokenizer.ggml.{name}"))?.unwrap_or(default));
        let add_bos = flag("add_bos_token", splitter.is_none_or(|row| row.add_bos))?;
        let add_eos = flag("add_eos_token", false)?;
        for (add, id, role) in [(add_bos, bos, "bos"), (add_eos, eos, "eos")] {
            if add && id.is_none() {
                let key = format!("tokenizer.ggml.{role}_token_id");
                return Err(Error::mismatch(key, "a token, since the file wants it added", "none"));
            }
        }
        let method = match (splitter, merges) {
            (Some(splitter), Some(merges)) => Method::Bpe(Box::new(Bpe::new(splitter, &vocab, merges.pieces()?)?)),
            _ => {
                let (space, extra) = (flag("add_space_prefix", true)?, flag("remove_extra_whitespaces", false)?);
                Method::Spm(Box::new(Spm::new(&vocab, &scores, bytes, unknown, space, extra)))
            }
        };
        let always = Finder::new(&vocab, |kind| kind == TokenKind::UserDefined);
        let special = Finder::new(&vocab, |kind| kind == TokenKind::UserDefined || kind.is_hidden());
        Ok(Tokenizer {
            inner: Arc::new(Inner {
                vocab,
                method,
                always,
                special,
                bos,
                eos,
                eot,
                eom,
                unknown,
                padding,
                add_bos,
                add_eos,
                eos_ids: ends,
                fingerprint,
            }),
        })
    }
}

/// The kind that a well-known spelling has, regardless of the file. All of them begin with `<`, `[` or `_`.
fn role_kind(spelling: &str) -> Option<TokenKind> {
    if SHOWN.contains(&spelling) {
        return Some(TokenKind::UserDefined);
    }
    let control = END_OF_TURN.iter().chain(OTHER_ENDS).chain(FILL_ENDS.iter().copied().flatten());
    control.into_iter().any(|s| *s == spelling).then_some(TokenKind::Control)
}

fn first_named(named: &Named<'_>, spellings: &[&str]) -> Option<u32> {
    spellings.iter().find_map(|spelling| named.get(spelling)).copied()
}

/// Two model families use the spelling of an end token for something else.
fn correct_ends(named: &Named<'_>, ends: &mut Vec<u32>, vocab: &mut Vocab) {
    let has = |spelling: &str| named.contains_key(spelling);
    let mut not_an_end = |spelling: &str, kind| {
        if let Some(&id) = named.get(spelling) {
            ends.retain(|&end| end != id);
            vocab.set_kind(id, kind);
        }
    };
    let calls = has("<|call|>") || has("<|calls|>");
    if calls && (has("<|return|>") || has("<|flush|>")) {
        not_an_end("<|end|>", TokenKind::UserDefined);
    }
    if has("<|tool_response>") {
        not_an_end("</s>", TokenKind::Normal);
    }
}
