//! VB-LoRA (arXiv:2405.15179): rows of the factors are laid together from pieces, and each piece is a mixture of the two
//! vectors of one bank for all layers that its logits like best.
//!
//! ```text
//! piece = w·v[i] + (1 − w)·v[j]    i, j: the two largest logits, w = σ(logit i − logit j)
//! ΔW = B·A    rows of A, and of Bᵀ, are pieces end to end; the last one of a row is cut if it is too long
//! ```
//! Trained are the bank, `[vectors, length]`, and the logits, `[rank·pieces, vectors]` for A and for Bᵀ of each site. Of equal
//! logits the first counts as the larger.
//!
//! The start is ours, since with the authors' a new adapter changes the model: vectors come in pairs of opposite signs, and
//! each piece of B starts with the two of a pair in equal parts, which is zero to the bit. The pieces of A start anywhere. So
//! the first gradients move the pieces of B apart. The strength multiplies `ΔW`.

use crate::adapter::lowrank::{Factors, Layout, LowRank, Slot};
use crate::adapter::settled::{self, Settings, Settled};
use crate::adapter::spec::RANK;
use crate::adapter::{Base, Group, Kind, Part, Site, Size, Start};
use crate::container::head::Head;
use crate::error::Result;
use crate::kernel::Compute;
use crate::knob::{Domain, Knob, Setting};
use crate::role::Role;
use core::ops::Range;
use std::prelude::v1::*;

/// Vectors of the bank.
pub static VECTORS: Knob = Knob {
    name: "vectors",
    about: "Vectors of the bank that all layers share",
    metavar: "N",
    domain: Domain::Whole { low: 2, high: 65_536 },
};

/// Values of a vector.
pub static LENGTH: Knob = Knob {
    name: "vector length",
    about: "Values of a vector of the bank",
    metavar: "N",
    domain: Domain::Whole { low: 1, high: 65_536 },
};

static KNOBS: [Setting; 3] = [Setting::whole(&RANK, 4), Setting::whole(&VECTORS, 32), Setting::whole(&LENGTH, 64)];

/// Its row.
pub static KIND: Kind = Kind {
    name: "vblora",
    about: "mixtures of the vectors of one bank for all layers",
    rate: 5e-3,
    knobs: &KNOBS,
    targets: &Role::LINEAR,
    shape: settled::shape::<Bank>,
    create: settled::create::<Bank>,
    read: settled::read::<Bank>,
    sections: &[],
    grown: &[],
    codec: None,
    size: Some(&VECTORS),
};

/// Parameters: the bank, then the logits of A and of Bᵀ of each site.
pub type VbLora = LowRank<Bank>;

/// The factors are mixtures of vectors.
#[derive(Clone)]
pub struct Bank {
    settings: Settings,
}

/// Bounds of the first values of vectors and of logits, and the first logits of the pieces of B.
const VECTOR: f32 = 0.02;
const LOGIT: f32 = 0.2;
const CHOSEN: f32 = 1.0;

impl Settled for Bank {
    const KIND: &'static Kind = &KIND;

    fn make(settings: Settings, sites: &[Site], base: &Base) -> Result<(Layout, Self)> {
        let rank = settings.whole(RANK.name);
        let slot = |site: &Site| Slot::new(*site, base, rank, rank as f32, false);
        let layout = Layout::new(sites.iter().map(slot).collect::<Result<_>>()?, false);
        Ok((layout, Bank { settings }))
    }

    fn settings(&self) -> &Settings {
        &self.settings
    }
}

/// The two largest of the logits and the part of the first.
fn mixture(logits: &[f32]) -> (usize, usize, f32) {
    let largest = |but: usize| {
        let mut best = usize::MAX;
        for (i, logit) in logits.iter().enumerate().filter(|(i, _)| *i != but) {
            if best == usize::MAX || *logit > logits[best] {
                best = i;
            }
        }
        best
    };
    let first = largest(usize::MAX);
    let second = largest(first);
    (first, second, 1.0 / (1.0 + libm::expf(logits[second] - logits[first])))
}

impl Bank {
    /// Vectors and their length.
    fn sizes(&self) -> [usize; 2] {
        [&VECTORS, &LENGTH].map(|knob| self.settings.whole(knob.name))
    }

    /// Calls `f(range of the logits among the parameters, range of the piece among the factors)` for all pieces.
    fn pieces(&self, layout: &Layout, mut f: impl FnMut(Range<usize>, Range<usize>)) {
        let [n, len] = self.sizes();
        let mut at = n * len;
        for slot in layout.slots() {
            for (width, factor) in slot.shape.into_iter().zip([slot.a(), slot.b()]) {
                for row in factor.step_by(width) {
                    for first in (0..width).step_by(len) {
                        f(at..at + n, row + first..row + width.min(first + len));
                        at += n;
                    }
                }
            }
        }
    }

    /// The factors.
    fn mix(&self, layout: &Layout, params: &[f32], factors: &mut [f32]) {
        let [_, len] = self.sizes();
        self.pieces(layout, |logits, piece| {
            let (i, j, w) = mixture(&params[logits]);
            let both = params[i * len..].iter().zip(&params[j * len..]);
            factors[piece].iter_mut().zip(both).for_each(|(o, (x, y))| *o = w * x + (1.0 - w) * y);
        });
    }
}

impl Factors for Bank {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn parts(&self, layout: &Layout) -> (Vec<Part>, Size) {
        let [n, len] = self.sizes();
        let bank = Part { name: "bank", range: 0..n * len, cols: len, start: Start::Given, group: Group::Main };
        let (mut parts, mut at) = (vec![bank], n * len);
        for slot in layout.slots() {
            for (width, name) in slot.shape.into_iter().zip(["a", "b"]) {
                let end = at + slot.rank * width.div_ceil(len) * n;
                parts.push(Part { name, range: at..end, cols: n, start: Start::Given, group: Group::Main });
                at = end;
            }
        }
        let all = layout.len();
        (parts, Size { params: at, derived: all, gathered: all, scratch: 0, row: 0 })
    }

    fn own(&self, _layout: &Layout, slot: usize) -> Range<usize> {
        1 + 2 * slot..3 + 2 * slot
    }

    fn expand(&self, _cx: &Compute, layout: &Layout, params: &[f32], factors: &mut [f32]) {
        self.mix(layout, params, factors);
    }

    /// In the order of pieces.
    fn project(&self, _cx: &Compute, layout: &Layout, params: &[f32], acc: &[f32], grads: &mut [f32]) {
        let [_, len] = self.sizes();
        grads.fill(0.0);
        self.pieces(layout, |logits, piece| {
            let (i, j, w) = mixture(&params[logits.clone()]);
            let mut along = 0.0;
            for (k, g) in acc[piece].iter().enumerate() {
                along += g * (params[i * len + k] - params[j * len + k]);
                grads[i * len + k] += w * g;
                grads[j * len + k] += (1.0 - w) * g;
            }
            along *= w * (1.0 - w);
            grads[logits.start + i] += along;
            grads[logits.start + j] -= along;
        });
    }

    fn start(&self, layout: &Layout, part: usize, out: &mut [f32]) {
        let [n, len] = self.sizes();
        let Some(place) = part.checked_sub(1) else {
            self.settings.uniform(&"all", "vblora_bank", 0, VECTOR, out);
            for pair in out.chunks_exact_mut(2 * len) {
                let (first, second) = pair.split_at_mut(len);
                second.iter_mut().zip(first).for_each(|(y, x)| *y = -*x);
            }
            return;
        };
        let (site, b) = (layout.slots()[place / 2].site, place % 2 == 1);
        self.settings.uniform(&site, if b { "vblora_b" } else { "vblora_a" }, 0, LOGIT, out);
        if b {
            let (pairs, mut piece) = (n as u64 / 2, 0);
            let stream = self.settings.stream(&site, "vblora_pairs");
            stream.words(0, out.len() / n, |_, words| {
                for word in words {
                    let first = piece * n + 2 * ((u64::from(*word) * pairs) >> 32) as usize;
                    out[first..first + 2].fill(CHOSEN);
                    piece += 1;
                }
            });
        }
    }

    /// Whether any B is other than zero and any A of the same site too.
    fn changes_something(&self, layout: &Layout, params: &[f32]) -> bool {
        let mut factors = vec![0.0; layout.len()];
        self.mix(layout, params, &mut factors);
        layout.changes_something(&factors)
    }

    fn record(&self, layout: &Layout, head: &mut Head) -> Vec<(&'static str, Vec<u8>)> {
        settled::record(self, layout, head)
    }
}
