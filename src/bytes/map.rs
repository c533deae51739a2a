//! Files: mapped read-only, read whole, replaced atomically. Every error carries the path.
//!
//! **A mapped file must not change.** If a mapped file is shortened, the next access to the missing part ends the process
//! with a signal, and no library can turn that into an error. Models therefore belong in storage that only the program
//! writes to. Replace files with [`replace`], which leaves a mapped file alone, and never write them in place. Use [`read`],
//! or [`load`] with [`Io::Read`], which make a copy, for files that others may write or that lie on a network. [`open`] never
//! makes a copy: where a file system cannot map, it returns an error.
//!
//! What is mapped remembers its file's size, time of change and identity. [`Bytes::check`] looks at them again; passes
//! through a model, training steps and whatever saves ask it first. A change that leaves size and time as they were is not
//! seen.
#![allow(unsafe_code)] // mapping a file, and asking whether a process lives

use super::{Bytes, Limits, Sink};
use crate::error::{Error, Result};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::prelude::v1::*;
use std::time::SystemTime;

/// How the bytes of a file come to a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Io {
    /// Mapped: read when they are first used, and shared with the system's cache.
    #[default]
    Map,
    /// Read whole into memory of the program's own: nothing that happens to the file later matters.
    Read,
}

/// The bytes of a regular file, mapped or read. Never blocks, whatever the path names.
///
/// # Errors
/// Those of [`open`]; `Memory` if there is not enough for a copy, and `Altered` if the file changes while it is read.
pub fn load(path: &Path, io: Io) -> Result<Bytes> {
    load_on(&mut System, path, io)
}

/// [`load`] on the given disk.
///
/// # Errors
/// As [`load`].
#[doc(hidden)]
pub fn load_on(disk: &mut dyn Disk, path: &Path, io: Io) -> Result<Bytes> {
    let bytes = match io {
        Io::Map => open_inner(disk, path),
        Io::Read => copy(disk, path),
    };
    bytes.map_err(|e| e.in_file(path.to_string_lossy()))
}

/// Maps a regular file read-only, at its present length. Never blocks, whatever the path names.
///
/// # Errors
/// `Io` from the system; `Invalid` for a directory, a pipe, a socket or a device; `Limit` if the address space cannot
/// hold the file.
pub fn open(path: &Path) -> Result<Bytes> {
    load(path, Io::Map)
}

/// [`Bytes::filled`].
pub(super) fn filled(len: usize, fill: impl FnOnce(&mut [u8])) -> Result<Bytes> {
    if len == 0 {
        return Ok(Bytes::from(Vec::new()));
    }
    let refused = |_: io::Error| Error::memory("a copy of weights", len as u64);
    let mut map = memmap2::MmapMut::map_anon(len).map_err(refused)?;
    // A hint that may fail: small pages hold the same bytes.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    fill(&mut map);
    Ok(Bytes::from_memory(map.make_read_only().map_err(refused)?))
}

/// Reads a regular file of at most `limit` bytes. Never blocks, whatever the path names.
///
/// # Errors
/// As [`open`], `Limit` if the file is longer than `limit`, `Memory` if there is not enough memory, and `Altered` if the
/// file changes while it is read.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    read_on(&mut System, path, limit)
}

/// [`read`] on the given disk.
///
/// # Errors
/// As [`read`].
#[doc(hidden)]
pub fn read_on(disk: &mut dyn Disk, path: &Path, limit: u64) -> Result<Vec<u8>> {
    read_inner(disk, path, limit).map_err(|e| e.in_file(path.to_string_lossy()))
}

/// Replaces the content of the file at `path` by `bytes`: writes a new file beside it, syncs that to the disk and renames it
/// over the old one. After a crash at any moment the path names the whole old file or the whole new one. On an error the
/// old file is unchanged and the new one is removed. If only the sync of the rename failed, the new file may be in place,
/// whole. Temporary files that a dead process left for this target are removed.
///
/// An existing file keeps its permissions. A symbolic link is replaced, not followed.
///
/// # Errors
/// `Io` from the system; `Invalid` if the path names something other than a regular file, or a file marked read-only.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    replace_on(&mut System, path, bytes)
}

/// Makes a folder of these files, by name, at `path`: they are written to a new folder beside it, which then takes the name. A
/// crash at any moment leaves no folder with a part of them; while an old one is replaced, it can leave that under a name
/// that ends in `.tmp-` and numbers. On an error what was there is unchanged.
///
/// # Errors
/// `Io` from the system; `Invalid` if there is something other than a folder with files of these names alone.
pub fn replace_folder(path: &Path, files: &[(&str, Vec<u8>)]) -> Result<()> {
    let made = || {
        let name = path.file_name().ok_or_else(|| Error::invalid("path", "it does not end in the name of a folder"))?;
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let old = path.symlink_metadata().is_ok();
        if old {
            let entries = path.read_dir().map_err(io("list"))?.flatten();
            let ours = |entry: &fs::DirEntry| files.iter().any(|(name, _)| entry.file_name() == *name);
            if let Some(other) = { entries }.find(|entry| !ours(entry)) {
                let why = format!("{} is in it", crate::error::printable(&other.file_name().to_string_lossy()));
                return Err(Error::invalid("a folder that holds more than an adapter", why));
            }
        }
        let temporary = parent.join(beside(name));
        fs::create_dir(&temporary).map_err(io("create a folder beside it"))?;
        let swapped = || {
            files.iter().try_for_each(|(name, bytes)| replace(&temporary.join(name), bytes))?;
            System.sync_folder(&temporary).map_err(io("sync the folder to the disk"))?;
            let aside = parent.join(beside(name));
            if old {
                fs::rename(path, &aside).map_err(io("rename"))?;
            }
            if let Err(e) = fs::rename(&temporary, path) {
                fs::rename(&aside, path).ok();
                return Err(io("rename")(e));
            }
            if old {
                fs::remove_dir_all(&aside).map_err(io("remove the old folder"))?;
            }
            System.sync_folder(parent).map_err(io("sync the folder to the disk"))
        };
        swapped().inspect_err(|_| _ = fs::remove_dir_all(&temporary).ok())
    };
    made().map_err(|e: Error| e.in_file(path.to_string_lossy()))
}

/// [`replace`] on the given disk.
///
/// # Errors
/// As [`replace`].
#[doc(hidden)]
pub fn replace_on(disk: &mut dyn Disk, path: &Path, bytes: &[u8]) -> Result<()> {
    replace_with_on(disk, path, |file| file.put(bytes))
}

/// [`replace`] by what `fill` writes piece by piece. Where that fails, the old file stays as it is.
///
/// # Errors
/// Those of [`replace`], and of `fill`.
pub fn replace_with<T>(path: &Path, fill: impl FnOnce(&mut dyn Sink) -> Result<T>) -> Result<T> {
    replace_with_on(&mut System, path, fill)
}

/// The same with a look at the new file, by its temporary name, before it takes the place of the old one: where `check` fails,
/// the old file stays as it is.
///
/// # Errors
/// Those of [`replace_with`], and of `check`.
pub fn replace_checked<T>(
    path: &Path,
    fill: impl FnOnce(&mut dyn Sink) -> Result<()>,
    check: impl FnOnce(&Path) -> Result<T>,
) -> Result<T> {
    replace_checked_on(&mut System, path, fill, |(), new| check(new))
}

/// [`replace_with`] on the given disk.
///
/// # Errors
/// As [`replace_with`].
#[doc(hidden)]
pub fn replace_with_on<T>(
    disk: &mut dyn Disk,
    path: &Path,
    fill: impl FnOnce(&mut dyn Sink) -> Result<T>,
) -> Result<T> {
    replace_checked_on(disk, path, fill, |value, _| Ok(value))
}

fn replace_checked_on<A, T>(
    disk: &mut dyn Disk,
    path: &Path,
    fill: impl FnOnce(&mut dyn Sink) -> Result<A>,
    check: impl FnOnce(A, &Path) -> Result<T>,
) -> Result<T> {
    let named = |e: Error| e.in_file(path.to_string_lossy());
    let (folder, old) = replaceable(disk, path).map_err(named)?;
    let name = path.file_name().unwrap_or_default();
    let (file, temporary) = create_beside(disk, folder, name).map_err(named)?;
    let mut file = Pieces { disk, file, path };
    // What goes wrong in making the pieces is not of this file.
    let filled = fill(&mut file);
    let Pieces { disk, file, .. } = file;
    let kept = filled.and_then(|value| check(value, &temporary)).and_then(|value| {
        finish(disk, file, &temporary, path, old.map(|meta| meta.permissions())).map_err(named)?;
        Ok(value)
    });
    if kept.is_err() {
        // The first error is the one to report; a failure to clean up adds nothing to it.
        disk.remove(&temporary).ok();
    }
    let value = kept?;
    disk.sync_folder(folder).map_err(io("sync the folder to the disk")).map_err(named)?;
    Ok(value)
}

/// A file that is being written.
struct Pieces<'a> {
    disk: &'a mut dyn Disk,
    file: File,
    path: &'a Path,
}

impl Sink for Pieces<'_> {
    fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        let mut write = || {
            while !bytes.is_empty() {
                match self.disk.write(&mut self.file, bytes) {
                    Ok(n @ 1..) => bytes = bytes.get(n..).unwrap_or_default(),
                    Ok(0) => return Err(io("write")(io::ErrorKind::WriteZero.into())),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(io("write")(e)),
                }
            }
            Ok(())
        };
        write().map_err(|e: Error| e.in_file(self.path.to_string_lossy()))
    }
}

/// The calls to a disk, a method each, so that a test can make any of them fail. The default methods call the system.
#[doc(hidden)]
pub trait Disk: Send {
    /// What a path names.
    fn look(&mut self, path: &Path) -> io::Result<Metadata> {
        fs::metadata(path)
    }

    /// Opens a file for reading. `O_NONBLOCK` keeps what turns out to be a pipe from blocking; it has no effect on regular
    /// files.
    fn open(&mut self, path: &Path) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
        options.open(path)
    }

    /// What an open file is.
    fn stat(&mut self, file: &File) -> io::Result<Metadata> {
        file.metadata()
    }

    /// Reads some bytes and returns their number.
    fn read(&mut self, file: &mut File, bytes: &mut [u8]) -> io::Result<usize> {
        file.read(bytes)
    }

    /// Creates a file. It is an error if the name exists.
    fn create(&mut self, path: &Path) -> io::Result<File> {
        OpenOptions::new().write(true).create_new(true).open(path)
    }

    /// Writes some of the bytes and returns their number.
    fn write(&mut self, file: &mut File, bytes: &[u8]) -> io::Result<usize> {
        file.write(bytes)
    }

    /// Sets the permissions of a created file.
    fn set_permissions(&mut self, file: &File, permissions: fs::Permissions) -> io::Result<()> {
        file.set_permissions(permissions)
    }

    /// Syncs the file to the disk. On Apple systems this is `F_FULLFSYNC`.
    fn sync(&mut self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    /// Renames a file over `to`, which may exist.
    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    /// Syncs the names in a folder to the disk, where the system has a call for this.
    fn sync_folder(&mut self, folder: &Path) -> io::Result<()> {
        if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
    }

    /// Removes a file.
    fn remove(&mut self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
}

/// The disk of the system.
#[doc(hidden)]
pub struct System;

impl Disk for System {}

fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { doing, source }
}

/// Refuses everything but a regular file; the error names the kind.
fn regular(meta: &Metadata) -> Result<()> {
    let kind = meta.file_type();
    if kind.is_file() {
        return Ok(());
    }
    #[cfg_attr(not(unix), allow(unused_mut))]
    let mut found = if kind.is_dir() { "a directory" } else { "of another kind" };
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            found = "a pipe";
        } else if kind.is_socket() {
            found = "a socket";
        } else if kind.is_char_device() || kind.is_block_device() {
            found = "a device";
        }
    }
    Err(Error::invalid("not a file", format!("it is {found}")))
}

/// What tells whether a file is still the same, with the same contents.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Stamp {
    len: u64,
    /// `None` on systems that have no such time.
    changed: Option<SystemTime>,
    /// Device and number, where the system has these.
    identity: Option<(u64, u64)>,
}

impl Stamp {
    fn of(meta: &Metadata) -> Stamp {
        #[cfg(unix)]
        let identity = {
            use std::os::unix::fs::MetadataExt;
            Some((meta.dev(), meta.ino()))
        };
        #[cfg(not(unix))]
        let identity = None;
        Stamp { len: meta.len(), changed: meta.modified().ok(), identity }
    }

    /// Whether a look at the same open file shows the same.
    fn still(&self, now: Stamp) -> Result<()> {
        let how = match () {
            () if now.len < self.len => "was cut short",
            () if now != *self => "was written to",
            () => return Ok(()),
        };
        Err(Error::Altered { how })
    }
}

/// A mapped file, and what it was when it was mapped.
pub(super) struct Mapped {
    map: memmap2::Mmap,
    /// Held, since the path may come to name another file.
    file: File,
    path: PathBuf,
    stamp: Stamp,
}

impl std::ops::Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl Mapped {
    /// Whether the file is what it was, and its path still names it. A file that was moved away or removed is what it was.
    pub(super) fn check(&self) -> Result<()> {
        let look = || {
            self.stamp.still(Stamp::of(&self.file.metadata().map_err(io("look at"))?))?;
            match fs::metadata(&self.path) {
                Ok(there) if Stamp::of(&there).identity != self.stamp.identity => {
                    Err(Error::Altered { how: "was replaced by another" })
                }
                _ => Ok(()),
            }
        };
        look().map_err(|e: Error| e.in_file(self.path.to_string_lossy()))
    }
}

/// Opens a regular file for reading. The kind is checked before, so that no device or pipe is opened, and again on the
/// open file, since the name may mean another file by then.
fn open_regular(disk: &mut dyn Disk, path: &Path) -> Result<(File, Stamp)> {
    regular(&disk.look(path).map_err(io("open"))?)?;
    let file = disk.open(path).map_err(io("open"))?;
    let meta = disk.stat(&file).map_err(io("open"))?;
    regular(&meta)?;
    Ok((file, Stamp::of(&meta)))
}

/// The length of a file, if memory can hold it.
fn addressable(len: u64) -> Result<usize> {
    let most = isize::MAX.unsigned_abs();
    usize::try_from(len).ok().filter(|&len| len <= most).ok_or_else(|| Error::limit("address space", len, most as u64))
}

fn open_inner(disk: &mut dyn Disk, path: &Path) -> Result<Bytes> {
    let (file, stamp) = open_regular(disk, path)?;
    let len = addressable(stamp.len)?;
    if len == 0 {
        return Ok(Bytes::from_static(&[])); // the system maps no empty range
    }
    // SAFETY: the mapping is private to this process, read-only, and exactly as long as the regular file was when
    // looked at above. That nobody shortens the file while it is mapped cannot be established here; the front page
    // of this file makes it the caller's duty.
    let map = unsafe { memmap2::MmapOptions::new().len(len).map(&file) };
    let map = map.map_err(|e| match e.kind() {
        io::ErrorKind::OutOfMemory => Error::memory("mapping the file", len as u64),
        _ => io("map")(e),
    })?;
    // A hint as above, for pages that the system has yet to read from the disk. All weights are read once a token, and with
    // small pages they would miss the processor's TLB.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    // A program may change its folder later.
    let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
    Ok(Bytes::from_map(Mapped { map, file, path, stamp }))
}

/// The whole of a file in memory of our own.
fn copy(disk: &mut dyn Disk, path: &Path) -> Result<Bytes> {
    let (mut file, stamp) = open_regular(disk, path)?;
    let mut read = Ok(());
    let bytes = filled(addressable(stamp.len)?, |bytes| read = fill(disk, &mut file, stamp, bytes));
    let bytes = bytes.map_err(|e| match e {
        Error::Memory { bytes, .. } => Error::memory("a copy of the file", bytes),
        other => other,
    })?;
    read.map(|()| bytes)
}

/// Reads the whole of a file that was opened so.
fn fill(disk: &mut dyn Disk, file: &mut File, stamp: Stamp, mut bytes: &mut [u8]) -> Result<()> {
    while !bytes.is_empty() {
        match disk.read(file, bytes) {
            Ok(0) => break,
            Ok(n) => bytes = bytes.get_mut(n..).unwrap_or_default(),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(io("read")(e)),
        }
    }
    stamp.still(Stamp::of(&disk.stat(file).map_err(io("read"))?))?;
    match bytes.is_empty() {
        true => Ok(()),
        // Its size says otherwise, so the fault is the system's.
        false => Err(io("read")(io::ErrorKind::UnexpectedEof.into())),
    }
}

fn read_inner(disk: &mut dyn Disk, path: &Path, limit: u64) -> Result<Vec<u8>> {
    let (mut file, stamp) = open_regular(disk, path)?;
    Limits::check("file", stamp.len, limit)?;
    let mut out = Vec::new();
    let len = addressable(stamp.len)?;
    out.try_reserve_exact(len).map_err(|_| Error::memory("the file", len as u64))?;
    out.resize(len, 0);
    fill(disk, &mut file, stamp, &mut out)?;
    Ok(out)
}

/// The folder of a path, and what the path names if that can be replaced. Removes what dead processes left beside it.
fn replaceable<'a>(disk: &mut dyn Disk, path: &'a Path) -> Result<(&'a Path, Option<Metadata>)> {
    let Some(name) = path.file_name() else {
        return Err(Error::invalid("path", "it does not end in a file name"));
    };
    let old = match disk.look(path) {
        Ok(meta) => Some(meta),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(io("open")(e)),
    };
    if let Some(meta) = &old {
        regular(meta)?;
        if meta.permissions().readonly() {
            return Err(Error::invalid(
                "a file marked read-only",
                "it is not replaced; change its permissions or name another",
            ));
        }
    }
    let folder = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    remove_stale(disk, folder, name);
    Ok((folder, old))
}

/// A name for what is made beside a target.
fn beside(name: &std::ffi::OsStr) -> std::ffi::OsString {
    use std::hash::{BuildHasher, Hasher};
    // Hash keys are the only source of randomness in the standard library.
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    let mut own = name.to_os_string();
    own.push(format!(".tmp-{}-{:08x}", std::process::id(), random as u32));
    own
}

/// A new file with an unused name in the target's folder.
fn create_beside(disk: &mut dyn Disk, folder: &Path, name: &std::ffi::OsStr) -> Result<(File, PathBuf)> {
    let mut tries = 0u32;
    loop {
        let temporary = folder.join(beside(name));
        match disk.create(&temporary) {
            Ok(file) => return Ok((file, temporary)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && tries < 16 => tries = tries.saturating_add(1),
            Err(e) => return Err(io("create a file beside it")(e)),
        }
    }
}

/// Syncs a file that was written and renames it over `path`.
fn finish(
    disk: &mut dyn Disk,
    file: File,
    temporary: &Path,
    path: &Path,
    permissions: Option<fs::Permissions>,
) -> Result<()> {
    if let Some(permissions) = permissions {
        disk.set_permissions(&file, permissions).map_err(io("set permissions"))?;
    }
    // After an error the data may be lost: a second sync could succeed without having written it.
    disk.sync(&file).map_err(io("sync to the disk"))?;
    drop(file);
    disk.rename(temporary, path).map_err(io("rename"))
}

/// Removes `name.tmp-<pid>-<random>` files of processes that no longer run. Failures are ignored: such
/// a file does no harm.
fn remove_stale(disk: &mut dyn Disk, folder: &Path, name: &std::ffi::OsStr) {
    let (Some(name), Ok(entries)) = (name.to_str(), fs::read_dir(folder)) else { return };
    for entry in entries.flatten() {
        let entry_name = entry.file_name();
        let pid = entry_name
            .to_str()
            .and_then(|n| n.strip_prefix(name)?.strip_prefix(".tmp-")?.split_once('-'))
            .filter(|(_, random)| random.len() == 8 && random.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|(pid, _)| pid.parse().ok());
        if pid.is_some_and(dead) {
            disk.remove(&entry.path()).ok();
        }
    }
}

/// Whether no process has this number; `false` if that cannot be determined.
fn dead(pid: u32) -> bool {
    #[cfg(unix)]
    if let Ok(pid) = libc::pid_t::try_from(pid).map(|p| p.max(1)) {
        // SAFETY: signal 0 is never delivered; the call only looks the number up.
        let found = unsafe { libc::kill(pid, 0) };
        return found == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH);
    }
    let _ = pid;
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut v: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        v.sort();
        v
    }

    #[test]
    fn maps_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, b"hello").unwrap();
        let mapped = open(&path).unwrap();
        assert_eq!(&mapped[..], b"hello");
        replace(&path, b"other").unwrap();
        assert_eq!(&mapped[..], b"hello", "a mapped file is never written in place");
        assert_eq!(read(&path, 5).unwrap(), b"other");
        assert!(matches!(read(&path, 4).unwrap_err().inner(), Error::Limit { asked: 5, allowed: 4, .. }));
        fs::write(&path, b"").unwrap();
        assert!(open(&path).unwrap().is_empty());
    }

    #[test]
    fn errors_carry_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("no\nsuch");
        for e in [open(&missing).unwrap_err(), read(&missing, 1).unwrap_err()] {
            assert!(matches!(e.inner(), Error::Io { doing: "open", .. }), "{e}");
            assert!(e.to_string().contains("no\\nsuch: no such file"), "{e}");
        }
        for e in [open(dir.path()).unwrap_err(), replace(dir.path(), b"x").unwrap_err()] {
            assert!(e.to_string().contains("a directory"), "{e}");
        }
        assert!(replace(&dir.path().join("none/file"), b"x").is_err());
        assert!(replace(Path::new("/"), b"x").is_err());
        assert!(replace(Path::new(""), b"x").is_err());
    }

    #[cfg(unix)]
    #[test]
    fn pipes_devices_and_loops_are_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        let zero = Path::new("/dev/zero");
        for (path, word) in [(pipe.as_path(), "a pipe"), (zero, "a device")] {
            for e in [open(path).unwrap_err(), read(path, 9).unwrap_err(), replace(path, b"").unwrap_err()] {
                assert!(matches!(e.inner(), Error::Invalid { .. }) && e.to_string().contains(word), "{e}");
            }
        }
        let loop_ = dir.path().join("loop");
        std::os::unix::fs::symlink(&loop_, &loop_).unwrap();
        assert!(matches!(open(&loop_).unwrap_err().inner(), Error::Io { .. }));
        assert!(matches!(open(Path::new("a\0b")).unwrap_err().inner(), Error::Io { .. }));
    }

    #[cfg(unix)]
    #[test]
    fn replacing_keeps_permissions_and_leaves_nothing_behind() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, b"old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
        assert!(replace(&path, b"x").unwrap_err().to_string().contains("read-only"));
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(dir.path()), ["a"]);
    }

    #[cfg(unix)]
    #[test]
    fn leavings_of_the_dead_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let gone = child.id();
        child.wait().unwrap();
        let live = std::process::id();
        for name in [format!("a.tmp-{gone}-0123abcd"), format!("a.tmp-{live}-0123abcd")] {
            fs::write(dir.path().join(name), b"").unwrap();
        }
        for other in [format!("b.tmp-{gone}-0123abcd"), format!("a.tmp-{gone}-notes"), "a.tmp-x-0123abcd".into()] {
            fs::write(dir.path().join(other), b"").unwrap();
        }
        replace(&path, b"new").unwrap();
        let mut want = vec![
            "a".to_string(),
            format!("a.tmp-{live}-0123abcd"),
            format!("a.tmp-{gone}-notes"),
            "a.tmp-x-0123abcd".into(),
            format!("b.tmp-{gone}-0123abcd"),
        ];
        want.sort();
        assert_eq!(names(dir.path()), want);
    }
}
