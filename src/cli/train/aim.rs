//! The objective of a run: its options, the data in the shape it needs, what the reference makes of them, and weights that
//! follow from their prompts.

use super::course::places;
use crate::args::{Teach, Usage, setting};
use crate::load::Loaded;
use crate::meter::{self, Meter};
use crate::out;
use mynah::bytes::{Limits, map};
use mynah::train::density::{self, Classifier};
use mynah::train::objective::{self, Kind, Shape, Spec};
use mynah::train::{Example, Gradient, Trainer, Zeroth, reference};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The objective that the options name.
pub fn spec(args: &Teach) -> Spec {
    Spec { kind: args.objective.kind().into(), values: args.objective.values.clone() }
}

/// Where gradients come from.
pub fn gradient(args: &Teach) -> Gradient {
    match args.zeroth {
        Some(directions) => Gradient::Zeroth(Zeroth { directions, eps: args.zeroth_eps, seed: args.seed }),
        None => Gradient::Backward,
    }
}

/// Rows in the shape that the objective learns from: pairs become two verdicts where it wants these.
pub fn shape(args: &Teach, rows: Vec<Example>, context: usize) -> anyhow::Result<Vec<Example>> {
    let (kind, _) = setting(spec(args).row())?;
    let pairs = rows.iter().filter(|e| e.good.is_none() && e.other.is_some()).count();
    let mut rows = match kind.shape {
        Shape::Verdict if pairs > 0 => {
            out::say(&format!("{pairs} pairs, each taken as one completion that was liked and one that was not"));
            objective::unpair(rows)
        }
        _ => rows,
    };
    if let Some(i) = rows.iter().position(|e| !fits(kind, e)) {
        let why =
            format!("{} learns from rows like {}; {} is not", kind.name, kind.shape.describe(), places(&[i], &rows));
        return Err(Usage::error(why));
    }
    if kind.mismatched && !rows.is_empty() {
        setting(objective::mismatch(&mut rows, context))?;
    }
    Ok(rows)
}

fn fits(kind: &Kind, example: &Example) -> bool {
    match kind.shape {
        Shape::Completion => example.other.is_none() && example.good != Some(false),
        Shape::Pair => example.other.is_some(),
        Shape::Verdict => example.good.is_some(),
    }
}

/// Where log-probabilities of the reference are kept: beside the data, one file for what a base makes of them.
pub fn beside(data: &Path) -> PathBuf {
    let mut name = OsString::from(data);
    name.push(".reference");
    name.into()
}

/// Fills in what the reference makes of all rows: from the file beside the data, or computed, and then kept there.
/// Whether it is known of all: Ctrl-C ends the computation.
pub fn refer(data: &Path, loaded: &Loaded, trainer: &mut Trainer, rows: &mut [Example]) -> anyhow::Result<bool> {
    if !trainer.kind().reference {
        return Ok(true);
    }
    let base = trainer.reference(loaded.base());
    let path = beside(data);
    let limits = Limits::default();
    if path.exists() {
        let found = map::open(&path).and_then(|bytes| reference::fill(bytes, &base, rows, &limits));
        if let Err(e) = found {
            out::say(&format!("{}: not of use here ({e}); it is made anew", path.display()));
        }
    }
    let missing = |e: &Example| e.sequences().any(|e| e.reference.is_none());
    let wanted: Vec<usize> = (0..rows.len()).filter(|&i| missing(&rows[i])).collect();
    if wanted.is_empty() {
        out::say(&format!("{}: what the base makes of the data", path.display()));
        return Ok(true);
    }
    let meter = Meter::new(wanted.len() as u64);
    for (done, i) in (1..).zip(wanted) {
        if meter::interrupted() {
            break;
        }
        setting(trainer.fill_reference_logps(&mut rows[i..=i]))?;
        meter.show(done, || "what the base makes of the data".into());
    }
    meter.done();
    // Without the file the next run computes it again: no reason to stop.
    match map::replace(&path, &reference::to_bytes(&base, rows)) {
        Ok(()) => out::say(&format!("{}: what the base makes of the data, kept for the next time", path.display())),
        Err(e) => out::say(&format!("what the base makes of the data is not kept: {e}")),
    }
    Ok(!rows.iter().any(missing))
}

/// Multiplies the weights of rows that were not liked by their density ratio, as a classifier has it that is fitted to the
/// rows to learn; what is held out is weighed by the same. Whether all is done: Ctrl-C ends the computation.
pub fn weigh(
    args: &Teach,
    trainer: &mut Trainer,
    learn: &mut [Example],
    held_out: &mut [Example],
) -> anyhow::Result<bool> {
    if !args.density_ratios {
        return Ok(true);
    }
    if trainer.kind().shape != Shape::Verdict {
        let why = format!("--density-ratios is for completions that were liked or not; {} is not", trainer.kind().name);
        return Err(Usage::error(why));
    }
    let fitted: Vec<usize> = density::sample(learn.len()).collect();
    let verdicts: Vec<bool> = learn.iter().map(|e| e.good == Some(true)).collect();
    let mut rows: Vec<&mut Example> = learn.iter_mut().chain(held_out).collect();
    let wanted = |(i, e): (usize, &&mut Example)| e.good != Some(true) || fitted.binary_search(&i).is_ok();
    let meter = Meter::new(rows.iter().enumerate().filter(|row| wanted((row.0, row.1))).count() as u64);
    let mut known = vec![Vec::new(); rows.len()];
    let mut done = 0;
    for (i, row) in rows.iter().enumerate().filter(|row| wanted((row.0, row.1))) {
        if meter::interrupted() {
            meter.done();
            return Ok(false);
        }
        known[i] = setting(trainer.embed(row))?;
        done += 1;
        meter.show(done, || "what the prompts are like".into());
    }
    meter.done();
    let samples: Vec<(&[f32], bool)> = fitted.iter().map(|&i| (&*known[i], verdicts[i])).collect();
    let classifier = setting(Classifier::fit(&samples))?;
    let mut ratios = Vec::new();
    for (row, embedding) in rows.iter_mut().zip(&known).filter(|(row, _)| row.good != Some(true)) {
        let ratio = classifier.ratio(embedding);
        row.weight = Some(row.weight.unwrap_or(1.0) * ratio);
        ratios.push(ratio);
    }
    let (least, most) = ratios.iter().fold((f32::MAX, 0f32), |(least, most), r| (least.min(*r), most.max(*r)));
    let mean = ratios.iter().sum::<f32>() / ratios.len() as f32;
    let n = ratios.len();
    out::say(&format!("{n} rows that were not liked weigh {least:.2} to {most:.2}, {mean:.2} on average"));
    Ok(true)
}
