//! Options become a lesson that is set up: what is trained, the settings, the rows.

use super::activation_cache::{self, Subject};
use super::resume::Saved;
use crate::args::{self, FULL, RowOrder, Teach, Usage, setting};
use crate::load;
use crate::out;
use anyhow::Context;
use mynah::adapter::{self, FOR_SIZE, Spec};
use mynah::app::{Data, Draft, Method, Settings, Setup};
use mynah::nn::linear::Precision;
use mynah::train::data::{Files, Split};
use mynah::train::{Schedule, objective, optim};
use mynah::{Error, Mynah};
use std::path::Path;

/// Settings of the library that an option of another name sets.
const FLAGS: [(&str, &str); 12] = [
    ("bytes", "--bytes"),
    ("codec", "--codec"),
    ("patience", "--patience"),
    ("context", "--ctx"),
    ("layers", "--layers"),
    ("targets", "--targets"),
    ("density ratios", "--density-ratios"),
    ("loraplus ratio", "--loraplus-ratio"),
    ("precision", "--fast"),
    ("dropout", "--dropout"),
    ("evaluation fraction", "--held-out"),
    ("activation cache", "--activation-cache"),
];

/// As [`setting`], with the option's name where one is to blame.
pub fn flagged<T>(result: mynah::Result<T>) -> anyhow::Result<T> {
    result.or_else(|e| match &e {
        Error::Invalid { what, why } => match FLAGS.iter().find(|(name, _)| name == what) {
            Some((_, flag)) => Err(Usage::error(format!("{flag}: {why}"))),
            None => setting(Err(e)),
        },
        _ => setting(Err(e)),
    })
}

/// A lesson as the options describe it. Of a run that is resumed the checkpoint goes into it.
pub fn setup(
    args: &Teach,
    mynah: &Mynah,
    saved: Option<Saved>,
    clock: i64,
    data: Option<&Files>,
) -> anyhow::Result<Setup> {
    let setup = match (&args.init, saved) {
        // The file may be gone, or be the output: the checkpoint holds the adapter.
        (Some(_), Some(saved)) if !saved.other_init => mynah.resume_from(saved.checkpoint)?,
        (_, saved) => {
            let setup = mynah.lesson(method(args, mynah)?);
            match saved {
                Some(saved) => setup.resume(saved.checkpoint),
                None => setup,
            }
        }
    };
    if let (Some(path), Some(method)) = (&args.init, args.method.named())
        && method != setup.method().name()
    {
        let (path, kind) = (out::name(path), setup.method().name());
        return Err(Usage::error(format!("--init {path} is a {kind} adapter; leave out --method")));
    }
    let setup = setup.stack(load::stack(mynah, &args.adapters, &args.other)?).settings(|s| settings(args, clock, s));
    let setup = match args.bytes {
        Some(bytes) => sized(setup, bytes)?,
        None => setup,
    };
    let Some(path) = args.activation_cache.clone() else { return Ok(setup) };
    let limit = args.activation_cache_size as u64;
    let subject = Subject::new(mynah, data.map_or_else(|| blake3::hash(&[]).into(), Files::digest));
    Ok(setup.activation_cache(move |blocks| {
        let file = activation_cache::File::open(&path, limit, &subject, blocks)?;
        out::say(&file.says());
        Ok(Box::new(file))
    }))
}

/// A fresh adapter whose file has at most so many bytes; what it is, is said, and why where the kind was chosen too.
fn sized(setup: Setup, bytes: usize) -> anyhow::Result<Setup> {
    let chosen = matches!(setup.method(), Method::Fresh(spec) if spec.kind == Spec::AUTO);
    let mut codec = None;
    let setup = flagged(setup.bytes(bytes))?.settings(|s| codec = s.codec.clone());
    if let (Method::Fresh(spec), Some(codec)) = (setup.method(), codec) {
        let size = spec.values.iter().map(|(name, value)| format!("{name} {value}, "));
        let row = FOR_SIZE.iter().find(|row| chosen && row.kind.name == spec.kind);
        let why = row.map_or(String::new(), |row| format!("; {}", row.why));
        out::say(&format!("--bytes {bytes}: {}, {}{}{why}", spec.kind, size.collect::<String>(), codec.words()?));
    }
    Ok(setup)
}

/// What the options train.
fn method(args: &Teach, mynah: &Mynah) -> anyhow::Result<Method> {
    if let Some(path) = &args.init {
        return Ok(mynah.adapter(path)?.into());
    }
    // Where only a size is named, the kind that makes the most of it.
    let kind = match args.method.named() {
        None if args.bytes.is_some() => Spec::AUTO,
        _ => args.method.kind(),
    };
    if kind == FULL {
        if args.targets.is_some() || args.layers.is_some() {
            return Err(Usage::error("--targets and --layers are for adapters: --method full trains all weights"));
        }
        return Ok(Method::Weights);
    }
    let layers = |list: &String| flagged(adapter::parse_layers(list, mynah.model().hparams.layers));
    let usual = Spec::new(kind);
    Ok(Method::Fresh(Spec {
        targets: args
            .targets
            .as_ref()
            .map_or(Ok(usual.targets.clone()), |list| flagged(adapter::parse_targets(list)))?,
        layers: args.layers.as_ref().map(layers).transpose()?,
        values: args.method.values.clone(),
        seed: args.seed,
        ..usual
    }))
}

fn settings(args: &Teach, clock: i64, to: &mut Settings) {
    *to = Settings {
        lr: args.lr,
        steps: args.steps,
        epochs: args.epochs,
        batch: args.batch,
        accumulate: args.accumulate,
        context: args.ctx,
        pack: args.pack,
        shuffle: args.order == RowOrder::Shuffled,
        seed: args.seed,
        held_out: args.held_out.map(f64::from).or(to.held_out),
        eval_every: args.eval_every,
        patience: args.patience,
        objective: objective::Spec { kind: args.objective.kind().into(), values: args.objective.values.clone() },
        density_ratios: args.density_ratios,
        optimizer: optim::Spec { kind: args.optimizer.kind().into(), values: args.optimizer.values.clone() },
        codec: args.codec.spec(),
        schedule: match args.schedule {
            args::Schedule::Cosine => Schedule::Cosine,
            args::Schedule::Linear => Schedule::Linear,
            args::Schedule::Constant => Schedule::Constant,
        },
        warmup: args.warmup,
        clip: args.clip,
        zeroth: args.zeroth.map(|directions| (directions, args.zeroth_eps)),
        dropout: args.dropout,
        precision: if args.fast { Precision::Int8 } else { Precision::F32 },
        recompute: args.recompute(),
        act_type: args.act_type.into(),
        memory: args.memory,
        clock: Some(clock),
        merge_system: args.rows.merge_system,
        parse_special: args.rows.parse_special,
        data: args.rows.options(Split::Auto),
    };
}

/// The rows of data. Says what was guessed, and how many were cut, left out or split.
pub fn draft(setup: Setup, path: &Path, files: &Files) -> anyhow::Result<(Draft, Size)> {
    let name = path.to_string_lossy();
    // Settings first: what is wrong with them is not the file's fault.
    flagged(setup.tokens())?;
    let data: Data = setup.read_files(files).with_context(|| name.to_string())?;
    load::notes(&data.rows);
    let (rows, notes) = (data.rows.examples.len(), data.rows.notes.clone());
    let draft = flagged(setup.draft(data))?;
    let size = Size { rows, tokens: draft.tokens(), epochs: draft.epochs(), notes };
    if draft.pairs() > 0 {
        let n = draft.pairs();
        out::say(&format!("{n} pairs: each becomes a liked and a disliked completion"));
    }
    Ok((draft, size))
}

/// How much there is to learn.
pub struct Size {
    /// Rows of the file.
    pub rows: usize,
    /// Tokens of an epoch.
    pub tokens: usize,
    pub epochs: f64,
    /// What was guessed of it.
    pub notes: Vec<String>,
}
