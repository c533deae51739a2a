//! A run: the loop around a trainer, its log, its held-out losses, and what it leaves behind.

use crate::meter::{self, Meter};
use crate::{out, plot};
use anyhow::Context;
use mynah::adapter::Provenance;
use mynah::train::data::Order;
use mynah::train::{Example, Report, Trainer};
use serde::Serialize;
use std::fs::File;
use std::io::Write;
use std::time::Instant;

/// Held-out loss is measured so often during a run, beside before and after.
const LOOKS: u64 = 8;
/// A run ends after so many steps in a row that had to be discarded.
pub const PATIENCE: u64 = 3;

/// A line of the log.
#[derive(Serialize)]
struct Step {
    step: u64,
    loss: f64,
    grad_norm: f64,
    lr: f32,
    tokens: u64,
}

/// What a run did, for machines.
#[derive(Serialize)]
pub struct Summary {
    pub steps: u64,
    pub parameters: usize,
    pub loss_first: Option<f64>,
    pub loss_last: Option<f64>,
    pub eval_before: Option<f64>,
    pub eval_after: Option<f64>,
    pub adapter_bytes: Option<usize>,
    pub tokens_per_second: f64,
    pub seconds: f64,
    pub peak_rss_bytes: Option<u64>,
    pub interrupted: bool,
}

/// A run: the loop around a trainer.
pub struct Course<'a> {
    pub trainer: Trainer,
    pub train: &'a [Example],
    /// Rows of one example or several, by their numbers in `train`.
    pub rows: Vec<Vec<usize>>,
    /// Rows that go through the model together.
    pub micro: usize,
    pub eval: &'a [Example],
    pub order: Order,
    pub steps: u64,
    pub log: Option<File>,
}

/// What a run leaves behind.
pub struct Passed {
    pub trainer: Trainer,
    pub reports: Vec<Report>,
    pub held_out: Vec<(u64, f64)>,
    pub seconds: f64,
    /// Why it ended early, if not by Ctrl-C.
    pub failure: Option<mynah::Error>,
}

impl Course<'_> {
    /// Runs all steps, or until Ctrl-C or until steps fail.
    pub fn run(mut self) -> anyhow::Result<Passed> {
        let (mut reports, mut held_out) = (Vec::new(), Vec::new());
        let mut failure = None;
        let meter = Meter::new(self.steps);
        let mut busy = 0.0;
        self.look(0, &mut held_out)?;
        let every = (self.steps / LOOKS).max(1);
        let (mut failed, mut tokens) = (0, 0);
        while (reports.len() as u64) < self.steps && !meter::interrupted() {
            // How many rows go through together changes no bit of the step.
            let step: Vec<&[usize]> = self.order.next_step().concat().iter().map(|&i| &*self.rows[i]).collect();
            let rows: Vec<Vec<usize>> = step.chunks(self.micro).map(<[_]>::concat).collect();
            let batches: Vec<Vec<Example>> =
                rows.iter().map(|rows| rows.iter().map(|&i| self.train[i].clone()).collect()).collect();
            let slices: Vec<&[Example]> = batches.iter().map(Vec::as_slice).collect();
            let start = Instant::now();
            let report = self.trainer.step(&slices);
            busy += start.elapsed().as_secs_f64();
            let report = match report {
                Ok(report) => report,
                Err(e) => {
                    failed += 1;
                    out::say(&format!("{e} (rows {rows:?}, counted from 0)"));
                    if failed == PATIENCE {
                        failure = Some(e);
                        break;
                    }
                    continue;
                }
            };
            failed = 0;
            tokens += report.tokens;
            if let Some(log) = &mut self.log {
                let Report { step, loss, grad_norm, lr, tokens, .. } = report;
                let line = serde_json::to_string(&Step { step, loss, grad_norm, lr, tokens })?;
                writeln!(log, "{line}").context("write the log")?;
            }
            reports.push(report);
            if report.step % every == 0 && report.step < self.steps {
                self.look(report.step, &mut held_out)?;
            }
            meter.show(report.step, || {
                let held = held_out.last().map_or(String::new(), |(_, loss)| format!("  held out {loss:.3}"));
                let memory = meter::peak_rss().map_or(String::new(), |n| format!("  peak {}", out::bytes(n)));
                format!("loss {:.3}{held}  {:.0} tokens/s{memory}", report.loss, tokens as f64 / busy)
            });
        }
        meter.done();
        self.look(reports.len() as u64, &mut held_out)?;
        Ok(Passed { trainer: self.trainer, reports, held_out, seconds: busy, failure })
    }

    fn look(&mut self, step: u64, held_out: &mut Vec<(u64, f64)>) -> anyhow::Result<()> {
        if self.eval.is_empty() || held_out.last().is_some_and(|last| last.0 == step) {
            return Ok(());
        }
        let (mut sum, mut counted) = (0.0, 0);
        for row in self.eval {
            let (loss, n) = self.trainer.evaluate(std::slice::from_ref(row))?;
            sum += loss;
            counted += n;
        }
        held_out.push((step, sum / counted as f64));
        Ok(())
    }
}

impl Passed {
    pub fn summary(&self, adapter_bytes: Option<usize>) -> Summary {
        let tokens: u64 = self.reports.iter().map(|r| r.tokens).sum();
        let eval = |point: Option<&(u64, f64)>| point.map(|p| p.1);
        Summary {
            steps: self.reports.len() as u64,
            parameters: self.trainer.parameters(),
            loss_first: self.reports.first().map(|r| r.loss),
            loss_last: self.reports.last().map(|r| r.loss),
            eval_before: eval(self.held_out.first()),
            eval_after: eval(self.held_out.last()),
            adapter_bytes,
            tokens_per_second: if self.seconds > 0.0 { tokens as f64 / self.seconds } else { 0.0 },
            seconds: self.seconds,
            peak_rss_bytes: meter::peak_rss(),
            interrupted: meter::interrupted(),
        }
    }

    /// Where the adapter comes from, for its file.
    pub fn provenance(&self, data: &[u8]) -> Provenance {
        Provenance {
            objective: "next token".into(),
            data: blake3::hash(data).to_hex().to_string(),
            steps: self.reports.len() as u64,
            first_loss: self.reports.first().map(|r| r.loss),
            last_loss: self.reports.last().map(|r| r.loss),
        }
    }

    /// The curve and the figures, for eyes.
    pub fn show(&self, summary: &Summary) {
        let losses: Vec<f64> = self.reports.iter().map(|r| r.loss).collect();
        out::say(plot::curve(&losses, &self.held_out).trim_end());
        let pair = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) => format!("{a:.4} → {b:.4}"),
            _ => "-".into(),
        };
        let memory = summary.peak_rss_bytes.map_or("unknown".into(), out::bytes);
        out::say(&format!(
            "{} steps in {:.1} s, {:.0} tokens/s; loss {}; held-out loss {}; peak memory {memory}",
            summary.steps,
            summary.seconds,
            summary.tokens_per_second,
            pair(summary.loss_first, summary.loss_last),
            pair(summary.eval_before, summary.eval_after),
        ));
    }
}
