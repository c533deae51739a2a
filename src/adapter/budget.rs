//! Kind and sizes of a new adapter for a file of so many bytes.

use super::compress::{self, BITS, DENSITY};
use super::file::{self, Provenance};
use super::kinds::FOR_SIZE;
use super::{Adapter, Base, Kind, Shape, Spec, Start};
use crate::container::codec::{Codec, Params, Whole};
use crate::error::{Error, Result};
use crate::knob::{Domain, Values};
use crate::role::Role;
use core::ops::RangeInclusive;
use std::prelude::v1::*;

/// What a head may take more than that of an adapter of the usual size.
const SLACK: usize = 16;

/// A way to fill a file: [`FOR_SIZE`].
pub struct Recipe {
    /// The kind.
    pub kind: &'static Kind,
    /// The linear layers.
    pub targets: &'static [Role],
    /// Sizes that it is good for.
    pub sizes: RangeInclusive<u64>,
    /// Its codec, and the bits of a value if that can have different ones; otherwise the first of f16, q8 and q4 that fits.
    pub codec: Option<(&'static str, u64)>,
    /// Why it is taken where the rows before it do not fit.
    pub why: &'static str,
}

/// Codecs for values of all sizes, from the most bits on.
const PLAIN: [&str; 3] = ["f16", "q8", "q4"];

impl Recipe {
    fn codecs(&self) -> Vec<compress::Spec> {
        match self.codec {
            Some((name, bits)) => vec![compress::Spec::new(name).with(BITS.name, bits)],
            None => PLAIN.map(compress::Spec::new).into(),
        }
    }
}

/// A specification like `spec` and a codec whose file, however the training ends, has at most `bytes` bytes and as many
/// values as fit. Of the kind [`Spec::AUTO`] it is the first row of [`FOR_SIZE`] that fits and whose training `affords` too,
/// with the targets of `spec` if it has any; if none is afforded, the first that fits. Without `codec` it is levels where all values start at zero; the others take the first of f16, q8 and q4 that
/// fits with the usual size, or q4 with a smaller one, or at last the smallest size with few changes.
///
/// # Errors
/// `Invalid` naming the least size if even the smallest has more, or if the kind has no size; those of [`Spec::layout`].
pub fn fit(
    spec: &Spec,
    codec: Option<compress::Spec>,
    base: &Base,
    bytes: usize,
    affords: &dyn Fn(&Spec) -> bool,
) -> Result<(Spec, compress::Spec)> {
    if spec.kind != Spec::AUTO {
        return fit_kind(spec, codec, base, bytes);
    }
    let mut refused = Error::unsupported("adapter kind", Spec::AUTO);
    let mut first = None;
    // Levels are for kinds whose values start at zero, which have them in their rows.
    let levels = codec.as_ref().is_some_and(few);
    for recipe in FOR_SIZE.iter().filter(|row| row.codec.is_some() || !levels) {
        let targets = if spec.targets.is_empty() { recipe.targets.to_vec() } else { spec.targets.clone() };
        let spec = Spec { kind: recipe.kind.name.into(), targets, ..spec.clone() };
        let codecs = codec.clone().map_or_else(|| recipe.codecs(), |codec| vec![codec]);
        // What a model lacks, or a setting that a kind does not have, rules out that row alone.
        match Room::new(&spec, base, bytes).and_then(|room| room.fill(&codecs, recipe.sizes.clone())) {
            Ok(Some(found)) if affords(&found.0) => return Ok(found),
            Ok(Some(found)) => first = first.or(Some(found)),
            Ok(None) => refused = too_small(&spec, &codecs, base, bytes)?,
            Err(error) => refused = error,
        }
    }
    first.ok_or(refused)
}

fn fit_kind(spec: &Spec, codec: Option<compress::Spec>, base: &Base, bytes: usize) -> Result<(Spec, compress::Spec)> {
    let room = Room::new(spec, base, bytes)?;
    let kind = room.kind;
    let zero = kind.size.is_some() && (kind.shape)(spec, base)?.parts.iter().all(|part| part.start == Start::Zero);
    let row = FOR_SIZE.iter().find(|row| row.kind.name == kind.name && row.codec.is_some());
    let mut codecs = match (&codec, row) {
        (Some(codec), _) => vec![codec.clone()],
        (None, Some(row)) => row.codecs(),
        (None, None) if zero => vec![compress::Spec::new("levels")],
        (None, None) => PLAIN.map(compress::Spec::new).into(),
    };
    let (low, high) = match kind.size.map(|knob| &knob.domain) {
        Some(Domain::Whole { low, high }) => (*low, *high),
        _ => (1, 1),
    };
    // Of values of few bits there are as many as fit. Other kinds gain little by more than the usual size.
    let few = codecs.iter().any(few);
    let usual = kind.size.map_or(1, |knob| spec.values().map_or(low, |values| values.whole(knob.name)));
    if let Some(found) = room.fill(&codecs, low..=if few { high } else { usual })? {
        return Ok(found);
    }
    if kind.size.is_none() && codec.is_some() {
        let why = format!("{} has no size to choose; mynah pack --max-bytes makes its file smaller", kind.name);
        return Err(Error::invalid("bytes", why));
    }
    if codec.is_none() && !few {
        if let Some(found) = room.changes(low)? {
            return Ok(found);
        }
        codecs.push(ternary(1e-3));
    }
    Err(too_small(spec, &codecs, base, bytes)?)
}

/// Bytes of a file with that codec, at most: how few they are follows from what is learnt, of some codecs.
///
/// # Errors
/// Those of [`Spec::layout`] and of the codec.
pub fn bytes(spec: &Spec, codec: &compress::Spec, base: &Base) -> Result<usize> {
    let room = Room::new(spec, base, 0)?;
    Ok(room.overhead + most(codec, &room.shape(spec)?)?)
}

/// Whether the bits of its values can be set.
fn few(codec: &compress::Spec) -> bool {
    codec.row().is_ok_and(|(_, values)| values.get(BITS.name).is_some())
}

fn ternary(density: f64) -> compress::Spec {
    compress::Spec::new("ternary").with(DENSITY.name, density)
}

/// Even the smallest file takes more.
fn too_small(spec: &Spec, codecs: &[compress::Spec], base: &Base, bytes: usize) -> Result<Error> {
    let room = Room::new(spec, base, bytes)?;
    let low = match room.kind.size.map(|knob| &knob.domain) {
        Some(Domain::Whole { low, .. }) => *low,
        _ => 1,
    };
    let shape = room.shape(&room.with(low))?;
    let sizes = codecs.iter().map(|codec| most(codec, &shape)).collect::<Result<Vec<_>>>()?;
    let least = room.overhead + sizes.into_iter().min().unwrap_or(0);
    Ok(Error::invalid("bytes", format!("{bytes}; the smallest file of {} takes {least}", room.kind.name)))
}

/// A file of a size to be filled with values.
struct Room<'a> {
    spec: &'a Spec,
    kind: &'static Kind,
    /// The kind that the file holds, which may be another: [`super::Adapter::outcome`].
    held: &'static Kind,
    base: &'a Base,
    /// Bytes beside the values, at most.
    overhead: usize,
    /// Bytes for the values.
    bytes: usize,
}

impl<'a> Room<'a> {
    fn new(spec: &'a Spec, base: &'a Base, bytes: usize) -> Result<Self> {
        let kind = Kind::by_name(&spec.kind)?;
        let trained = super::create(spec, base)?;
        let adapter = trained.outcome().unwrap_or(&*trained);
        let (held, overhead) = (adapter.kind(), overhead(adapter, base)?);
        Ok(Room { spec, kind, held, base, overhead, bytes: bytes.saturating_sub(overhead) })
    }

    /// The description of what the file holds for a specification.
    fn shape(&self, spec: &Spec) -> Result<Shape> {
        let mut held = Spec { kind: self.held.name.into(), values: Values::new(), ..spec.clone() };
        for (name, value) in spec.values.iter().filter(|(name, _)| self.held.knobs.iter().any(|s| s.knob.name == *name))
        {
            held.values.set(name, value.clone());
        }
        // What the kind itself cannot be is refused.
        (self.kind.shape)(spec, self.base)?;
        (self.held.shape)(&held, self.base)
    }

    /// The specification of a size; the given one of kinds without sizes.
    fn with(&self, size: u64) -> Spec {
        match self.kind.size {
            Some(knob) => self.spec.clone().with(knob.name, size),
            None => self.spec.clone(),
        }
    }

    fn fits(&self, size: u64, codec: &compress::Spec) -> Result<bool> {
        Ok(most(codec, &self.shape(&self.with(size))?)? <= self.bytes)
    }

    /// The first codec that fits with the largest size, or else the last one with the largest size that fits.
    fn fill(&self, codecs: &[compress::Spec], sizes: RangeInclusive<u64>) -> Result<Option<(Spec, compress::Spec)>> {
        let (mut low, mut high) = (*sizes.start(), *sizes.end());
        // Some sizes are too large for the model; the smallest of all tells what else is wrong.
        (self.kind.shape)(&self.with(low), self.base)?;
        for codec in codecs {
            codec.row()?;
            if self.fits(high, codec).unwrap_or(false) {
                return Ok(Some((self.with(high), codec.clone())));
            }
        }
        let Some(codec) = codecs.last().filter(|codec| self.fits(low, codec).unwrap_or(false)) else { return Ok(None) };
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.fits(middle, codec).unwrap_or(false) { low = middle } else { high = middle }
        }
        Ok(Some((self.with(low), codec.clone())))
    }

    /// The smallest size with as many changes of its values as fit.
    fn changes(&self, size: u64) -> Result<Option<(Spec, compress::Spec)>> {
        let spec = self.with(size);
        let shape = self.shape(&spec)?;
        let (mut low, mut high) = (0.0, 0.5);
        for _ in 0..20 {
            let middle = 0.5 * (low + high);
            if most(&ternary(middle), &shape)? <= self.bytes { low = middle } else { high = middle }
        }
        // Digits that a person can repeat.
        let density = libm::floor(low * 1e5) / 1e5;
        Ok((density > 0.0).then(|| (spec, ternary(density))))
    }
}

/// Bytes of a file beside its values, at most.
fn overhead(adapter: &dyn Adapter, base: &Base) -> Result<usize> {
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
    let values = file::with_params(adapter, |params| Codec::by_name("f16")?.encode(adapter.params(), params))?;
    let file = file::to_bytes_as(adapter, base, &origin, "f16")?;
    Ok(file.len() - values.len() + SLACK)
}

/// Bytes of the values of this shape, at most; of one that grows, of its largest.
fn most(codec: &compress::Spec, shape: &Shape) -> Result<usize> {
    let (kind, values) = codec.row()?;
    let parts: Vec<Whole> =
        shape.parts.iter().map(|p| Whole { name: p.name, cols: p.cols, len: p.range.len() }).collect();
    let params = Params { parts: &parts, start: &|_, _| {} };
    let (now, len) = ((kind.most)(&params, &values), parts.iter().map(|p| p.len).sum::<usize>().max(1));
    Ok(now + (shape.size.params.saturating_sub(len) as u128 * now as u128).div_ceil(len as u128) as usize)
}
