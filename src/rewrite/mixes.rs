//! The types of files: a format, and which tensors get another one. The rules are llama.cpp's (`llama-quant.cpp`,
//! 0.5.0-dev), for the types that this build writes.

use super::block;
use crate::error::{Error, Result};
use crate::gguf::{Gguf, Tensor};
use crate::quant::Format;
use std::prelude::v1::*;

/// A type of files.
#[derive(Debug)]
pub struct Mix {
    /// llama.cpp's name for it.
    pub name: &'static str,
    /// Its number in the key `general.file_type`.
    pub file_type: u32,
    /// The format of most matrices.
    pub format: &'static str,
    /// The format of sensitive ones, and which these are.
    more: Option<(&'static str, More)>,
    /// A short description.
    pub about: &'static str,
}

/// Which matrices of values and down projections get more bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum More {
    /// Those of the first and of the last eighth of the blocks, and of each third one between.
    Some,
    /// Values of the first four blocks, down projections of the first eighth.
    First,
}

const fn mix(name: &'static str, file_type: u32, format: &'static str, about: &'static str) -> Mix {
    Mix { name, file_type, format, more: None, about }
}

/// Every type of files that can be written.
pub static MIXES: &[Mix] = &[
    mix("F32", 0, "F32", "32 bits a weight, exact"),
    mix("F16", 1, "F16", "16 bits a weight"),
    mix("BF16", 32, "BF16", "16 bits a weight, with the range of F32"),
    mix("Q8_0", 7, "Q8_0", "8.5 bits a weight, nearly as F16"),
    mix("Q6_K", 18, "Q6_K", "6.6 bits a weight"),
    Mix { more: Some(("Q6_K", More::Some)), ..mix("Q5_K_M", 17, "Q5_K", "5.7 bits a weight") },
    mix("Q5_K_S", 16, "Q5_K", "5.5 bits a weight"),
    mix("Q5_1", 9, "Q5_1", "6 bits a weight; Q5_K_M is better"),
    mix("Q5_0", 8, "Q5_0", "5.5 bits a weight; Q5_K_S is better"),
    Mix { more: Some(("Q6_K", More::Some)), ..mix("Q4_K_M", 15, "Q4_K", "4.8 bits a weight, the usual one") },
    Mix { more: Some(("Q5_K", More::First)), ..mix("Q4_K_S", 14, "Q4_K", "4.6 bits a weight") },
    mix("Q4_1", 3, "Q4_1", "5 bits a weight; Q4_K_M is better"),
    mix("Q4_0", 2, "Q4_0", "4.5 bits a weight, the fastest"),
];

/// What an importance matrix changes in the first eighth of the down projections.
const GUARDED: [(&str, &str); 2] = [("Q4_0", "Q4_1"), ("Q5_0", "Q5_1")];

/// The formats that rows take which do not end on a block edge.
const SHORTER: [(&str, &str); 3] = [("Q4_K", "Q5_0"), ("Q5_K", "Q5_1"), ("Q6_K", "Q8_0")];

/// Parts of names of matrices that are small, or no weights of products.
const KEPT: [&str; 27] = [
    "_norm.weight",
    "ffn_gate_inp.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ffn_gate_tid2eid.weight",
    "attn_rel_b.weight",
    ".position_embd",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
];

/// The same, of whole names.
const KEPT_WHOLE: [&str; 2] = ["position_embd.weight", "token_types.weight"];

impl Mix {
    /// The type of that name; case does not matter. `Q4_K` and `Q5_K` stand for their `_M`.
    ///
    /// # Errors
    /// `Unsupported` naming those that can be written.
    pub fn by_name(name: &str) -> Result<&'static Mix> {
        let is = |mix: &&Mix| {
            mix.name.eq_ignore_ascii_case(name)
                || mix.name.strip_suffix("_M").is_some_and(|short| short.eq_ignore_ascii_case(name))
        };
        MIXES.iter().find(is).ok_or_else(|| {
            let known: Vec<_> = MIXES.iter().map(|mix| mix.name).collect();
            Error::unsupported("type", format!("{name}; known are {}", known.join(", ")))
        })
    }

    /// The formats of a file's tensors, in the order of `tensors`, which is that of [`super::sorted`].
    ///
    /// # Errors
    /// Those of reading the metadata.
    pub(super) fn formats(&self, gguf: &Gguf, tensors: &[&Tensor], weighted: bool) -> Result<Vec<&'static Format>> {
        let format = named(self.format)?;
        if !format.is_quantised() {
            return Ok(tensors.iter().map(|t| if quantisable(t) { format } else { t.format }).collect());
        }
        let mut counted = Counted::read(gguf, tensors, weighted)?;
        let of = |tensor: &&Tensor| match quantisable(tensor) {
            true => fitting(named(counted.format(self, tensor)?)?, tensor),
            false => Ok(tensor.format),
        };
        tensors.iter().map(of).collect()
    }
}

fn named(name: &'static str) -> Result<&'static Format> {
    Format::by_name(name).ok_or_else(|| Error::unsupported("tensor format", name))
}

/// Whether a tensor is a matrix of weights that may be rounded.
fn quantisable(tensor: &Tensor) -> bool {
    let name = &*tensor.name;
    // Dimensions of 1 at the end do not count.
    tensor.dims().iter().skip(1).any(|n| *n > 1)
        && name.ends_with("weight")
        && !KEPT.iter().any(|part| name.contains(part))
        && !KEPT_WHOLE.contains(&name)
}

/// The format, or what takes its place where rows do not end on an edge of its blocks.
fn fitting(format: &'static Format, tensor: &Tensor) -> Result<&'static Format> {
    let fits = |format: &Format| tensor.dims().first().is_some_and(|n| n.is_multiple_of(format.block as u64));
    if fits(format) {
        return Ok(format);
    }
    let shorter = SHORTER.iter().find(|(of, _)| *of == format.name).map_or(format.name, |(_, shorter)| shorter);
    Ok(Some(named(shorter)?).filter(|format| fits(format)).unwrap_or(named("F16")?))
}

/// What the rules count, and what they ask of a model.
struct Counted {
    values: usize,
    all_values: usize,
    downs: usize,
    blocks: usize,
    experts: u64,
    /// Whether keys and values are few beside the queries, in a model of 80 blocks.
    large: bool,
    tied: bool,
    weighted: bool,
}

/// Names whose matrices hold values, alone or with others.
const VALUES: [&str; 3] = ["attn_qkv.weight", "attn_kv_b.weight", "attn_v.weight"];

fn holds_values(name: &str) -> bool {
    VALUES.iter().any(|part| name.contains(part))
}

impl Counted {
    fn read(gguf: &Gguf, tensors: &[&Tensor], weighted: bool) -> Result<Counted> {
        let architecture = gguf.string("general.architecture")?.unwrap_or_default();
        let key = |name: &str| gguf.u64(&format!("{architecture}.{name}"));
        let blocks = key("block_count")?.unwrap_or(0) as usize;
        // The key may be a list, one number a block, in models that are not of this size.
        let heads = |name: &str| key(name).ok().flatten();
        let grouped = match architecture {
            "llama" => heads("attention.head_count_kv").is_some_and(|kv| heads("attention.head_count") != Some(kv)),
            other => other == "qwen2",
        };
        Ok(Counted {
            values: 0,
            all_values: tensors.iter().filter(|t| holds_values(&t.name)).count(),
            downs: 0,
            blocks,
            experts: key("expert_count")?.unwrap_or(0),
            large: blocks == 80 && grouped,
            tied: !tensors.iter().any(|t| &*t.name == "output.weight"),
            weighted,
        })
    }

    /// The format of a matrix; called once for each, in order.
    fn format(&mut self, mix: &Mix, tensor: &Tensor) -> Result<&'static str> {
        let name = &*tensor.name;
        let embeds = ["token_embd.weight", "per_layer_token_embd.weight"].contains(&name);
        if name == "output.weight" || self.tied && embeds {
            let edge = named(mix.format)?.block as u64;
            let whole = tensor.dims().first().is_some_and(|n| n.is_multiple_of(edge));
            return Ok(if whole && mix.format != "Q8_0" { "Q6_K" } else { "Q8_0" });
        }
        if embeds {
            return Ok(mix.format);
        }
        if holds_values(name) {
            let i = self.values;
            self.values += 1;
            return Ok(self.of_values(mix, i));
        }
        if name.contains("attn_k.weight") {
            return Ok(if self.experts == 8 { "Q8_0" } else { mix.format });
        }
        if name.contains("attn_output.weight") {
            return Ok(if self.experts == 8 && mix.format == "Q4_K" { "Q5_K" } else { mix.format });
        }
        // In this order, since parts of these names are parts of others.
        let others = ["attn_q.weight", "ffn_up", "ffn_gate"];
        if name.contains("ffn_down") && !others.iter().any(|other| name.contains(other)) {
            let i = if self.experts > 1 { block(name).map_or(0, |i| i as usize) } else { self.downs };
            self.downs += 1;
            return Ok(self.of_down(mix, i));
        }
        Ok(mix.format)
    }

    fn of_values(&self, mix: &Mix, i: usize) -> &'static str {
        let chosen = match mix.more {
            Some((more, More::Some)) if gets_more(i, self.all_values) => more,
            Some((more, More::First)) if i < 4 => more,
            _ => mix.format,
        };
        match chosen {
            _ if self.experts == 8 => "Q8_0",
            "Q4_K" if self.large => "Q5_K",
            chosen => chosen,
        }
    }

    fn of_down(&self, mix: &Mix, i: usize) -> &'static str {
        let first = i < self.blocks / 8;
        match mix.more {
            Some((more, More::Some)) if gets_more(i, self.blocks) => more,
            Some((more, More::First)) if first => more,
            None if first && self.weighted => {
                GUARDED.iter().find(|(of, _)| *of == mix.name).map_or(mix.format, |(_, guarded)| guarded)
            }
            _ => mix.format,
        }
    }
}

/// Whether block `i` of `n` is of the first or last eighth, or a third one between.
fn gets_more(i: usize, n: usize) -> bool {
    i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2
}
