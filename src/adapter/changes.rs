//! What of an adapter other programs can have: between the adapters of this room and the formats of others, so that each
//! format is read and written once.
//!
//! Rows and channels are in the order of GGUF files. Where a model stores several products as one, changes of these are
//! changes of that one: their factors side by side, so that nothing is lost.

use super::kinds::lora::Lora;
use super::kinds::{dora, ia3, prefix, prompt};
use super::lowrank::{Layout, Slot};
use super::spec::{ALPHA, RANK, STABILISED};
use super::{Adapter, Base, Kind, Place, Site, file};
use crate::bytes::{Bytes, Limits};
use crate::container::head::Head;
use crate::error::{Error, Result};
use crate::knob::Values;
use crate::quant::{Format, Matrix};
use std::collections::BTreeMap;
use std::prelude::v1::*;

/// A low-rank change of a product.
pub(super) struct Low {
    /// Its site, rank and factor.
    pub slot: Slot,
    /// A, `[rank, in]`.
    pub a: Matrix,
    /// B, `[out, rank]`.
    pub b: Matrix,
    /// The lengths of the rows of what is changed, `[out]`: it is a DoRA.
    pub lengths: Option<Vec<f32>>,
    /// What is added beside B·A, before the factor, `[out]`.
    pub bias: Option<Vec<f32>>,
}

/// An adapter as other programs can have it.
pub(super) enum Changes {
    /// Low-rank changes, LoRA and DoRA, and whether their factors are alpha over the root of the rank.
    Low(Vec<Low>, bool),
    /// Factors of outputs, and of inputs: (IA)³.
    Scales(Vec<(Place, Vec<f32>)>),
    /// Rows before the text, `[length, width]`.
    Rows(Vec<f32>),
    /// So many keys and values of every block, `[length, KV·D]` each, as a text has them that begins at position `length`.
    Prefix(usize, Vec<[Vec<f32>; 2]>),
}

/// Values by rows as a matrix.
///
/// # Errors
/// `Mismatch` for another number of values.
pub(super) fn matrix(rows: usize, cols: usize, values: &[f32]) -> Result<Matrix> {
    let format = Format::by_name("F32").ok_or_else(|| Error::unsupported("tensor format", "F32"))?;
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Matrix::new(format, rows, cols, Bytes::from(bytes))
}

/// All values of a matrix, by rows.
pub(super) fn values(m: &Matrix) -> Vec<f32> {
    let mut all = vec![0.0; m.rows * m.cols];
    for (i, row) in all.chunks_exact_mut(m.cols.max(1)).enumerate() {
        m.decode(i, 0..m.cols, row);
    }
    all
}

/// `[rows, cols]` as `[cols, rows]`.
pub(super) fn transposed(values: &[f32], cols: usize) -> Vec<f32> {
    let rows = values.len().checked_div(cols).unwrap_or(0);
    (0..values.len()).map(|i| values[i % rows * cols + i / rows]).collect()
}

/// Values of a site's outputs, `[out, n]`, from the order of Hugging Face files to that of GGUF files, or back.
pub(super) fn reordered(base: &Base, site: Site, values: &[f32], back: bool) -> Vec<f32> {
    let rows = base.shape(site).map_or(1, |[_, rows]| rows);
    let n = values.len() / rows.max(1);
    let mut out = vec![0.0; values.len()];
    for i in 0..rows {
        let (from, to) = if back { (base.row(site, i), i) } else { (i, base.row(site, i)) };
        out[to * n..][..n].copy_from_slice(&values[from * n..][..n]);
    }
    out
}

/// Refuses sites whose rows GGUF files have in an order that depends on more than the base says: llama.cpp's converter turns
/// the heads of values of a gated delta rule around where there are more of them than of keys.
pub(super) fn same_elsewhere(base: &Base, site: Site) -> Result<()> {
    use crate::role::Role::{Alpha, Beta, DeltaGate, DeltaIn, DeltaOut};
    if ![DeltaIn, DeltaGate, DeltaOut, Alpha, Beta].contains(&site.role) {
        return Ok(());
    }
    let out = |role| Ok::<_, Error>(base.shape(Site { role, ..site })?[1]);
    match out(DeltaIn)? == 3 * out(DeltaGate)? {
        true => Ok(()),
        false => Err(Error::unsupported("rows of a gated delta rule in another program's order", site.to_string())),
    }
}

/// The rank and the factor that all of them can have, with zeros beside what they have: the largest rank, the first factor.
pub(super) fn common(all: &[Low]) -> (usize, f32) {
    (all.iter().map(|low| low.slot.rank).max().unwrap_or(0), all.first().map_or(1.0, |low| low.slot.factor))
}

impl Low {
    /// A `[rank, in]` and B `[out, rank]` with that rank and factor.
    pub fn with(&self, rank: usize, factor: f32) -> [Vec<f32>; 2] {
        let mut a = values(&self.a);
        a.resize(rank * self.slot.shape[0], 0.0);
        (a, self.b_with(rank, factor)).into()
    }

    fn b_with(&self, rank: usize, factor: f32) -> Vec<f32> {
        let (own, ratio) = (self.slot.rank, self.slot.factor / factor);
        let mut b = vec![0.0; self.slot.shape[1] * rank];
        for (to, from) in b.chunks_exact_mut(rank).zip(values(&self.b).chunks_exact(own)) {
            to.iter_mut().zip(from).for_each(|(to, from)| *to = from * ratio);
        }
        b
    }
}

impl Changes {
    /// What this adapter is elsewhere. It must be prepared.
    ///
    /// # Errors
    /// `Unsupported` for kinds that no other program has and that are no low-rank change; those of its record.
    pub fn of(adapter: &dyn Adapter, base: &Base) -> Result<Changes> {
        let shape = adapter.shape();
        let part =
            |slot: usize, i: usize| &adapter.params()[shape.parts[shape.slots[slot].parts.start + i].range.clone()];
        if let Some((layout, factors)) = adapter.low_rank() {
            let low = |slot: &Slot| {
                let ([n_in, n_out], rank) = (slot.shape, slot.rank);
                let bias = slot.biased.then(|| factors[slot.bias()].to_vec());
                let b = matrix(n_out, rank, &transposed(&factors[slot.b()], n_out))?;
                Ok(Low { slot: slot.clone(), a: matrix(rank, n_in, &factors[slot.a()])?, b, lengths: None, bias })
            };
            let all = layout.slots().iter().map(low).collect::<Result<_>>()?;
            return Ok(Changes::Low(fused(all, layout.stabilised(), base)?, layout.stabilised()));
        }
        let kind = adapter.kind();
        let settings = || {
            let mut head = Head::new();
            adapter.record(&mut head);
            Values::read(kind.name, kind.knobs, &head)
        };
        let slots = || shape.slots.iter().enumerate();
        if kind.name == dora::KIND.name {
            let settings = settings()?;
            let (rank, alpha) = (settings.whole(RANK.name) as usize, settings.real(ALPHA.name) as f32);
            let stabilised = settings.switch(STABILISED.name);
            let low = |(i, slot): (usize, &super::Slot)| {
                let Place::Site(site) = slot.place else {
                    return Err(Error::unsupported("target", slot.place.to_string()));
                };
                let [n_in, n_out] = slot.shape;
                let b = matrix(n_out, rank, &transposed(part(i, 1), n_out))?;
                let slot = Slot::new(site, base, rank, alpha, stabilised)?;
                Ok(Low { slot, a: matrix(rank, n_in, part(i, 0))?, b, lengths: Some(part(i, 2).to_vec()), bias: None })
            };
            let all = slots().map(low).collect::<Result<_>>()?;
            return Ok(Changes::Low(fused(all, stabilised, base)?, stabilised));
        }
        Ok(match kind.name {
            name if name == ia3::KIND.name => {
                Changes::Scales(scales_of_whole(slots().map(|(i, slot)| (slot.place, part(i, 0).to_vec())), base)?)
            }
            name if name == prompt::KIND.name => Changes::Rows(part(0, 0).to_vec()),
            name if name == prefix::KIND.name => {
                if shape.slots.len() != base.layers() {
                    return Err(Error::unsupported("adapter elsewhere", "a prefix of a part of the blocks"));
                }
                let settings = settings()?;
                let length = settings.whole(prefix::LENGTH.name) as usize;
                let turned = |(i, _)| {
                    let keys = prefix::turned(base, i, part(i, 0), settings.whole(prefix::OFFSET.name), length as u64)?;
                    Ok([keys, part(i, 1).to_vec()])
                };
                Changes::Prefix(length, slots().map(turned).collect::<Result<_>>()?)
            }
            name => {
                let why = format!("{name}: no other program has this kind, and it is no low-rank change");
                return Err(Error::unsupported("kind of adapter elsewhere", why));
            }
        })
    }

    /// The adapter that this is here.
    ///
    /// # Errors
    /// `Corrupt` for a value that is not finite; `Invalid` if it changes nothing; those of the kind.
    pub fn build(self, base: &Base, limits: &Limits) -> Result<Box<dyn Adapter>> {
        let built = |kind: &Kind, values, settings: &Values| file::built(kind, values, settings, base, limits);
        match self {
            Changes::Low(all, _) if all.is_empty() => {
                Err(Error::invalid("adapter", "it changes nothing: it has no tensors"))
            }
            Changes::Low(all, stabilised) if all.iter().any(|low| low.lengths.is_some()) => {
                let (rank, factor) = common(&all);
                let same = all.iter().all(|low| low.slot.rank == rank && low.slot.alpha == all[0].slot.alpha);
                let (alpha, stabilised) =
                    if same { (all[0].slot.alpha, stabilised) } else { (factor * rank as f32, false) };
                let settings = Values::new()
                    .with(RANK.name, rank)
                    .with(ALPHA.name, f64::from(alpha))
                    .with(STABILISED.name, stabilised);
                let mut values = Vec::new();
                for low in all {
                    let Some(lengths) = &low.lengths else {
                        return Err(Error::mismatch(low.slot.site.to_string(), "lengths, as other sites have", "none"));
                    };
                    let [a, b] = low.with(rank, factor);
                    values.push((low.slot.site.into(), [a, transposed(&b, rank), lengths.clone()].concat()));
                }
                built(&dora::KIND, values, &settings)
            }
            Changes::Low(all, stabilised) => Ok(Box::new(lora(all, stabilised)?)),
            Changes::Scales(all) => built(&ia3::KIND, all, &Values::new()),
            Changes::Rows(rows) => {
                let length = rows.len() / base.width.max(1);
                built(&prompt::KIND, vec![(Place::Rows, rows)], &Values::new().with(prompt::LENGTH.name, length))
            }
            Changes::Prefix(length, blocks) => {
                let values = blocks.into_iter().enumerate().map(|(i, parts)| (Place::Attention(i), parts.concat()));
                let settings = Values::new().with(prefix::LENGTH.name, length).with(prefix::OFFSET.name, length);
                built(&prefix::KIND, values.collect(), &settings)
            }
        }
    }
}

/// A LoRA, whose values are read row by row.
fn lora(all: Vec<Low>, stabilised: bool) -> Result<Lora> {
    let biased = all.iter().any(|low| low.bias.is_some());
    let layout = Layout::new(all.iter().map(|low| Slot { biased, ..low.slot.clone() }).collect(), stabilised);
    let mut params = vec![0.0; layout.len()];
    for low in all {
        let Some(slot) = layout.slot(low.slot.site) else { continue };
        let [n_in, n_out] = slot.shape;
        for (r, row) in params[slot.a()].chunks_exact_mut(n_in).enumerate() {
            low.a.decode(r, 0..n_in, row);
        }
        let (b, mut row) = (&mut params[slot.b()], vec![0.0; slot.rank]);
        for i in 0..n_out {
            low.b.decode(i, 0..slot.rank, &mut row);
            row.iter().enumerate().for_each(|(r, v)| b[r * n_out + i] = *v);
        }
        if let Some(bias) = low.bias {
            params[slot.bias()].copy_from_slice(&bias);
        }
        if params[slot.start..slot.bias().end].iter().any(|v| !v.is_finite()) {
            return Err(Error::corrupt(format!("a value for {} is not finite", slot.site), 0));
        }
    }
    if !layout.changes_something(&params) {
        return Err(Error::invalid("adapter", "it changes nothing: every B is zero"));
    }
    Ok(Lora::from_params(layout, params, None))
}

/// The site that holds the rows of a site in a file of this model, and the first of them.
fn held(base: &Base, site: Site) -> Result<(Site, usize)> {
    let there = |role| base.shapes.get(site.layer).is_some_and(|block| block[role].is_some());
    let Some((whole, at)) = site.role.fused().filter(|(whole, _)| there(*whole)) else { return Ok((site, 0)) };
    let before = whole.row().holds[..at].iter();
    let rows = before.map(|role| Ok(base.shape(Site { role: *role, ..site })?[1]));
    Ok((Site { role: whole, ..site }, rows.sum::<Result<usize>>()?))
}

/// Changes of parts of a stored product as one change of it.
fn fused(all: Vec<Low>, stabilised: bool, base: &Base) -> Result<Vec<Low>> {
    let mut groups: BTreeMap<Site, Vec<(usize, Low)>> = BTreeMap::new();
    for low in all {
        let (site, first) = held(base, low.slot.site)?;
        groups.entry(site).or_default().push((first, low));
    }
    let one = |(site, mut parts): (Site, Vec<(usize, Low)>)| match parts.len() == 1 && parts[0].1.slot.site == site {
        true => Ok(parts.swap_remove(0).1),
        false => side_by_side(site, parts, stabilised, base),
    };
    groups.into_iter().map(one).collect()
}

/// The change of a product whose factors are those of parts, side by side: the rows of A below each other, the columns of B
/// beside each other, with zeros in the rows of other parts.
fn side_by_side(site: Site, parts: Vec<(usize, Low)>, stabilised: bool, base: &Base) -> Result<Low> {
    let shape = base.shape(site)?;
    let [n_in, n_out] = shape;
    let rank = parts.iter().map(|(_, low)| low.slot.rank).sum::<usize>();
    let factor = parts[0].1.slot.factor;
    let alpha = factor * if stabilised { libm::sqrtf(rank as f32) } else { rank as f32 };
    let biased = parts.iter().any(|(_, low)| low.bias.is_some());
    let mut lengths = match parts.iter().any(|(_, low)| low.lengths.is_some()) {
        true => Some(dora::lengths_of(&base.matrix(site)?)),
        false => None,
    };
    let (mut a, mut b, mut bias) = (Vec::with_capacity(rank * n_in), vec![0.0; n_out * rank], vec![0.0; n_out]);
    let mut column = 0;
    for (first, low) in parts {
        let own = low.slot.rank;
        a.extend(values(&low.a));
        for (i, row) in low.b_with(own, factor).chunks_exact(own).enumerate() {
            b[(first + i) * rank + column..][..own].copy_from_slice(row);
        }
        for (all, own) in [(lengths.as_deref_mut(), low.lengths), (Some(&mut bias[..]), low.bias)] {
            if let (Some(all), Some(own)) = (all, own) {
                all[first..][..own.len()].copy_from_slice(&own);
            }
        }
        column += own;
    }
    let slot = Slot { site, shape, rank, alpha, factor, start: 0, biased };
    Ok(Low { slot, a: matrix(rank, n_in, &a)?, b: matrix(n_out, rank, &b)?, lengths, bias: biased.then_some(bias) })
}

/// Factors of parts of a stored product as factors of it.
fn scales_of_whole(all: impl Iterator<Item = (Place, Vec<f32>)>, base: &Base) -> Result<Vec<(Place, Vec<f32>)>> {
    let mut found: BTreeMap<Place, Vec<f32>> = BTreeMap::new();
    for (place, scale) in all {
        let (place, first) = match place {
            Place::Site(site) => held(base, site).map(|(site, first)| (Place::Site(site), first))?,
            place => (place, 0),
        };
        let width = base.place(place)?[1];
        found.entry(place).or_insert_with(|| vec![1.0; width])[first..][..scale.len()].copy_from_slice(&scale);
    }
    Ok(found.into_iter().collect())
}
