//! `mynah run`: a model continues a text or talks.

use crate::args::{Run, SamplingArgs, Usage, setting};
use crate::load::Loaded;
use crate::{Outcome, out};
use mynah::decode::{Generator, Sampler, Sampling, Stop};
use mynah::model::Session;
use mynah::text::chat::{ASSISTANT, Message, Template};
use mynah::text::{Encode, TextStream};
use serde::Serialize;
use std::io::{BufRead, IsTerminal, Read};
use std::time::Instant;

/// Positions of a session where nothing is said.
const CONTEXT: usize = 4096;

#[derive(Serialize)]
struct Token<'a> {
    id: u32,
    text: &'a str,
}

#[derive(Serialize)]
struct Summary<'a> {
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
    stop: Option<Stop>,
}

impl Said {
    fn summary(&self) -> Summary<'_> {
        // The first token comes with the prompt.
        let rate = |n: usize, s: f64| if s > 0.0 { n as f64 / s } else { 0.0 };
        Summary {
            ids: &self.ids,
            text: &self.text,
            prompt_tokens: self.prompt_tokens,
            prompt_tokens_per_second: rate(self.prompt_tokens, self.prompt_seconds),
            tokens_per_second: rate(self.ids.len().saturating_sub(1), self.seconds),
            stop: match self.stop {
                Some(Stop::End(_)) => "end",
                Some(Stop::Context) => "context",
                None => "length",
            },
        }
    }
}

/// Lets a session go on from `prompt` for at most `n` tokens; `each` gets every token and the text it completes.
pub fn generate(
    loaded: &Loaded,
    session: &mut Session,
    sampler: Sampler,
    prompt: &[u32],
    n: usize,
    ends: &[u32],
    mut each: impl FnMut(u32, &str) -> anyhow::Result<()>,
) -> anyhow::Result<Said> {
    let mut said = Said {
        ids: Vec::new(),
        text: String::new(),
        prompt_tokens: prompt.len(),
        prompt_seconds: 0.0,
        seconds: 0.0,
        stop: None,
    };
    let mut stream = TextStream::new(&loaded.tokenizer, false);
    let mut start = Instant::now();
    let mut generator = Generator::new(session, sampler, prompt, ends);
    for i in 0..n {
        let id = generator.next()?;
        if i == 0 {
            said.prompt_seconds = start.elapsed().as_secs_f64();
            start = Instant::now();
        }
        let Some(id) = id else { break };
        let text = stream.push(id);
        each(id, &text)?;
        said.ids.push(id);
        said.text += &text;
    }
    let rest = stream.finish();
    said.text += &rest;
    said.seconds = start.elapsed().as_secs_f64();
    said.stop = generator.stopped();
    Ok(said)
}

impl SamplingArgs {
    fn sampler(&self) -> anyhow::Result<Sampler> {
        setting(Sampler::new(Sampling {
            temperature: self.temp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            seed: self.seed,
            ..Sampling::default()
        }))
    }
}

pub fn run(args: &Run, json: bool) -> anyhow::Result<Outcome> {
    let loaded = Loaded::open(&args.model.model, &args.model.engine)?;
    if args.chat {
        return chat(args, &loaded, json);
    }
    let prompt = match &args.prompt {
        Some(prompt) => prompt.clone(),
        None if std::io::stdin().is_terminal() => return Err(Usage::error("nothing to say: give -p PROMPT or --chat")),
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
    let n = args.n.unwrap_or(128) as usize;
    let most = loaded.model.hparams.context.min(args.ctx.map_or(usize::MAX, |c| c as usize));
    if tokens.len() > most {
        return Err(Usage::error(format!("the prompt has {} tokens, and there is room for {most}", tokens.len())));
    }
    let mut session = loaded.session(&args.model, most.min(tokens.len() + n))?;
    let ends = if args.ignore_end { &[] } else { loaded.tokenizer.ends() };
    let said = generate(&loaded, &mut session, args.sampling.sampler()?, &tokens, n, ends, show(json))?;
    finish(&said, json)?;
    Ok(Outcome::Done)
}

/// Prints tokens as they come.
fn show(json: bool) -> impl FnMut(u32, &str) -> anyhow::Result<()> {
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

fn chat(args: &Run, loaded: &Loaded, json: bool) -> anyhow::Result<Outcome> {
    let template: Template = loaded
        .template()?
        .ok_or_else(|| Usage::error(format!("{} has no chat template; use -p", args.model.model.display())))?;
    let most = loaded.model.hparams.context;
    let context = args.ctx.map_or(CONTEXT.min(most), |c| (c as usize).min(most));
    let mut session = loaded.session(&args.model, context)?;
    let terminal = std::io::stdin().is_terminal();
    let mut messages: Vec<Message> = args.system.iter().map(|s| Message::new("system", s.as_str())).collect();
    // What the session has read, so that only what is new is read.
    let mut read: Vec<u32> = Vec::new();
    if terminal {
        out::say("Say something; an empty line or Ctrl-D ends.");
    }
    for turn in 0.. {
        if terminal {
            eprint!("> ");
        }
        let mut line = String::new();
        if std::io::stdin().lock().read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        messages.push(Message::new("user", line.trim_end_matches(['\r', '\n'])));
        let tokens = template.tokens(&loaded.tokenizer, &messages, true)?;
        if tokens.len() >= context {
            anyhow::bail!("the conversation has {} tokens, and there is room for {context}", tokens.len());
        }
        // The last token is always read again: its logits are wanted.
        let same = read.iter().zip(&tokens).take_while(|(a, b)| a == b).count().min(tokens.len() - 1);
        session.rewind(same);
        let sampling = SamplingArgs { seed: args.sampling.seed.wrapping_add(turn), ..args.sampling.clone() };
        let n = args.n.unwrap_or(512) as usize;
        let ends = loaded.tokenizer.ends();
        let said = generate(loaded, &mut session, sampling.sampler()?, &tokens[same..], n, ends, show(json))?;
        finish(&said, json)?;
        read = tokens;
        read.extend(&said.ids);
        read.truncate(session.position());
        messages.push(Message::new(ASSISTANT, said.text.as_str()));
    }
    Ok(Outcome::Done)
}
