//! Adapters: small trained changes of the linear layers of a frozen model.
//!
//! [`Adapter`] is what a kind of adapter must do, [`KINDS`] lists them. An adapter knows where it attaches ([`Site`])
//! and what it attaches to ([`Base`], by which a model describes itself); it knows nothing of layers around it.
//! `lowrank.rs` is the algebra the kinds share, `file.rs` the way to and from our container, `peft.rs` and
//! `gguf_adapter.rs` read what other programs trained.
//!
//! # Laws
//! Tested for every row of [`KINDS`]: a fresh adapter adds exactly zero; `backward` agrees with finite differences;
//! `bake_row` gives the weights whose product is what `forward` adds; saved and loaded is equal, and saved again is the
//! same bytes; another base is refused; neither threads nor tiling change a bit.

pub mod basis;
pub mod file;
pub mod gguf_adapter;
mod json;
pub mod lora;
pub mod lowrank;
pub mod nola;
pub mod peft;
pub mod safetensors;
mod site;
pub mod spec;

pub use file::{Fit, Info, Provenance, from_bytes, from_bytes_for_shapes, info, restore, to_bytes, to_bytes_as};
pub use site::{Linear, Site, parse_layers, parse_targets};
pub use spec::Spec;

use crate::container::head::Head;
use crate::error::{Error, Result, printable};
use crate::kernel::{Buffer, Compute, Tile, View};
use crate::knob::{Usual, Values};
use core::ops::Range;
use lowrank::Layout;
use std::prelude::v1::*;

/// Largest rank.
pub const MAX_RANK: usize = 1024;

/// A change of the linear layers of a frozen model. `y` and `dy` are rows of a layer's output, `x` and `dx` of its input.
///
/// After any change of the parameters, [`Adapter::prepare`] must run before the adapter is used; the functions
/// that compute panic if it never ran.
pub trait Adapter: Send + Sync {
    /// The name of its row in [`KINDS`].
    fn kind(&self) -> &'static str;

    /// What is trained, in one piece.
    fn params(&self) -> &[f32];

    /// The same, to change.
    fn params_mut(&mut self) -> &mut [f32];

    /// What the parameters are, end to end.
    fn parts(&self) -> Vec<Part>;

    /// Brings what is derived from the parameters up to date.
    fn prepare(&mut self, cx: &Compute);

    /// Where it attaches, with shapes and ranks.
    fn layout(&self) -> &Layout;

    /// For its strength, [`Layout::scale`].
    fn layout_mut(&mut self) -> &mut Layout;

    /// Whether it changes that layer.
    fn covers(&self, site: Site) -> bool {
        self.layout().slot(site).is_some()
    }

    /// The factors of a low-rank change: A `[rank, in]`, Bᵀ `[rank, out]`, and the factor `s` of `ΔW = s·B·A`.
    fn factors(&self, site: Site) -> Option<(View<'_>, View<'_>, f32)>;

    /// `y += ΔW·x` for a covered site; nothing for others. x: `[N, in]`, y: `[N, out]`, added to.
    /// `scratch` grows once and may be shared by all calls.
    fn forward(&self, cx: &Compute, site: Site, x: View, y: &mut Tile, scratch: &mut Buffer);

    /// Length of the buffer that `backward` adds into.
    fn grad_len(&self) -> usize;

    /// Adds `ΔWᵀ·dy` into `dx` if it is wanted, and what the parameters' gradients are made of into `acc`, a buffer of
    /// [`Adapter::grad_len`] values that starts as zeros. x: `[N, in]`, dy: `[N, out]`, dx: `[N, in]`.
    fn backward(
        &self,
        cx: &Compute,
        site: Site,
        x: View,
        dy: View,
        dx: Option<&mut Tile>,
        acc: &mut [f32],
        scratch: &mut Buffer,
    );

    /// What it holds, in values.
    fn size(&self) -> Size;

    /// The gradients of the parameters from what `backward` gathered: once a step. `grads` is overwritten.
    fn reduce(&self, cx: &Compute, acc: &[f32], grads: &mut [f32]);

    /// `w += ` row `row` of `ΔW`. w: `[in]`.
    fn bake_row(&self, site: Site, row: usize, w: &mut [f32]);

    /// Whether it would change any output at all.
    fn changes_something(&self) -> bool;

    /// Adds what a file must say beyond parameters and layout.
    fn describe(&self, head: &mut Head);

    /// Sections of a file beyond parameters and layout.
    fn sections(&self) -> Vec<(&'static str, Vec<u8>)>;
}

/// A part of a flat slice of parameters, a matrix by rows; a vector is one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where it lies.
    pub range: Range<usize>,
    /// Values of a row.
    pub cols: usize,
    /// Whether it makes the B of a low-rank change `s·B·A`: what begins at zero.
    pub of_b: bool,
}

impl Part {
    /// Rows.
    pub fn rows(&self) -> usize {
        self.range.len() / self.cols.max(1)
    }
}

/// How much an adapter holds while it is trained, in values of `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// What is trained.
    pub params: usize,
    /// What is derived from it, or came with it.
    pub derived: usize,
    /// [`Adapter::grad_len`]; 0 if what `backward` adds up are the gradients themselves, and `reduce` a copy.
    pub gathered: usize,
    /// What each thread needs to derive and to reduce.
    pub scratch: usize,
}

/// What a model tells of itself to adapters.
#[derive(Clone, Debug)]
pub struct Base {
    /// The architecture's name, as GGUF files spell it.
    pub architecture: String,
    /// Input and output width of the linear layers of each block, in the order of [`Linear::ALL`]; `None` where there is
    /// none.
    pub shapes: Vec<[Option<[usize; 2]>; Linear::COUNT]>,
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Whether rows of q and k come in neighbouring pairs (the NORM layout of GGUF files for llama-like architectures),
    /// so that rows from Hugging Face files, which pair halves, must be reordered.
    pub paired_rows: bool,
    /// Identity of the weights.
    pub fingerprint: [u8; 32],
    /// Identity of the tokenizer.
    pub tokenizer: [u8; 32],
}

impl Base {
    /// Blocks.
    pub fn layers(&self) -> usize {
        self.shapes.len()
    }

    /// Input and output width of a layer.
    ///
    /// # Errors
    /// `Mismatch` if there is no such layer.
    pub fn shape(&self, site: Site) -> Result<[usize; 2]> {
        let found = self.shapes.get(site.layer).and_then(|block| block[site.linear as usize]);
        found.ok_or_else(|| {
            let base = format!("{} with {} blocks", printable(&self.architecture), self.layers());
            Error::mismatch(format!("base of {site}"), "a model with this layer", base)
        })
    }

    /// The head width by which rows of this layer are paired, if they are: those of q and k where
    /// [`Base::paired_rows`].
    pub fn paired(&self, site: Site) -> Option<usize> {
        let heads = match site.linear {
            Linear::Q => self.heads,
            Linear::K => self.kv_heads,
            _ => return None,
        };
        let [_, n_out] = self.shape(site).ok()?;
        n_out.checked_div(heads).filter(|width| self.paired_rows && width % 2 == 0)
    }

    /// All linear layers there are.
    pub fn sites(&self) -> impl Iterator<Item = Site> + '_ {
        (0..self.layers() * Linear::COUNT).map(Site::at).filter(|s| self.shapes[s.layer][s.linear as usize].is_some())
    }
}

/// Where a row of a Hugging Face matrix stands in a GGUF file, for heads of `width` rows: Hugging Face pairs row `j` of a
/// head with row `j + width/2`, GGUF's NORM layout has the two side by side.
pub fn gguf_row(row: usize, width: usize) -> usize {
    let (head, within) = (row / width * width, row % width);
    let (half, j) = (within / (width / 2), within % (width / 2));
    head + 2 * j + half
}

/// One row of [`KINDS`].
pub struct Kind {
    /// As files and people call it.
    pub name: &'static str,
    /// What it is, in a few words.
    pub about: &'static str,
    /// The highest learning rate that suits it, where nothing is said.
    pub rate: f32,
    /// What can be set, with the usual values.
    pub knobs: &'static [Usual],
    /// What a fresh one with such settings, [`Spec::values`], would hold at such a layout.
    pub size: fn(&Values, &Layout) -> Size,
    /// The parameters of such a one.
    pub parts: fn(&Values, &Layout) -> Vec<Part>,
    /// A fresh one.
    pub create: fn(&Spec, &Base) -> Result<Box<dyn Adapter>>,
    /// One from a file.
    pub read: fn(file::Stored) -> Result<Box<dyn Adapter>>,
    /// Names of its [`Adapter::sections`].
    pub sections: &'static [&'static str],
}

/// Every kind of adapter.
pub static KINDS: &[Kind] = &[
    Kind {
        name: "lora",
        about: "kilobytes to megabytes, learns fast",
        rate: 5e-4,
        knobs: &spec::LOW_RANK,
        size: |_, layout| lora::size(layout),
        parts: |_, layout| lora::parts(layout),
        create: |spec, base| Ok(Box::new(lora::Lora::create(spec, base)?)),
        read: |stored| Ok(Box::new(lora::Lora::read(stored)?)),
        sections: &[],
    },
    Kind {
        name: "nola",
        about: "coefficients of random bases, the smallest files",
        rate: 5e-3,
        knobs: &nola::KNOBS,
        size: nola::size,
        parts: |values, layout| nola::parts(nola::bases(values), layout),
        create: |spec, base| Ok(Box::new(nola::Nola::create(spec, base)?)),
        read: |stored| Ok(Box::new(nola::Nola::read(stored)?)),
        sections: &["seeds", "start"],
    },
];

impl Kind {
    /// # Errors
    /// `Unsupported` if this build does not know it.
    pub fn by_name(name: &str) -> Result<&'static Kind> {
        KINDS.iter().find(|k| k.name == name).ok_or_else(|| Error::unsupported("adapter kind", name))
    }
}

/// A fresh adapter: it changes nothing until it is trained.
///
/// # Errors
/// `Unsupported` for an unknown kind; those of [`Spec::layout`].
pub fn create(spec: &Spec, base: &Base) -> Result<Box<dyn Adapter>> {
    (Kind::by_name(&spec.kind)?.create)(spec, base)
}
