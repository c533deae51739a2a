//! Merging adapters: values of other programs (`golden/peft/e_merge`), what holds of every method, and `mynah merge`.

use crate::peft::{floats, golden, numbers};
use crate::shared::{needs_shared, shared};
use mynah::adapter::algebra::{Dense, Factors, triples, whitened};
use mynah::adapter::lora::Lora;
use mynah::adapter::lowrank::{Layout, Slot};
use mynah::adapter::merge::elementwise::{Ballot, VOTES, Vote, rescale, weighted};
use mynah::adapter::merge::{MERGES, Plan, Source, Spec};
use mynah::adapter::{self, Adapter, Base, Ready, Site, parse_targets};
use mynah::bytes::{Bytes, Limits};
use mynah::gguf::{Gguf, Writer};
use mynah::kernel::{self, Compute, Pool};
use mynah::model::Model;
use mynah::rng::Stream;
use mynah::role::Role;
use mynah::{Error, Mynah};
use safetensors::SafeTensors;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

fn embedded(threads: usize) -> Mynah {
    let file = Gguf::parse(Bytes::from_static(mynah::base::MODEL), &Limits::default()).unwrap();
    Mynah::with(file, Compute { kernels: kernel::best(), pool: Pool::new(threads) }).unwrap()
}

fn near(what: &str, got: &[f32], wanted: &[f32], bound: f32) {
    assert_eq!(got.len(), wanted.len(), "{what}");
    let most = wanted.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let worst = got.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
    assert!(worst <= bound * most, "{what}: {worst} of {most}");
}

/// Every arithmetic of TIES, the weighted sum, and DARE with the masks that are given.
#[needs_shared]
#[test]
fn vectors_are_merged_as_by_the_codes_of_others() {
    let file = std::fs::read(shared().join("golden/peft/e_merge/vectors/vectors.safetensors")).unwrap();
    let t = SafeTensors::deserialize(&file).unwrap();
    let tasks: Vec<Vec<f32>> = floats(&t, "task_vectors").chunks_exact(400).map(<[f32]>::to_vec).collect();
    let weights: Vec<f64> = floats(&t, "weights").iter().map(|w| f64::from(*w)).collect();
    let mut out = vec![0.0; 400];
    weighted(&tasks, &weights, &mut out);
    near("task_arithmetic", &out, &floats(&t, "task_arithmetic"), 1e-6);
    let names = [
        ("authors", "ties_authors_k"),
        ("authors-sum", "ties_authors_sum_k"),
        ("peft", "ties_peft_k"),
        ("peft-count", "ties_peft_freq_k"),
        ("mergekit", "ties_mergekit_norm_k"),
        ("mergekit-sum", "ties_mergekit_raw_k"),
    ];
    assert_eq!(names.map(|(name, _)| name).len(), VOTES.len());
    for (name, golden) in names {
        let vote = Vote::by_name(name).unwrap();
        for k in [10, 20, 50] {
            let size = |task: &Vec<f32>| task.iter().map(|v| v.abs()).collect::<Vec<f32>>();
            let least: Vec<f32> =
                tasks.iter().map(|task| vote.threshold(&mut size(task), f64::from(k) / 100.0)).collect();
            let mut ballot = Ballot { vote, least, weights: weights.clone(), most: true };
            ballot.most = !vote.asks() || ballot.lead(&tasks) >= 0;
            ballot.elect(&tasks, &mut out);
            near(&format!("{golden}{k}"), &out, &floats(&t, &format!("{golden}{k}")), 1e-6);
        }
    }
    let masks = t.tensor("dare_mask").unwrap().data().to_vec();
    let mut dropped = tasks.clone();
    for (task, mask) in dropped.iter_mut().zip(masks.chunks_exact(400)) {
        rescale(task, 0.3, |i| mask[i] != 0);
    }
    near("dare_rescaled", &dropped.concat(), &floats(&t, "dare_rescaled"), 1e-6);
    weighted(&dropped, &weights, &mut out);
    near("dare_linear", &out, &floats(&t, "dare_linear"), 1e-6);
    let vote = Vote::by_name("peft").unwrap();
    Ballot { vote, least: vec![0.0; 3], weights, most: true }.elect(&dropped, &mut out);
    near("dare_ties", &out, &floats(&t, "dare_ties_peft"), 1e-6);
}

fn whole(change: &Factors) -> Vec<f32> {
    let mut row = vec![0.0; change.size[1]];
    let of = |i: usize| {
        change.row(i, &mut row);
        row.iter().map(|v| *v as f32).collect::<Vec<f32>>()
    };
    (0..change.size[0]).flat_map(of).collect()
}

/// TSV-M with some triples of each task, with all, and of low-rank changes.
#[needs_shared]
#[test]
fn singular_vectors_are_merged_as_by_their_authors() {
    let file = std::fs::read(shared().join("golden/peft/e_merge/tsvm/tsvm.safetensors")).unwrap();
    let t = SafeTensors::deserialize(&file).unwrap();
    for (name, size, keep) in [("m1", [24, 18], 6), ("m2", [16, 31], 5)] {
        let dense = |task: usize| Dense { size, values: floats(&t, &format!("in.{task}/{name}")) };
        let merged = |keep: usize| whitened((0..3).map(|task| triples(&dense(task), keep)).collect());
        near(name, &whole(&merged(keep)), &floats(&t, &format!("tsvm/{name}")), 2e-5);
        near(name, &whole(&merged(100)), &floats(&t, &format!("lossless/{name}")), 2e-5);
        let mut cut = Factors { size, ..Factors::default() };
        (0..3).for_each(|task| cut.append(1.0, &triples(&dense(task), keep).factors()));
        near(name, &whole(&cut), &floats(&t, &format!("rank_reduction/{name}")), 2e-5);
    }
    let wide = |v: Vec<f32>| v.into_iter().map(f64::from).collect::<Vec<f64>>();
    let lora = |task: usize| {
        let b = wide(floats(&t, &format!("lora.{task}/lora_B")));
        let u = (0..4).flat_map(|r| b.chunks_exact(4).map(move |row| row[r])).collect();
        Factors { size: [32, 64], u, v: wide(floats(&t, &format!("lora.{task}/lora_A"))) }
    };
    let merged = whitened((0..3).map(|task| triples(&lora(task), 4)).collect());
    near("lora", &whole(&merged), &floats(&t, "tsvm_lora_rank4/delta"), 1e-6);
}

/// The change of a layer, `[out, in]`.
fn change(adapter: &dyn Adapter, site: Site) -> Vec<f32> {
    let (layout, factors) = adapter.low_rank().unwrap();
    let Some(slot) = layout.slot(site) else { return Vec::new() };
    let wide = |range: std::ops::Range<usize>| factors[range].iter().map(|v| f64::from(*v)).collect::<Vec<f64>>();
    let [n_in, n_out] = slot.shape;
    let mut scaled = Factors { size: [n_out, n_in], ..Factors::default() };
    scaled.append(f64::from(slot.factor), &Factors { size: [n_out, n_in], u: wide(slot.b()), v: wide(slot.a()) });
    whole(&scaled)
}

fn ready(adapter: Box<dyn Adapter>, model: &Model) -> Arc<Ready> {
    model.ready(adapter).unwrap()
}

/// All places, one after the other.
fn merged(plan: &mut Plan, base: &Base) -> mynah::Result<Box<dyn Adapter>> {
    if plan.looks() {
        let looks = (0..plan.len()).map(|place| plan.look(place)).collect();
        plan.learn(looks);
    }
    let parts = (0..plan.len()).map(|place| plan.merge(place)).collect::<mynah::Result<Vec<_>>>()?;
    Ok(plan.finish(parts, base)?.0)
}

/// PEFT's `cat`, `svd` and `ties_svd` of three LoRA adapters; the others of its ways act on factors, and are not merged here.
#[needs_shared]
#[test]
fn low_rank_sums_are_those_of_peft() {
    let shared = shared();
    let (dir, model) = golden(&shared);
    let base = model.base([0; 32]);
    let dir = dir.join("e_merge/add_weighted_adapter");
    let file = std::fs::read(dir.join("add_weighted_adapter.safetensors")).unwrap();
    let t = SafeTensors::deserialize(&file).unwrap();
    let cases: Value = serde_json::from_slice(&std::fs::read(dir.join("add_weighted_adapter.json")).unwrap()).unwrap();
    let places = [(Role::V, "layers.0.self_attn.v_proj"), (Role::Down, "layers.0.mlp.down_proj")];
    let matrix = |of: &str, module: &str, half: &str| floats(&t, &format!("{of}/{module}.lora_{half}.weight"));
    let lora = |name: &str, scaling: f64| {
        let rank = cases["inputs"][name]["r"].as_u64().unwrap() as usize;
        let slot =
            |role| Slot::new(Site { layer: 0, role }, &base, rank, (rank as f64 * scaling) as f32, false).unwrap();
        let layout = Layout::new(places.map(|(role, _)| slot(role)).to_vec(), false);
        let mut params = vec![0.0; layout.len()];
        for (role, module) in places {
            let slot = layout.slot(Site { layer: 0, role }).unwrap();
            let [a, b] = ["A", "B"].map(|half| matrix(&format!("in.{name}"), module, half));
            params[slot.a()].copy_from_slice(&a);
            let n_out = slot.shape[1];
            let of = &mut params[slot.b()];
            (0..n_out).for_each(|i| (0..rank).for_each(|r| of[r * n_out + i] = b[i * rank + r]));
        }
        ready(Box::new(Lora::from_params(layout, params, None)), &model)
    };
    let ties = Spec::new("ties").with("vote", "peft").with("density", 0.4).with("rank", 4);
    for (case, spec) in
        [("cat", Spec::new("sum")), ("svd", Spec::new("linear").with("scale", 1.0).with("rank", 3)), ("ties_svd", ties)]
    {
        let names = cases["cases"][case]["adapters"].as_array().unwrap().iter().map(|n| n.as_str().unwrap());
        let weights = numbers(&cases["cases"][case]["weights"]);
        let sources = names.zip(weights).map(|(name, weight)| {
            let scaling = cases["inputs"][name]["scaling"].as_f64().unwrap();
            Source { name: name.into(), adapter: lora(name, scaling), weight }
        });
        let got = merged(&mut Plan::new(&spec, sources.collect()).unwrap(), &base).unwrap();
        for (role, module) in places {
            let [a, b] = ["A", "B"].map(|half| matrix(case, module, half));
            let rank = cases["cases"][case]["r"].as_u64().unwrap() as usize;
            let (n_in, n_out) = (a.len() / rank, b.len() / rank);
            let entry = |i: usize, j: usize| (0..rank).map(|r| b[i * rank + r] * a[r * n_in + j]).sum::<f32>();
            let wanted: Vec<f32> =
                (0..n_out).flat_map(|i| (0..n_in).map(move |j| (i, j))).map(|(i, j)| entry(i, j)).collect();
            near(case, &change(&*got, Site { layer: 0, role }), &wanted, 1e-5);
        }
    }
}

/// An adapter with random parameters.
fn any(mynah: &Mynah, kind: &str, seed: u64) -> Arc<Ready> {
    let mut spec = adapter::Spec { seed, ..adapter::Spec::new(kind) };
    if ["lora", "nola", "uni", "dora", "ia3"].contains(&kind) {
        (spec.targets, spec.layers) = (parse_targets("v,down").unwrap(), Some(vec![0, 1]));
    }
    let mut adapter = adapter::create(&spec, mynah.base()).unwrap();
    let mut noise = vec![0.0; adapter.params().len()];
    Stream::new(seed, kind, "test").fill_uniform(0, &mut noise);
    adapter.params_mut().iter_mut().zip(&noise).for_each(|(p, n)| *p += 0.1 * n);
    ready(adapter, mynah.model())
}

fn source(adapter: &Arc<Ready>, weight: f64) -> Source {
    Source { name: "some.mynah".into(), adapter: adapter.clone(), weight }
}

/// A method with settings by which it leaves nothing out.
fn all_of(name: &str) -> Spec {
    let has = |knob: &str| MERGES.iter().any(|m| m.name == name && m.knobs.iter().any(|s| s.knob.name == knob));
    let mut spec = Spec::new(name).with("scale", 1.0).with("energy", 1.0);
    if has("density") {
        spec = spec.with("density", 1.0);
    }
    spec
}

/// The distance of two changes over all layers, as a part of the second.
fn distance(a: &dyn Adapter, b: &dyn Fn(Site) -> Vec<f32>) -> f64 {
    let (mut apart, mut all) = (0.0, 0.0);
    for slot in a.low_rank().unwrap().0.slots() {
        let (a, b) = (change(a, slot.site), b(slot.site));
        apart += a.iter().zip(&b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        all += b.iter().map(|b| f64::from(*b).powi(2)).sum::<f64>();
    }
    (apart / all).sqrt()
}

#[test]
fn one_adapter_merges_to_itself() {
    let mynah = embedded(1);
    for kind in ["lora", "nola", "uni"] {
        let one = any(&mynah, kind, 3);
        for method in MERGES {
            let mut plan = Plan::new(&all_of(method.name), vec![source(&one, 1.0)]).unwrap();
            let got = merged(&mut plan, mynah.base()).unwrap();
            let apart = distance(&*got, &|site| change(&**one, site));
            assert!(apart < 1e-4 && got.kind().name == "lora", "{kind} by {}: {apart}", method.name);
        }
    }
}

/// Changes with neither inputs nor outputs in common: the second is the first, moved to other rows and columns.
#[test]
fn changes_apart_merge_to_their_sum() {
    let mynah = embedded(1);
    let site = Site { layer: 1, role: Role::Down };
    let slot = || Slot::new(site, mynah.base(), 4, 4.0, false).unwrap();
    let half = |second: bool| {
        let layout = Layout::new(vec![slot()], false);
        let mut params = vec![0.0; layout.len()];
        let widths = [layout.slots()[0].shape[0], layout.slots()[0].shape[1]];
        for (side, (range, width)) in [layout.slots()[0].a(), layout.slots()[0].b()].into_iter().zip(widths).enumerate()
        {
            for (r, row) in params[range].chunks_exact_mut(width).enumerate() {
                let from = if second { width / 2 } else { 0 };
                Stream::new(r as u64, "half", ["a", "b"][side]).fill_uniform(0, &mut row[from..from + width / 2]);
            }
        }
        ready(Box::new(Lora::from_params(layout, params, None)), mynah.model())
    };
    let (a, b) = (half(false), half(true));
    for method in MERGES {
        let mut plan = Plan::new(&all_of(method.name), vec![source(&a, 1.0), source(&b, 1.0)]).unwrap();
        let got = merged(&mut plan, mynah.base()).unwrap();
        let sum = |site| change(&**a, site).iter().zip(change(&**b, site)).map(|(a, b)| a + b).collect();
        let apart = distance(&*got, &sum);
        assert!(apart < 1e-4, "{}: {apart}", method.name);
    }
    let plan = Plan::new(&Spec::new("sum"), vec![source(&a, 1.0), source(&b, 1.0)]).unwrap();
    let conflict = plan.conflicts(&[plan.look(0)]).remove(0);
    assert_eq!((conflict.cosine, conflict.signs, conflict.lost), (0.0, None, 0.0));
    assert!(conflict.overlap.unwrap() < 1e-12 && conflict.advice().word == "merge");
}

/// What opposes: an adapter and one with every sign turned, and what is said of adapters that are near, and unrelated.
#[test]
fn the_report_tells_friends_from_foes() {
    let mynah = embedded(1);
    let (a, b) = (any(&mynah, "lora", 3), any(&mynah, "lora", 4));
    let said = |x: Source, y: Source| {
        let plan = Plan::new(&Spec::new("sum"), vec![x, y]).unwrap();
        let looks: Vec<_> = (0..plan.len()).map(|place| plan.look(place)).collect();
        plan.conflicts(&looks).remove(0)
    };
    let close = |found: f64, wanted: f64| assert!((found - wanted).abs() < 0.05, "{found}, not {wanted}");
    let foes = said(source(&a, 1.0), source(&a, -2.0));
    close(foes.cosine, -1.0);
    close(foes.signs.unwrap(), 1.0);
    close(foes.overlap.unwrap(), 1.0);
    close(foes.lost, 0.2); // of 1 and 4
    assert_eq!(foes.advice().word, "route");
    let friends = said(source(&a, 1.0), source(&a, 1.0));
    close(friends.cosine, 1.0);
    assert_eq!((friends.signs, friends.lost, friends.advice().word), (Some(0.0), 0.0, "merge"));
    // A starts at random, and B is random here.
    let strangers = said(source(&a, 1.0), source(&b, 1.0));
    close(strangers.cosine, 0.0);
    close(strangers.signs.unwrap(), 0.5);
    close(strangers.lost, 0.09);
    assert_eq!(strangers.advice().word, "merge");
}

/// Merging copies: the sum doubles, the vote and whitening give the one back.
#[test]
fn copies_and_opposites() {
    let mynah = embedded(1);
    let a = any(&mynah, "lora", 3);
    for (method, factor) in [("sum", 2.0), ("linear", 2.0), ("ties", 1.0), ("tsvm", 1.0), ("r-tsvm", 1.0)] {
        let mut plan = Plan::new(&all_of(method), vec![source(&a, 1.0), source(&a, 1.0)]).unwrap();
        let got = merged(&mut plan, mynah.base()).unwrap();
        let apart = distance(&*got, &|site| change(&**a, site).iter().map(|v| factor * v).collect());
        assert!(apart < 1e-4, "{method}: {apart}");
    }
    for method in ["sum", "linear"] {
        let mut plan = Plan::new(&Spec::new(method), vec![source(&a, 1.0), source(&a, -1.0)]).unwrap();
        let e = merged(&mut plan, mynah.base()).err().unwrap();
        assert!(e.to_string().contains("cancel"), "{method}: {e}");
    }
}

#[test]
fn a_rank_holds_the_energy_that_is_asked_for() {
    let mynah = embedded(2);
    let both = [any(&mynah, "lora", 3), any(&mynah, "nola", 4)].map(|a| source(&a, 1.0));
    let of = |spec: Spec| {
        let mut plan = Plan::new(&spec, both.to_vec()).unwrap();
        let parts = (0..plan.len()).map(|place| plan.merge(place).unwrap()).collect();
        if plan.looks() {
            plan.learn(Vec::new());
        }
        plan.finish(parts, mynah.base()).unwrap().1
    };
    assert_eq!((of(Spec::new("sum")).kept, of(Spec::new("sum")).ranks), (1.0, [16, 16]));
    let usual = of(Spec::new("linear"));
    assert!(usual.kept >= 0.99 && usual.ranks[1] <= 16 && usual.least.unwrap().1 >= 0.99, "{usual:?}");
    let half = of(Spec::new("linear").with("energy", 0.5));
    assert!((0.5..0.9).contains(&half.kept) && half.ranks[1] < usual.ranks[1], "{half:?}");
    let three = of(Spec::new("ties").with("rank", 3));
    assert!(three.ranks == [3, 3] && three.kept < 1.0, "{three:?}");
}

/// Files of every method are the same with any number of threads; what is dropped follows from the seed.
#[test]
fn threads_change_no_bit() {
    let one = embedded(1);
    let file = |adapter: &Arc<Ready>| adapter::to_bytes(&***adapter, one.base(), &Default::default()).unwrap();
    let [a, b] = [any(&one, "lora", 3), any(&one, "nola", 4)].map(|a| file(&a));
    let bytes = |threads: usize, spec: &Spec| {
        let mynah = embedded(threads);
        let mut merging = mynah.merge(spec, [(a.clone(), 0.7), (b.clone(), -0.4)]).unwrap();
        while merging.look().unwrap() {}
        let said = format!("{:?}", merging.conflicts());
        (merging.to_bytes().unwrap(), said)
    };
    for method in MERGES {
        let spec = Spec::new(method.name);
        assert!(bytes(1, &spec) == bytes(3, &spec), "{}", method.name);
    }
    let dare = |seed: u64| bytes(2, &Spec::new("dare").with("seed", seed)).0;
    assert!(dare(0) == bytes(2, &Spec::new("dare")).0 && dare(0) != dare(1));
    // The methods differ.
    let files: Vec<Vec<u8>> = MERGES.iter().map(|m| bytes(2, &Spec::new(m.name)).0).collect();
    (0..files.len()).for_each(|i| assert!(files[..i].iter().all(|f| *f != files[i]), "{}", MERGES[i].name));
}

/// Vectors: the weighted mean.
#[test]
fn vectors_have_a_mean() {
    let mynah = embedded(1);
    let (a, b) = (any(&mynah, "ia3", 3), any(&mynah, "ia3", 4));
    let mut plan = Plan::new(&Spec::new("linear"), vec![source(&a, 3.0), source(&b, 1.0)]).unwrap();
    let got = merged(&mut plan, mynah.base()).unwrap();
    assert_eq!(got.kind().name, "ia3");
    let mean: Vec<f32> = a.params().iter().zip(b.params()).map(|(a, b)| 0.75 * a + 0.25 * b).collect();
    near("ia3", got.params(), &mean, 1e-6);
    assert!(plan.conflicts(&[plan.look(0)])[0].cosine.abs() < 0.3);
}

#[test]
fn what_cannot_be_merged_is_named() {
    let mynah = embedded(1);
    let lora = any(&mynah, "lora", 3);
    let of = |kind: &str| any(&mynah, kind, 4);
    let narrow = {
        let spec = adapter::Spec { layers: Some(vec![0]), ..adapter::Spec::new("ia3") };
        ready(adapter::create(&spec, mynah.base()).unwrap(), mynah.model())
    };
    let odd = {
        let mut slot = Slot::new(Site { layer: 0, role: Role::V }, mynah.base(), 4, 4.0, false).unwrap();
        slot.shape = [16, 24];
        let layout = Layout::new(vec![slot], false);
        let params = vec![0.1; layout.len()];
        ready(Box::new(Lora::from_params(layout, params, None)), mynah.model())
    };
    let two = |a: &Arc<Ready>, b: &Arc<Ready>| vec![source(a, 1.0), source(b, 1.0)];
    let sum = || Spec::new("sum");
    type Row = (&'static str, Spec, Vec<Source>, &'static str, &'static str);
    let rows: Vec<Row> = vec![
        ("no adapter", sum(), vec![], "Invalid", "none"),
        ("weight NaN", sum(), vec![source(&lora, f64::NAN)], "Invalid", "NaN"),
        ("weight 0", sum(), vec![source(&lora, 1.0), source(&lora, 0.0)], "Invalid", "weight of some.mynah"),
        ("weight infinite", sum(), vec![source(&lora, f64::INFINITY)], "Invalid", "inf"),
        ("method of no table", Spec::new("slerp"), vec![source(&lora, 1.0)], "Unsupported", "slerp"),
        ("setting of another", sum().with("density", 0.5), vec![source(&lora, 1.0)], "Invalid", "density"),
        ("density 0", Spec::new("ties").with("density", 0.0), vec![source(&lora, 1.0)], "Invalid", "density"),
        ("shapes that differ", sum(), two(&lora, &odd), "Mismatch", "shape of blk.0.attn_v.weight"),
        ("dora", sum(), two(&lora, &of("dora")), "Unsupported", "dora"),
        ("prompt", sum(), vec![source(&of("prompt"), 1.0)], "Unsupported", "prompt"),
        ("bottleneck", sum(), two(&of("bottleneck"), &lora), "Unsupported", "bottleneck"),
        ("lora and ia3", sum(), two(&lora, &of("ia3")), "Unsupported", "ia3"),
        ("ia3 and lora", Spec::new("linear"), two(&of("ia3"), &lora), "Mismatch", "adapter kind"),
        ("ia3 by ties", Spec::new("ties"), two(&of("ia3"), &of("ia3")), "Unsupported", "weighted mean"),
        ("ia3 of other layers", Spec::new("linear"), two(&of("ia3"), &narrow), "Mismatch", "places"),
    ];
    for (what, spec, sources, variant, word) in rows {
        let e = Plan::new(&spec, sources).err().unwrap_or_else(|| panic!("{what} is merged"));
        assert!(format!("{:?}", e.inner()).starts_with(variant) && e.to_string().contains(word), "{what}: {e}");
    }
    // Values that are no numbers.
    let mut adapter = adapter::create(&adapter::Spec::new("lora"), mynah.base()).unwrap();
    adapter.params_mut().fill(f32::NAN);
    let nothing = ready(adapter, mynah.model());
    for method in MERGES {
        let e = merged(&mut Plan::new(&Spec::new(method.name), two(&lora, &nothing)).unwrap(), mynah.base());
        assert!(e.err().unwrap().to_string().contains("not finite"), "{}", method.name);
    }
    // What a mean is divided by is nothing.
    let mut plan = Plan::new(&Spec::new("linear"), vec![source(&of("ia3"), 1.0), source(&of("ia3"), -1.0)]).unwrap();
    assert!(matches!(merged(&mut plan, mynah.base()).err().unwrap(), Error::Invalid { .. }));
}

/// The base with one bit of a tensor changed.
fn other_base() -> Vec<u8> {
    let file = Gguf::parse(Bytes::from_static(mynah::base::MODEL), &Limits::default()).unwrap();
    let mut other = Writer::new();
    file.pairs().for_each(|(key, value)| _ = other.set(key, value.clone()));
    for (i, tensor) in file.tensors().iter().enumerate() {
        let mut data = file.data(tensor).unwrap().to_vec();
        if i == 0 {
            data[40] ^= 1;
        }
        other.tensor(&*tensor.name, tensor.dims(), tensor.format, data);
    }
    other.finish().unwrap()
}

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mynah")).args(args).stdin(Stdio::null()).output().unwrap()
}

fn good(args: &[&str]) -> String {
    let out = run(args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn refused(args: &[&str], status: i32, word: &str) {
    let out = run(args);
    let said = String::from_utf8_lossy(&out.stderr).replace('\n', " ");
    assert!(out.status.code() == Some(status) && said.contains(word), "{args:?}: {:?} {said}", out.status);
}

#[test]
fn the_command_reports_and_merges() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let one = embedded(2);
    for (name, seed) in [("a.mynah", 3), ("b.mynah", 4)] {
        let file = adapter::to_bytes(&**any(&one, "lora", seed), one.base(), &Default::default()).unwrap();
        std::fs::write(at(name), file).unwrap();
    }
    let other = Mynah::from_bytes(other_base()).unwrap();
    let foreign = adapter::to_bytes(&**any(&other, "lora", 5), other.base(), &Default::default()).unwrap();
    std::fs::write(at("foreign.mynah"), foreign).unwrap();
    let (a, b, out) = (at("a.mynah"), at("b.mynah"), at("both.mynah"));

    let said = good(&["merge", &a, &b, "--report"]);
    assert!(said.contains("cosine") && said.contains("merge: ") && !Path::new(&out).exists(), "{said}");
    let report: Value = serde_json::from_str(&good(&["merge", &a, &b, "--report", "--json"])).unwrap();
    assert!(report["pairs"][0]["cosine"].as_f64().unwrap().abs() < 0.1 && report.get("output").is_none());

    for method in MERGES {
        let half = format!("{b}=0.5");
        let args = ["merge", &a, &half, "-o", &out, "--force", "--method", method.name, "--json"];
        let report: Value = serde_json::from_str(&good(&args)).unwrap();
        let kept = report["kept"].as_f64().unwrap();
        assert!(kept > 0.3 && kept <= 1.0 && report["method"].as_str().unwrap().starts_with(method.name), "{report}");
        assert_eq!(report["bytes"].as_u64().unwrap(), std::fs::metadata(&out).unwrap().len());
        let shown = good(&["inspect", &out]);
        assert!(shown.contains(&format!("merged by {}", method.name)) && shown.contains("0.5 × b.mynah"), "{shown}");
        good(&["run", "-a", &out, "-p", "Rain", "-n", "2"]);
    }
    // The same as attaching both, up to the rounding of the file.
    good(&["merge", &a, &b, "-o", &out, "--force"]);
    let losses = |adapters: &[&str]| {
        let args = adapters.iter().flat_map(|a| ["-a", a]).collect::<Vec<_>>();
        let said = good(&[&["logits", "-p", "Rain and tea at four", "--exact", "--json"], &args[..]].concat());
        numbers(&serde_json::from_str::<Value>(&said).unwrap()["nll"])
    };
    for (x, y) in losses(&[&a, &b]).iter().zip(losses(&[&out])) {
        assert!((x - y).abs() < 0.02, "{x} {y}");
    }

    let row: &[(&[&str], i32, &str)] = &[
        (&["merge", &a, &b], 2, "--output"),
        (&["merge", "--report"], 2, "ADAPTER"),
        (&["merge", &a, &a, "--report"], 2, "given twice"),
        (&["merge", &a, &format!("{a}:0.5"), "--report"], 2, "given twice"),
        (&["merge", &a, &format!("{b}:0"), "--report"], 2, "weight of 0"),
        (&["merge", &a, &format!("{b}:nan"), "--report"], 2, "no strength"),
        (&["merge", &a, &b, "-o", &out], 2, "--force"),
        (&["merge", &a, &b, "-o", &a, "--force"], 2, "overwrite"),
        (&["merge", &a, &b, "-o", &out, "--force", "--density", "0.5"], 2, "--method ties, dare"),
        (&["merge", &a, &b, "--method", "slerp", "--report"], 2, "slerp"),
        (&["merge", &a, &at("foreign.mynah"), "--report"], 1, "weights of the base"),
        (&["merge", &a, &at("nothing.mynah"), "--report"], 1, "no such file"),
    ];
    for (args, status, word) in row {
        refused(args, *status, word);
    }
}
