//! Quantising: blocks and whole files as ggml and llama.cpp write them, and what is refused.

use mynah::quant::Format;

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
