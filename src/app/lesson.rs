//! The loop around a trainer, a unit of work a call.

use super::Mynah;
use super::data::{RowNames, Rows};
use super::history::History;
use super::method::Method;
use super::output::{self, short};
use super::prepare::{Ratios, Weighing, lacks_reference};
use super::settings::Settings;
use crate::adapter::{Adapter, Ready};
use crate::bytes::{Bytes, Limits};
use crate::container::head::Head;
use crate::decode::Stop;
use crate::error::{Error, Result};
use crate::train::data::{self, Order};
use crate::train::objective::Shape;
use crate::train::{Checkpoint, Example, Report, Trainer, reference};
#[cfg(feature = "std")]
use std::path::Path;
use std::prelude::v1::*;
use std::sync::Arc;

/// A lesson fails after this number of discarded steps in a row.
pub const DISCARDS: u64 = 3;

/// What one call of [`Lesson::next`] did.
///
/// ```
/// # fn main() -> mynah::Result<()> {
/// # #[cfg(feature = "base")] {
/// use mynah::{Event, Mynah};
///
/// let mynah = Mynah::embedded()?;
/// let mut lesson = mynah.lesson("lora").steps(2).context(64).held_out(0.1).text(mynah::base::NOTES)?;
/// let (mut steps, mut evaluations) = (0, 0);
/// for event in &mut lesson {
///     match event? {
///         Event::Step(report) => steps = report.step,
///         Event::Evaluated { loss, .. } => evaluations += u32::from(loss.is_finite()),
///         Event::Discarded { error, rows } => eprintln!("{rows} left out: {error}"),
///         _ => {} // progress, for a bar
///     }
/// }
/// assert_eq!((steps, evaluations), (2, 3)); // evaluated before the first step, and here after each
/// # }
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A row was prepared or evaluated.
    Progress {
        /// What for.
        work: Work,
        /// Rows done.
        done: u64,
        /// All rows.
        total: u64,
    },
    /// All rows have the weights that follow from their prompts.
    Weighed(Ratios),
    /// The held-out rows were evaluated, all of them.
    Evaluated {
        /// Steps done before.
        step: u64,
        /// The mean loss.
        loss: f64,
        /// Whether this is the lowest of the lesson, but for the one before the first step.
        best: bool,
    },
    /// An optimiser step was done.
    Step(Report),
    /// A step was not done: neither parameters nor moments have moved, and the next step takes the next rows.
    Discarded {
        /// Why.
        error: Error,
        /// The rows whose own loss is not finite or, if none is alone to blame, all rows of the step.
        rows: RowNames,
    },
}

/// The work of a call of [`Lesson::next`].
///
/// ```
/// # fn main() -> mynah::Result<()> {
/// # #[cfg(feature = "base")] {
/// # use mynah::{Mynah, app::Work};
/// # let mynah = Mynah::embedded()?;
/// let mut lesson = mynah.lesson("lora").held_out(0.0).steps(1).context(64).text(mynah::base::NOTES)?;
/// assert_eq!(lesson.upcoming(), Some(Work::Step)); // time this call, or write what it will do
/// lesson.next().transpose()?;
/// assert_eq!(lesson.upcoming(), None);
/// # }
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Work {
    /// A row's prompt is embedded, for density ratios.
    Weigh,
    /// A row's log-probability under the reference is computed.
    Reference,
    /// A held-out row is evaluated.
    Evaluate,
    /// An optimiser step is done.
    Step,
}

/// Why a lesson has ended.
///
/// ```
/// # fn main() -> mynah::Result<()> {
/// # #[cfg(feature = "base")] {
/// # use mynah::{Mynah, app::Ended};
/// # let mynah = Mynah::embedded()?;
/// let mut lesson = mynah.lesson("lora").steps(1).context(64).text(mynah::base::NOTES)?;
/// assert_eq!(lesson.ended(), None);
/// for event in &mut lesson {
///     event?;
/// }
/// assert_eq!(lesson.ended(), Some(Ended::Done));
/// assert_eq!(Ended::Done.name(), "done");
/// # }
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All steps are done.
    Done,
    /// The held-out loss did not fall for [`Settings::patience`] evaluations.
    Early,
    /// Somebody stopped it: [`Lesson::cancel`].
    Cancelled,
    /// [`DISCARDS`] steps one after the other were discarded, or [`Lesson::next`] returned an error.
    Failed,
}

impl Ended {
    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            Ended::Done => "done",
            Ended::Early => "early",
            Ended::Cancelled => "cancelled",
            Ended::Failed => "failed",
        }
    }
}

/// An evaluation that has begun.
#[derive(Clone, Copy, Default)]
struct Evaluation {
    rows: usize,
    sum: f64,
    counted: u64,
}

/// A model being taught: an iterator that does one unit of work a call and says what it did.
///
/// Not to call [`Lesson::next`] is to pause. To stop from outside there is [`Lesson::cancel`], or the flag
/// of [`Lesson::stopper`] for other threads. At any moment, in a pause, after the end or on the way, [`Lesson::to_bytes`] is
/// what was learnt, and [`Lesson::checkpoint`] is what [`Mynah::resume`] continues from.
///
/// | what | with rows held out | without |
/// | --- | --- | --- |
/// | [`Lesson::to_bytes`], [`Lesson::save`] | the state with the lowest held-out loss | the last state |
/// | [`Lesson::encode`], [`Lesson::into_adapter`] | the last state | the last state |
/// | [`Lesson::checkpoint`] | the last state, and the file of the best | the last state |
///
/// The order of events is: preparation of rows, an evaluation of the untouched model if rows are held out, then steps with
/// evaluations among them, the last one after the last step.
///
/// It has no clock. Who wants tokens per second tells it how long steps took: [`Lesson::add_seconds`].
///
/// ```
/// # fn main() -> mynah::Result<()> {
/// # #[cfg(feature = "base")] {
/// use mynah::{Lesson, Mynah};
///
/// /// It borrows nothing, so it can live in a struct.
/// struct Page {
///     lesson: Lesson,
/// }
///
/// let mynah = Mynah::embedded()?;
/// let mut page = Page { lesson: mynah.lesson("lora").steps(2).context(64).text(mynah::base::NOTES)? };
/// while let Some(event) = page.lesson.next() {
///     event?; // a unit of work a turn of the program's own loop
/// }
/// assert_eq!(page.lesson.history().losses.len(), 2);
/// # }
/// # Ok(()) }
/// ```
pub struct Lesson {
    mynah: Mynah,
    trainer: Trainer,
    examples: Vec<Example>,
    learnt: usize,
    rows: Vec<Vec<usize>>,
    order: Order,
    micro: usize,
    steps: u64,
    eval_every: u64,
    patience: Option<u64>,
    clock: Option<i64>,
    digest: [u8; 32],
    facts: Head,
    resumed: Option<Checkpoint>,
    weighing: Option<Weighing>,
    /// Rows whose log-probability under the reference may be missing: those from here on.
    referred: usize,
    evaluation: Evaluation,
    history: History,
    stop: Stop,
    /// Whether [`DISCARDS`] steps in a row were discarded.
    gave_up: bool,
    ended: Option<Ended>,
}

impl Lesson {
    pub(super) fn new(
        mynah: Mynah,
        trainer: Trainer,
        settings: Settings,
        rows: Rows,
        order: Order,
        micro: usize,
        steps: u64,
        digest: [u8; 32],
        facts: Head,
        resumed: Option<Checkpoint>,
    ) -> Result<Lesson> {
        let Rows { examples, learnt, rows, .. } = rows;
        let weighing = settings.density_ratios.then(|| Weighing::new(&examples, learnt));
        let mut lesson = Lesson {
            eval_every: settings.eval_every(steps),
            patience: settings.patience,
            clock: settings.clock,
            history: History { codec_from: trainer.config().codec_from(), ..History::default() },
            evaluation: Evaluation::default(),
            stop: Stop::new(),
            gave_up: false,
            ended: None,
            referred: 0,
            mynah,
            trainer,
            examples,
            learnt,
            rows,
            order,
            micro,
            steps,
            digest,
            facts,
            resumed,
            weighing,
        };
        if lesson.weighing.is_none() {
            lesson.restore()?;
        }
        Ok(lesson)
    }

    /// Notes what the rows are and, if there is a checkpoint, makes everything as it was when that was written.
    fn restore(&mut self) -> Result<()> {
        let (learn, held_out) = self.examples.split_at(self.learnt);
        self.facts
            .set("rows to learn", short(data::digest(learn).into()))
            .set("rows held out", short(data::digest(held_out).into()));
        if let Some(saved) = self.resumed.take() {
            self.trainer.resume(&saved, self.mynah.base(), &mut self.order, &self.facts)?;
            let codec_from = self.history.codec_from;
            self.history = History { codec_from, ..History::read(&saved)? };
            if let Ok(known) = saved.note("reference") {
                self.fill_reference(known)?;
            }
        }
        Ok(())
    }

    /// Rows that are learnt.
    pub fn rows(&self) -> &[Example] {
        &self.examples[..self.learnt]
    }

    /// Rows put aside to measure on.
    pub fn held_out(&self) -> &[Example] {
        &self.examples[self.learnt..]
    }

    /// Optimiser steps of the whole lesson.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Optimiser steps in which every row is seen once.
    pub fn steps_per_epoch(&self) -> u64 {
        self.order.steps_per_epoch()
    }

    /// What was done so far.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The kind of the adapter that is trained, or [`Method::WEIGHTS`].
    pub fn method(&self) -> &str {
        self.trainer.adapter_ref().map_or(Method::WEIGHTS, |adapter| adapter.kind().name)
    }

    /// What does the steps.
    pub fn trainer(&self) -> &Trainer {
        &self.trainer
    }

    /// The adapter as it is, if one is trained.
    pub fn adapter(&self) -> Option<&dyn Adapter> {
        self.trainer.adapter_ref()
    }

    /// The trained adapter as it is, ready to be attached, if one is trained.
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # let mynah = mynah::Mynah::embedded()?;
    /// let mut lesson = mynah.lesson("lora").steps(1).context(64).text(mynah::base::NOTES)?;
    /// lesson.next().transpose()?;
    /// let adapter = lesson.into_adapter().expect("an adapter was trained"); // without a file
    /// let said = mynah.generation().attach(adapter, 1.0)?.limit(4).complete("Rain")?.finish()?;
    /// assert!(said.ids.len() <= 4);
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn into_adapter(self) -> Option<Arc<Ready>> {
        self.trainer.into_adapter()
    }

    /// Why it has ended, once [`Lesson::next`] has returned `None` or an error.
    pub fn ended(&self) -> Option<Ended> {
        self.ended
    }

    /// What the next call of [`Lesson::next`] will do; `None` if that will be the end.
    pub fn upcoming(&self) -> Option<Work> {
        self.next_work().ok()
    }

    fn next_work(&self) -> core::result::Result<Work, Ended> {
        if let Some(ended) = self.ended {
            return Err(ended);
        }
        let stopped = self.stop.pulled();
        let begun = self.weighing.is_none() && self.next_reference().is_none();
        if begun && !self.evaluates() {
            if self.gave_up {
                return Err(Ended::Failed);
            }
            if self.patience.is_some_and(|patience| self.history.waited() >= patience) {
                return Err(Ended::Early);
            }
            if self.history.steps() >= self.steps {
                return Err(Ended::Done);
            }
        }
        if stopped {
            return Err(Ended::Cancelled);
        }
        Ok(match () {
            () if self.weighing.is_some() => Work::Weigh,
            () if !begun => Work::Reference,
            () if self.evaluates() => Work::Evaluate,
            () => Work::Step,
        })
    }

    /// The next row whose log-probability under the reference is missing.
    fn next_reference(&self) -> Option<usize> {
        let all = if self.trainer.kind().reference { &self.examples[self.referred..] } else { &[] };
        all.iter().position(lacks_reference).map(|i| i + self.referred)
    }

    /// Whether the held-out rows are to be evaluated before the next step.
    fn evaluates(&self) -> bool {
        let (steps, last) = (self.history.steps(), self.history.held_out.last());
        let due = steps == 0 || steps.is_multiple_of(self.eval_every) || steps == self.steps;
        due && self.learnt < self.examples.len() && last.is_none_or(|(step, _)| *step != steps)
    }

    /// Stops it: [`Lesson::next`] does no more work and returns `None`. Nothing is lost, and a checkpoint continues here.
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # use mynah::{Mynah, app::Ended};
    /// # let mynah = Mynah::embedded()?;
    /// let mut lesson = mynah.lesson("lora").held_out(0.0).steps(1000).context(64).text(mynah::base::NOTES)?;
    /// lesson.next().transpose()?;
    /// lesson.cancel();
    /// assert!(lesson.next().is_none());
    /// assert_eq!(lesson.ended(), Some(Ended::Cancelled));
    /// let so_far = lesson.to_bytes()?; // what one step has taught
    /// assert!(mynah.ready(so_far).is_ok());
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn cancel(&self) {
        self.stop.pull();
    }

    /// What other threads pull to the same end, between two calls of [`Lesson::next`] or during one, which it lets finish.
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # let mynah = mynah::Mynah::embedded()?;
    /// let mut lesson = mynah.lesson("lora").steps(1000).text(mynah::base::NOTES)?;
    /// let stop = lesson.stopper();
    /// std::thread::spawn(move || stop.pull()); // when somebody presses a button
    /// for event in &mut lesson {
    ///     event?;
    /// }
    /// assert_eq!(lesson.ended(), Some(mynah::app::Ended::Cancelled));
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn stopper(&self) -> Stop {
        self.stop.clone()
    }

    /// Says how long the last step took. That enters nothing but [`History::seconds`].
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # use mynah::{Event, Mynah};
    /// # let mynah = Mynah::embedded()?;
    /// let mut lesson = mynah.lesson("lora").steps(2).context(64).text(mynah::base::NOTES)?;
    /// loop {
    ///     let start = std::time::Instant::now();
    ///     let Some(event) = lesson.next() else { break };
    ///     if let Event::Step(_) = event? {
    ///         lesson.add_seconds(start.elapsed().as_secs_f64());
    ///     }
    /// }
    /// assert!(lesson.history().tokens_per_second() > 0.0);
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn add_seconds(&mut self, seconds: f64) {
        if seconds.is_finite() && seconds > 0.0 {
            self.history.seconds += seconds;
        }
    }

    fn work(&mut self, work: Work) -> Result<Event> {
        self.mynah.model.check()?;
        match work {
            Work::Weigh => self.weigh(),
            Work::Reference => self.refer(),
            Work::Evaluate => self.evaluate(),
            Work::Step => self.step(),
        }
    }

    fn weigh(&mut self) -> Result<Event> {
        let Some(weighing) = &mut self.weighing else { return Err(Error::invalid("lesson", "no row to weigh")) };
        if weighing.next(&mut self.trainer, &self.examples)? {
            let (done, total) = weighing.progress();
            return Ok(Event::Progress { work: Work::Weigh, done, total });
        }
        let weighed = self.weighing.take().map(|weighing| weighing.finish(&mut self.examples));
        let ratios = weighed.unwrap_or_else(|| Err(Error::invalid("lesson", "no row to weigh")))?;
        self.restore()?;
        Ok(Event::Weighed(ratios))
    }

    fn refer(&mut self) -> Result<Event> {
        if let Some(i) = self.next_reference() {
            self.trainer.fill_reference_logps(&mut self.examples[i..=i])?;
            self.referred = i + 1;
        }
        let total = self.examples.len() as u64;
        Ok(Event::Progress { work: Work::Reference, done: self.referred as u64, total })
    }

    fn evaluate(&mut self) -> Result<Event> {
        let step = self.history.steps();
        let all = self.examples.len() - self.learnt;
        let row = self.learnt + self.evaluation.rows;
        // Queries choose among the passages of all held-out rows.
        let whole = self.trainer.kind().shape == Shape::Contrast;
        let together = if whole { all } else { 1 };
        let (loss, n) = self.trainer.evaluate(&self.examples[row..row + together])?;
        let Evaluation { rows, sum, counted } = &mut self.evaluation;
        (*rows, *sum, *counted) = (*rows + together, *sum + loss, *counted + n);
        if *rows < all {
            return Ok(Event::Progress { work: Work::Evaluate, done: *rows as u64, total: all as u64 });
        }
        let loss = *sum / *counted as f64;
        self.evaluation = Evaluation::default();
        self.history.held_out.push((step, loss));
        let best = self.history.best().is_some_and(|best| best.0 == step);
        if best {
            self.history.best_file = Some(self.encode()?);
        }
        Ok(Event::Evaluated { step, loss, best })
    }

    /// The next step. One that had to be discarded moved nothing but the place in the data.
    fn step(&mut self) -> Result<Event> {
        // How many rows go through together changes no bit of the step, but for objectives that estimate a threshold from
        // those that do; plans leave these together.
        let step: Vec<&[usize]> = self.order.next_step().concat().iter().map(|&i| &*self.rows[i]).collect();
        let rows: Vec<Vec<usize>> = step.chunks(self.micro).map(<[_]>::concat).collect();
        let batches: Vec<Vec<Example>> =
            rows.iter().map(|rows| rows.iter().map(|&i| self.examples[i].clone()).collect()).collect();
        self.referred = self.examples.len();
        let slices: Vec<&[Example]> = batches.iter().map(Vec::as_slice).collect();
        match self.trainer.step(&slices) {
            Ok(report) => {
                self.history.step(&report)?;
                Ok(Event::Step(report))
            }
            // The step is at fault, not the system: the next one may do better.
            Err(error @ Error::Invalid { .. }) => {
                self.history.discarded += 1;
                self.gave_up = self.history.discarded >= DISCARDS;
                Ok(Event::Discarded { error, rows: self.not_finite(&rows.concat()) })
            }
            Err(error) => Err(error),
        }
    }

    /// Those rows whose own loss is not finite or, if there are none, all of them.
    fn not_finite(&mut self, rows: &[usize]) -> RowNames {
        let mut finite = |i: usize| {
            self.trainer.assess(core::slice::from_ref(&self.examples[i])).is_ok_and(|found| found.loss.is_finite())
        };
        let found: Vec<usize> = rows.iter().copied().filter(|&i| !finite(i)).collect();
        RowNames::new(if found.is_empty() { rows } else { &found }, &self.examples)
    }

    /// The file of what is trained as it is now: an adapter's or, where all weights are trained, a GGUF file in F32.
    ///
    /// # Errors
    /// `Invalid` if a parameter is not finite or too large for the file; `Altered` if the model's file is no longer what it
    /// was.
    pub fn encode(&self) -> Result<Vec<u8>> {
        output::encode(&self.mynah, &self.digest, &self.trainer, &self.history, self.steps_per_epoch())
    }

    /// The file of what was learnt: if rows are held out, of the state with the lowest loss on them, which
    /// [`History::saved`] names; else of the last state, as [`Lesson::encode`].
    ///
    /// # Errors
    /// Those of [`Lesson::encode`].
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # let mynah = mynah::Mynah::embedded()?;
    /// let mut lesson = mynah.lesson("nola").steps(1).context(64).text(mynah::base::NOTES)?;
    /// lesson.next().transpose()?;
    /// let learnt = lesson.to_bytes()?;
    /// let adapter = mynah.adapter(learnt)?;
    /// assert_eq!(adapter.kind().name, "nola");
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        match &self.history.best_file {
            Some(best) => self.mynah.model.check().map(|()| best.clone()),
            None => self.encode(),
        }
    }

    /// Writes [`Lesson::to_bytes`] into a file, whole or not at all.
    ///
    /// # Errors
    /// Those of [`Lesson::encode`] and [`crate::bytes::map::replace`].
    ///
    /// ```no_run
    /// # let mynah = mynah::Mynah::open("smollm2.gguf")?;
    /// let mut lesson = mynah.lesson("nola").file("notes.txt")?;
    /// for event in &mut lesson {
    ///     event?;
    /// }
    /// lesson.save("notes.mynah")?;
    /// # Ok::<(), mynah::Error>(())
    /// ```
    #[cfg(feature = "std")]
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        crate::bytes::map::replace(path.as_ref(), &self.to_bytes()?)
    }

    /// The bytes of a checkpoint, from which [`Mynah::resume`] continues as if nothing had happened.
    ///
    /// # Errors
    /// `Invalid` while rows are weighed, when nothing is there to be continued, and for a parameter that is not finite.
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # let (mynah, notes) = (mynah::Mynah::embedded()?, "Rain at Gull Rock, and tea with the parrot after it.");
    /// let begin = || mynah.lesson("lora").steps(3).text(notes);
    /// let mut whole = begin()?;
    /// for event in &mut whole {
    ///     event?;
    /// }
    ///
    /// let mut first = begin()?;
    /// first.next().transpose()?;
    /// let saved = first.checkpoint()?;
    /// let mut second = mynah.resume(saved)?.steps(3).text(notes)?;
    /// for event in &mut second {
    ///     event?;
    /// }
    /// assert_eq!(second.to_bytes()?, whole.to_bytes()?); // the interruption changes no byte
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn checkpoint(&self) -> Result<Vec<u8>> {
        self.checkpoint_with(&[])
    }

    /// The same with sections of the caller's own, for [`Checkpoint::note`].
    ///
    /// # Errors
    /// Those of [`Lesson::checkpoint`]; `Invalid` for a name that is not one to fourteen characters of `a-z 0-9 . _ -`, or
    /// that is taken.
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # use mynah::{Mynah, bytes::Limits, train::Checkpoint};
    /// # let mynah = Mynah::embedded()?;
    /// let lesson = mynah.lesson("lora").steps(4).text("Rain at Gull Rock, and tea.")?;
    /// let saved = lesson.checkpoint_with(&[("title", b"Tuesday's notes")])?;
    /// let saved = Checkpoint::read(saved.into(), &Limits::default())?;
    /// assert_eq!(&*saved.note("title")?, b"Tuesday's notes");
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn checkpoint_with(&self, notes: &[(&str, &[u8])]) -> Result<Vec<u8>> {
        if self.weighing.is_some() {
            return Err(Error::invalid("checkpoint", "rows are still being weighed"));
        }
        let mut own = self.history.notes();
        own.extend(self.clock.map(|clock| ("clock", clock.to_le_bytes().to_vec().into())));
        // Of all weights the reference is gone after the first step, so what it said is saved.
        let gone = self.needs_reference() && self.trainer.adapter_ref().is_none();
        own.extend(gone.then(|| ("reference", self.reference_file().into())));
        let mut all: Vec<(&str, &[u8])> = own.iter().map(|(name, bytes)| (*name, &**bytes)).collect();
        for &(name, bytes) in notes {
            let spelt = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"._-".contains(&c);
            if !(1..=14).contains(&name.len()) || !name.bytes().all(spelt) {
                return Err(Error::invalid("note", format!("{name:?} is no name of one to 14 of a-z 0-9 . _ -")));
            }
            // These may come later.
            if ["best", "clock", "reference"].contains(&name) || all.iter().any(|(taken, _)| *taken == name) {
                return Err(Error::invalid("note", format!("the name {name} is taken")));
            }
            all.push((name, bytes));
        }
        self.trainer.checkpoint(self.mynah.base(), &self.order, &self.facts, &all)
    }

    /// Whether the objective compares with a reference, the model without what is trained, of which log-probabilities must
    /// be known.
    pub fn needs_reference(&self) -> bool {
        self.trainer.kind().reference
    }

    /// Rows whose log-probability under the reference is not known yet.
    pub fn missing_reference(&self) -> usize {
        if self.needs_reference() { self.examples.iter().filter(|row| lacks_reference(row)).count() } else { 0 }
    }

    /// The log-probabilities of the rows under the reference, as far as they are known, as a file for later lessons on the
    /// same rows.
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # let mynah = mynah::Mynah::embedded()?;
    /// let pairs = r#"{"prompt": "Tea?", "chosen": " Tea.", "rejected": " Soup, and a walk."}"#;
    /// let dpo = || mynah::train::objective::Spec::new("dpo");
    /// let mut lesson = mynah.lesson("lora").objective(dpo()).steps(1).lines(pairs)?;
    /// assert_eq!(lesson.missing_reference(), 1);
    /// lesson.next().transpose()?; // computes it
    /// let file = lesson.reference_file();
    ///
    /// let mut later = mynah.lesson("lora").objective(dpo()).steps(1).lines(pairs)?;
    /// later.fill_reference(file)?;
    /// assert_eq!(later.missing_reference(), 0);
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn reference_file(&self) -> Vec<u8> {
        reference::to_bytes(&self.trainer.reference(self.mynah.base()), &self.examples)
    }

    /// Takes from such a file what is not known yet. Nothing changes if the file is of another base or of other rows.
    ///
    /// # Errors
    /// Those of [`reference::fill`].
    pub fn fill_reference(&mut self, file: impl Into<Bytes>) -> Result<()> {
        let base = self.trainer.reference(self.mynah.base());
        reference::fill(file.into(), &base, &mut self.examples, &Limits::default())
    }
}

impl Iterator for Lesson {
    type Item = Result<Event>;

    /// Does one unit of work. After an error the lesson has ended; what was learnt before it can still be saved.
    fn next(&mut self) -> Option<Result<Event>> {
        let work = match self.next_work() {
            Ok(work) => work,
            Err(ended) => {
                self.ended = Some(ended);
                return None;
            }
        };
        let event = self.work(work);
        if event.is_err() {
            self.ended = Some(Ended::Failed);
        }
        Some(event)
    }
}
