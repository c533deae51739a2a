//! Quantising: blocks and whole files as ggml and llama.cpp write them, and what is refused.

use crate::shared::{needs_shared, shared};
use crate::survive::Place;
use crate::tiny;
use mynah::bytes::map::{self, Disk, System};
use mynah::bytes::{Bytes, Limits, Sink};
use mynah::gguf::{Gguf, Value, Writer};
use mynah::kernel::{Compute, Pool};
use mynah::quant::Format;
use mynah::rewrite::{Importance, MIXES, Mix, Quantise, Quantised, quantise};
use mynah::{Error, Mynah};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Values in −1 to 1 from a linear congruence, as `tests/reference/ggml_weighted.cpp` makes them.
struct Congruence(u64);

impl Congruence {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 40) as i32 - (1 << 23)) as f32 / (1 << 23) as f32
    }
}

const ROWS: usize = 8;
const COLS: usize = 512;

/// The rows of that program, and the weights of their columns, of which some are zero.
fn rows() -> (Vec<f32>, Vec<f32>) {
    let mut random = Congruence(23);
    let mut x = Vec::new();
    for r in 0..ROWS {
        for c in 0..COLS {
            let a = random.next();
            x.push(match r {
                1 => a * a * a,
                2 => a.abs(),
                3 => 0.0,
                4 => 0.25,
                5 if c % 97 == 5 => a * 50.0,
                6 => -a.abs() * 0.001,
                7 => (a * 8.0).floor() / 8.0,
                _ => a,
            });
        }
    }
    let weight = |c: usize, a: f32| if (c / 32) % 8 == 3 { 0.0 } else { a * a + 0.01 };
    let weights = (0..COLS).map(|c| weight(c, random.next())).collect();
    (x, weights)
}

/// Blocks with and without an importance matrix are ggml's, byte for byte (llama.cpp 0.5.0-dev of llama-cpp-python 0.3.36).
#[test]
fn blocks_are_those_of_ggml_with_and_without_weights() {
    let (x, weights) = rows();
    let mut golden: &[u8] = include_bytes!("../data/ggml-weighted.bin");
    for name in ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"] {
        let format = Format::by_name(name).unwrap();
        let row = format.row_bytes(COLS).unwrap();
        for weighted in [false, true] {
            let mut bytes = vec![0xa5; row * ROWS];
            match format.weighted.filter(|_| weighted) {
                Some(encode) => encode(&x, &weights, &mut bytes),
                None => format.encode.unwrap()(&x, &mut bytes),
            }
            let (want, rest) = golden.split_at(bytes.len());
            for r in 0..ROWS {
                let (got, want) = (&bytes[r * row..][..row], &want[r * row..][..row]);
                let at = got.iter().zip(want).position(|(a, b)| a != b);
                assert_eq!(at, None, "{name}, weighted {weighted}, row {r}: first byte that differs");
            }
            golden = rest;
        }
    }
    assert!(golden.is_empty());
}

fn compute(threads: usize) -> Compute {
    Compute { kernels: mynah::kernel::best(), pool: Pool::new(threads) }
}

fn parse(bytes: Vec<u8>) -> Gguf {
    Gguf::parse(Bytes::from(bytes), &Limits::default()).unwrap()
}

fn how(to: &str) -> Quantise<'static> {
    Quantise { to: Mix::by_name(to).unwrap(), importance: None, again: true }
}

fn run(gguf: &Gguf, how: &Quantise, threads: usize) -> mynah::Result<(Vec<u8>, Quantised)> {
    let mut out = Vec::new();
    let report = quantise(gguf, how, &compute(threads), &mut out, &mut |_| ())?;
    Ok((out, report))
}

fn digest(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..16].into()
}

/// A model of the shared ones, a type, and the digest of the file that llama.cpp's quantiser (0.5.0-dev of llama-cpp-python
/// 0.3.36) makes of it.
const FILES: &[(&str, &str, &str)] = &[
    ("tiny256/tiny256-f32", "F32", "23ec3e84f4cbba82"),
    ("tiny256/tiny256-f32", "F16", "76ffdade830c1503"),
    ("tiny256/tiny256-f32", "BF16", "6f1c38713a663c12"),
    ("tiny256/tiny256-f32", "Q4_0", "c47963812e3e74cd"),
    ("tiny256/tiny256-f32", "Q4_1", "f6ed37dc9430329b"),
    ("tiny256/tiny256-f32", "Q5_0", "15bb497dced46e39"),
    ("tiny256/tiny256-f32", "Q5_1", "583e0a2185c0cf57"),
    ("tiny256/tiny256-f32", "Q8_0", "92a26c4b513ea8c3"),
    ("tiny256/tiny256-f32", "Q4_K_S", "8ee6e8162c5a155d"),
    ("tiny256/tiny256-f32", "Q4_K_M", "dbbb663e34998044"),
    ("tiny256/tiny256-f32", "Q5_K_S", "823a8613e0ecd3bf"),
    ("tiny256/tiny256-f32", "Q5_K_M", "b7c480670f94fe58"),
    ("tiny256/tiny256-f32", "Q6_K", "11718ad5844d9602"),
    ("tiny256/tiny256-f16", "Q4_K_M", "1e076682a147b1d9"),
    ("tiny256/tiny256-f16", "Q8_0", "43379cf6ddd6e6e9"),
    ("tiny256/tiny256-f16", "F32", "4d11ecc230a34e9b"),
    ("tiny256/tiny256-bf16", "Q5_K_M", "5e9b58a74b1f7b5f"),
    ("tiny256/tiny256-bf16", "F16", "919eeffa4a26d7ae"),
    ("arch/tiny64-qwen3moe-f32", "Q4_K_M", "a46eb0d9737d373c"),
    ("arch/tiny64-qwen3moe-f32", "Q5_0", "aa1673debd540973"),
    ("arch/tiny64-qwen35-f32", "Q4_K_M", "576ae27f07aa1503"),
    ("arch/tiny64-qwen35-f32", "Q5_0", "c6233300928cec45"),
    ("arch/tiny64-lfm2-f32", "Q4_K_M", "b77535158a4e9cb1"),
    ("arch/tiny64-lfm2-f32", "Q5_0", "d17009ba9539aa5e"),
    ("arch/tiny64-bert-f32", "Q4_K_M", "0c1de5f9353d8730"),
    ("arch/tiny64-bert-f32", "Q5_0", "78fc2f9d3253b722"),
    ("arch/tiny64-gemma3-f32", "Q4_K_M", "22a274ca8b141d5c"),
    ("arch/tiny64-gemma3-f32", "Q5_0", "9868371b67a1f8f4"),
    ("arch/tiny64-phi3-f32", "Q4_K_M", "7ab54c860b3dbf45"),
    ("arch/tiny64-phi3-f32", "Q5_0", "8fe79a96575f099a"),
    ("arch/tiny64-gpt2-f32", "Q4_K_M", "46d5d13d9e8cf761"),
    ("arch/tiny64-gpt2-f32", "Q5_0", "74d33c2133cee399"),
    ("arch/tiny64-qwen2moe-f32", "Q4_K_M", "0ad804015be3b530"),
    ("arch/tiny64-qwen2moe-f32", "Q5_0", "45e5b475bb2096e6"),
    ("arch/tiny256-gemma-embedding-q4_k_m", "Q5_K_S", "cb6cc6b033b6982f"),
    ("arch/tiny256-gemma-embedding-q4_k_m", "F16", "321d052f8d6de79c"),
    ("stories260K", "Q4_K_S", "d4bd13e8d69be128"),
    ("stories260K", "Q4_0", "5b43330dc26cce18"),
    ("arch/tiny256-qwen3moe-q4_k_m", "Q4_K_S", "23c1fcf0cc117f29"),
    ("arch/tiny256-qwen3moe-q4_k_m", "F32", "6b6c8f7dd02f569e"),
];

#[needs_shared]
#[test]
fn files_are_those_of_llama_cpp() {
    for (name, to, want) in FILES {
        let file = Gguf::open(&shared().join(format!("models/{name}.gguf")), &Limits::default()).unwrap();
        let (bytes, report) = run(&file, &how(to), 2).unwrap();
        assert_eq!(digest(&bytes), *want, "{name} to {to}");
        let tensors: u64 =
            Gguf::parse(bytes.into(), &Limits::default()).unwrap().tensors().iter().map(|t| t.bytes).sum();
        assert_eq!(report.bytes[1], tensors, "{name} to {to}");
    }
}

/// A type, and the digest of all tensors that llama.cpp makes of the 256-wide miniature with the importance of [`drawn`].
const WEIGHTED: &[(&str, &str)] = &[
    ("Q4_0", "9e0c21ddad76e2e9"),
    ("Q5_1", "a1279aaa35d9a5a4"),
    ("Q4_K_M", "5218410a9efa5e19"),
    ("Q5_K_S", "9a76b528bfdeef9e"),
    ("Q6_K", "e28a79dbc867d125"),
];

/// An importance for each column of each matrix of a file.
fn drawn(file: &Gguf) -> Importance {
    let mut random = Congruence(31);
    let mut columns = BTreeMap::new();
    for tensor in file.tensors().iter().filter(|t| t.dims().len() > 1) {
        let mut value = || {
            let a = random.next();
            a * a + 0.01
        };
        columns.insert(tensor.name.to_string(), (0..tensor.dims()[0]).map(|_| value()).collect());
    }
    Importance::from_columns(columns, "drawn").unwrap()
}

#[needs_shared]
#[test]
fn weighted_files_are_those_of_llama_cpp() {
    let file = Gguf::open(&shared().join("models/tiny256/tiny256-f32.gguf"), &Limits::default()).unwrap();
    let importance = drawn(&file);
    for (to, want) in WEIGHTED {
        let (bytes, report) = run(&file, &Quantise { importance: Some(&importance), ..how(to) }, 2).unwrap();
        let file = parse(bytes);
        let all: Vec<u8> = file.tensors().iter().flat_map(|t| file.data(t).unwrap().to_vec()).collect();
        assert_eq!(digest(&all), *want, "{to}");
        assert!(report.unmeasured.is_empty());
        assert_eq!(file.string("quantize.imatrix.dataset").unwrap(), Some("drawn"));
        assert_eq!(file.u32("quantize.imatrix.entries_count").unwrap(), Some(importance.columns().len() as u32));
    }
}

#[test]
fn threads_change_no_byte_and_metadata_stay() {
    let base = Gguf::parse(Bytes::from_static(mynah::base::MODEL), &Limits::default()).unwrap();
    let exact = parse(run(&base, &how("F32"), 1).unwrap().0);
    for mix in MIXES {
        let [one, three] = [1, 3].map(|threads| run(&exact, &how(mix.name), threads).unwrap());
        assert!(one == three, "{}: threads change bytes", mix.name);
        let (file, report) = (parse(one.0), one.1);
        assert_eq!(file.u32("general.file_type").unwrap(), Some(mix.file_type), "{}", mix.name);
        assert_eq!(file.u32("general.quantization_version").unwrap(), Some(2));
        assert_eq!(report.formats.values().sum::<usize>(), base.tensors().len());
        for (key, value) in base.ordered_pairs() {
            if !["general.file_type", "general.quantization_version"].contains(&key) {
                let same = format!("{:?}", file.get(key).unwrap()) == format!("{value:?}");
                assert!(same || matches!(value, Value::Array(_)), "{key}");
            }
        }
        Mynah::with(file, compute(1)).unwrap().complete("The lighthouse").unwrap();
    }
}

/// A file of one matrix that may hold anything.
fn one_matrix(values: &[f32], cols: u64, architecture: &str) -> Gguf {
    let mut w = Writer::new();
    w.set("general.architecture", architecture).set("llama.block_count", 1u32);
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    w.tensor("blk.0.ffn_up.weight", &[cols, values.len() as u64 / cols], Format::by_name("F32").unwrap(), bytes);
    parse(w.finish().unwrap())
}

#[test]
fn what_cannot_be_quantised_is_named() {
    let with = |at: usize, value: f32| {
        let mut x = vec![0.5; 1024];
        x[at] = value;
        one_matrix(&x, 256, "llama")
    };
    let adapter = {
        let mut w = Writer::new();
        w.set("general.type", "adapter").set("general.architecture", "llama");
        parse(w.tensor("a", &[1], Format::by_name("F32").unwrap(), vec![0; 4]).finish().unwrap())
    };
    type Is = fn(&Error) -> bool;
    let corrupt: Is = |e| matches!(e, Error::Corrupt { .. });
    let invalid: Is = |e| matches!(e, Error::Invalid { .. });
    let unsupported: Is = |e| matches!(e, Error::Unsupported { .. });
    let mismatch: Is = |e| matches!(e, Error::Mismatch { .. });
    let plain = with(0, 1.0);
    let short = Importance::from_columns([("blk.0.ffn_up.weight".into(), vec![1.0; 7])].into(), "x").unwrap();
    let rounded = parse(run(&plain, &how("Q8_0"), 1).unwrap().0);
    let once = Quantise { again: false, ..how("Q4_K_M") };
    let weighted = Quantise { importance: Some(&short), ..how("Q4_0") };
    let rows: [(&str, &Gguf, Quantise, Is, &str); 8] = [
        ("Q1 a value that is no number", &with(700, f32::NAN), how("Q4_K_M"), corrupt, "row 2, column 188: NaN"),
        ("Q2 an infinite value", &with(3, f32::INFINITY), how("Q8_0"), corrupt, "row 0, column 3: inf"),
        ("Q3 the same where nothing is rounded", &with(3, f32::NEG_INFINITY), how("F32"), corrupt, "column 3"),
        (
            "Q4 a scale beyond 16 bits",
            &with(256, 3e38),
            how("Q8_0"),
            invalid,
            "row 1: its values are too large for Q8_0",
        ),
        ("Q5 a value beyond 16 bits", &with(256, 1e6), how("F16"), invalid, "too large for F16"),
        ("Q6 a file that is rounded already", &rounded, once, invalid, "it is Q8_0 already"),
        ("Q7 an adapter", &adapter, how("Q8_0"), unsupported, "an adapter, not a model"),
        ("Q8 an importance of another width", &plain, weighted, mismatch, "expected 256, found 7"),
    ];
    for (what, file, how, is, word) in rows {
        let e = run(file, &how, 2).unwrap_err();
        assert!(is(e.inner()) && e.to_string().contains(word), "{what}: {e}");
    }
    let e = Mix::by_name("Q3_K_M").unwrap_err();
    assert!(unsupported(&e) && e.to_string().contains("Q4_K_M"), "{e}");
    let e = Importance::from_columns([("a".into(), vec![f32::NAN])].into(), "x").err().unwrap();
    assert!(invalid(&e), "{e}");
}

/// A disk that takes so many bytes and no more.
struct Full(usize);

impl Disk for Full {
    fn write(&mut self, file: &mut File, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(self.0);
        self.0 -= n;
        if n == 0 { Err(io::ErrorKind::StorageFull.into()) } else { System.write(file, &bytes[..n]) }
    }
}

#[test]
fn what_goes_wrong_leaves_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gguf");
    fs::write(&path, "old").unwrap();
    let file = parse(tiny::file("llama", 3, true));
    let write = |file: &Gguf, disk: &mut dyn Disk| {
        let work = |sink: &mut dyn Sink| quantise(file, &how("Q8_0"), &compute(1), sink, &mut |_| ());
        map::replace_with_on(disk, &path, work)
    };
    let len = run(&file, &how("Q8_0"), 1).unwrap().0.len();
    for room in (0..len).step_by(len / 40) {
        let e = write(&file, &mut Full(room)).unwrap_err();
        assert!(matches!(e.inner(), Error::Io { doing: "write", .. }) && e.to_string().contains("a.gguf"), "{e}");
    }
    // What is wrong with the model is not said of the file to write.
    let e = write(&one_matrix(&[f32::NAN; 32], 32, "llama"), &mut System).unwrap_err();
    assert!(matches!(e, Error::Corrupt { .. }), "{e}");
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left behind");
    write(&file, &mut Full(len)).unwrap();
    assert_eq!(fs::read(&path).unwrap().len(), len);
}

/// Counts what it gets.
struct Nowhere(usize);

impl Sink for Nowhere {
    fn put(&mut self, bytes: &[u8]) -> mynah::Result<()> {
        self.0 += bytes.len();
        Ok(())
    }
}

#[test]
fn memory_is_that_of_some_rows() {
    let file = one_matrix(&vec![0.25; 1 << 24], 1 << 12, "llama");
    let (cx, mut sink) = (compute(1), Nowhere(0));
    let work = || quantise(&file, &how("Q8_0"), &cx, &mut sink, &mut |_| ()).unwrap();
    let (_, largest) = crate::alloc::largest(work);
    assert!(sink.0 > 17 << 20 && largest <= 2 << 20, "{largest} bytes at once, of {} written", sink.0);
}

/// What was measured of the first matrix is what follows from its definition.
#[test]
fn importance_is_the_mean_square_of_inputs() {
    let mynah = Mynah::embedded().unwrap();
    let ids = mynah.tokenizer().encode(mynah::base::NOTES, &Default::default()).unwrap();
    let ids = &ids[..64];
    let measure = |begin| {
        Importance::measure(mynah.model(), mynah.base(), mynah.gguf(), ids, begin, "notes", &mut |_, _| ()).unwrap()
    };
    let importance = measure(None);
    let embed = mynah.gguf().matrix("token_embd.weight").unwrap();
    let gain = mynah.gguf().vector("blk.0.attn_norm.weight").unwrap();
    let eps = f64::from(mynah.gguf().f32("llama.attention.layer_norm_rms_epsilon").unwrap().unwrap());
    let (mut want, mut row) = (vec![0.0; embed.cols], vec![0.0; embed.cols]);
    for id in ids {
        embed.decode(*id as usize, 0..embed.cols, &mut row);
        let mean = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / row.len() as f64 + eps;
        for ((want, v), g) in want.iter_mut().zip(&row).zip(&gain) {
            *want += (f64::from(*v) * f64::from(*g)).powi(2) / mean / ids.len() as f64;
        }
    }
    let found = &importance.columns()["blk.0.attn_q.weight"];
    for (found, want) in found.iter().zip(&want) {
        assert!((f64::from(*found) - want).abs() <= 1e-4 * want + 1e-9, "{found} and {want}");
    }
    // Queries, keys and values have the same input.
    assert_eq!(found, &importance.columns()["blk.0.attn_v.weight"]);
    assert!(measure(Some(1)).columns()["blk.0.attn_q.weight"] != *found, "the first token is another");
    // Every matrix of the blocks was measured, and what was measured changes bytes.
    let exact = parse(run(mynah.gguf(), &how("F32"), 1).unwrap().0);
    let (weighted, report) = run(&exact, &Quantise { importance: Some(&importance), ..how("Q4_0") }, 1).unwrap();
    assert!(report.unmeasured.is_empty(), "{:?}", report.unmeasured);
    assert!(weighted != run(&exact, &how("Q4_0"), 2).unwrap().0);
    let few = Importance::measure(mynah.model(), mynah.base(), mynah.gguf(), &ids[..3], None, "few", &mut |_, _| ());
    assert!(few.is_err_and(|e| matches!(e, Error::Invalid { .. })));
}

#[test]
fn the_command_quantises_and_refuses() {
    let place = Place::new();
    let said = place.says("quantize base.gguf again.gguf Q4_K_M", 1);
    assert!(said.contains("already") && said.contains("--allow-requantize"), "{said}");
    assert!(!place.path("again.gguf").exists());
    let report = place.json("quantize base.gguf exact.gguf f32 --allow-requantize");
    assert_eq!(report["type"], "F32");
    let report = place.json("quantize exact.gguf small.gguf q4_k_m --calibrate notes.txt");
    assert!(report["bytes"].as_u64() < report["bytes_before"].as_u64(), "{report}");
    assert_eq!(
        fs::metadata(place.path("small.gguf")).unwrap().len() / 1024,
        place.read("small.gguf").len() as u64 / 1024
    );
    place.says("run -m small.gguf -p Rain -n 4", 0);
    for (line, status, word) in [
        ("quantize exact.gguf small.gguf Q8_0", 2, "--force"),
        ("quantize exact.gguf exact.gguf Q8_0 --force", 2, "would overwrite"),
        ("quantize exact.gguf new.gguf Q9_0", 2, "Q4_K_M"),
        ("quantize none.gguf new.gguf Q8_0", 1, "no such file"),
        ("quantize notes.txt new.gguf Q8_0", 1, "not a GGUF file"),
    ] {
        let said = place.says(line, status);
        assert!(said.contains(word), "{line}: {said}");
    }
    let cut = place.read("exact.gguf");
    fs::write(place.path("cut.gguf"), &cut[..cut.len() - 99]).unwrap();
    let said = place.says("quantize cut.gguf new.gguf Q8_0", 1);
    assert!(said.contains("incomplete") && !Path::new(&place.path("new.gguf")).exists(), "{said}");
}
