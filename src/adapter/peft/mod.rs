//! Adapters as Hugging Face PEFT saves them: `adapter_config.json` and `adapter_model.safetensors`, which may be split.
//!
//! ```text
//! peft_type                      tensors of a module                        here
//! LORA                           lora_A, lora_B, with lora_bias its bias    lora
//! LORA with use_dora             the same, and lora_magnitude_vector        dora
//! IA3                            ia3_l                                      ia3
//! PROMPT_TUNING, P_TUNING        prompt_embeddings                          prompt
//! PREFIX_TUNING                  prompt_embeddings                          prefix, with its length as offset
//! ```
//!
//! Ranks are those of the tensors and must agree with the configuration. What else is in the files is refused by name:
//! keys of the configuration, tensors, modules that the configuration does not target, and modules of the base that are
//! saved too, unless they are the base's. Modules are called as the architecture's blocks call them. Rows of q and k are
//! put into the order of GGUF files where these have another.
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

mod config;
mod write;

pub use write::write;

use super::changes::{Changes, Low, matrix, reordered, same_elsewhere, values};
use super::lowrank::Slot;
use super::safetensors::{Safetensors, Tensor};
use super::{Adapter, Base, Place, Site};
use crate::bytes::{Bytes, Limits};
use crate::error::{Error, Result, printable};
use crate::quant::Matrix;
use config::{Config, Method, some};
use std::collections::BTreeMap;
use std::prelude::v1::*;

/// Of the two files of a folder.
pub(super) const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// What names the files that the second is split into.
#[cfg(feature = "std")]
pub(super) const INDEX: &str = "adapter_model.safetensors.index.json";

/// Before the name of a module in names of tensors.
const ROOTS: &[&str] = &["base_model.model.", "base_model.", ""];

/// Paths before the list of blocks, beside the architecture's own: models of text in models of more, and none.
const PARENTS: &[&str] = &["model.", "", "model.language_model.", "language_model.model.", "language_model."];

/// What a tensor is of a module.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    A,
    B,
    Bias,
    Lengths,
    Scale,
}

/// Ends of names of tensors, without the name of the adapter, which old versions leave in.
const ENDS: &[(&str, Part)] = &[
    (".lora_A.weight", Part::A),
    (".lora_B.weight", Part::B),
    (".lora_B.bias", Part::Bias),
    (".lora_magnitude_vector.weight", Part::Lengths),
    (".lora_magnitude_vector", Part::Lengths),
    (".ia3_l", Part::Scale),
];

/// Modules outside of blocks that may be saved, and whether each is the output matrix.
const VOCABULARY: &[(&str, bool)] =
    &[("embed_tokens", false), ("wte", false), ("word_embeddings", false), ("lm_head", true)];

/// Architectures whose models in Hugging Face multiply what stands before the text as they do its embeddings.
const SCALE_ROWS: &[&str] = &["granite"];

/// The tensors of a module.
#[derive(Default)]
struct Found<'a> {
    /// What PEFT calls it.
    module: String,
    a: Option<&'a Tensor>,
    b: Option<&'a Tensor>,
    bias: Option<&'a Tensor>,
    lengths: Option<&'a Tensor>,
    scale: Option<&'a Tensor>,
}

/// Reads a directory.
///
/// # Errors
/// Those of [`read`], and of the system, naming the file.
#[cfg(feature = "std")]
pub fn open(directory: &std::path::Path, base: &Base, limits: &Limits) -> Result<Box<dyn Adapter>> {
    use crate::bytes::map;
    if let Some(e) = super::foreign::folder(directory) {
        return Err(e.in_file(directory.to_string_lossy()));
    }
    let config = map::read(&directory.join(CONFIG), limits.json)?;
    let adapter = weights(directory, limits).and_then(|(file, all)| {
        let adapter = parts(&config, &file, base, limits);
        all.iter().try_for_each(Bytes::check).and(adapter)
    });
    adapter.map_err(|e| e.in_file(directory.to_string_lossy()))
}

/// The tensors of a directory, and the files that they lie in.
#[cfg(feature = "std")]
pub(super) fn weights(directory: &std::path::Path, limits: &Limits) -> Result<(Safetensors, Vec<Bytes>)> {
    use crate::bytes::map;
    let index = directory.join(INDEX);
    let index = if index.exists() { Some(map::read(&index, limits.json)?) } else { None };
    let map = index.map(|bytes| weight_map(&bytes, limits)).transpose()?;
    let mut names: Vec<&str> = map.iter().flatten().map(|(_, file)| file.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        names.push(WEIGHTS);
    }
    let (mut shards, mut all) = (Vec::new(), Vec::new());
    for name in names {
        let bytes = map::open(&directory.join(name))?;
        let shard = Safetensors::parse(bytes.clone(), limits).map_err(|e| e.in_file(printable(name)))?;
        let said = |t: &&Tensor| map.as_ref().is_none_or(|map| map.get(&*t.name).is_some_and(|file| file == name));
        let tensors = shard.tensors().iter();
        if let Some(other) = tensors.clone().find(|t| !said(t)) {
            return Err(Error::mismatch(format!("{name} by {INDEX}"), "its tensors", printable(&other.name)));
        }
        shards.push(shard);
        all.push(bytes);
    }
    // Each tensor is of the file that the index names, so of one.
    let file = Safetensors::join(shards);
    match map.iter().flatten().find(|(name, _)| file.tensor(name).is_none()) {
        Some((name, shard)) => {
            Err(Error::mismatch(format!("tensors of {}", printable(shard)), printable(name), "none"))
        }
        None => Ok((file, all)),
    }
}

/// The files of tensors. They lie in the same folder.
#[cfg(feature = "std")]
fn weight_map(bytes: &[u8], limits: &Limits) -> Result<BTreeMap<String, String>> {
    let mut map = BTreeMap::new();
    let mut files: Vec<String> = Vec::new();
    let mut json = super::json::Json::new(bytes, limits)?;
    json.object(|json, key| {
        if key != "weight_map" {
            return json.skip().map(|_| ());
        }
        json.object(|json, tensor| {
            let file = json.string()?.into_owned();
            let plain =
                file.ends_with(".safetensors") && !file.starts_with('.') && !file.contains(['/', '\\', ':', '\0']);
            if !plain {
                return Err(Error::invalid(INDEX, format!("`{}` is no file beside it", printable(&file))));
            }
            if !files.contains(&file) {
                Limits::check("files of an adapter", (files.len() as u64).saturating_add(1), limits.shards)?;
                files.push(file.clone());
            }
            map.insert(tensor.into(), file);
            Ok(())
        })
    })?;
    json.end()?;
    match map.is_empty() {
        true => Err(Error::mismatch(INDEX, "a weight_map with tensors", "none")),
        false => Ok(map),
    }
}

/// Reads the two files.
///
/// # Errors
/// `Corrupt` and `Limit` for such files; `Unsupported` naming what this build does not understand; `Mismatch` where tensors
/// do not fit the configuration or the base; `Invalid` if the adapter would change nothing.
pub fn read(config: &[u8], tensors: Bytes, base: &Base, limits: &Limits) -> Result<Box<dyn Adapter>> {
    parts(config, &Safetensors::parse(tensors, limits)?, base, limits)
}

fn parts(config: &[u8], file: &Safetensors, base: &Base, limits: &Limits) -> Result<Box<dyn Adapter>> {
    let config = Config::read(config, limits)?;
    let changes = match config.method {
        Method::Low => low(&config, file, base, limits)?,
        Method::Scales => scales(&config, file, base)?,
        Method::Rows => Changes::Rows(virtual_tokens(&config, file, base.width, base)?.1),
        Method::Prefix => prefix(&config, file, base)?,
    };
    changes.build(base, limits)
}

/// The module of a name, without what stands before it.
fn module(name: &str) -> &str {
    ROOTS.iter().find_map(|root| name.strip_prefix(root)).unwrap_or(name)
}

/// The site of a module.
pub(super) fn site(module: &str, base: &Base) -> Option<Site> {
    let list = base.hf_blocks.rsplit('.').next()?;
    let own = base.hf_blocks.strip_suffix(list)?;
    let parents = PARENTS.iter().copied().chain([own]);
    let site = |rest: &str| {
        let site = Site::by_hf(rest, base)?;
        (rest == format!("{list}.{}.{}", site.layer, base.hf(site.role))).then_some(site)
    };
    // Of a path through a list, only what `by_hf` reads stands behind a dot.
    parents.into_iter().find_map(|parent| site(module.strip_prefix(parent)?))
}

/// All tensors by their sites. Anything else is refused by name, except for what is the base's.
fn gather<'a>(
    config: &Config,
    file: &'a Safetensors,
    known: &[Part],
    base: &Base,
) -> Result<BTreeMap<Site, Found<'a>>> {
    let mut all: BTreeMap<Site, Found> = BTreeMap::new();
    let (mut unknown, mut untargeted, mut saved): (Vec<String>, Vec<String>, Vec<String>) = Default::default();
    for tensor in file.tensors() {
        let name = without_default(&tensor.name);
        let path = module(&name);
        let end = ENDS.iter().find_map(|(end, part)| Some((path.strip_suffix(end)?, *part)));
        let found =
            end.filter(|(_, part)| known.contains(part)).and_then(|(path, part)| Some((site(path, base)?, path, part)));
        let Some((site, path, part)) = found else {
            match saved_matrix(path, base) {
                Some((module, frozen)) => {
                    same(tensor, file, frozen, base)?;
                    saved.push(module.into());
                }
                None => unknown.push(printable(&tensor.name)),
            }
            continue;
        };
        if !config.targets(path, site.layer)? {
            untargeted.push(printable(path));
        }
        let found = all.entry(site).or_default();
        let place = match part {
            Part::A => &mut found.a,
            Part::B => &mut found.b,
            Part::Bias => &mut found.bias,
            Part::Lengths => &mut found.lengths,
            Part::Scale => &mut found.scale,
        };
        if let Some(before) = place.replace(tensor) {
            let both = format!("{} and {}", printable(&before.name), printable(&tensor.name));
            return Err(Error::corrupt(format!("two tensors for {site}: {both}"), 0));
        }
        found.module = path.into();
    }
    if !unknown.is_empty() {
        return Err(Error::unsupported("adapter tensors", some(&unknown)));
    }
    untargeted.dedup();
    if !untargeted.is_empty() {
        return Err(Error::mismatch(
            "modules with tensors",
            "those that adapter_config.json targets",
            some(&untargeted),
        ));
    }
    let there =
        |name: &&String| saved.iter().any(|module| *module == name.as_str() || module.ends_with(&format!(".{name}")));
    let missing: Vec<String> = config.saved.iter().filter(|name| !there(name)).map(|name| printable(name)).collect();
    match missing.is_empty() {
        true => Ok(all),
        false => Err(Error::unsupported("modules_to_save", format!("`modules_to_save` is set: {}", some(&missing)))),
    }
}

/// A name without that of the adapter, which old versions leave in.
fn without_default(name: &str) -> String {
    match name.split_once(".default") {
        Some((before, after)) if after.is_empty() || after.starts_with('.') => format!("{before}{after}"),
        _ => name.into(),
    }
}

/// A module of the base that may be saved with an adapter, and what its matrix is.
enum Saved {
    Vocabulary(bool),
    Site(Site),
}

fn saved_matrix<'a>(path: &'a str, base: &Base) -> Option<(&'a str, Saved)> {
    let module = path.strip_suffix(".weight")?;
    let module = module.strip_suffix(".modules_to_save").unwrap_or(module);
    if let Some(site) = site(module, base) {
        return Some((module, Saved::Site(site)));
    }
    let last = module.rsplit('.').next()?;
    let (_, head) = VOCABULARY.iter().find(|(name, _)| *name == last)?;
    Some((module, Saved::Vocabulary(*head)))
}

/// # Errors
/// `Unsupported` unless a saved matrix is the base's: as the base stores it, the same values.
fn same(tensor: &Tensor, file: &Safetensors, saved: Saved, base: &Base) -> Result<()> {
    let refused = |why: &str| Error::unsupported("modules_to_save", format!("{}, {why}", printable(&tensor.name)));
    let frozen = match saved {
        Saved::Vocabulary(head) => base.frozen.as_ref().and_then(|frozen| frozen.vocabulary(head)),
        Saved::Site(site) => base.matrix(site).ok(),
    };
    let frozen = frozen.ok_or_else(|| refused("which cannot be compared with the base's"))?;
    if tensor.shape != [frozen.rows as u64, frozen.cols as u64] {
        return Err(refused("which has another shape than the base's"));
    }
    let (own, encode) = (file.matrix(tensor)?, frozen.format.encode);
    let (mut row, mut stored) = (vec![0.0; frozen.cols], vec![0; frozen.row_bytes()]);
    let mut theirs = row.clone();
    for i in 0..frozen.rows {
        own.decode(i, 0..frozen.cols, &mut row);
        let encode = encode.ok_or_else(|| refused("which cannot be compared with the base's"))?;
        encode(&row, &mut stored);
        Matrix::new(frozen.format, 1, frozen.cols, stored.clone().into())?.decode(0, 0..frozen.cols, &mut row);
        let at = match saved {
            Saved::Site(site) => base.row(site, i),
            Saved::Vocabulary(_) => i,
        };
        frozen.decode(at, 0..frozen.cols, &mut theirs);
        if row != theirs {
            return Err(refused("which differs from the base's"));
        }
    }
    Ok(())
}

fn low(config: &Config, file: &Safetensors, base: &Base, limits: &Limits) -> Result<Changes> {
    let mut known = vec![Part::A, Part::B];
    known.extend(config.biased.then_some(Part::Bias));
    known.extend(config.dora.then_some(Part::Lengths));
    let mut all = Vec::new();
    for (site, found) in gather(config, file, &known, base)? {
        let wanted = [
            ("A", found.a.is_some()),
            ("B", found.b.is_some()),
            ("B bias", found.bias.is_some() || !config.biased),
            ("magnitude_vector", found.lengths.is_some() || !config.dora),
        ];
        let (Some(a), Some(b), None) = (found.a, found.b, wanted.iter().find(|(_, there)| !there)) else {
            let names =
                |of: bool| wanted.iter().filter(|w| w.1 == of).map(|w| format!("lora_{}", w.0)).collect::<Vec<_>>();
            let missing = names(false).join(" and no ");
            return Err(Error::mismatch(
                site.to_string(),
                format!("all of it, but no {missing}"),
                names(true).join(", "),
            ));
        };
        same_elsewhere(base, site)?;
        let rank = a.shape.first().copied().unwrap_or(0);
        let [n_in, n_out] = base.shape(site)?;
        for (tensor, wanted) in [(a, [rank, n_in as u64]), (b, [n_out as u64, rank])] {
            if tensor.shape != wanted {
                let what = format!("shape of {}", printable(&tensor.name));
                return Err(Error::mismatch(what, format!("{wanted:?}"), format!("{:?}", tensor.shape)));
            }
        }
        let said = config.rank(&found.module)?;
        if said != rank as f64 {
            return Err(Error::mismatch(format!("rank of {site}"), said, rank));
        }
        Limits::check("rank", rank, limits.rank)?;
        let alpha = config.alpha(&found.module)? as f32;
        let slot = Slot::new(site, base, rank as usize, alpha, config.stabilised)?;
        let outputs = |tensor: Option<&Tensor>| -> Result<Option<Vec<f32>>> {
            let read = tensor.map(|tensor| file.vector(tensor, n_out)).transpose()?;
            Ok(read.map(|values| reordered(base, site, &values, false)))
        };
        let (bias, lengths) = (outputs(found.bias)?, outputs(found.lengths)?);
        all.push(Low { slot, a: file.matrix(a)?, b: in_gguf_order(file.matrix(b)?, site, base)?, lengths, bias });
    }
    Ok(Changes::Low(all, config.stabilised))
}

/// A matrix with the rows of a site's outputs in the order of GGUF files; it is copied only where that is another.
pub(super) fn in_gguf_order(m: Matrix, site: Site, base: &Base) -> Result<Matrix> {
    match (0..m.rows).all(|row| base.row(site, row) == row) {
        true => Ok(m),
        false => matrix(m.rows, m.cols, &reordered(base, site, &values(&m), false)),
    }
}

fn scales(config: &Config, file: &Safetensors, base: &Base) -> Result<Changes> {
    let mut all = Vec::new();
    for (site, found) in gather(config, file, &[Part::Scale], base)? {
        let Some(tensor) = found.scale else { continue };
        same_elsewhere(base, site)?;
        let [n_in, n_out] = base.shape(site)?.map(|n| n as u64);
        all.push(match tensor.shape[..] {
            [1, n] if n == n_in => (Place::Input(site), file.vector(tensor, n_in as usize)?),
            [n, 1] if n == n_out => {
                (Place::Site(site), reordered(base, site, &file.vector(tensor, n_out as usize)?, false))
            }
            _ => {
                let wanted = format!("[1, {n_in}] or [{n_out}, 1]");
                let what = format!("shape of {}", printable(&tensor.name));
                return Err(Error::mismatch(what, wanted, format!("{:?}", tensor.shape)));
            }
        });
    }
    Ok(Changes::Scales(all))
}

/// `prompt_embeddings`, rows of `width` values: their number, and the values.
fn virtual_tokens(config: &Config, file: &Safetensors, width: usize, base: &Base) -> Result<(usize, Vec<f32>)> {
    const NAME: &str = "prompt_embeddings";
    if config.method == Method::Rows && SCALE_ROWS.contains(&base.architecture.as_str()) {
        let why = format!("{}, whose other programs multiply virtual tokens by a factor", base.architecture);
        return Err(Error::unsupported("prompt of", why));
    }
    let others: Vec<String> = file
        .tensors()
        .iter()
        .filter(|t| &*t.name != NAME)
        .map(|t| printable(&t.name))
        .chain(config.saved.clone())
        .collect();
    if !others.is_empty() {
        return Err(Error::unsupported("adapter tensors", some(&others)));
    }
    let tensor = file.tensor(NAME).ok_or_else(|| Error::mismatch("adapter tensors", NAME, "none"))?;
    let length = tensor.shape.first().copied().unwrap_or(0);
    let wanted = [config.length.unwrap_or(length), width as u64];
    if tensor.shape != wanted {
        return Err(Error::mismatch(
            "shape of prompt_embeddings",
            format!("{wanted:?}"),
            format!("{:?}", tensor.shape),
        ));
    }
    let n = usize::try_from(length).ok().and_then(|length| length.checked_mul(width));
    let n = n.ok_or_else(|| Error::limit("address space", length, usize::MAX as u64))?;
    Ok((length as usize, file.vector(tensor, n)?))
}

/// Of a row, the key of block `l` is the `2l`-th piece and the value the next.
fn prefix(config: &Config, file: &Safetensors, base: &Base) -> Result<Changes> {
    let width = heads(base)?;
    let row = width.saturating_mul(2).saturating_mul(base.layers());
    let (length, all) = virtual_tokens(config, file, row, base)?;
    let blocks = (0..base.layers()).map(|layer| {
        let piece = |value: usize| {
            let skipped = layer.saturating_mul(2).saturating_add(value);
            let pieces = all.chunks_exact(row.max(1)).filter_map(|row| row.chunks_exact(width).nth(skipped));
            let key = Site { layer, role: crate::role::Role::K };
            let ordered =
                pieces.map(|piece| if value == 0 { reordered(base, key, piece, false) } else { piece.to_vec() });
            ordered.flatten().collect::<Vec<f32>>()
        };
        [piece(0), piece(1)]
    });
    Ok(Changes::Prefix(length, blocks.collect()))
}

/// The width of all key heads, the same in every block.
///
/// # Errors
/// `Unsupported` if blocks differ, or one has no attention; and where positions are learnt, since a text begins behind the
/// prefix in other programs, and here at its first position: keys can be turned, and learnt positions cannot.
pub(super) fn heads(base: &Base) -> Result<usize> {
    if let Some(frozen) = &base.frozen
        && (0..base.layers()).all(|layer| frozen.rope(layer).is_none())
    {
        return Err(Error::unsupported("prefix of", "a model whose positions are learnt"));
    }
    let width = |heads: crate::nn::attention::Heads| heads.kv.saturating_mul(heads.dim);
    let mut widths = base.shapes.iter().map(|block| width(block.heads));
    let first = widths.next().unwrap_or(0);
    match first > 0 && widths.all(|w| w == first) {
        true => Ok(first),
        false => Err(Error::unsupported("prefix of", "a model whose blocks have different heads")),
    }
}
