//! `mynah plan`: what memory a training run takes, said before; and `--memory`, which makes it fit.

use super::{Subject, aim, config, context, read, rows, subject};
use crate::args::{Plan as Options, Teach, Usage, setting};
use crate::load::{self, Loaded};
use crate::{Outcome, meter, out};
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use mynah::adapter::Stack;
use mynah::bytes::map;
use mynah::model::ActType;
use mynah::nn::head;
use mynah::nn::linear::Precision;
use mynah::train::Config;
use mynah::train::plan::{self, Change, Plan, Refusal, Rows, Run};
use serde_json::{Value, json};

/// The run that the options describe.
pub fn run<'a>(
    args: &Teach,
    loaded: &'a Loaded,
    what: &'a Subject,
    beneath: &'a Stack,
    rows: Rows,
    config: Config,
) -> anyhow::Result<Run<'a>> {
    let subject = match what {
        Subject::Fresh(spec) => plan::Subject::Fresh(spec, loaded.base()),
        Subject::Given(adapter) => plan::Subject::Adapter(adapter.as_ref()),
        Subject::Weights => plan::Subject::Weights,
    };
    let Some(step) = args.batch.checked_mul(args.accumulate) else {
        return Err(Usage::error(format!("--batch {} --accumulate {}: too many rows", args.batch, args.accumulate)));
    };
    let model = &loaded.model;
    Ok(Run {
        model,
        subject,
        beneath,
        config,
        rows,
        batch: args.batch,
        step,
        checkpoints: true,
        activation_cache: args.activation_cache.is_some(),
        held: held(loaded),
    })
}

/// What the process holds now without the model's file: its own pages and its program's.
fn held(loaded: &Loaded) -> usize {
    let program = |m: meter::Memory| m.anonymous as usize + (m.mapped as usize).saturating_sub(loaded.model.file_len());
    meter::memory().map_or(0, program)
}

/// The same run, or what --memory makes of it, with blocks and micro-batch settled.
pub fn chosen<'a>(args: &Teach, run: &Run<'a>) -> anyhow::Result<(Run<'a>, Plan)> {
    let Some(bytes) = args.memory else {
        let (mut run, plan) = (run.clone(), setting(run.plan())?);
        // For the largest batch, so that smaller ones do not settle it anew.
        run.config.recompute = mynah::train::Recompute::AllBut(plan.saved_blocks);
        return Ok((run, plan));
    };
    match setting(run.fit(bytes))? {
        Ok(fitting) => Ok(fitting),
        Err(refusal) => Err(Usage::error(refused(bytes, &refusal))),
    }
}

fn refused(bytes: usize, refusal: &Refusal) -> String {
    let size = |n: usize| out::bytes(n as u64);
    let least = &refusal.least;
    let mut text = format!("--memory {}: with these settings at least {} are needed", size(bytes), size(least.total()));
    let fixed = least.mapped + least.held;
    if refusal.would_fit.is_empty() {
        return text + &format!("; the model's file and the program alone take {}", size(fixed));
    }
    text += ". These would fit:";
    for (changes, plan) in &refusal.would_fit {
        let options: Vec<String> = changes.iter().map(option).collect();
        text += &format!("\n  {}    ({})", options.join(" "), size(plan.total()));
    }
    text
}

fn option(change: &Change) -> String {
    match change {
        Change::Context(ctx) => format!("--ctx {ctx}"),
        Change::Rank(rank) => format!("--rank {rank}"),
        Change::Layers(first) => format!("--layers {first}-"),
        Change::ActType(ActType::F32) => "--act-type f32".into(),
        Change::ActType(ActType::F16) => "--act-type f16".into(),
        Change::ActType(ActType::Bf16) => "--act-type bf16".into(),
        Change::Moments(name) => format!("--optimizer {name}"),
    }
}

pub fn plan(options: &Options, json: bool) -> anyhow::Result<Outcome> {
    let args = &options.teach;
    args.check()?;
    let loaded = Loaded::open(&options.model, &args.engine)?;
    let ctx = context(args, &loaded)?;
    let rows = match &options.data {
        Some(path) => {
            let bytes = map::open(path)?;
            let (train, _) = setting(
                read(path, &bytes, ctx, &loaded, load::now())?.split(f64::from(args.eval_fraction), args.seed),
            )?;
            let train = aim::shape(args, train, ctx)?;
            Rows::of(&rows(args, ctx, &train), &train)
        }
        None => Rows::full(ctx, args.batch.saturating_mul(args.accumulate).min(1 << 20)),
    };
    let what = subject(args, &loaded, None)?;
    let beneath = loaded.stack(&args.adapters)?;
    let (run, plan) = chosen(args, &run(args, &loaded, &what, &beneath, rows, config(args, what.method(), 1))?)?;
    if json {
        out::print_json(&machine(&plan))?;
    } else {
        out::print(&eyes(&plan, &run))?;
    }
    Ok(Outcome::Done)
}

/// What a part is called, what it is for, and its bytes.
fn parts(p: &Plan) -> [(&'static str, String, usize); 12] {
    let size = |n: usize| out::bytes(n as u64);
    let thread = format!("a thread: attention {}, products {}", size(p.attention), size(p.decoded));
    [
        ("model", "the file, mapped".into(), p.mapped),
        ("program", "held already: tokenizer, tables, data".into(), p.held),
        ("weights", "trained themselves".into(), p.weights),
        ("adapter", "parameters and what follows from them".into(), p.adapter),
        ("gradients", String::new(), p.gradients),
        ("moments", "the optimiser's state".into(), p.moments),
        ("activations", format!("{} of them saved between the passes", size(p.saved)), p.activations),
        ("logits", "those of a slice of the vocabulary".into(), p.logits),
        ("rounded", "rows and columns in 8 bits (--fast)".into(), p.rounded),
        ("scratch", thread, p.scratch),
        ("batch", "tokens of a step".into(), p.batch),
        ("file", "a checkpoint, as it is put together".into(), p.file),
    ]
}

fn machine(p: &Plan) -> Value {
    let mut object: serde_json::Map<String, Value> =
        parts(p).into_iter().map(|(name, _, bytes)| (name.into(), json!(bytes))).collect();
    for (name, value) in [
        ("kept", p.saved),
        ("attention", p.attention),
        ("decoded", p.decoded),
        ("total", p.total()),
        ("micro", p.micro),
        ("slice", p.slice),
        ("whole", p.saved_blocks),
        ("blocks", p.blocks),
    ] {
        object.insert(name.into(), json!(value));
    }
    object.into()
}

fn eyes(p: &Plan, run: &Run) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["part", "bytes", ""]);
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for (name, what, bytes) in parts(p) {
        if bytes > 0 {
            table.add_row([name, &out::bytes(bytes as u64), &what]);
        }
    }
    table.add_row(["total", &out::bytes(p.total() as u64), "at the peak"]);
    let rows = match (p.micro, run.step) {
        (micro, step) if micro == step => format!("{step} rows a step, all together"),
        (micro, step) => format!("{step} rows a step, {micro} at a time"),
    };
    let slice = match p.slice {
        slice if slice == head::SLICES[0] => String::new(),
        slice => format!("; logits of {slice} tokens at a time"),
    };
    let products = match run.config.precision {
        Precision::F32 => "exact products",
        Precision::Int8 => "products in 8 bits",
    };
    let blocks = format!("{} of {} blocks are not recomputed", p.saved_blocks, p.blocks);
    format!("{table}\n\n{rows}; {blocks}; {products}{slice}\n")
}
