//! LoKr (arXiv:2309.14859): the change is the Kronecker product of a small matrix and a low-rank one. The strength
//! multiplies `ΔW`.
//!
//! ```text
//! ΔW = s·W1 ⊗ (W2a·W2b)     W1 [n1, m1], W2a [n2, r] stored transposed, W2b [r, m2];  n1·n2 = out, m1·m2 = in, s = alpha / r
//! X, Y: a row of inputs as [m1, m2], of outputs as [n1, n2]
//! Y += s·W1·(X·W2bᵀ)·W2aᵀ
//! ```
//!
//! `n1` and `m1` are the largest divisors of the widths that are no larger than their roots. So a layer costs about as much
//! time as with LoRA of rank `r`, and has the numbers of two small layers. W1 starts at zero, W2a uniform in ±1/√r and W2b
//! in ±1/√m2.

use crate::adapter::direct::{self, Direct, Own, Plan, Rule};
use crate::adapter::lowrank::kaiming;
use crate::adapter::spec::{ALPHA, RANK, USUAL_ALPHA, USUAL_RANK};
use crate::adapter::{At, Into, Kind, Needs, NewPart, Place, Seen, Shape, Start};
use crate::bytes::Limits;
use crate::kernel::{Buffer, Tile, View};
use crate::knob::{Setting, Values};
use crate::rng::Stream;
use crate::role::{Role, TensorKind};
use core::ops::Range;
use std::prelude::v1::*;

/// Its settings.
static KNOBS: [Setting; 2] = [USUAL_RANK, USUAL_ALPHA];

/// Its row.
pub static KIND: Kind = Kind {
    name: "lokr",
    about: "Kronecker products of a small matrix and a low-rank one; smaller files than lora",
    rate: 2e-3,
    knobs: &KNOBS,
    targets: &Role::LINEAR,
    shape: |spec, base| direct::shape(spec, base, &PLAN),
    create: |spec, base| Direct::create(spec, base, &PLAN, Kronecker),
    read: |stored| {
        let values = Values::read(KIND.name, KIND.knobs, stored.head)?;
        Limits::check("rank", values.whole(RANK.name), stored.limits.rank)?;
        Direct::read(stored, &PLAN, Kronecker)
    },
    sections: &[],
    grown: &[],
    codec: None,
    size: Some(&RANK),
};

static PLAN: Plan = Plan {
    kind: &KIND,
    places: |spec, _, base| Ok(spec.sites(base)?.into_iter().map(Place::Site).collect()),
    stands: |place| matches!(place, Place::Site(site) if site.role.row().kind == TensorKind::Matrix),
    shape: |places, values, _| {
        let r = values.whole(RANK.name) as usize;
        let needs = Needs { input: true, ..Needs::default() };
        let mut shape = Shape::build(
            places,
            |_| needs,
            |_, widths| {
                let [[m1, m2], [n1, n2]] = widths.map(halves);
                vec![
                    NewPart::new("w1", n1, m1, Start::Zero),
                    NewPart::new("w2a", r, n2, Start::Given),
                    NewPart::new("w2b", r, m2, Start::Given),
                ]
            },
        );
        for slot in &shape.slots {
            let [[m1, _], [n1, _]] = slot.shape.map(halves);
            shape.size.scratch = shape.size.scratch.max(m1 * n1);
            shape.size.row = shape.size.row.max(2 * r * (m1 + n1));
        }
        Ok(shape)
    },
};

/// Two factors of a width, the first the largest that is no larger than its root.
fn halves(width: usize) -> [usize; 2] {
    let first = (1..=width.isqrt()).rev().find(|d| width.is_multiple_of(*d)).unwrap_or(1);
    [first, width / first]
}

/// Rows of a part.
const ROWS: usize = 16;
/// Columns of a part.
const COLUMNS: usize = 64;

struct Kronecker;

/// The three matrices at a slot.
struct Parts<'a> {
    w1: View<'a>,
    w2a: View<'a>,
    w2b: View<'a>,
    r: usize,
    s: f32,
}

impl<'a> Parts<'a> {
    fn new(own: &'a Own, at: &At) -> Parts<'a> {
        let r = own.values.whole(RANK.name) as usize;
        let [[m1, m2], [n1, n2]] = own.shape.slots[at.slot].shape.map(halves);
        let part = |i, n, c| View::new(own.part(at.slot, i), n, c);
        let s = own.values.real(ALPHA.name) as f32 / r as f32 * at.strength;
        Parts { w1: part(0, n1, m1), w2a: part(1, r, n2), w2b: part(2, r, m2), r, s }
    }

    fn up(&self, at: &At, x: View, u: &mut [f32], v: &mut [f32]) {
        let Parts { w1, w2b, r, s, .. } = *self;
        let (n1, m1, m2) = (w1.n, w1.c, w2b.c);
        let tiles = [Tile::new(u, x.n, m1 * r), Tile::new(v, x.n, n1 * r)];
        at.cx.pool.rows(tiles, [ROWS; 2], &|part, [mut u, mut v], _| {
            for i in 0..u.n() {
                let u = u.row(i);
                (at.cx.kernels.dots)(View::new(x.row(part * ROWS + i), m1, m2), w2b, &mut Tile::new(u, m1, r));
                let v = v.row(i);
                v.fill(0.0);
                (at.cx.kernels.sums)(w1, View::new(u, m1, r), &mut Tile::new(v, n1, r));
                v.iter_mut().for_each(|v| *v *= s);
            }
        });
    }
}

impl Rule for Kronecker {
    fn forward(&self, own: &Own, at: &At, x: View, y: &mut Tile, scratch: &mut Buffer) {
        let parts = Parts::new(own, at);
        let Parts { w1, w2a, r, .. } = parts;
        let (u, v) = scratch.room(x.n * r * (w1.c + w1.n)).split_at_mut(x.n * r * w1.c);
        parts.up(at, x, u, v);
        let v = View::new(v, x.n, w1.n * r);
        let c = y.c();
        at.cx.pool.rows([y.part(0..x.n, 0..c)], [ROWS], &|part, [mut y], _| {
            for i in 0..y.n() {
                let v = View::new(v.row(part * ROWS + i), w1.n, r);
                (at.cx.kernels.sums)(v, w2a, &mut Tile::new(y.row(i), w1.n, w2a.c));
            }
        });
    }

    /// With `U = X·W2bᵀ`, `V = s·W1·U`, `dV = s·dY·W2a` and `dU = W1ᵀ·dV`: `dW1 += dV·Uᵀ`, `dW2aᵀ += Vᵀ·dY`,
    /// `dW2b += dUᵀ·X`, `dX += dU·W2b`.
    fn backward(&self, own: &Own, at: &At, seen: &Seen, dy: &mut [f32], into: Into, scratch: &mut Buffer) {
        let (x, cx, parts) = (seen.x, at.cx, Parts::new(own, at));
        let Parts { w1, w2a, w2b, r, s } = parts;
        let (n, n1, m1, n2, m2) = (x.n, w1.n, w1.c, w2a.c, w2b.c);
        let dy = View::new(dy, n, n1 * n2);
        let (forward, back) = scratch.room(2 * n * r * (m1 + n1)).split_at_mut(n * r * (m1 + n1));
        let ((u, v), (du, dv)) = (forward.split_at_mut(n * r * m1), back.split_at_mut(n * r * m1));
        cx.pool.rows([Tile::new(du, n, m1 * r), Tile::new(dv, n, n1 * r)], [ROWS; 2], &|part, [mut du, mut dv], _| {
            for i in 0..du.n() {
                let dv = dv.row(i);
                let dy = View::new(dy.row(part * ROWS + i), n1, n2);
                (cx.kernels.dots)(dy, w2a, &mut Tile::new(dv, n1, r));
                dv.iter_mut().for_each(|v| *v *= s);
                let du = du.row(i);
                du.fill(0.0);
                (cx.kernels.outer)(w1, View::new(dv, n1, r), &mut Tile::new(du, m1, r));
            }
        });
        let (du, dv) = (View::new(du, n, m1 * r), View::new(dv, n, n1 * r));
        if let Some(acc) = into.acc {
            parts.up(at, x, u, v);
            let (u, v) = (View::new(u, n, m1 * r), View::new(v, n, n1 * r));
            let d1 = Tile::new(&mut acc[own.range(at.slot, 0)], n1, m1);
            cx.pool.rows([d1], [ROWS], &|part, [mut d1], scratch| {
                let rows = part * ROWS..part * ROWS + d1.n();
                let one = scratch.floats(d1.n() * m1);
                for i in 0..n {
                    let dv = View::new(dv.row(i), n1, r).rows(rows.clone());
                    (cx.kernels.dots)(dv, View::new(u.row(i), m1, r), &mut Tile::new(one, d1.n(), m1));
                    for (k, one) in one.chunks_exact(m1).enumerate() {
                        d1.row(k).iter_mut().zip(one).for_each(|(d, one)| *d += one);
                    }
                }
            });
            // The outer products of `[k, r]` and `[k, width]` of every row, added.
            let outer = |small: View, wide: View, k: usize, width: usize, g: &mut [f32]| {
                cx.pool.columns([Tile::new(g, r, width)], [COLUMNS], &|part, [mut g], _| {
                    let cols = part * COLUMNS..part * COLUMNS + g.c();
                    for i in 0..n {
                        let wide = View::new(wide.row(i), k, width).cols(cols.clone());
                        (cx.kernels.outer)(View::new(small.row(i), k, r), wide, &mut g);
                    }
                });
            };
            outer(v, dy, n1, n2, &mut acc[own.range(at.slot, 1)]);
            outer(du, x, m1, m2, &mut acc[own.range(at.slot, 2)]);
        }
        if let Some(dx) = into.dx {
            cx.pool.rows([dx.part(0..n, 0..m1 * m2)], [ROWS], &|part, [mut dx], _| {
                for i in 0..dx.n() {
                    let du = View::new(du.row(part * ROWS + i), m1, r);
                    (cx.kernels.sums)(du, w2b, &mut Tile::new(dx.row(i), m1, m2));
                }
            });
        }
    }

    fn bakes(&self, place: Place) -> bool {
        matches!(place, Place::Site(_))
    }

    fn bake(&self, own: &Own, at: &At, rows: Range<usize>, w: &mut Tile) {
        let Parts { w1, w2a, w2b, r, s } = Parts::new(own, at);
        let mut row = vec![0.0; w2b.c];
        for (k, o) in rows.enumerate() {
            let weights: Vec<f32> = (0..r).map(|i| s * w2a.row(i)[o % w2a.c]).collect();
            row.fill(0.0);
            (at.cx.kernels.sums)(View::new(&weights, 1, r), w2b, &mut Tile::new(&mut row, 1, w2b.c));
            for (w, w1) in w.row(k).chunks_exact_mut(w2b.c).zip(w1.row(o / w2a.c)) {
                w.iter_mut().zip(&row).for_each(|(w, v)| *w += w1 * v);
            }
        }
    }

    fn start(&self, own: &Own, part: usize, out: &mut [f32]) {
        let (place, which) = own.slot_of(part);
        let (role, bound) = match which {
            0 => return out.fill(0.0),
            1 => ("lokr_w2a", kaiming(own.values.whole(RANK.name) as usize)),
            _ => ("lokr_w2b", kaiming(own.shape.parts[part].cols)),
        };
        Stream::new(own.seed, &place.to_string(), role).fill_uniform(0, out);
        out.iter_mut().for_each(|v| *v *= bound);
    }

    fn changes_something(&self, own: &Own) -> bool {
        let any = |slot, i| own.part(slot, i).iter().any(|v: &f32| *v != 0.0);
        (0..own.shape.slots.len()).any(|slot| (0..3).all(|i| any(slot, i)))
    }
}
