//! Exports of chats, as WhatsApp writes them: `31.12.23, 10:15 - Ann: text` or `[31.12.23, 10:15:02] Ann: text`.

use super::turns::message;
use super::{Collector, Reader};
use crate::error::{Error, Result, printable};
use crate::text::Json;
use std::collections::BTreeMap;
use std::prelude::v1::*;

/// Names that apps have for whose phone it is.
const ME: [&str; 6] = ["you", "me", "ich", "du", "yo", "moi"];
/// What stands in place of what was no text, beside what stands in angle brackets or behind a mark of direction.
const PLACEHOLDERS: [&str; 14] = [
    "this message was deleted",
    "you deleted this message",
    "diese nachricht wurde gelöscht",
    "image omitted",
    "du hast diese nachricht gelöscht",
    "video omitted",
    "audio omitted",
    "sticker omitted",
    "gif omitted",
    "document omitted",
    "contact card omitted",
    "missed voice call",
    "missed video call",
    "null",
];
/// Tokens of a turn beside its text, at a guess.
const AROUND: usize = 8;

/// What somebody said.
struct Said<'a> {
    line: usize,
    day: &'a str,
    who: &'a str,
    text: String,
}

/// Whether a text is such an export.
pub fn looks_like(text: &str) -> bool {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let first = lines.next().is_some_and(|line| head(line).is_some());
    first
        && text.lines().filter(|line| head(line).is_some_and(|(_, rest)| speaker(rest).is_some())).take(2).count() == 2
}

/// The day of a line that begins a message, and what stands behind the time.
fn head(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_start_matches(['\u{200e}', '\u{200f}', '\u{202a}', '\u{feff}']);
    let boxed = line.strip_prefix('[');
    let line = boxed.unwrap_or(line);
    let end = line.find(|c: char| !(c.is_ascii_digit() || "./-".contains(c)))?;
    let (day, rest) = line.split_at_checked(end)?;
    let day = day.trim_end_matches('.');
    let numbers: Vec<&str> = day.split(['.', '/', '-']).collect();
    if numbers.len() != 3 || numbers.iter().any(|n| n.is_empty() || n.len() > 4) {
        return None;
    }
    let rest = rest.trim_start_matches([',', ' ', '\u{202f}', '\u{a0}']);
    let end = rest.find(|c: char| !(c.is_ascii_digit() || ":.".contains(c)))?;
    let (time, after) = rest.split_at_checked(end)?;
    if rest.len() == line.len() || !(4..=8).contains(&end) || !time.contains([':', '.']) {
        return None;
    }
    // What follows may be `AM`, `p. m.` and the like.
    let rest = after;
    let rest = match boxed {
        Some(_) => rest.split_once(']')?,
        None => rest.split_once(" - ").or_else(|| Some(("", rest.strip_prefix("- ")?)))?,
    };
    (rest.0.chars().count() <= 6).then(|| (day, rest.1.trim_start_matches(' ')))
}

/// Who speaks, and what.
fn speaker(rest: &str) -> Option<(&str, &str)> {
    let (who, said) = rest.split_once(':')?;
    let name = who.trim_matches(|c: char| c.is_whitespace() || "\u{200e}\u{202a}\u{202c}~".contains(c));
    let good =
        !name.is_empty() && name.chars().count() <= 60 && (said.is_empty() || said.starts_with([' ', '\u{200e}']));
    good.then(|| (name, said.strip_prefix(' ').unwrap_or(said)))
}

/// Whether a message stands for something that is no text.
fn is_placeholder(text: &str) -> bool {
    let plain = text.trim();
    let small = plain.to_lowercase();
    plain.is_empty()
        || plain.starts_with('\u{200e}')
        || plain.starts_with('<') && plain.ends_with('>') && !plain.contains('\n')
        || PLACEHOLDERS.contains(&small.trim_end_matches('.'))
}

impl Reader<'_> {
    /// Gives the conversations of an export to `out`: a day each, or as much of it as fits the context.
    ///
    /// # Errors
    /// `Invalid` if it is not said whose words are to be learnt.
    pub(super) fn talk(&self, text: &str, out: &mut Collector) -> Result<()> {
        let (mut said, mut system) = (Vec::<Said>::new(), 0usize);
        let mut open = false;
        for (line, words) in (1..).zip(text.lines()) {
            match (head(words).map(|(day, rest)| (day, speaker(rest))), said.last_mut()) {
                (Some((day, Some((who, text)))), _) => said.push(Said { line, day, who, text: text.into() }),
                (Some((_, None)), _) => system = system.saturating_add(1),
                (None, Some(last)) if open => add_line(&mut last.text, words),
                (None, _) => {}
            }
            open = head(words).map_or(open, |(_, rest)| speaker(rest).is_some());
        }
        let all = said.len();
        said.retain(|said| !is_placeholder(&said.text));
        let media = all.saturating_sub(said.len());
        let names = counted(said.iter().map(|said| said.who));
        let me = whose(&names, self.options.speaker.as_deref(), "messages")?;
        let before = out.rows();
        self.conversations(&said, &me, names.len() > 2, out)?;
        let n = out.rows().saturating_sub(before);
        let left = match (media, system) {
            (0, 0) => String::new(),
            (media, system) => format!("; left out: {media} messages without text, {system} notices"),
        };
        out.note(format!("an export of a chat; the words of {me} are learnt, in {n} conversations{left}"));
        Ok(())
    }

    fn conversations(&self, said: &[Said], me: &str, several: bool, out: &mut Collector) -> Result<()> {
        let most = self.ctx.saturating_mul(9) / 10;
        // Turns with their line and whether they are the assistant's.
        let (mut turns, mut tokens, mut day): (Vec<(usize, bool, String)>, usize, &str) = (Vec::new(), 0, "");
        for said in said {
            let mine = said.who == me;
            let text = said.text.trim();
            let text = if several && !mine { format!("{}: {text}", said.who) } else { text.to_string() };
            let n = self.count(&text)?.saturating_add(AROUND);
            if said.day != day || !mine && tokens.saturating_add(n) > most {
                flush(&mut turns, out);
                (tokens, day) = (0, said.day);
            }
            tokens = tokens.saturating_add(n);
            match turns.last_mut() {
                Some((_, by, before)) if *by == mine => add_line(before, &text),
                // What nobody asked for has no prompt.
                None if mine => tokens = 0,
                _ => turns.push((said.line, mine, text)),
            }
        }
        flush(&mut turns, out);
        Ok(())
    }
}

/// In place: a message of many lines would be copied for each of them.
fn add_line(text: &mut String, line: &str) {
    text.push('\n');
    text.push_str(line);
}

/// A conversation up to its last answer, as a row.
fn flush(turns: &mut Vec<(usize, bool, String)>, out: &mut Collector) {
    let turns = core::mem::take(turns);
    let Some(last) = turns.iter().rposition(|(_, mine, _)| *mine) else { return };
    let turn = |(_, mine, text): &(usize, bool, String)| message(if *mine { "assistant" } else { "user" }, text);
    let messages = turns.iter().take(last.saturating_add(1)).map(turn);
    out.push(
        turns.first().map_or(0, |turn| turn.0),
        Ok(Json::Object(vec![("messages".into(), Json::List(messages.collect()))])),
    );
}

/// Names and how often they come, the most frequent first.
pub fn counted<'a>(names: impl Iterator<Item = &'a str>) -> Vec<(&'a str, usize)> {
    // When each came first, and how often: of names that come equally often the first stands first.
    let mut all: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (i, name) in names.enumerate() {
        let (_, n) = all.entry(name).or_insert((i, 0));
        *n = n.saturating_add(1);
    }
    let mut all: Vec<_> = all.into_iter().collect();
    all.sort_by_key(|(_, (first, n))| (core::cmp::Reverse(*n), *first));
    all.into_iter().map(|(name, (_, n))| (name, n)).collect()
}

/// Whose words are learnt: who was named, or who has the phone.
///
/// # Errors
/// `Invalid` with all names, if there is no such person or none can be guessed.
pub fn whose(names: &[(&str, usize)], named: Option<&str>, what: &str) -> Result<String> {
    let find = |wanted: &str| names.iter().find(|(name, _)| name.to_lowercase() == wanted.to_lowercase());
    let found = match named {
        Some(name) => find(name.trim()),
        None => ME.iter().find_map(|name| find(name)),
    };
    if let Some((name, _)) = found {
        return Ok((*name).into());
    }
    if names.is_empty() {
        return Err(Error::invalid("speaker", "nobody says anything in this file"));
    }
    let list: Vec<String> =
        names.iter().take(12).map(|(name, n)| format!("{} ({n} {what})", printable(name))).collect();
    let more = if names.len() > 12 { format!(" and {} more", names.len().saturating_sub(12)) } else { String::new() };
    let list = list.join(", ") + &more;
    Err(Error::invalid(
        "speaker",
        match named {
            Some(name) => format!("there is no {:?}, but {list}", printable(name)),
            None => format!("whose words are to be learnt? name one of {list} (--speaker NAME)"),
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_of_messages_are_recognised() {
        for (line, wanted) in [
            ("12/31/23, 10:15 - Ann: Hello", Some(("12/31/23", "Ann: Hello"))),
            ("31.12.23, 10:15 - Ann: Hello: you", Some(("31.12.23", "Ann: Hello: you"))),
            ("12/31/23, 10:15\u{202f}PM - Ann: Hello", Some(("12/31/23", "Ann: Hello"))),
            ("2023-12-31, 10:15 a. m. - Ann: Hello", Some(("2023-12-31", "Ann: Hello"))),
            ("\u{200e}[31.12.23, 10:15:02] Ann: Hello", Some(("31.12.23", "Ann: Hello"))),
            ("[12/31/23, 10:15:02 PM] ~ Ann: Hello", Some(("12/31/23", "~ Ann: Hello"))),
            ("12/31/23, 10:15 - Messages are encrypted.", Some(("12/31/23", "Messages are encrypted."))),
            ("12/31/23 was a good day - we had tea", None),
            ("10:15 - Ann: Hello", None),
            ("Hello", None),
        ] {
            assert_eq!(head(line), wanted, "{line}");
        }
        assert_eq!(speaker("~ Ann: Hello"), Some(("Ann", "Hello")));
        assert_eq!(speaker("Messages are encrypted."), None);
        assert!(
            ["<Media omitted>", "\u{200e}image omitted", "This message was deleted."].iter().all(|t| is_placeholder(t))
        );
        assert!(!is_placeholder("a < b"));
    }

    #[test]
    fn speakers_are_listed_where_none_is_named() {
        let names = counted(["Ann", "Ben", "Ann"].into_iter());
        assert_eq!(names, [("Ann", 2), ("Ben", 1)]);
        assert_eq!(whose(&names, Some("ben"), "messages").unwrap(), "Ben");
        assert_eq!(whose(&counted(["You", "Ann"].into_iter()), None, "messages").unwrap(), "You");
        let why = whose(&names, None, "messages").unwrap_err().to_string();
        assert!(why.contains("Ann (2 messages), Ben (1 messages)") && why.contains("--speaker"), "{why}");
        assert!(whose(&names, Some("Cid"), "messages").unwrap_err().to_string().contains("no \"Cid\""));
    }
}
