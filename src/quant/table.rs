//! The table of formats, and the loops that apply a function for one block to many.

use super::{Codes, Format, book, fit, float, iq, k, legacy, micro, ternary};

/// Decodes block after block.
///
/// # Panics
/// If `data` is not whole blocks of `B` bytes or `out` not `N` values for each.
#[inline(always)]
pub(crate) fn each<const B: usize, const N: usize>(
    data: &[u8],
    out: &mut [f32],
    one: impl Fn(&[u8; B], &mut [f32; N]),
) {
    let ((blocks, rest), (values, more)) = (data.as_chunks(), out.as_chunks_mut());
    assert!(rest.is_empty() && more.is_empty() && blocks.len() == values.len(), "whole blocks and their values");
    for (b, y) in blocks.iter().zip(values) {
        one(b, y);
    }
}

/// Encodes block after block.
fn each_back<const B: usize, const N: usize>(data: &[f32], out: &mut [u8], one: impl Fn(&[f32; N], &mut [u8; B])) {
    let ((values, rest), (blocks, more)) = (data.as_chunks(), out.as_chunks_mut());
    assert!(rest.is_empty() && more.is_empty() && blocks.len() == values.len(), "whole blocks and their values");
    for (x, b) in values.iter().zip(blocks) {
        one(x, b);
    }
}

/// Encodes the blocks of rows of as many values as there are weights; `one` also gets the mean of the squares of its row.
fn each_weighted<const B: usize, const N: usize>(
    data: &[f32],
    importance: &[f32],
    out: &mut [u8],
    one: impl Fn(&[f32; N], &[f32; N], f32, &mut [u8; B]),
) {
    let (weights, rest) = importance.as_chunks();
    assert!(rest.is_empty() && data.len().is_multiple_of(importance.len().max(1)), "whole rows and their weights");
    for (row, out) in data.chunks_exact(importance.len().max(1)).zip(out.chunks_exact_mut(B * weights.len().max(1))) {
        let mean = fit::squares(row) / row.len() as f32;
        for ((x, w), b) in row.as_chunks().0.iter().zip(weights).zip(out.as_chunks_mut().0) {
            one(x, w, mean, b);
        }
    }
}

/// Unpacks one block into slices of exactly the right lengths.
#[inline(always)]
pub(crate) fn unpack<const B: usize, const N: usize, const S: usize, const M: usize>(
    block: &[u8],
    codes: &mut [u8],
    scales: &mut [f32],
    mins: &mut [f32],
    one: impl Fn(&[u8; B], &mut [u8; N], &mut [f32; S], &mut [f32; M]),
) {
    let (Ok(block), Ok(codes), Ok(scales), Ok(mins)) =
        (block.try_into(), codes.try_into(), scales.try_into(), mins.try_into())
    else {
        panic!("one block and its codes, scales and mins");
    };
    one(block, codes, scales, mins);
}

/// Decodes block after block through the codes: scale · (code − zero) + min.
///
/// The codes of 256 values are unpacked to a buffer before they become floats. The compiler vectorises both steps then, and
/// neither of them with one block of 32 at a time.
#[inline(always)]
fn each_code<const B: usize, const N: usize, const S: usize, const M: usize>(
    data: &[u8],
    out: &mut [f32],
    zero: u8,
    one: impl Fn(&[u8; B], &mut [u8; N], &mut [f32; S], &mut [f32; M]) + Copy,
) {
    let ((blocks, rest), (values, more)) = (data.as_chunks::<B>(), out.as_chunks_mut::<N>());
    assert!(rest.is_empty() && more.is_empty() && blocks.len() == values.len(), "whole blocks and their values");
    let (mut codes, mut scales, mut mins) = ([0; 256], [0.0; 16], [0.0; 16]);
    for (blocks, values) in blocks.chunks(256 / N).zip(values.chunks_mut(256 / N)) {
        for (i, b) in blocks.iter().enumerate() {
            unpack(b, &mut codes[i * N..][..N], &mut scales[i * S..][..S], &mut mins[i * M..][..M], one);
        }
        let values = values.as_flattened_mut().chunks_exact_mut(N / S);
        for (i, (y, codes)) in values.zip(codes.chunks_exact(N / S)).enumerate() {
            for (y, &q) in y.iter_mut().zip(codes) {
                let product = (q as i32 - zero as i32) as f32 * scales[i];
                *y = if M == 0 { product } else { product + mins[i] };
            }
        }
    }
}

/// The rows of the table, and inlined versions of the same functions.
macro_rules! formats {
    ($($id:literal $name:literal $block:literal $bytes:literal
        $(, decode $decode:path)? $(, codes $zero:literal $sub:literal $min:literal $codes:path)? $(, encode $encode:expr)?
        $(, weighted $weighted:expr)?;)*) => {
        /// Every format this build knows, by ggml's type id. Ids that ggml has removed are not here.
        pub static FORMATS: &[Format] = &[$(Format {
            id: $id,
            name: $name,
            block: $block,
            bytes: $bytes,
            decode: formats!(@option
                $(|data, out| each(data, out, $decode))?
                $(|data, out| each_code(data, out, $zero, $codes))?),
            encode: formats!(@option $(|data, out| each_back(data, out, $encode))?),
            weighted: formats!(@option $(|data, importance, out| each_weighted(data, importance, out, $weighted))?),
            codes: formats!(@option $(Codes {
                zero: $zero,
                sub: $sub,
                min: $min,
                unpack: |block, codes, scales, mins| unpack(block, codes, scales, mins, $codes),
            })?),
        }),*];

        /// The zero of the codes of format `id`, values that share a scale, and whether there are mins: for functions that
        /// are compiled for one format.
        ///
        /// # Panics
        /// If that format has no codes.
        #[allow(dead_code, reason = "where no backend works in vectors")]
        pub(crate) const fn codes(id: u32) -> (u8, usize, bool) {
            match id {
                $($($id => ($zero, $sub, $min),)?)*
                _ => panic!("a format with codes"),
            }
        }

        /// `Format::decode` of the format `id`, to be compiled again inside a function with other target features.
        ///
        /// # Panics
        /// If that format has no decoder.
        #[inline(always)]
        pub(crate) fn decode_inline(id: u32, data: &[u8], out: &mut [f32]) {
            match id {
                $($($id => each(data, out, $decode),)? $($id => each_code(data, out, $zero, $codes),)?)*
                _ => panic!("a format with a decoder"),
            }
        }

        /// `Codes::unpack` of the format `id`, to be compiled again inside a function with other target features.
        ///
        /// # Panics
        /// If that format has no codes.
        #[inline(always)]
        pub(crate) fn unpack_inline(id: u32, block: &[u8], codes: &mut [u8], scales: &mut [f32], mins: &mut [f32]) {
            match id {
                $($($id => unpack(block, codes, scales, mins, $codes),)?)*
                _ => panic!("a format with codes"),
            }
        }
    };
    (@option) => { None };
    (@option $some:expr) => { Some($some) };
}

formats! {
    // id name   block bytes        zero sub min
     0 "F32"       1   4, decode float::f32, encode float::encode_f32;
     1 "F16"       1   2, decode float::f16, encode float::encode_f16;
     2 "Q4_0"     32  18, codes   8 32 false legacy::q4_0, encode legacy::encode_q4_0,
        weighted legacy::weighted_q4_0;
     3 "Q4_1"     32  20, codes   0 32 true  legacy::q4_1, encode legacy::encode_q4_1,
        weighted legacy::weighted_q4_1;
     6 "Q5_0"     32  22, codes  16 32 false legacy::q5_0, encode legacy::encode_q5_0,
        weighted legacy::weighted_q5_0;
     7 "Q5_1"     32  24, codes   0 32 true  legacy::q5_1, encode legacy::encode_q5_1,
        weighted legacy::weighted_q5_1;
     8 "Q8_0"     32  34, codes 128 32 false legacy::q8_0, encode legacy::encode_q8_0;
     9 "Q8_1"     32  36;
    10 "Q2_K"    256  84, codes   0 16 true  k::q2_k;
    11 "Q3_K"    256 110, codes   4 16 false k::q3_k;
    12 "Q4_K"    256 144, codes   0 32 true  k::q4_k, encode |x, b| k::encode_q4_k(x, None, b),
        weighted |x, w, _, b| k::encode_q4_k(x, Some(w), b);
    13 "Q5_K"    256 176, codes   0 32 true  k::q5_k, encode |x, b| k::encode_q5_k(x, None, b),
        weighted |x, w, _, b| k::encode_q5_k(x, Some(w), b);
    14 "Q6_K"    256 210, codes  32 16 false k::q6_k, encode |x, b| k::encode_q6_k(x, None, b),
        weighted |x, w, _, b| k::encode_q6_k(x, Some(w), b);
    15 "Q8_K"    256 292;
    16 "IQ2_XXS" 256  66, codes 128 32 false book::iq2_xxs;
    17 "IQ2_XS"  256  74, codes 128 16 false book::iq2_xs;
    18 "IQ3_XXS" 256  98, codes 128 32 false book::iq3_xxs;
    19 "IQ1_S"   256  50, codes  16 32 false book::iq1_s;
    20 "IQ4_NL"   32  18, codes 128 32 false iq::iq4_nl;
    21 "IQ3_S"   256 110, codes  16 32 false book::iq3_s;
    22 "IQ2_S"   256  82, codes 128 16 false book::iq2_s;
    23 "IQ4_XS"  256 136, codes 128 32 false iq::iq4_xs;
    24 "I8"        1   1;
    25 "I16"       1   2;
    26 "I32"       1   4;
    27 "I64"       1   8;
    28 "F64"       1   8;
    29 "IQ1_M"   256  56, codes  16 16 false book::iq1_m;
    30 "BF16"      1   2, decode float::bf16, encode float::encode_bf16;
    34 "TQ1_0"   256  54, codes   1 32 false ternary::tq1_0;
    35 "TQ2_0"   256  66, codes   1 32 false ternary::tq2_0;
    39 "MXFP4"    32  17, codes  12 32 false micro::mxfp4;
    40 "NVFP4"    64  36, codes  12 16 false micro::nvfp4;
    41 "Q1_0"    128  18, codes   1 32 false ternary::q1_0;
    42 "Q2_0"     64  18, codes   1 32 false ternary::q2_0;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::prelude::v1::*;

    /// Bytes of a fixed sequence (a linear congruence), all bit patterns.
    fn noise(n: usize) -> Vec<u8> {
        let mut state = 1u64;
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 56) as u8
            })
            .collect()
    }

    /// Values between −1 and 1.
    fn values(n: usize) -> Vec<f32> {
        noise(2 * n).chunks_exact(2).map(|b| i16::from_le_bytes([b[0], b[1]]) as f32 / 32768.0).collect()
    }

    fn same(a: f32, b: f32) -> bool {
        a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
    }

    #[test]
    fn ids_and_names_occur_once_and_are_found() {
        for (i, format) in FORMATS.iter().enumerate() {
            assert!(FORMATS[..i].iter().all(|other| other.id < format.id && other.name != format.name));
            assert!(core::ptr::eq(Format::by_id(format.id).unwrap(), format));
            assert!(core::ptr::eq(Format::by_name(&format.name.to_lowercase()).unwrap(), format));
        }
        // Removed from ggml (Q4_2, repacked Q4_0, repacked IQ4_NL), or not assigned.
        for id in [4, 5, 31, 32, 33, 36, 37, 38, 43, u32::MAX] {
            assert!(Format::by_id(id).is_none());
        }
        assert!(Format::by_name("Q4_2").is_none());
    }

    #[test]
    fn row_bytes_are_whole_blocks_or_nothing() {
        for format in FORMATS {
            assert_eq!(format.row_bytes(0), Some(0));
            assert_eq!(format.row_bytes(3 * format.block), Some(3 * format.bytes));
            if format.block > 1 {
                assert_eq!(format.row_bytes(format.block + 1), None);
            }
            if format.bytes > format.block {
                assert_eq!(format.row_bytes(usize::MAX / format.block * format.block), None);
            }
        }
    }

    #[test]
    fn functions_take_blocks_of_the_sizes_in_the_table() {
        for format in FORMATS {
            let data = noise(5 * format.bytes);
            let Some(decode) = format.decode else {
                assert!(format.encode.is_none() && format.codes.is_none());
                continue;
            };
            let (mut plain, mut inlined) = (vec![0.0; 5 * format.block], vec![1.0; 5 * format.block]);
            decode(&data, &mut plain);
            decode_inline(format.id, &data, &mut inlined);
            assert!(plain.iter().zip(&inlined).all(|(&a, &b)| same(a, b)), "{}", format.name);

            let Some(codes) = &format.codes else { continue };
            let n = format.block / codes.sub;
            for (block, plain) in data.chunks_exact(format.bytes).zip(plain.chunks_exact(format.block)) {
                let (mut q, mut scales, mut mins) =
                    (vec![0; format.block], vec![0.0; n], vec![0.0; if codes.min { n } else { 0 }]);
                unpack_inline(format.id, block, &mut q, &mut scales, &mut mins);
                let (was_q, was_scales, was_mins) = (q.clone(), scales.clone(), mins.clone());
                (codes.unpack)(block, &mut q, &mut scales, &mut mins);
                assert_eq!(q, was_q, "{}", format.name);
                assert!(scales.iter().zip(&was_scales).chain(mins.iter().zip(&was_mins)).all(|(&a, &b)| same(a, b)));
                for j in 0..format.block {
                    let product = scales[j / codes.sub] * (q[j] as i32 - codes.zero as i32) as f32;
                    let value = if codes.min { product + mins[j / codes.sub] } else { product };
                    assert!(same(value, plain[j]), "{}: value {j}: {value} and {}", format.name, plain[j]);
                }
            }
        }
    }

    #[test]
    fn encoding_errs_by_half_a_step_and_the_rounding_of_its_scale() {
        // Steps to the largest magnitude, or from the smallest to the largest value. On the side where the codes
        // do not reach the extreme (7 of 8 steps), the error can be a whole step.
        let steps =
            [("Q4_0", 8.0, 1.0), ("Q4_1", 15.0, 0.5), ("Q5_0", 16.0, 1.0), ("Q5_1", 31.0, 0.5), ("Q8_0", 127.0, 0.5)];
        let x = values(64 * 32);
        for (name, steps, most) in steps {
            let format = Format::by_name(name).unwrap();
            let mut bytes = vec![0; format.row_bytes(x.len()).unwrap()];
            format.encode.unwrap()(&x, &mut bytes);
            let mut y = vec![0.0; x.len()];
            format.decode.unwrap()(&bytes, &mut y);
            for (x, y) in x.chunks_exact(32).zip(y.chunks_exact(32)) {
                let (low, high) = x.iter().fold((0f32, 0f32), |(l, h), &v| (l.min(v), h.max(v)));
                let reach = if name.ends_with('1') { high - low } else { high.max(-low) };
                for (x, y) in x.iter().zip(y) {
                    assert!((x - y).abs() <= most * reach / steps + reach / 1024.0, "{name}: {x} became {y}");
                }
            }
        }
        for (name, error) in [("F32", 0.0), ("F16", 1.0 / 2048.0), ("BF16", 1.0 / 256.0)] {
            let format = Format::by_name(name).unwrap();
            let mut bytes = vec![0; format.row_bytes(x.len()).unwrap()];
            format.encode.unwrap()(&x, &mut bytes);
            let mut y = vec![0.0; x.len()];
            format.decode.unwrap()(&bytes, &mut y);
            assert!(x.iter().zip(&y).all(|(x, y)| (x - y).abs() <= error * x.abs() + 1e-7), "{name}");
        }
    }

    #[test]
    fn any_value_encodes_and_decodes() {
        let odd = [
            0.0,
            -0.0,
            1e-45,
            -1e-40,
            f32::MIN_POSITIVE,
            f32::MAX,
            f32::MIN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
        ];
        for format in FORMATS.iter().filter(|format| format.encode.is_some()) {
            for &a in &odd {
                for &b in &odd {
                    let x: Vec<f32> = (0..format.block.max(2)).map(|j| if j % 2 == 0 { a } else { b }).collect();
                    let mut bytes = vec![0; format.row_bytes(x.len()).unwrap()];
                    format.encode.unwrap()(&x, &mut bytes);
                    let mut y = vec![1.0; x.len()];
                    format.decode.unwrap()(&bytes, &mut y);
                    if a == 0.0 && b == 0.0 {
                        assert!(y.iter().all(|&v| v == 0.0), "{}: zeros", format.name);
                    }
                }
            }
        }
    }
}
