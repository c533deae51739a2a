//! Where a run's result goes: checked before, written after.

use super::reference;
use crate::args::{Train, Usage};
use crate::load::split_scale;
use crate::paths::{self, Named};
use mynah::train::objective::Kind;

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
        let path = args.output.display();
        return Err(Usage::error(format!("-o {path} exists: --force replaces it, or name another file")));
    }
    Ok(())
}
