//! A folder of checkpoints: the newest two and the best one, a file each, `checkpoint-STEP.mynah`.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::todo,
        clippy::arithmetic_side_effects
    )
)]

use super::checkpoint::Checkpoint;
use crate::bytes::lock::Lock;
use crate::bytes::map::{self, Disk, System};
use crate::bytes::{Bytes, Limits};
use crate::error::{Error, Result};
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::prelude::v1::*;

const PREFIX: &str = "checkpoint-";
const SUFFIX: &str = ".mynah";
const LOCK: &str = "lock";

/// A folder that one run at a time writes to.
pub struct Folder {
    path: PathBuf,
    disk: Box<dyn Disk>,
    _lock: Lock,
}

impl Folder {
    /// Opens a folder, or creates it.
    ///
    /// # Errors
    /// `Io` from the system; `Invalid` if another process has it open.
    pub fn open(path: &Path) -> Result<Folder> {
        Folder::on(path, Box::new(System))
    }

    /// Opens a folder on the given disk.
    ///
    /// # Errors
    /// As [`Folder::open`].
    #[doc(hidden)]
    pub fn on(path: &Path, disk: Box<dyn Disk>) -> Result<Folder> {
        let named = |e: Error| e.in_file(path.to_string_lossy());
        let lock = lock(path).map_err(named)?;
        let mut folder = Folder { path: path.into(), disk, _lock: lock };
        // Nobody else writes here, so these belong to processes that ended while writing.
        for name in names(path)? {
            if name.split_once(&format!("{SUFFIX}.tmp-")).is_some_and(|(step, _)| step.starts_with(PREFIX)) {
                folder.disk.remove(&path.join(name)).ok();
            }
        }
        Ok(folder)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file of a step.
    pub fn file(&self, step: u64) -> PathBuf {
        file(&self.path, step)
    }

    /// Steps with a file, the newest first.
    ///
    /// # Errors
    /// `Io` from the system.
    pub fn steps(&self) -> Result<Vec<u64>> {
        steps(&self.path)
    }

    /// The newest intact checkpoint; `None` if there are no files. `skipped` is called with the error of each newer one
    /// that is damaged or cannot be read.
    ///
    /// # Errors
    /// `Io` from the system; `Invalid` if there are files and none is intact.
    pub fn newest(&self, limits: &Limits, skipped: impl FnMut(&Error)) -> Result<Option<Checkpoint>> {
        newest(&self.path, limits, skipped)
    }

    /// Writes the checkpoint of a step, then removes all others except the previous one and that of step `best`. So
    /// after a crash at any moment at least the previous one is intact. Files of later steps are removed too: a run
    /// that was resumed from an older checkpoint replaces them.
    ///
    /// # Errors
    /// Those of [`map::replace`]; no file is removed then.
    pub fn save(&mut self, step: u64, bytes: &[u8], best: Option<u64>) -> Result<()> {
        let file = self.file(step);
        map::replace_on(self.disk.as_mut(), &file, bytes)?;
        let steps = self.steps()?;
        let before = steps.iter().copied().find(|s| *s < step);
        for old in
            steps.into_iter().filter(|s| *s != step && Some(*s) != before && Some(*s) != best.filter(|b| *b < step))
        {
            // A failure to remove a file does no harm.
            let file = self.file(old);
            self.disk.remove(&file).ok();
        }
        Ok(())
    }

    /// Removes all checkpoints, and the folder if it holds nothing else.
    ///
    /// # Errors
    /// `Io` from the system.
    pub fn remove(mut self) -> Result<()> {
        for step in self.steps()? {
            let path = self.file(step);
            let removed = self.disk.remove(&path).map_err(|source| Error::Io { doing: "remove", source });
            removed.map_err(|e| e.in_file(path.to_string_lossy()))?;
        }
        self.disk.remove(&self.path.join(LOCK)).ok();
        fs::remove_dir(&self.path).ok();
        Ok(())
    }
}

/// The newest intact checkpoint of a folder, see [`Folder::newest`], without opening it for a run.
///
/// # Errors
/// Those of [`Folder::newest`].
pub fn newest(folder: &Path, limits: &Limits, mut skipped: impl FnMut(&Error)) -> Result<Option<Checkpoint>> {
    let steps = steps(folder)?;
    for step in &steps {
        let path = file(folder, *step);
        let read = map::open(&path).and_then(|bytes: Bytes| Checkpoint::read(bytes, limits));
        match read.map_err(|e| e.in_file(path.to_string_lossy())) {
            Ok(checkpoint) => return Ok(Some(checkpoint)),
            Err(e) => skipped(&e),
        }
    }
    match steps.len() {
        0 => Ok(None),
        n => Err(Error::invalid(folder.to_string_lossy(), format!("none of {n} checkpoints can be read"))),
    }
}

/// The file of a step.
fn file(folder: &Path, step: u64) -> PathBuf {
    folder.join(format!("{PREFIX}{step}{SUFFIX}"))
}

/// Steps with a file in a folder, the newest first, without opening it for a run.
///
/// # Errors
/// `Io` from the system.
pub fn steps(path: &Path) -> Result<Vec<u64>> {
    let step = |name: &String| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok();
    let mut steps: Vec<u64> = names(path)?.iter().filter_map(step).collect();
    steps.sort_unstable_by(|a, b| b.cmp(a));
    Ok(steps)
}

fn names(path: &Path) -> Result<Vec<String>> {
    let list = || fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>();
    let names = list().map_err(|source| Error::Io { doing: "list", source }.in_file(path.to_string_lossy()))?;
    Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect())
}

fn lock(path: &Path) -> Result<Lock> {
    let io = |doing| move |source| Error::Io { doing, source };
    fs::create_dir_all(path).map_err(io("make the folder"))?;
    let mut options = File::options();
    options.create(true).truncate(false).read(true).write(true);
    // What came with a folder from elsewhere may be a link to another file, or a pipe, for which this would wait.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(path.join(LOCK)).map_err(io("open the lock of"))?;
    if !file.metadata().map_err(io("open the lock of"))?.is_file() {
        return Err(Error::invalid("folder", format!("its {LOCK} is no file; remove that")));
    }
    let owner = |file: &mut File| {
        let mut text = String::new();
        file.take(24).read_to_string(&mut text).ok()?;
        text.trim_end().parse::<u32>().ok()
    };
    match Lock::take(file).map_err(io("lock"))? {
        Ok(mut file) => {
            // For whoever comes next: a number that cannot be written is missing in a message.
            if file.metadata().is_ok_and(|meta| meta.len() == 0) || owner(&mut file).is_some() {
                let number = format!("{}\n", std::process::id());
                _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(number.as_bytes()));
            }
            Ok(file)
        }
        Err(mut file) => {
            let whose = owner(&mut file).map_or(String::new(), |pid| format!(", process {pid}"));
            Err(Error::invalid("folder", format!("another run uses it{whose}; end that, or name another folder")))
        }
    }
}
