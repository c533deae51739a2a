//! A save that is cut off anywhere leaves the whole old file or the whole new one.

use mynah::Error;
use mynah::bytes::Limits;
use mynah::bytes::map::{Disk, Io, System, load_on, read_on, replace_on};
use mynah::container::{Builder, head::Head};
use mynah::train::folder::Folder;
use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::path::{Path, PathBuf};

/// How a call fails.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fault {
    /// This call, with nothing done; later ones work.
    Error,
    /// A write does half of what was asked, then the disk is full.
    Half,
    /// This call and all later ones do nothing: the process is gone.
    Crash,
    /// The same, and half of a write had been done.
    Torn,
    /// This call did nothing and asks to be made again.
    Again,
}

/// What a system says, and its number on Linux.
const SAYS: [(&str, i32); 6] =
    [("ENOSPC", 28), ("EDQUOT", 122), ("EIO", 5), ("EROFS", 30), ("EACCES", 13), ("EMFILE", 24)];

/// The system's disk, of which one call fails; a write takes a few bytes at most.
struct Faulty {
    fault: Fault,
    /// Calls that work before.
    good: usize,
    /// Calls so far.
    calls: usize,
    /// Most bytes of a write.
    most: usize,
    fired: bool,
    /// What the system says.
    says: i32,
}

impl Faulty {
    fn new(fault: Fault, good: usize, most: usize) -> Faulty {
        Faulty { fault, good, calls: 0, most, fired: false, says: SAYS[0].1 }
    }

    fn error(&self) -> io::Error {
        match self.fault {
            Fault::Again => io::ErrorKind::Interrupted.into(),
            _ => io::Error::from_raw_os_error(self.says),
        }
    }

    /// Whether this call does its work, and if not, whether half of it.
    fn turn(&mut self) -> Result<(), bool> {
        let gone = self.fired && matches!(self.fault, Fault::Crash | Fault::Torn);
        if gone || (self.calls == self.good && !self.fired) {
            let first = !self.fired;
            self.fired = true;
            self.calls += 1;
            return Err(first && matches!(self.fault, Fault::Half | Fault::Torn));
        }
        self.calls += 1;
        Ok(())
    }

    fn call<T>(&mut self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.turn().map_err(|_| self.error())?;
        work()
    }
}

impl Disk for Faulty {
    fn look(&mut self, path: &Path) -> io::Result<Metadata> {
        self.call(|| System.look(path))
    }

    fn open(&mut self, path: &Path) -> io::Result<File> {
        self.call(|| System.open(path))
    }

    fn stat(&mut self, file: &File) -> io::Result<Metadata> {
        self.call(|| System.stat(file))
    }

    fn read(&mut self, file: &mut File, bytes: &mut [u8]) -> io::Result<usize> {
        let most = bytes.len().min(self.most);
        self.call(|| System.read(file, &mut bytes[..most]))
    }

    fn create(&mut self, path: &Path) -> io::Result<File> {
        self.call(|| System.create(path))
    }

    fn write(&mut self, file: &mut File, bytes: &[u8]) -> io::Result<usize> {
        let part = &bytes[..bytes.len().min(self.most)];
        match self.turn() {
            Ok(()) => System.write(file, part),
            Err(half) => {
                if half {
                    System.write(file, &part[..part.len() / 2])?;
                }
                Err(self.error())
            }
        }
    }

    fn set_permissions(&mut self, file: &File, permissions: Permissions) -> io::Result<()> {
        self.call(|| System.set_permissions(file, permissions))
    }

    fn sync(&mut self, file: &File) -> io::Result<()> {
        self.call(|| System.sync(file))
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(|| System.rename(from, to))
    }

    fn sync_folder(&mut self, folder: &Path) -> io::Result<()> {
        self.call(|| System.sync_folder(folder))
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.call(|| System.remove(path))
    }
}

const OLD: &[u8] = b"the old file, which somebody worked for";
const NEW: &[u8] = b"the new file, a little longer than the one that was there before";

#[test]
fn a_fault_at_any_call_leaves_the_old_or_the_new_file() {
    for fault in [Fault::Error, Fault::Half, Fault::Crash, Fault::Torn] {
        for exists in [true, false] {
            let mut cut = 0;
            for good in 0.. {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("a.mynah");
                if exists {
                    fs::write(&path, OLD).unwrap();
                }
                let mut disk = Faulty::new(fault, good, 7);
                let result = replace_on(&mut disk, &path, NEW);
                let now = fs::read(&path).ok();
                let old = exists.then(|| OLD.to_vec());
                assert!(now == old || now.as_deref() == Some(NEW), "{fault:?} at call {good}: {now:?}");
                if result.is_ok() {
                    assert_eq!(now.as_deref(), Some(NEW));
                    assert!(good >= disk.calls, "a call failed and nobody said so");
                    break;
                }
                cut += 1;
                let left = fs::read_dir(dir.path()).unwrap().count();
                if matches!(fault, Fault::Error | Fault::Half) {
                    assert_eq!(left, usize::from(now.is_some()), "{fault:?} at call {good} left something behind");
                }
                // Whatever was left behind does not disturb the next save.
                replace_on(&mut System, &path, NEW).unwrap();
                assert_eq!(fs::read(&path).unwrap(), NEW);
            }
            // A look, create, ten writes, permissions of the old one, sync, rename, folder.
            assert_eq!(cut, 15 + usize::from(exists), "{fault:?}");
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn what_the_system_says_reaches_the_caller() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.mynah");
    for (name, says) in SAYS {
        let said = io::Error::from_raw_os_error(says).to_string();
        let check = |what: &str, e: Error| {
            assert!(matches!(e.inner(), Error::Io { .. }), "{name} {what}: {e}");
            assert!(e.to_string().contains("a.mynah") && e.to_string().contains(&said), "{name} {what}: {e}");
        };
        fs::write(&path, OLD).unwrap();
        for good in 0.. {
            let mut disk = Faulty { says, ..Faulty::new(Fault::Error, good, 7) };
            let Err(e) = replace_on(&mut disk, &path, NEW) else { break };
            check("write", e);
        }
        for good in 0.. {
            let mut disk = Faulty { says, ..Faulty::new(Fault::Error, good, 7) };
            let Err(e) = read_on(&mut disk, &path, 99) else {
                // A look, open, look, ten reads, a look afterwards.
                assert_eq!(good, 4 + NEW.len().div_ceil(7));
                break;
            };
            check("read", e);
        }
        for io in [Io::Map, Io::Read] {
            for good in 0.. {
                let mut disk = Faulty { says, ..Faulty::new(Fault::Error, good, 7) };
                match load_on(&mut disk, &path, io) {
                    Ok(bytes) => {
                        assert_eq!(&bytes[..], NEW);
                        break;
                    }
                    Err(e) => check("load", e),
                }
            }
        }
    }
}

#[test]
fn interrupted_and_short_calls_are_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    // Reads and writes alone can be interrupted where files are regular.
    for good in 2..2 + NEW.len() {
        let mut disk = Faulty::new(Fault::Again, good, 1);
        replace_on(&mut disk, &path, NEW).unwrap();
        assert!(disk.fired && fs::read(&path).unwrap() == NEW);
        let mut disk = Faulty::new(Fault::Again, good + 1, 1);
        assert!(read_on(&mut disk, &path, 99).unwrap() == NEW && disk.fired);
        let mut disk = Faulty::new(Fault::Again, good + 1, 1);
        assert!(load_on(&mut disk, &path, Io::Read).unwrap()[..] == *NEW && disk.fired);
    }
}

/// A file that something happens to at the first read of it.
struct Meddler<'a>(Option<Box<dyn FnMut() + Send + 'a>>);

impl Disk for Meddler<'_> {
    fn read(&mut self, file: &mut File, bytes: &mut [u8]) -> io::Result<usize> {
        let n = System.read(file, &mut bytes[..1])?;
        self.0.take().iter_mut().for_each(|happens| happens());
        Ok(n)
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    for (word, to) in
        [("cut short", &OLD[..9]), ("written to", b"twice the length of it, or nearly, which is too much")]
    {
        fs::write(&path, OLD).unwrap();
        let write = || Meddler(Some(Box::new(|| fs::write(&path, to).unwrap())));
        for e in [
            read_on(&mut write(), &path, 99).unwrap_err(),
            fs::write(&path, OLD).map(|()| load_on(&mut write(), &path, Io::Read).unwrap_err()).unwrap(),
        ] {
            assert!(matches!(e.inner(), Error::Altered { .. }) && e.to_string().contains(word), "{e}");
        }
    }
}

/// A disk that takes so many bytes and no more.
struct Full(usize);

impl Disk for Full {
    fn write(&mut self, file: &mut File, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(self.0);
        self.0 -= n;
        if n == 0 { Err(io::ErrorKind::StorageFull.into()) } else { System.write(file, &bytes[..n]) }
    }

    fn sync(&mut self, _: &File) -> io::Result<()> {
        Ok(())
    }

    fn sync_folder(&mut self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

/// An adapter and a checkpoint, and a disk that is full at every byte of them.
#[cfg(feature = "base")]
#[test]
fn a_disk_that_is_full_at_any_byte_leaves_the_old_file() {
    let mynah = mynah::Mynah::embedded().unwrap();
    let spec = mynah::adapter::Spec::new("nola").with("basis", 1);
    let mut lesson = mynah.lesson(spec).held_out(0.0).steps(2).context(32).text("Rain at Gull Rock, and tea.").unwrap();
    lesson.next().unwrap().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.mynah");
    fs::write(&path, OLD).unwrap();
    for (what, bytes) in [("adapter", lesson.to_bytes().unwrap()), ("checkpoint", lesson.checkpoint().unwrap())] {
        for room in 0..bytes.len() {
            let e = replace_on(&mut Full(room), &path, &bytes).unwrap_err();
            assert!(matches!(e.inner(), Error::Io { doing: "write", .. }), "{what}, full at {room}: {e}");
            assert!(fs::read(&path).unwrap() == OLD, "{what}, full at {room}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left behind");
        eprintln!("{what}: full at each of {} bytes", bytes.len());
    }
    // What could not be saved is still there.
    lesson.save(dir.path().join("elsewhere")).unwrap();
}

/// A disk that may lose power: what was not forced is lost or torn, so a name must not come to mean a file before all
/// of that file was forced, and success must not be told before the name was.
#[derive(Default)]
struct Power {
    written: usize,
    forced: usize,
    renamed: Option<PathBuf>,
}

impl Disk for Power {
    fn write(&mut self, file: &mut File, bytes: &[u8]) -> io::Result<usize> {
        let n = System.write(file, bytes)?;
        self.written += n;
        Ok(n)
    }

    fn sync(&mut self, file: &File) -> io::Result<()> {
        self.forced = self.written;
        System.sync(file)
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        assert_eq!(self.forced, NEW.len(), "renamed before it was on the disk");
        self.renamed = to.parent().map(Path::to_path_buf);
        System.rename(from, to)
    }

    fn sync_folder(&mut self, folder: &Path) -> io::Result<()> {
        assert_eq!(self.renamed.take().as_deref(), Some(folder), "the folder of the rename, after it");
        System.sync_folder(folder)
    }
}

#[test]
fn nothing_is_named_before_it_is_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = Power::default();
    replace_on(&mut disk, &dir.path().join("a"), NEW).unwrap();
    assert!(disk.forced == NEW.len() && disk.renamed.is_none(), "the rename was not forced");
}

/// A checkpoint that says its step and nothing that a trainer could use.
fn checkpoint(step: u64) -> Vec<u8> {
    let mut state = Head::new();
    state.set("step", step).set("epoch", 0u64).set("left", 0u64);
    let file = Builder::new("train").section("head", true, Head::new().encode());
    file.section("state", true, state.encode()).section("n.log", false, vec![step as u8; 40]).finish()
}

fn newest(folder: &Folder) -> Option<u64> {
    folder.newest(&Limits::default(), |e| panic!("{e}")).unwrap().map(|c| c.step())
}

#[test]
fn the_newest_two_and_the_best_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("saved");
    let mut folder = Folder::open(&path).unwrap();
    assert_eq!(newest(&folder), None);
    for (step, best, kept) in [
        (10u64, None, vec![10u64]),
        (20, Some(20), vec![20, 10]),
        (30, Some(20), vec![30, 20]),
        (40, Some(20), vec![40, 30, 20]),
        (50, Some(20), vec![50, 40, 20]),
        (60, Some(60), vec![60, 50]),
        (55, Some(20), vec![55, 50]),
        (55, Some(50), vec![55, 50]),
    ] {
        folder.save(step, &checkpoint(step), best).unwrap();
        assert_eq!(folder.steps().unwrap(), kept);
        assert_eq!(newest(&folder), Some(step));
    }
    let again = Folder::open(&path).err().unwrap();
    let own = format!("another run uses it, process {}", std::process::id());
    assert!(again.to_string().contains(&own), "{again}");
    drop(folder);

    // Half-written and damaged ones are skipped, and what a dead process left behind goes.
    fs::write(path.join("checkpoint-60.mynah"), &checkpoint(60)[..100]).unwrap();
    fs::write(path.join("checkpoint-70.mynah"), b"").unwrap();
    fs::write(path.join("checkpoint-80.mynah.tmp-1-0123abcd"), b"").unwrap();
    let mut folder = Folder::open(&path).unwrap();
    assert_eq!(folder.steps().unwrap(), [70, 60, 55, 50]);
    let mut skipped = Vec::new();
    let found = folder.newest(&Limits::default(), |e| skipped.push(e.to_string())).unwrap().unwrap();
    assert_eq!((found.step(), skipped.len()), (55, 2));
    assert!(skipped[0].contains("checkpoint-70.mynah: ") && skipped[1].contains("incomplete: 100 of"), "{skipped:?}");
    assert!(!path.join("checkpoint-80.mynah.tmp-1-0123abcd").exists());
    folder.save(57, &checkpoint(57), None).unwrap();
    assert_eq!(folder.steps().unwrap(), [57, 55]);

    // None whole is an error, and nothing is thrown away.
    for step in [57, 55] {
        fs::write(path.join(format!("checkpoint-{step}.mynah")), b"x").unwrap();
    }
    let e = folder.newest(&Limits::default(), |_| {}).err().unwrap();
    assert!(e.to_string().contains("none of 2 checkpoints"), "{e}");
    assert_eq!(folder.steps().unwrap(), [57, 55]);
    folder.remove().unwrap();
    assert!(!path.exists());
}

#[test]
fn a_fault_at_any_call_loses_no_checkpoint() {
    for fault in [Fault::Error, Fault::Half, Fault::Crash, Fault::Torn] {
        let mut ended = false;
        for good in 0.. {
            let dir = tempfile::tempdir().unwrap();
            let mut folder = Folder::on(dir.path(), Box::new(Faulty::new(fault, good, 200))).unwrap();
            // What is sure to be there: the best, and the newest that was said to be saved.
            let (mut best, mut sure) = (None, None);
            let mut failed = false;
            for step in 1..=4 {
                let now = if step == 1 || best.is_none() { Some(step) } else { best };
                match folder.save(step, &checkpoint(step), now) {
                    Ok(()) => (best, sure) = (now, Some(step)),
                    Err(_) => failed = true,
                }
            }
            drop(folder);
            let folder = Folder::open(dir.path()).unwrap();
            let found = newest(&folder);
            assert!(found >= sure, "{fault:?} at call {good}: {found:?} of {sure:?}");
            assert!(best.is_none_or(|best| folder.steps().unwrap().contains(&best)), "{fault:?} at call {good}");
            if !failed && good > 60 {
                ended = true;
                break;
            }
        }
        assert!(ended);
    }
}
