//! Running texts: the cache, the adapters and the logits of each, and the pass that takes one of them or several further.

use super::cache::Cache;
use super::doors::Workspace;
use super::pass::{self, Caches, Pass, RowStack, Rows};
use super::{Acts, CacheType, Model};
use crate::adapter::{Ready, Stack};
use crate::bytes::room;
use crate::error::{Error, Result};
use crate::kernel::{Buffer, View};
use crate::nn::linear::{Precision, Quantized};
use core::ops::Range;
use std::prelude::v1::*;
use std::sync::Arc;

/// How a session computes and how much it can hold.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// What is known of a text.
struct State {
    model: Model,
    config: SessionConfig,
    stack: Arc<Stack>,
    cache: Cache,
    position: usize,
    /// After the last token, `[V]`, if they are known.
    logits: Vec<f32>,
    known: bool,
}

impl State {
    /// The same text once more. It shares the cache of what was read.
    fn fork(&self) -> State {
        let rows = self.position + self.stack.needs().rows;
        State {
            model: self.model.clone(),
            config: self.config.clone(),
            stack: self.stack.clone(),
            cache: self.cache.fork(if self.position > 0 { rows } else { 0 }),
            position: self.position,
            logits: self.logits.clone(),
            known: self.known,
        }
    }
}

/// One running text over a model.
///
/// ```
/// # use mynah::{Result, model::{Model, Session, SessionConfig}};
/// # fn two_answers(model: &Model, question: &[u32], one: &[u32], other: &[u32]) -> Result<()> {
/// let mut session = Session::new(model, SessionConfig::default())?;
/// session.feed(question)?;
/// let mut fork = session.fork(); // shares what was read of the question
/// session.feed(one)?;
/// fork.feed(other)?;
/// let before = session.snapshot();
/// session.truncate(question.len()); // forgets the first answer
/// session.restore(&before)?; // and has it again
/// # Ok(()) }
/// ```
pub struct Session {
    state: State,
    /// What passes work in; a session that went through the model with others alone has none.
    scratch: Option<Box<Scratch>>,
}

/// A text as it was, to go back to: see [`Session::snapshot`].
pub struct Snapshot(State);

impl Snapshot {
    /// Tokens that had been read.
    pub fn position(&self) -> usize {
        self.0.position
    }

    /// What was attached.
    pub fn stack(&self) -> &Stack {
        &self.0.stack
    }
}

/// What passes work in; it holds nothing of a text.
#[derive(Default)]
struct Scratch {
    rows: Rows,
    acts: Acts,
    work: Workspace,
    x: Buffer,
    state: Buffer,
    /// Rows whose logits are wanted, and what the last norm makes of them.
    last: Buffer,
    normed: Buffer,
    head: Quantized,
    logits: Vec<f32>,
    /// The tokens of a pass, the session of each of its sequences, and the adapters of their rows.
    tokens: Vec<u32>,
    owners: Vec<usize>,
    stacks: Vec<RowStack>,
    /// Of the rows whose logits are wanted: their positions, their adapters, and of each its row in the pass, its session,
    /// and whether it is the session's last.
    ends: Rows,
    end_stacks: Vec<RowStack>,
    wanted: Vec<(usize, usize, bool)>,
}

impl Scratch {
    fn new(model: &Model, chunk: usize) -> Scratch {
        let h = &model.hparams;
        let mut s =
            Scratch { x: Buffer::new(chunk * h.width), normed: Buffer::new(chunk * h.width), ..Scratch::default() };
        h.blocks.iter().for_each(|layer| s.acts.resize(h, layer, &[], chunk));
        s
    }

    /// Forgets the rows of the pass before.
    fn start(&mut self) {
        self.rows.clear();
        self.tokens.clear();
        self.owners.clear();
        self.stacks.clear();
        self.ends.clear();
        self.end_stacks.clear();
        self.wanted.clear();
    }
}

/// Rows whose logits are made together when those of all are wanted: the output matrix is then read once for them.
const HEAD_ROWS: usize = 16;

/// Bytes that must be there beside those of a session's passes: scratch memory of threads, tokens, texts.
const SLACK: usize = 256 << 10;

/// Takes the index of a token and the logits after it, `[V]`.
pub type Each<'a> = dyn FnMut(usize, &[f32]) + 'a;

/// The caches of a pass: those of the sessions that `owners` names.
struct SessionCaches<'a, 'b> {
    sessions: &'a mut [&'b mut Session],
    owners: &'a [usize],
}

impl Caches for SessionCaches<'_, '_> {
    fn cache(&self, i: usize) -> &Cache {
        &self.sessions[self.owners[i]].state.cache
    }

    fn cache_mut(&mut self, i: usize) -> &mut Cache {
        &mut self.sessions[self.owners[i]].state.cache
    }
}

impl Session {
    /// Takes all memory the session will need, but for that of the logits of several rows.
    ///
    /// # Errors
    /// `Invalid` for a context of 0 or beyond the model's; `Unsupported` for an encoder, whose rows read what follows them;
    /// `Memory` if the memory is not there.
    pub fn new(model: &Model, config: SessionConfig) -> Result<Session> {
        let h = &model.hparams;
        if !h.causal() {
            let why = format!("{}: it makes embeddings (mynah embed, Mynah::embed)", h.arch.name);
            return Err(Error::unsupported("model that predicts no token", why));
        }
        if config.context == 0 || config.context > h.context || config.chunk == 0 {
            let why = format!("{} positions; the model was made for 1 to {}", config.context, h.context);
            return Err(Error::invalid("context", why));
        }
        let chunk = config.chunk.min(config.context);
        let vocab = model.weights.vocab();
        let cache = Cache::new(h, config.cache, config.context, chunk)?;
        let floats = 2 * chunk * h.width + HEAD_ROWS * vocab;
        let passes = Acts::bytes(h, 0, chunk) + Workspace::bytes(model, config.precision, chunk, HEAD_ROWS);
        room("the passes of a session", passes + size_of::<f32>() * floats + SLACK)?;
        let scratch = Some(Box::new(Scratch::new(model, chunk)));
        let logits = Vec::with_capacity(vocab);
        let (model, stack) = (model.at_context(config.context), Arc::new(Stack::new()));
        Ok(Session { state: State { model, config, stack, cache, position: 0, logits, known: false }, scratch })
    }

    /// A second session that has read the same. What was read is stored once; what either reads from now on is its own. The
    /// fork takes memory for its own positions as it reads them, a page of the cache at a time.
    pub fn fork(&self) -> Session {
        Session { state: self.state.fork(), scratch: None }
    }

    /// The text as it is now, to go back to with [`Session::restore`]. It shares the cache of what was read.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.state.fork())
    }

    /// Goes back, or forward, to a snapshot: of this session, or of another with the same model, settings and adapters.
    ///
    /// # Errors
    /// `Mismatch` if it is of another model, of other settings, or of other adapters.
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<()> {
        let (now, then) = (&self.state, &snapshot.0);
        if !Arc::ptr_eq(&now.model.weights, &then.model.weights) {
            return Err(Error::mismatch("model of the snapshot", "this session's", "another"));
        }
        if now.config != then.config {
            let (now, then) = (format!("{:?}", now.config), format!("{:?}", then.config));
            return Err(Error::mismatch("settings of the snapshot", now, then));
        }
        if !now.stack.same(&then.stack) {
            return Err(Error::mismatch("adapters of the snapshot", "this session's", "others"));
        }
        self.state = then.fork();
        Ok(())
    }

    /// Attaches an adapter with a strength: 1 as it was trained, 0 not at all. The text so far was read without it, so the
    /// session starts again.
    ///
    /// # Errors
    /// Those of [`Stack::push`]; `Memory` if there is no memory for the rows that it puts before the text.
    pub fn attach(&mut self, adapter: Arc<Ready>, strength: f32) -> Result<()> {
        let mut stack = Stack::clone(&self.state.stack);
        stack.push(adapter, strength)?;
        self.replace(stack)
    }

    /// Removes all adapters and starts again.
    ///
    /// # Errors
    /// `Memory` if the memory is not there.
    pub fn detach(&mut self) -> Result<()> {
        self.replace(Stack::new())
    }

    /// Attaches what a stack holds in the place of what is attached, and starts again.
    ///
    /// # Errors
    /// `Memory` if the memory is not there.
    pub fn replace(&mut self, stack: Stack) -> Result<()> {
        self.truncate(0);
        let State { model, config, cache, .. } = &mut self.state;
        let positions = config.context + stack.needs().rows;
        if let Some(most) = model.hparams.most_positions().filter(|most| positions > *most) {
            return Err(Error::limit("positions of the model", positions as u64, most as u64));
        }
        if cache.positions() != positions {
            *cache = Cache::new(&model.hparams, config.cache, positions, config.chunk.min(positions))?;
        }
        self.state.stack = Arc::new(stack);
        Ok(())
    }

    /// What is attached.
    pub fn stack(&self) -> &Stack {
        &self.state.stack
    }

    /// Positions fed so far.
    pub fn position(&self) -> usize {
        self.state.position
    }

    /// Positions there is room for.
    pub fn context(&self) -> usize {
        self.state.config.context
    }

    /// How it computes.
    pub fn config(&self) -> &SessionConfig {
        &self.state.config
    }

    /// Bytes of the cache of keys and values.
    pub fn cache_bytes(&self) -> usize {
        self.state.cache.bytes()
    }

    /// Bytes of the cache that neither a fork nor a snapshot shares.
    pub fn own_cache_bytes(&self) -> usize {
        self.state.cache.own_bytes()
    }

    /// The logits after the last token that was read, `[V]`; empty before the first, and after [`Session::truncate`].
    pub fn logits(&self) -> &[f32] {
        if self.state.known { &self.state.logits } else { &[] }
    }

    /// Forgets all positions from `position` on, and the logits with them if there were any. How many positions are left: as
    /// many as asked for, or fewer if there is no way back to these. Layers with a window keep 256 positions more than it sees;
    /// of what a model carries along the text beside its cache, the states before and after the last few calls are kept that
    /// read several tokens. A snapshot keeps all that its position saw.
    pub fn truncate(&mut self, position: usize) -> usize {
        if position < self.state.position {
            self.go_back(position);
        }
        self.state.position
    }

    /// Stands at an earlier position, or at one before it if what it saw is gone.
    fn go_back(&mut self, position: usize) {
        let lead = self.state.stack.needs().rows;
        let rows = self.state.cache.back(if position > 0 { position + lead } else { 0 });
        self.state.position = rows.saturating_sub(lead);
        self.state.known = false;
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.state.model
    }

    /// Reads tokens; the logits after the last one, `[V]`.
    ///
    /// # Errors
    /// `Invalid` for no token or one outside the vocabulary, and for logits that are not finite, naming the tensor at
    /// fault; `Limit` if the context is full; `Memory` if there is none for a page of the cache; `Altered` if the model's file
    /// is no longer what it was. Nothing counts as read then. After a failed pass the session goes back as [`Session::truncate`] does, so that fewer tokens may count.
    pub fn feed(&mut self, tokens: &[u32]) -> Result<&[f32]> {
        forward(&mut [self], &[tokens], None, &|| false)?;
        Ok(&self.state.logits)
    }

    /// Reads tokens until `stop` says so, which is asked before each chunk of them: how many were read. If all were, the
    /// logits after the last one are there.
    ///
    /// # Errors
    /// Those of [`Session::feed`].
    pub fn feed_until(&mut self, tokens: &[u32], stop: &dyn Fn() -> bool) -> Result<usize> {
        forward(&mut [self], &[tokens], None, stop)
    }

    /// Reads tokens; calls `each` with the index and the logits of every one.
    ///
    /// # Errors
    /// Those of [`Session::feed`].
    pub fn feed_each(&mut self, tokens: &[u32], each: &mut Each) -> Result<()> {
        forward(&mut [self], &[tokens], Some(each), &|| false).map(|_| ())
    }

    /// Takes several sessions over one model further in the same passes, each by its own tokens: weights are read once for
    /// all of them. Each has its own cache and adapters, and the logits of each are what they would be without the others,
    /// to the bit. A session of no tokens stays as it is.
    ///
    /// # Errors
    /// Those of [`Session::feed`], and `Mismatch` for sessions of different models or precisions. Nothing counts as read
    /// by any of them then.
    ///
    /// ```
    /// # use mynah::{Result, model::Session};
    /// # fn two(question: &mut Session, token: u32, other: u32) -> Result<()> {
    /// let mut fork = question.fork();
    /// Session::feed_together(&mut [question, &mut fork], &[&[token], &[other]])?;
    /// let best = fork.logits().iter().copied().fold(f32::MIN, f32::max);
    /// # let _ = best; Ok(()) }
    /// ```
    pub fn feed_together(sessions: &mut [&mut Session], tokens: &[&[u32]]) -> Result<()> {
        if sessions.len() != tokens.len() {
            return Err(Error::mismatch("pieces of tokens", sessions.len(), tokens.len()));
        }
        if tokens.iter().all(|tokens| tokens.is_empty()) {
            return Ok(());
        }
        forward(sessions, tokens, None, &|| false).map(|_| ())
    }

    /// Checks that the tokens are in the vocabulary and that the context has room for them.
    fn check(&self, tokens: &[u32]) -> Result<()> {
        let State { model, config, position, .. } = &self.state;
        let vocab = model.weights.vocab();
        if let Some(t) = tokens.iter().find(|t| **t as usize >= vocab) {
            return Err(Error::invalid("token", format!("{t} is outside the vocabulary of {vocab}")));
        }
        if position + tokens.len() > config.context {
            let asked = (position + tokens.len()) as u64;
            return Err(Error::limit("context positions", asked, config.context as u64));
        }
        Ok(())
    }
}

/// The one way of sessions through the model: chunks of rows, of one session or of several side by side. How many tokens were
/// read before `stop` said so. With `each`, there is one session, and the logits of every token are made.
fn forward(
    sessions: &mut [&mut Session],
    tokens: &[&[u32]],
    mut each: Option<&mut Each>,
    stop: &dyn Fn() -> bool,
) -> Result<usize> {
    let total: usize = tokens.iter().map(|tokens| tokens.len()).sum();
    let Some(first) = sessions.first().filter(|_| total > 0) else {
        return Err(Error::invalid("tokens", "none to read"));
    };
    let (m, config) = (first.state.model.clone(), first.state.config.clone());
    for (session, tokens) in sessions.iter().zip(tokens) {
        let (model, precision) = (&session.state.model, session.state.config.precision);
        if !Arc::ptr_eq(&model.weights, &m.weights) || precision != config.precision {
            return Err(Error::mismatch("sessions of a pass", "one model and precision", "several"));
        }
        if model.rope_length() != m.rope_length() {
            return Err(Error::mismatch("sessions of a pass", "long contexts, or short ones", "both"));
        }
        session.check(tokens)?;
    }
    m.check()?;
    let chunk = config.chunk.min(config.context);
    let scratch = sessions.iter_mut().find_map(|s| s.scratch.take());
    let mut scratch = scratch.unwrap_or_else(|| Box::new(Scratch::new(&m, chunk)));
    let result = passes(sessions, tokens, total, chunk, &mut scratch, &m, &mut each, stop);
    sessions[0].scratch = Some(scratch);
    result
}

/// All passes; after an error every session stands where it stood.
fn passes(
    sessions: &mut [&mut Session],
    tokens: &[&[u32]],
    total: usize,
    chunk: usize,
    s: &mut Scratch,
    m: &Model,
    each: &mut Option<&mut Each>,
    stop: &dyn Fn() -> bool,
) -> Result<usize> {
    let mut done = 0;
    let mut run = |done: &mut usize| -> Result<()> {
        for (session, tokens) in sessions.iter_mut().zip(tokens).filter(|(_, tokens)| !tokens.is_empty()) {
            session.state.known = false;
            lead(session, s, m)?;
            if tokens.len() > 1 && session.state.position > 0 {
                session.state.cache.keep();
            }
        }
        while *done < total && !stop() {
            *done += pass(sessions, tokens, *done, chunk, s, m, each)?;
        }
        for (session, _) in sessions.iter_mut().zip(tokens).filter(|(_, tokens)| tokens.len() > 1) {
            session.state.cache.keep();
        }
        Ok(())
    };
    let result = run(&mut done);
    if result.is_err() {
        let mut left = done;
        for (session, tokens) in sessions.iter_mut().zip(tokens) {
            let read = left.min(tokens.len());
            left -= read;
            if !tokens.is_empty() {
                session.go_back(session.state.position - read);
            }
        }
    }
    result.map(|()| done)
}

/// Rows before the text, which adapters write: their keys and values are all that the text sees of them.
fn lead(session: &mut Session, s: &mut Scratch, m: &Model) -> Result<()> {
    let lead = session.state.stack.needs().rows;
    if lead == 0 || session.state.position > 0 {
        return Ok(());
    }
    session.state.cache.own(0..lead)?;
    s.rows.clear();
    s.rows.push(0..lead);
    s.rows.lead = lead;
    s.tokens.clear();
    s.tokens.resize(lead, 0);
    s.owners.clear();
    s.owners.push(0);
    through(&mut [session], s, m);
    s.rows.lead = 0;
    Ok(())
}

/// One pass: the next rows, `chunk` at most, after the `done` tokens that were read. How many these are.
fn pass(
    sessions: &mut [&mut Session],
    tokens: &[&[u32]],
    done: usize,
    chunk: usize,
    s: &mut Scratch,
    m: &Model,
    each: &mut Option<&mut Each>,
) -> Result<usize> {
    s.start();
    let mut skip = done;
    for (i, tokens) in tokens.iter().enumerate() {
        let from = skip.min(tokens.len());
        skip -= from;
        let (first, n) = (s.tokens.len(), (tokens.len() - from).min(chunk - s.tokens.len()));
        if n == 0 {
            continue;
        }
        let state = &mut sessions[i].state;
        let at = state.position + state.stack.needs().rows;
        state.cache.own(at..at + n)?;
        s.rows.push(at..at + n);
        s.owners.push(i);
        s.tokens.extend_from_slice(&tokens[from..from + n]);
        push_stack(&mut s.stacks, first..first + n, &state.stack);
        let ends = from + n == tokens.len();
        let wanted = if each.is_some() { 0..n } else { n - usize::from(ends)..n };
        let end = s.wanted.len();
        push_stack(&mut s.end_stacks, end..end + wanted.len(), &state.stack);
        s.ends.push(at + wanted.start..at + wanted.end);
        s.wanted.extend(wanted.map(|j| (first + j, i, ends && j + 1 == n)));
    }
    let n = s.tokens.len();
    through(sessions, s, m);
    logits(sessions, s, m, &mut |i, logits| {
        if let Some(each) = each {
            each(done + i, logits);
        }
    })?;
    for (segment, &i) in s.rows.segments.iter().zip(&s.owners) {
        sessions[i].state.position += segment.len();
    }
    Ok(n)
}

/// Takes the rows of `s` through the blocks; `s.x` is what comes out.
fn through(sessions: &mut [&mut Session], s: &mut Scratch, m: &Model) {
    s.rows.rotate(m);
    let (precision, stack) = (sessions[0].state.config.precision, sessions[0].state.stack.clone());
    let Scratch { rows, tokens, owners, stacks, x, acts, state, work, .. } = s;
    let p = over(sessions.len(), m, &stack, stacks, precision, rows);
    let x = x.room(tokens.len() * m.hparams.width);
    pass::embed(&p, tokens, x, work);
    let mut caches = SessionCaches { sessions, owners };
    pass::blocks(&p, 0..m.hparams.layers, Some(&mut caches), x, acts, state, work, &mut |_, _, _, _| ());
    for (i, segment) in rows.segments.iter().enumerate() {
        caches.cache_mut(i).carry(segment.len());
    }
}

/// The logits of the rows of `s` that are wanted; those after a session's last token become its own.
fn logits(sessions: &mut [&mut Session], s: &mut Scratch, m: &Model, each: &mut Each) -> Result<()> {
    let (d, vocab, count) = (m.hparams.width, m.weights.vocab(), s.wanted.len());
    let (precision, stack) = (sessions[0].state.config.precision, sessions[0].state.stack.clone());
    let Scratch { ends, wanted, end_stacks, x, last, normed, work, head, logits, .. } = s;
    let last = last.room(count * d);
    for (to, (row, ..)) in last.chunks_exact_mut(d).zip(&*wanted) {
        to.copy_from_slice(&x[row * d..(row + 1) * d]);
    }
    let p = over(sessions.len(), m, &stack, end_stacks, precision, ends);
    let normed = normed.room(count * d);
    pass::finish(&p, View::new(last, count, d), normed, None, work);
    for first in (0..count).step_by(HEAD_ROWS) {
        let rows = HEAD_ROWS.min(count - first);
        logits.resize(rows * vocab, 0.0);
        pass::logits(&p, View::new(&normed[first * d..], rows, d), logits, head);
        for (r, row) in logits.chunks_exact_mut(vocab).enumerate() {
            if let Some(id) = row.iter().position(|v| !v.is_finite()) {
                return Err(not_finite(m, id, row[id]));
            }
            m.hparams.finish.apply(&m.compute, row);
            each(first + r, row);
        }
        for r in 0..rows {
            let (_, i, ends) = wanted[first + r];
            let state = &mut sessions[i].state;
            state.known |= ends;
            match (ends, rows) {
                (false, _) => {}
                // Nothing is copied where a session decodes alone.
                (true, 1) => core::mem::swap(&mut state.logits, logits),
                (true, _) => {
                    state.logits.clear();
                    state.logits.extend_from_slice(&logits[r * vocab..(r + 1) * vocab]);
                }
            }
        }
    }
    Ok(())
}

/// A pass of one session's rows, or of those of several.
fn over<'a>(
    sessions: usize,
    model: &'a Model,
    stack: &'a Stack,
    stacks: &'a [RowStack],
    precision: Precision,
    rows: &'a Rows,
) -> Pass<'a> {
    match sessions {
        1 => Pass::new(model, stack, precision, rows),
        _ => Pass::together(model, stacks, precision, rows),
    }
}

/// Adds rows to those that adapters change: to the ones before, if these have the same adapters.
fn push_stack(stacks: &mut Vec<RowStack>, rows: Range<usize>, stack: &Arc<Stack>) {
    match stacks.last_mut() {
        Some((before, other)) if Arc::ptr_eq(other, stack) => before.end = rows.end,
        _ if rows.is_empty() => {}
        _ => stacks.push((rows, stack.clone())),
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
