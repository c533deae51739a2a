//! Sharing a budget out over the depth of a model: the first blocks, the last, the middle or the ends get more.

use crate::error::{Error, Result};
use crate::knob::{Domain, Knob};
use std::prelude::v1::*;

/// How the ranks of all blocks are shared out.
pub static PROFILE: Knob = Knob {
    name: "profile",
    about: "How ranks are shared out over the blocks; their mean stays the rank",
    metavar: "NAME",
    domain: Domain::Word(|| PROFILES.iter().map(|p| p.name).collect()),
};

/// One row of [`PROFILES`].
#[derive(Clone, Copy)]
pub struct Profile {
    /// Its name.
    pub name: &'static str,
    /// The weight of block `layer` of `layers`, at least 1.
    weight: fn(usize, usize) -> usize,
}

/// Every profile. Weights are 1 to 4, by the quarters of the depth or of the way between an end and the middle.
pub static PROFILES: &[Profile] = &[
    Profile::UNIFORM,
    Profile { name: "increasing", weight: rising },
    Profile { name: "decreasing", weight: |layer, layers| rising(layers - 1 - layer, layers) },
    Profile { name: "hourglass", weight: |layer, layers| 5 - middle(layer, layers) },
    Profile { name: "diamond", weight: middle },
];

fn rising(layer: usize, layers: usize) -> usize {
    1 + 4 * layer / layers
}

fn middle(layer: usize, layers: usize) -> usize {
    1 + 4 * layer.min(layers - 1 - layer) / layers.div_ceil(2)
}

impl Profile {
    /// The same for every block.
    pub const UNIFORM: Profile = Profile { name: "uniform", weight: |_, _| 1 };

    /// # Errors
    /// `Unsupported` if this build does not know it.
    pub fn by_name(name: &str) -> Result<Profile> {
        PROFILES.iter().find(|p| p.name == name).copied().ok_or_else(|| Error::unsupported("profile", name))
    }

    /// What block `layer` of `layers` gets of `total`: its part by weight, rounded down, and one more if its remainder is
    /// among the largest, or is as large and its block lower. So the parts of all blocks sum to `total`.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn share(&self, layer: usize, layers: usize, total: usize) -> usize {
        assert!(layer < layers, "block {layer} of {layers}");
        let weight = |layer: usize| (self.weight)(layer, layers) as u128;
        let sum: u128 = (0..layers).map(weight).sum();
        let product = |layer: usize| total as u128 * weight(layer);
        let left = total as u128 - (0..layers).map(|layer| product(layer) / sum).sum::<u128>();
        let own = product(layer) % sum;
        let before = (0..layers).filter(|&other| {
            let theirs = product(other) % sum;
            theirs > own || theirs == own && other < layer
        });
        (product(layer) / sum) as usize + usize::from((before.count() as u128) < left)
    }
}
