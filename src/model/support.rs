//! What is known of each architecture: whose models it opens, what works, and what proves it. `mynah models` prints this
//! table, the README shows it, and a test compares its proofs with the reference files.

use std::prelude::v1::*;

/// One row of [`SUPPORT`].
pub struct Support {
    /// The name of a row of [`ARCHES`](super::ARCHES).
    pub arch: &'static str,
    /// Models of it that people have.
    pub models: &'static str,
    /// What it computes: `text` or `embeddings`.
    pub run: &'static str,
    /// What can be trained: kinds of adapters, or nothing.
    pub train: &'static str,
    /// Published chat templates of its models whose conversations are those of Hugging Face.
    pub chat: &'static [&'static str],
    /// Reference models whose logits are llama.cpp's.
    pub logits: &'static [&'static str],
    /// Reference models whose LoRA training is PEFT's.
    pub training: &'static [&'static str],
}

impl Support {
    /// The templates as text.
    pub fn chat_cell(&self) -> String {
        self.chat.join(", ")
    }

    /// What proves it, as text.
    pub fn proof_cell(&self) -> String {
        let what = if self.run == ENCODER.run { "embeddings" } else { "logits" };
        let parts = [(what, self.logits), ("training", self.training)];
        let parts = parts.iter().filter(|part| !part.1.is_empty());
        parts.map(|(what, names)| format!("{what} of {}", names.join(", "))).collect::<Vec<_>>().join("; ")
    }
}

/// A decoder that runs and learns.
const DECODER: Support =
    Support { arch: "", models: "", run: "text", train: "all kinds", chat: &[], logits: &[], training: &[] };

/// A mixture of experts, which are frozen. `parallel` and half of `mam` stand beside a feed-forward layer, and here all are
/// experts.
const MIXTURE: Support = Support { train: "adapters but parallel and mam, not on experts", ..DECODER };

/// A model that makes embeddings of texts.
const ENCODER: Support = Support { run: "embeddings", train: "all kinds", ..DECODER };

/// A row for each architecture.
pub static SUPPORT: &[Support] = &[
    Support {
        arch: "llama",
        models: "SmolLM2, TinyLlama, Llama 2 and 3.x, Mistral 7B and Nemo, Falcon3",
        chat: &["mistral-nemo", "smollm2"],
        logits: &["llama-linear", "llama-rope3", "llama-yarn"],
        training: &["llama-rope3"],
        ..DECODER
    },
    Support {
        arch: "qwen2",
        models: "Qwen2.5, QwQ, DeepSeek-R1-Distill-Qwen",
        chat: &["deepseek-r1-qwen", "qwen2.5", "qwq"],
        logits: &["qwen2", "qwen2-yarn"],
        training: &["qwen2"],
        ..DECODER
    },
    Support { arch: "qwen3", models: "Qwen3", chat: &["qwen3"], logits: &["qwen3"], training: &["qwen3"], ..DECODER },
    Support { arch: "gemma", models: "Gemma", logits: &["gemma"], ..DECODER },
    Support { arch: "gemma2", models: "Gemma 2", logits: &["gemma2"], ..DECODER },
    Support { arch: "gemma3", models: "Gemma 3, text", logits: &["gemma3"], training: &["gemma3"], ..DECODER },
    Support {
        arch: "phi3",
        models: "Phi-3, Phi-3.5-mini, Phi-4-mini",
        chat: &["phi-3", "phi-3.5"],
        logits: &["phi3", "phi3-longrope"],
        training: &["phi3"],
        ..DECODER
    },
    Support { arch: "smollm3", models: "SmolLM3", chat: &["smollm3"], logits: &["smollm3"], ..DECODER },
    Support {
        arch: "granite",
        models: "Granite 3.x and 4.x, dense",
        chat: &["granite-3.3", "granite-4.0"],
        logits: &["granite"],
        ..DECODER
    },
    Support { arch: "olmo2", models: "OLMo 2 and 3", logits: &["olmo2", "olmo3"], ..DECODER },
    Support { arch: "stablelm", models: "StableLM 2", logits: &["stablelm", "stablelm-parallel"], ..DECODER },
    Support { arch: "starcoder2", models: "StarCoder2", logits: &["starcoder2"], ..DECODER },
    Support { arch: "gpt2", models: "GPT-2", logits: &["gpt2"], ..DECODER },
    Support { arch: "lfm2", models: "LFM2, LFM2.5", logits: &["lfm2"], ..DECODER },
    Support { arch: "qwen35", models: "Qwen3.5, dense, text", chat: &["qwen3.5"], logits: &["qwen35"], ..DECODER },
    Support {
        arch: "qwen2moe",
        models: "Qwen1.5-MoE-A2.7B",
        train: "adapters, not on experts",
        logits: &["qwen2moe"],
        ..MIXTURE
    },
    Support { arch: "qwen3moe", models: "Qwen3-30B-A3B", logits: &["qwen3moe"], ..MIXTURE },
    Support { arch: "olmoe", models: "OLMoE-1B-7B", logits: &["olmoe"], ..MIXTURE },
    Support { arch: "bert", models: "MiniLM, bge", logits: &["bert"], ..ENCODER },
    Support { arch: "gemma-embedding", models: "EmbeddingGemma", logits: &["gemma-embedding"], ..ENCODER },
];

/// What is known of a system.
pub struct Platform {
    /// The system.
    pub name: &'static str,
    /// What was tried on it.
    pub state: &'static str,
}

/// A row for each system; docs/boards.md says more.
pub static PLATFORMS: &[Platform] = &[
    Platform { name: "Linux on x86-64", state: "developed, tested and measured" },
    Platform {
        name: "Linux on 64-bit Arm: Raspberry Pi 3 to 5 and others",
        state: "builds; kernels are tested under emulation, not on hardware",
    },
    Platform { name: "WebAssembly", state: "runs and trains; tested in Node and Chromium" },
    Platform { name: "no system (`no_std`)", state: "the library builds" },
    Platform { name: "macOS, Windows, Android, iOS", state: "not tried yet" },
];
