//! MoS (arXiv:2410.00938): the factors of all layers of one role are laid together from shards of two pools that they share.
//!
//! ```text
//! row k of A of a layer = shards I[k·q], …, I[k·q + q − 1] of the pool of A, end to end; rows of Bᵀ likewise, by their own I
//! pools of a role in L blocks: e·L·q shards, of which the first (e − p)·L·q are public, and p·q are private to each block
//! I of a block: a random choice of (r − p)·q public shards, none twice, for A and for B; then the block's private shards
//! ΔW = alpha/r·B·A
//! ```
//! `e` is the rank of a LoRA with as many parameters, `r` the rank that is laid together and no less than `e`, `q` the pieces of a row and `p` the
//! private rows. There can be no more rows than the pool fills without repeating a shard, `p + (e − p)·L`; a higher rank is
//! cut to that. If `q` does not divide a width, the last piece of a row is cut. Pools of A start as LoRA's A and those of B at
//! 0. Choices follow from the seed. The strength multiplies `ΔW`.

use crate::adapter::lowrank::{self, Factors, Layout, LowRank, Slot, grouped};
use crate::adapter::settled::{self, Settings, Settled};
use crate::adapter::spec::{ALPHA, RANK, USUAL_ALPHA, USUAL_RANK};
use crate::adapter::{Base, Group, Kind, MAX_RANK, Part, Site, Size, Start};
use crate::container::head::Head;
use crate::error::{Error, Result};
use crate::kernel::Compute;
use crate::knob::{Domain, Knob, Setting};
use crate::rng::Random;
use crate::role::Role;
use core::ops::Range;
use std::prelude::v1::*;

/// `e`.
pub static POOL: Knob = Knob {
    name: "pool",
    about: "Rank of a LoRA with as many parameters as the shared pools",
    metavar: "E",
    domain: Domain::Whole { low: 1, high: MAX_RANK as u64 },
};

/// `p`.
pub static PRIVATE: Knob = Knob {
    name: "private",
    about: "Rows of each layer that it shares with no other; at most those of the pool",
    metavar: "P",
    domain: Domain::Whole { low: 0, high: MAX_RANK as u64 },
};

/// `q`.
pub static PIECES: Knob = Knob {
    name: "pieces",
    about: "Pieces of each row, which come from different places of the pool",
    metavar: "Q",
    domain: Domain::Whole { low: 1, high: 64 },
};

static KNOBS: [Setting; 5] =
    [USUAL_RANK, USUAL_ALPHA, Setting::whole(&POOL, 2), Setting::whole(&PRIVATE, 1), Setting::whole(&PIECES, 4)];

/// Its row.
pub static KIND: Kind = Kind {
    name: "mos",
    about: "low-rank changes laid together from pools that all blocks share; a fourth of lora's files",
    rate: 1e-3,
    knobs: &KNOBS,
    targets: &Role::LINEAR,
    shape: settled::shape::<Shards>,
    create: settled::create::<Shards>,
    read: settled::read::<Shards>,
    sections: &[],
    grown: &[],
    codec: None,
    size: Some(&POOL),
};

/// Parameters: the pool of A, then that of B, of each role.
pub type Mos = LowRank<Shards>;

/// The factors are laid together from shards.
#[derive(Clone)]
pub struct Shards {
    settings: Settings,
    pools: Vec<Pool>,
    /// For each slot its pool.
    of: Vec<usize>,
    /// For each slot the shards of A and of Bᵀ, row by row.
    tables: Vec<[Vec<u32>; 2]>,
}

/// The pools of a role.
#[derive(Clone)]
struct Pool {
    /// Their slots.
    members: Vec<usize>,
    /// Shards of either.
    count: usize,
    /// Those that all may take.
    public: usize,
    /// Widths of a shard of A and of B.
    widths: [usize; 2],
    /// Ranges among the parameters.
    ranges: [Range<usize>; 2],
}

impl Settled for Shards {
    const KIND: &'static Kind = &KIND;

    fn make(settings: Settings, sites: &[Site], base: &Base) -> Result<(Layout, Self)> {
        let [rank, e, private, q] = [&RANK, &POOL, &PRIVATE, &PIECES].map(|knob| settings.whole(knob.name));
        for (knob, value, most) in [(&POOL, e, rank), (&PRIVATE, private, e)] {
            if value > most {
                return Err(Error::invalid(
                    knob.name,
                    format!("{value}; at most {most} can be used with this rank and pool"),
                ));
            }
        }
        let alpha = settings.values.real(ALPHA.name) as f32;
        let plain = |site: &Site| Slot::new(*site, base, rank, alpha, false);
        let mut slots = sites.iter().map(plain).collect::<Result<Vec<Slot>>>()?;
        slots.sort_by_key(|s| s.site);
        let (mut pools, mut of, mut at) = (Vec::new(), vec![0; slots.len()], 0);
        for members in grouped(&slots, |s| (s.site.role, s.shape)) {
            let blocks = members.len();
            let most = private + (e - private) * blocks;
            for slot in &members {
                of[*slot] = pools.len();
                slots[*slot] = Slot::new(slots[*slot].site, base, rank.min(most), alpha, false)?;
            }
            let (count, widths) = (e * blocks * q, slots[members[0]].shape.map(|n| n.div_ceil(q)));
            let ranges = widths.map(|width| {
                at += count * width;
                at - count * width..at
            });
            pools.push(Pool { members, count, public: (e - private) * blocks * q, widths, ranges });
        }
        let layout = Layout::new(slots, false);
        let mut tables: Vec<[Vec<u32>; 2]> = vec![Default::default(); of.len()];
        for pool in &pools {
            for (block, slot) in pool.members.iter().enumerate() {
                let Slot { site, rank, .. } = &layout.slots()[*slot];
                tables[*slot] = ["mos_a", "mos_b"].map(|role| {
                    let mut list: Vec<u32> = (0..pool.public as u32).collect();
                    Random::new(settings.seed, &site.to_string(), role).shuffle(&mut list);
                    list.truncate((rank - private) * q);
                    let own = (pool.public + block * private * q) as u32;
                    list.extend(own..own + (private * q) as u32);
                    list
                });
            }
        }
        Ok((layout, Shards { settings, pools, of, tables }))
    }

    fn settings(&self) -> &Settings {
        &self.settings
    }
}

impl Shards {
    /// The shards of A and of Bᵀ of a slot, row by row.
    #[cfg(feature = "internals")]
    pub fn table(&self, slot: usize) -> &[Vec<u32>; 2] {
        &self.tables[slot]
    }

    /// The shards of its pools that only one slot may take.
    #[cfg(feature = "internals")]
    pub fn private(&self, slot: usize) -> Range<u32> {
        let pool = &self.pools[self.of[slot]];
        pool.public as u32..pool.count as u32
    }

    /// Calls `f(range in the parameters, range in the factors)` for each piece of each row of a slot.
    fn pieces(&self, slot: &Slot, place: usize, mut f: impl FnMut(Range<usize>, Range<usize>)) {
        let (pool, q) = (&self.pools[self.of[place]], self.settings.whole(PIECES.name));
        for (side, factor) in [slot.a(), slot.b()].into_iter().enumerate() {
            let (n, width) = (slot.shape[side], pool.widths[side]);
            for (i, shard) in self.tables[place][side].iter().enumerate() {
                let (row, first) = (i / q, (i % q * width).min(n));
                let len = width.min(n - first);
                let from = pool.ranges[side].start + *shard as usize * width;
                let to = factor.start + row * n + first;
                f(from..from + len, to..to + len);
            }
        }
    }
}

impl Factors for Shards {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn parts(&self, layout: &Layout) -> (Vec<Part>, Size) {
        let of = |pool: &Pool| {
            let [a, b] = pool.ranges.clone();
            [
                Part { name: "a", range: a, cols: pool.widths[0], start: Start::Given, group: Group::Main },
                Part { name: "b", range: b, cols: pool.widths[1], start: Start::Zero, group: Group::Fast },
            ]
        };
        let params = self.pools.last().map_or(0, |pool| pool.ranges[1].end);
        let (all, tables) = (layout.len(), self.tables.iter().flatten().map(Vec::len).sum::<usize>());
        let size = Size { params, derived: all + tables, gathered: all, scratch: 0, row: 0 };
        (self.pools.iter().flat_map(of).collect(), size)
    }

    fn own(&self, _layout: &Layout, slot: usize) -> Range<usize> {
        2 * self.of[slot]..2 * self.of[slot] + 2
    }

    fn expand(&self, _cx: &Compute, layout: &Layout, params: &[f32], factors: &mut [f32]) {
        for (place, slot) in layout.slots().iter().enumerate() {
            self.pieces(slot, place, |from, to| factors[to].copy_from_slice(&params[from]));
        }
    }

    /// In the order of slots, rows and pieces.
    fn project(&self, _cx: &Compute, layout: &Layout, _params: &[f32], acc: &[f32], grads: &mut [f32]) {
        grads.fill(0.0);
        for (place, slot) in layout.slots().iter().enumerate() {
            self.pieces(slot, place, |from, to| grads[from].iter_mut().zip(&acc[to]).for_each(|(g, a)| *g += a));
        }
    }

    /// Public shards are drawn one after the other, private rows as those of the block's LoRA.
    fn start(&self, layout: &Layout, part: usize, out: &mut [f32]) {
        out.fill(0.0);
        if !part.is_multiple_of(2) {
            return;
        }
        let (pool, [private, q]) =
            (&self.pools[part / 2], [&PRIVATE, &PIECES].map(|knob| self.settings.whole(knob.name)));
        let (width, slots) = (pool.widths[0], layout.slots());
        let first = &slots[pool.members[0]];
        let n = first.shape[0];
        let (public, own) = out.split_at_mut(pool.public * width);
        self.settings.uniform(&first.site, "mos_pool", 0, lowrank::kaiming(n), public);
        let mut rows = vec![0.0; private * n];
        for (slot, own) in pool.members.iter().zip(own.chunks_mut((private * q * width).max(1))) {
            lowrank::start_of_a(self.settings.seed, slots[*slot].site, n, &mut rows);
            // Rows are padded to whole shards.
            for (row, own) in rows.chunks_exact(n).zip(own.chunks_exact_mut(q * width)) {
                own[..n].copy_from_slice(row);
            }
        }
    }

    fn changes_something(&self, _layout: &Layout, params: &[f32]) -> bool {
        let any = |range: &Range<usize>| params[range.clone()].iter().any(|v| *v != 0.0);
        self.pools.iter().any(|pool| pool.ranges.iter().all(any))
    }

    fn record(&self, layout: &Layout, head: &mut Head) -> Vec<(&'static str, Vec<u8>)> {
        settled::record(self, layout, head)
    }
}
