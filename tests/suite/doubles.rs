//! Every kind of adapter in double precision, written plainly from the definition on its page: it knows where the kind's
//! parts lie, and shares none of the library's loops.

use crate::twin::{Change, Seen};
use mynah::adapter::{self, Adapter, Base, Kind, Place, Shape, Spec, nola};
use mynah::model::Model;
use mynah::role::Role;
use std::rc::Rc;

/// What a kind does: from parameters to a change of rows. Derivatives are taken at the first parameters that it is called
/// with: what a kind holds fixed in the backward pass stays as it is there.
pub type Does = Box<dyn Fn(&[f64]) -> Box<Change<'static>>>;
type Double = fn(&Spec, &Base, &Model) -> Does;

/// The twin of every kind.
const DOUBLES: &[(&str, Double)] = &[("lora", lora), ("nola", nola), ("ia3", ia3)];

pub fn double(kind: &str) -> Double {
    let found = DOUBLES.iter().find(|(name, _)| *name == kind);
    found.unwrap_or_else(|| panic!("{kind} has no twin in double precision")).1
}

/// `y += s·B·A·x` for factors in one piece.
fn low_rank(layout: adapter::lowrank::Layout, factors: Vec<f64>) -> Box<Change<'static>> {
    Box::new(move |seen: Seen| {
        let Place::Site(site) = seen.place else { return };
        let Some(slot) = layout.slot(site) else { return };
        let [cols, rows] = slot.shape;
        let (a, b) = (&factors[slot.a()], &factors[slot.b()]);
        for (x, y) in seen.x.iter().zip(seen.y) {
            for r in 0..slot.rank {
                let u: f64 = (0..cols).map(|i| a[r * cols + i] * x[i]).sum::<f64>() * f64::from(slot.factor);
                (0..rows).for_each(|o| y[o] += u * b[r * rows + o]);
            }
        }
    })
}

fn lora(spec: &Spec, base: &Base, _: &Model) -> Does {
    let layout = spec.layout(base).unwrap();
    Box::new(move |params| low_rank(layout.clone(), params.to_vec()))
}

/// Factors are affine in the coefficients, so that a unit step gives their derivative.
fn nola(spec: &Spec, base: &Base, model: &Model) -> Does {
    let mut nola = nola::Nola::create(spec, base).unwrap();
    let layout = nola.layout().clone();
    let mut at = |unit: Option<usize>| -> Vec<f64> {
        nola.params_mut().iter_mut().enumerate().for_each(|(i, v)| *v = f32::from(u8::from(Some(i) == unit)));
        nola.prepare(&model.compute, model).unwrap();
        nola.factors().iter().map(|v| f64::from(*v)).collect()
    };
    let start = at(None);
    let n = adapter::create(spec, base).unwrap().params().len();
    let bases: Vec<Vec<f64>> =
        (0..n).map(|i| at(Some(i)).iter().zip(&start).map(|(there, here)| there - here).collect()).collect();
    Box::new(move |params| {
        let mut factors = start.clone();
        for (p, basis) in params.iter().zip(&bases) {
            factors.iter_mut().zip(basis).for_each(|(f, b)| *f += p * b);
        }
        low_rank(layout.clone(), factors)
    })
}

fn shape(spec: &Spec, base: &Base) -> Shape {
    (Kind::by_name(&spec.kind).unwrap().shape)(spec, base).unwrap()
}

/// The parts of a slot.
fn parts<'a>(shape: &Shape, slot: usize, params: &'a [f64]) -> Vec<&'a [f64]> {
    shape.parts[shape.slots[slot].parts.clone()].iter().map(|part| &params[part.range.clone()]).collect()
}

/// A kind that does `act` at each of its places, with its parts there.
fn acting(spec: &Spec, base: &Base, act: impl Fn(&[&[f64]], Seen) + 'static) -> Does {
    let shared = Rc::new((shape(spec, base), act));
    Box::new(move |params| {
        let (shared, params) = (Rc::clone(&shared), params.to_vec());
        Box::new(move |seen| {
            let (shape, act) = &*shared;
            if let Some(slot) = shape.slot(seen.place) {
                act(&parts(shape, slot, &params), seen);
            }
        })
    })
}

/// `y ← l ∘ y`: of keys and values, and of what the products back into the stream are given.
fn ia3(spec: &Spec, base: &Base, _: &Model) -> Does {
    acting(spec, base, |own, seen| {
        match seen.place {
            Place::Input(site) => assert!([Role::O, Role::Down].contains(&site.role)),
            place => assert!(matches!(place, Place::Site(site) if ![Role::O, Role::Down].contains(&site.role))),
        }
        for y in seen.y {
            y.iter_mut().zip(own[0]).for_each(|(y, l)| *y *= l);
        }
    })
}
