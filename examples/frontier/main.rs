//! How much of what the best LoRA learns fits into how many bytes: three tasks, recipes from a kilobyte to megabytes.
//!
//! Every recipe trains for 120 steps of two rows, at each of a few rates with the first seed. The rate with the lowest loss on
//! the rows to choose by is kept, and trained with the other seeds. What is reported is the loss on other rows: the part of the
//! fall of the best LoRA of rank 8 that a recipe reaches. Of facts it is also counted how many are recalled.
//!
//! ```sh
//! cargo run --release --example frontier -- model.gguf docs/frontier.svg [SEEDS [RECIPE…]]
//! ```
//!
//! With names of recipes only these are trained, and the first, with which they are compared.

mod chart;
mod tasks;

use chart::Point;
use mynah::adapter::{self, Provenance, Spec, compress, parse_targets};
use mynah::app::Settings;
use mynah::decode::Sampling;
use mynah::nn::linear::Precision;
use mynah::train::{Config, Example, Trainer};
use mynah::{Mynah, Result};
use serde_json::json;
use std::time::Instant;
use tasks::Task;

const STEPS: u64 = 120;

/// A way to make a file.
struct Recipe {
    name: &'static str,
    spec: fn() -> Spec,
    codec: Option<fn() -> compress::Spec>,
    /// Bytes for which sizes are chosen.
    bytes: Option<usize>,
    rates: &'static [f32],
}

fn few(kind: &str) -> Spec {
    Spec { targets: parse_targets("v,down").expect("names of layers"), ..Spec::new(kind) }
}

fn all(kind: &str) -> Spec {
    Spec { targets: parse_targets("all").expect("names of layers"), ..Spec::new(kind) }
}

fn levels(bits: u64) -> compress::Spec {
    compress::Spec::new("levels").with("bits", bits)
}

/// The first is what the others are compared with.
const RECIPES: &[Recipe] = &[
    Recipe { name: "LoRA rank 8", spec: || all("lora"), codec: None, bytes: None, rates: &[5e-4, 1e-3, 2e-3] },
    Recipe {
        name: "LoRA rank 1",
        spec: || all("lora").with("rank", 1),
        codec: None,
        bytes: None,
        rates: &[1e-3, 3e-3],
    },
    Recipe {
        name: "LoRA rank 1, 8 bits",
        spec: || all("lora").with("rank", 1),
        codec: Some(|| compress::Spec::new("q8")),
        bytes: None,
        rates: &[1e-3, 3e-3],
    },
    Recipe {
        name: "LoRA rank 1, 4 bits",
        spec: || all("lora").with("rank", 1),
        codec: Some(|| compress::Spec::new("q4")),
        bytes: None,
        rates: &[1e-3, 3e-3],
    },
    Recipe {
        name: "LoRA rank 1 on v and down, 4 bits",
        spec: || few("lora").with("rank", 1),
        codec: Some(|| compress::Spec::new("q4")),
        bytes: None,
        rates: &[1e-3, 3e-3],
    },
    Recipe { name: "NOLA 64", spec: || all("nola"), codec: None, bytes: None, rates: &[5e-3, 2e-2] },
    Recipe { name: "NOLA 16", spec: || few("nola").with("basis", 16), codec: None, bytes: None, rates: &[5e-3, 2e-2] },
    Recipe {
        name: "NOLA 2,953, 4 bits",
        spec: || few("nola"),
        codec: Some(|| levels(4)),
        bytes: Some(2_953),
        rates: &[5e-3, 2e-2],
    },
    Recipe {
        name: "NOLA 10,000, 4 bits",
        spec: || few("nola"),
        codec: Some(|| levels(4)),
        bytes: Some(10_000),
        rates: &[5e-3, 2e-2],
    },
    Recipe { name: "uni 1,000", spec: || few("uni"), codec: None, bytes: Some(1_000), rates: &[5e-3, 1.5e-2] },
    Recipe { name: "uni 2,953", spec: || few("uni"), codec: None, bytes: Some(2_953), rates: &[5e-3, 1.5e-2] },
    Recipe { name: "uni 10,000", spec: || all("uni"), codec: None, bytes: Some(10_000), rates: &[3e-3, 1e-2] },
];

/// A name, the recipe of which it packs the files, and ways to choose from.
type Packed = (&'static str, &'static str, fn() -> Vec<compress::Spec>);

const PACKED: &[Packed] = &[
    ("LoRA rank 8, f16", "LoRA rank 8", || vec![compress::Spec::new("f16")]),
    ("LoRA rank 8, ComPEFT 5 %", "LoRA rank 8", || ternary(0.05)),
    ("LoRA rank 8, ComPEFT 10 %", "LoRA rank 8", || ternary(0.1)),
    ("LoRA rank 8, ComPEFT 20 %", "LoRA rank 8", || ternary(0.2)),
    ("NOLA 64, packed to 4 bits", "NOLA 64", || vec![levels(4)]),
    ("NOLA 16, packed to 4 bits", "NOLA 16", || vec![levels(4)]),
];

/// What a recipe made of a task.
struct Made {
    file: Vec<u8>,
    choose: f64,
    report: f64,
    recalled: Option<usize>,
}

struct Bench {
    mynah: Mynah,
    start: Instant,
}

impl Bench {
    fn lines(rows: &[[String; 2]]) -> String {
        rows.iter().map(|[p, c]| format!("{}\n", json!({ "prompt": p, "completion": c }))).collect()
    }

    fn examples(&self, rows: &[[String; 2]]) -> Result<Vec<Example>> {
        let setup = self.mynah.lesson("lora").held_out(0.0);
        Ok(setup.lines(Bench::lines(rows))?.rows().to_vec())
    }

    /// The mean loss of rows with the adapter of a file, or of the base.
    fn loss(&self, file: Option<&[u8]>, rows: &[[String; 2]]) -> Result<f64> {
        let adapter = match file {
            Some(file) => self.mynah.adapter(file.to_vec())?,
            None => adapter::create(&few("ia3"), self.mynah.base())?,
        };
        let config = Config { precision: Precision::Int8, ..Config::default() };
        let (sum, n) = Trainer::adapter(self.mynah.model(), adapter, config)?.evaluate(&self.examples(rows)?)?;
        Ok(sum / n as f64)
    }

    fn recalled(&self, file: &[u8], task: &Task) -> Result<Option<usize>> {
        let Some(answers) = &task.recall else { return Ok(None) };
        let generation = self.mynah.generation().sampling(Sampling::greedy()).limit(16).attach(file.to_vec(), 1.0)?;
        let mut right = 0;
        for ([prompt, _], answer) in task.report.iter().zip(answers) {
            let said = generation.complete(prompt)?.finish()?;
            right += usize::from(said.text.contains(answer.as_str()));
        }
        Ok(Some(right))
    }

    fn make(&self, task: &Task, recipe: &Recipe, rate: f32, seed: u64) -> Result<Made> {
        let change = |s: &mut Settings| {
            (s.lr, s.batch, s.context, s.held_out) = (Some(rate), 2, Some(96), Some(0.0));
            (s.precision, s.steps) = (Precision::Int8, Some(STEPS));
            s.codec = recipe.codec.map(|codec| codec());
        };
        let setup = self.mynah.lesson((recipe.spec)()).settings(change).seed(seed);
        let setup = if let Some(bytes) = recipe.bytes { setup.bytes(bytes)? } else { setup };
        let mut lesson = setup.lines(Bench::lines(&task.learn))?;
        for event in &mut lesson {
            event?;
        }
        self.judge(task, lesson.to_bytes()?)
    }

    /// Its loss on the rows to choose by.
    fn judge(&self, task: &Task, file: Vec<u8>) -> Result<Made> {
        Ok(Made { choose: self.loss(Some(&file), &task.choose)?, report: f64::NAN, recalled: None, file })
    }

    /// What is told of files that were chosen.
    fn report(&self, task: &Task, chosen: &mut [Made]) -> Result<()> {
        for made in chosen {
            made.report = self.loss(Some(&made.file), &task.report)?;
            made.recalled = self.recalled(&made.file, task)?;
        }
        Ok(())
    }

    /// The best of a few rates with the first seed, and the others with that rate.
    fn best(&self, task: &Task, recipe: &Recipe, seeds: u64) -> Result<Vec<Made>> {
        let mut tried = recipe.rates.iter().map(|rate| Ok((*rate, self.make(task, recipe, *rate, 0)?)));
        let mut tried = tried.by_ref().collect::<Result<Vec<_>>>()?;
        tried.sort_by(|a, b| a.1.choose.total_cmp(&b.1.choose));
        let (rate, first) = tried.swap_remove(0);
        let mut all = vec![first];
        for seed in 1..seeds {
            all.push(self.make(task, recipe, rate, seed)?);
        }
        self.report(task, &mut all)?;
        let (seconds, loss) = (self.start.elapsed().as_secs_f64(), mean(all.iter().map(|m| m.report)));
        let (bytes, each) = (all[0].file.len(), all.iter().map(|m| (m.report, m.recalled)).collect::<Vec<_>>());
        eprintln!(
            "{seconds:6.0} s  {} {}: rate {rate}, {bytes} bytes, loss {loss:.4} {each:.4?}",
            task.name, recipe.name
        );
        let prompt = &task.report[0][0];
        eprintln!("        {prompt:?} -> {:?}", self.sample(&all[0].file, prompt)?);
        Ok(all)
    }

    /// The adapter of each seed, packed; where there are several ways, that of the first seed in the one of the lowest loss.
    fn packed(&self, task: &Task, name: &str, whole: &[Made], ways: &[compress::Spec]) -> Result<Vec<Made>> {
        let mut all = Vec::new();
        for made in if ways.len() > 1 { &whole[..1] } else { whole } {
            let mut adapter = self.mynah.adapter(made.file.clone())?;
            let mut best: Option<Made> = None;
            for codec in ways {
                let origin = Provenance::default();
                let file = adapter::file::packed(&mut *adapter, self.mynah.base(), &origin, codec)?;
                let made = self.judge(task, file)?;
                eprintln!(
                    "        {name}, {}: {} bytes, {:.4} to choose by",
                    codec.words()?,
                    made.file.len(),
                    made.choose
                );
                if best.as_ref().is_none_or(|b| made.choose < b.choose) {
                    best = Some(made);
                }
            }
            all.extend(best);
        }
        self.report(task, &mut all)?;
        Ok(all)
    }

    /// What the base with the adapter of a file says to a prompt.
    fn sample(&self, file: &[u8], prompt: &str) -> Result<String> {
        let generation = self.mynah.generation().sampling(Sampling::greedy()).limit(32).attach(file.to_vec(), 1.0)?;
        Ok(generation.complete(prompt)?.finish()?.text)
    }
}

/// ComPEFT at a density, with scales to choose from.
fn ternary(density: f64) -> Vec<compress::Spec> {
    let scales = [0.0, 1.0, 2.0, 3.0];
    scales.map(|scale| compress::Spec::new("ternary").with("density", density).with("scale", scale)).into()
}

/// A recipe's bytes, its share of each task, and what it recalled.
struct Row {
    name: String,
    bytes: usize,
    shares: Vec<f64>,
    recalled: Option<f64>,
}

fn mean(of: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = of.len() as f64;
    of.sum::<f64>() / n
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [model, picture, more @ ..] = &words[..] else {
        eprintln!("frontier MODEL.gguf OUT.svg [SEEDS [RECIPE…]]");
        return Ok(());
    };
    let seeds = more.first().and_then(|s| s.parse().ok()).unwrap_or(3);
    let named = more.get(1..).unwrap_or_default();
    if let Some(name) = named.iter().find(|name| RECIPES.iter().all(|r| r.name != **name)) {
        return Err(mynah::Error::invalid("recipe", format!("{name}; there is no such recipe")));
    }
    let bench = Bench { mynah: Mynah::open(model)?, start: Instant::now() };
    let mut rows: Vec<Row> = Vec::new();
    let mut add = |name: String, base: f64, best: f64, made: &[Made], facts: usize| {
        let place = rows.iter().position(|row| row.name == name).unwrap_or_else(|| {
            rows.push(Row { name, bytes: 0, shares: Vec::new(), recalled: None });
            rows.len() - 1
        });
        let row = &mut rows[place];
        row.bytes = row.bytes.max(made.iter().map(|m| m.file.len()).max().unwrap_or(0));
        row.shares.push(mean(made.iter().map(|m| (base - m.report) / (base - best))));
        let right: Vec<f64> = made.iter().filter_map(|m| m.recalled).map(|n| n as f64 / facts as f64).collect();
        if !right.is_empty() {
            row.recalled = Some(mean(right.into_iter()));
        }
    };
    let tasks = tasks::all();
    for task in &tasks {
        let base = bench.loss(None, &task.report)?;
        let facts = task.report.len();
        let mut best = 0.0;
        let wanted = |name: &str| named.is_empty() || named.iter().any(|n| n == name) || name == RECIPES[0].name;
        for (i, recipe) in RECIPES.iter().enumerate().filter(|(_, recipe)| wanted(recipe.name)) {
            let made = bench.best(task, recipe, seeds)?;
            if i == 0 {
                best = mean(made.iter().map(|m| m.report));
                eprintln!("{}: loss {base:.3} of the base, {best:.3} with {}", task.name, recipe.name);
            }
            add(recipe.name.into(), base, best, &made, facts);
            for (name, _, ways) in PACKED.iter().filter(|(_, of, _)| *of == recipe.name && (named.is_empty() || i > 0))
            {
                let made = bench.packed(task, name, &made, &ways())?;
                add((*name).into(), base, best, &made, facts);
            }
        }
    }
    rows.sort_by_key(|row| row.bytes);
    println!("| recipe | bytes | {} | facts recalled |", tasks.iter().map(|t| t.name).collect::<Vec<_>>().join(" | "));
    println!("| --- | --- |{} --- |", " --- |".repeat(tasks.len()));
    for row in &rows {
        let shares: Vec<String> = row.shares.iter().map(|s| format!("{:.1} %", s * 100.0)).collect();
        let recalled = row.recalled.map_or(String::new(), |r| format!("{:.0} %", r * 100.0));
        println!("| {} | {} | {} | {recalled} |", row.name, row.bytes, shares.join(" | "));
    }
    let points: Vec<Point> =
        rows.into_iter().map(|r| Point { name: r.name, bytes: r.bytes as f64, shares: r.shares }).collect();
    let names: Vec<&str> = tasks.iter().map(|task| task.name).collect();
    let drawn = chart::svg(&points, &names, &chart::Axes::default());
    std::fs::write(picture, drawn).map_err(|e| mynah::Error::invalid("picture", e.to_string()))?;
    Ok(())
}
