//! Quantising: a file of the same model in another type.

use super::{Importance, Mix, Progress, Step, check, pairs_of, sorted, write};
use crate::bytes::Sink;
use crate::error::{Error, Result, printable};
use crate::gguf::Gguf;
use crate::kernel::Compute;
use std::collections::BTreeMap;
use std::prelude::v1::*;

/// The version of the block formats that a file says it has.
pub(super) const FORMATS_VERSION: u32 = 2;

/// How a file is quantised.
pub struct Quantise<'a> {
    /// To what.
    pub to: &'static Mix,
    /// How much the columns of the matrices matter, if that was measured.
    pub importance: Option<&'a Importance>,
    /// Whether what is rounded already may be rounded again, which loses more than doing it once.
    pub again: bool,
}

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quantised {
    /// Bytes of all tensors, before and after.
    pub bytes: [u64; 2],
    /// Tensors of each format.
    pub formats: BTreeMap<&'static str, usize>,
    /// Matrices that an importance matrix says nothing of.
    pub unmeasured: Vec<String>,
}

/// Writes the model of `gguf` in another type: the bytes that llama.cpp's quantiser writes. Metadata are kept.
///
/// # Errors
/// `Invalid` if a tensor is quantised already and may not be rounded again, or has values that are too large; `Corrupt` for
/// one that is no number, `Unsupported` for a format that is not known; `Mismatch` if `importance` is of another model;
/// those of the sink, and `Altered` if the file changes meanwhile.
pub fn quantise(
    gguf: &Gguf,
    how: &Quantise,
    cx: &Compute,
    sink: &mut dyn Sink,
    progress: &mut dyn FnMut(Progress),
) -> Result<Quantised> {
    gguf.check_model()?;
    let tensors = sorted(gguf);
    let formats = how.to.formats(gguf, &tensors, how.importance.is_some())?;
    let mut report = Quantised::default();
    let mut steps = Vec::new();
    for (tensor, to) in tensors.into_iter().zip(formats) {
        let changes = !core::ptr::eq(to, tensor.format);
        if changes && tensor.format.is_quantised() && !how.again {
            let name = printable(&tensor.name);
            let why = format!(
                "it is {} already, and rounding it again loses more; take a file of F32, F16 or BF16, or allow it",
                tensor.format.name
            );
            return Err(Error::invalid(format!("tensor `{name}`"), why));
        }
        let importance = match how.importance {
            Some(importance) if changes => importance.of(tensor)?,
            _ => None,
        };
        if how.importance.is_some() && importance.is_none() && changes && to.weighted.is_some() {
            report.unmeasured.push(printable(&tensor.name));
        }
        *report.formats.entry(to.name).or_default() += 1;
        let mut step = Step { importance, ..Step::new(gguf, tensor, to)? };
        // One row is a vector in files of llama.cpp's.
        if let [_, 1] = step.dims[..] {
            step.dims.truncate(1);
        }
        report.bytes[0] += tensor.bytes;
        report.bytes[1] += step.bytes();
        steps.push(step);
    }
    let mut head = pairs_of(gguf, &["general.quantization_version", "general.file_type"]);
    head.set("general.quantization_version", FORMATS_VERSION).set("general.file_type", how.to.file_type);
    if let Some(importance) = how.importance {
        importance.record(&mut head);
    }
    write(head, &steps, cx, &|| check(gguf), sink, progress)?;
    Ok(report)
}
