//! Values of few bits, `(n + ½)·Δ`, entropy-coded: the page of [`crate::container`], "levels".

use super::{Params, take};
use crate::error::{Error, Result};
use std::prelude::v1::*;

const MAX_BITS: u32 = 8;

/// A group of parts of one name.
struct Group<'a> {
    name: &'a str,
    bits: u32,
    step: f32,
    counts: Vec<[u32; 2]>,
}

impl Group<'_> {
    fn new(name: &str, bits: u32, step: f32) -> Group<'_> {
        let contexts = 1usize.checked_shl(bits).unwrap_or(1);
        Group { name, bits, step, counts: vec![[1, 1]; contexts] }
    }

    /// The value of a symbol; exact, since Δ has 8 significant bits and an odd number at most 8.
    fn value(&self, symbol: u32) -> f32 {
        let odd = symbol.wrapping_mul(2).wrapping_add(1) as f32;
        (odd - 1u32.checked_shl(self.bits).unwrap_or(1) as f32) * (0.5 * self.step)
    }

    /// The symbol of a value, if it is one of this group's.
    fn symbol(&self, value: f32) -> Option<u32> {
        let top = 1u32.checked_shl(self.bits)? as f32;
        let symbol = (value / (0.5 * self.step) + top - 1.0) * 0.5;
        let whole = symbol as u32;
        (symbol == whole as f32 && symbol < top && self.value(whole) == value).then_some(whole)
    }

    /// Codes a symbol bit by bit: `bit(chance of a 1 in 2^16ths, the bit if it is known)` returns it.
    fn code(&mut self, symbol: Option<u32>, mut bit: impl FnMut(u32, Option<bool>) -> bool) -> u32 {
        let mut node = 1u32;
        for i in (0..self.bits).rev() {
            let Some([c0, c1]) = self.counts.get_mut(node as usize) else { break };
            // Counts are at least 1, and at most 2^16 together.
            let chance = c1.wrapping_shl(16).checked_div(c0.wrapping_add(*c1)).unwrap_or(1).max(1);
            let one = bit(chance, symbol.map(|s| s >> i & 1 == 1));
            let count = if one { &mut *c1 } else { &mut *c0 };
            *count = count.wrapping_add(2);
            if c0.wrapping_add(*c1) > 1 << 16 {
                (*c0, *c1) = (c0.div_ceil(2), c1.div_ceil(2));
            }
            node = node << 1 | u32::from(one);
        }
        node.wrapping_sub(1u32.checked_shl(self.bits).unwrap_or(1))
    }
}

/// The bounds of the arithmetic code.
struct Bounds {
    low: u32,
    high: u32,
}

impl Bounds {
    fn new() -> Bounds {
        Bounds { low: 0, high: u32::MAX }
    }

    fn mid(&self, chance: u32) -> u32 {
        let range = self.high.wrapping_sub(self.low);
        let part = (range >> 16).wrapping_mul(chance).wrapping_add((range & 0xffff).wrapping_mul(chance) >> 16);
        self.low.wrapping_add(part)
    }

    fn narrow(&mut self, mid: u32, one: bool) {
        match one {
            true => self.high = mid,
            false => self.low = mid.wrapping_add(1),
        }
    }

    /// The byte that is settled, if there is one.
    fn settled(&mut self) -> Option<u8> {
        if (self.low ^ self.high) >> 24 != 0 {
            return None;
        }
        let byte = (self.low >> 24) as u8;
        (self.low, self.high) = (self.low << 8, self.high << 8 | 255);
        Some(byte)
    }
}

/// Names of the parts, each once, with the index of each part's name.
fn names<'a>(params: &Params<'a>) -> (Vec<&'a str>, Vec<usize>) {
    let mut names: Vec<&str> = Vec::new();
    let place = |part: &super::Whole<'a>| {
        names.iter().position(|n| *n == part.name).unwrap_or_else(|| {
            names.push(part.name);
            names.len().saturating_sub(1)
        })
    };
    let places = params.parts.iter().map(place).collect();
    (names, places)
}

/// The largest Δ, and the fewest bits, with which all of these values are levels.
fn find(values: impl Iterator<Item = f32> + Clone) -> Option<(u32, f32)> {
    let (mut least, mut most, mut zero) = (f32::INFINITY, 0f32, false);
    for v in values.clone().map(f32::abs) {
        (least, most, zero) = (if v > 0.0 { least.min(v) } else { least }, most.max(v), zero | (v == 0.0));
    }
    if most == 0.0 {
        return Some((0, 0.0));
    }
    // An odd number of at most 8 bits times half a Δ of 8 bits has at most 16.
    if zero || least.to_bits() & 0xff != 0 {
        return None;
    }
    let candidate = |n: u32| {
        let step = 2.0 * least / n.wrapping_mul(2).wrapping_add(1) as f32;
        let bits = (1..=MAX_BITS).find(|b| most <= (1u32.wrapping_shl(*b) as f32 - 1.0) * 0.5 * step)?;
        let group = Group { name: "", bits, step, counts: Vec::new() };
        let fits = step.is_normal() && step.to_bits() & 0xffff == 0;
        (fits && values.clone().all(|v| group.symbol(v).is_some())).then_some((bits, step))
    };
    (0..128).find_map(candidate)
}

pub fn write(values: &[f32], params: &Params) -> Result<Vec<u8>> {
    let (names, places) = names(params);
    let parts = || {
        let mut rest = values;
        let own = move |part: &super::Whole| {
            let (own, more) = rest.split_at_checked(part.len).unwrap_or_default();
            rest = more;
            own
        };
        params.parts.iter().map(own).zip(&places)
    };
    let mut out = Vec::new();
    let mut groups = Vec::new();
    for (i, name) in names.iter().enumerate() {
        let own = parts().filter(|(_, place)| **place == i).flat_map(|(own, _)| own.iter().copied());
        let Some((bits, step)) = find(own) else {
            return Err(Error::invalid("parameters", format!("{name}: its values are not on the levels of a few bits")));
        };
        out.push(bits as u8);
        if bits > 0 {
            out.extend(((step.to_bits() >> 16) as u16).to_le_bytes());
        }
        groups.push(Group::new(name, bits, step));
    }
    let mut bounds = Bounds::new();
    for (own, place) in parts() {
        let Some(group) = groups.get_mut(*place).filter(|g| g.bits > 0) else { continue };
        for v in own {
            let symbol = group.symbol(*v);
            group.code(symbol, |chance, one| {
                let (one, mid) = (one.unwrap_or_default(), bounds.mid(chance));
                bounds.narrow(mid, one);
                while let Some(byte) = bounds.settled() {
                    out.push(byte);
                }
                one
            });
        }
    }
    // The first prefix that lies between the bounds when zeros follow it. Groups of zeros have no symbols at all.
    let Bounds { low, high } = bounds;
    let ends = [(0, 0u32), (1, 1 << 24), (2, 1 << 16), (3, 1 << 8), (4, 1)];
    let end = ends.iter().find_map(|(n, unit)| {
        let value = if *n == 0 { 0 } else { low.div_ceil(*unit).checked_mul(*unit)? };
        (low <= value && value <= high).then_some((value, *n))
    });
    let (value, n) = end.unwrap_or((low, 4));
    out.extend(value.to_be_bytes().iter().take(n));
    // Zeros at the end say nothing.
    let head = groups.iter().fold(0usize, |sum, g| sum.saturating_add(if g.bits > 0 { 3 } else { 1 }));
    while out.len() > head && out.last() == Some(&0) {
        out.pop();
    }
    Ok(out)
}

pub fn read(bytes: &[u8], params: &Params) -> Result<Vec<f32>> {
    let (names, places) = names(params);
    let mut rest = bytes;
    let mut groups = Vec::new();
    for name in names {
        let [bits] = take(&mut rest)?;
        if u32::from(bits) > MAX_BITS {
            return Err(Error::corrupt(format!("{bits} bits a value; at most {MAX_BITS}"), 0));
        }
        let step = if bits > 0 { f32::from_bits(u32::from(u16::from_le_bytes(take(&mut rest)?)) << 16) } else { 0.0 };
        if bits > 0 && !(step.is_normal() && step > 0.0) {
            return Err(Error::corrupt(format!("{}: levels {step} apart", name), 0));
        }
        groups.push(Group::new(name, bits.into(), step));
    }
    let mut out = Vec::new();
    if out.try_reserve_exact(params.len()).is_err() {
        return Err(Error::memory("parameters", (params.len() as u64).saturating_mul(4)));
    }
    let mut next = || rest.split_first().map_or(0, |(byte, after)| (rest = after, *byte).1);
    let mut bounds = Bounds::new();
    let mut value = (0..4).fold(0u32, |v, _| v << 8 | u32::from(next()));
    for (part, place) in params.parts.iter().zip(places) {
        let Some(group) = groups.get_mut(place) else { continue };
        if group.bits == 0 {
            out.extend(core::iter::repeat_n(0.0, part.len));
            continue;
        }
        for _ in 0..part.len {
            let symbol = group.code(None, |chance, _| {
                let mid = bounds.mid(chance);
                let one = value <= mid;
                bounds.narrow(mid, one);
                while bounds.settled().is_some() {
                    value = value << 8 | u32::from(next());
                }
                one
            });
            out.push(group.value(symbol));
        }
    }
    let names = groups.iter().map(|g| g.name).collect::<Vec<_>>();
    match rest.len() {
        0 => Ok(out),
        more => Err(Error::corrupt(format!("{more} bytes behind the levels of {}", names.join(", ")), 0)),
    }
}
