//! The tensors of a block, each once: the names, the kind and the size of a role.
//!
//! Loading, full-parameter training, adapters and adapter files all read [`ROLES`]. A tensor that holds the rows of
//! several others ([`Row::holds`]) is a role of its own; a model file stores either it or the others.

use core::fmt;
use std::prelude::v1::*;

/// A tensor of a block: an index into [`ROLES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Gain of the norm before attention.
    AttnNorm,
    /// Gain of the norm before the feed-forward layer.
    FfnNorm,
    /// What a short convolution goes over: the row, and two gates.
    ConvIn,
    /// The output projection of a short convolution.
    ConvOut,
    /// What a gated delta rule goes over: queries, keys and values, before their convolution.
    DeltaIn,
    /// The gate of what it reads.
    DeltaGate,
    /// What its state decays by, a number for each head.
    Alpha,
    /// How much of a row its state takes up, a number for each head.
    Beta,
    /// The output projection of a gated delta rule.
    DeltaOut,
    /// Queries.
    Q,
    /// Keys.
    K,
    /// Values.
    V,
    /// The output projection of attention.
    O,
    /// The gate of the feed-forward layer.
    Gate,
    /// The up projection, which the gate multiplies.
    Up,
    /// The down projection.
    Down,
    /// The logits of experts.
    Router,
    /// The gate of the feed-forward layer beside the experts: one number for a row.
    SharedGate,
    /// Gates of all experts.
    ExpertGate,
    /// Up projections of all experts.
    ExpertUp,
    /// Down projections of all experts.
    ExpertDown,
    /// Gates and up projections of all experts in one tensor, for each its gate and then its up projection.
    ExpertGateUp,
    /// Queries, keys and values in one tensor.
    Qkv,
    /// Gate and up in one tensor.
    GateUp,
    /// Gain of the norm of queries: of each head, or of all of them.
    QNorm,
    /// Gain of the norm of keys.
    KNorm,
    /// Gain of the norm of attention's output, before it is added.
    PostAttnNorm,
    /// Gain of the norm of the feed-forward layer's output, before it is added.
    PostFfnNorm,
    /// Gain of the norm of the stream after the block, where norms stand there.
    OutNorm,
    /// Gain of the norm of what each head of a gated delta rule reads.
    DeltaNorm,
    /// The taps of a convolution.
    Taps,
    /// The factor of the logarithm of a head's decay, negative.
    DecayRate,
    /// What is added to [`Role::Alpha`].
    DecayBias,
    /// Bias of [`Role::AttnNorm`].
    AttnNormBias,
    /// Bias of [`Role::FfnNorm`].
    FfnNormBias,
    /// Bias of [`Role::OutNorm`].
    OutNormBias,
    /// Bias of [`Role::Q`].
    QBias,
    /// Bias of [`Role::K`].
    KBias,
    /// Bias of [`Role::V`].
    VBias,
    /// Bias of [`Role::O`].
    OBias,
    /// Bias of [`Role::Gate`].
    GateBias,
    /// Bias of [`Role::Up`].
    UpBias,
    /// Bias of [`Role::Down`].
    DownBias,
    /// Bias of [`Role::Qkv`].
    QkvBias,
}

/// The kind of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorKind {
    /// A matrix, `y = x · Wᵀ`.
    Matrix,
    /// The gain of a norm.
    Gain,
    /// The bias that is added to the output of another role.
    Bias(Role),
    /// The taps of a convolution, a row for each channel.
    Taps,
    /// A number for each head, with the suffix of its name in files.
    Numbers(&'static str),
    /// A matrix for each expert, one after the other.
    Experts,
}

/// The widths of a block.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Of the residual stream.
    pub width: usize,
    /// Of all query heads.
    pub queries: usize,
    /// Of what the query projection makes: queries, and their gates if they have some.
    pub asked: usize,
    /// Of all key heads.
    pub keys: usize,
    /// Of the feed-forward layer.
    pub ff: usize,
    /// Of the gains of the norms of queries and keys.
    pub gains: [usize; 2],
    /// Taps of a convolution, and its channels.
    pub taps: [usize; 2],
    /// Of a gated delta rule: its heads of values, and the width of one.
    pub delta: [usize; 2],
    /// Experts.
    pub experts: usize,
    /// Of an expert's feed-forward layer.
    pub expert_ff: usize,
}

/// One row of [`ROLES`].
pub struct Row {
    /// The role.
    pub role: Role,
    /// Its short name on command lines.
    pub short: &'static str,
    /// Its name in GGUF files, without block and suffix.
    pub gguf: &'static str,
    /// Its usual path in a Hugging Face block.
    pub hf: &'static str,
    /// The kind of tensor.
    pub kind: TensorKind,
    /// Widths of its input and of its output.
    pub shape: fn(&Sizes) -> [usize; 2],
    /// Roles whose rows it holds, in this order.
    pub holds: &'static [Role],
    /// Whether its input is rounded to wide integers at int8 precision. An error in queries and keys is multiplied by
    /// their size before the softmax, so it hurts most. These matrices are the smallest, so wide integers cost least
    /// here.
    pub wide: bool,
}

const fn matrix(
    role: Role,
    short: &'static str,
    gguf: &'static str,
    hf: &'static str,
    shape: fn(&Sizes) -> [usize; 2],
) -> Row {
    Row { role, short, gguf, hf, kind: TensorKind::Matrix, shape, holds: &[], wide: false }
}

const fn wide(row: Row) -> Row {
    Row { wide: true, ..row }
}

const fn fused(row: Row, holds: &'static [Role]) -> Row {
    Row { holds, ..row }
}

const fn gain(
    role: Role,
    short: &'static str,
    gguf: &'static str,
    hf: &'static str,
    shape: fn(&Sizes) -> [usize; 2],
) -> Row {
    Row { role, short, gguf, hf, kind: TensorKind::Gain, shape, holds: &[], wide: false }
}

/// Matrices of all experts; the shape is that of one.
const fn experts(role: Role, short: &'static str, gguf: &'static str, shape: fn(&Sizes) -> [usize; 2]) -> Row {
    Row { role, short, gguf, hf: "", kind: TensorKind::Experts, shape, holds: &[], wide: false }
}

/// Numbers of heads, with the suffix of their name in files.
const fn numbers(
    role: Role,
    short: &'static str,
    gguf: &'static str,
    suffix: &'static str,
    shape: fn(&Sizes) -> [usize; 2],
) -> Row {
    Row { kind: TensorKind::Numbers(suffix), ..gain(role, short, gguf, "", shape) }
}

/// The bias of `of`; its name in files differs in the suffix.
const fn bias(role: Role, of: Role, short: &'static str, gguf: &'static str, shape: fn(&Sizes) -> [usize; 2]) -> Row {
    Row { role, short, gguf, hf: "", kind: TensorKind::Bias(of), shape, holds: &[], wide: false }
}

/// Every tensor that a block may have, in the order of [`Role`].
pub static ROLES: [Row; Role::COUNT] = [
    gain(Role::AttnNorm, "attn_norm", "attn_norm", "input_layernorm", |s| [s.width; 2]),
    gain(Role::FfnNorm, "ffn_norm", "ffn_norm", "post_attention_layernorm", |s| [s.width; 2]),
    matrix(Role::ConvIn, "conv_in", "shortconv.in_proj", "conv.in_proj", |s| [s.width, 3 * s.width]),
    matrix(Role::ConvOut, "conv_out", "shortconv.out_proj", "conv.out_proj", |s| [s.width; 2]),
    wide(matrix(Role::DeltaIn, "delta_in", "delta_in", "linear_attn.in_proj_qkv", |s| [s.width, s.taps[1]])),
    matrix(Role::DeltaGate, "delta_gate", "attn_gate", "linear_attn.in_proj_z", |s| [s.width, s.delta[0] * s.delta[1]]),
    wide(matrix(Role::Alpha, "alpha", "ssm_alpha", "linear_attn.in_proj_a", |s| [s.width, s.delta[0]])),
    wide(matrix(Role::Beta, "beta", "ssm_beta", "linear_attn.in_proj_b", |s| [s.width, s.delta[0]])),
    matrix(Role::DeltaOut, "delta_out", "ssm_out", "linear_attn.out_proj", |s| [s.delta[0] * s.delta[1], s.width]),
    wide(matrix(Role::Q, "q", "attn_q", "self_attn.q_proj", |s| [s.width, s.asked])),
    wide(matrix(Role::K, "k", "attn_k", "self_attn.k_proj", |s| [s.width, s.keys])),
    wide(matrix(Role::V, "v", "attn_v", "self_attn.v_proj", |s| [s.width, s.keys])),
    matrix(Role::O, "o", "attn_output", "self_attn.o_proj", |s| [s.queries, s.width]),
    matrix(Role::Gate, "gate", "ffn_gate", "mlp.gate_proj", |s| [s.width, s.ff]),
    matrix(Role::Up, "up", "ffn_up", "mlp.up_proj", |s| [s.width, s.ff]),
    matrix(Role::Down, "down", "ffn_down", "mlp.down_proj", |s| [s.ff, s.width]),
    wide(matrix(Role::Router, "router", "ffn_gate_inp", "mlp.gate", |s| [s.width, s.experts])),
    matrix(Role::SharedGate, "shared_gate", "ffn_gate_inp_shexp", "mlp.shared_expert_gate", |s| [s.width, 1]),
    experts(Role::ExpertGate, "expert_gate", "ffn_gate_exps", |s| [s.width, s.expert_ff]),
    experts(Role::ExpertUp, "expert_up", "ffn_up_exps", |s| [s.width, s.expert_ff]),
    experts(Role::ExpertDown, "expert_down", "ffn_down_exps", |s| [s.expert_ff, s.width]),
    fused(
        experts(Role::ExpertGateUp, "expert_gate_up", "ffn_gate_up_exps", |s| [s.width, 2 * s.expert_ff]),
        &[Role::ExpertGate, Role::ExpertUp],
    ),
    fused(
        wide(matrix(Role::Qkv, "qkv", "attn_qkv", "self_attn.qkv_proj", |s| [s.width, s.asked + 2 * s.keys])),
        &[Role::Q, Role::K, Role::V],
    ),
    fused(
        matrix(Role::GateUp, "gate_up", "ffn_gate_up", "mlp.gate_up_proj", |s| [s.width, 2 * s.ff]),
        &[Role::Gate, Role::Up],
    ),
    gain(Role::QNorm, "q_norm", "attn_q_norm", "self_attn.q_norm", |s| [s.gains[0]; 2]),
    gain(Role::KNorm, "k_norm", "attn_k_norm", "self_attn.k_norm", |s| [s.gains[1]; 2]),
    gain(Role::PostAttnNorm, "post_attn_norm", "post_attention_norm", "post_attention_layernorm", |s| [s.width; 2]),
    gain(Role::PostFfnNorm, "post_ffn_norm", "post_ffw_norm", "post_feedforward_layernorm", |s| [s.width; 2]),
    gain(Role::OutNorm, "out_norm", "layer_output_norm", "output.LayerNorm", |s| [s.width; 2]),
    gain(Role::DeltaNorm, "delta_norm", "ssm_norm", "linear_attn.norm", |s| [s.delta[1]; 2]),
    Row { kind: TensorKind::Taps, ..gain(Role::Taps, "taps", "shortconv.conv", "conv.conv", |s| s.taps) },
    numbers(Role::DecayRate, "decay_rate", "ssm_a", "", |s| [s.delta[0]; 2]),
    numbers(Role::DecayBias, "decay_bias", "ssm_dt", "bias", |s| [s.delta[0]; 2]),
    bias(Role::AttnNormBias, Role::AttnNorm, "attn_norm_bias", "attn_norm", |s| [s.width; 2]),
    bias(Role::FfnNormBias, Role::FfnNorm, "ffn_norm_bias", "ffn_norm", |s| [s.width; 2]),
    bias(Role::OutNormBias, Role::OutNorm, "out_norm_bias", "layer_output_norm", |s| [s.width; 2]),
    bias(Role::QBias, Role::Q, "q_bias", "attn_q", |s| [s.asked; 2]),
    bias(Role::KBias, Role::K, "k_bias", "attn_k", |s| [s.keys; 2]),
    bias(Role::VBias, Role::V, "v_bias", "attn_v", |s| [s.keys; 2]),
    bias(Role::OBias, Role::O, "o_bias", "attn_output", |s| [s.width; 2]),
    bias(Role::GateBias, Role::Gate, "gate_bias", "ffn_gate", |s| [s.ff; 2]),
    bias(Role::UpBias, Role::Up, "up_bias", "ffn_up", |s| [s.ff; 2]),
    bias(Role::DownBias, Role::Down, "down_bias", "ffn_down", |s| [s.width; 2]),
    bias(Role::QkvBias, Role::Qkv, "qkv_bias", "attn_qkv", |s| [s.asked + 2 * s.keys; 2]),
];

impl Role {
    /// How many there are.
    pub const COUNT: usize = Role::QkvBias as usize + 1;

    /// The linear layers of a block as most files store them: the meaning of `all` in a list of layers. No block has all of
    /// them.
    pub const LINEAR: [Role; 12] = [
        Role::ConvIn,
        Role::ConvOut,
        Role::DeltaIn,
        Role::DeltaGate,
        Role::DeltaOut,
        Role::Q,
        Role::K,
        Role::V,
        Role::O,
        Role::Gate,
        Role::Up,
        Role::Down,
    ];

    /// Its row.
    pub fn row(self) -> &'static Row {
        &ROLES[self as usize]
    }

    /// Its name in GGUF files, without block and suffix: `attn_q`.
    pub fn gguf(self) -> &'static str {
        self.row().gguf
    }

    /// Its usual path in a Hugging Face block: `self_attn.q_proj`.
    pub fn hf(self) -> &'static str {
        self.row().hf
    }

    /// The suffix of its name in GGUF files; empty if there is none.
    pub fn suffix(self) -> &'static str {
        match self.row().kind {
            TensorKind::Bias(_) => "bias",
            TensorKind::Numbers(suffix) => suffix,
            _ => "weight",
        }
    }

    /// The role of the bias that is added to its output, if the table has one.
    pub fn bias(self) -> Option<Role> {
        ROLES.iter().find(|row| row.kind == TensorKind::Bias(self)).map(|row| row.role)
    }

    /// The tensor that may hold its rows together with others, and its index among these.
    pub fn fused(self) -> Option<(Role, usize)> {
        ROLES.iter().find_map(|row| Some((row.role, row.holds.iter().position(|r| *r == self)?)))
    }

    /// All of them, in the order of the table.
    pub fn all() -> impl Iterator<Item = Role> {
        ROLES.iter().map(|row| row.role)
    }

    /// The matrices, in the order of the table.
    pub fn matrices() -> impl Iterator<Item = Role> {
        ROLES.iter().filter(|row| row.kind == TensorKind::Matrix).map(|row| row.role)
    }

    /// The matrix with exactly this name in any spelling: `q`, `attn_q`, `q_proj` or `self_attn.q_proj`.
    pub fn by_name(name: &str) -> Option<Role> {
        let last = |path: &'static str| path.rsplit('.').next();
        let fits = |row: &&Row| [row.short, row.gguf, row.hf].contains(&name) || last(row.hf) == Some(name);
        ROLES.iter().filter(|row| row.kind == TensorKind::Matrix).find(fits).map(|row| row.role)
    }
}

/// A set of roles.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Roles(u64);

impl Roles {
    /// Whether a role is in the set.
    pub fn has(self, role: Role) -> bool {
        self.0 >> role as usize & 1 == 1
    }

    /// Adds a role.
    pub fn add(&mut self, role: Role) {
        self.0 |= 1 << role as usize;
    }
}

impl fmt::Debug for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(Role::all().filter(|r| self.has(*r))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_where_their_roles_say() {
        for (i, row) in ROLES.iter().enumerate() {
            assert_eq!(row.role as usize, i, "{}", row.short);
            if let TensorKind::Bias(of) = row.kind {
                assert_eq!((row.gguf, of.bias()), (of.gguf(), Some(row.role)));
            }
            for (at, role) in row.holds.iter().enumerate() {
                assert_eq!(role.fused(), Some((row.role, at)));
            }
        }
        const { assert!(Role::COUNT <= 64) };
    }
}
