//! The proof of effect that `--probe` puts into an adapter.

use crate::args::{FULL, Teach, Usage};
use crate::out;
use mynah::adapter::probe;
use mynah::app::Lesson;
use mynah::bytes::Limits;
use mynah::train::Example;
use mynah::{Mynah, Result};

/// Tokens of a row that are given where all of it was learnt.
const GIVEN: usize = 8;

/// What can carry none is found before hours of work.
pub fn check(args: &Teach, mynah: &Mynah) -> anyhow::Result<()> {
    let why = match args.probe {
        Some(_) if args.method.kind() == FULL => {
            "a proof of effect lies in an adapter, and --method full writes a model"
        }
        Some(_) if !mynah.model().hparams.causal() => {
            "this model continues no text, so there is none to prove an effect by"
        }
        _ => return Ok(()),
    };
    Err(Usage::error(format!("--probe: {why}")))
}

/// The adapter's file with a proof. Without one it is still worth being saved, so an error is said alone.
pub fn added(args: &Teach, mynah: &Mynah, lesson: &Lesson, file: Vec<u8>) -> Vec<u8> {
    let Some(text) = &args.probe else { return file };
    match add(text, mynah, lesson, &file) {
        Ok(file) => file,
        Err(e) => {
            out::say(&format!("no proof of effect: {}", out::why(&e.into())));
            file
        }
    }
}

fn add(text: &str, mynah: &Mynah, lesson: &Lesson, file: &[u8]) -> Result<Vec<u8>> {
    let prompt = match (text, lesson.rows().first()) {
        ("", Some(row)) => beginning(row).to_vec(),
        _ => mynah.tokenizer().prompt(text, false)?,
    };
    // Values are rounded in the file: what it holds is what is proved.
    let probe = mynah.probe(&mynah.ready(file.to_vec())?, &prompt)?;
    probe::with(file.to_vec().into(), &probe, &Limits::default())
}

/// What comes before the first target or, where all of it is learnt, the first tokens.
fn beginning(row: &Example) -> &[u32] {
    // The first token is never predicted.
    let first = row.mask.iter().skip(1).position(|target| *target).map_or(row.tokens.len(), |i| i + 1);
    &row.tokens[..if first > 1 { first } else { GIVEN.min(row.tokens.len()) }]
}
