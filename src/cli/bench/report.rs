//! A dated section of docs/performance.md: a model on this machine.

use super::models::{self, Measured};
use super::{Spread, digits, machine};
use crate::args::{Bench, setting};
use crate::meter::{self, Meter};
use crate::{Outcome, load, out};
use comfy_table::presets::ASCII_MARKDOWN;
use mynah::kernel::{self, Compute};
use mynah::nn::linear::Precision;
use mynah::text::chat::format_time;
use mynah::train::Example;
use mynah::{Event, Mynah};
use std::path::Path;
use std::time::Instant;

/// Tokens of a row of the training that is measured.
const ROW: usize = 256;

pub fn report(args: &Bench, path: &Path) -> anyhow::Result<Outcome> {
    let of = |repack| {
        let mut args = args.clone();
        args.reading.repack = repack;
        models::measure(&args, path)
    };
    let Some(mapped) = of(None)? else { return Ok(Outcome::Interrupted) };
    let Some(copied) = of(Some(usize::MAX))? else { return Ok(Outcome::Interrupted) };
    let Some(training) = training(args, path)? else { return Ok(Outcome::Interrupted) };
    let date = format_time("%d %B %Y", load::now()).map_err(anyhow::Error::msg)?;
    let runs = args.repetitions;
    out::print(&format!(
        "## {}\n\n{} mynah {}, {date}; {runs} rounds each.\n`mynah bench -m MODEL --report` on {}.\n\n{}\n\n{}\n\n{}\n",
        machine::cpu(),
        "Medians; in brackets the slowest and the fastest.",
        env!("CARGO_PKG_VERSION"),
        mapped.what(),
        mapped.machine(),
        inference(&mapped, &copied),
        training
    ))?;
    Ok(Outcome::Done)
}

fn speed([median, min, max]: [f64; 3]) -> String {
    format!("{} ({} to {})", digits(median), digits(min), digits(max))
}

/// Prompts and decoding, with weights in the mapped file and copied.
fn inference(mapped: &Measured, copied: &Measured) -> String {
    let mut table =
        out::table(&["test", "threads", "tokens/s, mapped", "of the limit", "tokens/s, --repack", "ratio"], 1..6);
    for ((name, threads, mapped, limit), (.., copied, _)) in mapped.speeds().zip(copied.speeds()) {
        let ratio = format!("{:.2}", copied[0] / mapped[0]);
        let limit = format!("{:.0} %", 100.0 * limit);
        table.add_row([name, threads.to_string(), speed(mapped), limit, speed(copied), ratio]);
    }
    table.load_style(ASCII_MARKDOWN);
    table.trim_fmt()
}

/// Steps of a LoRA adapter on rows of one length at both precisions, and the memory that is planned for them; `None` if
/// Ctrl-C came.
fn training(args: &Bench, path: &Path) -> anyhow::Result<Option<String>> {
    let most = super::threads(args)?.into_iter().max();
    let compute = Compute { kernels: setting(kernel::from_env())?, pool: setting(load::pool(most, &args.cpus))? };
    let mynah = Mynah::with(load::gguf(path)?, compute)?;
    let context = ROW.min(mynah.model().hparams.context);
    let mut table = out::table(&["training, LoRA", "threads", "tokens/s", "memory, planned"], 1..4);
    let rounds = args.repetitions as u64 + 1;
    let (meter, mut done) = (Meter::new(2 * rounds), 0);
    for (name, precision) in [("default", Precision::F32), ("--fast", Precision::Int8)] {
        let setup = mynah.lesson("lora").steps(rounds).batch(1).context(context).held_out(0.0);
        let setup = setup.settings(|settings| settings.precision = precision);
        let plan = setup.plan(0)?.map_err(|_| anyhow::anyhow!("no plan without a bound"))?;
        let row = Example::all((0..context as u32).map(|i| i * 7919 % mynah.model().weights.vocab() as u32).collect());
        let (mut lesson, mut speeds) = (setup.examples(vec![row])?, Vec::new());
        loop {
            if meter::interrupted() {
                meter.done();
                return Ok(None);
            }
            let start = Instant::now();
            match lesson.next().transpose()? {
                Some(Event::Step(report)) => speeds.push(report.tokens as f64 / start.elapsed().as_secs_f64()),
                Some(_) => continue,
                None => break,
            }
            done += 1;
            meter.show(done, || "training".into());
        }
        // The first step takes memory and reads the file.
        let Spread { median, min, max } = Spread::of(&speeds[1..]);
        let threads = mynah.model().compute.pool.threads();
        let memory = out::bytes(plan.total() as u64);
        table.add_row([format!("{name}, 1 x {context}"), threads.to_string(), speed([median, min, max]), memory]);
    }
    meter.done();
    table.load_style(ASCII_MARKDOWN);
    Ok(Some(table.trim_fmt()))
}
