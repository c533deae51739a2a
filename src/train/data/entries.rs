//! Texts become rows: by entries that dates, headings or rules begin, or by paragraphs.

use super::dates::{begins_with_date, plain};
use super::{Collector, Reader, part_of};
use crate::error::Result;
use crate::text::{Encode, Json};
use crate::train::Example;
use core::ops::Range;
use std::prelude::v1::*;

/// How a text becomes rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Split {
    /// By entries if there are some, otherwise by paragraphs.
    #[default]
    Auto,
    /// By paragraphs, which empty lines part. Short ones are joined.
    Paragraphs,
    /// Every line is a row.
    Lines,
    /// Rows that fill the context, wherever they begin and end.
    Whole,
}

impl Split {
    /// The ways, by name, and what they do.
    pub const ALL: [(&'static str, Split, &'static str); 4] = [
        ("auto", Split::Auto, "one row an entry (starts with a date, heading or rule); otherwise one a paragraph"),
        ("paragraphs", Split::Paragraphs, "by paragraphs, short ones joined"),
        ("lines", Split::Lines, "every line is a row"),
        ("whole", Split::Whole, "rows that fill the context, wherever they begin and end"),
    ];
}

/// Least tokens of a row of paragraphs, where the context is not small.
const SHORT: usize = 32;
/// Rows that a text should have before its paragraphs are joined to longer ones.
const ROWS: usize = 64;
/// Paragraphs of a mean entry above which dates are taken for parts of sentences.
const PARAGRAPHS: usize = 12;

/// A line of a text.
struct Line<'a> {
    start: usize,
    text: &'a str,
}

impl Line<'_> {
    /// Where it ends in the text.
    fn end(&self) -> usize {
        self.start.saturating_add(self.text.len())
    }

    fn is_blank(&self) -> bool {
        self.text.trim().is_empty()
    }
}

/// A part of a text: its bytes.
type Part = Range<usize>;

/// Whether a line begins an entry; the other is the line below it.
type Begins = fn(&str, &str) -> bool;
/// Kinds of lines that begin an entry: what they are called, and how they are recognised by the line and the next one.
const BEGINNINGS: [(&str, Begins); 4] = [
    ("a date", |line, _| begins_with_date(line)),
    ("a heading", is_heading),
    ("a number", |line, _| is_numbered(line)),
    ("a rule", |line, _| is_rule(line)),
];
const DATE: usize = 0;
const HEADING: usize = 1;
/// Rules are no part of an entry.
const RULE: usize = 3;

impl Reader<'_> {
    /// Gives the rows of a text to `out`.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode`](crate::text::Tokenizer::encode).
    pub(super) fn entries(&self, text: &str, out: &mut Collector) -> Result<()> {
        let split = self.options.split;
        if split == Split::Whole {
            return self.fill(text, out);
        }
        let (text, skipped) = without_front_matter(text);
        if skipped > 0 {
            out.note(format!("{skipped} lines of metadata at the beginning are left out"));
        }
        let lines = lines(text);
        let found = if split == Split::Auto { entries(&lines) } else { None };
        let (parts, mut note) = match (&found, split) {
            (Some((_, parts)), _) => (parts.clone(), String::new()),
            (None, Split::Lines) => {
                let parts = lines.iter().filter(|line| !line.is_blank()).map(|line| line.start..line.end());
                (parts.collect(), String::new())
            }
            _ => self.joined(text, &paragraphs(&lines))?,
        };
        let (mut cut, mut line, mut at) = (0usize, skipped.saturating_add(1), 0);
        let n = parts.len();
        for part in parts {
            let pieces = self.fitting(part_of(text, part.clone()))?;
            cut = cut.saturating_add(usize::from(pieces.len() > 1));
            for piece in pieces {
                let [start, end] = [piece.start, piece.end].map(|at| part.start.saturating_add(at));
                line = line.saturating_add(part_of(text, at..start).matches('\n').count());
                at = start;
                out.push(line, Ok(Json::Object(vec![("text".into(), part_of(text, start..end).into())])));
            }
        }
        if let Some((what, _)) = found {
            note = format!("{n} entries, each starts with {what}");
        }
        if cut > 0 {
            let what = format!("{cut} of them cut at ends of sentences to fit {} tokens", self.ctx);
            note = if note.is_empty() { what.replacen("of them", "rows", 1) } else { format!("{note}; {what}") };
        }
        if !note.is_empty() {
            out.note(note);
        }
        Ok(())
    }

    /// Rows that fill the context.
    fn fill(&self, text: &str, out: &mut Collector) -> Result<()> {
        let ids = self.tokenizer.encode(text, &self.whole())?;
        for row in ids.chunks(self.ctx).filter(|row| row.len() > 1) {
            out.add(1, Example::all(row.to_vec()));
        }
        out.data.examples.iter_mut().for_each(|row| row.line = None);
        let spelled = !self.parse_special && self.tokenizer.spells_control(text);
        out.data.spelled = out.data.spelled.saturating_add(usize::from(spelled));
        Ok(())
    }

    /// Tokens of a text alone.
    pub(super) fn count(&self, text: &str) -> Result<usize> {
        let plain = Encode { add_special: false, parse_special: self.parse_special };
        Ok(self.tokenizer.encode(text, &plain)?.len())
    }

    /// Paragraphs, short ones joined.
    fn joined(&self, text: &str, paragraphs: &[Part]) -> Result<(Vec<Part>, String)> {
        let counts = paragraphs.iter().map(|p| self.count(part_of(text, p.clone()))).collect::<Result<Vec<_>>>()?;
        let total = counts.iter().fold(0usize, |sum, n| sum.saturating_add(*n));
        let most = self.ctx.saturating_mul(3) / 4;
        let least = (total / ROWS).clamp(SHORT.min(self.ctx / 4), most.max(SHORT.min(self.ctx / 4)));
        let mut rows: Vec<(Part, usize)> = Vec::new();
        for (part, n) in paragraphs.iter().zip(counts) {
            match rows.last_mut() {
                Some((row, m)) if *m < least && m.saturating_add(n) < most => {
                    (row.end, *m) = (part.end, m.saturating_add(n));
                }
                _ => rows.push((part.clone(), n)),
            }
        }
        // A short rest belongs to the row before.
        if let [.., (before, n), (last, m)] = &mut rows[..]
            && *m < least
            && n.saturating_add(*m) < most
        {
            before.end = last.end;
            rows.pop();
        }
        let note = match (paragraphs.len(), rows.len()) {
            (0 | 1, _) => String::new(),
            (n, rows) if n == rows => format!("{n} paragraphs, a row each"),
            (n, rows) => format!("{n} paragraphs, joined into {rows} rows"),
        };
        Ok((rows.into_iter().map(|(part, _)| part).collect(), note))
    }

    /// The text cut so that every piece fits the context, at the ends of paragraphs, sentences, lines or words, whichever is
    /// there; the pieces are of about the same length.
    fn fitting(&self, text: &str) -> Result<Vec<Part>> {
        let special = self.tokenizer.encode("", &self.whole())?.len();
        let most = self.ctx.saturating_sub(special).max(1);
        let tokens = self.count(text)?;
        let mut pieces = Vec::new();
        let (mut at, mut left) = (0usize, tokens);
        while left > most {
            let rest = part_of(text, at..);
            let mut aim = rest.len().checked_div(left.div_ceil(most)).unwrap_or(0).max(1);
            let (end, n) = loop {
                let end = cut_near(rest, aim);
                let n = self.count(part_of(rest, ..end))?;
                if n <= most || end <= 1 || aim <= 1 {
                    break (end, n);
                }
                let fits = end.saturating_mul(most).checked_div(n).unwrap_or(0);
                aim = fits.min(aim.saturating_mul(9) / 10);
            };
            let begin = at;
            at = begin.saturating_add(end);
            pieces.push(trimmed(text, begin..at));
            // Pieces count a little otherwise than the whole does.
            left = match at < text.len() && left <= n.saturating_add(most) {
                true => self.count(part_of(text, at..))?,
                false => left.saturating_sub(n),
            };
        }
        if at < text.len() {
            pieces.push(trimmed(text, at..text.len()));
        }
        pieces.retain(|piece: &Part| piece.start < piece.end);
        Ok(pieces)
    }
}

/// A part without space around it.
fn trimmed(text: &str, part: Part) -> Part {
    let all = part_of(text, part.clone());
    let before = all.len().saturating_sub(all.trim_start().len());
    let start = part.start.saturating_add(before);
    start..start.saturating_add(all.trim().len())
}

/// Where a text is cut to have about `aim` bytes: never at 0.
fn cut_near(text: &str, aim: usize) -> usize {
    let floor = |at: usize| (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let (low, high) = (floor(aim.saturating_mul(3) / 5), floor(aim.saturating_mul(23) / 20));
    let window = part_of(text, low..high);
    let behind = |at: Option<usize>, n: usize| at.map(|at| low.saturating_add(at).saturating_add(n));
    let cut = behind(window.rfind("\n\n"), 2)
        .or_else(|| sentence_ends(part_of(text, ..high)).take_while(|end| *end <= high).filter(|end| *end > low).last())
        .or_else(|| behind(window.rfind('\n'), 1))
        .or_else(|| behind(window.rfind(' '), 1));
    let least = text.chars().next().map_or(1, char::len_utf8);
    cut.unwrap_or_else(|| floor(aim)).max(least)
}

/// Words before a full stop that end no sentence.
const ABBREVIATIONS: [&str; 20] = [
    "mr", "mrs", "ms", "dr", "st", "prof", "sr", "jr", "vs", "no", "nr", "e.g", "i.e", "etc", "cf", "approx", "bzw",
    "z.b", "ca", "usw",
];

/// The places behind the sentences of a text, with the space that follows.
fn sentence_ends(text: &str) -> impl Iterator<Item = usize> + '_ {
    let close = |c: char| matches!(c, '"' | '\'' | ')' | ']' | '»' | '”' | '’' | '」' | '』');
    text.char_indices().filter_map(move |(i, c)| {
        let end = i.saturating_add(c.len_utf8());
        let wide = matches!(c, '。' | '！' | '？');
        if !(wide || matches!(c, '.' | '!' | '?' | '…')) {
            return None;
        }
        let behind = part_of(text, end..).trim_start_matches(close);
        let next = behind.trim_start();
        if !wide && next.len() == behind.len() || next.starts_with(char::is_lowercase) {
            return None;
        }
        let word = part_of(text, ..i).rsplit(|c: char| c.is_whitespace() || c == '(').next().unwrap_or_default();
        let initial = word.chars().count() == 1 && word.starts_with(char::is_alphabetic);
        let short = initial || ABBREVIATIONS.contains(&word.to_lowercase().as_str());
        (c != '.' || !short).then(|| text.len().saturating_sub(next.len()))
    })
}

/// Whether a line ends as a sentence does.
fn ends_sentence(line: &str) -> bool {
    let line = line.trim_end().trim_end_matches(['"', '\'', ')', ']', '»', '”', '’', '*', '_']);
    line.ends_with(['.', '!', '?', '…', ':', '。', '！', '？'])
}

fn lines(text: &str) -> Vec<Line<'_>> {
    let mut lines: Vec<Line> = Vec::new();
    let mut start = 0usize;
    for piece in text.split_inclusive('\n') {
        lines.push(Line { start, text: piece.trim_end_matches(['\n', '\r']) });
        start = start.saturating_add(piece.len());
    }
    lines
}

/// A Markdown file may begin with metadata between two rules: the text behind it, and how many lines it has.
fn without_front_matter(text: &str) -> (&str, usize) {
    let Some(rest) = text.strip_prefix("---\n").or_else(|| text.strip_prefix("---\r\n")) else { return (text, 0) };
    let mut at = text.len().saturating_sub(rest.len());
    for (n, line) in rest.split_inclusive('\n').enumerate() {
        at = at.saturating_add(line.len());
        let line = line.trim_end();
        match line {
            "---" | "..." => return (part_of(text, at..), n.saturating_add(2)),
            _ if line.contains(':') || line.is_empty() || line.starts_with([' ', '-', '#']) => {}
            _ => break,
        }
    }
    (text, 0)
}

/// The paragraphs of a text. Fences are kept whole. Where lines are paragraphs without empty lines between them, each is one.
fn paragraphs(lines: &[Line]) -> Vec<Part> {
    let alone = stand_alone(lines);
    let (mut parts, mut open, mut fence): (Vec<Part>, bool, bool) = (Vec::new(), false, false);
    for line in lines {
        if line.is_blank() && !fence {
            open = false;
            continue;
        }
        match parts.last_mut() {
            Some(part) if open => part.end = line.end(),
            _ => parts.push(line.start..line.end()),
        }
        fence ^= is_fence(line);
        open = fence || !alone;
    }
    parts
}

/// Whether lines are paragraphs: most of them end a sentence or, if no empty lines part them, they are not of one length, as
/// wrapped ones are.
fn stand_alone(lines: &[Line]) -> bool {
    let filled: Vec<&Line> = lines.iter().filter(|line| !line.is_blank()).collect();
    let n = filled.len();
    let lengths: Vec<usize> = filled.iter().map(|line| line.text.chars().count()).collect();
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let full = lengths.iter().filter(|len| len.saturating_mul(4) >= longest.saturating_mul(3)).count();
    let wrapped = (40..=120).contains(&longest) && full.saturating_mul(5) >= n.saturating_mul(3);
    let ended = filled.iter().filter(|line| ends_sentence(line.text)).count();
    let last = lines.iter().rposition(|line| !line.is_blank()).unwrap_or(0);
    let parted = lines.iter().take(last).any(Line::is_blank);
    ended.saturating_mul(5) >= n.saturating_mul(4) || n > 3 && !wrapped && !parted
}

fn is_fence(line: &Line) -> bool {
    line.text.trim_start().starts_with("```")
}

/// What begins the entries of a text, and the entries; `None` if there are not at least two.
fn entries(lines: &[Line]) -> Option<(&'static str, Vec<Part>)> {
    let paragraphs = paragraphs(lines).len();
    let fenced = fenced(lines);
    let below = lines.iter().skip(1).map(|line| line.text).chain([""]);
    let above = core::iter::once(None).chain(lines.iter().map(Some));
    let kinds: Vec<Option<usize>> = (lines.iter().zip(below).zip(above).zip(&fenced))
        .map(|(((line, next), before), fenced)| {
            let line = line.text;
            let kind = BEGINNINGS.iter().position(|(_, is)| is(line, next)).filter(|_| !fenced)?;
            // Not inside a sentence.
            let fresh = before.is_none_or(|line| line.is_blank() || ends_sentence(line.text) || is_rule(line.text));
            let above = before.is_some_and(|before| BEGINNINGS.iter().any(|(_, is)| is(before.text, line)));
            (fresh || above || kind == HEADING).then_some(kind)
        })
        .collect();
    let count = |kind: usize| kinds.iter().filter(|k| **k == Some(kind)).count();
    let enough = |kind: usize| {
        let n = count(kind).saturating_add(usize::from(kind == RULE));
        n >= 2 && (kind != DATE || n.saturating_mul(PARAGRAPHS) >= paragraphs)
    };
    let chosen = (0..BEGINNINGS.len()).find(|kind| enough(*kind))?;
    let mut next = false;
    let begins = |(line, kind): (&Line, &Option<usize>)| {
        if line.is_blank() || is_underline(line.text) {
            return false;
        }
        // A heading above a beginning belongs to it, as the month of a diary does.
        next = *kind == Some(chosen) || *kind == Some(HEADING) && next && chosen != RULE;
        next
    };
    let mut begins: Vec<bool> = lines.iter().zip(&kinds).rev().map(begins).collect();
    begins.reverse();
    let mut parts: Vec<Part> = Vec::new();
    let mut bare = false;
    for ((line, kind), begins) in lines.iter().zip(&kinds).zip(begins).filter(|((line, _), _)| !line.is_blank()) {
        let end = line.end();
        match parts.last_mut() {
            _ if begins && chosen == RULE => parts.push(end..end),
            Some(part) if part.start == part.end => *part = line.start..end,
            Some(part) if !begins || bare => part.end = end,
            _ => parts.push(line.start..end),
        }
        bare = *kind == Some(HEADING) && begins || bare && is_underline(line.text);
    }
    parts.retain(|part| part.start < part.end);
    let (what, _) = BEGINNINGS.get(chosen)?;
    (parts.len() >= 2).then_some((what, parts))
}

/// Which lines stand between fences of code.
fn fenced(lines: &[Line]) -> Vec<bool> {
    let mut fence = false;
    let of = |line: &Line| {
        let (was, mark) = (fence, is_fence(line));
        fence ^= mark;
        was || mark
    };
    lines.iter().map(of).collect()
}

fn is_heading(line: &str, next: &str) -> bool {
    let title = line.trim_start_matches('#');
    let marks = line.len().saturating_sub(title.len());
    let hashed = (1..=6).contains(&marks) && title.starts_with(' ') && !title.trim().is_empty();
    let words = line.trim();
    hashed || !words.is_empty() && words.len() < 80 && !is_rule(line) && is_underline(next)
}

/// Whether a line makes a heading of the one above it.
fn is_underline(line: &str) -> bool {
    let line = line.trim_end();
    line.len() >= 3 && ['=', '-'].iter().any(|mark| line.chars().all(|c| c == *mark))
}

fn is_rule(line: &str) -> bool {
    let marks: String = line.chars().filter(|c| !c.is_whitespace()).collect();
    let same = |mark: char| marks.chars().all(|c| c == mark);
    marks == "⁂" || marks.chars().count() >= 3 && "*-_=~".chars().any(same)
}

/// Words that are numbered at the beginning of an entry.
const NUMBERED: [&str; 16] = [
    "day", "entry", "chapter", "week", "letter", "part", "lesson", "note", "log", "tag", "kapitel", "brief", "woche",
    "jour", "chapitre", "día",
];

/// Whether a line is like `Day 12` or `Chapter IV:`.
fn is_numbered(line: &str) -> bool {
    let line = plain(line).to_lowercase();
    let Some((word, rest)) = line.split_once(' ') else { return false };
    let rest = rest.trim_start_matches(['#', ' ']);
    let end = rest.find(|c: char| !(c.is_ascii_digit() || "ivxlc".contains(c))).unwrap_or(rest.len());
    let after = part_of(rest, end..);
    let apart = after.starts_with([':', '.', ',', '-', '–', '—', ' ']) && !after.starts_with(" of");
    NUMBERED.contains(&word) && end > 0 && (after.is_empty() || apart)
}
