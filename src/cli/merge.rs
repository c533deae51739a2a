//! `mynah merge`: several adapters become one, after a look at what they do to each other.

use crate::args::{Merge, Usage, setting};
use crate::load::{self, split_scale};
use crate::meter::{self, Meter};
use crate::names::{self, What};
use crate::paths::{self, Named};
use crate::{Outcome, out};
use mynah::adapter::merge::{Conflict, Spec};
use mynah::app::Merging;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What two adapters do to each other.
#[derive(Serialize)]
struct Pair<'a> {
    adapters: [&'a str; 2],
    cosine: f64,
    signs: Option<f64>,
    overlap: Option<f64>,
    lost: f64,
    advice: &'a str,
    why: &'a str,
}

#[derive(Serialize)]
struct Report<'a> {
    pairs: Vec<Pair<'a>>,
    #[serde(skip_serializing_if = "Option::is_none", flatten)]
    merged: Option<Merged>,
}

/// What was written.
#[derive(Serialize)]
struct Merged {
    output: String,
    method: String,
    bytes: usize,
    parameters: usize,
    ranks: [usize; 2],
    /// The part of the energy that the ranks hold, of all layers and of the one that holds least.
    kept: f64,
    least: Option<f64>,
    least_layer: Option<String>,
}

/// An adapter, with its weight.
struct Given {
    name: String,
    path: PathBuf,
    weight: f64,
}

pub fn merge(args: &Merge, json: bool) -> anyhow::Result<Outcome> {
    let given = check(args)?;
    let mynah = load::named(args.model.as_deref(), &args.engine)?;
    let spec = Spec { kind: args.method.kind().into(), values: args.method.values.clone() };
    let mut merging = setting(mynah.merge(&spec, given.iter().map(|one| (&one.path, one.weight))))?;
    meter::catch_interrupt("stopping; nothing is written")?;
    if !run(args, &mut merging)? {
        return Ok(Outcome::Interrupted);
    }
    let conflicts = merging.conflicts();
    let merged = args.output.as_deref().map(|output| write(&mut merging, &spec, output)).transpose()?;
    let report = Report { pairs: conflicts.iter().map(|c| pair(c, &given)).collect(), merged };
    match json {
        true => out::print_json(&report)?,
        false => show(&report)?,
    }
    Ok(Outcome::Done)
}

fn check(args: &Merge) -> anyhow::Result<Vec<Given>> {
    args.method.check()?;
    let mut given: Vec<Given> = Vec::new();
    for text in &args.adapters {
        let (path, weight) = split_scale(text)?;
        let path = PathBuf::from(path);
        names::check(&path, What::Adapter)?;
        if weight == 0.0 {
            return Err(Usage::error(format!("{text}: a weight of 0; leave the adapter out")));
        }
        if let Some(twice) = given.iter().find(|one| paths::same(&one.path, &path)) {
            return Err(Usage::error(format!("{}: given twice; give it once, with a weight", twice.name)));
        }
        // 0.7 stays 0.7.
        let weight = weight.to_string().parse()?;
        given.push(Given { name: out::name(&path), path, weight });
    }
    let Some(output) = &args.output else { return Ok(given) };
    let mut read: Vec<Named> = given.iter().map(|one| Named::new("ADAPTER", &one.path)).collect();
    read.extend(args.model.iter().flat_map(|path| paths::of_model(path)));
    paths::apart(&[Named::new("-o", output)], &read)?;
    if output.exists() && !args.force {
        let path = out::name(output);
        return Err(Usage::error(format!("-o {path} exists: --force replaces it, or name another file")));
    }
    paths::writable(output)?;
    Ok(given)
}

/// Looks, and merges if something is written; whether it came to its end.
fn run(args: &Merge, merging: &mut Merging) -> anyhow::Result<bool> {
    let [.., all] = merging.done();
    let rounds = if args.output.is_some() { 2 } else { 1 };
    let (meter, mut more) = (Meter::new((rounds * all) as u64), true);
    while more {
        if meter::interrupted() {
            meter.done();
            return Ok(false);
        }
        let [looked, ..] = merging.done();
        more = match looked < all {
            true => merging.look()? || args.output.is_some(),
            false => args.output.is_some() && merging.step()?,
        };
        let [looked, merged, _] = merging.done();
        meter.show((looked + merged) as u64, || if merged > 0 { "merging".into() } else { "looking".into() });
    }
    meter.done();
    Ok(true)
}

fn write(merging: &mut Merging, spec: &Spec, output: &Path) -> anyhow::Result<Merged> {
    let (adapter, summary) = setting(merging.adapter())?;
    let file = merging.to_bytes()?;
    mynah::bytes::map::replace(output, &file)?;
    Ok(Merged {
        output: out::name(output),
        method: spec.words()?,
        bytes: file.len(),
        parameters: adapter.params().len(),
        ranks: summary.ranks,
        kept: summary.kept,
        least: summary.least.map(|(_, part)| part),
        least_layer: summary.least.map(|(site, _)| site.to_string()),
    })
}

fn pair<'a>(conflict: &Conflict, given: &'a [Given]) -> Pair<'a> {
    let Conflict { pair, cosine, signs, overlap, lost } = *conflict;
    let advice = conflict.advice();
    let adapters = pair.map(|which| &*given[which].name);
    Pair { adapters, cosine, signs, overlap, lost, advice: advice.word, why: advice.why }
}

fn show(report: &Report) -> anyhow::Result<()> {
    let percent = |part: Option<f64>| part.map_or("-".into(), |part| format!("{:.0} %", 100.0 * part));
    if !report.pairs.is_empty() {
        let head = ["adapters", "cosine", "signs apart", "space shared", "gives way", "advice"];
        let mut table = out::table(&head, 1..5);
        for pair in &report.pairs {
            let [a, b] = pair.adapters;
            table.add_row([
                format!("{a}, {b}"),
                format!("{:.2}", pair.cosine),
                percent(pair.signs),
                percent(pair.overlap),
                percent(Some(pair.lost)),
                format!("{}: {}", pair.advice, pair.why),
            ]);
        }
        out::print(&format!("{}\n", table.trim_fmt()))?;
    }
    let Some(merged) = &report.merged else {
        if report.pairs.is_empty() {
            out::say("one adapter has nobody to be compared with");
        }
        return Ok(());
    };
    let ranks = match merged.ranks {
        [0, _] => String::new(),
        [a, b] if a == b => format!(", rank {a}"),
        [a, b] => format!(", ranks {a} to {b}"),
    };
    let least = match (&merged.least, &merged.least_layer) {
        (Some(part), Some(layer)) if *part < 0.9999 => {
            format!(
                "; the ranks hold {:.1} % of the merged change, least {:.1} % of {layer}",
                100.0 * merged.kept,
                100.0 * part
            )
        }
        _ => String::new(),
    };
    let bytes = out::number(merged.bytes as u64);
    out::print(&format!("{}: {bytes} bytes, {}{ranks}{least}\n", merged.output, merged.method))
}
