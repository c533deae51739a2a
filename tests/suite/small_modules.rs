//! What the pages of small modules promise beside the laws of all adapters.

use crate::tiny;
use mynah::adapter::{self, Adapter, At, Place, Provenance, Spec};
use mynah::bytes::Limits;
use mynah::kernel::{Buffer, Tile, View};
use mynah::model::{Model, Session, SessionConfig};
use mynah::rng::Random;
use mynah::train::{Config, Example, Trainer};

fn model() -> Model {
    tiny::model("llama", 3, true, 2)
}

/// One with random parameters.
fn trained(model: &Model, spec: &Spec) -> Box<dyn Adapter> {
    let mut a = adapter::create(spec, &model.base([0; 32])).unwrap();
    let mut random = Random::new(5, &spec.kind, "trained");
    a.params_mut().iter_mut().for_each(|p| *p += random.next_f32() - 0.5);
    a
}

fn session(model: &Model) -> Session {
    Session::new(model, SessionConfig { context: 32, ..Default::default() }).unwrap()
}

fn wearing(model: &Model, adapters: Vec<Box<dyn Adapter>>) -> Session {
    let mut session = session(model);
    for a in adapters {
        session.attach(model.ready(a).unwrap(), 1.0).unwrap();
    }
    session
}

fn tokens(n: u32) -> Vec<u32> {
    (0..n).map(|t| t * 7 % tiny::VOCAB as u32).collect()
}

#[test]
fn the_inverse_undoes_the_couplings() {
    let model = model();
    for act in ["relu", "silu"] {
        let a = trained(&model, &Spec::new("invertible").with("activation", act));
        for strength in [1.0, 0.3, -0.5] {
            let (n, c) = (9, tiny::WIDTH);
            let mut random = Random::new(1, "rows", "embedding");
            let before: Vec<f32> = (0..n * c).map(|_| random.next_f32() * 2.0 - 1.0).collect();
            let mut rows = before.clone();
            let apply = |place: Place, rows: &mut Vec<f32>| {
                let (slot, heads) = (a.shape().slot(place).unwrap(), model.hparams.blocks[0].heads);
                let at = At { cx: &model.compute, place, slot, strength, heads, lse: None };
                a.forward(&at, View::new(&[], n, 0), &mut Tile::new(rows, n, c), &mut Buffer::default());
            };
            apply(Place::Embedding, &mut rows);
            assert!(rows.iter().zip(&before).any(|(a, b)| (a - b).abs() > 1e-2));
            apply(Place::Final, &mut rows);
            let far = rows.iter().zip(&before).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(far < 1e-5, "{act} with strength {strength}: {far}");
        }
    }
}

/// A fresh one leaves logits as they are to the bit; a trained one sees nothing of what follows, and a text in one piece is a
/// text token by token.
#[test]
fn gates_see_nothing_of_what_follows() {
    let (model, tokens) = (model(), tokens(12));
    let plain = session(&model).feed(&tokens).unwrap().to_vec();
    for gate in ["large", "middle-x", "middle-y", "small"] {
        let spec = Spec::new("gated-bottleneck").with("gate", gate);
        let fresh = adapter::create(&spec, &model.base([0; 32])).unwrap();
        assert!(wearing(&model, vec![fresh]).feed(&tokens).unwrap() == plain, "{gate}");
        let worn = || wearing(&model, vec![trained(&model, &spec)]);
        // Logits of a row are those of the text up to it, of whatever pieces that came.
        let (mut by_token, mut last) = (worn(), Vec::new());
        for (t, token) in tokens.iter().enumerate() {
            last = by_token.feed(&[*token]).unwrap().to_vec();
            assert!(worn().feed(&tokens[..=t]).unwrap() == last, "{gate} up to {t}");
        }
        assert!(last != plain, "{gate}");
    }
}

/// What is left of a network once it is trained has the same logits to the bit, and a file that says so; a checkpoint has the
/// network.
#[test]
fn rows_that_a_network_made_are_those_it_leaves() {
    let (model, tokens) = (model(), tokens(12));
    let base = model.base([0; 32]);
    for (kind, left) in [("prefix-mlp", "prefix"), ("p-tuning", "prompt")] {
        let spec = Spec::new(kind).with("length", 4).with("hidden", 8);
        let mut trainer = Trainer::adapter(&model, trained(&model, &spec), Config::default()).unwrap();
        let row = Example::new(tokens.clone(), vec![true; tokens.len()]);
        for _ in 0..3 {
            trainer.step(&[std::slice::from_ref(&row)]).unwrap();
        }
        let whole = trainer.adapter_ref().unwrap();
        let outcome = whole.outcome().unwrap();
        assert_eq!((outcome.kind().name, whole.kind().name), (left, kind));
        assert!(outcome.outcome().is_none());
        let read = |a: &dyn Adapter| {
            let bytes = adapter::to_bytes_as(a, &base, &Provenance::default(), "f32").unwrap();
            (bytes.len(), adapter::from_bytes(bytes.into(), &base, &Limits::default()).unwrap())
        };
        let ((more, net), (less, rows)) = (read(whole), read(outcome));
        assert_eq!((net.params(), rows.params()), (whole.params(), outcome.params()));
        assert!(less < more, "{kind}: {less} bytes of {more}");
        let want = wearing(&model, vec![net]).feed(&tokens).unwrap().to_vec();
        assert!(wearing(&model, vec![rows]).feed(&tokens).unwrap() == want, "{kind}");
    }
}

/// `mam` is a prefix and a parallel layer, and nothing else.
#[test]
fn mam_is_the_stack_of_its_parts() {
    let (model, tokens) = (model(), tokens(12));
    for (offset, act) in [(0, "relu"), (3, "silu")] {
        let prefix = Spec::new("prefix").with("length", 4).with("offset", offset);
        let parallel = Spec::new("parallel").with("size", 6).with("activation", act);
        let mam = Spec::new("mam").with("length", 4).with("offset", offset).with("size", 6).with("activation", act);
        let parts = vec![trained(&model, &prefix), trained(&model, &parallel)];
        let mut whole = trained(&model, &mam);
        let values: Vec<f32> = parts.iter().flat_map(|a| a.params().to_vec()).collect();
        whole.params_mut().copy_from_slice(&values);
        let want = wearing(&model, parts).feed(&tokens).unwrap().to_vec();
        assert!(wearing(&model, vec![whole]).feed(&tokens).unwrap() == want);
    }
}
