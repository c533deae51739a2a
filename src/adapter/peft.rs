//! LoRA adapters as Hugging Face PEFT saves them: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Ranks are those of the tensors and must agree with the configuration. Every other option that changes what a LoRA
//! computes is refused by name. Modules are called as the architecture's blocks call them. Rows of q and k are put into the
//! order of GGUF files.
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

use super::json::Json;
use super::kinds::lora::Lora;
use super::lowrank::Slot;
use super::safetensors::{Safetensors, Tensor};
use super::{Base, Site, gguf_row};
use crate::bytes::{Bytes, FETCH, LFS_POINTER, Limits};
use crate::error::{Error, Result, printable};
use std::collections::BTreeMap;
use std::prelude::v1::*;

/// Keys that must be empty (null, false, empty, none), since a LoRA here consists of A and B only.
const MUST_BE_OFF: &[&str] = &[
    "use_dora",
    "bias",
    "lora_bias",
    "modules_to_save",
    "fan_in_fan_out",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "use_qalora",
    "use_bdlora",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
];

/// Initialisations that move a part of the frozen weights into the adapter, so that it does not fit the original weights.
const CHANGE_THE_BASE: &[&str] = &["pissa", "olora", "corda", "loftq", "lora_ga"];

/// Paths before `layers` in names of tensors.
const PREFIXES: &[&str] = &["base_model.model.model.", "base_model.model.", "model.", ""];

/// The contents of the configuration.
#[derive(Debug, Default)]
struct Config {
    rank: u64,
    alpha: f64,
    stabilised: bool,
    ranks: Vec<(String, f64)>,
    alphas: Vec<(String, f64)>,
}

/// Reads a directory.
///
/// # Errors
/// Those of [`read`], and of the system, naming the file.
#[cfg(feature = "std")]
pub fn open(directory: &std::path::Path, base: &Base, limits: &Limits) -> Result<Lora> {
    use crate::bytes::map;
    if let Some(e) = super::foreign::folder(directory) {
        return Err(e.in_file(directory.to_string_lossy()));
    }
    let config = directory.join("adapter_config.json");
    let config_bytes = map::read(&config, limits.json).map_err(|e| e.in_file(config.to_string_lossy()))?;
    let tensors = directory.join("adapter_model.safetensors");
    let bytes = map::open(&tensors).map_err(|e| e.in_file(tensors.to_string_lossy()))?;
    let adapter = read(&config_bytes, bytes.clone(), base, limits);
    bytes.check().and(adapter).map_err(|e| e.in_file(directory.to_string_lossy()))
}

/// Reads the two files.
///
/// # Errors
/// `Corrupt` and `Limit` for such files; `Unsupported` naming an option that this build does not support; `Mismatch` where
/// tensors do not fit the configuration or the base; `Invalid` if the adapter would change nothing.
pub fn read(config: &[u8], tensors: Bytes, base: &Base, limits: &Limits) -> Result<Lora> {
    let config = read_config(config, limits)?;
    let file = Safetensors::parse(tensors, limits)?;
    let mut halves: BTreeMap<Site, [Option<&Tensor>; 2]> = BTreeMap::new();
    let mut unknown: Vec<&str> = Vec::new();
    for tensor in file.tensors() {
        match place(&tensor.name, base) {
            Some((site, half)) => {
                let [a, b] = halves.entry(site).or_default();
                let before = if half == Half::A { a } else { b }.replace(tensor);
                if let Some(before) = before {
                    let both = format!("{} and {}", printable(&before.name), printable(&tensor.name));
                    return Err(Error::corrupt(format!("two tensors for {site}: {both}"), 0));
                }
            }
            None => unknown.push(&tensor.name),
        }
    }
    if !unknown.is_empty() {
        let rest = match unknown.len().saturating_sub(5) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let names = unknown.iter().take(5).map(|n| printable(n)).collect::<Vec<_>>().join(", ");
        return Err(Error::unsupported("adapter tensors", format!("{names}{rest}")));
    }
    let mut slots = Vec::new();
    for (site, pair) in &halves {
        let &[Some(a), Some(b)] = pair else {
            let (there, missing) = if matches!(pair, [Some(_), _]) { ("A", "B") } else { ("B", "A") };
            return Err(Error::mismatch(
                site.to_string(),
                format!("lora_A and lora_B, but no lora_{missing}"),
                format!("lora_{there}"),
            ));
        };
        let rank = a.shape.first().copied().unwrap_or(0);
        let [n_in, n_out] = base.shape(*site)?;
        for (tensor, wanted) in [(a, [rank, n_in as u64]), (b, [n_out as u64, rank])] {
            if tensor.shape != wanted {
                let what = format!("shape of {}", printable(&tensor.name));
                return Err(Error::mismatch(what, format!("{wanted:?}"), format!("{:?}", tensor.shape)));
            }
        }
        let said = pattern(&config.ranks, *site, base).unwrap_or(config.rank as f64);
        if said != rank as f64 {
            return Err(Error::mismatch(format!("rank of {site}"), said, rank));
        }
        Limits::check("rank", rank, limits.rank)?;
        let alpha = pattern(&config.alphas, *site, base).unwrap_or(config.alpha) as f32;
        let slot = Slot::new(*site, base, rank as usize, alpha, config.stabilised)?;
        slots.push((slot, [file.matrix(a)?, file.matrix(b)?]));
    }
    Lora::assemble(slots, config.stabilised, |site, row| base.paired(site).map_or(row, |width| gguf_row(row, width)))
}

/// One of the two matrices of a LoRA.
#[derive(Clone, Copy, PartialEq)]
enum Half {
    A,
    B,
}

/// Where a tensor belongs, and which of the two it is.
fn place(name: &str, base: &Base) -> Option<(Site, Half)> {
    let path = PREFIXES.iter().find_map(|p| name.strip_prefix(p).filter(|rest| rest.starts_with("layers.")))?;
    let path = path.strip_suffix(".weight")?;
    let path = path.strip_suffix(".default").unwrap_or(path);
    let half = |end, half| Some((path.strip_suffix(end)?, half));
    let (module, half) = half(".lora_A", Half::A).or_else(|| half(".lora_B", Half::B))?;
    // `model.` replaces the path before `layers`, which was checked.
    Some((Site::by_hf(&format!("model.{}", module), base)?, half))
}

/// The first pattern that matches the last names of the module. PEFT's patterns are regular expressions; in practice
/// they are names.
fn pattern(patterns: &[(String, f64)], site: Site, base: &Base) -> Option<f64> {
    let module = format!("model.layers.{}.{}", site.layer, base.hf(site.role));
    let fits = |p: &str| module.strip_suffix(p).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    patterns.iter().find(|(p, _)| fits(p)).map(|(_, value)| *value)
}

fn read_config(bytes: &[u8], limits: &Limits) -> Result<Config> {
    if bytes.starts_with(LFS_POINTER) {
        return Err(Error::invalid("adapter_config.json", FETCH));
    }
    Limits::check("bytes of a JSON text", bytes.len() as u64, limits.json)?;
    let (mut kind, mut rank, mut alpha) = (None, None, None);
    let mut config = Config::default();
    let mut json = Json::new(bytes, limits)?;
    json.object(|json, key| {
        match key {
            "peft_type" => kind = Some(json.string()?),
            "r" => rank = Some(json.whole()?),
            "lora_alpha" => alpha = Some(json.real()?),
            "use_rslora" => config.stabilised = json.word()? == Some(true),
            "rank_pattern" => config.ranks = read_pattern(json, key, limits)?,
            "alpha_pattern" => config.alphas = read_pattern(json, key, limits)?,
            "init_lora_weights" if json.peek() == Some(b'"') => {
                let start = json.string()?;
                if CHANGE_THE_BASE.iter().any(|name| start.starts_with(name)) {
                    return Err(Error::unsupported("init_lora_weights", format!("{start}, which changes the base")));
                }
            }
            key if MUST_BE_OFF.contains(&key) => {
                if !json.skip()? {
                    return Err(Error::unsupported("adapter_config.json", format!("`{key}` is set")));
                }
            }
            _ => _ = json.skip()?,
        }
        Ok(())
    })?;
    json.end()?;
    let missing = |key: &str| Error::mismatch("adapter_config.json", format!("key {key}"), "none");
    let kind = kind.ok_or_else(|| missing("peft_type"))?;
    if kind != "LORA" {
        return Err(Error::unsupported("peft_type", format!("{kind}; this build reads LORA")));
    }
    config.rank = rank.ok_or_else(|| missing("r"))?;
    Limits::check("rank", config.rank, limits.rank)?;
    config.alpha = alpha.ok_or_else(|| missing("lora_alpha"))?;
    Ok(config)
}

fn read_pattern(json: &mut Json, key: &str, limits: &Limits) -> Result<Vec<(String, f64)>> {
    let mut out = Vec::new();
    if json.peek() == Some(b'n') {
        json.word()?;
        return Ok(out);
    }
    json.object(|json, name| {
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'_') {
            return Err(Error::unsupported(
                "regular expression",
                format!("{name} in `{key}`; module names can be used"),
            ));
        }
        Limits::check("patterns", (out.len() as u64).saturating_add(1), limits.patterns)?;
        out.push((name.into(), json.real()?));
        Ok(())
    })?;
    Ok(out)
}
