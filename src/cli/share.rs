//! `mynah share` and `mynah receive`: an adapter as QR codes, and back.

use crate::args::{Receive, Share, Usage};
use crate::names::{self, What};
use crate::paths::{self, Named};
use crate::train::quote;
use crate::{Outcome, out};
use anyhow::Context;
use mynah::adapter;
use mynah::bytes::{Bytes, Limits, map};
use mynah::error::printable;
use mynah::picture::{self, Code, Parts};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use terminal_size::{Height, Width};

pub fn share(args: &Share, as_json: bool) -> anyhow::Result<Outcome> {
    let limits = Limits::default();
    let picture = args.qr.as_deref().filter(|path| *path != Path::new("-"));
    if as_json && picture.is_none() {
        return Err(Usage::error("--json prints no picture: name a file with --qr OUT.png"));
    }
    names::check(&args.adapter, What::Adapter)?;
    let bytes = map::open(&args.adapter)?;
    let named = |e: mynah::Error| e.in_file(args.adapter.to_string_lossy());
    adapter::info(bytes.clone(), &limits).map_err(named)?;
    let small = "`mynah train --bytes 2953` makes an adapter that one code holds, `mynah pack` a smaller one of this";
    let codes = picture::codes(&bytes, &limits).map_err(|e| anyhow::anyhow!("{}; {small}", named(e)))?;
    match picture {
        None => show(&codes, &args.adapter)?,
        Some(path) => {
            let paths = files(path, codes.len())?;
            free(&paths, args)?;
            for (path, code) in paths.iter().zip(&codes) {
                map::replace(path, &code.png()?)?;
            }
            match as_json {
                true => out::print_json(&report(bytes.len(), &codes, &paths))?,
                false => say_files(bytes.len(), &codes, &paths, &args.adapter)?,
            }
        }
    }
    Ok(Outcome::Done)
}

/// The file of each code: the one that is named, or of a set `OUT-1-of-3.png` and so on, such that they sort.
fn files(path: &Path, count: usize) -> anyhow::Result<Vec<PathBuf>> {
    if !path.extension().is_some_and(|end| end.eq_ignore_ascii_case("png")) {
        return Err(Usage::error(format!("--qr {}: it must end in .png", out::name(path))));
    }
    if count == 1 {
        return Ok(vec![path.into()]);
    }
    let digits = count.to_string().len();
    let name = |i: usize| {
        let mut name = path.file_stem().unwrap_or_default().to_os_string();
        name.push(format!("-{i:0digits$}-of-{count}."));
        name.push(path.extension().unwrap_or_default());
        path.with_file_name(name)
    };
    Ok((1..=count).map(name).collect())
}

/// Checks that the pictures can be written, and replace nothing that is to stay.
fn free(paths: &[PathBuf], args: &Share) -> anyhow::Result<()> {
    let written: Vec<Named> = paths.iter().map(|path| Named::new("--qr", path)).collect();
    paths::apart(&written, &[Named::new("ADAPTER", &args.adapter)])?;
    paths.iter().try_for_each(|path| unused("--qr", path, args.force))
}

/// Checks that a file can be written, and is not there unless it may be replaced.
fn unused(option: &str, path: &Path, force: bool) -> anyhow::Result<()> {
    paths::writable(path)?;
    if path.exists() && !force {
        let path = out::name(path);
        return Err(Usage::error(format!("{option} {path} exists: --force replaces it, or name another file")));
    }
    Ok(())
}

fn report(bytes: usize, codes: &[Code], paths: &[PathBuf]) -> serde_json::Value {
    let row = |(code, path): (&Code, &PathBuf)| {
        json!({
            "file": path.to_string_lossy(),
            "version": code.version(),
            "correction": code.correction(),
            "modules": code.side(),
            "pixels": code.side() * code.module(),
        })
    };
    json!({ "bytes": bytes, "codes": codes.iter().zip(paths).map(row).collect::<Vec<_>>() })
}

fn say_files(bytes: usize, codes: &[Code], paths: &[PathBuf], adapter: &Path) -> anyhow::Result<()> {
    for (code, path) in codes.iter().zip(paths) {
        let (side, version, level) = (code.side() * code.module(), code.version(), code.correction());
        out::print(&format!("{}  {side} × {side} pixels, version {version}-{level}\n", out::name(path)))?;
    }
    let names: Vec<String> = paths.iter().map(|path| quote(path)).collect();
    let (bytes, count) = (out::count(bytes as u64, "byte"), out::count(codes.len() as u64, "QR code"));
    let name = adapter.file_name().map_or("adapter.mynah".into(), |name| quote(Path::new(name)));
    out::say(&format!(
        "{bytes} in {count}. On the device that has the pictures, or photos of them: mynah receive {} -o {name}",
        names.join(" ")
    ));
    Ok(())
}

/// Draws codes in the terminal, one after the other.
fn show(codes: &[Code], adapter: &Path) -> anyhow::Result<()> {
    let terminal = std::io::stdout().is_terminal();
    let [columns, lines] = codes.iter().fold([0; 2], |most, code| {
        let [columns, lines] = code.cells();
        [columns.max(most[0]), lines.max(most[1])]
    });
    // Below the code stands the line that says what it is.
    let lines = lines + 2;
    if let Some((Width(w), Height(h))) = terminal_size::terminal_size().filter(|_| terminal)
        && (u32::from(w) < columns || u32::from(h) < lines)
    {
        let picture = adapter.with_extension("png");
        let picture = picture.file_name().map_or("out.png".into(), |name| quote(Path::new(name)));
        anyhow::bail!(
            "the terminal has {w} columns and {h} lines, and the code takes {columns} and {lines}: enlarge it or choose smaller \
             letters, or write a picture: mynah share {} --qr {picture}",
            quote(adapter)
        );
    }
    for (i, code) in (1..).zip(codes) {
        out::print_own(code.text().as_bytes())?;
        let more = i < codes.len() && terminal && std::io::stdin().is_terminal();
        out::say(&format!("QR code {i} of {}{}", codes.len(), if more { "; Enter shows the next" } else { "" }));
        if more {
            std::io::stdin().read_line(&mut String::new()).context("standard input")?;
        }
    }
    Ok(())
}

pub fn receive(args: &Receive, as_json: bool) -> anyhow::Result<Outcome> {
    let limits = Limits::default();
    let read: Vec<Named> = args.pictures.iter().map(|path| Named::new("PICTURE", path)).collect();
    paths::apart(&[Named::new("-o", &args.output)], &read)?;
    unused("-o", &args.output, args.force)?;
    let (parts, troubles) = collect(&args.pictures, &limits)?;
    let codes = parts.count();
    let file = parts.finish().map_err(|e| match troubles.is_empty() {
        true => e.into(),
        false => anyhow::anyhow!("{}; {e}", troubles.join("; ")),
    })?;
    let bytes = Bytes::from(file);
    let info =
        adapter::info(bytes.clone(), &limits).map_err(|e| anyhow::anyhow!("the QR codes hold no adapter: {e}"))?;
    map::replace(&args.output, &bytes)?;
    let (kind, path) = (printable(info.kind()), &args.output);
    if as_json {
        out::print_json(
            &json!({ "file": path.to_string_lossy(), "bytes": bytes.len(), "codes": codes, "kind": kind }),
        )?;
        return Ok(Outcome::Done);
    }
    let (bytes, codes) = (out::count(bytes.len() as u64, "byte"), out::count(codes as u64, "QR code"));
    out::print(&format!("{}: an adapter of the kind {kind}, {bytes} from {codes}\n", out::name(path)))?;
    let name = quote(path);
    out::say(&format!(
        "\nWhat is in it, and how to use it, with -m for the model that it was trained on:\n\n  \
         mynah inspect {name}\n  mynah run -a {name} -p 'Once upon a time'\n"
    ));
    Ok(Outcome::Done)
}

/// The codes in pictures, and what is wrong with pictures in which none can be read.
fn collect(pictures: &[PathBuf], limits: &Limits) -> anyhow::Result<(Parts, Vec<String>)> {
    let (mut parts, mut troubles) = (Parts::new(), Vec::new());
    let mut first: BTreeMap<usize, String> = BTreeMap::new();
    for path in pictures {
        let named = |e: mynah::Error| e.in_file(path.to_string_lossy());
        let found = picture::read(&map::read(path, limits.picture)?, limits).map_err(named)?;
        let name = out::name(path);
        let unread = "a QR code is there and cannot be read; take it again: nearer, sharper, straight from the front";
        match (found.payloads.len(), found.unread) {
            (0, 0) => troubles.push(format!("{name}: no QR code is found")),
            (0, _) => troubles.push(format!("{name}: {unread}")),
            (_, 0) => {}
            (_, _) => out::say(&format!("{name}: {unread}")),
        }
        for payload in &found.payloads {
            let added = parts.add(payload, limits).map_err(named)?;
            if added.again {
                let there = &first[&added.number];
                out::say(&format!("{name}: code {} of {} again, as in {there}", added.number, added.count));
            } else {
                first.insert(added.number, name.clone());
            }
        }
    }
    Ok((parts, troubles))
}
