//! `mynah doctor`: what this machine has, and what a model will take on it.

use crate::args::{Doctor, Methods, Table as _};
use crate::bench::machine;
use crate::inspect::{file_bytes, formats};
use crate::{Outcome, load, out, train};
use comfy_table::Table;
use mynah::Mynah;
use mynah::error::printable;
use mynah::kernel::{self, Compute};
use mynah::model::{CacheType, SUPPORT};
use serde::Serialize;
use std::path::Path;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

/// Words of 8 bytes that each thread reads to measure the memory: more than caches hold, and read in a moment.
const WORDS: usize = 1 << 23;
/// The part of the free memory that is taken for this at most.
const PART: usize = 8;
/// Positions of the cache, as in `run` and `chat`, if the model has as many.
const POSITIONS: usize = 4096;
/// What of the crate is compiled in.
const FEATURES: &[(&str, bool)] =
    &[("base", cfg!(feature = "base")), ("chat", cfg!(feature = "chat")), ("std", cfg!(feature = "std"))];

#[derive(Serialize)]
struct Machine {
    version: &'static str,
    system: String,
    architecture: &'static str,
    features: Vec<&'static str>,
    processor: String,
    threads: usize,
    backend: &'static str,
    backends: Vec<&'static str>,
    /// What this process may have.
    memory_bytes: u64,
    free_bytes: u64,
    page_bytes: Option<u64>,
    large_pages: Option<String>,
    bytes_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<Model>,
}

#[derive(Serialize)]
struct Model {
    file: String,
    bytes: u64,
    architecture: &'static str,
    weights: u64,
    /// Those with most values first.
    formats: Vec<&'static str>,
    context: usize,
    chat_template: bool,
    /// File, cache and program.
    run_bytes: u64,
    cache_bytes: u64,
    /// What the plan says of a LoRA adapter with all defaults.
    train_bytes: Option<u64>,
    bytes_per_token: u64,
    tokens_per_second: f64,
    #[serde(skip)]
    train: String,
    /// Why the chat template cannot be used.
    #[serde(skip)]
    unusable: Option<String>,
}

pub fn doctor(args: &Doctor, json: bool) -> anyhow::Result<Outcome> {
    let compute = load::compute(&args.engine)?;
    let mut machine = machine(&compute, &args.engine.cpus)?;
    if let Some(path) = &args.model {
        machine.model = Some(model(path, compute, machine.bytes_per_second)?);
    }
    if json {
        out::print_json(&machine)?;
    } else {
        out::print(&eyes(&machine))?;
    }
    Ok(Outcome::Done)
}

fn machine(compute: &Compute, cpus: &[usize]) -> mynah::Result<Machine> {
    let what = RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing());
    let system = System::new_with_specifics(what.with_memory(MemoryRefreshKind::nothing().with_ram()));
    // A container may have less than the machine.
    let limits = system.cgroup_limits();
    let memory = limits.as_ref().map_or(u64::MAX, |l| l.total_memory).min(system.total_memory());
    let free = limits.as_ref().map_or(u64::MAX, |l| l.free_memory).min(system.available_memory());
    let threads = compute.pool.threads();
    let words = (free as usize / 8 / PART / threads).clamp(1, WORDS);
    Ok(Machine {
        version: env!("CARGO_PKG_VERSION"),
        system: System::long_os_version().unwrap_or_else(|| std::env::consts::OS.into()),
        architecture: std::env::consts::ARCH,
        features: FEATURES.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect(),
        processor: system.cpus().first().map_or(String::new(), |cpu| cpu.brand().trim().into()),
        threads,
        backend: compute.kernels.name,
        backends: kernel::available().iter().map(|k| k.name).collect(),
        memory_bytes: memory,
        free_bytes: free,
        page_bytes: page_bytes(),
        large_pages: large_pages(),
        bytes_per_second: machine::bandwidth(threads, cpus, words)?,
        model: None,
    })
}

#[cfg(unix)]
fn page_bytes() -> Option<u64> {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??.try_into().ok()
}

#[cfg(not(unix))]
fn page_bytes() -> Option<u64> {
    None
}

/// When the system gives large pages: always, to who asks (madvise, which mynah does), or never.
fn large_pages() -> Option<String> {
    let text = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok()?;
    Some(text.split_once('[')?.1.split_once(']')?.0.into())
}

fn model(path: &Path, compute: Compute, bandwidth: f64) -> anyhow::Result<Model> {
    let named = |e: mynah::Error| e.in_file(path.to_string_lossy());
    let mynah = Mynah::with(load::gguf(path)?, compute).map_err(named)?;
    let (gguf, h) = (mynah.gguf(), &mynah.model().hparams);
    let mut sums: Vec<_> = formats(gguf).into_iter().collect();
    sums.sort_by_key(|(_, [_, values, _])| std::cmp::Reverse(*values));
    let text = !h.arch.encoder;
    let cache = if text { CacheType::F16.bytes(h) * h.context.min(POSITIONS) } else { 0 };
    let held = train::held();
    let (train_bytes, train) = match trained(&mynah, held) {
        Ok(bytes) => (Some(bytes as u64), out::bytes(bytes as u64)),
        Err(e) => (None, e.to_string()),
    };
    let read = token_bytes(&mynah);
    Ok(Model {
        file: path.to_string_lossy().into(),
        bytes: file_bytes(gguf) as u64,
        architecture: h.arch.name,
        weights: sums.iter().map(|(_, [_, values, _])| values).sum(),
        formats: sums.iter().map(|(name, _)| *name).collect(),
        context: h.context,
        chat_template: mynah.late_template()?.is_some(),
        unusable: mynah.template().err().map(|e| e.to_string()),
        run_bytes: (file_bytes(gguf) + cache + held) as u64,
        cache_bytes: cache as u64,
        train_bytes,
        bytes_per_token: read,
        tokens_per_second: bandwidth / read as f64,
        train,
    })
}

/// Bytes at the peak of a training run with defaults.
fn trained(mynah: &Mynah, held: usize) -> mynah::Result<usize> {
    let setup = mynah.lesson(Methods::DEFAULT);
    let setup = if mynah.model().hparams.arch.encoder {
        // A search learns from several rows a step.
        setup.batch(8).settings(|s| s.objective = mynah::train::objective::Spec::new("infonce"))
    } else {
        setup
    };
    Ok(setup.plan(held)?.unwrap_or_else(|refusal| refusal.least).total())
}

/// Bytes of the weights that are read for each token: of a mixture, those of the experts that a token has.
fn token_bytes(mynah: &Mynah) -> u64 {
    let (h, weights) = (&mynah.model().hparams, &mynah.model().weights);
    let used = h.blocks.iter().map(|layer| layer.mixture.map_or(0, |m| m.router.used));
    let blocks = weights.blocks.iter().zip(used).map(|(block, used)| {
        let experts = block.experts.iter().flat_map(|e| [&e.gate, &e.up, &e.down]);
        let experts = experts.flat_map(|all| all.iter().take(used));
        block.matrices().map(|(_, m)| m).chain(experts).map(|m| m.data().len() as u64).sum::<u64>()
    });
    let head = if h.arch.encoder { 0 } else { weights.head().data().len() as u64 };
    blocks.sum::<u64>() + head
}

fn eyes(m: &Machine) -> String {
    let mut rows = out::table(&["machine", ""], []);
    let others: Vec<&str> = m.backends.iter().filter(|name| **name != m.backend).copied().collect();
    let mut row = |what: &str, text: String| _ = rows.add_row([what, &text]);
    row("mynah", format!("{} ({})", m.version, m.features.join(", ")));
    row("system", printable(&format!("{}, {}", m.system, m.architecture)));
    row("processor", printable(if m.processor.is_empty() { "not known" } else { &m.processor }));
    row("threads", m.threads.to_string());
    row("kernels", format!("{}; also there: {}", m.backend, others.join(", ")));
    row("memory", format!("{}, of which {} are free", out::bytes(m.memory_bytes), out::bytes(m.free_bytes)));
    if let Some(bytes) = m.page_bytes {
        let large = m.large_pages.as_ref().map(|when| format!("; large ones: {when}")).unwrap_or_default();
        row("pages", format!("{}{large}", out::bytes(bytes)));
    }
    row("bandwidth", format!("{:.1} GB/s, measured just now", m.bytes_per_second / 1e9));
    let mut text = format!("{}\n", rows.trim_fmt());
    match &m.model {
        Some(model) => text += &format!("\n{}\n", model_rows(model, m.free_bytes).trim_fmt()),
        None => text += "\n`mynah doctor -m MODEL` says what a model will take here.\n",
    }
    text
}

fn model_rows(m: &Model, free: u64) -> Table {
    let mut rows = out::table(&["model", ""], []);
    let mut row = |what: &str, text: String| _ = rows.add_row([what, &text]);
    let fits = |bytes: u64| if bytes > free { ", more than is free" } else { "" };
    row("file", format!("{}, {}", printable(&m.file), out::bytes(m.bytes)));
    let known = SUPPORT.iter().find(|row| row.arch == m.architecture);
    row("architecture", known.map_or(m.architecture.into(), |row| format!("{} ({})", row.arch, row.models)));
    row("weights", format!("{:.1} million in {}", m.weights as f64 / 1e6, m.formats.join(", ")));
    row("context", format!("{} tokens", m.context));
    row(
        "chat template",
        match (&m.unusable, m.chat_template) {
            (Some(why), _) => format!("cannot be used: {why}"),
            (None, true) => "yes".into(),
            (None, false) => "none: turns are lines of text".into(),
        },
    );
    let cache = match m.cache_bytes {
        0 => String::new(),
        bytes => format!(", {} of it for {} tokens of text", out::bytes(bytes), m.context.min(POSITIONS)),
    };
    row("memory to run", format!("{}{cache}{}", out::bytes(m.run_bytes), fits(m.run_bytes)));
    let taught = m
        .train_bytes
        .map_or("", |_| " at the peak, for LoRA with full rows of 256 tokens; `mynah plan -d DATA` says it for yours");
    row("memory to train", format!("{}{taught}{}", m.train, fits(m.train_bytes.unwrap_or(0))));
    let read = out::bytes(m.bytes_per_token);
    let speed = format!(
        "at most {:.0} tokens/s, an estimate from memory bandwidth: each reads {read}; in practice less",
        m.tokens_per_second
    );
    row("speed", speed + "; `mynah bench` measures it");
    rows
}
