//! Every row of FORMATS against ggml: decoded values, encoded bytes, codes.

use crate::shared::shared;
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

#[test]
fn formats_agree_with_ggml() {
    let Some(shared) = shared() else { return };
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
