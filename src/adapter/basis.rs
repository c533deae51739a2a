//! Random bases that are stored as a seed: matrices that are drawn from a stream.

use crate::error::{Error, Result};
use crate::rng::{Mt19937, Stream};

/// One row of [`BASES`].
pub struct Basis {
    /// Its name in files.
    pub name: &'static str,
    /// How entries are drawn.
    draw: Draw,
    /// Mean square of an entry, in thirds.
    pub spread: usize,
}

#[derive(Clone, Copy)]
enum Draw {
    /// Random access: `fill(stream, position, out)`.
    Anywhere(fn(&Stream, u64, &mut [f32])),
    /// Sequential access only.
    Torch,
}

/// Every way to draw bases. Entry `e` of basis `i` is word (or bit) `i·2³² + e` of the tensor's stream, except for
/// `torch-uniform`: there bases are drawn front to back from a Mersenne Twister with its own seed, each in torch's
/// layout of the matrix, like the code of NOLA's authors on a CPU.
pub static BASES: &[Basis] = &[
    Basis { name: "uniform", draw: Draw::Anywhere(Stream::fill_uniform), spread: 1 },
    Basis { name: "rademacher", draw: Draw::Anywhere(Stream::fill_signs), spread: 3 },
    Basis { name: "torch-uniform", draw: Draw::Torch, spread: 1 },
];

impl Basis {
    /// # Errors
    /// `Unsupported` if this build does not know it.
    pub fn by_name(name: &str) -> Result<&'static Basis> {
        BASES.iter().find(|b| b.name == name).ok_or_else(|| Error::unsupported("basis", name))
    }

    /// Whether entries must be drawn front to back, in torch's layout of the matrix.
    pub fn is_torch(&self) -> bool {
        matches!(self.draw, Draw::Torch)
    }
}

/// The random source of the bases of one matrix.
pub struct Source {
    /// The stream, for bases with random access.
    pub stream: Stream,
    /// The seed of `torch-uniform`.
    pub seed: u64,
    /// Entries of the matrix.
    pub entries: usize,
}

/// Draws the same part of each basis, one basis after the other.
pub struct Walk<'a> {
    basis: &'static Basis,
    source: &'a Source,
    start: usize,
    next: u64,
    twister: Option<Mt19937>,
}

impl<'a> Walk<'a> {
    /// Starts at entry `start` of the first basis.
    pub fn new(basis: &'static Basis, source: &'a Source, start: usize) -> Self {
        let mut twister = basis.is_torch().then(|| Mt19937::new(source.seed));
        skip(&mut twister, start);
        Walk { basis, source, start, next: 0, twister }
    }

    /// Draws that part of the next basis. `out` must have the same length each time.
    pub fn fill(&mut self, out: &mut [f32]) {
        match (self.basis.draw, &mut self.twister) {
            (Draw::Anywhere(fill), _) => fill(&self.source.stream, (self.next << 32) + self.start as u64, out),
            (Draw::Torch, Some(twister)) => out.iter_mut().for_each(|v| *v = twister.next_uniform()),
            (Draw::Torch, None) => unreachable!("made in `new`"),
        }
        self.pass(out.len());
    }

    /// Skips a basis of which `len` entries would have been drawn.
    pub fn leave_out(&mut self, len: usize) {
        skip(&mut self.twister, len);
        self.pass(len);
    }

    fn pass(&mut self, len: usize) {
        skip(&mut self.twister, self.source.entries - len);
        self.next += 1;
    }
}

fn skip(twister: &mut Option<Mt19937>, n: usize) {
    if let Some(twister) = twister {
        for _ in 0..n {
            twister.next_u32();
        }
    }
}
