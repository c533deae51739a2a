//! A run: the loop around a trainer, its log, its held-out losses, and what it leaves behind.

use super::keep::Keeper;
use super::past::Past;
use crate::meter::{self, Meter};
use crate::{out, plot};
use anyhow::{Context, anyhow};
use mynah::adapter::Provenance;
use mynah::train::data::Order;
use mynah::train::{Example, Report, Trainer};
use serde::Serialize;
use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

/// A run ends after so many steps in a row that had to be discarded.
pub const DISCARDS: u64 = 3;

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
    pub best_step: Option<u64>,
    pub adapter_bytes: Option<usize>,
    pub tokens_per_second: f64,
    pub seconds: f64,
    pub peak_rss_bytes: Option<u64>,
    pub interrupted: bool,
    pub ended: &'static str,
}

/// When a run looks at the held-out rows, and when it stops.
#[derive(Clone, Copy)]
pub struct Pace {
    /// Steps of the whole run.
    pub steps: u64,
    /// Steps between looks; the last step is followed by one too.
    pub look: u64,
    /// So many looks in a row that were no better than the best end the run, with what was best.
    pub patience: Option<u64>,
    /// Steps after which this part of it pauses.
    pub most_steps: Option<u64>,
    /// Time after which this part of it pauses.
    pub most_time: Option<Duration>,
}

impl Pace {
    /// All steps, without a stop, with a few looks on the way.
    pub fn through(steps: u64) -> Pace {
        Pace { steps, look: (steps / 8).max(1), patience: None, most_steps: None, most_time: None }
    }
}

/// Why a part of a run ended.
pub enum Ended {
    /// All steps are done.
    Done,
    /// The held-out loss did not fall any more.
    Early,
    /// Ctrl-C.
    Interrupted,
    /// It has taken the time or the steps that it was given.
    Paused,
    /// Too many steps in a row had to be discarded.
    Failed(mynah::Error),
}

impl Ended {
    /// For machines.
    pub fn name(&self) -> &'static str {
        match self {
            Ended::Done => "done",
            Ended::Early => "early",
            Ended::Interrupted => "interrupted",
            Ended::Paused => "paused",
            Ended::Failed(_) => "failed",
        }
    }
}

/// The bytes of the file that a run ends with, as things stand.
pub type Encode<'a> = &'a dyn Fn(&Trainer, &Past) -> anyhow::Result<Vec<u8>>;

/// A run, or a part of it.
pub struct Course<'a> {
    pub trainer: Trainer,
    pub train: &'a [Example],
    /// Rows of one example or several, by their numbers in `train`.
    pub rows: Vec<Vec<usize>>,
    /// Rows that go through the model together.
    pub micro: usize,
    pub eval: &'a [Example],
    pub order: Order,
    pub past: Past,
    pub pace: Pace,
    pub encode: Encode<'a>,
    pub log: Option<File>,
    pub keeper: Option<Keeper<'a>>,
}

/// What a run leaves behind.
pub struct Passed<'a> {
    pub trainer: Trainer,
    pub past: Past,
    pub ended: Ended,
    pub order: Order,
    pub keeper: Option<Keeper<'a>>,
    /// Why there is no checkpoint of the last step, if there should be one.
    pub unsaved: Option<anyhow::Error>,
}

impl<'a> Course<'a> {
    /// Runs on until one of the reasons to end.
    pub fn run(mut self) -> anyhow::Result<Passed<'a>> {
        let meter = Meter::new(self.pace.steps);
        let (start, first) = (Instant::now(), self.past.steps());
        if self.past.held_out.is_empty() {
            self.look(0)?;
        }
        let ended = loop {
            let done = self.past.steps();
            if self.pace.patience.is_some_and(|patience| self.past.waited() >= patience) {
                break Ended::Early;
            } else if done >= self.pace.steps {
                break Ended::Done;
            } else if meter::interrupted() {
                break Ended::Interrupted;
            } else if self.pace.most_steps.is_some_and(|most| done - first >= most)
                || self.pace.most_time.is_some_and(|most| start.elapsed() >= most)
            {
                break Ended::Paused;
            }
            match self.step()? {
                Ok(report) => self.after(&report, &meter)?,
                Err(e) if self.past.discarded >= DISCARDS => break Ended::Failed(e),
                Err(_) => {}
            }
        };
        meter.done();
        let Course { trainer, past, order, mut keeper, .. } = self;
        let unsaved = match &mut keeper {
            // What was learnt can still be written where it should go.
            Some(keeper) if keeper.wants_last(&ended) && past.steps() > 0 => keeper.save(&trainer, &order, &past).err(),
            _ => None,
        };
        Ok(Passed { trainer, past, ended, order, keeper, unsaved })
    }

    /// The next step. One that had to be discarded moved nothing but the place in the data.
    fn step(&mut self) -> anyhow::Result<Result<Report, mynah::Error>> {
        // How many rows go through together changes no bit of the step, but for objectives that estimate a threshold from
        // those that do; plans leave these together.
        let step: Vec<&[usize]> = self.order.next_step().concat().iter().map(|&i| &*self.rows[i]).collect();
        let rows: Vec<Vec<usize>> = step.chunks(self.micro).map(<[_]>::concat).collect();
        let batches: Vec<Vec<Example>> =
            rows.iter().map(|rows| rows.iter().map(|&i| self.train[i].clone()).collect()).collect();
        let slices: Vec<&[Example]> = batches.iter().map(Vec::as_slice).collect();
        let start = Instant::now();
        let report = self.trainer.step(&slices);
        self.past.seconds += start.elapsed().as_secs_f64();
        Ok(match report {
            Ok(report) => {
                let Report { step, loss, grad_norm, lr, tokens, .. } = report;
                let line = serde_json::to_string(&Step { step, loss, grad_norm, lr, tokens })? + "\n";
                if let Some(log) = &mut self.log {
                    log.write_all(line.as_bytes()).context("write the log")?;
                }
                self.past.log += &line;
                self.past.losses.push(loss);
                self.past.tokens += tokens;
                self.past.discarded = 0;
                Ok(report)
            }
            Err(e) => {
                self.past.discarded += 1;
                out::say(&format!("{e} ({})", self.guilty(&rows.concat())));
                Err(e)
            }
        })
    }

    /// Where the rows of a discarded step stand: those whose own loss is not finite or, if all are, every one.
    fn guilty(&mut self, rows: &[usize]) -> String {
        let mut finite = |i: usize| {
            self.trainer.assess(std::slice::from_ref(&self.train[i])).is_ok_and(|found| found.loss.is_finite())
        };
        let found: Vec<usize> = rows.iter().copied().filter(|&i| !finite(i)).collect();
        let named = if found.is_empty() { rows } else { &found };
        places(named, self.train)
    }

    /// Looks at the held-out rows, saves and shows, where it is time to.
    fn after(&mut self, report: &Report, meter: &Meter) -> anyhow::Result<()> {
        let step = report.step;
        let mut improved = false;
        if step.is_multiple_of(self.pace.look) || step == self.pace.steps {
            self.look(step)?;
            improved = self.past.best().is_some_and(|best| best.0 == step);
            if improved && self.pace.patience.is_some() {
                self.past.best_file = Some((self.encode)(&self.trainer, &self.past)?);
            }
        }
        if let Some(keeper) = &mut self.keeper
            && step < self.pace.steps
            && keeper.due(step, improved)
            && let Err(e) = keeper.save(&self.trainer, &self.order, &self.past)
        {
            // What was saved before is as it was, and the next time may go well.
            out::say(&format!("no checkpoint of step {step}: {}", out::why(&e)));
        }
        meter.show(step, || {
            let held = self.past.held_out.last().map_or(String::new(), |(_, loss)| format!("  held out {loss:.3}"));
            let memory = meter::peak_rss().map_or(String::new(), |n| format!("  peak {}", out::bytes(n)));
            format!("loss {:.3}{held}  {:.0} tokens/s{memory}", report.loss, self.past.tokens_per_second())
        });
        Ok(())
    }

    fn look(&mut self, step: u64) -> anyhow::Result<()> {
        if self.eval.is_empty() {
            return Ok(());
        }
        let (mut sum, mut counted) = (0.0, 0);
        for row in self.eval {
            let (loss, n) = self.trainer.evaluate(std::slice::from_ref(row))?;
            sum += loss;
            counted += n;
        }
        self.past.held_out.push((step, sum / counted as f64));
        Ok(())
    }
}

/// Which rows these are, for eyes: the lines they were read from, or their numbers.
pub fn places(rows: &[usize], examples: &[Example]) -> String {
    let lines: Option<Vec<usize>> = rows.iter().map(|&i| examples[i].line).collect();
    let (what, from, numbers) = match lines {
        Some(lines) => ("line", "", lines),
        None => ("row", ", counted from 0", rows.to_vec()),
    };
    let list: Vec<String> = numbers.iter().map(usize::to_string).collect();
    format!("{what}{} {}{from}", if list.len() == 1 { "" } else { "s" }, list.join(", "))
}

impl Past {
    /// Of all steps.
    pub fn tokens_per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.tokens as f64 / self.seconds } else { 0.0 }
    }

    /// Where an adapter comes from, for its file.
    pub fn provenance(&self, trainer: &Trainer, data: &[u8]) -> Provenance {
        Provenance {
            objective: match trainer.kind().name {
                "sft" => "next token".into(),
                name => name.into(),
            },
            data: blake3::hash(data).to_hex().to_string(),
            steps: self.steps(),
            first_loss: self.losses.first().copied(),
            last_loss: self.losses.last().copied(),
        }
    }
}

impl Passed<'_> {
    /// Where the result could not be written: a checkpoint of it, and what to do next.
    pub fn rescue(&mut self) -> anyhow::Error {
        let saved = self.keeper.as_mut().map(|k| (k.save(&self.trainer, &self.order, &self.past), k.command()));
        match saved {
            Some((Ok(()), Some(command))) => anyhow!("what was learnt is in a checkpoint; {command} -o FILE writes it"),
            Some((Err(e), Some(command))) => e.context(format!("{command} -o FILE goes on from the last checkpoint")),
            Some((Err(e), None)) => e.context("and there is no checkpoint"),
            _ => anyhow!("and there is no checkpoint"),
        }
    }

    pub fn summary(&self, adapter_bytes: Option<usize>) -> Summary {
        let Past { losses, held_out, .. } = &self.past;
        // What is saved is the best if the best was looked for, else what came last.
        let saved = self.past.best_file.as_ref().and(self.past.best());
        let last = held_out.last().copied().filter(|(step, _)| *step == self.past.steps());
        Summary {
            steps: self.past.steps(),
            parameters: self.trainer.parameters(),
            loss_first: losses.first().copied(),
            loss_last: losses.last().copied(),
            eval_before: held_out.first().map(|look| look.1),
            eval_after: saved.or(last).map(|look| look.1),
            best_step: self.past.best().map(|look| look.0),
            adapter_bytes,
            tokens_per_second: self.past.tokens_per_second(),
            seconds: self.past.seconds,
            peak_rss_bytes: meter::peak_rss(),
            interrupted: matches!(self.ended, Ended::Interrupted),
            ended: self.ended.name(),
        }
    }

    /// The curve and the figures, for eyes.
    pub fn show(&self, summary: &Summary) {
        out::say(plot::curve(&self.past.losses, &self.past.held_out).trim_end());
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
