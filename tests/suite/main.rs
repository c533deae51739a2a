//! The integration suite.

mod adapters;
mod alloc;
mod formats;
mod hostile;
mod shared;
mod tokenizer;
