//! Groups of parameters that take turns, each with data of its own: the schedule against interference of LLaMA-Adapter V2
//! (arXiv:2304.15010).
//!
//! Each group is an adapter, and all of them are one stack, in their order, above the adapters that stay frozen. Every pass
//! goes through the whole stack, and every step moves one group, the next one each time, with the rows of that group. So what
//! a group learns fits what the others have learnt, and none moves on rows of another. Optimiser, schedule and order of
//! rows are the group's own and count its own steps.

use super::data::Order;
use super::{Assessment, Checkpoint, Config, Example, Report, Trained, Trainer, Turn};
use crate::adapter::{Adapter, Base, Stack};
use crate::bytes::{Bytes, Limits};
use crate::container::head::Head;
use crate::container::{Builder, Container};
use crate::error::{Error, Result};
use core::mem::swap;
use std::prelude::v1::*;

const KIND: &str = "groups";

/// A group of parameters.
pub struct Group {
    /// The adapter that they make up.
    pub adapter: Box<dyn Adapter>,
    /// Its peak learning rate.
    pub lr: f32,
    /// The order of its rows.
    pub order: Order,
}

/// A training run whose groups take turns.
///
/// ```
/// # use mynah::{Result, adapter::{self, Spec, Stack}, model::Model, train::{Config, Example, Group, Groups, data::Order}};
/// # fn learn(model: &Model, base: &adapter::Base, data: [&[Example]; 2]) -> Result<Stack> {
/// let group = |kind, lr, rows: &[Example]| -> Result<Group> {
///     let order = Order::new(rows.len(), 4, 1, Some(0))?;
///     Ok(Group { adapter: adapter::create(&Spec::new(kind), base)?, lr, order })
/// };
/// let all = vec![group("lora", 1e-3, data[0])?, group("unlock", 1e-2, data[1])?];
/// let mut groups = Groups::new(model, Stack::new(), all, Config { steps: 50, ..Config::default() })?;
/// for _ in 0..100 {
///     let own = data[groups.turn()];
///     let rows: Vec<Example> = groups.next_rows().concat().into_iter().map(|i| own[i].clone()).collect();
///     groups.step(&[&rows])?;
/// }
/// Ok(groups.into_stack()) // both of them, to be attached together
/// # }
/// ```
pub struct Groups {
    trainer: Trainer,
    /// What belongs to each group. The trainer has that of the group `active`.
    turns: Vec<Turn>,
    active: usize,
    orders: Vec<Order>,
    /// The number of frozen adapters.
    beneath: usize,
    /// Steps of all groups.
    done: u64,
}

impl Trainer {
    /// Exchanges what belongs to one adapter for what belongs to another.
    fn take(&mut self, turn: &mut Turn) {
        if let Trained::Adapter { which, .. } = &mut self.trained {
            swap(which, &mut turn.which);
        }
        swap(&mut self.optimizer, &mut turn.optimizer);
        swap(&mut self.objective, &mut turn.objective);
        swap(&mut self.grads, &mut turn.grads);
        swap(&mut self.acc, &mut turn.acc);
        swap(&mut self.unrounded, &mut turn.unrounded);
        swap(&mut self.config.lr, &mut turn.lr);
        swap(&mut self.step, &mut turn.step);
    }
}

impl Groups {
    /// Trains `groups` above the adapters `beneath`, which stay frozen like the model. `config` holds for each of them, but for
    /// the rate; its steps are those of one group. The reference of an objective is the model with the adapters beneath.
    ///
    /// # Errors
    /// `Invalid` for settings that cannot be used, no group, and groups that cannot stand in one stack.
    pub fn new(model: &crate::model::Model, beneath: Stack, groups: Vec<Group>, config: Config) -> Result<Groups> {
        if groups.is_empty() {
            return Err(Error::invalid("groups", "none to train"));
        }
        let (first, mut stack, mut orders, mut rates) = (beneath.all().len(), beneath.clone(), Vec::new(), Vec::new());
        for Group { adapter, lr, order } in groups {
            Config { lr, ..config.clone() }.check()?;
            config.check_adapter(&*adapter)?;
            stack.push(model.ready(adapter)?, 1.0)?;
            rates.push(lr);
            orders.push(order);
        }
        let turn = |(i, lr): (usize, &f32)| -> Result<Turn> {
            let adapter = &**stack.all()[first + i].adapter as &dyn Adapter;
            Turn::of_adapter(&Config { lr: *lr, ..config.clone() }, first + i, adapter)
        };
        let mut turns = rates.iter().enumerate().map(turn).collect::<Result<Vec<_>>>()?;
        let trained = Trained::Adapter { stack, beneath, which: first };
        let config = Config { lr: rates[0], ..config };
        let empty = Turn::of_adapter(&config, first, trained.adapter().expect("the first group"))?;
        let own = core::mem::replace(&mut turns[0], empty);
        let trainer = Trainer::new(model.clone(), trained, config, own)?;
        Ok(Groups { trainer, turns, active: 0, orders, beneath: first, done: 0 })
    }

    /// Makes a group the trained one.
    fn activate(&mut self, group: usize) {
        if group != self.active {
            self.trainer.take(&mut self.turns[self.active]);
            self.trainer.take(&mut self.turns[group]);
            self.active = group;
        }
    }

    /// The group that the next step trains.
    pub fn turn(&self) -> usize {
        (self.done % self.orders.len() as u64) as usize
    }

    /// The rows of the next step, batch by batch: indices of the data of the group whose turn it is.
    pub fn next_rows(&mut self) -> Vec<Vec<usize>> {
        let turn = self.turn();
        self.orders[turn].next_step()
    }

    /// One optimiser step of the group whose turn it is. The report counts its own steps. Then it is the turn of the next one.
    ///
    /// # Errors
    /// Those of [`Trainer::step`]; the turn does not pass then.
    pub fn step(&mut self, micro: &[&[Example]]) -> Result<Report> {
        self.activate(self.turn());
        let report = self.trainer.step(micro)?;
        self.done += 1;
        Ok(report)
    }

    /// Steps of all groups.
    pub fn steps(&self) -> u64 {
        self.done
    }

    /// The adapter of a group in its present state.
    pub fn adapter(&self, group: usize) -> Option<&dyn Adapter> {
        let all = self.trainer.trained.stack().all();
        (group < self.orders.len()).then(|| &**all[self.beneath + group].adapter as &dyn Adapter)
    }

    /// The gradients of the last step of a group, after clipping.
    ///
    /// # Panics
    /// If there is no such group.
    pub fn grads(&self, group: usize) -> &[f32] {
        if group == self.active { &self.trainer.grads } else { &self.turns[group].grads }
    }

    /// [`Trainer::assess`] of examples with the whole stack, by the objective of a group.
    ///
    /// # Errors
    /// Those of [`Trainer::assess`].
    ///
    /// # Panics
    /// If there is no such group.
    pub fn assess(&mut self, group: usize, examples: &[Example]) -> Result<Assessment> {
        self.activate(group);
        self.trainer.assess(examples)
    }

    /// [`Trainer::fill_reference_logps`].
    ///
    /// # Errors
    /// Those of [`Trainer::fill_reference_logps`].
    pub fn fill_reference_logps(&mut self, examples: &mut [Example]) -> Result<()> {
        self.trainer.fill_reference_logps(examples)
    }

    /// Frozen and trained adapters in one stack.
    pub fn into_stack(self) -> Stack {
        self.trainer.trained.stack().clone()
    }

    /// Facts of a group beside those of the caller.
    fn facts(&self, group: usize, more: &Head) -> Head {
        let mut facts = more.clone();
        facts.set("group", format!("{} of {}", group + 1, self.orders.len()));
        facts
    }

    /// The bytes of a checkpoint after the last step, a [checkpoint](Trainer::checkpoint) of each group in one. `more[i]` are
    /// the facts of group `i`.
    ///
    /// # Errors
    /// Those of [`Trainer::checkpoint`]; `Invalid` for another number of facts.
    pub fn checkpoint(&mut self, base: &Base, more: &[Head]) -> Result<Vec<u8>> {
        self.matches(more)?;
        let mut state = Head::new();
        state.set("done", self.done);
        let mut file = Builder::new(KIND).section("state", true, state.encode());
        for (group, more) in more.iter().enumerate() {
            self.activate(group);
            let bytes = self.trainer.checkpoint(base, &self.orders[group], &self.facts(group, more), &[])?;
            file = file.section(&format!("group.{group}"), true, bytes);
        }
        Ok(file.finish())
    }

    /// Resumes from a checkpoint. The groups must have been made like those that wrote it. After an error they must be made
    /// anew.
    ///
    /// # Errors
    /// Those of [`Checkpoint::read`] and [`Trainer::resume`]; `Invalid` for another number of facts.
    pub fn resume(&mut self, bytes: Bytes, base: &Base, more: &[Head], limits: &Limits) -> Result<()> {
        self.matches(more)?;
        let file = Container::read(bytes, limits)?;
        file.require_kind(KIND)?;
        let names: Vec<String> = (0..more.len()).map(|group| format!("group.{group}")).collect();
        file.refuse_unknown(&names.iter().map(String::as_str).chain(["state"]).collect::<Vec<_>>())?;
        let done = Head::decode(&file.require("state")?, limits)?.integer("done")?;
        let saved =
            names.iter().map(|name| Checkpoint::read(file.require(name)?, limits)).collect::<Result<Vec<_>>>()?;
        let n = saved.len() as u64;
        let shares = saved.iter().zip(0..).all(|(saved, i)| saved.step() == done / n + u64::from(i < done % n));
        if !shares {
            return Err(Error::corrupt(format!("{done} steps that are not those of {n} groups in turn"), 0));
        }
        for (group, (saved, more)) in saved.iter().zip(more).enumerate() {
            self.activate(group);
            let facts = self.facts(group, more);
            self.trainer.resume(saved, base, &mut self.orders[group], &facts)?;
        }
        self.done = done;
        Ok(())
    }

    fn matches(&self, more: &[Head]) -> Result<()> {
        match more.len() == self.orders.len() {
            true => Ok(()),
            false => Err(Error::invalid("facts", format!("of {} groups for {}", more.len(), self.orders.len()))),
        }
    }
}
