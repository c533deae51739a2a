//! `mynah data look`: training data as the model will see them.

use crate::args::{Data, DataCommand, Engine, Look, ModelArgs, Reading, Usage};
use crate::{Outcome, load, out};
use anyhow::Context;
use mynah::Mynah;
use mynah::bytes::Limits;
use mynah::text::{Decode, Tokenizer};
use mynah::train::Example;
use mynah::train::data::{Dataset, Files, Reader, Split};
use serde::Serialize;
use std::io::IsTerminal;

/// Tokens of a row, as `mynah train` takes them.
const CONTEXT: usize = 256;

pub fn data(args: &Data, json: bool) -> anyhow::Result<Outcome> {
    match &args.command {
        DataCommand::Look(args) => look(args, json),
    }
}

/// A part of a row.
#[derive(Serialize)]
struct Part {
    text: String,
    /// Whether it is learnt.
    learnt: bool,
}

#[derive(Serialize)]
struct Row {
    line: Option<usize>,
    tokens: usize,
    learnt: usize,
    parts: Vec<Part>,
    /// The other completion, or the passages of a query.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    others: Vec<Vec<Part>>,
}

#[derive(Serialize)]
struct LeftOut<'a> {
    file: Option<&'a str>,
    line: usize,
    why: &'a str,
}

#[derive(Serialize)]
struct Lengths {
    min: usize,
    median: usize,
    max: usize,
}

#[derive(Serialize)]
struct Summary<'a> {
    rows: usize,
    tokens: usize,
    learnt: usize,
    lengths: Lengths,
    longer: usize,
    longest: usize,
    ctx: usize,
    left_out: Vec<LeftOut<'a>>,
    notes: &'a [String],
    first: Vec<Row>,
}

fn look(args: &Look, json: bool) -> anyhow::Result<Outcome> {
    let files = Files::open(&args.data, &Limits::DEFAULT)?;
    let mynah = load::model(&model(args))?;
    let most = mynah.model().hparams.context;
    let ctx = args.ctx.unwrap_or(CONTEXT.min(most));
    if ctx < 2 || ctx > most {
        return Err(Usage::error(format!("--ctx {ctx}: the model was made for 2 to {most} tokens")));
    }
    let data = read(args, &mynah, ctx, &files)?;
    let summary = summary(&data, mynah.tokenizer(), ctx, args.rows)?;
    if json {
        out::print_json(&summary)?;
    } else {
        load::notes(&data);
        out::print_own(eyes(&summary, std::io::stdout().is_terminal()).as_bytes())?;
    }
    Ok(Outcome::Done)
}

fn model(args: &Look) -> ModelArgs {
    ModelArgs {
        model: args.model.clone(),
        adapters: Vec::new(),
        other: Default::default(),
        reading: Reading { exact: false, cache: None, repack: None },
        engine: Engine { threads: Some(1), cpus: Vec::new(), io: Default::default() },
    }
}

fn read(args: &Look, mynah: &Mynah, ctx: usize, files: &Files) -> anyhow::Result<Dataset> {
    let template = load::template(mynah)?.map(|t| t.merge_system(args.how.merge_system));
    let reader = Reader {
        tokenizer: mynah.tokenizer(),
        template: template.as_ref(),
        ctx,
        parse_special: args.how.parse_special,
        options: args.how.options(Split::Auto),
        limits: Limits::default(),
    };
    reader.files(files).with_context(|| out::name(&args.data))
}

fn summary<'a>(data: &'a Dataset, tokenizer: &Tokenizer, ctx: usize, rows: usize) -> anyhow::Result<Summary<'a>> {
    let len = |row: &Example| row.sequences().map(|e| e.tokens.len()).max().unwrap_or(0);
    let mut lengths: Vec<usize> = data.examples.iter().map(len).collect();
    lengths.sort_unstable();
    let at = |i: usize| lengths.get(i).copied().unwrap_or(0);
    let first = data.examples.iter().take(rows).map(|row| seen(row, tokenizer)).collect::<mynah::Result<_>>()?;
    Ok(Summary {
        rows: data.examples.len(),
        tokens: data.tokens(),
        learnt: data.examples.iter().flat_map(Example::sequences).map(Example::targets).sum(),
        lengths: Lengths { min: at(0), median: at(lengths.len() / 2), max: at(lengths.len() - 1) },
        longer: data.cut,
        longest: data.longest,
        ctx,
        left_out: data
            .left_out
            .iter()
            .map(|row| LeftOut { file: row.file.as_deref(), line: row.line, why: &row.why })
            .collect(),
        notes: &data.notes,
        first,
    })
}

/// A row as the model sees it.
fn seen(row: &Example, tokenizer: &Tokenizer) -> mynah::Result<Row> {
    let others = row.sequences().skip(1).map(|e| parts(e, tokenizer)).collect::<mynah::Result<_>>()?;
    Ok(Row { line: row.line, tokens: row.tokens.len(), learnt: row.targets(), parts: parts(row, tokenizer)?, others })
}

/// Runs of tokens that are learnt or not. The first token is never predicted.
fn parts(row: &Example, tokenizer: &Tokenizer) -> mynah::Result<Vec<Part>> {
    let options = Decode { unparse_special: true, ..Decode::default() };
    let learnt = |i: usize| i > 0 && row.mask[i];
    let (mut parts, mut start) = (Vec::new(), 0);
    for end in 1..=row.tokens.len() {
        if end == row.tokens.len() || learnt(end) != learnt(start) {
            // From the beginning, so that space before the first word is that of the whole.
            let text = |end: usize| tokenizer.decode(&row.tokens[..end], &options);
            let (before, all) = (text(start)?, text(end)?);
            let text = String::from_utf8_lossy(all.get(before.len()..).unwrap_or_default()).into_owned();
            parts.push(Part { text, learnt: learnt(start) });
            start = end;
        }
    }
    Ok(parts)
}

fn eyes(summary: &Summary, colour: bool) -> String {
    let mut text = String::new();
    for (i, row) in summary.first.iter().enumerate() {
        let line = row.line.map_or(String::new(), |line| format!(" (line {line})"));
        text += &format!("row {}{line}: {} tokens, {} learnt\n", i + 1, row.tokens, row.learnt);
        text += &marked(&row.parts, colour);
        for other in &row.others {
            text += "  beside it:\n";
            text += &marked(other, colour);
        }
        text.push('\n');
    }
    let Summary { rows, tokens, learnt, lengths: Lengths { min, median, max }, longer, ctx, .. } = summary;
    text += &format!("{rows} rows, {tokens} tokens, {learnt} of them learnt\n");
    text += &format!("tokens of a row: {min} at least, {median} in the middle, {max} at most; ");
    text += &format!("{longer} rows are longer than {ctx} and cut\n");
    let left_out = summary.left_out.len();
    if left_out > 0 {
        text += &format!("{} left out\n", out::count(left_out as u64, "row"));
    }
    text
}

/// The text of a row with what is learnt in colour, or between marks.
fn marked(parts: &[Part], colour: bool) -> String {
    let (open, close) = if colour { ("\u{1b}[32m", "\u{1b}[0m") } else { ("«", "»") };
    let part = |part: &Part| match (out::harmless(&part.text), part.learnt) {
        (text, true) => format!("{open}{text}{close}"),
        (text, false) => text,
    };
    let text: String = parts.iter().map(part).collect();
    text.lines().map(|line| format!("  {line}\n")).collect()
}
