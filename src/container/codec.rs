//! How a run of parameters is spelt in a section. The number of values is known from elsewhere (the shapes), so a
//! stream can neither promise nor unpack to more.

use crate::error::{Error, Result};
use half::{bf16, f16};
use std::prelude::v1::*;

/// Values that are spelt and checked at a time, so that a check needs no second copy.
const PART: usize = 4096;

/// One row of [`CODECS`]. The bytes of values are those of the first ones followed by those of the rest.
pub struct Codec {
    /// As files name it.
    pub name: &'static str,
    /// Values to bytes.
    pub encode: fn(&[f32]) -> Vec<u8>,
    /// Bytes to exactly that many values. Reserves nothing before the bytes are seen to hold them.
    pub decode: fn(&[u8], usize) -> Result<Vec<f32>>,
}

/// Every codec this build knows.
pub static CODECS: &[Codec] = &[
    Codec {
        name: "f32",
        encode: |values| values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        decode: |bytes, n| fixed(bytes, n, f32::from_le_bytes),
    },
    Codec {
        name: "f16",
        encode: |values| values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        decode: |bytes, n| fixed(bytes, n, |b| f16::from_le_bytes(b).to_f32()),
    },
    Codec {
        name: "bf16",
        encode: |values| values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
        decode: |bytes, n| fixed(bytes, n, |b| bf16::from_le_bytes(b).to_f32()),
    },
];

impl Codec {
    /// # Errors
    /// `Unsupported` if this build does not know it.
    pub fn by_name(name: &str) -> Result<&'static Codec> {
        CODECS.iter().find(|c| c.name == name).ok_or_else(|| Error::unsupported("codec", name))
    }
}

/// The bytes of `values`.
///
/// # Errors
/// `Unsupported` for an unknown codec; `Invalid` if a value is not finite or does not fit the codec.
pub fn encode(codec: &str, values: &[f32]) -> Result<Vec<u8>> {
    let row = Codec::by_name(codec)?;
    if let Some(i) = values.iter().position(|x| !x.is_finite()) {
        return Err(Error::invalid("parameters", format!("value {i} is not finite")));
    }
    let mut bytes = Vec::new();
    for part in values.chunks(PART) {
        let spelt = (row.encode)(part);
        decode(codec, &spelt, part.len())
            .map_err(|_| Error::invalid("parameters", format!("a value is too large for {codec}; f32 would do")))?;
        let each = spelt.len().checked_div(part.len()).unwrap_or_default();
        bytes.reserve_exact(values.len().saturating_mul(each).saturating_sub(bytes.len()));
        bytes.extend_from_slice(&spelt);
    }
    Ok(bytes)
}

/// Exactly `len` finite values.
///
/// # Errors
/// `Unsupported` for an unknown codec; `Corrupt` if the bytes hold another number of values or one that is not finite.
pub fn decode(codec: &str, bytes: &[u8], len: usize) -> Result<Vec<f32>> {
    let values = (Codec::by_name(codec)?.decode)(bytes, len)?;
    match values.iter().position(|x| !x.is_finite()) {
        Some(i) => Err(Error::corrupt(format!("parameter {i} of {len} is not finite"), 0)),
        None => Ok(values),
    }
}

/// Values of `N` bytes each.
fn fixed<const N: usize>(bytes: &[u8], len: usize, value: impl Fn([u8; N]) -> f32) -> Result<Vec<f32>> {
    let (chunks, rest) = bytes.as_chunks::<N>();
    if chunks.len() != len || !rest.is_empty() {
        return Err(Error::corrupt(format!("{} bytes of parameters, {len} of {N} bytes wanted", bytes.len()), 0));
    }
    Ok(chunks.iter().map(|b| value(*b)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_within_the_codec() {
        let values = [0.0, -0.0, 1.0, -2.5, 1e-3, 65504.0, f32::MIN_POSITIVE];
        for codec in CODECS {
            let bytes = encode(codec.name, &values).unwrap();
            let back = decode(codec.name, &bytes, values.len()).unwrap();
            for (a, b) in values.iter().zip(&back) {
                assert!((a - b).abs() <= a.abs() / 256.0 + 1e-7, "{}: {a} {b}", codec.name);
            }
            assert_eq!(encode(codec.name, &back).unwrap(), bytes, "{}: settles at once", codec.name);
            assert!(decode(codec.name, &[], 0).unwrap().is_empty());
            for wrong in [0, values.len() - 1, values.len() + 1, usize::MAX] {
                assert!(decode(codec.name, &bytes, wrong).is_err(), "{}: {wrong}", codec.name);
            }
            assert!(decode(codec.name, &bytes[1..], values.len()).is_err());
            assert!(decode(codec.name, &(codec.encode)(&[f32::NAN, 1.0]), 2).is_err());
            assert!(decode(codec.name, &(codec.encode)(&[1.0, f32::INFINITY]), 2).is_err());
        }
        assert_eq!(decode("f32", &encode("f32", &values).unwrap(), 7).unwrap(), values);
        assert!(encode("f16", &[65520.0]).unwrap_err().to_string().contains("too large"));
        assert!(encode("f32", &[f32::NAN]).is_err());
        assert!(matches!(encode("zip", &[]), Err(Error::Unsupported { .. })));
    }
}
