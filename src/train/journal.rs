//! A file of feedback: one line a mark, written with one call and synced to the disk. Where there are no files, it is in memory.
//!
//! A crash while a line is written leaves a part of it at the end, which is removed when the file is opened again.
//! Everything before it is unchanged. Lines are removed by replacing the file, whole or not at all.
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

use crate::bytes::Limits;
use crate::bytes::lock::Lock;
use crate::bytes::map::{self, Disk, System};
use crate::error::{Error, Result};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::prelude::v1::*;

/// A file of lines, open for appending, or such lines in memory.
pub struct Journal {
    file: Option<(PathBuf, Lock)>,
    /// Its contents: whole lines.
    text: Vec<u8>,
    torn: usize,
    limits: Limits,
}

fn io(doing: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::Io { doing, source }
}

/// Opens the file for appending by this process only.
fn open(path: &Path) -> Result<Lock> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // A pipe would wait for a reader.
        options.mode(0o600).custom_flags(libc::O_NONBLOCK);
    }
    let file = options.open(path).map_err(io("open"))?;
    if !file.metadata().map_err(io("open"))?.is_file() {
        return Err(Error::invalid("not a file", "it is a folder, a pipe or a device; name another"));
    }
    let locked = Lock::take(file).map_err(io("lock"))?;
    locked.map_err(|_| Error::invalid("file", "another process writes to it"))
}

impl Journal {
    /// Opens a file, or creates it, readable by its owner only. A last line without a line end is completed if it is
    /// JSON, and removed otherwise.
    ///
    /// # Errors
    /// `Io` from the system; `Invalid` if it is no regular file, or another process has it open; `Limit` if it is too long.
    pub fn open(path: &Path, limits: &Limits) -> Result<Journal> {
        Journal::open_inner(path, limits).map_err(|e| e.in_file(path.to_string_lossy()))
    }

    fn open_inner(path: &Path, limits: &Limits) -> Result<Journal> {
        let fresh = !path.try_exists().map_err(io("open"))?;
        let mut file = open(path)?;
        if fresh {
            let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            System.sync_folder(folder).map_err(io("sync the folder to the disk"))?;
        }
        let mut text = map::read(path, limits.feedback)?;
        let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |at| at.saturating_add(1));
        let rest = text.split_off(whole);
        let object = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&rest).is_ok();
        let torn = if object { 0 } else { rest.len() };
        if torn > 0 {
            // Not shortened in place, since it may be mapped.
            map::replace(path, &text)?;
            file = open(path)?;
        }
        let mut journal = Journal { file: Some((path.into(), file)), text, torn, limits: limits.clone() };
        if object {
            journal.text.extend(rest);
            journal.write(b"\n")?;
        }
        Ok(journal)
    }

    /// Lines in memory, which end with a line end each.
    ///
    /// # Errors
    /// `Limit` if they are too long, `Invalid` if the last one has no end.
    pub fn memory(text: Vec<u8>, limits: &Limits) -> Result<Journal> {
        Limits::check("bytes of the file", text.len() as u64, limits.feedback)?;
        if text.last().is_some_and(|end| *end != b'\n') {
            return Err(Error::invalid("marks", "the last line has no end"));
        }
        Ok(Journal { file: None, text, torn: 0, limits: limits.clone() })
    }

    /// Its path, if it is a file.
    pub fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(|(path, _)| path.as_path())
    }

    /// An error with the name of the file.
    fn named(&self, error: Error) -> Error {
        match self.path() {
            Some(path) => error.in_file(path.to_string_lossy()),
            None => error,
        }
    }

    /// Its contents.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// Bytes of an incomplete line that were removed when the file was opened.
    pub fn torn(&self) -> usize {
        self.torn
    }

    /// Its lines.
    pub fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.text.split_inclusive(|b| *b == b'\n').map(|line| line.strip_suffix(b"\n").unwrap_or(line))
    }

    /// Adds a line. It is on the disk when this returns; on an error the file is unchanged.
    ///
    /// # Errors
    /// `Io` from the system; `Limit` if the line or the file would be too long; `Invalid` for text that is not one line.
    pub fn append(&mut self, line: &str) -> Result<()> {
        self.check(line, self.text.len())?;
        self.write(format!("{line}\n").as_bytes()).map_err(|e| self.named(e))
    }

    /// Puts `new` lines at the end and removes those for which `goes` holds, counted from 0, all at once.
    ///
    /// # Errors
    /// Those of [`Journal::append`].
    pub fn change(&mut self, goes: impl Fn(usize) -> bool, new: &[String]) -> Result<()> {
        let all = self.text.split_inclusive(|b| *b == b'\n').enumerate();
        let mut text: Vec<u8> = all.filter(|(i, _)| !goes(*i)).flat_map(|(_, line)| line).copied().collect();
        for line in new {
            self.check(line, text.len())?;
            text.extend_from_slice(line.as_bytes());
            text.push(b'\n');
        }
        if let Some(added) = text.strip_prefix(&self.text[..]) {
            return self.write(added).map_err(|e| self.named(e));
        }
        if let Some((path, _)) = &self.file {
            map::replace(path, &text)?;
        }
        self.text = text;
        if let Some((path, file)) = &mut self.file {
            *file = open(path).map_err(|e| e.in_file(path.to_string_lossy()))?;
        }
        Ok(())
    }

    /// Whether a line can stand behind that many bytes.
    fn check(&self, line: &str, before: usize) -> Result<()> {
        let named = |e: Error| self.named(e);
        if line.is_empty() || line.contains('\n') {
            return Err(named(Error::invalid("line", "it must be one, and not empty")));
        }
        Limits::check("bytes of a line", line.len() as u64, self.limits.line).map_err(named)?;
        Limits::check(
            "bytes of the file",
            before.saturating_add(line.len()).saturating_add(1) as u64,
            self.limits.feedback,
        )
        .map_err(named)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some((_, file)) = &mut self.file {
            let written = file.write_all(bytes).map_err(io("write"));
            let synced = written.and_then(|()| file.sync_data().map_err(io("sync to the disk")));
            if synced.is_err() {
                // If this fails too, the next opening of the file removes the rest.
                _ = file.set_len(self.text.len() as u64);
                return synced;
            }
        }
        self.text.extend_from_slice(bytes);
        Ok(())
    }

    /// A digest of the contents up to here.
    pub fn digest(&self) -> String {
        blake3::hash(&self.text).to_hex().to_string()
    }

    /// Number of lines up to which the contents have a digest that begins with these digits, at least 32; 0 if there is none.
    pub fn lines_until(&self, digest: &str) -> usize {
        let mut hash = blake3::Hasher::new();
        let known = self.text.split_inclusive(|b| *b == b'\n').position(|line| {
            hash.update(line);
            digest.len() >= 32 && hash.finalize().to_hex().starts_with(digest)
        });
        known.map_or(0, |i| i.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn lines_are_kept_and_torn_ones_taken_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marks.jsonl");
        let mut journal = Journal::open(&path, &Limits::DEFAULT).unwrap();
        let empty = journal.digest();
        journal.append("{\"a\":1}").unwrap();
        let one = journal.digest();
        journal.append("{\"b\":2}").unwrap();
        assert_eq!(journal.lines().collect::<Vec<_>>(), [b"{\"a\":1}", b"{\"b\":2}"]);
        assert_eq!([&empty, &one, &journal.digest(), "x"].map(|d| journal.lines_until(d)), [0, 1, 2, 0]);
        assert!(journal.append("two\nlines").is_err() && journal.append("").is_err());
        // One takes the place of another, and goes again; what comes next is behind it.
        journal.change(|i| i == 0, &["{\"c\":3}".into()]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"{\"b\":2}\n{\"c\":3}\n");
        assert!(journal.change(|_| true, &["".into()]).is_err() && journal.lines().count() == 2);
        journal.change(|_| true, &["{\"a\":1}".into()]).unwrap();
        journal.change(|_| false, &["{\"b\":2}".into()]).unwrap();
        let whole = fs::read(&path).unwrap();
        #[cfg(unix)]
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions()) & 0o777, 0o600);
        assert!(Journal::open(&path, &Limits::DEFAULT).is_err_and(|e| e.to_string().contains("another process")));
        drop(journal);
        // Wherever a third line was cut off.
        let third = b"{\"c\":3}";
        for n in 1..third.len() {
            fs::write(&path, [&whole[..], &third[..n]].concat()).unwrap();
            let journal = Journal::open(&path, &Limits::DEFAULT).unwrap();
            assert_eq!((journal.torn(), journal.lines().count()), (n, 2));
            assert_eq!(fs::read(&path).unwrap(), whole);
        }
        // All of it is there but its end.
        fs::write(&path, [&whole[..], third].concat()).unwrap();
        let journal = Journal::open(&path, &Limits::DEFAULT).unwrap();
        assert_eq!((journal.torn(), journal.lines().count()), (0, 3));
        assert_eq!(fs::read(&path).unwrap(), [&whole[..], third, b"\n"].concat());
        assert!(Journal::open(dir.path(), &Limits::DEFAULT).is_err());
    }
}
