//! The integration suite.

mod adapters;
mod alloc;
mod foreign;
mod formats;
mod golden;
mod hostile;
mod shared;
mod tokenizer;
