//! What a lesson has done so far; a checkpoint holds all of it.

use crate::adapter::Provenance;
use crate::bytes::Limits;
use crate::container::head::Head;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::train::{Checkpoint, Report, objective};
use std::borrow::Cow;
use std::prelude::v1::*;

/// Sums, losses and the log of all steps so far, those before a checkpoint included.
///
/// ```
/// # fn main() -> mynah::Result<()> {
/// # #[cfg(feature = "base")] {
/// # let mynah = mynah::Mynah::embedded()?;
/// let mut lesson = mynah.lesson("lora").steps(2).context(64).held_out(0.1).text(mynah::base::NOTES)?;
/// for event in &mut lesson {
///     event?;
/// }
/// let history = lesson.history();
/// assert_eq!((history.steps(), history.losses.len(), history.log.lines().count()), (2, 2, 2));
/// let (step, loss) = history.best().expect("it was evaluated after each step");
/// assert!((1..=2).contains(&step) && loss > 0.0);
/// # }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// The loss of every step, before its update.
    pub losses: Vec<f64>,
    /// Steps done and the loss on the held-out rows then; the first is from before all steps.
    pub held_out: Vec<(u64, f64)>,
    /// Tokens read in all steps.
    pub tokens: u64,
    /// Seconds that steps took, as far as the caller said so.
    pub seconds: f64,
    /// Steps discarded one after the other, up to now.
    pub discarded: u64,
    /// A line of JSON for every step: `step`, `loss`, `grad_norm`, `lr`, `tokens`.
    pub log: String,
    /// The file of the best step so far, if rows are held out.
    pub best_file: Option<Vec<u8>>,
    /// The step from which on an adapter is trained through its codec, and its file holds what was measured; else 0. No
    /// checkpoint holds it.
    pub codec_from: u64,
}

impl History {
    /// Steps done.
    pub fn steps(&self) -> u64 {
        self.losses.len() as u64
    }

    /// Step and held-out loss of the best evaluation after the first step, and through the codec if there is one; the
    /// earliest of equals.
    pub fn best(&self) -> Option<(u64, f64)> {
        let from = self.codec_from.max(1);
        let after = self.held_out.iter().filter(|(step, loss)| *step >= from && loss.is_finite());
        after.copied().min_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// The step whose state [`Lesson::to_bytes`](super::Lesson::to_bytes) gives: the best one if rows are held out, else the last.
    pub fn saved(&self) -> u64 {
        self.best_file.as_ref().and(self.best()).map_or(self.steps(), |best| best.0)
    }

    /// The mean loss over the first and over the last epoch, or over a quarter of the steps done if that is shorter. `None`
    /// before the first step. `epoch` are the steps of one. One step alone tells little, since rows differ.
    ///
    /// ```
    /// # use mynah::app::History;
    /// let history = History { losses: vec![4.0, 2.0, 3.0, 1.0, 3.0, 2.0, 2.0, 1.0], ..History::default() };
    /// assert_eq!(history.mean_losses(2), Some((3.0, 1.5)));
    /// assert_eq!(history.mean_losses(100), Some((3.0, 1.5)));
    /// assert_eq!(history.mean_losses(1), Some((4.0, 1.0)));
    /// ```
    pub fn mean_losses(&self, epoch: u64) -> Option<(f64, f64)> {
        let n = (epoch as usize).min(self.losses.len() / 4).max(1);
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / n as f64;
        Some((mean(self.losses.get(..n)?), mean(self.losses.get(self.losses.len() - n..)?)))
    }

    /// Evaluations since the best one.
    pub fn waited(&self) -> u64 {
        let best = self.best().map_or(self.codec_from, |best| best.0);
        self.held_out.iter().filter(|(step, _)| *step > best).count() as u64
    }

    /// Of all steps; 0 where nobody said how long they took.
    pub fn tokens_per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.tokens as f64 / self.seconds } else { 0.0 }
    }

    /// Where what was learnt comes from, for its file. `data` is the digest of the data, `epoch` the steps of one.
    pub(super) fn provenance(
        &self,
        objective: &objective::Kind,
        data: &[u8; 32],
        model: &Model,
        epoch: u64,
    ) -> Provenance {
        let losses = self.mean_losses(epoch);
        Provenance {
            objective: match objective.name {
                "sft" => "next token".into(),
                name => name.into(),
            },
            data: blake3::Hash::from(*data).to_hex().as_str().into(),
            steps: self.steps(),
            first_loss: losses.map(|l| l.0),
            last_loss: losses.map(|l| l.1),
            rope: model.rope_length().unwrap_or_default().into(),
            base: model.name().into(),
            format: model.format().into(),
        }
    }

    /// Adds a step that was done.
    pub(super) fn step(&mut self, report: &Report) -> Result<()> {
        self.log += &line(report)?;
        self.losses.push(report.loss);
        self.tokens += report.tokens;
        self.discarded = 0;
        Ok(())
    }

    /// As sections of a checkpoint.
    pub(super) fn notes(&self) -> Vec<(&'static str, Cow<'_, [u8]>)> {
        let mut sums = Head::new();
        sums.set("tokens", self.tokens).set("seconds", self.seconds).set("discarded", self.discarded);
        let held_out = self.held_out.iter().flat_map(|(step, loss)| [step.to_le_bytes(), loss.to_le_bytes()]);
        let mut notes = vec![
            ("sums", sums.encode().into()),
            ("losses", self.losses.iter().flat_map(|loss| loss.to_le_bytes()).collect()),
            ("held-out", held_out.flatten().collect()),
            ("log", self.log.as_bytes().into()),
        ];
        notes.extend(self.best_file.as_deref().map(|file| ("best", file.into())));
        notes
    }

    /// From the sections of a checkpoint.
    ///
    /// # Errors
    /// `Corrupt` if it holds none, or one of other steps.
    pub fn read(saved: &Checkpoint) -> Result<History> {
        let words = |name: &str| -> Result<Vec<[u8; 8]>> {
            let bytes = saved.note(name)?;
            let (words, rest) = bytes.as_chunks::<8>();
            if rest.is_empty() { Ok(words.to_vec()) } else { Err(Error::corrupt(format!("section n.{name}"), 0)) }
        };
        let sums = Head::decode(&saved.note("sums")?, &Limits::default())?;
        let held_out = words("held-out")?;
        let (pairs, rest) = held_out.as_chunks::<2>();
        let losses: Vec<f64> = words("losses")?.into_iter().map(f64::from_le_bytes).collect();
        if !rest.is_empty() || losses.len() as u64 != saved.step() {
            return Err(Error::corrupt(format!("{} losses of {} steps", losses.len(), saved.step()), 0));
        }
        Ok(History {
            codec_from: 0,
            held_out: pairs.iter().map(|[step, loss]| (u64::from_le_bytes(*step), f64::from_le_bytes(*loss))).collect(),
            losses,
            tokens: sums.integer("tokens")?,
            seconds: sums.real("seconds")?,
            discarded: sums.integer("discarded")?,
            log: String::from_utf8(saved.note("log")?.to_vec()).map_err(|_| Error::corrupt("section n.log", 0))?,
            best_file: saved.note("best").ok().map(|bytes| bytes.to_vec()),
        })
    }
}

/// A line of the log. By hand, so that keys come in the order in which people read them.
fn line(report: &Report) -> Result<String> {
    let number = |v: serde_json::Result<String>| v.map_err(|e| Error::invalid("log", e.to_string()));
    let Report { step, loss, grad_norm, lr, tokens, .. } = report;
    Ok(format!(
        "{{\"step\":{step},\"loss\":{},\"grad_norm\":{},\"lr\":{},\"tokens\":{tokens}}}\n",
        number(serde_json::to_string(loss))?,
        number(serde_json::to_string(grad_norm))?,
        number(serde_json::to_string(lr))?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_evaluation_and_those_since() {
        let history =
            |losses: &[f64]| History { held_out: (0..).zip(losses.iter().copied()).collect(), ..History::default() };
        assert_eq!((history(&[]).best(), history(&[]).waited()), (None, 0));
        assert_eq!((history(&[1.0]).best(), history(&[1.0]).waited()), (None, 0));
        let h = history(&[1.0, 3.0, 2.0, 2.0, f64::NAN]);
        assert_eq!((h.best(), h.waited()), (Some((2, 2.0)), 2));
    }

    #[test]
    fn lines_of_the_log_are_json_in_order() {
        let report = Report {
            step: 3,
            loss: 2.5,
            penalty: 0.0,
            grad_norm: 1e-7,
            lr: 5e-4,
            tokens: 64,
            targets: 60,
            rewards: None,
        };
        assert_eq!(
            line(&report).unwrap(),
            "{\"step\":3,\"loss\":2.5,\"grad_norm\":1e-7,\"lr\":0.0005,\"tokens\":64}\n"
        );
    }
}
