//! The integration suite.

mod adapters;
mod alloc;
#[cfg(feature = "base")]
mod app;
#[cfg(feature = "base")]
mod app_talk;
mod arches;
#[cfg(feature = "base")]
mod bake;
mod cache;
mod chat;
mod chat_learn;
mod cli;
mod contrast;
mod data;
mod decode;
mod density;
mod digest;
mod docs;
mod doors;
mod doubles;
mod elsewhere;
mod fast;
#[cfg(feature = "base")]
mod faults;
mod fixes;
mod foreign;
mod golden;
mod gradients;
mod groups;
mod hf_folder;
mod hostile_templates;
mod identity;
mod layers;
mod liar;
mod long_texts;
#[cfg(feature = "base")]
mod low_rank_kinds;
mod manners;
#[cfg(feature = "base")]
mod merge;
#[cfg(feature = "base")]
mod methods;
mod objectives;
#[cfg(feature = "base")]
mod pack;
mod parts;
mod peft;
mod peft_kinds;
mod pictures;
mod plan;
mod prefer;
#[cfg(feature = "base")]
mod quantize;
mod ranks;
mod readme;
mod replay;
mod resume;
mod samples;
mod save;
mod sessions;
mod shared;
mod sparse;
mod small_modules;
mod side;
mod strangers;
mod support;
#[cfg(feature = "base")]
mod teach;
mod survive;
#[cfg(feature = "base")]
mod swap;
mod templates;
mod tiny;
mod tokenizer;
mod twin;
mod verify;
