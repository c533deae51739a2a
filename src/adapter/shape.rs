//! The description of an adapter, which files, planner, optimisers and `inspect` read.

use super::place::{Place, Shaped};
use core::ops::Range;
use std::prelude::v1::*;

/// The description of an adapter: everything except for the values of its parameters.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// Its places, sorted.
    pub slots: Vec<Slot>,
    /// The parts of its parameters, in order and without gaps.
    pub parts: Vec<Part>,
    /// Its sizes in memory.
    pub size: Size,
    /// Its needs in the passes, over all slots.
    pub needs: Needs,
}

/// One place where an adapter is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The place.
    pub place: Place,
    /// Widths of input and output there.
    pub shape: [usize; 2],
    /// Its parts.
    pub parts: Range<usize>,
    /// Its needs in the passes there.
    pub needs: Needs,
}

/// A part of a flat slice of parameters, a matrix by rows; a vector is one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its name, the same for every slot.
    pub name: &'static str,
    /// Its range in the slice.
    pub range: Range<usize>,
    /// Values of a row.
    pub cols: usize,
    /// Its values before the first step.
    pub start: Start,
    /// Its learning-rate group.
    pub group: Group,
}

/// The values of a part before the first step. Codecs may store differences from these, since they need not be stored
/// themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Zeros.
    Zero,
    /// Ones.
    One,
    /// Values that follow from a seed or from the frozen weights: see [`super::Adapter::start`].
    Given,
}

/// Groups of parameters with their own learning rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// The learning rate itself.
    Main,
    /// The B of a low-rank change; LoRA+ multiplies its rate.
    Fast,
}

/// What an adapter needs from the passes, beside its rows `x` and `y`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// In the backward pass, the rows `y` before it changed them. Not available at the rows before the text and the join.
    pub output: bool,
    /// The log-sum-exp of the attention scores.
    pub lse: bool,
    /// It changes `dy`: see [`super::Adapter::backward`].
    pub rescales: bool,
    /// It reads `x`.
    pub input: bool,
    /// A negative strength is not defined.
    pub positive: bool,
    /// Rows before the text.
    pub rows: usize,
    /// Width of the state along the layers.
    pub state: usize,
    /// It stands at states and at the join alone, and carries the gradient of a state back without `x`: see
    /// [`super::Adapter::backward`]. Its training has no backward pass through blocks, and keeps nothing of them.
    pub aside: bool,
}

/// The sizes of an adapter while it is trained, in `f32` values. For an adapter that grows, the largest sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Trained parameters.
    pub params: usize,
    /// Derived values, and values that come with a file.
    pub derived: usize,
    /// The sums of `backward`; 0 if these are the gradients themselves.
    pub gathered: usize,
    /// Scratch of each thread in `prepare` and `reduce`.
    pub scratch: usize,
    /// Scratch of the passes for each row.
    pub row: usize,
}

impl Needs {
    /// No needs.
    pub const NONE: Needs = Needs {
        output: false,
        lse: false,
        rescales: false,
        input: false,
        positive: false,
        rows: 0,
        state: 0,
        aside: false,
    };

    /// The union of both.
    pub fn and(self, other: Needs) -> Needs {
        Needs {
            output: self.output | other.output,
            lse: self.lse | other.lse,
            rescales: self.rescales | other.rescales,
            input: self.input | other.input,
            positive: self.positive | other.positive,
            rows: self.rows + other.rows,
            state: self.state.max(other.state),
            aside: self.aside | other.aside,
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
    /// The lowest block that it changes, or the first one above a place outside of blocks; `layers` if it changes none
    /// of them.
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

    /// The description of an adapter with the places of both, of which all of `self` come first. Where one of them sums
    /// something else than gradients, its sums are as many as its parameters.
    pub fn followed_by(mut self, other: Shape) -> Shape {
        let (parts, start) = (self.parts.len(), self.size.params);
        self.parts.extend(other.parts.into_iter().map(|part| {
            let range = part.range.start + start..part.range.end + start;
            Part { range, ..part }
        }));
        self.slots.extend(other.slots.into_iter().map(|slot| {
            let range = slot.parts.start + parts..slot.parts.end + parts;
            Slot { parts: range, ..slot }
        }));
        self.needs = self.needs.and(other.needs);
        let [a, b] = [self.size, other.size];
        let params = a.params + b.params;
        self.size = Size {
            params,
            derived: a.derived + b.derived,
            gathered: if a.gathered + b.gathered > 0 { params } else { 0 },
            scratch: a.scratch.max(b.scratch),
            row: a.row.max(b.row),
        };
        self
    }

    /// Builds a description from the places and the parts at each: `parts(place, widths)` gives the parts,
    /// `needs(place)` the needs there. Sizes are those of the parameters only.
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

/// A part without its range.
pub struct NewPart {
    /// Its name.
    pub name: &'static str,
    /// Rows.
    pub rows: usize,
    /// Values of a row.
    pub cols: usize,
    /// Its values before the first step.
    pub start: Start,
    /// Its learning-rate group.
    pub group: Group,
}

impl NewPart {
    /// A matrix `[rows, cols]`, or with one row a vector, of [`Group::Main`].
    pub fn new(name: &'static str, rows: usize, cols: usize, start: Start) -> NewPart {
        NewPart { name, rows, cols, start, group: Group::Main }
    }
}
