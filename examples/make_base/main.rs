//! Makes the base model that ships with the library: a corpus from a seeded grammar, a tokenizer trained on it,
//! and a small model trained from scratch.
//!
//! ```text
//! cargo run --release --example make_base -- --corpus-only 20        prints sample documents
//! cargo run --release --example make_base -- --stats 200000          counts documents and repetitions
//! cargo run --release --example make_base -- --out base.gguf         does everything
//! ```
//!
//! Training writes its state to `base.gguf.f32` every few minutes; `--init base.gguf.f32` goes on from there. Other
//! settings: `--seed 1 --steps 3000 --rate 0.002 --threads 2`.

mod bpe;
mod corpus;
mod grammar;
mod model;
mod train;

use corpus::{Corpus, Split};
use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Characters of corpus that the tokenizer is trained on.
const TOKENIZER_SAMPLE: usize = 4_000_000;

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Fallible<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| args.iter().position(|a| a == name).and_then(|i| args.get(i + 1));
    let seed = value("--seed").map_or(Ok(1), |s| s.parse())?;
    let split = if args.iter().any(|a| a == "--held-out") { Split::HeldOut } else { Split::Train };
    if let Some(n) = value("--corpus-only") {
        for d in Corpus::new(seed, split).take(n.parse()?) {
            println!("[{}]\n{}\n", d.kind, d.text.trim_end());
        }
    } else if let Some(n) = value("--stats") {
        stats(Corpus::new(seed, split), n.parse()?);
    } else if let Some(path) = value("--out") {
        let start = match value("--init") {
            Some(path) => std::fs::read(path)?,
            None => model::initial(&vocabulary(seed), seed)?,
        };
        let plan = train::Plan {
            seed,
            steps: value("--steps").map_or(Ok(3000), |s| s.parse())?,
            rate: value("--rate").map_or(Ok(2e-3), |s| s.parse())?,
            threads: value("--threads").map_or(Ok(2), |s| s.parse())?,
        };
        train::run(start, &plan, path)?;
    } else {
        return Err("one of --corpus-only N, --stats N, --out FILE".into());
    }
    Ok(())
}

/// The tokenizer of the corpus of `seed`.
fn vocabulary(seed: u64) -> bpe::Vocabulary {
    let mut text = String::with_capacity(TOKENIZER_SAMPLE + 2000);
    for d in Corpus::new(seed, Split::Train) {
        text.push_str(&d.text);
        text.push_str(bpe::END_OF_TEXT);
        if text.len() >= TOKENIZER_SAMPLE {
            break;
        }
    }
    bpe::train(&text, model::VOCABULARY)
}

/// Prints how many of `n` documents differ, and how many runs of eight words came before.
fn stats(corpus: Corpus, n: usize) {
    let hash = |item: &dyn Fn(&mut DefaultHasher)| {
        let mut h = DefaultHasher::new();
        item(&mut h);
        h.finish()
    };
    let (mut documents, mut runs) = (HashSet::new(), HashSet::new());
    let (mut bytes, mut all_runs) = (0, 0usize);
    let mut kinds: BTreeMap<&str, (usize, HashSet<u64>)> = BTreeMap::new();
    for d in corpus.take(n) {
        bytes += d.text.len();
        let id = hash(&|h| d.text.hash(h));
        documents.insert(id);
        let kind = kinds.entry(d.kind).or_default();
        kind.0 += 1;
        kind.1.insert(id);
        for run in d.text.split_whitespace().collect::<Vec<_>>().windows(8) {
            all_runs += 1;
            runs.insert(hash(&|h| run.hash(h)));
        }
    }
    println!("{n} documents, {} distinct, {bytes} bytes", documents.len());
    println!("{all_runs} runs of eight words, {} seen before", all_runs - runs.len());
    for (kind, (count, distinct)) in kinds {
        println!("  {kind}: {count}, {} distinct", distinct.len());
    }
}
