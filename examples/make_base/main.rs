//! Makes the base model that ships with the library: a corpus from a seeded grammar, a tokenizer trained on it,
//! and a small model trained from scratch.
//!
//! ```text
//! cargo run --release --example make_base -- --corpus-only 20      prints sample documents
//! ```

mod corpus;
mod grammar;

use corpus::{Corpus, Split};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| args.iter().position(|a| a == name).and_then(|i| args.get(i + 1));
    let seed = value("--seed").map_or(1, |s| s.parse().expect("--seed takes a whole number"));
    if let Some(n) = value("--corpus-only") {
        let n = n.parse().expect("--corpus-only takes a number of documents");
        for d in Corpus::new(seed, Split::Train).take(n) {
            println!("[{}]\n{}\n", d.kind, d.text.trim_end());
        }
    }
}
