//! The integration suite.

mod adapters;
mod alloc;
mod cache;
mod chat;
mod chat_learn;
mod cli;
mod density;
mod digest;
mod fast;
mod foreign;
mod formats;
mod golden;
mod gradients;
mod hostile;
mod kernels;
mod layers;
mod objectives;
mod peft;
mod plan;
mod readme;
mod resume;
mod save;
mod shared;
mod survive;
mod tiny;
mod tokenizer;
