//! LoHa (arXiv:2108.06098): the change is the product, entry by entry, of two low-rank matrices. Its rank is up to the
//! square of theirs. The strength multiplies `ΔW`.
//!
//! ```text
//! ΔW = s·(W1a·W1b) ∘ (W2a·W2b)     Wa [out, r] stored transposed, Wb [r, in];  s = alpha / r
//!    = s·Σ over i, j of (w1aᵢ ∘ w2aⱼ)·(w1bᵢ ∘ w2bⱼ)ᵀ
//! ```
//!
//! The second line is a low-rank change of rank `r²`, and that is how it is computed, saved for other programs, merged and
//! baked. No matrix of the size of `W` is formed. Its factors are `A[i·r + j] = w1bᵢ ∘ w2bⱼ` and `Bᵀ[i·r + j] = w1aᵢ ∘ w2aⱼ`.
//! W2a starts at zero; the others are uniform: W1a in ±1/√r, W1b in ±1, W2b in ±1/√in.

use crate::adapter::file::Stored;
use crate::adapter::lowrank::{self, Factors, Layout, LowRank, Slot};
use crate::adapter::spec::{ALPHA, RANK, USUAL_ALPHA};
use crate::adapter::{Base, Group, Kind, MAX_RANK, Part, Site, Size, Spec, Start};
use crate::container::head::Head;
use crate::error::{Error, Result};
use crate::kernel::Compute;
use crate::knob::Setting;
use crate::rng::{GENERATOR, Stream};
use crate::role::Role;
use core::ops::Range;
use std::prelude::v1::*;

/// Its settings.
static KNOBS: [Setting; 2] = [Setting::whole(&RANK, 4), USUAL_ALPHA];

/// Its row.
pub static KIND: Kind = Kind {
    name: "loha",
    about: "products of two low-rank changes, entry by entry; a high rank from few numbers",
    rate: 2e-3,
    knobs: &KNOBS,
    targets: &Role::LINEAR,
    shape: |spec, base| Ok(lowrank::shape(&layout(spec, base)?, &Hadamard { seed: spec.seed })),
    create: |spec, base| {
        let (layout, of) = (layout(spec, base)?, Hadamard { seed: spec.seed });
        let (parts, size) = of.parts(&layout);
        let mut params = vec![0.0; size.params];
        parts.iter().enumerate().for_each(|(i, part)| of.start(&layout, i, &mut params[part.range.clone()]));
        Ok(Box::new(LowRank::new(layout, params, of)))
    },
    read: |stored| Ok(Box::new(read(stored)?)),
    sections: &lowrank::SECTIONS,
    grown: &[],
    codec: None,
    size: Some(&RANK),
};

/// Parameters: W1aᵀ, W1b, W2aᵀ and W2b of each site.
struct Hadamard {
    seed: u64,
}

const PARTS: [&str; 4] = ["w1a", "w1b", "w2a", "w2b"];

/// The low-rank change of rank `r²` that `r` and `alpha` mean at a site.
fn slot(site: Site, base: &Base, r: usize, alpha: f32) -> Result<Slot> {
    let slot = Slot::new(site, base, r, alpha, false)?;
    let rank = r.saturating_mul(r);
    if rank > MAX_RANK {
        return Err(Error::invalid("rank", format!("{r} for {site}; its square may be at most {MAX_RANK}")));
    }
    let alpha = alpha * r as f32;
    Ok(Slot { rank, alpha, factor: alpha / rank as f32, ..slot })
}

fn layout(spec: &Spec, base: &Base) -> Result<Layout> {
    let values = spec.values()?;
    let (r, alpha) = (values.whole(RANK.name) as usize, values.real(ALPHA.name) as f32);
    let slots: Result<Vec<Slot>> = spec.sites(base)?.into_iter().map(|site| slot(site, base, r, alpha)).collect();
    Ok(Layout::new(slots?, false))
}

fn read(stored: Stored) -> Result<LowRank<Hadamard>> {
    let seed = stored.seed()?;
    let layout = Layout::read_as(&stored, &|site, rank, alpha, stabilised| {
        let r = rank.isqrt();
        if r * r != rank || stabilised {
            return Err(Error::invalid("rank", format!("{rank} for {site}; a square can be used")));
        }
        slot(site, stored.base, r, alpha / r as f32).map(|slot| Slot { alpha, factor: alpha / rank as f32, ..slot })
    })?;
    let of = Hadamard { seed };
    let params = stored.params(&of.parts(&layout).0, |part, out| of.start(&layout, part, out))?;
    Ok(LowRank::new(layout, params, of))
}

/// The ranges of the four parts of each slot.
fn ranges(layout: &Layout) -> impl Iterator<Item = (&Slot, [Range<usize>; 4])> {
    layout.slots().iter().scan(0, |end, slot| {
        let ([n_in, n_out], r) = (slot.shape, slot.rank.isqrt());
        let mut next = |width: usize| {
            let start = *end;
            *end += r * width;
            start..*end
        };
        Some((slot, [next(n_out), next(n_in), next(n_out), next(n_in)]))
    })
}

/// Row `i·r + j` of `out` is row `i` of `first` times row `j` of `second`.
fn multiply(first: &[f32], second: &[f32], width: usize, out: &mut [f32]) {
    let pairs = first.chunks_exact(width).flat_map(|a| second.chunks_exact(width).map(move |b| (a, b)));
    for (out, (a, b)) in out.chunks_exact_mut(width).zip(pairs) {
        out.iter_mut().zip(a).zip(b).for_each(|((out, a), b)| *out = a * b);
    }
}

/// The gradients of `first` and `second` from that of their products, `g`.
fn multiply_backward(
    first: &[f32],
    second: &[f32],
    width: usize,
    g: &[f32],
    d_first: &mut [f32],
    d_second: &mut [f32],
) {
    d_first.fill(0.0);
    d_second.fill(0.0);
    let r = first.len() / width;
    for (row, g) in g.chunks_exact(width).enumerate() {
        let [i, j] = [row / r, row % r].map(|i| i * width..(i + 1) * width);
        let (a, b) = (&first[i.clone()], &second[j.clone()]);
        d_first[i].iter_mut().zip(g).zip(b).for_each(|((d, g), b)| *d += g * b);
        d_second[j].iter_mut().zip(g).zip(a).for_each(|((d, g), a)| *d += g * a);
    }
}

impl Factors for Hadamard {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn parts(&self, layout: &Layout) -> (Vec<Part>, Size) {
        let part = |(i, range): (usize, Range<usize>), slot: &Slot| {
            let (cols, start) = (slot.shape[1 - i % 2], if i == 2 { Start::Zero } else { Start::Given });
            Part { name: PARTS[i], range, cols, start, group: Group::Main }
        };
        let of = |(slot, all): (&Slot, [Range<usize>; 4])| {
            all.into_iter().enumerate().map(|each| part(each, slot)).collect::<Vec<_>>()
        };
        let parts: Vec<Part> = ranges(layout).flat_map(of).collect();
        let params = parts.last().map_or(0, |part| part.range.end);
        (parts, Size { params, derived: layout.len(), gathered: layout.len(), scratch: 0, row: 0 })
    }

    fn own(&self, _layout: &Layout, slot: usize) -> Range<usize> {
        4 * slot..4 * slot + 4
    }

    fn expand(&self, _cx: &Compute, layout: &Layout, params: &[f32], factors: &mut [f32]) {
        for (slot, all) in ranges(layout) {
            let [w1a, w1b, w2a, w2b] = all.map(|range| &params[range]);
            multiply(w1b, w2b, slot.shape[0], &mut factors[slot.a()]);
            multiply(w1a, w2a, slot.shape[1], &mut factors[slot.b()]);
        }
    }

    fn project(&self, _cx: &Compute, layout: &Layout, params: &[f32], acc: &[f32], grads: &mut [f32]) {
        for (slot, all) in ranges(layout) {
            let [w1a, w1b, w2a, w2b] = all.clone().map(|range| &params[range]);
            let (first, second) = grads[all[0].start..all[3].end].split_at_mut(w1a.len() + w1b.len());
            let ((d1a, d1b), (d2a, d2b)) = (first.split_at_mut(w1a.len()), second.split_at_mut(w2a.len()));
            multiply_backward(w1b, w2b, slot.shape[0], &acc[slot.a()], d1b, d2b);
            multiply_backward(w1a, w2a, slot.shape[1], &acc[slot.b()], d1a, d2a);
        }
    }

    fn start(&self, layout: &Layout, part: usize, out: &mut [f32]) {
        let (slot, which) = (&layout.slots()[part / 4], part % 4);
        let bound = match which {
            0 => lowrank::kaiming(slot.rank.isqrt()),
            1 => 1.0,
            2 => return out.fill(0.0),
            _ => lowrank::kaiming(slot.shape[0]),
        };
        Stream::new(self.seed, &slot.site.to_string(), &format!("loha_{}", PARTS[which])).fill_uniform(0, out);
        out.iter_mut().for_each(|v| *v *= bound);
    }

    fn changes_something(&self, layout: &Layout, params: &[f32]) -> bool {
        ranges(layout).any(|(_, all)| all.into_iter().all(|range| params[range].iter().any(|v| *v != 0.0)))
    }

    fn record(&self, layout: &Layout, head: &mut Head) -> Vec<(&'static str, Vec<u8>)> {
        head.set("seed", self.seed).set("generator", GENERATOR);
        layout.record(head)
    }
}
