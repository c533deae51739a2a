//! `mynah train`: an adapter, or all weights, from a person's data.
//!
//! The library does the work; this is its thin shell. `setup.rs` turns options into a lesson, `plan.rs` says what memory
//! it will take, `run.rs` is the loop around it, `resume.rs` has checkpoints and how a run continues from them,
//! `reference.rs` and `activation_cache.rs` have the files beside the data, `output.rs` says where files may go, and
//! `sample.rs` shows what was learnt, and `probe.rs` proves it.

mod activation_cache;
mod output;
mod plan;
mod probe;
mod reference;
mod resume;
mod run;
mod sample;
mod setup;

pub use plan::{held, plan};
pub use resume::{Line, Resumed, quote};
pub use run::{Run, Summary};

use crate::args::{Train, Usage};
use crate::meter::Meter;
use crate::paths::Named;
use crate::{Outcome, load, meter, out, paths};
use anyhow::Context;
use mynah::app::{DISCARDS, Ended, Event, Lesson, Method, Work};
use mynah::bytes::{Limits, map};
use mynah::container::head::Head;
use mynah::train::data::{Files, is_stream};
use mynah::{Error, Mynah};
use resume::{Saved, Saver};
use sample::{Prompt, Sample};
use setup::{Size, flagged};
use std::fs::File;
use std::path::Path;
use std::time::Duration;

/// `given` are the options that checkpoints hold, so that a run continues without them; `resumed` is what this run continues
/// from.
pub fn train(options: &Train, given: Head, resumed: Option<Resumed>, json: bool) -> anyhow::Result<Outcome> {
    let args = &options.teach;
    check(options, resumed.as_ref())?;
    let mynah = load::named(options.model.as_deref(), &args.engine)?;
    probe::check(args, &mynah)?;
    let (folder, saved) = resumed.map(|r| ((r.folder, r.saved.checkpoint.step()), r.saved)).unzip();
    let from = folder.as_ref().map(|(folder, step)| folder.file(*step));
    let Some(begun) = begin(options, &mynah, saved, from.as_deref())? else { return stopped() };
    let Begun { mut lesson, size, planned } = begun;
    let log = args.log.as_ref().map(|path| open_log(path, from.is_some(), &lesson.history().log)).transpose()?;
    introduce(&lesson, &size, planned);
    reference::fill(&options.data, &mut lesson)?;
    if lesson.missing_reference() > 0 {
        return stopped();
    }
    let mut run = Run {
        log,
        notes: size.notes,
        saver: Some(Saver::new(options, given, folder)?),
        most_steps: args.max_steps,
        most_time: args.max_minutes.map(|m| Duration::from_secs_f32(m * 60.0)),
        ..Run::new(lesson)
    };
    run.run()?;
    let unsaved = run.save_last().err();
    let (mut summary, file) = save(&mut run, options, &mynah)?;
    let prompt = Prompt::of(&mynah, &run.lesson)?;
    let full = run.lesson.method() == Method::WEIGHTS;
    let complete = matches!(run.lesson.ended(), Some(Ended::Done | Ended::Early));
    // The trainer's memory is free before the model speaks.
    let outcome = finish(run, unsaved, options);
    if let Some(file) = file.filter(|_| complete && !meter::interrupted()) {
        summary.sample = prompt.as_ref().map(|prompt| prompt.sample(&mynah, options, file)).transpose()?;
        summary.sample.iter().for_each(Sample::show);
        sample::show_next(prompt.as_ref(), options, full);
    }
    if json {
        out::print_json(&summary)?;
    }
    outcome
}

/// What is wrong with options and paths is found before anything else.
fn check(options: &Train, resumed: Option<&Resumed>) -> anyhow::Result<()> {
    let args = &options.teach;
    args.check()?;
    let default = resume::default_folder(&options.output);
    let (what, folder) = match (resumed, &args.checkpoints) {
        (Some(resumed), _) => ("--resume", resumed.folder.path()),
        (None, Some(folder)) => ("--checkpoints", folder.as_path()),
        (None, None) => ("OUT.checkpoints", default.as_path()),
    };
    if resumed.is_none() {
        resume::check_unused(folder)?;
    }
    resumed.map_or(Ok(()), |resumed| output::check_recorded(options, resumed))?;
    output::check(options, Named::new(what, folder), resumed.is_some_and(|r| !r.saved.other_output))?;
    if args.patience.is_some() && args.held_out == Some(0.0) {
        return Err(Usage::error("--patience measures on held-out rows, and --held-out 0 puts none aside"));
    }
    Ok(())
}

fn stopped() -> anyhow::Result<Outcome> {
    out::say("interrupted before the first step; the same command starts again");
    Ok(Outcome::Interrupted)
}

/// A lesson at its first step, or where it continues.
struct Begun {
    lesson: Lesson,
    size: Size,
    /// Bytes at the peak.
    planned: usize,
}

/// Begins or continues the lesson; `None` if Ctrl-C came while rows were weighed.
fn begin(options: &Train, mynah: &Mynah, saved: Option<Saved>, from: Option<&Path>) -> anyhow::Result<Option<Begun>> {
    let args = &options.teach;
    let files = Files::open(&options.data, &Limits::DEFAULT)?;
    let clock = saved.as_ref().map_or_else(load::now, |s| s.clock);
    let setup = setup::setup(args, mynah, saved, clock, Some(&files))?;
    let (mut draft, size) = setup::draft(setup, &options.data, &files)?;
    drop(files);
    let plan = plan::settled(args, flagged(draft.plan(plan::held()))?)?;
    plan::affordable(&plan)?;
    let planned = plan.total();
    let mut lesson = draft.begin().map_err(|e| named(e, from))?;
    meter::catch_interrupt("stopping after this step")?;
    weigh(&mut lesson, from)?;
    Ok((lesson.ended() != Some(Ended::Cancelled)).then_some(Begun { lesson, size, planned }))
}

/// Names the checkpoint where it does not fit.
fn named(e: Error, from: Option<&Path>) -> anyhow::Error {
    match (e, from) {
        (Error::Changed(changes), Some(path)) => {
            let list: String = changes.iter().map(|c| format!("\n  {c}")).collect();
            anyhow::anyhow!("{}: this is not the run that was saved:{list}", out::name(path))
        }
        (e @ (Error::Corrupt { .. } | Error::Mismatch { .. } | Error::Limit { .. }), Some(path)) => {
            e.in_file(path.to_string_lossy()).into()
        }
        (e, _) => flagged::<()>(Err(e)).expect_err("it is an error"),
    }
}

/// Weighs rows by their density ratios, if that is wanted. Ctrl-C ends the lesson.
fn weigh(lesson: &mut Lesson, from: Option<&Path>) -> anyhow::Result<()> {
    let mut meter = None;
    while lesson.upcoming() == Some(Work::Weigh) {
        match run::next(lesson).transpose().map_err(|e| named(e, from))? {
            Some(Event::Progress { done, total, .. }) => {
                meter.get_or_insert_with(|| Meter::new(total)).show(done, || "embedding prompts".into());
            }
            Some(Event::Weighed(r)) => {
                let (n, least, most, mean) = (r.rows, r.least, r.most, r.mean);
                meter.iter().for_each(Meter::done);
                out::say(&format!(
                    "the loss of {n} disliked rows is multiplied by {least:.2} to {most:.2}, on average by {mean:.2}"
                ));
            }
            _ => {}
        }
    }
    meter.iter().for_each(Meter::done);
    Ok(())
}

/// The log, with the lines of the steps that are done and none after.
fn open_log(path: &Path, resumed: bool, lines: &str) -> anyhow::Result<File> {
    let open = || {
        // A pipe without a name has its reader already.
        anyhow::ensure!(
            !paths::is_pipe(path) || is_stream(path),
            "it is a pipe, which would wait for a reader; name a file"
        );
        if !resumed {
            return Ok(File::create(path)?);
        }
        if paths::is_file_or_free(path) {
            map::replace(path, lines.as_bytes())?;
        }
        anyhow::Ok(File::options().append(true).open(path)?)
    };
    open().with_context(|| out::name(path))
}

/// What is going to happen.
fn introduce(lesson: &Lesson, size: &Size, planned: usize) {
    let done = match lesson.history().steps() {
        0 => String::new(),
        n => format!("; continues after step {n}"),
    };
    let held_out = match lesson.held_out().len() {
        0 => String::new(),
        n => format!(", {n} of them held out"),
    };
    // Of a part of an epoch, or of parts, a digit tells enough.
    let epochs = (size.epochs * 10.0).round() / 10.0;
    out::say(&format!(
        "{} rows{held_out}; {} tokens to learn: {} steps, {epochs} epoch{}",
        out::number(size.rows as u64),
        out::number(size.tokens as u64),
        out::number(lesson.steps()),
        if epochs == 1.0 { "" } else { "s" },
    ));
    out::say(&format!(
        "{}: {} parameters; {} planned{done}",
        lesson.method(),
        out::number(lesson.trainer().parameters() as u64),
        out::bytes(planned as u64),
    ));
}

/// Writes the result, if it is one, and says what it is.
fn save(run: &mut Run, options: &Train, mynah: &Mynah) -> anyhow::Result<(Summary, Option<Vec<u8>>)> {
    let output = &options.output;
    let file = match run.steps() > 0 && !run.diverged() {
        false => None,
        true => {
            let file = probe::added(&options.teach, mynah, &run.lesson, run.lesson.to_bytes()?);
            if let Err(e) = map::replace(output, &file) {
                return Err(run.rescue().context(e));
            }
            Some(file)
        }
    };
    let summary = run.summary(file.as_ref().map(Vec::len));
    run.show(&summary);
    let path = out::name(output);
    match &file {
        Some(file) => out::say(&format!("saved {path}, {} bytes", out::number(file.len() as u64))),
        None if run.steps() == 0 => out::say("nothing saved: no step was done"),
        None if output.exists() => out::say(&format!("nothing saved: {path} is as it was")),
        None => out::say("nothing saved"),
    }
    Ok((summary, file))
}

/// How the run ended, and how it continues. `unsaved`: why there is no checkpoint of the last step, if there should be one.
fn finish(run: Run, unsaved: Option<anyhow::Error>, options: &Train) -> anyhow::Result<Outcome> {
    let diverged = run.diverged().then(|| run.slower(options.teach.lr));
    let Run { lesson, saver, discarded, .. } = run;
    let (steps, all) = (lesson.history().steps(), lesson.steps());
    let command = saver.as_ref().and_then(Saver::command);
    let say = |what: &str| {
        let how = command.as_ref().map_or(String::new(), |command| format!("; continue with: {command}"));
        out::say(&format!("{what} after step {steps} of {all}{how}"));
    };
    if let Some(e) = unsaved {
        say("stopped");
        return Err(e.context(format!("no checkpoint of step {steps}")));
    }
    match (lesson.ended(), discarded) {
        (Some(ended @ (Ended::Done | Ended::Early)), _) => {
            if ended == Ended::Early {
                let waited = lesson.history().waited();
                out::say(&format!("ended early: {waited} evaluations in a row did not improve the held-out loss"));
            }
            saver.map_or(Ok(()), Saver::finish)?;
            match diverged {
                Some(advice) => Err(anyhow::anyhow!("the loss rose, and the run diverged; {advice}")),
                None => Ok(Outcome::Done),
            }
        }
        (None, _) => {
            say("paused");
            Ok(Outcome::Done)
        }
        (Some(Ended::Failed), Some(e)) => {
            say("stopped");
            let advice = diverged.unwrap_or_default();
            Err(anyhow::Error::from(e).context(format!("{DISCARDS} steps in a row were discarded; {advice}")))
        }
        _ => {
            say("interrupted");
            Ok(Outcome::Interrupted)
        }
    }
}
