//! What somebody thinks of answers, and what an adapter learns from it.

mod learning;

pub use learning::{LearnEvent, Learning, Learnt};

use super::{Mynah, Talk};
use crate::adapter::{self, Adapter, Fit, Provenance, Ready, Spec, Stack};
use crate::bytes::{Bytes, Limits, map};
use crate::error::{Error, Result};
use crate::text::chat::{Message, Template};
use crate::train::Example;
use crate::train::data::{Options, Reader};
use crate::train::feedback::{Answer, Marks, ORDINARY, Plan, Verdict};
use crate::train::journal::Journal;
use serde_json::Value;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::prelude::v1::*;
use std::sync::{Arc, Mutex};

/// The marks, and the adapter before the one that was kept last: what their files are called behind the adapter's name.
const MARKS: &str = ".feedback.jsonl";
const BEFORE: &str = ".before";

/// Most rows on which the divergence from the base is measured.
const MEASURED: usize = 32;
/// The usual learning rate of a kind is for many steps; a lesson has few.
const HASTE: f32 = 4.0;
/// Most tokens of a conversation that an own answer is made in, and of that answer.
const OWN_CONTEXT: usize = 512;
const OWN_TOKENS: usize = 24;
/// Own answers that are not repeated: by these it is measured how other answers change.
const WATCHED: usize = 8;

/// An adapter that learns from what somebody thinks of answers.
///
/// Beside the adapter's file are the marks, in `ADAPTER.feedback.jsonl`, a row of data each, and in `ADAPTER.before` the adapter
/// before the one that was kept last. Files are replaced whole or not at all, and a mark is on the disk once it is noted.
/// Nothing is decided here: what was learnt speaks in a conversation when the caller attaches it, and is in the file when the
/// caller keeps it.
///
/// ```
/// # fn main() -> mynah::Result<()> {
/// # #[cfg(feature = "base")] {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("mine.mynah");
/// # use mynah::{Mynah, adapter::Spec, app::{Feedback, LearnSettings}};
/// let mut talk = Mynah::embedded()?.talk()?;
/// let mut feedback = Feedback::open(&mut talk, &path, &Spec::new("lora"))?; // "mine.mynah"
/// talk.say("Tell me a story about a bear.")?.finish()?;
/// feedback.better(&mut talk, "A bear slept.")?; // or good, or bad
///
/// let settings = LearnSettings { passes: 2, ..LearnSettings::default() };
/// let mut learning = feedback.learn(&talk, &settings)?;
/// for event in &mut learning {
///     event?; // progress, a step or a part of a measurement each
/// }
/// if let Some(learnt) = learning.finish() {
///     learnt.attach(&mut talk)?; // to look at it
///     println!("the loss was {} and is {}", learnt.loss[0], learnt.loss[1]);
///     feedback.keep(&learnt)?; // or feedback.attach(&mut talk) to go back
/// }
/// # }
/// # Ok(()) }
/// ```
pub struct Feedback {
    mynah: Mynah,
    home: Home,
    /// The adapter's file as it is.
    bytes: Vec<u8>,
    created: bool,
    journal: Journal,
    /// What is attached below.
    beneath: Stack,
    /// The last answer that a text took the place of.
    fixed: Option<Fixed>,
    /// Own answers to ordinary questions, made once.
    own: Own,
}

/// Where an adapter and the one before it are kept.
enum Home {
    /// In a file, and in another beside it.
    Files(PathBuf),
    /// In memory; none before the first was kept.
    Memory(Option<Vec<u8>>),
}

impl Home {
    fn named(&self, error: Error) -> Error {
        match self {
            Home::Files(path) => error.in_file(path.to_string_lossy()),
            Home::Memory(_) => error,
        }
    }

    /// Looks whether the file holds what it held: another program may have written it.
    fn check(&self, held: &[u8]) -> Result<()> {
        match self {
            Home::Files(path) if path.exists() && map::read(path, Limits::default().file)? != held => {
                Err(self.named(Error::Altered { how: "was written to by another" }))
            }
            _ => Ok(()),
        }
    }

    /// The adapter before the one that was kept last.
    fn before(&self) -> Result<Option<Vec<u8>>> {
        let path = match self {
            Home::Files(path) => beside(path, BEFORE),
            Home::Memory(before) => return Ok(before.clone()),
        };
        let there = path.try_exists().map_err(|source| Error::Io { doing: "open", source });
        match there.map_err(|e| e.in_file(path.to_string_lossy()))? {
            true => map::read(&path, Limits::default().file).map(Some),
            false => Ok(None),
        }
    }

    fn set(&self, now: &[u8]) -> Result<()> {
        if let Home::Files(path) = self { map::replace(path, now) } else { Ok(()) }
    }

    fn set_before(&mut self, before: &[u8]) -> Result<()> {
        match self {
            Home::Files(path) => map::replace(&beside(path, BEFORE), before),
            Home::Memory(held) => {
                *held = Some(before.to_vec());
                Ok(())
            }
        }
    }
}

/// Own answers to the first of [`ORDINARY`]; none where there is no room for one.
type Own = Arc<Mutex<Vec<Option<Example>>>>;

/// An answer that a text took the place of.
struct Fixed {
    before: Vec<Message>,
    text: String,
    answer: String,
    ended: bool,
}

/// A mark of the file.
///
/// ```
/// # fn main() -> mynah::Result<()> {
/// # #[cfg(feature = "base")] {
/// # use mynah::{Mynah, adapter::Spec, app::Feedback};
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("mine.mynah");
/// # let mut talk = Mynah::embedded()?.generation().limit(12).talk()?;
/// # let mut feedback = Feedback::open(&mut talk, &path, &Spec::new("lora"))?;
/// let said = talk.say("Tell me a story about a bear.")?.finish()?;
/// feedback.better(&mut talk, "A bear slept.")?;
/// let mark = &feedback.list()[0];
/// assert_eq!((&*mark.answer, mark.instead.as_deref()), (&*said.text, Some("A bear slept.")));
/// assert_eq!(mark.prompt[0].content, "Tell me a story about a bear.");
/// # }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Noted {
    /// Its number, from 1: its line in the file.
    pub number: usize,
    /// The conversation up to the answer.
    pub prompt: Vec<Message>,
    /// The answer.
    pub answer: String,
    /// What is better than the answer, if that was said.
    pub instead: Option<String>,
    /// Whether the answer was good.
    pub good: bool,
    /// Whether the adapter has learnt it.
    pub learnt: bool,
}

/// What somebody thinks of the last answer of a conversation.
///
/// ```
/// # fn main() -> mynah::Result<()> {
/// # #[cfg(feature = "base")] {
/// # use mynah::{Mynah, adapter::Spec, app::{Feedback, Mark}};
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("mine.mynah");
/// # let mut talk = Mynah::embedded()?.generation().limit(12).talk()?;
/// # let mut feedback = Feedback::open(&mut talk, &path, &Spec::new("lora"))?;
/// talk.say("Tell me a story about a bear.")?.finish()?;
/// feedback.mark(&mut talk, Mark::Better("A bear slept."))?; // the same as feedback.better(&mut talk, "A bear slept.")
/// assert_eq!(feedback.marks(), 1);
/// # }
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark<'a> {
    /// It was good; better than those before it, if it was regenerated.
    Good,
    /// It was not.
    Bad,
    /// This would have been better.
    Better(&'a str),
}

/// How to learn from marks.
///
/// ```
/// use mynah::app::LearnSettings;
///
/// let quick = LearnSettings { passes: 1, lr: Some(1e-3), ..LearnSettings::default() };
/// assert_eq!(quick.replay, 16);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct LearnSettings {
    /// Learning rate; none is four times what is usual for the kind of adapter.
    pub lr: Option<f32>,
    /// How often every new mark is seen, at most.
    pub passes: u64,
    /// It is over early when marked answers are this far from what was not wanted, as a loss that is 0.69 at first; 0 is
    /// never.
    pub enough: f64,
    /// How strongly rewards follow log-probabilities; none is usual for the objective.
    pub beta: Option<f64>,
    /// Most examples that were learnt before and are taken again.
    pub replay: usize,
    /// Most own answers to ordinary questions, which the model repeats so that other answers stay as they are; 0 is none.
    pub own: usize,
    /// The order of rows follows from it.
    pub seed: u64,
}

impl Default for LearnSettings {
    fn default() -> Self {
        let Plan { passes, enough, beta, seed, .. } = Plan::default();
        LearnSettings { lr: None, passes, enough, beta, replay: 16, own: ORDINARY.len() - WATCHED, seed }
    }
}

/// A file beside the adapter's.
fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(end);
    name.into()
}

impl Feedback {
    /// The files beside an adapter's: of the marks, and of the adapter before.
    pub fn files(path: impl AsRef<Path>) -> [PathBuf; 2] {
        [MARKS, BEFORE].map(|end| beside(path.as_ref(), end))
    }

    /// Opens an adapter with its marks, on top of what is attached to the conversation, and attaches it there. An adapter that
    /// does not exist is made as `spec` says, which else is not looked at.
    ///
    /// # Errors
    /// `Io` from the system; `Invalid` for a spec that cannot be used, for a folder, and if another process has the marks open;
    /// those of [`adapter::restore`].
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # use mynah::{Mynah, adapter::Spec, app::Feedback};
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("mine.mynah");
    /// # let mut talk = Mynah::embedded()?.generation().limit(12).talk()?;
    /// let feedback = Feedback::open(&mut talk, &path, &Spec::new("lora"))?; // "mine.mynah"
    /// assert!(feedback.created() && path.exists());
    /// drop(feedback); // the marks are open for one at a time
    /// talk.replace(mynah::adapter::Stack::new())?;
    /// let again = Feedback::open(&mut talk, &path, &Spec::new("lora"))?;
    /// assert!(!again.created());
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn open(talk: &mut Talk, path: impl AsRef<Path>, spec: &Spec) -> Result<Feedback> {
        // What is learnt meets the context of the conversation.
        let (mynah, path) = (talk.mynah().at_context(talk.context()), path.as_ref());
        let named = |e: Error| e.in_file(path.to_string_lossy());
        let exists = path.try_exists().map_err(|source| named(Error::Io { doing: "open", source }))?;
        let bytes = if exists {
            if !path.is_file() {
                return Err(named(Error::invalid("adapter", "no file; what is learnt is written into one")));
            }
            map::read(path, Limits::default().file)?
        } else {
            let bytes = fresh(&mynah, spec)?;
            map::replace(path, &bytes)?;
            bytes
        };
        let journal = Journal::open(&beside(path, MARKS), &Limits::default())?;
        Feedback::new(talk, mynah, Home::Files(path.into()), bytes, !exists, journal)
    }

    /// The same without files: the bytes of an adapter, if there is one, and its marks so far, a line each. What is kept is in
    /// [`Feedback::bytes`], and the marks are in [`Feedback::journal`].
    ///
    /// # Errors
    /// Those of [`Feedback::open`] and [`Journal::memory`].
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # use mynah::{Mynah, adapter::Spec, app::Feedback};
    /// # let mut talk = Mynah::embedded()?.generation().limit(12).talk()?;
    /// let mut feedback = Feedback::in_memory(&mut talk, None, Vec::new(), &Spec::new("lora"))?;
    /// talk.say("Tell me a story about a bear.")?.finish()?;
    /// feedback.good(&mut talk)?;
    /// let (adapter, marks) = (feedback.bytes().to_vec(), feedback.journal().text().to_vec());
    /// talk.replace(mynah::adapter::Stack::new())?;
    /// let again = Feedback::in_memory(&mut talk, Some(adapter), marks, &Spec::new("lora"))?;
    /// assert_eq!(again.marks(), 1);
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn in_memory(talk: &mut Talk, adapter: Option<Vec<u8>>, marks: Vec<u8>, spec: &Spec) -> Result<Feedback> {
        let mynah = talk.mynah().at_context(talk.context());
        let created = adapter.is_none();
        let bytes = adapter.map_or_else(|| fresh(&mynah, spec), Ok)?;
        let journal = Journal::memory(marks, &Limits::default())?;
        Feedback::new(talk, mynah, Home::Memory(None), bytes, created, journal)
    }

    fn new(
        talk: &mut Talk,
        mynah: Mynah,
        home: Home,
        bytes: Vec<u8>,
        created: bool,
        journal: Journal,
    ) -> Result<Feedback> {
        let beneath = talk.stack().clone();
        let (fixed, own) = (None, Own::default());
        let feedback = Feedback { mynah, home, bytes, created, journal, beneath, fixed, own };
        feedback.attach(talk)?;
        Ok(feedback)
    }

    /// The adapter's file, if it is in one.
    pub fn path(&self) -> Option<&Path> {
        match &self.home {
            Home::Files(path) => Some(path),
            Home::Memory(_) => None,
        }
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether the adapter was made when this was opened.
    pub fn created(&self) -> bool {
        self.created
    }

    /// The file of the marks.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// What the adapter stands on.
    pub fn beneath(&self) -> &Stack {
        &self.beneath
    }

    fn read(&self, bytes: &[u8]) -> Result<Box<dyn Adapter>> {
        read(&self.mynah, bytes).map_err(|e| self.home.named(e))
    }

    fn ready(&self, bytes: &[u8]) -> Result<Arc<Ready>> {
        self.mynah.model().ready(self.read(bytes)?)
    }

    /// From now on the adapter of the file speaks.
    ///
    /// # Errors
    /// Those of [`adapter::restore`] and [`Talk::replace`].
    pub fn attach(&self, talk: &mut Talk) -> Result<()> {
        attach(talk, &self.beneath, self.ready(&self.bytes)?)
    }

    fn provenance(&self) -> Provenance {
        let bytes = adapter_of(&self.bytes);
        adapter::info(bytes, &Limits::default()).ok().and_then(|info| info.provenance).unwrap_or_default()
    }

    /// Marks that this adapter has learnt: its file says how much of the journal it has seen.
    pub fn learnt(&self) -> usize {
        self.journal.lines_until(&self.provenance().data)
    }

    /// Marks there are.
    pub fn marks(&self) -> usize {
        self.journal.lines().count()
    }

    /// Marks that are not learnt yet.
    pub fn new_marks(&self) -> usize {
        self.marks() - self.learnt()
    }

    /// Steps that the adapter has learnt in.
    pub fn steps(&self) -> u64 {
        self.provenance().steps
    }

    /// The conversation that the last mark is about, up to the answer; to see what changes.
    pub fn last_prompt(&self) -> Option<Vec<Message>> {
        self.journal.lines().last().and_then(|line| noted(0, line)).map(|mark| mark.prompt)
    }

    /// The marks of the file that can be read.
    pub fn list(&self) -> Vec<Noted> {
        let (learnt, lines) = (self.learnt(), (1..).zip(self.journal.lines()));
        let marks = lines.filter_map(|(number, line)| noted(number, line));
        marks.map(|mark| Noted { learnt: mark.number <= learnt, ..mark }).collect()
    }

    /// Removes a mark from the file, by its number. What the adapter learnt from it stays in the adapter; then all other
    /// marks count as new, since the adapter has not learnt from them alone.
    ///
    /// # Errors
    /// `Invalid` if there is no such mark; those of [`Journal::change`].
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # use mynah::{Mynah, adapter::Spec, app::Feedback};
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("mine.mynah");
    /// # let mut talk = Mynah::embedded()?.generation().limit(12).talk()?;
    /// # let mut feedback = Feedback::open(&mut talk, &path, &Spec::new("lora"))?;
    /// talk.say("Tell me a story about a bear.")?.finish()?;
    /// feedback.bad(&mut talk)?;
    /// feedback.forget(1)?;
    /// assert_eq!(feedback.marks(), 0);
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn forget(&mut self, number: usize) -> Result<()> {
        if !(1..=self.marks()).contains(&number) {
            return Err(Error::invalid("mark", format!("{number} of {} there are", self.marks())));
        }
        self.fixed = None;
        self.journal.change(|i| i + 1 == number, &[])
    }

    /// The last answer was good: better than those before it, if it was regenerated.
    ///
    /// # Errors
    /// Those of [`Feedback::mark`].
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # use mynah::{Mynah, adapter::Spec, app::Feedback};
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("mine.mynah");
    /// # let mut talk = Mynah::embedded()?.generation().limit(12).talk()?;
    /// # let mut feedback = Feedback::open(&mut talk, &path, &Spec::new("lora"))?;
    /// talk.say("Tell me a story about a bear.")?.finish()?;
    /// feedback.good(&mut talk)?;
    /// assert_eq!((feedback.marks(), feedback.new_marks()), (1, 1));
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn good(&mut self, talk: &mut Talk) -> Result<usize> {
        self.mark(talk, Mark::Good)
    }

    /// The last answer was not good.
    ///
    /// # Errors
    /// Those of [`Feedback::mark`].
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # use mynah::{Mynah, adapter::Spec, app::Feedback};
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("mine.mynah");
    /// # let mut talk = Mynah::embedded()?.generation().limit(12).talk()?;
    /// # let mut feedback = Feedback::open(&mut talk, &path, &Spec::new("lora"))?;
    /// talk.say("Tell me a story about a bear.")?.finish()?;
    /// feedback.bad(&mut talk)?;
    /// let again = talk.regenerate()?.finish()?; // the bad one gives way
    /// assert_eq!(talk.last().unwrap().text, again.text);
    /// assert_eq!(feedback.marks(), 1);
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn bad(&mut self, talk: &mut Talk) -> Result<usize> {
        self.mark(talk, Mark::Bad)
    }

    /// `text` would have been better than the last answer, and stands in its place in the conversation.
    ///
    /// # Errors
    /// Those of [`Feedback::mark`].
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # use mynah::{Mynah, adapter::Spec, app::Feedback};
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("mine.mynah");
    /// # let mut talk = Mynah::embedded()?.generation().limit(12).talk()?;
    /// # let mut feedback = Feedback::open(&mut talk, &path, &Spec::new("lora"))?;
    /// talk.say("Tell me a story about a bear.")?.finish()?;
    /// feedback.better(&mut talk, "A bear slept.")?;
    /// assert_eq!(talk.last().unwrap().text, "A bear slept.");
    /// assert_eq!(feedback.rows(&talk).examples.len(), 1); // a pair: this is better than what the model said
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn better(&mut self, talk: &mut Talk, text: &str) -> Result<usize> {
        self.mark(talk, Mark::Better(text))
    }

    /// Notes what somebody thinks of the last answer. Earlier marks of the same answer give way to it; how many.
    ///
    /// # Errors
    /// `Invalid` if there is no answer; those of [`Journal::change`].
    pub fn mark(&mut self, talk: &mut Talk, mark: Mark) -> Result<usize> {
        talk.end();
        let Some(answer) = talk.last() else { return Err(Error::invalid("mark", "there is no answer yet")) };
        // A text that took the place of an answer stands for that, and is good already.
        let fixed = self.fixed.as_ref().filter(|f| f.before == talk.before() && f.text == answer.text);
        if fixed.is_some() && mark == Mark::Good {
            return Ok(0);
        }
        let answer = fixed.map_or(answer, |f| Answer { text: &f.answer, ended: f.ended });
        let earlier: Vec<Noted> = self.list().into_iter().filter(|m| m.prompt == talk.before()).collect();
        let preferred = |m: &Noted| m.instead.as_deref() == Some(answer.text);
        let best = if let Mark::Better(text) = mark { Answer::new(text) } else { answer };
        // Whatever gave way to what is good now was worse than it.
        let mut worse: Vec<Answer> = talk.others().chain([answer]).filter(|a| a.text != best.text).collect();
        worse.dedup();
        let verdicts: Vec<Verdict> = match (mark, &worse[..]) {
            (Mark::Bad, _) => vec![Verdict::Judged { answer, good: false }],
            // That it is better than another says more.
            (Mark::Good, []) if earlier.iter().any(preferred) => Vec::new(),
            (_, []) => vec![Verdict::Judged { answer: best, good: true }],
            (_, worse) => worse.iter().map(|&rejected| Verdict::Preferred { chosen: best, rejected }).collect(),
        };
        let lines: Vec<String> = verdicts.iter().map(|verdict| verdict.line(talk.before())).collect();
        let gone: Vec<usize> = earlier
            .iter()
            .filter(|m| m.answer == answer.text || mark != Mark::Good && preferred(m))
            .map(|m| m.number - 1)
            .collect();
        // What says the same already stays where it is.
        let known = |line: &String| self.journal.lines().any(|known| known == line.as_bytes());
        let (known, new): (Vec<String>, Vec<String>) = lines.into_iter().partition(known);
        let stays: Vec<bool> = self.journal.lines().map(|l| known.iter().any(|k| k.as_bytes() == l)).collect();
        let fixed = match mark {
            Mark::Better(text) => Some(Fixed {
                before: talk.before().to_vec(),
                text: text.into(),
                answer: answer.text.into(),
                ended: answer.ended,
            }),
            _ => None,
        };
        let gone: Vec<usize> = gone.into_iter().filter(|&i| !stays[i]).collect();
        self.journal.change(|i| gone.contains(&i), &new)?;
        self.fixed = fixed;
        if let Mark::Better(text) = mark {
            talk.correct(text);
        }
        if mark != Mark::Bad {
            talk.forget_others();
        }
        Ok(gone.len())
    }

    /// The marks as rows of data. [`Marks::left_out`] are lines that are of no use.
    pub fn rows(&self, talk: &Talk) -> Marks {
        Marks::read(&reader(&self.mynah, talk.template()), self.journal.lines(), self.learnt())
    }

    /// Learns from all that is new, and from some of what was learnt before. If nothing is new, that is learnt as if it were.
    /// Neither the conversation nor the file changes.
    ///
    /// # Errors
    /// `Invalid` if there is nothing to learn from and for settings that cannot be used; those of [`crate::train::feedback::Lesson::new`].
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # use mynah::{Mynah, adapter::Spec, app::{Feedback, LearnSettings}};
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("mine.mynah");
    /// # let mut talk = Mynah::embedded()?.generation().limit(12).talk()?;
    /// # let mut feedback = Feedback::open(&mut talk, &path, &Spec::new("lora"))?;
    /// let settings = LearnSettings { passes: 1, ..LearnSettings::default() };
    /// talk.say("Tell me a story about a bear.")?.finish()?;
    /// feedback.better(&mut talk, "A bear slept.")?;
    /// let before = feedback.bytes().to_vec();
    /// let mut learning = feedback.learn(&talk, &settings)?;
    /// for event in &mut learning {
    ///     event?;
    /// }
    /// let learnt = learning.finish().expect("a step was done");
    /// assert_eq!(learnt.marks, 1);
    /// assert_eq!(feedback.bytes(), before); // until it is kept
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn learn(&self, talk: &Talk, settings: &LearnSettings) -> Result<Learning> {
        Learning::new(self, talk, settings)
    }

    /// Makes what was learnt the adapter's file; what it was is in the file beside it. After an error both hold what they held,
    /// or the file beside holds what the adapter's holds.
    ///
    /// # Errors
    /// `Io` from the system; `Altered` if another program has written the adapter's file.
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
    /// for event in &mut learning {
    ///     event?;
    /// }
    /// let learnt = learning.finish().expect("a step was done");
    /// feedback.keep(&learnt)?;
    /// assert_eq!(feedback.new_marks(), 0); // the file says what it has learnt
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn keep(&mut self, learnt: &Learnt) -> Result<()> {
        self.home.check(&self.bytes)?;
        self.home.set_before(&self.bytes)?;
        self.home.set(&learnt.bytes)?;
        self.bytes = learnt.bytes.clone();
        Ok(())
    }

    /// Back to the adapter before the one that was kept last, in the file and in the conversation; once more takes that back.
    /// Whether there was one.
    ///
    /// # Errors
    /// `Io` from the system; `Altered` as of [`Feedback::keep`]; those of [`adapter::restore`], which name the file beside.
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
    /// assert!(!feedback.undo(&mut talk)?); // nothing was kept yet
    /// let before = feedback.bytes().to_vec();
    /// feedback.better(&mut talk, "A bear slept.")?;
    /// let mut learning = feedback.learn(&talk, &settings)?;
    /// for event in &mut learning {
    ///     event?;
    /// }
    /// feedback.keep(&learning.finish().expect("a step was done"))?;
    /// assert!(feedback.undo(&mut talk)?);
    /// assert_eq!(feedback.bytes(), before);
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn undo(&mut self, talk: &mut Talk) -> Result<bool> {
        let Some(bytes) = self.home.before()? else { return Ok(false) };
        self.home.check(&self.bytes)?;
        if bytes == self.bytes {
            return Ok(false);
        }
        let named = |e: Error| match self.path() {
            Some(path) => e.in_file(beside(path, BEFORE).to_string_lossy()),
            None => e,
        };
        let adapter = read(&self.mynah, &bytes).and_then(|adapter| self.mynah.model().ready(adapter)).map_err(named)?;
        self.home.set(&bytes)?;
        attach(talk, &self.beneath, adapter)?;
        let now = core::mem::replace(&mut self.bytes, bytes);
        self.home.set_before(&now)?;
        Ok(true)
    }
}

/// The file of a new adapter.
fn fresh(mynah: &Mynah, spec: &Spec) -> Result<Vec<u8>> {
    let fresh = adapter::create(spec, mynah.base())?;
    adapter::to_bytes(fresh.as_ref(), mynah.base(), &Provenance::default())
}

/// An adapter of our own form: what is learnt is written in that.
fn read(mynah: &Mynah, bytes: &[u8]) -> Result<Box<dyn Adapter>> {
    adapter::restore(adapter_of(bytes), mynah.base(), &Limits::default(), Fit::Same)
}

/// A checkpoint stands for the adapter in it.
fn adapter_of(bytes: &[u8]) -> Bytes {
    super::held(bytes.to_vec().into())
}

/// Lets `adapter` speak on top of what is beneath.
fn attach(talk: &mut Talk, beneath: &Stack, adapter: Arc<Ready>) -> Result<()> {
    let mut stack = beneath.clone();
    stack.push(adapter, 1.0)?;
    talk.replace(stack)
}

/// What reads marks.
fn reader<'a>(mynah: &'a Mynah, template: &'a Template) -> Reader<'a> {
    Reader {
        tokenizer: mynah.tokenizer(),
        template: Some(template),
        ctx: mynah.model().hparams.context,
        // What people and the model say is text.
        parse_special: false,
        options: Options::default(),
        limits: Limits::default(),
    }
}

/// The mark of a line of the journal.
fn noted(number: usize, line: &[u8]) -> Option<Noted> {
    let row: Value = serde_json::from_slice(line).ok()?;
    let text = |turn: &Value, key: &str| Some(turn.get(key)?.as_str()?.to_string());
    let said = |key: &str| text(row.get(key)?.get(0)?, "content");
    let turns = row.get("prompt")?.as_array()?.iter();
    let prompt =
        turns.map(|turn| Some(Message::new(text(turn, "role")?, text(turn, "content")?))).collect::<Option<_>>()?;
    let (answer, instead, good) = match said("completion") {
        Some(answer) => (answer, None, row.get("label")?.as_bool()?),
        None => (said("rejected")?, Some(said("chosen")?), false),
    };
    Some(Noted { number, prompt, answer, instead, good, learnt: false })
}
