//! Matrices by their products, and their singular triples, in double precision.
//!
//! Everything is one algorithm: the bidiagonalisation of Golub, Kahan and Lanczos, which asks a matrix for nothing but
//! products with vectors. So a sum of low-rank changes is never formed, and of a whole matrix only the triples that are
//! wanted are computed. All vectors are made orthogonal to all before them, twice. Sums have one order, so the bits
//! depend on nothing else.

use crate::rng::Stream;
use std::prelude::v1::*;

/// The part of the energy (squares of all values) below which a rest is rounding.
const REST: f64 = 1e-13;
/// How well a wanted triple is known, as a part of its value.
const EXACT: f64 = 1e-7;
/// Steps between looks whether the wanted triples are known.
const LOOK: usize = 8;
/// Singular values below this part of the largest count as it in [`polar`]: their vectors are rounding.
const FLOOR: f64 = 1e-4;
/// Most sweeps of an eigenvalue; two are usual.
const SWEEPS: usize = 60;

/// A matrix that is known by its products.
pub trait Linear: Sync {
    /// Rows and columns.
    fn size(&self) -> [usize; 2];

    /// `out = M·v`. v: `[cols]`, out: `[rows]`, overwritten.
    fn times(&self, v: &[f64], out: &mut [f64]);

    /// `out = Mᵀ·u`. u: `[rows]`, out: `[cols]`, overwritten.
    fn transposed(&self, u: &[f64], out: &mut [f64]);

    /// The sum of the squares of all values.
    fn energy(&self) -> f64;
}

/// `Σₖ uₖ·vₖᵀ`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Factors {
    /// Rows and columns of the product.
    pub size: [usize; 2],
    /// `[K, rows]`.
    pub u: Vec<f64>,
    /// `[K, cols]`.
    pub v: Vec<f64>,
}

impl Factors {
    /// K.
    pub fn rank(&self) -> usize {
        self.v.len().checked_div(self.size[1]).unwrap_or(0)
    }

    fn pairs(&self) -> impl Iterator<Item = (&[f64], &[f64])> {
        let [rows, cols] = self.size;
        self.u.chunks_exact(rows.max(1)).zip(self.v.chunks_exact(cols.max(1)))
    }

    /// Row `i`. out: `[cols]`, overwritten.
    pub fn row(&self, i: usize, out: &mut [f64]) {
        out.fill(0.0);
        self.pairs().for_each(|(u, v)| add(out, u[i], v));
    }

    /// The sum of the products of the values of both, which have one size.
    pub fn inner(&self, other: &Factors) -> f64 {
        self.pairs().map(|(u, v)| other.pairs().map(|(x, y)| dot(u, x) * dot(v, y)).sum::<f64>()).sum()
    }

    /// Appends `weight` times these.
    pub fn append(&mut self, weight: f64, other: &Factors) {
        self.size = other.size;
        self.u.extend(other.u.iter().map(|u| weight * u));
        self.v.extend_from_slice(&other.v);
    }
}

impl Linear for Factors {
    fn size(&self) -> [usize; 2] {
        self.size
    }

    fn times(&self, x: &[f64], out: &mut [f64]) {
        out.fill(0.0);
        self.pairs().for_each(|(u, v)| add(out, dot(v, x), u));
    }

    fn transposed(&self, x: &[f64], out: &mut [f64]) {
        out.fill(0.0);
        self.pairs().for_each(|(u, v)| add(out, dot(u, x), v));
    }

    fn energy(&self) -> f64 {
        // Rounding can be below zero; what is no number stays so.
        let energy = self.inner(self);
        if energy < 0.0 { 0.0 } else { energy }
    }
}

/// A whole matrix, by rows.
#[derive(Clone, Debug)]
pub struct Dense {
    /// Rows and columns.
    pub size: [usize; 2],
    /// `[rows, cols]`.
    pub values: Vec<f32>,
}

impl Linear for Dense {
    fn size(&self) -> [usize; 2] {
        self.size
    }

    fn times(&self, v: &[f64], out: &mut [f64]) {
        for (out, row) in out.iter_mut().zip(self.values.chunks_exact(self.size[1].max(1))) {
            *out = mixed(row, v);
        }
    }

    fn transposed(&self, u: &[f64], out: &mut [f64]) {
        out.fill(0.0);
        for (u, row) in u.iter().zip(self.values.chunks_exact(self.size[1].max(1))) {
            out.iter_mut().zip(row).for_each(|(out, w)| *out += u * f64::from(*w));
        }
    }

    fn energy(&self) -> f64 {
        self.values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum()
    }
}

/// Columns side by side, `[rows, K]`; each column lies in one piece.
struct Columns<'a> {
    rows: usize,
    values: &'a [f64],
}

impl Linear for Columns<'_> {
    fn size(&self) -> [usize; 2] {
        [self.rows, self.values.len() / self.rows]
    }

    fn times(&self, v: &[f64], out: &mut [f64]) {
        out.fill(0.0);
        self.values.chunks_exact(self.rows).zip(v).for_each(|(column, v)| add(out, *v, column));
    }

    fn transposed(&self, u: &[f64], out: &mut [f64]) {
        self.values.chunks_exact(self.rows).zip(out).for_each(|(column, out)| *out = dot(column, u));
    }

    fn energy(&self) -> f64 {
        dot(self.values, self.values)
    }
}

/// Singular triples, the largest first; left and right vectors have length 1.
#[derive(Clone, Debug, Default)]
pub struct Triples {
    /// The values.
    pub values: Vec<f64>,
    /// The vectors: left as `u`, right as `v`.
    pub vectors: Factors,
}

impl Triples {
    /// The first `n` of them.
    pub fn first(mut self, n: usize) -> Triples {
        let [rows, cols] = self.vectors.size;
        self.values.truncate(n);
        self.vectors.u.truncate(n * rows);
        self.vectors.v.truncate(n * cols);
        self
    }

    /// `Σ σ·u·vᵀ`, with the root of every value on either side.
    pub fn factors(mut self) -> Factors {
        let [rows, cols] = self.vectors.size;
        for (k, value) in self.values.iter().enumerate() {
            let root = libm::sqrt(value.abs());
            let signed = if *value < 0.0 { -root } else { root };
            self.vectors.u[k * rows..(k + 1) * rows].iter_mut().for_each(|u| *u *= signed);
            self.vectors.v[k * cols..(k + 1) * cols].iter_mut().for_each(|v| *v *= root);
        }
        self.vectors
    }
}

/// The `most` largest singular triples; fewer if the rank is less.
pub fn triples(of: &dyn Linear, most: usize) -> Triples {
    triples_within(of, most, EXACT, usize::MAX)
}

/// The same, known to a part `exact` of each value, or as well as `steps` steps show them. Where directions are wanted and
/// not their last digits, this takes a part of the time.
pub fn triples_within(of: &dyn Linear, most: usize, exact: f64, steps: usize) -> Triples {
    let [rows, cols] = of.size();
    let limit = rows.min(cols);
    let (most, energy) = (most.min(limit), of.energy());
    let nothing = Triples { values: Vec::new(), vectors: Factors { size: [rows, cols], ..Factors::default() } };
    // Neither of zeros nor of values that are no numbers.
    if most == 0 || !(energy > 0.0 && energy.is_finite()) {
        return nothing;
    }
    // Mᵀ·U = V·Lᵀ with U `[rows, k]`, V `[cols, k + 1]` and L `[k, k + 1]` of two diagonals.
    let tiny = REST * libm::sqrt(energy);
    let (mut left, mut right) = (Basis::new(rows), Basis::new(cols));
    let (mut alphas, mut betas): (Vec<f64>, Vec<f64>) = (Vec::new(), Vec::new());
    right.admit(vec![0.0; cols], tiny);
    let mut caught = 0.0;
    let (values, vectors) = loop {
        let mut u = vec![0.0; rows];
        of.times(right.last(), &mut u);
        let alpha = left.admit(u, tiny);
        let mut v = vec![0.0; cols];
        of.transposed(left.last(), &mut v);
        let full = right.len() == cols;
        let beta = if full { 0.0 } else { right.admit(v, tiny) };
        alphas.push(alpha);
        betas.push(beta);
        caught += alpha * alpha + beta * beta;
        let k = alphas.len();
        let done = k == limit || k >= steps.max(most) || energy - caught <= REST * energy;
        if !done && (k < most || !(k - most).is_multiple_of(LOOK)) {
            continue;
        }
        let (values, vectors) = squares(&alphas, &betas);
        // How much of a right vector is the one whose product is not known yet.
        let known = |i: &usize| beta * vectors[*i][k - 1].abs() <= exact * libm::sqrt(values[*i].max(0.0));
        if done || (0..most).all(|i| known(&i)) {
            break (values, vectors);
        }
    };
    let mut made = nothing;
    let least = values[0] * 1e-12;
    for (value, p) in values.iter().zip(&vectors).take(most).take_while(|(value, _)| **value > least) {
        let sigma = libm::sqrt(*value);
        let mut q = vec![0.0; right.len()];
        for (j, p) in p.iter().enumerate() {
            q[j] += alphas[j] * p / sigma;
            if j + 1 < q.len() {
                q[j + 1] += betas[j] * p / sigma;
            }
        }
        made.values.push(sigma);
        left.combine(p, &mut made.vectors.u);
        right.combine(&q, &mut made.vectors.v);
    }
    made
}

/// Eigenvalues of `L·Lᵀ`, the largest first, and their vectors.
fn squares(alphas: &[f64], betas: &[f64]) -> (Vec<f64>, Vec<Vec<f64>>) {
    let mut diagonal: Vec<f64> = alphas.iter().zip(betas).map(|(a, b)| a * a + b * b).collect();
    let mut beside: Vec<f64> = alphas.iter().skip(1).zip(betas).map(|(a, b)| a * b).collect();
    beside.push(0.0);
    let vectors = tridiagonal(&mut diagonal, &mut beside);
    let mut order: Vec<usize> = (0..diagonal.len()).collect();
    order.sort_by(|a, b| diagonal[*b].total_cmp(&diagonal[*a]));
    (order.iter().map(|i| diagonal[*i]).collect(), order.iter().map(|i| vectors[*i].clone()).collect())
}

/// Eigenvalues, in `d`, and vectors of the symmetric matrix with diagonal `d` and beside it `e`, whose last entry is 0: QL with
/// implicit shifts (EISPACK's tql2).
fn tridiagonal(d: &mut [f64], e: &mut [f64]) -> Vec<Vec<f64>> {
    let n = d.len();
    let unit = |i: usize| (0..n).map(|j| f64::from(u8::from(i == j))).collect();
    let mut vectors: Vec<Vec<f64>> = (0..n).map(unit).collect();
    for l in 0..n {
        for _ in 0..SWEEPS {
            let small = |m: usize| e[m].abs() <= f64::EPSILON * (d[m].abs() + d[m + 1].abs());
            let m = (l..n - 1).find(|m| small(*m)).unwrap_or(n - 1);
            if m == l {
                break;
            }
            let mut g = (d[l + 1] - d[l]) / (2.0 * e[l]);
            let mut r = libm::sqrt(g * g + 1.0);
            g = d[m] - d[l] + e[l] / (g + r.copysign(g));
            let (mut s, mut c, mut p) = (1.0, 1.0, 0.0);
            let mut whole = true;
            for i in (l..m).rev() {
                let (f, b) = (s * e[i], c * e[i]);
                r = libm::sqrt(f * f + g * g);
                e[i + 1] = r;
                if r == 0.0 {
                    d[i + 1] -= p;
                    e[m] = 0.0;
                    whole = false;
                    break;
                }
                (s, c) = (f / r, g / r);
                g = d[i + 1] - p;
                r = (d[i] - g) * s + 2.0 * c * b;
                p = s * r;
                d[i + 1] = g + p;
                g = c * r - b;
                let (lower, upper) = vectors.split_at_mut(i + 1);
                for (x, y) in lower[i].iter_mut().zip(&mut upper[0]) {
                    (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
                }
            }
            if whole {
                d[l] -= p;
                e[l] = g;
                e[m] = 0.0;
            }
        }
    }
    vectors
}

/// The nearest matrix with orthogonal columns, or rows where there are more columns: `W (WᵀW)^-½`, with small singular values
/// floored. `values`: columns of length `rows`, one after the other.
fn polar(rows: usize, values: &[f64]) -> Vec<f64> {
    let of = Columns { rows, values };
    let [_, k] = of.size();
    let found = triples(&of, k);
    let most = found.values.first().copied().unwrap_or(0.0);
    let mut out = vec![0.0; values.len()];
    for ((value, left), right) in
        found.values.iter().zip(found.vectors.u.chunks_exact(rows)).zip(found.vectors.v.chunks_exact(k))
    {
        let factor = value / value.max(FLOOR * most);
        out.chunks_exact_mut(rows).zip(right).for_each(|(out, right)| add(out, factor * right, left));
    }
    out
}

/// TSV-M (arXiv:2412.00081): the leading triples of all tasks side by side, with both sets of vectors replaced by the nearest
/// orthogonal ones.
pub fn whitened(tasks: Vec<Triples>) -> Factors {
    let mut all = Triples::default();
    for task in tasks {
        all.vectors.size = task.vectors.size;
        all.values.extend(task.values);
        all.vectors.u.extend(task.vectors.u);
        all.vectors.v.extend(task.vectors.v);
    }
    if all.values.is_empty() {
        return all.vectors;
    }
    let [rows, cols] = all.vectors.size;
    all.vectors.u = polar(rows, &all.vectors.u);
    all.vectors.v = polar(cols, &all.vectors.v);
    all.factors()
}

/// Vectors of length 1 that are orthogonal to each other.
struct Basis {
    width: usize,
    values: Vec<f64>,
}

impl Basis {
    fn new(width: usize) -> Basis {
        Basis { width, values: Vec::new() }
    }

    fn len(&self) -> usize {
        self.values.len() / self.width
    }

    fn last(&self) -> &[f64] {
        &self.values[self.values.len() - self.width..]
    }

    /// Takes the part of `x` that is orthogonal to all, and returns its length. If that is no more than `tiny`, it takes any
    /// vector that is orthogonal to all, and returns 0.
    fn admit(&mut self, mut x: Vec<f64>, tiny: f64) -> f64 {
        let mut length = self.clear(&mut x);
        let found = if length > tiny { length } else { 0.0 };
        let mut tries = 0;
        while length <= tiny || found == 0.0 && length < 1e-3 {
            let mut random = vec![0.0f32; self.width];
            Stream::new(tries, "start", "merge").fill_uniform(self.values.len() as u64, &mut random);
            x = random.into_iter().map(f64::from).collect();
            length = self.clear(&mut x);
            tries += 1;
            if tries > 8 {
                // The space is full; nothing is orthogonal to all of it.
                length = 1.0;
                x.fill(0.0);
            }
        }
        x.iter_mut().for_each(|x| *x /= length);
        self.values.extend(x);
        found
    }

    /// Subtracts what lies along the basis, twice for what rounding left; the length of the rest.
    fn clear(&self, x: &mut [f64]) -> f64 {
        for _ in 0..2 {
            for b in self.values.chunks_exact(self.width) {
                add(x, -dot(b, x), b);
            }
        }
        libm::sqrt(dot(x, x))
    }

    /// Appends `Σ pⱼ·bⱼ`.
    fn combine(&self, p: &[f64], out: &mut Vec<f64>) {
        let from = out.len();
        out.resize(from + self.width, 0.0);
        self.values.chunks_exact(self.width).zip(p).for_each(|(b, p)| add(&mut out[from..], *p, b));
    }
}

/// `out += factor·x`.
fn add(out: &mut [f64], factor: f64, x: &[f64]) {
    out.iter_mut().zip(x).for_each(|(out, x)| *out += factor * x);
}

/// Sums of eight lanes, so that they go side by side.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    let ((a, rest_a), (b, rest_b)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut sums = [0.0; 8];
    for (a, b) in a.iter().zip(b) {
        (0..8).for_each(|i| sums[i] += a[i] * b[i]);
    }
    let rest: f64 = rest_a.iter().zip(rest_b).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f64>() + rest
}

fn mixed(a: &[f32], b: &[f64]) -> f64 {
    let ((a, rest_a), (b, rest_b)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut sums = [0.0; 8];
    for (a, b) in a.iter().zip(b) {
        (0..8).for_each(|i| sums[i] += f64::from(a[i]) * b[i]);
    }
    let rest: f64 = rest_a.iter().zip(rest_b).map(|(a, b)| f64::from(*a) * b).sum();
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(rows: usize, cols: usize, seed: u64) -> Dense {
        let mut values = vec![0.0; rows * cols];
        Stream::new(seed, "matrix", "test").fill_uniform(0, &mut values);
        Dense { size: [rows, cols], values }
    }

    /// The largest difference of `Σ σ·u·vᵀ` from a matrix.
    fn distance(found: &Triples, of: &Dense) -> f64 {
        let (factors, cols) = (found.clone().factors(), of.size[1]);
        let mut row = vec![0.0; cols];
        let of_row = |i: usize| {
            factors.row(i, &mut row);
            let values = row.iter().zip(&of.values[i * cols..]);
            values.map(|(a, b)| (a - f64::from(*b)).abs()).fold(0.0, f64::max)
        };
        (0..of.size[0]).map(of_row).fold(0.0, f64::max)
    }

    fn orthogonal(found: &Triples) -> f64 {
        let mut worst = 0.0f64;
        for (width, side) in found.vectors.size.iter().zip([&found.vectors.u, &found.vectors.v]) {
            for (i, a) in side.chunks_exact(*width).enumerate() {
                for (j, b) in side.chunks_exact(*width).enumerate() {
                    worst = worst.max((dot(a, b) - f64::from(u8::from(i == j))).abs());
                }
            }
        }
        worst
    }

    #[test]
    fn all_triples_make_the_matrix() {
        for [rows, cols] in [[24, 18], [18, 24], [1, 7], [7, 1], [1, 1], [30, 30]] {
            let of = noise(rows, cols, 3);
            let found = triples(&of, 100);
            assert!(distance(&found, &of) < 1e-12, "{rows} by {cols}: {}", distance(&found, &of));
            assert!(orthogonal(&found) < 1e-8 && found.values.is_sorted_by(|a, b| a >= b));
        }
    }

    /// Equal singular values come all, though one start vector sees only one of each.
    #[test]
    fn equal_values_and_missing_ranks() {
        let mut of = Dense { size: [12, 12], values: vec![0.0; 144] };
        (0..12).for_each(|i| of.values[13 * i] = if i < 7 { 2.0 } else { 0.0 });
        let found = triples(&of, 12);
        assert_eq!(found.values.len(), 7);
        assert!(found.values.iter().all(|v| (v - 2.0).abs() < 1e-12) && distance(&found, &of) < 1e-12);
        of.values.fill(0.0);
        assert!(triples(&of, 3).values.is_empty());
        of.values[5] = f32::NAN;
        assert!(triples(&of, 3).values.is_empty());
    }

    /// The first triples of a matrix are those of all.
    #[test]
    fn some_triples_are_the_largest() {
        let of = noise(90, 150, 5);
        let (all, some) = (triples(&of, 90), triples(&of, 6));
        assert_eq!(some.values.len(), 6);
        for (a, b) in all.values.iter().zip(&some.values) {
            assert!((a - b).abs() < 1e-9 * a, "{a} {b}");
        }
        let rest = (all.values[6..].iter().map(|v| v * v).sum::<f64>() / of.energy()).sqrt();
        assert!(rest > 0.5 && orthogonal(&some) < 1e-8);
    }

    #[test]
    fn copies_are_whitened_to_one() {
        let of = triples(&noise(20, 30, 7), 4);
        let once = of.clone().factors();
        let twice = whitened(vec![of.clone(), of.clone()]);
        let mut rest = twice;
        rest.append(-1.0, &once);
        assert!(rest.energy() < 1e-18 * once.energy() + 1e-20, "{}", rest.energy());
    }
}
