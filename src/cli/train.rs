//! `mynah train`: an adapter, or all weights, from a person's data.

use crate::args::{self, Method, RowOrder, Train, Usage, setting};
use crate::load::Loaded;
use crate::meter::{self, Meter};
use crate::{Outcome, out, plot};
use anyhow::Context;
use mynah::adapter::{self, Adapter, Provenance, Spec};
use mynah::bytes::{Bytes, Limits, map};
use mynah::gguf::{Gguf, Writer};
use mynah::model::Model;
use mynah::model::weights::Places;
use mynah::quant::Format;
use mynah::train::data::{Order, Reader};
use mynah::train::{Config, Example, Report, Schedule, Trainer};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Tokens of a row where nothing is said.
const CONTEXT: usize = 256;
/// Held-out loss is measured so often during a run, beside before and after.
const LOOKS: u64 = 8;
/// A run ends after so many steps in a row that had to be discarded.
const PATIENCE: u64 = 3;

/// A line of the log.
#[derive(Serialize)]
struct Step {
    step: u64,
    loss: f64,
    grad_norm: f64,
    lr: f32,
    tokens: u64,
}

/// What a run did, for machines.
#[derive(Serialize)]
pub struct Summary {
    pub steps: u64,
    pub parameters: usize,
    pub loss_first: Option<f64>,
    pub loss_last: Option<f64>,
    pub eval_before: Option<f64>,
    pub eval_after: Option<f64>,
    pub adapter_bytes: Option<usize>,
    pub tokens_per_second: f64,
    pub seconds: f64,
    pub peak_rss_bytes: Option<u64>,
    pub interrupted: bool,
}

/// A run: the loop around a trainer.
pub struct Course<'a> {
    pub trainer: Trainer,
    pub train: &'a [Example],
    pub eval: &'a [Example],
    pub order: Order,
    pub steps: u64,
    pub log: Option<File>,
}

/// What a run leaves behind.
pub struct Passed {
    pub trainer: Trainer,
    pub reports: Vec<Report>,
    pub held_out: Vec<(u64, f64)>,
    pub seconds: f64,
    /// Why it ended early, if not by Ctrl-C.
    pub failure: Option<mynah::Error>,
}

impl Course<'_> {
    /// Runs all steps, or until Ctrl-C or until steps fail.
    pub fn run(mut self) -> anyhow::Result<Passed> {
        let (mut reports, mut held_out) = (Vec::new(), Vec::new());
        let mut failure = None;
        let meter = Meter::new(self.steps);
        let mut busy = 0.0;
        self.look(0, &mut held_out)?;
        let every = (self.steps / LOOKS).max(1);
        let (mut failed, mut tokens) = (0, 0);
        while (reports.len() as u64) < self.steps && !meter::interrupted() {
            let rows = self.order.next_step();
            let batches: Vec<Vec<Example>> =
                rows.iter().map(|rows| rows.iter().map(|&i| self.train[i].clone()).collect()).collect();
            let slices: Vec<&[Example]> = batches.iter().map(Vec::as_slice).collect();
            let start = Instant::now();
            let report = self.trainer.step(&slices);
            busy += start.elapsed().as_secs_f64();
            let report = match report {
                Ok(report) => report,
                Err(e) => {
                    failed += 1;
                    out::say(&format!("{e} (rows {rows:?}, counted from 0)"));
                    if failed == PATIENCE {
                        failure = Some(e);
                        break;
                    }
                    continue;
                }
            };
            failed = 0;
            tokens += report.tokens;
            if let Some(log) = &mut self.log {
                let Report { step, loss, grad_norm, lr, tokens, .. } = report;
                let line = serde_json::to_string(&Step { step, loss, grad_norm, lr, tokens })?;
                writeln!(log, "{line}").context("write the log")?;
            }
            reports.push(report);
            if report.step % every == 0 && report.step < self.steps {
                self.look(report.step, &mut held_out)?;
            }
            meter.show(report.step, || {
                let held = held_out.last().map_or(String::new(), |(_, loss)| format!("  held out {loss:.3}"));
                let memory = meter::peak_rss().map_or(String::new(), |n| format!("  peak {}", out::bytes(n)));
                format!("loss {:.3}{held}  {:.0} tokens/s{memory}", report.loss, tokens as f64 / busy)
            });
        }
        meter.done();
        self.look(reports.len() as u64, &mut held_out)?;
        Ok(Passed { trainer: self.trainer, reports, held_out, seconds: busy, failure })
    }

    fn look(&mut self, step: u64, held_out: &mut Vec<(u64, f64)>) -> anyhow::Result<()> {
        if self.eval.is_empty() || held_out.last().is_some_and(|last| last.0 == step) {
            return Ok(());
        }
        let (mut sum, mut counted) = (0.0, 0);
        for row in self.eval {
            let (loss, n) = self.trainer.evaluate(std::slice::from_ref(row))?;
            sum += loss;
            counted += n;
        }
        held_out.push((step, sum / counted as f64));
        Ok(())
    }
}

impl Passed {
    pub fn summary(&self, adapter_bytes: Option<usize>) -> Summary {
        let tokens: u64 = self.reports.iter().map(|r| r.tokens).sum();
        let eval = |point: Option<&(u64, f64)>| point.map(|p| p.1);
        Summary {
            steps: self.reports.len() as u64,
            parameters: self.trainer.parameters(),
            loss_first: self.reports.first().map(|r| r.loss),
            loss_last: self.reports.last().map(|r| r.loss),
            eval_before: eval(self.held_out.first()),
            eval_after: eval(self.held_out.last()),
            adapter_bytes,
            tokens_per_second: if self.seconds > 0.0 { tokens as f64 / self.seconds } else { 0.0 },
            seconds: self.seconds,
            peak_rss_bytes: meter::peak_rss(),
            interrupted: meter::interrupted(),
        }
    }

    /// Where the adapter comes from, for its file.
    pub fn provenance(&self, data: &[u8]) -> Provenance {
        Provenance {
            objective: "next token".into(),
            data: blake3::hash(data).to_hex().to_string(),
            steps: self.reports.len() as u64,
            first_loss: self.reports.first().map(|r| r.loss),
            last_loss: self.reports.last().map(|r| r.loss),
        }
    }

    /// The curve and the figures, for eyes.
    pub fn show(&self, summary: &Summary) {
        let losses: Vec<f64> = self.reports.iter().map(|r| r.loss).collect();
        out::say(plot::curve(&losses, &self.held_out).trim_end());
        let pair = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) => format!("{a:.4} → {b:.4}"),
            _ => "-".into(),
        };
        let memory = summary.peak_rss_bytes.map_or("unknown".into(), out::bytes);
        out::say(&format!(
            "{} steps in {:.1} s, {:.0} tokens/s; loss {}; held-out loss {}; peak memory {memory}",
            summary.steps,
            summary.seconds,
            summary.tokens_per_second,
            pair(summary.loss_first, summary.loss_last),
            pair(summary.eval_before, summary.eval_after),
        ));
    }
}

impl From<args::Schedule> for Schedule {
    fn from(s: args::Schedule) -> Schedule {
        match s {
            args::Schedule::Cosine => Schedule::Cosine,
            args::Schedule::Linear => Schedule::Linear,
            args::Schedule::Constant => Schedule::Constant,
        }
    }
}

pub fn train(args: &Train, json: bool) -> anyhow::Result<Outcome> {
    check_output(args)?;
    let loaded = Loaded::open(&args.model, &args.engine)?;
    let most = loaded.model.hparams.context;
    let ctx = args.ctx.unwrap_or(CONTEXT.min(most));
    if ctx < 2 || ctx > most {
        return Err(Usage::error(format!("--ctx {ctx}: the model was made for 2 to {most} tokens")));
    }

    let name = args.data.to_string_lossy();
    let bytes = map::open(&args.data)?;
    let template = loaded.template()?;
    let reader = Reader { tokenizer: &loaded.tokenizer, template: template.as_ref(), ctx, limits: Limits::default() };
    let data = reader.file(&name, &bytes).map_err(|e| e.in_file(&name))?;
    for (n, what) in [(data.cut, "cut at the context"), (data.skipped, "left out: nothing in them counts")] {
        if n > 0 {
            out::say(&format!("{n} rows {what}"));
        }
    }
    let (rows, tokens) = (data.examples.len(), data.tokens());
    let (train, eval) = setting(data.split(f64::from(args.eval_fraction), args.seed))?;
    let shuffle = (args.order == RowOrder::Shuffled).then_some(args.seed);
    let order = setting(Order::new(train.len(), args.batch, args.accumulate, shuffle))?;
    let steps = match args.steps {
        Some(steps) => steps,
        None => args.epochs.unwrap_or(3).saturating_mul(order.steps_per_epoch()),
    };

    let (method, adapter) = subject(args, &loaded)?;
    let config = Config {
        lr: args.lr.unwrap_or(method.row().1),
        steps,
        schedule: args.schedule.into(),
        warmup: args.warmup,
        weight_decay: args.weight_decay,
        clip: args.clip,
        ..Config::default()
    };
    let trainer = setting(match adapter {
        Some(adapter) => Trainer::adapter(&loaded.model, adapter, config),
        None => Trainer::full(&loaded.model, config),
    })?;
    let log = args.log.as_ref().map(|p| File::create(p).with_context(|| p.display().to_string())).transpose()?;
    out::say(&format!(
        "{}: {} parameters; {rows} rows, {tokens} tokens, {} rows held out; {steps} steps",
        method.row().0,
        trainer.parameters(),
        eval.len(),
    ));
    meter::catch_interrupt()?;
    let passed = Course { trainer, train: &train, eval: &eval, order, steps, log }.run()?;

    let saved = match passed.reports.len() {
        0 => None,
        _ => Some(save(args, &loaded, &passed, &bytes)?),
    };
    let summary = passed.summary(saved);
    passed.show(&summary);
    let output = args.output.display();
    match saved {
        Some(n) => out::say(&format!("saved {output}, {n} bytes")),
        None => out::say("nothing saved: no step was done"),
    }
    if json {
        out::print_json(&summary)?;
    }
    if let Some(e) = passed.failure {
        return Err(anyhow::Error::from(e).context(format!("stopped: {PATIENCE} steps in a row were discarded")));
    }
    if summary.interrupted && summary.steps < steps {
        let left = steps - summary.steps;
        let go_on = match method {
            Method::Full => format!("-m {output}"),
            _ => format!("--init {output}"),
        };
        out::say(&format!("interrupted after step {} of {steps}; go on with {go_on} --steps {left}", summary.steps));
        return Ok(Outcome::Interrupted);
    }
    Ok(Outcome::Done)
}

/// What cannot be written, or must not be overwritten, is found before hours of work.
fn check_output(args: &Train) -> anyhow::Result<()> {
    let real = |p: &Path| p.canonicalize().ok();
    for (input, what) in [(&args.model, "the model"), (&args.data, "the data")] {
        if real(&args.output).is_some_and(|out| Some(out) == real(input)) {
            return Err(Usage::error(format!("-o {} would overwrite {what}", args.output.display())));
        }
    }
    let parent = args.output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    anyhow::ensure!(parent.is_dir(), "{}: there is no such directory", parent.display());
    anyhow::ensure!(!args.output.is_dir(), "{}: a directory; a file is written", args.output.display());
    if args.log.as_ref().is_some_and(|log| *log == args.output) {
        return Err(Usage::error("--log and -o name the same file"));
    }
    Ok(())
}

/// What is trained: the method, and its adapter unless all weights are.
fn subject(args: &Train, loaded: &Loaded) -> anyhow::Result<(Method, Option<Box<dyn Adapter>>)> {
    if let Some(path) = &args.init {
        let adapter = loaded.read_adapter(Path::new(path))?;
        let method = if adapter.kind() == "nola" { Method::Nola } else { Method::Lora };
        if args.method.is_some_and(|m| m != method) {
            return Err(Usage::error(format!("--init {path} is a {} adapter; leave out --method", adapter.kind())));
        }
        return Ok((method, Some(adapter)));
    }
    let method = args.method.unwrap_or(Method::Lora);
    if method == Method::Full {
        return Ok((method, None));
    }
    let spec = Spec {
        kind: method.row().0.into(),
        rank: args.rank,
        alpha: args.alpha,
        rank_stabilised: args.rank_stabilised,
        targets: setting(adapter::parse_targets(&args.targets))?,
        bases: [args.basis; 2],
        seed: args.seed,
        ..Spec::default()
    };
    Ok((method, Some(setting(adapter::create(&spec, loaded.base()))?)))
}

/// Writes what was learnt; its size.
fn save(args: &Train, loaded: &Loaded, passed: &Passed, data: &[u8]) -> anyhow::Result<usize> {
    let bytes = match passed.trainer.adapter_ref() {
        Some(adapter) => adapter::to_bytes(adapter, loaded.base(), &passed.provenance(data))?,
        None => model_file(&loaded.gguf, passed.trainer.model())?,
    };
    map::replace(&args.output, &bytes)?;
    Ok(bytes.len())
}

/// The file of a model in F32: metadata and the tensors that are not trained as they were.
fn model_file(before: &Gguf, model: &Model) -> anyhow::Result<Vec<u8>> {
    let places = Places::of(&model.weights);
    let flat = Bytes::from_floats(Arc::new(model.weights.flatten(&places)));
    let f32s = Format::by_name("F32").context("the table of formats has no F32")?;
    let mut writer = Writer::new();
    for (key, value) in before.pairs() {
        match key {
            // 0: all F32.
            "general.file_type" => writer.set(key, 0u32),
            _ => writer.set(key, value.clone()),
        };
    }
    let names = places.names();
    let trained: BTreeSet<&str> = names.iter().map(|(name, _)| name.as_str()).collect();
    for (name, place) in &names {
        let tensor = before.tensor(name).with_context(|| format!("the model file has no tensor {name}"))?;
        writer.tensor(name.as_str(), tensor.dims(), f32s, flat.slice(place.start * 4..place.end * 4)?);
    }
    for tensor in before.tensors().iter().filter(|t| !trained.contains(&*t.name)) {
        writer.tensor(&*tensor.name, tensor.dims(), tensor.format, before.data(tensor)?);
    }
    Ok(writer.finish()?)
}
