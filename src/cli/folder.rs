//! `mynah convert` of a folder of Hugging Face's: a model file.

use crate::args::{Convert, Form, Usage};
use crate::rewrite::{Bar, new_file};
use crate::{Outcome, load, out};
use mynah::Mynah;
use mynah::bytes::{Limits, Sink, map};
use mynah::gguf::Gguf;
use mynah::rewrite::Mix;
use mynah::rewrite::folder::Folder;
use serde::Serialize;
use std::path::Path;

#[derive(Serialize)]
struct Converted {
    output: String,
    bytes: u64,
    architecture: String,
    tensors: usize,
}

/// Whether a path is the folder of a model, and not of an adapter.
pub fn fits(path: &Path) -> bool {
    path.join("config.json").is_file() && !path.join("adapter_config.json").exists()
}

pub fn convert(args: &Convert, json: bool) -> anyhow::Result<Outcome> {
    new_file("OUT", &args.output, args.force, &[crate::paths::Named::new("IN", &args.input)])?;
    if args.to.is_some_and(|to| to != Form::Gguf) {
        return Err(Usage::error("--to: a folder of a model becomes a GGUF file"));
    }
    let named = |e: mynah::Error| e.in_file(args.input.to_string_lossy());
    let folder = Folder::open(&args.input, &Limits::default()).map_err(named)?;
    let to = args.floats.map(|floats| Mix::by_name(&format!("{floats:?}"))).transpose()?;
    let name = args.name.as_deref();
    let (mut bar, cx) = (Bar::default(), load::compute(&args.engine)?);
    let fill = |sink: &mut dyn Sink| folder.convert(to, name, &cx, sink, &mut |p| bar.show(p)).map_err(named);
    // Whether the shapes of the tensors are those that the configuration says, the model itself knows.
    let loads = |new: &Path| {
        let file = Gguf::open(new, &Limits::default())?;
        Mynah::with(file, cx.clone()).map(drop).map_err(named)
    };
    let written = map::replace_checked(&args.output, fill, loads);
    bar.done();
    written?;
    let file = Gguf::open(&args.output, &Limits::default())?;
    let report = Converted {
        output: out::name(&args.output),
        bytes: std::fs::metadata(&args.output)?.len(),
        architecture: file.require_string("general.architecture")?.into(),
        tensors: file.tensors().len(),
    };
    if json {
        out::print_json(&report)?;
    } else {
        let Converted { output, bytes, architecture, tensors } = &report;
        out::print(&format!(
            "{output}: {architecture}, {}, {}\n",
            out::count(*tensors as u64, "tensor"),
            out::bytes(*bytes)
        ))?;
    }
    Ok(Outcome::Done)
}
