//! What a seed expands to: the same bits on every target. The WebAssembly crate's tests use this file too.

use mynah::adapter::lowrank::{Factors, LowRank};
use mynah::adapter::{self, Adapter, Base, Frozen, Shapes, Site, Spec, basis::BASES, kinds::uni::Uni, nola::Nola};
use mynah::kernel::{self, Compute, Pool};
use mynah::nn::attention::Heads;
use mynah::nn::rope::Rope;
use mynah::quant::Matrix;
use mynah::rng::{Random, Stream};
use mynah::role::Role;

/// The first eight bytes of each basis's digest, as x86-64 computes them.
pub const WANTED: [u64; 3] = [0xca64_330e_b17e_ec1a, 0x8f89_55bd_e969_85c5, 0xf08f_0d1b_ba42_0927];

/// The first words of the stream that `docs/format.md` publishes, and the hash of its first 2^20.
pub const WORDS: [u32; 16] = [
    0x529b2be1, 0xfefe62cc, 0x30927099, 0x3cbd2620, 0xb9e5931c, 0x857c4493, 0x27b951c9, 0x1af754cc, 0x4d050455,
    0x0e075a7f, 0xe969deb0, 0xb32ef7cb, 0x135ce6a2, 0xee005e69, 0x8cdbf43e, 0x60940d08,
];
pub const HASH: &str = "2760cfed30031c9539777ee421f2d5c7e820d021204d1fa428d54d0ad2eeff16";

/// The first eight bytes of the digest of expanded factors of `uni`.
pub const UNI: u64 = 0x6fcc4e9de2ec88ce;

/// The words and the hash of the published stream.
pub fn stream() -> (Vec<u32>, String) {
    let (mut first, mut hash) = (Vec::new(), blake3::Hasher::new());
    Stream::new(42, "blk.3.ffn_down.weight", "nola_a").words(0, 1 << 20, |_, words| {
        words.iter().for_each(|w| _ = hash.update(&w.to_le_bytes()));
        let missing = 16 - first.len();
        first.extend(words.iter().copied().take(missing));
    });
    (first, hash.finalize().to_hex().to_string())
}

/// A base whose weights are not at hand.
pub struct Nothing;

impl Frozen for Nothing {
    fn matrix(&self, _: Site) -> Option<Matrix> {
        None
    }

    fn heads(&self, _: usize) -> Option<Heads> {
        None
    }

    fn rope(&self, _: usize) -> Option<&Rope> {
        None
    }
}

fn base() -> Base {
    let shapes = [[24, 24], [24, 12], [24, 12], [24, 24], [24, 37], [24, 37], [37, 24]];
    let empty = Shapes::new(Heads { q: 4, kv: 2, dim: 6, scale: 1.0, cap: None });
    let block = adapter::parse_targets("attn,mlp")
        .unwrap()
        .into_iter()
        .zip(shapes)
        .fold(empty, |block, (role, shape)| block.with(role, shape));
    let mut second = block.clone();
    second[Role::Gate] = None;
    Base {
        name: "any".into(),
        format: "F32".into(),
        architecture: "llama".into(),
        width: 24,
        shapes: vec![block, second],
        hf: &[],
        hf_blocks: "model.layers",
        bind: &[],
        paired_rows: true,
        content: [1; 32],
        tokenizer: [2; 32],
        frozen: None,
    }
}

/// The digest of the expanded factors of an adapter with random parameters.
fn digest<F: Factors>(mut a: LowRank<F>, threads: usize) -> u64 {
    let mut random = Random::new(5, "digest", "params");
    a.params_mut().iter_mut().for_each(|p| *p = random.next_f32() - 0.5);
    a.prepare(&Compute { kernels: kernel::best(), pool: Pool::new(threads) }, &Nothing).unwrap();
    let bytes: Vec<u8> = a.factors().iter().flat_map(|v| v.to_le_bytes()).collect();
    u64::from_be_bytes(*blake3::hash(&bytes).as_bytes().first_chunk().unwrap())
}

/// That of `uni`.
pub fn uni(threads: usize) -> u64 {
    let spec = Spec { targets: adapter::parse_targets("q,k,v").unwrap(), seed: 77, ..Spec::new("uni") };
    digest(Uni::create(&spec.with("rank", 3).with("vector", 50), &base()).unwrap(), threads)
}

/// Those of `nola`, a row of BASES each.
pub fn digests(threads: usize) -> Vec<u64> {
    let base = base();
    let of = |basis: &str| {
        let spec = Spec { targets: adapter::parse_targets("q,k,v").unwrap(), seed: 77, ..Spec::new("nola") };
        let spec = spec.with("rank", 3).with("basis kind", basis).with("basis", 5).with("basis b", 4);
        digest(Nola::create(&spec, &base).unwrap(), threads)
    };
    BASES.iter().map(|basis| of(basis.name)).collect()
}

#[test]
fn expanded_factors_are_the_same_everywhere() {
    for threads in [1, 2] {
        assert_eq!((digests(threads), uni(threads)), (WANTED.to_vec(), UNI));
    }
}

/// The vectors that the page of the format publishes.
#[test]
fn streams_are_the_published_ones() {
    let (words, hash) = stream();
    assert_eq!((&words[..], &*hash), (&WORDS[..], HASH));
    let page = include_str!("../../docs/format.md");
    let flat: String = page.split_whitespace().collect::<Vec<_>>().join(" ");
    let listed: Vec<String> = words.iter().map(|w| format!("{w:08x}")).collect();
    assert!(flat.contains(&listed.join(" ")) && flat.contains(&hash), "docs/format.md: {} {hash}", listed.join(" "));
}
