//! `mynah plan`: what memory a training run takes, said before; and `--memory`, which makes it fit.

use super::setup::{self, flagged};
use crate::args::{Plan as Options, Teach, Usage};
use crate::load;
use crate::{Outcome, meter, out};
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use mynah::bytes::{Limits, room};
use mynah::model::ActType;
use mynah::nn::head;
use mynah::train::data::Files;
use mynah::train::plan::{Change, Plan, Refusal};
use serde_json::{Value, json};

/// What the process holds now without the model's file: its own pages, and those of its program, which come one by one.
pub fn held() -> usize {
    meter::memory().map_or(0, |m| (m.anonymous + m.program) as usize)
}

/// The plan, if --memory lets there be one.
pub fn settled(args: &Teach, plan: Result<Plan, Refusal>) -> anyhow::Result<Plan> {
    plan.map_err(|refusal| Usage::error(refused(args.memory.unwrap_or(0), &refusal)))
}

/// What the system does not have is found before the first step, with what would do.
pub fn affordable(plan: &Plan) -> anyhow::Result<()> {
    let Err(e) = room("this run", plan.reserved()) else { return Ok(()) };
    let part = plan.reserved() / 16;
    let granted = (1..16).rev().map(|n| n * part).find(|n| room("a part", *n).is_ok()).unwrap_or(0);
    let bound = (plan.total() - plan.reserved() + granted) >> 20;
    Err(anyhow::anyhow!("{e}; --memory {bound}M fits the run into what there is, or says which settings would"))
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
        Change::Kind(name) => format!("--method {name}"),
        Change::Targets(list) => format!("--targets {list}"),
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
    let mynah = load::named(options.model.as_deref(), &args.engine)?;
    let data = options.data.as_ref().map(|path| Files::open(path, &Limits::DEFAULT)).transpose()?;
    let setup = setup::setup(args, &mynah, None, load::now(), data.as_ref())?;
    let plan = match (&options.data, &data) {
        (Some(path), Some(files)) => {
            let (mut draft, _) = setup::draft(setup, path, files)?;
            flagged(draft.plan(held()))?
        }
        _ => flagged(setup.plan(held()))?,
    };
    let plan = settled(args, plan)?;
    if json {
        out::print_json(&machine(&plan))?;
    } else {
        out::print(&eyes(&plan, args))?;
    }
    Ok(Outcome::Done)
}

/// What a part is called, what it is for, and its bytes.
fn parts(p: &Plan) -> [(&'static str, String, usize); 12] {
    let size = |n: usize| out::bytes(n as u64);
    let thread = format!("a thread: attention {}, products {}", size(p.attention), size(p.decoded));
    [
        ("model", "the file, mapped".into(), p.mapped),
        ("program", "in use already: tokenizer, tables, data".into(), p.held),
        ("weights", "trained themselves".into(), p.weights),
        ("adapter", "its parameters, and copies made from them".into(), p.adapter),
        ("gradients", String::new(), p.gradients),
        ("moments", "the optimiser's state".into(), p.moments),
        ("activations", format!("{} of them saved between the passes", size(p.saved)), p.activations),
        ("logits", "those of a slice of the vocabulary".into(), p.logits),
        ("rounded", "rows and columns in 8 bits (--fast)".into(), p.rounded),
        ("scratch", thread, p.scratch),
        ("batch", "tokens of a step".into(), p.batch),
        ("file", "a checkpoint while it is written".into(), p.file),
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

fn eyes(p: &Plan, args: &Teach) -> String {
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
    let rows = match (p.micro, args.batch * args.accumulate) {
        (micro, step) if micro == step => format!("{} a step, all together", out::count(step as u64, "row")),
        (micro, step) => format!("{} a step, {micro} at a time", out::count(step as u64, "row")),
    };
    let slice = match p.slice {
        slice if slice == head::SLICES[0] => String::new(),
        slice => format!("; logits of {slice} tokens at a time"),
    };
    let products = if args.fast { "products in 8 bits" } else { "exact products" };
    let blocks = format!("activations of {} of {} blocks are saved, not recomputed", p.saved_blocks, p.blocks);
    format!("{table}\n\n{rows}; {blocks}; {products}{slice}\n")
}
