//! The one error type: a variant for each party that can be at fault.
//!
//! Messages are one lower-case line with the numbers in it. Text that comes from a file (keys, names) is
//! escaped before it enters a message, so a hostile file cannot write to the terminal.

use core::fmt;
use std::prelude::v1::*;

/// What the library returns.
pub type Result<T> = core::result::Result<T, Error>;

/// Everything that can go wrong outside a bug of our own.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The system refused: the call, and its own error.
    #[cfg(feature = "std")]
    Io {
        /// What was being done, for example `open`.
        doing: &'static str,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is not what it claims to be.
    Corrupt {
        /// What is wrong, with the value seen.
        what: String,
        /// Byte offset in the file.
        offset: u64,
    },
    /// A budget would be exceeded.
    Limit {
        /// The name of the limit.
        what: String,
        /// What was asked for.
        asked: u64,
        /// What is allowed.
        allowed: u64,
    },
    /// The system did not give the memory.
    Memory {
        /// What it was for.
        what: String,
        /// How much was asked for.
        bytes: u64,
    },
    /// This build does not know the thing.
    Unsupported {
        /// The kind of thing, for example `architecture`.
        what: &'static str,
        /// The name found.
        name: String,
    },
    /// Two good things do not fit each other.
    Mismatch {
        /// What was compared.
        what: String,
        /// What was wanted.
        wanted: String,
        /// What was found.
        found: String,
    },
    /// A run cannot go on as it began: everything that changed.
    Changed(Vec<Change>),
    /// A setting or an input of the caller cannot be used.
    Invalid {
        /// Which.
        what: String,
        /// Why, and what would do.
        why: String,
    },
    /// An error inside a named file.
    File {
        /// The path, as the caller gave it.
        path: String,
        /// What went wrong there.
        source: Box<Error>,
    },
}

/// What was one thing when a run began and is another now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub what: String,
    /// What it was.
    pub was: String,
    /// What it is.
    pub now: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was {}, now {}", self.what, self.was, self.now)
    }
}

impl Error {
    /// The file lies: `what`, at byte `offset`.
    pub fn corrupt(what: impl Into<String>, offset: usize) -> Self {
        Error::Corrupt { what: what.into(), offset: offset as u64 }
    }

    /// A budget would be exceeded.
    pub fn limit(what: impl Into<String>, asked: u64, allowed: u64) -> Self {
        Error::Limit { what: what.into(), asked, allowed }
    }

    /// The system did not give `bytes` for `what`.
    pub fn memory(what: impl Into<String>, bytes: u64) -> Self {
        Error::Memory { what: what.into(), bytes }
    }

    /// This build does not know `name`.
    pub fn unsupported(what: &'static str, name: impl AsRef<str>) -> Self {
        Error::Unsupported { what, name: printable(name.as_ref()) }
    }

    /// Two good things do not fit.
    pub fn mismatch(what: impl Into<String>, wanted: impl fmt::Display, found: impl fmt::Display) -> Self {
        Error::Mismatch { what: what.into(), wanted: wanted.to_string(), found: found.to_string() }
    }

    /// A setting or an input cannot be used.
    pub fn invalid(what: impl Into<String>, why: impl Into<String>) -> Self {
        Error::Invalid { what: what.into(), why: why.into() }
    }

    /// Names the file the error happened in; the innermost name wins.
    pub fn in_file(self, path: impl AsRef<str>) -> Self {
        match self {
            Error::File { .. } => self,
            other => Error::File { path: printable(path.as_ref()), source: Box::new(other) },
        }
    }

    /// The error without the file's name around it.
    pub fn inner(&self) -> &Error {
        match self {
            Error::File { source, .. } => source.inner(),
            other => other,
        }
    }
}

/// `text` with control characters escaped and cut at 200 characters: fit for a message or a terminal.
pub fn printable(text: &str) -> String {
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        if i == 200 {
            out.push('…');
            break;
        }
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            #[cfg(feature = "std")]
            Error::Io { doing, source } => write!(f, "{doing}: {source}"),
            Error::Corrupt { what, offset } => write!(f, "corrupt file: {what} (at byte {offset})"),
            Error::Limit { what, asked, allowed } => write!(f, "limit {what}: asked {asked}, allowed {allowed}"),
            Error::Memory { what, bytes } => write!(f, "memory for {what}: the system did not give {bytes} bytes"),
            Error::Unsupported { what, name } => write!(f, "unsupported {what}: {name}"),
            Error::Mismatch { what, wanted, found } => write!(f, "{what} does not fit: wanted {wanted}, found {found}"),
            Error::Changed(changes) => {
                let list: Vec<String> = changes.iter().map(Change::to_string).collect();
                write!(f, "another run than the one that was saved: {}", list.join("; "))
            }
            Error::Invalid { what, why } => write!(f, "{what}: {why}"),
            Error::File { path, source } => write!(f, "{path}: {source}"),
        }
    }
}

impl core::error::Error for Error {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            #[cfg(feature = "std")]
            Error::Io { source, .. } => Some(source),
            Error::File { source, .. } => Some(source.as_ref()),
            _ => None,
        }
    }
}
