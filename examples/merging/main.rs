//! Adapters that pull apart, merged by every method, beside one adapter that is trained on the data of all.
//!
//! Each of three adapters learns a way to answer (`tasks.rs`) in the same number of steps; the one of all data has as many steps as
//! the three together. A score is the part of the fall of the loss, from that of the base to that of the way's own adapter, on
//! questions that nobody has learnt. Each merged adapter is attached with the strength of a few that does best on questions to
//! choose by.
//!
//! ```sh
//! cargo run --release --example merging -- model.gguf [STEPS]
//! ```

mod tasks;

use mynah::adapter::Ready;
use mynah::adapter::merge::Spec;
use mynah::nn::linear::Precision;
use mynah::train::Example;
use mynah::{Mynah, Result};
use serde_json::json;
use std::sync::Arc;
use std::time::Instant;
use tasks::Task;

const STRENGTHS: [f32; 5] = [0.5, 1.0, 1.5, 2.0, 3.0];

type Make = fn() -> Spec;

/// Ways to merge three adapters. Weights are a third where a sum would be three times too much.
const WAYS: &[(&str, f64, Make)] = &[
    ("average", 1.0 / 3.0, || Spec::new("sum")),
    ("linear, to rank 8", 1.0 / 3.0, || Spec::new("linear").with("scale", 1.0).with("rank", 8)),
    ("ties 0.2", 1.0, || Spec::new("ties")),
    ("ties 0.5", 1.0, || Spec::new("ties").with("density", 0.5)),
    ("dare 0.5, ties", 1.0, || Spec::new("dare")),
    ("dare 0.5, linear", 1.0 / 3.0, || Spec::new("dare").with("then", "linear")),
    ("tsvm", 1.0, || Spec::new("tsvm")),
    ("r-tsvm", 1.0, || Spec::new("r-tsvm")),
];

/// Rows as tokens, of a way: to choose by and to report.
struct Judged {
    name: &'static str,
    choose: Vec<Example>,
    report: Vec<Example>,
}

struct Bench {
    mynah: Mynah,
    tasks: Vec<Judged>,
    start: Instant,
}

fn lines(rows: &[[String; 2]]) -> String {
    rows.iter().map(|[p, c]| format!("{}\n", json!({ "prompt": p, "completion": c }))).collect()
}

fn mean(of: &[f64]) -> f64 {
    of.iter().sum::<f64>() / of.len() as f64
}

impl Bench {
    fn train(&self, what: &str, rows: &[[String; 2]], steps: u64) -> Result<Vec<u8>> {
        let setup = self.mynah.lesson("lora").steps(steps).batch(2).context(96).held_out(0.0).rate(1e-3);
        let mut lesson = setup.settings(|settings| settings.precision = Precision::Int8).lines(lines(rows))?;
        for event in &mut lesson {
            event?;
        }
        self.say(&format!("{what} is trained"));
        lesson.to_bytes()
    }

    fn say(&self, what: &str) {
        eprintln!("{:6.0} s  {what}", self.start.elapsed().as_secs_f64());
    }

    /// The mean loss of the answers of rows, in nats a token.
    fn loss(&self, adapter: Option<(&Arc<Ready>, f32)>, rows: &[Example]) -> Result<f64> {
        let mut generation = self.mynah.generation();
        if let Some((adapter, strength)) = adapter {
            generation = generation.attach(adapter.clone(), strength)?;
        }
        let mut session = generation.session(96)?;
        let (mut sum, mut n) = (0.0, 0);
        for row in rows {
            session.truncate(0);
            let (tokens, mask) = (&row.tokens, &row.mask);
            session.feed_each(&tokens[..tokens.len() - 1], &mut |i, logits| {
                if mask[i + 1] {
                    let most = logits.iter().copied().fold(f32::MIN, f32::max);
                    let all: f64 = logits.iter().map(|l| f64::from(l - most).exp()).sum();
                    sum += all.ln() - f64::from(logits[tokens[i + 1] as usize] - most);
                    n += 1;
                }
            })?;
        }
        Ok(sum / f64::from(n))
    }

    /// The score of each way, of the rows that `of` takes. `bounds`: losses of the base and of the way's own adapter.
    fn scores(&self, adapter: &Arc<Ready>, strength: f32, of: Rows, bounds: &[[f64; 2]]) -> Result<Vec<f64>> {
        let score = |(task, [base, own]): (&Judged, &[f64; 2])| {
            Ok((base - self.loss(Some((adapter, strength)), of(task))?) / (base - own))
        };
        self.tasks.iter().zip(bounds).map(score).collect()
    }
}

type Rows = fn(&Judged) -> &[Example];

/// Losses of the base and of each way's own adapter.
fn bounds(bench: &Bench, own: &[Arc<Ready>], of: Rows) -> Result<Vec<[f64; 2]>> {
    let of = |(task, own): (&Judged, &Arc<Ready>)| {
        Ok([bench.loss(None, of(task))?, bench.loss(Some((own, 1.0)), of(task))?])
    };
    bench.tasks.iter().zip(own).map(of).collect()
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [model, steps @ ..] = &words[..] else {
        eprintln!("merging MODEL.gguf [STEPS]");
        return Ok(());
    };
    let steps = steps.first().and_then(|s| s.parse().ok()).unwrap_or(45);
    let mynah = Mynah::open(model)?;
    let tasks = tasks::all();
    let examples = |rows: &[[String; 2]]| -> Result<Vec<Example>> {
        Ok(mynah.lesson("lora").held_out(0.0).lines(lines(rows))?.rows().to_vec())
    };
    let judged =
        |task: &Task| Ok(Judged { name: task.name, choose: examples(&task.choose)?, report: examples(&task.report)? });
    let judged = tasks.iter().map(judged).collect::<Result<Vec<_>>>()?;
    let bench = Bench { mynah: mynah.clone(), tasks: judged, start: Instant::now() };

    let files: Vec<Vec<u8>> =
        tasks.iter().map(|task| bench.train(task.name, &task.learn, steps)).collect::<Result<_>>()?;
    let mixed: Vec<[String; 2]> = tasks.iter().flat_map(|task| task.learn.clone()).collect();
    let mixed = bench.train("one on the data of all", &mixed, 3 * steps)?;
    let own: Vec<Arc<Ready>> = files.iter().map(|file| mynah.ready(file.clone())).collect::<Result<_>>()?;
    let (choose, report): (Rows, Rows) = (|task| &task.choose, |task| &task.report);
    let (to_choose, to_report) = (bounds(&bench, &own, choose)?, bounds(&bench, &own, report)?);

    let mut merging = mynah.merge(&Spec::new("sum"), files.iter().map(|file| (file.clone(), 1.0)))?;
    while merging.look()? {}
    for c in merging.conflicts() {
        let [a, b] = c.pair.map(|which| tasks[which].name);
        let (signs, overlap) = (c.signs.unwrap_or(0.0), c.overlap.unwrap_or(0.0));
        let advice = c.advice();
        println!(
            "{a} and {b}: cosine {:.2}, signs {signs:.2}, overlap {overlap:.2}, gives way {:.2}; {}: {}",
            c.cosine, c.lost, advice.word, advice.why
        );
    }
    let names: Vec<&str> = bench.tasks.iter().map(|task| task.name).collect();
    println!("\n| adapter | strength | {} | mean |\n| --- | --- | --- | --- | --- | --- |", names.join(" | "));
    let show = |name: &str, strength: f32, scores: &[f64]| {
        let each: Vec<String> = scores.iter().map(|s| format!("{:.1} %", 100.0 * s)).collect();
        println!("| {name} | {strength} | {} | {:.1} % |", each.join(" | "), 100.0 * mean(scores));
    };
    for (one, name) in own.iter().zip(&names) {
        show(&format!("{name} alone"), 1.0, &bench.scores(one, 1.0, report, &to_report)?);
    }
    let best = |name: &str, adapter: &Arc<Ready>| -> Result<()> {
        let tried = STRENGTHS.map(|s| Ok((s, mean(&bench.scores(adapter, s, choose, &to_choose)?))));
        let tried = tried.into_iter().collect::<Result<Vec<_>>>()?;
        let strength = tried.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).map_or(1.0, |(s, _)| s);
        show(name, strength, &bench.scores(adapter, strength, report, &to_report)?);
        Ok(())
    };
    best("trained on the data of all", &mynah.ready(mixed)?)?;
    for (name, weight, spec) in WAYS {
        let mut merging = mynah.merge(&spec(), files.iter().map(|file| (file.clone(), *weight)))?;
        let file = merging.to_bytes()?;
        bench.say(&format!("{name}: {} bytes", file.len()));
        best(name, &mynah.ready(file)?)?;
    }
    Ok(())
}
