//! Low-rank changes `ΔW = s·B·A`, where PEFT's `lora_bias` is set also `Δy = s·b`, shared by all kinds that differ only in how A and B follow from their parameters.
//!
//! A is stored as `[rank, in]` and B transposed, `[rank, out]`, so that every product below is a kernel call without a
//! copy. Both factors of all sites lie in one buffer that a [`Layout`] describes. [`LowRank`] is the adapter; a kind
//! implements [`Factors`]. The strength multiplies `s`.

use super::file::{self, Stored};
use super::{Adapter, At, Base, Frozen, Into, Kind, MAX_RANK, Needs, Part, Place, Seen, Shape, Site, Size};
use crate::bytes::Limits;
use crate::container::head::Head;
use crate::error::{Error, Result};
use crate::kernel::{Buffer, Compute, Tile, View};
use crate::nn::linear::even;
use crate::rng::Stream;
use crate::role::TensorKind;
use core::ops::Range;
use std::prelude::v1::*;

/// Rows, or columns, that a worker computes at a time. No result depends on it.
const ROWS: usize = 16;
const COLS: [usize; 3] = [256, 192, 96];
/// Number of multiplications below which threads do not pay.
const SMALL: usize = 1 << 18;

/// One site's part of the buffer.
#[derive(Clone, Debug)]
pub struct Slot {
    /// The site.
    pub site: Site,
    /// Input and output width.
    pub shape: [usize; 2],
    /// Rank.
    pub rank: usize,
    /// Numerator of the factor.
    pub alpha: f32,
    /// `s`: alpha over the rank, or over its root.
    pub factor: f32,
    /// Start of A in the buffer; Bᵀ follows it, and then the bias if there is one.
    pub start: usize,
    /// Whether a bias, times the factor, is added too.
    pub biased: bool,
}

impl Slot {
    /// A slot for a layer of `base`, without its position in the buffer.
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
        Ok(Slot { site, shape, rank, alpha, factor: alpha / divisor, start: 0, biased: false })
    }

    /// The range of A in the buffer.
    pub fn a(&self) -> Range<usize> {
        self.start..self.start + self.rank * self.shape[0]
    }

    /// The range of Bᵀ in the buffer.
    pub fn b(&self) -> Range<usize> {
        let start = self.a().end;
        start..start + self.rank * self.shape[1]
    }

    /// The range of the bias in the buffer; empty if there is none.
    pub fn bias(&self) -> Range<usize> {
        let start = self.b().end;
        start..start + if self.biased { self.shape[1] } else { 0 }
    }

    /// `y += s·(x·Aᵀ)·Bᵀ + s·b` x: `[N, in]`, y: `[N, out]`, added to.
    pub fn forward(&self, factors: &[f32], at: &At, x: View, y: &mut Tile, scratch: &mut Buffer) {
        let (a, b, s) = (self.a_of(factors), self.b_of(factors), self.factor * at.strength);
        let u = scratch.room(x.n * a.n);
        products(at.cx, x, a, s, u);
        add_products(at.cx, View::new(u, x.n, a.n), b, y);
        let bias = &factors[self.bias()];
        for i in 0..if self.biased { x.n } else { 0 } {
            y.row(i).iter_mut().zip(bias).for_each(|(y, b)| *y += s * b);
        }
    }

    /// With `U = s·x·Aᵀ` and `dU = s·dy·B`: `dBᵀ += Uᵀ·dy`, `dA += dUᵀ·x`, `db += s Σ dy`, `dx += dU·A`.
    /// `grads`, if given, has the layout of `factors`. dy: `[N, out]`.
    pub fn backward(
        &self,
        factors: &[f32],
        at: &At,
        x: View,
        dy: &[f32],
        dx: Option<&mut Tile>,
        grads: Option<&mut [f32]>,
        scratch: &mut Buffer,
    ) {
        self.backward_of(factors, at, x, dy, dx, grads, true, scratch);
    }

    /// [`Slot::backward`], with the gradient of A only if `a_too`.
    fn backward_of(
        &self,
        factors: &[f32],
        at: &At,
        x: View,
        dy: &[f32],
        dx: Option<&mut Tile>,
        grads: Option<&mut [f32]>,
        a_too: bool,
        scratch: &mut Buffer,
    ) {
        let cx = at.cx;
        let (a, b, s) = (self.a_of(factors), self.b_of(factors), self.factor * at.strength);
        let (n, rank, dy) = (x.n, self.rank, View::new(dy, x.n, self.shape[1]));
        let u = scratch.room(n * rank);
        let mut grads = grads;
        if let Some(grads) = &mut grads {
            products(cx, x, a, s, u);
            add_outer(cx, View::new(u, n, rank), dy, &mut grads[self.b()]);
            let bias = &mut grads[self.bias()];
            for i in 0..if self.biased { n } else { 0 } {
                bias.iter_mut().zip(dy.row(i)).for_each(|(g, dy)| *g += s * dy);
            }
        }
        products(cx, dy, b, s, u);
        let du = View::new(u, n, rank);
        if let Some(grads) = grads.filter(|_| a_too) {
            add_outer(cx, du, x, &mut grads[self.a()]);
        }
        if let Some(dx) = dx {
            add_products(cx, du, a, dx);
        }
    }

    /// Rows `rows` of `W + s·B·A`. w: `[rows, in]`, changed.
    pub fn bake(&self, factors: &[f32], at: &At, rows: Range<usize>, w: &mut Tile) {
        let (a, b, s) = (self.a_of(factors), self.b_of(factors), self.factor * at.strength);
        let mut u = vec![0.0; rows.len() * self.rank];
        for (u, j) in u.chunks_exact_mut(self.rank).zip(rows) {
            u.iter_mut().enumerate().for_each(|(r, u)| *u = s * b.row(r)[j]);
        }
        (at.cx.kernels.sums)(View::new(&u, w.n(), self.rank), a, w);
    }

    fn a_of<'a>(&self, factors: &'a [f32]) -> View<'a> {
        View::new(&factors[self.a()], self.rank, self.shape[0])
    }

    fn b_of<'a>(&self, factors: &'a [f32]) -> View<'a> {
        View::new(&factors[self.b()], self.rank, self.shape[1])
    }
}

/// The layout of the factors of all sites in one buffer, sorted by site.
#[derive(Clone, Debug)]
pub struct Layout {
    slots: Vec<Slot>,
    stabilised: bool,
    len: usize,
}

impl Layout {
    /// Lays out the slots without gaps. `stabilised`: whether their factors are alpha over the root of the rank.
    ///
    /// # Panics
    /// If a site occurs twice.
    pub fn new(mut slots: Vec<Slot>, stabilised: bool) -> Layout {
        slots.sort_by_key(|s| s.site);
        let mut len = 0;
        for slot in &mut slots {
            slot.start = len;
            len = slot.bias().end;
        }
        if let Some(twice) = slots.windows(2).find(|w| w[0].site == w[1].site) {
            panic!("{} comes twice", twice[0].site);
        }
        Layout { slots, stabilised, len }
    }

    /// All slots, sorted by site.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The slot of a site, if it is covered.
    pub fn slot(&self, site: Site) -> Option<&Slot> {
        self.place(site).map(|i| &self.slots[i])
    }

    /// Its index among the slots.
    pub fn place(&self, site: Site) -> Option<usize> {
        self.slots.binary_search_by_key(&site, |s| s.site).ok()
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

    /// Whether the changes have biases: all of them, or none.
    pub fn biased(&self) -> bool {
        self.slots.iter().any(|s| s.biased)
    }

    /// The largest rank.
    pub fn rank(&self) -> usize {
        self.slots.iter().map(|s| s.rank).max().unwrap_or(0)
    }

    /// The places of all slots with their shapes.
    pub fn places(&self) -> Vec<(Place, [usize; 2])> {
        self.slots.iter().map(|s| (Place::Site(s.site), s.shape)).collect()
    }

    /// Whether any `B·A` or bias is other than zero.
    pub fn changes_something(&self, factors: &[f32]) -> bool {
        let any = |range: Range<usize>| factors[range].iter().any(|&v| v != 0.0);
        self.slots.iter().any(|s| any(s.a()) && any(s.b()) || any(s.bias()))
    }

    /// The facts and sections of a file that describe a layout.
    pub(super) fn record(&self, head: &mut Head) -> Vec<(&'static str, Vec<u8>)> {
        file::set_places(head, &self.places());
        head.set("scaling", if self.stabilised { "root" } else { "rank" });
        if self.biased() {
            head.set("biased", 1u64);
        }
        let mut sections = Vec::new();
        let each = |word: &dyn Fn(&Slot) -> [u8; 4]| self.slots.iter().flat_map(word).collect();
        match &self.slots[..] {
            [first, rest @ ..] if rest.iter().all(|s| s.rank == first.rank) => _ = head.set("rank", first.rank as u64),
            _ => sections.push(("ranks", each(&|s| (s.rank as u32).to_le_bytes()))),
        }
        match &self.slots[..] {
            [first, rest @ ..] if rest.iter().all(|s| s.alpha == first.alpha) => {
                head.set("alpha", f64::from(first.alpha));
            }
            _ => sections.push(("alphas", each(&|s| s.alpha.to_le_bytes()))),
        }
        sections
    }

    /// Reads the layout from a file.
    pub(super) fn read(stored: &Stored) -> Result<Layout> {
        Layout::read_as(stored, &|site, rank, alpha, stabilised| Slot::new(site, stored.base, rank, alpha, stabilised))
    }

    /// Likewise for a kind whose slots are not those of [`Slot::new`]: `slot(site, rank, alpha, stabilised)` checks one.
    pub(super) fn read_as(
        stored: &Stored,
        slot: &dyn Fn(Site, usize, f32, bool) -> Result<Slot>,
    ) -> Result<Layout> {
        let (head, container) = (stored.head, stored.container);
        let sites: Result<Vec<Site>> = stored.places.iter().map(|(place, _)| site(*place)).collect();
        let sites = sites?;
        let stabilised = match head.text("scaling")? {
            "rank" => false,
            "root" => true,
            other => return Err(Error::unsupported("scaling", other)),
        };
        let ranks: Vec<u64> = match container.section("ranks") {
            Some(bytes) => {
                file::words("ranks", &bytes, sites.len())?.iter().map(|w| u64::from(u32::from_le_bytes(*w))).collect()
            }
            None => vec![head.integer("rank")?; sites.len()],
        };
        let alphas: Vec<f32> = match container.section("alphas") {
            Some(bytes) => file::words("alphas", &bytes, sites.len())?.iter().map(|w| f32::from_le_bytes(*w)).collect(),
            None => vec![head.real("alpha")? as f32; sites.len()],
        };
        let biased = head.get("biased").map_or(Ok(0), |_| head.integer("biased"))? != 0;
        let mut slots = Vec::with_capacity(sites.len());
        for (site, (rank, alpha)) in sites.into_iter().zip(ranks.into_iter().zip(alphas)) {
            Limits::check("rank", rank, stored.limits.rank)?;
            let rank = usize::try_from(rank).unwrap_or(usize::MAX);
            slots.push(Slot { biased, ..slot(site, rank, alpha, stabilised)? });
        }
        Ok(Layout::new(slots, stabilised))
    }
}

/// Sections of a file that describe ranks and alphas where sites differ.
pub(super) const SECTIONS: [&str; 2] = ["ranks", "alphas"];

/// The site of a place, if it is a matrix.
pub(super) fn site(place: Place) -> Result<Site> {
    match place {
        Place::Site(site) if site.role.row().kind == TensorKind::Matrix => Ok(site),
        other => Err(Error::unsupported("target of a low-rank change", other.to_string())),
    }
}

/// The implementation of a low-rank kind: how the factors follow from the parameters.
pub trait Factors: Send + Sync + 'static {
    /// Its row.
    fn kind(&self) -> &'static Kind;

    /// Its parameters and its other values.
    fn parts(&self, layout: &Layout) -> (Vec<Part>, Size);

    /// The parts that a slot is made of.
    fn own(&self, _layout: &Layout, slot: usize) -> Range<usize> {
        2 * slot..2 * slot + 2
    }

    /// Reads what it needs of the frozen model, the first time.
    ///
    /// # Errors
    /// `Mismatch` or `Unsupported` if the model does not have it.
    fn prepare(&mut self, _cx: &Compute, _layout: &Layout, _frozen: &dyn Frozen) -> Result<()> {
        Ok(())
    }

    /// The factors from the parameters, by `layout`. Never called if the factors are the parameters ([`Size::derived`]
    /// is 0).
    fn expand(&self, cx: &Compute, layout: &Layout, params: &[f32], factors: &mut [f32]);

    /// The gradients of the parameters from those of the factors. `grads` is overwritten.
    fn project(&self, cx: &Compute, layout: &Layout, params: &[f32], acc: &[f32], grads: &mut [f32]);

    /// Whether A is trained. If not, its gradient is not computed.
    fn trains_a(&self) -> bool {
        true
    }

    /// [`Adapter::penalty`].
    fn penalty(&self, _cx: &Compute, _layout: &Layout, _params: &[f32], _grads: &mut [f32]) -> f64 {
        0.0
    }

    /// [`Adapter::grow`]: changes layout and parameters after a step.
    fn grow(&mut self, _layout: &mut Layout, _params: &mut Vec<f32>, _step: u64, _grads: &[f32]) -> bool {
        false
    }

    /// The values of a part before the first step.
    fn start(&self, layout: &Layout, part: usize, out: &mut [f32]);

    /// Whether any `B·A` is other than zero.
    fn changes_something(&self, layout: &Layout, params: &[f32]) -> bool;

    /// Facts and sections of a file.
    fn record(&self, layout: &Layout, head: &mut Head) -> Vec<(&'static str, Vec<u8>)>;
}

/// A low-rank adapter whose factors are defined by `F`.
#[derive(Clone)]
pub struct LowRank<F> {
    pub(super) layout: Layout,
    shape: Shape,
    pub(super) params: Vec<f32>,
    /// A and Bᵀ by `layout`; empty until prepared, and if they are the parameters.
    factors: Vec<f32>,
    pub(super) of: F,
}

impl<F: Factors> LowRank<F> {
    /// # Panics
    /// If the number of parameters is not that of the parts.
    pub(super) fn new(layout: Layout, params: Vec<f32>, of: F) -> Self {
        let shape = shape(&layout, &of);
        let last = shape.parts.last().map_or(0, |part| part.range.end);
        assert_eq!(params.len(), last, "parameters of a low-rank change");
        LowRank { layout, shape, params, factors: Vec::new(), of }
    }

    /// The layout of its factors.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Both factors of every site, by [`LowRank::layout`].
    ///
    /// # Panics
    /// If the adapter was not prepared.
    pub fn factors(&self) -> &[f32] {
        if self.shape.size.derived == 0 {
            return &self.params;
        }
        assert_eq!(self.factors.len(), self.layout.len(), "the adapter was not prepared");
        &self.factors
    }
}

/// The description of a low-rank adapter.
pub(super) fn shape<F: Factors>(layout: &Layout, of: &F) -> Shape {
    let needs = Needs { input: true, ..Needs::default() };
    let (parts, size) = of.parts(layout);
    let slot = |(i, s): (usize, &Slot)| super::Slot {
        place: Place::Site(s.site),
        shape: s.shape,
        parts: of.own(layout, i),
        needs,
    };
    let slots = layout.slots.iter().enumerate().map(slot).collect();
    let size = Size { row: size.row.max(layout.rank()), ..size };
    Shape { slots, parts, size, needs }
}

impl<F: Factors> Adapter for LowRank<F> {
    fn kind(&self) -> &'static Kind {
        self.of.kind()
    }

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn params(&self) -> &[f32] {
        &self.params
    }

    fn params_mut(&mut self) -> &mut [f32] {
        &mut self.params
    }

    fn prepare(&mut self, cx: &Compute, frozen: &dyn Frozen) -> Result<()> {
        self.of.prepare(cx, &self.layout, frozen)?;
        if self.shape.size.derived > 0 {
            self.factors.resize(self.layout.len(), 0.0);
            self.of.expand(cx, &self.layout, &self.params, &mut self.factors);
        }
        Ok(())
    }

    fn forward(&self, at: &At, x: View, y: &mut Tile, scratch: &mut Buffer) {
        self.layout.slots[at.slot].forward(self.factors(), at, x, y, scratch);
    }

    fn backward(&self, at: &At, seen: &Seen, dy: &mut [f32], into: Into, scratch: &mut Buffer) {
        let (slot, a) = (&self.layout.slots[at.slot], self.of.trains_a());
        slot.backward_of(self.factors(), at, seen.x, dy, into.dx, into.acc, a, scratch);
    }

    fn reduce(&self, cx: &Compute, _frozen: &dyn Frozen, acc: &[f32], grads: &mut [f32]) {
        self.of.project(cx, &self.layout, &self.params, acc, grads);
    }

    fn penalty(&self, cx: &Compute, grads: &mut [f32]) -> f64 {
        self.of.penalty(cx, &self.layout, &self.params, grads)
    }

    fn grow(&mut self, step: u64, grads: &[f32]) -> bool {
        let grown = self.of.grow(&mut self.layout, &mut self.params, step, grads);
        if grown {
            self.shape = shape(&self.layout, &self.of);
        }
        grown
    }

    fn start(&self, part: usize, out: &mut [f32]) {
        self.of.start(&self.layout, part, out);
    }

    fn bakes(&self, place: Place) -> bool {
        matches!(place, Place::Site(_))
    }

    fn bake(&self, at: &At, rows: Range<usize>, w: &mut Tile) {
        self.layout.slots[at.slot].bake(self.factors(), at, rows, w);
    }

    fn changes_something(&self) -> bool {
        self.of.changes_something(&self.layout, &self.params)
    }

    fn low_rank(&self) -> Option<(&Layout, &[f32])> {
        Some((&self.layout, self.factors()))
    }

    fn record(&self, head: &mut Head) -> Vec<(&'static str, Vec<u8>)> {
        self.of.record(&self.layout, head)
    }
}

/// Kaiming's bound of a uniform distribution with a = √5, the usual start of A.
pub(super) fn kaiming(n_in: usize) -> f32 {
    1.0 / libm::sqrtf(n_in as f32)
}

/// The usual start of A, `[rank, in]`, of a site: uniform in ±1/√in.
pub(super) fn start_of_a(seed: u64, site: Site, n_in: usize, a: &mut [f32]) {
    Stream::new(seed, &site.to_string(), "lora_a").fill_uniform(0, a);
    let bound = kaiming(n_in);
    a.iter_mut().for_each(|v| *v *= bound);
}

/// The slots in groups of equal keys, in the order in which they come.
pub(super) fn grouped<K: PartialEq>(slots: &[Slot], key: impl Fn(&Slot) -> K) -> Vec<Vec<usize>> {
    let mut groups: Vec<(K, Vec<usize>)> = Vec::new();
    for (i, slot) in slots.iter().enumerate() {
        let key = key(slot);
        match groups.iter_mut().find(|(other, _)| *other == key) {
            Some((_, members)) => members.push(i),
            None => groups.push((key, vec![i])),
        }
    }
    groups.into_iter().map(|(_, members)| members).collect()
}

/// `u = s·x·wᵀ`. x: `[N, c]`, w: `[rank, c]`, u: `[N, rank]`.
pub(super) fn products(cx: &Compute, x: View, w: View, s: f32, u: &mut [f32]) {
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
pub(super) fn add_products(cx: &Compute, u: View, w: View, y: &mut Tile) {
    let granule = columns(cx, u.n * w.n, w.c);
    cx.pool.columns([y.part(0..u.n, 0..w.c)], [granule], &|part, [mut y], _| {
        let first = part * granule;
        (cx.kernels.sums)(u, w.cols(first..first + y.c()), &mut y);
    });
}

/// `g += uᵀ·v`. u: `[N, rank]`, v: `[N, c]`, g: `[rank, c]`.
pub(super) fn add_outer(cx: &Compute, u: View, v: View, g: &mut [f32]) {
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
