//! `mynah run`: a model continues a text.

use crate::args::{Run, Usage, setting};
use crate::{Outcome, load, meter, out};
use mynah::app::{Piece, Said};
use mynah::decode::Finish;
use serde::Serialize;
use std::io::IsTerminal;
use std::time::Instant;

#[derive(Serialize)]
struct Token<'a> {
    id: u32,
    text: &'a str,
}

#[derive(Serialize)]
pub struct Summary<'a> {
    ids: &'a [u32],
    text: &'a str,
    prompt_tokens: usize,
    prompt_tokens_per_second: f64,
    tokens_per_second: f64,
    pub stop: &'static str,
}

/// How long a text took.
#[derive(Default)]
pub struct Times {
    prompt_seconds: f64,
    seconds: f64,
}

impl Times {
    /// What was said, for machines.
    pub fn summary<'a>(&self, said: &'a Said) -> Summary<'a> {
        // The first token comes with the prompt.
        let rate = |n: usize, s: f64| if s > 0.0 { n as f64 / s } else { 0.0 };
        Summary {
            ids: &said.ids,
            text: &said.text,
            prompt_tokens: said.prompt_tokens,
            prompt_tokens_per_second: rate(said.prompt_tokens, self.prompt_seconds),
            tokens_per_second: rate(said.ids.len().saturating_sub(1), self.seconds),
            stop: match said.finish {
                Finish::Eos(_) | Finish::StopText => "end",
                Finish::Length => "length",
                Finish::Context => "context",
                Finish::Stopped => "interrupted",
            },
        }
    }
}

/// Asks for the pieces of a text to its end, or until Ctrl-C; `show` gets every token and its text.
pub fn hear(
    pieces: &mut impl Iterator<Item = mynah::Result<Piece>>,
    show: &mut impl FnMut(u32, &str) -> anyhow::Result<()>,
) -> anyhow::Result<Times> {
    let mut times = Times::default();
    let (mut start, mut first) = (Instant::now(), true);
    loop {
        let piece = pieces.next().transpose()?;
        if std::mem::take(&mut first) {
            times.prompt_seconds = start.elapsed().as_secs_f64();
            start = Instant::now();
        }
        let Some(Piece { id, text }) = piece else { break };
        if let Some(id) = id {
            show(id, &text)?;
        }
        if meter::interrupted() {
            meter::stop().pull();
        }
    }
    times.seconds = start.elapsed().as_secs_f64();
    Ok(times)
}

/// The text to continue.
fn prompt(args: &Run) -> anyhow::Result<String> {
    match &args.prompt {
        Some(prompt) => Ok(prompt.clone()),
        None if std::io::stdin().is_terminal() => Err(Usage::error("nothing to say: give -p PROMPT")),
        None => {
            let text = load::input()?;
            Ok(text.strip_suffix('\n').map(|t| t.strip_suffix('\r').unwrap_or(t).to_string()).unwrap_or(text))
        }
    }
}

pub fn run(args: &Run, json: bool) -> anyhow::Result<Outcome> {
    let mynah = load::model(&args.model)?;
    let prompt = prompt(args)?;
    let generation = load::generation(&mynah, &args.model)?.limit(args.n as usize).sampling(args.sampling.0.clone());
    let generation = generation.parse_special(args.parse_special).ignore_eos(args.ignore_end);
    let generation = match args.ctx {
        Some(ctx) => generation.context(ctx as usize),
        None => generation,
    };
    let mut text = match generation.complete(&prompt) {
        Err(mynah::Error::Limit { what, asked, allowed }) if what == "tokens of the prompt" => {
            return Err(Usage::error(format!(
                "the prompt has {asked} tokens, and there is room for {allowed}: shorten it, or give more --ctx"
            )));
        }
        text => setting(text)?,
    };
    load::say_ropes(&mynah, &args.model.adapters, text.context())?;
    let times = hear(&mut text, &mut show(json))?;
    let summary = times.summary(text.said());
    if json {
        out::print_json(&summary)?;
    } else {
        out::print("\n")?;
        out::say(&format!(
            "prompt {} tokens, {:.1}/s; said {} tokens, {:.1}/s; stopped by {}",
            summary.prompt_tokens,
            summary.prompt_tokens_per_second,
            summary.ids.len(),
            summary.tokens_per_second,
            summary.stop
        ));
    }
    Ok(Outcome::Done)
}

/// Prints tokens as they come.
pub fn show(json: bool) -> impl FnMut(u32, &str) -> anyhow::Result<()> {
    move |id, text| if json { out::print_json(&Token { id, text }) } else { out::print(text) }
}
