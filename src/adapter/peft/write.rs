//! Writing what PEFT reads.

use super::{CONFIG, SCALE_ROWS, WEIGHTS, heads};
use crate::adapter::changes::{Changes, Low, reordered, same_elsewhere, values};
use crate::adapter::safetensors::{self, New};
use crate::adapter::{Adapter, Base, Place, Site};
use crate::error::{Error, Result};
use crate::role::Role;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::prelude::v1::*;

/// Names and bytes of the files of a folder that PEFT reads. Low-rank kinds that it lacks become LoRA.
///
/// # Errors
/// `Unsupported` for kinds that PEFT cannot have; `Mismatch` if `base` is another than the adapter's.
pub fn write(adapter: &dyn Adapter, base: &Base) -> Result<[(&'static str, Vec<u8>); 2]> {
    let (mut config, mut tensors) = (common(base), Vec::new());
    let mut set = |key: &str, value: Value| _ = config.insert(key.into(), value);
    match Changes::of(adapter, base)? {
        Changes::Low(all, stabilised) => {
            for (key, value) in low(&all, stabilised, base)? {
                set(&key, value);
            }
            all.iter().for_each(|low| tensors.extend(low_tensors(low, base)));
        }
        Changes::Scales(all) => {
            set("peft_type", "IA3".into());
            set("init_ia3_weights", true.into());
            let (sites, inputs): (Vec<Site>, Vec<Site>) = scaled(&all)?;
            set("target_modules", targets(&[&sites[..], &inputs].concat(), base).into());
            set("feedforward_modules", targets(&inputs, base).into());
            set("fan_in_fan_out", fan_in_fan_out(base));
            for (place, scale) in &all {
                let (Place::Site(site) | Place::Input(site)) = *place else { continue };
                same_elsewhere(base, site)?;
                let n = scale.len();
                let (shape, scale) = match place {
                    Place::Input(_) => (vec![1, n], scale.clone()),
                    _ => (vec![n, 1], reordered(base, site, scale, true)),
                };
                tensors.push((format!("{}.ia3_l", name(site, base)), shape, scale));
            }
        }
        Changes::Rows(rows) => {
            if SCALE_ROWS.contains(&base.architecture.as_str()) {
                return Err(Error::unsupported("prompt of", base.architecture.clone()));
            }
            let length = rows.len().checked_div(base.width).unwrap_or(0);
            set("peft_type", "PROMPT_TUNING".into());
            set("prompt_tuning_init", "RANDOM".into());
            let heads = base.shapes.iter().map(|b| b.heads.q).max().unwrap_or(1);
            for (key, value) in virtual_tokens(length, base.width, heads, base) {
                set(key, value);
            }
            tensors.push(("prompt_embeddings".into(), vec![length, base.width], rows));
        }
        Changes::Prefix(length, blocks) => {
            let width = heads(base)?;
            set("peft_type", "PREFIX_TUNING".into());
            set("prefix_projection", false.into());
            set("encoder_hidden_size", width.into());
            let heads = base.shapes.first().map_or(1, |block| block.heads.kv);
            for (key, value) in virtual_tokens(length, width, heads, base) {
                set(key, value);
            }
            let piece = |all: &[f32], t: usize| all.chunks_exact(width).nth(t).unwrap_or_default().to_vec();
            let mut rows = Vec::new();
            for t in 0..length {
                for (layer, [keys, values]) in blocks.iter().enumerate() {
                    rows.extend(reordered(base, Site { layer, role: Role::K }, &piece(keys, t), true));
                    rows.extend(piece(values, t));
                }
            }
            tensors.push(("prompt_embeddings".into(), vec![length, rows.len().checked_div(length).unwrap_or(0)], rows));
        }
    }
    let mut text = serde_json::to_vec_pretty(&Value::from(config)).unwrap_or_default();
    text.push(b'\n');
    Ok([(CONFIG, text), (WEIGHTS, safetensors::write(tensors))])
}

/// Keys of every method.
fn common(base: &Base) -> Map<String, Value> {
    let task = if base.hf_blocks.starts_with("model.") || base.hf_blocks.starts_with("transformer.") {
        "CAUSAL_LM"
    } else {
        "FEATURE_EXTRACTION"
    };
    let mut config = Map::new();
    for (key, value) in [
        ("base_model_name_or_path", json!(base.name)),
        ("inference_mode", json!(true)),
        ("modules_to_save", Value::Null),
        ("task_type", json!(task)),
    ] {
        config.insert(key.into(), value);
    }
    config
}

/// The matrices of GPT-2 have their inputs as rows in Hugging Face models.
fn fan_in_fan_out(base: &Base) -> Value {
    (base.architecture == "gpt2").into()
}

fn virtual_tokens(length: usize, width: usize, heads: usize, base: &Base) -> [(&'static str, Value); 5] {
    [
        ("num_virtual_tokens", length.into()),
        ("token_dim", width.into()),
        ("num_layers", base.layers().into()),
        ("num_attention_heads", heads.into()),
        ("num_transformer_submodules", 1.into()),
    ]
}

/// The name of a module in names of tensors.
fn name(site: Site, base: &Base) -> String {
    format!("base_model.model.{}", base.module(site))
}

/// Sites as a configuration names them: a path within blocks where all blocks that have it are meant, or whole names.
fn targets(sites: &[Site], base: &Base) -> Vec<String> {
    let mut roles: BTreeMap<Role, Vec<Site>> = BTreeMap::new();
    sites.iter().for_each(|site| roles.entry(site.role).or_default().push(*site));
    let every = |role: Role| base.shapes.iter().filter(|block| block[role].is_some()).count();
    let spelled = |(role, sites): (Role, Vec<Site>)| match sites.len() == every(role) {
        true => vec![base.hf(role).to_string()],
        false => sites.into_iter().map(|site| base.module(site)).collect(),
    };
    roles.into_iter().flat_map(spelled).collect()
}

fn scaled(all: &[(Place, Vec<f32>)]) -> Result<(Vec<Site>, Vec<Site>)> {
    let (mut sites, mut inputs) = (Vec::new(), Vec::new());
    for (place, _) in all {
        match *place {
            Place::Site(site) => sites.push(site),
            Place::Input(site) => inputs.push(site),
            other => return Err(Error::unsupported("target", other.to_string())),
        }
    }
    Ok((sites, inputs))
}

/// A number as JSON, without a fraction where it has none: PEFT's alphas are whole numbers.
fn number(x: f32) -> Value {
    let whole = x as i64;
    if whole as f32 == x { whole.into() } else { f64::from(x).into() }
}

/// The value that most have.
fn usual<T: PartialEq + Copy>(all: &[T]) -> Option<T> {
    let times = |value: &&T| all.iter().filter(|other| other == value).count();
    all.iter().rev().max_by_key(times).copied()
}

/// The keys of LoRA and DoRA.
fn low(all: &[Low], stabilised: bool, base: &Base) -> Result<Vec<(String, Value)>> {
    all.iter().try_for_each(|low| same_elsewhere(base, low.slot.site))?;
    let ranks: Vec<usize> = all.iter().map(|low| low.slot.rank).collect();
    let alphas: Vec<f32> = all.iter().map(|low| low.slot.alpha).collect();
    let (rank, alpha) = (usual(&ranks).unwrap_or(1), usual(&alphas).unwrap_or(1.0));
    let others = |other: &dyn Fn(&Low) -> Option<Value>| -> Value {
        let pattern = |low: &Low| Some((base.module(low.slot.site), other(low)?));
        Value::from(all.iter().filter_map(pattern).collect::<Map<_, _>>())
    };
    let sites: Vec<Site> = all.iter().map(|low| low.slot.site).collect();
    let keys = [
        ("peft_type", json!("LORA")),
        ("r", json!(rank)),
        ("lora_alpha", number(alpha)),
        ("rank_pattern", others(&|low| (low.slot.rank != rank).then(|| low.slot.rank.into()))),
        ("alpha_pattern", others(&|low| (low.slot.alpha != alpha).then(|| number(low.slot.alpha)))),
        ("target_modules", targets(&sites, base).into()),
        ("use_rslora", json!(stabilised)),
        ("use_dora", json!(all.iter().any(|low| low.lengths.is_some()))),
        ("lora_bias", json!(all.iter().any(|low| low.bias.is_some()))),
        ("bias", json!("none")),
        ("lora_dropout", json!(0.0)),
        ("init_lora_weights", json!(true)),
        ("fan_in_fan_out", fan_in_fan_out(base)),
    ];
    Ok(keys.into_iter().map(|(key, value)| (key.into(), value)).collect())
}

fn low_tensors(low: &Low, base: &Base) -> Vec<New> {
    let (site, rank, [n_in, n_out]) = (low.slot.site, low.slot.rank, low.slot.shape);
    let (name, back) = (name(site, base), |v: &[f32]| reordered(base, site, v, true));
    let mut all = vec![
        (format!("{name}.lora_A.weight"), vec![rank, n_in], values(&low.a)),
        (format!("{name}.lora_B.weight"), vec![n_out, rank], back(&values(&low.b))),
    ];
    all.extend(low.bias.as_ref().map(|bias| (format!("{name}.lora_B.bias"), vec![n_out], back(bias))));
    all.extend(low.lengths.as_ref().map(|l| (format!("{name}.lora_magnitude_vector"), vec![n_out], back(l))));
    all
}
