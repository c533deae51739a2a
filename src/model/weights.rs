//! Tensors by name: slices of the file for matrices, decoded values for the small vectors.

use super::HParams;
use crate::adapter::{Linear, Part};
use crate::bytes::Bytes;
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::kernel::{Compute, Tile};
use crate::quant::{Format, Matrix};
use std::prelude::v1::*;
use std::sync::Arc;

/// The tensors of one block.
#[derive(Clone)]
pub struct Block {
    /// Gain of the norm before attention, `[width]`.
    pub attn_norm: Vec<f32>,
    /// Gain of the norm before the feed-forward layer, `[width]`.
    pub ffn_norm: Vec<f32>,
    linears: [Matrix; Linear::COUNT],
}

impl Block {
    /// The frozen matrix of a linear layer.
    pub fn linear(&self, linear: Linear) -> &Matrix {
        &self.linears[linear as usize]
    }
}

/// All tensors of a model.
#[derive(Clone)]
pub struct Weights {
    /// Token embeddings, `[V, width]`.
    pub embed: Matrix,
    /// The blocks, first to last.
    pub blocks: Vec<Block>,
    /// Gain of the last norm, `[width]`.
    pub norm: Vec<f32>,
    /// The output matrix, `[V, width]`; `None` if it is the embedding.
    pub output: Option<Matrix>,
    /// Divisors of the rotary rates, if the file has them.
    pub rope_factors: Option<Vec<f32>>,
}

impl Weights {
    /// The first value of a matrix that is not finite: the tensor's name, row and column. Decodes every matrix until
    /// there, to say why a result is none.
    pub fn not_finite(&self) -> Option<(String, usize, usize)> {
        let blocks = self.blocks.iter().enumerate().flat_map(|(layer, block)| {
            Linear::ALL.map(|linear| (format!("blk.{layer}.{}.weight", linear.gguf()), block.linear(linear)))
        });
        let ends = [("token_embd.weight", Some(&self.embed)), ("output.weight", self.output.as_ref())];
        let ends = ends.into_iter().filter_map(|(name, matrix)| Some((name.to_string(), matrix?)));
        ends.chain(blocks).find_map(|(name, matrix)| {
            let mut values = vec![0.0; matrix.cols];
            (0..matrix.rows).find_map(|row| {
                matrix.decode(row, 0..matrix.cols, &mut values);
                let col = values.iter().position(|v| !v.is_finite())?;
                Some((name.clone(), row, col))
            })
        })
    }

    /// Copies matrices to memory of the program's own, from the first block to the output, as far as `budget` bytes reach:
    /// formats that gain by it with rows side by side ([`crate::quant::turned`]), half floats as they are, since large pages
    /// are read faster than a mapped file. Results stay the same; products of few rows come faster. Returns the bytes taken.
    ///
    /// # Errors
    /// `Memory` if the memory is not there.
    pub fn turn(&mut self, cx: &Compute, budget: usize) -> Result<usize> {
        /// Every copy begins at the edge of a cache line.
        const LINE: usize = 64;
        let blocks = self.blocks.iter_mut().flat_map(|block| block.linears.iter_mut());
        let (mut copies, mut taken, mut len) = (Vec::new(), 0, 0);
        for m in blocks.chain([self.output.as_mut().unwrap_or(&mut self.embed)]) {
            let size = m.data().len();
            if (m.turns() && m.turned().is_none() || m.halves().is_some()) && size <= budget - taken {
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
            *m = if m.turns() { m.with_turned(bytes) } else { Matrix::new(m.format, m.rows, m.cols, bytes)? };
        }
        Ok(taken)
    }

    /// # Errors
    /// `Mismatch` naming the tensor that is missing or has another shape; `Unsupported` for a format that cannot be
    /// decoded; `Invalid` for a norm that is not finite.
    pub fn read(gguf: &Gguf, h: &HParams) -> Result<Weights> {
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
            match v.iter().position(|v| !v.is_finite()) {
                Some(i) => Err(Error::invalid(format!("tensor {name}"), format!("value {i} is {}", v[i]))),
                None => Ok(v),
            }
        };
        let mut blocks = Vec::new();
        for layer in 0..h.layers {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            for extra in ["attn_q.bias", "attn_k.bias", "attn_v.bias", "attn_q_norm.weight", "attn_k_norm.weight"] {
                let extra = format!("blk.{layer}.{extra}");
                if gguf.tensor(&extra).is_some() {
                    return Err(Error::unsupported("tensor of this architecture", extra));
                }
            }
            let linears: Result<Vec<Matrix>> = Linear::ALL
                .iter()
                .map(|&linear| {
                    let [cols, rows] = shape(h, linear);
                    matrix(&name(linear.gguf()), Some(rows), cols)
                })
                .collect();
            let Ok(linears) = linears?.try_into() else { unreachable!("one matrix a linear") };
            blocks.push(Block {
                attn_norm: vector(&name("attn_norm"), h.width)?,
                ffn_norm: vector(&name("ffn_norm"), h.width)?,
                linears,
            });
        }
        let embed = matrix("token_embd.weight", None, h.width)?;
        let output = match gguf.tensor("output.weight") {
            Some(_) => Some(matrix("output.weight", Some(embed.rows), h.width)?),
            None => None,
        };
        if let Some(tokens) = gguf.array("tokenizer.ggml.tokens")?
            && tokens.len() != embed.rows
        {
            return Err(Error::mismatch("rows of token_embd.weight", format!("{} tokens", tokens.len()), embed.rows));
        }
        let rope_factors = match gguf.tensor("rope_freqs.weight") {
            Some(_) => Some(vector("rope_freqs.weight", h.rope_dims / 2)?),
            None => None,
        };
        if rope_factors.as_ref().is_some_and(|f| f.iter().any(|v| *v <= 0.0)) {
            return Err(Error::invalid("tensor rope_freqs.weight", "a divisor is not positive"));
        }
        Ok(Weights { embed, blocks, norm: vector("output_norm.weight", h.width)?, output, rope_factors })
    }

    /// The matrix that a forward pass takes after this one.
    pub fn after(&self, layer: usize, linear: Linear) -> &Matrix {
        let here = self.blocks[layer].linears.get(linear as usize + 1);
        here.or_else(|| self.blocks.get(layer + 1)?.linears.first()).unwrap_or(self.head())
    }

    /// The matrix that makes logits.
    pub fn head(&self) -> &Matrix {
        self.output.as_ref().unwrap_or(&self.embed)
    }

    /// Tokens of the vocabulary.
    pub fn vocab(&self) -> usize {
        self.embed.rows
    }

    /// All weights as `f32` in one piece, in the order of [`Places`]: what full-parameter training starts from.
    pub fn flatten(&self, places: &Places) -> Vec<f32> {
        let mut out = vec![0.0; places.len];
        let copy = |m: &Matrix, out: &mut [f32]| {
            for (row, out) in out.chunks_exact_mut(m.cols).enumerate() {
                m.decode(row, 0..m.cols, out);
            }
        };
        copy(&self.embed, &mut out[places.embed.clone()]);
        for (block, at) in self.blocks.iter().zip(&places.blocks) {
            out[at.attn_norm.clone()].copy_from_slice(&block.attn_norm);
            out[at.ffn_norm.clone()].copy_from_slice(&block.ffn_norm);
            for (m, at) in block.linears.iter().zip(&at.linears) {
                copy(m, &mut out[at.clone()]);
            }
        }
        out[places.norm.clone()].copy_from_slice(&self.norm);
        if let (Some(m), Some(at)) = (&self.output, &places.output) {
            copy(m, &mut out[at.clone()]);
        }
        out
    }

    /// The same tensors over trained values: matrices are slices of `flat`, nothing is copied but the norms.
    ///
    /// # Errors
    /// `Mismatch` if `flat` has another length.
    pub fn from_flat(&self, places: &Places, flat: Arc<Vec<f32>>) -> Result<Weights> {
        if flat.len() != places.len {
            return Err(Error::mismatch("number of weights", places.len, flat.len()));
        }
        let format = Format::by_id(0).ok_or_else(|| Error::unsupported("tensor format", "F32"))?;
        let bytes = Bytes::from_floats(flat.clone());
        let matrix = |like: &Matrix, at: &core::ops::Range<usize>| {
            Matrix::new(format, like.rows, like.cols, bytes.slice(at.start * 4..at.end * 4)?)
        };
        let mut blocks = Vec::new();
        for (block, at) in self.blocks.iter().zip(&places.blocks) {
            let linears: Result<Vec<Matrix>> =
                block.linears.iter().zip(&at.linears).map(|(m, at)| matrix(m, at)).collect();
            let Ok(linears) = linears?.try_into() else { unreachable!("one matrix a linear") };
            blocks.push(Block {
                attn_norm: flat[at.attn_norm.clone()].to_vec(),
                ffn_norm: flat[at.ffn_norm.clone()].to_vec(),
                linears,
            });
        }
        Ok(Weights {
            embed: matrix(&self.embed, &places.embed)?,
            blocks,
            norm: flat[places.norm.clone()].to_vec(),
            output: match (&self.output, &places.output) {
                (Some(m), Some(at)) => Some(matrix(m, at)?),
                _ => None,
            },
            rope_factors: self.rope_factors.clone(),
        })
    }
}

/// The bytes of a matrix, with its rows side by side if it turns. `out`: as many, at the edge of 4 bytes.
fn copy(cx: &Compute, m: &Matrix, out: &mut [u8]) {
    /// Sixteens of rows in a part.
    const PART: usize = 4;
    /// Words in a part.
    const WORDS: usize = 1 << 16;
    let data = m.data();
    let (words, rest) = out.split_at_mut(data.len() / 4 * 4);
    let words: &mut [f32] = bytemuck::cast_slice_mut(words);
    if m.turns() {
        let tile = Tile::new(words, m.rows / 16, 4 * m.row_bytes());
        cx.pool.rows([tile], [PART], &|part, [mut tile], _| {
            for i in 0..tile.n() {
                let first = 16 * (PART * part + i);
                m.turn(first..first + 16, bytemuck::cast_slice_mut(tile.row(i)));
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

fn shape(h: &HParams, linear: Linear) -> [usize; 2] {
    match linear {
        Linear::Q => [h.width, h.q_width()],
        Linear::K | Linear::V => [h.width, h.kv_width()],
        Linear::O => [h.q_width(), h.width],
        Linear::Gate | Linear::Up => [h.width, h.ff],
        Linear::Down => [h.ff, h.width],
    }
}

/// Where each tensor of a block stands in the flat weights.
#[derive(Clone, Debug)]
pub struct BlockPlaces {
    /// Gain before attention.
    pub attn_norm: core::ops::Range<usize>,
    /// Gain before the feed-forward layer.
    pub ffn_norm: core::ops::Range<usize>,
    /// The linear layers.
    pub linears: [core::ops::Range<usize>; Linear::COUNT],
}

/// Where each tensor stands in the flat weights.
#[derive(Clone, Debug)]
pub struct Places {
    /// Token embeddings.
    pub embed: core::ops::Range<usize>,
    /// The blocks.
    pub blocks: Vec<BlockPlaces>,
    /// Gain of the last norm.
    pub norm: core::ops::Range<usize>,
    /// The output matrix, if it is one of its own.
    pub output: Option<core::ops::Range<usize>>,
    /// Values in all.
    pub len: usize,
}

impl Places {
    /// For the tensors of `weights`.
    pub fn of(weights: &Weights) -> Places {
        let mut len = 0;
        let mut take = |n: usize| {
            len += n;
            len - n..len
        };
        let embed = take(weights.embed.rows * weights.embed.cols);
        let blocks = weights
            .blocks
            .iter()
            .map(|b| BlockPlaces {
                attn_norm: take(b.attn_norm.len()),
                ffn_norm: take(b.ffn_norm.len()),
                linears: core::array::from_fn(|i| take(b.linears[i].rows * b.linears[i].cols)),
            })
            .collect();
        let norm = take(weights.norm.len());
        let output = weights.output.as_ref().map(|m| take(m.rows * m.cols));
        Places { embed, blocks, norm, output, len }
    }

    /// Each tensor as a part of the flat parameters.
    pub fn parts(&self, weights: &Weights) -> Vec<Part> {
        let part = |range: &core::ops::Range<usize>, cols: usize| Part { range: range.clone(), cols, of_b: false };
        let mut out = vec![part(&self.embed, weights.embed.cols)];
        for (at, block) in self.blocks.iter().zip(&weights.blocks) {
            out.extend([&at.attn_norm, &at.ffn_norm].map(|r| part(r, r.len())));
            out.extend(at.linears.iter().zip(&block.linears).map(|(r, m)| part(r, m.cols)));
        }
        out.push(part(&self.norm, self.norm.len()));
        out.extend(self.output.iter().zip(&weights.output).map(|(r, m)| part(r, m.cols)));
        out
    }

    /// Each tensor's name in a file and its place.
    pub fn names(&self) -> Vec<(String, core::ops::Range<usize>)> {
        let mut out = vec![("token_embd.weight".into(), self.embed.clone())];
        for (layer, b) in self.blocks.iter().enumerate() {
            out.push((format!("blk.{layer}.attn_norm.weight"), b.attn_norm.clone()));
            out.push((format!("blk.{layer}.ffn_norm.weight"), b.ffn_norm.clone()));
            for linear in Linear::ALL {
                out.push((format!("blk.{layer}.{}.weight", linear.gguf()), b.linears[linear as usize].clone()));
            }
        }
        out.push(("output_norm.weight".into(), self.norm.clone()));
        out.extend(self.output.iter().map(|at| ("output.weight".into(), at.clone())));
        out
    }
}
