//! Kinds of adapters beside LoRA against PEFT's numbers (`golden/peft/b_peft`): loss and gradients of a batch, and twenty
//! steps. Each kind's parameters are read into a fresh adapter, part by part.

use crate::peft::{batches, close, config, floats, golden, json, trajectory};
use crate::shared::{needs_shared, shared};
use mynah::adapter::{self, Place, Spec};
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
    let shared = shared();
    let (dir, model) = golden(&shared);
    let (grad, train) = batches(&dir);
    let at = dir.join("b_peft").join(method);
    let read = |name: &str| std::fs::read(at.join(name)).unwrap();
    let (init, layout, grads) = (
        read("init/adapter_model.safetensors"),
        read(if at.join("init/gguf_layout.safetensors").exists() {
            "init/gguf_layout.safetensors"
        } else {
            "init/adapter_model.safetensors"
        }),
        read("grads.safetensors"),
    );
    let tensors = [&init, &layout, &grads].map(|bytes| SafeTensors::deserialize(bytes).unwrap());
    let gather = |plain: usize, layout: usize, prefix: &str| -> Vec<f32> {
        let fresh = adapter::create(spec, &model.base([0; 32])).unwrap();
        let shape = fresh.shape();
        let parts = shape.slots.iter().flat_map(|slot| shape.parts[slot.parts.clone()].iter().map(|p| (slot.place, p)));
        parts
            .flat_map(|(place, part)| {
                let got = values(&tensors[plain], &tensors[layout], prefix, place, part.name);
                assert_eq!(got.len(), part.range.len(), "{place} {}", part.name);
                got
            })
            .collect()
    };
    let open = || {
        let mut fresh = adapter::create(spec, &model.base([0; 32])).unwrap();
        fresh.params_mut().copy_from_slice(&gather(0, 1, ""));
        fresh
    };
    let result = json(&at.join("result.json"));
    let mut trainer = Trainer::adapter(&model, open(), config(1e-3, 0.0, 1)).unwrap();
    let report = trainer.step(&[&grad[0]]).unwrap();
    let want = result["loss_masked"].as_f64().unwrap();
    assert!((report.loss - want).abs() < 1e-5, "{method}: loss {} for {want}", report.loss);
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
