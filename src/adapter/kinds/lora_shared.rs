//! One low-rank change for several blocks in a row, with a factor and gains of each, as WideNet (arXiv:2107.11817) shares
//! layers and leaves every block its own norms.
//!
//! ```text
//! ΔW of block l = s·fₗ·B·A·diag(gₗ)    A [rank, in], B [out, rank] of the group; fₗ, and gₗ [in], of the block, from 1
//! ```
//! A block that shares with no other has neither factor nor gains, which A and B would take in: with groups of one block
//! this is LoRA. A starts as LoRA's of the group's first block. The strength multiplies `s`.

use crate::adapter::lowrank::{self, Factors, Layout, LowRank, Slot, grouped};
use crate::adapter::settled::{self, Settings, Settled};
use crate::adapter::spec::{ALPHA, RANK, STABILISED, UNSTABILISED, USUAL_ALPHA, USUAL_RANK};
use crate::adapter::{Base, Group, Kind, Part, Site, Size, Start};
use crate::container::head::Head;
use crate::error::Result;
use crate::kernel::Compute;
use crate::knob::{Domain, Knob, Setting};
use crate::role::Role;
use core::ops::Range;
use std::prelude::v1::*;

/// Blocks of a group.
pub static GROUP: Knob = Knob {
    name: "group",
    about: "Blocks in a row that share one change of each layer",
    metavar: "N",
    domain: Domain::Whole { low: 1, high: 65_536 },
};

static KNOBS: [Setting; 4] = [USUAL_RANK, USUAL_ALPHA, UNSTABILISED, Setting::whole(&GROUP, 3)];

/// Its row.
pub static KIND: Kind = Kind {
    name: "lora-shared",
    about: "low-rank changes that several blocks share, with a factor and gains of each; smaller files than lora",
    rate: 5e-4,
    knobs: &KNOBS,
    targets: &Role::LINEAR,
    shape: settled::shape::<Shared>,
    create: settled::create::<Shared>,
    read: settled::read::<Shared>,
    sections: &[],
    grown: &[],
    codec: None,
    size: Some(&RANK),
};

/// Parameters: A `[rank, in]` and Bᵀ `[rank, out]` of each group, then factor and gains `[in]` of each of its blocks.
pub type SharedLora = LowRank<Shared>;

/// Factors of groups of blocks.
#[derive(Clone)]
pub struct Shared {
    settings: Settings,
    /// For each group its slots and where its parameters begin.
    groups: Vec<(Vec<usize>, usize)>,
    /// For each slot its parts.
    own: Vec<Range<usize>>,
}

impl Settled for Shared {
    const KIND: &'static Kind = &KIND;

    fn make(settings: Settings, sites: &[Site], base: &Base) -> Result<(Layout, Self)> {
        let (rank, alpha) = (settings.whole(RANK.name), settings.values.real(ALPHA.name) as f32);
        let (stabilised, size) = (settings.values.switch(STABILISED.name), settings.whole(GROUP.name).max(1));
        let slot = |site: &Site| Slot::new(*site, base, rank, alpha, stabilised);
        let layout = Layout::new(sites.iter().map(slot).collect::<Result<_>>()?, stabilised);
        let slots = layout.slots();
        let (mut groups, mut own, mut at, mut parts) = (Vec::new(), vec![0..0; slots.len()], 0, 0);
        for members in grouped(slots, |s| (s.site.layer / size, s.site.role, s.shape)) {
            let [n_in, n_out] = slots[members[0]].shape;
            let singles = if members.len() > 1 { members.len() } else { 0 };
            let range = parts..parts + 2 + 2 * singles;
            members.iter().for_each(|slot| own[*slot] = range.clone());
            parts = range.end;
            groups.push((members, at));
            at += rank * (n_in + n_out) + singles * (1 + n_in);
        }
        Ok((layout, Shared { settings, groups, own }))
    }

    fn settings(&self) -> &Settings {
        &self.settings
    }
}

impl Shared {
    /// Ranges of A and Bᵀ of a group, and where those of its blocks begin.
    fn ranges(&self, slot: &Slot, start: usize) -> [Range<usize>; 2] {
        let [a, b] = slot.shape.map(|n| slot.rank * n);
        [start..start + a, start + a..start + a + b]
    }
}

impl Factors for Shared {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn parts(&self, layout: &Layout) -> (Vec<Part>, Size) {
        let mut parts: Vec<Part> = Vec::new();
        for (members, start) in &self.groups {
            let slot = &layout.slots()[members[0]];
            let ([a, b], [n_in, n_out]) = (self.ranges(slot, *start), slot.shape);
            let mut at = b.end;
            parts.push(Part { name: "a", range: a, cols: n_in, start: Start::Given, group: Group::Main });
            parts.push(Part { name: "b", range: b, cols: n_out, start: Start::Zero, group: Group::Fast });
            for _ in members.iter().skip(usize::from(members.len() == 1)) {
                for (name, cols) in [("factor", 1), ("gains", n_in)] {
                    parts.push(Part { name, range: at..at + cols, cols, start: Start::One, group: Group::Main });
                    at += cols;
                }
            }
        }
        let (all, params) = (layout.len(), parts.last().map_or(0, |part| part.range.end));
        (parts, Size { params, derived: all, gathered: all, scratch: 0, row: 0 })
    }

    fn own(&self, _layout: &Layout, slot: usize) -> Range<usize> {
        self.own[slot].clone()
    }

    fn expand(&self, _cx: &Compute, layout: &Layout, params: &[f32], factors: &mut [f32]) {
        for (members, start) in &self.groups {
            for (i, slot) in members.iter().map(|slot| &layout.slots()[*slot]).enumerate() {
                let ([a, b], n_in) = (self.ranges(slot, *start), slot.shape[0]);
                let own = b.end + i * (1 + n_in);
                factors[slot.b()].copy_from_slice(&params[b]);
                let out = &mut factors[slot.a()];
                out.copy_from_slice(&params[a]);
                if members.len() > 1 {
                    let (factor, gains) = (params[own], &params[own + 1..own + 1 + n_in]);
                    for row in out.chunks_exact_mut(n_in) {
                        row.iter_mut().zip(gains).for_each(|(o, g)| *o *= factor * g);
                    }
                }
            }
        }
    }

    fn project(&self, _cx: &Compute, layout: &Layout, params: &[f32], acc: &[f32], grads: &mut [f32]) {
        grads.fill(0.0);
        for (members, start) in &self.groups {
            for (i, slot) in members.iter().map(|slot| &layout.slots()[*slot]).enumerate() {
                let ([a, b], n_in) = (self.ranges(slot, *start), slot.shape[0]);
                let own = b.end + i * (1 + n_in);
                grads[b].iter_mut().zip(&acc[slot.b()]).for_each(|(g, acc)| *g += acc);
                let acc = &acc[slot.a()];
                if members.len() == 1 {
                    grads[a].copy_from_slice(acc);
                    continue;
                }
                let (factor, gains) = (params[own], &params[own + 1..own + 1 + n_in]);
                for (row, acc) in acc.chunks_exact(n_in).enumerate() {
                    let at = a.start + row * n_in;
                    for (j, (acc, gain)) in acc.iter().zip(gains).enumerate() {
                        let along = acc * params[at + j];
                        grads[at + j] += factor * gain * acc;
                        grads[own] += gain * along;
                        grads[own + 1 + j] += factor * along;
                    }
                }
            }
        }
    }

    fn start(&self, layout: &Layout, part: usize, out: &mut [f32]) {
        let group = self.groups.iter().find(|(members, _)| self.own[members[0]].contains(&part));
        let Some((members, _)) = group else { return out.fill(0.0) };
        let slot = &layout.slots()[members[0]];
        match part - self.own[members[0]].start {
            0 => lowrank::start_of_a(self.settings.seed, slot.site, slot.shape[0], out),
            1 => out.fill(0.0),
            _ => out.fill(1.0),
        }
    }

    fn changes_something(&self, layout: &Layout, params: &[f32]) -> bool {
        let any = |range: &Range<usize>| params[range.clone()].iter().any(|v| *v != 0.0);
        self.groups.iter().any(|(members, start)| self.ranges(&layout.slots()[members[0]], *start).iter().all(any))
    }

    fn record(&self, layout: &Layout, head: &mut Head) -> Vec<(&'static str, Vec<u8>)> {
        settled::record(self, layout, head)
    }
}
