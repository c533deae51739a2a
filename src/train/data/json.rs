//! JSON: one value a line, one list of all rows, or values that extend over several lines.

use super::part_of;
use crate::bytes::Limits;
use crate::error::Result;
use crate::text::Json;
use std::prelude::v1::*;

/// Gives every row to `row`, with the line where it begins, from 1. Returns what was guessed of the file.
pub fn rows(text: &str, limits: &Limits, row: &mut dyn FnMut(usize, Result<Json>)) -> Option<String> {
    let body = text.trim();
    let layout = layout(body);
    let first = newlines(text.strip_suffix(text.trim_start()).unwrap_or_default()).saturating_add(1);
    let mut read = |line: usize, value: &str| {
        let checked = Limits::check("bytes of a line", value.len() as u64, limits.line);
        row(line, checked.and_then(|()| Json::parse(value.as_bytes(), limits.json_depth)));
    };
    match layout {
        Arrangement::Lines => {
            for (line, value) in (1..).zip(text.split('\n')) {
                if !value.trim_ascii().is_empty() {
                    read(line, value.trim_end_matches('\r'));
                }
            }
            return None;
        }
        Arrangement::List => values(body.strip_prefix('[').unwrap_or(body), first, true, limits.broken, &mut read),
        Arrangement::Values => values(body, first, false, limits.broken, &mut read),
    }
    Some(match layout {
        Arrangement::List => "one JSON list of rows".into(),
        _ => "rows of JSON over several lines".into(),
    })
}

/// How values are laid out in a file.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Arrangement {
    Lines,
    List,
    Values,
}

/// Printers of JSON break lines behind these marks.
const BREAKS: [char; 3] = ['{', '[', ','];

fn layout(body: &str) -> Arrangement {
    let line = body.lines().next().unwrap_or_default().trim_end();
    let list = body.starts_with('[');
    match scan(body) {
        // One list and nothing behind it.
        Scan::Whole(end) if list && part_of(body, end..).trim().is_empty() => Arrangement::List,
        Scan::Whole(end) if !list && end > line.len() && line.ends_with(BREAKS) => Arrangement::Values,
        // Cut off, or broken somewhere.
        Scan::Open if body.strip_prefix('[').is_some_and(|inner| inner.trim_start().starts_with('{')) => {
            Arrangement::List
        }
        Scan::Open | Scan::Broken if list && line.ends_with(BREAKS) => Arrangement::List,
        Scan::Open | Scan::Broken
            if body.starts_with('{') && line.ends_with(BREAKS) && body.lines().nth(1).is_some_and(inner) =>
        {
            Arrangement::Values
        }
        _ => Arrangement::Lines,
    }
}

/// Whether a line looks like one inside a value.
fn inner(line: &str) -> bool {
    line.starts_with([' ', '\t', '"'])
}

/// What stands at the beginning of a text.
#[derive(Debug, PartialEq)]
enum Scan {
    /// A value that ends here.
    Whole(usize),
    /// A value that does not end.
    Open,
    /// Something else.
    Broken,
}

/// Finds the end of the object or list at the beginning.
fn scan(text: &str) -> Scan {
    let (mut depth, mut string, mut escaped) = (0usize, false, false);
    for (i, byte) in text.bytes().enumerate() {
        match (string, byte) {
            (true, b'\n') => return Scan::Broken,
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => string = !string,
            (true, _) => {}
            (_, b'{' | b'[') => depth = depth.saturating_add(1),
            (_, b'}' | b']') => match depth {
                0 => return Scan::Broken,
                1 => return Scan::Whole(i.saturating_add(1)),
                _ => depth = depth.saturating_sub(1),
            },
            _ if depth == 0 => return Scan::Broken,
            _ => {}
        }
    }
    Scan::Open
}

fn newlines(text: &str) -> usize {
    text.matches('\n').count()
}

/// The values of a text one after the other; in a list, with commas between them up to its end.
fn values(mut text: &str, mut line: usize, list: bool, most: u64, read: &mut dyn FnMut(usize, &str)) {
    let mut broken = 0;
    loop {
        let separator = |c: char| c.is_whitespace() || list && c == ',';
        let rest = text.trim_start_matches(separator);
        line = line.saturating_add(newlines(text.strip_suffix(rest).unwrap_or_default()));
        if rest.is_empty() || list && rest.starts_with(']') {
            return;
        }
        let end = match scan(rest) {
            Scan::Whole(end) => end,
            // What is no value ends where the next line begins one; in a list a text or a number at the next comma.
            _ if list && !rest.starts_with(['{', '[']) => rest.find([',', ']', '\n']).unwrap_or(rest.len()).max(1),
            _ if broken == most => rest.len(),
            _ => {
                broken = u64::saturating_add(broken, 1);
                // Where lines end below which a value begins, and how far it stands in.
                let ends = rest.match_indices('\n').filter_map(|(at, end)| {
                    let line = part_of(rest, at..).strip_prefix(end)?;
                    let value = line.trim_start_matches([' ', '\t']);
                    value.starts_with('{').then(|| (line.len().saturating_sub(value.len()), at))
                });
                // The first of those that stand in least.
                ends.min().map_or(rest.len(), |(_, at)| at)
            }
        };
        let (held, more) = rest.split_at_checked(end).unwrap_or((rest, ""));
        let value = held.trim_end();
        read(line, value.strip_suffix(',').unwrap_or(value));
        line = line.saturating_add(newlines(held));
        text = more;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> (Vec<(usize, bool)>, Option<String>) {
        let mut found = Vec::new();
        let note = rows(text, &Limits::default(), &mut |line, json| found.push((line, json.is_ok())));
        (found, note)
    }

    #[test]
    fn values_are_found_in_every_layout() {
        let pretty = "{\n  \"a\": [\n    1\n  ]\n}\n";
        for (text, wanted, note) in [
            ("", vec![], None),
            ("{\"a\": 1}\r\n\n{\"a\": 2}", vec![(1, true), (3, true)], None),
            ("[1]\n{\"a\": 2}", vec![(1, true), (2, true)], None),
            ("\n[{\"a\": 1}, {\"a\": \"]\"}]\n", vec![(2, true), (2, true)], Some("list")),
            ("[\n {\"a\": 1},\n {\"a\": {}}\n]", vec![(2, true), (3, true)], Some("list")),
            ("[]", vec![], Some("list")),
            ("[1, \"x\", {}]", vec![(1, true), (1, true), (1, true)], Some("list")),
            (&[pretty, pretty].concat(), vec![(1, true), (6, true)], Some("several")),
            // Broken: the rest is read.
            ("{\"a\": \n{\"a\": 1}", vec![(1, false), (2, true)], None),
            ("{\"a\": \"x\n{\"a\": 1}", vec![(1, false), (2, true)], None),
            ("[\n {\"a\": 1},\n {\"a\": {\"b\"", vec![(2, true), (3, false)], Some("list")),
            ("[\n {\"a\": \"x},\n {\"a\": 1}\n]", vec![(2, false), (3, true)], Some("list")),
            (
                &[pretty, "{\n  \"a\": \"x\n}\n", pretty].concat(),
                vec![(1, true), (6, false), (9, true)],
                Some("several"),
            ),
            (&pretty[..12], vec![(1, false)], Some("several")),
        ] {
            let (found, said) = lines(text);
            assert_eq!(found, wanted, "{text}");
            assert!(
                said.as_deref().is_some_and(|s| note.is_some_and(|n| s.contains(n)))
                    || said.is_none() && note.is_none(),
                "{text}: {said:?}"
            );
        }
    }

    #[test]
    fn deep_and_long_texts_end() {
        let deep = "[".repeat(100_000);
        assert!(lines(&deep).0.iter().all(|(_, good)| !good));
        assert_eq!(lines(&"{".repeat(100_000)).0.len(), 1);
    }
}
