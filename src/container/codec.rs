//! How parameters are encoded in a section. The number of values is known from the shapes, so a stream can neither
//! promise more values nor unpack to more.
//!
//! A codec is exact: what it wrote, it reads back, and writing that gives the same bytes. Codecs that round (`f32` to
//! `q4`) take any finite values and hold the nearest that they can. The others hold only values of their form, and
//! refuse the rest: what makes values so is a compressor's work, not a codec's.
//!
//! The page of [`super`] specifies every byte of them.

mod blocks;
mod gaps;
mod levels;

pub use gaps::Masks;
pub(crate) use gaps::{put_places, take_places};

use crate::bytes::zeros;
use crate::error::{Error, Result};
use half::{bf16, f16};
use std::prelude::v1::*;

/// A part of the parameters, without its values.
#[derive(Clone, Copy, Debug)]
pub struct Whole<'a> {
    /// Its name. Parts of one name are of one nature.
    pub name: &'a str,
    /// Values of a row.
    pub cols: usize,
    /// Values in all.
    pub len: usize,
}

/// All parameters, without their values.
#[derive(Clone, Copy)]
pub struct Params<'a> {
    /// Their parts, in order.
    pub parts: &'a [Whole<'a>],
    /// The values of a part before the first step; codecs of differences call it.
    pub start: &'a dyn Fn(usize, &mut [f32]),
}

impl Params<'_> {
    /// Values of all parts.
    pub fn len(&self) -> usize {
        self.parts.iter().fold(0, |n, part| n.saturating_add(part.len))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values of all parts before the first step.
    ///
    /// # Errors
    /// `Memory` if there is not enough.
    pub fn starts(&self) -> Result<Vec<f32>> {
        let mut all = zeros("parameters before training", self.len())?;
        let mut rest = &mut all[..];
        for (i, part) in self.parts.iter().enumerate() {
            let Some((own, more)) = rest.split_at_mut_checked(part.len) else { break };
            (self.start)(i, own);
            rest = more;
        }
        Ok(all)
    }

    /// Which part a value belongs to, for messages.
    fn place(&self, mut index: usize) -> String {
        for part in self.parts {
            match index.checked_sub(part.len) {
                None => return format!("value {index} of {}, {}", part.name, part.len),
                Some(rest) => index = rest,
            }
        }
        format!("value {index} behind the last part")
    }
}

/// One row of [`CODECS`].
pub struct Codec {
    /// Its name in files.
    pub name: &'static str,
    /// Whether it takes any finite values and rounds them. The others refuse values that they cannot hold.
    pub rounds: bool,
    /// Minimum number of bytes for these parameters.
    pub least: fn(&Params) -> usize,
    /// The bytes of the values.
    write: fn(&[f32], &Params) -> Result<Vec<u8>>,
    /// The values, from all of the bytes. Checks the length before it reserves memory.
    read: fn(&[u8], &Params) -> Result<Vec<f32>>,
}

/// Every codec this build knows.
pub static CODECS: &[Codec] = &[
    Codec {
        name: "f32",
        rounds: true,
        least: |p| p.len().saturating_mul(4),
        write: |values, _| Ok(numbers(values, f32::to_le_bytes)),
        read: |bytes, p| fixed(bytes, p, f32::from_le_bytes),
    },
    Codec {
        name: "f16",
        rounds: true,
        least: |p| p.len().saturating_mul(2),
        write: |values, _| halves("f16", values, |x| f16::from_f32(x).to_le_bytes(), |x| f16::from_f32(x).is_finite()),
        read: |bytes, p| fixed(bytes, p, |b| f16::from_le_bytes(b).to_f32()),
    },
    Codec {
        name: "bf16",
        rounds: true,
        least: |p| p.len().saturating_mul(2),
        write: |values, _| halves("bf16", values, |x| bf16::from_f32(x).to_le_bytes(), |x| bf16::from_f32(x).is_finite()),
        read: |bytes, p| fixed(bytes, p, |b| bf16::from_le_bytes(b).to_f32()),
    },
    Codec { name: "q8", rounds: true, least: blocks::bytes8, write: blocks::write8, read: blocks::read8 },
    Codec { name: "q4", rounds: true, least: blocks::bytes4, write: blocks::write4, read: blocks::read4 },
    Codec { name: "levels", rounds: false, least: |_| 0, write: levels::write, read: levels::read },
    Codec { name: "ternary", rounds: false, least: |_| 0, write: gaps::write_ternary, read: gaps::read_ternary },
    Codec { name: "masks", rounds: false, least: Masks::bytes, write: gaps::write_masks, read: gaps::read_masks },
    Codec { name: "sparse", rounds: true, least: |_| 0, write: gaps::write_sparse, read: gaps::read_sparse },
    Codec { name: "sparse-q8", rounds: true, least: |_| 0, write: gaps::write_sparse8, read: gaps::read_sparse8 },
];

impl Codec {
    /// # Errors
    /// `Unsupported` if this build does not know it.
    pub fn by_name(name: &str) -> Result<&'static Codec> {
        CODECS.iter().find(|c| c.name == name).ok_or_else(|| Error::unsupported("codec", name))
    }

    /// Whether it writes number by number. Such have one spelling each.
    fn plain(&self) -> bool {
        ["f32", "f16", "bf16"].contains(&self.name)
    }

    /// The bytes of the values.
    ///
    /// # Errors
    /// `Invalid` if a value is not finite, or one that the codec cannot hold; `Mismatch` for another number of values.
    pub fn encode(&self, values: &[f32], params: &Params) -> Result<Vec<u8>> {
        if values.len() != params.len() {
            return Err(Error::mismatch("number of parameters", params.len(), values.len()));
        }
        if let Some(i) = values.iter().position(|x| !x.is_finite()) {
            return Err(Error::invalid("parameters", format!("{} is not finite", params.place(i))));
        }
        (self.write)(values, params)
    }

    /// The values, all finite.
    ///
    /// # Errors
    /// `Corrupt` if these are not the bytes that the codec writes for the result; `Memory` if there is not enough.
    pub fn decode(&self, bytes: &[u8], params: &Params) -> Result<Vec<f32>> {
        if bytes.len() < (self.least)(params) {
            return Err(Error::corrupt(format!("{} bytes of parameters for {} values", bytes.len(), params.len()), 0));
        }
        let values = (self.read)(bytes, params)?;
        if let Some(i) = values.iter().position(|x| !x.is_finite()) {
            return Err(Error::corrupt(format!("{} is not finite", params.place(i)), 0));
        }
        if !self.plain() && !(self.write)(&values, params).is_ok_and(|again| again == bytes) {
            return Err(Error::corrupt(format!("not the bytes that {} writes for its values", self.name), 0));
        }
        Ok(values)
    }

    /// The codec that takes the fewest bytes, at most `most`, among those that hold the values exactly, if there is one,
    /// with the bytes.
    pub fn smallest(values: &[f32], params: &Params, most: usize) -> Option<(&'static Codec, Vec<u8>)> {
        let holds = |codec: &'static Codec, values: &[f32], params: &Params| {
            let bytes = codec.encode(values, params).ok()?;
            // A zero may lose its sign.
            (bytes.len() <= most && (codec.read)(&bytes, params).ok()? == values).then_some(bytes)
        };
        let find = |codec: &'static Codec| {
            // Most codecs fail at the first part, before they take memory for all.
            let (part, own) = (params.parts.get(..1)?, values.get(..params.parts.first()?.len)?);
            holds(codec, own, &Params { parts: part, start: params.start })?;
            Some((codec, holds(codec, values, params)?))
        };
        // The first of equal sizes.
        let fitting = CODECS.iter().filter(|codec| (codec.least)(params) <= most);
        fitting.filter_map(find).min_by_key(|(_, bytes)| bytes.len())
    }
}

fn too_large(codec: &str) -> Error {
    Error::invalid("parameters", format!("a value is too large for {codec}; f32 can hold it"))
}

/// Values of two bytes each.
fn halves(codec: &str, values: &[f32], bytes: fn(f32) -> [u8; 2], fits: fn(f32) -> bool) -> Result<Vec<u8>> {
    match values.iter().all(|x| fits(*x)) {
        true => Ok(numbers(values, bytes)),
        false => Err(too_large(codec)),
    }
}

/// Numbers one after the other. Growing, they would take twice as much for a moment.
fn numbers<const N: usize>(values: &[f32], bytes: fn(f32) -> [u8; N]) -> Vec<u8> {
    let mut out = Vec::with_capacity(values.len().saturating_mul(N));
    values.iter().for_each(|x| out.extend_from_slice(&bytes(*x)));
    out
}

/// Values of `N` bytes each.
fn fixed<const N: usize>(bytes: &[u8], params: &Params, value: impl Fn([u8; N]) -> f32) -> Result<Vec<f32>> {
    if params.len().checked_mul(N) != Some(bytes.len()) {
        let what = format!("{} bytes of parameters for {} values, {N} bytes each", bytes.len(), params.len());
        return Err(Error::corrupt(what, 0));
    }
    Ok(bytes.as_chunks::<N>().0.iter().map(|b| value(*b)).collect())
}

/// Appends a number, seven bits a byte, the lowest first; the top bit says that more follow.
pub(crate) fn put_number(mut n: u64, out: &mut Vec<u8>) {
    while n > 0x7f {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Reads what [`put_number`] wrote.
///
/// # Errors
/// `Corrupt` for a number that ends too early, is longer than it needs, or over 64 bits.
pub(crate) fn take_number(rest: &mut &[u8]) -> Result<u64> {
    let (mut n, mut shift) = (0u64, 0u32);
    loop {
        let Some((&byte, after)) = rest.split_first() else { return Err(Error::corrupt("a number ends early", 0)) };
        *rest = after;
        let part = u64::from(byte & 0x7f);
        n |= part.checked_shl(shift).filter(|v| v >> shift == part).ok_or_else(|| Error::corrupt("a number over 64 bits", 0))?;
        if byte & 0x80 == 0 {
            return match byte == 0 && shift > 0 {
                true => Err(Error::corrupt("a number with a leading zero", 0)),
                false => Ok(n),
            };
        }
        shift = shift.saturating_add(7);
    }
}

/// The bytes of values that are rounded until they stay: where a narrow type has few bits left for a scale, once is not
/// enough.
fn settled(
    values: &[f32],
    write: impl Fn(&[f32]) -> Vec<u8>,
    read: impl Fn(&[u8]) -> Result<Vec<f32>>,
) -> Result<Vec<u8>> {
    let mut bytes = write(values);
    for _ in 0..64 {
        let values = read(&bytes)?;
        if values.iter().any(|v| !v.is_finite()) {
            // The largest values are infinite where a scale is narrow.
            return Err(too_large("its scales"));
        }
        let again = write(&values);
        if again == bytes {
            return Ok(bytes);
        }
        bytes = again;
    }
    Err(Error::invalid("parameters", "rounding them comes to no end; f32 can hold them"))
}

/// Takes `N` bytes.
pub(crate) fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N]> {
    let (head, after) = rest.split_first_chunk::<N>().ok_or_else(|| Error::corrupt("the bytes end early", 0))?;
    *rest = after;
    Ok(*head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;

    /// Parts `a` of 100 and `b` of 33 values, twice, that start at zero or at small values.
    fn with<T>(zero: bool, f: impl FnOnce(&Params, usize) -> T) -> T {
        let parts = [("a", 10, 100), ("b", 11, 33), ("a", 10, 100), ("b", 11, 33)];
        let parts = parts.map(|(name, cols, len)| Whole { name, cols, len });
        let start = |part: usize, out: &mut [f32]| match zero {
            true => out.fill(0.0),
            false => Stream::new(part as u64, "start", "test").fill_uniform(0, out),
        };
        f(&Params { parts: &parts, start: &start }, 266)
    }

    fn noise(n: usize) -> Vec<f32> {
        let mut out = vec![0.0; n];
        Stream::new(5, "values", "test").fill_uniform(0, &mut out);
        out
    }

    /// Values that a codec can hold.
    fn fitting(name: &str, p: &Params) -> Vec<f32> {
        let (mut values, noise) = (p.starts().unwrap(), noise(p.len()));
        for (v, x) in values.iter_mut().zip(noise) {
            match name {
                "ternary" | "masks" if x > 0.7 => *v += 0.0625,
                "ternary" | "masks" if x < -0.8 => *v -= 0.0625,
                "ternary" | "masks" => {}
                "sparse" | "sparse-q8" if x.abs() < 0.9 => {}
                "levels" => *v = (libm::floorf(x * 2.0).clamp(-2.0, 1.0) + 0.5) * 0.0107421875,
                _ => *v = x,
            }
        }
        values
    }

    #[test]
    fn values_survive_within_the_codec() {
        for codec in CODECS {
            for zero in [true, false] {
                with(zero, |p, n| {
                    let values = fitting(codec.name, p);
                    let bytes = codec.encode(&values, p).unwrap();
                    assert!(bytes.len() >= (codec.least)(p), "{}", codec.name);
                    let back = codec.decode(&bytes, p).unwrap();
                    assert_eq!(codec.encode(&back, p).unwrap(), bytes, "{}: settles at once", codec.name);
                    let far = if codec.name == "q4" { 0.13 } else { 0.008 };
                    for (a, b) in values.iter().zip(&back) {
                        let err = if codec.rounds { far } else { 0.0 };
                        assert!((a - b).abs() <= err, "{}: {a} {b}", codec.name);
                    }
                    // Every cut, and a byte more, is refused, or is another content's bytes.
                    for cut in 0..bytes.len() {
                        if let Ok(other) = codec.decode(&bytes[..cut], p) {
                            assert_eq!(codec.encode(&other, p).unwrap(), bytes[..cut]);
                        }
                    }
                    assert!(codec.decode(&[&bytes[..], &[1]].concat(), p).is_err(), "{}", codec.name);
                    let mut bad = values.clone();
                    bad[n - 1] = f32::NAN;
                    let e = codec.encode(&bad, p).unwrap_err().to_string();
                    assert!(e.contains("value 32 of b, 33 is not finite"), "{e}");
                    assert!(codec.encode(&values[1..], p).is_err());
                });
            }
        }
        let one = [Whole { name: "a", cols: 1, len: 1 }];
        let p = Params { parts: &one, start: &|_, out| out.fill(0.0) };
        let e = Codec::by_name("f16").unwrap().encode(&[65520.0], &p).unwrap_err().to_string();
        assert!(e.contains("too large"), "{e}");
        assert!(matches!(Codec::by_name("zip"), Err(Error::Unsupported { .. })));
    }

    #[test]
    fn exact_codecs_refuse_what_they_cannot_hold() {
        with(false, |p, n| {
            for codec in CODECS.iter().filter(|c| !c.rounds) {
                let e = codec.encode(&noise(n), p).unwrap_err();
                assert!(matches!(e, Error::Invalid { .. }), "{}: {e}", codec.name);
            }
        });
    }

    /// The size that Golomb-Rice gaps take on random places (ComPEFT, table in section 4.1 of the methods).
    #[test]
    fn ternary_values_take_what_the_table_says() {
        let n = 200_000;
        let part = [Whole { name: "a", cols: n, len: n }];
        let p = Params { parts: &part, start: &|_, out| out.fill(0.0) };
        let ternary = Codec::by_name("ternary").unwrap();
        let mut noise = vec![0.0; n];
        Stream::new(1, "places", "test").fill_uniform(0, &mut noise);
        for (density, bits) in [(0.01, 0.091), (0.05, 0.339), (0.1, 0.576), (0.2, 0.939), (0.3, 1.188), (0.5, 1.5)] {
            let half = density as f32 / 2.0;
            let value = |x: &f32| match x.abs() * 0.5 {
                y if y < half * 0.5 => if *x > 0.0 { 0.25 } else { -0.25 },
                y if y < half => if *x > 0.0 { -0.25 } else { 0.25 },
                _ => 0.0,
            };
            let values: Vec<f32> = noise.iter().map(value).collect();
            let bytes = ternary.encode(&values, &p).unwrap();
            let found = bytes.len() as f64 * 8.0 / n as f64;
            assert!((found / bits - 1.0).abs() < 0.02, "{density}: {found} bits a value, {bits} in the table");
            assert_eq!(ternary.decode(&bytes, &p).unwrap(), values);
        }
    }

    /// Levels of a normal distribution take its entropy.
    #[test]
    fn levels_take_their_entropy() {
        let n = 60_000;
        let part = [Whole { name: "v", cols: n, len: n }];
        let p = Params { parts: &part, start: &|_, out| out.fill(0.0) };
        let mut noise = vec![0.0; n];
        Stream::new(2, "levels", "test").fill_uniform(0, &mut noise);
        // Chances 0.16, 0.34, 0.34, 0.16: 1.904 bits.
        let value = |x: &f32| 0.5 * match *x {
            x if x < -0.68 => -1.5,
            x if x < 0.0 => -0.5,
            x if x < 0.68 => 0.5,
            _ => 1.5,
        };
        let values: Vec<f32> = noise.iter().map(value).collect();
        let levels = Codec::by_name("levels").unwrap();
        let bytes = levels.encode(&values, &p).unwrap();
        let bits = bytes.len() as f64 * 8.0 / n as f64;
        assert!((1.89..1.92).contains(&bits), "{bits}");
        assert_eq!(levels.decode(&bytes, &p).unwrap(), values);
        // One bit that is always the same is nearly nothing.
        let same = vec![0.25f32; n];
        assert!(levels.encode(&same, &p).unwrap().len() < 20);
        assert_eq!(levels.encode(&vec![0.0; n], &p).unwrap(), [0]);
    }

    #[test]
    fn masks_multiply_as_the_changes_do() {
        with(false, |p, n| {
            let (starts, values, x) = (p.starts().unwrap(), fitting("masks", p), noise(n));
            let changes: Vec<f32> = values.iter().zip(&starts).map(|(v, s)| v - s).collect();
            let masks = Masks::of(&values, p).unwrap();
            let dot: f32 = changes.iter().zip(&x).map(|(a, b)| a * b).sum();
            assert!((masks.dot(&x) - dot).abs() < 1e-4, "{} {dot}", masks.dot(&x));
            assert!((masks.cosine(&masks) - 1.0).abs() < 1e-12);
            let other: Vec<f32> = starts.iter().zip(&changes).map(|(s, c)| if *c > 0.0 { s - 0.5 } else { *s }).collect();
            let other = Masks::of(&other, p).unwrap();
            let plus = changes.iter().filter(|c| **c > 0.0).count() as f64;
            let wanted = -plus / (f64::from(masks.count()) * plus).sqrt();
            assert!((masks.cosine(&other) - wanted).abs() < 1e-12);
            assert_eq!((masks.scale(), other.scale()), (0.0625, 0.5));
        });
    }

    #[test]
    fn the_smallest_codec_is_found() {
        with(true, |p, n| {
            let smallest = |values: &[f32]| Codec::smallest(values, p, 4 * n).map(|(codec, _)| codec.name);
            assert_eq!(smallest(&noise(n)), Some("f32"));
            assert_eq!(smallest(&fitting("levels", p)), Some("levels"));
            assert_eq!(smallest(&fitting("ternary", p)), Some("ternary"));
            let f16 = noise(n).iter().map(|x| f16::from_f32(*x).to_f32()).collect::<Vec<_>>();
            assert_eq!(smallest(&f16), Some("f16"));
        });
    }

    #[test]
    fn numbers_have_one_spelling() {
        for n in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put_number(n, &mut out);
            assert_eq!(take_number(&mut &out[..]).unwrap(), n);
            assert!(take_number(&mut &out[..out.len() - 1]).is_err());
        }
        assert!(take_number(&mut &[0x80, 0][..]).is_err());
        assert!(take_number(&mut &[0xff; 11][..]).is_err());
        assert!(take_number(&mut &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2][..]).is_err());
    }
}
