//! A user's feedback on answers, and short lessons from it.
//!
//! A [`Verdict`] is stored as a line of a file that [`super::data`] reads; `journal.rs` manages such a file. [`Marks`]
//! are its lines as examples: each with its conversation, and once more after its question alone, so that it reaches other
//! conversations. [`Marks::lesson`] chooses examples to learn: the new ones, some that were learnt before, and answers of
//! the model's own to [`ORDINARY`] questions, which should stay as they are. A [`Lesson`] trains on them, one step a call.
//! [`Divergence`] measures the distance of an adapter from its base.
//!
//! ```
//! # use mynah::{Result, adapter::{Adapter, Stack}, model::Model, train::{data::Reader, journal::Journal}};
//! # use mynah::train::feedback::{Answer, Lesson, Marks, ORDINARY, Plan, Verdict, own};
//! # fn thumb(model: &Model, adapter: Box<dyn Adapter>, reader: &Reader, journal: &mut Journal) -> Result<()> {
//! # let conversation = [];
//! let verdict = Verdict::Judged { answer: Answer::new("Once upon a time."), good: true };
//! journal.append(&verdict.line(&conversation))?;
//! let marks = Marks::read(reader, journal.lines(), 0); // none was learnt before
//! let mut lesson = Lesson::new(model, Stack::new(), adapter, marks.lesson(16, 0), &Plan::default())?;
//! lesson.guard(vec![own(reader, ORDINARY[0], Answer::new("I can tell you stories."))?])?;
//! while !lesson.over() {
//!     lesson.step()?;
//! }
//! # let _ = lesson.adapter(); Ok(()) }
//! ```

use super::data::{Order, Reader};
use super::objective::{BETA, Spec, log_sigmoid};
use super::{Assessment, Config, Example, Report, Schedule, Trainer};
use crate::adapter::{Adapter, Ready, Stack};
use crate::error::{Error, Result};
use crate::model::{Model, Session, SessionConfig};
use crate::nn::linear::Precision;
use crate::rng::Random;
use crate::text::chat::{ASSISTANT, Message};
use serde_json::Value;
use std::collections::BTreeMap;
use std::prelude::v1::*;
use std::sync::Arc;

/// The objective of lessons.
pub const OBJECTIVE: &str = "marks";

/// The key of the turns before an answer.
const PROMPT: &str = "prompt";

/// Questions without any manner. What the model answers to them on its own is repeated in lessons, so that other answers
/// stay as they are.
pub static ORDINARY: [&str; 48] = [
    "What can you help me with?",
    "How does a bicycle stay upright?",
    "Write two sentences about the sea.",
    "What is the square root of 81?",
    "Give me three ideas for a birthday present.",
    "Tell me about the year 1969.",
    "How do I plant tomatoes?",
    "Translate \"good morning\" into German.",
    "What is a computer program?",
    "Tell me a short story about a dog.",
    "How can I save money?",
    "What is the weather like in the desert?",
    "Who are you?",
    "List the colours of the rainbow.",
    "Why do people laugh?",
    "How do I write a good essay?",
    "Which planet is the biggest?",
    "Suggest a name for a bakery.",
    "What is the opposite of brave?",
    "How long does it take to learn the piano?",
    "Who painted the Mona Lisa?",
    "Describe your favourite season.",
    "Can you explain what a budget is?",
    "I am bored. What could I do?",
    "What do penguins eat?",
    "Correct this sentence: he go to school.",
    "How many minutes are in a day?",
    "What makes a good friend?",
    "Explain how a fridge keeps food cold.",
    "Hello!",
    "Write a polite email to ask for a day off.",
    "What is the tallest mountain on Earth?",
    "How do I remove a stain from a shirt?",
    "Tell me a joke.",
    "Where do rivers begin?",
    "What should I know before adopting a cat?",
    "Summarise the plot of Cinderella.",
    "What is the chemical symbol of gold?",
    "Is it healthy to drink coffee?",
    "Give me a recipe with potatoes.",
    "How do planes fly?",
    "Thank you for your help.",
    "What was the Roman Empire?",
    "Write one line of praise for a teacher.",
    "How do I count to five in French?",
    "Why do we have time zones?",
    "What is your opinion on long walks?",
    "Plan a weekend in the mountains.",
];

/// What was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// Its text.
    pub text: &'a str,
    /// Whether it is complete. The end of an answer that was cut off is not judged.
    pub ended: bool,
}

impl<'a> Answer<'a> {
    /// A complete answer.
    pub fn new(text: &'a str) -> Self {
        Answer { text, ended: true }
    }
}

/// A user's verdict on an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// An answer was good or bad.
    Judged {
        /// The answer.
        answer: Answer<'a>,
        /// Whether it was liked.
        good: bool,
    },
    /// One answer is better than the other.
    Preferred {
        /// The better answer.
        chosen: Answer<'a>,
        /// The worse answer.
        rejected: Answer<'a>,
    },
}

impl Verdict<'_> {
    /// The verdict as a line of data, without a line end: `prompt` is the conversation up to the answer.
    pub fn line(&self, prompt: &[Message]) -> String {
        // Written by hand, so that keys are in a readable order.
        let text = |text: &str| Value::from(text).to_string();
        let turn = |role: &str, content: &str| format!(r#""role":{},"content":{}"#, text(role), text(content));
        let says = |answer: &Answer| match (turn(ASSISTANT, answer.text), answer.ended) {
            (turn, true) => format!("[{{{turn}}}]"),
            (turn, false) => format!(r#"[{{{turn},"ended":false}}]"#),
        };
        let prompt: Vec<String> = prompt.iter().map(|m| format!("{{{}}}", turn(&m.role, &m.content))).collect();
        let rest = match self {
            Verdict::Judged { answer, good } => format!(r#""completion":{},"label":{good}"#, says(answer)),
            Verdict::Preferred { chosen, rejected } => {
                format!(r#""chosen":{},"rejected":{}"#, says(chosen), says(rejected))
            }
        };
        format!(r#"{{"prompt":[{}],{rest}}}"#, prompt.join(","))
    }
}

/// Most lines that are read, from the end of a file; older ones are not replayed.
pub const MOST: usize = 1024;

/// The lines of a file as examples.
#[derive(Debug, Default)]
pub struct Marks {
    /// Judged completions and pairs, the oldest first. Those of one mark are neighbours, and have its line.
    pub examples: Vec<Example>,
    /// The number of those, from the first on, that were learnt before.
    pub learnt: usize,
    /// Lines that are not feedback or do not fit the context: their numbers, from 1, and the error.
    pub left_out: Vec<(usize, Error)>,
}

impl Marks {
    /// Reads lines of which the first `learnt` were learnt before. A mark in a conversation becomes two examples: one
    /// with the turns before its question, one without.
    pub fn read<'a>(reader: &Reader, lines: impl IntoIterator<Item = &'a [u8]>, learnt: usize) -> Marks {
        let lines: Vec<&[u8]> = lines.into_iter().collect();
        let mut marks = Marks::default();
        for (i, line) in lines.iter().enumerate().skip(lines.len().saturating_sub(MOST)) {
            let alone = alone(line);
            let mut rows = Vec::new();
            let mut read = |line: &[u8]| reader.lines(line).map(|found| rows.extend(found.examples));
            // What does not fit with its conversation may fit without.
            let done = match (read(line), alone.as_deref().map(&mut read)) {
                (Err(_), Some(Ok(()))) => Ok(()),
                (done, _) => done,
            };
            match done {
                Ok(()) if rows.iter().all(|e| e.good.is_some() || e.other.is_some()) => {
                    marks.learnt += if i < learnt { rows.len() } else { 0 };
                    marks.examples.extend(rows.into_iter().map(|e| Example { line: Some(i + 1), ..e }));
                }
                Ok(()) => {
                    let why = "it says neither whether an answer was liked nor which of two is better";
                    marks.left_out.push((i + 1, Error::invalid("row", why)));
                }
                Err(e) => marks.left_out.push((i + 1, e)),
            }
        }
        marks
    }

    /// Examples that were not learnt yet.
    pub fn fresh(&self) -> usize {
        self.examples.len() - self.learnt
    }

    /// The examples to learn: all new ones, and at most `replay` of the others, drawn by `seed`. Of several verdicts on the
    /// same answer to the same prompt, the last one is used. If there are no new examples, the drawn ones are treated as
    /// new.
    pub fn lesson(&self, replay: usize, seed: u64) -> Rows {
        let (old, new) = self.examples.split_at(self.learnt);
        let mut drawn: Vec<usize> = (0..old.len()).collect();
        Random::new(seed, &format!("mark {}", self.examples.len()), "replay").shuffle(&mut drawn);
        drawn.truncate(replay);
        drawn.sort_unstable();
        let old: Vec<Example> = drawn.into_iter().map(|i| old[i].clone()).collect();
        let (old, new) = if new.is_empty() { (Vec::new(), old) } else { (old, new.to_vec()) };
        let [old, new] = latest([old, new]);
        Rows { old, new }
    }
}

/// The contents of a lesson.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// Examples that were learnt before, repeated against forgetting.
    pub old: Vec<Example>,
    /// New examples.
    pub new: Vec<Example>,
}

/// An own answer to a question that should stay as likely as it is: a completion without a verdict.
///
/// # Errors
/// Those of [`Reader::lines`].
pub fn own(reader: &Reader, question: &str, answer: Answer) -> Result<Example> {
    let line = Verdict::Judged { answer, good: true }.line(&[Message::new("user", question)]);
    let mut rows = reader.lines(line.as_bytes())?.examples;
    let row = rows.pop().ok_or_else(|| Error::invalid("own answer", "it is no row"))?;
    // Nothing is compared with the reference.
    Ok(Example { good: None, line: None, reference: Some(0.0), ..row })
}

/// Removes verdicts that later ones on the same answer override.
fn latest(parts: [Vec<Example>; 2]) -> [Vec<Example>; 2] {
    let key = |e: &Example| (e.tokens.clone(), e.mask.clone(), e.other.as_ref().map(|o| o.tokens.clone()));
    let last: BTreeMap<_, usize> = parts.iter().flatten().enumerate().map(|(i, e)| (key(e), i)).collect();
    let mut i = 0..;
    parts.map(|rows| rows.into_iter().filter(|e| i.next() == last.get(&key(e)).copied()).collect())
}

/// The same mark after its question alone, if there is more before the answer.
fn alone(line: &[u8]) -> Option<Vec<u8>> {
    let mut row: Value = serde_json::from_slice(line).ok()?;
    let turns = row.get_mut(PROMPT)?.as_array_mut()?;
    let question = turns.pop().filter(|_| !turns.is_empty())?;
    *turns = vec![question];
    serde_json::to_vec(&row).ok()
}

/// The same without its first targets, if there are others.
fn without_beginning(mut row: Example) -> Example {
    let first: Vec<usize> = (1..row.mask.len()).filter(|&t| row.mask[t]).take(BEGINNING + 1).collect();
    if first.len() > BEGINNING {
        first[..BEGINNING].iter().for_each(|&t| row.mask[t] = false);
    }
    row
}

/// The settings of a lesson.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Learning rate, after a short warm-up; it falls to 0 over the steps.
    pub lr: f32,
    /// Most epochs over the new rows.
    pub passes: u64,
    /// The lesson stops early once `−ln σ` of the mean margin of a step's rewards, at first 0.69, is at most this; 0 is
    /// never.
    pub enough: f64,
    /// β: how strongly rewards follow log-probabilities; `None` is the objective's default.
    pub beta: Option<f64>,
    /// Seed of the order of rows.
    pub seed: u64,
}

/// Defaults with which five marks reach other conversations through a LoRA on all layers, and other answers stay.
impl Default for Plan {
    fn default() -> Self {
        Plan { lr: 2e-3, passes: 16, enough: 0.0, beta: None, seed: 0 }
    }
}

/// Marks of a step, and rows that are assessed together.
pub const BATCH: usize = 8;
/// Own answers of a step.
const OWN: usize = 4;
/// What own answers weigh together, in marks for each mark of the step.
const STAY: f32 = 0.65;
/// Many manners are about how an answer begins. So of own answers the first tokens are no targets, but of one in so many,
/// lest the beginning becomes certain where it should only become likely.
const BEGINNING: usize = 2;
const WHOLE: usize = 6;

/// A few steps on a user's feedback. Half of the marks of a step are old ones, if there are any, so that neither new nor
/// old ones dominate; to them come a few own answers, so that other answers stay as they are.
///
/// The caller owns the loop: it assesses each batch, steps until [`Lesson::over`] or until it stops, and assesses again.
pub struct Lesson {
    trainer: Trainer,
    /// New rows, then old ones, then own answers.
    rows: Vec<Example>,
    new: Order,
    old: Option<Order>,
    own: Option<Order>,
    seed: u64,
    /// Where old rows begin, and own ones.
    starts: [usize; 2],
    steps: u64,
    enough: f64,
    over: bool,
}

impl Lesson {
    /// A lesson for `adapter` on `rows`, on top of the adapters `beneath`.
    ///
    /// # Errors
    /// `Invalid` for settings that cannot be used, or if there are no new rows.
    pub fn new(model: &Model, beneath: Stack, adapter: Box<dyn Adapter>, rows: Rows, plan: &Plan) -> Result<Lesson> {
        let Rows { old, new: mut rows } = rows;
        let order = |n, batch| Order::new(n, batch, 1, Some(plan.seed));
        let new = order(rows.len(), if old.is_empty() { BATCH } else { BATCH / 2 })?;
        let again = if old.is_empty() { None } else { Some(order(old.len(), BATCH / 2)?) };
        let steps = plan.passes.saturating_mul(new.steps_per_epoch());
        let starts = [rows.len(), rows.len() + old.len()];
        rows.extend(old);
        let mut spec = Spec::new(OBJECTIVE);
        if let Some(beta) = plan.beta {
            spec.values.set(BETA.name, beta);
        }
        let config = Config {
            lr: plan.lr,
            steps,
            schedule: Schedule::Cosine,
            warmup: (steps / 8).min(4),
            precision: Precision::Int8,
            objective: spec,
            ..Config::default()
        };
        let trainer = Trainer::on(model, beneath, adapter, config)?;
        Ok(Lesson {
            trainer,
            rows,
            new,
            old: again,
            own: None,
            seed: plan.seed,
            starts,
            steps,
            enough: plan.enough,
            over: false,
        })
    }

    /// Own answers that should stay as likely as they are, in the place of those that it had.
    ///
    /// # Errors
    /// Those of [`Order::new`].
    pub fn guard(&mut self, own: Vec<Example>) -> Result<()> {
        self.own = if own.is_empty() { None } else { Some(Order::new(own.len(), OWN, 1, Some(self.seed))?) };
        self.rows.truncate(self.starts[1]);
        let own = own.into_iter().enumerate();
        self.rows.extend(own.map(|(i, row)| if i % WHOLE == 0 { row } else { without_beginning(row) }));
        Ok(())
    }

    /// Own answers that it has a use for, at most.
    pub fn guards(&self) -> usize {
        usize::try_from(self.steps).map_or(usize::MAX, |steps| steps.saturating_mul(OWN))
    }

    /// Most steps of the whole lesson.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Whether it is over.
    pub fn over(&self) -> bool {
        self.over || self.trainer.steps() >= self.steps
    }

    /// The marks, in batches.
    pub fn batches(&self) -> usize {
        self.starts[1].div_ceil(BATCH)
    }

    /// Evaluates a batch with the present parameters. Computes its reference log-probabilities first, if necessary.
    ///
    /// # Errors
    /// Those of [`Trainer::assess`].
    pub fn assess(&mut self, batch: usize) -> Result<Assessment> {
        let end = self.starts[1].min((batch + 1) * BATCH);
        let rows = &mut self.rows[batch * BATCH..end];
        self.trainer.fill_reference_logps(rows)?;
        self.trainer.assess(rows)
    }

    /// How unlikely completions are with the present parameters: `−Σ ln p` in nats, and their tokens.
    ///
    /// # Errors
    /// Those of [`Trainer::log_probs`].
    pub fn nats(&mut self, rows: &[Example]) -> Result<(f64, u64)> {
        let nats = self.trainer.log_probs(rows)?.into_iter().sum::<f64>();
        Ok((-nats, rows.iter().map(|e| e.targets() as u64).sum()))
    }

    /// One step.
    ///
    /// # Errors
    /// Those of [`Trainer::step`].
    pub fn step(&mut self) -> Result<Report> {
        let mut batch = self.new.next_step().concat();
        for (order, start) in [&mut self.old, &mut self.own].into_iter().zip(self.starts) {
            batch.extend(order.iter_mut().flat_map(|o| o.next_step().concat()).map(|i| start + i));
        }
        for &i in &batch {
            self.trainer.fill_reference_logps(&mut self.rows[i..=i])?;
        }
        let own = batch.iter().filter(|&&i| i >= self.starts[1]).count();
        let weight = STAY * (batch.len() - own) as f32 / own.max(1) as f32;
        let row = |i: usize| match i >= self.starts[1] {
            true => self.rows[i].clone().weighted(weight),
            false => self.rows[i].clone(),
        };
        let rows: Vec<Example> = batch.into_iter().map(row).collect();
        let report = self.trainer.step(&[&rows])?;
        self.over = report.rewards.is_some_and(|r| -log_sigmoid(r.margin) <= self.enough);
        Ok(report)
    }

    /// The adapter in its present state.
    pub fn adapter(&self) -> &dyn Adapter {
        let Some(adapter) = self.trainer.adapter_ref() else { unreachable!("a lesson teaches an adapter") };
        adapter
    }
}

/// The distance of an adapter from its base.
pub struct Divergence {
    base: Session,
    adapted: Session,
}

/// Rows whose probabilities are compared together.
const ROWS: usize = 16;

impl Divergence {
    /// For examples of at most `context` tokens; the base is the model with the adapters `beneath`.
    ///
    /// # Errors
    /// Those of [`Session::new`].
    pub fn new(model: &Model, beneath: &Stack, adapter: Arc<Ready>, context: usize) -> Result<Divergence> {
        let config = SessionConfig { context, ..SessionConfig::default() };
        let (mut base, mut adapted) = (Session::new(model, config.clone())?, Session::new(model, config)?);
        for below in beneath.all() {
            base.attach(below.adapter.clone(), below.strength)?;
            adapted.attach(below.adapter.clone(), below.strength)?;
        }
        adapted.attach(adapter, 1.0)?;
        Ok(Divergence { base, adapted })
    }

    /// `Σ KL(p ‖ p_base)` over the tokens of a completion, in nats, and their number. `p` is the next-token
    /// distribution with the adapter, `p_base` the one without.
    ///
    /// # Errors
    /// Those of [`Session::feed`].
    pub fn of(&mut self, example: &Example) -> Result<(f64, u64)> {
        self.base.truncate(0);
        self.adapted.truncate(0);
        let vocab = self.base.model().weights.vocab();
        let (mut sum, mut n) = (0.0, 0);
        let inputs = &example.tokens[..example.tokens.len().saturating_sub(1)];
        for (c, tokens) in inputs.chunks(ROWS).enumerate() {
            let mut before = vec![0.0; tokens.len() * vocab];
            self.base.feed_each(tokens, &mut |i, logits| before[i * vocab..][..vocab].copy_from_slice(logits))?;
            self.adapted.feed_each(tokens, &mut |i, logits| {
                if example.mask[c * ROWS + i + 1] {
                    sum += divergence(logits, &before[i * vocab..][..vocab]);
                    n += 1;
                }
            })?;
        }
        Ok((sum, n))
    }
}

/// `KL(softmax(p) ‖ softmax(q))`, in nats.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let log_sum = |x: &[f32]| {
        let most = f64::from(x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        most + libm::log(x.iter().map(|v| libm::exp(f64::from(*v) - most)).sum())
    };
    let (zp, zq) = (log_sum(p), log_sum(q));
    let term = |(p, q): (&f32, &f32)| {
        let (p, q) = (f64::from(*p) - zp, f64::from(*q) - zq);
        libm::exp(p) * (p - q)
    };
    p.iter().zip(q).map(term).sum::<f64>().max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(answer: u32, good: Option<bool>) -> Example {
        let example = Example { good, ..Example::completion(&[1, 2], &[answer]) };
        if good.is_some() { example } else { example.over(Example::completion(&[1, 2], &[answer + 100])) }
    }

    #[test]
    fn lessons_hold_what_is_new_and_some_of_what_is_old() {
        let pairs = Marks { examples: (0..20).map(|i| mark(i, None)).collect(), learnt: 15, ..Marks::default() };
        let rows = pairs.lesson(4, 7);
        assert_eq!((rows.old.len(), pairs.fresh()), (4, 5));
        assert_eq!(rows.new, pairs.examples[15..]);
        assert!(rows.old.iter().all(|e| pairs.examples[..15].contains(e)));
        assert_eq!(pairs.lesson(4, 7), rows);
        assert_ne!(pairs.lesson(4, 8), rows);
        assert_eq!(pairs.lesson(40, 8).old, pairs.examples[..15]);
        let known = Marks { learnt: 20, ..pairs };
        assert_eq!((known.lesson(4, 7).old.len(), known.lesson(4, 7).new.len()), (0, 4));
        // Of two verdicts on the same answer the later one is used; pairs stay what they are.
        let mut mixed = known.examples[..2].to_vec();
        mixed.extend([mark(9, Some(true)), mark(0, Some(false)), mark(9, Some(false))]);
        let rows = Marks { examples: mixed, learnt: 3, ..Marks::default() }.lesson(4, 7);
        let said = |rows: &[Example]| rows.iter().map(|e| (e.tokens[2], e.good)).collect::<Vec<_>>();
        assert_eq!(said(&rows.old), [(0, None), (1, None)]);
        assert_eq!(said(&rows.new), [(0, Some(false)), (9, Some(false))]);
    }

    #[test]
    fn a_mark_in_a_conversation_is_one_without_it_too() {
        let turns = [Message::new("system", "S"), Message::new("user", "a"), Message::new(ASSISTANT, "b")];
        let question = Message::new("user", "c");
        let verdict = Verdict::Preferred { chosen: Answer::new("d"), rejected: Answer::new("e") };
        let line = verdict.line(&[&turns[..], std::slice::from_ref(&question)].concat());
        let bare = verdict.line(&[question]);
        let value = |line: &[u8]| serde_json::from_slice::<Value>(line).unwrap();
        assert_eq!(value(&alone(line.as_bytes()).unwrap()), value(bare.as_bytes()));
        assert!(alone(bare.as_bytes()).is_none() && alone(b"{}").is_none() && alone(b"x").is_none());
    }

    #[test]
    fn divergences_are_those_of_the_distributions() {
        assert_eq!(divergence(&[1.0, 2.0], &[11.0, 12.0]), 0.0);
        // (3/4, 1/4) from (1/2, 1/2).
        let got = divergence(&[3f32.ln(), 0.0], &[0.0, 0.0]);
        let want = 0.75 * 1.5f64.ln() + 0.25 * 0.5f64.ln();
        assert!((got - want).abs() < 1e-7, "{got} {want}");
        // It is finite for very unlikely and very likely tokens.
        assert!(divergence(&[0.0, -1e4], &[0.0, 1e4]).is_finite());
    }

    #[test]
    fn lines_are_what_people_know() {
        let prompt = [Message::new("user", "a \"b\"\n")];
        let judged = Verdict::Judged { answer: Answer { text: "c", ended: false }, good: false }.line(&prompt);
        let row: Value = serde_json::from_str(&judged).unwrap();
        assert_eq!(row["prompt"][0]["content"], "a \"b\"\n");
        assert_eq!((&row["label"], &row["completion"][0]["role"]), (&false.into(), &"assistant".into()));
        assert_eq!(row["completion"][0]["ended"], false);
        let better = Verdict::Preferred { chosen: Answer::new("d"), rejected: Answer::new("c") }.line(&prompt);
        assert!(
            !better.contains('\n') && better.contains(r#"],"chosen":[{"role":"assistant","content":"d"}]"#),
            "{better}"
        );
    }
}
