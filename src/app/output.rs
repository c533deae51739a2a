//! The file of what was learnt.

use super::Mynah;
use super::history::History;
use crate::adapter;
use crate::bytes::Bytes;
use crate::error::{Error, Result};
use crate::gguf::{Gguf, Writer};
use crate::model::Model;
use crate::model::weights::Offsets;
use crate::quant::Format;
use crate::train::Trainer;
use std::collections::BTreeSet;
use std::prelude::v1::*;
use std::sync::Arc;

/// Its bytes: an adapter's file or, where all weights are trained, a GGUF file in F32. `data` is the digest of the data,
/// `epoch` the steps of one.
pub(super) fn encode(
    mynah: &Mynah,
    data: &[u8; 32],
    trainer: &Trainer,
    history: &History,
    epoch: u64,
) -> Result<Vec<u8>> {
    match trainer.adapter_ref() {
        Some(trained) => {
            let outcome = trained.outcome();
            let adapter = outcome.unwrap_or(trained);
            let provenance = history.provenance(trainer.kind(), data, trainer.model(), epoch);
            match &trainer.config().codec {
                // Before its time has come the values are rounded here, and so are those that were not trained themselves.
                Some(codec) if outcome.is_some() || trainer.steps() < trainer.config().codec_from() => {
                    let bytes = adapter::to_bytes_as(adapter, mynah.base(), &provenance, "f32")?;
                    let mut copy = mynah.adapter(bytes)?;
                    adapter::file::packed(&mut *copy, mynah.base(), &provenance, codec)
                }
                codec => {
                    let name = codec.as_ref().map_or("f16", |codec| &codec.kind);
                    adapter::to_bytes_as(adapter, mynah.base(), &provenance, name)
                }
            }
        }
        None => trainer.model().check().and_then(|()| model_file(&mynah.gguf, trainer.model())),
    }
}

/// The file of a model in F32: metadata and the tensors that are not trained as they were.
fn model_file(before: &Gguf, model: &Model) -> Result<Vec<u8>> {
    let offsets = Offsets::of(&model.weights);
    let flat = Bytes::from_floats(Arc::new(model.weights.flatten(&offsets)?));
    let f32s = Format::by_name("F32").ok_or_else(|| Error::unsupported("format", "F32"))?;
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
        let missing = || Error::mismatch("model file", format!("a tensor {name}"), "none");
        let tensor = before.tensor(name).ok_or_else(missing)?;
        writer.tensor(name.as_str(), tensor.dims(), f32s, flat.slice(place.start * 4..place.end * 4)?);
    }
    for tensor in before.tensors().iter().filter(|t| !trained.contains(&*t.name)) {
        writer.tensor(&*tensor.name, tensor.dims(), tensor.format, before.data(tensor)?);
    }
    writer.finish()
}

/// The first digits of a digest.
pub(super) fn short(hash: blake3::Hash) -> String {
    hash.to_hex()[..16].into()
}
