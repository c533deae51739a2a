//! How a lesson is set up: what is trained, the settings, and, once the data is there, what memory it will take.

use super::data::{Data, Rows};
use super::lesson::Lesson;
use super::{Mynah, Source};
use crate::adapter::{self, Adapter, Kind, Ready, Spec, Stack};
use crate::bytes::{Cursor, Limits};
use crate::container::head::{Field, Head};
use crate::error::{Error, Result};
use crate::knob::Value;
use crate::model::ActType;
use crate::nn::linear::Precision;
use crate::train::activation_cache::Store;
use crate::train::data::{Order, Reader};
use crate::train::objective::{self, Shape};
use crate::train::plan::{self, Plan, Refusal, Run};
use crate::train::{
    Checkpoint, Config, Dropout, Example, Gradient, Recompute, Schedule, Trainer, Zeroth, checkpoint, optim,
};
#[cfg(feature = "std")]
use std::path::Path;
use std::prelude::v1::*;
use std::sync::Arc;

/// Tokens of a row where nothing is said.
const CONTEXT: usize = 256;
/// Rows that a plan without data counts at most.
const ROWS: usize = 1 << 20;
/// The fact that names the adapter which a lesson began from.
const BEGAN: &str = "adapter at the start";

/// What is trained.
pub enum Method {
    /// A fresh adapter.
    Fresh(Spec),
    /// An adapter that is there already, trained further.
    Given(Box<dyn Adapter>),
    /// All weights of the model, in `f32`.
    Weights,
}

impl Method {
    /// What training all weights is called.
    pub const WEIGHTS: &str = "full";

    /// The kind of the adapter, or [`Method::WEIGHTS`].
    pub fn name(&self) -> &str {
        match self {
            Method::Fresh(spec) => &spec.kind,
            Method::Given(adapter) => adapter.kind().name,
            Method::Weights => Method::WEIGHTS,
        }
    }

    /// The learning rate where nothing is said.
    pub fn rate(name: &str) -> f32 {
        Kind::by_name(name).map_or(1e-3, |kind| kind.rate)
    }

    /// What would be trained, for a plan.
    fn subject<'a>(&'a self, mynah: &'a Mynah) -> plan::Subject<'a> {
        match self {
            Method::Fresh(spec) => plan::Subject::Fresh(spec, mynah.base()),
            Method::Given(adapter) => plan::Subject::Adapter(adapter.as_ref()),
            Method::Weights => plan::Subject::Weights,
        }
    }

    /// The adapter's shape, if one is trained.
    fn shape(&self, mynah: &Mynah) -> Result<Option<adapter::Shape>> {
        Ok(match self {
            Method::Fresh(spec) => Some((Kind::by_name(&spec.kind)?.shape)(spec, mynah.base())?),
            Method::Given(adapter) => Some(adapter.shape().clone()),
            Method::Weights => None,
        })
    }

    /// # Errors
    /// `Invalid` for settings that what is trained has no use for.
    fn check(&self, mynah: &Mynah, settings: &Settings, beneath: &Stack) -> Result<()> {
        match self {
            Method::Fresh(spec) => {
                let kind = Kind::by_name(&spec.kind)?;
                if kind.targets.is_empty() && !spec.targets.is_empty() {
                    return Err(Error::invalid("targets", format!("{} changes no linear layers", kind.name)));
                }
                let inside = |shape: &adapter::Shape| shape.slots.iter().any(|slot| slot.place.layer().is_some());
                if spec.layers.is_some() && !self.shape(mynah)?.is_some_and(|shape| inside(&shape)) {
                    return Err(Error::invalid("layers", format!("{} is in no block", kind.name)));
                }
                Ok(())
            }
            Method::Given(_) => Ok(()),
            Method::Weights => {
                let ratio = settings.optimizer.values.get(optim::RATIO.name);
                if ratio.is_some_and(|ratio| *ratio != Value::Real(1.0)) {
                    return Err(Error::invalid(optim::RATIO.name, "it is for adapters: of all weights none is a B"));
                }
                if !beneath.is_empty() {
                    return Err(Error::invalid("adapter", "none can be beneath where the base itself is trained"));
                }
                if settings.precision == Precision::Int8 {
                    return Err(Error::invalid("precision", "int8 is for adapters: all weights are trained in f32"));
                }
                Ok(())
            }
        }
    }
}

/// A name of [`adapter::KINDS`], with the usual settings of that kind, or [`Method::WEIGHTS`].
impl From<&str> for Method {
    fn from(name: &str) -> Method {
        if name == Method::WEIGHTS { Method::Weights } else { Method::Fresh(Spec::new(name)) }
    }
}

impl From<Spec> for Method {
    fn from(spec: Spec) -> Method {
        Method::Fresh(spec)
    }
}

impl From<Box<dyn Adapter>> for Method {
    fn from(adapter: Box<dyn Adapter>) -> Method {
        Method::Given(adapter)
    }
}

/// Everything that can be set of a lesson, beside what is trained.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Highest learning rate; without it what suits the method.
    pub lr: Option<f32>,
    /// Optimiser steps; without them `epochs` decides.
    pub steps: Option<u64>,
    /// How often every row is seen.
    pub epochs: u64,
    /// Rows that go through the model together.
    pub batch: usize,
    /// Batches of one step.
    pub accumulate: usize,
    /// Tokens of a row, longer rows are cut; without it 256, or less if the model was made for less.
    pub context: Option<usize>,
    /// Whether rows are filled with whole short ones; each is learnt as if it were alone.
    pub pack: bool,
    /// Whether rows come in an order that is drawn anew each epoch, or as they are given.
    pub shuffle: bool,
    /// Everything random follows from it but a fresh adapter's start, which follows from [`Spec::seed`].
    pub seed: u64,
    /// Part of the rows that is put aside to measure on, from 0 and below 1.
    pub held_out: f64,
    /// Steps between evaluations on the held-out rows, of which another follows the last step; without it an eighth of
    /// all steps.
    pub eval_every: Option<u64>,
    /// So many evaluations in a row that were no better than the best one end the lesson, with what was best.
    pub patience: Option<u64>,
    /// What is to become of completions.
    pub objective: objective::Spec,
    /// Whether rows that were not liked are weighed by how often such prompts have liked completions:
    /// [`crate::train::density`].
    pub density_ratios: bool,
    /// What moves the parameters.
    pub optimizer: optim::Spec,
    /// How the rate falls after the warm-up.
    pub schedule: Schedule,
    /// Steps over which the rate rises from 0.
    pub warmup: u64,
    /// Largest norm of all gradients together; 0 leaves them alone.
    pub clip: f32,
    /// Gradients estimated from forward passes along so many random directions, for which parameters are moved so far.
    pub zeroth: Option<(u32, f32)>,
    /// Part of the adapter's input that is left out at random in each step, below 1.
    pub dropout: Option<f32>,
    /// How products with the base are computed; int8 is for adapters.
    pub precision: Precision,
    /// Which blocks recompute their activations in the backward pass; with `memory` that decides.
    pub recompute: Recompute,
    /// Number type of saved activations.
    pub act_type: ActType,
    /// Most bytes of the whole process: micro-batches become smaller and activations are recomputed, as far as that
    /// is needed, with the same result.
    pub memory: Option<usize>,
    /// Seconds since 1970 that chat templates take for now; templates that show the date need it.
    pub clock: Option<i64>,
}

impl Default for Settings {
    fn default() -> Self {
        let Config { schedule, warmup, clip, objective, optimizer, precision, recompute, act_type, .. } =
            Config::default();
        Settings {
            lr: None,
            steps: None,
            epochs: 3,
            batch: 1,
            accumulate: 1,
            context: None,
            pack: false,
            shuffle: true,
            seed: 0,
            held_out: 0.0,
            eval_every: None,
            patience: None,
            objective,
            density_ratios: false,
            optimizer,
            schedule,
            warmup,
            clip,
            zeroth: None,
            dropout: None,
            precision,
            recompute,
            act_type,
            memory: None,
            clock: None,
        }
    }
}

impl Settings {
    /// How to train `method` for so many steps.
    fn config(&self, method: &Method, steps: u64) -> Config {
        let gradient = match self.zeroth {
            Some((directions, eps)) => Gradient::Zeroth(Zeroth { directions, eps, seed: self.seed }),
            None => Gradient::Backward,
        };
        Config {
            lr: self.lr.unwrap_or_else(|| Method::rate(method.name())),
            steps,
            schedule: self.schedule,
            warmup: self.warmup,
            clip: self.clip,
            optimizer: self.optimizer.clone(),
            precision: self.precision,
            recompute: self.recompute,
            act_type: self.act_type,
            objective: self.objective.clone(),
            gradient,
            dropout: self.dropout.filter(|rate| *rate > 0.0).map(|rate| Dropout { rate, seed: self.seed }),
            ..Config::default()
        }
    }

    /// Rows of a step.
    fn step(&self) -> Result<usize> {
        let Settings { batch, accumulate, .. } = self;
        let why = || Error::invalid("batch", format!("{batch} rows {accumulate} times are too many"));
        batch.checked_mul(*accumulate).ok_or_else(why)
    }

    /// Steps between evaluations.
    pub(super) fn eval_every(&self, steps: u64) -> u64 {
        self.eval_every.unwrap_or(steps / 8).max(1)
    }
}

/// A lesson that is being set up: made by [`Mynah::lesson`] or [`Mynah::resume`], begun by the data.
///
/// Defaults are those of the method and of [`Settings`]; methods here change those that are changed most often, and
/// [`Setup::settings`] all of them.
pub struct Setup {
    mynah: Mynah,
    method: Method,
    /// The settings.
    pub settings: Settings,
    beneath: Stack,
    resumed: Option<Checkpoint>,
    /// Whether the method is what the checkpoint holds.
    own: bool,
    cache: Option<Box<OpenCache>>,
}

/// Opens a cache for the outputs of so many frozen blocks.
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

    /// With so many optimiser steps.
    pub fn steps(self, steps: u64) -> Setup {
        self.settings(|s| s.steps = Some(steps))
    }

    /// With every row seen so often, if no steps are set.
    pub fn epochs(self, epochs: u64) -> Setup {
        self.settings(|s| s.epochs = epochs)
    }

    /// With this highest learning rate.
    pub fn rate(self, lr: f32) -> Setup {
        self.settings(|s| s.lr = Some(lr))
    }

    /// With so many rows a step, which go through the model together.
    pub fn batch(self, rows: usize) -> Setup {
        self.settings(|s| s.batch = rows)
    }

    /// With rows of at most so many tokens.
    pub fn context(self, tokens: usize) -> Setup {
        self.settings(|s| s.context = Some(tokens))
    }

    /// With this part of the rows put aside to measure on.
    pub fn held_out(self, fraction: f64) -> Setup {
        self.settings(|s| s.held_out = fraction)
    }

    /// With an early end after so many evaluations that were no better than the best one. Needs [`Setup::held_out`].
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

    /// With another objective.
    pub fn objective(self, objective: objective::Spec) -> Setup {
        self.settings(|s| s.objective = objective)
    }

    /// Within so many bytes of memory for the whole process.
    pub fn memory(self, bytes: usize) -> Setup {
        self.settings(|s| s.memory = Some(bytes))
    }

    /// On top of an adapter, which stays as it is; `strength` multiplies its effect. One more comes on top of those before.
    ///
    /// # Errors
    /// Those of [`Stack::push`].
    ///
    /// ```no_run
    /// # let (mynah, more) = (mynah::Mynah::open("smollm2.gguf")?, "");
    /// let setup = mynah.lesson("nola").on(mynah.ready("style.mynah")?, 1.0)?;
    /// let mut lesson = setup.text(more)?;
    /// # Ok::<(), mynah::Error>(())
    /// ```
    pub fn on(mut self, adapter: Arc<Ready>, strength: f32) -> Result<Setup> {
        self.beneath.push(adapter, strength)?;
        Ok(self)
    }

    /// On top of these adapters, in place of those named before.
    pub fn stack(mut self, beneath: Stack) -> Setup {
        self.beneath = beneath;
        self
    }

    /// With a cache for the outputs of the blocks below the lowest that an adapter changes: later epochs and lessons on the
    /// same data skip them. The outputs are rounded to f16: see [`Trainer::cache_activations`]. `open` is called when the
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
    pub fn resume(mut self, saved: Checkpoint) -> Setup {
        // What templates took for now is part of the rows.
        let clock = || Cursor::new(&saved.note("clock").ok()?).u64().ok();
        self.settings.clock = self.settings.clock.or_else(|| clock().map(|c| c as i64));
        self.resumed = Some(saved);
        self.own = false;
        self
    }

    /// What is trained.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// Reads data: JSON Lines if the name ends so or, where it does not tell, if the bytes begin with a brace; else a text.
    /// The shapes of lines are those of [`crate::train::data`].
    ///
    /// # Errors
    /// Those of [`Reader::file`], and of the model's chat template.
    pub fn read(&self, name: &str, bytes: &[u8]) -> Result<Data> {
        self.reader(bytes, |reader| reader.file(name, bytes))
    }

    fn reader(&self, bytes: &[u8], read: impl FnOnce(&Reader) -> Result<crate::train::data::Dataset>) -> Result<Data> {
        #[cfg(feature = "chat")]
        let template = match self.settings.clock {
            Some(now) => self.mynah.template()?.map(|t| t.at(now)),
            None => self.mynah.template()?,
        };
        let reader = Reader {
            tokenizer: &self.mynah.tokenizer,
            #[cfg(feature = "chat")]
            template: template.as_ref(),
            ctx: self.tokens()?,
            limits: Limits::default(),
        };
        Ok(Data { rows: read(&reader)?, digest: *blake3::hash(bytes).as_bytes() })
    }

    /// Most tokens of a row.
    ///
    /// # Errors
    /// `Invalid` if [`Settings::context`] is more than the model was made for, or less than 2.
    pub fn tokens(&self) -> Result<usize> {
        let most = self.mynah.model.hparams.context;
        let tokens = self.settings.context.unwrap_or(CONTEXT.min(most));
        if tokens < 2 || tokens > most {
            return Err(Error::invalid("context", format!("{tokens}: the model was made for 2 to {most} tokens")));
        }
        Ok(tokens)
    }

    /// Begins to learn a text, cut into rows of as many tokens as [`Setup::context`] says.
    ///
    /// # Errors
    /// Those of [`Reader::text`], [`Setup::draft`] and [`Draft::begin`].
    pub fn text(self, text: &str) -> Result<Lesson> {
        let data = self.reader(text.as_bytes(), |reader| reader.text(text))?;
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
    /// let lesson = mynah.lesson("lora").objective(dpo).steps(3).lines(pairs.as_bytes())?;
    /// # assert_eq!(lesson.upcoming(), Some(mynah::app::Work::Reference));
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn lines(self, lines: &[u8]) -> Result<Lesson> {
        let data = self.reader(lines, |reader| reader.lines(lines))?;
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
        let read = || self.read(&name, &crate::bytes::map::open(path.as_ref())?);
        let data = read().map_err(|e| e.in_file(&*name))?;
        self.draft(data)?.begin()
    }

    /// Begins to learn rows of tokens.
    ///
    /// # Errors
    /// Those of [`Setup::draft`] and [`Draft::begin`].
    pub fn examples(self, rows: Vec<Example>) -> Result<Lesson> {
        self.draft(Data::new(rows))?.begin()
    }

    /// Everything but the memory for it: rows are split and brought into shape, settings are checked.
    ///
    /// # Errors
    /// `Invalid` for settings that cannot be used, by their names in [`Settings`], and for rows that the objective cannot
    /// learn from; `Unsupported` for unknown names of kinds, objectives and optimisers.
    pub fn draft(self, data: Data) -> Result<Draft> {
        let Setup { mynah, method, settings, beneath, resumed, own, .. } = &self;
        let tokens = self.tokens()?;
        if settings.patience.is_some() && settings.held_out == 0.0 {
            return Err(Error::invalid("patience", "it measures on held-out rows, and none are put aside"));
        }
        method.check(mynah, settings, beneath)?;
        let (objective, _) = settings.objective.row()?;
        if settings.density_ratios && objective.shape != Shape::Verdict {
            let why = format!("they are for completions that were liked or not; {} is not", objective.name);
            return Err(Error::invalid("density ratios", why));
        }
        let rows = Rows::new(data.rows, settings, tokens)?;
        let shuffle = settings.shuffle.then_some(settings.seed);
        let order = Order::new(rows.rows.len(), settings.batch, settings.accumulate, shuffle)?;
        let steps = settings.steps.unwrap_or_else(|| settings.epochs.saturating_mul(order.steps_per_epoch()));
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
        Ok(Draft { rows, order, steps, tokens, digest: data.digest, began, config, micro, plan: None, setup: self })
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
        let tokens = self.tokens()?;
        self.method.check(&self.mynah, &self.settings, &self.beneath)?;
        let rows = plan::Rows::full(tokens, self.settings.batch.saturating_mul(self.settings.accumulate).min(ROWS));
        let config = self.settings.config(&self.method, 1);
        Ok(self.settle(rows, config, held)?.map(|(_, _, plan)| plan))
    }

    /// Configuration, micro-batch and plan, with blocks and micro-batch settled.
    fn settle(
        &self,
        rows: plan::Rows,
        config: Config,
        held: usize,
    ) -> Result<core::result::Result<(Config, usize, Plan), Refusal>> {
        let run = Run {
            model: &self.mynah.model,
            subject: self.method.subject(&self.mynah),
            beneath: &self.beneath,
            config,
            rows,
            batch: self.settings.batch,
            step: self.settings.step()?,
            checkpoints: true,
            activation_cache: self.cache.is_some(),
            held,
        };
        let Some(bytes) = self.settings.memory else {
            let plan = run.plan()?;
            // For the largest batch, so that smaller ones do not settle it anew.
            let config = Config { recompute: Recompute::AllBut(plan.saved_blocks), ..run.config };
            return Ok(Ok((config, run.batch, plan)));
        };
        Ok(run.fit(bytes)?.map(|(run, plan)| (run.config, run.batch, plan)))
    }
}

/// A lesson with its data and its settings checked, before memory is taken for it: here it can be planned.
pub struct Draft {
    setup: Setup,
    rows: Rows,
    order: Order,
    steps: u64,
    tokens: usize,
    digest: [u8; 32],
    began: Option<Field>,
    config: Config,
    micro: usize,
    plan: Option<Plan>,
}

impl Draft {
    /// Rows to learn, in the shape that the objective wants.
    pub fn rows(&self) -> &[Example] {
        &self.rows.examples[..self.rows.learnt]
    }

    /// Rows put aside to measure on.
    pub fn held_out(&self) -> &[Example] {
        &self.rows.examples[self.rows.learnt..]
    }

    /// Pairs that became two rows each, one liked and one not, because the objective wants these.
    pub fn pairs(&self) -> usize {
        self.rows.pairs
    }

    /// Optimiser steps of the whole lesson.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// What memory the lesson will take. `held` are the bytes that the process holds already, but for the model's file.
    ///
    /// # Errors
    /// Those of making what is trained. The inner error says what would fit instead, if [`Settings::memory`] is not
    /// enough.
    pub fn plan(&mut self, held: usize) -> Result<core::result::Result<Plan, Refusal>> {
        let rows = plan::Rows::of(&self.rows.rows, &self.rows.examples);
        let config = Config { recompute: self.setup.settings.recompute, ..self.config.clone() };
        Ok(self.setup.settle(rows, config, held)?.map(|(config, micro, plan)| {
            (self.config, self.micro) = (config, micro);
            self.plan = Some(plan.clone());
            plan
        }))
    }

    /// Takes the memory, and continues where a checkpoint was written. No row goes through the model yet.
    ///
    /// # Errors
    /// `Limit` if [`Settings::memory`] is not enough; `Invalid` for settings that cannot be used; `Changed` with every
    /// difference if a checkpoint is of another lesson. With [`Settings::density_ratios`] that is found when all rows are
    /// weighed, by [`Lesson::next`].
    pub fn begin(mut self) -> Result<Lesson> {
        if self.plan.is_none()
            && let Err(refusal) = self.plan(0)?
        {
            let bytes = self.setup.settings.memory.unwrap_or(0) as u64;
            return Err(Error::limit("bytes of memory", refusal.least.total() as u64, bytes));
        }
        let Draft { setup, rows, order, steps, tokens, digest, began, mut config, micro, .. } = self;
        let Setup { mynah, method, settings, beneath, resumed, cache, .. } = setup;
        // Where saved activations are rounded, the number of such blocks decides bits: it stays as it was.
        let blocks = resumed.as_ref().and_then(|saved| saved.facts().text(checkpoint::SAVED_BLOCKS).ok()?.parse().ok());
        if let Some(blocks) = blocks {
            config.recompute = Recompute::AllBut(blocks);
        }
        let mut trainer = match method {
            Method::Fresh(spec) => Trainer::on(&mynah.model, beneath, adapter::create(&spec, mynah.base())?, config)?,
            Method::Given(adapter) => Trainer::on(&mynah.model, beneath, adapter, config)?,
            Method::Weights => Trainer::full(&mynah.model, config)?,
        };
        if let Some(open) = cache {
            match trainer.frozen_blocks() {
                0 => return Err(Error::invalid("activation cache", "the first block is trained too")),
                blocks => trainer.cache_activations(open(blocks)?),
            }
        }
        let mut facts = Head::new();
        if let Some(began) = began {
            facts.set(BEGAN, began);
        }
        facts.set("data", short(digest.into())).set("tokens of a row", tokens as u64);
        facts.set("steps between looks", settings.eval_every(steps)).set("patience", settings.patience.unwrap_or(0));
        facts.set("packed rows", if settings.pack { "yes" } else { "no" });
        Lesson::new(mynah, trainer, settings, rows, order, micro, steps, digest, facts, resumed)
    }
}

/// The first digits of a digest.
pub(super) fn short(hash: blake3::Hash) -> String {
    hash.to_hex()[..16].into()
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
