//! Options, their bounds and their help.

mod knobs;
mod look;
mod rewrite;
mod run;
mod share;
mod train;

pub use knobs::*;
pub use look::*;
pub use rewrite::*;
pub use run::*;
pub use share::*;
pub use train::*;

use crate::out;
use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Arg, ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use mynah::bytes::map::Io;
use mynah::knob::{Knob, Value};
use mynah::model::{ActType, CacheType};
use mynah::nn::linear::Precision;
use mynah::train::{Recompute, objective};
use std::ffi::OsString;
use std::io::Write;
use std::ops::{Bound, RangeBounds};
use std::path::PathBuf;

// Headings of the help texts.
const COMMON: &str = "Common options";
const ADAPTER: &str = "Adapter";
const DATA: &str = "Data";
const OPTIMISER: &str = "Optimiser";
const OBJECTIVE: &str = "Objective";
const MEMORY: &str = "Memory and speed";
const PROGRESS: &str = "Evaluation, checkpoints";
const ENGINE: &str = "Engine";
const LEARNING: &str = "Learning";
const SAMPLING: &str = "Sampling";
const MERGING: &str = "Merging";
const OTHER: &str = "Other options";

/// The command was used wrongly.
#[derive(Debug)]
pub struct Usage(pub String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

impl Usage {
    /// As the error of a command.
    pub fn error(text: impl Into<String>) -> anyhow::Error {
        Usage(text.into()).into()
    }
}

/// A setting of the caller's that the library refuses is wrong use; other errors stay what they are.
pub fn setting<T>(result: mynah::Result<T>) -> anyhow::Result<T> {
    result.map_err(|e| match e.inner() {
        mynah::Error::Invalid { .. } => Usage::error(e.to_string()),
        _ => e.into(),
    })
}

const TOP: &str = "\
Examples:
  mynah demo
      See everything in half a minute; no files needed
  mynah run -m model.gguf -p 'Once upon a time'
      Continue a text
  mynah train -m model.gguf -d notes.txt -o notes.mynah
      Train an adapter on a text; the model file is not changed
  mynah run -m model.gguf -a notes.mynah -p 'Once upon a time'
      The same model with the adapter

Results go to standard output, everything else to standard error. \
Exit status: 0 success, 1 failure, 2 wrong use, 130 interrupted, 141 the output pipe was closed, 143 terminated.";

/// Teaches a language model on the device it runs on.
///
/// mynah maps a quantised GGUF model, runs it, trains a small adapter (LoRA, NOLA or another kind) on your own text
/// while the model's weights stay frozen, and saves the adapter in a small file: 3 kB to 5 MB for a small model.
#[derive(Parser)]
#[command(version, after_help = TOP, max_term_width = 100, propagate_version = true)]
#[command(disable_help_flag = true, arg = help_option(), disable_version_flag = true, arg = version_option())]
pub struct Cli {
    /// Print results as JSON
    #[arg(long, global = true, help_heading = OTHER)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

// The parser's own option would be listed before all headings.
fn help_option() -> Arg {
    let help = Arg::new("help").short('h').long("help").action(ArgAction::Help);
    help.help("Print help; -h is a summary").global(true).help_heading(OTHER)
}

fn version_option() -> Arg {
    let version = Arg::new("version").short('V').long("version").action(ArgAction::Version);
    version.help("Print version").global(true).help_heading(OTHER)
}

/// The command line. What looks like a negative number is one, so that its bounds are what refuses it.
fn command() -> clap::Command {
    let number = |arg: Arg| match arg.get_action().takes_values() && !arg.is_allow_hyphen_values_set() {
        true => arg.allow_negative_numbers(true),
        false => arg,
    };
    Cli::command().mut_subcommands(|command| command.mut_args(number))
}

/// The command line in which `train --resume` needs no other options.
pub fn loose() -> clap::Command {
    command().mut_subcommand("train", |train| train.mut_args(|arg| arg.required(false)))
}

impl Cli {
    /// Reads a command line. Help and wrong use are printed and end the process.
    ///
    /// # Errors
    /// If help cannot be printed.
    pub fn read(words: impl IntoIterator<Item = OsString>) -> anyhow::Result<Cli> {
        let mut command = command();
        let read = command.try_get_matches_from_mut(words).and_then(|matches| Cli::from_arg_matches(&matches));
        read.or_else(|e| {
            let e = e.format(&mut command);
            // An error repeats what was typed, or what a checkpoint says was typed.
            let printed = match e.use_stderr() {
                true => {
                    out::say(e.render().to_string().trim_end());
                    Ok(())
                }
                false => e.print().and_then(|()| std::io::stdout().flush()),
            };
            match printed {
                Err(why) => Err(out::unwritten(why)),
                Ok(()) => std::process::exit(e.exit_code()),
            }
        })
    }
}

#[derive(Subcommand)]
pub enum Command {
    /// Show everything on the built-in model, in under a minute
    #[cfg(feature = "base")]
    Demo(Demo),
    /// Continue a text
    Run(Run),
    /// Talk with a model, and teach it with your feedback
    Chat(Chat),
    /// Teach a model a text: writes an adapter, or with --method full a model
    Train(Box<Train>),
    /// Plan the memory of a `train` command without running it
    Plan(Box<Plan>),
    /// Look at training data as the model will see it
    #[command(
        subcommand_required = true,
        after_help = "\
Examples:
  mynah data look notes.txt
  mynah data look -m model.gguf rows.jsonl"
    )]
    Data(Data),
    /// Measure how well a model predicts a text
    Eval(Eval),
    /// Make the file of an adapter smaller
    Pack(Pack),
    /// Write an adapter as another program reads it, or read one from there; or a model from a folder of Hugging Face's
    Convert(Convert),
    /// Write a model in another type: Q4_K_M, Q8_0, F16 and others
    Quantize(Quantize),
    /// Make adapters part of a model's weights: writes a model
    Bake(Bake),
    /// Make one adapter of several
    Merge(Merge),
    /// Turn texts into vectors, for search and comparison
    Embed(Embed),
    /// Show what a model computes for a text: losses and next-token logits
    Logits(Logits),
    /// Split a text into tokens
    Tokenize(Tokenize),
    /// Join tokens to text
    Detokenize(Detokenize),
    /// Show the contents of a model file or an adapter
    Inspect(Inspect),
    /// Check that an adapter does what it did where it was made
    Verify(Verify),
    /// Show an adapter as QR codes, on the screen or as a picture
    Share(Share),
    /// Read an adapter from pictures of QR codes
    Receive(Receive),
    /// List the architectures and block formats that are supported, and how each was tested
    #[command(after_help = "\
With --json: architectures, each with models, run, train, chat, logits and training; formats.

Examples:
  mynah models
  mynah models --json")]
    Models,
    /// List the kinds of adapters, with parameters, file size and training memory for a model
    Methods(Catalogue),
    /// Measure speed and memory: of a model, or of every kernel of this machine
    Bench(Bench),
    /// Show what this machine has, and what a model will take on it
    Doctor(Doctor),
}

/// Threads and cores.
#[derive(Args, Clone)]
pub struct Engine {
    /// Number of threads; results do not depend on it [default: all cores]
    #[arg(long, value_name = "N", value_parser = whole::<u16>(1..=1024))]
    pub threads: Option<u16>,
    /// CPU cores to use, by number; one thread on each
    #[arg(long, value_name = "CORE,..", value_delimiter = ',', conflicts_with = "threads", value_parser = whole::<usize>(0..))]
    pub cpus: Vec<usize>,
    /// How the model's file is read; `read` is for files on networks, and for those that others may change
    #[arg(long, value_name = "HOW", value_enum, default_value_t)]
    pub io: Access,
}

/// How a model's file is read.
#[derive(Clone, Copy, Default, ValueEnum)]
pub enum Access {
    /// Mapped: each part when it is first used
    #[default]
    Map,
    /// Whole, into memory of the program's own
    Read,
}

impl From<Access> for Io {
    fn from(access: Access) -> Io {
        match access {
            Access::Map => Io::Map,
            Access::Read => Io::Read,
        }
    }
}

/// A model with adapters, and how it is run.
#[derive(Args, Clone)]
pub struct ModelArgs {
    /// The model, a GGUF file [default: the built-in model]
    #[arg(short, long, value_name = "MODEL", required = cfg!(not(feature = "base")))]
    pub model: Option<PathBuf>,
    /// Attach an adapter: a file or a checkpoint of `mynah train`, a directory of PEFT or MLX, or a GGUF adapter.
    /// STRENGTH multiplies its effect [default: 1]. May be given several times
    #[arg(short, long = "adapter", value_name = "ADAPTER[:STRENGTH]")]
    pub adapters: Vec<String>,
    #[command(flatten)]
    pub other: OtherBase,
    #[command(flatten)]
    pub reading: Reading,
    #[command(flatten)]
    pub engine: Engine,
}

/// Which adapters may be attached.
#[derive(Args, Clone, Default)]
pub struct OtherBase {
    /// Attach adapters that were trained on another quantisation of the same model, and say what that costs. Shapes and
    /// tokenizer must be the same
    #[arg(long)]
    pub allow_other_base: bool,
}

/// How a model is read, and the precision of its computation.
#[derive(Args, Clone)]
pub struct Reading {
    /// Compute with 32-bit activations, and with a 32-bit cache unless --cache is given. Otherwise activations are rounded
    /// to 8 bits, which is faster and a little less precise
    #[arg(long)]
    pub exact: bool,
    /// Number type of the key/value cache [default: f16, with --exact f32]
    #[arg(long, alias = "cache-type", value_enum)]
    pub cache: Option<Cache>,
    /// Copy weights to memory for faster reading, into large pages and, where it helps, with 16 rows interleaved: all
    /// weights, or at most SIZE, for example 200M. Results are the same. A part is copied and measured first: where copies are
    /// no faster, as on some CPUs, weights are read from the mapped file as without this. `bench` always copies
    #[arg(long, value_name = "SIZE", value_parser = size, num_args = 0..=1, require_equals = true,
        default_missing_value = "1000000G")]
    pub repack: Option<usize>,
}

impl Reading {
    /// The precision of products.
    pub fn precision(&self) -> Precision {
        if self.exact { Precision::F32 } else { Precision::Int8 }
    }

    /// The number type of the cache.
    pub fn cache(&self) -> CacheType {
        self.cache.map_or(if self.exact { CacheType::F32 } else { CacheType::F16 }, Into::into)
    }
}

#[derive(ValueEnum, Clone, Copy)]
pub enum Cache {
    F16,
    F32,
    /// Half the memory of f16, a little less precise
    #[value(name = "q8_0", alias = "q8")]
    Q8,
}

impl From<Cache> for CacheType {
    fn from(c: Cache) -> CacheType {
        match c {
            Cache::F16 => CacheType::F16,
            Cache::F32 => CacheType::F32,
            Cache::Q8 => CacheType::Q8,
        }
    }
}

/// The rows of a table, by name.
fn rows(table: impl Iterator<Item = (&'static str, &'static str)>) -> PossibleValuesParser {
    table.map(|(name, about)| PossibleValue::new(name).help(about)).collect::<Vec<_>>().into()
}

/// A number within bounds, both included.
fn between(low: f32, high: f32) -> impl Fn(&str) -> Result<f32, String> + Clone + Send + Sync + 'static {
    move |text| {
        let value: f32 = text.parse().map_err(|_| "not a number".to_string())?;
        if (low..=high).contains(&value) { Ok(value) } else { Err(format!("it must be {low} to {high}")) }
    }
}

/// A number in the domain of a knob.
fn real(knob: &'static Knob) -> impl Fn(&str) -> Result<f64, String> + Clone + Send + Sync + 'static {
    move |text| match knob.domain.parse(text).and_then(|value| knob.domain.take(&value)) {
        Some(Value::Real(value)) => Ok(value),
        _ => Err(format!("it must be {}", knob.domain)),
    }
}

/// A whole number in a range.
fn whole<T: TryFrom<i128>>(
    range: impl RangeBounds<i128> + Clone + Send + Sync + 'static,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| {
        let value: i128 = text.parse().map_err(|_| "not a whole number".to_string())?;
        let low = match range.start_bound() {
            Bound::Included(low) => *low,
            _ => 0,
        };
        let fits = Some(value).filter(|value| range.contains(value)).and_then(|value| T::try_from(value).ok());
        fits.ok_or_else(|| match range.end_bound() {
            Bound::Included(high) => format!("it must be {low} to {high}"),
            _ if value < low => format!("it must be {low} or more"),
            _ => "it is too large".into(),
        })
    }
}

/// A whole number from 1 to `high`.
fn count(high: usize) -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync + 'static {
    whole::<usize>(1..=high as i128)
}

/// Bytes: a number, optionally followed by K, M or G, powers of 1024.
fn size(text: &str) -> Result<usize, String> {
    let text = text.trim_end_matches("iB").trim_end_matches('B');
    let (number, unit) = match text.char_indices().last() {
        Some((at, 'K' | 'k')) => (&text[..at], 1u64 << 10),
        Some((at, 'M' | 'm')) => (&text[..at], 1 << 20),
        Some((at, 'G' | 'g')) => (&text[..at], 1 << 30),
        _ => (text, 1),
    };
    match number.parse::<f64>() {
        Ok(n) if (0.0..1e15).contains(&n) && number.starts_with(|c: char| c.is_ascii_digit()) => {
            Ok((n * unit as f64) as usize)
        }
        _ => Err("not a number of bytes such as 400M or 1.5G".into()),
    }
}

/// Options of `train` that have been renamed since version 0.1: old and new name.
const RENAMED: [[&str; 2]; 4] = [
    ["eval-fraction", "held-out"],
    ["keep-precision", "act-type"],
    ["lower-cache", "activation-cache"],
    ["lower-cache-size", "activation-cache-size"],
];

/// The present name of an option in a checkpoint.
pub fn renamed(name: &str) -> &str {
    RENAMED.iter().find(|[old, _]| *old == name).map_or(name, |[_, new]| new)
}

/// Which blocks recompute their activations.
fn recompute(text: &str) -> Result<Recompute, String> {
    match (text, text.strip_prefix("all-but-").map(str::parse)) {
        ("none", _) => Ok(Recompute::None),
        ("all", _) => Ok(Recompute::All),
        ("auto", _) => Ok(Recompute::Auto),
        (_, Some(Ok(blocks))) => Ok(Recompute::AllBut(blocks)),
        _ => Err("it must be none, all, all-but-N for a number N of blocks, or auto".into()),
    }
}

/// The same in the form of version 0.1: which blocks keep their activations.
fn keep(text: &str) -> Result<Recompute, String> {
    match (text, text.parse()) {
        ("auto", _) => Ok(Recompute::Auto),
        ("all", _) => Ok(Recompute::None),
        ("inputs", _) => Ok(Recompute::All),
        (_, Ok(blocks)) => Ok(Recompute::AllBut(blocks)),
        _ => Err("it must be all, inputs, auto or a number of blocks; --recompute is the newer option".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::error::ErrorKind;

    #[test]
    fn options_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn names_of_earlier_versions_are_understood() {
        let command = Cli::command();
        let train = command.find_subcommand("train").unwrap();
        for [old, new] in RENAMED {
            let arg = train.get_arguments().find(|arg| arg.get_long() == Some(new)).unwrap();
            assert!(arg.get_all_aliases().unwrap().contains(&old) && renamed(old) == new, "{old}");
        }
        let parse = |given: &[&str]| {
            let line = [&["mynah", "train", "-m", "m", "-d", "d", "-o", "o"], given].concat();
            match Cli::try_parse_from(line).unwrap().command {
                Command::Train(train) => train.teach.recompute(),
                _ => unreachable!(),
            }
        };
        for (old, new, want) in [
            ("all", "none", Recompute::None),
            ("inputs", "all", Recompute::All),
            ("auto", "auto", Recompute::Auto),
            ("3", "all-but-3", Recompute::AllBut(3)),
        ] {
            assert_eq!([parse(&["--keep", old]), parse(&["--recompute", new])], [want; 2]);
        }
        assert_eq!(parse(&[]), Recompute::Auto);
    }

    /// No option takes a negative number for another option, and those that are numbers say what they can be.
    #[test]
    fn negative_numbers_are_numbers() {
        let mut refused = 0;
        for sub in command().get_subcommands() {
            for arg in sub.get_arguments().filter(|arg| arg.get_action().takes_values()) {
                let option = match (arg.get_long(), arg.get_short()) {
                    (Some(long), _) => Some(format!("--{long}")),
                    (None, short) => short.map(|short| format!("-{short}")),
                };
                let equals = arg.is_require_equals_set();
                let words = match option {
                    Some(option) if equals => vec![format!("{option}=-1")],
                    Some(option) => vec![option, "-1".into()],
                    None => vec!["-1".into()],
                };
                let line = ["mynah", sub.get_name()].map(String::from).into_iter().chain(words.clone());
                let Err(e) = command().try_get_matches_from(line) else { continue };
                let (said, name) = (e.to_string(), sub.get_name());
                assert!(e.kind() != ErrorKind::UnknownArgument, "{name} {words:?}: {said}");
                if e.kind() == ErrorKind::ValueValidation {
                    let why = ["it must be", "not a number of bytes", "it is too large"];
                    assert!(why.iter().any(|why| said.contains(why)), "{name} {words:?}: {said}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 50, "{refused}");
    }

    #[test]
    fn whole_numbers_have_bounds() {
        let parse = |text: &str| whole::<u16>(1..=9)(text).map_err(|e| e.to_string());
        assert_eq!(parse("9"), Ok(9));
        for (text, why) in [("0", "it must be 1 to 9"), ("-1", "it must be 1 to 9"), ("x", "not a whole number")] {
            assert_eq!(parse(text), Err(why.into()), "{text}");
        }
        assert_eq!(whole::<u16>(1..)("-3"), Err("it must be 1 or more".into()));
        assert_eq!(whole::<u16>(1..)("70000"), Err("it is too large".into()));
    }

    #[test]
    fn sizes_are_bytes() {
        let got = ["400M", "1.5G", "7", "2KiB", "64kB", "0"].map(|t| size(t).unwrap());
        assert_eq!(got, [400 << 20, 3 << 29, 7, 2048, 65536, 0]);
        for bad in ["", "M", "-1", "x", "1T", "nan", "1e30", "4 0M", "infM"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_example_parses() {
        for command in Cli::command().get_subcommands().chain([&Cli::command()]) {
            let help = command.get_after_help().map(|h| h.to_string()).unwrap_or_default();
            let examples: Vec<&str> = help.lines().map(str::trim).filter(|l| l.starts_with("mynah ")).collect();
            assert!(!examples.is_empty(), "{} has no example", command.get_name());
            for example in examples {
                let parts = example.split('\'').enumerate();
                let words = parts.flat_map(|(i, part)| match i % 2 {
                    0 => part.split_whitespace().collect::<Vec<_>>(),
                    _ => vec![part],
                });
                loose().try_get_matches_from(words).unwrap_or_else(|e| panic!("{example}: {e}"));
            }
        }
    }
}
