//! Every kernel in plain Rust. The bodies are always inlined, because `backend.rs` compiles them for each instruction
//! set.

use super::{CODES, Int16Layout, Kernels, QActs, QRow, Scratch, Stored, Tile, View};
use crate::math::{self, fma};
use crate::quant::{self, Codes, Floats16, Matrix};
use core::ops::Range;
use core::sync::atomic::{AtomicU8, Ordering};

/// Lanes of a dot product.
pub const LANES: usize = 16;

pub(super) const PLAIN: Kernels = Kernels {
    name: "plain",
    dots,
    float16_dots,
    float16_rows: 8,
    wide: false,
    round_int16,
    int16_dots,
    sums,
    outer,
    row_dots,
    row_sums,
    decode,
    quantize,
    round_columns,
    int_dots,
    exp,
    softmax,
    silu_mul,
    silu_mul_backward,
    widen,
    narrow,
    code,
    decode_codes,
};

#[inline(always)]
fn lane_sum(mut a: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            a[l] += a[l + half];
        }
        half /= 2;
    }
    a[0]
}

#[inline(always)]
fn dot(x: &[f32], w: &[f32]) -> f32 {
    let mut acc = [0.0; LANES];
    let ((xs, x), (ws, w)) = (x.as_chunks::<LANES>(), w.as_chunks::<LANES>());
    for (x, w) in xs.iter().zip(ws) {
        for l in 0..LANES {
            acc[l] = fma(x[l], w[l], acc[l]);
        }
    }
    for (l, (&x, &w)) in x.iter().zip(w).enumerate() {
        acc[l] = fma(x, w, acc[l]);
    }
    lane_sum(acc)
}

#[inline(always)]
pub(super) fn dots(x: View, w: View, y: &mut Tile) {
    for i in 0..x.n {
        let out = y.row(i);
        for j in 0..w.n {
            out[j] = dot(x.row(i), w.row(j));
        }
    }
}

#[inline(always)]
pub(super) fn float16_dots(x: View, w: Floats16, y: &mut Tile) {
    let (w, value) = bits_and_decoder(w);
    dots_with(x, w, value, y);
}

#[inline(always)]
fn dots_with(x: View, w: &[u16], value: fn(u16) -> f32, y: &mut Tile) {
    for i in 0..x.n {
        let (x, out) = (x.row(i), y.row(i));
        for (out, w) in out.iter_mut().zip(w.chunks_exact(x.len())) {
            let mut acc = [0.0; LANES];
            for (k, (&x, &w)) in x.iter().zip(w).enumerate() {
                acc[k % LANES] = fma(x, value(w), acc[k % LANES]);
            }
            *out = lane_sum(acc);
        }
    }
}

/// The unit of the codes of a row of weights, from its number in `tops`: the exponent of its largest magnitude, as in
/// the bits of an f32. Rows whose unit would be subnormal are 0, and those with a weight of 2¹¹⁸ or more are treated as
/// not finite. A weight plus `MAGIC` units has its code in the lowest bits.
#[inline(always)]
pub(super) fn int16_unit(top: u8) -> f32 {
    match top as u32 {
        0..=13 => 0.0,
        245.. => f32::NAN,
        e => f32::from_bits((e - 13) << 23),
    }
}

/// Computes those of `tops` that are 0.
#[inline(always)]
pub(super) fn int16_tops(w: Floats16, c: usize, tops: &[AtomicU8]) {
    let (w, value) = bits_and_decoder(w);
    for (w, top) in w.chunks_exact(c).zip(tops) {
        if top.load(Ordering::Relaxed) == 0 {
            let most = w.iter().fold(0, |most, w| most.max(w & 0x7fff));
            top.store(((value(most).to_bits() >> 23) as u8).max(1), Ordering::Relaxed);
        }
    }
}

/// The bits, and the function that decodes them.
#[inline(always)]
fn bits_and_decoder(w: Floats16<'_>) -> (&[u16], fn(u16) -> f32) {
    match w {
        Floats16::F16(w) => (w, quant::f16_to_f32),
        Floats16::Bf16(w) => (w, quant::bf16_to_f32),
    }
}

#[inline(always)]
pub(super) fn round_int16(x: &[f32], out: &mut [f32]) {
    let shape = Int16Layout::of(x.len());
    let (scales, codes) = out.split_at_mut(16 * shape.pieces);
    let codes = bytemuck::cast_slice_mut::<f32, i16>(codes).as_chunks_mut::<32>().0;
    let level = shape.level();
    let (xs, rest) = x.as_chunks::<32>();
    let mut last = [0.0; 32];
    last[..rest.len()].copy_from_slice(rest);
    for (piece, scales) in scales.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let units = shape.units(piece);
        let mut most = [0; LANES];
        for unit in units.clone() {
            let (low, high) = xs.get(unit).unwrap_or(&last).split_at(LANES);
            for l in 0..LANES {
                most[l] = most[l].max(low[l].abs().to_bits()).max(high[l].abs().to_bits());
            }
        }
        let mut inverse = [0.0; LANES];
        for l in 0..LANES {
            let most = f32::from_bits(most[l]);
            (scales[l], inverse[l]) = match has_scale(most) {
                true => (most / level, level / most),
                false => (if most < 1.0 { 0.0 } else { most }, 0.0),
            };
        }
        for unit in units {
            let (low, high) = xs.get(unit).unwrap_or(&last).split_at(LANES);
            for l in 0..LANES {
                // An infinity times 0 is NaN.
                let code = |x: f32| {
                    let code = (x * inverse[l] + MAGIC).to_bits();
                    if inverse[l] == 0.0 { 0 } else { code as i16 }
                };
                (codes[unit][2 * l], codes[unit][2 * l + 1]) = (code(low[l]), code(high[l]));
            }
        }
    }
}

#[inline(always)]
pub(super) fn int16_dots(x: View, w: Floats16, c: usize, tops: &[AtomicU8], y: &mut Tile, scratch: &mut Scratch) {
    int16_tops(w, c, tops);
    let (w, value) = bits_and_decoder(w);
    let shape = Int16Layout::of(c);
    let codes = bytemuck::cast_slice_mut::<f32, i16>(scratch.floats(16 * shape.count)).as_chunks_mut::<32>().0;
    for (j, (w, top)) in w.chunks_exact(c).zip(tops).enumerate() {
        let unit = int16_unit(top.load(Ordering::Relaxed));
        codes.fill([0; 32]);
        for (k, &w) in w.iter().enumerate() {
            codes[k / 32][2 * (k % LANES) + k % 32 / LANES] = (value(w) + MAGIC * unit).to_bits() as i16;
        }
        for i in 0..x.n {
            let (scales, x) = x.row(i).split_at(16 * shape.pieces);
            let x = bytemuck::cast_slice::<f32, i16>(x).as_chunks::<32>().0;
            let mut acc = [0.0; LANES];
            for (piece, d) in scales.as_chunks::<LANES>().0.iter().enumerate() {
                let mut ints = [0i32; LANES];
                let units = shape.units(piece);
                for (x, w) in x[units.clone()].iter().zip(&codes[units]) {
                    for l in 0..LANES {
                        let [a, b] = [2 * l, 2 * l + 1].map(|k| x[k] as i32 * w[k] as i32);
                        ints[l] = ints[l].wrapping_add(a.wrapping_add(b));
                    }
                }
                for l in 0..LANES {
                    acc[l] = fma(d[l], ints[l] as f32, acc[l]);
                }
            }
            y.row(i)[j] = lane_sum(acc) * unit;
        }
    }
}

/// `y += a · x`.
#[inline(always)]
fn add_scaled(a: f32, x: &[f32], y: &mut [f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = fma(a, x, *y);
    }
}

#[inline(always)]
pub(super) fn sums(a: View, w: View, y: &mut Tile) {
    for i in 0..a.n {
        let out = y.row(i);
        for (k, &a) in a.row(i).iter().enumerate() {
            add_scaled(a, w.row(k), out);
        }
    }
}

#[inline(always)]
pub(super) fn outer(a: View, b: View, y: &mut Tile) {
    for f in 0..a.c {
        let out = y.row(f);
        for t in 0..a.n {
            add_scaled(a.row(t)[f], b.row(t), out);
        }
    }
}

/// Value `k` of row `j`.
#[inline(always)]
fn stored(w: Stored, c: usize, j: usize, k: usize) -> f32 {
    match w {
        Stored::F16(data) => quant::f16_to_f32(data[j * c + k]),
        Stored::Q8 { codes, scales } => {
            quant::f16_to_f32(scales[j * c.div_ceil(CODES) + k / CODES]) * codes[j * c + k] as f32
        }
    }
}

#[inline(always)]
pub(super) fn row_dots(x: View, w: Stored, y: &mut Tile) {
    for i in 0..x.n {
        let (x, out) = (x.row(i), y.row(i));
        for (j, out) in out.iter_mut().enumerate() {
            let mut acc = [0.0; LANES];
            for (k, &v) in x.iter().enumerate() {
                acc[k % LANES] = fma(v, stored(w, x.len(), j, k), acc[k % LANES]);
            }
            *out = lane_sum(acc);
        }
    }
}

#[inline(always)]
pub(super) fn row_sums(a: View, w: Stored, y: &mut Tile) {
    for i in 0..a.n {
        let out = y.row(i);
        let c = out.len();
        for (k, &a) in a.row(i).iter().enumerate() {
            for (l, out) in out.iter_mut().enumerate() {
                *out = fma(a, stored(w, c, k, l), *out);
            }
        }
    }
}

#[inline(always)]
pub(super) fn decode(w: &Matrix, rows: Range<usize>, cols: Range<usize>, out: &mut [f32]) {
    let (block, bytes) = (w.format.block, w.format.bytes);
    assert!(cols.start.is_multiple_of(block) && cols.end.is_multiple_of(block), "columns on block edges");
    let part = cols.start / block * bytes..cols.end / block * bytes;
    for (row, out) in rows.zip(out.chunks_exact_mut(cols.len().max(1))) {
        quant::decode_inline(w.format.id, &w.rows_bytes(row..row + 1)[part.clone()], out);
    }
}

/// The scale of a block of activations is its largest magnitude divided by one of these levels: by the first one with
/// the smallest error. No level gives a code above 127.
pub const LEVELS: [f32; 8] = [127.4, 126.0, 124.6, 123.2, 121.8, 120.4, 119.0, 117.6];

#[inline(always)]
pub(super) fn quantize(x: &[f32], mut out: QRow) {
    assert!(x.len() == out.q.len() && x.len().is_multiple_of(32), "columns in blocks of 32");
    if out.wide() {
        return quantize_wide(x, out);
    }
    for (b, block) in x.as_chunks::<LANES>().0.iter().enumerate() {
        quantize_block(block, b, &mut out);
    }
}

/// Block `b`.
#[inline(always)]
pub(super) fn quantize_block(x: &[f32; LANES], b: usize, out: &mut QRow) {
    let q = &mut out.q.as_chunks_mut::<LANES>().0[b];
    let d = round_block(x, q);
    let s = q.iter().map(|&q| q as i32).sum();
    store_scale(d, s, b, out);
}

/// Scale and sum of a block; blocks are written in order.
#[inline(always)]
pub(super) fn store_scale(d: f32, s: i32, b: usize, out: &mut QRow) {
    (out.d[b], out.s[b]) = (d, s);
    let low = &mut out.low[b / 2];
    *low = fma(d, s as f32, if b.is_multiple_of(2) { 0.0 } else { *low });
}

/// The scale of wide codes is the largest magnitude of a block divided by this level. 17 times such a code fits 16
/// bits, which products with two nibbles in a byte need.
pub const WIDE_LEVEL: f32 = 1927.0;

/// Rounds a row to wide codes.
#[inline(always)]
pub(super) fn quantize_wide(x: &[f32], out: QRow) {
    let QRow { q, low_q, d, s, low } = out;
    let codes = q.as_chunks_mut::<32>().0.iter_mut().zip(low_q.as_chunks_mut::<32>().0);
    let sums = d.as_chunks_mut::<2>().0.iter_mut().zip(s.as_chunks_mut::<2>().0).zip(low);
    for ((x, (high, low)), ((d, s), sum)) in x.as_chunks::<32>().0.iter().zip(codes).zip(sums) {
        let most = largest(x);
        if !has_scale(most) {
            (*high, *low, *d, *s) = ([0; 32], [0; 32], [if most < 1.0 { 0.0 } else { most }; 2], [0; 2]);
            *sum = d[0] * 0.0;
            continue;
        }
        let (scale, inverse) = (most / WIDE_LEVEL, WIDE_LEVEL / most);
        let mut codes = [0; 32];
        for (code, x) in codes.iter_mut().zip(x) {
            // The low bits of a float near 1.5·2²³ are those of the integer.
            *code = (x * inverse + MAGIC).to_bits().wrapping_sub(MAGIC.to_bits()) as i32;
        }
        for k in 0..32 {
            high[k] = ((codes[k] + 8) >> 4) as i8;
            low[k] = (codes[k] - ((codes[k] + 8) & !15)) as i8;
        }
        *s = [codes[..16].iter().sum(), codes[16..].iter().sum()];
        (*d, *sum) = ([scale; 2], scale * (s[0] + s[1]) as f32);
    }
}

/// The largest magnitude. Magnitudes compare like their bits, and a NaN is the largest: it becomes the scale and so
/// reaches the output.
#[inline(always)]
pub(super) fn largest<const N: usize>(x: &[f32; N]) -> f32 {
    f32::from_bits(x.iter().fold(0, |most, v| most.max(v.abs().to_bits())))
}

/// Whether a scale for values up to `most`, its sixteenth and its inverse are normal numbers.
#[inline(always)]
pub(super) fn has_scale(most: f32) -> bool {
    (131_072.0 * f32::MIN_POSITIVE..f32::INFINITY).contains(&most)
}

/// The codes of a block and its scale, for the best level.
#[inline(always)]
fn round_block(x: &[f32; LANES], q: &mut [i8; LANES]) -> f32 {
    let most = largest(x);
    if !has_scale(most) {
        *q = [0; LANES];
        return if most < 1.0 { 0.0 } else { most };
    }
    // One lane per level, so that no lanes are summed.
    let inverse = LEVELS.map(|level| level / most);
    let mut errors = [0.0; LEVELS.len()];
    for &v in x {
        for k in 0..LEVELS.len() {
            let off = v * inverse[k] - rounded(v * inverse[k]);
            errors[k] += off * off;
        }
    }
    let (mut level, mut least) = (LEVELS[0], f32::INFINITY);
    for k in 0..LEVELS.len() {
        // The error is in units of a code, so it is multiplied by the square of the scale.
        let error = errors[k] / (LEVELS[k] * LEVELS[k]);
        (level, least) = if error < least { (LEVELS[k], error) } else { (level, least) };
    }
    let inverse = level / most;
    for l in 0..LANES {
        q[l] = rounded(x[l] * inverse) as i8;
    }
    most / level
}

/// 1.5·2²³.
pub(super) const MAGIC: f32 = 12_582_912.0;

/// The nearest integer, ties to even, of a number below 2²²: adding 1.5·2²³ rounds the fraction away.
#[inline(always)]
fn rounded(x: f32) -> f32 {
    (x + MAGIC) - MAGIC
}

/// Rows of a block of [`round_columns`].
const DEEP: usize = 32;

#[inline(always)]
pub(super) fn round_columns(x: View, out: &mut [u8]) {
    assert!(x.n == DEEP && x.c.is_multiple_of(LANES) && out.len() == 34 * x.c, "columns of 32 rows");
    for (first, out) in (0..x.c).step_by(LANES).zip(out.chunks_exact_mut(34 * LANES)) {
        let row = |i: usize| x.row(i)[first..].first_chunk::<LANES>().expect("whole lanes");
        let mut most = [0.0; LANES];
        for i in 0..DEEP {
            for (most, v) in most.iter_mut().zip(row(i)) {
                *most = if v.abs() > *most { v.abs() } else { *most };
            }
        }
        // With a scale of 0, the codes do not matter.
        let inverse = most.map(|most| if most > 1e-20 { 127.0 / most } else { 0.0 });
        let mut codes = [[0u32; LANES]; DEEP / 4];
        for (k, codes) in codes.iter_mut().enumerate() {
            for j in 0..4 {
                let row = row(4 * k + j);
                for l in 0..LANES {
                    // The last byte of a float near 1.5·2²³ is that of the integer.
                    codes[l] |= ((row[l] * inverse[l] + MAGIC).to_bits() & 255) << (8 * j);
                }
            }
        }
        for (l, block) in out.chunks_exact_mut(34).enumerate() {
            block[..2].copy_from_slice(&f16_bits(most[l] / 127.0).to_le_bytes());
            for (k, codes) in codes.iter().enumerate() {
                block[2 + 4 * k..6 + 4 * k].copy_from_slice(&codes[l].to_le_bytes());
            }
        }
    }
}

#[inline(always)]
pub(super) fn int_dots(w: &Matrix, rows: Range<usize>, _next: &[u8], x: &QActs, y: &mut Tile, scratch: &mut Scratch) {
    let format = w.format;
    let Some(Codes { zero, sub, min, .. }) = format.codes else { panic!("a format with codes") };
    assert!(w.cols == x.c && y.n() == x.n && y.c() == rows.len(), "shapes of integer dots");
    let (subs, some) = (w.cols / sub, if min { 1 } else { 0 });
    for (j, row) in rows.enumerate() {
        let (codes, [scales, mins]) = scratch.codes(w.cols, subs, some * subs);
        let per = format.block / sub;
        for (b, block) in w.rows_bytes(row..row + 1).chunks_exact(format.bytes).enumerate() {
            let span = b * per..(b + 1) * per;
            let mins = if min { &mut mins[span.clone()] } else { &mut [][..] };
            quant::unpack_inline(
                format.id,
                block,
                &mut codes[b * format.block..][..format.block],
                &mut scales[span],
                mins,
            );
        }
        // Columns that share a scale on both sides.
        let step = if x.wide { sub } else { 16 };
        for i in 0..x.n {
            let row = |i: usize| &x.q[i * x.c..(i + 1) * x.c];
            let (q, low_q) = (row(i), row(if x.wide { x.n + i } else { i }));
            let (d, s) = (&x.d[i * x.c / 16..], &x.s[i * x.c / 16..]);
            let (mut acc, mut low) = (0.0, 0.0);
            for b in 0..subs {
                let mut sums = [0.0; 2];
                for start in (b * sub..(b + 1) * sub).step_by(step) {
                    let span = start..start + step;
                    let dot = |q: &[i8]| -> i32 {
                        codes[span.clone()].iter().zip(q).map(|(&w, &q)| (w as i32 - zero as i32) * q as i32).sum()
                    };
                    let high = dot(&q[span.clone()]);
                    let sum = if x.wide { 16 * high + dot(&low_q[span.clone()]) } else { high };
                    for (t, sum) in sums.iter_mut().zip([sum, s[start / 16..span.end / 16].iter().sum()]) {
                        // Adding to 0 leaves the first product as it is.
                        *t = fma(d[start / 16], sum as f32, *t);
                    }
                }
                acc = fma(scales[b], sums[0], acc);
                if min {
                    low = fma(mins[b], sums[1], low);
                }
            }
            y.row(i)[j] = acc + low;
        }
    }
}

#[inline(always)]
pub(super) fn exp(x: &mut [f32]) {
    for v in x {
        *v = math::exp(*v);
    }
}

#[inline(always)]
pub(super) fn softmax(x: &mut [f32]) -> f32 {
    let mut tops = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for l in 0..LANES {
            tops[l] = if chunk[l] > tops[l] { chunk[l] } else { tops[l] };
        }
    }
    let max = tops.iter().chain(rest).fold(f32::NEG_INFINITY, |max, &v| if v > max { v } else { max });
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = x.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for l in 0..LANES {
            chunk[l] = math::exp(chunk[l] - max);
            lanes[l] += chunk[l];
        }
    }
    for (v, lane) in rest.iter_mut().zip(&mut lanes) {
        *v = math::exp(*v - max);
        *lane += *v;
    }
    let sum = lane_sum(lanes);
    let scale = 1.0 / sum;
    for v in x.iter_mut() {
        *v *= scale;
    }
    max + libm::logf(sum)
}

#[inline(always)]
pub(super) fn silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((o, &g), &u) in out.iter_mut().zip(gate).zip(up) {
        *o = g / (1.0 + math::exp(-g)) * u;
    }
}

#[inline(always)]
pub(super) fn silu_mul_backward(gate: &mut [f32], up: &mut [f32], d: &[f32]) {
    for ((g, u), &d) in gate.iter_mut().zip(up).zip(d) {
        let s = 1.0 / (1.0 + math::exp(-*g));
        let silu = *g * s;
        let dgate = d * *u * (s + silu * (1.0 - s));
        *u = d * silu;
        *g = dgate;
    }
}

#[inline(always)]
pub(super) fn widen(x: &[u16], out: &mut [f32]) {
    for (o, &h) in out.iter_mut().zip(x) {
        *o = quant::f16_to_f32(h);
    }
}

#[inline(always)]
pub(super) fn narrow(x: &[f32], out: &mut [u16]) {
    for (o, &v) in out.iter_mut().zip(x) {
        *o = f16_bits(v);
    }
}

#[inline(always)]
pub(super) fn code(x: &[f32], codes: &mut [i8], scales: &mut [u16]) {
    for ((x, codes), scale) in x.chunks(CODES).zip(codes.chunks_mut(CODES)).zip(scales) {
        let most = f32::from_bits(x.iter().fold(0, |most, v| most.max(v.abs().to_bits())));
        *scale = f16_bits(most / 127.0);
        let d = quant::f16_to_f32(*scale);
        // Without a finite scale above 0, the codes do not matter.
        let inverse = if d > 0.0 && d < f32::INFINITY { 1.0 / d } else { 0.0 };
        for (code, &v) in codes.iter_mut().zip(x) {
            *code = rounded((v * inverse).clamp(-127.0, 127.0)) as i8;
        }
    }
}

#[inline(always)]
pub(super) fn decode_codes(codes: &[i8], scales: &[u16], out: &mut [f32]) {
    for ((codes, out), &scale) in codes.chunks(CODES).zip(out.chunks_mut(CODES)).zip(scales) {
        let d = quant::f16_to_f32(scale);
        for (out, &code) in out.iter_mut().zip(codes) {
            *out = d * code as f32;
        }
    }
}

/// The bits of the nearest f16, ties to even, by integer arithmetic and selects, so that loops vectorise.
#[inline(always)]
fn f16_bits(x: f32) -> u16 {
    let bits = x.to_bits() & 0x7fff_ffff;
    let sign = (x.to_bits() >> 16) as u16 & 0x8000;
    // Bias 127 becomes bias 15. The bits that are cut off round by a carry, which may reach the exponent and infinity.
    let normal = bits.wrapping_sub(112 << 23).wrapping_add(0xfff + (bits >> 13 & 1)) >> 13;
    // 0.5 is 2²³ times the smallest subnormal f16, so the sum is rounded to multiples of that.
    let subnormal = (f32::from_bits(bits) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let nan = if bits > 0x7f80_0000 { 0x200 | bits >> 13 & 0x3ff } else { 0 };
    let finite = if bits < 113 << 23 { subnormal } else { normal };
    sign | if bits < 143 << 23 { finite } else { 0x7c00 | nan } as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::Bytes;
    use crate::quant::FORMATS;
    use std::prelude::v1::*;

    #[test]
    fn rounded_rows_are_near_and_their_sums_are_theirs() {
        let x: Vec<f32> = (0..128).map(|i| ((i * 37 % 101) as f32 - 50.0) * if i < 64 { 0.01 } else { 3.0 }).collect();
        let mut acts = QActs::default();
        acts.resize(2, 64, false);
        quantize(&x[..64], acts.row(0));
        quantize(&x[64..], acts.row(1));
        for (i, &v) in x.iter().enumerate() {
            let d = acts.d[i / 16];
            assert!((acts.q[i] as f32 * d - v).abs() <= 0.501 * d, "value {i}");
        }
        for (s, q) in acts.s.iter().zip(acts.q.chunks(16)) {
            assert_eq!(*s, q.iter().map(|&q| q as i32).sum::<i32>());
        }
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = vec![1.0; 32];
            x[5] = bad;
            acts.resize(1, 32, false);
            quantize(&x, acts.row(0));
            assert!((acts.d[0] * acts.q[0] as f32).is_nan());
        }
        let tiny: Vec<f32> = (0..32).map(f32::from_bits).collect();
        quantize(&tiny, acts.row(0));
        assert_eq!(acts.q, vec![0; 32]);
    }

    #[test]
    fn integer_dots_are_products_of_decoded_rows_and_rounded_activations() {
        let formats = FORMATS.iter().filter(|f| f.codes.is_some());
        for (format, wide) in formats.flat_map(|f| [(f, false), (f, true)]) {
            let (rows, cols) = (3, 512);
            let mut seed = 1u32;
            let mut bytes = vec![0; rows * cols / format.block * format.bytes];
            for b in &mut bytes {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // No f16 exponent is then large or special.
                *b = (seed >> 24) as u8 & 0xbb;
            }
            let w = Matrix::new(format, rows, cols, Bytes::from(bytes)).unwrap();
            let x: Vec<f32> = (0..2 * cols).map(|i| ((i * 29 % 113) as f32 - 56.0) / 56.0).collect();
            let mut acts = QActs::default();
            acts.resize(2, cols, wide);
            (0..2).for_each(|i| quantize(&x[i * cols..][..cols], acts.row(i)));
            let mut y = vec![0.0; 2 * rows];
            int_dots(&w, 0..rows, &[], &acts, &mut Tile::new(&mut y, 2, rows), &mut Scratch::default());
            let mut row = vec![0.0; cols];
            for j in 0..rows {
                w.decode(j, 0..cols, &mut row);
                for i in 0..2 {
                    let terms = |k: usize| acts.code(i, k) as f64 * acts.d[(i * cols + k) / 16] as f64 * row[k] as f64;
                    let want: f64 = (0..cols).map(terms).sum();
                    let size: f64 = (0..cols).map(|k| terms(k).abs()).sum();
                    let got = y[i * rows + j] as f64;
                    assert!((got - want).abs() <= 1e-5 * size, "{}: {got} for {want}", format.name);
                }
            }
        }
    }

    #[test]
    fn f16_bits_equal_those_of_the_crate_half() {
        for high in 0..=u16::MAX {
            for low in [0, 1, 0xfff, 0x1000, 0x1001, 0x2fff, 0x3000, 0x3001, 0x8000, 0xffff] {
                let x = f32::from_bits((high as u32) << 16 | low);
                assert_eq!(super::f16_bits(x), half::f16::from_f32(x).to_bits(), "{:#010x}", x.to_bits());
            }
        }
    }
}
