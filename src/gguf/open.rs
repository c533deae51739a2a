//! Files of a model by name.

use super::Gguf;
use super::parts::Part;
use crate::bytes::Limits;
use crate::bytes::map::{self, Io};
use crate::error::{Error, Result, printable};
use std::path::{Path, PathBuf};
use std::prelude::v1::*;

impl Gguf {
    /// Maps a file and reads it. Of a model that is split over several files, any of them stands for all, which must lie
    /// beside it and be called `NAME-00001-of-00003.gguf` and so on.
    ///
    /// # Errors
    /// Those of [`map::open`] and [`Gguf::parse_parts`], `Invalid` for a part that is missing, and `Altered` for a file that
    /// changes meanwhile, as one does that is being downloaded. They name the file.
    pub fn open(path: &Path, limits: &Limits) -> Result<Gguf> {
        Gguf::load(path, Io::Map, limits)
    }

    /// The same with the files mapped or read.
    ///
    /// # Errors
    /// Those of [`map::load`], and of [`Gguf::open`].
    pub fn load(path: &Path, io: Io, limits: &Limits) -> Result<Gguf> {
        let named = |path: &Path, e: Error| e.in_file(path.to_string_lossy());
        let read = |path: &Path| {
            let bytes = map::load(path, io)?;
            // What was read of a file that changes says nothing about it.
            let read = Gguf::read(bytes.clone(), limits);
            bytes.check().and(read).map_err(|e| named(path, e))
        };
        let given = read(path)?;
        let Some(part) = Part::of(&given, limits).map_err(|e| named(path, e))? else { return Ok(given) };
        let names = siblings(path, part).map_err(|e| named(path, e))?;
        let mut given = Some(given);
        let open = |(i, name): (usize, &PathBuf)| match given.take_if(|_| i == part.no) {
            Some(given) => Ok(given),
            None if !name.exists() => Err(missing(i, part)).map_err(|e| named(name, e)),
            None => read(name),
        };
        let parts = names.iter().enumerate().map(open).collect::<Result<_>>()?;
        Gguf::join(parts, limits).map_err(|(i, e)| named(names.get(i).map_or(path, |name| name), e))
    }

    /// All files of the model that `path` is a file of, as their names say; `path` alone if its name is not that of a
    /// part. No file is looked at.
    pub fn parts_beside(path: &Path) -> Vec<PathBuf> {
        match Numbered::read(path) {
            Some(name) => (0..name.count).map(|i| name.at(i)).collect(),
            None => vec![path.into()],
        }
    }
}

fn missing(i: usize, part: Part) -> Error {
    let count = part.count;
    Error::invalid(
        format!("part {} of {count}", i.saturating_add(1)),
        "the file is missing; all parts must lie together",
    )
}

/// The names of all files of the set.
fn siblings(path: &Path, part: Part) -> Result<Vec<PathBuf>> {
    let name = Numbered::read(path).ok_or_else(|| {
        let wanted = format!("NAME-{:05}-of-{:05}.gguf", part.no.saturating_add(1), part.count);
        let found = path.file_name().map(|name| printable(&name.to_string_lossy())).unwrap_or_default();
        Error::mismatch(format!("name of {part}, by which the others are found,"), wanted, found)
    })?;
    for (key, named, found) in [("no", name.no, part.no), ("count", name.count, part.count)] {
        if named != found {
            return Err(Error::mismatch(format!("key split.{key}"), format!("{named} as the file's name says"), found));
        }
    }
    Ok((0..part.count).map(|i| name.at(i)).collect())
}

/// A name like `NAME-00001-of-00003.gguf`.
struct Numbered<'a> {
    path: &'a Path,
    stem: &'a str,
    end: &'a str,
    /// From 0.
    no: usize,
    count: usize,
}

impl<'a> Numbered<'a> {
    fn read(path: &'a Path) -> Option<Numbered<'a>> {
        let name = path.file_name()?.to_str()?;
        let (front, end) = name.split_at_checked(name.rfind('.')?)?;
        let number = |text: &str| {
            let digits = text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
            if digits { text.parse::<usize>().ok() } else { None }
        };
        let (front, count) = front.rsplit_once("-of-")?;
        let (stem, no) = front.rsplit_once('-')?;
        let (no, count) = (number(no)?.checked_sub(1)?, number(count)?);
        if no < count { Some(Numbered { path, stem, end, no, count }) } else { None }
    }

    fn at(&self, i: usize) -> PathBuf {
        let (no, count) = (i.saturating_add(1), self.count);
        self.path.with_file_name(format!("{}-{no:05}-of-{count:05}{}", self.stem, self.end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts() {
        for (path, wanted) in [
            ("a/b-00002-of-00003.gguf", Some((1, 3, "a/b-00001-of-00003.gguf"))),
            ("-00001-of-00002.gguf", Some((0, 2, "-00001-of-00002.gguf"))),
            ("a-of-b-00001-of-00002.bin", Some((0, 2, "a-of-b-00001-of-00002.bin"))),
            ("b-00004-of-00003.gguf", None),
            ("b-00000-of-00003.gguf", None),
            ("b-0001-of-0003.gguf", None),
            ("b-+0001-of-00003.gguf", None),
            ("b-00001-of-00003", None),
            ("00001-of-00003.gguf", None),
            ("b.gguf", None),
        ] {
            let path = Path::new(path);
            let found = Numbered::read(path).map(|name| (name.no, name.count, name.at(0)));
            assert_eq!(found, wanted.map(|(no, count, first)| (no, count, PathBuf::from(first))), "{}", path.display());
        }
    }
}
