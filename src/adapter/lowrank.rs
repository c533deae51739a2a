//! The algebra of low-rank changes `ΔW = s·B·A`, shared by the kinds.
//!
//! A is stored as `[rank, in]` and B transposed, `[rank, out]`: so every product below is one of the kernels, without a
//! copy. Both factors of all sites lie in one buffer that a [`Layout`] describes.

use super::{Base, Linear, MAX_RANK, Site};
use crate::error::{Error, Result};
use crate::kernel::{Buffer, Compute, Tile, View};
use crate::nn::linear::even;
use core::ops::Range;
use std::prelude::v1::*;

/// Rows, or columns, that a worker takes at a time. No result depends on them.
const ROWS: usize = 16;
const COLS: [usize; 3] = [256, 192, 96];
/// Multiplications below which threads cost more than they give.
const SMALL: usize = 1 << 18;

/// One site's part of the buffer.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Where it attaches.
    pub site: Site,
    /// Input and output width.
    pub shape: [usize; 2],
    /// Rank.
    pub rank: usize,
    /// Numerator of the factor.
    pub alpha: f32,
    /// `s`: alpha over the rank, or over its root.
    pub factor: f32,
    /// Where A begins in the buffer; Bᵀ follows it.
    pub start: usize,
}

impl Slot {
    /// A slot for a layer of `base`, its place not yet known.
    ///
    /// # Errors
    /// `Invalid` if rank or alpha cannot be used here; `Mismatch` if `base` has no such layer.
    pub fn new(site: Site, base: &Base, rank: usize, alpha: f32, stabilised: bool) -> Result<Slot> {
        let shape = base.shape(site)?;
        let most = MAX_RANK.min(shape[0]).min(shape[1]);
        if rank == 0 || rank > most {
            return Err(Error::invalid("rank", format!("{rank} for {site}; 1 to {most} can be used")));
        }
        if !(alpha.is_finite() && alpha != 0.0) {
            return Err(Error::invalid("alpha", format!("{alpha}; a finite number other than 0 can be used")));
        }
        let divisor = if stabilised { libm::sqrtf(rank as f32) } else { rank as f32 };
        Ok(Slot { site, shape, rank, alpha, factor: alpha / divisor, start: 0 })
    }

    /// Where A lies.
    pub fn a(&self) -> Range<usize> {
        self.start..self.start + self.rank * self.shape[0]
    }

    /// Where Bᵀ lies.
    pub fn b(&self) -> Range<usize> {
        let start = self.a().end;
        start..start + self.rank * self.shape[1]
    }

    fn a_of<'a>(&self, factors: &'a [f32]) -> View<'a> {
        View::new(&factors[self.a()], self.rank, self.shape[0])
    }

    fn b_of<'a>(&self, factors: &'a [f32]) -> View<'a> {
        View::new(&factors[self.b()], self.rank, self.shape[1])
    }
}

/// Where the factors of all sites lie in one buffer, sorted by site.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Strength on top of every slot's factor; 1 as trained. Not part of a file.
    pub scale: f32,
    slots: Vec<Slot>,
    stabilised: bool,
    /// Place in `slots` by `Site::index`.
    places: Vec<Option<u32>>,
    len: usize,
}

impl Layout {
    /// Lays the slots out one after the other. `stabilised`: how their factors came from alpha and rank.
    ///
    /// # Panics
    /// If a site comes twice.
    pub fn new(mut slots: Vec<Slot>, stabilised: bool) -> Layout {
        slots.sort_by_key(|s| s.site);
        let layers = slots.last().map_or(0, |s| s.site.layer + 1);
        let mut places = vec![None; layers * Linear::COUNT];
        let mut len = 0;
        for (i, slot) in slots.iter_mut().enumerate() {
            slot.start = len;
            len = slot.b().end;
            let before = places[slot.site.index()].replace(i as u32);
            assert!(before.is_none(), "{} comes twice", slot.site);
        }
        Layout { scale: 1.0, slots, stabilised, places, len }
    }

    /// All slots, sorted by site.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The slot of a site, if it is covered.
    pub fn slot(&self, site: Site) -> Option<&Slot> {
        self.place(site).map(|i| &self.slots[i])
    }

    /// Its place among the slots.
    pub fn place(&self, site: Site) -> Option<usize> {
        self.places.get(site.index()).copied().flatten().map(|i| i as usize)
    }

    /// Values of all factors.
    #[allow(clippy::len_without_is_empty, reason = "a layout without slots is refused where it is made")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether factors are alpha over the root of the rank.
    pub fn stabilised(&self) -> bool {
        self.stabilised
    }

    /// The factors of a site in `factors`, and `s` with the strength.
    pub fn factors<'a>(&self, site: Site, factors: &'a [f32]) -> Option<(View<'a>, View<'a>, f32)> {
        let slot = self.slot(site)?;
        Some((slot.a_of(factors), slot.b_of(factors), slot.factor * self.scale))
    }

    /// `y += s·(x·Aᵀ)·Bᵀ`. x: `[N, in]`, y: `[N, out]`, added to.
    pub fn forward(&self, cx: &Compute, factors: &[f32], site: Site, x: View, y: &mut Tile, scratch: &mut Buffer) {
        let Some((a, b, s)) = self.factors(site, factors) else { return };
        let u = scratch.room(x.n * a.n);
        products(cx, x, a, s, u);
        add_products(cx, View::new(u, x.n, a.n), b, y);
    }

    /// With `U = s·x·Aᵀ` and `dU = s·dy·B`: `dBᵀ += Uᵀ·dy`, `dA += dUᵀ·x`, `dx += dU·A`.
    /// `grads` has the layout of `factors`.
    pub fn backward(
        &self,
        cx: &Compute,
        factors: &[f32],
        site: Site,
        x: View,
        dy: View,
        dx: Option<&mut Tile>,
        grads: &mut [f32],
        scratch: &mut Buffer,
    ) {
        let (Some(slot), Some((a, b, s))) = (self.slot(site), self.factors(site, factors)) else { return };
        let (n, rank) = (x.n, slot.rank);
        let u = scratch.room(n * rank);
        products(cx, x, a, s, u);
        add_outer(cx, View::new(u, n, rank), dy, &mut grads[slot.b()]);
        products(cx, dy, b, s, u);
        let du = View::new(u, n, rank);
        add_outer(cx, du, x, &mut grads[slot.a()]);
        if let Some(dx) = dx {
            add_products(cx, du, a, dx);
        }
    }

    /// `w += s·Σᵣ Bᵀ[r, row]·A[r]`, ranks in order.
    pub fn bake_row(&self, factors: &[f32], site: Site, row: usize, w: &mut [f32]) {
        let Some((a, b, s)) = self.factors(site, factors) else { return };
        for r in 0..a.n {
            let scaled = s * b.row(r)[row];
            for (w, &a) in w.iter_mut().zip(a.row(r)) {
                *w = crate::math::fma(scaled, a, *w);
            }
        }
    }

    /// Whether any `B·A` is other than zero.
    pub fn changes_something(&self, factors: &[f32]) -> bool {
        let any = |range: Range<usize>| factors[range].iter().any(|&v| v != 0.0);
        self.slots.iter().any(|s| any(s.a()) && any(s.b()))
    }
}

/// `u = s·x·wᵀ`. x: `[N, c]`, w: `[rank, c]`, u: `[N, rank]`.
fn products(cx: &Compute, x: View, w: View, s: f32, u: &mut [f32]) {
    let granule = if x.n * w.n * w.c < SMALL { x.n.max(1) } else { ROWS };
    cx.pool.rows([Tile::new(u, x.n, w.n)], [granule], &|part, [mut u], _| {
        let first = part * granule;
        (cx.kernels.dots)(x.rows(first..first + u.n()), w, &mut u);
        for i in 0..u.n() {
            u.row(i).iter_mut().for_each(|v| *v *= s);
        }
    });
}

/// `y += u·w`. u: `[N, rank]`, w: `[rank, c]`, y: `[N, c]`.
fn add_products(cx: &Compute, u: View, w: View, y: &mut Tile) {
    let granule = columns(cx, u.n * w.n, w.c);
    cx.pool.columns([y.part(0..u.n, 0..w.c)], [granule], &|part, [mut y], _| {
        let first = part * granule;
        (cx.kernels.sums)(u, w.cols(first..first + y.c()), &mut y);
    });
}

/// `g += uᵀ·v`. u: `[N, rank]`, v: `[N, c]`, g: `[rank, c]`.
fn add_outer(cx: &Compute, u: View, v: View, g: &mut [f32]) {
    if v.n == 0 {
        return;
    }
    let granule = columns(cx, u.n * u.c, v.c);
    cx.pool.columns([Tile::new(g, u.c, v.c)], [granule], &|part, [mut g], _| {
        let first = part * granule;
        (cx.kernels.outer)(u, v.cols(first..first + g.c()), &mut g);
    });
}

fn columns(cx: &Compute, products: usize, c: usize) -> usize {
    if products * c < SMALL { c.max(1) } else { even(c, cx.pool.threads(), COLS) }
}
