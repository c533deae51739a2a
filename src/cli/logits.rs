//! `mynah logits`: losses and next-token logits of a text.

use crate::args::{Logits, Usage, setting};
use crate::load;
use crate::{Outcome, out};
use mynah::text::{Encode, Tokenizer};
use serde::Serialize;

#[derive(Serialize)]
struct Result {
    tokens: Vec<u32>,
    nll: Vec<f64>,
    top: Vec<(u32, f32)>,
}

/// −ln of the probability that `logits` give to `token`.
pub fn loss(logits: &[f32], token: u32) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - most).exp()).sum();
    sum.ln() + f64::from(most) - f64::from(logits[token as usize])
}

pub fn logits(args: &Logits, json: bool) -> anyhow::Result<Outcome> {
    let mynah = load::model(&args.model)?;
    let options = Encode { add_special: args.text.add_special, parse_special: args.text.parse_special };
    let tokens = mynah.tokenizer().encode(&args.prompt, &options)?;
    if tokens.is_empty() {
        return Err(Usage::error("the prompt has no tokens; --add-special adds those that the model expects"));
    }
    let ctx = args.ctx.unwrap_or(tokens.len());
    if tokens.len() > ctx {
        return Err(Usage::error(format!("--ctx {ctx}: the prompt has {} tokens", tokens.len())));
    }
    load::say_ropes(&mynah, &args.model.adapters, ctx)?;
    let mut session = setting(load::generation(&mynah, &args.model)?.session(ctx))?;
    let (mut nll, mut last) = (Vec::new(), Vec::new());
    session.feed_each(&tokens, &mut |i, logits: &[f32]| match tokens.get(i + 1) {
        Some(&next) => nll.push(loss(logits, next)),
        None => last = logits.to_vec(),
    })?;
    if last.iter().any(|x| !x.is_finite()) || nll.iter().any(|x| !x.is_finite()) {
        anyhow::bail!("{}: the model computes numbers that are not finite", args.model.name());
    }
    let mut top: Vec<(u32, f32)> = (0..).zip(last).collect();
    top.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if args.top > 0 {
        top.truncate(args.top);
    }
    let result = Result { tokens, nll, top };
    if json {
        out::print_json(&result)?
    } else {
        out::print(&table(&result, mynah.tokenizer()))?
    }
    Ok(Outcome::Done)
}

fn table(result: &Result, tokenizer: &Tokenizer) -> String {
    let spelt = |id: u32| format!("{:?}", String::from_utf8_lossy(tokenizer.token_bytes(id)));
    let mut text = String::from("token  loss     text\n");
    for (i, &id) in result.tokens.iter().enumerate() {
        let loss = i.checked_sub(1).map_or("-".into(), |i| format!("{:.4}", result.nll[i]));
        text += &format!("{id:5}  {loss:7}  {}\n", spelt(id));
    }
    text += "\nnext   logit    text\n";
    for &(id, logit) in &result.top {
        text += &format!("{id:5}  {logit:7.4}  {}\n", spelt(id));
    }
    text
}
