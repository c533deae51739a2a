//! What the pages of low-rank kinds promise beside the laws of all adapters.

use crate::gradients::{config, examples};
use crate::tiny;
use mynah::adapter::algebra::{Dense, triples};
use mynah::adapter::kinds::mos::Shards;
use mynah::adapter::lowrank::Factors;
use mynah::adapter::settled::{fresh, made};
use mynah::adapter::{self, Adapter, Base, Spec};
use mynah::bytes::{Bytes, Limits};
use mynah::error::Error;
use mynah::gguf::Gguf;
use mynah::kernel::{Compute, Pool};
use mynah::model::Model;
use mynah::train::{Recompute, Trainer};

fn model(threads: usize) -> Model {
    tiny::model("llama", 3, true, threads)
}

fn prepared(spec: &Spec, model: &Model) -> Box<dyn Adapter> {
    let mut a = adapter::create(spec, &model.base([0; 32])).unwrap();
    a.prepare(&model.compute, model).unwrap();
    a
}

/// Losses of a few steps, to the bit.
fn losses(spec: &Spec, model: &Model) -> Vec<u64> {
    let a = adapter::create(spec, &model.base([0; 32])).unwrap();
    let mut trainer = Trainer::adapter(model, a, config(Recompute::None)).unwrap();
    (0..4).map(|_| trainer.step(&[&examples()]).unwrap().loss.to_bits()).collect()
}

fn lora() -> Spec {
    Spec { seed: 7, ..Spec::new("lora") }.with("rank", 3)
}

#[test]
fn mos_with_private_rows_alone_is_lora_to_the_bit() {
    let model = model(2);
    let mos = Spec { seed: 7, ..Spec::new("mos") }.with("rank", 3).with("pool", 3).with("private", 3);
    for pieces in [1, 5] {
        let mos = mos.clone().with("pieces", pieces);
        let (a, b) = (prepared(&lora(), &model), prepared(&mos, &model));
        assert!(a.low_rank().unwrap().1 == b.low_rank().unwrap().1);
        assert_eq!(losses(&lora(), &model), losses(&mos, &model), "{pieces} pieces");
    }
}

fn shards(spec: &Spec, base: &Base) -> (adapter::lowrank::Layout, Shards) {
    made::<Shards>(spec, base).unwrap()
}

#[test]
fn private_shards_are_those_of_one_layer_and_no_shard_comes_twice() {
    let base = model(1).base([0; 32]);
    let spec =
        Spec { seed: 7, ..Spec::new("mos") }.with("rank", 4).with("pool", 3).with("private", 1).with("pieces", 3);
    let (layout, of) = shards(&spec, &base);
    let slots = layout.slots();
    for (i, slot) in slots.iter().enumerate() {
        for (side, table) in of.table(i).iter().enumerate() {
            assert_eq!(table.len(), slot.rank * 3);
            let mut seen = table.clone();
            seen.sort();
            seen.dedup();
            assert_eq!(seen.len(), table.len(), "{}: a shard comes twice", slot.site);
            let own: Vec<u32> = table.iter().copied().filter(|s| of.private(i).contains(s)).collect();
            assert_eq!(own.len(), 3);
            let like = |j: &usize| *j != i && slots[*j].site.role == slot.site.role && slots[*j].shape == slot.shape;
            for j in (0..slots.len()).filter(like) {
                assert!(own.iter().all(|s| !of.table(j)[side].contains(s)), "{} and {}", slot.site, slots[j].site);
            }
        }
        // Choices for A and for B are two.
        assert_ne!(of.table(i)[0], of.table(i)[1]);
    }
}

/// A width that pieces do not divide: what is cut has no gradient, all else is met.
#[test]
fn what_is_cut_of_a_shard_is_not_trained() {
    let model = model(1);
    let spec = Spec::new("mos").with("rank", 2).with("private", 2).with("pieces", 5);
    let (layout, of) = shards(&spec, &model.base([0; 32]));
    let n = layout.len();
    let mut grads = vec![7.0; fresh(layout.clone(), of.clone()).params().len()];
    of.project(&model.compute, &layout, &[], &vec![1.0; n], &mut grads);
    assert!(grads.iter().all(|g| [0.0, 1.0].contains(g)));
    assert_eq!(grads.iter().filter(|g| **g == 1.0).count(), n);
    assert!(grads.len() > n);
}

#[test]
fn a_group_of_one_block_is_lora_to_the_bit() {
    let model = model(2);
    let shared = |n: u64| Spec { seed: 7, ..Spec::new("lora-shared") }.with("rank", 3).with("group", n);
    assert_eq!(losses(&lora(), &model), losses(&shared(1), &model));
    assert_ne!(losses(&lora(), &model), losses(&shared(2), &model));
    let count = |n| prepared(&shared(n), &model).params().len();
    assert!(count(2) < count(1));
}

#[test]
fn a_set_of_blocks_has_one_handful_of_numbers() {
    let model = model(1);
    let count = |n: u64| prepared(&Spec::new("tinylora").with("share", n), &model).params().len();
    assert_eq!((count(1), count(2)), (2 * 7 * 13, 7 * 13));
}

/// Frames are the same bits whatever the number of threads.
#[test]
fn frames_do_not_depend_on_threads() {
    let [one, three] = [1, 3].map(model);
    let start = |name: &str| lora().with("start", name);
    for spec in [Spec::new("lora-xs"), Spec::new("tinylora"), start("pissa"), start("olora"), start("loftq")] {
        let factors = |model: &Model| {
            let mut a = prepared(&spec, model);
            a.params_mut().iter_mut().for_each(|p| *p = 0.5);
            a.prepare(&model.compute, model).unwrap();
            let all: Vec<u32> = a.low_rank().unwrap().1.iter().map(|v| v.to_bits()).collect();
            all
        };
        assert!(factors(&one) == factors(&three), "{}", spec.kind);
    }
}

/// `s·B₀·A₀` is what each start says: its part of the rows, or of what they lose.
#[test]
fn starts_are_parts_of_the_frozen_rows() {
    let model = model(2);
    let base = model.base([0; 32]);
    for name in ["pissa", "olora", "loftq"] {
        let a = prepared(&lora().with("start", name), &model);
        let (layout, factors) = a.low_rank().unwrap();
        for slot in layout.slots() {
            let ([n_in, n_out], rank) = (slot.shape, slot.rank / 2);
            assert_eq!(rank, 3);
            // While a and b are zero, A₀ comes first of A, and B₀ last of B.
            let (a0, b0) = (&factors[slot.a()][..rank * n_in], &factors[slot.b()][rank * n_out..]);
            let w = base.matrix(slot.site).unwrap();
            let mut rest = Dense { size: [n_out, n_in], values: vec![0.0; n_in * n_out] };
            for (o, row) in rest.values.chunks_exact_mut(n_in).enumerate() {
                w.decode(o, 0..n_in, row);
            }
            let whole = triples(&rest, n_in);
            let s = if name == "olora" { 1.0 } else { slot.factor };
            for (o, row) in rest.values.chunks_exact_mut(n_in).enumerate() {
                for (j, v) in row.iter_mut().enumerate() {
                    *v -= s * (0..rank).map(|r| b0[r * n_out + o] * a0[r * n_in + j]).sum::<f32>();
                }
            }
            let energy = |v: &mut dyn Iterator<Item = f64>| v.map(|v| v * v).sum::<f64>();
            let left = energy(&mut rest.values.iter().map(|v| f64::from(*v)));
            let all = energy(&mut whole.values.iter().copied());
            match name {
                "pissa" => {
                    let least = energy(&mut whole.values[rank..].iter().copied());
                    assert!(left < least + 1e-4 * all, "{}: {left} is left, {least} must be", slot.site);
                }
                "olora" => {
                    // The first columns are met.
                    let met = rest.values.chunks_exact(n_in).flat_map(|row| &row[..rank]).all(|v| v.abs() < 1e-5);
                    assert!(met, "{}", slot.site);
                }
                _ => {
                    // A small part of the rows, and not none.
                    let part = (left - all).abs() / all;
                    assert!(part < 0.05 && b0.iter().any(|v| *v != 0.0), "{}: {part}", slot.site);
                }
            }
        }
    }
}

/// A base that was quantised has lost what `loftq` starts from.
#[test]
fn loftq_needs_rows_that_lost_nothing() {
    let gguf = Gguf::parse(Bytes::from_static(mynah::base::MODEL), &Limits::default()).unwrap();
    let compute = Compute { kernels: mynah::kernel::best(), pool: Pool::new(1) };
    let model = Model::load(&gguf, compute).unwrap();
    for (name, works) in [("pissa", true), ("olora", true), ("loftq", false)] {
        let spec = Spec { layers: Some(vec![0]), ..lora().with("start", name) };
        let mut a = adapter::create(&spec, &model.base([0; 32])).unwrap();
        match a.prepare(&model.compute, &model) {
            Ok(()) => assert!(works, "{name}"),
            Err(e) => {
                assert!(!works && matches!(e, Error::Unsupported { .. }), "{e}");
                assert!(e.to_string().contains("loftq") && e.to_string().contains("Q4_0"), "{e}");
            }
        }
    }
}

/// A LoRA with another start is one of twice the rank for other programs.
#[test]
fn another_start_is_saved_and_read_back() {
    let model = model(1);
    let base = model.base([0; 32]);
    let mut a = prepared(&lora().with("start", "pissa"), &model);
    a.params_mut().iter_mut().enumerate().for_each(|(i, p)| *p = (i % 7) as f32 / 64.0);
    a.prepare(&model.compute, &model).unwrap();
    let bytes = adapter::to_bytes(&*a, &base, &adapter::Provenance::default()).unwrap();
    let mut b = adapter::from_bytes(bytes.into(), &base, &Limits::default()).unwrap();
    b.prepare(&model.compute, &model).unwrap();
    assert_eq!(a.low_rank().unwrap().1, b.low_rank().unwrap().1);
    assert_eq!((b.kind().name, b.low_rank().unwrap().0.rank()), ("lora", 6));
}
