//! Mails: a mailbox file (mbox) or one mail, without what they quote and without signatures.

use super::talk::{counted, whose};
use super::turns::message;
use super::{Collector, Reader};
use crate::error::{Error, Result};
use crate::text::Json;
use mail_parser::MessageParser;
use std::collections::BTreeMap;
use std::prelude::v1::*;

/// Lines behind which another mail is repeated.
const REPEATED: [&str; 4] = [
    "-----original message-----",
    "begin forwarded message:",
    "---------- forwarded message",
    "________________________________",
];

/// A mail.
struct Mail {
    line: usize,
    id: String,
    answers: String,
    name: String,
    address: String,
    subject: String,
    text: String,
}

impl Reader<'_> {
    /// Gives the mails of a file to `out`: a row each or, if somebody is named, that person's answers with what they answer.
    ///
    /// # Errors
    /// `Invalid` if there is nobody of that name.
    pub(super) fn mails(&self, bytes: &[u8], out: &mut Collector) -> Result<()> {
        let mut mails = Vec::new();
        for (line, bytes) in parts(bytes) {
            match read(line, &bytes) {
                Some(mail) if mail.text.is_empty() => {
                    out.leave_out(line, Error::invalid("mail", "no text of its own"));
                }
                Some(mail) => mails.push(mail),
                None => out.leave_out(line, Error::invalid("mail", "it has no readable head")),
            }
        }
        let Some(named) = self.options.speaker.as_deref() else {
            for mail in &mails {
                let text = format!("Subject: {}\n\n{}", mail.subject, mail.text);
                out.push(mail.line, Ok(Json::Object(vec![("text".into(), Json::Text(text))])));
            }
            let n = mails.len();
            out.note(format!("{n} mails, a row each; with --speaker NAME the answers of one person are learnt"));
            return Ok(());
        };
        let by_address = mails.iter().any(|mail| mail.address.eq_ignore_ascii_case(named.trim()));
        let who = |mail: &Mail| if by_address { mail.address.clone() } else { mail.name.clone() };
        let names: Vec<String> = mails.iter().map(who).collect();
        let me = whose(&counted(names.iter().map(String::as_str)), Some(named), "mails")?;
        // Of mails with one name the first; one without a name answers nothing.
        let named = mails.iter().rev().filter(|mail| !mail.id.is_empty());
        let by_name: BTreeMap<&str, &Mail> = named.map(|mail| (mail.id.as_str(), mail)).collect();
        let (mut answers, mut others) = (0usize, 0usize);
        for mail in mails.iter().filter(|mail| who(mail) == me) {
            let Some(asked) = by_name.get(mail.answers.as_str()) else {
                others = others.saturating_add(1);
                continue;
            };
            let messages = vec![message("user", &asked.text), message("assistant", &mail.text)];
            out.push(mail.line, Ok(Json::Object(vec![("messages".into(), Json::List(messages))])));
            answers = answers.saturating_add(1);
        }
        out.note(format!("{answers} mails of {me} with the mails that they answer; {others} answer none of this file"));
        Ok(())
    }
}

/// The mails of a mailbox, with the lines where they begin; what has no separator is one mail.
fn parts(bytes: &[u8]) -> Vec<(usize, Vec<u8>)> {
    let mut all: Vec<(usize, Vec<u8>)> = Vec::new();
    let mailbox = bytes.starts_with(b"From ");
    let mut blank = true;
    for (number, line) in (1..).zip(bytes.split_inclusive(|b| *b == b'\n')) {
        if mailbox && blank && line.starts_with(b"From ") {
            all.push((number, Vec::new()));
            continue;
        }
        blank = line.trim_ascii().is_empty();
        // A mailbox quotes lines that would look like its separator.
        let quoted = line.iter().take_while(|b| **b == b'>').count();
        let line = if mailbox && quoted > 0 && line.get(quoted..).is_some_and(|l| l.starts_with(b"From ")) {
            line.get(1..).unwrap_or_default()
        } else {
            line
        };
        match all.last_mut() {
            Some((_, mail)) => mail.extend_from_slice(line),
            None => all.push((number, line.into())),
        }
    }
    all
}

fn read(line: usize, bytes: &[u8]) -> Option<Mail> {
    let mail = MessageParser::default().parse(bytes)?;
    let from = mail.from().and_then(|from| from.first())?;
    let address = from.address().unwrap_or_default().to_string();
    let text = mail.body_text(0).unwrap_or_default();
    Some(Mail {
        line,
        id: mail.message_id().unwrap_or_default().into(),
        answers: mail.in_reply_to().as_text().unwrap_or_default().into(),
        name: from.name().map_or_else(|| address.clone(), |name| name.trim().into()),
        address,
        subject: mail.subject().unwrap_or_default().trim().into(),
        text: own(&text),
    })
}

/// What a mail says itself.
fn own(text: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for line in text.lines() {
        let small = line.trim().to_lowercase();
        // The signature, or another mail.
        if line.trim_end_matches('\r') == "-- "
            || line.trim() == "--"
            || REPEATED.iter().any(|begin| small.starts_with(begin))
        {
            break;
        }
        if line.starts_with('>') {
            // `On Monday Ann wrote:` introduces a quotation, on one line or two.
            while kept.last().is_some_and(|line| line.trim().is_empty()) {
                kept.pop();
            }
            if kept.last().is_some_and(|line| line.trim_end().ends_with(':') && line.len() > 20) {
                kept.pop();
            }
            kept.push("");
            continue;
        }
        if !(line.trim().is_empty() && kept.last().is_none_or(|line| line.trim().is_empty())) {
            kept.push(line.trim_end());
        }
    }
    kept.join("\n").trim().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotations_and_signatures_are_dropped() {
        let text = "Yes, at four.\r\n\r\nOn Monday, 5 March 2024, Ann wrote:\r\n> Tea?\r\n> Or soup?\r\n\r\nSoup, too.\r\n-- \r\nBen\r\n";
        assert_eq!(own(text), "Yes, at four.\n\nSoup, too.");
        assert_eq!(own("A\n-----Original Message-----\nFrom: B"), "A");
        assert_eq!(own("> only\n"), "");
    }

    #[test]
    fn a_mailbox_has_separators() {
        let text = "From a@b Mon\nSubject: A\n\n>From here on\nFrom there\n\nFrom c@d Tue\nSubject: B\n\ntext\n";
        let parts = parts(text.as_bytes());
        assert_eq!(parts.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 7]);
        assert!(parts[0].1.ends_with(b"\nFrom here on\nFrom there\n\n"));
        assert_eq!(super::parts(b"Subject: A\n\nFrom here\n").len(), 1);
    }
}
