//! Every kind of adapter at the same sizes of file, on three tasks: what it learns, what it takes, what it costs.
//!
//! ```sh
//! cargo run --release --example compare -- results.jsonl [-m MODEL.gguf] [--sizes 10k,50k,500k] [--seeds 3] [--svg OUT.svg] [KIND…]
//! ```
//!
//! Every training has 120 steps of two rows. A kind's rate is found by one small search, the same for all: of its default,
//! a fourth and four times that, at the middle size with the first seed, the one with the lowest mean loss of the rows to
//! choose by. Other sizes, seeds and models keep that factor. Reported is the loss of other rows: the share of what LoRA of
//! rank 8 gains of it. Results are lines of a file; what is there already is not done again, so that a run may be stopped and
//! go on.

#[path = "../frontier/chart.rs"]
mod chart;
#[allow(dead_code, reason = "what is recalled is counted there alone")]
#[path = "../frontier/tasks.rs"]
mod tasks;

use chart::Point;
use mynah::adapter::{self, KINDS, Kind, Spec, parse_targets};
use mynah::app::{Data, Settings};
use mynah::decode::Sampling;
use mynah::knob::Domain;
use mynah::nn::linear::Precision;
use mynah::train::{Config, Example, Trainer};
use mynah::{Error, Mynah, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tasks::Task;

const STEPS: u64 = 120;
/// Factors of a kind's default rate.
const RATES: [f32; 3] = [1.0, 0.25, 4.0];
/// Sizes beyond so many times the usual one are not what a kind is for: some take hours then.
const MOST: u64 = 8;
/// Tokens that are written to see what an attached adapter costs.
const SAID: usize = 48;
/// The adapter whose gain is the whole.
const WHOLE: &str = "lora, rank 8";

fn wrong(e: impl std::fmt::Display) -> Error {
    Error::invalid("arguments", e.to_string())
}

/// What is asked for.
struct Options {
    results: PathBuf,
    model: Option<PathBuf>,
    sizes: Vec<usize>,
    seeds: u64,
    svg: Option<PathBuf>,
    kinds: Vec<String>,
}

impl Options {
    fn read() -> Result<Options> {
        let mut out =
            Options { results: PathBuf::new(), model: None, sizes: Vec::new(), seeds: 0, svg: None, kinds: Vec::new() };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| wrong(format!("{word} of what?")));
            match &*word {
                "-m" => out.model = Some(value()?.into()),
                "--svg" => out.svg = Some(value()?.into()),
                "--seeds" => out.seeds = value()?.parse().map_err(wrong)?,
                "--sizes" => out.sizes = value()?.split(',').map(size).collect::<Result<_>>()?,
                _ if out.results.as_os_str().is_empty() => out.results = word.into(),
                _ => out.kinds.push(Kind::by_name(&word)?.name.into()),
            }
        }
        if out.results.as_os_str().is_empty() {
            return Err(wrong(
                "compare RESULTS.jsonl [-m MODEL.gguf] [--sizes N,…] [--seeds N] [--svg OUT.svg] [KIND…]",
            ));
        }
        // A real model takes minutes a training.
        if out.sizes.is_empty() {
            out.sizes = if out.model.is_some() { vec![50_000] } else { vec![10_000, 50_000, 500_000] };
        }
        if out.seeds == 0 {
            out.seeds = if out.model.is_some() { 1 } else { 3 };
        }
        Ok(out)
    }

    fn wants(&self, kind: &Kind) -> bool {
        self.kinds.is_empty() || self.kinds.iter().any(|name| name == kind.name)
    }
}

fn size(word: &str) -> Result<usize> {
    let (digits, factor) = word.strip_suffix('k').map_or((word, 1), |digits| (digits, 1000));
    digits.parse::<usize>().map(|n| n * factor).map_err(wrong)
}

/// The results so far, by what was done, and the file that they are in.
struct Results {
    file: File,
    all: BTreeMap<String, Value>,
}

impl Results {
    fn open(path: &Path) -> Result<Results> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        // A line that was cut off is done again.
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let all = lines.filter_map(|row| Some((row["key"].as_str()?.to_string(), row))).collect();
        let mut file = OpenOptions::new().append(true).create(true).open(path).map_err(wrong)?;
        if !text.is_empty() && !text.ends_with('\n') {
            file.write_all(b"\n").map_err(wrong)?;
        }
        Ok(Results { file, all })
    }

    fn get(&mut self, key: String, make: impl FnOnce() -> Result<Value>) -> Result<Value> {
        if let Some(row) = self.all.get(&key) {
            return Ok(row.clone());
        }
        let start = Instant::now();
        let mut row = make()?;
        row["key"] = json!(key);
        writeln!(self.file, "{row}").map_err(wrong)?;
        eprintln!("{:5.1} s  {row}", start.elapsed().as_secs_f64());
        self.all.insert(key, row.clone());
        Ok(row)
    }
}

/// A model that learns.
struct Bench {
    mynah: Mynah,
    name: String,
}

impl Bench {
    fn open(model: Option<&Path>) -> Result<Bench> {
        Ok(match model {
            Some(path) => Bench {
                mynah: Mynah::open(path)?,
                name: path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
            },
            None => Bench { mynah: Mynah::embedded()?, name: "the built-in model".into() },
        })
    }

    fn bytes(&self, spec: &Spec) -> Result<usize> {
        let kind = Kind::by_name(&spec.kind)?;
        let codec = adapter::compress::Spec::new(kind.codec.unwrap_or("f16"));
        adapter::budget::bytes(spec, &codec, self.mynah.base())
    }

    /// The kind with as many parameters as fit into a file; on fewer layers where that lets it fit. None if no size of it does,
    /// or if a file is less than half as large.
    fn sized(&self, kind: &Kind, bytes: usize) -> Option<Spec> {
        let few = parse_targets("v,down").ok()?;
        let less = Spec { targets: few, ..Spec::new(kind.name) };
        let ways = [Some(Spec::new(kind.name)), (!kind.targets.is_empty()).then_some(less)];
        ways.into_iter().flatten().find_map(|spec| self.filled(kind, &spec, bytes))
    }

    fn filled(&self, kind: &Kind, spec: &Spec, bytes: usize) -> Option<Spec> {
        let fits = |spec: &Spec| self.bytes(spec).ok().filter(|n| *n <= bytes + bytes / 20);
        let Some(knob) = kind.size else {
            return fits(spec).filter(|n| 2 * n >= bytes).map(|_| spec.clone());
        };
        let Domain::Whole { low, high } = knob.domain else { return None };
        let usual = spec.values().ok()?.whole(knob.name);
        let high = high.min(MOST * usual);
        let of = |n: u64| spec.clone().with(knob.name, n);
        let (mut least, mut most) = (low, high + 1);
        fits(&of(least))?;
        while most - least > 1 {
            let middle = least + (most - least) / 2;
            if fits(&of(middle)).is_some() { least = middle } else { most = middle }
        }
        fits(&of(least)).filter(|n| 2 * n >= bytes).map(|_| of(least))
    }

    fn examples(&self, rows: &[[String; 2]]) -> Result<Vec<Example>> {
        let lines: String =
            rows.iter().map(|[p, c]| format!("{}\n", json!({ "prompt": p, "completion": c }))).collect();
        Ok(self.mynah.lesson("lora").held_out(0.0).lines(lines)?.rows().to_vec())
    }

    /// The mean loss of rows with an adapter, or of the base.
    fn loss(&self, file: Option<&[u8]>, rows: &[[String; 2]]) -> Result<f64> {
        let adapter = match file {
            Some(file) => self.mynah.adapter(file.to_vec())?,
            None => adapter::create(&Spec::new("lora"), self.mynah.base())?,
        };
        let config = Config { precision: Precision::Int8, ..Config::default() };
        let (sum, n) = Trainer::adapter(self.mynah.model(), adapter, config)?.evaluate(&self.examples(rows)?)?;
        Ok(sum / n as f64)
    }

    /// Tokens a second that the model writes with an adapter.
    fn speed(&self, file: &[u8]) -> Result<f64> {
        let generation = self.mynah.generation().sampling(Sampling::greedy()).limit(SAID).attach(file.to_vec(), 1.0)?;
        let start = Instant::now();
        let said = generation.complete("The")?.finish()?;
        Ok(said.ids.len().max(1) as f64 / start.elapsed().as_secs_f64())
    }

    /// One training, and what came of it.
    fn train(&self, task: &Task, spec: &Spec, rate: f32, seed: u64) -> Result<Value> {
        let change = |s: &mut Settings| {
            (s.lr, s.batch, s.held_out) = (Some(rate), 2, Some(0.0));
            (s.precision, s.steps) = (Precision::Int8, Some(STEPS));
        };
        let setup = self.mynah.lesson(spec.clone()).settings(change).seed(seed);
        let mut draft = setup.draft(Data::new(self.examples(&task.learn)?))?;
        let memory = draft.plan(0)?.map_or_else(|refusal| refusal.least.reserved(), |plan| plan.reserved());
        let mut lesson = draft.begin()?;
        let start = Instant::now();
        for event in &mut lesson {
            event?;
        }
        let speed = lesson.history().tokens as f64 / start.elapsed().as_secs_f64();
        let file = lesson.to_bytes()?;
        Ok(json!({
            "parameters": lesson.adapter().map_or(0, |a| a.params().len()),
            "bytes": file.len(),
            "memory": memory,
            "train": speed,
            "decode": self.speed(&file)?,
            "choose": self.loss(Some(&file), &task.choose)?,
            "report": self.loss(Some(&file), &task.report)?,
        }))
    }
}

fn number(row: &Value, name: &str) -> f64 {
    row[name].as_f64().unwrap_or(f64::NAN)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The medians and shares of a kind at a size.
struct Row {
    name: String,
    spec: String,
    parameters: f64,
    bytes: f64,
    memory: f64,
    train: f64,
    decode: f64,
    losses: Vec<f64>,
    shares: Vec<f64>,
}

struct Compare {
    options: Options,
    bench: Bench,
    results: Results,
    tasks: Vec<Task>,
}

impl Compare {
    /// All seeds of a kind on all tasks.
    fn row(&mut self, name: &str, spec: &Spec, factor: f32) -> Result<Row> {
        let rate = factor * Kind::by_name(&spec.kind)?.rate;
        let words: Vec<String> = spec.values.iter().map(|(name, value)| format!("{name} {value}")).collect();
        let targets: Vec<&str> = spec.targets.iter().map(|role| role.row().short).collect();
        let usual = Spec::new(&spec.kind).targets == spec.targets;
        let shown = if usual { words.join(", ") } else { format!("{}; on {}", words.join(", "), targets.join(", ")) };
        let mut all: Vec<Vec<Value>> = Vec::new();
        for task in &self.tasks {
            let mut made = Vec::new();
            for seed in 0..self.options.seeds {
                let key = format!("{}|{name}|{shown}|{}|{rate}|{seed}", self.bench.name, task.name);
                made.push(self.results.get(key, || self.bench.train(task, spec, rate, seed))?);
            }
            all.push(made);
        }
        let of = |name: &str| {
            let mut values: Vec<f64> = all.iter().flatten().map(|row| number(row, name)).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let losses = all.iter().map(|made| mean(&made.iter().map(|row| number(row, "report")).collect::<Vec<_>>()));
        Ok(Row {
            name: name.into(),
            spec: shown,
            parameters: of("parameters"),
            bytes: of("bytes"),
            memory: of("memory"),
            train: of("train"),
            decode: of("decode"),
            losses: losses.collect(),
            shares: Vec::new(),
        })
    }

    /// The factor of a kind's rate, from the built-in model.
    fn factor(&mut self, bench: &Bench, kind: &Kind) -> Result<f32> {
        let middle = [50_000, 10_000, 500_000].into_iter().find_map(|bytes| bench.sized(kind, bytes));
        let spec = middle.unwrap_or_else(|| Spec::new(kind.name));
        let mut best = (f64::INFINITY, 1.0);
        for factor in RATES {
            let mut losses = Vec::new();
            for task in &self.tasks {
                let rate = factor * kind.rate;
                let key = format!("rates|{}|{}|{rate}", kind.name, task.name);
                let row = self.results.get(key, || bench.train(task, &spec, rate, 0))?;
                losses.push(number(&row, "choose"));
            }
            let loss = mean(&losses);
            // What diverged is no number, and never the best.
            if loss < best.0 {
                best = (loss, factor);
            }
        }
        Ok(best.1)
    }

    fn run(&mut self) -> Result<Vec<(usize, Vec<Row>)>> {
        let small = Bench::open(None)?;
        let lora = Kind::by_name("lora")?;
        let factor = self.factor(&small, lora)?;
        let whole = self.row(WHOLE, &Spec::new("lora").with("rank", 8), factor)?;
        let mut base = Vec::new();
        for task in &self.tasks {
            let key = format!("{}|base|{}", self.bench.name, task.name);
            let made = self.results.get(key, || Ok(json!({ "report": self.bench.loss(None, &task.report)? })))?;
            base.push(number(&made, "report"));
        }
        let gained = whole.losses.clone();
        let share = |row: &Row| -> Vec<f64> {
            let all = base.iter().zip(&row.losses).zip(&gained);
            all.map(|((base, loss), whole)| (base - loss) / (base - whole)).collect()
        };
        let mut groups = Vec::new();
        for bytes in self.options.sizes.clone() {
            let mut rows = Vec::new();
            for kind in KINDS.iter().filter(|kind| self.options.wants(kind)).collect::<Vec<_>>() {
                let Some(spec) = self.bench.sized(kind, bytes) else { continue };
                let factor = self.factor(&small, kind)?;
                let mut row = self.row(kind.name, &spec, factor)?;
                row.shares = share(&row);
                rows.push(row);
            }
            rows.sort_by(|a, b| mean(&b.shares).total_cmp(&mean(&a.shares)));
            groups.push((bytes, rows));
        }
        let mut whole = whole;
        whole.shares = share(&whole);
        groups.push((whole.bytes as usize, vec![whole]));
        Ok(groups)
    }
}

fn main() -> Result<()> {
    let options = Options::read()?;
    let (bench, results) = (Bench::open(options.model.as_deref())?, Results::open(&options.results)?);
    let svg = options.svg.clone();
    let mut compare = Compare { options, bench, results, tasks: tasks::all() };
    let groups = compare.run()?;
    let names: Vec<&str> = compare.tasks.iter().map(|task| task.name).collect();
    let lora = groups.last().and_then(|(_, rows)| rows.first()).map_or((1.0, 1.0), |row| (row.train, row.decode));
    for (bytes, rows) in &groups {
        println!("\n{}, files of about {bytes} bytes:\n", compare.bench.name);
        println!("| method | settings | numbers | bytes | memory | training | decoding | {} |", names.join(" | "));
        println!("| --- | --- | --- | --- | --- | --- | --- |{}", " --- |".repeat(names.len()));
        for row in rows {
            let cells: Vec<String> =
                row.losses.iter().zip(&row.shares).map(|(l, s)| format!("{l:.3} ({:.0} %)", 100.0 * s)).collect();
            println!(
                "| `{}` | {} | {} | {} | {:.1} MB | {:.2} | {:.2} | {} |",
                row.name,
                row.spec,
                row.parameters,
                row.bytes,
                row.memory / 1e6,
                row.train / lora.0,
                row.decode / lora.1,
                cells.join(" | ")
            );
        }
    }
    println!(
        "\ntraining, decoding: tokens a second beside those of {WHOLE}; tasks: loss of held-out rows, and the share of its gain"
    );
    if let Some(path) = svg {
        let rows = groups.iter().flat_map(|(_, rows)| rows);
        let points: Vec<Point> = rows
            .map(|row| Point { name: row.name.clone(), bytes: row.bytes, shares: vec![mean(&row.shares)] })
            .collect();
        let written = std::fs::write(path, chart::svg(&points, &["mean of three tasks"], &chart::Axes::default()));
        written.map_err(wrong)?;
    }
    Ok(())
}
