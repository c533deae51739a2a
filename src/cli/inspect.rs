//! `mynah inspect`: the contents of a file.

use crate::args::Inspect;
use crate::out::table;
use crate::{Outcome, load, out};
use mynah::adapter::{self, folder};
use mynah::bytes::{Bytes, Limits, map};
use mynah::container::head::Field;
use mynah::error::printable;
use mynah::gguf::{Array, Gguf, Value};
use serde_json::json;
use std::collections::BTreeMap;

/// Elements of an array that are shown.
const SHOWN: usize = 4;

pub fn inspect(args: &Inspect, as_json: bool) -> anyhow::Result<Outcome> {
    if args.file.is_dir() {
        let found = folder::contents(&args.file, &Limits::default())?;
        match as_json {
            true => out::print_json(&folder_json(&found))?,
            false => out::print(&folder_text(&found))?,
        }
        return Ok(Outcome::Done);
    }
    let bytes = map::open(&args.file)?;
    if bytes.starts_with(b"GGUF") {
        let gguf = load::gguf(&args.file)?;
        if as_json {
            out::print_json(&model_json(&gguf))?
        } else {
            out::print(&model_text(&gguf))?
        }
        return Ok(Outcome::Done);
    }
    let info = describe(bytes).map_err(|e| e.in_file(args.file.to_string_lossy()))?;
    if as_json {
        out::print_json(&adapter_json(&info))?
    } else {
        out::print(&adapter_text(&info))?
    }
    Ok(Outcome::Done)
}

fn describe(bytes: Bytes) -> mynah::Result<adapter::Info> {
    adapter::info(load::adapter_in(bytes), &Limits::default())
}

/// The first elements, and the number of elements.
fn elided(array: &Array) -> String {
    let first: Vec<String> = array.values().take(SHOWN).map(|v| short(&v)).collect();
    let more = if array.len() > SHOWN { ", …" } else { "" };
    format!("[{}{more}] ({} × {})", first.join(", "), array.len(), array.kind().name())
}

fn short(value: &Value) -> String {
    match value {
        Value::String(text) => {
            let text = printable(text);
            match text.char_indices().nth(60) {
                Some((end, _)) => format!("{:?} … ({} bytes)", &text[..end], text.len()),
                None => format!("{text:?}"),
            }
        }
        Value::Array(array) => elided(array),
        other => other.to_string(),
    }
}

fn value_json(value: &Value) -> serde_json::Value {
    match value {
        Value::F32(v) => json!(v),
        Value::F64(v) => json!(v),
        Value::Bool(v) => json!(v),
        Value::String(v) => json!(v),
        Value::Array(a) => {
            let first: Vec<_> = a.values().take(SHOWN).map(|v| value_json(&v)).collect();
            json!({ "type": a.kind().name(), "len": a.len(), "first": first })
        }
        other => match other.integer().map(i64::try_from) {
            Some(Ok(n)) => json!(n),
            _ => json!(other.to_string()),
        },
    }
}

/// For each format: tensors, values, bytes.
pub fn formats(gguf: &Gguf) -> BTreeMap<&'static str, [u64; 3]> {
    let mut sums = BTreeMap::new();
    for t in gguf.tensors() {
        let row: &mut [u64; 3] = sums.entry(t.format.name).or_default();
        for (sum, n) in row.iter_mut().zip([1, t.elements(), t.bytes]) {
            *sum += n;
        }
    }
    sums
}

/// Bytes of the file, or of all parts.
pub fn file_bytes(gguf: &Gguf) -> usize {
    gguf.files().iter().map(|file| file.len()).sum()
}

fn model_json(gguf: &Gguf) -> serde_json::Value {
    let metadata: BTreeMap<_, _> = gguf.pairs().map(|(key, value)| (key, value_json(value))).collect();
    let tensors: Vec<_> = gguf
        .tensors()
        .iter()
        .map(|t| {
            let mut row = json!({ "name": t.name, "dims": t.dims(), "format": t.format.name, "offset": t.offset, "bytes": t.bytes });
            if gguf.files().len() > 1 {
                row["part"] = json!(t.part + 1);
            }
            row
        })
        .collect();
    let formats: BTreeMap<_, _> = formats(gguf)
        .into_iter()
        .map(|(name, [n, values, bytes])| (name, json!({ "tensors": n, "values": values, "bytes": bytes })))
        .collect();
    json!({
        "type": "gguf",
        "version": gguf.version(),
        "bytes": file_bytes(gguf),
        "parts": gguf.files().len(),
        "trailing_bytes": gguf.trailing(),
        "metadata": metadata,
        "tensors": tensors,
        "formats": formats,
        "parameters": gguf.tensors().iter().map(|t| t.elements()).sum::<u64>(),
    })
}

fn model_text(gguf: &Gguf) -> String {
    let mut text = format!("{}\n\n", gguf.looks_like());
    let mut rows = table(&["key", "type", "value"], []);
    for (key, value) in gguf.pairs() {
        rows.add_row([printable(key), value.kind().name().into(), short(value)]);
    }
    text += &format!("{}\n\n", rows.trim_fmt());
    let mut rows = table(&["tensor", "dimensions", "format", "bytes"], [3]);
    for t in gguf.tensors() {
        let dims: Vec<_> = t.dims().iter().map(u64::to_string).collect();
        rows.add_row([printable(&t.name), dims.join(" × "), t.format.name.into(), t.bytes.to_string()]);
    }
    text += &format!("{}\n\n", rows.trim_fmt());
    let mut rows = table(&["format", "tensors", "values", "bytes", "bits a value"], [1, 2, 3, 4]);
    let mut total = [0; 3];
    for (name, row) in formats(gguf).into_iter().chain([("all", [0; 3])]) {
        let row = if name == "all" { total } else { row };
        let bits = row[2] as f64 * 8.0 / row[1].max(1) as f64;
        rows.add_row([name.into(), row[0].to_string(), row[1].to_string(), row[2].to_string(), format!("{bits:.2}")]);
        total.iter_mut().zip(row).for_each(|(sum, n)| *sum += n);
    }
    text += &format!("{}\n\nGGUF version {}, {} bytes", rows.trim_fmt(), gguf.version(), file_bytes(gguf));
    if gguf.files().len() > 1 {
        text += &format!(" in {} parts", gguf.files().len());
    }
    if gguf.trailing() > 0 {
        text += &format!(", {} after the last tensor", gguf.trailing());
    }
    text + "\n"
}

fn field_json(field: &Field) -> serde_json::Value {
    match field {
        Field::Text(v) => json!(v),
        Field::Integer(v) => json!(v),
        Field::Real(v) => json!(v),
        Field::List(v) => json!(v),
    }
}

fn folder_json(found: &folder::Contents) -> serde_json::Value {
    let config: BTreeMap<_, _> = found.config.iter().cloned().collect();
    let tensors: Vec<_> = found
        .tensors
        .iter()
        .map(|(name, shape, kind, bytes)| json!({ "name": name, "shape": shape, "format": kind, "bytes": bytes }))
        .collect();
    json!({ "type": found.program.to_lowercase(), "config": config, "tensors": tensors })
}

fn folder_text(found: &folder::Contents) -> String {
    let mut rows = table(&["key", "value"], []);
    for (key, value) in &found.config {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_string);
        let text = printable(&text);
        let cut = text.char_indices().nth(200).map_or(text.clone(), |(end, _)| format!("{} …", &text[..end]));
        rows.add_row([printable(key), cut]);
    }
    let mut text = format!("adapter of {}\n\n{}\n\n", found.program, rows.trim_fmt());
    let mut rows = table(&["tensor", "shape", "format", "bytes"], [3]);
    let mut all = 0;
    for (name, shape, kind, bytes) in &found.tensors {
        let shape: Vec<_> = shape.iter().map(u64::to_string).collect();
        rows.add_row([printable(name), shape.join(" × "), (*kind).into(), bytes.to_string()]);
        all += bytes;
    }
    text += &format!("{}\n\n{} tensors, {} bytes\n", rows.trim_fmt(), found.tensors.len(), all);
    text
}

fn adapter_json(info: &adapter::Info) -> serde_json::Value {
    let head: BTreeMap<_, _> = info.head.fields().map(|(key, field)| (key, field_json(field))).collect();
    let sections: BTreeMap<_, _> = info.sections.iter().cloned().collect();
    let provenance = info.provenance.as_ref().map(|p| {
        json!({
            "objective": p.objective,
            "data": p.data,
            "steps": p.steps,
            "loss_first": p.first_loss,
            "loss_last": p.last_loss,
            "rope": p.rope,
            "base": p.base,
            "format": p.format,
        })
    });
    json!({
        "type": "adapter",
        "kind": info.kind(),
        "bytes": info.bytes,
        "head": head,
        "sections": sections,
        "provenance": provenance,
    })
}

fn adapter_text(info: &adapter::Info) -> String {
    let mut rows = table(&["fact", "value"], []);
    for (key, field) in info.head.fields() {
        let value = match field {
            Field::List(list) => list.iter().map(|v| printable(v)).collect::<Vec<_>>().join("\n"),
            Field::Text(text) => printable(text),
            other => field_json(other).to_string(),
        };
        rows.add_row([printable(key), value]);
    }
    if let Some(p) = &info.provenance {
        let loss = |x: Option<f64>| x.map_or("-".into(), |x| format!("{x:.4}"));
        rows.add_row(["trained for", &printable(&p.objective)]).add_row(["data (BLAKE3)", &printable(&p.data)]);
        rows.add_row(["steps", &p.steps.to_string()]);
        if !p.rope.is_empty() {
            rows.add_row(["rotary frequencies", &printable(&p.rope)]);
        }
        if !p.title().is_empty() {
            rows.add_row(["trained on", &p.title()]);
        }
        rows.add_row(["loss", &format!("{} → {}", loss(p.first_loss), loss(p.last_loss))]);
    }
    let mut text = format!("mynah adapter, {}\n\n{}\n\n", printable(info.kind()), rows.trim_fmt());
    let mut rows = table(&["section", "bytes"], [1]);
    for (name, n) in &info.sections {
        rows.add_row([printable(name), n.to_string()]);
    }
    text += &format!("{}\n\n{} bytes\n", rows.trim_fmt(), info.bytes);
    text
}
