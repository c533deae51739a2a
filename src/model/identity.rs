//! What people call a model, and the digests by which files that belong to it know it again.

use crate::bytes::Bytes;
use crate::error::{Result, printable};
use crate::gguf::Gguf;
use std::prelude::v1::*;
use std::sync::Arc;

/// What a digest of a model is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Digest {
    /// The tensors: their names, formats, shapes and data ([`Gguf::content`]). It is the same for every file that holds them.
    Content,
    /// The whole file, of a model in parts the file that merging gives ([`Gguf::merged`]).
    File,
}

/// Keeps the digests of one model's files between runs of a program, since computing one reads all weights. Whoever keeps
/// them makes sure that the files are still the same.
pub trait Digests: Send + Sync {
    /// The digest, if it is known.
    fn load(&self, of: Digest) -> Option<[u8; 32]>;

    /// Takes a digest that was computed.
    fn save(&self, of: Digest, digest: &[u8; 32]);
}

/// A digest that is computed once.
#[cfg(feature = "std")]
type Memo = std::sync::OnceLock<[u8; 32]>;
/// Without the standard library there is nothing to share it by: it is computed each time.
#[cfg(not(feature = "std"))]
type Memo = ();

#[cfg(feature = "std")]
fn once(memo: &Memo, compute: impl FnOnce() -> [u8; 32]) -> [u8; 32] {
    *memo.get_or_init(compute)
}

#[cfg(not(feature = "std"))]
fn once(_: &Memo, compute: impl FnOnce() -> [u8; 32]) -> [u8; 32] {
    compute()
}

/// The identity of a model.
pub(super) struct Identity {
    /// What people call it: `SmolLM2 135M Instruct`.
    pub name: String,
    /// How most of it is stored: `Q4_0`.
    pub format: &'static str,
    /// What the digests are of, by [`Digest`], in pieces.
    pieces: [Arc<[Bytes]>; 2],
    memos: [Memo; 2],
    kept: Option<Arc<dyn Digests>>,
}

impl Identity {
    pub fn read(gguf: &Gguf) -> Result<Identity> {
        let pieces = [gguf.content()?.into(), gguf.merged()?.into()];
        Ok(Identity { name: name(gguf), format: format(gguf), pieces, memos: Default::default(), kept: None })
    }

    /// The same, with digests kept there.
    pub fn keeping(&self, kept: Arc<dyn Digests>) -> Identity {
        let (name, pieces) = (self.name.clone(), self.pieces.clone());
        Identity { name, format: self.format, pieces, memos: Default::default(), kept: Some(kept) }
    }

    /// Bytes that a digest is of.
    pub fn len(&self, of: Digest) -> usize {
        self.pieces[of as usize].iter().map(|piece| piece.len()).sum()
    }

    pub fn digest(&self, of: Digest) -> [u8; 32] {
        let compute = || {
            let mut hasher = blake3::Hasher::new();
            self.pieces[of as usize].iter().for_each(|piece| _ = hasher.update(piece));
            let digest = *hasher.finalize().as_bytes();
            self.kept.iter().for_each(|kept| kept.save(of, &digest));
            digest
        };
        let known = || self.kept.as_ref().and_then(|kept| kept.load(of));
        once(&self.memos[of as usize], || known().unwrap_or_else(compute))
    }
}

/// Names of whole files' quantisation, by llama.cpp's numbers (`general.file_type`).
const FILE_TYPES: &[(u32, &str)] = &[
    (0, "F32"),
    (1, "F16"),
    (2, "Q4_0"),
    (3, "Q4_1"),
    (7, "Q8_0"),
    (8, "Q5_0"),
    (9, "Q5_1"),
    (10, "Q2_K"),
    (11, "Q3_K_S"),
    (12, "Q3_K_M"),
    (13, "Q3_K_L"),
    (14, "Q4_K_S"),
    (15, "Q4_K_M"),
    (16, "Q5_K_S"),
    (17, "Q5_K_M"),
    (18, "Q6_K"),
    (19, "IQ2_XXS"),
    (20, "IQ2_XS"),
    (21, "Q2_K_S"),
    (22, "IQ3_XS"),
    (23, "IQ3_XXS"),
    (24, "IQ1_S"),
    (25, "IQ4_NL"),
    (26, "IQ3_S"),
    (27, "IQ3_M"),
    (28, "IQ2_S"),
    (29, "IQ2_M"),
    (30, "IQ4_XS"),
    (31, "IQ1_M"),
    (32, "BF16"),
    (36, "TQ1_0"),
    (37, "TQ2_0"),
    (38, "MXFP4"),
];

/// The name that a file says or, if it says none, its architecture and size.
fn name(gguf: &Gguf) -> String {
    let text = |key| gguf.string(key).ok().flatten().map(str::trim).filter(|text| !text.is_empty());
    let kind = || {
        let words = ["general.basename", "general.architecture"].into_iter().find_map(text);
        [words, text("general.size_label")].into_iter().flatten().collect::<Vec<_>>().join(" ")
    };
    printable(&text("general.name").map_or_else(kind, String::from))
}

/// The quantisation that a file says or, if it says none that is known, the format of most of its bytes.
fn format(gguf: &Gguf) -> &'static str {
    let stated = gguf.u32("general.file_type").ok().flatten();
    FILE_TYPES.iter().find(|row| Some(row.0) == stated).map_or_else(|| most(gguf), |row| row.1)
}

/// The format that most bytes are stored in.
fn most(gguf: &Gguf) -> &'static str {
    let bytes = |name: &str| -> u64 {
        let of = gguf.tensors().iter().filter(|tensor| tensor.format.name == name);
        of.fold(0, |sum, tensor| sum.saturating_add(tensor.bytes))
    };
    let formats = crate::quant::FORMATS.iter().map(|format| format.name);
    formats.max_by_key(|name| bytes(name)).unwrap_or_default()
}
