//! Where a run's result goes: checked before, written after.

use super::{Past, aim};
use crate::args::Train;
use crate::load::{Loaded, split_scale};
use crate::paths::{self, Named};
use anyhow::Context;
use mynah::adapter;
use mynah::bytes::Bytes;
use mynah::gguf::{Gguf, Writer};
use mynah::model::Model;
use mynah::model::weights::Offsets;
use mynah::quant::Format;
use mynah::train::Trainer;
use mynah::train::objective::Kind;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What cannot be written, or must not be overwritten, is found before hours of work. `folder` is that of checkpoints.
pub fn check(args: &Train, folder: Named) -> anyhow::Result<()> {
    let teach = &args.teach;
    let mut written = vec![folder];
    written.extend(teach.log.as_ref().map(|path| Named::new("--log", path)));
    written.extend(teach.activation_cache.as_ref().map(|path| Named::new("--activation-cache", path)));
    if Kind::by_name(teach.objective.kind()).is_ok_and(|kind| kind.reference) {
        written.push(Named::new("what is kept beside -d", aim::beside(&args.data)));
    }
    let init: Vec<Named> = teach.init.iter().map(|path| Named::new("--init", path)).collect();
    paths::apart(&written, &init)?;
    let mut beneath = Vec::new();
    for name in &teach.adapters {
        beneath.push(Named::new("-a", split_scale(name)?.0));
    }
    // An adapter may take the place of the one it began from, which is read whole before.
    written.insert(0, Named::new("-o", &args.output));
    paths::apart(&written, &beneath)?;
    paths::apart(&written, &[Named::new("-m", &args.model), Named::new("-d", &args.data)])?;
    paths::writable(&args.output)
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
    let offsets = Offsets::of(&model.weights);
    let flat = Bytes::from_floats(Arc::new(model.weights.flatten(&offsets)));
    let f32s = Format::by_name("F32").context("the table of formats has no F32")?;
    let mut writer = Writer::new();
    for (key, value) in before.pairs() {
        match key {
            // 0: all F32.
            "general.file_type" => writer.set(key, 0u32),
            _ => writer.set(key, value.clone()),
        };
    }
    let names = offsets.names(&model.hparams);
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
