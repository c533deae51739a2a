//! `mynah demo`: the whole path on the built-in model, with no file at hand.

use crate::args::{Demo, Usage, setting};
use crate::train::{Run, Summary};
use crate::{Outcome, load, meter, out, paths};
use mynah::Mynah;
use mynah::adapter::{Spec, Stack};
use mynah::app::{Data, Ended};
use mynah::base::{MODEL, NOTES};
use mynah::bytes::map;
use mynah::decode::Sampling;
use mynah::text::Encode;
use mynah::train::Example;
use mynah::train::data::Dataset;
use serde::Serialize;
use std::path::PathBuf;

/// The usual file.
const FILE: &str = "demo.mynah";
/// More bytes than an adapter of the demo has.
const MOST: u64 = 1 << 20;
/// Optimiser steps: about ten seconds on two cores.
const STEPS: u64 = 300;
/// Lines of a step.
const BATCH: usize = 8;
const LR: f32 = 8e-3;
const SEED: u64 = 0;
/// One line in this number is held out.
const HELD_OUT: f64 = 0.1;
/// Words of a note that are given; the model continues from there.
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
    let output = Output::of(args)?;
    let mynah = load::embedded(&args.engine)?;
    let data = rows(&mynah)?;
    out::say(&format!(
        "The built-in model is {} and knows plain English. Your notes: {} lines from a lighthouse keeper's log.\n",
        out::bytes(MODEL.len() as u64),
        data.rows.examples.len(),
    ));
    let prompts = prompts();
    out::say("What it says before:");
    let before = speak(&mynah, Stack::new(), &prompts)?;
    let Some(run) = learn(&mynah, data)? else { return Ok(Outcome::Interrupted) };
    let file = run.lesson.to_bytes()?;
    let summary = run.summary(Some(file.len()));
    run.show(&summary);
    // What speaks now is what the file holds, not what is in memory.
    let mut stack = Stack::new();
    stack.push(mynah.ready(file.clone())?, 1.0)?;
    out::say("\nWhat it says now:");
    let after = speak(&mynah, stack, &prompts)?;
    out::say(&format!("\nThe adapter is {} bytes; the model is {}.", file.len(), MODEL.len()));
    output.keep(&file, &prompts)?;
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

/// Where the adapter goes.
enum Output {
    /// Where the options say.
    Named(PathBuf),
    /// Where they say nothing: unless another file lies there.
    Usual(PathBuf),
}

impl Output {
    /// # Errors
    /// If nothing can be written there, or a file is there that is not to be replaced.
    fn of(args: &Demo) -> anyhow::Result<Output> {
        let Some(path) = &args.output else { return Ok(Output::Usual(FILE.into())) };
        paths::writable(path)?;
        if path.exists() && !args.force {
            return Err(Usage::error(format!(
                "-o {}: the file is there already; --force replaces it",
                out::name(path)
            )));
        }
        Ok(Output::Named(path.clone()))
    }

    /// Writes the adapter, and says how to go on with it.
    fn keep(&self, file: &[u8], prompts: &[String]) -> anyhow::Result<()> {
        let path = match self {
            Output::Named(path) => path,
            // The same notes give the same bytes, so what differs is somebody's.
            Output::Usual(path) if path.exists() && map::read(path, MOST).ok().is_none_or(|there| there != file) => {
                out::say(&format!(
                    "{} is another file, and stays; `mynah demo -o FILE` saves this one.",
                    out::name(path)
                ));
                return Ok(());
            }
            Output::Usual(path) if paths::writable(path).is_err() => {
                out::say("Nothing can be saved in this folder; `mynah demo -o FILE` saves it elsewhere.");
                return Ok(());
            }
            Output::Usual(path) => path,
        };
        map::replace(path, file)?;
        let (name, prompt) = (out::name(path), prompts.first().map_or("", String::as_str));
        out::say(&format!("It is in {name}. Let it continue a text, or talk with the model that read the notes:\n"));
        out::say(&format!("  mynah run -a {name} -p '{prompt}'\n  mynah chat -a {name}\n"));
        Ok(())
    }
}

/// Teaches the notes; none if it was interrupted.
fn learn(mynah: &Mynah, data: Data) -> anyhow::Result<Option<Run>> {
    let setup = mynah.lesson(Spec { seed: SEED, ..Spec::new("nola") }).steps(STEPS).batch(BATCH).rate(LR);
    let mut run = Run::new(setting(setup.seed(SEED).held_out(HELD_OUT).draft(data)?.begin())?);
    let parameters = run.lesson.trainer().parameters();
    out::say(&format!("\nLearning {parameters} numbers; the model's own weights stay as they are …\n"));
    meter::catch_interrupt("stopping after this step")?;
    run.run()?;
    match (run.lesson.ended(), run.discarded.take()) {
        (Some(Ended::Failed), Some(e)) => Err(e.into()),
        (Some(Ended::Cancelled), _) => Ok(None),
        _ => Ok(Some(run)),
    }
}

/// The notes, a row a line.
fn rows(mynah: &Mynah) -> anyhow::Result<Data> {
    let options = Encode { add_special: true, parse_special: false };
    let mut rows = Dataset::default();
    for line in NOTES.lines().filter(|l| !l.is_empty()) {
        let mut tokens = mynah.tokenizer().encode(line, &options)?;
        tokens.extend(mynah.tokenizer().eos());
        tokens.truncate(mynah.model().hparams.context);
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

/// How the model continues the prompts, which is said.
fn speak(mynah: &Mynah, stack: Stack, prompts: &[String]) -> anyhow::Result<Vec<String>> {
    let generation = mynah.generation().stack(stack).sampling(Sampling::greedy()).limit(SAYS);
    let mut all = Vec::new();
    for prompt in prompts {
        let text = generation.complete(prompt)?.finish()?.text;
        out::say(&format!("  {prompt}|{}", out::harmless(&text)));
        all.push(text);
    }
    Ok(all)
}
