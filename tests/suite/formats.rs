//! Every row of FORMATS against ggml: decoded values, encoded bytes, codes.

use crate::kernels::Random;
use crate::shared::{needs_shared, shared};
use mynah::bytes::Limits;
use mynah::gguf::{Gguf, Writer};
use mynah::kernel::{Compute, Pool};
use mynah::model::{CacheType, Model, Session, SessionConfig};
use mynah::nn::linear::Precision;
use mynah::quant::{FORMATS, Format};
use safetensors::SafeTensors;
use std::path::Path;

/// ggml's name of a format, as the reference files are called.
fn file_name(format: &Format) -> String {
    match format.name.strip_suffix("_K") {
        Some(name) => format!("{}_K", name.to_lowercase()),
        None => format.name.to_lowercase(),
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn read(folder: &Path, name: &str) -> Option<Vec<u8>> {
    std::fs::read(folder.join(format!("{name}.safetensors"))).ok()
}

fn tensor(file: &SafeTensors, name: &str) -> Option<Vec<u8>> {
    file.tensor(name).ok().map(|t| t.data().to_vec())
}

fn assert_same_bits(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!(g.to_bits() == w.to_bits(), "{what}: value {i} is {g}, ggml has {w}");
    }
}

/// The codes of all blocks say what decode says, to within rounding.
fn assert_codes_fit(format: &Format, bytes: &[u8], want: &[f32], what: &str) {
    let Some(codes) = &format.codes else { return };
    let n = format.block / codes.sub;
    for (b, (block, want)) in bytes.chunks_exact(format.bytes).zip(want.chunks_exact(format.block)).enumerate() {
        let (mut q, mut scales, mut mins) =
            (vec![0; format.block], vec![0.0; n], vec![0.0; if codes.min { n } else { 0 }]);
        (codes.unpack)(block, &mut q, &mut scales, &mut mins);
        // Terms cancel in formats with a min, so the bound is relative to the terms.
        let most = (0..format.block).fold(0f64, |most, j| {
            let term = scales[j / codes.sub] as f64 * (q[j] as f64 - codes.zero as f64);
            most.max(term.abs()).max(want[j].abs() as f64)
        });
        for j in 0..format.block {
            let min = if codes.min { mins[j / codes.sub] as f64 } else { 0.0 };
            let value = scales[j / codes.sub] as f64 * (q[j] as f64 - codes.zero as f64) + min;
            assert!(
                (value - want[j] as f64).abs() <= 1e-6 * most,
                "{what}: block {b}, value {j}: {value} from codes, {} decoded",
                want[j]
            );
        }
    }
}

#[needs_shared]
#[test]
fn formats_agree_with_ggml() {
    let shared = shared();
    let folder = shared.join("golden/llamacpp/quant");
    let inputs = read(&folder, "inputs").unwrap();
    let source = floats(&tensor(&SafeTensors::deserialize(&inputs).unwrap(), "src").unwrap());
    let mut decoded = Vec::new();
    for format in FORMATS {
        let name = file_name(format);
        let Some(file) = read(&folder, &name) else { continue };
        let file = SafeTensors::deserialize(&file).unwrap();
        for (bytes, values) in [("bytes", "dequantized"), ("raw_bytes", "raw_dequantized")] {
            let (Some(bytes), Some(values)) = (tensor(&file, bytes), tensor(&file, values)) else { continue };
            let want = floats(&values);
            assert_eq!(format.row_bytes(512), Some(bytes.len() / 8), "{name}: row bytes");
            let Some(decode) = format.decode else { continue };
            let mut got = vec![0.0; want.len()];
            decode(&bytes, &mut got);
            assert_same_bits(&got, &want, &name);
            assert_codes_fit(format, &bytes, &want, &name);
            decoded.push(format.name);
        }
        let (Some(encode), Some(want)) = (format.encode, tensor(&file, "bytes")) else { continue };
        let mut got = vec![0; want.len()];
        encode(&source, &mut got);
        if let Some(at) = (0..want.len()).find(|&i| got[i] != want[i]) {
            panic!("{name}: byte {at} encodes to {:#04x}, ggml has {:#04x}", got[at], want[at]);
        }
    }
    decoded.dedup();
    eprintln!("{} formats decode as ggml: {decoded:?}", decoded.len());
    for format in FORMATS.iter().filter(|f| f.decode.is_some() && f.name != "F32") {
        assert!(decoded.contains(&format.name), "no reference values for {}", format.name);
    }
}

/// A model whose matrices have all formats in turn, and the same one in F32.
fn mixed() -> [Gguf; 2] {
    const WIDTH: usize = 256;
    let formats: Vec<&Format> = FORMATS.iter().filter(|f| f.decode.is_some()).collect();
    let layers = formats.len().div_ceil(7);
    let f32 = Format::by_id(0).unwrap();
    let mut files = [Writer::new(), Writer::new()];
    for w in &mut files {
        w.set("general.architecture", "llama").set("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
        for (key, value) in [
            ("block_count", layers),
            ("context_length", 64),
            ("embedding_length", WIDTH),
            ("feed_forward_length", WIDTH),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 2),
        ] {
            w.set(format!("llama.{key}"), value as u32);
        }
    }
    let (mut random, mut next) = (Random(5), formats.iter().cycle());
    let mut tensor = |name: String, rows: usize, format: Option<&'static Format>| {
        let format = format.or_else(|| next.next().copied()).unwrap();
        let matrix = random.matrix_below(0.25, format, rows, WIDTH);
        let mut values = vec![0.0; WIDTH];
        let mut decoded = Vec::new();
        for row in 0..rows {
            matrix.decode(row, 0..WIDTH, &mut values);
            decoded.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        }
        let dims = if rows == 1 { vec![WIDTH as u64] } else { vec![WIDTH as u64, rows as u64] };
        files[0].tensor(&name, &dims, format, matrix.data().clone());
        files[1].tensor(&name, &dims, f32, decoded);
    };
    tensor("token_embd.weight".into(), 64, None);
    tensor("output_norm.weight".into(), 1, Some(f32));
    for l in 0..layers {
        for (name, rows) in [
            ("attn_q", WIDTH),
            ("attn_k", WIDTH / 2),
            ("attn_v", WIDTH / 2),
            ("attn_output", WIDTH),
            ("ffn_gate", WIDTH),
            ("ffn_up", WIDTH),
            ("ffn_down", WIDTH),
        ] {
            tensor(format!("blk.{l}.{name}.weight"), rows, None);
        }
        for name in ["attn_norm", "ffn_norm"] {
            tensor(format!("blk.{l}.{name}.weight"), 1, Some(f32));
        }
    }
    let found = |file: &Writer| Gguf::parse(file.finish().unwrap().into(), &Limits::default()).unwrap();
    [found(&files[0]), found(&files[1])]
}

#[test]
fn a_file_of_all_formats_runs() {
    let files = mixed();
    let mut formats: Vec<u32> = files[0].tensors().iter().map(|t| t.format.id).collect();
    formats.sort();
    formats.dedup();
    assert_eq!(formats.len(), FORMATS.iter().filter(|f| f.decode.is_some()).count());
    let logits = |file: &Gguf, precision| {
        let compute = Compute { kernels: mynah::kernel::best(), pool: Pool::new(2) };
        let model = Model::load(file, compute).unwrap();
        let config = SessionConfig { context: 16, precision, cache: CacheType::F32, ..Default::default() };
        Session::new(&model, config).unwrap().feed(&[1, 63, 7, 7, 20]).unwrap().to_vec()
    };
    let [got, want] = [0, 1].map(|i| logits(&files[i], Precision::F32));
    assert!(want.iter().all(|v| v.is_finite()) && want.iter().any(|v| *v != want[0]));
    assert_same_bits(&got, &want, "logits of all formats, and of the same values in F32");
    let fast = logits(&files[0], Precision::Int8);
    let size = |v: &[f32]| v.iter().map(|v| (*v as f64).powi(2)).sum::<f64>().sqrt();
    let off: Vec<f32> = fast.iter().zip(&want).map(|(a, b)| a - b).collect();
    let off = size(&off) / size(&want);
    eprintln!("in int8 precision the logits are off by {off:.4} of their norm");
    assert!(off < 0.2, "{off}");
}
