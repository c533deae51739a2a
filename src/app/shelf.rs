//! Adapters that are read once and attached often.

use super::{Mynah, Source};
use crate::adapter::Ready;
use crate::bytes::Bytes;
#[cfg(feature = "std")]
use crate::bytes::Limits;
use crate::error::{Error, Result};
#[cfg(feature = "std")]
use std::path::Path;
use std::prelude::v1::*;
use std::sync::Arc;

/// Adapters by what their files hold, read and expanded once. The same contents are the same adapter, whatever they are called;
/// a file that was replaced is another. So whatever is kept for an adapter, such as what a [`Session`](crate::model::Session)
/// has read with it, is never taken for that of an earlier version. Made by [`Mynah::shelf`].
///
/// ```
/// # fn main() -> mynah::Result<()> {
/// # #[cfg(feature = "base")] {
/// use mynah::{Mynah, adapter::Stack};
/// use std::sync::Arc;
///
/// let mynah = Mynah::embedded()?;
/// # let mut lesson = mynah.lesson("nola").held_out(0.0).steps(1).context(32).text(mynah::base::NOTES)?;
/// # lesson.next().transpose()?;
/// # let notes = lesson.to_bytes()?;
/// let mut shelf = mynah.shelf();
/// let first = shelf.get(notes.clone())?; // or shelf.get("notes.mynah")?
/// assert!(Arc::ptr_eq(&first, &shelf.get(notes)?)); // not read again
///
/// let mut session = mynah.generation().session(32)?;
/// let mut stack = Stack::new();
/// stack.push(first.clone(), 1.0)?;
/// session.replace(stack.clone())?; // a request with the adapter
/// session.replace(Stack::new())?; // one without
/// stack.set_strength(0, 0.5)?;
/// session.replace(stack)?; // one with half of it
/// # drop((session, first));
/// assert!(shelf.bytes() > 0);
/// shelf.tidy(); // what is attached nowhere goes
/// assert_eq!(shelf.bytes(), 0);
/// # }
/// # Ok(()) }
/// ```
pub struct Shelf {
    mynah: Mynah,
    held: Vec<([u8; 32], Arc<Ready>)>,
}

impl Mynah {
    /// An empty shelf for adapters of this model.
    pub fn shelf(&self) -> Shelf {
        Shelf { mynah: self.clone(), held: Vec::new() }
    }
}

impl Shelf {
    /// An adapter, ready for the model: the one that is here, if the contents are the same.
    ///
    /// # Errors
    /// Those of [`Mynah::ready`].
    pub fn get(&mut self, from: impl Into<Source>) -> Result<Arc<Ready>> {
        self.get_with(from, |mynah, from| mynah.ready(from))
    }

    /// The same with another way to read what is not here: [`Mynah::ready_from_other_base`], for example.
    ///
    /// # Errors
    /// Those of reading the contents, and those of `read`.
    pub fn get_with<E: From<Error>>(
        &mut self,
        from: impl Into<Source>,
        read: impl FnOnce(&Mynah, Source) -> core::result::Result<Arc<Ready>, E>,
    ) -> core::result::Result<Arc<Ready>, E> {
        let from = from.into();
        let version = version(&from)?;
        if let Some((_, here)) = self.held.iter().find(|(held, _)| *held == version) {
            return Ok(here.clone());
        }
        let adapter = read(&self.mynah, from)?;
        self.held.push((version, adapter.clone()));
        Ok(adapter)
    }

    /// Lets those go that are attached nowhere.
    pub fn tidy(&mut self) {
        self.held.retain(|(_, adapter)| Arc::strong_count(adapter) > 1);
    }

    /// Bytes of all parameters and of what is derived from them.
    pub fn bytes(&self) -> usize {
        let size = |adapter: &Ready| adapter.shape().size.params + adapter.shape().size.derived;
        self.held.iter().map(|(_, adapter)| size_of::<f32>() * size(adapter)).sum()
    }
}

/// The digest of what a source holds.
fn version(from: &Source) -> Result<[u8; 32]> {
    let of = |bytes: &Bytes| *blake3::hash(bytes).as_bytes();
    match from {
        Source::Bytes(bytes) => Ok(of(bytes)),
        #[cfg(feature = "std")]
        Source::Path(path) => {
            let all = if path.is_dir() { folder(path) } else { read(path).map(|bytes| of(&bytes)) };
            all.map_err(|e| e.in_file(path.to_string_lossy()))
        }
    }
}

#[cfg(feature = "std")]
fn read(path: &Path) -> Result<Bytes> {
    Ok(crate::bytes::map::read(path, Limits::DEFAULT.file)?.into())
}

/// The digest of the files of a folder.
#[cfg(feature = "std")]
fn folder(path: &Path) -> Result<[u8; 32]> {
    let failed = |source| Error::Io { doing: "list", source };
    let entries = path.read_dir().map_err(failed)?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.sort();
    let mut hash = blake3::Hasher::new();
    for file in files {
        let name = file.to_string_lossy();
        hash.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
        hash.update(blake3::hash(&read(&file)?).as_bytes());
    }
    Ok(*hash.finalize().as_bytes())
}
