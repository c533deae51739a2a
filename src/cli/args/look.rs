//! Options of the commands that look at models, texts and files.

use super::*;

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
    /// Sequences that go through the model side by side, each test with each; tokens/s are those of all together
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "1", value_parser = count(256))]
    pub parallel: Vec<usize>,
    /// How often each test runs
    #[arg(short, long, value_name = "R", default_value_t = 5, value_parser = count(1000))]
    pub repetitions: usize,
    #[command(flatten)]
    pub reading: Reading,
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
