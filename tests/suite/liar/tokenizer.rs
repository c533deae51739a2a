//! Section C, as far as it is about vocabularies: tokens, scores, kinds, merges, roles. `text.rs` has the rest.

use super::gguf::parse;
use super::{Entry, Parser, check, takes};
use crate::shared::{needs_shared, shared};
use mynah::error::Result;
use mynah::gguf::{Value, Writer};
use mynah::text::{Decode, Encode, Tokenizer};

pub static TOKENIZER: Parser = Parser { name: "tokenizer", read: |bytes| read(bytes).map(drop) };

/// Reads, and turns a text into tokens and back.
pub fn read(bytes: Vec<u8>) -> Result<Tokenizer> {
    let tokenizer = Tokenizer::from_gguf(&parse(bytes)?)?;
    let text = "<s>abc d\u{e9} \0\u{202e}\u{1f600}";
    if let Ok(ids) = tokenizer.encode(text, &Encode { add_special: true, parse_special: false }) {
        tokenizer.decode(&ids, &Decode::default()).unwrap();
    }
    Ok(tokenizer)
}

/// The pairs of a vocabulary.
#[derive(Clone)]
pub struct Words(Vec<(&'static str, Value)>);

impl Words {
    /// Letters, merges of them, a control token.
    pub fn merging() -> Words {
        Words(vec![
            ("model", "gpt2".into()),
            ("pre", "gpt-2".into()),
            ("tokens", (&["a", "b", "c", "ab", "abc", "Ġ", "<s>"][..]).into()),
            ("token_type", (&[1i32, 1, 1, 1, 1, 1, 3][..]).into()),
            ("merges", (&["a b", "ab c"][..]).into()),
        ])
    }

    /// Pieces with scores, and all bytes.
    fn scored() -> Words {
        let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
        let mut kinds = vec![2i32, 3, 3];
        tokens.extend((0..256).map(|b| format!("<0x{b:02X}>")));
        kinds.extend([6; 256]);
        tokens.extend(["▁", "a", "b", "ab"].map(String::from));
        kinds.extend([1; 4]);
        let scores: Vec<f32> = (0..tokens.len()).map(|i| -(i as f32)).collect();
        Words(vec![
            ("model", "llama".into()),
            ("tokens", (&tokens[..]).into()),
            ("token_type", (&kinds[..]).into()),
            ("scores", (&scores[..]).into()),
        ])
    }

    pub fn set(mut self, key: &'static str, value: impl Into<Value>) -> Words {
        self.0.retain(|(name, _)| *name != key);
        self.0.push((key, value.into()));
        self
    }

    fn without(mut self, key: &str) -> Words {
        self.0.retain(|(name, _)| *name != key);
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut w = Writer::new();
        self.0.iter().for_each(|(key, value)| _ = w.set(format!("tokenizer.ggml.{key}"), value.clone()));
        w.finish().unwrap()
    }
}

/// A small vocabulary, to be changed byte by byte.
pub fn small() -> Vec<u8> {
    Words::merging().bytes()
}

fn entries() -> Vec<Entry> {
    let (m, s) = (Words::merging, Words::scored);
    let none: &[&str] = &[];
    let many = vec![0u8; (4 << 20) + 1];
    let strings = |key| {
        // As many empty texts.
        let file = super::gguf::Liar::new(0, 1).list(key, 8, many.len() as u64, &vec![0; 8 * many.len()]);
        file.bytes()
    };
    let refused: Vec<(&str, Words, &'static str, &str)> = vec![
        ("C1 none", m().set("tokens", none), "Corrupt", "tokenizer.ggml.tokens is empty"),
        ("C1 missing", m().without("tokens"), "Mismatch", "tokenizer.ggml.tokens"),
        ("C1 numbers", m().set("tokens", &[1u32, 2][..]), "Mismatch", "tokenizer.ggml.tokens"),
        ("C1 one, of another model", m().set("tokens", &["a"][..]), "Mismatch", "token_type"),
        (
            "C2 twice",
            m().set("tokens", &["a", "b", "c", "ab", "abc", "a", "<s>"][..]),
            "Corrupt",
            "tokens 0 and 5 are both \"a\"",
        ),
        ("C3 kinds", m().set("token_type", &[1i32; 6][..]), "Mismatch", "token_type: expected 7 values"),
        ("C3 kinds as text", m().set("token_type", &["1"; 7][..]), "Mismatch", "token_type"),
        ("C3 scores", s().set("scores", &[0f32; 3][..]), "Mismatch", "scores: expected 263 values"),
        ("C3 NaN", s().set("scores", &[f32::NAN; 263][..]), "Corrupt", "the score of token 0 is not a number"),
        ("C4 of one piece", m().set("merges", &["ab"][..]), "Corrupt", "merge 0, \"ab\", is not two pieces"),
        ("C4 of three", m().set("merges", &["a b c"][..]), "Corrupt", "merge 0"),
        ("C4 empty", m().set("merges", &["a b", ""][..]), "Corrupt", "merge 1, \"\""),
        ("C4 into no token", m().set("merges", &["b a"][..]), "Corrupt", "makes what is no token"),
        ("C4 of unknown pieces", m().set("merges", &["x y"][..]), "Corrupt", "makes what is no token"),
        ("C4 missing", m().without("merges"), "Mismatch", "tokenizer.ggml.merges"),
        ("C4 numbers", m().set("merges", &[1u32][..]), "Mismatch", "tokenizer.ggml.merges"),
        ("C5 bos", m().set("bos_token_id", 7u32), "Mismatch", "bos_token_id: expected a token below 7"),
        ("C5 eos", m().set("eos_token_id", u32::MAX - 1), "Mismatch", "eos_token_id"),
        ("C5 negative", m().set("unknown_token_id", -2i32), "Mismatch", "unknown_token_id"),
        ("C5 text", m().set("bos_token_id", "0"), "Mismatch", "bos_token_id"),
        ("C5 wanted and missing", m().set("add_bos_token", true), "Mismatch", "bos_token_id"),
        ("C6 spelled wrongly", s().set("token_type", &[6i32; 263][..]), "Corrupt", "is not spelled <0xHH>"),
        ("C7 mystery", m().set("pre", "mystery\x1b"), "Unsupported", "pre-tokenizer: mystery\\u{1b}"),
        ("C7 default", m().set("pre", "default-ish"), "Unsupported", "pre-tokenizer: default-ish"),
        ("C7 missing", m().without("pre"), "Mismatch", "tokenizer.ggml.pre"),
        ("C7 another model", m().set("model", "t5"), "Unsupported", "tokenizer: t5"),
    ];
    let mut all: Vec<Entry> = refused
        .into_iter()
        .map(|(name, words, variant, word)| TOKENIZER.refuses(name, words.bytes(), variant, word))
        .collect();
    all.push(TOKENIZER.refuses("C1 over 4 Mi", strings("tokenizer.ggml.tokens"), "Limit", "elements of an array"));
    all.push(TOKENIZER.refuses("C4 over 4 Mi", strings("tokenizer.ggml.merges"), "Limit", "elements of an array"));
    let invalid = super::gguf::Liar::new(0, 1).list("tokenizer.ggml.tokens", 8, 1, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff]);
    all.push(TOKENIZER.refuses("C2 not UTF-8", invalid.bytes(), "Corrupt", "element 0: string is not UTF-8"));

    let one = m().set("tokens", &["a"][..]).set("token_type", &[1i32][..]).set("merges", none);
    let long = "a".repeat(1 << 20);
    let words: Vec<&str> = vec!["a", "b", "c", "ab", "abc", &long, ""];
    all.push(TOKENIZER.takes("C1 one", one.bytes()));
    all.push(TOKENIZER.takes("C2 empty, and of 1 MiB", m().set("tokens", &words[..]).bytes()));
    all.push(TOKENIZER.takes("C4 of itself", m().set("merges", &["a b", "a b", "ab c", "a bc"][..]).bytes()));
    all.push(TOKENIZER.takes("C5 none, as -1", m().set("bos_token_id", -1i32).bytes()));
    all.push(TOKENIZER.takes("C5 padding, which is never read", m().set("padding_token_id", 99u32).bytes()));
    all.push(takes("C6 missing", || {
        // A byte that no token covers is an error of the text, not a token that does not exist.
        let tokenizer = read(Words::merging().bytes())?;
        let e = tokenizer.encode("abd", &Encode::default());
        assert!(e.is_err() || e.unwrap().iter().all(|id| *id < 7));
        Ok(())
    }));
    // Merges into one long token, from every place, many times over: linear time.
    let whole = "a".repeat(1000);
    let mut tokens: Vec<String> = (1..=1000).map(|n| "a".repeat(n)).collect();
    tokens.push("b".into());
    let merges: Vec<String> =
        (0..20_000).map(|i| format!("{} {}", &whole[..1 + i % 999], &whole[1 + i % 999..])).collect();
    let kinds = vec![1i32; tokens.len()];
    let words = m().set("tokens", &tokens[..]).set("token_type", &kinds[..]).set("merges", &merges[..]);
    all.push(TOKENIZER.takes("C4 20000 into one token", words.bytes()));
    all.push(super::peft::PEFT.refuses(
        "C18 an embedding of its own",
        super::peft::Directory::new().config(r#""use_dora":false"#, r#""modules_to_save":["embed_tokens"]"#).bytes(),
        "Unsupported",
        "`modules_to_save` is set",
    ));
    all.push(super::peft::PEFT.refuses(
        "C18 tokens of its own",
        super::peft::Directory::new().config(r#""use_dora":false"#, r#""trainable_token_indices":[3]"#).bytes(),
        "Unsupported",
        "`trainable_token_indices` is set",
    ));
    all.push(super::container::ADAPTER.refuses(
        "C18 another tokenizer",
        super::container::Adapter::lora().head(|head| _ = head.set("base.tokenizer", "1".repeat(64))).bytes(),
        "Mismatch",
        "tokenizer of the base",
    ));
    all
}

#[test]
fn section_c() {
    let mut all = entries();
    all.extend(super::text::entries());
    check('C', 18, all, &[(17, "tokenizer.json is not read: the tokenizer is that of the GGUF file")]);
}

#[needs_shared]
#[test]
fn numbers_in_the_place_of_tokens_are_named() {
    let bytes = std::fs::read(shared().join("cases/hostile/01/tokens-u32.gguf")).unwrap();
    let e = read(bytes).err().unwrap().to_string();
    assert!(e.contains("tokenizer.ggml.tokens"), "{e}");
}
