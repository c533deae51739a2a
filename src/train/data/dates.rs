//! Lines that begin with a date.

use std::prelude::v1::*;

/// A line without marks before its words.
pub fn plain(line: &str) -> &str {
    line.trim_start_matches(|c: char| c.is_whitespace() || "#*_>[(-•".contains(c))
}

/// The months, whole and short, in English, German, French, Spanish, Italian and Dutch.
const MONTHS: [&str; 60] = [
    "january",
    "jan",
    "januar",
    "januari",
    "janvier",
    "enero",
    "gennaio",
    "february",
    "feb",
    "februar",
    "februari",
    "février",
    "febrero",
    "march",
    "mar",
    "märz",
    "mars",
    "marzo",
    "april",
    "apr",
    "avril",
    "abril",
    "may",
    "mai",
    "mayo",
    "june",
    "jun",
    "juni",
    "juin",
    "junio",
    "july",
    "jul",
    "juli",
    "juillet",
    "julio",
    "august",
    "aug",
    "août",
    "agosto",
    "september",
    "sep",
    "sept",
    "septembre",
    "septiembre",
    "october",
    "oct",
    "oktober",
    "okt",
    "octobre",
    "octubre",
    "november",
    "nov",
    "novembre",
    "noviembre",
    "december",
    "dec",
    "dezember",
    "dez",
    "décembre",
    "diciembre",
];
/// The days of the week, in English, German, French and Spanish.
const WEEKDAYS: [&str; 35] = [
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
    "sunday",
    "mon",
    "tue",
    "wed",
    "thu",
    "fri",
    "sat",
    "sun",
    "montag",
    "dienstag",
    "mittwoch",
    "donnerstag",
    "freitag",
    "samstag",
    "sonntag",
    "lundi",
    "mardi",
    "mercredi",
    "jeudi",
    "vendredi",
    "samedi",
    "dimanche",
    "lunes",
    "martes",
    "miércoles",
    "jueves",
    "viernes",
    "sábado",
    "domingo",
];

/// Whether a line begins with a date such as `2024-03-05`, `5.3.24`, `5 March`, `March 5th, 2024`, `Tuesday, 5 March` or
/// `2024年3月5日`, or is a day of the week.
pub fn begins_with_date(line: &str) -> bool {
    let words: Vec<String> = plain(line).split_whitespace().take(4).map(str::to_lowercase).collect();
    let bare = |word: &str| word.trim_matches(|c: char| ",.:;)]*_–—-".contains(c)).to_string();
    let mut words = &words[..];
    if let [first, rest @ ..] = words
        && WEEKDAYS.contains(&bare(first).as_str())
    {
        // Alone it is a date, but short ones may be words: `Sun.`
        if rest.is_empty() && first.len() > 3 && !first.ends_with('.') || first.ends_with(':') {
            return true;
        }
        words = rest;
    }
    let month = |word: &str| MONTHS.contains(&word);
    let endings = ["st", "nd", "rd", "th", "er", "º"];
    let day = |word: &str| {
        let number = endings.iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word);
        number.parse::<u8>().is_ok_and(|n| (1..=31).contains(&n))
    };
    let year = |word: &str| word.len() == 4 && word.parse::<u16>().is_ok_and(|n| (1000..3000).contains(&n));
    let of = |i: usize| words.get(i).map(|word| bare(word)).unwrap_or_default();
    let first = of(0);
    let second = if ["of", "de"].contains(&of(1).as_str()) { of(2) } else { of(1) };
    is_numeric_date(&first, words.first().is_some_and(|word| word.ends_with('.')))
        || day(&first) && month(&second)
        || month(&first) && (day(&second) || year(&second))
}

/// Whether a word is a date in numbers. Day and month alone need a full stop behind them (`dotted`).
fn is_numeric_date(word: &str, dotted: bool) -> bool {
    if let Some((year, rest)) = word.split_once('年') {
        return year.parse::<u16>().is_ok() && rest.contains('月');
    }
    let word = word.split(['t', ',']).next().unwrap_or_default();
    ['-', '/', '.'].iter().any(|mark| {
        let numbers: Option<Vec<u16>> = word.split(*mark).map(|n| n.parse().ok()).collect();
        let fits = |day: u16, month: u16| (1..=31).contains(&day) && (1..=31).contains(&month) && day.min(month) <= 12;
        match numbers.as_deref() {
            Some([a, b, c]) if *a > 31 => (1000..3000).contains(a) && fits(*b, *c),
            Some([a, b, c]) => fits(*a, *b) && (*c < 100 || (1000..3000).contains(c)),
            Some([a, b]) => *mark == '.' && dotted && fits(*a, *b),
            _ => false,
        }
    })
}
