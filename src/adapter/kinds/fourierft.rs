//! FourierFT (arXiv:2405.03003): the change is the real part of a spectrum of few trained coefficients, transformed back.
//! The strength multiplies `ΔW`.
//!
//! ```text
//! ΔW = s·Re(ifft2(F)),  F [out, in] zero but for k coefficients cₗ at (pₗ, qₗ)
//! ΔW[o, i] = s / (out·in)·Σ cₗ·(cos(2π pₗ·o/out)·cos(2π qₗ·i/in) − sin(2π pₗ·o/out)·sin(2π qₗ·i/in))
//! ```
//!
//! So it is a low-rank change of rank `2k` whose factors are waves that never change, and `∂L/∂cₗ` follows from the two
//! products that the passes need anyway. A step takes about the time of one with LoRA of rank `k`: each pass multiplies by
//! waves twice, and no gradient of a factor is formed. Positions follow from the
//! seed and from the shape of a matrix, as in the paper: all matrices of one shape share them, and their waves in memory,
//! `2k·(in + out)` values a shape. Coefficients start at zero. Authors and PEFT take 1000 coefficients; fewer take less time.

use crate::adapter::direct::{self, Direct, Own, Plan, Rule};
use crate::adapter::lowrank::{add_products, products};
use crate::adapter::small::FACTOR;
use crate::adapter::{At, Frozen, Into, Kind, Needs, NewPart, Place, Seen, Shape, Start};
use crate::error::{Error, Result};
use crate::kernel::{Buffer, Compute, Tile, View};
use crate::knob::{Domain, Knob, Setting};
use crate::rng::Random;
use crate::role::{Role, TensorKind};
use core::ops::Range;
use std::collections::BTreeSet;
use std::prelude::v1::*;

/// Coefficients of each matrix.
pub static WAVES: Knob = Knob {
    name: "waves",
    about: "Coefficients of the spectrum of each matrix",
    metavar: "K",
    domain: Domain::Whole { low: 1, high: 4096 },
};

/// Its row.
pub static KIND: Kind = Kind {
    name: "fourierft",
    about: "a few coefficients of a spectrum for each matrix; small files",
    rate: 2e-2,
    knobs: &[Setting::whole(&WAVES, 32), Setting::real(&FACTOR, 300.0)],
    targets: &Role::LINEAR,
    shape: |spec, base| direct::shape(spec, base, &PLAN),
    create: |spec, base| Direct::create(spec, base, &PLAN, Spectrum::default()),
    read: |stored| Direct::read(stored, &PLAN, Spectrum::default()),
    sections: &[],
    grown: &[],
    codec: None,
    size: Some(&WAVES),
};

static PLAN: Plan = Plan {
    kind: &KIND,
    places: |spec, _, base| Ok(spec.sites(base)?.into_iter().map(Place::Site).collect()),
    stands: |place| matches!(place, Place::Site(site) if site.role.row().kind == TensorKind::Matrix),
    shape: |places, values, _| {
        let k = values.whole(WAVES.name) as usize;
        if let Some((place, [n_in, n_out])) = places.iter().find(|(_, [n_in, n_out])| n_in * n_out < k) {
            return Err(Error::invalid("waves", format!("{k} for {place}; it has {} positions", n_in * n_out)));
        }
        let needs = Needs { input: true, ..Needs::default() };
        let mut shape = Shape::build(places, |_| needs, |_, _| vec![NewPart::new("c", 1, k, Start::Zero)]);
        let shapes: BTreeSet<[usize; 2]> = shape.slots.iter().map(|slot| slot.shape).collect();
        shape.size.derived = shapes.iter().map(|[n_in, n_out]| 2 * k * (n_in + n_out)).sum();
        shape.size.row = 4 * k;
        Ok(shape)
    },
};

/// A position `[row, column]` of the spectrum.
pub type Position = [usize; 2];

/// The positions of the coefficients of a matrix of this shape `[in, out]`, in the order of the coefficients: drawn from the
/// seed, each at most once.
pub fn positions(seed: u64, [n_in, n_out]: [usize; 2], k: usize) -> Vec<Position> {
    let mut random = Random::new(seed, &format!("{n_out} × {n_in}"), "fourierft");
    let mut seen = BTreeSet::new();
    let mut out = Vec::with_capacity(k);
    while out.len() < k.min(n_in * n_out) {
        let at = random.below((n_in * n_out) as u64) as usize;
        if seen.insert(at) {
            out.push([at / n_in, at % n_in]);
        }
    }
    out
}

/// A new adapter with the positions of another program. A file would not hold them.
///
/// # Errors
/// Those of [`Kind::create`].
#[cfg(feature = "internals")]
pub fn with_positions(
    spec: &crate::adapter::Spec,
    base: &crate::adapter::Base,
    positions: fn([usize; 2]) -> Vec<Position>,
) -> Result<Box<dyn crate::adapter::Adapter>> {
    Direct::create(spec, base, &PLAN, Spectrum { positions: Some(positions), ..Spectrum::default() })
}

/// The waves of the coefficients of all matrices of one shape: a cosine and a sine each, of inputs `[2k, in]` and of outputs
/// `[2k, out]`, there with the sine negated.
struct Waves {
    shape: [usize; 2],
    of_inputs: Vec<f32>,
    of_outputs: Vec<f32>,
}

/// Row `2l` is `cos(2π f·i / width)` and row `2l + 1` is `sign·sin(2π f·i / width)`.
fn waves(frequencies: impl Iterator<Item = usize>, width: usize, sign: f32) -> Vec<f32> {
    let angle = |i: usize| 2.0 * core::f64::consts::PI * i as f64 / width as f64;
    let table = |f: fn(f64) -> f64| (0..width).map(|i| f(angle(i)) as f32).collect::<Vec<f32>>();
    let (cos, sin) = (table(libm::cos), table(libm::sin));
    let mut out = Vec::new();
    for f in frequencies {
        let turns = || (0..width).map(|i| (f as u64 * i as u64 % width as u64) as usize);
        out.extend(turns().map(|i| cos[i]));
        out.extend(turns().map(|i| sign * sin[i]));
    }
    out
}

#[derive(Default)]
struct Spectrum {
    waves: Vec<Waves>,
    positions: Option<fn([usize; 2]) -> Vec<Position>>,
}

/// What the passes need at a slot.
struct Here<'a> {
    c: &'a [f32],
    a: View<'a>,
    b: View<'a>,
    s: f32,
}

impl Spectrum {
    fn here<'a>(&'a self, own: &'a Own, at: &At) -> Here<'a> {
        let shape = own.shape.slots[at.slot].shape;
        let waves = self.waves.iter().find(|w| w.shape == shape).expect("the adapter was prepared");
        let c = own.part(at.slot, 0);
        let scale = own.values.real(FACTOR.name) / (shape[0] as f64 * shape[1] as f64);
        let (a, b) =
            (View::new(&waves.of_inputs, 2 * c.len(), shape[0]), View::new(&waves.of_outputs, 2 * c.len(), shape[1]));
        Here { c, a, b, s: scale as f32 * at.strength }
    }
}

/// Each coefficient multiplies its cosine and its sine.
fn weigh(c: &[f32], u: &mut [f32]) {
    for u in u.chunks_exact_mut(2 * c.len()) {
        u.chunks_exact_mut(2).zip(c).for_each(|(u, c)| u.iter_mut().for_each(|u| *u *= c));
    }
}

impl Rule for Spectrum {
    fn prepare(&mut self, own: &Own, _cx: &Compute, _frozen: &dyn Frozen) -> Result<()> {
        let k = own.values.whole(WAVES.name) as usize;
        for slot in &own.shape.slots {
            let shape = slot.shape;
            if self.waves.iter().any(|waves| waves.shape == shape) {
                continue;
            }
            let at = self.positions.map_or_else(|| positions(own.seed, shape, k), |given| given(shape));
            let of_inputs = waves(at.iter().map(|[_, q]| *q), shape[0], 1.0);
            let of_outputs = waves(at.iter().map(|[p, _]| *p), shape[1], -1.0);
            self.waves.push(Waves { shape, of_inputs, of_outputs });
        }
        Ok(())
    }

    fn forward(&self, own: &Own, at: &At, x: View, y: &mut Tile, scratch: &mut Buffer) {
        let Here { c, a, b, s } = self.here(own, at);
        let u = scratch.room(x.n * a.n);
        products(at.cx, x, a, s, u);
        weigh(c, u);
        add_products(at.cx, View::new(u, x.n, a.n), b, y);
    }

    /// With `U = s·x·Aᵀ` and `V = dy·Bᵀ`: `dc += Σ U ∘ V`, over the rows and the two waves, and `dx += s·(V ∘ c)·A`.
    fn backward(&self, own: &Own, at: &At, seen: &Seen, dy: &mut [f32], into: Into, scratch: &mut Buffer) {
        let (Here { c, a, b, s }, x) = (self.here(own, at), seen.x);
        let (u, v) = scratch.room(2 * x.n * a.n).split_at_mut(x.n * a.n);
        products(at.cx, View::new(dy, x.n, b.c), b, s, v);
        if let Some(acc) = into.acc {
            products(at.cx, x, a, 1.0, u);
            let g = &mut acc[own.range(at.slot, 0)];
            for (u, v) in u.chunks_exact(a.n).zip(v.chunks_exact(a.n)) {
                let pairs = u.chunks_exact(2).zip(v.chunks_exact(2));
                g.iter_mut().zip(pairs).for_each(|(g, (u, v))| *g += u[0] * v[0] + u[1] * v[1]);
            }
        }
        if let Some(dx) = into.dx {
            weigh(c, v);
            add_products(at.cx, View::new(v, x.n, a.n), a, dx);
        }
    }

    fn bakes(&self, place: Place) -> bool {
        matches!(place, Place::Site(_))
    }

    fn bake(&self, own: &Own, at: &At, rows: Range<usize>, w: &mut Tile) {
        let Here { c, a, b, s } = self.here(own, at);
        let mut u = vec![0.0; rows.len() * a.n];
        for (u, j) in u.chunks_exact_mut(a.n).zip(rows) {
            u.iter_mut().enumerate().for_each(|(r, u)| *u = s * b.row(r)[j]);
        }
        weigh(c, &mut u);
        (at.cx.kernels.sums)(View::new(&u, w.n(), a.n), a, w);
    }
}
