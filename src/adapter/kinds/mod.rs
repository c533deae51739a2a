//! The kinds of adapters, a file each.

pub mod adalora;
pub mod bottleneck;
pub mod dora;
pub mod fourierft;
pub mod gated_bottleneck;
pub mod ia3;
pub mod increlora;
pub mod invertible;
pub mod llama_adapter;
pub mod loha;
pub mod lokr;
pub mod lora;
pub mod lora_fa;
pub mod lora_shared;
pub mod lora_xs;
pub mod mam;
pub mod mos;
pub mod nola;
pub mod oft;
pub mod p_tuning;
pub mod parallel;
pub mod prefix;
pub mod prefix_mlp;
pub mod prompt;
pub mod randlora;
pub mod shifted;
pub mod side;
pub mod sparse;
pub mod tinylora;
pub mod uni;
pub mod unlock;
pub mod vblora;
pub mod vera;

use super::Kind;
use super::budget::Recipe;
use crate::role::Role;

/// Every kind of adapter.
pub static KINDS: &[&Kind] = &[
    &lora::KIND,
    &nola::KIND,
    &uni::KIND,
    &dora::KIND,
    &ia3::KIND,
    &bottleneck::KIND,
    &parallel::KIND,
    &gated_bottleneck::KIND,
    &invertible::KIND,
    &prefix::KIND,
    &prefix_mlp::KIND,
    &mam::KIND,
    &prompt::KIND,
    &p_tuning::KIND,
    &llama_adapter::KIND,
    &unlock::KIND,
    &vera::KIND,
    &lora_xs::KIND,
    &tinylora::KIND,
    &mos::KIND,
    &randlora::KIND,
    &vblora::KIND,
    &lora_shared::KIND,
    &sparse::KIND,
    &loha::KIND,
    &lokr::KIND,
    &oft::KIND,
    &fourierft::KIND,
    &lora_fa::KIND,
    &adalora::KIND,
    &increlora::KIND,
    &side::KIND,
];

/// How a file is filled of which only the size is known: the first row that fits. The order and the sizes are those that
/// `examples/frontier` measured.
pub static FOR_SIZE: &[Recipe] = &[
    Recipe {
        kind: &lora::KIND,
        targets: &Role::LINEAR,
        sizes: 1..=8,
        codec: None,
        why: "it fits at 4 bits or more, and learns fastest",
    },
    Recipe {
        kind: &nola::KIND,
        targets: FEW,
        // More bases take longer than they are worth.
        sizes: 24..=256,
        codec: Some(("levels", 4)),
        why: "of what fits where lora does not, it learns most",
    },
    Recipe {
        kind: &uni::KIND,
        targets: FEW,
        sizes: 1..=uni::MAX_VECTOR,
        codec: Some(("levels", 2)),
        why: "nothing else makes files this small",
    },
];

/// Layers that matter most for their number.
const FEW: &[Role] = &[Role::V, Role::Down];
