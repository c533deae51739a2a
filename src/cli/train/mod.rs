//! `mynah train`: an adapter, or all weights, from a person's data.
//!
//! This page turns options into a trainer; `plan.rs` says what memory it will take, `course.rs` is the loop around it,
//! `lower.rs` the file of what frozen blocks put out, `output.rs` the file at the end.

mod course;
mod lower;
mod output;
mod plan;

pub use course::{Course, Passed, Summary};
pub use plan::plan;

use crate::args::{self, Method, RowOrder, Teach, Train, Usage, setting};
use crate::load::Loaded;
use crate::{Outcome, meter, out};
use anyhow::Context;
use course::PATIENCE;
use mynah::adapter::{self, Adapter, Spec};
use mynah::bytes::{Bytes, Limits, map};
use mynah::train::data::{self, Dataset, Order, Reader};
use mynah::train::plan::Rows;
use mynah::train::{Config, Example, Keep, Schedule, Trainer, optim};
use std::fs::File;
use std::path::Path;

/// Tokens of a row where nothing is said.
const CONTEXT: usize = 256;

impl From<args::Schedule> for Schedule {
    fn from(s: args::Schedule) -> Schedule {
        match s {
            args::Schedule::Cosine => Schedule::Cosine,
            args::Schedule::Linear => Schedule::Linear,
            args::Schedule::Constant => Schedule::Constant,
        }
    }
}

/// Tokens of a row.
fn context(args: &Teach, loaded: &Loaded) -> anyhow::Result<usize> {
    let most = loaded.model.hparams.context;
    let ctx = args.ctx.unwrap_or(CONTEXT.min(most));
    if ctx < 2 || ctx > most {
        return Err(Usage::error(format!("--ctx {ctx}: the model was made for 2 to {most} tokens")));
    }
    Ok(ctx)
}

/// The rows of a file; what was cut or left out is said.
fn read(path: &Path, bytes: &Bytes, ctx: usize, loaded: &Loaded) -> anyhow::Result<Dataset> {
    let name = path.to_string_lossy();
    let template = loaded.template()?;
    let reader = Reader { tokenizer: &loaded.tokenizer, template: template.as_ref(), ctx, limits: Limits::default() };
    let data = reader.file(&name, bytes).map_err(|e| e.in_file(&name))?;
    for (n, what) in [(data.cut, "cut at the context"), (data.skipped, "left out: nothing in them counts")] {
        if n > 0 {
            out::say(&format!("{n} rows {what}"));
        }
    }
    Ok(data)
}

/// Which examples stand in a row together.
fn rows(args: &Teach, ctx: usize, examples: &[Example]) -> Vec<Vec<usize>> {
    match args.pack {
        true => data::pack(&examples.iter().map(|e| e.tokens.len()).collect::<Vec<_>>(), ctx),
        false => (0..examples.len()).map(|i| vec![i]).collect(),
    }
}

pub fn train(options: &Train, json: bool) -> anyhow::Result<Outcome> {
    output::check(options)?;
    let args = &options.teach;
    let loaded = Loaded::open(&options.model, &args.engine)?;
    let ctx = context(args, &loaded)?;
    let bytes = map::open(&options.data)?;
    let data = read(&options.data, &bytes, ctx, &loaded)?;
    let (examples, tokens) = (data.examples.len(), data.tokens());
    let (train, eval) = setting(data.split(f64::from(args.eval_fraction), args.seed))?;
    let rows = rows(args, ctx, &train);
    let shuffle = (args.order == RowOrder::Shuffled).then_some(args.seed);
    let order = setting(Order::new(rows.len(), args.batch, args.accumulate, shuffle))?;
    let steps = match args.steps {
        Some(steps) => steps,
        None => args.epochs.unwrap_or(3).saturating_mul(order.steps_per_epoch()),
    };

    let (method, subject) = subject(args, &loaded)?;
    if method == Method::Full && args.loraplus_ratio != 1.0 {
        return Err(Usage::error("--loraplus-ratio is for adapters; with --method full nothing is a B"));
    }
    let run = plan::run(args, &loaded, &subject, Rows::of(&rows, &train), config(args, method, steps))?;
    let (run, planned) = plan::chosen(args, &run)?;
    let (config, micro) = (run.config, run.batch);
    let mut trainer = setting(match subject.adapter(&loaded)? {
        Some(adapter) => Trainer::adapter(&loaded.model, adapter, config),
        None => Trainer::full(&loaded.model, config),
    })?;
    if let Some(path) = &args.lower_cache {
        let blocks = trainer.frozen_blocks();
        if blocks == 0 {
            return Err(Usage::error("--lower-cache: the first block learns too; --layers says which should"));
        }
        let file = lower::File::open(path, args.lower_cache_size as u64, &loaded, blocks, &bytes)?;
        out::say(&file.says());
        trainer.keep_lower(Box::new(file));
    }
    let log = args.log.as_ref().map(|p| File::create(p).with_context(|| p.display().to_string())).transpose()?;
    out::say(&format!(
        "{}: {} parameters; {examples} rows, {tokens} tokens, {} rows held out; {steps} steps; {} planned",
        method.row().0,
        trainer.parameters(),
        eval.len(),
        out::bytes(planned.total() as u64),
    ));
    meter::catch_interrupt()?;
    let passed = Course { trainer, train: &train, rows, micro, eval: &eval, order, steps, log }.run()?;

    let saved = match passed.reports.len() {
        0 => None,
        _ => Some(output::save(options, &loaded, &passed, &bytes)?),
    };
    let summary = passed.summary(saved);
    passed.show(&summary);
    let output = options.output.display();
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

fn config(args: &Teach, method: Method, steps: u64) -> Config {
    Config {
        lr: args.lr.unwrap_or(method.row().1),
        steps,
        schedule: args.schedule.into(),
        warmup: args.warmup,
        clip: args.clip,
        optimizer: optim::Spec {
            kind: args.optimizer.clone(),
            weight_decay: args.weight_decay,
            ratio: args.loraplus_ratio,
            ..optim::Spec::default()
        },
        keep: args.keep.unwrap_or(Keep::Auto),
        precision: args.keep_precision.into(),
    }
}

/// What is trained.
enum Subject {
    Fresh(Spec),
    Given(Box<dyn Adapter>),
    Weights,
}

impl Subject {
    /// The adapter, unless all weights are trained.
    fn adapter(self, loaded: &Loaded) -> anyhow::Result<Option<Box<dyn Adapter>>> {
        match self {
            Subject::Fresh(spec) => Ok(Some(setting(adapter::create(&spec, loaded.base()))?)),
            Subject::Given(adapter) => Ok(Some(adapter)),
            Subject::Weights => Ok(None),
        }
    }
}

/// The method, and what it trains.
fn subject(args: &Teach, loaded: &Loaded) -> anyhow::Result<(Method, Subject)> {
    if let Some(path) = &args.init {
        let adapter = loaded.read_adapter(Path::new(path))?;
        let method = if adapter.kind() == "nola" { Method::Nola } else { Method::Lora };
        if args.method.is_some_and(|m| m != method) {
            return Err(Usage::error(format!("--init {path} is a {} adapter; leave out --method", adapter.kind())));
        }
        return Ok((method, Subject::Given(adapter)));
    }
    let method = args.method.unwrap_or(Method::Lora);
    if method == Method::Full {
        return Ok((method, Subject::Weights));
    }
    let layers = |list: &String| setting(adapter::parse_layers(list, loaded.model.hparams.layers));
    let spec = Spec {
        kind: method.row().0.into(),
        rank: args.rank,
        alpha: args.alpha,
        rank_stabilised: args.rank_stabilised,
        targets: setting(adapter::parse_targets(&args.targets))?,
        layers: args.layers.as_ref().map(layers).transpose()?,
        bases: [args.basis; 2],
        seed: args.seed,
        ..Spec::default()
    };
    Ok((method, Subject::Fresh(spec)))
}
