//! A folder of a model as Hugging Face's transformers saves it becomes a GGUF file: `config.json`, safetensors, and a
//! tokenizer in `tokenizer.json` or `tokenizer.model`. Names, order and metadata are those of llama.cpp's converter
//! (0.5.0-dev).
//!
//! [`FAMILIES`] lists the classes of models that are known: all architectures that this crate runs. `families.rs` is that
//! table, `config.rs` reads the settings, `tensors.rs` says what becomes of rows, `vocabulary.rs`, `sentencepiece.rs` and
//! `special.rs` read tokenizers. Other classes, tokenizers and scalings of positions are refused by name. Of the general
//! metadata, which the converter guesses from names, the file gets the name of the folder and the number of parameters.

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
mod families;
mod sentencepiece;
mod special;
mod tensors;
mod vocabulary;

pub use families::{FAMILIES, Family};

use self::config::{Config, Keys};
use self::tensors::Formats;
use super::{Mix, Progress, write};
use crate::adapter::safetensors::Safetensors;
use crate::bytes::{Bytes, Limits, Sink, map};
use crate::error::{Error, Result, printable};
use crate::gguf::Writer;
use crate::kernel::Compute;
use crate::quant::Format;
use crate::text::Json;
use std::collections::BTreeSet;
use std::path::Path;
use std::prelude::v1::*;

/// How texts become one vector: the word or the end of a switch in a configuration, and the number in files.
const POOLINGS: [(&str, &str, u64); 3] = [
    ("mean", "pooling_mode_mean_tokens", 1),
    ("cls", "pooling_mode_cls_token", 2),
    ("lasttoken", "pooling_mode_lasttoken", 3),
];

/// What a folder says about its tokenizer. What is not there is `Null`.
struct Texts {
    tokenizer: Json,
    tokenizer_config: Json,
    /// `added_tokens.json`: numbers by spelling.
    added_file: Json,
    /// `tokenizer.model`.
    pieces: Option<Vec<u8>>,
    /// The chat template of a file of its own.
    template: Option<String>,
}

/// A folder that was read: its configuration, its tokenizer, and its tensors, mapped.
pub struct Folder {
    config: Config,
    name: String,
    /// `config.json` as it is.
    json: Json,
    texts: Texts,
    parts: Vec<Safetensors>,
    files: Vec<Bytes>,
    limits: Limits,
}

/// Reads the files of a folder.
struct Reader<'a> {
    path: &'a Path,
    limits: &'a Limits,
}

impl Reader<'_> {
    fn has(&self, name: &str) -> bool {
        self.path.join(name).is_file()
    }

    fn bytes(&self, name: &str, most: u64) -> Result<Vec<u8>> {
        let file = self.path.join(name);
        map::read(&file, most).map_err(|e| e.in_file(file.to_string_lossy()))
    }

    fn json(&self, name: &str) -> Result<Json> {
        let large = name.contains("tokenizer") || name.ends_with("index.json");
        let bytes = self.bytes(name, if large { self.limits.tokenizer } else { self.limits.json })?;
        let read = Json::parse(&bytes, self.limits.json_depth);
        read.map_err(|e| e.in_file(self.path.join(name).to_string_lossy()))
    }

    /// `Null` for a file that is not there.
    fn maybe(&self, name: &str) -> Result<Json> {
        if self.has(name) { self.json(name) } else { Ok(Json::Null) }
    }

    fn texts(&self) -> Result<Texts> {
        let pieces = self.has("tokenizer.model").then(|| self.bytes("tokenizer.model", self.limits.tokenizer));
        let template = match self.has("chat_template.jinja") {
            true => {
                let bytes = self.bytes("chat_template.jinja", self.limits.template)?;
                Some(String::from_utf8_lossy(&bytes).into_owned())
            }
            false => self.maybe("chat_template.json")?.get("chat_template").and_then(Json::text).map(String::from),
        };
        Ok(Texts {
            tokenizer: self.maybe("tokenizer.json")?,
            tokenizer_config: self.maybe("tokenizer_config.json")?,
            added_file: self.maybe("added_tokens.json")?,
            pieces: pieces.transpose()?,
            template,
        })
    }

    /// How texts become one vector, if the folder says so.
    fn pooling(&self) -> Result<Option<u64>> {
        let modules = self.maybe("modules.json")?;
        let of = |module: &Json, key: &str| module.get(key).and_then(Json::text).map(String::from);
        let mut modules = modules.list().unwrap_or_default().iter();
        let pooling = modules.find(|module| of(module, "type").is_some_and(|kind| kind.ends_with("Pooling")));
        let Some(path) = pooling.and_then(|module| of(module, "path")) else { return Ok(None) };
        if path.contains(['/', '\\']) || path.starts_with('.') {
            return Err(Error::invalid("modules.json", format!("`{}` is no folder beside it", printable(&path))));
        }
        let config = self.json(&format!("{path}/config.json"))?;
        let is = |(word, key, _): &&(&str, &str, u64)| {
            config.get(key) == Some(&Json::Bool(true)) || config.get("pooling_mode").and_then(Json::text) == Some(word)
        };
        match POOLINGS.iter().find(is) {
            Some((.., number)) => Ok(Some(*number)),
            None => Err(Error::unsupported("pooling", "another than mean, cls and lasttoken")),
        }
    }
}

impl Folder {
    /// Reads a folder.
    ///
    /// # Errors
    /// `Io` from the system; `Unsupported` for a class or weights that are not known; `Corrupt`, `Mismatch` and `Limit` for
    /// files that are damaged or do not belong together. They name the file.
    pub fn open(path: &Path, limits: &Limits) -> Result<Folder> {
        let reader = Reader { path, limits };
        let json = reader.json("config.json")?;
        let within = json.get("text_config").and_then(|text| text.get("architectures"));
        let classes = within.filter(|c| **c != Json::Null).or_else(|| json.get("architectures"));
        let class = classes.and_then(Json::list).and_then(|all| all.first()).and_then(Json::text);
        let family = FAMILIES.iter().find(|family| class.is_some_and(|class| family.classes.contains(&class)));
        let family = family.ok_or_else(|| {
            let known: Vec<_> = FAMILIES.iter().flat_map(|family| family.classes).copied().collect();
            let found = printable(class.unwrap_or("none"));
            Error::unsupported("class of models", format!("{found}; known are {}", known.join(", ")))
        })?;
        if json.get("quantization_config").is_some_and(|q| *q != Json::Null) {
            return Err(Error::unsupported("weights", "quantised ones; take the folder of the model before that"));
        }
        let config = Config::new(family, &json, reader.pooling()?);
        let index = reader.maybe("model.safetensors.index.json")?;
        let names = if index == Json::Null { vec!["model.safetensors".into()] } else { parts(&index)? };
        let (mut all, mut files) = (Vec::new(), Vec::new());
        for name in &names {
            let file = path.join(name);
            let bytes = map::open(&file)?;
            files.push(bytes.clone());
            all.push(Safetensors::parse(bytes, limits).map_err(|e| e.in_file(file.to_string_lossy()))?);
        }
        complete(&index, &all)?;
        let name = std::path::absolute(path).ok().and_then(|p| Some(p.file_name()?.to_string_lossy().into_owned()));
        let (name, texts) = (name.unwrap_or_default(), reader.texts()?);
        Ok(Folder { config, name, json, texts, parts: all, files, limits: limits.clone() })
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
        let tensors: Vec<_> =
            self.parts.iter().flat_map(|part| part.tensors().iter().map(move |t| (part, t))).collect();
        let mix = match to {
            Some(mix) => mix,
            None => {
                let matrix = tensors.iter().find(|(_, t)| t.shape.len() > 1);
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
        let steps = tensors::steps(&self.config, &tensors, Formats { matrices, plain })?;
        let head = self.head(mix, name.unwrap_or(&self.name), &tensors::size_label(&steps))?;
        write(head, &steps, cx, &|| self.files.iter().try_for_each(Bytes::check), sink, progress)
    }

    /// All metadata.
    fn head(&self, mix: &Mix, name: &str, size: &str) -> Result<Writer> {
        let (config, family) = (&self.config, self.config.family);
        let mut keys = Keys::new(family.architecture, mix.file_type);
        keys.set("general.architecture", family.architecture);
        if let Some(factor) = config.magnitude()? {
            keys.put("rope.scaling.attn_factor", factor);
        }
        keys.set("general.type", "model").set("general.name", name).set("general.size_label", size);
        (family.keys)(config, &mut keys)?;
        keys.set("general.quantization_version", super::quantise::FORMATS_VERSION);
        self.vocabulary(&mut keys)?;
        let mut head = Writer::new();
        for (key, value) in keys.pairs {
            head.set(key, value);
        }
        Ok(head)
    }
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
