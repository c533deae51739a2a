//! Options in the words of JavaScript, as the library's.

use mynah::adapter::{Kind, Spec, compress, parse_layers, parse_targets};
use mynah::app::{Generation, LearnSettings, Settings};
use mynah::decode::{STAGES, Sampling};
use mynah::knob::{self, Value};
use mynah::train::{feedback, objective, optim};
use mynah::{Error, Mynah, Precision, Result};
use serde::Deserialize;
use serde_json::{Map, Value as Json};

/// How a model speaks.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Speech {
    max_tokens: Option<usize>,
    context: Option<usize>,
    seed: u64,
    temperature: Option<f64>,
    ignore_eos: bool,
    exact: bool,
    pub system: Option<String>,
    pub clock: Option<f64>,
    /// Settings of the stages, by their names.
    #[serde(flatten)]
    rest: Map<String, Json>,
}

impl Speech {
    pub fn apply(&self, to: Generation) -> Result<Generation> {
        let knobs = STAGES.iter().flat_map(|stage| stage.knobs);
        let mut values = knob::named("sampling", knobs, given(&self.rest)?)?;
        if let Some(temperature) = self.temperature {
            values.set("temp", temperature);
        }
        let mut to = to.sampling(Sampling { values, seed: self.seed }).ignore_eos(self.ignore_eos);
        if self.exact {
            to = to.precision(Precision::F32);
        }
        if let Some(tokens) = self.max_tokens {
            to = to.limit(tokens);
        }
        Ok(match self.context {
            Some(tokens) => to.context(tokens),
            None => to,
        })
    }
}

/// What is taught, and how.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Lesson {
    method: Option<String>,
    targets: Option<String>,
    layers: Option<String>,
    steps: Option<u64>,
    epochs: Option<u64>,
    rate: Option<f32>,
    batch: Option<usize>,
    accumulate: Option<usize>,
    context: Option<usize>,
    seed: u64,
    held_out: Option<f64>,
    eval_every: Option<u64>,
    patience: Option<u64>,
    fast: bool,
    shuffle: Option<bool>,
    pub memory: Option<usize>,
    pub bytes: Option<usize>,
    objective: Option<String>,
    objective_settings: Map<String, Json>,
    optimizer: Option<String>,
    optimizer_settings: Map<String, Json>,
    codec: Option<String>,
    codec_settings: Map<String, Json>,
    clock: Option<f64>,
    /// Settings of the kind of adapter, by their names.
    #[serde(flatten)]
    rest: Map<String, Json>,
}

/// Settings of the objective `marks`: those of [`LearnSettings`].
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Marks {
    passes: Option<u64>,
    enough: Option<f64>,
    beta: Option<f64>,
    replay: Option<usize>,
    own: Option<usize>,
}

impl Lesson {
    pub fn spec(&self, mynah: &Mynah) -> Result<Spec> {
        // Where only a size is named, it tells the kind; settings are those that the usual kind has too.
        let usual = self.method.as_deref().unwrap_or("lora");
        let kind = if self.method.is_none() && self.bytes.is_some() { Spec::AUTO } else { usual };
        let mut spec = Spec { seed: self.seed, ..Spec::new(kind) };
        spec.values = knob::named(usual, Kind::by_name(usual)?.knobs, given(&self.rest)?)?;
        if let Some(list) = &self.targets {
            spec.targets = parse_targets(list)?;
        }
        if let Some(list) = &self.layers {
            spec.layers = Some(parse_layers(list, mynah.model().hparams.layers)?);
        }
        Ok(spec)
    }

    /// Whether the data are marks of answers.
    pub fn is_of_marks(&self) -> bool {
        self.objective.as_deref() == Some(feedback::OBJECTIVE)
    }

    pub fn context(&self) -> Option<usize> {
        self.context
    }

    /// How to learn from them; what is not of use there is refused.
    pub fn learn_settings(&self) -> Result<LearnSettings> {
        let unused: [(&str, bool); 8] = [
            ("steps", self.steps.is_some()),
            ("epochs", self.epochs.is_some()),
            ("bytes", self.bytes.is_some()),
            ("heldOut", self.held_out.is_some()),
            ("evalEvery", self.eval_every.is_some()),
            ("optimizer", self.optimizer.is_some()),
            ("codec", self.codec.is_some()),
            ("fast", self.fast),
        ];
        if let Some((name, _)) = unused.iter().find(|(_, given)| *given) {
            return Err(Error::invalid(*name, "a lesson from marks has no use for it"));
        }
        let settings = Json::Object(self.objective_settings.clone());
        let given: Marks =
            serde_json::from_value(settings).map_err(|e| Error::invalid("objective settings", e.to_string()))?;
        let usual = LearnSettings::default();
        Ok(LearnSettings {
            lr: self.rate,
            passes: given.passes.unwrap_or(usual.passes),
            enough: given.enough.unwrap_or(usual.enough),
            beta: given.beta.or(usual.beta),
            replay: given.replay.unwrap_or(usual.replay),
            own: given.own.unwrap_or(usual.own),
            seed: self.seed,
        })
    }

    pub fn apply(&self, to: &mut Settings) -> Result<()> {
        (to.lr, to.steps, to.epochs) = (self.rate, self.steps, self.epochs);
        (to.context, to.held_out, to.eval_every) = (self.context, self.held_out, self.eval_every);
        (to.patience, to.memory, to.seed) = (self.patience, self.memory, self.seed);
        to.batch = self.batch.unwrap_or(to.batch);
        to.accumulate = self.accumulate.unwrap_or(to.accumulate);
        to.shuffle = self.shuffle.unwrap_or(to.shuffle);
        to.clock = self.clock.map(|seconds| seconds as i64);
        if self.fast {
            to.precision = Precision::Int8;
        }
        if let Some(kind) = &self.objective {
            let (row, _) = objective::Spec::new(kind).row()?;
            let values = knob::named(kind, row.knobs, given(&self.objective_settings)?)?;
            to.objective = objective::Spec { kind: kind.clone(), values };
        }
        if let Some(kind) = &self.optimizer {
            let (row, _) = optim::Spec::new(kind).row()?;
            let values = knob::named(kind, row.knobs, given(&self.optimizer_settings)?)?;
            to.optimizer = optim::Spec { kind: kind.clone(), values };
        }
        if let Some(kind) = &self.codec {
            let (row, _) = compress::Spec::new(kind).row()?;
            let values = knob::named(kind, row.knobs, given(&self.codec_settings)?)?;
            to.codec = Some(compress::Spec { kind: kind.clone(), values });
        }
        Ok(())
    }
}

/// Values as the library knows them.
fn given(map: &Map<String, Json>) -> Result<Vec<(&str, Value)>> {
    let value = |name: &str, json: &Json| match json {
        Json::Bool(on) => Ok((*on).into()),
        Json::String(word) => Ok(word.as_str().into()),
        Json::Number(n) => match (n.as_u64(), n.as_f64()) {
            (Some(whole), _) => Ok(whole.into()),
            (None, real) => Ok(real.unwrap_or(f64::NAN).into()),
        },
        _ => Err(Error::invalid(name, "a number, a word, true or false is expected")),
    };
    map.iter().map(|(name, json)| Ok((name.as_str(), value(name, json)?))).collect()
}
