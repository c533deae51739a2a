//! The kinds of adapters, a file each.

pub mod bottleneck;
pub mod dora;
pub mod ia3;
pub mod llama_adapter;
pub mod lora;
pub mod nola;
pub mod parallel;
pub mod prefix;
pub mod prompt;
pub mod uni;
pub mod unlock;

use super::Kind;

/// Every kind of adapter.
pub static KINDS: &[&Kind] = &[
    &lora::KIND,
    &nola::KIND,
    &uni::KIND,
    &dora::KIND,
    &ia3::KIND,
    &bottleneck::KIND,
    &parallel::KIND,
    &prefix::KIND,
    &prompt::KIND,
    &llama_adapter::KIND,
    &unlock::KIND,
];

/// The kind that is taken for a file of a size where none is named.
pub static FOR_SIZE: &Kind = &uni::KIND;
