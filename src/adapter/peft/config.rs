//! `adapter_config.json`: the keys that are read, those that must be off, and those that change nothing of what is computed.
//! Any other key that is set is refused by name.
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

use crate::adapter::json::Json;
use crate::adapter::pattern::Pattern;
use crate::bytes::{FETCH, LFS_POINTER, Limits};
use crate::error::{Error, Result, printable};
use std::prelude::v1::*;

/// What PEFT's methods are here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Method {
    /// LoRA and DoRA.
    Low,
    /// (IA)³.
    Scales,
    /// Virtual tokens.
    Rows,
    /// Keys and values before the text.
    Prefix,
}

/// `peft_type`, and what it is here. P-tuning saves the tokens that its network made, which are a prompt.
const METHODS: &[(&str, Method)] = &[
    ("LORA", Method::Low),
    ("IA3", Method::Scales),
    ("PROMPT_TUNING", Method::Rows),
    ("P_TUNING", Method::Rows),
    ("PREFIX_TUNING", Method::Prefix),
];

/// Keys that must be empty (null, false, empty, none), since what they add is not computed here.
const MUST_BE_OFF: &[&str] = &[
    "bias",
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
    "megatron_config",
    "enable_lora",
];

/// Keys that say where an adapter comes from, how it was trained or begun, or what the file itself shows.
const CHANGE_NOTHING: &[&str] = &[
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "encoder_dropout",
    "encoder_hidden_size",
    "encoder_num_layers",
    "encoder_reparameterization_type",
    "ensure_weight_tying",
    "eva_config",
    "fan_in_fan_out",
    "inference_mode",
    "init_ia3_weights",
    "init_weights",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "merge_weights",
    "num_attention_heads",
    "num_layers",
    "num_transformer_submodules",
    "peft_version",
    "prefix_projection",
    "prompt_tuning_init",
    "prompt_tuning_init_text",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
    "token_dim",
    "tokenizer_kwargs",
    "tokenizer_name_or_path",
];

/// Initialisations that move a part of the frozen weights into the adapter, so that it does not fit the original weights.
const CHANGE_THE_BASE: &[&str] = &["pissa", "olora", "corda", "loftq", "lora_ga"];

/// Which modules a configuration means.
#[derive(Debug, Default)]
pub(super) enum Modules {
    /// It does not say.
    #[default]
    Unsaid,
    /// All linear layers.
    All,
    /// Those whose whole name matches.
    Matching(Pattern),
    /// Those of these names, or that end in them behind a dot.
    Named(Vec<String>),
}

impl Modules {
    fn has(&self, name: &str) -> Result<Option<bool>> {
        Ok(match self {
            Modules::Unsaid => None,
            Modules::All => Some(true),
            Modules::Matching(pattern) => Some(pattern.fits(name)?),
            Modules::Named(names) => {
                let ends = |end: &String| {
                    name.strip_suffix(end.as_str()).is_some_and(|before| before.is_empty() || before.ends_with('.'))
                };
                Some(names.iter().any(ends))
            }
        })
    }
}

/// The contents of the configuration.
#[derive(Debug)]
pub(super) struct Config {
    pub method: Method,
    rank: u64,
    alpha: f64,
    pub stabilised: bool,
    pub dora: bool,
    pub biased: bool,
    ranks: Vec<(Pattern, f64)>,
    alphas: Vec<(Pattern, f64)>,
    targets: Modules,
    excluded: Modules,
    layers: Option<Vec<u64>>,
    lists: Vec<Pattern>,
    /// Modules of the base that are saved too.
    pub saved: Vec<String>,
    /// Virtual tokens.
    pub length: Option<u64>,
}

/// The first pattern that matches the name of a module.
fn first(patterns: &[(Pattern, f64)], module: &str) -> Result<Option<f64>> {
    for (pattern, value) in patterns {
        if pattern.fits(module)? {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

impl Config {
    /// The rank of a module, as the configuration says it.
    pub fn rank(&self, module: &str) -> Result<f64> {
        Ok(first(&self.ranks, module)?.unwrap_or(self.rank as f64))
    }

    /// The alpha of a module.
    pub fn alpha(&self, module: &str) -> Result<f64> {
        Ok(first(&self.alphas, module)?.unwrap_or(self.alpha))
    }

    /// Whether PEFT would put an adapter on a module: `check_target_module_exists`. `layer` is its block.
    pub fn targets(&self, module: &str, layer: usize) -> Result<bool> {
        if self.excluded.has(module)? == Some(true) || self.targets.has(module)? == Some(false) {
            return Ok(false);
        }
        let Some(layers) = self.layers.as_ref().filter(|layers| !layers.is_empty()) else { return Ok(true) };
        // The name of the list of blocks: `model.layers` of `model.layers.3.mlp.up_proj`.
        let list = module.split_once(&format!(".{layer}.")).map_or("", |(list, _)| list);
        for pattern in &self.lists {
            if pattern.fits(list)? {
                return Ok(layers.contains(&(layer as u64)));
            }
        }
        Ok(self.lists.is_empty() && layers.contains(&(layer as u64)))
    }

    /// # Errors
    /// `Corrupt` and `Limit` for such a text; `Unsupported` naming what this build does not support; `Mismatch` naming a
    /// key that is missing.
    pub fn read(bytes: &[u8], limits: &Limits) -> Result<Config> {
        if bytes.starts_with(LFS_POINTER) {
            return Err(Error::invalid("adapter_config.json", FETCH));
        }
        Limits::check("bytes of a JSON text", bytes.len() as u64, limits.json)?;
        let (mut kind, mut rank, mut alpha) = (None, None, None);
        let (mut off, mut unknown): (Vec<String>, Vec<String>) = Default::default();
        let mut config = Config {
            method: Method::Low,
            rank: 0,
            alpha: 0.0,
            stabilised: false,
            dora: false,
            biased: false,
            ranks: Vec::new(),
            alphas: Vec::new(),
            targets: Modules::Unsaid,
            excluded: Modules::Unsaid,
            layers: None,
            lists: Vec::new(),
            saved: Vec::new(),
            length: None,
        };
        let mut json = Json::new(bytes, limits)?;
        json.object(|json, key| {
            match key {
                "peft_type" => kind = Some(json.string()?.into_owned()),
                "r" => rank = Some(json.whole()?),
                "lora_alpha" => alpha = Some(json.real()?),
                "use_rslora" => config.stabilised = json.word()? == Some(true),
                "use_dora" => config.dora = json.word()? == Some(true),
                "lora_bias" => config.biased = json.word()? == Some(true),
                "rank_pattern" => config.ranks = patterns(json, limits)?,
                "alpha_pattern" => config.alphas = patterns(json, limits)?,
                "target_modules" => config.targets = modules(json, limits)?,
                "exclude_modules" => config.excluded = modules(json, limits)?,
                // What it names are those whose tensors say so.
                "feedforward_modules" => _ = modules(json, limits)?,
                "layers_to_transform" => config.layers = wholes(json, limits)?,
                "layers_pattern" => {
                    let read = texts(json, limits)?;
                    config.lists = read.iter().map(|text| Pattern::end(text, limits)).collect::<Result<_>>()?;
                }
                "modules_to_save" => config.saved = texts(json, limits)?,
                "num_virtual_tokens" => config.length = Some(json.whole()?),
                "init_lora_weights" if json.peek() == Some(b'"') => {
                    let start = json.string()?;
                    if CHANGE_THE_BASE.iter().any(|name| start.starts_with(name)) {
                        return Err(Error::unsupported(
                            "init_lora_weights",
                            format!("{start}, which changes the base"),
                        ));
                    }
                }
                "init_lora_weights" => _ = json.skip()?,
                key if CHANGE_NOTHING.contains(&key) => _ = json.skip()?,
                key => {
                    if !json.skip()? {
                        let list = if MUST_BE_OFF.contains(&key) { &mut off } else { &mut unknown };
                        list.push(format!("`{}`", printable(key)));
                    }
                }
            }
            Ok(())
        })?;
        json.end()?;
        let missing = |key: &str| Error::mismatch("adapter_config.json", format!("key {key}"), "none");
        let kind = kind.ok_or_else(|| missing("peft_type"))?;
        let method = METHODS.iter().find(|(name, _)| *name == kind).map(|(_, method)| *method);
        config.method = method.ok_or_else(|| {
            let known: Vec<&str> = METHODS.iter().map(|(name, _)| *name).collect();
            Error::unsupported("peft_type", format!("{kind}; this build reads {}", known.join(", ")))
        })?;
        if !off.is_empty() {
            return Err(Error::unsupported("adapter_config.json", format!("{} is set", some(&off))));
        }
        if !unknown.is_empty() {
            return Err(Error::unsupported("keys of adapter_config.json", some(&unknown)));
        }
        if config.method == Method::Low {
            config.rank = rank.ok_or_else(|| missing("r"))?;
            Limits::check("rank", config.rank, limits.rank)?;
            config.alpha = alpha.ok_or_else(|| missing("lora_alpha"))?;
            if config.dora && config.biased {
                return Err(Error::unsupported("adapter_config.json", "`lora_bias` is set with `use_dora`"));
            }
        }
        let expressions = config.ranks.iter().chain(&config.alphas).filter(|(p, _)| p.is_expression()).count();
        Limits::check("regular expressions", expressions as u64, limits.expressions)?;
        Ok(config)
    }
}

/// The first of some names, and how many more there are.
pub(super) fn some(names: &[String]) -> String {
    let rest = match names.len().saturating_sub(5) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let names: Vec<&str> = names.iter().take(5).map(|n| n.as_str()).collect();
    format!("{}{rest}", names.join(", "))
}

fn patterns(json: &mut Json, limits: &Limits) -> Result<Vec<(Pattern, f64)>> {
    let (mut out, mut compiled) = (Vec::new(), 0u64);
    if json.peek() == Some(b'n') {
        json.word()?;
        return Ok(out);
    }
    json.object(|json, name| {
        Limits::check("patterns", (out.len() as u64).saturating_add(1), limits.patterns)?;
        let pattern = Pattern::end(name, limits)?;
        compiled = compiled.saturating_add(u64::from(pattern.is_expression()));
        Limits::check("regular expressions", compiled, limits.expressions)?;
        out.push((pattern, json.real()?));
        Ok(())
    })?;
    Ok(out)
}

/// A list of modules, an expression for their names, the word for all linear layers, or nothing.
fn modules(json: &mut Json, limits: &Limits) -> Result<Modules> {
    Ok(match json.peek() {
        Some(b'"') => match &*json.string()? {
            "" => Modules::Unsaid,
            "all-linear" => Modules::All,
            text => Modules::Matching(Pattern::whole(text, limits)?),
        },
        _ => match texts(json, limits)? {
            names if names.is_empty() => Modules::Unsaid,
            names => Modules::Named(names),
        },
    })
}

/// A list of texts, one text, or nothing.
fn texts(json: &mut Json, limits: &Limits) -> Result<Vec<String>> {
    let mut out = Vec::new();
    match json.peek() {
        Some(b'"') => out.push(json.string()?.into_owned()),
        Some(b'[') => json.array(|json| {
            Limits::check("patterns", (out.len() as u64).saturating_add(1), limits.patterns)?;
            out.push(json.string()?.into_owned());
            Ok(())
        })?,
        _ => _ = json.word()?,
    }
    Ok(out)
}

/// A list of whole numbers, one number, or nothing.
fn wholes(json: &mut Json, limits: &Limits) -> Result<Option<Vec<u64>>> {
    let mut out = Vec::new();
    match json.peek() {
        Some(b'[') => json.array(|json| {
            Limits::check("patterns", (out.len() as u64).saturating_add(1), limits.patterns)?;
            out.push(json.whole()?);
            Ok(())
        })?,
        Some(b'0'..=b'9') => out.push(json.whole()?),
        _ => {
            json.word()?;
            return Ok(None);
        }
    }
    Ok(Some(out))
}
