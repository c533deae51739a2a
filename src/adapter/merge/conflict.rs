//! What two adapters do to each other, before they are merged.
//!
//! ```text
//! cosine     ⟨ΔWᵢ, ΔWⱼ⟩ / (‖ΔWᵢ‖·‖ΔWⱼ‖), over all layers
//! signs      of the entries that are among the largest fifth of both, the part with opposite signs
//! overlap    ‖Uᵢᵀ·Uⱼ‖² / k, U the left singular vectors and k the smaller rank; the mean over layers that both change
//! lost       energy of the smaller of two entries with opposite signs, as a part of the energy of both: what gives way
//! ```
//! Values that are unrelated have cosine 0, half of their signs are opposite, and 0.09 is lost.

use crate::adapter::algebra::{Factors, dot, triples};
use super::elementwise::VOTES;
use std::prelude::v1::*;

/// The part of the entries whose signs are compared.
const TOP: f64 = 0.2;
/// Entries below this part of the largest are none: R-TSVM's sparsity.
const NONE: f64 = 1e-2;
/// Entries further than this many deviations from the mean are outliers.
const OUTLYING: f64 = 3.0;

/// What is known of a change at a place.
#[derive(Clone, Copy, Debug, Default)]
pub struct Survey {
    /// The sum of squares.
    pub energy: f64,
    /// The sum of the sizes of its outliers.
    pub outliers: f64,
    /// The part of its entries that is not near zero.
    pub busy: f64,
}

/// What is known of two changes at a place.
#[derive(Clone, Copy, Debug)]
pub struct Meeting {
    /// Which adapters.
    pub pair: [usize; 2],
    inner: f64,
    /// Entries that are large in both, and those of them with opposite signs.
    large: u64,
    opposite: u64,
    overlap: f64,
    lost: f64,
}

/// What is known of a place.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// For each adapter; nothing if it does not change the place.
    pub surveys: Vec<Option<Survey>>,
    /// For each two that both change it.
    pub meetings: Vec<Meeting>,
}

/// What two adapters do to each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Conflict {
    /// Their indices.
    pub pair: [usize; 2],
    /// Cosine of the changes.
    pub cosine: f64,
    /// The part of the large entries with opposite signs; nothing if no entry is large in both.
    pub signs: Option<f64>,
    /// The part of the output space that both change; nothing if no place is changed by both.
    pub overlap: Option<f64>,
    /// The part of the energy that gives way.
    pub lost: f64,
}

/// What to do, for eyes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advice {
    /// `merge`, `route` or `mix`.
    pub word: &'static str,
    /// Why, and how.
    pub why: &'static str,
}

/// One row of the advice: the first that fits counts.
struct Rule {
    fits: fn(&Conflict) -> bool,
    advice: Advice,
}

const RULES: &[Rule] = &[
    Rule {
        fits: |c| c.cosine <= -0.2 || c.signs.is_some_and(|signs| signs >= 0.65),
        advice: Advice { word: "route", why: "they undo each other: attach one at a time" },
    },
    Rule {
        fits: |c| c.cosine >= 0.8,
        advice: Advice { word: "merge", why: "they are nearly one: linear with weights that add up to 1" },
    },
    Rule {
        fits: |c| c.lost >= 0.15 || c.cosine <= -0.05 && c.signs.is_some_and(|signs| signs >= 0.55),
        advice: Advice { word: "mix", why: "much gives way: train one adapter on the data of both" },
    },
    Rule {
        fits: |c| c.overlap.is_some_and(|overlap| overlap >= 0.5),
        advice: Advice { word: "merge", why: "they share their space: tsvm or ties" },
    },
];

/// Where no rule fits.
const APART: Advice = Advice { word: "merge", why: "they hardly meet: sum loses nothing" };

impl Conflict {
    /// What to do.
    pub fn advice(&self) -> Advice {
        RULES.iter().find(|rule| (rule.fits)(self)).map_or(APART, |rule| rule.advice)
    }
}

/// Looks at the changes of a place, with their weights. One whole matrix is there at a time.
pub fn look(changes: &[Option<(Factors, f64)>]) -> Look {
    let mut look = Look { surveys: vec![None; changes.len()], meetings: Vec::new() };
    let mut least = vec![f32::INFINITY; changes.len()];
    for (t, change) in changes.iter().enumerate() {
        if let Some((change, weight)) = change {
            let (survey, top) = survey(change);
            look.surveys[t] = Some(Survey { energy: survey.energy * weight * weight, ..survey });
            least[t] = top;
        }
    }
    let bases: Vec<Option<Factors>> =
        changes.iter().map(|c| c.as_ref().map(|(c, _)| triples(c, c.rank()).vectors)).collect();
    for i in 0..changes.len() {
        for j in i + 1..changes.len() {
            let (Some((a, wa)), Some((b, wb))) = (&changes[i], &changes[j]) else { continue };
            let (Some(left), Some(right)) = (&bases[i], &bases[j]) else { continue };
            let mut meeting = entries([a, b], [*wa, *wb], [least[i], least[j]]);
            meeting.pair = [i, j];
            meeting.inner = wa * wb * a.inner(b);
            meeting.overlap = overlap(left, right);
            look.meetings.push(meeting);
        }
    }
    look
}

/// What is known of a change, and the size of the smallest entry of its largest fifth.
fn survey(change: &Factors) -> (Survey, f32) {
    let [rows, cols] = change.size;
    let (mut sizes, mut row) = (vec![0.0f32; rows * cols], vec![0.0; cols]);
    let (mut sum, mut energy) = (0.0, 0.0);
    for (i, out) in sizes.chunks_exact_mut(cols.max(1)).enumerate() {
        change.row(i, &mut row);
        sum += row.iter().sum::<f64>();
        energy += dot(&row, &row);
        out.iter_mut().zip(&row).for_each(|(out, v)| *out = *v as f32);
    }
    let n = sizes.len().max(1) as f64;
    let mean = sum / n;
    let far = OUTLYING * libm::sqrt((energy / n - mean * mean).max(0.0));
    let outliers = sizes.iter().map(|v| f64::from(*v)).filter(|v| (v - mean).abs() > far).map(f64::abs).sum();
    sizes.iter_mut().for_each(|v| *v = v.abs());
    let most = sizes.iter().copied().fold(0.0f32, f32::max);
    let busy = sizes.iter().filter(|v| f64::from(**v) >= NONE * f64::from(most)).count() as f64 / n;
    let top = VOTES[0].threshold(&mut sizes, TOP);
    (Survey { energy, outliers, busy: if most > 0.0 { busy } else { 0.0 } }, top.max(f32::MIN_POSITIVE))
}

/// What the entries of two changes say, row by row.
fn entries(changes: [&Factors; 2], weights: [f64; 2], least: [f32; 2]) -> Meeting {
    let [rows, cols] = changes[0].size;
    let mut both = [vec![0.0; cols], vec![0.0; cols]];
    let mut meeting = Meeting { pair: [0; 2], inner: 0.0, large: 0, opposite: 0, overlap: 0.0, lost: 0.0 };
    for i in 0..rows {
        changes.iter().zip(&mut both).for_each(|(change, row)| change.row(i, row));
        let [a, b] = &both;
        for (a, b) in a.iter().zip(b) {
            let large = [a, b].iter().zip(least).all(|(v, least)| v.abs() as f32 >= least);
            let (a, b) = (weights[0] * a, weights[1] * b);
            let opposite = a * b < 0.0;
            meeting.large += u64::from(large);
            meeting.opposite += u64::from(large && opposite);
            if opposite {
                let less = a.abs().min(b.abs());
                meeting.lost += less * less;
            }
        }
    }
    meeting
}

/// `‖Aᵀ·B‖² / k` of two sets of left vectors.
fn overlap(a: &Factors, b: &Factors) -> f64 {
    let (rows, k) = (a.size[0].max(1), a.rank().min(b.rank()));
    let of = |a: &[f64]| b.u.chunks_exact(rows).map(|b| dot(a, b) * dot(a, b)).sum::<f64>();
    if k == 0 { 0.0 } else { a.u.chunks_exact(rows).map(of).sum::<f64>() / k as f64 }
}

/// What every two of `n` adapters do to each other, from looks at all places.
pub fn conflicts(n: usize, looks: &[Look]) -> Vec<Conflict> {
    let energy = |t: usize| looks.iter().filter_map(|look| look.surveys[t]).map(|s| s.energy).sum::<f64>();
    let energies: Vec<f64> = (0..n).map(energy).collect();
    let pairs = (0..n).flat_map(|i| (i + 1..n).map(move |j| [i, j]));
    let of = |pair: [usize; 2]| {
        let met: Vec<&Meeting> = looks.iter().flat_map(|look| &look.meetings).filter(|m| m.pair == pair).collect();
        let [a, b] = pair.map(|t| energies[t]);
        let part = |x: f64, of: f64| if of > 0.0 { x / of } else { 0.0 };
        let (large, opposite) = met.iter().fold((0, 0), |(l, o), m| (l + m.large, o + m.opposite));
        Conflict {
            pair,
            cosine: part(met.iter().map(|m| m.inner).sum(), libm::sqrt(a) * libm::sqrt(b)),
            signs: (large > 0).then(|| opposite as f64 / large as f64),
            overlap: (!met.is_empty()).then(|| met.iter().map(|m| m.overlap).sum::<f64>() / met.len() as f64),
            lost: part(met.iter().map(|m| m.lost).sum(), a + b),
        }
    };
    pairs.map(of).collect()
}
