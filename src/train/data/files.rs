//! Files of data: one, or a folder of them; read once.

use super::format;
use crate::bytes::map::{self, Io};
use crate::bytes::{Bytes, Limits};
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};
use std::prelude::v1::*;

/// Most bytes of a small file.
const SMALL: u64 = 1 << 20;

/// What data are read from: a file, all files of a folder whose endings are known, or standard input.
pub struct Files {
    /// Names, of a folder those inside it, and contents.
    pub list: Vec<(String, Bytes)>,
    /// Names of files of a folder that hold something else.
    pub others: Vec<String>,
    /// Whether it is a folder.
    pub folder: bool,
}

impl Files {
    /// Opens `path`. `-` is standard input, which is read to its end.
    ///
    /// # Errors
    /// `Io` from the system; `Invalid` for a pipe or a device, and for a folder without files of data; `Limit` for a stream
    /// that is too long.
    pub fn open(path: &Path, limits: &Limits) -> Result<Files> {
        let name = path.to_string_lossy().into_owned();
        if is_stream(path) {
            let bytes = stream(path, limits.stream).map_err(|e| e.in_file(&*name))?;
            return Ok(Files { list: vec![(name, bytes.into())], others: Vec::new(), folder: false });
        }
        if !path.is_dir() {
            return Ok(Files { list: vec![(name, map::open(path)?)], others: Vec::new(), folder: false });
        }
        let mut found = Vec::new();
        walk(path, &mut found).map_err(|source| Error::Io { doing: "read the folder", source }.in_file(&*name))?;
        found.sort();
        let (mut list, mut others) = (Vec::new(), Vec::new());
        for file in found {
            let inside = file.strip_prefix(path).unwrap_or(&file).to_string_lossy().replace('\\', "/");
            // What a chat has learnt from lies beside its adapter; it is no data of this folder.
            match format::is_known(&inside) && !inside.ends_with(".feedback.jsonl") {
                true => list.push((inside, map::load(&file, io_of(&file))?)),
                false => others.push(inside),
            }
        }
        if list.is_empty() {
            let why = format!("a folder without files of data; known endings are {}", format::endings());
            return Err(Error::invalid("data", why).in_file(name));
        }
        Ok(Files { list, others, folder: true })
    }

    /// Looks whether the files are still what they were when they were opened: rows that were read of others are of no use.
    ///
    /// # Errors
    /// `Altered` naming the file.
    pub fn check(&self) -> Result<()> {
        self.list.iter().try_for_each(|(_, bytes)| bytes.check())
    }

    /// BLAKE3 of a single file's bytes; of a folder, of its names and files.
    pub fn digest(&self) -> [u8; 32] {
        if let ([(_, bytes)], false) = (&self.list[..], self.folder) {
            return *blake3::hash(bytes).as_bytes();
        }
        let mut hash = blake3::Hasher::new();
        for (name, bytes) in &self.list {
            hash.update(&(name.len() as u64).to_le_bytes());
            hash.update(name.as_bytes());
            hash.update(blake3::hash(bytes).as_bytes());
        }
        *hash.finalize().as_bytes()
    }
}

/// Small files are read: a mapping holds its file open, and a process may open no more than some hundreds.
fn io_of(path: &Path) -> Io {
    match path.metadata() {
        Ok(meta) if meta.len() <= SMALL => Io::Read,
        _ => Io::Map,
    }
}

/// Whether a path names a stream that can be read once: standard input, or what a shell passes as a file.
pub fn is_stream(path: &Path) -> bool {
    path == Path::new("-") || path == Path::new("/dev/stdin") || path.starts_with("/dev/fd")
}

fn stream(path: &Path, most: u64) -> Result<Vec<u8>> {
    use std::io::Read;
    let (mut bytes, more) = (Vec::new(), most.saturating_add(1));
    let mut read = || match path == Path::new("-") {
        true => std::io::stdin().take(more).read_to_end(&mut bytes),
        false => std::fs::File::open(path)?.take(more).read_to_end(&mut bytes),
    };
    read().map_err(|source| Error::Io { doing: "read", source })?;
    Limits::check("bytes of a stream", bytes.len() as u64, most)?;
    Ok(bytes)
}

/// The files below a folder, without hidden ones.
fn walk(folder: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        // Links are not followed into folders, which might contain themselves.
        match kind.is_dir() {
            true => walk(&entry.path(), found)?,
            false if entry.path().is_file() => found.push(entry.path()),
            false => {}
        }
    }
    Ok(())
}
