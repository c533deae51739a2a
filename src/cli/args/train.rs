//! Options of the commands that train.

use super::*;

#[derive(Args)]
#[command(
    override_usage = "mynah train [-m MODEL] -d DATA -o OUT [OPTIONS]\n       mynah train --resume DIR [OPTIONS]"
)]
#[command(after_help = "\
Data: a text (.txt, .md), which becomes rows by entries or paragraphs; rows of JSON (.jsonl, .json) or of a table (.csv, \
.tsv); an export of a chat or of mails (.mbox); or a folder of these. `mynah data look DATA` shows the rows. Rows are like:
  {\"text\": \"...\"}                                   every token is a target
  {\"prompt\": \"...\", \"completion\": \"...\"}            the completion and the end token are targets
  {\"messages\": [{\"role\": \"user\", \"content\": \"...\"}, ...]}   the assistant's words are targets
  {\"prompt\": ..., \"chosen\": ..., \"rejected\": ...}    a better and a worse completion, for --objective dpo and others
  {\"prompt\": ..., \"completion\": ..., \"label\": true}  liked or not, for --objective bco and kto
  {\"query\": ..., \"positive\": ..., \"negative\": ...}  what a search should find and not find, for --objective infonce
  {\"tokens\": [1, 2, 3], \"mask\": [0, 1, 1]}           tokens with mask 1 are targets; without mask, all
  instruction/input/output (Alpaca), conversations (ShareGPT), question/answer and other published shapes

Prompts and completions are texts, or lists of messages. \"weight\" is the factor of a row's loss. A message may have \
\"tool_calls\", or \"weight\": 0, which is not learnt; a row of messages may have \"tools\". Rows that cannot be used are left \
out, and their lines are named.

The loss is the mean over all target tokens of a step, in nats, or that of --objective. Reference log-probabilities of \
the base are stored beside the data, in DATA.reference.

Ctrl-C finishes the step, saves and prints how to continue; a second Ctrl-C ends at once. If the run is paused or killed, \
--resume continues from the newest intact checkpoint. The adapter and the log are the same, byte by byte, as if it had \
never stopped. It refuses if the model, the data or an option that affects the result has changed.

At the end one prompt is continued without and with the adapter, and the next command is shown. A run that diverges does not \
write OUT.

The log has one object a step: step, loss (before the update), grad_norm, lr, tokens. \
With --json a last object: loss_first and loss_last (means over an epoch, or a quarter of the steps if that is shorter), \
eval_before, eval_after (held-out loss, after: of what is saved), saved_step, adapter_bytes, tokens_per_second, \
peak_rss_bytes, ended (done, early, paused, interrupted or failed), sample (prompt, before, after), and more.

Examples:
  mynah train -d notes.txt -o notes.mynah
  mynah train -m model.gguf -d notes.txt -o notes.mynah
  mynah train -m model.gguf -d notes.txt -o notes.mynah --method nola --held-out 0.2
  mynah train -m model.gguf -d rows.jsonl -o rows.mynah --steps 100 --batch 2 --accumulate 2 --log rows.log.jsonl
  mynah train -m model.gguf -d pairs.jsonl -o mine.mynah --objective dpo --beta 0.1 --lr 5e-5
  mynah train -m model.gguf -d queries.jsonl -o search.mynah --objective infonce --batch 16
  mynah train -m model.gguf -d notes.txt -o more.mynah --init notes.mynah --steps 50
  mynah train -m model.gguf -d notes.txt -o notes.mynah --checkpoints notes.saved --save-every 50 --max-minutes 20
  mynah train --resume notes.saved")]
pub struct Train {
    /// The model, a GGUF file; it is not changed [default: the built-in model]
    #[arg(short, long, help_heading = COMMON, value_name = "MODEL", required = cfg!(not(feature = "base")))]
    pub model: Option<PathBuf>,
    /// Training data: a text, rows of JSON, a table, an export of a chat or of mails, a folder of these, or - for standard
    /// input
    #[arg(short, long, help_heading = COMMON, value_name = "DATA")]
    pub data: PathBuf,
    /// The adapter to write (with --method full: the new model, a GGUF file in F32)
    #[arg(short, long, help_heading = COMMON, value_name = "OUT")]
    pub output: PathBuf,
    /// Replace OUT if it exists; --resume replaces what the same run has written
    #[arg(long, help_heading = COMMON)]
    pub force: bool,
    #[command(flatten)]
    pub teach: Teach,
}

#[derive(Args)]
#[command(after_help = "\
Has the options of `mynah train`. Without data, it assumes rows that fill the context, with all tokens as targets. \
With --json: bytes by purpose, total, micro (rows that go through the model together), whole (blocks that are not \
recomputed) of blocks.

Examples:
  mynah plan -m model.gguf --batch 4 --ctx 512
  mynah plan -m model.gguf -d notes.txt --method nola --memory 400M")]
pub struct Plan {
    /// The model, a GGUF file [default: the built-in model]
    #[arg(short, long, help_heading = COMMON, value_name = "MODEL", required = cfg!(not(feature = "base")))]
    pub model: Option<PathBuf>,
    /// Training data
    #[arg(short, long, help_heading = COMMON, value_name = "DATA")]
    pub data: Option<PathBuf>,
    /// Ignored, so that the options of a `train` command can be given unchanged
    #[arg(short, long, help_heading = COMMON, value_name = "OUT")]
    pub output: Option<PathBuf>,
    /// Ignored, likewise
    #[arg(long, help_heading = COMMON)]
    pub force: bool,
    #[command(flatten)]
    pub teach: Teach,
}

/// Options that an existing adapter determines.
fn own() -> Vec<&'static str> {
    knobs::<Methods>().into_iter().map(|knob| knob.name).chain(["targets", "layers"]).collect()
}

/// The options of training.
#[derive(Args)]
pub struct Teach {
    #[command(flatten)]
    pub method: Choice<Methods>,
    /// Optimiser steps [default: from --epochs, or from the number of tokens]
    #[arg(help_heading = COMMON, long, value_name = "N", conflicts_with = "epochs", value_parser = whole::<u64>(1..))]
    pub steps: Option<u64>,
    /// Peak learning rate
    #[arg(help_heading = COMMON, long, value_name = "LR", help = rates::<Methods>(), value_parser = between(1e-12, 1000.0))]
    pub lr: Option<f32>,
    /// Tokens of a row; longer rows are cut [default: 256, or the model's context if that is shorter]
    #[arg(help_heading = COMMON, long, value_name = "T", value_parser = count(1 << 24))]
    pub ctx: Option<usize>,
    /// Layers to change, separated by commas: all, attn, mlp, or q, k, v, o, gate, up, down
    /// [default: those of the method; all for lora and nola]
    #[arg(help_heading = ADAPTER, long, value_name = "LIST")]
    pub targets: Option<String>,
    /// Largest size of the file, for example 2953 or 20k: chooses the kind, unless --method names one, and its sizes, and trains
    /// through the few bits a value that such a file holds
    #[arg(help_heading = COMMON, long, value_name = "N", value_parser = size, conflicts_with = "init")]
    pub bytes: Option<usize>,
    #[command(flatten)]
    pub codec: Choice<Codecs>,
    /// Dropout on the adapter's input [default: none]
    #[arg(help_heading = ADAPTER, long, value_name = "P", value_parser = between(0.0, 0.99))]
    pub dropout: Option<f32>,
    /// Train on top of this adapter, which stays frozen; STRENGTH multiplies its effect. May be given several times
    #[arg(help_heading = ADAPTER, short, long = "adapter", value_name = "ADAPTER[:STRENGTH]")]
    pub adapters: Vec<String>,
    #[command(flatten, next_help_heading = ADAPTER)]
    pub other: OtherBase,
    /// Blocks to change, from 0: 20-29, 0,5,28- or the like [default: all]
    #[arg(help_heading = ADAPTER, long, value_name = "LIST")]
    pub layers: Option<String>,
    /// Continue training an adapter instead of creating one; it determines kind, settings, targets and layers
    #[arg(help_heading = ADAPTER, long, value_name = "ADAPTER", conflicts_with_all = own())]
    pub init: Option<PathBuf>,
    /// Put a proof of effect into the adapter, for `mynah verify`: how the model continues TEXT without and with it [default:
    /// the beginning of the first row]
    #[arg(help_heading = ADAPTER, long, value_name = "TEXT", num_args = 0..=1, default_missing_value = "",
        conflicts_with = "bytes")]
    pub probe: Option<String>,
    /// Number of passes over the data [default: enough for about 80 steps; from 3 to 12; at most 300,000
    /// tokens in all]
    #[arg(help_heading = DATA, long, value_name = "E", value_parser = whole::<u64>(1..))]
    pub epochs: Option<u64>,
    /// Rows of a micro-batch, which go through the model together
    #[arg(help_heading = DATA, long, value_name = "B", default_value_t = 1, value_parser = count(65_536))]
    pub batch: usize,
    /// Micro-batches of a step (gradient accumulation)
    #[arg(help_heading = DATA, long, value_name = "G", default_value_t = 1, value_parser = count(65_536))]
    pub accumulate: usize,
    #[command(flatten)]
    pub rows: RowArgs,
    /// Pack several short examples into a row; each is trained as if it were alone
    #[arg(help_heading = DATA, long)]
    pub pack: bool,
    /// Order of the rows
    #[arg(help_heading = DATA, long, value_enum, default_value_t = RowOrder::Shuffled)]
    pub order: RowOrder,
    /// Seed of all random choices
    #[arg(help_heading = DATA, long, value_name = "S", default_value_t = 0, value_parser = whole::<u64>(0..))]
    pub seed: u64,
    #[command(flatten)]
    pub optimizer: Choice<Optimizers>,
    /// Decay of the learning rate after the warm-up
    #[arg(help_heading = OPTIMISER, long, value_enum, default_value_t = Schedule::Cosine)]
    pub schedule: Schedule,
    /// Warm-up steps, over which the learning rate rises from 0
    #[arg(help_heading = OPTIMISER, long, value_name = "W", default_value_t = 0, value_parser = whole::<u64>(0..))]
    pub warmup: u64,
    /// Gradient clipping: largest norm of the gradients; 0 is off
    #[arg(help_heading = OPTIMISER, long, value_name = "C", default_value_t = 1.0, value_parser = between(0.0, 1e9))]
    pub clip: f32,
    /// Estimate gradients from forward passes along D random directions a step; needs only the memory of inference
    #[arg(help_heading = OPTIMISER, long, value_name = "D", num_args = 0..=1, default_missing_value = "1", value_parser = whole::<u32>(1..=4096))]
    pub zeroth: Option<u32>,
    /// Size of the perturbation of --zeroth
    #[arg(help_heading = OPTIMISER, long, value_name = "E", default_value_t = 1e-3, requires = "zeroth", value_parser = between(1e-6, 1.0))]
    pub zeroth_eps: f32,
    #[command(flatten)]
    pub objective: Choice<Objectives>,
    /// bco, kto: weight disliked completions by the density ratio of their prompts, for data in which the prompts of liked
    /// and of disliked completions differ
    #[arg(help_heading = OBJECTIVE, long)]
    pub density_ratios: bool,
    /// Memory limit of the whole process, for example 400M or 1.5G: makes micro-batches smaller and recomputes activations
    /// as needed, with the same result
    #[arg(help_heading = MEMORY, long, value_name = "BYTES", value_parser = size)]
    pub memory: Option<usize>,
    /// Use 8-bit products with the base, as in generation, also in the backward pass: faster, with gradients a few percent
    /// off. For adapters only
    #[arg(help_heading = MEMORY, long)]
    pub fast: bool,
    /// Blocks that recompute their activations in the backward pass instead of saving them (gradient checkpointing): none,
    /// all, all-but-N (all but the upper N), or auto (as few as 48 MiB of saved activations allow) [default: auto]
    #[arg(help_heading = MEMORY, long, value_name = "WHAT", value_parser = recompute, conflicts_with = "memory")]
    pub recompute: Option<Recompute>,
    #[arg(long, hide = true, value_parser = keep, conflicts_with_all = ["memory", "recompute"])]
    keep: Option<Recompute>,
    /// Number type of saved activations: f16 and bf16 take half the memory and round gradients a little
    #[arg(help_heading = MEMORY, long, alias = "keep-precision", value_enum, default_value_t = Stored::F32)]
    pub act_type: Stored,
    /// Cache the outputs of the frozen blocks below those that --layers chooses in this file, as f16: later epochs and runs
    /// on the same data skip these blocks
    #[arg(help_heading = MEMORY, long, alias = "lower-cache", value_name = "FILE")]
    pub activation_cache: Option<PathBuf>,
    /// Largest size of that file
    #[arg(
        help_heading = MEMORY, long, alias = "lower-cache-size", value_name = "BYTES", default_value = "2G", value_parser = size
    )]
    pub activation_cache_size: usize,
    /// Fraction of the rows that is held out for evaluation; the best state by their loss is saved. 0 holds out none, and
    /// the last state is saved [default: a tenth, but 2 to 64 rows, and none of fewer than 16]
    #[arg(help_heading = PROGRESS, long, alias = "eval-fraction", value_name = "F", value_parser = between(0.0, 0.99))]
    pub held_out: Option<f32>,
    /// Evaluate on the held-out rows every N steps [default: an eighth of all steps]
    #[arg(help_heading = PROGRESS, long, value_name = "N", value_parser = whole::<u64>(1..))]
    pub eval_every: Option<u64>,
    /// Stop early when the held-out loss has not improved N times in a row; the best state is saved
    #[arg(help_heading = PROGRESS, long, value_name = "N", value_parser = whole::<u64>(1..))]
    pub patience: Option<u64>,
    /// Folder of checkpoints: the newest two, and the one with the best held-out loss
    /// [default: OUT.checkpoints, which is deleted when the run ends]
    #[arg(help_heading = PROGRESS, long, value_name = "DIR")]
    pub checkpoints: Option<PathBuf>,
    /// Write a checkpoint every N steps [default: every minute]
    #[arg(help_heading = PROGRESS, long, value_name = "N", value_parser = whole::<u64>(1..))]
    pub save_every: Option<u64>,
    /// Continue from the newest checkpoint in DIR as if the run had never stopped; other options are optional
    #[arg(help_heading = PROGRESS, long, value_name = "DIR")]
    pub resume: Option<PathBuf>,
    /// Pause after N more steps
    #[arg(help_heading = PROGRESS, long, value_name = "N", value_parser = whole::<u64>(1..))]
    pub max_steps: Option<u64>,
    /// Pause after M minutes
    #[arg(help_heading = PROGRESS, long, value_name = "M", value_parser = between(0.0, 1e6))]
    pub max_minutes: Option<f32>,
    /// Write one JSON object a step
    #[arg(help_heading = PROGRESS, long, value_name = "FILE.jsonl")]
    pub log: Option<PathBuf>,
    #[command(flatten, next_help_heading = ENGINE)]
    pub engine: Engine,
}

impl Teach {
    /// Which blocks recompute their activations.
    pub fn recompute(&self) -> Recompute {
        self.recompute.or(self.keep).unwrap_or(Recompute::Auto)
    }

    /// # Errors
    /// Those of [`Choice::check`].
    pub fn check(&self) -> anyhow::Result<()> {
        self.method.check()?;
        self.codec.check()?;
        self.optimizer.check()?;
        self.objective.check()
    }
}

#[derive(ValueEnum, Clone, Copy)]
pub enum Stored {
    F32,
    F16,
    Bf16,
}

impl From<Stored> for ActType {
    fn from(k: Stored) -> ActType {
        match k {
            Stored::F32 => ActType::F32,
            Stored::F16 => ActType::F16,
            Stored::Bf16 => ActType::Bf16,
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
