//! Where a run's result goes: checked before, written after.

use super::activation_cache::is_cache;
use super::reference;
use super::resume::{Resumed, quote};
use crate::args::{FULL, Train, Usage};
use crate::load::split_scale;
use crate::out;
use crate::paths::{self, Named};
use mynah::adapter;
use mynah::bytes::{Limits, map};
use mynah::error::printable;
use mynah::gguf::Gguf;
use mynah::train::objective::Kind;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// What a run may write that is resumed and whose output this command line does not name: a checkpoint may come from another
/// person, and must not say which of this one's files is lost. That is what is there and such a file already, or a new file
/// beside the checkpoints or here.
pub fn check_recorded(args: &Train, resumed: &Resumed) -> anyhow::Result<()> {
    let (teach, folder) = (&args.teach, resumed.folder.path());
    let full = teach.method.kind() == FULL;
    let result: &Ours =
        if full { &|path| is_adapter(path) || is_model(path) && paths::beside(path, folder) } else { &is_adapter };
    let rows: [(&str, Option<&Path>, &str, &Ours); 3] = [
        ("output", Some(&args.output), if full { "no model beside the checkpoints" } else { "no adapter" }, result),
        ("log", teach.log.as_deref(), "no log of a run", &is_log),
        ("activation-cache", teach.activation_cache.as_deref(), "no such cache", &|path| is_cache(path)),
    ];
    for (name, path, other, ours) in rows {
        let Some(path) = path.filter(|_| !resumed.saved.named.iter().any(|named| named == name)) else { continue };
        let why = match path.symlink_metadata() {
            Ok(meta) if meta.is_file() && ours(path) => continue,
            Ok(_) => other,
            Err(_) if paths::beside(path, folder) => continue,
            Err(_) => "elsewhere",
        };
        let path = printable(&path.to_string_lossy());
        let how = format!("--{name} {} writes it", quote(Path::new(&path)));
        return Err(Usage::error(format!("the checkpoint names {path}, which is {why}: if you mean that, {how}")));
    }
    Ok(())
}

/// Whether a file is what a run writes there.
type Ours<'a> = dyn Fn(&Path) -> bool + 'a;

fn is_adapter(path: &Path) -> bool {
    map::open(path).and_then(|bytes| adapter::info(bytes, &Limits::default())).is_ok()
}

/// A model in F32, as training all weights writes it.
fn is_model(path: &Path) -> bool {
    let file = Gguf::open(path, &Limits::default());
    file.is_ok_and(|file| matches!(file.u32("general.file_type"), Ok(Some(0))))
}

fn is_log(path: &Path) -> bool {
    let begin = begin(path, 4096);
    let Some(line) = begin.split(|b| *b == b'\n').next().filter(|line| !line.is_empty()) else {
        return begin.is_empty();
    };
    let row = serde_json::from_slice::<serde_json::Value>(line);
    row.is_ok_and(|row| row.get("step").is_some() && row.get("loss").is_some())
}

/// The first bytes of a file.
fn begin(path: &Path, most: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    _ = File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes));
    bytes
}

/// What cannot be written, or must not be overwritten, is found before hours of work. `folder` is that of checkpoints; `own`
/// says that the output is one of the run that is resumed.
pub fn check(args: &Train, folder: Named, own: bool) -> anyhow::Result<()> {
    let teach = &args.teach;
    let mut written = vec![folder];
    written.extend(teach.log.as_ref().map(|path| Named::new("--log", path)));
    written.extend(teach.activation_cache.as_ref().map(|path| Named::new("--activation-cache", path)));
    if Kind::by_name(teach.objective.kind()).is_ok_and(|kind| kind.reference) {
        written.push(Named::new("the reference file beside -d", reference::beside(&args.data)));
    }
    let init: Vec<Named> = teach.init.iter().map(|path| Named::new("--init", path)).collect();
    paths::apart(&written, &init)?;
    let mut beneath = Vec::new();
    for name in &teach.adapters {
        beneath.push(Named::new("-a", split_scale(name)?.0));
    }
    // An adapter may take the place of the one it began from, which is read whole before.
    written.insert(0, Named::new("-o", &args.output));
    paths::apart(&written, &beneath)?;
    let model: Vec<Named> = args.model.iter().flat_map(|path| paths::of_model(path)).collect();
    paths::apart(&written, &model)?;
    paths::apart(&written, &[Named::new("-d", &args.data)])?;
    paths::writable(&args.output)?;
    if let Some(log) = teach.log.as_ref().filter(|log| log.metadata().map_or(true, |meta| meta.is_file())) {
        paths::writable(log)?;
    }
    if args.output.exists() && !args.force && !own {
        let path = out::name(&args.output);
        return Err(Usage::error(format!("-o {path} exists: --force replaces it, or name another file")));
    }
    Ok(())
}
