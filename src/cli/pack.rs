//! `mynah pack`: an adapter in fewer bytes.

use crate::args::{Pack, Usage, setting};
use crate::eval::measure;
use crate::load;
use crate::meter::Meter;
use crate::names::{self, What};
use crate::paths::{self, Named};
use crate::{Outcome, out, plot};
use anyhow::Context;
use mynah::adapter::compress::{self, COMPRESSORS};
use mynah::adapter::{self, Adapter, Provenance, probe};
use mynah::bytes::{Limits, map};
use mynah::train::Example;
use mynah::train::data::Split;
use mynah::{Mynah, app};
use serde::Serialize;
use std::path::Path;

/// The part of what was learnt that the smallest file must keep where no size is named.
const ENOUGH: f64 = 0.98;

/// The part of the change that rounding may lose where no data tell what that does.
const ROUNDED: f64 = 1e-3;

/// Densities and scales of the few changes of one size that are tried on data (ComPEFT, arXiv:2311.13171). Scale 0 is the mean
/// size of what is kept.
const DENSITIES: [f64; 5] = [0.05, 0.1, 0.2, 0.3, 0.5];
const SCALES: [f64; 4] = [0.0, 2.0, 3.0, 5.0];

/// A way to pack the adapter.
#[derive(Serialize)]
struct Way {
    codec: String,
    bytes: usize,
    /// The part of the adapter's change that rounding loses: squares over squares.
    rounding: f64,
    /// The mean loss on the data.
    #[serde(skip_serializing_if = "Option::is_none")]
    loss: Option<f64>,
    /// The part of the loss that the adapter saves, of what it saved before.
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<f64>,
    /// Whether no other way has fewer bytes and a lower loss.
    #[serde(skip_serializing_if = "Option::is_none")]
    frontier: Option<bool>,
    #[serde(skip)]
    file: Vec<u8>,
}

#[derive(Serialize)]
struct Report<'a> {
    output: String,
    bytes_before: u64,
    bytes: usize,
    codec: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    loss_of_base: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    loss_before: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    loss: Option<f64>,
    ways: &'a [Way],
}

pub fn pack(args: &Pack, json: bool) -> anyhow::Result<Outcome> {
    check(args)?;
    let mynah = load::named(args.model.as_deref(), &args.engine)?;
    let mut adapter = mynah.adapter(&*args.adapter)?;
    let origin = origin(args)?;
    let mut ways = Vec::new();
    for spec in specs(args, &mynah, &mut *adapter, &origin)? {
        let file = setting(adapter::file::packed(&mut *adapter, mynah.base(), &origin, &spec));
        match file {
            Ok(file) => ways.push(way(&mynah, &*adapter, spec.words()?, file)?),
            // Of all that are tried some cannot hold the values.
            Err(e) if args.codec.spec().is_none() && e.is::<Usage>() => {}
            Err(e) => return Err(e),
        }
    }
    ways.sort_by_key(|way| way.bytes);
    let before = measured(args, &mynah, &*adapter, &mut ways)?;
    let best = choose(args, &ways)?;
    let file = proven(args, &mynah, &ways[best].file)?;
    map::replace(&args.output, &file)?;
    let report = Report {
        output: out::name(&args.output),
        bytes_before: std::fs::metadata(&args.adapter).map_or(0, |m| if m.is_file() { m.len() } else { 0 }),
        bytes: file.len(),
        codec: &ways[best].codec,
        loss_of_base: before.map(|[base, _]| base),
        loss_before: before.map(|[_, own]| own),
        loss: ways[best].loss,
        ways: &ways,
    };
    if json {
        out::print_json(&report)?;
    } else {
        show(&report, best)?;
    }
    Ok(Outcome::Done)
}

fn way(mynah: &Mynah, adapter: &dyn Adapter, codec: String, file: Vec<u8>) -> anyhow::Result<Way> {
    let packed = mynah.adapter(file.clone())?;
    let (mut lost, mut all, mut start) = (0.0, 0.0, Vec::new());
    for (i, part) in adapter.shape().parts.iter().enumerate() {
        start.resize(part.range.len(), 0.0);
        adapter.start(i, &mut start);
        for (j, start) in part.range.clone().zip(&start) {
            lost += f64::from(packed.params()[j] - adapter.params()[j]).powi(2);
            all += f64::from(adapter.params()[j] - start).powi(2);
        }
    }
    let rounding = if lost == 0.0 { 0.0 } else { lost / all };
    Ok(Way { codec, bytes: file.len(), file, rounding, loss: None, kept: None, frontier: None })
}

fn check(args: &Pack) -> anyhow::Result<()> {
    args.codec.check()?;
    names::check(&args.adapter, What::Adapter)?;
    let mut read = vec![Named::new("ADAPTER", &args.adapter)];
    read.extend(args.model.iter().flat_map(|path| paths::of_model(path)));
    read.extend(args.eval.iter().map(|path| Named::new("--eval", path)));
    paths::apart(&[Named::new("-o", &args.output)], &read)?;
    if args.output.exists() && !args.force {
        let path = out::name(&args.output);
        return Err(Usage::error(format!("-o {path} exists: --force replaces it, or name another file")));
    }
    paths::writable(&args.output)
}

/// Where the adapter comes from, unless it is left out.
fn origin(args: &Pack) -> anyhow::Result<Provenance> {
    if args.bare || args.adapter.is_dir() {
        return Ok(Provenance::default());
    }
    let bytes = load::adapter_in(map::open(&args.adapter)?);
    let info = adapter::info(bytes, &Limits::default());
    Ok(info.ok().and_then(|info| info.provenance).unwrap_or_default())
}

/// The file with a proof of effect, if the adapter had one and there is room: of the same prompt, and of what the file does,
/// since values are rounded once more.
fn proven(args: &Pack, mynah: &Mynah, file: &[u8]) -> anyhow::Result<Vec<u8>> {
    let limits = Limits::default();
    let before = || probe::read(load::adapter_in(map::open(&args.adapter)?), &limits);
    let (Ok(Some(before)), false) = (before(), args.bare) else { return Ok(file.to_vec()) };
    let probe = mynah.probe(&mynah.ready(file.to_vec())?, &before.prompt)?;
    let proven = probe::with(file.to_vec().into(), &probe, &limits)?;
    if args.max_bytes.is_some_and(|most| proven.len() > most) {
        out::say("there is no room for a proof of effect");
        return Ok(file.to_vec());
    }
    Ok(proven)
}

/// What is tried: the codec that was named, or every one, with what makes it fit.
fn specs(
    args: &Pack,
    mynah: &Mynah,
    adapter: &mut dyn Adapter,
    origin: &Provenance,
) -> anyhow::Result<Vec<compress::Spec>> {
    let new = compress::Spec::new;
    let mut all = match args.codec.spec() {
        Some(spec) => vec![spec],
        None => {
            let plain = COMPRESSORS.iter().filter(|kind| kind.knobs.is_empty()).map(|kind| new(kind.name));
            let levels = [1, 2, 3, 4, 6].map(|bits| new("levels").with("bits", bits as u64));
            let scales = || SCALES.iter().take(if args.eval.is_some() { SCALES.len() } else { 1 });
            let ternary =
                DENSITIES.iter().flat_map(|d| scales().map(|s| new("ternary").with("density", *d).with("scale", *s)));
            let sparse = [0.1, 0.3].map(|d| new("sparse-q8").with("density", d));
            plain.chain(levels).chain(ternary).chain(sparse).collect()
        }
    };
    // Few changes can be as few as a size takes.
    if let Some(most) = args.max_bytes {
        let few = all.iter().filter(|spec| spec.row().is_ok_and(|(_, values)| values.get("density").is_some()));
        // One of each, since their densities are chosen.
        let mut once: Vec<compress::Spec> = Vec::new();
        for spec in few {
            if !once.iter().any(|o| o.kind == spec.kind && o.values.get("scale") == spec.values.get("scale")) {
                once.push(spec.clone());
            }
        }
        for spec in once {
            let fitted =
                densest(spec, |spec| Ok(adapter::file::packed(adapter, mynah.base(), origin, spec)?.len() <= most));
            all.extend(fitted?);
        }
    }
    Ok(all)
}

/// The specification with the highest density that fits, if one does.
fn densest(
    spec: compress::Spec,
    mut fits: impl FnMut(&compress::Spec) -> mynah::Result<bool>,
) -> anyhow::Result<Option<compress::Spec>> {
    let with = |density: f64| spec.clone().with("density", density);
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..12 {
        let middle = f64::midpoint(low, high);
        match setting(fits(&with(middle)))? {
            true => low = middle,
            false => high = middle,
        }
    }
    // Fewer digits, so that the same can be said again.
    let low = (low * 1e4_f64).floor() / 1e4;
    Ok((low > 0.0).then(|| with(low)))
}

/// Measures the base, the adapter and every way on the data, if there are any: the losses of the first two.
fn measured(args: &Pack, mynah: &Mynah, adapter: &dyn Adapter, ways: &mut [Way]) -> anyhow::Result<Option<[f64; 2]>> {
    let Some(path) = &args.eval else { return Ok(None) };
    let rows = rows(args, mynah, path)?;
    let ctx = rows.iter().map(|row| row.tokens.len()).max().unwrap_or(0);
    let meter = Meter::new(ways.len() as u64 + 2);
    let of = |file: Option<&[u8]>| -> anyhow::Result<f64> {
        let mut generation = mynah.generation();
        if let Some(file) = file {
            generation = generation.attach(file.to_vec(), 1.0)?;
        }
        let loss = loss(&generation, &rows, ctx)?;
        anyhow::ensure!(loss.is_finite(), "{}: the mean loss is {loss}", out::name(path));
        Ok(loss)
    };
    let base = of(None)?;
    meter.show(1, || "the base".into());
    let whole = adapter::to_bytes_as(adapter, mynah.base(), &Provenance::default(), "f32")?;
    let own = of(Some(&whole))?;
    meter.show(2, || "the adapter as it is".into());
    anyhow::ensure!(
        own < base,
        "{}: the adapter does not lower the loss ({base:.4} without it, {own:.4} with it), so there is nothing to keep; take \
         a text like the one it learnt",
        out::name(path)
    );
    for (i, way) in ways.iter_mut().enumerate() {
        // One that changes nothing is the base, and cannot be attached.
        let loss = if mynah.adapter(way.file.clone())?.changes_something() { of(Some(&way.file))? } else { base };
        way.loss = Some(loss);
        way.kept = Some((base - loss) / (base - own));
        meter.show(i as u64 + 3, || way.codec.clone());
    }
    meter.done();
    let mut least = f64::INFINITY;
    for way in ways {
        let loss = way.loss.unwrap_or(f64::INFINITY);
        way.frontier = Some(loss < least);
        least = least.min(loss);
    }
    Ok(Some([base, own]))
}

/// The mean loss of rows.
fn loss(generation: &app::Generation, rows: &[Example], ctx: usize) -> anyhow::Result<f64> {
    let mut session = setting(generation.clone().session(ctx))?;
    let (mut sum, mut n) = (0.0, 0);
    for (i, row) in rows.iter().enumerate() {
        let (own, targets) = measure(&mut session, row).with_context(|| format!("row {}", i + 1))?;
        (sum, n) = (sum + own, n + targets);
    }
    Ok(sum / n.max(1) as f64)
}

fn rows(args: &Pack, mynah: &Mynah, path: &Path) -> anyhow::Result<Vec<Example>> {
    let ctx = args.ctx.unwrap_or(256).min(mynah.model().hparams.context);
    let rows = crate::eval::read(mynah, path, &args.rows, Split::Auto, ctx)?;
    anyhow::ensure!(
        rows.iter().any(|row| row.targets() > 0 && row.passages.is_empty()),
        "{}: no row has tokens to predict",
        out::name(path)
    );
    Ok(rows)
}

/// The way that is taken: within a size the one that loses least; without one the smallest that keeps enough.
fn choose(args: &Pack, ways: &[Way]) -> anyhow::Result<usize> {
    let smallest = ways.first().context("no codec can hold this adapter")?;
    // Either is what is lost; the smaller file of equal ones comes first.
    let lost = |way: &Way| way.loss.unwrap_or(way.rounding);
    let keeps = |way: &Way| way.kept.map_or(way.rounding <= ROUNDED, |kept| kept >= ENOUGH);
    let named = args.codec.spec().is_some();
    let best = match args.max_bytes {
        None if named => Some(0),
        None => ways.iter().position(keeps),
        Some(most) => {
            let fitting = ways.iter().enumerate().filter(|(_, way)| way.bytes <= most);
            fitting.min_by(|(_, a), (_, b)| lost(a).total_cmp(&lost(b))).map(|(i, _)| i)
        }
    };
    if let Some(best) = best {
        return Ok(best);
    }
    let loss = smallest.loss.map_or(String::new(), |loss| format!(", with a loss of {loss:.4}"));
    let (bytes, codec) = (out::number(smallest.bytes as u64), &smallest.codec);
    match args.max_bytes {
        Some(most) => anyhow::bail!(
            "--max-bytes {most}: the smallest file is {bytes} bytes ({codec}{loss}); to train for a size: mynah train --bytes {most}"
        ),
        None => anyhow::bail!("no codec keeps {:.0} % of what was learnt; name one with --codec", ENOUGH * 100.0),
    }
}

fn show(report: &Report, best: usize) -> anyhow::Result<()> {
    if let (Some(base), Some(own)) = (report.loss_of_base, report.loss_before) {
        let mut table = out::table(&["codec", "bytes", "loss", "kept", ""], [1, 2, 3]);
        for (i, way) in report.ways.iter().enumerate().filter(|(i, way)| way.frontier == Some(true) || *i == best) {
            let kept = way.kept.map_or(String::new(), |kept| format!("{:.1} %", kept * 100.0));
            let loss = way.loss.map_or(String::new(), |loss| format!("{loss:.4}"));
            let mark = if i == best { "written" } else { "" };
            table.add_row([&way.codec, &out::number(way.bytes as u64), &loss, &kept, mark]);
        }
        out::print(&format!("{table}\n"))?;
        let point = |way: &Way| Some((way.bytes as f64, way.kept?));
        out::print(&plot::frontier(&report.ways.iter().filter_map(point).collect::<Vec<_>>()))?;
        out::print(&format!(
            "loss {base:.4} without the adapter, {own:.4} with it as it was; kept: the part of that fall\n"
        ))?;
    }
    let before = match report.bytes_before {
        0 => String::new(),
        n => format!(" of {}", out::number(n)),
    };
    out::print(&format!("{}: {}{before} bytes, {}\n", report.output, out::number(report.bytes as u64), report.codec))
}
