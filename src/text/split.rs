//! How text is cut into words before byte-level merging.
//!
//! A rule is a list of cuts; each cuts every piece that the one before has left. Most are expressions, which cut out
//! what they match, from left to right; what lies between is a piece too. The expressions are those of llama.cpp, which
//! differ in places from those of the models' authors (case of letters and contractions), and run in linear time.

use super::pattern::{Pattern, is_class};
use std::prelude::v1::*;

/// A way to split text, with its names in `tokenizer.ggml.pre`.
pub struct Splitter {
    /// All names.
    pub names: &'static [&'static str],
    /// The rule that cuts.
    pub rule: &'static Rule,
    /// Whether the text begins with a token for it, if the file does not say.
    pub add_bos: bool,
    /// Whether texts of a pair are separated by a token for it, if the file does not say.
    pub add_sep: bool,
    /// Whether spaces before marks are removed from decoded text when that is asked for.
    pub clean_spaces: bool,
}

/// How words are found.
pub struct Rule {
    /// A name of it; a part of [`super::Tokenizer::fingerprint`].
    pub name: &'static str,
    /// One after the other.
    pub cuts: &'static [Cut],
    /// Which words that are tokens become that token, regardless of the merges.
    pub whole: Whole,
    /// Whether tokens are spelled as they are, with U+2581 for a space, and not in characters for bytes.
    pub raw: bool,
}

/// A step of a rule.
pub enum Cut {
    /// Cuts out what the expression matches.
    Pattern(&'static str),
    /// What an expression would not do in linear time.
    Function(CutFunction),
}

/// Hands the pieces of a text to the consumer.
pub type CutFunction = fn(&str, &mut dyn FnMut(&str));

/// Words that become tokens without merges.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Whole {
    /// None.
    Never,
    /// Those of nothing but line feeds.
    Lines,
    /// All.
    Always,
}

macro_rules! contraction {
    () => {
        "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
    };
}

/// The rest of most expressions: runs of white space.
macro_rules! spaces {
    () => {
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    };
}

/// Chinese characters.
macro_rules! han {
    () => {
        r"\u{3400}-\u{4dbf}\u{4e00}-\u{9fff}\u{f900}-\u{faff}\u{20000}-\u{2a6df}\u{2a700}-\u{2ebef}\u{2f800}-\u{2fa1f}"
    };
}

const GPT2: Cut = Cut::Pattern(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+");
const LLAMA3: Cut =
    Cut::Pattern(concat!(contraction!(), r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*", spaces!()));
const QWEN2: Cut =
    Cut::Pattern(concat!(contraction!(), r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*", spaces!()));
const NUMBER: Cut = Cut::Pattern(r"\p{N}");
const NUMBERS: Cut = Cut::Pattern(r"\p{N}+");
const THREE: Cut = Cut::Pattern(r"\p{N}{1,3}");
const LINE_END: Cut = Cut::Pattern(r"[\r\n]");
const LINES: Cut = Cut::Pattern(r"[^\n]+|[\n]+");
const HAN: Cut = Cut::Pattern(r"[一-龥ࠀ-一가-\u{d7ff}]+");
const KANA: Cut = Cut::Pattern(r"[一-龥\u{3040}-ゟ゠-ヿ]+");
const BLOOM: Cut = Cut::Pattern(r" ?[^(\s|.,!?…。，、।۔،)]+");
const DEEPSEEK: Cut = Cut::Pattern(concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"##,
    spaces!()
));

const fn rule(name: &'static str, cuts: &'static [Cut], whole: Whole) -> Rule {
    Rule { name, cuts, whole, raw: false }
}

const fn raw(name: &'static str, whole: Whole) -> Rule {
    Rule { name, cuts: &[LINES], whole, raw: true }
}

const fn row(names: &'static [&'static str], rule: &'static Rule) -> Splitter {
    Splitter { names, rule, add_bos: false, add_sep: false, clean_spaces: false }
}

const RULE_GPT2: Rule = rule("gpt-2", &[GPT2], Whole::Never);
const RULE_SMOLLM: Rule = rule("smollm", &[NUMBER, GPT2], Whole::Never);
const RULE_LLAMA3: Rule = rule("llama-bpe", &[LLAMA3], Whole::Always);
const RULE_DBRX: Rule = rule("dbrx", &[LLAMA3], Whole::Never);
const RULE_QWEN2: Rule = rule("qwen2", &[QWEN2], Whole::Never);
const RULE_BLOOM: Rule = rule("bloom", &[BLOOM], Whole::Never);

/// Every way to split text that this build knows.
pub const SPLITTERS: &[Splitter] = &[
    Splitter {
        clean_spaces: true,
        ..row(
            &[
                "gpt-2",
                "phi-2",
                "mpt",
                "olmo",
                "jais",
                "exaone4",
                "jina-es",
                "jina-de",
                "gigachat",
                "jina-v2-es",
                "jina-v2-de",
                "a.x-4.0",
                "mellum",
                "modern-bert",
            ],
            &RULE_GPT2,
        )
    },
    row(&["trillion", "granite-docling"], &RULE_GPT2),
    Splitter { clean_spaces: true, add_sep: true, ..row(&["roberta-bpe", "jina-v1-en", "jina-v2-code"], &RULE_GPT2) },
    row(&["smollm", "command-r"], &RULE_SMOLLM),
    Splitter {
        clean_spaces: true,
        ..row(&["starcoder", "refact", "codeshell", "exaone", "minerva-7b", "mellum2"], &RULE_SMOLLM)
    },
    Splitter {
        add_bos: true,
        clean_spaces: true,
        ..row(
            &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"],
            &RULE_LLAMA3,
        )
    },
    Splitter { clean_spaces: true, ..row(&["glm4", "glm5"], &RULE_LLAMA3) },
    Splitter { clean_spaces: true, ..row(&["dbrx", "smaug-bpe", "chatglm-bpe"], &RULE_DBRX) },
    row(&["qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "hunyuan", "grok-2", "solar-open"], &RULE_QWEN2),
    Splitter { clean_spaces: true, ..row(&["stablelm2", "megrez"], &RULE_QWEN2) },
    row(
        &["qwen35"],
        &rule(
            "qwen35",
            &[Cut::Pattern(concat!(
                contraction!(),
                r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
                spaces!()
            ))],
            Whole::Never,
        ),
    ),
    row(
        &["bailingmoe", "bailingmoe2", "llada-moe"],
        &rule(
            "bailingmoe",
            &[Cut::Pattern(concat!(
                r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
                r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
            ))],
            Whole::Never,
        ),
    ),
    row(
        &["seed-coder"],
        &rule(
            "seed-coder",
            &[Cut::Pattern(concat!(
                contraction!(),
                r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+",
                spaces!()
            ))],
            Whole::Never,
        ),
    ),
    // Without contractions: Turkish suffixes stay at their words.
    row(
        &["ufakzeka"],
        &rule(
            "ufakzeka",
            &[Cut::Pattern(concat!(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*", spaces!()))],
            Whole::Never,
        ),
    ),
    row(&["laguna"], &rule("laguna", &[LINES, QWEN2], Whole::Never)),
    Splitter {
        clean_spaces: true,
        ..row(
            &["exaone-moe"],
            &rule(
                "exaone-moe",
                &[Cut::Pattern(concat!(
                    contraction!(),
                    r"|[^\r\n\p{L}\p{N}]?\p{L}\p{M}*(?: ?\p{L}\p{M}*)*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?",
                    r"|\s*[\r\n]|\s+(?!\S)|\s+"
                ))],
                Whole::Never,
            ),
        )
    },
    Splitter {
        clean_spaces: true,
        ..row(
            &["minicpm5"],
            &rule(
                "minicpm5",
                &[
                    THREE,
                    Cut::Pattern(concat!(
                        contraction!(),
                        r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*",
                        spaces!()
                    )),
                ],
                Whole::Always,
            ),
        )
    },
    Splitter {
        clean_spaces: true,
        ..row(&["jais-2"], &rule("jais-2", &[LLAMA3, Cut::Function(powers_of_spaces)], Whole::Never))
    },
    row(
        &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        &rule(
            "gpt-4o",
            &[Cut::Pattern(concat!(
                r"[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]*[\p{L}&&[^A-Z]]+",
                contraction!(),
                r"?|[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]+[\p{L}&&[^A-Z]]*",
                contraction!(),
                r"?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*",
                spaces!()
            ))],
            Whole::Never,
        ),
    ),
    row(
        &["granite-embed-multi-97m"],
        &rule(
            "granite-embed-multi-97m",
            &[Cut::Pattern(concat!(
                r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}&&[^a-z]]*[\p{L}\p{M}&&[^A-Z]]+",
                contraction!(),
                r"?|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}&&[^a-z]]+[\p{L}\p{M}&&[^A-Z]]*",
                contraction!(),
                r"?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*",
                spaces!()
            ))],
            Whole::Always,
        ),
    ),
    Splitter {
        add_bos: true,
        ..row(
            &["tekken"],
            &rule(
                "tekken",
                &[Cut::Pattern(concat!(
                    r"[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]*[\p{L}&&[^A-Z]]+",
                    r"|[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]+[\p{L}&&[^A-Z]]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*",
                    spaces!()
                ))],
                Whole::Always,
            ),
        )
    },
    row(
        &["tiny_aya", "cohere2moe"],
        &rule(
            "tiny_aya",
            &[
                Cut::Function(thirds_after_text),
                Cut::Pattern(concat!(
                    r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
                    contraction!(),
                    r"?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*",
                    spaces!()
                )),
            ],
            Whole::Never,
        ),
    ),
    row(
        &["youtu"],
        &rule(
            "youtu",
            &[
                Cut::Pattern(r"[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥\u{3040}-ゟ゠-ヿ]+"),
                Cut::Pattern(concat!(
                    r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
                    contraction!(),
                    r"?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*",
                    spaces!()
                )),
            ],
            Whole::Always,
        ),
    ),
    row(
        &["kimi-k2"],
        &rule(
            "kimi-k2",
            &[Cut::Pattern(concat!(
                "[",
                han!(),
                "]+",
                r"|[^\r\n\p{L}\p{N}]?[\p{L}&&[^",
                han!(),
                "]]+",
                contraction!(),
                r"?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*",
                spaces!()
            ))],
            Whole::Never,
        ),
    ),
    row(
        &["afmoe"],
        &rule(
            "afmoe",
            &[
                Cut::Function(thirds_after_text),
                Cut::Pattern(
                    r"[一-鿿㐀-䶿豈-\u{faff}\u{3040}-ゟ゠-ヿ･-ﾟ⼀-\u{2fdf}เ-\u{e7f}\u{e80}-\u{eff}ក-\u{17ff}က-႟ꩠ-ꩿꧠ-\u{a9ff}가-\u{d7af}ᄀ-ᇿ]+",
                ),
                DEEPSEEK,
            ],
            Whole::Never,
        ),
    ),
    row(&["superbpe"], &rule("superbpe", &[NUMBERS, Cut::Function(thirds_of_digits)], Whole::Never)),
    row(
        &["deepseek-llm"],
        &rule(
            "deepseek-llm",
            &[
                LINE_END,
                Cut::Pattern(concat!(
                    r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-",
                    r"ὗὙὛὝὟ-\u{1f7d}ᾀ-ᾴᾶ-ᾼ\u{1fbe}ῂ-ῄῆ-ῌῐ-\u{1fd3}ῖ-\u{1fdb}ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u{2126}ℨ\u{212a}-ℭℯ-ℴℹ",
                    r"ℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+"
                )),
                Cut::Pattern(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
                Cut::Function(spaces_at_the_end),
                HAN,
                NUMBERS,
            ],
            Whole::Never,
        ),
    ),
    row(
        &["deepseek-coder"],
        &rule(
            "deepseek-coder",
            &[LINE_END, Cut::Pattern(r"\s?\p{L}+"), Cut::Pattern(r"\s?\p{P}+"), HAN, NUMBER],
            Whole::Never,
        ),
    ),
    row(
        &["deepseek-v3", "hunyuan-dense", "hy_v4", "joyai-llm"],
        &rule("deepseek-v3", &[THREE, KANA, DEEPSEEK], Whole::Never),
    ),
    row(
        &["spark2_5"],
        &rule(
            "spark2_5",
            &[
                THREE,
                KANA,
                Cut::Pattern(concat!(
                    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
                    r"| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+"
                )),
                NUMBER,
            ],
            Whole::Never,
        ),
    ),
    row(&["poro-chat"], &RULE_BLOOM),
    Splitter { clean_spaces: true, ..row(&["bloom", "gpt3-finnish"], &RULE_BLOOM) },
    row(&["viking"], &rule("viking", &[BLOOM, NUMBER], Whole::Never)),
    Splitter {
        clean_spaces: true,
        ..row(
            &["falcon"],
            &rule("falcon", &[Cut::Pattern(r"[\p{P}$+<=>^~|`]+"), GPT2, Cut::Pattern("[0-9][0-9][0-9]")], Whole::Never),
        )
    },
    Splitter {
        clean_spaces: true,
        ..row(
            &["default"],
            &rule(
                "default",
                &[Cut::Pattern(r"[\p{P}$+<=>^~|]+"), GPT2, NUMBERS, Cut::Pattern("[0-9][0-9][0-9]")],
                Whole::Never,
            ),
        )
    },
    Splitter {
        add_bos: true,
        ..row(
            &["chameleon"],
            &rule(
                "chameleon",
                &[
                    Cut::Pattern("<sentinel:[0-9]+>"),
                    Cut::Pattern("IMGIMG[A-I]{1,4}Z"),
                    Cut::Pattern(r"[\t\n]|    |  "),
                    NUMBER,
                    Cut::Pattern(r"[\p{P}!-/:-@\[-`{-~]"),
                    GPT2,
                ],
                Whole::Never,
            ),
        )
    },
    Splitter {
        add_bos: true,
        clean_spaces: true,
        ..row(&["gemma4", "granite-embed-multi-311m"], &raw("gemma4", Whole::Lines))
    },
    row(&["sarvam-moe"], &raw("sarvam-moe", Whole::Never)),
];

/// The row of a name.
pub fn splitter(name: &str) -> Option<&'static Splitter> {
    SPLITTERS.iter().find(|row| row.names.contains(&name))
}

/// A rule that is ready to be used.
pub(super) struct Cutter {
    steps: Vec<Step>,
}

enum Step {
    Pattern(Pattern),
    Function(CutFunction),
}

impl Cutter {
    pub fn new(rule: &Rule) -> Self {
        let step = |cut: &Cut| match cut {
            Cut::Pattern(text) => Step::Pattern(Pattern::new(text)),
            Cut::Function(function) => Step::Function(*function),
        };
        Cutter { steps: rule.cuts.iter().map(step).collect() }
    }

    /// Hands the words of `text` to `word`, in order; none is empty.
    pub fn words(&self, text: &str, word: &mut dyn FnMut(&str)) {
        cut(&self.steps, text, word);
    }
}

fn cut(steps: &[Step], text: &str, word: &mut dyn FnMut(&str)) {
    if text.is_empty() {
        return;
    }
    let Some((step, rest)) = steps.split_first() else { return word(text) };
    match step {
        Step::Function(function) => function(text, &mut |piece| cut(rest, piece, word)),
        Step::Pattern(pattern) => {
            let mut start = 0;
            while let Some((at, end)) = pattern.find(text, start) {
                cut(rest, &text[start..at], word);
                cut(rest, &text[at..end], word);
                start = end;
            }
            cut(rest, &text[start..], word);
        }
    }
}

/// `\s+$`, in linear time.
fn spaces_at_the_end(text: &str, piece: &mut dyn FnMut(&str)) {
    let (text, spaces) = text.split_at(text.trim_end().len());
    piece(text);
    piece(spaces);
}

/// `\s{512}(?!\S)|\s{256}(?!\S)|…|\s{1,2}(?!\S)|\s` of white space without a line end, in linear time. That is all that
/// differs between the rules of `jais-2` and `llama3`.
fn powers_of_spaces(text: &str, piece: &mut dyn FnMut(&str)) {
    if !text.chars().all(|c| c.is_whitespace() && c != '\r' && c != '\n') {
        return piece(text);
    }
    let (mut rest, mut count) = (text, text.chars().count());
    let mut power = 512;
    while count > 0 {
        while power > count {
            power /= 2;
        }
        let len = rest.chars().take(power).map(char::len_utf8).sum();
        let (spaces, after) = rest.split_at(len);
        piece(spaces);
        (rest, count) = (after, count - power);
    }
}

/// Cuts a run of numbers into threes from its end; what precedes the run belongs to its first piece.
fn thirds_after_text(text: &str, piece: &mut dyn FnMut(&str)) {
    thirds(text, |c| is_class(c, 'N'), |left, first| left.is_multiple_of(3) && !first, piece);
}

/// `(?=([0-9]{3})+(?![0-9]))`: cuts a run of digits into threes from its end.
fn thirds_of_digits(text: &str, piece: &mut dyn FnMut(&str)) {
    thirds(text, |c| c.is_ascii_digit(), |left, _| left > 0 && left.is_multiple_of(3), piece);
}

/// Cuts the runs of what `is` accepts, at their ends and within, where `here` accepts how many characters of the run
/// are left and whether this is its first.
fn thirds(text: &str, is: impl Fn(char) -> bool, here: impl Fn(usize, bool) -> bool, piece: &mut dyn FnMut(&str)) {
    let (mut start, mut at) = (0, 0);
    while let Some(run) = text[at..].find(&is) {
        let begin = at + run;
        let end = text[begin..].find(|c| !is(c)).map_or(text.len(), |len| begin + len);
        let count = text[begin..end].chars().count();
        let places = text[begin..end].char_indices().map(|(i, _)| begin + i).chain([end]);
        for (i, place) in places.enumerate() {
            if here(count - i, i == 0) {
                piece(&text[start..place]);
                start = place;
            }
        }
        at = end;
    }
    piece(&text[start..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use fancy_regex::{Regex, RegexBuilder};

    fn words(rule: &Rule, text: &str) -> Vec<String> {
        let mut out = Vec::new();
        Cutter::new(rule).words(text, &mut |word| {
            assert!(!word.is_empty());
            out.push(word.to_string());
        });
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

    fn rules() -> impl Iterator<Item = &'static Rule> {
        let mut rules: Vec<&Rule> = SPLITTERS.iter().map(|row| row.rule).collect();
        rules.sort_by_key(|rule| rule.name);
        rules.dedup_by_key(|rule| rule.name);
        rules.into_iter()
    }

    /// What a cut does, as an expression.
    fn expression(rule: &str, cut: &Cut) -> String {
        let Cut::Function(_) = cut else {
            let Cut::Pattern(text) = cut else { unreachable!() };
            return text.to_string();
        };
        match rule {
            "deepseek-llm" => r"\s+$",
            "afmoe" | "tiny_aya" => r"\P{N}*\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))",
            "superbpe" => r"(?=([0-9]{3})+(?![0-9]))",
            "jais-2" => return JAIS.into(),
            other => panic!("{other}"),
        }
        .into()
    }

    /// The whole rule, whose second cut here is a function of the first one's pieces.
    const JAIS: &str = concat!(
        contraction!(),
        r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)",
        r"|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}"
    );

    #[test]
    fn words_are_those_of_the_published_expressions() {
        let mut state = 7;
        let mut texts: Vec<String> = (0..500).map(|_| random_text(&mut state)).collect();
        texts.extend([1, 5, 15, 600].map(|n| format!("a{}b{}\n{0}", " ".repeat(n), "\u{3000}".repeat(n))));
        for rule in rules() {
            let cuts: Vec<Regex> = rule
                .cuts
                .iter()
                .map(|c| expression(rule.name, c))
                .map(|e| RegexBuilder::new(&e).backtrack_limit(100_000_000).build().unwrap())
                .collect();
            for text in &texts {
                // White space is like a vertical tab.
                let tab = |c: char| if c.is_whitespace() && !c.is_ascii() { '\u{b}' } else { c };
                let text_of_tabs: String = text.chars().map(tab).collect();
                let mut want = vec![text_of_tabs.as_str()];
                // The expression of this rule stands for both of its cuts.
                for pattern in cuts.iter().skip(usize::from(rule.name == "jais-2")) {
                    want = want.into_iter().flat_map(|piece| cut(piece, pattern)).collect();
                }
                let words = words(rule, text);
                assert_eq!(words.concat(), *text);
                let words: Vec<String> = words.iter().map(|word| word.chars().map(tab).collect()).collect();
                assert_eq!(words, want, "{}: {text:?}", rule.name);
            }
        }
    }

    #[test]
    fn every_character_is_of_the_class_the_expressions_say() {
        let classes = ['L', 'N', 'M', 'P', 'S'].map(|c| (c, Regex::new(&format!(r"\p{{{c}}}")).unwrap()));
        let space = Regex::new(r"\s").unwrap();
        for c in '\0'..=char::MAX {
            let mut buffer = [0; 4];
            let text = c.encode_utf8(&mut buffer);
            for (letter, pattern) in &classes {
                assert_eq!(is_class(c, *letter), pattern.is_match(text).unwrap(), "{c:?} {letter}");
            }
            assert_eq!(c.is_whitespace(), space.is_match(text).unwrap(), "{c:?}");
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<&str> = SPLITTERS.iter().flat_map(|row| row.names).copied().collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
        assert!(splitter("whitespace").is_none());
    }

    #[test]
    fn long_runs_take_linear_time() {
        let units = [
            "a",
            "A",
            "Aé",
            "éA",
            "aA",
            " ",
            "\n ",
            " \n",
            "'",
            "'S",
            "1",
            "a1",
            "!",
            " !",
            "\u{3000}",
            "\r",
            "\u{301}",
            "a ",
            "<sentinel:1",
            "IMGIMGA",
            "١",
            "中",
            "\0",
        ];
        for unit in units {
            let text = unit.repeat(1 << 16);
            for rule in rules() {
                let mut len = 0;
                Cutter::new(rule).words(&text, &mut |word| len += word.len());
                assert_eq!(len, text.len());
            }
        }
    }
}
