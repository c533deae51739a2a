//! The integration suite.

mod adapters;
mod alloc;
#[cfg(feature = "chat")]
mod chat;
#[cfg(feature = "cli")]
mod cli;
mod foreign;
mod formats;
mod golden;
mod gradients;
mod hostile;
mod kernels;
mod shared;
mod tiny;
mod tokenizer;
