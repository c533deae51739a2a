//! `mynah verify`: whether an adapter does what it did, by the proof of effect in its file.

use crate::args::{OtherBase, Usage, Verify};
use crate::paths::{self, Named};
use crate::{Outcome, load, names, out};
use mynah::Mynah;
use mynah::adapter::probe;
use mynah::app::{Difference, TOLERANCE, Verdict, Whose};
use mynah::bytes::{Bytes, Limits, map};
use serde_json::json;
use std::path::Path;

pub fn verify(args: &Verify, json: bool) -> anyhow::Result<Outcome> {
    let (path, limits) = (&args.adapter, Limits::default());
    names::check(path, names::What::Adapter)?;
    let name = out::name(path);
    anyhow::ensure!(!path.is_dir(), "{name}: it is a folder, and only files of `mynah train` carry a proof of effect");
    let file = load::adapter_in(map::read(path, limits.file)?.into());
    // What carries none is not worth a model's time.
    let found = probe::read(file.clone(), &limits).map_err(|e| e.in_file(path.to_string_lossy()));
    if let (Some(text), Some(output)) = (&args.record, &args.output) {
        return record(args, file, text, output);
    }
    let Some(probe) = found? else {
        let add = "mynah verify -m MODEL -a ADAPTER --record TEXT -o OUT";
        anyhow::bail!("{name}: it carries no proof of effect; `{add}` adds one, and so does `mynah train --probe`");
    };
    let mynah = load::named(args.model.as_deref(), &args.engine)?;
    let adapter = load::ready(&mynah, path, &args.other, out::say)?;
    let verdict = mynah.verify(&adapter, &probe).map_err(|e| e.in_file(path.to_string_lossy()))?;
    match json {
        true => out::print_json(&machine(&verdict))?,
        false => out::print(&eyes(&verdict, &mynah))?,
    }
    anyhow::ensure!(verdict.differences.is_empty(), "{name}: it does not do what it did");
    Ok(Outcome::Done)
}

/// Writes the adapter with a new proof.
fn record(args: &Verify, file: Bytes, text: &str, output: &Path) -> anyhow::Result<Outcome> {
    let model: Vec<Named> = args.model.iter().flat_map(|path| paths::of_model(path)).collect();
    paths::apart(&[Named::new("-o", output)], &model)?;
    paths::writable(output)?;
    let name = out::name(output);
    if output.exists() && !args.force {
        return Err(Usage::error(format!("-o {name} exists: --force replaces it, or name another file")));
    }
    let mynah = load::named(args.model.as_deref(), &args.engine)?;
    let adapter = load::ready(&mynah, &args.adapter, &OtherBase::default(), out::say)?;
    let probe = mynah.probe(&adapter, &mynah.tokenizer().prompt(text, false)?)?;
    let bytes = probe::with(file, &probe, &Limits::default())?;
    map::replace(output, &bytes)?;
    let (all, own) = (out::number(bytes.len() as u64), probe.encode().len());
    out::say(&format!("saved {name}, {all} bytes, {own} of them the proof of effect"));
    Ok(Outcome::Done)
}

fn machine(verdict: &Verdict) -> serde_json::Value {
    let whose = |whose: &Whose| if *whose == Whose::Plain { "plain" } else { "adapted" };
    let differences: Vec<_> = verdict
        .differences
        .iter()
        .map(|difference| match difference {
            Difference::Token { whose: of, place, was, now } => {
                json!({ "whose": whose(of), "place": place, "was": was, "now": now })
            }
            Difference::Logit { whose: of, token, was, now } => {
                json!({ "whose": whose(of), "token": token, "was": was, "now": now })
            }
        })
        .collect();
    json!({
        "same": differences.is_empty(),
        "tokens": verdict.compared[0],
        "logits": verdict.compared[1],
        "distance": verdict.distance,
        "loss": verdict.loss,
        "differences": differences,
    })
}

fn eyes(verdict: &Verdict, mynah: &Mynah) -> String {
    let [tokens, logits] = verdict.compared;
    if verdict.differences.is_empty() {
        return format!(
            "applied, and it does what it did: {tokens} tokens are the same, and {logits} logits within {TOLERANCE} \
             (at most {} apart)\n",
            verdict.distance
        );
    }
    let spelt = |id: u32| format!("{:?} ({id})", String::from_utf8_lossy(mynah.tokenizer().token_bytes(id)));
    let line = |difference: &Difference| match *difference {
        Difference::Token { whose, place, was, now } => {
            format!("{whose}: token {place} of the answer was {}, now {}\n", spelt(was), spelt(now))
        }
        Difference::Logit { whose, token, was, now } => {
            format!(
                "{whose}: the logit of {} was {was:.4}, now {now:.4}, {:.4} apart\n",
                spelt(token),
                (was - now).abs()
            )
        }
    };
    let all: String = verdict.differences.iter().map(line).collect();
    let [was, now] = verdict.loss;
    all + &format!("loss of the adapted answer: {was:.4}, now {now:.4}\n")
}
