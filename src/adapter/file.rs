//! Reading and writing adapters: mynah's container, kind `adapter`.
//!
//! ```text
//! head        facts (below)
//! params      the parameters, part by part, each encoded by the codec
//! provenance  facts; optional
//! …           sections of the kind
//! ```
//!
//! Facts of every head: `kind`; `base.architecture`, `base.fingerprint`, `base.tokenizer`; `targets`, one text for each
//! place and shape, `attn_q 576 576 0-29` (name, width of input and output, ranges of blocks, or `-` outside of blocks);
//! `codec`. The other facts are defined by the kind ([`Adapter::record`]).
//!
//! Low-rank kinds add `scaling`, `rank` or `root`; `rank` and `alpha`, or where sites differ the sections `ranks`, u32
//! a site, and `alphas`, f32 a site. `lora` may add `seed` and `generator`, from which A was drawn. `nola` adds
//! `bases.a`, `bases.b`, `basis`, `seed`, `generator` and `canary`, the BLAKE3 of the first values of all its streams:
//! it is loaded only if the streams give the same values; and, for streams that do not follow from the seed, the
//! sections `seeds`, two u64 a site, and `start`, A₀ of all sites as f32. The other kinds add the values of their
//! settings.
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

use super::foreign;
use super::place::{self, Shaped};
use super::{Adapter, Base, Kind, Part};
use crate::bytes::{Bytes, Limits};
use crate::container::head::Head;
use crate::container::{Builder, Container, codec};
use crate::error::{Error, Result, printable};
use std::prelude::v1::*;

const KIND: &str = "adapter";
const SECTIONS: [&str; 3] = ["head", "params", "provenance"];

/// The origin of an adapter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Provenance {
    /// The objective that it was trained for, or the program and format that it was converted from.
    pub objective: String,
    /// Digest of the training data.
    pub data: String,
    /// Steps of the optimiser.
    pub steps: u64,
    /// Loss at the beginning: a mean over several steps where there are enough.
    pub first_loss: Option<f64>,
    /// Loss at the end, likewise.
    pub last_loss: Option<f64>,
    /// The rotary frequencies that it was trained with, `long` or `short`, where the base has both; else empty.
    pub rope: String,
}

impl Provenance {
    fn head(&self) -> Head {
        let mut head = Head::new();
        head.set("objective", self.objective.as_str()).set("data", self.data.as_str()).set("steps", self.steps);
        for (key, loss) in [("loss.first", self.first_loss), ("loss.last", self.last_loss)] {
            if let Some(loss) = loss.filter(|x| x.is_finite()) {
                head.set(key, loss);
            }
        }
        if !self.rope.is_empty() {
            head.set("rope", self.rope.as_str());
        }
        head
    }

    fn read(head: &Head) -> Result<Provenance> {
        let loss = |key| head.get(key).map(|_| head.real(key)).transpose();
        Ok(Provenance {
            objective: head.text("objective")?.into(),
            data: head.text("data")?.into(),
            steps: head.integer("steps")?,
            first_loss: loss("loss.first")?,
            last_loss: loss("loss.last")?,
            rope: head.get("rope").map(|_| head.text("rope")).transpose()?.unwrap_or_default().into(),
        })
    }
}

/// The bytes of a file with parameters rounded to f16. Equal adapters give the same bytes.
///
/// # Errors
/// `Invalid` if a parameter is not finite or too large for the codec.
pub fn to_bytes(adapter: &dyn Adapter, base: &Base, provenance: &Provenance) -> Result<Vec<u8>> {
    to_bytes_as(adapter, base, provenance, "f16")
}

/// The bytes of a file with a codec of `codec::CODECS`, for example `f32`.
///
/// # Errors
/// Also `Unsupported` for an unknown codec.
pub fn to_bytes_as(adapter: &dyn Adapter, base: &Base, provenance: &Provenance, codec: &str) -> Result<Vec<u8>> {
    base.frozen.as_ref().map_or(Ok(()), |model| model.check())?;
    let (mut head, sections) = describe(adapter, base);
    head.set("codec", codec);
    let mut file = Builder::new(KIND).section("params", true, encode(adapter, codec)?);
    for (name, bytes) in sections {
        file = file.section(name, true, bytes);
    }
    file = file.section("head", true, head.encode());
    if *provenance != Provenance::default() {
        file = file.section("provenance", false, provenance.head().encode());
    }
    Ok(file.finish())
}

/// The facts that, with its parameters, determine what an adapter computes.
pub fn facts(adapter: &dyn Adapter, base: &Base) -> Head {
    let (mut head, sections) = describe(adapter, base);
    // The growth of an adapter belongs to the state of a run, not to its description.
    for (name, bytes) in sections.into_iter().filter(|(name, _)| !adapter.kind().grown.contains(name)) {
        head.set(name, hex(blake3::hash(&bytes).as_bytes()));
    }
    head
}

/// The parameters, part by part.
fn encode(adapter: &dyn Adapter, codec: &str) -> Result<Vec<u8>> {
    let codec = codec::Codec::by_name(codec)?;
    let (params, mut start) = (adapter.params(), Vec::new());
    // Growing, it would take three times as much for a moment.
    let mut bytes = Vec::with_capacity((codec.least)(params.len()));
    for (i, part) in adapter.shape().parts.iter().enumerate() {
        if codec.from_start {
            start.resize(part.range.len(), 0.0);
            adapter.start(i, &mut start);
        }
        let whole = codec::Whole { name: part.name, cols: part.cols, len: part.range.len(), start: &start };
        let values = params.get(part.range.clone()).unwrap_or_default();
        codec.encode(values, &whole, &mut bytes)?;
    }
    bytes.shrink_to_fit();
    Ok(bytes)
}

/// Facts and sections of a file, without the parameters.
fn describe(adapter: &dyn Adapter, base: &Base) -> (Head, Vec<(&'static str, Vec<u8>)>) {
    let mut head = Head::new();
    head.set("kind", adapter.kind().name);
    head.set("base.architecture", base.architecture.as_str());
    head.set("base.fingerprint", hex(&base.fingerprint)).set("base.tokenizer", hex(&base.tokenizer));
    set_places(&mut head, &adapter.shape().places());
    let sections = adapter.record(&mut head);
    (head, sections)
}

/// Writes the places of an adapter.
pub(super) fn set_places(head: &mut Head, places: &[Shaped]) {
    head.set("targets", place::spell(places));
}

/// How well a base must match the one that an adapter was trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// The same weights and tokenizer.
    Same,
    /// The same architecture and shapes: for another quantisation of the same model, at the caller's risk.
    Shapes,
}

/// An adapter from a file, for the base it was trained on. It must be prepared before it is used.
///
/// # Errors
/// `Corrupt`, `Limit` and `Unsupported` for such files; `Mismatch` naming what differs if the base is another;
/// `Invalid` if it would change nothing.
pub fn from_bytes(bytes: Bytes, base: &Base, limits: &Limits) -> Result<Box<dyn Adapter>> {
    refuse_idle(restore(bytes, base, limits, Fit::Same)?)
}

/// An adapter from a file, for a base that only needs to have the same shapes.
///
/// # Errors
/// As [`from_bytes`].
pub fn from_bytes_for_shapes(bytes: Bytes, base: &Base, limits: &Limits) -> Result<Box<dyn Adapter>> {
    refuse_idle(restore(bytes, base, limits, Fit::Shapes)?)
}

/// # Errors
/// `Invalid` if the adapter would change nothing.
pub fn refuse_idle(adapter: Box<dyn Adapter>) -> Result<Box<dyn Adapter>> {
    match adapter.changes_something() {
        true => Ok(adapter),
        false => Err(Error::invalid("adapter", "it changes nothing: it was not trained, or every B is zero")),
    }
}

/// An adapter from a file for further training; it may still change nothing.
///
/// # Errors
/// As [`from_bytes`], except for that.
pub fn restore(bytes: Bytes, base: &Base, limits: &Limits, fit: Fit) -> Result<Box<dyn Adapter>> {
    let (container, head) = open(bytes, limits)?;
    let kind = Kind::by_name(head.text("kind")?)?;
    read(&container, &head, kind, base, limits, fit)
}

/// An adapter of a known kind from a file for further training, for the base that it was trained on.
///
/// # Errors
/// Those of [`restore`]; `Mismatch` for another kind.
pub fn restore_as(kind: &Kind, bytes: Bytes, base: &Base, limits: &Limits) -> Result<Box<dyn Adapter>> {
    let (container, head) = open(bytes, limits)?;
    let found = head.text("kind")?;
    if found != kind.name {
        return Err(Error::mismatch("adapter kind", kind.name, printable(found)));
    }
    read(&container, &head, kind, base, limits, Fit::Same)
}

fn read(
    container: &Container,
    head: &Head,
    kind: &Kind,
    base: &Base,
    limits: &Limits,
    fit: Fit,
) -> Result<Box<dyn Adapter>> {
    container.refuse_unknown(&[&SECTIONS, kind.sections].concat())?;

    let architecture = head.text("base.architecture")?;
    if architecture != base.architecture {
        return Err(Error::mismatch(
            "architecture of the base",
            printable(architecture),
            printable(&base.architecture),
        ));
    }
    let places = place::read(head.list("targets")?, base)?;
    if places.is_empty() {
        return Err(Error::invalid("adapter", "it changes nothing: it has no targets"));
    }
    for (what, found) in [("base.fingerprint", &base.fingerprint), ("base.tokenizer", &base.tokenizer)] {
        let wanted = head.text(what)?;
        if fit == Fit::Same && wanted != hex(found) {
            let name = if what == "base.tokenizer" { "tokenizer of the base" } else { "weights of the base" };
            // The first digits tell two models apart.
            let [wanted, found] = [wanted, &hex(found)].map(|digest| printable(digest.get(..16).unwrap_or(digest)));
            let found = format!("others ({found}…); attach it to the very model file that it was trained on");
            return Err(Error::mismatch(name, format!("those of its training ({wanted}…)"), found));
        }
    }

    let codec = head.text("codec")?;
    (kind.read)(Stored { places, base, head, container, limits, codec })
}

/// The file that a kind is read from.
pub struct Stored<'a> {
    /// Its places, checked against the base.
    pub places: Vec<Shaped>,
    /// The base that it attaches to.
    pub base: &'a Base,
    /// The facts.
    pub head: &'a Head,
    /// The sections.
    pub container: &'a Container,
    /// Limits on the file.
    pub limits: &'a Limits,
    codec: &'a str,
}

impl Stored<'_> {
    /// The parameters of these parts. `start(part, values)` gives the values of a part before the first step; codecs of
    /// differences call it.
    ///
    /// # Errors
    /// `Corrupt` if the section holds another number of values, or one that is not finite.
    pub fn params(&self, parts: &[Part], start: impl Fn(usize, &mut [f32])) -> Result<Vec<f32>> {
        let codec = codec::Codec::by_name(self.codec)?;
        let bytes = self.container.require("params")?;
        // The number of bytes is checked before memory is reserved.
        let least = parts.iter().try_fold(0usize, |sum, p| sum.checked_add((codec.least)(p.range.len())));
        if least.is_none_or(|least| least > bytes.len()) {
            let n = parts.last().map_or(0, |p| p.range.end);
            return Err(Error::corrupt(format!("{} bytes of parameters for {n} values", bytes.len()), 0));
        }
        let mut rest = &bytes[..];
        let (mut params, mut begin) = (Vec::new(), Vec::new());
        for (i, part) in parts.iter().enumerate() {
            if codec.from_start {
                begin.clear();
                begin.resize(part.range.len(), 0.0);
                start(i, &mut begin);
            }
            let whole = codec::Whole { name: part.name, cols: part.cols, len: part.range.len(), start: &begin };
            params.extend(codec.decode(&mut rest, &whole)?);
        }
        match rest.len() {
            0 => Ok(params),
            more => {
                Err(Error::corrupt(format!("{more} bytes behind the parameters"), bytes.len().saturating_sub(more)))
            }
        }
    }
}

/// The description in a file, read without a base.
#[derive(Clone, Debug)]
pub struct Info {
    /// All facts of its head.
    pub head: Head,
    /// Its origin, if the file records it.
    pub provenance: Option<Provenance>,
    /// Its sections and their bytes.
    pub sections: Vec<(String, usize)>,
    /// Bytes of the file.
    pub bytes: usize,
}

impl Info {
    /// The kind of adapter.
    pub fn kind(&self) -> &str {
        self.head.text("kind").unwrap_or_default()
    }
}

/// Reads the description in a file, without its parameters.
///
/// # Errors
/// `Corrupt`, `Limit`, and `Mismatch` if it holds no adapter.
pub fn info(bytes: Bytes, limits: &Limits) -> Result<Info> {
    let len = bytes.len();
    let (container, head) = open(bytes, limits)?;
    head.text("kind")?;
    let provenance = container.section("provenance");
    let provenance = provenance.map(|b| Provenance::read(&Head::decode(&b, limits)?)).transpose()?;
    let sections = container.sections().map(|(name, _, n)| (name.into(), n)).collect();
    Ok(Info { head, provenance, sections, bytes: len })
}

fn open(bytes: Bytes, limits: &Limits) -> Result<(Container, Head)> {
    let container = Container::read(bytes.clone(), limits).map_err(|e| foreign::file(bytes, limits).unwrap_or(e))?;
    container.require_kind(KIND)?;
    let head = Head::decode(&container.require("head")?, limits)?;
    Ok((container, head))
}

fn hex(digest: &[u8; 32]) -> String {
    blake3::Hash::from(*digest).to_hex().as_str().into()
}

/// A section of 4-byte values, one a site.
pub(super) fn words<'a>(what: &str, bytes: &'a Bytes, n: usize) -> Result<&'a [[u8; 4]]> {
    match bytes.as_chunks::<4>() {
        (words, []) if words.len() == n => Ok(words),
        _ => Err(Error::corrupt(format!("{} bytes of {what} for {n} sites", bytes.len()), 0)),
    }
}
