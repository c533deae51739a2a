//! The file of what frozen blocks put out (`--activation-cache`): outputs one after the other behind a head that says what they
//! are of. It is only ever appended to, and every output carries a checksum: what a crash cut off or a disk damaged is
//! computed again. A file of another base, other blocks or other data is begun anew.
//!
//! ```text
//! head      8 bytes magic, 32 BLAKE3 of the base, 32 of the data, u32 frozen blocks, u32 width
//! output    16 bytes key, u32 values, 8 bytes of the BLAKE3 hash of what follows, values as half floats
//! ```

use crate::load::Loaded;
use crate::out;
use anyhow::{Context, bail};
use mynah::bytes::Bytes;
use mynah::train::activation_cache::{Key, Store};
use std::collections::HashMap;
use std::fs;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const MAGIC: [u8; 8] = *b"MYNAHLO1";
const HEAD: usize = 80;
const ROW: usize = 28;

/// The file, open.
pub struct File {
    path: PathBuf,
    file: fs::File,
    limit: u64,
    /// Bytes of the file that hold.
    end: u64,
    /// Where each output's values begin, and how many there are.
    places: HashMap<Key, (u64, usize)>,
    buffer: Vec<u8>,
}

impl File {
    /// The file for these frozen blocks and this data, with what it holds already.
    pub fn open(path: &Path, limit: u64, loaded: &Loaded, blocks: usize, data: &Bytes) -> anyhow::Result<File> {
        let named = || path.display().to_string();
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = file.with_context(named)?;
        let mut head = MAGIC.to_vec();
        head.extend(loaded.base().fingerprint);
        head.extend(blake3::hash(data).as_bytes());
        head.extend((blocks as u32).to_le_bytes());
        head.extend((loaded.model.hparams.width as u32).to_le_bytes());
        let mut found = Vec::new();
        Read::by_ref(&mut file).take(HEAD as u64).read_to_end(&mut found).with_context(named)?;
        if !found.is_empty() && !found.starts_with(&MAGIC) && !MAGIC.starts_with(&found) {
            bail!("{}: not a file that --activation-cache wrote; it is left alone", path.display());
        }
        if found != head {
            file.set_len(0).with_context(named)?;
            file.seek(SeekFrom::Start(0)).with_context(named)?;
            file.write_all(&head).with_context(named)?;
        }
        let len = file.metadata().with_context(named)?.len();
        let places = HashMap::new();
        let mut out = File { path: path.into(), file, limit, end: HEAD as u64, places, buffer: Vec::new() };
        out.scan(len).with_context(named)?;
        Ok(out)
    }

    /// Notes where outputs stand; what does not end within the file is cut off.
    fn scan(&mut self, len: u64) -> std::io::Result<()> {
        let mut row = [0; ROW];
        while self.end + ROW as u64 <= len {
            self.file.seek(SeekFrom::Start(self.end))?;
            self.file.read_exact(&mut row)?;
            let (key, n) = parse(&row);
            let start = self.end + ROW as u64;
            let Some(end) = start.checked_add(2 * n as u64).filter(|end| *end <= len) else { break };
            self.places.insert(key, (start, n));
            self.end = end;
        }
        self.file.set_len(self.end)
    }

    /// What it is, for eyes.
    pub fn says(&self) -> String {
        let (path, n) = (self.path.display(), self.places.len());
        format!("{path}: outputs of {n} rows, {} of at most {}", out::bytes(self.end), out::bytes(self.limit))
    }

    fn read(&mut self, start: u64, n: usize) -> std::io::Result<bool> {
        self.buffer.resize(ROW + 2 * n, 0);
        self.file.seek(SeekFrom::Start(start - ROW as u64))?;
        self.file.read_exact(&mut self.buffer)?;
        let (row, values) = self.buffer.split_at(ROW);
        Ok(row[20..] == blake3::hash(values).as_bytes()[..8])
    }

    fn append(&mut self, key: &Key, values: &[u16]) -> std::io::Result<()> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.buffer.clear();
        self.buffer.extend(key);
        self.buffer.extend((values.len() as u32).to_le_bytes());
        self.buffer.extend(&blake3::hash(&bytes).as_bytes()[..8]);
        self.buffer.extend(bytes);
        if self.end + self.buffer.len() as u64 > self.limit {
            return Err(ErrorKind::FileTooLarge.into());
        }
        self.file.seek(SeekFrom::Start(self.end))?;
        self.file.write_all(&self.buffer)
    }
}

/// Key and number of values.
fn parse(row: &[u8; ROW]) -> (Key, usize) {
    let mut key = Key::default();
    key.copy_from_slice(&row[..16]);
    (key, u32::from_le_bytes([row[16], row[17], row[18], row[19]]) as usize)
}

impl Store for File {
    fn load(&mut self, key: &Key, out: &mut [u16]) -> bool {
        let Some(&(start, n)) = self.places.get(key) else { return false };
        if n != out.len() || !self.read(start, n).unwrap_or(false) {
            // Damaged, or unreadable: made again, and written anew behind the rest.
            self.places.remove(key);
            return false;
        }
        for (out, bytes) in out.iter_mut().zip(self.buffer[ROW..].as_chunks::<2>().0) {
            *out = u16::from_le_bytes(*bytes);
        }
        true
    }

    fn save(&mut self, key: &Key, values: &[u16]) {
        // A full disk costs time, not the run: what is not kept is computed again.
        if self.append(key, values).is_ok() {
            self.places.insert(*key, (self.end + ROW as u64, values.len()));
            self.end += self.buffer.len() as u64;
        }
    }
}
