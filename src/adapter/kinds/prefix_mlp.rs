//! Prefix tuning through a small network, as in the paper (arXiv:2101.00190): a [`super::prefix`] whose keys and
//! values a network makes while they are trained.
//!
//! ```text
//! P = tanh(E·Wᵀ + c)·U + u        E [L, b], W [b, b], U [b, width of keys]; U and u for keys and for values of every block
//! ```
//! The file of what was learnt is a `prefix`, with keys and values alone and the same logits; a checkpoint keeps the network.
//! The strength is that of a prefix.

use super::prefix;
use crate::adapter::Kind;
use crate::adapter::net::{HIDDEN, Plan};
use crate::knob::Setting;

/// Its row.
pub static KIND: Kind = Kind {
    name: "prefix-mlp",
    about: "a prefix that a small network makes while it is trained",
    rate: 3e-3,
    knobs: &[Setting::whole(&prefix::LENGTH, 16), Setting::whole(&prefix::OFFSET, 0), Setting::whole(&HIDDEN, 64)],
    targets: &[],
    shape: |spec, base| PLAN.shape(spec, base),
    create: |spec, base| PLAN.create(spec, base),
    read: |stored| PLAN.read(stored),
    sections: &[],
    grown: &[],
    codec: None,
    size: None,
};

static PLAN: Plan = Plan { kind: &KIND, makes: &prefix::KIND, gain: 0.4 };
