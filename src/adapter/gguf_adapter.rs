//! LoRA adapters in GGUF files, as llama.cpp reads them: `NAME.lora_a` `[rank, in]` and `NAME.lora_b` `[out, rank]` for a
//! weight `NAME`, rows already in the order of GGUF files. The factor is alpha over the rank, or 1 if alpha is 0.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::todo,
        clippy::arithmetic_side_effects
    )
)]

use super::kinds::lora::Lora;
use super::lowrank::Slot;
use super::{Base, Site};
use crate::bytes::Limits;
use crate::error::{Error, Result, printable};
use crate::gguf::Gguf;
use std::collections::BTreeMap;
use std::prelude::v1::*;

const SUFFIXES: [&str; 2] = [".lora_a", ".lora_b"];

/// Reads an adapter of any float or block format.
///
/// # Errors
/// `Unsupported` for other kinds of adapter and for weights to which adapters cannot attach here; `Mismatch` where it
/// does not fit the base or is no adapter; `Invalid` if it would change nothing.
pub fn read(file: &Gguf, base: &Base, limits: &Limits) -> Result<Lora> {
    if file.string("general.type")? != Some("adapter") {
        let why = format!("it is {}; a model is what an adapter attaches to (-m MODEL)", file.looks_like());
        return Err(Error::invalid("not an adapter", why));
    }
    let kind = file.require_string("adapter.type")?;
    if kind != "lora" {
        return Err(Error::unsupported("adapter.type", kind));
    }
    if file.get("adapter.alora.invocation_tokens").is_some() {
        return Err(Error::unsupported("adapter", "one that starts at an invocation text (aLoRA)"));
    }
    let architecture = file.require_string("general.architecture")?;
    if architecture != base.architecture {
        let [wanted, found] = [architecture, &base.architecture].map(printable);
        return Err(Error::mismatch("architecture of the base", wanted, found));
    }
    let alpha = file.f32("adapter.lora.alpha")?.unwrap_or(0.0);

    let mut halves: BTreeMap<Site, [Option<&str>; 2]> = BTreeMap::new();
    for tensor in file.tensors() {
        let site = |end| Site::by_gguf(tensor.name.strip_suffix(end)?);
        let [a, b] = SUFFIXES.map(site);
        let Some(site) = a.or(b) else {
            return Err(Error::unsupported("adapter tensor", &tensor.name));
        };
        let [first, second] = halves.entry(site).or_default();
        *(if a.is_some() { first } else { second }) = Some(&tensor.name);
    }
    let mut slots = Vec::new();
    for (site, pair) in &halves {
        let &[Some(a), Some(b)] = pair else {
            let found = pair.iter().flatten().map(|n| printable(n)).collect::<String>();
            return Err(Error::mismatch(format!("adapter of {site}"), "both lora_a and lora_b", found));
        };
        let [n_in, n_out] = base.shape(*site)?;
        let (ma, mb) = (file.matrix(a)?, file.matrix(b)?);
        let rank = ma.rows;
        for (name, m, wanted) in [(a, &ma, [rank, n_in]), (b, &mb, [n_out, rank])] {
            if [m.rows, m.cols] != wanted {
                let what = format!("shape of {}", printable(name));
                return Err(Error::mismatch(what, format!("{wanted:?}"), format!("{:?}", [m.rows, m.cols])));
            }
        }
        Limits::check("rank", rank as u64, limits.rank)?;
        let slot = Slot::new(*site, base, rank, if alpha == 0.0 { rank as f32 } else { alpha }, false)?;
        slots.push((slot, [ma, mb]));
    }
    Lora::assemble(slots, false, |_, row| row)
}
