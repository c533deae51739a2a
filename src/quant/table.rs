//! The table of formats, and the loops that carry a function for one block over many.

use super::{Codes, Format, float, iq, k, legacy, micro, ternary};

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

/// Decodes block after block by way of the codes: scale · (code − zero) + min.
#[inline(always)]
fn each_code<const B: usize, const N: usize, const S: usize, const M: usize>(
    data: &[u8],
    out: &mut [f32],
    zero: u8,
    one: impl Fn(&[u8; B], &mut [u8; N], &mut [f32; S], &mut [f32; M]),
) {
    let ((blocks, rest), (values, more)) = (data.as_chunks(), out.as_chunks_mut());
    assert!(rest.is_empty() && more.is_empty() && blocks.len() == values.len(), "whole blocks and their values");
    for (b, y) in blocks.iter().zip(values) {
        let y: &mut [f32; N] = y;
        let (mut codes, mut scales, mut mins) = ([0; N], [0.0; S], [0.0; M]);
        one(b, &mut codes, &mut scales, &mut mins);
        for (i, (y, codes)) in y.chunks_exact_mut(N / S).zip(codes.chunks_exact(N / S)).enumerate() {
            for (y, &q) in y.iter_mut().zip(codes) {
                let product = (q as i32 - zero as i32) as f32 * scales[i];
                *y = if M == 0 { product } else { product + mins[i] };
            }
        }
    }
}

/// Rows of the table, and beside it the same functions as ones to inline.
macro_rules! formats {
    ($($id:literal $name:literal $block:literal $bytes:literal
        $(, decode $decode:path)? $(, codes $zero:literal $sub:literal $min:literal $codes:path)? $(, encode $encode:path)?;)*) => {
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
            codes: formats!(@option $(Codes {
                zero: $zero,
                sub: $sub,
                min: $min,
                unpack: |block, codes, scales, mins| unpack(block, codes, scales, mins, $codes),
            })?),
        }),*];

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
     2 "Q4_0"     32  18, codes   8 32 false legacy::q4_0, encode legacy::encode_q4_0;
     3 "Q4_1"     32  20, codes   0 32 true  legacy::q4_1, encode legacy::encode_q4_1;
     6 "Q5_0"     32  22, codes  16 32 false legacy::q5_0, encode legacy::encode_q5_0;
     7 "Q5_1"     32  24, codes   0 32 true  legacy::q5_1, encode legacy::encode_q5_1;
     8 "Q8_0"     32  34, codes 128 32 false legacy::q8_0, encode legacy::encode_q8_0;
     9 "Q8_1"     32  36;
    10 "Q2_K"    256  84, codes   0 16 true  k::q2_k;
    11 "Q3_K"    256 110, codes   4 16 false k::q3_k;
    12 "Q4_K"    256 144, codes   0 32 true  k::q4_k;
    13 "Q5_K"    256 176, codes   0 32 true  k::q5_k;
    14 "Q6_K"    256 210, codes  32 16 false k::q6_k;
    15 "Q8_K"    256 292;
    16 "IQ2_XXS" 256  66;
    17 "IQ2_XS"  256  74;
    18 "IQ3_XXS" 256  98;
    19 "IQ1_S"   256  50;
    20 "IQ4_NL"   32  18, codes 128 32 false iq::iq4_nl;
    21 "IQ3_S"   256 110;
    22 "IQ2_S"   256  82;
    23 "IQ4_XS"  256 136, codes 128 32 false iq::iq4_xs;
    24 "I8"        1   1;
    25 "I16"       1   2;
    26 "I32"       1   4;
    27 "I64"       1   8;
    28 "F64"       1   8;
    29 "IQ1_M"   256  56;
    30 "BF16"      1   2, decode float::bf16, encode float::encode_bf16;
    34 "TQ1_0"   256  54, codes   1 32 false ternary::tq1_0;
    35 "TQ2_0"   256  66, codes   1 32 false ternary::tq2_0;
    39 "MXFP4"    32  17, codes  12 32 false micro::mxfp4;
    40 "NVFP4"    64  36, codes  12 16 false micro::nvfp4;
    41 "Q1_0"    128  18, codes   1 32 false ternary::q1_0;
    42 "Q2_0"     64  18, codes   1 32 false ternary::q2_0;
}
