//! Keys and values of the positions so far, in pages that sessions may share.
//!
//! A page is written by the one session that owns it. A fork shares the pages of its prefix; whoever writes to a shared
//! page first takes a copy of it.

use super::HParams;
use crate::error::{Error, Result};
use crate::kernel::{CODES, Kernels, Stored, View};
use crate::nn::attention::{Head, Heads, Memory, Pages, Side};
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

    /// Bytes of the keys and values of one position, all layers together.
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
    fn new(kind: CacheType, layers: &[Layer], rows: usize) -> Result<Page> {
        let last = layers.last().map_or((0, 0), |l| (l.values + 2 * l.widths().0, l.scales + 2 * l.widths().1));
        let (values, scales) = (last.0.checked_mul(rows), last.1.checked_mul(rows));
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

/// Keys and values of all layers.
pub struct Cache {
    layers: Arc<[Layer]>,
    kind: CacheType,
    positions: usize,
    /// Those that are not there yet are made before they are written to.
    pages: Vec<Option<Arc<Page>>>,
}

impl Cache {
    /// All memory is taken here.
    ///
    /// # Errors
    /// `Memory` if the memory is not there.
    pub fn new(h: &HParams, kind: CacheType, positions: usize) -> Result<Cache> {
        let mut layers: Vec<Layer> = Vec::new();
        for l in &h.blocks {
            let (values, scales) =
                layers.last().map_or((0, 0), |l| (l.values + 2 * l.widths().0, l.scales + 2 * l.widths().1));
            layers.push(Layer { heads: l.heads, values, scales });
        }
        if positions > u32::MAX as usize {
            return Err(Error::limit("positions of the cache", positions as u64, u32::MAX as u64));
        }
        let mut cache = Cache { layers: layers.into(), kind, positions, pages: vec![None; positions.div_ceil(PAGE)] };
        cache.own(0..positions)?;
        Ok(cache)
    }

    /// A cache that shares the first `n` positions with this one. The memory of others is taken when they are written to.
    pub fn fork(&self, n: usize) -> Cache {
        let mut pages = self.pages.clone();
        pages.iter_mut().skip(n.div_ceil(PAGE)).for_each(|page| *page = None);
        Cache { layers: self.layers.clone(), kind: self.kind, positions: self.positions, pages }
    }

    /// Makes this cache the only owner of the pages of positions `range`, which are written to next: what it shares is
    /// copied.
    ///
    /// # Errors
    /// `Memory` if the memory is not there; no page has changed then.
    pub fn own(&mut self, range: Range<usize>) -> Result<()> {
        let (layers, kind, positions) = (self.layers.clone(), self.kind, self.positions);
        for p in range.start / PAGE..range.end.div_ceil(PAGE) {
            let page = &mut self.pages[p];
            if page.as_mut().is_some_and(|page| Arc::get_mut(page).is_some()) {
                continue;
            }
            match page {
                // There is something in it that stays.
                Some(page) if range.start > p * PAGE => {
                    let mut copy = Page::new(kind, &layers, page.rows)?;
                    copy.store.clone_from(&page.store);
                    *page = Arc::new(copy);
                }
                _ => *page = Some(Arc::new(Page::new(kind, &layers, PAGE.min(positions - p * PAGE))?)),
            }
        }
        Ok(())
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
        self.pages.iter().flatten().map(|page| page.bytes()).sum()
    }

    /// Bytes of the pages that no other cache shares.
    pub fn own_bytes(&self) -> usize {
        let own = self.pages.iter().flatten().filter(|page| Arc::strong_count(page) == 1);
        own.map(|page| page.bytes()).sum()
    }

    /// Writes rows `x` of keys and values of `layer` from position `at` on. The cache owns these positions.
    pub(super) fn write(&mut self, k: &Kernels, layer: usize, at: usize, keys: &[f32], values: &[f32]) {
        let l = self.layers[layer];
        let (width, mut done) = (l.widths().0, 0);
        let n = keys.len() / width.max(1);
        while done < n {
            let (page, row) = ((at + done) / PAGE, (at + done) % PAGE);
            let rows = (PAGE - row).min(n - done);
            let Some(page) = self.pages[page].as_mut().and_then(Arc::get_mut) else {
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
        let Some(page) = &self.pages[page] else { unreachable!("positions that were read are in the cache") };
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
