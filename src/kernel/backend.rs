//! The backends: the kernels, compiled for each instruction set.
//!
//! `backend!` compiles kernels with the features of one instruction set and generates the check for these features from
//! the same list. `others!` compiles bodies of `body.rs`. The products come from `floats.rs` and `ints.rs`.

#![allow(unused, reason = "some targets have the plain backend alone")]

#[cfg(target_arch = "x86_64")]
use super::QRow;
use super::{Kernels, PLAIN, QActs, Scratch, Stored, Tile, View, body};
use crate::error::{Error, Result};
use crate::quant::{Floats16, Matrix};
use core::ops::Range;
use core::sync::atomic::AtomicU8;
use std::prelude::v1::*;

// Whether this machine has a feature; without the standard library, whether this build has it.
#[cfg(all(feature = "std", target_arch = "aarch64"))]
use std::arch::is_aarch64_feature_detected as detected;
#[cfg(all(feature = "std", target_arch = "x86_64"))]
use std::arch::is_x86_feature_detected as detected;
#[cfg(not(all(feature = "std", any(target_arch = "x86_64", target_arch = "aarch64"))))]
macro_rules! detected {
    ($feature:tt) => {
        cfg!(target_feature = $feature)
    };
}

/// Wraps a function that is compiled with target features in a safe one.
macro_rules! compiled {
    ([$($feature:tt)+] $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)? = $body:path) => {
        fn $name($($arg: $type),*) $(-> $result)? {
            $(#[target_feature(enable = $feature)])+
            fn inner($($arg: $type),*) $(-> $result)? {
                $body($($arg),*)
            }
            // SAFETY: the table that holds this function is handed out only where `runs` found the features.
            unsafe { inner($($arg),*) }
        }
    };
}

/// One instruction set: its name, its features, the modules with its products of floats and of integers, and the table
/// of the other kernels.
macro_rules! backend {
    ($module:ident $name:literal [$($feature:tt)+] $floats:path, $ints:path, $others:path) => {
        backend!(@ $module $name [$($feature)+] [$($feature)+] $floats, $ints, $others);
    };
    (@ $module:ident $name:literal $features:tt [$($feature:tt)+] $floats:path, $ints:path, $others:path) => {
        #[allow(unsafe_code)]
        mod $module {
            use super::*;
            use $floats as floats;
            use $ints as ints;

            pub(super) static KERNELS: Kernels = Kernels {
                name: $name,
                dots,
                float16_dots,
                int16_dots,
                sums,
                outer,
                row_dots,
                row_sums,
                int_dots,
                ..$others
            };

            /// Whether the machine has its features.
            pub(super) fn runs() -> bool {
                true $(&& detected!($feature))+
            }

            compiled!($features dots(x: View, w: View, y: &mut Tile) = floats::dots);
            compiled!($features float16_dots(x: View, w: Floats16, y: &mut Tile) = floats::float16_dots);
            compiled!($features int16_dots(x: View, w: Floats16, c: usize, tops: &[AtomicU8], y: &mut Tile, s: &mut Scratch) = floats::int16_dots);
            compiled!($features sums(a: View, w: View, y: &mut Tile) = floats::sums);
            compiled!($features outer(a: View, b: View, y: &mut Tile) = floats::outer);
            compiled!($features row_dots(x: View, w: Stored, y: &mut Tile) = floats::row_dots);
            compiled!($features row_sums(a: View, w: Stored, y: &mut Tile) = floats::row_sums);
            compiled!($features int_dots(w: &Matrix, rows: Range<usize>, next: &[u8], x: &QActs, y: &mut Tile, s: &mut Scratch) = ints::int_dots);
        }
    };
}

/// The kernels that are not products, from a module or compiled from `body.rs` with the features.
macro_rules! others {
    ($module:ident $features:tt $by_hand:path) => {
        #[allow(unsafe_code)]
        mod $module {
            use super::*;
            use $by_hand as by_hand;

            pub(super) const TABLE: Kernels = Kernels {
                float16_rows: usize::MAX,
                decode,
                quantize,
                round_int16,
                round_columns,
                exp,
                softmax,
                silu_mul,
                silu_mul_backward,
                widen,
                narrow,
                code,
                decode_codes,
                ..body::PLAIN
            };

            compiled!($features decode(w: &Matrix, rows: Range<usize>, cols: Range<usize>, out: &mut [f32]) = by_hand::decode);
            compiled!($features quantize(x: &[f32], out: QRow) = by_hand::quantize);
            compiled!($features round_int16(x: &[f32], out: &mut [f32]) = body::round_int16);
            compiled!($features round_columns(x: View, out: &mut [u8]) = body::round_columns);
            compiled!($features exp(x: &mut [f32]) = body::exp);
            compiled!($features softmax(x: &mut [f32]) -> f32 = body::softmax);
            compiled!($features silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) = body::silu_mul);
            compiled!($features silu_mul_backward(gate: &mut [f32], up: &mut [f32], d: &[f32]) = body::silu_mul_backward);
            compiled!($features widen(x: &[u16], out: &mut [f32]) = by_hand::widen);
            compiled!($features narrow(x: &[f32], out: &mut [u16]) = body::narrow);
            compiled!($features code(x: &[f32], codes: &mut [i8], scales: &mut [u16]) = body::code);
            compiled!($features decode_codes(codes: &[i8], scales: &[u16], out: &mut [f32]) = body::decode_codes);
        }
    };
}

#[cfg(target_arch = "x86_64")]
others!(avx2_others ["avx2" "fma" "f16c"] crate::kernel::x86);
#[cfg(target_arch = "x86_64")]
others!(avx512_others ["avx2" "fma" "f16c" "avx512f" "avx512bw" "avx512vl" "avx512dq" "avx512vnni"]
    crate::kernel::x86::avx512);
#[cfg(target_arch = "x86_64")]
backend!(avx2 "avx2" ["avx2" "fma" "f16c"] 
    crate::kernel::x86::avx2, crate::kernel::x86::avx2, avx2_others::TABLE);
#[cfg(target_arch = "x86_64")]
backend!(avxvnni "avxvnni" ["avx2" "fma" "f16c" "avxvnni"]
    crate::kernel::x86::avx2, crate::kernel::x86::avxvnni, avx2_others::TABLE);
#[cfg(target_arch = "x86_64")]
backend!(avx512 "avx512" ["avx2" "fma" "f16c" "avx512f" "avx512bw" "avx512vl" "avx512dq" "avx512vnni"]
    crate::kernel::x86::avx512, crate::kernel::x86::avx512, avx512_others::TABLE);
#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
backend!(neon "neon" ["neon"] crate::kernel::four::floats, crate::kernel::arm::neon, crate::kernel::arm::OTHERS);
#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
backend!(dotprod "dotprod" ["neon" "dotprod"]
    crate::kernel::four::floats, crate::kernel::arm::dotprod, crate::kernel::arm::OTHERS);
#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
backend!(i8mm "i8mm" ["neon" "dotprod" "i8mm"]
    crate::kernel::four::floats, crate::kernel::arm::i8mm, crate::kernel::arm::OTHERS);

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
backend!(simd128 "simd128" ["simd128"] crate::kernel::four::floats, crate::kernel::wasm::simd128, crate::kernel::wasm::OTHERS_WIDE);
#[cfg(all(target_arch = "wasm32", target_feature = "relaxed-simd"))]
backend!(relaxed "relaxed-simd" ["simd128" "relaxed-simd"]
    crate::kernel::four::floats, crate::kernel::wasm::relaxed, crate::kernel::wasm::OTHERS);

/// The backends that run, plain first and the fastest last.
fn running() -> impl DoubleEndedIterator<Item = &'static Kernels> {
    let all = [
        (true, &PLAIN),
        #[cfg(target_arch = "x86_64")]
        (avx2::runs(), &avx2::KERNELS),
        #[cfg(target_arch = "x86_64")]
        (avxvnni::runs(), &avxvnni::KERNELS),
        #[cfg(target_arch = "x86_64")]
        (avx512::runs(), &avx512::KERNELS),
        #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
        (neon::runs(), &neon::KERNELS),
        #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
        (dotprod::runs(), &dotprod::KERNELS),
        #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
        (i8mm::runs(), &i8mm::KERNELS),
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        (simd128::runs(), &simd128::KERNELS),
        #[cfg(all(target_arch = "wasm32", target_feature = "relaxed-simd"))]
        (relaxed::runs(), &relaxed::KERNELS),
    ];
    all.into_iter().filter(|(runs, _)| *runs).map(|(_, kernels)| kernels)
}

/// Every backend that runs on this machine, plain first and the fastest last. Without the standard library,
/// the backends that this build was compiled for.
pub fn available() -> Vec<&'static Kernels> {
    running().collect()
}

/// The fastest backend of this machine.
pub fn best() -> &'static Kernels {
    running().next_back().unwrap_or(&PLAIN)
}

/// The backend of that name.
///
/// # Errors
/// `Invalid` if there is none or it does not run here; the message lists the backends that run.
pub fn by_name(name: &str) -> Result<&'static Kernels> {
    let all = available();
    all.iter().copied().find(|k| k.name == name).ok_or_else(|| {
        let names: Vec<&str> = all.iter().map(|k| k.name).collect();
        Error::invalid("backend", format!("{}; this machine runs {}", crate::error::printable(name), names.join(", ")))
    })
}

/// The backend that the environment variable `MYNAH_BACKEND` names, or the fastest.
///
/// # Errors
/// As [`by_name`].
#[cfg(feature = "std")]
pub fn from_env() -> Result<&'static Kernels> {
    match std::env::var_os("MYNAH_BACKEND") {
        Some(name) => by_name(&name.to_string_lossy()),
        None => Ok(best()),
    }
}
