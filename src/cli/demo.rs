//! `mynah demo`: the whole path on the built-in model, with no file at hand.

use crate::args::{Demo, setting};
use crate::load::{self, Loaded};
use crate::meter;
use crate::run::generate;
use crate::train::{Run, Summary};
use crate::{Outcome, out, paths};
use mynah::Mynah;
use mynah::adapter::{self, Spec};
use mynah::app::{Data, Ended};
use mynah::base::{MODEL, NOTES};
use mynah::bytes::{Bytes, Limits, map};
use mynah::decode::{Sampler, Sampling};
use mynah::gguf::Gguf;
use mynah::model::{Session, SessionConfig};
use mynah::text::Encode;
use mynah::train::Example;
use mynah::train::data::Dataset;
use serde::Serialize;

/// Optimiser steps: about ten seconds on two cores.
const STEPS: u64 = 300;
/// Lines of a step.
const BATCH: usize = 8;
const LR: f32 = 8e-3;
const SEED: u64 = 0;
/// Every so many lines one is put aside, to measure on.
const HELD_OUT: f64 = 0.1;
/// Words of a note that are given; the model goes on from there.
const GIVEN: usize = 3;
/// Tokens that it says.
const SAYS: usize = 40;

#[derive(Serialize)]
struct Sample {
    prompt: String,
    before: String,
    after: String,
}

#[derive(Serialize)]
struct Result {
    #[serde(flatten)]
    summary: Summary,
    samples: Vec<Sample>,
}

pub fn demo(args: &Demo, json: bool) -> anyhow::Result<Outcome> {
    if let Some(path) = &args.output {
        paths::writable(path)?;
    }
    let gguf = Gguf::parse(Bytes::from_static(MODEL), &Limits::default())?;
    let loaded = Loaded::new(gguf, load::compute(&args.engine)?)?;
    let data = rows(&loaded)?;
    out::say(&format!(
        "The built-in model has {} and knows plain English. Your notes: {} lines from a lighthouse keeper's log.\n",
        out::bytes(MODEL.len() as u64),
        data.rows.examples.len(),
    ));

    let prompts = prompts();
    let mut session = Session::new(&loaded.model, SessionConfig { context: 128, ..SessionConfig::default() })?;
    let before = speak(&loaded, &mut session, &prompts)?;
    out::say("What it says before:");
    prompts.iter().zip(&before).for_each(|(p, b)| out::say(&format!("  {p}|{}", out::harmless(b))));

    let mynah = Mynah::with(loaded.gguf.clone(), loaded.model.compute.clone())?;
    let setup = mynah.lesson(Spec { seed: SEED, ..Spec::new("nola") }).steps(STEPS).batch(BATCH).rate(LR);
    let mut run = Run::new(setting(setup.seed(SEED).held_out(HELD_OUT).draft(data)?.begin())?);
    let parameters = run.lesson.trainer().parameters();
    out::say(&format!("\nLearning {parameters} numbers; the model's own weights stay as they are …\n"));
    meter::catch_interrupt("stopping after this step")?;
    run.run()?;
    match (run.lesson.ended(), run.discarded.take()) {
        (Some(Ended::Failed), Some(e)) => return Err(e.into()),
        (Some(Ended::Cancelled), _) => return Ok(Outcome::Interrupted),
        _ => {}
    }

    let file = run.lesson.to_bytes()?;
    let summary = run.summary(Some(file.len()));
    run.show(&summary);
    // What speaks now is what the file holds, not what is in memory.
    let learnt = adapter::from_bytes(file.clone().into(), loaded.base(), &Limits::default())?;
    session.attach(loaded.model.ready(learnt)?, 1.0)?;
    let after = speak(&loaded, &mut session, &prompts)?;
    out::say("\nWhat it says now:");
    prompts.iter().zip(&after).for_each(|(p, a)| out::say(&format!("  {p}|{}", out::harmless(a))));
    out::say(&format!("\nThe adapter has {} bytes; the model has {}.", file.len(), MODEL.len()));
    if let Some(path) = &args.output {
        map::replace(path, &file)?;
        out::say(&format!("It is in {}.", path.display()));
    } else {
        out::say("It is gone now; `mynah demo -o FILE` keeps it.");
    }
    let zip = prompts.into_iter().zip(before).zip(after);
    let samples = zip.map(|((prompt, before), after)| Sample { prompt, before, after }).collect();
    let result = Result { summary, samples };
    if json {
        out::print_json(&result)?;
    } else {
        let Summary { eval_before, eval_after, loss_first, loss_last, .. } = result.summary;
        let pair = |a: Option<f64>, b: Option<f64>| format!("{:.3} → {:.3}", a.unwrap_or(0.0), b.unwrap_or(0.0));
        out::print(&format!(
            "loss {}  held-out loss {}  adapter {} bytes\n",
            pair(loss_first, loss_last),
            pair(eval_before, eval_after),
            file.len()
        ))?;
    }
    Ok(Outcome::Done)
}

/// The notes, a row a line.
fn rows(loaded: &Loaded) -> anyhow::Result<Data> {
    let options = Encode { add_special: true, parse_special: false };
    let mut rows = Dataset::default();
    for line in NOTES.lines().filter(|l| !l.is_empty()) {
        let mut tokens = loaded.tokenizer.encode(line, &options)?;
        tokens.extend(loaded.tokenizer.eos());
        tokens.truncate(loaded.model.hparams.context);
        rows.examples.push(Example::all(tokens));
    }
    Ok(Data { rows, digest: *blake3::hash(NOTES.as_bytes()).as_bytes() })
}

/// How three of the notes begin.
fn prompts() -> Vec<String> {
    let lines: Vec<&str> = NOTES.lines().filter(|l| l.split(' ').count() > GIVEN).collect();
    let pick = |i: usize| lines[i * (lines.len() - 1) / 3].split(' ').take(GIVEN).collect::<Vec<_>>().join(" ");
    if lines.is_empty() { Vec::new() } else { (0..3).map(pick).collect() }
}

fn speak(loaded: &Loaded, session: &mut Session, prompts: &[String]) -> anyhow::Result<Vec<String>> {
    let options = Encode { add_special: true, parse_special: false };
    let mut said = Vec::new();
    for prompt in prompts {
        session.truncate(0);
        let tokens = loaded.tokenizer.encode(prompt, &options)?;
        let sampler = Sampler::new(&Sampling::greedy())?;
        let ends = loaded.tokenizer.eos_ids();
        said.push(generate(loaded, session, sampler, &tokens, SAYS, ends, |_, _| Ok(None))?.text);
    }
    Ok(said)
}
