//! IncreLoRA (arXiv:2308.12043): low-rank changes that start small and gain ranks where these matter most. The strength
//! multiplies `ΔW`.
//!
//! ```text
//! ΔW = alpha / R·B·diag(e)·A     A [R, in], B [out, R], e [R], R the current rank of the layer
//! importance of a layer: Ī·Ū, smoothed over the steps from S = Σ |eᵢ ∂L/∂eᵢ|
//! a round: the first `h` layers by importance gain `q = max(1, rank / 2)` ranks each, until the mean rank is `rank`
//! ```
//!
//! New directions begin with `e = 0`, and the old `e` are multiplied by the new rank over the old one, so a round leaves `ΔW`
//! as it is. That is not in the paper, whose changes jump with alpha over the rank, and which trains directions in reserve; a
//! reserve would move the base before the first step. The paper's own importance, `Σ |ΔW ∘ ∂L/∂ΔW|`, needs a gradient of the
//! size of `W`; this one is its cheap relative. Ties go to the lower layer. The last round is cut so that the ranks sum to
//! the budget, and no rank exceeds the smaller side of its layer. A penalty keeps directions orthogonal
//! (`adapter/triplet.rs`).

use crate::adapter::file::{self, Stored};
use crate::adapter::lowrank::{self, Factors, Layout, LowRank, Slot};
use crate::adapter::spec::{ALPHA, RANK, USUAL_ALPHA, USUAL_RANK};
use crate::adapter::triplet::{self, ORTHOGONALITY};
use crate::adapter::{Base, Kind, MAX_RANK, Part, Site, Size, Spec};
use crate::bytes::Limits;
use crate::container::head::Head;
use crate::error::{Error, Result};
use crate::kernel::Compute;
use crate::knob::{Domain, Knob, Setting, Values, resolve};
use crate::rng::GENERATOR;
use crate::role::Role;
use core::ops::Range;
use std::prelude::v1::*;

/// The rank of each layer before the first round.
pub static START: Knob = Knob {
    name: "start rank",
    about: "Rank of each layer at the start",
    metavar: "R",
    domain: Domain::Whole { low: 1, high: MAX_RANK as u64 },
};

/// The step after which the first round comes.
pub static FROM: Knob = Knob {
    name: "grow from",
    about: "Step after which ranks begin to grow",
    metavar: "N",
    domain: Domain::Whole { low: 1, high: u32::MAX as u64 },
};

/// Steps between rounds.
pub static EVERY: Knob = Knob {
    name: "grow every",
    about: "Steps between rounds of growth",
    metavar: "N",
    domain: Domain::Whole { low: 1, high: u32::MAX as u64 },
};

/// Layers that gain ranks in a round.
pub static LAYERS: Knob = Knob {
    name: "grow layers",
    about: "Layers that gain ranks in a round; 0: a quarter of them",
    metavar: "H",
    domain: Domain::Whole { low: 0, high: u32::MAX as u64 },
};

/// Its settings.
static KNOBS: [Setting; 7] = [
    USUAL_RANK,
    USUAL_ALPHA,
    Setting::whole(&START, 1),
    Setting::whole(&FROM, 20),
    Setting::whole(&EVERY, 10),
    Setting::whole(&LAYERS, 0),
    Setting::real(&ORTHOGONALITY, 0.1),
];

/// Those that are a section of a file.
static SCHEDULE: &[Setting] = KNOBS.split_at(2).1;

/// Its row.
pub static KIND: Kind = Kind {
    name: "increlora",
    about: "low-rank changes that gain ranks where they matter most",
    rate: 5e-3,
    knobs: &KNOBS,
    targets: &Role::LINEAR,
    shape: |spec, base| {
        let of = Growing::new(spec.seed, spec.values()?, spec.sites(base)?.len());
        Ok(lowrank::shape(&layout(spec, base, &of)?, &of))
    },
    create: |spec, base| {
        let of = Growing::new(spec.seed, spec.values()?, spec.sites(base)?.len());
        let layout = layout(spec, base, &of)?;
        let params = triplet::fresh(&layout, spec.seed);
        Ok(Box::new(LowRank::new(layout, params, of)))
    },
    read: |stored| Ok(Box::new(read(stored)?)),
    sections: &["schedule", "ranks", "importance"],
    grown: &["ranks", "importance"],
    codec: None,
    size: Some(&RANK),
};

/// Parameters: A, Bᵀ and e of each site.
struct Growing {
    seed: u64,
    values: Values,
    /// `Ī` and `Ū` of every layer.
    importance: Vec<[f32; 2]>,
}

fn layout(spec: &Spec, base: &Base, of: &Growing) -> Result<Layout> {
    let slot = |site| of.slot(site, base, of.whole(&START).min(of.whole(&RANK)));
    Ok(Layout::new(spec.sites(base)?.into_iter().map(slot).collect::<Result<_>>()?, false))
}

fn read(stored: Stored) -> Result<LowRank<Growing>> {
    let mut values = triplet::from_schedule(&stored, KIND.name, SCHEDULE)?;
    values.set(RANK.name, stored.head.integer(RANK.name)?).set(ALPHA.name, stored.head.real(ALPHA.name)?);
    let values = resolve(KIND.name, &KNOBS, &values)?;
    Limits::check("rank", values.whole(RANK.name), stored.limits.rank)?;
    let mut of = Growing::new(stored.seed()?, values, stored.places.len());
    of.importance = triplet::from_section(&stored, stored.places.len())?;
    let ranks = match stored.container.section("ranks") {
        Some(bytes) => file::words("ranks", &bytes, stored.places.len())?
            .iter()
            .map(|word| usize::try_from(u32::from_le_bytes(*word)).unwrap_or(usize::MAX))
            .collect(),
        None => vec![of.whole(&START).min(of.whole(&RANK)); stored.places.len()],
    };
    let slot = |((place, _), rank): (&crate::adapter::place::Shaped, &usize)| {
        let site = lowrank::site(*place)?;
        Limits::check("rank", *rank as u64, stored.limits.rank)?;
        of.slot(site, stored.base, *rank)
    };
    let layout = Layout::new(stored.places.iter().zip(&ranks).map(slot).collect::<Result<_>>()?, false);
    if of.missing(&layout).is_none() {
        return Err(Error::invalid("ranks", format!("{} in all, more than the budget", ranks.iter().sum::<usize>())));
    }
    let params = stored.params(&triplet::parts(&layout).0, |part, out| of.start(&layout, part, out))?;
    Ok(LowRank::new(layout, params, of))
}

/// The highest rank of a slot.
fn most(slot: &Slot) -> usize {
    MAX_RANK.min(slot.shape[0]).min(slot.shape[1])
}

/// A slot with another rank.
fn with_rank(slot: &Slot, rank: usize) -> Slot {
    Slot { rank, factor: slot.alpha / rank as f32, ..slot.clone() }
}

impl Growing {
    fn new(seed: u64, values: Values, sites: usize) -> Growing {
        Growing { seed, values, importance: vec![[0.0; 2]; sites] }
    }

    fn whole(&self, knob: &Knob) -> usize {
        usize::try_from(self.values.whole(knob.name)).unwrap_or(usize::MAX)
    }

    /// A slot of this rank, where the mean rank can be had too.
    fn slot(&self, site: Site, base: &Base, rank: usize) -> Result<Slot> {
        let alpha = self.values.real(ALPHA.name) as f32;
        Slot::new(site, base, self.whole(&RANK), alpha, false)?;
        Slot::new(site, base, rank, alpha, false)
    }

    /// Ranks that the budget has left; none if it is exceeded.
    fn missing(&self, layout: &Layout) -> Option<usize> {
        let now: usize = layout.slots().iter().map(|slot| slot.rank).sum();
        (self.whole(&RANK) * layout.slots().len()).checked_sub(now)
    }

    /// The layout after a round.
    fn round(&self, layout: &Layout, missing: usize) -> Layout {
        let (mut slots, mut left) = (layout.slots().to_vec(), missing);
        let chosen = match self.whole(&LAYERS) {
            0 => slots.len().div_ceil(4),
            h => h,
        };
        let gain = (self.whole(&RANK) / 2).max(1);
        let order = triplet::ranked(&self.importance);
        for slot in order.into_iter().filter(|i| layout.slots()[*i].rank < most(&layout.slots()[*i])).take(chosen) {
            let slot = &mut slots[slot];
            let by = gain.min(left).min(most(slot) - slot.rank);
            left -= by;
            *slot = with_rank(slot, slot.rank + by);
        }
        Layout::new(slots, false)
    }
}

impl Factors for Growing {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    /// Sizes are those with all ranks that are missing at the widest layers.
    fn parts(&self, layout: &Layout) -> (Vec<Part>, Size) {
        let (parts, _) = triplet::parts(layout);
        let mut left = self.missing(layout).unwrap_or(0);
        let mut slots = layout.slots().to_vec();
        let mut order: Vec<usize> = (0..slots.len()).collect();
        order.sort_by_key(|i| core::cmp::Reverse(slots[*i].shape[0] + slots[*i].shape[1]));
        let highest = slots.iter().map(|slot| most(slot).min(slot.rank + left)).max().unwrap_or(0);
        for i in order {
            let by = left.min(most(&slots[i]) - slots[i].rank);
            left -= by;
            slots[i] = with_rank(&slots[i], slots[i].rank + by);
        }
        let (_, size) = triplet::parts(&Layout::new(slots, false));
        (parts, Size { row: highest, ..size })
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

    /// What grows is not among the facts.
    fn record(&self, layout: &Layout, head: &mut Head) -> Vec<(&'static str, Vec<u8>)> {
        head.set("seed", self.seed).set("generator", GENERATOR);
        head.set(RANK.name, self.values.whole(RANK.name)).set(ALPHA.name, self.values.real(ALPHA.name));
        file::set_places(head, &layout.places());
        let start = self.whole(&START).min(self.whole(&RANK));
        let ranks = layout.slots().iter().flat_map(|slot| (slot.rank as u32).to_le_bytes()).collect();
        let grown = layout.slots().iter().any(|slot| slot.rank != start).then_some(("ranks", ranks));
        let schedule = triplet::to_schedule(&self.values, SCHEDULE);
        schedule.into_iter().chain(grown).chain(triplet::to_section(&self.importance)).collect()
    }

    fn grow(&mut self, layout: &mut Layout, params: &mut Vec<f32>, step: u64, grads: &[f32]) -> bool {
        let Some(missing) = self.missing(layout).filter(|missing| *missing > 0) else { return false };
        for ((_, [_, _, e]), importance) in triplet::ranges(layout).zip(&mut self.importance) {
            let now = params[e.clone()].iter().zip(&grads[e]).map(|(e, g)| (e * g).abs()).sum();
            triplet::smooth(importance, now);
        }
        let (from, every) = (self.values.whole(FROM.name), self.values.whole(EVERY.name));
        if step < from || !(step - from).is_multiple_of(every) {
            return false;
        }
        let next = self.round(layout, missing);
        let mut grown = triplet::fresh(&next, self.seed);
        for ((old, from), (new, to)) in triplet::ranges(layout).zip(triplet::ranges(&next)) {
            for (from, to) in from.iter().zip(&to) {
                // Rows are whole, so that the old values are the first.
                grown[to.start..to.start + from.len()].copy_from_slice(&params[from.clone()]);
            }
            let by = new.rank as f32 / old.rank as f32;
            if new.rank > old.rank {
                grown[to[2].clone()].iter_mut().for_each(|e| *e *= by);
            }
        }
        (*layout, *params) = (next, grown);
        if self.missing(layout) == Some(0) {
            self.importance.fill([0.0; 2]);
        }
        true
    }
}
