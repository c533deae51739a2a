//! A small grammar language and its expander. A grammar is a text of rules; a rule is a list of entries, and an
//! entry is a template that may carry attributes, so that one draw can yield several pieces that belong together.
//!
//! ```text
//! # a comment
//! @colour: red | blue | green                 short entries on one line
//! @name g=f: Ada | Bea                        all entries of the line share an attribute; rules add up
//! @chore                                      one entry a line, indented; `~3 ` before it gives it weight 3
//!   wash the windows / ed=washed the windows / need=a bucket
//! ```
//!
//! In a template `[a|b|]` is one of several texts, `\n` a line break, `^` makes the next letter a capital and
//!
//! | slot | gives |
//! | --- | --- |
//! | `{colour}` | an entry of the rule, the same one each time in a document |
//! | `{colour2}` | another entry of the same rule, again remembered |
//! | `{*colour}` | a fresh entry that nothing remembers |
//! | `{chore.ed}` | an attribute of the remembered entry; `he him his was child …` of a person |
//! | `{a colour}` `{+thing}` | with `a` or `an` before it; in the plural |
//! | `{!sum}` | runs a built-in that sets variables such as `{x}`; gives no text |

use std::collections::BTreeMap;

/// SplitMix64: one addition and three mixing steps a number.
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// Uniform in `0..n`, up to a bias of n / 2^64.
    pub fn below(&mut self, n: usize) -> usize {
        ((self.next() as u128 * n as u128) >> 64) as usize
    }

    /// Uniform in `low..=high`.
    pub fn range(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }
}

/// The finaliser of SplitMix64, also used to hash.
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

enum Part {
    Text(String),
    Choice(Vec<Vec<Part>>),
    Slot(Slot),
    Builtin(String),
}

struct Slot {
    article: bool,
    plural: bool,
    fresh: bool,
    /// What a document remembers the draw under, for example `name2`.
    key: String,
    /// The rule drawn from; `None` for a variable that a built-in sets.
    rule: Option<usize>,
    attr: Option<String>,
}

struct Entry {
    weight: usize,
    text: Vec<Part>,
    attrs: Vec<(String, Vec<Part>)>,
}

#[derive(Default)]
struct Rule {
    name: String,
    entries: Vec<Entry>,
    total: usize,
}

/// All rules of a grammar.
#[derive(Default)]
pub struct Grammar {
    rules: Vec<Rule>,
    index: BTreeMap<String, usize>,
}

/// What one document has drawn so far.
#[derive(Default)]
pub struct Scene {
    drawn: Vec<Draw>,
    memo: BTreeMap<String, String>,
}

struct Draw {
    key: String,
    rule: usize,
    entry: usize,
}

impl Scene {
    /// Sets a variable.
    pub fn set(&mut self, key: &str, value: impl ToString) {
        self.memo.insert(key.to_string(), value.to_string());
    }

    /// A hash of the first two draws from rules of at least `wide` entries: the combination a document is about.
    pub fn combination(&self, grammar: &Grammar, wide: usize) -> Option<u64> {
        let mut draws = self.drawn.iter().filter(|d| grammar.rules[d.rule].entries.len() >= wide);
        let (a, b) = (draws.next()?, draws.next()?);
        let of = |d: &Draw| mix(((d.rule as u64) << 32) + d.entry as u64 + 1);
        Some(mix(of(a).wrapping_add(of(b))))
    }
}

/// Runs a built-in by name: sets variables of the scene.
pub type Builtins = fn(&str, &mut Rng, &mut Scene);

impl Grammar {
    /// Reads rules from `texts`.
    ///
    /// # Panics
    /// With the offending line or slot, if a rule does not read or a slot names no rule and none of `variables`.
    pub fn parse(texts: &[&str], variables: &[&str]) -> Self {
        // First pass: names, so that rules may refer forward.
        let mut grammar = Grammar::default();
        for line in texts.iter().flat_map(|t| t.lines()).filter(|l| l.starts_with('@')) {
            let name = line[1..].split([' ', ':']).next().unwrap_or_default().to_string();
            if !grammar.index.contains_key(&name) {
                grammar.index.insert(name.clone(), grammar.rules.len());
                grammar.rules.push(Rule { name, ..Rule::default() });
            }
        }
        for text in texts {
            let mut at: Option<usize> = None;
            let mut shared = String::new();
            for line in text.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#')) {
                let Some(head) = line.strip_prefix('@') else {
                    let at = at.unwrap_or_else(|| panic!("no rule before: {line}"));
                    grammar.entry(at, line.trim(), &shared, variables);
                    continue;
                };
                let (head, inline) = head.split_once(':').map_or((head, None), |(h, l)| (h, Some(l)));
                let (name, attrs) = head.split_once(' ').unwrap_or((head, ""));
                let rule = grammar.index[name.trim()];
                at = Some(rule);
                shared = if attrs.trim().is_empty() { String::new() } else { format!(" / {}", attrs.trim()) };
                for item in inline.into_iter().flat_map(|l| l.split(" | ")).filter(|i| !i.trim().is_empty()) {
                    grammar.entry(rule, item.trim(), &shared, variables);
                }
            }
        }
        for rule in &grammar.rules {
            assert!(!rule.entries.is_empty(), "rule {} has no entry", rule.name);
        }
        grammar
    }

    fn entry(&mut self, rule: usize, line: &str, shared: &str, variables: &[&str]) {
        let (weight, line) = match line.strip_prefix('~') {
            Some(rest) => {
                let (w, rest) = rest.split_once(' ').expect("a text after the weight");
                (w.parse().expect("a whole number after ~"), rest)
            }
            None => (1, line),
        };
        let line = format!("{line}{shared}");
        let mut fields = line.split(" / ");
        let text = self.template(fields.next().unwrap_or_default(), variables);
        let attrs = fields
            .map(|f| {
                let (k, v) = f.split_once('=').unwrap_or_else(|| panic!("attribute without = in: {line}"));
                (k.trim().to_string(), self.template(v, variables))
            })
            .collect();
        self.rules[rule].total += weight;
        self.rules[rule].entries.push(Entry { weight, text, attrs });
    }

    fn template(&self, text: &str, variables: &[&str]) -> Vec<Part> {
        let mut chars = text.chars().peekable();
        let (mut ends, parts) = self.sequence(&mut chars, variables, text, 0);
        assert!(ends.pop().is_none(), "stray bracket in: {text}");
        parts
    }

    /// Reads up to `|`, `]` or the end; the first result holds what ended it.
    fn sequence(
        &self,
        chars: &mut std::iter::Peekable<std::str::Chars>,
        variables: &[&str],
        whole: &str,
        depth: usize,
    ) -> (Vec<char>, Vec<Part>) {
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut ended = Vec::new();
        while let Some(c) = chars.next() {
            match c {
                '\\' => match chars.next() {
                    Some('n') => text.push('\n'),
                    other => panic!("escape {other:?} in: {whole}"),
                },
                '[' => {
                    let mut options = Vec::new();
                    loop {
                        let (end, option) = self.sequence(chars, variables, whole, depth + 1);
                        options.push(option);
                        match end.first() {
                            Some('|') => {}
                            Some(_) => break,
                            None => panic!("unclosed [ in: {whole}"),
                        }
                    }
                    parts.push(Part::Text(std::mem::take(&mut text)));
                    parts.push(Part::Choice(options));
                }
                '|' | ']' if depth > 0 => {
                    ended.push(c);
                    break;
                }
                '|' | ']' => panic!("stray {c} in: {whole}"),
                '{' => {
                    let inner: String = chars.by_ref().take_while(|c| *c != '}').collect();
                    parts.push(Part::Text(std::mem::take(&mut text)));
                    parts.push(self.slot(&inner, variables, whole));
                }
                c => text.push(c),
            }
        }
        parts.push(Part::Text(text));
        parts.retain(|p| !matches!(p, Part::Text(t) if t.is_empty()));
        (ended, parts)
    }

    fn slot(&self, inner: &str, variables: &[&str], whole: &str) -> Part {
        if let Some(name) = inner.strip_prefix('!') {
            return Part::Builtin(name.to_string());
        }
        let mut name = inner;
        let (mut article, mut plural, mut fresh) = (false, false, false);
        loop {
            if let Some(rest) = name.strip_prefix("a ") {
                (article, name) = (true, rest);
            } else if let Some(rest) = name.strip_prefix('+') {
                (plural, name) = (true, rest);
            } else if let Some(rest) = name.strip_prefix('*') {
                (fresh, name) = (true, rest);
            } else {
                break;
            }
        }
        let (key, attr) = name.split_once('.').map_or((name, None), |(k, a)| (k, Some(a.to_string())));
        let base = key.trim_end_matches(|c: char| c.is_ascii_digit());
        let rule = self.index.get(key).or_else(|| self.index.get(base)).copied();
        assert!(rule.is_some() || variables.contains(&key), "slot {{{inner}}} names no rule in: {whole}");
        Part::Slot(Slot { article, plural, fresh, key: key.to_string(), rule, attr })
    }

    /// Expands one entry of `rule` into text, before [`tidy`].
    pub fn expand(&self, rule: &str, scene: &mut Scene, rng: &mut Rng, builtins: Builtins) -> String {
        let rule = self.index[rule];
        let entry = self.draw(rule, &[], rng);
        let mut out = String::new();
        self.parts(&self.rules[rule].entries[entry].text, scene, rng, builtins, &mut out, 0);
        out
    }

    fn draw(&self, rule: usize, taken: &[usize], rng: &mut Rng) -> usize {
        let entries = &self.rules[rule].entries;
        let taken = if taken.len() < entries.len() { taken } else { &[] };
        loop {
            let mut at = rng.below(self.rules[rule].total);
            for (i, e) in entries.iter().enumerate() {
                if at < e.weight {
                    if taken.contains(&i) {
                        break;
                    }
                    return i;
                }
                at -= e.weight;
            }
        }
    }

    fn parts(
        &self,
        parts: &[Part],
        scene: &mut Scene,
        rng: &mut Rng,
        builtins: Builtins,
        out: &mut String,
        depth: usize,
    ) {
        assert!(depth < 40, "a rule that contains itself: {out}");
        for part in parts {
            match part {
                Part::Text(t) => out.push_str(t),
                Part::Choice(options) => {
                    let option = rng.below(options.len());
                    self.parts(&options[option], scene, rng, builtins, out, depth + 1);
                }
                Part::Builtin(name) => builtins(name, rng, scene),
                Part::Slot(slot) => {
                    let value = self.value(slot, scene, rng, builtins, depth);
                    if slot.article {
                        out.push_str(article(&value));
                        out.push(' ');
                    }
                    out.push_str(&value);
                }
            }
        }
    }

    fn value(&self, slot: &Slot, scene: &mut Scene, rng: &mut Rng, builtins: Builtins, depth: usize) -> String {
        let Some(rule) = slot.rule else {
            return scene.memo.get(&slot.key).unwrap_or_else(|| panic!("variable {} is not set", slot.key)).clone();
        };
        let mut text = String::new();
        if slot.fresh {
            let entry = self.draw(rule, &[], rng);
            self.parts(&self.rules[rule].entries[entry].text, scene, rng, builtins, &mut text, depth + 1);
            return text;
        }
        let entry = match scene.drawn.iter().find(|d| d.key == slot.key) {
            Some(d) => d.entry,
            None => {
                let taken: Vec<usize> = scene.drawn.iter().filter(|d| d.rule == rule).map(|d| d.entry).collect();
                let entry = self.draw(rule, &taken, rng);
                scene.drawn.push(Draw { key: slot.key.clone(), rule, entry });
                entry
            }
        };
        let entry = &self.rules[rule].entries[entry];
        // An entry may give its own plural.
        let attr = slot.attr.as_deref().or_else(|| (slot.plural && entry.has("pl")).then_some("pl"));
        let key = attr.map_or_else(|| slot.key.clone(), |a| format!("{}.{a}", slot.key));
        let regular = slot.plural && attr != Some("pl");
        let finish = |text: &str| if regular { plural(text) } else { text.to_string() };
        if let Some(known) = scene.memo.get(&key) {
            return finish(known);
        }
        let parts = match attr {
            None => &entry.text,
            Some(a) => match entry.attrs.iter().find(|(k, _)| k == a) {
                Some((_, parts)) => parts,
                None => {
                    let gender = entry.attrs.iter().find(|(k, _)| k == "g").map(|(_, p)| p.as_slice());
                    let Some([Part::Text(g)]) = gender else { panic!("{{{key}}}: no such attribute") };
                    return pronoun(g, a).to_string();
                }
            },
        };
        self.parts(parts, scene, rng, builtins, &mut text, depth + 1);
        let value = finish(&text);
        scene.memo.insert(key, text);
        value
    }
}

impl Entry {
    fn has(&self, attr: &str) -> bool {
        self.attrs.iter().any(|(k, _)| k == attr)
    }
}

/// The form `which` for one of the genders f, m, n (a thing) and p (several).
fn pronoun(gender: &str, which: &str) -> &'static str {
    let column = ["f", "m", "n", "p"].iter().position(|g| *g == gender).expect("gender f, m, n or p");
    let forms = match which {
        "he" => ["she", "he", "it", "they"],
        "him" => ["her", "him", "it", "them"],
        "his" => ["her", "his", "its", "their"],
        "himself" => ["herself", "himself", "itself", "themselves"],
        "was" => ["was", "was", "was", "were"],
        "is" => ["is", "is", "is", "are"],
        "has" => ["has", "has", "has", "have"],
        "s" => ["s", "s", "s", ""],
        "es" => ["es", "es", "es", ""],
        "child" => ["girl", "boy", "young one", "children"],
        "parent" => ["mother", "father", "parent", "parents"],
        "son" => ["daughter", "son", "young one", "children"],
        "brother" => ["sister", "brother", "twin", "friends"],
        "uncle" => ["aunt", "uncle", "cousin", "cousins"],
        "grandpa" => ["grandmother", "grandfather", "elder", "grandparents"],
        other => panic!("no pronoun form {other}"),
    };
    forms[column]
}

/// `a` or `an`, by sound as far as the word list needs it.
pub fn article(word: &str) -> &'static str {
    let lower = word.to_ascii_lowercase();
    let starts = |list: &[&str]| list.iter().any(|p| lower.starts_with(p));
    if starts(&["hour", "honest", "heir", "8", "11 ", "18"]) {
        "an"
    } else if starts(&["uni", "use", "usual", "ukulele", "one", "eu"]) {
        "a"
    } else if starts(&["a", "e", "i", "o", "u"]) {
        "an"
    } else {
        "a"
    }
}

/// The regular plural.
fn plural(word: &str) -> String {
    let ends = |list: &[&str]| list.iter().any(|s| word.ends_with(s));
    if ends(&["s", "x", "ch", "sh"]) {
        format!("{word}es")
    } else if ends(&["y"]) && !ends(&["ay", "ey", "oy", "uy"]) {
        format!("{}ies", &word[..word.len() - 1])
    } else {
        format!("{word}s")
    }
}

/// Capitals at the starts of sentences, lines and quotations; single spaces; none before a stop.
pub fn tidy(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // `broken`: a quotation ended in a comma, so the next one in the sentence goes on with it.
    let (mut capital, mut quoted, mut broken, mut words) = (true, false, false, 0);
    for c in text.chars() {
        match c {
            '^' => capital = true,
            '\n' => {
                out.truncate(out.trim_end_matches(' ').len());
                out.push('\n');
                (capital, quoted, broken, words) = (true, false, false, 0);
            }
            ' ' => {
                if out.ends_with(['.', '!', '?']) || out.ends_with(".\"") || (words == 0 && out.ends_with(':')) {
                    capital = true;
                }
                if !out.is_empty() && !out.ends_with([' ', '\n']) {
                    words += usize::from(!out.ends_with(':'));
                    out.push(' ');
                }
            }
            // A question inside a quotation keeps its mark and loses the comma after it.
            ',' if out.ends_with(['?', '!']) => {}
            '.' | ',' | '!' | '?' | ';' | ':' => {
                broken &= quoted || matches!(c, ',' | ';' | ':');
                out.truncate(out.trim_end_matches(' ').len());
                out.push(c);
            }
            '"' => {
                broken = if quoted { out.ends_with(',') } else { broken && !capital };
                quoted = !quoted;
                capital = quoted && !broken;
                out.push('"');
            }
            c => {
                if c == '-' && (out.is_empty() || out.ends_with('\n')) {
                    capital = false;
                }
                if c.is_ascii_digit() {
                    capital = false;
                }
                out.push(if capital { c.to_ascii_uppercase() } else { c });
                if c.is_ascii_alphabetic() {
                    capital = false;
                }
            }
        }
    }
    articles(out.trim_end())
}

/// Every `a` and `an` made to fit the word after it.
fn articles(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let mut words = text.split_inclusive([' ', '\n']).peekable();
    while let Some(word) = words.next() {
        let bare = word.trim_start_matches('"');
        match words.peek() {
            Some(next) if ["a ", "an ", "A ", "An "].contains(&bare) => {
                out.push_str(&word[..word.len() - bare.len() + 1]);
                out.push_str(&article(next)[1..]);
                out.push(' ');
            }
            _ => out.push_str(word),
        }
    }
    out
}
