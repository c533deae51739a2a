//! Uni (arXiv:2506.00799): one trained vector for all factors of a low-rank change. Each entry of a factor is an entry of
//! the vector, with a sign; which one follows from a seed. So an adapter is a seed and as many numbers as fit a file. The
//! strength multiplies `ΔW`.
//!
//! ```text
//! θᵢ = θ0ᵢ + σᵢ·v[j(i)]       θ: A [rank, in] and Bᵀ [rank, out] of each site; v [d], from 0
//! θ0: A uniform in ±1/√in, B zero
//! j(i) = w·d div 2³², σᵢ = +1 if w is odd, else −1    w: word i of the stream of the site's factor
//! ∂L/∂vⱼ = Σ over i with j(i) = j of σᵢ·∂L/∂θᵢ
//! ```
//!
//! Streams are those of the seed, the site's name and `uni_a`, `uni_b` or `uni_start`. Sums over `i` run in the order of
//! the layout, so the bits depend on nothing else. It is trained through the values of few bits that its file holds
//! ([`crate::adapter::compress`], `levels`).

use crate::adapter::file::{self, Stored};
use crate::adapter::lowrank::{self, Factors, Layout, LowRank, Slot};
use crate::adapter::spec::{UNSTABILISED, USUAL_ALPHA, USUAL_RANK};
use crate::adapter::{Base, Group, Kind, Part, Size, Spec, Start};
use crate::bytes::Limits;
use crate::container::head::Head;
use crate::error::{Error, Result};
use crate::kernel::{Compute, Tile};
use crate::knob::{Domain, Knob, Setting};
use crate::rng::{GENERATOR, Stream, sign, uniform};
use crate::role::Role;
use core::ops::Range;
use std::prelude::v1::*;

/// Most numbers of the vector.
pub const MAX_VECTOR: u64 = Limits::DEFAULT.vector;

/// Numbers of the vector.
pub static VECTOR: Knob = Knob {
    name: "vector",
    about: "Numbers of the one vector that all factors share",
    metavar: "D",
    domain: Domain::Whole { low: 1, high: MAX_VECTOR },
};

/// Its settings.
static KNOBS: [Setting; 4] = [USUAL_RANK, USUAL_ALPHA, UNSTABILISED, Setting::whole(&VECTOR, 11_264)];

/// Entries computed at a time.
const TILE: usize = 4096;

/// Its row.
pub static KIND: Kind = Kind {
    name: "uni",
    about: "one short vector of few bits for all layers; the smallest files",
    rate: 1e-2,
    knobs: &KNOBS,
    targets: &[Role::V, Role::Down],
    shape: |spec, base| {
        let layout = spec.layout(base)?;
        let of = OneVector { len: len(spec)?, seed: spec.seed };
        Ok(lowrank::shape(&layout, &of))
    },
    create: |spec, base| Ok(Box::new(Uni::create(spec, base)?)),
    read: |stored| Ok(Box::new(Uni::read(stored)?)),
    sections: &lowrank::SECTIONS,
    grown: &[],
    codec: Some("levels"),
    size: Some(&VECTOR),
};

/// Parameters: the vector.
pub type Uni = LowRank<OneVector>;

/// All factors are entries of one vector.
#[derive(Clone)]
pub struct OneVector {
    len: usize,
    seed: u64,
}

/// A factor, with the role of its stream.
const FACTORS: [&str; 2] = ["uni_a", "uni_b"];

fn len(spec: &Spec) -> Result<usize> {
    Ok(spec.values()?.whole(VECTOR.name) as usize)
}

impl Uni {
    /// A new adapter: all numbers zero.
    ///
    /// # Errors
    /// Those of [`Spec::layout`].
    pub fn create(spec: &Spec, base: &Base) -> Result<Uni> {
        let (layout, len) = (spec.layout(base)?, len(spec)?);
        Ok(LowRank::new(layout, vec![0.0; len], OneVector { len, seed: spec.seed }))
    }

    fn read(stored: Stored) -> Result<Uni> {
        let head = stored.head;
        let generator = head.text("generator")?;
        if generator != GENERATOR {
            return Err(Error::unsupported("generator", format!("{generator}; this build has {GENERATOR}")));
        }
        let n = head.integer("vector")?;
        Limits::check("numbers of a vector", n, MAX_VECTOR)?;
        if n == 0 {
            return Err(Error::invalid("vector", "of no numbers"));
        }
        let layout = Layout::read(&stored)?;
        let of = OneVector { len: usize::try_from(n).unwrap_or(usize::MAX), seed: head.integer("seed")? };
        file::check_canary(head, &of.canary(&layout))?;
        let params = stored.params(&of.parts(&layout).0, |_, out| out.fill(0.0))?;
        Ok(LowRank::new(layout, params, of))
    }
}

impl OneVector {
    fn stream(&self, slot: &Slot, role: &str) -> Stream {
        Stream::new(self.seed, &slot.site.to_string(), role)
    }

    /// Calls `f(entry of the factor, entry of the vector, sign)` for entries `from..from + n` of a factor.
    fn entries(&self, slot: &Slot, factor: usize, from: usize, n: usize, mut f: impl FnMut(usize, usize, f32)) {
        let len = self.len as u64;
        self.stream(slot, FACTORS[factor]).words(from as u64, n, |at, words| {
            for (i, &w) in words.iter().enumerate() {
                f(from + at + i, ((u64::from(w) * len) >> 32) as usize, sign(w));
            }
        });
    }

    /// BLAKE3 of the first words of every stream: another generator is found out before anything is expanded.
    fn canary(&self, layout: &Layout) -> [u8; 32] {
        let mut hash = blake3::Hasher::new();
        for slot in layout.slots() {
            for role in FACTORS.into_iter().chain(["uni_start"]) {
                self.stream(slot, role).words(0, 4, |_, words| {
                    words.iter().for_each(|w| _ = hash.update(&w.to_le_bytes()));
                });
            }
        }
        *hash.finalize().as_bytes()
    }

    /// Computes entries `first..` of all factors.
    fn expand_part(&self, layout: &Layout, v: &[f32], first: usize, out: &mut [f32]) {
        let (slots, last) = (layout.slots(), first + out.len());
        let from = slots.partition_point(|s| s.b().end <= first);
        for slot in slots[from..].iter().take_while(|s| s.start < last) {
            for (factor, range) in [slot.a(), slot.b()].into_iter().enumerate() {
                let part = range.start.max(first)..range.end.min(last);
                if part.is_empty() {
                    continue;
                }
                let (begin, n) = (part.start - range.start, part.len());
                let out = &mut out[part.start - first..part.end - first];
                out.fill(0.0);
                if factor == 0 {
                    let bound = lowrank::kaiming(slot.shape[0]);
                    self.stream(slot, "uni_start").words(begin as u64, n, |at, words| {
                        out[at..].iter_mut().zip(words).for_each(|(o, &w)| *o = uniform(w) * bound);
                    });
                }
                self.entries(slot, factor, begin, n, |i, j, sign| out[i - begin] += sign * v[j]);
            }
        }
    }
}

impl Factors for OneVector {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn parts(&self, layout: &Layout) -> (Vec<Part>, Size) {
        let all = layout.len();
        let part = Part { name: "v", range: 0..self.len, cols: self.len, start: Start::Zero, group: Group::Main };
        (vec![part], Size { params: self.len, derived: all, gathered: all, scratch: 0, row: 0 })
    }

    fn own(&self, _layout: &Layout, _slot: usize) -> Range<usize> {
        0..1
    }

    fn expand(&self, cx: &Compute, layout: &Layout, params: &[f32], factors: &mut [f32]) {
        let len = layout.len();
        cx.pool.columns([Tile::new(factors, 1, len)], [TILE], &|part, [mut out], _| {
            self.expand_part(layout, params, part * TILE, out.row(0));
        });
    }

    /// One thread adds: the order of a sum is a part of its result, and this is a small part of a step.
    fn project(&self, _cx: &Compute, layout: &Layout, _params: &[f32], acc: &[f32], grads: &mut [f32]) {
        grads.fill(0.0);
        for slot in layout.slots() {
            for (factor, range) in [slot.a(), slot.b()].into_iter().enumerate() {
                let g = &acc[range];
                self.entries(slot, factor, 0, g.len(), |i, j, sign| grads[j] += sign * g[i]);
            }
        }
    }

    fn start(&self, _layout: &Layout, _part: usize, out: &mut [f32]) {
        out.fill(0.0);
    }

    /// A is never zero, since its start is not.
    fn changes_something(&self, _layout: &Layout, params: &[f32]) -> bool {
        params.iter().any(|v| *v != 0.0)
    }

    fn record(&self, layout: &Layout, head: &mut Head) -> Vec<(&'static str, Vec<u8>)> {
        head.set("vector", self.len as u64).set("seed", self.seed).set("generator", GENERATOR);
        file::set_canary(head, &self.canary(layout));
        layout.record(head)
    }
}
