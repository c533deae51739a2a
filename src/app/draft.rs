//! A lesson between its settings and its first step: where it can be planned.

use super::data::Rows;
use super::lesson::Lesson;
use super::method::Method;
use super::output::short;
use super::setup::Setup;
use crate::adapter;
use crate::bytes::room;
use crate::container::head::{Field, Head};
use crate::error::{Error, Result};
use crate::train::data::Order;
use crate::train::plan::{Plan, Refusal};
use crate::train::{Config, Example, Recompute, Trainer, checkpoint};
use std::prelude::v1::*;

/// The fact that names the adapter which a lesson began from.
pub(super) const BEGAN: &str = "adapter at the start";

/// A lesson with its data and its settings checked, before memory is taken for it: here it can be planned.
///
/// ```
/// # fn main() -> mynah::Result<()> {
/// # #[cfg(feature = "base")] {
/// # let mynah = mynah::Mynah::embedded()?;
/// let setup = mynah.lesson("lora").context(64).held_out(0.25).steps(2);
/// let data = setup.read("notes.txt", mynah::base::NOTES.as_bytes())?;
/// let draft = setup.draft(data)?;
/// println!("{} rows to learn, {} to measure on", draft.rows().len(), draft.held_out().len());
/// let lesson = draft.begin()?;
/// assert_eq!(lesson.steps(), 2);
/// # }
/// # Ok(()) }
/// ```
pub struct Draft {
    pub(super) setup: Setup,
    pub(super) rows: Rows,
    pub(super) order: Order,
    pub(super) steps: u64,
    pub(super) context: usize,
    pub(super) digest: [u8; 32],
    pub(super) began: Option<Field>,
    pub(super) config: Config,
    pub(super) micro: usize,
    pub(super) plan: Option<Plan>,
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

    /// Tokens of the rows to learn, as often as they go through the model in an epoch.
    pub fn tokens(&self) -> usize {
        self.rows.tokens()
    }

    /// How often every row will be seen.
    pub fn epochs(&self) -> f64 {
        self.steps as f64 / self.order.steps_per_epoch() as f64
    }

    /// What memory the lesson will take. `held` are the bytes that the process holds already, but for the model's file.
    ///
    /// # Errors
    /// Those of making what is trained. The inner error says what would fit instead, if [`Settings::memory`] is not enough.
    ///
    /// [`Settings::memory`]: super::Settings::memory
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # let mynah = mynah::Mynah::embedded()?;
    /// let draft = |bytes: usize| {
    ///     let setup = mynah.lesson("lora").context(64).batch(8).memory(bytes);
    ///     let data = setup.read("notes.txt", mynah::base::NOTES.as_bytes())?;
    ///     setup.draft(data)
    /// };
    /// let enough = draft(1 << 30)?.plan(0)?.expect("1 GiB is enough");
    /// assert!(enough.total() <= 1 << 30);
    /// let refusal = draft(1 << 20)?.plan(0)?.err().expect("1 MiB is not");
    /// assert!(refusal.least.total() > 1 << 20); // the least that it takes
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn plan(&mut self, held: usize) -> Result<core::result::Result<Plan, Refusal>> {
        let rows = self.rows.lengths();
        let config = self.setup.settings.config(&self.setup.method, self.steps);
        Ok(self.setup.settle(rows, config, held, !self.held_out().is_empty())?.map(|(config, micro, plan)| {
            (self.config, self.micro) = (config, micro);
            self.plan = Some(plan.clone());
            plan
        }))
    }

    /// Takes the memory, and continues where a checkpoint was written. No row goes through the model yet.
    ///
    /// # Errors
    /// `Limit` if [`Settings::memory`] is not enough; `Memory` if the system does not have what is planned; `Invalid` for settings that cannot be used; `Changed` with every
    /// difference if a checkpoint is of another lesson. With [`Settings::density_ratios`] that is found when all rows are
    /// weighed, by [`Lesson::next`].
    ///
    /// [`Settings::memory`]: super::Settings::memory
    /// [`Settings::density_ratios`]: super::Settings::density_ratios
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # let mynah = mynah::Mynah::embedded()?;
    /// let setup = mynah.lesson("lora").held_out(0.0).context(64).steps(1);
    /// let data = setup.read("notes.txt", mynah::base::NOTES.as_bytes())?;
    /// let mut draft = setup.draft(data)?;
    /// if draft.plan(0)?.is_ok() {
    ///     let mut lesson = draft.begin()?;
    ///     lesson.next().transpose()?;
    ///     assert_eq!(lesson.history().steps(), 1);
    /// }
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn begin(mut self) -> Result<Lesson> {
        if self.plan.is_none()
            && let Err(refusal) = self.plan(0)?
        {
            let bytes = self.setup.settings.memory.unwrap_or(0) as u64;
            return Err(Error::limit("bytes of memory", refusal.least.total() as u64, bytes));
        }
        self.plan.iter().try_for_each(|plan| room("this lesson", plan.reserved()))?;
        let Draft { setup, rows, order, steps, context, digest, began, mut config, micro, .. } = self;
        let Setup { mynah, method, settings, beneath, resumed, cache, .. } = setup;
        // Where saved activations are rounded, the number of such blocks decides bits: it stays as it was.
        let blocks = resumed.as_ref().and_then(|saved| saved.facts().text(checkpoint::SAVED_BLOCKS).ok()?.parse().ok());
        if let Some(blocks) = blocks {
            config.recompute = Recompute::AllBut(blocks);
        }
        let model = mynah.model.at_context(context);
        let mut trainer = match method {
            Method::Fresh(spec) => Trainer::on(&model, beneath, adapter::create(&spec, mynah.base())?, config)?,
            Method::Given(adapter) => Trainer::on(&model, beneath, adapter, config)?,
            Method::Weights => Trainer::full(&model, config)?,
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
        facts.set("data", short(digest.into())).set("tokens of a row", context as u64);
        facts.set("steps between looks", settings.eval_every(steps)).set("patience", settings.patience.unwrap_or(0));
        facts.set("packed rows", if settings.pack { "yes" } else { "no" });
        // Only where they are asked for: runs that were saved without them go on.
        if settings.merge_system {
            facts.set("system messages", "merged");
        }
        if settings.parse_special {
            facts.set("control tokens in data", "read");
        }
        Lesson::new(mynah, trainer, settings, rows, order, micro, steps, digest, facts, resumed)
    }
}
