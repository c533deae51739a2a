//! How parameters are encoded in a section: a whole part at a time, given its shape and its values before training. The
//! number of values is known from the shapes, so a stream can neither promise more values nor unpack to more.

use crate::error::{Error, Result};
use half::{bf16, f16};
use std::prelude::v1::*;

/// A part of the parameters, without its values.
#[derive(Clone, Copy, Debug)]
pub struct Whole<'a> {
    /// Its name.
    pub name: &'a str,
    /// Values of a row.
    pub cols: usize,
    /// Values in all.
    pub len: usize,
    /// Its values before the first step; empty for codecs that do not need them ([`Codec::from_start`]).
    pub start: &'a [f32],
}

/// One row of [`CODECS`].
pub struct Codec {
    /// Its name in files.
    pub name: &'static str,
    /// Whether it encodes the difference to the values before training.
    pub from_start: bool,
    /// Minimum number of bytes for a number of values.
    pub least: fn(usize) -> usize,
    /// Appends the bytes of the values.
    write: fn(&[f32], &Whole, &mut Vec<u8>),
    /// Decodes a part from the front of the remaining bytes. Checks the length before it reserves memory.
    read: fn(&mut &[u8], &Whole) -> Result<Vec<f32>>,
}

/// Every codec this build knows.
pub static CODECS: &[Codec] = &[
    Codec {
        name: "f32",
        from_start: false,
        least: |n| n.saturating_mul(4),
        write: |values, _, out| out.extend(values.iter().flat_map(|x| x.to_le_bytes())),
        read: |rest, whole| fixed(rest, whole, f32::from_le_bytes),
    },
    Codec {
        name: "f16",
        from_start: false,
        least: |n| n.saturating_mul(2),
        write: |values, _, out| out.extend(values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes())),
        read: |rest, whole| fixed(rest, whole, |b| f16::from_le_bytes(b).to_f32()),
    },
    Codec {
        name: "bf16",
        from_start: false,
        least: |n| n.saturating_mul(2),
        write: |values, _, out| out.extend(values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes())),
        read: |rest, whole| fixed(rest, whole, |b| bf16::from_le_bytes(b).to_f32()),
    },
];

impl Codec {
    /// # Errors
    /// `Unsupported` if this build does not know it.
    pub fn by_name(name: &str) -> Result<&'static Codec> {
        CODECS.iter().find(|c| c.name == name).ok_or_else(|| Error::unsupported("codec", name))
    }

    /// Appends the bytes of the values of a part.
    ///
    /// # Errors
    /// `Invalid` if a value is not finite or does not fit the codec.
    pub fn encode(&self, values: &[f32], whole: &Whole, out: &mut Vec<u8>) -> Result<()> {
        if let Some(i) = values.iter().position(|x| !x.is_finite()) {
            return Err(Error::invalid("parameters", format!("value {i} of {} is not finite", whole.name)));
        }
        let from = out.len();
        (self.write)(values, whole, out);
        if self.decode(&mut out.get(from..).unwrap_or_default(), whole).is_err() {
            out.truncate(from);
            return Err(Error::invalid(
                "parameters",
                format!("a value is too large for {}; f32 can hold it", self.name),
            ));
        }
        Ok(())
    }

    /// The values of a part, all finite, from the front of `rest`, which is advanced.
    ///
    /// # Errors
    /// `Corrupt` if there are fewer bytes than its values take, or a value is not finite.
    pub fn decode(&self, rest: &mut &[u8], whole: &Whole) -> Result<Vec<f32>> {
        let values = (self.read)(rest, whole)?;
        match values.iter().position(|x| !x.is_finite()) {
            Some(i) => Err(Error::corrupt(format!("value {i} of {}, {}, is not finite", whole.name, whole.len), 0)),
            None => Ok(values),
        }
    }
}

/// Values of `N` bytes each.
fn fixed<const N: usize>(rest: &mut &[u8], whole: &Whole, value: impl Fn([u8; N]) -> f32) -> Result<Vec<f32>> {
    let bytes = whole.len.checked_mul(N).and_then(|n| rest.split_at_checked(n));
    let Some((bytes, after)) = bytes else {
        let Whole { name, len, .. } = whole;
        return Err(Error::corrupt(format!("{} bytes for {len} values of {name}, {N} bytes each", rest.len()), 0));
    };
    *rest = after;
    Ok(bytes.as_chunks::<N>().0.iter().map(|b| value(*b)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(len: usize) -> Whole<'static> {
        Whole { name: "a", cols: len.max(1), len, start: &[] }
    }

    #[test]
    fn values_survive_within_the_codec() {
        let values = [0.0, -0.0, 1.0, -2.5, 1e-3, 65504.0, f32::MIN_POSITIVE];
        for codec in CODECS {
            let encode = |values: &[f32]| {
                let mut out = vec![7];
                codec.encode(values, &whole(values.len()), &mut out).map(|()| out[1..].to_vec())
            };
            let decode = |mut bytes: &[u8], n: usize| codec.decode(&mut bytes, &whole(n)).map(|v| (v, bytes.len()));
            let bytes = encode(&values).unwrap();
            assert!(bytes.len() >= (codec.least)(values.len()));
            let (back, left) = decode(&bytes, values.len()).unwrap();
            assert_eq!(left, 0);
            for (a, b) in values.iter().zip(&back) {
                assert!((a - b).abs() <= a.abs() / 256.0 + 1e-7, "{}: {a} {b}", codec.name);
            }
            assert_eq!(encode(&back).unwrap(), bytes, "{}: settles at once", codec.name);
            assert!(decode(&[], 0).unwrap().0.is_empty());
            // Parts follow each other without gaps.
            assert_eq!(decode(&[&bytes[..], &bytes[..]].concat(), values.len()).unwrap(), (back, bytes.len()));
            for wrong in [values.len() + 1, usize::MAX] {
                assert!(decode(&bytes, wrong).is_err(), "{}: {wrong}", codec.name);
            }
            assert!(decode(&bytes[1..], values.len()).is_err());
            let mut damaged = Vec::new();
            (codec.write)(&[1.0, f32::INFINITY], &whole(2), &mut damaged);
            assert!(decode(&damaged, 2).is_err());
            assert!(encode(&[f32::NAN]).is_err());
        }
        let f16 = Codec::by_name("f16").unwrap();
        let e = f16.encode(&[65520.0], &whole(1), &mut Vec::new()).unwrap_err().to_string();
        assert!(e.contains("too large"), "{e}");
        assert!(matches!(Codec::by_name("zip"), Err(Error::Unsupported { .. })));
    }
}
