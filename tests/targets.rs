//! What holds on every target, to the bit: formats, kernels, and what a seed expands to. A program of its own, so that a machine
//! that is emulated need not build the whole suite.

#[path = "suite/digest.rs"]
mod digest;
#[path = "suite/formats.rs"]
mod formats;
#[path = "suite/kernels.rs"]
mod kernels;
#[path = "suite/shared.rs"]
mod shared;
