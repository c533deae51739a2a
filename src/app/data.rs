//! Rows: read, split, brought into the shape that an objective learns from, packed.

use super::settings::Settings;
use crate::error::{Error, Result};
use crate::train::Example;
use crate::train::data::{self, Dataset};
use crate::train::objective::{self, Kind, Shape};
use crate::train::plan;
use core::fmt;
use std::prelude::v1::*;

/// What to learn from, as it was read.
///
/// ```
/// # fn main() -> mynah::Result<()> {
/// # #[cfg(feature = "base")] {
/// # let mynah = mynah::Mynah::embedded()?;
/// let setup = mynah.lesson("lora").context(64).steps(2);
/// let mut data = setup.read("notes.txt", mynah::base::NOTES.as_bytes())?;
/// data.rows.examples.truncate(3); // look at the rows, or choose among them
/// let lesson = setup.draft(data)?.begin()?;
/// assert_eq!(lesson.rows().len(), 3);
/// # }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Data {
    /// The rows.
    pub rows: Dataset,
    /// What tells this data from any other; a file of what was learnt names it.
    pub digest: [u8; 32],
}

impl Data {
    /// Rows of tokens that the caller made, with the digest of [`data::digest`].
    ///
    /// ```
    /// # fn main() -> mynah::Result<()> {
    /// # #[cfg(feature = "base")] {
    /// # use mynah::{Mynah, app::Data, train::Example};
    /// # let mynah = Mynah::embedded()?;
    /// let data = Data::new(vec![Example::all(vec![1, 2, 3]), Example::completion(&[1, 2], &[3])]);
    /// let draft = mynah.lesson("lora").epochs(1).draft(data)?;
    /// assert_eq!((draft.rows().len(), draft.steps()), (2, 2));
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn new(examples: Vec<Example>) -> Data {
        let digest = data::digest(&examples);
        Data { rows: Dataset { examples, ..Dataset::default() }, digest }
    }
}

/// Rows in the shape that the objective learns from: what is learnt first, what is held out behind it.
pub(super) struct Rows {
    pub examples: Vec<Example>,
    /// How many of them are learnt.
    pub learnt: usize,
    /// Which examples stand in a row together, by their numbers.
    pub rows: Vec<Vec<usize>>,
    /// Pairs that became two verdicts each.
    pub pairs: usize,
}

impl Rows {
    pub fn new(data: Dataset, settings: &Settings, context: usize) -> Result<Rows> {
        let fraction = settings.held_out(data.examples.len());
        let (learn, held_out) = data.split(fraction, settings.seed)?;
        let (kind, _) = settings.objective.row()?;
        let mut pairs = 0;
        let mut examples = shape(kind, learn, context, &mut pairs)?;
        let learnt = examples.len();
        let rows = rows(settings.pack, context, &examples);
        examples.extend(shape(kind, held_out, context, &mut pairs)?);
        Ok(Rows { examples, learnt, rows, pairs })
    }

    /// Tokens that go through the model in an epoch.
    pub fn tokens(&self) -> usize {
        self.lengths().rows.iter().take(self.rows.len()).map(|row| row.0).sum()
    }

    /// The lengths of rows, for a plan: of those to learn, then of each that is held out, which are evaluated alone.
    pub fn lengths(&self) -> plan::Rows {
        let held_out = (self.learnt..self.examples.len()).map(|i| vec![i]);
        plan::Rows::of(&self.rows.iter().cloned().chain(held_out).collect::<Vec<_>>(), &self.examples)
    }
}

/// Which examples stand in a row together.
fn rows(pack: bool, context: usize, examples: &[Example]) -> Vec<Vec<usize>> {
    match pack {
        true => {
            let len = |e: &Example| e.sequences().map(|e| e.tokens.len()).sum();
            data::pack(&examples.iter().map(len).collect::<Vec<_>>(), context)
        }
        false => (0..examples.len()).map(|i| vec![i]).collect(),
    }
}

/// Rows in the shape that the objective learns from: pairs become two verdicts where it wants these.
fn shape(kind: &Kind, rows: Vec<Example>, context: usize, pairs: &mut usize) -> Result<Vec<Example>> {
    let found = rows.iter().filter(|e| e.good.is_none() && e.other.is_some()).count();
    let mut rows = match kind.shape {
        Shape::Verdict if found > 0 => {
            *pairs += found;
            objective::unpair(rows)
        }
        _ => rows,
    };
    if let Some(i) = rows.iter().position(|e| !fits(kind, e)) {
        let (name, wanted, which) = (kind.name, kind.shape.describe(), RowNames::new(&[i], &rows));
        return Err(Error::invalid("data", format!("{name} learns from rows like {wanted}; {which} is not")));
    }
    if kind.mismatched && !rows.is_empty() {
        objective::mismatch(&mut rows, context)?;
    }
    Ok(rows)
}

fn fits(kind: &Kind, example: &Example) -> bool {
    match kind.shape {
        Shape::Contrast => !example.passages.is_empty(),
        _ if !example.passages.is_empty() => false,
        Shape::Completion => example.other.is_none() && example.good != Some(false),
        Shape::Pair => example.other.is_some(),
        Shape::Verdict => example.good.is_some(),
        Shape::Mixed => true,
    }
}

/// Which rows these are: written out as the lines that they were read from or, where files have none, by their numbers.
///
/// ```
/// use mynah::app::RowNames;
///
/// let of_a_file = RowNames { rows: vec![0, 1], lines: Some(vec![3, 8]) };
/// assert_eq!(of_a_file.to_string(), "lines 3, 8");
/// let without_lines = RowNames { rows: vec![4], lines: None };
/// assert_eq!(without_lines.to_string(), "row 4, counted from 0");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowNames {
    /// Their numbers among the rows to learn, from 0.
    pub rows: Vec<usize>,
    /// The lines of the file, from 1, if all of them have one.
    pub lines: Option<Vec<usize>>,
}

impl RowNames {
    pub(super) fn new(rows: &[usize], examples: &[Example]) -> RowNames {
        RowNames { rows: rows.to_vec(), lines: rows.iter().map(|&i| examples[i].line).collect() }
    }
}

impl fmt::Display for RowNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, from, numbers) = match &self.lines {
            Some(lines) => ("line", "", lines),
            None => ("row", ", counted from 0", &self.rows),
        };
        let list: Vec<String> = numbers.iter().map(usize::to_string).collect();
        write!(f, "{what}{} {}{from}", if list.len() == 1 { "" } else { "s" }, list.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_named_by_lines_or_numbers() {
        let row = |line| Example { line, ..Example::all(vec![1, 2]) };
        let lines = [row(Some(4)), row(Some(7))];
        assert_eq!(RowNames::new(&[1], &lines).to_string(), "line 7");
        assert_eq!(RowNames::new(&[0, 1], &lines).to_string(), "lines 4, 7");
        assert_eq!(RowNames::new(&[0, 1], &[row(None), row(Some(7))]).to_string(), "rows 0, 1, counted from 0");
    }

    #[test]
    fn pairs_become_verdicts_where_those_are_wanted() {
        let pair = || Example::completion(&[1], &[2]).over(Example::completion(&[1], &[3]));
        let of = |kind: &str, rows| {
            let settings = Settings { objective: objective::Spec::new(kind), ..Settings::default() };
            Rows::new(Dataset { examples: rows, ..Dataset::default() }, &settings, 8)
        };
        let rows = of("bco", vec![pair(), pair()]).unwrap();
        assert_eq!((rows.learnt, rows.pairs, rows.rows.len()), (4, 2, 4));
        let why = of("sft", vec![Example::all(vec![1, 2]), pair()]).err().unwrap().to_string();
        assert!(why.ends_with("row 1, counted from 0 is not"), "{why}");
    }
}
