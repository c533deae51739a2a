//! Low-rank kinds whose layout follows from their settings. Their files hold the places, the settings and the seed, as those
//! of `direct.rs` do; a kind implements [`Settled`].

use super::file::{self, Stored};
use super::lowrank::{self, Factors, Layout, LowRank};
use super::spec::RANK;
use super::{Adapter, Base, Kind, Shape, Site, Spec};
use crate::bytes::Limits;
use crate::container::head::Head;
use crate::error::{Error, Result};
use crate::knob::{Value, Values};
use crate::rng::{GENERATOR, Stream};
use std::prelude::v1::*;

/// What a user chose.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The values of all settings.
    pub values: Values,
    /// The seed of all random values.
    pub seed: u64,
}

impl Settings {
    /// A whole number.
    pub fn whole(&self, name: &str) -> usize {
        usize::try_from(self.values.whole(name)).unwrap_or(usize::MAX)
    }

    /// The stream of a site, or of what else is named.
    pub fn stream(&self, name: &impl ToString, role: &str) -> Stream {
        Stream::new(self.seed, &name.to_string(), role)
    }

    /// Fills `out` with values that are uniform in ±`bound`, from value `from` of a stream on.
    pub fn uniform(&self, name: &impl ToString, role: &str, from: usize, bound: f32, out: &mut [f32]) {
        self.stream(name, role).fill_uniform(from as u64, out);
        out.iter_mut().for_each(|v| *v *= bound);
    }
}

/// A low-rank kind whose layout follows from its settings.
pub trait Settled: Factors + Sized {
    /// Its row.
    const KIND: &'static Kind;

    /// The layout, and what else follows from the settings.
    ///
    /// # Errors
    /// `Invalid` for settings that cannot be used at these sites, naming them.
    fn make(settings: Settings, sites: &[Site], base: &Base) -> Result<(Layout, Self)>;

    /// Its settings.
    fn settings(&self) -> &Settings;
}

/// The description of a new adapter.
///
/// # Errors
/// Those of [`Spec::sites`] and [`Settled::make`].
pub fn shape<F: Settled>(spec: &Spec, base: &Base) -> Result<Shape> {
    let (layout, of) = made::<F>(spec, base)?;
    Ok(lowrank::shape(&layout, &of))
}

/// A new adapter.
///
/// # Errors
/// Likewise.
pub fn create<F: Settled>(spec: &Spec, base: &Base) -> Result<Box<dyn Adapter>> {
    let (layout, of) = made::<F>(spec, base)?;
    Ok(Box::new(fresh(layout, of)))
}

/// What a specification says.
///
/// # Errors
/// Likewise.
pub fn made<F: Settled>(spec: &Spec, base: &Base) -> Result<(Layout, F)> {
    F::make(Settings { values: spec.values()?, seed: spec.seed }, &spec.sites(base)?, base)
}

/// The adapter whose parts all hold what they start with.
pub fn fresh<F: Factors>(layout: Layout, of: F) -> LowRank<F> {
    let (parts, size) = of.parts(&layout);
    let mut params = vec![0.0; size.params];
    for (i, part) in parts.into_iter().enumerate() {
        of.start(&layout, i, &mut params[part.range]);
    }
    LowRank::new(layout, params, of)
}

/// An adapter from a file.
///
/// # Errors
/// Those of the file, of its settings and of [`Settled::make`].
pub fn read<F: Settled>(stored: Stored) -> Result<Box<dyn Adapter>> {
    let (head, kind) = (stored.head, F::KIND);
    let generator = head.text("generator")?;
    if generator != GENERATOR {
        return Err(Error::unsupported("generator", format!("{generator}; this build has {GENERATOR}")));
    }
    let values = Values::read(kind.name, kind.knobs, head)?;
    if let Some(Value::Whole(rank)) = values.get(RANK.name) {
        Limits::check("rank", *rank, stored.limits.rank)?;
    }
    let sites: Result<Vec<Site>> = stored.places.iter().map(|(place, _)| lowrank::site(*place)).collect();
    let settings = Settings { values, seed: head.integer("seed")? };
    let (layout, of) = F::make(settings, &sites?, stored.base)?;
    file::check_canary(head, &canary(&of, &layout))?;
    let params = stored.params(&of.parts(&layout).0, |part, out| of.start(&layout, part, out))?;
    Ok(Box::new(LowRank::new(layout, params, of)))
}

/// What its file says beside places and parameters.
pub fn record<F: Settled>(of: &F, layout: &Layout, head: &mut Head) -> Vec<(&'static str, Vec<u8>)> {
    file::set_places(head, &layout.places());
    of.settings().values.write(head);
    head.set("seed", of.settings().seed).set("generator", GENERATOR);
    file::set_canary(head, &canary(of, layout));
    Vec::new()
}

/// BLAKE3 of the first words of a stream of each site: another generator is found out before anything is drawn.
fn canary<F: Settled>(of: &F, layout: &Layout) -> [u8; 32] {
    let mut hash = blake3::Hasher::new();
    for slot in layout.slots() {
        of.settings().stream(&slot.site, F::KIND.name).words(0, 4, |_, words| {
            words.iter().for_each(|w| _ = hash.update(&w.to_le_bytes()));
        });
    }
    *hash.finalize().as_bytes()
}
