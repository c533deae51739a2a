//! The tensors of a model. The file determines which tensors exist; everything here that visits tensors is a loop over
//! the table of roles.

pub use super::arch::Key;

use super::HParams;
use super::hparams::{HeadNorm, Layer, Mixer};
use crate::adapter::{Group, Part, Start};
use crate::bytes::{Bytes, zeros};
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::kernel::{Compute, Tile};
use crate::nn::experts::Experts;
use crate::nn::ffn::Act;
use crate::quant::{Format, Matrix};
use crate::role::{Role, Roles, Sizes, TensorKind};
use core::ops::Range;
use std::prelude::v1::*;
use std::sync::Arc;

/// A tensor.
#[derive(Clone)]
pub enum Tensor {
    /// A matrix, in the format of its file.
    Matrix(Matrix),
    /// A gain or a bias, decoded.
    Vector(Vec<f32>),
}

impl Tensor {
    /// Number of values, and columns of a row.
    fn dims(&self) -> (usize, usize) {
        match self {
            Tensor::Matrix(m) => (m.rows * m.cols, m.cols),
            Tensor::Vector(v) => (v.len(), v.len()),
        }
    }
}

/// The matrices of the experts of a block, as many of each as there are experts. They are frozen.
#[derive(Clone, Default)]
pub struct ExpertWeights {
    /// Gates.
    pub gate: Vec<Matrix>,
    /// What these multiply.
    pub up: Vec<Matrix>,
    /// Outputs.
    pub down: Vec<Matrix>,
}

impl ExpertWeights {
    /// Reads those of a block, of which `name` gives the names.
    fn read(gguf: &Gguf, name: &dyn Fn(Role) -> String, l: &Layer, sizes: &Sizes) -> Result<ExpertWeights> {
        let of = |role: Role| -> Result<Vec<Matrix>> {
            let ([cols, rows], name) = ((role.row().shape)(sizes), name(role));
            let all = gguf.matrices(&name)?;
            if all.rows != rows.saturating_mul(sizes.experts) || all.cols != cols {
                let want = format!("{} × {rows} × {cols}", sizes.experts);
                return Err(Error::mismatch(format!("shape of {name}"), want, format!("{} × {}", all.rows, all.cols)));
            }
            Ok((0..sizes.experts).map(|e| all.part(e * rows..(e + 1) * rows)).collect())
        };
        let down = of(Role::ExpertDown)?;
        if !l.has.has(Role::ExpertGateUp) {
            return Ok(ExpertWeights { gate: of(Role::ExpertGate)?, up: of(Role::ExpertUp)?, down });
        }
        let (both, ff) = (of(Role::ExpertGateUp)?, sizes.expert_ff);
        let part = |from: usize| both.iter().map(|m| m.part(from..from + ff)).collect();
        Ok(ExpertWeights { gate: part(0), up: part(ff), down })
    }

    /// As a pass takes them.
    pub fn of<'a>(&'a self, act: &'a Act) -> Experts<'a> {
        Experts { gate: &self.gate, up: &self.up, down: &self.down, act }
    }

    fn each_mut(&mut self) -> impl Iterator<Item = &mut Matrix> {
        self.gate.iter_mut().chain(&mut self.up).chain(&mut self.down)
    }
}

/// The tensors of one block.
#[derive(Clone)]
pub struct Block {
    tensors: [Option<Tensor>; Role::COUNT],
    /// Its experts, if it is a mixture.
    pub experts: Option<ExpertWeights>,
}

impl Default for Block {
    fn default() -> Block {
        Block { tensors: [const { None }; Role::COUNT], experts: None }
    }
}

impl Block {
    /// A matrix that is stored under this role.
    pub fn stored(&self, role: Role) -> Option<&Matrix> {
        match &self.tensors[role as usize] {
            Some(Tensor::Matrix(m)) => Some(m),
            _ => None,
        }
    }

    /// A gain or a bias, if there is one.
    pub fn vector(&self, role: Role) -> Option<&[f32]> {
        match &self.tensors[role as usize] {
            Some(Tensor::Vector(v)) => Some(v),
            _ => None,
        }
    }

    /// The gain of a norm that exists.
    ///
    /// # Panics
    /// If it does not exist. This was checked when the model was loaded.
    pub fn gain(&self, role: Role) -> &[f32] {
        self.vector(role).expect("a norm of every block")
    }

    /// The matrix of a role, or its rows of the tensor that holds it.
    pub fn matrix(&self, role: Role, h: &Layer, width: usize) -> Option<Matrix> {
        if let Some(m) = self.stored(role) {
            return Some(m.clone());
        }
        let (fused, rows) = held(role, h, width)?;
        Some(self.stored(fused)?.part(rows))
    }

    /// The bias of a role, or its part of that of the tensor that holds it. `[out]`
    pub fn bias(&self, role: Role, h: &Layer, width: usize) -> Option<&[f32]> {
        if let Some(bias) = role.bias().and_then(|bias| self.vector(bias)) {
            return Some(bias);
        }
        let (fused, rows) = held(role, h, width)?;
        Some(&self.vector(fused.bias()?)?[rows])
    }

    /// All its matrices: those of [`Block::matrices`], and one of each kind of the experts'.
    pub fn products(&self) -> impl Iterator<Item = &Matrix> {
        let experts = self.experts.iter().flat_map(|e| [&e.gate, &e.up, &e.down].into_iter().filter_map(|w| w.first()));
        self.matrices().map(|(_, m)| m).chain(experts)
    }

    /// The matrices that are stored, in the order of the table.
    pub fn matrices(&self) -> impl Iterator<Item = (Role, &Matrix)> {
        Role::matrices().filter_map(|role| Some((role, self.stored(role)?)))
    }
}

/// The tensor that may hold the rows of a role, and the range of these rows.
fn held(role: Role, h: &Layer, width: usize) -> Option<(Role, Range<usize>)> {
    let ((fused, at), sizes) = (role.fused()?, h.sizes(width));
    let rows = |role: &Role| (role.row().shape)(&sizes)[1];
    let first: usize = fused.row().holds[..at].iter().map(rows).sum();
    Some((fused, first..first + rows(&role)))
}

/// All tensors of a model.
#[derive(Clone)]
pub struct Weights {
    /// Token embeddings, `[V, width]`.
    pub embed: Matrix,
    /// The blocks, first to last.
    pub blocks: Vec<Block>,
    /// The output matrix, `[V, width]`; `None` if it is the embedding.
    pub output: Option<Matrix>,
    /// What is added to the embedding at each position, `[positions, width]`.
    pub positions: Option<Matrix>,
    /// What is added to every embedding, by the type of token: `[types, width]`, of which the first is used.
    pub types: Option<Matrix>,
    /// The norm of embeddings, if there is one.
    pub embed_norm: Option<NormWeights>,
    /// The last norm, if there is one.
    pub norm: Option<NormWeights>,
    /// Projections of pooled embeddings, in turn: `[out, in]`. They are never trained.
    pub projections: Vec<Matrix>,
    /// Divisors of the rotary frequencies.
    pub rope_factors: RopeFactors,
}

/// The gain of a norm outside the blocks, `[width]`, and its bias, if it has one.
#[derive(Clone)]
pub struct NormWeights {
    /// The gain.
    pub gain: Vec<f32>,
    /// The bias.
    pub bias: Option<Vec<f32>>,
}

/// Divisors of the rotary frequencies that a file may have, `[dims / 2]` each.
#[derive(Clone, Default)]
pub struct RopeFactors {
    /// For every context.
    pub any: Option<Vec<f32>>,
    /// For contexts up to the original one.
    pub short: Option<Vec<f32>>,
    /// For longer ones.
    pub long: Option<Vec<f32>>,
}

impl RopeFactors {
    /// Those of a context, which is a long one or not.
    pub fn of(&self, long: bool) -> Option<&[f32]> {
        let by_length = if long { &self.long } else { &self.short };
        self.any.as_deref().or(by_length.as_deref())
    }

    /// Whether they depend on the length of the context.
    pub fn by_length(&self) -> bool {
        self.any.is_none() && (self.short.is_some() || self.long.is_some())
    }
}

/// Tensors outside the blocks.
const GLOBALS: [Key; 8] = [
    Key::Embed,
    Key::Positions,
    Key::Types,
    Key::EmbedNorm,
    Key::EmbedNormBias,
    Key::Norm,
    Key::NormBias,
    Key::Output,
];

/// Names of divisors of the rotary frequencies.
const ROPE_FACTORS: [&str; 3] = ["rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"];

/// Names of projections of pooled embeddings, in their order; `NAME_feat_in` and `NAME_feat_out` are their widths.
const PROJECTIONS: [&str; 2] = ["dense_2", "dense_3"];

/// Tensors in blocks of files that no current model uses.
const HARMLESS: &[&str] = &["attn_rot_embd.weight", "attn.rope.freqs"];

fn finite(name: &str, v: Vec<f32>) -> Result<Vec<f32>> {
    match v.iter().position(|v| !v.is_finite()) {
        Some(i) => Err(Error::invalid(format!("tensor {name}"), format!("value {i} is {}", v[i]))),
        None => Ok(v),
    }
}

/// The values of a matrix of floats that is no product, row by row.
fn values(m: Matrix, name: &str) -> Result<Vec<f32>> {
    if m.format.block != 1 {
        return Err(Error::unsupported("format of values", format!("{} of {name}", m.format.name)));
    }
    let mut out = vec![0.0; m.rows * m.cols];
    for (i, row) in out.chunks_exact_mut(m.cols).enumerate() {
        m.decode(i, 0..m.cols, row);
    }
    finite(name, out)
}

/// Whether a gain of a layer is one for each head.
fn own_gains(layer: &Layer, role: Role) -> bool {
    layer.head_norm == HeadNorm::Each && [Role::QNorm, Role::KNorm].contains(&role)
}

/// The block of a tensor, and the rest of its name.
fn in_block(name: &str) -> Option<(usize, &str)> {
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    Some((layer.parse().ok()?, rest))
}

impl Weights {
    /// Every tensor, in the order of the flat weights of full-parameter training.
    pub fn each(&self) -> Vec<(Key, Tensor)> {
        let norm = |norm: &Option<NormWeights>, [gain, bias]: [Key; 2]| {
            let norm = norm.clone();
            let bias = norm.as_ref().and_then(|norm| norm.bias.clone()).map(|v| (bias, Tensor::Vector(v)));
            norm.map(|norm| (gain, Tensor::Vector(norm.gain))).into_iter().chain(bias)
        };
        let mut out = vec![(Key::Embed, Tensor::Matrix(self.embed.clone()))];
        out.extend(self.positions.clone().map(|m| (Key::Positions, Tensor::Matrix(m))));
        out.extend(self.types.clone().map(|m| (Key::Types, Tensor::Matrix(m))));
        out.extend(norm(&self.embed_norm, [Key::EmbedNorm, Key::EmbedNormBias]));
        for (layer, block) in self.blocks.iter().enumerate() {
            let there = Role::all().filter_map(|role| Some((role, block.tensors[role as usize].clone()?)));
            out.extend(there.map(|(role, tensor)| (Key::Block(layer, role), tensor)));
        }
        out.extend(norm(&self.norm, [Key::Norm, Key::NormBias]));
        out.extend(self.output.clone().map(|m| (Key::Output, Tensor::Matrix(m))));
        out
    }

    /// The first value of a matrix that is not finite: the tensor's name, row and column. Decodes all matrices up to
    /// there; used to explain a result that is not finite.
    pub fn not_finite(&self, h: &HParams) -> Option<(String, usize, usize)> {
        let bad = |matrix: &Matrix| {
            let mut values = vec![0.0; matrix.cols];
            (0..matrix.rows).find_map(|row| {
                matrix.decode(row, 0..matrix.cols, &mut values);
                Some((row, values.iter().position(|v| !v.is_finite())?))
            })
        };
        let found = self.each().into_iter().find_map(|(key, tensor)| {
            let Tensor::Matrix(matrix) = tensor else { return None };
            bad(&matrix).map(|(row, col)| (key.name(h), row, col))
        });
        let mut experts = self.blocks.iter().enumerate().filter_map(|(layer, b)| Some((layer, b.experts.as_ref()?)));
        found.or_else(|| {
            experts.find_map(|(layer, e)| {
                let roles = [(Role::ExpertGate, &e.gate), (Role::ExpertUp, &e.up), (Role::ExpertDown, &e.down)];
                roles.into_iter().find_map(|(role, all)| {
                    let (expert, (row, col)) = all.iter().enumerate().find_map(|(i, m)| Some((i, bad(m)?)))?;
                    Some((format!("{}, expert {expert}", Key::Block(layer, role).name(h)), row, col))
                })
            })
        })
    }

    /// Copies matrices to newly allocated memory, from the first block to the output, in at most `budget` bytes.
    /// Formats that gain by it get interleaved rows (`quant::interleaved`); 16-bit floats are copied
    /// unchanged, since large pages are read faster than a mapped file. Results stay the same; products of few rows are
    /// faster. Returns the bytes used.
    ///
    /// # Errors
    /// `Memory` if there is not enough memory.
    pub fn repack(&mut self, cx: &Compute, budget: usize) -> Result<usize> {
        /// Every copy is aligned to a cache line.
        const LINE: usize = 64;
        let blocks = self.blocks.iter_mut().flat_map(|block| {
            let tensors = block.tensors.iter_mut().flatten();
            let matrices = tensors.filter_map(|t| if let Tensor::Matrix(m) = t { Some(m) } else { None });
            matrices.chain(block.experts.iter_mut().flat_map(|experts| experts.each_mut()))
        });
        let (mut copies, mut taken, mut len) = (Vec::new(), 0, 0);
        for m in blocks.chain([self.output.as_mut().unwrap_or(&mut self.embed)]) {
            let size = m.data().len();
            if (m.interleaves() && m.interleaved().is_none() || m.floats16().is_some()) && size <= budget - taken {
                copies.push((m, len..len + size));
                taken += size;
                len = (len + size).next_multiple_of(LINE);
            }
        }
        let memory = Bytes::filled(len, |memory| {
            for (m, at) in &copies {
                copy(cx, m, &mut memory[at.clone()]);
            }
        })?;
        for (m, at) in copies {
            let bytes = memory.slice(at)?;
            *m =
                if m.interleaves() { m.with_interleaved(bytes) } else { Matrix::new(m.format, m.rows, m.cols, bytes)? };
        }
        Ok(taken)
    }

    /// Reads every tensor of a file and records in `h` which tensors each layer has.
    ///
    /// # Errors
    /// `Mismatch` naming the tensor that is missing or has another shape; `Unsupported` for a format that cannot be
    /// decoded, and for a tensor that this architecture does not use, since without it the model would compute
    /// something else than intended; `Invalid` for a norm or bias that is not finite.
    pub fn read(gguf: &Gguf, h: &mut HParams) -> Result<Weights> {
        let matrix = |name: &str, rows: Option<usize>, cols: usize| -> Result<Matrix> {
            if gguf.tensor(name).is_none() {
                return Err(Error::mismatch(format!("tensor {name}"), "a matrix", "nothing of that name"));
            }
            let m = gguf.matrix(name)?;
            if m.cols != cols || rows.is_some_and(|r| r != m.rows) {
                let want = format!("{} × {cols}", rows.map_or("vocabulary".into(), |r| r.to_string()));
                return Err(Error::mismatch(format!("shape of {name}"), want, format!("{} × {}", m.rows, m.cols)));
            }
            Ok(m)
        };
        let vector = |name: &str, len: usize| -> Result<Vec<f32>> {
            if gguf.tensor(name).is_none() {
                return Err(Error::mismatch(format!("tensor {name}"), "a vector", "nothing of that name"));
            }
            let v = gguf.vector(name)?;
            if v.len() != len {
                return Err(Error::mismatch(format!("shape of {name}"), len, v.len()));
            }
            finite(name, v)
        };
        let (arch, width) = (h.arch, h.width);
        let layered = arch.norm == crate::nn::norm::Kind::Layer;
        let known = |name: &str| {
            let has = |key: &Key| match key {
                Key::Embed | Key::Output => true,
                Key::Norm => !arch.last_norm.is_empty(),
                Key::NormBias => !arch.last_norm.is_empty() && layered,
                Key::Types => arch.globals.contains(&Key::Positions),
                key => arch.globals.contains(key),
            };
            let projects = || PROJECTIONS.iter().any(|p| name.strip_suffix(".weight") == Some(*p));
            ROPE_FACTORS.contains(&name)
                || arch.projections && projects()
                || GLOBALS.iter().filter(|key| has(key)).any(|key| key.name(h) == name)
        };
        let mut has = vec![Roles::default(); h.layers];
        for tensor in gguf.tensors() {
            let name = &*tensor.name;
            let used = match in_block(name) {
                Some((layer, _)) if (h.layers..h.layers + h.skipped).contains(&layer) => true,
                Some((layer, _)) if layer >= h.layers => {
                    let blocks = format!("{} blocks, by the metadata", h.layers);
                    return Err(Error::mismatch(
                        format!("tensor {}", crate::error::printable(name)),
                        blocks,
                        layer.saturating_add(1),
                    ));
                }
                Some((layer, rest)) => {
                    let role = arch.role(rest).filter(|_| *name == *format!("blk.{layer}.{rest}"));
                    role.map(|role| has[layer].add(role)).is_some() || HARMLESS.contains(&rest)
                }
                None => known(name),
            };
            if !used {
                return Err(Error::unsupported("tensor of this architecture", crate::error::printable(name)));
            }
        }
        for (layer, has) in h.blocks.iter_mut().zip(has) {
            layer.has = has;
        }
        let mut blocks = Vec::new();
        for (layer, of) in h.blocks.iter_mut().enumerate() {
            let sizes = of.sizes(width);
            let has = of.has;
            let there = |role: &Role| has.has(*role);
            // One tensor or its parts, not both.
            if let Some(role) = Role::all().find(|r| there(r) && r.row().holds.iter().any(there)) {
                let name = format!("blk.{layer}.{}", arch.gguf(role));
                return Err(Error::mismatch(name, "one tensor or its parts", "both"));
            }
            let alone = |r: &Role| matches!(r.row().kind, TensorKind::Bias(of) if !there(&of));
            if let Some(role) = Role::all().filter(there).find(alone) {
                let name = format!("tensor blk.{layer}.{}", arch.gguf(role));
                return Err(Error::mismatch(name, "none without the tensor that it is added to", "one"));
            }
            // What another mixer has would not be computed.
            if let Some(role) = Role::all().filter(there).find(|role| of.foreign(*role)) {
                return Err(Error::unsupported("tensor of this layer", format!("blk.{layer}.{}", arch.gguf(role))));
            }
            let missing = |role: &&Role| !there(role) && role.fused().is_none_or(|(whole, _)| !there(&whole));
            let usual = arch.needs.iter().chain(arch.also).filter(|role| !of.foreign(**role));
            let own = if of.mixer == Mixer::Attention { &[] } else { of.mixer.roles() };
            if let Some(role) = usual.chain(own).find(missing) {
                let name = format!("tensor blk.{layer}.{}", arch.gguf(*role));
                let what = match role.row().kind {
                    TensorKind::Matrix | TensorKind::Taps => "a matrix",
                    TensorKind::Experts => "matrices",
                    TensorKind::Gain | TensorKind::Bias(_) | TensorKind::Numbers(_) => "a vector",
                };
                return Err(Error::mismatch(name, what, "nothing of that name"));
            }
            let mut block = Block::default();
            if of.mixture.is_some() {
                let name = |role| format!("blk.{layer}.{}", arch.gguf(role));
                block.experts = Some(ExpertWeights::read(gguf, &name, of, &sizes)?);
            }
            for role in Role::all().filter(there) {
                let name = format!("blk.{layer}.{}", arch.gguf(role));
                let [cols, rows] = (role.row().shape)(&sizes);
                block.tensors[role as usize] = Some(match role.row().kind {
                    TensorKind::Experts => continue,
                    TensorKind::Matrix => Tensor::Matrix(matrix(&name, Some(rows), cols)?),
                    // Gains of heads stand in rows.
                    TensorKind::Gain if own_gains(of, role) => {
                        Tensor::Vector(values(matrix(&name, Some(rows / of.heads.dim), of.heads.dim)?, &name)?)
                    }
                    TensorKind::Taps => Tensor::Vector(values(matrix(&name, Some(rows), cols)?, &name)?),
                    TensorKind::Gain | TensorKind::Bias(_) | TensorKind::Numbers(_) => {
                        Tensor::Vector(vector(&name, rows)?)
                    },
                });
            }
            blocks.push(block);
        }
        let embed = matrix("token_embd.weight", None, width)?;
        if let Some(tokens) = gguf.array("tokenizer.ggml.tokens")?
            && tokens.len() != embed.rows
        {
            return Err(Error::mismatch("rows of token_embd.weight", format!("{} tokens", tokens.len()), embed.rows));
        }
        // A tensor outside the blocks, which the architecture needs or the file may have.
        let there = |key: Key| arch.globals.contains(&key) || gguf.tensor(&key.name(h)).is_some();
        let table = |key: Key, rows: Option<usize>| -> Result<Option<Matrix>> {
            there(key).then(|| matrix(&key.name(h), rows, width)).transpose()
        };
        let norm = |gain: Key, bias: Key| -> Result<NormWeights> {
            let bias = there(bias).then(|| vector(&bias.name(h), width)).transpose()?;
            Ok(NormWeights { gain: vector(&gain.name(h), width)?, bias })
        };
        let mut projections: Vec<Matrix> = Vec::new();
        for name in PROJECTIONS.iter().filter(|_| arch.projections) {
            let tensor = format!("{name}.weight");
            if gguf.tensor(&tensor).is_none() {
                continue;
            }
            let m = matrix(&tensor, None, projections.last().map_or(width, |m| m.rows))?;
            for (end, size) in [("in", m.cols), ("out", m.rows)] {
                let key = format!("{}.{name}_feat_{end}", arch.name);
                if let Some(said) = gguf.u64(&key)?.filter(|said| *said != size as u64) {
                    return Err(Error::mismatch(key, size, said));
                }
            }
            projections.push(m);
        }
        let embed_norm = arch.globals.contains(&Key::EmbedNorm);
        let dims = h.ropes.first().map_or(0, |r| r.dims / 2);
        let [any, short, long] = ROPE_FACTORS.map(|name| -> Result<Option<Vec<f32>>> {
            let factors = gguf.tensor(name).map(|_| vector(name, dims)).transpose()?;
            if factors.as_ref().is_some_and(|f| f.iter().any(|v| *v <= 0.0)) {
                return Err(Error::invalid(format!("tensor {name}"), "a divisor is not positive"));
            }
            Ok(factors)
        });
        Ok(Weights {
            output: table(Key::Output, Some(embed.rows))?,
            positions: table(Key::Positions, Some(h.context))?,
            types: table(Key::Types, None)?,
            embed_norm: embed_norm.then(|| norm(Key::EmbedNorm, Key::EmbedNormBias)).transpose()?,
            norm: (!arch.last_norm.is_empty()).then(|| norm(Key::Norm, Key::NormBias)).transpose()?,
            projections,
            rope_factors: RopeFactors { any: any?, short: short?, long: long? },
            embed,
            blocks,
        })
    }

    /// The matrix that a forward pass multiplies with after this one.
    pub fn next(&self, layer: usize, role: Role) -> &Matrix {
        let here = crate::role::ROLES[role as usize + 1..].iter().find_map(|row| self.blocks[layer].stored(row.role));
        here.or_else(|| self.blocks.get(layer + 1)?.matrices().next().map(|(_, m)| m)).unwrap_or(self.head())
    }

    /// The output matrix, whose products are the logits.
    pub fn head(&self) -> &Matrix {
        self.output.as_ref().unwrap_or(&self.embed)
    }

    /// Size of the vocabulary.
    pub fn vocab(&self) -> usize {
        self.embed.rows
    }

    /// All weights as one `f32` vector, the start of full-parameter training.
    ///
    /// # Errors
    /// `Memory` if there is not enough.
    pub fn flatten(&self, offsets: &Offsets) -> Result<Vec<f32>> {
        let mut out = zeros("all weights in F32", offsets.len)?;
        for ((_, tensor), (_, at)) in self.each().into_iter().zip(&offsets.tensors) {
            let out = &mut out[at.clone()];
            match tensor {
                Tensor::Vector(v) => out.copy_from_slice(&v),
                Tensor::Matrix(m) => {
                    for (row, out) in out.chunks_exact_mut(m.cols).enumerate() {
                        m.decode(row, 0..m.cols, out);
                    }
                }
            }
        }
        Ok(out)
    }

    /// These tensors with trained values: matrices are slices of `flat`; only the vectors are copied.
    ///
    /// # Errors
    /// `Mismatch` if `flat` has another length.
    pub fn from_flat(&self, offsets: &Offsets, flat: Arc<Vec<f32>>) -> Result<Weights> {
        if flat.len() != offsets.len {
            return Err(Error::mismatch("number of weights", offsets.len, flat.len()));
        }
        let format = Format::by_id(0).ok_or_else(|| Error::unsupported("tensor format", "F32"))?;
        let bytes = Bytes::from_floats(flat.clone());
        let matrix = |like: &mut Matrix, at: &Range<usize>| -> Result<()> {
            *like = Matrix::new(format, like.rows, like.cols, bytes.slice(at.start * 4..at.end * 4)?)?;
            Ok(())
        };
        let mut out = self.clone();
        for (key, at) in &offsets.tensors {
            let table = |m: &mut Option<Matrix>| m.as_mut().map_or(Ok(()), |m| matrix(m, at));
            match *key {
                Key::Embed => matrix(&mut out.embed, at)?,
                Key::Block(layer, role) => match &mut out.blocks[layer].tensors[role as usize] {
                    Some(Tensor::Matrix(m)) => matrix(m, at)?,
                    Some(Tensor::Vector(v)) => v.copy_from_slice(&flat[at.clone()]),
                    None => unreachable!("a place for every tensor there is"),
                },
                Key::Positions => table(&mut out.positions)?,
                Key::Types => table(&mut out.types)?,
                Key::Output => table(&mut out.output)?,
                Key::EmbedNorm | Key::Norm => {
                    let norm = if *key == Key::Norm { &mut out.norm } else { &mut out.embed_norm };
                    norm.iter_mut().for_each(|norm| norm.gain.copy_from_slice(&flat[at.clone()]));
                }
                Key::EmbedNormBias | Key::NormBias => {
                    let norm = if *key == Key::NormBias { &mut out.norm } else { &mut out.embed_norm };
                    norm.iter_mut().for_each(|norm| norm.bias = Some(flat[at.clone()].to_vec()));
                }
            }
        }
        Ok(out)
    }
}

/// Copies the bytes of a matrix, with its rows interleaved if they can be. `out` has the same length and is aligned to
/// 4 bytes.
fn copy(cx: &Compute, m: &Matrix, out: &mut [u8]) {
    /// Groups of 16 rows in a part.
    const PART: usize = 4;
    /// 4-byte words in a part.
    const WORDS: usize = 1 << 16;
    let data = m.data();
    let (words, rest) = out.split_at_mut(data.len() / 4 * 4);
    let words: &mut [f32] = bytemuck::cast_slice_mut(words);
    if m.interleaves() {
        let tile = Tile::new(words, m.rows / 16, 4 * m.row_bytes());
        cx.pool.rows([tile], [PART], &|part, [mut tile], _| {
            for i in 0..tile.n() {
                let first = 16 * (PART * part + i);
                m.interleave(first..first + 16, bytemuck::cast_slice_mut(tile.row(i)));
            }
        });
        return;
    }
    let count = words.len();
    cx.pool.columns([Tile::new(words, 1, count)], [WORDS], &|part, [mut tile], _| {
        let out: &mut [u8] = bytemuck::cast_slice_mut(tile.row(0));
        out.copy_from_slice(&data[4 * WORDS * part..][..out.len()]);
    });
    rest.copy_from_slice(&data[4 * count..]);
}

/// The offsets of the tensors in the flat weights.
#[derive(Clone, Debug)]
pub struct Offsets {
    tensors: Vec<(Key, Range<usize>)>,
    columns: Vec<usize>,
    /// The ranges of the tensors of each block, by role.
    blocks: Vec<[Option<Range<usize>>; Role::COUNT]>,
    /// Number of values.
    pub len: usize,
}

impl Offsets {
    /// The offsets of the tensors of `weights`.
    pub fn of(weights: &Weights) -> Offsets {
        let mut offsets = Offsets {
            tensors: Vec::new(),
            columns: Vec::new(),
            blocks: vec![[const { None }; Role::COUNT]; weights.blocks.len()],
            len: 0,
        };
        for (key, tensor) in weights.each() {
            let (n, cols) = tensor.dims();
            let range = offsets.len..offsets.len + n;
            offsets.len = range.end;
            if let Key::Block(layer, role) = key {
                offsets.blocks[layer][role as usize] = Some(range.clone());
            }
            offsets.tensors.push((key, range));
            offsets.columns.push(cols);
        }
        offsets
    }

    /// The range of a tensor of a block, if it exists.
    pub fn block(&self, layer: usize, role: Role) -> Option<Range<usize>> {
        self.blocks[layer][role as usize].clone()
    }

    /// The range of a tensor, if it exists.
    pub fn find(&self, key: Key) -> Option<Range<usize>> {
        self.tensors.iter().find(|(k, _)| *k == key).map(|(_, at)| at.clone())
    }

    /// Each tensor as a part of the flat parameters.
    pub fn parts(&self) -> Vec<Part> {
        let part = |((_, range), cols): (&(Key, Range<usize>), &usize)| Part {
            name: "weights",
            range: range.clone(),
            cols: *cols,
            start: Start::Given,
            group: Group::Main,
        };
        self.tensors.iter().zip(&self.columns).map(part).collect()
    }

    /// Each tensor's name in a file and its range.
    pub fn names(&self, h: &HParams) -> Vec<(String, Range<usize>)> {
        self.tensors.iter().map(|(key, at)| (key.name(h), at.clone())).collect()
    }
}
