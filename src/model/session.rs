//! A running text: the cache, the scratch and the adapters of one conversation.

use super::block::{self, Layout};
use super::cache::Cache;
use super::project::Workspace;
use super::{Acts, CacheType, Model};
use crate::adapter::{Adapter, Linear};
use crate::error::{Error, Result};
use crate::kernel::{Buffer, Tile, View};
use crate::nn::linear::{self, Input, Path, Rounded};
use crate::nn::{embed, norm};
use std::prelude::v1::*;
use std::sync::Arc;

/// How a session computes and how much it can hold.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Positions; at most what the model was made for.
    pub context: usize,
    /// Precision of products.
    pub path: Path,
    /// Precision of the cache.
    pub cache: CacheType,
    /// Prompt rows that go through the blocks together: bounds the scratch.
    pub chunk: usize,
}

impl Default for SessionConfig {
    fn default() -> Self {
        SessionConfig { context: 2048, path: Path::Fast, cache: CacheType::F16, chunk: 256 }
    }
}

/// One running text over a model.
pub struct Session {
    model: Model,
    config: SessionConfig,
    adapters: Vec<Arc<dyn Adapter>>,
    cache: Cache,
    position: usize,
    layout: Layout,
    acts: Acts,
    work: Workspace,
    x: Buffer,
    normed: Buffer,
    head: Rounded,
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
        acts.resize(h, chunk);
        Ok(Session {
            cache: Cache::new(h, config.cache, config.context)?,
            adapters: Vec::new(),
            position: 0,
            layout: Layout { positions: Vec::with_capacity(chunk), segments: Vec::new() },
            acts,
            work: Workspace::default(),
            x: Buffer::new(chunk * h.width),
            normed: Buffer::new(chunk * h.width),
            head: Rounded::default(),
            logits: vec![0.0; model.weights.vocab()],
            model: model.clone(),
            config,
        })
    }

    /// Adds an adapter; the text so far was read without it, so the session starts again.
    pub fn attach(&mut self, adapter: Arc<dyn Adapter>) {
        self.adapters.push(adapter);
        self.rewind(0);
    }

    /// Removes all adapters and starts again.
    pub fn detach(&mut self) {
        self.adapters.clear();
        self.rewind(0);
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
        for (c, tokens) in tokens.chunks(chunk).enumerate() {
            let n = tokens.len();
            self.layout.positions.clear();
            self.layout.positions.extend((self.position..self.position + n).map(|p| p as u32));
            embed::forward(&m.compute, &m.weights.embed, tokens, 1.0, &mut Tile::new(&mut self.x, n, h.width));
            for layer in 0..h.layers {
                let cache = Some(&mut self.cache);
                let (rows, x, a) = (&self.layout, &mut self.x, &mut self.acts);
                block::forward(&m, &self.adapters, self.config.path, layer, rows, cache, x, a, &mut self.work);
            }
            self.position += n;
            let first = match each {
                Some(_) => 0,
                None => n - 1,
            };
            let x = View::new(&self.x, n, h.width).rows(first..n);
            let normed = &mut self.normed[..(n - first) * h.width];
            norm::forward(
                &m.compute,
                block::rms(&h),
                x,
                &m.weights.norm,
                None,
                &mut Tile::new(normed, n - first, h.width),
            );
            let vocab = m.weights.vocab();
            for i in (first..n).step_by(HEAD_ROWS) {
                let rows = HEAD_ROWS.min(n - i);
                let x = View::new(&self.normed[(i - first) * h.width..], rows, h.width);
                let input = Input::new(&m.compute, self.config.path, x, &[m.weights.head()], false, &mut self.head);
                self.logits.resize(rows * vocab, 0.0);
                // The next token begins with the first block.
                let input = input.before(m.weights.blocks[0].linear(Linear::Q));
                linear::forward(&m.compute, m.weights.head(), input, &mut Tile::new(&mut self.logits, rows, vocab));
                for (r, logits) in self.logits.chunks_exact(vocab).enumerate() {
                    if let Some(id) = logits.iter().position(|v| !v.is_finite()) {
                        self.position = start;
                        return Err(not_finite(&m, id, logits[id]));
                    }
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
}

/// Why the logit of token `id` is `value`: the tensor at fault, if one is.
fn not_finite(m: &Model, id: usize, value: f32) -> Error {
    match m.weights.not_finite() {
        Some((name, row, column)) => {
            Error::invalid(format!("tensor {name}"), format!("row {row}, column {column} is not finite"))
        }
        None => Error::invalid("logits", format!("that of token {id} is {value}, though all weights are finite")),
    }
}
