//! The integration suite.

mod alloc;
mod formats;
mod hostile;
mod shared;
mod tokenizer;
