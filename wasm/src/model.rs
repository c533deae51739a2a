//! A model, what is attached to it, and what is made of it.

use crate::error::{error, options};
use crate::file::File;
use crate::lesson::Lesson;
use crate::options::{Lesson as Taught, Speech};
use crate::pool;
use crate::speech::{Talk, Text};
use js_sys::Float32Array;
use mynah::adapter::{self, Stack, probe};
use mynah::app::{Feedback, Generation, Setup};
use mynah::bytes::{Bytes, Limits};
use mynah::gguf::Gguf;
use mynah::picture;
use mynah::text::{Decode, Encode};
use mynah::{Compute, Mynah};
use serde_json::json;
use wasm_bindgen::prelude::*;

/// A model in memory, and the adapters that are attached to it.
#[wasm_bindgen]
pub struct Model {
    pub(crate) mynah: Mynah,
    stack: Stack,
}

#[wasm_bindgen]
impl Model {
    /// From the file that was written.
    pub fn load(file: File) -> Result<Model, JsValue> {
        let load = || {
            let gguf = Gguf::parse(file.into_bytes().into(), &Limits::default())?;
            Mynah::with(gguf, Compute { pool: pool().clone(), ..Compute::best(1) })
        };
        Ok(Model { mynah: load().map_err(error)?, stack: Stack::new() })
    }

    /// What it is, as JSON.
    pub fn facts(&self) -> Result<String, JsValue> {
        let (model, gguf) = (self.mynah.model(), self.mynah.gguf());
        let hparams = &model.hparams;
        Ok(json!({
            "name": model.name(),
            "format": model.format(),
            "architecture": gguf.require_string("general.architecture").map_err(error)?,
            "layers": hparams.layers,
            "context": hparams.context,
            "vocabulary": self.mynah.tokenizer().vocab_len(),
            "template": self.mynah.late_template().map_err(error)?.is_some(),
            "kernels": model.compute.kernels.name,
        })
        .to_string())
    }

    /// Attaches these adapters, in this order, in the place of those before.
    pub fn attach(&mut self, files: Vec<js_sys::Uint8Array>, strengths: &[f32]) -> Result<(), JsValue> {
        let mut stack = Stack::new();
        for (file, strength) in files.iter().zip(strengths) {
            let adapter = self.mynah.ready(file.to_vec()).map_err(error)?;
            stack.push(adapter, *strength).map_err(error)?;
        }
        self.stack = stack;
        Ok(())
    }

    /// What the file of an adapter says, as JSON.
    pub fn inspect(&self, file: Vec<u8>) -> Result<String, JsValue> {
        let info = adapter::info(Bytes::from(file), &Limits::default()).map_err(error)?;
        let kind = info.kind().to_string();
        let provenance = info.provenance.unwrap_or_default();
        Ok(json!({
            "kind": kind,
            "base": provenance.base,
            "format": provenance.format,
            "steps": provenance.steps,
            "firstLoss": provenance.first_loss,
            "lastLoss": provenance.last_loss,
        })
        .to_string())
    }

    /// Whether an adapter does here what its probe says, as JSON.
    pub fn verify(&self, file: Vec<u8>) -> Result<String, JsValue> {
        let verify = || {
            let file = Bytes::from(file);
            let probe = probe::read(file.clone(), &Limits::default())?
                .ok_or_else(|| mynah::Error::invalid("probe", "the adapter carries none; lessons add one on demand"))?;
            self.mynah.verify(&self.mynah.ready(file)?, &probe)
        };
        let verdict = verify().map_err(error)?;
        let differences: Vec<String> = verdict.differences.iter().map(ToString::to_string).collect();
        Ok(json!({
            "applied": differences.is_empty(),
            "differences": differences,
            "tokens": verdict.compared[0],
            "logits": verdict.compared[1],
            "distance": verdict.distance,
        })
        .to_string())
    }

    /// The file with a probe in it: how the model continues the prompt without and with the adapter.
    pub fn prove(&self, file: Vec<u8>, prompt: &str) -> Result<Vec<u8>, JsValue> {
        let prove = || {
            let adapter = self.mynah.ready(file.clone())?;
            let probe = self.mynah.probe(&adapter, &self.mynah.tokenizer().prompt(prompt, false)?)?;
            probe::with(file.into(), &probe, &Limits::default())
        };
        prove().map_err(error)
    }

    /// The modules of a QR code that holds a file, row by row: 1 is dark.
    pub fn qr(&self, file: &[u8]) -> Result<Vec<u8>, JsValue> {
        let codes = picture::codes(file, &Limits::default()).map_err(error)?;
        let [code] = &codes[..] else {
            let (bytes, most) = (file.len() as u64, picture::MOST as u64);
            return Err(error(mynah::Error::limit("bytes of a QR code", bytes, most)));
        };
        Ok(code.modules().map(u8::from).collect())
    }

    /// Begins to continue a prompt.
    pub fn complete(&self, prompt: &str, settings: &str) -> Result<Text, JsValue> {
        #[cfg(feature = "tests")]
        crate::fault::provoke(prompt);
        let (_, generation) = self.generation(settings)?;
        Ok(Text::new(generation.complete(prompt).map_err(error)?))
    }

    /// Begins a conversation.
    pub fn talk(&self, settings: &str) -> Result<Talk, JsValue> {
        let (speech, generation) = self.generation(settings)?;
        let mut talk = generation.talk().map_err(error)?;
        if let Some(seconds) = speech.clock {
            talk = talk.at(seconds as i64);
        }
        talk.set_system(speech.system.as_deref());
        Ok(Talk::new(talk))
    }

    /// Begins a lesson on a file of data, whose name says what it holds. With a checkpoint it goes on where that was written.
    /// With the objective `marks` the data are marks of answers, and the checkpoint is an adapter that learns from them.
    pub fn lesson(
        &self,
        name: &str,
        data: Vec<u8>,
        settings: &str,
        checkpoint: Option<Vec<u8>>,
    ) -> Result<Lesson, JsValue> {
        let taught: Taught = serde_json::from_str(settings).map_err(options)?;
        if taught.is_of_marks() {
            return self.marks(data, &taught, checkpoint).map_err(error);
        }
        let begin = || {
            let setup = match checkpoint {
                Some(saved) => self.mynah.resume(saved)?,
                None => self.mynah.lesson(taught.spec(&self.mynah)?),
            };
            let mut applied = Ok(());
            let setup = setup.settings(|to| applied = taught.apply(to));
            applied?;
            let setup: Setup = match taught.bytes {
                Some(bytes) => setup.bytes(bytes)?,
                None => setup,
            };
            let data = setup.read(name, &data)?;
            let notes = data.rows.notes.clone();
            Lesson::new(setup.draft(data)?, notes, taught.memory)
        };
        begin().map_err(error)
    }

    /// The vectors of texts.
    pub fn embed(&self, texts: Vec<String>) -> Result<Vec<Float32Array>, JsValue> {
        let vectors = self.mynah.embedding().stack(self.stack.clone()).embed(&texts).map_err(error)?;
        Ok(vectors.iter().map(|vector| Float32Array::from(&vector[..])).collect())
    }

    /// The tokens of a text.
    pub fn tokenize(&self, text: &str, special: bool) -> Result<Vec<u32>, JsValue> {
        let how = Encode { add_special: special, parse_special: special };
        self.mynah.tokenizer().encode(text, &how).map_err(error)
    }

    /// The text of tokens.
    pub fn detokenize(&self, ids: &[u32]) -> Result<String, JsValue> {
        let bytes = self.mynah.tokenizer().decode(ids, &Decode::default()).map_err(error)?;
        Ok(String::from_utf8_lossy(&bytes).into())
    }
}

impl Model {
    /// A lesson from marks.
    fn marks(&self, marks: Vec<u8>, taught: &Taught, adapter: Option<Vec<u8>>) -> mynah::Result<Lesson> {
        let (spec, settings) = (taught.spec(&self.mynah)?, taught.learn_settings()?);
        let talk = self.mynah.generation().stack(self.stack.clone());
        let talk = if let Some(tokens) = taught.context() { talk.context(tokens) } else { talk };
        let mut talk = talk.talk()?;
        let feedback = Feedback::in_memory(&mut talk, adapter, marks, &spec)?;
        Ok(Lesson::of_marks(feedback.learn(&talk, &settings)?, feedback.new_marks()))
    }

    fn generation(&self, settings: &str) -> Result<(Speech, Generation), JsValue> {
        let speech: Speech = serde_json::from_str(settings).map_err(options)?;
        let generation = speech.apply(self.mynah.generation().stack(self.stack.clone())).map_err(error)?;
        Ok((speech, generation))
    }
}
