//! The file of reference log-probabilities beside the data: computed once, one file for each base.

use super::run::next;
use crate::args::setting;
use crate::meter::Meter;
use crate::out;
use mynah::Lesson;
use mynah::app::Work;
use mynah::bytes::map;
use mynah::train::data::is_stream;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// How files of ours begin.
const OURS: &[u8] = b"\x8dMYN";

/// Where they are saved.
pub fn beside(data: &Path) -> PathBuf {
    let mut name = OsString::from(data);
    name.push(".reference");
    name.into()
}

/// Fills in the reference log-probabilities of all rows: from the file beside the data, or computed and then saved there.
/// Ctrl-C ends the computation, and the lesson.
pub fn fill(data: &Path, lesson: &mut Lesson) -> anyhow::Result<()> {
    if !lesson.needs_reference() {
        return Ok(());
    }
    let path = beside(data);
    let stream = is_stream(data);
    if !stream && path.exists() {
        let found = map::open(&path).and_then(|bytes| lesson.fill_reference(bytes));
        if let Err(e) = found {
            out::say(&format!("{}: cannot be used here ({e}); computed again", out::name(&path)));
        }
    }
    let missing = lesson.missing_reference() as u64;
    if missing == 0 {
        out::say(&format!("{}: reference log-probabilities of the data", out::name(&path)));
        return Ok(());
    }
    let meter = Meter::new(missing);
    while lesson.upcoming() == Some(Work::Reference) {
        let Some(event) = next(lesson) else { break };
        setting(event)?;
        meter.show(missing - lesson.missing_reference() as u64, || "reference log-probabilities".into());
    }
    meter.done();
    if stream {
        return Ok(()); // there is nothing that a file could stand beside
    }
    // Without the file the next run computes it again: no reason to stop.
    if path.exists() && !map::open(&path).is_ok_and(|bytes| bytes.is_empty() || bytes.starts_with(OURS)) {
        out::say(&format!("{}: another file, which is left alone; log-probabilities are not saved", out::name(&path)));
        return Ok(());
    }
    match map::replace(&path, &lesson.reference_file()) {
        Ok(()) => {
            out::say(&format!("{}: reference log-probabilities of the data, saved for the next run", out::name(&path)))
        }
        Err(e) => out::say(&format!("the reference log-probabilities could not be saved: {e}")),
    }
    Ok(())
}
