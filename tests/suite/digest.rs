//! What a seed expands to: the same bits on every target. The WebAssembly crate's tests use this file too.

use mynah::adapter::lowrank::{Factors, LowRank};
use mynah::adapter::{self, Adapter, Base, Frozen, Shapes, Site, Spec, basis::BASES, kinds::uni::Uni, nola::Nola};
use mynah::bytes::Bytes;
use mynah::kernel::{self, Compute, Pool};
use mynah::nn::attention::Heads;
use mynah::nn::rope::Rope;
use mynah::quant::{Format, Matrix};
use mynah::rng::{Random, Stream};
use mynah::role::Role;
use std::sync::Arc;

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

/// The first eight bytes of the digest of every kind's start, and of its factors if it is of low rank.
pub const STARTS: &[(&str, u64)] = &[
    ("lora", 0x2f8c632856039c4a),
    ("nola", 0x1c3eb396504dce48),
    ("uni", 0x3f8cb72a71032ea7),
    ("dora", 0xada90e80ce37069f),
    ("ia3", 0x24ab18570bff667f),
    ("bottleneck", 0x1a5842017c9c528d),
    ("parallel", 0x80c33ca4d6fd0000),
    ("gated-bottleneck", 0x0a385995e4833b87),
    ("invertible", 0x54c8372a8d836de8),
    ("prefix", 0xe1794250fa30acef),
    ("prefix-mlp", 0xa4074278be6694aa),
    ("mam", 0xd652ed035083e8aa),
    ("prompt", 0xe4ad5630c0cbf752),
    ("p-tuning", 0xa1d70159892d7cc1),
    ("llama-adapter", 0xcbb4ea3abb25cbb3),
    ("unlock", 0x572791fd7a150188),
    ("vera", 0xb3afc71b6b3d54fa),
    ("lora-xs", 0xf4d170126aee788c),
    ("tinylora", 0x37b30567fe79e768),
    ("mos", 0x228fe87aafe79b66),
    ("randlora", 0x8d7d592a802348d8),
    ("vblora", 0x12a37231bb749494),
    ("lora-shared", 0x12e27988ea686cae),
    ("sparse", 0x0684926d649293a6),
    ("loha", 0x845b79288885c446),
    ("lokr", 0xd6c3f6a66cacf944),
    ("oft", 0x6d912ab50d1534e9),
    ("fourierft", 0x4d56ed193b6a960c),
    ("lora-fa", 0xc6c1e746dad34caf),
    ("adalora", 0x77d7b13edb302466),
    ("increlora", 0x3cf5a35331267e5b),
    ("side", 0x3295b3c2dcb969ca),
];

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

/// A base whose weights are drawn from their names.
pub struct Drawn(pub Vec<Shapes>);

impl Frozen for Drawn {
    fn matrix(&self, site: Site) -> Option<Matrix> {
        let [cols, rows] = self.0.get(site.layer)?[site.role]?;
        let mut random = Random::new(3, &site.to_string(), "weights");
        let bytes: Vec<u8> = (0..rows * cols).flat_map(|_| (random.next_f32() - 0.5).to_le_bytes()).collect();
        Matrix::new(Format::by_name("F32")?, rows, cols, Bytes::from(bytes)).ok()
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
    let block = block.with(Role::AttnNorm, [24; 2]).with(Role::FfnNorm, [24; 2]);
    let mut second = block.clone();
    second[Role::Gate] = None;
    let shapes = vec![block, second];
    Base {
        name: "any".into(),
        format: "F32".into(),
        architecture: "llama".into(),
        width: 24,
        frozen: Some(Arc::new(Drawn(shapes.clone()))),
        shapes,
        hf: &[],
        hf_blocks: "model.layers",
        bind: &[],
        paired_rows: true,
        content: [1; 32],
        tokenizer: [2; 32],
    }
}

/// The digest of the expanded factors of an adapter with random parameters.
fn digest<F: Factors>(mut a: LowRank<F>, threads: usize) -> u64 {
    let mut random = Random::new(5, "digest", "params");
    a.params_mut().iter_mut().for_each(|p| *p = random.next_f32() - 0.5);
    a.prepare(&Compute { kernels: kernel::best(), pool: Pool::new(threads) }, &Drawn(base().shapes)).unwrap();
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

/// Those of a fresh adapter of every kind, by the plain kernels.
pub fn starts(threads: usize) -> Vec<(&'static str, u64)> {
    let base = base();
    let of = |kind: &adapter::Kind| {
        let spec = Spec { seed: 77, ..Spec::new(kind.name) };
        let low = kind.knobs.iter().any(|usual| usual.knob.name == "rank");
        let mut a = adapter::create(&if low { spec.with("rank", 3) } else { spec }, &base).unwrap();
        a.prepare(&Compute { kernels: &kernel::PLAIN, pool: Pool::new(threads) }, &Drawn(base.shapes.clone())).unwrap();
        let factors = a.low_rank().map_or(&[][..], |(_, factors)| factors);
        let bytes: Vec<u8> = a.params().iter().chain(factors).flat_map(|v| v.to_le_bytes()).collect();
        u64::from_be_bytes(*blake3::hash(&bytes).as_bytes().first_chunk().unwrap())
    };
    adapter::KINDS.iter().map(|kind| (kind.name, of(kind))).collect()
}

#[test]
fn every_kind_starts_the_same_everywhere() {
    for threads in [1, 2] {
        let made = starts(threads);
        let lines: Vec<String> =
            made.iter().map(|(name, digest)| format!("    (\"{name}\", 0x{digest:016x}),")).collect();
        assert_eq!(made, STARTS, "\n{}", lines.join("\n"));
    }
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
