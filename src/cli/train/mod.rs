//! `mynah train`: an adapter, or all weights, from a person's data.
//!
//! This page turns options into a trainer; `plan.rs` says what memory it will take, `course.rs` is the loop around it,
//! `past.rs` what it has done so far, `keep.rs` its checkpoints and the way back from them, `activation_cache.rs` the file of what
//! frozen blocks put out, `output.rs` the file at the end.

mod aim;
mod course;
mod keep;
mod activation_cache;
pub mod output;
mod past;
mod plan;

pub use course::{Course, Ended, Pace, Summary};
pub use keep::{Line, Resumed};
pub use past::Past;
pub use plan::plan;

use crate::args::{self, FULL, RowOrder, Teach, Train, Usage, rate, setting};
use crate::load::{self, Loaded};
use crate::paths::Named;
use crate::{Outcome, meter, out};
use anyhow::Context;
use course::DISCARDS;
use keep::Keeper;
use mynah::Error;
use mynah::adapter::{self, Adapter, Kind, Spec};
use mynah::bytes::{Bytes, Limits, map};
use mynah::container::head::Head;
use mynah::knob::Value;
use mynah::nn::linear::Precision;
use mynah::train::data::{self, Dataset, Order, Reader};
use mynah::train::plan::Rows;
use mynah::train::{Config, Dropout, Example, Recompute, Schedule, Trainer, checkpoint, optim};
use std::fs::File;
use std::path::Path;
use std::time::Duration;

/// Tokens of a row where nothing is said.
const CONTEXT: usize = 256;
/// The fact that tells what `--init` named.
const BEGAN: &str = "adapter at the start";

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
fn read(path: &Path, bytes: &Bytes, ctx: usize, loaded: &Loaded, clock: i64) -> anyhow::Result<Dataset> {
    let name = path.to_string_lossy();
    let template = loaded.template_at(clock)?;
    let reader = Reader { tokenizer: &loaded.tokenizer, template: template.as_ref(), ctx, limits: Limits::default() };
    let data = reader.file(&name, bytes).with_context(|| name.to_string())?;
    for (n, what) in [(data.cut, "cut at the context"), (data.skipped, "left out: they have no target token")] {
        if n > 0 {
            out::say(&format!("{n} rows {what}"));
        }
    }
    Ok(data)
}

/// Which examples stand in a row together.
fn rows(args: &Teach, ctx: usize, examples: &[Example]) -> Vec<Vec<usize>> {
    match args.pack {
        true => {
            let len = |e: &Example| e.sequences().map(|e| e.tokens.len()).sum();
            data::pack(&examples.iter().map(len).collect::<Vec<_>>(), ctx)
        }
        false => (0..examples.len()).map(|i| vec![i]).collect(),
    }
}

/// `kept` are the options by which a checkpoint finds the way back, `resumed` is where this run goes on.
pub fn train(options: &Train, kept: Head, resumed: Option<Resumed>, json: bool) -> anyhow::Result<Outcome> {
    let args = &options.teach;
    args.check()?;
    let default = keep::default_folder(&options.output);
    let (what, folder) = match (&resumed, &args.checkpoints) {
        (Some(resumed), _) => ("--resume", resumed.folder.path()),
        (None, Some(folder)) => ("--checkpoints", folder.as_path()),
        (None, None) => ("OUT.checkpoints", default.as_path()),
    };
    output::check(options, Named::new(what, folder))?;
    if resumed.is_none() {
        keep::check_unused(folder)?;
    }
    if args.patience.is_some() && args.eval_fraction == 0.0 {
        return Err(Usage::error("--patience measures on held-out rows: put some aside with --eval-fraction 0.1"));
    }
    let loaded = Loaded::open(&options.model, &args.engine)?;
    let ctx = context(args, &loaded)?;
    let bytes = map::open(&options.data)?;
    let clock = resumed.as_ref().map_or_else(load::now, |r| r.clock);
    let data = read(&options.data, &bytes, ctx, &loaded, clock)?;
    let (examples, tokens) = (data.examples.len(), data.tokens());
    let (train, eval) = setting(data.split(f64::from(args.eval_fraction), args.seed))?;
    let mut train = aim::shape(args, train, ctx)?;
    let mut eval = aim::shape(args, eval, ctx)?;
    let rows = rows(args, ctx, &train);
    let shuffle = (args.order == RowOrder::Shuffled).then_some(args.seed);
    let mut order = setting(Order::new(rows.len(), args.batch, args.accumulate, shuffle))?;
    let steps = match args.steps {
        Some(steps) => steps,
        None => args.epochs.unwrap_or(3).saturating_mul(order.steps_per_epoch()),
    };
    let pace = Pace {
        look: args.eval_every.unwrap_or(Pace::through(steps).look),
        patience: args.patience,
        most_steps: args.max_steps,
        most_time: args.max_minutes.map(|m| Duration::from_secs_f32(m * 60.0)),
        ..Pace::through(steps)
    };

    let subject = subject(args, &loaded, resumed.as_ref())?;
    let beneath = loaded.stack(&args.adapters)?;
    let method = subject.method().to_string();
    let ratio = args.optimizer.values.get(optim::RATIO.name);
    if method == FULL && ratio.is_some_and(|ratio| *ratio != Value::Real(1.0)) {
        return Err(Usage::error("--loraplus-ratio is for adapters; with --method full nothing is a B"));
    }
    if method == FULL && !beneath.is_empty() {
        return Err(Usage::error(
            "--adapter is for training another adapter on top; with --method full the base itself learns",
        ));
    }
    if method == FULL && args.fast {
        return Err(Usage::error("--fast is for adapters: with --method full the base itself learns, in f32"));
    }
    let run = plan::run(args, &loaded, &subject, &beneath, Rows::of(&rows, &train), config(args, &method, steps))?;
    let (mut run, planned) = plan::chosen(args, &run)?;
    // Where saved activations are rounded, the number of such blocks decides bits: it stays as it was.
    let blocks = resumed.as_ref().and_then(|r| r.checkpoint.facts().text(checkpoint::SAVED_BLOCKS).ok()?.parse().ok());
    if let Some(blocks) = blocks {
        run.config.recompute = Recompute::AllBut(blocks);
    }
    let (config, micro) = (run.config, run.batch);
    let adapter = subject.adapter(&loaded)?;
    let mut facts = Head::new();
    if let (Some(adapter), Some(_)) = (&adapter, &args.init) {
        let known = resumed.as_ref().filter(|r| !r.other_init).and_then(|r| r.checkpoint.facts().get(BEGAN));
        let bytes = || adapter.params().iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        facts.set(BEGAN, known.cloned().unwrap_or_else(|| short(blake3::hash(&bytes())).into()));
    }
    let mut trainer = setting(match adapter {
        Some(adapter) => Trainer::on(&loaded.model, beneath.clone(), adapter, config),
        None => Trainer::full(&loaded.model, config),
    })?;
    if let Some(path) = &args.activation_cache {
        let blocks = trainer.frozen_blocks();
        if blocks == 0 {
            return Err(Usage::error(
                "--activation-cache: the first block is trained too; --layers chooses the blocks",
            ));
        }
        let file = activation_cache::File::open(path, args.activation_cache_size as u64, &loaded, blocks, &bytes)?;
        out::say(&file.says());
        trainer.cache_activations(Box::new(file));
    }

    meter::catch_interrupt("stopping after this step")?;
    let stopped = || {
        out::say("interrupted; the same command goes on");
        Ok(Outcome::Interrupted)
    };
    if !aim::weigh(args, &mut trainer, &mut train, &mut eval)? {
        return stopped();
    }

    facts.set("data", short(blake3::hash(&bytes))).set("tokens of a row", ctx as u64);
    facts
        .set("rows to learn", short(data::digest(&train).into()))
        .set("rows held out", short(data::digest(&eval).into()));
    facts.set("steps between looks", pace.look).set("patience", pace.patience.unwrap_or(0));
    facts.set("packed rows", if args.pack { "yes" } else { "no" });
    let mut past = Past::default();
    if let Some(resumed) = &resumed {
        go_on(resumed, &loaded, &facts, &mut trainer, &mut order).map(|p| past = p)?;
    }
    let log = args.log.as_ref().map(|path| open_log(path, resumed.is_some(), &past.log)).transpose()?;
    let done = match past.steps() {
        0 => String::new(),
        n => format!("; goes on after step {n}"),
    };
    out::say(&format!(
        "{}: {} parameters; {examples} rows, {tokens} tokens, {} rows held out; {steps} steps; {} planned{done}",
        method,
        trainer.parameters(),
        eval.len(),
        out::bytes(planned.total() as u64),
    ));
    let learnt = train.len();
    train.append(&mut eval);
    if !aim::refer(&options.data, &loaded, &mut trainer, &mut train)? {
        return stopped();
    }
    let eval = train.split_off(learnt);
    let keeper = Some(Keeper::new(options, loaded.base(), facts, kept, clock, resumed)?);
    let encode = |trainer: &Trainer, past: &Past| output::encode(&loaded, &bytes, trainer, past);
    let course =
        Course { trainer, train: &train, rows, micro, eval: &eval, order, past, pace, encode: &encode, log, keeper };
    let mut passed = course.run()?;

    let output = options.output.display();
    let saved = match passed.past.steps() {
        0 => None,
        _ => {
            let file = match &passed.past.best_file {
                Some(best) => best.clone(),
                None => encode(&passed.trainer, &passed.past)?,
            };
            if let Err(e) = map::replace(&options.output, &file) {
                return Err(passed.rescue().context(e));
            }
            Some(file.len())
        }
    };
    let summary = passed.summary(saved);
    passed.show(&summary);
    match (saved, &passed.past.best_file, summary.best_step) {
        (Some(n), Some(_), Some(step)) => out::say(&format!("saved {output}, {n} bytes: the best, of step {step}")),
        (Some(n), ..) => out::say(&format!("saved {output}, {n} bytes")),
        _ => out::say("nothing saved: no step was done"),
    }
    if json {
        out::print_json(&summary)?;
    }
    let command = passed.keeper.as_ref().and_then(Keeper::command);
    let go_on = |what: &str| {
        let how = command.as_ref().map_or(String::new(), |command| format!("; go on with: {command}"));
        out::say(&format!("{what} after step {} of {steps}{how}", summary.steps));
    };
    if let Some(e) = passed.unsaved {
        go_on("stopped");
        return Err(e.context(format!("no checkpoint of step {}", summary.steps)));
    }
    match passed.ended {
        Ended::Done | Ended::Early => {
            if let Ended::Early = passed.ended {
                out::say(&format!("ended early: the held-out loss was {} times no better", passed.past.waited()));
            }
            passed.keeper.map_or(Ok(()), Keeper::finish).map(|()| Outcome::Done)
        }
        Ended::Paused => {
            go_on("paused");
            Ok(Outcome::Done)
        }
        Ended::Interrupted => {
            go_on("interrupted");
            Ok(Outcome::Interrupted)
        }
        Ended::Failed(e) => {
            go_on("stopped");
            Err(anyhow::Error::from(e).context(format!("{DISCARDS} steps in a row were discarded")))
        }
    }
}

/// The first digits of a digest.
fn short(hash: blake3::Hash) -> String {
    hash.to_hex()[..16].into()
}

/// Everything as it was when the checkpoint was written.
fn go_on(
    resumed: &Resumed,
    loaded: &Loaded,
    facts: &Head,
    trainer: &mut Trainer,
    order: &mut Order,
) -> anyhow::Result<Past> {
    let path = resumed.folder.file(resumed.checkpoint.step());
    let named = |e: Error| match e {
        Error::Changed(changes) => {
            let list: String = changes.iter().map(|c| format!("\n  {c}")).collect();
            anyhow::anyhow!("{}: this is not the run that was saved:{list}", path.display())
        }
        other => other.in_file(path.to_string_lossy()).into(),
    };
    trainer.resume(&resumed.checkpoint, loaded.base(), order, facts).map_err(named)?;
    Past::read(&resumed.checkpoint).map_err(named)
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

fn config(args: &Teach, method: &str, steps: u64) -> Config {
    Config {
        lr: args.lr.unwrap_or(rate(method)),
        steps,
        schedule: args.schedule.into(),
        warmup: args.warmup,
        clip: args.clip,
        optimizer: optim::Spec { kind: args.optimizer.kind().into(), values: args.optimizer.values.clone() },
        precision: if args.fast { Precision::Int8 } else { Precision::F32 },
        recompute: args.recompute(),
        act_type: args.act_type.into(),
        objective: aim::spec(args),
        gradient: aim::gradient(args),
        dropout: args.dropout.filter(|rate| *rate > 0.0).map(|rate| Dropout { rate, seed: args.seed }),
        ..Config::default()
    }
}

/// What is trained.
enum Subject {
    Fresh(Spec),
    Given(Box<dyn Adapter>),
    Weights,
}

impl Subject {
    /// The method, as the options name it.
    fn method(&self) -> &str {
        match self {
            Subject::Fresh(spec) => &spec.kind,
            Subject::Given(adapter) => adapter.kind().name,
            Subject::Weights => FULL,
        }
    }

    /// The adapter, unless all weights are trained.
    fn adapter(self, loaded: &Loaded) -> anyhow::Result<Option<Box<dyn Adapter>>> {
        match self {
            Subject::Fresh(spec) => Ok(Some(setting(adapter::create(&spec, loaded.base()))?)),
            Subject::Given(adapter) => Ok(Some(adapter)),
            Subject::Weights => Ok(None),
        }
    }
}

/// What the options train.
fn subject(args: &Teach, loaded: &Loaded, resumed: Option<&Resumed>) -> anyhow::Result<Subject> {
    if let Some(path) = &args.init {
        let adapter = match resumed {
            // The file may be gone, or be the output: what the run made of it is in the checkpoint.
            Some(r) if !r.other_init => r.adapter(loaded.base())?,
            _ => loaded.read_adapter(path)?,
        };
        if args.method.named().is_some_and(|method| method != adapter.kind().name) {
            let (path, kind) = (path.display(), adapter.kind().name);
            return Err(Usage::error(format!("--init {path} is a {kind} adapter; leave out --method")));
        }
        return Ok(Subject::Given(adapter));
    }
    if args.method.kind() == FULL {
        if args.targets.is_some() || args.layers.is_some() {
            return Err(Usage::error("--targets and --layers are for adapters: --method full trains all weights"));
        }
        return Ok(Subject::Weights);
    }
    let layers = |list: &String| setting(adapter::parse_layers(list, loaded.model.hparams.layers));
    let usual = Spec::new(args.method.kind());
    let targets = match &args.targets {
        Some(_) if usual.targets.is_empty() => {
            return Err(Usage::error(format!("--targets: {} changes no linear layers", usual.kind)));
        }
        Some(list) => setting(adapter::parse_targets(list))?,
        None => usual.targets.clone(),
    };
    let spec = Spec {
        targets,
        layers: args.layers.as_ref().map(layers).transpose()?,
        values: args.method.values.clone(),
        seed: args.seed,
        ..usual
    };
    if spec.layers.is_some() {
        let kind = setting(Kind::by_name(&spec.kind))?;
        let shape = setting((kind.shape)(&spec, loaded.base()))?;
        if shape.slots.iter().all(|slot| slot.place.layer().is_none()) {
            return Err(Usage::error(format!("--layers: {} is in no block", kind.name)));
        }
    }
    Ok(Subject::Fresh(spec))
}
