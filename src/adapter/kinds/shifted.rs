//! Low-rank changes whose factors start at the frozen rows instead of at random ones. The frozen rows stay as they are, so
//! the change is the difference from the start, and a new adapter changes nothing:
//!
//! ```text
//! ΔW = s·(B·A − B₀·A₀) = s·(b·(A₀ + a) + B₀·a)     a = A − A₀, b = B − B₀, both trained, from 0
//! pissa   s·B₀·A₀ is the leading part of W: A₀ = √(Σ/s)·Vᵀ, B₀ = U·√(Σ/s)                      arXiv:2404.02948
//! olora   B₀ is the first columns of Q, A₀ the first rows of R, of W = Q·R                   arXiv:2406.01775
//! loftq   as pissa, of what W loses when it is stored in Q4_0                                arXiv:2310.08659
//! ```
//! As a change for other programs it has twice the rank. The differences are the parameters, since what training adds is
//! small beside the start: rounded to half floats, the sums would lose it. A₀ and B₀ are computed again when the adapter is
//! loaded (`adapter::frame`): a file with them would be twice as large. The strength multiplies `s`.

use super::lora;
use crate::adapter::algebra::Dense;
use crate::adapter::frame::{self, Frame};
use crate::adapter::lowrank::{Factors, Layout, Slot};
use crate::adapter::settled::{self, Settings, Settled};
use crate::adapter::spec::{ALPHA, RANK, STABILISED};
use crate::adapter::{Base, Frozen, Group, Kind, Part, Site, Size, Start};
use crate::container::head::Head;
use crate::error::{Error, Result};
use crate::kernel::Compute;
use crate::knob::{Domain, Knob};
use crate::quant::{Format, Matrix, encode_matrix};
use core::ops::Range;
use std::prelude::v1::*;

/// The start that needs no frozen rows.
pub const USUAL: &str = "usual";
const STARTS: [&str; 4] = [USUAL, "pissa", "olora", "loftq"];

/// Where the factors start.
pub static START: Knob = Knob {
    name: "start",
    about: "Where the two factors start: at random values, or at the frozen rows as in that method",
    metavar: "NAME",
    domain: Domain::Word(|| STARTS.to_vec()),
};

/// The format whose losses `loftq` starts from.
const STORED: &str = "Q4_0";

/// Factors that are differences from a start.
#[derive(Clone)]
pub struct Shifted {
    settings: Settings,
    frame: Frame,
}

impl Settled for Shifted {
    const KIND: &'static Kind = &lora::KIND;

    fn make(settings: Settings, sites: &[Site], base: &Base) -> Result<(Layout, Self)> {
        let (rank, alpha) = (settings.whole(RANK.name), settings.values.real(ALPHA.name) as f32);
        let stabilised = settings.values.switch(STABILISED.name);
        let slot = |site: &Site| {
            let own = Slot::new(*site, base, rank, alpha, stabilised)?;
            // The factor is that of the rank, whatever the number of rows that both differences take.
            Ok(Slot { rank: 2 * rank, alpha: own.factor * (2 * rank) as f32, ..own })
        };
        let layout = Layout::new(sites.iter().map(slot).collect::<Result<_>>()?, false);
        Ok((layout, Shifted { settings, frame: Frame::default() }))
    }

    fn settings(&self) -> &Settings {
        &self.settings
    }
}

impl Shifted {
    fn rank(&self) -> usize {
        self.settings.whole(RANK.name)
    }

    /// Ranges of `a` and `b` among the parameters.
    fn ranges(&self, slot: &Slot) -> [Range<usize>; 2] {
        // Its slots have twice as many values.
        let (start, [n_in, n_out]) = (slot.start / 2, slot.shape.map(|n| self.rank() * n));
        [start..start + n_in, start + n_in..start + n_in + n_out]
    }
}

/// The first columns of Q and rows of R of `W = Q·R`, by the modified process of Gram and Schmidt.
fn triangular(w: &Dense, a: &mut [f32], b: &mut [f32]) {
    let [rows, cols] = w.size;
    let rank = a.len() / cols.max(1);
    let mut columns: Vec<Vec<f64>> = Vec::with_capacity(rank);
    for k in 0..rank {
        let mut column: Vec<f64> = w.values.iter().skip(k).step_by(cols.max(1)).map(|v| f64::from(*v)).collect();
        // Twice, for what rounding left.
        for _ in 0..2 {
            for q in &columns {
                let along: f64 = q.iter().zip(&column).map(|(q, x)| q * x).sum();
                column.iter_mut().zip(q).for_each(|(x, q)| *x -= along * q);
            }
        }
        let length = libm::sqrt(column.iter().map(|x| x * x).sum());
        // A column that the others make up has no direction of its own.
        let scale = if length > 1e-12 { 1.0 / length } else { 0.0 };
        column.iter_mut().for_each(|x| *x *= scale);
        columns.push(column);
    }
    for (k, q) in columns.iter().enumerate() {
        b[k * rows..(k + 1) * rows].iter_mut().zip(q).for_each(|(b, q)| *b = *q as f32);
        let mut along = vec![0.0f64; cols];
        for (row, q) in w.values.chunks_exact(cols.max(1)).zip(q) {
            along.iter_mut().zip(row).for_each(|(r, w)| *r += q * f64::from(*w));
        }
        // Below the diagonal, R is zero.
        a[k * cols..(k + 1) * cols].iter_mut().zip(along).skip(k).for_each(|(a, r)| *a = r as f32);
    }
}

/// What rows lose in [`STORED`]; rows are filled with zeros to whole blocks.
fn lost(mut w: Dense) -> Dense {
    let cols = w.size[1];
    let Some(format) = Format::by_name(STORED) else { return w };
    let mut row = vec![0.0; cols.next_multiple_of(format.block)];
    let mut back = vec![0.0; row.len()];
    for values in w.values.chunks_exact_mut(cols.max(1)) {
        row[..cols].copy_from_slice(values);
        if let Ok(stored) = encode_matrix(format, 1, row.len(), &row) {
            stored.decode(0, 0..row.len(), &mut back);
        }
        values.iter_mut().zip(&back).for_each(|(w, q)| *w -= q);
    }
    w
}

impl Factors for Shifted {
    fn kind(&self) -> &'static Kind {
        Self::KIND
    }

    fn parts(&self, layout: &Layout) -> (Vec<Part>, Size) {
        let of = |slot: &Slot| {
            let [a, b] = self.ranges(slot);
            [
                Part { name: "a", range: a, cols: slot.shape[0], start: Start::Zero, group: Group::Main },
                Part { name: "b", range: b, cols: slot.shape[1], start: Start::Zero, group: Group::Fast },
            ]
        };
        let (all, [frames, scratch]) = (layout.len(), frame::size(layout, self.rank()));
        let size = Size { params: all / 2, derived: all + frames, gathered: all, scratch, row: 0 };
        (layout.slots().iter().flat_map(of).collect(), size)
    }

    fn prepare(&mut self, cx: &Compute, layout: &Layout, frozen: &dyn Frozen) -> Result<()> {
        if self.frame.is_made() {
            return Ok(());
        }
        let word = self.settings.values.word(START.name);
        let check = |slot: &Slot, w: &Matrix| match word == "loftq" && w.format.is_quantised() {
            true => Err(Error::unsupported(
                "start",
                format!(
                    "loftq at {}: its rows are {}, so what storing them lost is gone; pissa and olora can be used",
                    slot.site, w.format.name
                ),
            )),
            false => Ok(()),
        };
        let s = layout.slots().first().map_or(1.0, |slot| f64::from(slot.factor.abs()));
        let both = |sigma: f64| [libm::sqrt(sigma / s); 2];
        let make: &frame::Make = match word {
            "olora" => &|w, a, b| triangular(&w, a, b),
            "loftq" => &|w, a, b| frame::spread(&lost(w), both, a, b),
            _ => &|w, a, b| frame::spread(&w, both, a, b),
        };
        self.frame = Frame::of(cx, layout, self.rank(), frozen, &check, make)?;
        Ok(())
    }

    fn expand(&self, _cx: &Compute, layout: &Layout, params: &[f32], factors: &mut [f32]) {
        for (i, slot) in layout.slots().iter().enumerate() {
            let ([a0, b0], [a, b]) = (self.frame.pair(i, slot.shape), self.ranges(slot));
            let (a, b) = (&params[a], &params[b]);
            let (first, second) = factors[slot.a()].split_at_mut(a.len());
            for (k, (out, a)) in first.chunks_exact_mut(a0.c).zip(a.chunks_exact(a0.c)).enumerate() {
                out.iter_mut().zip(a).zip(a0.row(k)).for_each(|((o, a), a0)| *o = a0 + a);
            }
            second.copy_from_slice(a);
            let (first, second) = factors[slot.b()].split_at_mut(b.len());
            first.copy_from_slice(b);
            second.chunks_exact_mut(b0.c).enumerate().for_each(|(k, out)| out.copy_from_slice(b0.row(k)));
        }
    }

    /// A is in both pairs, B in the first.
    fn project(&self, _cx: &Compute, layout: &Layout, _params: &[f32], acc: &[f32], grads: &mut [f32]) {
        for slot in layout.slots() {
            let [a, b] = self.ranges(slot);
            let (first, second) = acc[slot.a()].split_at(a.len());
            grads[a].iter_mut().zip(first.iter().zip(second)).for_each(|(g, (x, y))| *g = x + y);
            let n = b.len();
            grads[b].copy_from_slice(&acc[slot.b()][..n]);
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
