//! Every backend of this machine gives the bits of the plain one, whatever the lengths, strides and threads.

use mynah::bytes::Bytes;
use mynah::kernel::{CODES, Int16Layout, Kernels, PLAIN, Pool, QActs, Scratch, Stored, Tile, View, available, by_name};
use mynah::quant::{FORMATS, Floats16, Format, Matrix};
use std::sync::atomic::{AtomicU8, Ordering};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// Numbers from a seed.
pub struct Random(pub u64);

impl Random {
    fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    /// Between −4 and 4.
    fn value(&mut self) -> f32 {
        self.bits() as i32 as f32 / (1 << 29) as f32
    }

    fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }

    /// Random blocks whose values are all of a size that sums of them can be compared.
    fn matrix(&mut self, format: &'static Format, rows: usize, cols: usize) -> Matrix {
        self.matrix_below(1e6, format, rows, cols)
    }

    /// The same with values whose size is below `most`.
    pub fn matrix_below(&mut self, most: f32, format: &'static Format, rows: usize, cols: usize) -> Matrix {
        let decode = format.decode.expect("a decoder");
        let mut bytes = vec![0; rows * format.row_bytes(cols).expect("whole blocks")];
        let mut values = vec![0.0; format.block];
        for block in bytes.chunks_exact_mut(format.bytes) {
            loop {
                block.iter_mut().for_each(|b| *b = self.bits() as u8);
                decode(block, &mut values);
                if values.iter().all(|v| v.abs() < most) {
                    break;
                }
            }
        }
        Matrix::new(format, rows, cols, Bytes::from(bytes)).expect("a matrix")
    }
}

#[track_caller]
fn assert_same(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!(g.to_bits() == w.to_bits() || g.is_nan() && w.is_nan(), "{what}: value {i} is {g}, plain has {w}");
    }
}

fn others() -> Vec<&'static Kernels> {
    let all = available();
    assert_eq!(all[0].name, "plain");
    all[1..].to_vec()
}

#[test]
fn products_equal_the_plain_ones() {
    let mut random = Random(1);
    let wide = [1, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 80, 127, 144, 200, 1000];
    for k in others() {
        for (i, &c) in wide.iter().enumerate() {
            for n in [1, 2, 3, 5, 6, 7, 13] {
                for f in [1, 2, 3, 4, 5, 8, 11, 98] {
                    let (gap_x, gap_w, gap_y) = (i % 3, i % 2 * 5, n % 4);
                    let x = random.values(n * (c + gap_x) + f);
                    let w = random.values(f * (c + gap_w) + n);
                    let (x, w) = (View::strided(&x, n, c, c + gap_x), View::strided(&w, f, c, c + gap_w));
                    let what = format!("{}: {n} × {f} × {c}", k.name);
                    let start = random.values(n * (f + gap_y));
                    let (mut got, mut want) = (start.clone(), start);
                    (k.dots)(x, w, &mut Tile::new(&mut got, n, f + gap_y).part(0..n, gap_y..f + gap_y));
                    (PLAIN.dots)(x, w, &mut Tile::new(&mut want, n, f + gap_y).part(0..n, gap_y..f + gap_y));
                    assert_same(&got, &want, &format!("dots {what}"));

                    let mut halves = vec![0; f * c];
                    (PLAIN.narrow)(&random.values(f * c), &mut halves);
                    let (mut got, mut want, mut wide) = (vec![1.0; n * f], vec![0.0; n * f], vec![0.0; f * c]);
                    (PLAIN.widen)(&halves, &mut wide);
                    let load_bf16: Vec<u16> = random.values(f * c).iter().map(|v| (v.to_bits() >> 16) as u16).collect();
                    let upper: Vec<f32> = load_bf16.iter().map(|&v| f32::from_bits((v as u32) << 16)).collect();
                    for (halves, wide) in [(Floats16::F16(&halves), &wide), (Floats16::Bf16(&load_bf16), &upper)] {
                        (PLAIN.dots)(x, View::new(wide, f, c), &mut Tile::new(&mut want, n, f));
                        (k.float16_dots)(x, halves, &mut Tile::new(&mut got, n, f));
                        assert_same(&got, &want, &format!("dots with halves {what}"));
                        (PLAIN.float16_dots)(x, halves, &mut Tile::new(&mut got, n, f));
                        assert_same(&got, &want, &format!("plain dots with halves {what}"));
                    }
                    for w in [Floats16::F16(&halves), Floats16::Bf16(&load_bf16)] {
                        let words = |k: &Kernels| {
                            let (wide, mut y) = (Int16Layout::of(c).floats(), vec![1.0; n * f]);
                            let mut out = vec![1.0; n * wide];
                            (0..n).for_each(|i| (k.round_int16)(x.row(i), &mut out[i * wide..][..wide]));
                            int16_dots(k, View::new(&out, n, wide), w, c, &mut y);
                            y
                        };
                        assert_same(&words(k), &words(&PLAIN), &format!("dots with words {what}"));
                    }

                    // y [n, c] += a [n, f] · w [f, c].
                    let a = random.values(n * (f + gap_x));
                    let a = View::strided(&a, n, f, f + gap_x);
                    let start = random.values(n * (c + gap_y));
                    let (mut got, mut want) = (start.clone(), start);
                    (k.sums)(a, w, &mut Tile::new(&mut got, n, c + gap_y).part(0..n, gap_y..c + gap_y));
                    (PLAIN.sums)(a, w, &mut Tile::new(&mut want, n, c + gap_y).part(0..n, gap_y..c + gap_y));
                    assert_same(&got, &want, &format!("sums {what}"));

                    // y [f, c] += aᵀ [f, n] · x [n, c].
                    let start = random.values(f * (c + gap_y));
                    let (mut got, mut want) = (start.clone(), start);
                    (k.outer)(a, x, &mut Tile::new(&mut got, f, c + gap_y).part(0..f, gap_y..c + gap_y));
                    (PLAIN.outer)(a, x, &mut Tile::new(&mut want, f, c + gap_y).part(0..f, gap_y..c + gap_y));
                    assert_same(&got, &want, &format!("outer {what}"));
                }
            }
        }
    }
}

/// [`Kernels::int16_dots`] with rows that were not met before.
fn int16_dots(k: &Kernels, x: View, w: Floats16, c: usize, y: &mut [f32]) {
    let f = y.len() / x.n;
    let tops: Vec<AtomicU8> = (0..f).map(|_| AtomicU8::new(0)).collect();
    let mut first = y.to_vec();
    (k.int16_dots)(x, w, c, &tops, &mut Tile::new(&mut first, x.n, f), &mut Scratch::default());
    assert!(tops.iter().all(|top| top.load(Ordering::Relaxed) != 0), "{}: what was found is kept", k.name);
    (k.int16_dots)(x, w, c, &tops, &mut Tile::new(y, x.n, f), &mut Scratch::default());
    assert_same(&first, y, &format!("{}: the second time", k.name));
}

#[test]
fn word_products_are_those_of_codes_in_their_order() {
    let mut random = Random(21);
    for c in [1, 2, 31, 32, 33, 64, 100, 576, 768, 769, 1536, 1700] {
        let mut x = random.values(c);
        x[c / 2] = 100.0;
        let (mut w, mut bits) = (random.values(c), vec![0; c]);
        (PLAIN.narrow)(&w, &mut bits);
        (PLAIN.widen)(&bits, &mut w);
        let w: Vec<f64> = w.iter().map(|&w| w as f64).collect();
        // Pieces of at most 24 times 32 columns, as even as can be; 16 scales each.
        let units = c.div_ceil(32);
        let each = units.div_ceil(units.div_ceil(24));
        let level = (65535 / each).min(32767) as f64;
        let largest = w.iter().fold(0.0, |most, w| w.abs().max(most));
        let unit = largest.log2().floor().exp2() / 8192.0;
        let mut lanes = [0.0f32; 16];
        for piece in 0..units.div_ceil(each) {
            for (l, lane) in lanes.iter_mut().enumerate() {
                let columns = || (32 * each * piece..(32 * each * (piece + 1)).min(c)).filter(|k| k % 16 == l);
                let most = columns().fold(0.0f32, |most, k| x[k].abs().max(most));
                if most > 0.0 {
                    let inverse = level as f32 / most;
                    let code = |k: usize| (x[k] * inverse).round_ties_even() as i64;
                    let weight = |k: usize| (w[k] / unit).round_ties_even() as i64;
                    let sum: i64 = columns().map(|k| code(k) * weight(k)).sum();
                    assert_eq!(sum, sum as i32 as i64, "sums fit");
                    let (d, sum) = (most / level as f32, sum as f32);
                    // WebAssembly rounds twice.
                    *lane = if cfg!(target_arch = "wasm32") { d * sum + *lane } else { d.mul_add(sum, *lane) };
                }
            }
        }
        for half in [8, 4, 2, 1] {
            (0..half).for_each(|l| lanes[l] += lanes[l + half]);
        }
        let want = lanes[0] * unit as f32;
        let exact: f64 = x.iter().zip(&w).map(|(x, w)| *x as f64 * w).sum();
        let size: f64 = x.iter().zip(&w).map(|(x, w)| (*x as f64 * w).powi(2)).sum::<f64>().sqrt();
        assert!((want as f64 - exact).abs() < 2e-3 * size.max(1e-3), "{c} columns: {want} is near {exact}");
        for k in available() {
            let wide = Int16Layout::of(c).floats();
            let (mut out, mut y) = (vec![1.0; wide], [1.0]);
            (k.round_int16)(&x, &mut out);
            int16_dots(k, View::new(&out, 1, wide), Floats16::F16(&bits), c, &mut y);
            assert_same(&y, &[want], &format!("{}, {c} columns", k.name));
        }
    }
}

#[test]
fn word_products_of_the_largest_codes_fit() {
    // The largest F16 below 2, which rounds to 2¹⁴, with columns in one full piece and more.
    for c in [32, 64, 576, 768, 800, 1536] {
        let (x, w, wide) = (vec![1.0; c], vec![0x3fff; c], Int16Layout::of(c).floats());
        for k in available() {
            let (mut out, mut y) = (vec![1.0; wide], [1.0]);
            (k.round_int16)(&x, &mut out);
            int16_dots(k, View::new(&out, 1, wide), Floats16::F16(&w), c, &mut y);
            let want = 1.9990234 * c as f32;
            assert!((y[0] - want).abs() < 1e-3 * want, "{}, {c} columns: {}, not {want}", k.name, y[0]);
        }
    }
}

#[test]
fn word_products_of_what_is_no_usual_number() {
    let one = 0x3f80;
    // Activation, weight in BF16, product.
    let cases = [
        (f32::INFINITY, one, f32::NAN),
        (f32::NAN, one, f32::NAN),
        (0.0, 0x7f80, f32::NAN),
        (1.0, 0x7fc0, f32::NAN),
        (0.0, 0x7a80, f32::NAN),
        (1e-30, 0x7a00, 1e-30 * f32::from_bits(0x7a00_0000)),
        (1.0, 0xffff, f32::NAN),
        (-0.0, one, 0.0),
        (1e30, one, 1e30),
        // Too small for codes.
        (1e-40, one, 0.0),
        (1.0, 1, 0.0),
        (1e30, 0x8000, 0.0),
    ];
    for k in available() {
        for (x, w, want) in cases {
            let wide = Int16Layout::of(1).floats();
            let (mut out, mut y) = (vec![1.0; wide], [1.0]);
            (k.round_int16)(&[x], &mut out);
            int16_dots(k, View::new(&out, 1, wide), Floats16::Bf16(&[w]), 1, &mut y);
            let near = (y[0] - want).abs() <= want.abs() * 1e-4;
            assert!(near || y[0].is_nan() && want.is_nan(), "{}: {x} by {w:x} is {}, not {want}", k.name, y[0]);
        }
    }
}

#[test]
fn products_with_a_cache_are_those_with_its_values() {
    let mut random = Random(11);
    for c in [1usize, 8, 15, 16, 24, 32, 48, 64, 80, 96, 100, 128] {
        let (per, most) = (c.div_ceil(CODES), 203);
        let mut halves = vec![0; most * c];
        (PLAIN.narrow)(&random.values(most * c), &mut halves);
        let (mut codes, mut scales) = (vec![0; most * c], vec![0; most * per]);
        for (codes, scales) in codes.chunks_exact_mut(c).zip(scales.chunks_exact_mut(per)) {
            (PLAIN.code)(&random.values(c), codes, scales);
        }
        for w in [Stored::F16(&halves), Stored::Q8 { codes: &codes, scales: &scales }] {
            let mut values = vec![0.0; most * c];
            PLAIN.decode_stored(w, c, &mut values);
            for k in available() {
                let mut got = vec![1.0; most * c];
                k.decode_stored(w, c, &mut got);
                assert_same(&got, &values, &format!("values of a cache, {c} columns, {}", k.name));
                for n in [1, 2, 3, 4, 5, 7, 9] {
                    for f in [1, 2, 3, 4, 7, 95, 96, 97, 203] {
                        let what = format!("{}: {n} × {f} × {c}", k.name);
                        let (x, a) = (random.values(n * (c + 3)), random.values(n * (f + 5)));
                        let (x, a) = (View::strided(&x, n, c, c + 3), View::strided(&a, n, f, f + 5));
                        let (mut got, mut want) = (vec![1.0; n * f], vec![2.0; n * f]);
                        (k.row_dots)(x, w.rows(0..f, c), &mut Tile::new(&mut got, n, f));
                        (PLAIN.dots)(x, View::new(&values, f, c), &mut Tile::new(&mut want, n, f));
                        assert_same(&got, &want, &format!("dots {what}"));
                        let start = random.values(n * c);
                        let (mut got, mut want) = (start.clone(), start);
                        (k.row_sums)(a, w, &mut Tile::new(&mut got, n, c));
                        (PLAIN.sums)(a, View::new(&values, f, c), &mut Tile::new(&mut want, n, c));
                        assert_same(&got, &want, &format!("sums {what}"));
                    }
                }
            }
        }
    }
}

#[test]
fn codes_are_within_half_a_step_and_keep_what_is_no_number() {
    let mut random = Random(12);
    for c in [1usize, 31, 32, 64, 80] {
        let mut x = random.values(c);
        for k in available() {
            let (mut codes, mut scales, mut back) = (vec![9; c], vec![9; c.div_ceil(CODES)], vec![9.0; c]);
            let mut round = |x: &[f32]| {
                (k.code)(x, &mut codes, &mut scales);
                (k.decode_codes)(&codes, &scales, &mut back);
                (back.clone(), codes.clone(), scales.clone())
            };
            let (values, codes, scales) = round(&x);
            for (i, (got, x)) in values.iter().zip(&x).enumerate() {
                let most = x.abs().max(x_most(&values[i / CODES * CODES..(i / CODES * CODES + CODES).min(c)]));
                assert!((got - x).abs() <= 0.5006 * most / 127.0, "{}: {x} became {got}", k.name);
            }
            let mut plain = (vec![0; c], vec![0; c.div_ceil(CODES)]);
            (PLAIN.code)(&x, &mut plain.0, &mut plain.1);
            assert_eq!((codes, scales), plain, "{}", k.name);
            assert_eq!(round(&vec![0.0; c]).0, vec![0.0; c]);
            assert_eq!(round(&vec![1e-30; c]).0, vec![0.0; c]);
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30] {
                let kept = std::mem::replace(&mut x[c - 1], bad);
                assert!(!round(&x).0[c - 1].is_finite(), "{}: {bad}", k.name);
                x[c - 1] = kept;
            }
        }
    }
}

fn x_most(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |most, v| v.abs().max(most))
}

#[test]
fn empty_products_are_allowed() {
    for k in available() {
        let mut y = [1.0; 6];
        (k.sums)(View::new(&[], 2, 0), View::new(&[], 0, 3), &mut Tile::new(&mut y, 2, 3));
        (k.outer)(View::new(&[], 0, 2), View::new(&[], 0, 3), &mut Tile::new(&mut y, 2, 3));
        assert_eq!(y, [1.0; 6], "{}", k.name);
        (k.dots)(View::new(&[], 2, 0), View::new(&[], 3, 0), &mut Tile::new(&mut y, 2, 3));
        assert_eq!(y, [0.0; 6], "{}", k.name);
        (k.dots)(View::new(&[], 0, 4), View::new(&[], 0, 4), &mut Tile::new(&mut [], 0, 0));
    }
}

#[test]
fn every_format_decodes_and_multiplies_as_plain() {
    let mut random = Random(2);
    for format in FORMATS.iter().filter(|f| f.decode.is_some()) {
        let unit = format.block.max(32);
        for blocks in [1, 2, 3, 5, 17, 33] {
            let cols = blocks * unit;
            if cols > 2560 {
                continue;
            }
            let w = random.matrix(format, 37, cols);
            let what = |k: &Kernels| format!("{} of {} columns, {}", format.name, cols, k.name);
            let part = if blocks > 2 { unit..cols - unit } else { 0..cols };
            let mut want = vec![0.0; 36 * part.len()];
            (PLAIN.decode)(&w, 1..37, part.clone(), &mut want);
            for k in others() {
                let mut got = vec![1.0; want.len()];
                (k.decode)(&w, 1..37, part.clone(), &mut got);
                assert_same(&got, &want, &what(k));
            }
            if format.codes.is_none() {
                continue;
            }
            for (n, wide) in [(1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1), (8, 0), (9, 1), (11, 0), (20, 1)] {
                let mut x = random.values(n * cols);
                // A block of zeros, one of tiny numbers, one with the largest codes of both signs everywhere.
                x[..32].fill(0.0);
                x[(n - 1) * cols..][..32].iter_mut().for_each(|v| *v = v.signum() * 3.0);
                let x = View::new(&x, n, cols);
                let mut acts = QActs::default();
                acts.resize(n, cols, wide == 1);
                (0..n).for_each(|i| (PLAIN.quantize)(x.row(i), acts.row(i)));
                for rows in [0..37, 0..1, 3..36, 20..36] {
                    let f = rows.len();
                    let (mut want, mut scratch) = (vec![0.0; n * f], Scratch::default());
                    (PLAIN.int_dots)(&w, rows.clone(), &[], &acts, &mut Tile::new(&mut want, n, f), &mut scratch);
                    for k in others() {
                        let mut got = vec![1.0; n * f];
                        (k.int_dots)(&w, rows.clone(), w.data(), &acts, &mut Tile::new(&mut got, n, f), &mut scratch);
                        assert_same(&got, &want, &format!("{}, {n} × {rows:?}, wide {wide}", what(k)));
                    }
                }
            }
        }
    }
}

#[test]
fn rows_side_by_side_give_the_same_products() {
    let mut random = Random(9);
    let mut interleaving = 0;
    for format in FORMATS.iter().filter(|f| f.codes.is_some()) {
        let (rows, cols) = (80, format.block.max(64) * 9);
        let w = random.matrix(format, rows, cols);
        if !w.interleaves() {
            continue;
        }
        interleaving += 1;
        let mut bytes = vec![0; w.data().len()];
        w.interleave(0..rows, &mut bytes);
        let interleaved = w.with_interleaved(Bytes::from(bytes));
        for (n, wide) in [(1, false), (1, true), (2, false), (2, true), (7, false), (7, true)] {
            let x = random.values(n * cols);
            let mut acts = QActs::default();
            acts.resize(n, cols, wide);
            (0..n).for_each(|i| (PLAIN.quantize)(&x[i * cols..][..cols], acts.row(i)));
            for part in [0..80, 16..48, 3..36] {
                let f = part.len();
                let (mut want, mut scratch) = (vec![0.0; n * f], Scratch::default());
                (PLAIN.int_dots)(&w, part.clone(), &[], &acts, &mut Tile::new(&mut want, n, f), &mut scratch);
                for k in available() {
                    let mut got = vec![1.0; n * f];
                    (k.int_dots)(
                        &interleaved,
                        part.clone(),
                        w.data(),
                        &acts,
                        &mut Tile::new(&mut got, n, f),
                        &mut scratch,
                    );
                    assert_same(&got, &want, &format!("{} {}, {n} × {part:?}, wide {wide}", format.name, k.name));
                }
            }
        }
    }
    assert_eq!(interleaving, 6);
}

/// The integer product against the definition in double precision: the codes and scales that `unpack` gives.
#[test]
fn integer_products_are_near_the_exact_ones() {
    let mut random = Random(3);
    for format in FORMATS.iter().filter(|f| f.codes.is_some()) {
        let (n, f, cols) = (3, 18, 768);
        let w = random.matrix(format, f, cols);
        let x = random.values(n * cols);
        let x = View::new(&x, n, cols);
        let mut weights = vec![0.0; cols];
        for (k, wide) in available().into_iter().flat_map(|k| [(k, false), (k, true)]) {
            let mut acts = QActs::default();
            acts.resize(n, cols, wide);
            (0..n).for_each(|i| (PLAIN.quantize)(x.row(i), acts.row(i)));
            let mut y = vec![0.0; n * f];
            (k.int_dots)(&w, 0..f, &[], &acts, &mut Tile::new(&mut y, n, f), &mut Scratch::default());
            for j in 0..f {
                w.decode(j, 0..cols, &mut weights);
                for i in 0..n {
                    let terms = |c: usize| {
                        let x = acts.d[(i * cols + c) / 16] as f64 * acts.code(i, c) as f64;
                        x * weights[c] as f64
                    };
                    let want: f64 = (0..cols).map(terms).sum();
                    let most: f64 = (0..cols).map(|c| terms(c).abs()).sum();
                    let got = y[i * f + j] as f64;
                    assert!((got - want).abs() <= 1e-5 * most, "{} {}: {got} for {want}", format.name, k.name);
                }
            }
        }
    }
}

#[test]
fn quantised_rows_are_within_half_a_step() {
    let mut random = Random(4);
    let (n, c) = (3, 96);
    let mut x = random.values(n * c);
    x[0..32].fill(0.0);
    x[32] = f32::NAN;
    x[64] = f32::INFINITY;
    for (k, wide) in available().into_iter().flat_map(|k| [(k, false), (k, true)]) {
        let mut acts = QActs::default();
        acts.resize(n, c, wide);
        let view = View::new(&x, n, c);
        (0..n).for_each(|i| (k.quantize)(view.row(i), acts.row(i)));
        let code = |i: usize| acts.code(i / c, i % c);
        assert!(acts.d[..2] == [0.0; 2] && (0..32).all(|i| code(i) == 0));
        assert!(acts.d[2].is_nan() && acts.d[4].is_infinite());
        let most = if wide { 1927 } else { 127 };
        let mut largest = 0;
        for i in c..n * c {
            let (d, q) = (acts.d[i / 16], code(i));
            assert!((x[i] - d * q as f32).abs() <= 0.5001 * d, "{}: {} as {q} · {d}", k.name, x[i]);
            largest = largest.max(q.abs());
        }
        assert!(largest > most * 9 / 10 && largest <= most, "{}: {largest}", k.name);
        for (i, s) in acts.s.iter().enumerate() {
            assert_eq!(*s, (16 * i..16 * i + 16).map(code).sum::<i32>());
        }
        for (i, low) in acts.low.iter().enumerate().skip(3) {
            let want: f64 = (32 * i..32 * i + 32).map(|i| acts.d[i / 16] as f64 * code(i) as f64).sum();
            assert!((*low as f64 - want).abs() <= 1e-5, "{}: {low} for {want}", k.name);
        }
    }
}

#[test]
fn quantised_rows_equal_the_plain_ones() {
    let mut random = Random(10);
    let c = 4096;
    let mut x = random.values(c);
    for (i, block) in x.chunks_exact_mut(16).enumerate() {
        let size = 10f32.powi(i as i32 % 64 - 40);
        block.iter_mut().for_each(|v| *v *= size);
        // Zeros, an only value, what is halfway between codes, and what is no number.
        match i % 32 {
            5 => block.fill(0.0),
            6 => block[..15].fill(-0.0),
            7 => (0..16).for_each(|l| block[l] = (l as f32 - 8.0) / 2.0),
            8 => block[i % 16] = f32::NAN,
            9 => block[i % 16] = f32::NEG_INFINITY,
            _ => {}
        }
    }
    for wide in [false, true] {
        let rounded = |k: &Kernels| {
            let mut acts = QActs::default();
            acts.resize(1, c, wide);
            (k.quantize)(&x, acts.row(0));
            acts
        };
        let want = rounded(&PLAIN);
        for k in others() {
            let got = rounded(k);
            assert!(got.q == want.q && got.s == want.s, "{}: codes, wide {wide}", k.name);
            assert_same(&got.d, &want.d, &format!("{}: scales", k.name));
            assert_same(&got.low, &want.low, &format!("{}: sums", k.name));
        }
    }
}

#[test]
fn rounded_columns_are_blocks_of_q8_0() {
    let mut random = Random(9);
    let q8_0 = Format::by_name("Q8_0").expect("a format");
    let decode = q8_0.decode.expect("a decoder");
    for c in [16, 48, 64] {
        let mut x = random.values(32 * c);
        // A column of zeros, of numbers too small for any scale, with a subnormal scale, and one that is not finite.
        for (i, row) in x.chunks_exact_mut(c).enumerate() {
            row[1] = 0.0;
            row[2] *= 1e-30;
            row[3] *= 1e-4;
            row[4] = if i == 7 { f32::INFINITY } else { row[4] };
        }
        let view = View::strided(&x, 32, c, c);
        let mut want = vec![0; 34 * c];
        (PLAIN.round_columns)(view, &mut want);
        for k in others() {
            let mut got = vec![1; 34 * c];
            (k.round_columns)(view, &mut got);
            assert!(got == want, "{} columns, {}", c, k.name);
        }
        for (j, block) in want.chunks_exact(34).enumerate() {
            let mut values = [0.0; 32];
            decode(block, &mut values);
            let column: Vec<f32> = (0..32).map(|i| x[i * c + j]).collect();
            let most = column.iter().fold(0.0, |most: f32, v| most.max(v.abs()));
            if j == 4 {
                assert!(values[7].is_nan());
                continue;
            }
            // Half a step, and what the scale is off as a half.
            let bound = most / 254.0 * 1.002 + most / 2000.0 + 4e-6;
            for (v, x) in values.iter().zip(&column) {
                assert!((v - x).abs() <= bound, "column {j}: {x} as {v}");
            }
        }
    }
}

#[test]
fn functions_of_rows_equal_the_plain_ones() {
    let mut random = Random(5);
    for n in (0..70).chain([127, 128, 129, 1000]) {
        let mut x: Vec<f32> = random.values(n).iter().map(|v| v * 30.0).collect();
        for (i, special) in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -0.0, 1e-41].into_iter().enumerate() {
            if n > 60 {
                x[7 * i + 3] = special;
            }
        }
        let (up, d) = (random.values(n), random.values(n));
        let finite: Vec<f32> = x.iter().map(|v| if v.is_finite() { *v } else { 1.0 }).collect();
        for k in others() {
            let what = format!("{} of {n}", k.name);
            let (mut got, mut want) = (x.clone(), x.clone());
            (k.exp)(&mut got);
            (PLAIN.exp)(&mut want);
            assert_same(&got, &want, &format!("exp {what}"));
            for x in [&x, &finite] {
                let (mut got, mut want) = (x.clone(), x.clone());
                let (a, b) = ((k.softmax)(&mut got), (PLAIN.softmax)(&mut want));
                assert_same(&got, &want, &format!("softmax {what}"));
                assert_same(&[a], &[b], &format!("normaliser {what}"));
            }
            (k.silu_mul)(&x, &up, &mut got);
            (PLAIN.silu_mul)(&x, &up, &mut want);
            assert_same(&got, &want, &format!("silu {what}"));
            let (mut gates, mut ups) = ([x.clone(), x.clone()], [up.clone(), up.clone()]);
            (k.silu_mul_backward)(&mut gates[0], &mut ups[0], &d);
            (PLAIN.silu_mul_backward)(&mut gates[1], &mut ups[1], &d);
            assert_same(&gates[0], &gates[1], &format!("gradient of the gate {what}"));
            assert_same(&ups[0], &ups[1], &format!("gradient of the other {what}"));
            let halves = |k: &Kernels| {
                let (mut half, mut back) = (vec![0; n], vec![0.0; n]);
                (k.narrow)(&x, &mut half);
                (k.widen)(&half, &mut back);
                (half, back)
            };
            let (got, want) = (halves(k), halves(&PLAIN));
            assert_eq!(got.0, want.0, "narrow {what}");
            assert_same(&got.1, &want.1, &format!("widen {what}"));
        }
    }
}

#[test]
fn threads_change_no_bit() {
    let mut random = Random(6);
    let (n, f, c) = (19, 100, 256);
    let w = random.matrix(Format::by_name("Q4_0").expect("a format"), f, c);
    let x = random.values(n * c);
    for k in available() {
        let results: Vec<Vec<f32>> = (1..=4)
            .map(|threads| {
                let pool = Pool::new(threads);
                let mut y = vec![0.0; n * f];
                for _ in 0..20 {
                    pool.grid([Tile::new(&mut y, n, f)], [(5, 16)], &|i, j, [mut y], scratch| {
                        let rows = 16 * j..(16 * j + 16).min(f);
                        let tile = scratch.floats(rows.len() * c);
                        (k.decode)(&w, rows.clone(), 0..c, tile);
                        let x = View::new(&x, n, c).rows(5 * i..(5 * i + 5).min(n));
                        (k.dots)(x, View::new(tile, rows.len(), c), &mut y);
                    });
                }
                y
            })
            .collect();
        results.iter().for_each(|y| assert_same(y, &results[0], k.name));
    }
}

#[test]
fn backends_are_found_by_name() {
    for k in available() {
        assert_eq!(by_name(k.name).expect("a backend").name, k.name);
    }
    let message = by_name("abacus\n").err().expect("no such backend").to_string();
    assert!(message.contains("plain") && !message.contains('\n'), "{message}");
}
