//! Metadata values.

use crate::bytes::{Bytes, Cursor, Limits};
use crate::error::{Error, Result, printable};
use std::prelude::v1::*;

/// The type of a value or of an array's elements. The discriminant is its number in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names say it all
pub enum Kind {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

/// Kind, name, and the minimum size of an element in bytes.
const KINDS: &[(Kind, &str, usize)] = &[
    (Kind::U8, "u8", 1),
    (Kind::I8, "i8", 1),
    (Kind::U16, "u16", 2),
    (Kind::I16, "i16", 2),
    (Kind::U32, "u32", 4),
    (Kind::I32, "i32", 4),
    (Kind::F32, "f32", 4),
    (Kind::Bool, "bool", 1),
    (Kind::String, "string", 8),
    (Kind::Array, "array", 12),
    (Kind::U64, "u64", 8),
    (Kind::I64, "i64", 8),
    (Kind::F64, "f64", 8),
];

impl Kind {
    fn row(self) -> (&'static str, usize) {
        KINDS.iter().find(|row| row.0 == self).map_or(("", 1), |row| (row.1, row.2))
    }

    /// For example `u32`.
    pub fn name(self) -> &'static str {
        self.row().0
    }

    fn is_integer(self) -> bool {
        !matches!(self, Kind::F32 | Kind::F64 | Kind::Bool | Kind::String | Kind::Array)
    }

    pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Kind> {
        let offset = cursor.offset();
        let id = cursor.u32()?;
        let row = KINDS.iter().find(|row| row.0 as u32 == id);
        row.map(|row| row.0).ok_or_else(|| Error::corrupt(format!("value type {id}, the last is 12"), offset))
    }
}

/// The value of a metadata key.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // as in `Kind`
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl Value {
    /// The type of the value.
    pub fn kind(&self) -> Kind {
        match self {
            Value::U8(_) => Kind::U8,
            Value::I8(_) => Kind::I8,
            Value::U16(_) => Kind::U16,
            Value::I16(_) => Kind::I16,
            Value::U32(_) => Kind::U32,
            Value::I32(_) => Kind::I32,
            Value::F32(_) => Kind::F32,
            Value::Bool(_) => Kind::Bool,
            Value::String(_) => Kind::String,
            Value::Array(_) => Kind::Array,
            Value::U64(_) => Kind::U64,
            Value::I64(_) => Kind::I64,
            Value::F64(_) => Kind::F64,
        }
    }

    /// The value as a whole number, if it is an integer of any width and sign.
    pub fn integer(&self) -> Option<i128> {
        Some(match *self {
            Value::U8(v) => v.into(),
            Value::I8(v) => v.into(),
            Value::U16(v) => v.into(),
            Value::I16(v) => v.into(),
            Value::U32(v) => v.into(),
            Value::I32(v) => v.into(),
            Value::U64(v) => v.into(),
            Value::I64(v) => v.into(),
            _ => return None,
        })
    }

    /// As [`Self::integer`]; a bool is 0 or 1.
    pub(super) fn whole(&self) -> Option<i128> {
        match self {
            Value::Bool(v) => Some(i128::from(*v)),
            other => other.integer(),
        }
    }

    /// A finite number stored as `f32` or `f64`.
    pub(super) fn finite(&self) -> Option<f32> {
        match self {
            Value::F32(x) => Some(*x),
            Value::F64(x) => Some(*x as f32),
            _ => None,
        }
        .filter(|x| x.is_finite())
    }

    /// Reads a value of type `kind`. `file` holds the bytes that `cursor` reads: arrays become slices of it.
    pub(super) fn read(kind: Kind, cursor: &mut Cursor<'_>, file: &Bytes, limits: &Limits) -> Result<Value> {
        Ok(match kind {
            Kind::String => Value::String(read_string(cursor, limits.string)?.into()),
            Kind::Array => Value::Array(Array::read(cursor, file, limits)?),
            _ => read_scalar(kind, cursor)?,
        })
    }

    /// Appends the value without its type.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Value::U8(v) => out.extend(v.to_le_bytes()),
            Value::I8(v) => out.extend(v.to_le_bytes()),
            Value::U16(v) => out.extend(v.to_le_bytes()),
            Value::I16(v) => out.extend(v.to_le_bytes()),
            Value::U32(v) => out.extend(v.to_le_bytes()),
            Value::I32(v) => out.extend(v.to_le_bytes()),
            Value::F32(v) => out.extend(v.to_le_bytes()),
            Value::Bool(v) => out.push(u8::from(*v)),
            Value::String(v) => write_string(v, out),
            Value::Array(v) => {
                out.extend((v.kind as u32).to_le_bytes());
                out.extend((v.len as u64).to_le_bytes());
                out.extend_from_slice(&v.data);
            }
            Value::U64(v) => out.extend(v.to_le_bytes()),
            Value::I64(v) => out.extend(v.to_le_bytes()),
            Value::F64(v) => out.extend(v.to_le_bytes()),
        }
    }
}

/// One line, cut at 200 characters, without control characters.
impl core::fmt::Display for Value {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            // `Debug` writes very small and very large numbers with an exponent, `Display` with hundreds of zeros.
            Value::F32(v) => write!(f, "{v:?}"),
            Value::F64(v) => write!(f, "{v:?}"),
            Value::Bool(v) => write!(f, "{v}"),
            Value::String(v) => write!(f, "{}", printable(v)),
            Value::Array(v) => write!(f, "[{} × {}]", v.len, v.kind.name()),
            other => write!(f, "{}", other.integer().unwrap_or_default()),
        }
    }
}

/// Reads a number or a bool.
fn read_scalar(kind: Kind, cursor: &mut Cursor<'_>) -> Result<Value> {
    let offset = cursor.offset();
    Ok(match kind {
        Kind::U8 => Value::U8(cursor.u8()?),
        Kind::I8 => Value::I8(cursor.i8()?),
        Kind::U16 => Value::U16(cursor.u16()?),
        Kind::I16 => Value::I16(cursor.i16()?),
        Kind::U32 => Value::U32(cursor.u32()?),
        Kind::I32 => Value::I32(cursor.i32()?),
        Kind::F32 => Value::F32(cursor.f32()?),
        Kind::U64 => Value::U64(cursor.u64()?),
        Kind::I64 => Value::I64(cursor.i64()?),
        Kind::F64 => Value::F64(cursor.f64()?),
        Kind::Bool => match cursor.u8()? {
            0 => Value::Bool(false),
            1 => Value::Bool(true),
            other => return Err(Error::corrupt(format!("bool of value {other}"), offset)),
        },
        Kind::String | Kind::Array => return Err(Error::corrupt(format!("{} as a number", kind.name()), offset)),
    })
}

/// A length of eight bytes, then UTF-8 of this length.
pub(super) fn read_string<'a>(cursor: &mut Cursor<'a>, limit: u64) -> Result<&'a str> {
    let offset = cursor.offset();
    let len = cursor.count("string", 1)?;
    Limits::check("bytes of a string", len as u64, limit)?;
    let bytes = cursor.take(len)?;
    core::str::from_utf8(bytes).map_err(|e| Error::corrupt(format!("string is not UTF-8: {e}"), offset))
}

pub(super) fn write_string(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// An array in a file. It was checked once and is not copied; the iterators decode its elements.
#[derive(Clone, Debug)]
pub struct Array {
    kind: Kind,
    len: usize,
    data: Bytes,
}

impl Array {
    /// The type of the elements.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements as the file stores them.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    fn read(cursor: &mut Cursor<'_>, file: &Bytes, limits: &Limits) -> Result<Array> {
        let offset = cursor.offset();
        let kind = Kind::read(cursor)?;
        if kind == Kind::Array {
            return Err(Error::corrupt("array of arrays", offset));
        }
        let each = kind.row().1;
        let len = cursor.count(&format!("array of {}", kind.name()), each)?;
        Limits::check("elements of an array", len as u64, limits.array)?;
        let start = cursor.offset();
        match kind {
            Kind::String => {
                for i in 0..len {
                    read_string(cursor, limits.string).map_err(|e| inside(e, format_args!("element {i}")))?;
                }
                let total = cursor.offset().saturating_sub(start);
                Limits::check("bytes of an array of strings", total as u64, limits.strings)?;
            }
            Kind::Bool => {
                for _ in 0..len {
                    read_scalar(kind, cursor)?;
                }
            }
            _ => {
                // `count` has checked that so many bytes follow.
                cursor.take(len.saturating_mul(each))?;
            }
        }
        Ok(Array { kind, len, data: file.slice(start..cursor.offset())? })
    }

    /// The elements of an array of strings.
    ///
    /// # Errors
    /// `Mismatch` if they have another type. The other iterators have this error too.
    pub fn strings(&self) -> Result<Strings<'_>> {
        if self.kind != Kind::String {
            return Err(self.not("string"));
        }
        Ok(Strings { pieces: Pieces { rest: &self.data, left: self.len } })
    }

    /// The bytes of the elements of an array of strings, which were checked to be UTF-8 when the file was parsed.
    pub fn pieces(&self) -> Result<Pieces<'_>> {
        Ok(self.strings()?.pieces)
    }

    /// The elements of an array of `f32`.
    pub fn f32s(&self) -> Result<impl ExactSizeIterator<Item = f32> + '_> {
        if self.kind != Kind::F32 {
            return Err(self.not("f32"));
        }
        Ok(self.data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)))
    }

    /// The elements of an array of integers of any width that all fit.
    pub fn i32s(&self) -> Result<impl Iterator<Item = i32> + '_> {
        self.integers("i32")
    }

    /// The elements of an array of integers of any width that all fit.
    pub fn u32s(&self) -> Result<impl Iterator<Item = u32> + '_> {
        self.integers("u32")
    }

    /// The elements of an array of bools.
    pub fn bools(&self) -> Result<impl ExactSizeIterator<Item = bool> + '_> {
        if self.kind != Kind::Bool {
            return Err(self.not("bool"));
        }
        Ok(self.data.iter().map(|&b| b == 1))
    }

    /// The elements one by one, of any type; strings are copied.
    pub fn values(&self) -> impl Iterator<Item = Value> + '_ {
        let mut cursor = Cursor::new(&self.data);
        (0..self.len).map_while(move |_| match self.kind {
            Kind::String => read_string(&mut cursor, u64::MAX).ok().map(|s| Value::String(s.into())),
            kind => read_scalar(kind, &mut cursor).ok(),
        })
    }

    fn integers<T: TryFrom<i128>>(&self, wanted: &str) -> Result<impl Iterator<Item = T> + '_> {
        if !self.kind.is_integer() {
            return Err(self.not(wanted));
        }
        let all = || self.values().filter_map(|v| v.integer());
        if let Some(bad) = all().find(|&v| T::try_from(v).is_err()) {
            return Err(Error::mismatch("element of an array", wanted, bad));
        }
        Ok(all().filter_map(|v| T::try_from(v).ok()))
    }

    fn not(&self, wanted: &str) -> Error {
        Error::mismatch("type of an array's elements", wanted, self.kind.name())
    }
}

/// The elements of an array of strings, as bytes.
#[derive(Clone, Debug)]
pub struct Pieces<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        // This was checked when the file was parsed. A mapped file that has changed since gives empty strings.
        let split = self.rest.split_first_chunk().and_then(|(len, rest)| {
            let len = usize::try_from(u64::from_le_bytes(*len)).ok()?;
            rest.split_at_checked(len)
        });
        let (piece, rest) = split.unwrap_or_default();
        self.rest = rest;
        Some(piece)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Pieces<'_> {}

/// The elements of an array of strings.
#[derive(Clone, Debug)]
pub struct Strings<'a> {
    pieces: Pieces<'a>,
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.pieces.next().map(|piece| core::str::from_utf8(piece).unwrap_or_default())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.pieces.size_hint()
    }
}

impl ExactSizeIterator for Strings<'_> {}

/// Puts the name of what was read in front of an error's message.
pub(super) fn inside(error: Error, name: impl core::fmt::Display) -> Error {
    match error {
        Error::Corrupt { what, offset } => Error::Corrupt { what: format!("{name}: {what}"), offset },
        Error::Limit { what, asked, allowed } => Error::Limit { what: format!("{name}: {what}"), asked, allowed },
        Error::Mismatch { what, wanted, found } => Error::Mismatch { what: format!("{name}: {what}"), wanted, found },
        other => other,
    }
}

macro_rules! scalars {
    ($($type:ty => $kind:ident),*) => { $(
        impl From<$type> for Value {
            fn from(v: $type) -> Self {
                Value::$kind(v)
            }
        }

        impl From<&[$type]> for Value {
            fn from(v: &[$type]) -> Self {
                let data: Vec<u8> = v.iter().flat_map(|x| x.to_le_bytes()).collect();
                Value::Array(Array { kind: Kind::$kind, len: v.len(), data: data.into() })
            }
        }
    )* };
}

scalars!(u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, f32 => F32, u64 => U64, i64 => I64, f64 => F64);

impl From<bool> for Value {
    fn from(v: bool) -> Self {
        Value::Bool(v)
    }
}

impl From<&[bool]> for Value {
    fn from(v: &[bool]) -> Self {
        let data: Vec<u8> = v.iter().map(|&x| u8::from(x)).collect();
        Value::Array(Array { kind: Kind::Bool, len: v.len(), data: data.into() })
    }
}

impl From<&str> for Value {
    fn from(v: &str) -> Self {
        Value::String(v.into())
    }
}

impl From<String> for Value {
    fn from(v: String) -> Self {
        Value::String(v)
    }
}

impl From<&[&str]> for Value {
    fn from(v: &[&str]) -> Self {
        let mut data = Vec::new();
        v.iter().for_each(|s| write_string(s, &mut data));
        Value::Array(Array { kind: Kind::String, len: v.len(), data: data.into() })
    }
}

impl From<&[String]> for Value {
    fn from(v: &[String]) -> Self {
        let parts: Vec<&str> = v.iter().map(|s| s.as_str()).collect();
        parts.as_slice().into()
    }
}
