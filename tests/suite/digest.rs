//! What a seed expands to: the same bits on every target. The WebAssembly crate's tests use this file too.

use mynah::adapter::{self, Adapter, Base, Linear, Spec, basis::BASES, nola::Nola};
use mynah::kernel::{self, Compute, Pool};
use mynah::rng::Random;

/// The first eight bytes of each basis's digest, as x86-64 computes them.
pub const WANTED: [u64; 3] = [0xca64_330e_b17e_ec1a, 0x8f89_55bd_e969_85c5, 0xf08f_0d1b_ba42_0927];

/// The digests of expanded factors, a row of BASES each.
pub fn digests(threads: usize) -> Vec<u64> {
    let block = [[24, 24], [24, 12], [24, 12], [24, 24], [24, 37], [24, 37], [37, 24]].map(Some);
    let mut second = block;
    second[Linear::Gate as usize] = None;
    let base = Base {
        architecture: "llama".into(),
        shapes: vec![block, second],
        heads: 4,
        kv_heads: 2,
        paired_rows: true,
        fingerprint: [1; 32],
        tokenizer: [2; 32],
    };
    let digest = |basis: &str| {
        let spec = Spec { targets: adapter::parse_targets("q,k,v").unwrap(), seed: 77, ..Spec::new("nola") };
        let spec = spec.with("rank", 3).with("basis kind", basis).with("basis", 5).with("basis b", 4);
        let mut a = Nola::create(&spec, &base).unwrap();
        let mut random = Random::new(5, "digest", "params");
        a.params_mut().iter_mut().for_each(|p| *p = random.next_f32() - 0.5);
        a.prepare(&Compute { kernels: kernel::best(), pool: Pool::new(threads) });
        u64::from_be_bytes(*a.expanded_digest().first_chunk().unwrap())
    };
    BASES.iter().map(|basis| digest(basis.name)).collect()
}

#[test]
fn expanded_factors_are_the_same_everywhere() {
    for threads in [1, 2] {
        assert_eq!(digests(threads), WANTED);
    }
}
