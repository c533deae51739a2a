//! Importance matrices: how much each column of a matrix matters, measured as the mean of the squares of what it is multiplied
//! with on a text. It is what llama.cpp's `imatrix` measures, of the same rows.
//!
//! What a matrix is multiplied with is what an adapter at its site would see, so that an adapter which changes nothing
//! measures it.

use crate::adapter::{
    Adapter, At, Attached, Base, Into, Kind, Needs, Place, Ready, Seen, Shape, Site, Size, Slot, Stack,
};
use crate::bytes::room;
use crate::container::head::Head;
use crate::error::{Error, Result, printable};
use crate::gguf::{Gguf, Tensor, Writer};
use crate::kernel::{Buffer, Tile, View};
use crate::model::{CacheType, Model, Session, SessionConfig};
use crate::nn::linear::Precision;
use std::collections::BTreeMap;
use std::prelude::v1::*;
use std::sync::{Arc, Mutex, PoisonError};

/// Tokens of a row of text.
pub const ROW: usize = 512;

/// The least number of tokens that say something.
const LEAST: usize = 16;

/// What was measured.
pub struct Importance {
    /// By the name of a tensor, a number a column.
    columns: BTreeMap<String, Vec<f32>>,
    /// What the text is called.
    text: String,
    rows: u32,
}

impl Importance {
    /// Measures a model on tokens, [`ROW`] at a time, each time from a new beginning, whose first token becomes `begin` if
    /// there is one. A last row that is not full is left out, unless it is the only one. `text`: what the text is called.
    /// `progress`: rows done, and all of them.
    ///
    /// # Errors
    /// `Invalid` for too few tokens; those of [`Session::new`] and of its passes.
    pub fn measure(
        model: &Model,
        base: &Base,
        gguf: &Gguf,
        tokens: &[u32],
        begin: Option<u32>,
        text: &str,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Importance> {
        if tokens.len() < LEAST {
            let why = format!("{} tokens; {LEAST} or more are needed, and some thousands are better", tokens.len());
            return Err(Error::invalid(format!("text {}", printable(text)), why));
        }
        let context = ROW.min(model.hparams.context);
        let (sites, names) = sites(base, gguf)?;
        let sums = Arc::new(Mutex::new(sites.iter().map(|(_, [n, _])| vec![0.0; *n]).collect::<Vec<Vec<f32>>>()));
        let observer = Observer::new(&sites, sums.clone());
        let mut stack = Stack::new();
        stack.push(Ready::new(Box::new(observer), &model.compute, model)?, 1.0)?;
        let config = SessionConfig { context, precision: Precision::F32, cache: CacheType::F32, chunk: 256 };
        let mut session = Session::new(model, config)?;
        for Attached { adapter, strength } in stack.all() {
            session.attach(adapter.clone(), *strength)?;
        }
        let whole: Vec<&[u32]> = tokens.chunks_exact(context).collect();
        let rows = if whole.is_empty() { vec![tokens] } else { whole };
        let mut seen = 0;
        for (i, row) in rows.iter().enumerate() {
            progress(i, rows.len());
            let mut row = row.to_vec();
            if let (Some(begin), Some(first)) = (begin, row.first_mut()) {
                *first = begin;
            }
            session.truncate(0);
            session.feed(&row)?;
            seen += row.len();
        }
        progress(rows.len(), rows.len());
        let sums = core::mem::take(&mut *sums.lock().unwrap_or_else(PoisonError::into_inner));
        let mut columns = BTreeMap::new();
        for (name, mut sums) in names.into_iter().zip(sums) {
            sums.iter_mut().for_each(|v| *v /= seen as f32);
            if !sums.iter().all(|v| v.is_finite()) {
                return Err(Error::invalid(
                    format!("text {}", printable(text)),
                    format!("what tensor `{}` is multiplied with is not finite", printable(&name)),
                ));
            }
            columns.insert(name, sums);
        }
        Ok(Importance { columns, text: text.into(), rows: rows.len() as u32 })
    }

    /// One from numbers that were measured elsewhere: by the name of a tensor, a number a column, or of a tensor of several
    /// matrices one a column of each.
    ///
    /// # Errors
    /// `Invalid` for numbers that are not finite, or negative.
    pub fn from_columns(columns: BTreeMap<String, Vec<f32>>, text: &str) -> Result<Importance> {
        match columns.iter().find(|(_, all)| !all.iter().all(|v| v.is_finite() && *v >= 0.0)) {
            Some((name, _)) => {
                Err(Error::invalid(format!("importance of `{}`", printable(name)), "a value is negative or not finite"))
            }
            None => Ok(Importance { columns, text: text.into(), rows: 0 }),
        }
    }

    /// The numbers, by the name of a tensor.
    pub fn columns(&self) -> &BTreeMap<String, Vec<f32>> {
        &self.columns
    }

    /// Those of a tensor.
    pub(super) fn of(&self, tensor: &Tensor) -> Result<Option<&[f32]>> {
        let Some(columns) = self.columns.get(&*tensor.name) else { return Ok(None) };
        let dims = tensor.dims();
        let wanted = dims.first().copied().unwrap_or(1) * dims.get(2).copied().unwrap_or(1);
        match columns.len() as u64 == wanted {
            true => Ok(Some(columns)),
            false => {
                let what = format!("importance of tensor `{}`, numbers", printable(&tensor.name));
                Err(Error::mismatch(what, wanted, columns.len()))
            }
        }
    }

    /// Says in a file that it was used, with llama.cpp's keys.
    pub(super) fn record(&self, head: &mut Writer) {
        head.set("quantize.imatrix.dataset", self.text.clone());
        head.set("quantize.imatrix.entries_count", self.columns.len() as u32);
        head.set("quantize.imatrix.chunks_count", self.rows);
    }
}

/// A site, with its widths.
type Sized = (Site, [usize; 2]);

/// The sites whose products are of a whole tensor each, and the names of these.
fn sites(base: &Base, gguf: &Gguf) -> Result<(Vec<Sized>, Vec<String>)> {
    let (mut sites, mut names) = (Vec::new(), Vec::new());
    for site in base.sites() {
        let matrix = base.matrix(site)?;
        let Some((tensor, 0)) = gguf.holder(matrix.data()) else { continue };
        // Of a tensor that several sites share the rows all have the same input; the site of all of them stands for it.
        if tensor.bytes == matrix.data().len() as u64 && !names.contains(&tensor.name.to_string()) {
            sites.push((site, [matrix.cols, matrix.rows]));
            names.push(tensor.name.to_string());
        }
    }
    room("what is measured", sites.iter().map(|(_, [n, _])| 4 * n).sum())?;
    Ok((sites, names))
}

/// An adapter that changes nothing, and adds up the squares of what it sees.
struct Observer {
    shape: Shape,
    sums: Arc<Mutex<Vec<Vec<f32>>>>,
}

impl Observer {
    fn new(sites: &[Sized], sums: Arc<Mutex<Vec<Vec<f32>>>>) -> Observer {
        let needs = Needs { input: true, ..Needs::default() };
        let slot = |(site, shape): &Sized| Slot { place: Place::Site(*site), shape: *shape, parts: 0..0, needs };
        let slots = sites.iter().map(slot).collect();
        Observer { shape: Shape { slots, parts: Vec::new(), size: Size::default(), needs }, sums }
    }
}

/// It is never in a file, so nothing makes or reads one.
static KIND: Kind = Kind {
    name: "observer",
    about: "",
    rate: 0.0,
    knobs: &[],
    targets: &[],
    shape: |_, _| Err(Error::unsupported("adapter kind", "observer")),
    create: |_, _| Err(Error::unsupported("adapter kind", "observer")),
    read: |_| Err(Error::unsupported("adapter kind", "observer")),
    sections: &[],
    grown: &[],
    codec: None,
    size: None,
};

impl Adapter for Observer {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn params(&self) -> &[f32] {
        &[]
    }

    fn params_mut(&mut self) -> &mut [f32] {
        &mut []
    }

    fn forward(&self, at: &At, x: View, _y: &mut Tile, _scratch: &mut Buffer) {
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sums) = sums.get_mut(at.slot) else { return };
        for i in 0..x.n {
            sums.iter_mut().zip(x.row(i)).for_each(|(sum, v)| *sum += v * v);
        }
    }

    fn backward(&self, _at: &At, _seen: &Seen, _dy: &mut [f32], _into: Into, _scratch: &mut Buffer) {}

    fn record(&self, _head: &mut Head) -> Vec<(&'static str, Vec<u8>)> {
        Vec::new()
    }
}
