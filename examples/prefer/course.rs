//! The course itself: data that the model makes, an objective, and what becomes of the model's answers.

use mynah::Mynah;
use mynah::adapter::{self, Ready, Spec};
use mynah::app::Generation;
use mynah::bytes::{Bytes, Limits};
use mynah::decode::Sampling;
use mynah::gguf::Gguf;
use mynah::kernel::{Compute, Pool, from_env};
use mynah::text::TextStream;
use mynah::text::chat::{Message, Template};
use mynah::train::objective::{self, Shape};
use mynah::train::{Config, Example, Schedule, Trainer};
use std::sync::Arc;

pub type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// Whom stories are about; the last ones are held out.
const ABOUT: [&str; 24] = [
    "a bear",
    "a fox",
    "Fern",
    "an owl",
    "Romy",
    "a badger",
    "Otto",
    "a hare",
    "a mole",
    "Simon",
    "a deer",
    "Hazel",
    "a crow",
    "Theo",
    "a squirrel",
    "Freya",
    "a hedgehog",
    "Paul",
    "a robin",
    "Judith",
    "an otter",
    "Emil",
    "a toad",
    "Cole",
];
/// Of those.
const HELD_OUT: usize = 8;
/// Tokens of an answer, at most.
const MOST: usize = 96;
/// Pairs for each of them.
const PAIRS: u64 = 2;

/// The embedded model, ready to talk.
pub struct Speaker {
    pub mynah: Mynah,
    template: Template,
}

/// What the model is to prefer, and what is held out.
pub struct Data {
    pub train: Vec<Example>,
    pub held_out: Vec<Example>,
}

/// What a run did.
pub struct Course {
    /// Loss of each step.
    pub losses: Vec<f64>,
    /// Steps, and the part of the held-out pairs whose better answer has the higher reward.
    pub accuracy: Vec<(u64, f64)>,
    /// Mean tokens of answers to held-out questions.
    pub length: f64,
    /// The answer to the first of them.
    pub says: String,
}

impl Speaker {
    pub fn new(threads: usize) -> Fallible<Speaker> {
        let gguf = Gguf::parse(Bytes::from_static(mynah::base::MODEL), &Limits::default())?;
        let mynah = Mynah::with(gguf, Compute { kernels: from_env()?, pool: Pool::new(threads) })?;
        let template = mynah.template()?.ok_or("the model has a chat template")?;
        Ok(Speaker { mynah, template })
    }

    fn prompt(&self, about: &str) -> Fallible<Vec<u32>> {
        let question = Message::new("user", format!("Tell me a story about {about}."));
        Ok(self.template.tokens(self.mynah.tokenizer(), &[question], true)?)
    }

    /// An answer, with the token that ends it if it came to an end.
    fn answer(&self, generation: &Generation, prompt: &[u32], seed: u64) -> Fallible<Vec<u32>> {
        let generation = generation.clone().sampling(Sampling::plain().seed(seed));
        let mut said = generation.complete_tokens(prompt)?.finish()?.ids;
        if said.len() < MOST {
            said.push(self.mynah.tokenizer().eos_ids()[0]);
        }
        Ok(said)
    }

    fn generation(&self, adapter: Option<Arc<Ready>>) -> Fallible<Generation> {
        let generation = self.mynah.generation().context(256).limit(MOST);
        Ok(match adapter {
            Some(adapter) => generation.attach(adapter, 1.0)?,
            None => generation,
        })
    }

    fn text(&self, tokens: &[u32]) -> String {
        let mut stream = TextStream::new(self.mynah.tokenizer(), false);
        let mut text: String = tokens.iter().map(|&id| stream.push(id).to_string()).collect();
        text += &stream.finish();
        text
    }

    /// Mean tokens of the answers to held-out questions, and the first answer.
    pub fn length(&self, adapter: Option<Arc<Ready>>) -> Fallible<(f64, String)> {
        let generation = self.generation(adapter)?;
        let (mut tokens, mut answers) = (0, Vec::new());
        for about in &ABOUT[ABOUT.len() - HELD_OUT..] {
            for seed in 0..3 {
                answers.push(self.answer(&generation, &self.prompt(about)?, 100 + seed)?);
                tokens += answers.last().map_or(0, Vec::len);
            }
        }
        Ok((tokens as f64 / answers.len() as f64, self.text(&answers[0]).trim().into()))
    }

    /// Pairs: of what the model itself answers, the first sentence of one story is better than all of another.
    pub fn data(&self) -> Fallible<Data> {
        let generation = self.generation(None)?;
        let mut rows = Vec::new();
        for about in ABOUT {
            let prompt = self.prompt(about)?;
            for seed in 0..PAIRS {
                let (mut short, long) =
                    (self.answer(&generation, &prompt, 2 * seed)?, self.answer(&generation, &prompt, 2 * seed + 1)?);
                let ends = |n: &usize| self.text(&short[..*n]).ends_with('.');
                if let Some(sentence) = (1..short.len()).find(ends) {
                    short.truncate(sentence);
                    short.push(self.mynah.tokenizer().eos_ids()[0]);
                }
                rows.push(Example::completion(&prompt, &short).over(Example::completion(&prompt, &long)));
            }
        }
        let held_out = rows.split_off((ABOUT.len() - HELD_OUT) * PAIRS as usize);
        Ok(Data { train: rows, held_out })
    }

    /// Teaches a fresh adapter what `data` prefer.
    pub fn teach(&self, data: &Data, objective: &str, steps: u64) -> Fallible<Course> {
        let config = Config {
            lr: 1e-3,
            steps,
            schedule: Schedule::Linear,
            objective: objective::Spec::new(objective),
            ..Config::default()
        };
        let adapter = adapter::create(&Spec { seed: 1, ..Spec::default() }, self.mynah.base())?;
        let mut trainer = Trainer::adapter(self.mynah.model(), adapter, config)?;
        let mut train = data.train.clone();
        if trainer.kind().shape == Shape::Verdict {
            train = objective::unpair(train);
        }
        if trainer.kind().mismatched {
            objective::mismatch(&mut train, self.mynah.model().hparams.context)?;
        }
        trainer.fill_reference_logps(&mut train)?;
        // Whatever the objective learns from, the implicit reward is judged on pairs: ln p against that of the base.
        let mut course = Course { losses: Vec::new(), accuracy: Vec::new(), length: 0.0, says: String::new() };
        let before = trainer.log_probs(&data.held_out)?;
        let accuracy = |trainer: &mut Trainer| -> mynah::Result<f64> {
            let rewards: Vec<f64> =
                trainer.log_probs(&data.held_out)?.iter().zip(&before).map(|(a, b)| a - b).collect();
            let right = rewards.chunks_exact(2).filter(|pair| pair[0] > pair[1]).count();
            Ok(right as f64 / data.held_out.len() as f64)
        };
        course.accuracy.push((0, accuracy(&mut trainer)?));
        let batch = 8;
        for step in 0..steps as usize {
            let start = step * batch % train.len();
            let rows: Vec<Example> = (0..batch).map(|i| train[(start + i) % train.len()].clone()).collect();
            let report = trainer.step(&[&rows])?;
            course.losses.push(report.loss);
            if report.step % 5 == 0 {
                course.accuracy.push((report.step, accuracy(&mut trainer)?));
            }
        }
        (course.length, course.says) = self.length(trainer.into_adapter())?;
        Ok(course)
    }
}
