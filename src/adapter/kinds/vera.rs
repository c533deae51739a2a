//! VeRA (arXiv:2310.11454): one frozen random pair for all layers, of which each layer takes a slice and trains two vectors.
//!
//! ```text
//! ΔW = diag(λ_b)·B[..out]·diag(λ_d)·A[.., ..in]    A [rank, widest in], B [widest out, rank], from the seed
//! ```
//! A is uniform in ±√(6/widest in), B in ±√(6/rank); `λ_d`, `[rank]`, starts at 0.1 and `λ_b`, `[out]`, at 0. Rows of B
//! belong to outputs in Hugging Face's order, so a pair of another program can be taken. The paper has ranks of 256 and more,
//! which take as long as a LoRA of that rank. The strength multiplies `ΔW`.

use crate::adapter::lowrank::{Factors, Layout, LowRank, Slot};
use crate::adapter::settled::{self, Settings, Settled};
use crate::adapter::spec::{RANK, USUAL_RANK};
use crate::adapter::{Base, Group, Kind, Part, Site, Size, Start, gguf_row};
use crate::container::head::Head;
use crate::error::Result;
use crate::kernel::Compute;
use crate::knob::Setting;
use crate::role::Role;
use std::prelude::v1::*;

/// Its row.
pub static KIND: Kind = Kind {
    name: "vera",
    about: "one random pair for all layers, and two trained vectors for each",
    rate: 2e-2,
    knobs: &KNOBS,
    targets: &Role::LINEAR,
    shape: settled::shape::<Slices>,
    create: settled::create::<Slices>,
    read: settled::read::<Slices>,
    sections: &[],
    grown: &[],
    codec: None,
    size: Some(&RANK),
};

static KNOBS: [Setting; 1] = [USUAL_RANK];

/// What `λ_d` starts with.
const USUAL_D: f32 = 0.1;

/// Parameters: `λ_d`, then `λ_b`, of each site.
pub type Vera = LowRank<Slices>;

/// The factors are slices of one pair, their rows and columns scaled.
#[derive(Clone)]
pub struct Slices {
    settings: Settings,
    /// A, `[rank, widest in]`.
    a: Vec<f32>,
    /// B, `[widest out, rank]`.
    b: Vec<f32>,
    /// Head width of the sites whose rows are paired in GGUF files.
    paired: Vec<Option<usize>>,
}

impl Settled for Slices {
    const KIND: &'static Kind = &KIND;

    fn make(settings: Settings, sites: &[Site], base: &Base) -> Result<(Layout, Self)> {
        let rank = settings.whole(RANK.name);
        let slot = |site: &Site| Slot::new(*site, base, rank, rank as f32, false);
        let layout = Layout::new(sites.iter().map(slot).collect::<Result<_>>()?, false);
        let paired = layout.slots().iter().map(|s| base.paired(s.site)).collect();
        let [n_in, n_out] = widest(&layout);
        let (mut a, mut b) = (vec![0.0; rank * n_in], vec![0.0; n_out * rank]);
        for (out, role, fan) in [(&mut a, "vera_a", n_in), (&mut b, "vera_b", rank)] {
            settings.uniform(&"all", role, 0, libm::sqrtf(6.0 / fan as f32), out);
        }
        Ok((layout, Slices { settings, a, b, paired }))
    }

    fn settings(&self) -> &Settings {
        &self.settings
    }
}

/// The widest input and output.
fn widest(layout: &Layout) -> [usize; 2] {
    [0, 1].map(|side| layout.slots().iter().map(|s| s.shape[side]).max().unwrap_or(0))
}

impl Slices {
    /// These with another pair of the same size, A `[rank, widest in]` and B `[widest out, rank]`.
    #[cfg(feature = "internals")]
    pub fn with_pair(self, a: Vec<f32>, b: Vec<f32>) -> Self {
        Slices { a, b, ..self }
    }

    /// Calls `f(entry of Bᵀ of the slot, entry of B, output)` for each of them.
    fn entries(&self, slot: &Slot, place: usize, mut f: impl FnMut(usize, usize, usize)) {
        let n_out = slot.shape[1];
        for row in 0..n_out {
            let to = self.paired[place].map_or(row, |width| gguf_row(row, width));
            (0..slot.rank).for_each(|r| f(r * n_out + to, row * slot.rank + r, to));
        }
    }

    /// A's row `r` as a slot takes it.
    fn row(&self, slot: &Slot, r: usize) -> &[f32] {
        &self.a[r * (self.a.len() / slot.rank)..][..slot.shape[0]]
    }
}

/// Each slot with its `λ_d` and `λ_b`.
fn vectors<'a>(layout: &'a Layout, params: &'a [f32]) -> impl Iterator<Item = (&'a Slot, &'a [f32], &'a [f32])> {
    let mut at = 0;
    layout.slots().iter().map(move |slot| {
        let (d, b) = params[at..at + slot.rank + slot.shape[1]].split_at(slot.rank);
        at += slot.rank + slot.shape[1];
        (slot, d, b)
    })
}

impl Factors for Slices {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn parts(&self, layout: &Layout) -> (Vec<Part>, Size) {
        let (mut parts, mut at) = (Vec::with_capacity(2 * layout.slots().len()), 0);
        for slot in layout.slots() {
            for (name, cols, start, group) in
                [("d", slot.rank, Start::Given, Group::Main), ("b", slot.shape[1], Start::Zero, Group::Fast)]
            {
                parts.push(Part { name, range: at..at + cols, cols, start, group });
                at += cols;
            }
        }
        let all = layout.len();
        (parts, Size { params: at, derived: all + self.a.len() + self.b.len(), gathered: all, scratch: 0, row: 0 })
    }

    fn expand(&self, _cx: &Compute, layout: &Layout, params: &[f32], factors: &mut [f32]) {
        for (place, (slot, d, b)) in vectors(layout, params).enumerate() {
            for (r, out) in factors[slot.a()].chunks_exact_mut(slot.shape[0]).enumerate() {
                out.iter_mut().zip(self.row(slot, r)).for_each(|(o, a)| *o = d[r] * a);
            }
            let out = &mut factors[slot.b()];
            self.entries(slot, place, |to, from, row| out[to] = b[row] * self.b[from]);
        }
    }

    fn project(&self, _cx: &Compute, layout: &Layout, _params: &[f32], acc: &[f32], grads: &mut [f32]) {
        grads.fill(0.0);
        let mut at = 0;
        for (place, slot) in layout.slots().iter().enumerate() {
            let (d, b) = grads[at..at + slot.rank + slot.shape[1]].split_at_mut(slot.rank);
            for (r, g) in acc[slot.a()].chunks_exact(slot.shape[0]).enumerate() {
                d[r] = g.iter().zip(self.row(slot, r)).map(|(g, a)| g * a).sum();
            }
            let g = &acc[slot.b()];
            self.entries(slot, place, |to, from, row| b[row] += g[to] * self.b[from]);
            at += slot.rank + slot.shape[1];
        }
    }

    fn start(&self, _layout: &Layout, part: usize, out: &mut [f32]) {
        out.fill(if part.is_multiple_of(2) { USUAL_D } else { 0.0 });
    }

    fn changes_something(&self, layout: &Layout, params: &[f32]) -> bool {
        let any = |v: &[f32]| v.iter().any(|v| *v != 0.0);
        vectors(layout, params).any(|(_, d, b)| any(d) && any(b))
    }

    fn record(&self, layout: &Layout, head: &mut Head) -> Vec<(&'static str, Vec<u8>)> {
        settled::record(self, layout, head)
    }
}
