//! One integer product, so often, and nothing else: for counting instructions (`examples/instructions`).
//!
//! `product FORMAT ROWS TIMES`, with the backend that MYNAH_BACKEND names: rows of activations with 64 rows of weights.

use mynah::bytes::Bytes;
use mynah::kernel::{PLAIN, QActs, Scratch, Tile, from_env};
use mynah::quant::{Format, Matrix};

/// Rows and columns of the weights.
const SHAPE: [usize; 2] = [64, 1536];

fn main() -> mynah::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let [_, format, n, times] = &args[..] else { panic!("usage: product FORMAT ROWS TIMES") };
    let (n, times): (usize, usize) = (n.parse().expect("rows"), times.parse().expect("a number"));
    let format = Format::by_name(format).expect("a format");
    let [f, c] = SHAPE;
    let w = Matrix::new(format, f, c, Bytes::from(vec![0; f * format.row_bytes(c).expect("whole blocks")]))?;
    let mut acts = QActs::default();
    acts.resize(n, c, false);
    (0..n).for_each(|i| (PLAIN.quantize)(&vec![1.0; c], acts.row(i)));
    let (k, mut y, mut scratch) = (from_env()?, vec![0.0; n * f], Scratch::default());
    for _ in 0..times {
        (k.int_dots)(&w, 0..f, &[], &acts, &mut Tile::new(&mut y, n, f), &mut scratch);
    }
    Ok(())
}
