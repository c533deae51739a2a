//! `mynah methods`: the kinds of adapters, and what each is for a model.

use crate::args::Catalogue as Options;
use crate::out::table;
use crate::train::held;
use crate::{Outcome, load, out};
use mynah::Mynah;
use mynah::adapter::{self, KINDS, Kind, Spec, budget, compress};
use serde_json::json;

/// A kind with its usual settings, on a model.
struct Row {
    kind: &'static Kind,
    parameters: usize,
    file: usize,
    memory: usize,
    bakes: bool,
}

/// What a kind is for a model; why not, where it does not go with it.
fn row(kind: &'static Kind, mynah: &Mynah, options: &Options) -> mynah::Result<Row> {
    let (spec, base) = (Spec::new(kind.name), mynah.base());
    let adapter = adapter::create(&spec, base)?;
    let file = budget::bytes(&spec, &compress::Spec::new(kind.codec.unwrap_or("f16")), base)?;
    let setup = mynah.lesson(spec).settings(|s| (s.context, s.batch) = (options.ctx, options.batch.unwrap_or(s.batch)));
    let memory = setup.plan(held())?.map_or_else(|refusal| refusal.least.total(), |plan| plan.total());
    let bakes = adapter.shape().slots.iter().all(|slot| adapter.bakes(slot.place));
    Ok(Row { kind, parameters: adapter.shape().size.params, file, memory, bakes })
}

pub fn methods(options: &Options, as_json: bool) -> anyhow::Result<Outcome> {
    let mynah = load::named(options.model.as_deref(), &options.engine)?;
    let rows = KINDS.iter().map(|kind| (*kind, row(kind, &mynah, options)));
    if as_json {
        let all = rows.map(|(kind, row)| match row {
            Ok(row) => json!({
                "method": kind.name,
                "about": kind.about,
                "parameters": row.parameters,
                "file": row.file,
                "memory": row.memory,
                "bakes": row.bakes,
            }),
            Err(e) => json!({ "method": kind.name, "about": kind.about, "refused": e.to_string() }),
        });
        out::print_json(&all.collect::<Vec<_>>())?;
        return Ok(Outcome::Done);
    }
    let mut shown = table(&["method", "parameters", "file", "training", "bakes", "what is trained"], 1..4);
    for (kind, row) in rows {
        let [parameters, file, memory, bakes] = match &row {
            Ok(row) => [
                out::number(row.parameters as u64),
                out::bytes(row.file as u64),
                out::bytes(row.memory as u64),
                if row.bakes { "yes" } else { "no" }.into(),
            ],
            Err(_) => ["-", "-", "-", "-"].map(String::from),
        };
        let about = row.map_or_else(|e| format!("not for this model: {e}"), |row| row.kind.about.into());
        shown.add_row([kind.name, &parameters, &file, &memory, &bakes, &about]);
    }
    let more = "With the usual settings. training: bytes of the whole process at its peak, the mapped model included\n\
        bakes: `mynah bake` can make it part of the weights\n\
        `mynah train --bytes SIZE` without --method chooses one for a file size, `mynah train --help` lists the settings";
    out::print(&format!("{}\n\n{more}\n", shown.trim_fmt()))?;
    Ok(Outcome::Done)
}
