//! Trains a byte-level merging vocabulary: GPT-2's byte alphabet and way of cutting words, for ASCII text.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Ends a document; also the start mark where a model wants one.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// Opens a turn of a chat; the role follows.
pub const TURN_START: &str = "<|im_start|>";
/// Closes a turn.
pub const TURN_END: &str = "<|im_end|>";
/// The control tokens, in the order of their ids, after all others.
pub const CONTROLS: [&str; 3] = [END_OF_TEXT, TURN_START, TURN_END];

/// A trained vocabulary as a model file stores it.
pub struct Vocabulary {
    /// Spellings in the byte alphabet: 256 bytes, merged tokens, [`CONTROLS`].
    pub tokens: Vec<String>,
    /// Pairs `left right`, earlier ones first.
    pub merges: Vec<String>,
}

impl Vocabulary {
    /// The id of a control token.
    pub fn control(&self, spelling: &str) -> u32 {
        self.tokens.iter().position(|t| t == spelling).expect("a control token of ours") as u32
    }
}

/// The printable stand-in of each byte: itself where it is printable Latin-1, else the next letter from U+0100 on.
fn alphabet() -> [char; 256] {
    let mut spare = 0x100..;
    std::array::from_fn(|b| match b {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => char::from(b as u8),
        _ => spare.next().and_then(char::from_u32).expect("letters above U+0100"),
    })
}

/// Cuts ASCII text as GPT-2 does: contractions; a word, a number or a run of signs, each with one space before it;
/// white space, whose last space goes with the word after it.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (word, after) = rest.split_at(first_word(rest.as_bytes()));
        rest = after;
        Some(word)
    })
}

fn first_word(b: &[u8]) -> usize {
    for c in ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"] {
        if b.starts_with(c.as_bytes()) {
            return c.len();
        }
    }
    let class = |c: &u8| match c {
        b'a'..=b'z' | b'A'..=b'Z' => 0,
        b'0'..=b'9' => 1,
        b' ' | b'\t'..=b'\r' => 2,
        _ => 3,
    };
    let run = |from: usize| b[from..].iter().take_while(|c| class(c) == class(&b[from])).count();
    let space = usize::from(b[0] == b' ' && b.len() > 1 && class(&b[1]) != 2);
    if space == 1 || class(&b[0]) != 2 {
        return space + run(space);
    }
    let blank = run(0);
    if blank == b.len() || blank == 1 { blank } else { blank - 1 }
}

/// Learns merges from `text` until the vocabulary has `size` tokens. Ties go to the pair with the smaller ids.
///
/// # Panics
/// If `size` cannot hold bytes and controls, or the text has too few pairs to reach it.
pub fn train(text: &str, size: usize) -> Vocabulary {
    assert!(size >= 256 + CONTROLS.len(), "a vocabulary of {size}");
    let letters = alphabet();
    let mut tokens: Vec<String> = letters.iter().map(|c| c.to_string()).collect();
    let mut ids: BTreeMap<String, u32> = tokens.iter().cloned().zip(0..).collect();

    let mut plain = text.to_string();
    for control in CONTROLS {
        plain = plain.replace(control, "\0");
    }
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for word in plain.split('\0').flat_map(words) {
        *counts.entry(word).or_default() += 1;
    }
    let mut words: Vec<(Vec<u32>, u64)> =
        counts.into_iter().map(|(w, n)| (w.bytes().map(u32::from).collect(), n)).collect();

    let mut merges = Vec::new();
    let mut taken = BTreeSet::new();
    while tokens.len() + CONTROLS.len() < size {
        let mut pairs: HashMap<(u32, u32), u64> = HashMap::new();
        for (word, n) in &words {
            for pair in word.windows(2) {
                *pairs.entry((pair[0], pair[1])).or_default() += n;
            }
        }
        let (&(left, right), _) = pairs
            .iter()
            .max_by(|a, b| a.1.cmp(b.1).then(b.0.cmp(a.0)))
            .expect("text long enough for a vocabulary of this size");
        let merged = format!("{}{}", tokens[left as usize], tokens[right as usize]);
        assert!(taken.insert((left, right)), "pair {left} {right} merged twice");
        merges.push(format!("{} {}", tokens[left as usize], tokens[right as usize]));
        let id = *ids.entry(merged.clone()).or_insert_with(|| {
            tokens.push(merged);
            tokens.len() as u32 - 1
        });
        for (word, _) in &mut words {
            let (mut from, mut to) = (0, 0);
            while from < word.len() {
                let joined = word[from] == left && word.get(from + 1) == Some(&right);
                word[to] = if joined { id } else { word[from] };
                from += 1 + usize::from(joined);
                to += 1;
            }
            word.truncate(to);
        }
    }
    tokens.extend(CONTROLS.map(String::from));
    Vocabulary { tokens, merges }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cut_as_gpt2_does() {
        let cut = |text| words(text).collect::<Vec<_>>();
        assert_eq!(cut("it's  3:30,\n\nok "), ["it", "'s", " ", " 3", ":", "30", ",", "\n", "\n", "ok", " "]);
        assert_eq!(cut("- a\n b"), ["-", " a", "\n", " b"]);
        assert_eq!(words("A: \"no!\"\n").collect::<String>(), "A: \"no!\"\n");
    }

    #[test]
    fn bytes_merges_and_controls_fill_the_vocabulary() {
        let text = "the cat sat on the mat and the rat sat on the hat ".repeat(3);
        let v = train(&text, 270);
        assert_eq!((v.tokens.len(), v.merges.len()), (270, 11));
        assert_eq!(&v.tokens[267..], CONTROLS);
        assert_eq!(v.tokens.iter().collect::<BTreeSet<_>>().len(), 270);
        assert_eq!(v.merges[0], "a t");
    }
}
