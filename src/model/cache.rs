//! Keys and values of the positions so far, in pages that sessions may share.
//!
//! A page is written by the one session that owns it. A fork shares the pages of its prefix; whoever writes to a shared
//! page first takes a copy of it. Layers with a window have pages of their own: those that the window has passed are used
//! again for what comes.

use super::HParams;
use crate::error::{Error, Result};
use crate::kernel::{CODES, Kernels, Stored, View};
use crate::nn::attention::{Head, Heads, Memory, Pages, Sees, Side};
use core::ops::Range;
use std::prelude::v1::*;
use std::sync::Arc;

/// Positions of a page: few enough that the copy of one costs little, and enough that a head's rows in it are read in one
/// go.
pub const PAGE: usize = 256;

/// Precision of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheType {
    /// f16.
    F16,
    /// f32.
    F32,
    /// 8 bits, with an f16 scale for each 32 values of a head's row, or for what is left of it.
    Q8,
}

impl CacheType {
    /// Its name, that of ggml's type.
    pub fn name(self) -> &'static str {
        match self {
            CacheType::F16 => "f16",
            CacheType::F32 => "f32",
            CacheType::Q8 => "q8_0",
        }
    }

    /// Bytes of the keys and values of one position, all layers together. Layers with a window keep those of the window
    /// alone.
    pub fn bytes(self, h: &HParams) -> usize {
        let row = |dim: usize| match self {
            CacheType::F16 => 2 * dim,
            CacheType::F32 => 4 * dim,
            CacheType::Q8 => dim + 2 * dim.div_ceil(CODES),
        };
        h.blocks.iter().map(|l| 2 * l.heads.kv * row(l.heads.dim)).sum()
    }
}

/// The values of a page: of every layer the keys and then the values. Those of f16 and codes stand head by head, so that
/// what a head reads has no gaps: `[KV, rows, D]`. Those of f32 stand as they are computed: `[rows, KV·D]`.
#[derive(Clone)]
enum Store {
    F16(Vec<u16>),
    F32(Vec<f32>),
    Q8 { codes: Vec<i8>, scales: Vec<u16> },
}

/// What does not fit is refused; systems that can give the memory when it is first written to.
fn zeros<T: bytemuck::Zeroable>(len: Option<usize>) -> Result<Vec<T>> {
    let Some(len) = len.filter(|n| *n < isize::MAX as usize / 8) else {
        return Err(Error::limit("values of the cache", u64::MAX, isize::MAX as u64 / 8));
    };
    let bytes = (len * size_of::<T>()) as u64;
    bytemuck::allocation::try_zeroed_vec(len).map_err(|()| Error::memory("the key/value cache", bytes))
}

/// Where a layer stands in a page, for each row of the page.
#[derive(Clone, Copy)]
struct Layer {
    heads: Heads,
    /// Which group of pages it stands in.
    group: usize,
    /// Values before it, and scales.
    values: usize,
    scales: usize,
}

impl Layer {
    /// Values of its keys in a row, and scales.
    fn widths(&self) -> (usize, usize) {
        (self.heads.kv * self.heads.dim, self.heads.kv * self.heads.dim.div_ceil(CODES))
    }

    /// Where keys or values begin in a page of `rows`, and their scales.
    fn start(&self, side: Side, rows: usize) -> (usize, usize) {
        let (values, scales) = self.widths();
        let skip = usize::from(side == Side::Values);
        ((self.values + skip * values) * rows, (self.scales + skip * scales) * rows)
    }
}

/// Some positions of all layers.
#[derive(Clone)]
struct Page {
    store: Store,
    rows: usize,
}

impl Page {
    /// A page of rows of so many values and scales.
    fn new(kind: CacheType, (values, scales): (usize, usize), rows: usize) -> Result<Page> {
        let (values, scales) = (values.checked_mul(rows), scales.checked_mul(rows));
        let store = match kind {
            CacheType::F16 => Store::F16(zeros(values)?),
            CacheType::F32 => Store::F32(zeros(values)?),
            CacheType::Q8 => Store::Q8 { codes: zeros(values)?, scales: zeros(scales)? },
        };
        Ok(Page { store, rows })
    }

    fn bytes(&self) -> usize {
        match &self.store {
            Store::F16(v) => size_of_val(&v[..]),
            Store::F32(v) => size_of_val(&v[..]),
            Store::Q8 { codes, scales } => size_of_val(&codes[..]) + size_of_val(&scales[..]),
        }
    }

    /// x: `[n, KV·D]`, for rows from `at` on.
    fn write(&mut self, k: &Kernels, layer: &Layer, side: Side, at: usize, x: &[f32]) {
        let ((start, scale_start), rows) = (layer.start(side, self.rows), self.rows);
        let (d, kv) = (layer.heads.dim, layer.heads.kv);
        if let Store::F32(v) = &mut self.store {
            v[start + at * kv * d..][..x.len()].copy_from_slice(x);
            return;
        }
        for (i, x) in x.chunks_exact(kv * d).enumerate() {
            for (h, x) in x.chunks_exact(d).enumerate() {
                let row = h * rows + at + i;
                match &mut self.store {
                    Store::F16(v) => (k.narrow)(x, &mut v[start + row * d..][..d]),
                    Store::Q8 { codes, scales } => {
                        let per = d.div_ceil(CODES);
                        let scales = &mut scales[scale_start + row * per..][..per];
                        (k.code)(x, &mut codes[start + row * d..][..d], scales);
                    }
                    Store::F32(_) => unreachable!("written above"),
                }
            }
        }
    }
}

/// Pages of layers that see equally far back.
struct Group {
    /// How many positions back a layer sees, its own among them, if not all.
    window: Option<usize>,
    /// Values and scales of a row of all its layers.
    widths: (usize, usize),
    /// Those that are not there yet are made before they are written to.
    pages: Vec<Option<Arc<Page>>>,
    /// Pages that the window has passed, to be used again.
    spare: Vec<Page>,
}

impl Group {
    /// The first position that must stay in the cache while position `at` is read, and be there for going back some
    /// positions: a page more than the window.
    fn oldest(&self, at: usize) -> usize {
        self.window.map_or(0, |window| (at + 1).saturating_sub(window + PAGE))
    }

    /// Takes pages out that `keep` does not hold; those that nobody else has become spare ones.
    fn retire(&mut self, keep: &Range<usize>) {
        for (_, page) in self.pages.iter_mut().enumerate().filter(|(p, _)| !keep.contains(p)) {
            self.spare.extend(page.take().and_then(Arc::into_inner));
        }
    }

    /// A page of so many rows, made or used again.
    fn page(&mut self, kind: CacheType, rows: usize) -> Result<Page> {
        match self.spare.iter().position(|page| page.rows >= rows) {
            Some(i) => Ok(self.spare.swap_remove(i)),
            None => Page::new(kind, self.widths, rows),
        }
    }

    /// See [`Cache::own`].
    fn own(&mut self, kind: CacheType, positions: usize, range: &Range<usize>) -> Result<()> {
        let written = range.start / PAGE..range.end.div_ceil(PAGE);
        if self.window.is_some() {
            self.retire(&(self.oldest(range.start) / PAGE..written.end));
        }
        for p in written {
            if self.pages[p].as_mut().is_some_and(|page| Arc::get_mut(page).is_some()) {
                continue;
            }
            let shared = self.pages[p].take();
            let rows = PAGE.min(positions - p * PAGE);
            let result = self.page(kind, rows);
            // There is something in it that stays.
            let kept = shared.as_ref().filter(|_| range.start > p * PAGE);
            match (result, kept) {
                (Ok(mut page), Some(shared)) if page.rows == shared.rows => {
                    page.store.clone_from(&shared.store);
                    self.pages[p] = Some(Arc::new(page));
                }
                (Ok(_), Some(shared)) => self.pages[p] = Some(Arc::new(Page::clone(shared))),
                (Ok(page), None) => self.pages[p] = Some(Arc::new(page)),
                (Err(e), _) => {
                    self.pages[p] = shared;
                    return Err(e);
                }
            }
        }
        Ok(())
    }

    fn bytes(&self, of: impl Fn(&Arc<Page>) -> bool) -> usize {
        let pages = self.pages.iter().flatten().filter(|page| of(page)).map(|page| page.bytes());
        pages.chain(self.spare.iter().map(Page::bytes)).sum()
    }
}

/// Keys and values of all layers.
pub struct Cache {
    layers: Arc<[Layer]>,
    kind: CacheType,
    positions: usize,
    groups: Vec<Group>,
    /// What mixers other than attention carry along the text, if the model has such.
    carried: Option<Carried>,
}

/// The states of all layers after a text, which cannot be taken back row by row: some earlier ones are kept.
#[derive(Clone)]
struct Carried {
    /// The first value of each layer's state, and the number of values.
    starts: Arc<[usize]>,
    /// The states now.
    now: Arc<Vec<f32>>,
    /// Positions that were read. At 0 the values in `now` do not count.
    at: usize,
    /// States of fewer positions, with their number, oldest first.
    kept: Vec<(usize, Arc<Vec<f32>>)>,
}

/// Earlier states that are kept.
const KEPT: usize = 4;

impl Carried {
    fn new(h: &HParams) -> Result<Option<Carried>> {
        let mut starts = vec![0];
        for l in &h.blocks {
            starts.push(starts[starts.len() - 1] + l.state(h.width));
        }
        let len = starts[h.blocks.len()];
        let kept = Vec::with_capacity(KEPT);
        let made = || Ok(Carried { starts: starts.into(), now: Arc::new(zeros(Some(len))?), at: 0, kept });
        (len > 0).then(made).transpose()
    }

    /// Makes the states its own, since they are written to next.
    fn own(&mut self) -> Result<()> {
        match Arc::get_mut(&mut self.now) {
            Some(now) if self.at == 0 => now.fill(0.0),
            Some(_) => {}
            None => {
                let mut copy = zeros(Some(self.now.len()))?;
                if self.at > 0 {
                    copy.copy_from_slice(&self.now);
                }
                self.now = Arc::new(copy);
            }
        }
        Ok(())
    }

    /// Goes back to the latest states of at most `position` positions: of how many.
    fn back(&mut self, position: usize) -> usize {
        self.kept.retain(|(at, _)| *at <= position);
        if self.at > position {
            self.at = 0;
            if let Some((at, states)) = self.kept.last() {
                (self.at, self.now) = (*at, states.clone());
            }
        }
        self.at
    }

    fn keep(&mut self) {
        if self.at == 0 || self.kept.last().is_some_and(|(at, _)| *at == self.at) {
            return;
        }
        if self.kept.len() == KEPT {
            self.kept.remove(0);
        }
        self.kept.push((self.at, self.now.clone()));
    }
}

impl Cache {
    /// All memory is taken here, for passes of at most `chunk` rows.
    ///
    /// # Errors
    /// `Memory` if the memory is not there.
    pub fn new(h: &HParams, kind: CacheType, positions: usize, chunk: usize) -> Result<Cache> {
        let (mut layers, mut groups) = (Vec::new(), Vec::<Group>::new());
        if positions > u32::MAX as usize {
            return Err(Error::limit("positions of the cache", positions as u64, u32::MAX as u64));
        }
        for l in &h.blocks {
            // A window that the context does not fill is none.
            let window = match l.sees {
                Sees::Window(window) if window < positions => Some(window),
                _ => None,
            };
            let group = groups.iter().position(|g| g.window == window).unwrap_or(groups.len());
            if group == groups.len() {
                let pages = vec![None; positions.div_ceil(PAGE)];
                groups.push(Group { window, widths: (0, 0), pages, spare: Vec::new() });
            }
            let (values, scales) = groups[group].widths;
            let layer = Layer { heads: l.heads, group, values, scales };
            groups[group].widths = (values + 2 * layer.widths().0, scales + 2 * layer.widths().1);
            layers.push(layer);
        }
        for group in &mut groups {
            // The pages of a window, of those before it that are kept, and of the rows of a pass; each may be cut.
            let most = group.window.map_or(positions, |window| window + PAGE + chunk + 2 * PAGE);
            group.own(kind, positions, &(0..most.min(positions)))?;
        }
        Ok(Cache { layers: layers.into(), kind, positions, groups, carried: Carried::new(h)? })
    }

    /// A cache that shares the first `n` positions with this one. The memory of others is taken when they are written to.
    pub fn fork(&self, n: usize) -> Cache {
        let group = |group: &Group| {
            let mut pages = group.pages.clone();
            pages.iter_mut().skip(n.div_ceil(PAGE)).for_each(|page| *page = None);
            Group { pages, spare: Vec::new(), ..*group }
        };
        let groups = self.groups.iter().map(group).collect();
        let mut carried = self.carried.clone();
        carried.iter_mut().for_each(|carried| _ = carried.back(n));
        Cache { layers: self.layers.clone(), kind: self.kind, positions: self.positions, groups, carried }
    }

    /// Makes this cache the only owner of the pages of positions `range`, which are written to next: what it shares is
    /// copied. Pages that no window reaches from there any more are given up.
    ///
    /// # Errors
    /// `Memory` if the memory is not there; no position before `range` has changed then.
    pub fn own(&mut self, range: Range<usize>) -> Result<()> {
        self.carried.as_mut().map_or(Ok(()), Carried::own)?;
        let (kind, positions) = (self.kind, self.positions);
        self.groups.iter_mut().try_for_each(|group| group.own(kind, positions, &range))
    }

    /// Whether the row at `position` could be read next: all that it sees is still here.
    pub fn reaches(&self, position: usize) -> bool {
        self.groups.iter().all(|group| {
            let first = group.window.map_or(0, |window| (position + 1).saturating_sub(window));
            group.pages[first / PAGE..position.div_ceil(PAGE)].iter().all(|page| page.is_some())
        })
    }

    /// The state that the mixer of `layer` carries along the text, after [`Cache::own`].
    pub(super) fn state_mut(&mut self, layer: usize) -> &mut [f32] {
        let carried = self.carried.as_mut().expect("the states of a model that has some");
        let at = carried.starts[layer]..carried.starts[layer + 1];
        let Some(now) = Arc::get_mut(&mut carried.now) else { unreachable!("states are owned before a pass writes to them") };
        &mut now[at]
    }

    /// The states have gone `n` positions further.
    pub(super) fn carry(&mut self, n: usize) {
        self.carried.iter_mut().for_each(|carried| carried.at += n);
    }

    /// Keeps the states as they are, to go back to.
    pub(super) fn keep(&mut self) {
        self.carried.iter_mut().for_each(Carried::keep);
    }

    /// Goes back to `position`, or to the nearest one before it of which states are kept, if there are states: which it is. 0
    /// if what the row there sees is gone.
    pub(super) fn back(&mut self, position: usize) -> usize {
        let at = self.carried.as_mut().map_or(position, |carried| carried.back(position));
        let at = if self.reaches(at) { at } else { 0 };
        if at == 0 {
            self.carried.iter_mut().for_each(|carried| _ = carried.back(0));
        }
        at
    }

    /// Its precision.
    pub fn kind(&self) -> CacheType {
        self.kind
    }

    /// Positions there is room for.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Bytes of its pages.
    pub fn bytes(&self) -> usize {
        let states = self.states().map(|states| size_of_val(&states[..]));
        self.groups.iter().map(|group| group.bytes(|_| true)).chain(states).sum()
    }

    /// Bytes of the pages that no other cache shares.
    pub fn own_bytes(&self) -> usize {
        let states = self.states().filter(|states| Arc::strong_count(states) == 1);
        let states = states.map(|states| size_of_val(&states[..]));
        self.groups.iter().map(|group| group.bytes(|page| Arc::strong_count(page) == 1)).chain(states).sum()
    }

    /// The states now, and those that are kept of other positions.
    fn states(&self) -> impl Iterator<Item = &Arc<Vec<f32>>> {
        let now = self.carried.iter().map(|carried| &carried.now);
        let others = self.carried.iter().flat_map(|c| c.kept.iter().map(|(_, s)| s).filter(|s| !Arc::ptr_eq(s, &c.now)));
        now.chain(others)
    }

    /// Writes rows `x` of keys and values of `layer` from position `at` on. The cache owns these positions.
    pub(super) fn write(&mut self, k: &Kernels, layer: usize, at: usize, keys: &[f32], values: &[f32]) {
        let l = self.layers[layer];
        let (width, mut done) = (l.widths().0, 0);
        let n = keys.len() / width.max(1);
        while done < n {
            let (page, row) = ((at + done) / PAGE, (at + done) % PAGE);
            let rows = (PAGE - row).min(n - done);
            let Some(page) = self.groups[l.group].pages[page].as_mut().and_then(Arc::get_mut) else {
                unreachable!("pages are owned before a pass writes to them")
            };
            for (side, x) in [(Side::Keys, keys), (Side::Values, values)] {
                page.write(k, &l, side, row, &x[done * width..(done + rows) * width]);
            }
            done += rows;
        }
    }

    /// Keys and values of `layer`.
    pub(super) fn memory(&self, layer: usize) -> (Memory<'_>, Memory<'_>) {
        let side = |side| Memory::Cache { pages: self, layer, side };
        (side(Side::Keys), side(Side::Values))
    }
}

impl Pages for Cache {
    fn page_len(&self) -> usize {
        PAGE
    }

    fn rows(&self, layer: usize, side: Side, kv: usize, page: usize, range: Range<usize>) -> Head<'_> {
        let l = &self.layers[layer];
        let Some(page) = &self.groups[l.group].pages[page] else { unreachable!("positions that were read are in the cache") };
        let (d, rows) = (l.heads.dim, page.rows);
        let (start, scale_start) = l.start(side, rows);
        match &page.store {
            Store::F32(v) => {
                let width = l.widths().0;
                let rows = &v[start + range.start * width..start + range.end * width];
                Head::Rows(View::new(rows, range.len(), width).cols(kv * d..kv * d + d))
            }
            Store::F16(v) => {
                let first = start + kv * rows * d;
                Head::Stored(Stored::F16(&v[first + range.start * d..first + range.end * d]))
            }
            Store::Q8 { codes, scales } => {
                let (per, first) = (d.div_ceil(CODES), start + kv * rows * d);
                let scale_first = scale_start + kv * rows * d.div_ceil(CODES);
                Head::Stored(Stored::Q8 {
                    codes: &codes[first + range.start * d..first + range.end * d],
                    scales: &scales[scale_first + range.start * per..scale_first + range.end * per],
                })
            }
        }
    }
}
