//! `mynah train`: an adapter, or all weights, from a person's data.
//!
//! The library does the work; this is its thin shell. `setup.rs` turns options into a lesson, `plan.rs` says what memory
//! it will take, `run.rs` is the loop around it, `resume.rs` has checkpoints and how a run continues from them,
//! `reference.rs` and `activation_cache.rs` have the files beside the data, `output.rs` says where files may go.

mod activation_cache;
mod output;
mod plan;
mod reference;
mod resume;
mod run;
mod setup;

pub use plan::{held, plan};
pub use resume::{Line, Resumed};
pub use run::{Run, Summary};

use crate::args::{Train, Usage};
use crate::meter::Meter;
use crate::paths::Named;
use crate::{Outcome, load, meter, out};
use anyhow::Context;
use mynah::app::{DISCARDS, Ended, Event, Lesson, Work};
use mynah::bytes::map;
use mynah::container::head::Head;
use mynah::train::data::Files;
use mynah::{Error, Mynah};
use resume::{Saved, Saver};
use setup::{Size, flagged};
use std::fs::File;
use std::path::Path;
use std::time::Duration;

/// `given` are the options that checkpoints hold, so that a run continues without them; `resumed` is what this run continues
/// from.
pub fn train(options: &Train, given: Head, resumed: Option<Resumed>, json: bool) -> anyhow::Result<Outcome> {
    let args = &options.teach;
    check(options, resumed.as_ref())?;
    let mynah = load::open(&options.model, &args.engine)?;
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
    let summary = save(&mut run, &options.output)?;
    if json {
        out::print_json(&summary)?;
    }
    finish(run, unsaved)
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
    output::check(options, Named::new(what, folder))?;
    if resumed.is_none() {
        resume::check_unused(folder)?;
    }
    if args.patience.is_some() && args.eval_fraction == 0.0 {
        return Err(Usage::error("--patience measures on held-out rows: put some aside with --eval-fraction 0.1"));
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
    let files = Files::open(&options.data)?;
    let clock = saved.as_ref().map_or_else(load::now, |s| s.clock);
    let setup = setup::setup(args, mynah, saved, clock, Some(&files))?;
    let (mut draft, size) = setup::draft(setup, &options.data, &files)?;
    let planned = plan::settled(args, flagged(draft.plan(plan::held(mynah)))?)?.total();
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
            anyhow::anyhow!("{}: this is not the run that was saved:{list}", path.display())
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
        if !resumed {
            return Ok(File::create(path)?);
        }
        if path.metadata().map_or(true, |meta| meta.is_file()) {
            map::replace(path, lines.as_bytes())?;
        }
        anyhow::Ok(File::options().append(true).open(path)?)
    };
    open().with_context(|| path.display().to_string())
}

/// What is going to happen.
fn introduce(lesson: &Lesson, size: &Size, planned: usize) {
    let done = match lesson.history().steps() {
        0 => String::new(),
        n => format!("; continues after step {n}"),
    };
    out::say(&format!(
        "{}: {} parameters; {} rows, {} tokens, {} rows held out; {} steps; {} planned{done}",
        lesson.method(),
        lesson.trainer().parameters(),
        size.rows,
        size.tokens,
        lesson.held_out().len(),
        lesson.steps(),
        out::bytes(planned as u64),
    ));
}

/// Writes the result, and says what it is.
fn save(run: &mut Run, output: &Path) -> anyhow::Result<Summary> {
    let saved = match run.steps() {
        0 => None,
        _ => {
            let file = run.lesson.to_bytes()?;
            if let Err(e) = map::replace(output, &file) {
                return Err(run.rescue().context(e));
            }
            Some(file.len())
        }
    };
    let summary = run.summary(saved);
    run.show(&summary);
    let output = output.display();
    match (saved, &run.lesson.history().best_file, summary.best_step) {
        (Some(n), Some(_), Some(step)) => out::say(&format!("saved {output}, {n} bytes: the best, of step {step}")),
        (Some(n), ..) => out::say(&format!("saved {output}, {n} bytes")),
        _ => out::say("nothing saved: no step was done"),
    }
    Ok(summary)
}

/// How the run ended, and how it continues. `unsaved`: why there is no checkpoint of the last step, if there should be one.
fn finish(run: Run, unsaved: Option<anyhow::Error>) -> anyhow::Result<Outcome> {
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
            saver.map_or(Ok(()), Saver::finish).map(|()| Outcome::Done)
        }
        (None, _) => {
            say("paused");
            Ok(Outcome::Done)
        }
        (Some(Ended::Failed), Some(e)) => {
            say("stopped");
            Err(anyhow::Error::from(e).context(format!("{DISCARDS} steps in a row were discarded")))
        }
        _ => {
            say("interrupted");
            Ok(Outcome::Interrupted)
        }
    }
}
