//! `config.json`, and the metadata that follow from it.

use super::families::{Factors, Family, Usual};
use crate::bytes::Limits;
use crate::error::{Error, Result, printable};
use crate::gguf::Value;
use crate::text::Json;
use std::prelude::v1::*;

/// The widest head.
const WIDEST: u64 = 1 << 16;
/// The most blocks.
const MOST_BLOCKS: u64 = 10_000;

// Settings have several names, of which the first that is there counts.
pub(super) const LAYERS: &[&str] = &["n_layers", "num_hidden_layers", "n_layer", "num_layers"];
pub(super) const WIDTH: &[&str] = &["hidden_size", "n_embd", "dim"];
pub(super) const HEADS: &[&str] = &["num_attention_heads", "n_head", "n_heads"];
const GROUPS: &[&str] = &["num_key_value_heads", "n_kv_heads"];
const CONTEXT: &[&str] = &["max_position_embeddings", "n_ctx", "n_positions", "max_sequence_length"];
const INNER: &[&str] = &["block_ff_dim", "intermediate_size", "n_inner"];
pub(super) const EXPERTS: &[&str] = &["num_local_experts", "num_experts"];
/// Bases of rotary frequencies, and those of layers with a window.
const THETA: &[&str] = &["global_rope_theta", "rope_theta", "rotary_emb_base"];
const LOCAL: &[&str] = &["local_rope_theta", "rope_local_base_freq", "swa_rope_theta"];

/// The configuration of a model. What a part for text says counts before what stands beside it.
pub(super) struct Config {
    pub family: &'static Family,
    json: Json,
    /// How texts become one vector, as the number that files have.
    pub pooling: Option<u64>,
}

impl Config {
    pub fn new(family: &'static Family, json: &Json, pooling: Option<u64>) -> Config {
        let text = json.get("text_config").and_then(Json::object).unwrap_or_default();
        let beside = json.object().unwrap_or_default().iter().filter(|(key, _)| text.iter().all(|(own, _)| own != key));
        Config { family, json: Json::Object(beside.chain(text).cloned().collect()), pooling }
    }

    fn get(&self, keys: &[&str]) -> Option<&Json> {
        keys.iter().find_map(|key| self.json.get(key)).filter(|value| **value != Json::Null)
    }

    /// What holds for the first of these keys that has a usual value.
    fn usual(&self, keys: &[&str]) -> Option<f64> {
        let found = self.family.usual.iter().find(|(key, _)| keys.contains(key))?;
        match found.1 {
            Usual::Number(number) => Some(number),
            Usual::As(key) => self.number(&[key]).or_else(|| self.theta()),
        }
    }

    pub fn number(&self, keys: &[&str]) -> Option<f64> {
        self.get(keys).and_then(Json::number).or_else(|| self.usual(keys))
    }

    /// A whole number that need not be there.
    pub fn maybe(&self, keys: &[&str]) -> Result<Option<u64>> {
        match self.get(keys) {
            Some(value) => value.whole().map(Some).ok_or_else(|| wanted(keys, value)),
            None => Ok(self.usual(keys).map(|usual| usual as u64)),
        }
    }

    /// A whole number above 0.
    pub fn whole(&self, keys: &[&str]) -> Result<u64> {
        self.maybe(keys)?.filter(|n| *n > 0).ok_or_else(|| wanted(keys, &Json::Null))
    }

    pub fn switch(&self, key: &str) -> Option<bool> {
        if let Some(Json::Bool(value)) = self.get(&[key]) { Some(*value) } else { None }
    }

    /// Heads of keys.
    pub fn groups(&self) -> Result<u64> {
        match self.maybe(GROUPS)? {
            Some(0) | None => self.whole(HEADS),
            Some(groups) => Ok(groups),
        }
    }

    pub fn blocks(&self) -> Result<u64> {
        let blocks = self.whole(LAYERS)?;
        Limits::check("blocks", blocks, MOST_BLOCKS).map(|()| blocks)
    }

    pub fn head_width(&self) -> Result<u64> {
        let width = match self.maybe(&["head_dim"])? {
            Some(width) => width,
            None => self.whole(WIDTH)?.checked_div(self.whole(HEADS)?).unwrap_or(0),
        };
        Limits::check("width of a head", width, WIDEST).map(|()| width)
    }

    /// The numbers of a list.
    pub fn numbers(&self, key: &str) -> Result<Vec<u64>> {
        let list = self.get(&[key]).and_then(Json::list).map(|all| all.iter().map(Json::whole).collect::<Option<_>>());
        list.flatten().ok_or_else(|| Error::mismatch("config.json", format!("{key}, whole numbers"), "none"))
    }

    /// Which layers are of a kind, if the configuration lists them.
    pub fn layers_of(&self, kind: &str, blocks: u64) -> Result<Option<Vec<bool>>> {
        let Some(list) = self.get(&["layer_types"]).and_then(Json::list) else { return Ok(None) };
        if list.len() as u64 != blocks {
            return Err(Error::mismatch("config.json", format!("layer_types of {blocks} layers"), list.len()));
        }
        Ok(Some(list.iter().map(|layer| layer.text() == Some(kind)).collect()))
    }

    /// What rotates positions: all layers, or those of a kind.
    fn ropes(&self, kind: &str) -> Option<&Json> {
        let all = ["rope_parameters", "rope_scaling"].iter().find_map(|key| self.get(&[key]))?;
        if all.get("full_attention").is_some() || all.get("sliding_attention").is_some() {
            return all.get(kind);
        }
        Some(all).filter(|_| kind == FULL)
    }

    /// A value of what rotates positions, which may stand in the configuration itself.
    fn rope(&self, key: &str) -> Option<&Json> {
        let own = self.ropes(FULL).and_then(|ropes| ropes.get(key)).filter(|value| **value != Json::Null);
        own.or_else(|| self.get(&[key]))
    }

    pub fn rope_number(&self, key: &str) -> Option<f64> {
        self.rope(key).and_then(Json::number)
    }

    /// The base of rotary frequencies.
    pub fn theta(&self) -> Option<f64> {
        let own = self.ropes(FULL).and_then(|ropes| ropes.get("rope_theta")).and_then(Json::number);
        own.or_else(|| self.number(THETA))
    }

    fn local_theta(&self) -> Option<f64> {
        let own = self.ropes("sliding_attention").and_then(|ropes| ropes.get("rope_theta")).and_then(Json::number);
        own.or_else(|| self.number(LOCAL))
    }

    pub fn original_context(&self) -> Result<u64> {
        let key = "original_max_position_embeddings";
        match self.rope(key) {
            Some(value) => value.whole().filter(|n| *n > 0).ok_or_else(|| wanted(&[key], value)),
            None => self.whole(&[key]),
        }
    }

    /// Channels of a head that are rotated, where that is a share.
    pub fn rotated(&self) -> Result<u64> {
        let share = self.rope_number("partial_rotary_factor").unwrap_or(1.0);
        let width = (share * self.whole(WIDTH)? as f64) as u64;
        let rotated = width.checked_div(self.whole(HEADS)?).unwrap_or(0);
        Limits::check("width of a head", rotated, WIDEST).map(|()| rotated)
    }

    fn scaling(&self) -> &str {
        let ropes = self.ropes(FULL);
        let named = ropes.and_then(|s| s.get("rope_type").or_else(|| s.get("type"))).and_then(Json::text);
        named.unwrap_or("default")
    }

    /// # Errors
    /// `Unsupported` if positions are scaled.
    pub fn unscaled(&self) -> Result<()> {
        match self.scaling() {
            "default" => Ok(()),
            other => Err(Error::unsupported("scaling of positions", other)),
        }
    }

    /// Divisors of rotary frequencies: names of tensors, and their values.
    pub fn factors(&self) -> Result<Vec<(&'static str, Vec<f32>)>> {
        match (self.family.factors, self.scaling()) {
            (Factors::Llama3, "llama3") => Ok(vec![("rope_freqs.weight", self.llama3()?)]),
            (Factors::Long, "su" | "longrope" | "yarn") => {
                let half = self.rotated()? / 2;
                let list = |key: &str| -> Result<Vec<f32>> {
                    let list = self.rope(key).and_then(Json::list).unwrap_or_default();
                    let values: Vec<f32> = list.iter().filter_map(Json::number).map(|v| v as f32).collect();
                    if values.len() as u64 != half || values.len() != list.len() {
                        return Err(Error::mismatch(
                            format!("config.json: {key}"),
                            format!("{half} numbers"),
                            list.len(),
                        ));
                    }
                    Ok(values)
                };
                let names =
                    [("rope_factors_long.weight", "long_factor"), ("rope_factors_short.weight", "short_factor")];
                names.into_iter().map(|(name, key)| Ok((name, list(key)?))).collect()
            }
            (Factors::Long, "default") | (Factors::None | Factors::Llama3, _) => Ok(Vec::new()),
            (Factors::Long, other) => Err(Error::unsupported("scaling of positions", other)),
        }
    }

    /// What the lists of divisors multiply attention by.
    pub fn magnitude(&self) -> Result<Option<f32>> {
        if self.family.factors != Factors::Long || self.scaling() == "default" {
            return Ok(None);
        }
        let original = self.original_context()? as f64;
        let grown = self.whole(CONTEXT)? as f64 / original;
        let by = match self.scaling() {
            _ if grown <= 1.0 => 1.0,
            "yarn" => 0.1 * libm::log(grown) + 1.0,
            _ => libm::sqrt(1.0 + libm::log(grown) / libm::log(original)),
        };
        Ok(Some(by as f32))
    }

    /// Divisors for Llama 3's scaling.
    fn llama3(&self) -> Result<Vec<f32>> {
        let of = |key: &str, usual: f64| self.rope_number(key).unwrap_or(usual);
        let (base, dims) = (self.theta().unwrap_or(10000.0), self.head_width()?);
        let (factor, old) = (of("factor", 8.0), of("original_max_position_embeddings", 8192.0));
        let (low, high) = (of("low_freq_factor", 1.0), of("high_freq_factor", 4.0));
        // In 32 bits and in this order, as in the converter.
        let divisor = |i: u64| {
            let frequency = 1.0 / libm::powf(base as f32, i as f32 / dims as f32);
            let wave = 2.0 * core::f32::consts::PI / frequency;
            match f64::from(wave) {
                w if w < old / high => 1.0,
                w if w > old / low => factor as f32,
                _ => {
                    let smooth = (old as f32 / wave - low as f32) / (high - low) as f32;
                    1.0 / ((1.0 - smooth) / factor as f32 + smooth)
                }
            }
        };
        Ok((0..dims).step_by(2).map(divisor).collect())
    }
}

/// The layers without a window.
const FULL: &str = "full_attention";

fn wanted(keys: &[&str], found: &Json) -> Error {
    let found = if *found == Json::Null { "none".into() } else { printable(&found.to_string()) };
    Error::mismatch("config.json", format!("{}, a whole number", keys.join(" or ")), found)
}

/// Metadata in the order of files.
pub(super) struct Keys {
    architecture: &'static str,
    file_type: u32,
    pub pairs: Vec<(String, Value)>,
}

impl Keys {
    pub fn new(architecture: &'static str, file_type: u32) -> Keys {
        Keys { architecture, file_type, pairs: Vec::new() }
    }

    /// Sets a pair; one that is there keeps its place.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) -> &mut Self {
        let (key, value) = (key.into(), value.into());
        match self.pairs.iter_mut().find(|(k, _)| *k == key) {
            Some(pair) => pair.1 = value,
            None => self.pairs.push((key, value)),
        }
        self
    }

    fn name(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    /// Sets a pair of the architecture.
    pub fn put(&mut self, name: &str, value: impl Into<Value>) -> &mut Self {
        self.set(self.name(name), value)
    }

    /// # Errors
    /// `Limit` for a number of more than 32 bits.
    pub fn whole(&mut self, name: &str, n: u64) -> Result<()> {
        let small = u32::try_from(n).map_err(|_| Error::limit("a number of config.json", n, u32::MAX.into()))?;
        self.put(name, small);
        Ok(())
    }

    pub fn has(&self, name: &str) -> bool {
        let key = self.name(name);
        self.pairs.iter().any(|(k, _)| *k == key)
    }

    pub fn remove(&mut self, name: &str) -> &mut Self {
        let key = self.name(name);
        self.pairs.retain(|(k, _)| *k != key);
        self
    }

    pub fn file_type(&mut self) {
        self.set("general.file_type", self.file_type);
    }
}

/// The metadata of most classes.
pub(super) fn plain(c: &Config, k: &mut Keys) -> Result<()> {
    k.whole("block_count", c.blocks()?)?;
    k.whole("context_length", c.whole(CONTEXT)?)?;
    k.whole("embedding_length", c.whole(WIDTH)?)?;
    k.whole("feed_forward_length", c.whole(INNER)?)?;
    k.whole("attention.head_count", c.whole(HEADS)?)?;
    if c.family.grouped {
        k.whole("attention.head_count_kv", c.groups()?)?;
    }
    if c.switch("is_causal") == Some(false) {
        k.put("attention.causal", false);
    }
    scaled(c, k)?;
    if let Some(sections) = c.rope("mrope_section").and_then(Json::list) {
        let all = sections.iter().map(|n| n.whole().and_then(|n| i32::try_from(n).ok()).unwrap_or(0));
        let four: Vec<i32> = all.chain([0; 4]).take(4).collect();
        k.put("rope.dimension_sections", &four[..]);
    }
    for (name, value) in [
        ("rope.freq_base", c.theta()),
        ("rope.freq_base_swa", c.local_theta()),
        ("attention.layer_norm_rms_epsilon", c.number(&["rms_norm_eps", "norm_eps"])),
        ("attention.layer_norm_epsilon", c.number(&["layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"])),
    ] {
        if let Some(value) = value {
            k.put(name, value as f32);
        }
    }
    for (name, keys) in [
        ("expert_count", EXPERTS),
        ("expert_used_count", &["num_experts_per_tok", "num_experts_per_token", "top_k_experts"]),
    ] {
        if let Some(n) = c.maybe(keys)? {
            k.whole(name, n)?;
        }
    }
    if c.family.head_width || c.maybe(&["head_dim"])?.is_some() {
        let width = c.head_width()?;
        k.whole("attention.key_length", width)?;
        k.whole("attention.value_length", width)?;
    }
    k.file_type();
    Ok(())
}

/// How positions are scaled.
fn scaled(c: &Config, k: &mut Keys) -> Result<()> {
    let factor = c.rope_number("factor");
    match c.scaling() {
        "default" => {}
        "llama3" if c.family.factors == Factors::Llama3 => {}
        scaling @ ("linear" | "yarn") => {
            let factor = factor.ok_or_else(|| Error::mismatch("config.json", "factor of rope_scaling", "none"))?;
            k.put("rope.scaling.type", scaling).put("rope.scaling.factor", factor as f32);
            if scaling == "yarn" {
                k.whole("rope.scaling.original_context_length", c.original_context()?)?;
                for (name, keys) in [
                    ("ext_factor", &["extrapolation_factor"][..]),
                    ("attn_factor", &["attention_factor", "attn_factor"]),
                    ("beta_fast", &["beta_fast"]),
                    ("beta_slow", &["beta_slow"]),
                ] {
                    if let Some(value) = keys.iter().find_map(|key| c.rope_number(key)) {
                        k.put(&format!("rope.scaling.yarn_{name}"), value as f32);
                    }
                }
            }
        }
        other => return Err(Error::unsupported("scaling of positions", other)),
    }
    Ok(())
}
