//! Where a frozen matrix and its adapters meet.

use super::Model;
use crate::adapter::{Adapter, Linear, Site};
use crate::kernel::{Buffer, Tile, View};
use crate::nn::head;
use crate::nn::linear::{self, Accumulate, Back, Input, Path, Rounded};
use crate::nn::rope::Turns;
use std::prelude::v1::*;
use std::sync::Arc;

/// Adapters attached to a model, in the order of their attachment.
pub type Attached = [Arc<dyn Adapter>];

/// Buffers that projections share.
#[derive(Default)]
pub struct Workspace {
    /// Rounded inputs.
    pub rounded: Rounded,
    /// What the way back in 8 bits works in.
    pub back: Back,
    rows: Buffer,
    /// Turns of the rows.
    pub turns: Turns,
}

impl Workspace {
    /// Bytes of the passes over `n` rows, of which `counted` meet the output matrix, but for what adapters need.
    pub fn bytes(m: &Model, path: Path, n: usize, counted: usize) -> usize {
        if path == Path::Exact {
            return 0;
        }
        let slice = head::slice(m.weights.head());
        let linears =
            || m.weights.blocks.iter().flat_map(|block| Linear::ALL.map(|linear| (linear, block.linear(linear))));
        let inputs = linears().map(|(linear, w)| (w, n, wide(linear))).chain([(&slice, counted, false)]);
        let products = linears().map(|(_, w)| (w, n)).chain([(&slice, counted)]);
        Rounded::bytes(m.compute.kernels, inputs) + Back::bytes(products)
    }
}

/// Whether the input of a layer is rounded to wide integers. An error in queries and keys is multiplied by their size
/// before the softmax and hurts most; these matrices are the smallest, so that it costs least here.
pub fn wide(linear: Linear) -> bool {
    matches!(linear, Linear::Q | Linear::K | Linear::V)
}

/// One linear layer to compute, and where its output goes.
pub struct Out<'a> {
    /// Which.
    pub linear: Linear,
    /// `[N, F]`.
    pub y: &'a mut [f32],
}

/// `y = x · Wᵀ + Σ adapters`, for linear layers of one block that share their input. x: `[N, C]`.
pub fn forward<const K: usize>(
    m: &Model,
    adapters: &Attached,
    path: Path,
    layer: usize,
    x: View,
    outs: [Out; K],
    work: &mut Workspace,
) {
    let block = &m.weights.blocks[layer];
    let matrices = [(); K];
    let mut i = 0;
    let matrices = matrices.map(|()| {
        i += 1;
        block.linear(outs[i - 1].linear)
    });
    let wide = wide(outs[0].linear);
    let input = Input::new(&m.compute, path, x, &matrices, wide, &mut work.rounded);
    for (out, w) in outs.into_iter().zip(matrices) {
        let mut y = Tile::new(out.y, x.n, w.rows);
        linear::forward(&m.compute, w, input.before(m.weights.after(layer, out.linear)), &mut y);
        let site = Site { layer, linear: out.linear };
        for adapter in adapters.iter().filter(|a| a.covers(site)) {
            adapter.forward(&m.compute, site, x, &mut y, &mut work.rows);
        }
    }
}

/// Who receives the gradients of a backward pass.
pub enum Sink<'a> {
    /// An adapter; the base is frozen.
    Adapter(&'a dyn Adapter, &'a mut [f32]),
    /// The weights themselves, flat.
    Weights(&'a super::weights::Places, &'a mut [f32]),
}

/// `dx = dy · W`, or `dx += dy · W`, if it is wanted, and the adapter's or the matrix's own gradient. x: `[N, C]`, dy: `[N, F]`,
/// dx: `[N, C]`.
pub fn backward(
    m: &Model,
    path: Path,
    layer: usize,
    which: Linear,
    x: View,
    dy: View,
    dx: Option<(Accumulate, &mut [f32])>,
    sink: &mut Sink,
    work: &mut Workspace,
) {
    let w = m.weights.blocks[layer].linear(which);
    let mut dx = dx.map(|(into, dx)| {
        let mut dx = Tile::new(dx, x.n, w.cols);
        linear::backward(&m.compute, path, w, dy, into, &mut dx, &mut work.back);
        dx
    });
    let site = Site { layer, linear: which };
    match sink {
        Sink::Adapter(adapter, acc) => {
            if adapter.covers(site) {
                adapter.backward(&m.compute, site, x, dy, dx.as_mut(), acc, &mut work.rows);
            }
        }
        Sink::Weights(places, grads) => {
            let at = places.blocks[layer].linears[which as usize].clone();
            linear::backward_weights(&m.compute, x, dy, &mut Tile::new(&mut grads[at], w.rows, w.cols));
        }
    }
}
