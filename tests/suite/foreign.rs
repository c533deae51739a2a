//! Adapters that other programs made: PEFT directories, GGUF adapters, the bases of NOLA's authors. `liar` has such files
//! under damage.

use crate::digest::Drawn;
use crate::liar::base;
use crate::shared::{needs_shared, shared};
use crate::tiny;
use mynah::adapter::basis::Basis;
use mynah::adapter::lowrank::{Layout, Slot};
use mynah::adapter::nola::{Given, Nola};
use mynah::adapter::{Adapter, At, Base, Site, gguf_adapter, peft};
use mynah::bytes::Limits;
use mynah::gguf::Gguf;
use mynah::kernel::{self, Buffer, Compute, Pool, Tile, View};
use mynah::model::ARCHES;
use mynah::role::Role;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::ops::Range;
use std::path::Path;

/// A, Bᵀ and `s` of a site.
fn factors(adapter: &dyn Adapter, site: Site) -> (View<'_>, View<'_>, f32) {
    let (layout, factors) = adapter.low_rank().unwrap();
    let slot = layout.slot(site).unwrap();
    let view = |range: Range<usize>, c| View::new(&factors[range], slot.rank, c);
    (view(slot.a(), slot.shape[0]), view(slot.b(), slot.shape[1]), slot.factor)
}

fn values(file: &SafeTensors, name: &str) -> Vec<f32> {
    let bytes = file.tensor(name).unwrap().data().to_vec();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn transposed(values: &[f32], cols: usize) -> Vec<f32> {
    (0..values.len()).map(|i| values[i % (values.len() / cols) * cols + i / (values.len() / cols)]).collect()
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

#[needs_shared]
#[test]
fn peft_directories_load_with_rows_in_gguf_order() {
    let shared = shared();
    let golden = shared.join("golden/peft/b_peft");
    for (folder, weights, factor) in [
        ("lora/init", "lora/init", 2.0),
        ("lora/final", "lora/final", 2.0),
        ("rslora/init", "lora/init", 4.0),
        ("loraplus/final", "loraplus/final", 2.0),
    ] {
        let config = read(&golden.join(folder).join("adapter_config.json"));
        let raw = read(&golden.join(weights).join("adapter_model.safetensors"));
        let layout = read(&golden.join(weights).join("gguf_layout.safetensors"));
        let lora = peft::read(&config, raw.clone().into(), &base(), &Limits::default()).unwrap();
        let (raw, layout) = (SafeTensors::deserialize(&raw).unwrap(), SafeTensors::deserialize(&layout).unwrap());
        let mut permuted = 0;
        for site in base().sites() {
            let name = format!("base_model.model.model.layers.{}.{}", site.layer, site.role.hf());
            let (a, b, s) = factors(&*lora, site);
            assert_eq!(s, factor);
            assert_eq!(a.data, values(&raw, &format!("{name}.lora_A.weight")));
            let gguf = format!("{name}.lora_B.weight::gguf");
            let wanted = match layout.tensor(&gguf) {
                Ok(_) => {
                    permuted += 1;
                    values(&layout, &gguf)
                }
                Err(_) => values(&raw, &format!("{name}.lora_B.weight")),
            };
            assert_eq!(b.data, transposed(&wanted, 4), "{name}");
        }
        assert_eq!(permuted, 10);
    }
    let lora = peft::open(&golden.join("lora/final"), &base(), &Limits::default()).unwrap();
    assert_eq!(lora.low_rank().unwrap().0.slots().len(), 35);
}

/// Modules as Hugging Face calls them in the first blocks of these architectures that have them, and what they are here.
const SPELLED: &[(&str, &[(&str, Role)])] = &[
    (
        "lfm2",
        &[
            ("conv.in_proj", Role::ConvIn),
            ("conv.out_proj", Role::ConvOut),
            ("self_attn.q_proj", Role::Q),
            ("self_attn.k_proj", Role::K),
            ("self_attn.v_proj", Role::V),
            ("self_attn.out_proj", Role::O),
            ("feed_forward.w1", Role::Gate),
            ("feed_forward.w3", Role::Up),
            ("feed_forward.w2", Role::Down),
        ],
    ),
    (
        "qwen2moe",
        &[
            ("self_attn.o_proj", Role::O),
            ("mlp.gate", Role::Router),
            ("mlp.shared_expert_gate", Role::SharedGate),
            ("mlp.shared_expert.gate_proj", Role::Gate),
            ("mlp.shared_expert.up_proj", Role::Up),
            ("mlp.shared_expert.down_proj", Role::Down),
        ],
    ),
    ("starcoder2", &[("self_attn.o_proj", Role::O), ("mlp.c_fc", Role::Up), ("mlp.c_proj", Role::Down)]),
];

#[test]
fn peft_directories_name_modules_as_their_architecture_does() {
    const CONFIG: &str = r#"{"peft_type": "LORA", "r": 1, "lora_alpha": 2"#;
    for (arch, modules) in SPELLED {
        let model = tiny::model(arch, 3, true, 1);
        let base = model.base([0; 32]);
        let file = |modules: &[(Site, &str)]| {
            let mut tensors = Vec::new();
            for (n, (site, path)) in modules.iter().enumerate() {
                let [n_in, n_out] = base.shape(*site).unwrap();
                for (half, shape) in [("A", vec![1, n_in]), ("B", vec![n_out, 1])] {
                    let value = n as f32 + if half == "A" { 1.0 } else { 0.5 };
                    let bytes: Vec<u8> = (0..n_in.max(n_out)).flat_map(|_| value.to_le_bytes()).collect();
                    let name = format!("base_model.model.model.layers.{}.{path}.lora_{half}.weight", site.layer);
                    let len = 4 * shape.iter().product::<usize>();
                    tensors.push((name, shape, bytes[..len].to_vec()));
                }
            }
            let views = tensors
                .iter()
                .map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
            safetensors::serialize(views, None).unwrap()
        };
        let place = |role: Role| base.sites().find(|site| site.role == role).unwrap();
        let spelled: Vec<(Site, &str)> = modules.iter().map(|(path, role)| (place(*role), *path)).collect();
        let last = spelled.last().unwrap().1;
        let config = format!(r#"{CONFIG}, "alpha_pattern": {{"{last}": 3}}}}"#);
        let lora = peft::read(config.as_bytes(), file(&spelled).into(), &base, &Limits::default()).unwrap();
        assert_eq!(lora.low_rank().unwrap().0.slots().len(), modules.len(), "{arch}");
        for (n, (site, path)) in spelled.iter().enumerate() {
            let (a, b, s) = factors(&*lora, *site);
            let n = n as f32;
            assert!(a.data.iter().all(|v| *v == n + 1.0) && b.data.iter().all(|v| *v == n + 0.5), "{arch} {path}");
            assert_eq!(s, if *path == last { 3.0 } else { 2.0 }, "{arch} {path}");
        }
        // What others call so is not there.
        let [config, up] = [format!("{CONFIG}}}"), "mlp.up_proj".into()];
        let e = peft::read(config.as_bytes(), file(&[(place(Role::Up), &up)]).into(), &base, &Limits::default());
        assert!(e.err().unwrap().to_string().contains("mlp.up_proj"), "{arch}");
    }
}

#[test]
fn paths_of_modules_lead_back_to_their_roles() {
    for arch in ARCHES {
        let base = Base { hf: arch.hf, ..base() };
        for role in Role::matrices() {
            let site = Site { layer: 7, role };
            let path = format!("model.layers.7.{}", base.hf(role));
            assert_eq!(Site::by_hf(&path, &base), Some(site), "{} {path}", arch.name);
        }
        for (_, role) in arch.hf {
            let has = |role: &Role| [arch.needs, arch.also, arch.may].iter().any(|roles| roles.contains(role));
            let parts = role.row().holds;
            assert!(has(role) || !parts.is_empty() && parts.iter().all(has), "{}", arch.name);
        }
    }
}

#[needs_shared]
#[test]
fn other_peft_methods_are_refused_by_name() {
    let shared = shared();
    let golden = shared.join("golden/peft/b_peft");
    for (method, word) in [
        ("vera", "VERA"),
        ("shira", "SHIRA"),
        ("vblora", "VBLORA"),
        ("loha", "LOHA"),
        ("adalora", "ADALORA"),
        ("oft", "OFT"),
    ] {
        let e = peft::open(&golden.join(method).join("init"), &base(), &Limits::default()).err().unwrap();
        assert!(matches!(e.inner(), mynah::Error::Unsupported { .. }) && e.to_string().contains(word), "{e}");
    }
}

#[needs_shared]
#[test]
fn gguf_adapters_load() {
    let shared = shared();
    let bytes = read(&shared.join("golden/llamacpp/lora/lora-stories-public.gguf"));
    let file = Gguf::parse(bytes.into(), &Limits::default()).unwrap();
    let lora = gguf_adapter::read(&file, &base(), &Limits::default()).unwrap();
    assert_eq!(lora.low_rank().unwrap().0.slots().len(), 35);
    let site = Site { layer: 2, role: Role::K };
    let (a, b, s) = factors(&*lora, site);
    assert_eq!((a.n, a.c, b.n, b.c, s), (4, 64, 4, 32, 2.0));
    let (ma, mb) =
        (file.matrix("blk.2.attn_k.weight.lora_a").unwrap(), file.matrix("blk.2.attn_k.weight.lora_b").unwrap());
    let (mut va, mut vb) = (vec![0.0; 256], vec![0.0; 128]);
    (0..4).for_each(|r| ma.decode(r, 0..64, &mut va[r * 64..][..64]));
    (0..32).for_each(|r| mb.decode(r, 0..4, &mut vb[r * 4..][..4]));
    assert_eq!((a.data, b.data), (&va[..], &transposed(&vb, 4)[..]));

    let model = read(&shared.join("models/stories260K.gguf"));
    let model = Gguf::parse(model.into(), &Limits::default()).unwrap();
    assert!(gguf_adapter::read(&model, &base(), &Limits::default()).is_err());
    let smaller = Base { shapes: base().shapes[..3].to_vec(), ..base() };
    assert!(gguf_adapter::read(&file, &smaller, &Limits::default()).is_err());
}

/// The authors' bases are drawn bit for bit, and their assembled factors and gradients of coefficients are ours.
#[needs_shared]
#[test]
fn nola_of_its_authors() {
    let shared = shared();
    let golden = shared.join("golden/peft/c_nola");
    let raw = read(&golden.join("nola_llm.safetensors"));
    let file = SafeTensors::deserialize(&raw).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&read(&golden.join("nola.json"))).unwrap();
    let roles = [Role::Q, Role::V, Role::Gate, Role::Down];
    let base = base();
    let sites = base.sites().filter(|s| roles.contains(&s.role));
    let slots = sites.map(|s| Slot::new(s, &base, 4, 8.0, false).unwrap()).collect();
    let layout = Layout::new(slots, false);
    let (mut seeds, mut start, mut params) = (vec![], vec![], vec![]);
    for slot in layout.slots() {
        let name = format!("layers.{}.{}", slot.site.layer, slot.site.role.hf());
        let seed = |f: &str| json["basis_seeds"][&name][f].as_u64().unwrap();
        seeds.push([seed("A"), seed("B")]);
        start.extend(values(&file, &format!("{name}.A_frozen")));
        params.extend(values(&file, &format!("{name}.alpha")));
        params.extend(values(&file, &format!("{name}.beta")));
    }
    let basis = Basis::by_name("torch-uniform").unwrap();
    let cx = Compute { kernels: kernel::best(), pool: Pool::new(1) };
    let of = |start: Vec<f32>, params: Vec<f32>| {
        let given = Some(Given { seeds: seeds.clone(), start });
        let mut nola = Nola::from_params(layout.clone(), &base, [4, 4], basis, 0, given, params).unwrap();
        nola.prepare(&cx, &Drawn(Vec::new())).unwrap();
        nola
    };
    // Without starts and with one coefficient of 1 a factor is a basis, times `c`.
    let one = |i: usize| (0..params.len()).map(|p| if p % 8 == i { 1.0 } else { 0.0 }).collect();
    let alone: Vec<Nola> = (0..8).map(|i| of(vec![0.0; start.len()], one(i))).collect();
    let nola = of(start, params);

    let slots = nola.layout().slots().to_vec();
    let acc: Vec<f32> = (0..nola.shape().size.gathered).map(|i| (i * 7919 % 1000) as f32 / 500.0 - 1.0).collect();
    let mut grads = vec![0.0; nola.params().len()];
    nola.reduce(&cx, &Drawn(Vec::new()), &acc, &mut grads);
    for (place, slot) in slots.iter().enumerate() {
        let name = format!("layers.{}.{}", slot.site.layer, slot.site.role.hf());
        let bases_a = values(&file, &format!("{name}.A_bases"));
        let gguf = format!("{name}.B_bases::gguf");
        let plain = format!("{name}.B_bases");
        let bases_b = values(&file, if slot.site.role == Role::Q { &gguf } else { &plain });
        let (mut a, mut b) = (values(&file, &format!("{name}.A_frozen")), vec![0.0; slot.b().len()]);
        for i in 0..4 {
            let of_a = &bases_a[i * a.len()..][..slot.a().len()];
            let of_b = transposed(&bases_b[i * b.len()..][..slot.b().len()], 4);
            assert_eq!(factors(&alone[i], slot.site).0.data, of_a, "{name} A {i}");
            assert_eq!(factors(&alone[4 + i], slot.site).1.data, of_b, "{name} B {i}");
            let coefficients = &nola.params()[place * 8..];
            a.iter_mut().zip(of_a).for_each(|(a, v)| *a += coefficients[i] * v);
            b.iter_mut().zip(&of_b).for_each(|(b, v)| *b += coefficients[4 + i] * v);
            let inner = |g: &[f32], m: &[f32]| g.iter().zip(m).map(|(g, m)| f64::from(g * m)).sum::<f64>() as f32;
            assert!((inner(&acc[slot.a()], of_a) - grads[place * 8 + i]).abs() < 1e-3);
            assert!((inner(&acc[slot.b()], &of_b) - grads[place * 8 + 4 + i]).abs() < 1e-3);
        }
        let (va, vb, s) = factors(&nola, slot.site);
        assert_eq!(s, 2.0);
        assert!(va.data.iter().zip(&a).chain(vb.data.iter().zip(&b)).all(|(x, y)| (x - y).abs() < 1e-6));
    }
    // Through a file and back, with the authors' seeds and starts.
    let bytes = mynah::adapter::to_bytes_as(&nola, &base, &Default::default(), "f32").unwrap();
    let mut back = mynah::adapter::from_bytes(bytes.into(), &base, &Limits::default()).unwrap();
    back.prepare(&cx, &Drawn(Vec::new())).unwrap();
    let changed = |adapter: &dyn Adapter| {
        let (x, mut y) = (vec![0.5; 64], vec![0.0; 64]);
        let place = adapter.shape().slots[0].place;
        let at = At { cx: &cx, place, slot: 0, strength: 1.0, heads: base.shapes[0].heads, lse: None };
        adapter.forward(&at, View::new(&x, 1, 64), &mut Tile::new(&mut y, 1, 64), &mut Buffer::default());
        y
    };
    assert!(changed(&nola).iter().any(|v| *v != 0.0));
    assert_eq!(changed(&*back), changed(&nola));
}

#[needs_shared]
#[test]
fn torch_draws_are_reproduced() {
    let shared = shared();
    let path = shared.join("golden/peft/c_nola/torch_cpu_random.json");
    let json: serde_json::Value = serde_json::from_slice(&read(&path)).unwrap();
    for case in json["cases"].as_array().unwrap() {
        let seed = case["seed"].as_u64().unwrap();
        let mut words = mynah::rng::Mt19937::new(seed);
        for word in case["mt19937_u32"].as_array().unwrap() {
            assert_eq!(u64::from(words.next_u32()), word.as_u64().unwrap());
        }
        let mut draws = mynah::rng::Mt19937::new(seed);
        for value in case["uniform_m1_1"].as_array().unwrap() {
            assert_eq!(draws.next_uniform(), value.as_f64().unwrap() as f32);
        }
    }
}
