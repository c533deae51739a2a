//! Marks, what is learnt from them, and the adapter's file.

use super::input::Input;
use super::talk::Talk;
use crate::args::{Chat, Usage, rate, setting};
use crate::load::{Loaded, adapter_in, split_scale};
use crate::meter::{self, Meter};
use crate::out;
use crate::paths::{self, Named};
use mynah::adapter::{self, Adapter, Fit, Provenance, Ready, Spec, Stack};
use mynah::bytes::{Limits, map};
use mynah::model::Model;
use mynah::text::chat::Message;
use mynah::train::Example;
use mynah::train::data::Reader;
use mynah::train::feedback::{Divergence, Lesson, Marks, Plan, Verdict};
use mynah::train::journal::Journal;
use serde::Serialize;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most tokens of the answer that is shown before and after.
const SHOWN: usize = 96;
/// Most rows on which the divergence from the base is measured.
const MEASURED: usize = 32;

/// The marks, and the adapter before the one that was kept last: what their files are called behind the adapter's name.
const MARKS: &str = ".feedback.jsonl";
const BEFORE: &str = ".before";

/// What is learnt into one adapter.
pub struct Learner<'a> {
    args: &'a Chat,
    loaded: &'a Loaded,
    path: PathBuf,
    /// The file as it is.
    bytes: Vec<u8>,
    journal: Journal,
    json: bool,
}

/// What a lesson did; pairs are before and after.
#[derive(Serialize)]
struct Learnt {
    objective: &'static str,
    marks: usize,
    steps: u64,
    loss: [f64; 2],
    /// The part of the marks that the implicit reward agrees with.
    agreement: [f64; 2],
    /// From the base, in nats a token.
    divergence: [f64; 2],
    #[serde(skip_serializing_if = "Option::is_none")]
    sample: Option<Sample>,
}

#[derive(Serialize)]
struct Sample {
    prompt: String,
    before: String,
    after: String,
}

/// A file beside the adapter's.
fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(end);
    name.into()
}

impl<'a> Learner<'a> {
    /// What is learnt into, if nothing that is read would be overwritten.
    ///
    /// # Errors
    /// `Usage` if it is not one file that is no other.
    pub fn check(args: &Chat) -> anyhow::Result<PathBuf> {
        let path = match &args.model.adapters[..] {
            [.., one] if split_scale(one)? != (one.as_str(), 1.0) => {
                return Err(Usage::error(format!("{one}: --learn takes an adapter as it is, without a strength")));
            }
            [.., one] => PathBuf::from(one),
            [] => return Err(Usage::error("--learn needs an adapter to learn into: -a MINE.mynah")),
        };
        let [marks, before] = [MARKS, BEFORE].map(|end| Named::new("a file beside -a", beside(&path, end)));
        let mut read: Vec<Named> = args.model.model.iter().map(|model| Named::new("-m", model)).collect();
        if let [below @ .., _] = &args.model.adapters[..] {
            for name in below {
                read.push(Named::new("an earlier -a", split_scale(name)?.0));
            }
        }
        paths::apart(&[Named::new("-a", &path), marks, before], &read)?;
        Ok(path)
    }

    /// The adapter and the marks; both are made if they are not there.
    pub fn open(args: &'a Chat, loaded: &'a Loaded, json: bool) -> anyhow::Result<Learner<'a>> {
        let path = Learner::check(args)?;
        let bytes = if path.try_exists()? {
            anyhow::ensure!(path.is_file(), "{}: no file; --learn writes one, so name another", path.display());
            map::read(&path, Limits::default().file)?
        } else {
            let spec = Spec { values: args.lesson.method.values.clone(), ..Spec::new(args.lesson.method.kind()) };
            let fresh = setting(adapter::create(&spec, loaded.base()))?;
            let bytes = adapter::to_bytes(fresh.as_ref(), loaded.base(), &Provenance::default())?;
            map::replace(&path, &bytes)?;
            out::say(&format!("{} is new: {} of {}", path.display(), out::bytes(bytes.len() as u64), spec.kind));
            bytes
        };
        let journal = Journal::open(&beside(&path, MARKS))?;
        if journal.torn() > 0 {
            let (name, n) = (journal.path().display(), journal.torn());
            out::say(&format!("{name}: the last mark was cut off, by a crash; its {n} bytes were taken off"));
        }
        let learner = Learner { args, loaded, path, bytes, journal, json };
        learner.read(&learner.bytes)?;
        Ok(learner)
    }

    fn read(&self, bytes: &[u8]) -> anyhow::Result<Box<dyn Adapter>> {
        let bytes = adapter_in(bytes.to_vec().into());
        let read = adapter::restore(bytes, self.loaded.base(), &Limits::default(), Fit::Same);
        Ok(read.map_err(|e| e.in_file(self.path.to_string_lossy()))?)
    }

    /// What a file holds, ready to speak.
    fn ready(&self, bytes: &[u8]) -> anyhow::Result<Arc<Ready>> {
        Ok(self.loaded.model.ready(self.read(bytes)?)?)
    }

    /// The adapter as the file has it.
    pub fn adapter(&self) -> anyhow::Result<Arc<Ready>> {
        self.ready(&self.bytes)
    }

    fn provenance(&self) -> Provenance {
        let info = adapter::info(adapter_in(self.bytes.clone().into()), &Limits::default());
        info.ok().and_then(|i| i.provenance).unwrap_or_default()
    }

    /// Marks that this adapter has learnt: its file says how much of the journal it has seen.
    fn learnt(&self) -> usize {
        self.journal.lines_until(&self.provenance().data)
    }

    /// Marks, and how many of them are new.
    pub fn marks(&self) -> (usize, usize) {
        let all = self.journal.lines().count();
        (all, all - self.learnt())
    }

    /// Notes what somebody thinks of answers to `prompt`.
    pub fn mark(&mut self, what: &str, prompt: &[Message], verdicts: &[Verdict]) -> anyhow::Result<()> {
        for verdict in verdicts {
            self.journal.append(&verdict.line(prompt))?;
        }
        let (marks, new) = self.marks();
        if self.json {
            return out::print_json(&json!({ "mark": what, "marks": marks, "new": new }));
        }
        out::say(&format!("({what}; {new} to learn with /learn)"));
        Ok(())
    }

    /// Learns, shows what changed, and keeps it or does not.
    pub fn learn(&mut self, talk: &mut Talk, input: &mut Input) -> anyhow::Result<()> {
        let marks = self.read_marks(talk);
        if marks.examples.is_empty() {
            out::say("nothing to learn from: mark answers with /good, /bad or /fix first");
            return Ok(());
        }
        let options = &self.args.lesson;
        let replay = match marks.fresh() {
            0 => {
                out::say("no mark is new; those that were learnt are gone over again");
                options.replay.max(1)
            }
            _ => options.replay,
        };
        let rows = marks.lesson(replay, self.args.sampling.0.seed);
        let probe = self.journal.lines().last().and_then(prompt);
        let before = probe.as_ref().map(|p| talk.aside(p, SHOWN)).transpose()?;
        meter::forget_interrupt();

        let measured: Vec<Example> = rows.new.iter().chain(&rows.old).take(MEASURED).cloned().collect();
        let (objective, count) = (rows.objective, rows.new.len() + rows.old.len());
        let old = self.read(&self.bytes)?;
        let plan = self.plan(old.kind().name);
        let mut lesson = setting(Lesson::new(&self.loaded.model, talk.beneath.clone(), old, rows, &plan))?;
        let (batches, steps) = (lesson.batches() as u64, lesson.steps());
        let mut ticks = Ticks { meter: Meter::new(2 * batches + steps + 2 * measured.len() as u64), done: 0 };
        let (loss_before, right_before) = assess(&mut lesson, &mut ticks)?;
        let mut taken = 0;
        while !lesson.over() && !meter::interrupted() {
            let report = lesson.step()?;
            taken = report.step;
            ticks.tick(|| format!("loss {:.3}", report.loss));
        }
        if meter::interrupted() {
            out::say(&format!("stopped after step {taken}"));
            meter::forget_interrupt();
        }
        if taken == 0 {
            return Ok(());
        }
        ticks.done = batches + steps;
        let (loss_after, right_after) = assess(&mut lesson, &mut ticks)?;
        let provenance = Provenance {
            objective: objective.into(),
            data: self.journal.digest(),
            steps: self.provenance().steps + taken,
            first_loss: Some(loss_before),
            last_loss: Some(loss_after),
        };
        let bytes = adapter::to_bytes(lesson.adapter(), self.loaded.base(), &provenance)?;
        drop(lesson);
        // What speaks now is what the file would hold.
        let (old, new) = (self.adapter()?, self.ready(&bytes)?);
        let divergence = [
            divergence(&self.loaded.model, &talk.beneath, &old, &measured, &mut ticks)?,
            divergence(&self.loaded.model, &talk.beneath, &new, &measured, &mut ticks)?,
        ];
        ticks.meter.done();
        talk.attach(new)?;
        let after = probe.as_ref().map(|p| talk.aside(p, SHOWN)).transpose()?;
        let sample = probe.zip(before).zip(after).map(|((prompt, before), after)| Sample {
            prompt: prompt.last().map_or(String::new(), |m| m.content.clone()),
            before: before.text,
            after: after.text,
        });
        let (loss, agreement) = ([loss_before, loss_after], [right_before, right_after]);
        self.show(&Learnt { objective, marks: count, steps: taken, loss, agreement, divergence, sample })?;
        self.ask(bytes, old, talk, input)
    }

    /// The marks as examples; lines that are of no use are said.
    fn read_marks(&self, talk: &Talk) -> Marks {
        let reader = Reader {
            tokenizer: &self.loaded.tokenizer,
            template: Some(&talk.template),
            ctx: self.loaded.model.hparams.context,
            limits: Limits::default(),
        };
        let marks = Marks::read(&reader, self.journal.lines(), self.learnt());
        for (line, why) in &marks.left_out {
            out::say(&format!("{}: line {line} is left out: {why}", self.journal.path().display()));
        }
        marks
    }

    fn plan(&self, kind: &str) -> Plan {
        let options = &self.args.lesson;
        Plan {
            lr: options.lr.unwrap_or(rate(kind)),
            passes: options.passes,
            enough: f64::from(options.enough),
            beta: options.beta,
            seed: self.args.sampling.0.seed,
        }
    }

    fn show(&self, learnt: &Learnt) -> anyhow::Result<()> {
        if self.json {
            return out::print_json(&json!({ "learnt": learnt }));
        }
        let Learnt { objective, marks, steps, loss, agreement, divergence, sample } = learnt;
        let percent = agreement.map(|a| 100.0 * a);
        out::say(&format!("{steps} steps of {objective} on {marks} rows"));
        out::say(&format!("  loss                      {:.3} → {:.3}", loss[0], loss[1]));
        out::say(&format!("  agrees with the marks     {:.0} % → {:.0} %", percent[0], percent[1]));
        out::say(&format!("  divergence from the base  {:.3} → {:.3} nats a token", divergence[0], divergence[1]));
        if let Some(Sample { prompt, before, after }) = sample {
            let line = |text: &str| out::harmless(text.trim()).replace('\n', "\n    ");
            out::say(&format!("  to: {}", line(prompt)));
            out::say(&format!("  before: {}", line(before)));
            out::say(&format!("  after:  {}", line(after)));
        }
        Ok(())
    }

    /// Keeps what was learnt, or goes back to `old`.
    fn ask(&mut self, bytes: Vec<u8>, old: Arc<Ready>, talk: &mut Talk, input: &mut Input) -> anyhow::Result<()> {
        let kept = loop {
            match input.line("keep or undo? ")?.as_deref().map(|l| l.trim().trim_start_matches('/')) {
                Some("keep" | "k" | "yes" | "y") => match self.replace(bytes.clone()) {
                    Ok(()) => break true,
                    Err(e) => out::say(&format!("not kept: {}; keep tries again", out::why(&e))),
                },
                Some("undo" | "u" | "no" | "n") | None => break false,
                Some(_) => out::say("keep makes it what the adapter's file holds, undo forgets it"),
            }
        };
        if !kept {
            talk.attach(old)?;
        }
        if self.json {
            return out::print_json(&json!({ "kept": kept }));
        }
        match kept {
            true => out::say(&format!("kept in {}; /undo goes back", self.path.display())),
            false => out::say("undone; the marks stay"),
        }
        Ok(())
    }

    /// Makes `bytes` the adapter's file; what it was is beside it.
    fn replace(&mut self, bytes: Vec<u8>) -> anyhow::Result<()> {
        map::replace(&beside(&self.path, BEFORE), &self.bytes)?;
        map::replace(&self.path, &bytes)?;
        self.bytes = bytes;
        Ok(())
    }

    /// Back to the adapter before the one that was kept last; once more takes that back.
    pub fn undo(&mut self, talk: &mut Talk) -> anyhow::Result<()> {
        let before = beside(&self.path, BEFORE);
        let bytes = if before.try_exists()? { map::read(&before, Limits::default().file)? } else { self.bytes.clone() };
        let undone = bytes != self.bytes;
        if undone {
            let adapter = self.ready(&bytes).map_err(|e| e.context(before.display().to_string()))?;
            map::replace(&self.path, &bytes)?;
            talk.attach(adapter)?;
            let now = std::mem::replace(&mut self.bytes, bytes);
            map::replace(&before, &now)?;
        }
        if self.json {
            return out::print_json(&json!({ "undone": undone }));
        }
        match undone {
            true => out::say("back to the adapter before; /undo again takes that back"),
            false => out::say("there is nothing to undo"),
        }
        Ok(())
    }
}

/// Progress of a lesson.
struct Ticks {
    meter: Meter,
    done: u64,
}

impl Ticks {
    fn tick(&mut self, what: impl FnOnce() -> String) {
        self.done += 1;
        self.meter.show(self.done, what);
    }
}

/// Loss, and the part of the rows that rewards agree with.
fn assess(lesson: &mut Lesson, ticks: &mut Ticks) -> anyhow::Result<(f64, f64)> {
    let (mut loss, mut right, mut n) = (0.0, 0.0, 0.0);
    for batch in 0..lesson.batches() {
        let a = lesson.assess(batch)?;
        let rows = a.n as f64;
        (loss, n) = (loss + a.loss * rows, n + rows);
        right += a.rewards.map_or(0.0, |r| r.accuracy) * rows;
        ticks.tick(|| "what the rewards are".into());
    }
    Ok((loss / n, right / n))
}

/// Of an adapter from its base on the completions of rows, in nats a token.
fn divergence(
    model: &Model,
    beneath: &Stack,
    adapter: &Arc<Ready>,
    rows: &[Example],
    ticks: &mut Ticks,
) -> anyhow::Result<f64> {
    let longest = rows.iter().map(|e| e.tokens.len()).max().unwrap_or(1);
    let mut divergence = Divergence::new(model, beneath, adapter.clone(), longest)?;
    let (mut sum, mut n) = (0.0, 0);
    for row in rows {
        let (nats, tokens) = divergence.of(row)?;
        (sum, n) = (sum + nats, n + tokens);
        ticks.tick(|| "how far it is from the base".into());
    }
    Ok(sum / n.max(1) as f64)
}

/// The conversation that a line of the journal is about.
fn prompt(line: &[u8]) -> Option<Vec<Message>> {
    let row: Value = serde_json::from_slice(line).ok()?;
    let text = |turn: &Value, key: &str| Some(turn.get(key)?.as_str()?.to_string());
    let turns = row.get("prompt")?.as_array()?.iter();
    turns.map(|turn| Some(Message::new(text(turn, "role")?, text(turn, "content")?))).collect()
}
