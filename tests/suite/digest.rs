//! What a seed expands to: the same bits on every target. The WebAssembly crate's tests use this file too.

use mynah::adapter::{self, Adapter, Base, Frozen, Shapes, Site, Spec, basis::BASES, nola::Nola};
use mynah::kernel::{self, Compute, Pool};
use mynah::nn::attention::Heads;
use mynah::nn::rope::Rope;
use mynah::quant::Matrix;
use mynah::rng::Random;
use mynah::role::Role;

/// The first eight bytes of each basis's digest, as x86-64 computes them.
pub const WANTED: [u64; 3] = [0xca64_330e_b17e_ec1a, 0x8f89_55bd_e969_85c5, 0xf08f_0d1b_ba42_0927];

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

/// The digests of expanded factors, a row of BASES each.
pub fn digests(threads: usize) -> Vec<u64> {
    let shapes = [[24, 24], [24, 12], [24, 12], [24, 24], [24, 37], [24, 37], [37, 24]];
    let empty = Shapes::new(Heads { q: 4, kv: 2, dim: 6, scale: 1.0, cap: None });
    let block = adapter::parse_targets("attn,mlp")
        .unwrap()
        .into_iter()
        .zip(shapes)
        .fold(empty, |block, (role, shape)| block.with(role, shape));
    let mut second = block.clone();
    second[Role::Gate] = None;
    let base = Base {
        name: "any".into(),
        architecture: "llama".into(),
        width: 24,
        shapes: vec![block, second],
        hf: &[],
        paired_rows: true,
        content: [1; 32],
        tokenizer: [2; 32],
        frozen: None,
    };
    let digest = |basis: &str| {
        let spec = Spec { targets: adapter::parse_targets("q,k,v").unwrap(), seed: 77, ..Spec::new("nola") };
        let spec = spec.with("rank", 3).with("basis kind", basis).with("basis", 5).with("basis b", 4);
        let mut a = Nola::create(&spec, &base).unwrap();
        let mut random = Random::new(5, "digest", "params");
        a.params_mut().iter_mut().for_each(|p| *p = random.next_f32() - 0.5);
        a.prepare(&Compute { kernels: kernel::best(), pool: Pool::new(threads) }, &Nothing).unwrap();
        let bytes: Vec<u8> = a.factors().iter().flat_map(|v| v.to_le_bytes()).collect();
        u64::from_be_bytes(*blake3::hash(&bytes).as_bytes().first_chunk().unwrap())
    };
    BASES.iter().map(|basis| digest(basis.name)).collect()
}

#[test]
fn expanded_factors_are_the_same_everywhere() {
    for threads in [1, 2] {
        assert_eq!(digests(threads), WANTED);
    }
}
