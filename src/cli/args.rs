//! Options, their bounds and their help.

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use mynah::model::{CacheType, Precision};
use mynah::train::{Keep, objective, optim};
use std::path::PathBuf;

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
      See it all in a minute; needs no file
  mynah run -m model.gguf -p 'Once upon a time'
      Let a model continue a text
  mynah train -m model.gguf -d notes.txt -o notes.mynah
      Teach it a text; the model file stays as it is
  mynah run -m model.gguf -a notes.mynah -p 'Once upon a time'
      The same model with what it learnt

Results go to standard output, everything else to standard error.
Exit status: 0 success, 1 failure, 2 wrong use, 130 interrupted.";

/// Teaches a language model on the device it runs on.
///
/// mynah maps a quantised GGUF model, runs it, trains a small adapter (LoRA or NOLA) on your own text while the model's
/// weights stay frozen, and keeps what was learnt in a file of kilobytes.
#[derive(Parser)]
#[command(version, after_help = TOP, max_term_width = 100, propagate_version = true)]
pub struct Cli {
    /// Print results as JSON
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

/// The command line where beside `train --resume` nothing need be given.
pub fn loose() -> clap::Command {
    Cli::command().mut_subcommand("train", |train| train.mut_args(|arg| arg.required(false)))
}

#[derive(Subcommand)]
pub enum Command {
    /// Show everything on the built-in model, in under a minute
    #[cfg(feature = "base")]
    Demo(Demo),
    /// Continue a text
    Run(Run),
    /// Talk with a model, and teach it from what you think of its answers
    Chat(Chat),
    /// Teach a model a text: writes an adapter, or with --method full a model
    Train(Box<Train>),
    /// Say how much memory `train` would take, before anything of it is reserved
    Plan(Box<Plan>),
    /// Measure how well a model predicts a text
    Eval(Eval),
    /// Show what a model computes for a text: losses and next-token logits
    Logits(Logits),
    /// Cut a text into tokens
    Tokenize(Tokenize),
    /// Join tokens to text
    Detokenize(Detokenize),
    /// Show what a model file or an adapter holds
    Inspect(Inspect),
    /// Measure speed and memory: of a model, or of every kernel of this machine
    Bench(Bench),
}

/// What computes.
#[derive(Args, Clone)]
pub struct Engine {
    /// Threads that compute; results do not depend on it [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Cores to compute on, a thread each that stays there, as the system numbers them
    #[arg(long, value_name = "CORE,..", value_delimiter = ',', conflicts_with = "threads")]
    pub cpus: Vec<usize>,
}

/// A model with adapters, and how it computes.
#[derive(Args, Clone)]
pub struct ModelArgs {
    /// The model, a GGUF file [default: the built-in model]
    #[arg(short, long, value_name = "MODEL", required = cfg!(not(feature = "base")))]
    pub model: Option<PathBuf>,
    /// Attach an adapter: a file or a checkpoint that `mynah train` wrote, a PEFT LoRA directory or a GGUF adapter. SCALE
    /// multiplies its effect [default: 1]. May be given several times
    #[arg(short, long = "adapter", value_name = "ADAPTER[:SCALE]")]
    pub adapters: Vec<String>,
    /// Compute with 32-bit activations, and a 32-bit cache unless --cache says otherwise. Without it activations are
    /// rounded to 8 bits: faster, a little less precise
    #[arg(long)]
    pub exact: bool,
    /// Precision of the cache of keys and values [default: f16, with --exact f32]
    #[arg(long, alias = "cache-type", value_enum)]
    pub cache: Option<Cache>,
    /// Copy weights into memory, in large pages and where it helps with 16 rows side by side, which is read faster: all of
    /// them, or as many as SIZE holds, as in 200M. Results are the same. Without it weights are read from the mapped file
    #[arg(long, value_name = "SIZE", value_parser = size, num_args = 0..=1, require_equals = true,
        default_missing_value = "1000000G")]
    pub repack: Option<usize>,
    #[command(flatten)]
    pub engine: Engine,
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

/// How tokens are picked.
#[derive(Args, Clone)]
pub struct SamplingArgs {
    /// Randomness; 0 always takes the likeliest token
    #[arg(long, value_name = "T", default_value_t = 0.8, value_parser = between(0.0, 100.0))]
    pub temp: f32,
    /// Choose among the K likeliest tokens; 0: all
    #[arg(long, value_name = "K", default_value_t = 40)]
    pub top_k: usize,
    /// Choose among the likeliest tokens that make up probability P together; 1: all
    #[arg(long, value_name = "P", default_value_t = 0.95, value_parser = between(1e-6, 1.0))]
    pub top_p: f32,
    /// Choose among tokens at least P times as likely as the likeliest; 0: all
    #[arg(long, value_name = "P", default_value_t = 0.05, value_parser = between(0.0, 1.0))]
    pub min_p: f32,
    /// Make the last 64 tokens less likely; 1: do not
    #[arg(long, value_name = "R", default_value_t = 1.0, value_parser = between(0.01, 100.0))]
    pub repeat_penalty: f32,
    /// The same seed gives the same text
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
}

#[cfg(feature = "base")]
#[derive(Args)]
#[command(after_help = "\
The built-in model says what it knows, learns the built-in notes by a NOLA adapter, and says what it knows then.

Examples:
  mynah demo
  mynah demo -o notes.mynah")]
pub struct Demo {
    /// Keep the adapter in this file
    #[arg(short, long, value_name = "OUT")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub engine: Engine,
}

#[derive(Args)]
#[command(after_help = "\
Without -p the prompt is read from standard input.
With --json: one object a token (id, text) and a last one (ids, text, prompt_tokens, prompt_tokens_per_second,
tokens_per_second, stop).

Examples:
  mynah run -m model.gguf -p 'Once upon a time' -n 64
  mynah run -m model.gguf -a notes.mynah -p 'The key is' --temp 0
  mynah run -m model.gguf -a notes.mynah:0.5 -p 'The key is'")]
pub struct Run {
    #[command(flatten)]
    pub model: ModelArgs,
    /// The text to continue
    #[arg(short, long)]
    pub prompt: Option<String>,
    /// Most tokens to say
    #[arg(short, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    pub n: u32,
    /// Most tokens of prompt and answer [default: what the model was made for, at most 4096]
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u32).range(1..))]
    pub ctx: Option<u32>,
    /// Read spellings of control tokens in the prompt, such as <|im_start|>, as those tokens
    #[arg(long)]
    pub parse_special: bool,
    /// Go on when the model says that the text has ended
    #[arg(long)]
    pub ignore_end: bool,
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

#[derive(Args)]
#[command(after_help = "\
A line is said as it stands; one that ends with \\ goes on in the next, and one that begins with // is said with one slash.
Ctrl-C stops an answer, Ctrl-D or /exit ends. Commands:

  /regenerate  another answer to the same       /clear  a new conversation
  /help        what can be typed                /exit   the end

With --learn also:

  /good  /bad  the last answer was, or was not  /learn  learn from all marks, look, and keep it or not
  /fix TEXT    TEXT would have been better      /undo   go back to the adapter before the last /learn

/good behind /regenerate says that this answer is better than those before it. A mark is on the disk once it is noted, in
ADAPTER.feedback.jsonl, a row of data each that `mynah train --objective bco` and, if all are comparisons, dpo read too.
/learn takes marks that are new, and some of the others lest they be forgotten: comparisons alone by DPO, else by BCO. It
shows what the model says and how far it is from the base before and after, and asks; the adapter is replaced whole or not
at all, and the one before stays in ADAPTER.before.

The conversation follows the model's own chat template; where the model file has none, it is written as lines that begin
with User: and Assistant:. When there is no room for it any more, the oldest turns are left out, which is said.

With --json: one object a token (id, text) and one an answer (ids, text, prompt_tokens that were read for it,
prompt_tokens_per_second, tokens_per_second, stop); mark (good, bad, better), marks and new, how many there are and are
not learnt yet; learnt (objective, marks, steps, loss, agreement and divergence as [before, after], sample); kept and
undone (true or false).

Examples:
  mynah chat
  mynah chat -m model.gguf -a mine.mynah --learn
  mynah chat -m model.gguf --system 'Answer in one sentence.'
  mynah chat -m model.gguf -a notes.mynah --temp 0")]
pub struct Chat {
    #[command(flatten)]
    pub model: ModelArgs,
    /// What the conversation begins with
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Most tokens of an answer
    #[arg(short, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    pub n: u32,
    /// Learn from marks, into the adapter that -a names; if there is no such file, it is made
    #[arg(long)]
    pub learn: bool,
    #[command(flatten)]
    pub lesson: LessonArgs,
    /// Most tokens of the conversation [default: what the model was made for, at most 4096]
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u32).range(8..))]
    pub ctx: Option<u32>,
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

/// How to learn from marks.
#[derive(Args, Clone)]
pub struct LessonArgs {
    /// Of an adapter that is made: lora or nola
    #[arg(long, value_name = "METHOD", default_value = "lora", value_parser = ["lora", "nola"], requires = "learn")]
    pub method: String,
    /// Of an adapter that is made: the rank of the change
    #[arg(long, value_name = "R", default_value_t = 8, value_parser = count(1024), requires = "learn")]
    pub rank: usize,
    /// Learning rate [default: lora 5e-4, nola 5e-3]
    #[arg(long, value_name = "LR", value_parser = between(1e-12, 1000.0), requires = "learn")]
    pub lr: Option<f32>,
    /// How often /learn sees every new mark, at most
    #[arg(long, value_name = "P", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..), requires = "learn")]
    pub passes: u64,
    /// /learn is over when the loss, at first 0.69, is no more than this: lower values move the model further from its base
    #[arg(long, value_name = "LOSS", default_value_t = 0.15, value_parser = between(0.0, 1e6), requires = "learn")]
    pub enough: f32,
    /// Most marks of earlier lessons that /learn takes again
    #[arg(long, value_name = "N", default_value_t = 16, requires = "learn")]
    pub replay: usize,
    /// How strongly rewards follow log-probabilities; less moves the model further from its base
    #[arg(long, value_name = "B", default_value_t = 0.1, value_parser = between(1e-6, 1e6), requires = "learn")]
    pub beta: f32,
}

#[derive(Args)]
#[command(override_usage = "mynah train -m MODEL -d DATA -o OUT [OPTIONS]\n       mynah train --resume DIR [OPTIONS]")]
#[command(after_help = "\
Data: a text file (.txt), or JSON Lines (.jsonl) with one row a line:
  {\"text\": \"...\"}                                   every token is learnt
  {\"prompt\": \"...\", \"completion\": \"...\"}            the completion and the end token are learnt
  {\"messages\": [{\"role\": \"user\", \"content\": \"...\"}, ...]}   what assistants say is learnt
  {\"prompt\": ..., \"chosen\": ..., \"rejected\": ...}    a better and a worse completion, for --objective dpo and others
  {\"prompt\": ..., \"completion\": ..., \"label\": true}  liked or not, for --objective bco and kto
  {\"tokens\": [1, 2, 3], \"mask\": [0, 1, 1]}           tokens with mask 1 are learnt; all without mask

Prompts and completions are texts, or lists of messages. \"weight\" is the factor of a row's loss.

The loss is the mean over all learnt tokens of a step, in nats, or what --objective says. What the base alone makes of
the data is kept beside it, in DATA.reference.

Ctrl-C once finishes the step, saves and says how to go on; twice ends at once. After that, a pause, a crash or a dead
battery --resume goes on from the newest checkpoint that is whole, and the adapter and the log come out the same, byte by
byte, as if nothing had happened. It refuses if the model, the data or an option that decides the result has changed.

The log has one object a step: step, loss (before the update), grad_norm, lr, tokens.
With --json a last object: loss_first, loss_last, eval_before, eval_after, adapter_bytes, tokens_per_second,
peak_rss_bytes, ended (done, early, paused, interrupted or failed), and more.

Examples:
  mynah train -m model.gguf -d notes.txt -o notes.mynah
  mynah train -m model.gguf -d notes.txt -o notes.mynah --method nola --eval-fraction 0.1
  mynah train -m model.gguf -d rows.jsonl -o rows.mynah --steps 100 --batch 2 --accumulate 2 --log rows.log.jsonl
  mynah train -m model.gguf -d pairs.jsonl -o mine.mynah --objective dpo --beta 0.1 --lr 5e-5
  mynah train -m model.gguf -d notes.txt -o more.mynah --init notes.mynah --steps 50
  mynah train -m model.gguf -d notes.txt -o notes.mynah --checkpoints notes.saved --save-every 50 --max-minutes 20
  mynah train --resume notes.saved")]
pub struct Train {
    /// The model, a GGUF file; it stays as it is
    #[arg(short, long, value_name = "MODEL")]
    pub model: PathBuf,
    /// What to learn: .txt or .jsonl
    #[arg(short, long, value_name = "DATA")]
    pub data: PathBuf,
    /// Where the adapter goes (with --method full: the new model, a GGUF file in F32)
    #[arg(short, long, value_name = "OUT")]
    pub output: PathBuf,
    #[command(flatten)]
    pub teach: Teach,
}

#[derive(Args)]
#[command(after_help = "\
Takes the options of `mynah train`. Without data, rows are taken to fill the context, and everything in them to count.
With --json: bytes by what they are for, total, micro (rows that go through the model together), whole (blocks that keep
what they remember) of blocks.

Examples:
  mynah plan -m model.gguf --batch 4 --ctx 512
  mynah plan -m model.gguf -d notes.txt --method nola --memory 400M")]
pub struct Plan {
    /// The model, a GGUF file
    #[arg(short, long, value_name = "MODEL")]
    pub model: PathBuf,
    /// What would be learnt
    #[arg(short, long, value_name = "DATA")]
    pub data: Option<PathBuf>,
    /// Not written: so that a line for `train` can be given as it is
    #[arg(short, long, value_name = "OUT")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub teach: Teach,
}

/// How to train.
#[derive(Args)]
pub struct Teach {
    /// lora: kilobytes to megabytes, learns fast. nola: coefficients of random bases, the smallest files. full: all
    /// weights, for small models [default: lora]
    #[arg(long, value_enum)]
    pub method: Option<Method>,
    /// Rank of the change
    #[arg(long, value_name = "R", default_value_t = 8, value_parser = count(1024))]
    pub rank: usize,
    /// Strength of the change: it is multiplied by A / R
    #[arg(long, value_name = "A", default_value_t = 16.0, value_parser = between(1e-6, 1e6))]
    pub alpha: f32,
    /// Multiply by A / √R instead
    #[arg(long)]
    pub rank_stabilised: bool,
    /// NOLA: random bases for each of the two factors
    #[arg(long, value_name = "K", default_value_t = 64, value_parser = count(4096))]
    pub basis: usize,
    /// Layers to change, separated by commas: all, attn, mlp, or q, k, v, o, gate, up, down
    #[arg(long, value_name = "LIST", default_value = "all")]
    pub targets: String,
    /// Blocks to change, from 0: 20-29, 0,5,28- or the like [default: all]
    #[arg(long, value_name = "LIST")]
    pub layers: Option<String>,
    /// Optimiser steps; without it --epochs decides
    #[arg(long, value_name = "N", conflicts_with = "epochs", value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: Option<u64>,
    /// How often every row is seen [default: 3]
    #[arg(long, value_name = "E", value_parser = clap::value_parser!(u64).range(1..))]
    pub epochs: Option<u64>,
    /// Rows that go through the model together
    #[arg(long, value_name = "B", default_value_t = 1, value_parser = count(65_536))]
    pub batch: usize,
    /// Batches of one step
    #[arg(long, value_name = "G", default_value_t = 1, value_parser = count(65_536))]
    pub accumulate: usize,
    /// Tokens of a row; longer rows are cut [default: 256, or less if the model was made for less]
    #[arg(long, value_name = "T", value_parser = count(1 << 24))]
    pub ctx: Option<usize>,
    /// Fill rows with whole short ones; each is learnt as if it were alone
    #[arg(long)]
    pub pack: bool,
    /// Most memory of the whole process, as in 400M or 1.5G: batches are cut and activations computed again where that is
    /// needed, with the same result
    #[arg(long, value_name = "BYTES", value_parser = size)]
    pub memory: Option<usize>,
    /// Multiply with the base in 8 bits, as a running model does, and on the way back too: faster, with gradients a few
    /// percent off. For adapters
    #[arg(long)]
    pub fast: bool,
    /// Blocks whose activations stay in memory instead of being computed again: all, inputs (none), a number, or auto (48
    /// MiB of them) [default: auto]
    #[arg(long, value_name = "WHAT", value_parser = keep, conflicts_with = "memory")]
    pub keep: Option<Keep>,
    /// How activations that stay are stored: f16 and bf16 halve them and round gradients a little
    #[arg(long, value_enum, default_value_t = Kept::F32)]
    pub keep_precision: Kept,
    /// Keep the outputs of the blocks below the lowest that --layers changes in this file, as halves: later epochs and runs
    /// on the same data skip those blocks
    #[arg(long, value_name = "FILE")]
    pub lower_cache: Option<PathBuf>,
    /// Most bytes of that file
    #[arg(long, value_name = "BYTES", default_value = "2G", value_parser = size)]
    pub lower_cache_size: usize,
    /// Highest learning rate [default: lora 5e-4, nola 5e-3, full 1e-3]
    #[arg(long, value_name = "LR", value_parser = between(1e-12, 1000.0))]
    pub lr: Option<f32>,
    /// How the learning rate falls after the warm-up
    #[arg(long, value_enum, default_value_t = Schedule::Cosine)]
    pub schedule: Schedule,
    /// Steps over which the learning rate rises from 0
    #[arg(long, value_name = "W", default_value_t = 0)]
    pub warmup: u64,
    /// What is to become of completions
    #[arg(long, value_name = "NAME", default_value = "sft", value_parser = rows(objective::OBJECTIVES.iter().map(|k| (k.name, k.about))))]
    pub objective: String,
    /// How strongly rewards follow log-probabilities; of ipo its τ, of orpo its λ [default: usual for the objective]
    #[arg(long, value_name = "B")]
    pub beta: Option<f64>,
    /// Part of the pairs that is the wrong way round (cdpo, robust, exo_pair) [default: usual for the objective]
    #[arg(long, value_name = "E")]
    pub label_smoothing: Option<f64>,
    /// Margin of rewards (simpo, poft) [default: usual for the objective]
    #[arg(long, value_name = "G", allow_negative_numbers = true)]
    pub gamma: Option<f64>,
    /// Add so many times the negative log-likelihood of better completions [default: usual for the objective]
    #[arg(long, value_name = "N")]
    pub nll: Option<f64>,
    /// Factor of asft's odds [default: 1]
    #[arg(long, value_name = "L")]
    pub lambda: Option<f64>,
    /// Factor of what was liked (kto) [default: 1]
    #[arg(long, value_name = "W")]
    pub desirable_weight: Option<f64>,
    /// Factor of what was not (kto) [default: 1]
    #[arg(long, value_name = "W")]
    pub undesirable_weight: Option<f64>,
    /// bco, kto: weigh what was not liked by how often such prompts have liked completions, where the two differ
    #[arg(long)]
    pub density_ratios: bool,
    /// Estimate gradients from forward passes along so many random directions a step: memory of running the model
    #[arg(long, value_name = "D", num_args = 0..=1, default_missing_value = "1", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub zeroth: Option<u32>,
    /// How far parameters are moved for that
    #[arg(long, value_name = "E", default_value_t = 1e-3, requires = "zeroth", value_parser = between(1e-6, 1.0))]
    pub zeroth_eps: f32,
    /// What moves the parameters
    #[arg(long, value_name = "NAME", default_value = "adamw", value_parser = rows(optim::OPTIMIZERS.iter().map(|k| (k.name, k.about))))]
    pub optimizer: String,
    /// LoRA+: the factor of the learning rate for the B of a low-rank change
    #[arg(long, value_name = "R", default_value_t = 1.0, value_parser = between(1e-3, 1e3))]
    pub loraplus_ratio: f32,
    /// Decoupled weight decay
    #[arg(long, value_name = "D", default_value_t = 0.0, value_parser = between(0.0, 1000.0))]
    pub weight_decay: f32,
    /// Largest norm of the gradients; 0 leaves them alone
    #[arg(long, value_name = "C", default_value_t = 1.0, value_parser = between(0.0, 1e9))]
    pub clip: f32,
    /// Part of the rows that is put aside to measure on, for example 0.1
    #[arg(long, value_name = "F", default_value_t = 0.0, value_parser = between(0.0, 0.99))]
    pub eval_fraction: f32,
    /// Everything random follows from it
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
    /// Order of the rows
    #[arg(long, value_enum, default_value_t = RowOrder::Shuffled)]
    pub order: RowOrder,
    /// Go on from an adapter instead of a fresh one; rank, alpha, basis, targets and layers are its own
    #[arg(long, value_name = "ADAPTER", conflicts_with_all = ["rank", "alpha", "rank_stabilised", "basis", "targets", "layers"])]
    pub init: Option<PathBuf>,
    /// Write one JSON object a step
    #[arg(long, value_name = "FILE.jsonl")]
    pub log: Option<PathBuf>,
    /// Measure on the held-out rows every N steps [default: an eighth of all steps]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub eval_every: Option<u64>,
    /// End early when the held-out loss was N times in a row no better than the best; what was best is saved
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub patience: Option<u64>,
    /// Keep checkpoints here: the newest two, and the one with the best held-out loss
    /// [default: OUT.checkpoints, which goes when the run has ended]
    #[arg(long, value_name = "DIR")]
    pub checkpoints: Option<PathBuf>,
    /// Write a checkpoint every N steps [default: every minute]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub save_every: Option<u64>,
    /// Go on from the newest checkpoint in DIR as if the run had never stopped; options need not be given again
    #[arg(long, value_name = "DIR")]
    pub resume: Option<PathBuf>,
    /// Pause after N more steps
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_steps: Option<u64>,
    /// Pause after M minutes
    #[arg(long, value_name = "M", value_parser = between(0.0, 1e6))]
    pub max_minutes: Option<f32>,
    #[command(flatten)]
    pub engine: Engine,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    Lora,
    Nola,
    Full,
}

impl Method {
    /// As files and people call it, and its default learning rate.
    pub fn row(self) -> (&'static str, f32) {
        match self {
            Method::Lora => ("lora", 5e-4),
            Method::Nola => ("nola", 5e-3),
            Method::Full => ("full", 1e-3),
        }
    }
}

#[derive(ValueEnum, Clone, Copy)]
pub enum Kept {
    F32,
    F16,
    Bf16,
}

impl From<Kept> for Precision {
    fn from(k: Kept) -> Precision {
        match k {
            Kept::F32 => Precision::F32,
            Kept::F16 => Precision::F16,
            Kept::Bf16 => Precision::Bf16,
        }
    }
}

#[derive(ValueEnum, Clone, Copy)]
pub enum Schedule {
    Cosine,
    Linear,
    Constant,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq)]
pub enum RowOrder {
    Given,
    Shuffled,
}

#[derive(Args)]
#[command(after_help = "\
Without --stride the text is cut into rows of T tokens, and every token of a row but its first is predicted.
--stride llama does as llama-perplexity does: whole rows only, their first token replaced by the model's begin token
where it has one, and only the second half of each row predicted.
With --json: loss, perplexity, tokens (predicted), tokens_per_second (read).

Examples:
  mynah eval -m model.gguf -d text.txt
  mynah eval -m model.gguf -a notes.mynah -d notes.txt --ctx 256
  mynah eval -m model.gguf -d text.txt --ctx 512 --stride llama")]
pub struct Eval {
    #[command(flatten)]
    pub model: ModelArgs,
    /// A text, or JSON Lines as for `mynah train`
    #[arg(short, long, value_name = "TEXT")]
    pub data: PathBuf,
    /// Tokens of a row [default: 512, or less if the model was made for less]
    #[arg(long, value_name = "T", value_parser = count(1 << 24))]
    pub ctx: Option<usize>,
    /// Which tokens of a row are predicted
    #[arg(long, value_enum)]
    pub stride: Option<Stride>,
}

#[derive(ValueEnum, Clone, Copy)]
pub enum Stride {
    Llama,
}

/// How a text becomes tokens.
#[derive(Args, Clone)]
pub struct TextArgs {
    /// Add the begin and end tokens that the model wants
    #[arg(long)]
    pub add_special: bool,
    /// Read spellings of control tokens in the text as those tokens
    #[arg(long)]
    pub parse_special: bool,
}

#[derive(Args)]
#[command(after_help = "\
With --json: tokens; nll, the negative log-likelihood in nats of every token but the first; top, [id, logit] of the
likeliest next tokens.

Examples:
  mynah logits -m model.gguf -p 'Once upon a time' --add-special
  mynah logits -m model.gguf -p 'Once upon a time' --top 0 --exact --json")]
pub struct Logits {
    #[command(flatten)]
    pub model: ModelArgs,
    /// The text
    #[arg(short, long)]
    pub prompt: String,
    #[command(flatten)]
    pub text: TextArgs,
    /// How many of the likeliest next tokens to show; 0: all
    #[arg(long, value_name = "K", default_value_t = 10)]
    pub top: usize,
}

#[derive(Args)]
#[command(after_help = "\
With --json: ids.

Examples:
  mynah tokenize -m model.gguf 'Once upon a time'
  mynah tokenize -m model.gguf --parse-special --json '<|im_start|>user'")]
pub struct Tokenize {
    /// The model, a GGUF file
    #[arg(short, long, value_name = "MODEL")]
    pub model: PathBuf,
    #[command(flatten)]
    pub options: TextArgs,
    /// The text
    #[arg(allow_hyphen_values = true)]
    pub text: String,
}

#[derive(Args)]
#[command(after_help = "\
With --json: hex, the bytes; text, the same with U+FFFD where they are not UTF-8.

Examples:
  mynah detokenize -m model.gguf 403 407 261 378")]
pub struct Detokenize {
    /// The model, a GGUF file
    #[arg(short, long, value_name = "MODEL")]
    pub model: PathBuf,
    /// Spell control tokens out instead of leaving them out
    #[arg(long)]
    pub parse_special: bool,
    /// Token ids
    #[arg(value_name = "IDS", required = true)]
    pub ids: Vec<u32>,
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  mynah inspect model.gguf
  mynah inspect notes.mynah --json")]
pub struct Inspect {
    /// A GGUF model, a GGUF adapter, or an adapter that `mynah train` wrote
    pub file: PathBuf,
}

#[derive(Args)]
#[command(after_help = "\
A model's tests are those of llama-bench: ppN reads a prompt of N tokens, tgN decodes N tokens one by one; from an empty
cache, or @dD from one of D positions. Tokens are drawn at random, sampling is not part of it. After a warm-up run each test runs R times, in turns for
every number of threads, so that all meet the same disturbances; the table has medians, minima and maxima.
The limit of a test is what this machine could do if it read the weights and the cache as fast as it reads memory, or
did the products as fast as its instructions allow, whichever is less; both are measured in this run. With weights that
fit into the caches, or a machine that slows down while it runs, a test can come out above its limit.

With --json: a line a test, with the keys of `llama-bench -o jsonl` and more; such a file can be compared with, too.
The kernels' tables have GB/s of weights, and 10^9 operations a second, a product and its sum being two.

Examples:
  mynah bench -m model.gguf
  mynah bench -m model.gguf -p 512 -n 0 -t 1,2,4 --markdown
  mynah bench -m model.gguf -p 0 -n 32 -d 0,2000 --cache q8_0
  mynah bench -m model.gguf --compare llama-bench.jsonl
  mynah bench --kernels
  mynah bench --kernels --backend avx2 --format Q4_0,Q8_0")]
pub struct Bench {
    /// The model, a GGUF file
    #[arg(short, long, value_name = "MODEL", required_unless_present = "kernels", conflicts_with = "kernels")]
    pub model: Option<PathBuf>,
    /// Tokens of a prompt, a test each; 0: none
    #[arg(short = 'p', long, value_name = "N,..", value_delimiter = ',', default_value = "128,512")]
    pub n_prompt: Vec<usize>,
    /// Tokens to decode, a test each; 0: none
    #[arg(short, long, value_name = "N,..", value_delimiter = ',', default_value = "128")]
    pub n_gen: Vec<usize>,
    /// Numbers of threads, each test with each [default: 1 and all cores]
    #[arg(short, long, value_name = "T,..", value_delimiter = ',', value_parser = count(1024))]
    pub threads: Vec<usize>,
    /// Cores to compute on: with T threads the first T of them [default: whichever the system gives]
    #[arg(long, value_name = "CORE,..", value_delimiter = ',')]
    pub cpus: Vec<usize>,
    /// Positions that are in the cache before a test begins, each test with each
    #[arg(short = 'd', long, value_name = "N,..", value_delimiter = ',', default_value = "0")]
    pub n_depth: Vec<usize>,
    /// How often each test runs
    #[arg(short, long, value_name = "R", default_value_t = 5, value_parser = count(1000))]
    pub repetitions: usize,
    /// Compute with 32-bit activations, and a 32-bit cache unless --cache says otherwise
    #[arg(long)]
    pub exact: bool,
    /// Precision of the cache of keys and values [default: f16, with --exact f32]
    #[arg(long, alias = "cache-type", value_enum)]
    pub cache: Option<Cache>,
    /// Copy weights into memory, in large pages and where it helps with 16 rows side by side, which is read faster: all of
    /// them, or as many as SIZE holds, as in 200M. Results are the same. Without it weights are read from the mapped file
    #[arg(long, value_name = "SIZE", value_parser = size, num_args = 0..=1, require_equals = true,
        default_missing_value = "1000000G")]
    pub repack: Option<usize>,
    /// Print ratios to the tests in a file that `llama-bench -o jsonl` or `mynah bench --json` wrote
    #[arg(long, value_name = "FILE.jsonl", conflicts_with = "kernels")]
    pub compare: Option<PathBuf>,
    /// Print the table as Markdown
    #[arg(long, conflicts_with = "kernels")]
    pub markdown: bool,
    /// Check every kernel against the plain one, and measure it beside what the machine can do
    #[arg(long)]
    pub kernels: bool,
    /// Backends [default: of the kernels all, of a model the fastest or MYNAH_BACKEND]
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    pub backend: Vec<String>,
    /// Formats of weights whose kernels are measured, or all [default: the usual ones]
    #[arg(long, value_name = "NAME,..", value_delimiter = ',', conflicts_with = "model")]
    pub format: Vec<String>,
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

/// A whole number from 1 to `high`.
fn count(high: usize) -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync + 'static {
    move |text| {
        let value: usize = text.parse().map_err(|_| "not a whole number".to_string())?;
        if (1..=high).contains(&value) { Ok(value) } else { Err(format!("it must be 1 to {high}")) }
    }
}

/// Bytes: a number, or one with K, M or G behind it, which count 1024 each.
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

/// Which activations stay.
fn keep(text: &str) -> Result<Keep, String> {
    match (text, text.parse()) {
        ("auto", _) => Ok(Keep::Auto),
        ("all", _) => Ok(Keep::All),
        ("inputs", _) => Ok(Keep::Inputs),
        (_, Ok(blocks)) => Ok(Keep::Blocks(blocks)),
        _ => Err("it must be all, inputs, auto or a number of blocks".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_consistent() {
        Cli::command().debug_assert();
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
