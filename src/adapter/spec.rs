//! The specification of a new adapter: its kind, where it attaches, and the settings of its kind.

use super::lowrank::{Layout, Slot};
use super::profile::{PROFILE, Profile};
use super::{Base, Kind, MAX_RANK, Site};
use crate::error::{Error, Result};
use crate::knob::{Domain, Knob, Setting, Value, Values, resolve};
use crate::role::Role;
use std::prelude::v1::*;

/// Rank of the change; also at most the smaller side of every layer.
pub static RANK: Knob = Knob {
    name: "rank",
    about: "Rank of the change",
    metavar: "R",
    domain: Domain::Whole { low: 1, high: MAX_RANK as u64 },
};

/// Numerator of the factor `s`.
pub static ALPHA: Knob = Knob {
    name: "alpha",
    about: "Strength of the change: it is multiplied by A / R",
    metavar: "A",
    domain: Domain::Real { low: 1e-6, high: 1e6 },
};

/// `s = alpha / √rank` instead of `alpha / rank` (arXiv:2312.03732).
pub static STABILISED: Knob =
    Knob { name: "rank stabilised", about: "Multiply by A / √R instead", metavar: "", domain: Domain::Switch };

/// Blocks in a row that share coefficients.
pub static SHARE: Knob = Knob {
    name: "share",
    about: "Blocks in a row that share the coefficients of each layer; their bases differ",
    metavar: "N",
    domain: Domain::Whole { low: 1, high: 65_536 },
};

pub(super) const USUAL_RANK: Setting = Setting::whole(&RANK, 8);
pub(super) const USUAL_ALPHA: Setting = Setting::real(&ALPHA, 16.0);
pub(super) const UNSTABILISED: Setting = Setting::off(&STABILISED);

/// The settings of every low-rank kind.
pub(super) static LOW_RANK: [Setting; 3] = [USUAL_RANK, USUAL_ALPHA, UNSTABILISED];

/// The specification of a new adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// A name of [`super::KINDS`], or [`Spec::AUTO`] where a size will tell.
    pub kind: String,
    /// The linear layers; empty for kinds with other places.
    pub targets: Vec<Role>,
    /// The blocks; all if `None`.
    pub layers: Option<Vec<usize>>,
    /// Values that differ from the defaults of its kind, [`Kind::knobs`].
    pub values: Values,
    /// The seed of all random values.
    pub seed: u64,
}

impl Default for Spec {
    fn default() -> Self {
        Spec::new("lora")
    }
}

impl Spec {
    /// The kind that [`super::budget::fit`] chooses for a size.
    pub const AUTO: &str = "auto";

    /// An adapter of that kind with its default targets and settings.
    pub fn new(kind: &str) -> Spec {
        let targets = Kind::by_name(kind).map_or(&[][..], |row| row.targets).to_vec();
        Spec { kind: kind.into(), targets, layers: None, values: Values::new(), seed: 0 }
    }

    /// This specification with a setting changed.
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Spec {
        self.values.set(name, value);
        self
    }

    /// All settings of its kind.
    ///
    /// # Errors
    /// `Unsupported` for an unknown kind; `Invalid` for a setting that cannot be used or that the kind does not have.
    pub fn values(&self) -> Result<Values> {
        resolve(&self.kind, Kind::by_name(&self.kind)?.knobs, &self.values)
    }

    /// The places where it would attach to `base`.
    ///
    /// # Errors
    /// Those of [`Spec::values`]; `Invalid` for settings that cannot be used, naming them; `Mismatch` if `base` lacks a
    /// layer.
    pub fn layout(&self, base: &Base) -> Result<Layout> {
        let values = self.values()?;
        let (rank, alpha) = (values.whole(RANK.name) as usize, values.real(ALPHA.name) as f32);
        let stabilised = values.switch(STABILISED.name);
        let blocks = self.blocks(base)?;
        let profile = match values.get(PROFILE.name) {
            Some(_) => Profile::by_name(values.word(PROFILE.name))?,
            None => Profile::UNIFORM,
        };
        let rank_of = |site: &Site| {
            let at = blocks.binary_search(&site.layer).unwrap_or(0);
            profile.share(at, blocks.len(), rank * blocks.len())
        };
        // A block may have no part of a small total.
        let sites = self.sites(base)?.into_iter().map(|site| (site, rank_of(&site))).filter(|(_, rank)| *rank > 0);
        let slot = |(site, rank)| Slot::new(site, base, rank, alpha, stabilised);
        Ok(Layout::new(sites.map(slot).collect::<Result<_>>()?, stabilised))
    }

    /// Its blocks, sorted.
    ///
    /// # Errors
    /// `Invalid` if `base` has no such block.
    pub fn blocks(&self, base: &Base) -> Result<Vec<usize>> {
        let mut layers = self.layers.clone().unwrap_or((0..base.layers()).collect());
        layers.sort();
        layers.dedup();
        if layers.last().is_none_or(|last| *last >= base.layers()) {
            return Err(Error::invalid("layers", format!("{layers:?} of {} there are", base.layers())));
        }
        Ok(layers)
    }

    /// Its linear layers, block by block.
    ///
    /// # Errors
    /// `Invalid` for settings that cannot be used, naming them.
    pub fn sites(&self, base: &Base) -> Result<Vec<Site>> {
        let layers = self.blocks(base)?;
        let mut targets = self.targets.clone();
        targets.sort();
        targets.dedup();
        if targets.is_empty() {
            return Err(Error::invalid("targets", "none named"));
        }
        if let Some(role) = targets.iter().find(|role| role.row().kind != crate::role::TensorKind::Matrix) {
            return Err(Error::invalid("targets", format!("{} is no linear layer", role.row().short)));
        }
        // Blocks differ in their layers: a target need not be in each. Of the lists that name what any block may have, it need
        // not be in one.
        let there = |site: &Site| base.shapes[site.layer][site.role].is_some();
        let of = |role: Role| layers.iter().map(move |&layer| Site { layer, role });
        let usual = Kind::by_name(&self.kind).is_ok_and(|kind| kind.targets == targets)
            || Role::LINEAR.iter().all(|role| targets.contains(role));
        let lacks = |role: &&Role| !of(**role).any(|site| there(&site));
        let first = targets.iter().find(lacks).filter(|_| !usual || targets.iter().all(|role| lacks(&role)));
        if let Some(&role) = first {
            base.shape(Site { layer: layers[0], role })?;
        }
        let site = |layer| targets.iter().map(move |&role| Site { layer, role });
        Ok(layers.iter().flat_map(|&layer| site(layer)).filter(there).collect())
    }

    /// Those of `blocks` that have attention.
    ///
    /// # Errors
    /// `Invalid` if none has.
    pub fn attending(&self, blocks: Vec<usize>, base: &Base) -> Result<Vec<usize>> {
        let found: Vec<usize> = blocks.into_iter().filter(|layer| base.shapes[*layer].heads.q > 0).collect();
        if found.is_empty() {
            return Err(Error::invalid("layers", "none of them has attention"));
        }
        Ok(found)
    }
}
