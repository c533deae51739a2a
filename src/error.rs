//! The one error type: a variant for each kind of fault.
//!
//! Messages are one lower-case line with the numbers in it. Text that comes from a file (keys, names) is
//! escaped before it enters a message, so a hostile file cannot write to the terminal.

use core::fmt;
#[cfg(feature = "std")]
use std::io::ErrorKind::NotFound;
use std::prelude::v1::*;

/// The result of everything here that can fail.
pub type Result<T> = core::result::Result<T, Error>;

/// Everything that can go wrong except for bugs of this library.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
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
        /// What was requested.
        asked: u64,
        /// What is allowed.
        allowed: u64,
    },
    /// The system did not provide the memory.
    Memory {
        /// What it was for.
        what: String,
        /// Bytes that were requested.
        bytes: u64,
    },
    /// The file or the caller names something that this build does not support.
    Unsupported {
        /// The kind of thing, for example `architecture`.
        what: &'static str,
        /// The name found.
        name: String,
    },
    /// Two valid things do not fit each other.
    Mismatch {
        /// What was compared.
        what: String,
        /// What was wanted.
        wanted: String,
        /// What was found.
        found: String,
    },
    /// A run cannot be resumed because it has changed: all changes.
    Changed(Vec<Change>),
    /// A file is no longer what it was when it was opened, so nothing is made from it any more.
    Altered {
        /// What has happened to it.
        how: &'static str,
    },
    /// A setting or an input of the caller cannot be used.
    Invalid {
        /// Which.
        what: String,
        /// Why, and what can be used instead.
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

/// A property of a run that has changed since it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The property.
    pub what: String,
    /// Its value when the run began.
    pub was: String,
    /// Its value now.
    pub now: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was {}, now {}", self.what, self.was, self.now)
    }
}

impl Error {
    /// The file is corrupt: `what`, at byte `offset`.
    pub fn corrupt(what: impl Into<String>, offset: usize) -> Self {
        Error::Corrupt { what: what.into(), offset: offset as u64 }
    }

    /// A budget would be exceeded.
    pub fn limit(what: impl Into<String>, asked: u64, allowed: u64) -> Self {
        Error::Limit { what: what.into(), asked, allowed }
    }

    /// The system did not provide `bytes` for `what`.
    pub fn memory(what: impl Into<String>, bytes: u64) -> Self {
        Error::Memory { what: what.into(), bytes }
    }

    /// This build does not support `name`.
    pub fn unsupported(what: &'static str, name: impl AsRef<str>) -> Self {
        Error::Unsupported { what, name: printable(name.as_ref()) }
    }

    /// Two valid things do not fit.
    pub fn mismatch(what: impl Into<String>, wanted: impl fmt::Display, found: impl fmt::Display) -> Self {
        Error::Mismatch { what: what.into(), wanted: wanted.to_string(), found: found.to_string() }
    }

    /// A setting or an input cannot be used.
    pub fn invalid(what: impl Into<String>, why: impl Into<String>) -> Self {
        Error::Invalid { what: what.into(), why: why.into() }
    }

    /// Adds the name of the file in which the error happened. An error that already has one keeps it.
    pub fn in_file(self, path: impl AsRef<str>) -> Self {
        match self {
            Error::File { .. } => self,
            other => Error::File { path: printable(path.as_ref()), source: Box::new(other) },
        }
    }

    /// The name of the variant, for programs that tell errors apart across a boundary of languages.
    pub fn code(&self) -> &'static str {
        match self.inner() {
            #[cfg(feature = "std")]
            Error::Io { .. } => "io",
            Error::Corrupt { .. } => "corrupt",
            Error::Limit { .. } => "limit",
            Error::Memory { .. } => "memory",
            Error::Unsupported { .. } => "unsupported",
            Error::Mismatch { .. } => "mismatch",
            Error::Changed(_) => "changed",
            Error::Altered { .. } => "altered",
            Error::Invalid { .. } => "invalid",
            Error::File { source, .. } => source.code(),
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

/// `text` cut at 200 characters, with characters on which a terminal acts escaped, so that a message or a terminal can show it.
pub fn printable(text: &str) -> String {
    let cut = text.char_indices().nth(200).map(|(at, _)| text.split_at(at).0);
    let mut out = escaped(cut.unwrap_or(text), is_unseen);
    out.extend(cut.map(|_| '…'));
    out
}

/// `text` with the characters that `hidden` chooses escaped.
pub fn escaped(text: &str, hidden: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if hidden(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Whether a terminal acts on a character instead of showing it: controls, those of the direction of writing, and the mark
/// of byte order.
pub fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{61c}' | '\u{feff}')
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            #[cfg(feature = "std")]
            Error::Io { doing: "open", source } if source.kind() == NotFound => f.write_str("no such file"),
            #[cfg(feature = "std")]
            Error::Io { doing: "list", source } if source.kind() == NotFound => f.write_str("no such folder"),
            #[cfg(feature = "std")]
            Error::Io { doing, source } => write!(f, "cannot {doing}: {source}"),
            // Of what is wrong with no byte in particular the place is 0.
            Error::Corrupt { what, offset: 0 } => write!(f, "damaged file: {what}"),
            Error::Corrupt { what, offset } => write!(f, "damaged file: {what} (at byte {offset})"),
            Error::Limit { what, asked, allowed } => write!(f, "{what}: {asked}; at most {allowed} can be used"),
            Error::Memory { what, bytes } => write!(f, "not enough memory for {what}: {bytes} bytes are needed"),
            Error::Unsupported { what, name } => write!(f, "unsupported {what}: {name}"),
            Error::Mismatch { what, wanted, found } => write!(f, "{what}: expected {wanted}, found {found}"),
            Error::Changed(changes) => {
                let list: Vec<String> = changes.iter().map(Change::to_string).collect();
                write!(f, "this is not the run that was saved: {}", list.join("; "))
            }
            Error::Altered { how } => write!(
                f,
                "the file {how} while it was in use, so nothing more is made from it; put it back, leave it alone, and \
                 start again, from a checkpoint if there is one"
            ),
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
