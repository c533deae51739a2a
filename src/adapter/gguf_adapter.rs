//! LoRA adapters in GGUF files, as llama.cpp reads them: `NAME.lora_a` `[rank, in]` and `NAME.lora_b` `[out, rank]` for a
//! weight `NAME` of the model's file, rows in the order of GGUF files. The factor is alpha over the rank, or 1 if alpha is 0.
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

use super::changes::{Changes, Low, common, values};
use super::lowrank::Slot;
use super::{Adapter, Base, Site};
use crate::bytes::{Bytes, Limits};
use crate::error::{Error, Result, printable};
use crate::gguf::{Gguf, Writer};
use crate::quant::Format;
use std::collections::BTreeMap;
use std::prelude::v1::*;

const SUFFIXES: [&str; 2] = [".lora_a", ".lora_b"];

/// Reads an adapter of any float or block format.
///
/// # Errors
/// `Unsupported` for other kinds of adapter and for weights to which adapters cannot attach here; `Mismatch` where it
/// does not fit the base or is no adapter; `Invalid` if it would change nothing.
pub fn read(file: &Gguf, base: &Base, limits: &Limits) -> Result<Box<dyn Adapter>> {
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
        let site = |end| base.by_gguf(tensor.name.strip_suffix(end)?);
        let [a, b] = SUFFIXES.map(site);
        let Some(site) = a.or(b) else {
            return Err(Error::unsupported("adapter tensor", &tensor.name));
        };
        let [first, second] = halves.entry(site).or_default();
        *(if a.is_some() { first } else { second }) = Some(&tensor.name);
    }
    let mut all = Vec::new();
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
        all.push(Low { slot, a: ma, b: mb, lengths: None, bias: None });
    }
    Changes::Low(all, false).build(base, limits)
}

/// The bytes of a file that llama.cpp reads, with values as `f32`. Low-rank kinds that it lacks become LoRA.
///
/// # Errors
/// `Unsupported` for adapters that are no LoRA; `Mismatch` if `base` is another than the adapter's.
pub fn write(adapter: &dyn Adapter, base: &Base) -> Result<Vec<u8>> {
    let lacks = |what: &str| Error::unsupported("adapter in a GGUF file", format!("{what}: llama.cpp has LoRA alone"));
    let Changes::Low(all, _) = Changes::of(adapter, base)? else { return Err(lacks(adapter.kind().name)) };
    if all.iter().any(|low| low.lengths.is_some()) {
        return Err(lacks(adapter.kind().name));
    }
    if all.iter().any(|low| low.bias.is_some()) {
        return Err(lacks("lora with biases"));
    }
    let f32s = Format::by_name("F32").ok_or_else(|| Error::unsupported("tensor format", "F32"))?;
    // One alpha for all: the factor of each is alpha over its rank, and what differs is in B.
    let (_, factor) = common(&all);
    let first = all.first().map(|low| low.slot.clone());
    let exact = first.as_ref().is_some_and(|slot| slot.alpha / slot.rank as f32 == slot.factor);
    let rank = first.as_ref().map_or(1, |slot| slot.rank);
    let alpha = first.filter(|_| exact).map_or(factor * rank as f32, |slot| slot.alpha);
    let mut file = Writer::new();
    file.set("general.type", "adapter");
    file.set("general.architecture", base.architecture.as_str());
    if !base.name.is_empty() {
        file.set("general.base_model.count", 1u32);
        file.set("general.base_model.0.name", base.name.as_str());
    }
    file.set("adapter.type", "lora");
    file.set("adapter.lora.alpha", alpha);
    for low in &all {
        let (slot, name) = (&low.slot, base.gguf(low.slot.site));
        let [n_in, n_out] = slot.shape.map(|n| n as u64);
        let own = slot.rank;
        let [_, b] = low.with(own, alpha / own as f32);
        for (suffix, dims, values) in
            [(".lora_a", [n_in, own as u64], values(&low.a)), (".lora_b", [own as u64, n_out], b)]
        {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            file.tensor(format!("{name}{suffix}"), &dims, f32s, Bytes::from(bytes));
        }
    }
    file.finish()
}
