//! Files to models, tokenizers, templates and adapters.

use crate::args::{Engine, ModelArgs, OtherBase, Usage, setting};
use crate::digests::Kept;
use crate::names::{self, What};
use crate::out;
use anyhow::Context;
use mynah::Mynah;
use mynah::adapter::{Ready, Stack};
use mynah::app::Generation;
use mynah::bytes::map::Io;
use mynah::bytes::{Bytes, Limits};
use mynah::error::printable;
use mynah::gguf::Gguf;
use mynah::kernel::{self, Compute, Pool};
use mynah::model::{Model, Session, SessionConfig};
use mynah::text::Tokenizer;
use mynah::text::chat::Template;
use mynah::train::Checkpoint;
use mynah::train::data::Dataset;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A parsed file, with the other parts if it is one; errors name the file.
pub fn gguf(path: &Path) -> anyhow::Result<Gguf> {
    gguf_by(path, Io::Map)
}

/// The same, mapped or read.
pub fn gguf_by(path: &Path, io: Io) -> anyhow::Result<Gguf> {
    names::check(path, What::Model)?;
    Ok(Gguf::load(path, io, &Limits::default())?)
}

/// A file's tokenizer; errors name the file.
pub fn tokenizer(path: &Path) -> anyhow::Result<Tokenizer> {
    Ok(Tokenizer::from_gguf(&gguf(path)?).map_err(|e| e.in_file(path.to_string_lossy()))?)
}

/// What computes.
pub fn compute(engine: &Engine) -> anyhow::Result<Compute> {
    let pool = setting(pool(engine.threads.map(usize::from), &engine.cpus))?;
    Ok(Compute { kernels: setting(kernel::from_env())?, pool })
}

/// Threads: one on each of `cpus`, or that number wherever the system puts them.
pub fn pool(threads: Option<usize>, cpus: &[usize]) -> mynah::Result<Pool> {
    if cpus.is_empty() { Ok(Pool::new(threads.unwrap_or_else(cores))) } else { Pool::pinned(cpus) }
}

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// A checkpoint stands for the adapter in it.
pub fn adapter_in(bytes: Bytes) -> Bytes {
    // What is no checkpoint, or a damaged one, is left to who reads adapters to complain of.
    Checkpoint::read(bytes.clone(), &Limits::default()).and_then(|saved| saved.adapter()).unwrap_or(bytes)
}

/// The text of standard input, without the mark that some programs put in front of it.
pub fn input() -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).context("standard input")?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let not =
        |e: std::str::Utf8Error| format!("standard input: not UTF-8 at byte {}; convert it first", e.valid_up_to());
    Ok(std::str::from_utf8(bytes).map_err(|e| Usage(not(e)))?.into())
}

/// Seconds since 1970.
pub fn now() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
}

/// A model file; errors name it.
pub fn open(path: &Path, engine: &Engine) -> anyhow::Result<Mynah> {
    let kept = Kept::of(path);
    let file = gguf_by(path, engine.io.into())?;
    let mynah = Mynah::with(file, compute(engine)?).map_err(|e| e.in_file(path.to_string_lossy()))?;
    Ok(match kept {
        Some(kept) => mynah.with_model(mynah.model().keeping(Arc::new(kept))),
        None => mynah,
    })
}

/// The model of these options.
pub fn model(args: &ModelArgs) -> anyhow::Result<Mynah> {
    named(args.model.as_deref(), &args.engine)
}

/// The model that `-m` names, or else the built-in one, which is said.
pub fn named(path: Option<&Path>, engine: &Engine) -> anyhow::Result<Mynah> {
    match path {
        Some(path) => open(path, engine),
        #[cfg(feature = "base")]
        None => {
            out::say("Using the built-in model; choose another with -m MODEL.");
            embedded(engine)
        }
        #[cfg(not(feature = "base"))]
        None => Err(Usage::error("which model? give -m MODEL")),
    }
}

/// The built-in model.
#[cfg(feature = "base")]
pub fn embedded(engine: &Engine) -> anyhow::Result<Mynah> {
    let file = Gguf::parse(Bytes::from_static(mynah::base::MODEL), &Limits::default())?;
    Ok(Mynah::with(file, compute(engine)?)?)
}

/// The adapters that names like `PATH` and `PATH:STRENGTH` say, one on top of the other.
pub fn stack(mynah: &Mynah, names: &[String], other: &OtherBase) -> anyhow::Result<Stack> {
    stack_saying(mynah, names, other, out::say)
}

/// The same; what is to be said of adapters of another base goes to `say`.
pub fn stack_saying(mynah: &Mynah, names: &[String], other: &OtherBase, say: impl Fn(&str)) -> anyhow::Result<Stack> {
    let mut stack = Stack::new();
    for name in names {
        let (path, strength) = split_scale(name)?;
        setting(stack.push(ready(mynah, Path::new(path), other, &say)?, strength))?;
    }
    Ok(stack)
}

/// An adapter, of another base only where that is allowed, and then what it costs is said.
pub fn ready(mynah: &Mynah, path: &Path, other: &OtherBase, say: impl Fn(&str)) -> anyhow::Result<Arc<Ready>> {
    names::check(path, What::Adapter)?;
    let refused = match mynah.ready(path) {
        Err(e) if other.allow_other_base && matches!(e.inner(), mynah::Error::Mismatch { .. }) => e,
        ready => return Ok(ready?),
    };
    // Where shapes or tokenizer differ, the first error says so.
    let Ok(foreign) = mynah.ready_from_other_base(path) else { return Err(refused.into()) };
    let (name, here) = (out::name(path), mynah.base().title());
    let there = if foreign.base.is_empty() { "another base" } else { &foreign.base };
    say(&format!("{name} was trained on {there}; this is {here}"));
    say(&match foreign.loss {
        Some([was, now]) => format!("the loss of its proof is {now:.4} here, and was {was:.4} where it was made"),
        None => "it carries no proof of effect, so what that costs cannot be shown".into(),
    });
    Ok(foreign.adapter)
}

/// Says which adapters learnt with other rotary frequencies than a context has. Such models are few: the others take no look.
pub fn say_ropes(mynah: &Mynah, names: &[String], context: usize) -> anyhow::Result<()> {
    let Some(here) = mynah.model().at_context(context).rope_length() else { return Ok(()) };
    for name in names {
        let (path, _) = split_scale(name)?;
        let info =
            mynah::bytes::map::open(Path::new(path)).and_then(|b| mynah::adapter::info(b, &Limits::default())).ok();
        let learnt = info.and_then(|info| info.provenance).map(|p| p.rope).unwrap_or_default();
        if !learnt.is_empty() && learnt != here {
            let original = mynah.model().hparams.original_context;
            let ctx = if learnt == "long" { format!("more than {original}") } else { format!("at most {original}") };
            out::say(&format!(
                "{path} learnt with the {learnt} rotary frequencies of this model; a context of {context} takes the {here} \
                 ones: --ctx of {ctx} takes those"
            ));
        }
    }
    Ok(())
}

/// The chat template, if the file has one, for now. Only who uses it meets its errors.
pub fn template(mynah: &Mynah) -> mynah::Result<Option<Template>> {
    Ok(mynah.late_template()?.map(|t| t.at(now())))
}

/// Most reasons, and most rows of each, that are named.
const NAMED: usize = 8;

/// Says what was guessed of data, which rows are left out and why, and whether rows spell control tokens that are read as text.
pub fn notes(rows: &Dataset) {
    for note in rows.notes.iter().take(NAMED) {
        out::say(&format!("data: {note}"));
    }
    if rows.notes.len() > NAMED {
        out::say(&format!("data: and {} more notes", rows.notes.len() - NAMED));
    }
    let mut reasons: Vec<(&str, Vec<String>)> = Vec::new();
    for row in &rows.left_out {
        let place = row.file.as_ref().map_or(String::new(), |file| format!("{}: ", printable(file)))
            + &format!("line {}", row.line);
        match reasons.iter_mut().find(|(why, _)| *why == row.why) {
            Some((_, places)) => places.push(place),
            None => reasons.push((&row.why, vec![place])),
        }
    }
    if !reasons.is_empty() {
        let n = rows.left_out.len();
        out::say(if n == 1 { "1 row is left out:".into() } else { format!("{n} rows are left out:") }.as_str());
    }
    for (why, places) in reasons.iter().take(NAMED) {
        let more = if places.len() > NAMED { format!(" and {} more", places.len() - NAMED) } else { String::new() };
        out::say(&format!("  {}{more}: {why}", places[..places.len().min(NAMED)].join(", ")));
    }
    if reasons.len() > NAMED {
        out::say(&format!("  and {} other reasons", reasons.len() - NAMED));
    }
    if rows.cut > 0 {
        let (n, longest) = (rows.cut, rows.longest);
        let what = if n == 1 { "1 row is" } else { &format!("{n} rows are") };
        out::say(&format!("{what} cut at the context; the longest has {longest} tokens"));
    }
    if rows.spelled > 0 {
        let n = rows.spelled;
        out::say(&format!(
            "{n} {} control tokens in data, which are read as text; --parse-special reads them as tokens",
            if n == 1 { "row spells" } else { "rows spell" }
        ));
    }
}

/// How a model speaks, as the options say.
pub fn generation(mynah: &Mynah, args: &ModelArgs) -> anyhow::Result<Generation> {
    let model = args.reading.repack.map(|budget| repack_if_faster(mynah.model(), budget)).transpose()?.flatten();
    let generation = mynah.generation().precision(args.reading.precision()).cache(args.reading.cache());
    let generation = generation.stack(stack(mynah, &args.adapters, &args.other)?);
    Ok(match model {
        Some(model) => generation.model(model),
        None => generation,
    })
}

/// Copies that are made to measure whether copies are faster.
const SAMPLE: usize = 64 << 20;
/// About how long each side is measured.
const MEASURE: Duration = Duration::from_millis(300);

/// What [`repack`] makes, if a part of the copies shows that they are faster here: which CPU that is so on cannot be told
/// from its name. Both are said.
pub fn repack_if_faster(model: &Model, budget: usize) -> anyhow::Result<Option<Model>> {
    // An encoder has no tokens to decode; its texts are prompts.
    if !model.hparams.causal() {
        return repack(model, budget).map(Some);
    }
    let (some, taken) = model.repacked(budget.min(SAMPLE))?;
    if taken == 0 {
        out::say("--repack: no weights of this model gain by copies");
        return Ok(None);
    }
    let [mapped, copied] = token_times([model, &some])?.map(|t| t.as_secs_f64() * 1e3);
    let of = format!(
        "a token takes {mapped:.2} ms from the mapped file, {copied:.2} ms with {} copied",
        out::bytes(taken as u64)
    );
    if copied >= mapped {
        out::say(&format!("--repack: {of}, so weights stay where they are"));
        return Ok(None);
    }
    out::say(&format!("--repack: {of}"));
    drop(some);
    repack(model, budget).map(Some)
}

/// Medians of the times that models take for a token, in turns.
fn token_times(models: [&Model; 2]) -> anyhow::Result<[Duration; 2]> {
    let most = models[0].hparams.context.min(64);
    let config = SessionConfig { context: most, chunk: 1, ..SessionConfig::default() };
    let [a, b] = models.map(|model| Session::new(model, config.clone()));
    let mut sessions = [a?, b?];
    let (mut times, begin) = ([vec![], vec![]], Instant::now());
    for round in 0.. {
        for (session, times) in sessions.iter_mut().zip(&mut times) {
            if session.position() == most {
                session.truncate(0);
            }
            let start = Instant::now();
            session.feed(&[0])?;
            // The first reads a file from the disk, and takes memory.
            if round > 0 {
                times.push(start.elapsed());
            }
        }
        if round > 2 && begin.elapsed() >= 2 * MEASURE {
            break;
        }
    }
    Ok(times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    }))
}

/// The model with weights copied as `--repack` says, which is said.
pub fn repack(model: &Model, budget: usize) -> anyhow::Result<Model> {
    let start = Instant::now();
    let (model, taken) = model.repacked(budget)?;
    out::say(&format!(
        "repacked {} of weights into memory in {:.0} ms",
        out::bytes(taken as u64),
        start.elapsed().as_secs_f64() * 1e3
    ));
    Ok(model)
}

impl ModelArgs {
    /// What the model is called.
    pub fn name(&self) -> String {
        self.model.as_ref().map_or("the built-in model".into(), |path| out::name(path))
    }
}

const STRENGTH: &str = " is no strength; a number can follow the colon, such as 0.5";

/// A path, and what follows its last colon, or equals sign, if that is a number and no file is called so.
pub fn split_scale(name: &str) -> anyhow::Result<(&str, f32)> {
    match name.rsplit_once([':', '=']) {
        Some((path, scale)) if !Path::new(name).exists() => match scale.parse::<f32>() {
            Ok(scale) if scale.is_finite() && !path.is_empty() => Ok((path, scale)),
            Ok(_) => Err(Usage::error(format!("{name}: {scale}{STRENGTH}"))),
            Err(_) if Path::new(path).exists() => Err(Usage::error(format!("{path}: {scale:?}{STRENGTH}"))),
            Err(_) => Ok((name, 1.0)),
        },
        _ => Ok((name, 1.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_follow_the_last_colon() {
        assert_eq!(split_scale("a.mynah").unwrap(), ("a.mynah", 1.0));
        assert_eq!(split_scale("a.mynah:0.5").unwrap(), ("a.mynah", 0.5));
        assert_eq!(split_scale("a.mynah=0.5").unwrap(), ("a.mynah", 0.5));
        assert_eq!(split_scale("C:\\a:-1").unwrap(), ("C:\\a", -1.0));
        assert_eq!(split_scale("C:\\a").unwrap(), ("C:\\a", 1.0));
        assert!(split_scale("a:nan").is_err() && split_scale("Cargo.toml:half").is_err());
    }
}
