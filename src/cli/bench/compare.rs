//! Tests of another run, from JSON Lines as `llama-bench -o jsonl` writes them.

use crate::out;
use anyhow::{Context, anyhow};
use mynah::bytes::{Limits, map};
use mynah::error::printable;
use serde::Deserialize;
use std::path::Path;

/// What is compared of a line; llama-bench's other keys do not matter here.
#[derive(Deserialize)]
struct Line {
    model_filename: String,
    n_prompt: usize,
    n_gen: usize,
    #[serde(default)]
    n_depth: usize,
    #[serde(default = "one_sequence")]
    n_parallel: usize,
    n_threads: usize,
    avg_ts: f64,
    #[serde(default)]
    samples_ts: Vec<f64>,
}

fn one_sequence() -> usize {
    1
}

/// A test of the other run.
pub struct Other {
    /// Its model file's name.
    pub model: String,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens decoded.
    pub decoded: usize,
    /// Positions that were there before.
    pub depth: usize,
    /// Sequences side by side.
    pub parallel: usize,
    /// Threads.
    pub threads: usize,
    /// Tokens a second of each run.
    pub samples: Vec<f64>,
}

/// All tests of a file with a model of that name, or with the only model in it. The runs of one test may stand in
/// several lines.
///
/// # Errors
/// Naming the file and the line, or the models that are in it.
pub fn read(path: &Path, model: &str) -> anyhow::Result<Vec<Other>> {
    let name = out::name(path);
    let bytes = map::read(path, Limits::default().file)?;
    let text = std::str::from_utf8(&bytes).with_context(|| format!("{name}: not text in UTF-8"))?;
    let mut all: Vec<Other> = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        all.extend(one(line).with_context(|| format!("{name}, line {}", i + 1))?);
    }
    let Some(first) = all.first() else { return Err(anyhow!("{name}: no test to compare with")) };
    if all.iter().any(|other| other.model == model) {
        all.retain(|other| other.model == model);
    } else if all.iter().any(|other| other.model != first.model) {
        let mut models: Vec<&str> = all.iter().map(|other| other.model.as_str()).collect();
        models.sort_unstable();
        models.dedup();
        return Err(anyhow!("{name}: no test of {model}, but of {}", models.join(", ")));
    }
    Ok(all)
}

/// `None` for a test of another kind than ours.
fn one(line: &str) -> anyhow::Result<Option<Other>> {
    let line: Line = serde_json::from_str(line)?;
    let samples = if line.samples_ts.is_empty() { &[line.avg_ts][..] } else { &line.samples_ts };
    if let Some(bad) = samples.iter().find(|s| !(s.is_finite() && **s > 0.0)) {
        return Err(anyhow!("{bad} tokens a second"));
    }
    if (line.n_prompt > 0) == (line.n_gen > 0) {
        return Ok(None);
    }
    let file =
        Path::new(&line.model_filename).file_name().map_or(line.model_filename.clone(), |n| n.to_string_lossy().into());
    Ok(Some(Other {
        model: printable(&file),
        prompt: line.n_prompt,
        decoded: line.n_gen,
        depth: line.n_depth,
        parallel: line.n_parallel,
        threads: line.n_threads,
        samples: samples.to_vec(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "{\"model_filename\": \"/m/a.gguf\", \"model_type\": \"llama ?B Q4_0\", \"n_threads\": 2, \
        \"n_prompt\": 128, \"n_gen\": 0, \"n_depth\": 0, \"avg_ts\": 3.5, \"samples_ts\": [ 1.0, 9.0, 3.0 ]}";

    #[test]
    fn a_line_is_a_test() {
        let test = one(LINE).unwrap().unwrap();
        assert_eq!((test.prompt, test.decoded, test.threads), (128, 0, 2));
        assert_eq!(test.model, "a.gguf");
        assert_eq!(test.samples, [1.0, 9.0, 3.0]);
        assert_eq!(
            (test.depth, one(&LINE.replace("\"n_depth\": 0", "\"n_depth\": 5")).unwrap().unwrap().depth),
            (0, 5)
        );
        let mean = one(&LINE.replace(", \"samples_ts\": [ 1.0, 9.0, 3.0 ]", "")).unwrap().unwrap();
        assert_eq!(mean.samples, [3.5]);
    }

    #[test]
    fn other_kinds_of_test_are_passed_over() {
        assert!(one(&LINE.replace("\"n_gen\": 0", "\"n_gen\": 5")).unwrap().is_none());
        assert!(one(&LINE.replace("\"n_prompt\": 128", "\"n_prompt\": 0")).unwrap().is_none());
    }

    #[test]
    fn nonsense_is_refused() {
        for (from, to) in [
            ("\"n_threads\": 2, ", ""),
            ("\"n_threads\": 2", "\"n_threads\": -2"),
            ("\"n_threads\": 2", "\"n_threads\": \"2\""),
            ("9.0", "0"),
            ("9.0", "-1"),
            ("9.0", "1e999"),
            ("9.0", "null"),
            ("]}", "]"),
        ] {
            assert!(one(&LINE.replace(from, to)).is_err(), "{to} for {from}");
        }
    }
}
