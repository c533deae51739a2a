//! Random streams that are part of file formats: a name gives the same bits on every target and in every version.
//!
//! A [`Stream`] is ChaCha8 keyed by `BLAKE3(tag · seed · name · role)`, read by position, so any thread can
//! generate any part in any order. [`Random`] reads one from front to back, for sampling and shuffling. [`Mt19937`] is the
//! generator behind `torch.manual_seed` on a CPU, for random bases of other programs.
//!
//! Words become numbers by integer operations and exact conversions only; stored formats use nothing else.

use core::fmt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::prelude::v1::*;

/// Name and version of [`Stream`], as files record it. Changes whenever a bit of any stream does.
pub const GENERATOR: &str = "blake3-chacha8/1";

/// Words generated at a time: enough to make seeking cheap, few enough to stay in the nearest cache.
const CHUNK: usize = 1024;

/// An endless random sequence of 32-bit words with random access.
#[derive(Clone)]
pub struct Stream {
    key: [u8; 32],
}

impl Stream {
    /// The stream of a seed for one purpose: `name` says to what it belongs, for example a canonical
    /// tensor name, and `role` what it is used for.
    pub fn new(seed: u64, name: &str, role: &str) -> Self {
        let mut hash = blake3::Hasher::new();
        // A length comes before each text, so that different pairs of texts hash differently.
        hash.update(b"mynah stream 1");
        hash.update(&seed.to_le_bytes());
        for text in [name, role] {
            hash.update(&(text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        }
        Stream { key: *hash.finalize().as_bytes() }
    }

    fn at(&self, position: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::from_seed(self.key);
        rng.set_word_pos(position.into());
        rng
    }

    /// Calls `f(place, words)` for consecutive runs of the words `start..start + n`; `place` counts from `start`.
    pub fn words(&self, start: u64, n: usize, f: impl FnMut(usize, &[u32])) {
        // The generator's crate has vectors for other targets.
        #[cfg(target_arch = "wasm32")]
        return four::words(&self.key, start, n, f);
        #[cfg(not(target_arch = "wasm32"))]
        self.words_of_crate(start, n, f);
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn words_of_crate(&self, start: u64, n: usize, mut f: impl FnMut(usize, &[u32])) {
        let mut rng = self.at(start);
        let mut buffer = [0u32; CHUNK];
        let mut place = 0;
        while place < n {
            let words = &mut buffer[..CHUNK.min(n - place)];
            rng.fill_bytes(bytemuck::cast_slice_mut(words));
            // The generator writes words as little-endian bytes.
            #[cfg(target_endian = "big")]
            words.iter_mut().for_each(|w| *w = u32::from_le(*w));
            f(place, words);
            place += words.len();
        }
    }

    /// `out[i] = uniform(word[start + i])`: multiples of 2⁻²² in [−1, 1).
    pub fn fill_uniform(&self, start: u64, out: &mut [f32]) {
        let n = out.len();
        self.words(start, n, |place, words| {
            for (o, &w) in out[place..].iter_mut().zip(words) {
                *o = uniform(w);
            }
        });
    }

    /// `out[i]` is +1 or −1 by bit `start + i`; bit `b` is bit `b mod 32`, the lowest first, of word `b div 32`.
    pub fn fill_signs(&self, start: u64, out: &mut [f32]) {
        if out.is_empty() {
            return;
        }
        let skip = (start % 32) as usize;
        let words = (skip + out.len()).div_ceil(32);
        self.words(start / 32, words, |place, words| {
            for (i, &w) in words.iter().enumerate() {
                let first = (place + i) * 32;
                if skip == 0
                    && let Some(out) = out[first..].first_chunk_mut::<32>()
                {
                    // One mask per lane instead of a shift: not every vector unit can shift lanes by different counts.
                    for (bit, o) in out.iter_mut().enumerate() {
                        *o = if w & 1 << bit == 0 { -1.0 } else { 1.0 };
                    }
                    continue;
                }
                let from = first.max(skip);
                let to = (first + 32).min(skip + out.len());
                for bit in from..to {
                    out[bit - skip] = sign(w >> (bit - first));
                }
            }
        });
    }
}

/// ChaCha8 on arrays of four words, one of each of four blocks, which are one vector where there are vectors.
#[cfg(any(target_arch = "wasm32", test))]
mod four {
    use super::CHUNK;

    /// Words of a block.
    const BLOCK: usize = 16;
    /// Blocks that are made together.
    const LANES: usize = 4;

    type Lanes = [u32; LANES];

    fn add(a: Lanes, b: Lanes) -> Lanes {
        core::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }

    fn turn<const N: u32>(a: Lanes, b: Lanes) -> Lanes {
        core::array::from_fn(|i| (a[i] ^ b[i]).rotate_left(N))
    }

    #[inline(always)]
    fn quarter(x: &mut [Lanes; BLOCK], [a, b, c, d]: [usize; 4]) {
        x[a] = add(x[a], x[b]);
        x[d] = turn::<16>(x[d], x[a]);
        x[c] = add(x[c], x[d]);
        x[b] = turn::<12>(x[b], x[c]);
        x[a] = add(x[a], x[b]);
        x[d] = turn::<8>(x[d], x[a]);
        x[c] = add(x[c], x[d]);
        x[b] = turn::<7>(x[b], x[c]);
    }

    /// Blocks `first..first + 4`, one after the other.
    fn blocks(key: &[u32; 8], first: u64, out: &mut [u32; LANES * BLOCK]) {
        const BEGIN: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];
        let counter = |i: usize| first.wrapping_add(i as u64);
        let start: [Lanes; BLOCK] = core::array::from_fn(|word| match word {
            0..4 => [BEGIN[word]; LANES],
            4..12 => [key[word - 4]; LANES],
            12 => core::array::from_fn(|i| counter(i) as u32),
            13 => core::array::from_fn(|i| (counter(i) >> 32) as u32),
            _ => [0; LANES],
        });
        let mut x = start;
        for _ in 0..4 {
            for column in 0..4 {
                quarter(&mut x, [column, 4 + column, 8 + column, 12 + column]);
            }
            for i in 0..4 {
                quarter(&mut x, [i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4]);
            }
        }
        for (word, (x, start)) in x.into_iter().zip(start).enumerate() {
            for (lane, sum) in add(x, start).into_iter().enumerate() {
                out[lane * BLOCK + word] = sum;
            }
        }
    }

    /// What [`super::Stream::words`] does.
    pub fn words(key: &[u8; 32], start: u64, n: usize, mut f: impl FnMut(usize, &[u32])) {
        let key = core::array::from_fn(|i| u32::from_le_bytes(core::array::from_fn(|b| key[4 * i + b])));
        let (mut block, mut skip) = (start / BLOCK as u64, (start % BLOCK as u64) as usize);
        let mut buffer = [0u32; CHUNK];
        let mut place = 0;
        while place < n {
            let wanted = (skip + n - place).min(CHUNK);
            for (four, first) in buffer[..wanted.next_multiple_of(LANES * BLOCK)].as_chunks_mut().0.iter_mut().zip(0..) {
                blocks(&key, block.wrapping_add(first * LANES as u64), four);
            }
            f(place, &buffer[skip..wanted]);
            place += wanted - skip;
            (block, skip) = (block.wrapping_add((CHUNK / BLOCK) as u64), 0);
        }
    }
}

/// A multiple of 2⁻²² in [−1, 1), exact.
#[inline(always)]
pub fn uniform(word: u32) -> f32 {
    const STEP: f32 = 1.0 / (1u32 << 22) as f32;
    // Below 2²³, so the conversion is exact; signed because vectors convert that in one instruction.
    (word >> 9) as i32 as f32 * STEP - 1.0
}

/// +1 if the lowest bit is set, else −1.
#[inline(always)]
pub fn sign(word: u32) -> f32 {
    f32::from_bits(0xbf80_0000 ^ (word & 1) << 31)
}

/// A stream read from front to back.
#[derive(Clone)]
pub struct Random {
    rng: ChaCha8Rng,
}

impl Random {
    /// The stream of that seed, name and role from its first word.
    pub fn new(seed: u64, name: &str, role: &str) -> Self {
        Random { rng: Stream::new(seed, name, role).at(0) }
    }

    /// Words read so far.
    pub fn position(&self) -> u64 {
        self.rng.get_word_pos() as u64
    }

    /// Continues at a position.
    pub fn seek(&mut self, position: u64) {
        self.rng.set_word_pos(position.into());
    }

    /// The next word.
    pub fn next_u32(&mut self) -> u32 {
        self.rng.next_u32()
    }

    /// Two words, the lower half first.
    pub fn next_u64(&mut self) -> u64 {
        let low = u64::from(self.next_u32());
        low | u64::from(self.next_u32()) << 32
    }

    /// A multiple of 2⁻²⁴ in [0, 1).
    pub fn next_f32(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 * (1.0 / (1u32 << 24) as f32)
    }

    /// A whole number in `0..n`, each equally likely.
    ///
    /// # Panics
    /// If `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "a number below 0");
        // There are 2⁶⁴ mod n low products too many. Once these are rejected and drawn again, the upper half of x·n is
        // uniform (Lemire, arXiv:1805.10941).
        let reject = n.wrapping_neg() % n;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(n);
            if product as u64 >= reject {
                return (product >> 64) as u64;
            }
        }
    }

    /// Every order of `items` equally likely.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Random(at {})", self.position())
    }
}

/// The numbers below `n` in a random order that is read by position: the first `k` are a sample without replacement, and one
/// of those of any larger `k`. A Feistel network of six rounds over the pairs of half words; a number that is not below `n`
/// goes through it again.
#[derive(Clone, Debug)]
pub struct Permutation {
    keys: [u64; 6],
    /// Bits of half a number.
    half: u32,
    n: u64,
}

impl Permutation {
    /// The order of that seed, name and role.
    ///
    /// # Panics
    /// If `n` is 0, or more than 2⁶².
    pub fn new(seed: u64, name: &str, role: &str, n: u64) -> Permutation {
        assert!((1..=1 << 62).contains(&n), "an order of {n} numbers");
        let mut random = Random::new(seed, name, role);
        let bits = u64::BITS - (n - 1).leading_zeros();
        Permutation { keys: core::array::from_fn(|_| random.next_u64()), half: bits.div_ceil(2).max(1), n }
    }

    /// The number at a position below `n`.
    pub fn at(&self, position: u64) -> u64 {
        let mut number = self.through(position);
        while number >= self.n {
            number = self.through(number);
        }
        number
    }

    fn through(&self, number: u64) -> u64 {
        let mask = (1 << self.half) - 1;
        let (mut left, mut right) = (number >> self.half, number & mask);
        for key in self.keys {
            // The finaliser of MurmurHash3.
            let mut x = right.wrapping_add(key);
            x = (x ^ x >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
            x = (x ^ x >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
            (left, right) = (right, left ^ (x ^ x >> 33) & mask);
        }
        left << self.half | right
    }
}

/// The Mersenne Twister of Matsumoto and Nishimura (1998), seeded by `init_genrand`, as torch's CPU generator is with
/// the low 32 bits of its seed.
#[derive(Clone)]
pub struct Mt19937 {
    state: [u32; Self::N],
    next: usize,
}

impl Mt19937 {
    const N: usize = 624;
    const M: usize = 397;

    /// From the low 32 bits of `seed`.
    pub fn new(seed: u64) -> Self {
        let mut state = [seed as u32; Self::N];
        for i in 1..Self::N {
            let before = state[i - 1];
            state[i] = (before ^ before >> 30).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        Mt19937 { state, next: Self::N }
    }

    fn refill(&mut self) {
        for i in 0..Self::N {
            let y = self.state[i] & 0x8000_0000 | self.state[(i + 1) % Self::N] & 0x7fff_ffff;
            let twist = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + Self::M) % Self::N] ^ y >> 1 ^ twist;
        }
        self.next = 0;
    }

    /// The next word.
    pub fn next_u32(&mut self) -> u32 {
        if self.next == Self::N {
            self.refill();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= y << 7 & 0x9d2c_5680;
        y ^= y << 15 & 0xefc6_0000;
        y ^ y >> 18
    }

    /// torch's `uniform_(-1, 1)` in `f32`: a multiple of 2⁻²³ in [−1, 1), exact.
    pub fn next_uniform(&mut self) -> f32 {
        (self.next_u32() & 0x00ff_ffff) as f32 * (1.0 / (1u32 << 23) as f32) - 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_have_every_number_once() {
        for n in [1, 2, 3, 5, 16, 17, 1000] {
            let order = Permutation::new(7, "blk.0.attn_q.weight", "sparse", n);
            let mut all: Vec<u64> = (0..n).map(|i| order.at(i)).collect();
            let other = Permutation::new(8, "blk.0.attn_q.weight", "sparse", n);
            assert!(n < 16 || (0..n).any(|i| other.at(i) != all[i as usize]));
            all.sort();
            assert!(all.iter().copied().eq(0..n));
        }
        // The same numbers on every target.
        let order = Permutation::new(7, "blk.0.attn_q.weight", "sparse", 1 << 40);
        let first: Vec<u64> = (0..4).map(|i| order.at(i)).collect();
        assert_eq!(first, [974_149_482_802, 1_026_427_616_382, 487_641_485_339, 218_176_897_693]);
    }

    fn words(stream: &Stream, start: u64, n: usize) -> Vec<u32> {
        let mut out = vec![];
        stream.words(start, n, |place, w| {
            assert_eq!(place, out.len());
            out.extend_from_slice(w);
        });
        out
    }

    /// Wherever they begin, and however many there are.
    #[test]
    fn four_blocks_at_a_time_are_the_same_words() {
        let stream = Stream::new(7, "blk.0.attn_q", "nola_a");
        let all = |start, n, four| {
            let (mut all, mut next) = (Vec::new(), 0);
            let mut take = |place: usize, words: &[u32]| {
                assert_eq!(place, next);
                (next, _) = (place + words.len(), all.extend_from_slice(words));
            };
            if four { four::words(&stream.key, start, n, &mut take) } else { stream.words_of_crate(start, n, &mut take) }
            assert_eq!(all.len(), n);
            all
        };
        for start in [0, 1, 15, 16, 63, 64, 1000, (1 << 36) - 20, (1 << 40) + 5] {
            for n in [1, 15, 17, 64, 65, 1024, 1025, 3000] {
                assert!(all(start, n, true) == all(start, n, false), "{start} {n}");
            }
        }
    }

    /// ChaCha8 with a zero key: the keystream of the cipher's published vectors (draft-strombergson-chacha-test-vectors).
    #[test]
    fn words_are_chacha8() {
        let zero = Stream { key: [0; 32] };
        let bytes: Vec<u8> = words(&zero, 0, 8).iter().flat_map(|w| w.to_le_bytes()).collect();
        assert_eq!(bytes[..8], [0x3e, 0x00, 0xef, 0x2f, 0x89, 0x5f, 0x40, 0xd6]);
        assert_eq!(bytes[8..16], [0x7f, 0x5b, 0xb8, 0xe8, 0x1f, 0x09, 0xa5, 0xa1]);
    }

    #[test]
    fn any_part_is_the_same_part() {
        let stream = Stream::new(7, "blk.0.attn_q.weight", "lora_a");
        let all = words(&stream, 0, 5000);
        for (start, n) in [(0, 1), (1, 63), (15, 17), (63, 130), (64, 64), (1023, 2), (17, 4900), (5000, 0)] {
            assert_eq!(words(&stream, start as u64, n), all[start..start + n], "{start} {n}");
        }
        let far = words(&stream, (3 << 32) - 2, 4);
        assert_eq!(words(&stream, 3 << 32, 2), far[2..]);
        let mut random = Random::new(7, "blk.0.attn_q.weight", "lora_a");
        assert!(all.iter().all(|&w| w == random.next_u32()));
        assert_eq!(random.position(), 5000);
        random.seek(17);
        assert_eq!(random.next_u64(), u64::from(all[17]) | u64::from(all[18]) << 32);

        let mut signs = vec![0.0; 5000 * 32];
        stream.fill_signs(0, &mut signs);
        for (i, s) in signs.iter().enumerate() {
            assert_eq!(*s, if all[i / 32] >> (i % 32) & 1 == 1 { 1.0 } else { -1.0 });
        }
        for (start, n) in [(0, 0), (0, 1), (31, 2), (33, 5), (40, 100_000)] {
            let mut part = vec![0.0; n];
            stream.fill_signs(start as u64, &mut part);
            assert_eq!(part, signs[start..start + n]);
        }
    }

    /// These values are part of the file format: an adapter stored as a seed depends on them.
    #[test]
    fn published_vectors() {
        let stream = Stream::new(42, "blk.3.ffn_down.weight", "nola_a");
        assert_eq!(words(&stream, 0, 4), WORDS);
        assert_eq!(words(&stream, (5 << 32) + 3, 2), WORDS_LATER);
        let mut u = [0.0; 4];
        stream.fill_uniform(0, &mut u);
        assert_eq!(u.map(|x| (x * 4_194_304.0) as i32), WORDS.map(|w| (w >> 9) as i32 - (1 << 22)));
        let differ = [
            Stream::new(43, "blk.3.ffn_down.weight", "nola_a"),
            Stream::new(42, "blk.2.ffn_down.weight", "nola_a"),
            Stream::new(42, "blk.3.ffn_down.weight", "nola_b"),
            Stream::new(42, "blk.3.ffn_down.weightn", "ola_a"),
        ];
        assert!(differ.iter().all(|s| s.key != stream.key));
    }

    const WORDS: [u32; 4] = [1_385_901_025, 4_278_084_300, 814_903_449, 1_019_029_024];
    const WORDS_LATER: [u32; 2] = [1_156_946_120, 864_520_450];

    #[test]
    fn conversions_are_exact() {
        assert_eq!((uniform(0), uniform(u32::MAX), uniform(1 << 31)), (-1.0, 1.0 - 2f32.powi(-22), 0.0));
        assert_eq!(uniform(511), -1.0);
        assert_eq!(uniform(512), -1.0 + 2f32.powi(-22));
        assert_eq!((sign(0), sign(1), sign(2), sign(7)), (-1.0, 1.0, -1.0, 1.0));
    }

    #[test]
    fn whole_numbers_are_fair_and_orders_complete() {
        let mut random = Random::new(1, "test", "below");
        let mut counts = [0usize; 7];
        for _ in 0..70_000 {
            counts[random.below(7) as usize] += 1;
        }
        assert!(counts.iter().all(|&n| n.abs_diff(10_000) < 400), "{counts:?}");
        assert_eq!(random.below(1), 0);
        let mut items: Vec<u32> = (0..100).collect();
        random.shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
        assert!((0..1000).map(|_| random.next_f32()).all(|x| (0.0..1.0).contains(&x)));
    }

    /// First words for seed 5489 of the authors' program, and its 10000th, as the C++ standard demands of `mt19937`.
    #[test]
    fn mersenne_twister_is_the_published_one() {
        let mut mt = Mt19937::new(5489);
        assert_eq!((mt.next_u32(), mt.next_u32()), (3_499_211_612, 581_869_302));
        assert_eq!((2..10_000).map(|_| mt.next_u32()).last(), Some(4_123_659_995));
    }
}
