//! What people have instead of an adapter that can be read: named as what it is, with what to do about it.
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

use super::safetensors::{Safetensors, is_pickle, pickled};
use crate::bytes::{Bytes, FETCH, LFS_POINTER, Limits};
use crate::error::{Error, printable};
use std::prelude::v1::*;

const NONE: &str = "not an adapter";

const PEFT: &str = "it is the weights of a PEFT adapter without their configuration; give the folder that holds \
    adapter_config.json too (-a FOLDER)";
const MLX: &str = "it is the weights of an adapter of MLX without their configuration; give the folder that holds \
    adapter_config.json too (-a FOLDER)";
const NPZ: &str = "it is an adapter of an early version of MLX, with its weights in an npz file; mlx.core's load and \
    save_safetensors make adapters.safetensors of it";
const IMAGES: &str = "it is an adapter of a model that makes images";
const WHOLE: &str = "it is the weights of a whole model; mynah convert turns the folder that they lie in into a GGUF \
    file for -m, or llama.cpp's convert_hf_to_gguf.py does";
const CONFIG: &str = "it is the configuration of a PEFT adapter; give the folder that it lies in (-a FOLDER)";

/// Parts of names of tensors, and whose they are. The first row that fits counts.
const NAMES: &[(&[&str], &str)] = &[
    (&["lora_unet", "lora_te_", "lora_transformer"], IMAGES),
    (&[".lora_A", ".lora_B", ".lora_embedding"], PEFT),
    (&[".lora_a", ".lora_b"], MLX),
    (&["embed_tokens.weight", "wte.weight", "lm_head.weight", ".mlp.", ".self_attn."], WHOLE),
];

/// What a file is that is none of mynah's, if that can be told.
pub(super) fn file(bytes: Bytes, limits: &Limits) -> Option<Error> {
    let no = |why: &str| Some(Error::invalid(NONE, why));
    if bytes.starts_with(LFS_POINTER) {
        return no(FETCH);
    }
    if is_pickle(&bytes) {
        return Some(pickled());
    }
    if let Some(rest) = bytes.get(8..)
        && rest.starts_with(b"{")
        && let Ok(file) = Safetensors::parse(bytes.clone(), limits)
    {
        let has = |parts: &[&str]| file.tensors().iter().any(|t| parts.iter().any(|part| t.name.contains(part)));
        let known = NAMES.iter().find(|(parts, _)| has(parts)).map(|(_, what)| *what);
        return no(known.unwrap_or("it is a safetensors file with tensors of other names than an adapter's"));
    }
    let start = bytes.get(..bytes.len().min(4096)).unwrap_or_default();
    let text = core::str::from_utf8(start).ok()?.trim_start_matches('\u{feff}').trim_start();
    let line: String = text.lines().next().unwrap_or_default().chars().take(60).collect();
    match text.chars().next()? {
        '{' if text.contains("\"peft_type\"") => no(CONFIG),
        '<' => no(&format!("it is HTML or XML, perhaps the error page of a download: {}", printable(&line))),
        _ if text.chars().any(|c| c.is_control() && !c.is_whitespace()) => None,
        _ => no(&format!("it is text: {}", printable(&line))),
    }
}

/// What is wrong with a folder that is to be a PEFT adapter, as far as the names in it tell.
#[cfg(feature = "std")]
pub(super) fn folder(path: &std::path::Path) -> Option<Error> {
    let no = |why: String| Some(Error::invalid(NONE, why));
    // What cannot be listed is left to who opens files in it.
    let mut names: Vec<String> =
        path.read_dir().ok()?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let has = |name: &str| names.iter().any(|n| n == name);
    let ends = |end: &str| names.iter().find(|n| n.ends_with(end));
    let weights = ["adapter_model.safetensors", "adapter_model.safetensors.index.json"].iter().any(|name| has(name));
    let config = has("adapter_config.json");
    let inside = names.iter().find(|n| path.join(n).join("adapter_config.json").exists());
    match (config, weights) {
        (true, true) => None,
        (_, false) if has("adapters.safetensors") => no(MLX.into()),
        (_, false) if has("adapters.npz") => no(NPZ.into()),
        (_, false) if has("adapter_model.bin") || has("adapter_model.pt") => Some(pickled()),
        (true, false) => {
            no("adapter_model.safetensors is missing beside adapter_config.json; copy the whole folder".into())
        }
        (false, true) => {
            no("adapter_config.json is missing beside adapter_model.safetensors; copy the whole folder".into())
        }
        _ if names.is_empty() => no("the folder is empty".into()),
        _ => {
            let found = inside.or_else(|| ends(".mynah")).or_else(|| ends(".gguf"));
            match found {
                Some(name) => no(format!("it is a folder; perhaps {} in it is meant", printable(name))),
                None if has("config.json") && (ends(".safetensors").is_some() || ends(".bin").is_some()) => {
                    no(WHOLE.into())
                }
                None => {
                    no("a folder needs adapter_config.json and adapter_model.safetensors, as PEFT saves them".into())
                }
            }
        }
    }
}
