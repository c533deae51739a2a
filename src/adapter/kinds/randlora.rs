//! RandLoRA (arXiv:2502.00987): a sum of random low-rank matrices of which only diagonals are trained, so that few numbers
//! make a change of a high rank.
//!
//! ```text
//! ΔW = s·Σⱼ Bⱼ·diag(λⱼ)·A·diag(γⱼ)    A [rank, narrower side], Bⱼ [wider side, rank], from the seed, one set for all layers
//! ```
//! Where a layer has more inputs than outputs it is the transpose of this. λ, `[bases, rank]`, starts at 0 and γ, `[bases,
//! narrower side]`, at one over its longer side. Entries of A and B are uniform with variance 1. With as many bases as the
//! narrower side has ranks the change can be any matrix, as in the paper, and takes as long as a product of whole matrices;
//! the usual settings make a change of rank 8. The strength multiplies `s`.

use crate::adapter::lowrank::{Factors, Layout, LowRank, Slot};
use crate::adapter::settled::{self, Settings, Settled};
use crate::adapter::spec::{ALPHA, RANK};
use crate::adapter::{Base, Group, Kind, MAX_RANK, Part, Site, Size, Start};
use crate::container::head::Head;
use crate::error::Result;
use crate::kernel::Compute;
use crate::knob::{Domain, Knob, Setting};
use crate::role::Role;
use core::ops::Range;
use std::prelude::v1::*;

/// Number of bases.
pub static BASES: Knob = Knob {
    name: "bases",
    about: "Random matrices of that rank that are summed; at most as many as the layer has ranks for",
    metavar: "N",
    domain: Domain::Whole { low: 1, high: MAX_RANK as u64 },
};

static KNOBS: [Setting; 3] = [Setting::whole(&RANK, 4), Setting::real(&ALPHA, 80.0), Setting::whole(&BASES, 2)];

/// Its row.
pub static KIND: Kind = Kind {
    name: "randlora",
    about: "diagonals within random matrices; changes of a high rank",
    rate: 2e-3,
    knobs: &KNOBS,
    targets: &Role::LINEAR,
    shape: settled::shape::<Diagonals>,
    create: settled::create::<Diagonals>,
    read: settled::read::<Diagonals>,
    sections: &[],
    grown: &[],
    codec: None,
    size: Some(&BASES),
};

/// Parameters: λ, then γ, of each site.
pub type RandLora = LowRank<Diagonals>;

/// Random matrices with trained diagonals between them.
#[derive(Clone)]
pub struct Diagonals {
    settings: Settings,
    /// A, `[rank, widest narrower side]`.
    narrow: Vec<f32>,
    /// Each Bⱼ transposed, `[bases·rank, widest side]`.
    wide: Vec<f32>,
}

/// √3: the largest entry of a uniform distribution with variance 1.
const UNIT: f32 = 1.732_050_8;

impl Settled for Diagonals {
    const KIND: &'static Kind = &KIND;

    fn make(settings: Settings, sites: &[Site], base: &Base) -> Result<(Layout, Self)> {
        let [rank, bases] = [&RANK, &BASES].map(|knob| settings.whole(knob.name));
        let (total, alpha) = (rank.saturating_mul(bases), settings.values.real(ALPHA.name) as f32);
        // The factor is that of one basis.
        let slot = |site: &Site| Slot::new(*site, base, total, alpha * bases as f32, false);
        let layout = Layout::new(sites.iter().map(slot).collect::<Result<_>>()?, false);
        let most = |of: fn([usize; 2]) -> usize| layout.slots().iter().map(|s| of(s.shape)).max().unwrap_or(0);
        let (mut narrow, mut wide) =
            (vec![0.0; rank * most(|[a, b]| a.min(b))], vec![0.0; total * most(|[a, b]| a.max(b))]);
        settings.uniform(&"all", "randlora_a", 0, UNIT, &mut narrow);
        settings.uniform(&"all", "randlora_b", 0, UNIT, &mut wide);
        Ok((layout, Diagonals { settings, narrow, wide }))
    }

    fn settings(&self) -> &Settings {
        &self.settings
    }
}

/// A slot with the ranges of its λ and γ among the parameters, of its narrower and its wider factor, and their widths.
struct Sides {
    diagonals: [Range<usize>; 2],
    factors: [Range<usize>; 2],
    widths: [usize; 2],
}

impl Diagonals {
    fn sides(&self, layout: &Layout) -> impl Iterator<Item = Sides> {
        let (bases, mut at) = (self.settings.whole(BASES.name), 0);
        layout.slots().iter().map(move |slot| {
            let [n_in, n_out] = slot.shape;
            let (widths, factors) = if n_in <= n_out {
                ([n_in, n_out], [slot.a(), slot.b()])
            } else {
                ([n_out, n_in], [slot.b(), slot.a()])
            };
            let (lambda, gamma) = (at + slot.rank, at + slot.rank + bases * widths[0]);
            let diagonals = [at..lambda, lambda..gamma];
            at = gamma;
            Sides { diagonals, factors, widths }
        })
    }

    /// A's row `r`, and row `k` of all Bᵀ, as wide as a slot takes them.
    fn rows(&self, r: usize, k: usize, [narrow, wide]: [usize; 2]) -> [&[f32]; 2] {
        let [rank, bases] = [&RANK, &BASES].map(|knob| self.settings.whole(knob.name));
        let (a, b) = (self.narrow.len() / rank, self.wide.len() / (rank * bases));
        [&self.narrow[r * a..][..narrow], &self.wide[k * b..][..wide]]
    }
}

impl Factors for Diagonals {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn parts(&self, layout: &Layout) -> (Vec<Part>, Size) {
        let rank = self.settings.whole(RANK.name);
        let of = |sides: Sides| {
            let [lambda, gamma] = sides.diagonals;
            [
                Part { name: "lambda", range: lambda, cols: rank, start: Start::Zero, group: Group::Main },
                Part { name: "gamma", range: gamma, cols: sides.widths[0], start: Start::Given, group: Group::Main },
            ]
        };
        let parts: Vec<Part> = self.sides(layout).flat_map(of).collect();
        let (all, params) = (layout.len(), parts.last().map_or(0, |part| part.range.end));
        let derived = all + self.narrow.len() + self.wide.len();
        (parts, Size { params, derived, gathered: all, scratch: 0, row: 0 })
    }

    fn expand(&self, _cx: &Compute, layout: &Layout, params: &[f32], factors: &mut [f32]) {
        let rank = self.settings.whole(RANK.name);
        for Sides { diagonals: [lambda, gamma], factors: [narrow, wide], widths } in self.sides(layout) {
            for (k, lambda) in params[lambda].iter().enumerate() {
                let [a, b] = self.rows(k % rank, k, widths);
                let gamma = &params[gamma.start + k / rank * widths[0]..][..widths[0]];
                let out = &mut factors[narrow.start + k * widths[0]..][..widths[0]];
                out.iter_mut().zip(a).zip(gamma).for_each(|((o, a), g)| *o = lambda * a * g);
                factors[wide.start + k * widths[1]..][..widths[1]].copy_from_slice(b);
            }
        }
    }

    fn project(&self, _cx: &Compute, layout: &Layout, params: &[f32], acc: &[f32], grads: &mut [f32]) {
        let rank = self.settings.whole(RANK.name);
        grads.fill(0.0);
        for Sides { diagonals: [lambda, gamma], factors: [narrow, _], widths } in self.sides(layout) {
            for k in 0..lambda.len() {
                let [a, _] = self.rows(k % rank, k, widths);
                let g = &acc[narrow.start + k * widths[0]..][..widths[0]];
                let (at, from) = (lambda.start + k, gamma.start + k / rank * widths[0]);
                let own = &params[from..from + widths[0]];
                grads[at] = g.iter().zip(a).zip(own).map(|((g, a), own)| g * a * own).sum();
                let by = params[at];
                let out = &mut grads[from..from + widths[0]];
                out.iter_mut().zip(g.iter().zip(a)).for_each(|(o, (g, a))| *o += by * g * a);
            }
        }
    }

    fn start(&self, layout: &Layout, part: usize, out: &mut [f32]) {
        let bases = self.settings.whole(BASES.name);
        let narrow = layout.slots()[part / 2].shape.into_iter().min().unwrap_or(1);
        out.fill(if part.is_multiple_of(2) { 0.0 } else { 1.0 / bases.max(narrow) as f32 });
    }

    fn changes_something(&self, layout: &Layout, params: &[f32]) -> bool {
        let any = |range: &Range<usize>| params[range.clone()].iter().any(|v| *v != 0.0);
        self.sides(layout).any(|sides| sides.diagonals.iter().all(any))
    }

    fn record(&self, layout: &Layout, head: &mut Head) -> Vec<(&'static str, Vec<u8>)> {
        settled::record(self, layout, head)
    }
}
