//! Patterns of modules in the configurations of adapters. PEFT matches names with Python's `re`; most patterns are plain
//! names, and these need no engine.
//!
//! An engine that looks ahead or back can take time without end, so its steps and the size of what it compiles are bounded.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::todo,
        clippy::arithmetic_side_effects
    )
)]

use crate::bytes::Limits;
use crate::error::{Error, Result};
use std::prelude::v1::*;

/// A pattern, as Python's `re` reads it.
#[derive(Debug)]
pub(super) enum Pattern {
    /// A name of letters, digits and marks, of which a dot stands for any character.
    Name(Box<str>),
    /// Anything else, and the steps that it may take.
    #[cfg(feature = "std")]
    Expression(Box<fancy_regex::Regex>, u64),
}

impl Pattern {
    /// One that the end of a name must match, from its beginning or from a dot: PEFT's `re.match(rf"(.*\.)?({key})$", name)`.
    ///
    /// # Errors
    /// `Unsupported` and `Limit` for expressions that this build does not read.
    pub fn end(text: &str, limits: &Limits) -> Result<Pattern> {
        match plain(text) {
            true => Ok(Pattern::Name(text.into())),
            false => expression(text, r"\A(?:(?:.*\.)?(", r")\z)", limits),
        }
    }

    /// One that a whole name must match: `re.fullmatch`.
    ///
    /// # Errors
    /// As [`Pattern::end`].
    pub fn whole(text: &str, limits: &Limits) -> Result<Pattern> {
        expression(text, r"\A(?:", r")\z", limits)
    }

    /// Whether it is more than a name.
    pub fn is_expression(&self) -> bool {
        !matches!(self, Pattern::Name(_))
    }

    /// Whether a name matches.
    ///
    /// # Errors
    /// `Limit` if finding that out takes too many steps.
    pub fn fits(&self, name: &str) -> Result<bool> {
        match self {
            Pattern::Name(pattern) => Ok(ends(name, pattern)),
            #[cfg(feature = "std")]
            Pattern::Expression(regex, steps) => regex
                .is_match(name)
                .map_err(|_| Error::limit("steps of a regular expression", steps.saturating_add(1), *steps)),
        }
    }
}

/// Whether a name is a pattern's, or ends in it behind a dot.
fn ends(name: &str, pattern: &str) -> bool {
    let Some(start) = name.len().checked_sub(pattern.len()) else { return false };
    let (before, end) = name.as_bytes().split_at(start);
    let same = end.iter().zip(pattern.bytes()).all(|(n, p)| p == b'.' || *n == p);
    same && before.last().is_none_or(|b| *b == b'.')
}

fn plain(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

#[cfg(feature = "std")]
fn expression(text: &str, before: &str, behind: &str, limits: &Limits) -> Result<Pattern> {
    Limits::check("bytes of a regular expression", text.len() as u64, limits.expression)?;
    let built = fancy_regex::RegexBuilder::new(&format!("{before}{text}{behind}"))
        .backtrack_limit(usize::try_from(limits.expression_steps).unwrap_or(usize::MAX))
        .delegate_size_limit(1 << 20)
        .delegate_dfa_size_limit(1 << 20)
        .build();
    match built {
        Ok(regex) => Ok(Pattern::Expression(Box::new(regex), limits.expression_steps)),
        Err(_) => Err(Error::unsupported("regular expression", cut(text))),
    }
}

/// Without the standard library there is no engine: a name is all that can be read.
#[cfg(not(feature = "std"))]
fn expression(text: &str, _before: &str, _behind: &str, _limits: &Limits) -> Result<Pattern> {
    Err(Error::unsupported("regular expression", cut(text)))
}

/// The beginning of a pattern, for messages.
fn cut(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_match_as_in_peft() {
        // Pattern, name, and what `re.match(rf"(.*\.)?({key})$", name)` of Python 3.11 says.
        for (pattern, name, wanted) in [
            ("q_proj", "model.layers.0.self_attn.q_proj", true),
            ("q_proj", "q_proj", true),
            ("q_proj", "model.layers.0.self_attn.xq_proj", false),
            ("self_attn.q_proj", "model.layers.0.self_attn.q_proj", true),
            ("self.attn.q_proj", "model.layers.0.self_attn.q_proj", true),
            ("layers.1.q", "model.layers.11.q", false),
            ("q_proj|v_proj", "model.layers.0.self_attn.v_proj", true),
            (r"^model\.layers\.0\..*", "model.layers.0.self_attn.v_proj", true),
            (r"^model\.layers\.0\..*", "model.layers.1.self_attn.v_proj", false),
            (r".*\.layers\.[01]\..*_proj", "model.layers.1.mlp.up_proj", true),
            (r"layers\.\d+\.mlp\.(?!up).*", "model.layers.1.mlp.up_proj", false),
            (r"layers\.\d+\.mlp\.(?!up).*", "model.layers.1.mlp.down_proj", true),
        ] {
            let pattern = Pattern::end(pattern, &Limits::DEFAULT).unwrap();
            assert_eq!(pattern.fits(name).unwrap(), wanted, "{pattern:?} {name}");
        }
    }

    #[test]
    fn whole_names_match_as_in_peft() {
        for (pattern, name, wanted) in [
            ("q_proj", "model.layers.0.self_attn.q_proj", false),
            (r".*\.(q|v)_proj", "model.layers.0.self_attn.q_proj", true),
            (r".*\.(q|v)_pro", "model.layers.0.self_attn.q_proj", false),
            (r"model.layers.(1|2).*", "model.layers.2.mlp.up_proj", true),
        ] {
            let pattern = Pattern::whole(pattern, &Limits::DEFAULT).unwrap();
            assert_eq!(pattern.fits(name).unwrap(), wanted, "{pattern:?} {name}");
        }
    }
}
