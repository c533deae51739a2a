//! The table of classes of models: what their tensors are called, what becomes of the rows, and which settings a file gets.
//! Facts are those of llama.cpp's converter (0.5.0-dev) and of the defaults of transformers 5.

use super::config::{Config, HEADS, Keys, LAYERS, WIDTH, plain};
use crate::error::{Error, Result};
use std::prelude::v1::*;

/// A class of models.
pub struct Family {
    /// Its names in `config.json`.
    pub classes: &'static [&'static str],
    /// The architecture in GGUF files.
    pub architecture: &'static str,
    /// Tensors outside of blocks.
    pub(super) outside: &'static [Name],
    /// Tensors of a block; the first table that has a name counts.
    pub(super) inside: &'static [&'static [Name]],
    /// Beginnings of names of tensors that the file does not get.
    pub(super) left_out: &'static [&'static str],
    /// What becomes of tensors, by their names here.
    pub(super) changes: &'static [(&'static str, Change)],
    /// Whether gains of norms are stored less one.
    pub(super) gains_less_one: bool,
    /// Divisors of rotary frequencies that become a tensor.
    pub(super) factors: Factors,
    /// Whether keys and values have heads of their own number, which is that of the queries where nothing says it.
    pub(super) grouped: bool,
    /// Whether the width of a head is always written.
    pub(super) head_width: bool,
    /// What holds where `config.json` says nothing.
    pub(super) usual: &'static [(&'static str, Usual)],
    /// Sets the metadata of the model.
    pub(super) keys: fn(&Config, &mut Keys) -> Result<()>,
    /// Tokenizers, of which the first counts whose file is there.
    pub(super) tokenizers: &'static [Tokenizer],
    /// Whether text gets a space in front, if the family knows: `None` leaves it to the file.
    pub(super) space: Option<bool>,
    /// Whether the configuration of the tokenizer may say that.
    pub(super) says_space: bool,
    /// The token that ends a turn, if it is known by its number alone.
    pub(super) turn: Option<u64>,
    /// Names of ways to cut text, usual and its own.
    pub(super) cuts: &'static [[&'static str; 2]],
}

/// The name of a tensor there, without `weight` or `bias`, and here. `#` stands for a number: such tensors are stacked. With
/// `|` between two names a tensor is cut into halves.
pub(super) type Name = [&'static str; 2];

/// Where tokens come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tokenizer {
    /// `tokenizer.model`.
    SentencePiece,
    /// The same, where added tokens are special only if they say so.
    Said,
    /// Byte pairs in `tokenizer.json` whose bytes have tokens of their own.
    Pieces,
    /// Byte pairs in `tokenizer.json` that are spelled in characters for bytes.
    Bytes,
    /// Words and parts of words in `tokenizer.json`.
    Words,
}

/// What becomes of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Halves of the heads of queries become neighbouring pairs.
    Queries,
    /// The same for the heads of keys.
    Keys,
    /// Columns become rows.
    Turned,
    /// Rows that no token has are left out.
    Tokens,
    /// Heads of values, which follow queries and keys, are sorted anew: of each group the first, then of each the second.
    Mixed,
    /// The same, where all rows are heads of values.
    Values,
    /// The same, with one row a head.
    Scalars,
    /// The same for columns.
    Columns,
    /// As `Scalars`, and a value becomes what it decays by: −eˣ.
    Decays,
}

/// Divisors of rotary frequencies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Factors {
    None,
    /// Computed, for Llama 3's scaling.
    Llama3,
    /// Two lists of the configuration.
    Long,
}

/// What holds where nothing is said.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Usual {
    Number(f64),
    /// As another setting.
    As(&'static str),
}

/// Tensors outside of blocks.
const OUTSIDE: &[Name] = &[["embed_tokens", "token_embd"], ["lm_head", "output"], ["norm", "output_norm"]];

/// Tensors of a block.
const BLOCK: &[Name] = &[
    ["input_layernorm", "attn_norm"],
    ["post_attention_layernorm", "ffn_norm"],
    ["self_attn.q_proj", "attn_q"],
    ["self_attn.k_proj", "attn_k"],
    ["self_attn.v_proj", "attn_v"],
    ["self_attn.o_proj", "attn_output"],
    ["self_attn.q_norm", "attn_q_norm"],
    ["self_attn.k_norm", "attn_k_norm"],
    ["mlp.gate_proj", "ffn_gate"],
    ["mlp.up_proj", "ffn_up"],
    ["mlp.down_proj", "ffn_down"],
];

/// Norms behind sub-layers.
const BEHIND: &[Name] =
    &[["post_attention_layernorm", "post_attention_norm"], ["post_feedforward_layernorm", "post_ffw_norm"]];

/// The norm before the second sub-layer, where one stands behind the first.
const BETWEEN: &[Name] = &[["pre_feedforward_layernorm", "ffn_norm"]];

/// Experts, one by one or in one tensor, in the order of files.
const EXPERTS: &[Name] = &[
    ["mlp.experts.#.down_proj", "ffn_down_exps"],
    ["mlp.experts.#.gate_proj", "ffn_gate_exps"],
    ["mlp.experts.#.up_proj", "ffn_up_exps"],
    ["mlp.experts.down_proj", "ffn_down_exps.weight"],
    ["mlp.experts.gate_up_proj", "ffn_gate_exps.weight|ffn_up_exps.weight"],
    ["mlp.gate", "ffn_gate_inp"],
];

const PAIRS: &[(&str, Change)] = &[("attn_q", Change::Queries), ("attn_k", Change::Keys)];

/// A decoder like Qwen's.
const PLAIN: Family = Family {
    classes: &[],
    architecture: "",
    outside: OUTSIDE,
    inside: &[BLOCK],
    left_out: &[],
    changes: &[],
    gains_less_one: false,
    factors: Factors::None,
    grouped: true,
    head_width: false,
    usual: &[("rope_theta", Usual::Number(1e4))],
    keys: plain,
    tokenizers: &[Tokenizer::Bytes],
    space: None,
    says_space: false,
    turn: None,
    cuts: &[],
};

/// A decoder like Llama's.
const LLAMA: Family = Family {
    classes: &["LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM"],
    architecture: "llama",
    changes: PAIRS,
    factors: Factors::Llama3,
    head_width: true,
    keys: like_llama,
    tokenizers: &[Tokenizer::SentencePiece, Tokenizer::Pieces, Tokenizer::Bytes],
    says_space: true,
    ..PLAIN
};

const QWEN2: Family = Family {
    classes: &["Qwen2ForCausalLM"],
    architecture: "qwen2",
    tokenizers: &[Tokenizer::SentencePiece, Tokenizer::Bytes],
    keys: |c, k| plain(c, k).and_then(|()| pooled(c, k)),
    ..PLAIN
};

const MIXTURE: Family = Family { inside: &[EXPERTS, BLOCK], keys: mixture, ..PLAIN };

const GEMMA: Family = Family {
    classes: &["GemmaForCausalLM"],
    architecture: "gemma",
    // The output is the embedding.
    left_out: &["lm_head."],
    gains_less_one: true,
    usual: &[("head_dim", Usual::Number(256.0))],
    keys: gemma,
    tokenizers: &[Tokenizer::SentencePiece, Tokenizer::Pieces],
    space: Some(false),
    turn: Some(107),
    ..PLAIN
};

const GEMMA3: Family = Family {
    classes: &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"],
    architecture: "gemma3",
    inside: &[BEHIND, BETWEEN, BLOCK],
    left_out: &["vision_tower.", "multi_modal_projector."],
    changes: &[("token_embd", Change::Tokens)],
    usual: &[
        ("head_dim", Usual::Number(256.0)),
        ("max_position_embeddings", Usual::Number(131_072.0)),
        ("num_attention_heads", Usual::Number(8.0)),
        ("num_key_value_heads", Usual::Number(4.0)),
        ("rms_norm_eps", Usual::Number(1e-6)),
        ("rope_local_base_freq", Usual::Number(1e4)),
        ("rope_theta", Usual::Number(1e6)),
        ("sliding_window", Usual::Number(4096.0)),
        ("vocab_size", Usual::Number(262_208.0)),
    ],
    keys: gemma3,
    turn: None,
    ..GEMMA
};

/// Every class that is known.
pub static FAMILIES: &[Family] = &[
    LLAMA,
    Family {
        classes: &["SmolLM3ForCausalLM"],
        architecture: "smollm3",
        head_width: false,
        usual: &[("rope_theta", Usual::Number(2e6))],
        ..LLAMA
    },
    Family {
        classes: &["GraniteForCausalLM"],
        architecture: "granite",
        keys: granite,
        cuts: &[["smollm", "refact"]],
        ..LLAMA
    },
    QWEN2,
    Family {
        classes: &["Qwen3ForCausalLM"],
        architecture: "qwen3",
        usual: &[("rope_theta", Usual::Number(1e4)), ("head_dim", Usual::Number(128.0))],
        ..QWEN2
    },
    Family {
        classes: &["Qwen2MoeForCausalLM"],
        architecture: "qwen2moe",
        inside: &[
            EXPERTS,
            &[
                ["mlp.shared_expert.down_proj", "ffn_down_shexp"],
                ["mlp.shared_expert.gate_proj", "ffn_gate_shexp"],
                ["mlp.shared_expert.up_proj", "ffn_up_shexp"],
                ["mlp.shared_expert_gate", "ffn_gate_inp_shexp"],
            ],
            BLOCK,
        ],
        ..MIXTURE
    },
    Family { classes: &["Qwen3MoeForCausalLM"], architecture: "qwen3moe", ..MIXTURE },
    Family {
        classes: &["OlmoeForCausalLM"],
        architecture: "olmoe",
        keys: |c, k| {
            plain(c, k)?;
            // As the converter, whatever the configuration says.
            k.put("attention.layer_norm_rms_epsilon", 1e-5_f32);
            Ok(())
        },
        cuts: &[["gpt-2", "olmo"]],
        ..MIXTURE
    },
    GEMMA,
    Family {
        classes: &["Gemma2ForCausalLM"],
        architecture: "gemma2",
        inside: &[BEHIND, BETWEEN, BLOCK],
        usual: &[
            ("head_dim", Usual::Number(256.0)),
            ("attn_logit_softcapping", Usual::Number(50.0)),
            ("final_logit_softcapping", Usual::Number(30.0)),
            ("sliding_window", Usual::Number(4096.0)),
        ],
        keys: gemma2,
        turn: None,
        ..GEMMA
    },
    GEMMA3,
    Family {
        classes: &["Gemma3TextModel"],
        architecture: "gemma-embedding",
        keys: |c, k| gemma3(c, k).and_then(|()| pooled(c, k)),
        ..GEMMA3
    },
    Family {
        classes: &["Phi3ForCausalLM"],
        architecture: "phi3",
        inside: &[&[["self_attn.qkv_proj", "attn_qkv"], ["mlp.gate_up_proj", "ffn_up"]], BLOCK],
        factors: Factors::Long,
        usual: &[("rope_theta", Usual::Number(1e4)), ("original_max_position_embeddings", Usual::Number(4096.0))],
        keys: phi3,
        tokenizers: &[Tokenizer::Said, Tokenizer::Bytes],
        ..PLAIN
    },
    Family {
        classes: &["Olmo2ForCausalLM"],
        architecture: "olmo2",
        inside: &[BEHIND, BLOCK],
        cuts: &[["smaug-bpe", "dbrx"]],
        ..PLAIN
    },
    Family {
        classes: &["Olmo3ForCausalLM"],
        architecture: "olmo2",
        inside: &[BEHIND, BLOCK],
        usual: &[
            ("rope_theta", Usual::Number(5e5)),
            ("rope_local_base_freq", Usual::As("rope_theta")),
            ("sliding_window", Usual::Number(4096.0)),
        ],
        keys: olmo3,
        cuts: &[["smaug-bpe", "dbrx"]],
        ..PLAIN
    },
    Family {
        classes: &["StableLmForCausalLM", "StableLMEpochForCausalLM"],
        architecture: "stablelm",
        inside: &[
            &[["self_attn.q_layernorm.norms.#", "attn_q_norm"], ["self_attn.k_layernorm.norms.#", "attn_k_norm"]],
            BLOCK,
        ],
        keys: stablelm,
        cuts: &[["qwen2", "stablelm2"]],
        ..PLAIN
    },
    Family {
        classes: &["Starcoder2ForCausalLM"],
        architecture: "starcoder2",
        inside: &[&[["mlp.c_fc", "ffn_up"], ["mlp.c_proj", "ffn_down"]], BLOCK],
        cuts: &[["smollm", "starcoder"]],
        ..PLAIN
    },
    Family {
        classes: &["GPT2LMHeadModel"],
        architecture: "gpt2",
        outside: &[["wte", "token_embd"], ["wpe", "position_embd"], ["ln_f", "output_norm"], ["lm_head", "output"]],
        inside: &[&[
            ["ln_1", "attn_norm"],
            ["ln_2", "ffn_norm"],
            ["attn.c_attn", "attn_qkv"],
            ["attn.c_proj", "attn_output"],
            ["mlp.c_fc", "ffn_up"],
            ["mlp.c_proj", "ffn_down"],
            // Masks.
            ["attn", ""],
            ["attn.masked_bias", ""],
        ]],
        changes: &[
            ("attn_qkv.weight", Change::Turned),
            ("attn_output.weight", Change::Turned),
            ("ffn_up.weight", Change::Turned),
            ("ffn_down.weight", Change::Turned),
        ],
        keys: gpt2,
        ..PLAIN
    },
    Family {
        classes: &["Lfm2ForCausalLM", "LFM2ForCausalLM"],
        architecture: "lfm2",
        outside: &[["embed_tokens", "token_embd"], ["embedding_norm", "token_embd_norm"], ["lm_head", "output"]],
        inside: &[&[
            ["operator_norm", "attn_norm"],
            ["ffn_norm", "ffn_norm"],
            ["self_attn.q_proj", "attn_q"],
            ["self_attn.k_proj", "attn_k"],
            ["self_attn.v_proj", "attn_v"],
            ["self_attn.out_proj", "attn_output"],
            ["self_attn.q_layernorm", "attn_q_norm"],
            ["self_attn.k_layernorm", "attn_k_norm"],
            ["feed_forward.w1", "ffn_gate"],
            ["feed_forward.w2", "ffn_down"],
            ["feed_forward.w3", "ffn_up"],
            ["conv.conv", "shortconv.conv"],
            ["conv.in_proj", "shortconv.in_proj"],
            ["conv.out_proj", "shortconv.out_proj"],
        ]],
        usual: &[("rope_theta", Usual::Number(1e6))],
        keys: lfm2,
        cuts: &[["smaug-bpe", "lfm2"], ["llama-bpe", "lfm2"]],
        ..PLAIN
    },
    Family {
        classes: &["Qwen3_5ForConditionalGeneration", "Qwen3_5ForCausalLM"],
        architecture: "qwen35",
        inside: &[
            &[
                ["post_attention_layernorm", "post_attention_norm"],
                ["linear_attn.in_proj_qkv", "attn_qkv"],
                ["linear_attn.in_proj_z", "attn_gate"],
                ["linear_attn.in_proj_a", "ssm_alpha"],
                ["linear_attn.in_proj_b", "ssm_beta"],
                ["linear_attn.conv1d", "ssm_conv1d"],
                ["linear_attn.A_log", "ssm_a"],
                ["linear_attn.dt_bias", "ssm_dt.bias"],
                ["linear_attn.norm", "ssm_norm"],
                ["linear_attn.out_proj", "ssm_out"],
            ],
            BLOCK,
        ],
        // What sees, and what guesses further tokens.
        left_out: &["visual.", "model.visual.", "mtp.", "model.mtp."],
        changes: &[
            ("attn_qkv", Change::Mixed),
            ("ssm_conv1d", Change::Mixed),
            ("attn_gate", Change::Values),
            ("ssm_alpha", Change::Scalars),
            ("ssm_beta", Change::Scalars),
            ("ssm_dt", Change::Scalars),
            ("ssm_a", Change::Decays),
            ("ssm_out", Change::Columns),
        ],
        gains_less_one: true,
        usual: &[("rope_theta", Usual::Number(1e4)), ("head_dim", Usual::Number(256.0))],
        keys: qwen35,
        ..PLAIN
    },
    Family {
        classes: &["BertModel", "BertForMaskedLM"],
        architecture: "bert",
        outside: &[
            ["embeddings.word_embeddings", "token_embd"],
            ["embeddings.position_embeddings", "position_embd"],
            ["embeddings.token_type_embeddings", "token_types"],
            ["embeddings.LayerNorm", "token_embd_norm"],
            ["embeddings.position_ids", ""],
            ["pooler.dense", ""],
        ],
        inside: &[&[
            ["attention.self.query", "attn_q"],
            ["attention.self.key", "attn_k"],
            ["attention.self.value", "attn_v"],
            ["attention.output.dense", "attn_output"],
            ["attention.output.LayerNorm", "attn_output_norm"],
            ["intermediate.dense", "ffn_up"],
            ["output.dense", "ffn_down"],
            ["output.LayerNorm", "layer_output_norm"],
        ]],
        left_out: &["cls.predictions", "cls.seq_relationship"],
        grouped: false,
        usual: &[("layer_norm_eps", Usual::Number(1e-12))],
        keys: |c, k| {
            plain(c, k)?;
            k.put("attention.causal", false);
            pooled(c, k)
        },
        tokenizers: &[Tokenizer::Words],
        ..PLAIN
    },
];

/// The sizes of a model, in the order of some classes.
fn sizes(c: &Config, k: &mut Keys) -> Result<()> {
    k.whole("context_length", c.whole(&["max_position_embeddings"])?)?;
    k.whole("embedding_length", c.whole(WIDTH)?)?;
    k.whole("block_count", c.whole(LAYERS)?)?;
    k.whole("feed_forward_length", c.whole(&["intermediate_size"])?)
}

fn heads(c: &Config, k: &mut Keys) -> Result<()> {
    k.whole("attention.head_count", c.whole(HEADS)?)?;
    k.whole("attention.head_count_kv", c.groups()?)
}

fn widths(c: &Config, k: &mut Keys) -> Result<()> {
    let width = c.head_width()?;
    k.whole("attention.key_length", width)?;
    k.whole("attention.value_length", width)
}

fn pooled(c: &Config, k: &mut Keys) -> Result<()> {
    c.pooling.map_or(Ok(()), |kind| k.whole("pooling_type", kind))
}

fn like_llama(c: &Config, k: &mut Keys) -> Result<()> {
    plain(c, k)?;
    k.whole("vocab_size", c.whole(&["vocab_size"])?)?;
    k.whole("rope.dimension_count", c.head_width()?)
}

fn granite(c: &Config, k: &mut Keys) -> Result<()> {
    plain(c, k)?;
    // A width of heads that is said does not count.
    k.remove("attention.key_length").remove("attention.value_length");
    k.whole("vocab_size", c.whole(&["vocab_size"])?)?;
    k.whole("rope.dimension_count", c.whole(WIDTH)?.checked_div(c.whole(HEADS)?).unwrap_or(0))?;
    for (name, key) in [
        ("attention.scale", "attention_multiplier"),
        ("embedding_scale", "embedding_multiplier"),
        ("residual_scale", "residual_multiplier"),
        ("logit_scale", "logits_scaling"),
    ] {
        // The class has 1 where nothing is said, and none for 0.
        let value = c.number(&[key]).unwrap_or(1.0);
        if value != 0.0 {
            k.put(name, value as f32);
        }
    }
    Ok(())
}

fn mixture(c: &Config, k: &mut Keys) -> Result<()> {
    plain(c, k)?;
    for (name, key) in [
        ("expert_feed_forward_length", "moe_intermediate_size"),
        ("expert_shared_feed_forward_length", "shared_expert_intermediate_size"),
    ] {
        if let Some(width) = c.maybe(&[key])? {
            k.whole(name, width)?;
        }
    }
    Ok(())
}

fn gemma(c: &Config, k: &mut Keys) -> Result<()> {
    c.unscaled()?;
    sizes(c, k)?;
    heads(c, k)?;
    k.put("attention.layer_norm_rms_epsilon", c.number(&["rms_norm_eps"]).unwrap_or(1e-6) as f32);
    widths(c, k)?;
    k.file_type();
    Ok(())
}

fn gemma2(c: &Config, k: &mut Keys) -> Result<()> {
    gemma(c, k)?;
    for name in ["attn_logit_softcapping", "final_logit_softcapping"] {
        k.put(name, c.number(&[name]).unwrap_or(0.0) as f32);
    }
    k.whole("attention.sliding_window", c.whole(&["sliding_window"])?)
}

fn gemma3(c: &Config, k: &mut Keys) -> Result<()> {
    plain(c, k)?;
    widths(c, k)?;
    if c.number(&["attn_logit_softcapping"]).is_some() {
        return Err(Error::unsupported("setting of config.json", "attn_logit_softcapping"));
    }
    if let Some(cap) = c.number(&["final_logit_softcapping"]).filter(|cap| *cap != 0.0) {
        k.put("final_logit_softcapping", cap as f32);
    }
    k.whole("attention.sliding_window", c.whole(&["sliding_window"])?)
}

fn phi3(c: &Config, k: &mut Keys) -> Result<()> {
    let context = c.whole(&["n_positions", "max_position_embeddings"])?;
    k.whole("context_length", context)?;
    k.whole("rope.scaling.original_context_length", c.original_context()?)?;
    k.whole("embedding_length", c.whole(WIDTH)?)?;
    k.whole("feed_forward_length", c.whole(&["intermediate_size"])?)?;
    k.whole("block_count", c.whole(LAYERS)?)?;
    heads(c, k)?;
    k.put("attention.layer_norm_rms_epsilon", c.number(&["rms_norm_eps"]).unwrap_or(1e-5) as f32);
    k.whole("rope.dimension_count", c.rotated()?)?;
    k.put("rope.freq_base", c.theta().unwrap_or(1e4) as f32);
    k.file_type();
    // 0 stands for none.
    k.whole("attention.sliding_window", c.maybe(&["sliding_window"])?.unwrap_or(0))
}

fn olmo3(c: &Config, k: &mut Keys) -> Result<()> {
    plain(c, k)?;
    k.whole("attention.sliding_window", c.whole(&["sliding_window"])?)?;
    let blocks = c.whole(LAYERS)?;
    let windowed = c.layers_of("sliding_attention", blocks)?;
    let usual = || (1..=blocks).map(|i| i % 4 != 0).collect();
    k.put("attention.sliding_window_pattern", &windowed.unwrap_or_else(usual)[..]);
    Ok(())
}

fn stablelm(c: &Config, k: &mut Keys) -> Result<()> {
    c.unscaled()?;
    sizes(c, k)?;
    let share = c.rope_number("partial_rotary_factor").unwrap_or(0.25);
    let width = c.whole(WIDTH)?.checked_div(c.whole(HEADS)?).unwrap_or(0);
    k.whole("rope.dimension_count", (share * width as f64) as u64)?;
    heads(c, k)?;
    k.put("use_parallel_residual", c.switch("use_parallel_residual").unwrap_or(false));
    k.put("attention.layer_norm_epsilon", c.number(&["layer_norm_eps", "norm_eps"]).unwrap_or(1e-5) as f32);
    k.file_type();
    Ok(())
}

fn gpt2(c: &Config, k: &mut Keys) -> Result<()> {
    let width = c.whole(WIDTH)?;
    k.whole("block_count", c.whole(LAYERS)?)?;
    k.whole("context_length", c.whole(&["n_ctx", "n_positions"])?)?;
    k.whole("embedding_length", width)?;
    let inner = c.maybe(&["n_inner"])?.unwrap_or(width.saturating_mul(4));
    k.whole("feed_forward_length", inner)?;
    k.whole("attention.head_count", c.whole(HEADS)?)?;
    k.put("attention.layer_norm_epsilon", c.number(&["layer_norm_epsilon"]).unwrap_or(1e-5) as f32);
    k.file_type();
    Ok(())
}

fn lfm2(c: &Config, k: &mut Keys) -> Result<()> {
    plain(c, k)?;
    let (blocks, groups) = (c.whole(LAYERS)?, c.groups()?);
    let convolved = match c.layers_of("conv", blocks)? {
        Some(layers) => layers,
        None => {
            let full = c.numbers("full_attn_idxs")?;
            (0..blocks).map(|i| !full.contains(&i)).collect()
        }
    };
    let groups = i32::try_from(groups).map_err(|_| Error::limit("heads of keys", groups, i32::MAX as u64))?;
    let each: Vec<i32> = convolved.into_iter().map(|conv| if conv { 0 } else { groups }).collect();
    k.put("attention.head_count_kv", &each[..]);
    k.whole("vocab_size", c.whole(&["vocab_size"])?)?;
    k.whole("shortconv.l_cache", c.whole(&["conv_L_cache"])?)?;
    let mut width = c.whole(&["block_ff_dim", "intermediate_size"])?;
    if c.switch("block_auto_adjust_ff_dim").unwrap_or(true) {
        let factor = c.number(&["block_ffn_dim_multiplier"]).unwrap_or(1.0);
        width = (factor * (width.saturating_mul(2) / 3) as f64) as u64;
        let unit = c.maybe(&["block_multiple_of"])?.unwrap_or(256);
        width = width.checked_next_multiple_of(unit).unwrap_or(width);
    }
    k.whole("feed_forward_length", width)
}

fn qwen35(c: &Config, k: &mut Keys) -> Result<()> {
    plain(c, k)?;
    let (values, width) = (c.whole(&["linear_num_value_heads"])?, c.whole(&["linear_value_head_dim"])?);
    k.whole("ssm.conv_kernel", c.whole(&["linear_conv_kernel_dim"])?)?;
    k.whole("ssm.state_size", c.whole(&["linear_key_head_dim"])?)?;
    k.whole("ssm.group_count", c.whole(&["linear_num_key_heads"])?)?;
    k.whole("ssm.time_step_rank", values)?;
    k.whole("ssm.inner_size", values.saturating_mul(width))?;
    let (blocks, period) = (c.whole(LAYERS)?, c.maybe(&["full_attention_interval"])?.unwrap_or(4).max(1));
    let linear = c.layers_of("linear_attention", blocks)?;
    let usual = || (1..=blocks).map(|i| !i.is_multiple_of(period)).collect();
    k.put("attention.recurrent_layers", &linear.unwrap_or_else(usual)[..]);
    k.whole("full_attention_interval", period)?;
    let share = c.rope_number("partial_rotary_factor").unwrap_or(0.25);
    k.whole("rope.dimension_count", (share * c.head_width()? as f64) as u64)?;
    if !k.has("rope.dimension_sections") {
        k.put("rope.dimension_sections", &[11, 11, 10, 0_i32][..]);
    }
    Ok(())
}
