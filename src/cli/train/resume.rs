//! Checkpoints of a run, and how it continues from them.

use crate::args::{Cli, Methods, Table, Train, Usage, lacks, loose, renamed};
use crate::paths::same;
use crate::{meter, out};
use anyhow::Context;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command, ValueHint};
use mynah::Error;
use mynah::Lesson;
use mynah::app::Ended;
use mynah::bytes::{Cursor, Limits, room};
use mynah::container::head::{Field, Head};
use mynah::train::Checkpoint;
use mynah::train::folder::{self, Folder};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bytes that reading the options takes, with room to spare.
const READING: usize = 4 << 20;
/// Time between checkpoints where nothing is said.
const EVERY: Duration = Duration::from_secs(60);
/// Options of this part of a run alone: a checkpoint does not keep them.
const PASSING: [&str; 6] = ["resume", "checkpoints", "threads", "max-minutes", "max-steps", "force"];
/// Options of which one takes the place of the other.
const EITHER: [[&str; 2]; 4] = [["steps", "epochs"], ["epochs", "steps"], ["recompute", "keep"], ["keep", "recompute"]];

/// The command line; of a training run, what was asked for now or before, and where it continues.
pub struct Line {
    pub cli: Cli,
    /// Options of `train` by name, with their values.
    pub options: Head,
    pub resumed: Option<Resumed>,
}

/// A run that continues.
pub struct Resumed {
    pub folder: Folder,
    pub saved: Saved,
}

/// What it continues from.
pub struct Saved {
    pub checkpoint: Checkpoint,
    /// Whether `--init` now names another file than before.
    pub other_init: bool,
    /// Whether `-o` does.
    pub other_output: bool,
    /// Names of the options that this command line has; others come from the checkpoint.
    pub named: Vec<String>,
    /// What chat templates took for now, in seconds since 1970.
    pub clock: i64,
}

impl Line {
    /// Reads the command line. What `mynah train --resume DIR` does not say comes from the newest checkpoint in DIR.
    pub fn read() -> anyhow::Result<Line> {
        // The reader of options takes its memory in pieces, and ends the process where there is none.
        room("the command line", READING)?;
        let args: Vec<OsString> = std::env::args_os().collect();
        // Beside --resume nothing need be given. Whatever is wrong otherwise is left to the strict reading.
        let command = loose();
        let matches = command.clone().try_get_matches_from(&args).ok();
        let train = matches.as_ref().and_then(|m| m.subcommand_matches("train"));
        let (Some(given), Some(train)) = (train, command.find_subcommand("train")) else {
            return Ok(Line { cli: Cli::read(args)?, options: Head::new(), resumed: None });
        };
        let given_options = collect(train, given);
        let Some(path) = given.get_one::<PathBuf>("resume") else {
            return Ok(Line { cli: Cli::read(args)?, options: kept(given_options), resumed: None });
        };
        if let Some(other) = given.get_one::<PathBuf>("checkpoints").filter(|other| !same(other, path)) {
            let (path, other) = (out::name(path), out::name(other));
            return Err(Usage::error(format!(
                "--resume {path} continues in that folder, not in --checkpoints {other}"
            )));
        }
        if !path.is_dir() {
            return Err(Usage::error(format!("--resume {}: there is no such folder", out::name(path))));
        }
        let folder = Folder::open(path)?;
        let skipped = |e: &Error| out::say(&format!("skipped: {e}"));
        let Some(checkpoint) = folder.newest(&Limits::default(), skipped)? else {
            let path = out::name(path);
            return Err(Usage::error(format!("--resume {path}: the folder holds no checkpoint; start a new run")));
        };
        let noted = || {
            let before = Head::decode(&checkpoint.note("options")?, &Limits::default())?;
            Ok((before, Cursor::new(&checkpoint.note("clock")?).u64()? as i64))
        };
        let file = folder.file(checkpoint.step());
        let (before, clock) = noted().map_err(|e: Error| e.in_file(file.to_string_lossy()))?;
        let changed = |name| given_options.get(name).is_some_and(|now| before.get(name) != Some(now));
        let (other_init, other_output) = (changed("init"), changed("output"));
        let named = given_options.fields().map(|(name, _)| name.to_string()).collect();
        let said = |name| given_options.get(name).or(before.get(name));
        let method = match said("method") {
            Some(Field::List(values)) => values.first().map(String::as_str),
            _ => None,
        };
        let mut all = Head::new();
        for (name, value) in before.fields() {
            let name = renamed(name);
            let displaced = EITHER.iter().any(|[one, other]| name == *other && given_options.get(one).is_some());
            // Checkpoints of version 0.1 may hold settings of other methods, which meant nothing.
            let stray = lacks::<Methods>(method.unwrap_or(Methods::DEFAULT), name);
            if !displaced && !stray {
                all.set(name, value.clone());
            }
        }
        given_options.fields().for_each(|(name, value)| _ = all.set(name, value.clone()));
        let json = given.get_flag("json").then_some("--json".into());
        let line = ["mynah".into(), "train".into()].into_iter().chain(json).chain(spell(&all));
        let cli = Cli::read(line)?;
        Ok(Line {
            cli,
            options: kept(all),
            resumed: Some(Resumed { folder, saved: Saved { checkpoint, other_init, other_output, named, clock } }),
        })
    }
}

/// Every option of a command that was given, with its values as texts; paths are made absolute. What is not UTF-8 is
/// left out, and must be given again to continue.
fn collect(command: &Command, given: &ArgMatches) -> Head {
    let mut out = Head::new();
    for arg in command.get_arguments() {
        let (id, Some(name)) = (arg.get_id().as_str(), arg.get_long()) else { continue };
        if given.value_source(id) != Some(ValueSource::CommandLine) {
            continue;
        }
        let path = arg.get_value_hint() == ValueHint::AnyPath;
        let value = |raw: &OsStr| match path {
            true => std::path::absolute(raw).ok()?.into_os_string().into_string().ok(),
            false => raw.to_str().map(String::from),
        };
        let raw = if arg.get_action().takes_values() { given.get_raw(id) } else { None };
        let values: Option<Vec<String>> = raw.into_iter().flatten().map(value).collect();
        if let Some(values) = values {
            out.set(name, values);
        }
    }
    out
}

/// Without the options of the moment.
fn kept(options: Head) -> Head {
    let mut out = Head::new();
    let lasting = options.fields().filter(|(name, _)| !PASSING.contains(name));
    lasting.for_each(|(name, value)| _ = out.set(name, value.clone()));
    out
}

/// Options as words of a command line.
fn spell(options: &Head) -> Vec<OsString> {
    let mut words = Vec::new();
    for (name, value) in options.fields() {
        match value {
            Field::List(values) if values.is_empty() => words.push(format!("--{name}").into()),
            Field::List(values) => words.extend(values.iter().map(|v| format!("--{name}={v}").into())),
            _ => {}
        }
    }
    words
}

/// Where a run's checkpoints are where nothing is said.
pub fn default_folder(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_os_string();
    name.push(".checkpoints");
    name.into()
}

/// Refuses to begin where another run could be continued.
pub fn check_unused(path: &Path) -> anyhow::Result<()> {
    if folder::steps(path).is_ok_and(|steps| !steps.is_empty()) {
        let quoted = quote(path);
        let why =
            format!("{} holds checkpoints of a run; `mynah train --resume {quoted}` continues it", out::name(path));
        return Err(Usage::error(why + ". To begin a new run, remove the folder or name another"));
    }
    Ok(())
}

/// A path as a shell takes it.
pub fn quote(path: &Path) -> String {
    word(&path.to_string_lossy())
}

/// A word as a shell takes it.
pub fn word(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+,@:~".contains(c);
    if text.chars().all(plain) && !text.is_empty() { text.into() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// Writes the checkpoints of a run.
pub struct Saver {
    options: Head,
    path: PathBuf,
    folder: Option<Folder>,
    own: bool,
    every: Option<u64>,
    last: Instant,
    saved: Option<u64>,
}

impl Saver {
    /// In the folder of a run that is resumed, which is at this step, the one that was asked for, or one beside the output,
    /// which is made when it is needed and goes when the run has ended. `options` are those that a checkpoint holds.
    pub fn new(args: &Train, options: Head, resumed: Option<(Folder, u64)>) -> anyhow::Result<Self> {
        let default = default_folder(&args.output);
        let (path, folder, saved) = match (resumed, &args.teach.checkpoints) {
            (Some((folder, step)), _) => (folder.path().to_path_buf(), Some(folder), Some(step)),
            (None, Some(path)) => (path.clone(), Some(Folder::open(path)?), None),
            (None, None) => (default.clone(), None, None),
        };
        let own = same(&path, &default);
        let saver = Saver { options, path, folder, own, every: args.teach.save_every, last: Instant::now(), saved };
        saver.hint();
        Ok(saver)
    }

    /// Whether it is time for a checkpoint after this step. `improved`: it has the lowest held-out loss so far.
    pub fn due(&self, step: u64, improved: bool) -> bool {
        let time = self.every.map_or_else(|| self.last.elapsed() >= EVERY, |n| step.is_multiple_of(n));
        time || (improved && !self.own)
    }

    /// Whether a run that ended so, or paused, wants a last one.
    pub fn wants_last(&self, ended: Option<Ended>) -> bool {
        !(self.own && matches!(ended, Some(Ended::Done | Ended::Early)))
    }

    pub fn save(&mut self, lesson: &Lesson) -> anyhow::Result<()> {
        let folder = match &mut self.folder {
            Some(folder) => folder,
            None => self.folder.insert(Folder::open(&self.path)?),
        };
        let bytes = lesson.checkpoint_with(&[("options", &self.options.encode())])?;
        let (history, step) = (lesson.history(), lesson.history().steps());
        folder.save(step, &bytes, history.best().map(|best| best.0))?;
        (self.last, self.saved) = (Instant::now(), Some(step));
        self.hint();
        Ok(())
    }

    /// The command that continues, if there is a checkpoint.
    pub fn command(&self) -> Option<String> {
        self.saved.map(|_| format!("mynah train --resume {}", quote(&self.path)))
    }

    fn hint(&self) {
        meter::at_second_interrupt(self.command().map(|command| format!("continue with: {command}")));
    }

    /// The run has ended and its result is in safety.
    pub fn finish(self) -> anyhow::Result<()> {
        match self.folder.filter(|_| self.own) {
            Some(folder) => folder.remove().context("remove the checkpoints"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_survive_as_words() {
        let read = |line: &str| {
            let command = loose();
            let matches = command.clone().try_get_matches_from(line.split(' ')).unwrap();
            let train = matches.subcommand_matches("train").unwrap();
            collect(command.find_subcommand("train").unwrap(), train)
        };
        let line = "mynah train -m m.gguf -d d.txt -o o --rank-stabilised --lr 1e-3 --threads 2 --steps 5 --resume r";
        let all = read(line);
        let again: Vec<String> = spell(&all).into_iter().map(|w| w.into_string().unwrap()).collect();
        assert_eq!(read(&format!("mynah train {}", again.join(" "))), all);
        let kept = kept(all);
        let names: Vec<&str> = kept.fields().map(|(name, _)| name).collect();
        assert_eq!(names, ["data", "lr", "model", "output", "rank-stabilised", "steps"]);
        assert!(Path::new(&kept.list("model").unwrap()[0]).is_absolute());
        assert_eq!(kept.list("lr").unwrap(), ["1e-3"]);
    }

    #[test]
    fn paths_are_quoted_for_a_shell() {
        for (path, quoted) in [("a/b-1.x", "a/b-1.x"), ("a b", "'a b'"), ("it's", "'it'\\''s'"), ("", "''")] {
            assert_eq!(quote(Path::new(path)), quoted);
        }
    }
}
