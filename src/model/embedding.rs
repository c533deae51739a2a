//! Embeddings of texts: the last rows of a text, pooled to one vector, through the projections that a file may have behind
//! them. No cache is used; several texts go through the model in one pass.

use super::doors::Workspace;
use super::pass::{self, Pass, Rows};
use super::{Acts, HParams, Model};
use crate::adapter::Stack;
use crate::error::{Error, Result};
use crate::kernel::{Buffer, Tile, View};
use crate::nn::linear::{self, Accumulate, Input, Precision};
use core::ops::Range;
use std::prelude::v1::*;

/// How the last rows of a text become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The mean of all rows.
    Mean,
    /// The first row.
    Cls,
    /// The last row.
    Last,
}

/// `pooling_type` in files: the name, and the pooling where it gives one vector for a text.
const TYPES: [(&str, Option<Pooling>); 5] = [
    ("none", None),
    ("mean", Some(Pooling::Mean)),
    ("cls", Some(Pooling::Cls)),
    ("last", Some(Pooling::Last)),
    ("rank", None),
];

impl Pooling {
    /// Those with a name, as options take it.
    pub fn named() -> impl Iterator<Item = (&'static str, Pooling)> {
        TYPES.into_iter().filter_map(|(name, pooling)| Some((name, pooling?)))
    }

    /// # Errors
    /// `Unsupported` for another name than `mean`, `cls` and `last`.
    pub fn by_name(name: &str) -> Result<Pooling> {
        let found = Pooling::named().find(|(known, _)| *known == name);
        found.map(|(_, pooling)| pooling).ok_or_else(|| Error::unsupported("pooling", name))
    }

    /// What a model's file says: the number of its key `pooling_type`. Without that key it is the mean.
    ///
    /// # Errors
    /// `Unsupported` for a file whose texts have no vector: pooling `none` (a vector a token) and `rank` (a score), and
    /// numbers that are not known.
    pub fn of(h: &HParams) -> Result<Pooling> {
        let Some(number) = h.pooling_type else { return Ok(Pooling::Mean) };
        let (name, pooling) = usize::try_from(number).ok().and_then(|i| TYPES.get(i)).copied().unwrap_or(("", None));
        let what = || Error::unsupported("pooling", format!("{}.pooling_type = {number} {name}", h.arch.name));
        pooling.ok_or_else(what)
    }

    /// The rows of a text that enter its vector.
    pub fn rows(self, text: Range<usize>) -> Range<usize> {
        match self {
            Pooling::Mean => text,
            Pooling::Cls => text.start..text.end.min(text.start + 1),
            Pooling::Last => text.end.saturating_sub(1).max(text.start)..text.end,
        }
    }
}

/// Means of rows: row `i` of `out` is the mean of the rows `groups[i]` of `x`. x: `[N, C]`, out: `[groups, C]`, overwritten.
pub fn pool(x: View, groups: &[Range<usize>], out: &mut [f32]) {
    for (group, out) in groups.iter().zip(out.chunks_exact_mut(x.c)) {
        for (c, out) in out.iter_mut().enumerate() {
            let sum: f64 = group.clone().map(|i| f64::from(x.row(i)[c])).sum();
            *out = (sum / group.len() as f64) as f32;
        }
    }
}

/// The backward pass of [`pool`]: `dx` of every row of a group, overwritten. dy: `[groups, C]`.
pub fn pool_backward(dy: View, groups: &[Range<usize>], dx: &mut [f32]) {
    for (i, group) in groups.iter().enumerate() {
        let share = 1.0 / group.len() as f32;
        for row in dx[group.start * dy.c..group.end * dy.c].chunks_exact_mut(dy.c) {
            row.iter_mut().zip(dy.row(i)).for_each(|(d, g)| *d = share * g);
        }
    }
}

/// The projections behind the pooling, if the file has any. x: `[N, width]`; `[N, Model::embedding_width]`.
pub fn project(m: &Model, precision: Precision, x: &[f32], n: usize, work: &mut Workspace) -> Vec<f32> {
    let mut x = x[..n * m.hparams.width].to_vec();
    for w in &m.weights.projections {
        let mut y = vec![0.0; n * w.rows];
        let input = Input::new(&m.compute, precision, View::new(&x, n, w.cols), &[w], false, &mut work.quantized);
        linear::forward(&m.compute, w, input, &mut Tile::new(&mut y, n, w.rows));
        x = y;
    }
    x
}

/// The backward pass of [`project`]: the gradient of its input. dy: `[N, Model::embedding_width]`; `[N, width]`.
pub fn project_backward(m: &Model, precision: Precision, dy: &[f32], n: usize, work: &mut Workspace) -> Vec<f32> {
    let mut dy = dy.to_vec();
    for w in m.weights.projections.iter().rev() {
        let mut dx = vec![0.0; n * w.cols];
        let (into, mut tile) = (Accumulate::Set, Tile::new(&mut dx, n, w.cols));
        linear::backward(&m.compute, precision, w, View::new(&dy, n, w.rows), into, &mut tile, &mut work.back);
        dy = dx;
    }
    dy
}

/// Checks a text before a pass.
///
/// # Errors
/// `Invalid` for no token or one outside the vocabulary; `Limit` for more tokens than the model was made for, or, with
/// `lead` rows before them, than it has positions. They name the text by its number.
pub fn check(m: &Model, i: usize, tokens: &[u32], lead: usize) -> Result<()> {
    let (vocab, h) = (m.weights.vocab(), &m.hparams);
    if tokens.is_empty() {
        return Err(Error::invalid(format!("text {i}"), "it has no token"));
    }
    if let Some(t) = tokens.iter().find(|t| **t as usize >= vocab) {
        return Err(Error::invalid(format!("text {i}"), format!("token {t} of a vocabulary of {vocab}")));
    }
    if tokens.len() > h.context {
        return Err(Error::limit(format!("tokens of text {i}"), tokens.len() as u64, h.context as u64));
    }
    match h.most_positions() {
        Some(most) if lead + tokens.len() > most => {
            let what = format!("positions of text {i}, {lead} of them an adapter's");
            Err(Error::limit(what, (lead + tokens.len()) as u64, most as u64))
        }
        _ => Ok(()),
    }
}

/// Makes embeddings of texts. Its buffers grow to the largest pass once: [`Embedder::ROWS`] rows, or those of the longest
/// text.
///
/// ```
/// # use mynah::{Precision, Result, adapter::Stack, model::{Embedder, Model, Pooling}};
/// # fn nearest(model: &Model, query: &[u32], passages: &[&[u32]]) -> Result<usize> {
/// let mut embedder = Embedder::new(model, Stack::new(), Precision::Int8, Pooling::of(&model.hparams)?);
/// let query = embedder.embed(&[query])?.remove(0);
/// let passages = embedder.embed(passages)?; // each the same as if it were alone
/// let dot = |p: &[f32]| p.iter().zip(&query).map(|(a, b)| a * b).sum::<f32>();
/// let length = |p: &[f32]| dot(p) / p.iter().map(|v| v * v).sum::<f32>().sqrt();
/// # let best =
/// (0..passages.len()).max_by(|&a, &b| length(&passages[a]).total_cmp(&length(&passages[b])))
/// # ;
/// # Ok(best.unwrap_or(0)) }
/// ```
pub struct Embedder {
    model: Model,
    stack: Stack,
    precision: Precision,
    pooling: Pooling,
    rows: Rows,
    tokens: Vec<u32>,
    /// The pooled rows of each text, by their numbers among all that are pooled.
    groups: Vec<Range<usize>>,
    acts: Acts,
    work: Workspace,
    x: Buffer,
    state: Buffer,
    gathered: Buffer,
    normed: Buffer,
    pooled: Vec<f32>,
}

impl Embedder {
    /// Rows of texts that go through the model together; a longer text goes alone.
    pub const ROWS: usize = 256;

    /// With these adapters, this precision of products, and this pooling.
    pub fn new(model: &Model, stack: Stack, precision: Precision, pooling: Pooling) -> Embedder {
        Embedder {
            model: model.clone(),
            stack,
            precision,
            pooling,
            rows: Rows::default(),
            tokens: Vec::new(),
            groups: Vec::new(),
            acts: Acts::default(),
            work: Workspace::default(),
            x: Buffer::default(),
            state: Buffer::default(),
            gathered: Buffer::default(),
            normed: Buffer::default(),
            pooled: Vec::new(),
        }
    }

    /// The embeddings of texts, `[`[`Model::embedding_width`]`]` each, of the length that the model gives them. The bits of
    /// none depend on the others.
    ///
    /// # Errors
    /// Those of the check of texts, before anything is computed; `Invalid` for an embedding that is not finite, naming the
    /// tensor at fault; `Altered` if the model's file is no longer what it was.
    pub fn embed(&mut self, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
        let lead = self.stack.needs().rows;
        texts.iter().enumerate().try_for_each(|(i, tokens)| check(&self.model, i, tokens, lead))?;
        let (mut out, mut first) = (Vec::with_capacity(texts.len()), 0);
        while first < texts.len() {
            let mut rows = 0;
            let fits = |tokens: &&&[u32]| {
                rows += lead + tokens.len();
                rows <= Self::ROWS
            };
            let count = texts[first..].iter().take_while(fits).count().max(1);
            self.pass(&texts[first..first + count], lead, &mut out)?;
            first += count;
        }
        Ok(out)
    }

    /// One pass.
    fn pass(&mut self, texts: &[&[u32]], lead: usize, out: &mut Vec<Vec<f32>>) -> Result<()> {
        let (m, d) = (&self.model, self.model.hparams.width);
        m.check()?;
        self.rows.clear();
        self.rows.lead = lead;
        self.tokens.clear();
        self.groups.clear();
        for tokens in texts {
            self.rows.push(0..lead + tokens.len());
            self.tokens.extend(core::iter::repeat_n(0, lead).chain(tokens.iter().copied()));
        }
        self.rows.rotate(m);
        let (n, work) = (self.tokens.len(), &mut self.work);
        let p = Pass::new(m, &self.stack, self.precision, &self.rows);
        let x = self.x.room(n * d);
        pass::embed(&p, &self.tokens, x, work);
        let layers = 0..m.hparams.layers;
        pass::blocks(&p, layers, None, x, &mut self.acts, &mut self.state, work, &mut |_, _, _, _| ());

        let gathered = self.gathered.room(n * d);
        let mut count = 0;
        for segment in &self.rows.segments {
            let rows = self.pooling.rows(segment.start + lead..segment.end);
            self.groups.push(count..count + rows.len());
            gathered[count * d..][..rows.len() * d].copy_from_slice(&x[rows.start * d..rows.end * d]);
            count += rows.len();
        }
        let normed = self.normed.room(count * d);
        pass::finish(&p, View::new(gathered, count, d), normed, None, work);
        self.pooled.resize(texts.len() * d, 0.0);
        pool(View::new(normed, count, d), &self.groups, &mut self.pooled);
        let width = m.embedding_width();
        for vector in project(m, self.precision, &self.pooled, texts.len(), work).chunks_exact(width) {
            if let Some(v) = vector.iter().find(|v| !v.is_finite()) {
                return Err(not_finite(m, out.len(), *v));
            }
            out.push(vector.to_vec());
        }
        Ok(())
    }
}

/// Why a value of the embedding of text `i` is not finite: the tensor at fault, if one is.
fn not_finite(m: &Model, i: usize, value: f32) -> Error {
    match m.weights.not_finite(&m.hparams) {
        Some((name, row, column)) => {
            Error::invalid(format!("tensor {name}"), format!("row {row}, column {column} is not finite"))
        }
        None => Error::invalid(format!("embedding of text {i}"), format!("a value is {value}")),
    }
}

/// Scales a vector to length 1; one of zeros stays as it is.
pub fn normalise(vector: &mut [f32]) {
    let length = libm::sqrt(vector.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>());
    if length > 0.0 {
        vector.iter_mut().for_each(|v| *v = (f64::from(*v) / length) as f32);
    }
}
