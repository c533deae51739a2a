//! LoRA-FA (arXiv:2308.03303): `ΔW = s·B·A` where A is frozen at its random start and B alone is trained. The strength
//! multiplies `s`.
//!
//! A is uniform in ±1/√in and follows from a seed, one stream a site, so a file holds B and the seed: `rank·out` numbers a
//! site. The optimiser keeps no state of A, and no gradient of A is computed. B starts at zero.

use crate::adapter::file::Stored;
use crate::adapter::lowrank::{self, Factors, Layout, LowRank, Slot};
use crate::adapter::spec::{self, RANK};
use crate::adapter::{Group, Kind, Part, Size, Start};
use crate::container::head::Head;
use crate::error::Result;
use crate::kernel::Compute;
use crate::rng::{GENERATOR, Stream};
use crate::role::Role;
use core::ops::Range;
use std::prelude::v1::*;

/// Its row.
pub static KIND: Kind = Kind {
    name: "lora-fa",
    about: "lora with its first factor frozen: smaller files and less optimiser state",
    rate: 1e-3,
    knobs: &spec::LOW_RANK,
    targets: &Role::LINEAR,
    shape: |spec, base| Ok(lowrank::shape(&spec.layout(base)?, &FrozenA { seed: spec.seed })),
    create: |spec, base| {
        let (layout, of) = (spec.layout(base)?, FrozenA { seed: spec.seed });
        let params = vec![0.0; of.parts(&layout).1.params];
        Ok(Box::new(LowRank::new(layout, params, of)))
    },
    read: |stored| Ok(Box::new(read(stored)?)),
    sections: &lowrank::SECTIONS,
    grown: &[],
    codec: None,
    size: Some(&RANK),
};

/// Parameters: Bᵀ `[rank, out]` of each site.
struct FrozenA {
    seed: u64,
}

fn read(stored: Stored) -> Result<LowRank<FrozenA>> {
    let seed = stored.seed()?;
    let (layout, of) = (Layout::read(&stored)?, FrozenA { seed });
    let params = stored.params(&of.parts(&layout).0, |_, out| out.fill(0.0))?;
    Ok(LowRank::new(layout, params, of))
}

/// The range of Bᵀ of each slot among the parameters.
fn ranges(layout: &Layout) -> impl Iterator<Item = (&Slot, Range<usize>)> {
    layout.slots().iter().scan(0, |end, slot| {
        let start = *end;
        *end += slot.b().len();
        Some((slot, start..*end))
    })
}

impl Factors for FrozenA {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn parts(&self, layout: &Layout) -> (Vec<Part>, Size) {
        let part = |(slot, range): (&Slot, Range<usize>)| Part {
            name: "b",
            range,
            cols: slot.shape[1],
            start: Start::Zero,
            group: Group::Fast,
        };
        let parts: Vec<Part> = ranges(layout).map(part).collect();
        let params = parts.last().map_or(0, |part| part.range.end);
        (parts, Size { params, derived: layout.len(), gathered: layout.len(), scratch: 0, row: 0 })
    }

    fn own(&self, _layout: &Layout, slot: usize) -> Range<usize> {
        slot..slot + 1
    }

    fn expand(&self, _cx: &Compute, layout: &Layout, params: &[f32], factors: &mut [f32]) {
        for (slot, range) in ranges(layout) {
            let a = &mut factors[slot.a()];
            // The last factors' A is this one's.
            if a.iter().all(|v| *v == 0.0) {
                Stream::new(self.seed, &slot.site.to_string(), "lora_fa_a").fill_uniform(0, a);
                let bound = lowrank::kaiming(slot.shape[0]);
                a.iter_mut().for_each(|v| *v *= bound);
            }
            factors[slot.b()].copy_from_slice(&params[range]);
        }
    }

    fn project(&self, _cx: &Compute, layout: &Layout, _params: &[f32], acc: &[f32], grads: &mut [f32]) {
        for (slot, range) in ranges(layout) {
            grads[range].copy_from_slice(&acc[slot.b()]);
        }
    }

    fn trains_a(&self) -> bool {
        false
    }

    fn start(&self, _layout: &Layout, _part: usize, out: &mut [f32]) {
        out.fill(0.0);
    }

    /// A is never zero.
    fn changes_something(&self, _layout: &Layout, params: &[f32]) -> bool {
        params.iter().any(|v| *v != 0.0)
    }

    fn record(&self, layout: &Layout, head: &mut Head) -> Vec<(&'static str, Vec<u8>)> {
        head.set("seed", self.seed).set("generator", GENERATOR);
        layout.record(head)
    }
}
