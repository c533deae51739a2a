//! AdaLoRA (arXiv:2303.10512): a low-rank change in the form of a singular value decomposition, whose least important
//! directions are pruned while it is trained, over all layers together. The strength multiplies `ΔW`.
//!
//! ```text
//! ΔW = s·B·diag(e)·A     A [rank, in], B [out, rank], e [rank];  s = alpha / rank
//! importance of a direction: I = Ī·Ū, smoothed over the steps from S = |e ∂L/∂e| + mean |A ∘ ∂L/∂A| + mean |B ∘ ∂L/∂B|
//! budget after step t: target + (all − target)·(1 − (t − from) / (until − from))³ directions; the others' e becomes 0
//! ```
//!
//! Steps up to `from` prune nothing. From there to `until` every few steps do, and what was pruned may come back; after
//! `until` importances stay as they are, and so does what is pruned. A penalty keeps directions orthogonal
//! (`adapter/triplet.rs`). Ties go to the lower layer, and within a layer to the first direction. The paper smooths the
//! importance of each number and then adds them up; here a direction's is added up first, so that its state is two numbers
//! and not two a parameter. The file holds pruned directions too.

use crate::adapter::file::Stored;
use crate::adapter::lowrank::{self, Factors, Layout, LowRank};
use crate::adapter::spec::{RANK, UNSTABILISED, USUAL_ALPHA};
use crate::adapter::triplet::{self, ORTHOGONALITY};
use crate::adapter::{Kind, MAX_RANK, Part, Size};
use crate::container::head::Head;
use crate::error::Result;
use crate::kernel::Compute;
use crate::knob::{Domain, Knob, Setting, Values};
use crate::rng::GENERATOR;
use crate::role::Role;
use core::ops::Range;
use std::prelude::v1::*;

/// The mean rank that is left.
pub static TARGET: Knob = Knob {
    name: "target rank",
    about: "Mean rank that pruning leaves",
    metavar: "R",
    domain: Domain::Whole { low: 1, high: MAX_RANK as u64 },
};

const STEP: Domain = Domain::Whole { low: 0, high: u32::MAX as u64 };

/// The step after which pruning begins.
pub static FROM: Knob =
    Knob { name: "prune from", about: "Step after which pruning begins", metavar: "N", domain: STEP };

/// The step after which pruning ends.
pub static UNTIL: Knob =
    Knob { name: "prune until", about: "Step after which pruning ends", metavar: "N", domain: STEP };

/// Steps between prunings.
pub static EVERY: Knob = Knob {
    name: "prune every",
    about: "Steps between prunings",
    metavar: "N",
    domain: Domain::Whole { low: 1, high: u32::MAX as u64 },
};

/// Its settings.
static KNOBS: [Setting; 8] = [
    Setting::whole(&RANK, 12),
    USUAL_ALPHA,
    UNSTABILISED,
    Setting::whole(&TARGET, 8),
    Setting::whole(&FROM, 20),
    Setting::whole(&UNTIL, 100),
    Setting::whole(&EVERY, 10),
    Setting::real(&ORTHOGONALITY, 0.1),
];
/// Those that the layout does not hold.
static SCHEDULE: &[Setting] = KNOBS.split_at(3).1;

/// Its row.
pub static KIND: Kind = Kind {
    name: "adalora",
    about: "low-rank changes that share a budget of ranks, pruned where they matter least",
    rate: 5e-3,
    knobs: &KNOBS,
    targets: &Role::LINEAR,
    shape: |spec, base| {
        let layout = spec.layout(base)?;
        Ok(lowrank::shape(&layout, &Pruned::new(spec.seed, spec.values()?, &layout)))
    },
    create: |spec, base| {
        let layout = spec.layout(base)?;
        let of = Pruned::new(spec.seed, spec.values()?, &layout);
        let params = triplet::fresh(&layout, spec.seed);
        Ok(Box::new(LowRank::new(layout, params, of)))
    },
    read: |stored| Ok(Box::new(read(stored)?)),
    sections: &["ranks", "alphas", "schedule", "importance"],
    grown: &["importance"],
    codec: None,
    size: Some(&RANK),
};

/// Parameters: A, Bᵀ and e of each site.
struct Pruned {
    seed: u64,
    values: Values,
    /// `Ī` and `Ū` of every direction.
    importance: Vec<[f32; 2]>,
}

fn directions(layout: &Layout) -> usize {
    layout.slots().iter().map(|slot| slot.rank).sum()
}

fn read(stored: Stored) -> Result<LowRank<Pruned>> {
    let layout = Layout::read(&stored)?;
    let seed = stored.seed()?;
    let values = triplet::from_schedule(&stored, KIND.name, SCHEDULE)?;
    let of = Pruned { seed, values, importance: triplet::from_section(&stored, directions(&layout))? };
    let params = stored.params(&of.parts(&layout).0, |part, out| of.start(&layout, part, out))?;
    Ok(LowRank::new(layout, params, of))
}

impl Pruned {
    fn new(seed: u64, values: Values, layout: &Layout) -> Pruned {
        Pruned { seed, values, importance: vec![[0.0; 2]; directions(layout)] }
    }

    fn step(&self, knob: &Knob) -> u64 {
        self.values.whole(knob.name)
    }

    /// How many of all directions stay after a step.
    fn budget(&self, layout: &Layout, step: u64) -> usize {
        let all = directions(layout);
        let target = all.min(self.step(&TARGET) as usize * layout.slots().len());
        let (from, until) = (self.step(&FROM), self.step(&UNTIL));
        if step >= until {
            return target;
        }
        if step < from {
            return all;
        }
        let left = (until - step) as f64 / (until - from) as f64;
        target + ((all - target) as f64 * (left * left * left)) as usize
    }
}

/// Sum of `|p g|`.
fn products(params: &[f32], grads: &[f32]) -> f32 {
    params.iter().zip(grads).map(|(p, g)| (p * g).abs()).sum()
}

impl Factors for Pruned {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn parts(&self, layout: &Layout) -> (Vec<Part>, Size) {
        triplet::parts(layout)
    }

    fn own(&self, _layout: &Layout, slot: usize) -> Range<usize> {
        3 * slot..3 * slot + 3
    }

    fn expand(&self, _cx: &Compute, layout: &Layout, params: &[f32], factors: &mut [f32]) {
        triplet::expand(layout, params, factors);
    }

    fn project(&self, _cx: &Compute, layout: &Layout, params: &[f32], acc: &[f32], grads: &mut [f32]) {
        triplet::project(layout, params, acc, grads);
    }

    fn penalty(&self, cx: &Compute, layout: &Layout, params: &[f32], grads: &mut [f32]) -> f64 {
        triplet::penalty(cx, layout, self.values.real(ORTHOGONALITY.name) as f32, params, grads)
    }

    fn start(&self, layout: &Layout, part: usize, out: &mut [f32]) {
        triplet::start(layout, self.seed, part, out);
    }

    fn changes_something(&self, layout: &Layout, params: &[f32]) -> bool {
        triplet::changes_something(layout, params)
    }

    fn record(&self, layout: &Layout, head: &mut Head) -> Vec<(&'static str, Vec<u8>)> {
        head.set("seed", self.seed).set("generator", GENERATOR);
        let schedule = triplet::to_schedule(&self.values, SCHEDULE);
        let own = schedule.into_iter().chain(triplet::to_section(&self.importance));
        own.chain(layout.record(head)).collect()
    }

    /// Prunes; the shape stays.
    fn grow(&mut self, layout: &mut Layout, params: &mut Vec<f32>, step: u64, grads: &[f32]) -> bool {
        let (from, until, every) = (self.step(&FROM), self.step(&UNTIL), self.step(&EVERY));
        if step <= until {
            let mut importance = self.importance.iter_mut();
            for (slot, [a, b, e]) in triplet::ranges(layout) {
                let [n_in, n_out] = slot.shape;
                for (r, importance) in (0..slot.rank).zip(&mut importance) {
                    let [a, b] = [(&a, n_in), (&b, n_out)].map(|(part, width)| {
                        let row = part.start + r * width..part.start + (r + 1) * width;
                        products(&params[row.clone()], &grads[row]) / width as f32
                    });
                    let e = e.start + r..e.start + r + 1;
                    triplet::smooth(importance, products(&params[e.clone()], &grads[e]) + a + b);
                }
            }
        }
        if step >= until || (step >= from && (step - from).is_multiple_of(every)) {
            let values: Vec<usize> = triplet::ranges(layout).flat_map(|(_, [_, _, e])| e).collect();
            for i in triplet::ranked(&self.importance).into_iter().skip(self.budget(layout, step)) {
                params[values[i]] = 0.0;
            }
        }
        false
    }
}
