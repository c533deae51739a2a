//! The integration suite.

mod adapters;
mod alloc;
mod foreign;
mod formats;
mod hostile;
mod shared;
mod tokenizer;
