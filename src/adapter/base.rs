//! The description of a model that adapters see.

use super::place::{Place, Site};
use crate::error::{Error, Result, printable};
use crate::nn::attention::Heads;
use crate::nn::rope::Rope;
use crate::quant::Matrix;
use crate::role::{Role, TensorKind};
use core::fmt;
use core::ops::{Index, IndexMut};
use std::prelude::v1::*;
use std::sync::Arc;

/// The frozen weights behind a [`Base`], for kinds that derive something from them.
pub trait Frozen: Send + Sync {
    /// Looks whether the model's files are what they were when it was described. Whoever writes what is bound to the model
    /// asks.
    ///
    /// # Errors
    /// `Altered` naming the file.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// The digest of the whole file that holds them.
    fn file(&self) -> Option<[u8; 32]> {
        None
    }

    /// The matrix of a site; if several are stored as one tensor, its rows of this.
    fn matrix(&self, site: Site) -> Option<Matrix>;

    /// The bias that is added to the product of a site, `[out]`, if there is one.
    fn bias(&self, _site: Site) -> Option<&[f32]> {
        None
    }

    /// The token embeddings, or with `head` the output matrix, which may be the same, `[V, width]`.
    fn vocabulary(&self, _head: bool) -> Option<Matrix> {
        None
    }

    /// The heads of a block.
    fn heads(&self, layer: usize) -> Option<Heads>;

    /// The rotary embedding of a block, if it has one.
    fn rope(&self, layer: usize) -> Option<&Rope>;
}

/// The input and output widths of the tensors of a block, as far as they exist.
#[derive(Clone, Debug, PartialEq)]
pub struct Shapes {
    roles: [Option<[usize; 2]>; Role::COUNT],
    /// The block's heads.
    pub heads: Heads,
}

impl Shapes {
    /// No tensors.
    pub fn new(heads: Heads) -> Shapes {
        Shapes { roles: [None; Role::COUNT], heads }
    }

    /// These with another tensor.
    pub fn with(mut self, role: Role, shape: [usize; 2]) -> Shapes {
        self[role] = Some(shape);
        self
    }
}

impl Index<Role> for Shapes {
    type Output = Option<[usize; 2]>;

    fn index(&self, role: Role) -> &Self::Output {
        &self.roles[role as usize]
    }
}

impl IndexMut<Role> for Shapes {
    fn index_mut(&mut self, role: Role) -> &mut Self::Output {
        &mut self.roles[role as usize]
    }
}

/// The description of a model that adapters see.
#[derive(Clone)]
pub struct Base {
    /// What people call the model: `SmolLM2 135M Instruct`.
    pub name: String,
    /// How most of it is stored, in a word: `Q4_0`.
    pub format: String,
    /// The architecture's name in GGUF files.
    pub architecture: String,
    /// Width of the residual stream.
    pub width: usize,
    /// The tensors of each block.
    pub shapes: Vec<Shapes>,
    /// Paths of matrices in Hugging Face blocks, where they are not the usual ones.
    pub hf: &'static [(&'static str, Role)],
    /// The path of the list of blocks in Hugging Face models: `model.layers`.
    pub hf_blocks: &'static str,
    /// Names of tensors in GGUF files that have another role than the table of roles says.
    pub bind: &'static [(&'static str, Role)],
    /// Whether rows of q and k come in neighbouring pairs (the NORM layout of GGUF files for llama-like architectures),
    /// so that rows of Hugging Face files, which pair the halves of a head, must be reordered.
    pub paired_rows: bool,
    /// Identity of the weights: the digest of the tensors, which does not depend on the file that they lie in.
    pub content: [u8; 32],
    /// Identity of the tokenizer.
    pub tokenizer: [u8; 32],
    /// The weights themselves, if they are available.
    pub frozen: Option<Arc<dyn Frozen>>,
}

impl fmt::Debug for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Base({} with {} blocks)", printable(&self.architecture), self.layers())
    }
}

/// A model's name and format for eyes: `SmolLM2 135M Instruct, Q4_0`.
pub(super) fn title(name: &str, format: &str) -> String {
    let words = [name, format].map(printable);
    words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(", ")
}

impl Base {
    /// Its name and format, for eyes: `SmolLM2 135M Instruct, Q4_0`.
    pub fn title(&self) -> String {
        title(&self.name, &self.format)
    }

    /// Number of blocks.
    pub fn layers(&self) -> usize {
        self.shapes.len()
    }

    /// The digest of the whole file, to which files are bound that depend on more than the weights. Where no file is at hand
    /// it is that of the content. The first call may read the file.
    pub fn file(&self) -> [u8; 32] {
        self.frozen.as_ref().and_then(|frozen| frozen.file()).unwrap_or(self.content)
    }

    /// The path of a matrix in a Hugging Face block: `self_attn.q_proj`.
    pub fn hf(&self, role: Role) -> &'static str {
        let own = self.hf.iter().find(|(_, r)| *r == role);
        own.map_or(role.hf(), |(path, _)| path)
    }

    /// The path of a site in a Hugging Face model: `model.layers.3.self_attn.q_proj`.
    pub fn module(&self, site: Site) -> String {
        format!("{}.{}.{}", self.hf_blocks, site.layer, self.hf(site.role))
    }

    /// The name of a site's weight in a GGUF file of this model.
    pub fn gguf(&self, site: Site) -> String {
        let bound = self.bind.iter().find(|(_, role)| *role == site.role).map(|(name, _)| *name);
        format!("blk.{}.{}.weight", site.layer, bound.unwrap_or(site.role.gguf()))
    }

    /// The site with this weight name in a GGUF file of this model.
    pub fn by_gguf(&self, name: &str) -> Option<Site> {
        let (layer, rest) = name.strip_prefix("blk.")?.strip_suffix(".weight")?.split_once('.')?;
        let bound = self.bind.iter().find(|(name, role)| *name == rest && role.row().kind == TensorKind::Matrix);
        match bound {
            Some((_, role)) => Some(Site { layer: super::place::number(layer)?, role: *role }),
            None => Site::by_gguf(name),
        }
    }

    /// Input and output width of a tensor.
    ///
    /// # Errors
    /// `Mismatch` if there is no such tensor.
    pub fn shape(&self, site: Site) -> Result<[usize; 2]> {
        let found = self.shapes.get(site.layer).and_then(|block| block[site.role]);
        found.ok_or_else(|| {
            let base = format!("{} with {} blocks", printable(&self.architecture), self.layers());
            Error::mismatch(format!("base of {site}"), "a model with this layer", base)
        })
    }

    /// Widths of `x` and `y` at a place. An adapter chooses the width of its state; here it is 1.
    ///
    /// # Errors
    /// `Mismatch` if there is no such place.
    pub fn place(&self, place: Place) -> Result<[usize; 2]> {
        let block = |layer: usize| {
            let base = || format!("{} with {} blocks", printable(&self.architecture), self.layers());
            self.shapes.get(layer).ok_or_else(|| Error::mismatch(format!("base of {place}"), "this block", base()))
        };
        Ok(match place {
            Place::Site(site) => self.shape(site)?,
            Place::Input(site) => {
                if site.role.row().kind != TensorKind::Matrix {
                    return Err(Error::unsupported("adapter target", place.to_string()));
                }
                let [n_in, _] = self.shape(site)?;
                let held = site.role.fused().filter(|(whole, _)| self.shapes[site.layer][*whole].is_some());
                if let Some((whole, _)) = held {
                    let found = format!("rows of {}, which share its input", whole.gguf());
                    return Err(Error::mismatch(format!("base of {place}"), "a product of its own", found));
                }
                [n_in; 2]
            }
            Place::Attention(layer) => match block(layer)?.heads {
                Heads { q: 0, .. } => {
                    return Err(Error::mismatch(format!("base of {place}"), "attention", "a block without"));
                }
                heads => [heads.q * heads.dim; 2],
            },
            Place::Stream(layer, _) => block(layer).map(|_| [self.width; 2])?,
            Place::State(layer) => block(layer).map(|_| [self.width, 1])?,
            Place::Join => [1, self.width],
            Place::Rows | Place::Embedding | Place::Final => [self.width; 2],
        })
    }

    /// The frozen matrix of a site.
    ///
    /// # Errors
    /// `Unsupported` if the weights are not available; `Mismatch` if there is no such matrix.
    pub fn matrix(&self, site: Site) -> Result<Matrix> {
        self.shape(site)?;
        let frozen = self.frozen.as_ref().ok_or_else(|| Error::unsupported("base", "one without its weights"))?;
        frozen.matrix(site).ok_or_else(|| Error::mismatch(format!("{site}"), "a matrix", "none"))
    }

    /// The head width within which the rows of this layer are paired, if they are: for q and k if [`Base::paired_rows`].
    pub fn paired(&self, site: Site) -> Option<usize> {
        let heads = &self.shapes.get(site.layer)?.heads;
        let heads = match site.role {
            Role::Q => heads.q,
            Role::K => heads.kv,
            _ => return None,
        };
        let [_, n_out] = self.shape(site).ok()?;
        n_out.checked_div(heads).filter(|width| self.paired_rows && width % 2 == 0)
    }

    /// The row of a GGUF file's matrix that a row of the Hugging Face matrix is; of several in one tensor, within each.
    pub fn row(&self, site: Site, row: usize) -> usize {
        let (mut start, mut within) = (0, row);
        for role in site.role.row().holds {
            let part = Site { role: *role, ..site };
            let rows = self.shape(part).map_or(0, |[_, rows]| rows);
            if within < rows {
                return start + self.row(part, within);
            }
            (start, within) = (start + rows, within - rows);
        }
        self.paired(site).map_or(row, |width| gguf_row(row, width))
    }

    /// All matrices, block by block.
    pub fn sites(&self) -> impl Iterator<Item = Site> + '_ {
        let block = |layer| Role::matrices().map(move |role| Site { layer, role });
        (0..self.layers()).flat_map(block).filter(|s| self.shapes[s.layer][s.role].is_some())
    }

    /// All norms, block by block.
    pub fn norms(&self) -> impl Iterator<Item = Site> + '_ {
        let block =
            |layer| Role::all().filter(|r| r.row().kind == TensorKind::Gain).map(move |role| Site { layer, role });
        (0..self.layers()).flat_map(block).filter(|s| self.shapes[s.layer][s.role].is_some())
    }
}

/// The index in a GGUF file of a row of a Hugging Face matrix, for heads of `width` rows. Hugging Face pairs row `j` of
/// a head with row `j + width/2`; in GGUF's NORM layout these two are neighbours.
pub fn gguf_row(row: usize, width: usize) -> usize {
    let (head, within) = (row / width * width, row % width);
    let (half, j) = (within / (width / 2), within % (width / 2));
    head + 2 * j + half
}
