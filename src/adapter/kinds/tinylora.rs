//! TinyLoRA (arXiv:2602.04118): as LoRA-XS, with a small matrix that is a combination of random ones, so that a handful of
//! numbers is trained for a layer, or for several.
//!
//! ```text
//! ΔW = B·R·A,  R = Σ vᵢ·Pᵢ    A = √Σ·Vᵀ [rank, in], B = U·√Σ [out, rank] of W ≈ U·Σ·Vᵀ    trained: v, from 0
//! ∂L/∂vᵢ = ⟨∂L/∂R, Pᵢ⟩
//! ```
//! `Pᵢ`, `[rank, rank]`, is uniform with variance 1/rank from the seed. With `share`, that many blocks in a row have one `v`
//! for each layer; their `Pᵢ` differ. The strength multiplies `ΔW`.

use crate::adapter::frame::{self, Frame};
use crate::adapter::lowrank::{Factors, Layout, LowRank, Slot, grouped};
use crate::adapter::settled::{self, Settings, Settled};
use crate::adapter::spec::{RANK, SHARE};
use crate::adapter::{Base, Frozen, Group, Kind, Part, Site, Size, Start};
use crate::container::head::Head;
use crate::error::Result;
use crate::kernel::Compute;
use crate::knob::{Domain, Knob, Setting};
use crate::role::Role;
use core::ops::Range;
use std::prelude::v1::*;

/// Numbers of `v`.
pub static COUNT: Knob = Knob {
    name: "count",
    about: "Trained numbers of a layer",
    metavar: "N",
    domain: Domain::Whole { low: 1, high: 4096 },
};

static KNOBS: [Setting; 3] = [Setting::whole(&RANK, 2), Setting::whole(&COUNT, 13), Setting::whole(&SHARE, 1)];

/// Its row.
pub static KIND: Kind = Kind {
    name: "tinylora",
    about: "a handful of numbers for each layer, or for several; among the smallest files",
    rate: 2e-2,
    knobs: &KNOBS,
    targets: &Role::LINEAR,
    shape: settled::shape::<Handful>,
    create: settled::create::<Handful>,
    read: settled::read::<Handful>,
    sections: &[],
    grown: &[],
    codec: None,
    size: Some(&COUNT),
};

/// Parameters: `v` of each site, or of each set of sites.
pub type TinyLora = LowRank<Handful>;

/// The matrix between frozen factors is a combination of random ones.
#[derive(Clone)]
pub struct Handful {
    settings: Settings,
    frame: Frame,
    /// For each slot, whose numbers it takes.
    sets: Vec<usize>,
    /// `P` of all slots that do not follow from the seed, if they are given.
    given: Option<Vec<f32>>,
}

impl Settled for Handful {
    const KIND: &'static Kind = &KIND;

    fn make(settings: Settings, sites: &[Site], base: &Base) -> Result<(Layout, Self)> {
        let (rank, share) = (settings.whole(RANK.name), settings.whole(SHARE.name).max(1));
        let slot = |site: &Site| Slot::new(*site, base, rank, rank as f32, false);
        let layout = Layout::new(sites.iter().map(slot).collect::<Result<_>>()?, false);
        let mut sets = vec![0; layout.slots().len()];
        let groups = grouped(layout.slots(), |s| (s.site.layer / share, s.site.role));
        for (set, members) in groups.iter().enumerate() {
            members.iter().for_each(|slot| sets[*slot] = set);
        }
        Ok((layout, Handful { settings, frame: Frame::default(), sets, given: None }))
    }

    fn settings(&self) -> &Settings {
        &self.settings
    }
}

impl Handful {
    /// This with given A and Bᵀ, and `P` of all slots, `[slots, count, rank, rank]`.
    #[cfg(feature = "internals")]
    pub fn with_frozen(self, frame: Frame, p: Vec<f32>) -> Self {
        Handful { frame, given: Some(p), ..self }
    }

    /// `count` and the values of a core.
    fn sizes(&self) -> [usize; 2] {
        [self.settings.whole(COUNT.name), self.settings.whole(RANK.name).pow(2)]
    }

    /// `P` of a slot, `[count, rank, rank]`.
    fn projections(&self, layout: &Layout, slot: usize, out: &mut [f32]) {
        if let Some(given) = &self.given {
            return out.copy_from_slice(&given[slot * out.len()..][..out.len()]);
        }
        let slot = &layout.slots()[slot];
        self.settings.uniform(&slot.site, "tinylora_p", 0, libm::sqrtf(3.0 / slot.rank as f32), out);
    }

    fn number_of_sets(&self) -> usize {
        self.sets.iter().max().map_or(0, |last| last + 1)
    }
}

impl Factors for Handful {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn parts(&self, layout: &Layout) -> (Vec<Part>, Size) {
        let ([n, square], all) = (self.sizes(), layout.len());
        let part =
            |set| Part { name: "v", range: set * n..(set + 1) * n, cols: n, start: Start::Zero, group: Group::Main };
        let [frames, scratch] = frame::size(layout, self.settings.whole(RANK.name));
        // The cores, and the matrices that one is made of.
        let derived = all + frames + square * (n + layout.slots().len());
        let sets = self.number_of_sets();
        ((0..sets).map(part).collect(), Size { params: sets * n, derived, gathered: all, scratch, row: 0 })
    }

    fn own(&self, _layout: &Layout, slot: usize) -> Range<usize> {
        self.sets[slot]..self.sets[slot] + 1
    }

    fn prepare(&mut self, cx: &Compute, layout: &Layout, frozen: &dyn Frozen) -> Result<()> {
        if !self.frame.is_made() {
            let make: &frame::Make = &|w, a, b| frame::spread(&w, |sigma| [libm::sqrt(sigma); 2], a, b);
            self.frame = Frame::of(cx, layout, self.settings.whole(RANK.name), frozen, &|_, _| Ok(()), make)?;
        }
        Ok(())
    }

    fn expand(&self, _cx: &Compute, layout: &Layout, params: &[f32], factors: &mut [f32]) {
        let [n, square] = self.sizes();
        let (mut p, mut cores) = (vec![0.0; n * square], vec![0.0; self.sets.len() * square]);
        for (slot, core) in cores.chunks_exact_mut(square).enumerate() {
            self.projections(layout, slot, &mut p);
            for (v, p) in params[self.sets[slot] * n..][..n].iter().zip(p.chunks_exact(square)) {
                core.iter_mut().zip(p).for_each(|(core, p)| *core += v * p);
            }
        }
        self.frame.turn(layout, &cores, factors);
    }

    fn project(&self, _cx: &Compute, layout: &Layout, _params: &[f32], acc: &[f32], grads: &mut [f32]) {
        let [n, square] = self.sizes();
        let (mut p, mut cores) = (vec![0.0; n * square], vec![0.0; self.sets.len() * square]);
        self.frame.turn_back(layout, acc, &mut cores);
        grads.fill(0.0);
        for (slot, core) in cores.chunks_exact(square).enumerate() {
            self.projections(layout, slot, &mut p);
            for (grad, p) in grads[self.sets[slot] * n..][..n].iter_mut().zip(p.chunks_exact(square)) {
                *grad += core.iter().zip(p).map(|(core, p)| core * p).sum::<f32>();
            }
        }
    }

    fn start(&self, _layout: &Layout, _part: usize, out: &mut [f32]) {
        out.fill(0.0);
    }

    fn changes_something(&self, _layout: &Layout, params: &[f32]) -> bool {
        params.iter().any(|v| *v != 0.0)
    }

    fn record(&self, layout: &Layout, head: &mut Head) -> Vec<(&'static str, Vec<u8>)> {
        settled::record(self, layout, head)
    }
}
