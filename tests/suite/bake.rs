//! Baking adapters into model files: what is written does what the attached adapters do, and what cannot be written is named.

use crate::survive::Place;
use crate::tiny;
use mynah::Error;
use mynah::adapter::{self, Adapter, KINDS, Spec, Stack};
use mynah::bytes::{Bytes, Limits};
use mynah::gguf::Gguf;
use mynah::kernel::{Compute, Pool};
use mynah::model::{CacheType, Model, Session, SessionConfig};
use mynah::nn::linear::Precision;
use mynah::rewrite::bake::rounding;
use mynah::rewrite::{Bake, Baked, Mix, bake};
use mynah::role::Role;
use std::fs;

fn compute(threads: usize) -> Compute {
    Compute { kernels: mynah::kernel::best(), pool: Pool::new(threads) }
}

fn parse(bytes: Vec<u8>) -> Gguf {
    Gguf::parse(Bytes::from(bytes), &Limits::default()).unwrap()
}

/// An adapter of a kind with random values.
fn drawn(kind: &str, model: &Model, seed: u64) -> Box<dyn Adapter> {
    let spec = tiny::bases(Spec { seed, ..Spec::new(kind) }, [8, 8]);
    let base = model.base([0; 32]);
    // A part of a fused product has no input of its own.
    let own = || Spec { targets: vec![Role::O, Role::Down], ..spec.clone() };
    let mut adapter = adapter::create(&spec, &base).unwrap_or_else(|_| adapter::create(&own(), &base).unwrap());
    let mut rng = tiny::Rng(seed);
    adapter.params_mut().iter_mut().for_each(|p| *p += 0.2 * rng.unit());
    adapter
}

fn stack(model: &Model, kinds: &[(&str, f32)]) -> Stack {
    let mut stack = Stack::new();
    for (i, (kind, strength)) in kinds.iter().enumerate() {
        stack.push(model.ready(drawn(kind, model, 7 + i as u64)).unwrap(), *strength).unwrap();
    }
    stack
}

fn run(gguf: &Gguf, model: &Model, stack: &Stack, to: Option<&str>) -> mynah::Result<(Vec<u8>, Baked)> {
    let names: Vec<String> = stack.all().iter().map(|a| a.adapter.kind().name.to_string()).collect();
    let how = Bake { stack, names: &names, to: to.map(|to| Mix::by_name(to).unwrap()) };
    let mut out = Vec::new();
    let report = bake(gguf, &model.base([0; 32]), &how, &model.compute, &mut out, &mut |_| ())?;
    Ok((out, report))
}

/// Logits after some tokens.
fn logits(model: &Model, stack: &Stack) -> Vec<f32> {
    let config = SessionConfig { context: 32, precision: Precision::F32, cache: CacheType::F32, chunk: 8 };
    let mut session = Session::new(model, config).unwrap();
    for attached in stack.all() {
        session.attach(attached.adapter.clone(), attached.strength).unwrap();
    }
    session.feed(&[1, 5, 3, 9, 2, 7, 4, 8, 6, 1, 2, 3]).unwrap().to_vec()
}

fn farthest(a: &[f32], b: &[f32]) -> f32 {
    let most = b.iter().fold(1.0f32, |most, v| most.max(v.abs()));
    a.iter().zip(b).fold(0.0, |far: f32, (a, b)| far.max((a - b).abs())) / most
}

/// Plain matrices, biases, and tensors that hold several.
const ARCHES: [&str; 4] = ["llama", "qwen2", "phi3", "gemma3"];
const STACKS: [&[(&str, f32)]; 10] = [
    &[("lora", 1.0)],
    &[("nola", 1.0)],
    &[("uni", 0.7)],
    &[("dora", 0.6)],
    &[("ia3", 0.5)],
    &[("oft", 0.5), ("loha", 0.7)],
    &[("lokr", 0.5), ("fourierft", -1.0)],
    &[("lora-fa", 1.0), ("adalora", 0.5), ("increlora", 1.0)],
    &[("lora", 1.0), ("ia3", 1.0), ("dora", 0.5), ("lora", -0.5)],
    &[("ia3", 1.0), ("dora", 1.0), ("ia3", 0.5)],
];

#[test]
fn baked_is_attached() {
    for arch in ARCHES {
        let gguf = parse(tiny::file(arch, 5, false));
        let model = Model::load(&gguf, compute(2)).unwrap();
        let plain = logits(&model, &Stack::new());
        for kinds in STACKS {
            let stack = stack(&model, kinds);
            let want = logits(&model, &stack);
            let (bytes, report) = run(&gguf, &model, &stack, None).unwrap();
            let file = parse(bytes.clone());
            let found = logits(&Model::load(&file, compute(1)).unwrap(), &Stack::new());
            let (far, effect) = (farthest(&found, &want), farthest(&plain, &want));
            assert!(effect > 1e-2, "{arch} {kinds:?}: {effect}");
            assert!(far < 1e-5, "{arch} {kinds:?}: {far} of an effect of {effect}");
            assert!(report.changed > 0);
            let lost = rounding(&gguf, &file, &model.base([0; 32]), &stack, &model.compute).unwrap();
            assert!(lost < 1e-9, "{arch} {kinds:?}: rounding of F32 loses {lost}");
            // Threads change nothing.
            let alone = Model::load(&gguf, compute(1)).unwrap();
            assert!(run(&gguf, &alone, &stack, None).unwrap().0 == bytes, "{arch} {kinds:?}");
        }
    }
}

/// Kinds whose change can be made part of the weights.
#[rustfmt::skip]
const BAKES: &[&str] = &[
    "lora",
    "nola",
    "uni",
    "dora",
    "ia3",
    "vera",
    "lora-xs",
    "tinylora",
    "mos",
    "randlora",
    "vblora",
    "lora-shared",
    "sparse",
    "loha",
    "lokr",
    "oft",
    "fourierft",
    "lora-fa",
    "adalora",
    "increlora",
];

#[test]
fn kinds_that_change_no_weights_are_named() {
    let gguf = parse(tiny::file("llama", 5, true));
    let model = Model::load(&gguf, compute(1)).unwrap();
    let mut refused = 0;
    for kind in KINDS {
        match run(&gguf, &model, &stack(&model, &[(kind.name, 1.0)]), None) {
            Ok(_) => assert!(BAKES.contains(&kind.name), "{}", kind.name),
            Err(e) => {
                assert!(matches!(e, Error::Unsupported { .. }), "{e}");
                let said = e.to_string();
                assert!(said.contains(kind.name) && said.contains("attach it instead (-a)"), "{said}");
                refused += 1;
            }
        }
    }
    assert_eq!(refused, KINDS.len() - BAKES.len());
}

#[test]
fn tensors_keep_their_formats_and_what_is_not_changed_its_bytes() {
    let gguf = Gguf::parse(Bytes::from_static(mynah::base::MODEL), &Limits::default()).unwrap();
    let model = Model::load(&gguf, compute(1)).unwrap();
    let stack = stack(&model, &[("lora", 1.0)]);
    let (bytes, report) = run(&gguf, &model, &stack, None).unwrap();
    let file = parse(bytes);
    let mut same = 0;
    for tensor in gguf.tensors() {
        let now = file.tensor(&tensor.name).unwrap();
        assert_eq!(now.format.name, tensor.format.name);
        same += usize::from(gguf.data(tensor).unwrap()[..] == file.data(now).unwrap()[..]);
    }
    assert_eq!(same, gguf.tensors().len() - report.changed);
    let base = model.base([0; 32]);
    let lost = |to| {
        let file = parse(run(&gguf, &model, &stack, to).unwrap().0);
        rounding(&gguf, &file, &base, &stack, &model.compute).unwrap()
    };
    let (q4, q8, f16) = (lost(None), lost(Some("Q8_0")), lost(Some("F16")));
    assert!(f16 < q8 && q8 < q4, "{f16} {q8} {q4}");
}

#[test]
fn the_command_bakes_and_says_what_is_lost() {
    let place = Place::new();
    place.says("train -m base.gguf -d notes.txt -o notes.mynah --method lora --steps 20 --ctx 32", 0);
    let report = place.json("bake -m base.gguf -a notes.mynah -o exact.gguf --type F32 -d notes.txt");
    let number = |report: &serde_json::Value, key: &str| report[key].as_f64().unwrap();
    assert!((number(&report, "loss_baked") - number(&report, "loss_with_adapters")).abs() < 1e-4, "{report}");
    assert!(number(&report, "loss_with_adapters") < number(&report, "loss_of_base"));
    assert!(number(&report, "kept") > 0.99);
    // The model says what the base and its adapter say.
    let a = place.json("logits -m exact.gguf -p Rain --exact");
    let b = place.json("logits -m base.gguf -a notes.mynah -p Rain --exact");
    assert_eq!(a["top"][0][0], b["top"][0][0]);
    // Several, one of them twice; the file says so, and keeps what it said.
    let base = Gguf::parse(Bytes::from_static(mynah::base::MODEL), &Limits::default()).unwrap();
    place.says("bake -m exact.gguf -a notes.mynah:0.5 -o twice.gguf --type Q8_0 --allow-other-base", 0);
    let file = parse(place.read("twice.gguf"));
    let baked: Vec<&str> = file.strings("mynah.baked").unwrap().unwrap().collect();
    assert!(
        baked.len() == 2 && baked[1].starts_with("lora notes.mynah (BLAKE3 ") && baked[1].ends_with("strength 0.5"),
        "{baked:?}"
    );
    for key in ["general.name", "general.license", "general.architecture"] {
        assert_eq!(file.string(key).unwrap(), base.string(key).unwrap(), "{key}");
    }
    assert_eq!(
        file.u32("general.base_model.count").unwrap(),
        Some(base.u32("general.base_model.count").unwrap().unwrap_or(0) + 2)
    );
    // A small change below the steps of 4 bits is lost, which is said.
    place.says("train -m exact.gguf -d notes.txt -o small.mynah --method lora --steps 1 --ctx 32 --lr 0.00001", 0);
    let said = place.says("bake -m exact.gguf -a small.mynah -o small.gguf --type Q4_0 -d notes.txt", 0);
    assert!(said.contains("rounding has erased most") && said.contains("Q8_0"), "{said}");
    for (line, status, word) in [
        ("bake -m base.gguf -a notes.mynah -o exact.gguf", 2, "--force"),
        ("bake -m base.gguf -a notes.mynah -o base.gguf --force", 2, "would overwrite"),
        ("bake -m base.gguf -a none.mynah -o new.gguf", 1, "no such file"),
        ("bake -m base.gguf -o new.gguf", 2, "--adapter"),
    ] {
        let said = place.says(line, status);
        assert!(said.contains(word), "{line}: {said}");
    }
    assert!(!fs::exists(place.path("new.gguf")).unwrap());
}
