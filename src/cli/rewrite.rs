//! `mynah quantize` and `mynah bake`: model files from model files.

use crate::args::{Bake, Quantize, Usage, setting};
use crate::eval::{self, measure};
use crate::load;
use crate::meter::Meter;
use crate::names::{self, What};
use crate::paths::{self, Named};
use crate::{Outcome, out};
use anyhow::Context;
use mynah::Mynah;
use mynah::adapter::probe;
use mynah::app::Generation;
use mynah::bytes::{Limits, map};
use mynah::gguf::Gguf;
use mynah::nn::linear::Precision;
use mynah::rewrite::{self, Importance, Mix, Progress, Quantise};
use mynah::text::Encode;
use mynah::train::Example;
use mynah::train::data::{Split, text_of};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Serialize)]
struct Written<'a> {
    output: String,
    bytes_before: u64,
    bytes: u64,
    r#type: &'a str,
    formats: BTreeMap<&'static str, usize>,
    unmeasured: Vec<String>,
}

pub fn quantize(args: &Quantize, json: bool) -> anyhow::Result<Outcome> {
    let to = Mix::by_name(&args.to)?;
    let mut read = paths::of_model(&args.model);
    read.extend(args.calibrate.iter().map(|path| Named::new("--calibrate", path)));
    new_file("OUT", &args.output, args.force, &read)?;
    let gguf = load::gguf_by(&args.model, args.engine.io.into())?;
    let importance = args.calibrate.as_ref().map(|text| importance(args, text)).transpose()?;
    let how = Quantise { to, importance: importance.as_ref(), again: args.allow_requantize };
    let compute = load::compute(&args.engine)?;
    let (mut bar, name) = (Bar::default(), args.model.to_string_lossy());
    let report = map::replace_with(&args.output, |sink| {
        rewrite::quantise(&gguf, &how, &compute, sink, &mut |p| bar.show(p)).map_err(|e| e.in_file(&name))
    });
    bar.done();
    let report = report.map_err(|e| match e.inner() {
        mynah::Error::Invalid { .. } if !args.allow_requantize && e.to_string().contains("already") => {
            anyhow::anyhow!("{e}: --allow-requantize")
        }
        _ => e.into(),
    })?;
    let [bytes_before, bytes] = report.bytes;
    let output = out::name(&args.output);
    let written = Written {
        output,
        bytes_before,
        bytes,
        r#type: to.name,
        formats: report.formats,
        unmeasured: report.unmeasured,
    };
    if json {
        out::print_json(&written)?;
        return Ok(Outcome::Done);
    }
    if !written.unmeasured.is_empty() {
        let n = out::count(written.unmeasured.len() as u64, "tensor");
        out::say(&format!("{n} without a measured importance, such as {}", written.unmeasured[0]));
    }
    let (before, after) = (out::bytes(bytes_before), out::bytes(bytes));
    out::print(&format!(
        "{}: {}, {after} of weights, of {before}: {}\n",
        written.output,
        to.name,
        list(&written.formats)
    ))?;
    Ok(Outcome::Done)
}

/// What matters on a text.
fn importance(args: &Quantize, text: &Path) -> anyhow::Result<Importance> {
    let mynah = load::open(&args.model, &args.engine)?;
    let bytes = map::open(text)?;
    let words = text_of(&bytes).with_context(|| out::name(text))?;
    bytes.check()?;
    let tokenizer = mynah.tokenizer();
    let tokens = setting(tokenizer.encode(&words, &Encode { add_special: true, parse_special: false }))?;
    let begin = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    let (mut meter, name) = (None, text.file_name().map_or_else(|| out::name(text), |n| out::name(Path::new(n))));
    let measured =
        Importance::measure(mynah.model(), mynah.base(), mynah.gguf(), &tokens, begin, &name, &mut |i, n| {
            let meter = meter.get_or_insert_with(|| Meter::new(n as u64));
            meter.show(i as u64, || "what matters".into());
            if i == n {
                meter.done();
            }
        });
    setting(measured)
}

/// The tensors of each format.
fn list(formats: &BTreeMap<&'static str, usize>) -> String {
    formats.iter().map(|(name, n)| format!("{n} {name}")).collect::<Vec<_>>().join(", ")
}

/// Checks that a file may be written, which reads none of its inputs.
pub fn new_file(option: &str, path: &Path, force: bool, read: &[Named]) -> anyhow::Result<()> {
    paths::apart(&[Named::new(option, path)], read)?;
    if path.exists() && !force {
        let path = out::name(path);
        return Err(Usage::error(format!("{option} {path} exists: --force replaces it, or name another file")));
    }
    paths::writable(path)
}

/// A progress line over the bytes of a file.
#[derive(Default)]
pub struct Bar(Option<Meter>);

impl Bar {
    pub fn show(&mut self, p: Progress) {
        let meter = self.0.get_or_insert_with(|| Meter::new(p.total >> 20));
        meter.show(p.done >> 20, || format!("MiB  {}", p.tensor));
    }

    pub fn done(&self) {
        self.0.iter().for_each(Meter::done);
    }
}

#[derive(Serialize)]
struct BakeReport {
    output: String,
    bytes: u64,
    changed: usize,
    formats: BTreeMap<&'static str, usize>,
    rounding: f64,
    loss_of_base: f64,
    loss_with_adapters: f64,
    loss_baked: f64,
    kept: Option<f64>,
    tokens: u64,
}

/// The least part of what the adapters learnt that a file should keep.
const ENOUGH: f64 = 0.5;

pub fn bake(args: &Bake, json: bool) -> anyhow::Result<Outcome> {
    let to = args.to.as_deref().map(Mix::by_name).transpose()?;
    let mut read: Vec<Named> = args.model.iter().flat_map(|path| paths::of_model(path)).collect();
    for name in &args.adapters {
        let (path, _) = load::split_scale(name)?;
        names::check(Path::new(path), What::Adapter)?;
        read.push(Named::new("-a", path));
    }
    read.extend(args.data.iter().map(|path| Named::new("-d", path)));
    new_file("-o", &args.output, args.force, &read)?;
    let mynah = load::named(args.model.as_deref(), &args.engine)?;
    let stack = load::stack(&mynah, &args.adapters, &args.other)?;
    let rows = rows(args, &mynah)?;
    let name = |name: &String| load::split_scale(name).map(|(path, _)| record(Path::new(path)));
    let names = args.adapters.iter().map(name).collect::<anyhow::Result<Vec<_>>>()?;
    let how = rewrite::Bake { stack: &stack, names: &names, to };
    let (mut bar, cx) = (Bar::default(), &mynah.model().compute);
    let baked = map::replace_with(&args.output, |sink| {
        rewrite::bake(mynah.gguf(), mynah.base(), &how, cx, sink, &mut |p| bar.show(p))
    });
    bar.done();
    let baked = baked?;
    let file = Gguf::open(&args.output, &Limits::default())?;
    let rounding = rewrite::bake::rounding(mynah.gguf(), &file, mynah.base(), &stack, cx)?;
    let new = Mynah::with(file, cx.clone())?;
    let exact = |generation: Generation| generation.precision(Precision::F32);
    let (base, tokens) = loss(&exact(mynah.generation()), &rows)?;
    let (own, _) = loss(&exact(mynah.generation()).stack(stack), &rows)?;
    let (after, _) = loss(&exact(new.generation()), &rows)?;
    let report = BakeReport {
        output: out::name(&args.output),
        bytes: baked.bytes,
        changed: baked.changed,
        formats: baked.formats,
        rounding,
        loss_of_base: base,
        loss_with_adapters: own,
        loss_baked: after,
        kept: (own < base).then(|| (base - after) / (base - own)),
        tokens,
    };
    if json {
        out::print_json(&report)?
    } else {
        show(&report)?
    }
    Ok(Outcome::Done)
}

fn show(report: &BakeReport) -> anyhow::Result<()> {
    let BakeReport { loss_of_base, loss_with_adapters, loss_baked, tokens, .. } = report;
    out::print(&format!(
        "loss {loss_of_base:.4} of the base, {loss_with_adapters:.4} with adapters attached, {loss_baked:.4} baked ({})\n",
        out::count(*tokens, "token")
    ))?;
    let lost = format!("rounding errs by {:.3} of the change of the weights", report.rounding.sqrt());
    match report.kept {
        Some(kept) if kept < ENOUGH => out::say(&format!(
            "rounding has erased most of what the adapters do: {:.0} % of their effect is left. Choose a type with more bits, \
             such as --type Q8_0 or F16, or keep them apart and attach them (-a)",
            kept.max(0.0) * 100.0
        )),
        // The loss says nothing of them here, so that the weights must.
        None if report.rounding > ENOUGH => out::say(&format!(
            "{lost}, and on this text the adapters do not lower the loss; -d takes a text like the one they learnt"
        )),
        _ => {}
    }
    let kept = report.kept.map_or(String::new(), |kept| format!("; {:.1} % of the effect is kept", kept * 100.0));
    let tensors =
        format!("{} of weights, {} changed", out::bytes(report.bytes), out::count(report.changed as u64, "tensor"));
    out::print(&format!("{}: {tensors}: {}; {lost}{kept}\n", report.output, list(&report.formats)))
}

/// What an adapter is called in the file: its name, and the beginning of its digest if it is a file.
fn record(path: &Path) -> String {
    let name = path.file_name().map_or_else(|| out::name(path), |n| out::name(Path::new(n)));
    match map::open(path) {
        Ok(bytes) => format!("{name} (BLAKE3 {})", &blake3::hash(&bytes).to_hex()[..16]),
        Err(_) => name,
    }
}

/// What the losses are measured on: data, or what the first adapter's proof says, or the built-in notes.
fn rows(args: &Bake, mynah: &Mynah) -> anyhow::Result<Vec<Example>> {
    let ctx = args.ctx.unwrap_or(256).min(mynah.model().hparams.context);
    let rows = match &args.data {
        Some(path) => eval::read(mynah, path, &args.rows, Split::Auto, ctx)?,
        None => {
            let (path, _) = load::split_scale(&args.adapters[0])?;
            let proof = || probe::read(load::adapter_in(map::open(Path::new(path))?), &Limits::default());
            match proof().ok().flatten() {
                Some(probe) => {
                    let answer = probe.prompt.len();
                    let tokens = [probe.prompt, probe.adapted.tokens].concat();
                    let mask = (0..tokens.len()).map(|t| t >= answer).collect();
                    vec![Example::new(tokens, mask)]
                }
                None => {
                    let special = Encode { add_special: true, parse_special: false };
                    let tokens = setting(mynah.tokenizer().encode(NOTES, &special))?;
                    let row = |row: &[u32]| Example::new(row.to_vec(), (0..row.len()).map(|t| t > 0).collect());
                    tokens.chunks(ctx).map(row).collect()
                }
            }
        }
    };
    let any = rows.iter().any(|row: &Example| row.targets() > 0 && row.passages.is_empty());
    anyhow::ensure!(any, "no row of the text has tokens to predict; -d names another");
    Ok(rows)
}

#[cfg(feature = "base")]
const NOTES: &str = mynah::base::NOTES;
#[cfg(not(feature = "base"))]
const NOTES: &str = "The sun rose over the hill, and the birds began to sing. It was going to be a warm day.";

/// The mean loss of rows, and how many tokens it is of.
fn loss(generation: &Generation, rows: &[Example]) -> anyhow::Result<(f64, u64)> {
    let ctx = rows.iter().map(|row| row.tokens.len()).max().unwrap_or(0);
    let mut session = setting(generation.clone().session(ctx))?;
    let (mut sum, mut n) = (0.0, 0);
    for (i, row) in rows.iter().enumerate() {
        let (own, targets) = measure(&mut session, row).with_context(|| format!("row {}", i + 1))?;
        (sum, n) = (sum + own, n + targets);
    }
    Ok((sum / n.max(1) as f64, n))
}
