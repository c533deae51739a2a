//! Options of the commands that write model files.

use super::*;
use mynah::rewrite::MIXES;

fn types() -> PossibleValuesParser {
    rows(MIXES.iter().map(|mix| (mix.name, mix.about)))
}

#[derive(Args)]
#[command(after_help = "\
The bytes are those of llama.cpp's llama-quantize: the mixes with _S and _M give sensitive matrices more bits, and rows \
that do not end on the edge of a block take another type. Take a file of F32, F16 or BF16: rounding twice loses more. \
With --calibrate errors count by how much they matter on that text. \
With --json: output, bytes_before, bytes, type, formats (tensors of each), unmeasured (matrices of which the text says \
nothing).

Examples:
  mynah quantize model-f16.gguf model.gguf Q4_K_M
  mynah quantize model-f16.gguf model.gguf Q4_0 --calibrate notes.txt
  mynah quantize model-q4_0.gguf model-f16.gguf F16 --allow-requantize")]
pub struct Quantize {
    /// The model to quantise, a GGUF file
    #[arg(value_name = "IN")]
    pub model: PathBuf,
    /// The file to write
    #[arg(value_name = "OUT")]
    pub output: PathBuf,
    /// What it becomes
    #[arg(value_name = "TYPE", ignore_case = true, value_parser = types())]
    pub to: String,
    /// Measure on this text which columns of the matrices matter
    #[arg(long, value_name = "TEXT")]
    pub calibrate: Option<PathBuf>,
    /// Round again what is quantised already
    #[arg(long)]
    pub allow_requantize: bool,
    /// Replace OUT if it exists
    #[arg(long)]
    pub force: bool,
    #[command(flatten, next_help_heading = ENGINE)]
    pub engine: Engine,
}

#[derive(Args)]
#[command(after_help = "\
The adapters become part of the weights, so that any program that reads GGUF files has their effect. Without --type each \
tensor keeps its format; what that rounds away of the change is measured and said. Kinds that change weights can be baked in: \
lora, nola, uni, dora, ia3. \
With --json: output, bytes, changed (tensors), formats, rounding (its error over the change of the weights: squares over \
squares), loss_of_base, loss_with_adapters, loss_baked, kept (the part of the fall of the loss), tokens.

Examples:
  mynah bake -m model.gguf -a notes.mynah -o notes.gguf
  mynah bake -m model.gguf -a notes.mynah -a style.mynah:0.5 -o both.gguf --type Q8_0
  mynah bake -m model.gguf -a notes.mynah -o notes.gguf -d held-out.txt")]
pub struct Bake {
    /// The model, a GGUF file [default: the built-in model]
    #[arg(short, long, value_name = "MODEL", required = cfg!(not(feature = "base")))]
    pub model: Option<PathBuf>,
    /// An adapter to bake in; PATH:STRENGTH changes its strength; may be repeated
    #[arg(short, long = "adapter", value_name = "ADAPTER", required = true)]
    pub adapters: Vec<String>,
    /// The file to write
    #[arg(short, long, value_name = "NEW.gguf")]
    pub output: PathBuf,
    /// The type of the file [default: each tensor keeps its format]
    #[arg(long = "type", value_name = "TYPE", ignore_case = true, value_parser = types())]
    pub to: Option<String>,
    /// Replace the file of -o if there is one
    #[arg(long)]
    pub force: bool,
    /// Measure the losses on this text, or on JSON Lines as for `mynah train` [default: the adapter's proof of effect, or
    /// the built-in notes]
    #[arg(help_heading = DATA, short, long, value_name = "DATA")]
    pub data: Option<PathBuf>,
    /// Tokens of a row of it [default: 256, or the model's context if that is shorter]
    #[arg(help_heading = DATA, long, value_name = "T", value_parser = count(1 << 24), requires = "data")]
    pub ctx: Option<usize>,
    #[command(flatten)]
    pub rows: RowArgs,
    #[command(flatten)]
    pub other: OtherBase,
    #[command(flatten, next_help_heading = ENGINE)]
    pub engine: Engine,
}
