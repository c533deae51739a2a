//! The small part of regular expressions that cutting into words needs: classes of characters with a number of
//! repetitions, groups, and one character looked at ahead.
//!
//! White space outside of ASCII is like a vertical tab, as in llama.cpp: no range has it.
//!
//! Every text is an expression: what is not closed ends with the text, and an unknown escape is the character itself.
//! A group gives nothing back once it matched; the tests compare every expression in use with a full engine.

use core::iter::Peekable;
use core::str::Chars;
use std::prelude::v1::*;
use unicode_general_category::{GeneralCategory as G, get_general_category};

/// The first letter of the general category: the classes of the expressions.
fn class(c: char) -> char {
    // Most letters of most texts, without a search.
    if matches!(
        c,
        'À'..='Ö' | 'Ø'..='ö' | 'ø'..='ɏ' | 'Σ'..='ώ' | 'Ѐ'..='ҁ' | 'ؠ'..='ي' | 'ぁ'..='ゖ' | 'ァ'..='ヺ'
            | '一'..='\u{9fff}' | '가'..='힣'
    ) {
        return 'L';
    }
    match get_general_category(c) {
        G::UppercaseLetter | G::LowercaseLetter | G::TitlecaseLetter | G::ModifierLetter | G::OtherLetter => 'L',
        G::DecimalNumber | G::LetterNumber | G::OtherNumber => 'N',
        G::NonspacingMark | G::SpacingMark | G::EnclosingMark => 'M',
        G::ConnectorPunctuation
        | G::DashPunctuation
        | G::OpenPunctuation
        | G::ClosePunctuation
        | G::InitialPunctuation
        | G::FinalPunctuation
        | G::OtherPunctuation => 'P',
        G::MathSymbol | G::CurrencySymbol | G::ModifierSymbol | G::OtherSymbol => 'S',
        G::Control | G::Format | G::PrivateUse | G::Surrogate => 'C',
        // Separators, and what no version of Unicode has assigned.
        _ => 'Z',
    }
}

/// Whether `\p{L}`, `\p{N}`, `\p{M}`, `\p{P}`, `\p{S}` or `\p{C}`, by its letter, has the character.
pub(super) fn is_class(c: char, letter: char) -> bool {
    class(c) == letter
}

/// The bit of a class, by its letter.
fn bit(letter: char) -> u32 {
    1 << (letter as u32 & 31)
}

/// A set of characters: the union of its parts or what is outside of it, and of that only what `and` has as well.
#[derive(Default)]
struct Set {
    /// Which of the first 128 characters the whole set has.
    ascii: u128,
    /// Bits of classes.
    classes: u32,
    ranges: Vec<(char, char)>,
    space: bool,
    negated: bool,
    and: Option<Box<Set>>,
}

impl Set {
    fn has(&self, c: char) -> bool {
        let ascii = |c: u8| self.ascii >> c & 1 == 1;
        match u8::try_from(c) {
            Ok(c) if c.is_ascii() => ascii(c),
            _ if c.is_whitespace() => ascii(b'\x0b'),
            _ => self.find(c),
        }
    }

    fn find(&self, c: char) -> bool {
        let named = || self.classes != 0 && self.classes & bit(class(c)) != 0;
        let inside = self.ranges.iter().any(|range| (range.0..=range.1).contains(&c))
            || (self.space && c.is_whitespace())
            || named();
        inside != self.negated && self.and.as_ref().is_none_or(|and| and.find(c))
    }

    /// Prepares the answers for ASCII.
    fn ready(mut self) -> Set {
        self.ascii = (0..128u8).filter(|&c| self.find(c as char)).fold(0, |bits, c| bits | 1 << c);
        self
    }
}

/// What matches one after the other.
struct Items {
    /// The ASCII characters that a match may begin with.
    first: u128,
    items: Vec<Item>,
}

enum Item {
    /// Characters of a set, as many as there are.
    Run { set: Set, least: usize, most: usize },
    /// The first alternative that matches, again and again.
    Group { any: Vec<Items>, least: usize, most: usize },
    /// No character of the set follows.
    Not(Set),
}

/// An expression.
pub(super) struct Pattern {
    any: Vec<Items>,
}

/// The ASCII characters that a match of `items` may begin with; all if it may be empty.
fn first(items: &[Item]) -> u128 {
    let Some((item, rest)) = items.split_first() else { return u128::MAX };
    let (ascii, least) = match item {
        Item::Run { set, least, .. } => (set.ascii, *least),
        Item::Group { any, least, .. } => (any.iter().fold(0, |all, items| all | items.first), *least),
        Item::Not(_) => (0, 0),
    };
    if least == 0 { ascii | first(rest) } else { ascii }
}

/// The end of the first alternative's match that begins at `at`.
fn any_end(any: &[Items], text: &str, at: usize) -> Option<usize> {
    let begin = *text.as_bytes().get(at)?;
    let possible = |items: &&Items| !begin.is_ascii() || items.first >> begin & 1 == 1;
    any.iter().filter(possible).find_map(|items| end(&items.items, text, at))
}

impl Pattern {
    pub fn new(text: &str) -> Self {
        Pattern { any: Parser { chars: text.chars().peekable() }.alternatives() }
    }

    /// Where the next match begins and ends, from `from` on.
    pub fn find(&self, text: &str, from: usize) -> Option<(usize, usize)> {
        let places = text[from..].char_indices().map(|(i, _)| from + i);
        places.filter_map(|at| Some((at, any_end(&self.any, text, at)?))).find(|(at, end)| end > at)
    }
}

fn end(items: &[Item], text: &str, at: usize) -> Option<usize> {
    let Some((item, rest)) = items.split_first() else { return Some(at) };
    match item {
        Item::Run { set, least, most } => {
            let run = text[at..].chars().take(*most).take_while(|&c| set.has(c));
            let (mut count, bytes) = run.fold((0, 0), |(count, bytes), c| (count + 1, bytes + c.len_utf8()));
            let mut to = at + bytes;
            while count >= *least {
                let found = end(rest, text, to);
                if found.is_some() || count == 0 {
                    return found;
                }
                // One character is given back.
                count -= 1;
                to -= text[at..to].chars().next_back().map_or(0, char::len_utf8);
            }
            None
        }
        Item::Group { any, least, most } => {
            let (mut count, mut to) = (0, at);
            while count < *most
                && let Some(next) = any_end(any, text, to)
                && next > to
            {
                (count, to) = (count + 1, next);
            }
            if count < *least { None } else { end(rest, text, to) }
        }
        Item::Not(set) => match text[at..].chars().next() {
            Some(c) if set.has(c) => None,
            _ => end(rest, text, at),
        },
    }
}

struct Parser<'a> {
    chars: Peekable<Chars<'a>>,
}

impl Parser<'_> {
    fn eat(&mut self, text: &str) -> bool {
        let mut ahead = self.chars.clone();
        let there = text.chars().all(|c| ahead.next() == Some(c));
        if there {
            self.chars = ahead;
        }
        there
    }

    /// Up to the end of the group or of the text.
    fn alternatives(&mut self) -> Vec<Items> {
        let (mut any, mut items) = (Vec::new(), Vec::new());
        loop {
            let more = self.eat("|");
            if more || self.eat(")") || self.chars.peek().is_none() {
                any.push(Items { first: first(&items), items: core::mem::take(&mut items) });
                if !more {
                    return any;
                }
            } else {
                items.extend(self.item());
            }
        }
    }

    fn item(&mut self) -> Option<Item> {
        if self.eat("(?!") {
            let set = self.set()?.ready();
            self.eat(")");
            return Some(Item::Not(set));
        }
        if self.eat("(?:") {
            let any = self.alternatives();
            let (least, most) = self.repeats();
            return Some(Item::Group { any, least, most });
        }
        let set = self.set()?.ready();
        let (least, most) = self.repeats();
        Some(Item::Run { set, least, most })
    }

    fn repeats(&mut self) -> (usize, usize) {
        if self.eat("?") {
            (0, 1)
        } else if self.eat("*") {
            (0, usize::MAX)
        } else if self.eat("+") {
            (1, usize::MAX)
        } else if self.eat("{") {
            let least = self.number();
            let most = if self.eat(",") { self.number() } else { least };
            self.eat("}");
            (least, most)
        } else {
            (1, 1)
        }
    }

    fn number(&mut self) -> usize {
        let mut number = 0;
        while let Some(digit) = self.chars.peek().and_then(|c| c.to_digit(10)) {
            number = 10 * number + digit as usize;
            self.chars.next();
        }
        number
    }

    /// A class in brackets, an escape or a character.
    fn set(&mut self) -> Option<Set> {
        let mut set = Set::default();
        if !self.eat("[") {
            self.part(&mut set, false)?;
            return Some(set);
        }
        set.negated = self.eat("^");
        while !self.eat("]") {
            if self.eat("&&") {
                set.and = self.set().map(Box::new);
            } else {
                self.part(&mut set, true)?;
            }
        }
        Some(set)
    }

    /// Adds `\s`, `\S` (alone), `\p{L}`, a character or, within brackets, a range to the set.
    fn part(&mut self, set: &mut Set, within: bool) -> Option<()> {
        if self.eat("\\s") {
            set.space = true;
        } else if self.eat("\\S") {
            (set.space, set.negated) = (true, !set.negated);
        } else if self.eat("\\p{") {
            set.classes |= bit(self.chars.next()?);
            self.eat("}");
        } else {
            let first = self.char()?;
            let last = if within && self.eat("-") { self.char()? } else { first };
            set.ranges.push((first, last));
        }
        Some(())
    }

    fn char(&mut self) -> Option<char> {
        let c = self.chars.next()?;
        if c != '\\' {
            return Some(c);
        }
        Some(match self.chars.next()? {
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' if self.eat("{") => {
                let digits = core::iter::from_fn(|| self.chars.next().filter(|&c| c != '}')?.to_digit(16));
                return char::from_u32(digits.fold(0, |number, digit| number << 4 | digit));
            }
            other => other,
        })
    }
}
