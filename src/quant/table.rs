//! The table of formats, and the loops that carry a function for one block over many.

use super::{Codes, Format, float, legacy};

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

/// Rows of the table, and beside it the same decoders as one function to inline.
macro_rules! formats {
    ($($id:literal $name:literal $block:literal $bytes:literal
        $(decode $decode:path)? $(, encode $encode:path)? $(, codes $zero:literal $sub:literal $min:literal $codes:path)?;)*) => {
        /// Every format this build knows, by ggml's type id.
        pub static FORMATS: &[Format] = &[$(Format {
            id: $id,
            name: $name,
            block: $block,
            bytes: $bytes,
            decode: formats!(@option $(|data, out| each(data, out, $decode))?),
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
                $($($id => each(data, out, $decode),)?)*
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
    //id name    block bytes
     0 "F32"      1   4 decode float::f32, encode float::encode_f32;
     1 "F16"      1   2 decode float::f16, encode float::encode_f16;
     2 "Q4_0"    32  18 decode legacy::q4_0, encode legacy::encode_q4_0, codes   8 32 false legacy::q4_0_codes;
     3 "Q4_1"    32  20 decode legacy::q4_1, encode legacy::encode_q4_1, codes   0 32 true  legacy::q4_1_codes;
     6 "Q5_0"    32  22 decode legacy::q5_0, encode legacy::encode_q5_0, codes  16 32 false legacy::q5_0_codes;
     7 "Q5_1"    32  24 decode legacy::q5_1, encode legacy::encode_q5_1, codes   0 32 true  legacy::q5_1_codes;
     8 "Q8_0"    32  34 decode legacy::q8_0, encode legacy::encode_q8_0, codes 128 32 false legacy::q8_0_codes;
     9 "Q8_1"    32  36;
    15 "Q8_K"   256 292;
    16 "IQ2_XXS" 256 66;
    17 "IQ2_XS" 256  74;
    18 "IQ3_XXS" 256 98;
    19 "IQ1_S"  256  50;
    21 "IQ3_S"  256 110;
    22 "IQ2_S"  256  82;
    24 "I8"       1   1;
    25 "I16"      1   2;
    26 "I32"      1   4;
    27 "I64"      1   8;
    28 "F64"      1   8;
    29 "IQ1_M"  256  56;
    30 "BF16"     1   2 decode float::bf16, encode float::encode_bf16;
}
