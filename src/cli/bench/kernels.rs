//! Every kernel: first its bits beside the plain one's, then its speed beside the machine's.

use super::machine::{self, Limits};
use super::{digits, threads};
use crate::args::{Bench, Usage, setting};
use crate::meter::{self, Meter};
use crate::{Outcome, out};
use anyhow::bail;
use mynah::bytes::Bytes;
use mynah::decode::{Sampler, Sampling};
use mynah::kernel::pool::bind;
use mynah::kernel::{self, CODES, Compute, Kernels, PLAIN, Pool, QActs, Stored, Tile, View};
use mynah::model::CacheType;
use mynah::model::cache::PAGE;
use mynah::nn::attention::{self, Heads, Memory, OnePiece, Sees, Side, Source};
use mynah::nn::linear::{self, Accumulate, Back, Input, Precision, Quantized};
use mynah::nn::norm::{self, Kind, Norm};
use mynah::nn::rope::{Pairing, Rope, Rotations, Scaling};
use mynah::quant::{FORMATS, Format, Matrix};
use serde_json::json;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Formats that are measured if none is named.
const USUAL: &[&str] = &[
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "F16", "BF16",
    "F32",
];
/// Rows of activations that meet a matrix.
const ROWS: [usize; 8] = [1, 2, 4, 8, 16, 32, 128, 512];
/// Columns of the matrices.
const COLS: usize = 1536;
/// Bytes of a matrix that stays in the L2 cache, and of one that no cache holds.
const NEAR: usize = 512 << 10;
const FAR: usize = 96 << 20;
/// Rows of gradients in the transposed product.
const BACK: usize = 128;
/// What is spent on a figure, unless one run takes longer.
const BUDGET: Duration = Duration::from_millis(12);
/// A call that takes longer is not made larger.
const SLOW: f64 = 4e-3;

/// Numbers from a seed.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    /// Between −4 and 4.
    fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.bits() as i32 as f32 / (1 << 29) as f32).collect()
    }

    /// The bytes of some rows of a format, repeated to fill a matrix.
    fn matrix(&mut self, format: &'static Format, rows: usize, cols: usize) -> mynah::Result<Matrix> {
        let some = rows.min(64);
        let mut bytes = vec![0; some * format.row_bytes(cols).unwrap_or(0)];
        match (&format.codes, format.encode) {
            (None, Some(encode)) => encode(&self.values(some * cols), &mut bytes),
            // No scale, wherever it stands, is then large or special.
            _ => bytes.iter_mut().for_each(|b| *b = self.bits() as u8 & 0xbb),
        }
        let all = Bytes::filled(bytes.len() / some * rows, |all| {
            all.chunks_mut(bytes.len()).for_each(|all| all.copy_from_slice(&bytes[..all.len()]));
        })?;
        Matrix::new(format, rows, cols, all)
    }
}

fn alone(kernels: &'static Kernels) -> Compute {
    Compute { kernels, pool: Pool::new(1) }
}

/// Seconds of one call: the best of the calls that the budget allows, at least two.
fn time(mut f: impl FnMut()) -> f64 {
    let start = Instant::now();
    f();
    let first = start.elapsed().as_secs_f64();
    // So many together that the clock's steps do not count.
    let batch = (20e-6 / first.max(1e-9)).ceil().clamp(1.0, 1e4) as usize;
    let (start, mut best, mut runs) = (Instant::now(), f64::INFINITY, 0);
    while runs == 0 || start.elapsed() < BUDGET {
        let begin = Instant::now();
        (0..batch).for_each(|_| f());
        best = best.min(begin.elapsed().as_secs_f64() / batch as f64);
        runs += 1;
    }
    best
}

/// Whether values have the same bits; what is no number counts as equal to such.
fn same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan())
}

/// What a format's kernels do with small matrices on a backend: all that must be the same on every backend.
fn sample(k: &'static Kernels, w: &Matrix, x: &[f32]) -> Vec<f32> {
    let (cx, c, f) = (alone(k), w.cols, w.rows);
    let mut all = vec![0.0; f * c];
    (k.decode)(w, 0..f, 0..c, &mut all);
    for n in [1, 2, 3, 4, 7, 8, 16, 33] {
        for wide in [false, true] {
            let (mut quantized, mut y) = (Quantized::default(), vec![0.0; n * f]);
            let input = Input::new(&cx, Precision::Int8, View::new(x, n, c), &[w], wide, &mut quantized);
            linear::forward(&cx, w, input, &mut Tile::new(&mut y, n, f));
            all.extend(y);
        }
        for precision in [Precision::F32, Precision::Int8] {
            let (mut dx, mut back) = (vec![1.0; n * c], Back::default());
            linear::backward(
                &cx,
                precision,
                w,
                View::new(x, n, f),
                Accumulate::Add,
                &mut Tile::new(&mut dx, n, c),
                &mut back,
            );
            all.extend(dx);
        }
    }
    all
}

/// The speed of a format's kernels on a backend, with one thread.
struct Products {
    /// Bytes of weights a second, one row of activations: from memory, and from the L2 cache.
    far: f64,
    near: f64,
    /// Operations a second for each of [`ROWS`].
    rows: [f64; ROWS.len()],
    /// Of the transposed product.
    back: f64,
    /// Values a second.
    decode: f64,
}

/// `small`: [`NEAR`] bytes of weights, `large`: [`FAR`].
fn products(k: &'static Kernels, small: &Matrix, large: &Matrix, x: &[f32]) -> Products {
    let cx = alone(k);
    let mut y = vec![0.0; ROWS[ROWS.len() - 1] * small.rows.max(COLS)];
    let mut run = |w: &Matrix, n: usize| {
        let mut quantized = Quantized::default();
        let input = Input::new(&cx, Precision::Int8, View::new(x, n, w.cols), &[w], false, &mut quantized);
        y.resize(y.len().max(n * w.rows), 0.0);
        time(|| linear::forward(&cx, w, input, &mut Tile::new(black_box(&mut y), n, w.rows)))
    };
    // A backend that is slow with a few rows of weights is measured with those.
    let few = Matrix::new(small.format, 48, COLS, small.data().slice(0..48 * small.row_bytes()).expect("48 rows"));
    let few = few.expect("rows of a matrix");
    let work = |w: &Matrix, n: usize| 2.0 * (w.rows * w.cols * n) as f64;
    let rows = ROWS.map(|n| {
        let seconds = run(&few, n);
        if seconds > SLOW { work(&few, n) / seconds } else { work(small, n) / run(small, n) }
    });
    let bytes = |w: &Matrix, seconds: f64| w.data().len() as f64 / seconds;
    let near = rows[0] / work(small, 1) * small.data().len() as f64;
    let far = bytes(large, run(large, 1));
    let back = {
        let run = |w: &Matrix| {
            let (mut dx, mut back) = (vec![0.0; BACK * COLS], Back::default());
            let dy = View::new(x, BACK, w.rows);
            time(|| {
                let dx = &mut Tile::new(black_box(&mut dx), BACK, COLS);
                linear::backward(&cx, Precision::F32, w, dy, Accumulate::Add, dx, &mut back);
            })
        };
        let seconds = run(&few);
        if seconds > SLOW { work(&few, BACK) / seconds } else { work(small, BACK) / run(small) }
    };
    let mut out = vec![0.0; few.rows * COLS];
    let seconds = time(|| (k.decode)(&few, 0..few.rows, 0..COLS, black_box(&mut out)));
    Products { far, near, rows, back, decode: (few.rows * COLS) as f64 / seconds }
}

/// A kernel that is no product with a frozen matrix, or a layer of such: a name, the unit, and what a call works on.
struct Piece {
    name: &'static str,
    unit: &'static str,
    /// Units of one call.
    amount: f64,
    /// What a call gives, as bits to compare.
    run: fn(&Compute, &mut Bed),
}

/// The memory that pieces work on.
struct Bed {
    x: Vec<f32>,
    y: Vec<f32>,
    half: Vec<u16>,
    codes: Vec<i8>,
    scales: Vec<u16>,
    acts: QActs,
    rope: Rope,
    rotations: Rotations,
    samplers: [Sampler; 3],
}

impl Bed {
    fn new(random: &mut Random) -> Bed {
        let x = random.values(512 * COLS);
        let half = x.iter().take(T * KV).map(|&v| f16_bits(v)).collect();
        let (mut codes, mut scales) = (vec![0; T * KV], vec![0; T * KV / CODES]);
        (PLAIN.code)(&x[..T * KV], &mut codes, &mut scales);
        let (rope, mut rotations) =
            (Rope::new(Pairing::Neighbours, HEADS.dim, 1e4, Scaling::NONE, None), Rotations::default());
        let positions: [u32; 16] = std::array::from_fn(|i| 31 * i as u32);
        rope.rotations(&Compute { kernels: &PLAIN, pool: Pool::new(1) }, &positions, &mut rotations);
        // The likeliest; as `mynah run` has it; without a bound on the number.
        let all = [Sampling::greedy(), Sampling::default(), Sampling::default().with("top k", 0)];
        let samplers = all.map(|sampling| Sampler::new(&sampling).expect("good settings"));
        Bed { x, y: vec![0.0; 512 * COLS], half, codes, scales, acts: QActs::default(), rope, rotations, samplers }
    }

    /// Everything that a piece can have written.
    fn written(&self) -> Vec<f32> {
        let acts = self.acts.q.iter().map(|&q| q as f32).chain(self.acts.d.iter().copied());
        let halves = self.half.iter().chain(&self.scales).map(|&h| h as f32);
        let codes = self.codes.iter().map(|&code| code as f32);
        self.y.iter().copied().chain(acts).chain(halves).chain(codes).collect()
    }
}

fn f16_bits(x: f32) -> u16 {
    let mut out = [0];
    (PLAIN.narrow)(&[x], &mut out);
    out[0]
}

/// Heads, positions and the widths that follow.
const HEADS: Heads = Heads { q: 9, kv: 3, dim: 64, scale: 0.125, cap: None };
const Q: usize = HEADS.q * HEADS.dim;
const KV: usize = HEADS.kv * HEADS.dim;
const T: usize = 512;
/// Logits of a large vocabulary.
const VOCAB: usize = 150_000;

fn attend(cx: &Compute, bed: &mut Bed, rows: usize, cache: CacheType) {
    let data = match cache {
        CacheType::Q8 => Stored::Q8 { codes: &bed.codes, scales: &bed.scales },
        _ => Stored::F16(&bed.half),
    };
    let pages = OnePiece { data, positions: T, dim: HEADS.dim, len: PAGE };
    let memory = match cache {
        CacheType::F32 => Memory::Rows(View::new(&bed.x, T, KV)),
        _ => Memory::Cache { pages: &pages, layer: 0, side: Side::Keys },
    };
    let out = &mut Tile::new(&mut bed.y, rows, Q);
    let source = Source { keys: memory, values: memory, n: T, first: T - rows, sees: Sees::Causal };
    attention::forward(cx, HEADS, View::new(&bed.x, rows, Q), &source, out, None);
}

fn draw(cx: &Compute, bed: &mut Bed, with: usize) {
    bed.y[0] = bed.samplers[with].pick(cx.kernels, &bed.x[..VOCAB]).expect("finite logits") as f32;
}

fn quantise(cx: &Compute, bed: &mut Bed, wide: bool) {
    bed.acts.resize(16, COLS, wide);
    cx.quantize(View::new(&bed.x, 16, COLS), &mut bed.acts);
}

const PIECES: &[Piece] = &[
    Piece {
        name: "dots 64 × 48 × 1536",
        unit: "GFLOP/s",
        amount: (2 * 64 * 48 * COLS) as f64,
        run: |cx, bed| {
            let (x, w) = (View::new(&bed.x, 64, COLS), View::new(&bed.x[64 * COLS..], 48, COLS));
            (cx.kernels.dots)(x, w, &mut Tile::new(&mut bed.y, 64, 48))
        },
    },
    Piece {
        name: "sums 64 × 96 × 64",
        unit: "GFLOP/s",
        amount: (2 * 64 * 96 * 64) as f64,
        run: |cx, bed| {
            bed.y[..64 * 64].fill(0.0);
            let (a, w) = (View::new(&bed.x, 64, 96), View::new(&bed.x[64 * 96..], 96, 64));
            (cx.kernels.sums)(a, w, &mut Tile::new(&mut bed.y, 64, 64))
        },
    },
    Piece {
        name: "outer 64 × 48 × 576",
        unit: "GFLOP/s",
        amount: (2 * 64 * 48 * 576) as f64,
        run: |cx, bed| {
            bed.y[..48 * 576].fill(0.0);
            let (a, b) = (View::new(&bed.x, 64, 48), View::new(&bed.x[64 * 48..], 64, 576));
            (cx.kernels.outer)(a, b, &mut Tile::new(&mut bed.y, 48, 576))
        },
    },
    Piece {
        name: "quantise to 8 bits",
        unit: "G values/s",
        amount: (16 * COLS) as f64,
        run: |cx, bed| quantise(cx, bed, false),
    },
    Piece {
        name: "quantise to 12 bits",
        unit: "G values/s",
        amount: (16 * COLS) as f64,
        run: |cx, bed| quantise(cx, bed, true),
    },
    Piece {
        name: "attention, 1 row of 512, f16",
        unit: "GFLOP/s",
        amount: (4 * Q * T) as f64,
        run: |cx, bed| attend(cx, bed, 1, CacheType::F16),
    },
    Piece {
        name: "attention, 1 row of 512, q8_0",
        unit: "GFLOP/s",
        amount: (4 * Q * T) as f64,
        run: |cx, bed| attend(cx, bed, 1, CacheType::Q8),
    },
    Piece {
        name: "attention, 1 row of 512, f32",
        unit: "GFLOP/s",
        amount: (4 * Q * T) as f64,
        run: |cx, bed| attend(cx, bed, 1, CacheType::F32),
    },
    Piece {
        name: "attention, 512 rows, f16",
        unit: "GFLOP/s",
        amount: (2 * Q * T * (T + 1)) as f64,
        run: |cx, bed| attend(cx, bed, T, CacheType::F16),
    },
    Piece {
        name: "attention, 512 rows, q8_0",
        unit: "GFLOP/s",
        amount: (2 * Q * T * (T + 1)) as f64,
        run: |cx, bed| attend(cx, bed, T, CacheType::Q8),
    },
    Piece {
        name: "attention, 512 rows, f32",
        unit: "GFLOP/s",
        amount: (2 * Q * T * (T + 1)) as f64,
        run: |cx, bed| attend(cx, bed, T, CacheType::F32),
    },
    Piece {
        name: "softmax of 512",
        unit: "G values/s",
        amount: 512.0,
        run: |cx, bed| {
            bed.y[..512].copy_from_slice(&bed.x[..512]);
            bed.y[512] = (cx.kernels.softmax)(&mut bed.y[..512]);
        },
    },
    Piece {
        name: "exp",
        unit: "G values/s",
        amount: 4096.0,
        run: |cx, bed| {
            bed.y[..4096].copy_from_slice(&bed.x[..4096]);
            (cx.kernels.exp)(&mut bed.y[..4096])
        },
    },
    Piece {
        name: "silu · up",
        unit: "G values/s",
        amount: 4096.0,
        run: |cx, bed| (cx.kernels.silu_mul)(&bed.x[..4096], &bed.x[4096..8192], &mut bed.y[..4096]),
    },
    Piece {
        name: "silu · up backward",
        unit: "G values/s",
        amount: 4096.0,
        run: |cx, bed| {
            bed.y[..8192].copy_from_slice(&bed.x[..8192]);
            let (gate, up) = bed.y[..8192].split_at_mut(4096);
            (cx.kernels.silu_mul_backward)(gate, up, &bed.x[..4096])
        },
    },
    Piece {
        name: "norm of 1536",
        unit: "G values/s",
        amount: (16 * COLS) as f64,
        run: |cx, bed| {
            let (x, gain) = (View::new(&bed.x, 16, COLS), &bed.x[16 * COLS..17 * COLS]);
            let rms = Norm { kind: Kind::Rms, eps: 1e-5 };
            norm::forward(cx, rms, x, gain, None, &mut Tile::new(&mut bed.y, 16, COLS))
        },
    },
    Piece {
        name: "rope of 9 heads of 64",
        unit: "G values/s",
        amount: (16 * Q) as f64,
        run: |cx, bed| {
            bed.y[..16 * Q].copy_from_slice(&bed.x[..16 * Q]);
            bed.rope.apply(cx, &mut Tile::new(&mut bed.y, 16, Q), HEADS.dim, &bed.rotations, false)
        },
    },
    Piece {
        name: "the likeliest of 150000",
        unit: "G values/s",
        amount: VOCAB as f64,
        run: |cx, bed| draw(cx, bed, 0),
    },
    Piece {
        name: "sampling of 150000, top-k 40",
        unit: "G values/s",
        amount: VOCAB as f64,
        run: |cx, bed| draw(cx, bed, 1),
    },
    Piece {
        name: "sampling of 150000, no top-k",
        unit: "G values/s",
        amount: VOCAB as f64,
        run: |cx, bed| draw(cx, bed, 2),
    },
    Piece {
        name: "halves to floats",
        unit: "G values/s",
        amount: 4096.0,
        run: |cx, bed| (cx.kernels.widen)(&bed.half[..4096], &mut bed.y[..4096]),
    },
    Piece {
        name: "floats to halves",
        unit: "G values/s",
        amount: 4096.0,
        run: |cx, bed| (cx.kernels.narrow)(&bed.x[..4096], &mut bed.half[..4096]),
    },
];

/// The formats that are asked for, or the usual ones.
fn formats(args: &Bench) -> anyhow::Result<Vec<&'static Format>> {
    let decoded = || FORMATS.iter().filter(|f| f.decode.is_some());
    if args.format.iter().any(|name| name.eq_ignore_ascii_case("all")) {
        return Ok(decoded().collect());
    }
    let names: Vec<&str> = args.format.iter().map(String::as_str).collect();
    let names = if names.is_empty() { USUAL } else { &names };
    let find = |name: &&str| {
        decoded().find(|f| f.name.eq_ignore_ascii_case(name)).ok_or_else(|| {
            let known: Vec<&str> = decoded().map(|f| f.name).collect();
            Usage::error(format!("--format {name}: this build decodes {}", known.join(", ")))
        })
    };
    names.iter().map(find).collect()
}

pub fn bench(args: &Bench, json: bool) -> anyhow::Result<Outcome> {
    let backends = super::backends(args, || Ok(kernel::available()))?;
    let (formats, threads) = (formats(args)?, threads(args)?);
    if let Some(&core) = args.cpus.first() {
        setting(bind(core))?;
    }
    let mut random = Random(1);
    let mut bed = Bed::new(&mut random);
    let steps = formats.len() * (backends.len() + 1) + backends.len() * 2;
    let meter = Meter::new(steps as u64);
    let mut done = 0;
    let mut step = |what: &str| {
        done += 1;
        meter.show(done, || what.to_string());
    };

    check_pieces(&backends)?;
    let mut speeds = Vec::new();
    for format in &formats {
        if meter::interrupted() {
            return Ok(Outcome::Interrupted);
        }
        step(&format!("{}: the same bits as plain?", format.name));
        check(&mut random, format, &backends)?;
        let row = format.row_bytes(COLS).unwrap_or(1);
        let near = random.matrix(format, (NEAR / row / 16 * 16).clamp(48, 512), COLS)?;
        let far = random.matrix(format, FAR / row, COLS)?;
        let mut all = Vec::new();
        for k in &backends {
            step(&format!("{} on {}", format.name, k.name));
            all.push(products(k, &near, &far, &bed.x));
        }
        speeds.push(all);
    }
    let mut pieces = Vec::new();
    for k in &backends {
        step(&format!("other kernels of {}", k.name));
        let cx = alone(k);
        pieces
            .push(PIECES.iter().map(|piece| piece.amount / time(|| (piece.run)(&cx, &mut bed))).collect::<Vec<f64>>());
    }
    let mut limits: Vec<Vec<Limits>> = Vec::new();
    for k in &backends {
        step(&format!("limits of {}", k.name));
        let of = |(i, t): (usize, &usize)| match limits.first() {
            // Memory is the same for all.
            Some(first) => machine::arithmetic(k, *t, &args.cpus, first[i].bytes),
            None => machine::limits(k, *t, &args.cpus),
        };
        limits.push(setting(threads.iter().enumerate().map(of).collect())?);
    }
    meter.done();

    let result = Result { backends: &backends, threads: &threads, limits, formats: &formats, speeds, pieces };
    if json {
        result.json()?
    } else {
        out::print(&result.text())?
    }
    Ok(Outcome::Done)
}

/// # Errors
/// Naming the format and the backend whose bits are others than the plain backend's.
fn check(random: &mut Random, format: &'static Format, backends: &[&'static Kernels]) -> anyhow::Result<()> {
    for cols in [format.block.max(32), 768] {
        let w = setting(random.matrix(format, 67, cols))?;
        let x = random.values(33 * 768);
        let want = sample(&PLAIN, &w, &x);
        for k in backends {
            if !same(&sample(k, &w, &x), &want) {
                bail!("backend {}: products with {} are not those of the plain backend", k.name, format.name);
            }
        }
    }
    Ok(())
}

/// # Errors
/// Naming the kernel and the backend whose bits are others than the plain backend's.
fn check_pieces(backends: &[&'static Kernels]) -> anyhow::Result<()> {
    for piece in PIECES {
        let result = |k| {
            let mut bed = Bed::new(&mut Random(2));
            (piece.run)(&alone(k), &mut bed);
            bed.written()
        };
        let want = result(&PLAIN);
        for k in backends {
            if !same(&result(k), &want) {
                bail!("backend {}: {} does not give the plain backend's bits", k.name, piece.name);
            }
        }
    }
    Ok(())
}

/// All figures. `limits`: `[backends][threads]`, `speeds`: `[formats][backends]`, `pieces`: `[backends][PIECES]`.
struct Result<'a> {
    backends: &'a [&'static Kernels],
    threads: &'a [usize],
    limits: Vec<Vec<Limits>>,
    formats: &'a [&'static Format],
    speeds: Vec<Vec<Products>>,
    pieces: Vec<Vec<f64>>,
}

impl Result<'_> {
    fn json(&self) -> anyhow::Result<()> {
        for (k, limits) in self.backends.iter().zip(&self.limits) {
            for (threads, l) in self.threads.iter().zip(limits) {
                out::print_json(&json!({
                    "backend": k.name, "n_threads": threads, "limit_bytes_per_second": l.bytes,
                    "limit_int8_operations_per_second": l.int8, "limit_float_operations_per_second": l.float,
                    "limit_int16_operations_per_second": l.int16,
                }))?;
            }
        }
        for (i, k) in self.backends.iter().enumerate() {
            for (format, speeds) in self.formats.iter().zip(&self.speeds) {
                let p = &speeds[i];
                let rows: serde_json::Map<_, _> =
                    ROWS.iter().zip(p.rows).map(|(n, rate)| (n.to_string(), json!(rate))).collect();
                out::print_json(&json!({
                    "backend": k.name, "format": format.name, "same_bits": true, "memory_bytes_per_second": p.far,
                    "cache_bytes_per_second": p.near, "operations_per_second_by_rows": rows,
                    "transposed_operations_per_second": p.back, "decoded_values_per_second": p.decode,
                }))?;
            }
            for (piece, speed) in PIECES.iter().zip(&self.pieces[i]) {
                out::print_json(&json!({
                    "backend": k.name, "kernel": piece.name, "same_bits": true, "unit": piece.unit,
                    "per_second": speed,
                }))?;
            }
        }
        Ok(())
    }

    fn text(&self) -> String {
        let giga = |rate: f64| digits(rate / 1e9);
        let some = |rate: Option<f64>| rate.map_or("-".into(), giga);
        let mut text = String::from("Every kernel gave the bits of the plain backend before it was measured.\n\n");
        let head = ["limits of this machine", "threads", "memory GB/s", "int8 GOP/s", "int16 GOP/s", "f32 GFLOP/s"];
        let mut table = out::table(&head, 1..6);
        for (k, limits) in self.backends.iter().zip(&self.limits) {
            for (threads, l) in self.threads.iter().zip(limits) {
                let cells = [some(l.int8), some(l.int16), some(l.float)];
                table.add_row([vec![k.name.into(), threads.to_string(), giga(l.bytes)], cells.to_vec()].concat());
            }
        }
        text += &format!("{}\n", table.trim_fmt());
        let mut head = vec!["×1 far\nGB/s".to_string(), "near\nGB/s".into()];
        head.extend(ROWS.iter().enumerate().map(|(i, n)| if i == 0 { "×1\nGOP/s".into() } else { format!("×{n}") }));
        head.extend([format!("dy·W ×{BACK}\nGFLOP/s"), "decode\nG/s".into()]);
        for (i, k) in self.backends.iter().enumerate() {
            let name = format!("{}\n1 thread", k.name);
            let head: Vec<&str> = [name.as_str()].into_iter().chain(head.iter().map(String::as_str)).collect();
            let mut table = out::table(&head, 1..head.len());
            for (format, speeds) in self.formats.iter().zip(&self.speeds) {
                let p = &speeds[i];
                let rates = [p.far, p.near].into_iter().chain(p.rows).chain([p.back, p.decode]);
                table.add_row([format.name.to_string()].into_iter().chain(rates.map(giga)));
            }
            text += &format!("\n{}\n", table.trim_fmt());
        }
        let head: Vec<&str> =
            ["other kernels, 1 thread", "unit"].into_iter().chain(self.backends.iter().map(|k| k.name)).collect();
        let mut table = out::table(&head, 2..head.len());
        for (j, piece) in PIECES.iter().enumerate() {
            let speeds = self.pieces.iter().map(|speeds| giga(speeds[j]));
            table.add_row([piece.name.to_string(), piece.unit.into()].into_iter().chain(speeds));
        }
        text + &format!("\n{}\n", table.trim_fmt())
    }
}
