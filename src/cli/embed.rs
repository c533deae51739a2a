//! `mynah embed`: vectors of texts.

use crate::args::{Embed, Usage, setting};
use crate::{Outcome, load, meter, out};
use anyhow::{Context, anyhow};
use mynah::app::Embedding;
use mynah::bytes::{Limits, map};
use mynah::model::Pooling;
use mynah::nn::linear::Precision;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Cursor, IsTerminal, Read};

/// Texts that are read before they go through the model.
const TOGETHER: usize = 64;

#[derive(Serialize)]
struct Vector<'a> {
    embedding: &'a [f32],
}

#[derive(Deserialize)]
struct Row {
    text: String,
}

pub fn embed(args: &Embed, json: bool) -> anyhow::Result<Outcome> {
    let mut texts = texts(args)?;
    let mynah = load::model(&args.model())?;
    let stack = load::stack(&mynah, &args.adapters, &args.other)?;
    let precision = if args.exact { Precision::F32 } else { Precision::Int8 };
    let embedding = mynah.embedding().stack(stack).precision(precision).normalise(!args.no_normalise);
    let embedding = match &args.pooling {
        Some(name) => embedding.pooling(Pooling::by_name(name)?),
        None => {
            let hint = "; --pooling mean, cls or last gives one vector a text";
            Pooling::of(&mynah.model().hparams).map_err(|e| anyhow!("{}: {e}{hint}", args.model().name()))?;
            if mynah.model().hparams.pooling_type.is_none() {
                out::say("the model's file names no pooling, so the mean is used; --pooling chooses another");
            }
            embedding
        }
    };
    let embedding = match args.ctx {
        Some(tokens) => embedding.context(tokens),
        None => embedding,
    };
    meter::catch_interrupt("stopping after these texts")?;
    let (mut done, mut batch) = (0, Vec::new());
    loop {
        batch.clear();
        for text in texts.by_ref().take(TOGETHER) {
            batch.push(text?);
        }
        if batch.is_empty() {
            break;
        }
        if meter::interrupted() {
            return Ok(Outcome::Interrupted);
        }
        show(&vectors(&embedding, done, &batch)?, json)?;
        done += batch.len();
    }
    match done {
        0 => Err(anyhow!("no text to embed")),
        _ => Ok(Outcome::Done),
    }
}

/// The vectors of some texts, of which `done` came before.
fn vectors(embedding: &Embedding, done: usize, batch: &[String]) -> anyhow::Result<Vec<Vec<f32>>> {
    match embedding.embed(batch) {
        Err(mynah::Error::Limit { what, asked, allowed }) if what.starts_with("tokens of text") => {
            let number = what.rsplit(' ').next().and_then(|i| i.parse::<usize>().ok()).unwrap_or(0) + done + 1;
            Err(Usage::error(format!(
                "text {number} has {asked} tokens, and the model reads {allowed}; --ctx {allowed} cuts such texts"
            )))
        }
        vectors => setting(vectors).with_context(|| format!("texts {} to {}", done + 1, done + batch.len())),
    }
}

fn show(vectors: &[Vec<f32>], json: bool) -> anyhow::Result<()> {
    for vector in vectors {
        if json {
            out::print_json(&Vector { embedding: vector })?;
        } else {
            let words: Vec<String> = vector.iter().map(f32::to_string).collect();
            out::print(&(words.join(" ") + "\n"))?;
        }
    }
    Ok(())
}

/// The texts that the options name, one after another.
fn texts(args: &Embed) -> anyhow::Result<Box<dyn Iterator<Item = anyhow::Result<String>>>> {
    if !args.prompt.is_empty() {
        return Ok(Box::new(args.prompt.clone().into_iter().map(Ok)));
    }
    let Some(path) = &args.data else {
        if std::io::stdin().is_terminal() {
            return Err(Usage::error("nothing to embed: give -p TEXT or -d FILE"));
        }
        return Ok(Box::new(lines(BufReader::new(std::io::stdin()), "standard input".into(), None)));
    };
    let name = out::name(path);
    let bytes = map::open(path)?;
    let (held, file) = (bytes.clone(), Cursor::new(bytes));
    let ends = |list: &[&str]| list.iter().any(|end| name.to_ascii_lowercase().ends_with(end));
    let rows = match (ends(&[".jsonl", ".ndjson", ".json"]), ends(&[".txt", ".md"])) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    };
    Ok(Box::new(lines(file, name, rows).map(move |text| held.check().map_err(Into::into).and(text))))
}

/// The texts of lines: rows of JSON or plain ones, or whichever the first one is. Empty lines are left out.
fn lines(mut from: impl BufRead, name: String, mut rows: Option<bool>) -> impl Iterator<Item = anyhow::Result<String>> {
    let (mut number, most) = (0u64, Limits::default().line);
    std::iter::from_fn(move || {
        loop {
            let mut line = Vec::new();
            number += 1;
            let mut next = || -> anyhow::Result<Option<String>> {
                if from.by_ref().take(most + 1).read_until(b'\n', &mut line)? == 0 {
                    return Ok(None);
                }
                Limits::check("bytes of a line", line.len() as u64, most)?;
                let line = if number == 1 { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line) } else { &line };
                let line = std::str::from_utf8(line).context("not UTF-8")?.trim_end_matches(['\n', '\r']);
                let empty = line.trim().is_empty();
                if !empty && rows.is_none() {
                    rows = Some(line.trim_start().starts_with('{'));
                }
                match rows {
                    Some(true) if !empty => Ok(Some(serde_json::from_str::<Row>(line)?.text)),
                    _ => Ok(Some(if empty { String::new() } else { line.into() })),
                }
            };
            match next().with_context(|| format!("{name}: line {number}")) {
                Ok(Some(text)) if text.is_empty() => continue,
                text => return text.transpose(),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8], rows: Option<bool>) -> Vec<String> {
        let text = text.to_vec();
        lines(std::io::Cursor::new(text), "a".into(), rows).map(|t| t.unwrap_or_else(|e| out::why(&e))).collect()
    }

    #[test]
    fn lines_are_texts_or_rows() {
        assert_eq!(read(b"\xef\xbb\xbfone\r\n\n two", None), ["one", " two"]);
        assert_eq!(read(b"{\"text\": \"a\\nb\", \"id\": 1}\n\n{\"text\": \"c\"}\n", None), ["a\nb", "c"]);
        assert_eq!(read(b"{curly}", Some(false)), ["{curly}"]);
        let bad = read(b"{\"text\": \"a\"}\n{\"texts\": 1}\n", None);
        assert!(bad[1].starts_with("a: line 2: missing field `text`"), "{bad:?}");
        assert!(read(b"a\n\xff", None)[1].starts_with("a: line 2: not UTF-8"));
    }
}
