//! The laws of adapters, over every kind, and files of adapters under damage.

use crate::tiny::bases;
use mynah::adapter::{self, Adapter, Base, Fit, KINDS, Linear, Provenance, Site, Spec, basis::BASES};
use mynah::bytes::Limits;
use mynah::kernel::{self, Buffer, Compute, Pool, Tile, View};
use mynah::rng::Random;

/// Two blocks of odd widths; the second has no gate.
fn base() -> Base {
    let block = [
        Some([24, 24]),
        Some([24, 12]),
        Some([24, 12]),
        Some([24, 24]),
        Some([24, 37]),
        Some([24, 37]),
        Some([37, 24]),
    ];
    let mut second = block;
    second[Linear::Gate as usize] = None;
    Base {
        architecture: "llama".into(),
        shapes: vec![block, second],
        heads: 4,
        kv_heads: 2,
        paired_rows: true,
        fingerprint: [1; 32],
        tokenizer: [2; 32],
    }
}

fn compute(threads: usize) -> Compute {
    Compute { kernels: kernel::best(), pool: Pool::new(threads) }
}

/// One of each kind and, for `nola`, of each basis.
fn specs() -> Vec<Spec> {
    let targets = adapter::parse_targets("attn,up,down").unwrap();
    let spec = |kind: &str| {
        let spec = Spec { targets: targets.clone(), seed: 9, ..Spec::new(kind) };
        bases(spec.with("rank", 3).with("alpha", 6), [5, 4])
    };
    let kinds = KINDS.iter().filter(|k| k.name != "nola").map(|k| spec(k.name));
    kinds.chain(BASES.iter().map(|b| spec("nola").with("basis kind", b.name))).collect()
}

fn fresh(spec: &Spec) -> Box<dyn Adapter> {
    let mut a = adapter::create(spec, &base()).unwrap();
    a.prepare(&compute(1));
    a
}

/// One with random parameters that half floats hold exactly.
fn trained(spec: &Spec) -> Box<dyn Adapter> {
    let mut a = fresh(spec);
    let mut random = Random::new(5, &spec.kind, "trained");
    a.params_mut().iter_mut().for_each(|p| *p = (random.below(255) as f32 - 127.0) / 128.0);
    a.prepare(&compute(1));
    a
}

fn values(n: usize, name: &str) -> Vec<f32> {
    let mut random = Random::new(3, name, "values");
    (0..n).map(|_| random.next_f32() * 2.0 - 1.0).collect()
}

fn forward(a: &dyn Adapter, site: Site, x: &[f32], rows: usize, threads: usize) -> Vec<f32> {
    let [n_in, n_out] = base().shape(site).unwrap();
    let mut y = vec![0.0; rows * n_out];
    let mut scratch = Buffer::default();
    a.forward(&compute(threads), site, View::new(x, rows, n_in), &mut Tile::new(&mut y, rows, n_out), &mut scratch);
    y
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

#[test]
fn fresh_ones_add_zero_and_trained_ones_do_not() {
    for spec in specs() {
        let (new, old) = (fresh(&spec), trained(&spec));
        assert!(!new.changes_something() && old.changes_something());
        for site in base().sites() {
            let x = values(5 * base().shape(site).unwrap()[0], "x");
            assert_eq!(new.covers(site), site.linear != Linear::Gate);
            assert!(forward(&*new, site, &x, 5, 1).iter().all(|&y| y == 0.0), "{} {site}", spec.kind);
            assert_eq!(forward(&*old, site, &x, 5, 1).iter().any(|&y| y != 0.0), new.covers(site));
        }
    }
}

/// The output is linear in each single parameter, so a difference over any step is the derivative but for rounding.
#[test]
fn backward_agrees_with_differences() {
    for spec in specs() {
        for site in [Site { layer: 0, linear: Linear::K }, Site { layer: 1, linear: Linear::Down }] {
            let mut a = trained(&spec);
            let [n_in, n_out] = base().shape(site).unwrap();
            let (x, dy) = (values(7 * n_in, "x"), values(7 * n_out, "dy"));
            let mut acc = vec![0.0; a.grad_len()];
            let mut dx = vec![1.0; 7 * n_in];
            let mut grads = vec![0.0; a.params().len()];
            let mut scratch = Buffer::default();
            let (vx, vdy) = (View::new(&x, 7, n_in), View::new(&dy, 7, n_out));
            a.backward(&compute(1), site, vx, vdy, Some(&mut Tile::new(&mut dx, 7, n_in)), &mut acc, &mut scratch);
            a.reduce(&compute(1), &acc, &mut grads);

            let loss = |a: &dyn Adapter, x: &[f32]| dot(&forward(a, site, x, 7, 1), &dy);
            let most = grads.iter().fold(0.0f32, |m, g| m.max(g.abs()));
            assert!(most > 0.0);
            for i in 0..grads.len() {
                let at = a.params()[i];
                let mut side = |p: f32| {
                    a.params_mut()[i] = p;
                    a.prepare(&compute(1));
                    loss(&*a, &x)
                };
                let difference = (side(at + 0.5) - side(at - 0.5)) as f32;
                side(at);
                assert!(
                    (difference - grads[i]).abs() < 2e-5 * most + 1e-5,
                    "{} {site} {i}: {difference} {}",
                    spec.kind,
                    grads[i]
                );
            }
            for i in (0..dx.len()).step_by(11) {
                let side = |d: f32| {
                    let mut x = x.clone();
                    x[i] += d;
                    loss(&*a, &x)
                };
                let difference = (side(0.5) - side(-0.5)) as f32;
                assert!((difference - (dx[i] - 1.0)).abs() < 1e-4, "{} {site} dx {i}", spec.kind);
            }
        }
    }
}

#[test]
fn baked_equals_attached() {
    for spec in specs() {
        let a = trained(&spec);
        for site in base().sites().filter(|s| a.covers(*s)) {
            let [n_in, n_out] = base().shape(site).unwrap();
            let x = values(n_in, "x");
            let y = forward(&*a, site, &x, 1, 1);
            for row in 0..n_out {
                let mut w = vec![0.0; n_in];
                a.bake_row(site, row, &mut w);
                assert!((dot(&w, &x) as f32 - y[row]).abs() < 1e-4, "{} {site}", spec.kind);
            }
        }
    }
}

#[test]
fn strength_scales_what_is_added() {
    let site = Site { layer: 0, linear: Linear::Q };
    for spec in specs() {
        let mut a = trained(&spec);
        let x = values(24, "x");
        let y = forward(&*a, site, &x, 1, 1);
        a.layout_mut().scale = 0.5;
        let half = forward(&*a, site, &x, 1, 1);
        assert!(y.iter().zip(&half).all(|(y, h)| (y * 0.5 - h).abs() < 1e-5));
    }
}

#[test]
fn threads_change_no_bit() {
    let wide = Base { shapes: vec![[Some([512, 768]); 7]; 2], heads: 8, kv_heads: 8, ..base() };
    let site = Site { layer: 1, linear: Linear::Up };
    for spec in specs() {
        let mut a = adapter::create(&spec, &wide).unwrap();
        let mut random = Random::new(5, "x", "y");
        a.params_mut().iter_mut().for_each(|p| *p = random.next_f32() - 0.5);
        let (x, dy) = (values(200 * 512, "x"), values(200 * 768, "dy"));
        let mut run = |threads| {
            let cx = compute(threads);
            a.prepare(&cx);
            let (mut y, mut dx) = (vec![0.5; 200 * 768], vec![0.5; 200 * 512]);
            let (mut acc, mut grads) = (vec![0.0; a.grad_len()], vec![0.0; a.params().len()]);
            let mut scratch = Buffer::default();
            let (x, dy) = (View::new(&x, 200, 512), View::new(&dy, 200, 768));
            a.forward(&cx, site, x, &mut Tile::new(&mut y, 200, 768), &mut scratch);
            let mut tile = Tile::new(&mut dx, 200, 512);
            a.backward(&cx, site, x, dy, Some(&mut tile), &mut acc, &mut scratch);
            a.reduce(&cx, &acc, &mut grads);
            // A row by itself is the same row.
            let mut single = vec![0.5; 768];
            a.forward(&cx, site, x.rows(150..151), &mut Tile::new(&mut single, 1, 768), &mut scratch);
            assert_eq!(single, y[150 * 768..151 * 768]);
            (y, dx, grads)
        };
        assert!(run(1) == run(3), "{}", spec.kind);
    }
}

#[test]
fn saved_and_loaded_is_equal_and_saved_again_the_same_bytes() {
    let limits = Limits::default();
    let provenance = Provenance {
        objective: "sft".into(),
        data: "d1".into(),
        steps: 12,
        first_loss: Some(2.5),
        last_loss: Some(1.25),
    };
    for spec in specs() {
        let a = trained(&spec);
        for codec in ["f16", "f32"] {
            let bytes = adapter::to_bytes_as(&*a, &base(), &provenance, codec).unwrap();
            let b = adapter::from_bytes(bytes.clone().into(), &base(), &limits).unwrap();
            assert_eq!((b.kind(), b.params()), (a.kind(), a.params()));
            assert_eq!(adapter::to_bytes_as(&*b, &base(), &provenance, codec).unwrap(), bytes);
            let info = adapter::info(bytes.into(), &limits).unwrap();
            assert_eq!((info.kind(), info.provenance.as_ref()), (a.kind(), Some(&provenance)));
        }
        let idle = adapter::to_bytes(&*fresh(&spec), &base(), &provenance).unwrap();
        let refused = adapter::from_bytes(idle.clone().into(), &base(), &limits).err().unwrap().to_string();
        assert!(refused.contains("changes nothing"), "{refused}");
        assert!(adapter::restore(idle.into(), &base(), &limits, Fit::Same).is_ok());
    }
}

#[test]
fn another_base_is_refused_by_name() {
    let limits = Limits::default();
    let other = |change: fn(&mut Base)| {
        let mut b = base();
        change(&mut b);
        b
    };
    for spec in specs() {
        let bytes = adapter::to_bytes(&*trained(&spec), &base(), &Provenance::default()).unwrap();
        for (foreign, word) in [
            (other(|b| b.fingerprint[3] ^= 1), "weights"),
            (other(|b| b.tokenizer[3] ^= 1), "tokenizer"),
            (other(|b| b.architecture = "qwen2".into()), "architecture"),
            (other(|b| b.shapes[1][0] = Some([24, 28])), "shape of blk.1.attn_q.weight"),
            (other(|b| b.shapes.truncate(1)), "layers"),
            (other(|b| b.shapes[0][1] = None), "blk.0.attn_k.weight"),
        ] {
            let e = adapter::from_bytes(bytes.clone().into(), &foreign, &limits).err().unwrap();
            assert!(matches!(e, mynah::Error::Mismatch { .. }) && e.to_string().contains(word), "{e}");
        }
        let requantised = other(|b| b.fingerprint[3] ^= 1);
        assert!(adapter::from_bytes_for_shapes(bytes.into(), &requantised, &limits).is_ok());
    }
}

#[test]
fn damaged_files_are_errors() {
    let limits = Limits::default();
    for spec in specs() {
        let good = adapter::to_bytes(&*trained(&spec), &base(), &Provenance::default()).unwrap();
        for n in (0..good.len()).step_by(1 + good.len() / 400) {
            assert!(adapter::from_bytes(good[..n].to_vec().into(), &base(), &limits).is_err(), "cut to {n}");
        }
        for at in (0..good.len()).step_by(1 + good.len() / 2000) {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            assert!(adapter::from_bytes(bad.into(), &base(), &limits).is_err(), "byte {at}");
        }
        assert!(adapter::from_bytes([good.clone(), good].concat().into(), &base(), &limits).is_err());
    }
}

/// Files whose checksums are right and whose facts are not.
#[test]
fn lying_heads_are_errors() {
    use mynah::container::{Builder, Container, head::Head};
    let limits = Limits::default();
    for spec in specs() {
        let good = adapter::to_bytes(&*trained(&spec), &base(), &Provenance::default()).unwrap();
        let file = Container::read(good.into(), &limits).unwrap();
        let lie = |change: &dyn Fn(&mut Head), params: &[u8]| {
            let mut head = Head::decode(&file.require("head").unwrap(), &limits).unwrap();
            change(&mut head);
            let bytes =
                Builder::new("adapter").section("head", true, head.encode()).section("params", true, params).finish();
            adapter::from_bytes(bytes.into(), &base(), &limits)
        };
        let params = file.require("params").unwrap().to_vec();
        assert!(lie(&|_| {}, &params).is_ok());
        let list = |t: &str| vec![t.to_string()];
        type Change = Box<dyn Fn(&mut Head)>;
        let changes: Vec<Change> = vec![
            Box::new(|h| _ = h.set("kind", "dora")),
            Box::new(|h| _ = h.set("rank", 0u64)),
            Box::new(|h| _ = h.set("rank", u64::MAX)),
            Box::new(|h| _ = h.set("rank", 13u64)),
            Box::new(|h| _ = h.set("alpha", 0.0)),
            Box::new(|h| _ = h.set("alpha", 1e300)),
            Box::new(|h| _ = h.set("codec", "zip")),
            Box::new(|h| _ = h.set("codec", "f32")),
            Box::new(|h| _ = h.set("scaling", "log")),
            Box::new(|h| _ = h.set("targets", Vec::new())),
            Box::new(move |h| _ = h.set("targets", list("attn_q 24 24 0-4294967295"))),
            Box::new(move |h| _ = h.set("targets", list("attn_q 24 24 0-1,0-1"))),
            Box::new(move |h| _ = h.set("targets", list("attn_q 24 24 0-1 x"))),
            Box::new(move |h| _ = h.set("targets", list("attn_z 24 24 0-1"))),
            Box::new(move |h| _ = h.set("targets", list("attn_q 24"))),
            Box::new(move |h| _ = h.set("targets", list("ffn_gate 24 37 0-1"))),
        ];
        for (i, change) in changes.iter().enumerate() {
            assert!(lie(change, &params).is_err(), "{} lie {i}", spec.kind);
        }
        if spec.kind == "lora" {
            assert!(lie(&|h| _ = h.set("rank", 2u64), &params).is_err());
        }
        if spec.kind == "nola" {
            let e = lie(&|h| _ = h.set("generator", "blake3-chacha8/2"), &params).err().unwrap();
            assert!(matches!(e, mynah::Error::Unsupported { .. }), "{e}");
            let e = lie(&|h| _ = h.set("seed", 10u64), &params).err().unwrap();
            assert!(e.to_string().contains("canary"), "{e}");
            for n in [0, 4097, u64::MAX] {
                assert!(lie(&|h| _ = h.set("bases.a", n), &params).is_err());
            }
            assert!(lie(&|h| _ = h.set("basis", "gauss"), &params).is_err());
        }
        let mut nan = params.clone();
        nan[..2].copy_from_slice(&0x7e00u16.to_le_bytes());
        assert!(lie(&|_| {}, &nan).is_err());
        assert!(lie(&|_| {}, &[]).is_err());
    }
}

#[test]
fn settings_that_cannot_be_used_are_named() {
    type Change = fn(&mut Spec);
    let cases: [(&str, Change); 8] = [
        ("rank", |s| _ = s.values.set("rank", 0)),
        ("rank", |s| _ = s.values.set("rank", 13)),
        ("alpha", |s| _ = s.values.set("alpha", f32::NAN)),
        ("layers", |s| s.layers = Some(vec![1, 2])),
        ("layers", |s| s.layers = Some(vec![])),
        ("targets", |s| s.targets.clear()),
        ("blk.1.ffn_gate.weight", |s| s.targets = vec![Linear::Gate]),
        ("adapter kind: dora", |s| s.kind = "dora".into()),
    ];
    for (word, change) in cases {
        let mut spec = specs().remove(0);
        change(&mut spec);
        let e = adapter::create(&spec, &base()).err().unwrap().to_string();
        assert!(e.contains(word), "{e}");
    }
}
