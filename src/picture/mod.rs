//! Files as pictures: QR codes that hold the bytes of a file, drawn as PNG or as text, and read from PNG and JPEG.
//!
//! A file of at most [`MOST`] bytes is one code in byte mode whose bytes are those of the file, so that any reader that tells
//! raw bytes gives the file. A larger file is a set of codes, of which each holds
//!
//! ```text
//! at  0  magic    4 bytes  8E 4D 51 52
//!     4  version  u8       1; a reader refuses any other
//!     5  number   u8       of this code, from 1
//!     6  count    u8       of the codes
//!     7  digest   8 bytes  the first of the BLAKE3 hash of the whole file
//!    15  a piece of the file; the pieces follow each other in the order of the numbers
//! ```
//!
//! The magic begins with a byte that no text and no adapter begins with.
//!
//! ```
//! # #[cfg(feature = "pictures")]
//! # fn main() -> mynah::Result<()> {
//! use mynah::bytes::Limits;
//! use mynah::picture::{self, Parts};
//!
//! let limits = Limits::default();
//! let file = vec![7; 4000];
//! let mut parts = Parts::new();
//! for code in picture::codes(&file, &limits)? {
//!     for payload in picture::read(&code.png()?, &limits)?.payloads {
//!         parts.add(&payload, &limits)?;
//!     }
//! }
//! assert_eq!(parts.finish()?, file);
//! # Ok(()) }
//! # #[cfg(not(feature = "pictures"))]
//! # fn main() {}
//! ```
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::todo,
        clippy::arithmetic_side_effects
    )
)]

mod code;
#[cfg(feature = "pictures")]
mod finder;
#[cfg(feature = "pictures")]
mod grid;
#[cfg(feature = "pictures")]
mod look;
#[cfg(feature = "pictures")]
mod page;
mod parts;

pub use code::{Code, MOST, codes};
#[cfg(feature = "pictures")]
pub use look::{Found, read};
pub use parts::{Added, Parts};
