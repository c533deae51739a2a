//! Where a run's result goes: checked before, written after.

use super::Past;
use crate::args::{Train, Usage};
use crate::load::Loaded;
use anyhow::Context;
use mynah::adapter;
use mynah::bytes::Bytes;
use mynah::gguf::{Gguf, Writer};
use mynah::model::Model;
use mynah::model::weights::Places;
use mynah::quant::Format;
use mynah::train::Trainer;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// What cannot be written, or must not be overwritten, is found before hours of work.
pub fn check(args: &Train) -> anyhow::Result<()> {
    let real = |p: &Path| p.canonicalize().ok();
    for (input, what) in [(&args.model, "the model"), (&args.data, "the data")] {
        if real(&args.output).is_some_and(|out| Some(out) == real(input)) {
            return Err(Usage::error(format!("-o {} would overwrite {what}", args.output.display())));
        }
    }
    let parent = args.output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    anyhow::ensure!(parent.is_dir(), "{}: there is no such directory", parent.display());
    anyhow::ensure!(!args.output.is_dir(), "{}: a directory; a file is written", args.output.display());
    if args.teach.log.as_ref().is_some_and(|log| *log == args.output) {
        return Err(Usage::error("--log and -o name the same file"));
    }
    Ok(())
}

/// The bytes of what was learnt.
pub fn encode(loaded: &Loaded, data: &[u8], trainer: &Trainer, past: &Past) -> anyhow::Result<Vec<u8>> {
    match trainer.adapter_ref() {
        Some(adapter) => Ok(adapter::to_bytes(adapter, loaded.base(), &past.provenance(trainer, data))?),
        None => model_file(&loaded.gguf, trainer.model()),
    }
}

/// The file of a model in F32: metadata and the tensors that are not trained as they were.
fn model_file(before: &Gguf, model: &Model) -> anyhow::Result<Vec<u8>> {
    let places = Places::of(&model.weights);
    let flat = Bytes::from_floats(Arc::new(model.weights.flatten(&places)));
    let f32s = Format::by_name("F32").context("the table of formats has no F32")?;
    let mut writer = Writer::new();
    for (key, value) in before.pairs() {
        match key {
            // 0: all F32.
            "general.file_type" => writer.set(key, 0u32),
            _ => writer.set(key, value.clone()),
        };
    }
    let names = places.names();
    let trained: BTreeSet<&str> = names.iter().map(|(name, _)| name.as_str()).collect();
    for (name, place) in &names {
        let tensor = before.tensor(name).with_context(|| format!("the model file has no tensor {name}"))?;
        writer.tensor(name.as_str(), tensor.dims(), f32s, flat.slice(place.start * 4..place.end * 4)?);
    }
    for tensor in before.tensors().iter().filter(|t| !trained.contains(&*t.name)) {
        writer.tensor(&*tensor.name, tensor.dims(), tensor.format, before.data(tensor)?);
    }
    Ok(writer.finish()?)
}
