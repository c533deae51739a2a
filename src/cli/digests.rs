//! Digests of model files, kept in the user's cache folder: only the first run that needs one reads the whole file.
//!
//! ```text
//! mynah's container, kind `digests`
//! rows      64 bytes each, the newest last: 32 what the digest is of, and 32 the digest
//! ```
//! What it is of is the BLAKE3 hash of the files' paths, sizes and times of change, and of their devices and numbers where the
//! system has these: a file that changes has no row any more. A damaged file, or another one in its place, is written anew.

use mynah::bytes::{Limits, map};
use mynah::container::{Builder, Container};
use mynah::gguf::Gguf;
use mynah::model::{Digest, Digests};
use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const KIND: &str = "digests";
const ROWS: &str = "rows";
/// Most rows: the oldest go.
const MOST: usize = 256;
/// Most bytes of a file that is looked at.
const BYTES: u64 = 1 << 16;
/// Clocks of file systems are coarse: a file that was written to so shortly ago may be written to again at the same time.
const SETTLED: Duration = Duration::from_secs(2);

type Row = [u8; 64];

/// The digests of one model.
pub struct Kept {
    /// Where they are kept.
    file: PathBuf,
    model: PathBuf,
    /// What its files were when the model was opened.
    were: [u8; 32],
}

impl Kept {
    /// Those of a model that is going to be opened; `None` where there is no place to keep them.
    pub fn of(model: &Path) -> Option<Kept> {
        let file = folder()?.join("digests");
        Some(Kept { file, model: model.into(), were: look(model)?.0 })
    }

    /// The key of a digest.
    fn key(&self, of: Digest) -> [u8; 32] {
        let of = match of {
            Digest::Content => "content",
            Digest::File => "file",
        };
        *blake3::keyed_hash(&self.were, of.as_bytes()).as_bytes()
    }

    fn rows(&self) -> Vec<Row> {
        let read = || -> mynah::Result<Vec<Row>> {
            let file = Container::read(map::read(&self.file, BYTES)?.into(), &Limits::default())?;
            file.require_kind(KIND)?;
            Ok(file.require(ROWS)?.as_chunks().0.to_vec())
        };
        read().unwrap_or_default()
    }
}

impl Digests for Kept {
    fn load(&self, of: Digest) -> Option<[u8; 32]> {
        if look(&self.model)?.0 != self.were {
            return None;
        }
        let key = self.key(of);
        self.rows().iter().find(|row| row[..32] == key).and_then(|row| row.last_chunk().copied())
    }

    fn save(&self, of: Digest, digest: &[u8; 32]) {
        let settled = |at: SystemTime| at.elapsed().is_ok_and(|age| age > SETTLED);
        if !look(&self.model).is_some_and(|(now, changed)| now == self.were && settled(changed)) {
            return;
        }
        let (mut rows, mut new) = (self.rows(), [0; 64]);
        new[..32].copy_from_slice(&self.key(of));
        new[32..].copy_from_slice(digest);
        rows.retain(|row| row[..32] != new[..32]);
        rows.push(new);
        let rows = rows[rows.len().saturating_sub(MOST)..].concat();
        // What cannot be kept costs time, not the run.
        let folder = self.file.parent().map_or(Ok(()), fs::create_dir_all);
        let _ = folder
            .is_ok_and(|()| map::replace(&self.file, &Builder::new(KIND).section(ROWS, true, rows).finish()).is_ok());
    }
}

/// What the files of a model are, and when the last of them changed.
fn look(model: &Path) -> Option<([u8; 32], SystemTime)> {
    let (mut hash, mut last) = (blake3::Hasher::new(), UNIX_EPOCH);
    for path in Gguf::parts_beside(model) {
        let meta = path.metadata().ok().filter(Metadata::is_file)?;
        let (path, changed) = (path.canonicalize().ok()?, meta.modified().ok()?);
        let name = path.as_os_str().as_encoded_bytes();
        hash.update(&(name.len() as u64).to_le_bytes()).update(name).update(&meta.len().to_le_bytes());
        hash.update(&changed.duration_since(UNIX_EPOCH).ok()?.as_nanos().to_le_bytes());
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            hash.update(&meta.dev().to_le_bytes()).update(&meta.ino().to_le_bytes());
        }
        last = last.max(changed);
    }
    Some((*hash.finalize().as_bytes(), last))
}

/// The user's folder for what programs can compute again.
fn folder() -> Option<PathBuf> {
    let of = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let usual = if cfg!(windows) {
        of("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        of("HOME").map(|home| home.join("Library/Caches"))
    } else {
        of("HOME").map(|home| home.join(".cache"))
    };
    of("XDG_CACHE_HOME").or(usual).map(|folder| folder.join("mynah"))
}
