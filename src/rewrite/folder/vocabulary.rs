//! The tokenizer: its tokens, how texts are cut, special tokens and the chat template.

use super::config::Keys;
use super::families::Tokenizer;
use super::sentencepiece::{self, Piece};
use super::special::special;
use super::{Folder, Texts};
use crate::bytes::Limits;
use crate::error::{Error, Result};
use crate::text::Json;
use std::collections::BTreeMap;
use std::prelude::v1::*;

/// Kinds of tokens.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const OWN: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// The score of tokens that were added, and of those that are not there.
const ADDED: f32 = -1000.0;
const ABSENT: f32 = -10_000.0;

macro_rules! contractions {
    () => {
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    };
}
macro_rules! spaces {
    () => {
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    };
}
macro_rules! cased {
    ($behind:expr, $digits:expr) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
            $behind,
            r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
            $behind,
            "|",
            $digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]*",
            spaces!()
        )
    };
}

const QWEN2: &str = concat!(contractions!(), r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*", spaces!());
const QWEN35: &str =
    concat!(contractions!(), r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*", spaces!());
const LLAMA3: &str =
    concat!(contractions!(), r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*", spaces!());
const GPT_4O: &str = cased!(concat!(contractions!(), "?"), r"\p{N}{1,3}");
const TEKKEN: &str = cased!("", r"\p{N}");

/// How texts are cut before they are merged: the expression, or a word for what is built in; whether whole words of the
/// vocabulary are not merged, if that tells rows apart; and the name in GGUF files.
const CUTS: [(&str, Option<bool>, &str); 8] = [
    (QWEN2, None, "qwen2"),
    (QWEN35, None, "qwen35"),
    (LLAMA3, Some(true), "llama-bpe"),
    (LLAMA3, Some(false), "smaug-bpe"),
    (GPT_4O, None, "gpt-4o"),
    (TEKKEN, None, "tekken"),
    ("digits", None, "smollm"),
    ("", None, "gpt-2"),
];

/// Tokens by their numbers.
struct Tokens {
    all: Vec<Option<(String, f32, i32)>>,
}

impl Tokens {
    fn new(n: u64, limits: &Limits) -> Result<Tokens> {
        Limits::check("tokens", n, limits.array)?;
        Ok(Tokens { all: vec![None; n as usize] })
    }

    /// Sets a token; whether there is room for it.
    fn put(&mut self, id: Option<u64>, text: &str, score: f32, kind: i32) -> bool {
        let place = id.and_then(|id| self.all.get_mut(usize::try_from(id).ok()?));
        place.map(|token| *token = Some((text.into(), score, kind))).is_some()
    }

    /// The same for what must have room.
    fn must(&mut self, id: Option<u64>, text: &str, score: f32, kind: i32) -> Result<()> {
        if self.put(id, text, score, kind) {
            return Ok(());
        }
        let found = id.map_or("none".into(), |id| id.to_string());
        Err(Error::mismatch("tokenizer.json", format!("ids below {}", self.all.len()), format!("{found} of a token")))
    }

    fn set(self, head: &mut Keys, scored: bool) {
        let n = self.all.len();
        let (mut texts, mut scores, mut kinds) =
            (Vec::with_capacity(n), Vec::with_capacity(n), Vec::<i32>::with_capacity(n));
        for (i, token) in self.all.into_iter().enumerate() {
            let (text, score, kind) = token.unwrap_or_else(|| (format!("[PAD{i}]"), ABSENT, UNUSED));
            texts.push(text);
            scores.push(score);
            kinds.push(kind);
        }
        head.set("tokenizer.ggml.tokens", &texts[..]);
        if scored {
            head.set("tokenizer.ggml.scores", &scores[..]);
        }
        head.set("tokenizer.ggml.token_type", &kinds[..]);
    }
}

/// A token that was added to those of the model.
struct Added<'a> {
    id: Option<u64>,
    text: &'a str,
    special: bool,
}

impl<'a> Added<'a> {
    fn new(id: Option<u64>, token: &'a Json) -> Added<'a> {
        let text = token.get("content").and_then(Json::text).unwrap_or_default();
        Added { id, text, special: token.get("special") == Some(&Json::Bool(true)) }
    }

    /// Its spelling and kind in files. Some are special without saying so.
    fn spelled(&self) -> (String, i32) {
        match self.special || looks_special(self.text) {
            true => (self.text.into(), CONTROL),
            false => (self.text.replace('\u{2581}', " "), OWN),
        }
    }
}

impl Texts {
    /// Those of `tokenizer.json`.
    fn added(&self) -> impl Iterator<Item = Added<'_>> {
        let list = self.tokenizer.get("added_tokens").and_then(Json::list).unwrap_or_default();
        list.iter().map(|token| Added::new(token.get("id").and_then(Json::whole), token))
    }

    /// Those of its configuration.
    fn decoded(&self) -> impl Iterator<Item = Added<'_>> {
        let list = self.tokenizer_config.get("added_tokens_decoder").and_then(Json::object).unwrap_or_default();
        list.iter().map(|(id, token)| Added::new(id.parse().ok(), token))
    }

    fn model(&self) -> Option<&Json> {
        self.tokenizer.get("model")
    }

    /// Whether a tokenizer is that of the folder.
    fn is(&self, tokenizer: Tokenizer) -> bool {
        let kind = self.model().and_then(|m| m.get("type")).and_then(Json::text);
        let bytes = self.model().and_then(|m| m.get("byte_fallback")) == Some(&Json::Bool(true));
        match tokenizer {
            Tokenizer::Said if self.tokenizer_config.get("tokenizer_class") == Some(&"GPT2Tokenizer".into()) => false,
            Tokenizer::SentencePiece | Tokenizer::Said => self.pieces.is_some(),
            Tokenizer::Pieces => kind == Some("BPE") && bytes,
            Tokenizer::Bytes => kind == Some("BPE") && !bytes,
            Tokenizer::Words => kind == Some("WordPiece"),
        }
    }
}

impl Folder {
    /// Sets the metadata of the tokenizer.
    pub(super) fn vocabulary(&self, head: &mut Keys) -> Result<()> {
        let (family, texts) = (self.config.family, &self.texts);
        let Some(tokenizer) = family.tokenizers.iter().find(|tokenizer| texts.is(**tokenizer)) else {
            return Err(self.no_tokenizer());
        };
        let space = texts.tokenizer_config.get("add_prefix_space");
        if let (true, Some(Json::Bool(space))) = (family.says_space, space) {
            head.set("tokenizer.ggml.add_space_prefix", *space);
        }
        let limit = match tokenizer {
            Tokenizer::SentencePiece | Tokenizer::Said => Some(self.scored(*tokenizer, head)?),
            Tokenizer::Pieces => Some(self.derived(head)?),
            Tokenizer::Bytes => {
                self.byte_level(head)?;
                None
            }
            Tokenizer::Words => Some(self.words(head)?),
        };
        special(texts, &self.json, limit, head);
        let scored = ![Tokenizer::Bytes, Tokenizer::Words].contains(tokenizer);
        if let (Some(turn), true) = (family.turn, scored) {
            head.set("tokenizer.ggml.eot_token_id", turn as u32);
        }
        // Models with as many tokens that this class runs begin without one.
        if family.says_space && self.size()? == 49152 {
            head.set("tokenizer.ggml.add_bos_token", false);
        }
        if let (Some(space), true) = (family.space, scored) {
            head.set("tokenizer.ggml.add_space_prefix", space);
        }
        Ok(())
    }

    fn no_tokenizer(&self) -> Error {
        let kind = self.texts.model().and_then(|m| m.get("type")).and_then(Json::text);
        let found = match (kind, &self.texts.pieces) {
            (Some(kind), None) => format!("{kind} in tokenizer.json"),
            (None, Some(_)) => "tokenizer.model".into(),
            (None, None) => "none".into(),
            (Some(kind), Some(_)) => format!("tokenizer.model, and {kind} in tokenizer.json"),
        };
        let known = self.config.family.tokenizers.iter().map(|tokenizer| match tokenizer {
            Tokenizer::SentencePiece | Tokenizer::Said => "tokenizer.model",
            Tokenizer::Pieces => "BPE with bytes that have tokens in tokenizer.json",
            Tokenizer::Bytes => "byte-level BPE in tokenizer.json",
            Tokenizer::Words => "WordPiece in tokenizer.json",
        });
        let known: Vec<_> = known.collect();
        Error::unsupported("tokenizer", format!("{found}; this class has {}", known.join(", ")))
    }

    /// The number of tokens.
    fn size(&self) -> Result<u64> {
        self.config.whole(&["vocab_size"])
    }

    fn begin(head: &mut Keys, model: &str, pre: &str) {
        head.set("tokenizer.ggml.model", model).set("tokenizer.ggml.pre", pre);
    }

    /// The pieces of `tokenizer.model`, and what other files add. Returns the number of tokens.
    fn scored(&self, tokenizer: Tokenizer, head: &mut Keys) -> Result<u64> {
        let n = self.size()?;
        let mut tokens = Tokens::new(n, &self.limits)?;
        let pieces = sentencepiece::parse(self.texts.pieces.as_deref().unwrap_or_default(), &self.limits)
            .map_err(|e| e.in_file("tokenizer.model"))?;
        for (id, Piece { text, score, kind }) in (0..).zip(&pieces) {
            // What a user defined is a token like others, unless it was added.
            let kind = if *kind == OWN as u64 { NORMAL } else { *kind as i32 };
            tokens.put(Some(id), text, *score, kind);
        }
        for (text, id) in self.texts.added_file.object().unwrap_or_default() {
            tokens.put(id.whole(), text, ADDED, OWN);
        }
        let said = tokenizer == Tokenizer::Said;
        let also = self.texts.added().filter(|_| said);
        for token in self.texts.decoded().chain(also) {
            let (text, kind) = match said {
                false => token.spelled(),
                true => (token.text.into(), if token.special { CONTROL } else { OWN }),
            };
            tokens.put(token.id, &text, ADDED, kind);
        }
        Self::begin(head, "llama", "default");
        tokens.set(head, true);
        Ok(n)
    }

    /// The tokens of `tokenizer.json` with scores that follow from its merges: what is merged sooner has a higher one.
    fn derived(&self, head: &mut Keys) -> Result<u64> {
        let n = self.size()?;
        let mut tokens = Tokens::new(n, &self.limits)?;
        let (model, vocab) = self.vocab()?;
        let mut ranks = BTreeMap::new();
        for merge in merges(model)? {
            let rank = ranks.len();
            ranks.entry(merge.concat()).or_insert(rank);
        }
        let unknown = model.get("unk_token").and_then(Json::text);
        for (text, id) in vocab {
            let byte = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>')).is_some_and(|b| b.len() == 2);
            let (kind, score) = match ranks.get(&**text) {
                _ if byte => (BYTE, 0.0),
                _ if Some(&**text) == unknown => (UNKNOWN, 0.0),
                Some(rank) => (NORMAL, -(*rank as f32)),
                None => (NORMAL, -(ranks.len() as f32)),
            };
            tokens.must(id.whole(), text, score, kind)?;
        }
        for token in self.texts.added() {
            let (text, kind) = token.spelled();
            tokens.must(token.id, &text, ADDED, kind)?;
        }
        Self::begin(head, "llama", "default");
        tokens.set(head, true);
        Ok(n)
    }

    /// The tokens of `tokenizer.json`, spelled in characters for bytes.
    fn byte_level(&self, head: &mut Keys) -> Result<()> {
        let mut tokens = Tokens::new(self.size()?, &self.limits)?;
        let (model, vocab) = self.vocab()?;
        for (text, id) in vocab {
            tokens.must(id.whole(), text, 0.0, NORMAL)?;
        }
        for token in self.texts.added() {
            let (text, kind) = token.spelled();
            tokens.must(token.id, &text, 0.0, kind)?;
        }
        Self::begin(head, "gpt2", self.cutting(model)?);
        tokens.set(head, false);
        let spelled = |merge: [String; 2]| merge.map(|part| part.replace(' ', "\u{120}")).join(" ");
        let merges: Vec<String> = merges(model)?.into_iter().map(spelled).collect();
        head.set("tokenizer.ggml.merges", &merges[..]);
        Ok(())
    }

    /// Words and their parts: what begins a word is marked in files, and not what continues it.
    fn words(&self, head: &mut Keys) -> Result<u64> {
        let n = self.size()?;
        let mut tokens = Tokens::new(n, &self.limits)?;
        let (_, vocab) = self.vocab()?;
        for (text, id) in vocab {
            let text = text.strip_prefix("##").map_or_else(|| format!("\u{2581}{text}"), String::from);
            tokens.must(id.whole(), &text, 0.0, NORMAL)?;
        }
        for token in self.texts.added() {
            let (text, kind) = token.spelled();
            let text = if kind == CONTROL { text } else { format!("\u{2581}{text}") };
            tokens.must(token.id, &text, 0.0, kind)?;
        }
        let types = self.config.maybe(&["type_vocab_size"])?.unwrap_or(2);
        head.set("tokenizer.ggml.token_type_count", u32::try_from(types).unwrap_or(u32::MAX));
        Self::begin(head, "bert", "bert-bge");
        tokens.set(head, false);
        Ok(n)
    }

    /// The model of `tokenizer.json`, and its tokens.
    fn vocab(&self) -> Result<(&Json, &[(String, Json)])> {
        let model = self.texts.model();
        let vocab = model.and_then(|m| Some((m, m.get("vocab")?.object()?)));
        vocab.ok_or_else(|| Error::mismatch("tokenizer.json", "a vocabulary", "none"))
    }

    /// The name of how texts are cut before they are merged.
    fn cutting(&self, model: &Json) -> Result<&'static str> {
        let cut = self.texts.tokenizer.get("pre_tokenizer");
        let steps: Vec<&Json> = match cut.and_then(|p| p.get("pretokenizers")).and_then(Json::list) {
            Some(steps) => steps.iter().collect(),
            None => cut.into_iter().collect(),
        };
        let kind = |step: &Json| step.get("type").and_then(Json::text).map(String::from);
        let mut found = String::new();
        for step in steps {
            match kind(step).as_deref() {
                Some("Split") => {
                    let regex = step.get("pattern").and_then(|p| p.get("Regex")).and_then(Json::text);
                    found += regex.unwrap_or("another split");
                }
                Some("Digits") if step.get("individual_digits") == Some(&Json::Bool(true)) => found += "digits",
                Some("ByteLevel") => {}
                other => found += other.unwrap_or("none"),
            }
        }
        let whole = model.get("ignore_merges") == Some(&Json::Bool(true));
        let row = CUTS.iter().find(|(pattern, of, _)| *pattern == found && of.is_none_or(|of| of == whole));
        let (.., usual) = row.ok_or_else(|| Error::unsupported("pre-tokenizer", &found))?;
        let own = self.config.family.cuts.iter().find(|[name, _]| name == usual);
        Ok(own.map_or(usual, |[_, own]| own))
    }
}

fn looks_special(text: &str) -> bool {
    ["<pad>", "<mask>", "<2mass>", "[@BOS@]"].contains(&text)
        || [("<|", "|>"), ("<｜", "｜>"), ("<unused", ">")]
            .iter()
            .any(|(a, b)| text.starts_with(a) && text.ends_with(b))
}

/// Pairs of a tokenizer, each in one text or in two.
fn merges(model: &Json) -> Result<Vec<[String; 2]>> {
    let bad = || Error::mismatch("tokenizer.json", "merges as texts or pairs of them", "others");
    let list = model.get("merges").and_then(Json::list).ok_or_else(bad)?;
    let one = |merge: &Json| match (merge.text(), merge.list()) {
        (Some(text), _) => text.split_once(' ').map(|(a, b)| [a.into(), b.into()]).ok_or_else(bad),
        (None, Some([a, b])) => Ok([a.text().ok_or_else(bad)?.into(), b.text().ok_or_else(bad)?.into()]),
        _ => Err(bad()),
    };
    list.iter().map(one).collect()
}
