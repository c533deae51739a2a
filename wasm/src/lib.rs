//! JavaScript in, library calls out. Conversions only: whatever is missing belongs into `mynah`.

use mynah::adapter::{self, Provenance, Ready, Spec, file};
use mynah::bytes::{Bytes, Limits};
use mynah::decode::{Generator, Sample, Sampler, Sampling, Stop};
use mynah::gguf::Gguf;
use mynah::kernel::{self, Compute, Pool};
use mynah::model::{Model, Session, SessionConfig};
use mynah::text::{Encode, Tokenizer};
use mynah::train::{Config, Example, Trainer};
use std::sync::Arc;
use wasm_bindgen::prelude::*;

fn error(e: mynah::Error) -> JsError {
    JsError::new(&e.to_string())
}

/// A model in memory, and the adapter that is attached to it.
#[wasm_bindgen]
pub struct Mynah {
    model: Model,
    tokenizer: Tokenizer,
    adapter: Option<Arc<Ready>>,
}

#[wasm_bindgen]
impl Mynah {
    /// From the bytes of a GGUF file.
    #[wasm_bindgen(constructor)]
    pub fn new(gguf: Vec<u8>) -> Result<Mynah, JsError> {
        Self::open(Bytes::from(gguf)).map_err(error)
    }

    /// The model that ships with the library.
    pub fn embedded() -> Result<Mynah, JsError> {
        Self::open(Bytes::from_static(mynah::base::MODEL)).map_err(error)
    }

    /// The name of the kernels that compute.
    pub fn kernels(&self) -> String {
        self.model.compute.kernels.name.into()
    }

    /// Copies the weights into memory with 16 rows side by side, which is read faster; results stay the same. The bytes
    /// that this takes.
    pub fn repack(&mut self) -> Result<usize, JsError> {
        let (model, taken) = self.model.repacked(usize::MAX).map_err(error)?;
        self.model = model;
        Ok(taken)
    }

    /// Continues `prompt` by up to `count` tokens, the likeliest each time.
    pub fn generate(&self, prompt: &str, count: usize) -> Result<String, JsError> {
        self.continued(prompt, count, self.tokenizer.eos_ids()).map(|(_, text)| text).map_err(error)
    }

    /// The `count` tokens that continue `prompt`, the likeliest each time, whatever they are.
    pub fn ids(&self, prompt: &str, count: usize) -> Result<Vec<u32>, JsError> {
        self.continued(prompt, count, &[]).map(|(ids, _)| ids).map_err(error)
    }

    /// Trains a NOLA adapter of `bases` coefficients a factor on `text` and attaches it; the losses of the steps.
    pub fn teach(&mut self, text: &str, bases: usize, steps: usize, rate: f32) -> Result<Vec<f64>, JsError> {
        self.taught(text, bases, steps, rate).map_err(error)
    }

    /// The attached adapter as the bytes of a file.
    pub fn save(&self) -> Result<Vec<u8>, JsError> {
        let adapter = self.adapter.as_ref().ok_or_else(|| JsError::new("adapter: none is attached"))?;
        let base = self.model.base(self.tokenizer.fingerprint());
        file::to_bytes(&***adapter, &base, &Provenance::default()).map_err(error)
    }

    /// Attaches the adapter of a file in place of the one before.
    pub fn attach(&mut self, bytes: Vec<u8>) -> Result<(), JsError> {
        let base = self.model.base(self.tokenizer.fingerprint());
        let adapter = file::from_bytes(Bytes::from(bytes), &base, &Limits::default()).map_err(error)?;
        self.adapter = Some(self.model.ready(adapter).map_err(error)?);
        Ok(())
    }
}

impl Mynah {
    fn open(bytes: Bytes) -> mynah::Result<Mynah> {
        let gguf = Gguf::parse(bytes, &Limits::default())?;
        let compute = Compute { kernels: kernel::best(), pool: Pool::new(1) };
        Ok(Mynah { model: Model::load(&gguf, compute)?, tokenizer: Tokenizer::from_gguf(&gguf)?, adapter: None })
    }

    fn continued(&self, prompt: &str, count: usize, ends: &[u32]) -> mynah::Result<(Vec<u32>, String)> {
        let tokens = self.tokenizer.encode(prompt, &Encode { add_special: true, ..Encode::default() })?;
        let context = (tokens.len() + count).max(1).min(self.model.hparams.context);
        let mut session = Session::new(&self.model, SessionConfig { context, ..SessionConfig::default() })?;
        if let Some(adapter) = &self.adapter {
            session.attach(adapter.clone(), 1.0)?;
        }
        let (mut ids, mut text) = (Vec::new(), String::new());
        let greedy = Sampler::new(&Sampling::greedy())?;
        let sample = Sample::new(session, greedy, &tokens, ends, Stop::new());
        let mut generator = Generator::over(sample, &self.tokenizer).limit(count);
        while let Some(id) = generator.next_token()? {
            ids.push(id);
            text.push_str(&generator.text(id));
        }
        text.push_str(&generator.rest());
        Ok((ids, text))
    }

    fn taught(&mut self, text: &str, bases: usize, steps: usize, rate: f32) -> mynah::Result<Vec<f64>> {
        let base = self.model.base(self.tokenizer.fingerprint());
        let spec = Spec::new("nola").with("basis", bases);
        let tokens = self.tokenizer.encode(text, &Encode { add_special: true, ..Encode::default() })?;
        let rows: Vec<Example> = tokens.chunks(128).filter(|c| c.len() > 1).map(|c| Example::all(c.to_vec())).collect();
        let config = Config { lr: rate, steps: steps as u64, ..Config::default() };
        let mut trainer = Trainer::adapter(&self.model, adapter::create(&spec, &base)?, config)?;
        let mut losses = Vec::new();
        for step in 0..steps {
            let Some(row) = rows.get(step % rows.len().max(1)) else {
                return Err(mynah::Error::invalid("text", "nothing to learn from"));
            };
            losses.push(trainer.step(&[core::slice::from_ref(row)])?.loss);
        }
        self.adapter = trainer.into_adapter();
        Ok(losses)
    }
}
