//! A file in the pieces that codes hold.

use super::MOST;
use crate::bytes::{Cursor, Limits};
use crate::error::{Error, Result};
use std::prelude::v1::*;

const MAGIC: [u8; 4] = [0x8e, b'M', b'Q', b'R'];
const VERSION: u8 = 1;
const DIGEST: usize = 8;
const HEADER: usize = MAGIC.len() + 3 + DIGEST;

/// What the code of a file, or each code of its set, holds.
///
/// # Errors
/// `Invalid` for an empty file, `Limit` for one that takes too many codes.
pub(super) fn split(file: &[u8], limits: &Limits) -> Result<Vec<Vec<u8>>> {
    if file.is_empty() {
        return Err(Error::invalid("a file as a picture", "the file is empty"));
    }
    // What looks like a piece of a set travels as one.
    if file.len() <= MOST && !file.starts_with(&MAGIC) {
        return Ok(vec![file.to_vec()]);
    }
    let most = MOST.saturating_sub(HEADER);
    let needed = file.len().div_ceil(most);
    let allowed = limits.codes.min(u8::MAX.into());
    Limits::check("QR codes for the file", needed as u64, allowed)?;
    // All of one size, so that each is as easy to read as the others.
    let pieces = file.chunks(file.len().div_ceil(needed));
    let count =
        u8::try_from(pieces.len()).map_err(|_| Error::limit("QR codes for the file", needed as u64, allowed))?;
    let digest = digest(file);
    let payload = |(number, piece): (u8, &[u8])| {
        let head: [&[u8]; 4] = [&MAGIC, &[VERSION, number, count], &digest, piece];
        head.concat()
    };
    Ok((1..=count).zip(pieces).map(payload).collect())
}

fn digest(file: &[u8]) -> [u8; DIGEST] {
    let mut out = [0; DIGEST];
    out.iter_mut().zip(blake3::hash(file).as_bytes()).for_each(|(out, byte)| *out = *byte);
    out
}

/// A code's place in its set; a code that is the whole file is a set of one.
struct Piece<'a> {
    digest: [u8; DIGEST],
    number: u8,
    count: u8,
    bytes: &'a [u8],
}

impl Piece<'_> {
    fn read(payload: &[u8]) -> Result<Piece<'_>> {
        if !payload.starts_with(&MAGIC) {
            return Ok(Piece { digest: digest(payload), number: 1, count: 1, bytes: payload });
        }
        let mut cursor = Cursor::new(payload);
        cursor.take(MAGIC.len())?;
        let version = cursor.u8()?;
        if version != VERSION {
            return Err(Error::unsupported("version of a set of QR codes", version.to_string()));
        }
        let (number, count) = (cursor.u8()?, cursor.u8()?);
        if number == 0 || number > count {
            return Err(Error::corrupt(format!("QR code {number} of {count}"), MAGIC.len()));
        }
        let digest = cursor.array()?;
        Ok(Piece { digest, number, count, bytes: cursor.take(cursor.remaining())? })
    }
}

/// The codes of one file, put together in any order.
#[derive(Default)]
pub struct Parts {
    digest: [u8; DIGEST],
    pieces: Vec<Option<Vec<u8>>>,
}

/// A code that was added to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Added {
    /// Its number, from 1.
    pub number: usize,
    /// The number of codes of its set.
    pub count: usize,
    /// Whether it was there already.
    pub again: bool,
}

impl Parts {
    /// None yet.
    pub fn new() -> Parts {
        Parts::default()
    }

    /// Adds what a code holds. A code that is there already changes nothing.
    ///
    /// # Errors
    /// `Mismatch` for a code of another file, `Corrupt` for one that contradicts itself or the others, `Unsupported` for the
    /// set of a later version, `Limit` for a set of too many codes.
    pub fn add(&mut self, payload: &[u8], limits: &Limits) -> Result<Added> {
        let piece = Piece::read(payload)?;
        let (number, count) = (usize::from(piece.number), usize::from(piece.count));
        Limits::check("QR codes of the file", count as u64, limits.codes)?;
        if self.pieces.is_empty() {
            self.digest = piece.digest;
            self.pieces.resize(count, None);
        }
        if piece.digest != self.digest {
            let what = format!("QR code {number} of {count} is of another file");
            return Err(Error::mismatch(what, hex(&self.digest), hex(&piece.digest)));
        }
        if count != self.pieces.len() {
            let what = format!("QR code {number} is one of {count}, the ones before are of {}", self.pieces.len());
            return Err(Error::corrupt(what, 0));
        }
        let again = match self.pieces.get_mut(number.saturating_sub(1)) {
            Some(Some(there)) if there != piece.bytes => {
                return Err(Error::corrupt(format!("QR code {number} of {count} differs from the one before it"), 0));
            }
            Some(Some(_)) => true,
            Some(free) => {
                *free = Some(piece.bytes.to_vec());
                false
            }
            None => false,
        };
        Ok(Added { number, count, again })
    }

    /// The number of codes that the file takes, as far as codes have said; 0 before the first.
    pub fn count(&self) -> usize {
        self.pieces.len()
    }

    /// The numbers of the codes that are not there.
    pub fn missing(&self) -> Vec<usize> {
        (1..).zip(&self.pieces).filter(|(_, piece)| piece.is_none()).map(|(number, _)| number).collect()
    }

    /// The bytes of the file.
    ///
    /// # Errors
    /// `Mismatch` naming the codes that are missing; `Corrupt` if the file is not the one whose digest the codes hold.
    pub fn finish(self) -> Result<Vec<u8>> {
        let missing = self.missing();
        if self.pieces.is_empty() {
            return Err(Error::mismatch("QR codes of the file", "one or more", "none"));
        }
        if !missing.is_empty() {
            let list: Vec<String> = missing.iter().map(usize::to_string).collect();
            let (all, there) = (self.count(), self.count().saturating_sub(missing.len()));
            let found = format!("{there}; missing: {}", list.join(", "));
            return Err(Error::mismatch("QR codes of the file", all, found));
        }
        let file: Vec<u8> = self.pieces.into_iter().flatten().flatten().collect();
        if digest(&file) != self.digest {
            return Err(Error::corrupt("the QR codes are not those of one file: its digest differs", 0));
        }
        Ok(file)
    }
}

/// The beginning of a digest, for eyes.
fn hex(digest: &[u8; DIGEST]) -> String {
    digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}
