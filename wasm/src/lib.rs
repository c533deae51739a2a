//! JavaScript in, library calls out. Conversions only: whatever is missing belongs into `mynah`.

use mynah::Event;
use mynah::adapter::{Provenance, Ready, Spec, file};
use mynah::bytes::Bytes;
use mynah::decode::Sampling;
use std::sync::Arc;
use wasm_bindgen::prelude::*;

fn error(e: mynah::Error) -> JsError {
    JsError::new(&e.to_string())
}

/// A model in memory, and the adapter that is attached to it.
#[wasm_bindgen]
pub struct Mynah {
    mynah: mynah::Mynah,
    adapter: Option<Arc<Ready>>,
}

/// A text that is being continued, piece by piece.
#[wasm_bindgen]
pub struct Text(mynah::Completion);

/// An adapter that is being trained, step by step.
#[wasm_bindgen]
pub struct Lesson(mynah::Lesson);

#[wasm_bindgen]
impl Mynah {
    /// From the bytes of a GGUF file.
    #[wasm_bindgen(constructor)]
    pub fn new(gguf: Vec<u8>) -> Result<Mynah, JsError> {
        Ok(Mynah { mynah: mynah::Mynah::from_bytes(gguf).map_err(error)?, adapter: None })
    }

    /// The model that ships with the library.
    pub fn embedded() -> Result<Mynah, JsError> {
        Ok(Mynah { mynah: mynah::Mynah::embedded().map_err(error)?, adapter: None })
    }

    /// The name of the kernels that compute.
    pub fn kernels(&self) -> String {
        self.mynah.model().compute.kernels.name.into()
    }

    /// Copies the weights into memory with 16 rows side by side, which is read faster; results stay the same. The bytes
    /// that this takes.
    pub fn repack(&mut self) -> Result<usize, JsError> {
        let (model, taken) = self.mynah.model().repacked(usize::MAX).map_err(error)?;
        self.mynah = self.mynah.with_model(model);
        Ok(taken)
    }

    /// Continues `prompt` by up to `count` tokens, the likeliest each time.
    pub fn generate(&self, prompt: &str, count: usize) -> Result<String, JsError> {
        let text = self.complete(prompt, count, false).and_then(mynah::Completion::finish);
        Ok(text.map_err(error)?.text)
    }

    /// The same piece by piece, so that a page can show them and stays alive.
    pub fn stream(&self, prompt: &str, count: usize) -> Result<Text, JsError> {
        self.complete(prompt, count, false).map(Text).map_err(error)
    }

    /// The `count` tokens that continue `prompt`, the likeliest each time, whatever they are.
    pub fn ids(&self, prompt: &str, count: usize) -> Result<Vec<u32>, JsError> {
        let text = self.complete(prompt, count, true).and_then(mynah::Completion::finish);
        Ok(text.map_err(error)?.ids)
    }

    /// Trains a NOLA adapter of `bases` coefficients a factor on `text` and attaches it; the losses of the steps.
    pub fn teach(&mut self, text: &str, bases: usize, steps: usize, rate: f32) -> Result<Vec<f64>, JsError> {
        let mut lesson = self.lesson(text, bases, steps, rate)?;
        let mut losses = Vec::new();
        while let Some(loss) = lesson.step()? {
            losses.push(loss);
        }
        self.learn(lesson);
        Ok(losses)
    }

    /// The same step by step, so that a page can show the losses and stays alive: [`Lesson::step`], then [`Mynah::learn`].
    pub fn lesson(&self, text: &str, bases: usize, steps: usize, rate: f32) -> Result<Lesson, JsError> {
        let setup = self.mynah.lesson(Spec::new("nola").with("basis", bases)).steps(steps as u64).rate(rate);
        // Rows of 128 tokens in the order of the text.
        let setup = setup.context(self.mynah.model().hparams.context.min(128)).settings(|s| s.shuffle = false);
        setup.text(text).map(Lesson).map_err(error)
    }

    /// Attaches what a lesson has taught so far in the place of the adapter before.
    pub fn learn(&mut self, lesson: Lesson) {
        self.adapter = lesson.0.into_adapter();
    }

    /// The attached adapter as the bytes of a file.
    pub fn save(&self) -> Result<Vec<u8>, JsError> {
        let adapter = self.adapter.as_ref().ok_or_else(|| JsError::new("adapter: none is attached"))?;
        file::to_bytes(&***adapter, self.mynah.base(), &Provenance::default()).map_err(error)
    }

    /// Attaches the adapter of a file in place of the one before.
    pub fn attach(&mut self, bytes: Vec<u8>) -> Result<(), JsError> {
        self.adapter = Some(self.mynah.ready(Bytes::from(bytes)).map_err(error)?);
        Ok(())
    }
}

impl Mynah {
    fn complete(&self, prompt: &str, count: usize, ignore_eos: bool) -> mynah::Result<mynah::Completion> {
        let generation = self.mynah.generation().sampling(Sampling::greedy()).limit(count).ignore_eos(ignore_eos);
        match &self.adapter {
            Some(adapter) => generation.attach(adapter.clone(), 1.0)?.complete(prompt),
            None => generation.complete(prompt),
        }
    }
}

#[wasm_bindgen]
impl Text {
    /// The text of the next token, which is empty if it ends inside a character; nothing at the end.
    pub fn piece(&mut self) -> Result<Option<String>, JsError> {
        Ok(self.0.next().transpose().map_err(error)?.map(|piece| piece.text))
    }

    /// The tokens so far.
    pub fn ids(&self) -> Vec<u32> {
        self.0.said().ids.clone()
    }
}

#[wasm_bindgen]
impl Lesson {
    /// Does one step; its loss, or nothing when all are done.
    pub fn step(&mut self) -> Result<Option<f64>, JsError> {
        loop {
            match self.0.next().transpose().map_err(error)? {
                Some(Event::Step(report)) => return Ok(Some(report.loss)),
                Some(Event::Discarded { error: e, .. }) => return Err(error(e)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    /// Steps of the whole lesson.
    pub fn steps(&self) -> usize {
        self.0.steps() as usize
    }
}
