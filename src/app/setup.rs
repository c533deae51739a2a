//! How a lesson is set up, and begun by its data.

use super::data::{Data, Rows};
use super::draft::{BEGAN, Draft};
use super::lesson::Lesson;
use super::method::Method;
use super::output::short;
use super::settings::Settings;
use super::{IntoReady, Mynah, Source};
use crate::adapter::{self, Stack};
use crate::bytes::{Cursor, Limits};
use crate::error::{Error, Result};
use crate::train::activation_cache::Store;
#[cfg(feature = "std")]
use crate::train::data::Files;
use crate::train::data::{Dataset, Order, Reader};
use crate::train::objective::{self, Shape};
use crate::train::plan::{self, Plan, Refusal, Run};
use crate::train::{Checkpoint, Config, Example, Recompute};
#[cfg(feature = "std")]
use std::path::Path;
use std::prelude::v1::*;

/// Tokens of a row where nothing is said.
const CONTEXT: usize = 256;
/// Rows that a plan without data counts at most.
const ROWS: usize = 1 << 20;

/// A lesson that is being set up: made by [`Mynah::lesson`] or [`Mynah::resume`], begun by the data.
///
/// Defaults are those of the method and of [`Settings`]; methods here change those that are changed most often, and
/// [`Setup::settings`] all of them.
///
/// ```
/// # fn main() -> mynah::Result<()> {
/// # #[cfg(feature = "base")] {
/// # let mynah = mynah::Mynah::embedded()?;
/// let setup = mynah.lesson("lora").epochs(1).rate(2e-3).batch(2).context(64).held_out(0.2).patience(2).seed(7);
/// assert_eq!((setup.settings.epochs, setup.settings.lr), (Some(1), Some(2e-3)));
/// let mut lesson = setup.text(mynah::base::NOTES)?;
/// assert_eq!(lesson.steps(), lesson.rows().len().div_ceil(2) as u64); // one epoch of two rows a step
/// assert!(!lesson.held_out().is_empty());
/// # }
/// # Ok(()) }
/// ```
pub struct Setup {
    pub(super) mynah: Mynah,
    pub(super) method: Method,
    /// The settings.
    pub settings: Settings,
    pub(super) beneath: Stack,
    pub(super) resumed: Option<Checkpoint>,
    /// Whether the method is what the checkpoint holds.
    pub(super) own: bool,
    pub(super) cache: Option<Box<OpenCache>>,
}

/// Opens a cache for the outputs of that number of frozen blocks.
type OpenCache = dyn FnOnce(usize) -> Result<Box<dyn Store>> + Send;

impl Mynah {
    /// A lesson in which `method` is trained: the name of a kind, an adapter's settings, an adapter that is there already,
    /// or all weights.
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// use mynah::{Event, Mynah, adapter::Spec};
    ///
    /// let mynah = Mynah::embedded()?;
    /// let small = Spec::new("nola").with("basis", 8);
    /// let mut lesson = mynah.lesson(small).steps(2).context(64).text(mynah::base::NOTES)?;
    /// for event in &mut lesson {
    ///     if let Event::Step(step) = event? {
    ///         println!("{} {:.3}", step.step, step.loss);
    ///     }
    /// }
    /// let learnt: Vec<u8> = lesson.to_bytes()?; // or lesson.save("notes.mynah")?
    /// # assert!(learnt.len() < 20_000 && lesson.history().steps() == 2);
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn lesson(&self, method: impl Into<Method>) -> Setup {
        Setup {
            mynah: self.clone(),
            method: method.into(),
            settings: Settings::default(),
            beneath: Stack::new(),
            resumed: None,
            own: false,
            cache: None,
        }
    }

    /// The lesson of a checkpoint: its bytes, its file, or a folder, of which the newest checkpoint is taken that is intact.
    /// What was trained is in it; settings and data must be given again as they were. Then it ends with the same bytes as
    /// if it had never stopped.
    ///
    /// # Errors
    /// `Io` from the system; those of [`Checkpoint::read`] and [`Mynah::resume_from`]; `Invalid` for a folder without
    /// checkpoints. Whether settings and data are the same is found by [`Draft::begin`].
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # use mynah::Mynah;
    /// # let (mynah, notes) = (Mynah::embedded()?, "Rain at Gull Rock, and tea with the parrot after it.");
    /// let mut lesson = mynah.lesson("lora").steps(4).text(notes)?;
    /// while lesson.history().steps() < 2 {
    ///     lesson.next().transpose()?;
    /// }
    /// let saved: Vec<u8> = lesson.checkpoint()?;
    /// drop(lesson);
    ///
    /// let lesson = mynah.resume(saved)?.steps(4).text(notes)?;
    /// assert_eq!(lesson.history().steps(), 2);
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn resume(&self, from: impl Into<Source>) -> Result<Setup> {
        self.resume_from(from.into().checkpoint()?)
    }

    /// The same of a checkpoint that was read.
    ///
    /// # Errors
    /// Those of [`adapter::restore`], if an adapter was trained.
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # use mynah::{Mynah, bytes::Limits, train::Checkpoint};
    /// # let mynah = Mynah::embedded()?;
    /// let mut lesson = mynah.lesson("lora").steps(2).text("Rain at Gull Rock, and tea.")?;
    /// lesson.next().transpose()?;
    /// let saved = Checkpoint::read(lesson.checkpoint()?.into(), &Limits::default())?;
    /// assert_eq!(saved.step(), 1); // read what it says, then continue
    /// let lesson = mynah.resume_from(saved)?.steps(2).text("Rain at Gull Rock, and tea.")?;
    /// assert_eq!(lesson.history().steps(), 1);
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn resume_from(&self, saved: Checkpoint) -> Result<Setup> {
        let method = match saved.adapter() {
            Ok(bytes) => {
                let restored = adapter::restore(bytes, self.base(), &Limits::default(), adapter::Fit::Same)?;
                Method::Given(restored)
            }
            Err(_) => Method::Weights,
        };
        let mut setup = self.lesson(method).resume(saved);
        setup.own = true;
        Ok(setup)
    }
}

impl Setup {
    /// The same with other settings.
    ///
    /// ```no_run
    /// # let mynah = mynah::Mynah::open("smollm2.gguf")?;
    /// let setup = mynah.lesson("lora").settings(|s| {
    ///     s.warmup = 5;
    ///     s.optimizer = mynah::train::optim::Spec::new("adamw_8bit");
    /// });
    /// # Ok::<(), mynah::Error>(())
    /// ```
    pub fn settings(mut self, change: impl FnOnce(&mut Settings)) -> Setup {
        change(&mut self.settings);
        self
    }

    /// Sets the number of optimiser steps.
    pub fn steps(self, steps: u64) -> Setup {
        self.settings(|s| s.steps = Some(steps))
    }

    /// With every row seen so often, if no steps are set.
    pub fn epochs(self, epochs: u64) -> Setup {
        self.settings(|s| s.epochs = Some(epochs))
    }

    /// With this highest learning rate.
    pub fn rate(self, lr: f32) -> Setup {
        self.settings(|s| s.lr = Some(lr))
    }

    /// Sets the rows of a step, which go through the model together.
    pub fn batch(self, rows: usize) -> Setup {
        self.settings(|s| s.batch = rows)
    }

    /// Sets the most tokens of a row.
    pub fn context(self, tokens: usize) -> Setup {
        self.settings(|s| s.context = Some(tokens))
    }

    /// With this part of the rows put aside to measure on; 0 puts none aside, so that the last state is what is left.
    pub fn held_out(self, fraction: f64) -> Setup {
        self.settings(|s| s.held_out = Some(fraction))
    }

    /// Ends early after this number of evaluations that were no better than the best one. Needs [`Setup::held_out`].
    pub fn patience(self, evaluations: u64) -> Setup {
        self.settings(|s| s.patience = Some(evaluations))
    }

    /// With this seed, of a fresh adapter too.
    pub fn seed(mut self, seed: u64) -> Setup {
        if let Method::Fresh(spec) = &mut self.method {
            spec.seed = seed;
        }
        self.settings(|s| s.seed = seed)
    }

    /// Chooses the sizes of a fresh adapter so that its file has at most so many bytes, and trains it through the values of
    /// few bits that such a file holds: [`adapter::budget::fit`]. Where only the size is known, the kind is one whose training
    /// [`Settings::memory`] is enough for.
    ///
    /// # Errors
    /// Those of [`adapter::budget::fit`]; `Invalid` if something else than a fresh adapter is trained.
    pub fn bytes(mut self, bytes: usize) -> Result<Setup> {
        let Method::Fresh(spec) = &self.method else {
            return Err(Error::invalid("bytes", "only the size of a fresh adapter can be chosen"));
        };
        let affords = |spec: &adapter::Spec| {
            let method = Method::Fresh(spec.clone());
            let Some(memory) = self.settings.memory else { return true };
            let config = self.settings.config(&method, 1);
            let run = self.full().and_then(|(rows, best)| self.run(&method, rows, config, 0, best));
            run.and_then(|run| run.fit(memory)).is_ok_and(|fits| fits.is_ok())
        };
        let base = self.mynah.base();
        let (spec, codec) = adapter::budget::fit(spec, self.settings.codec.clone(), base, bytes, &affords)?;
        (self.method, self.settings.codec) = (Method::Fresh(spec), Some(codec));
        Ok(self)
    }

    /// With another objective.
    pub fn objective(self, objective: objective::Spec) -> Setup {
        self.settings(|s| s.objective = objective)
    }

    /// Fits the whole process into this number of bytes. What it holds before the lesson, [`Draft::plan`] must be told; it
    /// counts as nothing otherwise.
    pub fn memory(self, bytes: usize) -> Setup {
        self.settings(|s| s.memory = Some(bytes))
    }

    /// On top of an adapter, which stays as it is; `strength` multiplies its effect. One more comes on top of those before.
    ///
    /// # Errors
    /// Those of [`Mynah::ready`] and [`Stack::push`].
    ///
    /// ```no_run
    /// # let (mynah, more) = (mynah::Mynah::open("smollm2.gguf")?, "");
    /// let setup = mynah.lesson("nola").on("style.mynah", 1.0)?;
    /// let mut lesson = setup.text(more)?;
    /// # Ok::<(), mynah::Error>(())
    /// ```
    pub fn on(mut self, adapter: impl IntoReady, strength: f32) -> Result<Setup> {
        self.beneath.push(adapter.into_ready(&self.mynah)?, strength)?;
        Ok(self)
    }

    /// On top of these adapters, in place of those named before.
    pub fn stack(mut self, beneath: Stack) -> Setup {
        self.beneath = beneath;
        self
    }

    /// With a cache for the outputs of the blocks below the lowest that an adapter changes: later epochs and lessons on the
    /// same data skip them. The outputs are rounded to f16: see [`Trainer::cache_activations`](crate::train::Trainer::cache_activations). `open` is called when the
    /// lesson begins, with the number of these blocks.
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// use mynah::{Mynah, adapter::Spec, train::activation_cache::Memory};
    ///
    /// let mynah = Mynah::embedded()?;
    /// let last = mynah.base().layers() - 1;
    /// let setup = mynah.lesson(Spec { layers: Some(vec![last]), ..Spec::new("lora") });
    /// let lesson = setup.activation_cache(|_| Ok(Box::new(Memory::new(1 << 20)))).text(mynah::base::NOTES)?;
    /// # assert_eq!(lesson.trainer().frozen_blocks(), last);
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn activation_cache(mut self, open: impl FnOnce(usize) -> Result<Box<dyn Store>> + Send + 'static) -> Setup {
        self.cache = Some(Box::new(open));
        self
    }

    /// Continues from a checkpoint, with a method that the caller made as it was made then: a fresh adapter of the same
    /// settings, or the same adapter. [`Mynah::resume`] takes it from the checkpoint instead.
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # use mynah::{Mynah, adapter::Spec, bytes::Limits, train::Checkpoint};
    /// # let (mynah, notes) = (Mynah::embedded()?, "Rain at Gull Rock, and tea.");
    /// let spec = Spec::new("lora").with("rank", 4);
    /// let mut lesson = mynah.lesson(spec.clone()).steps(2).text(notes)?;
    /// lesson.next().transpose()?;
    /// let saved = Checkpoint::read(lesson.checkpoint()?.into(), &Limits::default())?;
    /// let lesson = mynah.lesson(spec).resume(saved).steps(2).text(notes)?;
    /// assert_eq!(lesson.history().steps(), 1);
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn resume(mut self, saved: Checkpoint) -> Setup {
        // What templates took for now is part of the rows.
        let clock = || Cursor::new(&saved.note("clock").ok()?).u64().ok();
        self.settings.clock = self.settings.clock.or_else(|| clock().map(|c| c as i64));
        // A run that began without rows held out, as earlier versions did where nothing was said, continues without.
        if saved.step() > 0 && saved.note("held-out").is_ok_and(|losses| losses.is_empty()) {
            self.settings.held_out = self.settings.held_out.or(Some(0.0));
        }
        self.resumed = Some(saved);
        self.own = false;
        self
    }

    /// What is trained.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// Reads a file of data, whose name tells what it holds: [`crate::train::data`].
    ///
    /// # Errors
    /// Those of [`Reader::file`], and of the model's chat template.
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # let mynah = mynah::Mynah::embedded()?;
    /// let setup = mynah.lesson("lora").context(64);
    /// let rows = br#"{"text": "Rain at Gull Rock."}
    /// {"prompt": "Tea?", "completion": " Tea."}"#;
    /// let data = setup.read("rows.jsonl", rows)?;
    /// assert_eq!(data.rows.examples.len(), 2);
    /// assert_eq!(data.rows.examples[1].line, Some(2));
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn read(&self, name: &str, bytes: &[u8]) -> Result<Data> {
        self.reader(*blake3::hash(bytes).as_bytes(), |reader| reader.file(name, bytes))
    }

    /// Reads a file or all files of a folder.
    ///
    /// # Errors
    /// Those of [`Reader::files`], of the model's chat template, and of [`Files::check`] afterwards.
    ///
    /// ```no_run
    /// # let mynah = mynah::Mynah::open("smollm2.gguf")?;
    /// let setup = mynah.lesson("lora");
    /// let data = setup.read_files(&mynah::train::data::Files::open("notes".as_ref(), &mynah::bytes::Limits::DEFAULT)?)?;
    /// # Ok::<(), mynah::Error>(())
    /// ```
    #[cfg(feature = "std")]
    pub fn read_files(&self, files: &Files) -> Result<Data> {
        let data = self.reader(files.digest(), |reader| reader.files(files));
        files.check().and(data)
    }

    /// Data that have this digest, unless options make other rows of them.
    fn reader(&self, digest: [u8; 32], read: impl FnOnce(&Reader) -> Result<Dataset>) -> Result<Data> {
        #[cfg(feature = "chat")]
        let template = self.mynah.late_template()?.map(|t| t.merge_system(self.settings.merge_system));
        #[cfg(feature = "chat")]
        let template = match self.settings.clock {
            Some(now) => template.map(|t| t.at(now)),
            None => template,
        };
        let reader = Reader {
            tokenizer: &self.mynah.tokenizer,
            #[cfg(feature = "chat")]
            template: template.as_ref(),
            ctx: self.tokens()?,
            parse_special: self.settings.parse_special,
            options: self.settings.data.clone(),
            limits: Limits::default(),
        };
        let facts = self.settings.data.facts();
        let digest = match facts.is_empty() {
            true => digest,
            false => *blake3::hash(&[&digest[..], facts.as_bytes()].concat()).as_bytes(),
        };
        Ok(Data { rows: read(&reader)?, digest })
    }

    /// Most tokens of a row.
    ///
    /// # Errors
    /// `Invalid` if [`Settings::context`] is more than the model was made for, or less than 2.
    pub fn tokens(&self) -> Result<usize> {
        let most = self.mynah.model.hparams.context;
        let tokens = self.settings.context.unwrap_or(CONTEXT.min(most));
        if tokens < 2 || tokens > most {
            return Err(Error::invalid("context", format!("{tokens}; the model was made for 2 to {most} tokens")));
        }
        Ok(tokens)
    }

    /// Begins to learn a text, cut into rows of at most [`Setup::context`] tokens: entries or paragraphs of it.
    ///
    /// # Errors
    /// Those of [`Reader::text`], [`Setup::draft`] and [`Draft::begin`].
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # let mynah = mynah::Mynah::embedded()?;
    /// let mut lesson = mynah.lesson("lora").held_out(0.0).steps(1).context(64).text(mynah::base::NOTES)?;
    /// assert!(lesson.rows().iter().all(|row| row.tokens.len() <= 64));
    /// lesson.next().transpose()?;
    /// assert_eq!(lesson.history().steps(), 1);
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn text(self, text: impl AsRef<str>) -> Result<Lesson> {
        let text = text.as_ref();
        let data = self.reader(*blake3::hash(text.as_bytes()).as_bytes(), |reader| reader.text(text))?;
        self.draft(data)?.begin()
    }

    /// Begins to learn JSON Lines, in any of the shapes of [`crate::train::data`].
    ///
    /// # Errors
    /// Those of [`Reader::lines`], [`Setup::draft`] and [`Draft::begin`].
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # let mynah = mynah::Mynah::embedded()?;
    /// let pairs = r#"{"prompt": "Tea?", "chosen": " Tea.", "rejected": " Soup, and a walk."}"#;
    /// let dpo = mynah::train::objective::Spec::new("dpo").with("beta", 0.2);
    /// let lesson = mynah.lesson("lora").objective(dpo).steps(3).lines(pairs)?;
    /// # assert_eq!(lesson.upcoming(), Some(mynah::app::Work::Reference));
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn lines(self, lines: impl AsRef<[u8]>) -> Result<Lesson> {
        let lines = lines.as_ref();
        let data = self.reader(*blake3::hash(lines).as_bytes(), |reader| reader.lines(lines))?;
        self.draft(data)?.begin()
    }

    /// Begins to learn a file, as [`Setup::read`] reads it.
    ///
    /// # Errors
    /// `Io` from the system; those of [`Setup::read`], which name the file; those of [`Setup::draft`] and
    /// [`Draft::begin`].
    ///
    /// ```no_run
    /// # let mynah = mynah::Mynah::open("smollm2.gguf")?;
    /// let mut lesson = mynah.lesson("lora").held_out(0.1).patience(3).file("rows.jsonl")?;
    /// # Ok::<(), mynah::Error>(())
    /// ```
    #[cfg(feature = "std")]
    pub fn file(self, path: impl AsRef<Path>) -> Result<Lesson> {
        let name = path.as_ref().to_string_lossy();
        let read = || self.read_files(&Files::open(path.as_ref(), &Limits::DEFAULT)?);
        let data = read().map_err(|e| e.in_file(&*name))?;
        self.draft(data)?.begin()
    }

    /// Begins to learn rows of tokens.
    ///
    /// # Errors
    /// Those of [`Setup::draft`] and [`Draft::begin`].
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # use mynah::{Mynah, train::Example};
    /// # let mynah = Mynah::embedded()?;
    /// // The loss counts the second half alone: that is the completion.
    /// let row = Example::completion(&[1, 2, 3], &[4, 5, 6]);
    /// let mut lesson = mynah.lesson("lora").steps(1).examples(vec![row])?;
    /// lesson.next().transpose()?;
    /// assert_eq!(lesson.history().tokens, 6);
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn examples(self, rows: Vec<Example>) -> Result<Lesson> {
        self.draft(Data::new(rows))?.begin()
    }

    /// Everything but the memory for it: rows are split and brought into shape, settings are checked.
    ///
    /// # Errors
    /// `Invalid` for settings that cannot be used, by their names in [`Settings`], and for rows that the objective cannot
    /// learn from; `Unsupported` for unknown names of kinds, objectives and optimisers.
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # let mynah = mynah::Mynah::embedded()?;
    /// let setup = mynah.lesson("lora").context(64).epochs(2).batch(4);
    /// let data = setup.read("notes.txt", mynah::base::NOTES.as_bytes())?;
    /// let draft = setup.draft(data)?; // nothing is computed, no memory is taken
    /// assert_eq!(draft.steps(), 2 * draft.rows().len().div_ceil(4) as u64);
    ///
    /// // Settings that cannot be used are named.
    /// let setup = mynah.lesson("lora").patience(2);
    /// let data = setup.read("notes.txt", b"Rain.")?;
    /// assert!(setup.draft(data).err().unwrap().to_string().contains("patience"));
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn draft(self, data: Data) -> Result<Draft> {
        let Setup { mynah, method, settings, beneath, resumed, own, .. } = &self;
        let tokens = self.tokens()?;
        method.check(mynah, settings, beneath)?;
        let (objective, _) = settings.objective.row()?;
        if settings.density_ratios && objective.shape != Shape::Verdict {
            let why = format!("they are for completions that were liked or not; {} is not", objective.name);
            return Err(Error::invalid("density ratios", why));
        }
        settings.check_objective(&mynah.model)?;
        let rows = Rows::new(data.rows, settings, tokens)?;
        if settings.patience.is_some() && rows.learnt == rows.examples.len() {
            return Err(Error::invalid("patience", "it measures on held-out rows, and none are put aside"));
        }
        if objective.shape == Shape::Contrast
            && settings.step()? == 1
            && rows.rows.iter().all(|row| row.len() == 1)
            && rows.examples.iter().all(|e| e.passages.len() == 1)
        {
            let why = "1 row a step, and no row has a negative: a query would have one passage to choose from; try 16";
            return Err(Error::invalid("batch", why));
        }
        let shuffle = settings.shuffle.then_some(settings.seed);
        let order = Order::new(rows.rows.len(), settings.batch, settings.accumulate, shuffle)?;
        let epoch = order.steps_per_epoch();
        let steps = match (settings.steps, settings.epochs, resumed) {
            (Some(steps), ..) => steps,
            (None, Some(epochs), _) => epochs.saturating_mul(epoch),
            // As many as it had, also where another version would choose another number.
            (None, None, Some(saved)) => saved.facts().integer("steps")?,
            (None, None, None) => Settings::usual_steps(rows.tokens(), epoch),
        };
        let began = match (&method, resumed) {
            (Method::Given(_), Some(saved)) if *own => saved.facts().get(BEGAN).cloned(),
            (Method::Given(adapter), _) => {
                let bytes: Vec<u8> = adapter.params().iter().flat_map(|v| v.to_le_bytes()).collect();
                Some(short(blake3::hash(&bytes)).into())
            }
            _ => None,
        };
        let config = settings.config(method, steps);
        let micro = settings.batch;
        Ok(Draft {
            rows,
            order,
            steps,
            context: tokens,
            digest: data.digest,
            began,
            config,
            micro,
            plan: None,
            setup: self,
        })
    }

    /// What memory a lesson would take whose rows all fill the context. `held` are the bytes that the process holds already,
    /// but for the model's file.
    ///
    /// # Errors
    /// `Invalid` and `Unsupported` for settings that cannot be used. The inner error says what would fit instead, if
    /// [`Settings::memory`] is not enough.
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # let mynah = mynah::Mynah::embedded()?;
    /// let plan = mynah.lesson("lora").batch(4).plan(0)?.expect("no bound is set");
    /// println!("{} bytes at the peak, {} of them reserved", plan.total(), plan.reserved());
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn plan(&self, held: usize) -> Result<core::result::Result<Plan, Refusal>> {
        self.method.check(&self.mynah, &self.settings, &self.beneath)?;
        self.settings.check_objective(&self.mynah.model)?;
        let (rows, best) = self.full()?;
        let config = self.settings.config(&self.method, 1);
        Ok(self.settle(rows, config, held, best)?.map(|(_, _, plan)| plan))
    }

    /// Rows that all fill the context, and whether the best state is kept.
    fn full(&self) -> Result<(plan::Rows, bool)> {
        let tokens = self.tokens()?;
        let rows = self.settings.batch.saturating_mul(self.settings.accumulate).min(ROWS);
        let rows = match self.settings.objective.row()?.0.shape {
            Shape::Contrast => plan::Rows::texts(tokens, rows),
            _ => plan::Rows::full(tokens, rows),
        };
        // Without data rows may be held out.
        Ok((rows, self.settings.held_out != Some(0.0)))
    }

    fn run<'a>(
        &'a self,
        method: &'a Method,
        rows: plan::Rows,
        config: Config,
        held: usize,
        best: bool,
    ) -> Result<Run<'a>> {
        Ok(Run {
            model: &self.mynah.model,
            subject: method.subject(&self.mynah),
            beneath: &self.beneath,
            config,
            rows,
            batch: self.settings.batch,
            step: self.settings.step()?,
            checkpoints: true,
            best,
            activation_cache: self.cache.is_some(),
            held,
        })
    }

    /// Configuration, micro-batch and plan, with blocks and micro-batch settled. `best`: whether rows are held out.
    pub(super) fn settle(
        &self,
        rows: plan::Rows,
        config: Config,
        held: usize,
        best: bool,
    ) -> Result<core::result::Result<(Config, usize, Plan), Refusal>> {
        let run = self.run(&self.method, rows, config, held, best)?;
        let Some(bytes) = self.settings.memory else {
            let plan = run.plan()?;
            // For the largest batch, so that smaller ones do not settle it anew.
            let config = Config { recompute: Recompute::AllBut(plan.saved_blocks), ..run.config };
            return Ok(Ok((config, run.batch, plan)));
        };
        Ok(run.fit(bytes)?.map(|(run, plan)| (run.config, run.batch, plan)))
    }
}

impl Source {
    /// A checkpoint.
    fn checkpoint(self) -> Result<Checkpoint> {
        let limits = Limits::default();
        match self {
            Source::Bytes(bytes) => Checkpoint::read(bytes, &limits),
            #[cfg(feature = "std")]
            Source::Path(path) if path.is_dir() => {
                let newest = crate::train::folder::newest(&path, &limits, |_| ())?;
                newest
                    .ok_or_else(|| Error::invalid("checkpoint", "the folder has none").in_file(path.to_string_lossy()))
            }
            #[cfg(feature = "std")]
            Source::Path(path) => {
                let read = crate::bytes::map::open(&path).and_then(|bytes| Checkpoint::read(bytes, &limits));
                read.map_err(|e| e.in_file(path.to_string_lossy()))
            }
        }
    }
}
