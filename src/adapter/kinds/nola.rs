//! NOLA (arXiv:2310.02556): both low-rank factors are combinations of random bases that a seed regenerates, so an
//! adapter is a seed and a few coefficients a layer. The strength multiplies `ΔW`.
//!
//! ```text
//! A = A₀ + c·Σ aᵢ·Aᵢ    Aᵢ [rank, in],  c = 1/√k, k bases     trained: a (k numbers) and b (l numbers) a site
//! B =      c·Σ bⱼ·Bⱼ    Bⱼ [rank, out], c = 1/√l, l bases     A₀ uniform in ±1/√in: at A = B = 0 gradients vanish
//! ∂L/∂aᵢ = c·⟨∂L/∂A, Aᵢ⟩    ∂L/∂bⱼ = c·⟨∂L/∂B, Bⱼ⟩
//! ```
//!
//! A sum starts at zero and takes its bases in order, each by a multiplication and an addition, never fused; then it is
//! multiplied by `c`, and `A₀` is added. So the factors have the same bits on every target. For bases of signs, whose
//! entries are √3 times as large as uniform ones, `c` is 1/√(3k).
//!
//! No basis is ever stored: both passes over them, `Factors::expand` and `Factors::project`, draw a tile at a time.

use crate::adapter::basis::{self, Basis, Source, Walk};
use crate::adapter::file::{self, Stored};
use crate::adapter::lowrank::{self, Factors, Layout, LowRank, Slot};
use crate::adapter::spec::{SHARE, UNSTABILISED, USUAL_ALPHA, USUAL_RANK};
use crate::adapter::{Base, Group, Kind, Part, Shape, Size, Spec, Start, gguf_row};
use crate::bytes::Limits;
use crate::container::head::Head;
use crate::error::{Error, Result};
use crate::kernel::{Buffer, Compute, Tile};
use crate::knob::{Domain, Knob, Setting, Values};
use crate::rng::{GENERATOR, Random, Stream};
use crate::role::Role;
use core::ops::Range;
use std::prelude::v1::*;

/// Most bases of a factor.
pub const MAX_BASES: usize = Limits::DEFAULT.bases as usize;

/// Bases of each factor.
pub static BASES: Knob = Knob {
    name: "basis",
    about: "Random bases for each of the two factors",
    metavar: "K",
    domain: Domain::Whole { low: 1, high: MAX_BASES as u64 },
};

/// Bases of B, if their number differs from that of A.
pub static BASES_OF_B: Knob = Knob {
    name: "basis b",
    about: "Random bases for the second factor; 0: the number of the first",
    metavar: "L",
    domain: Domain::Whole { low: 0, high: MAX_BASES as u64 },
};

/// How bases are drawn, a name of `basis::BASES`.
pub static BASIS_KIND: Knob = Knob {
    name: "basis kind",
    about: "How random bases are drawn",
    metavar: "NAME",
    domain: Domain::Word(|| basis::BASES.iter().map(|b| b.name).collect()),
};

/// Its settings.
pub(super) static KNOBS: [Setting; 7] = [
    USUAL_RANK,
    USUAL_ALPHA,
    UNSTABILISED,
    Setting::whole(&BASES, 64),
    Setting::whole(&BASES_OF_B, 0),
    Setting::word(&BASIS_KIND, "uniform"),
    Setting::whole(&SHARE, 1),
];

/// How many bases A and B have.
pub(super) fn bases(values: &Values) -> [usize; 2] {
    let [a, b] = [&BASES, &BASES_OF_B].map(|knob| values.whole(knob.name) as usize);
    [a, if b == 0 { a } else { b }]
}

/// Entries drawn at a time: few enough to stay in the nearest cache together with their products.
const TILE: usize = 2048;

/// Its row.
pub static KIND: Kind = Kind {
    name: "nola",
    about: "coefficients of random bases; the smallest files",
    rate: 5e-3,
    knobs: &KNOBS,
    targets: &Role::LINEAR,
    shape,
    create: |spec, base| Ok(Box::new(Nola::create(spec, base)?)),
    read: |stored| Ok(Box::new(Nola::read(stored)?)),
    sections: &["ranks", "alphas", "seeds", "start"],
    grown: &[],
    codec: None,
    size: Some(&BASES),
};

/// Parameters: `a`, then `b`, of each site.
pub type Nola = LowRank<Combined>;

/// The factors are combinations of random bases.
#[derive(Clone)]
pub struct Combined {
    bases: [usize; 2],
    basis: &'static Basis,
    seed: u64,
    given: Option<Given>,
    /// Blocks in a row that share coefficients.
    share: usize,
    /// For each site, whose coefficients it takes.
    groups: Vec<usize>,
    /// Head width of the sites whose rows are paired in GGUF files.
    paired: Vec<Option<usize>>,
}

/// Values of other programs that replace those that follow from the seed.
#[derive(Clone)]
pub struct Given {
    /// Seeds of the bases of A and B, for each site of the layout.
    pub seeds: Vec<[u64; 2]>,
    /// `A₀` of each site of the layout, `[rank, in]`.
    pub start: Vec<f32>,
}

/// A factor.
#[derive(Clone, Copy)]
enum Factor {
    A,
    B,
}

impl Nola {
    /// A new adapter: all coefficients zero.
    ///
    /// # Errors
    /// Those of [`Spec::layout`].
    pub fn create(spec: &Spec, base: &Base) -> Result<Nola> {
        let (layout, values) = (spec.layout(base)?, spec.values()?);
        let (bases, share) = (bases(&values), values.whole(SHARE.name) as usize);
        let n = (bases[0] + bases[1]) * sets(&groups(&layout, share));
        let basis = Basis::by_name(values.word(BASIS_KIND.name))?;
        Nola::shared(layout, base, bases, basis, spec.seed, None, share, vec![0.0; n])
    }

    /// From trained coefficients, `a`, then `b`, of each site of `layout`. The bases follow from `seed`, unless they
    /// are `given`.
    ///
    /// # Errors
    /// `Invalid` for a number of bases outside 1 to [`MAX_BASES`], or if a given value has another length.
    pub fn from_params(
        layout: Layout,
        base: &Base,
        bases: [usize; 2],
        basis: &'static Basis,
        seed: u64,
        given: Option<Given>,
        params: Vec<f32>,
    ) -> Result<Nola> {
        Nola::shared(layout, base, bases, basis, seed, given, 1, params)
    }

    /// Likewise, where `share` blocks in a row take the same coefficients.
    fn shared(
        layout: Layout,
        base: &Base,
        bases: [usize; 2],
        basis: &'static Basis,
        seed: u64,
        given: Option<Given>,
        share: usize,
        params: Vec<f32>,
    ) -> Result<Nola> {
        check_bases(bases)?;
        let (sites, groups) = (layout.slots().len(), groups(&layout, share));
        let fits = given.as_ref().is_none_or(|g| g.seeds.len() == sites && g.start.len() == starts(&layout));
        if !fits || params.len() != (bases[0] + bases[1]) * sets(&groups) {
            return Err(Error::invalid("coefficients", "as many as the layout needs"));
        }
        let paired = layout.slots().iter().map(|s| base.paired(s.site)).collect();
        Ok(LowRank::new(layout, params, Combined { bases, basis, seed, given, share, groups, paired }))
    }

    fn read(stored: Stored) -> Result<Nola> {
        let head = stored.head;
        let generator = head.text("generator")?;
        if generator != GENERATOR {
            return Err(Error::unsupported("generator", format!("{generator}; this build has {GENERATOR}")));
        }
        let basis = Basis::by_name(head.text("basis")?)?;
        let count = |key| Ok(usize::try_from(head.integer(key)?).unwrap_or(usize::MAX));
        let bases = [count("bases.a")?, count("bases.b")?];
        check_bases(bases)?;
        let layout = Layout::read(&stored)?;
        let sites = layout.slots().len();
        let share = if head.get("share").is_some() { count("share")? } else { 1 };
        if share == 0 {
            return Err(Error::invalid("share", "coefficients are those of 0 blocks"));
        }
        let sets = sets(&groups(&layout, share));
        let params = stored.params(&parts(bases, sets), |_, out| out.fill(0.0))?;
        let given = match stored.container.section("seeds") {
            None => None,
            Some(bytes) => {
                let (pairs, rest) = bytes.as_chunks::<16>();
                if pairs.len() != sites || !rest.is_empty() {
                    return Err(Error::corrupt(format!("{} bytes of seeds for {sites} sites", bytes.len()), 0));
                }
                let half = |p: &[u8; 16], at| u64::from_le_bytes(core::array::from_fn(|i| p[at + i]));
                let seeds = pairs.iter().map(|p| [half(p, 0), half(p, 8)]).collect();
                let bytes = stored.container.require("start")?;
                let start = file::words("starts", &bytes, starts(&layout))?;
                let start: Vec<f32> = start.iter().map(|w| f32::from_le_bytes(*w)).collect();
                if start.iter().any(|v| !v.is_finite()) {
                    return Err(Error::corrupt("a start is not finite", 0));
                }
                Some(Given { seeds, start })
            }
        };
        let seed = head.integer("seed")?;
        let nola = Nola::shared(layout, stored.base, bases, basis, seed, given, share, params)?;
        file::check_canary(head, &nola.canary())?;
        Ok(nola)
    }

    /// Bases of A and of B.
    pub fn bases(&self) -> [usize; 2] {
        self.of.bases
    }

    /// How bases are drawn.
    pub fn basis(&self) -> &'static Basis {
        self.of.basis
    }

    /// The seed of all random values.
    pub fn seed(&self) -> u64 {
        self.of.seed
    }

    /// Values that do not follow from the seed.
    pub fn given(&self) -> Option<&Given> {
        self.of.given.as_ref()
    }

    /// BLAKE3 of the first 16 entries of every stream: a different generator is detected without expanding anything.
    pub fn canary(&self) -> [u8; 32] {
        self.of.canary(&self.layout)
    }
}

impl Combined {
    fn canary(&self, layout: &Layout) -> [u8; 32] {
        let mut hash = blake3::Hasher::new();
        let mut add = |first: &[f32]| first.iter().flat_map(|v| v.to_le_bytes()).for_each(|b| _ = hash.update(&[b]));
        for (place, slot) in layout.slots().iter().enumerate() {
            for factor in [Factor::A, Factor::B] {
                let source = self.source(layout, place, factor);
                let mut first = [0.0; 16];
                let first = &mut first[..16.min(source.entries)];
                Walk::new(self.basis, &source, 0).fill(first);
                add(first);
            }
            let mut first = [0.0; 16];
            let first = &mut first[..16.min(slot.a().len())];
            self.add_start(layout, place, 0, first);
            add(first);
        }
        *hash.finalize().as_bytes()
    }

    fn range(&self, slot: &Slot, factor: Factor) -> Range<usize> {
        match factor {
            Factor::A => slot.a(),
            Factor::B => slot.b(),
        }
    }

    /// The range of a factor's coefficients among the parameters of a site.
    fn coefficients(&self, factor: Factor) -> Range<usize> {
        let [k, l] = self.bases;
        match factor {
            Factor::A => 0..k,
            Factor::B => k..k + l,
        }
    }

    /// `c`.
    fn normal(&self, factor: Factor) -> f32 {
        1.0 / libm::sqrtf((self.bases[factor as usize] * self.basis.spread) as f32)
    }

    fn source(&self, layout: &Layout, place: usize, factor: Factor) -> Source {
        let slot = &layout.slots()[place];
        let name = slot.site.to_string();
        let role = ["nola_a", "nola_b"][factor as usize];
        // The authors' code draws seeds below 10¹⁰.
        let drawn = || Random::new(self.seed, &name, role).below(10_000_000_000);
        let seed = self.given.as_ref().map_or_else(drawn, |g| g.seeds[place][factor as usize]);
        Source { stream: Stream::new(self.seed, &name, role), seed, entries: self.range(slot, factor).len() }
    }

    /// Adds entries `from..` of `A₀`.
    fn add_start(&self, layout: &Layout, place: usize, from: usize, out: &mut [f32]) {
        let slots = layout.slots();
        if let Some(given) = &self.given {
            let before: usize = slots[..place].iter().map(|s| s.a().len()).sum();
            out.iter_mut().zip(&given.start[before + from..]).for_each(|(o, v)| *o += v);
            return;
        }
        let slot = &slots[place];
        let bound = lowrank::kaiming(slot.shape[0]);
        let stream = Stream::new(self.seed, &slot.site.to_string(), "nola_start");
        stream.words(from as u64, out.len(), |at, words| {
            for (o, &w) in out[at..].iter_mut().zip(words) {
                *o += crate::rng::uniform(w) * bound;
            }
        });
    }

    /// Calls `f(index in the stored factor, index in the drawn one)` for all entries.
    fn order(&self, layout: &Layout, place: usize, factor: Factor, f: &mut dyn FnMut(usize, usize)) {
        let slot = &layout.slots()[place];
        let (rank, n_out) = (slot.rank, slot.shape[1]);
        match factor {
            // torch stores B as [out, rank], with rows in Hugging Face's order.
            Factor::B if self.basis.is_torch() => {
                for row in 0..n_out {
                    let to = self.paired[place].map_or(row, |width| gguf_row(row, width));
                    for r in 0..rank {
                        f(r * n_out + to, row * rank + r);
                    }
                }
            }
            _ => (0..self.range(slot, factor).len()).for_each(|i| f(i, i)),
        }
    }

    /// Entries `from..` of a factor, in the order in which they are drawn. `tile` has the length of `out`.
    fn combine(
        &self,
        layout: &Layout,
        params: &[f32],
        place: usize,
        factor: Factor,
        from: usize,
        out: &mut [f32],
        tile: &mut [f32],
    ) {
        let each = self.bases[0] + self.bases[1];
        let params = &params[self.groups[place] * each..][self.coefficients(factor)];
        let source = self.source(layout, place, factor);
        let mut walk = Walk::new(self.basis, &source, from);
        out.fill(0.0);
        for &a in params {
            // A term of zeros changes no bit of a sum that began at +0.
            if a == 0.0 {
                walk.leave_out(out.len());
                continue;
            }
            walk.fill(tile);
            for (o, &v) in out.iter_mut().zip(&*tile) {
                *o += a * v;
            }
        }
        let c = self.normal(factor);
        out.iter_mut().for_each(|o| *o *= c);
        if let Factor::A = factor {
            self.add_start(layout, place, from, out);
        }
    }

    /// Computes the part `first..` of all factors.
    fn expand_part(&self, layout: &Layout, params: &[f32], first: usize, out: &mut [f32], scratch: &mut Buffer) {
        let slots = layout.slots();
        let last = first + out.len();
        let mut place = slots.partition_point(|s| s.b().end <= first);
        while place < slots.len() && slots[place].start < last {
            for factor in [Factor::A, Factor::B] {
                let range = self.range(&slots[place], factor);
                let part = range.start.max(first)..range.end.min(last);
                if part.is_empty() {
                    continue;
                }
                let (drawn, tile) = scratch.room(2 * part.len()).split_at_mut(part.len());
                self.combine(layout, params, place, factor, part.start - range.start, drawn, tile);
                let out = &mut out[part.start - first..part.end - first];
                if self.basis.is_torch() {
                    self.order(layout, place, factor, &mut |to, from| out[to] = drawn[from]);
                } else {
                    out.copy_from_slice(drawn);
                }
            }
            place += 1;
        }
    }

    /// Entries computed at a time.
    fn tile(&self, layout: &Layout) -> usize {
        if self.basis.is_torch() { layout.len() } else { TILE }
    }

    /// `grads = c·⟨g, basis⟩` for each basis of a factor, where `g` is its gradient; of a further site of a set they are
    /// added.
    fn project_part(
        &self,
        layout: &Layout,
        place: usize,
        factor: Factor,
        g: &[f32],
        first: bool,
        all: &mut [f32],
        scratch: &mut Buffer,
    ) {
        let source = self.source(layout, place, factor);
        let step = self.tile(layout).min(g.len());
        let more = if first { 0 } else { all.len() };
        let (drawn, rest) = scratch.room(g.len() + step + more).split_at_mut(g.len());
        let (tile, sums) = rest.split_at_mut(step);
        self.order(layout, place, factor, &mut |to, from| drawn[from] = g[to]);
        let grads = if first { &mut *all } else { &mut *sums };
        grads.fill(0.0);
        for (i, part) in drawn.chunks(step).enumerate() {
            let mut walk = Walk::new(self.basis, &source, i * step);
            for grad in grads.iter_mut() {
                let tile = &mut tile[..part.len()];
                walk.fill(tile);
                *grad += dot(part, tile);
            }
        }
        let c = self.normal(factor);
        grads.iter_mut().for_each(|v| *v *= c);
        if !first {
            all.iter_mut().zip(&*sums).for_each(|(all, sum)| *all += sum);
        }
    }
}

/// The description of a new adapter.
fn shape(spec: &Spec, base: &Base) -> Result<Shape> {
    let (layout, values) = (spec.layout(base)?, spec.values()?);
    let bases = bases(&values);
    let basis = Basis::by_name(values.word(BASIS_KIND.name))?;
    let share = values.whole(SHARE.name) as usize;
    let groups = groups(&layout, share);
    // Paired rows change no size.
    let of = Combined { bases, basis, seed: spec.seed, given: None, share, groups, paired: Vec::new() };
    Ok(lowrank::shape(&layout, &of))
}

/// For each site the number of its set of coefficients: sites of one role in `share` blocks in a row have one.
fn groups(layout: &Layout, share: usize) -> Vec<usize> {
    let mut seen: Vec<(usize, Role)> = Vec::new();
    let mut group = |slot: &Slot| {
        let key = (slot.site.layer / share.max(1), slot.site.role);
        // Sites are sorted by block, so those of the present blocks are at the end.
        let from = seen.iter().rposition(|k| k.0 < key.0).map_or(0, |i| i + 1);
        seen[from..].iter().position(|k| *k == key).map(|i| from + i).unwrap_or_else(|| {
            seen.push(key);
            seen.len() - 1
        })
    };
    layout.slots().iter().map(&mut group).collect()
}

/// How many sets of coefficients there are.
fn sets(groups: &[usize]) -> usize {
    groups.iter().max().map_or(0, |last| last + 1)
}

/// Its parameters, set by set.
fn parts([k, l]: [usize; 2], sets: usize) -> Vec<Part> {
    let of = |set: usize| {
        let (first, end) = (set * (k + l), (set + 1) * (k + l));
        let start = Start::Zero;
        [
            Part { name: "a", range: first..first + k, cols: k, start, group: Group::Main },
            Part { name: "b", range: first + k..end, cols: l, start, group: Group::Fast },
        ]
    };
    (0..sets).flat_map(of).collect()
}

fn check_bases(bases: [usize; 2]) -> Result<()> {
    match bases.iter().find(|n| !(1..=MAX_BASES).contains(*n)) {
        Some(n) => Err(Error::invalid("bases", format!("{n}; 1 to {MAX_BASES} can be used"))),
        None => Ok(()),
    }
}

/// Values of `A₀` of all sites.
fn starts(layout: &Layout) -> usize {
    layout.slots().iter().map(|s| s.a().len()).sum()
}

/// Sixteen sums in lanes, then their sum in order: fast, and the same bits everywhere.
fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    for (x, y) in x.chunks(16).zip(y.chunks(16)) {
        for (lane, (x, y)) in lanes.iter_mut().zip(x.iter().zip(y)) {
            *lane += x * y;
        }
    }
    lanes.iter().sum()
}

impl Factors for Combined {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn parts(&self, layout: &Layout) -> (Vec<Part>, Size) {
        let start = self.given.as_ref().map_or(0, |g| g.start.len() + 4 * g.seeds.len());
        let (all, sets) = (layout.len(), sets(&self.groups));
        let tile = if self.basis.is_torch() { all } else { TILE };
        let factor = layout.slots().iter().map(|s| s.a().len().max(s.b().len())).max().unwrap_or(0);
        // Either a tile of the factors and the entries drawn for it, or the gradient of one factor, its entries and those of
        // its coefficients.
        let more = if sets < self.groups.len() { self.bases[0].max(self.bases[1]) } else { 0 };
        let scratch = (2 * tile.min(all)).max(factor + tile.min(factor) + more);
        let params = (self.bases[0] + self.bases[1]) * sets;
        let size = Size { params, derived: all + start, gathered: all, scratch, row: 0 };
        (parts(self.bases, sets), size)
    }

    fn own(&self, _layout: &Layout, slot: usize) -> Range<usize> {
        let set = self.groups[slot];
        2 * set..2 * set + 2
    }

    fn expand(&self, cx: &Compute, layout: &Layout, params: &[f32], factors: &mut [f32]) {
        let (granule, len) = (self.tile(layout), layout.len());
        cx.pool.columns([Tile::new(factors, 1, len)], [granule], &|part, [mut out], scratch| {
            self.expand_part(layout, params, part * granule, out.row(0), &mut scratch.f);
        });
    }

    fn project(&self, cx: &Compute, layout: &Layout, _params: &[f32], acc: &[f32], grads: &mut [f32]) {
        let (sets, each) = (sets(&self.groups), self.bases[0] + self.bases[1]);
        cx.pool.rows([Tile::new(grads, sets, each)], [1], &|set, [mut grads], scratch| {
            let mut first = true;
            for place in (0..self.groups.len()).filter(|place| self.groups[*place] == set) {
                for factor in [Factor::A, Factor::B] {
                    let g = &acc[self.range(&layout.slots()[place], factor)];
                    let grads = &mut grads.row(0)[self.coefficients(factor)];
                    self.project_part(layout, place, factor, g, first, grads, &mut scratch.f);
                }
                first = false;
            }
        });
    }

    fn start(&self, _layout: &Layout, _part: usize, out: &mut [f32]) {
        out.fill(0.0);
    }

    /// A is never zero, since `A₀` is not.
    fn changes_something(&self, _layout: &Layout, params: &[f32]) -> bool {
        let each = self.bases[0] + self.bases[1];
        params.chunks(each).any(|p| p[self.coefficients(Factor::B)].iter().any(|&b| b != 0.0))
    }

    fn record(&self, layout: &Layout, head: &mut Head) -> Vec<(&'static str, Vec<u8>)> {
        head.set("bases.a", self.bases[0] as u64).set("bases.b", self.bases[1] as u64);
        head.set("basis", self.basis.name).set("seed", self.seed).set("generator", GENERATOR);
        if self.share > 1 {
            head.set("share", self.share as u64);
        }
        file::set_canary(head, &self.canary(layout));
        let sections = layout.record(head);
        let Some(given) = &self.given else { return sections };
        let seeds = given.seeds.as_flattened().iter().flat_map(|s| s.to_le_bytes()).collect();
        let start = given.start.iter().flat_map(|v| v.to_le_bytes()).collect();
        [vec![("seeds", seeds), ("start", start)], sections].concat()
    }
}
