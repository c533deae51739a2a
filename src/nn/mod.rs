//! The layers, a file each, forward and backward side by side. Nothing here knows of adapters or of a model: functions
//! over rows, with the shapes in their first line.
//!
//! Every `*_backward` **adds** into the gradients it is given. Outside the kernels no fused multiply-add is used, so
//! these loops give the same bits on every target.

pub mod attention;
pub mod embed;
pub mod head;
pub mod linear;
pub mod norm;
pub mod rope;

/// Rows a thread takes at a time where rows are independent.
pub(crate) const ROWS: usize = 8;

/// `y += x`.
pub fn add(x: &[f32], y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += x;
    }
}
