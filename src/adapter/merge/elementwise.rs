//! Merging value by value: TIES (arXiv:2306.01708) and DARE (arXiv:2311.03099).

use crate::adapter::algebra::Dense;
use crate::error::{Error, Result};
use std::prelude::v1::*;

/// What decides the sign of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Elects {
    /// The sum of the values.
    Sum,
    /// The sum of weighted values.
    Weighted,
    /// The number of signs.
    Count,
}

/// What the sum of the values with the elected sign is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    /// Their number.
    Count,
    /// The sum of their weights.
    Weights,
    /// Nothing.
    One,
}

/// One row of [`VOTES`]: programs call different arithmetic TIES.
#[derive(Debug, PartialEq, Eq)]
pub struct Vote {
    /// Its name.
    pub name: &'static str,
    /// Whether one value more than the density says is kept, as `kthvalue` gives it, and a sum of 0 elects the sign that most
    /// sums have; else +.
    more: bool,
    /// Whether values that agree are multiplied by their weights.
    weigh: bool,
    elects: Elects,
    over: Over,
}

/// Every arithmetic of TIES, named after whose code it is. With equal weights of 1 the means are one.
pub static VOTES: &[Vote] = &[
    Vote { name: "mergekit", more: false, weigh: true, elects: Elects::Weighted, over: Over::Weights },
    Vote { name: "mergekit-sum", more: false, weigh: true, elects: Elects::Weighted, over: Over::One },
    Vote { name: "peft", more: false, weigh: true, elects: Elects::Sum, over: Over::Count },
    Vote { name: "peft-count", more: false, weigh: true, elects: Elects::Count, over: Over::Count },
    Vote { name: "authors", more: true, weigh: false, elects: Elects::Sum, over: Over::Count },
    Vote { name: "authors-sum", more: true, weigh: false, elects: Elects::Sum, over: Over::One },
];

impl Vote {
    /// # Errors
    /// `Unsupported` for another name.
    pub fn by_name(name: &str) -> Result<&'static Vote> {
        VOTES.iter().find(|vote| vote.name == name).ok_or_else(|| Error::unsupported("vote", name))
    }

    /// The size below which values are trimmed. `sizes`: those of all values, in any order, which changes.
    pub fn threshold(&self, sizes: &mut [f32], density: f64) -> f32 {
        let n = sizes.len();
        let keep = ((density * n as f64) as usize + usize::from(self.more)).min(n);
        if keep == n {
            return 0.0;
        }
        match keep.checked_sub(1) {
            Some(last) => *sizes.select_nth_unstable_by(last, |a, b| b.total_cmp(a)).1,
            None => f32::INFINITY,
        }
    }

    /// Whether a sum of 0 must be told what most sums are: [`Vote::elected`].
    pub fn asks(&self) -> bool {
        self.more
    }

    /// What elects the sign: above 0, below, or 0 where nothing is elected.
    pub fn elected(&self, values: impl Iterator<Item = (f32, f64)>) -> f64 {
        let ballot = |(value, weight): (f32, f64)| match self.elects {
            Elects::Sum => f64::from(value),
            Elects::Weighted => weight * f64::from(value),
            Elects::Count if value == 0.0 => 0.0,
            Elects::Count => f64::from(value.signum()),
        };
        values.map(ballot).sum()
    }

    /// The merged value: the sign is elected, and the values that have it are averaged. `most`: whether a sum of 0 elects +.
    fn of(&self, values: impl Iterator<Item = (f32, f64)> + Clone, most: bool) -> f64 {
        let sum = self.elected(values.clone());
        let up = if sum == 0.0 { most } else { sum > 0.0 };
        let (mut sum, mut over) = (0.0, 0.0);
        for (value, weight) in values {
            let weighed = if self.elects == Elects::Weighted { weight } else { 1.0 } * f64::from(value);
            if weighed != 0.0 && (weighed > 0.0) == up {
                let weight = if self.weigh { weight } else { 1.0 };
                sum += weight * f64::from(value);
                over += if self.over == Over::Weights { weight } else { 1.0 };
            }
        }
        match self.over {
            Over::One => sum,
            _ if over.abs() < 1e-8 => 0.0,
            _ => sum / over,
        }
    }
}

/// The vote of a matrix: how, where each task is trimmed, and with which weights.
pub struct Ballot<'a> {
    /// The arithmetic.
    pub vote: &'a Vote,
    /// The sizes below which values of the tasks are trimmed.
    pub least: Vec<f32>,
    /// Weights of the tasks.
    pub weights: Vec<f64>,
    /// Whether a sum of 0 elects +.
    pub most: bool,
}

impl Ballot<'_> {
    fn values<'b>(&'b self, rows: &'b [Vec<f32>], i: usize) -> impl Iterator<Item = (f32, f64)> + Clone + 'b {
        let trimmed = move |t: usize| if rows[t][i].abs() >= self.least[t] { rows[t][i] } else { 0.0 };
        (0..rows.len()).map(move |t| (trimmed(t), self.weights[t]))
    }

    /// How many more sums of a row elect + than −.
    pub fn lead(&self, rows: &[Vec<f32>]) -> i64 {
        let sign = |sum: f64| i64::from(sum > 0.0) - i64::from(sum < 0.0);
        (0..rows.first().map_or(0, Vec::len)).map(|i| sign(self.vote.elected(self.values(rows, i)))).sum()
    }

    /// A merged row from the `rows` of the tasks. out: overwritten.
    pub fn elect(&self, rows: &[Vec<f32>], out: &mut [f32]) {
        out.iter_mut().enumerate().for_each(|(i, out)| *out = self.vote.of(self.values(rows, i), self.most) as f32);
    }
}

/// A row of the weighted sum. out: overwritten.
pub fn weighted(rows: &[Vec<f32>], weights: &[f64], out: &mut [f32]) {
    for (i, out) in out.iter_mut().enumerate() {
        *out = rows.iter().zip(weights).map(|(row, w)| w * f64::from(row[i])).sum::<f64>() as f32;
    }
}

/// DARE: values that are not kept become 0, the others grow by what is lost on average.
pub fn rescale(row: &mut [f32], density: f64, keep: impl Fn(usize) -> bool) {
    for (i, value) in row.iter_mut().enumerate() {
        *value = if keep(i) { (f64::from(*value) / density) as f32 } else { 0.0 };
    }
}

/// A whole matrix from its rows: `row(i, out)`.
pub fn fill(size: [usize; 2], mut row: impl FnMut(usize, &mut [f32])) -> Dense {
    let [rows, cols] = size;
    let mut values = vec![0.0; rows * cols];
    values.chunks_exact_mut(cols.max(1)).enumerate().for_each(|(i, out)| row(i, out));
    Dense { size, values }
}
