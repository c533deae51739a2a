//! Marks, what is learnt from them, and whether it is kept: shown and asked. The library notes, learns and writes.

use super::input::Input;
use crate::args::{Chat, Usage, setting};
use crate::load::split_scale;
use crate::meter::{self, Meter};
use crate::out;
use crate::paths::{self, Named};
use mynah::adapter::{self, Spec};
use mynah::app::{Feedback, LearnEvent, LearnSettings, Learning, Learnt, Mark, Noted, Talk};
use mynah::text::chat::Message;
use serde::Serialize;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Most tokens of the answer that is shown before and after.
const SHOWN: usize = 96;
/// Most characters of a text in a list.
const SHORT: usize = 72;

/// What is learnt into one adapter.
pub struct Learner<'a> {
    args: &'a Chat,
    feedback: Feedback,
    json: bool,
}

/// What a lesson did; pairs are before and after.
#[derive(Serialize)]
struct Shown<'a> {
    objective: &'a str,
    marks: usize,
    steps: u64,
    loss: [f64; 2],
    /// The part of the marks that the implicit reward agrees with.
    agreement: [f64; 2],
    /// From the base, in nats a token.
    divergence: [f64; 2],
    /// How unlikely the base's own answers to ordinary questions are, in nats a token.
    ordinary: [f64; 2],
    #[serde(skip_serializing_if = "Option::is_none")]
    sample: Option<Sample>,
}

#[derive(Serialize)]
struct Sample {
    prompt: String,
    before: String,
    after: String,
}

/// A file's name; the command learns into files alone.
fn named(path: Option<&Path>) -> String {
    path.map_or_else(String::new, out::name)
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
        let [marks, before] = Feedback::files(&path).map(|file| Named::new("a file beside -a", file));
        let mut read: Vec<Named> = args.model.model.iter().flat_map(|model| paths::of_model(model)).collect();
        if let [below @ .., _] = &args.model.adapters[..] {
            for name in below {
                read.push(Named::new("an earlier -a", split_scale(name)?.0));
            }
        }
        paths::apart(&[Named::new("-a", &path), marks, before], &read)?;
        Ok(path)
    }

    /// The adapter and the marks; both are made if they are not there. The adapter speaks from now on.
    pub fn open(args: &'a Chat, talk: &mut Talk, json: bool) -> anyhow::Result<Learner<'a>> {
        let path = Learner::check(args)?;
        let spec = Spec { values: args.lesson.method.values.clone(), ..Spec::new(args.lesson.method.kind()) };
        match path.try_exists()? {
            true => {
                anyhow::ensure!(path.is_file(), "{}: no file; --learn writes one, so name another", out::name(&path))
            }
            // What cannot be made is wrong use.
            false => drop(setting(adapter::create(&spec, talk.mynah().base()))?),
        }
        let feedback = Feedback::open(talk, &path, &spec)?;
        if feedback.created() {
            let n = out::bytes(feedback.bytes().len() as u64);
            out::say(&format!("{} is new: {n} of {}", out::name(&path), spec.kind));
        }
        let journal = feedback.journal();
        if journal.torn() > 0 {
            let (name, n) = (named(journal.path()), journal.torn());
            out::say(&format!("{name}: the last mark was cut off, by a crash; its {n} bytes were taken off"));
        }
        Ok(Learner { args, feedback, json })
    }

    /// Marks, and how many of them are new.
    pub fn marks(&self) -> (usize, usize) {
        (self.feedback.marks(), self.feedback.new_marks())
    }

    /// Notes what somebody thinks of the last answer.
    pub fn mark(&mut self, talk: &mut Talk, mark: Mark) -> anyhow::Result<()> {
        let replaced = self.feedback.mark(talk, mark)?;
        let what = match mark {
            Mark::Good => "good",
            Mark::Bad => "bad",
            Mark::Better(_) => "better",
        };
        let (marks, new) = self.marks();
        if self.json {
            return out::print_json(&json!({ "mark": what, "marks": marks, "new": new, "replaced": replaced }));
        }
        let instead = if replaced > 0 { ", replaces your earlier mark" } else { "" };
        out::say(&format!("({what}{instead}; /learn trains on {})", out::count(new as u64, "new mark")));
        Ok(())
    }

    /// Shows the marks, with their numbers.
    pub fn list(&self) -> anyhow::Result<()> {
        let marks = self.feedback.list();
        if self.json {
            let row = |m: &Noted| {
                let verdict = verdict(m);
                json!({ "number": m.number, "mark": verdict, "question": question(m), "answer": m.answer,
                    "instead": m.instead, "turns": m.prompt.len(), "learnt": m.learnt })
            };
            return out::print_json(&json!({ "list": marks.iter().map(row).collect::<Vec<_>>() }));
        }
        for mark in &marks {
            let learnt = if mark.learnt { ", learnt" } else { "" };
            out::print(&format!("{:3}  {}{learnt}, to: {}\n", mark.number, verdict(mark), short(question(mark))))?;
            match &mark.instead {
                Some(better) => {
                    out::print(&format!("     {}\n     instead of: {}\n", short(better), short(&mark.answer)))?
                }
                None => out::print(&format!("     {}\n", short(&mark.answer)))?,
            }
        }
        match marks.len() {
            0 => out::say("no marks yet: mark an answer with /good, /bad or /fix"),
            _ => out::say("/forget N takes one away"),
        }
        Ok(())
    }

    /// Removes a mark.
    pub fn forget(&mut self, number: &str) -> anyhow::Result<()> {
        let Ok(number) = number.parse() else {
            out::say("which one? /forget N; /marks shows the numbers");
            return Ok(());
        };
        let learnt = number <= self.feedback.learnt();
        if let Err(mynah::Error::Invalid { .. }) = self.feedback.forget(number) {
            out::say(&format!("there is no mark {number}; /marks shows them"));
            return Ok(());
        }
        let (marks, new) = self.marks();
        if self.json {
            return out::print_json(&json!({ "forgotten": number, "marks": marks, "new": new }));
        }
        out::say(&format!("(forgotten; /learn trains on {})", out::count(new as u64, "new mark")));
        if learnt {
            out::say("The adapter has learnt it already; the next /learn goes over all the others again.");
        }
        Ok(())
    }

    /// Learns, shows what changed, and keeps it or does not.
    pub fn learn(&mut self, talk: &mut Talk, input: &mut Input) -> anyhow::Result<()> {
        let marks = self.feedback.rows(talk);
        for (line, why) in &marks.left_out {
            out::say(&format!("{}: line {line} is left out: {why}", named(self.feedback.journal().path())));
        }
        if marks.examples.is_empty() {
            out::say("nothing to learn from: mark answers with /good, /bad or /fix first");
            return Ok(());
        }
        if marks.fresh() == 0 {
            out::say("no mark is new; those that were learnt are gone over again");
        }
        // A new conversation, begun with the last question that was marked.
        let probe: Option<Vec<Message>> = self.feedback.last_prompt().map(|mut turns| {
            let system = talk.messages().iter().filter(|m| m.role == "system").cloned();
            system.chain(turns.pop()).collect()
        });
        let sample = |talk: &mut Talk| probe.as_ref().map(|p| aside(talk, p)).transpose();
        let before = sample(talk)?;
        let mut learning = setting(self.feedback.learn(talk, &self.settings()))?;
        watch(&mut learning)?;
        let Some(learnt) = learning.finish() else {
            out::say("nothing was learnt: the adapter is what it was");
            return Ok(());
        };
        learnt.attach(talk)?;
        let after = sample(talk)?;
        let sample = probe.zip(before).zip(after).map(|((prompt, before), after)| Sample {
            prompt: prompt.last().map_or(String::new(), |m| m.content.clone()),
            before,
            after,
        });
        self.show(&learnt, sample)?;
        self.ask(&learnt, talk, input)
    }

    fn settings(&self) -> LearnSettings {
        let options = &self.args.lesson;
        LearnSettings {
            lr: options.lr,
            passes: options.passes,
            enough: f64::from(options.enough),
            own: options.own,
            beta: options.beta,
            replay: options.replay,
            seed: self.args.sampling.0.seed,
        }
    }

    fn show(&self, learnt: &Learnt, sample: Option<Sample>) -> anyhow::Result<()> {
        let &Learnt { objective, marks, steps, loss, agreement, divergence, ordinary, .. } = learnt;
        if self.json {
            let shown = Shown { objective, marks, steps, loss, agreement, divergence, ordinary, sample };
            return out::print_json(&json!({ "learnt": shown }));
        }
        let percent = agreement.map(|a| 100.0 * a);
        out::say(&format!("learnt from {}, in {}", out::count(marks as u64, "mark"), out::count(steps, "step")));
        out::say(&format!("  agrees with the marks     {:.0} % → {:.0} %", percent[0], percent[1]));
        if ordinary[0] > 0.0 {
            let more = 100.0 * (ordinary[1] / ordinary[0] - 1.0);
            let what = if more > 0.0 { "less" } else { "more" };
            out::say(&format!("  other answers             loss {more:+.1} % ({what} like the model's own)"));
        }
        if let Some(Sample { prompt, before, after }) = sample {
            let line = |text: &str| out::harmless(text.trim()).replace('\n', "\n    ");
            out::say(&format!("  in a new conversation, to: {}", line(&prompt)));
            out::say(&format!("  before: {}", line(&before)));
            out::say(&format!("  after:  {}", line(&after)));
        }
        Ok(())
    }

    /// Keeps what was learnt, or goes back to the adapter of the file.
    fn ask(&mut self, learnt: &Learnt, talk: &mut Talk, input: &mut Input) -> anyhow::Result<()> {
        let kept = loop {
            match input.line("keep or undo? ")?.as_deref().map(|l| l.trim().trim_start_matches('/')) {
                Some("keep" | "k" | "yes" | "y") => match self.feedback.keep(learnt) {
                    Ok(()) => break true,
                    Err(e) => out::say(&format!("not kept: {}; keep tries again", out::why(&e.into()))),
                },
                Some("undo" | "u" | "no" | "n") | None => break false,
                Some(_) => out::say("keep writes what was learnt into the adapter's file, undo throws it away"),
            }
        };
        if !kept {
            self.feedback.attach(talk)?;
        }
        if self.json {
            return out::print_json(&json!({ "kept": kept }));
        }
        match kept {
            true => out::say(&format!("kept in {}; /undo goes back", named(self.feedback.path()))),
            false => out::say("undone; the marks stay"),
        }
        Ok(())
    }

    /// Back to the adapter before the one that was kept last; once more takes that back.
    pub fn undo(&mut self, talk: &mut Talk) -> anyhow::Result<()> {
        let undone = self.feedback.undo(talk)?;
        let (learnt, marks, steps) = (self.feedback.learnt(), self.feedback.marks(), self.feedback.steps());
        let turn = talk.messages().iter().filter(|m| m.role == "user").count();
        if self.json {
            return out::print_json(&json!({ "undone": undone, "learnt_marks": learnt, "marks": marks, "steps": steps,
                "turn": turn }));
        }
        match undone {
            true => out::say("back to the adapter before; /undo again restores it"),
            false => out::say("there is nothing to undo"),
        }
        let what = match steps {
            0 => "the adapter has learnt nothing yet".into(),
            _ => format!(
                "the adapter has learnt {learnt} of {}, in {}",
                out::count(marks as u64, "mark"),
                out::count(steps, "step")
            ),
        };
        let place = match turn {
            0 => "the conversation has not begun".into(),
            _ => format!("the conversation stays, at turn {turn}"),
        };
        out::say(&format!("now: {what}; {place}"));
        Ok(())
    }
}

/// What a mark says.
fn verdict(mark: &Noted) -> &'static str {
    match (&mark.instead, mark.good) {
        (Some(_), _) => "better",
        (None, true) => "good",
        (None, false) => "bad",
    }
}

fn question(mark: &Noted) -> &str {
    mark.prompt.last().map_or("", |m| &m.content)
}

/// The beginning of a text, on one line.
fn short(text: &str) -> String {
    let line = out::harmless(text.trim()).split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHORT) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

/// An answer that is no part of the conversation.
fn aside(talk: &mut Talk, prompt: &[Message]) -> anyhow::Result<String> {
    let said = talk.aside(prompt, SHOWN)?.finish()?;
    meter::forget_interrupt();
    Ok(said.text)
}

/// Learns, with a progress line. Ctrl-C ends the steps.
fn watch(learning: &mut Learning) -> anyhow::Result<()> {
    let (meter, stop) = (Meter::new(learning.progress().1), learning.stopper());
    let mut step = 0;
    while let Some(event) = learning.next().transpose()? {
        let message = || match event {
            LearnEvent::Step(report) => format!("loss {:.3}", report.loss),
            LearnEvent::Answered => "its own answers to ordinary questions".into(),
            LearnEvent::Assessed => "how it sees the marks".into(),
            LearnEvent::Measured => "how much has changed".into(),
        };
        meter.show(learning.progress().0, message);
        if let LearnEvent::Step(report) = event {
            step = report.step;
        }
        if meter::interrupted() && learning.steps_left() {
            stop.pull();
            out::say(&format!("stopped after step {step}"));
            meter::forget_interrupt();
        }
    }
    meter.done();
    Ok(())
}
