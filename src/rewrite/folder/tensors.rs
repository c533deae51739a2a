//! Which tensors a file gets, and how their rows follow from those of the folder.

use super::config::{Config, EXPERTS, HEADS};
use super::families::{Change, Family};
use crate::adapter::safetensors::{Safetensors, Tensor};
use crate::bytes::Bytes;
use crate::error::{Error, Result, printable};
use crate::kernel::Tile;
use crate::quant::Format;
use crate::rewrite::{Source, Step};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::prelude::v1::*;

/// A tensor and the file that it lies in.
type Given<'a> = (&'a Safetensors, &'a Tensor);

/// What may stand before the names of tensors: the model in a class with a head, and blocks in a model.
const MODELS: &[&str] = &["model.", "transformer.", "bert."];
const BLOCKS: &[&str] = &["layers.", "h.", "encoder.layer."];

/// Matrices that are no weights of products, or small. They stay `F32`.
const EXACT: &[&str] = &[
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_inp_shexp.weight",
    "position_embd.weight",
    "token_types.weight",
    "ssm_conv1d.weight",
    "shortconv.conv.weight",
];

/// Where a tensor goes.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// Nowhere: nothing reads it.
    Nowhere,
    /// To a tensor of its own.
    One(String),
    /// Its halves go to two.
    Two([String; 2]),
    /// To a part of one. `row`: of the table of names; `group`: what has parts in the same tensors.
    Part { name: String, at: u64, row: usize, group: String },
}

/// Where the tensor of a name goes; `None` if it is not known.
fn place(family: &Family, name: &str) -> Option<Place> {
    if name.ends_with("rotary_emb.inv_freq") || family.left_out.iter().any(|begin| name.starts_with(begin)) {
        return Some(Place::Nowhere);
    }
    // A model for text within one that also sees.
    let name = name.replacen("language_model.", "", 1);
    let path = MODELS.iter().find_map(|begin| name.strip_prefix(begin)).unwrap_or(&name);
    let block = BLOCKS.iter().find_map(|begin| path.strip_prefix(begin)).and_then(|rest| rest.split_once('.'));
    let (before, path, tables) = match block {
        Some((layer, path)) => (format!("blk.{}.", layer.parse::<u16>().ok()?), path, family.inside),
        None => (String::new(), path, &[family.outside][..]),
    };
    // Old files have other words for the two.
    let [stem, suffix] = match path.rsplit_once('.') {
        Some((stem, "weight" | "gamma")) => [stem, ".weight"],
        Some((stem, "bias" | "beta")) => [stem, ".bias"],
        _ => [path, ""],
    };
    let rows = tables.iter().copied().flatten().enumerate();
    let (row, [there, here], at) = rows.filter_map(|(i, row)| Some((i, row, same(row[0], stem)?))).next()?;
    if here.is_empty() {
        return Some(Place::Nowhere);
    }
    let full =
        |here: &str| format!("{before}{here}{}", if here.contains('.') && suffix.is_empty() { "" } else { suffix });
    Some(match (here.split_once('|'), at) {
        (Some((a, b)), _) => Place::Two([a, b].map(full)),
        (None, Some(at)) => {
            let group = there.split('#').next().unwrap_or_default();
            Place::Part { name: full(here), at, row, group: format!("{before}{group}") }
        }
        (None, None) => Place::One(full(here)),
    })
}

/// Whether a path is that of a row, and the number in it, if the row has one.
fn same(row: &str, path: &str) -> Option<Option<u64>> {
    let mut at = None;
    let (mut there, mut here) = (row.split('.'), path.split('.'));
    loop {
        match (there.next(), here.next()) {
            (None, None) => return Some(at),
            (Some("#"), Some(number)) => at = Some(number.parse().ok()?),
            (Some(a), Some(b)) if a == b => {}
            _ => return None,
        }
    }
}

/// A tensor of parts that is not complete yet.
struct Stack<'a> {
    row: usize,
    group: String,
    parts: BTreeMap<u64, Given<'a>>,
}

/// How tensors are stored: matrices, and the rest.
#[derive(Clone, Copy)]
pub(super) struct Formats {
    pub matrices: &'static Format,
    pub plain: &'static Format,
}

/// The tensors of a file, in its order.
///
/// # Errors
/// `Unsupported` naming all tensors that are not known, or one of another type; `Mismatch` for shapes and numbers of parts
/// that do not fit.
pub(super) fn steps(c: &Config, all: &[Given<'_>], formats: Formats) -> Result<Vec<Step<'static>>> {
    let mut steps: Vec<((usize, usize), Step)> = Vec::new();
    for (i, (name, values)) in c.factors()?.into_iter().enumerate() {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let dims = vec![values.len() as u64];
        steps
            .push(((0, i), Step::of(name.into(), dims, Source::new(formats.plain, Bytes::from(bytes)), formats.plain)));
    }
    let (mut stacks, mut ends, mut unknown) = (BTreeMap::<String, Stack>::new(), BTreeMap::new(), Vec::new());
    for (i, &(part, tensor)) in (1..).zip(all) {
        match place(c.family, &tensor.name) {
            None => unknown.push(printable(&tensor.name)),
            Some(Place::Nowhere) => {}
            Some(Place::One(name)) => steps.push(((i, 0), step(c, name, &[(part, tensor)], formats, None)?)),
            Some(Place::Two(names)) => {
                for (half, name) in names.into_iter().enumerate() {
                    steps.push(((i, half), step(c, name, &[(part, tensor)], formats, Some(half))?));
                }
            }
            Some(Place::Part { name, at, row, group }) => {
                ends.insert(group.clone(), i);
                let stack = stacks.entry(name).or_insert(Stack { row, group, parts: BTreeMap::new() });
                stack.parts.insert(at, (part, tensor));
            }
        }
    }
    if !unknown.is_empty() {
        return Err(Error::unsupported("tensors", unknown.join(", ")));
    }
    for (name, Stack { row, group, parts }) in stacks {
        let count = parts_of(c, &name)?;
        if !parts.keys().copied().eq(0..count) {
            let found = format!("{} of them", parts.len());
            return Err(Error::mismatch(format!("parts of tensor `{}`", printable(&name)), count, found));
        }
        let parts: Vec<Given> = parts.into_values().collect();
        // They follow where the last of them stood.
        steps.push(((ends.get(&group).copied().unwrap_or(0), row), step(c, name, &parts, formats, None)?));
    }
    steps.sort_by_key(|(order, _)| *order);
    Ok(steps.into_iter().map(|(_, step)| step).collect())
}

/// How many parts a tensor has.
fn parts_of(c: &Config, name: &str) -> Result<u64> {
    match () {
        () if name.contains("attn_q_norm") => c.whole(HEADS),
        () if name.contains("attn_k_norm") => c.groups(),
        () => c.whole(EXPERTS),
    }
}

/// The name of a tensor without its block.
fn own(name: &str) -> &str {
    name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')).map_or(name, |(_, own)| own)
}

/// What becomes of tensors, which may be parts of one, or one of its halves.
fn step(c: &Config, name: String, parts: &[Given], formats: Formats, half: Option<usize>) -> Result<Step<'static>> {
    let own = own(&name).to_string();
    let Some((first, tensor)) = parts.first() else { return Err(Error::mismatch("parts of a tensor", "one", "none")) };
    let shape = || format!("shape of tensor `{}`", printable(&tensor.name));
    let mut source = Source { format: first.values(tensor)?.0, parts: Vec::new(), turned: false };
    for (part, other) in parts {
        let (format, bytes) = part.values(other)?;
        if other.shape != tensor.shape || !core::ptr::eq(format, source.format) {
            let what = format!("tensor `{}`", printable(&other.name));
            let of = |tensor: &Tensor| format!("{} {:?}", tensor.dtype(), tensor.shape);
            return Err(Error::mismatch(what, of(tensor), of(other)));
        }
        source.parts.push(bytes);
    }
    let mut dims: Vec<u64> = tensor.shape.iter().rev().copied().collect();
    if let ([taps, 1, channels], true) = (&dims[..], own.contains("conv")) {
        dims = vec![*taps, *channels];
    }
    let most = if own.contains("_exps.") && parts.len() == 1 { 3 } else { 2 };
    if dims.is_empty() || dims.len() > most || dims.contains(&0) || parts.len() > 1 && dims.len() > 2 {
        let wanted = format!("1 to {most} dimensions, none of them 0");
        return Err(Error::mismatch(shape(), wanted, format!("{:?}", tensor.shape)));
    }
    if parts.len() > 1 || own.contains("_exps.") && dims.len() < 3 {
        dims.push(parts.len() as u64);
    }
    let exact = dims.len() < 2 || !own.ends_with(".weight") || EXACT.iter().any(|end| own.ends_with(end));
    let mut step = Step::of(Cow::Owned(name), dims, source, if exact { formats.plain } else { formats.matrices });
    if let (Some(half), [_, rows, ..]) = (half, &mut step.dims[..]) {
        let all = *rows as usize;
        if !all.is_multiple_of(2) {
            return Err(Error::mismatch(shape(), "rows of two halves", all));
        }
        *rows /= 2;
        let n = all.div_euclid(2);
        step.order = Some(Box::new(move |row| {
            let before = row.checked_div(n).unwrap_or(0).saturating_mul(all);
            before.saturating_add(half.saturating_mul(n)).saturating_add(row.checked_rem(n).unwrap_or(0))
        }));
    }
    if c.family.gains_less_one && tensor.name.ends_with("norm.weight") && !own.starts_with("ssm_norm") {
        each(&mut step, |v| v + 1.0);
    }
    let stem = own.rsplit_once('.').map_or(&*own, |(stem, _)| stem);
    let change = c.family.changes.iter().find(|(name, _)| [stem, &*own].contains(name));
    if let Some((_, change)) = change {
        apply(c, *change, &mut step, &shape)?;
    }
    Ok(step)
}

/// Changes each value, in the precision that it is stored with.
fn each(step: &mut Step, f: fn(f32) -> f32) {
    let half = step.from.format.name == "F16";
    step.change = Some(Box::new(move |_, values: &mut Tile| {
        for i in 0..values.n() {
            for v in values.row(i) {
                *v = f(*v);
                if half {
                    *v = crate::quant::float::f16_to_f32(u16::from_le_bytes(crate::quant::float::to_f16(*v)));
                }
            }
        }
    }));
}

/// Sets what a change asks for, if the shape fits.
fn apply(c: &Config, change: Change, step: &mut Step<'static>, shape: &dyn Fn() -> String) -> Result<()> {
    // A vector is rows of one value.
    let all = match step.dims[..] {
        [n] if change != Change::Tokens => {
            step.cols = 1;
            n
        }
        [_, rows] => rows,
        _ => return Err(Error::mismatch(shape(), "one or two dimensions", format!("{:?}", step.dims))),
    };
    match change {
        Change::Queries | Change::Keys => {
            let heads = if change == Change::Queries { c.whole(HEADS)? } else { c.groups()? };
            let width =
                all.checked_div(heads).filter(|w| w.checked_mul(heads) == Some(all) && w.is_multiple_of(2) && *w > 0);
            let width = width.ok_or_else(|| Error::mismatch(shape(), format!("rows for {heads} heads"), all))? as usize;
            step.order = Some(Box::new(move |row| hugging_face_row(row, width)));
        }
        Change::Turned => {
            step.dims.reverse();
            step.cols = all as usize;
            step.from.turned = true;
        }
        Change::Tokens => {
            if let [_, rows] = &mut step.dims[..] {
                *rows = c.whole(&["vocab_size"])?.min(all);
            }
        }
        Change::Mixed | Change::Values | Change::Scalars | Change::Columns | Change::Decays => {
            sort_values(c, change, step, all, shape)?;
        }
    }
    Ok(())
}

/// Sorts heads of values.
fn sort_values(c: &Config, change: Change, step: &mut Step, all: u64, shape: &dyn Fn() -> String) -> Result<()> {
    let size = |key: &'static str| c.whole(&[key]);
    let (groups, values) = (size("linear_num_key_heads")?, size("linear_num_value_heads")?);
    let (keys, wide) = (size("linear_key_head_dim")?, size("linear_value_head_dim")?);
    let before = if change == Change::Mixed { groups.saturating_mul(keys).saturating_mul(2) } else { 0 };
    let width = if [Change::Scalars, Change::Decays].contains(&change) { 1 } else { wide };
    let found = if change == Change::Columns { step.cols as u64 } else { all };
    let wanted = values.saturating_mul(width).saturating_add(before);
    let per = values.checked_div(groups).filter(|per| per.checked_mul(groups) == Some(values));
    let (Some(per), true) = (per, wanted == found) else {
        let heads = format!("{wanted} for {values} heads of {width} in {groups} groups");
        return Err(Error::mismatch(shape(), heads, found));
    };
    let [before, width, groups, per] = [before, width, groups, per].map(|n| n as usize);
    let old = move |i: usize| tiled(i, before, width, groups, per);
    if change == Change::Decays {
        each(step, |v| -(libm::exp(f64::from(v)) as f32));
    }
    if per == 1 {
        return Ok(());
    }
    if change == Change::Columns {
        step.change = Some(Box::new(move |_, values: &mut Tile| {
            let mut row = vec![0.0; values.c()];
            for i in 0..values.n() {
                let there = values.row(i);
                row.copy_from_slice(there);
                for (j, v) in there.iter_mut().enumerate() {
                    *v = row.get(old(j)).copied().unwrap_or_default();
                }
            }
        }));
    } else {
        step.order = Some(Box::new(old));
    }
    Ok(())
}

/// Where row `i` comes from when heads, `per` in each group, are sorted by their place in a group. The rows `before` stay.
fn tiled(i: usize, before: usize, width: usize, groups: usize, per: usize) -> usize {
    let Some(i) = i.checked_sub(before) else { return i };
    let (head, within) = (i.checked_div(width).unwrap_or(0), i.checked_rem(width).unwrap_or(0));
    let (place, group) = (head.checked_div(groups).unwrap_or(0), head.checked_rem(groups).unwrap_or(0));
    let old = group.saturating_mul(per).saturating_add(place);
    old.saturating_mul(width).saturating_add(within).saturating_add(before)
}

/// The row of a Hugging Face matrix that becomes row `row`: see [`crate::adapter::gguf_row`].
fn hugging_face_row(row: usize, width: usize) -> usize {
    let within = row.checked_rem(width).unwrap_or(0);
    let half = if within.is_multiple_of(2) { 0 } else { width.div_euclid(2) };
    row.saturating_sub(within).saturating_add(half).saturating_add(within.div_euclid(2))
}

/// The number of values of all tensors, as a word: `135M`, or `8x7B` with experts.
pub(super) fn size_label(steps: &[Step]) -> String {
    let (mut values, mut experts, mut stacks) = (0_u64, 0_u64, 0_u64);
    for step in steps {
        let n = step.dims.iter().fold(1, |n: u64, d| n.saturating_mul(*d));
        let count = step.dims.get(2).copied().filter(|count| *count > 0 && step.name.contains("_exps."));
        values = values.saturating_add(n.checked_div(count.unwrap_or(1)).unwrap_or(n));
        experts = experts.saturating_add(count.unwrap_or(0));
        stacks = stacks.saturating_add(u64::from(count.is_some()));
    }
    match experts.checked_div(stacks) {
        Some(count) => format!("{count}x{}", size(values)),
        None => size(values),
    }
}

/// A number of parameters in a word: `135M`.
fn size(parameters: u64) -> String {
    let units = [(1e12, "T"), (1e9, "B"), (1e6, "M")];
    let n = parameters as f64;
    let (unit, name) = units.into_iter().find(|(unit, _)| n > *unit).unwrap_or((1e3, "K"));
    let scaled = n / unit;
    // Two digits at least. Halves are rounded to even numbers.
    let digits = match libm::rint(scaled) as u64 {
        0 => 0,
        whole => whole.to_string().len(),
    };
    format!("{scaled:.0$}{name}", 2usize.saturating_sub(digits))
}

#[cfg(test)]
mod tests {
    use super::super::FAMILIES;
    use super::*;

    #[test]
    fn names_go_where_their_class_has_them() {
        let go = |class: &str, name: &str| {
            let family = FAMILIES.iter().find(|f| f.classes.contains(&class)).unwrap();
            place(family, name)
        };
        let one = |name: &str| Some(Place::One(name.into()));
        for (class, there, here) in [
            ("LlamaForCausalLM", "model.layers.3.self_attn.q_proj.bias", one("blk.3.attn_q.bias")),
            ("LlamaForCausalLM", "model.layers.3.self_attn.rotary_emb.inv_freq", Some(Place::Nowhere)),
            ("LlamaForCausalLM", "model.layers.70000.self_attn.q_proj.weight", None),
            ("LlamaForCausalLM", "model.layers.x.self_attn.q_proj.weight", None),
            ("LlamaForCausalLM", "model.layers.0.self_attn.q_proj.zeros", None),
            ("LlamaForCausalLM", "", None),
            ("GPT2LMHeadModel", "transformer.h.1.attn.bias", Some(Place::Nowhere)),
            ("GPT2LMHeadModel", "h.1.attn.c_attn.bias", one("blk.1.attn_qkv.bias")),
            ("BertModel", "bert.encoder.layer.0.output.LayerNorm.gamma", one("blk.0.layer_output_norm.weight")),
            ("Gemma3TextModel", "layers.0.pre_feedforward_layernorm.weight", one("blk.0.ffn_norm.weight")),
            (
                "Gemma3ForConditionalGeneration",
                "language_model.model.layers.0.post_attention_layernorm.weight",
                one("blk.0.post_attention_norm.weight"),
            ),
            ("Qwen3_5ForConditionalGeneration", "model.language_model.layers.0.linear_attn.A_log", one("blk.0.ssm_a")),
            ("Qwen3_5ForConditionalGeneration", "model.visual.blocks.0.norm.weight", Some(Place::Nowhere)),
            (
                "Qwen3MoeForCausalLM",
                "model.layers.0.mlp.experts.gate_up_proj",
                Some(Place::Two(["blk.0.ffn_gate_exps.weight".into(), "blk.0.ffn_up_exps.weight".into()])),
            ),
            (
                "Qwen3MoeForCausalLM",
                "model.layers.2.mlp.experts.11.up_proj.weight",
                Some(Place::Part {
                    name: "blk.2.ffn_up_exps.weight".into(),
                    at: 11,
                    row: 2,
                    group: "blk.2.mlp.experts.".into(),
                }),
            ),
        ] {
            assert_eq!(go(class, there), here, "{class}: {there}");
        }
    }

    #[test]
    fn heads_of_values_are_sorted_by_their_place_in_a_group() {
        // Two groups of three heads of one row, behind two rows that stay.
        let order: Vec<usize> = (0..8).map(|i| tiled(i, 2, 1, 2, 3)).collect();
        assert_eq!(order, [0, 1, 2, 5, 3, 6, 4, 7]);
    }
}
