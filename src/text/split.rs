//! How text is cut into words before byte-level merging: one function a row, linear in the text.
//!
//! The published rules are regular expressions. Each function here gives the first match of one of them at the start
//! of the text; the tests run the expressions themselves beside it. Where llama.cpp writes an expression differently
//! from the model's authors (case of contractions), llama.cpp's form counts.

use std::prelude::v1::*;
use unicode_general_category::{GeneralCategory as G, get_general_category};

/// A way to cut text, by the names that `tokenizer.ggml.pre` has for it.
pub struct Splitter {
    /// All names.
    pub names: &'static [&'static str],
    /// Bytes of the first word of a text that is not empty; at least one character.
    pub first: fn(&str) -> usize,
    /// A word that is a token is that token, whatever the merges say.
    pub ignore_merges: bool,
    /// Whether the text begins with a token for it, where the file does not say.
    pub add_bos: bool,
}

/// Every way to cut text that this build knows.
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
/// is a word, and the text between two of them is cut as if it were all there is.
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
    // The last one goes to the word that follows, unless it is the only one.
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
