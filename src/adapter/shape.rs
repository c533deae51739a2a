//! One description of an adapter, which files, planner, optimisers, compressors and `inspect` read.

use super::place::{Place, Shaped};
use core::ops::Range;
use std::prelude::v1::*;

/// What an adapter is but for the values of its parameters.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// Where it stands, sorted by place.
    pub slots: Vec<Slot>,
    /// What its parameters are, end to end.
    pub parts: Vec<Part>,
    /// What it holds.
    pub size: Size,
    /// What it wants of the passes, all its slots together.
    pub needs: Needs,
}

/// One place where an adapter stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Where.
    pub place: Place,
    /// Widths of input and output there.
    pub shape: [usize; 2],
    /// Its parts.
    pub parts: Range<usize>,
    /// What it wants of the passes there.
    pub needs: Needs,
}

/// A part of a flat slice of parameters, a matrix by rows; a vector is one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it is, the same for every slot.
    pub name: &'static str,
    /// Where it lies.
    pub range: Range<usize>,
    /// Values of a row.
    pub cols: usize,
    /// What it holds before the first step.
    pub start: Start,
    /// Which parameters it moves with.
    pub group: Group,
}

/// What a part holds before the first step: what a compressor may measure from, since it need not be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Zeros.
    Zero,
    /// Ones.
    One,
    /// What a seed or the frozen weights give: see [`super::Adapter::start`].
    Given,
}

/// Parameters with a learning rate of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// The rate as it is.
    Main,
    /// The B of a low-rank change, whose rate LoRA+ multiplies.
    Fast,
}

/// What an adapter wants of the passes beside rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// In the backward pass the rows that it changed, as they were before. At the rows before the text, the embedding and the
    /// join there are none.
    pub output: bool,
    /// The log-sum-exp of attention's scores.
    pub lse: bool,
    /// It changes `dy`: see [`super::Adapter::backward`].
    pub rescales: bool,
    /// It reads `x`.
    pub input: bool,
    /// A strength below 0 means nothing.
    pub positive: bool,
    /// Rows before the text.
    pub rows: usize,
    /// Width of the state along the layers.
    pub state: usize,
}

/// How much an adapter holds while it is trained, in values of `f32`; of one that grows the most it may come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// What is trained.
    pub params: usize,
    /// What is derived from it, or came with it.
    pub derived: usize,
    /// What `backward` adds up; 0 if these are the gradients themselves, and `reduce` a copy.
    pub gathered: usize,
    /// What each thread needs to derive and to reduce.
    pub scratch: usize,
    /// What the passes need for each row.
    pub row: usize,
}

impl Needs {
    /// Nothing.
    pub const NONE: Needs =
        Needs { output: false, lse: false, rescales: false, input: false, positive: false, rows: 0, state: 0 };

    /// What both want together.
    pub fn and(self, other: Needs) -> Needs {
        Needs {
            output: self.output | other.output,
            lse: self.lse | other.lse,
            rescales: self.rescales | other.rescales,
            input: self.input | other.input,
            positive: self.positive | other.positive,
            rows: self.rows + other.rows,
            state: self.state.max(other.state),
        }
    }
}

impl Part {
    /// Rows.
    pub fn rows(&self) -> usize {
        self.range.len() / self.cols.max(1)
    }
}

impl Shape {
    /// The lowest block that it changes or that lies above what it changes; `layers` if it changes none of them.
    pub fn lowest(&self, layers: usize) -> usize {
        let of = |slot: &Slot| match slot.place {
            Place::Rows | Place::Embedding => 0,
            place => place.layer().unwrap_or(layers),
        };
        self.slots.iter().map(of).min().unwrap_or(layers)
    }

    /// Whether gradients must reach the embedded tokens.
    pub fn embeds(&self) -> bool {
        self.slots.iter().any(|s| matches!(s.place, Place::Rows | Place::Embedding))
    }

    /// Whether dropout has an input to act on: only slots at a site or in the stream that read `x` have one.
    pub fn drops(&self) -> bool {
        self.slots.iter().any(|s| s.needs.input && matches!(s.place, Place::Site(_) | Place::Stream(..)))
    }

    /// Its places with their shapes.
    pub fn places(&self) -> Vec<Shaped> {
        self.slots.iter().map(|s| (s.place, s.shape)).collect()
    }

    /// The slot at a place.
    pub fn slot(&self, place: Place) -> Option<usize> {
        self.slots.binary_search_by_key(&place, |s| s.place).ok()
    }

    /// A description from its places and the parts of each: `parts(place, widths)` gives name, columns, length, start and
    /// group of each part, `needs(place)` what is wanted there. Sizes are those of the parameters alone.
    pub fn build(
        mut places: Vec<Shaped>,
        needs: impl Fn(Place) -> Needs,
        parts: impl Fn(Place, [usize; 2]) -> Vec<NewPart>,
    ) -> Shape {
        places.sort();
        let mut shape = Shape::default();
        let mut len = 0;
        for (place, widths) in places {
            let first = shape.parts.len();
            for NewPart { name, cols, rows, start, group } in parts(place, widths) {
                shape.parts.push(Part { name, range: len..len + rows * cols, cols, start, group });
                len += rows * cols;
            }
            let needs = needs(place);
            shape.needs = shape.needs.and(needs);
            shape.slots.push(Slot { place, shape: widths, parts: first..shape.parts.len(), needs });
        }
        shape.size.params = len;
        shape
    }
}

/// A part whose place is not known yet.
pub struct NewPart {
    /// What it is.
    pub name: &'static str,
    /// Rows.
    pub rows: usize,
    /// Values of a row.
    pub cols: usize,
    /// What it holds before the first step.
    pub start: Start,
    /// Which parameters it moves with.
    pub group: Group,
}

impl NewPart {
    /// A matrix `[rows, cols]` or, with one row, a vector; its group is [`Group::Main`].
    pub fn new(name: &'static str, rows: usize, cols: usize, start: Start) -> NewPart {
        NewPart { name, rows, cols, start, group: Group::Main }
    }
}
