//! Sparse changes of linear layers: single weights are trained, the others stay frozen (SHiRA, arXiv:2406.13175). Which
//! ones either stays as it was at the beginning, or changes while the adapter is trained (SpIEL, arXiv:2401.16405).
//!
//! ```text
//! ΔW[i, j] = v_p for the positions p = (i, j) of a layer, else 0      v starts at 0; strength t: t·ΔW
//! y += ΔW·x      ∂L/∂v_p = Σ dy[i]·x[j]
//! ```
//!
//! **Positions.** `values` of them are shared out among all layers (`spread`): by their numbers of weights, by the sums of
//! their sides, as a low-rank change has its parameters, or evenly. A layer with fewer weights has them all. `mask` chooses
//! those of a layer `[out, in]`, which are sorted:
//! * `random`: the first ones of a permutation of all, of the stream of the seed, the site's name and `sparse`. Few
//!   positions are among those of more. With few values this is APET's control (arXiv:2306.02320).
//! * `strided`: of `k` positions in `n` weights position `p·n div k`.
//! * `magnitude`: the weights with the largest magnitudes; of equal ones the first.
//!
//! The first two follow from the settings, so a file holds no positions, and as few as a hundred numbers make an adapter. Other
//! positions are the section `positions`: for each layer the gaps in Golomb-Rice code, one byte of its parameter before them.
//! The file has `values`, and those other settings that differ from their defaults, which are therefore part of the format.
//!
//! **Reselection** (`reselect`) exchanges positions every `reselect every` steps `t` of `T`. In each layer the share
//! `reselect share · (1 − t/T)` of its values, those nearest to 0, makes room for candidates, and the first time all do. A
//! candidate that was just dropped keeps its value; the others start at 0. So the number of values never changes.
//! * `ag`: candidates are the entries of `∂L/∂W` with the largest magnitudes in the first micro-batch of the last `reselect
//!   samples` steps, as many as there are values. Their gradients are added up in these steps, and those with the largest sums
//!   are chosen. A new value tells the optimiser the means of its gradients and their squares ([`Known`]): the authors' code
//!   has them as they are (`reselect moments` is `plain`), so that correction by age makes the second moments many times too
//!   large at first, and the first steps small. In a run of few exchanges `corrected` learns much more. The dense gradient is
//!   formed a few rows at a time.
//! * `ma`: candidates are those with the largest products of SM3's accumulators of their row and column, which are made from
//!   the gradients of the values that there are: `ν = min(row[i], col[j]) + g²; row[i] = max ν; col[j] = max ν`. No other
//!   gradient is formed. The step itself is the optimiser's.

use crate::adapter::direct::{self, Direct, Own, Plan, Rule};
use crate::adapter::file::Stored;
use crate::adapter::place::Shaped;
use crate::adapter::{
    Adapter, At, Base, Into, Kind, Known, Needs, NewPart, Origin, Place, Seen, Shape, Spec, Start, Step,
};
use crate::bytes::{Bytes, Limits};
use crate::container::codec::{put_places, take_places};
use crate::container::head::Head;
use crate::error::{Error, Result};
use crate::kernel::{Buffer, Compute, Tile, View};
use crate::knob::{Domain, Knob, Setting, Value, Values};
use crate::rng::Permutation;
use crate::role::{Role, TensorKind};
use core::cmp::Ordering;
use core::ops::Range;
use std::prelude::v1::*;

/// Values of all layers together.
pub static VALUES: Knob = Knob {
    name: "values",
    about: "Trained weights of all layers together",
    metavar: "K",
    domain: Domain::Whole { low: 1, high: Limits::DEFAULT.vector },
};

/// What they are shared out by.
static SPREAD: Knob = Knob {
    name: "spread",
    about: "How trained weights are shared out among layers",
    metavar: "HOW",
    domain: Domain::Word(|| vec!["size", "sides", "even"]),
};

/// How positions are chosen.
static MASK: Knob = Knob {
    name: "mask",
    about: "Which weights of a layer are trained",
    metavar: "HOW",
    domain: Domain::Word(|| vec!["random", "strided", "magnitude"]),
};

/// Whether they are exchanged.
static RESELECT: Knob = Knob {
    name: "reselect",
    about: "Exchange trained weights: by accumulated gradients, or by accumulators alone, which takes less memory",
    metavar: "HOW",
    domain: Domain::Word(|| vec!["never", "ag", "ma"]),
};

/// Steps from one exchange to the next.
static EVERY: Knob = Knob {
    name: "reselect every",
    about: "Steps from one exchange to the next",
    metavar: "N",
    domain: Domain::Whole { low: 1, high: 1 << 32 },
};

/// Steps in which gradients are accumulated.
static SAMPLES: Knob = Knob {
    name: "reselect samples",
    about: "Steps before an exchange whose gradients are accumulated",
    metavar: "N",
    domain: Domain::Whole { low: 1, high: 1 << 16 },
};

/// The share that is exchanged.
static SHARE: Knob = Knob {
    name: "reselect share",
    about: "Share of the weights that are exchanged at the beginning, after all at first; it falls to 0",
    metavar: "S",
    domain: Domain::Real { low: 0.0, high: 1.0 },
};

/// What an optimiser's moments of new values begin with.
static MOMENTS: Knob = Knob {
    name: "reselect moments",
    about: "Moments of new weights: the plain means of their gradients, or such that these means are what correction by age makes of them",
    metavar: "HOW",
    domain: Domain::Word(|| vec!["plain", "corrected"]),
};

/// A file of few values has only those settings that differ from these.
static KNOBS: [Setting; 8] = [
    Setting::whole(&VALUES, 65_536),
    Setting::word(&SPREAD, "size").later(),
    Setting::word(&MASK, "random").later(),
    Setting::word(&RESELECT, "never").later(),
    Setting::whole(&EVERY, 20).later(),
    Setting::whole(&SAMPLES, 5).later(),
    Setting::real(&SHARE, 0.2).later(),
    Setting::word(&MOMENTS, "plain").later(),
];

/// The section of the file that holds positions.
const POSITIONS: &str = "positions";

/// Its row.
pub static KIND: Kind = Kind {
    name: "sparse",
    about: "single weights of linear layers; as few as wanted",
    rate: 1e-2,
    knobs: &KNOBS,
    targets: &Role::LINEAR,
    shape: |spec, base| direct::shape(spec, base, &PLAN),
    create: |spec, base| {
        let shape = direct::shape(spec, base, &PLAN)?;
        let (values, seed) = (spec.values()?, spec.seed);
        Direct::create(spec, base, &PLAN, Sparse::new(Positions::of(&shape, &values, seed, base)?, &shape, &values))
    },
    read,
    sections: &[POSITIONS],
    grown: &[POSITIONS],
    codec: None,
    size: Some(&VALUES),
};

static PLAN: Plan = Plan {
    kind: &KIND,
    places: |spec, _, base| Ok(spec.sites(base)?.into_iter().map(Place::Site).collect()),
    stands: |place| matches!(place, Place::Site(site) if site.role.row().kind == TensorKind::Matrix),
    shape: |mut places, values, _| {
        places.sort();
        let counts = counts(&places, values);
        let of = |place: Place| {
            let found = places.binary_search_by_key(&place, |(place, _)| *place).ok();
            found.and_then(|i| counts.get(i)).copied().unwrap_or(0)
        };
        let needs = Needs { input: true, ..Needs::default() };
        // A layer without values has an empty part.
        let part = |n: usize| NewPart::new("values", n.min(1), n.max(1), Start::Zero);
        let mut shape = Shape::build(places.clone(), |_| needs, |place, _| vec![part(of(place))]);
        let (k, sides) = (shape.size.params, shape.slots.iter().map(|s| s.shape[0] + s.shape[1]).sum::<usize>());
        let widest = shape.slots.iter().map(|s| s.shape[0]).max().unwrap_or(0);
        let most = counts.iter().max().copied().unwrap_or(0);
        // Two words a position. Where they are exchanged, the optimiser has an age for each value, and each has an origin of six
        // words; candidates have four words, and in the sums of a step three, and while they are found, twice as many as needed
        // stand beside some rows.
        shape.size.derived = 2 * k;
        match values.word(RESELECT.name) {
            "ag" => {
                shape.size.derived += 11 * k + 6 * most + TILE * widest;
                shape.size.gathered = 4 * k;
            }
            "ma" => shape.size.derived += 7 * k + sides + 6 * most + widest,
            _ => {}
        }
        Ok(shape)
    },
};

/// Rows of a dense gradient that are formed at a time. No result depends on it.
const TILE: usize = 32;
/// Rows, or values, that a worker computes at a time. No result depends on it.
const ROWS: usize = 8;
const SOME: usize = 1024;
/// Number of multiplications below which threads do not pay.
const SMALL: usize = 1 << 16;

fn size([n_in, n_out]: [usize; 2]) -> u64 {
    (n_in as u64).saturating_mul(n_out as u64)
}

/// The number of values at each place.
fn counts(places: &[Shaped], values: &Values) -> Vec<usize> {
    let weight = |shape: [usize; 2]| match values.word(SPREAD.name) {
        "size" => size(shape),
        "sides" => shape[0] as u64 + shape[1] as u64,
        _ => 1,
    };
    let total = |of: &dyn Fn([usize; 2]) -> u64| places.iter().fold(0u64, |sum, (_, s)| sum.saturating_add(of(*s)));
    let (all, wanted) = (total(&weight).max(1), values.whole(VALUES.name).min(total(&size)));
    // Shares are differences of rounded sums, so that they add up.
    let upto = |weights: u64| (u128::from(wanted) * u128::from(weights.min(all)) / u128::from(all)) as u64;
    let mut before = 0u64;
    let mut count = |(_, shape): &Shaped| {
        let end = before.saturating_add(weight(*shape));
        let share = upto(end) - upto(before);
        before = end;
        share.min(size(*shape)) as usize
    };
    places.iter().map(&mut count).collect()
}

/// Row and column of a weight.
type Position = [u32; 2];

fn position(flat: u64, n_in: usize) -> Position {
    let n_in = n_in.max(1) as u64;
    [(flat / n_in) as u32, (flat % n_in) as u32]
}

/// The positions at each slot, sorted.
struct Positions {
    all: Vec<Vec<Position>>,
    /// Whether they follow from the settings and the seed.
    follow: bool,
}

impl Positions {
    /// Those of a new adapter.
    fn of(shape: &Shape, values: &Values, seed: u64, base: &Base) -> Result<Positions> {
        let mask = values.word(MASK.name);
        let slot = |slot: &crate::adapter::Slot| -> Result<Vec<Position>> {
            let ([n_in, _], all) = (slot.shape, size(slot.shape));
            let k = shape.parts[slot.parts.start].range.len();
            let mut flat: Vec<u64> = match mask {
                _ if k == 0 => Vec::new(),
                "random" => {
                    let order = Permutation::new(seed, &slot.place.to_string(), KIND.name, all);
                    (0..k as u64).map(|i| order.at(i)).collect()
                }
                "strided" => (0..k as u64).map(|i| (u128::from(i) * u128::from(all) / k as u128) as u64).collect(),
                _ => return largest(slot.place, base, k),
            };
            flat.sort_unstable();
            Ok(flat.into_iter().map(|flat| position(flat, n_in)).collect())
        };
        Ok(Positions { all: shape.slots.iter().map(slot).collect::<Result<_>>()?, follow: mask != "magnitude" })
    }

    /// Those of a file.
    fn read(shape: &Shape, bytes: &Bytes) -> Result<Positions> {
        let mut rest = &bytes[..];
        let mut slot = |slot: &crate::adapter::Slot| -> Result<Vec<Position>> {
            let k = shape.parts[slot.parts.start].range.len();
            if k == 0 {
                return Ok(Vec::new());
            }
            let len = usize::try_from(size(slot.shape)).unwrap_or(usize::MAX);
            let flat = take_places(&mut rest, k, len)?;
            Ok(flat.into_iter().map(|flat| position(flat as u64, slot.shape[0])).collect())
        };
        let all = shape.slots.iter().map(&mut slot).collect::<Result<_>>()?;
        match rest.len() {
            0 => Ok(Positions { all, follow: false }),
            more => Err(Error::corrupt(format!("{more} bytes behind the positions"), 0)),
        }
    }
}

/// The weights with the largest magnitudes.
fn largest(place: Place, base: &Base, k: usize) -> Result<Vec<Position>> {
    let Place::Site(site) = place else { return Err(Error::unsupported("target of sparse", place.to_string())) };
    let w = base.matrix(site)?;
    let (mut best, mut row) = (Best::new(k), vec![0.0; w.cols]);
    for i in 0..w.rows {
        w.decode(i, 0..w.cols, &mut row);
        // Something must be chosen of whatever there is.
        row.iter_mut().filter(|v| v.is_nan()).for_each(|v| *v = 0.0);
        best.offer(i, &row);
    }
    let mut all: Vec<Position> = best.take().into_iter().map(|entry| entry.at).collect();
    all.sort_unstable();
    Ok(all)
}

/// An adapter at given positions, of the form `[row, column]`, for each of its places in order.
///
/// # Errors
/// Those of [`crate::adapter::create`]; `Invalid` for another number of positions than the settings say, for a position
/// outside of its layer, and for one that is there twice.
pub fn at(spec: &Spec, base: &Base, mut positions: Vec<Vec<[u32; 2]>>) -> Result<Box<dyn Adapter>> {
    let (shape, values) = (direct::shape(spec, base, &PLAN)?, spec.values()?);
    let bad = |why: String| Error::invalid(POSITIONS, why);
    if positions.len() != shape.slots.len() {
        return Err(bad(format!("of {} layers for {}", positions.len(), shape.slots.len())));
    }
    for (all, slot) in positions.iter_mut().zip(&shape.slots) {
        let (k, [n_in, n_out], place) = (shape.parts[slot.parts.start].range.len(), slot.shape, slot.place);
        all.sort_unstable();
        if all.len() != k {
            return Err(bad(format!("{} at {place} for {k}", all.len())));
        }
        if let Some(at) = all.iter().find(|[row, col]| *row as usize >= n_out || *col as usize >= n_in) {
            return Err(bad(format!("{at:?} at {place} of {n_out} × {n_in}")));
        }
        if let Some(twice) = all.windows(2).find(|w| w[0] == w[1]) {
            return Err(bad(format!("{:?} at {place} twice", twice[0])));
        }
    }
    let positions = Positions { all: positions, follow: false };
    Direct::create(spec, base, &PLAN, Sparse::new(positions, &shape, &values))
}

fn read(stored: Stored) -> Result<Box<dyn Adapter>> {
    let values = Values::read(KIND.name, &KNOBS, stored.head)?;
    Limits::check("values", values.whole(VALUES.name), stored.limits.vector)?;
    let shape = (PLAN.shape)(stored.places.clone(), &values, stored.base)?;
    // The file has as many values as it says before there is room for their positions.
    stored.params(&shape.parts, |_, out| out.fill(0.0))?;
    let positions = match stored.container.section(POSITIONS) {
        Some(bytes) => Positions::read(&shape, &bytes)?,
        None => Positions::of(&shape, &values, stored.head.integer("seed")?, stored.base)?,
    };
    Direct::read(stored, &PLAN, Sparse::new(positions, &shape, &values))
}

/// The positions, and the statistics for their exchange.
struct Sparse {
    positions: Positions,
    rounds: Option<Rounds>,
}

impl Sparse {
    fn new(positions: Positions, shape: &Shape, values: &Values) -> Sparse {
        let statistics = match values.word(RESELECT.name) {
            "ag" => Some(Statistics::Gradients(shape.slots.iter().map(|_| Candidates::default()).collect())),
            "ma" => Some(Statistics::Accumulators(shape.slots.iter().map(Accumulators::of).collect())),
            _ => None,
        };
        let rounds = statistics.map(|statistics| Rounds {
            every: values.whole(EVERY.name),
            samples: values.whole(SAMPLES.name),
            share: values.real(SHARE.name),
            corrected: values.word(MOMENTS.name) == "corrected",
            done: 0,
            statistics,
        });
        Sparse { positions, rounds }
    }
}

/// Calls `f(first, rows)` for all rows of a tile, in parts.
fn by_rows(cx: &Compute, mut y: Tile, products: usize, f: &(dyn Fn(usize, Tile) + Sync)) {
    let (n, c) = (y.n(), y.c());
    let granule = if n * products < SMALL { n.max(1) } else { ROWS };
    cx.pool.rows([y.part(0..n, 0..c)], [granule], &|part, [rows], _| f(part * granule, rows));
}

impl Rule for Sparse {
    fn forward(&self, own: &Own, at: &At, x: View, y: &mut Tile, _scratch: &mut Buffer) {
        let (values, positions) = (own.part(at.slot, 0), &self.positions.all[at.slot]);
        if values.is_empty() {
            return;
        }
        let (n, c) = (y.n(), y.c());
        by_rows(at.cx, y.part(0..n, 0..c), values.len(), &|first, mut y| {
            for i in 0..y.n() {
                let (x, y) = (x.row(first + i), y.row(i));
                for (v, [row, col]) in values.iter().zip(positions) {
                    y[*row as usize] += at.strength * v * x[*col as usize];
                }
            }
        });
    }

    fn backward(&self, own: &Own, at: &At, seen: &Seen, dy: &mut [f32], into: Into, scratch: &mut Buffer) {
        let (values, positions, x) = (own.part(at.slot, 0), &self.positions.all[at.slot], seen.x);
        if values.is_empty() {
            return;
        }
        let dy = View::new(dy, x.n, own.shape.slots[at.slot].shape[1]);
        if let Some(acc) = into.acc {
            let range = own.range(at.slot, 0);
            let place = |p: usize| positions[p];
            add_gradients(at, dy, x, &mut Tile::new(&mut acc[range.clone()], values.len(), 1), 0, &place);
            if let Some(Rounds { statistics: Statistics::Gradients(all), .. }) =
                self.rounds.as_ref().filter(|r| r.collects())
            {
                let (start, len) = (own.params.len() + 3 * range.start, 3 * range.len());
                all[at.slot].gather(at, dy, x, &mut acc[start..start + len], scratch);
            }
        }
        if let Some(dx) = into.dx {
            let (n, c) = (x.n, dx.c());
            by_rows(at.cx, dx.part(0..n, 0..c), values.len(), &|first, mut dx| {
                for i in 0..dx.n() {
                    let (dx, dy) = (dx.row(i), dy.row(first + i));
                    for (v, [row, col]) in values.iter().zip(positions) {
                        dx[*col as usize] += at.strength * v * dy[*row as usize];
                    }
                }
            });
        }
    }

    /// The sums begin with the gradients; what is behind them belongs to candidates.
    fn reduce(&self, _: &Own, _: &Compute, _: &dyn crate::adapter::Frozen, acc: &[f32], grads: &mut [f32]) {
        grads.copy_from_slice(&acc[..grads.len()]);
    }

    fn bakes(&self, place: Place) -> bool {
        matches!(place, Place::Site(_))
    }

    fn bake(&self, own: &Own, at: &At, rows: Range<usize>, w: &mut Tile) {
        let (values, positions) = (own.part(at.slot, 0), &self.positions.all[at.slot]);
        let first = positions.partition_point(|[row, _]| (*row as usize) < rows.start);
        let inside = positions[first..].iter().take_while(|[row, _]| (*row as usize) < rows.end);
        for ([row, col], v) in inside.zip(&values[first..]) {
            w.row(*row as usize - rows.start)[*col as usize] += at.strength * v;
        }
    }

    fn record(&self, own: &Own, head: &mut Head) -> Vec<(&'static str, Vec<u8>)> {
        for Setting { knob, value, later } in &KNOBS {
            let now = own.values.get(knob.name).unwrap_or(value);
            if !later || now != value {
                Values::new().with(knob.name, Value::clone(now)).write(head);
            }
        }
        if self.positions.follow {
            return Vec::new();
        }
        let mut bytes = Vec::new();
        for (slot, all) in own.shape.slots.iter().zip(&self.positions.all).filter(|(_, all)| !all.is_empty()) {
            let flat = |[row, col]: &Position| *row as usize * slot.shape[0] + *col as usize;
            put_places(&all.iter().map(flat).collect::<Vec<_>>(), &mut bytes);
        }
        vec![(POSITIONS, bytes)]
    }

    fn exchanges(&self) -> bool {
        self.rounds.is_some()
    }

    fn exchange(&mut self, own: &mut Own, step: Step, grads: &[f32], acc: &[f32]) -> Option<Vec<Origin>> {
        let rounds = self.rounds.as_mut()?;
        if step.number != rounds.done + 1 {
            // Another run began.
            rounds.clear();
        }
        rounds.observe(own, &self.positions.all, grads, acc);
        rounds.done = step.number;
        let share = rounds.share_at(step)?;
        let mut origins = Vec::with_capacity(own.params.len());
        for (slot, positions) in self.positions.all.iter_mut().enumerate() {
            let range = own.range(slot, 0);
            let n = libm::floor(share * range.len() as f64) as usize;
            let values = &mut own.params[range.clone()];
            let kept = |i| Origin::Kept(range.start + i);
            origins.extend(rounds.turn(slot, positions, values, n).into_iter().map(|origin| match origin {
                Origin::Kept(i) => kept(i),
                new => new,
            }));
        }
        self.positions.follow = false;
        rounds.forget();
        Some(origins)
    }

    fn exchange_state(&self) -> Vec<u8> {
        self.rounds.as_ref().map_or(Vec::new(), Rounds::write)
    }

    fn restore_exchange(&mut self, own: &Own, bytes: &[u8]) -> Result<()> {
        let Some(rounds) = &mut self.rounds else {
            return match bytes.is_empty() {
                true => Ok(()),
                false => Err(Error::corrupt("statistics for an exchange that there is not", 0)),
            };
        };
        rounds.read(&own.shape, bytes)
    }
}

/// `g[p][last] += t Σ dy[row]·x[col]` for the position of each row of `g`, in the order of the rows of `x`.
fn add_gradients(at: &At, dy: View, x: View, g: &mut Tile, last: usize, position: &(dyn Fn(usize) -> Position + Sync)) {
    let (k, c) = (g.n(), g.c());
    let granule = if x.n * k < SMALL { k.max(1) } else { SOME };
    at.cx.pool.rows([g.part(0..k, 0..c)], [granule], &|part, [mut g], _| {
        for t in 0..x.n {
            let (x, dy) = (x.row(t), dy.row(t));
            for i in 0..g.n() {
                let [row, col] = position(part * granule + i);
                g.row(i)[last] += at.strength * dy[row as usize] * x[col as usize];
            }
        }
    });
}

/// An entry of a matrix.
#[derive(Clone, Copy)]
struct Entry {
    at: Position,
    value: f32,
}

/// The entries of a matrix with the largest magnitudes; of equal ones the first. Rows come in order.
struct Best {
    count: usize,
    /// What an entry must exceed.
    bound: f32,
    all: Vec<Entry>,
}

impl Best {
    fn new(count: usize) -> Best {
        Best { count, bound: -1.0, all: Vec::new() }
    }

    /// Takes a row; what is no number is passed over.
    fn offer(&mut self, row: usize, values: &[f32]) {
        if self.count == 0 {
            return;
        }
        for (col, value) in values.iter().enumerate() {
            if value.abs() > self.bound {
                self.all.push(Entry { at: [row as u32, col as u32], value: *value });
                if self.all.len() >= 2 * self.count {
                    self.trim();
                }
            }
        }
    }

    fn trim(&mut self) {
        if self.all.len() > self.count {
            self.all.select_nth_unstable_by(self.count - 1, larger);
            self.all.truncate(self.count);
        }
        if self.all.len() == self.count {
            self.bound = self.all.iter().fold(f32::INFINITY, |low, entry| low.min(entry.value.abs()));
        }
    }

    /// The largest first.
    fn take(mut self) -> Vec<Entry> {
        self.trim();
        self.all.sort_unstable_by(larger);
        self.all
    }
}

fn larger(a: &Entry, b: &Entry) -> Ordering {
    b.value.abs().total_cmp(&a.value.abs()).then(a.at.cmp(&b.at))
}

/// A candidate, with the sums of its gradients in several steps.
#[derive(Clone, Copy)]
struct Candidate {
    at: Position,
    sum: f32,
    squares: f32,
}

/// The candidates of a slot.
#[derive(Default)]
struct Candidates {
    /// Steps that were added.
    samples: u32,
    all: Vec<Candidate>,
}

impl Candidates {
    /// Adds to the sums of a step, of which each is row, column and gradient, since only the first micro-batch finds
    /// candidates. Sums of nothing but zeros have no candidates yet.
    fn gather(&self, at: &At, dy: View, x: View, sums: &mut [f32], scratch: &mut Buffer) {
        let (all, _) = sums.as_chunks_mut::<3>();
        if all.iter().all(|one| *one == [0.0; 3]) {
            if self.all.is_empty() {
                let found = densest(at, dy, x, all.len(), scratch);
                for (one, Entry { at: [row, col], value }) in all.iter_mut().zip(found) {
                    *one = [row as f32, col as f32, value];
                }
                return;
            }
            for (one, Candidate { at: [row, col], .. }) in all.iter_mut().zip(&self.all) {
                *one = [*row as f32, *col as f32, 0.0];
            }
        }
        let positions: Vec<Position> = all.iter().map(|[row, col, _]| [*row as u32, *col as u32]).collect();
        let k = positions.len();
        add_gradients(at, dy, x, &mut Tile::new(sums, k, 3), 2, &|p| positions[p]);
    }

    /// Takes the sums of a step.
    fn take(&mut self, sums: &[f32]) {
        let (sums, _) = sums.as_chunks::<3>();
        if self.samples == 0 {
            let found = sums.iter().filter(|one| **one != [0.0; 3]);
            self.all =
                found.map(|[r, c, _]| Candidate { at: [*r as u32, *c as u32], sum: 0.0, squares: 0.0 }).collect();
        }
        for (candidate, [_, _, g]) in self.all.iter_mut().zip(sums) {
            candidate.sum += g;
            candidate.squares += g * g;
        }
        self.samples += u32::from(!self.all.is_empty());
    }
}

/// The entries of `t·dyᵀ·x` with the largest magnitudes.
fn densest(at: &At, dy: View, x: View, count: usize, scratch: &mut Buffer) -> Vec<Entry> {
    let mut best = Best::new(count);
    for first in (0..dy.c).step_by(TILE) {
        let rows = TILE.min(dy.c - first);
        let tile = scratch.room(rows * x.c);
        tile.fill(0.0);
        crate::adapter::lowrank::add_outer(at.cx, dy.cols(first..first + rows), x, tile);
        tile.iter_mut().for_each(|v| *v *= at.strength);
        for (i, row) in tile.chunks_exact(x.c.max(1)).enumerate() {
            best.offer(first + i, row);
        }
    }
    best.take()
}

/// SM3's accumulators of a slot, for rows and columns.
struct Accumulators([Vec<f32>; 2]);

impl Accumulators {
    fn of(slot: &crate::adapter::Slot) -> Accumulators {
        let [n_in, n_out] = slot.shape;
        Accumulators([vec![0.0; n_out], vec![0.0; n_in]])
    }

    fn observe(&mut self, positions: &[Position], grads: &[f32]) {
        let [rows, cols] = self.0.clone();
        for ([row, col], g) in positions.iter().zip(grads) {
            let (row, col) = (*row as usize, *col as usize);
            let v = rows[row].min(cols[col]) + g * g;
            let Accumulators([rows, cols]) = self;
            (rows[row], cols[col]) = (rows[row].max(v), cols[col].max(v));
        }
    }

    /// The positions with the largest products, without those of `stay`, which are sorted.
    fn best(&self, count: usize, stay: &[Position]) -> Vec<Position> {
        let Accumulators([rows, cols]) = self;
        let (mut best, mut products, mut rest) = (Best::new(count), vec![0.0; cols.len()], stay);
        let widest = cols.iter().fold(0.0f32, |m, v| m.max(*v));
        for (i, row) in rows.iter().enumerate() {
            let (own, behind) = rest.split_at(rest.partition_point(|[row, _]| *row as usize <= i));
            rest = behind;
            // Nothing is known of a row or column that had no gradient.
            if row * widest <= best.bound.max(0.0) {
                continue;
            }
            products.iter_mut().zip(cols).for_each(|(p, col)| *p = if row * col > 0.0 { row * col } else { f32::NAN });
            own.iter().for_each(|[_, col]| products[*col as usize] = f32::NAN);
            best.offer(i, &products);
        }
        best.take().into_iter().map(|entry| entry.at).collect()
    }
}

/// What the next exchange is decided by, for each slot.
enum Statistics {
    Gradients(Vec<Candidates>),
    Accumulators(Vec<Accumulators>),
}

/// The exchange of positions.
struct Rounds {
    every: u64,
    samples: u64,
    share: f64,
    corrected: bool,
    /// Steps of the run.
    done: u64,
    statistics: Statistics,
}

impl Rounds {
    /// Whether the next step is among the last ones before an exchange.
    fn collects(&self) -> bool {
        self.share > 0.0 && self.done % self.every + self.samples >= self.every
    }

    /// The share of values to exchange after a step; `None` if it is not yet time.
    fn share_at(&self, step: Step) -> Option<f64> {
        if self.share == 0.0 || !step.number.is_multiple_of(self.every) || step.number >= step.last {
            return None;
        }
        let left = 1.0 - step.number as f64 / step.last as f64;
        Some(if step.number == self.every { 1.0 } else { self.share * left })
    }

    fn clear(&mut self) {
        self.forget();
        if let Statistics::Accumulators(all) = &mut self.statistics {
            all.iter_mut().flat_map(|a| &mut a.0).for_each(|v| v.fill(0.0));
        }
    }

    /// Candidates are found anew each time.
    fn forget(&mut self) {
        if let Statistics::Gradients(all) = &mut self.statistics {
            all.iter_mut().for_each(|one| *one = Candidates::default());
        }
    }

    fn observe(&mut self, own: &Own, positions: &[Vec<Position>], grads: &[f32], acc: &[f32]) {
        let collects = self.collects();
        match &mut self.statistics {
            Statistics::Gradients(all) => {
                for (slot, one) in all.iter_mut().enumerate().filter(|_| collects) {
                    let range = own.range(slot, 0);
                    let start = own.params.len() + 3 * range.start;
                    one.take(acc.get(start..start + 3 * range.len()).unwrap_or_default());
                }
            }
            Statistics::Accumulators(all) => {
                for (slot, (one, positions)) in all.iter_mut().zip(positions).enumerate() {
                    one.observe(positions, &grads[own.range(slot, 0)]);
                }
            }
        }
    }

    /// Exchanges up to `n` values of a slot. The origins count from its first value.
    fn turn(&self, slot: usize, positions: &mut Vec<Position>, values: &mut [f32], n: usize) -> Vec<Origin> {
        // Those nearest to 0 come first.
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_unstable_by(|a, b| values[*a].abs().total_cmp(&values[*b].abs()).then(a.cmp(b)));
        let (gone, stay) = order.split_at(n);
        let mut stays: Vec<Position> = stay.iter().map(|i| positions[*i]).collect();
        stays.sort_unstable();
        let new = self.candidates(slot, &stays, n);
        let back = |at: &Position| positions.binary_search(at).ok();
        let mut next: Vec<(Position, Origin)> = stay.iter().map(|i| (positions[*i], Origin::Kept(*i))).collect();
        next.extend(new.iter().map(|(at, known)| (*at, back(at).map_or(Origin::New(*known), Origin::Kept))));
        // Where there are too few candidates, the largest of those that would go stay.
        let chosen: Vec<Position> = {
            let mut all: Vec<Position> = new.iter().map(|(at, _)| *at).collect();
            all.sort_unstable();
            all
        };
        let spared = gone.iter().rev().filter(|i| chosen.binary_search(&positions[**i]).is_err());
        let missing = values.len() - next.len();
        next.extend(spared.take(missing).map(|i| (positions[*i], Origin::Kept(*i))));
        next.sort_unstable_by_key(|(at, _)| *at);
        let before = values.to_vec();
        for (value, (_, origin)) in values.iter_mut().zip(&next) {
            *value = if let Origin::Kept(i) = origin { before[*i] } else { 0.0 };
        }
        *positions = next.iter().map(|(at, _)| *at).collect();
        next.into_iter().map(|(_, origin)| origin).collect()
    }

    /// Up to `n` positions to grow, without those of `stay`, which are sorted.
    fn candidates(&self, slot: usize, stay: &[Position], n: usize) -> Vec<(Position, Known)> {
        match &self.statistics {
            Statistics::Gradients(all) => {
                let one = &all[slot];
                let mut free: Vec<&Candidate> = one.all.iter().filter(|c| stay.binary_search(&c.at).is_err()).collect();
                free.sort_unstable_by(|a, b| b.sum.abs().total_cmp(&a.sum.abs()).then(a.at.cmp(&b.at)));
                let samples = one.samples.max(1) as f32;
                let known = |c: &Candidate| Known {
                    mean: c.sum / samples,
                    square: c.squares / samples,
                    samples: one.samples,
                    corrected: self.corrected,
                };
                free.into_iter().take(n).map(|c| (c.at, known(c))).collect()
            }
            Statistics::Accumulators(all) => {
                all[slot].best(n, stay).into_iter().map(|at| (at, Known::default())).collect()
            }
        }
    }

    /// Steps, u64; then for each slot the samples, u32, and the candidates, u32 and four words each, or the accumulators.
    fn write(&self) -> Vec<u8> {
        let mut out = self.done.to_le_bytes().to_vec();
        match &self.statistics {
            Statistics::Gradients(all) => {
                for one in all {
                    out.extend([one.samples, one.all.len() as u32].iter().flat_map(|n| n.to_le_bytes()));
                    for c in &one.all {
                        let words = [c.at[0], c.at[1], c.sum.to_bits(), c.squares.to_bits()];
                        out.extend(words.iter().flat_map(|w| w.to_le_bytes()));
                    }
                }
            }
            Statistics::Accumulators(all) => {
                out.extend(all.iter().flat_map(|a| &a.0).flatten().flat_map(|v| v.to_le_bytes()));
            }
        }
        out
    }

    fn read(&mut self, shape: &Shape, bytes: &[u8]) -> Result<()> {
        let bad = || Error::corrupt("statistics for an exchange of another adapter", 0);
        let (done, rest) = bytes.split_first_chunk::<8>().ok_or_else(bad)?;
        let (words, []) = rest.as_chunks::<4>() else { return Err(bad()) };
        let mut words = words.iter().map(|w| u32::from_le_bytes(*w));
        let mut word = || words.next().ok_or_else(bad);
        let finite = |word: u32| Some(f32::from_bits(word)).filter(|v| v.is_finite()).ok_or_else(bad);
        let statistics = match &self.statistics {
            Statistics::Gradients(_) => {
                let mut all = Vec::new();
                for slot in &shape.slots {
                    let ([n_in, n_out], k) = (slot.shape, shape.parts[slot.parts.start].range.len());
                    let (samples, count) = (word()?, word()? as usize);
                    if count > k {
                        return Err(bad());
                    }
                    let mut one = Candidates { samples, all: Vec::new() };
                    for _ in 0..count {
                        let at = [word()?, word()?];
                        if at[0] as usize >= n_out || at[1] as usize >= n_in {
                            return Err(bad());
                        }
                        one.all.push(Candidate { at, sum: finite(word()?)?, squares: finite(word()?)? });
                    }
                    all.push(one);
                }
                Statistics::Gradients(all)
            }
            Statistics::Accumulators(_) => {
                let mut all: Vec<Accumulators> = shape.slots.iter().map(Accumulators::of).collect();
                for v in all.iter_mut().flat_map(|a| &mut a.0).flatten() {
                    *v = finite(word()?)?;
                }
                Statistics::Accumulators(all)
            }
        };
        if words.next().is_some() {
            return Err(bad());
        }
        (self.done, self.statistics) = (u64::from_le_bytes(*done), statistics);
        Ok(())
    }
}
