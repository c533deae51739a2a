//! The training run: rows of the corpus in, a trained file out, with a state on disk to go on from.

use crate::Fallible;
use crate::bpe::END_OF_TEXT;
use crate::corpus::{Corpus, Split};
use crate::model::{self, SIZE_LIMIT};
use mynah::bytes::map::replace;
use mynah::gguf::Gguf;
use mynah::kernel::{Compute, best, pool::Pool};
use mynah::model::{Model, weights::Offsets};
use mynah::text::{Encode, Tokenizer};
use mynah::train::{Config, Example, Schedule, Trainer, optim};
use std::time::{Duration, Instant};

/// Tokens that a row predicts; one row in eight is twice as long, so that the later positions are learnt too.
const ROW: usize = 256;
/// Rows of a step, counted in short ones.
const STEP_ROWS: usize = 8;
/// Short rows that go through the model together: bounds the memory.
const MICRO_ROWS: usize = 2;
const WARMUP: u64 = 100;
const HELD_OUT_ROWS: usize = 64;
const EVALUATE_EVERY: u64 = 250;
const SAVE_EVERY: Duration = Duration::from_secs(180);

/// What the command line decides.
pub struct Plan {
    pub seed: u64,
    /// Steps of the whole run, those done by an earlier part included.
    pub steps: u64,
    pub rate: f32,
    pub threads: usize,
}

/// Cuts a stream of documents into rows. Each row starts with a document, every second one with the mark before it.
struct Rows {
    corpus: Corpus,
    tokenizer: Tokenizer,
    end: u32,
    count: usize,
}

impl Rows {
    fn new(gguf: &Gguf, seed: u64, split: Split) -> Fallible<Self> {
        let tokenizer = Tokenizer::from_gguf(gguf)?;
        let end = tokenizer.token(END_OF_TEXT).ok_or("a tokenizer without the end mark")?;
        Ok(Rows { corpus: Corpus::new(seed, split), tokenizer, end, count: 0 })
    }

    fn row(&mut self, len: usize) -> Fallible<Example> {
        self.count += 1;
        let mut tokens = Vec::with_capacity(len + 256);
        if self.count.is_multiple_of(2) {
            tokens.push(self.end);
        }
        while tokens.len() <= len {
            let text = self.corpus.document().text;
            tokens.extend(self.tokenizer.encode(&text, &Encode { parse_special: true, ..Encode::default() })?);
            tokens.push(self.end);
        }
        tokens.truncate(len + 1);
        Ok(Example::all(tokens))
    }

    /// The rows of one step in groups that go through the model together.
    fn step(&mut self) -> Fallible<Vec<Vec<Example>>> {
        let mut groups = Vec::new();
        for group in 0..STEP_ROWS / MICRO_ROWS {
            let long = group == 0;
            let (rows, len) = if long { (MICRO_ROWS / 2, 2 * ROW) } else { (MICRO_ROWS, ROW) };
            groups.push((0..rows).map(|_| self.row(len)).collect::<Fallible<_>>()?);
        }
        Ok(groups)
    }
}

/// Trains the model of `start` as `plan` says and writes the quantised result to `out`; the state goes to `out.f32`.
pub fn run(start: Vec<u8>, plan: &Plan, out: &str) -> Fallible<()> {
    let state = format!("{out}.f32");
    let gguf = model::parse(start)?;
    let done = u64::from(model::step(&gguf)?);
    let left = plan.steps.checked_sub(done).ok_or("the file has more steps than asked for")?;
    let compute = Compute { kernels: best(), pool: Pool::new(plan.threads) };
    let base = Model::load(&gguf, compute.clone())?;
    let names = Offsets::of(&base.weights).names(&base.hparams);

    let mut held_out = Rows::new(&gguf, plan.seed ^ 0x5eed, Split::HeldOut)?;
    let held_out: Vec<Example> = (0..HELD_OUT_ROWS).map(|_| held_out.row(ROW)).collect::<Fallible<_>>()?;
    // A later part of a run reads other documents and starts where the cosine of the whole run stands.
    let mut rows = Rows::new(&gguf, plan.seed.wrapping_add(done), Split::Train)?;
    let mut trainer = (left > 0)
        .then(|| {
            let rate = plan.rate * Schedule::Cosine.factor(done.max(WARMUP), WARMUP, plan.steps.max(WARMUP + 1));
            let settings = Config {
                lr: rate,
                steps: left,
                warmup: WARMUP.min(left / 2),
                optimizer: optim::Spec::new("adamw").with("weight decay", 0.05).with("beta2", 0.98),
                ..Config::default()
            };
            Trainer::full(&base, settings)
        })
        .transpose()?;

    let (began, mut saved, mut tokens) = (Instant::now(), Instant::now(), 0);
    let mut recent = 0.0;
    while let Some(trainer) = trainer.as_mut().filter(|t| t.steps() < left) {
        let groups = rows.step()?;
        let report = trainer.step(&groups.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        tokens += report.targets;
        recent = if recent == 0.0 { report.loss } else { 0.95 * recent + 0.05 * report.loss };
        let step = done + report.step;
        let last = report.step == left;
        if report.step.is_multiple_of(25) {
            let speed = tokens as f64 / began.elapsed().as_secs_f64();
            println!("step {step:5}  loss {recent:.3}  rate {:.5}  {speed:.0} tokens/s", report.lr);
        }
        if report.step.is_multiple_of(EVALUATE_EVERY) || last {
            println!("step {step:5}  held out {:.4}", mean_loss(trainer, &held_out)?);
        }
        if saved.elapsed() >= SAVE_EVERY || last {
            let weights = &trainer.model().weights;
            let values = weights.flatten(&Offsets::of(weights))?;
            replace(state.as_ref(), &model::checkpoint(&gguf, step as u32, &names, &values)?)?;
            saved = Instant::now();
        }
    }

    let trained = if left > 0 { model::parse(std::fs::read(&state)?)? } else { gguf };
    let small = model::quantised(&trained)?;
    let quantised = Model::load(&model::parse(small.clone())?, compute)?;
    let loss = mean_loss(&mut Trainer::full(&quantised, Config::default())?, &held_out)?;
    println!("{out}: {} of at most {SIZE_LIMIT} bytes, held out {loss:.4}", small.len());
    if small.len() > SIZE_LIMIT {
        return Err("the file is too large".into());
    }
    Ok(replace(out.as_ref(), &small)?)
}

/// Nats a token.
fn mean_loss(trainer: &mut Trainer, rows: &[Example]) -> Fallible<f64> {
    let (mut sum, mut count) = (0.0, 0);
    for group in rows.chunks(MICRO_ROWS) {
        let (loss, n) = trainer.evaluate(group)?;
        sum += loss;
        count += n;
    }
    Ok(sum / count as f64)
}
