//! A folder of a model as Hugging Face's transformers saves it, `config.json`, safetensors and `tokenizer.json`, becomes a GGUF
//! file: names, order and metadata are those of llama.cpp's converter (0.5.0-dev).
//!
//! [`FAMILIES`] lists the classes of models that are known, with byte-level BPE. Other classes, tokenizers and scalings of
//! positions are refused by name. Of the general metadata, which the converter guesses from names, the file gets the name of
//! the folder and the number of parameters.

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

use super::{Mix, Progress, Step, write};
use crate::adapter::safetensors::{Safetensors, Tensor};
use crate::bytes::{Bytes, Limits, Sink, map};
use crate::error::{Error, Result, printable};
use crate::gguf::Writer;
use crate::kernel::Compute;
use crate::quant::Format;
use crate::text::Json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::prelude::v1::*;

/// The widest head.
const WIDEST: u64 = 1 << 16;

/// A class of models.
#[derive(Debug)]
pub struct Family {
    /// Its name in `config.json`.
    pub class: &'static str,
    /// The architecture in GGUF files.
    pub architecture: &'static str,
    /// Whether rows of queries and keys become neighbouring pairs, and a file says its vocabulary and rotated dimensions.
    paired: bool,
}

const fn family(class: &'static str, architecture: &'static str, paired: bool) -> Family {
    Family { class, architecture, paired }
}

/// Every class that is known.
pub static FAMILIES: &[Family] = &[
    family("LlamaForCausalLM", "llama", true),
    family("MistralForCausalLM", "llama", true),
    family("SmolLM3ForCausalLM", "smollm3", true),
    family("Qwen2ForCausalLM", "qwen2", false),
    family("Qwen3ForCausalLM", "qwen3", false),
];

/// Tensors outside of blocks: their names there and here.
const OUTSIDE: [[&str; 2]; 3] =
    [["model.embed_tokens", "token_embd"], ["lm_head", "output"], ["model.norm", "output_norm"]];

/// Tensors of a block.
const INSIDE: [[&str; 2]; 11] = [
    ["input_layernorm", "attn_norm"],
    ["post_attention_layernorm", "ffn_norm"],
    ["self_attn.q_proj", "attn_q"],
    ["self_attn.k_proj", "attn_k"],
    ["self_attn.v_proj", "attn_v"],
    ["self_attn.o_proj", "attn_output"],
    ["self_attn.q_norm", "attn_q_norm"],
    ["self_attn.k_norm", "attn_k_norm"],
    ["mlp.gate_proj", "ffn_gate"],
    ["mlp.up_proj", "ffn_up"],
    ["mlp.down_proj", "ffn_down"],
];

const QWEN: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const LLAMA: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How texts are cut before they are merged: the expression, or a word for what is built in; whether whole words of the
/// vocabulary are not merged; and the name in GGUF files.
const PRE: [(&str, bool, &str); 5] = [
    (QWEN, false, "qwen2"),
    (LLAMA, true, "llama-bpe"),
    (LLAMA, false, "smaug-bpe"),
    ("digits", false, "smollm"),
    ("", false, "gpt-2"),
];

/// Special tokens: their names in configurations and here, in the order of files.
const SPECIAL: [[&str; 2]; 7] = [
    ["bos", "bos"],
    ["eos", "eos"],
    ["unk", "unknown"],
    ["sep", "seperator"],
    ["pad", "padding"],
    ["cls", "cls"],
    ["mask", "mask"],
];

/// A folder that was read: its configuration, its tokenizer, and its tensors, mapped.
pub struct Folder {
    family: &'static Family,
    name: String,
    config: Json,
    tokenizer: Json,
    tokenizer_config: Json,
    template: Option<String>,
    parts: Vec<Safetensors>,
    files: Vec<Bytes>,
}

impl Folder {
    /// Reads a folder.
    ///
    /// # Errors
    /// `Io` from the system; `Unsupported` for a class, a tokenizer or weights that are not known; `Corrupt`, `Mismatch` and
    /// `Limit` for files that are damaged or do not belong together. They name the file.
    pub fn open(path: &Path, limits: &Limits) -> Result<Folder> {
        let json = |name: &str| -> Result<Json> {
            let file = path.join(name);
            let most = if name.starts_with("tokenizer") || name.ends_with("index.json") {
                limits.tokenizer
            } else {
                limits.json
            };
            let read = map::read(&file, most).and_then(|bytes| Json::parse(&bytes, limits.json_depth));
            read.map_err(|e| e.in_file(file.to_string_lossy()))
        };
        let has = |name: &str| path.join(name).exists();
        let config = json("config.json")?;
        let class = config.get("architectures").and_then(Json::list).and_then(|all| all.first()).and_then(Json::text);
        let family = FAMILIES.iter().find(|family| Some(family.class) == class).ok_or_else(|| {
            let known: Vec<_> = FAMILIES.iter().map(|family| family.class).collect();
            let found = printable(class.unwrap_or("none"));
            Error::unsupported("class of models", format!("{found}; known are {}", known.join(", ")))
        })?;
        if config.get("quantization_config").is_some_and(|q| *q != Json::Null) {
            return Err(Error::unsupported("weights", "quantised ones; take the folder of the model before that"));
        }
        if !has("tokenizer.json") {
            let found =
                if has("tokenizer.model") { "SentencePiece (tokenizer.model)" } else { "none (tokenizer.json)" };
            return Err(Error::unsupported("tokenizer", format!("{found}; byte-level BPE in tokenizer.json is known")));
        }
        let template = path.join("chat_template.jinja");
        let template = match template.exists() {
            true => Some(String::from_utf8_lossy(&map::read(&template, limits.template)?).into_owned()),
            false => None,
        };
        let names: Vec<String> = match has("model.safetensors.index.json") {
            true => parts(&json("model.safetensors.index.json")?)?,
            false => vec!["model.safetensors".into()],
        };
        let (mut all, mut files) = (Vec::new(), Vec::new());
        for name in &names {
            let file = path.join(name);
            let bytes = map::open(&file)?;
            files.push(bytes.clone());
            all.push(Safetensors::parse(bytes, limits).map_err(|e| e.in_file(file.to_string_lossy()))?);
        }
        if has("model.safetensors.index.json") {
            complete(&json("model.safetensors.index.json")?, &all)?;
        }
        let name = std::path::absolute(path).ok().and_then(|p| Some(p.file_name()?.to_string_lossy().into_owned()));
        Ok(Folder {
            family,
            name: name.unwrap_or_default(),
            tokenizer: json("tokenizer.json")?,
            tokenizer_config: if has("tokenizer_config.json") { json("tokenizer_config.json")? } else { Json::Null },
            config,
            template,
            parts: all,
            files,
        })
    }

    /// Writes the model as a GGUF file. `to`: F32, F16 or BF16; without one as the first matrix is stored. `name`: what the
    /// model is called, if not as its folder.
    ///
    /// # Errors
    /// `Invalid` for another type; `Unsupported` naming tensors, tokenizers and settings that are not known; `Mismatch` for
    /// shapes that do not fit; those of [`super::quantise()`].
    pub fn convert(
        &self,
        to: Option<&'static Mix>,
        name: Option<&str>,
        cx: &Compute,
        sink: &mut dyn Sink,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        let tensors: Vec<(&Safetensors, &Tensor)> =
            self.parts.iter().flat_map(|part| part.tensors().iter().map(move |t| (part, t))).collect();
        let mix = match to {
            Some(mix) => mix,
            None => {
                let matrix = tensors.iter().find(|(_, t)| t.shape.len() == 2);
                let format =
                    matrix.map(|(part, t)| part.values(t)).transpose()?.map_or("F32", |(format, _)| format.name);
                Mix::by_name(format)?
            }
        };
        let matrices = Format::by_name(mix.format).filter(|format| !format.is_quantised());
        let matrices = matrices.ok_or_else(|| {
            Error::invalid(
                "type",
                format!("{}; a folder becomes F32, F16 or BF16, which can be quantised then", mix.name),
            )
        })?;
        let plain = Format::by_name("F32").ok_or_else(|| Error::unsupported("tensor format", "F32"))?;
        let names: Vec<Option<String>> = tensors.iter().map(|(_, t)| here(&t.name)).collect();
        let unknown: Vec<_> =
            tensors.iter().zip(&names).filter(|(_, n)| n.is_none()).map(|((_, t), _)| printable(&t.name)).collect();
        if !unknown.is_empty() {
            return Err(Error::unsupported("tensors", unknown.join(", ")));
        }
        let factors = self.factors()?;
        let mut steps = Vec::new();
        if let Some(factors) = &factors {
            let bytes: Vec<u8> = factors.iter().flat_map(|v| v.to_le_bytes()).collect();
            let (dims, from, cols) = (vec![factors.len() as u64], (plain, Bytes::from(bytes)), factors.len());
            let name = "rope_freqs.weight";
            steps.push(Step { name, dims, from, cols, to: plain, order: None, change: None, importance: None });
        }
        for ((part, tensor), name) in tensors.iter().zip(&names) {
            let Some(name) = name else { continue };
            if !tensor.name.ends_with("rotary_emb.inv_freq") {
                steps.push(self.step(part, tensor, name, matrices, plain)?);
            }
        }
        let parameters = steps.iter().map(|s| s.dims.iter().fold(1, |n: u64, d| n.saturating_mul(*d)));
        let parameters = parameters.fold(0, u64::saturating_add);
        let head = self.head(mix, name.unwrap_or(&self.name), parameters)?;
        write(head, &steps, cx, &|| self.files.iter().try_for_each(Bytes::check), sink, progress)
    }

    fn step<'a>(
        &self,
        part: &Safetensors,
        tensor: &Tensor,
        name: &'a str,
        matrices: &'static Format,
        plain: &'static Format,
    ) -> Result<Step<'a>> {
        let from = part.values(tensor)?;
        let dims: Vec<u64> = tensor.shape.iter().rev().copied().collect();
        let to = if dims.len() == 2 { matrices } else { plain };
        let shape = || format!("shape of tensor `{}`", printable(&tensor.name));
        let (cols, rows) = match dims[..] {
            [n] => (n, 1),
            [cols, rows] => (cols, rows),
            _ => return Err(Error::mismatch(shape(), "one or two dimensions", format!("{:?}", tensor.shape))),
        };
        let mut step = Step { name, from, cols: cols as usize, to, order: None, change: None, importance: None, dims };
        let heads = match () {
            () if !self.family.paired => None,
            () if name.contains(".attn_q.") => Some(self.whole("num_attention_heads")?),
            () if name.contains(".attn_k.") => Some(self.whole_or("num_key_value_heads", "num_attention_heads")?),
            () => None,
        };
        if let Some(heads) = heads {
            // A bias is rows of one value.
            let all = if step.dims.len() == 1 { cols } else { rows };
            step.cols = if step.dims.len() == 1 { 1 } else { step.cols };
            let width =
                all.checked_div(heads).filter(|w| w.checked_mul(heads) == Some(all) && w.is_multiple_of(2) && *w > 0);
            let width = width.ok_or_else(|| Error::mismatch(shape(), format!("rows for {heads} heads"), all))? as usize;
            step.order = Some(Box::new(move |row| hugging_face_row(row, width)));
        }
        Ok(step)
    }

    /// A number of the configuration.
    fn number(&self, key: &str) -> Option<f64> {
        self.config.get(key).and_then(Json::number)
    }

    fn whole(&self, key: &str) -> Result<u64> {
        let found = self.config.get(key).and_then(Json::whole).filter(|n| *n > 0);
        found.ok_or_else(|| Error::mismatch("config.json", format!("{key}, a whole number"), "none"))
    }

    fn whole_or(&self, key: &str, other: &str) -> Result<u64> {
        if self.config.get(key).is_some_and(|v| *v != Json::Null) { self.whole(key) } else { self.whole(other) }
    }

    /// What rotates positions: the settings, and the value of a key there or in the configuration itself.
    fn rope(&self, key: &str) -> Option<&Json> {
        let own = ["rope_parameters", "rope_scaling"].iter().find_map(|k| self.config.get(k)).and_then(|v| v.get(key));
        own.or_else(|| self.config.get(key))
    }

    fn rope_type(&self) -> &str {
        let scaling = ["rope_parameters", "rope_scaling"].iter().find_map(|k| self.config.get(k));
        let named = scaling.and_then(|s| s.get("rope_type").or_else(|| s.get("type"))).and_then(Json::text);
        named.unwrap_or("default")
    }

    /// Divisors of the rotary frequencies, for Llama 3's scaling.
    fn factors(&self) -> Result<Option<Vec<f32>>> {
        if self.rope_type() != "llama3" {
            return Ok(None);
        }
        let of = |key: &str, usual: f64| self.rope(key).and_then(Json::number).unwrap_or(usual);
        let (base, dims) = (of("rope_theta", 10000.0), self.head_width()?);
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
        Ok(Some((0..dims).step_by(2).map(divisor).collect()))
    }

    fn head_width(&self) -> Result<u64> {
        let width = match self.config.get("head_dim").and_then(Json::whole) {
            Some(width) => width,
            None => self.whole("hidden_size")?.checked_div(self.whole("num_attention_heads")?).unwrap_or(0),
        };
        Limits::check("width of a head", width, WIDEST).map(|()| width)
    }

    /// All metadata.
    fn head(&self, mix: &Mix, name: &str, parameters: u64) -> Result<Writer> {
        let (mut head, arch) = (Writer::new(), self.family.architecture);
        let small = |n: u64| u32::try_from(n).map_err(|_| Error::limit("a number of config.json", n, u32::MAX.into()));
        head.set("general.architecture", arch).set("general.type", "model");
        head.set("general.name", name).set("general.size_label", size(parameters));
        let key = |name: &str| format!("{arch}.{name}");
        for (name, from) in [
            ("block_count", "num_hidden_layers"),
            ("context_length", "max_position_embeddings"),
            ("embedding_length", "hidden_size"),
            ("feed_forward_length", "intermediate_size"),
            ("attention.head_count", "num_attention_heads"),
        ] {
            head.set(key(name), small(self.whole(from)?)?);
        }
        head.set(key("attention.head_count_kv"), small(self.whole_or("num_key_value_heads", "num_attention_heads")?)?);
        match self.rope_type() {
            "default" | "llama3" => {}
            scaled @ ("linear" | "yarn") => {
                let factor = self.rope("factor").and_then(Json::number);
                let factor = factor.ok_or_else(|| Error::mismatch("config.json", "factor of rope_scaling", "none"))?;
                head.set(key("rope.scaling.type"), scaled).set(key("rope.scaling.factor"), factor as f32);
                if let ("yarn", Some(old)) =
                    (scaled, self.rope("original_max_position_embeddings").and_then(Json::whole))
                {
                    head.set(key("rope.scaling.original_context_length"), small(old)?);
                }
            }
            other => return Err(Error::unsupported("scaling of positions", other)),
        }
        let base = self.rope("rope_theta").and_then(Json::number);
        if let Some(base) = base {
            head.set(key("rope.freq_base"), base as f32);
        }
        if let Some(eps) = self.number("rms_norm_eps") {
            head.set(key("attention.layer_norm_rms_epsilon"), eps as f32);
        }
        if let Some(width) = self.config.get("head_dim").and_then(Json::whole) {
            head.set(key("attention.key_length"), small(width)?).set(key("attention.value_length"), small(width)?);
        }
        head.set("general.file_type", mix.file_type);
        if self.family.paired {
            head.set(key("vocab_size"), small(self.whole("vocab_size")?)?);
            head.set(key("rope.dimension_count"), small(self.head_width()?)?);
        }
        head.set("general.quantization_version", super::quantise::FORMATS_VERSION);
        self.vocabulary(&mut head)?;
        Ok(head)
    }

    /// The tokenizer.
    fn vocabulary(&self, head: &mut Writer) -> Result<()> {
        let model = self.tokenizer.get("model");
        let kind = model.and_then(|m| m.get("type")).and_then(Json::text).unwrap_or("none");
        let fallback = model.and_then(|m| m.get("byte_fallback")) == Some(&Json::Bool(true));
        let (Some(model), "BPE", false) = (model, kind, fallback) else {
            return Err(Error::unsupported("tokenizer", format!("{kind}; byte-level BPE is known")));
        };
        let n = self.whole("vocab_size")?;
        Limits::check("tokens", n, Limits::DEFAULT.array)?;
        let mut tokens: Vec<Option<(String, i32)>> = vec![None; n as usize];
        let mut put = |id: Option<u64>, text: &str, kind: i32| match id.and_then(|id| tokens.get_mut(id as usize)) {
            Some(token) => {
                *token = Some((text.into(), kind));
                Ok(())
            }
            None => Err(Error::mismatch("tokenizer.json", format!("ids below {n}"), format!("{id:?} of a token"))),
        };
        let Some(Json::Object(vocab)) = model.get("vocab") else {
            return Err(Error::mismatch("tokenizer.json", "a vocabulary", "none"));
        };
        for (text, id) in vocab {
            put(id.whole(), text, NORMAL)?;
        }
        let added = self.tokenizer.get("added_tokens").and_then(Json::list).unwrap_or_default();
        let mut ids = BTreeMap::new();
        for token in added {
            let text = token.get("content").and_then(Json::text).unwrap_or_default();
            let control = token.get("special") == Some(&Json::Bool(true)) || looks_special(text);
            let spelled = if control { text.into() } else { text.replace('\u{2581}', " ") };
            let id = token.get("id").and_then(Json::whole);
            put(id, &spelled, if control { CONTROL } else { OWN })?;
            ids.entry(text).or_insert(id.unwrap_or_default());
        }
        if let (true, Some(Json::Bool(prefix))) = (self.family.paired, self.tokenizer_config.get("add_prefix_space")) {
            head.set("tokenizer.ggml.add_space_prefix", *prefix);
        }
        head.set("tokenizer.ggml.model", "gpt2").set("tokenizer.ggml.pre", self.cutting(model)?);
        let unused = |i: usize| (format!("[PAD{i}]"), UNUSED);
        let tokens: Vec<_> = tokens.into_iter().enumerate().map(|(i, t)| t.unwrap_or_else(|| unused(i))).collect();
        let (texts, kinds): (Vec<String>, Vec<i32>) = tokens.into_iter().unzip();
        head.set("tokenizer.ggml.tokens", &texts[..]).set("tokenizer.ggml.token_type", &kinds[..]);
        head.set("tokenizer.ggml.merges", &merges(model)?[..]);
        self.special(head, &ids)
    }

    /// The name of how texts are cut before they are merged.
    fn cutting(&self, model: &Json) -> Result<&'static str> {
        let cut = self.tokenizer.get("pre_tokenizer");
        let steps: Vec<&Json> = match cut.and_then(|p| p.get("pretokenizers")).and_then(Json::list) {
            Some(steps) => steps.iter().collect(),
            None => cut.into_iter().collect(),
        };
        let kind = |step: &Json| step.get("type").and_then(Json::text).map(String::from);
        let mut found = String::new();
        for step in steps {
            match kind(step).as_deref() {
                Some("Split") => {
                    let regex = step.get("pattern").and_then(|p| p.get("Regex")).and_then(Json::text);
                    found += regex.unwrap_or("another split");
                }
                Some("Digits") if step.get("individual_digits") == Some(&Json::Bool(true)) => found += "digits",
                Some("ByteLevel") => {}
                other => found += other.unwrap_or("none"),
            }
        }
        let whole = model.get("ignore_merges") == Some(&Json::Bool(true));
        let row = PRE.iter().find(|(pattern, merged, _)| *pattern == found && *merged == whole);
        row.map(|(.., name)| *name).ok_or_else(|| Error::unsupported("pre-tokenizer", &found))
    }

    /// Special tokens, and the chat template.
    fn special(&self, head: &mut Writer, ids: &BTreeMap<&str, u64>) -> Result<()> {
        let config = &self.tokenizer_config;
        let mut written = BTreeSet::new();
        let mut adds: Vec<(&str, bool)> = Vec::new();
        for step in processors(&self.tokenizer) {
            if step.get("type").and_then(Json::text) == Some("ByteLevel") {
                adds.extend(
                    ["bos", "eos"]
                        .into_iter()
                        .filter(|kind| !adds.iter().any(|(k, _)| k == kind))
                        .map(|k| (k, false))
                        .collect::<Vec<_>>(),
                );
            }
            let single = step.get("single").and_then(Json::list).unwrap_or_default();
            let first =
                single.first().and_then(|s| s.get("SpecialToken")).and_then(|s| s.get("id")).and_then(Json::text);
            if let (Some(first), true) = (first, single.len() > 1) {
                let is = token_of(config, "bos") == Some(first);
                adds.retain(|(kind, _)| *kind != "bos");
                adds.push(("bos", is));
            }
        }
        for [kind, _] in SPECIAL {
            if let Some(Json::Bool(add)) = config.get(&format!("add_{kind}_token")) {
                match adds.iter_mut().find(|(k, _)| *k == kind) {
                    Some(known) => known.1 = *add,
                    None => adds.push((kind, *add)),
                }
            }
        }
        let mut say = |kind: &str, name: &str, id: u64, head: &mut Writer| {
            if written.insert(kind.to_string()) {
                head.set(format!("tokenizer.ggml.{name}_token_id"), id as u32);
            }
        };
        for [kind, name] in SPECIAL {
            if let Some(id) = token_of(config, kind).and_then(|text| ids.get(text)) {
                say(kind, name, *id, head);
            }
        }
        for [kind, name] in SPECIAL {
            if let Some(id) = self.config.get(&format!("{kind}_token_id")).and_then(Json::whole) {
                say(kind, name, id, head);
            }
        }
        for (kind, add) in adds.iter().filter(|(kind, _)| ["bos", "eos", "sep"].contains(kind)) {
            head.set(format!("tokenizer.ggml.add_{kind}_token"), *add);
        }
        let own = config.get("chat_template").and_then(Json::text);
        if let Some(template) = self.template.as_deref().or(own) {
            head.set("tokenizer.chat_template", template);
        }
        Ok(())
    }
}

/// Kinds of tokens.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const OWN: i32 = 4;
const UNUSED: i32 = 5;

/// The name of a tensor here; `None` if it is not known.
fn here(name: &str) -> Option<String> {
    let (path, suffix) = name.rsplit_once('.')?;
    if suffix == "inv_freq" && path.ends_with("rotary_emb") {
        return Some(String::new());
    }
    if !["weight", "bias"].contains(&suffix) {
        return None;
    }
    if let Some([_, own]) = OUTSIDE.iter().find(|[there, _]| *there == path) {
        return Some(format!("{own}.{suffix}"));
    }
    let (layer, path) = path.strip_prefix("model.layers.")?.split_once('.')?;
    let layer: u16 = layer.parse().ok()?;
    let [_, own] = INSIDE.iter().find(|[there, _]| *there == path)?;
    Some(format!("blk.{layer}.{own}.{suffix}"))
}

/// The row of a Hugging Face matrix that becomes row `row`: see [`crate::adapter::gguf_row`].
fn hugging_face_row(row: usize, width: usize) -> usize {
    let within = row.checked_rem(width).unwrap_or(0);
    let half = if within.is_multiple_of(2) { 0 } else { width.div_euclid(2) };
    row.saturating_sub(within).saturating_add(half).saturating_add(within.div_euclid(2))
}

/// The files that an index names, in order.
fn parts(index: &Json) -> Result<Vec<String>> {
    let Some(Json::Object(weights)) = index.get("weight_map") else {
        return Err(Error::mismatch("model.safetensors.index.json", "weight_map", "none"));
    };
    let names: BTreeSet<&str> = weights.iter().filter_map(|(_, file)| file.text()).collect();
    let plain = |name: &&str| !name.contains(['/', '\\']) && name.ends_with(".safetensors");
    match names.iter().find(|name| !plain(name)) {
        Some(name) => {
            Err(Error::invalid("model.safetensors.index.json", format!("`{}` is no file beside it", printable(name))))
        }
        None => Ok(names.into_iter().map(String::from).collect()),
    }
}

/// Checks that the parts hold exactly the tensors of the index.
fn complete(index: &Json, parts: &[Safetensors]) -> Result<()> {
    let Some(Json::Object(weights)) = index.get("weight_map") else { return Ok(()) };
    let wanted: BTreeSet<&str> = weights.iter().map(|(name, _)| &**name).collect();
    let found: Vec<&str> = parts.iter().flat_map(|part| part.tensors().iter().map(|t| &*t.name)).collect();
    let all: BTreeSet<&str> = found.iter().copied().collect();
    match wanted.symmetric_difference(&all).next() {
        Some(name) => Err(Error::mismatch(
            "tensors of all parts",
            "those of the index",
            format!("`{}` in one alone", printable(name)),
        )),
        None if all.len() < found.len() => Err(Error::mismatch("tensors of all parts", "each once", "one twice")),
        None => Ok(()),
    }
}

fn looks_special(text: &str) -> bool {
    ["<pad>", "<mask>", "<2mass>", "[@BOS@]"].contains(&text)
        || [("<|", "|>"), ("<｜", "｜>"), ("<unused", ">")]
            .iter()
            .any(|(a, b)| text.starts_with(a) && text.ends_with(b))
}

/// Pairs of a tokenizer, each in one text.
fn merges(model: &Json) -> Result<Vec<String>> {
    let bad = || Error::mismatch("tokenizer.json", "merges as texts or pairs of them", "others");
    let list = model.get("merges").and_then(Json::list).ok_or_else(bad)?;
    let one = |merge: &Json| match (merge.text(), merge.list()) {
        (Some(text), _) => Ok(text.to_string()),
        (None, Some([a, b])) => {
            let part = |part: &Json| part.text().map(|text| text.replace(' ', "\u{120}")).ok_or_else(bad);
            Ok(format!("{} {}", part(a)?, part(b)?))
        }
        _ => Err(bad()),
    };
    list.iter().map(one).collect()
}

/// What a tokenizer does with ids in the end.
fn processors(tokenizer: &Json) -> Vec<&Json> {
    let all = tokenizer.get("post_processor").filter(|p| **p != Json::Null);
    match all.and_then(|p| p.get("processors")).and_then(Json::list) {
        Some(steps) => steps.iter().collect(),
        None => all.into_iter().collect(),
    }
}

/// The text of a special token.
fn token_of<'a>(config: &'a Json, kind: &str) -> Option<&'a str> {
    let token = config.get(&format!("{kind}_token"))?;
    token.text().or_else(|| token.get("content").and_then(Json::text))
}

/// A number of parameters in a word: `135M`.
fn size(parameters: u64) -> String {
    let units = [(1e12, "T"), (1e9, "B"), (1e6, "M")];
    let n = parameters as f64;
    let (unit, name) = units.into_iter().find(|(unit, _)| n > *unit).unwrap_or((1e3, "K"));
    let scaled = n / unit;
    // Two digits at least. Halves are rounded to even numbers.
    let digits = match libm::rint(scaled) as u64 {
        0 => 0,
        whole => whole.to_string().len(),
    };
    format!("{scaled:.0$}{name}", 2usize.saturating_sub(digits))
}
