//! Files that one process at a time has open.

use std::fs::{File, TryLockError};
use std::io;
use std::ops::{Deref, DerefMut};
use std::prelude::v1::*;

/// A file that is locked against other processes until this is dropped or the process ends in any way.
pub struct Lock(File);

impl Lock {
    /// Locks a file, without waiting; gives it back if another handle holds it. A file system without locks locks nothing:
    /// there the user must avoid two writers.
    ///
    /// # Errors
    /// Those of the system.
    pub fn take(file: File) -> io::Result<Result<Lock, File>> {
        match file.try_lock() {
            Ok(()) => Ok(Ok(Lock(file))),
            Err(TryLockError::WouldBlock) => Ok(Err(file)),
            Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => Ok(Ok(Lock(file))),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }
}

impl Deref for Lock {
    type Target = File;
    fn deref(&self) -> &File {
        &self.0
    }
}

impl DerefMut for Lock {
    fn deref_mut(&mut self) -> &mut File {
        &mut self.0
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a program that another thread is about to start has a copy of every open file until it
        // runs, and the lock would last as long as the copy.
        self.0.unlock().ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_the_handle_does_not_keep_the_lock() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || File::options().read(true).write(true).open(file.path()).unwrap();
        let lock = Lock::take(open()).unwrap().ok().unwrap();
        let copy = lock.try_clone().unwrap();
        assert!(Lock::take(open()).unwrap().is_err());
        drop(lock);
        assert!(Lock::take(open()).unwrap().is_ok());
        drop(copy);
    }
}
