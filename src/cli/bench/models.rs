//! A model: loading, prompts, decoding, memory.

use super::adapters;
use super::compare::{self, Other};
use super::machine::{self, Limits};
use super::{Spread, digits};
use crate::args::{Bench, Usage, setting};
use crate::load;
use crate::meter::{self, Meter};
use crate::{Outcome, out};
use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;
use mynah::error::printable;
use mynah::kernel::{self, Compute, Kernels, Pool};
use mynah::model::{Model, Session, SessionConfig};
use mynah::nn::linear::Products;
use mynah::quant::Matrix;
use mynah::text::Tokenizer;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// Rows of a prompt that go through the model together.
const CHUNK: usize = 256;

/// One kind of work: a prompt to read, or tokens to decode one by one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Prompt,
    Decode,
}

/// `n` tokens of that work, with `depth` positions in the cache before; `parallel` sequences side by side.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Test {
    kind: Kind,
    n: usize,
    depth: usize,
    parallel: usize,
}

impl Test {
    fn name(self) -> String {
        let kind = match self.kind {
            Kind::Prompt => "pp",
            Kind::Decode => "tg",
        };
        let depth = if self.depth > 0 { format!(" @ d{}", self.depth) } else { String::new() };
        let parallel = if self.parallel > 1 { format!(" x{}", self.parallel) } else { String::new() };
        format!("{kind}{}{depth}{parallel}", self.n)
    }

    /// Tokens of all sequences.
    fn tokens(self) -> usize {
        self.n * self.parallel
    }

    /// Positions that it needs.
    fn positions(self) -> usize {
        self.depth + self.n
    }

    /// `tokens` are the same for all tests. How long it took.
    fn run(self, session: &mut Session, tokens: &[u32]) -> mynah::Result<Duration> {
        session.truncate(self.depth);
        let before = session.position();
        if before < self.depth {
            session.feed(&tokens[before..self.depth])?;
        }
        let tokens = &tokens[self.depth..self.positions()];
        let mut forks: Vec<Session> = (1..self.parallel).map(|_| session.fork()).collect();
        let mut all: Vec<&mut Session> = std::iter::once(session).chain(&mut forks).collect();
        let start = Instant::now();
        if self.parallel > 1 {
            for token in tokens.chunks(if self.kind == Kind::Prompt { self.n } else { 1 }) {
                Session::feed_together(&mut all, &vec![token; self.parallel])?;
            }
            return Ok(start.elapsed());
        }
        let session = &mut *all[0];
        match self.kind {
            Kind::Prompt => {
                session.feed(tokens)?;
            }
            Kind::Decode => {
                for token in tokens.chunks(1) {
                    session.feed(token)?;
                }
            }
        }
        Ok(start.elapsed())
    }
}

/// What a test asks of the machine for each token, on average.
#[derive(Clone, Copy)]
struct Cost {
    /// Bytes of weights and cache that are read.
    bytes: f64,
    /// Products with integer codes, each added to a sum.
    int8: f64,
    /// The same of floats.
    float: f64,
    /// The same of 16 bits.
    int16: f64,
}

impl Cost {
    fn of(model: &Model, config: &SessionConfig, test: Test) -> Cost {
        let (h, w, depth) = (&model.hparams, &model.weights, test.depth as f64);
        let (n, parallel) = (test.n as f64, test.parallel as f64);
        // All weights are read in each pass.
        let passes = match test.kind {
            Kind::Prompt => test.tokens().div_ceil(config.chunk) as f64,
            Kind::Decode => n,
        };
        // The logits that are wanted.
        let ends = if test.kind == Kind::Prompt { parallel } else { n * parallel };
        let mut cost = Cost { bytes: 0.0, int8: 0.0, float: 0.0, int16: 0.0 };
        let mut add = |m: &Matrix, rows: f64| {
            let products = match Products::of(config.precision, m) {
                Products::Int8 => &mut cost.int8,
                Products::Int16 => &mut cost.int16,
                Products::F32 => &mut cost.float,
            };
            *products += m.rows as f64 * m.cols as f64 * rows;
            cost.bytes += m.data().len() as f64 * passes;
        };
        for block in &w.blocks {
            block.matrices().for_each(|(_, m)| add(m, n * parallel));
        }
        add(w.head(), ends);
        // Token i sees i + 1 positions more than were there, for a score and for a sum; the cache is read once a pass.
        let seen = parallel * (n * (n + 1.0) / 2.0 + n * depth);
        cost.float += 2.0 * seen * h.blocks.iter().map(|l| l.q_width()).sum::<usize>() as f64;
        let reads = if test.kind == Kind::Prompt { test.n.div_ceil(config.chunk) as f64 } else { n };
        cost.bytes += parallel * reads * ((n + n / reads) / 2.0 + depth) * config.cache.bytes(h) as f64;
        let tokens = n * parallel;
        let Cost { bytes, int8, float, int16 } = cost;
        Cost { bytes: bytes / tokens, int8: int8 / tokens, float: float / tokens, int16: int16 / tokens }
    }

    /// Seconds a token if only memory counts, and if only arithmetic does.
    fn least(&self, limits: &Limits) -> (f64, Option<f64>) {
        let seconds = |products: f64, rate: Option<f64>| {
            if products > 0.0 { rate.map(|rate| 2.0 * products / rate) } else { Some(0.0) }
        };
        let all = [(self.int8, limits.int8), (self.int16, limits.int16), (self.float, limits.float)];
        let all = all.map(|(products, rate)| seconds(products, rate));
        (self.bytes / limits.bytes, all.into_iter().sum())
    }

    /// Products, each added to a sum.
    fn multiply_adds(&self) -> f64 {
        self.int8 + self.int16 + self.float
    }
}

/// How long the steps of loading took, in milliseconds.
#[derive(Clone, Copy, Serialize)]
struct Load {
    /// Mapping and parsing the file.
    file_ms: f64,
    tokenizer_ms: f64,
    weights_ms: f64,
    /// Taking the memory of a session.
    session_ms: f64,
    /// From the first to where a kernel could run.
    load_ms: f64,
}

/// A model that is ready to run.
struct Ready {
    model: Model,
    tokenizer: Tokenizer,
    session: Session,
    kind: String,
    load: Load,
}

fn load(args: &Bench, path: &Path, compute: &Compute, context: usize) -> anyhow::Result<Ready> {
    let named = |e: mynah::Error| e.in_file(path.to_string_lossy());
    let start = Instant::now();
    let mut last = start;
    let mut lap = || {
        let begin = std::mem::replace(&mut last, Instant::now());
        (last - begin).as_secs_f64() * 1e3
    };
    let gguf = load::gguf(path)?;
    let file_ms = lap();
    let tokenizer = Tokenizer::from_gguf(&gguf).map_err(named)?;
    let tokenizer_ms = lap();
    let mut model = Model::load(&gguf, compute.clone()).map_err(named)?;
    if let Some(budget) = args.reading.repack {
        model = load::repack(&model, budget)?;
    }
    let weights_ms = lap();
    let most = model.hparams.context;
    if context > most {
        return Err(Usage::error(format!("a test of {context} tokens; the model was made for {most}")));
    }
    let session = setting(Session::new(&model, config(args, context)))?;
    let session_ms = lap();
    let load_ms = start.elapsed().as_secs_f64() * 1e3;
    // Named after the format of most values, as llama.cpp does.
    let mut formats = BTreeMap::new();
    for t in gguf.tensors() {
        *formats.entry(t.format.name).or_insert(0) += t.elements();
    }
    let format = formats.iter().max_by_key(|(_, n)| **n).map_or("", |(name, _)| name);
    let kind = format!("{} {}M {format}", model.hparams.arch.name, formats.values().sum::<u64>() / 1_000_000);
    Ok(Ready { model, tokenizer, session, kind, load: Load { file_ms, tokenizer_ms, weights_ms, session_ms, load_ms } })
}

pub(super) fn config(args: &Bench, context: usize) -> SessionConfig {
    let (precision, cache) = (args.reading.precision(), args.reading.cache());
    SessionConfig { context, precision, cache, chunk: CHUNK }
}

/// A test with a number of threads, and its figures: the line of JSON, with llama-bench's names where it has one.
#[derive(Serialize)]
struct Row {
    model_filename: String,
    model_type: String,
    model_size: u64,
    model_n_params: u64,
    backends: &'static str,
    n_batch: usize,
    n_ubatch: usize,
    n_threads: usize,
    type_k: &'static str,
    type_v: &'static str,
    n_prompt: usize,
    n_gen: usize,
    n_depth: usize,
    n_parallel: usize,
    exact: bool,
    avg_ns: u64,
    avg_ts: f64,
    stddev_ts: f64,
    median_ts: f64,
    min_ts: f64,
    max_ts: f64,
    samples_ns: Vec<u64>,
    samples_ts: Vec<f64>,
    bytes_per_token: f64,
    multiply_adds_per_token: f64,
    bytes_per_second: f64,
    operations_per_second: f64,
    limit_bytes_per_second: f64,
    limit_int8_operations_per_second: Option<f64>,
    limit_float_operations_per_second: Option<f64>,
    limit_int16_operations_per_second: Option<f64>,
    /// Of what memory alone would allow, and arithmetic alone.
    fraction_of_memory: f64,
    fraction_of_arithmetic: Option<f64>,
    #[serde(flatten)]
    load: Load,
    peak_rss_bytes: Option<u64>,
    anonymous_bytes: Option<u64>,
    cache_bytes: u64,
    compare_ts: Option<f64>,
    compare_ratio: Option<f64>,
}

/// What was measured of a model.
pub(super) struct Measured {
    ready: Ready,
    kernels: &'static Kernels,
    tests: Vec<Test>,
    threads: Vec<usize>,
    rows: Vec<Row>,
    limits: Vec<Limits>,
    others: Option<Vec<Other>>,
    file: String,
}

pub fn bench(args: &Bench, path: &Path, json: bool) -> anyhow::Result<Outcome> {
    let Some(measured) = measure(args, path)? else { return Ok(Outcome::Interrupted) };
    match json {
        true => measured.rows.iter().try_for_each(out::print_json)?,
        false => out::print(&text(args, &measured))?,
    }
    if !args.adapters.is_empty() {
        drop(measured);
        return adapters::adapters(args, path, json);
    }
    Ok(Outcome::Done)
}

/// Runs the tests; `None` if Ctrl-C came.
pub(super) fn measure(args: &Bench, path: &Path) -> anyhow::Result<Option<Measured>> {
    let kernels = match super::backends(args, || Ok(vec![kernel::from_env()?]))?[..] {
        [kernels] => kernels,
        _ => return Err(Usage::error("a model runs on one backend at a time")),
    };
    let kinds = (args.n_prompt.iter().map(|n| (Kind::Prompt, *n))).chain(args.n_gen.iter().map(|n| (Kind::Decode, *n)));
    let kinds: Vec<(Kind, usize)> = kinds.filter(|(_, n)| *n > 0).collect();
    let mut tests: Vec<Test> = Vec::new();
    for &depth in &args.n_depth {
        for &(kind, n) in &kinds {
            tests.extend(args.parallel.iter().map(|&parallel| Test { kind, n, depth, parallel }));
        }
    }
    let Some(context) = tests.iter().map(|t| t.positions()).max() else {
        return Err(Usage::error("no test: give -p or -n a number above 0"));
    };
    let file = path.file_name().map_or_else(|| path.to_string_lossy(), |n| n.to_string_lossy());
    let others = args.compare.as_ref().map(|other| compare::read(other, &printable(&file))).transpose()?;
    let threads = super::threads(args)?;
    let pool = setting(load::pool(threads.iter().copied().max(), &args.cpus))?;
    let compute = Compute { kernels, pool };
    if let Some(most) = threads.iter().max().filter(|t| **t > compute.pool.threads()) {
        anyhow::bail!("the system gives {} threads, not {most}", compute.pool.threads());
    }

    let mut ready = load(args, path, &compute, context)?;
    let Some(samples) = run(args, &mut ready, &tests, &threads, &compute.pool)? else {
        return Ok(None);
    };
    let memory = meter::memory();
    let mut loads = vec![ready.load];
    for _ in 1..args.repetitions {
        loads.push(load(args, path, &compute, context)?.load);
    }
    let load = middle(&loads);
    let limits: Vec<Limits> =
        threads.iter().map(|t| machine::limits(kernels, *t, &args.cpus)).collect::<mynah::Result<_>>()?;

    let mut rows = Vec::new();
    for (i, &test) in tests.iter().enumerate() {
        for (j, &threads) in threads.iter().enumerate() {
            let runs = &samples[i][j];
            let mut row = row(args, path, &ready, kernels, test, threads, runs, &limits[j], load);
            row.peak_rss_bytes = memory.map(|m| m.peak);
            row.anonymous_bytes = memory.map(|m| m.anonymous);
            row.compare(test, others.as_deref().unwrap_or(&[]));
            rows.push(row);
        }
    }
    Ok(Some(Measured { ready, kernels, tests, threads, rows, limits, others, file: file.into_owned() }))
}

/// The times of each test with each number of threads; `None` if Ctrl-C came.
fn run(
    args: &Bench,
    ready: &mut Ready,
    tests: &[Test],
    threads: &[usize],
    pool: &Pool,
) -> anyhow::Result<Option<Vec<Vec<Vec<Duration>>>>> {
    let context = ready.session.context();
    let tokens = tokens(ready, context);
    let mut samples = vec![vec![Vec::new(); threads.len()]; tests.len()];
    let total = (args.repetitions + 1) * threads.len() * tests.iter().map(|t| t.tokens()).sum::<usize>();
    let (meter, start, mut done) = (Meter::new(total as u64), Instant::now(), 0);
    for round in 0..=args.repetitions {
        for (i, test) in tests.iter().enumerate() {
            for (j, &threads) in threads.iter().enumerate() {
                if meter::interrupted() {
                    meter.done();
                    return Ok(None);
                }
                pool.limit(threads);
                let time = test.run(&mut ready.session, &tokens)?;
                // The first round warms up.
                if round > 0 {
                    samples[i][j].push(time);
                }
                done += test.tokens() as u64;
                meter.show(done, || format!("{:.0} tokens/s", done as f64 / start.elapsed().as_secs_f64()));
            }
        }
    }
    meter.done();
    Ok(Some(samples))
}

/// The begin token, if the model wants it, and then any, always the same.
fn tokens(ready: &Ready, n: usize) -> Vec<u32> {
    let vocab = ready.model.weights.vocab() as u64;
    let mut state = 1u64;
    let mut tokens: Vec<u32> = (0..n)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % vocab) as u32
        })
        .collect();
    if let Some(bos) = ready.tokenizer.bos().filter(|_| ready.tokenizer.adds_bos()) {
        tokens[0] = bos;
    }
    tokens
}

/// The loading that took the middle time, step by step.
fn middle(loads: &[Load]) -> Load {
    let mut sorted = loads.to_vec();
    sorted.sort_by(|a, b| a.load_ms.total_cmp(&b.load_ms));
    sorted[sorted.len() / 2]
}

fn row(
    args: &Bench,
    path: &Path,
    ready: &Ready,
    kernels: &'static Kernels,
    test: Test,
    threads: usize,
    runs: &[Duration],
    limits: &Limits,
    load: Load,
) -> Row {
    let config = config(args, ready.session.context());
    let cost = Cost::of(&ready.model, &config, test);
    let samples_ts: Vec<f64> = runs.iter().map(|t| test.tokens() as f64 / t.as_secs_f64()).collect();
    let speed = Spread::of(&samples_ts);
    let n = samples_ts.len() as f64;
    let mean = samples_ts.iter().sum::<f64>() / n;
    let variance = samples_ts.iter().map(|s| (s - mean) * (s - mean)).sum::<f64>() / (n - 1.0).max(1.0);
    let (memory, arithmetic) = cost.least(limits);
    let matrices = ready.model.weights.blocks.iter().flat_map(|b| b.matrices().map(|(_, m)| m));
    let matrices = matrices.chain([&ready.model.weights.embed]).chain(ready.model.weights.output.as_ref());
    let (mut size, mut params) = (0, 0);
    for m in matrices {
        size += m.data().len() as u64;
        params += (m.rows * m.cols) as u64;
    }
    let samples_ns: Vec<u64> = runs.iter().map(|t| t.as_nanos() as u64).collect();
    let (n_prompt, n_gen) = match test.kind {
        Kind::Prompt => (test.n, 0),
        Kind::Decode => (0, test.n),
    };
    Row {
        model_filename: path.to_string_lossy().into(),
        model_type: ready.kind.clone(),
        model_size: size,
        model_n_params: params,
        backends: kernels.name,
        n_batch: CHUNK,
        n_ubatch: CHUNK,
        n_threads: threads,
        type_k: config.cache.name(),
        type_v: config.cache.name(),
        n_prompt,
        n_gen,
        n_depth: test.depth,
        n_parallel: test.parallel,
        exact: args.reading.exact,
        avg_ns: samples_ns.iter().sum::<u64>() / samples_ns.len() as u64,
        avg_ts: mean,
        stddev_ts: variance.sqrt(),
        median_ts: speed.median,
        min_ts: speed.min,
        max_ts: speed.max,
        samples_ns,
        samples_ts,
        bytes_per_token: cost.bytes,
        multiply_adds_per_token: cost.multiply_adds(),
        bytes_per_second: cost.bytes * speed.median,
        operations_per_second: 2.0 * cost.multiply_adds() * speed.median,
        limit_bytes_per_second: limits.bytes,
        limit_int8_operations_per_second: limits.int8,
        limit_float_operations_per_second: limits.float,
        limit_int16_operations_per_second: limits.int16,
        fraction_of_memory: speed.median * memory,
        fraction_of_arithmetic: arithmetic.map(|seconds| speed.median * seconds),
        load,
        peak_rss_bytes: None,
        anonymous_bytes: None,
        cache_bytes: ready.session.cache_bytes() as u64,
        compare_ts: None,
        compare_ratio: None,
    }
}

impl Row {
    /// Puts the same test of another run beside this one.
    fn compare(&mut self, test: Test, others: &[Other]) {
        let same = others.iter().filter(|o| {
            let (kind, n) = if o.prompt > 0 { (Kind::Prompt, o.prompt) } else { (Kind::Decode, o.decoded) };
            Test { kind, n, depth: o.depth, parallel: o.parallel } == test && o.threads == self.n_threads
        });
        let samples: Vec<f64> = same.flat_map(|o| &o.samples).copied().collect();
        if !samples.is_empty() {
            let theirs = Spread::of(&samples).median;
            (self.compare_ts, self.compare_ratio) = (Some(theirs), Some(self.median_ts / theirs));
        }
    }
}

fn text(args: &Bench, measured: &Measured) -> String {
    let Measured { ready, kernels, tests, threads, rows, limits, others, file } = measured;
    let first = &rows[0];
    let mut text = format!(
        "{} ({}), {} weights; backend {}{}\n",
        printable(file),
        ready.kind,
        out::bytes(first.model_size),
        kernels.name,
        if args.reading.exact { ", exact" } else { "" }
    );
    let l = &first.load;
    text += &format!(
        "loaded in {:.1} ms: file {:.1}, tokenizer {:.1}, weights {:.1}, session {:.1}\n",
        l.load_ms, l.file_ms, l.tokenizer_ms, l.weights_ms, l.session_ms
    );
    if let (Some(peak), Some(anonymous)) = (first.peak_rss_bytes, first.anonymous_bytes) {
        text += &format!(
            "memory at most {}, of which not the file's {} (cache {})\n",
            out::bytes(peak),
            out::bytes(anonymous),
            out::bytes(first.cache_bytes)
        );
    }
    let mut machine = machine_table(threads, limits);
    let mut table = tests_table(tests, threads.len(), rows, others.is_some());
    if args.markdown {
        machine.load_style(ASCII_MARKDOWN);
        table.load_style(ASCII_MARKDOWN);
    }
    text + &format!("\n{}\n\n{}\n", machine.trim_fmt(), table.trim_fmt())
}

/// What the machine can do, by threads.
fn machine_table(threads: &[usize], limits: &[Limits]) -> Table {
    let giga = |rate: Option<f64>| rate.map_or("-".into(), |rate| digits(rate / 1e9));
    let mut machine = out::table(&["this machine", "memory GB/s", "int8 GOP/s", "int16 GOP/s", "f32 GFLOP/s"], 1..5);
    for (threads, l) in threads.iter().zip(limits) {
        machine.add_row([
            format!("{threads} threads"),
            giga(Some(l.bytes)),
            giga(l.int8),
            giga(l.int16),
            giga(l.float),
        ]);
    }
    machine
}

/// What was measured, a row a test and number of threads.
fn tests_table(tests: &[Test], threads: usize, rows: &[Row], compared: bool) -> Table {
    let mut head = vec![
        "test",
        "threads",
        "tokens/s",
        "min",
        "max",
        "MB/token",
        "Mmul-add",
        "GB/s",
        "GOP/s",
        "of memory",
        "of peak",
    ];
    if compared {
        head.extend(["other", "ratio"]);
    }
    let mut table = out::table(&head, 1..head.len());
    for (i, row) in rows.iter().enumerate() {
        let percent = |x: Option<f64>| x.map_or("-".into(), |x| format!("{:.0} %", 100.0 * x));
        let mut cells = vec![
            tests[i / threads].name(),
            row.n_threads.to_string(),
            format!("{:.1}", row.median_ts),
            format!("{:.1}", row.min_ts),
            format!("{:.1}", row.max_ts),
            digits(row.bytes_per_token / 1e6),
            digits(row.multiply_adds_per_token / 1e6),
            digits(row.bytes_per_second / 1e9),
            digits(row.operations_per_second / 1e9),
            percent(Some(row.fraction_of_memory)),
            percent(row.fraction_of_arithmetic),
        ];
        if compared {
            cells.push(row.compare_ts.map_or("-".into(), |ts| format!("{ts:.1}")));
            cells.push(row.compare_ratio.map_or("-".into(), |ratio| format!("{ratio:.2}")));
        }
        table.add_row(cells);
    }
    table
}

impl Measured {
    /// The model's name, its kind, the bytes of its weights, and the backend.
    pub fn what(&self) -> String {
        let (file, kind, size) = (printable(&self.file), &self.ready.kind, out::bytes(self.rows[0].model_size));
        format!("{file} ({kind}, {size} of weights), backend {}", self.kernels.name)
    }

    /// What the machine can do, in Markdown.
    pub fn machine(&self) -> String {
        let mut table = machine_table(&self.threads, &self.limits);
        table.load_style(ASCII_MARKDOWN);
        table.trim_fmt()
    }

    /// Of each test and number of threads: its name, tokens a second in the middle, at least and at most, and the part of
    /// the limit that this is.
    pub fn speeds(&self) -> impl Iterator<Item = (String, usize, [f64; 3], f64)> {
        self.rows.iter().enumerate().map(|(i, row)| {
            let limit = row.fraction_of_memory.max(row.fraction_of_arithmetic.unwrap_or(0.0));
            let speeds = [row.median_ts, row.min_ts, row.max_ts];
            (self.tests[i / self.threads.len()].name(), row.n_threads, speeds, limit)
        })
    }
}
