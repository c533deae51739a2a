//! Adapters to and from our container, kind `adapter`.
//!
//! ```text
//! head        facts (below)
//! params      the parameters of all sites in order, spelt by the codec
//! ranks       u32 a site; only if sites differ
//! alphas      f32 a site; only if sites differ
//! provenance  facts; optional
//! seeds, start   `nola` with streams that did not come from our seed: two u64 a site; A₀ of all sites as f32
//! ```
//!
//! Facts of every head: `kind`; `base.architecture`, `base.fingerprint`, `base.tokenizer`; `targets`, one text for each
//! linear layer and shape, `attn_q 576 576 0-29` (name, inputs, outputs, ranges of blocks); `codec`; `scaling`, `rank`
//! or `root`; `rank` and `alpha` unless their sections are there. `lora` may add `seed` and `generator`, from which A
//! was drawn. `nola` adds `bases.a`, `bases.b`, `basis`, `seed`, `generator` and `canary`, the BLAKE3 of the first
//! values of all its streams: it is loaded only where they come out the same.

use super::lowrank::{Layout, Slot};
use super::site::{read_targets, spell_targets};
use super::{Adapter, Base, Kind};
use crate::bytes::{Bytes, Limits};
use crate::container::head::Head;
use crate::container::{Builder, Container, codec};
use crate::error::{Error, Result};
use std::prelude::v1::*;

const KIND: &str = "adapter";
const SECTIONS: [&str; 5] = ["head", "params", "ranks", "alphas", "provenance"];

/// Where an adapter comes from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Provenance {
    /// What it was trained for, or the program and format it was converted from.
    pub objective: String,
    /// Digest of the training data.
    pub data: String,
    /// Steps of the optimiser.
    pub steps: u64,
    /// Loss of the first step.
    pub first_loss: Option<f64>,
    /// Loss of the last step.
    pub last_loss: Option<f64>,
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
        })
    }
}

/// The bytes of a file, its parameters rounded to half floats. The same adapter gives the same bytes.
///
/// # Errors
/// `Invalid` if a parameter is not finite or too large for the codec.
pub fn to_bytes(adapter: &dyn Adapter, base: &Base, provenance: &Provenance) -> Result<Vec<u8>> {
    to_bytes_as(adapter, base, provenance, "f16")
}

/// The same with a codec of [`codec::CODECS`], `f32` for example.
///
/// # Errors
/// Also `Unsupported` for an unknown codec.
pub fn to_bytes_as(adapter: &dyn Adapter, base: &Base, provenance: &Provenance, codec: &str) -> Result<Vec<u8>> {
    let (mut head, sections) = describe(adapter, base);
    head.set("codec", codec);
    let mut file = Builder::new(KIND).section("params", true, codec::encode(codec, adapter.params())?);
    for (name, bytes) in sections {
        file = file.section(name, true, bytes);
    }
    file = file.section("head", true, head.encode());
    if *provenance != Provenance::default() {
        file = file.section("provenance", false, provenance.head().encode());
    }
    Ok(file.finish())
}

/// What an adapter is but for the values of its parameters: two of the same facts compute the same from the same
/// parameters.
pub fn facts(adapter: &dyn Adapter, base: &Base) -> Head {
    let (mut head, sections) = describe(adapter, base);
    for (name, bytes) in sections {
        head.set(name, hex(blake3::hash(&bytes).as_bytes()));
    }
    head
}

/// Facts and sections of a file, without the parameters.
fn describe(adapter: &dyn Adapter, base: &Base) -> (Head, Vec<(&'static str, Vec<u8>)>) {
    let layout = adapter.layout();
    let slots = layout.slots();
    let mut head = Head::new();
    head.set("kind", adapter.kind());
    head.set("base.architecture", base.architecture.as_str());
    head.set("base.fingerprint", hex(&base.fingerprint)).set("base.tokenizer", hex(&base.tokenizer));
    let sites: Vec<_> = slots.iter().map(|s| (s.site, s.shape)).collect();
    head.set("targets", spell_targets(&sites));
    head.set("scaling", if layout.stabilised() { "root" } else { "rank" });
    adapter.describe(&mut head);

    let mut sections = adapter.sections();
    match slots {
        [first, rest @ ..] if rest.iter().all(|s| s.rank == first.rank) => _ = head.set("rank", first.rank as u64),
        _ => sections.push(("ranks", each(slots, |s| (s.rank as u32).to_le_bytes()))),
    }
    match slots {
        [first, rest @ ..] if rest.iter().all(|s| s.alpha == first.alpha) => {
            head.set("alpha", f64::from(first.alpha));
        }
        _ => sections.push(("alphas", each(slots, |s| s.alpha.to_le_bytes()))),
    }
    (head, sections)
}

/// How well the base at hand must fit the one a file was trained on.
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
/// `Corrupt`, `Limit` and `Unsupported` as the file deserves; `Mismatch` naming what differs if the base is another;
/// `Invalid` if it would change nothing.
pub fn from_bytes(bytes: Bytes, base: &Base, limits: &Limits) -> Result<Box<dyn Adapter>> {
    refuse_idle(restore(bytes, base, limits, Fit::Same)?)
}

/// The same for a base of which only the shapes must fit.
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

/// An adapter from a file even if it changes nothing yet, to go on training.
///
/// # Errors
/// As [`from_bytes`], but for that.
pub fn restore(bytes: Bytes, base: &Base, limits: &Limits, fit: Fit) -> Result<Box<dyn Adapter>> {
    let (container, head) = open(bytes, limits)?;
    let kind = Kind::by_name(head.text("kind")?)?;
    container.refuse_unknown(&[&SECTIONS, kind.sections].concat())?;

    let architecture = head.text("base.architecture")?;
    if architecture != base.architecture {
        return Err(Error::mismatch(
            "architecture of the base",
            crate::error::printable(architecture),
            crate::error::printable(&base.architecture),
        ));
    }
    let sites = read_targets(head.list("targets")?, base)?;
    if sites.is_empty() {
        return Err(Error::invalid("adapter", "it changes nothing: it has no targets"));
    }
    for (what, found) in [("base.fingerprint", &base.fingerprint), ("base.tokenizer", &base.tokenizer)] {
        let wanted = head.text(what)?;
        if fit == Fit::Same && wanted != hex(found) {
            let name = if what == "base.tokenizer" { "tokenizer of the base" } else { "weights of the base" };
            return Err(Error::mismatch(name, crate::error::printable(wanted), hex(found)));
        }
    }

    let stabilised = match head.text("scaling")? {
        "rank" => false,
        "root" => true,
        other => return Err(Error::unsupported("scaling", other)),
    };
    let ranks: Vec<u64> = match container.section("ranks") {
        Some(bytes) => words("ranks", &bytes, sites.len())?.iter().map(|w| u64::from(u32::from_le_bytes(*w))).collect(),
        None => vec![head.integer("rank")?; sites.len()],
    };
    let alphas: Vec<f32> = match container.section("alphas") {
        Some(bytes) => words("alphas", &bytes, sites.len())?.iter().map(|w| f32::from_le_bytes(*w)).collect(),
        None => vec![head.real("alpha")? as f32; sites.len()],
    };
    let mut slots = Vec::with_capacity(sites.len());
    for (site, (rank, alpha)) in sites.into_iter().zip(ranks.into_iter().zip(alphas)) {
        Limits::check("rank", rank, limits.rank)?;
        slots.push(Slot::new(site, base, usize::try_from(rank).unwrap_or(usize::MAX), alpha, stabilised)?);
    }
    let codec = head.text("codec")?;
    let layout = Layout::new(slots, stabilised);
    (kind.read)(Stored { layout, base, head: &head, container: &container, codec })
}

/// What a kind reads itself from.
pub struct Stored<'a> {
    /// Where it attaches, checked against the base.
    pub layout: Layout,
    /// What it attaches to.
    pub base: &'a Base,
    /// The facts.
    pub head: &'a Head,
    /// The sections.
    pub container: &'a Container,
    codec: &'a str,
}

impl Stored<'_> {
    /// The `n` parameters.
    ///
    /// # Errors
    /// `Corrupt` if the section holds another number, or one that is not finite.
    pub fn params(&self, n: usize) -> Result<Vec<f32>> {
        codec::decode(self.codec, &self.container.require("params")?, n)
    }
}

/// What a file says of itself, without a base.
#[derive(Clone, Debug)]
pub struct Info {
    /// All facts of its head.
    pub head: Head,
    /// Where it comes from, if it says so.
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

/// Reads what a file says of itself. Does not decode parameters.
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
    let container = Container::read(bytes, limits)?;
    container.require_kind(KIND)?;
    let head = Head::decode(&container.require("head")?, limits)?;
    Ok((container, head))
}

fn hex(digest: &[u8; 32]) -> String {
    blake3::Hash::from(*digest).to_hex().as_str().into()
}

fn each(slots: &[Slot], word: impl Fn(&Slot) -> [u8; 4]) -> Vec<u8> {
    slots.iter().flat_map(word).collect()
}

fn words<'a>(what: &str, bytes: &'a Bytes, n: usize) -> Result<&'a [[u8; 4]]> {
    match bytes.as_chunks::<4>() {
        (words, []) if words.len() == n => Ok(words),
        _ => Err(Error::corrupt(format!("{} bytes of {what} for {n} sites", bytes.len()), 0)),
    }
}
