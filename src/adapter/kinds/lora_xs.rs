//! LoRA-XS (arXiv:2405.17604): the factors are the leading directions of the frozen rows, and only a small matrix between
//! them is trained.
//!
//! ```text
//! ΔW = s·B·R·A    W ≈ U·Σ·Vᵀ of that rank, A = Σ·Vᵀ [rank, in], B = U [out, rank]    trained: R [rank, rank], from 0
//! ∂L/∂R = ∂L/∂(R·A)·Aᵀ
//! ```
//! The authors start R at random values of 10⁻⁵; from 0 a new adapter changes nothing. A and B are computed when the adapter
//! is loaded (`adapter::frame`). The strength multiplies `s`.

use crate::adapter::frame::{self, Frame};
use crate::adapter::lowrank::{Factors, Layout, LowRank, Slot};
use crate::adapter::settled::{self, Settings, Settled};
use crate::adapter::spec::{ALPHA, LOW_RANK, RANK, STABILISED};
use crate::adapter::{Base, Frozen, Kind, Part, Site, Size};
use crate::container::head::Head;
use crate::error::Result;
use crate::kernel::Compute;
use crate::role::Role;
use core::ops::Range;
use std::prelude::v1::*;

/// Its row.
pub static KIND: Kind = Kind {
    name: "lora-xs",
    about: "a small matrix between the leading directions of each layer; small files",
    rate: 2e-3,
    knobs: &LOW_RANK,
    targets: &Role::LINEAR,
    shape: settled::shape::<Core>,
    create: settled::create::<Core>,
    read: settled::read::<Core>,
    sections: &[],
    grown: &[],
    codec: None,
    size: Some(&RANK),
};

/// Parameters: R `[rank, rank]` of each site.
pub type LoraXs = LowRank<Core>;

/// The factors are frozen but for a matrix between them.
#[derive(Clone)]
pub struct Core {
    settings: Settings,
    frame: Frame,
}

impl Settled for Core {
    const KIND: &'static Kind = &KIND;

    fn make(settings: Settings, sites: &[Site], base: &Base) -> Result<(Layout, Self)> {
        let (rank, alpha) = (settings.whole(RANK.name), settings.values.real(ALPHA.name) as f32);
        let stabilised = settings.values.switch(STABILISED.name);
        let slot = |site: &Site| Slot::new(*site, base, rank, alpha, stabilised);
        let layout = Layout::new(sites.iter().map(slot).collect::<Result<_>>()?, stabilised);
        Ok((layout, Core { settings, frame: Frame::default() }))
    }

    fn settings(&self) -> &Settings {
        &self.settings
    }
}

#[cfg(feature = "internals")]
impl Core {
    /// This with given A and Bᵀ.
    pub fn with_frame(self, frame: Frame) -> Self {
        Core { frame, ..self }
    }

    /// A and Bᵀ, once it was prepared.
    pub fn frame(&self) -> &Frame {
        &self.frame
    }
}

impl Factors for Core {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn parts(&self, layout: &Layout) -> (Vec<Part>, Size) {
        let rank = self.settings.whole(RANK.name);
        let (parts, all) = (frame::parts(layout, "r", rank, rank), layout.len());
        let [frames, scratch] = frame::size(layout, rank);
        (
            parts,
            Size { params: layout.slots().len() * rank * rank, derived: all + frames, gathered: all, scratch, row: 0 },
        )
    }

    fn own(&self, _layout: &Layout, slot: usize) -> Range<usize> {
        slot..slot + 1
    }

    fn prepare(&mut self, cx: &Compute, layout: &Layout, frozen: &dyn Frozen) -> Result<()> {
        if !self.frame.is_made() {
            let make: &frame::Make = &|w, a, b| frame::spread(&w, |sigma| [sigma, 1.0], a, b);
            self.frame = Frame::of(cx, layout, self.settings.whole(RANK.name), frozen, &|_, _| Ok(()), make)?;
        }
        Ok(())
    }

    fn expand(&self, _cx: &Compute, layout: &Layout, params: &[f32], factors: &mut [f32]) {
        self.frame.turn(layout, params, factors);
    }

    fn project(&self, _cx: &Compute, layout: &Layout, _params: &[f32], acc: &[f32], grads: &mut [f32]) {
        self.frame.turn_back(layout, acc, grads);
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
