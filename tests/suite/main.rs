//! The integration suite.

mod formats;
mod shared;
mod tokenizer;
