//! The state of optimisers and objectives between steps, as named pieces. Checkpoints save them, and a run that
//! restores every bit of them continues as if it had never stopped.

use crate::error::{Error, Result, printable};
use std::prelude::v1::*;

/// One piece of state, to be read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum State<'a> {
    /// Floats.
    F32(&'a [f32]),
    /// Bytes.
    U8(&'a [u8]),
    /// A counter.
    U64(u64),
    /// A number in double precision.
    F64(f64),
}

impl State<'_> {
    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            State::F32(v) => v.len() * 4,
            State::U8(v) => v.len(),
            State::U64(_) | State::F64(_) => 8,
        }
    }

    fn shape(&self) -> (&'static str, usize) {
        match self {
            State::F32(v) => ("floats", v.len()),
            State::U8(v) => ("bytes", v.len()),
            State::U64(_) => ("counter", 1),
            State::F64(_) => ("number", 1),
        }
    }
}

/// One piece of state, to be written.
#[derive(Debug, PartialEq)]
pub enum StateMut<'a> {
    /// Floats.
    F32(&'a mut [f32]),
    /// Bytes.
    U8(&'a mut [u8]),
    /// A counter.
    U64(&'a mut u64),
    /// A number in double precision.
    F64(&'a mut f64),
}

impl StateMut<'_> {
    fn shape(&self) -> (&'static str, usize) {
        match self {
            StateMut::F32(v) => ("floats", v.len()),
            StateMut::U8(v) => ("bytes", v.len()),
            StateMut::U64(_) => ("counter", 1),
            StateMut::F64(_) => ("number", 1),
        }
    }
}

/// Copies `saved` to `pieces`, all or nothing: names, order, kinds and lengths must agree.
///
/// # Errors
/// `Mismatch` naming the first piece that differs.
pub fn restore(pieces: Vec<(&'static str, StateMut)>, saved: &[(&str, State)]) -> Result<()> {
    let describe = |name: &str, (kind, n): (&str, usize)| format!("{} of {n} {kind}", printable(name));
    let wanted: Vec<String> = pieces.iter().map(|(name, p)| describe(name, p.shape())).collect();
    let found: Vec<String> = saved.iter().map(|(name, s)| describe(name, s.shape())).collect();
    for i in 0..wanted.len().max(found.len()) {
        let at = |list: &[String]| list.get(i).cloned().unwrap_or("nothing".into());
        if at(&wanted) != at(&found) {
            return Err(Error::mismatch("saved state", at(&wanted), at(&found)));
        }
    }
    for ((_, piece), (_, saved)) in pieces.into_iter().zip(saved) {
        match (piece, saved) {
            (StateMut::F32(to), State::F32(from)) => to.copy_from_slice(from),
            (StateMut::U8(to), State::U8(from)) => to.copy_from_slice(from),
            (StateMut::U64(to), State::U64(from)) => *to = *from,
            (StateMut::F64(to), State::F64(from)) => *to = *from,
            _ => unreachable!("kinds were compared"),
        }
    }
    Ok(())
}
