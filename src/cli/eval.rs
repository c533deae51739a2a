//! `mynah eval`: mean loss and perplexity over a text, or how well queries find their passages.

use crate::args::{Eval, RowArgs, Usage, setting};
use crate::load;
use crate::logits::loss;
use crate::meter::Meter;
use crate::{Outcome, out};
use anyhow::Context;
use mynah::Mynah;
use mynah::bytes::{Limits, map};
use mynah::model::{Pooling, Session};
use mynah::text::Encode;
use mynah::train::Example;
use mynah::train::data::{Files, Reader, Split, text_of};
use mynah::train::objective::Choice;
use serde::Serialize;
use std::path::Path;
use std::time::Instant;

/// What cosines are divided by, as training does where nothing is said.
const TEMPERATURE: f64 = 0.05;
/// The default number of tokens of a row.
const CONTEXT: usize = 512;

#[derive(Serialize)]
struct Result {
    loss: f64,
    perplexity: f64,
    tokens: u64,
    tokens_per_second: f64,
}

pub fn eval(args: &Eval, json: bool) -> anyhow::Result<Outcome> {
    let mynah = load::model(&args.model)?;
    let most = mynah.model().hparams.context;
    let ctx = args.ctx.unwrap_or(CONTEXT.min(most));
    if ctx < 2 || ctx > most {
        return Err(Usage::error(format!("--ctx {ctx}: the model was made for 2 to {most} tokens")));
    }
    let rows = rows(args, &mynah, ctx)?;
    match rows.iter().filter(|row| !row.passages.is_empty()).count() {
        0 if args.pooling.is_some() => {
            return Err(Usage::error("--pooling is for rows of queries and passages"));
        }
        0 => {}
        n if n == rows.len() => return find(args, &mynah, &rows, json),
        n => anyhow::bail!(
            "{}: {n} of {} rows are queries with passages; all or none can be",
            out::name(&args.data),
            rows.len()
        ),
    }

    load::say_ropes(&mynah, &args.model.adapters, ctx)?;
    let mut session = setting(load::generation(&mynah, &args.model)?.session(ctx))?;
    let meter = Meter::new(rows.len() as u64);
    let start = Instant::now();
    let (mut sum, mut targets, mut read) = (0.0, 0u64, 0u64);
    for (i, row) in rows.iter().enumerate() {
        let (own, n) = measure(&mut session, row).with_context(|| format!("row {}", i + 1))?;
        if n == 0 {
            continue;
        }
        (sum, targets) = (sum + own, targets + n);
        read += row.tokens.len() as u64 - 1;
        meter.show(i as u64 + 1, || {
            let so_far = (sum / targets.max(1) as f64).exp();
            format!("perplexity {so_far:.3}  {:.0} tokens/s", read as f64 / start.elapsed().as_secs_f64())
        });
    }
    meter.done();
    let mean = sum / targets as f64;
    if !mean.is_finite() {
        anyhow::bail!("{}: the mean loss over {targets} tokens is {mean}", args.model.name());
    }
    let result = Result {
        loss: mean,
        perplexity: mean.exp(),
        tokens: targets,
        tokens_per_second: read as f64 / start.elapsed().as_secs_f64(),
    };
    if json {
        out::print_json(&result)?;
    } else {
        let Result { loss, perplexity, tokens, tokens_per_second } = result;
        out::print(&format!(
            "loss {loss:.4}  perplexity {perplexity:.4}  tokens {tokens}  tokens/s {tokens_per_second:.1}\n"
        ))?;
    }
    Ok(Outcome::Done)
}

/// The losses of the targets of a row together, and how many there are.
pub fn measure(session: &mut Session, row: &Example) -> anyhow::Result<(f64, u64)> {
    let (mut sum, mut targets) = (0.0, 0);
    let Some(first) = (1..row.tokens.len()).find(|t| row.mask[*t]) else { return Ok((sum, targets)) };
    session.truncate(0);
    if first > 1 {
        session.feed(&row.tokens[..first - 1])?;
    }
    let inputs = &row.tokens[first - 1..row.tokens.len() - 1];
    session.feed_each(inputs, &mut |j, logits: &[f32]| {
        if row.mask[first + j] {
            sum += loss(logits, row.tokens[first + j]);
            targets += 1;
        }
    })?;
    Ok((sum, targets))
}

/// The rows of the data.
fn rows(args: &Eval, mynah: &Mynah, ctx: usize) -> anyhow::Result<Vec<Example>> {
    let name = out::name(&args.data);
    if args.stride.is_some() {
        let bytes = map::open(&args.data)?;
        let text = text_of(&bytes).with_context(|| name.clone())?;
        bytes.check()?;
        return second_halves(mynah, &text, args.rows.parse_special, ctx);
    }
    read(mynah, &args.data, &args.rows, Split::Whole, ctx)
}

/// The rows of a file or folder, with what is guessed and left out said.
pub fn read(mynah: &Mynah, data: &Path, how: &RowArgs, split: Split, ctx: usize) -> anyhow::Result<Vec<Example>> {
    let files = Files::open(data, &Limits::DEFAULT)?;
    let template = load::template(mynah)?.map(|t| t.merge_system(how.merge_system));
    let reader = Reader {
        tokenizer: mynah.tokenizer(),
        template: template.as_ref(),
        ctx,
        parse_special: how.parse_special,
        options: how.options(split),
        limits: Limits::default(),
    };
    let rows = reader.files(&files).with_context(|| out::name(data));
    files.check()?;
    let rows = rows?;
    load::notes(&rows);
    Ok(rows.examples)
}

#[derive(Serialize)]
struct Found {
    loss: f64,
    recall_at_1: f64,
    queries: usize,
    passages: usize,
    tokens_per_second: f64,
}

/// How well queries find their passages, each among those of all rows.
fn find(args: &Eval, mynah: &Mynah, rows: &[Example], json: bool) -> anyhow::Result<Outcome> {
    let reading = &args.model.reading;
    if reading.cache.is_some() {
        return Err(Usage::error("--cache: embeddings use no cache"));
    }
    let model = reading.repack.map(|budget| load::repack_if_faster(mynah.model(), budget)).transpose()?.flatten();
    let mynah = model.map_or_else(|| mynah.clone(), |model| mynah.with_model(model));
    let stack = load::stack(&mynah, &args.model.adapters, &args.model.other)?;
    let embedding = mynah.embedding().stack(stack).precision(reading.precision()).normalise(false);
    let embedding = match &args.pooling {
        Some(name) => embedding.pooling(Pooling::by_name(name)?),
        None => embedding,
    };
    let texts: Vec<&[u32]> = rows.iter().flat_map(Example::sequences).map(|e| &*e.tokens).collect();
    let (meter, start, width) = (Meter::new(texts.len() as u64), Instant::now(), mynah.model().embedding_width());
    let (mut vectors, mut read) = (Vec::with_capacity(texts.len() * width), 0);
    for some in texts.chunks(64) {
        vectors.extend(setting(embedding.embed_tokens(some))?.concat());
        read += some.iter().map(|text| text.len()).sum::<usize>();
        meter.show((vectors.len() / width) as u64, || {
            format!("{:.0} tokens/s", read as f64 / start.elapsed().as_secs_f64())
        });
    }
    meter.done();
    let seconds = start.elapsed().as_secs_f64();
    let sums = Choice::of(rows).log_probs(&vectors, width, TEMPERATURE);
    let mean = |of: &dyn Fn(&[f64; 2]) -> f64| sums.as_chunks::<2>().0.iter().map(of).sum::<f64>() / rows.len() as f64;
    let found = Found {
        loss: mean(&|[own, _]| -own),
        recall_at_1: mean(&|[own, wrong]| f64::from(u8::from(own > wrong))),
        queries: rows.len(),
        passages: texts.len() - rows.len(),
        tokens_per_second: read as f64 / seconds,
    };
    if !found.loss.is_finite() {
        anyhow::bail!("{}: the mean loss of {} queries is {}", args.model.name(), found.queries, found.loss);
    }
    if json {
        out::print_json(&found)?;
    } else {
        let Found { loss, recall_at_1, queries, passages, tokens_per_second } = found;
        out::print(&format!(
            "loss {loss:.4}  recall@1 {recall_at_1:.4}  queries {queries}  passages {passages}  tokens/s {tokens_per_second:.1}\n"
        ))?;
    }
    Ok(Outcome::Done)
}

/// The rows of llama-perplexity: whole ones only, which start with the model's begin token if it has one; targets are
/// the tokens of the second half.
fn second_halves(mynah: &Mynah, text: &str, parse_special: bool, ctx: usize) -> anyhow::Result<Vec<Example>> {
    let t = mynah.tokenizer();
    let ids = setting(t.encode(text, &Encode { add_special: true, parse_special }))?;
    let rows: Vec<Example> = ids
        .chunks_exact(ctx)
        .map(|chunk| {
            let mut tokens = chunk.to_vec();
            if let Some(bos) = t.bos().filter(|_| t.adds_bos()) {
                tokens[0] = bos;
            }
            Example::new(tokens, (0..ctx).map(|t| t > ctx / 2).collect())
        })
        .collect();
    if rows.is_empty() || ctx < 4 {
        return Err(Usage::error(format!("{} tokens do not fill a row of {ctx}; rows need 4 or more", ids.len())));
    }
    Ok(rows)
}
