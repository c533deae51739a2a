//! Adapters as MLX keeps them: `adapters.safetensors` and `adapter_config.json`. Of each module `lora_a` `[in, rank]`, `lora_b`
//! `[rank, out]` and, of DoRA, `m` `[out]`; rows in the order of Hugging Face files. One rank and one factor (`scale`) are all
//! modules', and modules without tensors in the last `num_layers` blocks change nothing.
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

use super::changes::{Changes, Low, common, matrix, reordered, same_elsewhere, transposed};
use super::json::Json;
use super::lowrank::Slot;
use super::peft::{CONFIG, in_gguf_order, site};
use super::safetensors::{self, Safetensors, Tensor};
use super::{Adapter, Base, Site};
use crate::bytes::{Bytes, Limits};
use crate::error::{Error, Result, printable};
use std::collections::{BTreeMap, BTreeSet};
use std::prelude::v1::*;

/// The name of the file of tensors.
pub const WEIGHTS: &str = "adapters.safetensors";

/// Ends of names of tensors, by their index in what is found of a module.
const ENDS: [&str; 3] = [".lora_a", ".lora_b", ".m"];

/// What of the configuration matters.
#[derive(Default)]
struct Config {
    dora: bool,
    rank: Option<u64>,
    scale: Option<f64>,
    /// Of early versions, whose factor is scale · alpha / rank.
    alpha: Option<f64>,
}

/// Reads a directory.
///
/// # Errors
/// Those of [`read`], and of the system, naming the file.
#[cfg(feature = "std")]
pub fn open(directory: &std::path::Path, base: &Base, limits: &Limits) -> Result<Box<dyn Adapter>> {
    use crate::bytes::map;
    let config = map::read(&directory.join(CONFIG), limits.json)?;
    let bytes = map::open(&directory.join(WEIGHTS))?;
    let adapter = read(&config, bytes.clone(), base, limits);
    bytes.check().and(adapter).map_err(|e| e.in_file(directory.to_string_lossy()))
}

/// Reads the two files.
///
/// # Errors
/// `Corrupt` and `Limit` for such files; `Unsupported` naming what this build does not understand; `Mismatch` where tensors
/// do not fit the configuration or the base; `Invalid` if the adapter would change nothing.
pub fn read(config: &[u8], tensors: Bytes, base: &Base, limits: &Limits) -> Result<Box<dyn Adapter>> {
    let config = read_config(config, limits)?;
    let file = Safetensors::parse(tensors, limits)?;
    let mut found: BTreeMap<Site, [Option<&Tensor>; 3]> = BTreeMap::new();
    let mut unknown = Vec::new();
    for tensor in file.tensors() {
        let end = ENDS.iter().enumerate().find_map(|(i, end)| Some((i, tensor.name.strip_suffix(end)?)));
        let place = end.filter(|(i, _)| *i < 2 || config.dora).and_then(|(i, path)| Some((i, site(path, base)?)));
        let place = place.and_then(|(i, site)| found.entry(site).or_default().get_mut(i));
        match place {
            Some(place) => {
                if let Some(before) = place.replace(tensor) {
                    let both = format!("{} and {}", printable(&before.name), printable(&tensor.name));
                    return Err(Error::corrupt(format!("two tensors for one place: {both}"), 0));
                }
            }
            None => unknown.push(printable(&tensor.name)),
        }
    }
    if !unknown.is_empty() {
        let more = unknown.len().saturating_sub(5);
        unknown.truncate(5);
        let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
        return Err(Error::unsupported("adapter tensors", format!("{}{rest}", unknown.join(", "))));
    }
    let mut all = Vec::new();
    for (site, parts) in found {
        let (Some(a), Some(b), true) = (parts[0], parts[1], parts[2].is_some() == config.dora) else {
            let names: Vec<String> = parts.iter().flatten().map(|t| printable(&t.name)).collect();
            let wanted = if config.dora { "lora_a, lora_b and m" } else { "lora_a and lora_b" };
            return Err(Error::mismatch(site.to_string(), wanted, names.join(", ")));
        };
        same_elsewhere(base, site)?;
        let [n_in, n_out] = base.shape(site)?;
        let rank = b.shape.first().copied().unwrap_or(0);
        Limits::check("rank", rank, limits.rank)?;
        for (tensor, wanted) in [(a, [n_in as u64, rank]), (b, [rank, n_out as u64])] {
            if tensor.shape != wanted {
                let what = format!("shape of {}", printable(&tensor.name));
                return Err(Error::mismatch(what, format!("{wanted:?}"), format!("{:?}", tensor.shape)));
            }
        }
        if config.rank.is_some_and(|said| said != rank) {
            return Err(Error::mismatch(format!("rank of {site}"), config.rank.unwrap_or(0), rank));
        }
        let scale = config.scale.unwrap_or(1.0);
        let alpha = config.alpha.map_or(scale * rank as f64, |alpha| scale * alpha) as f32;
        let n = rank as usize;
        // The shapes were checked.
        let (n_a, n_b) = (n_in.saturating_mul(n), n_out.saturating_mul(n));
        let slot = Slot::new(site, base, n, alpha, false)?;
        let turned = |tensor, count, cols, rows| matrix(rows, cols, &transposed(&file.vector(tensor, count)?, rows));
        let (a, b) = (turned(a, n_a, n_in, n)?, turned(b, n_b, n, n_out)?);
        let lengths = parts[2].map(|m| file.vector(m, n_out)).transpose()?;
        let lengths = lengths.map(|m| reordered(base, site, &m, false));
        all.push(Low { slot, a, b: in_gguf_order(b, site, base)?, lengths, bias: None });
    }
    Changes::Low(all, false).build(base, limits)
}

fn read_config(bytes: &[u8], limits: &Limits) -> Result<Config> {
    Limits::check("bytes of a JSON text", bytes.len() as u64, limits.json)?;
    let mut config = Config::default();
    let mut json = Json::new(bytes, limits)?;
    json.object(|json, key| {
        match key {
            "fine_tune_type" => match &*json.string()? {
                "lora" => {}
                "dora" => config.dora = true,
                other => return Err(Error::unsupported("fine_tune_type", printable(other))),
            },
            "use_dora" => config.dora |= json.word()? == Some(true),
            "lora_parameters" => json.object(|json, key| {
                match key {
                    "rank" => config.rank = Some(json.whole()?),
                    "scale" => config.scale = Some(json.real()?),
                    "alpha" => config.alpha = Some(json.real()?),
                    // What else is there says how it was trained, and where: the tensors show the latter.
                    _ => _ = json.skip()?,
                }
                Ok(())
            })?,
            _ => _ = json.skip()?,
        }
        Ok(())
    })?;
    json.end()?;
    match config.scale.is_some() || config.alpha.is_some() {
        true => Ok(config),
        false => Err(Error::mismatch(CONFIG, "lora_parameters with a scale", "none")),
    }
}

/// Names and bytes of the files of a folder that MLX reads. Low-rank kinds that it lacks become LoRA; ranks that differ become
/// the largest, with zeros.
///
/// # Errors
/// `Unsupported` for adapters that are neither LoRA nor DoRA, and for architectures whose blocks have other names there;
/// `Mismatch` if `base` is another than the adapter's.
pub fn write(adapter: &dyn Adapter, base: &Base) -> Result<[(&'static str, Vec<u8>); 2]> {
    let lacks = |what: &str| Error::unsupported("adapter for MLX", format!("{what}: MLX has LoRA and DoRA alone"));
    let Changes::Low(all, _) = Changes::of(adapter, base)? else { return Err(lacks(adapter.kind().name)) };
    if all.iter().any(|low| low.bias.is_some()) {
        return Err(lacks("lora with biases"));
    }
    if base.hf_blocks != "model.layers" {
        return Err(Error::unsupported("architecture for MLX", &base.architecture));
    }
    let (rank, scale) = common(&all);
    let (mut keys, mut lowest, mut tensors) = (BTreeSet::new(), base.layers(), Vec::new());
    for low in &all {
        let (site, [n_in, n_out]) = (low.slot.site, low.slot.shape);
        same_elsewhere(base, site)?;
        keys.insert(base.hf(site.role));
        lowest = lowest.min(site.layer);
        let [a, b] = low.with(rank, scale);
        let name = base.module(site);
        tensors.push((format!("{name}.lora_a"), vec![n_in, rank], transposed(&a, n_in)));
        let b = reordered(base, site, &b, true);
        tensors.push((format!("{name}.lora_b"), vec![rank, n_out], transposed(&b, rank)));
        let m = low.lengths.as_ref().map(|m| reordered(base, site, m, true));
        tensors.extend(m.map(|m| (format!("{name}.m"), vec![n_out], m)));
    }
    let dora = all.iter().any(|low| low.lengths.is_some());
    let config = serde_json::json!({
        "fine_tune_type": if dora { "dora" } else { "lora" },
        "lora_parameters": { "rank": rank, "scale": f64::from(scale), "dropout": 0.0, "keys": keys },
        "num_layers": base.layers().saturating_sub(lowest),
        "model": base.name,
    });
    let mut text = serde_json::to_vec_pretty(&config).unwrap_or_default();
    text.push(b'\n');
    Ok([(CONFIG, text), (WEIGHTS, safetensors::write(tensors))])
}
