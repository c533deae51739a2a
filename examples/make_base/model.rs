//! The model file: its shape and metadata, random first weights, and the 4-bit file that ships.

use crate::bpe::{CONTROLS, END_OF_TEXT, TURN_END, Vocabulary};
use crate::grammar::Rng;
use core::ops::Range;
use mynah::Result;
use mynah::bytes::{Bytes, Limits};
use mynah::gguf::{Gguf, Writer};
use mynah::quant::{Format, encode_matrix};

/// Tokens, with the bytes and the control tokens.
pub const VOCABULARY: usize = 2048;
const WIDTH: usize = 128;
const LAYERS: usize = 6;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const FEED_FORWARD: usize = 384;
const CONTEXT: usize = 512;
/// What ships must not be larger.
pub const SIZE_LIMIT: usize = 2 << 20;

/// Turns as the corpus writes them.
const CHAT_TEMPLATE: &str = "{%- for message in messages -%}\
{{ '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' }}\
{%- endfor -%}\
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}";

/// A tensor of the model: name, shape, and the spread of its first weights.
struct Plan {
    name: String,
    rows: usize,
    cols: usize,
    first: First,
}

enum First {
    /// A norm starts at one and stays in full precision.
    One,
    /// Normal around zero.
    Spread(f32),
}

/// Every tensor in the order of the file. The output matrix is the embedding.
fn plan() -> Vec<Plan> {
    let head = WIDTH / HEADS;
    // Each block adds to the residual stream twice; together the additions keep its size.
    let (spread, residual) = (0.02, 0.02 / (2.0 * LAYERS as f32).sqrt());
    let matrix = |name: String, rows, cols, spread| Plan { name, rows, cols, first: First::Spread(spread) };
    let norm = |name: String| Plan { name, rows: 1, cols: WIDTH, first: First::One };
    let mut all = vec![matrix("token_embd.weight".into(), VOCABULARY, WIDTH, spread)];
    for l in 0..LAYERS {
        let name = |part: &str| format!("blk.{l}.{part}.weight");
        all.extend([
            norm(name("attn_norm")),
            matrix(name("attn_q"), WIDTH, WIDTH, spread),
            matrix(name("attn_k"), KV_HEADS * head, WIDTH, spread),
            matrix(name("attn_v"), KV_HEADS * head, WIDTH, spread),
            matrix(name("attn_output"), WIDTH, WIDTH, residual),
            norm(name("ffn_norm")),
            matrix(name("ffn_gate"), FEED_FORWARD, WIDTH, spread),
            matrix(name("ffn_up"), FEED_FORWARD, WIDTH, spread),
            matrix(name("ffn_down"), WIDTH, FEED_FORWARD, residual),
        ]);
    }
    all.push(norm("output_norm.weight".into()));
    all
}

fn format(name: &str) -> &'static Format {
    Format::by_name(name).expect("a format this library has")
}

fn header(vocabulary: &Vocabulary) -> Writer {
    let mut w = Writer::new();
    let count = |n: usize| n as u32;
    w.set("general.architecture", "llama")
        .set("general.name", "mynah-base")
        .set("general.description", "A small model trained from scratch on text that a seeded grammar wrote.")
        .set("general.license", "MIT OR Apache-2.0")
        .set("llama.vocab_size", count(VOCABULARY))
        .set("llama.context_length", count(CONTEXT))
        .set("llama.embedding_length", count(WIDTH))
        .set("llama.block_count", count(LAYERS))
        .set("llama.feed_forward_length", count(FEED_FORWARD))
        .set("llama.attention.head_count", count(HEADS))
        .set("llama.attention.head_count_kv", count(KV_HEADS))
        .set("llama.attention.layer_norm_rms_epsilon", 1e-5f32)
        .set("llama.rope.dimension_count", count(WIDTH / HEADS))
        .set("llama.rope.freq_base", 10_000f32);

    let normal = vocabulary.tokens.len() - CONTROLS.len();
    let kinds: Vec<i32> = (0..vocabulary.tokens.len()).map(|i| if i < normal { 1 } else { 3 }).collect();
    w.set("tokenizer.ggml.model", "gpt2")
        .set("tokenizer.ggml.pre", "gpt-2")
        .set("tokenizer.ggml.tokens", vocabulary.tokens.as_slice())
        .set("tokenizer.ggml.token_type", kinds.as_slice())
        .set("tokenizer.ggml.merges", vocabulary.merges.as_slice())
        .set("tokenizer.ggml.bos_token_id", vocabulary.control(END_OF_TEXT))
        .set("tokenizer.ggml.eos_token_id", vocabulary.control(END_OF_TEXT))
        .set("tokenizer.ggml.eot_token_id", vocabulary.control(TURN_END))
        .set("tokenizer.ggml.add_bos_token", false)
        .set("tokenizer.ggml.add_eos_token", false)
        .set("tokenizer.chat_template", CHAT_TEMPLATE);
    w
}

/// A model file with random weights in F32: where training starts.
///
/// # Errors
/// None for a vocabulary of [`VOCABULARY`] tokens.
pub fn initial(vocabulary: &Vocabulary, seed: u64) -> Result<Vec<u8>> {
    assert_eq!(vocabulary.tokens.len(), VOCABULARY);
    let mut rng = Rng(seed);
    let mut w = header(vocabulary);
    w.set("general.file_type", 0u32);
    for p in plan() {
        let values: Vec<f32> = match p.first {
            First::One => vec![1.0; p.cols],
            First::Spread(s) => (0..p.rows * p.cols).map(|_| s * normal(&mut rng)).collect(),
        };
        put(&mut w, &p, "F32", &values)?;
    }
    w.finish()
}

/// Nearly normal with spread one: twelve uniform numbers less their mean.
fn normal(rng: &mut Rng) -> f32 {
    (0..12).map(|_| (rng.next() >> 40) as f32 / (1 << 24) as f32).sum::<f32>() - 6.0
}

fn put(w: &mut Writer, p: &Plan, stored: &str, values: &[f32]) -> Result<()> {
    let matrix = encode_matrix(format(stored), p.rows, p.cols, values)?;
    let dims = [p.cols as u64, p.rows as u64];
    w.tensor(&p.name, if p.rows == 1 { &dims[..1] } else { &dims }, matrix.format, matrix.data().clone());
    Ok(())
}

/// Metadata: optimiser steps done.
const STEP: &str = "mynah.training.step";

/// Optimiser steps that made this file.
pub fn step(gguf: &Gguf) -> Result<u32> {
    Ok(gguf.u32(STEP)?.unwrap_or(0))
}

/// The model of `gguf` with other values, `at` where `names` says, in F32: what training goes on from.
///
/// # Errors
/// None if `names` and `values` are those of this model.
pub fn checkpoint(gguf: &Gguf, step: u32, names: &[(String, Range<usize>)], values: &[f32]) -> Result<Vec<u8>> {
    let mut w = pairs_of(gguf);
    w.set("general.file_type", 0u32).set(STEP, step);
    for p in plan() {
        let (_, at) = names.iter().find(|(name, _)| *name == p.name).expect("a tensor of this model");
        put(&mut w, &p, "F32", &values[at.clone()])?;
    }
    w.finish()
}

/// A trained F32 file as the file that ships: matrices in Q4_0, the embedding in Q8_0, norms as they are.
///
/// # Errors
/// `Mismatch` if it is not of this shape.
pub fn quantised(gguf: &Gguf) -> Result<Vec<u8>> {
    let mut w = pairs_of(gguf);
    // ggml's number for files that are mostly Q4_0.
    w.set("general.file_type", 2u32).set("general.quantization_version", 2u32).set(STEP, step(gguf)?);
    for p in plan() {
        let matrix = gguf.matrix(&p.name)?;
        let mut values = vec![0.0; p.rows * p.cols];
        for (row, out) in values.chunks_exact_mut(p.cols).enumerate() {
            matrix.decode(row, 0..p.cols, out);
        }
        let stored = match p.first {
            First::One => "F32",
            First::Spread(_) if p.name == "token_embd.weight" => "Q8_0",
            First::Spread(_) => "Q4_0",
        };
        put(&mut w, &p, stored, &values)?;
    }
    w.finish()
}

/// A writer with the metadata of `gguf`, without what each kind of file sets for itself.
fn pairs_of(gguf: &Gguf) -> Writer {
    let mut w = Writer::new();
    for (key, value) in gguf.pairs().filter(|(key, _)| *key != "general.file_type" && *key != STEP) {
        w.set(key, value.clone());
    }
    w
}

/// Reads a model file from memory.
pub fn parse(file: Vec<u8>) -> Result<Gguf> {
    Gguf::parse(Bytes::from(file), &Limits::default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bpe, corpus};
    use mynah::text::{Decode, Encode, Tokenizer};

    #[test]
    fn the_file_fits_and_its_tokenizer_reads_the_corpus_back() {
        let documents: Vec<_> = corpus::Corpus::new(1, corpus::Split::Train).take(4_000).collect();
        let text: String = documents.iter().map(|d| d.text.as_str()).collect();
        let vocabulary = bpe::train(&text, VOCABULARY);
        let first = initial(&vocabulary, 1).unwrap();
        assert_eq!(first, initial(&vocabulary, 1).unwrap());
        let small = quantised(&parse(first).unwrap()).unwrap();
        assert!(small.len() <= SIZE_LIMIT, "{} bytes", small.len());
        let gguf = parse(small).unwrap();
        let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
        for d in &documents[..200] {
            let ids = tokenizer.encode(&d.text, &Encode { parse_special: true, ..Encode::default() }).unwrap();
            let spelled = Decode { unparse_special: true, ..Decode::default() };
            assert_eq!(tokenizer.decode(&ids, &spelled).unwrap(), d.text.as_bytes());
            assert!(ids.len() * 3 < d.text.len() + 20, "{} tokens for {}", ids.len(), d.text);
        }
    }
}
