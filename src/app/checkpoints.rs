//! When checkpoints are written, and where.

use super::Lesson;
use crate::error::Result;
use crate::train::folder::Folder;
use std::path::Path;
use std::prelude::v1::*;

/// A folder in which a lesson is saved at an interval of steps: the newest two checkpoints and the best stay there.
///
/// ```no_run
/// # use mynah::app::Checkpoints;
/// # let mynah = mynah::Mynah::open("smollm2.gguf")?;
/// let mut lesson = mynah.lesson("lora").steps(500).file("notes.txt")?;
/// // After a crash: mynah.resume("notes.saved")?.steps(500).file("notes.txt")?
/// let mut saved = Checkpoints::open("notes.saved", 50)?;
/// while let Some(event) = lesson.next() {
///     event?;
///     saved.save_if_due(&lesson)?;
/// }
/// lesson.save("notes.mynah")?;
/// saved.remove()?;
/// # Ok::<(), mynah::Error>(())
/// ```
pub struct Checkpoints {
    folder: Folder,
    every: u64,
    saved: Option<u64>,
}

impl Checkpoints {
    /// Opens a folder, or makes it, for a checkpoint every `every` steps.
    ///
    /// # Errors
    /// Those of [`Folder::open`].
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # use mynah::{Mynah, app::Checkpoints};
    /// # let (mynah, folder) = (Mynah::embedded()?, tempfile::tempdir().unwrap());
    /// # let path = folder.path().join("notes.saved");
    /// let mut lesson = mynah.lesson("lora").held_out(0.0).steps(4).context(64).text(mynah::base::NOTES)?;
    /// let mut saved = Checkpoints::open(&path, 2)?; // "notes.saved", every second step
    /// lesson.next().transpose()?;
    /// assert!(!saved.save_if_due(&lesson)?);
    /// lesson.next().transpose()?;
    /// assert!(saved.save_if_due(&lesson)?);
    /// drop((lesson, saved)); // a crash
    ///
    /// let lesson = mynah.resume(&path)?.steps(4).context(64).held_out(0.0).text(mynah::base::NOTES)?;
    /// assert_eq!(lesson.history().steps(), 2);
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn open(path: impl AsRef<Path>, every: u64) -> Result<Checkpoints> {
        Ok(Checkpoints { folder: Folder::open(path.as_ref())?, every: every.max(1), saved: None })
    }

    /// Saves a lesson if it is due: call it after each event. Returns whether it was saved.
    ///
    /// # Errors
    /// Those of [`Checkpoints::save`].
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # use mynah::{Mynah, app::Checkpoints};
    /// # let (mynah, folder) = (Mynah::embedded()?, tempfile::tempdir().unwrap());
    /// # let mut saved = Checkpoints::open(folder.path().join("notes.saved"), 2)?;
    /// let mut lesson = mynah.lesson("lora").steps(4).context(64).text(mynah::base::NOTES)?;
    /// let mut times = 0;
    /// while let Some(event) = lesson.next() {
    ///     event?;
    ///     times += u32::from(saved.save_if_due(&lesson)?);
    /// }
    /// assert_eq!(times, 2);
    /// assert_eq!(saved.folder().steps()?, [4, 2]); // the newest first
    /// saved.remove()?;
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn save_if_due(&mut self, lesson: &Lesson) -> Result<bool> {
        let step = lesson.history().steps();
        let due = step > 0 && step.is_multiple_of(self.every) && self.saved != Some(step);
        if due {
            self.save(lesson)?;
        }
        Ok(due)
    }

    /// Saves a lesson now.
    ///
    /// # Errors
    /// Those of [`Lesson::checkpoint`] and [`Folder::save`]; what was saved before is as it was then.
    pub fn save(&mut self, lesson: &Lesson) -> Result<()> {
        let step = lesson.history().steps();
        self.folder.save(step, &lesson.checkpoint()?, lesson.history().best().map(|best| best.0))?;
        self.saved = Some(step);
        Ok(())
    }

    /// The folder.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Removes all checkpoints: for when what was learnt is saved.
    ///
    /// # Errors
    /// Those of [`Folder::remove`].
    pub fn remove(self) -> Result<()> {
        self.folder.remove()
    }
}
