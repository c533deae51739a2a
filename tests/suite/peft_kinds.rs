//! Kinds of adapters beside LoRA against PEFT's numbers (`golden/peft/b_peft`): loss and gradients of a batch, and twenty
//! steps. Each kind's parameters are read into a fresh adapter, part by part.

use crate::peft::{batches, close, config, floats, golden, ints, json, trajectory};
use crate::shared::{needs_shared, shared};
use mynah::adapter::frame::Frame;
use mynah::adapter::kinds::{fourierft, lora_xs, sparse, tinylora, vera};
use mynah::adapter::lowrank::{Layout, Slot};
use mynah::adapter::settled::{fresh, made};
use mynah::adapter::{self, Adapter, Base, Place, Spec, parse_targets};
use mynah::role::Role;
use mynah::train::Trainer;
use safetensors::SafeTensors;

/// What PEFT holds of a part of ours, `(place, name of the part)`: the tensors' values in our order.
type Values<'a> = dyn Fn(&SafeTensors, &SafeTensors, &str, Place, &str) -> Vec<f32> + 'a;

/// A tensor by its name, in the layout of GGUF files where it differs.
fn either(plain: &SafeTensors, layout: &SafeTensors, prefix: &str, name: &str) -> Vec<f32> {
    let gguf = format!("{prefix}{name}::gguf");
    match [layout, plain].iter().find(|t| t.tensor(&gguf).is_ok()) {
        Some(t) => floats(t, &gguf),
        None => floats(plain, &format!("{prefix}{name}")),
    }
}

/// Loss, gradients and twenty steps of a method. `values` says where our parts are among PEFT's tensors.
fn compare(method: &str, spec: &Spec, values: &Values) {
    compare_from(method, &|base, _| adapter::create(spec, base).unwrap(), values);
}

/// The same of an adapter that is made with the frozen values of the method's file.
fn compare_from(method: &str, fresh: &dyn Fn(&Base, &SafeTensors) -> Box<dyn Adapter>, values: &Values) {
    let shared = shared();
    let (dir, model) = golden(&shared);
    let (grad, train) = batches(&dir);
    let at = dir.join("b_peft").join(method);
    let read = |name: &str| std::fs::read(at.join(name)).unwrap();
    let first = |names: &[&'static str]| *names.iter().find(|name| at.join(name).exists()).unwrap();
    let init = first(&["init/adapter_model.safetensors", "init.safetensors"]);
    let (init, layout, grads) =
        (read(init), read(first(&["init/gguf_layout.safetensors", init])), read("grads.safetensors"));
    let tensors = [&init, &layout, &grads].map(|bytes| SafeTensors::deserialize(bytes).unwrap());
    let open_fresh = || fresh(&model.base([0; 32]), &tensors[0]);
    let gather = |plain: usize, layout: usize, prefix: &str| -> Vec<f32> {
        let fresh = open_fresh();
        let shape = fresh.shape();
        // A part that all share is found by its name alone.
        let place = |i: usize| shape.slots.iter().find(|s| s.parts.contains(&i)).unwrap_or(&shape.slots[0]).place;
        let parts = shape.parts.iter().enumerate().map(|(i, part)| (place(i), part));
        parts
            .flat_map(|(place, part)| {
                let got = values(&tensors[plain], &tensors[layout], prefix, place, part.name);
                assert_eq!(got.len(), part.range.len(), "{place} {}", part.name);
                got
            })
            .collect()
    };
    let open = || {
        let mut fresh = open_fresh();
        fresh.params_mut().copy_from_slice(&gather(0, 1, ""));
        fresh
    };
    let result = json(&at.join("result.json"));
    let mut trainer = Trainer::adapter(&model, open(), config(1e-3, 0.0, 1)).unwrap();
    let report = trainer.step(&[&grad[0]]).unwrap();
    let want = result["loss_masked"].as_f64().unwrap();
    assert!((report.loss + report.penalty - want).abs() < 1e-5, "{method}: loss {} for {want}", report.loss);
    close(method, trainer.grads(), &gather(2, 2, "masked/"));
    let worst = trajectory(&model, open(), &train, &result["trajectory"], 1e-3, 1.0);
    eprintln!("{method}: twenty losses within {worst:.1e}");
}

/// PEFT's name of the module at a place.
fn module(place: Place) -> String {
    let (Place::Site(site) | Place::Input(site)) = place else { panic!("{place} is no linear layer") };
    format!("base_model.model.model.layers.{}.{}", site.layer, site.role.hf())
}

#[needs_shared]
#[test]
fn ia3() {
    let values: &Values =
        &|plain, layout, prefix, place, _| either(plain, layout, prefix, &format!("{}.ia3_l", module(place)));
    compare("ia3", &Spec::new("ia3"), values);
}

/// `[out, rank]` as `[rank, out]`.
fn transposed(b: &[f32], rank: usize) -> Vec<f32> {
    let out = b.len() / rank;
    (0..b.len()).map(|i| b[i % out * rank + i / out]).collect()
}

#[needs_shared]
#[test]
fn dora() {
    let values: &Values = &|plain, layout, prefix, place, part| {
        let get = |name: &str| either(plain, layout, prefix, &format!("{}.{name}", module(place)));
        match part {
            "a" => get("lora_A.weight"),
            "b" => transposed(&get("lora_B.weight"), 4),
            _ => get("lora_magnitude_vector"),
        }
    };
    compare("dora", &Spec::new("dora").with("rank", 4).with("alpha", 8.0), values);
}

#[needs_shared]
#[test]
fn prompt() {
    let values: &Values = &|plain, _, prefix, _, _| floats(plain, &format!("{prefix}prompt_embeddings"));
    compare("prompt", &Spec::new("prompt").with("length", 5), values);
}

/// Of a row the key of block `l` is the `2l`-th piece, the value the next; rows of keys are paired as those of the matrix.
#[needs_shared]
#[test]
fn prefix() {
    let (kv, d, layers) = (4, 8, 5);
    let values: &Values = &|plain, _, prefix, place, part| {
        let all = floats(plain, &format!("{prefix}prompt_embeddings"));
        let piece = 2 * place.layer().unwrap() + usize::from(part == "values");
        let mut out = vec![0.0; 5 * kv * d];
        for (row, out) in all.chunks_exact(2 * layers * kv * d).zip(out.chunks_exact_mut(kv * d)) {
            for (i, v) in row[piece * kv * d..][..kv * d].iter().enumerate() {
                let to = if part == "keys" { adapter::gguf_row(i, d) } else { i };
                out[to] = *v;
            }
        }
        out
    };
    compare("prefix", &Spec::new("prefix").with("length", 5).with("offset", 5), values);
}

/// The layers that these goldens adapt.
fn two(kind: &str) -> Spec {
    Spec { targets: vec![Role::V, Role::Down], ..Spec::new(kind) }
}

#[needs_shared]
#[test]
fn vera_of_one_pair() {
    let open = |base: &Base, init: &SafeTensors| -> Box<dyn Adapter> {
        let (layout, of) = made::<vera::Slices>(&Spec::new("vera").with("rank", 8), base).unwrap();
        let pair = ["A", "B"].map(|name| floats(init, &format!("base_model.vera_{name}")));
        let [a, b] = pair;
        Box::new(fresh(layout, of.with_pair(a, b)))
    };
    let values: &Values = &|plain, layout, prefix, place, part| {
        either(plain, layout, prefix, &format!("{}.vera_lambda_{part}", module(place)))
    };
    compare_from("vera", &open, values);
}

/// The frames of a file with these names of A and B.
fn frame(layout: &Layout, init: &SafeTensors, rank: usize, [a, b]: [&str; 2]) -> Frame {
    let pair = |slot: &Slot| {
        let get = |name: &str| either(init, init, "", &format!("{}.{name}", module(Place::Site(slot.site))));
        [get(a), transposed(&get(b), rank)]
    };
    Frame::given(layout, rank, &layout.slots().iter().map(pair).collect::<Vec<_>>())
}

fn spec_xs() -> Spec {
    Spec::new("lora-xs").with("rank", 4).with("alpha", 8.0)
}

#[needs_shared]
#[test]
fn lora_xs_between_given_directions() {
    let open = |base: &Base, init: &SafeTensors| -> Box<dyn Adapter> {
        let (layout, of) = made::<lora_xs::Core>(&spec_xs(), base).unwrap();
        let frame = frame(&layout, init, 4, ["lora_A.weight", "lora_B.weight"]);
        Box::new(fresh(layout, of.with_frame(frame)))
    };
    let values: &Values =
        &|plain, layout, prefix, place, _| either(plain, layout, prefix, &format!("{}.R", module(place)));
    compare_from("loraxs", &open, values);
}

/// Our own directions make the same part of each matrix as those of a whole decomposition; signs may differ.
#[needs_shared]
#[test]
fn leading_directions_are_those_of_the_whole_decomposition() {
    let shared = shared();
    let (dir, model) = golden(&shared);
    let init = std::fs::read(dir.join("b_peft/loraxs/init.safetensors")).unwrap();
    let init = SafeTensors::deserialize(&init).unwrap();
    let (layout, of) = made::<lora_xs::Core>(&spec_xs(), &model.base([0; 32])).unwrap();
    let want = frame(&layout, &init, 4, ["lora_A.weight", "lora_B.weight"]);
    let mut core = of.clone();
    mynah::adapter::lowrank::Factors::prepare(&mut core, &model.compute, &layout, &model).unwrap();
    let mut worst = 0.0f64;
    for (i, slot) in layout.slots().iter().enumerate() {
        let product = |frame: &Frame| -> Vec<f64> {
            let [a, b] = frame.pair(i, slot.shape);
            let entry = |o: usize, j: usize| (0..4).map(|r| f64::from(b.row(r)[o]) * f64::from(a.row(r)[j])).sum();
            (0..slot.shape[1]).flat_map(|o| (0..slot.shape[0]).map(move |j| entry(o, j))).collect()
        };
        let (got, want) = (product(core.frame()), product(&want));
        let energy = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>();
        let apart: Vec<f64> = got.iter().zip(&want).map(|(g, w)| g - w).collect();
        worst = worst.max((energy(&apart) / energy(&want)).sqrt());
    }
    eprintln!("leading directions: the worst product is {worst:.1e} apart");
    assert!(worst < 1e-2, "{worst}");
}

#[needs_shared]
#[test]
fn tinylora_of_given_matrices() {
    let open = |base: &Base, init: &SafeTensors| -> Box<dyn Adapter> {
        let spec = Spec { targets: parse_targets("v,down").unwrap(), ..Spec::new("tinylora") };
        let (layout, of) = made::<tinylora::Handful>(&spec, base).unwrap();
        let p =
            layout.slots().iter().flat_map(|s| floats(init, &format!("{}.tinylora_P", module(Place::Site(s.site)))));
        let p = p.collect();
        let frame = frame(&layout, init, 2, ["tinylora_A", "tinylora_B"]);
        Box::new(fresh(layout, of.with_frozen(frame, p)))
    };
    let values: &Values = &|plain, _, prefix, place, _| {
        let Place::Site(site) = place else { panic!("{place} is no linear layer") };
        let nth = 2 * site.layer + usize::from(site.role == Role::Down);
        floats(plain, &format!("{prefix}base_model.tinylora_v.{nth}"))
    };
    compare_from("tinylora", &open, values);
}

#[needs_shared]
#[test]
fn vblora_of_one_bank() {
    let spec = Spec { targets: parse_targets("v,down").unwrap(), ..Spec::new("vblora") };
    let spec = spec.with("rank", 2).with("vectors", 16).with("vector length", 4);
    let values: &Values = &|plain, _, prefix, place, part| {
        let get = |name: &str| floats(plain, &format!("{prefix}{}.vblora_logits_{name}", module(place)));
        match part {
            "bank" => floats(plain, &format!("{prefix}base_model.vblora_vector_bank")),
            "a" => get("A"),
            _ => {
                // Logits of pieces, rank by rank.
                let all = get("B");
                let pieces = all.len() / (2 * 16);
                (0..2)
                    .flat_map(|r| (0..pieces).flat_map(move |p| (0..16).map(move |k| (p * 2 + r) * 16 + k)))
                    .map(|i| all[i])
                    .collect()
            }
        }
    };
    compare("vblora", &spec, values);
}

/// Positions are the base's rows and columns, in any order.
#[needs_shared]
#[test]
fn shira() {
    let dir = golden(&shared()).0.join("b_peft/shira/init/adapter_model.safetensors");
    let bytes = std::fs::read(dir).unwrap();
    let init = SafeTensors::deserialize(&bytes).unwrap();
    let positions = |place: Place| -> Vec<[u32; 2]> {
        let tensor = init.tensor(&format!("{}.shira_indices", module(place))).unwrap();
        let (words, _) = tensor.data().as_chunks::<4>();
        let (rows, cols) = words.split_at(words.len() / 2);
        let word = |w: &[u8; 4]| u32::from_le_bytes(*w);
        rows.iter().zip(cols).map(|(row, col)| [word(row), word(col)]).collect()
    };
    let spec = Spec { targets: parse_targets("v,down").unwrap(), ..Spec::new("sparse") };
    let spec = spec.with("values", 3320).with("spread", "sides");
    let create = |base: &Base, _: &SafeTensors| {
        let slots = adapter::create(&spec, base).unwrap().shape().slots.clone();
        sparse::at(&spec, base, slots.iter().map(|slot| positions(slot.place)).collect()).unwrap()
    };
    let values: &Values = &|plain, _, prefix, place, _| {
        let all = floats(plain, &format!("{prefix}{}.shira_weight", module(place)));
        let mut sorted: Vec<([u32; 2], f32)> = positions(place).into_iter().zip(all).collect();
        sorted.sort_by_key(|(at, _)| *at);
        sorted.into_iter().map(|(_, v)| v).collect()
    };
    compare_from("shira", &create, values);
}

#[needs_shared]
#[test]
fn loha() {
    let values: &Values = &|plain, _, prefix, place, part| {
        let (factor, side) = part.split_at(2);
        let all = floats(plain, &format!("{prefix}{}.hada_{factor}_{side}", module(place)));
        if side == "a" { transposed(&all, 2) } else { all }
    };
    compare("loha", &two("loha").with("rank", 2).with("alpha", 4), values);
}

#[needs_shared]
#[test]
fn lokr() {
    let values: &Values = &|plain, _, prefix, place, part| {
        let get = |name: &str| floats(plain, &format!("{prefix}{}.lokr_{name}", module(place)));
        match part {
            "w1" => get("w1"),
            "w2a" => transposed(&get("w2_a"), 2),
            _ => get("w2_b"),
        }
    };
    compare("lokr", &two("lokr").with("rank", 2).with("alpha", 4), values);
}

#[needs_shared]
#[test]
fn oft() {
    let values: &Values =
        &|plain, _, prefix, place, _| floats(plain, &format!("{prefix}{}.oft_R.weight", module(place)));
    compare("oft", &two("oft").with("block", 4), values);
}

#[needs_shared]
#[test]
fn fourierft() {
    let values: &Values =
        &|plain, _, prefix, place, _| floats(plain, &format!("{prefix}{}.fourierft_spectrum", module(place)));
    let spec = two("fourierft").with("waves", 40).with("factor", 30);
    let open = |base: &Base, _: &SafeTensors| fourierft::with_positions(&spec, base, fourier_positions).unwrap();
    compare_from("fourierft", &open, values);
}

/// PEFT's positions, which are the same in every block.
fn fourier_positions(shape: [usize; 2]) -> Vec<fourierft::Position> {
    let name = if shape == [64, 32] { "self_attn.v_proj" } else { "mlp.down_proj" };
    let file = shared().join("golden/peft/b_peft/fourierft/init/buffers.safetensors");
    let file = std::fs::read(file).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let name = format!("base_model.model.model.layers.0.{name}.indices");
    let numbers: Vec<usize> = ints(&tensors, &name).into_iter().map(|v| v as usize).collect();
    let (rows, columns) = numbers.split_at(numbers.len() / 2);
    rows.iter().zip(columns).map(|(p, q)| [*p, *q]).collect()
}

#[needs_shared]
#[test]
fn adalora() {
    let values: &Values = &|plain, _, prefix, place, part| {
        let all = floats(plain, &format!("{prefix}{}.lora_{}", module(place), part.to_uppercase()));
        if part == "b" { transposed(&all, 4) } else { all }
    };
    let spec = two("adalora").with("rank", 4).with("alpha", 8).with("orthogonality", 0.5);
    compare("adalora", &spec, values);
}
