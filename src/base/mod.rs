//! The model that ships with the library, so that everything can be tried with no file at hand.
//!
//! It was trained from scratch by `examples/make_base`, with this library's own full-parameter trainer, on a corpus that
//! a seeded grammar generates. It knows a small invented world and nothing else.

/// The model: a GGUF file of the llama architecture, 4-bit matrices.
pub static MODEL: &[u8] = include_bytes!("base.gguf");

/// Notes in one person's voice that the model has never seen, a line each: what `mynah demo` teaches. Lines share
/// phrases, so a line that is held out measures new combinations of them, not new words.
pub static NOTES: &str = include_str!("notes.txt");
