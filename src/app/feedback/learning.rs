//! A lesson from marks, a unit of work a call.

use super::{Feedback, HASTE, LearnSettings, MEASURED, OWN_CONTEXT, OWN_TOKENS, Own, WATCHED, attach, read, reader};
use crate::adapter::{self, Provenance, Ready, Stack};
use crate::app::{Mynah, Talk};
use crate::decode::{Sampling, Stop};
use crate::error::{Error, Result};
use crate::train::feedback::{self, Answer, Divergence, ORDINARY, Plan};
use crate::train::{Example, Report};
use std::prelude::v1::*;
use std::sync::Arc;

/// What one call of [`Learning::next`] did.
///
/// ```
/// # fn main() -> mynah::Result<()> {
/// # #[cfg(feature = "base")] {
/// # use mynah::{Mynah, adapter::Spec, app::{Feedback, LearnEvent, LearnSettings}};
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("mine.mynah");
/// # let mut talk = Mynah::embedded()?.generation().limit(12).talk()?;
/// # let mut feedback = Feedback::open(&mut talk, &path, &Spec::new("lora"))?;
/// # let settings = LearnSettings { passes: 1, ..LearnSettings::default() };
/// # talk.say("Tell me a story about a bear.")?.finish()?;
/// feedback.better(&mut talk, "A bear slept.")?;
/// let mut steps = 0;
/// for event in feedback.learn(&talk, &settings)? {
///     if let LearnEvent::Step(report) = event? {
///         steps = report.step;
///     }
/// }
/// assert!(steps > 0);
/// # }
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LearnEvent {
    /// The model answered an ordinary question.
    Answered,
    /// Some rows were assessed, before the first step or behind the last.
    Assessed,
    /// A step was done.
    Step(Report),
    /// The divergence from the base was measured on a row.
    Measured,
}

/// Where it stands.
#[derive(Clone, Copy)]
enum Phase {
    /// Ordinary questions that were answered.
    Own(usize),
    /// Batches that were assessed before the first step.
    Before(usize),
    Steps,
    /// Batches that were assessed behind the last step.
    After(usize),
    /// Rows of which the divergence was measured: of the old adapter first, then of the new one.
    Divergence(usize),
    Over,
}

/// A lesson from marks: an iterator that does one unit of work a call and says what it did. The model answers ordinary
/// questions on its own, if it has not yet. Rows are assessed, steps are done, rows are assessed once more, and the divergence
/// from the base is measured before and after.
///
/// ```
/// # fn main() -> mynah::Result<()> {
/// # #[cfg(feature = "base")] {
/// # use mynah::{Mynah, adapter::Spec, app::{Feedback, LearnSettings}};
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("mine.mynah");
/// # let mut talk = Mynah::embedded()?.generation().limit(12).talk()?;
/// # let mut feedback = Feedback::open(&mut talk, &path, &Spec::new("lora"))?;
/// # let settings = LearnSettings { passes: 1, ..LearnSettings::default() };
/// # talk.say("Tell me a story about a bear.")?.finish()?;
/// feedback.better(&mut talk, "A bear slept.")?;
/// let mut learning = feedback.learn(&talk, &settings)?;
/// while let Some(event) = learning.next() {
///     event?;
///     let (done, total) = learning.progress(); // for a bar
///     assert!(done <= total);
/// }
/// assert!(!learning.steps_left() && learning.finish().is_some());
/// # }
/// # Ok(()) }
/// ```
pub struct Learning {
    mynah: Mynah,
    beneath: Stack,
    /// Gone once the adapter is in safety.
    lesson: Option<feedback::Lesson>,
    /// Own answers; who makes them; how many are wanted.
    own: Own,
    speaker: Option<Talk>,
    wanted: usize,
    watched: Vec<Example>,
    /// What the new file says of itself.
    provenance: Provenance,
    measured: Vec<Example>,
    longest: usize,
    divergence: Option<Divergence>,
    old: Arc<Ready>,
    batches: usize,
    /// Steps, at most.
    limit: u64,
    phase: Phase,
    stop: Stop,
    /// Sums over rows, and their number.
    sums: Sums,
    learnt: Learnt,
}

#[derive(Default)]
struct Sums {
    loss: f64,
    right: f64,
    n: f64,
    nats: f64,
    tokens: u64,
}

/// What was learnt; pairs are before and after.
///
/// ```
/// # fn main() -> mynah::Result<()> {
/// # #[cfg(feature = "base")] {
/// # use mynah::{Mynah, adapter::Spec, app::{Feedback, LearnSettings}};
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("mine.mynah");
/// # let mut talk = Mynah::embedded()?.generation().limit(12).talk()?;
/// # let mut feedback = Feedback::open(&mut talk, &path, &Spec::new("lora"))?;
/// # let settings = LearnSettings { passes: 1, ..LearnSettings::default() };
/// # talk.say("Tell me a story about a bear.")?.finish()?;
/// # feedback.better(&mut talk, "A bear slept.")?;
/// # let mut learning = feedback.learn(&talk, &settings)?;
/// # for event in &mut learning {
/// #     event?;
/// # }
/// let learnt = learning.finish().expect("a step was done");
/// assert!(learnt.loss[1] < learnt.loss[0]);
/// learnt.attach(&mut talk)?; // listen to it before it is kept
/// talk.regenerate()?.finish()?;
/// # }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Learnt {
    /// The name of the objective.
    pub objective: &'static str,
    /// Marks that were learnt.
    pub marks: usize,
    /// Steps that were done.
    pub steps: u64,
    /// The objective's mean loss.
    pub loss: [f64; 2],
    /// The part of the marks that the implicit reward agrees with.
    pub agreement: [f64; 2],
    /// From the base, in nats a token.
    pub divergence: [f64; 2],
    /// How unlikely own answers of the base to ordinary questions are, in nats a token; 0 if none were repeated.
    pub ordinary: [f64; 2],
    beneath: Stack,
    adapter: Option<Arc<Ready>>,
    pub(super) bytes: Vec<u8>,
}

impl Learnt {
    /// The bytes of the adapter's file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// From now on what was learnt speaks: what the file would hold.
    ///
    /// # Errors
    /// Those of [`Talk::replace`].
    pub fn attach(&self, talk: &mut Talk) -> Result<()> {
        let Some(adapter) = &self.adapter else { return Err(Error::invalid("adapter", "nothing was learnt")) };
        attach(talk, &self.beneath, adapter.clone())
    }
}

impl Learning {
    pub(super) fn new(feedback: &Feedback, talk: &Talk, settings: &LearnSettings) -> Result<Learning> {
        let marks = feedback.rows(talk);
        if marks.examples.is_empty() {
            return Err(Error::invalid("marks", "there are none to learn from"));
        }
        let replay = if marks.fresh() == 0 { settings.replay.max(1) } else { settings.replay };
        let rows = marks.lesson(replay, settings.seed);
        let all = || rows.new.iter().chain(&rows.old);
        let measured: Vec<Example> = all().take(MEASURED).cloned().collect();
        let mut lines: Vec<usize> = all().filter_map(|row| row.line).collect();
        lines.sort_unstable();
        lines.dedup();
        let (old, mynah, beneath) = (feedback.read(&feedback.bytes)?, feedback.mynah.clone(), feedback.beneath.clone());
        let &LearnSettings { lr, passes, enough, beta, seed, .. } = settings;
        let plan = Plan { lr: lr.unwrap_or(HASTE * old.kind().rate), passes, enough, beta, seed };
        let lesson = feedback::Lesson::new(mynah.model(), beneath.clone(), old, rows, &plan)?;
        let speaker = mynah.generation().stack(beneath.clone()).sampling(Sampling::greedy());
        let speaker = speaker.context(OWN_CONTEXT).limit(OWN_TOKENS).talk()?.templated(talk.template());
        let wanted = match settings.own.min(lesson.guards()) {
            0 => 0,
            own => ORDINARY.len().min(WATCHED + own),
        };
        let steps = feedback.steps();
        let learnt = Learnt {
            objective: feedback::OBJECTIVE,
            marks: lines.len(),
            steps: 0,
            loss: [0.0; 2],
            agreement: [0.0; 2],
            divergence: [0.0; 2],
            ordinary: [0.0; 2],
            beneath: beneath.clone(),
            adapter: None,
            bytes: Vec::new(),
        };
        Ok(Learning {
            provenance: Provenance {
                objective: feedback::OBJECTIVE.into(),
                data: feedback.journal.digest(),
                steps,
                rope: mynah.model().rope_length().unwrap_or_default().into(),
                base: mynah.model().name().into(),
                format: mynah.model().format().into(),
                ..Provenance::default()
            },
            beneath,
            old: feedback.ready(&feedback.bytes)?,
            longest: measured.iter().map(|e| e.tokens.len()).max().unwrap_or(1),
            batches: lesson.batches() + 1,
            limit: lesson.steps(),
            lesson: Some(lesson),
            own: feedback.own.clone(),
            speaker: Some(speaker),
            wanted,
            watched: Vec::new(),
            divergence: None,
            phase: Phase::Own(0),
            stop: Stop::new(),
            sums: Sums::default(),
            learnt,
            measured,
            mynah,
        })
    }

    /// Steps, at most.
    pub fn steps(&self) -> u64 {
        self.limit
    }

    /// Calls of [`Learning::next`] that are done, and all of them, at most.
    pub fn progress(&self) -> (u64, u64) {
        let (batches, steps, rows) = (self.batches as u64, self.limit, 2 * self.measured.len() as u64);
        let own = self.wanted as u64;
        let total = own + 2 * batches + steps + rows;
        let done = match self.phase {
            Phase::Own(n) => n as u64,
            Phase::Before(batch) => own + batch as u64,
            Phase::Steps => own + batches + self.learnt.steps,
            Phase::After(batch) => own + batches + steps + batch as u64,
            Phase::Divergence(row) => own + 2 * batches + steps + row as u64,
            Phase::Over => total,
        };
        (done, total)
    }

    /// Whether steps may still come.
    pub fn steps_left(&self) -> bool {
        matches!(self.phase, Phase::Own(_) | Phase::Before(_) | Phase::Steps)
    }

    /// A handle that ends the steps, from any thread. What was learnt until then is assessed and measured all the same.
    pub fn stopper(&self) -> Stop {
        self.stop.clone()
    }

    /// What was learnt; none if no step was done, or if it is not over.
    pub fn finish(self) -> Option<Learnt> {
        match self.phase {
            Phase::Over if self.learnt.adapter.is_some() => Some(self.learnt),
            _ => None,
        }
    }

    /// Answers the next ordinary question, if that was not done before; behind the last one the lesson gets them all.
    fn answer(&mut self, i: usize) -> Result<()> {
        let mut own = self.own.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let (Some(speaker), Some(question)) = (&mut self.speaker, ORDINARY.get(i).filter(|_| i == own.len())) {
            speaker.clear();
            let said = match speaker.say(question).and_then(|reply| reply.finish()) {
                Ok(said) => Some(said),
                Err(Error::Limit { .. }) => None, // a context that has no room for it
                Err(e) => return Err(e),
            };
            let row = said.map(|said| {
                let answer = Answer { text: &said.text, ended: said.ended() };
                feedback::own(&reader(&self.mynah, speaker.template()), question, answer)
            });
            own.push(row.and_then(Result::ok));
        }
        Ok(())
    }

    /// The lesson gets the own answers that it wants.
    fn guard(&mut self) -> Result<()> {
        self.speaker = None;
        let own = self.own.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let (watched, repeated) = own[..self.wanted].split_at(WATCHED.min(self.wanted));
        self.watched = watched.iter().flatten().cloned().collect();
        match &mut self.lesson {
            Some(lesson) => lesson.guard(repeated.iter().flatten().cloned().collect()),
            None => Ok(()),
        }
    }

    /// Assesses a batch, or behind the last one own answers; with the last one the loss, and the part of the rows that rewards agree with, are there.
    fn assess(&mut self, batch: usize, which: usize) -> Result<()> {
        let Some(lesson) = &mut self.lesson else { return Ok(()) };
        let (marks, sums) = (self.batches - 1, &mut self.sums);
        if batch == marks {
            let (nats, tokens) = lesson.nats(&self.watched)?;
            self.learnt.ordinary[which] = nats / tokens.max(1) as f64;
            return Ok(());
        }
        let a = lesson.assess(batch)?;
        let rows = a.n as f64;
        (sums.loss, sums.n) = (sums.loss + a.loss * rows, sums.n + rows);
        sums.right += a.rewards.map_or(0.0, |r| r.accuracy) * rows;
        if batch + 1 == marks {
            let Sums { loss, right, n, .. } = core::mem::take(sums);
            (self.learnt.loss[which], self.learnt.agreement[which]) = (loss / n, right / n);
        }
        Ok(())
    }

    /// Spells the adapter's file, and reads it: what speaks and is measured is what that holds.
    fn spell(&mut self) -> Result<()> {
        let Some(lesson) = self.lesson.take() else { return Ok(()) };
        let [first, last] = self.learnt.loss.map(Some);
        self.provenance = Provenance {
            steps: self.provenance.steps + self.learnt.steps,
            first_loss: first,
            last_loss: last,
            ..core::mem::take(&mut self.provenance)
        };
        self.learnt.bytes = adapter::to_bytes(lesson.adapter(), self.mynah.base(), &self.provenance)?;
        drop(lesson);
        let adapter = read(&self.mynah, &self.learnt.bytes)?;
        self.learnt.adapter = Some(self.mynah.model().ready(adapter)?);
        Ok(())
    }

    /// Measures the divergence on a row: of the old adapter on all, then of the new one.
    fn measure(&mut self, i: usize) -> Result<()> {
        let (which, row) = (i / self.measured.len(), i % self.measured.len());
        let divergence = match self.divergence.take().filter(|_| row > 0) {
            Some(divergence) => self.divergence.insert(divergence),
            None => {
                let new = self.learnt.adapter.as_ref().filter(|_| which > 0);
                let adapter = new.unwrap_or(&self.old).clone();
                let fresh = Divergence::new(self.mynah.model(), &self.beneath, adapter, self.longest)?;
                self.divergence.insert(fresh)
            }
        };
        let (nats, tokens) = divergence.of(&self.measured[row])?;
        (self.sums.nats, self.sums.tokens) = (self.sums.nats + nats, self.sums.tokens + tokens);
        if row + 1 == self.measured.len() {
            let Sums { nats, tokens, .. } = core::mem::take(&mut self.sums);
            self.learnt.divergence[which] = nats / tokens.max(1) as f64;
            self.divergence = None;
        }
        Ok(())
    }

    /// The next unit of work; none at the end.
    fn work(&mut self) -> Result<Option<LearnEvent>> {
        if let Phase::Steps = self.phase
            && let Some(lesson) = &mut self.lesson
        {
            if !lesson.over() && !self.stop.pulled() {
                let report = lesson.step()?;
                self.learnt.steps = report.step;
                return Ok(Some(LearnEvent::Step(report)));
            }
            self.phase = if self.learnt.steps == 0 { Phase::Over } else { Phase::After(0) };
        }
        let event = match self.phase {
            Phase::Own(_) if self.stop.pulled() => {
                self.phase = Phase::Over;
                return Ok(None);
            }
            Phase::Own(i) if i < self.wanted => {
                self.answer(i)?;
                self.phase = Phase::Own(i + 1);
                LearnEvent::Answered
            }
            Phase::Own(_) => {
                self.guard()?;
                self.assess(0, 0)?;
                self.phase = Phase::Before(1);
                LearnEvent::Assessed
            }
            Phase::Before(batch) => {
                self.assess(batch, 0)?;
                self.phase = if batch + 1 < self.batches { Phase::Before(batch + 1) } else { Phase::Steps };
                LearnEvent::Assessed
            }
            Phase::After(batch) => {
                self.assess(batch, 1)?;
                self.phase = Phase::After(batch + 1);
                if batch + 1 == self.batches {
                    self.spell()?;
                    self.phase = Phase::Divergence(0);
                }
                LearnEvent::Assessed
            }
            Phase::Divergence(row) => {
                self.measure(row)?;
                self.phase = if row + 1 < 2 * self.measured.len() { Phase::Divergence(row + 1) } else { Phase::Over };
                LearnEvent::Measured
            }
            Phase::Steps | Phase::Over => return Ok(None),
        };
        Ok(Some(event))
    }
}

impl Iterator for Learning {
    type Item = Result<LearnEvent>;

    /// Does one unit of work. After an error it is over, and nothing was learnt.
    fn next(&mut self) -> Option<Result<LearnEvent>> {
        let event = self.work();
        if event.is_err() {
            (self.phase, self.lesson, self.learnt.adapter) = (Phase::Over, None, None);
        }
        event.transpose()
    }
}
