//! A run: the loop around a lesson, with its clock, its log, its progress, and what it leaves behind.

use super::resume::Saver;
use super::sample::Sample;
use crate::meter::{self, Meter};
use crate::{out, plot};
use anyhow::{Context, anyhow};
use mynah::app::{Ended, Event, Lesson, Method, Work};
use mynah::train::Report;
use serde::Serialize;
use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

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
    pub saved_step: u64,
    pub adapter_bytes: Option<usize>,
    pub tokens_per_second: f64,
    pub seconds: f64,
    pub peak_rss_bytes: Option<u64>,
    pub interrupted: bool,
    pub ended: &'static str,
    /// What was guessed of the data.
    pub notes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<Sample>,
}

/// What a lesson does next; Ctrl-C is its end.
pub fn next(lesson: &mut Lesson) -> Option<mynah::Result<Event>> {
    if meter::interrupted() {
        lesson.cancel();
    }
    lesson.next()
}

/// A run, or a part of it.
pub struct Run {
    pub lesson: Lesson,
    pub log: Option<File>,
    pub saver: Option<Saver>,
    /// Steps after which this part pauses.
    pub most_steps: Option<u64>,
    /// Time after which it does.
    pub most_time: Option<Duration>,
    /// Why the step before was discarded, if it was.
    pub discarded: Option<mynah::Error>,
    /// What was guessed of the data.
    pub notes: Vec<String>,
}

impl Run {
    /// All steps, with nothing written.
    pub fn new(lesson: Lesson) -> Run {
        Run { lesson, log: None, saver: None, most_steps: None, most_time: None, discarded: None, notes: Vec::new() }
    }

    /// Runs until one of the reasons to end, or to pause.
    pub fn run(&mut self) -> anyhow::Result<()> {
        let meter = Meter::new(self.lesson.steps());
        let (start, first) = (Instant::now(), self.steps());
        let (mut done, mut improved): (Option<Report>, bool) = (None, false);
        loop {
            let work = self.lesson.upcoming();
            if let (Some(report), false) = (done, work == Some(Work::Evaluate)) {
                self.after(&report, improved, &meter);
                (done, improved) = (None, false);
            }
            let took = self.steps() - first;
            let over = self.most_steps.is_some_and(|most| took >= most)
                || self.most_time.is_some_and(|most| start.elapsed() >= most);
            if work == Some(Work::Step) && over && !meter::interrupted() {
                break;
            }
            match self.next(work)? {
                Some(Event::Step(report)) => done = Some(report),
                Some(Event::Evaluated { best, .. }) => improved = best,
                Some(Event::Discarded { error, rows }) => {
                    out::say(&format!("{error} ({rows})"));
                    self.discarded = Some(error);
                }
                Some(_) => {}
                None => break,
            }
        }
        meter.done();
        Ok(())
    }

    /// Steps done.
    pub fn steps(&self) -> u64 {
        self.lesson.history().steps()
    }

    /// The next unit of work. Steps are timed, and logged.
    fn next(&mut self, work: Option<Work>) -> anyhow::Result<Option<Event>> {
        let (start, logged) = (Instant::now(), self.lesson.history().log.len());
        let event = next(&mut self.lesson).transpose()?;
        if work == Some(Work::Step) && event.is_some() {
            self.lesson.add_seconds(start.elapsed().as_secs_f64());
        }
        if let Some(log) = &mut self.log {
            log.write_all(&self.lesson.history().log.as_bytes()[logged..]).context("write the log")?;
        }
        Ok(event)
    }

    /// Saves, where it is time to, and shows.
    fn after(&mut self, report: &Report, improved: bool, meter: &Meter) {
        if let Some(saver) = &mut self.saver
            && report.step < self.lesson.steps()
            && saver.due(report.step, improved)
            && let Err(e) = saver.save(&self.lesson)
        {
            // What was saved before is as it was, and the next time may go well.
            out::say(&format!("no checkpoint of step {}: {}", report.step, out::why(&e)));
        }
        let history = self.lesson.history();
        meter.show(report.step, || {
            let held = history.held_out.last().map_or(String::new(), |(_, loss)| format!("  held out {loss:.3}"));
            let memory = meter::peak_rss().map_or(String::new(), |n| format!("  peak {}", out::bytes(n)));
            format!("loss {:.3}{held}  {:.0} tokens/s{memory}", report.loss, history.tokens_per_second())
        });
    }

    /// A last checkpoint, where this end wants one.
    ///
    /// # Errors
    /// Why there is none: what was learnt can still be written where it should go.
    pub fn save_last(&mut self) -> anyhow::Result<()> {
        match &mut self.saver {
            Some(saver) if saver.wants_last(self.lesson.ended()) && self.lesson.history().steps() > 0 => {
                saver.save(&self.lesson)
            }
            _ => Ok(()),
        }
    }

    /// Where the result could not be written: a checkpoint of it, and what to do next.
    pub fn rescue(&mut self) -> anyhow::Error {
        let saved = self.saver.as_mut().map(|s| (s.save(&self.lesson), s.command()));
        match saved {
            Some((Ok(()), Some(command))) => {
                anyhow!("what was learnt is in a checkpoint; `{command} -o FILE` writes it")
            }
            Some((Err(e), Some(command))) => {
                e.context(format!("`{command} -o FILE` continues from the last checkpoint"))
            }
            Some((Err(e), None)) => e.context("and there is no checkpoint"),
            _ => anyhow!("and there is no checkpoint"),
        }
    }

    pub fn summary(&self, adapter_bytes: Option<usize>) -> Summary {
        let history = self.lesson.history();
        let saved = history.saved();
        let losses = history.mean_losses(self.lesson.steps_per_epoch());
        Summary {
            steps: history.steps(),
            parameters: self.lesson.trainer().parameters(),
            loss_first: losses.map(|l| l.0),
            loss_last: losses.map(|l| l.1),
            eval_before: history.held_out.first().map(|at| at.1),
            eval_after: history.held_out.iter().find(|(step, _)| *step > 0 && *step == saved).map(|at| at.1),
            best_step: history.best().map(|at| at.0),
            saved_step: saved,
            adapter_bytes,
            tokens_per_second: history.tokens_per_second(),
            seconds: history.seconds,
            peak_rss_bytes: meter::peak_rss(),
            interrupted: self.lesson.ended() == Some(Ended::Cancelled),
            ended: match self.lesson.ended() {
                Some(Ended::Cancelled) => "interrupted",
                Some(ended) => ended.name(),
                None => "paused",
            },
            notes: self.notes.clone(),
            sample: None,
        }
    }

    /// The curve and the figures, for eyes.
    pub fn show(&self, summary: &Summary) {
        let history = self.lesson.history();
        out::say(plot::curve(&history.losses, &history.held_out).trim_end());
        let pair = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) => format!("{a:.4} → {b:.4}"),
            _ => "-".into(),
        };
        let memory = summary.peak_rss_bytes.map_or("unknown".into(), out::bytes);
        out::say(&format!(
            "{} steps in {:.1} s, {:.0} tokens/s; loss {} (averages); held-out loss {}; peak memory {memory}",
            summary.steps,
            summary.seconds,
            summary.tokens_per_second,
            pair(summary.loss_first, summary.loss_last),
            pair(summary.eval_before, summary.eval_after),
        ));
        if let Some(text) = verdict(&history.held_out, history.saved()).filter(|_| !self.diverged()) {
            out::say(&text);
        }
    }

    /// Whether steps were discarded until the run gave up, or what was learnt is much worse than nothing.
    pub fn diverged(&self) -> bool {
        let history = self.lesson.history();
        let held_out = history.held_out.first().zip(history.best()).map(|(before, best)| (before.1, best.1));
        // The loss of the first step is from before its update.
        let last = history.mean_losses(self.lesson.steps_per_epoch()).map(|losses| losses.1);
        let trained = history.losses.first().copied().zip(last).filter(|_| history.steps() >= FEW);
        let losses = held_out.or(trained);
        let worse = losses.is_some_and(|(before, after)| after.is_nan() || after > WORSE * before);
        self.lesson.ended() == Some(Ended::Failed) || (self.lesson.ended() == Some(Ended::Done) && worse)
    }

    /// What may help a run that diverged; `lr` is the rate that was asked for.
    pub fn slower(&self, lr: Option<f32>) -> String {
        let lr = lr.unwrap_or_else(|| Method::rate(self.lesson.method()));
        // One digit is enough for a proposal.
        let digit = 10f32.powf((lr / 5.0).log10().floor());
        let proposed = (lr / 5.0 / digit).round() * digit;
        format!("try a lower rate: --lr {proposed:e} (it was {lr:e})")
    }
}

/// A loss this many times that of the beginning is worse than nothing.
const WORSE: f64 = 1.5;
/// Losses of fewer steps differ by their rows.
const FEW: u64 = 10;

/// What the held-out losses mean, in plain words. `saved` is the step whose state is saved.
fn verdict(held_out: &[(u64, f64)], saved: u64) -> Option<String> {
    let (before, last) = (held_out.first()?.1, held_out.last()?);
    let best = held_out.iter().find(|(step, _)| *step == saved && *step > 0)?.1;
    let text = match last.0 > saved {
        _ if best >= before => format!(
            "the held-out rows are not predicted better than before; saved step {saved}. More rows, or a lower --lr, may help"
        ),
        true if last.1 > best => format!(
            "after step {saved} the held-out loss got worse ({best:.4} → {:.4}), so step {saved} was saved",
            last.1
        ),
        _ => return None,
    };
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_out_losses_in_words() {
        let say = |losses: &[f64], saved| verdict(&(0..).zip(losses.iter().copied()).collect::<Vec<_>>(), saved);
        assert_eq!(say(&[3.0, 2.0, 1.0], 2), None);
        assert_eq!(say(&[], 2), None);
        assert!(
            say(&[3.0, 2.0, 2.5], 1).unwrap().starts_with("after step 1 the held-out loss got worse (2.0000 → 2.5000)")
        );
        assert!(say(&[3.0, 3.5, 3.6], 1).unwrap().contains("not predicted better"));
    }
}
