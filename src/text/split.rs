//! How text is cut into words before byte-level merging: one function a row, linear in the text.
//!
//! The published rules are regular expressions. Each function here returns the first match of one of them at the start
//! of the text; the tests compare it with the expressions themselves. Where llama.cpp's expression differs from that of
//! the model's authors (case of contractions), llama.cpp's is used.

use std::prelude::v1::*;
use unicode_general_category::{GeneralCategory as G, get_general_category};

/// A way to split text, with its names in `tokenizer.ggml.pre`.
pub struct Splitter {
    /// All names.
    pub names: &'static [&'static str],
    /// Bytes of the first word of a text that is not empty; at least one character.
    pub first: fn(&str) -> usize,
    /// Whether a word that is a token becomes that token, regardless of the merges.
    pub ignore_merges: bool,
    /// Whether the text begins with a token for it, if the file does not say.
    pub add_bos: bool,
}

/// Every way to split text that this build knows.
pub const SPLITTERS: &[Splitter] = &[
    Splitter {
        names: &["gpt-2", "phi-2", "mpt", "olmo", "jais", "exaone4", "trillion"],
        first: |text| gpt2(text, false),
        ignore_merges: false,
        add_bos: false,
    },
    Splitter {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        first: |text| gpt2(text, true),
        ignore_merges: false,
        add_bos: false,
    },
    Splitter {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        first: |text| llama3(text, 3),
        ignore_merges: true,
        add_bos: true,
    },
    Splitter { names: &["dbrx", "smaug-bpe"], first: |text| llama3(text, 3), ignore_merges: false, add_bos: false },
    Splitter {
        names: &["qwen2", "deepseek-r1-qwen", "stablelm2", "megrez", "hunyuan", "solar-open"],
        first: |text| llama3(text, 1),
        ignore_merges: false,
        add_bos: false,
    },
];

/// The row of a name.
pub fn splitter(name: &str) -> Option<&'static Splitter> {
    SPLITTERS.iter().find(|row| row.names.contains(&name))
}

/// The classes of the expressions: `\p{L}`, `\p{N}`, `\s`, the rest, and the end of the text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Number,
    Space,
    Other,
    End,
}

fn class(c: char) -> Class {
    if c.is_ascii_alphabetic() {
        return Class::Letter;
    }
    if c.is_ascii_digit() {
        return Class::Number;
    }
    if c.is_whitespace() {
        return Class::Space;
    }
    if c.is_ascii() {
        return Class::Other;
    }
    match get_general_category(c) {
        G::UppercaseLetter | G::LowercaseLetter | G::TitlecaseLetter | G::ModifierLetter | G::OtherLetter => {
            Class::Letter
        }
        G::DecimalNumber | G::LetterNumber | G::OtherNumber => Class::Number,
        _ => Class::Other,
    }
}

/// Bytes at the start of `text` whose characters `is` accepts.
fn run(text: &str, is: impl Fn(char) -> bool) -> usize {
    text.find(|c| !is(c)).unwrap_or(text.len())
}

/// Bytes of `'s`, `'t`, `'m`, `'d`, `'re`, `'ve` or `'ll`, of which `text` starts with one; zero if not.
fn contraction(text: &str, any_case: bool) -> usize {
    let Some(rest) = text.strip_prefix('\'') else { return 0 };
    let rest = rest.as_bytes();
    let byte = |i: usize| rest.get(i).map(|b| if any_case { b.to_ascii_lowercase() } else { *b });
    match (byte(0), byte(1)) {
        (Some(b's' | b't' | b'm' | b'd'), _) => 2,
        (Some(b'r' | b'v'), Some(b'e')) | (Some(b'l'), Some(b'l')) => 3,
        _ => 0,
    }
}

/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`. With `numbers_alone`, each `\p{N}`
/// is a word, and the text between two of them is split separately.
fn gpt2(text: &str, numbers_alone: bool) -> usize {
    let class = |c: char| match class(c) {
        Class::Number if numbers_alone => Class::End,
        other => other,
    };
    let short = contraction(text, false);
    if short > 0 {
        return short;
    }
    let space = text.starts_with(' ') as usize;
    let kind = text[space..].chars().next().map_or(Class::End, class);
    match kind {
        Class::Letter | Class::Number | Class::Other => space + run(&text[space..], |c| class(c) == kind),
        Class::End if space == 0 => run_of(text, 1),
        _ => spaces(text, run(text, char::is_whitespace), |c| class(c) == Class::End),
    }
}

/// `\s+(?!\S)|\s+` for a text that begins with `len` bytes of white space.
fn spaces(text: &str, len: usize, is_end: impl Fn(char) -> bool) -> usize {
    let Some((last, _)) = text[..len].char_indices().next_back() else { return 0 };
    let ends = text[len..].chars().next().is_none_or(is_end);
    // The last one belongs to the word that follows, unless it is the only one.
    if ends || last == 0 { len } else { last }
}

/// `(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,NUMBERS}|
///  ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`.
fn llama3(text: &str, numbers: usize) -> usize {
    let short = contraction(text, true);
    if short > 0 {
        return short;
    }
    let mut chars = text.chars();
    let first = chars.next().unwrap_or('\n');
    let kind = class(first);
    let next = chars.next().map_or(Class::End, class);
    let skip = first.len_utf8();
    if kind == Class::Letter || (kind != Class::Number && first != '\r' && first != '\n' && next == Class::Letter) {
        return skip + run(&text[skip..], |c| class(c) == Class::Letter);
    }
    if kind == Class::Number {
        return run_of(text, numbers);
    }
    if kind == Class::Other || (first == ' ' && next == Class::Other) {
        let end = skip + run(&text[skip..], |c| class(c) == Class::Other);
        return end + run(&text[end..], |c| c == '\r' || c == '\n');
    }
    let len = run(text, char::is_whitespace);
    match text[..len].rfind(['\r', '\n']) {
        Some(newline) => newline + 1,
        None => spaces(text, len, |_| false),
    }
}

/// Bytes of the first characters of `text`, at most `most`, of the class of the very first.
fn run_of(text: &str, most: usize) -> usize {
    let Some(kind) = text.chars().next().map(class) else { return 0 };
    text.chars().take(most).take_while(|&c| class(c) == kind).map(char::len_utf8).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fancy_regex::Regex;

    const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
    const LLAMA3: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const QWEN2: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

    fn words(text: &str, first: fn(&str) -> usize) -> Vec<&str> {
        let (mut rest, mut out) = (text, Vec::new());
        while !rest.is_empty() {
            let (word, tail) = rest.split_at(first(rest));
            assert!(!word.is_empty());
            out.push(word);
            rest = tail;
        }
        out
    }

    /// The parts that match, and those between.
    fn cut<'a>(text: &'a str, pattern: &Regex) -> Vec<&'a str> {
        let (mut out, mut start) = (Vec::new(), 0);
        for found in pattern.find_iter(text) {
            let found = found.unwrap();
            out.extend([&text[start..found.start()], found.as_str()]);
            start = found.end();
        }
        out.push(&text[start..]);
        out.retain(|word| !word.is_empty());
        out
    }

    /// Text of the characters that the rules distinguish, and of any others.
    fn random_text(state: &mut u64) -> String {
        const TELLING: &str = "aZsStTrReEvVmMlLdD''''  \t\n\r\u{b}\u{85}\u{a0}\u{2003}\u{2028}\u{3000}09٣½Ⅷ一é\u{301}中ſK!.,-_🦀\u{200d}\u{feff}\u{1c}";
        let telling: Vec<char> = TELLING.chars().collect();
        let mut next = |n: usize| {
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            (*state >> 11) as usize % n
        };
        let len = next(24);
        (0..len)
            .map(|_| match next(5) {
                0 => char::from_u32(next(0x11_0000) as u32).unwrap_or('x'),
                1 => char::from_u32(next(0x3000) as u32).unwrap_or('x'),
                _ => telling[next(telling.len())],
            })
            .collect()
    }

    #[test]
    fn words_are_those_of_the_published_expressions() {
        let (gpt2, llama3, qwen2) =
            (Regex::new(GPT2).unwrap(), Regex::new(LLAMA3).unwrap(), Regex::new(QWEN2).unwrap());
        let number = Regex::new(r"\p{N}").unwrap();
        let first = |name| splitter(name).unwrap().first;
        let mut state = 7;
        for _ in 0..20_000 {
            let text = random_text(&mut state);
            assert_eq!(words(&text, first("gpt-2")), cut(&text, &gpt2), "{text:?}");
            assert_eq!(words(&text, first("llama-bpe")), cut(&text, &llama3), "{text:?}");
            assert_eq!(words(&text, first("qwen2")), cut(&text, &qwen2), "{text:?}");
            let twice: Vec<&str> = cut(&text, &number).into_iter().flat_map(|part| cut(part, &gpt2)).collect();
            assert_eq!(words(&text, first("smollm")), twice, "{text:?}");
        }
    }

    #[test]
    fn every_character_is_of_the_class_the_expressions_say() {
        let letter = Regex::new(r"\p{L}").unwrap();
        let number = Regex::new(r"\p{N}").unwrap();
        let space = Regex::new(r"\s").unwrap();
        for c in '\0'..=char::MAX {
            let is = |pattern: &Regex| pattern.is_match(c.encode_utf8(&mut [0; 4])).unwrap();
            let want = match (is(&letter), is(&number), is(&space)) {
                (true, _, _) => Class::Letter,
                (_, true, _) => Class::Number,
                (_, _, true) => Class::Space,
                _ => Class::Other,
            };
            assert!(class(c) == want, "{c:?}");
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<&str> = SPLITTERS.iter().flat_map(|row| row.names).copied().collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
        assert!(splitter("default").is_none());
    }

    #[test]
    fn long_runs_take_linear_time() {
        for unit in ["a", " ", "\n ", " \n", "'", "1", "!", "\u{3000}", "\r"] {
            let text = unit.repeat(1 << 18);
            for row in SPLITTERS {
                assert_eq!(words(&text, row.first).concat().len(), text.len());
            }
        }
    }
}
