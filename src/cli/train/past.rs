//! What a run has done so far; a checkpoint keeps all of it.

use mynah::Error;
use mynah::bytes::Limits;
use mynah::container::head::Head;
use mynah::train::Checkpoint;

/// Sums, losses and the log of all steps so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Past {
    /// Of every step.
    pub losses: Vec<f64>,
    /// Steps and the loss on the held-out rows after them; the first is before all steps.
    pub held_out: Vec<(u64, f64)>,
    /// Read in all steps.
    pub tokens: u64,
    /// In steps alone.
    pub seconds: f64,
    /// Steps in a row that were discarded, up to now.
    pub discarded: u64,
    /// What `--log` writes, whether it is wanted or not.
    pub log: String,
    /// What would be saved after the best step, if a run is to end with that.
    pub best_file: Option<Vec<u8>>,
}

impl Past {
    /// Steps done.
    pub fn steps(&self) -> u64 {
        self.losses.len() as u64
    }

    /// Step and held-out loss of the best look after the first step; the earliest of equals.
    pub fn best(&self) -> Option<(u64, f64)> {
        let looks = self.held_out.iter().filter(|(step, loss)| *step > 0 && loss.is_finite());
        looks.copied().min_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// Looks since the best one.
    pub fn waited(&self) -> u64 {
        let best = self.best().map_or(0, |best| best.0);
        self.held_out.iter().filter(|(step, _)| *step > best).count() as u64
    }

    /// As sections of a checkpoint.
    pub fn notes(&self) -> Vec<(&'static str, Vec<u8>)> {
        let mut sums = Head::new();
        sums.set("tokens", self.tokens).set("seconds", self.seconds).set("discarded", self.discarded);
        let held_out = self.held_out.iter().flat_map(|(step, loss)| [step.to_le_bytes(), loss.to_le_bytes()]);
        let mut notes = vec![
            ("sums", sums.encode()),
            ("losses", self.losses.iter().flat_map(|loss| loss.to_le_bytes()).collect()),
            ("held-out", held_out.flatten().collect()),
            ("log", self.log.clone().into_bytes()),
        ];
        notes.extend(self.best_file.clone().map(|file| ("best", file)));
        notes
    }

    /// From the sections of a checkpoint.
    pub fn read(saved: &Checkpoint) -> mynah::Result<Past> {
        let words = |name: &str| -> mynah::Result<Vec<[u8; 8]>> {
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
        Ok(Past {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_look_and_those_since() {
        let past = |losses: &[f64]| Past { held_out: (0..).zip(losses.iter().copied()).collect(), ..Past::default() };
        assert_eq!((past(&[]).best(), past(&[]).waited()), (None, 0));
        assert_eq!((past(&[1.0]).best(), past(&[1.0]).waited()), (None, 0));
        let p = past(&[1.0, 3.0, 2.0, 2.0, f64::NAN]);
        assert_eq!((p.best(), p.waited()), (Some((2, 2.0)), 2));
    }
}
