//! Folders of Hugging Face's. The miniatures were converted by llama.cpp; what they were before follows from them, and must
//! become them again.

use crate::shared::{needs_shared, shared};
use mynah::Error;
use mynah::adapter::safetensors::Safetensors;
use mynah::bytes::{Bytes, Limits};
use mynah::gguf::{Gguf, Value};
use mynah::kernel::{Compute, Pool};
use mynah::model::ARCHES;
use mynah::rewrite::Mix;
use mynah::rewrite::folder::{FAMILIES, Folder};
use mynah::text::{Encode, Tokenizer};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize};
use serde_json::{Value as Json, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn compute() -> Compute {
    Compute { kernels: mynah::kernel::best(), pool: Pool::new(2) }
}

/// Names of tensors of most classes; `#` stands for a number.
const NAMES: &[[&str; 2]] = &[
    ["token_embd", "model.embed_tokens"],
    ["output", "lm_head"],
    ["output_norm", "model.norm"],
    ["attn_norm", "input_layernorm"],
    ["ffn_norm", "post_attention_layernorm"],
    ["attn_q", "self_attn.q_proj"],
    ["attn_k", "self_attn.k_proj"],
    ["attn_v", "self_attn.v_proj"],
    ["attn_qkv", "self_attn.qkv_proj"],
    ["attn_output", "self_attn.o_proj"],
    ["attn_q_norm", "self_attn.q_norm"],
    ["attn_k_norm", "self_attn.k_norm"],
    ["ffn_gate", "mlp.gate_proj"],
    ["ffn_up", "mlp.up_proj"],
    ["ffn_down", "mlp.down_proj"],
    ["ffn_gate_inp", "mlp.gate"],
    ["ffn_gate_exps", "mlp.experts.#.gate_proj"],
    ["ffn_up_exps", "mlp.experts.#.up_proj"],
    ["ffn_down_exps", "mlp.experts.#.down_proj"],
    ["ffn_gate_inp_shexp", "mlp.shared_expert_gate"],
    ["ffn_gate_shexp", "mlp.shared_expert.gate_proj"],
    ["ffn_up_shexp", "mlp.shared_expert.up_proj"],
    ["ffn_down_shexp", "mlp.shared_expert.down_proj"],
    ["post_attention_norm", "post_attention_layernorm"],
    ["post_ffw_norm", "post_feedforward_layernorm"],
];
const BETWEEN: &[[&str; 2]] = &[["ffn_norm", "pre_feedforward_layernorm"]];
const BARE: &[[&str; 2]] = &[["token_embd", "embed_tokens"], ["output_norm", "norm"]];
const FUSED: &[[&str; 2]] = &[["ffn_up", "mlp.gate_up_proj"]];
const NORMS: &[[&str; 2]] =
    &[["attn_q_norm", "self_attn.q_layernorm.norms.#"], ["attn_k_norm", "self_attn.k_layernorm.norms.#"]];
const UNGATED: &[[&str; 2]] = &[["ffn_up", "mlp.c_fc"], ["ffn_down", "mlp.c_proj"]];
const GPT2: &[[&str; 2]] = &[
    ["token_embd", "transformer.wte"],
    ["position_embd", "transformer.wpe"],
    ["output_norm", "transformer.ln_f"],
    ["attn_norm", "ln_1"],
    ["ffn_norm", "ln_2"],
    ["attn_qkv", "attn.c_attn"],
    ["attn_output", "attn.c_proj"],
    ["ffn_up", "mlp.c_fc"],
    ["ffn_down", "mlp.c_proj"],
];
const LFM2: &[[&str; 2]] = &[
    ["token_embd_norm", "model.embedding_norm"],
    ["attn_norm", "operator_norm"],
    ["ffn_norm", "ffn_norm"],
    ["attn_output", "self_attn.out_proj"],
    ["attn_q_norm", "self_attn.q_layernorm"],
    ["attn_k_norm", "self_attn.k_layernorm"],
    ["ffn_gate", "feed_forward.w1"],
    ["ffn_down", "feed_forward.w2"],
    ["ffn_up", "feed_forward.w3"],
    ["shortconv.conv", "conv.conv"],
    ["shortconv.in_proj", "conv.in_proj"],
    ["shortconv.out_proj", "conv.out_proj"],
];
const QWEN35: &[[&str; 2]] = &[
    ["post_attention_norm", "post_attention_layernorm"],
    ["attn_qkv", "linear_attn.in_proj_qkv"],
    ["attn_gate", "linear_attn.in_proj_z"],
    ["ssm_alpha", "linear_attn.in_proj_a"],
    ["ssm_beta", "linear_attn.in_proj_b"],
    ["ssm_conv1d", "linear_attn.conv1d"],
    ["ssm_norm", "linear_attn.norm"],
    ["ssm_out", "linear_attn.out_proj"],
];
const BERT: &[[&str; 2]] = &[
    ["token_embd", "embeddings.word_embeddings"],
    ["position_embd", "embeddings.position_embeddings"],
    ["token_types", "embeddings.token_type_embeddings"],
    ["token_embd_norm", "embeddings.LayerNorm"],
    ["attn_q", "attention.self.query"],
    ["attn_k", "attention.self.key"],
    ["attn_v", "attention.self.value"],
    ["attn_output", "attention.output.dense"],
    ["attn_output_norm", "attention.output.LayerNorm"],
    ["ffn_up", "intermediate.dense"],
    ["ffn_down", "output.dense"],
    ["layer_output_norm", "output.LayerNorm"],
];

/// Settings: their names here and there.
const SETTINGS: &[[&str; 2]] = &[
    ["block_count", "num_hidden_layers"],
    ["context_length", "max_position_embeddings"],
    ["embedding_length", "hidden_size"],
    ["feed_forward_length", "intermediate_size"],
    ["attention.head_count", "num_attention_heads"],
    ["attention.head_count_kv", "num_key_value_heads"],
    ["attention.key_length", "head_dim"],
    ["attention.layer_norm_rms_epsilon", "rms_norm_eps"],
    ["attention.layer_norm_epsilon", "layer_norm_epsilon"],
    ["attention.sliding_window", "sliding_window"],
    ["attention.scale", "attention_multiplier"],
    ["embedding_scale", "embedding_multiplier"],
    ["residual_scale", "residual_multiplier"],
    ["logit_scale", "logits_scaling"],
    ["attn_logit_softcapping", "attn_logit_softcapping"],
    ["final_logit_softcapping", "final_logit_softcapping"],
    ["rope.freq_base", "rope_theta"],
    ["rope.freq_base_swa", "rope_local_base_freq"],
    ["rope.scaling.original_context_length", "original_max_position_embeddings"],
    ["expert_count", "num_experts"],
    ["expert_used_count", "num_experts_per_tok"],
    ["expert_feed_forward_length", "moe_intermediate_size"],
    ["expert_shared_feed_forward_length", "shared_expert_intermediate_size"],
    ["use_parallel_residual", "use_parallel_residual"],
    ["shortconv.l_cache", "conv_L_cache"],
    ["ssm.conv_kernel", "linear_conv_kernel_dim"],
    ["ssm.state_size", "linear_key_head_dim"],
    ["ssm.group_count", "linear_num_key_heads"],
    ["ssm.time_step_rank", "linear_num_value_heads"],
];

/// What a miniature was before.
struct Row {
    name: &'static str,
    class: &'static str,
    /// Names that differ from [`NAMES`].
    names: &'static [&'static [[&'static str; 2]]],
    /// Whether gains of norms were stored less one.
    less_one: bool,
    /// What tells more than the model file does.
    more: fn(&mut Json),
    /// Metadata that differ: those of the miniatures' tokenizers were written by hand.
    differs: &'static [&'static str],
}

const fn row(name: &'static str, class: &'static str) -> Row {
    Row { name, class, names: &[], less_one: false, more: |_| (), differs: &[] }
}

const GEMMA: Row = Row { names: &[BETWEEN], less_one: true, ..row("", "") };
const PHI3: Row = Row { names: &[FUSED], differs: &["tokenizer.ggml.add_space_prefix"], ..row("", "Phi3ForCausalLM") };
const STABLELM: Row =
    Row { names: &[NORMS], more: |c| c["partial_rotary_factor"] = json!(0.25), ..row("", "StableLmForCausalLM") };

const ROWS: &[Row] = &[
    row("qwen2", "Qwen2ForCausalLM"),
    row("qwen3", "Qwen3ForCausalLM"),
    row("smollm3", "SmolLM3ForCausalLM"),
    Row {
        more: |c| c["rope_scaling"] = json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}),
        ..row("qwen2-yarn", "Qwen2ForCausalLM")
    },
    Row {
        // Those of the miniature are not in its file: these give its divisors.
        more: |c| {
            c["rope_parameters"] = json!({
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64, "rope_theta": 500000.0
            });
        },
        ..row("llama-rope3", "LlamaForCausalLM")
    },
    Row {
        more: |c| {
            c["rope_scaling"] = json!({"rope_type": "yarn", "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0});
        },
        ..row("llama-yarn", "LlamaForCausalLM")
    },
    Row {
        more: |c| c["rope_scaling"] = json!({"rope_type": "linear", "factor": 4.0}),
        ..row("llama-linear", "LlamaForCausalLM")
    },
    row("granite", "GraniteForCausalLM"),
    Row { less_one: true, differs: &["tokenizer.ggml.eot_token_id"], ..row("gemma", "GemmaForCausalLM") },
    Row { name: "gemma2", class: "Gemma2ForCausalLM", ..GEMMA },
    Row { name: "gemma3", class: "Gemma3ForCausalLM", ..GEMMA },
    Row { names: &[BARE, BETWEEN], name: "gemma-embedding", class: "Gemma3TextModel", ..GEMMA },
    Row { name: "phi3", ..PHI3 },
    Row {
        name: "phi3-longrope",
        more: |c| {
            c["partial_rotary_factor"] = json!(0.75);
            c["rope_scaling"] = json!({"type": "longrope", "long_factor": c["long"], "short_factor": c["short"]});
        },
        ..PHI3
    },
    row("olmo2", "Olmo2ForCausalLM"),
    row("olmo3", "Olmo3ForCausalLM"),
    Row { name: "stablelm", ..STABLELM },
    Row { name: "stablelm-parallel", ..STABLELM },
    Row { names: &[UNGATED], ..row("starcoder2", "Starcoder2ForCausalLM") },
    Row {
        names: &[GPT2],
        more: |c| c["n_positions"] = c["max_position_embeddings"].take(),
        ..row("gpt2", "GPT2LMHeadModel")
    },
    Row {
        names: &[LFM2],
        more: |c| {
            c["layer_types"] = json!(["conv", "full_attention", "conv", "full_attention"]);
            c["block_auto_adjust_ff_dim"] = json!(false);
        },
        ..row("lfm2", "Lfm2ForCausalLM")
    },
    Row {
        names: &[QWEN35],
        less_one: true,
        more: |c| {
            let [linear, full] = ["linear_attention", "full_attention"];
            c["layer_types"] = json!([linear, linear, linear, full]);
            c["linear_value_head_dim"] = json!(32);
            let turned = json!({"partial_rotary_factor": 0.25, "mrope_section": [2, 1, 1], "rope_theta": 1e6});
            c["rope_parameters"] = turned;
            *c = json!({"architectures": c["architectures"].take(), "hidden_size": 1, "text_config": c.take()});
        },
        ..row("qwen35", "Qwen3_5ForConditionalGeneration")
    },
    row("qwen2moe", "Qwen2MoeForCausalLM"),
    row("qwen3moe", "Qwen3MoeForCausalLM"),
    row("olmoe", "OlmoeForCausalLM"),
    Row {
        names: &[BERT],
        more: |c| c["type_vocab_size"] = json!(2),
        differs: &["tokenizer.ggml.pre", "tokenizer.ggml.token_type", "tokenizer.ggml.cls_token_id"],
        ..row("bert", "BertModel")
    },
];

fn split(letters: &str, others: &str, digits: &str) -> Json {
    let regex = format!(
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{{L}}\\p{{N}}]?{letters}+|{digits}| ?[^\\s{others}\\p{{N}}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
    );
    json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated"}, {"type": "ByteLevel"}
    ]})
}

fn cutting(pre: &str) -> (Json, bool) {
    let plain = |digits: &str| split("\\p{L}", "\\p{L}", digits);
    match pre {
        "qwen2" | "stablelm2" => (plain("\\p{N}"), false),
        "qwen35" => (split("[\\p{L}\\p{M}]", "\\p{L}\\p{M}", "\\p{N}"), false),
        "llama-bpe" | "lfm2" => (plain("\\p{N}{1,3}"), true),
        "smaug-bpe" | "dbrx" => (plain("\\p{N}{1,3}"), false),
        "refact" | "starcoder" => {
            let digits = json!({"type": "Digits", "individual_digits": true});
            (json!({"type": "Sequence", "pretokenizers": [digits, {"type": "ByteLevel"}]}), false)
        }
        "gpt-2" | "olmo" => (json!({"type": "ByteLevel"}), false),
        other => panic!("{other}"),
    }
}

/// A field of a protocol buffer.
fn field(number: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(number << 3 | 2);
    let mut n = bytes.len();
    while n > 0x7f {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out.extend(bytes);
}

/// A vocabulary of SentencePiece: spellings, scores and kinds.
fn sentencepiece(pieces: &[(&str, f32, u8)], method: u8) -> Vec<u8> {
    let mut out = Vec::new();
    for (text, score, kind) in pieces {
        let mut piece = Vec::new();
        field(1, text.as_bytes(), &mut piece);
        piece.push(2 << 3 | 5);
        piece.extend(score.to_le_bytes());
        piece.extend([3 << 3, *kind]);
        field(1, &piece, &mut out);
    }
    field(2, &[3 << 3, method], &mut out);
    out
}

/// The vocabulary of a file.
struct Words<'a> {
    texts: Vec<&'a str>,
    kinds: Vec<i32>,
    scores: Vec<f32>,
}

impl<'a> Words<'a> {
    fn new(file: &'a Gguf) -> Self {
        let texts: Vec<&str> = file.strings("tokenizer.ggml.tokens").unwrap().unwrap().collect();
        let kinds = file.i32s("tokenizer.ggml.token_type").unwrap().unwrap().collect();
        let scores = file.f32s("tokenizer.ggml.scores").unwrap().map_or(Vec::new(), Iterator::collect);
        Words { texts, kinds, scores }
    }

    fn pieces(&self) -> Vec<(&'a str, f32, u8)> {
        (0..self.texts.len()).map(|i| (self.texts[i], self.scores[i], self.kinds[i] as u8)).collect()
    }

    /// Tokens of one kind and their numbers, spelled anew.
    fn normal(&self, spelled: impl Fn(&str) -> String) -> serde_json::Map<String, Json> {
        (0..self.texts.len()).filter(|i| self.kinds[*i] == 1).map(|i| (spelled(self.texts[i]), i.into())).collect()
    }

    fn added(&self) -> Vec<Json> {
        let not_normal = (0..self.texts.len()).filter(|i| ![1, 6].contains(&self.kinds[*i]));
        not_normal
            .map(|i| json!({"id": i, "content": self.texts[i], "special": self.kinds[i] != 4, "normalized": false}))
            .collect()
    }
}

/// Writes the tokenizer of a miniature.
fn write_tokenizer(folder: &Path, file: &Gguf, config: &mut Json, parts: usize) {
    let words = Words::new(file);
    let put = |name: &str, json: Json| fs::write(folder.join(name), json.to_string()).unwrap();
    let id = |name: &str| file.u32(&format!("tokenizer.ggml.{name}_token_id")).unwrap();
    let token = |name: &str| id(name).map(|id| words.texts[id as usize]);
    let flag = |name: &str| file.bool(&format!("tokenizer.ggml.{name}")).unwrap();
    let mut tokenizer_config = json!({
        "bos_token": token("bos"), "eos_token": {"content": token("eos")}, "pad_token": token("padding"),
        "unk_token": token("unknown"), "sep_token": token("seperator"), "cls_token": token("cls"), "mask_token": token("mask"),
        "add_bos_token": flag("add_bos_token"), "add_eos_token": flag("add_eos_token"),
        "add_prefix_space": flag("add_space_prefix"),
    });
    tokenizer_config.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    put("tokenizer_config.json", tokenizer_config);
    match file.require_string("tokenizer.ggml.model").unwrap() {
        "llama" => {
            fs::write(folder.join("tokenizer.model"), sentencepiece(&words.pieces(), 2)).unwrap();
            for (key, role) in [("bos", "bos"), ("eos", "eos"), ("unk", "unknown")] {
                config[format!("{key}_token_id")] = id(role).into();
            }
        }
        "bert" => {
            let part = |text: &str| text.strip_prefix('\u{2581}').map_or(format!("##{text}"), String::from);
            put(
                "tokenizer.json",
                json!({
                    "added_tokens": words.added(), "model": {"type": "WordPiece", "vocab": words.normal(part)},
                }),
            );
        }
        _ => {
            let merges: Vec<&str> = file.strings("tokenizer.ggml.merges").unwrap().unwrap().collect();
            // Old files have texts, newer ones pairs.
            let merges: Json = match parts {
                1 => merges.into(),
                _ => merges.iter().map(|m| m.split(' ').collect::<Vec<_>>()).collect::<Vec<_>>().into(),
            };
            let (cut, whole) = cutting(file.require_string("tokenizer.ggml.pre").unwrap());
            put(
                "tokenizer.json",
                json!({
                    "added_tokens": words.added(), "pre_tokenizer": cut,
                    "model": {"type": "BPE", "ignore_merges": whole, "vocab": words.normal(|text| text.into()), "merges": merges},
                }),
            );
        }
    }
}

/// A tensor of a folder: its name, its shape, its values.
type New = (String, Vec<usize>, Vec<f32>);

/// What a tensor of a miniature was before.
fn before(row: &Row, file: &Gguf, name: &str, dims: &[usize], mut values: Vec<f32>) -> Vec<New> {
    let arch = file.require_string("general.architecture").unwrap();
    let key = |name: &str| file.u64(&format!("{arch}.{name}")).unwrap().unwrap() as usize;
    let (path, suffix) = name.rsplit_once('.').unwrap();
    let (block, own) = match path.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
        Some((layer, own)) => (Some(layer), own),
        None => (None, path),
    };
    let begin = match (block, row.class) {
        (None, _) => String::new(),
        (Some(layer), "GPT2LMHeadModel") => format!("transformer.h.{layer}."),
        (Some(layer), "BertModel") => format!("encoder.layer.{layer}."),
        (Some(layer), "Gemma3TextModel") => format!("layers.{layer}."),
        (Some(layer), _) => format!("model.layers.{layer}."),
    };
    let mut dims = dims.to_vec();
    // Rows in another order: row `i` comes from `from(i)`.
    let reorder = |values: &mut Vec<f32>, rows: usize, from: &dyn Fn(usize) -> usize| {
        let (old, cols) = (values.clone(), values.len() / rows);
        (0..rows).for_each(|i| values[i * cols..][..cols].copy_from_slice(&old[from(i) * cols..][..cols]));
    };
    let heads = match own {
        "attn_q" => "attention.head_count",
        "attn_k" => "attention.head_count_kv",
        _ => "",
    };
    if ["llama", "smollm3", "granite"].contains(&arch) && !heads.is_empty() {
        let width = dims[0] / key(heads);
        reorder(&mut values, dims[0], &|row| mynah::adapter::gguf_row(row, width));
    }
    if row.less_one && path.ends_with("norm") && own != "ssm_norm" {
        values.iter_mut().for_each(|v| *v -= 1.0);
    }
    if arch == "gpt2" && suffix == "weight" && dims.len() == 2 && block.is_some() {
        let [rows, cols] = [dims[0], dims[1]];
        values = (0..rows * cols).map(|i| values[i % rows * cols + i / rows]).collect();
        dims.reverse();
    }
    if arch == "qwen35" {
        let (groups, all, wide) = (key("ssm.group_count"), key("ssm.time_step_rank"), key("ssm.state_size"));
        let per = all / groups;
        // Head `h` of values is the one of its place in its group here.
        let new = |i: usize, width: usize| {
            let head = i / width;
            (head % per * groups + head / per) * width + i % width
        };
        let first = 2 * groups * wide;
        match own {
            "attn_qkv" | "ssm_conv1d" if block.is_some() && dims[0] > first => {
                reorder(&mut values, dims[0], &|i| i.checked_sub(first).map_or(i, |i| new(i, wide) + first));
            }
            "attn_gate" => reorder(&mut values, dims[0], &|i| new(i, wide)),
            "ssm_alpha" | "ssm_beta" | "ssm_dt" => reorder(&mut values, all, &|i| new(i, 1)),
            "ssm_out" => {
                let cols = dims[1];
                values.chunks_mut(cols).for_each(|row| {
                    let old = row.to_vec();
                    (0..cols).for_each(|i| row[i] = old[new(i, wide)]);
                });
            }
            _ => {}
        }
        if name.ends_with("ssm_a") {
            reorder(&mut values, all, &|i| new(i, 1));
            values.iter_mut().for_each(|v| *v = f64::from(-*v).ln() as f32);
            return vec![(
                format!("model.layers.{}.linear_attn.A_log", path.strip_prefix("blk.").unwrap()),
                dims,
                values,
            )];
        }
        if own == "ssm_dt" {
            return vec![(format!("{begin}linear_attn.dt_bias"), dims, values)];
        }
    }
    if own.contains("conv") && dims.len() == 2 && !own.contains("proj") {
        dims.insert(1, 1);
    }
    let names = row.names.iter().copied().flatten().chain(NAMES);
    let there = names.copied().find(|[gguf, _]| *gguf == own).unwrap_or_else(|| panic!("{name}"))[1];
    if !there.contains('#') {
        return vec![(format!("{begin}{there}.{suffix}"), dims, values)];
    }
    let parts = dims.remove(0);
    let part = |i: usize| format!("{begin}{}.{suffix}", there.replace('#', &i.to_string()));
    let size = values.len() / parts;
    (0..parts).map(|i| (part(i), dims.clone(), values[i * size..][..size].to_vec())).collect()
}

/// Writes the folder that a miniature came from, its weights in that many files.
fn write(folder: &Path, file: &Gguf, row: &Row, parts: usize) {
    let arch = file.require_string("general.architecture").unwrap();
    let mut config = json!({"architectures": [row.class]});
    for [here, there] in SETTINGS {
        match file.get(&format!("{arch}.{here}")) {
            Some(Value::Array(all)) => {
                config[there] = all.values().filter_map(|v| v.integer()).max().map(|n| n as u64).into()
            }
            Some(Value::Bool(flag)) => config[there] = (*flag).into(),
            Some(value) => config[there] = serde_json::from_str(&value.to_string()).unwrap(),
            None => {}
        }
    }
    config["vocab_size"] = Words::new(file).texts.len().into();
    if let Some(window) = file.get("olmo2.attention.sliding_window_pattern") {
        let Value::Array(all) = window else { panic!() };
        let kinds = all.values().map(|v| if v.to_string() == "true" { "sliding_attention" } else { "full_attention" });
        config["layer_types"] = kinds.collect::<Vec<_>>().into();
    }
    for (key, name) in [("long", "rope_factors_long.weight"), ("short", "rope_factors_short.weight")] {
        if file.tensor(name).is_some() {
            config[key] = file.vector(name).unwrap().into();
        }
    }
    if let Some(kind) = file.u32(&format!("{arch}.pooling_type")).unwrap() {
        let (word, pooling) =
            ([("mean", 1), ("cls", 2)].into_iter().find(|(_, n)| *n == kind).unwrap().0, folder.join("1_Pooling"));
        let modules =
            json!([{"type": "models.Transformer", "path": ""}, {"type": "models.Pooling", "path": "1_Pooling"}]);
        fs::write(folder.join("modules.json"), modules.to_string()).unwrap();
        fs::create_dir(&pooling).unwrap();
        fs::write(pooling.join("config.json"), json!({"pooling_mode": word}).to_string()).unwrap();
    }
    write_tokenizer(folder, file, &mut config, parts);
    (row.more)(&mut config);
    fs::write(folder.join("config.json"), config.to_string()).unwrap();

    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for tensor in file.tensors().iter().filter(|t| !t.name.starts_with("rope_")) {
        let data = file.data(tensor).unwrap();
        let values = data.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let dims: Vec<usize> = tensor.dims().iter().rev().map(|d| *d as usize).collect();
        for (name, dims, values) in before(row, file, &tensor.name, &dims, values) {
            tensors.push((name, dims, values.iter().flat_map(|v| v.to_le_bytes()).collect()));
        }
    }
    tensors.sort();
    let mut index = serde_json::Map::new();
    for (i, some) in tensors.chunks(tensors.len().div_ceil(parts)).enumerate() {
        let views = some.iter().map(|(n, d, b)| (n, TensorView::new(Dtype::F32, d.clone(), b).unwrap()));
        let bytes = serialize(views, None).unwrap();
        let name = match parts {
            1 => "model.safetensors".to_string(),
            _ => format!("model-{:05}-of-{parts:05}.safetensors", i + 1),
        };
        some.iter().for_each(|(n, ..)| _ = index.insert(n.clone(), name.clone().into()));
        fs::write(folder.join(name), bytes).unwrap();
    }
    if parts > 1 {
        fs::write(folder.join("model.safetensors.index.json"), json!({"weight_map": index}).to_string()).unwrap();
    }
}

fn convert(folder: &Path, to: Option<&str>) -> mynah::Result<Gguf> {
    let mut out = Vec::new();
    let to = to.map(|to| Mix::by_name(to).unwrap());
    Folder::open(folder, &Limits::default())?.convert(to, Some("mini"), &compute(), &mut out, &mut |_| ())?;
    Ok(Gguf::parse(Bytes::from(out), &Limits::default()).unwrap())
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => a.kind() == b.kind() && a.data()[..] == b.data()[..],
        _ => a.kind() == b.kind() && a.to_string() == b.to_string(),
    }
}

fn miniature(name: &str) -> Gguf {
    Gguf::open(&shared().join(format!("models/arch/tiny64-{name}-f32.gguf")), &Limits::default()).unwrap()
}

/// Rebuilds the folder of a miniature and converts it back.
fn comes_back(row: &Row) {
    let (name, want) = (row.name, miniature(row.name));
    for parts in [1, 3] {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &want, row, parts);
        let found = convert(dir.path(), None).unwrap_or_else(|e| panic!("{name}: {e}"));
        // What the converter guesses from names.
        let left = ["general.name", "general.version", "general.basename"];
        let pairs = |file: &Gguf| -> Vec<(String, Value)> {
            let kept = file.ordered_pairs().filter(|(key, _)| !left.contains(key) && !row.differs.contains(key));
            kept.map(|(key, value)| (key.to_string(), value.clone())).collect()
        };
        let (mut a, mut b) = (pairs(&want), pairs(&found));
        if want.string("tokenizer.ggml.pre").unwrap() == Some("default") {
            // These tokenizers were written by hand, in another order.
            let at = |(key, _): &(String, Value)| {
                if key.starts_with("tokenizer.") { key.clone() } else { String::new() }
            };
            a.sort_by_key(at);
            b.sort_by_key(at);
        }
        let keys = |pairs: &[(String, Value)]| pairs.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>();
        assert_eq!(keys(&b), keys(&a), "{name}");
        for ((key, a), (_, b)) in a.iter().zip(&b) {
            assert!(same(a, b), "{name}: {key} is {b}, wanted {a}");
        }
        let tensors = |file: &Gguf| file.tensors().iter().map(|t| format!("{t:?}")).collect::<Vec<_>>();
        assert_eq!(tensors(&found), tensors(&want), "{name}");
        for (tensor, own) in want.tensors().iter().zip(found.tensors()) {
            let (a, b) = (want.data(tensor).unwrap(), found.data(own).unwrap());
            if tensor.name.ends_with("ssm_a") {
                // Logarithms and back.
                let values = |bytes: &[u8]| {
                    bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect::<Vec<_>>()
                };
                assert!(values(&a).iter().zip(values(&b)).all(|(a, b)| (a - b).abs() <= 4e-7 * a.abs()), "{name}");
                continue;
            }
            assert!(a[..] == b[..], "{name}: bytes of {}", tensor.name);
        }
    }
}

#[needs_shared]
#[test]
fn miniatures_become_what_llama_cpp_made_of_them() {
    ROWS.iter().for_each(comes_back);
    // All of them, and all architectures.
    let arches: BTreeSet<&str> = FAMILIES.iter().map(|family| family.architecture).collect();
    assert!(ARCHES.iter().all(|arch| arches.contains(arch.name)));
    let found: BTreeSet<String> =
        ROWS.iter().map(|row| miniature(row.name).require_string("general.architecture").unwrap().into()).collect();
    assert!(arches.iter().all(|arch| found.contains(*arch)));
}

/// Lengths of headers whose first bytes are those of pickles.
#[test]
fn a_header_of_any_length_is_no_pickle() {
    for length in [0x280_usize, 0x380, 0x480, 0x580, 0x10280] {
        let mut file = (length as u64).to_le_bytes().to_vec();
        file.extend(br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#);
        file.resize(8 + length, b' ');
        file.extend([0; 4]);
        let parsed = Safetensors::parse(Bytes::from(file.clone()), &Limits::default());
        assert_eq!(parsed.unwrap().tensors().len(), 1, "{length}");
        let e = Gguf::parse(Bytes::from(file), &Limits::default()).err().unwrap();
        assert!(e.to_string().contains("safetensors; convert the folder"), "{length}: {e}");
    }
}

/// Pairs of tokens that make tokens, those with the highest scores first: what tokenizers of Hugging Face keep of scores.
fn merges(words: &Words) -> Vec<[String; 2]> {
    let known: BTreeSet<&str> = words.texts.iter().copied().collect();
    let mut found = Vec::new();
    for (i, text) in words.texts.iter().enumerate().filter(|(i, _)| words.kinds[*i] == 1) {
        for at in (1..text.len()).filter(|at| text.is_char_boundary(*at)) {
            let (a, b) = text.split_at(at);
            if known.contains(a) && known.contains(b) {
                found.push((words.scores[i], [a.to_string(), b.to_string()]));
            }
        }
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    found.into_iter().map(|(_, pair)| pair).collect()
}

#[needs_shared]
#[test]
fn scores_of_tokens_follow_from_their_merges() {
    let file = miniature("gemma3");
    let (words, dir) = (Words::new(&file), tempfile::tempdir().unwrap());
    write(dir.path(), &file, ROWS.iter().find(|row| row.name == "gemma3").unwrap(), 1);
    fs::remove_file(dir.path().join("tokenizer.model")).unwrap();
    let vocab: serde_json::Map<String, Json> =
        (0..).zip(&words.texts).map(|(i, text)| (text.to_string(), i.into())).collect();
    let tokenizer = json!({
        "added_tokens": words.added(),
        "model": {"type": "BPE", "byte_fallback": true, "unk_token": "<unk>", "vocab": vocab, "merges": merges(&words)},
    });
    fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let [was, is] = [file, convert(dir.path(), None).unwrap()].map(|file| Tokenizer::from_gguf(&file).unwrap());
    let how = Encode { add_special: true, parse_special: false };
    for text in
        ["Once upon a time, there was a little girl.", "  two  spaces\n\nand 17 lines", "naïve 鸚鵡 \u{1f99c}", ""]
    {
        assert_eq!(is.encode(text, &how).unwrap(), was.encode(text, &how).unwrap(), "{text}");
    }
}

type Is = fn(&Error) -> bool;
type Harm = Box<dyn Fn(&Path)>;

/// Changes a file of JSON.
fn change(name: &'static str, change: fn(&mut Json)) -> impl Fn(&Path) {
    move |folder: &Path| {
        let path = folder.join(name);
        let mut json: Json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut json);
        fs::write(path, json.to_string()).unwrap();
    }
}

#[needs_shared]
#[test]
fn what_other_classes_lack_is_named() {
    let config = |harm: fn(&mut Json)| -> Harm { Box::new(change("config.json", harm)) };
    let pieces = |bytes: Vec<u8>| -> Harm { Box::new(move |f| fs::write(f.join("tokenizer.model"), &bytes).unwrap()) };
    let whole = sentencepiece(&[("<unk>", 0.0, 2), ("a", -1.0, 1)], 2);
    let cut = whole[..whole.len() - 1].to_vec();
    let rows: [(&str, &str, Harm, &str, &str); 25] = [
        ("gemma3", "S1 a vocabulary that is cut off", pieces(cut), "corrupt", "tokenizer.model"),
        ("gemma3", "S2 an empty vocabulary", pieces(Vec::new()), "corrupt", "no pieces"),
        (
            "gemma3",
            "S3 a vocabulary without merges",
            pieces(sentencepiece(&[("a", 0.0, 1)], 1)),
            "unsupported",
            "unigram",
        ),
        ("gemma3", "S4 a piece of no kind", pieces(sentencepiece(&[("a", 0.0, 9)], 2)), "corrupt", "kind 9"),
        ("gemma3", "S5 a score that is no number", pieces(sentencepiece(&[("a", f32::NAN, 1)], 2)), "corrupt", "score"),
        ("gemma3", "S6 a length beyond the file", pieces(vec![10, 255, 255, 255, 255, 15]), "corrupt", "cut off"),
        (
            "gemma3",
            "S7 a number without end",
            pieces(vec![10; 1].into_iter().chain([255; 12]).collect()),
            "corrupt",
            "64 bits",
        ),
        ("gemma3", "S8 a field of another kind", pieces(vec![11]), "corrupt", "kind 3"),
        ("gemma3", "S9 a piece that is no text", pieces(vec![10, 4, 10, 2, 255, 255]), "corrupt", "no text"),
        (
            "gemma3",
            "S10 no vocabulary",
            Box::new(|f| fs::remove_file(f.join("tokenizer.model")).unwrap()),
            "unsupported",
            "tokenizer",
        ),
        (
            "gemma3",
            "S11 more tokens than there is room for",
            config(|c| c["vocab_size"] = json!(1_u64 << 40)),
            "limit",
            "tokens",
        ),
        ("gemma3", "C1 blocks", config(|c| c["num_hidden_layers"] = json!(1_u64 << 40)), "limit", "blocks"),
        ("gemma3", "C2 a wide head", config(|c| c["head_dim"] = json!(1_u64 << 40)), "limit", "width of a head"),
        (
            "gemma3",
            "C3 a cap that the class lost",
            config(|c| c["attn_logit_softcapping"] = json!(9.5)),
            "unsupported",
            "softcapping",
        ),
        (
            "gemma2",
            "C4 scaled positions",
            config(|c| c["rope_scaling"] = json!({"rope_type": "linear"})),
            "unsupported",
            "linear",
        ),
        (
            "phi3-longrope",
            "C5 too few factors",
            config(|c| c["rope_scaling"]["long_factor"] = json!([1.0])),
            "mismatch",
            "long_factor",
        ),
        (
            "lfm2",
            "C6 too few kinds of layers",
            config(|c| c["layer_types"] = json!(["conv"])),
            "mismatch",
            "layer_types",
        ),
        ("lfm2", "C7 no taps", config(|c| c["conv_L_cache"] = json!(null)), "mismatch", "conv_L_cache"),
        (
            "qwen35",
            "C8 heads that do not divide",
            config(|c| c["text_config"]["linear_num_value_heads"] = json!(3)),
            "mismatch",
            "heads",
        ),
        ("qwen3moe", "C9 an expert too few", config(|c| c["num_experts"] = json!(7)), "mismatch", "parts of tensor"),
        (
            "stablelm-parallel",
            "C10 a norm too many",
            config(|c| c["num_key_value_heads"] = json!(1)),
            "mismatch",
            "attn_k_norm",
        ),
        (
            "llama-linear",
            "C11 heads that no row has",
            config(|c| c["num_attention_heads"] = json!(5)),
            "mismatch",
            "rows for 5 heads",
        ),
        (
            "llama-linear",
            "C12 names of another class",
            config(|c| c["architectures"] = json!(["GPT2LMHeadModel"])),
            "unsupported",
            "tensors",
        ),
        (
            "bert",
            "P1 another pooling",
            Box::new(change("1_Pooling/config.json", |c| c["pooling_mode"] = json!("max"))),
            "unsupported",
            "pooling",
        ),
        (
            "bert",
            "P2 a pooling elsewhere",
            Box::new(change("modules.json", |m| m[1]["path"] = json!("../up"))),
            "invalid",
            "no folder beside it",
        ),
    ];
    for (name, what, harm, code, word) in rows {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &miniature(name), ROWS.iter().find(|row| row.name == name).unwrap(), 1);
        harm(dir.path());
        let e = convert(dir.path(), None).unwrap_err();
        assert!(e.code() == code && e.to_string().contains(word), "{what}: {e}");
    }
}

#[needs_shared]
#[test]
fn folders_that_do_not_fit_are_named() {
    let file = miniature("qwen2");
    let unsupported: Is = |e| matches!(e, Error::Unsupported { .. });
    let mismatch: Is = |e| matches!(e, Error::Mismatch { .. });
    let rows: [(&str, Harm, Is, &str); 11] = [
        (
            "H1 another class",
            Box::new(change("config.json", |c| c["architectures"] = json!(["T5Model"]))),
            unsupported,
            "T5Model",
        ),
        ("H2 no class", Box::new(change("config.json", |c| c["architectures"] = json!([]))), unsupported, "none"),
        (
            "H3 quantised weights",
            Box::new(change("config.json", |c| c["quantization_config"] = json!({}))),
            unsupported,
            "quantised",
        ),
        (
            "H4 no number of heads",
            Box::new(change("config.json", |c| c["num_attention_heads"] = json!(-1))),
            mismatch,
            "num_attention_heads",
        ),
        (
            "H5 another scaling",
            Box::new(change("config.json", |c| c["rope_scaling"] = json!({"type": "longrope"}))),
            unsupported,
            "longrope",
        ),
        (
            "H6 another tokenizer",
            Box::new(change("tokenizer.json", |t| t["model"]["type"] = json!("Unigram"))),
            unsupported,
            "Unigram",
        ),
        (
            "H7 another cutting",
            Box::new(change("tokenizer.json", |t| t["pre_tokenizer"] = json!({"type": "Metaspace"}))),
            unsupported,
            "Metaspace",
        ),
        (
            "H8 an id beyond the vocabulary",
            Box::new(change("config.json", |c| c["vocab_size"] = json!(9))),
            mismatch,
            "ids below 9",
        ),
        (
            "H9 a part that is missing",
            Box::new(|f| fs::remove_file(f.join("model-00002-of-00003.safetensors")).unwrap()),
            |e| matches!(e, Error::Io { .. }),
            "no such file",
        ),
        (
            "H10 a part that is cut",
            Box::new(|f| {
                let path = f.join("model-00002-of-00003.safetensors");
                let bytes = fs::read(&path).unwrap();
                fs::write(path, &bytes[..bytes.len() - 9]).unwrap();
            }),
            |e| matches!(e, Error::Corrupt { .. }),
            "00002",
        ),
        (
            "H11 an index of a file elsewhere",
            Box::new(change("model.safetensors.index.json", |i| i["weight_map"]["x"] = json!("../a.safetensors"))),
            |e| matches!(e, Error::Invalid { .. }),
            "no file beside it",
        ),
    ];
    for (what, harm, is, word) in rows {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &file, &ROWS[0], 3);
        harm(dir.path());
        let e = convert(dir.path(), None).unwrap_err();
        assert!(is(e.inner()) && e.to_string().contains(word), "{what}: {e}");
    }
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &file, &ROWS[0], 1);
    let e = convert(dir.path(), Some("Q4_0")).unwrap_err();
    assert!(matches!(e, Error::Invalid { .. }), "{e}");
    assert_eq!(convert(dir.path(), Some("F16")).unwrap().tensor("token_embd.weight").unwrap().format.name, "F16");
    // The command does the same, and where no model can be made of a folder the earlier file stays.
    let run = |line: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_mynah"));
        let out = command.args(line).current_dir(dir.path().parent().unwrap()).output().unwrap();
        (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (folder, model) = (dir.path().to_str().unwrap().to_string(), tempfile::tempdir().unwrap());
    let model = model.path().join("m.gguf").to_str().unwrap().to_string();
    let (done, said) = run(&["convert", &folder, &model, "--type", "BF16", "--name", "Mini"]);
    assert!(done, "{said}");
    let named = Gguf::open(Path::new(&model), &Limits::default()).unwrap();
    assert_eq!(named.string("general.name").unwrap(), Some("Mini"));
    assert_eq!(named.tensor("token_embd.weight").unwrap().format.name, "BF16");
    for option in ["--type=f16", "--name=Mini"] {
        let (done, said) = run(&["convert", &model, "other.gguf", option]);
        assert!(!done && said.contains("for a folder of a model"), "{said}");
    }
    let (done, said) = run(&["convert", &folder, &model, "--force"]);
    assert!(done, "{said}");
    let before = std::fs::read(&model).unwrap();
    change("config.json", |c| c["hidden_size"] = json!(128))(dir.path());
    let (done, said) = run(&["convert", &folder, &model, "--force"]);
    assert!(!done && std::fs::read(&model).unwrap() == before, "{said}");
    let beside = std::fs::read_dir(Path::new(&model).parent().unwrap()).unwrap().count();
    assert_eq!(beside, 1, "what was written is gone: {said}");
}
