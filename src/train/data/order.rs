//! Packing of rows, and their order over the steps.

use crate::container::head::Head;
use crate::error::{Error, Result};
use crate::rng::Random;
use std::prelude::v1::*;

/// Packs whole examples into rows of `ctx` tokens, so that short ones go through the model together. Each goes into the
/// first of the most recent rows that has room. `lens` are the lengths of the examples; rows list their indices in
/// ascending order, and every example is in a row. Attention and positions are separate for each example, so losses and
/// gradients are those of the examples alone.
pub fn pack(lens: &[usize], ctx: usize) -> Vec<Vec<usize>> {
    const OPEN: usize = 64;
    // Rows with the tokens in them.
    let mut rows: Vec<(Vec<usize>, usize)> = Vec::new();
    for (i, &n) in lens.iter().enumerate() {
        let open = rows.len().saturating_sub(OPEN);
        match rows.iter_mut().skip(open).find(|(_, used)| used.saturating_add(n) <= ctx) {
            Some((row, used)) => {
                row.push(i);
                *used = used.saturating_add(n);
            }
            None => rows.push((vec![i], n)),
        }
    }
    rows.into_iter().map(|(row, _)| row).collect()
}

/// The rows of each step, epoch after epoch without end. A step does not extend over the end of an epoch.
pub struct Order {
    rows: usize,
    batch: usize,
    accumulate: usize,
    seed: Option<u64>,
    epoch: u64,
    left: Vec<usize>,
}

impl Order {
    /// `accumulate` batches of `batch` rows a step, in the given order, or reshuffled each epoch with a seed.
    ///
    /// # Errors
    /// `Invalid` if one of the numbers is 0.
    pub fn new(rows: usize, batch: usize, accumulate: usize, shuffle: Option<u64>) -> Result<Order> {
        for (name, n) in [("rows", rows), ("batch", batch), ("accumulate", accumulate)] {
            if n == 0 {
                return Err(Error::invalid(name, "0 train nothing"));
            }
        }
        Ok(Order { rows, batch, accumulate, seed: shuffle, epoch: 0, left: Vec::new() })
    }

    /// The order of rows, as facts that determine a run's result.
    pub fn facts(&self, facts: &mut Head) {
        facts.set("rows of a batch", self.batch as u64).set("batches of a step", self.accumulate as u64);
        facts.set("rows", self.rows as u64);
        facts.set("order of rows", self.seed.map_or("as given".into(), |seed| format!("shuffled by seed {seed}")));
    }

    /// The position for [`Order::seek`]: epochs begun, and remaining rows of the last one.
    pub fn position(&self) -> (u64, u64) {
        (self.epoch, self.left.len() as u64)
    }

    /// Continues at a position.
    ///
    /// # Errors
    /// `Corrupt` if there is no such position.
    pub fn seek(&mut self, (epoch, left): (u64, u64)) -> Result<()> {
        let Some(done) = (self.rows as u64).checked_sub(left).filter(|_| left == 0 || epoch > 0) else {
            return Err(Error::corrupt(format!("{left} rows left of {} in epoch {epoch}", self.rows), 0));
        };
        (self.epoch, self.left) = (epoch, Vec::new());
        if left > 0 {
            self.epoch = self.epoch.saturating_sub(1);
            self.begin();
            self.left.drain(..done as usize);
        }
        Ok(())
    }

    fn begin(&mut self) {
        self.left = (0..self.rows).collect();
        if let Some(seed) = self.seed {
            Random::new(seed, &format!("epoch {}", self.epoch), "order").shuffle(&mut self.left);
        }
        self.epoch = self.epoch.saturating_add(1);
    }

    /// Steps in which every row is seen once.
    pub fn steps_per_epoch(&self) -> u64 {
        self.rows.div_ceil(self.batch).div_ceil(self.accumulate) as u64
    }

    /// The rows of the next step, batch by batch.
    pub fn next_step(&mut self) -> Vec<Vec<usize>> {
        if self.left.is_empty() {
            self.begin();
        }
        let n = self.batch.saturating_mul(self.accumulate).min(self.left.len());
        let rows: Vec<usize> = self.left.drain(..n).collect();
        rows.chunks(self.batch).map(<[usize]>::to_vec).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_filled_with_whole_examples() {
        assert_eq!(pack(&[5, 4, 3, 9, 2, 1, 12, 1], 10), [vec![0, 1, 5], vec![2, 4, 7], vec![3], vec![6]]);
        assert_eq!(pack(&[], 10), [[0; 0]; 0]);
        let many: Vec<usize> = (0..1000).map(|i| 2 + i * 7 % 31).collect();
        let rows = pack(&many, 64);
        let mut all: Vec<usize> = rows.concat();
        all.sort();
        assert!(all.iter().copied().eq(0..1000));
        let sizes: Vec<usize> = rows.iter().map(|r| r.iter().map(|&i| many[i]).sum()).collect();
        assert!(sizes.iter().all(|n| *n <= 64) && rows.len() * 64 < many.len() * 18, "{} rows", rows.len());
    }

    #[test]
    fn order_sees_every_row_once_an_epoch() {
        let mut order = Order::new(5, 2, 2, None).unwrap();
        assert_eq!(order.steps_per_epoch(), 2);
        assert_eq!(order.next_step(), [[0, 1], [2, 3]]);
        assert_eq!(order.next_step(), [[4]]);
        assert_eq!(order.next_step(), [[0, 1], [2, 3]]);
        let mut order = Order::new(50, 50, 1, Some(1)).unwrap();
        let (mut a, mut b) = (order.next_step().remove(0), order.next_step().remove(0));
        assert_ne!(a, b);
        a.sort();
        b.sort();
        assert_eq!(a, b);
        assert!(Order::new(0, 1, 1, None).is_err());
    }

    #[test]
    fn order_goes_on_from_every_position() {
        for seed in [None, Some(3)] {
            let fresh = || Order::new(7, 2, 1, seed).unwrap();
            let mut all = fresh();
            let steps: Vec<_> = (0..13).map(|_| (all.position(), all.next_step())).collect();
            for (i, (position, _)) in steps.iter().enumerate() {
                let mut order = fresh();
                order.seek(*position).unwrap();
                assert!(steps[i..].iter().all(|(_, rows)| *rows == order.next_step()), "{position:?}");
            }
            assert!(fresh().seek((1, 8)).is_err() && fresh().seek((0, 1)).is_err());
        }
    }
}
