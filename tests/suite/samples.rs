//! Adapter files of earlier versions load for ever: samples of version 0.1, with the logits that version computed. `lora`,
//! `root` and `nola` are wide files, the others packed ones, one for each codec. A new
//! codec gets a sample once: `mynah pack --codec NAME` of a small adapter of the built-in model, and the logits that
//! `mynah logits --exact --json` shows with it. Samples are never written again.

#![cfg(feature = "base")]

use mynah::adapter;
use mynah::bytes::{Bytes, Limits};
use mynah::container::codec::CODECS;
use mynah::gguf::Gguf;
use mynah::kernel::{Compute, Pool};
use mynah::model::{CacheType, Model, Session, SessionConfig};
use mynah::nn::linear::Precision;
use mynah::text::{Encode, Tokenizer};
use serde_json::Value;
use std::path::Path;

const PROMPT: &str = "The keeper wrote about the lamp and";

#[test]
fn files_of_version_0_1_load_and_give_the_same_logits() {
    let gguf = Gguf::parse(Bytes::from_static(mynah::base::MODEL), &Limits::default()).unwrap();
    let model = Model::load(&gguf, Compute { kernels: mynah::kernel::best(), pool: Pool::new(2) }).unwrap();
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    let base = model.base(tokenizer.fingerprint());
    let tokens = tokenizer.encode(PROMPT, &Encode { add_special: true, parse_special: false }).unwrap();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/adapters");
    for name in ["lora", "root", "nola"].into_iter().chain(CODECS.iter().map(|codec| codec.name)) {
        let bytes = std::fs::read(dir.join(format!("{name}.mynah"))).unwrap();
        let info = adapter::info(bytes.clone().into(), &Limits::default()).unwrap();
        let adapter = adapter::from_bytes(bytes.clone().into(), &base, &Limits::default()).unwrap();
        let (origin, codec) = (info.provenance.unwrap(), info.head.text("codec").unwrap());
        let again = adapter::to_bytes_as(&*adapter, &base, &origin, codec).unwrap();
        // Wide files are written packed.
        assert!(again == bytes || ["lora", "root", "nola"].contains(&name), "{name}: saved again it is the same bytes");
        assert_eq!(params_in(&again, &base), adapter.params(), "{name}");
        let logits = logits(&model, adapter, &tokens);
        let want: Value = serde_json::from_slice(&std::fs::read(dir.join(format!("{name}.json"))).unwrap()).unwrap();
        let top = want["top"].as_array().unwrap();
        assert_eq!(top.len(), 10);
        for pair in top {
            let (id, value) = (pair[0].as_u64().unwrap() as usize, pair[1].as_f64().unwrap() as f32);
            assert_eq!(logits[id], value, "{name}: logit of token {id}");
        }
    }
}

fn params_in(bytes: &[u8], base: &adapter::Base) -> Vec<f32> {
    adapter::from_bytes(bytes.to_vec().into(), base, &Limits::default()).unwrap().params().to_vec()
}

fn logits(model: &Model, adapter: Box<dyn adapter::Adapter>, tokens: &[u32]) -> Vec<f32> {
    let config =
        SessionConfig { precision: Precision::F32, cache: CacheType::F32, context: 64, ..SessionConfig::default() };
    let mut session = Session::new(model, config).unwrap();
    session.attach(model.ready(adapter).unwrap(), 1.0).unwrap();
    session.feed(tokens).unwrap().to_vec()
}
