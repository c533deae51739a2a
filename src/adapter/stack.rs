//! Adapters that are ready to be attached, and the stack of attached ones with an index by place.

use super::{Adapter, Frozen, Needs, Place};
use crate::bytes::room;
use crate::error::{Error, Result};
use crate::kernel::Compute;
use core::ops::Deref;
use std::prelude::v1::*;
use std::sync::Arc;

/// An adapter that can be attached: everything that is derived from its parameters and the frozen weights is up to date.
pub struct Ready(Box<dyn Adapter>);

impl Ready {
    /// Prepares it.
    ///
    /// # Errors
    /// `Memory` if there is no room for what is derived, which a small file can make large; those of [`Adapter::prepare`].
    pub fn new(mut adapter: Box<dyn Adapter>, cx: &Compute, frozen: &dyn Frozen) -> Result<Arc<Ready>> {
        let derived = adapter.shape().size.derived;
        room("what is derived from an adapter", derived.saturating_mul(size_of::<f32>()))?;
        adapter.prepare(cx, frozen)?;
        Ok(Arc::new(Ready(adapter)))
    }

    /// The adapter, for changes. Call [`Adapter::prepare`] after a change of its parameters.
    pub(crate) fn adapter_mut(&mut self) -> &mut dyn Adapter {
        &mut *self.0
    }

    /// The adapter itself.
    pub fn into_inner(self) -> Box<dyn Adapter> {
        self.0
    }
}

impl Deref for Ready {
    type Target = dyn Adapter;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

/// An attached adapter.
#[derive(Clone)]
pub struct Attached {
    /// The adapter.
    pub adapter: Arc<Ready>,
    /// Its strength: 1 as trained, 0 not at all.
    pub strength: f32,
}

/// An adapter at a place: the index of the adapter and its slot there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The index of the attached adapter.
    pub which: usize,
    /// The index of its slot.
    pub slot: usize,
}

/// Adapters in the order of their attachment.
#[derive(Clone, Default)]
pub struct Stack {
    all: Vec<Attached>,
    /// By place: places outside of blocks first, then block by block.
    table: Vec<Vec<Member>>,
    needs: Needs,
}

impl Stack {
    /// An empty stack.
    pub const fn new() -> Stack {
        Stack { all: Vec::new(), table: Vec::new(), needs: Needs::NONE }
    }

    /// Adds an adapter on top. With strength 0 it is at no place.
    ///
    /// # Errors
    /// `Invalid` for a strength that is not finite, or negative where that is not defined; and for a second adapter
    /// with a state along the layers.
    pub fn push(&mut self, adapter: Arc<Ready>, strength: f32) -> Result<()> {
        self.check(&adapter, strength, None)?;
        self.all.push(Attached { adapter, strength });
        self.index();
        Ok(())
    }

    /// Whether an adapter can stand beside all others, or in the place of one of them.
    fn check(&self, adapter: &Arc<Ready>, strength: f32, instead: Option<usize>) -> Result<()> {
        if !strength.is_finite() || strength < 0.0 && adapter.shape().needs.positive {
            let why = format!("{strength}, and {} can be used with 0 and more", adapter.kind().name);
            return Err(Error::invalid("strength of an adapter", why));
        }
        let runs = |a: &Attached| a.strength != 0.0 && a.adapter.shape().needs.state > 0;
        let others = self.all.iter().enumerate().filter(|(i, _)| Some(*i) != instead);
        if strength != 0.0 && adapter.shape().needs.state > 0 && others.into_iter().any(|(_, a)| runs(a)) {
            return Err(Error::invalid("adapter", "a second one with a state along the layers"));
        }
        Ok(())
    }

    fn number(&self, which: usize) -> Result<()> {
        match which < self.all.len() {
            true => Ok(()),
            false => Err(Error::invalid("adapter", format!("number {which} of {} that are attached", self.all.len()))),
        }
    }

    /// Changes the strength of the adapter of that number, from 0.
    ///
    /// # Errors
    /// Those of [`Stack::push`]; `Invalid` if there is none of that number.
    pub fn set_strength(&mut self, which: usize, strength: f32) -> Result<()> {
        self.number(which)?;
        self.swap(which, self.all[which].adapter.clone(), strength)
    }

    /// Puts an adapter in the place of the one of that number.
    ///
    /// # Errors
    /// Those of [`Stack::set_strength`].
    pub fn swap(&mut self, which: usize, adapter: Arc<Ready>, strength: f32) -> Result<()> {
        self.number(which)?;
        self.check(&adapter, strength, Some(which))?;
        self.all[which] = Attached { adapter, strength };
        self.index();
        Ok(())
    }

    /// Removes the adapter of that number.
    ///
    /// # Errors
    /// `Invalid` if there is none.
    pub fn remove(&mut self, which: usize) -> Result<Arc<Ready>> {
        self.number(which)?;
        let removed = self.all.remove(which);
        self.index();
        Ok(removed.adapter)
    }

    /// Rebuilds the index by place after a shape has changed.
    pub(crate) fn index(&mut self) {
        self.table.iter_mut().for_each(Vec::clear);
        self.needs = Needs::NONE;
        for (which, Attached { adapter, strength }) in self.all.iter().enumerate() {
            if *strength == 0.0 {
                continue;
            }
            for (slot, at) in adapter.shape().slots.iter().enumerate() {
                let index = index(at.place);
                if self.table.len() <= index {
                    self.table.resize(index + 1, Vec::new());
                }
                self.table[index].push(Member { which, slot });
            }
            self.needs = self.needs.and(adapter.shape().needs);
        }
    }

    /// Whether both hold the same adapters, by identity, with the same strengths.
    pub fn same(&self, other: &Stack) -> bool {
        let same = |(a, b): (&Attached, &Attached)| Arc::ptr_eq(&a.adapter, &b.adapter) && a.strength == b.strength;
        self.all.len() == other.all.len() && self.all.iter().zip(&other.all).all(same)
    }

    /// All of them.
    pub fn all(&self) -> &[Attached] {
        &self.all
    }

    /// The adapter of that number, for changes.
    pub(crate) fn get_mut(&mut self, which: usize) -> Option<&mut Arc<Ready>> {
        self.all.get_mut(which).map(|a| &mut a.adapter)
    }

    /// Removes the last one.
    pub(crate) fn pop(&mut self) -> Option<Arc<Ready>> {
        let last = self.all.pop();
        self.index();
        last.map(|a| a.adapter)
    }

    /// Whether none is attached.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The adapters at a place, first to last.
    pub fn at(&self, place: Place) -> &[Member] {
        self.table.get(index(place)).map_or(&[], |members| members)
    }

    /// The adapter of a member.
    pub fn adapter(&self, member: &Member) -> &Attached {
        &self.all[member.which]
    }

    /// The needs of all adapters.
    pub fn needs(&self) -> Needs {
        self.needs
    }

    /// The needs of the adapters at a place.
    pub fn needs_at(&self, place: Place) -> Needs {
        let of = |member: &Member| self.adapter(member).adapter.shape().slots[member.slot].needs;
        self.at(place).iter().map(of).fold(Needs::NONE, Needs::and)
    }

    /// The lowest block that any of them changes; `layers` if none does.
    pub fn lowest(&self, layers: usize) -> usize {
        self.all.iter().map(|a| a.adapter.shape().lowest(layers)).min().unwrap_or(layers)
    }
}

fn index(place: Place) -> usize {
    match place.layer() {
        Some(layer) => Place::OUTSIDE + layer * Place::DOORS + place.door(),
        None => place.door(),
    }
}
