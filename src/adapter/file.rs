//! Reading and writing adapters: mynah's container, kind `adapter`. They are written packed, and read in both spellings.
//!
//! ```text
//! head        facts (below)
//! params      the parameters, encoded by the codec
//! provenance  facts; optional
//! probe       what it did where it was made, see [`super::probe`]; optional
//! …           sections of the kind
//! ```
//!
//! Facts of every head: `kind`; `base.architecture`, `base.content`, `base.tokenizer`; `targets`, one text for each
//! place and shape, `attn_q 576 576 0-29` (name, width of input and output, ranges of blocks, or `-` outside of blocks);
//! `codec`. The other facts are defined by the kind ([`Adapter::record`]).
//!
//! `base.content` is the digest of the base's tensors, the BLAKE3 hash of [`Gguf::content`](crate::gguf::Gguf::content),
//! and `base.tokenizer` that of its tokenizer. Both are lower-case hexadecimal and may be cut short: 32 and 16 digits are
//! enough, and as many are written. Files of earlier versions have `base.fingerprint` in place of the first, the hash of the whole model file.
//!
//! `lora`, `nola` and `uni` add `scaling`, `rank` or `root`; `rank` and `alpha`, or where sites differ the sections `ranks`, u32
//! a site, and `alphas`, f32 a site. `lora` may add `seed` and `generator`, from which A was drawn. `nola` adds
//! `bases.a`, `bases.b`, `basis`, `seed`, `generator` and `canary`, the BLAKE3 of the first values of all its streams:
//! it is loaded only if the streams give the same values; and, for streams that do not follow from the seed, the
//! sections `seeds`, two u64 a site, and `start`, A₀ of all sites as f32. `sparse` adds `values` and
//! those of its other settings that differ from their defaults, and where its positions do not follow from them the section
//! `positions`. The other kinds add the values of their settings, `seed` and `generator`; those of low rank, and `lora` from
//! another start than the usual one, `canary` too.
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

use super::base::title;
use super::foreign;
use super::place::{self, Shaped};
use super::{Adapter, Base, Kind, Part, compress};
use crate::bytes::{Bytes, Limits};
use crate::container::codec::{Codec, Params, Whole};
use crate::container::head::Head;
use crate::container::{Builder, Container};
use crate::error::{Error, Result, printable};
use crate::knob::{Values, resolve};
use crate::rng::GENERATOR;
use std::prelude::v1::*;

const KIND: &str = "adapter";
/// The facts that identify a base: its tensors, in earlier versions its whole file, and its tokenizer.
const CONTENT: &str = "base.content";
const FILE: &str = "base.fingerprint";
const TOKENIZER: &str = "base.tokenizer";
/// Digits of these in files: 128 bits, so that nobody can make another base with the same, and 64 bits, enough to tell
/// tokenizers apart where the base is the same.
const BASE_DIGITS: usize = 32;
const TOKENIZER_DIGITS: usize = 16;
const SECTIONS: [&str; 4] = ["head", "params", "provenance", "probe"];

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
    /// What people call the base that it was trained on ([`Base::name`]); empty in files of earlier versions.
    pub base: String,
    /// How most of that was stored ([`Base::format`]); empty likewise.
    pub format: String,
}

impl Provenance {
    /// The base that it was trained on, for eyes; empty if that is not known.
    pub fn title(&self) -> String {
        title(&self.base, &self.format)
    }

    fn head(&self) -> Head {
        let mut head = Head::new();
        // 128 bits tell data apart, and single precision losses.
        let data = self.data.get(..32).unwrap_or(&self.data);
        head.set("objective", self.objective.as_str()).set("data", data).set("steps", self.steps);
        for (key, loss) in [("loss.first", self.first_loss), ("loss.last", self.last_loss)] {
            if let Some(loss) = loss.map(|x| x as f32).filter(|x| x.is_finite()) {
                head.set(key, f64::from(loss));
            }
        }
        for (key, text) in [("rope", &self.rope), ("base.name", &self.base), ("base.format", &self.format)] {
            if !text.is_empty() {
                head.set(key, text.as_str());
            }
        }
        head
    }

    fn read(head: &Head) -> Result<Provenance> {
        let loss = |key| head.get(key).map(|_| head.real(key)).transpose();
        let text = |key| -> Result<String> {
            Ok(head.get(key).map(|_| head.text(key)).transpose()?.unwrap_or_default().into())
        };
        Ok(Provenance {
            objective: head.text("objective")?.into(),
            data: head.text("data")?.into(),
            steps: head.integer("steps")?,
            first_loss: loss("loss.first")?,
            last_loss: loss("loss.last")?,
            rope: text("rope")?,
            base: text("base.name")?,
            format: text("base.format")?,
        })
    }
}

/// The bytes of a file, with the codec that takes the fewest bytes among those that hold the parameters exactly; where
/// none takes fewer than f16, they are rounded to f16. Equal adapters give the same bytes.
///
/// # Errors
/// `Invalid` if a parameter is not finite or too large for the codec.
pub fn to_bytes(adapter: &dyn Adapter, base: &Base, provenance: &Provenance) -> Result<Vec<u8>> {
    let most = adapter.params().len().saturating_mul(2);
    match with_params(adapter, |params| Codec::smallest(adapter.params(), params, most)) {
        Some((codec, bytes)) => write(adapter, base, provenance, codec, bytes),
        None => to_bytes_as(adapter, base, provenance, "f16"),
    }
}

/// The bytes of a file with a codec of `codec::CODECS`, for example `f32`.
///
/// # Errors
/// Also `Unsupported` for an unknown codec.
pub fn to_bytes_as(adapter: &dyn Adapter, base: &Base, provenance: &Provenance, codec: &str) -> Result<Vec<u8>> {
    let codec = Codec::by_name(codec)?;
    let bytes = with_params(adapter, |params| codec.encode(adapter.params(), params))?;
    write(adapter, base, provenance, codec, bytes)
}

/// The bytes of a file with the parameters that a compressor makes of those of `adapter`, which keeps its own.
///
/// # Errors
/// Those of [`to_bytes_as`]; `Invalid` and `Unsupported` for a compressor that cannot be used.
pub fn packed(
    adapter: &mut dyn Adapter,
    base: &Base,
    provenance: &Provenance,
    codec: &compress::Spec,
) -> Result<Vec<u8>> {
    let before = adapter.params().to_vec();
    let mut values = before.clone();
    with_params(adapter, |params| codec.round(&mut values, params))?;
    adapter.params_mut().copy_from_slice(&values);
    let bytes = to_bytes_as(adapter, base, provenance, &codec.kind);
    adapter.params_mut().copy_from_slice(&before);
    bytes
}

fn write(
    adapter: &dyn Adapter,
    base: &Base,
    provenance: &Provenance,
    codec: &Codec,
    params: Vec<u8>,
) -> Result<Vec<u8>> {
    base.frozen.as_ref().map_or(Ok(()), |model| model.check())?;
    let (mut head, sections) = describe(adapter, base);
    for (key, digest, digits) in [(CONTENT, &base.content, BASE_DIGITS), (TOKENIZER, &base.tokenizer, TOKENIZER_DIGITS)]
    {
        head.set(key, hex(digest).get(..digits).unwrap_or_default());
    }
    head.set("codec", codec.name);
    let mut file = Builder::new(KIND).section("params", true, params);
    for (name, bytes) in sections {
        file = file.section(name, true, bytes);
    }
    file = file.packed_facts("head", true, &head);
    if *provenance != Provenance::default() {
        file = file.packed_facts("provenance", false, &provenance.head());
    }
    Ok(file.finish_packed())
}

/// Calls `f` with the description of an adapter's parameters, as codecs see it.
pub(crate) fn with_params<T>(adapter: &dyn Adapter, f: impl FnOnce(&Params) -> T) -> T {
    let parts = wholes(&adapter.shape().parts);
    f(&Params { parts: &parts, start: &|part, out| adapter.start(part, out) })
}

/// Parts as codecs see them.
fn wholes(parts: &[Part]) -> Vec<Whole<'static>> {
    parts.iter().map(|p| Whole { name: p.name, cols: p.cols, len: p.range.len() }).collect()
}

/// The facts that, with its parameters, determine what an adapter computes. Metadata of the base count too, so they tell of
/// its whole file.
pub fn facts(adapter: &dyn Adapter, base: &Base) -> Head {
    let (mut head, sections) = describe(adapter, base);
    head.set(FILE, hex(&base.file())).set(TOKENIZER, hex(&base.tokenizer));
    // The growth of an adapter belongs to the state of a run, not to its description.
    for (name, bytes) in sections.into_iter().filter(|(name, _)| !adapter.kind().grown.contains(name)) {
        head.set(name, hex(blake3::hash(&bytes).as_bytes()));
    }
    head
}

/// Facts and sections of a file, without the parameters and the identity of the base.
fn describe(adapter: &dyn Adapter, base: &Base) -> (Head, Vec<(&'static str, Vec<u8>)>) {
    let mut head = Head::new();
    head.set("kind", adapter.kind().name);
    head.set("base.architecture", base.architecture.as_str());
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
    /// The same architecture, shapes and tokenizer: for another quantisation of the same model, at the caller's risk.
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
    check_identity(container, head, base, limits, fit)?;

    let codec = head.text("codec")?;
    (kind.read)(Stored { places, base, head, container, limits, codec })
}

/// An adapter of a kind whose file holds nothing but places, settings and parameters, from these: for each place the
/// values of its parts, one after the other. Settings that are not given are the defaults.
///
/// # Errors
/// Those of the kind, as for a file that says this; `Mismatch` where `base` lacks a place.
pub(super) fn built(
    kind: &Kind,
    mut values: Vec<(place::Place, Vec<f32>)>,
    settings: &Values,
    base: &Base,
    limits: &Limits,
) -> Result<Box<dyn Adapter>> {
    values.sort_by_key(|(place, _)| *place);
    let shaped = |(place, _): &(place::Place, Vec<f32>)| Ok((*place, base.place(*place)?));
    let places = values.iter().map(shaped).collect::<Result<Vec<Shaped>>>()?;
    let mut head = Head::new();
    head.set("seed", 0u64).set("generator", GENERATOR);
    resolve(kind.name, kind.knobs, settings)?.write(&mut head);
    let params: Vec<u8> = values.into_iter().flat_map(|(_, values)| values).flat_map(|v| v.to_le_bytes()).collect();
    let container = Container::read(Builder::new(KIND).section("params", true, params).finish().into(), limits)?;
    (kind.read)(Stored { places, base, head: &head, container: &container, limits, codec: "f32" })
}

/// Whether the base is that of the training, as far as `fit` asks.
fn check_identity(container: &Container, head: &Head, base: &Base, limits: &Limits, fit: Fit) -> Result<()> {
    let recorded = head.text(TOKENIZER)?;
    if !agrees(TOKENIZER, recorded, &base.tokenizer, TOKENIZER_DIGITS)? {
        let said = |digest: &str| format!("({}…)", printable(digest.get(..16).unwrap_or(digest)));
        let found = format!("another {}; attach it to the model that it was trained on", said(&hex(&base.tokenizer)));
        return Err(Error::mismatch(
            "tokenizer of the base",
            format!("that of its training {}", said(recorded)),
            found,
        ));
    }
    if fit == Fit::Shapes {
        return Ok(());
    }
    let key = if head.get(CONTENT).is_some() { CONTENT } else { FILE };
    let (recorded, found) = (head.text(key)?, if key == CONTENT { base.content } else { base.file() });
    if agrees(key, recorded, &found, BASE_DIGITS)? {
        return Ok(());
    }
    // Names tell two models apart, and the first digits two files of one name.
    let said = |name: &str, digest: &str| {
        let digits = digest.get(..16).unwrap_or(digest);
        if name.is_empty() { format!("({digits}…)") } else { format!("of {name} ({digits}…)") }
    };
    let trained_on = origin(container, limits).ok().flatten().unwrap_or_default().title();
    let wanted = format!("those of its training, {}", said(&trained_on, recorded));
    let here = said(&base.title(), &hex(&found));
    let found = format!("others, {here}; attach it to the very model that it was trained on");
    Err(Error::mismatch("weights of the base", wanted, found))
}

/// Whether a recorded digest, which may be cut short, is the beginning of `digest`.
///
/// # Errors
/// `Corrupt` unless it has `least` to 64 lower-case hexadecimal digits.
fn agrees(key: &str, recorded: &str, digest: &[u8; 32], least: usize) -> Result<bool> {
    let digits = recorded.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    match digits && (least..=64).contains(&recorded.len()) {
        true => Ok(hex(digest).starts_with(recorded)),
        false => Err(Error::corrupt(format!("head: {key} is no digest of {least} to 64 digits"), 0)),
    }
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
    /// The seed of random values.
    ///
    /// # Errors
    /// `Unsupported` if another generator drew them.
    pub fn seed(&self) -> Result<u64> {
        let generator = self.head.text("generator")?;
        if generator != GENERATOR {
            return Err(Error::unsupported("generator", format!("{generator}; this build has {GENERATOR}")));
        }
        self.head.integer("seed")
    }

    /// The parameters of these parts. `start(part, values)` gives the values of a part before the first step; codecs of
    /// differences call it.
    ///
    /// # Errors
    /// `Corrupt` if the section holds another number of values, or one that is not finite.
    pub fn params(&self, parts: &[Part], start: impl Fn(usize, &mut [f32])) -> Result<Vec<f32>> {
        let parts = wholes(parts);
        let params = Params { parts: &parts, start: &start };
        Codec::by_name(self.codec)?.decode(&self.container.require("params")?, &params)
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
    let provenance = origin(&container, limits)?;
    let sections = container.sections().map(|(name, _, n)| (name.into(), n)).collect();
    Ok(Info { head, provenance, sections, bytes: len })
}

fn origin(container: &Container, limits: &Limits) -> Result<Option<Provenance>> {
    let facts = container.section("provenance").map(|_| container.facts("provenance", limits)).transpose()?;
    facts.map(|head| Provenance::read(&head)).transpose()
}

pub(super) fn open(bytes: Bytes, limits: &Limits) -> Result<(Container, Head)> {
    let container = Container::read(bytes.clone(), limits).map_err(|e| foreign::file(bytes, limits).unwrap_or(e))?;
    container.require_kind(KIND)?;
    let head = container.facts("head", limits)?;
    Ok((container, head))
}

/// Digits of a canary: it tells other streams from these, and nobody gains by a forgery.
const CANARY: usize = 8;

/// Records the digest of the first values of random streams.
pub(super) fn set_canary(head: &mut Head, digest: &[u8; 32]) {
    head.set("canary", hex(digest).get(..CANARY).unwrap_or_default());
}

/// # Errors
/// `Mismatch` if the streams of this build give other values than those of the build that wrote the file.
pub(super) fn check_canary(head: &Head, digest: &[u8; 32]) -> Result<()> {
    let (wanted, found) = (head.text("canary")?, hex(digest));
    match wanted.len() >= CANARY && found.starts_with(wanted) {
        true => Ok(()),
        false => Err(Error::mismatch("canary of the random streams", printable(wanted), found)),
    }
}

fn hex(digest: &[u8; 32]) -> String {
    blake3::Hash::from(*digest).to_hex().as_str().into()
}

/// A section of 4-byte values.
pub(super) fn words<'a>(what: &str, bytes: &'a Bytes, n: usize) -> Result<&'a [[u8; 4]]> {
    match bytes.as_chunks::<4>() {
        (words, []) if words.len() == n => Ok(words),
        _ => Err(Error::corrupt(format!("{} bytes of {what} for {n}", bytes.len()), 0)),
    }
}
