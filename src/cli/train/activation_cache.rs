//! The file of what frozen blocks put out (`--activation-cache`): outputs one after the other behind a head that says what they
//! are of. It is only ever appended to, and every output carries a checksum: what a crash cut off or a disk damaged is
//! computed again. A file of another base, other blocks or other data is overwritten.
//!
//! ```text
//! head      8 bytes magic, 32 BLAKE3 of the base, 32 of the data, u32 frozen blocks, u32 width
//! output    16 bytes key, u32 values, 8 bytes of the BLAKE3 hash of what follows, values as half floats
//! ```

use crate::out;
use mynah::train::activation_cache::{Key, Store};
use mynah::{Error, Mynah};
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

/// What the outputs in a file are of, beside the number of frozen blocks.
pub struct Subject {
    /// Identity of the base.
    base: [u8; 32],
    /// Identity of the data.
    data: [u8; 32],
    width: usize,
}

impl Subject {
    /// Of this model and the data of this digest.
    pub fn new(mynah: &Mynah, data: [u8; 32]) -> Subject {
        let (base, width) = (mynah.base().file(), mynah.model().hparams.width);
        Subject { base, data, width }
    }

    fn head(&self, blocks: usize) -> Vec<u8> {
        let mut head = MAGIC.to_vec();
        head.extend(self.base);
        head.extend(self.data);
        head.extend((blocks as u32).to_le_bytes());
        head.extend((self.width as u32).to_le_bytes());
        head
    }
}

impl File {
    /// The file for these frozen blocks, with what it holds already.
    pub fn open(path: &Path, limit: u64, subject: &Subject, blocks: usize) -> mynah::Result<File> {
        let io = |source| Error::Io { doing: "open the activation cache", source };
        let found = File::read_or_make(path, limit, &subject.head(blocks)).map_err(io);
        let foreign =
            || Error::mismatch("the file", "one that --activation-cache wrote", "another, which is left alone");
        found.and_then(|file| file.ok_or_else(foreign)).map_err(|e| e.in_file(path.to_string_lossy()))
    }

    /// `None` if it is a file of something else.
    fn read_or_make(path: &Path, limit: u64, head: &[u8]) -> std::io::Result<Option<File>> {
        if path.metadata().is_ok_and(|meta| !meta.is_file()) {
            return Ok(None); // a pipe would wait
        }
        let mut file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut found = Vec::new();
        Read::by_ref(&mut file).take(HEAD as u64).read_to_end(&mut found)?;
        if !found.is_empty() && !found.starts_with(&MAGIC) && !MAGIC.starts_with(&found) {
            return Ok(None);
        }
        if found != head {
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(head)?;
        }
        let len = file.metadata()?.len();
        let places = HashMap::new();
        let mut out = File { path: path.into(), file, limit, end: HEAD as u64, places, buffer: Vec::new() };
        out.scan(len)?;
        Ok(Some(out))
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
        let (path, n) = (out::name(&self.path), self.places.len());
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

/// Whether a file is such a cache, or empty.
pub fn is_cache(path: &Path) -> bool {
    let mut found = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(MAGIC.len() as u64).read_to_end(&mut found));
    read.is_ok() && (found.is_empty() || found == MAGIC)
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
            // Damaged, or unreadable: computed again, and appended again.
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
