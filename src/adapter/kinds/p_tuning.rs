//! P-tuning (Liu et al., arXiv:2103.10385): virtual tokens before the text that a small network makes while they are
//! trained.
//!
//! ```text
//! P = tanh(E·Wᵀ + c)·U + u        E [L, b], W [b, b], U [b, width]
//! ```
//! The paper's network is an LSTM; this one is the feed-forward network that PEFT has as `MLP`, with tanh. The file of what
//! was learnt is a [`super::prompt`] with the rows alone and the same logits; a checkpoint keeps the network. The
//! strength multiplies the virtual tokens.

use super::prompt;
use crate::adapter::Kind;
use crate::adapter::net::{HIDDEN, Plan};
use crate::knob::Setting;

/// Its row.
pub static KIND: Kind = Kind {
    name: "p-tuning",
    about: "virtual tokens that a small network makes while they are trained",
    rate: 5e-3,
    knobs: &[Setting::whole(&prompt::LENGTH, 16), Setting::whole(&HIDDEN, 64)],
    targets: &[],
    shape: |spec, base| PLAN.shape(spec, base),
    create: |spec, base| PLAN.create(spec, base),
    read: |stored| PLAN.read(stored),
    sections: &[],
    grown: &[],
    codec: None,
    size: None,
};

static PLAN: Plan = Plan { kind: &KIND, makes: &prompt::KIND, gain: 0.2 };
