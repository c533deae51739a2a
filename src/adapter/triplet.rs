//! Low-rank changes `ΔW = s·B·diag(e)·A` whose rank is chosen while they are trained, shared by the kinds that prune it and
//! that let it grow.
//!
//! ```text
//! factors: e ∘ A and B      ∂L/∂A = e ∘ G,  ∂L/∂eᵢ = ⟨Gᵢ, Aᵢ⟩      with G the gradient of the first factor
//! penalty: w·mean over all A and B of ‖A·Aᵀ − I‖ and ‖Bᵀ·B − I‖, Frobenius norms
//! ```
//!
//! The penalty keeps rows orthogonal and of length 1, so that `e` alone says how much a direction counts. A and B start
//! uniform with rows of length about 1, `e` at zero.

use super::file::{self, Stored};
use super::lowrank::{Layout, Slot};
use super::{Group, Part, Size, Start};
use crate::error::{Error, Result};
use crate::kernel::{Compute, Tile, View};
use crate::knob::{Domain, Knob, Setting, Value, Values, resolve};
use crate::rng::Stream;
use core::ops::Range;
use std::prelude::v1::*;

/// Weight of the penalty.
pub static ORTHOGONALITY: Knob = Knob {
    name: "orthogonality",
    about: "Weight of a penalty that keeps the directions of a change orthogonal",
    metavar: "W",
    domain: Domain::Real { low: 0.0, high: 1e3 },
};

/// The parts of a slot: the ranges of A `[rank, in]`, Bᵀ `[rank, out]` and e `[rank]` among the parameters.
pub fn ranges(layout: &Layout) -> impl Iterator<Item = (&Slot, [Range<usize>; 3])> {
    layout.slots().iter().scan(0, |end, slot| {
        let mut next = |n: usize| {
            let start = *end;
            *end += n;
            start..*end
        };
        Some((slot, [next(slot.a().len()), next(slot.b().len()), next(slot.rank)]))
    })
}

/// Parts and sizes.
pub fn parts(layout: &Layout) -> (Vec<Part>, Size) {
    let of = |(slot, [a, b, e]): (&Slot, [Range<usize>; 3])| {
        let (given, group, [n_in, n_out]) = (Start::Given, Group::Main, slot.shape);
        [
            Part { name: "a", range: a, cols: n_in, start: given, group },
            Part { name: "b", range: b, cols: n_out, start: given, group },
            Part { name: "e", range: e, cols: slot.rank, start: Start::Zero, group },
        ]
    };
    let parts: Vec<Part> = ranges(layout).flat_map(of).collect();
    let params = parts.last().map_or(0, |part| part.range.end);
    (parts, Size { params, derived: layout.len(), gathered: layout.len(), scratch: 0, row: 0 })
}

/// The parameters before the first step.
pub fn fresh(layout: &Layout, seed: u64) -> Vec<f32> {
    let (parts, size) = parts(layout);
    let mut params = vec![0.0; size.params];
    parts.iter().enumerate().for_each(|(i, part)| start(layout, seed, i, &mut params[part.range.clone()]));
    params
}

/// The values of a part before the first step. Those of a part with more rows begin with those of one with fewer.
pub fn start(layout: &Layout, seed: u64, part: usize, out: &mut [f32]) {
    let (slot, which) = (&layout.slots()[part / 3], part % 3);
    if which == 2 {
        return out.fill(0.0);
    }
    Stream::new(seed, &slot.site.to_string(), ["triplet_a", "triplet_b"][which]).fill_uniform(0, out);
    let bound = libm::sqrtf(3.0 / slot.shape[which] as f32);
    out.iter_mut().for_each(|v| *v *= bound);
}

/// The factors.
pub fn expand(layout: &Layout, params: &[f32], factors: &mut [f32]) {
    for (slot, [a, b, e]) in ranges(layout) {
        let c = slot.shape[0];
        let rows = factors[slot.a()].chunks_exact_mut(c).zip(params[a].chunks_exact(c)).zip(&params[e]);
        rows.for_each(|((out, a), e)| out.iter_mut().zip(a).for_each(|(out, a)| *out = e * a));
        factors[slot.b()].copy_from_slice(&params[b]);
    }
}

/// The gradients of the parameters from those of the factors.
pub fn project(layout: &Layout, params: &[f32], acc: &[f32], grads: &mut [f32]) {
    for (slot, [a, b, e]) in ranges(layout) {
        let c = slot.shape[0];
        let g = &acc[slot.a()];
        for (r, g) in g.chunks_exact(c).enumerate() {
            let at = a.start + r * c..a.start + (r + 1) * c;
            let (value, row) = (params[e.start + r], &params[at.clone()]);
            grads[e.start + r] = g.iter().zip(row).map(|(g, a)| g * a).sum();
            grads[at].iter_mut().zip(g).for_each(|(out, g)| *out = value * g);
        }
        grads[b].copy_from_slice(&acc[slot.b()]);
    }
}

/// The penalty with weight `w`; its gradient is added to `grads`.
pub fn penalty(cx: &Compute, layout: &Layout, w: f32, params: &[f32], grads: &mut [f32]) -> f64 {
    if w == 0.0 {
        return 0.0;
    }
    let each = w / (2 * layout.slots().len()) as f32;
    let mut sum = 0.0;
    let mut apart = Vec::new();
    for (slot, [a, b, _]) in ranges(layout) {
        let n = slot.rank;
        apart.resize(n * n, 0.0);
        for (range, c) in [a, b].into_iter().zip(slot.shape) {
            let rows = View::new(&params[range.clone()], n, c);
            (cx.kernels.dots)(rows, rows, &mut Tile::new(&mut apart, n, n));
            (0..n).for_each(|i| apart[i * n + i] -= 1.0);
            let norm = libm::sqrtf(apart.iter().map(|v| v * v).sum());
            sum += f64::from(norm);
            // The norm has no slope where it is zero.
            let factor = if norm > 0.0 { 2.0 * each / norm } else { 0.0 };
            apart.iter_mut().for_each(|v| *v *= factor);
            (cx.kernels.sums)(View::new(&apart, n, n), rows, &mut Tile::new(&mut grads[range], n, c));
        }
    }
    f64::from(each) * sum
}

/// Smooths an importance: `Ī ← β Ī + (1 − β) S`, `Ū ← β Ū + (1 − β) |S − Ī|`.
pub fn smooth([mean, spread]: &mut [f32; 2], now: f32) {
    const BETA: f32 = 0.85;
    *mean = BETA * *mean + (1.0 - BETA) * now;
    *spread = BETA * *spread + (1.0 - BETA) * (now - *mean).abs();
}

/// Indices by falling score `Ī·Ū`; of equal scores the lower index comes first.
pub fn ranked(importance: &[[f32; 2]]) -> Vec<usize> {
    let score = |i: usize| importance[i][0] * importance[i][1];
    let mut order: Vec<usize> = (0..importance.len()).collect();
    order.sort_by(|a, b| score(*b).total_cmp(&score(*a)));
    order
}

/// The importances as a section of a file; none if all are zero.
pub fn to_section(importance: &[[f32; 2]]) -> Option<(&'static str, Vec<u8>)> {
    let bytes = importance.as_flattened().iter().flat_map(|v| v.to_le_bytes()).collect();
    importance.as_flattened().iter().any(|v| *v != 0.0).then_some(("importance", bytes))
}

/// `n` importances from a section.
///
/// # Errors
/// `Corrupt` for another number of values, or one that is not finite.
pub fn from_section(stored: &Stored, n: usize) -> Result<Vec<[f32; 2]>> {
    let Some(bytes) = stored.container.section("importance") else { return Ok(vec![[0.0; 2]; n]) };
    let words = file::words("importance", &bytes, 2 * n)?;
    let values: Vec<f32> = words.iter().map(|w| f32::from_le_bytes(*w)).collect();
    if values.iter().any(|v| !v.is_finite()) {
        return Err(Error::corrupt("an importance is not finite", 0));
    }
    Ok(values.as_chunks::<2>().0.to_vec())
}

/// Settings as a section of a file: whole numbers as `u32`, others as `f32`, which their domains must fit. None if all are
/// the usual ones.
pub fn to_schedule(values: &Values, knobs: &[Setting]) -> Option<(&'static str, Vec<u8>)> {
    if knobs.iter().all(|setting| values.get(setting.knob.name) == Some(&setting.value)) {
        return None;
    }
    let word = |setting: &Setting| match values.get(setting.knob.name) {
        Some(Value::Whole(v)) => (*v as u32).to_le_bytes(),
        _ => (values.real(setting.knob.name) as f32).to_le_bytes(),
    };
    Some(("schedule", knobs.iter().flat_map(word).collect()))
}

/// The settings that [`to_schedule`] wrote.
///
/// # Errors
/// `Corrupt` for another number of them; those of [`resolve`].
pub fn from_schedule(stored: &Stored, kind: &str, knobs: &[Setting]) -> Result<Values> {
    let mut values = Values::new();
    let Some(bytes) = stored.container.section("schedule") else { return resolve(kind, knobs, &values) };
    for (word, setting) in file::words("schedule", &bytes, knobs.len())?.iter().zip(knobs) {
        match setting.value {
            Value::Whole(_) => values.set(setting.knob.name, u64::from(u32::from_le_bytes(*word))),
            _ => values.set(setting.knob.name, f32::from_le_bytes(*word)),
        };
    }
    resolve(kind, knobs, &values)
}

/// Whether any `B·diag(e)·A` is other than zero.
pub fn changes_something(layout: &Layout, params: &[f32]) -> bool {
    ranges(layout).any(|(_, all)| all.into_iter().all(|range| params[range].iter().any(|v| *v != 0.0)))
}
