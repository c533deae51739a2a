//! Options of the commands that inspect models, texts and files.

use super::*;
use mynah::model::Pooling;
use mynah::train::data::{self, Split};

#[derive(Args)]
#[command(after_help = "\
Without --stride the text is cut into rows of T tokens, and all tokens of a row except the first are predicted. \
--stride llama works like llama-perplexity: whole rows only, with the first token replaced by the model's begin token \
if it has one, and only the second half of each row predicted. \
Rows like {\"query\": \"...\", \"positive\": \"...\"} measure search instead: how many queries find their passage first among \
those of all rows (recall@1), and the loss of `mynah train --objective infonce` over all of them. \
With --json: loss, perplexity, tokens (predicted), tokens_per_second (read); of search loss, recall_at_1, queries, \
passages, tokens_per_second.

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
    /// Tokens of a row [default: 512, or the model's context if that is shorter]
    #[arg(long, value_name = "T", value_parser = count(1 << 24))]
    pub ctx: Option<usize>,
    /// For rows of queries: how the rows of a text become one vector [default: what the file says]
    #[arg(long, value_name = "NAME", conflicts_with = "stride",
        value_parser = PossibleValuesParser::new(Pooling::named().map(|(name, _)| name)))]
    pub pooling: Option<String>,
    /// The tokens of a row that are predicted
    #[arg(long, value_enum)]
    pub stride: Option<Stride>,
    #[command(flatten)]
    pub rows: RowArgs,
}

#[derive(Args)]
#[command(after_help = "\
With --json, for each: method, about, and parameters, file, memory (bytes), bakes, or refused.

Examples:
  mynah methods
  mynah methods -m model.gguf --batch 4 --ctx 512")]
pub struct Catalogue {
    /// The model, a GGUF file [default: the built-in model]
    #[arg(short, long, value_name = "MODEL", required = cfg!(not(feature = "base")))]
    pub model: Option<PathBuf>,
    /// Rows of a step of training [default: as `mynah train`]
    #[arg(long, value_name = "N", value_parser = count(1 << 20))]
    pub batch: Option<usize>,
    /// Tokens of a row [default: as `mynah train`]
    #[arg(long, value_name = "T", value_parser = count(1 << 24))]
    pub ctx: Option<usize>,
    #[command(flatten)]
    pub engine: Engine,
}

#[derive(Args)]
#[command(after_help = "\
Without --codec every codec is tried. With --eval the loss of each is measured on that text, and shown: the smallest file that \
keeps 98 % of what the adapter had learnt is written, or with --max-bytes the best one of that size. Take a text that was not \
trained on. Without --eval nothing tells what is lost: the file is the one that rounds least, within --max-bytes.

To train for a size instead: mynah train --bytes N. \
With --json: output, bytes_before, bytes, codec, loss_of_base, loss_before, loss, ways (codec, bytes, loss, kept, frontier).

Examples:
  mynah pack notes.mynah -m model.gguf -o small.mynah --codec q8
  mynah pack notes.mynah -m model.gguf -o small.mynah --eval held-out.txt
  mynah pack notes.mynah -m model.gguf -o small.mynah --max-bytes 300k --eval held-out.txt
  mynah pack notes.mynah -m model.gguf -o small.mynah --codec ternary --density 0.1 --bare")]
pub struct Pack {
    /// The adapter: a file or a checkpoint of `mynah train`, a directory of PEFT or MLX, or a GGUF adapter
    #[arg(value_name = "ADAPTER")]
    pub adapter: PathBuf,
    /// The model that it was trained on, a GGUF file [default: the built-in model]
    #[arg(short, long, value_name = "MODEL", required = cfg!(not(feature = "base")))]
    pub model: Option<PathBuf>,
    /// The file to write
    #[arg(short, long, value_name = "OUT")]
    pub output: PathBuf,
    /// Replace OUT if it exists
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub codec: Choice<PackCodecs>,
    /// Largest size of the file, for example 2953 or 300k
    #[arg(long, value_name = "N", value_parser = size)]
    pub max_bytes: Option<usize>,
    /// Leave out where the adapter comes from: its data's digest, steps and losses
    #[arg(long)]
    pub bare: bool,
    /// Measure what is lost on this text, or on JSON Lines as for `mynah train`
    #[arg(help_heading = DATA, long, value_name = "DATA")]
    pub eval: Option<PathBuf>,
    /// Tokens of a row of it [default: 256, or the model's context if that is shorter]
    #[arg(help_heading = DATA, long, value_name = "T", value_parser = count(1 << 24), requires = "eval")]
    pub ctx: Option<usize>,
    #[command(flatten)]
    pub rows: RowArgs,
    #[command(flatten, next_help_heading = ENGINE)]
    pub engine: Engine,
}

#[derive(Args)]
#[command(after_help = "\
IN is what -a of other commands takes: a file or a checkpoint of `mynah train`, a directory of PEFT or MLX, or a GGUF adapter. \
Without --to, what is written follows from the name of OUT: a GGUF adapter if it ends in .gguf, mynah's own file if it ends in \
.mynah, and else a directory of PEFT's. Values are written as they are, as 32-bit floats. PEFT has lora, dora, ia3, prompt and \
prefix, MLX lora and dora, llama.cpp lora; nola and uni are written as the LoRA that they amount to.

IN may also be a folder of a model of Hugging Face's, which becomes a model file, if mynah runs its architecture. Without \
--type weights stay as they are; mynah quantize makes the file smaller.

With --json: output, to, kind (of IN), written_as, bytes.

Examples:
  mynah convert notes.mynah notes-peft -m model.gguf
  mynah convert notes.mynah notes.gguf -m model.gguf
  mynah convert notes.mynah notes-mlx -m model.gguf --to mlx
  mynah convert someones-peft someones.mynah -m model.gguf")]
pub struct Convert {
    /// The adapter, or the folder of a model
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// The file or directory to write
    #[arg(value_name = "OUT")]
    pub output: PathBuf,
    /// The model that it was trained on, a GGUF file [default: the built-in model]
    #[arg(short, long, value_name = "MODEL", required = cfg!(not(feature = "base")))]
    pub model: Option<PathBuf>,
    /// What to write
    #[arg(long, value_enum)]
    pub to: Option<Form>,
    /// The type of the weights, if IN is a folder of a model [default: as they are]
    #[arg(long = "type", value_name = "TYPE", value_enum, ignore_case = true)]
    pub floats: Option<Floats>,
    /// What the model is called, if IN is a folder of a model [default: as the folder]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Replace OUT if it exists; a directory only if nothing else is in it
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub other: OtherBase,
    #[command(flatten, next_help_heading = ENGINE)]
    pub engine: Engine,
}

/// What weights are stored as that are not quantised.
#[derive(ValueEnum, Clone, Copy, PartialEq, Debug)]
pub enum Floats {
    /// 32 bits, exact
    F32,
    /// 16 bits
    F16,
    /// 16 bits, with the range of 32
    Bf16,
}

/// What an adapter is written as.
#[derive(ValueEnum, Clone, Copy, PartialEq, Debug)]
pub enum Form {
    /// A directory of PEFT's
    Peft,
    /// A GGUF adapter, for llama.cpp and what builds on it
    Gguf,
    /// A directory of MLX's
    Mlx,
    /// mynah's own file
    Mynah,
}

#[derive(Args)]
#[command(after_help = "\
Before anything is written, a table shows what every two of the adapters do to each other: the cosine of their changes; of \
the entries that are large in both, the part with opposite signs (half for changes that have nothing to do with each other); \
the part of the output space that both use; and the part of the energy that gives way where signs differ. The last column \
says what to do: merge, route (attach one at a time), or mix (train one adapter on the data of both).

`sum` does what attaching all of them does, and is as large as all of them together. The others are smaller, or keep adapters \
from undoing each other. All adapters must be of the same base; kinds with a low-rank change can be merged with each other, and \
the result is of kind lora. Adapters that are vectors, such as ia3, have a weighted mean, with --method linear.

With --json: pairs, each with adapters, cosine, signs, overlap, lost, advice and why; with -o also output, method, bytes, \
parameters, ranks (smallest and largest), kept, least and least_layer.

Examples:
  mynah merge facts.mynah style.mynah -m model.gguf --report
  mynah merge facts.mynah style.mynah:0.5 -m model.gguf -o both.mynah
  mynah merge facts.mynah style.mynah -m model.gguf -o both.mynah --method ties --density 0.3
  mynah merge facts.mynah style.mynah -m model.gguf -o both.mynah --method tsvm --rank 8")]
pub struct Merge {
    /// The adapters: files or checkpoints of `mynah train`, PEFT LoRA directories or GGUF adapters [default weight: 1]
    #[arg(value_name = "ADAPTER[:WEIGHT]", required = true)]
    pub adapters: Vec<String>,
    /// The model that they were trained on, a GGUF file [default: the built-in model]
    #[arg(short, long, value_name = "MODEL", required = cfg!(not(feature = "base")))]
    pub model: Option<PathBuf>,
    /// The file to write
    #[arg(short, long, value_name = "OUT", required_unless_present = "report")]
    pub output: Option<PathBuf>,
    /// Without -o: show what the adapters do to each other, and merge nothing
    #[arg(long)]
    pub report: bool,
    /// Replace OUT if it exists
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub method: Choice<Merges>,
    #[command(flatten, next_help_heading = ENGINE)]
    pub engine: Engine,
}

/// How the rows of data are read.
#[derive(Args, Clone)]
pub struct RowArgs {
    /// Put what the system says in front of the first user's turn, for chat templates that refuse a system role
    #[arg(help_heading = DATA, long)]
    pub merge_system: bool,
    /// Treat text like <|im_end|> in the data as control tokens [default: it is text]
    #[arg(help_heading = DATA, long)]
    pub parse_special: bool,
    /// Encoding of the data, such as windows-1252 or gbk [default: UTF-8 or UTF-16, which are recognised]
    #[arg(help_heading = DATA, long, value_name = "NAME")]
    pub encoding: Option<String>,
    /// Columns or keys of other names: prompt=Question,completion=Reply
    #[arg(help_heading = DATA, long, value_name = "KEY=NAME,..", value_delimiter = ',', value_parser = column)]
    pub columns: Vec<(String, String)>,
    /// Whose words are learnt in exports of chats and mails
    #[arg(help_heading = DATA, long, value_name = "NAME")]
    pub speaker: Option<String>,
    /// How a text becomes rows [default: auto, and whole to measure a text]
    #[arg(help_heading = DATA, long, value_name = "HOW",
        value_parser = rows(Split::ALL.iter().map(|(name, _, about)| (*name, *about))))]
    pub split: Option<String>,
}

impl RowArgs {
    /// What is said of the data; texts become rows in the `usual` way where nothing is said.
    pub fn options(&self, usual: Split) -> data::Options {
        let named = |split: &String| Split::ALL.iter().find(|(name, ..)| name == split).map(|(_, split, _)| *split);
        data::Options {
            encoding: self.encoding.clone(),
            columns: self.columns.clone(),
            speaker: self.speaker.clone(),
            split: self.split.as_ref().and_then(named).unwrap_or(usual),
        }
    }
}

/// A key and the column that stands for it.
fn column(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, name)) if !key.is_empty() && !name.is_empty() => Ok((key.into(), name.into())),
        _ => Err("it must be KEY=NAME, for example prompt=Question".into()),
    }
}

#[derive(Args)]
pub struct Data {
    #[command(subcommand)]
    pub command: DataCommand,
}

#[derive(Subcommand)]
pub enum DataCommand {
    /// Show the first rows of data as the model will see them, and what is left out
    Look(Look),
}

#[derive(Args)]
#[command(after_help = "\
What is learnt of a row is coloured, or without a terminal put between « and ». The first token of a row is never learnt, \
since nothing predicts it. Control tokens are spelled out. \
With --json: rows, tokens, learnt (tokens), lengths (min, median, max), longer (rows that are cut at --ctx), left_out (file, \
line, why), notes (what was guessed), first (rows, each with line, tokens, learnt and parts: text and whether it is learnt).

Examples:
  mynah data look notes.txt
  mynah data look -m model.gguf rows.jsonl --rows 5
  mynah data look -m model.gguf chat.txt --speaker Ann")]
pub struct Look {
    /// The data: a file, a folder, or - for standard input
    #[arg(value_name = "DATA")]
    pub data: PathBuf,
    /// The model, a GGUF file [default: the built-in model]
    #[arg(short, long, value_name = "MODEL", required = cfg!(not(feature = "base")))]
    pub model: Option<PathBuf>,
    /// Tokens of a row [default: 256, or the model's context if that is shorter]
    #[arg(long, value_name = "T", value_parser = count(1 << 24))]
    pub ctx: Option<usize>,
    /// Number of rows to show
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub rows: usize,
    #[command(flatten)]
    pub how: RowArgs,
}

#[derive(ValueEnum, Clone, Copy)]
pub enum Stride {
    Llama,
}

#[derive(Args)]
#[command(after_help = "\
The vector of a text is pooled as the model's file says: the mean of its rows, the first one (cls) or the last one. Files of \
models that continue texts usually say nothing; then the mean is taken. Vectors have length 1, so the product of two is the \
cosine of their angle. -d reads a text a line, or JSON Lines like {\"text\": \"...\"}; without -p and -d standard input is \
read so. There is one line of output for each text, in the same order. \
With --json: embedding, the numbers.

Examples:
  mynah embed -m model.gguf -p 'Where are the papers of the boat?'
  mynah embed -m model.gguf -d notes.jsonl --json
  mynah embed -m model.gguf -a my-search.mynah -d notes.txt --ctx 512")]
pub struct Embed {
    /// The model, a GGUF file [default: the built-in model]
    #[arg(short, long, value_name = "MODEL", required = cfg!(not(feature = "base")))]
    pub model: Option<PathBuf>,
    /// Attach an adapter, as for `mynah run`. May be given several times
    #[arg(short, long = "adapter", value_name = "ADAPTER[:STRENGTH]")]
    pub adapters: Vec<String>,
    #[command(flatten)]
    pub other: OtherBase,
    /// A text. May be given several times
    #[arg(short, long, value_name = "TEXT")]
    pub prompt: Vec<String>,
    /// Texts, one a line: plain or JSON Lines with `text`
    #[arg(short, long, value_name = "DATA", conflicts_with = "prompt")]
    pub data: Option<PathBuf>,
    /// How the rows of a text become one vector [default: what the file says]
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(Pooling::named().map(|(name, _)| name)))]
    pub pooling: Option<String>,
    /// Leave vectors as long as the model makes them
    #[arg(long, alias = "no-normalize")]
    pub no_normalise: bool,
    /// Compute with 32-bit activations
    #[arg(long)]
    pub exact: bool,
    /// Cut texts of more tokens [default: longer texts than the model was made for are refused]
    #[arg(long, value_name = "T", value_parser = count(1 << 24))]
    pub ctx: Option<usize>,
    #[command(flatten)]
    pub engine: Engine,
}

impl Embed {
    /// The model, as other commands take it.
    pub fn model(&self) -> ModelArgs {
        ModelArgs {
            model: self.model.clone(),
            adapters: self.adapters.clone(),
            other: self.other.clone(),
            reading: Reading { exact: self.exact, cache: None, repack: None },
            engine: self.engine.clone(),
        }
    }
}

/// How a text is encoded.
#[derive(Args, Clone)]
pub struct TextArgs {
    /// Add the begin and end tokens that the model expects
    #[arg(long)]
    pub add_special: bool,
    /// Treat text like <|im_end|> as control tokens
    #[arg(long)]
    pub parse_special: bool,
}

#[derive(Args)]
#[command(after_help = "\
With --json: tokens; nll, the negative log-likelihood in nats of every token but the first; top, [id, logit] of the \
most likely next tokens.

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
    /// Positions of the context; some models compute otherwise in a long one [default: as many as the prompt has tokens]
    #[arg(long, value_name = "N", value_parser = count(1 << 24))]
    pub ctx: Option<usize>,
    /// Number of most likely next tokens to show; 0: all
    #[arg(long, value_name = "K", default_value_t = 10, value_parser = whole::<usize>(0..))]
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
With --json: hex, the bytes; text, with U+FFFD where they are not UTF-8.

Examples:
  mynah detokenize -m model.gguf 403 407 261 378")]
pub struct Detokenize {
    /// The model, a GGUF file
    #[arg(short, long, value_name = "MODEL")]
    pub model: PathBuf,
    /// Spell out control tokens instead of omitting them
    #[arg(long)]
    pub parse_special: bool,
    /// Token ids
    #[arg(value_name = "IDS", required = true, value_parser = whole::<u32>(0..))]
    pub ids: Vec<u32>,
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  mynah inspect model.gguf
  mynah inspect notes.mynah --json")]
pub struct Inspect {
    /// A GGUF model, a GGUF adapter, a directory of PEFT or MLX, or an adapter of `mynah train`
    pub file: PathBuf,
}

#[derive(Args)]
#[command(after_help = "\
A proof of effect is a prompt, the likeliest tokens that follow it without and with the adapter, and some logits. `mynah train \
--probe` puts one into an adapter, and --record one into an adapter that exists. The same model gives the same tokens, and \
logits within 0.001, on every machine: then the exit status is 0, else 1, and what differs is printed. An adapter of another \
quantisation is refused; with --allow-other-base what differs there is shown.

With --json: same (true or false); tokens and logits (compared); distance, the largest of two logits; loss of the adapted \
answer in nats a token, [recorded, here]; differences, each with whose (plain or adapted), was, now and place (a token of the \
answer) or token (a logit).

Examples:
  mynah verify -m model.gguf -a notes.mynah
  mynah verify -m model.gguf -a old.mynah --record 'Dear diary,' -o proven.mynah")]
pub struct Verify {
    /// The model, a GGUF file [default: the built-in model]
    #[arg(short, long, value_name = "MODEL", required = cfg!(not(feature = "base")))]
    pub model: Option<PathBuf>,
    /// The adapter, a file or a checkpoint of `mynah train`
    #[arg(short, long, value_name = "ADAPTER")]
    pub adapter: PathBuf,
    #[command(flatten)]
    pub other: OtherBase,
    /// Make a proof with this prompt instead, and write the adapter with it to OUT
    #[arg(long, value_name = "TEXT", requires = "output", conflicts_with = "allow_other_base")]
    pub record: Option<String>,
    /// The adapter to write
    #[arg(short, long, value_name = "OUT", requires = "record")]
    pub output: Option<PathBuf>,
    /// Replace OUT if it exists
    #[arg(long, requires = "output")]
    pub force: bool,
    #[command(flatten)]
    pub engine: Engine,
}

#[derive(Args, Clone)]
#[command(after_help = "\
The tests of a model are those of llama-bench: ppN reads a prompt of N tokens, tgN decodes N tokens one by one, from an \
empty cache, or with @dD from a cache of D positions. Tokens are random, and sampling is not included. After a warm-up, \
each test runs R times, alternating between the numbers of threads so that disturbances affect all of them; the table \
shows medians, minima and maxima. The limit of a test is the smaller of two rates: reading weights and cache at the speed \
of memory, and computing the products at the peak of the instructions. Both are measured in the same run. A test can \
exceed its limit if the weights fit into the caches or the machine slows down meanwhile.

With -a there is a row for each adapter: how long its file takes to read and to expand, what it holds in memory, and how long it \
takes to attach it in the place of another in a session that runs.

With --json: one line a test, with the keys of `llama-bench -o jsonl` and more; --compare reads such a file too. Then one line \
an adapter: adapter, kind, file_bytes, read_ms, expand_ms, memory_bytes, swap_ms. \
The tables of kernels have GB/s of weights and 10^9 operations a second; a multiply-add is two operations.

Examples:
  mynah bench -m model.gguf
  mynah bench -m model.gguf -p 512 -n 0 -t 1,2,4 --markdown
  mynah bench -m model.gguf -p 0 -n 32 -d 0,2000 --cache q8_0
  mynah bench -m model.gguf --compare llama-bench.jsonl
  mynah bench -m model.gguf -p 128 -n 0 -a notes.mynah -a style.mynah
  mynah bench -m model.gguf --report
  mynah bench --kernels
  mynah bench --kernels --backend avx2 --format Q4_0,Q8_0")]
pub struct Bench {
    /// The model, a GGUF file
    #[arg(short, long, value_name = "MODEL", required_unless_present = "kernels", conflicts_with = "kernels")]
    pub model: Option<PathBuf>,
    /// Prompt lengths, one test each; 0: none
    #[arg(short = 'p', long, value_name = "N,..", value_delimiter = ',', default_value = "128,512",
        value_parser = whole::<usize>(0..))]
    pub n_prompt: Vec<usize>,
    /// Numbers of tokens to decode, one test each; 0: none
    #[arg(short, long, value_name = "N,..", value_delimiter = ',', default_value = "128", value_parser = whole::<usize>(0..))]
    pub n_gen: Vec<usize>,
    /// Numbers of threads; every test runs with each [default: 1 and all cores]
    #[arg(short, long, value_name = "T,..", value_delimiter = ',', value_parser = count(1024))]
    pub threads: Vec<usize>,
    /// Cores to run on; T threads use the first T of them [default: chosen by the system]
    #[arg(long, value_name = "CORE,..", value_delimiter = ',', value_parser = whole::<usize>(0..))]
    pub cpus: Vec<usize>,
    /// Positions in the cache before a test; every test runs with each
    #[arg(short = 'd', long, value_name = "N,..", value_delimiter = ',', default_value = "0", value_parser = whole::<usize>(0..))]
    pub n_depth: Vec<usize>,
    /// Numbers of sequences that are decoded in parallel; every test runs with each; tokens/s are those of all together
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "1", value_parser = count(256))]
    pub parallel: Vec<usize>,
    /// Repetitions of each test
    #[arg(short, long, value_name = "R", default_value_t = 5, value_parser = count(1000))]
    pub repetitions: usize,
    #[command(flatten)]
    pub reading: Reading,
    /// Measure how long an adapter takes to attach, and to swap for another. May be given several times
    #[arg(short, long = "adapter", value_name = "ADAPTER", conflicts_with_all = ["kernels", "report"])]
    pub adapters: Vec<PathBuf>,
    /// Print ratios to the results in a file of `llama-bench -o jsonl` or `mynah bench --json`
    #[arg(long, value_name = "FILE.jsonl", conflicts_with = "kernels")]
    pub compare: Option<PathBuf>,
    /// Print the table as Markdown
    #[arg(long, conflicts_with = "kernels")]
    pub markdown: bool,
    /// Print a section for docs/performance.md: machine, date, command, the tests with mapped and with copied weights, and
    /// training of an adapter
    #[arg(long, conflicts_with_all = ["kernels", "compare", "repack"])]
    pub report: bool,
    /// Check every kernel against the plain one, and compare its speed with the machine's peak
    #[arg(long)]
    pub kernels: bool,
    /// Backends [default: all for kernels; for a model the fastest, or MYNAH_BACKEND]
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    pub backend: Vec<String>,
    /// Weight formats whose kernels are measured, or all [default: common ones]
    #[arg(long, value_name = "NAME,..", value_delimiter = ',', conflicts_with = "model")]
    pub format: Vec<String>,
}

#[derive(Args)]
#[command(after_help = "\
Memory to run is the model's file, which is mapped, and a cache for the conversation; memory to train is what `mynah plan` \
says with its defaults. Tokens a second are an estimate, and more than will be reached: the bytes that are read for a token at \
the memory bandwidth, which is measured in less than a second. `mynah bench` measures the speed itself.

With --json: version, system, architecture, features, processor, threads, backend, backends, memory_bytes, free_bytes, \
page_bytes, large_pages, bytes_per_second; with -m also model (file, bytes, architecture, weights, formats, context, \
chat_template, run_bytes, cache_bytes, train_bytes, bytes_per_token, tokens_per_second).

Examples:
  mynah doctor
  mynah doctor -m model.gguf
  mynah doctor -m model.gguf --threads 1 --json")]
pub struct Doctor {
    /// Say what this model, a GGUF file, will take
    #[arg(short, long, value_name = "MODEL")]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub engine: Engine,
}
