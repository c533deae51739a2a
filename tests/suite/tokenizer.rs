//! Tokenizers against llama.cpp: ids in every mode, text back from them, and a long text.

use crate::shared::{needs_shared, shared};
use mynah::bytes::{Bytes, Limits};
use mynah::gguf::Gguf;
use mynah::text::{Decode, Encode, SPLITTERS, TextStream, TokenKind, Tokenizer, Whole, splitter};
use serde_json::Value;
use std::path::Path;

const MODELS: &[(&str, &str)] =
    &[("smollm2", "models/SmolLM2-135M-Instruct.Q4_0.gguf"), ("stories260K", "models/stories260K.gguf")];

const PLAIN: Encode = Encode { add_special: false, parse_special: false };
const CLEAN: Decode = Decode { remove_special: false, unparse_special: false, clean_spaces: true };
const SPELL: Decode = Decode { unparse_special: true, ..CLEAN };

fn tokenizer(root: &Path, model: &str) -> Tokenizer {
    let bytes = Bytes::from(std::fs::read(root.join(model)).unwrap());
    Tokenizer::from_gguf(&Gguf::parse(bytes, &Limits::default()).unwrap()).unwrap()
}

fn json(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn hidden(tokenizer: &Tokenizer, id: &u32) -> bool {
    matches!(tokenizer.kind(*id), Some(TokenKind::Control | TokenKind::Unknown))
}

/// Ids in three modes, the bytes of them, and text from a stream.
fn check(name: &str, tokenizer: &Tokenizer, cases: &Value) {
    for case in cases.as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let encode =
            |add_special, parse_special| tokenizer.encode(text, &Encode { add_special, parse_special }).unwrap();
        let (plain, all) = (encode(false, false), encode(true, true));
        assert_eq!(encode(true, false), ids(&case["ids_add_special"]), "{name}: {text:?}");
        assert_eq!(plain, ids(&case["ids_plain"]), "{name}: {text:?}");
        assert_eq!(all, ids(&case["ids_add_and_parse_special"]), "{name}: {text:?}");
        let back = tokenizer.decode(&plain, &CLEAN).unwrap();
        assert_eq!(hex(&back), case["detok_plain_hex"].as_str().unwrap(), "{name}: {text:?}");
        let back = tokenizer.decode(&all, &SPELL).unwrap();
        assert_eq!(hex(&back), case["detok_parse_special_hex"].as_str().unwrap(), "{name}: {text:?}");

        let mut stream = TextStream::new(tokenizer, false);
        let mut streamed: String = plain.iter().map(|&id| stream.push(id)).collect();
        streamed += &stream.finish();
        let shown = plain.iter().filter(|id| !hidden(tokenizer, id));
        let whole: Vec<u8> = shown.flat_map(|&id| tokenizer.token_bytes(id)).copied().collect();
        assert_eq!(streamed, String::from_utf8_lossy(&whole), "{name}: {text:?}");
    }
}

#[needs_shared]
#[test]
fn ids_and_text_are_those_of_llama_cpp() {
    let root = shared();
    for (name, model) in MODELS {
        let cases = json(root.join(format!("golden/llamacpp/tokenizer/tokenizer-{name}.json")));
        check(name, &tokenizer(&root, model), &cases);
    }
}

#[needs_shared]
#[test]
fn every_vocabulary_has_the_ids_and_text_of_llama_cpp() {
    let root = shared();
    let mut names: Vec<String> = std::fs::read_dir(root.join("models/vocab"))
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".gguf").map(String::from))
        .collect();
    names.sort_unstable();
    // 39 pre-tokenizers and 7 vocabularies.
    assert_eq!(names.len(), 46);
    for name in names {
        let cases = json(root.join(format!("golden/llamacpp/tokenizer-arch/{name}.json")));
        check(&name, &tokenizer(&root, &format!("models/vocab/{name}.gguf")), &cases);
    }
}

#[needs_shared]
#[test]
fn every_pre_tokenizer_of_llama_cpp_has_its_row_and_settings() {
    let root = shared();
    let mut known = 0;
    for entry in json(root.join("golden/llamacpp/tokenizer-arch/names.json")).as_array().unwrap() {
        let settings = entry["settings"].as_str().unwrap();
        let file = entry["file"].as_str().unwrap().trim_start_matches("pre-").trim_end_matches(".gguf");
        for name in entry["names"].as_array().unwrap() {
            let name = name.as_str().unwrap();
            let row = splitter(name).unwrap_or_else(|| panic!("{name} has no row"));
            let same = splitter(file).unwrap();
            assert!(row.rule.name == same.rule.name && row.rule.whole == same.rule.whole, "{name} is not {file}");
            assert_eq!(row.rule.whole == Whole::Always, settings.contains("ignore_merges = true"), "{name}");
            assert_eq!(row.add_sep, settings.contains("add_sep = true"), "{name}");
            assert_eq!(row.clean_spaces, !settings.contains("clean_spaces = false"), "{name}");
            assert_eq!(row.rule.raw, settings.contains("escape_whitespaces = true"), "{name}");
            // The files of this rule are known to say it wrong.
            assert_eq!(row.add_bos, settings.contains("add_bos = true") || row.rule.name == "gemma4", "{name}");
            known += 1;
        }
    }
    assert_eq!(known, SPLITTERS.iter().map(|row| row.names.len()).sum::<usize>());
    // The last of the 91 has no reference: it is refused by its name.
    assert_eq!(known, 90);
    assert!(splitter("whitespace").is_none());
}

#[needs_shared]
#[test]
fn a_long_text_has_the_ids_of_llama_cpp() {
    let root = shared();
    let text = std::fs::read_to_string(root.join("golden/llamacpp/ppl/text.txt")).unwrap();
    let want = json(root.join("golden/llamacpp/ppl/text-tokens.json"));
    for (name, model) in MODELS {
        let got = tokenizer(&root, model).encode(&text, &Encode { add_special: true, parse_special: false }).unwrap();
        let want = &want[name];
        assert_eq!(got.len() as u64, want["n_tokens"].as_u64().unwrap(), "{name}");
        assert_eq!(got[..16], ids(&want["first16"])[..], "{name}");
        assert_eq!(got[got.len() - 16..], ids(&want["last16"])[..], "{name}");
        let bytes: Vec<u8> = got.iter().flat_map(|id| id.to_le_bytes()).collect();
        assert_eq!(hex(&sha256(&bytes)), want["sha256_of_ids_as_u32_le"].as_str().unwrap(), "{name}");
    }
}

#[needs_shared]
#[test]
fn ids_are_those_of_the_reference_encoder() {
    let root = shared();
    let tokenizer = tokenizer(&root, "models/stories260K.gguf");
    let base = json(root.join("golden/peft/a_base/base.json"));
    for case in base["tokenizer_cases"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let got = tokenizer.encode(text, &Encode { add_special: true, parse_special: false }).unwrap();
        assert_eq!(got, ids(&case["ids"]), "{text:?}");
    }
}

#[needs_shared]
#[test]
fn roles_and_ends_are_known() {
    let root = shared();
    let smol = tokenizer(&root, MODELS[0].1);
    assert_eq!((smol.bos(), smol.eos(), smol.eot(), smol.eom()), (Some(1), Some(2), Some(2), None));
    assert_eq!((smol.vocab_len(), smol.adds_bos(), smol.adds_eos()), (49152, false, false));
    // <|endoftext|>, <|im_end|>, <reponame>: the last as llama.cpp does, for code models.
    assert_eq!(smol.eos_ids(), [0, 2, 4]);
    assert!(smol.is_eos(2) && !smol.is_eos(1) && !smol.is_eos(99_999_999));
    let stories = tokenizer(&root, MODELS[1].1);
    assert_eq!((stories.bos(), stories.eos(), stories.unknown()), (Some(1), Some(2), Some(0)));
    assert_eq!(stories.eos_ids(), [2]);
    let same = tokenizer(&root, "models/stories260K-q4_0.gguf");
    assert_eq!(stories.fingerprint(), same.fingerprint());
    assert_ne!(stories.fingerprint(), smol.fingerprint());
}

#[needs_shared]
#[test]
fn a_user_cannot_write_a_control_token() {
    let root = shared();
    for (_, model) in MODELS {
        let tokenizer = tokenizer(&root, model);
        for id in 0..tokenizer.vocab_len() as u32 {
            let Ok(text) = core::str::from_utf8(tokenizer.token_bytes(id)) else { continue };
            let got = tokenizer.encode(text, &PLAIN).unwrap();
            assert!(!got.iter().any(|id| hidden(&tokenizer, id)), "{text:?} became {got:?}");
        }
    }
}

#[needs_shared]
#[test]
fn a_list_of_numbers_is_no_vocabulary() {
    let root = shared();
    let bytes = Bytes::from(std::fs::read(root.join("cases/hostile/01/tokens-u32.gguf")).unwrap());
    let gguf = Gguf::parse(bytes, &Limits::default()).unwrap();
    let message = Tokenizer::from_gguf(&gguf).unwrap_err().to_string();
    assert!(message.contains("tokenizer.ggml.tokens") && message.contains("string"), "{message}");
}

/// FIPS 180-4.
fn sha256(data: &[u8]) -> [u8; 32] {
    let primes: Vec<u64> =
        (2u64..).filter(|n| (2..*n).take_while(|d| d * d <= *n).all(|d| n % d != 0)).take(64).collect();
    // The first 32 bits of the fractional part of a root.
    let fraction = |root: f64| ((root - root.floor()) * 4294967296.0) as u32;
    let k: Vec<u32> = primes.iter().map(|&p| fraction((p as f64).cbrt())).collect();
    let mut h: Vec<u32> = primes[..8].iter().map(|&p| fraction((p as f64).sqrt())).collect();
    let mut padded = data.to_vec();
    padded.push(0x80);
    padded.resize(padded.len().next_multiple_of(64), 0);
    if data.len() % 64 > 55 {
        padded.resize(padded.len() + 64, 0);
    }
    let end = padded.len();
    padded[end - 8..].copy_from_slice(&(data.len() as u64 * 8).to_be_bytes());
    for block in padded.chunks_exact(64) {
        let mut w: Vec<u32> = block.chunks_exact(4).map(|b| u32::from_be_bytes(b.try_into().unwrap())).collect();
        for i in 16..64 {
            let (a, b) = (w[i - 15], w[i - 2]);
            let s0 = a.rotate_right(7) ^ a.rotate_right(18) ^ (a >> 3);
            let s1 = b.rotate_right(17) ^ b.rotate_right(19) ^ (b >> 10);
            w.push(w[i - 16].wrapping_add(s0).wrapping_add(w[i - 7]).wrapping_add(s1));
        }
        let mut v = h.clone();
        for i in 0..64 {
            let s1 = v[4].rotate_right(6) ^ v[4].rotate_right(11) ^ v[4].rotate_right(25);
            let choose = (v[4] & v[5]) ^ (!v[4] & v[6]);
            let t1 = v[7].wrapping_add(s1).wrapping_add(choose).wrapping_add(k[i]).wrapping_add(w[i]);
            let s0 = v[0].rotate_right(2) ^ v[0].rotate_right(13) ^ v[0].rotate_right(22);
            let majority = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]);
            v.rotate_right(1);
            v[4] = v[4].wrapping_add(t1);
            v[0] = t1.wrapping_add(s0).wrapping_add(majority);
        }
        h.iter_mut().zip(&v).for_each(|(h, v)| *h = h.wrapping_add(*v));
    }
    let mut out = [0; 32];
    out.chunks_exact_mut(4).zip(&h).for_each(|(o, h)| o.copy_from_slice(&h.to_be_bytes()));
    out
}
