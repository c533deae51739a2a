//! `mynah convert`: adapters to and from the formats of other programs.

use crate::args::{Convert, Form, Usage};
use crate::names::{self, What};
use crate::paths::{self, Named};
use crate::{Outcome, load, out};
use anyhow::Context;
use mynah::Mynah;
use mynah::adapter::{self, Ready, gguf_adapter, mlx, peft};
use mynah::bytes::{Limits, map};
use serde::Serialize;
use std::path::Path;

/// Something that IN can be.
struct Input {
    /// Whether it is that.
    fits: fn(&Path) -> bool,
    convert: fn(&Convert, bool) -> anyhow::Result<Outcome>,
}

/// What IN can be. The first row that fits counts; what is none of the others is an adapter, or whoever reads those says what
/// it is.
const INPUTS: &[Input] = &[
    Input { fits: crate::folder::fits, convert: crate::folder::convert },
    Input { fits: |_| true, convert: convert_adapter },
];

/// The ends of names that say what is written.
const ENDS: &[(&str, Form)] = &[("gguf", Form::Gguf), ("mynah", Form::Mynah)];

#[derive(Serialize)]
struct Report {
    output: String,
    to: String,
    kind: &'static str,
    written_as: &'static str,
    bytes: usize,
}

pub fn convert(args: &Convert, json: bool) -> anyhow::Result<Outcome> {
    let input = INPUTS.iter().find(|input| (input.fits)(&args.input));
    let input = input.with_context(|| format!("{}: nothing that can be converted", out::name(&args.input)))?;
    (input.convert)(args, json)
}

/// What is written.
fn form(args: &Convert) -> anyhow::Result<Form> {
    let ends = |end: &str| args.output.extension().is_some_and(|e| e.eq_ignore_ascii_case(end));
    let named = ENDS.iter().find(|(end, _)| ends(end)).map(|(_, form)| *form);
    match (args.to.or(named), ["safetensors", "bin", "json", "npz"].iter().find(|end| ends(end))) {
        (Some(form), _) => Ok(form),
        (None, Some(end)) => Err(Usage::error(format!(
            "{}: PEFT and MLX keep an adapter in a directory; name one without .{end}",
            out::name(&args.output)
        ))),
        (None, None) => Ok(Form::Peft),
    }
}

fn check(args: &Convert, form: Form) -> anyhow::Result<()> {
    for (option, given) in [("--type", args.floats.is_some()), ("--name", args.name.is_some())] {
        if given {
            return Err(Usage::error(format!("{option}: it is for a folder of a model, and IN is none")));
        }
    }
    names::check(&args.input, What::Adapter)?;
    let mut read = vec![Named::new("IN", &args.input)];
    read.extend(args.model.iter().flat_map(|path| paths::of_model(path)));
    paths::apart(&[Named::new("OUT", &args.output)], &read)?;
    if args.output.exists() && !args.force {
        let path = out::name(&args.output);
        return Err(Usage::error(format!("{path} exists: --force replaces it, or name another")));
    }
    match form {
        Form::Gguf | Form::Mynah => paths::writable(&args.output),
        // The folder that it is made in takes files.
        Form::Peft | Form::Mlx => {
            let folder = args.output.exists() && !args.output.is_dir();
            anyhow::ensure!(!folder, "{}: it is a file, and a directory is written", out::name(&args.output));
            let beside = args.output.parent().unwrap_or(Path::new("")).join(".mynah-convert.tmp");
            paths::writable(&beside)
        }
    }
}

fn convert_adapter(args: &Convert, json: bool) -> anyhow::Result<Outcome> {
    let form = form(args)?;
    check(args, form)?;
    let mynah = load::named(args.model.as_deref(), &args.engine)?;
    let ready = load::ready(&mynah, &args.input, &args.other, out::say)?;
    let kind = ready.kind().name;
    let lora = ready.low_rank().is_some() && form != Form::Mynah;
    let written_as = if lora { "lora" } else { kind };
    if written_as != kind {
        let rank = ready.low_rank().map_or(0, |(layout, _)| layout.rank());
        out::say(&format!(
            "other programs have no {kind}: it is written as the LoRA of rank {rank} that it amounts to"
        ));
    }
    let bytes = write(args, form, &mynah, &ready)?;
    let to = format!("{form:?}").to_lowercase();
    let report = Report { output: out::name(&args.output), to, kind, written_as, bytes };
    if json {
        out::print_json(&report)?;
    } else {
        let what = match form {
            Form::Peft => "a directory for PEFT",
            Form::Mlx => "a directory for MLX",
            Form::Gguf => "a GGUF adapter",
            Form::Mynah => "an adapter of mynah",
        };
        let n = out::number(report.bytes as u64);
        out::print(&format!("{}: {what}, {written_as}, {n} bytes\n", report.output))?;
    }
    Ok(Outcome::Done)
}

/// Writes OUT: the number of its bytes.
fn write(args: &Convert, form: Form, mynah: &Mynah, ready: &Ready) -> anyhow::Result<usize> {
    let (adapter, base) = (&**ready, mynah.base());
    let file = match form {
        Form::Peft => return folder(args, peft::write(adapter, base)?),
        Form::Mlx => return folder(args, mlx::write(adapter, base)?),
        Form::Gguf => gguf_adapter::write(adapter, base)?,
        Form::Mynah => own(args, mynah, ready)?,
    };
    map::replace(&args.output, &file)?;
    Ok(file.len())
}

fn folder(args: &Convert, files: [(&str, Vec<u8>); 2]) -> anyhow::Result<usize> {
    map::replace_folder(&args.output, &files)?;
    Ok(files.iter().map(|(_, bytes)| bytes.len()).sum())
}

/// mynah's own file: the smallest that holds the values exactly, with where the adapter comes from if that is known.
fn own(args: &Convert, mynah: &Mynah, ready: &Ready) -> anyhow::Result<Vec<u8>> {
    let info = match args.input.is_dir() {
        true => None,
        false => adapter::info(load::adapter_in(map::open(&args.input)?), &Limits::default()).ok(),
    };
    let origin = info.and_then(|info| info.provenance).unwrap_or_default();
    let small = adapter::to_bytes(&**ready, mynah.base(), &origin)?;
    match mynah.adapter(small.clone())?.params() == ready.params() {
        true => Ok(small),
        false => Ok(adapter::to_bytes_as(&**ready, mynah.base(), &origin, "f32")?),
    }
}
