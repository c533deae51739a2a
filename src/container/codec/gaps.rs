//! Few changes among many values: the places of the changed ones as gaps in Golomb-Rice code (ComPEFT,
//! arXiv:2311.13171), or in bit planes. The page of [`crate::container`] specifies the bytes.

use super::{Params, Whole, blocks, put_number, settled, take, take_number};
use crate::error::{Error, Result};
use half::f16;
use std::prelude::v1::*;

/// Bits, written one after the other.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    used: u32,
}

impl Bits {
    fn put(&mut self, bit: bool) {
        match self.bytes.last_mut() {
            Some(last) if self.used < 8 => *last |= u8::from(bit) << self.used,
            _ => {
                self.bytes.push(u8::from(bit));
                self.used = 0;
            }
        }
        self.used = self.used.wrapping_add(1);
    }

    /// A number in Golomb-Rice code.
    fn rice(&mut self, n: u64, b: u32) {
        (0..n >> b).for_each(|_| self.put(true));
        self.put(false);
        (0..b).for_each(|i| self.put(n >> i & 1 == 1));
    }
}

/// Bits, read one after the other.
struct Reader<'a> {
    bytes: &'a [u8],
    bit: u32,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<bool> {
        let (first, rest) = self.bytes.split_first().ok_or_else(|| Error::corrupt("the gaps end early", 0))?;
        let bit = first >> self.bit & 1 == 1;
        self.bit = self.bit.wrapping_add(1);
        if self.bit == 8 {
            (self.bytes, self.bit) = (rest, 0);
        }
        Ok(bit)
    }

    fn rice(&mut self, b: u32) -> Result<u64> {
        let mut n = 0u64;
        while self.next()? {
            n = n.saturating_add(1);
        }
        let mut low = 0u64;
        for i in 0..b {
            low |= u64::from(self.next()?) << i;
        }
        n.checked_shl(b).filter(|v| *v >> b == n).map(|v| v | low).ok_or_else(|| Error::corrupt("a gap over 64 bits", 0))
    }

    /// What follows the byte of the last bit.
    fn rest(self) -> &'a [u8] {
        match (self.bit, self.bytes) {
            (0, all) => all,
            (_, [_, rest @ ..]) => rest,
            (_, []) => &[],
        }
    }
}

/// Appends sorted places without repetition to bytes.
pub(crate) fn put_places(places: &[usize], out: &mut Vec<u8>) {
    write_gaps(places, None, out);
}

/// `count` such places below `len`; `rest` becomes what is behind them.
///
/// # Errors
/// `Corrupt` if there are not as many; `Memory` if there is not enough.
pub(crate) fn take_places(rest: &mut &[u8], count: usize, len: usize) -> Result<Vec<usize>> {
    let mut places = Vec::new();
    if places.try_reserve_exact(count).is_err() {
        return Err(Error::memory("places", (count as u64).saturating_mul(8)));
    }
    *rest = read_gaps(rest, count as u64, len, false, |place, _| places.push(place))?;
    Ok(places)
}

/// Values skipped before each place since the one before.
fn gaps(places: &[usize]) -> impl Iterator<Item = u64> + '_ {
    let before = core::iter::once(0).chain(places.iter().map(|p| p.saturating_add(1)));
    places.iter().zip(before).map(|(p, from)| p.saturating_sub(from) as u64)
}

/// The parameter of the code with the fewest bits.
fn fewest(places: &[usize]) -> u32 {
    let bits = |b: u32| gaps(places).fold(0u64, |sum, n| sum.saturating_add(n >> b).saturating_add(1 + u64::from(b)));
    (0..40).min_by_key(|b| bits(*b)).unwrap_or(0)
}

/// Appends the places with their signs, if they have any.
fn write_gaps(places: &[usize], minus: Option<&[bool]>, out: &mut Vec<u8>) {
    let b = fewest(places);
    out.push(b as u8);
    let mut bits = Bits::default();
    for (i, n) in gaps(places).enumerate() {
        bits.rice(n, b);
        if let Some(sign) = minus.and_then(|m| m.get(i)) {
            bits.put(*sign);
        }
    }
    out.extend(bits.bytes);
}

/// Calls `f(place, is negative)` for the places, and returns the bytes behind them.
fn read_gaps(
    bytes: &[u8],
    count: u64,
    len: usize,
    signs: bool,
    mut f: impl FnMut(usize, bool),
) -> Result<&[u8]> {
    let mut rest = bytes;
    let [b] = take(&mut rest)?;
    if b >= 40 {
        return Err(Error::corrupt(format!("gaps with {b} low bits; at most 39"), 0));
    }
    let (mut bits, mut next) = (Reader { bytes: rest, bit: 0 }, 0usize);
    for i in 0..count {
        let place = usize::try_from(bits.rice(b.into())?).ok().and_then(|n| next.checked_add(n));
        let Some(place) = place.filter(|p| *p < len) else {
            return Err(Error::corrupt(format!("change {i} is behind the last of {len} values"), 0));
        };
        f(place, signs && bits.next()?);
        next = place.saturating_add(1);
    }
    Ok(bits.rest())
}

/// The number of changes, at most one a value.
fn read_count(rest: &mut &[u8], len: usize) -> Result<u64> {
    let count = take_number(rest)?;
    match count > len as u64 {
        true => Err(Error::corrupt(format!("{count} changes of {len} values"), 0)),
        false => Ok(count),
    }
}

fn nothing_behind(rest: &[u8]) -> Result<()> {
    match rest.len() {
        0 => Ok(()),
        more => Err(Error::corrupt(format!("{more} bytes behind the parameters"), 0)),
    }
}

/// A scale with 8 significant bits, as files store it.
fn scale_of(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The places of changed values, which changes are negative, and the size of all of them, as its upper half.
type Changes = (Vec<usize>, Vec<bool>, u16);

/// What of `values` differs from their starts, if all differences have one size.
fn changes(values: &[f32], params: &Params) -> Result<Changes> {
    let starts = params.starts()?;
    let changed = || values.iter().zip(&starts).enumerate().filter(|(_, (v, s))| v != s);
    // Where a start is small, rounding hides the least of a scale.
    let clear = changed().min_by(|(_, (_, a)), (_, (_, b))| a.abs().total_cmp(&b.abs()));
    let scale = clear.map_or(0.0, |(_, (v, s))| half::bf16::from_f32((v - s).abs()).to_f32());
    let (mut places, mut minus) = (Vec::new(), Vec::new());
    for (i, (v, s)) in changed() {
        if *v != s + scale && *v != s - scale {
            return Err(Error::invalid("parameters", format!("{} is not changed by 0 or ±{scale}", params.place(i))));
        }
        places.push(i);
        minus.push(*v != s + scale);
    }
    Ok((places, minus, (scale.to_bits() >> 16) as u16))
}

pub fn write_ternary(values: &[f32], params: &Params) -> Result<Vec<u8>> {
    let (places, minus, scale) = changes(values, params)?;
    let mut out = Vec::new();
    put_number(places.len() as u64, &mut out);
    if !places.is_empty() {
        out.extend(scale.to_le_bytes());
        write_gaps(&places, Some(&minus), &mut out);
    }
    Ok(out)
}

pub fn read_ternary(bytes: &[u8], params: &Params) -> Result<Vec<f32>> {
    let (mut rest, len) = (bytes, params.len());
    let count = read_count(&mut rest, len)?;
    let mut values = params.starts()?;
    if count > 0 {
        let scale = scale_of(u16::from_le_bytes(take(&mut rest)?));
        let change = |place: usize, minus: bool| {
            if let Some(v) = values.get_mut(place) {
                *v = if minus { *v - scale } else { *v + scale };
            }
        };
        rest = read_gaps(rest, count, len, true, change)?;
    }
    nothing_behind(rest)?;
    Ok(values)
}

/// Changes of one size in two bit planes: eight times smaller than f16 at any density, and used without unpacking.
#[derive(Clone, Debug, PartialEq)]
pub struct Masks {
    len: usize,
    scale: f32,
    plus: Vec<u64>,
    minus: Vec<u64>,
}

impl Masks {
    pub(super) fn bytes(params: &Params) -> usize {
        params.len().div_ceil(8).saturating_mul(2).saturating_add(2)
    }

    /// The changes of `values` from their starts.
    ///
    /// # Errors
    /// `Invalid` if not all changes have one size; `Memory` if there is not enough.
    pub fn of(values: &[f32], params: &Params) -> Result<Masks> {
        let (places, signs, scale) = changes(values, params)?;
        let words = values.len().div_ceil(64);
        let mut masks =
            Masks { len: values.len(), scale: scale_of(scale), plus: vec![0; words], minus: vec![0; words] };
        for (place, negative) in places.into_iter().zip(signs) {
            let plane = if negative { &mut masks.minus } else { &mut masks.plus };
            if let Some(word) = plane.get_mut(place / 64) {
                *word |= 1 << (place % 64);
            }
        }
        Ok(masks)
    }

    /// The size of every change.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// Number of changes.
    pub fn count(&self) -> u32 {
        count(&self.plus).wrapping_add(count(&self.minus))
    }

    /// The product of the changes with as many values: `scale · (Σ x where + − Σ x where −)`.
    pub fn dot(&self, x: &[f32]) -> f32 {
        let sum = |plane: &[u64]| {
            let picked = |(word, x): (&u64, &[f32])| {
                x.iter().enumerate().filter(|(i, _)| word >> i & 1 == 1).fold(0f32, |sum, (_, v)| sum + v)
            };
            plane.iter().zip(x.chunks(64)).map(picked).fold(0f32, |sum, v| sum + v)
        };
        self.scale * (sum(&self.plus) - sum(&self.minus))
    }

    /// The cosine between the changes of two adapters of the same shape; 0 if one has none.
    pub fn cosine(&self, other: &Masks) -> f64 {
        let both = |a: &[u64], b: &[u64]| f64::from(a.iter().zip(b).map(|(a, b)| (a & b).count_ones()).sum::<u32>());
        let same = both(&self.plus, &other.plus) + both(&self.minus, &other.minus);
        let against = both(&self.plus, &other.minus) + both(&self.minus, &other.plus);
        let norm = libm::sqrt(f64::from(self.count()) * f64::from(other.count()));
        if norm == 0.0 { 0.0 } else { (same - against) / norm }
    }
}

fn count(plane: &[u64]) -> u32 {
    plane.iter().map(|w| w.count_ones()).sum()
}

pub fn write_masks(values: &[f32], params: &Params) -> Result<Vec<u8>> {
    let masks = Masks::of(values, params)?;
    let mut out = ((masks.scale.to_bits() >> 16) as u16).to_le_bytes().to_vec();
    for plane in [&masks.plus, &masks.minus] {
        out.extend(plane.iter().flat_map(|w| w.to_le_bytes()).take(masks.len.div_ceil(8)));
    }
    Ok(out)
}

pub fn read_masks(bytes: &[u8], params: &Params) -> Result<Vec<f32>> {
    let mut rest = bytes;
    let scale = scale_of(u16::from_le_bytes(take(&mut rest)?));
    let plane = params.len().div_ceil(8);
    let planes = rest.split_at_checked(plane).filter(|(_, minus)| minus.len() == plane);
    let Some((plus, minus)) = planes else {
        return Err(Error::corrupt(format!("{} bytes of masks for {} values", rest.len(), params.len()), 0));
    };
    let mut values = params.starts()?;
    for (v, (plus, minus)) in values.chunks_mut(8).zip(plus.iter().zip(minus)) {
        for (i, v) in v.iter_mut().enumerate() {
            match (plus >> i & 1, minus >> i & 1) {
                (1, _) => *v += scale,
                (_, 1) => *v -= scale,
                _ => {}
            }
        }
    }
    Ok(values)
}

/// The changed values, as a part of their own.
fn kept<T>(count: usize, f: impl FnOnce(&Params) -> T) -> T {
    let part = [Whole { name: "changed", cols: count.max(1), len: count }];
    f(&Params { parts: &part, start: &|_, out| out.fill(0.0) })
}

fn write_few(
    values: &[f32],
    params: &Params,
    write: fn(&[f32]) -> Result<Vec<u8>>,
    read: fn(&[u8], usize) -> Result<Vec<f32>>,
) -> Result<Vec<u8>> {
    let starts = params.starts()?;
    let once = |values: &[f32]| {
        let places: Vec<usize> =
            values.iter().zip(&starts).enumerate().filter(|(_, (v, s))| v != s).map(|(i, _)| i).collect();
        let mut out = Vec::new();
        put_number(places.len() as u64, &mut out);
        if !places.is_empty() {
            write_gaps(&places, None, &mut out);
            let changed: Vec<f32> = places.iter().filter_map(|i| values.get(*i).copied()).collect();
            out.extend(write(&changed).unwrap_or_default());
        }
        out
    };
    settled(values, once, |bytes| read_few(bytes, params, read))
}

fn read_few(bytes: &[u8], params: &Params, read: fn(&[u8], usize) -> Result<Vec<f32>>) -> Result<Vec<f32>> {
    let (mut rest, len) = (bytes, params.len());
    let count = read_count(&mut rest, len)?;
    let mut values = params.starts()?;
    if count > 0 {
        let mut changed: Vec<usize> = Vec::new();
        if changed.try_reserve_exact(usize::try_from(count).unwrap_or(usize::MAX)).is_err() {
            return Err(Error::memory("places of changes", count.saturating_mul(8)));
        }
        rest = read_gaps(rest, count, len, false, |place, _| changed.push(place))?;
        for (place, value) in changed.iter().zip(read(rest, changed.len())?) {
            if let Some(v) = values.get_mut(*place) {
                *v = value;
            }
        }
        rest = &[];
    }
    nothing_behind(rest)?;
    Ok(values)
}

fn halves(bytes: &[u8], count: usize) -> Result<Vec<f32>> {
    match bytes.as_chunks::<2>() {
        (all, []) if all.len() == count => Ok(all.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect()),
        _ => Err(Error::corrupt(format!("{} bytes for {count} changed values", bytes.len()), 0)),
    }
}

pub fn write_sparse(values: &[f32], params: &Params) -> Result<Vec<u8>> {
    let write = |changed: &[f32]| Ok(changed.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect());
    write_few(values, params, write, halves)
}

pub fn read_sparse(bytes: &[u8], params: &Params) -> Result<Vec<f32>> {
    read_few(bytes, params, halves)
}

pub fn write_sparse8(values: &[f32], params: &Params) -> Result<Vec<u8>> {
    let write = |changed: &[f32]| kept(changed.len(), |p| blocks::write8(changed, p));
    write_few(values, params, write, |bytes, n| kept(n, |p| blocks::read8(bytes, p)))
}

pub fn read_sparse8(bytes: &[u8], params: &Params) -> Result<Vec<f32>> {
    read_few(bytes, params, |bytes, n| kept(n, |p| blocks::read8(bytes, p)))
}
