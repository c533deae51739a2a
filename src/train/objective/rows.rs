//! Conversions of rows to the kind of data that an objective learns from.

use crate::error::{Error, Result};
use crate::train::Example;
use std::prelude::v1::*;

/// Two examples from each pair: the better one liked, the worse one not. Others are left as they are.
pub fn unpair(examples: Vec<Example>) -> Vec<Example> {
    let mut out = Vec::new();
    for mut e in examples {
        match (e.good, e.other.take()) {
            (None, Some(worse)) => {
                let Example { weight, line, .. } = e;
                out.push(e.judged(true));
                out.push(Example { weight, line, ..worse.judged(false) });
            }
            (_, other) => out.push(Example { other, ..e }),
        }
    }
    out
}

/// Gives each example the completion of the next one as its [`Example::other`], and the last one that of the first; KTO
/// estimates a divergence from these. Rows of more than `context` tokens are cut.
///
/// # Errors
/// `Invalid` if there are not two examples, or a completion does not fit after a prompt.
pub fn mismatch(examples: &mut [Example], context: usize) -> Result<()> {
    if examples.len() < 2 {
        return Err(Error::invalid("examples", "a completion of another prompt is needed, so at least two"));
    }
    let parts: Vec<(usize, Vec<u32>)> = examples
        .iter()
        .map(|e| {
            let start = e.mask.iter().position(|c| *c).unwrap_or(e.tokens.len());
            let said = e.tokens.iter().zip(&e.mask).skip(start);
            (start, said.filter(|(_, c)| **c).map(|(t, _)| *t).collect())
        })
        .collect();
    let n = examples.len();
    for (i, e) in examples.iter_mut().enumerate() {
        let prompt = &e.tokens[..parts[i].0];
        let mut other = Example::completion(prompt, &parts[(i + 1) % n].1);
        other.tokens.truncate(context);
        other.mask.truncate(context);
        if other.targets() == 0 {
            return Err(Error::invalid(format!("example {i}"), "its prompt leaves no room for a completion"));
        }
        e.other = Some(Box::new(other));
    }
    Ok(())
}
