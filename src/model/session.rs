//! A running text: the cache, the scratch and the adapters of one conversation.

use super::cache::Cache;
use super::doors::Workspace;
use super::pass::{self, Pass, Rows};
use super::{Acts, CacheType, Model};
use crate::adapter::{Ready, Stack};
use crate::error::{Error, Result};
use crate::kernel::{Buffer, View};
use crate::nn::linear::{Precision, Quantized};
use std::prelude::v1::*;
use std::sync::Arc;

/// How a session computes and how much it can hold.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Positions; at most what the model was made for.
    pub context: usize,
    /// Precision of products.
    pub precision: Precision,
    /// Precision of the cache.
    pub cache: CacheType,
    /// Prompt rows that go through the blocks together: bounds the scratch.
    pub chunk: usize,
}

impl Default for SessionConfig {
    fn default() -> Self {
        SessionConfig { context: 2048, precision: Precision::Int8, cache: CacheType::F16, chunk: 256 }
    }
}

/// One running text over a model.
pub struct Session {
    model: Model,
    config: SessionConfig,
    stack: Stack,
    cache: Cache,
    position: usize,
    rows: Rows,
    acts: Acts,
    work: Workspace,
    x: Buffer,
    state: Buffer,
    normed: Buffer,
    head: Quantized,
    logits: Vec<f32>,
}

/// Rows whose logits are made together when every row's are asked for: the output matrix is then read once for them.
const HEAD_ROWS: usize = 16;

/// Takes the index of a token and the logits after it, `[V]`.
pub type Each<'a> = dyn FnMut(usize, &[f32]) + 'a;

impl Session {
    /// Takes all memory the session will need, but for that of the logits of several rows.
    ///
    /// # Errors
    /// `Invalid` for a context of 0 or beyond the model's; `Memory` if the memory is not there.
    pub fn new(model: &Model, config: SessionConfig) -> Result<Session> {
        let h = &model.hparams;
        if config.context == 0 || config.context > h.context || config.chunk == 0 {
            let why = format!("{} positions; the model was made for 1 to {}", config.context, h.context);
            return Err(Error::invalid("context", why));
        }
        let mut acts = Acts::default();
        let chunk = config.chunk.min(config.context);
        h.blocks.iter().for_each(|layer| acts.resize(h, layer, &[], chunk));
        Ok(Session {
            cache: Cache::new(h, config.cache, config.context)?,
            stack: Stack::new(),
            position: 0,
            rows: Rows::default(),
            acts,
            work: Workspace::default(),
            x: Buffer::new(chunk * h.width),
            state: Buffer::default(),
            normed: Buffer::new(chunk * h.width),
            head: Quantized::default(),
            logits: vec![0.0; model.weights.vocab()],
            model: model.clone(),
            config,
        })
    }

    /// Attaches an adapter with a strength: 1 as it was trained, 0 not at all. The text so far was read without it, so the
    /// session starts again.
    ///
    /// # Errors
    /// Those of [`Stack::push`]; `Limit` if there is no memory for the rows that it puts before the text.
    pub fn attach(&mut self, adapter: Arc<Ready>, strength: f32) -> Result<()> {
        self.stack.push(adapter, strength)?;
        self.rewind(0);
        self.reserve().inspect_err(|_| _ = self.stack.pop())
    }

    /// Removes all adapters and starts again.
    ///
    /// # Errors
    /// `Limit` if the memory is not there.
    pub fn detach(&mut self) -> Result<()> {
        self.stack = Stack::new();
        self.rewind(0);
        self.reserve()
    }

    /// Room in the cache for the rows before the text.
    fn reserve(&mut self) -> Result<()> {
        let positions = self.config.context + self.stack.needs().rows;
        if self.cache.positions() != positions {
            self.cache = Cache::new(&self.model.hparams, self.config.cache, positions)?;
        }
        Ok(())
    }

    /// Positions fed so far.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Positions there is room for.
    pub fn context(&self) -> usize {
        self.config.context
    }

    /// Bytes of the cache of keys and values.
    pub fn cache_bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// Forgets all positions from `position` on.
    pub fn rewind(&mut self, position: usize) {
        self.position = self.position.min(position);
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Reads tokens; the logits after the last one, `[V]`.
    ///
    /// # Errors
    /// `Invalid` for no token or one outside the vocabulary, and for logits that are not finite, naming the tensor at
    /// fault; `Limit` if the context is full. Nothing counts as read then.
    pub fn feed(&mut self, tokens: &[u32]) -> Result<&[f32]> {
        self.feed_each(tokens, None)?;
        Ok(&self.logits)
    }

    /// Reads tokens; if `each` is given, calls it with the index and the logits of every one, else makes only the last
    /// one's.
    ///
    /// # Errors
    /// Those of [`Session::feed`].
    pub fn feed_each(&mut self, tokens: &[u32], mut each: Option<&mut Each>) -> Result<()> {
        let (m, h) = (self.model.clone(), self.model.hparams.clone());
        if tokens.is_empty() {
            return Err(Error::invalid("tokens", "none to read"));
        }
        if let Some(t) = tokens.iter().find(|t| **t as usize >= m.weights.vocab()) {
            return Err(Error::invalid("token", format!("{t} is outside the vocabulary of {}", m.weights.vocab())));
        }
        if self.position + tokens.len() > self.config.context {
            let asked = (self.position + tokens.len()) as u64;
            return Err(Error::limit("context positions", asked, self.config.context as u64));
        }
        let (start, chunk) = (self.position, self.config.chunk.min(self.config.context));
        let lead = self.stack.needs().rows;
        if lead > 0 && self.position == 0 {
            // Their keys and values are all that the text sees of them.
            self.rows.lead = lead;
            self.read(&m, &vec![0; lead], 0);
            self.rows.lead = 0;
        }
        for (c, tokens) in tokens.chunks(chunk).enumerate() {
            let n = tokens.len();
            self.read(&m, tokens, self.position + lead);
            self.position += n;
            let first = match each {
                Some(_) => 0,
                None => n - 1,
            };
            let p = Pass::new(&m, &self.stack, self.config.precision, &self.rows);
            let x = View::new(&self.x, n, h.width).rows(first..n);
            let normed = &mut self.normed[..(n - first) * h.width];
            pass::finish(&p, x, normed, None, &mut self.work);
            let vocab = m.weights.vocab();
            for i in (first..n).step_by(HEAD_ROWS) {
                let rows = HEAD_ROWS.min(n - i);
                let y = View::new(&self.normed[(i - first) * h.width..], rows, h.width);
                self.logits.resize(rows * vocab, 0.0);
                pass::logits(&p, y, &mut self.logits, &mut self.head);
                for (r, logits) in self.logits.chunks_exact_mut(vocab).enumerate() {
                    if let Some(id) = logits.iter().position(|v| !v.is_finite()) {
                        self.position = start;
                        return Err(not_finite(&m, id, logits[id]));
                    }
                    h.finish.apply(&m.compute, logits);
                    if let Some(each) = &mut each {
                        each(c * chunk + i + r, logits);
                    }
                }
            }
            // The last row's are what `feed` returns.
            let last = self.logits.len() - vocab;
            self.logits.copy_within(last.., 0);
            self.logits.truncate(vocab);
        }
        Ok(())
    }

    /// Takes tokens through the blocks, the first of them at row `at` of the cache; `self.x` is what comes out.
    fn read(&mut self, m: &Model, tokens: &[u32], at: usize) {
        let (h, n) = (&m.hparams, tokens.len());
        self.rows.positions.clear();
        self.rows.positions.extend((at..at + n).map(|p| p as u32));
        self.rows.segments.clear();
        self.rows.segments.push(0..n);
        self.rows.rotate(m);
        let p = Pass::new(m, &self.stack, self.config.precision, &self.rows);
        let (x, cache) = (self.x.room(n * h.width), Some(&mut self.cache));
        pass::embed(&p, tokens, x, &mut self.work);
        let (a, state, work) = (&mut self.acts, &mut self.state, &mut self.work);
        pass::blocks(&p, 0..h.layers, cache, x, a, state, work, &mut |_, _, _, _| ());
    }
}

/// Why the logit of token `id` is `value`: the tensor at fault, if one is.
fn not_finite(m: &Model, id: usize, value: f32) -> Error {
    match m.weights.not_finite(&m.hparams) {
        Some((name, row, column)) => {
            Error::invalid(format!("tensor {name}"), format!("row {row}, column {column} is not finite"))
        }
        None => Error::invalid("logits", format!("that of token {id} is {value}, though all weights are finite")),
    }
}
