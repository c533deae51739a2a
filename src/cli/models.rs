//! `mynah models`: the table of what is supported.

use crate::out::table;
use crate::{Outcome, out};
use mynah::model::support;
use mynah::quant::FORMATS;
use serde_json::json;

pub fn models(as_json: bool) -> anyhow::Result<Outcome> {
    let formats: Vec<&str> = FORMATS.iter().filter(|f| f.decode.is_some()).map(|f| f.name).collect();
    if as_json {
        let row = |row: &support::Support| {
            json!({
                "architecture": row.arch,
                "models": row.models,
                "run": row.run,
                "train": row.train,
                "chat": row.chat,
                "logits": row.logits,
                "training": row.training,
            })
        };
        let rows: Vec<_> = support::SUPPORT.iter().map(row).collect();
        out::print_json(&json!({ "architectures": rows, "formats": formats }))?;
        return Ok(Outcome::Done);
    }
    let mut rows = table(&["architecture", "models", "run", "train", "chat", "proof"], []);
    for support in support::SUPPORT {
        let [run, train] = [support.run, support.train].map(|cell| if cell.is_empty() { "no" } else { cell });
        rows.add_row([support.arch, support.models, run, train, &support.chat_cell(), &support.proof_cell()]);
    }
    let more = "chat: published templates whose conversations are those of Hugging Face; other templates run too\n\
        proof: models whose logits or embeddings are those of llama.cpp, and whose training is that of PEFT";
    out::print(&format!("{}\n\n{more}\nblock formats: {}\n", rows.trim_fmt(), formats.join(", ")))?;
    Ok(Outcome::Done)
}
