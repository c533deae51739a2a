//! A tokenizer from the metadata of a model file.
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

use super::hash::Key;
use super::special::{END_OF_MESSAGE, END_OF_TURN, FILL_ENDS, FILL_PARTS, Finder, OTHER_ENDS, SHOWN};
use super::vocab::{NONE, TokenKind, Vocab};
use super::{Bpe, Inner, Method, SPLITTERS, Splitter, Spm, Tokenizer, Wpm, bpe, splitter, spm};
use crate::error::{Error, Result, printable};
use crate::gguf::{Array, Gguf, Pieces, Value};
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

fn read_splitter(name: &str) -> Result<&'static Splitter> {
    splitter(name).ok_or_else(|| {
        let known: usize = SPLITTERS.iter().map(|row| row.names.len()).sum();
        let name = printable(name);
        Error::unsupported(
            "pre-tokenizer",
            format!("{name}; not one of the {known} that are known, like qwen2, llama-bpe"),
        )
    })
}

/// A list of texts.
fn texts<'a>(gguf: &'a Gguf, key: &str) -> Result<&'a Array> {
    gguf.strings(key)?;
    gguf.require_array(key)
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
    if gguf.get(SCORES).is_none() {
        return Ok(vec![0.0; tokens]);
    }
    let whole = gguf.i32s(SCORES).ok().flatten().map(|scores| scores.map(|score| score as f32).collect());
    let scores = match whole {
        Some(scores) => scores,
        None => gguf.f32s(SCORES)?.into_iter().flatten().collect(),
    };
    let scores = fit(SCORES, scores, tokens)?;
    match scores.iter().position(|score| score.is_nan()) {
        Some(id) => Err(Error::corrupt(format!("{SCORES}: the score of token {id} is not a number"), 0)),
        None => Ok(scores),
    }
}

/// Whether a file means that there is no such token: -1, in the widths and signs that converters wrote.
fn is_none(value: Option<&Value>) -> bool {
    matches!(value.and_then(Value::integer), Some(-1 | 0xffff_ffff))
}

/// A token of a role; `default` where the file names none.
fn read_id(gguf: &Gguf, role: &str, tokens: usize, default: Option<u32>) -> Result<Option<u32>> {
    let key = format!("tokenizer.ggml.{role}_token_id");
    if is_none(gguf.get(&key)) {
        return Ok(None);
    }
    match gguf.u32(&key)? {
        // Padding is never read, and files were written with vocabularies that lack it.
        Some(id) if id as usize >= tokens && role == "padding" => Ok(None),
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

/// How the file turns text into tokens.
enum Way<'a> {
    Bpe(&'static Splitter, &'a Array),
    Spm,
    Wpm { lowercase: bool, strip_accents: bool },
}

impl<'a> Way<'a> {
    fn read(gguf: &'a Gguf) -> Result<Self> {
        match gguf.require_string(MODEL)? {
            "gpt2" => Ok(Way::Bpe(read_splitter(gguf.require_string(PRE)?)?, texts(gguf, MERGES)?)),
            model @ "gemma4" => Ok(Way::Bpe(read_splitter(model)?, texts(gguf, MERGES)?)),
            "llama" => Ok(Way::Spm),
            "bert" => {
                let lowercase = gguf.bool("tokenizer.ggml.normalizer.lowercase")?.unwrap_or(true);
                let strip = gguf.bool("tokenizer.ggml.normalizer.strip_accents")?.unwrap_or(lowercase);
                Ok(Way::Wpm { lowercase, strip_accents: strip })
            }
            other => {
                let what = format!("{}; known: gpt2, llama, bert, gemma4", printable(other));
                Err(Error::unsupported("tokenizer", what))
            }
        }
    }

    fn defaults(&self) -> Defaults {
        match self {
            Way::Bpe(row, _) => Defaults {
                add_bos: row.add_bos,
                add_sep: row.add_sep,
                clean_spaces: row.clean_spaces,
                // As llama.cpp: files of this rule were written with a wrong flag.
                must_begin: row.rule.name == "gemma4",
                ..Defaults::default()
            },
            Way::Spm => Defaults { bos: Some(1), eos: Some(2), unknown: Some(0), add_bos: true, ..Defaults::default() },
            Way::Wpm { .. } => Defaults {
                bos: Some(101),
                unknown: Some(100),
                separator: Some(102),
                padding: Some(0),
                add_sep: true,
                clean_spaces: true,
                must_begin: true,
                ..Defaults::default()
            },
        }
    }

    /// What distinguishes files of the same method, for the fingerprint.
    fn name(&self) -> &'static str {
        match self {
            Way::Bpe(splitter, _) => splitter.rule.name,
            Way::Spm => "",
            Way::Wpm { lowercase, strip_accents } => match (lowercase, strip_accents) {
                (true, true) => "lowercase strip_accents",
                (true, false) => "lowercase",
                (false, true) => "strip_accents",
                (false, false) => "",
            },
        }
    }

    /// Appends a token's bytes; says whether its bytes are what text is made of.
    fn write_token(&self, piece: &[u8], kind: TokenKind, out: &mut Vec<u8>) -> Result<bool> {
        match self {
            Way::Bpe(splitter, _) if !splitter.rule.raw => Ok(bpe::write_token(piece, kind, out)),
            _ => spm::write_token(core::str::from_utf8(piece).unwrap_or_default(), kind, out),
        }
    }
}

/// What holds where a file says nothing; tokens that do not exist do not count. All are llama.cpp's.
#[derive(Default)]
struct Defaults {
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    padding: Option<u32>,
    separator: Option<u32>,
    add_bos: bool,
    add_sep: bool,
    clean_spaces: bool,
    /// Whether the token that begins a text is added even if the file says no.
    must_begin: bool,
}

/// The tokens with a role.
struct Roles {
    bos: Option<u32>,
    eos: Option<u32>,
    eot: Option<u32>,
    eom: Option<u32>,
    unknown: Option<u32>,
    padding: Option<u32>,
    separator: Option<u32>,
    /// Those that end a generation, sorted.
    ends: Vec<u32>,
}

impl Roles {
    fn read(gguf: &Gguf, way: &Way<'_>, defaults: &Defaults, named: &Named<'_>, n: usize) -> Result<Self> {
        let id = |role, default| read_id(gguf, role, n, default);
        // WordPiece files name the token that begins a text by its own name.
        let class = if let Way::Wpm { .. } = way { id("cls", defaults.bos)? } else { defaults.bos };
        let bos = id("bos", class)?;
        let eos = id("eos", defaults.eos)?;
        let unknown = id("unknown", defaults.unknown)?;
        let padding = id("padding", defaults.padding)?;
        // Files have the key with this mistake.
        let separator = id("seperator", defaults.separator)?;
        let eot = id("eot", None)?.or_else(|| first_named(named, END_OF_TURN));
        let eom = id("eom", None)?.or_else(|| first_named(named, &[END_OF_MESSAGE]));
        let mut ends = vec![eos, eot, eom];
        for (role, spellings) in ["fim_pad", "fim_rep", "fim_sep"].into_iter().zip(FILL_ENDS) {
            ends.push(id(role, None)?.or_else(|| first_named(named, spellings)));
        }
        let mut ends: Vec<u32> = ends.into_iter().flatten().collect();
        ends.extend(END_OF_TURN.iter().chain(OTHER_ENDS).filter_map(|spelling| named.get(spelling)));
        ends.sort_unstable();
        ends.dedup();
        Ok(Roles { bos, eos, eot, eom, unknown, padding, separator, ends })
    }
}

/// The vocabulary of a file, the spellings in it that have a role, and the byte tokens.
struct Words<'a> {
    vocab: Vocab,
    named: Named<'a>,
    bytes: [u32; 256],
}

impl<'a> Words<'a> {
    /// `size`: about the bytes of all pieces.
    fn read(way: &Way<'_>, pieces: Pieces<'a>, kinds: &[i32], size: usize, key: Key) -> Result<Self> {
        let mut words =
            Words { vocab: Vocab::with_capacity(kinds.len(), size, key), named: Named::new(), bytes: [NONE; 256] };
        for (id, (piece, &kind)) in pieces.zip(kinds).enumerate() {
            let mut kind = TokenKind::from_file(kind);
            if (matches!(piece, [b'<' | b'[' | b'_', ..]) || piece.starts_with("▁<".as_bytes()))
                && let Ok(spelling) = core::str::from_utf8(piece)
            {
                if let Some(forced) = role_kind(spelling) {
                    words.named.entry(spelling).or_insert(id as u32);
                    kind = forced;
                }
                if let Some(byte) = spm::byte_token(spelling) {
                    words.bytes.get_mut(usize::from(byte)).into_iter().for_each(|place| *place = id as u32);
                }
            }
            words.vocab.push(kind, |out| way.write_token(piece, kind, out))?;
        }
        Ok(words)
    }
}

/// Whether the file wants the token of a role added; what it says to a role without a token is an error, unless it
/// also says that there is none.
fn wants(gguf: &Gguf, role: &str, default: bool, id: Option<u32>) -> Result<bool> {
    let said = gguf.bool(&format!("tokenizer.ggml.add_{role}_token"))?;
    let key = format!("tokenizer.ggml.{role}_token_id");
    if said.unwrap_or(default) && id.is_none() && !is_none(gguf.get(&key)) {
        return Err(Error::mismatch(key, "a token, since it is to be added to texts", "none"));
    }
    Ok(said.unwrap_or(default))
}

impl Tokenizer {
    /// Reads the tokenizer of a model file.
    ///
    /// # Errors
    /// `Unsupported` for a method or a pre-tokenizer that this build does not know, `Mismatch` where arrays have
    /// different lengths or a token does not exist, `Corrupt` where tokens or merges are inconsistent.
    pub fn from_gguf(gguf: &Gguf) -> Result<Tokenizer> {
        let way = Way::read(gguf)?;
        let tokens = texts(gguf, TOKENS)?;
        let (n, pieces) = (tokens.len(), tokens.pieces()?);
        if n == 0 {
            return Err(Error::corrupt(format!("{TOKENS} is empty"), 0));
        }
        let kinds = read_kinds(gguf, n)?;
        // Scores mean something to one method alone.
        let scores = if let Way::Spm = way { read_scores(gguf, n)? } else { Vec::new() };
        let merges = if let Way::Bpe(_, merges) = way { Some(merges) } else { None };
        let model = gguf.require_string(MODEL)?;
        let fingerprint = fingerprint([model, way.name()], tokens, &kinds, &scores, merges);

        let key = Key::new(&fingerprint);
        let Words { mut vocab, named, bytes } =
            Words::read(&way, pieces, &kinds, tokens.data().len().saturating_sub(n.saturating_mul(8)), key)?;
        let defaults = way.defaults();
        let roles = Roles::read(gguf, &way, &defaults, &named, n)?;
        let Roles { bos, eos, eot, eom, unknown, padding, separator, mut ends } = roles;
        correct_ends(&named, &mut ends, &mut vocab);

        let flag = |name, default| Ok(gguf.bool(&format!("tokenizer.ggml.{name}"))?.unwrap_or(default));
        let add_bos = defaults.must_begin || wants(gguf, "bos", defaults.add_bos, bos)?;
        let add_eos = wants(gguf, "eos", false, eos)?;
        let add_separator = flag("add_sep_token", defaults.add_sep)?;
        // A name of another type says nothing about the tokenizer.
        let name = gguf.string("general.name").ok().flatten().unwrap_or_default().to_ascii_lowercase();
        let strip_after = ["phi-3", "phi3"].iter().any(|part| name.contains(part));
        let method = match way {
            Way::Bpe(splitter, merges) => {
                Method::Bpe(Box::new(Bpe::new(splitter.rule, &vocab, merges.pieces()?, bytes)?))
            }
            Way::Spm => {
                let (space, extra) = (flag("add_space_prefix", true)?, flag("remove_extra_whitespaces", false)?);
                Method::Spm(Box::new(Spm::new(&vocab, &scores, bytes, unknown, space, extra)))
            }
            Way::Wpm { lowercase, strip_accents } => {
                Method::Wpm(Box::new(Wpm::new(&vocab, unknown, lowercase, strip_accents)))
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
                separator,
                add_bos,
                add_eos,
                add_separator,
                clean_spaces: defaults.clean_spaces,
                strip_after,
                eos_ids: ends,
                fingerprint,
            }),
        })
    }
}

/// The kind that a well-known spelling has, regardless of the file. All of them begin with `<`, `[`, `_` or `▁<`.
fn role_kind(spelling: &str) -> Option<TokenKind> {
    if SHOWN.contains(&spelling) {
        return Some(TokenKind::UserDefined);
    }
    let control = END_OF_TURN.iter().chain(OTHER_ENDS).chain(FILL_PARTS).chain(FILL_ENDS.iter().copied().flatten());
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
