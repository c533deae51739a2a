//! Options of the commands that generate text.

use super::*;
use clap::{ArgMatches, FromArgMatches};
use mynah::app::LearnSettings;
use mynah::decode::{STAGES, Sampling};
use mynah::knob::Setting;

/// Sampling: the settings of all stages, and a seed.
#[derive(Clone)]
pub struct SamplingArgs(pub Sampling);

/// The option of the seed.
const SEED: &str = "seed";

impl Args for SamplingArgs {
    fn augment_args(command: clap::Command) -> clap::Command {
        let seed = Arg::new(SEED).long(SEED).value_name("S").value_parser(whole::<u64>(0..));
        let seed = seed.help("The same seed gives the same text [default: 0]").help_heading(SAMPLING);
        let of = |setting: &Setting| setting_arg(setting.knob, setting_help(setting), SAMPLING);
        command.args(STAGES.iter().flat_map(|row| row.knobs).map(of)).arg(seed)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SamplingArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let knobs = STAGES.iter().flat_map(|row| row.knobs).map(|setting| setting.knob);
        Ok(SamplingArgs(Sampling { values: given(knobs, matches), seed: matches.get_one(SEED).copied().unwrap_or(0) }))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(feature = "base")]
#[derive(Args)]
#[command(after_help = "\
The built-in model continues three sentences, learns the built-in notes with a NOLA adapter, and continues them \
again. The adapter is saved; it continues texts and does not answer questions.

Examples:
  mynah demo
  mynah demo -o notes.mynah")]
pub struct Demo {
    /// Save the adapter to this file [default: demo.mynah]
    #[arg(short, long, value_name = "OUT")]
    pub output: Option<PathBuf>,
    /// Replace the file of -o if there is one
    #[arg(long, requires = "output")]
    pub force: bool,
    #[command(flatten)]
    pub engine: Engine,
}

#[derive(Args)]
#[command(after_help = "\
Without -p the prompt is read from standard input. \
With --json: one object a token (id, text) and a last one (ids, text, prompt_tokens, prompt_tokens_per_second, \
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
    /// Maximum number of tokens to generate
    #[arg(short, value_name = "N", default_value_t = 128, value_parser = whole::<u32>(1..))]
    pub n: u32,
    /// Maximum number of tokens of prompt and answer [default: the model's context, at most 4096]
    #[arg(long, value_name = "T", value_parser = whole::<u32>(1..))]
    pub ctx: Option<u32>,
    /// Treat text like <|im_start|> in the prompt as control tokens
    #[arg(long)]
    pub parse_special: bool,
    /// Continue when the model ends the text
    #[arg(long)]
    pub ignore_end: bool,
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

#[derive(Args)]
#[command(after_help = "\
A line is a message. A line that ends with \\ continues in the next one; a line that begins with // is sent with one slash. \
Ctrl-C stops an answer, Ctrl-D or /exit ends. Commands:

  /regenerate  another answer                   /clear  a new conversation
  /system TEXT what the system says             /save FILE  the conversation, as a row of data
  /help        the commands                     /exit   end

With --learn also:

  /good  /bad  mark the last answer             /learn  learn from the marks, then keep the result or not
  /fix TEXT    it should have said TEXT         /undo   return to the adapter before the last /learn
  /marks       the marks, with numbers          /forget N  take mark N away

/good after /regenerate means that this answer is better than the earlier ones. A new mark of an answer replaces the earlier \
ones of the same answer. Marks are saved at once in ADAPTER.feedback.jsonl, one row each; `mynah train --objective marks` can \
read this file too. /learn trains on the new marks and on some old ones, each with its conversation and with its question \
alone, so that new conversations show them; the model's own answers to ordinary questions are repeated between them, so that \
other answers stay as they are. It shows an answer in a new conversation before and after, and asks whether to keep the change. \
The adapter is replaced whole or not at all; the previous one is kept in ADAPTER.before.

The conversation uses the model's chat template; without one, it is written as lines that begin with User: and Assistant:. \
When the context is full, the oldest turns are dropped, with a message.

With --json: one object a token (id, text) and one an answer (ids, text, prompt_tokens that were read for it, \
prompt_tokens_per_second, tokens_per_second, stop); mark (good, bad, better) with replaced, marks and new, the numbers of \
earlier marks that gave way, of all and of those not learnt yet; list (of /marks); forgotten; learnt (objective, marks, steps, \
loss, agreement, divergence from the base and loss of its ordinary answers as [before, after], sample); kept (true or false); \
undone (true or false) with learnt_marks, marks, steps and turn; saved (a file).

Examples:
  mynah chat
  mynah chat -m model.gguf -a mine.mynah --learn
  mynah chat -m model.gguf --system 'Answer in one sentence.'
  mynah chat -m model.gguf -a notes.mynah --temp 0")]
pub struct Chat {
    #[command(flatten)]
    pub model: ModelArgs,
    /// The system message
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Put the system message in front of the first turn, for chat templates that refuse a system role
    #[arg(long, requires = "system")]
    pub merge_system: bool,
    /// Maximum number of tokens of an answer
    #[arg(short, value_name = "N", default_value_t = 512, value_parser = whole::<u32>(1..))]
    pub n: u32,
    /// Learn from marks, into the adapter of -a, which is created if the file does not exist
    #[arg(long)]
    pub learn: bool,
    #[command(flatten, next_help_heading = LEARNING)]
    pub lesson: LessonArgs,
    /// Maximum number of tokens of the conversation [default: the model's context, at most 4096]
    #[arg(long, value_name = "T", value_parser = whole::<u32>(8..))]
    pub ctx: Option<u32>,
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

/// Options of learning from marks.
#[derive(Args, Clone)]
pub struct LessonArgs {
    #[command(flatten)]
    pub method: Choice<Kinds>,
    /// Learning rate
    #[arg(long, value_name = "LR", help = rates::<Kinds>(), value_parser = between(1e-12, 1000.0), requires = "learn")]
    pub lr: Option<f32>,
    /// Maximum number of passes of /learn over the new marks
    #[arg(long, value_name = "P", default_value_t = 16, value_parser = whole::<u64>(1..), requires = "learn")]
    pub passes: u64,
    /// Stop /learn early when its loss is below this (it starts near 0.69); 0: never
    #[arg(long, value_name = "LOSS", default_value_t = 0.0, value_parser = between(0.0, 1e6), requires = "learn")]
    pub enough: f32,
    /// Maximum number of earlier marks that /learn repeats
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = whole::<usize>(0..), requires = "learn")]
    pub replay: usize,
    /// Number of the model's own answers that /learn repeats, so that other answers do not change; 0: none
    #[arg(long, value_name = "N", default_value_t = LearnSettings::default().own, value_parser = whole::<usize>(0..), requires = "learn")]
    pub own: usize,
    /// How strongly rewards follow log-probabilities; smaller values move the model further from its base [default: that of
    /// the objective]
    #[arg(long, value_name = "B", value_parser = real(&objective::BETA), requires = "learn")]
    pub beta: Option<f64>,
}
