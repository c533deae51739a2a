//! Sizes of a new adapter for a file of so many bytes.

use super::compress::{self, BITS, DENSITY};
use super::file::{self, Provenance};
use super::{Base, Kind, Shape, Spec, Start};
use crate::container::codec::{Codec, Params, Whole};
use crate::error::{Error, Result};
use crate::knob::Domain;
use std::prelude::v1::*;

/// The least fraction of changed values that is worth a larger size.
const SPARSEST: f64 = 0.05;
/// What a head may take more than that of an adapter of the usual size.
const SLACK: usize = 16;

/// A specification like `spec` and a codec whose file, however the training ends, has at most `bytes` bytes and as many
/// values as fit. Without `codec` it is levels where all values start at zero; the others take the first of f16, q8, q4 and
/// ternary values that fits with the usual size, and then fewer changes or a smaller size.
///
/// # Errors
/// `Invalid` naming the least size if even the smallest has more, or if the kind has no size; those of [`Spec::layout`].
pub fn fit(spec: &Spec, codec: Option<compress::Spec>, base: &Base, bytes: usize) -> Result<(Spec, compress::Spec)> {
    let kind = Kind::by_name(&spec.kind)?;
    let around = overhead(spec, base)?;
    let room = bytes.saturating_sub(around);
    let shape = |spec: &Spec| (kind.shape)(spec, base);
    let too_small = |least: usize| {
        Error::invalid("bytes", format!("{bytes}; the smallest file of {} takes {}", kind.name, around + least))
    };
    let zero = kind.size.is_some() && shape(spec)?.parts.iter().all(|part| part.start == Start::Zero);
    let codec = codec.or_else(|| zero.then(|| compress::Spec::new("levels")));
    if let Some(codec) = codec {
        // Of values of few bits there are as many as fit. Other kinds gain little by more than the usual size.
        if codec.row()?.1.get(BITS.name).is_none() && most(&codec, &shape(spec)?)? <= room {
            return Ok((spec.clone(), codec));
        }
        let fits = |spec: &Spec| Ok(most(&codec, &shape(spec)?)? <= room);
        return match largest(spec, kind, fits)? {
            Some(spec) => Ok((spec, codec)),
            None => Err(too_small(most(&codec, &shape(&smallest(spec, kind)?)?)?)),
        };
    }
    for name in ["f16", "q8", "q4"] {
        let codec = compress::Spec::new(name);
        if most(&codec, &shape(spec)?)? <= room {
            return Ok((spec.clone(), codec));
        }
    }
    let ternary = |density: f64| compress::Spec::new("ternary").with(DENSITY.name, density);
    // The largest size of which a twentieth of the values can change, or else the smallest with as many as can.
    let fits = |spec: &Spec| Ok(most(&ternary(SPARSEST), &shape(spec)?)? <= room);
    let spec =
        if fits(spec)? { spec.clone() } else { largest(spec, kind, fits)?.map_or_else(|| smallest(spec, kind), Ok)? };
    let shape = shape(&spec)?;
    let (mut low, mut high) = (0.0, 0.5);
    for _ in 0..20 {
        let middle = 0.5 * (low + high);
        if most(&ternary(middle), &shape)? <= room { low = middle } else { high = middle }
    }
    // Digits that a person can repeat.
    let density = libm::floor(low * 1e5) / 1e5;
    match density > 0.0 {
        true => Ok((spec, ternary(density))),
        false => Err(too_small(most(&ternary(1e-3), &shape)?)),
    }
}

/// The specification with the largest size that fits, of kinds that have one.
fn largest(spec: &Spec, kind: &Kind, fits: impl Fn(&Spec) -> Result<bool>) -> Result<Option<Spec>> {
    let Some(knob) = kind.size else {
        let why = format!("{} has no size to choose; mynah pack --max-bytes makes its file smaller", kind.name);
        return Err(Error::invalid("bytes", why));
    };
    let Domain::Whole { low, high } = knob.domain else { return Ok(None) };
    let with = |n: u64| spec.clone().with(knob.name, n);
    // Some sizes are too large for the model.
    let fits = |n: u64| fits(&with(n)).unwrap_or(false);
    if !fits(low) {
        return Ok(None);
    }
    let (mut low, mut high) = (low, high + 1);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if fits(middle) { low = middle } else { high = middle }
    }
    Ok(Some(with(low)))
}

fn smallest(spec: &Spec, kind: &Kind) -> Result<Spec> {
    Ok(match kind.size.map(|knob| (knob.name, &knob.domain)) {
        Some((name, Domain::Whole { low, .. })) => spec.clone().with(name, *low),
        _ => spec.clone(),
    })
}

/// Bytes of a file beside its values, at most.
fn overhead(spec: &Spec, base: &Base) -> Result<usize> {
    let adapter = super::create(spec, base)?;
    let origin = Provenance {
        // As long as any name of an objective.
        objective: "?".repeat(24),
        data: "0".repeat(64),
        steps: u64::MAX,
        first_loss: Some(1.1),
        last_loss: Some(1.1),
        rope: "short".into(),
        base: base.name.clone(),
        format: base.format.clone(),
    };
    let values = file::with_params(&*adapter, |params| Codec::by_name("f16")?.encode(adapter.params(), params))?;
    let file = file::to_bytes_as(&*adapter, base, &origin, "f16")?;
    Ok(file.len() - values.len() + SLACK)
}

/// Bytes of the values of this shape, at most.
fn most(codec: &compress::Spec, shape: &Shape) -> Result<usize> {
    let (kind, values) = codec.row()?;
    let parts: Vec<Whole> =
        shape.parts.iter().map(|p| Whole { name: p.name, cols: p.cols, len: p.range.len() }).collect();
    let params = Params { parts: &parts, start: &|_, _| {} };
    Ok((kind.most)(&params, &values))
}
