//! Load, train, save, attach: the main job through the library.
//!
//! `cargo run --release --example finetune -- MODEL.gguf NOTES.txt OUT.mynah`, or with no argument on the embedded base.

use mynah::adapter::{self, Provenance, Spec, file};
use mynah::bytes::{Bytes, Limits, map};
use mynah::decode::{Generator, Sampler, Sampling, Stop};
use mynah::gguf::Gguf;
use mynah::kernel::{Compute, Pool, from_env};
use mynah::model::{Model, Session, SessionConfig};
use mynah::text::{Encode, Tokenizer};
use mynah::train::{Config, Example, Trainer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (args, limits) = (std::env::args().skip(1).collect::<Vec<String>>(), Limits::default());
    let (model, notes) = match args.as_slice() {
        [model, notes, ..] => (map::open(model.as_ref())?, std::fs::read_to_string(notes)?),
        _ => (Bytes::from_static(mynah::base::MODEL), mynah::base::NOTES.to_string()),
    };
    let gguf = Gguf::parse(model, &limits)?;
    let tokenizer = Tokenizer::from_gguf(&gguf)?;
    // The file is mapped; the model is slices of it.
    let model = Model::load(&gguf, Compute { kernels: from_env()?, pool: Pool::new(2) })?;
    let base = model.base(tokenizer.fingerprint());

    // A NOLA adapter: a seed, and 2 · 16 numbers for each linear layer.
    let spec = Spec::new("nola").with("basis", 16);
    let config = Config { lr: 2e-2, steps: 20, ..Config::default() };
    let mut trainer = Trainer::adapter(&model, adapter::create(&spec, &base)?, config)?;
    let tokens = tokenizer.encode(&notes, &Encode { add_special: true, ..Encode::default() })?;
    let rows: Vec<Example> = tokens.chunks(128).filter(|c| c.len() > 1).map(|c| Example::all(c.to_vec())).collect();
    for step in 0..20 {
        let report = trainer.step(&[&rows[step % rows.len()..][..1]])?;
        println!("step {:2}  loss {:.3}", report.step, report.loss);
    }

    // Kilobytes, and back.
    let trained = trainer.into_adapter().ok_or("an adapter was trained")?;
    let bytes = file::to_bytes(&**trained, &base, &Provenance::default())?;
    println!("{} bytes", bytes.len());
    if let Some(out) = args.get(2) {
        map::replace(out.as_ref(), &bytes)?;
    }
    let adapter = file::from_bytes(bytes.into(), &base, &limits)?;
    let mut session = Session::new(&model, SessionConfig { context: 128, ..SessionConfig::default() })?;
    session.attach(model.ready(adapter)?, 1.0)?;
    let (prompt, sampler) = (&tokens[..8.min(tokens.len())], Sampler::new(&Sampling::greedy())?);
    for piece in Generator::new(session, sampler, prompt, &tokenizer, Stop::new()).limit(32) {
        print!("{}", piece?);
    }
    println!();
    Ok(())
}
