//! Adapters: what it takes to attach one, and to change it for another while a session runs.

use super::{Spread, digits, models};
use crate::args::{Bench, setting};
use crate::meter::{self, Meter};
use crate::names::{self, What};
use crate::{Outcome, load, out};
use comfy_table::presets::ASCII_MARKDOWN;
use mynah::Mynah;
use mynah::adapter::{Ready, Stack};
use mynah::kernel::{self, Compute};
use mynah::model::Session;
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Positions of the session whose adapters are changed.
const CONTEXT: usize = 512;
/// Changes of adapters that are timed together: one takes less than a clock shows.
const SWAPS: usize = 100;

/// What an adapter takes; times are medians.
#[derive(Serialize)]
struct Row {
    adapter: String,
    kind: &'static str,
    file_bytes: u64,
    /// Reading and checking the file.
    read_ms: f64,
    /// Making it ready: random bases become factors, for example.
    expand_ms: f64,
    /// Parameters, and what is derived from them.
    memory_bytes: usize,
    /// Attaching it in the place of what is attached.
    swap_ms: f64,
}

pub fn adapters(args: &Bench, path: &Path, json: bool) -> anyhow::Result<Outcome> {
    let most = super::threads(args)?.into_iter().max();
    let compute = Compute { kernels: setting(kernel::from_env())?, pool: setting(load::pool(most, &args.cpus))? };
    let mynah = Mynah::with(load::gguf(path)?, compute)?;
    let context = CONTEXT.min(mynah.model().hparams.context);
    let mut session = setting(Session::new(mynah.model(), models::config(args, context)))?;
    // The digest of the model is computed once, whatever is attached.
    mynah.base();
    let meter = Meter::new((args.adapters.len() * (args.repetitions + 1)) as u64);
    let mut rows = Vec::new();
    for adapter in &args.adapters {
        names::check(adapter, What::Adapter)?;
        match row(args, &mynah, &mut session, adapter, &meter)? {
            Some(row) => rows.push(row),
            None => return Ok(Outcome::Interrupted),
        }
    }
    meter.done();
    if json {
        rows.iter().try_for_each(out::print_json)?;
        return Ok(Outcome::Done);
    }
    let head = ["adapter", "kind", "file", "read ms", "expand ms", "in memory", "swap ms"];
    let mut table = out::table(&head, 2..head.len());
    for row in rows {
        table.add_row([
            row.adapter,
            row.kind.into(),
            out::bytes(row.file_bytes),
            digits(row.read_ms),
            digits(row.expand_ms),
            out::bytes(row.memory_bytes as u64),
            format!("{:.4}", row.swap_ms),
        ]);
    }
    if args.markdown {
        table.load_style(ASCII_MARKDOWN);
    }
    out::print(&format!("\n{}\n", table.trim_fmt()))?;
    Ok(Outcome::Done)
}

/// Attaches an adapter again and again; `None` if Ctrl-C came.
fn row(args: &Bench, mynah: &Mynah, session: &mut Session, path: &Path, meter: &Meter) -> anyhow::Result<Option<Row>> {
    let [mut read, mut expand, mut swap] = [vec![], vec![], vec![]];
    let mut last: Option<Arc<Ready>> = None;
    for round in 0..=args.repetitions {
        if meter::interrupted() {
            meter.done();
            return Ok(None);
        }
        let start = Instant::now();
        let adapter = mynah.adapter(path)?;
        let took = start.elapsed();
        let ready = mynah.model().ready(adapter)?;
        let whole = start.elapsed();
        let change = swaps(session, &ready)?;
        // The first round warms up.
        if round > 0 {
            read.push(took.as_secs_f64() * 1e3);
            expand.push((whole - took).as_secs_f64() * 1e3);
            swap.push(change);
        }
        last = Some(ready);
        meter.show(round as u64, || out::name(path));
    }
    let Some(ready) = last else { return Ok(None) };
    let size = ready.shape().size;
    Ok(Some(Row {
        adapter: out::name(path),
        kind: ready.kind().name,
        file_bytes: path.metadata().map_or(0, |meta| if meta.is_file() { meta.len() } else { 0 }),
        read_ms: Spread::of(&read).median,
        expand_ms: Spread::of(&expand).median,
        memory_bytes: size_of::<f32>() * (size.params + size.derived),
        swap_ms: Spread::of(&swap).median,
    }))
}

/// Milliseconds of attaching the adapter in the place of nothing, or back.
fn swaps(session: &mut Session, adapter: &Arc<Ready>) -> anyhow::Result<f64> {
    let mut stack = Stack::new();
    stack.push(adapter.clone(), 1.0)?;
    session.feed(&[0])?;
    let start = Instant::now();
    for _ in 0..SWAPS / 2 {
        session.replace(stack.clone())?;
        session.replace(Stack::new())?;
    }
    Ok(start.elapsed().as_secs_f64() * 1e3 / SWAPS as f64)
}
