//! Output paths: a command never overwrites its inputs or writes two outputs to one file. This is checked before any work.

use crate::args::Usage;
use crate::out;
use anyhow::Context;
use mynah::gguf::Gguf;
use std::fs::Metadata;
use std::path::{Path, PathBuf};

/// A path, and its option on the command line.
pub struct Named {
    name: String,
    path: PathBuf,
}

impl Named {
    pub fn new(name: impl Into<String>, path: impl Into<PathBuf>) -> Named {
        Named { name: name.into(), path: path.into() }
    }
}

/// The files that `-m` reads: the one that it names, and the other parts of the model.
pub fn of_model(path: &Path) -> Vec<Named> {
    let mut all = vec![Named::new("-m", path)];
    all.extend(Gguf::parts_beside(path).into_iter().filter(|p| p != path).map(|p| Named::new("-m", p)));
    all
}

/// Checks that output paths differ from each other, from input paths, and from files inside input folders.
///
/// # Errors
/// `Usage` naming both.
pub fn apart(written: &[Named], read: &[Named]) -> anyhow::Result<()> {
    for (i, a) in written.iter().enumerate() {
        for b in read {
            let within = || b.path.read_dir().is_ok_and(|files| files.flatten().any(|f| same(&a.path, &f.path())));
            if same(&a.path, &b.path) || within() {
                let (path, a, b) = (out::name(&a.path), &a.name, &b.name);
                return Err(Usage::error(format!("{a} would overwrite what {b} reads: {path}")));
            }
        }
        if let Some(b) = written[..i].iter().find(|b| same(&a.path, &b.path)) {
            let (path, a, b) = (out::name(&a.path), &a.name, &b.name);
            return Err(Usage::error(format!("{b} and {a} name the same file: {path}")));
        }
    }
    Ok(())
}

/// Checks that a file can be written at `path`: the folder takes a new file, which is removed at once.
pub fn writable(path: &Path) -> anyhow::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    anyhow::ensure!(parent.is_dir(), "{}: no such folder; make it first, or name another file", out::name(parent));
    anyhow::ensure!(path.file_name().is_some(), "{}: it does not end in the name of a file", out::name(path));
    if let Ok(there) = path.metadata() {
        let what = "a folder, a pipe or a device, and a file is written; name another";
        anyhow::ensure!(there.is_file(), "{}: it is {what}", out::name(path));
        anyhow::ensure!(
            !there.permissions().readonly(),
            "{}: it is marked read-only; name another file",
            out::name(path)
        );
    }
    // Who may write into a folder, only the system knows.
    tempfile_in(parent).with_context(|| format!("{}: no file can be written in this folder", out::name(parent)))
}

/// Whether a path names a file, or nothing yet.
pub fn is_file_or_free(path: &Path) -> bool {
    path.metadata().map_or(true, |meta| meta.is_file())
}

/// Whether a path names a pipe.
pub fn is_pipe(path: &Path) -> bool {
    #[cfg(unix)]
    return path.metadata().is_ok_and(|meta| std::os::unix::fs::FileTypeExt::is_fifo(&meta.file_type()));
    #[cfg(not(unix))]
    {
        let _ = path;
        false
    }
}

/// Whether a path lies in the folder of another, or in the present one.
pub fn beside(path: &Path, other: &Path) -> bool {
    let folder = |path: &Path| real(path).parent().map(Path::to_path_buf);
    let here = std::env::current_dir().ok().and_then(|here| here.canonicalize().ok());
    folder(path).is_some_and(|of| Some(&of) == folder(other).as_ref() || Some(of) == here)
}

/// Creates a file in a folder, and removes it.
fn tempfile_in(folder: &Path) -> std::io::Result<()> {
    let path = folder.join(format!(".mynah-{}.tmp", std::process::id()));
    std::fs::File::options().write(true).create_new(true).open(&path)?;
    std::fs::remove_file(path)
}

/// Whether two paths name the same file, existing or not.
pub fn same(a: &Path, b: &Path) -> bool {
    match (a.metadata(), b.metadata()) {
        (Ok(x), Ok(y)) => one(&x, &y) || real(a) == real(b),
        (Err(_), Err(_)) => real(a) == real(b),
        _ => false,
    }
}

/// Whether these belong to the same file, since hard links have several names.
#[cfg(unix)]
fn one(a: &Metadata, b: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(not(unix))]
fn one(_: &Metadata, _: &Metadata) -> bool {
    false
}

/// The canonical path, as far as it exists.
fn real(path: &Path) -> PathBuf {
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.into());
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => real(parent).join(name),
        _ => absolute,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_has_many_names() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("sub")).unwrap();
        std::fs::write(at("a"), "").unwrap();
        std::fs::write(at("b"), "").unwrap();
        std::fs::hard_link(at("a"), at("hard")).unwrap();
        for (a, b, wanted) in [
            ("a", "a", true),
            ("a", "sub/../a", true),
            ("a", "hard", cfg!(unix)),
            ("a", "b", false),
            ("a", "new", false),
            ("new", "./sub/../new", true),
            ("new", "newer", false),
            ("none/new", "none/new", true),
        ] {
            assert_eq!(same(&at(a), &at(b)), wanted, "{a} {b}");
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(at("sub"), at("link")).unwrap();
            assert!(same(&at("link/new"), &at("sub/new")) && same(&at("link"), &at("sub")));
        }
    }

    #[test]
    fn both_options_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let named = |name: &str, path: &str| Named::new(name, dir.path().join(path));
        std::fs::create_dir(dir.path().join("peft")).unwrap();
        std::fs::write(dir.path().join("peft/weights"), "").unwrap();
        let why = |written: &[Named], read: &[Named]| apart(written, read).unwrap_err().to_string();
        let said = why(&[named("-o", "x"), named("--log", "m")], &[named("-m", "m")]);
        assert!(said.starts_with("--log would overwrite what -m reads: "), "{said}");
        assert!(why(&[named("-o", "x"), named("--log", "x")], &[]).starts_with("-o and --log name the same file: "));
        assert!(why(&[named("--log", "peft/weights")], &[named("--init", "peft")]).contains("--init"));
        apart(&[named("-o", "x"), named("--log", "y")], &[named("-m", "m"), named("-d", "m")]).unwrap();
        let model = |i: usize| dir.path().join(format!("m-{i:05}-of-00002.gguf"));
        let said = why(&[Named::new("-o", model(2))], &of_model(&model(1)));
        assert!(said.starts_with("-o would overwrite what -m reads: "), "{said}");
        apart(&[Named::new("-o", model(3))], &of_model(&model(1))).unwrap();
    }
}
