//! The peak rates of this machine: loops that do one thing only. The caller times them.
//!
//! The rate of a kernel is compared with these: with the bytes that [`read`] reads from memory in the same time, and
//! with the operations of the loops in [`peaks`], which keep every operand in registers.

#![allow(unsafe_code)]

use super::Kernels;
use std::prelude::v1::*;

/// The operation that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Products and sums of `f32`.
    Float,
    /// Products of 8-bit integers, summed in 32 bits.
    Int8,
    /// Products of 16-bit integers, summed in 32 bits.
    Int16,
}

/// A loop of one instruction, or of the few that compute an exact sum of products.
#[derive(Clone, Copy)]
pub struct Peak {
    /// The operation that is counted.
    pub unit: Unit,
    /// The instructions.
    pub name: &'static str,
    /// Does a number of rounds and returns the number of operations; a product and its sum are two.
    pub work: fn(rounds: u64) -> u64,
}

/// The loops of a backend's instruction set, at most one for each [`Unit`]; none for the plain backend, whose
/// instructions are the compiler's choice.
pub fn peaks(k: &Kernels) -> Vec<Peak> {
    let all: &[(&str, Peak)] = PEAKS;
    all.iter().filter(|(name, _)| *name == k.name).map(|(_, peak)| *peak).collect()
}

/// Cache lines that are read together, so that none waits for another.
const LINES: usize = 8;

/// Reads all of `data` and returns the exclusive or of its words, so that no read can be optimised away. Timing it gives
/// the bandwidth of the level of memory that holds `data`.
///
/// # Panics
/// If `data` is not a multiple of 64 words.
pub fn read(data: &[u64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if let Some(result) = x86::read(data) {
        return result;
    }
    read_body(data, |p| super::prefetch(p.cast(), true))
}

/// Whether this machine prefetches by itself where one stream follows another. Explicit prefetching then only competes
/// with that. Sixteen streams are then prefetched into the second-level cache, since the first waits for few lines at a
/// time. Measured once in a process, on x86-64 with the standard library; elsewhere taken to be false. It changes the
/// speed of products alone.
#[allow(dead_code, reason = "where no backend works in vectors")]
pub(super) fn reads_ahead() -> bool {
    #[cfg(all(feature = "std", target_arch = "x86_64"))]
    {
        static MEASURED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
        *MEASURED.get_or_init(x86::reads_ahead)
    }
    #[cfg(not(all(feature = "std", target_arch = "x86_64")))]
    false
}

/// `prefetch` gets the addresses that will be read in a while.
#[inline(always)]
fn read_body(data: &[u64], prefetch: impl Fn(*const u64)) -> u64 {
    /// Far enough for memory to answer.
    const AHEAD: usize = 128 * 8;
    let (groups, rest) = data.as_chunks::<{ 8 * LINES }>();
    assert!(rest.is_empty(), "words in groups of {}", 8 * LINES);
    let mut acc = [0; 8 * LINES];
    for group in groups {
        for line in 0..LINES {
            prefetch(group.as_ptr().wrapping_add(AHEAD + 8 * line));
        }
        for (acc, word) in acc.iter_mut().zip(group) {
            *acc ^= word;
        }
    }
    acc.iter().fold(0, |all, word| all ^ word)
}

#[cfg(not(any(
    target_arch = "x86_64",
    all(target_arch = "aarch64", target_feature = "neon"),
    all(target_arch = "wasm32", target_feature = "simd128")
)))]
const PEAKS: &[(&str, Peak)] = &[];

#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
use arm::PEAKS;

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
use wasm::PEAKS;

#[cfg(target_arch = "x86_64")]
use x86::PEAKS;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Peak, Unit, read_body};
    use core::arch::asm;
    use core::arch::x86_64::*;

    /// Independent sums: more than latency times units of any x86-64 core.
    const CHAINS: usize = 12;
    const UNROLL: u64 = 8;

    /// By backend.
    pub(super) const PEAKS: &[(&str, Peak)] = &[
        ("avx2", Peak { unit: Unit::Float, name: "vfmadd231ps ymm", work: float_256 }),
        ("avx2", Peak { unit: Unit::Int8, name: "vpmaddubsw, vpmaddwd, vpaddd ymm", work: int8_256 }),
        ("avx2", Peak { unit: Unit::Int16, name: "vpmaddwd, vpaddd ymm", work: words_256 }),
        ("avxvnni", Peak { unit: Unit::Float, name: "vfmadd231ps ymm", work: float_256 }),
        ("avxvnni", Peak { unit: Unit::Int8, name: "vpdpbusd ymm", work: vnni_256 }),
        ("avxvnni", Peak { unit: Unit::Int16, name: "vpmaddwd, vpaddd ymm", work: words_256 }),
        ("avx512", Peak { unit: Unit::Float, name: "vfmadd231ps zmm", work: float_512 }),
        ("avx512", Peak { unit: Unit::Int8, name: "vpdpbusd zmm", work: vnni_512 }),
        ("avx512", Peak { unit: Unit::Int16, name: "vpdpwssd zmm", work: words_512 }),
    ];

    macro_rules! features {
        ($name:tt) => {{
            #[cfg(feature = "std")]
            let has = std::arch::is_x86_feature_detected!($name);
            #[cfg(not(feature = "std"))]
            let has = cfg!(target_feature = $name);
            has
        }};
    }

    /// The same with wide registers, where there are any, and prefetches: the hardware of some machines prefetches little.
    pub(super) fn read(data: &[u64]) -> Option<u64> {
        read_wide::<true>(data)
    }

    fn read_wide<const PREFETCH: bool>(data: &[u64]) -> Option<u64> {
        #[inline(always)]
        fn body<const PREFETCH: bool>(data: &[u64]) -> u64 {
            read_body(data, |p| {
                if PREFETCH {
                    crate::kernel::prefetch(p.cast(), true);
                }
            })
        }
        #[target_feature(enable = "avx512f")]
        fn wide<const PREFETCH: bool>(data: &[u64]) -> u64 {
            body::<PREFETCH>(data)
        }
        #[target_feature(enable = "avx2")]
        fn half<const PREFETCH: bool>(data: &[u64]) -> u64 {
            body::<PREFETCH>(data)
        }
        if features!("avx512f") {
            // SAFETY: the feature is there.
            return Some(unsafe { wide::<PREFETCH>(data) });
        }
        // SAFETY: the feature is there.
        features!("avx2").then(|| unsafe { half::<PREFETCH>(data) })
    }

    /// [`reads_ahead`](super::reads_ahead), measured: memory that no cache holds is read with prefetches and
    /// without. Takes a millisecond or two.
    #[cfg(feature = "std")]
    pub(super) fn reads_ahead() -> bool {
        /// 512 KiB.
        const WORDS: usize = 1 << 16;
        const ROUNDS: usize = 5;
        let data = std::vec![1; WORDS];
        let time = |read: fn(&[u64]) -> Option<u64>| {
            for line in data.chunks(8) {
                // SAFETY: every x86-64 machine has SSE2, and the line is ours; it stays what it is.
                unsafe { _mm_clflush(line.as_ptr().cast()) };
            }
            // SAFETY: likewise.
            unsafe { _mm_mfence() };
            let start = std::time::Instant::now();
            core::hint::black_box(read(core::hint::black_box(&data)));
            start.elapsed()
        };
        let mut best = [core::time::Duration::MAX; 2];
        for _ in 0..ROUNDS {
            best[0] = best[0].min(time(read_wide::<false>));
            best[1] = best[1].min(time(read_wide::<true>));
        }
        best[0] < best[1] * 3 / 2
    }

    /// A loop over chains of sums. Assembly, so that the compiler neither moves the products out of the loop nor adds
    /// anything to it.
    macro_rules! peak {
        ($name:ident [$($feature:tt)+] $class:ident $zero:ident $operations:literal $($line:literal)+) => {
            fn $name(rounds: u64) -> u64 {
                $(#[target_feature(enable = $feature)])+
                fn inner(rounds: u64) -> u64 {
                    let (a, b) = ($zero(), $zero());
                    let mut acc = [$zero(); CHAINS];
                    for _ in 0..rounds {
                        for _ in 0..UNROLL {
                            for acc in &mut acc {
                                // SAFETY: it changes the registers named and nothing else.
                                unsafe {
                                    asm!(
                                        $($line,)+
                                        a = in($class) a, b = in($class) b, t = out($class) _, acc = inout($class) *acc,
                                        options(nomem, nostack, preserves_flags)
                                    );
                                }
                            }
                        }
                    }
                    rounds * UNROLL * CHAINS as u64 * $operations
                }
                $(assert!(features!($feature), "this machine has {}", $feature);)+
                // SAFETY: the features are there.
                unsafe { inner(rounds) }
            }
        };
    }

    peak!(float_256 ["avx2" "fma"] ymm_reg _mm256_setzero_ps 16 "vfmadd231ps {acc}, {a}, {b} /* {t} */");
    peak!(int8_256 ["avx2"] ymm_reg _mm256_setzero_si256 64
        "vpmaddubsw {t}, {a}, {b}" "vpmaddwd {t}, {t}, {b}" "vpaddd {acc}, {acc}, {t}");
    peak!(vnni_256 ["avx2" "avxvnni"] ymm_reg _mm256_setzero_si256 64 "{{vex}} vpdpbusd {acc}, {a}, {b} /* {t} */");
    peak!(float_512 ["avx512f"] zmm_reg _mm512_setzero_ps 32 "vfmadd231ps {acc}, {a}, {b} /* {t} */");
    peak!(vnni_512 ["avx512f" "avx512vnni"] zmm_reg _mm512_setzero_si512 128 "vpdpbusd {acc}, {a}, {b} /* {t} */");
    peak!(words_256 ["avx2"] ymm_reg _mm256_setzero_si256 32 "vpmaddwd {t}, {a}, {b}" "vpaddd {acc}, {acc}, {t}");
    peak!(words_512 ["avx512f" "avx512vnni"] zmm_reg _mm512_setzero_si512 64 "vpdpwssd {acc}, {a}, {b} /* {t} */");
}

#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
mod arm {
    use super::{Peak, Unit};
    use core::arch::aarch64::vdupq_n_f32;
    use core::arch::asm;

    const CHAINS: usize = 16;
    const UNROLL: u64 = 8;

    pub(super) const PEAKS: &[(&str, Peak)] = &[
        ("neon", Peak { unit: Unit::Float, name: "fmla", work: float }),
        ("neon", Peak { unit: Unit::Int8, name: "smull, sadalp", work: wide }),
        ("neon", Peak { unit: Unit::Int16, name: "smlal", work: words }),
        ("dotprod", Peak { unit: Unit::Int16, name: "smlal", work: words }),
        ("i8mm", Peak { unit: Unit::Int16, name: "smlal", work: words }),
        ("dotprod", Peak { unit: Unit::Float, name: "fmla", work: float }),
        ("dotprod", Peak { unit: Unit::Int8, name: "sdot", work: four }),
        ("i8mm", Peak { unit: Unit::Float, name: "fmla", work: float }),
        ("i8mm", Peak { unit: Unit::Int8, name: "smmla", work: matrices }),
    ];

    /// As on x86-64. The table of a backend is only used where its features are available.
    macro_rules! peak {
        ($name:ident [$($feature:tt)+] $operations:literal $($line:literal)+) => {
            fn $name(rounds: u64) -> u64 {
                $(#[target_feature(enable = $feature)])+
                fn inner(rounds: u64) -> u64 {
                    let (a, b) = (vdupq_n_f32(0.0), vdupq_n_f32(0.0));
                    let mut acc = [a; CHAINS];
                    for _ in 0..rounds {
                        for _ in 0..UNROLL {
                            for acc in &mut acc {
                                // SAFETY: it changes the registers named and nothing else.
                                unsafe {
                                    asm!(
                                        $($line,)+
                                        a = in(vreg) a, b = in(vreg) b, t = out(vreg) _, acc = inout(vreg) *acc,
                                        options(nomem, nostack, preserves_flags)
                                    );
                                }
                            }
                        }
                    }
                    rounds * UNROLL * CHAINS as u64 * $operations
                }
                // SAFETY: the backend of these features runs here, or its loops would not be asked for.
                unsafe { inner(rounds) }
            }
        };
    }

    peak!(float ["neon"] 8 "fmla {acc:v}.4s, {a:v}.4s, {b:v}.4s // {t:v}");
    peak!(wide ["neon"] 16 "smull {t:v}.8h, {a:v}.8b, {b:v}.8b" "sadalp {acc:v}.4s, {t:v}.8h");
    peak!(words ["neon"] 8 "smlal {acc:v}.4s, {a:v}.4h, {b:v}.4h // {t:v}");
    peak!(four ["neon" "dotprod"] 32 "sdot {acc:v}.4s, {a:v}.16b, {b:v}.16b // {t:v}");
    peak!(matrices ["neon" "i8mm"] 64 "smmla {acc:v}.4s, {a:v}.16b, {b:v}.16b // {t:v}");
}

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm {
    use super::{Peak, Unit};
    use core::arch::wasm32::*;
    use core::hint::black_box;

    const CHAINS: usize = 10;
    const UNROLL: u64 = 8;

    pub(super) const PEAKS: &[(&str, Peak)] = &[
        ("simd128", Peak { unit: Unit::Float, name: "f32x4.mul, f32x4.add", work: float }),
        ("simd128", Peak { unit: Unit::Int8, name: "i32x4.dot_i16x8, i32x4.add", work: words }),
        ("simd128", Peak { unit: Unit::Int16, name: "i32x4.dot_i16x8, i32x4.add", work: words }),
        #[cfg(target_feature = "relaxed-simd")]
        ("relaxed-simd", Peak { unit: Unit::Float, name: "f32x4.mul, f32x4.add", work: float }),
        #[cfg(target_feature = "relaxed-simd")]
        ("relaxed-simd", Peak { unit: Unit::Int16, name: "i32x4.dot_i16x8, i32x4.add", work: words }),
        #[cfg(target_feature = "relaxed-simd")]
        ("relaxed-simd", Peak { unit: Unit::Int8, name: "i16x8.relaxed_dot, i16x8.add", work: relaxed }),
    ];

    /// Every product depends on the previous sum, so that no compiler moves it out of the loop.
    macro_rules! peak {
        ($name:ident $operations:literal $step:expr) => {
            fn $name(rounds: u64) -> u64 {
                let x = black_box(i32x4_splat(0));
                let mut acc = [x; CHAINS];
                for _ in 0..rounds {
                    for _ in 0..UNROLL {
                        for acc in &mut acc {
                            *acc = $step(*acc, x);
                        }
                    }
                }
                black_box(acc);
                rounds * UNROLL * CHAINS as u64 * $operations
            }
        };
    }

    peak!(float 8 |acc, x| f32x4_add(f32x4_mul(acc, x), x));
    peak!(words 16 |acc, x| i32x4_add(i32x4_dot_i16x8(acc, x), acc));
    #[cfg(target_feature = "relaxed-simd")]
    peak!(relaxed 32 |acc, x| i16x8_add(i16x8_relaxed_dot_i8x16_i7x16(acc, x), acc));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read() {
        let mut data: Vec<u64> = (0..64 * 5).map(|i| i * i).collect();
        let all = data.iter().fold(0, |all, word| all ^ word);
        assert_eq!(read(&data), all);
        for i in 0..data.len() {
            data[i] ^= 1 << 40;
            assert_eq!(read(&data), all ^ 1 << 40);
            data[i] ^= 1 << 40;
        }
    }

    #[test]
    fn loops_count_what_they_do() {
        for k in crate::kernel::available() {
            let all = peaks(k);
            for peak in &all {
                let one = (peak.work)(1);
                assert!(one > 0 && (peak.work)(7) == 7 * one, "{} {}", k.name, peak.name);
                assert_eq!(all.iter().filter(|other| other.unit == peak.unit).count(), 1);
            }
        }
    }
}
