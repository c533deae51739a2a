//! Dates for templates that show one.

use std::prelude::v1::*;

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Years that dates may show; the bounds keep the numbers small.
const YEARS: core::ops::Range<i64> = 0..10_000;

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// Days from 1970-01-01 to January 1 of the year.
fn days_before(year: i64) -> i64 {
    let y = year - 1;
    365 * (year - 1970) + (y.div_euclid(4) - 492) - (y.div_euclid(100) - 19) + (y.div_euclid(400) - 4)
}

/// `seconds` since 1970 in a format of `strftime`.
///
/// # Errors
/// What is wrong with the format or the time, in words.
pub fn format_time(format: &str, seconds: i64) -> Result<String, String> {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let guess = 1970 + days.div_euclid(366).max(-2000);
    let year = (guess..).take_while(|&year| days_before(year) <= days && year < YEARS.end).last();
    let year = year.filter(|year| YEARS.contains(year)).ok_or("the time has no year of four digits")?;
    let day_of_year = days - days_before(year);
    let (mut month, mut day) = (0, day_of_year);
    let length = |month: usize| match month {
        1 => 28 + is_leap(year) as i64,
        3 | 5 | 8 | 10 => 30,
        _ => 31,
    };
    while month < 11 && day >= length(month) {
        day -= length(month);
        month += 1;
    }
    if day >= 31 {
        return Err("the time has no year of four digits".into());
    }
    let weekday = DAYS[(days + 4).rem_euclid(7) as usize];
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let hour12 = (hour + 11) % 12 + 1;

    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut code = chars.next();
        let bare = code == Some('-');
        if bare {
            code = chars.next();
        }
        let two = |n: i64| if bare { n.to_string() } else { format!("{n:02}") };
        out += &match code {
            Some('Y') => format!("{year:04}"),
            Some('y') => two(year % 100),
            Some('m') => two(month as i64 + 1),
            Some('d') => two(day + 1),
            Some('e') => format!("{:2}", day + 1),
            Some('j') => format!("{:03}", day_of_year + 1),
            Some('B') => MONTHS[month].into(),
            Some('b') => MONTHS[month][..3].into(),
            Some('A') => weekday.into(),
            Some('a') => weekday[..3].into(),
            Some('H') => two(hour),
            Some('I') => two(hour12),
            Some('M') => two(minute),
            Some('S') => two(second),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.into(),
            Some('F') => format!("{year:04}-{:02}-{:02}", month + 1, day + 1),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('%') => "%".into(),
            Some(other) => return Err(format!("strftime_now does not know %{}", other.escape_default())),
            None => return Err("strftime_now: the format ends with %".into()),
        };
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let all = "%Y-%m-%d %H:%M:%S %a %b %j %I %p %-d %y%%";
        assert_eq!(format_time(all, 0).unwrap(), "1970-01-01 00:00:00 Thu Jan 001 12 AM 1 70%");
        assert_eq!(format_time(all, 951_782_399).unwrap(), "2000-02-28 23:59:59 Mon Feb 059 11 PM 28 00%");
        assert_eq!(format_time("%F %T %A %B", 1_709_164_800).unwrap(), "2024-02-29 00:00:00 Thursday February");
        assert_eq!(format_time("%d %b %Y", 1_735_603_200).unwrap(), "31 Dec 2024");
        assert_eq!(format_time("%F", -1).unwrap(), "1969-12-31");
        // One day after another, as the calendar has it.
        let mut last = format_time("%F", -1).unwrap();
        for day in 0..40_000 {
            let date = format_time("%F", day * 86_400).unwrap();
            assert!(last < date, "{date}");
            last = date;
        }
        assert_eq!(last, "2079-07-07");
    }

    #[test]
    fn odd_formats_and_times_are_errors() {
        assert!(format_time("%Q", 0).is_err() && format_time("%", 0).is_err() && format_time("%-", 0).is_err());
        for seconds in [i64::MIN, i64::MAX, 1 << 50, -(1 << 50)] {
            assert!(format_time("%Y", seconds).is_err());
        }
    }
}
