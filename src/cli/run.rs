//! `mynah run`: a model continues a text.

use crate::args::{Run, SamplingArgs, Usage, setting};
use crate::load::Loaded;
use crate::{Outcome, out};
use mynah::decode::{Finish, Generator, Sample, Sampler, Stop};
use mynah::model::Session;
use mynah::text::Encode;
use serde::Serialize;
use std::io::{IsTerminal, Read};
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
    stop: &'static str,
}

/// What one generation said.
pub struct Said {
    /// Its tokens, without the one that ended it.
    pub ids: Vec<u32>,
    /// Its text.
    pub text: String,
    prompt_tokens: usize,
    prompt_seconds: f64,
    seconds: f64,
    /// Why it ended: `end`, `context`, `length`, or what the caller says of its own reason.
    pub stop: &'static str,
}

impl Said {
    /// The same for machines.
    pub fn summary(&self) -> Summary<'_> {
        // The first token comes with the prompt.
        let rate = |n: usize, s: f64| if s > 0.0 { n as f64 / s } else { 0.0 };
        Summary {
            ids: &self.ids,
            text: &self.text,
            prompt_tokens: self.prompt_tokens,
            prompt_tokens_per_second: rate(self.prompt_tokens, self.prompt_seconds),
            tokens_per_second: rate(self.ids.len().saturating_sub(1), self.seconds),
            stop: self.stop,
        }
    }
}

/// Lets a session go on from `prompt` for at most `n` tokens; `each` gets every token and the text it completes, and may
/// give a reason to stop behind it.
pub fn generate(
    loaded: &Loaded,
    session: &mut Session,
    sampler: Sampler,
    prompt: &[u32],
    n: usize,
    ends: &[u32],
    mut each: impl FnMut(u32, &str) -> anyhow::Result<Option<&'static str>>,
) -> anyhow::Result<Said> {
    let mut said = Said {
        ids: Vec::new(),
        text: String::new(),
        prompt_tokens: prompt.len(),
        prompt_seconds: 0.0,
        seconds: 0.0,
        stop: "length",
    };
    let mut start = Instant::now();
    let sample = Sample::new(session, sampler, prompt, ends, Stop::new());
    let mut generator = Generator::over(sample, &loaded.tokenizer).limit(n);
    loop {
        let id = generator.next_token()?;
        if said.ids.is_empty() {
            said.prompt_seconds = start.elapsed().as_secs_f64();
            start = Instant::now();
        }
        let Some(id) = id else { break };
        let text = generator.text(id);
        said.ids.push(id);
        said.text += &text;
        if let Some(why) = each(id, &text)? {
            said.stop = why;
            break;
        }
    }
    let rest = generator.rest();
    said.text += &rest;
    said.seconds = start.elapsed().as_secs_f64();
    match generator.finish() {
        Some(Finish::Eos(_) | Finish::StopText) => said.stop = "end",
        Some(Finish::Context) => said.stop = "context",
        Some(Finish::Length | Finish::Stopped) | None => {}
    }
    Ok(said)
}

impl SamplingArgs {
    /// What picks tokens.
    pub fn sampler(&self) -> anyhow::Result<Sampler> {
        setting(Sampler::new(&self.0))
    }
}

pub fn run(args: &Run, json: bool) -> anyhow::Result<Outcome> {
    let loaded = Loaded::of(&args.model)?;
    let prompt = match &args.prompt {
        Some(prompt) => prompt.clone(),
        None if std::io::stdin().is_terminal() => return Err(Usage::error("nothing to say: give -p PROMPT")),
        None => {
            let mut text = String::new();
            std::io::stdin().lock().read_to_string(&mut text)?;
            text.strip_suffix('\n').map(|t| t.strip_suffix('\r').unwrap_or(t).to_string()).unwrap_or(text)
        }
    };
    let options = Encode { add_special: true, parse_special: args.parse_special };
    let tokens = loaded.tokenizer.encode(&prompt, &options)?;
    if tokens.is_empty() {
        return Err(Usage::error("the prompt is empty, and this model has no token to begin a text with"));
    }
    let n = args.n as usize;
    let most = loaded.model.hparams.context.min(args.ctx.map_or(usize::MAX, |c| c as usize));
    if tokens.len() > most {
        return Err(Usage::error(format!("the prompt has {} tokens, and there is room for {most}", tokens.len())));
    }
    let mut session = loaded.session(&args.model, most.min(tokens.len() + n))?;
    let ends = if args.ignore_end { &[] } else { loaded.tokenizer.eos_ids() };
    let mut show = show(json);
    let said = generate(&loaded, &mut session, args.sampling.sampler()?, &tokens, n, ends, |id, text| {
        show(id, text).map(|()| None)
    })?;
    finish(&said, json)?;
    Ok(Outcome::Done)
}

/// Prints tokens as they come.
pub fn show(json: bool) -> impl FnMut(u32, &str) -> anyhow::Result<()> {
    let terminal = std::io::stdout().is_terminal();
    move |id, text| {
        if json {
            out::print_json(&Token { id, text })
        } else if terminal {
            out::print(&out::harmless(text))
        } else {
            out::print(text)
        }
    }
}

/// Ends a text, and says how fast it came.
fn finish(said: &Said, json: bool) -> anyhow::Result<()> {
    let summary = said.summary();
    if json {
        return out::print_json(&summary);
    }
    out::print("\n")?;
    out::say(&format!(
        "prompt {} tokens, {:.1}/s; said {} tokens, {:.1}/s; stopped by {}",
        summary.prompt_tokens,
        summary.prompt_tokens_per_second,
        summary.ids.len(),
        summary.tokens_per_second,
        summary.stop
    ));
    Ok(())
}
