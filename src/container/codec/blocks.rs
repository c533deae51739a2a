//! Blocks of 32 values with one scale. The last block of a part may be shorter; parts do not share blocks.

use super::{Params, settled, take};
use crate::error::{Error, Result};
use half::f16;
use std::prelude::v1::*;

const BLOCK: usize = 32;

/// Bytes of parts whose values take `each` half bytes.
fn bytes(params: &Params, each: usize) -> usize {
    let part = |n: usize| n.div_ceil(BLOCK).saturating_mul(2).saturating_add(halves(n, each));
    params.parts.iter().fold(0, |sum, p| sum.saturating_add(part(p.len)))
}

/// Bytes of the values of blocks without their scales: only the last block can have an odd number of halves.
fn halves(n: usize, each: usize) -> usize {
    n.saturating_mul(each).div_ceil(2)
}

pub fn bytes8(params: &Params) -> usize {
    bytes(params, 2)
}

pub fn bytes4(params: &Params) -> usize {
    bytes(params, 1)
}

/// Calls `f` for the blocks of all parts.
fn blocks<'v>(values: &'v [f32], params: &Params, mut f: impl FnMut(&'v [f32])) {
    let mut rest = values;
    for part in params.parts {
        let Some((own, more)) = rest.split_at_checked(part.len) else { return };
        own.chunks(BLOCK).for_each(&mut f);
        rest = more;
    }
}

/// The scale of a block and its inverse. One that f16 rounds to zero makes a block of zeros.
fn scale(d: f32) -> (f16, f32) {
    let d = f16::from_f32(d);
    (d, if d.to_f32() == 0.0 { 0.0 } else { 1.0 / d.to_f32() })
}

/// The bytes of a block of i8: `d = max |x| / 127`.
fn block8(x: &[f32], out: &mut Vec<u8>) {
    let most = x.iter().fold(0f32, |m, v| m.max(v.abs()));
    let (d, inverse) = scale(most / 127.0);
    out.extend(d.to_le_bytes());
    out.extend(x.iter().map(|v| libm::roundf(v * inverse).clamp(-127.0, 127.0) as i8 as u8));
}

/// The bytes of a block of half bytes: `d` is the value of largest size over −8, as in ggml's Q4_0.
fn block4(x: &[f32], out: &mut Vec<u8>) {
    let most = x.iter().fold(0f32, |m, v| if v.abs() > m.abs() { *v } else { m });
    let (d, inverse) = scale(most / -8.0);
    out.extend(d.to_le_bytes());
    let half = |v: &f32| libm::floorf(v * inverse + 8.5).clamp(0.0, 15.0) as u8;
    let pair = |p: &[f32]| p.iter().rev().fold(0, |byte, v| byte << 4 | half(v));
    out.extend(x.chunks(2).map(pair));
}

fn values8(d: f32, q: &[u8], n: usize, out: &mut Vec<f32>) {
    out.extend(q.iter().take(n).map(|q| d * f32::from(*q as i8)));
}

fn values4(d: f32, q: &[u8], n: usize, out: &mut Vec<f32>) {
    let both = q.iter().flat_map(|q| [q & 15, q >> 4]);
    out.extend(both.take(n).map(|q| d * (f32::from(q) - 8.0)));
}

/// The blocks of all parts.
fn write(values: &[f32], params: &Params, room: usize, block: fn(&[f32], &mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::with_capacity(room);
    blocks(values, params, |x| block(x, &mut out));
    out
}

fn read(bytes: &[u8], params: &Params, each: usize, values: fn(f32, &[u8], usize, &mut Vec<f32>)) -> Result<Vec<f32>> {
    let mut rest = bytes;
    let mut out = Vec::new();
    if out.try_reserve_exact(params.len()).is_err() {
        return Err(Error::memory("parameters", (params.len() as u64).saturating_mul(4)));
    }
    for part in params.parts {
        let mut left = part.len;
        while left > 0 {
            let n = left.min(BLOCK);
            let d = f16::from_le_bytes(take(&mut rest)?).to_f32();
            let Some((q, after)) = rest.split_at_checked(halves(n, each)) else {
                return Err(Error::corrupt("the parameters end early", 0));
            };
            values(d, q, n, &mut out);
            (rest, left) = (after, left.saturating_sub(n));
        }
    }
    match rest.len() {
        0 => Ok(out),
        more => Err(Error::corrupt(format!("{more} bytes behind the parameters"), bytes.len().saturating_sub(more))),
    }
}

pub fn write8(values: &[f32], params: &Params) -> Result<Vec<u8>> {
    settled(values, |x| write(x, params, bytes8(params), block8), |bytes| read8(bytes, params))
}

pub fn write4(values: &[f32], params: &Params) -> Result<Vec<u8>> {
    settled(values, |x| write(x, params, bytes4(params), block4), |bytes| read4(bytes, params))
}

pub fn read8(bytes: &[u8], params: &Params) -> Result<Vec<f32>> {
    read(bytes, params, 2, values8)
}

pub fn read4(bytes: &[u8], params: &Params) -> Result<Vec<f32>> {
    read(bytes, params, 1, values4)
}
