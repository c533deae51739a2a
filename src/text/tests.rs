//! Tokenizers from small files, good and bad, compared with the simplest implementation.

use super::*;
use crate::bytes::{Bytes, Limits};
use crate::gguf::{Gguf, Value, Writer};

const PLAIN: Encode = Encode { add_special: false, parse_special: false };
const PARSED: Encode = Encode { add_special: false, parse_special: true };

type Pairs<'a> = Vec<(&'a str, Value)>;

fn load(pairs: &[(&str, Value)]) -> Result<Tokenizer> {
    let mut writer = Writer::new();
    for (key, value) in pairs {
        writer.set(format!("tokenizer.{key}"), value.clone());
    }
    Tokenizer::from_gguf(&Gguf::parse(Bytes::from(writer.finish()?), &Limits::default())?)
}

fn with<'a>(mut pairs: Pairs<'a>, key: &'a str, value: impl Into<Value>) -> Pairs<'a> {
    pairs.retain(|pair| pair.0 != key);
    pairs.push((key, value.into()));
    pairs
}

fn strings(list: &[String]) -> Value {
    list.into()
}

/// The bytes `abcd`, space, and what the merges make of them; a control and a user-defined token last.
fn bpe_pairs(merges: &[String]) -> (Vec<String>, Pairs<'static>) {
    let mut tokens: Vec<String> = ["a", "b", "c", "d", "Ġ", "<", ">", "s"].map(String::from).to_vec();
    for merge in merges {
        let token = merge.replace(' ', "");
        if token != "<s>" && !tokens.contains(&token) {
            tokens.push(token);
        }
    }
    let mut kinds = vec![1i32; tokens.len()];
    tokens.extend(["<s>".into(), "da".into()]);
    kinds.extend([3, 4]);
    let pairs = vec![
        ("ggml.model", "gpt2".into()),
        ("ggml.pre", "gpt-2".into()),
        ("ggml.tokens", strings(&tokens)),
        ("ggml.token_type", kinds.as_slice().into()),
        ("ggml.merges", strings(merges)),
    ];
    (tokens, pairs)
}

fn merges(list: &[&str]) -> Vec<String> {
    list.iter().map(|line| line.to_string()).collect()
}

/// Letters `abc`, a space, all bytes, and some words with scores.
fn spm_pairs() -> Pairs<'static> {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    tokens.extend((0..256).map(|b| format!("<0x{b:02X}>")));
    let words = ["▁", "a", "b", "c", "ab", "bc", "▁a", "abc", "▁ab", "▁▁", "s>", "<"];
    tokens.extend(words.map(String::from));
    let mut kinds = vec![2i32, 3, 3];
    kinds.extend([6; 256]);
    kinds.extend([1; 12]);
    let mut scores = vec![0f32; 259];
    scores.extend([-1.0, -1.0, -1.0, -1.0, -3.0, -2.0, -2.0, -5.0, -4.0, -9.0, -3.5, -1.0]);
    vec![
        ("ggml.model", "llama".into()),
        ("ggml.tokens", strings(&tokens)),
        ("ggml.token_type", kinds.as_slice().into()),
        ("ggml.scores", scores.as_slice().into()),
    ]
}

fn spell(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    ids.iter().map(|&id| String::from_utf8_lossy(tokenizer.token_bytes(id)).into_owned()).collect()
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n
    }

    fn text(&mut self, letters: &str, len: usize) -> String {
        let letters: Vec<char> = letters.chars().collect();
        (0..len).map(|_| letters[self.below(letters.len())]).collect()
    }
}

/// The lowest merge that fits anywhere, the leftmost of equals, until none does.
fn plain_bpe(word: &str, merges: &[String]) -> Vec<String> {
    let mut parts: Vec<String> = word.chars().map(|c| c.to_string()).collect();
    loop {
        let rank = |i: usize| merges.iter().position(|m| *m == format!("{} {}", parts[i], parts[i + 1]));
        let best = (0..parts.len().saturating_sub(1)).filter_map(|i| Some((rank(i)?, i))).min();
        let Some((_, i)) = best else { return parts };
        let right = parts.remove(i + 1);
        parts[i] += &right;
    }
}

#[test]
fn merging_by_queue_is_merging_one_by_one() {
    let mut random = Random(11);
    for round in 0..60 {
        let mut pieces: Vec<String> = ["a", "b", "c", "d"].map(String::from).to_vec();
        let mut list: Vec<String> = Vec::new();
        for _ in 0..3 + round % 20 {
            let (left, right) = (random.below(pieces.len()), random.below(pieces.len()));
            let token = format!("{}{}", pieces[left], pieces[right]);
            let line = format!("{} {}", pieces[left], pieces[right]);
            // "da" is user-defined below, and would be cut out first.
            if token.len() < 12 && !token.contains("da") && !list.contains(&line) {
                list.push(line);
                if !pieces.contains(&token) {
                    pieces.push(token);
                }
            }
        }
        let tokenizer = load(&bpe_pairs(&list).1).unwrap();
        for _ in 0..50 {
            let len = random.below(40);
            let mut word = random.text("abcd", len);
            while word.contains("da") {
                word = word.replace("da", "d");
            }
            let ids = tokenizer.encode(&word, &PLAIN).unwrap();
            assert_eq!(spell(&tokenizer, &ids), plain_bpe(&word, &list), "{word} with {list:?}");
        }
    }
}

/// The pair with the best score, the leftmost of equals, until none is a token.
fn plain_spm(tokenizer: &Tokenizer, scores: &[f32], text: &str) -> Vec<u32> {
    let mut parts: Vec<String> = text.chars().map(String::from).collect();
    loop {
        let mut best: Option<(f32, usize)> = None;
        for i in 1..parts.len() {
            if let Some(id) = tokenizer.inner.vocab.find_text(format!("{}{}", parts[i - 1], parts[i]).as_bytes()) {
                let score = scores[id as usize];
                if best.is_none_or(|(most, _)| score > most) {
                    best = Some((score, i));
                }
            }
        }
        let Some((_, i)) = best else { break };
        let right = parts.remove(i);
        parts[i - 1] += &right;
    }
    let token = |part: &String| match tokenizer.inner.vocab.find_text(part.as_bytes()) {
        Some(id) => vec![id],
        None => part.bytes().map(|b| b as u32 + 3).collect(),
    };
    parts.iter().flat_map(token).collect()
}

#[test]
fn merging_by_score_is_merging_one_by_one() {
    let pairs = spm_pairs();
    let tokenizer = load(&pairs).unwrap();
    let Value::Array(array) = &pairs[3].1 else { panic!("scores") };
    let scores: Vec<f32> = array.f32s().unwrap().collect();
    let mut random = Random(5);
    for _ in 0..3000 {
        let len = 1 + random.below(20);
        let text = random.text("aabbccc  ▁é<s>", len);
        let spaced = format!(" {}", text.replace('▁', " "));
        let ids = tokenizer.encode(&text, &PLAIN).unwrap();
        assert_eq!(ids, plain_spm(&tokenizer, &scores, &spaced), "{text:?}");
        assert_eq!(tokenizer.decode(&ids, &Decode::default()).unwrap(), &spaced.as_bytes()[1..]);
    }
}

#[test]
fn special_tokens_are_cut_out_when_asked() {
    let tokenizer = load(&bpe_pairs(&merges(&["< s", "<s >"])).1).unwrap();
    let ids = |text: &str, how| spell(&tokenizer, &tokenizer.encode(text, how).unwrap());
    // The merges would spell the control token; they are not allowed to.
    assert_eq!(ids("a<s>b", &PLAIN), ["a", "<", "s", ">", "b"]);
    assert_eq!(ids("a<s>b", &PARSED), ["a", "<s>", "b"]);
    assert_eq!(ids("<s><s>", &PARSED), ["<s>", "<s>"]);
    assert_eq!(ids("cdada", &PLAIN), ["c", "da", "da"]);
    assert_eq!(ids("", &PARSED), [""; 0]);
    let control = tokenizer.token("<s>").unwrap();
    assert_eq!(tokenizer.decode(&[0, control, 1], &Decode::default()).unwrap(), b"ab");
    assert_eq!(
        tokenizer.decode(&[0, control], &Decode { unparse_special: true, ..Decode::default() }).unwrap(),
        b"a<s>"
    );
    assert!(tokenizer.decode(&[0, 4_000_000_000], &Decode::default()).is_err());
}

/// The tokens one by one, longest first, each everywhere in what is still text.
fn plain_cut(tokens: &[String], text: &str) -> Vec<Fragment> {
    let mut order: Vec<usize> = (0..tokens.len()).collect();
    order.sort_by_key(|&i| (core::cmp::Reverse(tokens[i].len()), i));
    let mut parts = if text.is_empty() { vec![] } else { vec![Fragment::Text(0..text.len())] };
    for i in order {
        let mut next = Vec::new();
        for part in parts {
            let Fragment::Text(range) = part else {
                next.push(part);
                continue;
            };
            let mut start = range.start;
            while let Some(at) = text[start..range.end].find(&tokens[i]) {
                if at > 0 {
                    next.push(Fragment::Text(start..start + at));
                }
                next.push(Fragment::Token(i as u32));
                start += at + tokens[i].len();
            }
            if start < range.end {
                next.push(Fragment::Text(start..range.end));
            }
        }
        parts = next;
    }
    parts
}

fn cut(finder: &Finder, vocab: &Vocab, text: &str) -> Vec<Fragment> {
    let mut parts = Vec::new();
    let done: core::result::Result<(), ()> = finder.each(
        vocab,
        text.as_bytes(),
        |_, _| true,
        |part| {
            parts.push(part);
            Ok(())
        },
    );
    done.unwrap();
    parts
}

#[test]
fn cutting_by_queue_is_cutting_token_by_token() {
    let mut random = Random(3);
    for _ in 0..300 {
        let mut tokens: Vec<String> = Vec::new();
        for _ in 0..1 + random.below(8) {
            let len = 1 + random.below(5);
            let token = random.text("abc", len);
            if !tokens.contains(&token) {
                tokens.push(token);
            }
        }
        let mut vocab = Vocab::with_capacity(tokens.len(), 64, hash::Key::new(&[7; 32]));
        for token in &tokens {
            let write = |out: &mut Vec<u8>| {
                out.extend_from_slice(token.as_bytes());
                Ok(true)
            };
            vocab.push(TokenKind::UserDefined, write).unwrap();
        }
        // Of long groups the beginning is decided first.
        let finder = Finder::new(&vocab, |_| true).with_window(1 + random.below(20));
        for i in 0..30 {
            let len = random.below(if i % 5 == 0 { 400 } else { 30 });
            let text = random.text(if i % 2 == 0 { "abcd" } else { "abc" }, len);
            assert_eq!(cut(&finder, &vocab, &text), plain_cut(&tokens, &text), "{tokens:?} in {text}");
        }
    }
}

#[test]
fn added_tokens_and_spaces_are_as_the_file_says() {
    let ids = |pairs: Pairs<'_>, text: &str, add_special| {
        let tokenizer = load(&pairs).unwrap();
        let ids = tokenizer.encode(text, &Encode { add_special, parse_special: true }).unwrap();
        spell(&tokenizer, &ids)
    };
    assert_eq!(ids(spm_pairs(), "ab", true), ["<s>", " ab"]);
    assert_eq!(ids(spm_pairs(), "", true), ["<s>"]);
    assert_eq!(ids(spm_pairs(), "a</s>ab", false), [" a", "</s>", " ab"]);
    let pairs = with(with(spm_pairs(), "ggml.add_bos_token", false), "ggml.add_eos_token", true);
    assert_eq!(ids(pairs, "ab", true), [" ab", "</s>"]);
    assert_eq!(ids(with(spm_pairs(), "ggml.add_space_prefix", false), "ab", false), ["ab"]);
    assert_eq!(ids(with(spm_pairs(), "ggml.remove_extra_whitespaces", true), "  a   b ", false), [" a", " ", "b"]);
    let round = load(&spm_pairs()).unwrap();
    let all = round.encode("ab", &Encode { add_special: true, parse_special: false }).unwrap();
    // As llama.cpp has it: the space that was added goes only where nothing is removed before it.
    assert_eq!(
        round.decode(&all, &Decode { remove_special: true, unparse_special: true, clean_spaces: false }).unwrap(),
        b" ab"
    );
}

#[test]
fn none_is_spelled_in_several_ways() {
    for none in [Value::from(u32::MAX), (-1i32).into(), (u32::MAX as u64).into(), (-1i64).into()] {
        let mut pairs = with(spm_pairs(), "ggml.padding_token_id", 70_000u32);
        for key in ["ggml.bos_token_id", "ggml.eos_token_id", "ggml.unknown_token_id", "ggml.eot_token_id"] {
            pairs = with(pairs, key, none.clone());
        }
        let tokenizer = load(&with(pairs, "ggml.add_eos_token", true)).unwrap();
        assert_eq!(
            (tokenizer.bos(), tokenizer.eos(), tokenizer.unknown(), tokenizer.padding()),
            (None, None, None, None)
        );
        // </s> ends a generation by its spelling.
        assert_eq!((tokenizer.eot(), tokenizer.eos_ids()), (None, &[2][..]));
        let all = tokenizer.encode("ab", &Encode { add_special: true, parse_special: false }).unwrap();
        assert_eq!(spell(&tokenizer, &all), [" ab"]);
    }
}

#[cfg(feature = "chat")]
#[test]
fn an_empty_chat_template_is_none() {
    for (source, there) in [("", false), (" \n", false), ("x", true)] {
        let mut writer = Writer::new();
        for (key, value) in with(spm_pairs(), "chat_template", source) {
            writer.set(format!("tokenizer.{key}"), value);
        }
        let gguf = Gguf::parse(Bytes::from(writer.finish().unwrap()), &Limits::default()).unwrap();
        let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
        assert_eq!(chat::Template::from_gguf(&gguf, &tokenizer).unwrap().is_some(), there, "{source:?}");
    }
}

#[test]
fn what_is_to_be_continued_has_no_end() {
    let tokenizer = load(&with(spm_pairs(), "ggml.add_eos_token", true)).unwrap();
    let all = tokenizer.encode("ab", &Encode { add_special: true, parse_special: false }).unwrap();
    assert_eq!(spell(&tokenizer, &all), ["<s>", " ab", "</s>"]);
    assert_eq!(spell(&tokenizer, &tokenizer.prompt("ab", false).unwrap()), ["<s>", " ab"]);
    assert_eq!(spell(&tokenizer, &tokenizer.prompt("</s>ab", true).unwrap()), ["<s>", "</s>", " ab"]);
}

#[test]
fn control_tokens_in_texts_are_seen() {
    let spm = load(&spm_pairs()).unwrap();
    let seen = ["<s>", "a</s>b", "<<s>"].map(|text| spm.spells_control(text));
    assert_eq!(seen, [true; 3]);
    let (_, pairs) = bpe_pairs(&merges(&["< s"]));
    let bpe = load(&pairs).unwrap();
    // What the file lets text become is no control token.
    assert_eq!(
        ["a<s>", "da", "< s>", "", "s>"].map(|text| bpe.spells_control(text)),
        [true, false, false, false, false]
    );
}

/// Words and pieces of them, and some marks.
fn wpm_pairs() -> Pairs<'static> {
    let tokens =
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁a", "▁ab", "b", "bc", "▁.", "▁中", "▁e", "▁$", "▁A", "▁é", "▁("];
    let mut kinds = [1i32; 15];
    kinds[..4].fill(3);
    vec![
        ("ggml.model", "bert".into()),
        ("ggml.tokens", tokens.as_slice().into()),
        ("ggml.token_type", kinds.as_slice().into()),
        ("ggml.unknown_token_id", 1u32.into()),
        ("ggml.cls_token_id", 2u32.into()),
        ("ggml.seperator_token_id", 3u32.into()),
        ("ggml.padding_token_id", 0u32.into()),
    ]
}

#[test]
fn words_become_their_longest_pieces() {
    let ids = |pairs: Pairs<'_>, text: &str| {
        let tokenizer = load(&pairs).unwrap();
        spell(&tokenizer, &tokenizer.encode(text, &PLAIN).unwrap()).concat()
    };
    let bert = |text: &str| ids(wpm_pairs(), text);
    assert_eq!(bert("abbc a\tabc"), " abbc a[UNK]");
    assert_eq!(bert("A.a$ É中a"), " a . a $ e 中 a");
    assert_eq!(bert("a\u{301}\0\u{200b}b  \u{fffd}"), " ab");
    assert_eq!(bert("[SEP]"), "[UNK][UNK][UNK]");
    assert_eq!(bert(""), "");
    let cased = with(wpm_pairs(), "ggml.normalizer.lowercase", false);
    assert_eq!(ids(cased.clone(), "A a é E"), " A a é[UNK]");
    assert_eq!(ids(with(cased, "ggml.normalizer.strip_accents", true), "é"), " e");
    let tokenizer = load(&wpm_pairs()).unwrap();
    let all = tokenizer.encode("a[SEP]a", &Encode { add_special: true, parse_special: true }).unwrap();
    assert_eq!(spell(&tokenizer, &all).concat(), "[CLS] a[SEP] a[SEP]");
    assert_eq!(tokenizer.decode(&all, &Decode { clean_spaces: true, ..Decode::default() }).unwrap(), b" a a");
    assert!(tokenizer.adds_separator() && tokenizer.adds_bos() && !tokenizer.adds_eos());
}

#[test]
fn spaces_before_marks_are_removed_when_asked() {
    let cases = [
        ("a . b ! ?", "a. b!?"),
        ("it 's we 're I 'm they 've", "it's we're I'm they've"),
        ("'t 'd 'll 't", "'t 'd 'll 't"),
        ("a ' b ' ' c", "a'b'' c"),
        (" .", "."),
        ("", ""),
    ];
    for (text, want) in cases {
        assert_eq!(String::from_utf8(clean::clean(text.as_bytes())).unwrap(), want, "{text:?}");
    }
}

#[test]
fn white_space_after_the_tokens_of_phi_3_is_no_text() {
    let mut writer = Writer::new();
    for (key, value) in spm_pairs() {
        writer.set(format!("tokenizer.{key}"), value);
    }
    writer.set("general.name", "My Phi-3 mini");
    let gguf = Gguf::parse(Bytes::from(writer.finish().unwrap()), &Limits::default()).unwrap();
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    let ids = |text: &str| spell(&tokenizer, &tokenizer.encode(text, &PARSED).unwrap());
    assert_eq!(ids("</s>\n ab</s> "), ["</s>", " ab", "</s>"]);
    assert_eq!(ids("<s> ab"), ["<s>", " ", " ab"]);
}

#[test]
fn words_that_are_tokens_may_skip_the_merges() {
    let (mut tokens, pairs) = bpe_pairs(&merges(&["a b"]));
    tokens.insert(0, "abc".into());
    let pairs = with(with(pairs, "ggml.pre", "llama3"), "ggml.add_bos_token", false);
    let mut pairs = with(pairs, "ggml.tokens", tokens.as_slice());
    pairs.retain(|pair| pair.0 != "ggml.token_type");
    let spelled = |pairs: &Pairs<'_>| {
        let tokenizer = load(pairs).unwrap();
        spell(&tokenizer, &tokenizer.encode("abc", &PLAIN).unwrap())
    };
    assert_eq!(spelled(&pairs), ["abc"]);
    assert_eq!(spelled(&with(pairs, "ggml.pre", "qwen2")), ["ab", "c"]);
}

#[test]
fn bad_files_are_errors() {
    let (tokens, bpe) = bpe_pairs(&merges(&["a b"]));
    let n = tokens.len();
    let both = |key: &'static str, value: Value| {
        let message = load(&with(bpe.clone(), key, value.clone())).unwrap_err().to_string();
        let spm = load(&with(spm_pairs(), key, value)).unwrap_err().to_string();
        (message, spm)
    };
    let text = |list: &[&str]| Value::from(list);
    assert!(both("ggml.model", "t5".into()).0.contains("t5"));
    both("ggml.model", 3u32.into());
    both("ggml.tokens", text(&[]));
    both("ggml.tokens", text(&["a"]));
    both("ggml.tokens", 7u32.into());
    let numbers = vec![7u32; n];
    assert!(both("ggml.tokens", numbers.as_slice().into()).0.contains("tokens"));
    both("ggml.token_type", [1i32; 3].as_slice().into());
    both("ggml.token_type", vec![1f32; n].as_slice().into());
    both("ggml.token_type", vec![u64::MAX; n].as_slice().into());
    both("ggml.token_type", 1i32.into());
    for role in ["bos", "eos", "eot", "eom", "unknown", "padding", "fim_pad", "fim_rep", "fim_sep"] {
        let key: &'static str = format!("ggml.{role}_token_id").leak();
        // Padding is never read.
        if role != "padding" {
            assert!(both(key, 100_000u32.into()).0.contains(role));
        }
        both(key, (-2i32).into());
        both(key, "1".into());
    }
    both("ggml.add_bos_token", 1u32.into());
    assert!(load(&with(bpe.clone(), "ggml.add_eos_token", true)).is_err(), "eos to add, and none there");
    for scores in [vec![0f32; 3], vec![f32::NAN; 271], vec![]] {
        assert!(load(&with(spm_pairs(), "ggml.scores", scores.as_slice())).is_err());
    }
    for scores in [Value::from(merges(&["a"]).as_slice()), 1f32.into(), [0f64; 271].as_slice().into()] {
        assert!(load(&with(spm_pairs(), "ggml.scores", scores)).unwrap_err().to_string().contains("scores"));
    }
    assert!(load(&with(spm_pairs(), "ggml.scores", [0i32; 271].as_slice())).is_ok());
    assert!(load(&with(bpe.clone(), "ggml.merges", [1i32].as_slice())).unwrap_err().to_string().contains("merges"));
    let message = load(&with(bpe.clone(), "ggml.pre", "no\u{1b}such")).unwrap_err().to_string();
    assert!(message.contains("no") && message.contains("llama-bpe") && !message.contains('\u{1b}'), "{message}");
    let bad = ["", " ", "a", "a ", " a", "ab", "a  b", "a x", "x a", "b a", "a b c", "é a", "😀 a"];
    for merge in bad {
        let message = load(&with(bpe.clone(), "ggml.merges", text(&[merge]))).unwrap_err().to_string();
        assert!(message.contains("merge 0"), "{merge:?}: {message}");
    }
    let missing = |key: &str| load(&bpe.iter().filter(|pair| pair.0 != key).cloned().collect::<Pairs<'_>>()).is_err();
    assert!(["ggml.model", "ggml.pre", "ggml.tokens", "ggml.merges"].into_iter().all(missing));
    let mut twice = tokens.clone();
    twice[1] = "a".into();
    let message = load(&with(bpe.clone(), "ggml.tokens", twice.as_slice())).unwrap_err().to_string();
    assert!(message.contains("tokens 0 and 1"), "{message}");
}

#[test]
fn odd_files_do_no_harm() {
    // Empty and huge tokens, infinite scores, no byte tokens.
    let list = ["<unk>", "<s>", "</s>", "", "", "▁", "a", "aa"];
    let mut tokens: Vec<String> = list.map(String::from).to_vec();
    tokens.push("a".repeat(1 << 20));
    let inf = f32::INFINITY;
    let scores = [0.0, 0.0, 0.0, 0.0, 0.0, -0.0, inf, -inf, 1.0];
    let kinds = [2i32, 3, 3, 1, 3, 1, 1, 77, 1];
    let pairs = vec![
        ("ggml.model", "llama".into()),
        ("ggml.tokens", strings(&tokens)),
        ("ggml.token_type", kinds.as_slice().into()),
        ("ggml.scores", scores.as_slice().into()),
    ];
    let tokenizer = load(&pairs).unwrap();
    assert_eq!(tokenizer.encode("aaa", &PARSED).unwrap(), [5, 7, 6]);
    assert_eq!(tokenizer.encode("é", &PARSED).unwrap(), [5, 0, 0], "unknown bytes are the unknown token");
    assert_eq!(tokenizer.token_bytes(3), b"");
    let short: Vec<String> = tokens[5..8].to_vec();
    let pairs = vec![
        ("ggml.model", "llama".into()),
        ("ggml.tokens", strings(&short)),
        ("ggml.token_type", [1i32, 3, 1].as_slice().into()),
        ("ggml.add_bos_token", false.into()),
    ];
    // The default for the unknown is token 0, which is there.
    assert!(load(&pairs).unwrap().encode("é", &PLAIN).is_ok());
    let bad_byte =
        with(with(pairs, "ggml.token_type", [1i32, 6, 1].as_slice()), "ggml.tokens", ["x", "<0xZZ>", "y"].as_slice());
    assert!(load(&bad_byte).is_err());
}

#[test]
fn long_texts_take_linear_time() {
    let mut list: Vec<String> = (0..8).map(|k| ["a".repeat(1 << k), "a".repeat(1 << k)].join(" ")).collect();
    list.push("Ġ Ġ".into());
    let (_, pairs) = bpe_pairs(&list);
    let tokenizer = load(&pairs).unwrap();
    let spm = load(&spm_pairs()).unwrap();
    let wpm = load(&wpm_pairs()).unwrap();
    for unit in ["a", " ", "da", "ad", "abc", "<", "\n", "<s>", "é"] {
        let text = unit.repeat(1_000_000 / unit.len());
        for how in [PLAIN, PARSED] {
            assert!(tokenizer.encode(&text, &how).unwrap().len() <= text.len());
            assert!(spm.encode(&text, &how).unwrap().len() <= text.len() + 1);
            assert!(wpm.encode(&text, &how).unwrap().len() <= text.len());
        }
    }
}

#[test]
fn a_stream_gives_whole_characters() {
    let tokenizer = load(&spm_pairs()).unwrap();
    let push = |bytes: &[u8]| {
        let mut stream = TextStream::new(&tokenizer, false);
        let mut out: Vec<String> = bytes.iter().map(|&b| stream.push(b as u32 + 3)).collect();
        out.push(stream.finish());
        out
    };
    assert_eq!(push("é😀".as_bytes()), ["", "é", "", "", "", "😀", ""]);
    assert_eq!(push(b"\xc3"), ["", "\u{fffd}"]);
    assert_eq!(push(b"\xc3a"), ["", "\u{fffd}a", ""]);
    assert_eq!(push(b"\xffa\xe2\x82"), ["\u{fffd}", "a", "", "", "\u{fffd}"]);
    let mut random = Random(9);
    for _ in 0..2000 {
        let bytes: Vec<u8> = (0..12)
            .map(|_| [0x61, 0xc3, 0xa9, 0xe2, 0x82, 0xac, 0xf0, 0x9f, 0x98, 0x80, 0xff][random.below(11)])
            .collect();
        assert_eq!(push(&bytes).concat(), String::from_utf8_lossy(&bytes), "{bytes:x?}");
    }
    let mut stream = TextStream::new(&tokenizer, false);
    assert_eq!((stream.push(1), stream.push(u32::MAX)), (String::new(), String::new()));
    assert_eq!(TextStream::new(&tokenizer, true).push(1), "<s>");
}

/// Text that is merged in windows has the tokens of text that is merged at once, whatever the vocabulary.
#[test]
fn windows_change_no_token() {
    use super::merge::{Merger, Pairs, Span};
    struct Table(std::collections::BTreeMap<Vec<u8>, u32>, bool);
    impl Table {
        fn rank(&self, token: &[u8], left: usize) -> Option<u32> {
            let rank = *self.0.get(token)?;
            // As with a list of merges, not every cut of a token is a merge.
            (self.1 || left % 2 == rank as usize % 2).then_some(rank / 2)
        }

        /// One more than the highest rank of the merges that make it, of the way with the lowest.
        fn turn(&self, token: &[u8]) -> u32 {
            let by = |cut: usize| {
                let sides = self.turn(&token[..cut]).max(self.turn(&token[cut..]));
                Some((self.rank(token, cut)? + 1).max(sides))
            };
            match token.len() {
                1 => 0,
                len => (1..len).filter_map(by).min().unwrap_or(u32::MAX),
            }
        }
    }
    impl Pairs for Table {
        fn pair(&self, text: &[u8], left: &Span, right: &Span) -> Option<(u32, u32)> {
            let token = &text[left.range.start..right.range.end];
            Some((self.rank(token, left.range.len())?, self.0[token]))
        }

        fn lowest(&self, text: &[u8], left: &Span, least: usize, below: Option<u32>) -> Option<u32> {
            let (from, own) = (&text[left.range.start..], left.range.len());
            let ends = own + least..=self.longest().min(from.len());
            let rank = |end: usize| self.rank(&from[..end], own);
            let stands = |right: &[u8]| below.is_none_or(|below| self.turn(right) <= below);
            ends.filter_map(|end| rank(end).filter(|_| stands(&from[own..end]))).min()
        }

        fn longest(&self) -> usize {
            self.0.keys().map(Vec::len).max().unwrap_or(1)
        }
    }
    let mut state = 1u64;
    let mut next = move |n: u64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % n
    };
    for round in 0..2000 {
        let letters = 1 + next(3);
        let mut table = Table(Default::default(), round % 2 == 0);
        for _ in 0..next(40) {
            let len = 2 + next(6);
            let token = (0..len).map(|_| b'a' + next(letters) as u8).collect();
            table.0.insert(token, next(60) as u32);
        }
        let text: Vec<u8> = (0..next(600)).map(|_| b'a' + next(letters) as u8).collect();
        let merged = |window: usize| {
            let mut out: Vec<(Vec<u8>, u32)> = Vec::new();
            let mut pieces = text.chunks(3);
            let symbol = |text: &[u8]| (1, u32::from(text[0]));
            let done: core::result::Result<(), ()> =
                Merger::with_window(window).each(&mut pieces, symbol, &table, |text, span| {
                    out.push((text[span.range].to_vec(), span.id));
                    Ok(())
                });
            done.unwrap();
            out
        };
        let whole = merged(usize::MAX);
        assert_eq!(whole.iter().flat_map(|(text, _)| text).copied().collect::<Vec<u8>>(), text);
        assert_eq!(merged(1), whole, "round {round}");
        assert_eq!(merged(40), whole, "round {round}");
    }
}
