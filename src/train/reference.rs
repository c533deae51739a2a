//! The file of reference log-probabilities: they depend on the base and the data only, so they are computed once.
//!
//! A container of kind `referenc` with `head` (`base` and `data`, BLAKE3 hashes in hexadecimal) and `logp`: `ln p` of
//! the completion of each example and then of its other one, in nats, `f64` little-endian, NaN if unknown.

use super::{Example, data};
use crate::bytes::{Bytes, Limits};
use crate::container::head::Head;
use crate::container::{Builder, Container};
use crate::error::{Error, Result};
use std::prelude::v1::*;

const KIND: &str = "referenc";

fn head(base: &[u8; 32], examples: &[Example]) -> Head {
    let mut head = Head::new();
    head.set("base", blake3::Hash::from(*base).to_hex().as_str());
    head.set("data", blake3::Hash::from(data::digest(examples)).to_hex().as_str());
    head
}

/// The file with the reference log-probabilities of `examples`.
pub fn to_bytes(base: &[u8; 32], examples: &[Example]) -> Vec<u8> {
    let known = examples.iter().flat_map(Example::sequences).map(|e| e.reference.unwrap_or(f64::NAN));
    let logp: Vec<u8> = known.flat_map(f64::to_le_bytes).collect();
    Builder::new(KIND).section("head", true, head(base, examples).encode()).section("logp", true, logp).finish()
}

/// Fills in the reference log-probabilities that `examples` lack from a file.
///
/// # Errors
/// Those of `Container::read`; `Mismatch` if it belongs to another base or other data.
pub fn fill(file: Bytes, base: &[u8; 32], examples: &mut [Example], limits: &Limits) -> Result<()> {
    let file = Container::read(file, limits)?;
    file.require_kind(KIND)?;
    let found = Head::decode(&file.require("head")?, limits)?;
    let wanted = head(base, examples);
    for key in ["base", "data"] {
        if found.text(key)? != wanted.text(key)? {
            return Err(Error::mismatch(
                format!("{key} of the log-probabilities"),
                wanted.text(key)?,
                found.text(key)?,
            ));
        }
    }
    let logp = file.require("logp")?;
    let (values, rest) = logp.as_chunks::<8>();
    let n = examples.iter().flat_map(Example::sequences).count();
    if values.len() != n || !rest.is_empty() {
        return Err(Error::mismatch("log-probabilities", n, values.len()));
    }
    let mut values = values.iter().map(|b| f64::from_le_bytes(*b));
    for Example { reference, other, .. } in examples {
        for reference in [Some(reference), other.as_mut().map(|o| &mut o.reference)].into_iter().flatten() {
            let known = values.next().filter(|v| v.is_finite());
            *reference = reference.or(known);
        }
    }
    Ok(())
}
