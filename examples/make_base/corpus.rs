//! The training corpus: documents drawn from the grammar, the same ones for the same seed on every machine.

use crate::grammar::{Grammar, Rng, Scene, mix, tidy};

/// The rules, one text a subject.
const TEXTS: &[&str] = &[
    include_str!("grammar/words.txt"),
    include_str!("grammar/world.txt"),
    include_str!("grammar/facts.txt"),
    include_str!("grammar/stories.txt"),
    include_str!("grammar/notes.txt"),
    include_str!("grammar/talk.txt"),
    include_str!("grammar/letters.txt"),
    include_str!("grammar/howto.txt"),
    include_str!("grammar/chat.txt"),
    include_str!("grammar/documents.txt"),
];

/// What the built-ins set: numbers as digits and as words, hours, a duration.
const VARIABLES: &[&str] = &["x", "y", "z", "xw", "yw", "zw", "t1", "t2", "dw"];

/// A kind of document: its rule, its share in percent, and whether word combinations of it are held out.
struct Kind {
    rule: &'static str,
    share: usize,
    open: bool,
}

/// Facts must all be seen to be learned, so only free text holds combinations out.
const KINDS: &[Kind] = &[
    Kind { rule: "chat_doc", share: 32, open: false },
    Kind { rule: "story_doc", share: 16, open: true },
    Kind { rule: "note_doc", share: 14, open: true },
    Kind { rule: "talk_doc", share: 11, open: true },
    Kind { rule: "letter_doc", share: 8, open: true },
    Kind { rule: "answer_doc", share: 10, open: false },
    Kind { rule: "world_doc", share: 5, open: false },
    Kind { rule: "how_doc", share: 4, open: false },
];

/// One combination in so many never occurs in training.
const HELD_OUT_ONE_IN: u64 = 16;
/// Rules with fewer entries do not make a combination: their words are too few to spare any.
const WIDE: usize = 12;

/// Which side of the split a document is for.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Split {
    Train,
    HeldOut,
}

/// A document: plain text, or a talk with the assistant whose turns are wrapped in control tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The rule it came from.
    pub kind: &'static str,
    /// The text with `<|im_start|>` and `<|im_end|>` in it, without the end mark.
    pub text: String,
    /// Whether its word combination never occurs in training.
    pub unseen: bool,
}

/// Draws documents without end.
pub struct Corpus {
    grammar: Grammar,
    rng: Rng,
    split: Split,
    count: usize,
}

impl Corpus {
    pub fn new(seed: u64, split: Split) -> Self {
        let salt = if split == Split::Train { 0x7261 } else { 0x6865_6c64 };
        Corpus { grammar: Grammar::parse(TEXTS, VARIABLES), rng: Rng(mix(seed ^ mix(salt))), split, count: 0 }
    }

    /// The next document. Training never yields an unseen combination; every second held-out document whose kind
    /// has such combinations is one.
    pub fn document(&mut self) -> Document {
        self.count += 1;
        let mut at = self.rng.below(100);
        let kind =
            KINDS.iter().find(|k| at.checked_sub(k.share).map(|rest| at = rest).is_none()).expect("shares sum to 100");
        loop {
            let mut scene = Scene::default();
            let text = self.grammar.expand(kind.rule, &mut scene, &mut self.rng, builtin);
            let unseen = kind.open && scene.combination(&self.grammar, WIDE).is_some_and(|c| c % HELD_OUT_ONE_IN == 0);
            let wanted = self.split == Split::HeldOut && kind.open && self.count.is_multiple_of(2);
            if unseen == wanted || (unseen && self.split == Split::HeldOut) {
                let text = tidy(&text);
                let text = if kind.rule == "chat_doc" { chat(&text) } else { text };
                return Document { kind: kind.rule, text, unseen };
            }
        }
    }
}

impl Iterator for Corpus {
    type Item = Document;

    fn next(&mut self) -> Option<Document> {
        Some(self.document())
    }
}

/// `U: …` and `A: …` lines to turns; a line without a mark belongs to the turn before.
fn chat(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let turn = [("U: ", "user"), ("A: ", "assistant"), ("S: ", "system")];
        match turn.iter().find_map(|(mark, role)| line.strip_prefix(mark).map(|rest| (role, rest))) {
            Some((role, rest)) => {
                if !out.is_empty() {
                    out.push_str("<|im_end|>\n");
                }
                out.push_str(&format!("<|im_start|>{role}\n{rest}"));
            }
            None => {
                out.push('\n');
                out.push_str(line);
            }
        }
    }
    out.push_str("<|im_end|>\n");
    out
}

/// Sums, hours: draws operands and sets them, as digits and as words.
fn builtin(name: &str, rng: &mut Rng, scene: &mut Scene) {
    let (x, y, z) = match name {
        "add" => {
            let (x, y) = (rng.range(1, 12), rng.range(1, 12));
            (x, y, x + y)
        }
        "sub" => {
            let x = rng.range(2, 20);
            let y = rng.range(1, x - 1);
            (x, y, x - y)
        }
        "mul" => {
            let (x, y) = (rng.range(2, 10), rng.range(2, 10));
            (x, y, x * y)
        }
        "half" => {
            let z = rng.range(1, 15);
            (2 * z, 2, z)
        }
        "cmp" => {
            let x = rng.range(1, 99);
            let y = (x + rng.range(1, 98) - 1) % 99 + 1;
            (x, y, x.max(y))
        }
        "next" => {
            let x = rng.range(1, 98);
            (x, 1, x + 1)
        }
        "coin" => {
            let (x, z) = (rng.range(2, 12), rng.range(2, 8));
            (x, x + z, z)
        }
        "later" => {
            let (from, hours) = (rng.range(1, 12), rng.range(1, 6));
            scene.set("t1", word(from));
            scene.set("t2", word((from + hours - 1) % 12 + 1));
            scene.set("dw", if hours == 1 { "one hour".into() } else { format!("{} hours", word(hours)) });
            return;
        }
        other => panic!("no built-in {other}"),
    };
    for (key, value) in [("x", x), ("y", y), ("z", z)] {
        scene.set(key, value);
        scene.set(&format!("{key}w"), word(value));
    }
}

/// A number below a thousand in words, as far as sums need it.
fn word(n: usize) -> String {
    const ONES: [&str; 20] = [
        "no",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
    ];
    const TENS: [&str; 8] = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
    match n {
        0..20 => ONES[n].into(),
        100 => "a hundred".into(),
        _ if n.is_multiple_of(10) => TENS[n / 10 - 2].into(),
        _ => format!("{}-{}", TENS[n / 10 - 2], ONES[n % 10]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grammar::article;

    #[test]
    fn the_same_seed_gives_the_same_text() {
        let take = |seed, split| Corpus::new(seed, split).take(500).collect::<Vec<_>>();
        assert_eq!(take(7, Split::Train), take(7, Split::Train));
        assert_ne!(take(7, Split::Train), take(8, Split::Train));
        assert_ne!(take(7, Split::Train), take(7, Split::HeldOut));
    }

    #[test]
    fn documents_are_clean() {
        for d in Corpus::new(1, Split::Train).take(20_000) {
            let t = &d.text;
            let bad = [
                "  ", "{", "}", "[", "]", "/", "..", " .", " ,", "?.", "!.", "?,", "!,", "^", "\n\n", ".,", ",.", " \n",
            ];
            for b in bad {
                assert!(!t.contains(b), "{b:?} in {t}");
            }
            assert!(t.is_ascii() && !t.is_empty() && t.len() < 2000, "{t}");
            assert_eq!(t.matches('"').count() % 2, 0, "{t}");
            let words: Vec<&str> = t.split_whitespace().collect();
            for pair in words.windows(2).filter(|p| ["a", "an", "A", "An"].contains(&p[0])) {
                assert_eq!(
                    pair[0].to_lowercase(),
                    article(pair[1].trim_start_matches('"')),
                    "{} in {t}",
                    pair.join(" ")
                );
            }
            for pair in words.windows(2).filter(|p| p[0].ends_with(|c: char| c.is_alphabetic())) {
                assert!(
                    !pair[0].eq_ignore_ascii_case(pair[1]) || ["that", "had"].contains(&pair[0]),
                    "{} in {t}",
                    pair.join(" ")
                );
            }
        }
    }

    #[test]
    fn held_out_combinations_never_train() {
        assert!(Corpus::new(3, Split::Train).take(5_000).all(|d| !d.unseen));
        let unseen = Corpus::new(3, Split::HeldOut).take(2_000).filter(|d| d.unseen).count();
        assert!(unseen > 300, "{unseen} of 2000");
    }

    #[test]
    fn sums_are_right() {
        let mut seen = 0;
        for d in Corpus::new(5, Split::Train).take(20_000) {
            for line in d.text.lines() {
                let w: Vec<&str> = line.trim_end_matches("<|im_end|>").trim_end_matches('.').split(' ').collect();
                if let ["A:", x, op @ ("plus" | "minus" | "times"), y, "is", z]
                | [x, op @ ("plus" | "minus" | "times"), y, "is", z] = w[..]
                    && let (Ok(x), Ok(y), Ok(z)) = (x.parse::<i32>(), y.parse::<i32>(), z.parse::<i32>())
                {
                    let want = match op {
                        "plus" => x + y,
                        "minus" => x - y,
                        _ => x * y,
                    };
                    assert_eq!(z, want, "{line}");
                    seen += 1;
                }
            }
        }
        assert!(seen > 50, "{seen}");
    }
}
