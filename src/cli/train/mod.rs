//! `mynah train`: an adapter, or all weights, from a person's data.
//!
//! This page turns options into a trainer; `course.rs` is the loop around it, `output.rs` the file at its end.

mod course;
mod output;

pub use course::{Course, Passed, Summary};

use crate::args::{self, Method, RowOrder, Train, Usage, setting};
use crate::load::Loaded;
use crate::{Outcome, meter, out};
use anyhow::Context;
use course::PATIENCE;
use mynah::adapter::{self, Adapter, Spec};
use mynah::bytes::{Limits, map};
use mynah::train::data::{Order, Reader};
use mynah::train::{Config, Schedule, Trainer, optim};
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

pub fn train(args: &Train, json: bool) -> anyhow::Result<Outcome> {
    output::check(args)?;
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
    if method == Method::Full && args.loraplus_ratio != 1.0 {
        return Err(Usage::error("--loraplus-ratio is for adapters; with --method full nothing is a B"));
    }
    let config = Config {
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
        _ => Some(output::save(args, &loaded, &passed, &bytes)?),
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
